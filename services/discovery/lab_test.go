package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// The lab joins network namespaces by a bridge and lets Avahi judge. Our side is this test's own binary, started anew
// in a namespace, without privilege.
const labEnv = "CROFT_TEST_DISCOVERY" // "HOSTNAME SOCKET FORMER", the last for formerNameFor

func TestMain(m *testing.M) {
	if spec := os.Getenv(labEnv); spec != "" {
		if err := labChild(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func labChild(spec string) error {
	var hostname, socket, former string
	if _, err := fmt.Sscan(spec, &hostname, &socket, &former); err != nil {
		return err
	}
	var err error
	if formerNameFor, err = time.ParseDuration(former); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	const uid = 202
	err = errors.Join(syscall.Setgroups(nil), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid))
	if err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return Run(ctx, &daemon.Env{
		Name: "discovery", Log: log,
		Listeners: map[string]net.Listener{"discovery": l},
		Notify:    func(fields string) { log.Info("notify", "fields", fields) },
	}, Config{ID: "0123abcd", Version: "1.2.3"})
}

var labs atomic.Int32

type lab struct {
	t      *testing.T
	dir    string
	prefix string
	hosts  int
}

func newLab(t *testing.T) *lab {
	if testing.Short() {
		t.Skip("takes seconds: run without -short")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	t.Parallel()
	dir, err := os.MkdirTemp("", "mdns") // short, for unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &lab{t: t, dir: dir, prefix: fmt.Sprintf("crd%d-%d", os.Getpid(), labs.Add(1))}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// netns is a network namespace.
type netns struct {
	lab   *lab
	name  string
	ports int
}

func (l *lab) netns(name string) *netns {
	l.t.Helper()
	n := &netns{lab: l, name: l.prefix + "-" + name}
	run(l.t, "ip", "netns", "add", n.name)
	l.t.Cleanup(func() { run(l.t, "ip", "netns", "del", n.name) })
	// Addresses at once: nothing here is about duplicate address detection.
	n.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
	n.ip("link", "set", "lo", "up")
	return n
}

// lan is a namespace with a bridge, br0.
func (l *lab) lan(name string) *netns {
	l.t.Helper()
	n := l.netns(name)
	n.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
	n.ip("link", "set", "br0", "up")
	return n
}

// plug adds an interface to n that ends in a port of lan, with these addresses; both ends are down.
func (n *netns) plug(dev string, lan *netns, addrs ...string) (port string) {
	n.lab.t.Helper()
	lan.ports++
	port = fmt.Sprintf("p%d", lan.ports)
	lan.ip("link", "add", port, "type", "veth", "peer", "name", dev, "netns", n.name)
	lan.ip("link", "set", port, "master", "br0", "up")
	for _, a := range addrs {
		n.ip("addr", "add", a, "dev", dev)
	}
	return port
}

// host is a namespace with eth0, up, on lan.
func (l *lab) host(name string, lan *netns, addrs ...string) *netns {
	l.t.Helper()
	n := l.netns(name)
	n.plug("eth0", lan)
	n.up("eth0", addrs...)
	return n
}

func (n *netns) up(dev string, addrs ...string) {
	n.lab.t.Helper()
	n.ip("link", "set", dev, "up")
	for _, a := range addrs {
		n.ip("addr", "add", a, "dev", dev)
	}
}

func (n *netns) ip(args ...string) {
	n.lab.t.Helper()
	run(n.lab.t, "ip", append([]string{"-n", n.name}, args...)...)
}

func (n *netns) command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.name}, args...)...)
}

func (n *netns) run(args ...string) {
	n.lab.t.Helper()
	if out, err := n.command(args...).CombinedOutput(); err != nil {
		n.lab.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// do runs f on a thread inside the namespace; sockets that it opens stay there.
func (n *netns) do(f func() error) {
	n.lab.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		done <- func() error {
			fd, err := os.Open(filepath.Join("/run/netns", n.name))
			if err != nil {
				return err
			}
			defer fd.Close()
			if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		n.lab.t.Fatal(err)
	}
}

// output collects what a process says, to be shown if the test fails.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// process is a started program.
type process struct {
	cmd  *exec.Cmd
	out  *output
	once sync.Once
	err  error // of its end
}

func (n *netns) start(title string, cmd *exec.Cmd) *process {
	t := n.lab.t
	t.Helper()
	p := &process{cmd: cmd, out: &output{}}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s in %s said:\n%s", title, n.name, p.out)
		}
	})
	return p
}

// stop ends the process and waits for it.
func (p *process) stop() {
	p.once.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
		defer kill.Stop()
		p.err = p.cmd.Wait()
	})
}

// croft is our service in a namespace.
type croft struct {
	*process
	t      *testing.T
	client *http.Client
}

func (n *netns) croft(hostname string) *croft {
	n.lab.t.Helper()
	return n.croftFor(hostname, formerNameFor)
}

// croftFor is croft with another time for former names.
func (n *netns) croftFor(hostname string, former time.Duration) *croft {
	t := n.lab.t
	t.Helper()
	n.lab.hosts++
	socket := filepath.Join(n.lab.dir, fmt.Sprintf("s%d", n.lab.hosts))
	cmd := n.command(os.Args[0])
	cmd.Env = append(os.Environ(), labEnv+"="+hostname+" "+socket+" "+former.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	p := n.start("discovery", cmd)
	t.Cleanup(func() {
		if p.stop(); p.err != nil {
			t.Errorf("discovery ended: %v\n%s", p.err, p.out)
		}
	})
	return &croft{process: p, t: t, client: &http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
		},
	}}
}

func (c *croft) status() (api.Discovery, error) {
	var d api.Discovery
	resp, err := c.client.Get("http://discovery/v1/discovery")
	if err != nil {
		return d, err
	}
	defer resp.Body.Close()
	return d, json.NewDecoder(resp.Body).Decode(&d)
}

// put asks for another name.
func (c *croft) put(name string, want int) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), "PUT", "http://discovery/v1/discovery/name", strings.NewReader(`{"name":"`+name+`"}`))
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		c.t.Errorf("name %q: status %d", name, resp.StatusCode)
	}
}

// becomes waits for a state and a name.
func (c *croft) becomes(state, name string) api.Discovery {
	c.t.Helper()
	var d api.Discovery
	eventually(c.t, func() (err error) {
		if d, err = c.status(); err == nil && (d.State != state || d.Name != name) {
			err = fmt.Errorf("is %+v, want %s as %s", d, state, name)
		}
		return err
	})
	return d
}

// eventually waits for f to succeed, for at most 15 seconds.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// avahi is a running avahi-daemon with a bus of its own.
type avahi struct {
	*process
	ns  *netns
	bus string
}

func (n *netns) avahi(hostname string) *avahi {
	t := n.lab.t
	t.Helper()
	n.lab.hosts++
	dir := filepath.Join(n.lab.dir, fmt.Sprintf("a%d", n.lab.hosts))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "bus")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	busConf := write("bus.conf", `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=`+socket+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>`)
	conf := write("avahi.conf", "[server]\nhost-name="+hostname+"\nuse-ipv4=yes\nuse-ipv6=yes\nratelimit-interval-usec=0\n"+
		"[publish]\npublish-workstation=no\n")
	n.start("dbus-daemon", n.command("dbus-daemon", "--nofork", "--nopidfile", "--config-file="+busConf))
	eventually(t, func() error { _, err := os.Stat(socket); return err })
	// It keeps its pid file and socket in /run/avahi-daemon; "ip netns exec" gives it a mount namespace.
	cmd := n.command("sh", "-c", "mount -t tmpfs tmpfs /run && mkdir /run/avahi-daemon && "+
		"exec avahi-daemon --no-rlimits --no-drop-root --no-chroot --debug -f "+conf)
	bus := "DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + socket
	cmd.Env = append(os.Environ(), bus)
	a := &avahi{process: n.start("avahi-daemon", cmd), ns: n, bus: bus}
	eventually(t, func() error {
		if out := a.out.String(); !strings.Contains(out, "Server startup complete") {
			return errors.New("avahi-daemon does not come up")
		}
		return nil
	})
	return a
}

// ask runs one of Avahi's tools.
func (a *avahi) ask(args ...string) (string, error) {
	cmd := a.ns.command(args...)
	cmd.Env = append(os.Environ(), a.bus)
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err == nil && strings.Contains(text, "Failed") {
		err = errors.New("failed")
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text)
	}
	return text, err
}

// resolve runs avahi-resolve once; flag is -4 or -6.
func (a *avahi) resolve(flag, name string) (string, error) {
	out, err := a.ask("avahi-resolve", flag, "-n", name)
	_, addr, _ := strings.Cut(out, "\t")
	return addr, err
}

// resolves demands an answer at the first question.
func (a *avahi) resolves(flag, name, want string) {
	a.ns.lab.t.Helper()
	if got, err := a.resolve(flag, name); err != nil || got != want {
		a.ns.lab.t.Errorf("avahi-resolve %s -n %s = %q, %v; want %s", flag, name, got, err, want)
	}
}

// browse returns the resolved services of a type: fields of avahi-browse -p by name.
func (a *avahi) browse(typ string) []map[string]string {
	a.ns.lab.t.Helper()
	out, err := a.ask("avahi-browse", "-rtp", typ)
	if err != nil {
		a.ns.lab.t.Error(err)
	}
	var found []map[string]string
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), ";", 10)
		if len(f) == 10 && f[0] == "=" {
			found = append(found, map[string]string{
				"interface": f[1], "protocol": f[2], "name": f[3], "host": f[6], "address": f[7], "port": f[8], "text": f[9],
			})
		}
	}
	return found
}

// names returns the names of the services of a type, sorted, each once.
func (a *avahi) names(typ string) []string {
	a.ns.lab.t.Helper()
	var names []string
	for _, s := range a.browse(typ) {
		names = append(names, s["name"])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// listener hears all Multicast DNS on an interface.
type listener struct {
	mu   sync.Mutex
	seen []heard
}

type heard struct {
	src     netip.AddrPort
	message dnsmessage.Message
}

func (n *netns) listen(dev string) *listener {
	t := n.lab.t
	t.Helper()
	l := &listener{}
	for _, fam := range []family{ipv4Family, ipv6Family} {
		var c *socket
		n.do(func() error {
			ifi, err := net.InterfaceByName(dev)
			if err != nil {
				return err
			}
			c, err = open(pathKey{ifi.Index, fam}, dev)
			return err
		})
		t.Cleanup(func() { c.udp.Close() })
		go func() {
			buf := make([]byte, maxPacket)
			for {
				size, from, err := c.udp.ReadFrom(buf)
				if err != nil {
					return
				}
				h := heard{src: from.(*net.UDPAddr).AddrPort()}
				if h.message.Unpack(buf[:size]) == nil {
					l.mu.Lock()
					l.seen = append(l.seen, h)
					l.mu.Unlock()
				}
			}
		}()
	}
	return l
}

// heard reports whether a response held an answer for which f holds.
func (l *listener) heard(f func(dnsmessage.Resource) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.seen {
		if h.message.Response && slices.ContainsFunc(h.message.Answers, f) {
			return true
		}
	}
	return false
}

// ttls are the times to live that were heard for a pointer, in order.
func (l *listener) ttls(name, to string) []uint32 {
	var ttls []uint32
	l.heard(func(r dnsmessage.Resource) bool {
		if p, ok := r.Body.(*dnsmessage.PTRResource); ok && r.Header.Name.String() == name && p.PTR.String() == to {
			ttls = append(ttls, r.Header.TTL)
		}
		return false
	})
	return ttls
}

func goodbyeFor(name string, data dnsmessage.ResourceBody) func(dnsmessage.Resource) bool {
	return func(r dnsmessage.Resource) bool {
		return r.Header.TTL == 0 && strings.EqualFold(r.Header.Name.String(), name) && r.Body.GoString() == data.GoString()
	}
}

func a4(s string) *dnsmessage.AResource {
	return &dnsmessage.AResource{A: netip.MustParseAddr(s).As4()}
}

func a6(s string) *dnsmessage.AAAAResource {
	return &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(s).As16()}
}

// ask sends one question from a socket of the namespace, as a client without a responder does, and returns the first
// answer. The destination is the family's group if it is not given.
func (n *netns) ask(fam family, port int, to string, q dnsmessage.Question) (dnsmessage.Message, error) {
	n.lab.t.Helper()
	var conn net.PacketConn
	dst := net.UDPAddrFromAddrPort(pathKey{fam: fam}.group())
	if to != "" {
		dst = net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), mdnsPort))
	}
	n.do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if port == mdnsPort {
			s, err := open(pathKey{ifi.Index, fam}, "eth0")
			if err == nil {
				conn = s.udp
			}
			return err
		}
		c, err := net.ListenPacket("udp"+strconv.Itoa(int(fam)), ":0")
		if err != nil {
			return err
		}
		conn = c
		if fam == ipv4Family {
			return ipv4.NewPacketConn(c).SetMulticastInterface(ifi)
		}
		dst.Zone = strconv.Itoa(ifi.Index)
		return ipv6.NewPacketConn(c).SetMulticastInterface(ifi)
	})
	defer conn.Close()
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: 0x4242}, Questions: []dnsmessage.Question{q}}
	data, err := query.Pack()
	if err != nil {
		return query, err
	}
	if _, err := conn.WriteTo(data, dst); err != nil {
		return query, err
	}
	conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	buf := make([]byte, maxPacket)
	for {
		size, _, err := conn.ReadFrom(buf)
		if err != nil {
			return query, err
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:size]) == nil && m.Response && m.ID == query.ID {
			return m, nil
		}
	}
}

func ask(name string, typ dnsmessage.Type) dnsmessage.Question {
	return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}
}

func TestLabFound(t *testing.T) {
	l := newLab(t)
	lan := l.lan("lan")
	box := l.host("box", lan, "10.77.0.1/24", "fd77::1/64")
	laptop := l.host("laptop", lan, "10.77.0.2/24", "fd77::2/64")
	c := box.croft("croft")
	c.becomes("announced", "croft")
	time.Sleep(4 * time.Second) // announcements are over: what follows are answers
	a := laptop.avahi("laptop") // with an empty cache

	a.resolves("-6", "croft.local", "fd77::1")
	a.resolves("-4", "croft.local", "10.77.0.1")
	for _, addr := range []string{"10.77.0.1", "fd77::1"} {
		if out, err := a.ask("avahi-resolve", "-a", addr); err != nil || out != addr+"\tcroft.local" {
			t.Errorf("avahi-resolve -a %s = %q, %v", addr, out, err)
		}
	}
	for typ, want := range map[string][]string{
		"_http._tcp":  {"80", `"path=/"`},
		"_https._tcp": {"443", `"path=/"`},
		"_croft._tcp": {"443", `"id=0123abcd" "path=/" "v=1.2.3"`},
	} {
		var seen []string
		for _, s := range a.browse(typ) {
			text := strings.Fields(s["text"])
			slices.Sort(text)
			if s["name"] != "croft" || s["host"] != "croft.local" || s["port"] != want[0] || strings.Join(text, " ") != want[1] {
				t.Errorf("%s: %v", typ, s)
			}
			if !slices.Contains([]string{"10.77.0.1", "fd77::1"}, s["address"]) {
				t.Errorf("%s: address %s", typ, s["address"])
			}
			seen = append(seen, s["protocol"])
		}
		if slices.Sort(seen); !slices.Equal(seen, []string{"IPv4", "IPv6"}) {
			t.Errorf("%s found over %v", typ, seen)
		}
	}

	t.Run("one-shot", func(t *testing.T) {
		for _, from := range []*netns{laptop, box} { // from the same machine, too
			for _, fam := range []family{ipv4Family, ipv6Family} {
				for _, q := range []dnsmessage.Question{ask("croft.local.", dnsmessage.TypeAAAA), ask("CROFT.local.", dnsmessage.TypeA)} {
					m, err := from.ask(fam, 0, "", q)
					if err != nil {
						t.Errorf("IPv%d %s: %v", fam, q.Type, err)
						continue
					}
					if !slices.Equal(m.Questions, []dnsmessage.Question{q}) || !m.Authoritative {
						t.Errorf("IPv%d: %s", fam, m.GoString())
					}
					var got []string
					for _, r := range m.Answers {
						if r.Header.TTL > 10 || r.Header.Class != dnsmessage.ClassINET {
							t.Errorf("IPv%d: %s", fam, r.GoString())
						}
						got = append(got, r.Body.GoString())
					}
					want := a4("10.77.0.1").GoString()
					if q.Type == dnsmessage.TypeAAAA {
						want = a6("fd77::1").GoString()
					}
					if !slices.Equal(got, []string{want}) {
						t.Errorf("IPv%d %s: %s", fam, q.Type, got)
					}
				}
			}
		}
	})
	t.Run("unicast", func(t *testing.T) {
		for _, to := range []string{"10.77.0.1", "fd77::1"} { // while zeroconf's sockets share the port
			fam := ipv4Family
			if strings.Contains(to, ":") {
				fam = ipv6Family
			}
			for _, port := range []int{0, mdnsPort} {
				if m, err := laptop.ask(fam, port, to, ask("croft.local.", dnsmessage.TypeA)); err != nil || len(m.Answers) != 1 {
					t.Errorf("asked %s from port %d: %s, %v", to, port, m.GoString(), err)
				}
			}
		}
		// An asker of another network gets nothing: this port is no amplifier for the internet.
		laptop.ip("addr", "add", "192.0.2.9/32", "dev", "eth0")
		box.ip("route", "add", "192.0.2.9/32", "dev", "eth0")
		var conn net.PacketConn
		laptop.do(func() (err error) { conn, err = net.ListenPacket("udp4", "192.0.2.9:0"); return err })
		defer conn.Close()
		query := dnsmessage.Message{Questions: []dnsmessage.Question{ask("croft.local.", dnsmessage.TypeA)}}
		data, _ := query.Pack()
		conn.WriteTo(data, &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: mdnsPort})
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, _, err := conn.ReadFrom(make([]byte, 1500)); err == nil {
			t.Errorf("a stranger got %d bytes", n)
		}
	})
	t.Run("goodbye", func(t *testing.T) {
		ear := laptop.listen("eth0")
		c.stop()
		eventually(t, func() error {
			if !ear.heard(goodbyeFor("croft.local.", a4("10.77.0.1"))) || !ear.heard(goodbyeFor("croft.local.", a6("fd77::1"))) {
				return errors.New("no goodbye for the addresses")
			}
			return nil
		})
		eventually(t, func() error {
			if names := a.names("_croft._tcp"); len(names) > 0 {
				return fmt.Errorf("after the goodbye avahi-browse shows %v", names)
			}
			return nil
		})
		if addr, err := a.resolve("-4", "croft.local"); err == nil {
			t.Errorf("after the goodbye croft.local is %s", addr)
		}
	})
}

func TestLabNameTaken(t *testing.T) {
	l := newLab(t)
	lan := l.lan("lan")
	box := l.host("box", lan, "10.77.0.1/24", "fd77::1/64")
	laptop := l.host("laptop", lan, "10.77.0.2/24", "fd77::2/64")
	a := laptop.avahi("croft")
	c := box.croft("croft")
	if d := c.becomes("announced", "croft-2"); d.Wanted != "croft" || !strings.Contains(d.Conflict, "croft-2.local") {
		t.Errorf("status %+v", d)
	}
	if out := c.out.String(); !strings.Contains(out, "the name is taken") {
		t.Errorf("log: %s", out)
	}
	a.resolves("-4", "croft-2.local", "10.77.0.1")
	a.resolves("-6", "croft-2.local", "fd77::1")
	a.resolves("-4", "croft.local", "10.77.0.2")
	if got := a.names("_croft._tcp"); !slices.Equal(got, []string{"croft-2"}) {
		t.Errorf("services %v", got)
	}
	// Nothing is remembered.
	a.stop()
	c.stop()
	box.croft("croft").becomes("announced", "croft")
}

// TestLabRename gives the box another name, one that is taken, and the first one again. The services move at once, while
// the old name is still answered for, until somebody else takes it.
func TestLabRename(t *testing.T) {
	l := newLab(t)
	lan := l.lan("lan")
	box := l.host("box", lan, "10.77.0.1/24", "fd77::1/64")
	laptop := l.host("laptop", lan, "10.77.0.2/24", "fd77::2/64")
	a := laptop.avahi("shed")
	c := box.croft("croft")
	c.becomes("announced", "croft")
	a.resolves("-4", "croft.local", "10.77.0.1")
	for _, bad := range []string{"", "a.b", "-a", "ä", strings.Repeat("x", 64), "localhost"} {
		c.put(bad, http.StatusUnprocessableEntity)
	}
	c.put("Croft", http.StatusNoContent) // which it has
	if d := c.becomes("announced", "croft"); d.Conflict != "" || len(d.Former) > 0 {
		t.Errorf("status %+v", d)
	}
	for _, fam := range []family{ipv4Family, ipv6Family} { // a name is kept where it was announced
		eventually(t, func() error { _, err := laptop.ask(fam, 0, "", ask("croft.local.", dnsmessage.TypeA)); return err })
	}
	wire := laptop.listen("eth0")
	c.put("Attic", http.StatusNoContent)
	if m, err := laptop.ask(ipv4Family, 0, "", ask("croft.local.", dnsmessage.TypeA)); err != nil || len(m.Answers) != 1 {
		t.Errorf("asked by the old name at once: %s, %v", m.GoString(), err)
	}
	if d := c.becomes("announced", "attic"); d.Wanted != "attic" || d.Conflict != "" || !slices.Equal(d.Former, []string{"croft"}) {
		t.Errorf("status %+v", d)
	}
	a.resolves("-4", "attic.local", "10.77.0.1")
	a.resolves("-6", "attic.local", "fd77::1")
	eventually(t, func() error {
		if got := a.names("_croft._tcp"); !slices.Equal(got, []string{"attic"}) {
			return fmt.Errorf("services %v", got)
		}
		return nil
	})
	if wire.heard(goodbyeFor("croft.local.", a4("10.77.0.1"))) {
		t.Error("a goodbye to the old name")
	}
	// By somebody whose cache is empty.
	b := l.host("tablet", lan, "10.77.0.3/24", "fd77::3/64").avahi("tablet")
	b.resolves("-4", "croft.local", "10.77.0.1")
	b.resolves("-6", "croft.local", "fd77::1")
	if out, err := b.ask("avahi-resolve", "-a", "10.77.0.1"); err != nil || out != "10.77.0.1\tattic.local" {
		t.Errorf("avahi-resolve -a = %q, %v", out, err)
	}

	// Somebody else takes it, without a rename.
	d := l.host("other", lan, "10.77.0.4/24", "fd77::4/64").avahi("croft")
	eventually(t, func() error {
		if s, err := c.status(); err != nil || len(s.Former) > 0 {
			return fmt.Errorf("status %+v, %v", s, err)
		}
		return nil
	})
	// It has to probe first, and then to flush ours from caches. It does that for IPv6 addresses only: Avahi does not tell
	// IPv4 addresses over IPv6, where we did, so Avahi remembers ours there until they expire.
	for _, x := range []*avahi{a, b} {
		eventually(t, func() error {
			if got, err := x.resolve("-6", "croft.local"); err != nil || got != "fd77::4" {
				return fmt.Errorf("avahi-resolve -6 = %q, %v", got, err)
			}
			return nil
		})
	}
	if out := d.out.String(); strings.Contains(out, "croft-2") {
		t.Error("avahi-daemon did not get the old name")
	}
	quiet := laptop.listen("eth0")
	if m, err := laptop.ask(ipv4Family, 0, "", ask("croft.local.", dnsmessage.TypeA)); err != nil || len(m.Answers) != 1 ||
		m.Answers[0].Body.GoString() != a4("10.77.0.4").GoString() {
		t.Errorf("asked by the old name: %s, %v", m.GoString(), err)
	}
	for _, addr := range []string{"10.77.0.1", "fd77::1"} {
		if m, err := laptop.ask(ipv4Family, 0, addr, ask("croft.local.", dnsmessage.TypeA)); err == nil {
			t.Errorf("%s still answers: %s", addr, m.GoString())
		}
	}

	c.put("shed", http.StatusNoContent)
	if d := c.becomes("announced", "shed-2"); d.Wanted != "shed" || d.Conflict == "" || !slices.Equal(d.Former, []string{"attic"}) {
		t.Errorf("status %+v", d)
	}
	d.stop()
	c.put("croft", http.StatusNoContent)
	if d := c.becomes("announced", "croft"); d.Conflict != "" {
		t.Errorf("status %+v", d)
	}
	a.resolves("-4", "croft.local", "10.77.0.1")
	c.put("attic", http.StatusNoContent) // a former name
	if d := c.becomes("announced", "attic"); d.Conflict != "" || !slices.Equal(d.Former, []string{"shed-2", "croft"}) {
		t.Errorf("status %+v", d)
	}
	for _, name := range []string{"attic.local.", "shed-2.local.", "croft.local."} {
		if quiet.heard(goodbyeFor(name, a4("10.77.0.1"))) {
			t.Error("a goodbye to " + name)
		}
	}
	c.stop()
	for _, name := range []string{"attic.local.", "shed-2.local.", "croft.local."} {
		eventually(t, func() error {
			if !quiet.heard(goodbyeFor(name, a4("10.77.0.1"))) {
				return errors.New("no goodbye to " + name)
			}
			return nil
		})
	}
}

// TestLabFormerNameEnds waits until a former name's time is over.
func TestLabFormerNameEnds(t *testing.T) {
	l := newLab(t)
	lan := l.lan("lan")
	box := l.host("box", lan, "10.77.0.1/24", "fd77::1/64")
	laptop := l.host("laptop", lan, "10.77.0.2/24", "fd77::2/64")
	a := laptop.avahi("laptop")
	c := box.croftFor("croft", 8*time.Second)
	c.becomes("announced", "croft")
	for _, fam := range []family{ipv4Family, ipv6Family} {
		eventually(t, func() error { _, err := laptop.ask(fam, 0, "", ask("croft.local.", dnsmessage.TypeA)); return err })
	}
	c.put("attic", http.StatusNoContent)
	a.resolves("-4", "croft.local", "10.77.0.1")
	a.resolves("-6", "croft.local", "fd77::1")
	eventually(t, func() error { // long before the two minutes are over for which Avahi would remember it
		if out, err := a.resolve("-4", "croft.local"); err == nil {
			return fmt.Errorf("croft.local is still %s", out)
		}
		return nil
	})
	if d := c.becomes("announced", "attic"); len(d.Former) > 0 {
		t.Errorf("status %+v", d)
	}
	a.resolves("-4", "attic.local", "10.77.0.1")
}

func TestLabDefend(t *testing.T) {
	l := newLab(t)
	lan := l.lan("lan")
	box := l.host("box", lan, "10.77.0.1/24", "fd77::1/64")
	laptop := l.host("laptop", lan, "10.77.0.2/24", "fd77::2/64")
	c := box.croft("croft")
	c.becomes("announced", "croft")
	a := laptop.avahi("croft")
	eventually(t, func() error {
		if !strings.Contains(a.out.String(), "Host name is croft-2.local") && !strings.Contains(a.out.String(), "retrying with croft-2") {
			return errors.New("avahi-daemon kept our name")
		}
		return nil
	})
	a.resolves("-4", "croft.local", "10.77.0.1")
	a.resolves("-4", "croft-2.local", "10.77.0.2")
	if d, err := c.status(); err != nil || d.Name != "croft" || d.Conflict != "" {
		t.Errorf("status %+v, %v", d, err)
	}
}

func TestLabSimultaneous(t *testing.T) {
	l := newLab(t)
	lan := l.lan("lan")
	one := l.host("one", lan, "10.77.0.1/24", "fd77::1/64")
	two := l.host("two", lan, "10.77.0.2/24", "fd77::2/64")
	for range 3 {
		a, b := one.croft("croft"), two.croft("croft")
		eventually(t, func() error {
			x, err := a.status()
			if err != nil {
				return err
			}
			y, err := b.status()
			if err != nil {
				return err
			}
			names := []string{x.Name, y.Name}
			slices.Sort(names)
			if x.State != "announced" || y.State != "announced" || !slices.Equal(names, []string{"croft", "croft-2"}) {
				return fmt.Errorf("%+v and %+v", x, y)
			}
			return nil
		})
		a.stop()
		b.stop()
	}
}

func TestLabChanges(t *testing.T) {
	l := newLab(t)
	lan, attic := l.lan("lan"), l.lan("attic")
	box := l.netns("box")
	laptop := l.host("laptop", lan, "10.77.0.2/24", "fd77::2/64")
	tv := l.host("tv", attic, "10.78.0.2/24", "fd78::2/64")
	a, b := laptop.avahi("laptop"), tv.avahi("tv")

	c := box.croft("croft") // not even an interface
	c.becomes("no-network", "croft")
	box.plug("eth0", lan, "10.77.0.1/24")
	time.Sleep(300 * time.Millisecond)
	c.becomes("no-network", "croft")
	box.up("eth0")
	c.becomes("announced", "croft")
	a.resolves("-4", "croft.local", "10.77.0.1")
	// Without a global address the link-local one, which eth0 got by itself, is better than none.
	eventually(t, func() error {
		if got, err := a.resolve("-6", "croft.local"); err != nil || !strings.HasPrefix(got, "fe80::") {
			return fmt.Errorf("avahi-resolve -6 = %q, %v", got, err)
		}
		return nil
	})

	answers := func(want string) error {
		m, err := laptop.ask(ipv4Family, 0, "", ask("croft.local.", dnsmessage.TypeA))
		if err == nil && (len(m.Answers) != 1 || m.Answers[0].Body.GoString() != a4(want).GoString()) {
			err = fmt.Errorf("answer %s, want %s", m.GoString(), want)
		}
		return err
	}
	eventually(t, func() error { return answers("10.77.0.1") })
	ear := laptop.listen("eth0")
	box.up("eth0", "fd77::1/64")
	eventually(t, func() error {
		if got, err := a.resolve("-6", "croft.local"); err != nil || got != "fd77::1" {
			return fmt.Errorf("avahi-resolve -6 = %q, %v", got, err)
		}
		return nil
	})
	// As after a new lease: the old address goes, another one comes.
	box.ip("addr", "del", "10.77.0.1/24", "dev", "eth0")
	box.ip("addr", "add", "10.77.0.101/24", "dev", "eth0")
	eventually(t, func() error {
		if got, err := a.resolve("-4", "croft.local"); err != nil || got != "10.77.0.101" {
			return fmt.Errorf("avahi-resolve -4 = %q, %v", got, err)
		}
		return nil
	})
	eventually(t, func() error { return answers("10.77.0.101") })
	if !ear.heard(goodbyeFor("croft.local.", a4("10.77.0.1"))) {
		t.Error("no goodbye for the old address")
	}
	for _, s := range a.browse("_http._tcp") {
		if !slices.Contains([]string{"10.77.0.101", "fd77::1"}, s["address"]) {
			t.Errorf("after the change: %v", s)
		}
	}

	// Another interface, of another network, which gets its own address only.
	box.plug("eth1", attic)
	box.up("eth1", "10.78.0.1/24", "fd78::1/64")
	eventually(t, func() error {
		if got, err := b.resolve("-4", "croft.local"); err != nil || got != "10.78.0.1" {
			return fmt.Errorf("avahi-resolve -4 = %q, %v", got, err)
		}
		return nil
	})
	b.resolves("-6", "croft.local", "fd78::1")
	eventually(t, func() error {
		if got := b.names("_croft._tcp"); !slices.Equal(got, []string{"croft"}) {
			return fmt.Errorf("services in the other network: %v", got)
		}
		return nil
	})
	// And gone again, pulled like a USB stick; the rest goes on.
	box.ip("link", "del", "eth1")
	a.resolves("-4", "croft.local", "10.77.0.101")
	box.ip("link", "set", "eth0", "down")
	c.becomes("no-network", "croft")
	box.ip("link", "set", "eth0", "up")
	c.becomes("announced", "croft")
	a.resolves("-4", "croft.local", "10.77.0.101")
	if strings.Contains(c.out.String(), "somebody else uses our name") {
		t.Error("took its own new address for somebody else's")
	}
}

// TestLabMerge joins two networks that each have a croft.local.
func TestLabMerge(t *testing.T) {
	l := newLab(t)
	lan, attic := l.lan("lan"), l.lan("attic")
	one := l.host("one", lan, "10.77.0.1/24", "fd77::1/64")
	two := l.host("two", attic, "10.77.0.2/24", "fd77::2/64")
	laptop := l.host("laptop", lan, "10.77.0.3/24", "fd77::3/64")
	a := laptop.avahi("laptop")
	c, d := one.croft("croft"), two.croft("croft")
	c.becomes("announced", "croft")
	d.becomes("announced", "croft")
	if got := a.names("_croft._tcp"); !slices.Equal(got, []string{"croft"}) {
		t.Errorf("services %v", got)
	}
	ear := laptop.listen("eth0")
	attic.ip("link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", lan.name)
	for _, n := range []*netns{lan, attic} {
		n.ip("link", "set", "up0", "master", "br0", "up")
	}
	eventually(t, func() error {
		laptop.ask(ipv4Family, mdnsPort, "", ask("croft.local.", dnsmessage.TypeA)) // any question makes both speak
		x, err := c.status()
		if err != nil {
			return err
		}
		y, err := d.status()
		if err != nil {
			return err
		}
		names := []string{x.Name, y.Name}
		slices.Sort(names)
		if x.State != "announced" || y.State != "announced" || !slices.Equal(names, []string{"croft", "croft-2"}) {
			return fmt.Errorf("%+v and %+v", x, y)
		}
		return nil
	})
	// Who gave the name up said goodbye to its services, so who kept it announces them once more: for those who
	// listen and do not ask again.
	eventually(t, func() error {
		if ttls := ear.ttls("_croft._tcp.local.", "croft._croft._tcp.local."); !slices.Contains(ttls, 0) || ttls[len(ttls)-1] == 0 {
			return fmt.Errorf("times to live heard for the service: %v", ttls)
		}
		return nil
	})
	eventually(t, func() error {
		if got := a.names("_croft._tcp"); !slices.Equal(got, []string{"croft", "croft-2"}) {
			return fmt.Errorf("services %v", got)
		}
		return nil
	})
}

// TestLabBesideAvahi runs both on one machine.
func TestLabBesideAvahi(t *testing.T) {
	l := newLab(t)
	lan := l.lan("lan")
	box := l.host("box", lan, "10.77.0.1/24", "fd77::1/64")
	laptop := l.host("laptop", lan, "10.77.0.2/24", "fd77::2/64")
	box.avahi("workstation")
	c := box.croft("croft")
	c.becomes("announced", "croft")
	a := laptop.avahi("laptop")
	a.resolves("-4", "croft.local", "10.77.0.1")
	a.resolves("-6", "croft.local", "fd77::1")
	a.resolves("-4", "workstation.local", "10.77.0.1")
	if d, err := c.status(); err != nil || d.Name != "croft" {
		t.Errorf("status %+v, %v", d, err)
	}
}
