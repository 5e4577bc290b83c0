package slots

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is a Device over an open partition, or over a file in its place.
type File struct {
	f      *os.File
	direct *os.File
	size   int64
}

var _ Device = (*File)(nil)

// NewFile makes a Device of a partition. direct is the same one, opened with O_DIRECT. Without it, what the kernel keeps of f is
// dropped before each reading back, as far as the kernel does so.
func NewFile(f, direct *os.File) (*File, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("%w: size of %s: %w", ErrMedium, f.Name(), err)
	}
	return &File{f, direct, size}, nil
}

// ReadAt implements Device.
func (d *File) ReadAt(p []byte, off int64) (int, error) { return d.f.ReadAt(p, off) }

// WriteAt implements Device.
func (d *File) WriteAt(p []byte, off int64) (int, error) { return d.f.WriteAt(p, off) }

// Size implements Device.
func (d *File) Size() int64 { return d.size }

// Sync implements Device.
func (d *File) Sync() error { return d.f.Sync() }

// Reread implements Device.
func (d *File) Reread() io.ReaderAt {
	if d.direct != nil {
		return directReader{d.direct}
	}
	_ = unix.Fadvise(int(d.f.Fd()), 0, 0, unix.FADV_DONTNEED) // advice: it can't be made to
	return d.f
}

// align is what O_DIRECT wants of places, lengths and memory (open(2)): no drive has larger blocks that it can address.
const align = 4096

// directReader reads a file that was opened with O_DIRECT at any place, in any length.
type directReader struct{ f *os.File }

func (d directReader) ReadAt(p []byte, off int64) (int, error) {
	if off%align == 0 && len(p)%align == 0 && len(p) > 0 && uintptr(unsafe.Pointer(&p[0]))%align == 0 {
		return d.f.ReadAt(p, off)
	}
	done := 0
	buf := alignedBuffer(int(min(chunk, (int64(len(p))+2*align-1)/align*align)))
	for done < len(p) {
		at := off + int64(done)
		start := at / align * align
		n, err := d.f.ReadAt(buf, start)
		if int64(n) <= at-start {
			return done, eof(err)
		}
		done += copy(p[done:], buf[at-start:n])
		if n < len(buf) && done < len(p) {
			return done, eof(err)
		}
	}
	return done, nil
}

func eof(err error) error {
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

func alignedBuffer(n int) []byte {
	b := make([]byte, n+align)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) % align)
	return b[skip : skip+n : skip+n]
}

// Window is a partition within a whole image.
type Window struct {
	D          Device
	Start, Len int64 // bytes
}

var _ Device = Window{}

// ReadAt implements Device.
func (w Window) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(w.D, w.Start, w.Len).ReadAt(p, off)
}

// WriteAt implements Device.
func (w Window) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > w.Len {
		return 0, fmt.Errorf("write %d bytes at %d, beyond the %d of a partition", len(p), off, w.Len)
	}
	return w.D.WriteAt(p, w.Start+off)
}

// Size implements Device.
func (w Window) Size() int64 { return w.Len }

// Sync implements Device.
func (w Window) Sync() error { return w.D.Sync() }

// Reread implements Device.
func (w Window) Reread() io.ReaderAt { return io.NewSectionReader(w.D.Reread(), w.Start, w.Len) }
