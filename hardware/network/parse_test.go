package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// ra returns a router advertisement with these options.
func ra(options ...[]byte) []byte {
	b := make([]byte, 16)
	b[0] = 134
	for _, o := range options {
		b = append(b, o...)
	}
	return b
}

// rdnssOption returns an option of RFC 8106 section 5.1.
func rdnssOption(life uint32, addrs ...string) []byte {
	b := []byte{25, byte(1 + 2*len(addrs)), 0, 0}
	b = binary.BigEndian.AppendUint32(b, life)
	for _, a := range addrs {
		b = append(b, netip.MustParseAddr(a).AsSlice()...)
	}
	return b
}

func TestParseRDNSS(t *testing.T) {
	mtu := []byte{5, 1, 0, 0, 0, 0, 5, 220}
	tests := []struct {
		name string
		b    []byte
		want []string
	}{
		{"none", ra(mtu), nil},
		{"two options", ra(mtu, rdnssOption(60, "fd00::1", "fe80::1"), rdnssOption(0, "fd00::2")), []string{"fd00::1 1m0s", "fd00::2 0s", "fe80::1 1m0s"}},
		{"useless addresses", ra(rdnssOption(60, "::", "::1", "ff02::1", "fd00::1")), []string{"fd00::1 1m0s"}},
		{"option of length 0", ra(rdnssOption(60, "fd00::1"), []byte{25, 0, 0, 0, 0, 0, 0, 0}), nil},
		{"cut", ra(rdnssOption(60, "fd00::1"))[:30], nil},
		{"no advertisement", append([]byte{133}, ra(rdnssOption(60, "fd00::1"))[1:]...), nil},
		{"empty", nil, nil},
	}
	for _, tt := range tests {
		var got []string
		found := ParseRDNSS(tt.b)
		for _, a := range sortedAddrs(found) {
			got = append(got, a.String()+" "+found[a].String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestUpdateRDNSS(t *testing.T) {
	show := func(l []rdnss) string {
		var out []string
		for _, s := range l {
			out = append(out, s.addr.String())
		}
		return strings.Join(out, " ")
	}
	var list []rdnss
	update := func(at time.Duration, options ...[]byte) {
		list = updateRDNSS(list, t0.Add(at), "eth0", ParseRDNSS(ra(options...)))
	}
	update(0, rdnssOption(60, "fd00::1", "fe80::1"))
	if got := show(list); got != "fd00::1 fe80::1%eth0" {
		t.Errorf("first: %s", got)
	}
	update(50*time.Second, rdnssOption(60, "fe80::1"))
	if got := show(expireRDNSS(list, t0.Add(70*time.Second))); got != "fe80::1%eth0" {
		t.Errorf("after the first's end: %s", got)
	}
	update(70*time.Second, rdnssOption(0, "fe80::1"))
	if got := show(list); got != "" {
		t.Errorf("withdrawn: %s", got)
	}
	for i := range 100 {
		update(71*time.Second, rdnssOption(60, netip.AddrFrom16([16]byte{0xfd, 15: byte(i + 1)}).String()))
	}
	if len(list) > 2*maxRDNSS {
		t.Errorf("%d servers kept", len(list))
	}
}

func FuzzParseRDNSS(f *testing.F) {
	f.Add(ra(rdnssOption(60, "fd00::1", "fe80::1"), rdnssOption(0, "fd00::2")))
	f.Add(ra([]byte{5, 1, 0, 0, 0, 0, 5, 220}, rdnssOption(1, "fd00::1"))[:45])
	f.Fuzz(func(t *testing.T, b []byte) {
		found := ParseRDNSS(b)
		if len(found) > maxRDNSS {
			t.Errorf("%d servers", len(found))
		}
		for a := range found {
			if !unicast(a) {
				t.Errorf("server %v", a)
			}
		}
		updateRDNSS(nil, t0, "eth0", found)
	})
}

func FuzzParseARP(f *testing.F) {
	f.Add(ARP{Op: arpReply, SenderMAC: [6]byte{1}, SenderIP: netip.MustParseAddr("10.0.0.1"), TargetIP: netip.MustParseAddr("10.0.0.2")}.Bytes())
	f.Add(make([]byte, 46))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseARP(b)
		if err == nil && !bytes.Equal(p.Bytes(), b[:arpSize]) {
			t.Errorf("%x became %x", b, p.Bytes())
		}
	})
}

// FuzzDHCPPayload unwraps IPv4 packets.
func FuzzDHCPPayload(f *testing.F) {
	p := dhcpPacket(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("255.255.255.255"), []byte("message"))
	p[ipHeader+1], p[ipHeader+3] = serverPort, clientPort
	f.Add(p)
	f.Add(p[:27])
	f.Fuzz(func(t *testing.T, b []byte) {
		if msg := dhcpPayload(b); msg != nil && len(msg) > len(b)-ipHeader-udpHeader {
			t.Errorf("%d bytes out of %d", len(msg), len(b))
		}
	})
}

func TestDHCPPacket(t *testing.T) {
	p := dhcpPacket(netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"), []byte("odd"))
	if checksum(p[:ipHeader], 0) != 0 {
		t.Error("wrong IP checksum")
	}
	pseudo := uint32(17) + uint32(len(p)-ipHeader) + 2*0xffff
	if got := checksum(p[ipHeader:], pseudo); got != 0 {
		t.Errorf("wrong UDP checksum: %#x", got)
	}
	if dhcpPayload(p) != nil {
		t.Error("took a client's message for a server's")
	}
	p[ipHeader+1], p[ipHeader+3] = serverPort, clientPort
	if got := dhcpPayload(append(p, 0, 0, 0)); string(got) != "odd" {
		t.Errorf("got %q", got)
	}
}

func TestResolvConf(t *testing.T) {
	var all []netip.Addr
	for _, a := range []string{"192.168.1.1", "fd00::1", "192.168.1.1", "fe80::1%eth0", "9.9.9.9"} {
		all = append(all, netip.MustParseAddr(a))
	}
	got := string(resolvConf(firstServers(all), "Fritz.Box"))
	_, got, _ = strings.Cut(got, "\n")
	if want := "nameserver 192.168.1.1\nnameserver fd00::1\nnameserver fe80::1%eth0\nsearch fritz.box\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := string(resolvConf(firstServers(nil), "")); strings.Contains(got, "nameserver") || strings.Contains(got, "search") {
		t.Errorf("empty gives %q", got)
	}
}

func TestConfigValidate(t *testing.T) {
	p := func(s ...string) (out []netip.Prefix) {
		for _, a := range s {
			out = append(out, netip.MustParsePrefix(a))
		}
		return out
	}
	a := netip.MustParseAddr
	eth0 := func(s Static) Config { return Config{Interfaces: map[string]Static{"eth0": s}} }
	many := map[string]Static{}
	for i := range 40 {
		many["eth"+string(rune('A'+i))] = Static{}
	}
	tests := []struct {
		name string
		c    Config
		path string // of the mistake; "" for none
	}{
		{"empty", Config{}, ""},
		{"plain", eth0(Static{Addresses: p("192.168.1.5/24", "fd00::5/64"), Gateway: a("192.168.1.1"), DNS: []netip.Addr{a("9.9.9.9")}}), ""},
		{"all", Config{Interfaces: map[string]Static{"*": {Addresses: p("192.168.1.5/24")}}}, ""},
		{"only name servers", eth0(Static{DNS: []netip.Addr{a("9.9.9.9"), a("fe80::1%eth0")}}), ""},
		{"IPv6 router by link-local address", eth0(Static{Addresses: p("fd00::5/64"), Gateway: a("fe80::1")}), ""},
		{"point to point", eth0(Static{Addresses: p("192.168.1.0/31"), Gateway: a("192.168.1.1")}), ""},
		{"many", Config{Interfaces: many}, "interfaces"},
		{"bad name", Config{Interfaces: map[string]Static{"../x": {}}}, "interfaces.../x"},
		{"no address", eth0(Static{Addresses: []netip.Prefix{{}}}), "interfaces.eth0.addresses[0]"},
		{"multicast", eth0(Static{Addresses: p("192.168.1.5/24", "224.0.0.1/24")}), "interfaces.eth0.addresses[1]"},
		{"network's own", eth0(Static{Addresses: p("192.168.1.0/24")}), "interfaces.eth0.addresses[0]"},
		{"broadcast", eth0(Static{Addresses: p("192.168.1.255/24")}), "interfaces.eth0.addresses[0]"},
		{"loopback", eth0(Static{Addresses: p("127.0.0.5/8")}), "interfaces.eth0.addresses[0]"},
		{"huge network", eth0(Static{Addresses: p("10.0.0.1/4")}), "interfaces.eth0.addresses[0]"},
		{"twice", eth0(Static{Addresses: p("10.0.0.1/24", "10.0.0.1/16")}), "interfaces.eth0.addresses[1]"},
		{"too many addresses", eth0(Static{Addresses: make([]netip.Prefix, 9)}), "interfaces.eth0.addresses"},
		{"same on two ports", Config{Interfaces: map[string]Static{
			"eth0": {Addresses: p("10.0.0.1/24")}, "eth1": {Addresses: p("10.0.0.2/24", "10.0.0.1/24")},
		}}, "interfaces.eth1.addresses[1]"},
		{"router elsewhere", eth0(Static{Addresses: p("192.168.1.5/24"), Gateway: a("192.168.2.1")}), "interfaces.eth0.gateway"},
		{"router without address", eth0(Static{Gateway: a("192.168.2.1")}), "interfaces.eth0.gateway"},
		{"router is the box", eth0(Static{Addresses: p("192.168.1.5/24"), Gateway: a("192.168.1.5")}), "interfaces.eth0.gateway"},
		{"router with zone", eth0(Static{Addresses: p("fd00::5/64"), Gateway: a("fe80::1%eth0")}), "interfaces.eth0.gateway"},
		{"name server", eth0(Static{DNS: []netip.Addr{a("9.9.9.9"), a("0.0.0.0")}}), "interfaces.eth0.dns[1]"},
		{"name server with a strange zone", eth0(Static{DNS: []netip.Addr{a("fe80::1%eth0\nnameserver 6.6.6.6")}}), "interfaces.eth0.dns[0]"},
		{"name server with a needless zone", eth0(Static{DNS: []netip.Addr{a("fd00::1%eth0")}}), "interfaces.eth0.dns[0]"},
		{"name servers", eth0(Static{DNS: make([]netip.Addr, 9)}), "interfaces.eth0.dns"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Validate()
			var ce *ConfigError
			switch {
			case tt.path == "" && err != nil:
				t.Error(err)
			case tt.path != "" && (!errors.As(err, &ce) || ce.Path != tt.path || ce.Text == ""):
				t.Errorf("got %v, want a mistake at %s", err, tt.path)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	addr := netip.MustParseAddr("192.168.1.5")
	other := [6]byte{2, 9, 9, 9, 9, 9}
	probe := ARP{Op: arpRequest, SenderMAC: other, SenderIP: netip.IPv4Unspecified(), TargetIP: addr}
	use := ARP{Op: arpReply, SenderMAC: other, SenderIP: addr}
	mine := ARP{Op: arpRequest, SenderMAC: [6]byte(labMAC), SenderIP: addr, TargetIP: addr}
	ask := ARP{Op: arpRequest, SenderMAC: other, SenderIP: netip.MustParseAddr("192.168.1.9"), TargetIP: addr}
	type heard struct {
		at time.Duration
		p  ARP
	}
	tests := []struct {
		name     string
		stubborn bool
		heard    []heard
		want     claimState
		defended int // announcements beyond the first two
	}{
		{"free", false, nil, claimHeld, 0},
		{"in use", false, []heard{{150 * time.Millisecond, use}}, claimConflict, 0},
		{"probed by another at the same time", false, []heard{{50 * time.Millisecond, probe}}, claimConflict, 0},
		{"own packets come back", false, []heard{{0, mine}, {time.Second, mine}}, claimHeld, 0},
		{"others ask for it", false, []heard{{50 * time.Millisecond, ask}, {time.Second, ask}}, claimHeld, 0},
		{"probed later: the kernel answers", false, []heard{{time.Second, probe}}, claimHeld, 0},
		{"defended once", false, []heard{{5 * time.Second, use}}, claimHeld, 1},
		{"defended twice in a while", false, []heard{{5 * time.Second, use}, {16 * time.Second, use}}, claimHeld, 2},
		{"given up", false, []heard{{5 * time.Second, use}, {14 * time.Second, use}}, claimConflict, 1},
		{"fixed: never given up", true, []heard{{5 * time.Second, use}, {6 * time.Second, use}, {7 * time.Second, use}}, claimHeld, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var probes, announced int
			send := func(p ARP) {
				if p.SenderIP == addr {
					announced++
				} else {
					probes++
				}
			}
			c := newClaim(addr, labMAC, paceAssigned, t0)
			c.stubborn = tt.stubborn
			c.tick(t0, send)
			pass := func(to time.Time) {
				for !c.next.IsZero() && !c.next.After(to) {
					c.tick(c.next, send)
				}
			}
			for _, h := range tt.heard {
				pass(t0.Add(h.at))
				c.packet(t0.Add(h.at), h.p, send)
			}
			pass(t0.Add(time.Minute))
			if c.state != tt.want {
				t.Errorf("state %v, want %v", c.state, tt.want)
			}
			if tt.want == claimHeld && probes != 3 {
				t.Errorf("%d probes", probes)
			}
			if c.state == claimConflict && c.by.String() != "02:09:09:09:09:09" {
				t.Errorf("by %v", c.by)
			}
			if got := announced - announceNum; announced > 0 && got != tt.defended {
				t.Errorf("defended %d times, want %d", got, tt.defended)
			}
		})
	}
}

func TestLinkLocalAddrs(t *testing.T) {
	a, b := newLinkLocalAddrs(labMAC), newLinkLocalAddrs(labMAC)
	other := newLinkLocalAddrs([]byte{2, 0, 0, 0, 0, 6})
	differs := false
	for range 2000 {
		x, y := a.next(), b.next()
		if x != y {
			t.Fatal("two starts try different addresses")
		}
		if v := x.As4(); v[0] != 169 || v[1] != 254 || v[2] < 1 || v[2] > 254 {
			t.Fatalf("address %v is reserved", x)
		}
		differs = differs || other.next() != x
	}
	if !differs {
		t.Error("two devices try the same addresses")
	}
}
