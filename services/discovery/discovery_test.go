package discovery

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/grandcat/zeroconf"
	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/services/api"
)

func TestUsable(t *testing.T) {
	const flags = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_MULTICAST
	link := func(index, flags uint32) rtnetlink.LinkMessage {
		return rtnetlink.LinkMessage{
			Index: index, Flags: flags, Attributes: &rtnetlink.LinkAttributes{Name: fmt.Sprintf("eth%d", index)},
		}
	}
	addr := func(index uint32, prefix string, flags uint32) rtnetlink.AddressMessage {
		p := netip.MustParsePrefix(prefix)
		m := rtnetlink.AddressMessage{
			Family: unix.AF_INET6, PrefixLength: uint8(p.Bits()), Index: index,
			Attributes: &rtnetlink.AddressAttributes{Address: p.Addr().AsSlice(), Flags: flags},
		}
		if p.Addr().Is4() {
			m.Family, m.Attributes.Local = unix.AF_INET, m.Attributes.Address
		}
		return m
	}
	links := []rtnetlink.LinkMessage{
		link(1, flags|unix.IFF_LOOPBACK),
		link(2, flags),
		link(3, flags),
		link(4, flags&^unix.IFF_RUNNING), // no cable
		link(5, flags&^unix.IFF_UP),
		link(6, flags&^unix.IFF_MULTICAST),
		link(7, flags|unix.IFF_POINTOPOINT), // a tunnel
		link(8, flags),                      // no address
		link(9, flags),
		link(10, flags), // nothing that may be published
		{Index: 11, Flags: flags},
	}
	var addrs []rtnetlink.AddressMessage
	for i := range uint32(11) {
		if i != 8 && i != 10 {
			addrs = append(addrs, addr(i, fmt.Sprintf("10.0.%d.1/24", i), unix.IFA_F_PERMANENT))
		}
	}
	addrs = append(addrs,
		addr(2, "fe80::2/64", 0),
		addr(2, "2001:db8::2/64", 0),
		addr(2, "fd00::2/64", 0),
		addr(2, "2001:db8::bad/64", unix.IFA_F_TEMPORARY),
		addr(2, "2001:db8::bad1/64", unix.IFA_F_TENTATIVE),
		addr(2, "2001:db8::bad2/64", unix.IFA_F_DADFAILED),
		addr(2, "2001:db8::bad3/64", unix.IFA_F_DEPRECATED),
		addr(2, "2001:db8::3/64", unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC),
		addr(2, "10.0.2.2/24", unix.IFA_F_SECONDARY),
		addr(3, "fe80::3/64", 0),
		addr(10, "fe80::a/64", unix.IFA_F_TENTATIVE),
		rtnetlink.AddressMessage{Index: 2},
		rtnetlink.AddressMessage{Index: 2, PrefixLength: 200, Attributes: &rtnetlink.AddressAttributes{Address: []byte{10, 0, 0, 1}}},
	)
	for i := range 20 {
		addrs = append(addrs, addr(9, fmt.Sprintf("10.9.0.%d/24", i), 0), addr(9, fmt.Sprintf("2001:db8:9::%x/64", i), 0))
	}
	got := usable(links, addrs)
	var lines []string
	for _, i := range got {
		lines = append(lines, fmt.Sprint(i.name, " ", i.addrs[:min(4, len(i.addrs))], " ", len(i.addrs), " ", len(i.own)))
	}
	want := []string{
		"eth2 [10.0.2.1 10.0.2.2 2001:db8::2 2001:db8::3] 5 10",
		"eth3 [10.0.3.1 fe80::3] 2 2",
		"eth9 [10.0.9.1 10.9.0.0 10.9.0.1 10.9.0.2] 16 41",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q\nwant %q", lines, want)
	}
}

func TestCovers(t *testing.T) {
	have := target{name: "croft", links: map[int]int{2: 1, 3: 2}}
	for _, test := range []struct {
		want target
		ok   bool
	}{
		{target{name: "croft", links: map[int]int{2: 1, 3: 2}}, true},
		{target{name: "croft", links: map[int]int{2: 1}}, true},
		{target{name: "croft", links: nil}, true},
		{target{name: "croft", links: map[int]int{2: 3}}, false},
		{target{name: "croft", links: map[int]int{2: 1, 4: 5}}, false},
		{target{name: "croft-2", links: map[int]int{2: 1}}, false},
		{target{name: "croft-2", links: nil}, false},
		{target{name: "croft", links: map[int]int{2: 1}, share: true}, false},
	} {
		if got := have.covers(test.want); got != test.ok {
			t.Errorf("%v covers %v: %t", have, test.want, got)
		}
	}
}

func TestOnMachine(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1": true, "192.0.2.1": false, "2001:db8::1": false} {
		if got := onMachine(netip.MustParseAddr(addr)); got != want {
			t.Errorf("onMachine(%s) = %t", addr, got)
		}
	}
}

func TestSentence(t *testing.T) {
	for _, test := range []struct {
		d    api.Discovery
		want string
	}{
		{api.Discovery{Name: "croft", State: "no-network"}, "Waiting for a network."},
		{api.Discovery{Name: "croft", State: "probing"}, "Asking whether croft.local is free."},
		{api.Discovery{Name: "croft", State: "announced"}, "Reached at croft.local."},
		{api.Discovery{Name: "croft-2", State: "announced", Conflict: "Taken."}, "Taken."},
	} {
		if got := sentence(test.d); got != test.want {
			t.Errorf("%+v: %q", test.d, got)
		}
	}
}

func TestPeer(t *testing.T) {
	b := &browser{machine: func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.1") }}
	entry := func(name string, port int, addrs ...string) *zeroconf.ServiceEntry {
		e := zeroconf.NewServiceEntry(name, shareService, "local")
		e.Port = port
		for _, s := range addrs {
			if ip := net.ParseIP(s); ip.To4() != nil {
				e.AddrIPv4 = append(e.AddrIPv4, ip)
			} else {
				e.AddrIPv6 = append(e.AddrIPv6, ip)
			}
		}
		return e
	}
	var many, want []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("10.0.1.%d", i+1))
		want = append(want, fmt.Sprintf("10.0.1.%d:7465", i+1))
	}
	for _, test := range []struct {
		entry *zeroconf.ServiceEntry
		zone  string
		name  string
		want  []string
	}{
		{entry("attic", 7465, "fd00::2", "10.0.0.2"), "", "attic", []string{"10.0.0.2:7465", "[fd00::2]:7465"}},
		{entry("attic", 7465, "fe80::2", "169.254.0.2"), "eth0", "attic", []string{"169.254.0.2:7465", "[fe80::2%eth0]:7465"}},
		{entry("attic", 7465, "fe80::2"), "", "attic", nil},
		{entry("attic", 80, "10.0.0.2"), "", "attic", nil},
		{entry("attic", 7465, "127.0.0.1", "::1", "8.8.8.8", "2001:db8::1", "224.0.0.1", "0.0.0.0"), "", "attic", nil},
		{entry("attic", 7465, "10.0.0.2", "10.0.0.1"), "", "attic", nil}, // ourselves
		{entry("attic", 7465), "", "attic", nil},
		{entry("Attic <b>\x00\n", 7465, "10.0.0.2"), "", "attic--b", []string{"10.0.0.2:7465"}},
		{entry("attic", 7465, many...), "", "attic", want[:maxEach]},
	} {
		got, ok := b.peer(test.entry, test.zone)
		if ok != (test.want != nil) || ok && (got.Name != test.name || !slices.Equal(got.Addresses, test.want)) {
			t.Errorf("%v: %v, %v", test.entry, got, ok)
		}
	}
}
