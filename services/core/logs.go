package core

import "net/http"

func (s *server) getLogs(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) getLogStream(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}
