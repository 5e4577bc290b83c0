package devices

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is an open device. It is what updater/slots calls one.
type Device struct {
	f, direct *os.File // direct is nil where the medium has no O_DIRECT
	size      int64
}

// NewDevice takes over an open device or file, and the same opened with O_DIRECT, or nil.
func NewDevice(f, direct *os.File) (*Device, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return &Device{f: f, direct: direct, size: size}, nil
}

// ReadAt reads through the system's cache.
func (d *Device) ReadAt(p []byte, off int64) (int, error) { return d.f.ReadAt(p, off) }

// WriteAt writes to the cache; Sync brings it to the medium.
func (d *Device) WriteAt(p []byte, off int64) (int, error) { return d.f.WriteAt(p, off) }

// Size is in bytes.
func (d *Device) Size() int64 { return d.size }

// Sync returns when everything written is on the medium, its own cache flushed.
func (d *Device) Sync() error { return d.f.Sync() }

// Close closes the device.
func (d *Device) Close() error {
	err := d.f.Close()
	if d.direct != nil {
		err = errors.Join(err, d.direct.Close())
	}
	return err
}

// Reread reads what is on the medium, past every cache of this machine: with O_DIRECT, or failing that after having told the
// kernel to forget what it has of a part (posix_fadvise(2), POSIX_FADV_DONTNEED), which it does with what has been synced.
// It is for one goroutine at a time.
func (d *Device) Reread() io.ReaderAt {
	if d.direct == nil {
		return forgetful{d.f}
	}
	return &directReader{f: d.direct, size: d.size}
}

// align is what O_DIRECT wants offsets, lengths and buffers to be multiples of: the largest logical sector in use.
const align = 4096

const directChunk = 256 << 10

// directReader reads whole aligned pieces and hands out what was asked for.
type directReader struct {
	f    *os.File
	size int64
	mu   sync.Mutex
	buf  []byte
}

func (r *directReader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buf == nil {
		b := make([]byte, directChunk+align)
		skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (align - 1)
		r.buf = b[skip : skip+directChunk]
	}
	for n < len(p) {
		at := off + int64(n)
		if at >= r.size {
			return n, io.EOF
		}
		start := at &^ (align - 1)
		want := min(directChunk, (int64(len(p)-n)+at-start+align-1)&^(align-1))
		got, err := r.f.ReadAt(r.buf[:want], start)
		if got <= int(at-start) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // the device says that it is larger
			}
			return n, err
		}
		n += copy(p[n:], r.buf[at-start:got])
	}
	return n, nil
}

// forgetful is for media without O_DIRECT.
type forgetful struct{ f *os.File }

func (r forgetful) ReadAt(p []byte, off int64) (int, error) {
	if err := r.f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EROFS) {
		return 0, err
	}
	if err := unix.Fadvise(int(r.f.Fd()), off, int64(len(p)), unix.FADV_DONTNEED); err != nil {
		return 0, fmt.Errorf("read past the cache: %w", err)
	}
	return r.f.ReadAt(p, off)
}
