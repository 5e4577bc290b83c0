package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Ways in which an interface got its IPv4 address.
const (
	MethodNone      = ""
	MethodDHCP      = "dhcp"
	MethodStatic    = "static"
	MethodLinkLocal = "link-local"
)

// Timing of the manager.
const (
	linkLocalAfter = 6 * time.Second  // without any other IPv4 address
	carrierGrace   = 10 * time.Second // addresses outlive the cable
	retryAfter     = 2 * time.Second  // after the kernel refused something
	staticRetry    = 30 * time.Second // of a fixed address that another device had
	maxConflicts   = 10               // RFC 3927 section 9: MAX_CONFLICTS
	conflictPause  = time.Minute      // RFC 3927 section 9: RATE_LIMIT_INTERVAL
	baseMetric     = 100              // of routes; the interface's index is added, so that the first one wins
	maxSavedLeases = 16
	rememberEvery  = time.Hour        // between writes of an interface's lease
	conflictShown  = 10 * time.Minute // after another device last claimed a fixed address
)

// Options of a [Manager].
type Options struct {
	Log      *slog.Logger
	Config   Config
	Hostname func() string // told to DHCP servers; "" for none
	Resolv   string        // path of resolv.conf; "" for none
	Leases   string        // path of the file in which leases are remembered over restarts; "" for none
	Changed  func(Status)  // called after every change; must not block

	leaseScale float64 // for tests: shortens leases
}

// Status is what the manager knows.
type Status struct {
	Interfaces []InterfaceStatus // wired ones, by index
	DNS        []netip.Addr      // as in resolv.conf
	NTP        []netip.Addr      // time servers that DHCP named
	Config     Config
}

// InterfaceStatus is the state of one interface.
type InterfaceStatus struct {
	Name      string
	MAC       string
	Carrier   bool
	Method    string
	Addresses []netip.Prefix
	Gateway   netip.Addr
	Server    netip.Addr
	LeaseEnd  time.Time
	Problem   string // one sentence or two for an owner; empty if all is well
}

// Online reports whether some interface has an address that reaches further than its link.
func (s Status) Online() bool {
	for _, i := range s.Interfaces {
		for _, a := range i.Addresses {
			if i.Carrier && !a.Addr().IsLinkLocalUnicast() {
				return true
			}
		}
	}
	return false
}

// Manager keeps the interfaces configured while its Run runs.
type Manager struct {
	os      OS
	opt     Options
	log     *slog.Logger
	ifaces  map[int]*iface
	addrs   []Addr // as the kernel has them
	routes  []Route
	applied map[addrKey]time.Time // expiry that was set
	retry   time.Time             // when to look again, after something failed
	refused time.Time             // when the kernel last refused an address or route
	saved   map[string][]byte     // last acknowledgements by MAC
	resolv  []byte                // as written
	ready   chan struct{}
	config  chan Config

	mu     sync.Mutex
	status Status
}

type addrKey struct {
	index  int
	prefix netip.Prefix
}

// iface is one managed interface.
type iface struct {
	link       Link
	port       Port
	cfg        Static
	dhcp       *dhcpClient
	leased     *claim
	static     []*claim
	local      *claim
	locals     *linkLocalAddrs
	clashes    int       // of link-local addresses
	pause      time.Time // no link-local attempt before
	rdnss      []rdnss
	bare       time.Time // since when there is carrier but no address other than link-local; zero: there is one
	lost       time.Time // when carrier went; zero while it is there
	watched    []netip.Addr
	remembered time.Time // when the lease was last saved
	dhcpErr    string    // sentences
	applied    string
	upErr      string
}

// New returns a manager. os is closed at the end of Run.
func New(os OS, opt Options) *Manager {
	if opt.Hostname == nil {
		opt.Hostname = func() string { return "" }
	}
	m := &Manager{
		os: os, opt: opt, log: opt.Log, ifaces: map[int]*iface{}, applied: map[addrKey]time.Time{},
		ready: make(chan struct{}), config: make(chan Config),
	}
	m.status = Status{Config: opt.Config}
	m.loadLeases()
	return m
}

// Ready is closed once the interfaces that are there are being managed.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Status returns the present state.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Configure applies a valid configuration at once.
func (m *Manager) Configure(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	select {
	case m.config <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run manages the interfaces until ctx ends. The addresses stay, so that a restart is not noticed; the kernel
// removes them when their leases end.
func (m *Manager) Run(ctx context.Context) error {
	defer m.os.Close()
	now := time.Now()
	if err := m.relist(now); err != nil {
		return err
	}
	m.step(now)
	close(m.ready)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if d := m.deadline(); d.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(d), time.Millisecond))
		}
		select {
		case <-ctx.Done():
			for _, i := range m.ifaces {
				i.close()
			}
			return ctx.Err()
		case <-timer.C:
		case e := <-m.os.Events():
			m.event(time.Now(), e)
		case c := <-m.config:
			m.configure(time.Now(), c)
		}
		m.step(time.Now())
	}
}

// event takes note of something that happened; step follows.
func (m *Manager) event(now time.Time, e Event) {
	if e.Kind == EventChange {
		if err := m.relist(now); err != nil {
			m.log.Error("can't read the network's state", "err", err)
			m.retry = now.Add(retryAfter)
		}
		return
	}
	i := m.ifaces[e.Index]
	if i == nil {
		return
	}
	switch e.Kind {
	case EventDHCP:
		if msg, err := dhcpv4.FromBytes(e.Data); err == nil {
			i.dhcp.packet(now, msg)
		}
	case EventARP:
		if p, err := ParseARP(e.Data); err == nil && !m.own(p.SenderMAC, i) {
			for _, c := range i.claims() {
				c.packet(now, p, i.sendARP(m.log))
			}
		}
	case EventRA:
		i.rdnss = updateRDNSS(i.rdnss, now, i.link.Name, ParseRDNSS(e.Data))
	}
}

// own reports whether another of our interfaces has the hardware address: with two cables to one network, what
// the kernel sends on one is heard on the other.
func (m *Manager) own(mac [6]byte, except *iface) bool {
	for _, i := range m.ifaces {
		if i != except && bytes.Equal(i.link.MAC, mac[:]) {
			return true
		}
	}
	return false
}

// relist reads the kernel's state and notes which interfaces came, went, or lost their cable.
func (m *Manager) relist(now time.Time) error {
	links, err := m.os.Links()
	if err != nil {
		return err
	}
	if m.addrs, err = m.os.Addrs(now); err != nil {
		return err
	}
	if m.routes, err = m.os.Routes(); err != nil {
		return err
	}
	seen := map[int]bool{}
	for _, l := range links {
		if l.Loopback && !l.Up {
			if err := m.os.SetUp(l.Index); err != nil {
				m.log.Warn("can't bring up", "interface", l.Name, "err", err)
			}
		}
		if !l.Wired {
			continue
		}
		i := m.ifaces[l.Index]
		if i != nil && i.link.MAC.String() != l.MAC.String() {
			m.log.Info("interface has another hardware address", "interface", l.Name)
			i.close()
			i = nil
		}
		if i == nil {
			i = m.newIface(l)
			m.ifaces[l.Index] = i
			m.log.Info("managing", "interface", l.Name, "mac", l.MAC.String())
		}
		seen[l.Index] = true
		was := i.upErr
		i.upErr = ""
		if !l.Up {
			if err := m.os.SetUp(l.Index); err != nil {
				i.upErr = fmt.Sprintf("Croft can't switch this network port on (%v). It will try again.", err)
				m.retry = now.Add(retryAfter)
			}
		}
		if i.upErr != "" && i.upErr != was {
			m.log.Warn("can't bring up", "interface", l.Name, "err", i.upErr)
		}
		had := i.link.Carrier
		if i.link.Name != l.Name {
			i.cfg = m.status.Config.For(l.Name)
		}
		i.link = l
		switch {
		case l.Carrier && !had:
			m.plugged(now, i)
		case !l.Carrier && had:
			m.unplugged(now, i)
		}
	}
	for index, i := range m.ifaces {
		if !seen[index] {
			m.log.Info("interface is gone", "interface", i.link.Name)
			i.close()
			delete(m.ifaces, index)
			maps.DeleteFunc(m.applied, func(k addrKey, _ time.Time) bool { return k.index == index })
		}
	}
	return nil
}

func (m *Manager) newIface(l Link) *iface {
	i := &iface{link: l, cfg: m.status.Config.For(l.Name), locals: newLinkLocalAddrs(l.MAC)}
	i.link.Carrier = false // so that the cable counts as just plugged in
	i.lost = time.Unix(1, 0)
	i.dhcp = &dhcpClient{
		mac: l.MAC, host: m.opt.Hostname, rnd: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		log: m.log.With("interface", l.Name), state: dhcpOff, scale: m.opt.leaseScale,
		send: func(msg *dhcpv4.DHCPv4, src, dst netip.Addr) {
			if i.port == nil {
				return
			}
			if err := i.port.SendDHCP(msg.ToBytes(), src, dst); err != nil {
				m.log.Debug("can't send", "err", err)
			}
		},
	}
	return i
}

func (i *iface) close() {
	if i.port != nil {
		i.port.Close()
		i.port = nil
	}
	i.watched = nil
}

func (i *iface) sendARP(log *slog.Logger) func(ARP) {
	return func(p ARP) {
		if i.port == nil {
			return
		}
		if err := i.port.SendARP(p); err != nil {
			log.Debug("can't send", "err", err)
		}
	}
}

func (i *iface) claims() []*claim {
	cs := slices.Clone(i.static)
	if i.leased != nil {
		cs = append(cs, i.leased)
	}
	if i.local != nil {
		cs = append(cs, i.local)
	}
	return cs
}

// plugged begins to use an interface whose carrier came.
func (m *Manager) plugged(now time.Time, i *iface) {
	if i.port == nil {
		p, err := m.os.Open(i.link)
		if err != nil {
			text := fmt.Sprintf("Croft can't use this network port (%v). It will try again.", err)
			if text != i.applied {
				m.log.Error("can't listen", "interface", i.link.Name, "err", err)
			}
			i.applied = text
			i.link.Carrier = false // tried again
			m.retry = now.Add(retryAfter)
			return
		}
		i.port = p
	}
	m.log.Info("cable connected", "interface", i.link.Name)
	i.lost, i.bare = time.Time{}, now
	i.dhcpErr = ""
	m.restart(now, i)
	if err := m.os.Solicit(i.link); err != nil {
		m.log.Debug("can't send", "err", err) // before its link-local address is ready; the kernel solicits too
	}
}

// restart begins with DHCP or the static addresses anew, by the present configuration.
func (m *Manager) restart(now time.Time, i *iface) {
	i.dhcpErr = ""
	old := i.static
	i.static = nil
	for _, p := range i.cfg.Addresses {
		if !p.Addr().Is4() {
			continue
		}
		k := slices.IndexFunc(old, func(c *claim) bool { return c.addr == p.Addr() && c.state == claimHeld })
		if k >= 0 {
			old[k].announced, old[k].next = 0, now
			i.static = append(i.static, old[k])
			continue
		}
		c := newClaim(p.Addr(), i.link.MAC, paceAssigned, now)
		c.stubborn = true
		if slices.ContainsFunc(m.addrs, func(a Addr) bool { return a.Index == i.link.Index && a.Prefix == p }) {
			c.hold(now) // from before a restart of the process
		}
		i.static = append(i.static, c)
	}
	if i.cfg.has4() {
		i.dhcp.stop()
		i.dhcp.lease, i.dhcp.known, i.leased = nil, nil, nil
		return
	}
	if i.dhcp.lease == nil && i.dhcp.known == nil {
		m.recall(now, i)
	}
	i.dhcp.start(now)
}

func (m *Manager) unplugged(now time.Time, i *iface) {
	m.log.Info("cable disconnected", "interface", i.link.Name)
	i.dhcp.stop()
	i.lost, i.bare = now, time.Time{}
	i.dhcpErr = ""
}

func (m *Manager) configure(now time.Time, c Config) {
	m.mu.Lock()
	m.status.Config = c
	m.mu.Unlock()
	for _, i := range m.ifaces {
		cfg := c.For(i.link.Name)
		if reflect.DeepEqual(cfg, i.cfg) {
			continue
		}
		i.cfg = cfg
		if i.link.Carrier {
			m.restart(now, i)
		}
	}
}

// deadline is when step has something to do even if nothing happens.
func (m *Manager) deadline() time.Time {
	d := m.retry
	sooner := func(t time.Time) {
		if !t.IsZero() && (d.IsZero() || t.Before(d)) {
			d = t
		}
	}
	for _, i := range m.ifaces {
		sooner(i.dhcp.deadline())
		for _, s := range i.rdnss {
			sooner(s.expires)
		}
		if !i.link.Carrier {
			if i.settled() {
				sooner(i.graceEnd())
			}
			continue
		}
		for _, c := range i.claims() {
			sooner(c.next)
		}
		if !i.bare.IsZero() && i.local == nil {
			t := i.bare.Add(linkLocalAfter)
			if t.Before(i.pause) {
				t = i.pause
			}
			sooner(t)
		}
	}
	return d
}

// settled reports whether an interface without carrier still has something to lose.
func (i *iface) settled() bool {
	return !i.link.Carrier && (i.leased != nil || i.local != nil || len(i.static) > 0 || len(i.rdnss) > 0)
}

func (i *iface) graceEnd() time.Time { return i.lost.Add(carrierGrace) }

// step does what is due, applies the outcome and publishes the state.
func (m *Manager) step(now time.Time) {
	if !m.retry.IsZero() && !now.Before(m.retry) {
		m.retry = time.Time{}
		if err := m.relist(now); err != nil {
			m.log.Error("can't read the network's state", "err", err)
			m.retry = now.Add(retryAfter)
		}
	}
	order := slices.Sorted(maps.Keys(m.ifaces))
	for _, index := range order {
		m.stepIface(now, m.ifaces[index])
	}
	if m.refused.IsZero() || now.Sub(m.refused) >= retryAfter {
		m.apply(now)
	}
	m.publish(now)
}

func (m *Manager) stepIface(now time.Time, i *iface) {
	i.rdnss = expireRDNSS(i.rdnss, now)
	if !i.link.Carrier {
		i.dhcp.tick(now)
		if i.settled() && !now.Before(i.graceEnd()) {
			i.leased, i.local, i.static, i.rdnss = nil, nil, nil, nil
		}
		return
	}
	send := i.sendARP(m.log)
	i.dhcp.tick(now)
	m.stepLease(now, i, send)
	m.stepStatic(now, i, send)
	m.stepLinkLocal(now, i, send)
	var watch []netip.Addr
	for _, c := range i.claims() {
		watch = append(watch, c.addr)
	}
	if !slices.Equal(watch, i.watched) {
		if err := i.port.WatchARP(watch); err != nil {
			m.log.Warn("can't watch for address conflicts", "interface", i.link.Name, "err", err)
		}
		i.watched = watch
	}
}

// stepLease carries conflict checks between the DHCP client and the claim to its address.
func (m *Manager) stepLease(now time.Time, i *iface, send func(ARP)) {
	d := i.dhcp
	for {
		want := d.lease
		if d.state == dhcpChecking {
			want = d.fresh
		}
		if want == nil {
			i.leased = nil
			return
		}
		if i.leased == nil || i.leased.addr != want.Prefix.Addr() {
			i.leased = newClaim(want.Prefix.Addr(), i.link.MAC, paceAssigned, now)
		}
		i.leased.tick(now, send)
		switch {
		case i.leased.state == claimConflict:
			m.log.Warn("another device uses the leased address", "address", i.leased.addr, "by", i.leased.by.String())
			i.dhcpErr = fmt.Sprintf("The router gave this box the address %s, but another device (%s) uses it already. "+
				"Croft asked the router for another one.", i.leased.addr, i.leased.by)
			i.leased = nil
			if d.state == dhcpChecking {
				d.checked(now, false)
			} else {
				d.conflict(now)
			}
		case i.leased.state == claimHeld && d.state == dhcpChecking:
			d.checked(now, true)
			i.dhcpErr = ""
			m.log.Info("leased", "interface", i.link.Name, "address", d.lease.Prefix, "server", d.lease.Server,
				"for", d.lease.Expires.Sub(now).Round(time.Second))
		default:
			if i.leased.state == claimHeld && d.state == dhcpBound {
				m.remember(now, i)
			}
			return
		}
	}
}

func (m *Manager) stepStatic(now time.Time, i *iface, send func(ARP)) {
	for k, c := range i.static {
		c.tick(now, send)
		if c.state == claimConflict && c.next.IsZero() {
			m.log.Warn("another device uses the fixed address", "address", c.addr, "by", c.by.String())
			again := newClaim(c.addr, i.link.MAC, paceAssigned, now.Add(staticRetry))
			again.by, again.clashed, again.stubborn = c.by, c.clashed, true
			i.static[k] = again
		}
	}
}

// stepLinkLocal takes a link-local address when there has been no other for a while, and drops it when there is one.
func (m *Manager) stepLinkLocal(now time.Time, i *iface, send func(ARP)) {
	held := i.dhcp.lease != nil && i.leased != nil && i.leased.state == claimHeld
	for _, c := range i.static {
		held = held || c.state == claimHeld
	}
	switch {
	case held && i.dhcp.state != dhcpRebooting && i.dhcp.state != dhcpSelecting:
		i.bare, i.local, i.clashes = time.Time{}, nil, 0
		return
	case i.bare.IsZero():
		i.bare = now
	}
	if i.local == nil {
		if now.Before(i.bare.Add(linkLocalAfter)) || now.Before(i.pause) {
			return
		}
		i.local = newClaim(i.locals.next(), i.link.MAC, paceRandom, now)
	}
	i.local.tick(now, send)
	if i.local.state == claimConflict {
		m.log.Info("another device uses the link-local address", "address", i.local.addr)
		i.local = nil
		if i.clashes++; i.clashes >= maxConflicts {
			i.pause = now.Add(conflictPause)
		} else {
			i.local = newClaim(i.locals.next(), i.link.MAC, paceRandom, now)
			i.local.tick(now, send)
		}
	}
}

// recall gives the DHCP client the lease of an earlier run. If the kernel still has its address, because only the
// process was restarted, the address stays in use.
func (m *Manager) recall(now time.Time, i *iface) {
	msg, err := dhcpv4.FromBytes(m.saved[i.link.MAC.String()])
	if err != nil {
		return
	}
	l, err := ParseLease(msg, now)
	if err != nil {
		return
	}
	i.dhcp.known = l
	for _, a := range m.addrs {
		if a.Index == i.link.Index && a.Prefix == l.Prefix && a.Expires.After(now) {
			l.Expires = a.Expires
			i.dhcp.lease, i.dhcp.known = l, nil
			i.leased = newClaim(l.Prefix.Addr(), i.link.MAC, paceAssigned, now)
			i.leased.hold(now)
			m.applied[addrKey{a.Index, a.Prefix}] = a.Expires
		}
	}
}

// remember saves a lease that differs from the saved one; renewals alone write nothing. A server whose leases keep
// changing must not wear out the card, so what it says within rememberEvery of the last time is left for later.
func (m *Manager) remember(now time.Time, i *iface) {
	if !i.remembered.IsZero() && now.Sub(i.remembered) < rememberEvery {
		return
	}
	mac := i.link.MAC.String()
	if msg, err := dhcpv4.FromBytes(m.saved[mac]); err == nil {
		if old, err := ParseLease(msg, time.Time{}); err == nil && old.same(i.dhcp.lease) {
			return
		}
	}
	for k := range m.saved {
		if len(m.saved) < maxSavedLeases {
			break
		}
		delete(m.saved, k)
	}
	m.saved[mac], i.remembered = i.dhcp.lease.raw, now
	if m.opt.Leases == "" {
		return
	}
	b, err := json.Marshal(m.saved)
	if err == nil {
		err = replaceFile(m.opt.Leases, b)
	}
	if err != nil {
		m.log.Warn("can't remember the lease", "err", err)
	}
}

func (m *Manager) loadLeases() {
	m.saved = map[string][]byte{}
	if m.opt.Leases == "" {
		return
	}
	b, err := os.ReadFile(m.opt.Leases)
	if err == nil {
		err = json.Unmarshal(b, &m.saved)
	}
	if err != nil || m.saved == nil || len(m.saved) > maxSavedLeases {
		m.saved = map[string][]byte{}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("can't read the remembered leases; asking for new ones", "err", err)
	}
}
