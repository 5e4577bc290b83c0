package webui

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// cookies are what a browser would send after the answers.
func cookies(jar map[string]string, resp *http.Response) string {
	for _, c := range resp.Cookies() {
		if jar[c.Name] = c.Value; c.MaxAge < 0 {
			delete(jar, c.Name)
		}
	}
	var out []string
	for name, value := range jar {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// Every state of set-up has its page, for who is concerned and for who is not.
func TestStart(t *testing.T) {
	f, srv, c := start(t)
	for _, tt := range []struct {
		name  string
		setup api.Setup
		role  string // of who asks; "" for a stranger
		to    string // where it leads; "" for a page
		has   string
	}{
		{"new", api.Setup{Step: api.StepClaim}, "", "", `action="/claim" data-scan`},
		{"busy elsewhere", api.Setup{Step: api.StepName, Busy: true}, "", "", "Another phone is setting this box up"},
		{"quiet elsewhere", api.Setup{Step: api.StepAccount}, "", "", "Welcome to your Croft"},
		{"name", api.Setup{Step: api.StepName, Mine: true, Busy: true}, api.RoleSetup, "/setup/name", ""},
		{"account", api.Setup{Step: api.StepAccount, Mine: true}, api.RoleSetup, "/setup/account", ""},
		{"zone", api.Setup{Step: api.StepZone, Mine: true}, api.RoleOwner, "/setup/time-zone", ""},
		{"zone, signed out", api.Setup{Step: api.StepZone}, "", "/signin", ""},
		{"done, signed out", api.Setup{Step: api.StepDone}, "", "/signin", ""},
		{"done", api.Setup{Step: api.StepDone, Mine: true}, api.RoleOwner, "", "All is well"},
		{"member", api.Setup{Step: api.StepDone, Mine: true}, api.RoleMember, "", "All is well"},
		{"rescue", api.Setup{Step: api.StepRescue}, "", "", "on the box&#39;s screen now"},
		{"locked", api.Setup{Step: api.StepLocked}, "", "", `href="/recover"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.setup, f.session = tt.setup, someone(tt.role)
			var header []string
			if tt.role != "" {
				header = signedIn
			}
			resp, body := get(t, c, "GET", srv.URL+"/", nil, header...)
			if resp.Header.Get("Location") != tt.to || tt.to == "" && (resp.StatusCode != 200 || !strings.Contains(body, tt.has)) {
				t.Errorf("%s %v %s", resp.Status, resp.Header, body)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	f, srv, c := start(t)
	f.setup = api.Setup{Step: api.StepClaim}
	form := url.Values{"code": {" 7k3m-q9xa "}}
	resp, _ := get(t, c, "POST", srv.URL+"/claim", form, "X-Forwarded-For", "192.168.1.7", "X-Forwarded-Proto", "https", "Cookie", "a=b")
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/" || resp.Header.Values("Set-Cookie")[0] != "croft_session=good; Path=/; HttpOnly" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	r, body := f.last("/claim")
	if body != `{"code":"7k3m-q9xa"}` || r.Header.Get("X-Forwarded-For") != "192.168.1.7" || r.Header.Get("X-Forwarded-Proto") != "https" ||
		r.Header.Get("Cookie") != "a=b" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("core got %v %q", r.Header, body)
	}
	for _, tt := range []struct {
		answer   *api.Problem
		location string
		has      string
	}{
		{problem(403, "wrong-code"), "", "That is not this box&#39;s claim code."},
		{problem(422, "code-format"), "", "A claim code has eight letters and digits."},
		{&api.Problem{Type: "/problems/too-many-tries", Status: 429, RetryAfter: 40}, "", "Wait 40 seconds"},
		{&api.Problem{Type: "/problems/too-many-tries", Status: 429, RetryAfter: 1e9}, "", "Wait 24 hours"},
		{problem(503, "starting"), "", "Almost there"},
		{problem(410, "code-void"), "/signin?why=claimed", ""},
		{problem(409, "already-claimed"), "/signin?why=claimed", ""},
		{problem(500, "something-new"), "", "something-new"},
	} {
		f.on["POST /claim"] = tt.answer
		resp, body := get(t, c, "POST", srv.URL+"/claim", form)
		if resp.Header.Get("Location") != tt.location || tt.location == "" && (resp.StatusCode != tt.answer.Status || !strings.Contains(body, tt.has)) {
			t.Errorf("%s: %s %v %s", tt.answer.Type, resp.Status, resp.Header, body)
		}
		if strings.Contains(body, "7k3m") {
			t.Errorf("%s: the code is in the page", tt.answer.Type)
		}
	}
	if resp, _ := get(t, c, "POST", srv.URL+"/claim", url.Values{"code": {strings.Repeat("x", maxForm)}}); resp.StatusCode != 413 {
		t.Errorf("a large form: %s", resp.Status)
	}
	if resp, _ := get(t, c, "GET", srv.URL+"/claim", nil); resp.Header.Get("Location") != "/" {
		t.Errorf("loading the page of a wrong code again: %s", resp.Status)
	}
}

// The second phone learns that it is not the first, for how long, and goes on without typing the code again.
func TestClaimedByAnother(t *testing.T) {
	f, srv, c := start(t)
	f.setup = api.Setup{Step: api.StepName, Busy: true}
	f.on["POST /claim"] = &api.Problem{Type: "/problems/claimed-by-another", Status: 409, RetryAfter: 420}
	resp, body := get(t, c, "POST", srv.URL+"/claim", url.Values{"code": {"7K3M-Q9XA"}})
	if resp.StatusCode != 409 || !strings.Contains(body, "can go on in 7 minutes") || !strings.Contains(body, "data-again") || strings.Contains(body, "7K3M") {
		t.Errorf("%s %s", resp.Status, body)
	}
	jar := cookies(map[string]string{}, resp)
	if strings.Contains(jar, "7K3M") || !strings.HasPrefix(jar, "croft_claim=") {
		t.Errorf("cookies: %s", jar)
	}
	delete(f.on, "POST /claim")
	resp, _ = get(t, c, "POST", srv.URL+"/claim", url.Values{}, "Cookie", jar)
	if _, body := f.last("/claim"); resp.Header.Get("Location") != "/" || body != `{"code":"7K3M-Q9XA"}` {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
}

func TestSignIn(t *testing.T) {
	f, srv, c := start(t)
	form := url.Values{"name": {"Ada"}, "password": {" a good pass phrase "}, "to": {"/people"}}
	resp, body := get(t, c, "GET", srv.URL+"/signin?to=/people", nil)
	if resp.StatusCode != 200 || !strings.Contains(body, `value="/people"`) || !strings.Contains(body, `autocomplete="current-password"`) {
		t.Errorf("%s %s", resp.Status, body)
	}
	resp, _ = get(t, c, "POST", srv.URL+"/signin", form)
	if _, sent := f.last("/session"); resp.Header.Get("Location") != "/people" || sent != `{"name":"Ada","password":" a good pass phrase "}` {
		t.Errorf("%s %v %s", resp.Status, resp.Header, sent)
	}
	for answer, want := range map[*api.Problem]string{
		problem(403, "wrong-password"):                                            "Name and password don&#39;t go together.",
		{Type: "/problems/too-many-tries", Status: 429, RetryAfter: 40}:           "Wait 40 seconds",
		problem(422, "invalid", api.FieldProblem{Path: "/name", Code: "missing"}): "Something is needed here.",
	} {
		f.on["POST /session"] = answer
		resp, body := get(t, c, "POST", srv.URL+"/signin", form)
		if resp.StatusCode != answer.Status || !strings.Contains(body, want) || !strings.Contains(body, `value="Ada"`) || strings.Contains(body, "pass phrase") {
			t.Errorf("%s: %s %s", answer.Type, resp.Status, body)
		}
	}
	if resp, _ := get(t, c, "GET", srv.URL+"/signin?to=/box", nil, signedIn...); resp.Header.Get("Location") != "/box" {
		t.Errorf("signed in already: %s %v", resp.Status, resp.Header)
	}
	f.setup.Step = api.StepClaim
	if resp, _ := get(t, c, "GET", srv.URL+"/signin", nil); resp.Header.Get("Location") != "/" {
		t.Errorf("nobody's box: %s %v", resp.Status, resp.Header)
	}
}

// A link can't send whoever signs in to another place.
func TestLocal(t *testing.T) {
	for to, want := range map[string]string{
		"/": "/", "/people?x=1": "/people?x=1", "": "/", "people": "/", "//evil.com": "/", "https://evil.com": "/", `/\evil.com`: "/",
		"/\t/evil.com": "/", "javascript:alert(1)": "/", "/%zz": "/", "\\\\evil.com": "/", "/a\r\nSet-Cookie: x": "/",
	} {
		if got := local(to); got != want {
			t.Errorf("%q: %q", to, got)
		}
	}
}

// The password of the first screen is not in the second, and not readable in the cookie between them.
func TestSecondFactor(t *testing.T) {
	f, srv, c := start(t)
	f.on["POST /session"] = problem(401, "second-factor")
	resp, _ := get(t, c, "POST", srv.URL+"/signin", url.Values{"name": {"Ada"}, "password": {"pass phrase"}, "to": {"/me"}}, "X-Forwarded-Proto", "https")
	header := resp.Header.Get("Set-Cookie")
	for _, want := range []string{"__Secure-croft_signin=", "Path=/signin", "HttpOnly", "Secure", "SameSite=Strict", "Max-Age=300"} {
		if !strings.Contains(header, want) {
			t.Errorf("no %s in %s", want, header)
		}
	}
	resp, _ = get(t, c, "POST", srv.URL+"/signin", url.Values{"name": {"Ada"}, "password": {"pass phrase"}, "to": {"/me"}})
	all := map[string]string{}
	jar := cookies(all, resp)
	if resp.Header.Get("Location") != "/signin/code" || strings.Contains(jar, "phrase") {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	resp, body := get(t, c, "GET", srv.URL+"/signin/code", nil, "Cookie", jar)
	if resp.StatusCode != 200 || !strings.Contains(body, "Hello Ada.") || strings.Contains(body, "phrase") || !strings.Contains(body, `inputmode="numeric"`) {
		t.Errorf("%s %s", resp.Status, body)
	}
	if _, body = get(t, c, "GET", srv.URL+"/signin/code?with=recovery", nil, "Cookie", jar); strings.Contains(body, `inputmode="numeric"`) {
		t.Error("a recovery code can't be typed on a numeric keyboard")
	}
	f.on["POST /session"] = problem(401, "wrong-second-factor")
	if resp, body = get(t, c, "POST", srv.URL+"/signin/code", url.Values{"digits": {"000000"}}, "Cookie", jar); resp.StatusCode != 401 || !strings.Contains(body, "digits are not right") {
		t.Errorf("%s %s", resp.Status, body)
	}
	delete(f.on, "POST /session")
	resp, _ = get(t, c, "POST", srv.URL+"/signin/code", url.Values{"digits": {"123456"}}, "Cookie", jar)
	if _, sent := f.last("/session"); resp.Header.Get("Location") != "/me" || sent != `{"name":"Ada","password":"pass phrase","second_factor":"123456"}` {
		t.Errorf("%s %v %s", resp.Status, resp.Header, sent)
	}
	if cookies(all, resp); all["croft_signin"] != "" || all["croft_session"] == "" {
		t.Errorf("cookies after it: %v", all)
	}
	for _, cookie := range []string{"", "croft_signin=", "croft_signin=AAAA", "croft_claim=" + strings.TrimPrefix(jar, "croft_signin=")} {
		if resp, _ := get(t, c, "GET", srv.URL+"/signin/code", nil, "Cookie", cookie); resp.Header.Get("Location") != "/signin?why=slow" {
			t.Errorf("with %q: %s %v", cookie, resp.Status, resp.Header)
		}
	}
}

func TestSealer(t *testing.T) {
	s, now := newSealer(), time.Now()
	text := s.seal("signin", signing{Name: "Ada", Password: "secret"}, now.Add(time.Minute))
	var got signing
	if !s.open("signin", text, now, &got) || got.Password != "secret" || strings.Contains(text, "secret") {
		t.Errorf("%q %+v", text, got)
	}
	flipped := []byte(text)
	flipped[len(flipped)/2] ^= 1
	for name, ok := range map[string]bool{
		"another purpose":      s.open("claim", text, now, &got),
		"too late":             s.open("signin", text, now.Add(time.Minute), &got),
		"another process":      newSealer().open("signin", text, now, &got),
		"changed":              s.open("signin", string(flipped), now, &got),
		"cut":                  s.open("signin", text[:len(text)-4], now, &got),
		"empty":                s.open("signin", "", now, &got),
		"long":                 s.open("signin", strings.Repeat("A", 1<<20), now, &got),
		"too long to remember": s.seal("signin", strings.Repeat("x", 4000), now) != "",
	} {
		if ok {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzSealer(f *testing.F) {
	s, now := newSealer(), time.Now()
	f.Add(s.seal("x", "y", now.Add(time.Hour)))
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		var v string
		if s.open("other", text, now, &v) {
			t.Errorf("%q was opened for another purpose", text)
		}
	})
}

func TestJoin(t *testing.T) {
	f, srv, c := start(t)
	f.on["POST /join/look"] = api.JoinLook{Box: "attic", By: "Ada", Role: api.RoleMember}
	if _, body := get(t, c, "GET", srv.URL+"/join", nil); !strings.Contains(body, `action="/join" data-scan`) {
		t.Error("no form that a scanned code goes into")
	}
	all := map[string]string{}
	resp, _ := get(t, c, "POST", srv.URL+"/join", url.Values{"code": {"ABCD-EFGH-JKMN"}})
	jar := cookies(all, resp)
	if resp.Header.Get("Location") != "/join/account" || strings.Contains(jar, "ABCD") {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	_, body := get(t, c, "GET", srv.URL+"/join/account", nil, "Cookie", jar)
	for _, want := range []string{"Welcome to attic", "Ada invites you to use this box", `autocomplete="username"`, `autocomplete="new-password"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in %s", want, body)
		}
	}
	form := url.Values{"name": {"Ben"}, "password": {"pass phrase"}}
	f.on["POST /join"] = problem(422, "invalid", api.FieldProblem{Path: "/name", Code: "name-taken"}, api.FieldProblem{Path: "/password", Code: "password-common"})
	resp, body = get(t, c, "POST", srv.URL+"/join/account", form, "Cookie", jar)
	if resp.StatusCode != 422 || !strings.Contains(body, "has that name already") || !strings.Contains(body, "among the first") || !strings.Contains(body, `value="Ben"`) || strings.Contains(body, "pass phrase") {
		t.Errorf("%s %s", resp.Status, body)
	}
	delete(f.on, "POST /join")
	resp, _ = get(t, c, "POST", srv.URL+"/join/account", form, "Cookie", jar)
	if _, sent := f.last("/join"); resp.Header.Get("Location") != "/?done=joined" || sent != `{"code":"ABCD-EFGH-JKMN","name":"Ben","password":"pass phrase"}` {
		t.Errorf("%s %v %s", resp.Status, resp.Header, sent)
	}
	f.on["POST /join/look"] = api.JoinLook{Box: "attic", By: "Ada", Role: api.RoleMember, Person: "Ben"}
	if _, body = get(t, c, "GET", srv.URL+"/join/account", nil, "Cookie", jar); !strings.Contains(body, "A new password for Ben") || strings.Contains(body, `name="name"`) {
		t.Errorf("%s", body)
	}
	for answer, want := range map[*api.Problem]string{
		problem(410, "invite-void"): "used up or too old", problem(422, "code-format"): "twelve letters and digits",
		{Type: "/problems/too-many-tries", Status: 429, RetryAfter: 40}: "Wait 40 seconds",
	} {
		f.on["POST /join/look"] = answer
		for _, path := range []string{"/join", "/join/account"} {
			method := "POST"
			if path == "/join/account" {
				method = "GET"
			}
			resp, body := get(t, c, method, srv.URL+path, url.Values{"code": {"x"}}, "Cookie", jar)
			if resp.StatusCode != answer.Status || !strings.Contains(body, want) {
				t.Errorf("%s: %s %s", answer.Type, resp.Status, body)
			}
		}
	}
	if resp, _ := get(t, c, "GET", srv.URL+"/join/account", nil); resp.Header.Get("Location") != "/join" {
		t.Errorf("without a code: %s", resp.Status)
	}
}

func TestRecover(t *testing.T) {
	f, srv, c := start(t)
	form := url.Values{"code": {"7K3M-Q9XA"}, "name": {"Ada"}, "password": {"pass phrase"}}
	_, body := get(t, c, "GET", srv.URL+"/recover", nil)
	for _, want := range []string{"recover.txt", "three times in a row", `autocomplete="new-password"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	for answer, want := range map[*api.Problem]string{
		problem(403, "wrong-code"): "not the box&#39;s recovery code", problem(410, "code-void"): "not the box&#39;s recovery code",
		problem(404, "no-such-owner"): "No owner of this box has that name.",
		problem(422, "invalid", api.FieldProblem{Path: "/password", Code: "password-short"}): "too short to withstand guessing",
		{Type: "/problems/too-many-tries", Status: 429, RetryAfter: 40}:                      "Wait 40 seconds",
	} {
		f.on["POST /recover"] = answer
		resp, body := get(t, c, "POST", srv.URL+"/recover", form)
		if resp.StatusCode != answer.Status || !strings.Contains(body, want) || strings.Contains(body, "7K3M") || strings.Contains(body, "pass phrase") {
			t.Errorf("%s: %s %s", answer.Type, resp.Status, body)
		}
	}
	delete(f.on, "POST /recover")
	resp, _ := get(t, c, "POST", srv.URL+"/recover", form)
	if _, sent := f.last("/recover"); resp.Header.Get("Location") != "/?done=recovered" || sent != `{"code":"7K3M-Q9XA","name":"Ada","password":"pass phrase"}` {
		t.Errorf("%s %v %s", resp.Status, resp.Header, sent)
	}
	for step, want := range map[string]string{api.StepClaim: "/", api.StepRescue: "/", api.StepLocked: ""} {
		f.setup.Step = step
		if resp, _ := get(t, c, "GET", srv.URL+"/recover", nil); resp.Header.Get("Location") != want {
			t.Errorf("%s: %s %v", step, resp.Status, resp.Header)
		}
	}
}

func TestSetup(t *testing.T) {
	f, srv, c := start(t)
	f.session = someone(api.RoleSetup)
	f.setup = api.Setup{Step: api.StepName, Name: "croft", Mine: true}
	page := func(path string) string {
		t.Helper()
		resp, body := get(t, c, "GET", srv.URL+path, nil, signedIn...)
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %s %v", path, resp.Status, resp.Header)
		}
		return body
	}
	if body := page("/setup/name"); !strings.Contains(body, "1 of 4") || !strings.Contains(body, `value="croft"`) || !strings.Contains(body, ".local</span>") {
		t.Error(body)
	}
	for _, path := range []string{"/setup/account", "/setup/time-zone", "/setup/done"} {
		if resp, _ := get(t, c, "GET", srv.URL+path, nil, signedIn...); resp.Header.Get("Location") != "/" {
			t.Errorf("%s too early: %s %v", path, resp.Status, resp.Header)
		}
	}
	f.on["PUT /setup/name"] = problem(422, "invalid", api.FieldProblem{Path: "/name", Code: "host-name"})
	resp, body := get(t, c, "POST", srv.URL+"/setup/name", url.Values{"name": {"My Box"}}, signedIn...)
	if resp.StatusCode != 422 || !strings.Contains(body, "letters, digits and dashes only") || !strings.Contains(body, `value="My Box"`) {
		t.Errorf("%s %s", resp.Status, body)
	}
	f.on["PUT /setup/name"] = api.Setup{}
	resp, _ = get(t, c, "POST", srv.URL+"/setup/name", url.Values{"name": {" Attic.local "}}, signedIn...)
	if _, sent := f.last("/setup/name"); resp.Header.Get("Location") != "/setup/account" || sent != `{"name":"attic"}` {
		t.Errorf("%s %v %s", resp.Status, resp.Header, sent)
	}

	f.setup = api.Setup{Step: api.StepAccount, Name: "attic", Mine: true}
	if body := page("/setup/account"); !strings.Contains(body, "2 of 4") || !strings.Contains(body, `href="/setup/name"`) || !strings.Contains(body, `autocomplete="new-password"`) {
		t.Error(body)
	}
	page("/setup/name") // the way back
	form := url.Values{"name": {"Ada"}, "password": {"12345678"}}
	f.on["POST /setup/account"] = problem(422, "invalid", api.FieldProblem{Path: "/password", Code: "password-common"})
	resp, body = get(t, c, "POST", srv.URL+"/setup/account", form, signedIn...)
	if resp.StatusCode != 422 || !strings.Contains(body, "among the first") || !strings.Contains(body, `value="Ada"`) || strings.Contains(body, "12345678") {
		t.Errorf("%s %s", resp.Status, body)
	}
	f.on["POST /setup/account"] = problem(409, "already-claimed")
	if resp, _ = get(t, c, "POST", srv.URL+"/setup/account", form, signedIn...); resp.Header.Get("Location") != "/signin?why=claimed" {
		t.Errorf("another phone was faster: %s %v", resp.Status, resp.Header)
	}
	delete(f.on, "POST /setup/account")
	if resp, _ = get(t, c, "POST", srv.URL+"/setup/account", form, signedIn...); resp.Header.Get("Location") != "/setup/time-zone" || len(resp.Cookies()) != 1 {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}

	f.setup, f.session = api.Setup{Step: api.StepZone, Name: "attic", Mine: true}, someone(api.RoleOwner)
	if body := page("/setup/time-zone"); !strings.Contains(body, "3 of 4") || !strings.Contains(body, `<option value="Europe/Berlin">`) || !strings.Contains(body, "data-zone") {
		t.Error(body)
	}
	if body := page("/setup/account"); !strings.Contains(body, "Your account is made") || strings.Contains(body, `name="password"`) {
		t.Error(body)
	}
	f.on["PUT /setup/time-zone"] = problem(422, "invalid", api.FieldProblem{Path: "/time_zone", Code: "time-zone"})
	resp, body = get(t, c, "POST", srv.URL+"/setup/time-zone", url.Values{"time_zone": {"Mars/Base"}}, signedIn...)
	if resp.StatusCode != 422 || !strings.Contains(body, "does not know this time zone") || !strings.Contains(body, `<option value="Mars/Base" selected>`) {
		t.Errorf("%s %s", resp.Status, body)
	}
	f.on["PUT /setup/time-zone"], f.on["POST /setup/done"] = api.Setup{}, api.Setup{}
	resp, _ = get(t, c, "POST", srv.URL+"/setup/time-zone", url.Values{"time_zone": {"Europe/Berlin"}}, signedIn...)
	if r, _ := f.last("/setup/done"); resp.Header.Get("Location") != "/setup/done" || r == nil {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}

	f.setup = api.Setup{Step: api.StepDone, Name: "attic", Mine: true}
	for host, moved := range map[string]bool{"croft.local": true, "attic.local": false, "192.168.1.20:8080": false, "CROFT.local.:8080": true} {
		_, body := get(t, c, "GET", srv.URL+"/setup/done", nil, append(signedIn, "X-Forwarded-Host", host)...)
		if !strings.Contains(body, "4 of 4") || strings.Contains(body, "sign in there once") != moved || !strings.Contains(body, `href="http://attic.local`) {
			t.Errorf("%s: %s", host, body)
		}
	}
	f.setup.Mine = false
	f.setup.Step = api.StepName
	if resp, _ := get(t, c, "GET", srv.URL+"/setup/name", nil); resp.Header.Get("Location") != "/" {
		t.Errorf("a stranger: %s %v", resp.Status, resp.Header)
	}
}

func TestTrust(t *testing.T) {
	f, srv, c := start(t)
	const sum = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
	for agent, want := range map[string]string{
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)": "iPhone and iPad", "Mozilla/5.0 (Linux; Android 15)": "Android",
		"Mozilla/5.0 (X11; Linux x86_64)": "Linux", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0": "Firefox on a computer", "curl/8": "",
	} {
		resp, body := get(t, c, "GET", srv.URL+"/trust", nil, append(signedIn, "User-Agent", agent, "X-Croft-Ca-Sha256", sum, "X-Forwarded-Host", "attic.local:8080")...)
		if own := `<h2 id="own">` + want + `</h2>`; resp.StatusCode != 200 || strings.Contains(body, `<h2 id="own">`) != (want != "") || want != "" && !strings.Contains(body, own) {
			t.Errorf("%s: %s %s", agent, resp.Status, body)
		}
		if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "img-src 'self' https://attic.local data:;") {
			t.Errorf("policy: %s", policy)
		}
		for _, want := range []string{"2D71 1642 B726", "/croft-ca.mobileconfig", "/croft-ca.crt", "/croft-ca.pem", `data-check="https://attic.local/trust-check.svg"`, `href="https://attic.local/trust"`} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q", want)
			}
		}
	}
	for header, want := range map[string]string{"": "", "xyz": "", sum[:62]: "", strings.Repeat("g", 64): "", sum: "2D71 "} {
		if got := fingerprint(header); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q", header, got)
		}
	}
	resp, body := get(t, c, "GET", srv.URL+"/trust", nil, append(signedIn, "X-Forwarded-Host", "a.local; script-src *")...)
	if policy := resp.Header.Get("Content-Security-Policy"); policy != csp || strings.Contains(body, "data-check") {
		t.Errorf("a hostile host: %s", policy)
	}
	if _, body := get(t, c, "GET", srv.URL+"/trust", nil, append(signedIn, "X-Forwarded-Proto", "https", "X-Forwarded-Host", "attic.local")...); strings.Contains(body, "data-check") || !strings.Contains(body, "came to you encrypted") {
		t.Error("over HTTPS the picture tells nothing")
	}
	f.session, f.on["GET /me"] = someone(api.RoleMember), someone(api.RoleMember).Person
	if _, body := get(t, c, "GET", srv.URL+"/me", nil, signedIn...); !strings.Contains(body, `href="/trust"`) {
		t.Error("members are not led here")
	}
	if resp, _ := get(t, c, "GET", srv.URL+"/trust", nil); resp.Header.Get("Location") != "/signin?to=%2Ftrust" {
		t.Errorf("a stranger: %s %v", resp.Status, resp.Header)
	}
}

// Every page says everything in every language: no key shows through, and no English on a German page.
func TestDoorsInEveryLanguage(t *testing.T) {
	f, srv, c := start(t)
	f.on["POST /join/look"] = api.JoinLook{Box: "attic", By: "Ada", Role: api.RoleMember}
	sealerJar := func(name string, v any) string {
		return "croft_" + name + "=" + srv.Config.Handler.(*server).sealer.seal(name, v, time.Now().Add(time.Hour))
	}
	en := english()
	for _, cat := range catalogues() {
		for _, tt := range []struct {
			step, role, path, cookie string
		}{
			{api.StepClaim, "", "/", ""},
			{api.StepRescue, "", "/", ""},
			{api.StepLocked, "", "/", ""},
			{api.StepDone, "", "/signin", ""},
			{api.StepDone, "", "/signin/code", sealerJar("signin", signing{"Ada", "x", "/"})},
			{api.StepDone, "", "/join", ""},
			{api.StepDone, "", "/join/account", sealerJar("join", "ABCD")},
			{api.StepDone, "", "/recover", ""},
			{api.StepName, api.RoleSetup, "/setup/name", ""},
			{api.StepAccount, api.RoleSetup, "/setup/account", ""},
			{api.StepZone, api.RoleOwner, "/setup/time-zone", ""},
			{api.StepDone, api.RoleOwner, "/setup/done", ""},
			{api.StepDone, api.RoleOwner, "/trust", ""},
			{api.StepDone, api.RoleOwner, "/nothing", ""},
			{api.StepDone, api.RoleMember, "/", ""},
		} {
			f.setup, f.session = api.Setup{Step: tt.step, Name: "attic", Mine: tt.role != ""}, someone(tt.role)
			if tt.role != "" {
				tt.cookie = "croft_session=good"
			}
			resp, body := get(t, c, "GET", srv.URL+tt.path, nil, "Accept-Language", cat["lang"], "Cookie", tt.cookie, "X-Forwarded-Host", "attic.local")
			if resp.StatusCode != 200 && tt.path != "/nothing" || !strings.Contains(body, `<html lang="`+cat["lang"]+`">`) || resp.Header.Get("Content-Language") != cat["lang"] {
				t.Errorf("%s %s: %s %v", cat["lang"], tt.path, resp.Status, resp.Header)
			}
			for key, text := range en {
				if strings.Contains(body, ">"+key+"<") || strings.Contains(body, `"`+key+`"`) && strings.Contains(key, ".") && len(key) > 12 {
					t.Errorf("%s %s: the key %q shows through", cat["lang"], tt.path, key)
				}
				if cat["lang"] != "en" && cat[key] != text && len(text) > 20 && strings.Contains(body, ">"+text+"<") {
					t.Errorf("%s %s: English: %q", cat["lang"], tt.path, text)
				}
			}
		}
	}
}

func TestLanguageIsChosen(t *testing.T) {
	s, err := newServer(slog.New(slog.DiscardHandler), http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	for accept, want := range map[string]string{
		"": "en", "de": "de", "de-AT,en;q=0.5": "de", "fr, de;q=0.3, en;q=0.8": "en", "en;q=0.3,de;q=0.9": "de", "*": "en", "de;q=x": "en",
		"DE": "de", ";;;,,": "en", "de;q=0": "en",
	} {
		if got := s.language(&http.Request{Header: http.Header{"Accept-Language": {accept}}}).text["lang"]; got != want {
			t.Errorf("%q: %s", accept, got)
		}
	}
}

func FuzzLocal(f *testing.F) {
	for _, s := range []string{"/people?x=1", "//evil.com", `/\evil.com`, "https://evil.com", "/%2f/evil.com", "/\x00"} {
		f.Add(s)
	}
	base := &url.URL{Scheme: "http", Host: "croft.local", Path: "/signin"}
	f.Fuzz(func(t *testing.T, to string) {
		u, err := base.Parse(local(to))
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme {
			t.Errorf("%q leads to %v (%v)", to, u, err)
		}
	})
}
