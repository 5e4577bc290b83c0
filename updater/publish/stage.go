package publish

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/delta/bsdiff"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
)

// Keep is how many releases of a board and channel stay in a repository, and get patches to the next one.
const Keep = 6

const (
	baseDir     = "base"
	auditorFile = "auditor" // marks the stage of an auditor, who carries no blobs
	sums        = "SHA256SUMS"
)

// Threshold is a role: so many of these keys have to sign.
type Threshold struct {
	N    int
	Keys []PublicKey
}

func (t Threshold) check(name string) error {
	seen := map[string]bool{}
	for _, k := range t.Keys {
		if seen[k.ID()] {
			return fmt.Errorf("%s: the key of %s is there twice", name, k.Name)
		}
		seen[k.ID()] = true
	}
	if t.N < 1 || t.N > len(t.Keys) {
		return fmt.Errorf("%s: a threshold of %d of %d keys can't be", name, t.N, len(t.Keys))
	}
	return nil
}

func (t Threshold) role() (*metadata.Role, map[string]*metadata.Key) {
	r, keys := &metadata.Role{Threshold: t.N}, map[string]*metadata.Key{}
	for _, k := range t.Keys {
		r.KeyIDs = append(r.KeyIDs, k.ID())
		keys[k.ID()] = k.tuf()
	}
	return r, keys
}

// Setup is what a root says.
type Setup struct {
	Root, Targets       Threshold
	Beta                Threshold // without keys: no role beta
	Snapshot, Timestamp Threshold
	Log                 *tlog.Policy // nil: none
	Life                time.Duration
}

// Stage is a folder with what is to be signed and published.
type Stage struct {
	Dir  string
	base *tree // what it follows; without roots at a publisher's beginning
	next *tree // what is to come
	now  time.Time
}

// Init makes the stage of a new publisher: the first root, and lists without releases.
func Init(dir string, s Setup, now time.Time) (*Stage, error) {
	if _, err := os.Stat(filepath.Join(dir, "metadata")); err == nil {
		return nil, fmt.Errorf("there is something in %s already", dir)
	}
	st := &Stage{Dir: dir, base: &tree{dir: filepath.Join(dir, baseDir)}, now: now}
	r := metadata.Root(expiry(now, life(s.Life, RootLife)))
	r.Signed.SpecVersion = specVersion
	if err := setRoot(r, s); err != nil {
		return nil, err
	}
	if err := st.putRoot(r); err != nil {
		return nil, err
	}
	t := metadata.Targets(expiry(now, TargetsLife))
	t.Signed.SpecVersion = specVersion
	if len(s.Beta.Keys) > 0 {
		if err := delegateBeta(t, s.Beta); err != nil {
			return nil, err
		}
		b := metadata.Targets(expiry(now, TargetsLife))
		b.Signed.SpecVersion = specVersion
		if err := st.putTargets(roleBeta, b); err != nil {
			return nil, err
		}
	}
	if err := st.putTargets(roleTargets, t); err != nil {
		return nil, err
	}
	return OpenStage(dir, now)
}

func life(wanted, usual time.Duration) time.Duration {
	if wanted > 0 {
		return wanted
	}
	return usual
}

func setRoot(r *rootMeta, s Setup) error {
	r.Signed.Keys, r.Signed.Roles = map[string]*metadata.Key{}, map[string]*metadata.Role{}
	for name, t := range map[string]Threshold{
		roleRoot: s.Root, roleTargets: s.Targets, roleSnapshot: s.Snapshot, roleTimestamp: s.Timestamp,
	} {
		if err := t.check(name); err != nil {
			return err
		}
		role, keys := t.role()
		r.Signed.Roles[name] = role
		maps.Copy(r.Signed.Keys, keys)
	}
	delete(r.Signed.UnrecognizedFields, policyKey)
	if s.Log != nil {
		if r.Signed.UnrecognizedFields == nil {
			r.Signed.UnrecognizedFields = map[string]any{}
		}
		r.Signed.UnrecognizedFields[policyKey] = s.Log
	}
	return nil
}

func delegateBeta(t *targetsMeta, beta Threshold) error {
	if err := beta.check(roleBeta); err != nil {
		return err
	}
	role, keys := beta.role()
	t.Signed.Delegations = &metadata.Delegations{Keys: keys, Roles: []metadata.DelegatedRole{{
		Name: roleBeta, KeyIDs: role.KeyIDs, Threshold: role.Threshold, Terminating: true, Paths: []string{betaPaths},
	}}}
	return nil
}

// SetupOf is what a repository's or stage's newest root says, for somebody who wants to change some of it.
func SetupOf(dir string) (Setup, error) {
	t, err := readTree(dir)
	if err != nil {
		return Setup{}, err
	}
	if t.root == nil {
		return Setup{}, fmt.Errorf("there is no root in %s", dir)
	}
	var s Setup
	for name, to := range map[string]*Threshold{
		roleRoot: &s.Root, roleTargets: &s.Targets, roleSnapshot: &s.Snapshot, roleTimestamp: &s.Timestamp,
	} {
		if *to, err = thresholdOf(rootRole(t.root, name)); err != nil {
			return Setup{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if t.targets != nil {
		if r, ok := betaOf(t.targets); ok {
			if s.Beta, err = thresholdOf(r); err != nil {
				return Setup{}, fmt.Errorf("%s: %w", roleBeta, err)
			}
		}
	}
	s.Log, err = policyOf(t.root)
	return s, err
}

func thresholdOf(r role) (Threshold, error) {
	t := Threshold{N: r.threshold}
	for _, id := range r.ids {
		k := r.keys[id]
		if k == nil {
			return t, fmt.Errorf("key %.8s is missing", id)
		}
		raw, err := hex.DecodeString(k.Value.PublicKey)
		if err != nil || k.Type != metadata.KeyTypeEd25519 || len(raw) != 32 {
			return t, fmt.Errorf("key %.8s is not an Ed25519 key", id)
		}
		t.Keys = append(t.Keys, PublicKey{r.name(id), raw})
	}
	return t, nil
}

// policyOf is the log policy of a root; nil if it has none.
func policyOf(r *rootMeta) (*tlog.Policy, error) {
	v, ok := r.Signed.UnrecognizedFields[policyKey]
	if !ok {
		return nil, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return tlog.ParsePolicy(b)
}

// NewStage begins a stage that follows a repository's present state.
func NewStage(dir, repo string, now time.Time) (*Stage, error) {
	if _, err := os.Stat(filepath.Join(dir, baseDir)); err == nil {
		return nil, fmt.Errorf("%s is a stage already", dir)
	}
	t, err := readTree(repo)
	if err != nil {
		return nil, err
	}
	if len(t.roots) == 0 || t.targets == nil {
		return nil, fmt.Errorf("%s is not a repository", repo)
	}
	if err := t.verify(); err != nil {
		return nil, fmt.Errorf("%s: %w", repo, err)
	}
	for i, b := range t.roots {
		if err := writeFile(filepath.Join(dir, baseDir, metadataFile(roleRoot, int64(i+1))), b); err != nil {
			return nil, err
		}
	}
	for role, m := range map[string]*targetsMeta{roleTargets: t.targets, roleBeta: t.beta} {
		if m == nil {
			continue
		}
		if err := writeFile(filepath.Join(dir, baseDir, metadataFile(role, m.Signed.Version)), t.files[role]); err != nil {
			return nil, err
		}
		for path, f := range m.Signed.Targets { // for their numbers; an auditor's repository has none
			file := release.TargetFile(path, f.Hashes["sha256"].String())
			if _, err := readRelease(repo, path, f); err != nil {
				return nil, err
			}
			if err := copyFile(filepath.Join(dir, baseDir, file), filepath.Join(repo, file)); err != nil {
				return nil, err
			}
		}
	}
	return OpenStage(dir, now)
}

// OpenStage reads a stage. Its base is verified as far as it can be without knowing whom to trust: each root follows from the one before.
func OpenStage(dir string, now time.Time) (*Stage, error) {
	base, err := readTree(filepath.Join(dir, baseDir))
	if err != nil {
		return nil, err
	}
	if len(base.roots) > 0 {
		if err := base.verify(); err != nil {
			return nil, fmt.Errorf("what %s follows: %w", dir, err)
		}
	}
	st := &Stage{Dir: dir, base: base, next: &tree{dir: dir, files: map[string][]byte{}}, now: now}
	names, err := filesBelow(dir, "metadata")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 && len(base.roots) == 0 {
		return nil, fmt.Errorf("%s is not a stage", dir)
	}
	for _, n := range names {
		r, v, ok := parseMetadataFile(n)
		if !ok || r != roleRoot && r != roleTargets && r != roleBeta {
			return nil, fmt.Errorf("%s does not belong into a stage", n)
		}
		if st.next.files[r] != nil {
			return nil, fmt.Errorf("there are two versions of %s in %s", r, dir)
		}
		b, err := readLimited(filepath.Join(dir, n), limitOf(r))
		if err != nil {
			return nil, err
		}
		st.next.files[r] = b
		var version int64
		switch r {
		case roleRoot:
			if st.next.root, err = parseRoot(b); err == nil {
				version = st.next.root.Signed.Version
			}
		case roleTargets:
			if st.next.targets, err = parseTargets(b); err == nil {
				version = st.next.targets.Signed.Version
			}
		case roleBeta:
			if st.next.beta, err = parseTargets(b); err == nil {
				version = st.next.beta.Signed.Version
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		if v != version {
			return nil, fmt.Errorf("%s says that it is version %d", n, version)
		}
		if before := st.version(r); v != before+1 {
			return nil, fmt.Errorf("%s does not follow version %d", n, before)
		}
	}
	return st, nil
}

// version is that of a role in the base; 0 if there is none.
func (st *Stage) version(role string) int64 {
	switch {
	case role == roleRoot && st.base.root != nil:
		return st.base.root.Signed.Version
	case role == roleTargets && st.base.targets != nil:
		return st.base.targets.Signed.Version
	case role == roleBeta && st.base.beta != nil:
		return st.base.beta.Signed.Version
	}
	return 0
}

// root is the newest root, staged or not; likewise targets and beta.
func (st *Stage) root() *rootMeta {
	if st.next.root != nil {
		return st.next.root
	}
	return st.base.root
}

func (st *Stage) list(role string) *targetsMeta {
	if role == roleBeta {
		if st.next.beta != nil {
			return st.next.beta
		}
		return st.base.beta
	}
	if st.next.targets != nil {
		return st.next.targets
	}
	return st.base.targets
}

func (st *Stage) putRoot(r *rootMeta) error {
	return st.put(metadataFile(roleRoot, r.Signed.Version), r.Signed)
}

func (st *Stage) putTargets(role string, t *targetsMeta) error {
	return st.put(metadataFile(role, t.Signed.Version), t.Signed)
}

// put writes metadata without signatures: what was signed before is not what is there now.
func (st *Stage) put(name string, signed any) error {
	d, err := unsigned(signed)
	if err != nil {
		return err
	}
	b, err := d.bytes()
	if err != nil {
		return err
	}
	if len(b)+5*200 > maxEntry {
		return fmt.Errorf("%s would be too long for the log with its signatures", name)
	}
	return writeFile(filepath.Join(st.Dir, name), b)
}

// edit returns the staged targets or beta, made from the base's if it is not there yet.
func (st *Stage) edit(role string) (*targetsMeta, error) {
	var b []byte
	if b = st.next.files[role]; b == nil {
		b = st.base.files[role]
	}
	if b == nil {
		return nil, fmt.Errorf("this publisher has no role %s", role)
	}
	t, err := parseTargets(b)
	if err != nil {
		return nil, err
	}
	t.Signed.Version = st.version(role) + 1
	t.Signed.SpecVersion = specVersion
	t.Signed.Expires = expiry(st.now, TargetsLife)
	return t, nil
}

// Renew stages targets, and beta if there is one, again with nothing changed but the time until which they are valid.
func (st *Stage) Renew() error {
	for _, role := range []string{roleTargets, roleBeta} {
		if role == roleBeta && st.base.beta == nil {
			continue
		}
		t, err := st.edit(role)
		if err != nil {
			return err
		}
		if err := st.putTargets(role, t); err != nil {
			return err
		}
	}
	return st.reload()
}

// Rotate stages a new root. If the keys of targets or beta change, what they sign is staged again for the new keys.
func (st *Stage) Rotate(s Setup) error {
	if st.base.root == nil {
		return errors.New("there is no root to follow")
	}
	r, err := parseRoot(st.base.files[roleRoot])
	if err != nil {
		return err
	}
	r.Signed.Version++
	r.Signed.SpecVersion = specVersion
	r.Signed.Expires = expiry(st.now, life(s.Life, RootLife))
	if err := setRoot(r, s); err != nil {
		return err
	}
	if err := st.putRoot(r); err != nil {
		return err
	}
	before, hadBeta := betaOf(st.base.targets)
	betaRole, betaKeys := s.Beta.role()
	after := role{betaKeys, betaRole.KeyIDs, betaRole.Threshold}
	newBeta := len(s.Beta.Keys) > 0 != hadBeta || hadBeta && !before.same(after)
	policy, err := policyOf(st.base.root)
	if err != nil {
		return err
	}
	// Another log, not only another key of it, has to hear of what is current.
	otherLog := policy != nil && s.Log != nil && policy.Origin() != s.Log.Origin()
	if newBeta || otherLog || !rootRole(st.base.root, roleTargets).same(rootRole(r, roleTargets)) {
		t, err := st.edit(roleTargets)
		if err != nil {
			return err
		}
		if newBeta {
			t.Signed.Delegations = nil
			if len(s.Beta.Keys) > 0 {
				if err := delegateBeta(t, s.Beta); err != nil {
					return err
				}
			}
		}
		if err := st.putTargets(roleTargets, t); err != nil {
			return err
		}
	}
	if (newBeta || otherLog) && len(s.Beta.Keys) > 0 {
		b := metadata.Targets(expiry(st.now, TargetsLife))
		b.Signed.SpecVersion = specVersion
		if hadBeta && st.base.beta != nil {
			if b, err = st.edit(roleBeta); err != nil {
				return err
			}
		}
		b.Signed.Version = st.version(roleBeta) + 1
		if err := st.putTargets(roleBeta, b); err != nil {
			return err
		}
	}
	return st.reload()
}

func (st *Stage) reload() error {
	fresh, err := OpenStage(st.Dir, st.now)
	if err == nil {
		*st = *fresh
	}
	return err
}

// Withdraw stages a list without a release. Its number is never given again.
func (st *Stage) Withdraw(c release.Channel, board, version string) error {
	name, _ := st.next.of(c)
	list, err := st.edit(name)
	if err != nil {
		return err
	}
	path := release.Target(c, board, version)
	if list.Signed.Targets[path] == nil {
		return fmt.Errorf("%s is not published", path)
	}
	delete(list.Signed.Targets, path)
	if err := st.putTargets(name, list); err != nil {
		return err
	}
	return st.reload()
}

// Payload is a folder with what a release is made of, as "croft build" leaves it.
type Payload struct {
	Format  string          `json:"format"` // "croft-payload/1"
	Board   string          `json:"board"`
	Version string          `json:"version"`
	Number  int64           `json:"number"`
	Channel release.Channel `json:"channel"`
	Built   int64           `json:"built"`  // seconds since 1970
	Commit  string          `json:"commit"` // 40 hex digits
	Dirty   bool            `json:"dirty"`
	Cmdline string          `json:"cmdline"`
	Boot    PayloadFile     `json:"boot"`
	Root    PayloadFile     `json:"root"`
	SBOM    PayloadFile     `json:"sbom"`
	State   release.State   `json:"state"`
}

// PayloadFile is a file beside payload.json.
type PayloadFile struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hex
}

// ReadPayload reads payload.json in a folder. The files beside it are checked when they are used.
func ReadPayload(dir string) (*Payload, error) {
	b, err := readLimited(filepath.Join(dir, "payload.json"), release.MaxDescription)
	if err != nil {
		return nil, err
	}
	var p Payload
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("payload.json: %w", err)
	}
	if p.Format != "croft-payload/1" {
		return nil, fmt.Errorf("payload.json has the format %.40q", p.Format)
	}
	return &p, nil
}

func (f PayloadFile) read(dir string) ([]byte, error) {
	if f.File != filepath.Base(f.File) {
		return nil, fmt.Errorf("payload.json names %.80q, which is not beside it", f.File)
	}
	b, err := readLimited(filepath.Join(dir, f.File), release.MaxPart)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != f.Size || hashOf(b) != f.SHA256 {
		return nil, fmt.Errorf("%s is not what payload.json says", f.File)
	}
	return b, nil
}

// Input is a release to be staged.
type Input struct {
	Payload *Payload
	Dir     string            // of the payload
	Notes   map[string]string // by language
	From    []string          // repositories with the releases before
}

// Add stages a release: its frames, patches from the releases before, its description, and targets or beta with it.
func (st *Stage) Add(ctx context.Context, in Input) (*release.Release, error) {
	p := in.Payload
	if p.Dirty {
		return nil, errors.New("the payload was built from files that nobody has committed")
	}
	r := &release.Release{
		Format: release.Format, Board: p.Board, Version: p.Version, Number: p.Number, Channel: p.Channel, Built: p.Built, Commit: p.Commit,
		Notes: in.Notes, Cmdline: p.Cmdline, State: p.State,
	}
	roleName, _ := st.next.of(r.Channel)
	list, err := st.edit(roleName)
	if err != nil {
		return nil, err
	}
	earlier, err := releasesOf(in.From)
	if err != nil {
		return nil, err
	}
	for _, e := range earlier {
		if e.r.Number >= r.Number {
			return nil, fmt.Errorf("number %d is not above that of %s, which has %d", r.Number, e.path, e.r.Number)
		}
	}
	for _, repo := range in.From {
		if n, err := highest(repo); err != nil || n >= r.Number {
			return nil, errors.Join(fmt.Errorf("number %d is not above %d, which a release in %s had", r.Number, n, repo), err)
		}
	}
	sbom, err := p.SBOM.read(in.Dir)
	if err != nil {
		return nil, err
	}
	r.SBOM = release.Blob{Blob: hashOf(sbom), Size: int64(len(sbom))}
	if err := st.blob(r.SBOM.Blob, sbom); err != nil {
		return nil, err
	}
	var olds []found
	for _, e := range earlier {
		if e.r.Board == r.Board {
			olds = append(olds, e)
		}
	}
	slices.SortFunc(olds, func(a, b found) int { return int(b.r.Number - a.r.Number) })
	olds = olds[:min(len(olds), Keep)]
	for _, part := range []struct {
		from PayloadFile
		to   *release.Part
		of   func(*release.Release) *release.Part
	}{
		{p.Boot, &r.Boot, func(r *release.Release) *release.Part { return &r.Boot }},
		{p.Root, &r.Root, func(r *release.Release) *release.Part { return &r.Root }},
	} {
		b, err := part.from.read(in.Dir)
		if err != nil {
			return nil, err
		}
		if err := st.part(ctx, part.to, b, olds, part.of); err != nil {
			return nil, err
		}
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	if len(text) > release.MaxDescription {
		return nil, fmt.Errorf("the release's description would have %d bytes", len(text))
	}
	path := release.Target(r.Channel, r.Board, r.Version)
	if st.base.files[roleName] != nil {
		if _, before := st.list(roleName).Signed.Targets[path]; before && st.base.has(roleName, path) {
			return nil, fmt.Errorf("%s is published already", path)
		}
	}
	if err := writeFile(filepath.Join(st.Dir, release.TargetFile(path, hashOf(text))), text); err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(hashOf(text))
	if err != nil {
		return nil, err
	}
	list.Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(text)), Hashes: metadata.Hashes{"sha256": sum}}
	st.drop(list, r, earlier)
	if err := st.putTargets(roleName, list); err != nil {
		return nil, err
	}
	if err := st.reload(); err != nil {
		return nil, err
	}
	return r, st.sum()
}

func (t *tree) has(role, path string) bool {
	m := t.targets
	if role == roleBeta {
		m = t.beta
	}
	return m != nil && m.Signed.Targets[path] != nil
}

// drop takes the oldest releases of the board off the list, so that Keep stay.
func (st *Stage) drop(list *targetsMeta, r *release.Release, earlier []found) {
	number := map[string]int64{release.Target(r.Channel, r.Board, r.Version): r.Number}
	for _, e := range earlier {
		number[e.path] = e.r.Number
	}
	var paths []string
	for path := range list.Signed.Targets {
		if c, board, _, ok := release.ParseTarget(path); ok && c == r.Channel && board == r.Board {
			paths = append(paths, path)
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return int(number[b] - number[a]) })
	for _, path := range paths[min(len(paths), Keep):] {
		delete(list.Signed.Targets, path)
	}
}

// found is a release of a repository.
type found struct {
	repo, path string
	r          *release.Release
}

// releasesOf reads what repositories offer. What they say is checked against their metadata's hashes.
func releasesOf(repos []string) ([]found, error) {
	var all []found
	for _, repo := range repos {
		t, err := readTree(repo)
		if err != nil {
			return nil, err
		}
		for _, m := range []*targetsMeta{t.targets, t.beta} {
			if m == nil {
				continue
			}
			for _, path := range slices.Sorted(maps.Keys(m.Signed.Targets)) {
				if _, _, _, ok := release.ParseTarget(path); !ok {
					continue
				}
				r, err := readRelease(repo, path, m.Signed.Targets[path])
				if err != nil {
					return nil, err
				}
				all = append(all, found{repo, path, r})
			}
		}
	}
	return all, nil
}

func readRelease(dir, path string, f *metadata.TargetFiles) (*release.Release, error) {
	sum := f.Hashes["sha256"].String()
	if !release.IsHash(sum) {
		return nil, fmt.Errorf("%s has no SHA-256", path)
	}
	b, err := readLimited(filepath.Join(dir, release.TargetFile(path, sum)), release.MaxDescription)
	if err != nil {
		return nil, err
	}
	if hashOf(b) != sum || int64(len(b)) != f.Length {
		return nil, fmt.Errorf("%s is not what its metadata says", path)
	}
	r, err := release.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if release.Target(r.Channel, r.Board, r.Version) != path {
		return nil, fmt.Errorf("%s describes another release", path)
	}
	return r, nil
}

// part writes the frames of a part, and patches from what it was in earlier releases, newest first.
func (st *Stage) part(ctx context.Context, to *release.Part, b []byte, olds []found, of func(*release.Release) *release.Part) error {
	var frames bytes.Buffer
	var err error
	if to.Frames, to.Size, to.SHA256, err = delta.WriteFrames(&frames, bytes.NewReader(b)); err != nil {
		return err
	}
	if err := st.blob(to.Frames.Blob, frames.Bytes()); err != nil {
		return err
	}
	done := map[string]bool{to.SHA256: true}
	for _, o := range olds {
		old := of(o.r)
		if done[old.SHA256] || len(to.Patches) == release.MaxPatches {
			continue
		}
		done[old.SHA256] = true
		if err := ctx.Err(); err != nil {
			return err
		}
		before, err := unpack(o.repo, *old)
		if err != nil {
			return fmt.Errorf("%s: %w", o.path, err)
		}
		var patch bytes.Buffer
		if err := bsdiff.Diff(before, b, &patch); err != nil {
			return fmt.Errorf("patch from %s: %w", o.path, err)
		}
		if int64(patch.Len()) >= to.Frames.Size {
			continue // nobody would take it
		}
		x := release.Patch{From: old.SHA256, FromSize: old.Size, Blob: hashOf(patch.Bytes()), Size: int64(patch.Len())}
		if err := st.blob(x.Blob, patch.Bytes()); err != nil {
			return err
		}
		to.Patches = append(to.Patches, x)
	}
	return nil
}

// unpack makes a part from its frames in a repository.
func unpack(repo string, p release.Part) ([]byte, error) {
	f, err := os.Open(filepath.Join(repo, release.BlobFile(p.Frames.Blob)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	b.Grow(int(p.Size))
	if err := delta.ReadFrames(p, f, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (st *Stage) blob(sum string, b []byte) error {
	path := filepath.Join(st.Dir, release.BlobFile(sum))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return writeFile(path, b)
}

// sum writes SHA256SUMS: of all that a second signer must come to as well, in the form of sha256sum.
func (st *Stage) sum() error {
	return writeStream(filepath.Join(st.Dir, sums), func(w io.Writer) error {
		for _, sub := range []string{"blobs", "targets"} {
			names, err := filesBelow(st.Dir, sub)
			if err != nil {
				return err
			}
			for _, n := range names {
				sum, _, err := hashFile(filepath.Join(st.Dir, n))
				if err != nil {
					return err
				}
				fmt.Fprintf(w, "%s  %s\n", sum, n)
			}
		}
		return nil
	})
}

// ReleaseHash is the SHA-256 of the description that the stage's lists have of a release: what signers compare.
func (st *Stage) ReleaseHash(path string) (string, error) {
	c, _, _, _ := release.ParseTarget(path)
	name, _ := st.next.of(c)
	m := st.list(name)
	if m == nil || m.Signed.Targets[path] == nil {
		return "", fmt.Errorf("%s is not in the stage", path)
	}
	return m.Signed.Targets[path].Hashes["sha256"].String(), nil
}

// releaseHashes lists the descriptions in a stage: their targets' paths by SHA-256.
func releaseHashes(dir string) (map[string]string, error) {
	names, err := filesBelow(dir, "targets")
	if err != nil {
		return nil, err
	}
	list := map[string]string{}
	for _, n := range names {
		d, base := filepath.Split(strings.TrimPrefix(n, "targets/"))
		_, name, _ := strings.Cut(base, ".")
		sum, _, err := hashFile(filepath.Join(dir, n))
		if err != nil {
			return nil, err
		}
		list[sum] = d + name
	}
	return list, nil
}
