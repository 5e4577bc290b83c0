package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// buildRoot makes a root file system of its own for the process and moves into it (pivot_root(2)): the command,
// what was granted, /proc of the own pid namespace, five devices, an empty /sys and a private /tmp. All of it is
// read-only, nosuid, nodev and noexec but for what must not be (mount_setattr(2)).
func (s *Spec) buildRoot() error {
	unix.Umask(0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach mounts from the box's: %w", err)
	}
	if err := unix.Mount("sandbox", s.Root, "tmpfs", unix.MS_NOSUID, "mode=0755,size=1m,nr_inodes=1024"); err != nil {
		return fmt.Errorf("mount a root on %s: %w", s.Root, err)
	}
	for _, m := range []struct {
		path, kind, data string
		flags            uintptr
	}{
		{"/tmp", "tmpfs", fmt.Sprintf("mode=1777,size=%d,nr_inodes=16384", max(s.TmpSize, 1<<20)), unix.MS_NODEV},
		{"/dev", "tmpfs", "mode=0755,size=64k,nr_inodes=16", 0},
		{"/sys", "tmpfs", "mode=0755,size=64k,nr_inodes=16", unix.MS_NODEV},
		{"/proc", "proc", "subset=pid,hidepid=2", unix.MS_NODEV},
	} {
		if err := os.MkdirAll(s.Root+m.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("sandbox", s.Root+m.path, m.kind, m.flags|unix.MS_NOSUID|unix.MS_NOEXEC, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		if err := unix.Mknod(s.Root+"/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}

	optional := append(append([]string(nil), s.ReadOnly...), s.Sockets...)
	for _, p := range optional {
		if err := s.show(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, p := range append([]string{s.Argv[0]}, s.Writable...) {
		if err := s.show(p); err != nil {
			return err
		}
	}

	const sealed = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if err := setattr(s.Root, unix.AT_RECURSIVE, sealed, 0); err != nil {
		return err
	}
	for _, p := range append([]string{"/tmp"}, s.Writable...) {
		if err := setattr(s.Root+p, 0, 0, unix.MOUNT_ATTR_RDONLY); err != nil {
			return err
		}
	}
	if err := setattr(s.Root+"/dev", 0, 0, unix.MOUNT_ATTR_NODEV); err != nil {
		return err
	}
	if err := setattr(s.Root+s.Argv[0], 0, 0, unix.MOUNT_ATTR_NOEXEC); err != nil {
		return err
	}
	unix.Umask(0o022)

	if err := unix.Chdir(s.Root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the box's root: %w", err)
	}
	return unix.Chdir("/")
}

// show makes a path of the box visible at the same path. A symlink is copied, and what it points to is shown: the
// directory if that is one below the sockets' (a file there is replaced by rename, which a mount would not follow).
func (s *Spec) show(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	at := s.Root + path
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, at); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("show %s: %w", path, err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		if shared := filepath.Dir(target); strings.HasPrefix(shared, filepath.Dir(s.Root)+"/") {
			target = shared
		}
		return s.show(target)
	case fi.IsDir():
		err = os.MkdirAll(at, 0o755)
	default:
		err = os.WriteFile(at, nil, 0o644)
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	if err := unix.Mount(path, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	return nil
}

func setattr(path string, flags uint, set, clear uint64) error {
	err := unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: set, Attr_clr: clear})
	if err != nil {
		return fmt.Errorf("set mount attributes of %s: %w", path, err)
	}
	return nil
}
