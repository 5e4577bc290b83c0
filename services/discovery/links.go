package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	settle = 100 * time.Millisecond // changes within this time are taken as one, such as an address being replaced
	resync = time.Minute            // between looks without a notification, should one have been lost

	maxFailures = 5 // looks in a row that fail
)

// watchLinks sends the interfaces that can be used: now, and whenever something may have changed (rtnetlink(7)) or
// again asks for it, until ctx ends.
func watchLinks(ctx context.Context, log *slog.Logger, out chan<- []iface, again <-chan struct{}) error {
	events, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
	})
	if err != nil {
		return fmt.Errorf("listen for network changes: %w", err)
	}
	defer events.Close()
	conn, err := rtnetlink.Dial(nil)
	if err != nil {
		return fmt.Errorf("ask for network interfaces: %w", err)
	}
	defer conn.Close()

	changed := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- receive(events, changed) }()
	failures := 0
	for {
		delay := resync
		ifaces, err := listLinks(conn)
		switch {
		case err == nil:
			failures = 0
			select {
			case out <- ifaces:
			case <-ctx.Done():
				return nil
			}
		case failures == maxFailures:
			return err
		default:
			failures++
			delay = time.Second
			log.Warn("can't see the network interfaces; trying again", "err", err)
		}
		select {
		case <-changed:
			delay = settle
		case <-again:
			delay = 0
		case <-time.After(delay):
			delay = 0
		case err := <-ended:
			return err
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil
		}
		select { // what came meanwhile is seen by the look that follows
		case <-changed:
		default:
		}
	}
}

// receive tells of every notification, until the connection is closed.
func receive(events *netlink.Conn, changed chan<- struct{}) error {
	for {
		// ENOBUFS means that notifications were lost, which is a reason to look, too.
		if _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("listen for network changes: %w", err)
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

func listLinks(conn *rtnetlink.Conn) ([]iface, error) {
	links, err := conn.Link.List()
	if err != nil {
		return nil, fmt.Errorf("ask for network interfaces: %w", err)
	}
	addrs, err := conn.Address.List()
	if err != nil {
		return nil, fmt.Errorf("ask for addresses: %w", err)
	}
	return usable(links, addrs), nil
}

// usable picks the interfaces that Multicast DNS is spoken on: up, with a carrier, multicast, neither loopback nor
// point-to-point (a tunnel has no neighbours); and their addresses.
func usable(links []rtnetlink.LinkMessage, addrs []rtnetlink.AddressMessage) []iface {
	var ifaces []iface
	for _, l := range links {
		const must = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_MULTICAST
		const not = unix.IFF_LOOPBACK | unix.IFF_POINTOPOINT
		if l.Attributes == nil || l.Flags&must != must || l.Flags&not != 0 {
			continue
		}
		i := iface{index: int(l.Index), name: l.Attributes.Name}
		var v4, v6, v6local []netip.Addr
		for _, m := range addrs {
			prefix, ok := prefixOf(m)
			if !ok || m.Index != l.Index {
				continue
			}
			i.own = append(i.own, prefix)
			flags := uint32(m.Flags)
			if m.Attributes.Flags != 0 {
				flags = m.Attributes.Flags
			}
			tentative := flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC) == unix.IFA_F_TENTATIVE
			const not6 = unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
			if tentative || flags&not6 != 0 && !prefix.Addr().Is4() {
				continue
			}
			switch a := prefix.Addr(); {
			case a.Is4():
				v4 = append(v4, a)
			case a.IsLinkLocalUnicast():
				v6local = append(v6local, a)
			case a.IsGlobalUnicast():
				v6 = append(v6, a)
			}
		}
		if len(v6) == 0 {
			v6 = v6local // better than none; whoever gets it by Multicast DNS knows which link it is on
		}
		for _, set := range [][]netip.Addr{v4, v6} {
			slices.SortFunc(set, netip.Addr.Compare)
			i.addrs = append(i.addrs, set[:min(len(set), maxAddrs)]...)
		}
		if len(i.addrs) > 0 {
			ifaces = append(ifaces, i)
		}
	}
	return ifaces
}

// prefixOf is the address of a message with its network. On a point-to-point address IFA_LOCAL is ours, IFA_ADDRESS the
// peer's.
func prefixOf(m rtnetlink.AddressMessage) (netip.Prefix, bool) {
	if m.Attributes == nil {
		return netip.Prefix{}, false
	}
	ip := m.Attributes.Local
	if ip == nil {
		ip = m.Attributes.Address
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(a.Unmap(), int(m.PrefixLength))
	return p, p.IsValid() && p.Addr().IsValid()
}
