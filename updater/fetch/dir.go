package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dirSource is a folder.
type dirSource struct {
	kind, name string
	root       *os.Root
}

// OpenDir returns the repository in a folder as a source.
func OpenDir(kind, name, dir string) (Source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &dirSource{kind, name, root}, nil
}

func (s *dirSource) Kind() string { return s.kind }
func (s *dirSource) Name() string { return s.name }
func (s *dirSource) Close() error { return s.root.Close() }

func (s *dirSource) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	limit, err := lookUp(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	f, size, err := openPlain(s.root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, tooLarge(path, limit)
	}
	return readAll(f, path, size)
}

func (s *dirSource) ReadRange(ctx context.Context, path string, off int64, p []byte) error {
	if err := checkRange(ctx, path, off, len(p)); err != nil {
		return err
	}
	f, _, err := openPlain(s.root, path)
	if err != nil {
		return err
	}
	defer f.Close()
	return readAt(f, path, off, p)
}

// openPlain opens an ordinary file below root for reading, without following a symbolic link anywhere on the way. The errors
// are ErrNotFound, also where something else than a file has the name, and ErrClosed.
func openPlain(root *os.Root, path string) (*os.File, int64, error) {
	fail := func(err error) (*os.File, int64, error) {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return nil, 0, notFound(path)
		case errors.Is(err, fs.ErrClosed):
			return nil, 0, fmt.Errorf("%s: %w", path, ErrClosed)
		}
		return nil, 0, fmt.Errorf("open %s: %w", path, err)
	}
	for i := range path {
		if path[i] != '/' {
			continue
		}
		if st, err := root.Lstat(path[:i]); err != nil {
			return fail(err)
		} else if !st.IsDir() {
			return nil, 0, notFound(path)
		}
	}
	if st, err := root.Lstat(path); err != nil {
		return fail(err)
	} else if !st.Mode().IsRegular() {
		return nil, 0, notFound(path)
	}
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	// A link that took the name meanwhile, and that os.Root followed, shows here: the entry is another file than what was opened.
	st, err := f.Stat()
	entry, lerr := root.Lstat(path)
	if err != nil || lerr != nil || !st.Mode().IsRegular() || !os.SameFile(st, entry) {
		f.Close()
		if err := errors.Join(err, lerr); err != nil {
			return fail(err)
		}
		return nil, 0, notFound(path)
	}
	return f, st.Size(), nil
}

// readAll reads a file that has size bytes.
func readAll(r io.ReaderAt, path string, size int64) ([]byte, error) {
	b := make([]byte, size)
	return b, readAt(r, path, 0, b)
}

// readAt fills p, or fails.
func readAt(r io.ReaderAt, path string, off int64, p []byte) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, fs.ErrClosed) {
		err = ErrClosed
	}
	return fmt.Errorf("read %d bytes of %s at %d: %w", len(p), path, off, err)
}

// parent is the folder of a path, "." for one without.
func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return "."
}
