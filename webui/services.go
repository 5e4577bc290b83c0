package webui

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/croft-os/croft/services/api"
)

// serviceRoutes are the pages of what runs on the box.
func serviceRoutes() []route {
	return []route{
		{"GET /services", whoPeople, (*visit).getServices},
		{"GET /services/{name}", whoPeople, (*visit).getService},
		{"GET /services/{name}/restart", whoOwner, (*visit).getServiceRestart},
		{"POST /services/{name}/restart", whoOwner, (*visit).postServiceRestart},
		{"GET /diagnosis", whoOwner, (*visit).getDiagnosis},
	}
}

// tailLines are as many of its last lines as a service's page shows.
const tailLines = 8

// servicePage is the page of one service.
type servicePage struct {
	serviceView
	Purpose string // what it is for, in a sentence
	Percent int    // of the memory that it may use; -1 if not known
	Owner   bool
	Tail    []logView // its last lines, for owners
	Logs    string    // URL of all its lines
}

func (v *visit) getServices() {
	b, ok := v.box()
	if !ok {
		return
	}
	view := v.text.view(b, scheme(v.r))
	view.Owner = v.owner()
	v.render(http.StatusOK, v.page("services-page", view))
}

func (v *visit) getService() {
	b, ok := v.box()
	if !ok {
		return
	}
	name := v.r.PathValue("name")
	view := v.service(b, name)
	if view == nil {
		v.message(http.StatusNotFound, "notfound")
		return
	}
	view.Tail = v.tail(name)
	p := v.page("service-page", view)
	p.Title = view.Title
	v.render(http.StatusOK, p)
}

// service says the state of one service; nil if there is no such service.
func (v *visit) service(b *api.Box, name string) *servicePage {
	i := slices.IndexFunc(b.System.Services, func(s api.Service) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	s := b.System.Services[i]
	view := &servicePage{serviceView: v.text.service(s), Purpose: v.text.or("purpose."+name, ""), Percent: -1, Owner: v.owner()}
	if s.MemoryMax > 0 && s.Memory > 0 {
		view.Percent = percent(float64(s.Memory) / float64(s.MemoryMax))
	}
	view.Logs = "/logs?" + url.Values{"service": {name}}.Encode()
	return view
}

// tail are the last lines of a service, for owners.
func (v *visit) tail(name string) []logView {
	if !v.owner() {
		return nil
	}
	q := url.Values{"service": {name}, "limit": {strconv.Itoa(tailLines)}}
	var list api.List[api.LogLine]
	if p, err := v.call(http.MethodGet, "/api/v1/logs?"+q.Encode(), nil, &list); p != nil || err != nil {
		v.log.Warn("no logs", "problem", p, "err", err)
		return nil
	}
	return v.text.logs(list.Items)
}

func (v *visit) followService(u *url.URL) func(*api.Box) any {
	name := lastPart(u)
	var tail []logView
	var asked time.Time
	return func(b *api.Box) any {
		view := v.service(b, name)
		if view == nil { // it is gone, and so are the links to its page
			return &servicePage{serviceView: serviceView{Name: name, Title: name, Tone: toneOff, Word: v.text.s("state.unknown")}, Percent: -1}
		}
		if time.Since(asked) >= tailEvery {
			tail, asked = v.tail(name), time.Now()
		}
		view.Tail = tail
		return view
	}
}

func (v *visit) restartView(name string) (askView, bool) {
	b, ok := v.box()
	if !ok {
		return askView{}, false
	}
	view := v.service(b, name)
	if view == nil {
		v.message(http.StatusNotFound, "notfound")
		return askView{}, false
	}
	a := askView{Up: servicePath(name), UpName: view.Title}
	switch name {
	case "core", "webui", "gateway": // the page comes through them
		a.Texts = []string{v.text.s("service-restart.page")}
	case "network":
		a.Texts = []string{v.text.s("service-restart.network")}
	default:
		a.Texts = []string{v.text.s("service-restart.other")}
	}
	return a, true
}

func (v *visit) getServiceRestart() {
	if a, ok := v.restartView(v.r.PathValue("name")); ok {
		v.ask("service-restart", a)
	}
}

func (v *visit) postServiceRestart() {
	if !v.form() {
		return
	}
	name := v.r.PathValue("name")
	p, err := v.call(http.MethodPost, "/api/v1/services/"+url.PathEscape(name)+"/restart", nil, nil)
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	v.done(servicePath(name), "service-restarted")
}

// getDiagnosis passes the bundle on as it comes.
func (v *visit) getDiagnosis() {
	req, err := v.request(v.r.Context(), http.MethodGet, "/api/v1/diagnosis", nil)
	if err != nil {
		v.message(http.StatusInternalServerError, "error")
		return
	}
	v.pass(req, "application/zip", "croft-diagnosis-"+time.Now().In(v.zone()).Format("2006-01-02")+".zip")
}
