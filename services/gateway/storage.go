package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/google/renameio/v2"
)

// storage is certmagic's Storage on a directory that only this process uses. It differs from certmagic.FileStorage
// in three ways that matter on a box:
//   - a stored value is durable when Store returns: file and directory are synced;
//   - locks live in memory, so that neither a power cut nor a clock that jumps leaves one behind;
//   - a value that the disk refuses (full, read-only) is kept in memory, so that a certificate is still renewed.
type storage struct {
	dir string // "" keeps everything in memory
	log *slog.Logger

	mu     sync.Mutex
	memory map[string]value // what could not be written
	locks  map[string]chan struct{}
}

type value struct {
	data     []byte
	modified time.Time
}

var _ certmagic.Storage = (*storage)(nil)

func newStorage(dir string, log *slog.Logger) *storage {
	return &storage{dir: dir, log: log, memory: map[string]value{}, locks: map[string]chan struct{}{}}
}

// file returns the path of a key. A key is a slash-separated relative path (fs.ValidPath).
func (s *storage) file(key string) (string, error) {
	switch {
	case !fs.ValidPath(key) || key == "." || strings.ContainsAny(key, "\\\x00"):
		return "", fmt.Errorf("bad storage key %q", key)
	case s.dir == "":
		return "", fmt.Errorf("%q: %w", key, fs.ErrNotExist)
	}
	return filepath.Join(s.dir, filepath.FromSlash(key)), nil
}

// Store implements certmagic.Storage. It fails only for a bad key.
func (s *storage) Store(_ context.Context, key string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	file, err := s.file(key)
	switch {
	case err == nil:
		err = writeFile(file, data)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err == nil {
		delete(s.memory, key)
		return nil
	}
	if s.dir != "" {
		s.log.Warn("can't write to the state directory, keeping it in memory", "key", key, "err", err)
	}
	s.memory[key] = value{slices.Clone(data), time.Now()}
	return nil
}

// Load implements certmagic.Storage.
func (s *storage) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.memory[key]; ok {
		return slices.Clone(v.data), nil
	}
	file, err := s.file(key)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// Delete implements certmagic.Storage.
func (s *storage) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.memory, func(k string, _ value) bool { return k == key || strings.HasPrefix(k, key+"/") })
	file, err := s.file(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// Exists implements certmagic.Storage.
func (s *storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// Stat implements certmagic.Storage.
func (s *storage) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.memory[key]; ok {
		return certmagic.KeyInfo{Key: key, Modified: v.modified, Size: int64(len(v.data)), IsTerminal: true}, nil
	}
	for k := range s.memory {
		if strings.HasPrefix(k, key+"/") {
			return certmagic.KeyInfo{Key: key}, nil
		}
	}
	file, err := s.file(key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	fi, err := os.Stat(file)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key, Modified: fi.ModTime(), Size: fi.Size(), IsTerminal: !fi.IsDir()}, nil
}

// List implements certmagic.Storage.
func (s *storage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := map[string]bool{}
	add := func(key string) { // and the directories on the way
		for ; strings.HasPrefix(key, prefix+"/"); key = path.Dir(key) {
			if recursive || path.Dir(key) == prefix {
				keys[key] = true
			}
		}
	}
	for k := range s.memory {
		add(k)
	}
	found := len(keys) > 0
	if dir, err := s.file(prefix); err == nil {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || ctx.Err() != nil {
				return errors.Join(err, ctx.Err())
			}
			rel, err := filepath.Rel(s.dir, p)
			if err != nil {
				return err
			}
			add(filepath.ToSlash(rel))
			if d.IsDir() && p != dir && !recursive {
				return filepath.SkipDir
			}
			return nil
		})
		if err != nil && !(found && errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
	} else if !found {
		return nil, err
	}
	return slices.Sorted(maps.Keys(keys)), nil
}

// Lock implements certmagic.Locker.
func (s *storage) Lock(ctx context.Context, name string) error {
	for {
		s.mu.Lock()
		held := s.locks[name]
		if held == nil {
			s.locks[name] = make(chan struct{})
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unlock implements certmagic.Locker.
func (s *storage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.locks[name]
	if held == nil {
		return fmt.Errorf("lock %q is not held", name)
	}
	delete(s.locks, name)
	close(held)
	return nil
}

// writeFile replaces a file of the state directory so that after a power cut either the old or the new one is there.
func writeFile(file string, data []byte) error {
	dir := filepath.Dir(file)
	if err := mkdirAll(dir); err != nil {
		return err
	}
	if err := renameio.WriteFile(file, data, 0o600, renameio.WithTempDir(dir)); err != nil {
		return err
	}
	return syncDir(dir)
}

// mkdirAll makes dir and its missing parents, each durable in its own parent.
func mkdirAll(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := mkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
