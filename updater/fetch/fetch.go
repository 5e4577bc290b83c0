// Package fetch gets the files of a repository (docs/release-format.md) from where they lie, and keeps them.
package fetch

import (
	"context"
	"errors"

	_ "golang.org/x/time/rate"
)

// What getting a file fails with, beside errors of the network and the medium.
var (
	ErrNotFound = errors.New("not found")
	ErrTooLarge = errors.New("too large")
)

// Kinds of sources, in the order in which they are preferred.
const (
	KindFile      = "file"      // an uploaded bundle
	KindUSB       = "usb"       // a stick
	KindNeighbour = "neighbour" // another box on the LAN
	KindMirror    = "mirror"    // a web server
)

// Source is a place where a repository's files lie. Nothing that it returns is to be believed. A path that is not one of the
// repository's tree (Path) is ErrNotFound. It may be used by several goroutines.
type Source interface {
	// Get returns a file of at most limit bytes.
	Get(ctx context.Context, path string, limit int64) ([]byte, error)
	// ReadRange fills p with the file's bytes from off on, or fails.
	ReadRange(ctx context.Context, path string, off int64, p []byte) error
	// Kind is one of the kinds above, and Name says which: a URL, a box, a stick, a file.
	Kind() string
	Name() string
	// Close gives back what the source holds. What it does afterwards fails.
	Close() error
}
