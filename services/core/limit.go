package core

import (
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	freeTries  = 5 // wrong tries before there is a wait
	firstWait  = 10 * time.Second
	longestOff = 15 * time.Minute
	forgetIn   = time.Hour // of quiet
	maxClients = 1024      // remembered, of each kind
	allBurst   = 20        // tries of all strangers together at once …
	allPerMin  = 20        // … and from then on; 40 bits at this rate last for a hundred thousand years
	ownPerMin  = 10        // the same for each client that was right before
)

// limits slow down guessing of each kind of secret, apart from each other: who uses up one does not close the others.
type limits struct {
	claim    *limiter // by client: the claim code, and that of rescue mode
	recovery *limiter // by client
	join     *limiter // by client: invitations
	signIn   *limiter // by client and name
	factor   *limiter // by person, after the right password: who has that can make its owner wait for at most longestOff
	password *limiter // by person: once more, by who is signed in
	token    *limiter // by client
}

func newLimits(now func() time.Time) limits {
	return limits{
		newLimiter(now), newLimiter(now), newLimiter(now), newLimiter(now), newLimiter(now), newLimiter(now), newLimiter(now),
	}
}

// limiter slows down guessing: each client at each thing after a few wrong tries, with a wait that doubles; all clients
// together; and each client that was right before for itself.
//
// The last is so that nobody locks an owner out: a stranger who keeps trying uses up what strangers share, and makes them
// wait, but not the phone that has signed in from its address meanwhile (core trusts the places of all sessions again when
// it starts). Nothing makes a name wait on its own. Somebody with n such addresses has at most 20 + 10 n tries a minute.
type limiter struct {
	now func() time.Time

	mu      sync.Mutex
	tries   map[string]*tries
	all     bucket
	trusted map[string]*bucket
}

type tries struct {
	wrong int
	last  time.Time
	until time.Time // no further try before
}

// bucket holds tries, and fills itself up again.
type bucket struct {
	left, most, perMin float64
	filled             time.Time
}

func (b *bucket) fill(t time.Time) {
	b.left = min(b.most, b.left+t.Sub(b.filled).Minutes()*b.perMin)
	b.filled = t
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{
		now: now, tries: map[string]*tries{}, trusted: map[string]*bucket{},
		all: bucket{allBurst, allBurst, allPerMin, now()},
	}
}

// take books one try of the client at something as wrong, until won or undo says otherwise, or returns how long it has to
// wait. Booking first keeps parallel tries from passing together.
func (l *limiter) take(client, at string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.now()
	c := l.tries[client+" "+at]
	if c != nil && t.Sub(c.last) > forgetIn {
		c = nil
	}
	if c != nil && t.Before(c.until) {
		return c.until.Sub(t)
	}
	b := l.bucket(client)
	b.fill(t)
	if b.left < 1 {
		// Never 0, which would be a yes, however little is missing.
		return time.Second + time.Duration((1-b.left)/b.perMin*float64(time.Minute))
	}
	b.left--
	if c == nil {
		if len(l.tries) >= maxClients {
			maps.DeleteFunc(l.tries, func(_ string, c *tries) bool { return t.Sub(c.last) > forgetIn })
			makeRoom(l.tries, func(c *tries) time.Time { return c.last })
		}
		c = &tries{}
		l.tries[client+" "+at] = c
	}
	c.wrong++
	c.last = t
	if over := c.wrong - freeTries; over >= 0 {
		c.until = t.Add(min(longestOff, firstWait<<min(over, 10)))
	}
	return 0
}

// wait returns how long a client has to wait, without booking a try.
func (l *limiter) wait(client, at string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.tries[client+" "+at]; c != nil {
		return c.until.Sub(l.now())
	}
	return 0
}

// won takes back the last try of the client, and all that was held against it there. From now on it has tries of its own.
func (l *limiter) won(client, at string) {
	l.undo(client, at)
	l.mu.Lock()
	delete(l.tries, client+" "+at)
	l.mu.Unlock()
	l.trust(client)
}

// trust gives a client tries of its own.
func (l *limiter) trust(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trusted[client] == nil {
		if len(l.trusted) >= maxClients {
			makeRoom(l.trusted, func(b *bucket) time.Time { return b.filled })
		}
		l.trusted[client] = &bucket{ownPerMin, ownPerMin, ownPerMin, l.now()}
	}
}

// undo takes back one try that could not be judged.
func (l *limiter) undo(client, at string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(client)
	b.left = min(b.most, b.left+1)
	if c := l.tries[client+" "+at]; c != nil {
		c.wrong--
		c.until = time.Time{}
	}
}

func (l *limiter) bucket(client string) *bucket {
	if b := l.trusted[client]; b != nil {
		return b
	}
	return &l.all
}

// makeRoom removes the entry that was not used for the longest time.
func makeRoom[V any](m map[string]V, used func(V) time.Time) {
	var oldest string
	var last time.Time
	for k, v := range m {
		if last.IsZero() || used(v).Before(last) {
			oldest, last = k, used(v)
		}
	}
	if len(m) >= maxClients {
		delete(m, oldest)
	}
}

// clientKey names who is asking, for the limiter: the address that the gateway saw. At home all devices have public IPv6
// addresses of one network, so each address counts alone: one device's wrong codes make nobody else wait. Who roams in a
// network has no more tries by that, for the bound on all strangers together holds. The gateway and the web UI put the
// address last in X-Forwarded-For; what a client itself sent stands before it.
func clientKey(r *http.Request) string {
	f := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	a, err := netip.ParseAddr(strings.TrimSpace(f[strings.LastIndexByte(f, ',')+1:]))
	if err != nil {
		return "unknown"
	}
	return a.Unmap().WithZone("").String()
}
