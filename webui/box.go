package webui

import (
	"net/http"
	"path"

	"github.com/croft-os/croft/services/api"
)

// boxRoutes are the page of the whole box, and of rescue mode.
func boxRoutes() []route {
	return []route{
		{"GET /live", whoAnyone, (*visit).getLive},
		{"POST /rescue", whoAnyone, (*visit).postRescue},
	}
}

// getHome is the box, for who is in: people, and who gave the code of rescue mode.
func (v *visit) getHome() {
	var b api.Box
	if p, err := v.call(http.MethodGet, "/api/v1/box", nil, &b); p != nil || err != nil {
		v.failed(p, err)
		return
	}
	v.render(http.StatusOK, v.page("box", v.boxFor(&b)))
}

// boxFor says the state of the box to who asked, and what was wrong with their last request.
func (v *visit) boxFor(b *api.Box) *boxView {
	view := v.text.view(b, scheme(v.r))
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
	switch {
	case err != nil:
		v.log.Warn("core does not answer", "err", err)
		v.back("failed", "")
	case p == nil || p.Status == http.StatusUnauthorized || path.Base(p.Type) == "not-rescue":
		v.back("", "")
	case path.Base(p.Type) == "not-confirmed":
		v.back("not-confirmed", "")
	default:
		v.back("refused", "")
	}
}
