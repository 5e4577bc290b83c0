package core

import (
	"encoding/json"
	"net/http"

	"github.com/croft-os/croft/services/api"
)

// problem answers with an RFC 9457 problem. name tells programs what happened; it is the last part of the type.
func problem(w http.ResponseWriter, status int, name, title, detail string) {
	b, err := json.Marshal(api.Problem{Type: "/problems/" + name, Title: title, Status: status, Detail: detail})
	if err != nil {
		http.Error(w, title, status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func (s *server) starting(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "2")
	problem(w, http.StatusServiceUnavailable, "starting", "The box is still starting.", "Try again in a few seconds.")
}
