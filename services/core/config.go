package core

import (
	"errors"
	"fmt"
	"math"
	"net/http"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/config"
	"github.com/croft-os/croft/services/daemon"
)

func (s *server) getConfig(w http.ResponseWriter, r *http.Request, _ *caller) {
	d, err := s.config.Document()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	tag := config.ETag(d)
	w.Header().Set("ETag", tag)
	if listsTag(r.Header.Values("If-None-Match"), tag, true) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, d)
}

// putConfig makes a document the configuration. Package config reads it, as it has more to say about what is wrong.
func (s *server) putConfig(w http.ResponseWriter, r *http.Request, c *caller) {
	b, ok := readBody(w, r)
	if !ok {
		return
	}
	now, err := s.config.Document()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	tag := config.ETag(now)
	if !matches(w, r, tag) {
		return
	}
	want, err := config.Parse(b)
	if err != nil {
		s.badDocument(w, r, err)
		return
	}
	v, err := s.config.Change(r.Context(), c.Caller, tag, want)
	s.changed(w, r, v, err)
}

// changed answers with what came of a change.
func (s *server) changed(w http.ResponseWriter, r *http.Request, v api.ConfigResult, err error) {
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.holdNetworkTrial(r.Context(), v.Trial)
	s.box.forget()
	w.Header().Set("ETag", config.ETag(v.Config))
	daemon.WriteJSON(w, http.StatusOK, v)
}

func (s *server) badDocument(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, config.ErrNotJSON) {
		problem(w, http.StatusBadRequest, "not-json", "This is no configuration document.", "Look at docs/config.md.")
		return
	}
	s.refuse(w, r, err)
}

func (s *server) postConfigCheck(w http.ResponseWriter, r *http.Request, _ *caller) {
	b, ok := readBody(w, r)
	if !ok {
		return
	}
	v, err := s.config.Check(r.Context(), b)
	if err != nil {
		s.badDocument(w, r, err)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}

func (s *server) getConfigChanges(w http.ResponseWriter, r *http.Request, _ *caller) {
	all, err := s.config.Changes(r.Context())
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	writePage(w, r, all, func(c api.ConfigChange) string { return descending(c.ID) })
}

// descending is a key of writePage by which larger numbers come first.
func descending(n int64) string { return fmt.Sprintf("%019d", math.MaxInt64-n) }

func (s *server) postConfigUndo(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.UndoRequest
	if !decode(w, r, &req) {
		return
	}
	v, err := s.config.Undo(r.Context(), c.Caller, req.Change)
	s.changed(w, r, v, err)
}
