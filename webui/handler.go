package webui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	maxForm    = 4 << 10 // bytes of a form
	maxAnswer  = 1 << 20 // bytes of an answer of core
	apiTimeout = 8 * time.Second
	longestMin = 24 * 60 * 60 // seconds to wait that a page will show

	csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// server makes the pages.
type server struct {
	log    *slog.Logger
	api    *http.Client
	text   catalogue
	tmpl   *template.Template
	assets map[string]*asset
	byURL  map[string]*asset
	cop    *http.CrossOriginProtection
}

func newServer(log *slog.Logger, client *http.Client) (*server, error) {
	assets, err := loadAssets()
	if err != nil {
		return nil, err
	}
	s := &server{
		log: log, api: client, text: english(), assets: assets, byURL: map[string]*asset{},
		cop: http.NewCrossOriginProtection(),
	}
	for _, a := range assets {
		s.byURL[a.url] = a
	}
	s.tmpl, err = template.New("").Funcs(template.FuncMap{
		"t":        s.text.s,
		"time":     s.text.localTime,
		"rfc3339":  rfc3339,
		"decimal":  decimal,
		"asset":    func(name string) string { return assets[name].url },
		"toneIcon": func(tone string) string { return "i-" + tone },
	}).ParseFS(files, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return s, nil
}

// page is what the frame around every page needs.
type page struct {
	Kind     string // template of the content: "gate", "box", "starting" or "message"
	Title    string
	Version  string // of the page itself: the script loads it anew when the box has another
	SignedIn bool
	Data     any
}

// gateView is the claim gate.
type gateView struct {
	Problem string // a sentence; empty at first
	Hint    string
}

// messageView is a page that only says something.
type messageView struct{ Title, Text string }

func (s *server) page(kind string, data any) *page {
	p := &page{Kind: kind, Data: data, Title: s.text.s("name"), Version: s.version()}
	switch v := data.(type) {
	case *boxView:
		p.SignedIn = true
		if p.Title = v.Head.Title; v.Rescue != nil {
			p.Title = s.text.s("rescue.title")
		}
	case messageView:
		p.Title = v.Title
	case gateView:
		p.Title = s.text.s("gate.title")
	}
	return p
}

// version changes whenever the script does, and so with every page that needs another script.
func (s *server) version() string {
	return strings.TrimSuffix(path.Base(s.assets["app.js"].url), ".js") + path.Base(s.assets["style.css"].url)
}

// ServeHTTP sets what holds for every answer, then serves the page.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", csp)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // "no-referrer" would make forms come from the origin "null"
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if scheme(r) == "https" {
		h.Set("Cross-Origin-Opener-Policy", "same-origin") // browsers complain about it over plain HTTP
	}
	if err := s.cop.Check(r); err != nil {
		s.message(w, r, http.StatusForbidden, "cross-origin")
		return
	}
	if a := s.byURL[r.URL.Path]; a != nil && isRead(r) {
		a.ServeHTTP(w, r)
		return
	}
	var serve func(http.ResponseWriter, *http.Request)
	read := isRead(r)
	switch r.URL.Path {
	case "/":
		serve = s.getHome
	case "/live":
		serve = s.getLive
	case "/claim":
		serve, read = s.postClaim, !read
	case "/signout":
		serve, read = s.postSignOut, !read
	case "/rescue":
		serve, read = s.postRescue, !read
	default:
		s.message(w, r, http.StatusNotFound, "notfound")
		return
	}
	if !read || r.Method != http.MethodPost && !isRead(r) {
		s.message(w, r, http.StatusMethodNotAllowed, "method")
		return
	}
	serve(w, r)
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func scheme(r *http.Request) string {
	if r.Header.Get("X-Forwarded-Proto") == "https" {
		return "https"
	}
	return "http"
}

// getHome is the claim gate, or the box for who is in.
func (s *server) getHome(w http.ResponseWriter, r *http.Request) {
	var b api.Box
	p, err := s.call(w, r, http.MethodGet, "/api/v1/box", nil, &b)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		if err != nil {
			s.log.Warn("core does not answer", "err", err)
		}
		w.Header().Set("Retry-After", "2")
		s.render(w, r, http.StatusServiceUnavailable, s.page("starting", nil))
	case p != nil:
		s.render(w, r, http.StatusOK, s.page("gate", s.gate(r.URL.Query())))
	default:
		s.render(w, r, http.StatusOK, s.page("box", s.boxFor(r, &b)))
	}
}

// boxFor says the state of the box to who asked, and what was wrong with their last request.
func (s *server) boxFor(r *http.Request, b *api.Box) *boxView {
	v := s.text.view(b, scheme(r))
	if v.Rescue != nil {
		switch name := r.URL.Query().Get("problem"); name {
		case "not-confirmed", "refused", "failed":
			v.Rescue.Problem, v.Rescue.ProblemName = s.text.s("rescue."+name), name
		}
	}
	return v
}

func (s *server) gate(q url.Values) gateView {
	v := gateView{}
	switch name := q.Get("problem"); name {
	case "":
	case "wrong-code":
		v.Problem, v.Hint = s.text.s("gate.wrong-code"), s.text.s("gate.restart-hint")
	case "too-many-tries":
		secs, err := strconv.Atoi(q.Get("wait"))
		if err != nil || secs < 0 || secs > longestMin {
			secs = 60
		}
		v.Problem = s.text.s("gate.too-many-tries", s.text.duration(time.Duration(secs)*time.Second))
	case "code-format", "code-void", "starting":
		v.Problem = s.text.s("gate." + name)
	default:
		v.Problem = s.text.s("gate.unknown")
	}
	return v
}

// postClaim exchanges the claim code for a session.
func (s *server) postClaim(w http.ResponseWriter, r *http.Request) {
	if !s.form(w, r) {
		return
	}
	p, err := s.call(w, r, http.MethodPost, "/api/v1/session", api.ClaimRequest{Code: r.PostForm.Get("code")}, nil)
	switch {
	case err != nil:
		s.log.Warn("core does not answer", "err", err)
		s.back(w, r, "starting", "")
	case p != nil:
		s.back(w, r, path.Base(p.Type), w.Header().Get("Retry-After"))
	default:
		s.back(w, r, "", "")
	}
}

func (s *server) postSignOut(w http.ResponseWriter, r *http.Request) {
	if _, err := s.call(w, r, http.MethodDelete, "/api/v1/session", nil, nil); err != nil {
		s.log.Warn("core does not answer", "err", err)
	}
	s.back(w, r, "", "")
}

func (s *server) postRescue(w http.ResponseWriter, r *http.Request) {
	if !s.form(w, r) {
		return
	}
	req := api.RescueRequest{Action: r.PostForm.Get("action"), Confirm: strings.TrimSpace(r.PostForm.Get("confirm"))}
	p, err := s.call(w, r, http.MethodPost, "/api/v1/rescue", req, nil)
	switch {
	case err != nil:
		s.log.Warn("core does not answer", "err", err)
		s.back(w, r, "failed", "")
	case p == nil || p.Status == http.StatusUnauthorized || path.Base(p.Type) == "not-rescue":
		s.back(w, r, "", "")
	case path.Base(p.Type) == "not-confirmed":
		s.back(w, r, "not-confirmed", "")
	default:
		s.back(w, r, "refused", "")
	}
}

// back sends the browser to the start page, which says the problem.
func (s *server) back(w http.ResponseWriter, r *http.Request, problem, wait string) {
	to := "/"
	if problem != "" {
		q := url.Values{"problem": {problem}}
		if wait != "" {
			q.Set("wait", wait)
		}
		to += "?" + q.Encode()
	}
	w.Header().Del("Retry-After")
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// form reads a posted form, or answers and returns false.
func (s *server) form(w http.ResponseWriter, r *http.Request) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		s.message(w, r, http.StatusRequestEntityTooLarge, "toolarge")
		return false
	}
	return true
}

// request prepares a call of core's API on behalf of who asks: with their cookies, and with what the gateway knows of
// them.
func (s *server) request(ctx context.Context, r *http.Request, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://core"+path, body)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"Cookie", "X-Forwarded-For", "X-Forwarded-Proto"} {
		if v := r.Header.Values(name); len(v) > 0 {
			req.Header[name] = v
		}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// call asks core, passes its cookies and Retry-After on to w, and decodes a good answer into out. Core's own no is a
// problem; an error means that core did not answer as it should.
func (s *server) call(w http.ResponseWriter, r *http.Request, method, path string, in, out any) (*api.Problem, error) {
	ctx, cancel := context.WithTimeout(r.Context(), apiTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := s.request(ctx, r, method, path, body)
	if err != nil {
		return nil, err
	}
	resp, err := s.api.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	for _, name := range []string{"Set-Cookie", "Retry-After"} {
		for _, v := range resp.Header.Values(name) {
			w.Header().Add(name, v)
		}
	}
	if resp.StatusCode >= 300 {
		p := &api.Problem{}
		if err := json.Unmarshal(b, p); err != nil {
			return nil, fmt.Errorf("%s %s: %s without a problem: %w", method, path, resp.Status, err)
		}
		p.Status = resp.StatusCode
		return p, nil
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	return nil, nil
}

// message answers with a page that only says something; name chooses it from the catalogue.
func (s *server) message(w http.ResponseWriter, r *http.Request, status int, name string) {
	s.render(w, r, status, s.page("message", messageView{s.text.s(name + ".title"), s.text.s(name + ".text")}))
}

// render sends a page, compressed if the browser takes it. The page has neither secrets nor anything a stranger chose,
// so its compressed length tells nothing.
func (s *server) render(w http.ResponseWriter, r *http.Request, status int, p *page) {
	var b bytes.Buffer
	if err := s.tmpl.ExecuteTemplate(&b, "page", p); err != nil {
		s.log.Error("can't make a page", "page", p.Kind, "err", err)
		b.Reset()
		status = http.StatusInternalServerError
		p = s.page("message", messageView{s.text.s("error.title"), s.text.s("error.text")})
		if err := s.tmpl.ExecuteTemplate(&b, "page", p); err != nil {
			http.Error(w, s.text.s("error.title"), status)
			return
		}
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Vary", "Accept-Encoding")
	out := b.Bytes()
	if takesGzip(r) {
		h.Set("Content-Encoding", "gzip")
		out = zip(out)
	}
	h.Set("Content-Length", strconv.Itoa(len(out)))
	w.WriteHeader(status)
	if _, err := w.Write(out); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		s.log.Debug("a page was not taken", "err", err)
	}
}
