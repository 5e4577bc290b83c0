package core

import (
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/identity"
)

const (
	cookieHTTP  = "croft_session"
	cookieHTTPS = "__Host-croft_session"
	maxToken    = 128 // bytes of a cookie's or a bearer's token that are looked at
)

// caller is who asks.
type caller struct {
	identity.Caller
	role    who         // open for who is not signed in
	session api.Session // empty with a bearer token
	token   string      // the session's, in the cookie
	bearer  string      // the token in the field Authorization
	scopes  []string    // of the bearer token
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
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { notFound(w) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.ContentLength != 0 { // also of one that nobody reads: the server waits for the rest of it
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		if path.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect
			notFound(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// serve checks what holds for every operation, and who may ask for this one, then serves it. It is the only place that
// decides about access: what the table does not allow is refused.
func (s *server) serve(w http.ResponseWriter, r *http.Request, methods map[string]operation) {
	op, ok := methods[r.Method]
	if !ok {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
		problem(w, http.StatusMethodNotAllowed, "method", "This address does not do that.", "")
		return
	}
	if err := s.cop.Check(r); err != nil {
		problem(w, http.StatusForbidden, "cross-origin", "Another website tried to use this box through your browser.",
			"Open the box's own page and try again.")
		return
	}
	c, ok := s.caller(w, r, op)
	if !ok {
		return
	}
	switch {
	case op.who == open:
	case c.role == open:
		w.Header().Set("WWW-Authenticate", `Bearer realm="croft"`) // RFC 6750 section 3
		problem(w, http.StatusUnauthorized, "signed-out", "You are not signed in.", "Sign in first.")
		return
	case op.who&c.role == 0:
		problem(w, http.StatusForbidden, "forbidden", "You may not do that.", "Ask an owner of the box.")
		return
	case c.bearer != "" && (op.scope == "" || !slices.Contains(c.scopes, op.scope)):
		problem(w, http.StatusForbidden, "forbidden", "This token is not for that.", "Make one with another scope, or sign in.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, op.body)
	op.serve(s, w, r, c)
}

// caller finds out who asks, and renews the cookie when the session was renewed. A bearer token stands for itself: if it is
// worthless, the cookie beside it does not count, and operations that are open to all don't look at it. If it can't be
// found out, caller answers with a problem and returns false.
func (s *server) caller(w http.ResponseWriter, r *http.Request, op operation) (*caller, bool) {
	c := &caller{Caller: identity.Caller{Place: clientKey(r), Agent: r.UserAgent()}, role: open}
	if field := r.Header.Get("Authorization"); field != "" && op.who != open {
		return c, s.bearer(w, r, c, field)
	}
	c.token = token(r)
	v, renewed, ok := s.id.Use(r.Context(), c.token, c.Caller)
	if !ok {
		return c, true
	}
	if renewed {
		setCookie(w, r, c.token)
	}
	c.session, c.Session, c.role = v, v.ID, roleOf(v.Role)
	if v.Person != nil {
		c.Person = *v.Person
	}
	return c, true
}

// bearer finds out whose token this is. Tokens have 128 bits, so it is not guessing that is slowed down here, but what a
// script with a worthless token costs.
func (s *server) bearer(w http.ResponseWriter, r *http.Request, c *caller, field string) bool {
	scheme, secret, _ := strings.Cut(field, " ")
	if !strings.EqualFold(scheme, "Bearer") || len(secret) > maxToken {
		return true
	}
	if d := s.limits.token.wait(c.Place, ""); d > 0 {
		tooManyTries(w, d)
		return false
	}
	person, t, err := s.id.UseToken(r.Context(), secret)
	switch {
	case isRefused(err):
		s.limits.token.take(c.Place, "")
		return true
	case err != nil:
		s.refuse(w, r, err)
		return false
	}
	c.Person, c.role, c.bearer, c.scopes = person, roleOf(person.Role), secret, t.Scopes
	return true
}

// still reports whether a caller is who it was when it asked: for answers that last.
func (s *server) still(r *http.Request, c *caller) bool {
	if c.bearer != "" {
		p, _, err := s.id.UseToken(r.Context(), c.bearer)
		return err == nil && roleOf(p.Role) == c.role
	}
	v, ok := s.id.Look(c.token)
	return ok && roleOf(v.Role) == c.role
}

func roleOf(name string) who {
	switch name {
	case api.RoleSetup:
		return setup
	case api.RoleRescue:
		return rescue
	case api.RoleMember:
		return member
	case api.RoleOwner:
		return owner
	}
	return open
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
	if err != nil || len(c.Value) > maxToken {
		return ""
	}
	return c.Value
}

// setCookie gives the browser a token, or takes it away if it is empty. The cookie goes along with links from elsewhere, so
// that those open signed in; what changes something is not asked for by links.
func setCookie(w http.ResponseWriter, r *http.Request, token string) {
	c := &http.Cookie{
		Name: cookieHTTP, Value: token, Path: "/", MaxAge: int(identity.SessionLife / time.Second),
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if isHTTPS(r) {
		c.Name, c.Secure = cookieHTTPS, true
	}
	if token == "" {
		c.MaxAge = -1
	}
	w.Header().Set("Set-Cookie", c.String()) // in the place of a renewed one
}
