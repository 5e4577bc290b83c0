package history

import (
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/croft-os/croft/services/api"
)

var (
	quiet = slog.New(slog.DiscardHandler)
	noon  = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

// sampler takes samples of a box with a clock that the test sets.
type sampler struct {
	*History
	at Moment
	v  api.Vitals
}

func newSampler(t testing.TB, dir string, wall time.Time) *sampler {
	t.Helper()
	h, err := Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return &sampler{
		History: h, at: Moment{Wall: wall, Sure: true},
		v: api.Vitals{
			MemTotal: 1000, MemAvailable: 600, CPUs: 2, CPUBusyMS: 5000, NetIn: 1, NetOut: 1,
			Data: &api.Disk{Size: 10_000, Free: 4000},
		},
	}
}

// run takes samples for that long; in a second one core is busy for busy ms and in bytes come in.
func (s *sampler) run(d time.Duration, busy, in int64) {
	for end := s.at.Mono + d; s.at.Mono < end; {
		s.Add(s.at, s.v)
		s.at.Mono += Every
		s.at.Wall = s.at.Wall.Add(Every)
		s.v.CPUBusyMS += busy * int64(Every/time.Second)
		s.v.NetIn += in * int64(Every/time.Second)
	}
}

func (s *sampler) points(t testing.TB, rng, series string) []*api.Point {
	t.Helper()
	h, ok := s.Range(rng, s.at.Wall)
	if !ok {
		t.Fatalf("no range %s", rng)
	}
	i := slices.IndexFunc(h.Series, func(x api.Series) bool { return x.Name == series })
	if i < 0 {
		return nil
	}
	return h.Series[i].Points
}

// known are the places of what is there.
func known(p []*api.Point) (out []int) {
	for i, x := range p {
		if x != nil {
			out = append(out, i)
		}
	}
	return out
}

func TestSteps(t *testing.T) {
	s := newSampler(t, "", noon)
	s.run(5*time.Minute, 500, 100)
	hot := 61.5
	s.v.Temperature, s.v.MemAvailable = &hot, 200
	s.run(5*time.Minute, 1000, 300)
	h, ok := s.Range(api.Range24h, noon.Add(9*time.Minute))
	if !ok || h.StepMS != 300_000 || !h.From.Equal(noon.Add(10*time.Minute-24*time.Hour)) {
		t.Errorf("from %v in steps of %d ms", h.From, h.StepMS)
	}
	want := map[string][2]*api.Point{
		api.SeriesCPU:         {{Min: 25, Mean: 25, Max: 25}, {Min: 25, Mean: 48.75, Max: 50}},
		api.SeriesMemory:      {{Min: 400, Mean: 400, Max: 400}, {Min: 800, Mean: 800, Max: 800}},
		api.SeriesTemperature: {nil, {Min: 61.5, Mean: 61.5, Max: 61.5}},
		api.SeriesDisk:        {{Min: 6000, Mean: 6000, Max: 6000}, {Min: 6000, Mean: 6000, Max: 6000}},
		api.SeriesNetIn:       {{Min: 100, Mean: 100, Max: 100}, {Min: 100, Mean: 290, Max: 300}},
		api.SeriesNetOut:      {{}, {}},
	}
	for _, series := range h.Series {
		n := len(series.Points)
		if n != 288 {
			t.Fatalf("%d points", n)
		}
		for i, w := range want[series.Name] {
			got := series.Points[n-2+i]
			if got == nil || w == nil {
				if got != w {
					t.Errorf("%s[%d]: %+v, want %+v", series.Name, i, got, w)
				}
			} else if math.Abs(got.Mean-w.Mean) > 0.01 || got.Min != w.Min || got.Max != w.Max {
				t.Errorf("%s[%d]: %+v, want %+v", series.Name, i, got, w)
			}
		}
		delete(want, series.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
	if _, ok := s.Range("1y", noon); ok {
		t.Error("a range of a year")
	}
}

// A box without a sensor, and one in rescue mode, has no such series; what nobody counts is no zero.
func TestAbsent(t *testing.T) {
	s := newSampler(t, "", noon)
	s.v = api.Vitals{MemTotal: 1, CPUs: 1}
	s.run(time.Minute, 0, 0)
	h, _ := s.Range(api.Range24h, noon)
	for _, series := range h.Series {
		if series.Name == api.SeriesTemperature || series.Name == api.SeriesDisk || series.Name != api.SeriesMemory && known(series.Points) != nil {
			t.Errorf("%s: %v", series.Name, known(series.Points))
		}
	}
}

func TestGapsAndMonth(t *testing.T) {
	s := newSampler(t, t.TempDir(), noon.Add(-40*24*time.Hour))
	s.run(time.Hour, 100, 0) // long forgotten
	s.at.Wall, s.at.Mono = noon, s.at.Mono+40*24*time.Hour-time.Hour
	s.run(4*time.Hour, 100, 0)
	s.at.Wall, s.at.Mono = s.at.Wall.Add(3*time.Hour), s.at.Mono+3*time.Hour // off
	s.run(time.Hour, 1000, 0)
	day := s.points(t, api.Range24h, api.SeriesCPU)
	if n := len(known(day)); n != 48+12 {
		t.Errorf("%d steps of 5 minutes", n)
	}
	month := s.points(t, api.Range30d, api.SeriesCPU)
	// 12-14, 14-16, gap 16-18, 18-20 (from 19 on), and 20 itself has no sample yet
	if k := known(month); !reflect.DeepEqual(k, []int{355, 356, 358}) {
		t.Errorf("steps of 2 hours %v", k)
	}
	if p := month[358]; p.Min != 50 && p.Max != 50 {
		t.Errorf("%+v", p)
	}
	// No rate spans the time that the box was off.
	if p := day[known(day)[48]]; p.Max > 50.01 || p.Min < 49.99 {
		t.Errorf("after the gap %+v", p)
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := newSampler(t, dir, noon)
	s.run(3*time.Hour+2*time.Minute, 700, 30)
	before := map[string]api.History{}
	for _, r := range []string{api.Range24h, api.Range30d} {
		before[r], _ = s.Range(r, s.at.Wall)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := newSampler(t, dir, s.at.Wall)
	for r, want := range before {
		got, _ := again.Range(r, s.at.Wall)
		for i := range want.Series {
			want.Series[i].Max = 0 // of no sample yet
		}
		for i := range got.Series {
			got.Series[i].Max = 0
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s differs after a restart", r)
		}
	}
	// A step that was interrupted goes on.
	again.run(time.Minute, 700, 30)
	if n := len(known(again.points(t, api.Range24h, api.SeriesCPU))); n != 37 {
		t.Errorf("%d steps", n)
	}
}

// A clock that is set takes what was measured before along.
func TestClockIsSet(t *testing.T) {
	for name, by := range map[string]time.Duration{"forward": 10 * 24 * time.Hour, "back": -3 * time.Hour, "a little": 40 * time.Second} {
		t.Run(name, func(t *testing.T) {
			s := newSampler(t, t.TempDir(), noon)
			s.run(time.Hour, 100, 0) // of a boot before
			s.at.Wall, s.at.Mono = noon.Add(time.Hour), 0
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s.History.last, s.at.Sure = nil, false
			s.run(30*time.Minute, 1000, 0)
			s.at.Sure = true
			s.at.Wall = s.at.Wall.Add(by)
			s.run(30*time.Minute, 1000, 0)
			day := s.points(t, api.Range24h, api.SeriesCPU)
			k := known(day)
			var busy []int
			for _, i := range k {
				if day[i].Max > 40 {
					busy = append(busy, i)
				}
			}
			// An hour without a gap, which ends now.
			if n := len(busy); n < 12 || n > 13 || busy[n-1]-busy[0] != n-1 || busy[n-1] < 286 {
				t.Errorf("busy at %v", busy)
			}
			month := s.points(t, api.Range30d, api.SeriesCPU)
			if by > time.Hour && len(known(month)) != 2 {
				t.Errorf("month %v", known(month))
			}
			// Set once more, it is a correction that moves nothing.
			s.at.Wall = s.at.Wall.Add(-2 * time.Hour)
			s.run(time.Minute, 1000, 0)
			s.at.Wall = s.at.Wall.Add(2 * time.Hour)
			if again := known(s.points(t, api.Range24h, api.SeriesCPU)); len(again) < len(k) {
				t.Errorf("%v, then %v", k, again)
			}
		})
	}
}

// Core's times carry a monotonic reading, by which the difference of two tells nothing of a clock that was set.
func TestClockIsSetWithMonotonicReading(t *testing.T) {
	s := newSampler(t, "", time.Now())
	s.at.Sure = false
	s.run(10*time.Minute, 1000, 0)
	setClock(&s.at.Wall, 240*time.Hour)
	s.at.Sure = true
	s.run(10*time.Minute, 1000, 0)
	for i, p := range s.points(t, api.Range30d, api.SeriesCPU)[:355] {
		if p != nil {
			t.Errorf("step %d of the 30 days did not move along with the clock", i)
		}
	}
}

// setClock changes what the wall clock says in a time, as setting the clock does, and leaves the monotonic reading: how
// the former is kept beside the latter is at package time's type Time.
func setClock(t *time.Time, by time.Duration) {
	before := t.Round(0)
	*(*uint64)(unsafe.Pointer(t)) += uint64(by/time.Second) << 30
	if got := t.Round(0).Sub(before); got != by {
		panic(got)
	}
}

// counting counts what is written.
type counting struct {
	file
	bytes, writes *int
}

func (c counting) WriteAt(b []byte, off int64) (int, error) {
	*c.bytes += len(b)
	*c.writes++
	return c.file.WriteAt(b, off)
}

func TestWritesPerDay(t *testing.T) {
	dir := t.TempDir()
	s := newSampler(t, dir, noon.Add(7*time.Minute))
	s.run(2*24*time.Hour, 300, 50) // full
	sizes := func() (out []int64) {
		for _, name := range []string{"24h", "30d"} {
			fi, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fi.Size())
		}
		return out
	}
	before := sizes()
	var bytes, writes int
	s.short.file = counting{s.short.file, &bytes, &writes}
	s.long.file = counting{s.long.file, &bytes, &writes}
	s.run(24*time.Hour, 300, 50)
	pages := writes * 4096 // at most one page each
	t.Logf("%d bytes in %d writes a day, in at most %d bytes of pages", bytes, writes, pages)
	if bytes > 100_000 || writes > 200 {
		t.Errorf("%d bytes in %d writes", bytes, writes)
	}
	if !reflect.DeepEqual(sizes(), before) || before[0] != 49*512 || before[1] != 61*512 {
		t.Errorf("%v, then %v", before, sizes())
	}
}

// Whatever a power cut or a failing card leaves of the files, what is read from them was measured.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := newSampler(t, dir, noon)
	s.run(26*time.Hour, 300, 50)
	now := s.at.Wall
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole := newSampler(t, dir, now)
	files := map[string][]byte{}
	for _, name := range []string{"24h", "30d"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	r := rand.New(rand.NewPCG(11, 21))
	lost := 0
	for round := range 300 {
		dir := t.TempDir()
		for name, b := range files {
			b = slices.Clone(b)
			switch round % 4 {
			case 0: // cut short
				b = b[:r.IntN(len(b))]
			case 1: // flipped bits
				for range 1 + r.IntN(4) {
					b[r.IntN(len(b))] ^= 1 << r.IntN(8)
				}
			case 2: // torn within a block, and never written
				at := r.IntN(len(b))
				clear(b[at:min(len(b), at+r.IntN(2000))])
			case 3: // a block in the place of another
				copy(b[512*(1+r.IntN(40)):], b[512*10:512*11])
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := newSampler(t, dir, now)
		for _, rng := range []string{api.Range24h, api.Range30d} {
			for _, series := range []string{api.SeriesCPU, api.SeriesDisk} {
				want := whole.points(t, rng, series)
				for i, p := range got.points(t, rng, series) {
					switch {
					case p == nil && want[i] != nil:
						lost++
					case p != nil && (want[i] == nil || *p != *want[i]):
						t.Fatalf("round %d: %s %s[%d]: %+v, want %+v", round, rng, series, i, p, want[i])
					}
				}
			}
		}
		got.run(time.Hour, 300, 50)
		if err := got.Close(); err != nil {
			t.Fatal(err)
		}
		if again := newSampler(t, dir, got.at.Wall); len(known(again.points(t, api.Range24h, api.SeriesCPU))) < 12 {
			t.Fatalf("round %d: it was not taken up again", round)
		}
	}
	if lost == 0 {
		t.Error("nothing was damaged")
	}
}

type full struct{ file }

func (full) WriteAt([]byte, int64) (int, error) { return 0, syscall.ENOSPC }

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	s := newSampler(t, dir, noon)
	there := s.short.file
	s.short.file = full{there}
	s.run(2*time.Hour, 300, 0)
	if n := len(known(s.points(t, api.Range24h, api.SeriesCPU))); n != 24 {
		t.Errorf("%d steps", n)
	}
	s.short.file = there // there is room again
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := newSampler(t, dir, s.at.Wall)
	if n := len(known(again.points(t, api.Range24h, api.SeriesCPU))); n != 24 {
		t.Errorf("%d steps after a restart", n)
	}
	h, err := Open("/proc/nowhere", quiet)
	if err == nil {
		t.Error("opened where there is nothing")
	}
	s.History = h
	s.run(time.Hour, 1, 1)
	if err := errors.Join(h.Close()); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	r := newRing(shortStep, shortCount)
	for i := range int64(6) {
		rec := record{step: 288*10 + i}
		rec.add([len(names)]float64{1, 2, 3, 4, 5, math.NaN()})
		r.put(rec)
	}
	f.Add(0, r.encode(0))
	f.Add(59, make([]byte, blockSize))
	f.Fuzz(func(t *testing.T, n int, b []byte) {
		b = append(b, make([]byte, blockSize)...)[:blockSize]
		for _, b := range [][]byte{b, seal(slices.Clone(b))} { // what a checksum can't tell
			r := newRing(shortStep, shortCount)
			n := (n%r.blocks() + r.blocks()) % r.blocks()
			r.decode(n, b)
			for s, rec := range r.records {
				if rec.count == 0 {
					continue
				}
				if s/perBlock != n || r.slot(rec.step) != s {
					t.Fatalf("step %d stands at %d of block %d", rec.step, s, n)
				}
				for _, v := range rec.values {
					if v.known() && (v.min > v.mean || v.mean > v.max || math.IsInf(float64(v.mean), 0)) {
						t.Fatalf("%+v", v)
					}
				}
			}
			again := newRing(shortStep, shortCount)
			again.decode(n, r.encode(n))
			if got, want := again.encode(n), r.encode(n); !slices.Equal(got, want) {
				t.Fatal("what was read is written otherwise")
			}
		}
	})
}
