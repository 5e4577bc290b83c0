package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// State is what a drive holds.
type State string

// States of a drive, in the order in which Write takes it through them.
const (
	Untouched State = "untouched" // what was on it before
	Cleared   State = "cleared"   // neither that nor anything that starts: it has no partition table
	Written   State = "written"   // the image, but it was not read back
	Verified  State = "verified"  // the image, as read back from the drive itself
)

// Phases of Write, for its progress.
const (
	Writing = "writing"
	Reading = "reading back"
)

// ErrTooSmall is wrapped where the image does not fit.
var ErrTooSmall = errors.New("the drive is too small")

// VerifyError is a drive that gives back something else than was written.
type VerifyError struct {
	Offset int64 // of the first byte that differs
}

func (e *VerifyError) Error() string {
	return fmt.Sprintf("the drive did not keep what was written to it: byte %d differs", e.Offset)
}

// GoneError is a drive that failed while in use.
type GoneError struct {
	Offset int64
	Err    error
}

func (e *GoneError) Error() string { return fmt.Sprintf("at byte %d: %v", e.Offset, e.Err) }
func (e *GoneError) Unwrap() error { return e.Err }

// Medium is a drive, or a file in its place.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	Blank() bool                    // it is known to hold zeros only
	Flush(off, n int64)             // starts to bring what was written there to the drive, and waits for it if that is possible
	Sync() error                    // brings everything written to the drive
	Uncached() (io.ReaderAt, error) // reads past all caches; buffers are of Aligned, lengths whole blocks of 4096 bytes
	RereadPartitions()              // tells the kernel that there is another partition table
}

// Write puts an image with settings onto m, and reads it back. Whatever happens, it returns the state that m is in. Errors
// wrap ErrTooSmall, *VerifyError, *GoneError or ctx's error.
func Write(ctx context.Context, img *Image, m Medium, s Settings, progress func(phase string, done int64)) (State, error) {
	if err := s.Normalise(); err != nil {
		return Untouched, err
	}
	if m.Size() < img.Size {
		return Untouched, fmt.Errorf("%w: it has %d bytes, and the image %d", ErrTooSmall, m.Size(), img.Size)
	}
	if err := ctx.Err(); err != nil {
		return Untouched, err
	}
	w := &writer{m: m, img: img, head: bytes.Clone(img.head), progress: progress}
	if err := w.clear(); err != nil {
		return Cleared, err
	}
	if err := w.copy(ctx); err != nil {
		return Cleared, err
	}
	first := img.Layout.Partition(img.Layout.First)
	err := bake(w, first.Start, first.Size, s)
	if err == nil {
		err = w.personalise()
	}
	if err != nil {
		// What was just written is not there, or was never in the image: reading back tells.
		w.patches = append(w.patches, patch{0, make([]byte, mib)})
		if _, verr := w.verify(ctx); verr != nil {
			err = verr
		}
		return Cleared, err
	}
	if err := w.finish(); err != nil {
		return Cleared, err
	}
	state, err := w.verify(ctx)
	m.RereadPartitions()
	return state, err
}

type writer struct {
	m        Medium
	img      *Image
	head     []byte  // the first MiB, which is written last
	patches  []patch // what differs from the image
	progress func(string, int64)
}

type patch struct {
	off  int64
	data []byte
}

// ReadAt and WriteAt are for what changes the image after it was copied; the first MiB is in memory then.
func (w *writer) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.m.ReadAt(p, off)
	if off < mib {
		copy(p[:n], w.head[off:])
	}
	return n, err
}

func (w *writer) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= mib {
		return copy(w.head[off:], p), nil
	}
	w.patches = append(w.patches, patch{off, bytes.Clone(p)})
	return len(p), w.write(p, off)
}

func (w *writer) write(p []byte, off int64) error {
	if _, err := w.m.WriteAt(p, off); err != nil {
		return &GoneError{off, err}
	}
	return nil
}

// clear takes away the partition table, and at the end of the drive the copy of it that a larger drive would keep beside the
// image's own, and what else lies there by which systems know a drive.
func (w *writer) clear() error {
	if w.m.Blank() {
		return nil
	}
	zero := make([]byte, mib)
	if err := w.write(zero, 0); err != nil {
		return err
	}
	if at := max(w.img.Size, w.m.Size()-mib); at < w.m.Size() {
		if err := w.write(zero[:w.m.Size()-at], at); err != nil {
			return err
		}
	}
	return w.sync(0)
}

func (w *writer) sync(at int64) error {
	if err := w.m.Sync(); err != nil {
		return &GoneError{at, err}
	}
	return nil
}

// copy writes all but the first MiB.
func (w *writer) copy(ctx context.Context) error {
	hash := sha256.New()
	zero := make([]byte, chunkSize)
	err := w.img.chunks(ctx, func(off int64, b []byte) error {
		hash.Write(b)
		at, rest := off, b
		if off == 0 {
			at, rest = mib, b[mib:]
		}
		if !w.m.Blank() || !bytes.Equal(rest, zero[:len(rest)]) {
			if err := w.write(rest, at); err != nil {
				return err
			}
			w.m.Flush(at, int64(len(rest)))
		}
		w.progress(Writing, off+int64(len(b)))
		return nil
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(hash.Sum(nil), w.img.sum[:]) {
		return fmt.Errorf("%s changed while it was written", w.img.Path)
	}
	return nil
}

// finish brings everything but the partition table to the drive, and then that.
func (w *writer) finish() error {
	if err := w.sync(w.img.Size); err != nil {
		return err
	}
	w.patches = append(w.patches, patch{0, w.head})
	if err := w.write(w.head, 0); err != nil {
		return err
	}
	return w.sync(0)
}

// verify compares the drive with the image. Where they differ, it takes the partition table away again.
func (w *writer) verify(ctx context.Context) (State, error) {
	r, err := w.m.Uncached()
	if err != nil {
		return Written, err
	}
	got, free, err := aligned(chunkSize)
	if err != nil {
		return Written, err
	}
	defer free()
	compare := func(off int64, want []byte) error {
		const block = 4096
		skip := int(off % block)
		n, err := r.ReadAt(got[:(skip+len(want)+block-1)/block*block], off-int64(skip))
		if n < skip+len(want) {
			return &GoneError{off - int64(skip) + int64(n), err}
		}
		got := got[skip:][:len(want)]
		if !bytes.Equal(got, want) {
			i := 0
			for got[i] == want[i] {
				i++
			}
			return &VerifyError{off + int64(i)}
		}
		return nil
	}
	err = w.img.chunks(ctx, func(off int64, want []byte) error {
		for _, p := range w.patches {
			if at := p.off - off; at < int64(len(want)) && at+int64(len(p.data)) > 0 {
				copy(want[max(0, at):], p.data[max(0, -at):])
			}
		}
		if err := compare(off, want); err != nil {
			return err
		}
		w.progress(Reading, off+int64(len(want)))
		return nil
	})
	for _, p := range w.patches {
		if err == nil && p.off+int64(len(p.data)) > w.img.Size {
			err = compare(p.off, p.data)
		}
	}
	if v := (*VerifyError)(nil); errors.As(err, &v) {
		if w.write(make([]byte, mib), 0) == nil && w.sync(0) == nil {
			return Cleared, err
		}
	}
	if err != nil {
		return Written, err
	}
	return Verified, nil
}

// chunks reads the image once more, in pieces of chunkSize that f may change.
func (img *Image) chunks(ctx context.Context, f func(off int64, b []byte) error) error {
	r, err := img.open()
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, chunkSize)
	for off := int64(0); off < img.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(chunkSize, img.Size-off)]
		if _, err := io.ReadFull(r, b); err != nil {
			return readProblem(img.Path, err)
		}
		if err := f(off, b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// aligned returns n bytes in whole pages, as O_DIRECT wants them.
func aligned(n int) (b []byte, free func(), err error) {
	b, err = unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for reading back: %w", err)
	}
	return b, func() { unix.Munmap(b) }, nil
}
