package webui

import (
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the box has no zones of its own

	"github.com/croft-os/croft/services/api"
)

// boxRoutes are the page of the whole box, and of rescue mode.
func boxRoutes() []route {
	return []route{
		{"GET /live", whoAnyone, (*visit).getLive},
		{"POST /rescue", whoAnyone, (*visit).postRescue},
	}
}

// homeTrialView is a configuration of the network that is tried: it is kept, or the box goes back by itself.
type homeTrialView struct {
	Seconds int
	Text    string
}

// getHome is the box, for who is in: people, and who gave the code of rescue mode.
func (v *visit) getHome() {
	b, ok := v.box()
	if !ok {
		return
	}
	var h *watch
	if b.System.Mode != api.ModeRescue {
		h = v.history(v.r.URL.Query())
	}
	v.render(http.StatusOK, v.page("box", v.boxFor(b, h)))
}

// box asks core for the state of the box, or answers.
func (v *visit) box() (*api.Box, bool) {
	var b api.Box
	if p, err := v.call(http.MethodGet, "/api/v1/box", nil, &b); p != nil || err != nil {
		v.failed(p, err)
		return nil, false
	}
	v.inZone(&b)
	return &b, true
}

// inZone remembers where the household is, for the times on all pages.
func (s *server) inZone(b *api.Box) {
	if b.TimeZone == s.zone().String() {
		return
	}
	zone, err := time.LoadLocation(b.TimeZone)
	if err != nil {
		s.log.Warn("the household's time zone is not known here", "err", err)
		zone = time.UTC
	}
	s.location.Store(zone)
}

// history asks core for what the charts of a page show; nil if it has none, for which the page has bars.
func (v *visit) history(q url.Values) *watch {
	span := api.Range24h
	if q.Get("range") == api.Range30d {
		span = api.Range30d
	}
	var h api.History
	if p, err := v.call(http.MethodGet, "/api/v1/history?range="+span, nil, &h); p != nil || err != nil {
		v.log.Warn("no history", "problem", p, "err", err)
		return nil
	}
	h.Range = span
	return &watch{&h, v.zone()}
}

// boxFor says the state of the box to who asked, and what was wrong with their last request.
func (v *visit) boxFor(b *api.Box, h *watch) *boxView {
	view := v.text.viewWith(b, scheme(v.r), h)
	if view.Owner = v.owner(); view.Owner && b.Network != nil && b.Network.Trial != nil {
		left := int((ms(b.Network.Trial.LeftMS) + time.Second - 1) / time.Second)
		view.Trial = &homeTrialView{left, strings.ReplaceAll(v.text.s("trial.left"), "{n}", strconv.Itoa(left))}
		if view.Head.Tone != toneOK { // it waits, and the trial does not
			view.Also = append([]concern{view.Head}, view.Also...)
		}
		view.Head = concern{Tone: toneLook, Title: v.text.s("head.trial"), Why: v.text.s("trial.text")}
	}
	if !view.Owner { // who may not open the page of updates
		view.Head.Href = strings.TrimSuffix(view.Head.Href, "/updates")
		for i := range view.Also {
			view.Also[i].Href = strings.TrimSuffix(view.Also[i].Href, "/updates")
		}
	}
	if view.Rescue != nil {
		switch name := v.r.URL.Query().Get("problem"); name {
		case "not-confirmed", "refused", "failed":
			view.Rescue.Problem, view.Rescue.ProblemName = v.text.s("rescue."+name), name
		}
	}
	return view
}

func (v *visit) postRescue() {
	if !v.form() {
		return
	}
	req := api.RescueRequest{Action: v.r.PostForm.Get("action"), Confirm: v.field("confirm")}
	p, err := v.call(http.MethodPost, "/api/v1/rescue", req, nil)
	problem := ""
	switch {
	case err != nil:
		v.log.Warn("core does not answer", "err", err)
		problem = "failed"
	case p == nil || p.Status == http.StatusUnauthorized || path.Base(p.Type) == "not-rescue":
	case path.Base(p.Type) == "not-confirmed":
		problem = "not-confirmed"
	default:
		problem = "refused"
	}
	if problem != "" {
		problem = "?" + url.Values{"problem": {problem}}.Encode()
	}
	v.redirect("/" + problem)
}
