package core

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

const (
	maxBody     = 4 << 10          // bytes of a request's body
	bodyTimeout = 10 * time.Second // to receive it
	maxStreams  = 32               // event streams at once
	beatEvery   = 15 * time.Second // comment in an otherwise quiet stream
	sendTimeout = 10 * time.Second // for a client to take an event
	initTimeout = 5 * time.Second  // for init to answer a request that acts

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

// route is one operation of the API.
type route struct {
	open  bool // needs no session
	serve func(http.ResponseWriter, *http.Request)
}

// routes are all operations, by path and method.
func (s *server) routes(path string) map[string]route {
	switch path {
	case "/api/v1/health":
		return map[string]route{"GET": {open: true, serve: s.getHealth}}
	case "/api/v1/session":
		return map[string]route{
			"GET":    {serve: s.getSession},
			"POST":   {open: true, serve: s.postSession},
			"DELETE": {open: true, serve: s.deleteSession},
		}
	case "/api/v1/box":
		return map[string]route{"GET": {serve: s.getBox}}
	case "/api/v1/events":
		return map[string]route{"GET": {serve: s.getEvents}}
	case "/api/v1/rescue":
		return map[string]route{"POST": {serve: s.postRescue}}
	}
	return nil
}

// ServeHTTP checks what holds for every operation, then serves it.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	methods := s.routes(r.URL.Path)
	if methods == nil {
		problem(w, http.StatusNotFound, "not-found", "There is nothing at this address.", "")
		return
	}
	op, ok := methods[r.Method]
	if !ok {
		var allow []string
		for m := range methods {
			allow = append(allow, m)
		}
		slices.Sort(allow)
		h.Set("Allow", strings.Join(allow, ", "))
		problem(w, http.StatusMethodNotAllowed, "method", "This address does not do that.", "")
		return
	}
	if err := s.cop.Check(r); err != nil {
		problem(w, http.StatusForbidden, "cross-origin", "Another website tried to use this box through your browser.",
			"Open the box's own page and try again.")
		return
	}
	if !op.open && !s.signedIn(w, r) {
		problem(w, http.StatusUnauthorized, "signed-out", "You are not signed in.", "Sign in with the claim code.")
		return
	}
	op.serve(w, r)
}

func (s *server) getHealth(w http.ResponseWriter, _ *http.Request) {
	daemon.WriteJSON(w, http.StatusOK, map[string]bool{"ok": true})
}

func (s *server) getSession(w http.ResponseWriter, r *http.Request) {
	v, _ := s.sessions.get(r.Context(), token(r))
	daemon.WriteJSON(w, http.StatusOK, v)
}

// postSession exchanges the claim code for a session.
func (s *server) postSession(w http.ResponseWriter, r *http.Request) {
	var req api.ClaimRequest
	if !decode(w, r, &req) {
		return
	}
	code, ok := normaliseCode(req.Code)
	if !ok { // can't be right, so no try is counted
		problem(w, http.StatusUnprocessableEntity, "code-format", "A claim code has eight letters and digits.",
			"Look at it again and type it as it stands there.")
		return
	}
	client := clientKey(r)
	if wait := s.limit.take(client); wait > 0 {
		secs := int(math.Ceil(wait.Seconds()))
		w.Header().Set("Retry-After", strconv.Itoa(secs))
		problem(w, http.StatusTooManyRequests, "too-many-tries", "Too many tries.",
			fmt.Sprintf("Try again in %d seconds.", secs))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	var claim api.Claim
	if err := daemon.GetJSON(ctx, s.init, "http://init/v1/claim", &claim); err != nil {
		s.limit.undo(client)
		s.log.Warn("can't ask for the claim code", "err", err)
		s.starting(w)
		return
	}
	want, ok := normaliseCode(claim.Code)
	if !ok {
		problem(w, http.StatusGone, "code-void", "The claim code has been used up.", "")
		return
	}
	if !sameCode(code, want) {
		s.log.Info("a wrong claim code", "client", client)
		problem(w, http.StatusForbidden, "wrong-code", "That is not this box's claim code.",
			"Look at it again and type it as it stands there.")
		return
	}
	s.limit.won(client)
	s.sessions.end(r.Context(), token(r)) // a new sign-in never goes on with an old token
	setCookie(w, r, s.sessions.create(r.Context()))
	s.log.Info("signed in", "client", client)
	w.WriteHeader(http.StatusCreated)
}

func (s *server) deleteSession(w http.ResponseWriter, r *http.Request) {
	s.sessions.end(r.Context(), token(r))
	setCookie(w, r, "")
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) getBox(w http.ResponseWriter, _ *http.Request) {
	b, err := s.box.get()
	if err != nil {
		s.starting(w)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, b)
}

// getEvents streams the box's state: an event "box" now and after each change, a comment when it is quiet, an event
// "end" when the session is over.
func (s *server) getEvents(w http.ResponseWriter, r *http.Request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		problem(w, http.StatusServiceUnavailable, "too-many-streams", "Too many pages are watching this box.",
			"Close one that you don't need.")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	send := func(text string) bool {
		rc.SetWriteDeadline(time.Now().Add(sendTimeout))
		if _, err := io.WriteString(w, text); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	var sent *api.Box
	sendBox := func(b *api.Box) bool {
		if b == sent {
			return true
		}
		sent = b
		data, err := json.Marshal(b)
		return err == nil && send("event: box\ndata: "+string(data)+"\n\n")
	}
	changes, stop := s.box.subscribe()
	defer stop()
	if b, err := s.box.get(); err == nil {
		if !sendBox(b) {
			return
		}
	} else if !send(":\n\n") {
		return
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for ok := true; ok; {
		var b *api.Box
		select {
		case <-r.Context().Done():
			return
		case b = <-changes:
		case <-beat.C:
		}
		if _, in := s.sessions.get(r.Context(), token(r)); !in {
			send("event: end\ndata: {}\n\n")
			return
		}
		if b != nil {
			ok = sendBox(b)
			beat.Reset(beatEvery)
		} else {
			ok = send(":\n\n")
		}
	}
}

// postRescue hands an action of rescue mode to init.
func (s *server) postRescue(w http.ResponseWriter, r *http.Request) {
	var req api.RescueRequest
	if !decode(w, r, &req) {
		return
	}
	switch req.Action {
	case "retry", "check":
		req.Confirm = ""
	case "start-over":
		if req.Confirm != api.StartOverWord {
			problem(w, http.StatusUnprocessableEntity, "not-confirmed", "Nothing was erased.",
				"To start over, type the word "+api.StartOverWord+".")
			return
		}
	default:
		problem(w, http.StatusUnprocessableEntity, "action", "There is no such action.", "")
		return
	}
	b, err := s.box.get()
	if err != nil {
		s.starting(w)
		return
	}
	if b.System.Mode != api.ModeRescue {
		problem(w, http.StatusConflict, "not-rescue", "The box is not in rescue mode.", "")
		return
	}
	s.log.Info("rescue", "action", req.Action, "client", clientKey(r))
	body, err := json.Marshal(req)
	if err != nil {
		s.starting(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), initTimeout)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://init/v1/rescue", bytes.NewReader(body))
	if err != nil {
		s.starting(w)
		return
	}
	ask.Header.Set("Content-Type", "application/json")
	resp, err := s.init.Do(ask)
	if err != nil {
		s.log.Warn("rescue", "action", req.Action, "err", err)
		s.starting(w)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		var p api.Problem
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if json.Unmarshal(text, &p) != nil || p.Title == "" {
			p = api.Problem{Title: "That can't be done now.", Detail: strings.TrimSpace(string(text))}
		}
		s.log.Warn("rescue was refused", "action", req.Action, "status", resp.StatusCode, "title", p.Title)
		problem(w, http.StatusConflict, "refused", p.Title, p.Detail)
		return
	}
	s.box.forget()
	w.WriteHeader(http.StatusAccepted)
}

func (s *server) starting(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "2")
	problem(w, http.StatusServiceUnavailable, "starting", "The box is still starting.", "Try again in a few seconds.")
}

// signedIn reports whether the request carries a live session, and renews its cookie when the session was renewed.
func (s *server) signedIn(w http.ResponseWriter, r *http.Request) bool {
	t := token(r)
	renewed, ok := s.sessions.use(r.Context(), t)
	if renewed {
		setCookie(w, r, t)
	}
	return ok
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

// decode reads a JSON body into v, or answers with a problem and returns false.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		problem(w, http.StatusUnsupportedMediaType, "media-type", "The request's body has to be application/json.", "")
		return false
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		problem(w, http.StatusRequestEntityTooLarge, "too-large", "The request's body is too large.", "")
		return false
	case err != nil:
		problem(w, http.StatusBadRequest, "body", "The request's body did not arrive in full.", "")
		return false
	}
	if err := json.Unmarshal(b, v); err != nil {
		problem(w, http.StatusBadRequest, "json", "The request's body is not the JSON that is expected here.", "")
		return false
	}
	return true
}

// problem answers with an RFC 9457 problem. name tells programs what happened; it is the last part of the type.
func problem(w http.ResponseWriter, status int, name, title, detail string) {
	b, err := json.Marshal(api.Problem{Type: "/problems/" + name, Title: title, Status: status, Detail: detail})
	if err != nil {
		http.Error(w, title, status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}
