package guests

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

func anyone(netip.Addr) bool { return true }

// TestConns connects from one address and from another.
func TestConns(t *testing.T) {
	g := New(Limits{Conns: 3, ConnsEach: 2, Requests: 1, Burst: 1}, func(a netip.Addr) bool { return a.String() != "127.0.0.9" })
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := g.Listen(tcp)
	defer l.Close()
	accepted := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("."))
			accepted <- c
		}
	}()
	enter := func(from string) bool {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadFull(c, make([]byte, 1))
		return err == nil
	}
	for i, tc := range []struct {
		from  string
		close bool // one of those before, first
		want  bool
	}{
		{"127.0.0.1", false, true},
		{"127.0.0.1", false, true},
		{"127.0.0.1", false, false}, // a third of one
		{"127.0.0.2", false, true},
		{"127.0.0.3", false, false}, // a fourth of all
		{"127.0.0.3", true, true},
		{"127.0.0.9", true, false}, // not allowed at all
		{"127.0.0.1", false, true},
	} {
		if tc.close {
			c := <-accepted
			c.Close()
			c.Close() // counts once
		}
		if got := enter(tc.from); got != tc.want {
			t.Errorf("%d: %s gets in: %v", i, tc.from, got)
		}
	}
	g.CloseAll()
	if len(g.open) != 0 || len(g.conns) != 0 {
		t.Errorf("still counted: %d, %v", len(g.open), g.conns)
	}
}

func TestMay(t *testing.T) {
	g := New(Limits{Conns: 1, ConnsEach: 1, Requests: 1, Burst: 5}, anyone)
	count := func(from string) (n int) {
		for range 8 {
			if g.May(netip.MustParseAddr(from)) {
				n++
			}
		}
		return n
	}
	for _, tc := range []struct {
		from string
		want int
	}{
		{"192.0.2.1", 5},
		{"192.0.2.2", 5},
		{"2001:db8::1", 5},
		{"2001:db8::2", 0},   // the same network
		{"2001:db8:1::2", 5}, // another
		{"fd00::1", 5},
		{"fd00::2", 5}, // the LAN's
		{"fe80::1%eth0", 5},
		{"fe80::1%eth1", 0},
	} {
		if got := count(tc.from); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.from, got, tc.want)
		}
	}
	for i := range 2 * maxAddresses {
		g.May(netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/256, i%256)))
	}
	if len(g.asks) > maxAddresses {
		t.Errorf("%d addresses are remembered", len(g.asks))
	}
}
