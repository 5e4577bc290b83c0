package core

import (
	"bytes"
	"compress/gzip"
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
	"github.com/croft-os/croft/services/state"
)

const (
	goodCode     = "7K3M-Q9XA"
	recoveryCode = "our blue boat 42"
	goodPassword = "a field of barley"
)

// fakes are the processes that core asks, on real unix sockets.
type fakes struct {
	mu       sync.Mutex
	system   *api.System // nil: init answers 503
	network  *api.Network
	disc     *api.Discovery
	code     string
	recovery api.Recovery
	refuse   *api.Problem // of everything that acts
	acted    []string     // "METHOD path body" of everything that acts
	vitals   *api.Vitals
	logs     http.Handler // of init's logs, in the place of one line
	updates  *api.Updates // nil: the updater answers 503
	witness  *api.Witness // nil: the witness answers 503
	attempts []api.UpdateAttempt
	no       any // what the updater and the fetcher refuse with
	noStatus int
	arriving bool // a file
}

func (f *fakes) set(change func(f *fakes)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// did reports whether init was told something.
func (f *fakes) did(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.acted {
		if strings.HasPrefix(a, what) {
			return true
		}
	}
	return false
}

func (f *fakes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if logs := f.logs; logs != nil && strings.HasPrefix(r.URL.Path, "/v1/logs") {
		f.mu.Unlock()
		logs.ServeHTTP(w, r)
		return
	}
	defer f.mu.Unlock()
	if r.Host == "updater" || r.Host == "fetcher" {
		f.update(w, r)
		return
	}
	if r.Host == "witness" {
		f.cosign(w, r)
		return
	}
	if f.system == nil && (r.Host == "init" || r.Method != "GET") {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	var v any
	if r.Method != "GET" {
		b, _ := io.ReadAll(r.Body)
		if f.refuse != nil {
			daemon.WriteJSON(w, http.StatusConflict, f.refuse)
			return
		}
		f.acted = append(f.acted, r.Method+" "+r.Host+r.URL.Path+" "+string(b))
		switch r.Method + " " + r.URL.Path {
		case "DELETE /v1/claim":
			f.code = ""
		case "DELETE /v1/recovery":
			f.recovery = api.Recovery{}
		case "PUT /v1/name":
			var req api.NameRequest
			json.Unmarshal(b, &req)
			sys := *f.system
			sys.Name = req.Name
			f.system = &sys
		case "POST /v1/rescue":
			var req api.RescueRequest
			json.Unmarshal(b, &req)
			sys := *f.system
			sys.Rescue = &api.Rescue{Busy: req.Action}
			f.system = &sys
		case "PUT /v1/network/trial":
			var c api.NetConfig
			json.Unmarshal(b, &c)
			n := *f.network
			n.Trial = &api.Trial{LeftMS: 60_000, Config: c}
			f.network = &n
		case "POST /v1/network/keep":
			n := *f.network
			n.Config, n.Trial = n.Trial.Config, nil
			f.network = &n
		case "DELETE /v1/network/trial":
			n := *f.network
			n.Trial = nil
			f.network = &n
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	switch r.URL.Path {
	case "/v1/system":
		v = f.system
	case "/v1/vitals":
		if f.vitals != nil {
			v = f.vitals
		}
	case "/v1/network":
		if f.network != nil {
			v = f.network
		}
	case "/v1/discovery":
		if f.disc != nil {
			v = f.disc
		}
	case "/v1/claim":
		v = api.Claim{Code: f.code}
	case "/v1/recovery":
		v = f.recovery
	case "/v1/logs":
		v = api.List[api.LogLine]{Items: []api.LogLine{{ID: "1", Service: "core", Level: "info", Text: "hello"}}}
	case "/v1/logs/stream":
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, ":\n\n")
		return
	}
	if v == nil {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}

// cosign answers for the witness.
func (f *fakes) cosign(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	switch {
	case f.witness == nil:
		http.Error(w, "not now", http.StatusServiceUnavailable)
	case r.Method == "GET":
		daemon.WriteJSON(w, http.StatusOK, f.witness)
	default:
		f.acted = append(f.acted, r.Method+" "+r.Host+r.URL.Path+" "+string(b))
		if r.URL.Path == "/v1/config" {
			c := *f.witness
			json.Unmarshal(b, &c.Config)
			f.witness = &c
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// update answers for the updater and the fetcher.
func (f *fakes) update(w http.ResponseWriter, r *http.Request) {
	var b []byte
	if r.URL.Path == "/v1/upload" && r.Method == "PUT" {
		f.arriving = true
		f.mu.Unlock() // it may take long
		io.Copy(io.Discard, r.Body)
		f.mu.Lock()
		f.arriving = false
	} else {
		b, _ = io.ReadAll(r.Body)
	}
	switch {
	case f.updates == nil:
		http.Error(w, "not now", http.StatusServiceUnavailable)
	case r.Method == "GET" && r.URL.Path == "/v1/updates":
		daemon.WriteJSON(w, http.StatusOK, f.updates)
	case r.Method == "GET" && r.URL.Path == "/v1/updates/history":
		daemon.WriteJSON(w, http.StatusOK, f.attempts)
	case f.no != nil:
		daemon.WriteJSON(w, f.noStatus, f.no)
	default:
		f.acted = append(f.acted, r.Method+" "+r.Host+r.URL.RequestURI()+" "+string(b))
		if r.URL.Path == "/v1/policy" {
			var s api.UpdateSettings
			json.Unmarshal(b, &s)
			u := *f.updates
			u.Policy, u.TimeZone = s.Policy, s.TimeZone
			f.updates = &u
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// box is a running core with fakes around it.
type box struct {
	*fakes
	client *http.Client // compares all that passes with openapi.json
	raw    *http.Client
	log    *locked
	dir    string
	stop   func()
}

// start runs core as its process does.
func start(t testing.TB) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "core")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return startIn(t, dir)
}

// startIn does so on a state directory that an earlier one may have left.
func startIn(t testing.TB, dir string) *box {
	t.Helper()
	b, env, ctx, wg := surround(t, dir)
	me := uint32(os.Getuid())
	wg.Go(func() {
		if err := Run(ctx, env, Config{GatewayUID: me, WebUIUID: me, Licences: writeLicences(t, dir)}); err != nil {
			t.Error(err)
		}
	})
	b.raw = env.Client("core")
	b.raw.Transport.(*http.Transport).DisableCompression = true // the tests ask for it themselves
	b.client = &http.Client{Transport: &recorder{t, b.raw.Transport}}
	return b
}

// surround puts fakes around a core that is yet to be started in ctx.
func surround(t testing.TB, dir string) (*box, *daemon.Env, context.Context, *sync.WaitGroup) {
	t.Helper()
	f := &fakes{
		system: &api.System{
			Name: "croft", Mode: api.ModeNormal, Version: "1", Phases: []api.Phase{}, Gaps: []api.Gap{},
			Services: []api.Service{{Name: "gateway", State: api.StateRunning}, {Name: "core", State: api.StateRunning}},
		},
		network: &api.Network{}, disc: &api.Discovery{Name: "croft", Wanted: "croft"}, code: goodCode,
	}
	ctx, cancel := context.WithCancel(context.Background())
	wg := &sync.WaitGroup{}
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	listen := func(name string) net.Listener {
		path := filepath.Join(dir, name+".sock")
		os.Remove(path)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, name := range []string{"init", "network", "discovery", "updater", "fetcher", "witness"} {
		l := listen(name)
		wg.Go(func() { daemon.Serve(ctx, l, f) })
	}
	log := &locked{}
	env := &daemon.Env{
		Name: "core", Log: slog.New(slog.NewTextHandler(log, nil)), StateDir: dir, SocketDir: dir,
		Listeners: map[string]net.Listener{"core": listen("core")}, Notify: func(string) {},
	}
	return &box{fakes: f, log: log, dir: dir, stop: stop}, env, ctx, wg
}

func writeLicences(t testing.TB, dir string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	json.NewEncoder(z).Encode([]api.Component{
		{Name: "linux", Version: "6", Licence: "GPL-2.0-only", Text: "You may."},
		{Name: "example.org/a/b", Version: "1", Licence: "MIT", Text: "Permission is granted."},
	})
	z.Close()
	path := filepath.Join(dir, "licences.json.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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

// user is somebody at the API: a cookie or a bearer token, and an address.
type user struct {
	b      *box
	cookie string
	bearer string
	place  string
	header map[string]string
}

func (b *box) stranger() *user { return &user{b: b, place: "192.168.1.7"} }

func (u *user) at(place string) *user {
	v := *u
	v.place = place
	return &v
}

func (u *user) with(header ...string) *user {
	v := *u
	v.header = map[string]string{}
	for i := 0; i < len(header); i += 2 {
		v.header[header[i]] = header[i+1]
	}
	return &v
}

// answer is what came back.
type answer struct {
	*http.Response
	text    []byte
	problem api.Problem
}

func (a answer) kind() string { return strings.TrimPrefix(a.problem.Type, "/problems/") }

func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.text, v); err != nil {
		t.Fatalf("%s %q: %v", a.Status, a.text, err)
	}
}

// do sends a request; body is nil, a text as it is, or a value that becomes JSON. A cookie in the answer is the user's from
// then on.
func (u *user) do(t testing.TB, method, path string, body any) answer {
	t.Helper()
	var text string
	switch v := body.(type) {
	case nil:
	case string:
		text = v
	default:
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	var r io.Reader
	if body != nil {
		r = strings.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://croft.local"+base+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("X-Forwarded-For", u.place)
	req.Header.Set("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Version/19.0 Safari/604.1")
	if u.cookie != "" {
		req.Header.Set("Cookie", u.cookie)
	}
	if u.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+u.bearer)
	}
	for k, v := range u.header {
		req.Header.Set(k, v)
	}
	resp, err := u.b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{Response: resp}
	if resp.Header.Get("Content-Type") == "text/event-stream" && resp.StatusCode == http.StatusOK {
		return a
	}
	if a.text, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Content-Type") == "application/problem+json" && method != "HEAD" {
		a.into(t, &a.problem)
		if a.problem.Status != resp.StatusCode || a.problem.Title == "" {
			t.Errorf("status %d with problem %+v", resp.StatusCode, a.problem)
		}
	}
	if ck := resp.Cookies(); len(ck) > 0 {
		u.cookie = ck[0].Name + "=" + ck[0].Value
	}
	return a
}

// must is do for what has to work.
func (u *user) must(t testing.TB, method, path string, body, out any) answer {
	t.Helper()
	a := u.do(t, method, path, body)
	if a.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s", method, path, a.Status, a.text)
	}
	if out != nil {
		a.into(t, out)
	}
	return a
}

// owned makes the box Anna's.
func (b *box) owned(t testing.TB) *user {
	t.Helper()
	u := b.stranger()
	u.must(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}, nil)
	u.must(t, "POST", "/setup/account", api.AccountRequest{Name: "Anna", Password: goodPassword}, nil)
	eventually(t, "the configuration is known", func() bool {
		return u.do(t, "PUT", "/setup/time-zone", api.ZoneRequest{TimeZone: "Europe/Berlin"}).StatusCode == 200
	})
	u.must(t, "POST", "/setup/done", nil, nil)
	return u
}

// joined makes somebody an account by an invitation.
func (u *user) joined(t testing.TB, name, role, place string) *user {
	t.Helper()
	var inv api.Invite
	u.must(t, "POST", "/invites", api.InviteRequest{Role: role, Hours: 1}, &inv)
	v := u.b.stranger().at(place)
	v.must(t, "POST", "/join", api.JoinRequest{Code: inv.Code, Name: name, Password: goodPassword}, nil)
	return v
}

// tokened makes a script with a token of the user.
func (u *user) tokened(t testing.TB, scopes ...string) *user {
	t.Helper()
	var tok api.Token
	u.must(t, "POST", "/me/tokens", api.TokenRequest{Name: "script", Scopes: scopes, Days: 1}, &tok)
	return &user{b: u.b, bearer: tok.Secret, place: u.place}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestNoListener(t *testing.T) {
	err := Run(t.Context(), &daemon.Env{Log: slog.New(slog.DiscardHandler)}, Config{})
	if !errors.Is(err, daemon.ErrConfig) {
		t.Errorf("%v", err)
	}
}

// A restart finds everything as it was, and makes up for a claim code that was not made void.
func TestRestart(t *testing.T) {
	b := start(t)
	u := b.stranger()
	u.must(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}, nil)
	b.set(func(f *fakes) { f.refuse = &api.Problem{Title: "Not now."} })
	u.must(t, "POST", "/setup/account", api.AccountRequest{Name: "Anna", Password: goodPassword}, nil)
	b.stop()
	c := startIn(t, b.dir)
	eventually(t, "the code is void", func() bool { return c.did("DELETE init/v1/claim") })
	u.b = c
	var v api.Session
	u.must(t, "GET", "/session", nil, &v)
	if v.Role != api.RoleOwner || v.Person.Name != "Anna" {
		t.Errorf("%+v", v)
	}
	if a := c.stranger().do(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}); a.kind() != "already-claimed" {
		t.Errorf("%+v", a.problem)
	}
}

// Core answers when nobody else does.
func TestAlone(t *testing.T) {
	b := start(t)
	b.owned(t)
	b.set(func(f *fakes) { f.system, f.network, f.disc = nil, nil, nil })
	u := b.stranger()
	u.must(t, "POST", "/session", api.SessionRequest{Name: "anna", Password: goodPassword}, nil)
	u.must(t, "GET", "/me", nil, nil)
	u.must(t, "GET", "/people", nil, nil)
	u.must(t, "GET", "/setup", nil, nil)
	eventually(t, "it says so", func() bool { return u.do(t, "GET", "/box", nil).kind() == "starting" })
}

// A database that a newer release wrote is left alone.
func TestNewerState(t *testing.T) {
	dir := t.TempDir()
	db, err := state.Open(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.SQL().Exec("PRAGMA user_version=999; INSERT OR REPLACE INTO settings VALUES ('schema', '999'), ('schema-reads', '999')"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	l, err := net.Listen("unix", filepath.Join(dir, "core.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Run(t.Context(), &daemon.Env{
		Log: slog.New(slog.DiscardHandler), StateDir: dir, Notify: func(string) {}, Listeners: map[string]net.Listener{"core": l},
	}, Config{})
	if !errors.Is(err, daemon.ErrConfig) {
		t.Errorf("%v", err)
	}
}

// TestStoppedAtStart: a core that is stopped at any moment of its start has done nothing wrong.
func TestStoppedAtStart(t *testing.T) {
	dir := t.TempDir()
	for wait := time.Duration(0); wait < 60*time.Millisecond; wait += 3 * time.Millisecond {
		_, env, _, _ := surround(t, dir)
		ctx, cancel := context.WithTimeoutCause(t.Context(), wait, nil)
		stopped, stop := context.WithCancel(context.WithoutCancel(ctx))
		context.AfterFunc(ctx, stop)
		if err := Run(stopped, env, Config{Licences: writeLicences(t, dir)}); err != nil {
			t.Errorf("stopped after %v: %v", wait, err)
		}
		cancel()
	}
}
