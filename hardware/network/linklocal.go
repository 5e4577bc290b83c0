package network

import (
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/netip"
)

// linkLocalPrefix is the network of RFC 3927.
var linkLocalPrefix = netip.MustParsePrefix("169.254.0.0/16")

// linkLocalAddrs gives the addresses that an interface tries one after the other: the same sequence after every
// start (RFC 3927 section 2.1), all from 169.254.1.0 to 169.254.254.255.
type linkLocalAddrs struct{ rnd *rand.Rand }

func newLinkLocalAddrs(mac net.HardwareAddr) *linkLocalAddrs {
	h := fnv.New64a()
	h.Write(mac)
	return &linkLocalAddrs{rand.New(rand.NewPCG(h.Sum64(), 3927))}
}

func (l *linkLocalAddrs) next() netip.Addr {
	n := l.rnd.IntN(254 * 256)
	return netip.AddrFrom4([4]byte{169, 254, byte(1 + n/256), byte(n)})
}
