package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// running is a gateway under test, with its three listeners on loopback.
type running struct {
	t                 *testing.T
	env               *daemon.Env
	http, https, quic string // addresses
	ca                *x509.CertPool
	caFile            string
	logs              *syncBuffer
	stop              func() error
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func testLimits() Limits {
	l := DefaultLimits()
	l.Rate, l.Burst = 1_000_000, 1_000_000
	return l
}

// newEnv makes directories and listeners as the supervisor would.
func newEnv(t *testing.T) *daemon.Env {
	t.Helper()
	env := &daemon.Env{
		Name: "gateway", StateDir: t.TempDir(), SocketDir: t.TempDir(),
		Log:       slog.New(slog.DiscardHandler),
		Listeners: map[string]net.Listener{}, Packets: map[string]net.PacketConn{},
	}
	for _, name := range []string{"http", "https"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		env.Listeners[name] = l
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	env.Packets["quic"] = p
	return env
}

// start runs a gateway until the test ends. Services are started by serve.
func start(t *testing.T, env *daemon.Env, limits Limits) *running {
	t.Helper()
	g := &running{t: t, env: env, logs: &syncBuffer{}}
	env.Log = slog.New(slog.NewTextHandler(g.logs, nil))
	ready := make(chan struct{})
	var once sync.Once
	env.Notify = func(fields string) {
		if strings.HasPrefix(fields, "READY=1\n") {
			once.Do(func() { close(ready) })
		}
	}
	g.http = env.Listeners["http"].Addr().String()
	g.https = env.Listeners["https"].Addr().String()
	g.quic = env.Packets["quic"].LocalAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- RunLimited(ctx, env, limits) }()
	g.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := g.stop(); err != nil {
			t.Errorf("the gateway ended with: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("the gateway ended at once: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the gateway is not ready")
	}
	g.fetchCA()
	return g
}

// fetchCA gets the authority's certificate as an owner does, over plain HTTP.
func (g *running) fetchCA() {
	g.t.Helper()
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + g.http + caPath)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	der, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-x509-ca-cert" {
		g.t.Fatalf("authority's certificate: %v %v %v", res.Status, res.Header, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		g.t.Fatal(err)
	}
	g.ca = x509.NewCertPool()
	g.ca.AddCert(cert)
	g.caFile = filepath.Join(g.t.TempDir(), "ca.pem")
	writePEM(g.t, g.caFile, "CERTIFICATE", der)
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// client returns an HTTP client that trusts the authority, and reaches the HTTPS listener whatever the URL's host.
func (g *running) client(protocols ...string) *http.Client {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: g.ca, NextProtos: protocols},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to := g.https
			if strings.HasSuffix(addr, ":80") {
				to = g.http
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", to)
		},
		ForceAttemptHTTP2: len(protocols) > 0 && protocols[0] == "h2",
	}
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// serve answers as the service of that name.
func serve(t *testing.T, env *daemon.Env, name string, h http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(env.SocketDir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
}

func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, "<p>the page")
}

// serveWorld answers as network and discovery.
func serveWorld(t *testing.T, env *daemon.Env, name string, addrs ...string) {
	t.Helper()
	n := api.Network{Interfaces: []api.Interface{{Name: "eth0"}}, Clock: api.Clock{Certainty: api.ClockSure}}
	for _, a := range addrs {
		n.Interfaces[0].Addresses = append(n.Interfaces[0].Addresses, netip.MustParsePrefix(a))
	}
	serve(t, env, "network", func(w http.ResponseWriter, _ *http.Request) { daemon.WriteJSON(w, 200, n) })
	serve(t, env, "discovery", func(w http.ResponseWriter, _ *http.Request) {
		daemon.WriteJSON(w, 200, api.Discovery{Wanted: "croft", Name: name})
	})
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return res, string(b)
}

func TestServesThePageOnEveryProtocol(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Referrer-Policy", "unsafe-url") // the gateway's own wins
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		page(w, r)
	})
	serve(t, env, "core", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "core "+r.URL.Path) })
	serveWorld(t, env, "croft-2", "192.168.7.5/24")
	g := start(t, env, testLimits())

	h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: g.ca, ServerName: "croft.local"}}
	defer h3.Close()
	for _, test := range []struct {
		name, base string
		client     *http.Client
		major      int
		altSvc     bool
	}{
		{"plain", "http://croft.local", g.client(), 1, false},
		{"TLS", "https://croft.local", g.client("http/1.1"), 1, true},
		{"HTTP/2", "https://croft-2.local", g.client("h2"), 2, true},
		{"address", "https://127.0.0.1", g.client("h2"), 2, true},
		{"HTTP/3", "https://" + g.quic, &http.Client{Transport: h3}, 3, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, body := get(t, test.client, test.base+"/")
			if body != "<p>the page" || res.ProtoMajor != test.major {
				t.Errorf("%s: %q", res.Proto, body)
			}
			if got := res.Header.Get("Alt-Svc") != ""; got != test.altSvc {
				t.Errorf("Alt-Svc: %q", res.Header.Get("Alt-Svc"))
			}
			for k, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY",
				"Content-Security-Policy": "default-src 'none'",
			} {
				if got := res.Header.Values(k); len(got) != 1 || got[0] != want {
					t.Errorf("%s: %q, want %q", k, got, want)
				}
			}
			if _, body := get(t, test.client, test.base+"/api/v1/box"); body != "core /api/v1/box" {
				t.Errorf("the API gave %q", body)
			}
		})
	}
}

func TestForwardsWhoAsks(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	got := make(chan http.Header, 1)
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Host", r.Host)
		got <- r.Header
	})
	g := start(t, env, testLimits())
	for _, scheme := range []string{"http", "https"} {
		req, _ := http.NewRequest("GET", scheme+"://croft.local/", nil)
		for k, v := range map[string]string{
			"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "evil.com", "Forwarded": "for=1.2.3.4",
			"X-Croft-User": "root", "X-Real-IP": "1.2.3.4", "X-Forwarded-Port": "1", "Connection": "X-Hop", "X-Hop": "1",
			"Keep-Alive": "3", "X-Kept": "yes",
		} {
			req.Header.Set(k, v)
		}
		res, err := g.client("http/1.1").Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		h := <-got
		for k, want := range map[string]string{
			"Host": "croft.local", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": scheme, "X-Forwarded-Host": "croft.local",
			"Forwarded": "", "X-Croft-User": "", "X-Real-Ip": "", "X-Forwarded-Port": "", "X-Hop": "", "Keep-Alive": "", "X-Kept": "yes",
		} {
			if v := strings.Join(h.Values(k), ","); v != want {
				t.Errorf("%s: %s arrived as %q, want %q", scheme, k, v, want)
			}
		}
	}
}

func TestEventStreamArrivesAtOnceAndEndsWithTheClient(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	gone := make(chan struct{}, 1)
	serve(t, env, "core", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	})
	l := testLimits()
	l.WriteTime = 100 * time.Millisecond // an event stream outlives it
	g := start(t, env, l)
	h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: g.ca, ServerName: "croft.local"}}
	defer h3.Close()
	for name, test := range map[string]struct {
		c    *http.Client
		base string
	}{
		"HTTP/1.1": {g.client("http/1.1"), "https://croft.local"},
		"HTTP/2":   {g.client("h2"), "https://croft.local"},
		"HTTP/3":   {&http.Client{Transport: h3}, "https://" + g.quic},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", test.base+"/api/v1/events", nil)
			res, err := test.c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 9)
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != "data: 1\n\n" {
				t.Fatalf("%q %v", b, err)
			}
			select {
			case <-gone:
				t.Fatal("the stream was cut")
			case <-time.After(400 * time.Millisecond):
			}
			cancel()
			select {
			case <-gone:
			case <-time.After(10 * time.Second):
				t.Fatal("the service was not told that the client left")
			}
		})
	}
}

func TestCurlTrustsTheBoxByNameAndByAddress(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	serve(t, env, "webui", page)
	serveWorld(t, env, "croft", "192.168.7.5/24")
	g := start(t, env, testLimits())
	_, port, _ := net.SplitHostPort(g.https)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--http1.1", "--resolve", "croft.local:" + port + ":127.0.0.1", "https://croft.local:" + port + "/"}, "1.1"},
		{[]string{"--http2", "--resolve", "croft.home.arpa:" + port + ":127.0.0.1", "https://croft.home.arpa:" + port + "/"}, "2"},
		{[]string{"--http2", "https://127.0.0.1:" + port + "/"}, "2"},
		{[]string{"--http1.1", "https://localhost:" + port + "/"}, "1.1"},
	} {
		args := append([]string{"-sS", "--max-time", "20", "--cacert", g.caFile, "-w", "\n%{http_version}"}, test.args...)
		out, err := exec.Command("curl", args...).CombinedOutput()
		if err != nil || string(out) != "<p>the page\n"+test.want {
			t.Errorf("curl %v: %v: %s", test.args, err, out)
		}
	}
	// A name that the authority can't vouch for gets no certificate at all.
	out, err := exec.Command("curl", "-sS", "-k", "--max-time", "20", "--resolve", "example.com:"+port+":127.0.0.1",
		"https://example.com:"+port+"/").CombinedOutput()
	if err == nil {
		t.Errorf("example.com was served: %s", out)
	}
}

func TestAwayServiceGetsAPageThatRecovers(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	g := start(t, env, testLimits())
	c := g.client()
	res, body := get(t, c, "http://croft.local/")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, `http-equiv="refresh"`) ||
		!strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Errorf("%s %v\n%s", res.Status, res.Header, body)
	}
	_, script, _ := strings.Cut(body, "<script>")
	script, _, _ = strings.Cut(script, "</script>")
	sum := sha256.Sum256([]byte(script))
	if want := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(script, "location.reload()") ||
		!strings.Contains(res.Header.Get("Content-Security-Policy"), "script-src "+want) {
		t.Errorf("the script %q may not run: %v", script, res.Header)
	}
	res, body = get(t, c, "http://croft.local/api/v1/box")
	if res.StatusCode != 503 || res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, `"status":503`) {
		t.Errorf("%s %v\n%s", res.Status, res.Header, body)
	}
	serve(t, env, "webui", page)
	if res, body := get(t, c, "http://croft.local/"); res.StatusCode != 200 {
		t.Errorf("after the service came: %s %s", res.Status, body)
	}
}

func TestSilentServiceGetsThePageToo(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	l, err := net.Listen("unix", filepath.Join(env.SocketDir, "webui.sock")) // connects, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	limits := testLimits()
	limits.BackendTime = 200 * time.Millisecond
	g := start(t, env, limits)
	if res, body := get(t, g.client(), "http://croft.local/"); res.StatusCode != 503 {
		t.Errorf("%s %s", res.Status, body)
	}
}

func TestNoPlainListenerIsAConfigurationError(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	delete(env.Listeners, "http")
	if err := Run(context.Background(), env); !errors.Is(err, daemon.ErrConfig) {
		t.Errorf("got %v", err)
	}
}

func TestHealthCheck(t *testing.T) {
	t.Parallel()
	cl := newClients(testLimits(), time.Now)
	f := newFront(t.TempDir(), testLimits(), cl, func() *trust { return &trust{} }, slog.New(slog.DiscardHandler))
	if err := f.check(context.Background()); err != nil {
		t.Errorf("healthy, but: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	f.trust = func() *trust { <-ctx.Done(); select {} }
	if err := f.check(ctx); err == nil {
		t.Error("stuck, and called healthy")
	}
}
