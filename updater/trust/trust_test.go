package trust

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/croft-os/croft/updater/release"
)

// TestFollow is the way of a release from its publisher to a box, and what the box can say of it.
func TestFollow(t *testing.T) {
	p := newPublisher(t)
	dir := t.TempDir()
	o := Options{Root: p.files["metadata/1.root.json"], NeedLog: true}
	c, err := Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if st := c.Status(); !st.Stale || st.Versions != (Versions{Root: 1}) || len(c.Targets()) != 0 || st.Root.Fingerprint != fingerprint(o.Root) {
		t.Errorf("at first: %+v", st)
	}
	st := mustRefresh(t, c, p)
	if st.Stale || st.Versions != (Versions{1, 1, 1, 1, 1}) || !st.Expires.Equal(day(10)) || st.Beta != "" || st.SplitView != nil {
		t.Errorf("%+v", st)
	}
	want := RootInfo{Fingerprint: fingerprint(o.Root), Version: 1, Threshold: 3, Keys: 5, Log: "example.org/log", Witnesses: 3, Expires: day(400)}
	if st.Root != want {
		t.Errorf("%+v", st.Root)
	}
	if st.Log == nil || st.Log.Size != 3 || st.Log.Hash != p.log.Hash(3) {
		t.Errorf("%+v", st.Log)
	}
	ts := c.Targets()
	if !slices.Equal(paths(ts), []string{"releases/pc/v1/release.json", "beta/pc/v2-beta/release.json"}) {
		t.Fatalf("%v", paths(ts))
	}
	if ev := (Evidence{3, 5, 3, true, 3, day(1)}); ts[0].Evidence != ev || ts[0].Channel != release.Stable || ts[0].Stale {
		t.Errorf("%+v", ts[0])
	}
	if ev := (Evidence{2, 3, 2, true, 3, day(1)}); ts[1].Evidence != ev || ts[1].Channel != release.Beta || ts[1].Stale {
		t.Errorf("%+v", ts[1])
	}
	if err := c.Verify(ts[0].Path, []byte("description of v1")); err != nil {
		t.Error(err)
	}
	if st.Evidence["root"].Logged {
		t.Error("the first root needs no proof, and has none")
	}
	p.roles["targets"].sign = p.roles["targets"].keys // all five
	p.root()
	p.all()
	if st := mustRefresh(t, c, p); st.Evidence["targets"].Signers != 5 || !st.Evidence["root"].Logged || st.Evidence["root"].Of != 5 {
		t.Errorf("%+v", st.Evidence)
	}
	if c, err = Open(dir, Options{NeedLog: true}); err != nil {
		t.Fatal(err)
	}
	if got := c.Targets(); !slices.Equal(paths(got), paths(ts)) || got[0].Evidence.Signers != 5 || c.Status().Versions != (Versions{2, 2, 2, 2, 2}) {
		t.Errorf("after a restart: %+v %+v", got, c.Status())
	}
	p.expires["beta"] = day(-3)
	p.all()
	mustRefresh(t, c, p)
	if ts := c.Targets(); ts[0].Stale || !ts[1].Stale {
		t.Errorf("with an expired beta: %+v", ts)
	}
	p.hasBeta = false
	p.roles["snapshot"].keys = people("other snapshot", 1) // else the role could not leave the snapshot
	p.root()
	p.all()
	mustRefresh(t, c, p)
	if ts := c.Targets(); !slices.Equal(paths(ts), []string{"releases/pc/v1/release.json"}) {
		t.Errorf("without beta: %v", paths(ts))
	}
}

// TestAgree is TAP 4: what project and auditor both say.
func TestAgree(t *testing.T) {
	p, a := newPublisher(t), newPublisher(t)
	for name, r := range a.roles {
		r.keys = people("auditor "+name, len(r.keys))
	}
	a.log, a.files, a.versions = nil, map[string][]byte{}, map[string]int64{}
	for _, q := range []*publisher{p, a} {
		q.release(release.Stable, "v2")
		q.content["targets"]["releases/pc/v3/release.json"] = fmt.Appendf(nil, "as seen by %p", q)
	}
	p.release(release.Stable, "v4") // not rebuilt yet
	a.release(release.Stable, "v5") // never of the project
	p.all()
	a.root()
	a.all()
	// The auditor's files may lie in the project's tree.
	for file, b := range a.files {
		p.files["auditors/them/"+file] = b
	}
	project := p.client()
	auditor, err := create(newMemory(), Options{Root: a.files["metadata/1.root.json"], Prefix: "auditors/them/"})
	if err != nil {
		t.Fatal(err)
	}
	mustRefresh(t, project, p)
	if got := Agree(project, auditor); len(got) != 0 {
		t.Errorf("before the auditor was heard: %v", paths(got))
	}
	mustRefresh(t, auditor, p)
	got := Agree(project, auditor)
	if !slices.Equal(paths(got), []string{"releases/pc/v1/release.json", "releases/pc/v2/release.json", "beta/pc/v2-beta/release.json"}) {
		t.Errorf("%v", paths(got))
	}
	if got[0].Stale || !got[0].Evidence.Logged {
		t.Errorf("%+v", got[0])
	}
	if _, err := auditor.Refresh(t.Context(), p, clock(11)); !errors.Is(err, ErrStale) {
		t.Error(err)
	}
	if got := Agree(project, auditor); !got[0].Stale {
		t.Error("a stale auditor makes no fresh release")
	}
}

func TestTogether(t *testing.T) {
	p, c := newFollower(t)
	p.all()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			q := p.copy()
			_, _ = c.Refresh(t.Context(), q, clock(2))
			_, _, _ = c.Status(), c.Targets(), c.Verify("x", nil)
		})
	}
	wg.Wait()
	if v := c.Status().Versions; v != (Versions{1, 2, 2, 2, 2}) {
		t.Errorf("%+v", v)
	}
}

func TestCheckJSON(t *testing.T) {
	for text, ok := range map[string]bool{
		`{}`: true, `{"a":[1,{"b":""}],"c":{"a":1}}`: true, `{"custom":{"a":null,"b":[null]}}`: true,
		``: false, `{`: false, `{"a":1,"a":2}`: false, `{"a":{"b":1,"b":1}}`: false, `{"a":null}`: false, `[null]`: false, `null`: false,
		`{}{}`: false, `{"custom":1}null`: false, `{"a\u0062":1,"ab":2}`: false,
	} {
		if err := CheckJSON([]byte(text)); (err == nil) != ok || err != nil && !errors.Is(err, ErrMetadata) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// large is a publisher with 5,000 entries in its log, and a client that has seen it.
func large(t testing.TB) (*publisher, *Client) {
	p := newPublisher(t)
	for i := range 5000 {
		p.log.Add(fmt.Appendf(nil, "entry %d", i))
	}
	for i := range 50 {
		p.release(release.Stable, fmt.Sprint("v1.", i))
	}
	p.all()
	c := p.client()
	mustRefresh(t, c, p)
	return p, c
}

// TestSizes holds the budget of 4 kB for a proof.
func TestSizes(t *testing.T) {
	p, _ := large(t)
	for file, most := range map[string]int{
		"metadata/2.targets.json" + proofSuffix: 4000, "metadata/timestamp.json": 1000, "metadata/2.snapshot.json": 1000,
		"metadata/1.root.json": 8000,
	} {
		if n := len(p.files[file]); n == 0 || n > most {
			t.Errorf("%s has %d bytes, not at most %d", file, n, most)
		} else {
			t.Logf("%s: %d bytes", file, n)
		}
	}
	t.Logf("targets with 51 releases: %d bytes", len(p.files["metadata/2.targets.json"]))
}

// BenchmarkRelease verifies root, timestamp, snapshot, targets and beta, signed by 3 of 5, with their proofs in a log of 5,000 entries with 3
// of 5 witnesses, as at every start.
func BenchmarkRelease(b *testing.B) {
	_, c := large(b)
	st := c.copyState()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b.ReportAllocs()
	for b.Loop() {
		v, err := look(st)
		if err != nil || !v.complete {
			b.Fatal(v, err)
		}
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapSys)/(1<<20), "MB-heap")
}

// BenchmarkRefresh is a whole refresh with a new release, with consistency from tiles, without the disk.
func BenchmarkRefresh(b *testing.B) {
	p, c := large(b)
	p.all()
	b.ReportAllocs()
	for b.Loop() {
		d := reopen(b, c)
		mustRefresh(b, d, p)
	}
}

// FuzzMetadata: whatever lies at a source's paths, nobody is misled and nothing falls over.
func FuzzMetadata(f *testing.F) {
	p := newPublisher(f)
	p.release(release.Stable, "v2")
	p.root()
	p.all()
	files := []string{
		"metadata/2.root.json", "metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.targets.json", "metadata/2.beta.json",
		"metadata/2.targets.json" + proofSuffix, "metadata/2.root.json" + proofSuffix, "log/tile/0/000.p/7", "log/checkpoint",
	}
	for i, file := range files {
		f.Add(uint8(i), p.files[file])
	}
	honest := p.copy()
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		_, c := newFollower(t)
		q := honest.copy()
		file := files[int(i)%len(files)]
		q.files[file] = b
		_, err := c.Refresh(t.Context(), q, clock(2))
		for _, target := range c.Targets() {
			if err := c.Verify(target.Path, []byte("description of "+version(target.Path))); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		if err == nil && len(c.Targets()) < 2 {
			t.Errorf("%s: no error, and only %v", file, paths(c.Targets()))
		}
	})
}

func version(path string) string {
	_, _, v, _ := release.ParseTarget(path)
	return v
}

// FuzzSigned signs what the fuzzer makes of a role, so that what is behind the signatures is tried too.
func FuzzSigned(f *testing.F) {
	p := newPublisher(f)
	signed := func(file string) []byte {
		b := p.files[file]
		i, j := bytes.Index(b, []byte(`"signed":`)), bytes.LastIndexByte(b, '}')
		return b[i+len(`"signed":`) : j]
	}
	for i, file := range []string{"metadata/1.root.json", "metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json", "metadata/1.beta.json"} {
		f.Add(uint8(i), signed(file))
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		_, c := newFollower(t)
		q := newPublisher(t)
		outer := append(append([]byte(`{"signatures":[],"signed":`), b...), '}')
		resign := func(name, file string, as any) bool {
			var out []byte
			by := q.roles[name].signers()
			switch as.(type) {
			case metadata.RootType:
				m, err := parse[metadata.RootType](outer)
				if err != nil {
					return false
				}
				out = sign(m.Signed, by...)
			case metadata.TimestampType:
				m, err := parse[metadata.TimestampType](outer)
				if err != nil {
					return false
				}
				out = sign(m.Signed, by...)
			case metadata.SnapshotType:
				m, err := parse[metadata.SnapshotType](outer)
				if err != nil {
					return false
				}
				out = sign(m.Signed, by...)
			default:
				m, err := parse[metadata.TargetsType](outer)
				if err != nil {
					return false
				}
				out = sign(m.Signed, by...)
			}
			q.files[file] = out
			if name != "timestamp" && name != "snapshot" {
				q.prove(file, out)
			}
			return true
		}
		q.versions = maps.Clone(q.versions)
		next := map[string]func() bool{
			"root":      func() bool { return resign("root", "metadata/2.root.json", metadata.RootType{}) },
			"timestamp": func() bool { return resign("timestamp", "metadata/timestamp.json", metadata.TimestampType{}) },
			"snapshot": func() bool {
				q.versions["snapshot"]++
				ok := resign("snapshot", "metadata/2.snapshot.json", metadata.SnapshotType{})
				if ok {
					q.timestamp()
				}
				return ok
			},
			"targets": func() bool {
				q.versions["targets"]++
				ok := resign("targets", "metadata/2.targets.json", metadata.TargetsType{})
				if ok {
					q.snapshot()
					q.timestamp()
				}
				return ok
			},
			"beta": func() bool {
				q.versions["beta"]++
				ok := resign("beta", "metadata/2.beta.json", metadata.TargetsType{})
				if ok {
					q.snapshot()
					q.timestamp()
				}
				return ok
			},
		}
		role := []string{"root", "timestamp", "snapshot", "targets", "beta"}[i%5]
		if !next[role]() {
			return
		}
		_, _ = c.Refresh(t.Context(), q, clock(2))
		// Whatever it was, the client can be opened again.
		_, _ = reopen(t, c).Status(), c.Targets()
	})
}

// FuzzStore: whatever lies in the store's files, the program goes on.
func FuzzStore(f *testing.F) {
	for _, b := range refreshed().files {
		f.Add(b.b)
	}
	f.Add([]byte("x\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMemory()
		m.files["trust.a"] = file{b, true}
		if i := bytes.IndexByte(b, '\n'); i >= 0 { // and with the right hash
			m.files["trust.b"] = file{append([]byte(fingerprint(b[i+1:])+"\n"), b[i+1:]...), true}
		}
		c, err := open(m, Options{})
		if err != nil {
			return
		}
		_, _ = c.Status(), c.Targets()
		_, _ = c.Refresh(t.Context(), newPublisher(t), clock(2))
	})
}
