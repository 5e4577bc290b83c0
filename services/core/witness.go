package core

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// errWitnessAway says that the witness does not answer.
var errWitnessAway = errors.New("the witness does not answer")

// wholeWitness makes the lists of an answer lists.
func wholeWitness(w *api.Witness) {
	if w.Logs == nil {
		w.Logs = []api.WitnessLog{}
	}
	if w.Config.Logs == nil {
		w.Config.Logs = []string{}
	}
}

func (s *server) refuseWitness(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, errWitnessAway) {
		s.refuse(w, r, err)
		return
	}
	s.log.Warn("the witness does not answer", "path", r.URL.Path, "err", err)
	wait(w, http.StatusServiceUnavailable, "witness-away", "The part of the box that is a witness for others does not answer.", 5*time.Second)
}

// getWitness says how it stands with being a witness for others.
func (s *server) getWitness(w http.ResponseWriter, r *http.Request, _ *caller) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	var out api.Witness
	if err := daemon.GetJSON(ctx, s.witness, "http://witness/v1/witness", &out); err != nil {
		s.refuseWitness(w, r, fmt.Errorf("%w: %w", errWitnessAway, err))
		return
	}
	wholeWitness(&out)
	daemon.WriteJSON(w, http.StatusOK, out)
}

// postWitnessKey has the witness throw its key away and make another.
func (s *server) postWitnessKey(w http.ResponseWriter, r *http.Request, c *caller) {
	ctx, cancel := context.WithTimeout(r.Context(), updaterTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://witness/v1/key", nil)
	if err == nil {
		var resp *http.Response
		if resp, err = s.witness.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusNoContent {
				err = errors.New(resp.Status)
			}
		}
	}
	if err != nil {
		s.refuseWitness(w, r, fmt.Errorf("%w: %w", errWitnessAway, err))
		return
	}
	s.box.forget()
	e := api.AuditEntry{Action: "witness-key", Who: c.Person.Name, Place: c.Place}
	if err := s.id.Log(context.WithoutCancel(ctx), e); err != nil { // it has happened all the same
		s.log.Error("an action was not recorded", "action", e.Action, "err", err)
	}
	w.WriteHeader(http.StatusNoContent)
}
