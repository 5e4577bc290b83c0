package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
)

// proofSuffix and beforeSuffix make of a file's path those of its proofs: in the log of the policy that counts for it, and in the log that
// a root leaves behind.
const (
	proofSuffix  = ".tlog-proof"
	beforeSuffix = ".before.tlog-proof"
)

// refresher is one Refresh.
type refresher struct {
	c    *Client
	ctx  context.Context
	src  Source
	st   *state
	tm   *trustedmetadata.TrustedMetadata
	logs map[string][]*tlog.Log // by the log's key: places that may have its tiles
}

func (c *Client) refresh(ctx context.Context, src Source, clock Clock) error {
	r := &refresher{c: c, ctx: ctx, src: src, st: c.copyState(), logs: map[string][]*tlog.Log{}}
	if r.st.Split != nil {
		return ErrSplitView
	}
	r.advance(clock.Built)
	root, err := r.roots()
	if err != nil {
		return err
	}
	if err := r.timestamp(root); err != nil {
		return err
	}
	if err := r.snapshot(); err != nil {
		return err
	}
	return r.targets(root)
}

// get fetches a file.
func (r *refresher) get(path string, limit int64) ([]byte, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	b, err := r.src.Get(r.ctx, r.c.prefix+path, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: %w", path, ErrTooLarge)
	}
	return b, nil
}

func (r *refresher) keep() error { return r.c.keep(r.st) }

// advance moves the time that is kept; it never goes back.
func (r *refresher) advance(t time.Time) {
	if !t.IsZero() {
		r.st.RefTime = max(r.st.RefTime, t.Unix())
	}
}

// roots follows the chain of roots (TUF section 5.3). Every one of them is durable before the next is asked for.
func (r *refresher) roots() (*root, error) {
	cur, err := parseRoot(r.st.Root)
	if err != nil {
		return nil, err
	}
	if r.tm, err = verifier(r.st.Root); err != nil {
		return nil, err
	}
	for range release.MaxNewRoots {
		path := fmt.Sprintf("metadata/%d.root.json", cur.Signed.Version+1)
		b, err := r.get(path, release.MaxRoot)
		if errors.Is(err, ErrNotFound) {
			break
		} else if err != nil {
			return nil, err
		}
		next, err := parseRoot(b)
		if err != nil {
			return nil, err
		}
		if _, err := r.tm.UpdateRoot(b); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrMetadata, path, err)
		}
		proof, err := r.rootLogged(path, b, cur, next)
		if err != nil {
			return nil, err
		}
		r.st.Root, r.st.RootProof, cur = b, proof, next
		if err := r.keep(); err != nil {
			return nil, err
		}
	}
	return cur, nil
}

// rootLogged checks the proofs of a new root, with the policy of the root before and with its own.
func (r *refresher) rootLogged(path string, b []byte, before, now *root) ([]byte, error) {
	if now.policy == nil && r.c.needLog {
		return nil, fmt.Errorf("%w: %s names no log", ErrNotLogged, path)
	}
	var proof []byte
	for _, p := range []*tlog.Policy{now.policy, before.policy} {
		if p == nil {
			continue
		}
		suffix := proofSuffix
		if p == before.policy && now.policy != nil && now.policy.LogKey() != p.LogKey() {
			suffix = beforeSuffix
		}
		pr, _, err := r.proof(p, path+suffix, b)
		if err != nil {
			return nil, err
		}
		if p == now.policy {
			proof = pr
		}
	}
	return proof, nil
}

// proof fetches and checks a proof, and that its tree is consistent with the largest one known of its log.
func (r *refresher) proof(p *tlog.Policy, path string, entry []byte) ([]byte, tlog.Evidence, error) {
	b, err := r.get(path, release.MaxProof)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrTooLarge) {
		return nil, tlog.Evidence{}, fmt.Errorf("%w: %w", ErrNotLogged, err)
	} else if err != nil {
		return nil, tlog.Evidence{}, err
	}
	cp, ev, err := p.Verify(entry, b)
	if err != nil {
		return nil, tlog.Evidence{}, fmt.Errorf("%w: %s: %w", ErrNotLogged, path, err)
	}
	if err := r.consistent(p, cp); err != nil {
		return nil, tlog.Evidence{}, err
	}
	r.advance(ev.Seen)
	return b, ev, nil
}

// consistent demands that a checkpoint, which a quorum has seen, does not contradict the one that was kept.
func (r *refresher) consistent(p *tlog.Policy, cp tlog.Checkpoint) error {
	kept, ok := r.st.Logs[p.LogKey()]
	if ok {
		err := error(tlog.ErrTiles)
		for _, l := range r.places(p) {
			if err = l.Consistent(r.ctx, kept, cp); !errors.Is(err, tlog.ErrTiles) {
				break
			}
		}
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		if split := new(tlog.SplitView); errors.As(err, &split) {
			r.st.Split = split
			return errors.Join(fmt.Errorf("%w: %w", ErrSplitView, split), r.keep())
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotLogged, err)
		}
	}
	if !ok || cp.Size > kept.Size {
		r.st.Logs[p.LogKey()] = cp
	}
	return nil
}

// places are where tiles of a log may lie: in "log" if it is the repository's current one, else in a folder with its key's hash. Tiles are
// checked against the tree, so a wrong place is the same as none.
func (r *refresher) places(p *tlog.Policy) []*tlog.Log {
	key := p.LogKey()
	if r.logs[key] == nil {
		hash := strings.SplitN(key, "+", 3)[1]
		for _, dir := range []string{"log/", "logs/" + hash + "/"} {
			r.logs[key] = append(r.logs[key], tlog.NewLog(func(_ context.Context, path string, limit int64) ([]byte, error) {
				return r.get(dir+path, limit)
			}))
		}
	}
	return r.logs[key]
}

// timestamp is TUF section 5.4.
func (r *refresher) timestamp(root *root) error {
	keys := root.rollbackKeys()
	if slices.ContainsFunc(r.st.Keys, func(k string) bool { return !slices.Contains(keys, k) }) {
		r.st.Timestamp, r.st.Snapshot = nil, nil // TUF section 5.3.11
	}
	if r.st.Timestamp != nil {
		if _, err := r.tm.UpdateTimestamp(r.st.Timestamp); err != nil {
			r.st.Timestamp, r.st.Snapshot = nil, nil // of keys, or a number of them, that no longer count
		}
	}
	b, err := r.get("metadata/timestamp.json", release.MaxTimestamp)
	if err != nil {
		return err
	}
	if err := checkTimestamp(b); err != nil {
		return err
	}
	_, err = r.tm.UpdateTimestamp(b)
	switch {
	case errors.Is(err, &metadata.ErrEqualVersionNumber{}):
		return nil
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		return fmt.Errorf("%w: timestamp: %w", ErrRollback, err)
	case err != nil:
		return fmt.Errorf("%w: timestamp: %w", ErrMetadata, err)
	}
	r.st.Timestamp, r.st.Keys = b, keys
	return r.keep()
}

// snapshot is TUF section 5.5.
func (r *refresher) snapshot() error {
	if r.st.Snapshot != nil {
		if _, err := r.tm.UpdateSnapshot(r.st.Snapshot, true); err == nil {
			return nil
		} // else it is an older one, which counts against a rollback of what it names
	}
	meta := r.tm.Timestamp.Signed.Meta["snapshot.json"]
	b, err := r.get(fmt.Sprintf("metadata/%d.snapshot.json", meta.Version), limit(meta, release.MaxSnapshot))
	if err != nil {
		return err
	}
	if err := checkSnapshot(b); err != nil {
		return err
	}
	if _, err := r.tm.UpdateSnapshot(b, false); err != nil {
		kind := ErrMetadata
		if m, perr := parse[metadata.SnapshotType](b); perr == nil && m.Signed.Version == meta.Version &&
			errors.Is(err, &metadata.ErrBadVersionNumber{}) {
			kind = ErrRollback // it is the one that the timestamp names, and takes back what an older one named
		}
		return fmt.Errorf("%w: snapshot: %w", kind, err)
	}
	r.st.Snapshot = b
	return r.keep()
}

// limit is the length that metadata says a file has, or the format's own limit.
func limit(m *metadata.MetaFiles, most int64) int64 {
	if m.Length > 0 && m.Length < most {
		return m.Length
	}
	return most
}

// targets is TUF section 5.6, for targets and for the one role that it may delegate to.
func (r *refresher) targets(root *root) error {
	old := r.st.Set
	if old == nil {
		old = &set{}
	}
	s := &set{Timestamp: r.st.Timestamp, Snapshot: r.st.Snapshot}
	var err error
	if s.Targets, err = r.role(metadata.TARGETS, metadata.ROOT, old.Targets); err != nil {
		return err
	}
	if s.TargetsProof, err = r.logged(root.policy, metadata.TARGETS, s.Targets, old.Targets, old.TargetsProof); err != nil {
		return err
	}
	if r.tm.Snapshot.Signed.Meta[beta+".json"] != nil && betaRole(r.tm.Targets[metadata.TARGETS]) != nil {
		err := r.beta(root, old, s)
		if errors.Is(err, ErrSplitView) || r.ctx.Err() != nil {
			return errors.Join(err, r.ctx.Err())
		}
		if err != nil { // a few testers' keys must not keep everybody from what is stable
			s.Beta, s.BetaProof, s.NoBeta = nil, nil, err.Error()
		}
	}
	r.st.Set = s
	return r.keep()
}

func (r *refresher) beta(root *root, old, s *set) (err error) {
	if s.Beta, err = r.role(beta, metadata.TARGETS, old.Beta); err != nil {
		return err
	}
	s.BetaProof, err = r.logged(root.policy, beta, s.Beta, old.Beta, old.BetaProof)
	return err
}

// role takes metadata of a role that names targets: what is stored if it is the version that the snapshot names, else the source's.
func (r *refresher) role(name, parent string, stored []byte) ([]byte, error) {
	if len(stored) > 0 && checkTargets(stored, name) == nil {
		if _, err := r.tm.UpdateDelegatedTargets(stored, name, parent); err == nil {
			return stored, nil
		}
	}
	meta := r.tm.Snapshot.Signed.Meta[name+".json"]
	b, err := r.get(fmt.Sprintf("metadata/%d.%s.json", meta.Version, name), limit(meta, release.MaxTargets))
	if err != nil {
		return nil, err
	}
	if err := checkTargets(b, name); err != nil {
		return nil, err
	}
	if _, err := r.tm.UpdateDelegatedTargets(b, name, parent); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMetadata, name, err)
	}
	return b, nil
}

// logged takes the proof of a role's metadata. A newer proof of the same bytes may have been seen later; a stored one is as good where the
// source has none.
func (r *refresher) logged(p *tlog.Policy, name string, b, oldBytes, oldProof []byte) ([]byte, error) {
	if p == nil {
		return nil, nil
	}
	version := r.tm.Targets[name].Signed.Version
	proof, ev, err := r.proof(p, fmt.Sprintf("metadata/%d.%s.json%s", version, name, proofSuffix), b)
	if errors.Is(err, ErrSplitView) || r.ctx.Err() != nil {
		return nil, errors.Join(err, r.ctx.Err())
	}
	if oldProof != nil && bytes.Equal(b, oldBytes) {
		if _, oldEv, oldErr := p.Verify(b, oldProof); oldErr == nil && (err != nil || oldEv.Seen.After(ev.Seen)) {
			return oldProof, nil
		}
	}
	return proof, err
}
