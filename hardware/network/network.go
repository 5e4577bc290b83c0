// Package network manages the box's wired interfaces by itself: it brings them up, obtains and renews IPv4
// addresses by DHCP, falls back to link-local ones, applies static settings, follows the DNS servers that IPv6
// routers announce, and owns resolv.conf.
//
// A [Manager] is one event loop over the kernel interface [OS]. All state machines (the DHCP client, the claim to
// an address, the list of announced DNS servers) are plain values that are told the time, so that they are tested
// without a kernel. What they want is compared with what the kernel has, and the difference is applied; the kernel's
// own expiry of addresses covers the time when the process is not running.
//
// Sources: RFC 2131 and 2132 (DHCP), RFC 3442 (classless routes), RFC 3927 (link-local), RFC 5227 (address conflict
// detection, with shorter probes for addresses that a server assigned), RFC 8106 (DNS servers in router
// advertisements), rtnetlink(7), packet(7), resolv.conf(5).
//
// Limits: Ethernet and what looks like it only; bridges, bonds, tunnels and their members are left alone. IPv6
// addresses and routes are the kernel's work (SLAAC, RFC 4862); there is no DHCPv6. Options that a DHCP server puts
// into the sname and file fields (option 52) are not read.
package network

import (
	"net"
	"net/netip"
	"time"
)

// Link is a network interface as the kernel knows it.
type Link struct {
	Index    int
	Name     string
	MAC      net.HardwareAddr
	Up       bool // administratively
	Carrier  bool
	Loopback bool
	Wired    bool // Ethernet, not made of other interfaces and not part of one
}

// Addr is an address on an interface.
type Addr struct {
	Index     int
	Prefix    netip.Prefix // not masked: the address and the length of its network
	Expires   time.Time    // when the kernel removes it; zero means never
	Metric    uint32       // of the route to its network; only written
	Duplicate bool         // IPv6: another device has it (RFC 4862 section 5.4.5); only read
}

// Route is a route in the main table, made by us. A zero Gateway means on-link.
type Route struct {
	Index   int
	Dst     netip.Prefix
	Gateway netip.Addr
	Src     netip.Addr
	Metric  uint32
	OnLink  bool // the gateway is on the link though no address's network holds it
}

// OS is what a [Manager] needs from the kernel. Its methods are called from one goroutine.
type OS interface {
	// Links returns all interfaces.
	Links() ([]Link, error)
	// Addrs returns all addresses.
	Addrs(now time.Time) ([]Addr, error)
	// Routes returns the routes that SetRoute made.
	Routes() ([]Route, error)
	// SetUp brings an interface up.
	SetUp(index int) error
	// SetAddr adds an address, or updates its lifetime.
	SetAddr(a Addr, now time.Time) error
	// DelAddr removes an address.
	DelAddr(a Addr) error
	// SetRoute adds a route.
	SetRoute(r Route) error
	// DelRoute removes a route.
	DelRoute(r Route) error
	// Open starts to receive on an interface.
	Open(l Link) (Port, error)
	// Solicit asks routers on the interface to announce themselves (RFC 4861 section 4.1).
	Solicit(l Link) error
	// Events delivers what happens. Packets are dropped when nobody reads; changes are not.
	Events() <-chan Event
	// Close ends everything.
	Close() error
}

// Port sends DHCP and ARP packets on one interface.
type Port interface {
	// SendDHCP sends a DHCP message: with a zero dst as a broadcast without a source address, otherwise from src to
	// dst.
	SendDHCP(msg []byte, src, dst netip.Addr) error
	// SendARP broadcasts an ARP packet.
	SendARP(p ARP) error
	// WatchARP has the ARP packets delivered that concern these addresses.
	WatchARP(addrs []netip.Addr) error
	// Close stops receiving.
	Close() error
}

// EventKind tells events apart.
type EventKind int

// Kinds of events.
const (
	EventChange EventKind = iota // links or addresses changed
	EventDHCP                    // Data is a DHCP message (the payload of UDP)
	EventARP                     // Data is an ARP packet
	EventRA                      // Data is an ICMPv6 router advertisement that passed the checks of RFC 4861 section 6.1.2
)

// Event is something that happened on the network.
type Event struct {
	Kind  EventKind
	Index int
	Data  []byte
}
