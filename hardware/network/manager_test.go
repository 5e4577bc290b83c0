package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// fakeOS is a kernel with a network in virtual time: what is sent is answered by dhcp and arp.
type fakeOS struct {
	links  []Link
	addrs  []Addr
	routes []Route
	queue  []Event
	broken error // of SetAddr
	stuck  int   // an interface that can't be brought up
	dhcp   func(*dhcpv4.DHCPv4) []*dhcpv4.DHCPv4
	taken  []string // addresses that another device has
	up     []int
	open   int
}

func (f *fakeOS) Links() ([]Link, error)          { return slices.Clone(f.links), nil }
func (f *fakeOS) Routes() ([]Route, error)        { return slices.Clone(f.routes), nil }
func (f *fakeOS) SetRoute(r Route) error          { f.routes = append(f.routes, r); return nil }
func (f *fakeOS) Solicit(Link) error              { return nil }
func (f *fakeOS) Events() <-chan Event            { return nil }
func (f *fakeOS) Close() error                    { return nil }
func (f *fakeOS) Addrs(time.Time) ([]Addr, error) { return slices.Clone(f.addrs), nil }
func (f *fakeOS) Open(l Link) (Port, error)       { f.open++; return &fakePort{f, l}, nil }
func (f *fakeOS) same(a Addr) func(Addr) bool {
	return func(b Addr) bool { return a.Index == b.Index && a.Prefix == b.Prefix }
}

func (f *fakeOS) DelAddr(a Addr) error { f.addrs = slices.DeleteFunc(f.addrs, f.same(a)); return nil }

func (f *fakeOS) DelRoute(r Route) error {
	f.routes = slices.DeleteFunc(f.routes, func(x Route) bool { return x == r })
	return nil
}

func (f *fakeOS) SetUp(i int) error {
	f.up = append(f.up, i)
	if i == f.stuck {
		return errors.New("no firmware")
	}
	return nil
}

func (f *fakeOS) SetAddr(a Addr, _ time.Time) error {
	if f.broken != nil {
		return f.broken
	}
	f.addrs = append(slices.DeleteFunc(f.addrs, f.same(a)), a)
	return nil
}

type fakePort struct {
	os   *fakeOS
	link Link
}

func (p *fakePort) WatchARP([]netip.Addr) error { return nil }
func (p *fakePort) Close() error                { p.os.open--; return nil }

func (p *fakePort) SendDHCP(b []byte, _, _ netip.Addr) error {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return err
	}
	if p.os.dhcp != nil {
		for _, r := range p.os.dhcp(m) {
			p.os.queue = append(p.os.queue, Event{Kind: EventDHCP, Index: p.link.Index, Data: r.ToBytes()})
		}
	}
	return nil
}

func (p *fakePort) SendARP(a ARP) error {
	if a.SenderIP.IsUnspecified() && slices.Contains(p.os.taken, a.TargetIP.String()) {
		r := ARP{Op: arpReply, SenderMAC: [6]byte{2, 9}, SenderIP: a.TargetIP, TargetMAC: a.SenderMAC}
		p.os.queue = append(p.os.queue, Event{Kind: EventARP, Index: p.link.Index, Data: r.Bytes()})
	}
	return nil
}

// dhcpServer offers addr, or else the next one if that was declined.
func dhcpServer(server string, addrs ...string) func(*dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
	return func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		switch m.MessageType() {
		case dhcpv4.MessageTypeDiscover:
			return []*dhcpv4.DHCPv4{reply(m, dhcpv4.MessageTypeOffer, addrs[0], server, dhcpv4.WithRouter(netIP(server)), dhcpv4.WithDNS(netIP(server)))}
		case dhcpv4.MessageTypeRequest:
			if id := m.ServerIdentifier(); id != nil && id.String() != server {
				return nil
			}
			return []*dhcpv4.DHCPv4{reply(m, dhcpv4.MessageTypeAck, addrs[0], server, dhcpv4.WithRouter(netIP(server)), dhcpv4.WithDNS(netIP(server)))}
		case dhcpv4.MessageTypeDecline:
			addrs = addrs[1:]
		}
		return nil
	}
}

func netIP(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// sim runs a manager in virtual time.
type sim struct {
	*Manager
	os   *fakeOS
	now  time.Time
	dir  string
	seen []Status
}

func newSim(t *testing.T, f *fakeOS, c Config) *sim {
	s := &sim{os: f, now: t0, dir: t.TempDir()}
	s.Manager = New(f, Options{
		Log: quiet, Config: c, Resolv: filepath.Join(s.dir, "resolv.conf"), Leases: filepath.Join(s.dir, "leases.json"),
		Changed: func(st Status) { s.seen = append(s.seen, st) },
	})
	s.change(t)
	return s
}

// change tells the manager that links or addresses changed.
func (s *sim) change(t *testing.T) {
	t.Helper()
	s.event(s.now, Event{Kind: EventChange})
	s.step(s.now)
	s.drain()
}

func (s *sim) drain() {
	for len(s.os.queue) > 0 {
		e := s.os.queue[0]
		s.os.queue = s.os.queue[1:]
		s.event(s.now, e)
		s.step(s.now)
	}
}

// run lets time pass; the manager must not spin.
func (s *sim) run(t *testing.T, d time.Duration) {
	t.Helper()
	end := s.now.Add(d)
	for n := 0; ; n++ {
		next := s.deadline()
		if next.IsZero() || next.After(end) {
			break
		}
		if n > 10000 {
			t.Fatalf("busy at %v", s.now.Sub(t0))
		}
		if next.After(s.now) {
			s.now, n = next, 0
		}
		s.step(s.now)
		s.drain()
	}
	s.now = end
}

func (s *sim) only(t *testing.T) InterfaceStatus {
	t.Helper()
	st := s.Status()
	if len(st.Interfaces) != 1 {
		t.Fatalf("interfaces: %+v", st.Interfaces)
	}
	return st.Interfaces[0]
}

func (s *sim) resolv(t *testing.T) string {
	b, err := os.ReadFile(filepath.Join(s.dir, "resolv.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func eth(index int, name string) Link {
	return Link{Index: index, Name: name, MAC: []byte{2, 0, 0, 0, 0, byte(index)}, Up: true, Carrier: true, Wired: true}
}

func TestManagerLease(t *testing.T) {
	stale := Addr{Index: 2, Prefix: netip.MustParsePrefix("10.0.0.9/8")}
	foreign := Addr{Index: 9, Prefix: netip.MustParsePrefix("10.9.9.9/8")}
	slaac := Addr{Index: 2, Prefix: netip.MustParsePrefix("2001:db8::9/64")}
	f := &fakeOS{
		links: []Link{{Index: 1, Name: "lo", Loopback: true}, eth(2, "eth0"), {Index: 9, Name: "tun0", Up: true, Carrier: true}},
		addrs: []Addr{stale, foreign, slaac}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50"),
	}
	s := newSim(t, f, Config{})
	if !slices.Equal(f.up, []int{1}) {
		t.Errorf("brought up %v, want the loopback interface", f.up)
	}
	s.run(t, time.Second)
	i := s.only(t)
	if i.Method != MethodDHCP || !has(i, "192.168.1.50/32") || i.Gateway.String() != "192.168.1.1" || i.Problem != "" {
		t.Fatalf("got %+v", i)
	}
	if len(f.addrs) != 3 || !slices.Contains(f.addrs, foreign) || !slices.Contains(f.addrs, slaac) {
		t.Errorf("addresses %+v", f.addrs)
	}
	if len(f.routes) != 1 || f.routes[0].Gateway.String() != "192.168.1.1" || f.routes[0].Metric != 102 || f.routes[0].OnLink {
		t.Errorf("routes %+v", f.routes)
	}
	if !s.Status().Online() || !strings.Contains(s.resolv(t), "nameserver 192.168.1.1\n") {
		t.Errorf("resolv.conf: %q", s.resolv(t))
	}

	s.run(t, 24*time.Hour) // renewals
	if i := s.only(t); !has(i, "192.168.1.50/32") || i.LeaseEnd.Before(s.now) {
		t.Errorf("after a day: %+v", i)
	}
	f.dhcp = nil
	problem := ""
	for range 60 {
		s.run(t, 2*time.Minute)
		if i := s.only(t); problem == "" && has(i, "192.168.1.50/32") {
			problem = i.Problem
		}
	}
	if !strings.Contains(problem, "soon lose") {
		t.Errorf("before the lease ended the problem was %q", problem)
	}
	if i := s.only(t); has(i, "192.168.1.0/24") || i.Method != MethodLinkLocal || len(f.routes) != 0 {
		t.Errorf("after the server's end: %+v, %+v", i, f.routes)
	}
	if strings.Contains(s.resolv(t), "nameserver") {
		t.Errorf("resolv.conf: %q", s.resolv(t))
	}
}

func TestManagerLinkLocal(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0")}}
	seq := newLinkLocalAddrs(f.links[0].MAC)
	first, second := seq.next(), seq.next()
	f.taken = []string{first.String()}
	s := newSim(t, f, Config{})
	s.run(t, 5*time.Second)
	if i := s.only(t); i.Method != MethodNone {
		t.Errorf("too early: %+v", i)
	}
	s.run(t, 10*time.Second)
	if i := s.only(t); i.Method != MethodLinkLocal || !has(i, second.String()+"/32") || !strings.Contains(i.Problem, second.String()) {
		t.Errorf("got %+v", i)
	}
	if s.Status().Online() {
		t.Error("counts as online")
	}
	f.dhcp = dhcpServer("192.168.1.1", "192.168.1.50")
	s.run(t, 70*time.Second)
	if i := s.only(t); i.Method != MethodDHCP || has(i, "169.254.0.0/16") || i.Problem != "" {
		t.Errorf("after a server came: %+v", i)
	}
}

func TestManagerLinkLocalAllTaken(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0")}}
	seq := newLinkLocalAddrs(f.links[0].MAC)
	for range 12 {
		f.taken = append(f.taken, seq.next().String())
	}
	s := newSim(t, f, Config{})
	s.run(t, 30*time.Second)
	if i := s.ifaces[2]; i.clashes != maxConflicts {
		t.Errorf("%d attempts in 30 s, want %d and a pause", i.clashes, maxConflicts)
	}
	s.run(t, 3*time.Minute+10*time.Second)
	if i := s.only(t); i.Method != MethodLinkLocal {
		t.Errorf("got %+v", i)
	}
}

func TestManagerConflict(t *testing.T) {
	f := &fakeOS{
		links: []Link{eth(2, "eth0")}, taken: []string{"192.168.1.50"},
		dhcp: dhcpServer("192.168.1.1", "192.168.1.50", "192.168.1.51"),
	}
	s := newSim(t, f, Config{})
	s.run(t, time.Second)
	if i := s.only(t); has(i, "192.168.1.0/24") || !strings.Contains(i.Problem, "192.168.1.50") || !strings.Contains(i.Problem, "02:09") {
		t.Errorf("got %+v", i)
	}
	s.run(t, 15*time.Second)
	if i := s.only(t); !has(i, "192.168.1.51/32") || i.Problem != "" {
		t.Errorf("got %+v", i)
	}
}

func TestManagerCable(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0")}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50")}
	s := newSim(t, f, Config{})
	s.run(t, 500*time.Millisecond)
	pull := func(carrier bool) {
		f.links[0].Carrier = carrier
		s.change(t)
	}
	pull(false)
	if i := s.only(t); i.Carrier || !has(i, "192.168.1.50/32") || len(f.routes) != 0 || !strings.Contains(i.Problem, "cable") {
		t.Errorf("just pulled: %+v, %+v", i, f.routes)
	}
	s.run(t, 3*time.Second)
	pull(true)
	if i := s.only(t); i.Method != MethodDHCP || len(f.routes) != 1 || i.Problem != "" {
		t.Errorf("back: %+v, %+v", i, f.routes)
	}
	pull(false)
	s.run(t, carrierGrace)
	if i := s.only(t); len(i.Addresses) != 0 || strings.Contains(s.resolv(t), "nameserver") {
		t.Errorf("pulled for a while: %+v, %q", i, s.resolv(t))
	}
	s.run(t, 24*time.Hour)
	f.dhcp = dhcpServer("10.0.0.1", "10.0.0.7") // another network
	pull(true)
	s.run(t, 5*time.Second)
	if i := s.only(t); !has(i, "10.0.0.7/32") {
		t.Errorf("elsewhere: %+v", i)
	}
}

func TestManagerHotPlug(t *testing.T) {
	f := &fakeOS{dhcp: dhcpServer("192.168.1.1", "192.168.1.50")}
	s := newSim(t, f, Config{})
	if s.deadline() != (time.Time{}) || len(s.Status().Interfaces) != 0 {
		t.Error("something to do without interfaces")
	}
	l := eth(5, "usb0")
	l.Up, l.Carrier = false, false
	f.links = []Link{l}
	s.change(t)
	if !slices.Equal(f.up, []int{5}) {
		t.Errorf("brought up %v", f.up)
	}
	f.links = []Link{eth(5, "usb0")}
	s.change(t)
	s.run(t, time.Second)
	if i := s.only(t); !has(i, "192.168.1.50/32") {
		t.Errorf("got %+v", i)
	}
	f.links, f.addrs, f.routes = nil, nil, nil
	s.change(t)
	if len(s.Status().Interfaces) != 0 || f.open != 0 {
		t.Errorf("still %+v, %d ports", s.Status().Interfaces, f.open)
	}
}

func TestManagerStatic(t *testing.T) {
	fixed := Config{Interfaces: map[string]Static{"eth0": {
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.5/24"), netip.MustParsePrefix("fd00::5/64")},
		Gateway:   netip.MustParseAddr("192.168.1.1"), DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")},
	}}}
	f := &fakeOS{links: []Link{eth(2, "eth0")}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50"), taken: []string{"192.168.1.5"}}
	s := newSim(t, f, fixed)
	s.run(t, time.Second)
	if i := s.only(t); has(i, "192.168.1.0/24") || !strings.Contains(i.Problem, "fixed address 192.168.1.5") {
		t.Errorf("with a conflict: %+v", i)
	}
	s.run(t, 20*time.Second)
	if i := s.only(t); i.Method != MethodLinkLocal {
		t.Errorf("not reachable: %+v", i)
	}
	f.taken = nil
	s.run(t, 2*staticRetry)
	i := s.only(t)
	if i.Method != MethodStatic || !has(i, "192.168.1.5/32") || !has(i, "fd00::5/128") || i.Problem != "" || has(i, "169.254.0.0/16") {
		t.Errorf("without: %+v", i)
	}
	if len(f.routes) != 1 || f.routes[0].Src.String() != "192.168.1.5" {
		t.Errorf("routes %+v", f.routes)
	}
	s.configure(s.now, Config{})
	s.step(s.now)
	s.drain()
	s.run(t, time.Second)
	if i := s.only(t); i.Method != MethodDHCP || has(i, "192.168.1.5/32") || has(i, "fd00::5/128") {
		t.Errorf("by DHCP: %+v", i)
	}
	s.configure(s.now, fixed)
	s.step(s.now)
	s.run(t, time.Second)
	if i := s.only(t); i.Method != MethodStatic || has(i, "192.168.1.50/32") {
		t.Errorf("fixed again: %+v", i)
	}
}

func TestManagerRestart(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0")}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50")}
	s := newSim(t, f, Config{})
	s.run(t, time.Second)
	saved, err := os.ReadFile(filepath.Join(s.dir, "leases.json"))
	if err != nil {
		t.Fatal(err)
	}
	addr := f.addrs[0]

	again := New(f, Options{Log: quiet, Leases: filepath.Join(s.dir, "leases.json")})
	f.dhcp = nil
	again.event(s.now, Event{Kind: EventChange})
	again.step(s.now)
	if len(f.addrs) != 1 || !f.addrs[0].Expires.Equal(addr.Expires) {
		t.Errorf("%+v became %+v", addr, f.addrs)
	}
	if st := again.Status().Interfaces[0]; st.Method != MethodDHCP || st.Gateway.String() != "192.168.1.1" {
		t.Errorf("got %+v", st)
	}
	// Renewals write nothing.
	s.os.dhcp = dhcpServer("192.168.1.1", "192.168.1.50")
	if err := os.Remove(filepath.Join(s.dir, "leases.json")); err != nil {
		t.Fatal(err)
	}
	s.run(t, 6*time.Hour)
	if b, err := os.ReadFile(filepath.Join(s.dir, "leases.json")); err == nil {
		t.Errorf("%d bytes became %d", len(saved), len(b))
	}
}

func TestManagerLeasesFile(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "garbage": "{]", "null": "null", "other": `{"02:00:00:00:00:02":"AAAA"}`} {
		f := &fakeOS{links: []Link{eth(2, "eth0")}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50")}
		path := filepath.Join(t.TempDir(), "leases.json")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		s := &sim{os: f, now: t0, Manager: New(f, Options{Log: quiet, Leases: path})}
		s.change(t)
		s.run(t, time.Second)
		if i := s.only(t); !has(i, "192.168.1.50/32") {
			t.Errorf("%s: %+v", name, i)
		}
	}
}

// A server that says something else at every renewal wears out no card.
func TestManagerLeasesFileIsSeldomWritten(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0")}}
	path := ""
	renewals, written := 0, map[string]bool{}
	f.dhcp = func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		if b, err := os.ReadFile(path); err == nil {
			written[string(b)] = true
		}
		renewals++
		typ := dhcpv4.MessageTypeAck
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			typ = dhcpv4.MessageTypeOffer
		}
		return []*dhcpv4.DHCPv4{reply(m, typ, "192.168.1.50", "192.168.1.1", dhcpv4.WithLeaseTime(10),
			dhcpv4.WithOption(dhcpv4.OptDomainName(fmt.Sprintf("n%d.test", renewals))))}
	}
	s := newSim(t, f, Config{})
	path = filepath.Join(s.dir, "leases.json")
	s.run(t, 3*time.Hour)
	if renewals < 1000 || len(written) < 2 || len(written) > 4 {
		t.Errorf("%d contents after %d renewals", len(written), renewals)
	}
}

func TestManagerKernelRefuses(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0")}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50"), broken: errors.New("no buffer space")}
	s := newSim(t, f, Config{})
	s.run(t, time.Second)
	if i := s.only(t); !strings.Contains(i.Problem, "no buffer space") {
		t.Errorf("got %+v", i)
	}
	f.broken = nil
	s.run(t, retryAfter)
	if i := s.only(t); i.Problem != "" || !has(i, "192.168.1.50/32") {
		t.Errorf("got %+v", i)
	}
}

func TestManagerOwnPacketsOnAnotherPort(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0"), eth(3, "eth1")}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50")}
	s := newSim(t, f, Config{})
	s.run(t, time.Second)
	p := ARP{Op: arpRequest, SenderMAC: [6]byte(f.links[1].MAC), SenderIP: netip.MustParseAddr("192.168.1.50"), TargetIP: netip.MustParseAddr("192.168.1.1")}
	for range 3 {
		s.event(s.now, Event{Kind: EventARP, Index: 2, Data: p.Bytes()})
		s.step(s.now)
	}
	if c := s.ifaces[2].leased; c == nil || c.state != claimHeld {
		t.Error("took the box's other port for another device")
	}
}

func TestManagerRDNSS(t *testing.T) {
	f := &fakeOS{links: []Link{eth(2, "eth0")}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50")}
	s := newSim(t, f, Config{})
	s.run(t, time.Second)
	s.event(s.now, Event{Kind: EventRA, Index: 2, Data: ra(rdnssOption(600, "fd00::53", "fe80::53"))})
	s.step(s.now)
	if got := s.resolv(t); !strings.HasSuffix(got, "\nnameserver 192.168.1.1\nnameserver fd00::53\nnameserver fe80::53%eth0\n") {
		t.Errorf("resolv.conf: %q", got)
	}
	s.run(t, 601*time.Second)
	if got := s.resolv(t); strings.Contains(got, "fd00") || !strings.Contains(got, "192.168.1.1") {
		t.Errorf("resolv.conf: %q", got)
	}
}

func TestManagerBrokenPort(t *testing.T) {
	l := eth(3, "eth1")
	l.Up, l.Carrier = false, false
	f := &fakeOS{links: []Link{eth(2, "eth0"), l}, dhcp: dhcpServer("192.168.1.1", "192.168.1.50"), stuck: 3}
	s := newSim(t, f, Config{})
	s.run(t, time.Minute)
	st := s.Status().Interfaces
	if len(st) != 2 || !has(st[0], "192.168.1.50/32") || st[0].Problem != "" || !strings.Contains(st[1].Problem, "no firmware") {
		t.Errorf("got %+v", st)
	}
	if n := len(f.up); n < 25 || n > 35 {
		t.Errorf("%d attempts in a minute", n)
	}
}

func TestManagerRestartStatic(t *testing.T) {
	p := netip.MustParsePrefix("192.168.1.5/24")
	f := &fakeOS{links: []Link{eth(2, "eth0")}, addrs: []Addr{{Index: 2, Prefix: p}}}
	s := newSim(t, f, Config{Interfaces: map[string]Static{"*": {Addresses: []netip.Prefix{p}}}})
	if i := s.only(t); i.Method != MethodStatic || !slices.Contains(i.Addresses, p) {
		t.Errorf("at once: %+v", i)
	}
}
