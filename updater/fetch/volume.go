package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/croft-os/croft/hardware/fat"
)

// volumeFolder is where a stick carries the tree of a repository.
const volumeFolder = "croft/"

// volume is the tree of a repository in a folder of a FAT or exFAT volume.
type volume struct {
	kind, name string
	r          io.ReaderAt
	closer     io.Closer
	closed     atomic.Bool

	mu     sync.Mutex
	latest string // the file that was read last: a blob is read in many pieces
	found  fat.File
}

// OpenVolume returns what the FAT or exFAT volume in r has of repositories: the tree in its folder "croft", the bundles of those boards in
// its root folder, in this order. With none it fails with ErrNotFound. The volume may be hostile, and vanish at any time. Closing
// all of the sources closes c.
func OpenVolume(kind, name string, r io.ReaderAt, c io.Closer, boards ...string) ([]Source, error) {
	shared := &sharedCloser{c: c}
	var found []Source
	var errs []error
	if mark, err := fat.ReadFile(r, volumeFolder+nameMark, maxMark); err == nil && isMark(mark) {
		found = append(found, &volume{kind: kind, name: name, r: r, closer: shared})
		shared.n.Add(1)
	} else if err != nil && !errors.Is(err, fat.ErrNotFound) {
		errs = append(errs, err)
	}
	for _, board := range boards {
		file := "croft-" + board + ".zip"
		f, err := fat.Find(r, file)
		if errors.Is(err, fat.ErrNotFound) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s, err := OpenBundle(kind, name+"/"+file, newExtents(r, f), f.Size, shared)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		shared.n.Add(1)
		found = append(found, s)
	}
	if len(found) > 0 {
		return found, nil
	}
	if c != nil {
		c.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("look for updates on %s: %w", name, err)
	}
	return nil, notFound("an update on " + name)
}

// isMark tells whether that is the content of croft-repository.
func isMark(b []byte) bool { return string(b) == Mark || string(b) == Mark+"\n" }

// Mark is what the file croft-repository says, in one line.
const Mark = "croft-repository/1"

// sharedCloser closes when the last of its users has.
type sharedCloser struct {
	c io.Closer
	n atomic.Int32
}

func (s *sharedCloser) Close() error {
	if s.n.Add(-1) == 0 && s.c != nil {
		return s.c.Close()
	}
	return nil
}

func (v *volume) Kind() string { return v.kind }
func (v *volume) Name() string { return v.name }

func (v *volume) Close() error {
	if v.closed.Swap(true) {
		return nil
	}
	return v.closer.Close()
}

// find finds a file's extents.
func (v *volume) find(path string) (fat.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed.Load() {
		return fat.File{}, ErrClosed
	}
	if v.latest == path {
		return v.found, nil
	}
	f, err := fat.Find(v.r, volumeFolder+path)
	switch {
	case errors.Is(err, fat.ErrNotFound):
		return fat.File{}, notFound(path)
	case errors.Is(err, fat.ErrDamaged), errors.Is(err, fat.ErrNotFAT), errors.Is(err, fat.ErrTooLarge):
		return fat.File{}, fmt.Errorf("%w: %w", ErrLied, err)
	case err != nil:
		return fat.File{}, err
	}
	v.latest, v.found = path, f
	return f, nil
}

func (v *volume) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	limit, err := lookUp(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	f, err := v.find(path)
	if err != nil {
		return nil, err
	}
	if f.Size > limit {
		return nil, tooLarge(path, limit)
	}
	p := make([]byte, f.Size)
	return p, readAt(newExtents(v.r, f), path, 0, p)
}

func (v *volume) ReadRange(ctx context.Context, path string, off int64, p []byte) error {
	if err := checkRange(ctx, path, off, len(p)); err != nil {
		return err
	}
	f, err := v.find(path)
	if err != nil {
		return err
	}
	r := newExtents(v.r, f)
	return inPieces(ctx, p, func(at int64, p []byte) error { return readAt(r, path, off+at, p) })
}

// extents reads a file of a volume at any place.
type extents struct {
	r     io.ReaderAt
	size  int64
	list  []fat.Extent
	start []int64 // of each extent, in the file
}

func newExtents(r io.ReaderAt, f fat.File) *extents {
	e := &extents{r: r, size: f.Size, list: f.Extents, start: make([]int64, len(f.Extents))}
	var at int64
	for i, x := range f.Extents {
		e.start[i] = at
		at += x.Length
	}
	return e
}

func (e *extents) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= e.size {
			return n, io.EOF
		}
		i := sort.Search(len(e.start), func(i int) bool { return e.start[i] > at }) - 1
		x, skip := e.list[i], at-e.start[i]
		m := int(min(int64(len(p)-n), x.Length-skip))
		k, err := e.r.ReadAt(p[n:n+m], x.Offset+skip)
		n += k
		if k < m {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // the volume is larger than what it lies on
			}
			return n, err
		}
	}
	return n, nil
}
