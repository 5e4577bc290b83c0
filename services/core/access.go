package core

import (
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	cookieHTTP  = "croft_session"
	cookieHTTPS = "__Host-croft_session"
)

// server is the public API.
type server struct {
	log      *slog.Logger
	sessions *sessions
	box      *boxWatcher
	init     *http.Client
	limit    *limiter
	streams  chan struct{} // one slot a stream
	cop      *http.CrossOriginProtection
}

// caller is who asks.
type caller struct {
	role who // of a session, or of the person whose token it is; open for who is not signed in
}

// handler serves the operations, and nothing else.
func (s *server) handler(ops []operation) http.Handler {
	paths := map[string]map[string]operation{}
	for _, op := range ops {
		if paths[op.path] == nil {
			paths[op.path] = map[string]operation{}
		}
		paths[op.path][op.method] = op
	}
	mux := http.NewServeMux()
	for p, methods := range paths {
		mux.HandleFunc(base+p, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, methods) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		notFound(w)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		if path.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect
			notFound(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// serve checks what holds for every operation, and who may ask for this one, then serves it. It is the only place that
// decides about access.
func (s *server) serve(w http.ResponseWriter, r *http.Request, methods map[string]operation) {
	op, ok := methods[r.Method]
	if !ok {
		var allow []string
		for m := range methods {
			allow = append(allow, m)
		}
		slices.Sort(allow)
		w.Header().Set("Allow", strings.Join(allow, ", "))
		problem(w, http.StatusMethodNotAllowed, "method", "This address does not do that.", "")
		return
	}
	if err := s.cop.Check(r); err != nil {
		problem(w, http.StatusForbidden, "cross-origin", "Another website tried to use this box through your browser.",
			"Open the box's own page and try again.")
		return
	}
	c := s.caller(w, r)
	switch {
	case op.who&open != 0:
	case c.role == open:
		problem(w, http.StatusUnauthorized, "signed-out", "You are not signed in.", "Sign in with the claim code.")
		return
	case op.who&c.role == 0:
		problem(w, http.StatusForbidden, "forbidden", "You may not do that.", "Ask an owner of the box.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, op.body)
	op.serve(s, w, r, c)
}

// caller finds out who asks, and renews the cookie when the session was renewed.
func (s *server) caller(w http.ResponseWriter, r *http.Request) *caller {
	t := token(r)
	renewed, ok := s.sessions.use(r.Context(), t)
	if renewed {
		setCookie(w, r, t)
	}
	if !ok {
		return &caller{role: open}
	}
	if b, err := s.box.get(); err == nil && b.System.Mode == api.ModeRescue {
		return &caller{role: rescue}
	}
	return &caller{role: owner}
}

func isHTTPS(r *http.Request) bool { return r.Header.Get("X-Forwarded-Proto") == "https" }

// token returns the session's token. Over HTTPS only the cookie counts that HTTPS alone can set: whoever can write
// into the LAN's plain HTTP must not be able to plant one.
func token(r *http.Request) string {
	name := cookieHTTP
	if isHTTPS(r) {
		name = cookieHTTPS
	}
	c, err := r.Cookie(name)
	if err != nil || len(c.Value) > 128 {
		return ""
	}
	return c.Value
}

// setCookie gives the browser a token, or takes it away if it is empty.
func setCookie(w http.ResponseWriter, r *http.Request, token string) {
	c := &http.Cookie{
		Name: cookieHTTP, Value: token, Path: "/", MaxAge: int(sessionLife / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	if isHTTPS(r) {
		c.Name, c.Secure = cookieHTTPS, true
	}
	if token == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}
