package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Operations of ARP.
const (
	arpRequest = 1
	arpReply   = 2
)

// ARP is an ARP packet for IPv4 over Ethernet (RFC 826).
type ARP struct {
	Op        uint16
	SenderMAC [6]byte
	SenderIP  netip.Addr
	TargetMAC [6]byte
	TargetIP  netip.Addr
}

const arpSize = 28

var errARP = errors.New("no ARP packet for IPv4 over Ethernet")

// Bytes returns the packet without its Ethernet header.
func (p ARP) Bytes() []byte {
	b := make([]byte, arpSize)
	copy(b, []byte{0, 1, 8, 0, 6, 4})
	binary.BigEndian.PutUint16(b[6:], p.Op)
	copy(b[8:], p.SenderMAC[:])
	copy(b[14:], p.SenderIP.AsSlice())
	copy(b[18:], p.TargetMAC[:])
	copy(b[24:], p.TargetIP.AsSlice())
	return b
}

// ParseARP reads a packet without its Ethernet header; padding may follow.
func ParseARP(b []byte) (ARP, error) {
	if len(b) < arpSize || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return ARP{}, errARP
	}
	p := ARP{Op: binary.BigEndian.Uint16(b[6:])}
	if p.Op != arpRequest && p.Op != arpReply {
		return ARP{}, errARP
	}
	copy(p.SenderMAC[:], b[8:])
	copy(p.TargetMAC[:], b[18:])
	p.SenderIP = netip.AddrFrom4([4]byte(b[14:18]))
	p.TargetIP = netip.AddrFrom4([4]byte(b[24:28]))
	return p, nil
}

// pace is how carefully an address is probed before it is used.
type pace struct {
	probes int
	every  time.Duration // between probes
	wait   time.Duration // after the last
}

// RFC 5227 section 1.1 probes for 4 to 7 s. For addresses that a server or the owner assigned, a third of a second
// finds any device that is awake; conflicts later are still noticed (section 2.4).
var (
	paceAssigned = pace{probes: 3, every: 100 * time.Millisecond, wait: 130 * time.Millisecond}
	paceRandom   = pace{probes: 3, every: 1500 * time.Millisecond, wait: 2 * time.Second}
)

const (
	announceNum      = 2                // RFC 5227 section 1.1
	announceInterval = 2 * time.Second  // RFC 5227 section 1.1
	defendInterval   = 10 * time.Second // RFC 5227 section 1.1
)

type claimState int

const (
	claimProbing  claimState = iota // not yet used
	claimHeld                       // used and defended
	claimConflict                   // another device has it
)

// claim is one IPv4 address on its way to being used: probed, announced, defended (RFC 5227 section 2).
type claim struct {
	addr      netip.Addr
	mac       [6]byte
	pace      pace
	stubborn  bool // defended for ever instead of given up (section 2.4 c)
	state     claimState
	by        net.HardwareAddr // who has it, after a conflict
	sent      int              // probes sent
	announced int
	defended  time.Time // last time
	clashed   time.Time // when another device last claimed it
	next      time.Time // when tick must be called; zero means never
}

func newClaim(addr netip.Addr, mac net.HardwareAddr, p pace, now time.Time) *claim {
	c := &claim{addr: addr, pace: p, next: now}
	copy(c.mac[:], mac)
	return c
}

// hold skips the probes, for an address that was in use all the time.
func (c *claim) hold(now time.Time) {
	c.state, c.next = claimHeld, now
}

// tick sends what is due.
func (c *claim) tick(now time.Time, send func(ARP)) {
	for !c.next.IsZero() && !now.Before(c.next) {
		switch {
		case c.state == claimConflict:
			c.next = time.Time{}
		case c.state == claimHeld && c.announced < announceNum:
			send(c.announcement())
			c.announced++
			c.next = c.next.Add(announceInterval)
		case c.state == claimHeld:
			c.next = time.Time{}
		case c.sent < c.pace.probes:
			send(ARP{Op: arpRequest, SenderMAC: c.mac, SenderIP: netip.IPv4Unspecified(), TargetIP: c.addr})
			c.sent++
			c.next = c.next.Add(c.pace.every)
			if c.sent == c.pace.probes {
				c.next = c.next.Add(c.pace.wait - c.pace.every)
			}
		default:
			c.state, c.by = claimHeld, nil
		}
	}
}

func (c *claim) announcement() ARP {
	return ARP{Op: arpRequest, SenderMAC: c.mac, SenderIP: c.addr, TargetIP: c.addr}
}

// packet takes note of an ARP packet from the link.
func (c *claim) packet(now time.Time, p ARP, send func(ARP)) {
	if p.SenderMAC == c.mac || c.state == claimConflict {
		return
	}
	theirs := p.SenderIP == c.addr
	if c.state == claimProbing && p.Op == arpRequest && p.SenderIP.IsUnspecified() && p.TargetIP == c.addr {
		theirs = true // another device probes for it too
	}
	if !theirs {
		return
	}
	c.clashed = now
	switch {
	case c.state == claimHeld && (c.defended.IsZero() || now.Sub(c.defended) >= defendInterval || c.stubborn):
		if c.defended.IsZero() || now.Sub(c.defended) >= defendInterval {
			send(c.announcement())
			c.defended = now
		}
		if c.stubborn {
			c.by = bytes.Clone(p.SenderMAC[:])
		}
	default:
		c.state, c.by, c.next = claimConflict, bytes.Clone(p.SenderMAC[:]), time.Time{}
	}
}
