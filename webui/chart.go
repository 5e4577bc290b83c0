package webui

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// The drawing, in units of half a pixel on a phone.
const (
	chartWidth  = 640
	chartTop    = 32 // room for the label of the scale's end
	chartHeight = 150
	chartBottom = 40 // room for the labels of the ticks
	chartMost   = 160
)

// chart is what drawChart draws: measurements over time.
type chart struct {
	Label  string // the text alternative
	From   time.Time
	Step   time.Duration
	Lines  [][]*api.Point // the first with the band of its least and greatest; further ones dashed, without
	Low    float64        // of the scale
	High   float64
	Ends   [2]string // what the scale's ends are called, the lower first; either may be empty
	Ticks  []chartTick
	Broken string // what it says when there is nothing to draw
}

// chartTick is a mark on the time axis.
type chartTick struct {
	At    time.Time
	Label string
}

// drawChart returns an inline SVG. It is a pure function of c, whatever the values: what is no number is a gap, what is
// off the scale is drawn at its end.
func drawChart(c chart) template.HTML {
	var w strings.Builder
	const height = chartTop + chartHeight + chartBottom
	fmt.Fprintf(&w, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, height,
		template.HTMLEscapeString(c.Label))
	const bottom = chartTop + chartHeight
	fmt.Fprintf(&w, `<path class="grid" d="M0 %dh%dM0 %dh%d"/>`, chartTop, chartWidth, bottom, chartWidth)
	text := func(x, y int, anchor, s string) {
		if s != "" {
			fmt.Fprintf(&w, `<text x="%d" y="%d"%s>%s</text>`, x, y, anchor, template.HTMLEscapeString(s))
		}
	}
	text(0, chartTop-9, "", c.Ends[1])
	text(0, bottom-9, "", c.Ends[0])

	drawn := false
	for i, points := range c.Lines {
		band, line, x, y := c.paths(points)
		if line == "" {
			continue
		}
		drawn = true
		if i == 0 {
			fmt.Fprintf(&w, `<path class="band" d="%s"/><path class="line" d="%s"/>`, band, line)
		} else {
			fmt.Fprintf(&w, `<path class="line second" d="%s"/>`, line)
		}
		if x >= 0 {
			fmt.Fprintf(&w, `<circle cx="%d" cy="%d" r="7"/>`, x, y)
		}
	}
	if !drawn {
		text(chartWidth/2, chartTop+chartHeight/2+8, ` text-anchor="middle"`, c.Broken)
	}
	span := time.Duration(c.length()) * c.Step
	for _, t := range c.Ticks {
		if span <= 0 {
			break
		}
		x := int(math.Round(chartWidth * float64(t.At.Sub(c.From)) / float64(span)))
		if x < 0 || x > chartWidth {
			continue
		}
		anchor := ` text-anchor="middle"`
		switch {
		case x < 45:
			anchor = ""
		case x > chartWidth-45:
			anchor = ` text-anchor="end"`
		}
		fmt.Fprintf(&w, `<path class="grid" d="M%d %dv10"/>`, x, bottom)
		text(x, height-4, anchor, t.Label)
	}
	w.WriteString("</svg>")
	return template.HTML(w.String())
}

// length is the number of steps on the time axis.
func (c *chart) length() int {
	n := 0
	for _, l := range c.Lines {
		n = max(n, len(l))
	}
	return n
}

// paths draws one series: the band, the line, and where its last point is if that is the present (else -1). Each stretch
// between gaps is a shape of its own.
func (c *chart) paths(points []*api.Point) (band, line string, lastX, lastY int) {
	every := (c.length() + chartMost - 1) / chartMost
	var b, l strings.Builder
	var xs, lows, highs []int
	lastX, lastY = -1, -1
	end := func() {
		if len(xs) == 0 {
			return
		}
		fmt.Fprintf(&b, "M%d %d", xs[0], highs[0])
		for i := 1; i < len(xs); i++ {
			move(&b, xs[i]-xs[i-1], highs[i]-highs[i-1])
		}
		fmt.Fprintf(&b, "V%d", lows[len(xs)-1])
		for i := len(xs) - 1; i > 0; i-- {
			move(&b, xs[i-1]-xs[i], lows[i-1]-lows[i])
		}
		b.WriteByte('z')
		xs, lows, highs = xs[:0], lows[:0], highs[:0]
	}
	for i := 0; i < len(points); i += every {
		p := merge(points[i:min(i+every, len(points))])
		if p == nil {
			end()
			lastX = -1
			continue
		}
		x := int(math.Round(chartWidth * (float64(i) + float64(every)/2) / float64(c.length())))
		x = min(x, chartWidth)
		y := c.y(p.Mean)
		if len(xs) == 0 {
			fmt.Fprintf(&l, "M%d %dh0", x, y) // h0 makes a lone point a dot
		} else {
			move(&l, x-xs[len(xs)-1], y-lastY)
		}
		xs, lows, highs = append(xs, x), append(lows, c.y(p.Min)), append(highs, c.y(p.Max))
		lastX, lastY = x, y
	}
	end()
	return b.String(), l.String(), lastX, lastY
}

// move draws to a point beside the last.
func move(w *strings.Builder, dx, dy int) {
	if dy == 0 {
		fmt.Fprintf(w, "h%d", dx)
		return
	}
	fmt.Fprintf(w, "l%d", dx)
	if dy > 0 {
		w.WriteByte(' ')
	}
	fmt.Fprintf(w, "%d", dy)
}

// y is where a value stands.
func (c *chart) y(v float64) int {
	share := (v - c.Low) / (c.High - c.Low)
	if !(share > 0) { // NaN too: a scale without extent
		share = 0
	}
	return chartTop + int(math.Round(chartHeight*(1-math.Min(1, share))))
}

// merge makes one point of several; nil if nothing was measured in any.
func merge(points []*api.Point) *api.Point {
	var out *api.Point
	n := 0.0
	for _, p := range points {
		if p == nil || !finite(p.Min) || !finite(p.Mean) || !finite(p.Max) {
			continue
		}
		least, most := math.Min(p.Min, p.Mean), math.Max(p.Max, p.Mean)
		if n++; out == nil {
			out = &api.Point{Min: least, Mean: p.Mean, Max: most}
			continue
		}
		out.Min, out.Max = math.Min(out.Min, least), math.Max(out.Max, most)
		out.Mean += (p.Mean - out.Mean) / n
	}
	return out
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// ticks returns four marks on a time axis that mean something to people: quarters of the day, or else midnights a week
// (a quarter of the time, in whole days) apart.
func (c catalogue) ticks(from, to time.Time, zone *time.Location) []chartTick {
	var out []chartTick
	span := to.Sub(from)
	if span <= 0 {
		return nil
	}
	if span <= 48*time.Hour {
		y, m, d := from.In(zone).Date()
		for h := 0; len(out) < 5; h += 6 {
			t := time.Date(y, m, d, h, 0, 0, 0, zone)
			if !t.Before(to) {
				break
			}
			if t.Before(from) {
				continue
			}
			out = append(out, chartTick{t, t.In(zone).Format(c.s("chart.hour"))})
		}
		if len(out) > 4 {
			out = out[len(out)-4:]
		}
		return out
	}
	days := int(span / (4 * 24 * time.Hour))
	y, m, d := to.Add(-time.Duration(days) * 12 * time.Hour).In(zone).Date()
	for i := 3; i >= 0; i-- {
		t := time.Date(y, m, d-i*max(days, 1), 0, 0, 0, 0, zone)
		if !t.Before(from) && t.Before(to) {
			out = append(out, chartTick{t, t.Format(c.s("chart.day"))})
		}
	}
	return out
}

// scaleEnd is the first of 1, 2, 5, 10, 20, … times unit that is not less than v.
func scaleEnd(v, unit float64) float64 {
	if !finite(v) || !finite(unit) || unit <= 0 {
		return 1
	}
	for end := unit; end < math.MaxFloat64/10; end *= 10 {
		for _, f := range []float64{1, 2, 5} {
			if f*end >= v {
				return f * end
			}
		}
	}
	return math.MaxFloat64
}
