package core

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/croft-os/croft/services/api"
)

const initTimeout = 5 * time.Second // for init to answer a request that acts

// refusedError is what init said to a request that it refused.
type refusedError struct{ api.Problem }

func (e *refusedError) Error() string { return "init refuses: " + e.Title }

// tell asks init to do something. The error is a *refusedError, or errStarting if init does not answer.
func (s *server) tell(ctx context.Context, method, path string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://init"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.init.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errStarting, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, small))
	var p api.Problem
	if json.Unmarshal(text, &p) != nil || p.Title == "" {
		p = api.Problem{Title: "That can't be done now.", Detail: http.StatusText(resp.StatusCode)}
	}
	return &refusedError{p}
}

// act has init do what an owner asked for, records it, and answers.
func (s *server) act(w http.ResponseWriter, r *http.Request, c *caller, path string, body any, e api.AuditEntry) {
	err := s.tell(r.Context(), http.MethodPost, path, body)
	var no *refusedError
	switch {
	case errors.As(err, &no):
		s.log.Warn("init refused", "path", path, "title", no.Title)
		problem(w, http.StatusConflict, "refused", no.Title, no.Detail)
		return
	case err != nil:
		s.refuse(w, r, err)
		return
	}
	s.box.forget()
	if e.Action != "" {
		e.Who, e.Place = c.Person.Name, c.Place
		if err := s.id.Log(context.WithoutCancel(r.Context()), e); err != nil { // it has happened all the same
			s.log.Error("an action was not recorded", "action", e.Action, "err", err)
		}
	}
	w.WriteHeader(http.StatusAccepted)
}

func (s *server) getServices(w http.ResponseWriter, r *http.Request, _ *caller) {
	b, err := s.box.get()
	if err != nil {
		s.starting(w)
		return
	}
	writePage(w, r, slices.Clone(b.System.Services), func(v api.Service) string { return v.Name })
}

func (s *server) postServiceRestart(w http.ResponseWriter, r *http.Request, c *caller) {
	name := r.PathValue("name")
	b, err := s.box.get()
	if err != nil {
		s.starting(w)
		return
	}
	if !slices.ContainsFunc(b.System.Services, func(v api.Service) bool { return v.Name == name }) {
		notFound(w)
		return
	}
	s.act(w, r, c, "/v1/services/"+name+"/restart", nil, api.AuditEntry{Action: "service-restarted", Target: name})
}

func (s *server) postPower(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.PowerRequest
	if !decode(w, r, &req) {
		return
	}
	actions := map[string]string{"reboot": "box-restarted", "poweroff": "box-switched-off"}
	if actions[req.Action] == "" {
		noSuchAction(w)
		return
	}
	s.act(w, r, c, "/v1/power", req, api.AuditEntry{Action: actions[req.Action]})
}

func noSuchAction(w http.ResponseWriter) {
	problem(w, http.StatusUnprocessableEntity, "action", "There is no such action.", "")
}

// confirmed reports whether the word was typed that nothing is erased without, or answers with a problem.
func confirmed(w http.ResponseWriter, word string) bool {
	if word != api.StartOverWord {
		problem(w, http.StatusUnprocessableEntity, "not-confirmed", "Nothing was erased.",
			"To start over, type the word "+api.StartOverWord+".")
		return false
	}
	return true
}

func (s *server) postStartOver(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.StartOverRequest
	if !decode(w, r, &req) || !confirmed(w, req.Confirm) {
		return
	}
	err, ok := s.checked(w, c, func() error { return s.id.ConfirmPassword(r.Context(), c.Caller, req.Password) })
	switch {
	case !ok:
	case err != nil:
		s.refuse(w, r, err)
	default:
		s.act(w, r, c, "/v1/start-over", nil, api.AuditEntry{Action: "started-over"})
	}
}

// postRescue hands an action of rescue mode to init.
func (s *server) postRescue(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.RescueRequest
	if !decode(w, r, &req) {
		return
	}
	switch req.Action {
	case "retry", "check", "cancel":
		req.Confirm = ""
	case "start-over":
		if !confirmed(w, req.Confirm) {
			return
		}
	default:
		noSuchAction(w)
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
	s.log.Info("rescue", "action", req.Action, "client", c.Place)
	s.act(w, r, c, "/v1/rescue", req, api.AuditEntry{})
	if req.Action != "cancel" {
		s.holdWhileRescuing()
	}
}
