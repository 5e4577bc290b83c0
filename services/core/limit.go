package core

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	freeTries  = 5 // wrong codes before a client has to wait
	firstWait  = 10 * time.Second
	longestOff = 15 * time.Minute
	forgetIn   = time.Hour // of quiet
	maxClients = 1024
	allBurst   = 20 // tries of all clients together at once …
	allPerMin  = 20 // … and from then on; 40 bits at this rate last for a hundred thousand years
)

// limiter slows down guessing: each client after a few wrong tries, with a wait that doubles, and all together.
type limiter struct {
	now func() time.Time

	mu      sync.Mutex
	clients map[string]*tries
	tokens  float64 // tries left for all
	filled  time.Time
}

type tries struct {
	wrong int
	last  time.Time
	until time.Time // no further try before
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, clients: map[string]*tries{}, tokens: allBurst, filled: now()}
}

// take books one try of the client as wrong, until won says otherwise, or returns how long it has to wait. Booking
// first keeps parallel tries from passing together.
func (l *limiter) take(client string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.now()
	c := l.clients[client]
	if c != nil && t.Sub(c.last) > forgetIn {
		c = nil
	}
	if c != nil && t.Before(c.until) {
		return c.until.Sub(t)
	}
	l.tokens = min(allBurst, l.tokens+t.Sub(l.filled).Minutes()*allPerMin)
	l.filled = t
	if l.tokens < 1 {
		return time.Duration((1 - l.tokens) / allPerMin * float64(time.Minute))
	}
	l.tokens--
	if c == nil {
		l.makeRoom(t)
		c = &tries{}
		l.clients[client] = c
	}
	c.wrong++
	c.last = t
	if over := c.wrong - freeTries; over >= 0 {
		c.until = t.Add(min(longestOff, firstWait<<min(over, 10)))
	}
	return 0
}

// won takes back the last try of the client and all that was held against it.
func (l *limiter) won(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.clients, client)
	l.tokens = min(allBurst, l.tokens+1)
}

// undo takes back one try that could not be judged.
func (l *limiter) undo(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = min(allBurst, l.tokens+1)
	if c := l.clients[client]; c != nil {
		c.wrong--
		c.until = time.Time{}
	}
}

func (l *limiter) makeRoom(t time.Time) {
	if len(l.clients) < maxClients {
		return
	}
	var oldest string
	var last time.Time
	for k, c := range l.clients {
		if t.Sub(c.last) > forgetIn {
			delete(l.clients, k)
		} else if last.IsZero() || c.last.Before(last) {
			oldest, last = k, c.last
		}
	}
	if len(l.clients) >= maxClients {
		delete(l.clients, oldest)
	}
}

// clientKey names who is asking, for the limiter: the address that the gateway saw, or of a public IPv6 address the /64
// that one sender can roam. Addresses of the LAN count alone, so that one device's wrong codes don't make the whole
// household wait; who roams there meets the bound on all together. The gateway and the web UI put it last in
// X-Forwarded-For; what a client itself sent stands before it.
func clientKey(r *http.Request) string {
	f := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	a, err := netip.ParseAddr(strings.TrimSpace(f[strings.LastIndexByte(f, ',')+1:]))
	if err != nil {
		return "unknown"
	}
	a = a.Unmap().WithZone("")
	if a.Is4() || a.IsLinkLocalUnicast() || a.IsPrivate() {
		return a.String()
	}
	p, _ := a.Prefix(64)
	return p.String()
}
