// Package watchdog drives the board's hardware watchdog, which restarts a box that hangs.
//
// It speaks linux/watchdog.h through /dev/watchdog. The device is kept open, so that a crash of this process ends
// in a restart too.
package watchdog

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watchdog is an armed hardware watchdog.
type Watchdog struct {
	f       *os.File
	Name    string        // driver, such as "i6300ESB timer"
	Timeout time.Duration // it restarts the box when this long has passed since the last Pet
}

// Open arms the watchdog at path, asking for a timeout; the hardware may choose another.
func Open(path string, timeout time.Duration) (*Watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	fd := int(f.Fd())
	w := &Watchdog{f: f}
	if info, err := unix.IoctlGetWatchdogInfo(fd); err == nil {
		w.Name = unix.ByteSliceToString(info.Identity[:])
	}
	secs := int(timeout / time.Second)
	if err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, secs); err != nil {
		if s, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT); err == nil {
			secs = s
		}
	} else if s, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT); err == nil {
		secs = s
	}
	w.Timeout = time.Duration(secs) * time.Second
	return w, nil
}

// Pet tells the hardware that all is well.
func (w *Watchdog) Pet() error {
	if err := unix.IoctlWatchdogKeepalive(int(w.f.Fd())); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return nil
}

// Disarm stops the watchdog, for an orderly end (the magic close of linux/watchdog.h). Hardware that can't be
// stopped restarts the box when its timeout has passed.
func (w *Watchdog) Disarm() error {
	if _, err := w.f.Write([]byte("V")); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return w.f.Close()
}
