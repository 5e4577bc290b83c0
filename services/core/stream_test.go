package core

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// deadlined remembers the deadline that is set.
type deadlined struct {
	*httptest.ResponseRecorder
	write time.Time
}

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.write = t
	return nil
}

// The gateway uses the connection of a stream that has ended again: a deadline that was left there would cut off the answer
// to a request that was carried out.
func TestStreamLeavesNoDeadline(t *testing.T) {
	var s server
	w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
	s.stream(w, httptest.NewRequest("GET", "/", nil), &caller{session: api.Session{ID: "1"}}, func(st *stream) {
		if !st.write(":\n\n") || w.write.IsZero() {
			t.Error("an event was sent without a deadline")
		}
	})
	if !w.write.IsZero() {
		t.Error("the deadline stays")
	}
}
