// Package fetch gets the files of a repository (docs/release-format.md) from where they lie, and keeps them.
//
// A Source is a place of them: a web server or a neighbour's box (HTTP), the FAT or exFAT file system of a stick, a bundle, a folder. A
// Store is a folder of them on the box's medium, of bounded size, that survives power cuts and full disks. Mirror brings a
// store up to date from a source, as far as package trust believes what it says. Fetch fetches blobs into a store from several
// sources, frame by frame, and goes on without the ones that lie, cut short, stall or vanish.
//
// Nothing here decides what is installed. Metadata is verified so that no liar fills the store, blobs by the hashes that the
// caller names; whoever installs verifies everything again, by itself. Only the paths of the format exist: no source
// and no store touches any other file. Memory is bounded: one frame for each of at most three sources.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/croft-os/croft/updater/trust"
)

// What getting a file fails with, beside errors of the network and the medium.
var (
	ErrNotFound = trust.ErrNotFound
	ErrTooLarge = trust.ErrTooLarge
	// ErrLied: the bytes are not those that were asked for, or the answer breaks the protocol.
	ErrLied = errors.New("the source does not keep to the format")
	// ErrStalled: too few bytes came in too much time.
	ErrStalled = errors.New("the source is too slow")
	// ErrClosed: the source was closed.
	ErrClosed = errors.New("the source is closed")
	// ErrNoSpace: the medium, or the store's budget, is full.
	ErrNoSpace = errors.New("no space left")
)

// Kinds of sources, in the order in which they are preferred.
const (
	KindFile      = "file"      // an uploaded bundle
	KindUSB       = "usb"       // a stick
	KindNeighbour = "neighbour" // another box on the LAN
	KindMirror    = "mirror"    // a web server
)

// Source is a place where a repository's files lie. Nothing that it returns is to be believed. It may be used by several
// goroutines. Package fetchtest tests that an implementation keeps to this:
type Source interface {
	// Source's Get returns a file of at most limit bytes. It fails with ErrNotFound if there is none, or no such path in a repository
	// (Path), with ErrTooLarge if it has more bytes, and with ctx's error.
	trust.Source
	// ReadRange fills p with the file's bytes from off on. If the file ends before, that is an error that wraps
	// io.ErrUnexpectedEOF. An empty p does nothing.
	ReadRange(ctx context.Context, path string, off int64, p []byte) error
	// Kind is one of the kinds above.
	Kind() string
	// Name says which: a URL, a box, a stick, a file.
	Name() string
	// Close gives back what the source holds. Whatever is asked of it afterwards fails, with ErrClosed.
	Close() error
}

// lookUp checks what every source checks of a request: the path, the context. limit is never more than the path's.
func lookUp(ctx context.Context, path string, limit int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	c, most := Path(path)
	if c == ClassNone {
		return 0, fmt.Errorf("%.300q is no path of a repository: %w", path, ErrNotFound)
	}
	return min(limit, most), nil
}

// checkRange checks the rest of what every source checks of a ReadRange.
func checkRange(ctx context.Context, path string, off int64, n int) error {
	limit, err := lookUp(ctx, path, 1<<62)
	if err != nil {
		return err
	}
	if off < 0 || off > limit-int64(n) {
		return fmt.Errorf("%s: %d bytes at %d are past the end of any such file: %w", path, n, off, io.ErrUnexpectedEOF)
	}
	return nil
}

// tooLarge is the error of a file that has more bytes than allowed.
func tooLarge(path string, limit int64) error {
	return fmt.Errorf("%s: over %d bytes: %w", path, limit, ErrTooLarge)
}

// notFound is the error of a file that is not there.
func notFound(path string) error { return fmt.Errorf("%s: %w", path, ErrNotFound) }
