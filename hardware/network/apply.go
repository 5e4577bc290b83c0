package network

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// wanted returns the addresses and routes that an interface should have.
func (i *iface) wanted() (addrs []Addr, routes []Route) {
	index, metric := i.link.Index, uint32(baseMetric+i.link.Index)
	// route adds a way through the gateway; without carrier no traffic should try it.
	route := func(dst netip.Prefix, gw, src netip.Addr, own netip.Prefix) {
		if i.link.Carrier {
			routes = append(routes, Route{
				Index: index, Dst: dst, Gateway: gw, Src: src, Metric: metric,
				OnLink: gw.IsValid() && gw.Is4() && !own.Masked().Contains(gw),
			})
		}
	}
	if l := i.dhcp.lease; l != nil && i.leased != nil && i.leased.state == claimHeld && i.leased.addr == l.Prefix.Addr() {
		src := l.Prefix.Addr()
		addrs = append(addrs, Addr{Index: index, Prefix: l.Prefix, Expires: l.Expires, Metric: metric})
		for _, r := range l.Routes {
			route(r.Dst, r.Gateway, src, l.Prefix)
		}
		if l.Gateway.IsValid() {
			route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), l.Gateway, src, l.Prefix)
		}
	}
	for _, p := range i.cfg.Addresses {
		if p.Addr().Is4() && !slices.ContainsFunc(i.static, func(c *claim) bool {
			return c.addr == p.Addr() && c.state == claimHeld
		}) {
			continue
		}
		addrs = append(addrs, Addr{Index: index, Prefix: p, Metric: metric})
		if g := i.cfg.Gateway; g.IsValid() && g.Is4() && p.Addr().Is4() && p.Masked().Contains(g) {
			route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), g, p.Addr(), p)
		}
	}
	if g := i.cfg.Gateway; g.IsValid() && g.Is6() {
		route(netip.PrefixFrom(netip.IPv6Unspecified(), 0), g, netip.Addr{}, netip.Prefix{})
	}
	if i.local != nil && i.local.state == claimHeld {
		addrs = append(addrs, Addr{Index: index, Prefix: netip.PrefixFrom(i.local.addr, linkLocalPrefix.Bits()), Metric: metric})
	}
	return addrs, routes
}

// apply makes the kernel's addresses and routes what they should be. All IPv4 addresses of managed interfaces are
// ours; of the IPv6 ones only those that we added.
func (m *Manager) apply(now time.Time) {
	var addrs []Addr
	var routes []Route
	for _, index := range slices.Sorted(maps.Keys(m.ifaces)) {
		a, r := m.ifaces[index].wanted()
		addrs, routes = append(addrs, a...), append(routes, r...)
	}
	changed := false
	m.refused = time.Time{}
	var told []string // what failed the last time
	for _, i := range m.ifaces {
		told = append(told, i.applied)
		if i.port != nil {
			i.applied = ""
		}
	}
	failed := func(index int, err error) {
		m.retry, m.refused = now.Add(retryAfter), now
		text := fmt.Sprintf("Croft can't set up this network port (%v). It will try again.", err)
		if !slices.Contains(told, text) {
			m.log.Error("can't change the network", "err", err)
		}
		if i := m.ifaces[index]; i != nil {
			i.applied = text
		}
	}
	for _, r := range m.routes {
		if !slices.Contains(routes, r) && m.ifaces[r.Index] != nil {
			changed = true
			if err := m.os.DelRoute(r); err != nil {
				failed(r.Index, err)
			}
		}
	}
	has := map[addrKey]bool{}
	for _, a := range m.addrs {
		k := addrKey{a.Index, a.Prefix}
		wanted := slices.ContainsFunc(addrs, func(w Addr) bool { return addrKey{w.Index, w.Prefix} == k })
		_, ours := m.applied[k]
		if m.ifaces[a.Index] == nil || wanted || (!ours && a.Prefix.Addr().Is6()) {
			has[k] = true
			continue
		}
		changed = true
		delete(m.applied, k)
		if err := m.os.DelAddr(a); err != nil {
			failed(a.Index, err)
		}
	}
	for _, a := range addrs {
		k := addrKey{a.Index, a.Prefix}
		if set, ours := m.applied[k]; has[k] && ours && set.Equal(a.Expires) {
			continue
		}
		changed = true
		if err := m.os.SetAddr(a, now); err != nil {
			failed(a.Index, err)
			continue
		}
		m.applied[k] = a.Expires
	}
	for _, r := range routes {
		if slices.Contains(m.routes, r) {
			continue
		}
		changed = true
		if err := m.os.SetRoute(r); err != nil {
			failed(r.Index, err)
		}
	}
	if changed {
		var err error
		if m.addrs, err = m.os.Addrs(now); err == nil {
			m.routes, err = m.os.Routes()
		}
		if err != nil {
			failed(0, err)
		}
	}
}

// publish writes resolv.conf and makes the state visible, if either changed.
func (m *Manager) publish(now time.Time) {
	s := Status{Interfaces: []InterfaceStatus{}, Config: m.status.Config}
	var dns []netip.Addr
	var domain string
	order := slices.Sorted(maps.Keys(m.ifaces))
	anyCarrier := false
	for _, index := range order {
		anyCarrier = anyCarrier || m.ifaces[index].link.Carrier
	}
	for _, index := range order {
		i := m.ifaces[index]
		st := InterfaceStatus{
			Name: i.link.Name, MAC: i.link.MAC.String(), Carrier: i.link.Carrier, Addresses: []netip.Prefix{},
		}
		var duplicate netip.Addr
		for _, a := range m.addrs {
			if a.Index == index && a.Duplicate {
				duplicate = a.Prefix.Addr()
			} else if a.Index == index {
				st.Addresses = append(st.Addresses, a.Prefix)
			}
		}
		lease := i.dhcp.lease
		if i.leased == nil || i.leased.state != claimHeld {
			lease = nil
		}
		switch {
		case slices.ContainsFunc(i.static, func(c *claim) bool { return c.state == claimHeld }):
			st.Method, st.Gateway = MethodStatic, i.cfg.Gateway
		case lease != nil:
			st.Method, st.Gateway, st.Server = MethodDHCP, lease.Gateway, lease.Server
			// By the wall clock, which may have been set since the lease came.
			st.LeaseEnd = now.Round(0).Add(lease.Expires.Sub(now)).Truncate(time.Second)
		case i.local != nil && i.local.state == claimHeld:
			st.Method = MethodLinkLocal
		}
		if i.cfg.Gateway.IsValid() && i.cfg.Gateway.Is6() && !st.Gateway.IsValid() {
			st.Gateway = i.cfg.Gateway
		}
		st.Problem = i.problem(now, duplicate, anyCarrier)
		s.Interfaces = append(s.Interfaces, st)

		dns = append(dns, i.cfg.DNS...)
		if len(i.cfg.DNS) == 0 {
			if lease != nil {
				dns = append(dns, lease.DNS...)
			}
			for _, r := range i.rdnss {
				dns = append(dns, r.addr)
			}
		}
		if lease != nil {
			s.NTP = append(s.NTP, lease.NTP...)
			if domain == "" {
				domain = lease.Domain
			}
		}
	}
	s.DNS = firstServers(dns)
	if m.opt.Resolv != "" {
		if b := resolvConf(s.DNS, domain); !bytes.Equal(b, m.resolv) {
			if err := replaceFile(m.opt.Resolv, b); err != nil {
				m.log.Error("can't write the name servers", "err", err)
				m.retry = now.Add(retryAfter)
			} else {
				m.resolv = b
			}
		}
	}
	if sameStatus(s, m.status) {
		return
	}
	m.mu.Lock()
	m.status = s
	m.mu.Unlock()
	if m.opt.Changed != nil {
		m.opt.Changed(s)
	}
}

// sameStatus compares, apart from a second's rounding of when leases end.
func sameStatus(a, b Status) bool {
	if len(a.Interfaces) != len(b.Interfaces) {
		return false
	}
	ai, bi := slices.Clone(a.Interfaces), slices.Clone(b.Interfaces)
	for k := range ai {
		if ai[k].LeaseEnd.Sub(bi[k].LeaseEnd).Abs() <= time.Second {
			ai[k].LeaseEnd = bi[k].LeaseEnd
		}
	}
	return reflect.DeepEqual(ai, bi) && slices.Equal(a.DNS, b.DNS) && slices.Equal(a.NTP, b.NTP) &&
		reflect.DeepEqual(a.Config, b.Config)
}

// problem says what is wrong with an interface and what to do, or nothing. A port without a cable is a problem only
// if no port has one.
func (i *iface) problem(now time.Time, duplicate netip.Addr, anyCarrier bool) string {
	for _, text := range []string{i.applied, i.upErr} {
		if text != "" {
			return text
		}
	}
	if !i.link.Carrier {
		if anyCarrier {
			return ""
		}
		return "No network cable is connected, or the device at its other end is off. Connect this box to your router with a cable."
	}
	for _, c := range i.static {
		if c.by != nil && now.Sub(c.clashed) < conflictShown {
			return fmt.Sprintf("Another device (%s) uses this box's fixed address %s. Give one of them another address.", c.by, c.addr)
		}
	}
	if duplicate.IsValid() {
		return fmt.Sprintf("Another device uses this box's address %s. Give one of them another address.", duplicate)
	}
	if i.dhcpErr != "" {
		return i.dhcpErr
	}
	if i.dhcp.state == dhcpRebinding {
		return "The router no longer answers, so this box will soon lose its address. Check that the router is on."
	}
	if i.local != nil && i.local.state == claimHeld && !i.cfg.has4() {
		return fmt.Sprintf("The router gave this box no address, so it chose %s by itself. Devices on the same network can "+
			"still reach it, the internet can't. Check that the router is on; Croft keeps asking.", i.local.addr)
	}
	return ""
}
