package supervisor

import (
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/croft-os/croft/services/api"
)

// run is what unit.once knows of one process of a service.
type run struct {
	u       *unit
	p       process
	log     *slog.Logger
	readyAt time.Time // zero until it is
	why     string    // the end was asked for, and why

	ready    *time.Timer
	watchdog *time.Timer
	memory   *time.Ticker
	again    <-chan struct{}  // nil when the end was asked for
	kill     <-chan time.Time // nil until the end was asked for
	giveUp   <-chan time.Time // nil until the box stops
}

// ending is how a run ended.
type ending struct {
	exit
	why string        // says why the supervisor ended it, if it did not end by itself
	ran time.Duration // for how long it had been ready
}

// Reasons for an ending.
const (
	askedFor  = "a restart was asked for"
	itStopped = "it said that it stops"
)

func overMemory(limit int64) string { return fmt.Sprintf("memory limit %d MB", limit>>20) }

func (u *unit) newRun(p process) *run {
	r := &run{
		u:        u,
		p:        p,
		log:      u.sup.log.With("service", u.decl.Name, "pid", p.pid()),
		ready:    time.NewTimer(u.decl.ReadyTimeout),
		watchdog: time.NewTimer(time.Hour),
		memory:   time.NewTicker(memoryTick),
		again:    u.again,
	}
	r.watchdog.Stop() // until it is ready
	return r
}

func (r *run) disarm() {
	r.ready.Stop()
	r.watchdog.Stop()
	r.memory.Stop()
}

// stop asks for the end once, and sees to it that it comes.
func (r *run) stop(reason string, sig syscall.Signal, patience time.Duration) {
	if r.why != "" {
		return
	}
	r.why = reason
	r.disarm()
	r.again = nil
	r.u.set(api.StateStopping, nil)
	r.kill = time.After(patience)
	r.p.signal(sig)
}

// hear follows a message if it is of this run's first process.
func (r *run) hear(m message) {
	if m.pid != r.p.pid() || m.uid != r.u.decl.UID {
		return
	}
	r.u.take(m)
	if r.why != "" {
		return
	}
	if m.ready && r.readyAt.IsZero() {
		r.readyAt = time.Now()
		r.ready.Stop()
		r.u.set(api.StateRunning, nil)
		r.log.Info("service ready")
	}
	if (m.ready || m.watchdog) && r.u.decl.Watchdog > 0 && !r.readyAt.IsZero() {
		r.watchdog.Reset(r.u.decl.Watchdog)
	}
	if m.stopping {
		r.stop(itStopped, 0, r.u.decl.StopTimeout)
	}
}

func (r *run) watchMemory() {
	limit := r.u.decl.Limits.Memory
	if n, watch := r.p.anonymous(); !watch {
		r.memory.Stop()
	} else if n > limit {
		r.stop(overMemory(limit), syscall.SIGKILL, 0)
	}
}

func (r *run) ended(e exit) ending {
	end := ending{exit: e, why: r.why}
	if !r.readyAt.IsZero() {
		end.ran = time.Since(r.readyAt)
	}
	return end
}
