package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/croft-os/croft/hardware/layout"
)

// Overlay makes a disk at path (qcow2) that starts with the content of the raw image base, which is never written to,
// and is size bytes large, or as large as base if size is 0.
func Overlay(ctx context.Context, base, path string, size int64) (Disk, error) {
	base, err := filepath.Abs(base)
	if err != nil {
		return Disk{}, err
	}
	args := []string{"create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path}
	if size > 0 {
		args = append(args, strconv.FormatInt(size, 10))
	}
	if err := tool(ctx, "qemu-img", args...); err != nil {
		return Disk{}, err
	}
	return Disk{Path: path, Format: "qcow2"}, nil
}

// Flatten writes what is on disk d to a sparse raw file at path. The machine that uses d must have ended.
func Flatten(ctx context.Context, d Disk, path string) error {
	return tool(ctx, "qemu-img", "convert", "-f", d.format(), "-O", "raw", d.Path, path)
}

// Direct makes the kernel of a slot of a raw UEFI image startable without firmware: it copies it to dir and reads its
// command line from its loader entry. The arguments in extra are added.
func Direct(ctx context.Context, image, dir string, slot layout.Slot, extra ...string) (*Kernel, error) {
	esp := layout.UEFI().Partition(layout.UEFI().Boot[slot])
	at := fmt.Sprintf("%s@@%d", image, esp.Start)
	entry := filepath.Join(dir, "entry-"+string(slot)+".conf")
	if err := tool(ctx, "mcopy", "-n", "-i", at, fmt.Sprintf("::/loader/entries/croft-%s.conf", slot), entry); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(entry)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Path: filepath.Join(dir, "vmlinuz-"+string(slot))}
	var linux string
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "linux":
			linux = strings.TrimSpace(value)
		case "options":
			k.Cmdline = strings.TrimSpace(value)
		}
	}
	if linux == "" || k.Cmdline == "" {
		return nil, fmt.Errorf("loader entry of slot %s has no kernel or no options: %q", slot, b)
	}
	if err := tool(ctx, "mcopy", "-n", "-i", at, "::"+linux, k.Path); err != nil {
		return nil, err
	}
	k.Cmdline = strings.Join(append([]string{k.Cmdline}, extra...), " ")
	return k, nil
}

// Steady are kernel arguments for emulated PCs. On a busy machine the kernel now and then measures the emulated processor's clock so
// wrongly that time runs many times too fast, or takes its timer for broken and panics; told so, it takes another clock, and the timer
// as it is.
const Steady = "tsc=unstable no_timer_check"

// Steadied writes to path a copy of a raw UEFI image whose slot A starts with Steady too.
func Steadied(ctx context.Context, image, path string) error {
	dir, err := os.MkdirTemp("", "croft-steady-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	k, err := Direct(ctx, image, dir, layout.SlotA)
	if err != nil {
		return err
	}
	entry := filepath.Join(dir, "entry-a.conf")
	b, err := os.ReadFile(entry)
	if err != nil {
		return err
	}
	// The entry keeps its size, of which most is newlines: updates overwrite it in place.
	b = bytes.Replace(b, []byte(k.Cmdline), []byte(k.Cmdline+" "+Steady), 1)[:len(b)]
	if err := os.WriteFile(entry, b, 0o600); err != nil {
		return err
	}
	if err := tool(ctx, "cp", "--sparse=always", image, path); err != nil {
		return err
	}
	at := fmt.Sprintf("%s@@%d", path, layout.UEFI().Partition(layout.UEFI().First).Start)
	return tool(ctx, "mcopy", "-D", "o", "-i", at, entry, "::/loader/entries/croft-a.conf")
}

// DirectPi does for the Pi's image what the Pi 3's firmware does: it takes kernel, device tree, command line and, for the rescue system,
// the initramfs from a partition that starts, a slot's or the first. The device tree loses what QEMU's raspi3b does not have or do, and
// with it the kernel's driver of the watchdog, which hangs there.
func DirectPi(ctx context.Context, image, dir string, partition int) (*Kernel, error) {
	at := fmt.Sprintf("%s@@%d", image, layout.Pi().Partition(partition).Start)
	k := &Kernel{Path: filepath.Join(dir, "vmlinuz"), DTB: filepath.Join(dir, "bcm2710-rpi-3-b.dtb")}
	fetch := func(name string) error {
		return tool(ctx, "mcopy", "-n", "-i", at, "::/"+name, filepath.Join(dir, name))
	}
	for _, name := range []string{"vmlinuz", "bcm2710-rpi-3-b.dtb", "cmdline.txt", "config.txt"} {
		if err := fetch(name); err != nil {
			return nil, err
		}
	}
	config, err := os.ReadFile(filepath.Join(dir, "config.txt"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(config)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "initramfs" {
			k.Initrd = filepath.Join(dir, f[1])
			if err := fetch(f[1]); err != nil {
				return nil, err
			}
		}
	}
	for _, node := range []string{
		"/soc/mailbox@7e00b840", "/soc/firmware/virtgpio", "/soc/serial@7e201000", "/soc/serial@7e201000/bluetooth",
	} {
		if err := tool(ctx, "fdtput", "-t", "s", k.DTB, node, "status", "disabled"); err != nil {
			return nil, err
		}
	}
	if err := tool(ctx, "fdtput", k.DTB, "/soc/mmc@7e202000", "brcm,force-pio"); err != nil {
		return nil, err
	}
	own, err := exec.CommandContext(ctx, "fdtget", k.DTB, "/chosen", "bootargs").Output()
	if err != nil {
		return nil, fmt.Errorf("kernel arguments of %s: %w", k.DTB, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "cmdline.txt"))
	if err != nil {
		return nil, err
	}
	// The firmware puts the device tree's arguments before the file's, and the console's name for "serial0".
	line := strings.ReplaceAll(strings.TrimSpace(string(b)), "console=serial0,", "console=ttyS0,")
	k.Cmdline = strings.TrimSpace(string(own)) + " " + line + " initcall_blacklist=bcm2835_wdt_driver_init"
	return k, nil
}

// tool runs a foreign program, and gives what it said in the error.
func tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
