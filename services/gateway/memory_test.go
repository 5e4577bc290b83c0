package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/croft-os/croft/services/daemon"
)

// childEnv makes the test binary a gateway in a process of its own, with the backend's sockets in that directory.
const childEnv = "CROFT_GATEWAY_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func child(dir string) error {
	env := &daemon.Env{
		StateDir: dir + "/state", SocketDir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Listeners: map[string]net.Listener{},
	}
	for i, name := range []string{"http", "https"} {
		l, err := net.FileListener(os.NewFile(uintptr(3+i), name))
		if err != nil {
			return err
		}
		env.Listeners[name] = l
	}
	p, err := net.FilePacketConn(os.NewFile(5, "quic"))
	if err != nil {
		return err
	}
	env.Packets = map[string]net.PacketConn{"quic": p}
	env.Notify = func(fields string) { fmt.Println(strings.ReplaceAll(fields, "\n", " ")) }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with its parent
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	l := DefaultLimits()
	l.Rate, l.Burst = 1_000_000, 1_000_000
	return RunLimited(ctx, env, l)
}

// startChild starts this test's program as a gateway in a process of its own, which gets env's sockets, and returns its id when it is ready.
func startChild(t *testing.T, env *daemon.Env, program string, attr *syscall.SysProcAttr) (pid int) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childEnv+"="+env.SocketDir)
	cmd.SysProcAttr = attr
	type filer interface{ File() (*os.File, error) }
	for _, s := range []any{env.Listeners["http"], env.Listeners["https"], env.Packets["quic"]} {
		f, err := s.(filer).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		err := cmd.Wait()
		if err != nil || t.Failed() {
			t.Errorf("the gateway ended with %v: %s", err, stderr.Bytes())
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || !strings.HasPrefix(line, "READY=1 ") {
		t.Fatalf("%q %v: %s", line, err, stderr.Bytes())
	}
	return cmd.Process.Pid
}

// TestEmptyNetwork runs the gateway as the supervisor does: no network of its own, sockets of any address passed.
func TestEmptyNetwork(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	env := newEnv(t)
	serve(t, env, "webui", page)
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	env.Listeners["https"], env.Packets["quic"] = l, p
	startChild(t, env, os.Args[0], &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	g := &running{t: t, env: env, http: env.Listeners["http"].Addr().String()}
	g.fetchCA()
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: g.ca}}
		defer h3.Close()
		h2 := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.ca}}
		defer h2.CloseIdleConnections()
		for port, tr := range map[int]http.RoundTripper{
			l.Addr().(*net.TCPAddr).Port: h2, p.LocalAddr().(*net.UDPAddr).Port: h3,
		} {
			c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
			if res, body := get(t, c, fmt.Sprintf("https://%s:%d/", host, port)); body != "<p>the page" {
				t.Errorf("%s %s: %q", host, res.Proto, body)
			}
		}
	}
}

// memory returns a field of /proc/PID/status in MB.
func memory(t *testing.T, pid int, field string) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return float64(kb) / 1000
		}
	}
	t.Fatalf("no %s", field)
	return 0
}

// TestMemoryUnderAttack lets four clients take all that the limits allow, in turn by every means that costs the
// gateway memory, and looks at the highest resident size of its process. It must also answer a fifth client.
func TestMemoryUnderAttack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	env := newEnv(t)
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/big" {
			block := make([]byte, 64<<10)
			for range 1000 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}
	})
	// Not this program itself: the race detector multiplies memory.
	program := filepath.Join(t.TempDir(), "gateway")
	if out, err := exec.Command("go", "test", "-c", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the gateway: %v: %s", err, out)
	}
	pid := startChild(t, env, program, nil)
	plain, secure := env.Listeners["http"].Addr().String(), env.Listeners["https"].Addr().String()

	limits := DefaultLimits()
	flood := func(n int, addr string, attack func(net.Conn)) (done func()) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var conns []net.Conn
		for i := range n {
			wg.Go(func() {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, byte(1+i%4))}, Timeout: 10 * time.Second}
				c, err := d.Dial("tcp", addr)
				if err != nil {
					return
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
				c.SetDeadline(time.Now().Add(8 * time.Second))
				attack(c)
			})
		}
		wg.Wait()
		return func() {
			for _, c := range conns {
				c.Close()
			}
		}
	}
	header := "X-A: " + strings.Repeat("b", 1000) + "\r\n"
	overTLS := func(c net.Conn, proto string) *tls.Conn {
		s := tls.Client(c, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true, NextProtos: []string{proto}})
		if s.Handshake() != nil {
			return nil
		}
		return s
	}
	for _, a := range []struct {
		name, addr string
		attack     func(net.Conn)
	}{
		{"plain, headers without end", plain, func(c net.Conn) {
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n"+strings.Repeat(header, limits.Header/len(header)))
		}},
		{"TLS, headers without end", secure, func(c net.Conn) {
			if s := overTLS(c, "http/1.1"); s != nil {
				io.WriteString(s, "GET / HTTP/1.1\r\nHost: localhost\r\n"+strings.Repeat(header, limits.Header/len(header)))
			}
		}},
		{"TLS, answers not read", secure, func(c net.Conn) {
			if s := overTLS(c, "http/1.1"); s != nil {
				io.WriteString(s, "GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
			}
		}},
		{"plain, bodies without end", plain, func(c net.Conn) {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 900_000))
		}},
		{"HTTP/2, many streams with big headers and no window", secure, func(c net.Conn) {
			s := overTLS(c, "h2")
			if s == nil {
				return
			}
			io.WriteString(s, http2.ClientPreface)
			fr := http2.NewFramer(s, s)
			fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for id := range uint32(32) {
				block.Reset()
				for k, v := range map[string]string{":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": "/big"} {
					enc.WriteField(hpack.HeaderField{Name: k, Value: v})
				}
				for i := range 25 {
					enc.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: strings.Repeat("~", 1000), Sensitive: true})
				}
				first, rest := block.Bytes()[:16000], block.Bytes()[16000:]
				if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*id + 1, BlockFragment: first, EndStream: true}) != nil ||
					fr.WriteContinuation(2*id+1, len(rest) < 16000, rest[:min(len(rest), 16000)]) != nil {
					return
				}
				if len(rest) > 16000 && fr.WriteContinuation(2*id+1, true, rest[16000:]) != nil {
					return
				}
			}
			io.CopyN(io.Discard, s, 1000)
		}},
		{"HTTP/2, bodies without end", secure, func(c net.Conn) {
			s := overTLS(c, "h2")
			if s == nil {
				return
			}
			io.WriteString(s, http2.ClientPreface)
			fr := http2.NewFramer(s, s)
			fr.WriteSettings()
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for id := range uint32(32) {
				block.Reset()
				for k, v := range map[string]string{":method": "POST", ":scheme": "https", ":authority": "localhost", ":path": "/"} {
					enc.WriteField(hpack.HeaderField{Name: k, Value: v})
				}
				if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*id + 1, BlockFragment: block.Bytes(), EndHeaders: true}) != nil ||
					fr.WriteData(2*id+1, false, make([]byte, 4000)) != nil {
					return
				}
			}
			io.CopyN(io.Discard, s, 1000)
		}},
	} {
		t.Run(a.name, func(t *testing.T) {
			done := flood(limits.Conns, a.addr, a.attack)
			t.Logf("now %.1f MB, highest so far %.1f MB", memory(t, pid, "VmRSS"), memory(t, pid, "VmHWM"))
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 4, 1)}}
			c := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
			eventually(t, "another client is served", func() bool {
				res, err := c.Get("http://" + plain + caPath)
				if err != nil {
					return false
				}
				defer res.Body.Close()
				return res.StatusCode == 200
			})
			done()
		})
	}
	if peak := memory(t, pid, "VmHWM"); peak > 120 {
		t.Errorf("the process grew to %.1f MB", peak)
	}
}
