package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// dialFrom connects from an address of the loopback network, so that tests have more than one client.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// closed reports whether the other end has closed the connection, waiting for at most d.
func closed(c net.Conn, d time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(d))
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestSlowRequestsAreCut(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	got := make(chan error, 8)
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	})
	l := testLimits()
	l.HeaderTime, l.BodyTime, l.IdleTime = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	g := start(t, env, l)
	for name, sent := range map[string]string{
		"nothing":       "",
		"part of line":  "GET / HT",
		"part of field": "GET / HTTP/1.1\r\nHost: croft.local\r\nX-A: b",
		"slow body":     "POST / HTTP/1.1\r\nHost: croft.local\r\nContent-Length: 1000\r\n\r\nabc",
		"slow chunks":   "POST / HTTP/1.1\r\nHost: croft.local\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"idle":          "GET / HTTP/1.1\r\nHost: croft.local\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialFrom(t, "127.0.0.1", g.http)
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			if !closed(c, 15*time.Second) {
				t.Error("still open")
			}
			if strings.HasPrefix(sent, "POST") {
				if err := <-got; err == nil {
					t.Error("the service took an unfinished body for a whole one")
				}
			} else if name == "idle" {
				<-got
			}
		})
	}
	t.Run("TLS handshake", func(t *testing.T) {
		c := dialFrom(t, "127.0.0.1", g.https)
		c.Write([]byte{22, 3, 1})
		if !closed(c, 15*time.Second) {
			t.Error("still open")
		}
	})
}

func TestClientThatDoesNotReadIsGivenUp(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	ended := make(chan struct{}, 4)
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		block := make([]byte, 64<<10)
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	l := testLimits()
	l.WriteTime = 300 * time.Millisecond
	g := start(t, env, l)
	wait := func(t *testing.T) {
		t.Helper()
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			t.Error("the service still writes for a client that does not read")
		}
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		c := dialFrom(t, "127.0.0.1", g.http)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: croft.local\r\n\r\n")
		wait(t)
	})
	t.Run("HTTP/2", func(t *testing.T) {
		res, err := g.client("h2").Get("https://croft.local/")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wait(t)
	})
	t.Run("HTTP/3", func(t *testing.T) {
		h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: g.ca, ServerName: "croft.local"}}
		defer h3.Close()
		res, err := (&http.Client{Transport: h3}).Get("https://" + g.quic + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wait(t)
	})
}

func TestLongAnswerOutlivesTheWriteTime(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		for range 15 {
			io.WriteString(w, strings.Repeat("x", 100))
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	})
	l := testLimits()
	l.WriteTime = 400 * time.Millisecond
	g := start(t, env, l)
	h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: g.ca, ServerName: "croft.local"}}
	defer h3.Close()
	for name, c := range map[string]*http.Client{
		"http://croft.local/": g.client(), "https://croft.local/": g.client("h2"), "https://" + g.quic + "/": {Transport: h3},
	} {
		if _, body := get(t, c, name); len(body) != 1500 {
			t.Errorf("%s: %d bytes", name, len(body))
		}
	}
}

func TestHugeRequestsAreRefused(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	var whole atomic.Int32
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	})
	g := start(t, env, testLimits())
	h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: g.ca, ServerName: "croft.local"}}
	defer h3.Close()
	for name, test := range map[string]struct {
		c    *http.Client
		base string
	}{
		"HTTP/1.1": {g.client("http/1.1"), "https://croft.local/"},
		"HTTP/2":   {g.client("h2"), "https://croft.local/"},
		"HTTP/3":   {&http.Client{Transport: h3}, "https://" + g.quic + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			// A header of 100 kB: refused by status or by closing, as each protocol has it, and never passed on.
			req, _ := http.NewRequest("GET", test.base, nil)
			req.Header.Set("X-Big", strings.Repeat("x", 100<<10))
			if res, err := test.c.Do(req); err == nil {
				res.Body.Close()
				if res.StatusCode != 431 {
					t.Errorf("header of 100 kB: %s", res.Status)
				}
			}
			if n := whole.Load(); n != 0 {
				t.Errorf("header of 100 kB: reached the service")
			}
			for what, body := range map[string]io.Reader{
				"declared":   strings.NewReader(strings.Repeat("x", 2<<20)),
				"undeclared": io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20))),
			} {
				res, err := test.c.Post(test.base, "text/plain", body)
				if err != nil { // cut while it was still sending
					continue
				}
				res.Body.Close()
				if res.StatusCode != 413 {
					t.Errorf("%s body of 2 MB: %s", what, res.Status)
				}
			}
			if n := whole.Load(); n != 0 {
				t.Error("a body of 2 MB reached the service as a whole")
			}
			res, err := test.c.Post(test.base, "text/plain", strings.NewReader(strings.Repeat("x", 1<<20)))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != 200 || whole.Swap(0) != 1 {
				t.Errorf("body of 1 MB: %s", res.Status)
			}
		})
	}
	t.Run("endless header", func(t *testing.T) {
		c := dialFrom(t, "127.0.0.1", g.http)
		go func() {
			for line := "GET / HTTP/1.1\r\n"; ; line = "X-A: " + strings.Repeat("b", 1000) + "\r\n" {
				if _, err := io.WriteString(c, line); err != nil {
					return
				}
			}
		}()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != 431 {
			t.Errorf("%v %v", res, err)
		}
	})
}

// TestSmuggling sends what two readers could read as a different number of requests (RFC 9112 section 11.2). The
// service must never see the hidden one.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	var mu sync.Mutex
	var seen []string
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.URL.Path)
	})
	g := start(t, env, testLimits())
	const hidden = "GET /hidden HTTP/1.1\r\nHost: croft.local\r\n\r\n"
	const post = "POST /open HTTP/1.1\r\nHost: croft.local\r\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
	for name, raw := range map[string]string{
		"CL.TE":             post + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s", len(chunk), chunk),
		"TE.CL":             post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
		"two lengths":       post + fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden),
		"length list":       post + fmt.Sprintf("Content-Length: %d, 0\r\n\r\n%s", len(hidden), hidden),
		"signed length":     post + fmt.Sprintf("Content-Length: +%d\r\n\r\n%s", len(hidden), hidden),
		"space before":      post + fmt.Sprintf("Content-Length : %d\r\n\r\n%s", len(hidden), hidden),
		"TE space":          post + "Transfer-Encoding : chunked\r\n\r\n" + chunk,
		"TE tab":            post + "Transfer-Encoding:\tchunked\r\n\r\n" + chunk,
		"TE twice":          post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunk,
		"TE unknown":        post + "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + chunk,
		"TE list":           post + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk,
		"folded":            post + "X: y\r\n Content-Length: 0\r\nTransfer-Encoding:\r\n chunked\r\n\r\n" + chunk,
		"NUL":               post + "Transfer-Encoding: chunked\x00\r\n\r\n" + chunk,
		"chunk extension":   post + "Transfer-Encoding: chunked\r\n\r\n0;\n" + hidden,
		"negative chunk":    post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + hidden,
		"huge chunk":        post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n" + hidden,
		"HTTP/1.0 TE":       "POST /open HTTP/1.0\r\nHost: croft.local\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
		"split by path":     "GET /open\r\nHost:croft.local\r\n\r\n" + "x",
		"split by host":     "GET /open HTTP/1.1\r\nHost: croft.local\rX: y\r\n\r\n",
		"line in extension": post + "Transfer-Encoding: chunked\r\n\r\n4;a=\"\nb\"\r\nabcd\r\n0\r\n\r\n" + "x",
		"LF in chunk size":  post + "Transfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n" + "x",
		"chunk too long":    post + "Transfer-Encoding: chunked\r\n\r\n2\r\nabGET /hidden HTTP/1.1\r\nHost: croft.local\r\n\r\n0\r\n\r\n",
		"hex length":        post + fmt.Sprintf("Content-Length: 0x%x\r\n\r\n%s", len(hidden), hidden),
		"empty length":      post + "Content-Length: \r\n\r\n" + hidden + "x",
		"folded length":     post + fmt.Sprintf("Content-Length:\r\n %d\r\n\r\n%s", len(hidden), hidden),
		"trailer length":    post + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 45\r\n\r\n" + "x",
		"vertical tab":      post + "Transfer-Encoding:\x0bchunked\r\n\r\n" + chunk,
		"length on upgrade": "GET /open HTTP/1.1\r\nHost: croft.local\r\nConnection: Upgrade, Content-Length\r\nUpgrade: h2c\r\nContent-Length: 45\r\n\r\n" + hidden,
	} {
		t.Run(name, func(t *testing.T) {
			c := dialFrom(t, "127.0.0.1", g.http)
			io.WriteString(c, raw)
			c.(*net.TCPConn).CloseWrite()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.Copy(io.Discard, c)
			mu.Lock()
			defer mu.Unlock()
			for _, p := range seen {
				if p != "/open" {
					t.Errorf("the service saw %s", p)
				}
			}
			seen = nil
		})
	}
}

// TestHeaderInjection sends over HTTP/2 what would be another field, or another request, once it is written out
// in HTTP/1.1 (RFC 9113 section 10.3). Either it is refused, or the service sees it as what it is.
func TestHeaderInjection(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	var mu sync.Mutex
	var seen []string
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path != "/open" || r.Header.Get("X-Injected") != "" || r.Header.Get("Transfer-Encoding") != "" || len(r.TransferEncoding) > 0 {
			seen = append(seen, fmt.Sprintf("%s %s %q %v", r.Method, r.URL, r.Header, r.TransferEncoding))
		}
	})
	g := start(t, env, testLimits())
	const hidden = "\r\n\r\nGET /hidden HTTP/1.1\r\nHost: croft.local\r\n\r\n"
	for name, fields := range map[string][][2]string{
		"line in a value":     {{"x-a", "b\r\nX-Injected: yes"}},
		"LF in a value":       {{"x-a", "b\nX-Injected: yes"}},
		"NUL in a value":      {{"x-a", "b\x00X-Injected: yes"}},
		"request in a value":  {{"x-a", "b" + hidden}},
		"line in a name":      {{"x-a: b\r\nx-injected", "yes"}},
		"colon in a name":     {{"x-injected:", "yes"}},
		"capitals in a name":  {{"X-Injected", "yes"}},
		"space in a name":     {{"x-injected ", "yes"}},
		"transfer-encoding":   {{"transfer-encoding", "chunked"}},
		"connection":          {{"connection", "x-forwarded-for"}},
		"wrong length":        {{"content-length", "45"}},
		"two lengths":         {{"content-length", "0"}, {"content-length", "45"}},
		"line in the path":    {{":path", "/open HTTP/1.1" + hidden}},
		"line in the method":  {{":method", "GET /hidden HTTP/1.1\r\nX-Injected: yes\r\n\r\nGET"}},
		"line in the host":    {{":authority", "croft.local\r\nX-Injected: yes"}},
		"another host":        {{"host", "evil.example"}},
		"unknown pseudo":      {{":injected", "yes"}},
		"pseudo after fields": {{"x-a", "b"}, {":path", "/hidden"}},
		"two paths":           {{":path", "/open"}, {":path", "/hidden"}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := dialFrom(t, "127.0.0.1", g.https)
			c := tls.Client(raw, &tls.Config{RootCAs: g.ca, ServerName: "croft.local", NextProtos: []string{"h2"}})
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			all := [][2]string{}
			for _, p := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "croft.local"}, {":path", "/open"}} {
				own := false
				for _, f := range fields {
					own = own || f[0] == p[0] && name != "pseudo after fields"
				}
				if !own {
					all = append(all, p)
				}
			}
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for _, f := range append(all, fields...) {
				enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			io.WriteString(c, http2.ClientPreface)
			fr := http2.NewFramer(c, c)
			fr.WriteSettings()
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			for { // until it is answered or refused
				f, err := fr.ReadFrame()
				if err != nil || f.Header().StreamID == 1 && f.Header().Flags.Has(http2.FlagDataEndStream) ||
					f.Header().Type == http2.FrameRSTStream || f.Header().Type == http2.FrameGoAway {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, s := range seen {
				t.Errorf("the service saw %s", s)
			}
			seen = nil
		})
	}
}

// TestTraversal sends paths that try to get out: what is for core stays below its prefix, and the service sees no path
// that leads above its root.
func TestTraversal(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	var mu sync.Mutex
	var seen []string
	see := func(service string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, service+" "+r.URL.EscapedPath())
		}
	}
	serve(t, env, "webui", see("webui"))
	serve(t, env, "core", see("core"))
	g := start(t, env, testLimits())
	for _, path := range []string{
		"/../../etc/passwd", "/api/v1/../../etc/passwd", "/api/../v1/system", "/%2e%2e/%2e%2e/etc/passwd", "/api/v1/%2e%2e/%2e%2e/v1/system",
		"/..%2f..%2fetc/passwd", "/api/v1/..%5c..%5cetc", "/assets/....//....//etc/passwd", "//etc/passwd", "/./../etc", "/api/v1/./../../x",
		"/croft-ca.crt/../api/v1/box", "/%00", "/..;/x", "http:///etc/passwd",
	} {
		t.Run(path, func(t *testing.T) {
			c := dialFrom(t, "127.0.0.1", g.http)
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: croft.local\r\nConnection: close\r\n\r\n", path)
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.Copy(io.Discard, c)
			mu.Lock()
			defer mu.Unlock()
			for _, s := range seen {
				service, p, _ := strings.Cut(s, " ")
				if service == "core" && !strings.HasPrefix(p, "/api/") {
					t.Errorf("core saw %s", p)
				}
				for part := range strings.SplitSeq(p, "/") {
					if part == ".." {
						t.Errorf("%s saw %s", service, p)
					}
				}
			}
			seen = nil
		})
	}
}

func TestBadHosts(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	var calls atomic.Int32
	h := func(http.ResponseWriter, *http.Request) { calls.Add(1) }
	serve(t, env, "webui", h)
	serve(t, env, "core", h)
	g := start(t, env, testLimits())
	for raw, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n":                                  421,
		"GET / HTTP/1.1\r\nHost: croft.local.evil.com\r\n\r\n":                      421,
		"GET /api/v1/box HTTP/1.1\r\nHost: evil.com\r\n\r\n":                        421,
		"GET http://evil.com/ HTTP/1.1\r\nHost: croft.local\r\n\r\n":                421,
		"GET " + caPath + " HTTP/1.1\r\nHost: evil.com\r\n\r\n":                     421,
		"GET / HTTP/1.0\r\n\r\n":                                                    421,
		"GET / HTTP/1.1\r\n\r\n":                                                    400,
		"GET / HTTP/1.1\r\nHost: croft.local\r\nHost: evil.com\r\n\r\n":             400,
		"TRACE / HTTP/1.1\r\nHost: croft.local\r\n\r\n":                             405,
		"CONNECT evil.com:443 HTTP/1.1\r\nHost: croft.local\r\n\r\n":                405,
		"GET / HTTP/1.1\r\nHost: user@croft.local\r\n\r\n":                          400,
		"GET / HTTP/1.1\r\nHost: croft.local\r\nX-Forwarded-Host: evil.com\r\n\r\n": 200,
	} {
		c := dialFrom(t, "127.0.0.1", g.http)
		io.WriteString(c, raw)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != want {
			t.Errorf("%q: %v %v, want %d", raw, res, err, want)
			continue
		}
		if want == 421 && strings.Contains(raw, "/api/") != (res.Header.Get("Content-Type") == "application/problem+json") {
			t.Errorf("%q: %s", raw, res.Header.Get("Content-Type"))
		}
	}
	if calls.Load() != 1 {
		t.Errorf("%d requests reached a service, want 1", calls.Load())
	}
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	serve(t, env, "webui", page)
	l := testLimits()
	l.Conns, l.ConnsPerClient = 20, 8
	g := start(t, env, l)
	get := func(c net.Conn) error {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: croft.local\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	var conns []net.Conn
	for range 8 {
		c := dialFrom(t, "127.0.0.2", g.http)
		if err := get(c); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if !closed(dialFrom(t, "127.0.0.2", g.http), 10*time.Second) {
		t.Error("a ninth connection of one client stays open")
	}
	if err := get(conns[0]); err != nil {
		t.Errorf("an earlier connection of that client: %v", err)
	}
	// Other clients fill the rest; then the one that has been idle for longest makes room.
	for i := range 16 {
		c := dialFrom(t, fmt.Sprintf("127.0.1.%d", i+1), g.http)
		if err := get(c); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	if !closed(conns[1], 10*time.Second) {
		t.Error("the connection idle for longest stays open")
	}
	if err := get(conns[0]); err != nil {
		t.Errorf("a connection that was idle for less: %v", err)
	}
}

// Few clients may hold all connections busy; one more still gets in, and not at the cost of those who have one.
func TestBusyConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	release := make(chan struct{})
	defer close(release)
	var arrived atomic.Int32
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		arrived.Add(1)
		if r.URL.Path == "/wait" {
			<-release
		}
	})
	l := testLimits()
	l.Conns, l.ConnsPerClient = 9, 4
	g := start(t, env, l)
	var modest net.Conn
	for i, from := range []string{"127.0.0.9", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.3", "127.0.0.3"} {
		c := dialFrom(t, from, g.http)
		io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: croft.local\r\n\r\n")
		if i == 0 {
			modest = c
		}
		eventually(t, "the request arrives", func() bool { return arrived.Load() == int32(i+1) })
	}
	c := dialFrom(t, "127.0.0.4", g.http)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: croft.local\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("a new client: %v %v", res, err)
	}
	if closed(modest, 200*time.Millisecond) {
		t.Error("a client with one connection lost it")
	}
}

func TestRequestLimits(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	release := make(chan struct{})
	var arrived atomic.Int32
	serve(t, env, "webui", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			arrived.Add(1)
			<-release
		}
	})
	l := testLimits()
	l.Requests, l.PerClient = 16, 10
	g := start(t, env, l)
	ask := func(from, path string) (status func() int) {
		c := dialFrom(t, from, g.http)
		io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: croft.local\r\n\r\n")
		return func() int {
			defer c.Close()
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
	}
	var waiting []func() int
	for range 10 {
		waiting = append(waiting, ask("127.0.0.2", "/wait"))
	}
	eventually(t, "ten requests are under way", func() bool { return arrived.Load() == 10 })
	if s := ask("127.0.0.2", "/")(); s != 429 {
		t.Errorf("an eleventh request of one client: %d", s)
	}
	for range 6 {
		waiting = append(waiting, ask("127.0.0.3", "/wait"))
	}
	eventually(t, "sixteen requests are under way", func() bool { return arrived.Load() == 16 })
	if s := ask("127.0.0.3", "/")(); s != 503 {
		t.Errorf("one more when all are taken, of a client that has its share: %d", s)
	}
	if s := ask("127.0.0.4", "/")(); s != 200 {
		t.Errorf("one more when all are taken, of a client that has none: %d", s)
	}
	close(release)
	for _, status := range waiting {
		if s := status(); s != 200 {
			t.Errorf("a request within the limits: %d", s)
		}
	}
	eventually(t, "all is well again", func() bool {
		return ask("127.0.0.2", "/")() == 200
	})
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	g := gcra{interval: 10 * time.Millisecond, burst: 5}
	now := spring
	count := func() (n int) {
		for g.allow(now) {
			n++
		}
		return n
	}
	if n := count(); n != 5 {
		t.Errorf("%d at once, want 5", n)
	}
	now = now.Add(20 * time.Millisecond)
	if n := count(); n != 2 {
		t.Errorf("%d after two intervals, want 2", n)
	}
	now = now.Add(time.Hour)
	if n := count(); n != 5 {
		t.Errorf("%d after an hour, want 5", n)
	}
	now = now.Add(-time.Hour) // the clock is set back
	count()
	now = now.Add(50 * time.Millisecond)
	if n := count(); n != 5 {
		t.Errorf("%d after the clock was set back, want 5", n)
	}

	env := newEnv(t)
	serve(t, env, "webui", page)
	l := DefaultLimits()
	l.Rate, l.Burst = 1, 10
	r := start(t, env, l)
	statuses := map[int]int{}
	for range 30 {
		res, _ := get(t, r.client(), "http://croft.local/")
		statuses[res.StatusCode]++
		if res.StatusCode == 429 && res.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	if statuses[200] < 5 || statuses[200] > 20 || statuses[429] < 10 {
		t.Errorf("answers: %v", statuses)
	}
}

func TestQUICConnectionLimit(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	l := testLimits()
	l.ConnsPerClient = 3
	g := start(t, env, l)
	dial := func(limit time.Duration) *quic.Conn {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		c, err := quic.DialAddr(ctx, g.quic, &tls.Config{RootCAs: g.ca, ServerName: "croft.local", NextProtos: []string{"h3"}}, nil)
		if err != nil {
			return nil
		}
		t.Cleanup(func() { c.CloseWithError(0, "") })
		return c
	}
	var conns []*quic.Conn
	eventually(t, "three QUIC connections", func() bool { // the fixture's TCP connection may still count
		if c := dial(time.Second); c != nil {
			conns = append(conns, c)
		}
		return len(conns) == 3
	})
	if dial(time.Second) != nil {
		t.Error("one client has four QUIC connections")
	}
	conns[0].CloseWithError(0, "")
	eventually(t, "a closed one makes room", func() bool { return dial(time.Second) != nil })
}

func TestClientKey(t *testing.T) {
	t.Parallel()
	own := netip.MustParseAddr("2001:db8:7:7::1")
	for in, want := range map[string]string{
		"192.168.1.5": "192.168.1.5", "::ffff:10.0.0.1": "10.0.0.1", "fe80::1%eth0": "fe80::1", "fd00:1:2:3:4:5:6:7": "fd00:1:2:3:4:5:6:7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "2001:db8:7:7::2": "2001:db8:7:7::2",
	} {
		if got := clientKey(netip.MustParseAddr(in), own); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := clientKey(netip.MustParseAddr("2001:db8:7:7::2"), netip.Addr{}); got != netip.MustParseAddr("2001:db8:7:7::") {
		t.Errorf("of an unknown network: %s", got)
	}
}

// In a household with public addresses, one device that holds on to all its connections keeps no other one out.
func TestNeighboursCountAlone(t *testing.T) {
	t.Parallel()
	l := testLimits()
	c := newClients(l, time.Now)
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 443} }
	box := at("2001:db8:7:7::1")
	for {
		if _, _, err := c.connectAt(box, at("2001:db8:7:7::bad"), false); err != nil {
			break
		}
	}
	if _, _, err := c.connectAt(box, at("2001:db8:7:7::2"), false); err != nil {
		t.Errorf("a neighbour: %v", err)
	}
}

func TestClientsAreForgotten(t *testing.T) {
	t.Parallel()
	clk := newClock(spring)
	l := testLimits()
	l.Conns = 10
	c := newClients(l, clk.now)
	for i := range 1000 {
		p, release, err := c.connect(&net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i))}, false)
		if err != nil {
			t.Fatal(err)
		}
		if s := c.begin(p.client); s != 0 {
			t.Fatal(s)
		}
		c.end(p.client)
		release()
		release() // counts once
	}
	if n := len(c.byAddr); n > 40 {
		t.Errorf("%d clients are remembered", n)
	}
	if c.conns != 0 || c.requests != 0 {
		t.Errorf("%d connections and %d requests left over", c.conns, c.requests)
	}
}
