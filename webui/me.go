package webui

import (
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// meRoutes are the pages of everybody's own account.
func meRoutes() []route {
	return []route{
		{"GET /me", whoPeople, (*visit).getMe},
		{"GET /me/name", whoPeople, (*visit).getMyName},
		{"POST /me/name", whoPeople, (*visit).postMyName},
		{"GET /me/password", whoPeople, (*visit).getPassword},
		{"POST /me/password", whoPeople, (*visit).postPassword},
		{"GET /me/second-factor", whoPeople, (*visit).getFactor},
		{"POST /me/second-factor", whoPeople, (*visit).postFactor},
		{"POST /me/second-factor/confirm", whoPeople, (*visit).postFactorCode},
		{"GET /me/second-factor/codes", whoPeople, (*visit).getCodes},
		{"POST /me/second-factor/codes", whoPeople, (*visit).postCodes},
		{"GET /me/second-factor/off", whoPeople, (*visit).getFactorOff},
		{"POST /me/second-factor/off", whoPeople, (*visit).postFactorOff},
		{"GET /me/sessions", whoPeople, (*visit).getSessions},
		{"POST /me/sessions/others", whoPeople, (*visit).postSessionsOthers},
		{"POST /me/sessions/{id}/end", whoPeople, (*visit).postSessionEnd},
		{"GET /me/tokens", whoPeople, (*visit).getTokens},
		{"GET /me/tokens/new", whoPeople, (*visit).getTokenNew},
		{"POST /me/tokens/new", whoPeople, (*visit).postTokenNew},
		{"POST /me/tokens/{id}/end", whoPeople, (*visit).postTokenEnd},
	}
}

// row is a link to a page, with what it has to say before it is opened.
type row struct{ Href, Name, Value string }

// rowsView is a page of rows: the templates "me" and "settings".
type rowsView struct {
	Name, Text string
	Rows       []row
}

func (v *visit) getMe() {
	me, ok := v.me()
	if !ok {
		return
	}
	c := v.text
	factor := c.s("factor.off")
	if me.SecondFactor {
		factor = c.n("factor.on", me.RecoveryCodes)
	}
	view := rowsView{Name: me.Name, Text: c.or("role."+me.Role+".text", me.Role), Rows: []row{
		{"/me/name", c.s("me.name"), me.Name},
		{"/me/password", c.s("me.password"), c.s("me.password.text")},
		{"/me/second-factor", c.s("me.factor"), factor},
	}}
	sessions, tokens := "", ""
	if l, p, err := all[api.Session](v, "/api/v1/me/sessions"); p == nil && err == nil {
		sessions = c.n("me.sessions", len(l))
	}
	if l, p, err := all[api.Token](v, "/api/v1/me/tokens"); p == nil && err == nil {
		if tokens = c.s("me.tokens.none"); len(l) > 0 {
			tokens = c.n("me.tokens", len(l))
		}
	}
	view.Rows = append(view.Rows, row{"/me/sessions", c.s("me.sessions.title"), sessions}, row{"/me/tokens", c.s("me.tokens.title"), tokens},
		row{"/trust", c.s("settings.trust"), c.s("settings.trust.text")})
	if !v.owner() { // owners find it under Box
		view.Rows = append(view.Rows, row{"/box/about", c.s("about.title"), c.s("about.licences")})
	}
	v.render(http.StatusOK, v.named("me", me.Name, view))
}

// me is who asks, or it has answered.
func (v *visit) me() (api.Person, bool) {
	var me api.Person
	p, err := v.call(http.MethodGet, "/api/v1/me", nil, &me)
	if p != nil || err != nil {
		v.failed(p, err)
		return me, false
	}
	return me, true
}

// askView is a page that asks for one thing: the template "ask".
type askView struct {
	trouble
	Up, UpName    string // where it came from
	Title, Action string
	Texts         []string // what it is about
	Lost          []string // what will be lost …
	Kept          []string // … and what stays
	Inputs        []input
	Submit        string
	Danger        bool
}

// ask shows a form. Its words are the catalogue's NAME.title, NAME.text (if there is one) and NAME.submit.
func (v *visit) ask(name string, a askView) {
	if a.Title == "" {
		a.Title = v.text.s(name + ".title")
	}
	a.Submit, a.Action = v.text.s(name+".submit"), v.r.URL.Path
	if text := v.text.or(name+".text", ""); text != "" {
		a.Texts = append([]string{text}, a.Texts...)
	}
	v.render(a.status(), v.named("ask", a.Title, a))
}

func (v *visit) getMyName() { v.myName(v.session.Person.Name, trouble{}) }

func (v *visit) myName(name string, t trouble) {
	v.ask("me-name", askView{trouble: t, Up: "/me", UpName: v.text.s("nav.me"), Inputs: []input{{
		Name: "name", Label: v.text.s("person.name"), Hint: v.text.s("person.name.hint"), Value: name, Problem: t.Fields["name"],
		Max: maxName, Autocomplete: "nickname",
	}}})
}

func (v *visit) postMyName() {
	if !v.form() {
		return
	}
	req := api.PersonChange{Name: v.field("name")}
	p, err := v.call(http.MethodPut, "/api/v1/me", req, nil)
	if p == nil && err == nil {
		v.done("/me", "me-renamed")
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"name": "name", "name-taken": "name"}); ok {
		v.myName(req.Name, t)
	}
}

func (v *visit) getPassword() { v.password(trouble{}) }

func (v *visit) password(t trouble) {
	v.ask("my-password", askView{trouble: t, Up: "/me", UpName: v.text.s("nav.me"), Inputs: []input{
		{Name: "old", Label: v.text.s("my-password.old"), Type: "password", Autocomplete: "current-password", Problem: t.Fields["old"]},
		{
			Name: "new", Label: v.text.s("my-password.new"), Type: "password", Autocomplete: "new-password", Problem: t.Fields["new"],
			Hint: v.text.s("my-password.hint"),
		},
	}})
}

func (v *visit) postPassword() {
	if !v.form() {
		return
	}
	req := api.PasswordChange{Old: v.r.PostForm.Get("old"), New: v.r.PostForm.Get("new")}
	p, err := v.call(http.MethodPut, "/api/v1/me/password", req, nil)
	if p == nil && err == nil {
		v.done("/me", "password-changed")
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"old": "old", "new": "new", "wrong-password": "old"}); ok {
		v.password(t)
	}
}

// getFactor is the way to turn the second factor on, or what can be done with the one that is.
func (v *visit) getFactor() {
	me, ok := v.me()
	switch {
	case !ok:
	case !me.SecondFactor:
		v.factorAsk("factor", trouble{})
	default:
		v.render(http.StatusOK, v.page("factor", v.text.n("factor.on", me.RecoveryCodes)))
	}
}

func (v *visit) getCodes()     { v.factorAsk("codes-new", trouble{}) }
func (v *visit) getFactorOff() { v.factorAsk("factor-end", trouble{}) }

// factorAsk asks for the password once more.
func (v *visit) factorAsk(name string, t trouble) {
	a := askView{trouble: t, Up: "/me/second-factor", UpName: v.text.s("factor.title"), Danger: name == "factor-end", Inputs: []input{{
		Name: "password", Label: v.text.s("my-password.yours"), Type: "password", Autocomplete: "current-password", Problem: t.Fields["password"],
	}}}
	if name == "factor" {
		a.Up, a.UpName = "/me", v.text.s("nav.me")
	}
	v.ask(name, a)
}

// withPassword asks core for what needs the password once more; false if it has answered.
func (v *visit) withPassword(name, method, path string, out any) bool {
	if !v.form() {
		return false
	}
	p, err := v.call(method, path, api.PasswordRequest{Password: v.r.PostForm.Get("password")}, out)
	if p == nil && err == nil {
		return true
	}
	if t, ok := v.trouble(p, err, map[string]string{"password": "password", "wrong-password": "password"}); ok {
		v.factorAsk(name, t)
	}
	return false
}

func (v *visit) postFactor() {
	var fresh api.NewSecondFactor
	if v.withPassword("factor", http.MethodPost, "/api/v1/me/second-factor", &fresh) {
		v.factorNew(fresh, trouble{})
	}
}

// factorNewView shows a new second factor until a code of it has come.
type factorNewView struct {
	trouble
	Secret string // as the form sends it back, for the page keeps nothing
	Spaced string // in groups of four, to type
	URI    string
	Link   template.URL // the same for the phone's own app; empty if it is none
	QR     *qrView
	Code   input
}

func (v *visit) factorNew(f api.NewSecondFactor, t trouble) {
	view := factorNewView{trouble: t, Secret: f.Secret, Spaced: spaced(f.Secret), URI: f.URI, QR: newQR(f.URI, v.text.s("factor.qr")), Code: input{
		Name: "code", Label: v.text.s("factor.code"), Hint: v.text.s("factor.code.hint"), Problem: t.Fields["code"],
		Autocomplete: "one-time-code", Mode: "numeric", Max: 12, Exact: true,
	}}
	if strings.HasPrefix(f.URI, "otpauth://totp/") {
		view.Link = template.URL(f.URI) // what else could run is not of this scheme
	}
	p := v.page("factor-new", view)
	p.Secret = true
	v.render(t.status(), p)
}

// spaced sets a space after every fourth character.
func spaced(s string) string {
	var b strings.Builder
	for i, r := range []rune(s) {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func (v *visit) postFactorCode() {
	if !v.form() {
		return
	}
	var codes api.RecoveryCodes
	p, err := v.call(http.MethodPut, "/api/v1/me/second-factor", api.SecondFactorCode{Code: v.field("code")}, &codes)
	if p == nil && err == nil {
		v.codes(codes)
		return
	}
	if p != nil && p.Status == http.StatusNotFound { // it was begun again elsewhere, or is on already
		v.redirect("/me/second-factor")
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"code": "code", "wrong-second-factor": "code"}); ok {
		v.factorNew(api.NewSecondFactor{Secret: v.field("secret"), URI: v.field("uri")}, t)
	}
}

func (v *visit) postCodes() {
	var codes api.RecoveryCodes
	if v.withPassword("codes-new", http.MethodPost, "/api/v1/me/recovery-codes", &codes) {
		v.codes(codes)
	}
}

// codes shows recovery codes, once.
func (v *visit) codes(c api.RecoveryCodes) {
	p := v.page("codes", strings.Join(c.Codes, "\n"))
	p.Secret = true
	v.render(http.StatusOK, p)
}

func (v *visit) postFactorOff() {
	if v.withPassword("factor-end", http.MethodDelete, "/api/v1/me/second-factor", nil) {
		v.done("/me", "factor-off")
	}
}

// sessionView is a device that is signed in.
type sessionView struct {
	ID, Device, Place, Seen string
	This                    bool
}

func (v *visit) getSessions() {
	list, p, err := all[api.Session](v, "/api/v1/me/sessions")
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	view := struct {
		Sessions []sessionView
		Others   bool
	}{}
	for _, s := range list {
		device := s.Device
		if device == "" {
			device = v.text.s("sessions.unknown")
		}
		view.Sessions = append(view.Sessions, sessionView{s.ID, device, s.Place, v.text.seen(s.Seen), s.Current})
		view.Others = view.Others || !s.Current
	}
	v.render(http.StatusOK, v.page("sessions", view))
}

func (v *visit) postSessionsOthers() {
	v.act(http.MethodDelete, "/api/v1/me/sessions", nil, "/me/sessions", "sessions-ended")
}

func (v *visit) postSessionEnd() {
	v.act(http.MethodDelete, "/api/v1/me/sessions/"+url.PathEscape(v.r.PathValue("id")), nil, "/me/sessions", "session-ended")
}

// tokenView is a token in words.
type tokenView struct {
	ID, Name, Used, Left string
	May                  []string
}

func (v *visit) getTokens() {
	list, p, err := all[api.Token](v, "/api/v1/me/tokens")
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	var view []tokenView
	for _, t := range list {
		left := v.text.s("tokens.over")
		if d := time.Until(t.Expires); d > 0 {
			left = v.text.s("tokens.left", v.text.duration(d))
		}
		tv := tokenView{ID: t.ID, Name: t.Name, Used: v.text.s("tokens.unused"), Left: left}
		if !t.Used.IsZero() {
			tv.Used = v.text.s("tokens.used", v.text.seen(t.Used))
		}
		for _, s := range t.Scopes {
			tv.May = append(tv.May, v.text.or("scope."+s, s))
		}
		view = append(view, tv)
	}
	v.render(http.StatusOK, v.page("tokens", view))
}

// tokenNewView is the form for a new token.
type tokenNewView struct {
	trouble
	Name   input
	Scopes []check
	Days   choice
}

// tokenDays are how long a token can hold.
func tokenDays() []int { return []int{7, 30, 90, 366} }

func (v *visit) getTokenNew() {
	v.tokenNew(api.TokenRequest{Scopes: []string{api.ScopeBox}, Days: 30}, trouble{})
}

func (v *visit) tokenNew(req api.TokenRequest, t trouble) {
	view := tokenNewView{
		trouble: t,
		Name: input{
			Name: "name", Label: v.text.s("tokens.name"), Hint: v.text.s("tokens.name.hint"), Value: req.Name, Problem: t.Fields["name"], Max: maxName,
		},
		Days: choice{Name: "days", Label: v.text.s("tokens.days"), Problem: t.Fields["days"], Groups: []group{{}}},
	}
	for _, s := range api.Scopes() {
		if !v.owner() && s != api.ScopeBox {
			continue // all else is refused to members anyway
		}
		c := check{Name: "scopes", Value: s, Label: v.text.s("scope." + s)}
		for _, on := range req.Scopes {
			c.On = c.On || on == s
		}
		view.Scopes = append(view.Scopes, c)
	}
	for _, d := range tokenDays() {
		view.Days.Groups[0].Options = append(view.Days.Groups[0].Options, option{
			Value: strconv.Itoa(d), Label: v.text.n("time.days", d), On: d == req.Days,
		})
	}
	v.render(t.status(), v.page("token-new", view))
}

func (v *visit) postTokenNew() {
	if !v.form() {
		return
	}
	days, err := strconv.Atoi(v.field("days"))
	if err != nil {
		days = 0 // core says what is wrong with it
	}
	req := api.TokenRequest{Name: v.field("name"), Scopes: v.r.PostForm["scopes"], Days: days}
	if len(req.Scopes) == 0 {
		v.tokenNew(req, wrong("scopes", v.text.s("tokens.scopes.none")))
		return
	}
	var token api.Token
	p, err := v.call(http.MethodPost, "/api/v1/me/tokens", req, &token)
	if p == nil && err == nil {
		page := v.page("token", token)
		page.Secret = true
		v.render(http.StatusCreated, page)
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"name": "name", "scopes": "scopes", "days": "days"}); ok {
		v.tokenNew(req, t)
	}
}

func (v *visit) postTokenEnd() {
	v.act(http.MethodDelete, "/api/v1/me/tokens/"+url.PathEscape(v.r.PathValue("id")), nil, "/me/tokens", "token-ended")
}
