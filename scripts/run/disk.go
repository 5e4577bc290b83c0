package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"golang.org/x/sys/unix"
)

// diskSize is the size in bytes of the virtual machine's disk, a sparse file.
const diskSize = 4 << 30

// newest returns when the newest file below dir was changed, leaving out what is built or belongs to tools.
func newest(dir string) (time.Time, error) {
	var t time.Time
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a build's own scratch
		}
		if err != nil {
			return err
		}
		if name := e.Name(); e.IsDir() && path != dir && (name[0] == '.' || name == "out" || name == "node_modules") {
			return fs.SkipDir
		}
		if e.IsDir() || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil // gone meanwhile
		}
		if info.ModTime().After(t) {
			t = info.ModTime()
		}
		return nil
	})
	return t, err
}

// outdated reports whether the image is missing or older than the source.
func outdated(image, source string) (bool, error) {
	st, err := os.Stat(image)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	t, err := newest(source)
	return t.After(st.ModTime()), err
}

// prepareDisk makes the virtual machine's disk from the image, or brings the system on it to the image's state and leaves
// the data partition as it is. It returns what it did, in words.
func prepareDisk(image, disk string, fresh bool) (string, error) {
	stamp := disk + ".image"
	now, err := identity(image)
	if err != nil {
		return "", err
	}
	if fresh {
		if err := os.Remove(disk); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	l := layout.UEFI()
	was, err := os.ReadFile(stamp)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	_, err = os.Stat(disk)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := copyRange(image, disk, 0, l.Size); err != nil {
			return "", err
		}
		if err := os.Truncate(disk, diskSize); err != nil {
			return "", err
		}
		return "made a new box", os.WriteFile(stamp, []byte(now), 0o644)
	case err != nil:
		return "", err
	case string(was) == now:
		return "kept the box as it was", nil
	}
	// The layout of a medium never changes, so the data partition stays where it is.
	for _, n := range []int{l.Boot[layout.SlotA], l.Root[layout.SlotA]} {
		p := l.Partition(n)
		if err := copyRange(image, disk, p.Start, p.Size); err != nil {
			return "", err
		}
	}
	return "kept the box's data and replaced its system by the new image", os.WriteFile(stamp, []byte(now), 0o644)
}

// identity tells one build of an image from another.
func identity(image string) (string, error) {
	st, err := os.Stat(image)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes of %s\n", st.Size(), st.ModTime().UTC().Format(time.RFC3339Nano)), nil
}

// copyRange copies n bytes at off from one file to the same place of another, holes as holes.
func copyRange(from, to string, off, n int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := unix.Fallocate(int(out.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
		return fmt.Errorf("make room in %s: %w", to, err)
	}
	for at, end := off, off+n; at < end; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || data >= end { // nothing but a hole follows
			break
		}
		if err != nil {
			return fmt.Errorf("read %s at %d: %w", from, at, err)
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("read %s at %d: %w", from, data, err)
		}
		at = min(hole, end)
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, at-data)); err != nil {
			return fmt.Errorf("copy %s to %s at %d: %w", from, to, data, err)
		}
	}
	return out.Close()
}
