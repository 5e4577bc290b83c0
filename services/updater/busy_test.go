package updater

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/services/api"
)

// TestBusyAtNight: a restart by itself that is due waits for what must not be cut off, which tells so again and again as core does, and
// goes on once that is over.
func TestBusyAtNight(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[1])
	play(t, s, func(t *testing.T) {
		s.await("start", time.Minute, idle)
		s.policy(api.UpdatePolicy{From: "00:00", To: "23:59"}) // it is due as soon as it is ready
		lease := func(d time.Duration) {
			if code := s.ask("POST", "/v1/busy", api.UpdateBusy{Who: "upload", ForMS: d.Milliseconds()}); code != 204 {
				t.Fatalf("lease: %d", code)
			}
		}
		began := time.Now()
		for busy := false; time.Since(began) < 2*time.Hour; time.Sleep(20 * time.Second) {
			synctest.Wait()
			lease(time.Minute)
			if u, up := s.view(); s.boots != 1 || !up {
				t.Fatal("it restarted all the same")
			} else if busy = busy || u.State == api.UpdateReady && u.Last.Cause == "busy"; !busy && time.Since(began) > time.Hour {
				t.Fatalf("it is not ready, or does not say what it waits for: %+v", u)
			}
		}
		lease(0)
		s.await("the new release", 10*time.Minute, runs(2))
	})
}
