package webui

import (
	"encoding/binary"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

var update = flag.Bool("update", false, "write the charts in testdata anew")

func berlin(t testing.TB) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// day is a day of a thing that swings about 40, with a gap in the morning.
func day(n int) []*api.Point {
	out := make([]*api.Point, n)
	for i := range out {
		if a := float64(i) / float64(n); a < 0.3 || a > 0.4 {
			v := 40 + 10*math.Sin(12*a) + 3*math.Sin(71*a)
			out[i] = &api.Point{Min: v - 3 - 2*math.Sin(31*a), Mean: v, Max: v + 4 + 2*math.Sin(43*a)}
		}
	}
	return out
}

func TestDrawChart(t *testing.T) {
	from := time.Date(2026, 11, 20, 14, 5, 0, 0, time.UTC)
	base := func(lines ...[]*api.Point) chart {
		return chart{
			Label: "Temperature", From: from, Step: 5 * time.Minute, Lines: lines, Low: 20, High: 60,
			Ends: [2]string{"20 °C", "60 °C"}, Ticks: english().ticks(from, from.Add(24*time.Hour), berlin(t)), Broken: "Nothing measured yet",
		}
	}
	at := func(v float64) *api.Point { return &api.Point{Min: v, Mean: v, Max: v} }
	for name, c := range map[string]chart{
		"day":      base(day(288)),
		"two":      base(day(288), day(200)),
		"empty":    base(),
		"all-null": base(make([]*api.Point, 288)),
		"one":      base([]*api.Point{at(40)}),
		"lone":     base([]*api.Point{nil, at(30), nil, at(50), nil, nil}),
		"strange": base([]*api.Point{
			at(math.NaN()), at(math.Inf(1)), at(-1e300), at(1e300), {Min: 50, Mean: 40, Max: 30}, at(40),
		}),
		"flat": {Label: "x", Lines: [][]*api.Point{{at(1), at(1)}}, Step: time.Second},
	} {
		got := string(drawChart(c))
		file := filepath.Join("testdata", "chart", name+".svg")
		if *update {
			if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got+"\n" != string(want) {
			t.Errorf("%s is drawn otherwise; look at it, then run with -update:\n%s", name, got)
		}
		if n := len(zip([]byte(got))); n > 3000 {
			t.Errorf("%s: %d bytes", name, n)
		}
	}
}

func TestTicks(t *testing.T) {
	zone := berlin(t)
	at := func(m time.Month, d, h int) time.Time { return time.Date(2026, m, d, h, 7, 0, 0, zone) }
	for _, tt := range []struct {
		name     string
		from, to time.Time
		want     string
	}{
		{"day", at(11, 20, 15), at(11, 21, 15), "18:00 00:00 06:00 12:00"},
		{"exactly on marks", at(11, 20, 12).Add(-7 * time.Minute), at(11, 21, 12).Add(-7 * time.Minute), "12:00 18:00 00:00 06:00"},
		{"the day when the clocks go back", at(10, 24, 15), at(10, 25, 15), "18:00 00:00 06:00 12:00"},
		{"the day when the clocks go on", at(3, 28, 15), at(3, 29, 15), "18:00 00:00 06:00 12:00"},
		{"month", at(10, 22, 15), at(11, 21, 15), "28 Oct 4 Nov 11 Nov 18 Nov"},
		{"an hour", at(11, 21, 15), at(11, 21, 16), ""},
		{"a century", at(11, 21, 15).AddDate(-100, 0, 0), at(11, 21, 15), "24 May 23 May 23 May 23 May"},
		{"none", at(11, 21, 15), at(11, 21, 15), ""},
		{"backwards", at(11, 21, 15), at(11, 20, 15), ""},
	} {
		var got []string
		for _, k := range english().ticks(tt.from, tt.to, zone) {
			got = append(got, k.Label)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, s, tt.want)
		}
	}
}

func TestScaleEnd(t *testing.T) {
	for _, tt := range []struct{ v, unit, want float64 }{
		{0, 1000, 1000},
		{1000, 1000, 1000},
		{1001, 1000, 2000},
		{4e3, 1000, 5e3},
		{51e3, 1000, 1e5},
		{-5, 10, 10},
		{math.NaN(), 1, 1},
		{math.Inf(1), 1, 1},
		{5, 0, 1},
		{math.MaxFloat64, 1, math.MaxFloat64},
	} {
		if got := scaleEnd(tt.v, tt.unit); got != tt.want {
			t.Errorf("%g by %g: %g, want %g", tt.v, tt.unit, got, tt.want)
		}
	}
}

// Whatever was measured, the drawing is XML, small, and within its box.
func FuzzDrawChart(f *testing.F) {
	bits := func(v ...float64) []byte {
		var b []byte
		for _, x := range v {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
		}
		return b
	}
	f.Add(bits(1, 2, 3, 4, 5, 6), 0.0, 10.0, int64(300_000), "a")
	f.Add(bits(math.NaN(), -1, math.Inf(1), 1e308, -1e308, 0), -5.0, -5.0, int64(-1), `"<>&`)
	f.Add([]byte{}, math.NaN(), math.Inf(-1), int64(math.MaxInt64), "\x00")
	f.Fuzz(func(t *testing.T, data []byte, low, high float64, step int64, label string) {
		var points []*api.Point
		for ; len(data) >= 8 && len(points) < 5000; data = data[8:] {
			v := math.Float64frombits(binary.LittleEndian.Uint64(data))
			if data[0] == 7 {
				points = append(points, nil)
				continue
			}
			points = append(points, &api.Point{Min: v - 1, Mean: v, Max: v * 2})
		}
		label = strings.Map(func(r rune) rune { // HTML takes what XML does not
			if r < ' ' || r > 0xd7ff {
				return -1
			}
			return r
		}, label)
		from := time.Unix(1.7e9, 0)
		out := string(drawChart(chart{
			Label: label, From: from, Step: time.Duration(step), Lines: [][]*api.Point{points, nil}, Low: low, High: high,
			Ends: [2]string{label, label}, Ticks: []chartTick{{from, label}}, Broken: label,
		}))
		if len(out) > 20_000+10*len(label)*6 {
			t.Fatalf("%d bytes", len(out))
		}
		if strings.Contains(out, "NaN") && !strings.Contains(label, "NaN") {
			t.Fatal(out)
		}
		d := xml.NewDecoder(strings.NewReader(out))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	})
}
