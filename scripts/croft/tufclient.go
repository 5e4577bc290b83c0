package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/croft-os/croft/updater/trust"
)

const tufIntro = `tuf-client --metadata-dir DIR init ROOT | refresh | download

A client for any repository of The Update Framework 1.0.34, with the command line of the public suite tuf-conformance. What boxes do
is stricter: see docs/release-format.md.

  --metadata-dir DIR init ROOT                   trust the first root in the file ROOT; asks nobody
  --metadata-dir DIR --metadata-url URL refresh  fetch and verify metadata
  … --target-name NAME --target-base-url URL --target-dir DIR download
                                                 fetch metadata and then targets, in the order of their names

Exit codes: 0 done, 1 not done. What was verified stays in DIR either way. FAKETIME, as the program faketime sets it, is the time.`

// Limits of what a repository may send, in bytes unless the name says otherwise.
const (
	tufMaxRoot        = 512 << 10
	tufMaxTimestamp   = 16 << 10
	tufMaxMetadata    = 5 << 20
	tufMaxRoots       = 1024 // in one refresh
	tufMaxDelegations = 32   // roles in the search for one target
	tufTimeout        = time.Minute
)

var errTUFNotFound = errors.New("not found")

// tufClient is "croft tuf-client".
func tufClient(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "tuf-client", tufIntro)
	c := tufRepository{http: &http.Client{Timeout: 10 * tufTimeout}, loaded: map[[2]string]bool{}}
	fl.StringVar(&c.dir, "metadata-dir", "", "`folder` of verified metadata")
	fl.StringVar(&c.metadata, "metadata-url", "", "`URL` of the repository's metadata")
	fl.StringVar(&c.targets, "target-base-url", "", "`URL` of the repository's targets")
	fl.StringVar(&c.out, "target-dir", "", "`folder` for targets")
	var names []string
	fl.Func("target-name", "`path` of a target; may be repeated", func(s string) error { names = append(names, s); return nil })
	rest, code, ok := parse(fl, args, 1, 2)
	if !ok {
		return min(code, exitFailed)
	}
	now, err := tufTime(os.Getenv("FAKETIME"), time.Now())
	c.now = now
	switch {
	case err != nil:
	case c.dir == "":
		err = errors.New("--metadata-dir is missing")
	case rest[0] == "init" && len(rest) == 2:
		err = c.init(rest[1])
	case c.metadata == "":
		err = errors.New("--metadata-url is missing")
	case rest[0] == "refresh" && len(rest) == 1:
		err = c.refresh(ctx)
	case rest[0] == "download" && len(rest) == 1 && (c.targets == "" || c.out == "" || len(names) == 0):
		err = errors.New("--target-name, --target-base-url or --target-dir is missing")
	case rest[0] == "download" && len(rest) == 1:
		err = c.download(ctx, names)
	default:
		err = fmt.Errorf("%q is not a command", strings.Join(rest, " "))
	}
	if err != nil {
		fmt.Fprintln(io.err, "croft tuf-client:", clean(err.Error()))
		return exitFailed
	}
	return exitOK
}

// tufTime is the time that libfaketime is to pretend: Go programs do not ask the C library for it.
func tufTime(fake string, now time.Time) (time.Time, error) {
	if fake == "" {
		return now.UTC(), nil
	}
	if strings.HasPrefix(fake, "+") || strings.HasPrefix(fake, "-") {
		if s, err := strconv.ParseFloat(strings.TrimSuffix(fake, "s"), 64); err == nil {
			return now.Add(time.Duration(s * float64(time.Second))).UTC(), nil
		}
	}
	for _, layout := range []string{"2006-01-02 15:04:05.999999999Z07:00", time.RFC3339Nano} {
		if t, err := time.Parse(layout, strings.TrimPrefix(fake, "@")); err == nil {
			return t.UTC(), nil
		}
	}
	if t, err := time.ParseInLocation("2006-01-02 15:04:05.999999999", strings.TrimPrefix(fake, "@"), time.Local); err == nil {
		return t.UTC(), nil
	}
	return time.Time{}, fmt.Errorf("FAKETIME is %q", fake)
}

// tufRepository is a repository as a client sees it.
type tufRepository struct {
	dir, metadata, targets, out string

	http   *http.Client
	now    time.Time
	tm     *trustedmetadata.TrustedMetadata
	loaded map[[2]string]bool // (role, parent) whose metadata is verified for just that parent
}

// init trusts a root, unless the folder holds a later one already.
func (c *tufRepository) init(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := readAtMost(f, tufMaxRoot)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	tm, err := tufTrust(b)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if old, err := c.stored(metadata.ROOT); err == nil {
		if have, err := tufTrust(old); err == nil && have.Root.Signed.Version >= tm.Root.Signed.Version {
			return nil
		}
	}
	return c.store(metadata.ROOT, b)
}

// tufTrust starts with a trusted root, which signs itself.
func tufTrust(root []byte) (*trustedmetadata.TrustedMetadata, error) {
	if err := tufCheckRoot(root); err != nil {
		return nil, err
	}
	return trustedmetadata.New(root)
}

func tufCheckRoot(b []byte) error {
	m, err := tufParse[metadata.RootType](b)
	if err != nil {
		return err
	}
	return tufCheckKeys(m.Signed.Keys)
}

func tufParse[T metadata.Roles](b []byte) (*metadata.Metadata[T], error) {
	if err := trust.CheckJSON(b); err != nil {
		return nil, err
	}
	return new(metadata.Metadata[T]).FromBytes(b)
}

// tufCheckKeys refuses what the standard library panics on.
func tufCheckKeys(keys map[string]*metadata.Key) error {
	for id, k := range keys {
		if k.Type == metadata.KeyTypeEd25519 && len(k.Value.PublicKey) != 2*ed25519.PublicKeySize {
			return fmt.Errorf("key %q has another length", id)
		}
	}
	return nil
}

// refresh is TUF section 5.3 to 5.6. Each file is stored as soon as it is verified.
func (c *tufRepository) refresh(ctx context.Context) error {
	b, err := c.stored(metadata.ROOT)
	if err != nil {
		return err
	}
	if c.tm, err = tufTrust(b); err != nil {
		return fmt.Errorf("the trusted root: %w", err)
	}
	c.tm.RefTime = c.now
	before := c.tm.Root.Signed
	if err := c.roots(ctx); err != nil {
		return err
	}
	if tufRotated(&before, &c.tm.Root.Signed) {
		for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
			if err := c.forget(role); err != nil {
				return err
			}
		}
	}
	if err := c.timestamp(ctx); err != nil {
		return err
	}
	if err := c.snapshot(ctx); err != nil {
		return err
	}
	_, err = c.role(ctx, metadata.TARGETS, metadata.ROOT)
	return err
}

func (c *tufRepository) roots(ctx context.Context) error {
	for range tufMaxRoots {
		file := fmt.Sprintf("%d.root.json", c.tm.Root.Signed.Version+1)
		b, err := c.fetch(ctx, file, tufMaxRoot)
		if errors.Is(err, errTUFNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if err := tufCheckRoot(b); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if _, err := c.tm.UpdateRoot(b); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := c.store(metadata.ROOT, b); err != nil {
			return err
		}
	}
	return nil
}

// tufRotated tells whether a key of timestamp or snapshot no longer counts (TUF section 5.3.11).
func tufRotated(before, now *metadata.RootType) bool {
	for _, name := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
		old, is := before.Roles[name], now.Roles[name]
		if old == nil || is == nil {
			continue
		}
		for _, id := range old.KeyIDs {
			k := before.Keys[id]
			if k != nil && !slices.ContainsFunc(is.KeyIDs, func(id string) bool {
				other := now.Keys[id]
				return other != nil && other.Value.PublicKey == k.Value.PublicKey
			}) {
				return true
			}
		}
	}
	return false
}

func (c *tufRepository) timestamp(ctx context.Context) error {
	const file = "timestamp.json"
	take := func(b []byte) error {
		m, err := tufParse[metadata.TimestampType](b)
		if err != nil {
			return err
		}
		if m.Signed.Meta["snapshot.json"] == nil {
			return errors.New("it names no snapshot")
		}
		_, err = c.tm.UpdateTimestamp(b)
		return err
	}
	if b, err := c.stored(metadata.TIMESTAMP); err == nil {
		_ = take(b) // an expired one still counts against a rollback, and one that no longer holds does not count
	}
	b, err := c.fetch(ctx, file, tufMaxTimestamp)
	if err != nil {
		return err
	}
	err = take(b)
	if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return c.store(metadata.TIMESTAMP, b)
}

func (c *tufRepository) snapshot(ctx context.Context) error {
	if b, err := c.stored(metadata.SNAPSHOT); err == nil {
		if _, err := tufParse[metadata.SnapshotType](b); err == nil {
			if _, err := c.tm.UpdateSnapshot(b, true); err == nil {
				return nil
			} // else it counts against a rollback of what it names
		}
	}
	meta := c.tm.Timestamp.Signed.Meta["snapshot.json"]
	file := c.file(metadata.SNAPSHOT, meta.Version)
	b, err := c.fetch(ctx, file, tufLimit(meta))
	if err != nil {
		return err
	}
	if _, err := tufParse[metadata.SnapshotType](b); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if _, err := c.tm.UpdateSnapshot(b, false); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return c.store(metadata.SNAPSHOT, b)
}

// role is the verified metadata of a role as one parent delegates to it. Another parent may want other keys to have signed it, so it is
// verified for every parent apart.
func (c *tufRepository) role(ctx context.Context, name, parent string) (*metadata.TargetsType, error) {
	if c.loaded[[2]string{name, parent}] {
		return &c.tm.Targets[name].Signed, nil
	}
	take := func(b []byte) error {
		m, err := tufParse[metadata.TargetsType](b)
		if err != nil {
			return err
		}
		if d := m.Signed.Delegations; d != nil {
			if err := tufCheckKeys(d.Keys); err != nil {
				return err
			}
		}
		_, err = c.tm.UpdateDelegatedTargets(b, name, parent)
		return err
	}
	done := func() (*metadata.TargetsType, error) {
		c.loaded[[2]string{name, parent}] = true
		return &c.tm.Targets[name].Signed, nil
	}
	if b, err := c.stored(name); err == nil && take(b) == nil {
		return done()
	}
	meta := c.tm.Snapshot.Signed.Meta[name+".json"]
	if meta == nil {
		return nil, fmt.Errorf("the snapshot does not name the role %q", name)
	}
	file := c.file(name, meta.Version)
	b, err := c.fetch(ctx, file, tufLimit(meta))
	if err != nil {
		return nil, err
	}
	if err := take(b); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := c.store(name, b); err != nil {
		return nil, err
	}
	return done()
}

// find looks for a target in the roles that are delegated to, first come, depth first (TUF section 5.6.7).
func (c *tufRepository) find(ctx context.Context, target string) (*metadata.TargetFiles, error) {
	type step struct{ role, parent string }
	stack := []step{{metadata.TARGETS, metadata.ROOT}}
	visited := map[string]bool{}
	for len(stack) > 0 && len(visited) <= tufMaxDelegations {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if visited[s.role] {
			continue
		}
		visited[s.role] = true
		m, err := c.role(ctx, s.role, s.parent)
		if err != nil {
			return nil, err
		}
		if f := m.Targets[target]; f != nil {
			return f, nil
		}
		if m.Delegations == nil {
			continue
		}
		children, err := tufChildren(m.Delegations, target)
		if err != nil {
			return nil, fmt.Errorf("role %q: %w", s.role, err)
		}
		var next []step
		for _, r := range children {
			next = append(next, step{r.Name, s.role})
			if r.Terminating {
				stack = nil
				break
			}
		}
		slices.Reverse(next)
		stack = append(stack, next...)
	}
	return nil, fmt.Errorf("target %q: %w", target, errTUFNotFound)
}

// tufChildren are the roles that may speak of a target, in order.
func tufChildren(d *metadata.Delegations, target string) ([]metadata.RoleResult, error) {
	if d.SuccinctRoles != nil && len(d.Roles) == 0 {
		return d.SuccinctRoles.GetRolesForTarget(target), nil
	}
	var out []metadata.RoleResult
	seen := map[string]bool{}
	for _, r := range d.Roles {
		if seen[r.Name] {
			return nil, fmt.Errorf("it delegates to %q twice", r.Name)
		}
		seen[r.Name] = true
		if r.Name == "" || slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], r.Name) {
			return nil, fmt.Errorf("it delegates to %q", r.Name)
		}
		if tufMatches(&r, target) {
			out = append(out, metadata.RoleResult{Name: r.Name, Terminating: r.Terminating})
		}
	}
	return out, nil
}

// tufMatches tells whether a delegation is about a target: by patterns that do not cross a slash, or by the beginning of the hash of its
// path, in hex (TUF section 4.5).
func tufMatches(r *metadata.DelegatedRole, target string) bool {
	if len(r.Paths) == 0 {
		h := sha256.Sum256([]byte(target))
		return slices.ContainsFunc(r.PathHashPrefixes, func(p string) bool { return strings.HasPrefix(hex.EncodeToString(h[:]), p) })
	}
	return slices.ContainsFunc(r.Paths, func(p string) bool {
		ok, err := path.Match(p, target)
		return err == nil && ok && strings.Count(p, "/") == strings.Count(target, "/") // a class may match a slash, but must not
	})
}

// download fetches targets, one after the other, and none that lies there already.
func (c *tufRepository) download(ctx context.Context, names []string) error {
	if err := c.refresh(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(c.out, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		f, err := c.find(ctx, name)
		if err != nil {
			return err
		}
		if err := c.target(ctx, name, f); err != nil {
			return fmt.Errorf("target %q: %w", name, err)
		}
	}
	return nil
}

func (c *tufRepository) target(ctx context.Context, name string, want *metadata.TargetFiles) error {
	file := filepath.Join(c.out, url.PathEscape(name))
	if have, err := os.Open(file); err == nil {
		err = tufCopy(io.Discard, have, want)
		have.Close()
		if err == nil {
			return nil
		}
	}
	dir, base := path.Split(name)
	if c.tm.Root.Signed.ConsistentSnapshot {
		algorithm := "sha256"
		if want.Hashes[algorithm] == nil {
			algorithm = slices.Min(slices.Collect(maps.Keys(want.Hashes)))
		}
		base = want.Hashes[algorithm].String() + "." + base
	}
	body, err := c.open(ctx, c.targets, (&url.URL{Path: dir + base}).EscapedPath())
	if err != nil {
		return err
	}
	defer body.Close()
	out, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o644), renameio.WithTempDir(c.out))
	if err != nil {
		return err
	}
	defer out.Cleanup()
	if err := tufCopy(out, body, want); err != nil {
		return err
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return syncFolder(c.out)
}

// tufCopy copies a target and checks its length and all hashes that are known; one has to be.
func tufCopy(w io.Writer, r io.Reader, want *metadata.TargetFiles) error {
	sums := map[string]hash.Hash{}
	for name := range want.Hashes {
		switch name {
		case "sha256":
			sums[name] = sha256.New()
		case "sha512":
			sums[name] = sha512.New()
		}
	}
	if len(sums) == 0 {
		return errors.New("no hash that is known")
	}
	out := []io.Writer{w}
	for _, h := range sums {
		out = append(out, h)
	}
	n, err := io.Copy(io.MultiWriter(out...), io.LimitReader(r, want.Length+1))
	if err != nil {
		return err
	}
	if n != want.Length {
		return fmt.Errorf("its length is not %d", want.Length)
	}
	for name, h := range sums {
		if !slices.Equal(h.Sum(nil), want.Hashes[name]) {
			return fmt.Errorf("its %s is another one", name)
		}
	}
	return nil
}

// file is the name of a role's metadata at the repository.
func (c *tufRepository) file(role string, version int64) string {
	name := url.PathEscape(role) + ".json"
	if c.tm.Root.Signed.ConsistentSnapshot {
		name = strconv.FormatInt(version, 10) + "." + name
	}
	return name
}

func tufLimit(m *metadata.MetaFiles) int64 {
	if m.Length > 0 && m.Length < tufMaxMetadata {
		return m.Length
	}
	return tufMaxMetadata
}

// fetch fetches metadata.
func (c *tufRepository) fetch(ctx context.Context, file string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, tufTimeout)
	defer cancel()
	body, err := c.open(ctx, c.metadata, file)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := readAtMost(body, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

// open asks for a file below a URL; file is escaped.
func (c *tufRepository) open(ctx context.Context, base, file string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/"+strings.TrimPrefix(file, "/"), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "croft-tuf-client")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusOK:
		return res.Body, nil
	case http.StatusNotFound, http.StatusForbidden: // some stores say the latter of what they do not have
		err = fmt.Errorf("%s: %w", file, errTUFNotFound)
	default:
		err = fmt.Errorf("%s: the server says %s", file, res.Status)
	}
	res.Body.Close()
	return nil, err
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return b, err
}

// stored is what was verified before. A role's name is never a path.
func (c *tufRepository) stored(role string) ([]byte, error) {
	f, err := os.Open(c.path(role))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, tufMaxMetadata)
}

func (c *tufRepository) path(role string) string {
	return filepath.Join(c.dir, url.PathEscape(role)+".json")
}

// store makes verified metadata durable, byte by byte as it came.
func (c *tufRepository) store(role string, b []byte) error {
	if err := renameio.WriteFile(c.path(role), b, 0o644, renameio.WithTempDir(c.dir)); err != nil {
		return err
	}
	return syncFolder(c.dir)
}

func (c *tufRepository) forget(role string) error {
	if err := os.Remove(c.path(role)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncFolder(c.dir)
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
