package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
)

// SectorSize is the unit in bytes that a disk writes whole or not at all.
const SectorSize = 512

const pageSize = 4096

// MaxSize bounds the size of a disk in bytes: 64 TiB.
const MaxSize = 1 << 46

// ErrRange is returned for an access outside the disk.
var ErrRange = errors.New("outside the disk")

// Device is what the NBD server serves.
type Device interface {
	io.ReaderAt
	// Size is in bytes and does not change.
	Size() int64
	// Write writes p at off. With fua it is durable on return.
	Write(p []byte, off int64, fua bool) error
	// Zero writes n zero bytes at off.
	Zero(off, n int64, fua bool) error
	// Flush makes everything that was written before durable.
	Flush() error
}

// Disk is a sparse disk in memory, perhaps on top of another that it leaves alone. Flush does nothing: all of it is
// as durable as the process. It is safe for concurrent use.
type Disk struct {
	size   int64
	parent *Disk // not written to any more

	mu    sync.RWMutex
	pages map[int64]*[pageSize]byte // by page number; nil is a page of zeroes
}

var _ Device = (*Disk)(nil)

// NewDisk returns a disk of size bytes, all zero.
func NewDisk(size int64) (*Disk, error) {
	if size <= 0 || size > MaxSize || size%SectorSize != 0 {
		return nil, fmt.Errorf("disk of %d bytes: not a multiple of %d up to %d", size, SectorSize, int64(MaxSize))
	}
	return &Disk{size: size, pages: map[int64]*[pageSize]byte{}}, nil
}

// LoadDisk reads a raw disk image into memory; only what is not zero takes memory. The disk is size bytes large, or as
// large as the file if size is 0.
func LoadDisk(path string, size int64) (*Disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size == 0 {
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		size = st.Size()
	}
	d, err := NewDisk(size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := io.ReadFull(f, buf)
		if int64(n) > size-off {
			return nil, fmt.Errorf("%s is larger than %d bytes", path, size)
		}
		if werr := d.Write(buf[:n], off, false); werr != nil {
			return nil, werr
		}
		off += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return d, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
}

// Fork returns a disk with d's content that can be written to without changing d. Nobody may write to d any more.
func (d *Disk) Fork() *Disk {
	return &Disk{size: d.size, parent: d, pages: map[int64]*[pageSize]byte{}}
}

// Size implements Device.
func (d *Disk) Size() int64 { return d.size }

// Flush implements Device.
func (d *Disk) Flush() error { return nil }

func (d *Disk) check(off, n int64) error {
	if off < 0 || n < 0 || off > d.size || n > d.size-off {
		return fmt.Errorf("%d bytes at %d: %w", n, off, ErrRange)
	}
	return nil
}

// page returns page i as it is now; nil means zeroes.
func (d *Disk) page(i int64) *[pageSize]byte {
	for ; d != nil; d = d.parent {
		d.mu.RLock()
		p, ok := d.pages[i]
		d.mu.RUnlock()
		if ok {
			return p
		}
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.size {
		return 0, fmt.Errorf("read at %d: %w", off, ErrRange)
	}
	short := int64(len(p)) > d.size-off
	if short {
		p = p[:d.size-off]
	}
	n := 0
	for n < len(p) {
		i, o := (off+int64(n))/pageSize, (off+int64(n))%pageSize
		l := min(len(p)-n, pageSize-int(o))
		if pg := d.page(i); pg != nil {
			copy(p[n:n+l], pg[o:])
		} else {
			clear(p[n : n+l])
		}
		n += l
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// Write implements Device.
func (d *Disk) Write(p []byte, off int64, _ bool) error {
	if err := d.check(off, int64(len(p))); err != nil {
		return fmt.Errorf("write %w", err)
	}
	for len(p) > 0 {
		i, o := off/pageSize, off%pageSize
		l := min(len(p), pageSize-int(o))
		var pg *[pageSize]byte
		if l == pageSize && allZero(p[:l]) {
			if d.page(i) != nil {
				d.set(i, nil)
			}
		} else {
			pg = new([pageSize]byte)
			if old := d.page(i); old != nil && l < pageSize {
				*pg = *old
			}
			copy(pg[o:], p[:l])
			d.set(i, pg)
		}
		p, off = p[l:], off+int64(l)
	}
	return nil
}

// Zero implements Device.
func (d *Disk) Zero(off, n int64, _ bool) error {
	if err := d.check(off, n); err != nil {
		return fmt.Errorf("zero %w", err)
	}
	var zeroes [pageSize]byte
	for n > 0 {
		l := min(n, pageSize-off%pageSize)
		if err := d.Write(zeroes[:l], off, false); err != nil {
			return err
		}
		off, n = off+l, n-l
	}
	return nil
}

func (d *Disk) set(i int64, pg *[pageSize]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pages[i] = pg
}

// CopyTo writes the n bytes from off on to a new sparse file.
func (d *Disk) CopyTo(path string, off, n int64) error {
	if err := d.check(off, n); err != nil {
		return fmt.Errorf("copy %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(n); err != nil {
		return err
	}
	for _, i := range d.used(off/pageSize, (off+n+pageSize-1)/pageSize) {
		from, to := max(i*pageSize, off), min((i+1)*pageSize, off+n)
		if _, err := f.WriteAt(d.page(i)[from-i*pageSize:to-i*pageSize], from-off); err != nil {
			return err
		}
	}
	return f.Close()
}

// used returns, sorted, the numbers in [from, to) of the pages that are not zeroes.
func (d *Disk) used(from, to int64) []int64 {
	seen := map[int64]bool{}
	for l := d; l != nil; l = l.parent {
		l.mu.RLock()
		for i, pg := range l.pages {
			if _, ok := seen[i]; !ok && i >= from && i < to {
				seen[i] = pg != nil
			}
		}
		l.mu.RUnlock()
	}
	maps.DeleteFunc(seen, func(_ int64, used bool) bool { return !used })
	return slices.Sorted(maps.Keys(seen))
}

func allZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}
