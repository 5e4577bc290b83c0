package core

import (
	"net/http"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/identity"
)

func (s *server) getSetup(w http.ResponseWriter, r *http.Request, c *caller) {
	v, err := s.step(c)
	if err != nil {
		s.starting(w)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}

// step returns how far the box is. The error is errStarting: without an owner, it takes init to know.
func (s *server) step(c *caller) (api.Setup, error) {
	v := api.Setup{Name: s.name(), Step: s.id.Step()}
	if s.id.HasOwner() {
		v.Mine = c.role == owner || v.Step == api.StepDone && c.role == member
		return v, nil
	}
	b, err := s.box.get()
	if err != nil {
		return v, err
	}
	if b.System.Mode == api.ModeRescue {
		v.Step, v.Mine = api.StepRescue, c.role == rescue
		return v, nil
	}
	void, err := s.claimVoid()
	if err != nil {
		return v, err
	}
	switch v.Mine, v.Busy = c.role == setup, s.id.Busy(); {
	case void:
		v = api.Setup{Step: api.StepLocked, Name: v.Name}
	case v.Step == api.StepClaim:
		v.Mine = true
	}
	return v, nil
}

func (s *server) putSetupName(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.NameRequest
	if !decode(w, r, &req) || !s.unfinished(w, r) {
		return
	}
	s.went(w, r, c, s.config.Set(r.Context(), c.Caller, func(d *api.Config) { d.Name = req.Name }, s.id.Named))
}

func (s *server) postSetupAccount(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.AccountRequest
	if !decode(w, r, &req) {
		return
	}
	token, v, err := s.id.MakeFirstOwner(r.Context(), req, c.Caller, c.token)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.limits.signIn.trust(c.Place)
	go s.voidClaim() // nobody has to wait for it: what is written already is what counts
	begin(w, r, token, v)
}

func (s *server) putSetupTimeZone(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.ZoneRequest
	if !decode(w, r, &req) || !s.unfinished(w, r) {
		return
	}
	s.went(w, r, c, s.config.Set(r.Context(), c.Caller, func(d *api.Config) { d.TimeZone = req.TimeZone }, nil))
}

func (s *server) postSetupDone(w http.ResponseWriter, r *http.Request, c *caller) {
	s.went(w, r, c, s.id.FinishSetup(r.Context(), c.Caller))
}

// unfinished reports whether the box is being set up still, or answers with a problem.
func (s *server) unfinished(w http.ResponseWriter, r *http.Request) bool {
	done := s.id.Step() == api.StepDone
	if done {
		s.refuse(w, r, identity.ErrAlreadyClaimed)
	}
	return !done
}

// went answers how far the box is after a step, or why the step was not taken.
func (s *server) went(w http.ResponseWriter, r *http.Request, c *caller, err error) {
	s.box.forget()
	var v api.Setup
	if err == nil {
		v, err = s.step(c)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}
