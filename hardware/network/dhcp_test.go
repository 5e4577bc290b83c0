package network

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	t0     = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	labMAC = net.HardwareAddr{2, 0, 0, 0, 0, 5}
	quiet  = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// dhcpRig drives a client through virtual time.
type dhcpRig struct {
	*dhcpClient
	now  time.Time
	sent []sentDHCP
}

type sentDHCP struct {
	*dhcpv4.DHCPv4
	at  time.Duration
	dst netip.Addr
}

func newDHCPRig() *dhcpRig {
	r := &dhcpRig{now: t0}
	r.dhcpClient = &dhcpClient{
		mac: labMAC, host: func() string { return "croft" }, rnd: rand.New(rand.NewPCG(1, 2)), log: quiet, state: dhcpOff,
		send: func(m *dhcpv4.DHCPv4, _, dst netip.Addr) {
			r.sent = append(r.sent, sentDHCP{m, r.now.Sub(t0), dst})
		},
	}
	return r
}

// run lets time pass.
func (r *dhcpRig) run(d time.Duration) {
	end := r.now.Add(d)
	for {
		next := r.deadline()
		if next.IsZero() || next.After(end) {
			break
		}
		if next.After(r.now) {
			r.now = next
		}
		r.tick(r.now)
	}
	r.now = end
}

// answer delivers a reply to the last message.
func (r *dhcpRig) answer(t dhcpv4.MessageType, addr, server string, mods ...dhcpv4.Modifier) {
	last := r.sent[len(r.sent)-1]
	r.packet(r.now, reply(last.DHCPv4, t, addr, server, mods...))
}

func reply(to *dhcpv4.DHCPv4, t dhcpv4.MessageType, addr, server string, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.NewReplyFromRequest(to, append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(t), dhcpv4.WithYourIP(net.ParseIP(addr)), dhcpv4.WithLeaseTime(3600),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(server))),
	}, mods...)...)
	if err != nil {
		panic(err)
	}
	return m
}

// bound brings the client to a lease of 192.168.1.50 from 192.168.1.1 for an hour.
func (r *dhcpRig) bound(t *testing.T) {
	t.Helper()
	r.start(r.now)
	r.answer(dhcpv4.MessageTypeOffer, "192.168.1.50", "192.168.1.1")
	r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.1")
	r.want(t, dhcpChecking)
	r.checked(r.now, true)
	r.want(t, dhcpBound)
}

func (r *dhcpRig) want(t *testing.T, s dhcpState) {
	t.Helper()
	if r.state != s {
		t.Fatalf("at %v the state is %q, want %q", r.now.Sub(t0), r.state, s)
	}
}

func (r *dhcpRig) types() (out []string) {
	for _, m := range r.sent {
		out = append(out, m.MessageType().String())
	}
	return out
}

func TestDHCPDiscoverBacksOff(t *testing.T) {
	r := newDHCPRig()
	r.start(t0)
	r.run(5 * time.Minute)
	if n := len(r.sent); n < 8 || n > 12 {
		t.Errorf("%d messages in 5 minutes", n)
	}
	for i := 1; i < len(r.sent); i++ {
		gap := r.sent[i].at - r.sent[i-1].at
		want := min(500*time.Millisecond<<(i-1), 64*time.Second)
		if gap < want*8/10 || gap > want*12/10 {
			t.Errorf("gap %d is %v, want about %v", i, gap, want)
		}
	}
	m := r.sent[3]
	if m.MessageType() != dhcpv4.MessageTypeDiscover || m.HostName() != "croft" || m.dst.IsValid() || m.IsBroadcast() ||
		m.NumSeconds != uint16(m.at/time.Second) {
		t.Errorf("sent %s", m.Summary())
	}
	id := m.Options.Get(dhcpv4.OptionClientIdentifier)
	if !slices.Equal(id, append([]byte{1}, labMAC...)) {
		t.Errorf("client id %x", id)
	}
	for _, o := range []dhcpv4.OptionCode{
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
		dhcpv4.OptionNTPServers, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue, dhcpv4.OptionClasslessStaticRoute,
	} {
		if !m.IsOptionRequested(o) {
			t.Errorf("option %v is not asked for", o)
		}
	}
}

func TestDHCPLifetime(t *testing.T) {
	r := newDHCPRig()
	r.bound(t)
	request := r.sent[1]
	if request.RequestedIPAddress().String() != "192.168.1.50" || request.ServerIdentifier().String() != "192.168.1.1" ||
		!request.ClientIPAddr.IsUnspecified() || request.TransactionID != r.sent[0].TransactionID {
		t.Errorf("request: %s", request.Summary())
	}

	r.run(29 * time.Minute)
	r.want(t, dhcpBound)
	r.run(2 * time.Minute)
	r.want(t, dhcpRenewing)
	renew := r.sent[2]
	if renew.dst.String() != "192.168.1.1" || renew.ClientIPAddr.String() != "192.168.1.50" ||
		renew.Options.Has(dhcpv4.OptionRequestedIPAddress) || renew.Options.Has(dhcpv4.OptionServerIdentifier) {
		t.Errorf("renewal to %v: %s", renew.dst, renew.Summary())
	}
	r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.1")
	r.want(t, dhcpBound)
	if got := r.lease.Expires.Sub(r.now); got != time.Hour {
		t.Errorf("renewed for %v", got)
	}

	r.run(53 * time.Minute)
	r.want(t, dhcpRebinding)
	last := r.sent[len(r.sent)-1]
	if last.dst.IsValid() || last.ClientIPAddr.String() != "192.168.1.50" {
		t.Errorf("rebinding to %v: %s", last.dst, last.Summary())
	}
	r.run(7 * time.Minute)
	if r.lease != nil {
		t.Error("the lease did not expire")
	}
	r.want(t, dhcpSelecting)
	if last := r.sent[len(r.sent)-1]; last.RequestedIPAddress().String() != "192.168.1.50" {
		t.Errorf("does not ask for its old address: %s", last.Summary())
	}
}

func TestDHCPRebindByAnotherServer(t *testing.T) {
	r := newDHCPRig()
	r.bound(t)
	r.run(31 * time.Minute)
	r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.2") // was not asked
	r.want(t, dhcpRenewing)
	r.run(22 * time.Minute)
	r.want(t, dhcpRebinding)
	r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.2")
	r.want(t, dhcpBound)
	if r.lease.Server.String() != "192.168.1.2" {
		t.Errorf("server %v", r.lease.Server)
	}
}

func TestDHCPFirstSaneOffer(t *testing.T) {
	r := newDHCPRig()
	r.start(t0)
	for _, bad := range []string{"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "192.168.1.0", "192.168.1.255", "169.254.3.4"} {
		r.answer(dhcpv4.MessageTypeOffer, bad, "192.168.1.1")
		r.want(t, dhcpSelecting)
	}
	discover := r.sent[0].DHCPv4
	r.packet(t0, reply(discover, dhcpv4.MessageTypeOffer, "192.168.1.50", "192.168.1.1"))
	r.want(t, dhcpRequesting)
	r.packet(t0, reply(discover, dhcpv4.MessageTypeOffer, "192.168.1.60", "192.168.1.2"))
	r.packet(t0, reply(discover, dhcpv4.MessageTypeAck, "192.168.1.60", "192.168.1.2"))
	r.packet(t0, reply(discover, dhcpv4.MessageTypeNak, "0.0.0.0", "192.168.1.2"))
	r.want(t, dhcpRequesting)
	r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.1")
	r.want(t, dhcpChecking)
}

func TestDHCPForeignPackets(t *testing.T) {
	r := newDHCPRig()
	r.start(t0)
	for name, change := range map[string]func(*dhcpv4.DHCPv4){
		"other transaction": func(m *dhcpv4.DHCPv4) { m.TransactionID[0] ^= 1 },
		"other client":      func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, 6} },
		"request":           func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest },
		"no server":         func(m *dhcpv4.DHCPv4) { m.DeleteOption(dhcpv4.OptionServerIdentifier) },
	} {
		m := reply(r.sent[0].DHCPv4, dhcpv4.MessageTypeOffer, "192.168.1.50", "192.168.1.1")
		change(m)
		if r.packet(t0, m); r.state != dhcpSelecting {
			t.Errorf("%s: state %v", name, r.state)
			break
		}
	}
}

func TestDHCPRequestUnanswered(t *testing.T) {
	r := newDHCPRig()
	r.start(t0)
	r.answer(dhcpv4.MessageTypeOffer, "192.168.1.50", "192.168.1.1")
	r.run(15 * time.Second)
	r.want(t, dhcpSelecting)
	if got := strings.Join(r.types()[:6], " "); got != "DISCOVER REQUEST REQUEST REQUEST REQUEST DISCOVER" {
		t.Errorf("sent %s", got)
	}
}

func TestDHCPReboot(t *testing.T) {
	t.Run("confirmed", func(t *testing.T) {
		r := newDHCPRig()
		r.bound(t)
		r.stop()
		r.run(10 * time.Second)
		r.start(r.now)
		r.want(t, dhcpRebooting)
		m := r.sent[len(r.sent)-1]
		if m.MessageType() != dhcpv4.MessageTypeRequest || m.RequestedIPAddress().String() != "192.168.1.50" ||
			m.Options.Has(dhcpv4.OptionServerIdentifier) || !m.ClientIPAddr.IsUnspecified() {
			t.Errorf("sent %s", m.Summary())
		}
		r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.1")
		r.want(t, dhcpBound) // no second conflict check: it was ours all the time
	})
	t.Run("silence", func(t *testing.T) {
		r := newDHCPRig()
		r.bound(t)
		r.stop()
		r.start(r.now)
		r.run(3 * time.Second)
		r.want(t, dhcpSelecting)
		if r.lease == nil {
			t.Error("gave up a lease that is still valid")
		}
		r.answer(dhcpv4.MessageTypeOffer, "192.168.1.50", "192.168.1.1")
		r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.1")
		r.want(t, dhcpBound)
	})
	t.Run("refused by its server", func(t *testing.T) {
		r := newDHCPRig()
		r.bound(t)
		r.stop()
		r.start(r.now)
		r.answer(dhcpv4.MessageTypeNak, "0.0.0.0", "192.168.1.1")
		r.want(t, dhcpSelecting)
		if r.lease != nil || r.wanted().IsValid() {
			t.Error("kept the lease")
		}
	})
	t.Run("refused by another server", func(t *testing.T) {
		r := newDHCPRig()
		r.bound(t)
		r.stop()
		r.start(r.now)
		r.answer(dhcpv4.MessageTypeNak, "0.0.0.0", "10.0.0.1")
		r.want(t, dhcpRebooting)
		r.run(400 * time.Millisecond)
		r.want(t, dhcpSelecting)
		if r.lease != nil {
			t.Error("kept the lease of another network")
		}
	})
	t.Run("expired meanwhile", func(t *testing.T) {
		r := newDHCPRig()
		r.bound(t)
		r.stop()
		r.run(2 * time.Hour)
		if r.lease != nil {
			t.Error("kept an expired lease")
		}
	})
}

func TestDHCPConflict(t *testing.T) {
	r := newDHCPRig()
	r.start(t0)
	for i := range 4 {
		n := len(r.sent)
		r.answer(dhcpv4.MessageTypeOffer, "192.168.1.50", "192.168.1.1")
		r.answer(dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.1")
		r.checked(r.now, false)
		m := r.sent[n+1]
		if m.MessageType() != dhcpv4.MessageTypeDecline || m.RequestedIPAddress().String() != "192.168.1.50" ||
			m.ServerIdentifier().String() != "192.168.1.1" || m.Options.Has(dhcpv4.OptionParameterRequestList) {
			t.Fatalf("sent %s", m.Summary())
		}
		wait := min(declineWait<<i, time.Minute)
		r.run(wait - time.Second)
		r.want(t, dhcpWaiting)
		r.run(time.Second)
		r.want(t, dhcpSelecting)
	}
	r.answer(dhcpv4.MessageTypeOffer, "192.168.1.51", "192.168.1.1")
	r.answer(dhcpv4.MessageTypeAck, "192.168.1.51", "192.168.1.1")
	r.checked(r.now, true)
	r.conflict(r.now) // while in use
	if r.lease != nil || r.sent[len(r.sent)-1].MessageType() != dhcpv4.MessageTypeDecline {
		t.Error("kept an address that another device uses")
	}
}

func TestDHCPRefusalsBackOff(t *testing.T) {
	r := newDHCPRig()
	r.start(t0)
	naks := 0
	for end := t0.Add(5 * time.Minute); r.now.Before(end); {
		if r.state == dhcpSelecting {
			r.answer(dhcpv4.MessageTypeOffer, "192.168.1.50", "192.168.1.1")
		}
		if r.state == dhcpRequesting {
			r.answer(dhcpv4.MessageTypeNak, "0.0.0.0", "192.168.1.1")
			naks++
		}
		r.run(100 * time.Millisecond)
	}
	if naks > 14 {
		t.Errorf("%d refusals in 5 minutes", naks)
	}
}

func TestParseLease(t *testing.T) {
	base := func(mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		d, err := dhcpv4.NewDiscovery(labMAC)
		if err != nil {
			t.Fatal(err)
		}
		return reply(d, dhcpv4.MessageTypeAck, "192.168.1.50", "192.168.1.1", mods...)
	}
	route := func(dst, gw string) *dhcpv4.Route {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			t.Fatal(err)
		}
		return &dhcpv4.Route{Dest: n, Router: net.ParseIP(gw)}
	}
	ip := net.ParseIP
	tests := []struct {
		name string
		m    *dhcpv4.DHCPv4
		bad  bool
		ok   func(l *Lease) bool
	}{
		{"plain", base(), false, func(l *Lease) bool {
			return l.Prefix.String() == "192.168.1.50/24" && l.T1.Equal(t0.Add(30*time.Minute)) &&
				l.T2.Equal(t0.Add(52*time.Minute+30*time.Second)) && l.Expires.Equal(t0.Add(time.Hour)) && !l.Gateway.IsValid()
		}},
		{"times given", base(dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(time.Minute)),
			dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(2*time.Minute))), false, func(l *Lease) bool {
			return l.T1.Equal(t0.Add(time.Minute)) && l.T2.Equal(t0.Add(2*time.Minute))
		}},
		{"times absurd", base(dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(2*time.Hour)),
			dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(3*time.Hour))), false, func(l *Lease) bool {
			return l.T1.Equal(t0.Add(30*time.Minute)) && l.T1.Before(l.T2) && l.T2.Before(l.Expires)
		}},
		{"rebinding at once", base(dhcpv4.WithLeaseTime(10), dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(time.Second)),
			dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(2*time.Second))), false, func(l *Lease) bool {
			return !l.T1.Before(t0.Add(minLease/2)) && l.T1.Before(l.T2)
		}},
		{"for ever", base(dhcpv4.WithLeaseTime(0xffffffff)), false, func(l *Lease) bool { return l.Expires.Equal(t0.Add(maxLease)) }},
		{"no lease time", base(dhcpv4.WithoutOption(dhcpv4.OptionIPAddressLeaseTime)), true, nil},
		{"one second", base(dhcpv4.WithLeaseTime(1)), true, nil},
		{"no mask: by class", base(dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)), false, func(l *Lease) bool { return l.Prefix.Bits() == 24 }},
		{"mask with holes", base(dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0})), true, nil},
		{"mask 0", base(dhcpv4.WithNetmask(net.IPMask{0, 0, 0, 0})), true, nil},
		{"one host", base(dhcpv4.WithNetmask(net.CIDRMask(32, 32)), dhcpv4.WithRouter(ip("10.0.0.1"))), false, func(l *Lease) bool {
			return l.Prefix.Bits() == 32 && l.Gateway.String() == "10.0.0.1"
		}},
		{"router", base(dhcpv4.WithRouter(ip("192.168.1.1"), ip("192.168.1.2"))), false, func(l *Lease) bool {
			return l.Gateway.String() == "192.168.1.1"
		}},
		{"router is the box", base(dhcpv4.WithRouter(ip("192.168.1.50"))), false, func(l *Lease) bool { return !l.Gateway.IsValid() }},
		{"router is the broadcast", base(dhcpv4.WithRouter(ip("192.168.1.255"))), false, func(l *Lease) bool { return !l.Gateway.IsValid() }},
		{
			"name servers", base(dhcpv4.WithDNS(ip("127.0.0.1"), ip("192.168.1.1"), ip("0.0.0.0"), ip("192.168.1.1"), ip("224.0.0.251"))),
			false, func(l *Lease) bool { return len(l.DNS) == 1 && l.DNS[0].String() == "192.168.1.1" },
		},
		{"domain", base(dhcpv4.WithOption(dhcpv4.OptDomainName("fritz.box"))), false, func(l *Lease) bool { return l.Domain == "fritz.box" }},
		{
			"domain with a line break", base(dhcpv4.WithOption(dhcpv4.OptDomainName("a\nnameserver 6.6.6.6"))), false,
			func(l *Lease) bool { return l.Domain == "" },
		},
		{"classless routes", base(dhcpv4.WithRouter(ip("192.168.1.9")), dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
			route("0.0.0.0/0", "192.168.1.1"), route("10.0.0.0/8", "192.168.1.2"), route("10.1.0.0/16", "0.0.0.0"),
			route("224.0.0.0/4", "192.168.1.1"), route("127.0.0.0/8", "192.168.1.1")))), false, func(l *Lease) bool {
			return l.Gateway.String() == "192.168.1.1" && slices.Equal(l.Routes, []LeaseRoute{
				{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("192.168.1.2")},
				{Dst: netip.MustParsePrefix("10.1.0.0/16")},
			})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := ParseLease(tt.m, t0)
			switch {
			case tt.bad && err == nil:
				t.Errorf("accepted %+v", l)
			case tt.bad:
			case err != nil:
				t.Error(err)
			case !tt.ok(l):
				t.Errorf("got %+v", l)
			}
		})
	}
}

// FuzzDHCP feeds packets to a client in each state: it must neither fail nor take an unusable address.
func FuzzDHCP(f *testing.F) {
	d, err := dhcpv4.NewDiscovery(labMAC)
	if err != nil {
		f.Fatal(err)
	}
	for _, typ := range []dhcpv4.MessageType{dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak} {
		m := reply(d, typ, "192.168.1.50", "192.168.1.1", dhcpv4.WithRouter(net.ParseIP("192.168.1.1")),
			dhcpv4.WithDNS(net.ParseIP("192.168.1.1")), dhcpv4.WithOption(dhcpv4.OptDomainName("x")))
		f.Add(dhcpPacket(netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("255.255.255.255"), m.ToBytes())[ipHeader+udpHeader:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dhcpPayload(b)
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		for _, s := range []dhcpState{dhcpSelecting, dhcpRequesting, dhcpBound, dhcpRenewing, dhcpRebinding, dhcpRebooting} {
			r := newDHCPRig()
			r.bound(t)
			r.offer = r.lease
			r.state = s
			m.TransactionID, m.ClientHWAddr, m.OpCode = r.xid, labMAC, dhcpv4.OpcodeBootReply
			r.packet(r.now, m)
			for _, l := range []*Lease{r.lease, r.fresh, r.offer} {
				if l != nil && (!usable(l.Prefix) || !l.T1.Before(l.T2) || !l.T2.Before(l.Expires)) {
					t.Errorf("in state %s got %+v", s, l)
				}
			}
			r.run(time.Minute)
		}
	})
}
