package core

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/identity"
)

// Everything that checks a secret lets through a few wrong tries of a client, and then not even the right one: also when
// they come all at once.
func TestGuessing(t *testing.T) {
	b := start(t)
	fresh := start(t)
	fresh.set(func(f *fakes) { f.recovery = api.Recovery{Code: recoveryCode} })
	anna := b.owned(t)
	thief := *anna // has found an open session
	var inv api.Invite
	anna.must(t, "POST", "/invites", api.InviteRequest{Role: api.RoleMember, Hours: 1}, &inv)
	for _, tt := range []struct {
		name          string
		as            func() *user
		method, path  string
		wrong, right  any
		problem       string
		otherIsTooLow bool // who else asks is the same person
	}{
		{
			"claim code", fresh.stranger, "POST", "/claim",
			api.ClaimRequest{Code: "0000-0000"},
			api.ClaimRequest{Code: goodCode},
			"wrong-code", false,
		},
		{
			"recovery code", fresh.stranger, "POST", "/recover",
			api.RecoverRequest{Code: "00000000", Name: "Anna", Password: goodPassword},
			api.RecoverRequest{Code: recoveryCode, Name: "Anna", Password: goodPassword},
			"wrong-code", false,
		},
		{
			"password", b.stranger, "POST", "/session",
			api.SessionRequest{Name: "Anna", Password: "wrong"},
			api.SessionRequest{Name: "Anna", Password: goodPassword},
			"wrong-password", false,
		},
		{
			"invitation", b.stranger, "POST", "/join/look",
			api.JoinRequest{Code: "0000-0000-0000"},
			api.JoinRequest{Code: inv.Code},
			"invite-void", false,
		},
		{
			"password once more", func() *user { u := thief; return &u }, "PUT", "/me/password",
			api.PasswordChange{Old: "wrong", New: "what the thief wants"},
			api.PasswordChange{Old: goodPassword, New: "what the thief wants"},
			"wrong-password", true,
		},
		{
			"start over", func() *user { u := thief; return &u }, "POST", "/start-over",
			api.StartOverRequest{Confirm: api.StartOverWord, Password: "wrong"},
			api.StartOverRequest{Confirm: api.StartOverWord, Password: goodPassword},
			"too-many-tries", true, // the same tries
		},
		{
			"token", func() *user { return &user{b: b, bearer: "croft_" + strings.Repeat("A", 26)} }, "GET", "/box",
			nil, nil, "signed-out", false,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			judged := 0
			var wg sync.WaitGroup
			for range 4 * freeTries {
				wg.Go(func() {
					a := tt.as().at("10.0.0.1").do(t, tt.method, tt.path, tt.wrong)
					mu.Lock()
					defer mu.Unlock()
					switch a.kind() {
					case "too-many-tries":
						if a.StatusCode != 429 || a.Header.Get("Retry-After") != strconv.Itoa(a.problem.RetryAfter) || a.problem.RetryAfter < 1 {
							t.Errorf("%v %+v", a.Header, a.problem)
						}
					case tt.problem:
						judged++
					default:
						t.Errorf("%d %s", a.StatusCode, a.kind())
					}
				})
			}
			wg.Wait()
			if judged > freeTries && tt.name != "token" { // whose 128 bits are looked up before they are counted
				t.Errorf("%d wrong tries were judged", judged)
			}
			if a := tt.as().at("10.0.0.1").do(t, tt.method, tt.path, tt.right); a.kind() != "too-many-tries" {
				t.Errorf("the right one, too late: %d %s", a.StatusCode, a.kind())
			}
			if a := tt.as().at("10.0.0.2").do(t, tt.method, tt.path, tt.right); !tt.otherIsTooLow && a.kind() == "too-many-tries" {
				t.Errorf("from elsewhere: %d %s", a.StatusCode, a.kind())
			}
		})
	}
	for _, log := range []string{b.log.String(), fresh.log.String()} {
		for _, secret := range []string{"0000", goodCode, goodPassword, recoveryCode, inv.Code, "croft_A", "thief"} {
			if strings.Contains(log, secret) {
				t.Errorf("%q in the log", secret)
			}
		}
	}
}

// Strangers with many addresses guess no faster together, and don't lock out the phone that was signed in before.
func TestNobodyIsLockedOut(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	judged, began := 0, time.Now()
	for i := range 2 * allBurst {
		eve := b.stranger().at(fmt.Sprintf("10.0.1.%d", i))
		if a := eve.do(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: "wrong"}); a.kind() == "wrong-password" {
			judged++
		}
	}
	if most := allBurst + 1 + int(time.Since(began).Minutes()*allPerMin); judged > most {
		t.Errorf("%d tries of strangers were judged, at most %d should be", judged, most)
	}
	device := 0
	eventually(t, "a new device has to wait in the middle of it", func() bool {
		device++
		u := b.stranger().at(fmt.Sprintf("10.0.2.%d", device))
		return u.do(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: "wrong"}).kind() == "too-many-tries"
	})
	again := func() {
		t.Helper()
		anna.must(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: goodPassword}, nil)
	}
	anna.must(t, "DELETE", "/session", nil, nil)
	again()
	b.stop()
	b = startIn(t, b.dir)
	anna.b = b
	for i := range allBurst {
		b.stranger().at(fmt.Sprintf("10.0.1.%d", i)).do(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: "wrong"})
	}
	again()
}

// Whoever has the password can't guess the second factor, and who has not can't use up its tries.
func TestSecondFactorGuessing(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	var f api.NewSecondFactor
	anna.must(t, "POST", "/me/second-factor", api.PasswordRequest{Password: goodPassword}, &f)
	now := time.Now()
	anna.must(t, "PUT", "/me/second-factor", api.SecondFactorCode{Code: otp(t, f.Secret, now)}, nil)
	try := func(place, name, password, code string) string {
		return b.stranger().at(place).do(t, "POST", "/session", api.SessionRequest{Name: name, Password: password, SecondFactor: code}).kind()
	}
	for i := range 2 * freeTries {
		if k := try(fmt.Sprintf("10.0.0.%d", i), "Anna", "wrong", "000000"); k != "wrong-password" {
			t.Errorf("without the password: %s", k)
		}
	}
	for i := range freeTries + 2 { // from everywhere, and however the name is written
		want := "wrong-second-factor"
		if i >= freeTries {
			want = "too-many-tries"
		}
		if k := try(fmt.Sprintf("10.0.3.%d", i), []string{"Anna", "ANNA ", "ａｎｎａ"}[i%3], goodPassword, "000000"); k != want {
			t.Errorf("code %d: %s, want %s", i, k, want)
		}
	}
	if k := try("10.0.4.1", "Anna", goodPassword, otp(t, f.Secret, now.Add(30*time.Second))); k != "too-many-tries" {
		t.Errorf("the right one, too late: %q", k)
	}
}

// What is wrong does not tell who has an account.
func TestNoEnumeration(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	anna.must(t, "PUT", "/me", api.PersonChange{Name: "Anna"}, nil)
	var want []byte
	for _, name := range []string{"Anna", "Nobody", "", "a b", strings.Repeat("x", 190), "\u202e", "admin"} {
		a := b.stranger().do(t, "POST", "/session", api.SessionRequest{Name: name, Password: "wrong"})
		if want == nil {
			want = a.text
		}
		if !bytes.Equal(a.text, want) {
			t.Errorf("%q: %s, not %s", name, a.text, want)
		}
	}
}

// A session that somebody else has put into a browser is worth nothing, before and after its owner signs in.
func TestFixation(t *testing.T) {
	b := start(t)
	b.owned(t)
	planted := "croft_session=" + strings.Repeat("A", 26)
	victim := b.stranger()
	victim.cookie = planted
	victim.must(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: goodPassword}, nil)
	if victim.cookie == planted {
		t.Error("the planted session was taken over")
	}
	attacker := b.stranger()
	attacker.cookie = planted
	if a := attacker.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
		t.Errorf("the planted session is good for %d %s", a.StatusCode, a.kind())
	}
	old := *victim
	victim.must(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: goodPassword}, nil)
	if a := old.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
		t.Errorf("the session of before signing in again: %d", a.StatusCode)
	}
}

// Another website's page can't do anything, whichever way its browser says so.
func TestCrossSite(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	b.set(func(f *fakes) { f.acted = nil })
	for _, path := range slices.Sorted(maps.Keys(docPaths())) {
		for method, op := range docPaths()[path] {
			if method == "get" {
				continue
			}
			at := strings.NewReplacer("{id}", "0", "{name}", "gateway").Replace(path)
			for _, h := range [][2]string{
				{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"}, {"Origin", "null"},
			} {
				u := *anna
				if a := u.with(h[0], h[1]).do(t, strings.ToUpper(method), at, nil); a.kind() != "cross-origin" {
					t.Errorf("%s with %s: %d %s", op.ID, h, a.StatusCode, a.kind())
				}
			}
			if op.RequestBody == nil {
				continue
			}
			for _, ct := range []string{"application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""} {
				u := *anna
				a := u.with("Content-Type", ct).do(t, strings.ToUpper(method), at, `{"action":"reboot"}`)
				if a.StatusCode != http.StatusUnsupportedMediaType && a.kind() != "forbidden" {
					t.Errorf("%s as %q: %d %s", op.ID, ct, a.StatusCode, a.kind())
				}
			}
		}
	}
	if len(b.acted) > 0 {
		t.Errorf("it was done: %q", b.acted)
	}
	anna.must(t, "GET", "/me", nil, nil)
}

// Bodies that are too large, too deep, or no JSON.
func TestBodies(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	for _, op := range operations() {
		if op.body == 0 || op.who&(open|owner) == 0 {
			continue
		}
		if op.id == "uploadUpdate" {
			continue // its body is no JSON
		}
		path := strings.NewReplacer("{id}", "0").Replace(op.path)
		for _, tt := range []struct {
			body string
			want int
		}{
			{`{"x":"` + strings.Repeat("x", int(op.body)) + `"}`, 413},
			{strings.Repeat(`{"a":`, 600) + "1" + strings.Repeat("}", 600), 400},
			{strings.Repeat("[", int(op.body)-1), 400},
			{"{", 400},
			{"", 400},
			{"{}{}", 400},
			{"\xff", 400},
			{`{"x":"\ud800"}`, 422},
			{`{"unheard/of":1}`, 422},
			{`[]`, 422},
			{`null`, 422},
		} {
			u := *anna
			a := u.do(t, op.method, path, tt.body)
			if a.StatusCode != tt.want && !(op.id == "checkConfig" && tt.want == 422) && !(op.id == "changeConfig" && a.StatusCode == 428) {
				t.Errorf("%s with %.20q: %d %s, want %d", op.id, tt.body, a.StatusCode, a.kind(), tt.want)
			}
			if strings.Contains(tt.body, "unheard") && a.StatusCode == 422 && !slices.ContainsFunc(a.problem.Fields, func(f api.FieldProblem) bool {
				return f.Path == "/unheard~1of" && f.Code == "unknown"
			}) {
				t.Errorf("%s: %+v", op.id, a.problem)
			}
		}
	}
}

// oneConn is a listener with one connection.
type oneConn struct {
	c    chan net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.c:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// A body that drips is given up after bodyTimeout, whether somebody reads it or not.
func TestSlowBody(t *testing.T) {
	for path, want := range map[string]string{"/claim": "/problems/too-slow", "/nothing": "/problems/not-found"} {
		synctest.Test(t, func(t *testing.T) {
			l := &oneConn{make(chan net.Conn, 1), make(chan struct{})}
			client, peer := net.Pipe()
			l.c <- peer
			s := &server{cop: http.NewCrossOriginProtection(), id: &identity.Identity{}}
			srv := &http.Server{Handler: s.handler(operations())}
			go srv.Serve(l)
			began := time.Now()
			var drip sync.WaitGroup
			defer drip.Wait()
			drip.Go(func() {
				fmt.Fprintf(client, "POST %s%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n", base, path)
				for range 60 {
					if _, err := client.Write([]byte("x")); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			})
			got, _ := io.ReadAll(client)
			if took := time.Since(began); !bytes.Contains(got, []byte(want)) || took < bodyTimeout || took > bodyTimeout+5*time.Second {
				t.Errorf("%s: after %v: %q", path, took, got)
			}
			client.Close()
			close(l.done)
			srv.Close()
		})
	}
}

// Paths that are not in the table do not exist, however they are written.
func TestPaths(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	plain := *b
	plain.client = b.raw
	u := &user{b: &plain, cookie: anna.cookie}
	for _, path := range []string{
		"", "/", "/box/", "//box", "/../v1/box", "/x/../box", "/%2e%2e/v1/box", "/box%00", "/BOX", "/people/../box", "/people/", "/licences/../box",
		"/licences/%2e%2e/%2e%2e/etc/passwd", "/services/%2fpower/restart",
	} {
		if a := u.do(t, "GET", path, nil); a.StatusCode != 404 && a.StatusCode != 405 {
			t.Errorf("%q: %d %s", path, a.StatusCode, a.text)
		}
	}
	for _, method := range []string{"PUT", "PATCH", "TRACE", "OPTIONS", "HEAD", "BREW"} {
		a := u.do(t, method, "/box", nil)
		if a.StatusCode != 405 || a.Header.Get("Allow") != "GET" {
			t.Errorf("%s: %d %v", method, a.StatusCode, a.Header)
		}
	}
	for _, path := range []string{"/box", "/nothing", "/me"} {
		h := u.do(t, "GET", path, nil).Header
		for k, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if h.Get(k) != want {
				t.Errorf("%s: %s is %q", path, k, h.Get(k))
			}
		}
	}
}

// The types of problems that the code names are those of package api, all of them.
func TestProblemTypes(t *testing.T) {
	texts := map[string]bool{}
	named := map[string]bool{} // as the name of a problem
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	str := func(e ast.Expr) string {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == gotoken.STRING {
			s, _ := strconv.Unquote(l.Value)
			return s
		}
		return ""
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				texts[str(n)] = true
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "problem" || id.Name == "wait") && len(n.Args) > 2 {
					if s := str(n.Args[2]); s != "" {
						named[s] = true
					}
				}
			}
			return true
		})
	}
	for _, r := range refusals {
		named[r.name] = true
	}
	for name := range named {
		if !slices.Contains(api.ProblemTypes(), name) {
			t.Errorf("%q is not in api.ProblemTypes", name)
		}
	}
	for _, name := range api.ProblemTypes() {
		if !texts[name] {
			t.Errorf("%q of api.ProblemTypes is never used", name)
		}
		if !regexp.MustCompile("^[a-z-]+$").MatchString(name) {
			t.Errorf("%q is no name", name)
		}
	}
	if len(named) < 20 {
		t.Errorf("only %d found", len(named))
	}
}

// Every error of identity and config that callers may see has an answer of its own, and the others tell nothing.
func TestRefuse(t *testing.T) {
	for _, r := range refusals {
		if !isRefused(fmt.Errorf("x: %w", r.err)) {
			t.Errorf("%v is no refusal", r.err)
		}
		if r.title == "" || r.status < 400 || r.status > 499 {
			t.Errorf("%+v", r)
		}
	}
	if isRefused(errors.New("disk I/O error")) {
		t.Error("a fault is a refusal")
	}
}
