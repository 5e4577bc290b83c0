package delta

import (
	"bufio"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	magic      = "BSDIFF40"
	headerSize = len(magic) + 3*8
	window     = 32 << 10 // bytes of the old file in memory, and of each buffer
	page       = 4 << 10  // what the window is aligned to
	// maxPos is how far outside of the old file a position may be, so that sums can't overflow.
	maxPos = 1 << 61
)

// ErrPatch is what Patch fails with, wrapped, where a patch breaks a rule of the format.
var ErrPatch = errors.New("the patch is not valid")

// Patch writes what a patch makes of the old file, front to back, at most limit bytes. The patch may be hostile: the caller has to
// compare the hash of the result. Its errors are those of the three files, and ErrPatch.
func Patch(old io.ReaderAt, oldSize int64, patch io.ReaderAt, patchSize int64, dst io.Writer, limit int64) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrPatch}, args...)...)
	}
	if patchSize < int64(headerSize) {
		return bad("%d bytes", patchSize)
	}
	var header [headerSize]byte
	if err := readAt(patch, header[:], 0); err != nil {
		return fmt.Errorf("read the patch: %w", err)
	}
	controlSize, diffSize, newSize := integer(header[8:]), integer(header[16:]), integer(header[24:])
	body := patchSize - int64(headerSize)
	switch {
	case string(header[:8]) != magic:
		return bad("it starts with %q", header[:8])
	case controlSize < 0 || diffSize < 0 || controlSize > body || diffSize > body-controlSize:
		return bad("blocks of %d and %d bytes in %d", controlSize, diffSize, body)
	case newSize < 0 || newSize > limit:
		return bad("a new file of %d bytes, at most %d are allowed", newSize, limit)
	}
	at := int64(headerSize)
	block := func(name string, size int64) *stream {
		s := &stream{name: name, r: bzip2.NewReader(bufio.NewReaderSize(io.NewSectionReader(patch, at, size), window))}
		at += size
		return s
	}
	control, diff, extra := block("control", controlSize), block("difference", diffSize), block("extra", body-controlSize-diffSize)
	entries := bufio.NewReaderSize(control, page) // of 24 bytes

	out := bufio.NewWriterSize(dst, 2*window)
	from := &oldFile{r: old, size: oldSize, buf: make([]byte, min(window, max(oldSize, 0)))}
	buf := make([]byte, window)
	var pos int64 // in the old file
	for done, n := int64(0), int64(0); done < newSize; n++ {
		// An entry of an encoder makes nine bytes at least; entries that make nothing must not keep the reader busy.
		if n > newSize/8+16 {
			return bad("more than %d control entries", n)
		}
		var entry [24]byte
		if _, err := io.ReadFull(entries, entry[:]); err != nil {
			return control.failed(err)
		}
		add, insert, move := integer(entry[:]), integer(entry[8:]), integer(entry[16:])
		if add < 0 || insert < 0 || add > newSize-done || insert > newSize-done-add || move < -maxPos || move > maxPos {
			return bad("control entry %d %d %d at %d of %d", add, insert, move, done, newSize)
		}
		done += add + insert
		for add > 0 {
			b := buf[:min(add, window)]
			if _, err := io.ReadFull(diff, b); err != nil {
				return diff.failed(err)
			}
			if err := from.addTo(b, pos); err != nil {
				return fmt.Errorf("read the old file: %w", err)
			}
			if _, err := out.Write(b); err != nil {
				return err
			}
			add -= int64(len(b))
			pos += int64(len(b))
		}
		for insert > 0 {
			b := buf[:min(insert, window)]
			if _, err := io.ReadFull(extra, b); err != nil {
				return extra.failed(err)
			}
			if _, err := out.Write(b); err != nil {
				return err
			}
			insert -= int64(len(b))
		}
		if pos += move; pos < -maxPos || pos > maxPos {
			return bad("position %d", pos)
		}
	}
	for _, b := range []struct {
		*stream
		io.Reader
	}{{control, entries}, {diff, diff}, {extra, extra}} {
		switch n, err := io.ReadFull(b.Reader, buf[:1]); {
		case n > 0:
			return bad("the %s block is too long", b.name)
		case !errors.Is(err, io.EOF):
			return b.failed(err)
		}
	}
	return out.Flush()
}

// stream is one of the three blocks of a patch. Its section ends where the compressed data has to end: bzip2 takes another stream or
// the end, nothing else.
type stream struct {
	name string
	r    io.Reader
}

func (s *stream) Read(b []byte) (int, error) { return s.r.Read(b) }

// failed tells errors of the data from those of the file that it is in.
func (s *stream) failed(err error) error {
	var syntax bzip2.StructuralError
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &syntax) {
		return fmt.Errorf("%w: %s block: %w", ErrPatch, s.name, err)
	}
	return fmt.Errorf("read the patch's %s block: %w", s.name, err)
}

// integer is a number of 8 bytes, little endian, whose sign is the highest bit.
func integer(b []byte) int64 {
	v := binary.LittleEndian.Uint64(b)
	n := int64(v &^ (1 << 63))
	if v>>63 != 0 {
		return -n
	}
	return n
}

// oldFile reads through a window, because most of a patch goes through the old file in order, in short pieces.
type oldFile struct {
	r     io.ReaderAt
	size  int64
	buf   []byte
	start int64 // of what is in buf
	n     int   // bytes in buf
}

// addTo adds the bytes from pos on to b. Outside of the file there are zeros.
func (o *oldFile) addTo(b []byte, pos int64) error {
	if pos < 0 {
		b, pos = b[min(-pos, int64(len(b))):], 0
	}
	for len(b) > 0 && pos < o.size {
		if pos < o.start || pos >= o.start+int64(o.n) {
			o.start, o.n = pos&^(page-1), 0
			n := int(min(int64(len(o.buf)), o.size-o.start))
			if err := readAt(o.r, o.buf[:n], o.start); err != nil {
				return err
			}
			o.n = n
		}
		have := o.buf[pos-o.start : o.n]
		n := min(len(b), len(have))
		for i, v := range have[:n] {
			b[i] += v
		}
		b, pos = b[n:], pos+int64(n)
	}
	return nil
}
