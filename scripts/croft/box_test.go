package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/core"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/gateway"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"croft": main, "box-witness": boxWitness})
}

// TestScripts runs the command lines in testdata/script, those of a box against a real core behind a real gateway. The
// scripts run beside each other, so each has a box of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			b := startBox(t)
			e.Values[boxKey{}] = b
			config := filepath.Join(e.WorkDir, ".config")
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", config)
			e.Setenv("TZ", "UTC")
			e.Setenv("PLAIN", b.plain)
			e.Setenv("SECURE", b.secure)
			e.Setenv("FINGERPRINT", b.fingerprint)
			e.Setenv("TOKEN", b.tokens["all"])
			e.Setenv("BOX_TOKEN", b.tokens["box"])
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			// did TEXT: PID 1 or the network service was told that.
			"did": func(ts *testscript.TestScript, neg bool, args []string) {
				if b := ts.Value(boxKey{}).(*testBox); b.did(args[0]) == neg {
					ts.Fatalf("told: %q", b.acted)
				}
			},
		},
	})
}

// exits is a script's "exits CODE PROGRAM ARGS...": the exit code of a program.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// boxKey finds the box of a script.
type boxKey struct{}

// testBox is a box without hardware: the real core and gateway, and fakes of the processes that core asks.
type testBox struct {
	plain, secure, fingerprint string
	tokens                     map[string]string // by what they are for

	mu      sync.Mutex
	system  api.System
	network api.Network
	acted   []string
}

func (b *testBox) did(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.acted, func(a string) bool { return strings.Contains(a, what) })
}

const claimCode = "7K3M-Q9XA"

func startBox(t *testing.T) *testBox {
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
	b := &testBox{tokens: map[string]string{}}
	temperature := 51.5
	b.system = api.System{
		Name: "croft", ID: "0123", Version: "v1.2.3", Board: api.Board{ID: "pi", Model: "Raspberry Pi 4"}, Slot: "a", Mode: api.ModeNormal,
		UptimeMS: 90_000_000,
		Services: []api.Service{
			{Name: "network", Title: "Network", State: api.StateRunning, SinceMS: 7_300_000, Memory: 12e6},
			{Name: "gateway", Title: "Web server", State: api.StateRunning, SinceMS: 61_000, Memory: 30e6, LastExit: "exit status 1"},
		},
		Vitals: api.Vitals{
			MemTotal: 4e9, MemAvailable: 3e9, Load1: 0.25, CPUs: 4, Temperature: &temperature, Data: &api.Disk{Size: 32e9, Free: 30e9},
		},
	}
	b.network = api.Network{
		Interfaces: []api.Interface{{Name: "lo", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("192.0.2.7/24")}}},
		Clock:      api.Clock{Now: time.Now(), Certainty: api.ClockSure, Text: "The clock is right."},
	}
	env := func(name string) *daemon.Env {
		state := filepath.Join(dir, name+"-state")
		if err := os.Mkdir(state, 0o700); err != nil {
			t.Fatal(err)
		}
		return &daemon.Env{
			Name: name, Log: slog.New(slog.DiscardHandler), StateDir: state, SocketDir: dir, Notify: func(string) {},
			Listeners: map[string]net.Listener{},
		}
	}
	for _, name := range []string{"init", "network", "discovery", "updater"} {
		l := listen(name)
		wg.Go(func() { daemon.Serve(ctx, l, b) })
	}
	ce, ge := env("core"), env("gateway")
	ce.Listeners["core"] = listen("core")
	ports := map[string]string{}
	for _, name := range []string{"http", "https"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ge.Listeners[name] = l
		_, ports[name], _ = net.SplitHostPort(l.Addr().String())
	}
	me := uint32(os.Getuid())
	wg.Go(func() {
		if err := core.Run(ctx, ce, core.Config{GatewayUID: me, WebUIUID: me}); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := gateway.Run(ctx, ge); err != nil {
			t.Error(err)
		}
	})
	b.plain, b.secure = "http://127.0.0.1:"+ports["http"], "https://127.0.0.1:"+ports["https"]
	b.setUp(t)
	return b
}

// setUp makes an owner and tokens, as a phone would.
func (b *testBox) setUp(t *testing.T) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	do := func(method, path, body string, to any) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			req, err := http.NewRequest(method, b.plain+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			switch {
			case resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusBadGateway:
				if time.Now().Before(deadline) {
					continue // it starts
				}
				fallthrough
			case err != nil || resp.StatusCode >= 300:
				t.Fatalf("%s %s: %s, %s, %v", method, path, resp.Status, text, err)
			}
			if to != nil {
				if err := json.Unmarshal(text, to); err != nil {
					t.Fatalf("%s: %v", text, err)
				}
			}
			return
		}
	}
	do("POST", "/api/v1/claim", `{"code":"`+claimCode+`"}`, nil)
	do("POST", "/api/v1/setup/account", `{"name":"Ada","password":"a field of barley"}`, nil)
	do("PUT", "/api/v1/setup/time-zone", `{"time_zone":"Europe/Berlin"}`, nil)
	do("POST", "/api/v1/setup/done", ``, nil)
	for name, scopes := range map[string][]string{"all": api.Scopes(), "box": {api.ScopeBox}} {
		body, err := json.Marshal(api.TokenRequest{Name: name, Scopes: scopes, Days: 1})
		if err != nil {
			t.Fatal(err)
		}
		var token api.Token
		do("POST", "/api/v1/me/tokens", string(body), &token)
		b.tokens[name] = token.Secret
	}
	resp, err := http.Get(b.plain + "/croft-ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	block, _ := pem.Decode(text)
	if err != nil || block == nil {
		t.Fatalf("the authority's certificate: %q, %v", text, err)
	}
	b.fingerprint = fmt.Sprintf("% X", sha256.Sum256(block.Bytes))
}

// ServeHTTP answers for PID 1, the network service and discovery.
func (b *testBox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Method != http.MethodGet {
		body, _ := io.ReadAll(r.Body)
		b.acted = append(b.acted, fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, bytes.TrimSpace(body)))
		switch r.Method + " " + r.URL.Path {
		case "PUT /v1/name":
			var n api.NameRequest
			json.Unmarshal(body, &n)
			b.system.Name = n.Name
		case "PUT /v1/network/config":
			b.network.Config, b.network.Trial = api.NetConfig{}, nil
			json.Unmarshal(body, &b.network.Config)
		case "PUT /v1/network/trial":
			b.network.Trial = &api.Trial{LeftMS: api.TrialTime.Milliseconds()}
			json.Unmarshal(body, &b.network.Trial.Config)
		case "POST /v1/network/keep":
			if t := b.network.Trial; t != nil {
				b.network.Config, b.network.Trial = t.Config, nil
			}
		case "DELETE /v1/network/trial":
			b.network.Trial = nil
		}
		if r.URL.Path == "/v1/services/toaster/restart" {
			http.Error(w, "no such service", http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	switch r.URL.Path {
	case "/v1/system":
		daemon.WriteJSON(w, http.StatusOK, b.system)
	case "/v1/network":
		daemon.WriteJSON(w, http.StatusOK, b.network)
	case "/v1/updates":
		daemon.WriteJSON(w, http.StatusOK, updatesToTest())
	case "/v1/discovery":
		daemon.WriteJSON(w, http.StatusOK, api.Discovery{Wanted: b.system.Name, Name: b.system.Name, State: "announced"})
	case "/v1/claim":
		daemon.WriteJSON(w, http.StatusOK, api.Claim{Code: claimCode})
	case "/v1/recovery":
		daemon.WriteJSON(w, http.StatusOK, api.Recovery{})
	case "/v1/logs":
		daemon.WriteJSON(w, http.StatusOK, logPageOf(r))
	case "/v1/logs/stream":
		w.Header().Set("Content-Type", "text/event-stream")
		js, _ := json.Marshal(logLine(6))
		again, _ := json.Marshal(logLine(5))
		fmt.Fprintf(w, ":\n\nevent: line\ndata: %s\n\nevent: line\ndata: %s\n\n", again, js)
		http.NewResponseController(w).Flush()
	default:
		http.NotFound(w, r)
	}
}

// updatesToTest is what the updater says.
func updatesToTest() api.Updates {
	seen := time.Now().Add(-49 * time.Hour)
	e := api.UpdateEvidence{Signers: 3, Of: 5, Logged: true, Witnesses: 3, Seen: &seen}
	return api.Updates{
		Version: "v1.2.3", Number: 1, State: api.UpdateIdle, Evidence: &e,
		Trust:    api.UpdateTrust{Builtin: true, Project: &api.TrustRoot{Name: "Croft"}},
		Previous: &api.UpdatePrevious{Version: "v1.2.2"},
		Offer: &api.UpdateOffer{
			Version: "v1.3.0", Number: 2, Channel: "stable", Download: 4e6, Source: "mirror", Notes: map[string]string{"en": "Faster."}, Evidence: e,
		},
	}
}

func logLine(i int) api.LogLine {
	return api.LogLine{
		ID: strconv.Itoa(i), Time: time.Unix(1790000000+int64(i), 0), Service: "gateway", Level: "info",
		Text: fmt.Sprintf("line %d\x1b[2J", i), Fields: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)),
	}
}

// logPageOf answers with five lines, newest first, or fewer.
func logPageOf(r *http.Request) api.List[api.LogLine] {
	l := api.List[api.LogLine]{Items: []api.LogLine{}}
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	from := 5
	if after, err := strconv.Atoi(r.FormValue("after")); err == nil {
		from = after - 1
	}
	for i := from; i > 0; i-- {
		if len(l.Items) == limit {
			l.Next = strconv.Itoa(i + 1)
			break
		}
		if line := logLine(i); strings.Contains(line.Text, r.FormValue("q")) && (r.FormValue("service") == "" || r.FormValue("service") == "gateway") {
			l.Items = append(l.Items, line)
		}
	}
	return l
}
