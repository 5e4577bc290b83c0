package boot

import (
	"sync"
	"time"
)

// slowWait is how long anybody waits for what takes long to find out.
const slowWait = time.Second

// slow is something that takes long to find out, or for ever on a drive that hangs. One goroutine at a time looks; who
// asks meanwhile gets what was found last.
type slow[T any] struct {
	every time.Duration // how old what was found last may be

	mu    sync.Mutex
	last  T
	at    time.Time     // of last
	under chan struct{} // closed when the look under way is over; nil without one
}

func (s *slow[T]) get(find func() T) T {
	s.mu.Lock()
	if s.under == nil && (s.at.IsZero() || time.Since(s.at) >= s.every) {
		s.under = make(chan struct{})
		go s.look(find)
	}
	under := s.under
	s.mu.Unlock()
	if under != nil {
		select {
		case <-under:
		case <-time.After(slowWait):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *slow[T]) look(find func() T) {
	var found T
	_, err := guard(func() (string, error) { found = find(); return "", nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.last = found
	}
	s.at = time.Now()
	close(s.under)
	s.under = nil
}
