package webui

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// Tones say how much something matters; each has its colour, its icon and always a word as well.
const (
	toneOK   = "ok"
	toneWait = "wait" // under way
	toneLook = "look" // look at this
	toneAct  = "act"  // act now
	toneOff  = "off"
)

// boxView is the box's state in words, as the templates show it.
type boxView struct {
	Rescue   *rescueView // instead of the headline
	Head     concern
	Also     []concern
	Up       string
	Reach    reachView
	Vitals   []vitalView
	Services []serviceView
	Boot     bootView
	Gaps     []gapView
	About    []fact
}

// fact is a name and what it is.
type fact struct{ Name, Value string }

type reachView struct {
	URL   string // the one to remember; empty if there is none
	Label string
	More  []string // further URLs
	Note  string
	Net   []netView
	DNS   string
}

type netView struct {
	Name, Word string
	Up         bool
	Facts      []fact
	Lease      time.Time
}

type vitalView struct {
	Icon, Label, Word, Text, Tone string
	Percent                       int // of the bar; -1 for none
}

type serviceView struct {
	Name, Title, Tone, Word string
	For                     string // in this state
	Since                   time.Time
	Facts                   []fact
	Apart                   string
	Open                    []string // tests of its confinement that did not hold
	Granted                 string   // what it may do because it has to
}

type bootView struct {
	Text   string
	Phases []phaseView
}

type phaseView struct {
	Title, Took, Note, Error string
	X, Width                 float64 // percent of the whole start
}

type gapView struct {
	Name, Text, Detail string
	Warn               bool
}

type rescueView struct {
	Text, Detail string
	Safe         string // what became of the data
	Busy         string // what is under way; empty if nothing
	Progress     float64
	Percent      int
	Checked      bool
	CheckOK      bool
	CheckedAt    time.Time
	Findings     []string
	Problem      string // what was wrong with the last request, in words …
	ProblemName  string // … and as the URL has it
	Word         string
}

// view says the state of the box in the catalogue's words. scheme is that of the URLs it shows.
func (c catalogue) view(b *api.Box, scheme string) *boxView {
	s := &b.System
	v := &boxView{
		Up:     c.s("head.up", c.duration(ms(s.UptimeMS))),
		Reach:  c.reach(b, scheme),
		Vitals: c.vitals(b),
		Boot:   c.boot(s),
	}
	concerns := c.concerns(b)
	if len(concerns) > 0 {
		v.Head, v.Also = concerns[0], concerns[1:]
	} else {
		v.Head = concern{Tone: toneOK, Title: c.s("head.ok.title"), Why: c.s("head.ok.text")}
	}
	if s.Mode == api.ModeRescue {
		v.Rescue = c.rescue(s.Rescue)
		v.Also = concerns
	}
	for _, sv := range s.Services {
		v.Services = append(v.Services, c.service(sv))
	}
	for _, g := range s.Gaps {
		v.Gaps = append(v.Gaps, gapView{g.Name, c.or("gap."+g.Name, g.Text), g.Detail, g.Weight == "warn"})
	}
	about := func(key, value string) {
		if value != "" {
			v.About = append(v.About, fact{c.s(key), value})
		}
	}
	about("about.name", s.Name)
	about("about.model", strings.TrimSpace(s.Board.Model))
	about("about.version", s.Version)
	about("about.slot", c.or("slot."+strings.ToLower(s.Slot), s.Slot))
	about("about.up", c.duration(ms(s.UptimeMS)))
	about("about.id", s.ID)
	return v
}

func (c catalogue) reach(b *api.Box, scheme string) reachView {
	var v reachView
	add := func(host, label string) {
		if v.URL == "" {
			v.URL, v.Label = scheme+"://"+host+"/", label
		} else {
			v.More = append(v.More, scheme+"://"+host+"/")
		}
	}
	if d := b.Discovery; d != nil && d.Name != "" && d.State != "no-network" {
		add(d.Name+".local", d.Name+".local")
		if d.State == "probing" {
			v.Note = c.s("reach.probing")
		}
	}
	if b.Network == nil {
		v.Note = c.s("reach.unknown")
		return v
	}
	var six []string
	for _, i := range b.Network.Interfaces {
		n := netView{Name: i.Name, Up: i.Up, Word: c.s("net.down"), Lease: i.LeaseEnd}
		if i.Up {
			n.Word = c.s("net.up")
		}
		var all []string
		for _, p := range i.Addresses {
			a := p.Addr()
			all = append(all, a.String())
			switch {
			case !i.Up || a.IsLoopback() || a.Is6() && a.IsLinkLocalUnicast():
				// a browser can't open a link-local IPv6 address
			case a.Is4():
				add(a.String(), a.String())
			default:
				six = append(six, "["+a.String()+"]")
			}
		}
		facts := func(key, value string) {
			if value != "" {
				n.Facts = append(n.Facts, fact{c.s(key), value})
			}
		}
		facts("net.addresses", strings.Join(all, "\n"))
		if i.Method != "" {
			facts("net.method", c.or("net."+i.Method, i.Method))
		}
		facts("net.gateway", addr(i.Gateway))
		facts("net.mac", i.MAC)
		v.Net = append(v.Net, n)
	}
	var dns []string
	for _, a := range b.Network.DNS {
		dns = append(dns, a.String())
	}
	v.DNS = strings.Join(dns, "\n")
	if len(v.More) == 0 { // nobody types these if there is another way
		for _, host := range six {
			add(host, host)
		}
	}
	if v.URL == "" && v.Note == "" {
		v.Note = c.s("reach.none")
	}
	return v
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Limits from which a measurement is worth a word.
const (
	tempWarm, tempLook, tempAct = 60, 75, 85 // °C; the Pi slows down from 80
	memLook                     = 0.08       // of the memory available
	diskLook, diskAct           = 0.10, 0.02 // of the disk free
	clockGrace                  = 5 * time.Minute
	startGrace                  = 3 * time.Minute
)

func (c catalogue) vitals(b *api.Box) []vitalView {
	m := &b.System.Vitals
	var out []vitalView

	mem := vitalView{Icon: "memory", Label: c.s("vital.memory"), Tone: toneOK, Percent: -1}
	if m.MemTotal > 0 {
		free := float64(m.MemAvailable) / float64(m.MemTotal)
		mem.Percent = percent(1 - free)
		mem.Text = c.s("memory.text", c.size(m.MemTotal-m.MemAvailable), c.size(m.MemTotal))
		switch {
		case free < memLook:
			mem.Word, mem.Tone = c.s("memory.little"), toneLook
		case free < 0.3:
			mem.Word = c.s("memory.some")
		default:
			mem.Word = c.s("memory.plenty")
		}
		out = append(out, mem)
	}

	disk := vitalView{Icon: "disk", Label: c.s("vital.disk"), Tone: toneOK, Percent: -1}
	if d := m.Data; d != nil && d.Size > 0 {
		free := float64(d.Free) / float64(d.Size)
		disk.Percent = percent(1 - free)
		disk.Text = c.s("disk.text", c.size(d.Size-d.Free), c.size(d.Size))
		switch {
		case d.ReadOnly:
			disk.Word, disk.Tone = c.s("disk.readonly"), toneAct
		case free < diskAct:
			disk.Word, disk.Tone = c.s("disk.full"), toneAct
		case free < diskLook:
			disk.Word, disk.Tone = c.s("disk.little"), toneLook
		case free < 0.3:
			disk.Word = c.s("disk.some")
		default:
			disk.Word = c.s("disk.plenty")
		}
	} else {
		disk.Word, disk.Text, disk.Tone = c.s("disk.none"), c.s("disk.none.text"), toneOff
	}
	out = append(out, disk)

	temp := vitalView{Icon: "temp", Label: c.s("vital.temp"), Tone: toneOff, Percent: -1, Word: c.s("temp.none"), Text: c.s("temp.nosensor")}
	if t := m.Temperature; t != nil {
		temp.Percent = percent(*t / 100)
		temp.Text = c.s("temp.text", *t)
		temp.Tone = toneOK
		switch {
		case *t >= tempAct:
			temp.Word, temp.Tone = c.s("temp.hot"), toneAct
		case *t >= tempLook:
			temp.Word, temp.Tone = c.s("temp.hot"), toneLook
		case *t >= tempWarm:
			temp.Word = c.s("temp.warm")
		default:
			temp.Word = c.s("temp.cool")
		}
	}
	out = append(out, temp)

	if m.CPUs > 0 {
		cpu := vitalView{Icon: "cpu", Label: c.s("vital.cpu"), Tone: toneOK, Percent: percent(m.Load1 / float64(m.CPUs))}
		key := "cpu.text.other"
		if m.CPUs == 1 {
			key = "cpu.text.one"
		}
		cpu.Text = c.s(key, m.Load1, m.CPUs)
		switch load := m.Load1 / float64(m.CPUs); {
		case load >= 1.5:
			cpu.Word = c.s("cpu.very")
		case load >= 0.5:
			cpu.Word = c.s("cpu.busy")
		default:
			cpu.Word = c.s("cpu.quiet")
		}
		out = append(out, cpu)
	}

	clock := vitalView{
		Icon: "clock", Label: c.s("vital.clock"), Tone: toneOff, Percent: -1,
		Word: c.s("clock.unknown"), Text: c.s("clock.noanswer"),
	}
	if n := b.Network; n != nil {
		clock.Word, clock.Text, clock.Tone = c.or("clock."+n.Clock.Certainty, n.Clock.Certainty), n.Clock.Text, toneOK
		if n.Clock.Certainty == api.ClockUnsure {
			if clock.Tone = toneWait; ms(b.System.UptimeMS) > clockGrace {
				clock.Tone = toneLook
			}
		}
	}
	return append(out, clock)
}

func (c catalogue) service(s api.Service) serviceView {
	v := serviceView{
		Name: s.Name, Title: c.or("service."+s.Name, s.Title), Tone: serviceTone(s.State, s.Critical),
		Word: c.or("state."+s.State, c.s("state.unknown")), For: c.duration(ms(s.SinceMS)), Since: s.Since,
	}
	add := func(key, value string) {
		if value != "" {
			v.Facts = append(v.Facts, fact{c.s(key), value})
		}
	}
	add("service.says", s.Status)
	if s.NextTryMS > 0 {
		add("service.next", c.duration(ms(s.NextTryMS)))
	}
	switch {
	case s.Memory > 0 && s.MemoryMax > 0:
		add("service.memory", c.s("service.mem.text", c.size(s.Memory), c.size(s.MemoryMax)))
	case s.Memory > 0:
		add("service.memory", c.size(s.Memory))
	}
	restarts := c.s("service.never")
	if s.Restarts > 0 {
		restarts = c.s("service.times", s.Restarts)
	}
	add("service.restarts", restarts)
	add("service.exit", s.LastExit)
	if s.Confined == nil {
		v.Apart = c.s("apart.unknown")
		return v
	}
	held := 0
	var granted []string
	for _, p := range s.Confined.Probes {
		switch {
		case p.Held:
			held++
		case p.Granted:
			granted = append(granted, c.or("probe."+p.Name, p.Name))
		default:
			v.Open = append(v.Open, strings.TrimSuffix(p.Name+": "+p.Note, ": "))
		}
	}
	if len(granted) > 0 {
		v.Granted = c.s("apart.granted", strings.Join(granted, ", "))
	}
	v.Apart = c.n("apart.yes", held)
	if !s.Confined.OK {
		v.Apart = c.s("apart.no")
		if v.Tone == toneOK {
			v.Tone = toneLook
		}
	}
	return v
}

func serviceTone(state string, critical bool) string {
	switch state {
	case api.StateRunning, api.StateDone:
		return toneOK
	case api.StateWaiting, api.StateStarting, api.StateStopping:
		return toneWait
	case api.StateBackoff:
		return toneLook
	case api.StateStopped:
		return toneOff
	}
	if critical {
		return toneAct
	}
	return toneLook
}

// boot shows the steps of the start and, after them, when each service was ready for the first time.
func (c catalogue) boot(s *api.System) bootView {
	steps := slices.Clone(s.Phases)
	begun := int64(0)
	for _, p := range steps {
		begun = max(begun, p.StartMS) // the services are the last step
	}
	running := len(steps) == 0
	for _, v := range s.Services {
		p := api.Phase{Name: "service." + v.Name, Title: c.or("service."+v.Name, v.Title), StartMS: begun, TookMS: -1}
		switch v.State {
		case api.StateRunning, api.StateDone:
			if v.Restarts > 0 {
				continue // when it was ready first is not known any more
			}
			p.TookMS = max(0, (s.UptimeMS-v.SinceMS-begun+25)/50*50) // the two clocks are not read in the same instant
		case api.StateWaiting, api.StateStarting:
			if ms(s.UptimeMS) > startGrace {
				continue
			}
		default:
			continue
		}
		steps = append(steps, p)
	}
	var end int64
	for _, p := range steps {
		end = max(end, p.StartMS+max(p.TookMS, 0))
		running = running || p.TookMS < 0
	}
	v := bootView{Text: c.s("boot.took", float64(end)/1000)}
	if running {
		v.Text = c.s("boot.running")
	}
	for _, p := range steps {
		pv := phaseView{Title: c.or("phase."+p.Name, p.Title), Took: c.s("boot.open"), Note: p.Note, Error: p.Error}
		if end > 0 {
			pv.X = math.Max(0, math.Min(99, 100*float64(p.StartMS)/float64(end)))
			pv.Width = 100 - pv.X
			if p.TookMS >= 0 {
				pv.Width = math.Max(1, math.Min(pv.Width, 100*float64(p.TookMS)/float64(end)))
			}
		}
		if p.TookMS >= 0 {
			pv.Took = c.s("boot.seconds", float64(p.TookMS)/1000)
		}
		v.Phases = append(v.Phases, pv)
	}
	return v
}

func (c catalogue) rescue(r *api.Rescue) *rescueView {
	v := &rescueView{Word: api.StartOverWord}
	if r == nil {
		return v
	}
	v.Text, v.Detail = c.or("rescue.code."+r.Code, r.Text), r.Detail
	v.Safe = c.s("rescue.safe")
	if r.Code == api.RescueUnfinished {
		v.Safe = c.s("rescue.erased")
	}
	switch r.Busy {
	case "":
	case "retry":
		v.Busy = c.s("rescue.busy.retry")
	case "check":
		v.Busy = c.s("rescue.busy.check")
	case "start-over":
		v.Busy = c.s("rescue.busy.over")
	default:
		v.Busy = c.s("rescue.busy")
	}
	v.Percent = percent(r.Progress)
	v.Progress = float64(v.Percent) / 100
	if k := r.Check; k != nil {
		v.Checked, v.CheckOK, v.CheckedAt, v.Findings = true, k.OK, k.At, k.Findings
	}
	return v
}

func percent(f float64) int {
	if !(f > 0) { // NaN too
		return 0
	}
	return int(math.Min(100, math.Round(100*f)))
}

func ms(n int64) time.Duration { return time.Duration(max(0, n)) * time.Millisecond }

// concern is something that the owner should know: what it is, why, and the one next step.
type concern struct{ Tone, Title, Why, Next string }

// concerns judges the box, the worst first.
func (c catalogue) concerns(b *api.Box) []concern {
	s := &b.System
	var out []concern
	add := func(tone, title, why, next string) { out = append(out, concern{tone, title, why, next}) }
	up := ms(s.UptimeMS)

	starting := 0
	for _, v := range s.Services {
		title := c.or("service."+v.Name, v.Title)
		tone := serviceTone(api.StateFailed, v.Critical)
		switch v.State {
		case api.StateRunning:
			if up > startGrace && (v.Name == "network" && b.Network == nil || v.Name == "discovery" && b.Discovery == nil) {
				add(toneWait, c.s("concern.silent", title), c.s("concern.silent.why"), c.s("concern.silent.next"))
			}
		case api.StateCrashing:
			why, next := c.s("concern.crashing.why"), c.s("concern.crashing.next")
			if strings.Contains(v.LastExit, "memory") {
				why = c.s("concern.crashing.mem")
			}
			if v.NextTryMS > 0 {
				next = c.s("concern.crashing.try", c.duration(ms(v.NextTryMS)))
			}
			add(tone, c.s("concern.crashing", title), why, next)
		case api.StateFailed:
			add(tone, c.s("concern.failed", title), c.s("concern.failed.why"), c.s("concern.failed.next"))
		case api.StateBackoff:
			add(toneLook, c.s("concern.backoff", title), c.s("concern.backoff.why"), c.s("concern.backoff.next"))
		case api.StateWaiting, api.StateStarting:
			if up < startGrace {
				starting++
			} else if ms(v.SinceMS) > startGrace {
				add(tone, c.s("concern.slow", title), c.s("concern.slow.why"), c.s("concern.slow.next"))
			}
		}
		if v.Confined != nil && !v.Confined.OK {
			add(toneLook, c.s("concern.open", title), c.s("concern.open.why"), c.s("concern.open.next"))
		}
	}
	for _, p := range s.Phases {
		if p.Error != "" && s.Mode != api.ModeRescue { // rescue mode says it itself
			title := c.or("phase."+p.Name, p.Title)
			add(toneLook, c.s("concern.phase"), c.s("concern.phase.why", title), c.s("concern.phase.next"))
		}
	}
	m := &s.Vitals
	if d := m.Data; d != nil && d.Size > 0 {
		free := float64(d.Free) / float64(d.Size)
		switch {
		case d.ReadOnly:
			add(toneAct, c.s("concern.readonly"), c.s("concern.readonly.why"), c.s("concern.readonly.next"))
		case free < diskAct:
			add(toneAct, c.s("concern.full"), c.s("concern.full.why", c.size(d.Free), c.size(d.Size)), c.s("concern.full.next"))
		case free < diskLook:
			add(toneLook, c.s("concern.nearfull"), c.s("concern.nearfull.why", c.size(d.Free), c.size(d.Size)),
				c.s("concern.nearfull.next"))
		}
	}
	if t := m.Temperature; t != nil {
		switch {
		case *t >= tempAct:
			add(toneAct, c.s("concern.hot"), c.s("concern.hot.why", *t), c.s("concern.hot.next"))
		case *t >= tempLook:
			add(toneLook, c.s("concern.warm"), c.s("concern.warm.why", *t), c.s("concern.hot.next"))
		}
	}
	if m.UnderVoltage != nil && *m.UnderVoltage {
		add(toneAct, c.s("concern.power"), c.s("concern.power.why"), c.s("concern.power.next"))
	}
	if m.MemTotal > 0 && float64(m.MemAvailable) < memLook*float64(m.MemTotal) {
		add(toneLook, c.s("concern.memory"), c.s("concern.memory.why", c.size(m.MemAvailable), c.size(m.MemTotal)),
			c.s("concern.memory.next"))
	}
	if d := b.Discovery; d != nil && d.Conflict != "" {
		add(toneLook, c.s("concern.conflict", d.Wanted+".local"), d.Conflict, c.s("concern.conflict.next", d.Name+".local"))
	}
	if n := b.Network; n != nil {
		for _, i := range n.Interfaces {
			if i.Problem != "" {
				add(toneLook, c.s("concern.network"), i.Problem, c.s("concern.network.next"))
			}
		}
		if n.Clock.Certainty == api.ClockUnsure && up > clockGrace {
			add(toneLook, c.s("concern.clock"), n.Clock.Text, "") // the text ends with what to do
		}
	}
	for _, n := range b.Notices {
		if n.Weight == "warn" {
			key := "notice." + n.Name
			text := c.or(key, n.Text)
			title, why, found := strings.Cut(text, ". ")
			if !found {
				title, why = strings.TrimSuffix(text, "."), ""
			}
			add(toneLook, title, why, c.or(key+".next", n.Next))
		}
	}
	if starting > 0 {
		add(toneWait, c.s("head.starting.title"), c.n("head.starting", starting), c.s("head.starting.next"))
	}
	rank := map[string]int{toneAct: 0, toneLook: 1, toneWait: 2}
	slices.SortStableFunc(out, func(x, y concern) int { return rank[x.Tone] - rank[y.Tone] })
	return out
}

// localTime says a time as the clocks of the household show it.
func (c catalogue) localTime(t time.Time, zone *time.Location) string {
	return t.In(zone).Format(c.s("time.layout"))
}

// ago says how long ago a time was.
func (c catalogue) ago(t time.Time) string { return c.s("time.ago", c.duration(time.Since(t))) }

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func decimal(f float64) string { return fmt.Sprintf("%.2f", f) }
