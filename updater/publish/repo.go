package publish

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/trust"
)

// Mark is the name and the content of the file that says what a folder is.
const (
	markFile = "croft-repository"
	mark     = "croft-repository/1\n"
)

// ErrIncomplete is what Publish fails with, wrapped, where signatures are missing.
var ErrIncomplete = errors.New("not signed by enough people yet")

// Options are what the machine that publishes has.
type Options struct {
	Repo      string            // folder of the repository; made if missing
	Online    []*Key            // sign snapshot and timestamp; while they are exchanged, the old and the new ones
	Log       []*Key            // the log's; while it is exchanged, the new and then the old one
	Witnesses map[string]string // addresses of witnesses by name, where they are not https://NAME
	HTTP      *http.Client      // asks witnesses; nil: one that follows nobody elsewhere
	Now       func() time.Time  // nil: time.Now
	Progress  *slog.Logger      // nil: nobody hears

	step func(file string) error // for tests: called before each file is put in place
}

// Result is what was published.
type Result struct {
	Root, Targets, Beta, Timestamp int64 // versions
	Tree                           int64 // entries in the log; 0 without one
	Witnesses                      int   // that cosigned
	Metadata                       map[string]int
	Problems                       error // with witnesses, though enough answered
}

func (o *Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

func (o *Options) progress() *slog.Logger {
	if o.Progress == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Progress
}

// Publish puts what a stage holds into a repository, once enough people have signed: it is added to the log, cosigned by witnesses, and
// tried with a client's own verification before anything that clients read first is exchanged. A cut at any moment leaves a repository
// that clients accept, the old or the new one, and Publish can be done again. copies are other copies of the stage with signatures.
//
// There is one exception: if a new root changes so much that neither the old lists satisfy it nor the new ones the old root, as with all
// new keys of targets or another log, then clients that ask between the last two renames have to ask again later.
func Publish(ctx context.Context, o Options, stage string, copies []string) (*Result, error) {
	st, err := OpenStage(stage, o.now())
	if err != nil {
		return nil, err
	}
	if err := st.Gather(copies); err != nil {
		return nil, err
	}
	missing, err := st.Missing()
	if err != nil {
		return nil, err
	}
	for _, file := range slices.Sorted(maps.Keys(missing)) {
		err = errors.Join(err, fmt.Errorf("%w: %s needs %d more", ErrIncomplete, file, missing[file]))
	}
	if err != nil {
		return nil, err
	}
	if err := makeDir(o.Repo); err != nil {
		return nil, err
	}
	return update(ctx, o, st)
}

// Refresh says again that what is published is the newest: a new timestamp, if need be a new snapshot, and, with the log's key, new
// cosignatures of the witnesses.
func Refresh(ctx context.Context, o Options) (*Result, error) { return update(ctx, o, nil) }

// file is one to be put in place.
type file struct {
	path string
	b    []byte
}

// updater is one Publish or Refresh.
type updater struct {
	Options
	ctx     context.Context
	st      *Stage // nil: nothing new
	old     *tree  // the repository as it is
	before  *rootMeta
	root    *rootMeta
	targets *targetsMeta
	beta    *targetsMeta
	bytes   map[string][]byte // of root, targets and beta to be
	files   []file            // all but what is exchanged last
	last    map[string][]byte // root with its proofs, timestamp
	moved   string            // folder of a log that begins; "" if it goes on
	result  Result
	log     *slog.Logger
}

func update(ctx context.Context, o Options, st *Stage) (*Result, error) {
	unlock, err := lockDir(o.Repo)
	if err != nil {
		return nil, err
	}
	defer unlock()
	u := &updater{Options: o, ctx: ctx, st: st, bytes: map[string][]byte{}, last: map[string][]byte{}, log: o.progress()}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"see what is there", u.look},
		{"take over the releases", u.releases},
		{"add to the log and ask the witnesses", u.logged},
		{"sign snapshot and timestamp", u.online},
		{"put it in place", u.place},
		{"remove what is no longer named", u.prune},
	} {
		start := time.Now()
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
		u.log.Debug(step.what, "took", time.Since(start).Round(time.Millisecond))
	}
	u.result.Metadata = map[string]int{}
	for _, f := range u.files {
		u.result.Metadata[f.path] = len(f.b)
	}
	for path, b := range u.last {
		u.result.Metadata[path] = len(b)
	}
	return &u.result, nil
}

// look reads the repository, and checks that the stage follows it. What an earlier attempt has put in place already is no hindrance.
func (u *updater) look() error {
	var err error
	if u.old, err = readTree(u.Repo); err != nil {
		return err
	}
	if len(u.old.roots) > 0 && u.old.targets != nil {
		if err := u.old.verify(); err != nil {
			u.log.Warn("the repository is not in order", "err", err) // an interrupted exchange of keys, which this mends
		}
	} else if u.st == nil {
		return fmt.Errorf("%s is not a repository", u.Repo)
	}
	u.root, u.targets, u.beta = u.old.root, u.old.targets, u.old.beta
	maps.Copy(u.bytes, u.old.files)
	if n := len(u.old.roots); n > 1 {
		if u.before, err = parseRoot(u.old.roots[n-2]); err != nil {
			return err
		}
	}
	if u.st != nil {
		for _, r := range []string{roleRoot, roleTargets, roleBeta} {
			staged, base := u.st.next.files[r], u.st.base.files[r]
			switch is := u.old.files[r]; {
			case staged != nil && bytes.Equal(is, staged), bytes.Equal(is, base):
			default:
				return fmt.Errorf("the stage was made for another state of the repository: %s is not what it follows", r)
			}
		}
		if r := u.st.next.root; r != nil {
			if u.old.root != nil && u.old.root.Signed.Version < r.Signed.Version {
				u.before = u.old.root
			}
			u.root = r
		} else {
			u.before = nil
		}
		if u.st.next.targets != nil {
			u.targets = u.st.next.targets
		}
		if u.st.next.beta != nil {
			u.beta = u.st.next.beta
		}
		maps.Copy(u.bytes, u.st.next.files)
	} else {
		u.before = nil
	}
	if _, has := betaOf(u.targets); !has {
		u.beta = nil
		delete(u.bytes, roleBeta)
	}
	u.result.Root, u.result.Targets = u.root.Signed.Version, u.targets.Signed.Version
	if u.beta != nil {
		u.result.Beta = u.beta.Signed.Version
	}
	return checkTargets(u.root, u.targets, u.bytes[roleTargets], u.bytes[roleBeta])
}

// releases copies descriptions and blobs of the stage into the repository. Nobody finds them there yet.
func (u *updater) releases() error {
	if u.st == nil {
		return nil
	}
	if err := u.put(file{markFile, []byte(mark)}); err != nil {
		return err
	}
	auditor := u.st.audits() // its blobs are the project's
	for _, m := range []*targetsMeta{u.targets, u.beta} {
		for _, path := range published(m) {
			f := m.Signed.Targets[path]
			target := release.TargetFile(path, f.Hashes["sha256"].String())
			if _, err := readRelease(u.Repo, path, f); err == nil {
				continue // what is there was checked when it came
			}
			r, err := readRelease(u.st.Dir, path, f)
			if err != nil {
				return err
			}
			if !auditor {
				for _, b := range blobsOf(r) {
					if err := u.blob(b); err != nil {
						return fmt.Errorf("%s: %w", path, err)
					}
				}
			}
			if err := copyFile(filepath.Join(u.Repo, target), filepath.Join(u.st.Dir, target)); err != nil {
				return err
			}
		}
	}
	return nil
}

// numberFile keeps the highest number that a release of the repository ever had, also after it was withdrawn. Clients don't read it.
const numberFile = ".number"

func highest(repo string) (int64, error) {
	b, err := readLimited(filepath.Join(repo, numberFile), 64)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// blob takes one over, unless it is there.
func (u *updater) blob(b release.Blob) error {
	to := filepath.Join(u.Repo, release.BlobFile(b.Blob))
	if fi, err := os.Stat(to); err == nil && fi.Size() == b.Size {
		return nil
	}
	from := filepath.Join(u.st.Dir, release.BlobFile(b.Blob))
	sum, n, err := hashFile(from)
	if err != nil {
		return err
	}
	if sum != b.Blob || n != b.Size {
		return fmt.Errorf("%s is not what its name says", from)
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return copyFile(to, from)
}

// blobsOf lists what a release names.
func blobsOf(r *release.Release) []release.Blob {
	list := []release.Blob{r.SBOM}
	for _, p := range []release.Part{r.Boot, r.Root} {
		list = append(list, release.Blob{Blob: p.Frames.Blob, Size: p.Frames.Size})
		for _, x := range p.Patches {
			list = append(list, release.Blob{Blob: x.Blob, Size: x.Size})
		}
	}
	return list
}

// put puts one file in place.
func (u *updater) put(f file) error {
	if u.step != nil {
		if err := u.step(f.path); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(u.Repo, f.path), f.b)
}

const (
	logDir       = "log"
	oldLogs      = "logs" // logs that a root has left behind, by the hash of their key
	beforeSuffix = ".before" + proofSuffix
)

// logged adds roots, targets and beta to the log, and makes their proofs.
func (u *updater) logged() error {
	now, err := policyOf(u.root)
	if err != nil {
		return err
	}
	var before *tlog.Policy
	if u.before != nil {
		if before, err = policyOf(u.before); err != nil {
			return err
		}
	}
	if u.st == nil && len(u.Log) == 0 {
		return nil // renews the timestamp only
	}
	names := []string{}
	for _, r := range []string{roleRoot, roleTargets, roleBeta} {
		if u.bytes[r] != nil && (r != roleRoot || u.st != nil && u.st.next.root != nil) {
			names = append(names, r)
		}
	}
	if before != nil && now != nil && before.LogKey() != now.LogKey() {
		if before.Origin() != now.Origin() {
			return u.otherLog(before, now, names)
		}
		// The same log with another key: while it is exchanged, both sign.
		return u.oneLog(logDir, u.Log, []*tlog.Policy{now, before}, names, true)
	}
	if now == nil {
		if before != nil { // the last thing that the old log hears is that it is left
			return u.oneLog(logDir, u.Log, []*tlog.Policy{before}, []string{roleRoot}, false)
		}
		return nil
	}
	policies := []*tlog.Policy{now}
	if before != nil {
		policies = append(policies, before)
	}
	return u.oneLog(logDir, u.Log[:min(1, len(u.Log))], policies, names, false)
}

// oneLog adds to a log whose tree satisfies all of the policies.
func (u *updater) oneLog(dir string, keys []*Key, policies []*tlog.Policy, names []string, both bool) error {
	for _, p := range policies {
		if !slices.ContainsFunc(keys, func(k *Key) bool { return k.LogKey() == p.LogKey() }) {
			return fmt.Errorf("the key of the log %s is needed", p.LogKey())
		}
	}
	l, err := openLog(filepath.Join(u.Repo, dir), keys, u.HTTP)
	if err != nil {
		return err
	}
	var entries [][]byte
	for _, n := range names {
		entries = append(entries, u.bytes[n])
	}
	at, tree, err := l.add(u.ctx, entries)
	if err != nil {
		return err
	}
	ws, err := witnesses(policies, u.Witnesses)
	if err != nil {
		return err
	}
	checkpoint, problems, err := l.checkpoint(u.ctx, tree, ws, policies)
	if err != nil {
		return err
	}
	if problems != nil {
		u.log.Warn("not all witnesses answered", "err", problems)
		u.result.Problems = errors.Join(u.result.Problems, problems)
	}
	_, ev, err := policies[0].Checkpoint(checkpoint)
	if err != nil {
		return err
	}
	u.result.Tree, u.result.Witnesses = int64(tree.size), ev.Witnesses
	u.files = append(u.files, file{dir + "/checkpoint", checkpoint})
	for i, n := range names {
		proof, err := proveEntry(u.ctx, tree.reader.ReadTile, tree.size, at[i], checkpoint)
		if err != nil {
			return err
		}
		path := metadataFile(n, u.version(n))
		if n != roleRoot {
			u.files = append(u.files, file{path + proofSuffix, proof})
			continue
		}
		u.last[path+proofSuffix] = proof
		if both {
			u.last[path+beforeSuffix] = proof
		}
	}
	return nil
}

// otherLog begins a log with another name. The old one hears of the new root, and stays in a folder of its own.
func (u *updater) otherLog(before, now *tlog.Policy, names []string) error {
	for _, r := range []string{roleTargets, roleBeta} {
		if u.bytes[r] != nil && u.st.next.files[r] == nil && u.old.files[r] != nil && !bytes.Equal(u.old.files[roleRoot], u.bytes[roleRoot]) {
			return fmt.Errorf("%s has to be staged again, because the log is another one", r)
		}
	}
	var key, other []*Key
	for _, k := range u.Log {
		switch k.LogKey() {
		case now.LogKey():
			key = append(key, k)
		case before.LogKey():
			other = append(other, k)
		}
	}
	kept := oldLogs + "/" + keyHash(before)
	current := ""
	if cp, err := readLimited(filepath.Join(u.Repo, logDir, "checkpoint"), tlog.MaxCheckpoint); err == nil {
		origin, _, _ := bytes.Cut(cp, []byte("\n"))
		current = string(origin)
	}
	if current == before.Origin() {
		// The old log grows where it is, so that it is one whatever becomes of this. Clients look in both places for its tiles.
		if err := u.oneLog(logDir, other, []*tlog.Policy{before}, []string{roleRoot}, false); err != nil {
			return err
		}
		u.files[len(u.files)-1].path = kept + "/checkpoint"
		if err := os.RemoveAll(filepath.Join(u.Repo, kept)); err != nil {
			return err
		}
		if err := copyTree(filepath.Join(u.Repo, kept), filepath.Join(u.Repo, logDir)); err != nil {
			return err
		}
	} else if err := u.oneLog(kept, other, []*tlog.Policy{before}, []string{roleRoot}, false); err != nil {
		return err
	}
	path := metadataFile(roleRoot, u.version(roleRoot))
	u.last[path+beforeSuffix] = u.last[path+proofSuffix]
	if current == now.Origin() { // an attempt before this came so far
		return u.oneLog(logDir, key, []*tlog.Policy{now}, names, false)
	}
	u.moved = ".log-" + keyHash(now)
	return u.oneLog(u.moved, key, []*tlog.Policy{now}, names, false)
}

func keyHash(p *tlog.Policy) string { return strings.SplitN(p.LogKey(), "+", 3)[1] }

func (u *updater) version(role string) int64 {
	switch role {
	case roleRoot:
		return u.root.Signed.Version
	case roleTargets:
		return u.targets.Signed.Version
	}
	return u.beta.Signed.Version
}

// online makes snapshot and timestamp.
func (u *updater) online() error {
	if u.st != nil {
		for _, r := range []string{roleTargets, roleBeta} {
			if b := u.st.next.files[r]; b != nil {
				u.files = append(u.files, file{metadataFile(r, u.version(r)), b})
			}
		}
		if b := u.st.next.files[roleRoot]; b != nil {
			u.last[metadataFile(roleRoot, u.version(roleRoot))] = b
		}
	}
	snap := metadata.Snapshot(expiry(u.now(), SnapshotLife))
	snap.Signed.SpecVersion = specVersion
	snap.Signed.Meta = map[string]*metadata.MetaFiles{"targets.json": metaFile(u.targets.Signed.Version, u.bytes[roleTargets])}
	if u.beta != nil {
		snap.Signed.Meta["beta.json"] = metaFile(u.beta.Signed.Version, u.bytes[roleBeta])
	}
	stamp := metadata.Timestamp(expiry(u.now(), TimestampLife))
	stamp.Signed.SpecVersion = specVersion
	var oldSnap *metadata.Metadata[metadata.SnapshotType]
	if b := u.old.files[roleSnapshot]; b != nil {
		var err error
		if oldSnap, err = (&metadata.Metadata[metadata.SnapshotType]{}).FromBytes(b); err != nil {
			return err
		}
		oldStamp, err := (&metadata.Metadata[metadata.TimestampType]{}).FromBytes(u.old.files[roleTimestamp])
		if err != nil {
			return err
		}
		snap.Signed.Version = oldSnap.Signed.Version + 1
		stamp.Signed.Version = oldStamp.Signed.Version + 1
	}
	b := u.old.files[roleSnapshot]
	if u.st != nil || oldSnap.Signed.Expires.Before(u.now().Add(SnapshotLife/2)) {
		var err error
		if b, err = u.sign(roleSnapshot, snap.Signed); err != nil {
			return err
		}
		u.files = append(u.files, file{metadataFile(roleSnapshot, snap.Signed.Version), b})
	} else {
		snap = oldSnap
	}
	stamp.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": metaFile(snap.Signed.Version, b)}
	b, err := u.sign(roleTimestamp, stamp.Signed)
	u.last[metadataFile(roleTimestamp, 0)] = b
	u.result.Timestamp = stamp.Signed.Version
	return err
}

func metaFile(version int64, b []byte) *metadata.MetaFiles {
	sum, err := hex.DecodeString(hashOf(b))
	if err != nil {
		panic(err)
	}
	return &metadata.MetaFiles{Version: version, Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": sum}}
}

// sign signs with the online keys that may, by the new root or by the one before.
func (u *updater) sign(name string, signed any) ([]byte, error) {
	d, err := unsigned(signed)
	if err != nil {
		return nil, err
	}
	r := rootRole(u.root, name)
	for _, k := range u.Online {
		if r.has(k.ID()) || u.before != nil && rootRole(u.before, name).has(k.ID()) {
			if err := d.add(k); err != nil {
				return nil, err
			}
		}
	}
	if err := r.check(d, name); err != nil {
		return nil, fmt.Errorf("with the online keys given: %w", err)
	}
	return d.bytes()
}

// place tries what is to come with a client's verification, and puts it in place.
func (u *updater) place() error {
	next := u.overlay(u.files)
	rootPath, stampPath := metadataFile(roleRoot, u.version(roleRoot)), metadataFile(roleTimestamp, 0)
	all := maps.Clone(next.over)
	maps.Copy(all, u.last)
	first := u.bytes[roleRoot]
	if len(u.old.roots) > 0 {
		first = u.old.roots[0]
	}
	if err := u.try(first, overlay{u.Repo, u.moved, all}); err != nil {
		return fmt.Errorf("clients would not accept it: %w", err)
	}
	order := []string{rootPath, stampPath}
	if u.last[rootPath] != nil && len(u.old.roots) > 0 {
		stamp := maps.Clone(next.over)
		stamp[stampPath] = u.last[stampPath]
		roots := maps.Clone(next.over)
		maps.Copy(roots, u.last)
		delete(roots, stampPath)
		switch {
		case u.try(first, overlay{u.Repo, u.moved, roots}) == nil:
		case u.try(first, overlay{u.Repo, u.moved, stamp}) == nil:
			order = []string{stampPath, rootPath}
		default:
			u.log.Warn("the new root fits none of the old lists; clients that ask between the last two files have to ask again")
		}
	}
	for _, f := range u.files {
		if u.moved != "" && strings.HasPrefix(f.path, u.moved+"/") {
			if err := u.put(f); err != nil {
				return err
			}
		}
	}
	if u.moved != "" {
		if err := u.moveLog(); err != nil {
			return err
		}
	}
	for _, f := range u.files {
		if u.moved != "" && strings.HasPrefix(f.path, u.moved+"/") {
			continue
		}
		if err := u.put(f); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(u.last)) { // proofs of the root
		if path == rootPath || path == stampPath {
			continue
		}
		if err := u.put(file{path, u.last[path]}); err != nil {
			return err
		}
	}
	for _, path := range order {
		if b := u.last[path]; b != nil {
			if err := u.put(file{path, b}); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveLog makes the new log the current one. The old one is found in its own folder all the while.
func (u *updater) moveLog() error {
	if u.step != nil {
		if err := u.step(logDir); err != nil {
			return err
		}
	}
	gone := filepath.Join(u.Repo, ".log-gone")
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(u.Repo, logDir), gone); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(filepath.Join(u.Repo, u.moved), filepath.Join(u.Repo, logDir)); err != nil {
		return err
	}
	if err := syncDir(u.Repo); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// overlay is a repository as it would be with other files in it.
type overlay struct {
	dir   string
	moved string // folder that would be "log"
	over  map[string][]byte
}

func (u *updater) overlay(files []file) overlay {
	o := overlay{u.Repo, u.moved, map[string][]byte{}}
	for _, f := range files {
		path := f.path
		if rest, ok := strings.CutPrefix(path, u.moved+"/"); ok && u.moved != "" {
			path = logDir + "/" + rest
		}
		o.over[path] = f.b
	}
	return o
}

// Get implements trust.Source.
func (o overlay) Get(_ context.Context, path string, limit int64) ([]byte, error) {
	if b, ok := o.over[path]; ok {
		return b, nil
	}
	if rest, ok := strings.CutPrefix(path, logDir+"/"); ok && o.moved != "" {
		path = o.moved + "/" + rest
	}
	return Folder(o.dir).Get(context.Background(), path, limit)
}

// Folder is a repository in a folder, as a trust.Source.
type Folder string

// Get implements trust.Source.
func (f Folder) Get(_ context.Context, path string, limit int64) ([]byte, error) {
	if !filepath.IsLocal(path) {
		return nil, trust.ErrNotFound
	}
	full := filepath.Join(string(f), filepath.FromSlash(path))
	fi, err := os.Stat(full)
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && !fi.Mode().IsRegular():
		return nil, trust.ErrNotFound
	case err != nil:
		return nil, err
	case fi.Size() > limit:
		return nil, trust.ErrTooLarge
	}
	return readLimited(full, limit)
}

// try has a new client, and one that knows the repository as it is, verify what a source has.
func (u *updater) try(first []byte, src trust.Source) error {
	clock := trust.Clock{Now: u.now(), Sure: true}
	for _, known := range []bool{false, true} {
		if known && u.old.files[roleTimestamp] == nil {
			continue
		}
		dir, err := os.MkdirTemp("", "croft-publish-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c, err := trust.Create(dir, trust.Options{Root: first})
		if err != nil {
			return err
		}
		if known {
			if _, err := c.Refresh(u.ctx, Folder(u.Repo), clock); err != nil {
				u.log.Debug("a client of what is there", "err", err) // stale, or half of an exchange of keys
			}
		}
		s, err := c.Refresh(u.ctx, src, clock)
		if err != nil {
			return err
		}
		if s.Beta != "" {
			return errors.New(s.Beta)
		}
	}
	return nil
}

// prune removes what neither the present lists name nor those that were there before this, which clients may be following just now.
func (u *updater) prune() error {
	if u.result.Tree > 0 {
		l := transparency{dir: filepath.Join(u.Repo, logDir)}
		if err := l.tidy(uint64(u.result.Tree)); err != nil {
			return err
		}
	}
	keep := map[string]bool{}
	versions := map[string]map[int64]bool{roleTargets: {}, roleBeta: {}, roleSnapshot: {}}
	is, err := readTree(u.Repo)
	if err != nil {
		return err
	}
	number, err := highest(u.Repo)
	if err != nil {
		return err
	}
	had := number
	for _, t := range []*tree{is, u.old} {
		for r, m := range map[string]*targetsMeta{roleTargets: t.targets, roleBeta: t.beta} {
			if m == nil {
				continue
			}
			versions[r][m.Signed.Version] = true
			for _, path := range published(m) {
				f := m.Signed.Targets[path]
				keep[release.TargetFile(path, f.Hashes["sha256"].String())] = true
				rel, err := readRelease(u.Repo, path, f)
				if err != nil {
					return err
				}
				number = max(number, rel.Number)
				for _, b := range blobsOf(rel) {
					keep[release.BlobFile(b.Blob)] = true
				}
			}
		}
		if b := t.files[roleSnapshot]; b != nil {
			s, err := (&metadata.Metadata[metadata.SnapshotType]{}).FromBytes(b)
			if err != nil {
				return err
			}
			versions[roleSnapshot][s.Signed.Version] = true
		}
	}
	if number > had {
		if err := writeFile(filepath.Join(u.Repo, numberFile), fmt.Appendln(nil, number)); err != nil {
			return err
		}
	}
	for _, sub := range []string{"metadata", "targets", "blobs"} {
		names, err := filesBelow(u.Repo, sub)
		if err != nil {
			return err
		}
		for _, n := range names {
			if sub == "metadata" {
				r, v, ok := parseMetadataFile(strings.TrimSuffix(n, proofSuffix))
				if !ok || r == roleRoot || versions[r] == nil || versions[r][v] {
					continue
				}
			} else if keep[n] {
				continue
			}
			if err := os.Remove(filepath.Join(u.Repo, n)); err != nil {
				return err
			}
			u.log.Debug("removed", "file", n)
		}
	}
	return nil
}

// copyTree copies a folder, durably, under its name only when it is complete.
func copyTree(to, from string) error {
	if err := makeDir(filepath.Dir(to)); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(to), tempPrefix+filepath.Base(to))
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyFile(filepath.Join(tmp, rel), path)
	})
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}
