package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Superblock is what Croft needs of an ext4 superblock.
type Superblock struct {
	UUID      string
	Blocks    uint64
	BlockSize int64 // bytes
	PerGroup  uint32
	Errors    bool // the kernel recorded errors in this file system
	Clean     bool // unmounted in order
}

// Errors that say what is wrong with a data partition.
var (
	ErrNotExt4 = errors.New("there is no ext4 file system here")
	ErrDamaged = errors.New("the file system is damaged")
)

// ReadSuperblock reads and verifies the primary superblock at the start of r.
func ReadSuperblock(r io.ReaderAt) (Superblock, error) { return readSuperblock(r, 1024) }

func readSuperblock(r io.ReaderAt, off int64) (Superblock, error) {
	b := make([]byte, 1024)
	if _, err := r.ReadAt(b, off); err != nil {
		return Superblock{}, fmt.Errorf("superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(b[0x38:]) != 0xef53 {
		return Superblock{}, ErrNotExt4
	}
	const roCompatMetadataCsum = 0x400
	if le.Uint32(b[0x64:])&roCompatMetadataCsum != 0 {
		// crc32c as the kernel computes it: no final inversion.
		if sum := ^crc32.Checksum(b[:0x3fc], crc32.MakeTable(crc32.Castagnoli)); sum != le.Uint32(b[0x3fc:]) {
			return Superblock{}, fmt.Errorf("%w: superblock checksum", ErrDamaged)
		}
	}
	s := Superblock{
		UUID:     FormatUUID([16]byte(b[0x68:0x78])),
		Blocks:   uint64(le.Uint32(b[0x4:])),
		PerGroup: le.Uint32(b[0x20:]),
	}
	if le.Uint32(b[0x60:])&0x80 != 0 { // incompat 64bit
		s.Blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	if shift := le.Uint32(b[0x18:]); shift <= 6 {
		s.BlockSize = 1024 << shift
	} else {
		return Superblock{}, fmt.Errorf("%w: block size", ErrDamaged)
	}
	state := le.Uint16(b[0x3a:])
	s.Clean, s.Errors = state&1 != 0, state&2 != 0
	if s.Blocks == 0 || s.PerGroup == 0 {
		return Superblock{}, fmt.Errorf("%w: empty geometry", ErrDamaged)
	}
	return s, nil
}

// Check reads the file system at path without changing it: the superblock and its copies, the size against the
// partition's, and every block of the partition, since a card that is dying shows itself there. It returns
// sentences; ok means nothing was found. progress is called with 0 to 1.
func Check(ctx context.Context, path string, size int64, progress func(float64)) (ok bool, findings []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, nil, fmt.Errorf("check: %w", err)
	}
	defer f.Close()
	ok = true
	bad := func(format string, args ...any) {
		ok = false
		findings = append(findings, fmt.Sprintf(format, args...))
	}
	sb, err := ReadSuperblock(f)
	if err != nil {
		bad("The start of the data partition is damaged: %v.", err)
		if sb, err = readSuperblock(f, 32768*4096); err == nil {
			findings = append(findings, "A copy of the start is intact, so the data can probably be repaired on a computer with e2fsck -b 32768.")
		}
	}
	if err == nil {
		if sb.Blocks > uint64(size/sb.BlockSize) {
			bad("The file system is larger (%d blocks of %d bytes) than its partition (%d bytes).", sb.Blocks, sb.BlockSize, size)
		}
		if sb.Errors {
			bad("The box recorded errors in the file system while it ran.")
		}
		if !sb.Clean {
			findings = append(findings, "The box was not shut down in order the last time; its journal puts that right.")
		}
	}
	unreadable := int64(0)
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return false, findings, err
		}
		if _, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off); err != nil {
			unreadable++
			if unreadable == 1 {
				bad("A part of the medium cannot be read, first at %d MB: %v.", off>>20, err)
			}
		}
		if off%(64<<20) == 0 {
			unix.Fadvise(int(f.Fd()), 0, off, unix.FADV_DONTNEED)
			progress(float64(off) / float64(size))
		}
	}
	if unreadable > 1 {
		findings = append(findings, fmt.Sprintf("%d parts of 1 MB cannot be read. The medium is probably worn out.", unreadable))
	}
	if ok {
		findings = append(findings, "Every part of the data partition can be read.")
	}
	progress(1)
	return ok, findings, nil
}

// Mount mounts the ext4 file system at source on target.
func Mount(source, target string) error {
	err := unix.Mount(source, target, "ext4", unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID, "errors=remount-ro")
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// GrowFS grows the ext4 file system mounted at target to size bytes (EXT4_IOC_RESIZE_FS, ioctl_ext4).
func GrowFS(target string, size int64) error {
	f, err := os.Open(target)
	if err != nil {
		return fmt.Errorf("grow the file system: %w", err)
	}
	defer f.Close()
	blocks := uint64(size / blockSize)
	const ext4IocResizeFS = 0x40086610
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4IocResizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return fmt.Errorf("grow the file system to %d bytes: %w", size, e)
	}
	return nil
}

// SetUUID gives the ext4 file system mounted at target a new UUID (EXT4_IOC_SETFSUUID, Linux 6.0).
func SetUUID(target string, uuid [16]byte) error {
	f, err := os.Open(target)
	if err != nil {
		return fmt.Errorf("set the file system's id: %w", err)
	}
	defer f.Close()
	arg := struct {
		length, flags uint32
		uuid          [16]byte
	}{length: 16, uuid: uuid}
	const ext4IocSetFSUUID = 0x4008662c
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4IocSetFSUUID, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return fmt.Errorf("set the file system's id: %w", e)
	}
	return nil
}

// ErrorCount returns how many errors the kernel has recorded in the ext4 file system on a mounted partition since it was
// last repaired, in earlier starts too (Documentation/ABI/testing/sysfs-fs-ext4). sys is where sysfs is mounted.
func ErrorCount(sys string, p Partition) int64 {
	return readInt(filepath.Join(sys, "fs/ext4", p.Name, "errors_count"))
}

// Usage returns the size and the free bytes of the file system mounted at target, and whether it is read-only.
func Usage(target string) (size, free int64, readOnly bool, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return 0, 0, false, fmt.Errorf("statfs %s: %w", target, err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, st.Flags&unix.ST_RDONLY != 0, nil
}
