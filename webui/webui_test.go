package webui

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/croft-os/croft/services/api"
)

func TestPages(t *testing.T) {
	f, srv, c := start(t)
	in := []string{"Cookie", "croft_session=good"}
	for _, tt := range []struct {
		name, method, path string
		header             []string
		status             int
		has                string
	}{
		{"box", "GET", "/", in, 200, "All is well"},
		{"head", "HEAD", "/", in, 200, ""},
		{"not found", "GET", "/nothing", nil, 404, "There is nothing here"},
		{"wrong method", "GET", "/rescue", nil, 405, "That is not possible here"},
		{"post home", "POST", "/", nil, 405, "That is not possible here"},
		{"delete", "DELETE", "/signout", nil, 405, "That is not possible here"},
		{"cross-site", "POST", "/signout", []string{"Sec-Fetch-Site", "cross-site"}, 403, "Not from another website"},
		{"null origin", "POST", "/claim", []string{"Origin", "null"}, 403, "Not from another website"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := get(t, c, tt.method, srv.URL+tt.path, nil, tt.header...)
			if resp.StatusCode != tt.status || !strings.Contains(body, tt.has) {
				t.Errorf("%s %s", resp.Status, body)
			}
			for k, want := range map[string]string{
				"Content-Security-Policy": csp, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
			} {
				if got := resp.Header.Get(k); got != want {
					t.Errorf("%s: %q", k, got)
				}
			}
		})
	}
	f.box = nil
	if resp, body := get(t, c, "GET", srv.URL+"/", nil, in...); resp.StatusCode != 503 || !strings.Contains(body, "The box is starting.") {
		t.Errorf("starting: %s", resp.Status)
	}
}

func TestSignOut(t *testing.T) {
	_, srv, c := start(t)
	resp, _ := get(t, c, "POST", srv.URL+"/signout", url.Values{}, "Cookie", "croft_session=good")
	if resp.StatusCode != 303 || !strings.Contains(resp.Header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

func TestRescueForms(t *testing.T) {
	f, srv, c := start(t)
	f.session = someone(api.RoleRescue)
	f.box.System.Mode, f.box.System.Rescue = api.ModeRescue, &api.Rescue{Text: "No mark.", Detail: "errno 2"}
	in := []string{"Cookie", "croft_session=good"}
	_, body := get(t, c, "GET", srv.URL+"/?problem=not-confirmed", nil, in...)
	for _, want := range []string{"No mark.", "errno 2", `value="retry"`, `value="check"`, `value="start-over"`, "Type ERASE to", "Nothing was erased"} {
		if !strings.Contains(body, want) {
			t.Errorf("the rescue page has no %q", want)
		}
	}
	f.on["POST /rescue"] = nil
	resp, _ := get(t, c, "POST", srv.URL+"/rescue", url.Values{"action": {"start-over"}, "confirm": {" ERASE "}}, in...)
	if resp.Header.Get("Location") != "/" || !strings.Contains(f.bodies[len(f.bodies)-1], `{"action":"start-over","confirm":"ERASE"}`) {
		t.Errorf("%v %q", resp.Header, f.bodies)
	}
	for kind, want := range map[string]string{
		"not-confirmed": "/?problem=not-confirmed", "refused": "/?problem=refused", "not-rescue": "/", "action": "/?problem=refused",
	} {
		f.on["POST /rescue"] = problem(409, kind)
		if resp, _ := get(t, c, "POST", srv.URL+"/rescue", url.Values{"action": {"retry"}}, in...); resp.Header.Get("Location") != want {
			t.Errorf("%s: %v", kind, resp.Header)
		}
	}
	f.box.System.Rescue.Busy, f.box.System.Rescue.Progress = "check", 0.42
	_, body = get(t, c, "GET", srv.URL+"/", nil, in...)
	if !strings.Contains(body, `<progress id="progress" max="1" value="0.42">`) || strings.Contains(body, `value="retry"`) {
		t.Error("no progress, or actions beside it")
	}
}

// TestRescueSystem: the rescue system's page leads to where a release is installed, and who has its code may see the pages for that and no
// others.
func TestRescueSystem(t *testing.T) {
	f, srv, c := start(t)
	f.session = someone(api.RoleRescue)
	f.box.System.Mode, f.box.System.Rescue = api.ModeRescue, &api.Rescue{Code: api.RescueSystem, Text: "x", Detail: "errno 2"}
	in := []string{"Cookie", "croft_session=good"}
	_, body := get(t, c, "GET", srv.URL+"/", nil, in...)
	if !strings.Contains(body, `href="/updates"`) || !strings.Contains(body, "rescue system") || strings.Contains(body, `name="action"`) {
		t.Errorf("the page is\n%s", body)
	}
	f.on["GET /updates"] = api.Updates{State: api.UpdateIdle}
	for path, want := range map[string]int{
		"/updates": 200, "/updates/trust": 200, "/updates/trust/project": 200, "/updates/file": 200,
		"/updates/policy": 303, "/updates/back": 303, "/people": 303, "/box": 303,
	} {
		resp, body := get(t, c, "GET", srv.URL+path, nil, in...)
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
		if strings.Contains(body, `type="password"`) {
			t.Errorf("%s asks for a password that nobody has", path)
		}
	}
	f.session = someone(api.RoleMember)
	if resp, _ := get(t, c, "GET", srv.URL+"/updates", nil, in...); resp.StatusCode != 403 {
		t.Errorf("a member: %s", resp.Status)
	}
}

func TestAssets(t *testing.T) {
	_, srv, c := start(t)
	_, body := get(t, c, "GET", srv.URL+"/", nil)
	for _, part := range strings.Split(body, `"`) {
		if !strings.HasPrefix(part, "/assets/") {
			continue
		}
		resp, plain := get(t, c, "GET", srv.URL+part, nil, "Accept-Encoding", "identity")
		if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || plain == "" {
			t.Errorf("%s: %s %v", part, resp.Status, resp.Header)
		}
		resp, zipped := get(t, c, "GET", srv.URL+part, nil, "Accept-Encoding", "br;q=1, gzip")
		z, err := gzip.NewReader(strings.NewReader(zipped))
		if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: %v %v", part, resp.Header, err)
		}
		if b, err := io.ReadAll(z); err != nil || string(b) != plain {
			t.Errorf("%s: unpacks to something else", part)
		}
	}
	if resp, _ := get(t, c, "GET", srv.URL+"/assets/style.000000000000.css", nil); resp.StatusCode != 404 {
		t.Errorf("an old asset: %s", resp.Status)
	}
}

func TestRun(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, healthy, done := make(chan string, 1), make(chan error, 1), make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{
			Log: slog.New(slog.DiscardHandler), Listener: l, API: &http.Client{Transport: &fakeCore{box: wellBox()}},
			Ready: func(s string) { ready <- s },
			Watch: func(ctx context.Context, check func(context.Context) error) { healthy <- check(ctx) },
		})
	}()
	<-ready
	if err := <-healthy; err != nil {
		t.Error(err)
	}
	if resp, _ := get(t, http.DefaultClient, "GET", "http://"+l.Addr().String()+"/", nil); resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestManifest(t *testing.T) {
	_, srv, c := start(t)
	_, page := get(t, c, "GET", srv.URL+"/signin", nil)
	if !strings.Contains(page, `<link rel="manifest" href="/manifest.webmanifest">`) || !strings.Contains(page, `rel="apple-touch-icon"`) {
		t.Error("the page has no manifest")
	}
	resp, body := get(t, c, "GET", srv.URL+"/manifest.webmanifest", nil, "Accept-Language", "de")
	var m struct {
		Lang, Description, Display string
		StartURL                   string `json:"start_url"`
		Icons                      []icon
	}
	if err := json.Unmarshal([]byte(body), &m); err != nil || resp.Header.Get("Content-Type") != "application/manifest+json" {
		t.Fatalf("%v %v %s", err, resp.Header, body)
	}
	if m.Lang != "de" || m.Description != german()["manifest.text"] || m.Display != "standalone" || m.StartURL != "/" {
		t.Errorf("%+v", m)
	}
	maskable := false
	for _, i := range m.Icons {
		maskable = maskable || i.Purpose == "maskable"
		resp, body := get(t, c, "GET", srv.URL+i.Src, nil)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != i.Type {
			t.Errorf("%s: %s %v", i.Src, resp.Status, resp.Header)
		}
		if i.Type != "image/png" {
			continue
		}
		c, err := png.DecodeConfig(strings.NewReader(body))
		if err != nil || fmt.Sprintf("%dx%d", c.Width, c.Height) != i.Sizes {
			t.Errorf("%s: %v %v", i.Src, c, err)
		}
	}
	if !maskable {
		t.Error("no icon that may be cut to a shape")
	}
}
