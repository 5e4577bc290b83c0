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

// ErrOther is that a drive is not, or no longer, the one that was looked at.
var ErrOther = errors.New("another drive is there than a moment ago")

// Open opens the drive d, which was looked at before, for itself alone (O_EXCL: it fails while anybody else uses it or a
// partition of it). If meanwhile another drive, or another card in the same slot, has taken its place, it fails with ErrOther.
func (h Host) Open(d Drive) (*Target, error) {
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return nil, err
	}
	t := &Target{File: f, device: true}
	if err := h.isStill(d, t); err != nil {
		t.Close()
		return nil, err
	}
	if n, err := unix.IoctlGetInt(int(t.Fd()), unix.BLKSSZGET); err == nil && n != layout.SectorSize {
		t.Close()
		return nil, fmt.Errorf("%s counts in sectors of %d bytes, and Croft's images in %d: use another drive or another USB adapter", d.Path, n, layout.SectorSize)
	}
	if err := t.measure(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// isStill looks at the drive once more: its name and number stay its own for as long as t has it open.
func (h Host) isStill(d Drive, t *Target) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.Fd()), &st); err != nil {
		return err
	}
	now, err := h.Drive(d.Path)
	if err != nil || !now.Same(&d) || st.Mode&unix.S_IFMT != unix.S_IFBLK || numberOf(&st) != d.Number {
		return fmt.Errorf("%s: %w", d.Path, ErrOther)
	}
	return nil
}

// OpenFile opens a file as if it were a drive. One that is not there or empty becomes as large as the image.
func OpenFile(path string, size int64) (*Target, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	t := &Target{File: f}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		t.Close()
		return nil, fmt.Errorf("%s is no file", path)
	}
	err = t.measure()
	if err == nil && t.size == 0 {
		t.size, t.blank = size, true
		err = t.Truncate(size)
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// measure takes the end of the block device or file for its size.
func (t *Target) measure() (err error) {
	t.size, err = t.Seek(0, io.SeekEnd)
	return err
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
	// By its descriptor (proc(5)): the name may be another's by now.
	t.direct, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", t.Fd()), os.O_RDONLY|unix.O_DIRECT, 0)
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
