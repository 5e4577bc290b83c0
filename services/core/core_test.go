package core

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

const goodCode = "7K3M-Q9XA"

// fakes are the processes that core asks, on real unix sockets.
type fakes struct {
	mu      sync.Mutex
	system  *api.System // nil: init answers 503
	network *api.Network
	disc    *api.Discovery
	code    string
	refuse  *api.Problem // of POST /v1/rescue
	rescues []api.RescueRequest
}

func (f *fakes) set(change func(f *fakes)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var v any
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/system":
		if f.system != nil {
			v = f.system
		}
	case "GET /v1/network":
		if f.network != nil {
			v = f.network
		}
	case "GET /v1/discovery":
		if f.disc != nil {
			v = f.disc
		}
	case "GET /v1/claim":
		if f.system != nil {
			v = api.Claim{Code: f.code}
		}
	case "POST /v1/rescue":
		var req api.RescueRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if f.refuse != nil {
			daemon.WriteJSON(w, http.StatusConflict, f.refuse)
			return
		}
		f.rescues = append(f.rescues, req)
		sys := *f.system
		sys.Rescue = &api.Rescue{Busy: req.Action}
		f.system = &sys
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if v == nil {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}

// start runs core as its process does, with fakes around it, and returns a client that reaches it.
func start(t *testing.T) (*fakes, *http.Client, *locked) {
	t.Helper()
	dir, err := os.MkdirTemp("", "core")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fakes{
		system: &api.System{Name: "croft", Mode: api.ModeNormal, Version: "1"},
		disc:   &api.Discovery{Name: "croft"}, code: goodCode,
	}
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
	for _, name := range []string{"init", "network", "discovery"} {
		l := listen(name)
		wg.Go(func() { daemon.Serve(ctx, l, f) })
	}
	log := &locked{}
	env := &daemon.Env{
		Name: "core", Log: slog.New(slog.NewTextHandler(log, nil)), StateDir: dir, SocketDir: dir,
		Listeners: map[string]net.Listener{"core": listen("core")}, Notify: func(string) {},
	}
	me := uint32(os.Getuid())
	wg.Go(func() {
		if err := Run(ctx, env, Config{GatewayUID: me, WebUIUID: me}); err != nil {
			t.Error(err)
		}
	})
	return f, env.Client("core"), log
}

// locked is a buffer for the log of several goroutines.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type call struct {
	method, path, body string
	header             map[string]string
}

func do(t *testing.T, c *http.Client, in call) (*http.Response, api.Problem) {
	t.Helper()
	req, err := http.NewRequest(in.method, "http://croft.local"+in.path, strings.NewReader(in.body))
	if err != nil {
		t.Fatal(err)
	}
	if in.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("X-Forwarded-For", "192.168.1.7")
	for k, v := range in.header {
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p api.Problem
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatalf("problem %q: %v", b, err)
		}
		if p.Status != resp.StatusCode || p.Title == "" {
			t.Errorf("status %d with problem %+v", resp.StatusCode, p)
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp, p
}

func signIn(t *testing.T, c *http.Client) string {
	t.Helper()
	resp, p := do(t, c, call{method: "POST", path: "/api/v1/session", body: `{"code":"` + goodCode + `"}`})
	if resp.StatusCode != http.StatusCreated || len(resp.Cookies()) != 1 {
		t.Fatalf("sign in: %s %+v", resp.Status, p)
	}
	ck := resp.Cookies()[0]
	if !ck.HttpOnly || ck.SameSite != http.SameSiteStrictMode || ck.Path != "/" || ck.MaxAge != 7*24*3600 {
		t.Errorf("cookie %v", ck)
	}
	return ck.Name + "=" + ck.Value
}

func TestAPI(t *testing.T) {
	_, c, log := start(t)
	cookie := signIn(t, c)
	in := map[string]string{"Cookie": cookie}
	for _, tt := range []struct {
		name   string
		call   call
		status int
		kind   string // last part of the problem's type
	}{
		{"health", call{method: "GET", path: "/api/v1/health"}, 200, ""},
		{"signed out", call{method: "GET", path: "/api/v1/session"}, 401, "signed-out"},
		{"box signed out", call{method: "GET", path: "/api/v1/box"}, 401, "signed-out"},
		{"events signed out", call{method: "GET", path: "/api/v1/events"}, 401, "signed-out"},
		{"rescue signed out", call{method: "POST", path: "/api/v1/rescue", body: `{"action":"retry"}`}, 401, "signed-out"},
		{"foreign cookie", call{method: "GET", path: "/api/v1/box", header: map[string]string{"Cookie": "croft_session=x"}}, 401, "signed-out"},
		{"signed in", call{method: "GET", path: "/api/v1/session", header: in}, 200, ""},
		{"box", call{method: "GET", path: "/api/v1/box", header: in}, 200, ""},
		{"http cookie over https", call{
			method: "GET", path: "/api/v1/box",
			header: map[string]string{"Cookie": cookie, "X-Forwarded-Proto": "https"},
		}, 401, "signed-out"},
		{"not found", call{method: "GET", path: "/api/v1/nothing"}, 404, "not-found"},
		{"root", call{method: "GET", path: "/"}, 404, "not-found"},
		{"method", call{method: "PUT", path: "/api/v1/box", header: in}, 405, "method"},
		{"cross-site", call{
			method: "DELETE", path: "/api/v1/session",
			header: map[string]string{"Cookie": cookie, "Sec-Fetch-Site": "cross-site"},
		}, 403, "cross-origin"},
		{"cross-site without fetch metadata", call{
			method: "DELETE", path: "/api/v1/session",
			header: map[string]string{"Cookie": cookie, "Origin": "http://evil.example"},
		}, 403, "cross-origin"},
		{"form instead of JSON", call{
			method: "POST", path: "/api/v1/session", body: "code=" + goodCode,
			header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
		}, 415, "not-json"},
		{"no JSON", call{method: "POST", path: "/api/v1/session", body: `{"code":`}, 400, "not-json"},
		{"wrong type", call{method: "POST", path: "/api/v1/session", body: `{"code":7}`}, 422, "invalid"},
		{"two values", call{method: "POST", path: "/api/v1/session", body: `{} {}`}, 400, "not-json"},
		{"too large", call{method: "POST", path: "/api/v1/session", body: `"` + strings.Repeat("x", small) + `"`}, 413, "too-large"},
		{"short code", call{method: "POST", path: "/api/v1/session", body: `{"code":"7K3M"}`}, 422, "code-format"},
		{"rescue when well", call{method: "POST", path: "/api/v1/rescue", body: `{"action":"retry"}`, header: in}, 403, "forbidden"},
		{"rescue unknown", call{method: "POST", path: "/api/v1/rescue", body: `{"action":"x"}`, header: in}, 403, "forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, p := do(t, c, tt.call)
			if resp.StatusCode != tt.status || strings.TrimPrefix(p.Type, "/problems/") != tt.kind {
				t.Errorf("%s %s: %d %q, want %d %q", tt.call.method, tt.call.path, resp.StatusCode, p.Type, tt.status, tt.kind)
			}
			if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", resp.Header)
			}
		})
	}
	t.Run("sign out", func(t *testing.T) {
		resp, _ := do(t, c, call{method: "DELETE", path: "/api/v1/session", header: in})
		if resp.StatusCode != 204 || len(resp.Cookies()) != 1 || resp.Cookies()[0].MaxAge >= 0 {
			t.Errorf("%s %v", resp.Status, resp.Cookies())
		}
		if resp, _ := do(t, c, call{method: "GET", path: "/api/v1/box", header: in}); resp.StatusCode != 401 {
			t.Errorf("after signing out: %s", resp.Status)
		}
	})
	if s := log.String(); strings.Contains(s, "7K3M") || strings.Contains(s, cookie[len(cookie)-10:]) {
		t.Errorf("a secret in the log:\n%s", s)
	}
}

func TestHTTPSCookie(t *testing.T) {
	_, c, _ := start(t)
	https := map[string]string{"X-Forwarded-Proto": "https"}
	resp, _ := do(t, c, call{method: "POST", path: "/api/v1/session", body: `{"code":"7k3mq9xa"}`, header: https})
	if len(resp.Cookies()) != 1 {
		t.Fatalf("%s %v", resp.Status, resp.Cookies())
	}
	ck := resp.Cookies()[0]
	if ck.Name != "__Host-croft_session" || !ck.Secure {
		t.Errorf("cookie %v", ck)
	}
	https["Cookie"] = ck.Name + "=" + ck.Value
	if resp, _ := do(t, c, call{method: "GET", path: "/api/v1/session", header: https}); resp.StatusCode != 200 {
		t.Errorf("signed in over HTTPS: %s", resp.Status)
	}
}

func TestWrongCodes(t *testing.T) {
	f, c, log := start(t)
	try := func(code, from string) (*http.Response, api.Problem) {
		return do(t, c, call{
			method: "POST", path: "/api/v1/session", body: `{"code":"` + code + `"}`,
			header: map[string]string{"X-Forwarded-For": from},
		})
	}
	for i := range freeTries {
		if _, p := try("0000-0000", "10.0.0.1"); p.Type != "/problems/wrong-code" {
			t.Fatalf("try %d: %+v", i, p)
		}
	}
	resp, p := try(goodCode, "10.0.0.1")
	if p.Status != 429 || resp.Header.Get("Retry-After") == "" || p.Detail == "" {
		t.Errorf("after %d wrong codes: %+v %v", freeTries, p, resp.Header)
	}
	if resp, _ := try(goodCode, "10.0.0.2"); resp.StatusCode != 201 {
		t.Errorf("another client: %s", resp.Status)
	}
	f.set(func(f *fakes) { f.system = nil })
	for range freeTries + 1 { // which count for nothing
		if _, p := try(goodCode, "10.0.0.4"); p.Type != "/problems/starting" {
			t.Errorf("init does not answer: %+v", p)
		}
	}
	f.set(func(f *fakes) { f.code, f.system = goodCode, &api.System{} })
	for range 3 { // a right code wipes out the wrong ones before it
		for range freeTries - 1 {
			try("0000-0000", "10.0.0.4")
		}
		if resp, p := try(goodCode, "10.0.0.4"); resp.StatusCode != 201 {
			t.Errorf("right after some wrong codes: %+v", p)
		}
	}
	if s := log.String(); strings.Contains(s, "0000") || strings.Contains(s, "7K3M") {
		t.Errorf("a code in the log:\n%s", s)
	}
}

// A void code is no way to keep init busy.
func TestVoidCode(t *testing.T) {
	f, c, _ := start(t)
	f.set(func(f *fakes) { f.code = "" })
	for i := range freeTries + 1 {
		want := "/problems/code-void"
		if i == freeTries {
			want = "/problems/too-many-tries"
		}
		_, p := do(t, c, call{method: "POST", path: "/api/v1/session", body: `{"code":"` + goodCode + `"}`})
		if p.Type != want {
			t.Errorf("try %d: %+v, want %s", i, p, want)
		}
	}
}

func TestBoxParts(t *testing.T) {
	f, c, _ := start(t)
	in := map[string]string{"Cookie": signIn(t, c)}
	get := func() (int, api.Box) {
		resp, _ := do(t, c, call{method: "GET", path: "/api/v1/box", header: in})
		var b api.Box
		json.NewDecoder(resp.Body).Decode(&b)
		return resp.StatusCode, b
	}
	if status, b := get(); status != 200 || b.System.Name != "croft" || b.Network != nil || b.Discovery.Name != "croft" {
		t.Errorf("%d %+v", status, b)
	}
	f.set(func(f *fakes) { f.network, f.disc = &api.Network{Clock: api.Clock{Certainty: api.ClockSure}}, nil })
	eventually(t, "the network's part", func() bool {
		_, b := get()
		return b.Network != nil && b.Network.Clock.Certainty == api.ClockSure && b.Discovery == nil
	})
	f.set(func(f *fakes) { f.system = nil })
	eventually(t, "503 without init", func() bool { status, _ := get(); return status == 503 })
}

func TestRescue(t *testing.T) {
	f, c, _ := start(t)
	f.set(func(f *fakes) {
		f.system.Mode, f.system.Rescue = api.ModeRescue, &api.Rescue{Code: "no-marker"}
	})
	in := map[string]string{"Cookie": signIn(t, c)}
	for _, tt := range []struct {
		body   string
		status int
		sent   int
	}{
		{`{"action":"retry"}`, 202, 1},
		{`{"action":"check","confirm":"x"}`, 202, 2},
		{`{"action":"start-over"}`, 422, 2},
		{`{"action":"start-over","confirm":"erase"}`, 422, 2},
		{`{"action":"start-over","confirm":"ERASE"}`, 202, 3},
	} {
		resp, p := do(t, c, call{method: "POST", path: "/api/v1/rescue", body: tt.body, header: in})
		f.set(func(f *fakes) {
			if resp.StatusCode != tt.status || len(f.rescues) != tt.sent {
				t.Errorf("%s: %d %+v, init got %v", tt.body, resp.StatusCode, p, f.rescues)
			}
		})
		if tt.status == 202 { // the very next answer shows it
			resp, _ := do(t, c, call{method: "GET", path: "/api/v1/box", header: in})
			var b api.Box
			if err := json.NewDecoder(resp.Body).Decode(&b); err != nil || !strings.Contains(tt.body, `"`+b.System.Rescue.Busy+`"`) {
				t.Errorf("%s: then %+v %v", tt.body, b.System.Rescue, err)
			}
		}
	}
	f.set(func(f *fakes) {
		if f.rescues[1].Confirm != "" || f.rescues[2] != (api.RescueRequest{Action: "start-over", Confirm: "ERASE"}) {
			t.Errorf("init got %v", f.rescues)
		}
		f.refuse = &api.Problem{Title: "A check is running."}
	})
	_, p := do(t, c, call{method: "POST", path: "/api/v1/rescue", body: `{"action":"retry"}`, header: in})
	if p.Status != 409 || p.Title != "A check is running." {
		t.Errorf("refused: %+v", p)
	}
}

func TestEvents(t *testing.T) {
	f, c, _ := start(t)
	cookie := signIn(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://core/api/v1/events", nil)
	req.Header.Set("Cookie", cookie)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Fatalf("%s %s", resp.Status, ct)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	next := func(what string) string {
		t.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case l, ok := <-lines:
				if !ok {
					t.Fatalf("stream ended, want %s", what)
				}
				if strings.HasPrefix(l, what) {
					return l
				}
			case <-deadline:
				t.Fatalf("no %s", what)
			}
		}
	}
	if l := next("data:"); !strings.Contains(l, `"version":"1"`) {
		t.Errorf("first event: %s", l)
	}
	f.set(func(f *fakes) { s := *f.system; s.Version = "2"; f.system = &s })
	for l := next("data:"); !strings.Contains(l, `"version":"2"`); l = next("data:") {
	}
	do(t, c, call{method: "DELETE", path: "/api/v1/session", header: map[string]string{"Cookie": cookie}})
	f.set(func(f *fakes) { s := *f.system; s.Version = "3"; f.system = &s })
	next("event: end")
}

func TestTooManyStreams(t *testing.T) {
	_, c, _ := start(t)
	in := map[string]string{"Cookie": signIn(t, c)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range maxStreams {
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://core/api/v1/events", nil)
		req.Header.Set("Cookie", in["Cookie"])
		resp, err := c.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("stream %d: %v %v", i, resp, err)
		}
		defer resp.Body.Close()
	}
	if _, p := do(t, c, call{method: "GET", path: "/api/v1/events", header: in}); p.Status != 503 {
		t.Errorf("one stream too many: %+v", p)
	}
	cancel()
	eventually(t, "slots come back", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://core/api/v1/events", nil)
		req.Header.Set("Cookie", in["Cookie"])
		resp, err := c.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
}

func TestFingerprint(t *testing.T) {
	temp := 48.2
	b := api.Box{System: api.System{
		UptimeMS: 1000,
		Vitals:   api.Vitals{MemAvailable: 100 << 20, Temperature: &temp, Data: &api.Disk{Free: 1 << 30}},
		Services: []api.Service{{Name: "core", State: api.StateRunning, SinceMS: 5, Memory: 10 << 20}},
	}, Network: &api.Network{Clock: api.Clock{OffsetMS: 1}}}
	before := string(fingerprint(&b))
	for _, tt := range []struct {
		name   string
		change func(b *api.Box)
		same   bool
	}{
		{"uptime", func(b *api.Box) { b.System.UptimeMS = 2000 }, true},
		{"a little memory", func(b *api.Box) { b.System.Vitals.MemAvailable += 1000 }, true},
		{"much memory", func(b *api.Box) { b.System.Vitals.MemAvailable /= 2 }, false},
		{"warmer by 0.1", func(b *api.Box) { v := temp + 0.1; b.System.Vitals.Temperature = &v }, true},
		{"warmer by 2", func(b *api.Box) { v := temp + 2; b.System.Vitals.Temperature = &v }, false},
		{"clock offset", func(b *api.Box) { n := *b.Network; n.Clock.OffsetMS = 9; b.Network = &n }, true},
		{"clock certainty", func(b *api.Box) { n := *b.Network; n.Clock.Certainty = "sure"; b.Network = &n }, false},
		{"network gone", func(b *api.Box) { b.Network = nil }, false},
		{"service", func(b *api.Box) { b.System.Services = []api.Service{{Name: "core", State: api.StateBackoff}} }, false},
	} {
		c := b
		tt.change(&c)
		if same := string(fingerprint(&c)) == before; same != tt.same {
			t.Errorf("%s: same %v", tt.name, same)
		}
		if string(fingerprint(&b)) != before {
			t.Fatalf("%s: the state itself was changed", tt.name)
		}
	}
}

func TestNoListener(t *testing.T) {
	err := Run(t.Context(), &daemon.Env{Log: slog.New(slog.DiscardHandler)}, Config{})
	if !errors.Is(err, daemon.ErrConfig) {
		t.Errorf("%v", err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
