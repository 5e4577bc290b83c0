package webui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

func TestHome(t *testing.T) {
	f, srv, c := start(t)
	f.on["GET /history"] = swinging(api.Range24h)
	f.on["POST /alerts/7/seen"], f.on["POST /alerts/8/seen"] = nil, problem(404, "not-found")
	page := func(path string) string {
		t.Helper()
		resp, body := get(t, c, "GET", srv.URL+path, nil, signedIn...)
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %s", path, resp.Status)
		}
		return body
	}
	body := page("/")
	if n := strings.Count(body, `<svg class="chart"`); n != 5 {
		t.Errorf("%d charts", n)
	}
	if n := len(zip([]byte(body))); n > 15_000 {
		t.Errorf("the page takes %d bytes", n)
	} else {
		t.Logf("the page with its charts, compressed: %d bytes", n)
	}
	for _, want := range []string{"All is well", "Processor in the last 24 hours: lowest ", `class="qr"`, "croft.local", "Up for 60 minutes"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	page("/?range=30d")
	if r, _ := f.last("/history"); r.URL.RawQuery != "range=30d" {
		t.Error(r.URL)
	}
	page("/?range=%22%3E")
	if r, _ := f.last("/history"); r.URL.RawQuery != "range=24h" {
		t.Error(r.URL)
	}
	f.on["GET /history"] = problem(503, "starting")
	if body := page("/"); strings.Contains(body, `class="chart"`) || !strings.Contains(body, `class="meter"`) {
		t.Error("without a history there are no bars")
	}

	// What happened and was not seen.
	f.box.Alerts = []api.Alert{
		{ID: 7, Name: "crash-loop", Target: "discovery", Weight: "act", Count: 3, First: time.Unix(1.7e9, 0), Last: time.Unix(1.7e9+60, 0)},
	}
	body = page("/")
	for _, want := range []string{"All is well now", "“Name on your network” kept failing", "3 times", `action="/alerts/7/seen"`, `href="/services/discovery"`, "It is over."} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	// While it is so, it is one card, and the headline.
	f.box.System.Services[1].State, f.box.Alerts[0].Active = api.StateCrashing, true
	body = page("/")
	if n := strings.Count(body, "keeps failing"); n != 2 || strings.Contains(body, "kept failing") || !strings.Contains(body, `action="/alerts/7/seen"`) {
		t.Errorf("%d times", n)
	}
	for _, tt := range []struct{ id, to, location string }{{"7", "", "/"}, {"7", "/alerts", "/alerts"}, {"8", "//evil", "/"}} {
		resp, _ := get(t, c, "POST", srv.URL+"/alerts/"+tt.id+"/seen", url.Values{"to": {tt.to}}, signedIn...)
		if resp.StatusCode != 303 || resp.Header.Get("Location") != tt.location {
			t.Errorf("%+v: %s %v", tt, resp.Status, resp.Header)
		}
	}

	f.box.Network.Trial = &api.Trial{LeftMS: 41_200}
	if body := page("/"); !strings.Contains(body, `data-seconds="42"`) || !strings.Contains(body, `action="/box/network/keep"`) {
		t.Error("no card for the trial")
	}
	f.session = someone(api.RoleMember)
	if body := page("/"); strings.Contains(body, "data-seconds") {
		t.Error("a member is asked to keep the network")
	}
	f.box.TimeZone = "Asia/Tokyo"
	page("/services/core")
	f.box.TimeZone = "Nowhere/Land"
	page("/")
}

func TestServicePages(t *testing.T) {
	f, srv, c := start(t)
	f.box.System.Services[0].Restarts, f.box.System.Services[0].LastExit = 2, "killed: memory limit 64 MB"
	f.box.System.Services[0].Memory, f.box.System.Services[0].MemoryMax = 32e6, 64e6
	f.box.System.Services[0].Confined = &api.Confined{OK: true, Probes: []api.Probe{{Name: "raw-socket", Held: true}}}
	f.on["GET /logs"] = api.List[api.LogLine]{Items: []api.LogLine{{ID: "1", Service: "core", Level: "error", Text: "it broke"}}}
	f.on["POST /services/core/restart"] = nil
	for _, tt := range []struct {
		path   string
		status int
		has    []string
	}{
		{"/services", 200, []string{"<title>Services · Croft</title>", "Accounts and settings", `href="/services/core"`, "2 restarts", "Diagnosis file", `href="/logs"`}},
		{"/services/core", 200, []string{
			"Keeps accounts", "Running", "memory limit 64", "32 MB, at most 64 MB", `href="/services/core/restart"`, "it broke", "send raw packets: held",
			`href="/logs?service=core"`,
		}},
		{"/services/nothing", 404, nil},
		{"/services/core/restart", 200, []string{"Restart this part?", "away for some seconds", `action="/services/core/restart"`}},
		{"/services/nothing/restart", 404, nil},
	} {
		resp, body := get(t, c, "GET", srv.URL+tt.path, nil, signedIn...)
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %s", tt.path, resp.Status)
		}
		for _, want := range tt.has {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %q", tt.path, want)
			}
		}
	}
	resp, _ := get(t, c, "POST", srv.URL+"/services/core/restart", url.Values{}, signedIn...)
	if resp.Header.Get("Location") != "/services/core?done=service-restarted" {
		t.Error(resp.Header)
	}
	f.session = someone(api.RoleMember)
	_, body := get(t, c, "GET", srv.URL+"/services/core", nil, signedIn...)
	if strings.Contains(body, "it broke") || strings.Contains(body, "/restart") {
		t.Error("a member sees what is for owners")
	}
	for _, path := range []string{"/services/core/restart", "/logs", "/activity", "/alerts", "/diagnosis"} {
		if resp, _ := get(t, c, "GET", srv.URL+path, nil, signedIn...); resp.StatusCode != 403 {
			t.Errorf("a member at %s: %s", path, resp.Status)
		}
	}
}

func TestLogsPage(t *testing.T) {
	f, srv, c := start(t)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	f.on["GET /logs"] = api.List[api.LogLine]{Next: "n+1", Items: []api.LogLine{
		{ID: "2", Time: at, Boot: "b", Service: "core", Level: "warn", Text: "second", Fields: json.RawMessage(`{"err":"no","n":5,"list":[1,{"a":2}]}`)},
		{ID: "1", Time: at, Boot: "a", Service: "init", Level: "info", Text: strings.Repeat("é", longestText)},
	}}
	_, body := get(t, c, "GET", srv.URL+"/logs?service=init&level=warn&q=+a%22b+&evil=1", nil, signedIn...)
	for _, want := range []string{
		`value="a&#34;b"`, `<option value="init" selected>`, `<option value="warn" selected>`, "second", "Warning", "<dt>list</dt><dd>[1,{&#34;a&#34;:2}]</dd>",
		"The box was started", `href="/logs?after=n%2B1&amp;level=warn&amp;q=a%22b&amp;service=init"`, `data-live="/logs/live"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	if r, _ := f.last("/logs"); r.URL.RawQuery != "level=warn&limit=100&q=a%22b&service=init" {
		t.Error(r.URL)
	}
	_, body = get(t, c, "GET", srv.URL+"/logs?after=n%2B1&level=silly", nil, signedIn...)
	if strings.Contains(body, "data-live") || !strings.Contains(body, "Back to the newest") {
		t.Error("an older page follows the box")
	}
	f.on["GET /logs"] = problem(422, "invalid")
	if resp, body := get(t, c, "GET", srv.URL+"/logs?after=x", nil, signedIn...); resp.StatusCode != 200 || !strings.Contains(body, `role="alert"`) {
		t.Errorf("%s", resp.Status)
	}
}

// file is an answer that is no JSON.
type file struct {
	contentType string
	body        string
}

func TestDiagnosis(t *testing.T) {
	f, srv, c := start(t)
	f.on["GET /diagnosis"] = file{"application/zip", strings.Repeat("zip", 50_000)}
	resp, body := get(t, c, "GET", srv.URL+"/diagnosis", nil, signedIn...)
	if body != strings.Repeat("zip", 50_000) || !regexp.MustCompile(`^attachment; filename="croft-diagnosis-[0-9-]+\.zip"$`).MatchString(resp.Header.Get("Content-Disposition")) {
		t.Errorf("%v, %d bytes", resp.Header, len(body))
	}
	f.on["GET /diagnosis"] = problem(409, "refused")
	if resp, _ := get(t, c, "GET", srv.URL+"/diagnosis", nil, signedIn...); resp.StatusCode != 409 || resp.Header.Get("Content-Disposition") != "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

func TestActivity(t *testing.T) {
	f, srv, c := start(t)
	now := time.Now()
	var list []api.AuditEntry
	for i, a := range api.AuditActions() {
		list = append(list, api.AuditEntry{
			ID: int64(1000 - i), At: now.Add(-time.Duration(i) * time.Hour), Action: a, Who: "Ada", Target: "Grace", Place: "192.168.1.7",
			Args: map[string]string{"role": "member", "device": "Safari, iPhone"},
		})
	}
	f.on["GET /audit"] = api.List[api.AuditEntry]{Items: list, Next: "n"}
	_, body := get(t, c, "GET", srv.URL+"/activity", nil, signedIn...)
	for _, want := range []string{"Today", "Ada signed in", "Ada made Grace member", "from 192.168.1.7", "Safari, iPhone", `href="/activity?after=n"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	_, body = get(t, c, "GET", srv.URL+"/activity?kind=people", nil, signedIn...)
	if strings.Contains(body, "signed in") || !strings.Contains(body, "Ada invited") && !strings.Contains(body, "made an invitation") {
		t.Error("the filter")
	}
	if r, _ := f.last("/audit"); r.URL.RawQuery != "after=n&limit=200" {
		t.Error(r.URL)
	}
	f.on["GET /audit"] = api.List[api.AuditEntry]{}
	if _, body := get(t, c, "GET", srv.URL+"/activity", nil, signedIn...); !strings.Contains(body, "Nothing yet.") {
		t.Error("no words for nothing")
	}

	// Each action has its sentence in each language, with every name in its place.
	for _, l := range catalogues() {
		for _, action := range api.AuditActions() {
			for _, e := range []api.AuditEntry{
				{Who: "Ada", Target: "Grace"},
				{Who: "Ada", Target: "Ada"},
				{Target: "Grace"},
				{Who: "Ada"},
				{},
				{Who: "Ada", Target: "Grace", Args: map[string]string{"name": "Eve", "role": "owner", "again": "yes", "device": "x"}},
			} {
				e.Action = action
				if text := l.entry(e).Text; text == action || strings.ContainsAny(text, "{}%") || strings.HasPrefix(text, " ") && e.Target != "" {
					t.Errorf("%s: %s: %q", l["lang"], action, text)
				}
			}
		}
		for _, name := range api.AlertNames() {
			k := l.alert(&api.Alert{Name: name, Target: "core"})
			if k.Title == "" || k.Why == "" || k.Next == "" || strings.ContainsAny(k.Title+k.Why+k.Next, "{}") {
				t.Errorf("%s: %s: %+v", l["lang"], name, k)
			}
		}
	}
}

func TestSeen(t *testing.T) {
	for want, e := range map[string]api.AuditEntry{
		"Ada has seen: The box got too hot":               {Target: "hot"},
		"Ada has seen: “Web page” kept failing":           {Target: "crash-loop", Args: map[string]string{"target": "webui"}},
		"Ada has seen: “Something” kept failing":          {Target: "crash-loop"},
		"Ada has seen: something that is not in any list": {Target: "something that is not in any list"},
	} {
		e.Action, e.Who = "alert-seen", "Ada"
		if got := english().entry(e).Text; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestDays(t *testing.T) {
	zone := berlin(t)
	now := time.Date(2026, 11, 21, 0, 30, 0, 0, zone)
	at := func(d time.Duration) api.AuditEntry {
		return api.AuditEntry{Action: "signed-in", At: now.Add(-d).UTC()}
	}
	var got []string
	for _, d := range english().days([]api.AuditEntry{at(0), at(time.Hour), at(20 * time.Hour), at(30 * time.Hour)}, zone, now) {
		got = append(got, fmt.Sprintf("%s %d", d.Title, len(d.Entries)))
	}
	if s := strings.Join(got, "; "); s != "Today 1; Yesterday 2; Thursday, 19 Nov 2026 1" {
		t.Error(s)
	}
}

func TestNamed(t *testing.T) {
	args := map[string]string{"who": "{target}", "target": "T"}
	for text, want := range map[string]string{
		"{who} did": "{target} did", "x {no} y": "x  y", "{who": "", "a } b": "a } b", "": "", "{target}{target}": "TT", "{}": "",
	} {
		if got := named(text, args); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// What others say is shown on these pages, never obeyed.
func TestHostileRooms(t *testing.T) {
	f, srv, c := start(t)
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	y := &f.box.System
	y.Services = append(y.Services, api.Service{
		Name: "x", Title: evil, State: evil, Status: evil, LastExit: evil,
		Confined: &api.Confined{Probes: []api.Probe{{Name: evil, Note: evil}}},
	})
	f.box.Alerts = []api.Alert{
		{ID: 1, Name: evil, Text: evil, Next: evil, Target: evil, Weight: evil, Args: map[string]string{evil: evil}},
		{ID: 2, Name: "crash-loop", Target: evil},
	}
	f.box.TimeZone = evil
	huge := math.MaxFloat64
	f.on["GET /history"] = api.History{Range: evil, StepMS: math.MaxInt64, Series: []api.Series{
		{Name: api.SeriesCPU, Points: []*api.Point{{Min: -huge, Mean: huge, Max: huge}, nil}}, {Name: api.SeriesNetIn, Points: []*api.Point{{Max: huge}}}, {Name: evil},
	}}
	f.on["GET /logs"] = api.List[api.LogLine]{Next: evil, Items: []api.LogLine{
		{ID: evil, Boot: evil, Service: evil, Level: evil, Text: evil, Fields: json.RawMessage(`{"` + `\u0022><script>` + `":"<img src=x onerror=alert(1)>"}`)},
		{ID: "2", Service: evil, Text: evil + "\r\nevent: reload\r\ndata: {}\r\n\r\n", Fields: json.RawMessage(`[1]`)},
	}}
	f.on["GET /audit"] = api.List[api.AuditEntry]{Next: evil, Items: []api.AuditEntry{
		{Action: evil, Who: evil, Target: evil, Place: evil, Args: map[string]string{"role": evil, "device": evil}},
		{Action: "person-changed", Who: evil, Target: evil, Args: map[string]string{"name": evil}},
		{Action: "alert-seen", Who: evil, Target: evil, Args: map[string]string{"target": evil}},
	}}
	for _, lang := range []string{"en", "de"} {
		for _, path := range []string{"/", "/?range=30d", "/services", "/services/x", "/services/x/restart", "/logs", "/logs?q=" + url.QueryEscape(evil) + "&service=" + url.QueryEscape(evil), "/activity", "/activity?kind=people", "/alerts"} {
			resp, body := get(t, c, http.MethodGet, srv.URL+path, nil, append(signedIn, "Accept-Language", lang)...)
			if resp.StatusCode != 200 || strings.Contains(body, "<script>") || strings.Contains(body, "<img") {
				t.Errorf("%s: %s, or a string got out of its place", path, resp.Status)
			}
		}
	}
	s := openStream(t, srv, "/logs/live", url.Values{"version": {testVisit(t).version()}, "page": {"/logs"}}, signedIn...)
	if got := s.next("lines"); !strings.Contains(got, "event: reload") || strings.Contains(got, "<script>") {
		t.Errorf("a line got out of its event: %s", got)
	}
}

func FuzzFields(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":"x","c":{"d":[null]}}`))
	f.Add([]byte(`{"":"\ud800"}`))
	v := testVisit(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var page bytes.Buffer
		lines := v.text.logs([]api.LogLine{{ID: "1", Text: string(data), Fields: data}, {ID: "2", Boot: "x"}})
		if err := v.tmpl.ExecuteTemplate(&page, "log-lines", lines); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(page.String(), "<script") {
			t.Fatal(page.String())
		}
	})
}
