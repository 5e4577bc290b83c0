package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
)

const (
	beta     = "beta"
	betaPath = "beta/*/*/release.json"
	logField = "x-croft-log"
	maxDepth = 32 // of nesting in metadata
	maxKeys  = 64 // in one role
)

// never is the reference time for the verifier: nothing has expired by then. Expiry is looked at apart, for expired metadata is still
// what its signers said.
func never() time.Time { return time.Unix(0, 0) }

// CheckJSON refuses what parsers understand differently, and nulls, which go-tuf does not expect: objects with a key twice, nulls
// outside of "custom", deep nesting, and bytes behind the value. Errors wrap ErrMetadata.
func CheckJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := checkValue(dec, 0, false); err != nil {
		return fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows it", ErrMetadata)
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int, nulls bool) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	if t == nil && !nulls {
		return errors.New("a null")
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return errors.New("nested too deeply")
	}
	seen := map[string]bool{}
	for dec.More() {
		nullsIn := nulls
		if open == '{' {
			k, err := dec.Token()
			if err != nil {
				return err
			}
			key := k.(string) // the decoder refuses other keys
			if seen[key] {
				return fmt.Errorf("the key %.40q twice", key)
			}
			seen[key] = true
			nullsIn = nulls || key == "custom"
		}
		if err := checkValue(dec, depth+1, nullsIn); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// parse reads metadata of one role without believing it.
func parse[T metadata.Roles](b []byte) (*metadata.Metadata[T], error) {
	if err := CheckJSON(b); err != nil {
		return nil, err
	}
	m, err := new(metadata.Metadata[T]).FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	return m, nil
}

// checkCommon checks what all roles have.
func checkCommon(spec string, version int64) error {
	if !strings.HasPrefix(spec, "1.") {
		return fmt.Errorf("%w: of version %.20q of the specification", ErrMetadata, spec)
	}
	if version < 1 {
		return fmt.Errorf("%w: version %d", ErrMetadata, version)
	}
	return nil
}

// root is a parsed root with what this package needs of it.
type root struct {
	*metadata.Metadata[metadata.RootType]
	policy *tlog.Policy // nil: none
}

// parseRoot reads a root and checks every rule of the format that needs no signature.
func parseRoot(b []byte) (*root, error) {
	if len(b) > release.MaxRoot {
		return nil, fmt.Errorf("%w: a root of %d bytes", ErrMetadata, len(b))
	}
	m, err := parse[metadata.RootType](b)
	if err != nil {
		return nil, err
	}
	s := &m.Signed
	if err := checkCommon(s.SpecVersion, s.Version); err != nil {
		return nil, err
	}
	if !s.ConsistentSnapshot {
		return nil, fmt.Errorf("%w: snapshots are not consistent", ErrMetadata)
	}
	for _, name := range metadata.TOP_LEVEL_ROLE_NAMES {
		r := s.Roles[name]
		if r == nil {
			return nil, fmt.Errorf("%w: no role %s", ErrMetadata, name)
		}
		if _, err := roleKeys(s.Keys, r.KeyIDs, r.Threshold); err != nil {
			return nil, fmt.Errorf("%w: role %s: %w", ErrMetadata, name, err)
		}
	}
	out := &root{Metadata: m}
	if f, ok := s.UnrecognizedFields[logField]; ok {
		raw, err := json.Marshal(f)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
		}
		if out.policy, err = tlog.ParsePolicy(raw); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
		}
	}
	return out, nil
}

// roleKeys are the raw keys of a role by their id. Ids mean nothing by themselves (TUF section 4.2.2); two ids of one key in a role
// would let one person sign twice.
func roleKeys(keys map[string]*metadata.Key, ids []string, threshold int) (map[string]ed25519.PublicKey, error) {
	if threshold < 1 || threshold > len(ids) || len(ids) > maxKeys {
		return nil, fmt.Errorf("%d of %d keys", threshold, len(ids))
	}
	out, seen := map[string]ed25519.PublicKey{}, map[string]bool{}
	for _, id := range ids {
		k := keys[id]
		if k == nil {
			return nil, fmt.Errorf("no key %.80q", id)
		}
		if k.Type != metadata.KeyTypeEd25519 || k.Scheme != metadata.KeySchemeEd25519 {
			return nil, fmt.Errorf("key %.80q is of type %.40q", id, k.Type)
		}
		raw, err := hex.DecodeString(k.Value.PublicKey)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("key %.80q", id)
		}
		if out[id] != nil || seen[string(raw)] {
			return nil, fmt.Errorf("key %.80q is there twice", id)
		}
		out[id], seen[string(raw)] = raw, true
	}
	return out, nil
}

// signers counts the keys of a role with a valid signature over signed.
func signers(keys map[string]ed25519.PublicKey, signed any, sigs []metadata.Signature) int {
	payload, err := cjson.EncodeCanonical(signed)
	if err != nil {
		return 0
	}
	n := 0
	for _, s := range sigs { // ids are unique: the parser refuses others
		if k := keys[s.KeyID]; k != nil && ed25519.Verify(k, payload, s.Signature) {
			n++
		}
	}
	return n
}

// rollbackKeys are the raw keys of the roles timestamp and snapshot, sorted. If one of them is gone from a newer root, it may have been
// stolen and have signed versions that nobody can go beyond, so what it signed no longer counts (TUF section 5.3.11).
func (r *root) rollbackKeys() []string {
	var out []string
	for _, name := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
		for _, id := range r.Signed.Roles[name].KeyIDs {
			out = append(out, name+" "+r.Signed.Keys[id].Value.PublicKey)
		}
	}
	slices.Sort(out)
	return out
}

// info is what an owner has to know of the root.
func (r *root) info() RootInfo {
	t := r.Signed.Roles[metadata.TARGETS]
	i := RootInfo{Version: r.Signed.Version, Threshold: t.Threshold, Keys: len(t.KeyIDs), Expires: r.Signed.Expires}
	if r.policy != nil {
		i.Log, i.Witnesses = r.policy.Origin(), r.policy.Quorum()
	}
	return i
}

// Inspect checks a root as a first one and says what an owner has to know of it before trusting it. Errors wrap ErrMetadata.
func Inspect(b []byte) (RootInfo, error) {
	r, err := parseRoot(b)
	if err != nil {
		return RootInfo{}, err
	}
	if _, err := trustedmetadata.New(b); err != nil {
		return RootInfo{}, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	i := r.info()
	i.Fingerprint = fingerprint(b)
	return i, nil
}

func fingerprint(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// checkTimestamp, checkSnapshot and checkTargets check every rule of the format that needs no signature.
func checkTimestamp(b []byte) error {
	m, err := parse[metadata.TimestampType](b)
	if err != nil {
		return err
	}
	if s := m.Signed.Meta["snapshot.json"]; s == nil || len(m.Signed.Meta) != 1 || s.Version < 1 || s.Length < 0 {
		return fmt.Errorf("%w: timestamp names no snapshot", ErrMetadata)
	}
	return checkCommon(m.Signed.SpecVersion, m.Signed.Version)
}

func checkSnapshot(b []byte) error {
	m, err := parse[metadata.SnapshotType](b)
	if err != nil {
		return err
	}
	for name, f := range m.Signed.Meta {
		if name != "targets.json" && name != beta+".json" || f.Version < 1 || f.Length < 0 {
			return fmt.Errorf("%w: snapshot names %.40q, version %d", ErrMetadata, name, f.Version)
		}
	}
	if m.Signed.Meta["targets.json"] == nil {
		return fmt.Errorf("%w: snapshot names no targets", ErrMetadata)
	}
	return checkCommon(m.Signed.SpecVersion, m.Signed.Version)
}

func checkTargets(b []byte, role string) error {
	m, err := parse[metadata.TargetsType](b)
	if err != nil {
		return err
	}
	if d := m.Signed.Delegations; d != nil {
		// One delegation, from targets: a role with several parents can be good for one of them and not for the other.
		if role != metadata.TARGETS || d.SuccinctRoles != nil || len(d.Roles) > 1 {
			return fmt.Errorf("%w: delegations of %s", ErrMetadata, role)
		}
		for _, r := range d.Roles {
			if r.Name != beta || !slices.Equal(r.Paths, []string{betaPath}) || len(r.PathHashPrefixes) != 0 {
				return fmt.Errorf("%w: delegation of %.80q to %.40q", ErrMetadata, r.Paths, r.Name)
			}
			if _, err := roleKeys(d.Keys, r.KeyIDs, r.Threshold); err != nil {
				return fmt.Errorf("%w: delegation: %w", ErrMetadata, err)
			}
		}
	}
	return checkCommon(m.Signed.SpecVersion, m.Signed.Version)
}

// betaRole is the delegation to beta, if there is one.
func betaRole(t *metadata.Metadata[metadata.TargetsType]) *metadata.DelegatedRole {
	if d := t.Signed.Delegations; d != nil && len(d.Roles) == 1 {
		return &d.Roles[0]
	}
	return nil
}

// listed are the releases that a role's metadata names in the channel. What is not of the format is passed over: nobody can install it.
func listed(m *metadata.Metadata[metadata.TargetsType], channel release.Channel, ev Evidence) []Target {
	var out []Target
	for path, f := range m.Signed.Targets {
		c, _, _, ok := release.ParseTarget(path)
		sum := f.Hashes["sha256"]
		if !ok || c != channel || len(sum) != sha256.Size || f.Length < 1 || f.Length > release.MaxDescription {
			continue
		}
		out = append(out, Target{Path: path, Length: f.Length, SHA256: sum.String(), Channel: channel, Evidence: ev})
	}
	slices.SortFunc(out, func(a, b Target) int { return strings.Compare(a.Path, b.Path) })
	return out
}
