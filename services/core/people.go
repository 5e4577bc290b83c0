package core

import (
	"net/http"

	"github.com/croft-os/croft/services/api"
)

func (s *server) getPeople(w http.ResponseWriter, r *http.Request, _ *caller) {
	writePage(w, r, s.id.People(), func(v api.Person) string { return nameKey(v.Name) + " " + v.ID })
}

func (s *server) getPerson(w http.ResponseWriter, r *http.Request, _ *caller) {
	p, err := s.id.Person(r.PathValue("id"))
	s.answer(w, r, http.StatusOK, p, err)
}

func (s *server) putPerson(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.PersonChange
	if !decode(w, r, &req) {
		return
	}
	p, err := s.id.ChangePerson(r.Context(), c.Caller, r.PathValue("id"), req)
	s.answer(w, r, http.StatusOK, p, err)
}

func (s *server) deletePerson(w http.ResponseWriter, r *http.Request, c *caller) {
	s.answer(w, r, http.StatusNoContent, nil, s.id.RemovePerson(r.Context(), c.Caller, r.PathValue("id")))
}

func (s *server) deletePersonSessions(w http.ResponseWriter, r *http.Request, c *caller) {
	s.answer(w, r, http.StatusNoContent, nil, s.id.EndSessions(r.Context(), c.Caller, r.PathValue("id")))
}

func (s *server) getInvites(w http.ResponseWriter, r *http.Request, _ *caller) {
	l, err := s.id.Invites(r.Context())
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	writePage(w, r, l, func(v api.Invite) string { return newestFirst(v.Created) + v.ID })
}

func (s *server) postInvite(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.InviteRequest
	if !decode(w, r, &req) {
		return
	}
	v, err := s.id.Invite(r.Context(), c.Caller, req)
	s.answer(w, r, http.StatusCreated, v, err)
}

func (s *server) deleteInvite(w http.ResponseWriter, r *http.Request, c *caller) {
	s.answer(w, r, http.StatusNoContent, nil, s.id.EndInvite(r.Context(), c.Caller, r.PathValue("id")))
}

// getAudit serves what was done, newest first.
func (s *server) getAudit(w http.ResponseWriter, r *http.Request, _ *caller) {
	after, limit, ok := pageOf(w, r)
	if !ok {
		return
	}
	l, err := s.id.Audit(r.Context(), after, limit)
	s.answer(w, r, http.StatusOK, l, err)
}
