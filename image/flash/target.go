package flash

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/hardware/layout"
)

// Target is a block device or a file, opened for writing.
type Target struct {
	*os.File
	size   int64
	blank  bool
	device bool
	direct *os.File
}

var _ Medium = (*Target)(nil)

// OpenTarget opens a block device for itself alone (O_EXCL: it fails while anybody else uses it or a partition of it), or a
// file as if it were a drive. A file that is not there or empty becomes as large as the image.
func OpenTarget(path string, size int64) (*Target, error) {
	fi, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	t := &Target{}
	flags := os.O_RDWR | os.O_CREATE
	switch {
	case err != nil:
	case fi.Mode()&os.ModeDevice != 0 && fi.Mode()&os.ModeCharDevice == 0:
		t.device = true
		flags = os.O_RDWR | os.O_EXCL
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("%s is neither a drive nor a file", path)
	}
	if t.File, err = os.OpenFile(path, flags, 0o600); err != nil {
		return nil, err
	}
	if n, err := unix.IoctlGetInt(int(t.Fd()), unix.BLKSSZGET); t.device && err == nil && n != layout.SectorSize {
		t.Close()
		return nil, fmt.Errorf("%s counts in sectors of %d bytes, and Croft's images in %d: use another drive or another USB adapter", path, n, layout.SectorSize)
	}
	// The end of a block device is its size, as of a file.
	if t.size, err = t.Seek(0, io.SeekEnd); err != nil {
		t.Close()
		return nil, err
	}
	if !t.device && t.size == 0 {
		t.size, t.blank = size, true
		if err := t.Truncate(size); err != nil {
			t.Close()
			return nil, err
		}
	}
	return t, nil
}

// Size is the drive's, in bytes.
func (t *Target) Size() int64 { return t.size }

// Blank says that the target is a file that was just made.
func (t *Target) Blank() bool { return t.blank }

// Flush waits until what was written there is on its way to the drive, so that progress tells of the drive and not of memory.
// Errors come back from Sync.
func (t *Target) Flush(off, n int64) {
	unix.SyncFileRange(int(t.Fd()), off, n, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}

// Ioctls of linux/fs.h.
const (
	blkRRPart = 0x125f // read the partition table again
	blkFlsBuf = 0x1261 // write and drop the buffers
)

func (t *Target) ioctl(req uintptr) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, t.Fd(), req, uintptr(unsafe.Pointer(nil))); e != 0 {
		return e
	}
	return nil
}

// Uncached drops what is cached and opens the target once more with O_DIRECT, or where the file system has no such thing (tmpfs
// of old) without.
func (t *Target) Uncached() (io.ReaderAt, error) {
	if t.device {
		if err := t.ioctl(blkFlsBuf); err != nil {
			return nil, fmt.Errorf("drop the cache of %s: %w", t.Name(), err)
		}
	}
	if err := unix.Fadvise(int(t.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, fmt.Errorf("drop the cache of %s: %w", t.Name(), err)
	}
	var err error
	t.direct, err = os.OpenFile(t.Name(), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil && !t.device && errors.Is(err, unix.EINVAL) {
		return t.File, nil
	}
	return t.direct, err
}

// RereadPartitions lets the kernel find the new partitions. Where it can't, they come when the drive is plugged in again.
func (t *Target) RereadPartitions() {
	if t.device {
		t.ioctl(blkRRPart)
	}
}

// Close closes the target.
func (t *Target) Close() error {
	if t.direct != nil {
		t.direct.Close()
	}
	return t.File.Close()
}
