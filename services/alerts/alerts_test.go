package alerts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/state"
)

var quiet = slog.New(slog.DiscardHandler)

// lab is alerts over a real database, a box that the test changes, and a clock.
type lab struct {
	t    *testing.T
	dir  string
	db   *state.DB
	a    *Alerts
	box  api.Box
	mono time.Duration
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, dir: t.TempDir(), box: healthy()}
	l.open()
	t.Cleanup(func() { l.db.Close() })
	return l
}

func healthy() api.Box {
	temp, low := 50.0, false
	return api.Box{
		System: api.System{
			Services: []api.Service{
				{Name: "core", Title: "Accounts", State: api.StateRunning},
				{Name: "gateway", Title: "Front door", State: api.StateRunning, Restarts: 2, LastExit: "killed: memory limit 64 MB"},
			},
			Vitals: api.Vitals{Temperature: &temp, UnderVoltage: &low, Data: &api.Disk{Size: 10 << 30, Free: 5 << 30}},
		},
		Network: &api.Network{Clock: api.Clock{Certainty: api.ClockSure}},
	}
}

func (l *lab) open() {
	l.t.Helper()
	db, err := state.Open(context.Background(), l.dir, quiet)
	if err != nil {
		l.t.Fatal(err)
	}
	l.db = db
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	if l.a, err = Open(context.Background(), db, quiet, func() time.Time { return start.Add(l.mono) }); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) restart() {
	l.t.Helper()
	l.db.Close()
	l.open()
}

// run looks every minute for that long.
func (l *lab) run(d time.Duration) {
	for end := l.mono + d; l.mono < end; l.mono += time.Minute {
		l.a.Observe(l.t.Context(), &l.box, l.mono)
	}
}

// want compares the list with "name target count", with "!" for what is active.
func (l *lab) want(want ...string) {
	l.t.Helper()
	var got []string
	for _, x := range l.a.List() {
		s := strings.TrimSpace(x.Name+" "+x.Target) + fmt.Sprintf(" %d", x.Count)
		if x.Active {
			s += "!"
		}
		got = append(got, s)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		l.t.Errorf("%q, want %q", got, want)
	}
}

func (l *lab) seen(name string) {
	l.t.Helper()
	for _, x := range l.a.List() {
		if x.Name == name {
			if err := l.a.Seen(l.t.Context(), x.ID, func(context.Context, *sql.Tx, api.Alert) error { return nil }); err != nil {
				l.t.Error(err)
			}
			return
		}
	}
	l.t.Errorf("no %s", name)
}

func (l *lab) rows() (n int) {
	l.t.Helper()
	if err := l.db.SQL().QueryRow("SELECT count(*) FROM alerts").Scan(&n); err != nil {
		l.t.Fatal(err)
	}
	return n
}

// Each rule begins, stays between its bounds, and ends.
func TestRules(t *testing.T) {
	disk := func(percent float64) func(*api.Box) {
		return func(b *api.Box) { b.System.Vitals.Data.Free = int64(percent / 100 * (10 << 30)) }
	}
	temp := func(c float64) func(*api.Box) { return func(b *api.Box) { b.System.Vitals.Temperature = &c } }
	gap := func(name string) func(*api.Box) { return func(b *api.Box) { b.System.Gaps = []api.Gap{{Name: name}} } }
	notice := func(name string) func(*api.Box) { return func(b *api.Box) { b.Notices = []api.Notice{{Name: name}} } }
	state := func(s string) func(*api.Box) { return func(b *api.Box) { b.System.Services[1].State = s } }
	covered := map[string]bool{}
	for _, tc := range []struct {
		name                   string
		near, begin, stay, end func(*api.Box) // near and end do not begin it, stay does not end it
		target                 string
	}{
		{"disk-nearly-full", disk(10), disk(9.9), disk(11.9), disk(12.1), ""},
		{"disk-full", disk(2.1), disk(1.9), disk(2.9), disk(13), ""},
		{
			"disk-full", nil, func(b *api.Box) { *b.System.Vitals.Data = api.Disk{Size: 100 << 20, Free: 49 << 20} },
			func(b *api.Box) { *b.System.Vitals.Data = api.Disk{Size: 100 << 20, Free: 74 << 20} },
			func(b *api.Box) { *b.System.Vitals.Data = api.Disk{Size: 100 << 20, Free: 76 << 20} }, "",
		},
		{"disk-read-only", nil, func(b *api.Box) { b.System.Vitals.Data.ReadOnly = true }, nil, nil, ""},
		{"storage-errors", gap("watchdog"), gap("data-errors"), nil, nil, ""},
		{"restarted-unhealthy", nil, gap("restarts"), nil, nil, ""},
		{"hot", temp(79.9), temp(80), temp(75), temp(74.9), ""},
		{"under-voltage", nil, func(b *api.Box) { low := true; b.System.Vitals.UnderVoltage = &low }, nil, nil, ""},
		{"crash-loop", state(api.StateBackoff), state(api.StateCrashing), state(api.StateFailed), state(api.StateRunning), "gateway"},
		{
			"out-of-memory", func(b *api.Box) { b.System.Services[0].Restarts = 1; b.System.Services[0].LastExit = "exit status 1" },
			func(b *api.Box) { b.System.Services[1].Restarts = 3 }, nil, func(b *api.Box) { b.System.Services[1].Restarts = 3 }, "gateway",
		},
		{"state-restored", notice("state-full"), notice("state-restored"), nil, nil, ""},
		{"state-replaced", nil, notice("state-replaced"), nil, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			covered[tc.name] = true
			l := newLab(t)
			to := func(f func(*api.Box)) {
				l.box = healthy()
				if f != nil {
					f(&l.box)
				}
			}
			count := func() (n int, active bool) {
				for _, x := range l.a.List() {
					if x.Name == tc.name && x.Target == tc.target {
						n, active = x.Count, x.Active
						if !slices.Contains(api.AlertNames(), x.Name) || x.Text == "" || x.Next == "" || strings.Contains(x.Text+x.Next, "  ") {
							t.Errorf("%+v", x)
						}
					}
				}
				return n, active
			}
			l.run(3 * time.Minute)
			to(tc.near)
			l.run(Hold)
			if n, _ := count(); n != 0 {
				t.Fatal("began early")
			}
			to(tc.begin)
			l.run(2 * time.Minute)
			if n, active := count(); n != 1 || !active {
				t.Fatalf("did not begin: %d %v", n, active)
			}
			if tc.stay != nil {
				to(tc.stay)
				l.run(2 * Hold)
				if n, active := count(); n != 1 || !active {
					t.Fatalf("did not stay: %d %v", n, active)
				}
			}
			to(tc.end)
			l.run(Hold - 2*time.Minute)
			if n, active := count(); n != 1 || !active {
				t.Fatalf("ended early: %d %v", n, active)
			}
			l.run(4 * time.Minute)
			if n, active := count(); n != 1 || active {
				t.Fatalf("did not end: %d %v", n, active)
			}
		})
	}
	covered["clock-unsure"] = true // below
	for _, name := range api.AlertNames() {
		if !covered[name] && !strings.HasPrefix(name, "update-") { // see TestUpdates
			t.Errorf("%s is not tested", name)
		}
		if text, _ := sentences(name, nil); text == "Something needs you." {
			t.Errorf("%s has no sentence", name)
		}
	}
}

func TestClockUnsure(t *testing.T) {
	l := newLab(t)
	l.box.Network.Clock.Certainty = api.ClockUnsure
	l.run(unsureFor - time.Minute)
	l.box.Network = nil // not answering is no reason to think otherwise
	l.run(2 * time.Minute)
	l.want()
	l.box = healthy()
	l.run(time.Minute)
	l.box.Network.Clock.Certainty = api.ClockUnsure
	l.run(unsureFor)
	l.want()
	l.run(time.Minute)
	l.want("clock-unsure 1!")
	l.box.Network.Clock.Certainty = api.ClockKept
	l.run(2 * Hold)
	l.want("clock-unsure 1")
}

// Core can't have seen that it was ended itself.
func TestCoreOutOfMemory(t *testing.T) {
	l := newLab(t)
	l.box.System.Services[0].Restarts, l.box.System.Services[0].LastExit = 1, "killed: memory limit 96 MB"
	l.run(time.Minute)
	l.want("out-of-memory core 1!") // and not the gateway, which was ended at some time
	l.run(2 * Hold)
	l.box.System.Services[0].Restarts = 2
	l.run(time.Minute)
	l.want("out-of-memory core 2!")
}

func TestSeen(t *testing.T) {
	l := newLab(t)
	l.box.System.Vitals.Data.ReadOnly = true
	l.run(time.Minute)
	l.seen("disk-read-only")
	l.want()
	l.run(time.Hour)
	l.want() // it is still so, and was seen
	l.restart()
	l.run(time.Minute)
	l.want()
	l.box = healthy()
	l.run(2 * Hold)
	if l.rows() != 0 {
		t.Error("what was seen and is over is still there")
	}
	l.box.System.Vitals.Data.ReadOnly = true
	l.run(time.Minute)
	l.want("disk-read-only 1!")
	l.box = healthy()
	l.run(2 * Hold)
	l.restart()
	l.want("disk-read-only 1") // nobody saw it
	l.box.System.Vitals.Data.ReadOnly = true
	l.run(time.Minute)
	l.want("disk-read-only 2!")
	l.box = healthy()
	l.run(2 * Hold)
	l.seen("disk-read-only")
	if l.rows() != 0 {
		t.Error("it is still there")
	}
	nothing := func(context.Context, *sql.Tx, api.Alert) error { return nil }
	if err := l.a.Seen(t.Context(), 1, nothing); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	l.box.System.Vitals.Data.ReadOnly = true
	l.run(time.Minute)
	full := errors.New("full")
	err := l.a.Seen(t.Context(), l.a.List()[0].ID, func(context.Context, *sql.Tx, api.Alert) error { return full })
	if !errors.Is(err, full) {
		t.Error(err)
	}
	l.want("disk-read-only 1!") // it was not recorded, so it was not seen
}

// However things flap, the card is left alone.
func TestFlapping(t *testing.T) {
	l := newLab(t)
	changes := func() (n int) {
		if err := l.db.SQL().QueryRow("SELECT total_changes()").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := changes()
	for i := range 24 * 60 {
		l.box = healthy()
		if i%3 == 0 {
			low := true
			l.box.System.Vitals.UnderVoltage = &low
			l.box.System.Services[1].State = api.StateCrashing
			l.box.System.Services[1].Restarts = i
		}
		l.run(time.Minute)
	}
	l.want("under-voltage 1!", "crash-loop gateway 1!", "out-of-memory gateway 1!")
	if n := changes() - before; n != 3 {
		t.Errorf("%d writes in a day", n)
	}
	l.box = healthy()
	l.run(2 * Hold)
	for range 24 * 4 { // every quarter of an hour
		l.box = healthy()
		low := true
		l.box.System.Vitals.UnderVoltage = &low
		l.run(time.Minute)
		l.box = healthy()
		l.run(14 * time.Minute)
	}
	if n := changes() - before; n > 2*3+2*24*4 {
		t.Errorf("%d writes in two days", n)
	}
}

func TestBounded(t *testing.T) {
	l := newLab(t)
	for i := range maxAlerts + 30 {
		l.box = healthy()
		l.box.System.Services[1].Name = fmt.Sprintf("app%d", i)
		l.box.System.Services[1].State = api.StateCrashing
		l.run(time.Minute)
	}
	if n := len(l.a.List()); n != maxAlerts || l.rows() != maxAlerts {
		t.Errorf("%d alerts, %d rows", n, l.rows())
	}
	if first := l.a.List()[0].Target; first != fmt.Sprintf("app%d", maxAlerts+29) {
		t.Errorf("the latest is of %s", first)
	}
}

// A disk that takes no writes is one of the things to tell of.
func TestDatabaseFails(t *testing.T) {
	l := newLab(t)
	l.run(time.Minute)
	if _, err := l.db.SQL().Exec("PRAGMA query_only=1"); err != nil {
		t.Fatal(err)
	}
	l.box.System.Vitals.Data.Free = 0
	l.run(5 * time.Minute)
	l.want("disk-full 1!")
	if _, err := l.db.SQL().Exec("PRAGMA query_only=0"); err != nil {
		t.Fatal(err)
	}
	l.run(Hold)
	if l.rows() != 1 {
		t.Error("it was not saved later")
	}
	l.restart()
	l.run(time.Minute)
	l.want("disk-full 1!")
}
