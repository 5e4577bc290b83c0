package core

import "net/http"

func (s *server) getAlerts(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) postAlertSeen(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}
