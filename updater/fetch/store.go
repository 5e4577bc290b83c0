package fetch

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Folders of a store.
const (
	repoDir    = "repo"    // the tree of docs/release-format.md
	partialDir = "partial" // blobs that are not complete, by their hashes
	newDir     = "new"     // files that are being written; emptied at each start
)

// Store is a folder that keeps a repository's files, and a Source. Files appear in it whole or not at all, also after a power
// cut. It may be used by several goroutines.
type Store struct {
	root    *os.Root // of all
	repo    *os.Root
	budget  int64 // bytes for all of it
	reserve int64 // bytes that have to stay free for others on the medium

	mu sync.Mutex // held by what makes or removes files
}

// Reserve is what a store leaves free on its medium for everything else on the box, in bytes.
const Reserve = 64 << 20

// OpenStore opens the store in a folder, which it makes if need be. budget is how many bytes it may take up.
func OpenStore(dir string, budget int64) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, budget: budget, reserve: Reserve}
	err = root.RemoveAll(newDir)
	for _, name := range []string{repoDir, partialDir, newDir} {
		if st, lerr := root.Lstat(name); lerr == nil && !st.IsDir() {
			err = errors.Join(err, root.Remove(name))
		}
		if merr := root.Mkdir(name, 0o755); !errors.Is(merr, fs.ErrExist) {
			err = errors.Join(err, merr)
		}
	}
	if err == nil {
		s.repo, err = root.OpenRoot(repoDir)
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	return s, nil
}

// Kind and Name make a Store a Source for tests and tools; a box has no source of that kind.
func (s *Store) Kind() string { return "store" }

// Name is the same for all stores.
func (s *Store) Name() string { return "store" }

// Close closes the store.
func (s *Store) Close() error { return errors.Join(s.repo.Close(), s.root.Close()) }

// tilePartRE parts a tile's path from the width.
var tilePartRE = regexp.MustCompile(`^(.*)\.p/([0-9]+)$`)

// Open opens a file of the repository, and returns its size. A part of a tile of the log is cut from a wider one, too, as a log's
// own server may do no more (C2SP tlog-tiles, "Partial tiles").
func (s *Store) Open(path string) (io.ReadSeekCloser, int64, error) {
	f, size, err := s.open(path)
	if err != nil {
		return nil, 0, err
	}
	return f, size, nil
}

// section is a file, as far as the repository has it.
type section struct {
	*io.SectionReader
	f *os.File
}

func (s section) Close() error { return s.f.Close() }

func (s *Store) open(path string) (section, int64, error) {
	c, limit := Path(path)
	if c == ClassNone {
		return section{}, 0, notFound(path)
	}
	f, size, err := openPlain(s.repo, path)
	if m := tilePartRE.FindStringSubmatch(path); c == ClassTile && m != nil && errors.Is(err, ErrNotFound) {
		if f, err = s.widerTile(m[1]); err == nil {
			width, _ := strconv.Atoi(m[2]) // the pattern of Path checked it
			st, serr := f.Stat()
			if size = int64(width) * 32; serr != nil || st.Size() < size {
				f.Close()
				return section{}, 0, notFound(path)
			}
		}
	}
	if err != nil {
		return section{}, 0, err
	}
	if size > limit {
		f.Close()
		return section{}, 0, tooLarge(path, limit)
	}
	return section{io.NewSectionReader(f, 0, size), f}, size, nil
}

// widerTile opens the widest that is kept of a tile.
func (s *Store) widerTile(full string) (*os.File, error) {
	f, _, err := openPlain(s.repo, full)
	if !errors.Is(err, ErrNotFound) {
		return f, err
	}
	d, err := s.repo.Open(full + ".p")
	if err != nil {
		return nil, notFound(full)
	}
	names, err := d.Readdirnames(256)
	d.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	widest := 0
	for _, n := range names {
		if w, err := strconv.Atoi(n); err == nil {
			widest = max(widest, w)
		}
	}
	f, _, err = openPlain(s.repo, fmt.Sprintf("%s.p/%d", full, widest))
	return f, err
}

// Get implements Source.
func (s *Store) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	limit, err := lookUp(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	f, size, err := s.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, tooLarge(path, limit)
	}
	return readAll(f, path, size)
}

// ReadRange implements Source.
func (s *Store) ReadRange(ctx context.Context, path string, off int64, p []byte) error {
	if err := checkRange(ctx, path, off, len(p)); err != nil {
		return err
	}
	f, _, err := s.open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return readAt(f, path, off, p)
}

// Has tells whether there is a file of that size at a path. What is in it has to be looked at.
func (s *Store) Has(path string, size int64) bool {
	f, n, err := s.open(path)
	if err != nil {
		return false
	}
	f.Close()
	return size < 0 || n == size
}

// Put writes a file. It is durable when Put returns, and was not there, or as before, until then. On ErrNoSpace nothing has changed.
func (s *Store) Put(path string, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(path, b)
}

func (s *Store) put(path string, b []byte) error {
	c, limit := Path(path)
	if c == ClassNone || c == ClassBlob {
		return fmt.Errorf("put %q: no such path", path)
	}
	if int64(len(b)) > limit {
		return tooLarge(path, limit)
	}
	if old, err := s.Get(context.Background(), path, limit); err == nil && bytes.Equal(old, b) {
		return nil
	}
	name := newDir + "/" + rand.Text()
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Full(err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.move(name, repoDir+"/"+path)
	}
	if err != nil {
		s.root.Remove(name)
		return fmt.Errorf("keep %s: %w", path, Full(err))
	}
	return nil
}

// move gives a file its name, durably.
func (s *Store) move(from, to string) error {
	dir := parent(to)
	var made []string // folders that are new, and so have to be made durable, too
	for d := dir; d != "."; d = parent(d) {
		if _, err := s.root.Lstat(d); err == nil {
			break
		}
		made = append(made, parent(d))
	}
	if err := s.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if st, err := s.root.Lstat(to); err == nil && !st.Mode().IsRegular() {
		if err := s.root.RemoveAll(to); err != nil {
			return err
		}
	}
	if err := s.root.Rename(from, to); err != nil {
		return err
	}
	for _, d := range append([]string{dir}, made...) {
		if err := s.syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) syncDir(name string) error {
	d, err := s.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Full makes errors of a full medium ErrNoSpace.
func Full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// entry is a file of the store.
type entry struct {
	path string // from the store's folder
	size int64
	used time.Time
}

// walk lists the files below a folder of the store.
func (s *Store) walk(dir string) ([]entry, error) {
	var list []entry
	err := fs.WalkDir(s.root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		list = append(list, entry{p, st.Size(), st.ModTime()})
		return nil
	})
	return list, err
}

// Files lists the paths of the repository that are kept and begin with prefix.
func (s *Store) Files(prefix string) ([]string, error) {
	list, err := s.walk(repoDir)
	var paths []string
	for _, e := range list {
		if p := strings.TrimPrefix(e.path, repoDir+"/"); strings.HasPrefix(p, prefix) {
			paths = append(paths, p)
		}
	}
	return paths, err
}

// Used returns how many bytes the store takes up, and its budget.
func (s *Store) Used() (used, budget int64, err error) {
	list, err := s.walk(".")
	for _, e := range list {
		used += e.size
	}
	return used, s.budget, err
}

// Budget sets how many bytes the store may take up. It removes nothing by itself.
func (s *Store) Budget(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.budget = n
}

// Room makes room for n bytes more: blobs that keep does not name, complete or not, go, the one whose turn is longest ago first.
// If that does not do, it fails with ErrNoSpace, having removed nothing.
func (s *Store) Room(n int64, keep func(hash string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roomFor(n, keep)
}

// roomFor is Room with s.mu held.
func (s *Store) roomFor(n int64, keep func(hash string) bool) error {
	list, err := s.walk(".")
	if err != nil {
		return err
	}
	var used int64
	var may []entry
	for _, e := range list {
		used += e.size
		hash, blob := strings.CutPrefix(e.path, repoDir+"/blobs/")
		if !blob {
			hash, blob = strings.CutPrefix(e.path, partialDir+"/")
		}
		if blob && !keep(hash) {
			may = append(may, e)
		}
	}
	slices.SortFunc(may, func(a, b entry) int { return a.used.Compare(b.used) })
	free, err := s.free()
	if err != nil {
		return err
	}
	short := max(used+n-s.budget, n+s.reserve-free)
	gone := 0
	for ; gone < len(may) && short > 0; gone++ {
		short -= may[gone].size
	}
	if short > 0 {
		return fmt.Errorf("%d bytes too few for %d: %w", short, n, ErrNoSpace)
	}
	for _, e := range may[:gone] {
		if err := s.root.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// free returns how many bytes of the medium may still be used.
func (s *Store) free() (int64, error) {
	d, err := s.root.Open(".")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return 0, fmt.Errorf("free space: %w", err)
	}
	return int64(min(st.Bavail, 1<<40)) * int64(st.Bsize), nil
}

// Remove removes what there is at paths of the repository.
func (s *Store) Remove(paths ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range paths {
		if c, _ := Path(p); c == ClassNone {
			continue
		}
		if err := s.repo.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Forget removes everything but blobs of the repository with that prefix: "" or "auditors/NAME/". It is for a change of whom the
// box follows.
func (s *Store) Forget(prefix string) error {
	paths, err := s.Files(prefix)
	if err != nil {
		return err
	}
	paths = slices.DeleteFunc(paths, func(p string) bool {
		return strings.HasPrefix(p, "blobs/") || prefix == "" && strings.HasPrefix(p, auditors)
	})
	return s.Remove(paths...)
}
