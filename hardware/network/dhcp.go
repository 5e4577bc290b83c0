package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Bounds on what a server may say.
const (
	minLease    = 10 * time.Second
	maxLease    = 30 * 24 * time.Hour // longer ones, also infinite, are renewed as if this long
	maxMessage  = 1472
	maxRoutes   = 16
	declineWait = 10 * time.Second // RFC 2131 section 3.1 item 5
)

// Lease is what a DHCP server assigned.
type Lease struct {
	Prefix  netip.Prefix // the address and its network's length
	Server  netip.Addr
	Gateway netip.Addr // zero without one
	Routes  []LeaseRoute
	DNS     []netip.Addr
	NTP     []netip.Addr
	Domain  string
	T1, T2  time.Time // when to renew, when to rebind
	Expires time.Time
	raw     []byte // the server's message
}

// LeaseRoute is a classless static route (RFC 3442). A zero Gateway means on-link.
type LeaseRoute struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

// ParseLease reads a DHCPOFFER or DHCPACK that came at now, and refuses what no sane server sends.
func ParseLease(m *dhcpv4.DHCPv4, now time.Time) (*Lease, error) {
	l := &Lease{raw: m.ToBytes()}
	addr, _ := netip.AddrFromSlice(m.YourIPAddr.To4())
	ones, bits := m.SubnetMask().Size()
	switch {
	case !unicast(addr) || addr.IsLinkLocalUnicast():
		return nil, fmt.Errorf("offered address %v is unusable", m.YourIPAddr)
	case m.Options.Has(dhcpv4.OptionSubnetMask) && (bits != 32 || ones == 0):
		return nil, fmt.Errorf("offered subnet mask %v is unusable", m.SubnetMask())
	case bits == 0:
		ones, _ = net.IP(addr.AsSlice()).DefaultMask().Size() // RFC 2132 leaves it to the class
	}
	l.Prefix = netip.PrefixFrom(addr, ones)
	if !usable(l.Prefix) {
		return nil, fmt.Errorf("offered address %v is the network's own", l.Prefix)
	}
	l.Server, _ = netip.AddrFromSlice(m.ServerIdentifier().To4())
	if !unicast(l.Server) {
		return nil, errors.New("no usable server identifier")
	}

	life := m.IPAddressLeaseTime(0)
	if life < minLease {
		return nil, fmt.Errorf("lease time %v is too short", life)
	}
	life = min(life, maxLease)
	t1, t2 := m.IPAddressRenewalTime(0), m.IPAddressRebindingTime(0)
	if t2 < minLease*7/8 || t2 >= life { // so that T1 is never below half of minLease, whatever a server says
		t2 = life * 7 / 8
	}
	if t1 < minLease/2 || t1 >= t2 {
		t1 = min(life/2, t2*4/7) // RFC 2131 section 4.4.5
	}
	l.T1, l.T2, l.Expires = now.Add(t1), now.Add(t2), now.Add(life)

	if rs := m.ClasslessStaticRoute(); len(rs) > 0 { // then option 3 is ignored (RFC 3442)
		for _, r := range rs[:min(len(rs), maxRoutes)] {
			dst, ok := netip.AddrFromSlice(r.Dest.IP.To4())
			ones, _ := r.Dest.Mask.Size()
			gw, _ := netip.AddrFromSlice(r.Router.To4())
			switch {
			case !ok || dst.IsMulticast() || dst.IsLoopback() || dst.As4()[0] >= 240:
			case !gw.IsUnspecified() && !l.router(gw):
			case gw.IsUnspecified():
				l.Routes = append(l.Routes, LeaseRoute{Dst: netip.PrefixFrom(dst, ones).Masked()})
			case ones == 0:
				l.Gateway = gw
			default:
				l.Routes = append(l.Routes, LeaseRoute{netip.PrefixFrom(dst, ones).Masked(), gw})
			}
		}
	} else if gws := sane(m.Router()); len(gws) > 0 && l.router(gws[0]) {
		l.Gateway = gws[0]
	}
	l.DNS, l.NTP = sane(m.DNS()), sane(m.NTPServers())
	if d := m.DomainName(); validDomain(d) {
		l.Domain = d
	}
	return l, nil
}

// router reports whether a can be a router for the lease: another host, not a network's own address.
func (l *Lease) router(a netip.Addr) bool {
	own := l.Prefix.Masked()
	return unicast(a) && a != l.Prefix.Addr() && (!own.Contains(a) || usable(netip.PrefixFrom(a, own.Bits())))
}

// sane returns the addresses of hosts in ips, at most maxDNS.
func sane(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && unicast(a) && len(out) < maxDNS && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// same reports whether both leases configure the same.
func (l *Lease) same(o *Lease) bool {
	return l != nil && o != nil && l.Prefix == o.Prefix && l.Server == o.Server && l.Gateway == o.Gateway &&
		slices.Equal(l.Routes, o.Routes) && slices.Equal(l.DNS, o.DNS) && slices.Equal(l.NTP, o.NTP) && l.Domain == o.Domain
}

// dhcpState is a state of RFC 2131 figure 5.
type dhcpState string

const (
	dhcpOff        dhcpState = "off" // no carrier, or static settings
	dhcpRebooting  dhcpState = "rebooting"
	dhcpSelecting  dhcpState = "selecting"
	dhcpRequesting dhcpState = "requesting"
	dhcpChecking   dhcpState = "checking" // acknowledged; is another device using the address?
	dhcpBound      dhcpState = "bound"
	dhcpRenewing   dhcpState = "renewing"
	dhcpRebinding  dhcpState = "rebinding"
	dhcpWaiting    dhcpState = "waiting" // before starting over
)

// dhcpClient is the client's state machine of RFC 2131 section 4.4 for one interface. It is told packets, the time
// and the outcome of conflict checks, and sends by its send function.
type dhcpClient struct {
	mac  net.HardwareAddr
	host func() string
	rnd  *rand.Rand
	send func(m *dhcpv4.DHCPv4, src, dst netip.Addr) // zero dst: broadcast
	log  *slog.Logger
	// scale, for tests, shortens lease times: 0 means 1.
	scale float64

	state  dhcpState
	lease  *Lease // in use until it expires, also while another is sought
	fresh  *Lease // acknowledged, being checked
	offer  *Lease
	known  *Lease // from an earlier run: asked for again
	xid    dhcpv4.TransactionID
	began  time.Time
	tries  int
	nak    bool // another server than ours refused our address
	next   time.Time
	denied int // NAKs and conflicts in a row
}

// start begins to seek a lease, first the one that is in use or known.
func (c *dhcpClient) start(now time.Time) {
	c.expire(now)
	if c.lease != nil || c.known != nil {
		c.enter(dhcpRebooting, now)
	} else {
		c.enter(dhcpSelecting, now)
	}
}

// stop ends all sending. A lease stays in use until it expires.
func (c *dhcpClient) stop() {
	c.state, c.next, c.fresh, c.offer = dhcpOff, time.Time{}, nil, nil
}

func (c *dhcpClient) expire(now time.Time) {
	if c.lease != nil && !now.Before(c.lease.Expires) {
		c.log.Warn("lease expired", "address", c.lease.Prefix)
		c.known, c.lease = c.lease, nil
	}
}

// deadline is when tick must be called; zero means never.
func (c *dhcpClient) deadline() time.Time {
	if c.lease != nil && (c.next.IsZero() || c.lease.Expires.Before(c.next)) {
		return c.lease.Expires
	}
	return c.next
}

func (c *dhcpClient) enter(s dhcpState, now time.Time) {
	c.state, c.tries, c.next = s, 0, now
	switch s {
	case dhcpRequesting: // goes on with the transaction of its DISCOVER
	case dhcpBound:
		c.next, c.denied, c.offer, c.fresh = c.lease.T1, 0, nil, nil
		return
	case dhcpChecking:
		c.next = time.Time{}
		return
	default:
		binary.BigEndian.PutUint32(c.xid[:], c.rnd.Uint32())
		c.began, c.offer, c.fresh, c.nak = now, nil, nil, false
	}
	c.tick(now)
}

// tick does what is due.
func (c *dhcpClient) tick(now time.Time) {
	had := c.lease
	c.expire(now)
	if had != nil && c.lease == nil && (c.state == dhcpBound || c.state == dhcpRenewing || c.state == dhcpRebinding) {
		c.enter(dhcpSelecting, now)
		return
	}
	if c.next.IsZero() || now.Before(c.next) {
		return
	}
	switch c.state {
	case dhcpRebooting:
		if c.tries == 2 || c.nak {
			if c.nak {
				c.lease, c.known = nil, nil
			}
			c.enter(dhcpSelecting, now)
			return
		}
		c.request(now, c.wanted(), netip.Addr{}, netip.Addr{}, netip.Addr{})
		c.again(now, 700*time.Millisecond, time.Second)
	case dhcpSelecting:
		m := c.message(dhcpv4.MessageTypeDiscover, now)
		if w := c.wanted(); w.IsValid() {
			m.UpdateOption(dhcpv4.OptRequestedIPAddress(w.AsSlice()))
		}
		c.send(m, netip.Addr{}, netip.Addr{})
		c.again(now, 500*time.Millisecond, 64*time.Second)
	case dhcpRequesting:
		if c.tries == 4 {
			c.enter(dhcpSelecting, now)
			return
		}
		c.request(now, c.offer.Prefix.Addr(), c.offer.Server, netip.Addr{}, netip.Addr{})
		c.again(now, time.Second, 4*time.Second)
	case dhcpBound:
		c.enter(dhcpRenewing, now)
	case dhcpRenewing:
		if !now.Before(c.lease.T2) {
			c.enter(dhcpRebinding, now)
			return
		}
		a := c.lease.Prefix.Addr()
		c.request(now, netip.Addr{}, netip.Addr{}, a, c.lease.Server)
		c.next = halfway(now, c.lease.T2)
	case dhcpRebinding:
		c.request(now, netip.Addr{}, netip.Addr{}, c.lease.Prefix.Addr(), netip.Addr{})
		c.next = halfway(now, c.lease.Expires)
	case dhcpWaiting:
		c.enter(dhcpSelecting, now)
	}
}

// halfway is half of the time to end from now, at least 20 s, at most end (RFC 2131 section 4.4.5 has 60 s, which
// leaves a short lease a single attempt).
func halfway(now, end time.Time) time.Time {
	t := now.Add(max(end.Sub(now)/2, 20*time.Second))
	if t.After(end) {
		return end
	}
	return t
}

// wanted is the address to ask for again, if any.
func (c *dhcpClient) wanted() netip.Addr {
	switch {
	case c.lease != nil:
		return c.lease.Prefix.Addr()
	case c.known != nil:
		return c.known.Prefix.Addr()
	}
	return netip.Addr{}
}

// again sets the next retransmission: first doubled with each try up to limit, 20 % up or down (RFC 2131 section
// 4.1, which starts at 4 s: but the first packet after a cable is plugged in often gets lost).
func (c *dhcpClient) again(now time.Time, first, limit time.Duration) {
	d := min(first<<min(c.tries, 10), limit)
	c.tries++
	c.next = now.Add(time.Duration(float64(d) * (0.8 + 0.4*c.rnd.Float64())))
}

var requested = []dhcpv4.OptionCode{
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
	dhcpv4.OptionNTPServers, dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionServerIdentifier,
	dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue, dhcpv4.OptionClasslessStaticRoute,
}

func (c *dhcpClient) message(t dhcpv4.MessageType, now time.Time) *dhcpv4.DHCPv4 {
	m, _ := dhcpv4.New( // fails only for want of randomness, which is replaced
		dhcpv4.WithTransactionID(c.xid),
		dhcpv4.WithHwAddr(c.mac),
		dhcpv4.WithMessageType(t),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, c.mac...))),
	)
	m.NumSeconds = uint16(min(now.Sub(c.began)/time.Second, 0xffff))
	if t == dhcpv4.MessageTypeDecline {
		return m
	}
	m.UpdateOption(dhcpv4.OptMaxMessageSize(maxMessage))
	m.UpdateOption(dhcpv4.OptParameterRequestList(requested...))
	if h := c.host(); validDomain(h) {
		m.UpdateOption(dhcpv4.OptHostName(h))
	}
	return m
}

// request sends a DHCPREQUEST with the fields that RFC 2131 table 4 gives for the state.
func (c *dhcpClient) request(now time.Time, want, server, client, to netip.Addr) {
	m := c.message(dhcpv4.MessageTypeRequest, now)
	if want.IsValid() {
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(want.AsSlice()))
	}
	if server.IsValid() {
		m.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	}
	if client.IsValid() {
		m.ClientIPAddr = client.AsSlice()
	}
	c.send(m, client, to)
}

// packet takes a message from the link.
func (c *dhcpClient) packet(now time.Time, m *dhcpv4.DHCPv4) {
	if m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != c.xid || !slices.Equal(m.ClientHWAddr, c.mac) {
		return
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeOffer:
		if c.state != dhcpSelecting {
			return
		}
		l, err := ParseLease(m, now)
		if err != nil {
			c.log.Warn("refused a DHCP offer", "err", err)
			return
		}
		c.offer = l
		c.enter(dhcpRequesting, now)
	case dhcpv4.MessageTypeAck:
		c.ack(now, m)
	case dhcpv4.MessageTypeNak:
		c.refused(now, m)
	}
}

// expected reports whether the server is the one that the state talks to.
func (c *dhcpClient) expected(server netip.Addr) bool {
	switch {
	case c.state == dhcpRequesting:
		return server == c.offer.Server
	case c.state == dhcpRenewing:
		return server == c.lease.Server
	}
	return c.state == dhcpRebooting || c.state == dhcpRebinding
}

func (c *dhcpClient) ack(now time.Time, m *dhcpv4.DHCPv4) {
	l, err := ParseLease(m, now)
	if err != nil {
		c.log.Warn("refused a DHCP acknowledgement", "err", err)
		return
	}
	if !c.expected(l.Server) {
		return
	}
	if c.scale > 0 {
		f := func(t time.Time) time.Time { return now.Add(time.Duration(float64(t.Sub(now)) * c.scale)) }
		l.T1, l.T2, l.Expires = f(l.T1), f(l.T2), f(l.Expires)
	}
	if c.lease != nil && c.lease.Prefix == l.Prefix {
		c.lease = l
		c.enter(dhcpBound, now)
		return
	}
	c.fresh = l
	c.enter(dhcpChecking, now)
}

func (c *dhcpClient) refused(now time.Time, m *dhcpv4.DHCPv4) {
	server, _ := netip.AddrFromSlice(m.ServerIdentifier().To4())
	if !c.expected(server) {
		return
	}
	ours := c.lease
	if ours == nil {
		ours = c.known
	}
	if c.state == dhcpRebooting && ours != nil && server != ours.Server {
		// Ours may still say yes; if it does not at once, this is another network.
		if !c.nak {
			c.nak, c.next = true, now.Add(300*time.Millisecond)
		}
		return
	}
	c.log.Info("the DHCP server refused the address", "server", server, "message", m.Message())
	c.startOver(now, time.Second)
}

// checked tells what the conflict check of the fresh lease found.
func (c *dhcpClient) checked(now time.Time, free bool) {
	if c.state != dhcpChecking {
		return
	}
	if free {
		c.lease, c.known = c.fresh, nil
		c.enter(dhcpBound, now)
		return
	}
	c.decline(now, c.fresh)
}

// conflict gives the lease in use up: another device uses its address.
func (c *dhcpClient) conflict(now time.Time) {
	if c.lease != nil {
		c.decline(now, c.lease)
	}
}

func (c *dhcpClient) decline(now time.Time, l *Lease) {
	m := c.message(dhcpv4.MessageTypeDecline, now)
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(l.Prefix.Addr().AsSlice()))
	m.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	c.send(m, netip.Addr{}, netip.Addr{})
	c.startOver(now, declineWait)
}

// startOver drops every lease and discovers anew after a wait that grows while servers refuse.
func (c *dhcpClient) startOver(now time.Time, wait time.Duration) {
	c.lease, c.fresh, c.known, c.offer = nil, nil, nil, nil
	if c.denied == 0 && wait < declineWait {
		wait = 0
	}
	c.state, c.next = dhcpWaiting, now.Add(min(wait<<min(c.denied, 8), time.Minute))
	c.denied++
	if wait == 0 {
		c.enter(dhcpSelecting, now)
	}
}
