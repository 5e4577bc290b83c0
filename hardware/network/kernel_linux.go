package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes in the kernel (rtnetlink(7), rtm_protocol).
const routeProtocol = unix.RTPROT_DHCP

// kernel is the [OS] of the network namespace that it was opened in.
type kernel struct {
	nl     *netlink.Conn
	watch  *netlink.Conn
	ra     *ipv6.PacketConn // nil without IPv6
	events chan Event
	done   chan struct{}
	wg     sync.WaitGroup
}

// NewKernel opens the running kernel. It needs CAP_NET_ADMIN and CAP_NET_RAW.
func NewKernel() (OS, error) {
	k := &kernel{events: make(chan Event, 64), done: make(chan struct{})}
	var err error
	if k.nl, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	k.watch, err = netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
	})
	if err != nil {
		k.nl.Close()
		return nil, fmt.Errorf("subscribe to rtnetlink: %w", err)
	}
	k.wg.Go(k.watchChanges)
	if pc, err := net.ListenPacket("ip6:ipv6-icmp", "::"); err == nil {
		k.ra = ipv6.NewPacketConn(pc)
		var f ipv6.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv6.ICMPTypeRouterAdvertisement)
		err := errors.Join(k.ra.SetICMPFilter(&f), k.ra.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true),
			k.ra.SetMulticastHopLimit(255))
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("listen for router advertisements: %w", err)
		}
		k.wg.Go(k.readRA)
	} else if !errors.Is(err, unix.EAFNOSUPPORT) {
		k.Close()
		return nil, fmt.Errorf("listen for router advertisements: %w", err)
	}
	return k, nil
}

func (k *kernel) Events() <-chan Event { return k.events }

func (k *kernel) Close() error {
	close(k.done)
	err := errors.Join(k.watch.Close(), k.nl.Close())
	if k.ra != nil {
		err = errors.Join(err, k.ra.Close())
	}
	k.wg.Wait()
	return err
}

// offer delivers a packet, unless the reader is behind.
func (k *kernel) offer(e Event) {
	select {
	case k.events <- e:
	default:
	}
}

func (k *kernel) watchChanges() {
	for {
		_, err := k.watch.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // ENOBUFS: events were lost, the listing is made anew anyway
			select {
			case <-k.done:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
		select {
		case k.events <- Event{Kind: EventChange}:
		case <-k.done:
			return
		}
	}
}

func (k *kernel) readRA() {
	b := make([]byte, 1500)
	for {
		n, cm, src, err := k.ra.ReadFrom(b)
		if err != nil {
			select {
			case <-k.done:
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		ip, ok := src.(*net.IPAddr)
		if !ok || cm == nil || cm.HopLimit != 255 {
			continue
		}
		if ip.IP.IsLinkLocalUnicast() {
			k.offer(Event{Kind: EventRA, Index: cm.IfIndex, Data: append([]byte(nil), b[:n]...)})
		}
	}
}

func (k *kernel) Solicit(l Link) error {
	if k.ra == nil {
		return nil
	}
	msg := []byte{133, 0, 0, 0, 0, 0, 0, 0} // the kernel fills in the checksum
	dst := &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: l.Name}
	if _, err := k.ra.WriteTo(msg, &ipv6.ControlMessage{IfIndex: l.Index, HopLimit: 255}, dst); err != nil {
		return fmt.Errorf("solicit routers on %s: %w", l.Name, err)
	}
	return nil
}

// dump requests a listing and calls each with every message's fixed part and attributes.
func (k *kernel) dump(typ, answer netlink.HeaderType, head []byte, each func(head []byte, ad *netlink.AttributeDecoder)) error {
	msgs, err := k.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump}, Data: head,
	})
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if m.Header.Type != answer || len(m.Data) < len(head) {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[len(head):])
		if err != nil {
			return err
		}
		each(m.Data[:len(head)], ad)
		if err := ad.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (k *kernel) do(typ netlink.HeaderType, flags netlink.HeaderFlags, head []byte, ae *netlink.AttributeEncoder) error {
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = k.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(head, attrs...),
	})
	return err
}

func (k *kernel) Links() ([]Link, error) {
	var out []Link
	err := k.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, make([]byte, unix.SizeofIfInfomsg),
		func(h []byte, ad *netlink.AttributeDecoder) {
			flags := binary.NativeEndian.Uint32(h[8:])
			l := Link{
				Index:    int(binary.NativeEndian.Uint32(h[4:])),
				Up:       flags&unix.IFF_UP != 0,
				Carrier:  flags&unix.IFF_UP != 0 && flags&unix.IFF_LOWER_UP != 0,
				Loopback: flags&unix.IFF_LOOPBACK != 0,
			}
			var kind string
			var master uint32
			for ad.Next() {
				switch ad.Type() {
				case unix.IFLA_IFNAME:
					l.Name = ad.String()
				case unix.IFLA_ADDRESS:
					l.MAC = ad.Bytes()
				case unix.IFLA_MASTER:
					master = ad.Uint32()
				case unix.IFLA_LINKINFO:
					ad.Nested(func(nd *netlink.AttributeDecoder) error {
						for nd.Next() {
							if nd.Type() == unix.IFLA_INFO_KIND {
								kind = nd.String()
							}
						}
						return nil
					})
				}
			}
			// Hardware has no kind; veth is how containers and tests get their cable.
			l.Wired = binary.NativeEndian.Uint16(h[2:]) == unix.ARPHRD_ETHER && !l.Loopback && len(l.MAC) == 6 &&
				(kind == "" || kind == "veth") && master == 0
			out = append(out, l)
		})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return out, nil
}

func (k *kernel) SetUp(index int) error {
	h := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(h[12:], unix.IFF_UP)
	if err := k.do(unix.RTM_NEWLINK, 0, h, netlink.NewAttributeEncoder()); err != nil {
		return fmt.Errorf("bring interface %d up: %w", index, err)
	}
	return nil
}

const forever = math.MaxUint32

func (k *kernel) Addrs(now time.Time) ([]Addr, error) {
	var out []Addr
	err := k.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, make([]byte, unix.SizeofIfAddrmsg),
		func(h []byte, ad *netlink.AttributeDecoder) {
			a := Addr{Index: int(binary.NativeEndian.Uint32(h[4:]))}
			a.Duplicate = h[2]&unix.IFA_F_DADFAILED != 0
			var addr, local netip.Addr
			for ad.Next() {
				switch ad.Type() {
				case unix.IFA_ADDRESS:
					addr, _ = netip.AddrFromSlice(ad.Bytes())
				case unix.IFA_LOCAL:
					local, _ = netip.AddrFromSlice(ad.Bytes())
				case unix.IFA_CACHEINFO:
					if b := ad.Bytes(); len(b) >= 8 {
						if valid := binary.NativeEndian.Uint32(b[4:]); valid != forever {
							a.Expires = now.Add(time.Duration(valid) * time.Second)
						}
					}
				}
			}
			if local.IsValid() {
				addr = local
			}
			if a.Prefix = netip.PrefixFrom(addr, int(h[1])); a.Prefix.IsValid() {
				out = append(out, a)
			}
		})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return out, nil
}

func addrHead(a Addr) []byte {
	h := make([]byte, unix.SizeofIfAddrmsg)
	h[0], h[1] = family(a.Prefix.Addr()), byte(a.Prefix.Bits())
	if a.Prefix.Addr().IsLinkLocalUnicast() {
		h[3] = unix.RT_SCOPE_LINK
	}
	binary.NativeEndian.PutUint32(h[4:], uint32(a.Index))
	return h
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (k *kernel) SetAddr(a Addr, now time.Time) error {
	ip := a.Prefix.Addr()
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.IFA_LOCAL, ip.AsSlice())
	ae.Bytes(unix.IFA_ADDRESS, ip.AsSlice())
	if ip.Is4() && a.Prefix.Bits() < 31 {
		ae.Bytes(unix.IFA_BROADCAST, broadcast(a.Prefix).AsSlice())
	}
	life := uint32(forever)
	if !a.Expires.IsZero() {
		life = uint32(max(1, (a.Expires.Sub(now)+time.Second-1)/time.Second))
	}
	cache := make([]byte, 16) // struct ifa_cacheinfo
	binary.NativeEndian.PutUint32(cache, life)
	binary.NativeEndian.PutUint32(cache[4:], life)
	ae.Bytes(unix.IFA_CACHEINFO, cache)
	if a.Metric != 0 {
		ae.Uint32(unix.IFA_RT_PRIORITY, a.Metric)
	}
	if err := k.do(unix.RTM_NEWADDR, netlink.Create|netlink.Replace, addrHead(a), ae); err != nil {
		return fmt.Errorf("add address %s: %w", a.Prefix, err)
	}
	return nil
}

func (k *kernel) DelAddr(a Addr) error {
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.IFA_LOCAL, a.Prefix.Addr().AsSlice())
	ae.Bytes(unix.IFA_ADDRESS, a.Prefix.Addr().AsSlice())
	if err := k.do(unix.RTM_DELADDR, 0, addrHead(a), ae); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %s: %w", a.Prefix, err)
	}
	return nil
}

func (k *kernel) Routes() ([]Route, error) {
	var out []Route
	err := k.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, make([]byte, unix.SizeofRtMsg),
		func(h []byte, ad *netlink.AttributeDecoder) {
			if h[5] != routeProtocol || h[4] != unix.RT_TABLE_MAIN || (h[0] != unix.AF_INET && h[0] != unix.AF_INET6) {
				return
			}
			dst := netip.IPv4Unspecified()
			if h[0] == unix.AF_INET6 {
				dst = netip.IPv6Unspecified()
			}
			r := Route{OnLink: binary.NativeEndian.Uint32(h[8:])&unix.RTNH_F_ONLINK != 0}
			for ad.Next() {
				switch ad.Type() {
				case unix.RTA_DST:
					dst, _ = netip.AddrFromSlice(ad.Bytes())
				case unix.RTA_GATEWAY:
					r.Gateway, _ = netip.AddrFromSlice(ad.Bytes())
				case unix.RTA_PREFSRC:
					r.Src, _ = netip.AddrFromSlice(ad.Bytes())
				case unix.RTA_OIF:
					r.Index = int(ad.Uint32())
				case unix.RTA_PRIORITY:
					r.Metric = ad.Uint32()
				}
			}
			r.Dst = netip.PrefixFrom(dst, int(h[1]))
			out = append(out, r)
		})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return out, nil
}

func routeMessage(r Route) ([]byte, *netlink.AttributeEncoder) {
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[1] = family(r.Dst.Addr()), byte(r.Dst.Bits())
	h[4], h[5], h[6], h[7] = unix.RT_TABLE_MAIN, routeProtocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
	ae.Uint32(unix.RTA_OIF, uint32(r.Index))
	ae.Uint32(unix.RTA_PRIORITY, r.Metric)
	if r.Gateway.IsValid() {
		ae.Bytes(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	} else if r.Dst.Addr().Is4() {
		h[6] = unix.RT_SCOPE_LINK
	}
	if r.Src.IsValid() {
		ae.Bytes(unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.OnLink {
		binary.NativeEndian.PutUint32(h[8:], unix.RTNH_F_ONLINK)
	}
	return h, ae
}

func (k *kernel) SetRoute(r Route) error {
	h, ae := routeMessage(r)
	if err := k.do(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace, h, ae); err != nil {
		return fmt.Errorf("add route to %s: %w", r.Dst, err)
	}
	return nil
}

func (k *kernel) DelRoute(r Route) error {
	h, ae := routeMessage(r)
	if err := k.do(unix.RTM_DELROUTE, 0, h, ae); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route to %s: %w", r.Dst, err)
	}
	return nil
}

// port receives and sends on one interface by packet sockets, which work before there is an address.
type port struct {
	k    *kernel
	link Link
	dhcp *packet.Conn
	arp  *packet.Conn
	udp  net.PacketConn // for unicast to a DHCP server; nil until needed
	src  netip.Addr     // that udp is bound to
	wg   sync.WaitGroup
}

var ethernetBroadcast = &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}

func (k *kernel) Open(l Link) (Port, error) {
	ifi := &net.Interface{Index: l.Index, Name: l.Name}
	dhcpOnly, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1}, // IP protocol
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 6, Size: 2}, // fragment offset
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: 0}, // length of the IP header
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort, SkipTrue: 1},
		bpf.RetConstant{Val: 65535},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, err
	}
	none, err := arpFilter(nil)
	if err != nil {
		return nil, err
	}
	p := &port{k: k, link: l}
	p.dhcp, err = packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: dhcpOnly})
	if err != nil {
		return nil, fmt.Errorf("listen for DHCP on %s: %w", l.Name, err)
	}
	p.arp, err = packet.Listen(ifi, packet.Datagram, unix.ETH_P_ARP, &packet.Config{Filter: none})
	if err != nil {
		p.dhcp.Close()
		return nil, fmt.Errorf("listen for ARP on %s: %w", l.Name, err)
	}
	p.wg.Go(func() {
		p.read(p.dhcp, 2048, func(b []byte) {
			if msg := dhcpPayload(b); msg != nil {
				k.offer(Event{Kind: EventDHCP, Index: l.Index, Data: append([]byte(nil), msg...)})
			}
		})
	})
	p.wg.Go(func() {
		p.read(p.arp, 128, func(b []byte) {
			k.offer(Event{Kind: EventARP, Index: l.Index, Data: append([]byte(nil), b...)})
		})
	})
	return p, nil
}

func (p *port) read(c *packet.Conn, size int, each func([]byte)) {
	b := make([]byte, size)
	for {
		n, _, err := c.ReadFrom(b)
		switch {
		case err == nil:
			each(b[:n])
		case errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EBADF):
			return
		default: // ENETDOWN and the like pass
			select {
			case <-p.k.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func (p *port) Close() error {
	err := errors.Join(p.dhcp.Close(), p.arp.Close())
	if p.udp != nil {
		err = errors.Join(err, p.udp.Close())
	}
	p.wg.Wait()
	return err
}

func (p *port) SendARP(a ARP) error {
	if _, err := p.arp.WriteTo(a.Bytes(), ethernetBroadcast); err != nil {
		return fmt.Errorf("send ARP on %s: %w", p.link.Name, err)
	}
	return nil
}

func (p *port) WatchARP(addrs []netip.Addr) error {
	f, err := arpFilter(addrs)
	if err != nil {
		return err
	}
	return p.arp.SetBPF(f)
}

// arpFilter accepts ARP packets whose sender has one of addrs, and probes for one of addrs.
func arpFilter(addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	val := func(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }
	var prog []bpf.Instruction
	match := func() {
		for _, a := range addrs {
			prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: val(a), SkipTrue: 1}, bpf.RetConstant{Val: 128})
		}
	}
	prog = append(prog, bpf.LoadAbsolute{Off: 14, Size: 4}) // sender's address
	match()
	prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, bpf.RetConstant{Val: 0})
	prog = append(prog, bpf.LoadAbsolute{Off: 24, Size: 4}) // target's address
	match()
	prog = append(prog, bpf.RetConstant{Val: 0})
	return bpf.Assemble(prog)
}

// Ports of DHCP (RFC 2131 section 4.1).
const (
	serverPort = 67
	clientPort = 68
)

func (p *port) SendDHCP(msg []byte, src, dst netip.Addr) error {
	if !dst.IsValid() {
		if !src.IsValid() {
			src = netip.IPv4Unspecified()
		}
		b := dhcpPacket(src, netip.AddrFrom4([4]byte{255, 255, 255, 255}), msg)
		if _, err := p.dhcp.WriteTo(b, ethernetBroadcast); err != nil {
			return fmt.Errorf("broadcast DHCP on %s: %w", p.link.Name, err)
		}
		return nil
	}
	if p.udp != nil && p.src != src {
		p.udp.Close()
		p.udp = nil
	}
	if p.udp == nil {
		// Answers are read from the packet socket; this one takes them too, so that the kernel does not refuse them.
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var serr error
			err := c.Control(func(fd uintptr) {
				serr = errors.Join(unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, p.link.Name),
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048))
			})
			return errors.Join(err, serr)
		}}
		c, err := lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(src, clientPort).String())
		if err != nil {
			return fmt.Errorf("open DHCP socket on %s: %w", p.link.Name, err)
		}
		p.udp, p.src = c, src
	}
	if _, err := p.udp.WriteTo(msg, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, serverPort))); err != nil {
		return fmt.Errorf("send DHCP to %s: %w", dst, err)
	}
	return nil
}

const (
	ipHeader  = 20
	udpHeader = 8
)

// dhcpPacket wraps a DHCP message into UDP and IPv4.
func dhcpPacket(src, dst netip.Addr, msg []byte) []byte {
	b := make([]byte, ipHeader+udpHeader+len(msg))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:ipHeader], 0))
	u := b[ipHeader:]
	binary.BigEndian.PutUint16(u, clientPort)
	binary.BigEndian.PutUint16(u[2:], serverPort)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpHeader:], msg)
	pseudo := uint32(unix.IPPROTO_UDP) + uint32(len(u))
	for i := 12; i < ipHeader; i += 2 {
		pseudo += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum := checksum(u, pseudo)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(u[6:], sum)
	return b
}

// checksum is the Internet checksum (RFC 1071) of b, started with sum.
func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// dhcpPayload returns the DHCP message in an IPv4 packet from a DHCP server, or nil. The UDP checksum is not looked
// at: for a packet from the same machine the network card would still have to fill it in (packet(7), tp_status).
func dhcpPayload(b []byte) []byte {
	if len(b) < ipHeader || b[0]>>4 != 4 || b[9] != unix.IPPROTO_UDP {
		return nil
	}
	hl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if hl < ipHeader || total > len(b) || total < hl+udpHeader {
		return nil
	}
	u := b[hl:total]
	n := int(binary.BigEndian.Uint16(u[4:]))
	if n < udpHeader || n > len(u) || binary.BigEndian.Uint16(u) != serverPort ||
		binary.BigEndian.Uint16(u[2:]) != clientPort {
		return nil
	}
	return u[udpHeader:n]
}
