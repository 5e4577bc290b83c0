// Package delta carries the parts of a release as compressed frames and as patches.
package delta

import (
	"context"
	"errors"
	"io"

	"github.com/croft-os/croft/updater/release"
)

// ErrFrames is what Apply fails with, wrapped, where the way it went did not lead to the part, and another beginning with
// full frames may.
var ErrFrames = errors.New("the part has to be made from full frames")

var errTodo = errors.New("not yet")

// WriteFrames writes the frames of a part and describes them.
func WriteFrames(w io.Writer, part io.Reader) (f release.Frames, size int64, sha256 string, err error) {
	return f, 0, "", errTodo
}

// ReadFrames writes a part made from its frames.
func ReadFrames(part release.Part, blob io.ReaderAt, dst io.Writer) error { return errTodo }

// Diff writes a patch that turns old into new.
func Diff(old, new []byte, w io.Writer) error { return errTodo }

// Patch writes what a patch makes of the old file, at most limit bytes.
func Patch(old io.ReaderAt, oldSize int64, patch io.ReaderAt, patchSize int64, dst io.Writer, limit int64) error {
	return errTodo
}

// Way is how a part comes into being: a copy of the running one, a patch of it, or else full frames.
type Way struct {
	Copy  bool
	Patch *release.Patch
}

// Choose reads the base (size is what can be read of it; it may be longer than the part in it) once and says which way the
// part can be made with the least to fetch. A base that can't be read means frames. Errors are only the context's.
func Choose(ctx context.Context, part release.Part, base io.ReaderAt, size int64) (Way, error) {
	return Way{}, ctx.Err()
}

// Apply makes a part on one way and writes it to dst, front to back. open opens the one blob that the way needs. An error that
// wraps ErrFrames means: begin again, at the start of dst, with the zero Way.
func Apply(ctx context.Context, part release.Part, way Way, base io.ReaderAt, open func(blob string) (io.ReaderAt, int64, error),
	dst io.Writer,
) error {
	return errTodo
}
