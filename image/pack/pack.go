// Package pack writes the parts of a disk image so that the same input gives the same bytes: partition tables, FAT32 volumes,
// the squashfs root, sparse copies and the compressed image.
//
// The GPT comes from go-diskfs, the MBR with its extended boot records is written here (go-diskfs knows no logical partitions).
// File systems come from the tools that define them, mkfs.fat, mcopy and mksquashfs: go-diskfs 1.9.4 writes
// FAT32 that dosfsck rejects (".." of the root's folders) and refuses a symbolic link that dangles at build time. So
// the bytes depend on those tools' versions too; reproduce an image with the same Debian release.
package pack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// run runs a tool with a fixed locale and time zone and without SOURCE_DATE_EPOCH, plus env.
func run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	base := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "SOURCE_DATE_EPOCH=") || strings.HasPrefix(kv, "MTOOLS") || strings.HasPrefix(kv, "LC_")
	})
	cmd.Env = append(base, append([]string{"LC_ALL=C", "TZ=UTC"}, env...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Stamp gives every file under dir the same time and modes that do not depend on the builder's umask: 0755 for folders and
// for files that anyone may execute, 0644 for the rest.
func Stamp(dir string, t time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(t.UnixNano()), unix.NsecToTimespec(t.UnixNano())}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&os.ModeSymlink == 0 {
			fi, err := d.Info()
			if err != nil {
				return err
			}
			mode := os.FileMode(0o644)
			if fi.IsDir() || fi.Mode()&0o111 != 0 {
				mode = 0o755
			}
			if err := os.Chmod(path, mode); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return fmt.Errorf("stamp %s: %w", dir, err)
	}
	return nil
}

// Squashfs writes the tree at dir as an uncompressed squashfs 4.0 to path, all owned by root and dated t. The
// superblock names zlib, the one compressor that every kernel of ours knows. Uncompressed, because a binary patch between
// two releases is then a twentieth of the size, and transport compresses anyway.
func Squashfs(ctx context.Context, dir, path string, t time.Time) error {
	if err := Stamp(dir, t); err != nil {
		return err
	}
	epoch := strconv.FormatInt(t.Unix(), 10)
	return run(ctx, "", nil, "mksquashfs", dir, path, "-quiet", "-no-progress", "-noappend", "-no-xattrs", "-all-root",
		"-comp", "gzip", "-noI", "-noD", "-noF", "-b", "131072", "-mkfs-time", epoch, "-all-time", epoch)
}

// FAT is a FAT32 volume.
type FAT struct {
	Label   string // at most 11 characters, upper case
	ID      uint32 // volume serial number
	Size    int64  // bytes
	Cluster int64  // bytes per cluster; Size/Cluster must give at least 65,525 clusters
	Start   int64  // bytes from the start of the medium, for the "hidden sectors" field
}

// WriteFAT writes a volume that holds the tree at dir to path, with files in the order of their names, each in contiguous
// clusters of its own.
func WriteFAT(ctx context.Context, v FAT, dir, path string, t time.Time) error {
	if err := Stamp(dir, t); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(path, v.Size); err != nil {
		return err
	}
	err := run(ctx, "", nil, "mkfs.fat", "--invariant", "-F", "32", "-S", "512", "-s", strconv.FormatInt(v.Cluster/512, 10),
		"-n", v.Label, "-i", fmt.Sprintf("%08x", v.ID), "-h", strconv.FormatInt(v.Start/512, 10), path)
	if err != nil {
		return err
	}
	ents, err := os.ReadDir(dir)
	if err != nil || len(ents) == 0 {
		return err
	}
	args := []string{"-s", "-p", "-m", "-Q", "-i", path}
	for _, e := range ents {
		args = append(args, e.Name())
	}
	env := []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(t.Unix(), 10), "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1"}
	return run(ctx, dir, env, "mcopy", append(args, "::/")...)
}

// CopySparse copies the file at path to off in w, leaving out blocks of zeros: w must hold zeros there already.
func CopySparse(w io.WriterAt, off, size int64, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(f, buf)
		if n > 0 && at+int64(n) > size {
			return fmt.Errorf("%s is larger than its partition of %d bytes", filepath.Base(path), size)
		}
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := w.WriteAt(buf[:n], off+at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
