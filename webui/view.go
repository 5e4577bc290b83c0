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
	UpFor    string
	Clock    fact
	Reach    reachView
	Vitals   []vitalView
	Range    string         // of the charts; empty without charts
	Trial    *homeTrialView // a configuration of the network that is tried, for owners
	Owner    bool
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
	QR    *qrView
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

type serviceView struct {
	Name, Title, Tone, Word string
	Path                    string // of its page
	Brief                   string // since when, memory, restarts
	For                     string // in this state
	Since                   time.Time
	Facts                   []fact
	Apart                   string
	Open                    []string // tests of its confinement that did not hold
	Granted                 string   // what it may do because it has to
	Tests                   []fact   // of its confinement
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
	System       bool   // the rescue system runs, which does not touch the data partition
	Busy         string // what is under way; empty if nothing
	Cancel       bool   // it may be cancelled
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

// view says the state of the box in the catalogue's words, without charts. scheme is that of the URLs it shows.
func (c catalogue) view(b *api.Box, scheme string) *boxView { return c.viewWith(b, scheme, nil) }

// viewWith is view with the charts of h.
func (c catalogue) viewWith(b *api.Box, scheme string, h *watch) *boxView {
	s := &b.System
	v := &boxView{
		Up:     c.s("head.up", c.past(ms(s.UptimeMS))),
		UpFor:  c.past(ms(s.UptimeMS)),
		Reach:  c.reach(b, scheme),
		Vitals: c.vitals(b, h),
		Clock:  c.clock(b),
		Boot:   c.boot(s),
	}
	if h != nil {
		v.Range = h.Range
	}
	concerns := c.withAlerts(c.concerns(b), b.Alerts)
	switch {
	case len(concerns) > 0 && !concerns[0].Past:
		v.Head, v.Also = concerns[0], concerns[1:]
	case len(concerns) > 0:
		v.Head = concern{Tone: toneOK, Title: c.s("head.again.title"), Why: c.n("head.again", len(concerns))}
		v.Also = concerns
	default:
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
		v.Gaps = append(v.Gaps, gapView{g.Name, c.said("gap."+g.Name, g.Text), g.Detail, g.Weight == "warn"})
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
	about("about.up", c.past(ms(s.UptimeMS)))
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
	if v.URL != "" {
		v.QR = newQR(v.URL, c.s("reach.qr"))
	}
	return v
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (c catalogue) service(s api.Service) serviceView {
	v := serviceView{
		Name: s.Name, Title: c.or("service-name."+s.Name, s.Title), Tone: serviceTone(s.State, s.Critical),
		Word: c.or("state."+s.State, c.s("state.unknown")), For: c.past(ms(s.SinceMS)), Since: s.Since, Path: servicePath(s.Name),
	}
	brief := []string{c.s("service.for", v.For)}
	if s.Memory > 0 {
		brief = append(brief, c.size(s.Memory))
	}
	if s.Restarts > 0 {
		brief = append(brief, c.n("service.again", s.Restarts))
	}
	v.Brief = strings.Join(brief, " · ")
	add := func(key, value string) {
		if value != "" {
			v.Facts = append(v.Facts, fact{c.s(key), value})
		}
	}
	add("service.says", c.said("said.status.", s.Status))
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
	add("service.exit", c.said("said.exit.", s.LastExit))
	if s.Confined == nil {
		v.Apart = c.s("apart.unknown")
		return v
	}
	held := 0
	var granted []string
	for _, p := range s.Confined.Probes {
		test := fact{c.or("probe."+p.Name, p.Name), c.s("probe.open")}
		switch {
		case p.Held:
			test.Value = c.s("probe.held")
		case p.Granted:
			test.Value = c.s("probe.granted")
		}
		v.Tests = append(v.Tests, test)
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
		p := api.Phase{Name: "service." + v.Name, Title: c.or("service-name."+v.Name, v.Title), StartMS: begun, TookMS: -1}
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
	v.System = r.Code == api.RescueSystem
	if r.Code == api.RescueUnfinished {
		v.Safe = c.s("rescue.erased")
	}
	switch r.Busy {
	case "":
	case "retry":
		v.Busy = c.s("rescue.busy.retry")
	case "check":
		v.Busy, v.Cancel = c.s("rescue.busy.check"), true
	case "start-over":
		v.Busy = c.s("rescue.busy.over")
	default:
		v.Busy = c.s("rescue.busy")
	}
	v.Percent = percent(r.Progress)
	v.Progress = float64(v.Percent) / 100
	if k := r.Check; k != nil {
		v.Checked, v.CheckOK, v.CheckedAt, v.Findings = true, k.OK, k.At, nil
		for _, f := range k.Findings {
			v.Findings = append(v.Findings, c.said("said.finding.", f))
		}
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
type concern struct {
	Tone, Title, Why, Next string

	Name, Target string     // of the alert that says the same
	Href         string     // of the page of the service that it is about
	Alert        *alertView // if no owner has seen it yet
	Past         bool       // only the alert says so, and it is over
}

// concerns judges the box, the worst first.
func (c catalogue) concerns(b *api.Box) []concern {
	s := &b.System
	var out []concern
	add := func(tone, title, why, next string) *concern {
		out = append(out, concern{Tone: tone, Title: title, Why: why, Next: next})
		return &out[len(out)-1]
	}
	up := ms(s.UptimeMS)

	starting := 0
	for _, v := range s.Services {
		title := c.or("service-name."+v.Name, v.Title)
		tone := serviceTone(api.StateFailed, v.Critical)
		add := func(tone, title, why, next string) *concern {
			k := add(tone, title, why, next)
			k.Href = servicePath(v.Name)
			return k
		}
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
			k := add(tone, c.s("concern.crashing", title), why, next)
			k.Name, k.Target = "crash-loop", v.Name
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
			add(toneAct, c.s("concern.readonly"), c.s("concern.readonly.why"), c.s("concern.readonly.next")).Name = "disk-read-only"
		case free < diskAct:
			add(toneAct, c.s("concern.full"), c.s("concern.full.why", c.size(d.Free), c.size(d.Size)),
				c.s("concern.full.next")).Name = "disk-full"
		case free < diskLook:
			add(toneLook, c.s("concern.nearfull"), c.s("concern.nearfull.why", c.size(d.Free), c.size(d.Size)),
				c.s("concern.nearfull.next")).Name = "disk-nearly-full"
		}
	}
	if t := m.Temperature; t != nil {
		switch {
		case *t >= tempAct:
			add(toneAct, c.s("concern.hot"), c.s("concern.hot.why", *t), c.s("concern.hot.next")).Name = "hot"
		case *t >= tempLook:
			add(toneLook, c.s("concern.warm"), c.s("concern.warm.why", *t), c.s("concern.hot.next")).Name = "hot"
		}
	}
	if m.UnderVoltage != nil && *m.UnderVoltage {
		add(toneAct, c.s("concern.power"), c.s("concern.power.why"), c.s("concern.power.next")).Name = "under-voltage"
	}
	if m.MemTotal > 0 && float64(m.MemAvailable) < memLook*float64(m.MemTotal) {
		add(toneLook, c.s("concern.memory"), c.s("concern.memory.why", c.size(m.MemAvailable), c.size(m.MemTotal)),
			c.s("concern.memory.next"))
	}
	if u := b.Updates; u != nil && (u.State == api.UpdateRestarting || u.State == api.UpdateTrial) {
		add(toneWait, c.s("update-state."+u.State), c.s("update-state."+u.State+".text"), c.s("head.starting.next")).Href = "/updates"
	}
	if d := b.Discovery; d != nil && d.Conflict != "" {
		add(toneLook, c.s("concern.conflict", d.Wanted+".local"), c.s("concern.conflict.why", d.Name+".local", d.Wanted+".local"), c.s("concern.conflict.next", d.Name+".local"))
	}
	if n := b.Network; n != nil {
		for _, i := range n.Interfaces {
			if i.Problem != "" {
				add(toneLook, c.s("concern.network"), c.said("said.network.", i.Problem), c.s("concern.network.next"))
			}
		}
		if n.Clock.Certainty == api.ClockUnsure && up > clockGrace {
			add(toneLook, c.s("concern.clock"), c.said("said.clock.", n.Clock.Text), "") // the text ends with what to do
		}
	}
	for _, n := range b.Notices {
		if n.Weight == "warn" {
			key := "notice." + n.Name
			text := c.or(key, n.Text)
			if at, err := time.Parse(time.RFC3339, n.Args["at"]); err == nil && c[key+".at"] != "" {
				text = c.s(key+".at", c.localTime(at, time.UTC))
			}
			title, why, found := strings.Cut(text, ". ")
			if !found {
				title, why = strings.TrimSuffix(text, "."), ""
			}
			add(toneLook, title, why, c.or(key+".next", n.Next)).Name = n.Name
		}
	}
	if starting > 0 {
		add(toneWait, c.s("head.starting.title"), c.n("head.starting", starting), c.s("head.starting.next"))
	}
	return sorted(out)
}

// sorted puts what is so now before what is over, and what is grave first.
func sorted(all []concern) []concern {
	rank := func(k concern) int {
		n := map[string]int{toneAct: 0, toneLook: 1, toneWait: 2}[k.Tone]
		if k.Past {
			n += 3
		}
		return n
	}
	slices.SortStableFunc(all, func(x, y concern) int { return rank(x) - rank(y) })
	return all
}

// clock says what time it is as far as the box knows.
func (c catalogue) clock(b *api.Box) fact {
	if b.Network == nil {
		return fact{c.s("clock.unknown"), c.s("clock.noanswer")}
	}
	k := &b.Network.Clock
	return fact{c.or("clock."+k.Certainty, k.Certainty), c.said("clock-text.", k.Text)}
}

// localTime says a time as the clocks of the household show it.
func (c catalogue) localTime(t time.Time, zone *time.Location) string {
	return t.In(zone).Format(c.s("time.layout"))
}

// ago says how long ago a time was.
func (c catalogue) ago(t time.Time) string { return c.s("time.ago", c.past(time.Since(t))) }

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func decimal(f float64) string { return fmt.Sprintf("%.2f", f) }
