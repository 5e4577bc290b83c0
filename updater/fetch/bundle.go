package fetch

import (
	"archive/zip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/croft-os/croft/updater/release"
)

// Limits of a bundle.
const (
	maxEntries   = 4096
	maxDirectory = 2 << 20 // bytes of the ZIP file's central directory
)

// bundle is a ZIP file. Its entries are uncompressed, so each of them is a run of bytes.
type bundle struct {
	kind, name string
	r          io.ReaderAt
	files      map[string]run
	closer     io.Closer
	closed     atomic.Bool
}

type run struct{ at, size int64 }

// OpenBundle returns a bundle (docs/release-format.md) of size bytes as a source; closing that closes c, unless it is nil. What is
// no ZIP file, or one that a bundle must not be, is an error that wraps ErrLied. Names that are no paths of a repository are passed
// over. Memory is bounded, whatever the file says.
func OpenBundle(kind, name string, r io.ReaderAt, size int64, c io.Closer) (Source, error) {
	bad := func(format string, a ...any) (Source, error) {
		return nil, fmt.Errorf("%w: %s is no bundle: %w", ErrLied, name, fmt.Errorf(format, a...))
	}
	if err := checkEnd(r, size); err != nil {
		return bad("%w", err)
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return bad("%w", err)
	}
	if len(z.File) > maxEntries {
		return bad("%d entries", len(z.File))
	}
	b := &bundle{kind: kind, name: name, r: r, files: make(map[string]run, len(z.File)), closer: c}
	seen := make(map[string]bool, len(z.File))
	for _, f := range z.File {
		const encrypted = 1
		switch {
		case strings.HasPrefix(f.Name, "/") || strings.ContainsAny(f.Name, "\\\x00:") || hasDots(f.Name):
			return bad("an entry is called %.100q", f.Name)
		case seen[f.Name]:
			return bad("two entries are called %.100q", f.Name)
		case f.Method != zip.Store || f.Flags&encrypted != 0 || f.CompressedSize64 != f.UncompressedSize64:
			return bad("%.100q is compressed or encrypted", f.Name)
		}
		seen[f.Name] = true
		c, limit := Path(f.Name)
		if c == ClassNone {
			continue
		}
		n := int64(f.UncompressedSize64)
		if n < 0 || n > limit {
			return bad("%s has %d bytes", f.Name, f.UncompressedSize64)
		}
		at, err := f.DataOffset()
		if err != nil {
			return bad("%s: %w", f.Name, err)
		}
		if at < 0 || at > size-n {
			return bad("%s lies outside of the file", f.Name)
		}
		b.files[f.Name] = run{at, n}
	}
	if _, ok := b.files[nameMark]; !ok {
		return bad("there is no %s in it", nameMark)
	}
	return b, nil
}

// hasDots tells whether a part of a path is "." or "..".
func hasDots(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

// checkEnd looks at the end of a ZIP file before archive/zip does, which believes what is said there about how much there is to
// read (APPNOTE 6.3.10 section 4.3.16). There is no comment, so that both see the same record, and nothing of ZIP64.
func checkEnd(r io.ReaderAt, size int64) error {
	b := make([]byte, 22)
	if size < int64(len(b)) {
		return fmt.Errorf("%d bytes", size)
	}
	if err := readAt(r, "its end", size-int64(len(b)), b); err != nil {
		return err
	}
	le := binary.LittleEndian
	disk, start, here, entries := le.Uint16(b[4:]), le.Uint16(b[6:]), le.Uint16(b[8:]), le.Uint16(b[10:])
	dir, comment := le.Uint32(b[12:]), le.Uint16(b[20:])
	switch {
	case le.Uint32(b) != 0x06054b50 || comment != 0:
		return fmt.Errorf("no record at its end")
	case disk != 0 || start != 0 || here != entries:
		return fmt.Errorf("it is one of several")
	case entries > maxEntries || dir > maxDirectory:
		return fmt.Errorf("%d entries in %d bytes are too many", entries, dir)
	case le.Uint32(b[16:]) == 1<<32-1:
		return fmt.Errorf("it is a ZIP64 file")
	}
	return nil
}

func (b *bundle) Kind() string { return b.kind }
func (b *bundle) Name() string { return b.name }

func (b *bundle) Close() error {
	if b.closed.Swap(true) || b.closer == nil {
		return nil
	}
	return b.closer.Close()
}

func (b *bundle) find(path string) (run, error) {
	if b.closed.Load() {
		return run{}, ErrClosed
	}
	f, ok := b.files[path]
	if !ok {
		return run{}, notFound(path)
	}
	return f, nil
}

func (b *bundle) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	limit, err := lookUp(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	f, err := b.find(path)
	if err != nil {
		return nil, err
	}
	if f.size > limit {
		return nil, tooLarge(path, limit)
	}
	p := make([]byte, f.size)
	return p, readAt(b.r, path, f.at, p)
}

func (b *bundle) ReadRange(ctx context.Context, path string, off int64, p []byte) error {
	if err := checkRange(ctx, path, off, len(p)); err != nil {
		return err
	}
	f, err := b.find(path)
	if err != nil {
		return err
	}
	if off > f.size-int64(len(p)) {
		return fmt.Errorf("%s has %d bytes, %d at %d are wanted: %w", path, f.size, len(p), off, io.ErrUnexpectedEOF)
	}
	return inPieces(ctx, p, func(at int64, p []byte) error { return readAt(b.r, path, f.at+off+at, p) })
}

// inPieces fills p in pieces, between which ctx is looked at.
func inPieces(ctx context.Context, p []byte, read func(at int64, p []byte) error) error {
	const piece = 256 << 10
	for at := 0; at < len(p); at += piece {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := read(int64(at), p[at:min(at+piece, len(p))]); err != nil {
			return err
		}
	}
	return nil
}

// Boards returns the boards whose releases a bundle describes, as it says itself, in order; nil for other sources.
func Boards(s Source) []string {
	b, ok := s.(*bundle)
	if !ok {
		return nil
	}
	found := map[string]bool{}
	for p := range b.files {
		if target, _, ok := description(p); ok {
			_, board, _, _ := release.ParseTarget(target)
			found[board] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
