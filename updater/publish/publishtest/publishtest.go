// Package publishtest is a publisher for the tests of others: people's keys, a repository in a folder, its log and its witnesses, all
// in one process. It signs what it is told to and asks nobody. Nothing of it belongs into a product.
package publishtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/witness"
)

// Options are the ways in which publishers differ. Zero means: 5 root keys of which 3 sign, likewise for targets, no beta, 3
// witnesses of which 2 have to sign.
type Options struct {
	Root, Targets, Beta [2]int           // threshold, keys; Beta zero: no role beta
	Witnesses, Quorum   int              //
	NoLog               bool             // no log policy in root
	Origin              string           // of the log; default "example.org/croft"
	Now                 func() time.Time // default time.Now; also the witnesses' clock
}

// Publisher is one.
type Publisher struct {
	t         testing.TB
	dir       string
	now       func() time.Time
	setup     publish.Setup
	keys      map[string]*publish.Key // of people, by key id
	online    []*publish.Key
	log       []*publish.Key
	witnesses []*testWitness
	stages    int
}

type testWitness struct {
	key      *publish.Key
	dir, url string
	now      atomic.Pointer[witness.Witness]
	stopped  atomic.Bool
}

// Release is what is published: Board, Number, Version, Boot and Root have to be given.
type Release struct {
	Board, Version string
	Number         int64
	Channel        release.Channel // default stable
	Boot, Root     []byte
	Notes          map[string]string // default: a sentence in English
	Cmdline        string            // default: a short one
	Built          time.Time         // default: an hour ago
	Commit         string            // default: of the version
	SBOM           []byte            // default: a short text
	State          release.State     // default: 1, 1
}

// New makes keys, and an empty repository signed, logged and witnessed.
func New(t testing.TB, o Options) *Publisher {
	t.Helper()
	if o.Root == [2]int{} {
		o.Root = [2]int{3, 5}
	}
	if o.Targets == [2]int{} {
		o.Targets = [2]int{3, 5}
	}
	if o.Witnesses == 0 {
		o.Witnesses, o.Quorum = 3, cmp.Or(o.Quorum, 2)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Publisher{t: t, dir: filepath.Join(t.TempDir(), "repo"), now: o.Now, keys: map[string]*publish.Key{}}
	p.setup.Root = p.people("root", o.Root)
	p.setup.Targets = p.people("targets", o.Targets)
	if o.Beta[0] > 0 {
		p.setup.Beta = p.people("beta", o.Beta)
	}
	p.online = []*publish.Key{p.key("online")}
	one := publish.Threshold{N: 1, Keys: []publish.PublicKey{p.online[0].PublicKey}}
	p.setup.Snapshot, p.setup.Timestamp = one, one
	if !o.NoLog {
		p.log = []*publish.Key{p.key(cmp.Or(o.Origin, "example.org/croft"))}
		p.witness(o.Witnesses)
		p.setup.Log = p.Policy(p.log[0], cmp.Or(o.Quorum, 1))
	}
	stage := p.stage()
	st, err := publish.Init(stage, p.setup, p.now())
	p.check(err)
	p.publish(st)
	return p
}

func (p *Publisher) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *Publisher) key(name string) *publish.Key {
	p.t.Helper()
	k, err := publish.NewKey(name)
	p.check(err)
	p.keys[k.ID()] = k
	return k
}

func (p *Publisher) people(role string, n [2]int) publish.Threshold {
	t := publish.Threshold{N: n[0]}
	for i := range n[1] {
		t.Keys = append(t.Keys, p.key(fmt.Sprintf("%s-%d", role, i+1)).PublicKey)
	}
	return t
}

func (p *Publisher) witness(n int) {
	for i := range n {
		p.serve(&testWitness{key: p.key(fmt.Sprintf("witness-%d.example", i+1)), dir: p.t.TempDir()})
	}
}

func (p *Publisher) serve(tw *testWitness) {
	p.t.Helper()
	tw.restart(p)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if tw.stopped.Load() {
			http.Error(rw, "stopped", http.StatusServiceUnavailable)
			return
		}
		tw.now.Load().ServeHTTP(rw, r)
	}))
	p.t.Cleanup(func() { s.Close(); tw.now.Load().Close() })
	tw.url = s.URL
	p.witnesses = append(p.witnesses, tw)
}

// Fork is the same people with the same log and the same witnesses once more, in a folder of its own. What one of the two publishes, the
// other one's witnesses do not hear of: together they show a split view.
func (p *Publisher) Fork() *Publisher {
	p.t.Helper()
	f := *p
	f.dir, f.keys, f.witnesses = filepath.Join(p.t.TempDir(), "repo"), maps.Clone(p.keys), nil
	p.check(os.CopyFS(f.dir, os.DirFS(p.dir)))
	for _, w := range p.witnesses {
		tw := &testWitness{key: w.key, dir: filepath.Join(p.t.TempDir(), "witness")}
		p.check(os.CopyFS(tw.dir, os.DirFS(w.dir)))
		f.serve(tw)
	}
	return &f
}

// restart has the witness watch the log's present keys.
func (tw *testWitness) restart(p *Publisher) {
	p.t.Helper()
	if w := tw.now.Load(); w != nil {
		p.check(w.Close())
	}
	c := witness.Config{Name: tw.key.Name, Key: tw.key.Private(), Dir: tw.dir, Clock: func() (time.Time, bool) { return p.now(), true }}
	for _, k := range p.log {
		c.Logs = append(c.Logs, k.LogKey())
	}
	w, err := witness.New(c)
	p.check(err)
	tw.now.Store(w)
}

// Policy is one with a key of a log and all witnesses.
func (p *Publisher) Policy(log *publish.Key, quorum int) *tlog.Policy {
	var keys []string
	for _, w := range p.witnesses {
		keys = append(keys, w.key.WitnessKey())
	}
	policy, err := tlog.NewPolicy(log.LogKey(), keys, quorum)
	p.check(err)
	return policy
}

func (p *Publisher) stage() string {
	p.stages++
	return filepath.Join(p.t.TempDir(), fmt.Sprintf("stage-%d", p.stages))
}

// Options are what the machine that publishes has.
func (p *Publisher) Options() publish.Options {
	o := publish.Options{Repo: p.dir, Online: p.online, Log: p.log, Now: p.now, Witnesses: map[string]string{}}
	for _, w := range p.witnesses {
		o.Witnesses[w.key.Name] = w.url
	}
	return o
}

// publish has as many people sign as have to, and publishes.
func (p *Publisher) publish(st *publish.Stage) {
	p.t.Helper()
	p.Sign(st)
	_, err := publish.Publish(context.Background(), p.Options(), st.Dir, nil)
	p.check(err)
}

// Stage begins a stage that follows what is published, for tests that publish by themselves.
func (p *Publisher) Stage() *publish.Stage {
	p.t.Helper()
	st, err := publish.NewStage(p.stage(), p.dir, p.now())
	p.check(err)
	return st
}

// Key makes a key of a person, who signs from now on where that is asked for.
func (p *Publisher) Key(name string) *publish.Key { return p.key(name) }

// Person is the key of somebody by name: "root-1", "targets-1", "beta-1" and so on.
func (p *Publisher) Person(name string) *publish.Key {
	p.t.Helper()
	for _, k := range p.keys {
		if k.Name == name {
			return k
		}
	}
	p.t.Fatalf("nobody is called %s", name)
	return nil
}

// Sign has as many people sign as have to. They trust everything.
func (p *Publisher) Sign(st *publish.Stage) {
	p.t.Helper()
	trust := []string{} // all that is in the stage
	names, err := filepath.Glob(filepath.Join(st.Dir, "targets/*/*/*/*"))
	p.check(err)
	for _, n := range names {
		sum, _, _ := strings.Cut(filepath.Base(n), ".")
		trust = append(trust, sum)
	}
	ids := slices.Sorted(maps.Keys(p.keys))
	slices.SortStableFunc(ids, func(a, b string) int { return strings.Compare(p.keys[a].Name, p.keys[b].Name) })
	for _, id := range ids {
		missing, err := st.Missing()
		p.check(err)
		if len(missing) == 0 {
			break
		}
		_, err = st.Sign(publish.SignOptions{Key: p.keys[id], Trust: trust, Confirm: func(string) bool { return true }})
		if err != nil && !strings.Contains(err.Error(), "may sign nothing") {
			p.t.Fatal(err)
		}
	}
}

// Dir is the repository's folder.
func (p *Publisher) Dir() string { return p.dir }

// Handler serves the repository, with ranges.
func (p *Publisher) Handler() http.Handler { return http.FileServer(http.Dir(p.dir)) }

// Root is the first root.
func (p *Publisher) Root() []byte {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "metadata/1.root.json"))
	p.check(err)
	return b
}

// Fingerprint is the SHA-256 of the first root.
func (p *Publisher) Fingerprint() string { return hash(p.Root()) }

// AddRelease publishes a stable release.
func (p *Publisher) AddRelease(board string, number int64, version string, boot, root []byte) *release.Release {
	p.t.Helper()
	return p.Add(Release{Board: board, Number: number, Version: version, Boot: boot, Root: root})[0]
}

// Add publishes releases at once, in one version of the metadata.
func (p *Publisher) Add(rs ...Release) []*release.Release {
	p.t.Helper()
	st := p.Stage()
	var list []*release.Release
	for _, r := range rs {
		in := publish.Input{Dir: p.t.TempDir(), Notes: r.Notes, From: []string{p.dir}}
		if in.Notes == nil {
			in.Notes = map[string]string{"en": "What is new in " + r.Version + "."}
		}
		in.Payload = p.Payload(in.Dir, r)
		x, err := st.Add(context.Background(), in)
		p.check(err)
		list = append(list, x)
	}
	p.publish(st)
	return list
}

// Payload writes to a folder what a build would leave of a release.
func (p *Publisher) Payload(dir string, r Release) *publish.Payload {
	p.t.Helper()
	if r.Built.IsZero() {
		r.Built = p.now().Add(-time.Hour)
	}
	if r.State == (release.State{}) {
		r.State = release.State{Schema: 1, Reads: 1}
	}
	if r.SBOM == nil {
		r.SBOM = []byte(`{"spdxVersion": "SPDX-2.3"}`)
	}
	return &publish.Payload{
		Format: "croft-payload/1", Board: r.Board, Version: r.Version, Number: r.Number, Channel: cmp.Or(r.Channel, release.Stable),
		Built: r.Built.Unix(), Commit: cmp.Or(r.Commit, hash([]byte(r.Version))[:40]),
		Cmdline: cmp.Or(r.Cmdline, "root=PARTUUID={root} ro croft.slot={slot}"), State: r.State,
		Boot: p.file(dir, "boot.part", r.Boot), Root: p.file(dir, "root.part", r.Root), SBOM: p.file(dir, "sbom.spdx.json", r.SBOM),
	}
}

func (p *Publisher) file(dir, name string, b []byte) publish.PayloadFile {
	p.t.Helper()
	p.check(os.WriteFile(filepath.Join(dir, name), b, 0o644))
	return publish.PayloadFile{File: name, Size: int64(len(b)), SHA256: hash(b)}
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Withdraw publishes lists without a release. What it was signed for stays true: boxes that have it keep it.
func (p *Publisher) Withdraw(c release.Channel, board, version string) {
	p.t.Helper()
	st := p.Stage()
	p.check(st.Withdraw(c, board, version))
	p.publish(st)
}

// Audit makes p an auditor that says the same as a project, all of which it has built itself.
func (p *Publisher) Audit(project *Publisher) {
	p.t.Helper()
	st, _, err := publish.Audit(p.stage(), p.dir, project.dir, []string{project.dir}, p.now())
	p.check(err)
	p.publish(st)
}

// Refresh renews timestamp.json, and the proofs with the witnesses' present time.
func (p *Publisher) Refresh() {
	p.t.Helper()
	p.check(p.TryRefresh())
}

// TryRefresh is Refresh where it may fail.
func (p *Publisher) TryRefresh() error {
	_, err := publish.Refresh(context.Background(), p.Options())
	return err
}

// NewOnlineKey publishes a new root with another key for snapshot and timestamp.
func (p *Publisher) NewOnlineKey() {
	p.t.Helper()
	p.online = append(p.online, p.key("online-new"))
	one := publish.Threshold{N: 1, Keys: []publish.PublicKey{p.online[1].PublicKey}}
	p.Change(func(s *publish.Setup) { s.Snapshot, s.Timestamp = one, one })
	p.online = p.online[1:]
}

// NewLogKey publishes a new root with another key of the log, or, if it gets another origin, with another log. The witnesses hear of it.
func (p *Publisher) NewLogKey(origin string) {
	p.t.Helper()
	p.AddLogKey(origin)
	p.Change(func(s *publish.Setup) { s.Log = p.Policy(p.log[0], s.Log.Quorum()) })
	p.log = p.log[:1]
}

// AddLogKey makes another key of the log, or of another log, beside the present one, and tells the witnesses.
func (p *Publisher) AddLogKey(origin string) *publish.Key {
	p.t.Helper()
	p.log = []*publish.Key{p.key(cmp.Or(origin, p.log[0].Name)), p.log[0]}
	for _, w := range p.witnesses {
		w.restart(p)
	}
	return p.log[0]
}

// Rotate publishes a new root, in which one key of the role root is a new one.
func (p *Publisher) Rotate() {
	p.t.Helper()
	p.Change(func(s *publish.Setup) {
		s.Root.Keys = append(slices.Clone(s.Root.Keys[1:]), p.key(fmt.Sprintf("root-new-%d", p.stages)).PublicKey)
	})
}

// Change publishes a new root, with whatever change makes of what the present one says.
func (p *Publisher) Change(change func(*publish.Setup)) {
	p.t.Helper()
	s, err := publish.SetupOf(p.dir)
	p.check(err)
	change(&s)
	st := p.Stage()
	p.check(st.Rotate(s))
	p.publish(st)
	p.setup = s
}

// StopWitness has a witness, counted from 0, answer no more; StartWitness undoes that.
func (p *Publisher) StopWitness(i int) { p.witnesses[i].stopped.Store(true) }

// StartWitness undoes StopWitness.
func (p *Publisher) StartWitness(i int) { p.witnesses[i].stopped.Store(false) }

// Bundle is croft-BOARD.zip with the newest release of the board in that channel.
func (p *Publisher) Bundle(board string, c release.Channel) []byte {
	p.t.Helper()
	var b bytes.Buffer
	p.check(publish.Bundle(&b, p.dir, board, c))
	return b.Bytes()
}

// PublisherFile is what an image carries as /etc/croft/publisher.json.
func (p *Publisher) PublisherFile(name string, mirrors ...string) []byte {
	p.t.Helper()
	b, err := json.Marshal(struct {
		Name    string   `json:"name"`
		Mirrors []string `json:"mirrors"`
	}{name, mirrors})
	p.check(err)
	return b
}
