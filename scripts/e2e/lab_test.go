package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/croft-os/croft/scripts/qemu"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// lab is a LAN in a network namespace of its own: a bridge, which the box's tap device is on, and computers beside it.
type lab struct {
	t    *testing.T
	name string // of the namespace
}

const labTap, labBridge = "tap0", "br0"

// newLab makes a LAN on which this test has the address addr, such as "192.168.71.1/24".
func newLab(t *testing.T, addr string) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := &lab{t: t, name: "croft-" + hex.EncodeToString(random(4))}
	l.ip("netns", "add", l.name)
	t.Cleanup(func() { l.ip("netns", "delete", l.name) })
	l.ip("-n", l.name, "link", "set", "lo", "up")
	l.ip("-n", l.name, "link", "add", labBridge, "type", "bridge")
	l.ip("-n", l.name, "tuntap", "add", labTap, "mode", "tap")
	l.ip("-n", l.name, "link", "set", labTap, "master", labBridge, "up")
	l.ip("-n", l.name, "link", "set", labBridge, "up")
	l.ip("-n", l.name, "addr", "add", addr, "dev", labBridge)
	return l
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	if _, err := run(context.Background(), "ip", args...); err != nil {
		l.t.Fatal(err)
	}
}

// computer adds another computer to the LAN and returns its namespace.
func (l *lab) computer(n int, addr string) string {
	l.t.Helper()
	ns := fmt.Sprintf("%s-%d", l.name, n)
	l.ip("netns", "add", ns)
	l.t.Cleanup(func() { l.ip("netns", "delete", ns) })
	port := fmt.Sprintf("port%d", n)
	l.ip("-n", l.name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
	l.ip("-n", l.name, "link", "set", port, "master", labBridge, "up")
	l.ip("-n", ns, "link", "set", "eth0", "up")
	l.ip("-n", ns, "addr", "add", addr, "dev", "eth0")
	return ns
}

// dhcp starts a DHCP server on an interface of a namespace.
func (l *lab) dhcp(ns, dev, router, from, to string) {
	l.t.Helper()
	dir := l.t.TempDir()
	cmd := exec.Command("ip", "netns", "exec", ns, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
		"--interface="+dev, "--bind-interfaces", "--dhcp-authoritative", "--log-facility=-", "--user=root",
		"--pid-file="+filepath.Join(dir, "pid"), "--dhcp-leasefile="+filepath.Join(dir, "leases"),
		fmt.Sprintf("--dhcp-range=%s,%s,120", from, to), "--dhcp-option=option:router,"+router)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	started := make(chan error)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig is the thread's
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // it is killed
		}
		close(done)
	}()
	if err := <-started; err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		l.t.Logf("DHCP server of %s:\n%s", ns, out.String())
	})
}

// in runs f on a thread that is in the namespace. The thread is put back, not ended: QEMU's life hangs on the thread that
// started it.
func (l *lab) in(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	theirs, err := unix.Open(filepath.Join("/run/netns", l.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(theirs)
	if err := unix.Setns(theirs, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", l.name, err)
	}
	defer func() {
		if err := unix.Setns(own, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("leave %s: %v", l.name, err)) // this thread must not go on
		}
	}()
	return f()
}

// dialer dials ports of the box from the LAN.
func (l *lab) dialer(box netip.Addr) func(context.Context, int) (net.Conn, error) {
	return func(ctx context.Context, port int) (c net.Conn, err error) {
		err = l.in(func() error {
			c, err = (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(box, uint16(port)).String())
			return err
		})
		return c, err
	}
}

// lookup asks the LAN for an address of name by Multicast DNS, as a simple resolver does (RFC 6762, 5.1).
func (l *lab) lookup(ctx context.Context, name string, from netip.Addr) (netip.Addr, error) {
	var got netip.Addr
	err := l.in(func() error {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: from.AsSlice()})
		if err != nil {
			return err
		}
		defer c.Close()
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(name), dns.TypeA)
		b, err := q.Pack()
		if err != nil {
			return err
		}
		if _, err := c.WriteToUDP(b, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		buf := make([]byte, 9000)
		n, _, err := c.ReadFromUDP(buf)
		if err != nil {
			return err
		}
		var m dns.Msg
		if err := m.Unpack(buf[:n]); err != nil {
			return err
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*dns.A); ok {
				got, _ = netip.AddrFromSlice(a.A.To4())
				return nil
			}
		}
		return fmt.Errorf("no address in %v", &m)
	})
	return got, err
}

// options are those of a PC on the LAN.
func (l *lab) options() qemu.Options {
	o := options(l.t)
	o.Netns, o.NICs = l.name, []qemu.NIC{{Tap: labTap}}
	return o
}

// found waits until the name croft.local has an address in prefix, and lets the box's client use it.
func (l *lab) found(b *box, from, prefix string) netip.Addr {
	l.t.Helper()
	var a netip.Addr
	b.until("croft.local is found in "+prefix, pageTime, func(ctx context.Context) error {
		var err error
		a, err = l.lookup(ctx, "croft.local", netip.MustParseAddr(from))
		if err == nil && !netip.MustParsePrefix(prefix).Contains(a) {
			err = fmt.Errorf("croft.local is %v", a)
		}
		return err
	})
	b.dial = l.dialer(a)
	return a
}
