package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// sockets holds one UDP socket for each path, bound to its interface (SO_BINDTODEVICE, socket(7)). So a packet's path
// is certain, and of all sockets that share port 5353 ours takes the unicast ones.
type sockets struct {
	log  *slog.Logger
	in   chan inPacket // full: packets are dropped
	open map[pathKey]*socket
}

type socket struct {
	device string
	udp    net.PacketConn
	v4     *ipv4.PacketConn // one of the two
	v6     *ipv6.PacketConn
}

func newSockets(log *slog.Logger) *sockets {
	return &sockets{log: log, in: make(chan inPacket, 64), open: map[pathKey]*socket{}}
}

// sync opens a socket for each path of these interfaces and closes the others. It returns the paths that are open;
// the error is about those that could not be opened.
func (s *sockets) sync(ifaces []iface) ([]pathKey, error) {
	want := map[pathKey]string{}
	for _, i := range ifaces {
		for _, a := range i.addrs {
			k := pathKey{i.index, ipv6Family}
			if a.Is4() {
				k.fam = ipv4Family
			}
			want[k] = i.name
		}
	}
	for k, c := range s.open {
		if want[k] != c.device {
			c.udp.Close()
			delete(s.open, k)
		}
	}
	var errs []error
	var keys []pathKey
	for k, device := range want {
		if s.open[k] == nil {
			c, err := open(k, device)
			if err != nil {
				errs = append(errs, fmt.Errorf("listen on %s with IPv%d: %w", device, k.fam, err))
				continue
			}
			s.open[k] = c
			go s.read(k, c)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, comparePaths)
	return keys, errors.Join(errs...)
}

func (s *sockets) close() {
	for k, c := range s.open {
		c.udp.Close()
		delete(s.open, k)
	}
}

// send sends a packet. Its loss is nothing that Multicast DNS could not bear.
func (s *sockets) send(p outPacket) {
	c := s.open[p.path]
	if c == nil {
		return
	}
	dst := net.UDPAddrFromAddrPort(p.dst)
	var err error
	if c.v4 != nil {
		_, err = c.v4.WriteTo(p.data, &ipv4.ControlMessage{Src: p.src.AsSlice()}, dst)
	} else {
		_, err = c.v6.WriteTo(p.data, &ipv6.ControlMessage{Src: p.src.AsSlice()}, dst)
	}
	if err != nil {
		s.log.Debug("can't send", "interface", c.device, "to", p.dst, "err", err)
	}
}

func (s *sockets) read(k pathKey, c *socket) {
	buf := make([]byte, maxPacket+1)
	for {
		var n int
		var dst net.IP
		var from net.Addr
		var err error
		if c.v4 != nil {
			var cm *ipv4.ControlMessage
			if n, cm, from, err = c.v4.ReadFrom(buf); cm != nil {
				dst = cm.Dst
			}
		} else {
			var cm *ipv6.ControlMessage
			if n, cm, from, err = c.v6.ReadFrom(buf); cm != nil {
				dst = cm.Dst
			}
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		udp, ok := from.(*net.UDPAddr)
		to, known := netip.AddrFromSlice(dst)
		if err != nil || !ok || !known || n > maxPacket {
			continue
		}
		select {
		case s.in <- inPacket{path: k, src: udp.AddrPort(), dst: to.Unmap(), data: slices.Clone(buf[:n])}:
		default:
		}
	}
}

// open makes the socket of one path: port 5353 shared with other programs, member of the group, packets sent with a
// hop limit of 255 (section 11) and seen by this machine too.
func open(k pathKey, device string) (*socket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var serr error
		err := raw.Control(func(fd uintptr) {
			serr = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device),
			)
		})
		return errors.Join(err, serr)
	}}
	network := "udp" + strconv.Itoa(int(k.fam))
	udp, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(mdnsPort))
	if err != nil {
		return nil, err
	}
	c := &socket{device: device, udp: udp}
	ifi := &net.Interface{Index: k.index, Name: device}
	group := &net.UDPAddr{IP: k.group().Addr().AsSlice()}
	if k.fam == ipv4Family {
		c.v4 = ipv4.NewPacketConn(udp)
		err = errors.Join(
			c.v4.SetControlMessage(ipv4.FlagDst, true),
			c.v4.SetMulticastTTL(255), c.v4.SetTTL(255), c.v4.SetMulticastLoopback(true),
			c.v4.SetMulticastInterface(ifi), c.v4.JoinGroup(ifi, group),
		)
	} else {
		c.v6 = ipv6.NewPacketConn(udp)
		err = errors.Join(
			c.v6.SetControlMessage(ipv6.FlagDst, true),
			c.v6.SetMulticastHopLimit(255), c.v6.SetHopLimit(255), c.v6.SetMulticastLoopback(true),
			c.v6.SetMulticastInterface(ifi), c.v6.JoinGroup(ifi, group),
		)
	}
	if err != nil {
		udp.Close()
		return nil, err
	}
	return c, nil
}
