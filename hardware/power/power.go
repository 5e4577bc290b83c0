// Package power restarts the box, into the other slot once where the firmware is asked by way of it, switches it off, and hears its
// power button.
//
// Sources: reboot(2), linux/input.h. A restart is always a real one of the whole machine, never kexec, so that
// firmware and boot loader take part.
//
// Limits: what is not on the media yet is lost; the caller sees to that, for a drive that hangs would hang the end too.
package power

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Off switches the machine off, or halts it where that can't be done.
func Off() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	return nil
}

// Restart restarts the machine.
func Restart() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	return nil
}

// tryArgument is what a Raspberry Pi's firmware takes for "start once from the other partition" (its documentation, "fail-safe OS
// updates"): partition 0, which stands for the one that autoboot.txt names, and the flag.
const tryArgument = "0 tryboot"

// RestartTry restarts a Raspberry Pi so that its firmware tries the partition that autoboot.txt names for trials, once.
func RestartTry() error {
	return restartWith(tryArgument, func(arg *byte) error {
		_, _, errno := unix.Syscall6(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2,
			unix.LINUX_REBOOT_CMD_RESTART2, uintptr(unsafe.Pointer(arg)), 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// restartWith calls reboot with a string that ends with NUL, as LINUX_REBOOT_CMD_RESTART2 wants it.
func restartWith(arg string, reboot func(*byte) error) error {
	p, err := unix.BytePtrFromString(arg)
	if err == nil {
		err = reboot(p)
	}
	if err != nil {
		return fmt.Errorf("restart with %q: %w", arg, err)
	}
	return nil
}

const (
	evKey    = 0x01
	keyPower = 116
)

// Button calls pressed whenever the power button is pressed, until ctx ends. It returns the number of devices that
// can be one; with none, it returns at once.
func Button(ctx context.Context, sys string, log *slog.Logger, pressed func()) int {
	events, _ := filepath.Glob(filepath.Join(sys, "class/input/event*"))
	n := 0
	for _, e := range events {
		if !hasKey(filepath.Join(e, "device/capabilities/key"), keyPower) {
			continue
		}
		f, err := os.Open("/dev/input/" + filepath.Base(e))
		if err != nil {
			log.Warn("power button", "err", err)
			continue
		}
		n++
		context.AfterFunc(ctx, func() { f.Close() })
		go watch(f, pressed)
	}
	return n
}

// watch reads struct input_event: two words of time, type, code, value.
func watch(f *os.File, pressed func()) {
	const size = 24
	buf := make([]byte, size*16)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for ; n >= size; n -= size {
			ev := buf[n-size:]
			if binary.NativeEndian.Uint16(ev[16:]) == evKey && binary.NativeEndian.Uint16(ev[18:]) == keyPower &&
				binary.NativeEndian.Uint32(ev[20:]) == 1 {
				pressed()
			}
		}
	}
}

// hasKey tells whether bit key is set in a sysfs bitmap: hexadecimal words of 64 bits, the highest first.
func hasKey(path string, key int) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	words := strings.Fields(string(b))
	i := len(words) - 1 - key/64
	if i < 0 {
		return false
	}
	w, err := strconv.ParseUint(words[i], 16, 64)
	return err == nil && w&(1<<(key%64)) != 0
}
