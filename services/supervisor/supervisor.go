package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/journal"
	"github.com/croft-os/croft/services/supervisor/sandbox"
)

// Options say what a Supervisor runs and where.
type Options struct {
	Services   []Service
	Log        *slog.Logger
	Journal    *journal.Journal // takes the output of the services; nil means a new one in memory
	StateRoot  string           // holds the state directories: /data/state, or a tmpfs in rescue mode
	RunDir     string           // holds sockets and runtime directories: /run/croft
	CgroupRoot string           // cgroup v2: /sys/fs/cgroup; "" means no cgroups
	Launcher   []string         // argv of a program that calls sandbox.Main: {"/gokrazy/init", "launch"}
	Hostname   func() string    // as services see it from their start on; nil means "croft"
}

// Supervisor runs services.
type Supervisor struct {
	log     *slog.Logger
	journal *journal.Journal
	backend backend
	units   []*unit // in the order of declaration
	byName  map[string]*unit

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when a unit changes its state
	stopped bool
	sampled time.Time // when the units' memory was last measured
}

// New checks the declarations: each by itself, unique names and uids, known dependencies, no cycles.
func New(o Options) (*Supervisor, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Journal == nil {
		o.Journal = journal.New()
	}
	if o.Hostname == nil {
		o.Hostname = func() string { return "croft" }
	}
	l, err := newLauncher(o)
	if err != nil {
		return nil, err
	}
	return newSupervisor(o, l)
}

func newSupervisor(o Options, b backend) (*Supervisor, error) {
	s := &Supervisor{
		log:     o.Log,
		journal: o.Journal,
		backend: b,
		byName:  map[string]*unit{},
		changed: make(chan struct{}),
	}
	uids := map[uint32]string{}
	for _, d := range o.Services {
		if err := d.Validate(); err != nil {
			return nil, err
		}
		if err := checkGrants(d); err != nil {
			return nil, err
		}
		d = d.WithDefaults()
		if s.byName[d.Name] != nil {
			return nil, fmt.Errorf("service %s: declared twice", d.Name)
		}
		if other := uids[d.UID]; other != "" {
			return nil, fmt.Errorf("service %s: has the uid of %s", d.Name, other)
		}
		uids[d.UID] = d.Name
		u := newUnit(s, d)
		s.units = append(s.units, u)
		s.byName[d.Name] = u
	}
	for _, u := range s.units {
		for _, name := range u.decl.After {
			dep := s.byName[name]
			if dep == nil {
				return nil, fmt.Errorf("service %s: is to start after %q, which is not declared", u.decl.Name, name)
			}
			u.after = append(u.after, dep)
			dep.before = append(dep.before, u)
		}
	}
	return s, s.findCycle()
}

func checkGrants(d Service) error {
	for _, c := range d.Capabilities {
		if !sandbox.ValidCapability(c) {
			return fmt.Errorf("service %s: unknown capability %q", d.Name, c)
		}
	}
	for _, c := range d.Syscalls {
		if !sandbox.ValidSyscall(c) {
			return fmt.Errorf("service %s: unknown system call %q", d.Name, c)
		}
	}
	return nil
}

// findCycle takes away services that depend on nothing that is left, until none is left or all that are wait for
// one another.
func (s *Supervisor) findCycle() error {
	left := map[*unit]bool{}
	for _, u := range s.units {
		left[u] = true
	}
	for len(left) > 0 {
		var free, bound *unit
		for _, u := range s.units {
			if !left[u] {
				continue
			}
			waits := false
			for _, dep := range u.after {
				waits = waits || left[dep]
			}
			if waits {
				bound = u
			} else {
				free = u
			}
		}
		if free == nil {
			return fmt.Errorf("service %s: depends on itself, by way of others", bound.decl.Name)
		}
		delete(left, free)
	}
	return nil
}

// Run starts all services and keeps them running until ctx ends, then stops them in the reverse order of their
// dependencies, and returns when all have ended. It can be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.backend.prepare(ctx, s.units); err != nil {
		return err
	}
	defer s.backend.close()
	var wg sync.WaitGroup
	for _, u := range s.units {
		wg.Go(func() { u.run(ctx) })
	}
	wg.Wait()
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	return s.journal.Sync()
}

// Services returns the state of all services in the order of their declaration.
func (s *Supervisor) Services() []api.Service {
	s.sampleMemory()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]api.Service, 0, len(s.units))
	for _, u := range s.units {
		st := u.state
		if !u.nextTry.IsZero() {
			st.NextTryMS = max(time.Until(u.nextTry).Milliseconds(), 0)
		}
		st.SinceMS = time.Since(u.since).Milliseconds()
		out = append(out, st)
	}
	return out
}

// memoryEvery is the shortest time between two measurements of memory for Services: the kernel walks the page
// tables for each.
const memoryEvery = 5 * time.Second

func (s *Supervisor) sampleMemory() {
	s.mu.Lock()
	if time.Since(s.sampled) < memoryEvery {
		s.mu.Unlock()
		return
	}
	s.sampled = time.Now()
	procs := map[*unit]process{}
	for _, u := range s.units {
		if u.proc != nil {
			procs[u] = u.proc
		}
	}
	s.mu.Unlock()
	for u, p := range procs {
		size := p.footprint()
		s.mu.Lock()
		if u.proc == p {
			u.state.Memory = size
		}
		s.mu.Unlock()
	}
}

// ErrUnknown is returned for the name of a service that is not declared.
var ErrUnknown = errors.New("no such service")

// Restart stops a service and starts it again, also one that had been given up on. It returns before that is done.
func (s *Supervisor) Restart(name string) error {
	u := s.byName[name]
	if u == nil {
		return fmt.Errorf("restart %q: %w", name, ErrUnknown)
	}
	select {
	case u.again <- struct{}{}:
	default: // asked for already
	}
	return nil
}

// Healthy returns nil while every critical service is running and answers its watchdog. A service that starts or
// restarts counts as healthy for as long as it may take to become ready, and healthGrace more.
func (s *Supervisor) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("services have been stopped")
	}
	var errs []error
	for _, u := range s.units {
		if !u.decl.Critical || u.state.State == api.StateRunning {
			continue
		}
		if away := time.Since(u.away); away > u.decl.ReadyTimeout+healthGrace {
			errs = append(errs, fmt.Errorf("service %s: %s, has not run for %s (%s)", u.decl.Name, u.state.State,
				away.Round(time.Second), u.state.LastExit))
		}
	}
	return errors.Join(errs...)
}

// healthGrace covers the back-off between a few tries.
const healthGrace = 30 * time.Second

// Gaps returns what the running kernel can't enforce, found by trying; nothing before Run
// has started.
func (s *Supervisor) Gaps() []api.Gap { return s.backend.gaps() }
