package webui

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"path"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	beatEvery    = 10 * time.Second // the script counts silence of twice this as "not heard from the box"
	sendTimeout  = 10 * time.Second // for a browser to take an event
	historyEvery = time.Minute      // that a page's charts are made anew
	tailEvery    = 10 * time.Second // that the last lines on a service's page are
)

// follower is a page that follows the box.
type follower struct {
	who     string
	regions []string // names of templates, and ids of the elements that they make
	// follow returns what makes the regions' data of one state of the box after the other. The URL is the page's.
	follow func(*visit, *url.URL) func(*api.Box) any
}

// followers are the pages that follow the box, by their route; "rescue" is the start page in rescue mode.
func followers() map[string]follower {
	return map[string]follower{
		"GET /{$}": {whoAnyone, []string{"headline", "concerns", "vitals", "reach", "state"}, (*visit).followHome},
		"rescue":   {whoAnyone, []string{"headline", "concerns", "vitals", "services", "reach", "boot", "gaps", "about"}, (*visit).followHome},
		"GET /services": {whoPeople, []string{"service-list"}, func(v *visit, _ *url.URL) func(*api.Box) any {
			return func(b *api.Box) any { return v.text.view(b, scheme(v.r)) }
		}},
		"GET /services/{name}": {whoPeople, []string{"service-head", "service-facts", "service-tail"}, (*visit).followService},
		"GET /alerts": {whoOwner, []string{"alert-cards"}, func(v *visit, _ *url.URL) func(*api.Box) any {
			return v.alerts
		}},
		"GET /updates": {whoMender, []string{"updates-now", "updates-about"}, func(v *visit, _ *url.URL) func(*api.Box) any {
			return v.updates
		}},
	}
}

func (v *visit) followHome(u *url.URL) func(*api.Box) any {
	var h *watch
	var asked time.Time
	return func(b *api.Box) any {
		if b.System.Mode != api.ModeRescue && time.Since(asked) >= historyEvery {
			h, asked = v.history(u.Query()), time.Now()
		}
		return v.boxFor(b, h)
	}
}

// live opens one of core's streams for a page and begins the answer to the browser; nil if it has answered. The page's URL
// is in ?page=, the version of its script in ?version=.
func (v *visit) live(path string) (io.ReadCloser, *events) {
	var session api.Session
	p, err := v.call(http.MethodGet, "/api/v1/session", nil, &session)
	over := p != nil && p.Status == http.StatusUnauthorized
	if !over && (p != nil || err != nil) {
		http.Error(v.w, v.text.s("starting.title"), http.StatusServiceUnavailable)
		return nil, nil
	}
	var body io.ReadCloser
	if !over {
		v.session = &session
		req, err := v.request(v.r.Context(), http.MethodGet, path, nil)
		if err != nil {
			v.message(http.StatusInternalServerError, "error")
			return nil, nil
		}
		resp, err := v.api.Do(req)
		if err != nil {
			http.Error(v.w, v.text.s("starting.title"), http.StatusServiceUnavailable)
			return nil, nil
		}
		switch resp.StatusCode {
		case http.StatusOK:
			body = resp.Body
		case http.StatusUnauthorized, http.StatusForbidden:
			resp.Body.Close()
			over = true
		default:
			resp.Body.Close()
			http.Error(v.w, v.text.s("starting.title"), http.StatusServiceUnavailable)
			return nil, nil
		}
	}
	v.w.Header().Del("Retry-After")
	v.w.Header().Set("Content-Type", "text/event-stream")
	to := &events{v.w, http.NewResponseController(v.w)}
	to.rc.SetReadDeadline(time.Time{}) // the server's is for requests
	if over || v.r.URL.Query().Get("version") != v.version() {
		to.send("reload", "{}")
		if body != nil {
			body.Close()
		}
		return nil, nil
	}
	return body, to
}

// events is an answer of server-sent events.
type events struct {
	w  io.Writer
	rc *http.ResponseController
}

func (e *events) send(event, data string) bool {
	e.rc.SetWriteDeadline(time.Now().Add(sendTimeout))
	if _, err := fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", event, data); err != nil {
		return false
	}
	return e.rc.Flush() == nil
}

// getLive streams the regions of a page as they change. Its events are "view" (a JSON object of HTML by region), "beat"
// when nothing changed, and "reload" when another page is due: after signing out, into or out of rescue mode, or when the
// box runs another release of the page.
func (v *visit) getLive() {
	q := v.r.URL.Query()
	page, err := url.Parse(q.Get("page"))
	if err != nil {
		page = &url.URL{Path: "/"}
	}
	_, pattern := v.mux.Handler(&http.Request{Method: http.MethodGet, URL: page, Host: v.r.Host})
	if pattern == "GET /{$}" && q.Get("rescue") == "yes" {
		pattern = "rescue"
	}
	f, ok := followers()[pattern]
	if !ok {
		v.message(http.StatusNotFound, "notfound")
		return
	}
	from, to := v.live("/api/v1/events")
	if to == nil {
		return
	}
	defer from.Close()
	person := v.session.Role == api.RoleOwner || v.session.Role == api.RoleMember
	if f.who == whoPeople && !person || f.who == whoOwner && !v.owner() || f.who == whoMender && !v.owner() && v.session.Role != api.RoleRescue {
		to.send("reload", "{}")
		return
	}
	show := f.follow(v, page)
	boxes := make(chan *api.Box)
	go readBoxes(v.r, from, boxes)
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	before := map[string]string{}
	if !to.send("beat", "{}") {
		return
	}
	for {
		select {
		case <-v.r.Context().Done():
			return
		case <-beat.C:
			if !to.send("beat", "{}") {
				return
			}
		case b, ok := <-boxes:
			if !ok {
				return // the browser connects anew
			}
			if b == nil || (b.System.Mode == api.ModeRescue) != (q.Get("rescue") == "yes") && f.who == whoAnyone {
				to.send("reload", "{}")
				return
			}
			v.inZone(b)
			changed, err := v.changed(f.regions, show(b), before)
			if err != nil {
				v.log.Error("can't make a region", "err", err)
				return
			}
			if len(changed) == 0 {
				continue
			}
			data, err := json.Marshal(changed)
			if err != nil || !to.send("view", string(data)) {
				return
			}
			beat.Reset(beatEvery)
		}
	}
}

// changed renders the regions and returns those that are not as before, which it brings up to date.
func (v *visit) changed(regions []string, data any, before map[string]string) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range regions {
		html, err := v.fragment(name, data)
		if err != nil {
			return nil, err
		}
		if html != before[name] {
			before[name], out[name] = html, html
		}
	}
	return out, nil
}

// fragment is a part of a page.
func (v *visit) fragment(name string, data any) (string, error) {
	var b bytes.Buffer
	err := v.tmpl.ExecuteTemplate(&b, name, data)
	return b.String(), err
}

// readEvents are the events of a stream, until it ends or has a line that is too long.
func readEvents(from io.Reader) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		sc := bufio.NewScanner(from)
		sc.Buffer(make([]byte, 0, 16<<10), maxAnswer)
		event := ""
		for sc.Scan() {
			name, value, _ := bytes.Cut(sc.Bytes(), []byte(": "))
			switch string(name) {
			case "event":
				event = string(value)
			case "data":
				if !yield(event, value) {
					return
				}
			}
		}
	}
}

// readBoxes sends what core's stream says until it or the request ends; nil says that the session is over.
func readBoxes(r *http.Request, from io.Reader, to chan<- *api.Box) {
	defer close(to)
	for event, data := range readEvents(from) {
		var b *api.Box
		if event == "box" {
			b = &api.Box{}
			if json.Unmarshal(data, b) != nil {
				return
			}
		} else if event != "end" {
			continue
		}
		select {
		case to <- b:
		case <-r.Context().Done():
			return
		}
	}
}

// servicePath is the page of a service.
func servicePath(name string) string { return "/services/" + url.PathEscape(name) }

// lastPart is the name that a page's path ends with.
func lastPart(u *url.URL) string { return path.Base(u.Path) }
