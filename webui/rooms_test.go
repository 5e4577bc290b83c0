package webui

import (
	"bytes"
	"encoding/json"
	"mime/multipart"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// household is what core answers about a box with two people, in which evil stands wherever somebody may choose the
// words.
func household(evil string) map[string]any {
	now := time.Now()
	ada := api.Person{ID: "p1", Name: "Ada" + evil, Role: api.RoleOwner, HasPassword: true, SecondFactor: true, RecoveryCodes: 9, Created: now, Seen: now}
	ben := api.Person{ID: "p2", Name: "Ben" + evil, Role: api.RoleMember, Seen: now.Add(-50 * time.Hour)}
	static := api.StaticConfig{
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.20/24")}, Gateway: netip.MustParseAddr("192.168.1.1"),
		DNS: []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("9.9.9.9")},
	}
	quote := func(v any) json.RawMessage {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return b
	}
	diffs := []api.Difference{
		{Path: "/name", Before: quote("croft"), After: quote("haus" + evil)},
		{Path: "/time_zone", Before: quote(""), After: quote("Europe/Berlin" + evil)},
		{Path: "/network/interfaces/eth0" + evil, After: quote(static)},
		{Path: "/network/interfaces/*", Before: quote(static)},
		{Path: "/network/ntp", After: quote([]string{"a.example", evil})},
		{Path: "/people/Ben" + evil, Before: quote(api.ConfigPerson{Name: "Ben", Role: "member"}), After: quote(api.ConfigPerson{Name: "Ben", Role: "owner"})},
		{Path: "/people/Eve" + evil, After: quote(api.ConfigPerson{Name: "Eve", Role: "member" + evil})},
		{Path: "/updates/mode", After: quote("ask" + evil)},
		{Path: "/updates/channel", Before: quote("beta")},
		{Path: "/updates/from", After: quote("01:00" + evil)},
		{Path: "/updates/to", After: quote("04:00")},
		{Path: "/updates/metered", After: quote(true)},
		{Path: "/updates/alone", Before: quote(true)},
		{Path: "/updates/mirrors", After: quote([]string{"https://a.example" + evil})},
		{Path: "/updates/x" + evil, After: quote(evil)},
		{Path: "/other" + evil, Before: quote(map[string]string{"x": evil})},
	}
	net := api.Network{
		Interfaces: []api.Interface{
			{Name: "eth0" + evil, Up: true, Method: "dhcp", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.20/24")}, Gateway: netip.MustParseAddr("192.168.1.1")},
			{Name: "wlan0"},
		},
		DNS:    []netip.Addr{netip.MustParseAddr("192.168.1.1")},
		Config: api.NetConfig{Interfaces: map[string]api.StaticConfig{"*": static}, NTP: []string{"ntp.example" + evil}},
	}
	return map[string]any{
		"GET /people":      api.List[api.Person]{Items: []api.Person{ada, ben}},
		"GET /people/p1":   ada,
		"GET /people/p2":   ben,
		"GET /invites":     api.List[api.Invite]{Items: []api.Invite{{ID: "i1", Role: "member" + evil, By: "Ada" + evil, Expires: now.Add(5 * time.Hour)}, {ID: "i2", Person: &ben}}},
		"POST /invites":    api.Invite{ID: "i3", Role: api.RoleMember, Code: "7K3M-Q9XA-22PW" + evil, Expires: now.Add(24 * time.Hour)},
		"GET /me":          ada,
		"GET /me/sessions": api.List[api.Session]{Items: []api.Session{{ID: "s1", Current: true, Device: "Safari, iPhone" + evil, Place: "192.168.1.7" + evil, Seen: now}, {ID: "s2", Seen: now.Add(-9 * time.Hour)}}},
		"GET /me/tokens": api.List[api.Token]{Items: []api.Token{
			{ID: "t1", Name: "backup" + evil, Scopes: []string{"box", evil}, Expires: now.Add(99 * time.Hour)}, {ID: "t2", Name: "old", Expires: now.Add(-time.Hour)},
		}},
		"POST /me/tokens":         api.Token{ID: "t3", Name: "new" + evil, Secret: "croft_abc" + evil},
		"POST /me/second-factor":  api.NewSecondFactor{Secret: "JBSWY3DPEHPK3PXP" + evil, URI: "otpauth://totp/Croft:Ada?secret=JBSWY3DPEHPK3PXP" + evil},
		"PUT /me/second-factor":   api.RecoveryCodes{Codes: []string{"AAAA-BBBB" + evil, "CCCC-DDDD"}},
		"POST /me/recovery-codes": api.RecoveryCodes{Codes: []string{"EEEE-FFFF" + evil}},
		"GET /config":             api.Config{Format: api.ConfigFormat, Name: "croft", TimeZone: "Europe/Berlin" + evil},
		"POST /config/check":      api.ConfigCheck{Differences: diffs},
		"GET /config/changes": api.List[api.ConfigChange]{Next: "7" + evil, Items: []api.ConfigChange{
			{ID: 9, At: now, By: "Ada" + evil, Differences: diffs, CanUndo: true}, {ID: 8, Undoes: 7},
		}},
		"GET /updates": updatesToShow(evil),
		"GET /updates/history": api.List[api.UpdateAttempt]{Next: "x" + evil, Items: []api.UpdateAttempt{
			*updatesToShow(evil).Last, {ID: "2", Version: "v2", From: "v1", Outcome: api.UpdateKept, DownMS: 9000, By: "Ada" + evil, Began: now},
		}},
		"GET /network":                net,
		"GET /licences":               api.List[api.Component]{Items: []api.Component{{Name: "example.org/x" + evil, Version: "v1" + evil, Licence: "MIT" + evil}}},
		"GET /licences/example.org/x": api.Component{Name: "x" + evil, Version: evil, Licence: evil, Text: "Do what you want." + evil},
	}
}

// rooms are the pages that are there to be looked at.
func rooms() []string {
	return []string{
		"/people", "/people/p1", "/people/p2", "/people/p2/remove", "/people/invite", "/me", "/me/name", "/me/password",
		"/me/second-factor", "/me/second-factor/codes", "/me/second-factor/off", "/me/sessions", "/me/tokens", "/me/tokens/new",
		"/box", "/box/name", "/box/time-zone", "/box/network", "/box/config", "/box/config/import", "/box/about", "/box/licences",
		"/box/licences/example.org/x", "/box/restart", "/box/off", "/box/start-over", "/updates", "/updates/back", "/updates/history",
		"/updates/policy", "/updates/file", "/updates/trust", "/updates/trust/project", "/updates/trust/auditor", "/updates/trust/builtin",
		"/updates/trust/alone",
	}
}

var languages = map[string]string{"en": "en-GB,en", "de": "de-DE,de;q=0.9,en;q=0.5"}

// Every room opens in every language, says everything in words, and does as its owner is told and not as a stranger says.
func TestRooms(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	key := regexp.MustCompile(`[a-z]+(?:-[a-z]+)*(?:\.[a-z]+(?:-[a-z]+)*)+`)
	tags := regexp.MustCompile(`(?s)<[^>]*>`)
	for _, strange := range []string{"", evil} {
		f, srv, c := start(t)
		f.on = household(strange)
		f.session.Person.Name += strange
		f.box.Updates = updatesToShow(strange)
		for lang, accept := range languages {
			for _, path := range rooms() {
				resp, body := get(t, c, "GET", srv.URL+path, nil, append([]string{"Accept-Language", accept}, signedIn...)...)
				if resp.StatusCode != 200 || resp.Header.Get("Content-Language") != lang {
					t.Errorf("%s %s: %s, %q", lang, path, resp.Status, resp.Header.Get("Content-Language"))
				}
				if strings.Contains(body, "<script>") || strings.Contains(body, "<img") || strings.Contains(body, "ZgotmplZ") {
					t.Errorf("%s %s: a string got out of its place", lang, path)
				}
				if strings.Contains(body, "%!") {
					t.Errorf("%s %s: a sentence with the wrong arguments: %s", lang, path, body[strings.Index(body, "%!"):][:80])
				}
				if strange != "" {
					continue
				}
				for _, word := range key.FindAllString(tags.ReplaceAllString(body, " "), -1) {
					if _, known := english()[word]; known || strings.HasPrefix(word, "network.") || strings.HasPrefix(word, "scope.") {
						t.Errorf("%s %s: a key in the place of its sentence: %s", lang, path, word)
					}
				}
			}
		}
	}
}

// A member gets to their own rooms and to no owner's.
func TestRoomsOfMembers(t *testing.T) {
	f, srv, c := start(t)
	f.on, f.session = household(""), someone(api.RoleMember)
	for _, rt := range append(peopleRoutes(), append(append(settingsRoutes(), networkRoutes()...), append(configRoutes(), append(updateRoutes(), witnessRoutes()...)...)...)...) {
		method, path, _ := strings.Cut(rt.pattern, " ")
		var form url.Values
		if method == "POST" {
			form = url.Values{}
		}
		resp, body := get(t, c, method, srv.URL+strings.NewReplacer("{id}", "p2", "{name...}", "example.org/x").Replace(path), form, signedIn...)
		switch {
		case rt.who == whoOwner && (resp.StatusCode != 403 || !strings.Contains(body, "Only owners")):
			t.Errorf("%s: %s", rt.pattern, resp.Status)
		case rt.who == whoPeople && resp.StatusCode != 200:
			t.Errorf("%s: %s", rt.pattern, resp.Status)
		}
	}
	_, body := get(t, c, "GET", srv.URL+"/me/tokens/new", nil, signedIn...)
	if strings.Contains(body, `value="people"`) || !strings.Contains(body, `value="box"`) {
		t.Error("a member is offered what only owners may, or nothing")
	}
	for _, path := range []string{"/box/about", "/trust"} {
		if _, body := get(t, c, "GET", srv.URL+path, nil, signedIn...); strings.Contains(body, `href="/box"`) || !strings.Contains(body, `class="up"><a href="/me"`) {
			t.Errorf("%s leads back to where members may not go", path)
		}
	}
}

// sent is a form, what core makes of it, and what the page says then.
type sent struct {
	name, path string
	form       url.Values
	core       string // the operation that it becomes
	answer     any    // of core; "" for what the household answers
	body       string // that core got
	status     int
	location   string
	has        []string // on the page
	hasNot     []string
}

func field(path, code string) api.FieldProblem {
	return api.FieldProblem{Path: path, Code: code, Text: "Text of core."}
}

func TestRoomForms(t *testing.T) {
	tooMany := problem(429, "too-many-tries")
	tooMany.RetryAfter = 40
	trial := api.ConfigResult{Trial: &api.Trial{LeftMS: 60000}, Differences: []api.Difference{{Path: "/network/ntp"}}}
	renamed := api.ConfigResult{Config: api.Config{Name: "haus"}, Differences: []api.Difference{{Path: "/name"}}}
	kept := "kept as typed"
	words := regexp.MustCompile(`[A-Za-z0-9] [A-Za-z]`) // a sentence, which another language says otherwise
	for _, tt := range []sent{
		{"change a person", "/people/p2", url.Values{"name": {" Benjamin "}, "role": {"owner"}}, "PUT /people/p2", nil, `{"name":"Benjamin","role":"owner"}`, 303, "/people?done=person-changed", nil, nil},
		{"change a role", "/people/p2", url.Values{"name": {"Ben"}, "was": {"member"}, "role": {"owner"}}, "PUT /people/p2", nil, "", 303, "/people?done=role-changed", nil, nil},
		{"change oneself", "/people/p1", url.Values{"name": {"Ada"}, "role": {"member"}}, "PUT /people/p1", nil, "", 303, "/me?done=person-changed", nil, nil},
		{"a name that is taken", "/people/p2", url.Values{"name": {kept}, "role": {"owner"}}, "PUT /people/p2", problem(422, "invalid", field("/name", "name-taken")), "", 422, "", []string{kept, `id="name-problem"`, `value="owner" checked`}, []string{"Text of core"}},
		{"the last owner", "/people/p2", url.Values{"name": {kept}, "role": {"member"}}, "PUT /people/p2", problem(409, "last-owner"), "", 409, "", []string{kept, `id="role-problem"`}, nil},
		{"a person who is gone", "/people/p9", url.Values{"name": {"x"}}, "PUT /people/p9", problem(404, "not-found"), "", 404, "", []string{"There is nothing here"}, nil},
		{"while core is away", "/people/p2", url.Values{"name": {kept}}, "PUT /people/p2", problem(503, "starting"), "", 503, "", []string{kept, `role="alert"`}, nil},
		{"sign somebody out", "/people/p2/sessions", url.Values{}, "DELETE /people/p2/sessions", nil, "", 303, "/people?done=person-signed-out", nil, nil},
		{"somebody's new password", "/people/p2/password", url.Values{}, "POST /invites", "", `{"role":"member","hours":24,"person":"p2"}`, 201, "", []string{"7K3M-Q9XA-22PW", "/join#7K3M-Q9XA-22PW", `class="qr"`}, nil},
		{"remove somebody", "/people/p2/remove", url.Values{}, "DELETE /people/p2", nil, "", 303, "/people?done=person-removed", nil, nil},
		{"remove oneself", "/people/p1/remove", url.Values{}, "DELETE /people/p1", nil, "", 303, "/", nil, nil},
		{"remove the last owner", "/people/p2/remove", url.Values{}, "DELETE /people/p2", problem(409, "last-owner"), "", 409, "", []string{`role="alert"`, "Remove Ben?"}, nil},
		{"invite", "/people/invite", url.Values{"role": {"member"}, "hours": {"24"}}, "POST /invites", "", `{"role":"member","hours":24}`, 201, "", []string{"/join#7K3M-Q9XA-22PW", `data-share="http://`}, nil},
		{"invite for too long", "/people/invite", url.Values{"role": {"owner"}, "hours": {"999"}}, "POST /invites", problem(422, "invalid", field("/hours", "range")), "", 422, "", []string{`id="hours-problem"`, `value="owner" checked`}, nil},
		{"invite for nonsense", "/people/invite", url.Values{"role": {"x"}, "hours": {"x"}}, "POST /invites", problem(422, "invalid", field("/role", "role")), `{"role":"x","hours":0}`, 422, "", []string{`id="role-problem"`}, nil},
		{"too many invitations", "/people/invite", url.Values{"role": {"member"}, "hours": {"24"}}, "POST /invites", problem(409, "too-many"), "", 409, "", []string{`role="alert"`}, nil},
		{"withdraw", "/people/invite/i1/withdraw", url.Values{}, "DELETE /invites/i1", nil, "", 303, "/people?done=invite-withdrawn", nil, nil},

		{"my name", "/me/name", url.Values{"name": {"Ada L."}}, "PUT /me", nil, `{"name":"Ada L."}`, 303, "/me?done=me-renamed", nil, nil},
		{"my name is taken", "/me/name", url.Values{"name": {kept}}, "PUT /me", problem(422, "invalid", field("/name", "name-taken")), "", 422, "", []string{kept, `id="name-problem"`, `aria-invalid="true"`}, nil},
		{"my password", "/me/password", url.Values{"old": {" a "}, "new": {" b "}}, "PUT /me/password", nil, `{"old":" a ","new":" b "}`, 303, "/me?done=password-changed", nil, nil},
		{"my password, wrong", "/me/password", url.Values{"old": {"secret-1"}, "new": {"secret-2"}}, "PUT /me/password", problem(403, "wrong-password"), "", 403, "", []string{`id="old-problem"`, "That is not your password."}, []string{"secret-1", "secret-2"}},
		{"my password, short", "/me/password", url.Values{"old": {"secret-1"}, "new": {"s"}}, "PUT /me/password", problem(422, "invalid", field("/new", "password-short")), "", 422, "", []string{`id="new-problem"`}, []string{"secret-1"}},
		{"my password, too often", "/me/password", url.Values{"old": {"a"}, "new": {"b"}}, "PUT /me/password", tooMany, "", 429, "", []string{"40 seconds"}, nil},
		{"second factor", "/me/second-factor", url.Values{"password": {"pw"}}, "POST /me/second-factor", "", `{"password":"pw"}`, 200, "", []string{"JBSW Y3DP EHPK 3PXP", `class="qr"`, `href="otpauth://totp/Croft:Ada?secret=JBSWY3DPEHPK3PXP"`, `value="JBSWY3DPEHPK3PXP"`}, []string{"ZgotmplZ"}},
		{"second factor, wrong password", "/me/second-factor", url.Values{"password": {"secret-1"}}, "POST /me/second-factor", problem(403, "wrong-password"), "", 403, "", []string{`id="password-problem"`}, []string{"secret-1"}},
		{"confirm", "/me/second-factor/confirm", url.Values{"code": {"123 456"}}, "PUT /me/second-factor", "", `{"code":"123 456"}`, 200, "", []string{"AAAA-BBBB\nCCCC-DDDD"}, nil},
		{"confirm wrongly", "/me/second-factor/confirm", url.Values{"code": {"1"}, "secret": {"JBSWY3DP"}, "uri": {"otpauth://totp/Croft:Ada?secret=JBSWY3DP"}}, "PUT /me/second-factor", problem(403, "wrong-second-factor"), "", 403, "", []string{`id="code-problem"`, "JBSW Y3DP", `class="qr"`}, nil},
		{"confirm with another scheme", "/me/second-factor/confirm", url.Values{"code": {"1"}, "secret": {"x"}, "uri": {"javascript:alert(1)"}}, "PUT /me/second-factor", problem(403, "wrong-second-factor"), "", 403, "", nil, []string{`href="javascript`}},
		{"confirm what is not there", "/me/second-factor/confirm", url.Values{"code": {"1"}}, "PUT /me/second-factor", problem(404, "not-found"), "", 303, "/me/second-factor", nil, nil},
		{"new recovery codes", "/me/second-factor/codes", url.Values{"password": {"pw"}}, "POST /me/recovery-codes", "", `{"password":"pw"}`, 200, "", []string{"EEEE-FFFF"}, nil},
		{"second factor off", "/me/second-factor/off", url.Values{"password": {"pw"}}, "DELETE /me/second-factor", nil, `{"password":"pw"}`, 303, "/me?done=factor-off", nil, nil},
		{"second factor not off", "/me/second-factor/off", url.Values{"password": {"pw"}}, "DELETE /me/second-factor", problem(403, "wrong-password"), "", 403, "", []string{`id="password-problem"`, `class="danger"`}, nil},
		{"end a session", "/me/sessions/s2/end", url.Values{}, "DELETE /me/sessions/s2", nil, "", 303, "/me/sessions?done=session-ended", nil, nil},
		{"end the others", "/me/sessions/others", url.Values{}, "DELETE /me/sessions", nil, "", 303, "/me/sessions?done=sessions-ended", nil, nil},
		{"token", "/me/tokens/new", url.Values{"name": {"backup"}, "scopes": {"box", "logs"}, "days": {"30"}}, "POST /me/tokens", "", `{"name":"backup","scopes":["box","logs"],"days":30}`, 201, "", []string{"croft_abc"}, nil},
		{"token for nothing", "/me/tokens/new", url.Values{"name": {kept}, "days": {"90"}}, "POST /me/tokens", "", "", 422, "", []string{kept, `id="scopes-problem"`, `value="90" selected`}, nil},
		{"token without a name", "/me/tokens/new", url.Values{"scopes": {"logs"}, "days": {"x"}}, "POST /me/tokens", problem(422, "invalid", field("/name", "missing"), field("/days", "range")), "", 422, "", []string{`id="name-problem"`, `id="days-problem"`, `value="logs" checked`}, nil},
		{"end a token", "/me/tokens/t1/end", url.Values{}, "DELETE /me/tokens/t1", nil, "", 303, "/me/tokens?done=token-ended", nil, nil},

		{"rename the box", "/box/name", url.Values{"name": {"Haus.local"}}, "PUT /config", renamed, `"name":"Haus"`, 303, "/box?done=box-renamed", nil, nil},
		{"rename badly", "/box/name", url.Values{"name": {"-" + kept}}, "PUT /config", problem(422, "invalid", field("/name", "host-name")), "", 422, "", []string{kept, `id="name-problem"`}, nil},
		{"rename meanwhile", "/box/name", url.Values{"name": {kept}}, "PUT /config", problem(412, "changed-meanwhile"), "", 412, "", []string{kept, `role="alert"`}, nil},
		{"time zone", "/box/time-zone", url.Values{"time_zone": {"Asia/Tokyo"}}, "PUT /config", api.ConfigResult{Differences: []api.Difference{{Path: "/time_zone"}}}, `"time_zone":"Asia/Tokyo"`, 303, "/box?done=zone-changed", nil, nil},
		{"the same time zone", "/box/time-zone", url.Values{"time_zone": {"UTC"}}, "PUT /config", api.ConfigResult{}, "", 303, "/box?done=nothing-changed", nil, nil},
		{"no time zone", "/box/time-zone", url.Values{"time_zone": {"Mars/Base"}}, "PUT /config", problem(422, "invalid", field("/time_zone", "time-zone")), "", 422, "", []string{`value="Mars/Base" selected`, `id="time_zone-problem"`}, nil},
		{"restart", "/box/restart", url.Values{}, "POST /power", nil, `{"action":"reboot"}`, 200, "", []string{"The box restarts", "data-away"}, []string{"<nav"}},
		{"not restart", "/box/restart", url.Values{}, "POST /power", problem(409, "refused"), "", 409, "", []string{`role="alert"`}, nil},
		{"switch off", "/box/off", url.Values{}, "POST /power", nil, `{"action":"poweroff"}`, 200, "", []string{"The box shuts down", "safely unplug"}, []string{"data-away"}},
		{"start over", "/box/start-over", url.Values{"confirm": {" ERASE "}, "password": {"pw"}}, "POST /start-over", nil, `{"confirm":"ERASE","password":"pw"}`, 200, "", []string{"The box starts over", "claim code"}, []string{"<nav"}},
		{"start over without the word", "/box/start-over", url.Values{"confirm": {kept}, "password": {"secret-1"}}, "POST /start-over", problem(422, "not-confirmed"), "", 422, "", []string{kept, `id="confirm-problem"`}, []string{"secret-1"}},
		{"start over, wrong password", "/box/start-over", url.Values{"confirm": {"ERASE"}, "password": {"secret-1"}}, "POST /start-over", problem(403, "wrong-password"), "", 403, "", []string{`id="password-problem"`, `value="ERASE"`}, []string{"secret-1"}},

		{
			"fixed addresses", "/box/network",
			url.Values{"connection": {"eth0", "wlan0"}, "method.eth0": {"static"}, "addresses.eth0": {"192.168.1.5, fd00::5"}, "gateway.eth0": {"192.168.1.1"}, "dns.eth0": {"9.9.9.9 1.1.1.1"}, "method.wlan0": {"dhcp"}, "addresses.wlan0": {"1.2.3.4"}},
			"PUT /config", trial, `"network":{"interfaces":{"eth0":{"addresses":["192.168.1.5/24","fd00::5/64"],"gateway":"192.168.1.1","dns":["9.9.9.9","1.1.1.1"]}}}`, 303, "/box/network/trial", nil, nil,
		},
		{"addresses from the router", "/box/network", url.Values{"connection": {"eth0"}, "method.eth0": {"dhcp"}, "ntp": {"a.example, b.example"}}, "PUT /config", trial, `"network":{"ntp":["a.example","b.example"]}`, 303, "/box/network/trial", nil, nil},
		{"the same addresses", "/box/network", url.Values{}, "PUT /config", api.ConfigResult{}, "", 303, "/box/network?done=nothing-changed", nil, nil},
		{"no address", "/box/network", url.Values{"connection": {"eth0"}, "method.eth0": {"static"}, "gateway.eth0": {kept}}, "PUT /config", trial, "", 422, "", []string{kept, `id="addresses.eth0-problem"`}, nil},
		{
			"bad addresses", "/box/network",
			url.Values{"connection": {"eth/0"}, "method.eth/0": {"static"}, "addresses.eth/0": {kept}, "gateway.eth/0": {"x"}, "ntp": {"-"}},
			"PUT /config",
			problem(422, "invalid", field("/network/interfaces/eth~10/addresses/0", "address"), field("/network/interfaces/eth~10/gateway", "gateway"), field("/network/ntp/0", "host-name")),
			`"addresses":["kept","as","typed"]`, 422, "",
			[]string{kept, `id="addresses.eth/0-problem"`, `id="gateway.eth/0-problem"`, `id="ntp-problem"`},
			nil,
		},
		{"a trial runs", "/box/network", url.Values{"connection": {"eth0"}}, "PUT /config", problem(409, "trial-running"), "", 409, "", []string{`role="alert"`}, nil},
		{"keep", "/box/network/keep", url.Values{}, "POST /network/keep", nil, "", 303, "/box/network?done=network-kept", nil, nil},
		{"keep too late", "/box/network/keep", url.Values{}, "POST /network/keep", problem(409, "no-trial"), "", 303, "/box/network?done=network-reverted", nil, nil},
		{"go back", "/box/network/revert", url.Values{}, "POST /network/revert", nil, "", 303, "/box/network?done=network-reverted", nil, nil},

		{"undo", "/box/config/undo", url.Values{"change": {"9"}}, "POST /config/undo", api.ConfigResult{Differences: []api.Difference{{Path: "/time_zone"}}}, `{"change":9}`, 303, "/box/config?done=config-undone", nil, nil},
		{"undo the network", "/box/config/undo", url.Values{"change": {"9"}}, "POST /config/undo", trial, "", 303, "/box/network/trial", nil, nil},
		{"undo what can't be", "/box/config/undo", url.Values{"change": {"8"}}, "POST /config/undo", problem(409, "cannot-undo"), "", 409, "", []string{`role="alert"`, "What was changed"}, nil},
		{"undo nothing", "/box/config/undo", url.Values{"change": {"x"}}, "POST /config/undo", nil, "", 404, "", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, srv, c := start(t)
			f.on = household("")
			if tt.answer != "" {
				f.on[tt.core] = tt.answer
			}
			for lang, accept := range languages {
				resp, body := get(t, c, "POST", srv.URL+tt.path, tt.form, append([]string{"Accept-Language", accept}, signedIn...)...)
				if resp.StatusCode != tt.status || resp.Header.Get("Location") != tt.location {
					t.Fatalf("%s: %s, to %q: %s", lang, resp.Status, resp.Header.Get("Location"), body)
				}
				_, path, _ := strings.Cut(tt.core, " ")
				if _, got := f.last(path); !strings.Contains(got, tt.body) {
					t.Errorf("core got %s", got)
				}
				if strings.Contains(body, "%!") {
					t.Errorf("%s: a sentence with the wrong arguments", lang)
				}
				for _, want := range tt.has {
					if !strings.Contains(body, want) && (lang == "en" || want == kept || !words.MatchString(want)) {
						t.Errorf("%s: no %q on the page", lang, want)
					}
				}
				for _, not := range tt.hasNot {
					if strings.Contains(body, not) {
						t.Errorf("%s: %q on the page", lang, not)
					}
				}
			}
			if r, _ := f.last("/config"); r != nil && tt.core == "PUT /config" && r.Method == "PUT" && r.Header.Get("If-Match") != `"t1"` {
				t.Errorf("If-Match: %q", r.Header.Get("If-Match"))
			}
		})
	}
}

// What is shown once is not compressed and not kept.
func TestSecretPages(t *testing.T) {
	f, srv, c := start(t)
	f.on = household("")
	for path, form := range map[string]url.Values{
		"/people/invite": {}, "/people/p2/password": {}, "/me/second-factor": {}, "/me/second-factor/confirm": {}, "/me/second-factor/codes": {},
		"/me/tokens/new": {"scopes": {"box"}},
	} {
		resp, body := get(t, c, "POST", srv.URL+path, form, append([]string{"Accept-Encoding", "gzip"}, signedIn...)...)
		if resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Cache-Control") != "no-store" || resp.StatusCode/100 != 2 {
			t.Errorf("%s: %s %v", path, resp.Status, resp.Header)
		}
		if !regexp.MustCompile(`7K3M|JBSW|AAAA-BBBB|EEEE-FFFF|croft_abc`).MatchString(body) {
			t.Errorf("%s: the secret is not there", path)
		}
	}
	resp, _ := get(t, c, "GET", srv.URL+"/people", nil, append([]string{"Accept-Encoding", "gzip"}, signedIn...)...)
	if resp.Header.Get("Content-Encoding") != "gzip" {
		t.Error("no page is compressed at all")
	}
}

// Who came by the box's name is sent to its new one; who came by its address stays.
func TestRenamed(t *testing.T) {
	f, srv, c := start(t)
	f.on = household("")
	f.on["PUT /config"] = api.ConfigResult{Config: api.Config{Name: "haus"}, Differences: []api.Difference{{Path: "/name"}}}
	f.on["POST /start-over"] = nil
	for _, tt := range []struct{ host, proto, path, want string }{
		{"croft.local", "http", "/box/name", `href="http://haus.local/"`},
		{"Croft.Local:8080", "https", "/box/name", `href="https://haus.local:8080/"`},
		{"haus.local", "http", "/box/name", ""},
		{"192.168.1.20", "http", "/box/name", ""},
		{"[fd00::5]:8080", "http", "/box/name", ""},
		{"haus.local:8080", "http", "/box/start-over", `href="http://croft.local:8080/"`},
		{"croft.local:8080", "http", "/box/start-over", "data-away"},
		{"192.168.1.20", "http", "/box/start-over", "data-away"},
	} {
		req, err := http.NewRequest("POST", srv.URL+tt.path, strings.NewReader("name=haus"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Cookie", "croft_session=good")
		req.Header.Set("X-Forwarded-Proto", tt.proto)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if tt.want == "" && resp.Header.Get("Location") != "/box?done=box-renamed" || tt.want != "" && !strings.Contains(body.String(), tt.want) {
			t.Errorf("%s: %s %v", tt.host, resp.Status, resp.Header)
		}
	}
}

func TestTrial(t *testing.T) {
	f, srv, c := start(t)
	f.on = household("")
	n := f.on["GET /network"].(api.Network)
	n.Trial = &api.Trial{LeftMS: 42_100, Config: api.NetConfig{Interfaces: map[string]api.StaticConfig{
		"eth0": {Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.7.9/24"), netip.MustParsePrefix("fd00::9/64")}},
	}}}
	f.on["GET /network"] = n
	_, body := get(t, c, "GET", srv.URL+"/box/network/trial", nil, signedIn...)
	port := srv.URL[strings.LastIndex(srv.URL, ":"):]
	for _, want := range []string{
		`data-left="43"`, ">43 s left<", `content="46"`, "http://192.168.7.9" + port + "/box/network/trial", "http://[fd00::9]" + port, "http://croft.local" + port,
		`action="/box/network/keep"`, `action="/box/network/revert"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q on the page", want)
		}
	}
	if resp, _ := get(t, c, "GET", srv.URL+"/box/network", nil, signedIn...); resp.Header.Get("Location") != "/box/network/trial" {
		t.Errorf("the form while a trial runs: %s", resp.Status)
	}
	n.Trial = nil
	f.on["GET /network"] = n
	resp, _ := get(t, c, "GET", srv.URL+"/box/network/trial", nil, signedIn...)
	if resp.Header.Get("Location") != "/box/network?done=network-reverted" {
		t.Errorf("after the trial: %s %v", resp.Status, resp.Header)
	}
	_, body = get(t, c, "GET", srv.URL+"/box/network?done=network-reverted", nil, signedIn...)
	if !strings.Contains(body, "went back to the network settings") {
		t.Error("it does not say that it went back")
	}
}

// upload posts a form as browsers do with files.
func upload(t *testing.T, c *http.Client, url string, fields map[string]string, file string) (*http.Response, string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, err := w.CreateFormFile("file", "croft.json")
	if err != nil {
		t.Fatal(err)
	}
	part.Write([]byte(file))
	for k, v := range fields {
		if err := w.WriteField(k, v); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	req, err := http.NewRequest("POST", url, &b)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", w.FormDataContentType())
	req.Header.Set("Cookie", "croft_session=good")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp, out.String()
}

func TestImport(t *testing.T) {
	doc := `{"format": "croft-config/1", "name": "haus"}`
	for _, tt := range []struct {
		name       string
		text, file string
		answer     any // of the check
		status     int
		has        []string
	}{
		{"pasted", doc, "", nil, 200, []string{
			"croft.local", "haus.local", "Cable (eth0)", "From your router", "192.168.1.20/24; router 192.168.1.1; name servers 192.168.1.1, 9.9.9.9",
			"a.example", "Ben (person)", "needs an invitation", `name="etag" value="&#34;t1&#34;"`, "tried for 60 seconds",
		}},
		{"a file", "", doc, nil, 200, []string{"This would change", "&#34;name&#34;: &#34;haus&#34;"}},
		{"a file beside a text", "not this", doc, nil, 200, []string{"This would change"}},
		{"nothing", " ", "", nil, 422, []string{`id="document-problem"`}},
		{"no JSON", "{name: haus}<script>", "", nil, 422, []string{`id="document-problem"`, "{name: haus}&lt;script&gt;"}},
		{"wrong", doc, "", api.ConfigCheck{Problems: []api.FieldProblem{field("/network/ntp/0", "host-name")}}, 422, []string{"/network/ntp/0", "haus", `role="alert"`, "be used as it is"}},
		{"refused", doc, "", problem(422, "invalid", field("/x", "unknown")), 422, []string{"/x", "haus"}},
		{"the same", doc, "", api.ConfigCheck{}, 422, []string{"already set up like this"}},
		{"too large", strings.Repeat("x", maxUpload), "", nil, 413, []string{"That was too much"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, srv, c := start(t)
			f.on = household("")
			if tt.answer != nil {
				f.on["POST /config/check"] = tt.answer
			}
			resp, body := upload(t, c, srv.URL+"/box/config/import", map[string]string{"document": tt.text}, tt.file)
			if resp.StatusCode != tt.status {
				t.Fatalf("%s %s", resp.Status, body)
			}
			for _, want := range tt.has {
				if !strings.Contains(body, want) {
					t.Errorf("no %q on the page", want)
				}
			}
			if r, _ := f.last("/config"); r != nil && r.Method != "GET" {
				t.Error("something was changed already")
			}
		})
	}
	f, srv, c := start(t)
	f.on = household("")
	f.on["PUT /config"] = api.ConfigResult{Differences: []api.Difference{{Path: "/time_zone"}}}
	resp, _ := upload(t, c, srv.URL+"/box/config/apply", map[string]string{"document": doc, "etag": `"t0"`}, "")
	r, got := f.last("/config")
	if resp.Header.Get("Location") != "/box/config?done=config-imported" || r.Header.Get("If-Match") != `"t0"` || got != `{"format":"croft-config/1","name":"haus"}` {
		t.Errorf("%s %v, core got %s %s", resp.Status, resp.Header, r.Header, got)
	}
	f.on["PUT /config"] = problem(412, "changed-meanwhile")
	resp, body := upload(t, c, srv.URL+"/box/config/apply", map[string]string{"document": doc, "etag": `"t0"`}, "")
	if resp.StatusCode != 412 || !strings.Contains(body, "haus") || !strings.Contains(body, `role="alert"`) {
		t.Errorf("changed meanwhile: %s %s", resp.Status, body)
	}
	for _, path := range []string{"/box/config/import", "/box/config/apply"} {
		if resp, _ := get(t, c, "POST", srv.URL+path, url.Values{"document": {doc}}, signedIn...); resp.StatusCode != 422 {
			t.Errorf("%s not as multipart: %s", path, resp.Status)
		}
	}
}

func TestExport(t *testing.T) {
	f, srv, c := start(t)
	f.on = household("")
	resp, body := get(t, c, "GET", srv.URL+"/box/config/export", nil, signedIn...)
	var doc api.Config
	if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Name != "croft" || !strings.Contains(body, "\n  \"name\"") {
		t.Errorf("%v %s", err, body)
	}
	if got := resp.Header.Get("Content-Disposition"); got != `attachment; filename="croft-config.json"` || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", resp.Header)
	}
}

// A list of core's is read to its end, but not for ever.
func TestAllPages(t *testing.T) {
	f, srv, c := start(t)
	f.on = household("")
	f.on["GET /people"] = api.List[api.Person]{Items: []api.Person{{ID: "p1", Name: "Ada"}}, Next: "more&x"}
	_, body := get(t, c, "GET", srv.URL+"/people", nil, signedIn...)
	if n := strings.Count(body, `href="/people/p1"`); n != maxPages {
		t.Errorf("%d pages", n)
	}
	if r, _ := f.last("/people"); r.URL.Query().Get("after") != "more&x" {
		t.Errorf("asked for %s", r.URL)
	}
}

// Whatever stands in a difference, something is said of it.
func FuzzDiffs(f *testing.F) {
	f.Add("/network/interfaces/eth0", []byte(`{"addresses":["192.168.1.2/24"],"gateway":"192.168.1.1"}`))
	f.Add("/people/x~1y", []byte(`{"name":"x/y","role":"owner"}`))
	f.Add("/", []byte(`null`))
	f.Fuzz(func(t *testing.T, path string, raw []byte) {
		for _, c := range catalogues() {
			d := c.diffs([]api.Difference{{Path: path, Before: raw}})
			if len(d) != 1 || d[0].After == "" {
				t.Errorf("%q: %+v", path, d)
			}
		}
	})
}
