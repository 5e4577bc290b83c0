package updater

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/slots"
)

// untilRestart says how long what is ready has to wait; 0 or less: no longer.
func (e *engine) untilRestart(ctx context.Context) time.Duration {
	p := e.pend
	if who := e.busy(); who != "" {
		e.say(p.Attempt, "busy", who+" must not be cut off")
		return lookEvery / 4
	}
	e.say(p.Attempt, "", "")
	if p.Owner && p.Now {
		return 0
	}
	policy, tz := e.policy()
	w, err := parseWindow(policy)
	if !auto(policy) && !p.Owner || err != nil {
		e.setPlan(plan{}) // the owner says when
		return forever
	}
	now := time.Now().In(tz)
	if wait, known := e.untilClock(ctx); !known {
		e.setPlan(plan{})
		return min(wait, lookEvery)
	} else if wait < 0 { // nobody will ever say what time it is
		return 0
	}
	opens, _ := w.next(now)
	if !e.plan.opens.Equal(opens) {
		e.setPlan(plan{opens, w.restartAt(now, e.jitter())})
	}
	if wait := e.plan.at.Sub(now); wait > 0 {
		return min(wait, lookEvery) // the clock may be set meanwhile
	}
	return 0
}

func (e *engine) setPlan(p plan) {
	if !e.plan.opens.Equal(p.opens) || !e.plan.at.Equal(p.at) {
		e.change(func() { e.plan = p })
	}
}

// untilClock tells whether the time is known, or how long to wait for that; less than 0: it was waited for long enough.
func (e *engine) untilClock(ctx context.Context) (time.Duration, bool) {
	if n, err := e.network(ctx); err == nil && n.Clock.Certainty != api.ClockUnsure {
		return 0, true
	}
	up := time.Since(e.started)
	if s, err := e.system(ctx); err == nil {
		up = max(up, time.Duration(s.UptimeMS)*time.Millisecond)
	}
	if up >= unsureFor {
		return -1, true
	}
	return unsureFor - up, false
}

// say notes in an open attempt what it waits for.
func (e *engine) say(id, cause, detail string) {
	a := e.hist.find(id)
	if a == nil || a.Ended != nil || a.Cause == cause && a.Detail == detail {
		return
	}
	h := slices.Clone(e.hist) // in memory only: it is over before it would be of use
	a = h.find(id)
	a.Cause, a.Detail = cause, detail
	e.change(func() { e.hist = h })
}

// busy names who holds restarts off; empty if nobody does.
func (e *engine) busy() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(e.leases, func(_ string, until time.Time) bool { return !until.After(now) })
	who := slices.Sorted(maps.Keys(e.leases))
	if len(who) == 0 {
		return ""
	}
	return who[0]
}

// restart has PID 1 start the slot that is ready, once.
func (e *engine) restart(ctx context.Context) {
	p := *e.pend
	e.setState(api.UpdateRestarting, &api.UpdateProgress{})
	defer e.rest()
	fail := func(err error) {
		e.end(p.Attempt, api.UpdateFailed, causeOf(err), err.Error(), "", func(a *attempt) { a.Trial = false })
		e.notBefore = time.Now().Add(installWait)
	}
	if err := e.believed(p); err != nil {
		fail(because("bad-metadata", err))
		return
	}
	s, err := e.slots(ctx)
	if err != nil {
		e.log.Warn("PID 1 does not say what the slots are", "err", err)
		sleep(ctx, lookEvery/4)
		return
	}
	switch {
	case s.Trial || s.Running == p.Slot:
		fail(because("interrupted", fmt.Errorf("slot %s runs, and %s is committed", s.Running, s.Committed)))
		return
	case s.OneShot != "":
		fail(because("not-taken", errors.New(s.OneShot)))
		return
	}
	if err := e.complete(ctx, s, p); err != nil {
		fail(err)
		return
	}
	sys, err := e.system(ctx)
	if err != nil {
		e.log.Warn("PID 1 does not say how the services are", "err", err)
		sleep(ctx, lookEvery/4)
		return
	}
	p.Healthy = nil
	for _, v := range sys.Services {
		if healthy(v) && !v.ForOthers {
			p.Healthy = append(p.Healthy, v.Name)
		}
	}
	n, err := e.network(ctx)
	p.Address = err == nil && address(n)
	p.Phase, p.Boot, p.Armed = phaseArmed, e.boot, time.Now()
	if err := e.setHistory(func(h *history) {
		if a := h.find(p.Attempt); a != nil {
			a.Trial, a.Cause, a.Detail = true, "", ""
		}
	}); err != nil {
		fail(err)
		return
	}
	if err := e.setPending(&p); err != nil {
		fail(err)
		return
	}
	e.log.Info("restarting into the other slot", "slot", p.Slot, "version", p.Version)
	if err := e.files.point("before the restart"); err == nil {
		err = ask(ctx, e.init, http.MethodPost, "http://init/v1/trial", api.TrialRequest{Slot: p.Slot}, nil)
		if err == nil {
			sleep(ctx, goDownFor)
		}
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("the box did not restart")
			}
			fail(because("not-taken", err))
		}
	}
}

// believed checks that what is ready is still among what may be believed: its publisher may have withdrawn it.
func (e *engine) believed(p pending) error {
	if p.Back {
		return nil // the owner asked for it, and it was believed when it was written
	}
	if _, err := e.parse(p.Record.Target, p.Record.Description); err != nil {
		return fmt.Errorf("it is no longer among what may be believed: %w", err)
	}
	return nil
}

// complete checks that the idle slot still holds what is to be started.
func (e *engine) complete(ctx context.Context, s api.Slots, p pending) error {
	m, err := e.open(ctx, s)
	if err != nil {
		return because("medium", err)
	}
	defer m.Close()
	e.stampOf(m)
	if !e.holds(p) {
		return because("read-back", fmt.Errorf("slot %s: %w", p.Slot, slots.ErrIncomplete))
	}
	return nil
}

// holds tells whether the idle slot says that it holds a change's release.
func (e *engine) holds(p pending) bool {
	st := e.stamp
	return st != nil && st.Complete && string(st.Slot) == p.Slot && (st.Version == "" || st.Version == p.Version) &&
		(st.Number == 0 || st.Number == p.Number)
}

func healthy(v api.Service) bool { return v.State == api.StateRunning || v.State == api.StateDone }

// address tells whether the box has an address that others can reach it by.
func address(n api.Network) bool {
	for _, i := range n.Interfaces {
		for _, a := range i.Addresses {
			if ip := a.Addr(); i.Up && !ip.IsLoopback() && (ip.Is4() || ip.IsGlobalUnicast()) {
				return true
			}
		}
	}
	return false
}

// resume finds out how things are after a start, whatever the files say, and goes on from there.
func (e *engine) resume(ctx context.Context) error {
	e.work.Lock()
	defer e.work.Unlock()
	s, err := e.slots(ctx)
	if err != nil {
		return err
	}
	e.rescue = s.Rescue
	e.change(func() { e.running, e.committed = s.Running, s.Committed })
	if m, err := e.open(ctx, s); err == nil {
		e.stampOf(m)
		m.Close()
	} else {
		e.log.Warn("the medium could not be looked at", "err", err)
	}
	e.nextCheck = time.Now().Add(firstCheck + time.Duration(e.jitter()*float64(firstCheck)))
	e.closeOpen()
	p := e.pend
	switch {
	case s.Trial:
		e.trial(ctx, s)
		return nil
	case p == nil:
	case p.Phase == phaseReady && !e.holds(*p):
		e.end(p.Attempt, api.UpdateFailed, "read-back", "the slot no longer holds it", "")
	case p.Phase != phaseArmed:
	case s.Running == p.Slot: // committed, and then cut off
		e.kept(ctx, *p)
	case p.Boot == e.boot: // only this process was started again
		again := *p
		again.Phase = phaseReady
		if err := e.setPending(&again); err != nil {
			return err
		}
	default:
		e.fellBack(*p, s)
	}
	if err := e.findOffer(ctx); err != nil {
		e.log.Info("no offer yet", "err", err)
	}
	e.rest()
	return nil
}

// closeOpen ends attempts that nothing is left of.
func (e *engine) closeOpen() {
	for _, a := range e.hist {
		if a.Ended == nil && (e.pend == nil || e.pend.Attempt != a.ID) {
			e.end(a.ID, api.UpdateFailed, "power", "cut off", "")
		}
	}
}

// fellBack records how a trial ended that the old release runs after, or tries again what was never started.
func (e *engine) fellBack(p pending, s api.Slots) {
	const back = api.UpdateBack
	switch t := s.Ended; {
	case p.Cause != "":
		e.end(p.Attempt, back, p.Cause, p.Detail, p.Service)
	case s.Pending == p.Slot, t == nil, t.Slot != p.Slot, t.Version != "" && t.Version != p.Version, t.Cause == "not-taken":
		// The firmware did not start it, or was never asked to since the power went before.
		if p.Tries++; p.Tries < maxTaken {
			p.Phase = phaseReady
			err := e.setPending(&p)
			if err == nil {
				e.log.Warn("the new slot was not started; it is tried again", "tries", p.Tries)
				return
			}
			e.log.Error("what is to be tried again could not be written", "err", err)
		}
		e.end(p.Attempt, back, "not-taken", fmt.Sprintf("the firmware started the old slot %d times", p.Tries), "")
	case t.Cause != "":
		e.end(p.Attempt, back, known(t.Cause), t.Detail, t.Service)
	default:
		e.end(p.Attempt, back, "hang", "it came as far as: "+t.Came, t.Service)
	}
	e.notBefore = time.Now().Add(installWait)
}

// known passes causes on that there are words for.
func known(cause string) string {
	if slices.Contains(api.UpdateCauses(), cause) {
		return cause
	}
	return "unknown"
}
