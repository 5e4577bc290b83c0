package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/hardware/clock"
	"github.com/croft-os/croft/hardware/clock/discipline"
	"github.com/croft-os/croft/hardware/clock/ntptest"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// The lab runs the service as its own user, with no more capabilities than it has on a box, in a network namespace
// with a real DHCP server behind a bridge.

const (
	labEnv     = "CROFT_NETWORK_SERVICE_LAB"
	serviceEnv = "CROFT_NETWORK_SERVICE"
	ntpEnv     = "CROFT_NETWORK_SERVICE_NTP"
	labUID     = 201
	labTrial   = 4 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(serviceEnv) != "" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		os.Exit(daemon.Main("network", func(ctx context.Context, env *daemon.Env) error {
			env.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return Run(ctx, env, Config{Clock: stillClock{discipline.NewKernel()}, Trial: labTrial})
		}))
	}
	if addrs := os.Getenv(ntpEnv); addrs != "" {
		for addr := range strings.FieldsSeq(addrs) {
			c, err := net.ListenPacket("udp", addr+":123")
			if err != nil {
				panic(err)
			}
			go ntptest.Serve(c, 0, "")
		}
		select {}
	}
	os.Exit(m.Run())
}

// stillClock is the machine's clock, which nothing sets.
type stillClock struct{ discipline.Kernel }

func (stillClock) Step(time.Duration) error             { return nil }
func (stillClock) Slew(_, _, _ time.Duration) error     { return nil }
func (stillClock) Synced() (bool, time.Duration, error) { return false, 0, nil }

type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  lockedBuffer
	ends chan error
}

func run(t *testing.T, line string) {
	t.Helper()
	args := strings.Fields(line)
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// start starts the service and waits until it says that it is ready.
func start(t *testing.T) *process {
	t.Helper()
	os.Remove("/run/notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/run/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	os.Remove("/run/network.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/run/network.sock", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range []string{"/run/notify", "/run/network.sock"} {
		if err := os.Chmod(p, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	p := &process{t: t, cmd: exec.Command("/run/service"), ends: make(chan error, 1)}
	p.cmd.Env = []string{
		serviceEnv + "=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=network", "NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=60000000",
		"STATE_DIRECTORY=/run/state", "RUNTIME_DIRECTORY=/run/runtime",
	}
	p.cmd.ExtraFiles = []*os.File{f}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: labUID, Gid: labUID},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_TIME},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ends <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("service:\n%s", p.log.String())
		}
	})
	b := make([]byte, 4096)
	for {
		if err := notify.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := notify.Read(b)
		if err != nil {
			t.Fatalf("not ready: %v", err)
		}
		if bytes.Contains(b[:n], []byte("READY=1")) {
			return p
		}
	}
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
	DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", "/run/network.sock")
	},
	DisableKeepAlives: true,
}}

func get(t *testing.T) (n api.Network) {
	t.Helper()
	r, err := client.Get("http://network/v1/network")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func put(t *testing.T, config string) (int, string) { return do(t, "PUT", "config", config) }

func do(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://network/v1/network/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// await waits until eth0 has an address in prefix by method.
func await(t *testing.T, method, prefix string) api.Interface {
	t.Helper()
	var n api.Network
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		n = get(t)
		for _, i := range n.Interfaces {
			for _, a := range i.Addresses {
				if i.Name == "eth0" && i.Method == method && netip.MustParsePrefix(prefix).Contains(a.Addr()) {
					return i
				}
			}
		}
	}
	t.Fatalf("never an address in %s by %q: %+v", prefix, method, n)
	return api.Interface{}
}

func TestLabService(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if testing.Short() {
		t.Skip("slow")
	}
	if os.Getenv(labEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=110s")
		cmd.Env = append(os.Environ(), labEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "PSS") {
				t.Log(strings.TrimSpace(line))
			}
		}
		return
	}
	for _, line := range []string{
		"mount --make-rprivate /", "mount -t tmpfs -o mode=0755 none /run", "mkdir -m 755 /run/netns /run/state /run/runtime",
		fmt.Sprintf("chown %d /run/state /run/runtime", labUID), "cp " + os.Args[0] + " /run/service", "hostname croft",
		"ip netns add lan", "ip -n lan link add br0 type bridge forward_delay 0", "ip -n lan addr add 192.168.77.1/24 dev br0",
		"ip -n lan addr add 192.168.77.2/24 dev br0", "ip -n lan addr add 192.168.77.3/24 dev br0", "ip -n lan link set br0 up", "ip link add eth0 type veth peer name far netns lan", "ip -n lan link set far master br0 up",
	} {
		run(t, line)
	}
	inLAN(t, nil, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--bind-interfaces", "--interface=br0", "--dhcp-leasefile=/run/leases", "--user=root", "--pid-file=", "--no-ping",
		"--dhcp-range=192.168.77.100,192.168.77.150,2m", "--dhcp-option=option:dns-server,192.168.77.1",
		"--host-record=ntp.lab.test,192.168.77.1", "--host-record=ntp.lab.test,192.168.77.2", "--host-record=ntp.lab.test,192.168.77.3")
	inLAN(t, []string{ntpEnv + "=192.168.77.1 192.168.77.2 192.168.77.3"}, "/run/service")

	p := start(t)
	i := await(t, "dhcp", "192.168.77.0/24")
	if !i.Up || i.Problem != "" || i.LeaseEnd.IsZero() || i.Gateway.String() != "192.168.77.1" {
		t.Errorf("got %+v", i)
	}
	n := get(t)
	if len(n.DNS) != 1 || n.Clock.Certainty == "" || n.Clock.Text == "" || n.Clock.Now.IsZero() || n.Clock.Servers == nil {
		t.Errorf("got %+v", n)
	}
	resolv, err := os.ReadFile("/run/runtime/resolv.conf")
	if err != nil || !strings.Contains(string(resolv), "nameserver 192.168.77.1\n") {
		t.Errorf("resolv.conf: %q, %v", resolv, err)
	}
	t.Logf("PSS %d kB", pss(t, p.cmd.Process.Pid))

	if code, body := put(t, `{"interfaces":{"eth0":{"addresses":["192.168.77.9/24"],"gateway":"10.0.0.1"}}}`); code != 422 ||
		!strings.Contains(body, `"detail":"interfaces.eth0.gateway: `) {
		t.Errorf("a bad configuration: %d %s", code, body)
	}
	await(t, "dhcp", "192.168.77.0/24")
	good := `{"interfaces":{"*":{"addresses":["192.168.77.9/24"],"gateway":"192.168.77.1"}},"ntp":["ntp.lab.test"]}`
	if code, body := put(t, good); code != http.StatusNoContent {
		t.Errorf("a good configuration: %d %s", code, body)
	}
	await(t, "static", "192.168.77.9/32")
	// With a fixed address and no name server, the time server's name means nothing.
	good = strings.Replace(good, `"gateway"`, `"dns":["192.168.77.1"],"gateway"`, 1)
	if code, body := put(t, good); code != http.StatusNoContent {
		t.Errorf("with a name server: %d %s", code, body)
	}
	for end := time.Now().Add(20 * time.Second); n.Clock.Certainty != api.ClockSure; time.Sleep(50 * time.Millisecond) {
		if n = get(t); time.Now().After(end) {
			t.Fatalf("never sure of the time: %+v", n.Clock)
		}
	}
	if c := n.Clock; len(c.Servers) != 3 || c.LastSync.IsZero() || c.ErrorMS <= 0 || c.OffsetMS > 1000 || c.OffsetMS < -1000 {
		t.Errorf("clock %+v", c)
	}

	tryAddresses(t, p)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.ends
	p = start(t)
	await(t, "static", "192.168.77.9/32")
	if c := get(t).Config; len(c.NTP) != 1 || len(c.Interfaces) != 1 {
		t.Errorf("configuration after a crash: %+v", c)
	}
	stop(t, p)

	if err := os.WriteFile("/run/state/config.json", []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t)
	await(t, "dhcp", "192.168.77.0/24")
	if _, err := os.Stat("/run/state/config.json.bad"); err != nil {
		t.Error(err)
	}
	stop(t, p)
	if last, err := clock.LoadLast("/run/state/clock.json"); err != nil || time.Since(last).Abs() > time.Minute {
		t.Errorf("clock.json: %v, %v", last, err)
	}
	if entries, err := filepath.Glob("/run/*/.*-*"); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// tryAddresses tries another address than 192.168.77.9, which is kept: the box is reached there until the time is over, it
// is taken back, or the service restarts.
func tryAddresses(t *testing.T, p *process) {
	t.Helper()
	const other = `{"interfaces":{"*":{"addresses":["192.168.77.10/24"],"gateway":"192.168.77.1"}}}`
	try := func() {
		t.Helper()
		if code, body := do(t, "PUT", "trial", other); code != http.StatusNoContent {
			t.Fatalf("try: %d %s", code, body)
		}
		await(t, "static", "192.168.77.10/32")
		run(t, "ip netns exec lan ping -c 1 -W 5 192.168.77.10")
		n := get(t)
		if n.Trial == nil || n.Trial.LeftMS <= 0 || n.Trial.LeftMS > labTrial.Milliseconds() ||
			n.Trial.Config.Interfaces["*"].Addresses[0].String() != "192.168.77.10/24" ||
			n.Config.Interfaces["*"].Addresses[0].String() != "192.168.77.9/24" {
			t.Errorf("while it is tried: %+v, %+v", n.Config, n.Trial)
		}
	}
	back := func() {
		t.Helper()
		await(t, "static", "192.168.77.9/32")
		run(t, "ip netns exec lan ping -c 1 -W 5 192.168.77.9")
		if n := get(t); n.Trial != nil {
			t.Errorf("a trial is over, and still there: %+v", n.Trial)
		}
	}
	for _, bad := range []string{`{"interfaces":{"*":{"addresses":["192.168.77.0/24"]}}}`, `{`} {
		if code, body := do(t, "PUT", "trial", bad); code != 422 {
			t.Errorf("%s: %d %s", bad, code, body)
		}
	}
	if code, _ := do(t, "POST", "keep", ""); code != http.StatusConflict {
		t.Errorf("keep nothing: %d", code)
	}
	try()
	back() // by itself
	try()
	if code, _ := do(t, "DELETE", "trial", ""); code != http.StatusNoContent {
		t.Errorf("back at once: %d", code)
	}
	back()

	try()
	if code, body := do(t, "POST", "keep", ""); code != http.StatusNoContent {
		t.Errorf("keep: %d %s", code, body)
	}
	time.Sleep(labTrial) // nothing may come of it
	if n := get(t); n.Trial != nil || n.Config.Interfaces["*"].Addresses[0].String() != "192.168.77.10/24" {
		t.Errorf("kept: %+v", n)
	}
	await(t, "static", "192.168.77.10/32")
	before, err := os.ReadFile("/run/state/config.json")
	if err != nil || !strings.Contains(string(before), "192.168.77.10") {
		t.Errorf("saved: %s, %v", before, err)
	}
	if code, body := do(t, "PUT", "name", `{"name":"attic"}`); code != http.StatusNoContent {
		t.Errorf("name: %d %s", code, body)
	}
	for _, bad := range []string{`{"name":"a.b"}`, `{"name":""}`, `{"name":"-a"}`, "attic"} {
		if code, _ := do(t, "PUT", "name", bad); code != 422 {
			t.Errorf("%s: %d", bad, code)
		}
	}
	if code, body := put(t, `{}`); code != http.StatusNoContent {
		t.Errorf("back to DHCP: %d %s", code, body)
	}
	await(t, "dhcp", "192.168.77.0/24")
	if leases, err := os.ReadFile("/run/leases"); err != nil || !strings.Contains(string(leases), " attic ") {
		t.Errorf("the DHCP server was not told the name: %s, %v", leases, err)
	}
	if code, body := put(t, `{"interfaces":{"*":{"addresses":["192.168.77.9/24"],"gateway":"192.168.77.1","dns":["192.168.77.1"]}},"ntp":["ntp.lab.test"]}`); code != http.StatusNoContent {
		t.Errorf("the configuration before: %d %s", code, body)
	}
	back()
	try() // and crash
}

// inLAN runs a program in the network behind the box's cable until the test ends.
func inLAN(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", "lan"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// stop ends the service as the supervisor does.
func stop(t *testing.T, p *process) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ends:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("does not end")
	}
}

// pss is the process's proportional set size in kB.
func pss(t *testing.T, pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "Pss:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

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
