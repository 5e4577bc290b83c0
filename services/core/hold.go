package core

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
)

// Who holds off the restart into an update, so that it cuts off nothing that somebody waits for. Starting over restarts the box by
// itself, and a change of the configuration is whole or not there at all: neither needs it.
const (
	holdDiagnosis = "diagnosis" // being downloaded
	holdUpload    = "upload"
	holdNetwork   = "network-trial" // as an import of the configuration begins one, too
	holdRescue    = "rescue"        // a check, or making the data partition anew
)

const (
	holdFor   = time.Minute // without a word from here: core may end before what it holds for
	holdAgain = 20 * time.Second
	holdSpare = 5 * time.Second // for the network service to go back
)

// hold holds off the restart into an update until end is called.
func (s *server) hold(who string) (end func()) {
	s.lease(s.ctx, who, holdFor)
	ctx, cancel := context.WithCancel(s.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(holdAgain)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				s.lease(ctx, who, holdFor)
			}
		}
	})
	return func() {
		cancel()
		wg.Wait() // or a lease could come after its end
		s.lease(s.ctx, who, 0)
	}
}

// lease holds off the restart into an update for so long, or no longer. Without the updater there is nothing to hold off.
func (s *server) lease(ctx context.Context, who string, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := s.askUpdater(ctx, http.MethodPost, "/v1/busy", api.UpdateBusy{Who: who, ForMS: d.Milliseconds()}); err != nil {
		s.log.Debug("the updater was not told of what it must not cut off", "who", who, "err", err)
	}
}

// holdNetworkTrial does so while a change of the network waits to be kept.
func (s *server) holdNetworkTrial(ctx context.Context, t *api.Trial) {
	if t != nil {
		s.lease(context.WithoutCancel(ctx), holdNetwork, time.Duration(t.LeftMS)*time.Millisecond+holdSpare)
	}
}

// holdWhileRescuing does so while PID 1 works on the data partition.
func (s *server) holdWhileRescuing() {
	if !s.rescuing.TryLock() {
		return // it is watched already
	}
	go func() {
		defer s.rescuing.Unlock()
		defer s.hold(holdRescue)()
		t := time.NewTicker(pollEvery)
		defer t.Stop()
		for {
			select {
			case <-s.ctx.Done():
				return
			case <-t.C:
			}
			if b, err := s.box.get(); err == nil && (b.System.Rescue == nil || b.System.Rescue.Busy == "") {
				return
			}
		}
	}()
}
