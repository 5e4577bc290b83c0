package discipline

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/hardware/clock"
)

// fakeKernel is a clock that is skew ahead of the bubble's, which began in 2000.
type fakeKernel struct {
	t      *testing.T
	mu     sync.Mutex // of the whole rig
	skew   time.Duration
	boot   time.Time // by the bubble
	synced bool
	steps  []time.Duration
	slews  []time.Duration
	refuse error
}

func (k *fakeKernel) Now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Add(k.skew)
}

func (k *fakeKernel) Uptime() (time.Duration, error)       { return time.Since(k.boot), nil }
func (k *fakeKernel) Synced() (bool, time.Duration, error) { return k.synced, time.Millisecond, nil }

func (k *fakeKernel) Step(d time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return k.refuse
	}
	k.skew += d
	k.steps = append(k.steps, d)
	return nil
}

func (k *fakeKernel) Slew(d, bound, poll time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d.Abs() > 500*time.Millisecond || bound < 0 || poll <= 0 {
		k.t.Errorf("slew by %v, bound %v, poll %v", d, bound, poll)
	}
	k.skew += d
	k.slews = append(k.slews, d)
	k.synced = true
	return nil
}

// rig is a clock with servers around it, in a bubble.
type rig struct {
	*Clock
	k       *fakeKernel
	truth   time.Duration            // how far the right time is ahead of the bubble's
	lies    map[string]time.Duration // how far a server is ahead of the truth
	silent  map[string]error
	online  bool
	names   []string
	chosen  bool
	queries []time.Time
	asked   map[string]int
	file    string
	log     bytes.Buffer
	stop    func()
}

var rigBuild = date(2026)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

func date(y int) time.Time { return time.Date(y, 3, 1, 0, 0, 0, 0, time.UTC) }

// newRig starts a clock that says now at boot, five minutes ago, in a world where it is truth. last is what an
// earlier boot saved.
func newRig(t *testing.T, now, truth, last time.Time, setup ...func(*rig)) *rig {
	zero := time.Now()
	r := &rig{
		k:     &fakeKernel{t: t, skew: now.Sub(zero), boot: zero},
		truth: truth.Sub(zero), online: true, names: []string{"a", "b", "c", "d", "e"},
		lies: map[string]time.Duration{}, silent: map[string]error{}, asked: map[string]int{},
		file: filepath.Join(t.TempDir(), "clock.json"),
	}
	if !last.IsZero() {
		if err := clock.SaveLast(r.file, last); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range setup {
		f(r)
	}
	r.start(t)
	return r
}

func (r *rig) start(t *testing.T) {
	r.Clock = New(Options{
		Log: slog.New(slog.NewTextHandler(&r.log, nil)), Kernel: r.k, Build: rigBuild, File: r.file,
		Servers: func() ([]string, bool) { return r.names, r.chosen },
		Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			r.k.mu.Lock()
			defer r.k.mu.Unlock()
			if !r.online {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, name[0]})}, nil
		},
		Query: r.query,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
}

func (r *rig) query(ctx context.Context, addr string) (Sample, error) {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	a := netip.MustParseAddr(addr).As4()
	name := string(a[3])
	if name == "a" || len(r.names) == 1 {
		r.queries = append(r.queries, time.Now())
	}
	r.asked[name]++
	if !r.online {
		r.k.mu.Unlock()
		<-ctx.Done()
		r.k.mu.Lock()
		return Sample{}, ctx.Err()
	}
	if err := r.silent[name]; err != nil {
		return Sample{}, err
	}
	return Sample{Offset: r.truth - r.k.skew + r.lies[name], Distance: 20 * time.Millisecond, Stratum: 2}, nil
}

// do changes the world.
func (r *rig) do(f func()) {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	f()
}

// run lets time pass.
func (r *rig) run(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) off() (d time.Duration) {
	r.do(func() { d = (r.truth - r.k.skew).Abs() })
	return d
}

func (r *rig) polls() (p []time.Time) {
	r.do(func() { p = slices.Clone(r.queries) })
	return p
}

func (r *rig) steps() (d []time.Duration) {
	r.do(func() { d = slices.Clone(r.k.steps) })
	return d
}

func (r *rig) slews() (d []time.Duration) {
	r.do(func() { d = slices.Clone(r.k.slews) })
	return d
}

func (r *rig) count(server string) (n int) {
	r.do(func() { n = r.asked[server] })
	return n
}

func (r *rig) want(t *testing.T, c Certainty, words string) {
	t.Helper()
	s := r.Status()
	if s.Certainty != c || !strings.Contains(s.Text, words) {
		t.Errorf("certainty %v, %q; want %v, %q", s.Certainty, s.Text, c, words)
	}
}

func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func TestFirstSync(t *testing.T) {
	for name, at := range map[string]struct{ now, truth, last time.Time }{
		"from the floor":            {rigBuild, date(2027), time.Time{}},
		"from the last known time":  {date(2027), date(2027).Add(time.Hour), date(2027)},
		"battery clock a week fast": {date(2027).Add(7 * day), date(2027), time.Time{}},
		"battery clock in 2034":     {date(2034), date(2027), date(2026).Add(day)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, at.now, at.truth, at.last)
				defer r.stop()
				r.run(10 * time.Second)
				r.want(t, Sure, "5 time servers agree")
				if r.off() > time.Millisecond || len(r.steps()) != 1 {
					t.Errorf("off by %v after steps %v", r.off(), r.steps())
				}
				saved, err := clock.LoadLast(r.file)
				if err != nil || r.k.Now().Sub(saved).Abs() > 15*time.Second {
					t.Errorf("saved %v, %v", saved, err)
				}
				s := r.Status()
				if s.LastSync.Sub(r.k.Now()).Abs() > 11*time.Second || s.Bound <= 0 || s.Bound > 30*time.Millisecond || len(s.Servers) != 5 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

func TestWithoutInternet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{}, func(r *rig) { r.online = false })
		defer r.stop()
		r.run(10 * day)
		r.want(t, Unsure, "doesn't know the time")
		if len(r.steps())+len(r.slews()) != 0 {
			t.Error("set the clock from nothing")
		}
		// It goes on from there after a power cut.
		saved, err := clock.LoadLast(r.file)
		if err != nil || r.k.Now().Sub(saved) > 2*saveEvery {
			t.Errorf("saved %v at %v, %v", saved, r.k.Now(), err)
		}
		r.do(func() { r.online = true })
		r.Poke()
		r.run(10 * time.Second)
		r.want(t, Sure, "agree")
	})
}

func TestBatteryClockIsNotSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, date(2033), date(2027), time.Time{}, func(r *rig) { r.online = false })
		r.run(10 * day)
		r.want(t, Kept, "battery-backed")
		r.stop()
		if saved, err := clock.LoadLast(r.file); err != nil || !saved.IsZero() {
			t.Errorf("saved %v, %v: the clock could never go back", saved, err)
		}
	})
}

func TestKeptAfterSync(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{})
		r.run(time.Hour)
		r.want(t, Sure, "agree")
		r.do(func() { r.online = false })
		r.run(2 * day)
		r.want(t, Kept, "2 days ago")
		r.stop()
		r.start(t) // the process is restarted: the kernel still knows
		defer r.stop()
		r.run(time.Second)
		r.want(t, Kept, "right earlier")
		r.do(func() { r.online = true })
		r.Poke()
		r.run(10 * time.Second)
		r.want(t, Sure, "agree")
		if len(r.steps()) != 1 {
			t.Errorf("steps %v", r.steps())
		}
	})
}

func TestPolling(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{})
		defer r.stop()
		r.run(2 * day)
		n := len(r.polls())
		if n < 80 || n > 110 {
			t.Errorf("%d polls in two days", n)
		}
		if gap := r.polls()[1].Sub(r.polls()[0]); gap < minPoll*9/10 || gap > minPoll*11/10 {
			t.Errorf("first gap %v", gap)
		}
		if gap := r.polls()[n-1].Sub(r.polls()[n-2]); gap < maxPoll*9/10 || gap > maxPoll*11/10 {
			t.Errorf("last gap %v", gap)
		}
		for range 100 {
			r.Poke()
		}
		r.run(time.Minute)
		if got := len(r.polls()) - n; got < 1 || got > 2 {
			t.Errorf("%d polls for a hundred pokes", got)
		}
	})
}

// A network that changes all the time makes the box no nuisance to time servers.
func TestPokedForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{})
		defer r.stop()
		for range 3600 {
			r.run(time.Second)
			r.Poke()
		}
		if n := len(r.polls()); n < 50 || n > 58 {
			t.Errorf("%d polls in an hour", n)
		}
		r.want(t, Sure, "agree")
	})
}

func TestLiars(t *testing.T) {
	tests := []struct {
		name      string
		lies      map[string]time.Duration
		silent    string
		certainty Certainty
		right     bool
	}{
		{"one of five", map[string]time.Duration{"b": 3 * time.Hour}, "", Sure, true},
		{"two of five", map[string]time.Duration{"b": 3 * time.Hour, "c": -time.Hour}, "", Sure, true},
		{"two of four", map[string]time.Duration{"b": 3 * time.Hour, "c": 3 * time.Hour}, "e", Unsure, false},
		{"one of two", map[string]time.Duration{"b": 3 * time.Hour}, "cde", Unsure, false},
		{"all before the floor", map[string]time.Duration{
			"a": -9 * year, "b": -9 * year, "c": -9 * year, "d": -9 * year, "e": -9 * year,
		}, "", Unsure, false},
		{"all in the far future", map[string]time.Duration{
			"a": 30 * year, "b": 30 * year, "c": 30 * year, "d": 30 * year, "e": 30 * year,
		}, "", Unsure, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, rigBuild, date(2027), time.Time{}, func(r *rig) {
					r.lies = tt.lies
					for _, s := range tt.silent {
						r.silent[string(s)] = errors.New("timeout")
					}
				})
				defer r.stop()
				r.run(3 * time.Hour)
				r.want(t, tt.certainty, "")
				if got := r.off() < time.Second; got != tt.right {
					t.Errorf("off by %v", r.off())
				}
				if !tt.right && len(r.steps())+len(r.slews()) != 0 {
					t.Errorf("moved by %v, %v", r.steps(), r.slews())
				}
			})
		})
	}
}

func TestSingleServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{}, func(r *rig) {
			for _, s := range "abcd" {
				r.silent[string(s)] = errors.New("timeout")
			}
			r.lies["e"] = time.Hour
		})
		r.run(10 * time.Second)
		r.want(t, Kept, "single time server")
		r.stop()
		if saved, _ := clock.LoadLast(r.file); !saved.IsZero() {
			t.Errorf("saved %v, which one server said", saved)
		}
		r.start(t)
		defer r.stop()
		r.do(func() { clear(r.silent) })
		r.run(10 * time.Minute)
		r.want(t, Sure, "4 time servers agree")
		if r.off() > time.Second {
			t.Errorf("off by %v", r.off())
		}
	})
}

func TestChosenServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{}, func(r *rig) { r.names, r.chosen = []string{"x"}, true })
		defer r.stop()
		r.run(10 * time.Second)
		r.want(t, Sure, "that you chose")
	})
}

func TestDriftIsSlewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{})
		defer r.stop()
		r.run(time.Hour)
		for range 20 {
			r.do(func() { r.k.skew += 100 * time.Millisecond })
			r.run(time.Hour)
		}
		if len(r.steps()) != 1 || r.off() > 100*time.Millisecond {
			t.Errorf("steps %v, off by %v", r.steps(), r.off())
		}
	})
}

func TestLaterStepIsConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{})
		defer r.stop()
		r.run(5 * time.Minute)
		jump := func() { r.do(func() { r.truth += time.Hour }) }
		jump()
		n := len(r.polls())
		for len(r.polls()) == n {
			r.run(time.Second)
		}
		if len(r.steps()) != 1 {
			t.Fatal("stepped by a single poll")
		}
		r.do(func() { r.truth -= time.Hour }) // it was a mistake
		r.run(time.Hour)
		if len(r.steps()) != 1 || r.off() > time.Millisecond {
			t.Errorf("steps %v, off by %v", r.steps(), r.off())
		}
		jump()
		r.run(2 * time.Hour)
		if len(r.steps()) != 2 || r.off() > time.Millisecond {
			t.Errorf("steps %v, off by %v", r.steps(), r.off())
		}
	})
}

func TestNeverBelowTheFloor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		last := date(2028)
		r := newRig(t, last, date(2027), last)
		defer r.stop()
		r.run(day)
		r.want(t, Unsure, "can't be right")
		if r.k.Now().Before(last) {
			t.Errorf("the clock went back to %v", r.k.Now())
		}
	})
}

func TestKissOfDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{}, func(r *rig) {
			r.silent["b"], r.silent["c"] = ErrKiss{"DENY"}, ErrKiss{"RATE"}
		})
		defer r.stop()
		r.run(20 * time.Hour)
		r.want(t, Sure, "3 time servers agree")
		if r.count("b") != 1 {
			t.Errorf("asked the server that said no %d times", r.count("b"))
		}
		if n := r.count("c"); n < 2 || n > 80 {
			t.Errorf("asked the busy server %d times", n)
		}
	})
}

func TestNotAllowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{}, func(r *rig) { r.k.refuse = errors.New("operation not permitted") })
		defer r.stop()
		r.run(time.Minute)
		r.want(t, Unsure, "not allowed to set the clock")
	})
}

func TestFewWrites(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, rigBuild, date(2027), time.Time{})
		var writes int
		var at time.Time
		for range 24 * 60 {
			r.run(time.Minute)
			if saved, _ := clock.LoadLast(r.file); !saved.Equal(at) {
				at = saved
				writes++
			}
		}
		if writes > 26 {
			t.Errorf("%d writes a day", writes)
		}
		r.stop()
		if saved, _ := clock.LoadLast(r.file); r.k.Now().Sub(saved) > 2*time.Second {
			t.Errorf("at the end saved %v, not %v", saved, r.k.Now())
		}
		if fi, err := os.Stat(r.file); err != nil || fi.Size() > 100 {
			t.Errorf("%v, %v", fi, err)
		}
	})
}
