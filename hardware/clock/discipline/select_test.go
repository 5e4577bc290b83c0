package discipline

import (
	"testing"
	"time"
)

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
	if d := time.Since(k.Now()); d.Abs() > time.Minute {
		t.Errorf("the clock differs by %v", d)
	}
}
