package core

import "net/http"

func (s *server) getConfig(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) putConfig(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) postConfigCheck(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) getConfigChanges(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) postConfigUndo(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) getNetwork(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) postNetworkKeep(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) postNetworkRevert(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}
