package browser

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/core"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/gateway"
	"github.com/croft-os/croft/services/witness"
	"github.com/croft-os/croft/webui"
)

var (
	serve = flag.Bool("serve", false, "serve the pages until interrupted, instead of testing them")
	grep  = flag.String("grep", "", "run only the browser tests whose title matches")
)

const claimCode = "7K3M-Q9XA"

// TestBrowser runs the browser tests against the real core and web UI, on a phone's screen and on a desk's side by side.
func TestBrowser(t *testing.T) {
	if *serve {
		s := start(t)
		fmt.Printf("%s/#%s\nstates: curl -d name=well %s/state\n", s.addr, claimCode, s.control)
		ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
		defer stop()
		<-ctx.Done()
		return
	}
	if testing.Short() {
		t.Skip("starts a browser many times")
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, project := range []string{"phone", "desk"} {
		t.Run(project, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
			defer cancel()
			o := Options{
				Dir: dir, URL: s.url, Addr: s.addr, Code: claimCode, Control: s.control, Output: os.Stdout, Project: project,
				Out: filepath.Join(dir, "..", "..", "out", "screens"), Grep: *grep,
			}
			if err := Run(ctx, o); err != nil {
				t.Error(err)
			}
			if *grep == "" && project == "phone" { // TLS changes cookies and what browsers allow, not what is on the page
				o.URL, o.Grep = s.secure, "takes the right code|keeps the page current|tells nothing"
				if err := Run(ctx, o); err != nil {
					t.Errorf("over TLS: %v", err)
				}
			}
		})
	}
}

// server is a box without hardware: the real core, web UI and gateway, and fakes of the processes that core asks.
type server struct {
	url, secure   string // for the browser: plain and over TLS
	addr, control string // for others

	began time.Time
	reset func() // makes it a box that nobody has claimed

	mu    sync.Mutex
	state string
	neighbours
}

func start(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "croft") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	listen := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	env := func(name string) *daemon.Env {
		return &daemon.Env{
			Name: name, Log: log.With("service", name), StateDir: filepath.Join(dir, "state"), SocketDir: dir, Notify: func(string) {},
			Listeners: map[string]net.Listener{name: listen(name)},
		}
	}

	s := &server{began: time.Now()}
	if err := s.fresh("well"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"init", "network", "discovery"} {
		l := listen(name)
		wg.Go(func() { daemon.Serve(ctx, l, http.HandlerFunc(s.fake)) })
	}
	for _, name := range []string{"updater", "fetcher"} {
		l := listen(name)
		wg.Go(func() { daemon.Serve(ctx, l, http.HandlerFunc(s.fakeUpdates)) })
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	cosigns := env("witness")
	cosigns.StateDir = filepath.Join(dir, "witness")
	if err := os.Mkdir(cosigns.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	logs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cosigns.Listeners["logs"] = logs
	wg.Go(func() {
		if err := witness.Run(ctx, cosigns, witness.Config{}); err != nil {
			t.Error(err)
		}
	})
	me := uint32(os.Getuid())
	ce, we := env("core"), env("webui")
	licences := filepath.Join(dir, "licences.json.gz")
	if err := writeLicences(licences); err != nil {
		t.Fatal(err)
	}
	stop := func() {}
	run := func() {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		stop = func() { cancel(); <-done }
		wg.Go(func() {
			defer close(done)
			if err := core.Run(ctx, ce, core.Config{GatewayUID: me, WebUIUID: me, Licences: licences}); err != nil {
				t.Error(err)
			}
		})
	}
	run()
	s.reset = func() {
		stop()
		ce.Listeners["core"].Close()
		for _, name := range []string{"core.sock", "state"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
		if err := os.Mkdir(ce.StateDir, 0o700); err != nil {
			t.Error(err)
		}
		ce.Listeners["core"] = listen("core")
		run()
	}
	wg.Go(func() {
		if err := webui.Run(ctx, webui.Config{
			Log: we.Log, Listener: we.Listeners["webui"], API: &http.Client{Transport: s.core(we)}, Ready: we.Ready, Watch: we.Watch,
		}); err != nil {
			t.Error(err)
		}
	})

	// The real gateway finds the real core and web UI behind a proxy that lets a test choose its address, so that one
	// test's wrong codes don't lock out the next.
	behind := filepath.Join(dir, "gw")
	if err := os.Mkdir(behind, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*daemon.Env{ce, we} {
		l, err := net.Listen("unix", filepath.Join(behind, e.Name+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		p := &httputil.ReverseProxy{
			Transport: e.Client(e.Name).Transport,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host = "http", "box"
				for _, k := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
					r.Out.Header[k] = r.In.Header[k]
				}
				if a := r.In.Header.Get("X-Test-Client"); a != "" {
					r.Out.Header.Set("X-Forwarded-For", a)
				}
			},
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		wg.Go(func() {
			daemon.Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if e == we && s.is(noPages) {
					panic(http.ErrAbortHandler)
				}
				p.ServeHTTP(w, r)
			}))
		})
	}
	for _, name := range []string{"network", "discovery"} {
		if err := os.Symlink(filepath.Join(dir, name+".sock"), filepath.Join(behind, name+".sock")); err != nil {
			t.Fatal(err)
		}
	}
	ge := &daemon.Env{
		Name: "gateway", Log: log.With("service", "gateway"), StateDir: filepath.Join(behind, "state"), SocketDir: behind,
		Notify: func(string) {}, Listeners: map[string]net.Listener{},
	}
	if err := os.Mkdir(ge.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	ports := map[string]string{}
	for _, name := range []string{"http", "https"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, ports[name], _ = net.SplitHostPort(l.Addr().String())
		ge.Listeners[name] = &cable{Listener: l, conns: map[net.Conn]struct{}{}}
	}
	wg.Go(func() {
		if err := gateway.Run(ctx, ge); err != nil {
			t.Error(err)
		}
	})
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/state":
			if err := s.set(r.FormValue("name")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		case "/cut":
			for _, l := range ge.Listeners {
				l.(*cable).pull(r.FormValue("on") == "yes")
			}
		case "/fresh": // a box out of the shop
			s.reset()
			if err := s.set("well"); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		case "/updates":
			if err := s.setUpdates(r.FormValue("name")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		case "/told":
			s.mu.Lock()
			defer s.mu.Unlock()
			daemon.WriteJSON(w, http.StatusOK, s.told)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(control.Close)
	// By name, as people do it: a browser trusts 127.0.0.1 with more than it does a name on the LAN.
	s.url, s.secure = "http://croft.local:"+ports["http"], "https://croft.local:"+ports["https"]
	s.addr, s.control = "http://127.0.0.1:"+ports["http"], control.URL
	return s
}

// cable is a listener that can be cut off from the world: what is open ends, and what is new ends at once.
type cable struct {
	net.Listener

	mu     sync.Mutex
	pulled bool
	conns  map[net.Conn]struct{}
}

func (c *cable) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		pulled := c.pulled
		if !pulled {
			conn = &plugged{conn, c}
			c.conns[conn] = struct{}{}
		}
		c.mu.Unlock()
		if !pulled {
			return conn, nil
		}
		conn.Close()
	}
}

func (c *cable) pull(out bool) {
	c.mu.Lock()
	c.pulled = out
	open := c.conns
	if out {
		c.conns = map[net.Conn]struct{}{}
	}
	c.mu.Unlock()
	if out {
		for conn := range open {
			conn.Close()
		}
	}
}

type plugged struct {
	net.Conn
	c *cable
}

func (p *plugged) Close() error {
	p.c.mu.Lock()
	delete(p.c.conns, p)
	p.c.mu.Unlock()
	return p.Conn.Close()
}

// set brings the box into a state, as if it had just started; who owns it stays.
func (s *server) set(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.began = name, time.Now()
	return s.fresh(name)
}

// writeLicences makes a list of software as the image has it.
func writeLicences(path string) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	err := json.NewEncoder(z).Encode([]api.Component{
		{Name: "github.com/quic-go/quic-go", Version: "v0.65.0", Licence: "MIT", Text: "MIT License\n\nCopyright (c) 2016 the quic-go authors"},
		{Name: "Linux", Version: "6.18", Licence: "GPL-2.0-only WITH Linux-syscall-note", Text: "GNU GENERAL PUBLIC LICENSE\nVersion 2, June 1991"},
	})
	return errors.Join(err, z.Close(), os.WriteFile(path, b.Bytes(), 0o600))
}

// States in which a process has not started yet.
const (
	noCore  = "no-core"
	noPages = "no-pages"
)

func (s *server) is(state string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == state
}

// core is the web UI's way to core.
func (s *server) core(env *daemon.Env) http.RoundTripper {
	way := env.Client("core").Transport
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if s.is(noCore) {
			return nil, errors.New("core is away")
		}
		return way.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
