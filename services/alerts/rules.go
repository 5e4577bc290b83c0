package alerts

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// Bounds of the rules. What has begun ends only once it is clearly over.
const (
	nearlyFull, nearlyFullOver = 0.10, 0.12 // free part of the disk
	full, fullOver             = 0.02, 0.03
	fullBytes, fullBytesOver   = 50 << 20, 75 << 20
	hot, hotOver               = 80.0, 75.0 // °C
	unsureFor                  = 10 * time.Minute
)

// weights of the alerts, by name.
const (
	warn = "warn"
	act  = "act"
)

// key names an alert: what it is and whom it is about.
type key struct{ name, target string }

// finding is that something is so.
type finding struct {
	weight string
	args   map[string]string
}

// memory is what the rules have to know of what was before.
type memory struct {
	active   func(key) bool // it has begun and is not over
	unsure   time.Duration  // since when the clock is unsure; negative: it is not
	restarts map[string]int // of each service; nil before the first look
}

// look returns what is so, by the box as it is now and as it was; at is by the monotonic clock. It changes nothing but m.
func look(m *memory, b *api.Box, at time.Duration) map[key]finding {
	found := map[key]finding{}
	so := func(yes bool, name, target, weight string, args map[string]string) {
		if yes {
			found[key{name, target}] = finding{weight, args}
		}
	}
	// between is yes beyond begins, and still yes beyond the other bound once it has begun.
	between := func(name string, begins, lasts bool) bool {
		return begins || lasts && m.active(key{name, ""})
	}
	v := b.System.Vitals
	if d := v.Data; d != nil && d.Size > 0 {
		free := float64(d.Free) / float64(d.Size)
		args := map[string]string{"free": fmt.Sprint(d.Free), "percent": fmt.Sprintf("%.0f", free*100)}
		isFull := between("disk-full", free < full || d.Free < fullBytes, free < fullOver || d.Free < fullBytesOver)
		so(isFull, "disk-full", "", act, args)
		so(!isFull && between("disk-nearly-full", free < nearlyFull, free < nearlyFullOver), "disk-nearly-full", "", warn, args)
		so(d.ReadOnly, "disk-read-only", "", act, nil)
	}
	for _, g := range b.System.Gaps {
		so(g.Name == "data-errors", "storage-errors", "", act, nil)
		so(g.Name == "restarts", "restarted-unhealthy", "", act, nil)
	}
	if t := v.Temperature; t != nil {
		so(between("hot", *t >= hot, *t >= hotOver), "hot", "", warn, map[string]string{"celsius": fmt.Sprintf("%.0f", *t)})
	}
	so(v.UnderVoltage != nil && *v.UnderVoltage, "under-voltage", "", act, nil)
	restarts := map[string]int{}
	for _, s := range b.System.Services {
		restarts[s.Name] = s.Restarts
		so(s.State == api.StateCrashing || s.State == api.StateFailed, "crash-loop", s.Name, act, map[string]string{"title": s.Title})
		// A kill is an event: it is seen by the count of restarts. Before the first look only core itself can have been
		// killed just now.
		before, known := m.restarts[s.Name]
		if !known {
			before = s.Restarts
			if m.restarts == nil && s.Name == "core" {
				before--
			}
		}
		so(s.Restarts > before && strings.HasPrefix(s.LastExit, "killed: memory limit"), "out-of-memory", s.Name, warn,
			map[string]string{"title": s.Title, "limit": fmt.Sprint(s.MemoryMax)})
	}
	m.restarts = restarts
	if b.Network != nil {
		switch unsure := b.Network.Clock.Certainty == api.ClockUnsure; {
		case !unsure:
			m.unsure = -1
		case m.unsure < 0:
			m.unsure = at
		}
		so(m.unsure >= 0 && at-m.unsure >= unsureFor, "clock-unsure", "", warn, nil)
	}
	if b.Updates != nil {
		updates(b.Updates, so)
	}
	for _, n := range b.Notices {
		so(n.Name == "state-restored" || n.Name == "state-replaced", n.Name, "", act, nil)
	}
	return found
}

// passing are the causes for which an attempt ends without that anybody has to do something: the box tries again by itself.
var passing = []string{"download", "busy", "interrupted", "power"}

// updates finds what an owner should know of updates.
func updates(u *api.Updates, so func(yes bool, name, target, weight string, args map[string]string)) {
	if p := u.Problem; p != nil {
		so(p.Cause == "split-view", "update-split-view", "", act, nil)
		so(p.Cause == "stale", "update-stale", "", warn, nil)
	}
	tried := false
	if o := u.Offer; o != nil {
		tried = o.Tried >= 2
		so(tried, "update-tried-twice", o.Version, warn, map[string]string{"version": o.Version})
		waits := u.State == api.UpdateIdle || u.State == api.UpdateReady
		so(u.Policy.Mode == "ask" && waits && !tried && u.Next == nil, "update-available", o.Version, warn, map[string]string{"version": o.Version})
	}
	a := u.Last
	if a == nil || tried && a.Version == u.Offer.Version { // that says it all
		return
	}
	args := map[string]string{"version": a.Version, "from": a.From, "cause": a.Cause, "service": a.Service}
	so(a.Outcome == api.UpdateBack, "update-back", a.Version, warn, args)
	so(a.Outcome == api.UpdateFailed && !slices.Contains(passing, a.Cause), "update-failed", a.Version, warn, args)
}

// sentences say in English what happened and the one next step. The web UI has its own, by name.
func sentences(name string, args map[string]string) (text, next string) {
	title := args["title"]
	if title == "" {
		title = "A part of Croft"
	}
	switch name {
	case "disk-nearly-full":
		return "The disk is nearly full: " + args["percent"] + " % of it is free.", "Delete what you don't need any more, or use a larger disk."
	case "disk-full":
		return "The disk is full. Croft may not be able to save anything.", "Delete what you don't need any more."
	case "disk-read-only":
		return "The disk can't be written any more, probably because it found errors.", "Restart the box. If this comes back, copy what you need and replace the card or disk."
	case "storage-errors":
		return "The box found errors on its card or disk; it may be wearing out.", "Copy what you need, then replace it."
	case "hot":
		return "The box is hot: " + args["celsius"] + " °C. It slows itself down to cool off.", "Give it more air."
	case "under-voltage":
		return "The box gets too little power, so it may stop or lose data.", "Use the power supply that was made for it, with a short cable."
	case "crash-loop":
		return title + " does not keep running.", "Look at its log, then restart it."
	case "clock-unsure":
		return "The box does not know the time: it can't reach any time server.", "Look whether the box has internet access."
	case "out-of-memory":
		return title + " used more memory than it may, so it was restarted.", "If this happens often, look at its log."
	case "state-restored":
		return "Croft's own settings were damaged, and it went back to its last good copy.", "Look whether the latest changes are there. If this happens again, replace the card."
	case "state-replaced":
		return "Croft's own settings were damaged, and it started with fresh ones. The damaged file was kept.", "If this happens again, the card is probably failing: replace it."
	case "update-available":
		return "Version " + args["version"] + " of Croft can be installed.", "Look at what is new, then install it."
	case "update-back":
		return "Version " + args["version"] + " did not prove itself, so the box went back to the one before.", "There is nothing to do; the page about updates says why."
	case "update-failed":
		return "Version " + args["version"] + " could not be installed.", "Look at the page about updates."
	case "update-tried-twice":
		return "Version " + args["version"] + " failed twice, so the box does not try it again by itself.", "Wait for the next version, or try it once more on the page about updates."
	case "update-split-view":
		return "The public log of releases shows this box something else than before. Croft keeps the proof and installs nothing.", "Tell the people who publish Croft's releases, by another way than this box."
	case "update-stale":
		return "The box can't tell whether it has the newest release.", "Look whether the box has internet access."
	case "restarted-unhealthy":
		return "The box restarted itself several times because something important kept failing.", "Look at the services that don't run."
	}
	return "Something needs you.", "Look at the state of the box."
}
