package updater

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/trust"
)

// maxRoots is how many roots besides the image's the box remembers.
const maxRoots = 16

// builtin is whom the image follows unless its owner says otherwise.
type builtin struct {
	name        string
	root        []byte
	fingerprint string
}

// follow is one publisher, or auditor, that is followed.
type follow struct {
	*trust.Client
	name        string
	fingerprint string
	root        []byte // the first one
	prefix      string // of its paths in a repository
}

// followed are those that count at present. Project is nil if the box follows nobody.
type followed struct {
	project, auditor *follow
}

// fingerprint is the SHA-256 of a first root.
func fingerprint(root []byte) string {
	sum := sha256.Sum256(root)
	return hex.EncodeToString(sum[:])
}

// plainFingerprint takes out what people put between the digits.
func plainFingerprint(s string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if r == ':' || r == '-' || r == ' ' || r == '\u00a0' || r == '\t' || r == '\n' || r == '\r' {
			return -1
		}
		return r
	}, s))
}

// Roles of a root, as folders: a root that is trusted as one is not known as the other.
const (
	roleProject = "project"
	roleAuditor = "auditor"
)

// store returns where what was verified of a root is kept, and where the root itself is.
func (e *engine) store(role, fingerprint string) (dir, rootFile string) {
	dir = filepath.Join(e.files.dir, trustDir, role+"-"+fingerprint)
	return dir, dir + ".root.json"
}

// openRoot opens the store of a root that is known, or makes one. What a store has seen stays with it, whomever the box follows
// meanwhile, so that nothing older can be played back later.
//
// A store that can't be read is not made anew, for then something older could: only the owner's own action (anew) does that.
func (e *engine) openRoot(role, name, fp string, first []byte, anew bool) (*follow, error) {
	dir, file := e.store(role, fp)
	if first == nil {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%w: the root %s is not known: %w", errInvalid, fp, err)
		}
		first = b
	}
	if got := fingerprint(first); subtle.ConstantTimeCompare([]byte(got), []byte(fp)) != 1 {
		return nil, fmt.Errorf("%w: it is %s", errFingerprint, got)
	}
	info, err := trust.Inspect(first)
	if err != nil {
		return nil, err
	}
	f := &follow{name: name, fingerprint: fp, root: first}
	if role == roleAuditor {
		f.prefix = "auditors/" + name + "/"
	}
	o := trust.Options{Root: first, Prefix: f.prefix, NeedLog: info.Witnesses > 0}
	f.Client, err = trust.Open(dir, o)
	if anew && errors.Is(err, trust.ErrDamaged) {
		e.log.Warn("a store of what was verified is made anew, as the owner wishes", "root", fp, "err", err)
		if err = os.RemoveAll(dir); err == nil {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := e.files.point("before a store"); err != nil {
			return nil, err
		}
		if err := e.room(role, fp); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return nil, err
		}
		if f.Client, err = trust.Create(dir, o); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := e.files.write(filepath.Join(trustDir, filepath.Base(file)), first); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// room refuses to remember more roots than the box has room for.
func (e *engine) room(role, fp string) error {
	known, _ := filepath.Glob(filepath.Join(e.files.dir, trustDir, "*.root.json"))
	if len(known) >= maxRoots && (e.builtin == nil || role != roleProject || fp != e.builtin.fingerprint) {
		return fmt.Errorf("%w: %d roots are known already", errInvalid, len(known))
	}
	return nil
}

// openFollowed opens whom the settings name.
func (e *engine) openFollowed(s settings) (followed, error) {
	var f followed
	var err error
	switch {
	case s.Lost:
		return f, errLost
	case s.Project != nil:
		f.project, err = e.openRoot(roleProject, s.Project.Name, s.Project.Fingerprint, nil, false)
	case e.builtin != nil:
		f.project, err = e.openRoot(roleProject, e.builtin.name, e.builtin.fingerprint, e.builtin.root, false)
	}
	if err == nil && s.Auditor != nil {
		f.auditor, err = e.openRoot(roleAuditor, s.Auditor.Name, s.Auditor.Fingerprint, nil, false)
	}
	return f, err
}

// useFollowed takes them, and shows them.
func (e *engine) useFollowed(f followed) {
	e.followed = f
	e.showTrust()
}

func (e *engine) showTrust() {
	show := func(f *follow) *api.TrustRoot {
		if f == nil {
			return nil
		}
		i := f.Status().Root
		return &api.TrustRoot{
			Name: f.name, Fingerprint: f.fingerprint, Version: i.Version, Threshold: i.Threshold, Keys: i.Keys,
			Witnesses: i.Witnesses, Expires: i.Expires,
		}
	}
	t := api.UpdateTrust{Project: show(e.followed.project), Auditor: show(e.followed.auditor)}
	t.Builtin = e.builtin != nil && e.followed.project != nil && e.followed.project.fingerprint == e.builtin.fingerprint
	e.change(func() { e.trust = t })
}

// all are those followed.
func (f followed) all() []*follow {
	var list []*follow
	for _, x := range []*follow{f.project, f.auditor} {
		if x != nil {
			list = append(list, x)
		}
	}
	return list
}

// targets are what may be believed at present.
func (f followed) targets() []trust.Target {
	switch {
	case f.project == nil:
		return nil
	case f.auditor == nil:
		return f.project.Targets()
	default:
		return trust.Agree(f.project.Client, f.auditor.Client)
	}
}

// verify checks the bytes of a target with everybody who counts.
func (f followed) verify(target string, b []byte) error {
	if f.project == nil {
		return errNobody
	}
	for _, x := range f.all() {
		if err := x.Verify(target, b); err != nil {
			return err
		}
	}
	return nil
}

var (
	errLost        = errors.New("the file that says whom the owner chose can't be read")
	errNobody      = errors.New("the box follows nobody")
	errFingerprint = errors.New("the fingerprint does not match")
	errInvalid     = errors.New("that can't be")
)

// source reads a repository through the fetcher.
type source struct{ c *fetcher.Client }

// Get implements trust.Source.
func (s source) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, err := s.c.Get(ctx, path, limit)
	switch {
	case errors.Is(err, fetch.ErrNotFound):
		return nil, fmt.Errorf("%s: %w", path, trust.ErrNotFound)
	case errors.Is(err, fetch.ErrTooLarge):
		return nil, fmt.Errorf("%s: %w", path, trust.ErrTooLarge)
	case err == nil && int64(len(b)) > limit:
		return nil, fmt.Errorf("%s: %w", path, trust.ErrTooLarge)
	}
	return b, err
}

// clock is what the network service says of the time.
func (e *engine) clock(ctx context.Context) trust.Clock {
	c := trust.Clock{Built: time.Unix(e.release.Built, 0), Now: time.Now()}
	if n, err := e.network(ctx); err == nil {
		c.Sure = n.Clock.Certainty == api.ClockSure
	}
	return c
}

var auditorRE = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)

// setTrust changes whom the box follows. The password has been checked by core. It needs the work lock.
func (e *engine) setTrust(req api.TrustRequest) error {
	e.mu.Lock()
	s := e.set
	e.mu.Unlock()
	fp := plainFingerprint(req.Fingerprint)
	var first []byte
	if req.Root != "" {
		first = []byte(req.Root)
	}
	if len(first) > release.MaxRoot {
		return fmt.Errorf("%w: a root of %d bytes", errInvalid, len(first))
	}
	set := func(name string) (*root, error) {
		if !release.IsHash(fp) {
			return nil, fmt.Errorf("%w: a fingerprint has 64 digits", errFingerprint)
		}
		if _, err := e.openRoot(req.Role, name, fp, first, true); err != nil {
			return nil, err
		}
		return &root{Name: name, Fingerprint: fp}, nil
	}
	var err error
	switch req.Role + " " + req.Action {
	case "project set":
		if s.Project, err = set(strings.TrimSpace(req.Name)); e.builtin != nil && fp == e.builtin.fingerprint {
			s.Project = nil
		}
	case "project builtin":
		if e.builtin == nil {
			return fmt.Errorf("%w: the image follows nobody", errInvalid)
		}
		fp, first = e.builtin.fingerprint, e.builtin.root
		_, err = set(e.builtin.name)
		s.Project = nil
	case "auditor set":
		name := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(req.Name)), " ", "-")
		if !auditorRE.MatchString(name) {
			return fmt.Errorf("%w: an auditor's name is the one of its folder", errInvalid)
		}
		s.Auditor, err = set(name)
	case "auditor remove":
		s.Auditor = nil
	default:
		return fmt.Errorf("%w: %q of %q", errInvalid, req.Action, req.Role)
	}
	if err != nil {
		return err
	}
	s.Lost = s.Lost && req.Role != roleProject
	f, err := e.openFollowed(s)
	if err != nil {
		return err
	}
	for _, x := range f.all() { // the owner has looked
		if x.Status().SplitView != nil {
			if err := x.ForgetSplitView(); err != nil {
				return err
			}
		}
	}
	if err := e.saveSettings(func(now *settings) { now.Project, now.Auditor, now.Lost = s.Project, s.Auditor, s.Lost }); err != nil {
		return err
	}
	e.unopened = nil
	e.useFollowed(f)
	if p := e.pend; p != nil && p.Phase != phaseArmed && !p.Back {
		e.end(p.Attempt, api.UpdateCancelled, "interrupted", "whom the box follows was changed", "")
	}
	e.change(func() { e.offer = nil })
	e.remember(func(r *remembered) { r.Problem = nil })
	e.nextCheck = time.Time{}
	e.rest()
	return nil
}

// saveSettings changes the owner's will, durably. It may be called at any time.
func (e *engine) saveSettings(f func(*settings)) error {
	e.setting.Lock()
	defer e.setting.Unlock()
	e.mu.Lock()
	s := e.set
	e.mu.Unlock()
	f(&s)
	if err := e.files.save(settingsFile, s); err != nil {
		return err
	}
	e.change(func() { e.set = s })
	return nil
}

func (e *engine) policy() (api.UpdatePolicy, *time.Location) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tz, err := time.LoadLocation(e.set.TimeZone)
	if err != nil {
		tz = time.UTC
	}
	return e.set.Policy, tz
}
