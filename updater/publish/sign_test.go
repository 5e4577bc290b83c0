package publish_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
)

// stager makes stages of one publisher, of which those for the same arguments are copies.
type stager struct {
	p    *publishtest.Publisher
	made map[string]string
}

func newStager(p *publishtest.Publisher) *stager { return &stager{p, map[string]string{}} }

// stage makes one with a release by the number n.
func (s *stager) stage(t *testing.T, n int64, version string) *publish.Stage {
	t.Helper()
	key := fmt.Sprint(n, version)
	if s.made[key] == "" {
		st, dir := s.p.Stage(), t.TempDir()
		_, err := st.Add(t.Context(), publish.Input{
			Dir: dir, Notes: map[string]string{"en": "New."}, From: []string{s.p.Dir()},
			Payload: s.p.Payload(dir, publishtest.Release{Board: "pc", Number: n, Version: version, Boot: part(1000, uint64(n)), Root: part(9000, uint64(n))}),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.made[key] = st.Dir
	}
	dir := filepath.Join(t.TempDir(), "stage")
	if err := os.CopyFS(dir, os.DirFS(s.made[key])); err != nil {
		t.Fatal(err)
	}
	st, err := publish.OpenStage(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func yes(string) bool { return true }

// TestSignRefuses goes through what a holder of a key must not sign, whoever hands it to them.
func TestSignRefuses(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 1}})
	p.AddRelease("pc", 5, "v5", part(1000, 1), part(9000, 1))
	ada, stages := p.Person("targets-1"), newStager(p)
	hash := func(st *publish.Stage, version string) string {
		sum, err := st.ReleaseHash(release.Target(release.Stable, "pc", version))
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	for name, tc := range map[string]struct {
		do   func(t *testing.T, st *publish.Stage, o *publish.SignOptions)
		want string // part of the error; "" means signed
	}{
		"rebuilt": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Rebuilt = []string{stages.stage(t, 6, "v6").Dir}
		}, ""},
		"trusted": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) { o.Trust = []string{hash(st, "v6")} }, ""},
		"neither": {func(*testing.T, *publish.Stage, *publish.SignOptions) {}, "neither built the same nor said that you trust it"},
		"rebuilt as something else": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Rebuilt = []string{stages.stage(t, 7, "v6").Dir}
		}, "neither built"},
		"the wrong key":    {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) { o.Key = p.Person("root-1") }, "may sign nothing"},
		"a stranger's key": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) { o.Key = p.Key("stranger") }, "may sign nothing"},
		"no": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Trust, o.Confirm = []string{hash(st, "v6")}, func(string) bool { return false }
		}, "as you said"},
		"twice": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Trust = []string{hash(st, "v6")}
			if _, err := st.Sign(*o); err != nil {
				t.Fatal(err)
			}
		}, "signed all of this already"},
		"another of the same version": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Trust = []string{hash(st, "v6")}
			other := stages.stage(t, 7, "v7")
			o2 := *o
			o2.Trust = []string{hash(other, "v7")}
			if _, err := other.Sign(o2); err != nil {
				t.Fatal(err)
			}
		}, "has signed another targets with version 3 before"},
		"another, and the first is gone": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Trust, o.Replace = []string{hash(st, "v6")}, true
			other := stages.stage(t, 7, "v7")
			o2 := *o
			o2.Trust = []string{hash(other, "v7")}
			if _, err := other.Sign(o2); err != nil {
				t.Fatal(err)
			}
			o.Confirm = func(text string) bool {
				return strings.Contains(text, "THIS KEY HAS SIGNED ANOTHER targets WITH VERSION 3")
			}
		}, ""},
		"an older version": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Trust = []string{hash(st, "v6")}
			ledger := `{"` + p.Fingerprint() + `": {"targets": {"version": 9, "sha256": ""}}}`
			if err := os.WriteFile(o.Ledger, []byte(ledger), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "has signed version 9 already"},
		"a damaged ledger": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			o.Trust = []string{hash(st, "v6")}
			if err := os.WriteFile(o.Ledger, []byte(`{`), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "what this key has signed before"},
		"expired": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			later, err := publish.OpenStage(st.Dir, time.Now().Add(2*publish.TargetsLife))
			if err != nil {
				t.Fatal(err)
			}
			o.Trust = []string{hash(st, "v6")}
			*st = *later
		}, "expired"},
		"the description is another one": {func(t *testing.T, st *publish.Stage, o *publish.SignOptions) {
			sum := hash(st, "v6")
			o.Trust = []string{sum}
			file := filepath.Join(st.Dir, release.TargetFile(release.Target(release.Stable, "pc", "v6"), sum))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(strings.Replace(string(b), "New.", "Old.", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not what its metadata says"},
	} {
		t.Run(name, func(t *testing.T) {
			st := stages.stage(t, 6, "v6")
			o := publish.SignOptions{Key: ada, Ledger: filepath.Join(t.TempDir(), "ada.signed"), Confirm: yes}
			tc.do(t, st, &o)
			names, err := st.Sign(o)
			if tc.want == "" {
				if err != nil || len(names) != 1 || names[0] != "metadata/3.targets.json" {
					t.Errorf("%q, %v", names, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("signed %q, %v, want %q", names, err, tc.want)
			}
		})
	}
}

// TestStageRefuses changes a stage on its way between people.
func TestStageRefuses(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	p.AddRelease("pc", 5, "v5", part(1000, 1), part(9000, 1))
	stages := newStager(p)
	edit := func(file, from, to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(b), from) {
				t.Fatalf("no %s in %s", from, b)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(b), from, to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	rename := func(from, to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		do   func(*testing.T, string)
		want string
	}{
		"what it follows is another list": {edit("base/metadata/2.targets.json", "v5", "v4"), "what "},
		"what it follows is another root": {edit("base/metadata/1.root.json", `"threshold":3`, `"threshold":1`), "what "},
		"a version back":                  {edit("metadata/3.targets.json", `"version":3`, `"version":2`), "says that it is version 2"},
		"a version left out":              {rename("metadata/3.targets.json", "metadata/4.targets.json"), "version"},
		"a root that is none":             {rename("metadata/3.targets.json", "metadata/2.root.json"), "2.root.json"},
		"a timestamp":                     {rename("metadata/3.targets.json", "metadata/timestamp.json"), "does not belong"},
		"no JSON":                         {edit("metadata/3.targets.json", `{`, `[`), "3.targets.json"},
	} {
		t.Run(name, func(t *testing.T) {
			st := stages.stage(t, 6, "v6")
			tc.do(t, st.Dir)
			if _, err := publish.OpenStage(st.Dir, time.Now()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}

	t.Run("copies of something else", func(t *testing.T) {
		a, b := stages.stage(t, 6, "v6"), stages.stage(t, 7, "v7")
		if err := a.Gather([]string{b.Dir}); err == nil || !strings.Contains(err.Error(), "is not the file that") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a signature of nothing", func(t *testing.T) {
		st := stages.stage(t, 6, "v6")
		p.Sign(st)
		file := filepath.Join(st.Dir, "metadata/3.targets.json")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		i := strings.Index(string(b), `"sig":"`) + 7
		if b[i] == '0' {
			b[i] = '1'
		} else {
			b[i] = '0'
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := publish.Publish(t.Context(), p.Options(), st.Dir, nil); !errors.Is(err, publish.ErrIncomplete) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a blob of something else", func(t *testing.T) {
		st := stages.stage(t, 6, "v6")
		p.Sign(st)
		blobs, err := filepath.Glob(filepath.Join(st.Dir, "blobs/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blobs {
			if err := os.WriteFile(b, []byte("else"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := files(t, p.Dir())
		if _, err := publish.Publish(t.Context(), p.Options(), st.Dir, nil); err == nil || !strings.Contains(err.Error(), "not what its name says") {
			t.Errorf("%v", err)
		}
		if after := files(t, p.Dir()); len(after) != len(before) {
			t.Errorf("%q, %q", before, after)
		}
	})
}

// TestRootInWords makes sure that nobody signs a new root without being told what is new about it.
func TestRootInWords(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 1}})
	for name, tc := range map[string]struct {
		change func(*publish.Setup)
		want   []string
	}{
		"nothing": {func(*publish.Setup) {}, []string{"root: as before, 3 of 5 keys", "targets: as before", "public log: as before"}},
		"a key": {func(s *publish.Setup) { s.Root.Keys[0] = p.Key("newcomer").PublicKey }, []string{
			"root: 3 of 5 keys, before 3 of 5", "+   newcomer (key", "-   root-1 (key",
		}},
		"a threshold": {func(s *publish.Setup) { s.Targets.N = 1 }, []string{"targets: 1 of 5 keys, before 3 of 5", "root: as before"}},
		"the machine": {func(s *publish.Setup) { s.Timestamp.Keys[0] = p.Key("box").PublicKey }, []string{"timestamp: 1 of 1 keys", "+   box", "-   online"}},
		"no log":      {func(s *publish.Setup) { s.Log = nil }, []string{"THE PUBLIC LOG IS GIVEN UP"}},
		"the quorum": {func(s *publish.Setup) { s.Log = p.Policy(p.Options().Log[0], 1) }, []string{
			"1 of these witnesses", "before: 2 witnesses had to have seen it",
		}},
		"the log": {func(s *publish.Setup) { s.Log = p.Policy(p.Key("example.org/next"), 2) }, []string{
			"public log: example.org/next+", "before: example.org/croft+",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := publish.SetupOf(p.Dir())
			if err != nil {
				t.Fatal(err)
			}
			tc.change(&s)
			st := p.Stage()
			if err := st.Rotate(s); err != nil {
				t.Fatal(err)
			}
			told := ""
			_, err = st.Sign(publish.SignOptions{Key: p.Person("root-2"), Confirm: func(text string) bool { told = text; return true }})
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range append(tc.want, p.Fingerprint(), "version 2, valid until", "root-2") {
				if !strings.Contains(told, w) {
					t.Errorf("%q is not in\n%s", w, told)
				}
			}
		})
	}
}
