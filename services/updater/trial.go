package updater

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
)

// The trial.
const (
	passes       = 3 // in a row
	passEvery    = 20 * time.Second
	trialTime    = 5 * time.Minute
	trialReserve = 20 * time.Second // before PID 1's own limit, to say why
	commitTries  = 3
	lookAgain    = 3 * time.Second // after a check that failed
)

// ailment is why a check of a trial failed.
type ailment struct {
	cause, detail, service string
}

// trial lets the release that runs prove itself, and commits it; or has PID 1 go back.
func (e *engine) trial(ctx context.Context, s api.Slots) {
	p := e.onTrial(s)
	limit := trialTime
	if left := time.Duration(s.LeftMS) * time.Millisecond; left > 0 {
		limit = min(limit, left-trialReserve)
	}
	end := time.Now().Add(limit)
	if p.Cause != "" { // decided before this process was started again
		e.giveUp(ctx, p, s, ailment{p.Cause, p.Detail, p.Service})
		return
	}
	e.status("looking whether the new release works")
	restarts := map[string]int{}
	var last ailment
	for good := 0; ; {
		left := time.Duration(passes-good) * passEvery
		e.setState(api.UpdateTrial, &api.UpdateProgress{Done: int64(good), Total: passes, LeftMS: left.Milliseconds()})
		bad := e.examine(ctx, p, restarts)
		if ctx.Err() != nil {
			return
		}
		wait := passEvery
		if bad == nil {
			good++
			e.log.Info("the new release passed", "pass", good, "of", passes)
		} else {
			good, last, wait = 0, *bad, lookAgain
			e.log.Warn("the new release did not pass", "cause", bad.cause, "detail", bad.detail, "service", bad.service)
		}
		if good == 1 {
			e.answered(p.Attempt, p.Armed)
		}
		if good == passes {
			break
		}
		if time.Now().Add(wait).After(end) {
			if last.cause == "" {
				last = ailment{"hang", "the time was over before it was well often enough", ""}
			}
			e.giveUp(ctx, p, s, last)
			return
		}
		sleep(ctx, wait)
	}
	if err := e.commit(ctx, s); err != nil {
		e.giveUp(ctx, p, s, ailment{"commit", err.Error(), ""})
		return
	}
	e.kept(ctx, *p)
}

// onTrial is the change that the trial is of; one is made up if nothing is remembered of it.
func (e *engine) onTrial(s api.Slots) *pending {
	if p := e.pend; p != nil && p.Slot == s.Running && p.Version == e.release.Version {
		return p
	}
	if p := e.pend; p != nil {
		e.end(p.Attempt, api.UpdateFailed, "interrupted", "another release is on trial: "+e.release.Version, "")
	}
	p := pending{
		Phase: phaseArmed, Slot: s.Running, Version: e.release.Version, Number: e.release.Number, Boot: e.boot, Record: e.recs[s.Running],
	}
	made, err := e.begin(p, "", true)
	if err != nil {
		e.log.Error("the trial could not be recorded", "err", err)
	}
	if made == nil {
		made = &p
	}
	return made
}

// examine makes every check once; nil: all is well. It works on a box without any network but its own.
func (e *engine) examine(ctx context.Context, p *pending, restarts map[string]int) *ailment {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	if err := e.canWrite(); err != nil {
		return &ailment{"data", err.Error(), ""}
	}
	if err := e.canRead(p); err != nil {
		return &ailment{"metadata", err.Error(), ""}
	}
	if now, built := time.Now(), time.Unix(e.release.Built, 0); now.Before(built) {
		return &ailment{"unknown", fmt.Sprintf("the clock says %s, before the release was built", now.UTC().Format(time.DateTime)), ""}
	}
	sys, err := e.system(ctx)
	if err != nil {
		return &ailment{"unknown", err.Error(), ""}
	}
	if sys.Mode != api.ModeNormal {
		return &ailment{"data", "the box is in rescue mode", ""}
	}
	if d := sys.Vitals.Data; d != nil && d.ReadOnly {
		return &ailment{"data", "the data partition can only be read", ""}
	}
	if bad := servicesWell(sys.Services, p.Healthy, restarts); bad != nil {
		return bad
	}
	if err := ask(ctx, e.core, http.MethodGet, "http://core/api/v1/health", nil, nil); err != nil {
		return &ailment{"database", err.Error(), "core"}
	}
	if page, err := e.fetch.Probe(ctx); err != nil {
		return &ailment{"page", err.Error(), ""}
	} else if page.HTTP != "" || page.HTTPS != "" {
		return &ailment{"page", strings.Trim(page.HTTP+"; "+page.HTTPS, "; "), ""}
	}
	n, err := e.network(ctx)
	if err != nil {
		return &ailment{"address", err.Error(), ""}
	}
	if p.Address && !address(n) {
		return &ailment{"address", "no address that others can reach the box by", ""}
	}
	return nil
}

// servicesWell checks that every service is well that was before, and that none was started again since the last look. Of a
// release of which nothing is known, the critical ones count. A service that the release no longer has is none.
func servicesWell(now []api.Service, before []string, restarts map[string]int) *ailment {
	for _, v := range now {
		if v.ForOthers || before != nil && !slices.Contains(before, v.Name) || before == nil && !v.Critical {
			continue
		}
		cause := "service"
		if v.Name == "core" && strings.Contains(v.LastExit+v.Status, "database") {
			cause = "database"
		}
		was, seen := restarts[v.Name]
		restarts[v.Name] = v.Restarts
		switch {
		case !healthy(v):
			return &ailment{cause, fmt.Sprintf("%s is %s %s", v.Name, v.State, v.LastExit), v.Name}
		case seen && v.Restarts > was:
			return &ailment{cause, fmt.Sprintf("%s was started again %s", v.Name, v.LastExit), v.Name}
		}
	}
	return nil
}

// canWrite writes to the data partition, durably, and reads it back.
func (e *engine) canWrite() error {
	want := []byte(rand.Text())
	if err := e.files.write(healthFile, want); err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(e.files.dir, healthFile))
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("the data partition gave back something else than was written")
	}
	return err
}

// canRead checks that this release's updater can go on from what is stored, so that another release can follow.
func (e *engine) canRead(p *pending) error {
	if e.unopened != nil {
		return e.unopened
	}
	if p.Back || len(p.Record.Description) == 0 || e.followed.project == nil || e.followed.project.fingerprint != p.Record.Publisher {
		return nil // what it came from is not followed any more, or never was
	}
	r, err := e.parse(p.Record.Target, p.Record.Description)
	if err != nil {
		return err
	}
	if r.Version != e.release.Version || r.Number != e.release.Number {
		return fmt.Errorf("%s (%d) runs, and %s (%d) was installed", e.release.Version, e.release.Number, r.Version, r.Number)
	}
	return nil
}

// answered notes how long the box was away, as far as its clock can tell.
func (e *engine) answered(id string, since time.Time) {
	d := time.Since(since.Round(0)) // across a restart only the wall clock counts
	if since.IsZero() || d <= 0 || d > time.Hour {
		return
	}
	if a := e.hist.find(id); a == nil || a.DownMS != 0 {
		return
	}
	if err := e.setHistory(func(h *history) { h.find(id).DownMS = d.Milliseconds() }); err != nil {
		e.log.Warn("the history could not be written", "err", err)
	}
}

// commit makes the running slot the one that the firmware starts by itself, and reads that back.
func (e *engine) commit(ctx context.Context, s api.Slots) error {
	var err error
	for range commitTries {
		if err = e.files.point("before the commit"); err != nil {
			return err
		}
		if err = e.commitOnce(ctx, s); err == nil {
			return e.files.point("after the commit")
		}
		e.log.Warn("the commit failed", "err", err)
		sleep(ctx, time.Second)
	}
	return err
}

func (e *engine) commitOnce(ctx context.Context, s api.Slots) error {
	m, err := e.open(ctx, s)
	if err != nil {
		return err
	}
	defer m.Close()
	slot := layout.Slot(s.Running)
	cerr := m.Commit(slot)
	is, err := m.Committed() // whatever was said, what is there counts
	if err == nil && is != slot {
		err = fmt.Errorf("slot %s is committed, not %s", is, slot)
	}
	if err != nil {
		return errors.Join(cerr, err)
	}
	return nil
}

// kept records that the running release stays.
func (e *engine) kept(ctx context.Context, p pending) {
	if err := ask(ctx, e.init, http.MethodPost, "http://init/v1/trial/kept", nil, nil); err != nil {
		e.log.Error("PID 1 could not be told that the release stays", "err", err)
	}
	e.change(func() { e.committed = e.running })
	e.look(ctx)
	left := maps.Clone(e.rem.Left)
	if left == nil {
		left = map[string]int64{}
	}
	if was := e.recs[other(e.running)]; p.Back { // the box does not go there again by itself
		pub := was.Publisher
		if pub == "" && e.builtin != nil {
			pub = e.builtin.fingerprint
		}
		left[pub] = max(left[pub], p.FromNo)
	}
	e.remember(func(r *remembered) { r.Left, r.Problem = left, nil })
	e.end(p.Attempt, api.UpdateKept, "", "", "")
	e.change(func() { e.offer = nil })
	e.nextCheck = time.Now().Add(firstCheck)
	e.status("the new release stays")
	e.rest()
}

// giveUp has PID 1 go back to the old slot.
func (e *engine) giveUp(ctx context.Context, p *pending, s api.Slots, bad ailment) {
	e.log.Error("the new release goes", "cause", bad.cause, "detail", bad.detail, "service", bad.service)
	said := *p
	said.Cause, said.Detail, said.Service = bad.cause, short(bad.detail), bad.service
	if err := e.setPending(&said); err != nil {
		e.log.Error("why could not be written", "err", err) // PID 1 is told as well
	}
	e.setState(api.UpdateRestarting, &api.UpdateProgress{})
	body := api.TrialEnd{
		Slot: s.Running, Version: e.release.Version, Came: "ready", Cause: bad.cause, Detail: short(bad.detail), Service: bad.service,
	}
	for ctx.Err() == nil { // it has its own limit, too
		if err := ask(ctx, e.init, http.MethodDelete, "http://init/v1/trial", body, nil); err != nil {
			e.log.Error("PID 1 does not go back", "err", err)
			sleep(ctx, lookAgain)
			continue
		}
		sleep(ctx, goDownFor)
	}
}
