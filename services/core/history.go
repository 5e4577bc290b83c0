package core

import "net/http"

func (s *server) getHistory(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}
