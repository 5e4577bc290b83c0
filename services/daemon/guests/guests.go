// Package guests bounds what strangers may use of a listener of the box: how many connections there are, altogether and of one
// address, and how many requests one address may make.
//
// Limits: who has many addresses has many shares. Addresses of the public IPv6 internet count by their /64, within which a sender
// chooses freely.
package guests

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const maxAddresses = 1024 // whose requests are counted

// Limits are how much is too much.
type Limits struct {
	Conns     int // at a time
	ConnsEach int // of them, of one address
	Requests  int // a second, of one address
	Burst     int // of them at once
}

// Guests are who is connected. Its methods may be called at the same time.
type Guests struct {
	limits Limits
	allow  func(netip.Addr) bool

	mu    sync.Mutex
	conns map[netip.Addr]int
	open  map[*conn]struct{}
	asks  map[netip.Addr]*asker
}

type asker struct {
	*rate.Limiter
	used time.Time
}

// New counts guests. Connections of an address that allow refuses are closed at once.
func New(l Limits, allow func(netip.Addr) bool) *Guests {
	return &Guests{limits: l, allow: allow, conns: map[netip.Addr]int{}, open: map[*conn]struct{}{}, asks: map[netip.Addr]*asker{}}
}

// Addr is the address in an address with a port, as net.Conn and http.Request name who is at the other end; invalid if it is none.
func Addr(s string) netip.Addr {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// share is the address that one counts by.
func share(a netip.Addr) netip.Addr {
	a = a.WithZone("")
	if a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate() {
		p, _ := a.Prefix(64) // never fails for an IPv6 address
		return p.Addr()
	}
	return a
}

// Listen returns a listener that accepts guests. It closes connections that are too many.
func (g *Guests) Listen(l net.Listener) net.Listener { return &listener{l, g} }

type listener struct {
	net.Listener
	guests *Guests
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.guests.enter(nc); c != nil {
			return c, nil
		}
		nc.Close()
	}
}

type conn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (g *Guests) enter(nc net.Conn) *conn {
	a := Addr(nc.RemoteAddr().String())
	if !a.IsValid() || !g.allow(a) {
		return nil
	}
	a = share(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.open) >= g.limits.Conns || g.conns[a] >= g.limits.ConnsEach {
		return nil
	}
	c := &conn{Conn: nc}
	c.leave = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.open, c)
		if g.conns[a]--; g.conns[a] <= 0 {
			delete(g.conns, a)
		}
	})
	g.open[c] = struct{}{}
	g.conns[a]++
	return c
}

// CloseAll closes all connections.
func (g *Guests) CloseAll() {
	g.mu.Lock()
	all := make([]*conn, 0, len(g.open))
	for c := range g.open {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// May counts a request, and tells whether it is not one too many.
func (g *Guests) May(a netip.Addr) bool {
	a = share(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.asks[a]
	if t == nil {
		if len(g.asks) >= maxAddresses {
			for k, v := range g.asks {
				if time.Since(v.used) > time.Minute {
					delete(g.asks, k)
				}
			}
			if len(g.asks) >= maxAddresses {
				return false
			}
		}
		t = &asker{Limiter: rate.NewLimiter(rate.Limit(g.limits.Requests), g.limits.Burst)}
		g.asks[a] = t
	}
	t.used = time.Now()
	return t.Allow()
}
