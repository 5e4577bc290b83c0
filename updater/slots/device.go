package slots

import (
	"fmt"
	"io"
	"os"
)

// File is a Device over an open partition, or over a file in its place.
type File struct {
	f      *os.File
	direct *os.File
	size   int64
}

var _ Device = (*File)(nil)

// NewFile makes a Device of a partition. direct is the same one, opened with O_DIRECT; nil reads back through the cache, which is
// for plain files that somebody else flushes.
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
func (d *File) Reread() io.ReaderAt { return d.f }
