package webui

import (
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	maxForm    = 64 << 10 // bytes of a form; a configuration is the longest
	maxAnswer  = 1 << 20  // bytes of an answer of core
	apiTimeout = 8 * time.Second
	longestMin = 24 * 60 * 60 // seconds to wait that a page will show

	csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// Who a page is for.
const (
	whoAnyone = "anyone" // the page itself finds out who asks
	whoPeople = "people" // owners and members
	whoOwner  = "owner"
	whoMender = "mender" // owners, and who gave the code of rescue mode
)

// route is one page or form.
type route struct {
	pattern string // as http.ServeMux has it, such as "GET /people/{id}"
	who     string
	serve   func(*visit)
}

// routes are all pages, by the files that make them.
func routes() []route {
	return slices.Concat(
		doorRoutes(), setupRoutes(), trustRoutes(), manifestRoutes(), boxRoutes(), peopleRoutes(), meRoutes(), settingsRoutes(), networkRoutes(), configRoutes(),
		alertRoutes(), serviceRoutes(), logRoutes(), activityRoutes(), updateRoutes(), witnessRoutes(),
	)
}

// server makes the pages.
type server struct {
	log       *slog.Logger
	api       *http.Client
	languages []*language
	assets    map[string]*asset
	byURL     map[string]*asset
	mux       *http.ServeMux
	cop       *http.CrossOriginProtection
	sealer    *sealer
	location  atomic.Pointer[time.Location] // of the household, as core said last
}

func newServer(log *slog.Logger, client *http.Client) (*server, error) {
	assets, err := loadAssets()
	if err != nil {
		return nil, err
	}
	s := &server{
		log: log, api: client, assets: assets, byURL: map[string]*asset{}, mux: http.NewServeMux(),
		cop: http.NewCrossOriginProtection(), sealer: newSealer(),
	}
	s.location.Store(time.UTC)
	for _, a := range assets {
		s.byURL[a.url] = a
	}
	for _, c := range catalogues() {
		l, err := s.newLanguage(c)
		if err != nil {
			return nil, err
		}
		s.languages = append(s.languages, l)
	}
	for _, rt := range routes() {
		s.mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) {
			v := s.visit(w, r)
			if rt.who == whoAnyone || v.enter(rt.who) {
				rt.serve(v)
			}
		})
	}
	return s, nil
}

func (s *server) visit(w http.ResponseWriter, r *http.Request) *visit {
	return &visit{server: s, language: s.language(r), w: w, r: r}
}

// zone is the household's.
func (s *server) zone() *time.Location { return s.location.Load() }

// page is what the frame around every page needs.
type page struct {
	Kind    string // name of the content's template
	Title   string
	Version string       // of the page itself: the script loads it anew when the box has another
	Session *api.Session // of who is signed in; nil without navigation
	Path    string       // of the page, for the navigation
	Section string       // place in the navigation, if the path does not say it
	Done    string       // a sentence: what was done before
	Secret  bool         // the page holds a secret, so it is not compressed
	Refresh int          // seconds after which a browser without script loads the page again; 0 for never
	Data    any
}

// messageView is a page that only says something.
type messageView struct{ Title, Text string }

// page makes the frame of a page. The title is the catalogue's "KIND.title", if there is one.
func (v *visit) page(kind string, data any) *page {
	p := &page{
		Kind: kind, Data: data, Title: v.text.or(kind+".title", v.text.s("name")), Version: v.version(),
		Session: v.session, Path: v.r.URL.Path, Done: v.doneText(),
	}
	switch d := data.(type) {
	case *boxView:
		switch {
		case d.Rescue != nil:
			p.Title = v.text.s("rescue.title")
		case kind == "box":
			p.Title = d.Head.Title
		}
	case messageView:
		p.Title = d.Title
	}
	return p
}

// version changes whenever the script or the style does, and so with every page that needs another.
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
		s.visit(w, r).message(http.StatusForbidden, "cross-origin")
		return
	}
	if a := s.byURL[r.URL.Path]; a != nil && isRead(r) {
		a.ServeHTTP(w, r)
		return
	}
	if _, pattern := s.mux.Handler(r); pattern != "" {
		s.mux.ServeHTTP(w, r)
		return
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := *r
		other.Method = method
		if _, pattern := s.mux.Handler(&other); pattern != "" {
			s.visit(w, r).message(http.StatusMethodNotAllowed, "method")
			return
		}
	}
	s.visit(w, r).message(http.StatusNotFound, "notfound")
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func scheme(r *http.Request) string {
	if r.Header.Get("X-Forwarded-Proto") == "https" {
		return "https"
	}
	return "http"
}
