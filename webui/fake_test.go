package webui

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/croft-os/croft/services/api"
)

// fakeCore answers as core's API does. What a test needs of it is in on: answers by method and path below /api/v1, such
// as "GET /people". What is not there is answered with 404. Nil for an answer is 204, an *api.Problem is itself.
type fakeCore struct {
	mu      sync.Mutex
	box     *api.Box     // nil: nothing answers but 503
	session *api.Session // of the cookie croft_session=good
	setup   api.Setup
	on      map[string]any
	events  chan string // what the stream says; the newest one, if there are several
	newer   chan struct{}

	got    []*http.Request
	bodies []string
}

// last is the last request to a path below /api/v1, and its body; nil if there was none.
func (f *fakeCore) last(path string) (*http.Request, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.got) - 1; i >= 0; i-- {
		if f.got[i].URL.Path == "/api/v1"+path {
			return f.got[i], f.bodies[i]
		}
	}
	return nil, ""
}

func (f *fakeCore) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := httptest.NewRecorder()
	body := ""
	if r.Body != nil {
		b, _ := io.ReadAll(r.Body)
		body = string(b)
	}
	f.got, f.bodies = append(f.got, r), append(f.bodies, body)
	in := strings.Contains(r.Header.Get("Cookie"), "croft_session=good")
	path := strings.TrimPrefix(r.URL.Path, "/api/v1")
	answer, there := f.on[r.Method+" "+path]
	if f.box == nil {
		answer, there = &api.Problem{Type: "/problems/starting", Status: 503}, true
	}
	if !there {
		switch {
		case r.Method == "GET" && path == "/setup":
			answer, there = f.setup, true
		case r.Method == "DELETE" && path == "/session":
			w.Header().Set("Set-Cookie", "croft_session=; Path=/; Max-Age=0")
			there = true
		case r.Method == "POST" && (path == "/session" || path == "/claim" || path == "/setup/account" || path == "/join" || path == "/recover"):
			w.Header().Set("Set-Cookie", "croft_session=good; Path=/; HttpOnly")
			answer, there = f.session, true
		case !in:
			answer, there = &api.Problem{Type: "/problems/signed-out", Status: 401}, true
		case path == "/session":
			answer, there = f.session, true
		case path == "/box":
			answer, there = f.box, true
		case path == "/events", path == "/logs/stream":
			resp := w.Result()
			resp.Body = f.stream(r)
			return resp, nil
		}
	}
	switch a := answer.(type) {
	case *api.Problem:
		if a.RetryAfter > 0 {
			w.Header().Set("Retry-After", "40")
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(a.Status)
		json.NewEncoder(w).Encode(a)
	case file:
		w.Header().Set("Content-Type", a.contentType)
		io.WriteString(w, a.body)
	case nil:
		w.WriteHeader(204)
		if !there {
			w.Code = 404
			json.NewEncoder(w).Encode(api.Problem{Type: "/problems/not-found", Status: 404})
		}
	default:
		w.Header().Set("ETag", `"t1"`)
		json.NewEncoder(w).Encode(a)
	}
	return w.Result(), nil
}

func (f *fakeCore) stream(r *http.Request) io.ReadCloser {
	if f.newer != nil {
		close(f.newer)
	}
	newer := make(chan struct{})
	f.newer = newer
	pr, pw := io.Pipe()
	go func() {
		defer pw.Close()
		for {
			select {
			case s, ok := <-f.events:
				if !ok {
					return
				}
				io.WriteString(pw, s)
			case <-newer:
				return
			case <-r.Context().Done():
				return
			}
		}
	}()
	return pr
}

// problem is an answer of core's.
func problem(status int, name string, fields ...api.FieldProblem) *api.Problem {
	return &api.Problem{Type: "/problems/" + name, Title: name, Status: status, Fields: fields}
}

// The cookie of who is signed in, and who it is.
var signedIn = []string{"Cookie", "croft_session=good"}

func someone(role string) *api.Session {
	s := &api.Session{ID: "s1", Role: role, Current: true}
	if role == api.RoleOwner || role == api.RoleMember {
		s.Person = &api.Person{ID: "p1", Name: "Ada", Role: role, HasPassword: true}
	}
	return s
}

// start serves the pages over a core whose box is well, set up, and used by an owner.
func start(t *testing.T) (*fakeCore, *httptest.Server, *http.Client) {
	t.Helper()
	f := &fakeCore{
		box: wellBox(), session: someone(api.RoleOwner), setup: api.Setup{Step: api.StepDone, Name: "croft"},
		on: map[string]any{}, events: make(chan string, 10),
	}
	s, err := newServer(slog.New(slog.DiscardHandler), &http.Client{Transport: f})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	c := srv.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return f, srv, c
}

func get(t *testing.T, c *http.Client, method, url string, form url.Values, header ...string) (*http.Response, string) {
	t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
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
	return resp, string(b)
}
