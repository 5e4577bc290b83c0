package network

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	hwnet "github.com/croft-os/croft/hardware/network"
	"github.com/croft-os/croft/services/api"
)

// applyTime is how long the manager's loop is waited for when nobody else waits.
const applyTime = 10 * time.Second

// answerTime is how long an answer gets to reach who asked, before the address changes that they know.
const answerTime = time.Second

// trial is a configuration that goes by itself. Time is measured by the monotonic clock, as a new network may bring
// another time of day.
type trial struct {
	config api.NetConfig
	until  time.Time
	timer  *time.Timer
}

// readConfig returns the configuration in a request, or answers why it can't be used.
func (s *service) readConfig(w http.ResponseWriter, r *http.Request) (c api.NetConfig, ok bool) {
	c, err := decodeConfig(r.Body)
	if err != nil {
		detail := err.Error()
		var ce *hwnet.ConfigError
		if errors.As(err, &ce) && ce.Path == "" {
			detail = ce.Text
		}
		problem(w, http.StatusUnprocessableEntity, "These network settings can't be used; the ones before stay.", detail)
		return c, false
	}
	return c, true
}

func (s *service) putConfig(w http.ResponseWriter, r *http.Request) {
	c, ok := s.readConfig(w, r)
	if !ok {
		return
	}
	s.put.Lock()
	defer s.put.Unlock()
	s.use(w, r, c)
}

// use makes a configuration the one that is kept, and ends a trial. The caller holds put.
func (s *service) use(w http.ResponseWriter, r *http.Request, c api.NetConfig) {
	if err := s.save(c); err != nil {
		s.log.Error("can't save the network settings", "err", err)
		problem(w, http.StatusInternalServerError, "Croft couldn't save the network settings; the ones before stay.",
			"The card may be full or damaged. Free some space and try again.")
		return
	}
	s.mu.Lock()
	s.config = c
	s.mu.Unlock()
	s.setTrial(nil)
	if err := s.apply(r.Context()); err != nil {
		problem(w, http.StatusServiceUnavailable, "The network settings are saved, but not yet in use.",
			"They will be within a minute.") // healthy applies them
		return
	}
	s.clock.Poke()
	w.WriteHeader(http.StatusNoContent)
}

// setTrial begins or ends a trial, without applying it. The caller holds put.
func (s *service) setTrial(t *trial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trial != nil {
		s.trial.timer.Stop()
	}
	s.trial = t
}

func (s *service) putTrial(w http.ResponseWriter, r *http.Request) {
	c, ok := s.readConfig(w, r)
	if !ok {
		return
	}
	s.put.Lock()
	defer s.put.Unlock()
	t := &trial{config: c, until: time.Now().Add(s.tryFor)}
	t.timer = time.AfterFunc(s.tryFor, func() { s.expire(t) })
	s.setTrial(t)
	s.log.Info("trying network settings", "for", s.tryFor)
	s.soon()
	w.WriteHeader(http.StatusNoContent)
}

// soon applies what counts by then, once the answer had time to arrive: who asked from afar may lose the box with the
// address that it goes away from.
func (s *service) soon() {
	time.AfterFunc(answerTime, func() {
		s.put.Lock()
		defer s.put.Unlock()
		s.applyNow()
	})
}

// applyNow applies what counts now. The caller holds put.
func (s *service) applyNow() {
	ctx, cancel := context.WithTimeout(context.Background(), applyTime)
	defer cancel()
	if err := s.apply(ctx); err != nil { // then healthy does it
		s.log.Warn("can't apply the network settings yet", "err", err)
	}
	s.clock.Poke()
}

// expire ends a trial that nobody kept.
func (s *service) expire(t *trial) {
	s.put.Lock()
	defer s.put.Unlock()
	s.mu.Lock()
	over := s.trial != t
	s.mu.Unlock()
	if over {
		return
	}
	s.log.Info("nobody kept the network settings that were tried; going back")
	s.setTrial(nil)
	s.applyNow()
}

func (s *service) keepTrial(w http.ResponseWriter, r *http.Request) {
	s.put.Lock()
	defer s.put.Unlock()
	s.mu.Lock()
	t := s.trial
	s.mu.Unlock()
	if t == nil {
		problem(w, http.StatusConflict, "No network settings are being tried; the ones before are in use.", "Try them again, then keep them in time.")
		return
	}
	s.use(w, r, t.config)
}

func (s *service) endTrial(w http.ResponseWriter, _ *http.Request) {
	s.put.Lock()
	defer s.put.Unlock()
	s.setTrial(nil)
	s.soon()
	w.WriteHeader(http.StatusNoContent)
}

func (s *service) putName(w http.ResponseWriter, r *http.Request) {
	var req api.NameRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&req)
	if err != nil || len(req.Name) > 63 || strings.Contains(req.Name, ".") || !hostRE.MatchString(req.Name) {
		problem(w, http.StatusUnprocessableEntity, "This can't be the name of a box.", "name: one label of a host name is needed")
		return
	}
	s.mu.Lock()
	s.host = req.Name
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}
