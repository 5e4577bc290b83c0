package core

import "net/http"

func (s *server) getDiagnosis(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}
