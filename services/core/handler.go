package core

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

const (
	maxStreams  = 32               // event streams at once
	beatEvery   = 15 * time.Second // comment in an otherwise quiet stream
	sendTimeout = 10 * time.Second // for a client to take an event
	initTimeout = 5 * time.Second  // for init to answer a request that acts

)

func (s *server) getHealth(w http.ResponseWriter, _ *http.Request, _ *caller) {
	daemon.WriteJSON(w, http.StatusOK, map[string]bool{"ok": true})
}

func (s *server) getSession(w http.ResponseWriter, r *http.Request, _ *caller) {
	v, _ := s.sessions.get(r.Context(), token(r))
	daemon.WriteJSON(w, http.StatusOK, v)
}

// postSession exchanges the claim code for a session.
func (s *server) postSession(w http.ResponseWriter, r *http.Request, _ *caller) {
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
	if d := s.limit.take(client); d > 0 {
		tooManyTries(w, d)
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

func (s *server) deleteSession(w http.ResponseWriter, r *http.Request, _ *caller) {
	s.sessions.end(r.Context(), token(r))
	setCookie(w, r, "")
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) getBox(w http.ResponseWriter, _ *http.Request, _ *caller) {
	b, err := s.box.get()
	if err != nil {
		s.starting(w)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, b)
}

// getEvents streams the box's state: an event "box" now and after each change, a comment when it is quiet, an event
// "end" when the session is over.
func (s *server) getEvents(w http.ResponseWriter, r *http.Request, _ *caller) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		wait(w, http.StatusServiceUnavailable, "too-many-streams", "Too many pages are watching this box.", 10*time.Second)
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
func (s *server) postRescue(w http.ResponseWriter, r *http.Request, _ *caller) {
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
		text, _ := io.ReadAll(io.LimitReader(resp.Body, small))
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
