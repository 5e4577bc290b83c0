package trust

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/croft-os/croft/updater/release"
)

// memory is a disk that remembers what was flushed, and can be full or broken.
type memory struct {
	files map[string]file // as programs see them
	safe  map[string]file // what the folder says after a power cut at the least
	ops   int
	fail  int           // the operation that fails, if not 0
	step  func(*memory) // after every operation
}

type file struct {
	b      []byte
	synced bool
}

func newMemory() *memory { return &memory{files: map[string]file{}, safe: map[string]file{}} }

var errDisk = errors.New("no space left on device")

func (m *memory) op() error {
	m.ops++
	if m.ops == m.fail {
		return errDisk
	}
	return nil
}

func (m *memory) Read(name string) ([]byte, error) {
	f, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return f.b, nil
}

func (m *memory) Write(name string, b []byte) error {
	// Created and empty, written in part, written and not flushed, flushed.
	for _, f := range []file{{nil, false}, {b[:len(b)/2], false}, {b, false}, {b, true}} {
		if err := m.op(); err != nil {
			return err
		}
		m.files[name] = file{bytes.Clone(f.b), f.synced}
		m.after()
	}
	return nil
}

func (m *memory) Rename(from, to string) error {
	if err := m.op(); err != nil {
		return err
	}
	m.files[to] = m.files[from]
	delete(m.files, from)
	m.after()
	return nil
}

func (m *memory) Sync() error {
	if err := m.op(); err != nil {
		return err
	}
	m.safe = maps.Clone(m.files)
	m.after()
	return nil
}

func (m *memory) after() {
	if m.step != nil {
		m.step(m)
	}
}

// cuts are the states that a power cut now may leave: the folder as it was flushed last or as programs see it, per name; and of each file
// that was not flushed everything, half, zeros, or nothing.
func (m *memory) cuts() []map[string][]byte {
	names := map[string]bool{}
	for n := range m.files {
		names[n] = true
	}
	for n := range m.safe {
		names[n] = true
	}
	states := []map[string][]byte{{}}
	for n := range names {
		var variants [][]byte
		gone := false
		for _, folder := range []map[string]file{m.safe, m.files} {
			f, ok := folder[n]
			switch {
			case !ok:
				gone = true
			case f.synced:
				variants = append(variants, f.b)
			default:
				variants = append(variants, f.b, f.b[:len(f.b)/2], make([]byte, len(f.b)), nil)
			}
		}
		var next []map[string][]byte
		for _, s := range states {
			if gone {
				next = append(next, maps.Clone(s))
			}
			for _, v := range variants {
				c := maps.Clone(s)
				c[n] = v
				next = append(next, c)
			}
		}
		states = next
	}
	return states
}

func testPowerCut(t *testing.T) {
	p := newPublisher(t)
	m := newMemory()
	c, err := create(m, Options{Root: p.files["metadata/1.root.json"], NeedLog: true})
	if err != nil {
		t.Fatal(err)
	}
	mustRefresh(t, c, p)
	p.release(release.Stable, "v2")
	p.root()
	p.root()
	p.all()

	seen, last := 0, Versions{}
	known := map[string]bool{}
	m.step = func(m *memory) {
		for _, s := range m.cuts() {
			seen++
			key := ""
			for _, n := range slices.Sorted(maps.Keys(s)) {
				key += n + "=" + fingerprint(s[n]) + " "
			}
			if known[key] {
				continue
			}
			known[key] = true
			if testing.Short() && len(known)%8 != 0 {
				continue
			}
			after := newMemory()
			for n, b := range s {
				after.files[n] = file{b, true}
			}
			after.safe = maps.Clone(after.files)
			d, err := open(after, Options{NeedLog: true})
			if err != nil {
				t.Fatalf("a cut leaves %s: %v", key, err)
			}
			v := d.Status().Versions
			if v.Root < 1 || v.Root < last.Root-1 || v.Timestamp < 1 || len(d.Targets()) == 0 {
				t.Errorf("a cut leaves %+v and %v", v, paths(d.Targets()))
			}
			last = v
			if len(known)%16 == 0 { // and goes on from there
				mustRefresh(t, d, p)
				if d.Status().Versions.Root != 3 || len(d.Targets()) != 3 {
					t.Errorf("%+v", d.Status())
				}
			}
		}
	}
	mustRefresh(t, c, p)
	if seen < 500 || len(known) < 50 {
		t.Errorf("only %d states, %d different ones", seen, len(known))
	}
	t.Logf("%d states, %d different ones", seen, len(known))

	// The very first write: nothing, or all.
	m = newMemory()
	m.step = func(m *memory) {
		for _, s := range m.cuts() {
			after := newMemory()
			for n, b := range s {
				after.files[n] = file{b, true}
			}
			if _, err := open(after, Options{}); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v", err)
			}
		}
	}
	if _, err := create(m, Options{Root: p.files["metadata/1.root.json"]}); err != nil {
		t.Fatal(err)
	}
}

func testStore(t *testing.T) {
	t.Run("full disk and I/O errors", func(t *testing.T) {
		p := newPublisher(t)
		p.release(release.Stable, "v2")
		p.root()
		p.all()
		step := 1
		if testing.Short() {
			step = 17
		}
		for fail := 1; ; fail += step {
			_, c := newFollower(t)
			m := c.disk.(*memory)
			m.fail = m.ops + fail
			_, err := c.Refresh(t.Context(), p, clock(2))
			if err == nil {
				if fail < 20 {
					t.Errorf("only %d operations", fail)
				}
				break
			}
			if !errors.Is(err, errDisk) || len(c.Targets()) == 0 {
				t.Errorf("operation %d: %v, %v", fail, err, paths(c.Targets()))
			}
			m.fail = 0
			mustRefresh(t, c, p)
			d, err := open(m, Options{NeedLog: true})
			if err != nil || len(d.Targets()) != 3 {
				t.Errorf("operation %d: %v", fail, err)
			}
		}
	})
	t.Run("damage", func(t *testing.T) {
		p := newPublisher(t)
		dir := t.TempDir()
		c, err := Create(dir, Options{Root: p.files["metadata/1.root.json"], NeedLog: true})
		if err != nil {
			t.Fatal(err)
		}
		p.root()
		p.all()
		want := mustRefresh(t, c, p)
		damage := map[string]func([]byte) []byte{
			"empty":     func([]byte) []byte { return nil },
			"truncated": func(b []byte) []byte { return b[:len(b)-1] },
			"flipped":   func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 0x40; return b },
			"zeros":     func(b []byte) []byte { return make([]byte, len(b)) },
			"no hash":   func(b []byte) []byte { return b[bytes.IndexByte(b, '\n'):] },
		}
		good := map[string][]byte{}
		for _, name := range storeFiles() {
			if good[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		write := func(name string, b []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if testing.Short() {
			damage = map[string]func([]byte) []byte{"flipped": damage["flipped"]}
		}
		for what, f := range damage {
			for _, name := range storeFiles() {
				write(name, f(good[name]))
				d, err := Open(dir, Options{NeedLog: true})
				if err != nil || d.Status().Versions != want.Versions {
					t.Errorf("%s %s: %v", name, what, err)
				}
				write(name, good[name])
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				if d, err := Open(dir, Options{NeedLog: true}); err != nil || d.Status().Versions != want.Versions {
					t.Errorf("%s gone: %v", name, err)
				}
				write(name, good[name])
			}
			for _, name := range storeFiles() {
				write(name, f(good[name]))
			}
			// Never back to an older root by itself: both copies gone is for the owner.
			if _, err := Open(dir, Options{Root: p.files["metadata/1.root.json"]}); !errors.Is(err, ErrDamaged) {
				t.Errorf("both %s: %v", what, err)
			}
			if _, err := Create(dir, Options{Root: p.files["metadata/1.root.json"]}); !errors.Is(err, fs.ErrExist) {
				t.Errorf("both %s: %v", what, err)
			}
			for _, name := range storeFiles() {
				write(name, good[name])
			}
		}
	})
	t.Run("nothing new is not written again", func(t *testing.T) {
		p := newPublisher(t)
		m := newMemory()
		c, err := create(m, Options{Root: p.files["metadata/1.root.json"], NeedLog: true})
		if err != nil {
			t.Fatal(err)
		}
		mustRefresh(t, c, p)
		ops := m.ops
		mustRefresh(t, c, p)
		if m.ops != ops {
			t.Errorf("%d operations", m.ops-ops)
		}
	})
	t.Run("none", func(t *testing.T) {
		if _, err := Open(t.TempDir(), Options{}); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if _, err := Create(t.TempDir(), Options{Root: []byte("{}")}); !errors.Is(err, ErrMetadata) {
			t.Error(err)
		}
	})
}
