package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/sandbox"
)

// Back-off between tries to start a service that failed, and what counts as a crash loop.
const (
	backoffFirst = 500 * time.Millisecond // doubled after each failure
	backoffMost  = 30 * time.Second
	crashCount   = 5 // failures within crashWindow are a crash loop
	crashWindow  = 10 * time.Minute
	crashRetry   = 5 * time.Minute        // between tries in a crash loop
	killWait     = 5 * time.Second        // for a killed service to be gone, when the box stops
	abortWait    = 2 * time.Second        // for a service to write its stacks after SIGABRT
	memoryTick   = 500 * time.Millisecond // between looks at the memory of a service that the kernel does not limit
)

// exitConfig is the exit code that says that a restart can't mend it: EX_CONFIG of sysexits.h.
const exitConfig = 78

// backend is the operating system as the state machine sees it.
type backend interface {
	// prepare makes directories and opens listeners before the first start. What fails for one service fails its
	// start, not prepare.
	prepare(ctx context.Context, units []*unit) error
	// start starts a service's process. Messages that it sends arrive on u.inbox.
	start(u *unit) (process, error)
	gaps() []api.Gap
	close()
}

// process is one started service with all its children.
type process interface {
	pid() int
	signal(syscall.Signal) // to the first process
	kill()                 // all of them
	done() <-chan exit     // receives once, when all have ended
	// anonymous returns the bytes of memory that only this service uses, for the supervisor to limit; watch is
	// false where the kernel does that.
	anonymous() (n int64, watch bool)
	footprint() int64 // bytes, for people: proportional set size
}

// exit is how a process ended.
type exit struct {
	code   int            // if it exited
	signal syscall.Signal // if it was killed
	memory bool           // by the kernel, for exceeding its memory limit
	err    error          // if it was never started
}

// unit is one service's state machine. Its goroutine runs run; others read state under the supervisor's lock.
type unit struct {
	decl          Service
	sup           *Supervisor
	after, before []*unit
	inbox         chan message
	again         chan struct{} // a restart is asked for
	ended         chan struct{} // closed when run returns

	// guarded by sup.mu
	state   api.Service
	since   time.Time // of state.State
	away    time.Time // when it last ceased to be running
	nextTry time.Time
	proc    process

	// of run's goroutine only
	failures []time.Time // within crashWindow
	streak   int         // failures since it was last ready for crashWindow
	crashing bool        // is in a crash loop
}

func newUnit(s *Supervisor, d Service) *unit {
	now := time.Now()
	return &unit{
		decl:  d,
		sup:   s,
		inbox: make(chan message, 8),
		again: make(chan struct{}, 1),
		ended: make(chan struct{}),
		state: api.Service{
			Name: d.Name, Title: d.Title, State: api.StateWaiting, Since: now, UID: d.UID, Critical: d.Critical, ForOthers: d.ForOthers,
			MemoryMax: d.Limits.Memory,
		},
		since: now,
		away:  now,
	}
}

// set changes the state under the lock, and wakes who waits for that.
func (u *unit) set(state string, also func(*api.Service)) {
	s := u.sup
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.state.State != state {
		if u.state.State == api.StateRunning {
			u.away = time.Now()
		}
		u.state.State = state
		u.since = time.Now()
		u.state.Since = u.since.UTC().Round(time.Millisecond)
		u.nextTry = time.Time{}
	}
	if also != nil {
		also(&u.state)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// run starts the service again and again until ctx ends or there is nothing more to try, and then until a restart
// is asked for.
func (u *unit) run(ctx context.Context) {
	defer close(u.ended)
	u.sup.mu.Lock()
	u.away = time.Now()
	u.sup.mu.Unlock()
	for u.waitDependencies(ctx) {
		end := u.once(ctx)
		if ctx.Err() != nil || !u.rest(ctx, end) {
			break
		}
		u.set(api.StateWaiting, func(st *api.Service) { st.Restarts++ })
	}
	u.set(api.StateStopped, func(st *api.Service) { st.Status = "" })
}

// waitDependencies returns true when each service to start after is ready, or has turned out not to become so:
// then starting shows more than waiting.
func (u *unit) waitDependencies(ctx context.Context) bool {
	for ctx.Err() == nil {
		s := u.sup
		s.mu.Lock()
		changed, wait := s.changed, false
		for _, dep := range u.after {
			switch dep.state.State {
			case api.StateWaiting, api.StateStarting, api.StateBackoff, api.StateStopping:
				wait = true
			}
		}
		s.mu.Unlock()
		if !wait {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return false
}

// stopTurn returns a channel that is closed when ctx has ended and everything that was started after this service
// has ended too.
func (u *unit) stopTurn(ctx, alive context.Context) <-chan struct{} {
	turn := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-alive.Done():
			return
		}
		for _, b := range u.before {
			select {
			case <-b.ended:
			case <-alive.Done():
				return
			}
		}
		close(turn)
	}()
	return turn
}

// once runs the service from its start to its end.
func (u *unit) once(ctx context.Context) (end ending) {
	var p process
	defer func() { // the end of PID 1 would be the end of the box
		if r := recover(); r != nil {
			u.sup.log.Error("panic in the supervisor", "service", u.decl.Name, "panic", r, "stack", string(debug.Stack()))
			if p != nil {
				p.kill()
			}
			end = ending{exit: exit{err: fmt.Errorf("error in the supervisor: %v", r)}}
		}
	}()
	select {
	case <-u.again: // is about to be followed
	default:
	}
	u.set(api.StateStarting, func(st *api.Service) { st.Status = ""; st.Confined = nil })
	var err error
	p, err = u.sup.backend.start(u)
	if err != nil {
		return ending{exit: exit{err: err}}
	}
	u.hold(p)
	defer u.hold(nil)
	alive, over := context.WithCancel(context.Background())
	defer over()
	turn := u.stopTurn(ctx, alive)

	r := u.newRun(p)
	defer r.disarm()
	r.log.Info("service started")
	for {
		select {
		case e := <-p.done():
			return r.ended(e)
		case m := <-u.inbox:
			r.hear(m)
		case <-r.ready.C:
			r.stop(fmt.Sprintf("not ready after %s", u.decl.ReadyTimeout), syscall.SIGABRT, abortWait)
		case <-r.watchdog.C:
			r.stop(fmt.Sprintf("no sign of life for %s", u.decl.Watchdog), syscall.SIGABRT, abortWait)
		case <-r.memory.C:
			r.watchMemory()
		case <-r.again:
			r.stop(askedFor, syscall.SIGTERM, u.decl.StopTimeout)
		case <-turn:
			turn = nil
			r.giveUp = time.After(u.decl.StopTimeout + killWait)
			r.stop("the box stops", syscall.SIGTERM, u.decl.StopTimeout)
		case <-r.kill:
			p.kill()
		case <-r.giveUp:
			r.log.Error("service can't be killed")
			return r.ended(exit{})
		}
	}
}

func (u *unit) hold(p process) {
	u.sup.mu.Lock()
	defer u.sup.mu.Unlock()
	u.proc, u.state.PID, u.state.Memory = p, 0, 0
	if p != nil {
		u.state.PID = p.pid()
	}
}

// take notes what a service says of itself.
func (u *unit) take(m message) {
	u.sup.mu.Lock()
	defer u.sup.mu.Unlock()
	if m.status != "" {
		u.state.Status = m.status
	}
	if len(m.confined) > 0 {
		var c api.Confined
		if json.Unmarshal(m.confined, &c) == nil {
			u.judge(&c)
			u.state.Confined = &c
		}
	}
}

// rest decides what follows the end of a process, and waits for it. It returns false if ctx ended.
func (u *unit) rest(ctx context.Context, end ending) bool {
	text, ok := describe(end, u.decl.Limits.Memory)
	log := u.sup.log.With("service", u.decl.Name, "exit", text)
	note := func(st *api.Service) { st.LastExit = text; st.Status = "" }
	if end.why == askedFor {
		u.forget()
		u.set(api.StateWaiting, note)
		log.Info("service ended")
		return true
	}

	state, wait := api.StateBackoff, time.Duration(-1) // negative for never
	known := u.crashing
	switch {
	case end.err == nil && end.code == exitConfig:
		state = api.StateFailed
	case ok && u.decl.Restart != RestartAlways:
		state = api.StateDone
	case u.decl.Restart == RestartNever:
		state = api.StateFailed
	default:
		state, wait = u.backoff(end.ran)
	}
	u.set(state, note)
	if state == api.StateDone {
		log.Info("service ended")
	} else {
		log.Warn("service ended", "state", state, "next_try_ms", max(wait, 0).Milliseconds())
	}
	if state != api.StateDone && !known { // each round of a crash loop would wear out the card
		if err := u.sup.journal.Sync(); err != nil {
			log.Warn("can't keep the log", "err", err)
		}
	}

	var next <-chan time.Time
	if wait >= 0 {
		u.sup.mu.Lock()
		u.nextTry = time.Now().Add(wait)
		u.sup.mu.Unlock()
		t := time.NewTimer(wait)
		defer t.Stop()
		next = t.C
	}
	select {
	case <-next:
		return true
	case <-u.again:
		u.forget()
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff counts a failure and says how long to wait before the next try. A crash loop is over when the service has
// run for crashWindow.
func (u *unit) backoff(ran time.Duration) (state string, wait time.Duration) {
	if ran > crashWindow {
		u.forget()
	}
	now := time.Now()
	for len(u.failures) > 0 && now.Sub(u.failures[0]) > crashWindow {
		u.failures = u.failures[1:]
	}
	u.failures = append(u.failures, now)
	u.streak++
	u.crashing = u.crashing || len(u.failures) >= crashCount
	state, wait = api.StateBackoff, min(backoffFirst<<min(u.streak-1, 10), backoffMost)
	if u.crashing {
		state, wait = api.StateCrashing, crashRetry
	}
	return state, time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

// forget makes the next failure count as the first.
func (u *unit) forget() { u.failures, u.streak, u.crashing = nil, 0, false }

// describe says in words how a process ended, and whether it ended well.
func describe(end ending, memoryMax int64) (text string, ok bool) {
	switch {
	case end.err != nil:
		return end.err.Error(), false
	case end.memory:
		return "killed: " + overMemory(memoryMax), false
	case end.why == askedFor:
		return "stopped: " + end.why, false
	case end.why != "" && end.why != itStopped:
		return "killed: " + end.why, false
	case end.signal != 0:
		return "killed: " + end.signal.String(), false
	case end.code == sandbox.ExitFailed:
		return "could not enter its sandbox", false
	case end.code != 0:
		return fmt.Sprintf("exit status %d", end.code), false
	default:
		return "exit status 0", true
	}
}
