package publish_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/trust"
)

// TestMain has the many small files of these tests, each of which is flushed, in memory where that is to be had.
func TestMain(m *testing.M) {
	if dir, err := os.MkdirTemp("/dev/shm", "croft-publish-"); err == nil {
		os.Setenv("TMPDIR", dir)
		code := m.Run()
		os.RemoveAll(dir)
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// client follows a publisher from its first root on.
func client(t *testing.T, p *publishtest.Publisher) *trust.Client {
	t.Helper()
	c, err := trust.Create(t.TempDir(), trust.Options{Root: p.Root(), NeedLog: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func refresh(t *testing.T, c *trust.Client, p *publishtest.Publisher) trust.Status {
	t.Helper()
	s, err := c.Refresh(t.Context(), publish.Folder(p.Dir()), trust.Clock{Now: time.Now(), Sure: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// part makes a system of n bytes that differs a little from that of another seed.
func part(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range b {
		if i%4096 < 2048 {
			b[i] = byte(r.Uint32())
		}
	}
	r = rand.New(rand.NewPCG(seed, 2))
	for range 20 {
		b[r.IntN(n)] ^= 0x55
	}
	return b
}

func verify(t *testing.T, p *publishtest.Publisher) *publish.Verified {
	t.Helper()
	v, err := publish.Verify(t.Context(), publish.Folder(p.Dir()), publish.VerifyOptions{Fingerprint: p.Fingerprint(), Deep: true, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPublisher(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 2}})
	c := client(t, p)
	s := refresh(t, c, p)
	if s.Versions != (trust.Versions{Root: 1, Timestamp: 1, Snapshot: 1, Targets: 1, Beta: 1}) {
		t.Errorf("%+v", s.Versions)
	}
	if e := s.Evidence["targets"]; e.Signers != 3 || e.Of != 5 || e.Witnesses != 3 || !e.Logged {
		t.Errorf("%+v", e)
	}
	p.Refresh()
	if s = refresh(t, c, p); s.Versions.Timestamp != 2 || s.Versions.Snapshot != 1 {
		t.Errorf("%+v", s.Versions)
	}
	p.Rotate()
	if s = refresh(t, c, p); s.Versions.Root != 2 {
		t.Errorf("%+v", s.Versions)
	}
}

// TestReleases publishes more releases than are kept, and checks every byte that boxes could fetch.
func TestReleases(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 2}})
	c := client(t, p)
	for i := range int64(8) {
		p.AddRelease("pc", i+1, fmt.Sprintf("v1.%d.0", i), part(2_000, uint64(i)/3), part(20_000, uint64(i)))
		refresh(t, c, p)
	}
	v := verify(t, p)
	if len(v.Releases) != publish.Keep || v.Unproven == 0 || v.Patches < 15 {
		t.Errorf("%d releases, %d patches, %d unproven", len(v.Releases), v.Patches, v.Unproven)
	}
	last := v.Releases[len(v.Releases)-1].Release
	if last.Number != 8 || len(last.Root.Patches) != publish.Keep || len(last.Boot.Patches) != 2 {
		t.Errorf("number %d has %d and %d patches", last.Number, len(last.Boot.Patches), len(last.Root.Patches))
	}
	// A release that is only named by lists that were replaced twice is gone, with all that only it had.
	named := map[string]bool{}
	for _, r := range v.Releases {
		named[filepath.Base(release.TargetFile(r.Target.Path, r.Target.SHA256))] = true
	}
	left, err := filepath.Glob(filepath.Join(p.Dir(), "targets/releases/pc/*/*"))
	if err != nil || len(left) != publish.Keep+1 {
		t.Errorf("%d descriptions are left, %v", len(left), err)
	}
	p.Refresh()
	if left, _ = filepath.Glob(filepath.Join(p.Dir(), "targets/releases/pc/*/*")); len(left) != publish.Keep {
		t.Errorf("%d descriptions are left after the refresh", len(left))
	}
	for _, f := range left {
		if !named[filepath.Base(f)] {
			t.Errorf("%s is named by nothing", f)
		}
	}
	verify(t, p)

	// Several boards and both channels at once.
	p.Add(
		publishtest.Release{Board: "pc", Number: 9, Version: "v2.0.0", Boot: part(10_000, 1), Root: part(100_000, 1)},
		publishtest.Release{Board: "pi", Number: 9, Version: "v2.0.0", Boot: part(10_000, 2), Root: part(100_000, 2)},
		publishtest.Release{Board: "pi", Number: 10, Version: "v2.1.0", Channel: release.Beta, Boot: part(10_000, 3), Root: part(100_000, 3)},
	)
	if s := refresh(t, c, p); s.Versions.Beta != 2 || s.Versions.Targets != 10 {
		t.Errorf("%+v", s.Versions)
	}
	p.Withdraw(release.Stable, "pi", "v2.0.0")
	refresh(t, c, p)
	for _, x := range c.Targets() {
		if x.Path == "releases/pi/v2.0.0/release.json" {
			t.Error("what was withdrawn is still there")
		}
	}
}

// TestOnlineKeys exchanges the machine's key.
func TestOnlineKeys(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	p.AddRelease("pc", 1, "v1", part(1000, 1), part(9000, 1))
	old := client(t, p)
	refresh(t, old, p)
	p.NewOnlineKey()
	for _, c := range []*trust.Client{old, client(t, p)} {
		if s := refresh(t, c, p); s.Versions.Root != 2 || s.Versions.Timestamp != 3 {
			t.Errorf("%+v", s.Versions)
		}
	}
	p.Refresh()
	refresh(t, old, p)
}

// TestLogKeys exchanges the log's key, and then the log; witnesses and clients that know the old ones follow.
func TestLogKeys(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 1}})
	p.AddRelease("pc", 1, "v1", part(1000, 1), part(9000, 1))
	old := client(t, p)
	refresh(t, old, p)

	p.NewLogKey("")
	for _, c := range []*trust.Client{old, client(t, p)} {
		if s := refresh(t, c, p); s.Versions.Root != 2 || !s.Evidence["targets"].Logged || s.Log.Origin != "example.org/croft" {
			t.Errorf("%+v", s)
		}
	}
	p.AddRelease("pc", 2, "v2", part(1000, 2), part(9000, 2))
	refresh(t, old, p)

	p.NewLogKey("example.org/another")
	for _, c := range []*trust.Client{old, client(t, p)} {
		if s := refresh(t, c, p); s.Versions.Root != 3 || s.Versions.Targets != 4 || s.Log.Origin != "example.org/another" {
			t.Errorf("%+v", s)
		}
	}
	p.AddRelease("pc", 3, "v3", part(1000, 3), part(9000, 3))
	refresh(t, old, p)
	verify(t, p)
	s, err := publish.SetupOf(p.Dir())
	if err != nil {
		t.Fatal(err)
	}
	entries, cp, err := publish.ReadLog(filepath.Join(p.Dir(), "log"), s.Log)
	if err != nil || cp.Size != 4 || len(entries) != 4 || entries[0].Role != "root" || entries[0].Version != 3 {
		t.Errorf("%+v, %d, %v", entries, cp.Size, err)
	}
}

// TestReadLog makes sure that a log whose entries are not those that were cosigned is found out.
func TestReadLog(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	for i := range int64(3) {
		p.AddRelease("pc", i+1, fmt.Sprint("v", i), part(100, 1), part(900, uint64(i)))
	}
	s, err := publish.SetupOf(p.Dir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(p.Dir(), "log")
	entries, _, err := publish.ReadLog(dir, s.Log)
	if err != nil {
		t.Fatal(err)
	}
	var roles []string
	for _, e := range entries {
		roles = append(roles, fmt.Sprint(e.Version, e.Role))
	}
	if want := []string{"1root", "1targets", "2targets", "3targets", "4targets"}; !slices.Equal(roles, want) {
		t.Errorf("%q, want %q", roles, want)
	}
	bundles, err := filepath.Glob(filepath.Join(dir, "tile/entries/000.p/*"))
	if err != nil || len(bundles) != 1 {
		t.Fatalf("%q, %v: only the newest list of entries is needed", bundles, err)
	}
	good, err := os.ReadFile(bundles[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"changed":   append(append([]byte{}, good[:len(good)-1]...), good[len(good)-1]^1),
		"cut":       good[:len(good)-1],
		"too short": good[:2+int(good[0])<<8+int(good[1])],
		"empty":     {},
		"length":    {0xff, 0xff, 1},
	} {
		if err := os.WriteFile(bundles[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := publish.ReadLog(dir, s.Log); err == nil {
			t.Errorf("%s: not found out", name)
		}
	}
}

// TestWitnesses publishes with too few of them, and goes on when they are back.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Witnesses: 3, Quorum: 3})
	before := files(t, p.Dir())
	p.StopWitness(1)
	if err := p.TryRefresh(); !errors.Is(err, tlog.ErrWitnesses) || !strings.Contains(err.Error(), "witness-2.example") {
		t.Fatalf("%v", err)
	}
	if after := files(t, p.Dir()); !slices.Equal(before, after) {
		t.Errorf("changed: %q, %q", before, after)
	}
	p.StartWitness(1)
	p.Refresh()
	refresh(t, client(t, p), p)
}

// files lists what clients can see of a repository, with the content of what is small.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"metadata/*", "targets/*/*/*/*", "blobs/*", "log/checkpoint"} {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range m {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, fmt.Sprintf("%s %.80q", f, b))
		}
	}
	return list
}

// TestVerifyFindsOut changes every file that clients read, one after the other, and demands that each is noticed.
func TestVerifyFindsOut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 1}})
	p.AddRelease("pc", 1, "v1", part(1000, 1), part(9000, 1))
	p.AddRelease("pc", 2, "v2", part(1000, 2), part(9000, 2))
	verify(t, p)
	fingerprint, n := p.Fingerprint(), 0
	// Superseded lists and snapshots are there for clients that are just following them; nobody looks at them afresh. The first root is
	// the one that is trusted, so it is found by its fingerprint or not at all; its proof nobody needs.
	superseded := []string{"2.targets.json", "2.snapshot.json", "1.root.json.tlog-proof"}
	for _, pattern := range []string{"metadata/*", "targets/*/*/*/*", "blobs/*"} {
		list, err := filepath.Glob(filepath.Join(p.Dir(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range list {
			if slices.ContainsFunc(superseded, func(s string) bool { return strings.HasPrefix(filepath.Base(file), s) }) {
				continue
			}
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n++
			bit := bytes.Clone(good)
			at := len(bit) / 2
			if strings.HasSuffix(file, ".tlog-proof") {
				at = bytes.Index(bit, []byte("index ")) + 6 // not in one of the witnesses' signatures, of which not all are needed
			}
			bit[at] ^= 4
			for name, bad := range map[string][]byte{
				"a bit":  bit,
				"cut":    good[:len(good)-2],
				"longer": append(append([]byte{}, good...), "x"...),
				"gone":   nil,
			} {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				if bad != nil {
					if err := os.WriteFile(file, bad, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				_, err := publish.Verify(t.Context(), publish.Folder(p.Dir()),
					publish.VerifyOptions{Fingerprint: fingerprint, Deep: true, Now: time.Now()})
				if err == nil {
					t.Errorf("%s: %s: not found out", file, name)
				}
				if err := os.WriteFile(file, good, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if n < 16 {
		t.Errorf("only %d files", n)
	}
	verify(t, p)
}

// TestVerifyTime makes sure that what has expired is not called right.
func TestVerifyTime(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	_, err := publish.Verify(t.Context(), publish.Folder(p.Dir()),
		publish.VerifyOptions{Fingerprint: p.Fingerprint(), Now: time.Now().Add(publish.TimestampLife + time.Hour)})
	if !errors.Is(err, trust.ErrStale) {
		t.Errorf("%v", err)
	}
}

// TestReproducible builds a release twice: what signers compare has to be the same.
func TestReproducible(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	p.AddRelease("pc", 1, "v1", part(1000, 1), part(90000, 1))
	var sums [2][]byte
	dir := t.TempDir()
	in := publish.Input{Dir: dir, Notes: map[string]string{"en": "New."}, From: []string{p.Dir()}}
	in.Payload = p.Payload(dir, publishtest.Release{Board: "pc", Number: 2, Version: "v2", Boot: part(1000, 1), Root: part(90000, 2)})
	for i := range sums {
		st, err := publish.NewStage(filepath.Join(t.TempDir(), "stage"), p.Dir(), time.Now().Add(time.Duration(i)*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Add(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if sums[i], err = os.ReadFile(filepath.Join(st.Dir, "SHA256SUMS")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(sums[0], sums[1]) || bytes.Count(sums[0], []byte("\n")) != 5 {
		t.Errorf("%s\n%s", sums[0], sums[1])
	}
}

// TestAddRefuses gives payloads that must not become releases.
func TestAddRefuses(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	p.AddRelease("pc", 5, "v5", part(1000, 1), part(9000, 1))
	p.AddRelease("pc", 7, "v7", part(1000, 1), part(9000, 1))
	p.Withdraw(release.Stable, "pc", "v7")
	for name, tc := range map[string]struct {
		change func(*publish.Input)
		want   string
	}{
		"dirty":       {func(in *publish.Input) { in.Payload.Dirty = true }, "nobody has committed"},
		"old number":  {func(in *publish.Input) { in.Payload.Number = 5 }, "not above"},
		"other board": {func(in *publish.Input) { in.Payload.Number, in.Payload.Board = 4, "pi" }, "not above"},
		"withdrawn": {func(in *publish.Input) {
			in.Payload.Number = 7 // that it had, and that boxes may have
		}, "not above 7"},
		"no notes":  {func(in *publish.Input) { in.Notes = nil }, "notes"},
		"no beta":   {func(in *publish.Input) { in.Payload.Channel = release.Beta }, "no role beta"},
		"a channel": {func(in *publish.Input) { in.Payload.Channel = "fast" }, "channel"},
		"the part":  {func(in *publish.Input) { in.Payload.Root.SHA256 = strings.Repeat("0", 64) }, "not what payload.json says"},
		"elsewhere": {func(in *publish.Input) { in.Payload.Root.File = "../root.part" }, "not beside it"},
		"published": {func(in *publish.Input) { in.Payload.Version = "v5" }, "published already"},
		"no commit": {func(in *publish.Input) { in.Payload.Commit = "" }, "commit"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in := publish.Input{Dir: dir, Notes: map[string]string{"en": "New."}, From: []string{p.Dir()}}
			in.Payload = p.Payload(dir, publishtest.Release{Board: "pc", Number: 8, Version: "v8", Boot: part(1000, 1), Root: part(9000, 2)})
			tc.change(&in)
			st, err := publish.NewStage(filepath.Join(t.TempDir(), "stage"), p.Dir(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Add(t.Context(), in); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// TestKeyStaysSecret looks for a key's secret in everything that a key may be turned into.
func TestKeyStaysSecret(t *testing.T) {
	t.Parallel()
	k, err := publish.NewKey("ada")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ada")
	if err := k.Create(dir, "seven quiet herons", 8); err != nil {
		t.Fatal(err)
	}
	if err := k.Create(dir, "seven quiet herons", 8); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key was written over: %v", err)
	}
	file, err := os.ReadFile(dir + ".key")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(dir + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if js, err := json.Marshal(k); err == nil {
		t.Errorf("it becomes %s", js)
	}
	seed := k.Private().Seed()
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, k), string(file), string(pub)} {
		for _, form := range []string{string(seed), fmt.Sprintf("%x", seed), fmt.Sprint(seed), fmt.Sprintf("%q", seed)} {
			if strings.Contains(text, form) {
				t.Errorf("the secret is in %s", text)
			}
		}
	}
	for pass, want := range map[string]error{"seven quiet herons": nil, "seven loud herons!": publish.ErrPassphrase} {
		got, err := publish.Open(bytes.NewReader(file), pass)
		if !errors.Is(err, want) || want == nil && !bytes.Equal(got.Private(), k.Private()) {
			t.Errorf("%s: %v", pass, err)
		}
	}
	if err := k.Seal(&bytes.Buffer{}, "short", 8); err == nil {
		t.Error("a short passphrase will do")
	}
	if _, err := publish.Open(strings.NewReader("nothing"), "seven quiet herons"); err == nil || errors.Is(err, publish.ErrPassphrase) {
		t.Errorf("%v", err)
	}
}

// TestBundle brings a client that has followed the repository before from a release to a later one by the bundle alone.
func TestBundle(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 1}})
	p.AddRelease("pc", 1, "v1", part(1000, 1), part(9000, 1))
	c := client(t, p)
	size := refresh(t, c, p).Log.Size
	p.NewLogKey("")
	p.AddRelease("pc", 2, "v2", part(1000, 2), part(9000, 2))
	p.Rotate()
	want := p.AddRelease("pc", 3, "v3", part(1000, 3), part(9000, 3))
	p.AddRelease("pi", 4, "v3", part(1000, 3), part(9000, 3))
	b := p.Bundle("pc", release.Stable)
	if !bytes.Equal(b, p.Bundle("pc", release.Stable)) {
		t.Error("not the same twice")
	}
	src, err := fetch.OpenBundle(fetch.KindFile, "croft-pc.zip", bytes.NewReader(b), int64(len(b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	s, err := c.Refresh(t.Context(), src, trust.Clock{Now: time.Now(), Sure: true})
	if err != nil || s.Versions.Root != 3 || s.Versions.Targets != 5 || s.Log.Size <= size {
		t.Fatalf("%+v, %v", s, err)
	}
	v, err := publish.Verify(t.Context(), src,
		publish.VerifyOptions{Fingerprint: p.Fingerprint(), Deep: true, Partial: true, Now: time.Now()})
	if err != nil || len(v.Releases) != 1 || v.Releases[0].Release.Number != want.Number || v.Frames != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := publish.Bundle(&bytes.Buffer{}, p.Dir(), "pc", release.Beta); err == nil {
		t.Error("a bundle of nothing")
	}
}
