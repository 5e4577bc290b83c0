package network

import (
	"encoding/binary"
	"net/netip"
	"time"
)

const maxRDNSS = 8 // of one advertisement; twice as many are kept

// rdnss is a DNS server that routers announced.
type rdnss struct {
	addr    netip.Addr
	expires time.Time
}

// ParseRDNSS returns the DNS servers in an ICMPv6 router advertisement (RFC 4861 section 4.2) and how long each is
// valid (RFC 8106 section 5.1). Servers of which a packet says 0 are gone. A malformed packet gives nothing.
func ParseRDNSS(b []byte) map[netip.Addr]time.Duration {
	const header, typeRA, optRDNSS = 16, 134, 25
	if len(b) < header || b[0] != typeRA {
		return nil
	}
	found := map[netip.Addr]time.Duration{}
	for b = b[header:]; len(b) > 0; {
		if len(b) < 8 || b[1] == 0 || len(b) < int(b[1])*8 {
			return nil
		}
		opt := b[:int(b[1])*8]
		b = b[len(opt):]
		if opt[0] != optRDNSS {
			continue
		}
		life := time.Duration(binary.BigEndian.Uint32(opt[4:])) * time.Second
		for s := opt[8:]; len(s) >= 16 && len(found) < maxRDNSS; s = s[16:] {
			if a := netip.AddrFrom16([16]byte(s)); unicast(a) {
				found[a] = life
			}
		}
	}
	return found
}

// updateRDNSS merges what a router announces into list, in which the oldest come first. zone is the interface, for
// link-local servers.
func updateRDNSS(list []rdnss, now time.Time, zone string, found map[netip.Addr]time.Duration) []rdnss {
	var out []rdnss
	for _, s := range list {
		if life, ok := found[s.addr.WithZone("")]; ok {
			delete(found, s.addr.WithZone(""))
			s.expires = now.Add(life)
		}
		out = append(out, s)
	}
	for _, a := range sortedAddrs(found) {
		s := rdnss{addr: a, expires: now.Add(found[a])}
		if a.IsLinkLocalUnicast() {
			s.addr = a.WithZone(zone)
		}
		out = append(out, s)
	}
	out = expireRDNSS(out, now)
	if len(out) > 2*maxRDNSS {
		out = out[:2*maxRDNSS]
	}
	return out
}

func expireRDNSS(list []rdnss, now time.Time) []rdnss {
	var out []rdnss
	for _, s := range list {
		if now.Before(s.expires) {
			out = append(out, s)
		}
	}
	return out
}
