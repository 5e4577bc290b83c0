package pack

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Initramfs packs a folder as an initramfs: the "newc" format of cpio (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst), compressed with Zstandard, which all kernels of the boards take
// (CONFIG_RD_ZSTD). All belongs to root, with one time stamp, and modes of 0755 for folders and programs, 0644 for files. Names in
// rename are packed under another name; a console is added, which the kernel opens for /init.
func Initramfs(dir, to string, epoch time.Time, rename map[string]string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	zw, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	n := 0
	var head bytes.Buffer
	entry := func(name string, mode uint32, major, minor int, data []byte) error {
		n++
		head.Reset()
		fmt.Fprintf(&head, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			n, mode, 0, 0, 1, uint32(epoch.Unix()), len(data), 0, 0, major, minor, len(name)+1, 0, name)
		head.Write(make([]byte, -head.Len()&3))
		if _, err := zw.Write(head.Bytes()); err != nil {
			return err
		}
		if _, err := zw.Write(data); err != nil {
			return err
		}
		_, err := zw.Write(make([]byte, -len(data)&3))
		return err
	}
	const folder, file, link, char = 0o040000, 0o100000, 0o120000, 0o020000 // inode(7)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if err := entry(name, folder|0o755, 0, 0, nil); err != nil || name != "dev" {
				return err
			}
			return entry("dev/console", char|0o600, 5, 1, nil)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return entry(name, link|0o777, 0, 0, []byte(target))
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no file", path)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mode := uint32(0o644) // whatever the builder's umask
		if fi.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return entry(cmp.Or(rename[name], name), file|mode, 0, 0, data)
	})
	if err != nil {
		return err
	}
	if err := entry("TRAILER!!!", 0, 0, 0, nil); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	return out.Close()
}
