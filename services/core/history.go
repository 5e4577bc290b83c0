package core

import (
	"context"
	"net/http"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/history"
)

// lookEvery is how often all of the box is looked at when nobody asks; it is a multiple of history.Every. After the start
// that is done every soon, until the configuration is known.
const (
	lookEvery = time.Minute
	soon      = time.Second
)

func (s *server) getHistory(w http.ResponseWriter, r *http.Request, _ *caller) {
	h, ok := s.history.Range(r.URL.Query().Get("range"), time.Now())
	if !ok {
		invalid(w, api.FieldProblem{Path: "/range", Code: "range", Text: "range is 24h or 30d."})
		return
	}
	daemon.WriteJSON(w, http.StatusOK, h)
}

// watch looks at the box whether or not anybody else does: at its vitals often, which costs it little, and at all of it
// now and then. What is seen is remembered and acted upon.
func (s *server) watch() {
	defer func() {
		if err := s.history.Close(); err != nil {
			s.log.Warn("closing the history", "err", err)
		}
	}()
	for n := 0; n < int(lookEvery/soon) && s.ctx.Err() == nil; n++ {
		s.look()
		if _, err := s.config.Document(); err == nil {
			break
		}
		s.pause(soon)
	}
	for n := 0; s.ctx.Err() == nil; n++ {
		if n%int(lookEvery/history.Every) == 0 {
			s.look()
		}
		s.sample()
		s.pause(history.Every)
	}
}

func (s *server) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.ctx.Done():
	case <-t.C:
	}
}

func (s *server) look() {
	if b, err := s.box.get(); err == nil {
		s.config.Reconcile(s.ctx, b)
	}
}

// sample takes the box's vitals into the history.
func (s *server) sample() {
	ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
	defer cancel()
	var v api.Vitals
	if daemon.GetJSON(ctx, s.init, "http://init/v1/vitals", &v) != nil {
		return // it is a gap, then
	}
	s.history.Add(history.Moment{Wall: time.Now(), Mono: time.Since(s.started), Sure: s.sure.Load()}, v)
}

// observed has what was just seen of the box remembered, and adds the alerts of it.
func (s *server) observed(b *api.Box) {
	if b.Network != nil {
		s.sure.Store(b.Network.Clock.Certainty != api.ClockUnsure)
	}
	s.alerts.Observe(s.ctx, b, time.Since(s.started))
	if err := s.attempted.record(s.ctx, b.Updates, s.attempts); err != nil {
		s.log.Warn("how an update ended was not recorded yet", "err", err)
	}
	b.Alerts = s.alerts.List()
}
