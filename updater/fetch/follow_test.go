package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/trust"
)

// box is what follows a publisher on a box.
type box struct {
	t     testing.TB
	dir   string
	root  []byte
	store *fetch.Store
	*fetch.Follower
}

// memory is a folder where nothing waits for a disk: these tests are about what is written, not about how.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fetch")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newBox(t testing.TB, root []byte) *box {
	t.Helper()
	b := &box{t: t, dir: memory(t), root: root}
	var err error
	if b.store, err = fetch.OpenStore(filepath.Join(b.dir, "store"), 1<<30); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	client, err := trust.Create(filepath.Join(b.dir, "trust"), trust.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	b.Follower = &fetch.Follower{
		Store: b.store, Client: client, Root: root, Board: "pc",
		Fresh: func() (fetch.Verifier, func(), error) {
			dir, err := os.MkdirTemp(b.dir, "fresh")
			if err != nil {
				return nil, nil, err
			}
			c, err := trust.Create(dir, trust.Options{Root: root})
			return c, func() { os.RemoveAll(dir) }, err
		},
	}
	return b
}

func clock() trust.Clock {
	return trust.Clock{Built: time.Now().Add(-time.Hour), Now: time.Now(), Sure: true}
}

// updater is somebody who reads the store only, as the updater of this box or of a neighbour's does.
func updater(t testing.TB, root []byte) *trust.Client {
	t.Helper()
	c, err := trust.Create(memory(t), trust.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func dirSource(t testing.TB, kind, dir string) fetch.Source {
	t.Helper()
	s, err := fetch.OpenDir(kind, dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestFollow goes along with a publisher's life, and has updaters of several ages read what the store has after each step.
func TestFollow(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Root: [2]int{2, 3}, Targets: [2]int{2, 3}, Beta: [2]int{1, 2}})
	b := newBox(t, p.Root())
	src := dirSource(t, fetch.KindMirror, p.Dir())
	var updaters []*trust.Client // one that starts at each step
	number := int64(0)
	part := func(seed int) []byte { return fetchtest.Bytes(uint64(seed), 300) }
	releases := func(n int, c release.Channel) {
		var rs []publishtest.Release
		for range n {
			number++
			board := "pc"
			if number%2 == 1 && c == release.Stable {
				board = "rpi"
			}
			rs = append(rs, publishtest.Release{
				Board: board, Number: number, Version: "v1." + time.Unix(number, 0).UTC().Format("05"), Channel: c,
				Boot: part(int(number)), Root: part(100 + int(number)),
			})
		}
		p.Add(rs...)
	}
	for i, step := range []func(){
		func() { releases(2, release.Stable) },
		func() { p.Refresh() },
		func() { releases(1, release.Beta) },
		func() { p.Rotate() },
		func() {},
		func() { releases(3, release.Stable); p.Rotate(); releases(1, release.Beta) },
		func() { p.Withdraw(release.Stable, "rpi", "v1.01") },
		func() {
			releases(3, release.Stable)
			releases(2, release.Beta)
		},
	} {
		step()
		st, err := b.Follow(t.Context(), src, clock())
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		updaters = append(updaters, updater(t, p.Root()))
		for j, u := range updaters {
			if j < len(updaters)-1 && (i+j)%3 != 0 && i < 7 {
				continue // was off when that happened
			}
			got, err := u.Refresh(t.Context(), b.store, clock())
			if err != nil {
				t.Fatalf("step %d, who came at step %d: %v", i, j, err)
			}
			if got.Versions != st.Versions {
				t.Errorf("step %d: versions %v, %v", i, got.Versions, st.Versions)
			}
			for _, target := range u.Targets() {
				path := release.TargetFile(target.Path, target.SHA256)
				_, board, _, _ := release.ParseTarget(target.Path)
				desc, err := b.store.Get(t.Context(), path, target.Length)
				if board != "pc" {
					if err == nil {
						t.Errorf("step %d: the description for another board is kept", i)
					}
					continue
				}
				if err != nil || u.Verify(target.Path, desc) != nil {
					t.Errorf("step %d: %s: %v", i, path, err)
				}
			}
		}
	}
	files, err := b.store.Files("")
	if err != nil {
		t.Fatal(err)
	}
	var current []string
	for _, f := range files {
		if strings.Contains(f, ".targets.json") || strings.Contains(f, ".snapshot.json") || strings.Contains(f, ".p/") {
			current = append(current, f)
		}
	}
	if len(current) > 4 {
		t.Errorf("too much is kept: %v", current)
	}

	// A neighbour that has seen nothing gets all of it from the store, and an updater all of it from there.
	n := newBox(t, p.Root())
	if _, err := n.Follow(t.Context(), b.store, clock()); err != nil {
		t.Fatal(err)
	}
	theirs, err := n.store.Files("")
	if err != nil || !slices.Equal(theirs, files) {
		t.Errorf("the neighbour has\n%v\nnot\n%v", theirs, files)
	}
	// A bundle is enough, too.
	zip := p.Bundle("pc", release.Beta)
	bundle, err := fetch.OpenBundle(fetch.KindFile, "croft-pc.zip", bytes.NewReader(zip), int64(len(zip)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, box := range map[string]*box{"new": newBox(t, p.Root()), "known": b} {
		if _, err := box.Follow(t.Context(), bundle, clock()); err != nil {
			t.Errorf("bundle, to who is %s: %v", name, err)
		}
		if _, err := updater(t, p.Root()).Refresh(t.Context(), box.store, clock()); err != nil {
			t.Errorf("an updater of who is %s: %v", name, err)
		}
	}
	for channel, want := range map[release.Channel]string{release.Stable: "v1.10", release.Beta: "v1.12"} {
		if got, err := fetch.Peek(t.Context(), b.store, "pc", channel); err != nil || got != want {
			t.Errorf("Peek: %q, not %q, %v", got, want, err)
		}
	}
}

// changed is a source in which some files are others.
type changed struct {
	fetch.Source
	change func(path string, b []byte) ([]byte, error)
}

func (c changed) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, err := c.Source.Get(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	return c.change(path, b)
}

// TestFollowLiars changes each file of a repository in turn: what the store has afterwards still makes an updater happy, and the next
// honest source mends what is missing.
func TestFollowLiars(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute: run without -short")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Root: [2]int{2, 3}, Targets: [2]int{2, 3}})
	p.AddRelease("pc", 1, "v1", []byte("boot 1"), []byte("root 1"))
	src := dirSource(t, fetch.KindMirror, p.Dir())
	first := newBox(t, p.Root())
	if _, err := first.Follow(t.Context(), src, clock()); err != nil {
		t.Fatal(err)
	}
	p.Rotate()
	p.AddRelease("pc", 2, "v2", []byte("boot 2"), []byte("root 2"))
	whole := newBox(t, p.Root())
	if _, err := whole.Follow(t.Context(), src, clock()); err != nil {
		t.Fatal(err)
	}
	paths, err := whole.store.Files("")
	if err != nil {
		t.Fatal(err)
	}
	lies := map[string]func(b []byte) ([]byte, error){
		"one byte": func(b []byte) ([]byte, error) {
			b = bytes.Clone(b)
			b[len(b)/3] ^= 1
			return b, nil
		},
		"cut":     func(b []byte) ([]byte, error) { return b[:len(b)/2], nil },
		"missing": func([]byte) ([]byte, error) { return nil, fetch.ErrNotFound },
		"broken":  func([]byte) ([]byte, error) { return nil, errors.New("connection reset") },
	}
	for _, path := range paths {
		for name, lie := range lies {
			b := newBox(t, p.Root())
			old, err := fetch.OpenDir(fetch.KindFile, "before", filepath.Join(first.dir, "store/repo"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Follow(t.Context(), old, clock()); err != nil { // has seen what was before
				t.Fatal(err)
			}
			old.Close()
			bad := changed{src, func(q string, content []byte) ([]byte, error) {
				if q == path {
					return lie(content)
				}
				return content, nil
			}}
			_, lied := b.Follow(t.Context(), bad, clock())
			u := updater(t, p.Root())
			if _, err := u.Refresh(t.Context(), b.store, clock()); err != nil {
				t.Errorf("%s of %s (%v): an updater says %v", name, path, lied, err)
			}
			if _, err := b.Follow(t.Context(), src, clock()); err != nil {
				t.Errorf("%s of %s (%v): then honestly: %v", name, path, lied, err)
			}
			if _, err := u.Refresh(t.Context(), b.store, clock()); err != nil {
				t.Errorf("%s of %s: then an updater says %v", name, path, err)
			}
			if len(u.Targets()) != 2 {
				t.Errorf("%s of %s: %d targets", name, path, len(u.Targets()))
			}
			b.store.Close()
		}
	}
}

// TestFollowOlder has a source that is behind: nothing goes back.
func TestFollowOlder(t *testing.T) {
	p := publishtest.New(t, publishtest.Options{Root: [2]int{2, 3}, Targets: [2]int{2, 3}})
	p.AddRelease("pc", 1, "v1", []byte("boot 1"), []byte("root 1"))
	behind := t.TempDir()
	if err := os.CopyFS(behind, os.DirFS(p.Dir())); err != nil {
		t.Fatal(err)
	}
	p.AddRelease("pc", 2, "v2", []byte("boot 2"), []byte("root 2"))
	b := newBox(t, p.Root())
	if _, err := b.Follow(t.Context(), dirSource(t, fetch.KindMirror, p.Dir()), clock()); err != nil {
		t.Fatal(err)
	}
	before := contents(t, b.store)
	if _, err := b.Follow(t.Context(), dirSource(t, fetch.KindMirror, behind), clock()); !errors.Is(err, trust.ErrRollback) {
		t.Errorf("an older repository: %v", err)
	}
	if after := contents(t, b.store); !maps.EqualFunc(before, after, bytes.Equal) {
		t.Error("the store has changed")
	}
}

func contents(t testing.TB, s *fetch.Store) map[string][]byte {
	t.Helper()
	files, err := s.Files("")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		if all[f], err = s.Get(t.Context(), f, release.MaxPart); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestFollowDamaged damages what is kept, file by file: the next look mends it.
func TestFollowDamaged(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run without -short")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Root: [2]int{2, 3}, Targets: [2]int{2, 3}})
	p.AddRelease("pc", 1, "v1", []byte("boot 1"), []byte("root 1"))
	p.Rotate()
	src := dirSource(t, fetch.KindMirror, p.Dir())
	b := newBox(t, p.Root())
	if _, err := b.Follow(t.Context(), src, clock()); err != nil {
		t.Fatal(err)
	}
	paths, err := b.store.Files("")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		name := filepath.Join(b.dir, "store/repo", path)
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, damage := range []func() error{
			func() error { return os.Remove(name) },
			func() error { return os.Truncate(name, 0) },
			func() error { return os.WriteFile(name, bytes.Repeat([]byte("x"), len(good)), 0o644) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Follow(t.Context(), src, clock()); err != nil {
				t.Errorf("%s damaged: %v", path, err)
			}
			u := updater(t, p.Root())
			if _, err := u.Refresh(t.Context(), b.store, clock()); err != nil {
				t.Errorf("%s damaged: then an updater says %v", path, err)
			}
			if got, err := os.ReadFile(name); (err != nil || !bytes.Equal(got, good)) && !strings.Contains(path, "1.root.json.tlog-proof") {
				t.Errorf("%s is still damaged: %v", path, err)
			}
		}
	}
}

func TestCompareVersions(t *testing.T) {
	list := []string{"", "1", "v0.9", "v1", "v1.2.3", "v1.2.10", "v1.10.0", "v1.10.0-rc1", "v2"}
	for i, a := range list {
		for j, b := range list {
			if got := fetch.CompareVersions(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%q, %q: %d", a, b, got)
			}
		}
	}
}
