package trust

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/tlog/tlogtest"
)

// attack is something done to what a source serves. The client has refreshed from an honest one before, and has v1.
type attack struct {
	name string
	do   func(p *publisher) // publishes v2 in a way that nobody may take
	want error
}

// survive makes attacks and checks that each is refused for the right reason, that nothing of it is believed and nothing known is lost, and
// that the client goes on as soon as an honest source turns up.
func survive(t *testing.T, attacks []attack) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			p, c := newFollower(t)
			before := c.Status()
			known := c.Targets()
			honest := p.copy()
			p.release(release.Stable, "v2")
			a.do(p)
			st, err := c.Refresh(t.Context(), p, clock(2))
			if !errors.Is(err, a.want) {
				t.Errorf("%v, want %v", err, a.want)
			}
			for _, e := range []error{ErrMetadata, ErrNotLogged, ErrSplitView, ErrRollback, ErrTooLarge} {
				if e != a.want && errors.Is(err, e) {
					t.Errorf("%v is %v too", err, e)
				}
			}
			if got := paths(c.Targets()); len(got) > 0 && !slices.Equal(got, paths(known)) {
				t.Errorf("believes %v", got)
			}
			v, w := st.Versions, before.Versions
			if v.Root < w.Root || v.Timestamp < w.Timestamp || v.Snapshot < w.Snapshot {
				t.Errorf("went back from %+v to %+v", w, v)
			}
			if a.want == ErrSplitView {
				return
			}
			honest.release(release.Stable, "v3")
			for _, role := range []string{"timestamp", "snapshot", "targets", "beta"} {
				honest.versions[role] += 10
			}
			honest.all()
			mustRefresh(t, c, honest)
			if !slices.Contains(paths(c.Targets()), "releases/pc/v3/release.json") {
				t.Errorf("has only %v afterwards", paths(c.Targets()))
			}
		})
	}
}

func TestAttacks(t *testing.T) {
	stranger := newPerson("stranger")
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := metadata.KeyFromPublicKey(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("arbitrary software, threshold-1, duplicates, wrong key types", func(t *testing.T) {
		under := func(name string, publish func(p *publisher)) []attack {
			alone := func(change func(r *role)) func(p *publisher) {
				return func(p *publisher) { change(p.roles[name]); publish(p) }
			}
			return []attack{
				{name + " by nobody", alone(func(r *role) { r.sign = []*person{} }), ErrMetadata},
				{name + " by a stranger", alone(func(r *role) { r.sign = []*person{stranger} }), ErrMetadata},
				{name + " by one too few", alone(func(r *role) { r.sign = r.keys[:r.threshold-1] }), ErrMetadata},
				{name + " by one too few and a stranger", alone(func(r *role) { r.sign = append([]*person{stranger}, r.keys[:r.threshold-1]...) }), ErrMetadata},
				{name + " by one twice", alone(func(r *role) { r.sign = slices.Repeat(r.keys[:1], r.threshold+1) }), ErrMetadata},
				{name + " with a signature of something else", func(p *publisher) {
					p.after[name] = func(b []byte) []byte {
						return rewrite(p.t, b, func(m map[string]any) { m["signed"].(map[string]any)["spec_version"] = "1.0.30" })
					}
					publish(p)
				}, ErrMetadata},
			}
		}
		survive(t, under("root", func(p *publisher) { p.root(); p.all() }))
		for _, name := range []string{"targets", "snapshot", "timestamp"} {
			if !testing.Short() || name == "targets" {
				survive(t, under(name, (*publisher).all))
			}
		}
		root := func(change func(r *metadata.RootType)) func(p *publisher) {
			return func(p *publisher) {
				r := p.nextRoot()
				change(&r)
				p.rootAs(r)
				p.all()
			}
		}
		survive(t, []attack{
			{"a key of another type", root(func(r *metadata.RootType) { r.Keys[r.Roles["targets"].KeyIDs[0]] = ecKey }), ErrMetadata},
			{"an ed25519 key of the wrong length", root(func(r *metadata.RootType) {
				r.Keys[r.Roles["root"].KeyIDs[0]] = &metadata.Key{Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: "00"}}
			}), ErrMetadata},
			{"a key that calls itself something else", root(func(r *metadata.RootType) {
				k := *r.Keys[r.Roles["targets"].KeyIDs[0]]
				k.Type = "rsa"
				r.Keys[r.Roles["targets"].KeyIDs[0]] = &k
			}), ErrMetadata},
			{"a key id twice in a role", root(func(r *metadata.RootType) {
				r.Roles["targets"].KeyIDs = append(r.Roles["targets"].KeyIDs, r.Roles["targets"].KeyIDs[0])
			}), ErrMetadata},
			{"one key under two ids in a role", root(func(r *metadata.RootType) {
				r.Keys["another"] = r.Keys[r.Roles["targets"].KeyIDs[0]]
				r.Roles["targets"].KeyIDs = append(r.Roles["targets"].KeyIDs, "another")
			}), ErrMetadata},
			{"a key id without a key", root(func(r *metadata.RootType) { r.Roles["targets"].KeyIDs[0] = "nobody" }), ErrMetadata},
			{"threshold 0", root(func(r *metadata.RootType) { r.Roles["targets"].Threshold = 0 }), ErrMetadata},
			{"a threshold that nobody reaches", root(func(r *metadata.RootType) { r.Roles["targets"].Threshold = 6 }), ErrMetadata},
			{"a role missing", root(func(r *metadata.RootType) { delete(r.Roles, "snapshot") }), ErrMetadata},
			{"a null for a role", root(func(r *metadata.RootType) { r.Roles["snapshot"] = nil }), ErrMetadata},
			{"a null for a key", root(func(r *metadata.RootType) { r.Keys[r.Roles["snapshot"].KeyIDs[0]] = nil }), ErrMetadata},
			{"another major version of the specification", root(func(r *metadata.RootType) { r.SpecVersion = "2.0.0" }), ErrMetadata},
			{"snapshots that are not consistent", root(func(r *metadata.RootType) { r.ConsistentSnapshot = false }), ErrMetadata},
			{"a log policy that is none", root(func(r *metadata.RootType) { r.UnrecognizedFields[logField] = "no" }), ErrMetadata},
			{"duplicate signatures beside enough of them", func(p *publisher) {
				p.roles["snapshot"].sign = slices.Repeat(p.roles["snapshot"].keys, 2)
				p.all()
			}, ErrMetadata},
			{"a role's file for another role", func(p *publisher) {
				p.roles["snapshot"].sign = p.roles["timestamp"].keys
				p.all()
				p.files["metadata/timestamp.json"] = p.files["metadata/2.snapshot.json"]
			}, ErrMetadata},
			{"an object with a key twice", func(p *publisher) {
				p.all()
				b := p.files["metadata/timestamp.json"]
				p.files["metadata/timestamp.json"] = append([]byte(`{"signatures":[],`), b[1:]...)
			}, ErrMetadata},
			{"a null for a target", func(p *publisher) {
				p.after["targets"] = func(b []byte) []byte {
					return rewrite(p.t, b, func(m map[string]any) {
						m["signed"].(map[string]any)["targets"].(map[string]any)["releases/pc/v2/release.json"] = nil
					})
				}
				p.all()
			}, ErrMetadata},
			{"no snapshot in the timestamp", func(p *publisher) {
				p.edit["timestamp"] = func(v any) { v.(*metadata.TimestampType).Meta = map[string]*metadata.MetaFiles{} }
				p.all()
			}, ErrMetadata},
			{"no targets in the snapshot", func(p *publisher) {
				p.edit["snapshot"] = func(v any) { delete(v.(*metadata.SnapshotType).Meta, "targets.json") }
				p.all()
			}, ErrMetadata},
			{"version 0", func(p *publisher) {
				p.edit["timestamp"] = func(v any) { v.(*metadata.TimestampType).Version = 0 }
				p.all()
			}, ErrMetadata},
			{"something behind the value", func(p *publisher) {
				p.after["timestamp"] = func(b []byte) []byte { return append(b, "{}"...) }
				p.all()
			}, ErrMetadata},
		})
	})

	t.Run("rollback", func(t *testing.T) {
		survive(t, []attack{
			{"root file with the version before", func(p *publisher) {
				r := p.nextRoot()
				r.Version = 1
				p.rootAs(r)
			}, ErrMetadata},
			{"root file that skips a version", func(p *publisher) {
				r := p.nextRoot()
				r.Version = 3
				p.rootAs(r)
			}, ErrMetadata},
		})
		// The client has seen the second version of everything; then a source serves a first one.
		for _, name := range []string{"timestamp", "snapshot", "targets", "beta"} {
			t.Run(name, func(t *testing.T) {
				p := newPublisher(t)
				old := p.copy()
				c := p.client()
				p.release(release.Stable, "v2")
				p.all()
				before := mustRefresh(t, c, p)
				switch name {
				case "timestamp":
					p = old
				case "snapshot":
					p.versions["snapshot"] = 1
					p.timestamp()
				default:
					p.versions[name] = 1
					p.snapshot()
					p.timestamp()
				}
				st, err := c.Refresh(t.Context(), p, clock(2))
				if !errors.Is(err, ErrRollback) {
					t.Errorf("%v", err)
				}
				if !slices.Contains(paths(c.Targets()), "releases/pc/v2/release.json") {
					t.Errorf("lost v2: %v", paths(c.Targets()))
				}
				if st.Versions.Targets != before.Versions.Targets {
					t.Errorf("went to %+v", st.Versions)
				}
			})
		}
		t.Run("stored root reset to the embedded one", func(t *testing.T) {
			p := newPublisher(t)
			dir := t.TempDir()
			o := Options{Root: p.files["metadata/1.root.json"], NeedLog: true}
			c, err := Create(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			old := p.copy()
			p.root()
			p.all()
			mustRefresh(t, c, p)
			if _, err := Create(dir, o); !errors.Is(err, os.ErrExist) {
				t.Errorf("a second Create: %v", err)
			}
			c, err = Open(dir, o)
			if err != nil || c.Status().Versions.Root != 2 {
				t.Fatalf("opened at %+v, %v", c.Status().Versions, err)
			}
			// Somebody can write the store, and does it well.
			c.st.Root, c.st.RootProof, c.st.Seq = c.st.First, nil, c.st.Seq+1
			if err := save(c.disk, c.st); err != nil {
				t.Fatal(err)
			}
			if c, err = Open(dir, o); err != nil || c.Status().Versions.Root != 1 {
				t.Fatal(c.Status().Versions, err)
			}
			if _, err := c.Refresh(t.Context(), old, clock(2)); !errors.Is(err, ErrRollback) {
				t.Errorf("the old repository again: %v", err)
			}
			if st := mustRefresh(t, c, p); st.Versions.Root != 2 {
				t.Errorf("%+v", st.Versions)
			}
		})
	})

	t.Run("freeze, expiry and clocks", testTime)

	t.Run("mix and match, wrong channel", func(t *testing.T) {
		survive(t, []attack{
			{"targets of another snapshot", func(p *publisher) {
				p.all()
				b := p.files["metadata/2.targets.json"]
				p.all()
				p.files["metadata/3.targets.json"] = b
			}, ErrMetadata},
			{"snapshot of another timestamp", func(p *publisher) {
				p.all()
				b := p.files["metadata/2.snapshot.json"]
				p.all()
				p.files["metadata/3.snapshot.json"] = b
			}, ErrMetadata},
			{"beta's metadata for targets", func(p *publisher) {
				p.all()
				p.files["metadata/2.targets.json"] = p.files["metadata/2.beta.json"]
			}, ErrMetadata},
			{"targets of another publisher", func(p *publisher) {
				o := newPublisher(p.t)
				for _, r := range o.roles {
					r.keys = people("other", len(r.keys))
				}
				o.release(release.Stable, "v2")
				o.all()
				p.all()
				p.files["metadata/2.targets.json"] = o.files["metadata/2.targets.json"]
			}, ErrMetadata},
			{"a delegation to another role", func(p *publisher) { delegate(p, func(r *metadata.DelegatedRole) { r.Name = "gamma" }) }, ErrMetadata},
			{"a delegation of more paths", func(p *publisher) { delegate(p, func(r *metadata.DelegatedRole) { r.Paths = []string{"*/*/*/*"} }) }, ErrMetadata},
			{"a delegation by hashes", func(p *publisher) {
				delegate(p, func(r *metadata.DelegatedRole) { r.Paths, r.PathHashPrefixes = nil, []string{"0"} })
			}, ErrMetadata},
			{"two delegations", func(p *publisher) {
				p.edit["targets"] = func(v any) { d := v.(*metadata.TargetsType).Delegations; d.Roles = append(d.Roles, d.Roles[0]) }
				p.all()
			}, ErrMetadata},
			{"bins", func(p *publisher) {
				p.edit["targets"] = func(v any) {
					d := v.(*metadata.TargetsType).Delegations
					d.Roles, d.SuccinctRoles = nil, &metadata.SuccinctRoles{KeyIDs: d.Roles[0].KeyIDs, Threshold: 1, BitLength: 4, NamePrefix: "bin"}
				}
				p.all()
			}, ErrMetadata},
		})
		t.Run("channels", func(t *testing.T) {
			p := newPublisher(t)
			c := p.client()
			// Each role names a release of the other's channel, and things that are no release.
			p.content["targets"]["beta/pc/v9/release.json"] = []byte("x")
			p.content["beta"]["releases/pc/v9/release.json"] = []byte("x")
			p.content["targets"]["releases/PC/v9/release.json"] = []byte("x")
			p.content["targets"]["releases/pc/../release.json"] = []byte("x")
			p.content["targets"]["releases/pc/v9/other.json"] = []byte("x")
			p.content["targets"]["releases/pc/v8/release.json"] = nil
			p.all()
			mustRefresh(t, c, p)
			if got := paths(c.Targets()); !slices.Equal(got, []string{"releases/pc/v1/release.json", "beta/pc/v2-beta/release.json"}) {
				t.Errorf("%v", got)
			}
		})
		t.Run("beta's keys are stolen or gone", func(t *testing.T) {
			p, c := newFollower(t)
			p.release(release.Stable, "v2")
			p.roles["beta"].sign = []*person{stranger}
			p.all()
			st := mustRefresh(t, c, p)
			if got := paths(c.Targets()); !slices.Equal(got, []string{"releases/pc/v1/release.json", "releases/pc/v2/release.json"}) || st.Beta == "" {
				t.Errorf("%v, beta %q", got, st.Beta)
			}
			p.roles["beta"].sign = nil
			p.all()
			if st := mustRefresh(t, c, p); len(c.Targets()) != 3 || st.Beta != "" {
				t.Errorf("%v, beta %q", paths(c.Targets()), st.Beta)
			}
		})
	})

	t.Run("endless data, slow loris", func(t *testing.T) {
		var big []attack
		for file, size := range map[string]int{
			"metadata/2.root.json": release.MaxRoot, "metadata/timestamp.json": release.MaxTimestamp,
			"metadata/2.snapshot.json": release.MaxSnapshot, "metadata/2.targets.json": release.MaxTargets,
		} {
			big = append(big, attack{file, func(p *publisher) { p.all(); p.files[file] = make([]byte, size+1) }, ErrTooLarge})
		}
		survive(t, append(big, attack{"nesting", func(p *publisher) {
			p.all()
			p.files["metadata/timestamp.json"] = []byte(strings.Repeat("[", 8000) + strings.Repeat("]", 8000))
		}, ErrMetadata}))
		t.Run("a proof beyond the limit", func(t *testing.T) {
			p, c := newFollower(t)
			p.all()
			p.files["metadata/2.targets.json"+proofSuffix] = make([]byte, release.MaxProof+1)
			if _, err := c.Refresh(t.Context(), p, clock(2)); !errors.Is(err, ErrNotLogged) {
				t.Error(err)
			}
		})
		t.Run("a source that does not keep the limit", func(t *testing.T) {
			p := newPublisher(t)
			c := p.client()
			if _, err := c.Refresh(t.Context(), generous{p}, clock(2)); !errors.Is(err, ErrTooLarge) {
				t.Error(err)
			}
		})
		t.Run("never an answer", func(t *testing.T) {
			p := newPublisher(t)
			c := p.client()
			for _, stop := range []string{"metadata/2.root.json", "metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json", "metadata/1.targets.json.tlog-proof", "metadata/1.beta.json", "metadata/1.beta.json.tlog-proof"} {
				ctx, cancel := context.WithCancel(t.Context())
				src := silent{p, stop, cancel}
				if _, err := c.Refresh(ctx, src, clock(2)); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", stop, err)
				}
				cancel()
			}
			mustRefresh(t, c, p)
		})
	})

	t.Run("fast-forward, key compromise and rotation, 256 roots", testRecovery)
	t.Run("split view, unlogged, witnesses, two logs", testLog)

	t.Run("a source that lies, truncates, swaps mid-read", func(t *testing.T) {
		p, c := newFollower(t)
		known := paths(c.Targets())
		p.release(release.Stable, "v2")
		p.root()
		p.all()
		n := 0
		for _, file := range slices.Sorted(maps.Keys(p.files)) {
			for what, damage := range map[string]func([]byte) []byte{
				"truncated": func(b []byte) []byte { return b[:len(b)/2] },
				"empty":     func([]byte) []byte { return nil },
				"flipped":   func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/3] ^= 1; return b },
				"zeros":     func(b []byte) []byte { return make([]byte, len(b)) },
			} {
				q := p.copy()
				q.files[file] = damage(p.files[file])
				if n++; testing.Short() && n%16 != 0 {
					continue
				}
				d := reopen(t, c)
				if _, err := d.Refresh(t.Context(), q, clock(2)); err == nil && !slices.Contains(paths(d.Targets()), "releases/pc/v2/release.json") {
					t.Errorf("%s %s: no error, and no v2", file, what)
				}
				if got := paths(d.Targets()); len(got) > 0 && !slices.Equal(got, known) && !slices.Contains(got, "releases/pc/v2/release.json") {
					t.Errorf("%s %s: believes %v", file, what, got)
				}
				mustRefresh(t, d, p)
			}
		}
		// Every file from either of two states of the repository, at random places of the refresh.
		older := newPublisher(t)
		for cut := range 12 {
			if testing.Short() && cut%3 != 0 {
				continue
			}
			d := reopen(t, c)
			n := 0
			_, _ = d.Refresh(t.Context(), sourceFunc(func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if n++; n > cut {
					return older.Get(ctx, path, limit)
				}
				return p.Get(ctx, path, limit)
			}), clock(2))
			if got := paths(d.Targets()); len(got) > 0 && !slices.Equal(got, known) && !slices.Contains(got, "releases/pc/v2/release.json") {
				t.Errorf("swapped after %d: believes %v", cut, got)
			}
			mustRefresh(t, d, p)
		}
	})

	t.Run("full disk, I/O error, damaged store", testStore)
	t.Run("power cut", testPowerCut)

	t.Run("vendor gone", func(t *testing.T) {
		p, c := newFollower(t)
		p.release(release.Stable, "v2")
		p.all()
		// Years later a stick turns up. The clock is right, and everything has expired.
		st, err := c.Refresh(t.Context(), p, clock(3000))
		if !errors.Is(err, ErrStale) || !st.Stale || !slices.Equal(st.Expired, []string{"root", "timestamp", "snapshot", "targets"}) {
			t.Errorf("%v, %+v", err, st)
		}
		ts := c.Targets()
		i := slices.IndexFunc(ts, func(t Target) bool { return t.Path == "releases/pc/v2/release.json" })
		if i < 0 || !ts[i].Stale {
			t.Fatalf("%+v", ts)
		}
		if err := c.Verify(ts[i].Path, []byte("description of v2")); err != nil {
			t.Error(err)
		}
		if err := c.Verify(ts[i].Path, []byte("description of v3")); !errors.Is(err, ErrMetadata) {
			t.Error(err)
		}
		if err := c.Verify("releases/pc/v7/release.json", nil); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if got := c.Status(); !reflect.DeepEqual(got, st) {
			t.Errorf("the status is %+v, was %+v", got, st)
		}
	})

	t.Run("fork root, replay of an old override", func(t *testing.T) {
		p, fork := newPublisher(t), newPublisher(t)
		for name, r := range fork.roles {
			r.keys = people("fork "+name, len(r.keys))
		}
		fork.log.Key = tlogtest.NewKey(tlogtest.AlgLog, "fork.example/log", "fork")
		fork.versions = map[string]int64{}
		fork.files = map[string][]byte{}
		fork.root()
		fork.all()
		fork.root()
		c := p.client()
		mustRefresh(t, c, p)
		// A fork's repository is nothing to a client of the project, not even its second root.
		if _, err := c.Refresh(t.Context(), fork, clock(2)); !errors.Is(err, ErrMetadata) {
			t.Errorf("%v", err)
		}
		info, err := Inspect(fork.files["metadata/1.root.json"])
		if err != nil || info.Fingerprint == c.Status().Root.Fingerprint || info.Witnesses != 3 || info.Threshold != 3 || info.Keys != 5 {
			t.Errorf("%+v, %v", info, err)
		}
		if _, err := Inspect(bytes.Replace(fork.files["metadata/1.root.json"], []byte(`"threshold":3`), []byte(`"threshold":2`), 1)); !errors.Is(err, ErrMetadata) {
			t.Errorf("a changed root: %v", err)
		}
		// Each root has its own store, and its own high-water mark: coming back to the project, its old state is still refused.
		old := p.copy()
		p.all()
		mustRefresh(t, c, p)
		f := fork.client()
		mustRefresh(t, f, fork)
		if _, err := reopen(t, c).Refresh(t.Context(), old, clock(2)); !errors.Is(err, ErrRollback) {
			t.Errorf("replay: %v", err)
		}
	})
}

func delegate(p *publisher, change func(*metadata.DelegatedRole)) {
	p.edit["targets"] = func(v any) { change(&v.(*metadata.TargetsType).Delegations.Roles[0]) }
	p.all()
}

// reopen opens a copy of a client's store.
func reopen(t testing.TB, c *Client) *Client {
	t.Helper()
	m := newMemory()
	for _, name := range storeFiles() {
		b, err := c.disk.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		m.files[name] = file{b, true}
	}
	d, err := open(m, Options{NeedLog: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

type sourceFunc func(ctx context.Context, path string, limit int64) ([]byte, error)

func (f sourceFunc) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	return f(ctx, path, limit)
}

// generous sends more than it was asked for.
type generous struct{ *publisher }

func (g generous) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, err := g.publisher.Get(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(b), make([]byte, limit)...), nil
}

// silent says nothing when asked for a path, until the caller has had enough.
type silent struct {
	*publisher
	stop   string
	cancel func()
}

func (s silent) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	if path == s.stop {
		time.AfterFunc(10*time.Millisecond, s.cancel)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.publisher.Get(ctx, path, limit)
}

func testTime(t *testing.T) {
	p := newPublisher(t)
	for _, tc := range []struct {
		name  string
		clock Clock
		stale []string // roles
		ref   time.Time
	}{
		{"right", clock(2), nil, day(2)},
		{"1970, not sure", Clock{Built: day(1), Now: time.Unix(0, 0)}, nil, day(1)},
		{"1970, sure", Clock{Built: day(1), Now: time.Unix(0, 0), Sure: true}, nil, day(1)},
		{"+20 years, not sure", Clock{Built: day(1), Now: day(7300)}, nil, day(1)},
		{"+20 years, sure: NTP lies", clock(7300), []string{"root", "timestamp", "snapshot", "targets"}, day(7300)},
		{"timestamp expired", clock(11), []string{"timestamp"}, day(11)},
		{"the system is newer than everything", Clock{Built: day(50)}, []string{"timestamp", "snapshot"}, day(50)},
		{"no clock at all", Clock{}, nil, day(1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := p.client()
			st, err := c.Refresh(t.Context(), p, tc.clock)
			if (len(tc.stale) > 0) != errors.Is(err, ErrStale) || len(tc.stale) == 0 && err != nil {
				t.Errorf("%v", err)
			}
			if !slices.Equal(st.Expired, tc.stale) || !st.RefTime.Equal(tc.ref) || st.Stale != (len(tc.stale) > 0) {
				t.Errorf("%+v", st)
			}
			if len(c.Targets()) != 2 || c.Targets()[0].Stale != st.Stale {
				t.Errorf("%+v", c.Targets())
			}
			// What a network said about the time is not remembered; when the system was built and what the witnesses saw is.
			kept := reopen(t, c).Status().RefTime
			if want := day(1); tc.clock.Built.After(want) && !kept.Equal(tc.clock.Built) || !tc.clock.Built.After(want) && !kept.Equal(want) {
				t.Errorf("kept %v", kept)
			}
			// With the right time again everything is well again.
			if tc.clock.Built.Before(day(2)) {
				mustRefresh(t, c, p)
			}
		})
	}
	t.Run("the witnesses' time", func(t *testing.T) {
		p, c := newFollower(t)
		// One witness lies, two say the 12th: the third latest counts.
		for i, w := range p.witnesses {
			w.At = []time.Time{day(9000), day(12), day(12), day(3), day(1)}[i]
		}
		p.cosign = p.witnesses
		p.all()
		st, err := c.Refresh(t.Context(), p, Clock{})
		if !errors.Is(err, ErrStale) || !st.RefTime.Equal(day(12)) || !slices.Equal(st.Expired, []string{"timestamp"}) {
			t.Errorf("%v %+v", err, st)
		}
		if st := reopen(t, c).Status(); !st.RefTime.Equal(day(12)) || !st.Stale {
			t.Errorf("after a restart: %+v", st)
		}
		// It never goes back, though a proof with an earlier time is as good.
		p.cosign = p.witnesses[2:]
		p.all()
		if st, _ := c.Refresh(t.Context(), p, Clock{Now: day(1), Sure: true}); !st.RefTime.Equal(day(12)) {
			t.Errorf("%+v", st)
		}
		if ev := c.Status().Evidence["targets"]; !ev.Seen.Equal(day(1)) || ev.Witnesses != 3 {
			t.Errorf("%+v", ev)
		}
	})
	t.Run("a later proof of the same", func(t *testing.T) {
		p, c := newFollower(t)
		for _, w := range p.witnesses {
			w.At = day(5)
		}
		for i, e := range p.log.Entries {
			for file, b := range maps.Clone(p.files) {
				if bytes.Equal(b, e) {
					p.files[file+proofSuffix] = p.log.Proof(int64(i), 0, p.witnesses...)
				}
			}
		}
		st := mustRefresh(t, c, p)
		if ev := st.Evidence["targets"]; !ev.Seen.Equal(day(5)) || ev.Witnesses != 5 {
			t.Errorf("%+v", ev)
		}
		// And a source without proofs does not take it away.
		q := p.copy()
		delete(q.files, "metadata/1.targets.json"+proofSuffix)
		if ev := mustRefresh(t, c, q).Evidence["targets"]; !ev.Seen.Equal(day(5)) {
			t.Errorf("%+v", ev)
		}
	})
	t.Run("freeze", func(t *testing.T) {
		p, c := newFollower(t)
		st, err := c.Refresh(t.Context(), p, clock(11)) // nothing new for longer than a timestamp lives
		if !errors.Is(err, ErrStale) || !slices.Equal(st.Expired, []string{"timestamp"}) {
			t.Errorf("%v %+v", err, st)
		}
		// A source that withholds what a new timestamp names: what is known stays on offer, and is known not to be the newest.
		p.release(release.Stable, "v2")
		p.all()
		delete(p.files, "metadata/2.snapshot.json")
		st, err = c.Refresh(t.Context(), p, clock(2))
		if !errors.Is(err, ErrNotFound) || !st.Stale || len(c.Targets()) != 2 || !c.Targets()[0].Stale || st.Versions.Timestamp != 2 {
			t.Errorf("%v %+v %+v", err, st, c.Targets())
		}
	})
	t.Run("expired roots on the way", func(t *testing.T) {
		p := newPublisher(t)
		c := p.client()
		p.expires["root"] = day(-100)
		p.root()
		p.root()
		p.expires["root"] = day(400)
		p.root()
		p.all()
		if st := mustRefresh(t, c, p); st.Versions.Root != 4 {
			t.Errorf("%+v", st)
		}
	})
}

func testRecovery(t *testing.T) {
	t.Run("fast-forward", func(t *testing.T) {
		p, c := newFollower(t)
		honest := p.copy()
		// Somebody has the machine that publishes, and makes versions that the honest one can't go beyond.
		for _, role := range []string{"timestamp", "snapshot"} {
			p.versions[role] = 1<<62 - 1
		}
		p.snapshot()
		p.timestamp()
		if st := mustRefresh(t, c, p); st.Versions.Timestamp != 1<<62 {
			t.Fatalf("%+v", st)
		}
		honest.release(release.Stable, "v2")
		honest.all()
		if _, err := c.Refresh(t.Context(), honest, clock(2)); !errors.Is(err, ErrRollback) {
			t.Errorf("%v", err)
		}
		honest.roles["timestamp"].keys, honest.roles["snapshot"].keys = people("new timestamp", 1), people("new snapshot", 1)
		honest.root()
		honest.all()
		st := mustRefresh(t, c, honest)
		if st.Versions != (Versions{2, 3, 3, 3, 3}) || len(c.Targets()) != 3 {
			t.Errorf("%+v, %v", st.Versions, paths(c.Targets()))
		}
		if _, err := c.Refresh(t.Context(), p, clock(2)); !errors.Is(err, ErrMetadata) {
			t.Errorf("the thief again: %v", err)
		}
	})
	t.Run("fast-forward by one of two keys", func(t *testing.T) {
		p := newPublisher(t)
		stolen := newPerson("stolen")
		p.roles["timestamp"].keys = append(p.roles["timestamp"].keys, stolen) // 1 of 2
		p.root()
		p.all()
		c := p.client()
		mustRefresh(t, c, p)
		honest := p.copy()
		p.versions["timestamp"] = 1<<62 - 1
		p.roles["timestamp"].sign = p.roles["timestamp"].keys // both, so the old key's signature alone would do for the new root
		p.timestamp()
		mustRefresh(t, c, p)
		honest.roles["timestamp"].keys = honest.roles["timestamp"].keys[:1]
		honest.root()
		honest.all()
		if st := mustRefresh(t, c, honest); st.Versions.Timestamp != 3 {
			t.Errorf("%+v", st.Versions)
		}
	})
	t.Run("a further key is no reason to go back", func(t *testing.T) {
		p := newPublisher(t)
		old := p.copy()
		c := p.client()
		p.all()
		p.roles["timestamp"].keys = append(p.roles["timestamp"].keys, newPerson("further"))
		p.root()
		p.all()
		mustRefresh(t, c, p)
		replay := p.copy()
		replay.files["metadata/timestamp.json"] = old.files["metadata/timestamp.json"]
		if _, err := c.Refresh(t.Context(), replay, clock(2)); !errors.Is(err, ErrRollback) {
			t.Errorf("%v", err)
		}
	})
	t.Run("stolen targets keys", func(t *testing.T) {
		p := newPublisher(t)
		c := p.client()
		p.release(release.Stable, "v666")
		p.all()
		mustRefresh(t, c, p)
		delete(p.content["targets"], "releases/pc/v666/release.json")
		p.roles["targets"].keys = people("new targets", 5)
		p.root()
		// The new root alone takes the thief's release away, before anything else arrives.
		p.fail["metadata/timestamp.json"] = errors.New("no line")
		if _, err := c.Refresh(t.Context(), p, clock(2)); err == nil || len(c.Targets()) != 0 {
			t.Errorf("%v, %v", err, paths(c.Targets()))
		}
		p.fail = map[string]error{}
		p.all()
		mustRefresh(t, c, p)
		if got := paths(c.Targets()); slices.Contains(got, "releases/pc/v666/release.json") || len(got) != 2 {
			t.Errorf("%v", got)
		}
	})
	t.Run("all root keys, one after the other, and 300 roots", func(t *testing.T) {
		p := newPublisher(t)
		c := p.client()
		roots := 300
		if testing.Short() {
			roots = 12
		}
		for i := range roots - 1 {
			keys := slices.Clone(p.roles["root"].keys)
			old := p.roles["root"].keys[:3]
			keys[i%5] = newPerson(fmt.Sprint("next root ", i))
			p.roles["root"].keys, p.roles["root"].sign = keys, append(slices.Clone(old), keys[i%5])
			if i%5 > 2 {
				p.roles["root"].sign = old
			} else {
				p.roles["root"].sign = append(slices.Clone(old), keys[i%5], keys[3], keys[4])
			}
			p.root()
		}
		p.all()
		if st := mustRefresh(t, c, p); st.Versions.Root != int64(roots) {
			t.Errorf("%+v", st.Versions)
		}
		if st := reopen(t, c).Status(); st.Versions.Root != int64(roots) || st.Root.Fingerprint != fingerprint(p.files["metadata/1.root.json"]) {
			t.Errorf("%+v", st)
		}
	})
	t.Run("cut off on the way through the roots", func(t *testing.T) {
		p := newPublisher(t)
		c := p.client()
		for range 10 {
			p.root()
		}
		p.all()
		p.cut = 9
		if _, err := c.Refresh(t.Context(), p, clock(2)); err == nil {
			t.Fatal("no error")
		}
		at := reopen(t, c).Status().Versions.Root
		if at < 3 || at > 9 {
			t.Errorf("stands at root %d", at)
		}
		p.cut, p.requests = 0, nil
		mustRefresh(t, c, p)
		if want := fmt.Sprintf("metadata/%d.root.json", at+1); p.requests[0] != want {
			t.Errorf("asked for %s first, not %s", p.requests[0], want)
		}
	})
}

func testLog(t *testing.T) {
	survive(t, []attack{
		{"a release without a proof", func(p *publisher) { p.all(); delete(p.files, "metadata/2.targets.json"+proofSuffix) }, ErrNotLogged},
		{"a release with the proof of the one before", func(p *publisher) {
			p.all()
			p.files["metadata/2.targets.json"+proofSuffix] = p.files["metadata/1.targets.json"+proofSuffix]
		}, ErrNotLogged},
		{"a root without a proof", func(p *publisher) { p.root(); p.all(); delete(p.files, "metadata/2.root.json"+proofSuffix) }, ErrNotLogged},
		{"a root without a log", func(p *publisher) { p.log = nil; p.root(); p.all() }, ErrNotLogged},
		{"a root whose own witnesses alone saw it", func(p *publisher) {
			for i := range p.witnesses {
				w := tlogtest.NewKey(tlogtest.AlgWitness, p.witnesses[i].Name, fmt.Sprint("bought", i))
				w.At = day(1)
				p.witnesses = append(slices.Clone(p.witnesses[:i]), append([]*tlogtest.Key{w}, p.witnesses[i+1:]...)...)
			}
			p.root()
			p.all()
		}, ErrNotLogged},
		{"a root of another log, logged only there", func(p *publisher) {
			p.log = p.log.Fork(len(p.log.Entries))
			p.log.Key = tlogtest.NewKey(tlogtest.AlgLog, "private.example", "private")
			p.root()
			p.all()
		}, ErrNotLogged},
		{"too few witnesses", func(p *publisher) { p.cosign = p.witnesses[:2]; p.all() }, ErrNotLogged},
		{"one witness three times", func(p *publisher) { p.cosign = slices.Repeat(p.witnesses[:1], 3); p.all() }, ErrNotLogged},
		{"one witness under two names", func(p *publisher) {
			alias := tlogtest.NewKey(tlogtest.AlgWitness, "alias.example", "w0")
			alias.At = day(1)
			p.cosign = append(p.witnesses[:2:2], alias)
			p.all()
		}, ErrNotLogged},
		{"a policy with one witness under two names", func(p *publisher) {
			alias := tlogtest.NewKey(tlogtest.AlgWitness, "alias.example", "w0")
			p.witnesses = append(slices.Clone(p.witnesses), alias)
			p.root()
			p.all()
		}, ErrMetadata},
		{"a policy that counts the log among the witnesses", func(p *publisher) {
			self := tlogtest.NewKey(tlogtest.AlgWitness, "self.example", "log")
			p.witnesses = append(slices.Clone(p.witnesses), self)
			p.root()
			p.all()
		}, ErrMetadata},
		{"another log with the same witnesses", func(p *publisher) {
			p.log = &tlogtest.Log{Key: tlogtest.NewKey(tlogtest.AlgLog, "example.org/log", "second log")}
			p.all()
		}, ErrNotLogged},
		{"a split view: another tree of the same size", func(p *publisher) {
			p.log = p.log.Fork(1)
			p.all()
		}, ErrSplitView},
		{"a split view: a larger tree that forgot", func(p *publisher) {
			p.log = p.log.Fork(1)
			for range 20 {
				p.log.Add([]byte("other"))
			}
			p.all()
		}, ErrSplitView},
		{"a split view: a smaller tree", func(p *publisher) {
			l := p.log.Fork(0)
			l.Add([]byte("other"))
			p.log = l
			p.targets("targets") // at index 1 of a tree of 2
			p.snapshot()
			p.timestamp()
			// The tiles are of the honest log, for a smaller tree is checked against the one that was kept.
			maps.Copy(p.files, newPublisher(p.t).logFiles())
		}, ErrSplitView},
		{"tiles that do not fit", func(p *publisher) {
			p.all()
			for path := range p.logFiles() {
				p.files[path] = make([]byte, len(p.files[path]))
			}
		}, ErrNotLogged},
		{"no tiles", func(p *publisher) {
			p.all()
			for path := range p.logFiles() {
				delete(p.files, path)
			}
		}, ErrNotLogged},
	})
	t.Run("evidence is kept until the owner has looked", func(t *testing.T) {
		p, c := newFollower(t)
		honest := p.copy()
		p.log = p.log.Fork(1)
		p.all()
		st, err := c.Refresh(t.Context(), p, clock(2))
		if !errors.Is(err, ErrSplitView) || st.SplitView == nil || len(c.Targets()) != 0 {
			t.Fatalf("%v %+v", err, st)
		}
		c = reopen(t, c)
		if _, err := c.Refresh(t.Context(), honest, clock(2)); !errors.Is(err, ErrSplitView) || len(c.Targets()) != 0 {
			t.Errorf("after a restart: %v, %v", err, paths(c.Targets()))
		}
		ev := c.Status().SplitView
		policy, err := parseRoot(p.files["metadata/1.root.json"])
		if err != nil {
			t.Fatal(err)
		}
		for _, cp := range []tlog.Checkpoint{ev.A, ev.B} { // anybody can check it
			if got, _, err := policy.policy.Checkpoint(cp.Note); err != nil || got.Hash != cp.Hash || got.Size != cp.Size {
				t.Errorf("%+v, %v", got, err)
			}
		}
		if err := c.ForgetSplitView(); err != nil {
			t.Fatal(err)
		}
		honest.all()
		mustRefresh(t, c, honest)
		if len(c.Targets()) != 2 {
			t.Errorf("%v", paths(c.Targets()))
		}
	})
	t.Run("a new log", func(t *testing.T) {
		p, c := newFollower(t)
		old := p.log
		b := publish(p, "root", "metadata/2.root.json", func() metadata.RootType {
			p.log = &tlogtest.Log{Key: tlogtest.NewKey(tlogtest.AlgLog, "new.example/log", "new log")}
			return p.nextRoot()
		}())
		p.versions["root"]++
		without := p.copy()
		without.log = without.log.Fork(0)
		without.prove("metadata/2.root.json", b)
		if _, err := c.Refresh(t.Context(), without, clock(2)); !errors.Is(err, ErrNotLogged) {
			t.Errorf("logged only in the new log: %v", err)
		}
		i := old.Add(b)
		p.files["metadata/2.root.json"+beforeSuffix] = old.Proof(i, 0, p.witnesses...)
		for path := range p.logFiles() {
			delete(p.files, path)
		}
		old.Tiles(p.files, "logs/"+strings.Split(old.Key.String(), "+")[1]+"/", int64(len(old.Entries)))
		p.prove("metadata/2.root.json", b)
		p.all()
		st := mustRefresh(t, c, p)
		if st.Versions.Root != 2 || st.Log == nil || st.Log.Origin != "new.example/log" || !st.Evidence["root"].Logged {
			t.Errorf("%+v", st)
		}
	})
	t.Run("without a log, as the owner was told", func(t *testing.T) {
		p := newPublisher(t)
		p.log, p.files, p.versions = nil, map[string][]byte{}, map[string]int64{}
		p.root()
		p.all()
		if _, err := Create(t.TempDir(), Options{Root: p.files["metadata/1.root.json"], NeedLog: true}); !errors.Is(err, ErrNotLogged) {
			t.Errorf("%v", err)
		}
		c, err := Create(t.TempDir(), Options{Root: p.files["metadata/1.root.json"]})
		if err != nil {
			t.Fatal(err)
		}
		st := mustRefresh(t, c, p)
		if ev := st.Evidence["targets"]; ev.Logged || ev.Witnesses != 0 || !ev.Seen.IsZero() || ev.Signers != 3 || st.Root.Witnesses != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// logFiles are the files of the log.
func (p *publisher) logFiles() map[string][]byte {
	out := map[string][]byte{}
	for path, b := range p.files {
		if strings.HasPrefix(path, "log/") {
			out[path] = b
		}
	}
	return out
}
