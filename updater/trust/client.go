package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
)

// Client follows one publisher. Its methods may be called from several goroutines; Refresh is done by one at a time.
type Client struct {
	disk    disk
	prefix  string
	needLog bool

	refreshing sync.Mutex

	mu    sync.Mutex // what follows
	st    *state
	view  view
	clock Clock
}

// view is what a state says after all of it was verified.
type view struct {
	root     *root
	versions Versions
	evidence map[string]Evidence
	targets  []Target
	noBeta   string               // why there is no beta, though the set has it
	expires  map[string]time.Time // by role, of what is complete
	complete bool                 // there are targets, and they are those of the newest timestamp
}

// Create makes an empty store in dir around the first trusted root. It fails with fs.ErrExist if there is one already; its errors wrap
// ErrMetadata or ErrNotLogged if the root can't be followed.
func Create(dir string, o Options) (*Client, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return create(folder(dir), o)
}

func create(d disk, o Options) (*Client, error) {
	if _, err := load(d); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("trust store: %w", fs.ErrExist), err)
	}
	if _, err := Inspect(o.Root); err != nil {
		return nil, err
	}
	st := &state{Format: storeFormat, First: o.Root, Root: o.Root}
	c, err := newClient(d, o, st)
	if err != nil {
		return nil, err
	}
	if o.NeedLog && c.view.root.policy == nil {
		return nil, fmt.Errorf("%w: the root names no log", ErrNotLogged)
	}
	return c, save(d, st)
}

// Open opens a store: fs.ErrNotExist if there is none, ErrDamaged if neither of its copies can be read. Options.Root does not count: a
// store never goes back to a root that it has left.
func Open(dir string, o Options) (*Client, error) { return open(folder(dir), o) }

func open(d disk, o Options) (*Client, error) {
	st, err := load(d)
	if err != nil {
		return nil, err
	}
	return newClient(d, o, st)
}

func newClient(d disk, o Options, st *state) (*Client, error) {
	c := &Client{disk: d, prefix: o.Prefix, needLog: o.NeedLog, st: st}
	var err error
	if c.view, err = look(st); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return c, nil
}

// look verifies a state. It fails if the root is not whole; a set that does not hold under the root is passed over, for a new root may
// have taken its keys' word away.
func look(st *state) (view, error) {
	r, err := parseRoot(st.Root)
	if err != nil {
		return view{}, err
	}
	tm, err := verifier(st.Root)
	if err != nil {
		return view{}, err
	}
	v := view{root: r, evidence: map[string]Evidence{}, expires: map[string]time.Time{}}
	v.versions.Root = r.Signed.Version
	v.expires[metadata.ROOT] = r.Signed.Expires
	v.evidence[metadata.ROOT] = evidence(r, metadata.ROOT, r.Signed, r.Signatures, st.Root, st.RootProof)
	if st.Timestamp != nil {
		if m, err := parse[metadata.TimestampType](st.Timestamp); err == nil {
			v.versions.Timestamp = m.Signed.Version
		}
	}
	if st.Snapshot != nil {
		if m, err := parse[metadata.SnapshotType](st.Snapshot); err == nil {
			v.versions.Snapshot = m.Signed.Version
		}
	}
	if s := st.Set; s != nil {
		v.complete = v.takeSet(tm, s) == nil && bytes.Equal(s.Timestamp, st.Timestamp)
	}
	return v, nil
}

func verifier(root []byte) (*trustedmetadata.TrustedMetadata, error) {
	tm, err := trustedmetadata.New(root)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	tm.RefTime = never()
	return tm, nil
}

func (v *view) takeSet(tm *trustedmetadata.TrustedMetadata, s *set) error {
	if err := errors.Join(checkTimestamp(s.Timestamp), checkSnapshot(s.Snapshot), checkTargets(s.Targets, metadata.TARGETS)); err != nil {
		return err
	}
	ts, err := tm.UpdateTimestamp(s.Timestamp)
	if err != nil {
		return err
	}
	sn, err := tm.UpdateSnapshot(s.Snapshot, false)
	if err != nil {
		return err
	}
	tg, err := tm.UpdateTargets(s.Targets)
	if err != nil {
		return err
	}
	ev := evidence(v.root, metadata.TARGETS, tg.Signed, tg.Signatures, s.Targets, s.TargetsProof)
	if v.root.policy != nil && !ev.Logged {
		return ErrNotLogged
	}
	v.versions.Targets = tg.Signed.Version
	v.evidence[metadata.TARGETS] = ev
	v.targets = listed(tg, release.Stable, ev)
	v.expires[metadata.TIMESTAMP], v.expires[metadata.SNAPSHOT] = ts.Signed.Expires, sn.Signed.Expires
	v.expires[metadata.TARGETS] = tg.Signed.Expires
	v.noBeta = s.NoBeta
	if s.Beta == nil {
		return nil
	}
	if err := v.takeBeta(tm, tg, s); err != nil {
		v.noBeta = err.Error()
	}
	return nil
}

func (v *view) takeBeta(tm *trustedmetadata.TrustedMetadata, tg *metadata.Metadata[metadata.TargetsType], s *set) error {
	if err := checkTargets(s.Beta, beta); err != nil {
		return err
	}
	bt, err := tm.UpdateDelegatedTargets(s.Beta, beta, metadata.TARGETS)
	if err != nil {
		return err
	}
	role := betaRole(tg)
	keys, err := roleKeys(tg.Signed.Delegations.Keys, role.KeyIDs, role.Threshold)
	if err != nil {
		return err
	}
	ev := Evidence{Signers: signers(keys, bt.Signed, bt.Signatures), Of: len(keys), Threshold: role.Threshold}
	ev.logged(v.root.policy, s.Beta, s.BetaProof)
	if v.root.policy != nil && !ev.Logged {
		return ErrNotLogged
	}
	v.versions.Beta = bt.Signed.Version
	v.evidence[beta] = ev
	v.expires[beta] = bt.Signed.Expires
	v.targets = append(v.targets, listed(bt, release.Beta, ev)...)
	return nil
}

// evidence counts who stands for a top-level role's metadata.
func evidence(r *root, role string, signed any, sigs []metadata.Signature, entry, proof []byte) Evidence {
	ro := r.Signed.Roles[role]
	keys, err := roleKeys(r.Signed.Keys, ro.KeyIDs, ro.Threshold)
	if err != nil {
		return Evidence{} // parseRoot has checked it
	}
	ev := Evidence{Signers: signers(keys, signed, sigs), Of: len(keys), Threshold: ro.Threshold}
	ev.logged(r.policy, entry, proof)
	return ev
}

func (ev *Evidence) logged(p *tlog.Policy, entry, proof []byte) {
	if p == nil || proof == nil {
		return
	}
	if _, e, err := p.Verify(entry, proof); err == nil {
		ev.Logged, ev.Witnesses, ev.Seen = true, e.Witnesses, e.Seen
	}
}

// Status is what the client knows. What is stale is so at the time of the last Refresh, or for the time that was kept if there was none.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status()
}

func (c *Client) status() Status {
	v := &c.view
	s := Status{Versions: v.versions, Evidence: v.evidence, Beta: v.noBeta, RefTime: c.refTime(), SplitView: c.st.Split}
	s.Root = v.root.info()
	s.Root.Fingerprint = fingerprint(c.st.First)
	if v.root.policy != nil {
		if cp, ok := c.st.Logs[v.root.policy.LogKey()]; ok {
			s.Log = &cp
		}
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		e, ok := v.expires[role]
		if !ok {
			continue
		}
		if s.Expires.IsZero() || e.Before(s.Expires) {
			s.Expires = e
		}
		if s.RefTime.After(e) {
			s.Expired = append(s.Expired, role)
		}
	}
	s.Stale = len(s.Expired) > 0 || !v.complete
	return s
}

// refTime is what expiry is checked against: docs/release-format.md, "Time".
func (c *Client) refTime() time.Time {
	t := time.Unix(c.st.RefTime, 0)
	if c.clock.Built.After(t) {
		t = c.clock.Built
	}
	if c.clock.Sure && c.clock.Now.After(t) {
		t = c.clock.Now
	}
	return t.UTC()
}

// Targets are the verified descriptions of releases, stable ones first, by path.
func (c *Client) Targets() []Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st.Split != nil {
		return nil
	}
	stale := c.status().Stale
	betaStale := stale || c.refTime().After(c.view.expires[beta])
	out := slices.Clone(c.view.targets)
	for i := range out {
		out[i].Stale = stale
		if out[i].Channel == release.Beta {
			out[i].Stale = betaStale
		}
	}
	return out
}

// Verify checks the bytes of a target: ErrNotFound if there is none with that path, ErrMetadata if it has other bytes.
func (c *Client) Verify(path string, b []byte) error {
	for _, t := range c.Targets() {
		if t.Path != path {
			continue
		}
		sum := sha256.Sum256(b)
		if int64(len(b)) != t.Length || hex.EncodeToString(sum[:]) != t.SHA256 {
			return fmt.Errorf("%w: %s has other bytes", ErrMetadata, path)
		}
		return nil
	}
	return fmt.Errorf("%w: target %s", ErrNotFound, path)
}

// ForgetSplitView is the owner's word that the client shall go on after a split view, from whatever the log shows next.
func (c *Client) ForgetSplitView() error {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	st := c.copyState()
	if st.Split == nil {
		return nil
	}
	for key, cp := range st.Logs {
		if cp.Origin == st.Split.A.Origin {
			delete(st.Logs, key)
		}
	}
	st.Split = nil
	return c.keep(st)
}

// copyState is a copy of the state that may be changed.
func (c *Client) copyState() *state {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.st.clone()
}

// keep makes a state durable and then the client's own. It writes nothing that lies there already: cards wear out.
func (c *Client) keep(st *state) error {
	c.mu.Lock()
	old := c.st
	c.mu.Unlock()
	st.Seq = old.Seq
	was, err := encode(old)
	if err != nil {
		return err
	}
	if is, err := encode(st); err != nil || bytes.Equal(is, was) {
		return err
	}
	st.Seq++
	if err := save(c.disk, st); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.st = st.clone()
	return nil
}

// Refresh looks for news at a source: roots, timestamp, snapshot, targets and beta, each with its proof (TUF section 5; the log of
// docs/release-format.md). What was verified is durable before it returns, also if it fails. ErrStale says that all of it is valid but
// some has expired: the Status is good then. Other errors wrap those of this package, the source's or the context's, and leave what was
// known before.
func (c *Client) Refresh(ctx context.Context, src Source, clock Clock) (Status, error) {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	c.mu.Lock()
	before := c.st
	c.mu.Unlock()
	err := c.refresh(ctx, src, clock)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock = clock
	if c.st != before {
		v, lookErr := look(c.st)
		if lookErr == nil {
			c.view = v
		}
		err = errors.Join(err, lookErr)
	}
	s := c.status()
	if err == nil && s.Stale {
		err = fmt.Errorf("%w: %v has expired", ErrStale, s.Expired)
	}
	return s, err
}

// Agree are the targets on which both agree (TAP 4): same path, length and hash. The evidence is the project's.
func Agree(project, auditor *Client) []Target {
	theirs := map[string]Target{}
	for _, t := range auditor.Targets() {
		theirs[t.Path] = t
	}
	var out []Target
	for _, t := range project.Targets() {
		if o, ok := theirs[t.Path]; ok && o.Length == t.Length && o.SHA256 == t.SHA256 {
			t.Stale = t.Stale || o.Stale
			out = append(out, t)
		}
	}
	return out
}
