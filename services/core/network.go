package core

import (
	"context"
	"net/http"

	"github.com/croft-os/croft/services/daemon"
)

func (s *server) getNetwork(w http.ResponseWriter, _ *http.Request, _ *caller) {
	b, err := s.box.get()
	if err != nil || b.Network == nil {
		s.starting(w)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, b.Network)
}

func (s *server) postNetworkKeep(w http.ResponseWriter, r *http.Request, c *caller) {
	s.endedTrial(w, r, s.config.KeepNetwork(r.Context(), c.Caller))
}

func (s *server) postNetworkRevert(w http.ResponseWriter, r *http.Request, c *caller) {
	s.endedTrial(w, r, s.config.RevertNetwork(r.Context(), c.Caller))
}

func (s *server) endedTrial(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		s.lease(context.WithoutCancel(r.Context()), holdNetwork, 0)
	}
	s.done(w, r, err)
}

// done answers that something was done to the box, or why not.
func (s *server) done(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.box.forget()
	w.WriteHeader(http.StatusNoContent)
}
