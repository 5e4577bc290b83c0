package core

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/identity"
)

func (s *server) getMe(w http.ResponseWriter, _ *http.Request, c *caller) {
	daemon.WriteJSON(w, http.StatusOK, c.Person)
}

func (s *server) putMe(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.PersonChange
	if !decode(w, r, &req) {
		return
	}
	if req.Role != "" {
		invalid(w, api.FieldProblem{Path: "/role", Code: "unknown", Text: "Nobody changes their own role."})
		return
	}
	p, err := s.id.ChangePerson(r.Context(), c.Caller, c.Person.ID, req)
	s.answer(w, r, http.StatusOK, p, err)
}

// answer answers with v, or why it is not there. A nil v is no content.
func (s *server) answer(w http.ResponseWriter, r *http.Request, status int, v any, err error) {
	switch {
	case err != nil:
		s.refuse(w, r, err)
	case v == nil:
		w.WriteHeader(status)
	default:
		daemon.WriteJSON(w, status, v)
	}
}

// checked runs what checks a secret of the person who is signed in, unless there were too many wrong ones. The tries are the
// person's own, wherever they come from: who has found an open session must not find the password too.
func (s *server) checked(w http.ResponseWriter, c *caller, check func() error) (err error, ok bool) {
	if d := s.limits.password.take(c.Person.ID, ""); d > 0 {
		tooManyTries(w, d)
		return nil, false
	}
	switch err = check(); {
	case errors.Is(err, identity.ErrWrongPassword) || errors.Is(err, identity.ErrWrongSecondFactor):
		s.log.Info("a wrong password of who is signed in", "client", c.Place)
	case err == nil || isRefused(err):
		s.limits.password.won(c.Person.ID, "")
	default:
		s.limits.password.undo(c.Person.ID, "")
	}
	return err, true
}

func (s *server) putPassword(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.PasswordChange
	if !decode(w, r, &req) {
		return
	}
	var token string
	err, ok := s.checked(w, c, func() (err error) {
		token, _, err = s.id.ChangePassword(r.Context(), c.Caller, req)
		return err
	})
	switch {
	case !ok:
	case err != nil:
		s.refuse(w, r, err)
	default:
		setCookie(w, r, token)
		w.WriteHeader(http.StatusNoContent)
	}
}

// withPassword serves what asks for the password once more.
func (s *server) withPassword(w http.ResponseWriter, r *http.Request, c *caller, status int, do func(api.PasswordRequest) (any, error)) {
	var req api.PasswordRequest
	if !decode(w, r, &req) {
		return
	}
	var v any
	err, ok := s.checked(w, c, func() (err error) {
		v, err = do(req)
		return err
	})
	if ok {
		s.answer(w, r, status, v, err)
	}
}

func (s *server) postSecondFactor(w http.ResponseWriter, r *http.Request, c *caller) {
	s.withPassword(w, r, c, http.StatusCreated, func(req api.PasswordRequest) (any, error) {
		return s.id.BeginSecondFactor(r.Context(), c.Caller, req)
	})
}

func (s *server) deleteSecondFactor(w http.ResponseWriter, r *http.Request, c *caller) {
	s.withPassword(w, r, c, http.StatusNoContent, func(req api.PasswordRequest) (any, error) {
		return nil, s.id.EndSecondFactor(r.Context(), c.Caller, req)
	})
}

func (s *server) postRecoveryCodes(w http.ResponseWriter, r *http.Request, c *caller) {
	s.withPassword(w, r, c, http.StatusOK, func(req api.PasswordRequest) (any, error) {
		return s.id.NewRecoveryCodes(r.Context(), c.Caller, req)
	})
}

func (s *server) putSecondFactor(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.SecondFactorCode
	if !decode(w, r, &req) {
		return
	}
	var v api.RecoveryCodes
	err, ok := s.checked(w, c, func() (err error) {
		v, err = s.id.ConfirmSecondFactor(r.Context(), c.Caller, req)
		return err
	})
	if ok {
		s.answer(w, r, http.StatusOK, v, err)
	}
}

func (s *server) getMySessions(w http.ResponseWriter, r *http.Request, c *caller) {
	writePage(w, r, s.id.Sessions(c.Caller), func(v api.Session) string { return newestFirst(v.Created) + v.ID })
}

func (s *server) deleteMySessions(w http.ResponseWriter, r *http.Request, c *caller) {
	s.answer(w, r, http.StatusNoContent, nil, s.id.EndSessions(r.Context(), c.Caller, c.Person.ID))
}

func (s *server) deleteMySession(w http.ResponseWriter, r *http.Request, c *caller) {
	s.answer(w, r, http.StatusNoContent, nil, s.id.EndSession(r.Context(), c.Caller, r.PathValue("id")))
}

func (s *server) getTokens(w http.ResponseWriter, r *http.Request, c *caller) {
	l, err := s.id.Tokens(r.Context(), c.Caller)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	writePage(w, r, l, func(v api.Token) string { return newestFirst(v.Created) + v.ID })
}

func (s *server) postToken(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.TokenRequest
	if !decode(w, r, &req) {
		return
	}
	v, err := s.id.MakeToken(r.Context(), c.Caller, req)
	s.answer(w, r, http.StatusCreated, v, err)
}

func (s *server) deleteToken(w http.ResponseWriter, r *http.Request, c *caller) {
	s.answer(w, r, http.StatusNoContent, nil, s.id.EndToken(r.Context(), c.Caller, r.PathValue("id")))
}

// newestFirst is a time as a text that sorts the newest first.
func newestFirst(t time.Time) string { return fmt.Sprintf("%019d ", math.MaxInt64-t.UnixNano()) }
