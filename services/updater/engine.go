package updater

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// Why a change under way is stopped, as the cause of its context.
var (
	errCancelled   = errors.New("cancelled by the owner")
	errInterrupted = errors.New("another action of the owner came between")
)

// Times and limits.
const (
	checkEvery  = 6 * time.Hour
	retryEvery  = 30 * time.Minute // after a check that no source answered
	firstCheck  = 20 * time.Second // after the start, for addresses and neighbours to come
	lookEvery   = time.Minute      // whether the clock has become sure, or what holds a restart off is over
	installWait = time.Hour        // after an installation by itself that failed, until the next one
	goDownFor   = 3 * time.Minute  // that PID 1 has once it was told to restart
	maxLease    = 2 * time.Hour    // of an api.UpdateBusy
	maxTaken    = 3                // restarts that the firmware does not take, until the owner is told
	maxTried    = 2                // trials that fail, until only the owner starts the release again
	maxCutOff   = 3                // installations that are cut off, likewise
)

const forever = 24 * time.Hour // longest sleep of the loop

// medium is what the box started from, opened.
type medium struct {
	*slots.Medium
	Close func()
}

// engine is the state machine. One goroutine (run) does the work, one thing at a time; the owner's requests are notes to it,
// but for those of trust and policy, which take effect in between.
type engine struct {
	log     *slog.Logger
	release api.Release // that runs
	builtin *builtin    // whom the image follows; nil: nobody
	boot    string      // id of this boot
	started time.Time
	status  func(string) // for the supervisor
	jitter  func() float64

	init, net, core *http.Client
	fetch           *fetcher.Client
	open            func(context.Context, api.Slots) (*medium, error)

	work      sync.Mutex // held while something is done: guards the files, the trust stores, the medium, and the fields here
	setting   sync.Mutex // held while the settings are changed
	files     files
	followed  followed
	unopened  error                       // why nobody is followed, though somebody should be
	rescue    bool                        // no slot runs, but the rescue system: only a person does anything
	releases  map[string]*release.Release // by hash of the description: those that were looked at
	nextCheck time.Time
	notBefore time.Time // for an installation by itself

	mu        sync.Mutex // guards what follows; never held while anything is waited for
	set       settings
	recs      map[string]slotRecord // by slot
	pend      *pending
	hist      history
	rem       remembered
	running   string // slot
	committed string // slot
	stamp     *slots.Stamp
	state     string
	prog      *api.UpdateProgress
	plan      plan // of the restart
	offer     *offer
	trust     api.UpdateTrust
	sources   []api.UpdateSource
	sharing   bool
	leases    map[string]time.Time
	want      *api.UpdateAction // asked for, not yet begun
	local     bool              // a stick, a file or a neighbour has something that was not looked at
	soon      bool              // look for news as soon as possible
	cancel    context.CancelCauseFunc
	subs      map[chan struct{}]bool

	wake chan struct{} // for run
	tell chan struct{} // for tellFetcher
}

// plan is when to restart by itself.
type plan struct {
	opens, at time.Time
}

// offer is a verified release that may be installed.
type offer struct {
	api.UpdateOffer
	publisher string // fingerprint
	foreign   bool   // the running release is another publisher's
	release   *release.Release
	record    slotRecord
}

// change changes what others see, and tells them.
func (e *engine) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	for c := range e.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// poke has the loop look around.
func (e *engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// setState says what is being done, and how far it is.
func (e *engine) setState(state string, p *api.UpdateProgress) {
	e.change(func() { e.state, e.prog = state, p })
}

// rest says that nothing is being done.
func (e *engine) rest() {
	e.change(func() {
		e.prog = nil
		switch {
		case e.pend != nil && e.pend.Phase == phaseReady:
			e.state = api.UpdateReady
		default:
			e.state = api.UpdateIdle
		}
	})
}

// view is the state as others see it.
func (e *engine) view() api.Updates {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := api.Updates{
		Version: e.release.Version, Number: e.release.Number, State: e.state,
		Checked: e.rem.Checked, Problem: e.rem.Problem, Policy: e.set.Policy, TimeZone: e.set.TimeZone, Trust: e.trust,
		Sources: append([]api.UpdateSource{}, e.sources...), Sharing: e.sharing,
	}
	if r, ok := e.runningRecord(); ok && len(r.Description) > 0 {
		u.Evidence = &r.Evidence
	}
	if o := e.offer; o != nil {
		v := o.UpdateOffer
		v.Tried = e.hist.tried(o.publisher, o.Number)
		u.Offer = &v
		if at := e.hist.last(o.publisher, o.Number); v.Tried >= maxTried && u.Problem == nil && at != nil {
			u.Problem = &api.UpdateProblem{Cause: "tried-twice", Detail: v.Version + " did not start well twice", Since: *at}
		}
	}
	if e.prog != nil {
		p := *e.prog
		u.Progress = &p
	}
	if len(e.hist) > 0 {
		a := e.hist[0].UpdateAttempt
		u.Last = &a
	}
	if at := e.plan.at; e.state == api.UpdateReady && !at.IsZero() {
		u.Next = &at
	}
	u.Previous = e.previous()
	return u
}

// runningRecord is what is remembered of the release that runs.
func (e *engine) runningRecord() (slotRecord, bool) {
	r, ok := e.recs[e.running]
	return r, ok && r.Version == e.release.Version && r.Number == e.release.Number
}

func (e *engine) offered() *offer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.offer
}

// publisher is the fingerprint of the root that the running release came from.
func (e *engine) publisher() string {
	if r, ok := e.runningRecord(); ok {
		return r.Publisher
	}
	if e.builtin != nil {
		return e.builtin.fingerprint
	}
	return ""
}

// previous is what "back" goes to: the other slot's release, if it is complete and not one that was never kept.
func (e *engine) previous() *api.UpdatePrevious {
	s := e.stamp
	if s == nil || !s.Complete || s.Version == "" || e.running != e.committed || e.pend != nil {
		return nil
	}
	for _, a := range e.hist {
		if a.Version != s.Version || a.Number != s.Number || a.Back && a.Outcome != api.UpdateKept {
			continue
		}
		if a.Outcome == api.UpdateKept {
			break
		}
		return nil // written, and failed or given up since it was kept last
	}
	return &api.UpdatePrevious{Version: s.Version, Number: s.Number}
}

// attempts is the history.
func (e *engine) attempts() []api.UpdateAttempt {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]api.UpdateAttempt, 0, len(e.hist))
	for _, a := range e.hist {
		list = append(list, a.UpdateAttempt)
	}
	return list
}

// run works until ctx ends.
func (e *engine) run(ctx context.Context) error {
	for e.resume(ctx) != nil && ctx.Err() == nil {
		sleep(ctx, 3*time.Second)
	}
	for ctx.Err() == nil {
		wait := e.step(ctx)
		if wait <= 0 {
			continue
		}
		t := time.NewTimer(min(wait, forever))
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-t.C:
		}
		t.Stop()
	}
	return ctx.Err()
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// step does the one thing that is to be done, or says how long there is nothing to do.
func (e *engine) step(ctx context.Context) time.Duration {
	e.work.Lock()
	defer e.work.Unlock()
	e.mu.Lock()
	want, local, soon := e.want, e.local, e.soon
	e.want, e.local, e.soon = nil, false, false
	e.mu.Unlock()
	if soon {
		e.nextCheck = time.Time{}
	}
	if want != nil {
		e.act(ctx, *want)
		return 0
	}
	rest := forever
	if p := e.pend; p != nil {
		switch p.Phase {
		case phaseWriting:
			e.goOn(ctx)
			return 0
		case phaseReady:
			if rest = e.untilRestart(ctx); rest <= 0 {
				e.restart(ctx)
				return 0
			}
		}
	}
	now := time.Now()
	switch until := e.nextCheck.Sub(now); {
	case until <= 0:
		e.check(ctx, true)
		return 0
	case local:
		e.check(ctx, false)
		return 0
	default:
		rest = min(rest, until)
	}
	if o := e.byItself(); o != nil {
		until := e.notBefore.Sub(now)
		if until <= 0 {
			e.install(ctx, o, request{})
			return 0
		}
		rest = min(rest, until)
	}
	return rest
}

// byItself is the offer that the box installs without being asked, if it is one.
func (e *engine) byItself() *offer {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := e.offer
	switch {
	case o == nil || o.Stale || o.foreign || e.rescue || !auto(e.set.Policy):
		return nil
	case e.pend != nil && (e.pend.Number >= o.Number || e.pend.Owner || e.pend.Phase == phaseArmed):
		return nil
	case o.Number <= e.rem.Left[o.publisher]:
		return nil
	case e.hist.tried(o.publisher, o.Number) >= maxTried, e.hist.cutOff(o.publisher, o.Number) >= maxCutOff,
		e.hist.unwilling(o.publisher, o.Number):
		return nil
	}
	return o
}

func auto(p api.UpdatePolicy) bool { return p.Mode == "" || p.Mode == "auto" }

// act does what an owner asked for.
func (e *engine) act(ctx context.Context, a api.UpdateAction) {
	switch a.Action {
	case "check":
		e.check(ctx, true)
	case "install", "tonight":
		o := e.offered()
		if o == nil || o.Number != a.Number {
			e.log.Info("what was to be installed is no longer on offer", "number", a.Number)
			return
		}
		e.install(ctx, o, request{owner: true, now: a.Action == "install", by: a.By})
	case "restart":
		if e.pend != nil && e.pend.Phase == phaseReady {
			p := *e.pend
			p.Owner, p.Now = true, true
			e.setPending(&p)
		}
	case "back":
		e.back(ctx, a.By)
	case "cancel":
		if p := e.pend; p != nil && p.Phase == phaseReady {
			e.end(p.Attempt, api.UpdateCancelled, "", "", "")
			e.notBefore = time.Now().Add(forever)
			e.rest()
		}
	}
}

// cancellable returns a context that "cancel" and changes of trust end, and what gives it back.
func (e *engine) cancellable(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	e.mu.Lock()
	e.cancel = cancel
	e.mu.Unlock()
	return ctx, func() {
		e.mu.Lock()
		e.cancel = nil
		e.mu.Unlock()
		cancel(nil)
	}
}

// setPending remembers the change under way; nil: none.
func (e *engine) setPending(p *pending) error {
	var err error
	if p == nil {
		err = e.files.remove(pendingFile)
	} else {
		err = e.files.save(pendingFile, p)
	}
	if err == nil {
		e.change(func() { e.pend = p })
	}
	return err
}

// setHistory changes the history.
func (e *engine) setHistory(f func(*history)) error {
	h := slices.Clone(e.hist)
	f(&h)
	err := e.files.save(historyFile, h)
	e.change(func() { e.hist = h }) // what happened has happened
	return err
}

// end ends an attempt and with it the change under way.
func (e *engine) end(id, outcome, cause, detail, service string, more ...func(*attempt)) {
	e.log.Info("an attempt ended", "id", id, "outcome", outcome, "cause", cause, "detail", detail, "service", service)
	now := time.Now().UTC().Round(time.Second)
	err := e.setHistory(func(h *history) {
		a := h.find(id)
		if a == nil || a.Ended != nil {
			return
		}
		a.Ended, a.Outcome, a.Cause, a.Detail, a.Service = &now, outcome, cause, short(detail), service
		for _, f := range more {
			f(a)
		}
	})
	if err != nil {
		e.log.Error("the history could not be written", "err", err)
	}
	if e.pend != nil && e.pend.Attempt == id {
		if err := e.setPending(nil); err != nil {
			e.log.Error("the end of an attempt could not be written", "err", err)
			e.change(func() { e.pend = nil })
		}
	}
	e.setPlan(plan{})
}

// short bounds a detail.
func short(s string) string {
	const most = 500
	if len(s) > most {
		return s[:most] + " …"
	}
	return s
}

// remember changes the rest of the state; that it is lost does no harm.
func (e *engine) remember(f func(*remembered)) {
	r := e.rem
	f(&r)
	if err := e.files.save(stateFile, r); err != nil {
		e.log.Warn("the state could not be written", "err", err)
	}
	e.change(func() { e.rem = r })
}
