package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

// TestNoDHCP boots a box on a LAN where nobody gives addresses: it takes a link-local one and is found by its name.
func TestNoDHCP(t *testing.T) {
	t.Parallel()
	l := newLab(t, "169.254.7.7/16")
	b := start(t, l.options())
	a := l.found(b, "169.254.7.7", "169.254.0.0/16")
	s := b.up()
	if got, err := address(s, "169.254.0.0/16"); err != nil || got != a {
		t.Errorf("the box has %v, was found at %v: %v", got, a, err)
	}
	for _, i := range s.Network.Interfaces {
		if i.Method != "link-local" || i.Problem == "" {
			t.Errorf("interface %s: %+v", i.Name, i)
		}
	}
	if _, err := b.vm.Console.Wait(t.Context(), 0, regexp.MustCompile(`http://`+regexp.QuoteMeta(a.String())+`/`)); err != nil {
		t.Error(err)
	}

	// A DHCP server comes late.
	l.ip("-n", l.name, "addr", "add", "192.168.71.1/24", "dev", labBridge)
	l.dhcp(l.name, labBridge, "192.168.71.1", "192.168.71.100", "192.168.71.150")
	l.found(b, "192.168.71.1", "192.168.71.0/24")
	b.waitState("the address is from the server", pageTime, func(s api.Box) error {
		for _, i := range s.Network.Interfaces {
			if i.Method == "dhcp" {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.Network.Interfaces)
	})
}

// TestTwoDHCP boots a box on a LAN where two routers give addresses of the same network.
func TestTwoDHCP(t *testing.T) {
	t.Parallel()
	l := newLab(t, "192.168.71.1/24")
	other := l.computer(2, "192.168.71.2/24")
	l.dhcp(l.name, labBridge, "192.168.71.1", "192.168.71.100", "192.168.71.150")
	l.dhcp(other, "eth0", "192.168.71.2", "192.168.71.200", "192.168.71.250")
	b := start(t, l.options())
	a := l.found(b, "192.168.71.1", "192.168.71.0/24")
	s := b.up()
	if len(s.Network.Interfaces) != 1 {
		t.Fatalf("interfaces: %+v", s.Network.Interfaces)
	}
	i := s.Network.Interfaces[0]
	router := netip.MustParseAddr("192.168.71.1")
	if a.As4()[3] >= 200 {
		router = netip.MustParseAddr("192.168.71.2")
	}
	if i.Method != "dhcp" || i.Gateway != router || i.Server != router || i.LeaseEnd.IsZero() {
		t.Errorf("the box took %v and keeps to %+v", a, i)
	}
	v4 := 0
	for _, p := range i.Addresses {
		if p.Addr().Is4() {
			v4++
		}
	}
	if v4 != 1 {
		t.Errorf("addresses: %v", i.Addresses)
	}
}

// TestCable pulls the network cable, at the start and later, and plugs it in.
func TestCable(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.NICs = []qemu.NIC{{Unplug: true}}
	b := start(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), pageTime)
	defer cancel()
	none := regexp.MustCompile(`No network yet`)
	ready := regexp.MustCompile(`^\s*Running: `)
	for _, re := range []*regexp.Regexp{none, ready} {
		if _, err := b.vm.Console.Wait(ctx, 0, re); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.vm.SetCable(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	b.up()
	mark := b.vm.Console.Mark()
	if err := b.vm.SetCable(ctx, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.vm.Console.Wait(ctx, mark, none); err != nil {
		t.Fatal(err)
	}
	if err := b.vm.SetCable(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	b.waitPage()
	b.waitState("everything runs again, and nobody had to restart", time.Minute, healthy)
}

// TestSecondNIC has two cables to two networks, and pulls the first.
func TestSecondNIC(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.NICs = []qemu.NIC{{}, {}}
	b := start(t, o)
	b.up()
	b.waitState("both networks gave addresses", time.Minute, func(s api.Box) error {
		for _, prefix := range []string{"10.0.2.0/24", "10.0.3.0/24"} {
			if _, err := address(s, prefix); err != nil {
				return err
			}
		}
		return nil
	})
	if err := b.vm.SetCable(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	b.dial = b.forwarded(1)
	b.until("the page is served on the second network", time.Minute, func(ctx context.Context) error {
		status, _, err := b.do(ctx, http.MethodGet, boxURL+"/", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	b.waitState("the first interface is down", time.Minute, func(s api.Box) error {
		up := 0
		for _, i := range s.Network.Interfaces {
			if i.Up {
				up++
			}
		}
		if up != 1 {
			return fmt.Errorf("%+v", s.Network.Interfaces)
		}
		return nil
	})
}

// TestClock starts boxes whose clock was never set, and whose clock is far ahead. There is no time server, so they can't
// know better, but what they believe must be possible, and they must say that they are not sure.
func TestClock(t *testing.T) {
	t.Parallel()
	for name, rtc := range map[string]time.Time{
		"1970": time.Unix(0, 0),
		"2040": time.Date(2040, 2, 29, 12, 0, 0, 0, time.UTC),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			o.RTC = rtc
			b := start(t, o)
			b.followClock()
			s := b.up()
			c := s.Network.Clock
			if c.Certainty == api.ClockSure || c.Text == "" {
				t.Errorf("the box is sure of %v: %q", c.Now, c.Text)
			}
			if c.Now.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
				t.Errorf("the box believes that it is %v", c.Now)
			}
			t.Logf("the clock said %v; the box says %v: %s", rtc, c.Now, c.Text)
		})
	}
}

// followClock gives the client the box's time, by which its certificates are valid.
func (b *box) followClock() {
	b.t.Helper()
	b.until("the box tells its time", pageTime, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://croft.local/croft-ca.crt", nil)
		if err != nil {
			return err
		}
		res, err := b.client().Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		date, err := http.ParseTime(res.Header.Get("Date"))
		if err != nil {
			return err
		}
		began := time.Now()
		b.clock = func() time.Time { return date.Add(time.Since(began)) }
		return nil
	})
}
