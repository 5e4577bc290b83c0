package webui

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// doorRoutes are the pages in front of the box: claiming it, signing in and out, joining it, and getting back in.
func doorRoutes() []route {
	return []route{
		{"GET /{$}", whoAnyone, (*visit).getStart},
		{"GET /claim", whoAnyone, (*visit).getClaim},
		{"POST /claim", whoAnyone, (*visit).postClaim},
		{"GET /signin", whoAnyone, (*visit).getSignIn},
		{"POST /signin", whoAnyone, (*visit).postSignIn},
		{"GET /signin/code", whoAnyone, (*visit).getSecondFactor},
		{"POST /signin/code", whoAnyone, (*visit).postSecondFactor},
		{"POST /signout", whoAnyone, (*visit).postSignOut},
		{"GET /join", whoAnyone, (*visit).getJoin},
		{"POST /join", whoAnyone, (*visit).postJoin},
		{"GET /join/account", whoAnyone, (*visit).getJoinAccount},
		{"POST /join/account", whoAnyone, (*visit).postJoinAccount},
		{"GET /recover", whoAnyone, (*visit).getRecover},
		{"POST /recover", whoAnyone, (*visit).postRecover},
	}
}

// How long what was typed on one screen is remembered for the next.
const (
	claimLife  = api.ClaimQuiet + 5*time.Minute
	factorLife = 5 * time.Minute
	joinLife   = 30 * time.Minute
)

// The field for a code is the same everywhere: the script finds it by this name.
const codeField = "code"

// getStart leads to where the one who asks has to be: the claim, the next step of setting up, signing in, or the box.
func (v *visit) getStart() {
	var session api.Session
	p, err := v.call(http.MethodGet, "/api/v1/session", nil, &session)
	if err != nil || p != nil && p.Status != http.StatusUnauthorized {
		v.failed(p, err)
		return
	}
	in := p == nil
	if in && (session.Role == api.RoleMember || session.Role == api.RoleRescue) {
		v.session = &session
		v.getHome()
		return
	}
	s, ok := v.setupState()
	switch {
	case !ok:
	case s.Step == api.StepDone && in:
		v.session = &session
		v.getHome()
	case s.Mine && setupPath(s.Step) != "":
		v.redirect(setupPath(s.Step))
	case s.Step == api.StepDone, s.Step == api.StepZone:
		v.redirect("/signin")
	default:
		v.gate(http.StatusOK, s, nil)
	}
}

// setupState asks how far the box is, or answers and returns false.
func (v *visit) setupState() (s api.Setup, ok bool) {
	p, err := v.call(http.MethodGet, "/api/v1/setup", nil, &s)
	if p != nil || err != nil {
		v.failed(p, err)
		return s, false
	}
	return s, true
}

// gateView is the door of a box that is nobody's yet, that is in rescue mode, or that lost its accounts.
type gateView struct {
	Kind    string // "claim", "rescue" or "locked": which sentences
	Busy    bool   // another phone is setting the box up …
	Wait    string // … and this is when that one may go on
	Retry   bool   // the code is remembered; trying again needs no typing
	Problem string // of the form, not of the code
	Code    input
}

// gate shows the door; p is what was wrong with the code.
func (v *visit) gate(status int, s api.Setup, p *api.Problem) {
	g := gateView{Kind: "claim", Busy: s.Busy}
	if s.Step == api.StepRescue || s.Step == api.StepLocked {
		g.Kind = s.Step
	}
	g.Code = input{Name: codeField, Label: v.text.s("gate.label"), Hint: v.text.s("gate.hint"), Autocomplete: "one-time-code", Max: 40, Exact: true}
	if g.Kind == api.StepRescue {
		g.Code.Label, g.Code.Hint = v.text.s("gate.rescue.label"), v.text.s("gate.rescue.hint")
	}
	if p != nil {
		switch name := path.Base(p.Type); name {
		case "wrong-code", "code-format", "invalid":
			if name == "invalid" {
				name = "code-format"
			}
			g.Code.Problem = v.text.s("gate." + name)
			if name == "wrong-code" {
				g.Code.Hint = v.text.s("gate.restart-hint")
			}
		case "claimed-by-another":
			g.Busy, g.Retry = true, true
			if p.RetryAfter > 0 {
				g.Wait = v.text.duration(time.Duration(min(p.RetryAfter, longestMin)) * time.Second)
			}
		default:
			g.Problem = v.problem(p)
		}
	}
	page := v.page("gate", g)
	page.Title = v.text.s("gate." + g.Kind + ".title")
	v.render(status, page)
}

// getClaim is where the browser is after a code that was not taken: it shows the door anew.
func (v *visit) getClaim() { v.redirect("/") }

// postClaim exchanges the claim code, or in rescue mode the code on the screen, for a session.
func (v *visit) postClaim() {
	if !v.form() {
		return
	}
	code := v.field(codeField)
	if code == "" {
		v.kept("claim", &code)
	}
	p, err := v.call(http.MethodPost, "/api/v1/claim", api.ClaimRequest{Code: code}, nil)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.failed(p, err)
		return
	case p == nil:
		v.forget("claim", "/claim")
		v.redirect("/")
		return
	}
	switch path.Base(p.Type) {
	case "claimed-by-another":
		v.keep("claim", "/claim", code, claimLife)
	case "code-void", "already-claimed":
		v.redirect("/signin?why=claimed")
		return
	}
	if s, ok := v.setupState(); ok {
		v.gate(p.Status, s, p)
	}
}

// signInView is the form to sign in.
type signInView struct {
	Box, Why, To, Problem string
	Name, Password        input
}

// local is to if it leads to a page of this box, else the start page.
func local(to string) string {
	u, err := url.Parse(to)
	if err != nil || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") || u.Host != "" || u.Scheme != "" {
		return "/"
	}
	return to
}

func (v *visit) getSignIn() {
	s, ok := v.setupState()
	if !ok {
		return
	}
	if s.Step != api.StepDone && s.Step != api.StepZone {
		v.redirect("/")
		return
	}
	to := local(v.r.URL.Query().Get("to"))
	if p, err := v.call(http.MethodGet, "/api/v1/session", nil, nil); p == nil && err == nil {
		v.redirect(to)
		return
	}
	why := v.text.or("signin.why."+v.r.URL.Query().Get("why"), "")
	v.signIn(http.StatusOK, signInView{Box: s.Name, Why: why, To: to}, nil)
}

// signIn shows the form; p is what was wrong with it.
func (v *visit) signIn(status int, view signInView, p *api.Problem) {
	view.Name = input{Name: "name", Label: v.text.s("signin.name"), Value: v.field("name"), Autocomplete: "username", Max: 100, Exact: true}
	view.Password = input{Name: "password", Label: v.text.s("signin.password"), Type: "password", Autocomplete: "current-password", Max: 1000}
	if p != nil {
		switch fields := v.fields(p); {
		case path.Base(p.Type) == "wrong-password":
			view.Password.Problem = v.problem(p)
		case len(fields) > 0:
			view.Name.Problem, view.Password.Problem = fields["name"], fields["password"]
		default:
			view.Problem = v.problem(p)
		}
	}
	v.render(status, v.page("signin", view))
}

func (v *visit) postSignIn() {
	if !v.form() {
		return
	}
	v.trySignIn(signing{v.field("name"), v.r.PostForm.Get("password"), local(v.r.PostForm.Get("to"))}, "")
}

// signing is what the first screen of signing in leaves to the second.
type signing struct{ Name, Password, To string }

// trySignIn asks core with what is known so far. Whoever has a second factor is asked for it on a screen of its own.
func (v *visit) trySignIn(s signing, code string) {
	p, err := v.call(http.MethodPost, "/api/v1/session", api.SessionRequest{Name: s.Name, Password: s.Password, SecondFactor: code}, nil)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.failed(p, err)
	case p == nil:
		v.forget("signin", "/signin")
		v.redirect(s.To)
	case path.Base(p.Type) == "second-factor" && code == "" && v.keep("signin", "/signin", s, factorLife):
		v.redirect("/signin/code")
	case code != "" && path.Base(p.Type) != "wrong-password":
		v.secondFactor(p.Status, p)
	default:
		box := ""
		if state, ok := v.setupState(); ok {
			box = state.Name
		} else {
			return
		}
		v.signIn(p.Status, signInView{Box: box, To: s.To}, p)
	}
}

// factorView is the second screen of signing in.
type factorView struct {
	Name     string
	Recovery bool // a recovery code instead of digits
	Problem  string
	Code     input
}

func (v *visit) getSecondFactor() { v.secondFactor(http.StatusOK, nil) }

func (v *visit) secondFactor(status int, p *api.Problem) {
	var s signing
	if !v.kept("signin", &s) {
		v.redirect("/signin?why=slow")
		return
	}
	view := factorView{Name: s.Name, Recovery: v.r.URL.Query().Get("with") == "recovery" || v.r.PostForm.Get("with") == "recovery"}
	view.Code = input{Name: "digits", Label: v.text.s("signin-code.label"), Hint: v.text.s("signin-code.hint"), Mode: "numeric", Autocomplete: "one-time-code", Max: 12, Exact: true, Focus: true}
	if view.Recovery {
		view.Code = input{Name: "digits", Label: v.text.s("signin-code.recovery"), Hint: v.text.s("signin-code.recovery.hint"), Max: 40, Exact: true, Focus: true}
	}
	if p != nil {
		if view.Problem = v.problem(p); path.Base(p.Type) == "wrong-second-factor" {
			view.Problem, view.Code.Problem = "", v.problem(p)
		}
	}
	v.render(status, v.page("signin-code", view))
}

func (v *visit) postSecondFactor() {
	if !v.form() {
		return
	}
	var s signing
	if !v.kept("signin", &s) {
		v.redirect("/signin?why=slow")
		return
	}
	v.trySignIn(s, v.field("digits"))
}

func (v *visit) postSignOut() {
	if p, err := v.call(http.MethodDelete, "/api/v1/session", nil, nil); p != nil || err != nil {
		v.failed(p, err)
		return
	}
	v.done("/signin", "signed-out")
}

// joinView is where an invitation is taken: the code first, then who it is from, and the account.
type joinView struct {
	Look           api.JoinLook
	Problem        string
	Code           input
	Name, Password input
}

func (v *visit) getJoin() { v.join(http.StatusOK, nil) }

func (v *visit) join(status int, p *api.Problem) {
	view := joinView{Code: input{Name: codeField, Label: v.text.s("join.label"), Hint: v.text.s("join.hint"), Max: 60, Exact: true}}
	if p != nil {
		switch path.Base(p.Type) {
		case "too-many-tries":
			view.Problem = v.problem(p)
		case "invalid", "code-format":
			view.Code.Problem = v.text.s("join.format")
		default:
			view.Code.Problem = v.problem(p)
		}
	}
	v.render(status, v.page("join", view))
}

// postJoin looks what an invitation is for.
func (v *visit) postJoin() {
	if !v.form() {
		return
	}
	code := v.field(codeField)
	p, err := v.call(http.MethodPost, "/api/v1/join/look", api.JoinRequest{Code: code}, nil)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.failed(p, err)
	case p != nil:
		v.join(p.Status, p)
	case !v.keep("join", "/join", code, joinLife):
		v.join(http.StatusUnprocessableEntity, &api.Problem{Type: "code-format"})
	default:
		v.redirect("/join/account")
	}
}

func (v *visit) getJoinAccount() { v.joinAccount(http.StatusOK, nil) }

func (v *visit) joinAccount(status int, p *api.Problem) {
	var code string
	if !v.kept("join", &code) {
		v.redirect("/join")
		return
	}
	var look api.JoinLook
	if bad, err := v.call(http.MethodPost, "/api/v1/join/look", api.JoinRequest{Code: code}, &look); bad != nil || err != nil {
		if err != nil || bad.Status == http.StatusServiceUnavailable {
			v.failed(bad, err)
			return
		}
		v.forget("join", "/join")
		v.join(bad.Status, bad)
		return
	}
	view := joinView{Look: look}
	view.Name, view.Password = v.accountFields(p)
	if p != nil && len(p.Fields) == 0 {
		view.Problem = v.problem(p)
	}
	v.render(status, v.page("join-account", view))
}

// accountFields are the fields of whoever makes an account or chooses a new password.
func (v *visit) accountFields(p *api.Problem) (name, password input) {
	name = input{
		Name: "name", Label: v.text.s("account.name"), Hint: v.text.s("account.name.hint"), Value: v.field("name"),
		Autocomplete: "username", Max: 40, Exact: true,
	}
	password = input{
		Name: "password", Label: v.text.s("account.password"), Hint: v.text.s("account.password.hint"), Type: "password",
		Autocomplete: "new-password", Max: 256,
	}
	if p != nil {
		fields := v.fields(p)
		name.Problem, password.Problem = fields["name"], fields["password"]
	}
	return name, password
}

func (v *visit) postJoinAccount() {
	var code string
	if !v.form() {
		return
	}
	if !v.kept("join", &code) {
		v.redirect("/join")
		return
	}
	p, err := v.call(http.MethodPost, "/api/v1/join", api.JoinRequest{Code: code, Name: v.field("name"), Password: v.r.PostForm.Get("password")}, nil)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.failed(p, err)
	case p != nil:
		v.joinAccount(p.Status, p)
	default:
		v.forget("join", "/join")
		v.done("/", "joined")
	}
}

// recoverView is the way back in for an owner who lost the password.
type recoverView struct {
	Locked               bool // the accounts are lost
	Problem              string
	Code, Name, Password input
}

func (v *visit) getRecover() { v.recover(http.StatusOK, nil) }

func (v *visit) recover(status int, p *api.Problem) {
	s, ok := v.setupState()
	if !ok {
		return
	}
	view := recoverView{Locked: s.Step == api.StepLocked}
	if !view.Locked && s.Step != api.StepDone && s.Step != api.StepZone {
		v.redirect("/")
		return
	}
	view.Code = input{Name: codeField, Label: v.text.s("recover.label"), Hint: v.text.s("recover.hint"), Max: 60, Exact: true}
	view.Name, view.Password = v.accountFields(p)
	view.Password.Label = v.text.s("recover.password")
	if view.Name.Hint = v.text.s("recover.name.hint"); view.Locked {
		view.Name.Hint = v.text.s("account.name.hint")
	}
	if p != nil {
		switch path.Base(p.Type) {
		case "wrong-code", "code-void", "code-format":
			view.Code.Problem = v.text.s("recover.wrong")
		case "no-such-owner":
			view.Name.Problem = v.problem(p)
		case "invalid":
			view.Code.Problem = v.fields(p)[codeField]
		default:
			view.Problem = v.problem(p)
		}
	}
	v.render(status, v.page("recover", view))
}

func (v *visit) postRecover() {
	if !v.form() {
		return
	}
	req := api.RecoverRequest{Code: v.field(codeField), Name: v.field("name"), Password: v.r.PostForm.Get("password")}
	p, err := v.call(http.MethodPost, "/api/v1/recover", req, nil)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.failed(p, err)
	case p != nil:
		v.recover(p.Status, p)
	default:
		v.done("/", "recovered")
	}
}
