package updater

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
	"github.com/croft-os/croft/updater/trust"
)

const (
	refreshTime = 10 * time.Minute // for the fetcher to ask all sources
	// maxDescriptions is how many releases of a board and channel are looked at: those whose versions sort last.
	maxDescriptions = 32
)

// check looks for news: at all sources, or at all but those of the internet.
func (e *engine) check(ctx context.Context, internet bool) {
	ctx, done := e.cancellable(ctx)
	defer done()
	e.setState(api.UpdateChecking, &api.UpdateProgress{Cancel: true})
	defer e.rest()
	results, err := e.refresh(ctx, internet)
	if ctx.Err() != nil { // what is known stays as it is
		e.nextCheck = time.Now().Add(retryEvery)
		return
	}
	oerr := e.findOffer(ctx)
	if p := e.pend; p != nil && p.Phase == phaseReady {
		if err := e.believed(*p); err != nil {
			e.end(p.Attempt, api.UpdateFailed, "bad-metadata", err.Error(), "")
		}
	}
	p := e.problem(results, err, oerr)
	now := time.Now().UTC().Round(time.Second)
	answered := slices.ContainsFunc(results, func(r fetcher.SourceResult) bool { return r.Cause != "no-source" })
	e.remember(func(r *remembered) {
		if answered {
			r.Checked = &now
		}
		if p != nil && r.Problem != nil && r.Problem.Cause == p.Cause {
			p.Since = r.Problem.Since
		}
		r.Problem = p
	})
	if internet {
		every := checkEvery
		if !answered {
			every = retryEvery
		}
		e.nextCheck = time.Now().Add(time.Duration((0.9 + 0.2*e.jitter()) * float64(every)))
	}
	if p != nil {
		e.log.Warn("the check brought a problem", "cause", p.Cause, "detail", p.Detail)
	}
}

// refresh has the fetcher look around, and verifies what it has then. The error is of what was verified.
func (e *engine) refresh(ctx context.Context, internet bool) ([]fetcher.SourceResult, error) {
	if e.followed.project == nil {
		return nil, cmp.Or(e.unopened, errNobody)
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	policy, _ := e.policy()
	clock := e.clock(ctx)
	var results []fetcher.SourceResult
	var errs []error
	for _, f := range e.followed.all() {
		got, err := e.fetch.Refresh(ctx, fetcher.RefreshRequest{
			Prefix: f.prefix, Root: f.root, Mirrors: policy.Mirrors, Channel: policy.Channel, Board: e.release.Board,
			Internet: internet, Now: clock.Now, Sure: clock.Sure,
		})
		if err != nil {
			e.log.Warn("the fetcher could not look around", "err", err)
		}
		if f == e.followed.project {
			results = got.Sources
		}
		status, err := f.Refresh(ctx, source{e.fetch}, clock)
		if errors.Is(err, trust.ErrNotFound) && !errors.Is(err, trust.ErrNotLogged) { // nothing was ever fetched: the results say why
			err = nil
			if status.Versions.Timestamp > 0 && status.Stale {
				err = trust.ErrStale
			}
		}
		errs = append(errs, err)
	}
	e.showTrust()
	return results, errors.Join(errs...)
}

// cause is the word for what went wrong, of api.UpdateCauses; empty for nothing that it knows.
func cause(err error) string {
	for _, c := range []struct {
		is   error
		word string
	}{
		{errNobody, "no-trust"},
		{trust.ErrSplitView, "split-view"},
		{trust.ErrRollback, "rollback"},
		{trust.ErrNotLogged, "not-logged"},
		{trust.ErrDisagree, "disagree"},
		{trust.ErrMetadata, "bad-metadata"},
		{trust.ErrDamaged, "bad-metadata"},
		{trust.ErrTooLarge, "bad-metadata"},
		{release.ErrFormat, "bad-metadata"},
		{trust.ErrStale, "stale"},
		{trust.ErrNotFound, "download"},
		{errTooLarge, "too-large"},
		{slots.ErrTooLarge, "too-large"},
		{slots.ErrReadBack, "read-back"},
		{slots.ErrContent, "wrong-base"},
		{delta.ErrFrames, "wrong-base"},
		{delta.ErrContent, "wrong-base"},
		{delta.ErrPatch, "wrong-base"},
		{slots.ErrMedium, "medium"},
		{slots.ErrForm, "medium"},
		{slots.ErrIncomplete, "read-back"},
	} {
		if errors.Is(err, c.is) {
			return c.word
		}
	}
	if _, ok := errors.AsType[*delta.FrameError](err); ok {
		return "wrong-base"
	}
	if f, ok := errors.AsType[*fetcher.Error](err); ok && slices.Contains(api.UpdateCauses(), f.Cause) {
		return f.Cause
	}
	return ""
}

// gravest are the causes that a single source is enough for to tell of, and the order in which others are told of when no
// source brought anything.
var gravest = []string{
	"split-view", "rollback", "not-logged", "bad-metadata", "disagree", "stale", "wrong-board", "bad-file", "disk-full",
}

// problem is why a check brought nothing, in the words of the page; nil if there is nothing to tell.
func (e *engine) problem(results []fetcher.SourceResult, err, offerErr error) *api.UpdateProblem {
	tell := func(cause, detail string) *api.UpdateProblem {
		return &api.UpdateProblem{Cause: cause, Detail: short(detail), Since: time.Now().UTC().Round(time.Second)}
	}
	if err != nil && !errors.Is(err, trust.ErrStale) {
		return tell(cmp.Or(cause(err), "unknown"), err.Error())
	}
	if err == nil && offerErr != nil {
		return tell(cmp.Or(cause(offerErr), "unknown"), offerErr.Error())
	}
	good := 0
	worst := fetcher.SourceResult{Cause: "no-source", Error: "no source answered"}
	rank := func(cause string) int {
		if i := slices.Index(gravest, cause); i >= 0 {
			return i
		}
		return len(gravest)
	}
	for _, r := range results {
		switch {
		case r.Cause == "":
			good++
		case rank(r.Cause) < rank(worst.Cause):
			worst = r
		}
	}
	o := e.offered()
	own := func(kind string) bool { return kind == fetch.KindFile || kind == fetch.KindUSB }
	switch {
	case worst.Cause == "split-view":
		return tell(worst.Cause, worst.Name+": "+worst.Error)
	case own(worst.Kind) && (o == nil || o.Source == fetch.KindMirror): // somebody came with it and waits for an answer
		return tell(worst.Cause, worst.Name+": "+worst.Error)
	case errors.Is(err, trust.ErrStale):
		return tell("stale", err.Error())
	case good > 0 && o == nil:
		for _, r := range results {
			if own(r.Kind) && r.Cause == "" {
				return tell("not-newer", r.Name+" has nothing newer than "+e.release.Version)
			}
		}
	case good == 0:
		return tell(worst.Cause, strings.TrimPrefix(worst.Name+": ", ": ")+worst.Error)
	}
	return nil
}

var errTooLarge = errors.New("does not fit into a slot")

// findOffer looks what of all that is verified is to be offered: the release with the highest number, if that is newer than
// what runs. Without an error and an offer there is nothing newer.
func (e *engine) findOffer(ctx context.Context) error {
	o, err := e.newest(ctx)
	if err != nil {
		e.log.Warn("what is verified could not be looked at", "err", err)
	}
	e.change(func() {
		if o != nil {
			o.Source = e.sourceOf(o.Version)
		}
		e.offer = o
	})
	return err
}

func (e *engine) newest(ctx context.Context) (*offer, error) {
	if e.followed.project == nil {
		return nil, nil
	}
	policy, _ := e.policy()
	targets := slices.DeleteFunc(e.followed.targets(), func(t trust.Target) bool {
		c, board, _, ok := release.ParseTarget(t.Path)
		return !ok || board != e.release.Board || c == release.Beta && policy.Channel != string(release.Beta)
	})
	if len(targets) == 0 {
		if e.followed.auditor != nil && slices.ContainsFunc(e.followed.project.Targets(), func(t trust.Target) bool {
			_, board, _, ok := release.ParseTarget(t.Path)
			return ok && board == e.release.Board
		}) {
			return nil, trust.ErrDisagree
		}
		return nil, nil
	}
	slices.SortFunc(targets, func(a, b trust.Target) int {
		_, _, va, _ := release.ParseTarget(a.Path)
		_, _, vb, _ := release.ParseTarget(b.Path)
		return -compareVersions(va, vb)
	})
	seen := map[release.Channel]int{}
	keep := map[string]*release.Release{}
	var best *release.Release
	var bestTarget trust.Target
	var bytes []byte
	var errs []error
	for _, t := range targets {
		if seen[t.Channel]++; seen[t.Channel] > maxDescriptions {
			continue
		}
		r, b, err := e.describe(ctx, t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keep[t.SHA256] = r
		if best == nil || r.Number > best.Number {
			best, bestTarget, bytes = r, t, b
		}
	}
	e.releases = keep
	if best == nil {
		return nil, errors.Join(errs...)
	}
	project := e.followed.project.fingerprint
	foreign := e.release.Number > 0 && e.publisher() != project
	if !foreign && best.Number <= e.release.Number && !e.rescue { // there it may be the only one that works
		return nil, nil
	}
	if foreign && !e.rescue && best.Version == e.release.Version && best.Number == e.release.Number {
		return nil, nil
	}
	if err := e.fits(ctx, best); err != nil {
		return nil, err
	}
	if bytes == nil { // it was looked at before
		var err error
		if _, bytes, err = e.read(ctx, bestTarget); err != nil {
			return nil, err
		}
	}
	o := &offer{publisher: project, foreign: foreign, release: best}
	o.UpdateOffer = api.UpdateOffer{
		Version: best.Version, Number: best.Number, Channel: string(best.Channel), Built: time.Unix(best.Built, 0).UTC(),
		Notes: best.Notes, Stale: bestTarget.Stale || e.stale(), Evidence: evidence(bestTarget.Evidence),
	}
	if e.followed.auditor != nil {
		o.Evidence.Auditor = e.followed.auditor.name
	}
	o.record = slotRecord{
		Version: best.Version, Number: best.Number, Publisher: project, Target: bestTarget.Path, Description: bytes, Evidence: o.Evidence,
	}
	if old := e.offered(); old != nil && old.Number == o.Number && string(old.record.Description) == string(bytes) {
		o.Download = old.Download
	} else {
		o.Download = e.download(ctx, best)
	}
	return o, nil
}

// stale tells whether anybody who counts can't show that they know the newest.
func (e *engine) stale() bool {
	return slices.ContainsFunc(e.followed.all(), func(f *follow) bool { return f.Status().Stale })
}

func evidence(v trust.Evidence) api.UpdateEvidence {
	out := api.UpdateEvidence{Signers: v.Signers, Of: v.Of, Logged: v.Logged, Witnesses: v.Witnesses}
	if !v.Seen.IsZero() {
		t := v.Seen.UTC()
		out.Seen = &t
	}
	return out
}

// describe returns the description of a release, and its bytes unless it was looked at before.
func (e *engine) describe(ctx context.Context, t trust.Target) (*release.Release, []byte, error) {
	if r := e.releases[t.SHA256]; r != nil {
		return r, nil, nil
	}
	return e.read(ctx, t)
}

// read reads a description; nothing of it is parsed before it is verified.
func (e *engine) read(ctx context.Context, t trust.Target) (*release.Release, []byte, error) {
	b, err := source{e.fetch}.Get(ctx, release.TargetFile(t.Path, t.SHA256), min(t.Length, release.MaxDescription))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", t.Path, err)
	}
	r, err := e.parse(t.Path, b)
	return r, b, err
}

// parse verifies a description and reads it.
func (e *engine) parse(target string, b []byte) (*release.Release, error) {
	if err := e.followed.verify(target, b); err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	r, err := release.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	if release.Target(r.Channel, r.Board, r.Version) != target || r.Board != e.release.Board {
		return nil, fmt.Errorf("%w: %s describes %s for %s", release.ErrFormat, target, r.Version, r.Board)
	}
	return r, nil
}

// fits checks that a release has room in the slot that does not run. Where that can't be seen, writing it will tell.
func (e *engine) fits(ctx context.Context, r *release.Release) error {
	s, err := e.slots(ctx)
	if err != nil || s.Trial {
		return nil
	}
	m, err := e.open(ctx, s)
	if err != nil {
		e.log.Warn("the room of the idle slot could not be looked at", "err", err)
		return nil
	}
	defer m.Close()
	return room(m.Medium, r)
}

func room(m *slots.Medium, r *release.Release) error {
	for part, size := range map[string]int64{slots.PartRoot: r.Root.Size, slots.PartBoot: r.Boot.Size} {
		have, err := m.Room(part)
		if err != nil {
			return err
		}
		if size > have {
			return fmt.Errorf("%w: %s has %d bytes, and there is room for %d", errTooLarge, part, size, have)
		}
	}
	return nil
}

// download is about how much has to be fetched for a release: patches where what runs is what they are for, else all of it.
func (e *engine) download(ctx context.Context, r *release.Release) int64 {
	s, err := e.slots(ctx)
	if err != nil {
		return r.Boot.Frames.Size + r.Root.Frames.Size
	}
	m, err := e.open(ctx, s)
	if err != nil {
		e.log.Warn("the running slot could not be looked at", "err", err)
		return r.Boot.Frames.Size + r.Root.Frames.Size
	}
	defer m.Close()
	wants, _ := e.ways(ctx, m, r, false)
	var n int64
	for _, w := range wants {
		n += w.Size
	}
	return n
}

// sourceOf is the kind of the source that has a version, as far as the fetcher says. Under mu.
func (e *engine) sourceOf(version string) string {
	for _, kind := range []string{fetch.KindFile, fetch.KindUSB, fetch.KindNeighbour} {
		for _, s := range e.sources {
			if s.Kind == kind && s.Version == version {
				return kind
			}
		}
	}
	return fetch.KindMirror
}

// compareVersions orders versions as people read them: numbers in them count as numbers.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := a[:1], b[:1]
		if digit(a) && digit(b) {
			x, y = digits(a), digits(b)
			a, b = a[len(x):], b[len(y):]
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			continue
		}
		if x != y {
			return cmp.Compare(x, y)
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digit(s string) bool { return '0' <= s[0] && s[0] <= '9' }

func digits(s string) string {
	n := 0
	for n < len(s) && digit(s[n:]) {
		n++
	}
	return s[:n]
}
