package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog/tlogtest"
)

// day is noon of a day in November 2026, on which these tests happen.
func day(n int) time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC).AddDate(0, 0, n-1) }

// person has a TUF key. Its id is the hash of the key unless the test wants another.
type person struct {
	id   string
	priv ed25519.PrivateKey
	key  *metadata.Key
}

func newPerson(seed string) *person {
	h := sha256.Sum256([]byte(seed))
	p := &person{priv: ed25519.NewKeyFromSeed(h[:])}
	var err error
	if p.key, err = metadata.KeyFromPublicKey(p.priv.Public()); err != nil {
		panic(err)
	}
	if p.id, err = p.key.ID(); err != nil {
		panic(err)
	}
	return p
}

func people(prefix string, n int) []*person {
	out := make([]*person, n)
	for i := range out {
		out[i] = newPerson(fmt.Sprint(prefix, i))
	}
	return out
}

// role is who may sign, how many have to, and who does.
type role struct {
	keys      []*person
	threshold int
	sign      []*person // nil: threshold of keys
}

func (r role) signers() []*person {
	if r.sign != nil {
		return r.sign
	}
	return r.keys[:r.threshold]
}

// publisher publishes into files, which are a Source.
type publisher struct {
	t     testing.TB
	files map[string][]byte

	roles     map[string]*role // root, timestamp, snapshot, targets, beta
	hasBeta   bool
	log       *tlogtest.Log // nil: none
	witnesses []*tlogtest.Key
	quorum    int
	cosign    []*tlogtest.Key // who really does; nil: quorum of witnesses
	expires   map[string]time.Time
	edit      map[string]func(any)           // changes the signed part of a role before it is signed
	editKeys  func(map[string]*metadata.Key) // of a root
	after     map[string]func([]byte) []byte // changes the file
	versions  map[string]int64               // of what was published last, by role
	content   map[string]map[string][]byte   // targets' bytes by role and path
	requests  []string                       // paths asked for
	fail      map[string]error               // by path
	cut       int                            // fails all requests after so many, if not 0
}

// newPublisher has the format's defaults: root and targets 3 of 5, beta 2 of 3, a log with 3 of 5 witnesses, one release.
func newPublisher(t testing.TB) *publisher {
	p := fresh().copy()
	p.t, p.log = t, p.log.Fork(len(p.log.Entries))
	p.witnesses = slices.Clone(p.witnesses)
	for i, w := range p.witnesses {
		c := *w
		p.witnesses[i] = &c
	}
	return p
}

// fresh and refreshed are made once, because keys, signatures and proofs take their time: a new publisher, and the store of a client that
// has seen it.
var (
	fresh     = sync.OnceValue(makePublisher)
	refreshed = sync.OnceValue(func() *memory {
		m := newMemory()
		c, err := create(m, Options{Root: fresh().files["metadata/1.root.json"], NeedLog: true})
		if err != nil {
			panic(err)
		}
		if _, err := c.Refresh(context.Background(), fresh().copy(), clock(2)); err != nil {
			panic(err)
		}
		return m
	})
)

// newFollower is a new publisher and a client that has seen it.
func newFollower(t testing.TB) (*publisher, *Client) {
	m := newMemory()
	m.files = maps.Clone(refreshed().files)
	c, err := open(m, Options{NeedLog: true})
	if err != nil {
		t.Fatal(err)
	}
	c.clock = clock(2)
	return newPublisher(t), c
}

func makePublisher() *publisher {
	p := &publisher{
		files: map[string][]byte{}, hasBeta: true, quorum: 3,
		roles: map[string]*role{
			"root":      {keys: people("root", 5), threshold: 3},
			"targets":   {keys: people("targets", 5), threshold: 3},
			"beta":      {keys: people("beta", 3), threshold: 2},
			"timestamp": {keys: people("timestamp", 1), threshold: 1},
			"snapshot":  {keys: people("snapshot", 1), threshold: 1},
		},
		log:     &tlogtest.Log{Key: tlogtest.NewKey(tlogtest.AlgLog, "example.org/log", "log")},
		expires: map[string]time.Time{"root": day(400), "targets": day(100), "beta": day(100), "snapshot": day(40), "timestamp": day(10)},
		edit:    map[string]func(any){}, after: map[string]func([]byte) []byte{}, versions: map[string]int64{},
		content: map[string]map[string][]byte{"targets": {}, "beta": {}}, fail: map[string]error{},
	}
	for i := range 5 {
		w := tlogtest.NewKey(tlogtest.AlgWitness, fmt.Sprintf("witness%d.example", i), fmt.Sprint("w", i))
		w.At = day(1)
		p.witnesses = append(p.witnesses, w)
	}
	p.release(release.Stable, "v1")
	p.release(release.Beta, "v2-beta")
	p.root()
	p.all()
	return p
}

func (p *publisher) release(c release.Channel, version string) string {
	path := release.Target(c, "pc", version)
	name := "targets"
	if c == release.Beta {
		name = "beta"
	}
	p.content[name][path] = []byte("description of " + version)
	return path
}

// Get is a Source.
func (p *publisher) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	p.requests = append(p.requests, path)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := p.fail[path]; err != nil {
		return nil, err
	}
	if p.cut > 0 && len(p.requests) > p.cut {
		return nil, errors.New("the line was cut")
	}
	b, ok := p.files[path]
	if !ok {
		return nil, ErrNotFound
	}
	if int64(len(b)) > limit {
		return nil, ErrTooLarge
	}
	return b, nil
}

// copy is the same publisher at this moment, over the same log.
func (p *publisher) copy() *publisher {
	c := *p
	c.files, c.versions, c.expires = maps.Clone(p.files), maps.Clone(p.versions), maps.Clone(p.expires)
	c.edit, c.after = maps.Clone(p.edit), maps.Clone(p.after)
	c.requests, c.cut, c.fail = nil, 0, map[string]error{}
	c.roles, c.content = map[string]*role{}, map[string]map[string][]byte{}
	for k, v := range p.roles {
		r := *v
		c.roles[k] = &r
	}
	for k, v := range p.content {
		c.content[k] = maps.Clone(v)
	}
	return &c
}

// root publishes the next root.
func (p *publisher) root() { p.rootAs(p.nextRoot()) }

func (p *publisher) nextRoot() metadata.RootType {
	r := metadata.Root(p.expires["root"]).Signed
	r.Version = p.versions["root"] + 1
	for _, name := range metadata.TOP_LEVEL_ROLE_NAMES {
		ro := p.roles[name]
		r.Roles[name] = &metadata.Role{Threshold: ro.threshold, KeyIDs: []string{}}
		for _, k := range ro.keys {
			r.Keys[k.id] = k.key
			r.Roles[name].KeyIDs = append(r.Roles[name].KeyIDs, k.id)
		}
	}
	if p.editKeys != nil {
		p.editKeys(r.Keys)
	}
	r.UnrecognizedFields = map[string]any{}
	if p.log != nil {
		var ws []any
		for _, w := range p.witnesses {
			ws = append(ws, w.String())
		}
		r.UnrecognizedFields[logField] = map[string]any{"log": p.log.Key.String(), "witnesses": ws, "quorum": p.quorum}
	}
	return r
}

func (p *publisher) rootAs(r metadata.RootType) {
	file := fmt.Sprintf("metadata/%d.root.json", p.versions["root"]+1)
	b := publish(p, "root", file, r)
	p.versions["root"]++
	p.prove(file, b)
}

// publish signs and writes metadata.
func publish[T metadata.Roles](p *publisher, name, file string, signed T) []byte {
	if e := p.edit[name]; e != nil {
		e(&signed)
	}
	b := sign(signed, p.roles[name].signers()...)
	if a := p.after[name]; a != nil {
		b = a(b)
	}
	p.files[file] = b
	return b
}

func sign[T metadata.Roles](signed T, by ...*person) []byte {
	m := metadata.Metadata[T]{Signed: signed, Signatures: []metadata.Signature{}}
	payload, err := cjson.EncodeCanonical(signed)
	if err != nil {
		panic(err)
	}
	for _, k := range by {
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: k.id, Signature: ed25519.Sign(k.priv, payload)})
	}
	b, err := m.ToBytes(false)
	if err != nil {
		panic(err)
	}
	return b
}

// prove logs a file, and writes its proof and the tiles.
func (p *publisher) prove(file string, b []byte) {
	if p.log == nil {
		return
	}
	i := p.log.Add(b)
	by := p.cosign
	if by == nil {
		by = p.witnesses[:p.quorum]
	}
	p.files[file+proofSuffix] = p.log.Proof(i, 0, by...)
	p.log.Tiles(p.files, "log/", int64(len(p.log.Entries)))
	p.files["log/checkpoint"] = p.log.Checkpoint(int64(len(p.log.Entries)), by...)
}

// all publishes the next version of everything but the root.
func (p *publisher) all() {
	p.targets("beta")
	p.targets("targets")
	p.snapshot()
	p.timestamp()
}

func (p *publisher) targets(name string) {
	if name == "beta" && !p.hasBeta {
		return
	}
	m := metadata.Targets(p.expires[name]).Signed
	p.versions[name]++
	m.Version = p.versions[name]
	for path, b := range p.content[name] {
		h := sha256.Sum256(b)
		m.Targets[path] = &metadata.TargetFiles{Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": h[:]}}
	}
	if name == "targets" && p.hasBeta {
		d := &metadata.Delegations{Keys: map[string]*metadata.Key{}}
		ro := metadata.DelegatedRole{Name: "beta", Threshold: p.roles["beta"].threshold, Paths: []string{betaPath}}
		for _, k := range p.roles["beta"].keys {
			d.Keys[k.id] = k.key
			ro.KeyIDs = append(ro.KeyIDs, k.id)
		}
		d.Roles = []metadata.DelegatedRole{ro}
		m.Delegations = d
	}
	file := fmt.Sprintf("metadata/%d.%s.json", m.Version, name)
	p.prove(file, publish(p, name, file, m))
}

func (p *publisher) snapshot() {
	m := metadata.Snapshot(p.expires["snapshot"]).Signed
	p.versions["snapshot"]++
	m.Version = p.versions["snapshot"]
	m.Meta = map[string]*metadata.MetaFiles{"targets.json": p.meta("targets")}
	if p.hasBeta {
		m.Meta["beta.json"] = p.meta("beta")
	}
	publish(p, "snapshot", fmt.Sprintf("metadata/%d.snapshot.json", m.Version), m)
}

func (p *publisher) timestamp() {
	m := metadata.Timestamp(p.expires["timestamp"]).Signed
	p.versions["timestamp"]++
	m.Version = p.versions["timestamp"]
	m.Meta = map[string]*metadata.MetaFiles{"snapshot.json": p.meta("snapshot")}
	publish(p, "timestamp", "metadata/timestamp.json", m)
}

func (p *publisher) meta(name string) *metadata.MetaFiles {
	b := p.files[fmt.Sprintf("metadata/%d.%s.json", p.versions[name], name)]
	h := sha256.Sum256(b)
	return &metadata.MetaFiles{Version: p.versions[name], Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": h[:]}}
}

// client makes a client of the first root, with its store in memory.
func (p *publisher) client() *Client {
	p.t.Helper()
	c, err := create(newMemory(), Options{Root: p.files["metadata/1.root.json"], NeedLog: true})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// clock is a sure clock of a day.
func clock(n int) Clock { return Clock{Built: day(1), Now: day(n), Sure: true} }

// mustRefresh refreshes on day 2.
func mustRefresh(t testing.TB, c *Client, src Source) Status {
	t.Helper()
	st, err := c.Refresh(t.Context(), src, clock(2))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// paths are those of the targets.
func paths(ts []Target) (out []string) {
	for _, t := range ts {
		out = append(out, t.Path)
	}
	return out
}

// rewrite changes metadata as JSON, without signing it again.
func rewrite(t testing.TB, b []byte, change func(m map[string]any)) []byte {
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
