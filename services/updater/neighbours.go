package updater

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

const (
	framesAfter = 10 * time.Minute // after the start, when the box has nothing better to do
	framesEvery = time.Hour
)

// helpNeighbours sees to it, until ctx ends, that neighbours can have the running release from this box, whatever they run: one that
// came as a patch left no frames behind, so they are made of the parts themselves. The fetcher does that, as slowly as it likes.
// It works beside the loop, only reads the running slot, and takes nothing from what the loop does.
func (e *engine) helpNeighbours(ctx context.Context) {
	hopeless := map[string]bool{} // blobs that another encoder made
	for sleep(ctx, framesAfter); ctx.Err() == nil; sleep(ctx, framesEvery) {
		if err := e.makeFrames(ctx, hopeless); err != nil && ctx.Err() == nil {
			e.log.Info("the running release can't be passed on to neighbours in full", "err", err)
		}
	}
}

// makeFrames makes what is missing.
func (e *engine) makeFrames(ctx context.Context, hopeless map[string]bool) error {
	e.mu.Lock()
	rec, ok := e.runningRecord()
	ok = ok && len(rec.Description) > 0 && !e.set.Policy.Alone && e.state == api.UpdateIdle
	e.mu.Unlock()
	if !ok {
		return nil
	}
	s, err := e.slots(ctx)
	if err != nil || s.Rescue || s.Trial || s.Running != s.Committed {
		return err
	}
	r, err := release.Parse(rec.Description)
	if err != nil {
		return err
	}
	m, err := e.open(ctx, s)
	if err != nil {
		return err
	}
	defer m.Close()
	for _, name := range []string{slots.PartRoot, slots.PartBoot} {
		p := partOf(r, name)
		if hopeless[p.Frames.Blob] {
			continue
		}
		if has, err := e.fetch.Has(ctx, p.Frames.Blob); err != nil {
			return err
		} else if has {
			continue
		}
		base, size, err := m.Base(name)
		if err != nil {
			return err
		}
		if size < p.Size {
			return slots.ErrIncomplete
		}
		want := fetcher.Want{Blob: p.Frames.Blob, Size: p.Frames.Size, Frames: p.Frames.List}
		err = e.fetch.Frames(ctx, want, io.NewSectionReader(base, 0, p.Size))
		if f, ok := errors.AsType[*fetcher.Error](err); ok && f.Status == http.StatusUnprocessableEntity {
			hopeless[p.Frames.Blob] = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}
