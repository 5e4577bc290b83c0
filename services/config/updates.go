package config

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/fetch"
)

// Bounds of the policy of updates, and what it is where the document does not say.
const (
	maxMirrors   = 8
	maxMirror    = 200 // bytes of an address
	updatesPath  = "/updates"
	updaterURL   = "http://updater/v1"
	DefaultFrom  = "02:00"
	DefaultTo    = "05:00"
	modeAuto     = "auto"
	channelFirst = "stable"
)

var clockRE = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)

func (r *reader) updates(path string, n *node) api.UpdatePolicy {
	var p api.UpdatePolicy
	r.object(path, n, map[string]func(string, *node){
		"mode":    func(path string, n *node) { p.Mode = r.text(path, n) },
		"from":    func(path string, n *node) { p.From = r.text(path, n) },
		"to":      func(path string, n *node) { p.To = r.text(path, n) },
		"channel": func(path string, n *node) { p.Channel = r.text(path, n) },
		"metered": func(path string, n *node) { p.Metered = r.yes(path, n) },
		"alone":   func(path string, n *node) { p.Alone = r.yes(path, n) },
		"mirrors": func(path string, n *node) {
			r.list(path, n, maxMirrors, func(path string, n *node) { p.Mirrors = append(p.Mirrors, r.text(path, n)) })
		},
	})
	return p
}

// validateUpdates returns the policy as it is kept: what is as it is without being said is left out, so that a policy that
// says nothing is none.
func (r *reader) validateUpdates(p api.UpdatePolicy) api.UpdatePolicy {
	if p.Mode == "" {
		p.Mode = modeAuto
	}
	if p.Mode != modeAuto && p.Mode != "ask" && p.Mode != "stay" {
		r.wrong(updatesPath+"/mode", "choice", "The mode is auto, ask or stay.")
	}
	switch p.Channel {
	case channelFirst:
		p.Channel = ""
	case "", "beta":
	default:
		r.wrong(updatesPath+"/channel", "choice", "The channel is stable or beta.")
	}
	for _, f := range []struct{ name, value, other string }{{"from", p.From, p.To}, {"to", p.To, p.From}} {
		at := updatesPath + "/" + f.name
		switch {
		case f.value == "" && f.other != "":
			r.wrong(at, "missing", "A window has a beginning and an end.")
		case f.value != "" && !clockRE.MatchString(f.value):
			r.wrong(at, "time", "Write a time of the day, such as 02:30.")
		}
	}
	switch {
	case p.From == DefaultFrom && p.To == DefaultTo:
		p.From, p.To = "", ""
	case p.From != "" && p.From == p.To:
		r.wrong(updatesPath+"/to", "time", "The window has to end at another time than it begins.")
	}
	if len(p.Mirrors) > maxMirrors {
		r.wrong(updatesPath+"/mirrors", "too-long", fmt.Sprintf("There can be at most %d entries.", maxMirrors))
		return p
	}
	seen := map[string]bool{}
	p.Mirrors = slices.Clone(p.Mirrors)
	for i, m := range p.Mirrors {
		at := updatesPath + "/mirrors/" + strconv.Itoa(i)
		m = strings.TrimRight(m, "/")
		p.Mirrors[i] = m
		switch {
		case !mirror(m):
			r.wrong(at, "url", "Write the address of a mirror, such as https://updates.example.org/croft.")
		case seen[m]:
			r.wrong(at, "duplicate", "This is there twice.")
		}
		seen[m] = true
	}
	if len(p.Mirrors) == 0 {
		p.Mirrors = nil
	}
	if p.Mode == modeAuto && p.From == "" && p.Channel == "" && !p.Metered && !p.Alone && p.Mirrors == nil {
		p.Mode = ""
	}
	return p
}

// mirror tells whether s can be a mirror's URL, in one form: what the fetcher takes, and no "?" or "#" that says nothing.
func mirror(s string) bool {
	_, err := fetch.CheckMirror(s)
	return err == nil && len(s) <= maxMirror && !strings.ContainsAny(s, "?#")
}

// updateParts are the parts of a policy by their path, as the document has them; what is not said is not there.
func updateParts(p api.UpdatePolicy, add func(path string, v any)) {
	for name, v := range map[string]string{"mode": p.Mode, "from": p.From, "to": p.To, "channel": p.Channel} {
		if v != "" && !(name == "mode" && v == modeAuto) {
			add(updatesPath+"/"+name, v)
		}
	}
	for name, v := range map[string]bool{"metered": p.Metered, "alone": p.Alone} {
		if v {
			add(updatesPath+"/"+name, v)
		}
	}
	if len(p.Mirrors) > 0 {
		add(updatesPath+"/mirrors", p.Mirrors)
	}
}

// updateField is the field of a policy at a path, nil if there is none.
func updateField(p *api.UpdatePolicy, path string) any {
	switch strings.TrimPrefix(path, updatesPath+"/") {
	case "mode":
		return &p.Mode
	case "from":
		return &p.From
	case "to":
		return &p.To
	case "channel":
		return &p.Channel
	case "metered":
		return &p.Metered
	case "alone":
		return &p.Alone
	case "mirrors":
		return &p.Mirrors
	}
	return nil
}

func samePolicy(a, b api.UpdatePolicy) bool {
	return len(Differences(api.Config{Updates: a}, api.Config{Updates: b})) == 0
}

// tellUpdates tells the updater its policy, and the zone that its window is in.
func (s *Store) tellUpdates(ctx context.Context, p api.UpdatePolicy, zone string) {
	s.tell(ctx, "updates", s.Updater, http.MethodPut, updaterURL+"/policy", api.UpdateSettings{Policy: p, TimeZone: zone})
}
