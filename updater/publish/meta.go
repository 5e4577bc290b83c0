package publish

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/croft-os/croft/updater/release"
)

// specVersion is the version of TUF that the metadata follows.
const specVersion = "1.0.34"

// How long metadata is valid. People renew root, targets and beta; the publishing machine the others.
const (
	RootLife      = 2 * 365 * 24 * time.Hour
	TargetsLife   = 365 * 24 * time.Hour
	SnapshotLife  = 60 * 24 * time.Hour
	TimestampLife = 14 * 24 * time.Hour
)

// maxEntry is the longest entry of a log, in bytes (C2SP tlog-tiles, "Log Entries").
const maxEntry = 1<<16 - 1

const (
	roleRoot      = metadata.ROOT
	roleTargets   = metadata.TARGETS
	roleBeta      = "beta"
	roleSnapshot  = metadata.SNAPSHOT
	roleTimestamp = metadata.TIMESTAMP

	betaPaths = "beta/*/*/release.json"
	policyKey = "x-croft-log"
)

type (
	rootMeta    = metadata.Metadata[metadata.RootType]
	targetsMeta = metadata.Metadata[metadata.TargetsType]
)

// signature is one of a piece of metadata.
type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"` // hex
}

// document is metadata as it lies in a file, of any role. What is signed stays as it was read.
type document struct {
	Signatures []signature     `json:"signatures"`
	Signed     json.RawMessage `json:"signed"`
}

func parseDocument(b []byte) (*document, error) {
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, s := range d.Signatures {
		if seen[s.KeyID] {
			return nil, fmt.Errorf("two signatures of key %.8s", s.KeyID)
		}
		seen[s.KeyID] = true
	}
	return &d, nil
}

// message is what signatures are made of: the canonical form of the signed part.
func (d *document) message() ([]byte, error) {
	var v any
	if err := json.Unmarshal(d.Signed, &v); err != nil {
		return nil, err
	}
	return cjson.EncodeCanonical(v)
}

// bytes is the file. The order of the signatures is that of the key ids, whoever signed first.
func (d *document) bytes() ([]byte, error) {
	slices.SortFunc(d.Signatures, func(a, b signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	if d.Signatures == nil {
		d.Signatures = []signature{}
	}
	return json.Marshal(d)
}

// add signs. It does nothing if the key has signed already.
func (d *document) add(k *Key) error {
	if d.has(k.ID()) {
		return nil
	}
	msg, err := d.message()
	if err != nil {
		return err
	}
	d.Signatures = append(d.Signatures, signature{k.ID(), hex.EncodeToString(ed25519.Sign(k.private, msg))})
	return nil
}

func (d *document) has(keyID string) bool {
	return slices.ContainsFunc(d.Signatures, func(s signature) bool { return s.KeyID == keyID })
}

// role is who may speak in it, and how many have to.
type role struct {
	keys      map[string]*metadata.Key // by id
	ids       []string
	threshold int
}

func (r role) has(keyID string) bool { return slices.Contains(r.ids, keyID) }

// same tells whether nothing about the role differs.
func (r role) same(s role) bool {
	a, b := slices.Sorted(slices.Values(r.ids)), slices.Sorted(slices.Values(s.ids))
	return r.threshold == s.threshold && slices.Equal(a, b)
}

// name is what the holder of a key is called.
func (r role) name(keyID string) string {
	if k := r.keys[keyID]; k != nil {
		if n, ok := k.UnrecognizedFields[nameField].(string); ok && nameRE.MatchString(n) {
			return n
		}
	}
	return "?"
}

// valid returns the ids of the role's keys of which the document has a valid signature. A key that stands under two ids counts once.
func (r role) valid(d *document) ([]string, error) {
	msg, err := d.message()
	if err != nil {
		return nil, err
	}
	var ids []string
	seen := map[string]bool{}
	for _, s := range d.Signatures {
		k := r.keys[s.KeyID]
		if k == nil || !r.has(s.KeyID) {
			continue
		}
		public, err := hex.DecodeString(k.Value.PublicKey)
		sig, sigErr := hex.DecodeString(s.Sig)
		if err != nil || sigErr != nil || k.Type != metadata.KeyTypeEd25519 || len(public) != ed25519.PublicKeySize || seen[string(public)] ||
			!ed25519.Verify(public, msg, sig) {
			continue
		}
		seen[string(public)] = true
		ids = append(ids, s.KeyID)
	}
	return ids, nil
}

// check fails if too few of the role's keys have signed.
func (r role) check(d *document, what string) error {
	ids, err := r.valid(d)
	if err != nil {
		return err
	}
	if len(ids) < r.threshold {
		return fmt.Errorf("%s has %d of the %d signatures that it needs", what, len(ids), r.threshold)
	}
	return nil
}

func rootRole(r *rootMeta, name string) role {
	x := r.Signed.Roles[name]
	if x == nil {
		return role{threshold: 1}
	}
	return role{r.Signed.Keys, x.KeyIDs, x.Threshold}
}

// betaOf is the role beta that targets delegates to; ok is false if it does not.
func betaOf(t *targetsMeta) (role, bool) {
	if t.Signed.Delegations == nil {
		return role{}, false
	}
	for _, r := range t.Signed.Delegations.Roles {
		if r.Name == roleBeta {
			return role{t.Signed.Delegations.Keys, r.KeyIDs, r.Threshold}, true
		}
	}
	return role{}, false
}

// unsigned makes the document of new metadata.
func unsigned(signed any) (*document, error) {
	b, err := json.Marshal(signed)
	return &document{Signed: b}, err
}

// expiry is a time of expiry as TUF writes it.
func expiry(now time.Time, life time.Duration) time.Time {
	return now.Add(life).UTC().Truncate(time.Second)
}

// metadataFile is the path of a role's metadata; the timestamp has no version.
func metadataFile(role string, version int64) string {
	if role == roleTimestamp {
		return "metadata/timestamp.json"
	}
	return "metadata/" + strconv.FormatInt(version, 10) + "." + role + ".json"
}

const proofSuffix = ".tlog-proof"

// parseMetadataFile is the reverse of metadataFile for roles with a version.
func parseMetadataFile(name string) (role string, version int64, ok bool) {
	n, rest, _ := strings.Cut(filepath.Base(name), ".")
	role, json, _ := strings.Cut(rest, ".")
	v, err := strconv.ParseInt(n, 10, 64)
	if err != nil || v < 1 || strconv.FormatInt(v, 10) != n || json != "json" {
		return "", 0, false
	}
	return role, v, true
}

func limitOf(role string) int64 {
	switch role {
	case roleRoot:
		return release.MaxRoot
	case roleSnapshot:
		return release.MaxSnapshot
	case roleTimestamp:
		return release.MaxTimestamp
	}
	return release.MaxTargets
}

// tree is the metadata of a folder: its chain of roots and what is newest of the others. It is not verified.
type tree struct {
	dir     string
	roots   [][]byte // of the versions 1, 2, …
	root    *rootMeta
	targets *targetsMeta // nil: none yet
	beta    *targetsMeta
	files   map[string][]byte // newest, by role
}

// readTree reads dir/metadata. Which targets are current, the snapshot says; a stage's base has none, and there the highest version is.
func readTree(dir string) (*tree, error) {
	t := &tree{dir: dir, files: map[string][]byte{}}
	for v := int64(1); v <= release.MaxNewRoots; v++ {
		b, err := readLimited(filepath.Join(dir, metadataFile(roleRoot, v)), release.MaxRoot)
		if os.IsNotExist(err) {
			break
		} else if err != nil {
			return nil, err
		}
		t.roots = append(t.roots, b)
	}
	if len(t.roots) == 0 {
		return t, nil
	}
	t.files[roleRoot] = t.roots[len(t.roots)-1]
	var err error
	if t.root, err = parseRoot(t.files[roleRoot]); err != nil {
		return nil, err
	}
	names, err := filesBelow(dir, "metadata")
	if err != nil {
		return nil, err
	}
	highest := map[string]int64{}
	for _, n := range names {
		if r, v, ok := parseMetadataFile(n); ok {
			highest[r] = max(highest[r], v)
		}
	}
	current := highest
	stamp, err := readLimited(filepath.Join(dir, metadataFile(roleTimestamp, 0)), release.MaxTimestamp)
	if err == nil {
		if current, err = t.follow(stamp); err != nil {
			return nil, err
		}
	} else if !os.IsNotExist(err) {
		return nil, err
	}
	for r, to := range map[string]**targetsMeta{roleTargets: &t.targets, roleBeta: &t.beta} {
		if current[r] == 0 {
			continue
		}
		b, err := readLimited(filepath.Join(dir, metadataFile(r, current[r])), release.MaxTargets)
		if err != nil {
			return nil, err
		}
		t.files[r] = b
		if *to, err = parseTargets(b); err != nil {
			return nil, fmt.Errorf("%s: %w", metadataFile(r, current[r]), err)
		}
	}
	return t, nil
}

// follow reads the snapshot that a timestamp names, and says which versions that names.
func (t *tree) follow(stamp []byte) (map[string]int64, error) {
	t.files[roleTimestamp] = stamp
	ts, err := (&metadata.Metadata[metadata.TimestampType]{}).FromBytes(stamp)
	if err != nil || ts.Signed.Meta["snapshot.json"] == nil {
		return nil, fmt.Errorf("%s is not a timestamp: %w", metadataFile(roleTimestamp, 0), err)
	}
	b, err := readLimited(filepath.Join(t.dir, metadataFile(roleSnapshot, ts.Signed.Meta["snapshot.json"].Version)), release.MaxSnapshot)
	if err != nil {
		return nil, err
	}
	t.files[roleSnapshot] = b
	snap, err := (&metadata.Metadata[metadata.SnapshotType]{}).FromBytes(b)
	if err != nil {
		return nil, err
	}
	current := map[string]int64{}
	for _, r := range []string{roleTargets, roleBeta} {
		if m := snap.Signed.Meta[r+".json"]; m != nil {
			current[r] = m.Version
		}
	}
	return current, nil
}

// verify checks that each root follows from the one before it, and that targets and beta are signed as the newest root says.
func (t *tree) verify() error {
	var before *rootMeta
	for i, b := range t.roots {
		name := metadataFile(roleRoot, int64(i+1))
		r, err := parseRoot(b)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d, err := parseDocument(b)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if r.Signed.Version != int64(i+1) {
			return fmt.Errorf("%s says that it is version %d", name, r.Signed.Version)
		}
		for _, by := range []*rootMeta{before, r} {
			if by == nil {
				continue
			}
			if err := rootRole(by, roleRoot).check(d, name); err != nil {
				return err
			}
		}
		before = r
	}
	if t.targets == nil {
		return nil
	}
	return checkTargets(t.root, t.targets, t.files[roleTargets], t.files[roleBeta])
}

// checkTargets checks the signatures below a root. beta may be nil.
func checkTargets(root *rootMeta, targets *targetsMeta, targetsFile, beta []byte) error {
	d, err := parseDocument(targetsFile)
	if err != nil {
		return err
	}
	if err := rootRole(root, roleTargets).check(d, metadataFile(roleTargets, targets.Signed.Version)); err != nil {
		return err
	}
	if beta == nil {
		return nil
	}
	r, ok := betaOf(targets)
	if !ok {
		return fmt.Errorf("there is metadata of beta, but targets does not know that role")
	}
	if d, err = parseDocument(beta); err != nil {
		return err
	}
	return r.check(d, "the metadata of beta")
}

func parseRoot(b []byte) (*rootMeta, error) { return (&rootMeta{}).FromBytes(b) }

func parseTargets(b []byte) (*targetsMeta, error) { return (&targetsMeta{}).FromBytes(b) }

// fingerprint is how people call a publisher: the SHA-256 of its first root, which stays when it changes its keys.
func (t *tree) fingerprint() string { return hashOf(t.roots[0]) }

// of returns the metadata of a channel, and its role's name.
func (t *tree) of(c release.Channel) (string, *targetsMeta) {
	if c == release.Beta {
		return roleBeta, t.beta
	}
	return roleTargets, t.targets
}

// versionOf is the version that metadata of any role says it is.
func versionOf(b []byte) (int64, error) {
	var v struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	err := json.Unmarshal(b, &v)
	return v.Signed.Version, err
}
