package webui

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// stream is a stream of events as a browser reads it.
type stream struct {
	t    *testing.T
	sc   *bufio.Scanner
	stop func()
}

func openStream(t *testing.T, srv *httptest.Server, path string, query url.Values, header ...string) stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+path+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("%s: %s %s", path, resp.Status, got)
	}
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	s := stream{t, sc, func() { cancel(); resp.Body.Close() }}
	t.Cleanup(s.stop)
	return s
}

// next is the data of the next event of that name.
func (s stream) next(event string) string {
	s.t.Helper()
	for s.sc.Scan() {
		if s.sc.Text() == "event: "+event {
			s.sc.Scan()
			return strings.TrimPrefix(s.sc.Text(), "data: ")
		}
	}
	s.t.Fatalf("the stream ended before %q: %v", event, s.sc.Err())
	return ""
}

func (s stream) view() map[string]string {
	s.t.Helper()
	v := map[string]string{}
	if err := json.Unmarshal([]byte(s.next("view")), &v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (f *fakeCore) send(t *testing.T, event string, what any) {
	t.Helper()
	data, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	f.events <- ":\n\nevent: " + event + "\ndata: " + string(data) + "\n\n"
}

func TestLive(t *testing.T) {
	f, srv, c := start(t)
	f.on["GET /history"] = swinging(api.Range24h)
	f.on["GET /logs"] = api.List[api.LogLine]{Items: []api.LogLine{{ID: "1", Service: "core", Level: "info", Text: "began"}}}
	of := func(page string) url.Values {
		return url.Values{"version": {testVisit(t).version()}, "rescue": {"no"}, "page": {page}}
	}

	for _, tt := range []struct{ page, region, has, then string }{
		{"/", "headline", "All is well", "Almost"},
		{"/?range=30d", "vitals", `range=30d" data-live-link aria-current="true"`, "50 °C"},
		{"/services", "service-list", "Running", "Keeps failing"},
		{"/services/core", "service-head", "Running", "Keeps failing"},
		{"/alerts", "alert-cards", "Nothing.", "got too hot"},
	} {
		t.Run(tt.page, func(t *testing.T) {
			s := openStream(t, srv, "/live", of(tt.page), signedIn...)
			s.next("beat")
			b := wellBox()
			f.send(t, "box", b)
			if v := s.view(); !strings.Contains(v[tt.region], tt.has) {
				t.Errorf("first: %v", v)
			}
			*b.System.Vitals.Temperature = 50
			b.System.Services[0].State = api.StateCrashing
			b.Alerts = []api.Alert{{ID: 7, Name: "hot", Active: true}}
			f.send(t, "box", b)
			if v := s.view(); tt.region != "headline" && !strings.Contains(v[tt.region], tt.then) {
				t.Errorf("then: %v", v)
			} else if len(v) > 4 {
				t.Errorf("%d regions changed", len(v))
			}
		})
	}

	s := openStream(t, srv, "/live", of("/"), signedIn...)
	s.next("beat")
	b := wellBox()
	b.System.Mode = api.ModeRescue
	f.send(t, "box", b)
	s.next("reload")

	old := of("/")
	old.Set("version", "old")
	openStream(t, srv, "/live", old, signedIn...).next("reload")
	openStream(t, srv, "/live", of("/"), "Cookie", "croft_session=other").next("reload")
	s = openStream(t, srv, "/live", of("/"), signedIn...)
	s.next("beat")
	f.events <- "event: end\ndata: {}\n\n"
	s.next("reload")

	f.session = someone(api.RoleMember)
	openStream(t, srv, "/live", of("/alerts"), signedIn...).next("reload")
	f.session = someone(api.RoleSetup)
	openStream(t, srv, "/live", of("/services"), signedIn...).next("reload")

	for _, page := range []string{"/nothing", "/logs"} {
		if resp, _ := get(t, c, "GET", srv.URL+"/live?"+of(page).Encode(), nil, signedIn...); resp.StatusCode != 404 {
			t.Errorf("%s: %s", page, resp.Status)
		}
	}
	f.mu.Lock()
	f.box = nil
	f.mu.Unlock()
	if resp, _ := get(t, c, "GET", srv.URL+"/live?"+of("/").Encode(), nil); resp.StatusCode != 503 {
		t.Errorf("while core is away: %s", resp.Status)
	}
}

func TestLiveLogs(t *testing.T) {
	f, srv, _ := start(t)
	line := func(id, text string) api.LogLine {
		return api.LogLine{ID: id, Service: "core", Level: "warn", Text: text, Time: time.Unix(1.7e9, 0), Boot: "b"}
	}
	f.on["GET /logs"] = api.List[api.LogLine]{Items: []api.LogLine{line("2", "second"), line("1", "first")}}
	s := openStream(t, srv, "/logs/live", url.Values{
		"version": {testVisit(t).version()}, "page": {"/logs?service=core&level=warn&q=a+b&after=x&evil=1"},
	}, signedIn...)
	lines := func() string {
		t.Helper()
		var html string
		if err := json.Unmarshal([]byte(s.next("lines")), &html); err != nil {
			t.Fatal(err)
		}
		return html
	}
	if got := lines(); strings.Index(got, "second") > strings.Index(got, "first") || !strings.Contains(got, `id="line-1"`) {
		t.Errorf("first: %s", got)
	}
	for path, want := range map[string]string{"/logs": "level=warn&limit=100&q=a+b&service=core", "/logs/stream": "level=warn&q=a+b&service=core"} {
		if r, _ := f.last(path); r == nil || r.URL.RawQuery != want {
			t.Errorf("%s: %v", path, r)
		}
	}
	f.send(t, "line", line("3", "three </li><script>alert(1)</script>"))
	if got := lines(); !strings.Contains(got, "three &lt;/li&gt;") || !strings.Contains(got, "Warning") {
		t.Errorf("then: %s", got)
	}
	// What comes too fast is counted.
	var burst strings.Builder
	for range 3 * logBatch {
		data, err := json.Marshal(line("4", "x"))
		if err != nil {
			t.Fatal(err)
		}
		burst.WriteString("event: line\ndata: " + string(data) + "\n\n")
	}
	f.events <- burst.String()
	all := ""
	for n := 0; n < 3*logBatch; {
		got := lines()
		all += got
		n += strings.Count(got, `id="line-4"`)
		if _, rest, ok := strings.Cut(got, `<li class="gap">`); ok {
			dropped := 0
			for _, r := range rest {
				if r < '0' || r > '9' {
					break
				}
				dropped = 10*dropped + int(r-'0')
			}
			n += dropped
		}
	}
	if strings.Count(all, `id="line-4"`) == 0 {
		t.Error("no line of the burst")
	}
	f.session = someone(api.RoleMember)
	if resp, _ := get(t, srv.Client(), "GET", srv.URL+"/logs/live", nil, signedIn...); resp.StatusCode != 403 {
		t.Errorf("a member: %s", resp.Status)
	}
}

// swinging is a history in which all goes up and down.
func swinging(span string) api.History {
	h := api.History{Range: span, From: time.Now().Add(-24 * time.Hour), StepMS: 300_000}
	if span == api.Range30d {
		h.From, h.StepMS = time.Now().Add(-30*24*time.Hour), 9_000_000
	}
	for name, scale := range map[string]float64{
		api.SeriesCPU: 1, api.SeriesMemory: 1e7, api.SeriesTemperature: 1, api.SeriesDisk: 2e8, api.SeriesNetIn: 5e4, api.SeriesNetOut: 1e4,
	} {
		points := day(288)
		for _, p := range points {
			if p != nil {
				p.Min, p.Mean, p.Max = p.Min*scale, p.Mean*scale, p.Max*scale
			}
		}
		h.Series = append(h.Series, api.Series{Name: name, Points: points})
	}
	return h
}
