package clock

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func date(y int) time.Time { return time.Date(y, 3, 1, 0, 0, 0, 0, time.UTC) }

func TestFloor(t *testing.T) {
	build, none := date(2026), time.Time{}
	tests := []struct {
		name      string
		last, now time.Time
		want      time.Time
		why       Reason
	}{
		{"no battery clock", none, time.Unix(0, 0), build, Build},
		{"no battery clock, known time", date(2027), time.Unix(5, 0), date(2027), Last},
		{"known time before the build", date(2025), time.Unix(5, 0), build, Build},
		{"battery clock", date(2027), date(2028), date(2028), Running},
		{"battery clock behind", date(2028), date(2027), date(2028), Last},
		{"battery clock in 2040", date(2027), date(2040), date(2027), Ahead},
		{"battery clock in 2040, nothing known", none, date(2040), build, Ahead},
		{"2040 when it is nearly 2040", date(2039), date(2040), date(2040), Running},
		{"known time absurd", date(2099), date(2027), date(2027), Running},
		{"known time absurd, no battery clock", date(2099), time.Unix(5, 0), build, Build},
		{"1901", none, date(1901), build, Build},
	}
	for _, tt := range tests {
		got, why := Floor(build, tt.last, tt.now)
		if !got.Equal(tt.want) || why != tt.why {
			t.Errorf("%s: %v (%v), want %v (%v)", tt.name, got, why, tt.want, tt.why)
		}
	}
}

func TestLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock.json")
	if got, err := LoadLast(path); err != nil || !got.IsZero() {
		t.Errorf("without a file: %v, %v", got, err)
	}
	for _, want := range []time.Time{date(2027), date(2028)} {
		if err := saveLast(path, want.Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadLast(path); err != nil || !got.Equal(want) {
			t.Errorf("saved %v, loaded %v, %v", want, got, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	for _, bad := range []string{"", "{", "null", "{}", `{"last":7}`, `{"last":"1970-01-01T00:00:00Z"}`, `{"last":"9999-01-01T00:00:00Z"}`, strings.Repeat(" ", 1<<20)} {
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadLast(path); err == nil || !got.IsZero() {
			t.Errorf("%.40q: %v, %v", bad, got, err)
		}
	}
}

func TestLastIsNoTrap(t *testing.T) {
	dir := t.TempDir()
	pipe, link, target := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := saveLast(target, date(2027)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, dir} {
		if got, err := LoadLast(path); err == nil || !got.IsZero() {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
}

func FuzzParseLast(f *testing.F) {
	f.Add([]byte(`{"last":"2027-03-01T00:00:00Z"}`))
	f.Add([]byte(`{"last":"2027-03-01T00:00:00.123456789+14:00","more":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseLast(b); err != nil != got.IsZero() {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestChoose(t *testing.T) {
	const ms = time.Millisecond
	s := func(offset, distance time.Duration) Sample { return Sample{Offset: offset, Distance: distance} }
	tests := []struct {
		name     string
		samples  []Sample
		agree    int // 0: no majority
		low, top time.Duration
	}{
		{"none", nil, 0, 0, 0},
		{"one", []Sample{s(50*ms, 10*ms)}, 1, 50 * ms, 50 * ms},
		{"three", []Sample{s(50*ms, 10*ms), s(52*ms, 10*ms), s(47*ms, 20*ms)}, 3, 47 * ms, 52 * ms},
		{"a liar among four", []Sample{s(50*ms, 10*ms), s(time.Hour, ms), s(52*ms, 10*ms), s(47*ms, 20*ms)}, 3, 47 * ms, 52 * ms},
		{"two liars that agree among five", []Sample{
			s(50*ms, 10*ms), s(time.Hour, ms), s(52*ms, 10*ms), s(time.Hour, ms), s(47*ms, 20*ms),
		}, 3, 47 * ms, 52 * ms},
		{"two that disagree", []Sample{s(0, 10*ms), s(time.Hour, 10*ms)}, 0, 0, 0},
		{"two against two", []Sample{s(0, 10*ms), s(0, 10*ms), s(time.Hour, 10*ms), s(time.Hour, 10*ms)}, 0, 0, 0},
		{"three that all differ", []Sample{s(0, 10*ms), s(time.Minute, 10*ms), s(time.Hour, 10*ms)}, 0, 0, 0},
		{"touching", []Sample{s(0, 10*ms), s(20*ms, 10*ms)}, 2, 10 * ms, 10 * ms},
		{"a vague one does not outweigh", []Sample{s(0, 10*ms), s(2*ms, 10*ms), s(900*ms, 1400*ms)}, 3, 0, 10 * ms},
		{"too exact to be true", []Sample{s(0, 0), s(4*ms, 0), s(2*ms, 0)}, 3, 0, 4 * ms},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := choose(tt.samples)
			if ok != (tt.agree > 0) || len(got.servers) != tt.agree {
				t.Fatalf("got %+v, %v", got, ok)
			}
			if got.offset < tt.low || got.offset > tt.top {
				t.Errorf("offset %v, want %v to %v", got.offset, tt.low, tt.top)
			}
		})
	}
}

func FuzzChoose(f *testing.F) {
	f.Add(int64(5), int64(1), int64(7), int64(2), int64(1000), int64(1))
	f.Fuzz(func(t *testing.T, a, da, b, db, c, dc int64) {
		var all []Sample
		for _, v := range [][2]int64{{a, da}, {b, db}, {c, dc}} {
			// Within what NTP can express, half an era.
			all = append(all, Sample{Offset: time.Duration(v[0] >> 2), Distance: time.Duration(v[1]).Abs() % maxDistance})
		}
		got, ok := choose(all)
		if !ok {
			return
		}
		within := 0
		for _, s := range all {
			if (s.Offset - got.offset).Abs() <= max(s.Distance, minDistance)+1 {
				within++
			}
		}
		if within < 2 || got.bound < 0 || len(got.servers) < 2 {
			t.Errorf("%+v from %+v", got, all)
		}
	})
}

func TestTimex(t *testing.T) {
	tests := []struct {
		offset    time.Duration
		sec, nano int64
	}{
		{1500 * time.Millisecond, 1, 5e8},
		{-1500 * time.Millisecond, -2, 5e8},
		{-2 * time.Second, -2, 0},
		{-time.Nanosecond, -1, 999999999},
		{0, 0, 0},
	}
	for _, tt := range tests {
		if tx := stepTimex(tt.offset); tx.Time.Sec != tt.sec || tx.Time.Usec != tt.nano {
			t.Errorf("%v: %d s %d ns", tt.offset, tx.Time.Sec, tx.Time.Usec)
		}
	}
	if tx := slewTimex(-3*time.Millisecond, 7*time.Millisecond, 64*time.Second); tx.Offset != -3e6 || tx.Maxerror != 7000 ||
		tx.Esterror != 3000 || tx.Constant != 2 || tx.Status&staUnsync != 0 {
		t.Errorf("slew: %+v", tx)
	}
	for poll, want := range map[time.Duration]int64{0: 0, 8 * time.Second: 0, 2048 * time.Second: 7, 1 << 60: 10} {
		if tx := slewTimex(0, 0, poll); tx.Constant != want {
			t.Errorf("poll %v: constant %d, want %d", poll, tx.Constant, want)
		}
	}
}

func TestKernelReads(t *testing.T) {
	k := NewKernel()
	up, err := k.Uptime()
	if err != nil || up <= 0 {
		t.Errorf("uptime %v, %v", up, err)
	}
	if _, bound, err := k.Synced(); err != nil || bound < 0 {
		t.Errorf("bound %v, %v", bound, err)
	}
	if !slices.Contains([]Reason{Running}, func() Reason { _, r := Floor(date(2020), time.Time{}, k.Now()); return r }()) {
		t.Error("this machine's clock is off")
	}
}
