package core

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// otp is a code of RFC 6238, computed here by itself.
func otp(t testing.TB, secret string, at time.Time) string {
	t.Helper()
	key, err := base32.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	m := hmac.New(sha1.New, key)
	binary.Write(m, binary.BigEndian, at.Unix()/30)
	sum := m.Sum(nil)
	off := sum[19] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[off:])&0x7fffffff%1e6)
}

// From the claim to a box that is somebody's, step by step, as another phone sees it too.
func TestSetup(t *testing.T) {
	b := start(t)
	a, other := b.stranger(), b.stranger().at("192.168.1.9")
	steps := func(want string, mine, others, busy bool) {
		t.Helper()
		for u, wantMine := range map[*user]bool{a: mine, other: others} {
			var v api.Setup
			u.must(t, "GET", "/setup", nil, &v)
			if v.Step != want || v.Mine != wantMine || v.Busy != busy {
				t.Errorf("%s: %+v, want %s mine=%v busy=%v", u.place, v, want, wantMine, busy)
			}
		}
	}
	steps(api.StepClaim, true, true, false)
	claimed := a.must(t, "POST", "/claim", api.ClaimRequest{Code: " 7k3mq9xa "}, nil)
	if ck := claimed.Cookies()[0]; !ck.HttpOnly || ck.SameSite != http.SameSiteLaxMode || ck.Path != "/" || ck.Name != "croft_session" || ck.MaxAge < 7*24*3600 {
		t.Errorf("cookie %v", ck)
	}
	before := *a
	steps(api.StepName, true, false, true)
	if got := other.do(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}); got.kind() != "claimed-by-another" || got.Header.Get("Retry-After") == "" {
		t.Errorf("the second phone: %d %s", got.StatusCode, got.kind())
	}
	for name, want := range map[string]int{"-x-": 422, "": 422, "a b": 422, "Cottage": 200} {
		var got answer
		eventually(t, "the configuration is known", func() bool {
			got = a.do(t, "PUT", "/setup/name", api.NameRequest{Name: name})
			return got.kind() != "starting"
		})
		if got.StatusCode != want || want == 422 && got.problem.Fields[0].Path != "/name" {
			t.Errorf("name %q: %d %+v", name, got.StatusCode, got.problem)
		}
		if want == 200 {
			break
		}
	}
	a.must(t, "PUT", "/setup/name", api.NameRequest{Name: "Cottage"}, nil)
	for _, who := range []string{"init/v1/name", "discovery/v1/discovery/name", "network/v1/network/name"} {
		if !b.did("PUT " + who + ` {"name":"cottage"}`) {
			t.Errorf("%s was not told the name: %q", who, b.acted)
		}
	}
	steps(api.StepAccount, true, false, true)
	if got := a.do(t, "POST", "/setup/account", api.AccountRequest{Name: "Anna", Password: "12345678"}); got.kind() != "invalid" || got.problem.Fields[0].Path != "/password" {
		t.Errorf("a weak password: %+v", got.problem)
	}
	var v api.Session
	a.must(t, "POST", "/setup/account", api.AccountRequest{Name: "Anna", Password: goodPassword}, &v)
	if v.Role != api.RoleOwner || a.cookie == before.cookie {
		t.Errorf("%+v with the cookie of before: %v", v, a.cookie == before.cookie)
	}
	if got := before.do(t, "GET", "/session", nil); got.kind() != "signed-out" {
		t.Errorf("the session that claimed: %d", got.StatusCode)
	}
	eventually(t, "the claim code is void", func() bool { return b.did("DELETE init/v1/claim") })
	steps(api.StepZone, true, false, false)
	if got := a.do(t, "PUT", "/setup/time-zone", api.ZoneRequest{TimeZone: "Mars/Base"}); got.kind() != "invalid" || got.problem.Fields[0].Path != "/time_zone" {
		t.Errorf("no such zone: %+v", got.problem)
	}
	a.must(t, "PUT", "/setup/time-zone", api.ZoneRequest{TimeZone: "Europe/Berlin"}, nil)
	a.must(t, "POST", "/setup/done", nil, nil)
	steps(api.StepDone, true, false, false)
	for path, body := range map[string]any{"/setup/name": api.NameRequest{Name: "x"}, "/setup/time-zone": api.ZoneRequest{TimeZone: "UTC"}} {
		if got := a.do(t, "PUT", path, body); got.kind() != "already-claimed" {
			t.Errorf("%s when done: %d %s", path, got.StatusCode, got.kind())
		}
	}
	eventually(t, "the box tells its zone", func() bool {
		var box api.Box
		a.must(t, "GET", "/box", nil, &box)
		return box.TimeZone == "Europe/Berlin" && box.System.Name == "cottage"
	})
}

// Of many phones that claim at once, one gets the box; of its parallel requests, one makes the account.
func TestClaimRace(t *testing.T) {
	b := start(t)
	phones := make([]*user, 12)
	race := func(do func(u *user) answer) (won []*user) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, u := range phones {
			wg.Go(func() {
				if a := do(u); a.StatusCode == http.StatusCreated {
					mu.Lock()
					won = append(won, u)
					mu.Unlock()
				} else if k := a.kind(); k != "claimed-by-another" && k != "already-claimed" && k != "not-claimed" && k != "signed-out" {
					t.Errorf("%d %s", a.StatusCode, k)
				}
			})
		}
		wg.Wait()
		return won
	}
	for i := range phones {
		phones[i] = b.stranger().at(fmt.Sprintf("192.168.1.%d", 20+i))
	}
	won := race(func(u *user) answer { return u.do(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}) })
	if len(won) != 1 {
		t.Fatalf("%d phones got the box", len(won))
	}
	winner := *won[0]
	for i := range phones {
		u := winner
		phones[i] = &u
	}
	if won := race(func(u *user) answer {
		return u.do(t, "POST", "/setup/account", api.AccountRequest{Name: "Anna", Password: goodPassword})
	}); len(won) != 1 {
		t.Errorf("%d accounts", len(won))
	}
}

// Accounts are lost, the claim code is void: only the recovery code goes on, and it goes on once.
func TestLocked(t *testing.T) {
	b := start(t)
	b.set(func(f *fakes) { f.code = "" })
	u := b.stranger()
	var v api.Setup
	if u.must(t, "GET", "/setup", nil, &v); v.Step != api.StepLocked || v.Mine {
		t.Errorf("%+v", v)
	}
	if a := u.do(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}); a.kind() != "code-void" {
		t.Errorf("claim: %d %s", a.StatusCode, a.kind())
	}
	req := api.RecoverRequest{Code: strings.ToUpper(recoveryCode), Name: "Anna", Password: goodPassword}
	if a := u.do(t, "POST", "/recover", req); a.kind() != "code-void" {
		t.Errorf("without a recovery code: %d %s", a.StatusCode, a.kind())
	}
	b.set(func(f *fakes) { f.recovery = api.Recovery{Code: recoveryCode, Source: "file"} })
	var s api.Session
	if u.must(t, "POST", "/recover", req, &s); s.Role != api.RoleOwner {
		t.Errorf("%+v", s)
	}
	if a := b.stranger().do(t, "POST", "/recover", req); a.kind() != "code-void" {
		t.Errorf("once more: %d %s", a.StatusCode, a.kind())
	}
}

func TestRecover(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	b.set(func(f *fakes) { f.recovery = api.Recovery{Code: "WXYZ-0123", Source: "console"} })
	u := b.stranger().at("192.168.1.9")
	for _, tt := range []struct {
		req  api.RecoverRequest
		want string
	}{
		{api.RecoverRequest{Code: "wxyz", Name: "Anna", Password: goodPassword}, "code-format"},
		{api.RecoverRequest{Code: "wxyz-0124", Name: "Anna", Password: goodPassword}, "wrong-code"},
		{api.RecoverRequest{Code: "wxyzo123", Name: "Nobody", Password: goodPassword}, "no-such-owner"},
		{api.RecoverRequest{Code: "wxyz 0123", Name: "Anna", Password: "short"}, "invalid"},
		{api.RecoverRequest{Code: "wxyz-ol23", Name: "anna", Password: "another field of barley"}, ""},
	} {
		if a := u.do(t, "POST", "/recover", tt.req); a.kind() != tt.want {
			t.Errorf("%+v: %d %s", tt.req, a.StatusCode, a.kind())
		}
	}
	if a := anna.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
		t.Errorf("the session of before: %d", a.StatusCode)
	}
	if !b.did("DELETE init/v1/recovery") {
		t.Error("the code is not void")
	}
}

func TestPeople(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	var inv api.Invite
	anna.must(t, "POST", "/invites", api.InviteRequest{Role: api.RoleMember, Hours: 24}, &inv)
	var look api.JoinLook
	ben := b.stranger().at("192.168.1.8")
	ben.must(t, "POST", "/join/look", api.JoinRequest{Code: strings.ToLower(inv.Code)}, &look)
	if look.By != "Anna" || look.Role != api.RoleMember || look.Box != "croft" {
		t.Errorf("%+v", look)
	}
	for name, want := range map[string]string{"anna": "name-taken", "": "too-short"} {
		a := ben.do(t, "POST", "/join", api.JoinRequest{Code: inv.Code, Name: name, Password: goodPassword})
		if a.kind() != "invalid" || a.problem.Fields[0].Path != "/name" {
			t.Errorf("joining as %q: %+v, want %s", name, a.problem, want)
		}
	}
	ben.must(t, "POST", "/join", api.JoinRequest{Code: inv.Code, Name: "Ben", Password: goodPassword}, nil)
	if a := b.stranger().do(t, "POST", "/join", api.JoinRequest{Code: inv.Code, Name: "Eve", Password: goodPassword}); a.kind() != "invite-void" {
		t.Errorf("an invitation twice: %d %s", a.StatusCode, a.kind())
	}
	var me api.Person
	ben.must(t, "GET", "/me", nil, &me)
	ben.must(t, "PUT", "/me", api.PersonChange{Name: "Benjamin"}, nil)
	if a := ben.do(t, "PUT", "/me", api.PersonChange{Name: "Benjamin", Role: api.RoleOwner}); a.kind() != "invalid" || a.problem.Fields[0].Path != "/role" {
		t.Errorf("making oneself an owner: %+v", a.problem)
	}
	var list api.List[api.Person]
	anna.must(t, "GET", "/people?limit=1", nil, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "Anna" || list.Next == "" {
		t.Errorf("first page %+v", list)
	}
	anna.must(t, "GET", "/people?limit=1&after="+list.Next, nil, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "Benjamin" {
		t.Errorf("second page %+v", list)
	}
	for query, path := range map[string]string{"limit=0": "/limit", "limit=201": "/limit", "limit=x": "/limit", "after=!": "/after"} {
		if a := anna.do(t, "GET", "/people?"+query, nil); a.kind() != "invalid" || a.problem.Fields[0].Path != path {
			t.Errorf("?%s: %+v", query, a.problem)
		}
	}
	anna.must(t, "GET", "/people/"+me.ID, nil, nil)
	if a := anna.do(t, "PUT", "/people/"+anna.id(t), api.PersonChange{Name: "Anna", Role: api.RoleMember}); a.kind() != "last-owner" {
		t.Errorf("the last owner: %d %s", a.StatusCode, a.kind())
	}
	anna.must(t, "POST", "/invites", api.InviteRequest{Role: api.RoleMember, Hours: 1, Person: me.ID}, &inv)
	var invs api.List[api.Invite]
	anna.must(t, "GET", "/invites", nil, &invs)
	if len(invs.Items) != 1 || invs.Items[0].Code != "" {
		t.Errorf("%+v", invs)
	}
	anna.must(t, "DELETE", "/invites/"+inv.ID, nil, nil)
	if a := anna.do(t, "DELETE", "/invites/"+inv.ID, nil); a.kind() != "not-found" {
		t.Errorf("an invitation that is gone: %d", a.StatusCode)
	}
	anna.must(t, "DELETE", "/people/"+me.ID+"/sessions", nil, nil)
	if a := ben.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
		t.Errorf("a session that was ended: %d", a.StatusCode)
	}
	anna.must(t, "DELETE", "/people/"+me.ID, nil, nil)
	var log api.List[api.AuditEntry]
	anna.must(t, "GET", "/audit?limit=3", nil, &log)
	if len(log.Items) != 3 || log.Items[0].Action != "person-removed" || log.Next == "" {
		t.Errorf("%+v", log)
	}
}

func (u *user) id(t testing.TB) string {
	t.Helper()
	var me api.Person
	u.must(t, "GET", "/me", nil, &me)
	return me.ID
}

func TestMe(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	second := b.stranger().at("192.168.1.9")
	signIn := func(u *user, password, code string) answer {
		return u.do(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: password, SecondFactor: code})
	}
	signIn(second, goodPassword, "")
	var list api.List[api.Session]
	anna.must(t, "GET", "/me/sessions", nil, &list)
	if len(list.Items) != 2 || list.Items[0].Place != "192.168.1.9" || list.Items[0].Current || !list.Items[1].Current {
		t.Errorf("%+v", list)
	}
	anna.must(t, "DELETE", "/me/sessions/"+list.Items[0].ID, nil, nil)
	if a := second.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
		t.Errorf("a session that was ended: %d", a.StatusCode)
	}
	signIn(second, goodPassword, "")
	old := *anna
	anna.must(t, "PUT", "/me/password", api.PasswordChange{Old: goodPassword, New: "my new " + goodPassword}, nil)
	for _, u := range []*user{second, &old} {
		if a := u.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
			t.Errorf("a session after the password changed: %d", a.StatusCode)
		}
	}
	password := "my new " + goodPassword
	anna.must(t, "GET", "/me", nil, nil)

	var f api.NewSecondFactor
	anna.must(t, "POST", "/me/second-factor", api.PasswordRequest{Password: password}, &f)
	if a := signIn(second, password, ""); a.StatusCode != 201 {
		t.Errorf("before the second factor counts: %d %s", a.StatusCode, a.kind())
	}
	now := time.Now()
	var codes api.RecoveryCodes
	anna.must(t, "PUT", "/me/second-factor", api.SecondFactorCode{Code: otp(t, f.Secret, now)}, &codes)
	if a := signIn(second, password, ""); a.kind() != "second-factor" {
		t.Errorf("without the second factor: %d %s", a.StatusCode, a.kind())
	}
	if a := signIn(second, "wrong "+password, otp(t, f.Secret, now)); a.kind() != "wrong-password" {
		t.Errorf("with the second factor only: %d %s", a.StatusCode, a.kind())
	}
	if a := signIn(second, password, otp(t, f.Secret, now)); a.kind() != "wrong-second-factor" {
		t.Errorf("a code that was used: %d %s", a.StatusCode, a.kind())
	}
	if a := signIn(second, password, otp(t, f.Secret, now.Add(30*time.Second))); a.StatusCode != 201 {
		t.Errorf("with the second factor: %d %s", a.StatusCode, a.kind())
	}
	if a := signIn(second, password, codes.Codes[0]); a.StatusCode != 201 {
		t.Errorf("with a recovery code: %d %s", a.StatusCode, a.kind())
	}
	if a := signIn(second, password, codes.Codes[0]); a.kind() != "wrong-second-factor" {
		t.Errorf("with a recovery code twice: %d %s", a.StatusCode, a.kind())
	}
	anna.must(t, "POST", "/me/recovery-codes", api.PasswordRequest{Password: password}, &codes)
	anna.must(t, "DELETE", "/me/second-factor", api.PasswordRequest{Password: password}, nil)
	anna.must(t, "DELETE", "/me/sessions", nil, nil)
	if a := second.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
		t.Errorf("another session: %d", a.StatusCode)
	}

	script := anna.tokened(t, api.ScopeBox)
	script.must(t, "GET", "/box", nil, nil)
	script.cookie = anna.cookie // which does not count beside a token
	if a := script.do(t, "GET", "/me", nil); a.kind() != "forbidden" {
		t.Errorf("a token with a cookie: %d %s", a.StatusCode, a.kind())
	}
	var tokens api.List[api.Token]
	anna.must(t, "GET", "/me/tokens", nil, &tokens)
	if len(tokens.Items) != 1 || tokens.Items[0].Secret != "" {
		t.Errorf("%+v", tokens)
	}
	anna.must(t, "DELETE", "/me/tokens/"+tokens.Items[0].ID, nil, nil)
	if a := script.do(t, "GET", "/box", nil); a.kind() != "signed-out" {
		t.Errorf("a token that was ended: %d %s", a.StatusCode, a.kind())
	}
	anna.must(t, "DELETE", "/session", nil, nil)
	anna.must(t, "DELETE", "/session", nil, nil)
	if a := old.do(t, "GET", "/session", nil); a.kind() != "signed-out" {
		t.Errorf("after signing out: %d", a.StatusCode)
	}
	if s := b.log.String(); strings.Contains(s, goodPassword) || strings.Contains(s, f.Secret) || strings.Contains(s, script.bearer) ||
		strings.Contains(s, codes.Codes[1]) || strings.Contains(s, strings.Split(old.cookie, "=")[1]) {
		t.Errorf("a secret in the log:\n%s", s)
	}
}

func TestHTTPSCookie(t *testing.T) {
	b := start(t)
	b.owned(t)
	https := b.stranger().with("X-Forwarded-Proto", "https")
	a := https.must(t, "POST", "/session", api.SessionRequest{Name: "Anna", Password: goodPassword}, nil)
	if ck := a.Cookies()[0]; ck.Name != "__Host-croft_session" || !ck.Secure {
		t.Errorf("cookie %v", ck)
	}
	https.must(t, "GET", "/me", nil, nil)
	https.cookie = strings.Replace(https.cookie, "__Host-", "", 1) // as whoever can write plain HTTP could plant it
	if a := https.do(t, "GET", "/me", nil); a.kind() != "signed-out" {
		t.Errorf("HTTP's cookie over HTTPS: %d", a.StatusCode)
	}
}

func TestBoxParts(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	ben := anna.joined(t, "Ben", api.RoleMember, "192.168.1.8")
	var v api.Box
	b.set(func(f *fakes) { f.network, f.disc = &api.Network{Clock: api.Clock{Certainty: api.ClockSure}}, nil })
	eventually(t, "the network's part", func() bool {
		v = api.Box{}
		anna.must(t, "GET", "/box", nil, &v)
		return v.Network != nil && v.Network.Clock.Certainty == api.ClockSure && v.Discovery == nil
	})
	whole := &api.Box{Notices: []api.Notice{{Name: "x"}}, Alerts: []api.Alert{{Name: "hot"}}}
	for role, want := range map[who]int{owner: 1, member: 0, setup: 0, rescue: 0} {
		if got := forRole(whole, role); len(got.Notices) != want || len(got.Alerts) != want {
			t.Errorf("role %d sees %+v", role, got)
		}
	}
	if len(whole.Alerts) != 1 {
		t.Error("the state itself was changed")
	}
	ben.must(t, "GET", "/box", nil, nil)
	b.set(func(f *fakes) { f.system = nil })
	eventually(t, "503 without init", func() bool { return anna.do(t, "GET", "/box", nil).kind() == "starting" })
}

func TestControl(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	var list api.List[api.Service]
	anna.must(t, "GET", "/services", nil, &list)
	if len(list.Items) != 2 || list.Items[0].Name != "core" {
		t.Errorf("%+v", list)
	}
	for _, tt := range []struct {
		path string
		body any
		want string // problem; empty for 202
		told string
	}{
		{"/services/gateway/restart", nil, "", "POST init/v1/services/gateway/restart"},
		{"/services/nothing/restart", nil, "not-found", ""},
		{"/services/..%2f..%2fpower/restart", nil, "not-found", ""},
		{"/power", api.PowerRequest{Action: "reboot"}, "", `POST init/v1/power {"action":"reboot"}`},
		{"/power", api.PowerRequest{Action: "explode"}, "action", ""},
		{"/start-over", api.StartOverRequest{Confirm: "erase", Password: goodPassword}, "not-confirmed", ""},
		{"/start-over", api.StartOverRequest{Confirm: "ERASE", Password: "not " + goodPassword}, "wrong-password", ""},
		{"/start-over", api.StartOverRequest{Confirm: "ERASE", Password: goodPassword}, "", "POST init/v1/start-over"},
	} {
		b.set(func(f *fakes) { f.acted = nil })
		a := anna.do(t, "POST", tt.path, tt.body)
		if a.kind() != tt.want || tt.want == "" && a.StatusCode != http.StatusAccepted {
			t.Errorf("%s %v: %d %s, want %s", tt.path, tt.body, a.StatusCode, a.kind(), tt.want)
		}
		b.set(func(f *fakes) {
			if tt.told == "" && len(f.acted) > 0 || tt.told != "" && !strings.HasPrefix(strings.Join(f.acted, "\n"), tt.told) {
				t.Errorf("%s %v: init was told %q", tt.path, tt.body, f.acted)
			}
		})
	}
	var log api.List[api.AuditEntry]
	anna.must(t, "GET", "/audit?limit=3", nil, &log)
	for i, want := range []string{"started-over", "box-restarted", "service-restarted"} {
		if log.Items[i].Action != want || log.Items[i].Who != "Anna" {
			t.Errorf("recorded %+v, want %s", log.Items[i], want)
		}
	}
	b.set(func(f *fakes) { f.refuse = &api.Problem{Title: "A check is running."} })
	if a := anna.do(t, "POST", "/power", api.PowerRequest{Action: "reboot"}); a.kind() != "refused" || a.problem.Title != "A check is running." {
		t.Errorf("%+v", a.problem)
	}
}

func TestRescue(t *testing.T) {
	b := start(t)
	b.set(func(f *fakes) { f.system.Mode, f.system.Rescue = api.ModeRescue, &api.Rescue{Code: "no-marker"} })
	u := b.stranger()
	eventually(t, "rescue mode", func() bool {
		var v api.Setup
		u.must(t, "GET", "/setup", nil, &v)
		return v.Step == api.StepRescue
	})
	var s api.Session
	u.must(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}, &s)
	if s.Role != api.RoleRescue {
		t.Fatalf("%+v", s)
	}
	b.stranger().must(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}, nil) // as often as somebody likes
	for _, tt := range []struct{ body, want, told string }{
		{`{"action":"retry"}`, "", `{"action":"retry"}`},
		{`{"action":"check","confirm":"x"}`, "", `{"action":"check"}`},
		{`{"action":"cancel"}`, "", `{"action":"cancel"}`},
		{`{"action":"start-over"}`, "not-confirmed", ""},
		{`{"action":"start-over","confirm":"erase"}`, "not-confirmed", ""},
		{`{"action":"start-over","confirm":"ERASE"}`, "", `{"action":"start-over","confirm":"ERASE"}`},
		{`{"action":"x"}`, "action", ""},
	} {
		b.set(func(f *fakes) { f.acted = nil })
		a := u.do(t, "POST", "/rescue", tt.body)
		if a.kind() != tt.want || (tt.told != "") != b.did("POST init/v1/rescue "+tt.told) && tt.told != "" {
			t.Errorf("%s: %d %s, init got %q", tt.body, a.StatusCode, a.kind(), b.acted)
		}
		if tt.want == "" { // the very next answer shows it
			var v api.Box
			u.must(t, "GET", "/box", nil, &v)
			if !strings.Contains(tt.body, `"`+v.System.Rescue.Busy+`"`) {
				t.Errorf("%s: then %+v", tt.body, v.System.Rescue)
			}
		}
	}
	b.set(func(f *fakes) { s := *f.system; s.Mode = api.ModeNormal; f.system = &s })
	eventually(t, "no rescue mode", func() bool { return u.do(t, "POST", "/rescue", `{"action":"retry"}`).kind() == "not-rescue" })
}

func TestLicences(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	var list api.List[api.Component]
	anna.must(t, "GET", "/licences", nil, &list)
	if len(list.Items) != 2 || list.Items[0].Name != "example.org/a/b" || list.Items[0].Text != "" {
		t.Errorf("%+v", list)
	}
	var c api.Component
	anna.must(t, "GET", "/licences/example.org%2Fa%2Fb", nil, &c)
	if c.Text != "Permission is granted." {
		t.Errorf("%+v", c)
	}
	plain := *b
	plain.client = b.raw // the document can't say that slashes may stand as they are
	(&user{b: &plain, cookie: anna.cookie}).must(t, "GET", "/licences/example.org/a/b", nil, nil)
	if a := anna.do(t, "GET", "/licences/nothing", nil); a.kind() != "not-found" {
		t.Errorf("%d %s", a.StatusCode, a.kind())
	}
}

func TestOpenAPIServed(t *testing.T) {
	b := start(t)
	u := b.stranger().with("Accept-Encoding", "gzip")
	a := u.must(t, "GET", "/openapi.json", nil, nil)
	z, err := gzip.NewReader(bytes.NewReader(a.text))
	if err != nil || a.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v %v", a.Header, err)
	}
	got, err := io.ReadAll(z)
	var want bytes.Buffer
	json.Compact(&want, openAPI)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	t.Logf("%d bytes, %d compressed", len(openAPI), len(a.text))
	if a := b.stranger().with("Accept-Encoding", "identity").must(t, "GET", "/openapi.json", nil, nil); !bytes.Equal(a.text, openAPI) {
		t.Errorf("%d bytes", len(a.text))
	}
	if a := u.with("If-None-Match", `"x", `+a.Header.Get("ETag")).do(t, "GET", "/openapi.json", nil); a.StatusCode != http.StatusNotModified || len(a.text) > 0 {
		t.Errorf("%s", a.Status)
	}
}

// events reads a stream of server-sent events.
func (u *user) events(t testing.TB, path string) func(what string) string {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://core"+base+path, nil)
	req.Header.Set("Cookie", u.cookie)
	if u.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+u.bearer)
	}
	resp, err := u.b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
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
	return func(what string) string {
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
}

func TestEvents(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	script := anna.tokened(t, api.ScopeBox)
	next, also := anna.events(t, "/events"), script.events(t, "/events")
	for _, n := range []func(string) string{next, also} {
		if l := n("data:"); !strings.Contains(l, `"version":"1"`) {
			t.Errorf("first event: %s", l)
		}
	}
	b.set(func(f *fakes) { s := *f.system; s.Version = "2"; f.system = &s })
	for l := next("data:"); !strings.Contains(l, `"version":"2"`); l = next("data:") {
	}
	for l := also("data:"); !strings.Contains(l, `"version":"2"`); l = also("data:") {
	}
	var tokens api.List[api.Token]
	anna.must(t, "GET", "/me/tokens", nil, &tokens)
	anna.must(t, "DELETE", "/me/tokens/"+tokens.Items[0].ID, nil, nil)
	anna.must(t, "DELETE", "/session", nil, nil)
	b.set(func(f *fakes) { s := *f.system; s.Version = "3"; f.system = &s })
	next("event: end")
	also("event: end")
}

// One person's pages can't keep the others from watching.
func TestTooManyStreams(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	ben := anna.joined(t, "Ben", api.RoleMember, "192.168.1.8")
	var open []io.Closer
	watch := func(u *user) string {
		req, _ := http.NewRequest("GET", "http://core"+base+"/events", nil)
		req.Header.Set("Cookie", u.cookie)
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusOK {
			open = append(open, resp.Body)
			return ""
		}
		defer resp.Body.Close()
		var p api.Problem
		json.NewDecoder(resp.Body).Decode(&p)
		return p.Type
	}
	for i := range mostOfOne {
		if p := watch(ben); p != "" {
			t.Fatalf("stream %d: %s", i, p)
		}
	}
	if p := watch(ben); p != "/problems/too-many-streams" {
		t.Errorf("one stream too many: %q", p)
	}
	if p := watch(anna); p != "" {
		t.Errorf("another person: %q", p)
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, "slots come back", func() bool { return watch(ben) == "" })
	open[len(open)-1].Close()
}

func TestFingerprint(t *testing.T) {
	temp := 48.2
	b := api.Box{System: api.System{
		UptimeMS: 1000,
		Vitals:   api.Vitals{MemAvailable: 100 << 20, Temperature: &temp, Data: &api.Disk{Free: 1 << 30}},
		Services: []api.Service{{Name: "core", State: api.StateRunning, SinceMS: 5, Memory: 10 << 20}},
	}, Alerts: []api.Alert{{ID: 1}}, Network: &api.Network{Clock: api.Clock{OffsetMS: 1}, Trial: &api.Trial{LeftMS: 50_000}}}
	before := string(fingerprint(&b))
	for _, tt := range []struct {
		name   string
		change func(b *api.Box)
		same   bool
	}{
		{"uptime", func(b *api.Box) { b.System.UptimeMS = 2000 }, true},
		{"busy", func(b *api.Box) { b.System.Vitals.CPUBusyMS = 2000 }, true},
		{"received", func(b *api.Box) { b.System.Vitals.NetIn = 2000 }, true},
		{"a little memory", func(b *api.Box) { b.System.Vitals.MemAvailable += 1000 }, true},
		{"much memory", func(b *api.Box) { b.System.Vitals.MemAvailable /= 2 }, false},
		{"warmer by 0.1", func(b *api.Box) { v := temp + 0.1; b.System.Vitals.Temperature = &v }, true},
		{"warmer by 2", func(b *api.Box) { v := temp + 2; b.System.Vitals.Temperature = &v }, false},
		{"clock offset", func(b *api.Box) { n := *b.Network; n.Clock.OffsetMS = 9; b.Network = &n }, true},
		{"clock certainty", func(b *api.Box) { n := *b.Network; n.Clock.Certainty = "sure"; b.Network = &n }, false},
		{"time left", func(b *api.Box) { n := *b.Network; n.Trial = &api.Trial{LeftMS: 1}; b.Network = &n }, true},
		{"end of a trial", func(b *api.Box) { n := *b.Network; n.Trial = nil; b.Network = &n }, false},
		{"network gone", func(b *api.Box) { b.Network = nil }, false},
		{"alert", func(b *api.Box) { b.Alerts = []api.Alert{{ID: 1}, {ID: 2}} }, false},
		{"alert is still so", func(b *api.Box) { b.Alerts = []api.Alert{{ID: 1, Last: time.Now()}} }, true},
		{"alert is over", func(b *api.Box) { b.Alerts = nil }, false},
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
