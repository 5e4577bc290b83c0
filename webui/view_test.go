package webui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

func testVisit(t testing.TB) *visit {
	t.Helper()
	s, err := newServer(slog.New(slog.DiscardHandler), http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	return s.visit(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}

func wellBox() *api.Box {
	temp := 45.0
	return &api.Box{
		System: api.System{
			Name: "croft", Mode: api.ModeNormal, UptimeMS: 3600_000,
			Services: []api.Service{
				{Name: "core", Title: "Accounts", State: api.StateRunning, Critical: true},
				{Name: "discovery", Title: "Found", State: api.StateRunning},
			},
			Vitals: api.Vitals{
				MemTotal: 1 << 30, MemAvailable: 1 << 29, CPUs: 4, Load1: 0.1, Temperature: &temp,
				Data: &api.Disk{Size: 30e9, Free: 20e9},
			},
		},
		Network: &api.Network{
			Clock:      api.Clock{Certainty: api.ClockSure},
			Interfaces: []api.Interface{{Name: "eth0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.20/24")}}},
		},
		Discovery: &api.Discovery{Wanted: "croft", Name: "croft", State: "announced"},
	}
}

func TestConcerns(t *testing.T) {
	c := english()
	f := func(v float64) *float64 { return &v }
	yes := true
	for _, tt := range []struct {
		name   string
		change func(b *api.Box)
		tone   string
		title  string // of the worst; "All is well" if there is none
		count  int
	}{
		{"well", func(*api.Box) {}, toneOK, "All is well", 0},
		{"critical crash loop", func(b *api.Box) { b.System.Services[0].State = api.StateCrashing }, toneAct, "“Accounts and settings” keeps failing", 1},
		{"other crash loop", func(b *api.Box) { b.System.Services[1].State = api.StateCrashing }, toneLook, "“Name on your network” keeps failing", 1},
		{"failed", func(b *api.Box) { b.System.Services[0].State = api.StateFailed }, toneAct, "“Accounts and settings” has stopped", 1},
		{"stopped by request", func(b *api.Box) { b.System.Services[1].State = api.StateStopped }, toneOK, "All is well", 0},
		{"restarting", func(b *api.Box) { b.System.Services[0].State = api.StateBackoff }, toneLook, "“Accounts and settings” is being restarted", 1},
		{"starting after power-on", func(b *api.Box) {
			b.System.UptimeMS, b.System.Services[0].State = 4000, api.StateStarting
		}, toneWait, "Almost ready", 1},
		{"starting for long", func(b *api.Box) {
			b.System.Services[0].State, b.System.Services[0].SinceMS = api.StateStarting, 600_000
		}, toneAct, "“Accounts and settings” is not ready yet", 1},
		{"not confined", func(b *api.Box) { b.System.Services[0].Confined = &api.Confined{} }, toneLook, "“Accounts and settings” is less closed off than it should be", 1},
		{"phase failed", func(b *api.Box) { b.System.Phases = []api.Phase{{Title: "Disk", Error: "x"}} }, toneLook, "Starting up did not go as it should", 1},
		{"read-only", func(b *api.Box) { b.System.Vitals.Data.ReadOnly = true }, toneAct, "The disk takes no changes", 1},
		{"full", func(b *api.Box) { b.System.Vitals.Data.Free = 1e8 }, toneAct, "The disk is full", 1},
		{"nearly full", func(b *api.Box) { b.System.Vitals.Data.Free = 2e9 }, toneLook, "The disk is nearly full", 1},
		{"hot", func(b *api.Box) { b.System.Vitals.Temperature = f(87) }, toneAct, "The box is too hot", 1},
		{"getting hot", func(b *api.Box) { b.System.Vitals.Temperature = f(78) }, toneLook, "The box is getting hot", 1},
		{"no sensor", func(b *api.Box) { b.System.Vitals.Temperature = nil }, toneOK, "All is well", 0},
		{"under-voltage", func(b *api.Box) { b.System.Vitals.UnderVoltage = &yes }, toneAct, "The power supply is too weak", 1},
		{"memory", func(b *api.Box) { b.System.Vitals.MemAvailable = 1 << 25 }, toneLook, "Memory is nearly used up", 1},
		{"name conflict", func(b *api.Box) { b.Discovery.Name, b.Discovery.Conflict = "croft-2", "Taken." }, toneLook, "Another device is called croft.local", 1},
		{"interface", func(b *api.Box) { b.Network.Interfaces[0].Problem = "No router answers." }, toneLook, "The network needs a look", 1},
		{"clock unsure", func(b *api.Box) { b.Network.Clock.Certainty = api.ClockUnsure }, toneLook, "The time may be wrong", 1},
		{"clock unsure just after the start", func(b *api.Box) {
			b.Network.Clock.Certainty, b.System.UptimeMS = api.ClockUnsure, 60_000
		}, toneOK, "All is well", 0},
		{"notice", func(b *api.Box) {
			b.Notices = []api.Notice{{Name: "x", Weight: "warn", Text: "It happened. It was so.", Next: "Do this."}}
		}, toneLook, "It happened", 1},
		{"nothing else answers", func(b *api.Box) { b.Network, b.Discovery = nil, nil }, toneWait, "“Name on your network” does not answer", 1},
		{"nothing else answers yet", func(b *api.Box) {
			b.Network, b.Discovery, b.System.UptimeMS = nil, nil, 4000
		}, toneOK, "All is well", 0},
		{"two", func(b *api.Box) {
			b.System.Vitals.Temperature, b.System.Vitals.Data.ReadOnly = f(78), true
		}, toneAct, "The disk takes no changes", 2},
	} {
		b := wellBox()
		tt.change(b)
		v := c.view(b, "http")
		if v.Head.Tone != tt.tone || v.Head.Title != tt.title {
			t.Errorf("%s: %s %q, want %s %q", tt.name, v.Head.Tone, v.Head.Title, tt.tone, tt.title)
		}
		if got := c.concerns(b); len(got) != tt.count {
			t.Errorf("%s: %d concerns: %+v", tt.name, len(got), got)
		}
		if tt.count > 0 && v.Head.Next == "" && tt.name != "clock unsure" {
			t.Errorf("%s: no next step", tt.name)
		}
	}
}

func TestReach(t *testing.T) {
	c := english()
	for _, tt := range []struct {
		name   string
		change func(b *api.Box)
		url    string
		more   string
		note   string
	}{
		{"name and address", func(*api.Box) {}, "http://croft.local/", "http://192.168.1.20/", ""},
		{"no discovery", func(b *api.Box) { b.Discovery = nil }, "http://192.168.1.20/", "", ""},
		{"probing", func(b *api.Box) { b.Discovery.State = "probing" }, "http://croft.local/", "http://192.168.1.20/", "The name is being claimed; it works in a moment."},
		{"no network", func(b *api.Box) { b.Network = nil }, "http://croft.local/", "", "The part that knows the addresses does not answer. It is probably back in a moment."},
		{"cable pulled", func(b *api.Box) {
			b.Network.Interfaces[0].Up, b.Discovery.State = false, "no-network"
		}, "", "", "No address yet. Is the network cable plugged in?"},
		{"IPv6 only", func(b *api.Box) {
			b.Network.Interfaces[0].Addresses = []netip.Prefix{netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("fd00::2/64")}
		}, "http://croft.local/", "http://[fd00::2]/", ""},
	} {
		b := wellBox()
		tt.change(b)
		r := c.view(b, "http").Reach
		if r.URL != tt.url || strings.Join(r.More, " ") != tt.more || r.Note != tt.note {
			t.Errorf("%s: %q %q %q", tt.name, r.URL, r.More, r.Note)
		}
	}
}

func TestWords(t *testing.T) {
	c := english()
	for d, want := range map[time.Duration]string{
		0: "a moment", 30 * time.Second: "30 seconds", 89 * time.Second: "89 seconds", 2 * time.Minute: "2 minutes",
		89 * time.Minute: "89 minutes", 2 * time.Hour: "2 hours", 36 * time.Hour: "2 days", 240 * time.Hour: "10 days",
	} {
		if got := c.duration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 MB", 12_600_000: "13 MB", 29_700_000_000: "29.7 GB"} {
		if got := c.size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestBoot(t *testing.T) {
	c := english()
	ran := api.Service{Title: "Web page", State: api.StateRunning, SinceMS: 7000}
	restarted, starting := ran, ran
	restarted.Restarts, starting.State = 1, api.StateStarting
	for _, tt := range []struct {
		name string
		sys  api.System
		text string
		bars string
	}{
		{"none", api.System{}, "Still starting", ""},
		{"steps", api.System{Phases: []api.Phase{
			{Title: "One", StartMS: 1000, TookMS: 500}, {Title: "Two", StartMS: 1500, TookMS: 500, Error: "x"},
		}}, "Ready in 2.0 seconds", "One 50+25 0.5 s, Two 75+25 0.5 s"},
		{"a step runs", api.System{Phases: []api.Phase{{Title: "One", StartMS: 1000, TookMS: -1}}}, "Still starting", "One 99+1 running"},
		{"services", api.System{
			UptimeMS: 9000, Phases: []api.Phase{{Title: "Services", StartMS: 1000, TookMS: 10}},
			Services: []api.Service{ran, restarted, {State: api.StateCrashing}},
		}, "Ready in 2.0 seconds", "Services 50+1 0.0 s, Web page 50+50 1.0 s"},
		{"a service starts", api.System{
			UptimeMS: 2000, Phases: []api.Phase{{Title: "Services", StartMS: 1000, TookMS: 10}}, Services: []api.Service{starting},
		}, "Still starting", "Services 99+1 0.0 s, Web page 99+1 running"},
		{"a service starts again, much later", api.System{
			UptimeMS: 9e6, Phases: []api.Phase{{Title: "Services", StartMS: 1000, TookMS: 1000}}, Services: []api.Service{starting},
		}, "Ready in 2.0 seconds", "Services 50+50 1.0 s"},
	} {
		v := c.boot(&tt.sys)
		var bars []string
		for _, p := range v.Phases {
			bars = append(bars, fmt.Sprintf("%s %.0f+%.0f %s", p.Title, p.X, p.Width, p.Took))
		}
		if got := strings.Join(bars, ", "); v.Text != tt.text || got != tt.bars {
			t.Errorf("%s: %q %q", tt.name, v.Text, got)
		}
	}
}

func TestConfined(t *testing.T) {
	c := english()
	held, granted, open := api.Probe{Name: "mount", Held: true}, api.Probe{Name: "raw-socket", Granted: true}, api.Probe{Name: "ptrace", Note: "traced"}
	for _, tt := range []struct {
		name     string
		confined *api.Confined
		tone     string
		apart    string
		granted  string
		open     string
	}{
		{"not tested", nil, toneOK, "Not tested yet", "", ""},
		{"all held", &api.Confined{OK: true, Probes: []api.Probe{held, held}}, toneOK, "Yes: all 2 tests held", "", ""},
		{
			"one granted", &api.Confined{OK: true, Probes: []api.Probe{held, granted}}, toneOK, "Yes: 1 test held",
			"It may, because it has to: send raw packets", "",
		},
		{
			"one open", &api.Confined{Probes: []api.Probe{held, granted, open}}, toneLook, "Not fully. This did not hold:",
			"It may, because it has to: send raw packets", "ptrace: traced",
		},
	} {
		v := c.service(api.Service{State: api.StateRunning, Confined: tt.confined})
		if v.Tone != tt.tone || v.Apart != tt.apart || v.Granted != tt.granted || strings.Join(v.Open, " ") != tt.open {
			t.Errorf("%s: %+v", tt.name, v)
		}
	}
}

// Nothing in the templates needs what the Content-Security-Policy forbids.
func TestTemplatesKeepThePolicy(t *testing.T) {
	names, err := filepath.Glob("templates/*.html")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	bad := regexp.MustCompile(`(?i)\sstyle=|\son[a-z]+=|<style|<script>|https?://|javascript:`)
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if m := bad.Find(b); m != nil {
			t.Errorf("%s has %q", name, m)
		}
	}
}

func TestWeight(t *testing.T) {
	v := testVisit(t)
	if n := len(v.assets["style.css"].plain); n >= 24_000 {
		t.Errorf("the style sheet has %d bytes", n)
	}
	var page bytes.Buffer
	if err := v.tmpl.ExecuteTemplate(&page, "page", v.page("box", v.text.view(wellBox(), "http"))); err != nil {
		t.Fatal(err)
	}
	sum := len(zip(page.Bytes()))
	for _, name := range []string{"style.css", "app.js", "icon.svg"} { // the others are for home screens
		sum += len(v.assets[name].zipped())
	}
	if sum > 30_000 {
		t.Errorf("the first page takes %d bytes", sum)
	}
	t.Logf("page and assets, compressed: %d bytes", sum)
}

// What other processes say is shown, never obeyed.
func TestHostileStrings(t *testing.T) {
	v := testVisit(t)
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	b := wellBox()
	y := &b.System
	y.Name, y.ID, y.Version, y.Slot, y.Board.Model = evil, evil, evil, evil, evil
	y.Services = []api.Service{{
		Name: evil, Title: evil, State: evil, Status: evil, LastExit: evil,
		Confined: &api.Confined{Probes: []api.Probe{{Name: evil, Note: evil}}},
	}}
	y.Phases = []api.Phase{{Name: evil, Title: evil, Error: evil, Note: evil}}
	y.Gaps = []api.Gap{{Name: evil, Text: evil, Detail: evil, Weight: evil}}
	b.Network.Interfaces = []api.Interface{{Name: evil, MAC: evil, Method: evil, Problem: evil}}
	b.Network.Clock.Text, b.Network.Clock.Certainty = evil, evil
	b.Discovery.Name, b.Discovery.Wanted, b.Discovery.Conflict = evil, evil, evil
	b.Notices = []api.Notice{{Name: evil, Text: evil, Next: evil, Weight: "warn"}}
	for _, mode := range []string{api.ModeNormal, api.ModeRescue} {
		y.Mode = mode
		y.Rescue = &api.Rescue{Code: evil, Text: evil, Detail: evil, Check: &api.CheckDone{Findings: []string{evil}}}
		var page bytes.Buffer
		if err := v.tmpl.ExecuteTemplate(&page, "page", v.page("box", v.text.view(b, "http"))); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(page.String(), "<script>") || strings.Contains(page.String(), "<img") {
			t.Errorf("%s: a string got out of its place", mode)
		}
		if n := strings.Count(page.String(), "alert(1)"); n < 20 {
			t.Errorf("%s: only %d hostile strings on the page", mode, n)
		}
	}
}

func FuzzView(f *testing.F) {
	seed, err := json.Marshal(wellBox())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"system":{"mode":"rescue","phases":[{"start_ms":-9,"took_ms":-2}],"vitals":{"mem_total":-1,"data":{"size":-1}}}}`))
	f.Add([]byte(`{"system":{"mode":"rescue","rescue":{"progress":-1e300}},"network":{},"discovery":{"name":"x"}}`))
	v := testVisit(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var b api.Box
		if json.Unmarshal(data, &b) != nil {
			return
		}
		var page bytes.Buffer
		if err := v.tmpl.ExecuteTemplate(&page, "page", v.page("box", v.text.view(&b, "http"))); err != nil {
			t.Fatal(err)
		}
	})
}

// The page does not say that the data is safe when it is not.
func TestRescueSafe(t *testing.T) {
	c := english()
	for code, want := range map[string]string{
		"no-marker": c["rescue.safe"], "": c["rescue.safe"], api.RescueUnfinished: c["rescue.erased"],
	} {
		if v := c.rescue(&api.Rescue{Code: code}); v.Safe != want || want == "" {
			t.Errorf("%s: %q, want %q", code, v.Safe, want)
		}
	}
}
