package webui

import (
	"html/template"
	"math"
	"time"

	"github.com/croft-os/croft/services/api"
)

// vitalView is one measurement: how it is now, in words, and how it was.
type vitalView struct {
	Icon, Label, Word, Text, Tone string
	Percent                       int           // of the bar, where there is no chart; -1 for none
	Chart                         template.HTML // empty without a history
	Span                          string        // lowest and highest of the chart
}

// watch is the history of the measurements as a chart needs it; nil where there is none.
type watch struct {
	*api.History
	zone *time.Location
}

// Limits from which a measurement is worth a word.
const (
	tempWarm, tempLook, tempAct = 60, 75, 85 // °C; the Pi slows down from 80
	memLook                     = 0.08       // of the memory available
	diskLook, diskAct           = 0.10, 0.02 // of the disk free
	clockGrace                  = 5 * time.Minute
	startGrace                  = 3 * time.Minute
	netQuiet, netBusy           = 20e3, 2e6 // bytes a second
)

// vitals says how the box is doing.
func (c catalogue) vitals(b *api.Box, h *watch) []vitalView {
	var out []vitalView
	for _, one := range []func(*api.Box, *watch) (vitalView, bool){c.cpu, c.memory, c.temperature, c.disk, c.traffic} {
		if v, ok := one(b, h); ok {
			out = append(out, v)
		}
	}
	return out
}

func (c catalogue) cpu(b *api.Box, h *watch) (vitalView, bool) {
	m := &b.System.Vitals
	if m.CPUs <= 0 {
		return vitalView{}, false
	}
	load := m.Load1 / float64(m.CPUs)
	v := vitalView{Icon: "cpu", Label: c.s("vital.cpu"), Tone: toneOK, Percent: percent(load)}
	key := "cpu.text.other"
	if m.CPUs == 1 {
		key = "cpu.text.one"
	}
	v.Text = c.s(key, m.Load1, m.CPUs)
	if last := h.last(api.SeriesCPU); last != nil {
		v.Text = c.s("cpu.used", last.Mean)
	}
	switch {
	case load >= 1.5:
		v.Word = c.s("cpu.very")
	case load >= 0.5:
		v.Word = c.s("cpu.busy")
	default:
		v.Word = c.s("cpu.quiet")
	}
	c.chart(&v, h, scale{high: 100, say: func(f float64) string { return c.s("cpu.percent", f) }, ends: true}, api.SeriesCPU)
	return v, true
}

func (c catalogue) memory(b *api.Box, h *watch) (vitalView, bool) {
	m := &b.System.Vitals
	if m.MemTotal <= 0 {
		return vitalView{}, false
	}
	free := float64(m.MemAvailable) / float64(m.MemTotal)
	v := vitalView{
		Icon: "memory", Label: c.s("vital.memory"), Tone: toneOK, Percent: percent(1 - free),
		Text: c.s("memory.text", c.size(m.MemTotal-m.MemAvailable), c.size(m.MemTotal)),
	}
	switch {
	case free < memLook:
		v.Word, v.Tone = c.s("memory.little"), toneLook
	case free < 0.3:
		v.Word = c.s("memory.some")
	default:
		v.Word = c.s("memory.plenty")
	}
	c.chart(&v, h, scale{high: float64(m.MemTotal), say: c.bytes, ends: true}, api.SeriesMemory)
	return v, true
}

func (c catalogue) temperature(b *api.Box, h *watch) (vitalView, bool) {
	t := b.System.Vitals.Temperature
	if t == nil {
		return vitalView{
			Icon: "temp", Label: c.s("vital.temp"), Tone: toneOff, Percent: -1, Word: c.s("temp.none"), Text: c.s("temp.nosensor"),
		}, true
	}
	v := vitalView{Icon: "temp", Label: c.s("vital.temp"), Tone: toneOK, Percent: percent(*t / 100), Text: c.s("temp.text", *t)}
	switch {
	case *t >= tempAct:
		v.Word, v.Tone = c.s("temp.hot"), toneAct
	case *t >= tempLook:
		v.Word, v.Tone = c.s("temp.hot"), toneLook
	case *t >= tempWarm:
		v.Word = c.s("temp.warm")
	default:
		v.Word = c.s("temp.cool")
	}
	low, high, ok := h.span(api.SeriesTemperature)
	if !ok {
		low, high = *t, *t
	}
	low = math.Floor((low-5)/10) * 10
	high = math.Max(low+30, math.Ceil((high+2)/10)*10)
	c.chart(&v, h, scale{low: low, high: high, ends: true, say: func(f float64) string { return c.s("temp.degrees", f) }}, api.SeriesTemperature)
	return v, true
}

func (c catalogue) disk(b *api.Box, h *watch) (vitalView, bool) {
	d := b.System.Vitals.Data
	if d == nil || d.Size <= 0 {
		return vitalView{
			Icon: "disk", Label: c.s("vital.disk"), Tone: toneOff, Percent: -1, Word: c.s("disk.none"), Text: c.s("disk.none.text"),
		}, true
	}
	free := float64(d.Free) / float64(d.Size)
	v := vitalView{
		Icon: "disk", Label: c.s("vital.disk"), Tone: toneOK, Percent: percent(1 - free),
		Text: c.s("disk.text", c.size(d.Size-d.Free), c.size(d.Size)),
	}
	switch {
	case d.ReadOnly:
		v.Word, v.Tone = c.s("disk.readonly"), toneAct
	case free < diskAct:
		v.Word, v.Tone = c.s("disk.full"), toneAct
	case free < diskLook:
		v.Word, v.Tone = c.s("disk.little"), toneLook
	case free < 0.3:
		v.Word = c.s("disk.some")
	default:
		v.Word = c.s("disk.plenty")
	}
	c.chart(&v, h, scale{high: float64(d.Size), say: c.bytes, ends: true}, api.SeriesDisk)
	return v, true
}

// traffic is what goes in and out over the network; there is none without a history.
func (c catalogue) traffic(_ *api.Box, h *watch) (vitalView, bool) {
	if h == nil {
		return vitalView{}, false
	}
	v := vitalView{Icon: "net", Label: c.s("vital.network"), Tone: toneOK, Percent: -1, Word: c.s("traffic.unknown")}
	in, out := h.last(api.SeriesNetIn), h.last(api.SeriesNetOut)
	if in != nil && out != nil {
		switch sum := in.Mean + out.Mean; {
		case sum >= netBusy:
			v.Word = c.s("traffic.busy")
		case sum >= netQuiet:
			v.Word = c.s("traffic.some")
		default:
			v.Word = c.s("traffic.quiet")
		}
		v.Text = c.s("traffic.text", c.rate(in.Mean), c.rate(out.Mean))
	}
	high := 0.0
	for _, name := range []string{api.SeriesNetIn, api.SeriesNetOut} {
		if _, most, ok := h.span(name); ok {
			high = math.Max(high, most)
		}
	}
	c.chart(&v, h, scale{high: scaleEnd(high, 10e3), say: c.rate, ends: true}, api.SeriesNetIn, api.SeriesNetOut)
	return v, true
}

// scale is the vertical one of a chart.
type scale struct {
	low, high float64
	ends      bool // say what they are
	say       func(float64) string
}

// chart draws the series of that names; the first is described.
func (c catalogue) chart(v *vitalView, h *watch, s scale, names ...string) {
	if h == nil || h.StepMS <= 0 {
		return
	}
	step := ms(h.StepMS)
	d := chart{
		From: h.From, Step: step, Low: s.low, High: s.high, Broken: c.s("chart.none"),
	}
	if s.ends {
		d.Ends[1] = s.say(s.high)
		if s.low != 0 {
			d.Ends[0] = s.say(s.low)
		}
	}
	for _, name := range names {
		d.Lines = append(d.Lines, h.points(name))
	}
	span := c.s("chart.day24")
	if h.Range == api.Range30d {
		span = c.s("chart.days30")
	}
	low, high, ok := h.span(names[0])
	last := h.last(names[0])
	switch {
	case !ok:
		d.Label = c.s("chart.label.none", v.Label, span)
	case last == nil:
		d.Label = c.s("chart.label.gap", v.Label, span, s.say(low), s.say(high))
	default:
		d.Label = c.s("chart.label", v.Label, span, s.say(low), s.say(high), s.say(last.Mean))
	}
	if from, to := s.say(low), s.say(high); ok && from != to {
		v.Span = c.s("chart.span", from, to)
	}
	d.Ticks = c.ticks(h.From, h.From.Add(time.Duration(d.length())*step), h.zone)
	v.Chart = drawChart(d)
}

// points of a series; none if there is no such series.
func (h *watch) points(name string) []*api.Point {
	if h == nil || h.History == nil {
		return nil
	}
	for _, s := range h.Series {
		if s.Name == name {
			return s.Points
		}
	}
	return nil
}

// last is the present point of a series: its last one, or the one before, as the step of now may not be complete.
func (h *watch) last(name string) *api.Point {
	p := h.points(name)
	for i := len(p) - 1; i >= max(0, len(p)-2); i-- {
		if one := merge(p[i : i+1]); one != nil {
			return one
		}
	}
	return nil
}

// span is the lowest and highest that was measured.
func (h *watch) span(name string) (low, high float64, ok bool) {
	p := merge(h.points(name))
	if p == nil {
		return 0, 0, false
	}
	return p.Min, p.Max, true
}

// bytes says a size that is measured.
func (c catalogue) bytes(f float64) string { return c.size(int64(math.Max(0, math.Min(f, 1e18)))) }

// rate says how fast bytes go.
func (c catalogue) rate(f float64) string {
	if f >= 1e6 {
		return c.s("rate.mb", f/1e6)
	}
	return c.s("rate.kb", math.Max(0, f)/1e3)
}
