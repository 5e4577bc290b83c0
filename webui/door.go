package webui

import (
	"net/http"
	"net/url"
	"path"
	"strconv"
	"time"

	"github.com/croft-os/croft/services/api"
)

// doorRoutes are the pages in front of the box: claiming it, signing in and out.
func doorRoutes() []route {
	return []route{
		{"GET /{$}", whoAnyone, (*visit).getStart},
		{"POST /claim", whoAnyone, (*visit).postClaim},
		{"POST /signout", whoAnyone, (*visit).postSignOut},
	}
}

// getStart leads to where the one who asks has to be: the claim, the next step of setting up, signing in, or the box.
func (v *visit) getStart() {
	var session api.Session
	p, err := v.call(http.MethodGet, "/api/v1/session", nil, &session)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.starting(err)
	case p != nil:
		v.render(http.StatusOK, v.page("gate", v.gate(v.r.URL.Query())))
	default:
		v.session = &session
		v.getHome()
	}
}

// gateView is the claim gate.
type gateView struct {
	Problem string // a sentence; empty at first
	Hint    string
}

func (v *visit) gate(q url.Values) gateView {
	g := gateView{}
	switch name := q.Get("problem"); name {
	case "":
	case "wrong-code":
		g.Problem, g.Hint = v.text.s("gate.wrong-code"), v.text.s("gate.restart-hint")
	case "too-many-tries":
		secs, err := strconv.Atoi(q.Get("wait"))
		if err != nil || secs < 0 || secs > longestMin {
			secs = 60
		}
		g.Problem = v.text.s("gate.too-many-tries", v.text.duration(time.Duration(secs)*time.Second))
	case "code-format", "code-void", "starting":
		g.Problem = v.text.s("gate." + name)
	default:
		g.Problem = v.text.s("gate.unknown")
	}
	return g
}

// postClaim exchanges the claim code for a session.
func (v *visit) postClaim() {
	if !v.form() {
		return
	}
	p, err := v.call(http.MethodPost, "/api/v1/session", api.ClaimRequest{Code: v.r.PostForm.Get("code")}, nil)
	switch {
	case err != nil:
		v.log.Warn("core does not answer", "err", err)
		v.back("starting", "")
	case p != nil:
		v.back(path.Base(p.Type), v.w.Header().Get("Retry-After"))
	default:
		v.back("", "")
	}
}

func (v *visit) postSignOut() {
	if _, err := v.call(http.MethodDelete, "/api/v1/session", nil, nil); err != nil {
		v.log.Warn("core does not answer", "err", err)
	}
	v.back("", "")
}

// back sends the browser to the start page, which says the problem.
func (v *visit) back(problem, wait string) {
	to := "/"
	if problem != "" {
		q := url.Values{"problem": {problem}}
		if wait != "" {
			q.Set("wait", wait)
		}
		to += "?" + q.Encode()
	}
	v.redirect(to)
}
