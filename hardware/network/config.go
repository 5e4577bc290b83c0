package network

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
)

// Config is what the owner fixed. The zero value means DHCP and SLAAC everywhere.
type Config struct {
	// Interfaces by name, or "*" for all that have no entry of their own.
	Interfaces map[string]Static
}

// Static fixes an interface's settings. An IPv4 address among Addresses turns DHCP off; IPv6 addresses are added to
// those of SLAAC. DNS, if any, replaces the announced servers.
type Static struct {
	Addresses []netip.Prefix
	Gateway   netip.Addr
	DNS       []netip.Addr
}

func (s Static) has4() bool {
	return slices.ContainsFunc(s.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() })
}

// For returns the settings of the interface of that name.
func (c Config) For(name string) Static {
	if s, ok := c.Interfaces[name]; ok {
		return s
	}
	return c.Interfaces["*"]
}

// ConfigError says which field of a [Config] is wrong, and why, in words for an owner.
type ConfigError struct {
	Path string // such as "interfaces.eth0.gateway"
	Text string
}

func (e *ConfigError) Error() string { return e.Path + ": " + e.Text }

// Limits of a Config.
const (
	maxInterfaces = 32
	maxAddresses  = 8
	maxDNS        = 8
)

var linkNameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)

// Validate returns a [*ConfigError] for the first wrong field.
func (c Config) Validate() error {
	if len(c.Interfaces) > maxInterfaces {
		return &ConfigError{"interfaces", fmt.Sprintf("There can be at most %d entries.", maxInterfaces)}
	}
	seen := map[netip.Addr]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Interfaces)) {
		path := "interfaces." + name
		if name != "*" && !linkNameRE.MatchString(name) {
			return &ConfigError{path, "This is not the name of a network port."}
		}
		if err := c.Interfaces[name].validate(path); err != nil {
			return err
		}
		for i, p := range c.Interfaces[name].Addresses {
			if other, ok := seen[p.Addr()]; ok {
				return &ConfigError{fmt.Sprintf("%s.addresses[%d]", path, i), fmt.Sprintf("%s already has %s.", other, p.Addr())}
			}
			seen[p.Addr()] = name
		}
	}
	return nil
}

func (s Static) validate(path string) error {
	if len(s.Addresses) > maxAddresses {
		return &ConfigError{path + ".addresses", fmt.Sprintf("There can be at most %d addresses.", maxAddresses)}
	}
	for i, p := range s.Addresses {
		at := fmt.Sprintf("%s.addresses[%d]", path, i)
		switch {
		case !p.IsValid():
			return &ConfigError{at, "Write the address and the length of its network, such as 192.168.1.5/24."}
		case !usable(p):
			return &ConfigError{at, fmt.Sprintf("%s can't be the address of one device.", p.Addr())}
		case p.Bits() < 8:
			return &ConfigError{at, fmt.Sprintf("A network of length %d is too large.", p.Bits())}
		}
		for _, q := range s.Addresses[:i] {
			if q.Addr() == p.Addr() {
				return &ConfigError{at, fmt.Sprintf("%s is there twice.", p.Addr())}
			}
		}
	}
	if g := s.Gateway; g.IsValid() {
		at := path + ".gateway"
		in := func(p netip.Prefix) bool { return p.Masked().Contains(g) }
		same := func(p netip.Prefix) bool { return p.Addr() == g }
		switch {
		case !unicast(g), g.Zone() != "":
			return &ConfigError{at, fmt.Sprintf("%s can't be a router's address.", g)}
		case slices.ContainsFunc(s.Addresses, same):
			return &ConfigError{at, "The router's address must differ from the box's own."}
		case !slices.ContainsFunc(s.Addresses, in) && !(g.Is6() && g.IsLinkLocalUnicast()):
			return &ConfigError{at, fmt.Sprintf("%s is outside the networks of the addresses given.", g)}
		}
	}
	if len(s.DNS) > maxDNS {
		return &ConfigError{path + ".dns", fmt.Sprintf("There can be at most %d name servers.", maxDNS)}
	}
	for i, a := range s.DNS {
		if !unicast(a) || a.Zone() != "" && (!a.IsLinkLocalUnicast() || !linkNameRE.MatchString(a.Zone())) {
			return &ConfigError{fmt.Sprintf("%s.dns[%d]", path, i), fmt.Sprintf("%s can't be a name server's address.", a)}
		}
	}
	return nil
}

// unicast reports whether a can belong to one other device.
func unicast(a netip.Addr) bool {
	switch {
	case !a.IsValid(), a.Is4In6(), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback():
		return false
	case a.Is4():
		b := a.As4()
		return b[0] != 0 && b[0] < 240 // 0/8 and 240/4 (RFC 6890)
	}
	return true
}

// usable reports whether p can be a device's address and network: unicast, and neither the first nor the last
// address of an IPv4 network that has those (RFC 1122 section 3.2.1.3, RFC 3021).
func usable(p netip.Prefix) bool {
	a := p.Addr()
	if !p.IsValid() || !unicast(a) || p.Bits() == 0 {
		return false
	}
	if !a.Is4() || p.Bits() >= 31 {
		return true
	}
	return a != p.Masked().Addr() && a != broadcast(p)
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
