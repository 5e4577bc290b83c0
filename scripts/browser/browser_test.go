package browser

import (
	"context"
	"encoding/json"
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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/core"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/webui"
)

var (
	serve = flag.Bool("serve", false, "serve the pages until interrupted, instead of testing them")
	grep  = flag.String("grep", "", "run only the browser tests whose title matches")
)

const claimCode = "7K3M-Q9XA"

// TestBrowser runs the browser tests against the real core and web UI.
func TestBrowser(t *testing.T) {
	if testing.Short() && !*serve {
		t.Skip("starts a browser many times")
	}
	s := start(t)
	if *serve {
		fmt.Printf("%s/#%s\nstates: curl -d name=well %s/state\n", s.url, claimCode, s.control)
		ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
		defer stop()
		<-ctx.Done()
		return
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	var args []string
	if *grep != "" {
		args = []string{"--grep", *grep}
	}
	err = Run(ctx, Options{
		Dir: dir, URL: s.url, Code: claimCode, Control: s.control, Output: os.Stdout,
		Out: filepath.Join(dir, "..", "..", "out", "screens"),
	}, args...)
	if err != nil {
		t.Error(err)
	}
}

// server is a box without hardware: the real core and web UI, a small stand-in for the gateway, and fakes of the
// processes that core asks.
type server struct {
	url, control string

	mu      sync.Mutex
	name    string // of the state
	sys     *api.System
	net     *api.Network
	disc    *api.Discovery
	cut     bool // the gateway's stand-in drops every connection
	rescues []api.RescueRequest
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
			Name: name, Log: log.With("service", name), StateDir: dir, SocketDir: dir, Notify: func(string) {},
			Listeners: map[string]net.Listener{name: listen(name)},
		}
	}

	s := &server{}
	if err := s.set("well"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"init", "network", "discovery"} {
		l := listen(name)
		wg.Go(func() { daemon.Serve(ctx, l, http.HandlerFunc(s.fake)) })
	}
	me := uint32(os.Getuid())
	ce, we := env("core"), env("webui")
	wg.Go(func() {
		if err := core.Run(ctx, ce, core.Config{GatewayUID: me, WebUIUID: me}); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := webui.Run(ctx, webui.Config{
			Log: we.Log, Listener: we.Listeners["webui"], API: we.Client("core"), Ready: we.Ready, Watch: we.Watch,
		}); err != nil {
			t.Error(err)
		}
	})

	gateway := &httputil.ReverseProxy{
		Transport: roundTripper{we.Client("core").Transport, we.Client("webui").Transport},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "box"
			r.SetXForwarded()
			// So that one test's wrong codes don't lock out the next.
			if a := r.In.Header.Get("X-Test-Client"); a != "" {
				r.Out.Header.Set("X-Forwarded-For", a)
			}
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		cut := s.cut
		s.mu.Unlock()
		if cut {
			panic(http.ErrAbortHandler)
		}
		gateway.ServeHTTP(w, r)
	}))
	front.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	t.Cleanup(front.Close)
	t.Cleanup(front.CloseClientConnections)
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/state":
			if err := s.set(r.FormValue("name")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		case "/cut":
			s.mu.Lock()
			s.cut = r.FormValue("on") == "yes"
			s.mu.Unlock()
			front.CloseClientConnections()
		case "/rescues":
			s.mu.Lock()
			defer s.mu.Unlock()
			daemon.WriteJSON(w, http.StatusOK, s.rescues)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(control.Close)
	s.url, s.control = front.URL, control.URL
	return s
}

// roundTripper sends the API to core and the rest to the web UI, as the gateway does.
type roundTripper struct{ core, webui http.RoundTripper }

func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		return t.core.RoundTrip(r)
	}
	return t.webui.RoundTrip(r)
}

func (s *server) set(name string) error {
	sys, network, disc, err := state(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.sys, s.net, s.disc, s.rescues = name, sys, network, disc, nil
	return nil
}

// fake answers for PID 1, the network service and discovery.
func (s *server) fake(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var v any
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/system":
		v = s.sys
	case "GET /v1/claim":
		v = api.Claim{Code: claimCode}
	case "GET /v1/network":
		if s.net != nil {
			v = s.net
		}
	case "GET /v1/discovery":
		if s.disc != nil {
			v = s.disc
		}
	case "POST /v1/rescue":
		var req api.RescueRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.rescues = append(s.rescues, req)
		sys := *s.sys
		busy := *sys.Rescue
		busy.Busy, busy.Progress, sys.Rescue = req.Action, 0.05, &busy
		s.sys = &sys
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if v == nil {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}
