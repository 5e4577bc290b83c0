package updater

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// request is who wants an installation, and how.
type request struct {
	owner bool // in person
	now   bool // with the restart as soon as it can be
	by    string
}

// causeError is an error whose cause is known.
type causeError struct {
	cause string
	err   error
}

func (c *causeError) Error() string { return c.err.Error() }
func (c *causeError) Unwrap() error { return c.err }

func because(cause string, err error) error { return &causeError{cause, err} }

// causeOf is the word for an error of an installation.
func causeOf(err error) string {
	var c *causeError
	switch {
	case errors.As(err, &c):
		return c.cause
	case errors.Is(err, syscall.ENOSPC):
		return "disk-full"
	case errors.Is(err, syscall.EIO):
		return "medium"
	}
	return cmp.Or(cause(err), "unknown")
}

// begin opens an attempt and remembers the change under way.
func (e *engine) begin(p pending, source string, trial bool) (*pending, error) {
	p.Attempt = rand.Text()[:12]
	a := attempt{Publisher: p.Record.Publisher, Back: p.Back, Boot: e.boot, Trial: trial}
	a.UpdateAttempt = api.UpdateAttempt{
		ID: p.Attempt, Version: p.Version, Number: p.Number, From: p.From, By: p.By, Source: source,
		Began: time.Now().UTC().Round(time.Second),
	}
	if err := e.setHistory(func(h *history) { h.add(a) }); err != nil {
		return nil, err
	}
	return &p, e.setPending(&p)
}

// install downloads a release, writes it to the idle slot and checks what was written. Then it is ready.
func (e *engine) install(ctx context.Context, o *offer, req request) {
	if p := e.pend; p != nil {
		e.end(p.Attempt, api.UpdateCancelled, "interrupted", "another installation came between: "+o.Version, "")
	}
	e.setState(api.UpdateDownloading, &api.UpdateProgress{Total: o.Download, Source: o.Source, Cancel: true})
	defer e.rest()
	p, err := e.begin(pending{
		Phase: phaseWriting, Version: o.Version, Number: o.Number, From: e.release.Version, FromNo: e.release.Number,
		Owner: req.owner, Now: req.now, By: req.by, Source: o.Source, Record: o.record, Slot: other(e.running),
	}, o.Source, false)
	if err == nil {
		ctx, done := e.cancellable(ctx)
		err = e.write(ctx, o, req)
		if why := context.Cause(ctx); err != nil && why != nil {
			err = why
		}
		done()
	} else if p == nil {
		p = &pending{}
	}
	debug.FreeOSMemory() // what decompression took is not needed for a long time
	if err == nil {
		ready := *p
		ready.Phase, ready.Ready = phaseReady, time.Now()
		err = e.setPending(&ready)
	}
	switch {
	case err == nil:
		e.log.Info("a release is ready", "version", o.Version, "slot", p.Slot)
		return
	case errors.Is(err, errCancelled):
		e.end(p.Attempt, api.UpdateCancelled, "", "", "")
	case errors.Is(err, errInterrupted):
		e.end(p.Attempt, api.UpdateCancelled, "interrupted", err.Error(), "")
	case ctx.Err() != nil: // the process ends: the next one goes on
		return
	default:
		e.end(p.Attempt, api.UpdateFailed, causeOf(err), err.Error(), "")
	}
	e.notBefore = time.Now().Add(installWait)
	e.look(ctx)
}

// write does the work of install.
func (e *engine) write(ctx context.Context, o *offer, req request) error {
	s, err := e.slots(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("ask PID 1 for the slots: %w", err)
	case s.Trial:
		return because("interrupted", errors.New("a release is on trial"))
	case s.OneShot != "":
		return because("not-taken", fmt.Errorf("this machine can't start a slot once: %s", s.OneShot))
	}
	m, err := e.open(ctx, s)
	if err != nil {
		return because("medium", err)
	}
	defer m.Close()
	err = e.writeWays(ctx, m, o, req, false)
	if errors.Is(err, delta.ErrFrames) || errors.Is(err, slots.ErrContent) {
		e.log.Warn("a patch did not give the release; full frames do", "err", err)
		err = e.writeWays(ctx, m, o, req, true)
	}
	e.stampOf(m)
	if err != nil {
		return err
	}
	if st := e.stamp; st == nil || !st.Complete {
		return because("read-back", slots.ErrIncomplete)
	}
	recs := map[string]slotRecord{e.running: e.recs[e.running], other(e.running): o.record}
	if err := e.files.save(slotsFile, recs); err != nil {
		return err
	}
	e.change(func() { e.recs = recs })
	return nil
}

// writeWays fetches and writes; frames means without patches.
func (e *engine) writeWays(ctx context.Context, m *medium, o *offer, req request, frames bool) error {
	r := o.release
	wants, ways := e.ways(ctx, m, r, frames)
	if err := ctx.Err(); err != nil {
		return err
	}
	policy, _ := e.policy()
	t := timer{began: time.Now()}
	if len(wants) > 0 {
		err := e.fetch.Fetch(ctx, fetcher.FetchRequest{
			Board: r.Board, Blobs: wants, Internet: req.owner || !policy.Metered, Mirrors: policy.Mirrors, Sure: e.clock(ctx).Sure,
		}, func(p fetcher.Progress) {
			done := min(max(p.Done, 0), max(p.Total, 0))
			e.setState(api.UpdateDownloading, &api.UpdateProgress{
				Done: done, Total: p.Total, LeftMS: t.left(done, p.Total), Source: cmp.Or(p.Source, o.Source), Cancel: true,
			})
		})
		if err != nil {
			if c := causeOf(err); c != "disk-full" && ctx.Err() == nil {
				return because("download", err)
			}
			return err
		}
	}
	size := map[string]int64{}
	for _, w := range wants {
		size[w.Blob] = w.Size
	}
	total := r.Root.Size + r.Boot.Size
	e.setState(api.UpdateWriting, &api.UpdateProgress{Total: total, Cancel: true})
	var step slots.Step
	return m.Install(ctx, r, func(part string, dst io.Writer) error {
		p := partOf(r, part)
		base, _, err := m.Base(part)
		if err != nil && ways[part] != (delta.Way{}) {
			return fmt.Errorf("%w: %w", delta.ErrFrames, err)
		}
		return delta.Apply(ctx, p, ways[part], base, func(blob string) (io.ReaderAt, int64, error) {
			return e.fetch.Blob(ctx, blob, size[blob]), size[blob], nil
		}, dst)
	}, func(at slots.Step, done, of int64) {
		if at != step {
			step, t = at, timer{began: time.Now()}
		}
		switch at {
		case slots.StepRoot, slots.StepBoot:
			if at == slots.StepBoot {
				done += r.Root.Size
			}
			e.setState(api.UpdateWriting, &api.UpdateProgress{Done: done, Total: total, LeftMS: t.left(done, total), Cancel: true})
		case slots.StepVerify:
			e.setState(api.UpdateVerifying, &api.UpdateProgress{Done: done, Total: of, LeftMS: t.left(done, of), Cancel: true})
		}
	})
}

func partOf(r *release.Release, part string) release.Part {
	if part == slots.PartBoot {
		return r.Boot
	}
	return r.Root
}

// ways says how the parts of a release are made from what runs, and what has to be fetched for that.
func (e *engine) ways(ctx context.Context, m *medium, r *release.Release, frames bool) ([]fetcher.Want, map[string]delta.Way) {
	var wants []fetcher.Want
	ways := map[string]delta.Way{}
	for _, name := range []string{slots.PartRoot, slots.PartBoot} {
		p := partOf(r, name)
		var w delta.Way
		if base, size, err := m.Base(name); err == nil && !frames {
			if w, err = delta.Choose(ctx, p, base, size); err != nil {
				w = delta.Way{}
			}
		}
		ways[name] = w
		switch {
		case w.Copy:
		case w.Patch != nil:
			wants = append(wants, fetcher.Want{Blob: w.Patch.Blob, Size: w.Patch.Size})
		default:
			wants = append(wants, fetcher.Want{Blob: p.Frames.Blob, Size: p.Frames.Size, Frames: p.Frames.List})
		}
	}
	return wants, ways
}

// timer estimates the time left from what was done since it began.
type timer struct {
	began time.Time
	first int64
	set   bool
}

func (t *timer) left(done, total int64) int64 {
	if !t.set { // what was there before says nothing about the speed
		t.first, t.set = done, true
	}
	took := time.Since(t.began)
	if done <= t.first || took < time.Second || total <= done {
		return 0
	}
	return int64(float64(took.Milliseconds()) * float64(total-done) / float64(done-t.first))
}

// stampOf reads what the idle slot holds. On trial that can't be seen where slots have boot partitions of their own.
func (e *engine) stampOf(m *medium) {
	if m.Table == layout.MBR && m.BootIdle == nil {
		return
	}
	st, err := m.Installed()
	if err != nil {
		e.log.Warn("the idle slot could not be read", "err", err)
		st = nil
	}
	e.change(func() { e.stamp = st })
}

// look reads the slots anew.
func (e *engine) look(ctx context.Context) {
	s, err := e.slots(ctx)
	if err != nil {
		return
	}
	if m, err := e.open(ctx, s); err == nil {
		e.stampOf(m)
		m.Close()
	}
}

// goOn begins an installation again that was cut off, if it is still what is wanted.
func (e *engine) goOn(ctx context.Context) {
	p := *e.pend
	a := e.hist.find(p.Attempt)
	cause, detail := "power", "the power went while it was written"
	if a != nil && a.Boot == e.boot {
		cause, detail = "unknown", "the updater ended while it was written"
	}
	e.end(p.Attempt, api.UpdateFailed, cause, detail, "")
	e.rest()
	if e.hist.cutOff(p.Record.Publisher, p.Number) >= maxCutOff {
		return // the owner has to look: perhaps the power can't stand it
	}
	if err := e.findOffer(ctx); err != nil {
		return
	}
	if o := e.offered(); p.Owner && o != nil && o.Number == p.Number && o.publisher == p.Record.Publisher {
		e.install(ctx, o, request{owner: true, now: p.Now, by: p.By})
	}
}

// back prepares the restart into the other slot's release.
func (e *engine) back(ctx context.Context, by string) {
	e.mu.Lock()
	prev := e.previous()
	rec := e.recs[other(e.running)]
	e.mu.Unlock()
	if prev == nil {
		return
	}
	if rec.Version != prev.Version || rec.Number != prev.Number {
		rec = slotRecord{Version: prev.Version, Number: prev.Number}
		if e.builtin != nil {
			rec.Publisher = e.builtin.fingerprint
		}
	}
	e.setState(api.UpdateVerifying, &api.UpdateProgress{Cancel: true})
	defer e.rest()
	p, err := e.begin(pending{
		Phase: phaseReady, Version: prev.Version, Number: prev.Number, From: e.release.Version, FromNo: e.release.Number,
		Back: true, Owner: true, Now: true, By: by, Record: rec, Slot: other(e.running), Ready: time.Now(),
	}, "", false)
	if err != nil {
		if p != nil {
			e.end(p.Attempt, api.UpdateFailed, causeOf(err), err.Error(), "")
		}
		return
	}
	cctx, done := e.cancellable(ctx)
	err = e.readBack(cctx, *p)
	if why := context.Cause(cctx); err != nil && why != nil {
		err = why
	}
	done()
	switch {
	case err == nil:
	case errors.Is(err, errCancelled):
		e.end(p.Attempt, api.UpdateCancelled, "", "", "")
	case ctx.Err() != nil:
	default:
		e.end(p.Attempt, api.UpdateFailed, causeOf(err), err.Error(), "")
	}
}

// readBack checks that the idle slot holds what is to be started, bit for bit where it is known what that is.
func (e *engine) readBack(ctx context.Context, p pending) error {
	s, err := e.slots(ctx)
	if err != nil {
		return err
	}
	m, err := e.open(ctx, s)
	if err != nil {
		return because("medium", err)
	}
	defer m.Close()
	st, err := m.Installed()
	if err != nil {
		return because("medium", err)
	}
	if !st.Complete || st.Version != p.Version || st.Number != p.Number || st.Slot != layout.Slot(p.Slot) {
		return because("read-back", fmt.Errorf("%w: slot %s has %q", slots.ErrIncomplete, p.Slot, st.Version))
	}
	if len(p.Record.Description) == 0 {
		return nil // a release of the factory: nobody told its hashes
	}
	r, err := release.Parse(p.Record.Description)
	if err != nil {
		return err
	}
	return m.Verify(ctx, r, func(done, total int64) {
		e.setState(api.UpdateVerifying, &api.UpdateProgress{Done: done, Total: total, Cancel: true})
	})
}
