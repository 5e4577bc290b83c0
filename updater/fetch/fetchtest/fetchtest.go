// Package fetchtest tests implementations of fetch.Source. It is for tests only.
package fetchtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/release"
)

// Bytes returns n bytes that are the same for the same seed, and compress badly.
func Bytes(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// Hash is the SHA-256 of b in hex.
func Hash(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// Files is a repository as far as sources care: a file of each class, and a blob of some megabytes.
func Files() map[string][]byte {
	blob, small := Bytes(1, 5<<20+1234), []byte("x")
	description := []byte(`{"format":"croft-release/1"}`)
	return map[string][]byte{
		"croft-repository":                        []byte(fetch.Mark + "\n"),
		"metadata/timestamp.json":                 []byte(`{"signed":{}}`),
		"metadata/1.root.json":                    Bytes(2, 3000),
		"metadata/12.root.json.tlog-proof":        Bytes(3, 700),
		"metadata/7.snapshot.json":                Bytes(4, 64<<10),
		"metadata/3.targets.json":                 {},
		"metadata/3.targets.json.tlog-proof":      Bytes(5, 1),
		"log/checkpoint":                          []byte("example.org/croft\n5\n"),
		"log/tile/0/000":                          Bytes(6, 8192),
		"log/tile/0/x001/067.p/5":                 Bytes(7, 160),
		"auditors/second/metadata/timestamp.json": []byte(`{}`),
		release.BlobFile(Hash(blob)):              blob,
		release.BlobFile(Hash(small)):             small,
		release.TargetFile("releases/pc/v1/release.json", Hash(description)): description,
	}
}

// Strangers are paths that no source may answer, even where such a file lies.
func Strangers() []string {
	hash := Hash(nil)
	return []string{
		"", ".", "..", "/", "etc/passwd", "../croft-repository", "metadata/../croft-repository", "metadata//timestamp.json",
		"/metadata/timestamp.json", "metadata/timestamp.json/", "metadata/timestamp.json.tlog-proof", "metadata/01.root.json",
		"metadata/0.root.json", "metadata/1.root.json.bak", "metadata/1.snapshot.json.tlog-proof", "blobs/" + hash[:63], "blobs/" + hash + "0",
		"blobs/../" + hash, "blobs/" + hash + "\n", "log/tile/0/00", "log/tile/64/000", "log/tile/0/000.p/0", "log/tile/0/000.p/256",
		"log/tile/entries/000", "auditors/second/blobs/" + hash, "auditors/../metadata/timestamp.json", "auditors/Second/metadata/timestamp.json",
		"targets/releases/pc/v1/" + hash + ".other.json", "targets/" + hash + ".release.json", "targets/releases/pc/../" + hash + ".release.json",
		"Metadata/timestamp.json", "metadata\\timestamp.json", "secret.txt",
	}
}

// Test runs the suite. open makes a source of these files, and of nothing else; the source is closed by the suite. The strangers that
// are ordinary paths may lie there, too.
func Test(t *testing.T, open func(t *testing.T, files map[string][]byte) fetch.Source) {
	files := Files()
	s := open(t, files)
	ctx := t.Context()
	var big string
	for p, b := range files {
		if len(b) > 5<<20 {
			big = p
		}
	}
	paths := slices.Sorted(maps.Keys(files))

	if s.Kind() == "" || s.Name() == "" {
		t.Errorf("kind %q, name %q", s.Kind(), s.Name())
	}
	for _, p := range paths {
		want := files[p]
		for _, limit := range []int64{int64(len(want)), 1 << 40} {
			if got, err := s.Get(ctx, p, limit); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, at most %d: %d bytes of %d, %v", p, limit, len(got), len(want), err)
			}
		}
		if len(want) == 0 {
			continue
		}
		if got, err := s.Get(ctx, p, int64(len(want)-1)); !errors.Is(err, fetch.ErrTooLarge) || got != nil {
			t.Errorf("%s beyond the limit: %d bytes, %v", p, len(got), err)
		}
	}
	t.Run("missing", func(t *testing.T) {
		for _, p := range append(Strangers(), "metadata/99.root.json", release.BlobFile(Hash([]byte("nobody has this"))), "log/tile/1/000") {
			if got, err := s.Get(ctx, p, 1<<20); !errors.Is(err, fetch.ErrNotFound) || got != nil {
				t.Errorf("%q: %d bytes, %v", p, len(got), err)
			}
			if err := s.ReadRange(ctx, p, 0, make([]byte, 1)); !errors.Is(err, fetch.ErrNotFound) {
				t.Errorf("%q, a range: %v", p, err)
			}
		}
	})
	t.Run("ranges", func(t *testing.T) {
		want := files[big]
		size := int64(len(want))
		for _, x := range [][2]int64{
			{0, 1}, {0, size}, {1, 1}, {size - 1, 1}, {4 << 20, 1<<20 + 1234}, {511, 513}, {size / 2, 0}, {size, 0},
		} {
			p := make([]byte, x[1])
			if err := s.ReadRange(ctx, big, x[0], p); err != nil || !bytes.Equal(p, want[x[0]:x[0]+x[1]]) {
				t.Errorf("%d at %d: %v", x[1], x[0], err)
			}
		}
		for _, x := range [][2]int64{{size, 1}, {size - 1, 2}, {0, size + 1}, {size + 1<<20, 10}, {-1, 1}, {1 << 40, 1}} {
			if err := s.ReadRange(ctx, big, x[0], make([]byte, x[1])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d at %d of %d: %v", x[1], x[0], size, err)
			}
		}
	})
	t.Run("at the same time", func(t *testing.T) {
		want := files[big]
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for i := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 1))
				for range 10 {
					off := rng.IntN(len(want))
					p := make([]byte, rng.IntN(len(want)-off))
					if err := s.ReadRange(ctx, big, int64(off), p); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
						errs <- fmt.Errorf("%d at %d: %w", len(p), off, err)
						return
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := s.Get(ctx, big, 1<<30); !errors.Is(err, context.Canceled) {
			t.Errorf("Get: %v", err)
		}
		if err := s.ReadRange(ctx, big, 0, make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("ReadRange: %v", err)
		}
	})
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := s.Get(ctx, big, 1<<30); !errors.Is(err, fetch.ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	if err := s.ReadRange(ctx, big, 0, make([]byte, 1)); !errors.Is(err, fetch.ErrClosed) {
		t.Errorf("ReadRange after Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}
