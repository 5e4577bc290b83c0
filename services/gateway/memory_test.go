package gateway

import (
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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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
		Listeners: map[string]net.Listener{}, Notify: func(string) {},
	}
	for _, name := range []string{"http", "https"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		env.Listeners[name] = l
		fmt.Println(l.Addr())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with its parent
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	l := DefaultLimits()
	l.Rate, l.Burst = 1_000_000, 1_000_000
	return RunLimited(ctx, env, l)
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
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+env.SocketDir)
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
		if err := cmd.Wait(); err != nil {
			t.Errorf("the gateway ended with %v: %s", err, stderr.Bytes())
		}
	})
	var plain, secure string
	if _, err := fmt.Fscan(stdout, &plain, &secure); err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}

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
			t.Logf("now %.1f MB, highest so far %.1f MB", memory(t, cmd.Process.Pid, "VmRSS"), memory(t, cmd.Process.Pid, "VmHWM"))
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
	if peak := memory(t, cmd.Process.Pid, "VmHWM"); peak > 120 {
		t.Errorf("the process grew to %.1f MB", peak)
	}
}
