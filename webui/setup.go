package webui

import (
	"net"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/croft-os/croft/services/api"
)

// setupRoutes are the screens of setting the box up: one question each.
func setupRoutes() []route {
	return []route{
		{"GET /setup/name", whoAnyone, (*visit).getSetupName},
		{"POST /setup/name", whoAnyone, (*visit).postSetupName},
		{"GET /setup/account", whoAnyone, (*visit).getSetupAccount},
		{"POST /setup/account", whoAnyone, (*visit).postSetupAccount},
		{"GET /setup/time-zone", whoAnyone, (*visit).getSetupZone},
		{"POST /setup/time-zone", whoAnyone, (*visit).postSetupZone},
		{"GET /setup/done", whoOwner, (*visit).getSetupDone},
	}
}

// setupScreens are the steps that have a screen, in their order.
var setupScreens = []string{api.StepName, api.StepAccount, api.StepZone, api.StepDone}

// setupPath is the screen of a step; empty if it has none.
func setupPath(step string) string {
	if step != api.StepDone && slices.Contains(setupScreens, step) {
		return "/setup/" + step
	}
	return ""
}

// setupView is one screen.
type setupView struct {
	Step    int    // from 1
	Of      int    // how many there are
	Back    string // path of the screen before; empty where there is none to go back to
	Next    string // path of the screen after, if there is nothing to ask any more
	Box     string // name of the box
	Problem string
	Field   input
	More    input // the password
	Zone    choice
	Address string // where the box is found from now on …
	Moved   bool   // … and that is not where this page is
}

// settingUp asks how far the box is and sends away who does not set it up; then it has answered.
func (v *visit) settingUp(screen string) (view setupView, s api.Setup, ok bool) {
	if s, ok = v.setupState(); !ok {
		return view, s, false
	}
	have, want := slices.Index(setupScreens, s.Step), slices.Index(setupScreens, screen)
	if !s.Mine || s.Step == api.StepDone || want > have {
		v.redirect("/") // which leads to the step that is due
		return view, s, false
	}
	return v.screen(screen, s), s, true
}

func (v *visit) screen(screen string, s api.Setup) setupView {
	at := slices.Index(setupScreens, screen)
	view := setupView{Step: at + 1, Of: len(setupScreens), Box: s.Name}
	if at > 0 && screen != api.StepDone {
		view.Back = "/setup/" + setupScreens[at-1]
	}
	view.Address, view.Moved = address(v.r, s.Name)
	return view
}

// address is the box's page by its name, and whether the page that asks was opened by another name. Who came by a number
// is not elsewhere: that stays.
func address(r *http.Request, name string) (url string, moved bool) {
	full := r.Header.Get("X-Forwarded-Host")
	host, port, err := net.SplitHostPort(full)
	if err != nil {
		host, port = full, ""
	}
	if port != "" {
		port = ":" + port
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return scheme(r) + "://" + name + ".local" + port + "/", strings.HasSuffix(host, ".local") && host != name+".local"
}

func (v *visit) getSetupName() { v.setupName(http.StatusOK, nil) }

func (v *visit) setupName(status int, p *api.Problem) {
	view, s, ok := v.settingUp(api.StepName)
	if !ok {
		return
	}
	view.Field = input{
		Name: "name", Label: v.text.s("setup-name.label"), Hint: v.text.s("setup-name.hint"), Value: s.Name, Suffix: ".local",
		Max: 63, Exact: true,
	}
	if p != nil {
		view.Field.Value = v.field("name")
		if view.Field.Problem = v.fields(p)["name"]; view.Field.Problem == "" {
			view.Problem = v.problem(p)
		}
	}
	v.render(status, v.page("setup-name", view))
}

func (v *visit) postSetupName() {
	if !v.form() {
		return
	}
	name := strings.TrimSuffix(strings.ToLower(v.field("name")), ".local")
	p, err := v.call(http.MethodPut, "/api/v1/setup/name", api.NameRequest{Name: name}, nil)
	switch {
	case err != nil || p != nil && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusUnauthorized):
		v.failed(p, err)
	case p != nil:
		v.setupName(p.Status, p)
	default:
		v.redirect("/setup/account")
	}
}

func (v *visit) getSetupAccount() { v.setupAccount(http.StatusOK, nil) }

func (v *visit) setupAccount(status int, p *api.Problem) {
	view, s, ok := v.settingUp(api.StepAccount)
	if !ok {
		return
	}
	if s.Step == api.StepZone { // the account is there, and the way back led here
		view.Next = "/setup/" + api.StepZone
	}
	view.Field, view.More = v.accountFields(p)
	view.Field.Hint = v.text.s("setup-account.name.hint")
	if p != nil && len(p.Fields) == 0 {
		view.Problem = v.problem(p)
	}
	v.render(status, v.page("setup-account", view))
}

func (v *visit) postSetupAccount() {
	if !v.form() {
		return
	}
	req := api.AccountRequest{Name: v.field("name"), Password: v.r.PostForm.Get("password")}
	p, err := v.call(http.MethodPost, "/api/v1/setup/account", req, nil)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.failed(p, err)
	case p != nil && (p.Status == http.StatusUnauthorized || slices.Contains([]string{"already-claimed", "not-claimed", "forbidden"}, path.Base(p.Type))):
		v.redirect("/signin?why=claimed") // another phone was faster, or this one is through already
	case p != nil:
		v.setupAccount(p.Status, p)
	default:
		v.redirect("/setup/" + api.StepZone)
	}
}

func (v *visit) getSetupZone() { v.setupZone(http.StatusOK, nil) }

func (v *visit) setupZone(status int, p *api.Problem) {
	view, _, ok := v.settingUp(api.StepZone)
	if !ok {
		return
	}
	var box api.Box
	if bad, err := v.call(http.MethodGet, "/api/v1/box", nil, &box); bad != nil || err != nil {
		v.failed(bad, err)
		return
	}
	current := box.TimeZone
	if p != nil {
		current = v.field("time_zone")
	}
	view.Zone = choice{Name: "time_zone", Label: v.text.s("setup-zone.label"), Hint: v.text.s("setup-zone.hint"), Groups: v.text.zones(current)}
	if p != nil {
		if view.Zone.Problem = v.fields(p)["time_zone"]; view.Zone.Problem == "" {
			view.Problem = v.problem(p)
		}
	}
	v.render(status, v.page("setup-zone", view))
}

// postSetupZone answers the last question, and so the box is set up.
func (v *visit) postSetupZone() {
	if !v.form() {
		return
	}
	p, err := v.call(http.MethodPut, "/api/v1/setup/time-zone", api.ZoneRequest{TimeZone: v.field("time_zone")}, nil)
	if p == nil && err == nil {
		p, err = v.call(http.MethodPost, "/api/v1/setup/done", nil, nil)
	}
	switch {
	case err != nil || p != nil && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusUnauthorized):
		v.failed(p, err)
	case p != nil:
		v.setupZone(p.Status, p)
	default:
		v.redirect("/setup/" + api.StepDone)
	}
}

func (v *visit) getSetupDone() {
	s, ok := v.setupState()
	switch {
	case !ok:
	case s.Step != api.StepDone:
		v.redirect("/")
	default:
		p := v.page("setup-done", v.screen(api.StepDone, s))
		p.Section = "home"
		v.render(http.StatusOK, p)
	}
}
