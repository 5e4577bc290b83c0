package gateway

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what clients may use of the gateway. They are coarse: they keep the box answering, they are no
// accounting.
type Limits struct {
	Conns          int           // TCP connections
	QUIC           int           // QUIC connections
	ConnsPerClient int           // of both, by one client
	Requests       int           // under way at once; half of them again for clients that have few
	PerClient      int           // of them, by one client
	Rate           int           // requests a second by one client, on average
	Burst          int           // requests at once by one client
	Header         int           // bytes of a request's header
	Body           int64         // bytes of a request's body
	Upload         int64         // bytes of the body that brings an update as a file (isUpload)
	HeaderTime     time.Duration // for the TLS handshake, and for a request's header
	BodyTime       time.Duration // for a request's whole body; of an update's, for each piece
	WriteTime      time.Duration // a client that takes nothing of the answer for so long is given up
	IdleTime       time.Duration // of a connection between requests
	BackendTime    time.Duration // from a request to the header of a service's answer
}

// DefaultLimits suit a household on the smallest board: with all of them used up the process stays within 128 MB.
func DefaultLimits() Limits {
	return Limits{
		Conns: 192, QUIC: 48, ConnsPerClient: 48, Requests: 192, PerClient: 48, Rate: 200, Burst: 1000,
		Header: 32 << 10, Body: 1 << 20, Upload: 401 << 20, // core's limit, and the form around the file
		HeaderTime: 10 * time.Second, BodyTime: 30 * time.Second, WriteTime: 30 * time.Second,
		IdleTime: 2 * time.Minute, BackendTime: 20 * time.Second,
	}
}

// gcra is the generic cell rate algorithm (ITU-T I.371): one event per interval on average, burst at once. It is not
// safe for concurrent use.
type gcra struct {
	interval time.Duration
	burst    int
	tat      time.Time // theoretical arrival time of the next event
}

func (g *gcra) allow(now time.Time) bool {
	// A clock that was set back does not lock anybody out for longer than a full burst would.
	if full := now.Add(g.interval * time.Duration(g.burst)); g.tat.Before(now) {
		g.tat = now
	} else if g.tat.After(full) {
		g.tat = full
	}
	next := g.tat.Add(g.interval)
	if next.Sub(now) > g.interval*time.Duration(g.burst) {
		return false
	}
	g.tat = next
	return true
}

// clients counts what each client uses. A client is an IPv4 address, an IPv6 address of the LAN, or a /64 of the
// public IPv6 internet, within which a sender chooses freely. Over TCP also the public addresses of the box's own network
// count alone: they are the household's.
type clients struct {
	limits Limits
	now    func() time.Time

	mu       sync.Mutex
	byAddr   map[netip.Addr]*client
	open     map[*conn]struct{} // of all listeners
	conns    int                // TCP
	quic     int
	requests int
}

// client is guarded by clients.mu.
type client struct {
	conns    int
	requests int
	rate     gcra
}

func newClients(l Limits, now func() time.Time) *clients {
	return &clients{limits: l, now: now, byAddr: map[netip.Addr]*client{}, open: map[*conn]struct{}{}}
}

var (
	errFull    = errors.New("too many connections")
	errTooMany = errors.New("too many connections by one client")
	ula        = netip.MustParsePrefix("fc00::/7")
)

// clientKey names a client by its address; own is the box's at the other end, if that is known.
func clientKey(a, own netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() && !a.IsLinkLocalUnicast() && !ula.Contains(a) {
		if p, _ := a.Prefix(64); !p.Contains(own.WithZone("")) {
			return p.Addr()
		}
	}
	return a
}

// peer is the other end of a connection.
type peer struct {
	client    *client
	forwarded []string // its address, as X-Forwarded-For
}

// connect counts a connection; release must be called when it ends. The peer comes with errFull, too.
func (c *clients) connect(remote net.Addr, quic bool) (p *peer, release func(), err error) {
	return c.connectAt(nil, remote, quic)
}

// connectAt is connect with the box's own end of the connection, nil where it is not known.
func (c *clients) connectAt(local, remote net.Addr, quic bool) (p *peer, release func(), err error) {
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return nil, nil, err
	}
	var own netip.AddrPort
	if local != nil {
		own, _ = netip.ParseAddrPort(local.String()) // without it the address counts with its neighbours
	}
	key := clientKey(ap.Addr(), own.Addr())
	total, most := &c.conns, c.limits.Conns
	if quic {
		total, most = &c.quic, c.limits.QUIC
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.byAddr[key]
	if cl == nil {
		if len(c.byAddr) >= 4*c.limits.Conns {
			c.sweep()
		}
		cl = &client{rate: gcra{interval: time.Second / time.Duration(c.limits.Rate), burst: c.limits.Burst}}
		c.byAddr[key] = cl
	}
	switch {
	case cl.conns >= c.limits.ConnsPerClient:
		return nil, nil, errTooMany
	case *total >= most:
		return &peer{client: cl}, nil, errFull
	}
	cl.conns++
	*total++
	return &peer{cl, []string{ap.Addr().Unmap().WithZone("").String()}}, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		cl.conns--
		*total--
	}), nil
}

// crowded reports whether a good part of the QUIC connections is in use.
func (c *clients) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quic > c.limits.QUIC/4
}

// sweep forgets clients without connections: first those whose rate has recovered, then, if that is too few, all.
func (c *clients) sweep() {
	now := c.now()
	for _, all := range []bool{false, true} {
		for key, cl := range c.byAddr {
			if cl.conns == 0 && cl.requests == 0 && (all || cl.rate.tat.Before(now)) {
				delete(c.byAddr, key)
			}
		}
		if len(c.byAddr) < 2*c.limits.Conns {
			return
		}
	}
}

// share is how many requests a client may have under way even when others have all that there are.
const share = 6

// begin counts a request. If it returns 0, end must be called; else it returns the status to refuse it with.
func (c *clients) begin(cl *client) int {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !cl.rate.allow(now), cl.requests >= c.limits.PerClient:
		return 429
	case c.requests >= c.limits.Requests && (cl.requests >= share || c.requests >= c.limits.Requests*3/2):
		return 503
	}
	cl.requests++
	c.requests++
	return 0
}

func (c *clients) end(cl *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl.requests--
	c.requests--
}

// listener counts the connections that it accepts. One too many of a client is closed at once; when all together are
// too many, one that is idle makes room, or one of the client that has most of them: however many connections some hold
// on to, another client gets in.
type listener struct {
	net.Listener
	clients *clients
}

type conn struct {
	net.Conn
	peer  *peer
	quit  func()
	quiet atomic.Int64 // Unix time in ns since when it has no request under way; 0 while it has one
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p, release, err := l.clients.connectAt(nc.LocalAddr(), nc.RemoteAddr(), false)
		if err == errFull && l.clients.evict(p.client) {
			p, release, err = l.clients.connectAt(nc.LocalAddr(), nc.RemoteAddr(), false)
		}
		if err != nil {
			nc.Close()
			continue
		}
		c := &conn{Conn: nc, peer: p}
		c.quiet.Store(time.Now().UnixNano())
		c.quit = func() {
			release()
			l.clients.mu.Lock()
			defer l.clients.mu.Unlock()
			delete(l.clients.open, c)
		}
		l.clients.mu.Lock()
		l.clients.open[c] = struct{}{}
		l.clients.mu.Unlock()
		return c, nil
	}
}

// evict closes the connection that has been idle for longest; if there is none, one of the client that has most of
// them, if that is at least two more than cl has.
func (c *clients) evict(cl *client) bool {
	var victim *conn
	var since int64
	most := 0
	c.mu.Lock()
	for o := range c.open {
		switch q := o.quiet.Load(); {
		case q != 0 && (since == 0 || q < since):
			victim, since = o, q
		case since == 0 && o.peer.client.conns > max(most, cl.conns+1):
			victim, most = o, o.peer.client.conns
		}
	}
	c.mu.Unlock()
	if victim == nil {
		return false
	}
	victim.Close()
	return true
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.quit()
	return c.Conn.Close()
}

// connOf returns the conn below what net/http passes around.
func connOf(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	own, _ := c.(*conn)
	return own
}

// connState is an http.Server's ConnState.
func connState(nc net.Conn, s http.ConnState) {
	if c := connOf(nc); c != nil {
		switch s {
		case http.StateActive:
			c.quiet.Store(0)
		case http.StateIdle:
			c.quiet.Store(time.Now().UnixNano())
		}
	}
}
