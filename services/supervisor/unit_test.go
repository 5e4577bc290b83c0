package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/journal"
)

// fake is a backend whose processes are functions. It notes what happens.
type fake struct {
	scripts map[string]func(p *fakeProcess)

	mu     sync.Mutex
	events []string
	starts map[string][]time.Time
	pids   int
	memory map[string]int64
}

func (f *fake) note(format string, a ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, fmt.Sprintf(format, a...))
}

func (f *fake) prepare(context.Context, []*unit) error { return nil }
func (f *fake) gaps() []api.Gap                        { return nil }
func (f *fake) close()                                 {}

func (f *fake) start(u *unit) (process, error) {
	f.mu.Lock()
	f.pids++
	p := &fakeProcess{
		f: f, u: u, id: f.pids, round: len(f.starts[u.decl.Name]) + 1, ended: make(chan exit, 1),
		signals: make(chan syscall.Signal, 10), killed: make(chan struct{}),
	}
	f.starts[u.decl.Name] = append(f.starts[u.decl.Name], time.Now())
	script := f.scripts[u.decl.Name]
	f.mu.Unlock()
	if script == nil {
		script = (*fakeProcess).good
	}
	if p.round == 1 {
		f.note("start %s", u.decl.Name)
	}
	if err := p.refuse(script); err != nil {
		return nil, err
	}
	return p, nil
}

// fakeProcess is one run of a fake service, the round-th.
type fakeProcess struct {
	f       *fake
	u       *unit
	id      int
	round   int
	ended   chan exit
	signals chan syscall.Signal
	killed  chan struct{}
	once    sync.Once
	stuck   bool
}

// refuse runs the script in a goroutine of its own, unless it wants the start to fail.
func (p *fakeProcess) refuse(script func(*fakeProcess)) error {
	errs := make(chan error)
	go func() {
		defer func() {
			if err, ok := recover().(error); ok {
				errs <- err
			}
		}()
		if p.u.decl.Title != "refused" {
			errs <- nil
		}
		script(p)
	}()
	return <-errs
}

func (p *fakeProcess) pid() int          { return p.id }
func (p *fakeProcess) done() <-chan exit { return p.ended }
func (p *fakeProcess) signal(s syscall.Signal) {
	if s != 0 {
		p.f.note("%v %s", s, p.u.decl.Name)
	}
	p.signals <- s
}

func (p *fakeProcess) kill() {
	p.f.note("kill %s", p.u.decl.Name)
	p.once.Do(func() { close(p.killed) })
	if !p.stuck {
		p.exit(exit{signal: syscall.SIGKILL})
	}
}

func (p *fakeProcess) anonymous() (int64, bool) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	n, ok := p.f.memory[p.u.decl.Name]
	if n < 0 {
		panic("a bug")
	}
	return n, ok
}
func (p *fakeProcess) footprint() int64 { return 1234 }

func (p *fakeProcess) exit(e exit) {
	select {
	case p.ended <- e:
	default:
	}
}

func (p *fakeProcess) say(text string) {
	m := parseMessage([]byte(text))
	m.pid, m.uid = p.id, p.u.decl.UID
	select {
	case p.u.inbox <- m:
	case <-p.killed:
	}
}

// term waits for SIGTERM and exits.
func (p *fakeProcess) term() {
	for {
		select {
		case s := <-p.signals:
			if s == syscall.SIGTERM {
				p.exit(exit{})
				return
			}
		case <-p.killed:
			return
		}
	}
}

// good is ready after a second, and runs until SIGTERM.
func (p *fakeProcess) good() {
	time.Sleep(time.Second)
	p.say("READY=1\nSTATUS=fine")
	p.f.note("ready %s", p.u.decl.Name)
	p.term()
}

func fails(code int) func(*fakeProcess) {
	return func(p *fakeProcess) { time.Sleep(time.Second); p.exit(exit{code: code}) }
}

// lab runs a supervisor over fakes.
type lab struct {
	*Supervisor
	*fake
	t    *testing.T
	stop func()
}

func declare(name string, after ...string) Service {
	return Service{Name: name, Command: []string{"/bin/" + name}, UID: uint32(1000 + len(name)*100 + int(name[0])), After: after}
}

func runLab(t *testing.T, scripts map[string]func(*fakeProcess), services ...Service) *lab {
	t.Helper()
	f := &fake{scripts: scripts, starts: map[string][]time.Time{}, memory: map[string]int64{}}
	s, err := newSupervisor(Options{Services: services, Log: slog.New(slog.DiscardHandler), Journal: journal.New()}, f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &lab{s, f, t, stop}
}

func (l *lab) state(name string) api.Service {
	for _, s := range l.Services() {
		if s.Name == name {
			return s
		}
	}
	l.t.Fatalf("no service %s", name)
	return api.Service{}
}

func (l *lab) want(name, state, exit string) api.Service {
	l.t.Helper()
	synctest.Wait()
	s := l.state(name)
	if s.State != state || s.LastExit != exit {
		l.t.Errorf("%s is %s (%q), want %s (%q)", name, s.State, s.LastExit, state, exit)
	}
	return s
}

func (l *lab) log() string {
	l.fake.mu.Lock()
	defer l.fake.mu.Unlock()
	return strings.Join(l.events, ", ")
}

func (l *lab) count(name string) int {
	l.fake.mu.Lock()
	defer l.fake.mu.Unlock()
	return len(l.starts[name])
}

// inBubble runs a test under a fake clock.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestStateMachine(t *testing.T) {
	inBubble(t, "starts in order and stops in reverse", func(t *testing.T) {
		l := runLab(t, nil, declare("web", "core"), declare("core", "net"), declare("net"), declare("x"))
		time.Sleep(500 * time.Millisecond)
		l.want("core", api.StateWaiting, "")
		l.want("net", api.StateStarting, "")
		time.Sleep(10 * time.Second)
		s := l.want("web", api.StateRunning, "")
		if s.Status != "fine" || s.PID == 0 || s.Memory != 1234 || s.SinceMS < 7000 {
			t.Errorf("%+v", s)
		}
		l.stop()
		got := strings.ReplaceAll(strings.ReplaceAll(l.log(), ", start x", ""), ", ready x", "")
		got = strings.ReplaceAll(strings.ReplaceAll(got, ", terminated x", ""), "start x, ", "")
		want := "start net, ready net, start core, ready core, start web, ready web, " +
			"terminated web, terminated core, terminated net"
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		l.want("web", api.StateStopped, "")
		if l.Healthy() == nil {
			t.Error("healthy after the end")
		}
	})

	inBubble(t, "a dependency that does not become ready does not block for ever", func(t *testing.T) {
		l := runLab(t, map[string]func(*fakeProcess){"bad": fails(1), "conf": fails(exitConfig)},
			declare("bad"), declare("conf"), declare("first", "bad"), declare("second", "conf"))
		defer l.stop()
		time.Sleep(5 * time.Second)
		l.want("first", api.StateWaiting, "")
		l.want("second", api.StateRunning, "")
		time.Sleep(time.Minute)
		l.want("first", api.StateRunning, "")
	})

	inBubble(t, "backs off, then is in a crash loop, then recovers", func(t *testing.T) {
		script := func(p *fakeProcess) {
			if p.round <= 7 {
				fails(3)(p)
			} else {
				p.good()
			}
		}
		l := runLab(t, map[string]func(*fakeProcess){"bad": script}, declare("bad"), declare("good"))
		defer l.stop()
		time.Sleep(30 * time.Second)
		s := l.want("bad", api.StateCrashing, "exit status 3")
		if s.Restarts != 4 || s.NextTryMS < 200_000 || s.NextTryMS > 360_000 {
			t.Errorf("%+v", s)
		}
		l.want("good", api.StateRunning, "")
		time.Sleep(20 * time.Minute)
		l.want("bad", api.StateRunning, "exit status 3")
		for i, want := range []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, crashRetry, crashRetry, crashRetry} {
			if i == 0 {
				continue
			}
			if got := l.starts["bad"][i].Sub(l.starts["bad"][i-1]) - time.Second; got < want*8/10 || got > want*12/10 {
				t.Errorf("wait %d: %s, want about %s", i, got, want)
			}
		}
	})

	inBubble(t, "does not restart what a restart can't mend, unless asked", func(t *testing.T) {
		l := runLab(t, map[string]func(*fakeProcess){"a": fails(exitConfig)}, declare("a"))
		defer l.stop()
		time.Sleep(time.Hour)
		l.want("a", api.StateFailed, "exit status 78")
		if err := l.Restart("a"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		l.want("a", api.StateFailed, "exit status 78")
		if n := l.count("a"); n != 2 {
			t.Errorf("started %d times", n)
		}
		if err := l.Restart("b"); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
	})

	for _, tc := range []struct {
		policy Restart
		code   int
		state  string
		exit   string
		starts bool // more than once
	}{
		{RestartAlways, 0, api.StateCrashing, "exit status 0", true},
		{RestartAlways, 1, api.StateCrashing, "exit status 1", true},
		{RestartOnFailure, 0, api.StateDone, "exit status 0", false},
		{RestartOnFailure, 1, api.StateCrashing, "exit status 1", true},
		{RestartNever, 0, api.StateDone, "exit status 0", false},
		{RestartNever, 1, api.StateFailed, "exit status 1", false},
	} {
		inBubble(t, fmt.Sprintf("policy %d, exit status %d", tc.policy, tc.code), func(t *testing.T) {
			s := declare("a")
			s.Restart = tc.policy
			l := runLab(t, map[string]func(*fakeProcess){"a": fails(tc.code)}, s)
			defer l.stop()
			time.Sleep(time.Minute)
			l.want("a", tc.state, tc.exit)
			if n := l.count("a"); n > 1 != tc.starts {
				t.Errorf("started %d times", n)
			}
		})
	}

	inBubble(t, "ends what is not ready in time", func(t *testing.T) {
		s := declare("a")
		s.ReadyTimeout = 10 * time.Second
		l := runLab(t, map[string]func(*fakeProcess){"a": func(p *fakeProcess) { <-p.killed }}, s)
		defer l.stop()
		time.Sleep(11 * time.Second)
		l.want("a", api.StateStopping, "")
		time.Sleep(1100 * time.Millisecond)
		l.want("a", api.StateBackoff, "killed: not ready after 10s")
		if got := l.log(); got != "start a, aborted a, kill a" {
			t.Error(got)
		}
	})

	inBubble(t, "ends what falls silent", func(t *testing.T) {
		s := declare("a")
		s.Watchdog = 10 * time.Second
		script := func(p *fakeProcess) {
			p.say("READY=1")
			for range 5 {
				time.Sleep(9 * time.Second)
				p.say("WATCHDOG=1")
			}
			for s := range p.signals {
				if s == syscall.SIGABRT {
					p.exit(exit{code: 2})
					return
				}
			}
		}
		l := runLab(t, map[string]func(*fakeProcess){"a": script}, s)
		defer l.stop()
		time.Sleep(54 * time.Second)
		l.want("a", api.StateRunning, "")
		time.Sleep(1100 * time.Millisecond)
		l.want("a", api.StateBackoff, "killed: no sign of life for 10s")
	})

	inBubble(t, "ends what uses too much memory", func(t *testing.T) {
		l := runLab(t, nil, declare("a"))
		defer l.stop()
		time.Sleep(10 * time.Second)
		l.fake.mu.Lock()
		l.memory["a"] = 64 << 20
		l.fake.mu.Unlock()
		time.Sleep(10 * time.Second)
		l.want("a", api.StateRunning, "") // not watched: the first look said that the kernel limits it
	})
	inBubble(t, "watches memory where the kernel does not", func(t *testing.T) {
		l := runLab(t, nil, declare("a"))
		defer l.stop()
		l.fake.mu.Lock()
		l.memory["a"] = 64 << 20
		l.fake.mu.Unlock()
		time.Sleep(10 * time.Second)
		l.want("a", api.StateRunning, "")
		l.fake.mu.Lock()
		l.memory["a"]++
		l.fake.mu.Unlock()
		time.Sleep(600 * time.Millisecond)
		l.want("a", api.StateBackoff, "killed: memory limit 64 MB")
	})

	inBubble(t, "outlives an error of its own", func(t *testing.T) {
		l := runLab(t, nil, declare("a"), declare("b"))
		defer l.stop()
		l.fake.mu.Lock()
		l.memory["a"] = -1
		l.fake.mu.Unlock()
		time.Sleep(700 * time.Millisecond)
		l.want("a", api.StateBackoff, "error in the supervisor: a bug")
		l.fake.mu.Lock()
		l.memory["a"] = 1
		l.fake.mu.Unlock()
		time.Sleep(10 * time.Second)
		l.want("a", api.StateRunning, "error in the supervisor: a bug")
		l.want("b", api.StateRunning, "")
	})

	inBubble(t, "stops with deadlines", func(t *testing.T) {
		stuck := func(p *fakeProcess) { p.stuck = true; p.say("READY=1"); <-p.killed }
		deaf := func(p *fakeProcess) { p.say("READY=1"); <-p.killed }
		slow := declare("deaf", "stuck")
		slow.StopTimeout = 20 * time.Second
		l := runLab(t, map[string]func(*fakeProcess){"stuck": stuck, "deaf": deaf}, declare("stuck"), slow)
		time.Sleep(10 * time.Second)
		begin := time.Now()
		l.stop()
		if d := time.Since(begin); d != 20*time.Second+5*time.Second+killWait {
			t.Errorf("took %s", d)
		}
	})

	inBubble(t, "stops what waits and what starts", func(t *testing.T) {
		never := func(p *fakeProcess) { p.term() }
		l := runLab(t, map[string]func(*fakeProcess){"a": never, "bad": fails(1)}, declare("a"), declare("b", "a"), declare("bad"))
		time.Sleep(20 * time.Second)
		begin := time.Now()
		l.stop()
		if d := time.Since(begin); d != 0 {
			t.Errorf("took %s", d)
		}
	})

	inBubble(t, "hears only the service's own process", func(t *testing.T) {
		script := func(p *fakeProcess) {
			for _, m := range []message{{pid: p.id + 1, uid: p.u.decl.UID, ready: true}, {pid: p.id, uid: 0, ready: true}} {
				p.u.inbox <- m
			}
			p.term()
		}
		l := runLab(t, map[string]func(*fakeProcess){"a": script}, declare("a"))
		defer l.stop()
		time.Sleep(10 * time.Second)
		l.want("a", api.StateStarting, "")
	})

	inBubble(t, "a restart leaves dependents running", func(t *testing.T) {
		l := runLab(t, nil, declare("a"), declare("b", "a"))
		defer l.stop()
		time.Sleep(10 * time.Second)
		if err := errors.Join(l.Restart("a"), l.Restart("a"), l.Restart("a")); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		l.want("a", api.StateRunning, "stopped: a restart was asked for")
		if a, b := l.count("a"), l.count("b"); a != 2 || b != 1 {
			t.Errorf("a started %d times, b %d times", a, b)
		}
	})

	inBubble(t, "a service that says that it stops is not stopped again", func(t *testing.T) {
		s := declare("a")
		s.Restart = RestartOnFailure
		script := func(p *fakeProcess) {
			p.say("READY=1")
			p.say("STOPPING=1\nSTATUS=bye")
			time.Sleep(2 * time.Second)
			p.exit(exit{})
		}
		l := runLab(t, map[string]func(*fakeProcess){"a": script}, s)
		defer l.stop()
		time.Sleep(time.Second)
		l.want("a", api.StateStopping, "")
		time.Sleep(10 * time.Second)
		l.want("a", api.StateDone, "exit status 0")
	})

	inBubble(t, "a start that fails is tried again", func(t *testing.T) {
		s := declare("a")
		s.Title = "refused"
		script := func(p *fakeProcess) {
			panic(errors.New("can't listen on :80: address already in use"))
		}
		l := runLab(t, map[string]func(*fakeProcess){"a": script}, s, declare("b"))
		defer l.stop()
		time.Sleep(3 * time.Second)
		l.want("a", api.StateBackoff, "can't listen on :80: address already in use")
		time.Sleep(time.Minute)
		l.want("a", api.StateCrashing, "can't listen on :80: address already in use")
		l.want("b", api.StateRunning, "")
	})

	inBubble(t, "health is that of the critical services", func(t *testing.T) {
		a, b := declare("a"), declare("b")
		a.Critical = true
		script := func(p *fakeProcess) {
			if p.round == 1 {
				p.say("READY=1")
				time.Sleep(time.Minute)
			}
			p.exit(exit{code: 1})
		}
		l := runLab(t, map[string]func(*fakeProcess){"a": script, "b": fails(exitConfig)}, a, b)
		defer l.stop()
		time.Sleep(30 * time.Second)
		if err := l.Healthy(); err != nil {
			t.Error(err)
		}
		time.Sleep(30*time.Second + a.WithDefaults().ReadyTimeout + healthGrace - time.Second)
		if err := l.Healthy(); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if err := l.Healthy(); err == nil || !strings.Contains(err.Error(), "service a: ") {
			t.Error(err)
		}
	})
}

func TestConfinedIsJudged(t *testing.T) {
	for _, tc := range []struct {
		name, report string
		grant        func(*Service)
		ok           bool
		granted      []string
	}{
		{"all held", `{"probes":[{"name":"write-root","held":true}]}`, nil, true, nil},
		{"nothing tried", `{"ok":true,"probes":[]}`, nil, false, nil},
		{"an escape", `{"ok":true,"probes":[{"name":"write-root"},{"name":"mount","held":true}]}`, nil, false, nil},
		{"not granted", `{"probes":[{"name":"raw-socket"}]}`, nil, false, nil},
		{"granted", `{"probes":[{"name":"raw-socket"},{"name":"network"},{"name":"set-clock"}]}`, func(s *Service) {
			s.Network, s.Capabilities = NetHost, []string{"CAP_NET_RAW", "CAP_SYS_TIME"}
		}, true, []string{"raw-socket", "network", "set-clock"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := declare("a")
			if tc.grant != nil {
				tc.grant(&d)
			}
			s, err := newSupervisor(Options{Services: []Service{d}, Log: slog.New(slog.DiscardHandler)}, &fake{})
			if err != nil {
				t.Fatal(err)
			}
			u := s.units[0]
			u.take(parseMessage([]byte("X_CONFINED=" + tc.report)))
			c := u.state.Confined
			if c == nil || c.OK != tc.ok {
				t.Fatalf("%+v", c)
			}
			var granted []string
			for _, p := range c.Probes {
				if p.Granted {
					granted = append(granted, p.Name)
				}
			}
			if !slices.Equal(granted, tc.granted) {
				t.Errorf("granted %v", granted)
			}
		})
	}
}

func TestDeclarations(t *testing.T) {
	with := func(change func(*Service)) []Service {
		s := declare("a")
		change(&s)
		return []Service{s}
	}
	for _, tc := range []struct {
		name     string
		services []Service
		err      string
	}{
		{"fine", []Service{declare("a"), declare("b", "a"), declare("c", "a", "b")}, ""},
		{"twice", []Service{declare("a"), declare("a")}, "declared twice"},
		{"same uid", append(with(func(s *Service) { s.UID = 7 }), Service{Name: "b", Command: []string{"/b"}, UID: 7}), "has the uid of a"},
		{"unknown dependency", []Service{declare("a", "b")}, "not declared"},
		{"itself", []Service{declare("a", "a")}, "depends on itself"},
		{"cycle", []Service{declare("x"), declare("a", "c", "x"), declare("b", "a"), declare("c", "b")}, "depends on itself"},
		{"root", with(func(s *Service) { s.UID = 0 }), "uid of its own"},
		{"name", with(func(s *Service) { s.Name = "../a" }), "bad name"},
		{"relative command", with(func(s *Service) { s.Command = []string{"a"} }), "absolute path"},
		{"unclean command", with(func(s *Service) { s.Command = []string{"/a/../b"} }), "absolute path"},
		{"capability", with(func(s *Service) { s.Capabilities = []string{"CAP_ALL"} }), "unknown capability"},
		{"system call", with(func(s *Service) { s.Syscalls = []string{"nonsense"} }), "unknown system call"},
		{"everything to read", with(func(s *Service) { s.ReadOnly = []string{"/"} }), "read-only path"},
		{"connect", with(func(s *Service) { s.Connect = []string{"../x"} }), "no service's name"},
		{"socket elsewhere", with(func(s *Service) {
			s.Listeners = []Listener{{Name: "x", Network: "unix", Address: "../x.sock"}}
		}), "no file name"},
		{"hidden socket", with(func(s *Service) {
			s.Listeners = []Listener{{Name: "x", Network: "unix", Address: ".canary.sock"}}
		}), "no file name"},
		{"no socket", with(func(s *Service) { s.Listeners = []Listener{{Name: "x", Network: "unix"}} }), "no file name"},
		{"network", with(func(s *Service) { s.Listeners = []Listener{{Name: "x", Network: "sctp", Address: ":1"}} }), "unknown network"},
		{"colon in a listener's name", with(func(s *Service) {
			s.Listeners = []Listener{{Name: "x:y", Network: "tcp", Address: ":1"}}
		}), "bad name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New(Options{
				Services: tc.services, StateRoot: "/s", RunDir: "/r", Launcher: []string{"/l"}, Log: slog.New(slog.DiscardHandler),
			})
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
		})
	}
}
