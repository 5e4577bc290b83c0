package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/release"
)

// TestMain is also the processes that other tests start.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("CROFT_TEST_FETCH") != "":
		child(os.Getenv("CROFT_TEST_FETCH"))
	case os.Getenv("CROFT_TEST_FULL") != "":
		small(os.Getenv("CROFT_TEST_FULL"))
	case os.Getenv("CROFT_TEST_HUNGRY") != "":
		runHungry(os.Getenv("CROFT_TEST_HUNGRY"))
	}
	os.Exit(m.Run())
}

// fake is a source in memory. do may answer in its place.
type fake struct {
	kind, name string
	files      map[string][]byte
	do         func(ctx context.Context, off int64, p []byte) error

	mu    sync.Mutex
	asked []int64 // offsets
}

func (f *fake) Kind() string { return f.kind }
func (f *fake) Name() string { return f.name }
func (f *fake) Close() error { return nil }

func (f *fake) Get(_ context.Context, path string, _ int64) ([]byte, error) {
	if b, ok := f.files[path]; ok {
		return b, nil
	}
	return nil, fetch.ErrNotFound
}

func (f *fake) ReadRange(ctx context.Context, path string, off int64, p []byte) error {
	f.mu.Lock()
	f.asked = append(f.asked, off)
	f.mu.Unlock()
	b, ok := f.files[path]
	if !ok {
		return fetch.ErrNotFound
	}
	copy(p, b[off:])
	if f.do != nil {
		return f.do(ctx, off, p)
	}
	return nil
}

func (f *fake) times() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

func newFake(kind, name string, blobs ...[]byte) *fake {
	f := &fake{kind: kind, name: name, files: map[string][]byte{}}
	for _, b := range blobs {
		f.files[release.BlobFile(fetchtest.Hash(b))] = b
	}
	return f
}

func sources(fs ...*fake) []fetch.Source {
	var list []fetch.Source
	for _, f := range fs {
		list = append(list, f)
	}
	return list
}

// TestOrder looks at which sources are asked.
func TestOrder(t *testing.T) {
	blob, want := framed(1, 6)
	file, usb := newFake(fetch.KindFile, "file", blob), newFake(fetch.KindUSB, "usb", blob)
	near := []*fake{newFake(fetch.KindNeighbour, "a", blob), newFake(fetch.KindNeighbour, "b", blob), newFake(fetch.KindNeighbour, "c", blob)}
	mirror := newFake(fetch.KindMirror, "m", blob)
	list := sources(mirror, near[0], usb, near[1], file, near[2])
	fetch.Sort(list)
	var names []string
	for _, s := range list {
		names = append(names, s.Name())
	}
	if !slices.Equal(names, []string{"file", "usb", "a", "b", "c", "m"}) {
		t.Errorf("sorted: %v", names)
	}
	if err := (&fetch.Job{Store: newStore(t), Sources: list}).Fetch(t.Context(), []fetch.Want{want}); err != nil {
		t.Fatal(err)
	}
	if file.times() != 6 || usb.times()+mirror.times()+near[0].times() != 0 {
		t.Errorf("asked the file %d times, others as well", file.times())
	}
	// Neighbours together; the mirror not at all.
	gate := make(chan struct{})
	for _, n := range near {
		n.do = func(ctx context.Context, _ int64, _ []byte) error {
			select {
			case gate <- struct{}{}: // needs two at the same time
			case <-gate:
			case <-time.After(5 * time.Second):
				return errors.New("alone")
			}
			return nil
		}
	}
	store := newStore(t)
	if err := (&fetch.Job{Store: store, Sources: list[2:]}).Fetch(t.Context(), []fetch.Want{want}); err != nil {
		t.Fatal(err)
	}
	if n := near[0].times() + near[1].times() + near[2].times(); n != 6 || mirror.times() != 0 {
		t.Errorf("neighbours %d times, mirror %d times", n, mirror.times())
	}
	check(t, store, blob)
}

// TestGoesOn has a source that brings some pieces and then fails in every way: the next goes on with what is missing.
func TestGoesOn(t *testing.T) {
	blob, want := framed(1, 6)
	for name, end := range map[string]func(ctx context.Context, p []byte) error{
		"lies":      func(_ context.Context, p []byte) error { p[7] ^= 1; return nil },
		"truncates": func(context.Context, []byte) error { return fmt.Errorf("x: %w", io.ErrUnexpectedEOF) },
		"stalls":    func(context.Context, []byte) error { return fetch.ErrStalled },
		"breaks":    func(context.Context, []byte) error { return errors.New("connection reset") },
		"vanishes":  func(context.Context, []byte) error { return fetch.ErrNotFound },
		"hangs":     func(ctx context.Context, _ []byte) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			first, second := newFake(fetch.KindNeighbour, "first", blob), newFake(fetch.KindMirror, "second", blob)
			first.do = func(ctx context.Context, off int64, p []byte) error {
				if off >= want.Size/2 {
					return end(ctx, p)
				}
				return nil
			}
			var bad []string
			var last fetch.Progress
			store := newStore(t)
			job := fetch.Job{
				Store: store, Sources: sources(first, second), Patience: 50 * time.Millisecond,
				Bad:      func(s fetch.Source, _ error) { bad = append(bad, s.Name()) },
				Progress: func(p fetch.Progress) { last = p },
			}
			if err := job.Fetch(t.Context(), []fetch.Want{want}); err != nil {
				t.Fatal(err)
			}
			check(t, store, blob)
			if n := second.times(); n != 2 { // the pieces from the middle on
				t.Errorf("the second was asked %d times for 2 pieces", n)
			}
			if lied := name == "lies"; lied != slices.Equal(bad, []string{"first"}) || len(bad) > 1 {
				t.Errorf("liars: %v", bad)
			}
			if last.Done != want.Size || last.Total != want.Size || last.Source.Name() != "second" {
				t.Errorf("progress at the end: %+v", last)
			}
		})
	}
}

// TestWholeOnly has blobs without frames: a wrong byte shows at the end, and who lied is found out.
func TestWholeOnly(t *testing.T) {
	blob := fetchtest.Bytes(9, 9<<20)
	want := fetch.Want{Blob: fetchtest.Hash(blob), Size: int64(len(blob))}
	liar, flaky, good := newFake(fetch.KindMirror, "liar", blob), newFake(fetch.KindMirror, "flaky", blob), newFake(fetch.KindMirror, "good", blob)
	liar.do = func(_ context.Context, off int64, p []byte) error {
		if off == 0 {
			p[0] ^= 1
			return nil
		}
		return nil
	}
	failed := false
	flaky.do = func(_ context.Context, off int64, p []byte) error {
		if off > 0 && !failed {
			failed = true
			return errors.New("connection reset")
		}
		return nil
	}
	for name, list := range map[string][]*fake{
		"liar first": {liar, good}, "liar last": {flaky, liar}, "mixed": {flaky, liar, good}, "only flaky": {flaky},
	} {
		t.Run(name, func(t *testing.T) {
			failed = false
			var bad []string
			store := newStore(t)
			job := fetch.Job{
				Store: store, Sources: sources(list...), Patience: 20 * time.Millisecond,
				Bad: func(s fetch.Source, _ error) { bad = append(bad, s.Name()) },
			}
			if err := job.Fetch(t.Context(), []fetch.Want{want}); err != nil {
				t.Fatal(err)
			}
			check(t, store, blob)
			if slices.ContainsFunc(bad, func(s string) bool { return s != "liar" }) {
				t.Errorf("taken for liars: %v", bad)
			}
		})
	}
	job := fetch.Job{Store: newStore(t), Sources: sources(liar), Patience: time.Millisecond}
	if err := job.Fetch(t.Context(), []fetch.Want{want}); !errors.Is(err, fetch.ErrExhausted) || !errors.Is(err, fetch.ErrLied) {
		t.Errorf("only a liar: %v", err)
	}
}

func TestNoSource(t *testing.T) {
	blob, want := framed(1, 2)
	job := fetch.Job{Store: newStore(t)}
	if err := job.Fetch(t.Context(), []fetch.Want{want}); !errors.Is(err, fetch.ErrExhausted) {
		t.Errorf("%v", err)
	}
	job.Sources = sources(newFake(fetch.KindUSB, "empty"))
	if err := job.Fetch(t.Context(), []fetch.Want{want}); !errors.Is(err, fetch.ErrExhausted) || !errors.Is(err, fetch.ErrNotFound) {
		t.Errorf("%v", err)
	}
	for name, bad := range map[string]fetch.Want{
		"no hash": {Blob: "x", Size: 1}, "a path": {Blob: "../" + want.Blob[3:], Size: 1}, "no size": {Blob: want.Blob},
		"too large": {Blob: want.Blob, Size: release.MaxPart + 1}, "negative": {Blob: want.Blob, Size: -1},
		"frames too short": {Blob: want.Blob, Size: want.Size + 1, Frames: want.Frames},
		"frames too long":  {Blob: want.Blob, Size: want.Size - 1, Frames: want.Frames},
		"negative frame":   {Blob: want.Blob, Size: 1, Frames: []release.Frame{{Size: -1, SHA256: want.Blob}, {Size: 2, SHA256: want.Blob}}},
	} {
		if err := job.Fetch(t.Context(), []fetch.Want{bad}); err == nil || errors.Is(err, fetch.ErrExhausted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Frames that are signed, but do not make up the blob that is signed: nobody's fault, and no endless loop.
	other := want
	other.Blob = fetchtest.Hash([]byte("another"))
	f := newFake(fetch.KindFile, "f")
	f.files[release.BlobFile(other.Blob)] = blob
	job.Sources = sources(f)
	if err := job.Fetch(t.Context(), []fetch.Want{other}); !errors.Is(err, fetch.ErrLied) {
		t.Errorf("frames of another blob: %v", err)
	}
}

// TestCancel ends a job in the middle; the next goes on where it was.
func TestCancel(t *testing.T) {
	blob, want := framed(1, 6)
	dir := t.TempDir()
	store, err := fetch.OpenStore(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := newFake(fetch.KindMirror, "m", blob)
	f.do = func(ctx context.Context, off int64, _ []byte) error {
		if off > want.Size/2 {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	if err := (&fetch.Job{Store: store, Sources: sources(f)}).Fetch(ctx, []fetch.Want{want}); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	store.Close()
	if store, err = fetch.OpenStore(dir, 1<<30); err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f.do, f.asked = nil, nil
	if err := (&fetch.Job{Store: store, Sources: sources(f)}).Fetch(t.Context(), []fetch.Want{want}); err != nil {
		t.Fatal(err)
	}
	check(t, store, blob)
	if n := f.times(); n < 1 || n > 3 {
		t.Errorf("asked %d times for what was missing", n)
	}
	// All there: nobody is asked.
	f.asked = nil
	if err := (&fetch.Job{Store: store, Sources: sources(f)}).Fetch(t.Context(), []fetch.Want{want}); err != nil || f.times() != 0 {
		t.Errorf("again: %v, asked %d times", err, f.times())
	}
}

// TestBitRot damages a complete blob, and an incomplete one, on the medium.
func TestBitRot(t *testing.T) {
	blob, want := framed(1, 6)
	for _, w := range []fetch.Want{want, {Blob: want.Blob, Size: want.Size}} {
		dir := t.TempDir()
		store, err := fetch.OpenStore(dir, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		f := newFake(fetch.KindMirror, "m", blob)
		job := fetch.Job{Store: store, Sources: sources(f)}
		if err := job.Fetch(t.Context(), []fetch.Want{w}); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "repo/blobs", w.Blob)
		for _, damage := range []func() error{
			func() error {
				b := bytes.Clone(blob)
				b[len(b)/2] ^= 4
				return os.WriteFile(name, b, 0o644)
			},
			func() error { return os.Truncate(name, w.Size/2) },
			func() error { return os.Truncate(name, w.Size*2) },
			func() error { return os.Truncate(name, 0) },
			func() error { return os.Rename(name, filepath.Join(dir, "partial", w.Blob)) },
			func() error {
				return errors.Join(os.Remove(name), os.WriteFile(filepath.Join(dir, "partial", w.Blob), make([]byte, w.Size), 0o644))
			},
			func() error {
				return errors.Join(os.Remove(name), os.WriteFile(filepath.Join(dir, "partial", w.Blob), make([]byte, w.Size*3), 0o644))
			},
			func() error { return errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)) },
			func() error {
				return errors.Join(os.Remove(name), os.Symlink("/etc/passwd", filepath.Join(dir, "partial", w.Blob)))
			},
			func() error { return errors.Join(os.Remove(name), os.MkdirAll(filepath.Join(name, "x"), 0o755)) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if err := job.Fetch(t.Context(), []fetch.Want{w}); err != nil {
				t.Error(err)
			}
			check(t, store, blob)
		}
		store.Close()
	}
}

// TestRoom has a budget for two blobs, and a third.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	var blobs [][]byte
	var wants []fetch.Want
	for i := range 4 {
		b, w := framed(uint64(i+1), 3)
		blobs, wants = append(blobs, b), append(wants, w)
	}
	store, err := fetch.OpenStore(dir, 2*wants[0].Size+100_000)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Put("metadata/1.root.json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	has := func() string {
		var s string
		for i, w := range wants {
			if store.Has(release.BlobFile(w.Blob), w.Size) {
				s += fmt.Sprint(i)
			}
		}
		return s
	}
	job := fetch.Job{Store: store, Sources: sources(newFake(fetch.KindUSB, "all", blobs...))}
	for _, step := range []struct {
		want []int
		ages []int // hours since they were last wanted, of the four; 0: not there
		has  string
		err  error
	}{
		{[]int{0}, nil, "0", nil},
		{[]int{1}, nil, "01", nil},
		{[]int{2}, []int{1, 5, 0, 0}, "02", nil},
		{[]int{0}, []int{9, 0, 5, 0}, "02", nil}, // is there, and now the one that was wanted last
		{[]int{3}, nil, "03", nil},
		{[]int{0, 3}, nil, "03", nil},
		{[]int{1, 0}, []int{9, 0, 0, 5}, "01", nil},                 // what is wanted does not go, old as it is
		{[]int{0, 2, 3}, []int{9, 5, 0, 0}, "02", fetch.ErrNoSpace}, // what fits stays, for whoever wants less
	} {
		for i, hours := range step.ages {
			at := time.Now().Add(-time.Duration(hours) * time.Hour)
			if hours == 0 {
				continue
			}
			if err := os.Chtimes(filepath.Join(dir, "repo/blobs", wants[i].Blob), at, at); err != nil {
				t.Fatal(err)
			}
		}
		var ws []fetch.Want
		for _, i := range step.want {
			ws = append(ws, wants[i])
		}
		if err := job.Fetch(t.Context(), ws); !errors.Is(err, step.err) || (err != nil) != (step.err != nil) {
			t.Errorf("%v: %v", step.want, err)
		}
		if got := has(); got != step.has {
			t.Errorf("%v: has %s, not %s", step.want, got, step.has)
		}
		used, budget, err := store.Used()
		if err != nil || used > budget {
			t.Errorf("%v: %d of %d bytes: %v", step.want, used, budget, err)
		}
	}
	if !store.Has("metadata/1.root.json", 2) {
		t.Error("metadata is gone")
	}
}

// TestRate limits the speed of a mirror, but does not take it for a slow one.
func TestRate(t *testing.T) {
	blob, want := framed(1, 2)
	srv, o := serve(t, fileServer(map[string][]byte{release.BlobFile(want.Blob): blob}))
	o.Limit = rate.NewLimiter(rate.Limit(want.Size), 64<<10)
	o.Window, o.MinRate = 200*time.Millisecond, 10<<20
	s, err := fetch.OpenMirror(srv.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	store := newStore(t)
	began := time.Now()
	calls := 0
	job := fetch.Job{Store: store, Sources: []fetch.Source{s}, Patience: 100 * time.Millisecond, Progress: func(fetch.Progress) { calls++ }}
	if err := job.Fetch(t.Context(), []fetch.Want{want}); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < 700*time.Millisecond || d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	if calls < 5 {
		t.Errorf("%d words on progress in a second", calls)
	}
	check(t, store, blob)
}

// child fetches into a folder from a slow source until it is killed.
func child(dir string) {
	blob, want := framed(5, 16)
	store, err := fetch.OpenStore(dir, 1<<30)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	f := newFake(fetch.KindMirror, "m", blob)
	f.do = func(context.Context, int64, []byte) error { time.Sleep(2 * time.Millisecond); return nil }
	wants := []fetch.Want{want}
	if strings.HasSuffix(dir, "whole") {
		wants[0].Frames = nil
	}
	fmt.Println("begins")
	if err := (&fetch.Job{Store: store, Sources: sources(f)}).Fetch(context.Background(), wants); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestKilled kills a process that fetches, again and again, and lets it go on.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run without -short")
	}
	blob, want := framed(5, 16)
	for _, kind := range []string{"framed", "whole"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), kind)
			for n := 1; ; n++ {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "CROFT_TEST_FETCH="+dir)
				pipe, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				io.ReadFull(pipe, make([]byte, len("begins\n")))
				kill := time.AfterFunc(time.Duration(n*120)*time.Millisecond, func() { cmd.Process.Kill() })
				out, _ := io.ReadAll(pipe)
				err = cmd.Wait()
				kill.Stop()
				if err == nil {
					t.Logf("done after %d kills", n-1)
					break
				}
				if cmd.ProcessState.ExitCode() != -1 {
					t.Fatalf("%v: %s", err, out)
				}
				if b, err := os.ReadFile(filepath.Join(dir, "repo/blobs", want.Blob)); err == nil && !bytes.Equal(b, blob) {
					t.Fatal("a wrong blob looks complete")
				}
				if n > 200 {
					t.Fatal("it never ends")
				}
			}
			store, err := fetch.OpenStore(dir, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			check(t, store, blob)
			if left, err := os.ReadDir(filepath.Join(dir, "new")); err != nil || len(left) != 0 {
				t.Errorf("left over: %v, %v", left, err)
			}
		})
	}
}

// small fetches to a medium that is too small, then to it with room made. It runs in a mount namespace of its own.
func small(dir string) {
	die := func(a ...any) { fmt.Println(a...); os.Exit(1) }
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=5m"); err != nil {
		die("mount:", err)
	}
	blob, want := framed(5, 16)
	store, err := fetch.OpenStore(filepath.Join(dir, "store"), 1<<30)
	if err != nil {
		die(err)
	}
	fetch.SetReserve(store, 0)
	f := newFake(fetch.KindMirror, "m", blob)
	// The room for all of it is taken before anything is fetched.
	hog := filepath.Join(dir, "hog")
	if err := os.WriteFile(hog, make([]byte, 3<<20), 0o600); err != nil {
		die(err)
	}
	job := fetch.Job{Store: store, Sources: sources(f)}
	err = job.Fetch(context.Background(), []fetch.Want{want})
	if !errors.Is(err, fetch.ErrNoSpace) || f.times() != 0 {
		die("full before it begins:", err, f.times())
	}
	if used, _, _ := store.Used(); used != 0 {
		die("left over:", used)
	}
	// Without a frame the file grows as it goes, here on a medium that something else fills meanwhile.
	whole := fetch.Want{Blob: want.Blob, Size: want.Size}
	os.Remove(hog)
	if err := job.Fetch(context.Background(), []fetch.Want{whole}); err != nil {
		die("with room:", err)
	}
	if err := os.WriteFile(hog, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		die("the medium is not full:", err)
	}
	if err := store.Put("metadata/1.root.json", make([]byte, 100_000)); !errors.Is(err, fetch.ErrNoSpace) {
		die("Put on a full medium:", err)
	}
	if store.Has("metadata/1.root.json", -1) {
		die("a file that could not be written is there")
	}
	got, err := store.Get(context.Background(), release.BlobFile(want.Blob), 1<<30)
	if err != nil || !bytes.Equal(got, blob) {
		die("the blob that was there before is not any more:", err)
	}
	os.Remove(hog)
	if err := store.Put("metadata/1.root.json", make([]byte, 100_000)); err != nil {
		die("Put with room again:", err)
	}
	fmt.Println("fine")
	os.Exit(0)
}

func TestFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CROFT_TEST_FULL="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "fine\n" {
		t.Errorf("%v: %s", err, out)
	}
}
