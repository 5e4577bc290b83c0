package core

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"strconv"

	"github.com/croft-os/croft/services/alerts"
	"github.com/croft-os/croft/services/api"
)

func (s *server) getAlerts(w http.ResponseWriter, r *http.Request, _ *caller) {
	writePage(w, r, s.alerts.List(), func(a api.Alert) string { return descending(a.Last.Unix()) + descending(a.ID) })
}

func (s *server) postAlertSeen(w http.ResponseWriter, r *http.Request, c *caller) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		notFound(w)
		return
	}
	err = s.alerts.Seen(r.Context(), id, func(ctx context.Context, tx *sql.Tx, a api.Alert) error {
		e := api.AuditEntry{Action: "alert-seen", Who: c.Person.Name, Place: c.Place, Target: a.Name}
		if a.Target != "" {
			e.Args = map[string]string{"target": a.Target}
		}
		return s.id.Record(ctx, tx, e)
	})
	if errors.Is(err, alerts.ErrNotFound) {
		notFound(w)
		return
	}
	s.done(w, r, err)
}
