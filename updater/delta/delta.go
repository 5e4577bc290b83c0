// Package delta carries the parts of a release: as compressed frames, and as patches of what a box runs already.
//
// It implements docs/release-format.md, section "A release": frames are Zstandard (RFC 8878), patches bsdiff 4.0 (BSDIFF40, whose
// blocks are bzip2 streams). Whoever wrote a blob may be hostile: what is read from it is bounded in memory and in output, and a
// part counts only once its own hash is right. Making patches is in package delta/bsdiff, so that a box carries no encoder.
//
// Limits: patches say where bytes come from, not what they mean: nothing here knows of machine code, which would make them smaller.
// Memory, beside that of the caller's readers: about 9 MB for frames, up to 11 MB for patches (4 MB for those of package bsdiff).
package delta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/croft-os/croft/updater/release"
)

// ErrFrames is what Apply fails with, wrapped, where the way that it went did not lead to the part, but full frames may.
var ErrFrames = errors.New("the part has to be made from full frames")

// ErrContent is what ReadFrames and Apply fail with, wrapped, where all frames were right, but not the part that they make.
var ErrContent = errors.New("the part has another hash than its description says")

// Way is how a part comes into being: as a copy of the one that runs, as a patch of it, or else, the zero Way, from full frames.
type Way struct {
	Copy  bool
	Patch *release.Patch // one of the part's own
}

// chunk is how many bytes are hashed or copied at a time.
const chunk = 256 << 10

// Choose says which way takes the least to fetch. It reads the base once; size is how much of it can be read, which may be more than
// the part in it. A base that can't be read, or is none of those that there are patches for, means frames. Its errors are the
// context's only.
func Choose(ctx context.Context, part release.Part, base io.ReaderAt, size int64) (Way, error) {
	ends := map[int64]bool{part.Size: true} // lengths of the base at which its hash is of interest
	for _, p := range part.Patches {
		ends[p.FromSize] = true
	}
	end := func(at int64) (next int64) { // after at; 0 if there is none that can be read
		for e := range ends {
			if e > at && e <= size && (next == 0 || e < next) {
				next = e
			}
		}
		return next
	}
	var best Way
	h, buf := sha256.New(), make([]byte, chunk)
	for at, next := int64(0), end(0); next != 0; {
		if err := ctx.Err(); err != nil {
			return Way{}, err
		}
		b := buf[:min(chunk, next-at)]
		if err := readAt(base, b, at); err != nil {
			break
		}
		h.Write(b)
		if at += int64(len(b)); at < next {
			continue
		}
		sum := hex.EncodeToString(h.Sum(nil))
		if at == part.Size && sum == part.SHA256 {
			return Way{Copy: true}, nil
		}
		for i, p := range part.Patches {
			if p.FromSize == at && p.From == sum && (best.Patch == nil || p.Size < best.Patch.Size) {
				best.Patch = &part.Patches[i]
			}
		}
		next = end(at)
	}
	return best, ctx.Err()
}

// Apply makes a part on one way and writes it to dst, front to back, once. open opens the one blob that this needs and says how
// long it is; a copy needs none. The base is not read for frames.
//
// Where it fails, dst has received something of no use. An error that wraps ErrFrames means that base or patch were at fault, or not
// what the description says: begin again at the start of dst, with the zero Way. Errors of dst and of the context don't wrap it.
func Apply(ctx context.Context, part release.Part, way Way, base io.ReaderAt, open func(blob string) (io.ReaderAt, int64, error),
	dst io.Writer,
) error {
	out := &writer{ctx: ctx, w: dst}
	var err error
	switch {
	case way.Copy:
		err = out.sum(part, func(w io.Writer) error {
			_, err := io.CopyBuffer(w, io.NewSectionReader(base, 0, part.Size), make([]byte, chunk))
			return err
		})
	case way.Patch != nil:
		err = out.sum(part, func(w io.Writer) error {
			blob, size, err := open(way.Patch.Blob)
			if err != nil {
				return err
			}
			// More of the base than the patch was made for must not count: the format's positions outside of it are zeros.
			return Patch(reader{ctx, base}, way.Patch.FromSize, reader{ctx, blob}, size, w, part.Size)
		})
	default:
		blob, _, err := open(part.Frames.Blob)
		if err != nil {
			return err
		}
		return ReadFrames(part, reader{ctx, blob}, out)
	}
	if err == nil || out.err != nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrFrames, err)
}

// writer stops with its context, and keeps its error, so that it can be told apart from those of readers.
type writer struct {
	ctx context.Context
	w   io.Writer
	err error
}

func (w *writer) Write(b []byte) (n int, err error) {
	if err = w.ctx.Err(); err == nil {
		n, err = w.w.Write(b)
	}
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = err
	}
	return n, err
}

// sum lets fill write a part, and checks what it wrote.
func (w *writer) sum(part release.Part, fill func(io.Writer) error) error {
	h := sha256.New()
	if err := fill(io.MultiWriter(w, h)); err != nil {
		return err
	}
	return check(part, h.Sum(nil))
}

func check(part release.Part, sum []byte) error {
	if hex.EncodeToString(sum) != part.SHA256 {
		return fmt.Errorf("%w: %x", ErrContent, sum)
	}
	return nil
}

// reader stops with its context.
type reader struct {
	ctx context.Context
	r   io.ReaderAt
}

func (r reader) ReadAt(b []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.ReadAt(b, off)
}

// readAt fills b. io.ReaderAt allows io.EOF together with a full b.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}
