package core

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	maxStreams  = 32               // at once
	mostOfOne   = 12               // of them, of one person, or of one session without a person
	beatEvery   = 15 * time.Second // comment in an otherwise quiet stream
	sendTimeout = 10 * time.Second // for a client to take an event
)

// streams counts the event streams that are open.
type streams struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by person or session
}

func (s *streams) take(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.of[who] >= mostOfOne {
		return false
	}
	if s.of == nil {
		s.of = map[string]int{}
	}
	s.all++
	s.of[who]++
	return true
}

func (s *streams) release(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[who]--; s.of[who] == 0 {
		delete(s.of, who)
	}
}

// stream is an answer of server-sent events.
type stream struct {
	s  *server
	w  http.ResponseWriter
	r  *http.Request
	c  *caller
	rc *http.ResponseController
}

// stream serves an answer of server-sent events: run sends them, until it returns or a send fails. There are only so many
// at once.
func (s *server) stream(w http.ResponseWriter, r *http.Request, c *caller, run func(*stream)) {
	who := c.Person.ID
	if who == "" {
		who = c.session.ID
	}
	if !s.streams.take(who) {
		wait(w, http.StatusServiceUnavailable, "too-many-streams", "Too many pages are watching this box.", 10*time.Second)
		return
	}
	defer s.streams.release(who)
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	defer rc.SetWriteDeadline(time.Time{}) // of this connection's next answer
	run(&stream{s, w, r, c, rc})
}

func (st *stream) write(text string) bool {
	st.rc.SetWriteDeadline(time.Now().Add(sendTimeout))
	if _, err := io.WriteString(st.w, text); err != nil {
		return false
	}
	return st.rc.Flush() == nil
}

// send sends an event with v as its data, and beat a comment, unless the caller is not who it was: then the stream ends
// with the event "end". They report whether there is more to send.
func (st *stream) send(event string, v any) bool {
	data, err := json.Marshal(v)
	return err == nil && st.still() && st.write("event: "+event+"\ndata: "+string(data)+"\n\n")
}

func (st *stream) beat() bool { return st.still() && st.write(":\n\n") }

func (st *stream) still() bool {
	if st.s.still(st.r, st.c) {
		return true
	}
	st.write("event: end\ndata: {}\n\n")
	return false
}

// getEvents streams the box's state: an event "box" now and after each change.
func (s *server) getEvents(w http.ResponseWriter, r *http.Request, c *caller) {
	s.stream(w, r, c, func(st *stream) {
		changes, stop := s.box.subscribe()
		defer stop()
		var sent *api.Box
		send := func(b *api.Box) bool {
			if b == sent {
				return st.still()
			}
			sent = b
			return st.send("box", forRole(b, c.role))
		}
		if b, err := s.box.get(); err == nil {
			if !send(b) {
				return
			}
		} else if !st.beat() {
			return
		}
		beat := time.NewTicker(beatEvery)
		defer beat.Stop()
		for ok := true; ok; {
			select {
			case <-r.Context().Done():
				return
			case b := <-changes:
				ok = send(b)
				beat.Reset(beatEvery)
			case <-beat.C:
				ok = st.beat()
			}
		}
	})
}
