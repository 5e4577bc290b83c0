package network

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The lab judges the manager by real DHCP and router advertisement daemons: this process's namespace is the box, the
// namespace "lan" holds the bridge that everything is plugged into. Each test runs in a process of its own, with
// which all namespaces vanish.

const labEnv = "CROFT_NETWORK_LAB"

// lab runs f in a process with network, mount and host name namespaces of its own.
func lab(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if testing.Short() {
		t.Skip("slow")
	}
	if os.Getenv(labEnv) == t.Name() {
		f(t)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=110s")
	cmd.Env = append(os.Environ(), labEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// world is the box's surroundings.
type world struct {
	t   *testing.T
	dir string
	m   *Manager
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.run("mount --make-rprivate /")
	w.run("mount -t tmpfs none /run")
	w.run("mkdir /run/netns")
	w.run("hostname croft-lab")
	w.run("ip netns add lan")
	w.run("ip -n lan link add br0 type bridge forward_delay 0 mcast_snooping 0")
	w.run("ip -n lan link set lo up")
	w.run("ip -n lan link set br0 up")
	return w
}

// run runs a command line of words without spaces.
func (w *world) run(line string) string {
	w.t.Helper()
	args := strings.Fields(line)
	out, err := exec.CommandContext(w.t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// plug connects a new interface of the box to the LAN.
func (w *world) plug(name string) {
	w.run("ip link add " + name + " type veth peer name far-" + name + " netns lan")
	w.run("ip -n lan link set far-" + name + " master br0 up")
}

// cable pulls the interface's cable or puts it back.
func (w *world) cable(name, state string) { w.run("ip -n lan link set far-" + name + " " + state) }

// host connects another device to the LAN, in a namespace of its own.
func (w *world) host(name, addr string) {
	w.run("ip netns add " + name)
	w.run("ip -n " + name + " link add eth0 type veth peer name to-" + name + " netns lan")
	w.run("ip -n lan link set to-" + name + " master br0 up")
	w.run("ip -n " + name + " addr add " + addr + " dev eth0")
	w.run("ip -n " + name + " link set eth0 up")
}

// daemon starts a program in a namespace and returns a function that ends it.
func (w *world) daemon(ns string, args ...string) (stop func()) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
	w.t.Cleanup(func() {
		stop()
		if w.t.Failed() {
			w.t.Logf("%v:\n%s", args, out.String())
		}
	})
	return stop
}

// dnsmasq starts a DHCP server in a namespace.
func (w *world) dnsmasq(ns, dev string, args ...string) (stop func()) {
	lease := filepath.Join(w.dir, ns+".leases")
	return w.daemon(ns, append([]string{
		"dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--interface=" + dev,
		"--dhcp-leasefile=" + lease, "--log-dhcp", "--user=root", "--pid-file=", "--no-ping",
	}, args...)...)
}

// start runs the manager.
func (w *world) start(opt Options) (stop func()) {
	k, err := NewKernel()
	if err != nil {
		w.t.Fatal(err)
	}
	var out lockedBuffer
	opt.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	opt.Hostname = func() string { h, _ := os.Hostname(); return h }
	opt.Resolv = filepath.Join(w.dir, "resolv.conf")
	opt.Leases = filepath.Join(w.dir, "leases.json")
	w.m = New(k, opt)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.m.Run(ctx) }()
	select {
	case <-w.m.Ready():
	case err := <-done:
		w.t.Fatal(err)
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	w.t.Cleanup(func() {
		stop()
		if w.t.Failed() {
			w.t.Logf("manager:\n%s", out.String())
		}
	})
	return stop
}

// await waits until the interface's state satisfies ok.
func (w *world) await(what, name string, limit time.Duration, ok func(InterfaceStatus) bool) InterfaceStatus {
	w.t.Helper()
	var last Status
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		last = w.m.Status()
		for _, i := range last.Interfaces {
			if i.Name == name && ok(i) {
				return i
			}
		}
	}
	w.t.Fatalf("never: %s; at the end: %+v\n%s", what, last, w.run("ip addr"))
	return InterfaceStatus{}
}

func has(i InterfaceStatus, in string) bool {
	p := netip.MustParsePrefix(in)
	return slices.ContainsFunc(i.Addresses, func(a netip.Prefix) bool { return p.Contains(a.Addr()) })
}

func leased(in string) func(InterfaceStatus) bool {
	return func(i InterfaceStatus) bool { return i.Method == MethodDHCP && has(i, in) }
}

// eventually waits until ok.
func (w *world) eventually(what string, limit time.Duration, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("never: %s\n%s%s", what, w.run("ip addr"), w.run("ip route"))
}

func (w *world) resolv() string {
	b, err := os.ReadFile(filepath.Join(w.dir, "resolv.conf"))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

func (w *world) kernelHas(cmd, want string) func() bool {
	return func() bool { return strings.Contains(w.run(cmd), want) }
}

func (w *world) kernelLacks(cmd, want string) func() bool {
	return func() bool { return !strings.Contains(w.run(cmd), want) }
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*lockedBuffer)(nil)

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const home = "192.168.77.0/24"

// router makes the bridge a router with a DHCP server.
func (w *world) router(args ...string) (stop func()) {
	if len(args) == 0 {
		args = []string{"--dhcp-range=192.168.77.100,192.168.77.150,2m"}
	}
	w.run("ip -n lan addr replace 192.168.77.1/24 dev br0")
	return w.dnsmasq("lan", "br0", append([]string{
		"--dhcp-option=option:dns-server,192.168.77.1,9.9.9.9",
		"--dhcp-option=option:ntp-server,192.168.77.1", "--domain=lab.test",
	}, args...)...)
}

func TestLabLease(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		w.router("--dhcp-range=192.168.77.100,192.168.77.150,2m", "--dhcp-option=option:classless-static-route,0.0.0.0/0,192.168.77.1,10.9.0.0/16,192.168.77.2")
		began := time.Now()
		stop := w.start(Options{})
		i := w.await("a lease", "eth0", 20*time.Second, leased(home))
		t.Logf("lease after %v", time.Since(began))
		if i.Gateway.String() != "192.168.77.1" || i.Server.String() != "192.168.77.1" || i.Problem != "" {
			t.Errorf("got %+v", i)
		}
		if d := time.Until(i.LeaseEnd); d < 100*time.Second || d > 121*time.Second {
			t.Errorf("the lease ends in %v", d)
		}
		addr := i.Addresses[0]
		for _, want := range []string{
			"default via 192.168.77.1 dev eth0 proto dhcp src " + addr.Addr().String() + " metric",
			"10.9.0.0/16 via 192.168.77.2 dev eth0 proto dhcp",
		} {
			if out := w.run("ip route"); !strings.Contains(out, want) {
				t.Errorf("no route %q in\n%s", want, out)
			}
		}
		if want := "nameserver 192.168.77.1\nnameserver 9.9.9.9\nsearch lab.test\n"; !strings.HasSuffix(w.resolv(), want) {
			t.Errorf("resolv.conf is %q", w.resolv())
		}
		if ntp := w.m.Status().NTP; len(ntp) != 1 || ntp[0].String() != "192.168.77.1" {
			t.Errorf("time servers %v", ntp)
		}
		if b, _ := os.ReadFile(filepath.Join(w.dir, "lan.leases")); !strings.Contains(string(b), " croft-lab 01:") {
			t.Errorf("the server knows neither name nor client id: %q", b)
		}
		w.run("ping -c1 -W2 192.168.77.1")

		// A restarted process goes on with the same address, which never leaves the interface.
		stop()
		w.eventually("the address stays", 15*time.Second, w.kernelHas("ip -4 addr show eth0", addr.String()))
		w.start(Options{})
		i = w.await("the address after a restart", "eth0", 15*time.Second, leased(home))
		if !slices.Contains(i.Addresses, addr) {
			t.Errorf("%v became %v", addr, i.Addresses)
		}
	})
}

func TestLabRenewAndExpire(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		stop := w.router()
		w.start(Options{leaseScale: 0.1}) // 2 minutes become 12 s
		first := w.await("a lease", "eth0", 20*time.Second, leased(home))
		second := w.await("a renewal", "eth0", 20*time.Second, func(i InterfaceStatus) bool {
			return i.LeaseEnd.Sub(first.LeaseEnd) > 3*time.Second
		})
		if !slices.Equal(first.Addresses, second.Addresses) {
			t.Errorf("%v became %v", first.Addresses, second.Addresses)
		}
		stop()
		w.await("expiry", "eth0", 20*time.Second, func(i InterfaceStatus) bool { return !has(i, home) && i.Method != MethodDHCP })
		w.eventually("no route", 15*time.Second, w.kernelLacks("ip route", "192.168.77"))
		if strings.Contains(w.resolv(), "nameserver") {
			t.Errorf("resolv.conf still is %q", w.resolv())
		}
		w.await("a link-local address", "eth0", 20*time.Second, func(i InterfaceStatus) bool { return i.Method == MethodLinkLocal })
	})
}

func TestLabLinkLocal(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		w.start(Options{})
		i := w.await("a link-local address", "eth0", 20*time.Second, func(i InterfaceStatus) bool {
			return i.Method == MethodLinkLocal && has(i, "169.254.0.0/16")
		})
		if !strings.Contains(i.Problem, "gave this box no address") {
			t.Errorf("problem: %q", i.Problem)
		}
		w.host("phone", "169.254.255.1/16")
		k := slices.IndexFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() })
		w.run("ip netns exec phone ping -c1 -W2 " + i.Addresses[k].Addr().String())

		w.router()
		i = w.await("a lease in its place", "eth0", 70*time.Second, func(i InterfaceStatus) bool {
			return leased(home)(i) && !has(i, "169.254.0.0/16")
		})
		if i.Problem != "" {
			t.Errorf("problem: %q", i.Problem)
		}
	})
}

func TestLabLinkLocalConflict(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.run("ip link add eth0 address 02:00:00:00:00:01 type veth peer name far-eth0 netns lan")
		w.run("ip -n lan link set far-eth0 master br0 up")
		seq := newLinkLocalAddrs([]byte{2, 0, 0, 0, 0, 1})
		taken, other := seq.next(), seq.next()
		w.host("thief", taken.String()+"/16")
		w.start(Options{})
		w.await("the second choice", "eth0", 25*time.Second, func(i InterfaceStatus) bool {
			return has(i, other.String()+"/32") && !has(i, taken.String()+"/32")
		})
		// Another device that takes the address later: defended once, then given up (RFC 5227 section 2.4 b).
		w.run("ip -n thief addr add " + other.String() + "/16 dev eth0")
		stop := w.daemon("thief", "arping", "-q", "-c8", "-U", "-I", "eth0", other.String())
		defer stop()
		w.await("a third choice", "eth0", 20*time.Second, func(i InterfaceStatus) bool {
			return has(i, "169.254.0.0/16") && !has(i, other.String()+"/32")
		})
	})
}

func TestLabTwoServers(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		w.host("rival", "192.168.88.1/24")
		stops := map[string]func(){
			"192.168.77.1": w.router(),
			"192.168.88.1": w.dnsmasq("rival", "eth0", "--dhcp-range=192.168.88.100,192.168.88.150,2m"),
		}
		w.start(Options{leaseScale: 0.1})
		first := w.await("a lease", "eth0", 20*time.Second, func(i InterfaceStatus) bool { return i.Method == MethodDHCP })
		w.await("a renewal by the same server", "eth0", 20*time.Second, func(i InterfaceStatus) bool {
			return i.LeaseEnd.Sub(first.LeaseEnd) > 3*time.Second && i.Server == first.Server &&
				slices.Equal(i.Addresses, first.Addresses)
		})
		stops[first.Server.String()]()
		w.await("a lease of the other", "eth0", 40*time.Second, func(i InterfaceStatus) bool {
			return i.Method == MethodDHCP && i.Server != first.Server
		})
	})
}

func TestLabConflict(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		w.host("squatter", "192.168.77.100/24")
		w.router("--dhcp-range=192.168.77.100,192.168.77.150,2m", "--dhcp-sequential-ip")
		w.start(Options{})
		i := w.await("the conflict", "eth0", 20*time.Second, func(i InterfaceStatus) bool {
			return strings.Contains(i.Problem, "192.168.77.100")
		})
		if has(i, home) {
			t.Errorf("took the address all the same: %v", i.Addresses)
		}
		i = w.await("the next address", "eth0", 30*time.Second, leased(home))
		if !has(i, "192.168.77.101/32") || i.Problem != "" {
			t.Errorf("got %+v", i)
		}
	})
}

func TestLabCable(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		w.router()
		w.start(Options{})
		first := w.await("a lease", "eth0", 20*time.Second, leased(home))

		w.cable("eth0", "down")
		w.await("no carrier", "eth0", 15*time.Second, func(i InterfaceStatus) bool {
			return !i.Carrier && strings.Contains(i.Problem, "cable")
		})
		w.eventually("no default route", 15*time.Second, w.kernelLacks("ip route", "default"))
		time.Sleep(2 * time.Second) // so that the lease's end tells the old from the new
		w.cable("eth0", "up")
		i := w.await("the same lease at once", "eth0", 15*time.Second, func(i InterfaceStatus) bool {
			return i.Carrier && leased(home)(i) && i.LeaseEnd.After(first.LeaseEnd)
		})
		if !slices.Equal(i.Addresses, first.Addresses) {
			t.Errorf("%v became %v", first.Addresses, i.Addresses)
		}

		w.cable("eth0", "down")
		w.await("no address after a while", "eth0", 20*time.Second, func(i InterfaceStatus) bool { return !has(i, home) })
		if strings.Contains(w.resolv(), "nameserver") {
			t.Errorf("resolv.conf still is %q", w.resolv())
		}
		w.cable("eth0", "up")
		w.await("a lease again", "eth0", 20*time.Second, func(i InterfaceStatus) bool {
			return leased(home)(i) && slices.Contains(i.Addresses, first.Addresses[0])
		})
	})
}

func TestLabHotPlug(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.router()
		w.start(Options{})
		w.run("ip link add br9 type bridge")
		w.run("ip tuntap add tap9 mode tap")
		w.plug("eth0")
		w.await("the first", "eth0", 20*time.Second, leased(home))
		w.plug("usb0")
		w.await("the second", "usb0", 20*time.Second, leased(home))
		if st := w.m.Status(); len(st.Interfaces) != 2 {
			t.Errorf("manages %+v", st.Interfaces)
		}
		first := strings.Split(w.run("ip route show default"), "\n")[0]
		if !strings.Contains(first, "dev eth0") {
			t.Errorf("the default route is %q", first)
		}
		w.run("ip link del eth0")
		w.eventually("it is gone", 15*time.Second, func() bool { return len(w.m.Status().Interfaces) == 1 })
		w.run("ping -c1 -W2 192.168.77.1")
	})
}

func TestLabStatic(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		w.run("ip -n lan addr add 192.168.77.1/24 dev br0")
		static := func(addr string) Config {
			return Config{Interfaces: map[string]Static{"*": {
				Addresses: []netip.Prefix{netip.MustParsePrefix(addr), netip.MustParsePrefix("fd00:77::5/64")},
				Gateway:   netip.MustParseAddr("192.168.77.1"), DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")},
			}}}
		}
		w.start(Options{Config: static("192.168.77.5/24")})
		i := w.await("the address", "eth0", 15*time.Second, func(i InterfaceStatus) bool {
			return i.Method == MethodStatic && has(i, "192.168.77.5/32") && has(i, "fd00:77::5/128")
		})
		if i.Gateway.String() != "192.168.77.1" || i.Problem != "" || !strings.HasSuffix(w.resolv(), "\nnameserver 9.9.9.9\n") {
			t.Errorf("got %+v, %q", i, w.resolv())
		}
		w.eventually("the route", 15*time.Second, w.kernelHas("ip route", "default via 192.168.77.1 dev eth0"))
		w.run("ping -c1 -W2 192.168.77.1")

		w.host("squatter", "192.168.77.6/24")
		if err := w.m.Configure(t.Context(), static("192.168.77.6/24")); err != nil {
			t.Fatal(err)
		}
		i = w.await("the conflict", "eth0", 15*time.Second, func(i InterfaceStatus) bool {
			return strings.Contains(i.Problem, "Another device") && strings.Contains(i.Problem, "192.168.77.6")
		})
		if has(i, "192.168.77.0/24") {
			t.Errorf("has %v", i.Addresses)
		}

		w.router()
		if err := w.m.Configure(t.Context(), Config{}); err != nil {
			t.Fatal(err)
		}
		i = w.await("DHCP instead", "eth0", 20*time.Second, leased(home))
		if has(i, "fd00:77::5/128") {
			t.Errorf("still has %v", i.Addresses)
		}
	})
}

func TestLabIPv6(t *testing.T) {
	lab(t, func(t *testing.T) {
		w := newWorld(t)
		w.plug("eth0")
		w.run("ip -n lan addr add fd77::1/64 dev br0 nodad")
		w.run("ip netns exec lan sysctl -q net.ipv6.conf.all.forwarding=1")
		conf := filepath.Join(w.dir, "radvd.conf")
		write := func(rdnss string) {
			err := os.WriteFile(conf, fmt.Appendf(nil, `interface br0 {
	AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 60;
	prefix fd77::/64 { AdvValidLifetime 600; AdvPreferredLifetime 300; };
	%s
};
`, rdnss), 0o644)
			if err != nil {
				t.Fatal(err)
			}
		}
		radvd := []string{"radvd", "--nodaemon", "--logmethod=stderr", "--config=" + conf, "--pidfile=" + filepath.Join(w.dir, "radvd.pid")}
		write("RDNSS fd77::53 fe80::53 { AdvRDNSSLifetime 8; };")
		stop := w.daemon("lan", radvd...)
		w.start(Options{})
		w.await("an address by SLAAC", "eth0", 15*time.Second, func(i InterfaceStatus) bool { return has(i, "fd77::/64") })
		w.eventually("the name servers", 20*time.Second, func() bool {
			return strings.HasSuffix(w.resolv(), "\nnameserver fd77::53\nnameserver fe80::53%eth0\n")
		})
		// Without announcements they expire; what is announced later counts.
		stop()
		w.eventually("their expiry", 15*time.Second, func() bool { return !strings.Contains(w.resolv(), "nameserver") })
		write("RDNSS fd77::54 { AdvRDNSSLifetime 8; };")
		w.daemon("lan", radvd...)
		w.eventually("the other name server", 20*time.Second, func() bool {
			return strings.HasSuffix(w.resolv(), "\nnameserver fd77::54\n")
		})
	})
}
