package webui

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// settingsRoutes are the pages of the box itself.
func settingsRoutes() []route {
	return []route{
		{"GET /box", whoOwner, (*visit).getSettings},
		{"GET /box/name", whoOwner, (*visit).getBoxName},
		{"POST /box/name", whoOwner, (*visit).postBoxName},
		{"GET /box/time-zone", whoOwner, (*visit).getZone},
		{"POST /box/time-zone", whoOwner, (*visit).postZone},
		{"GET /box/about", whoPeople, (*visit).getAbout},
		{"GET /box/licences", whoPeople, (*visit).getLicences},
		{"GET /box/licences/{name...}", whoPeople, (*visit).getLicence},
		{"GET /box/restart", whoOwner, (*visit).getRestart},
		{"POST /box/restart", whoOwner, (*visit).postRestart},
		{"GET /box/off", whoOwner, (*visit).getOff},
		{"POST /box/off", whoOwner, (*visit).postOff},
		{"GET /box/start-over", whoOwner, (*visit).getStartOver},
		{"POST /box/start-over", whoOwner, (*visit).postStartOver},
	}
}

// settingsView is what can be set, each with its present value.
type settingsView struct {
	Address string
	Rows    []row
	Power   []row
}

// state is the box as core sees it, or it has answered.
func (v *visit) state() (*api.Box, bool) {
	var b api.Box
	p, err := v.call(http.MethodGet, "/api/v1/box", nil, &b)
	if p != nil || err != nil {
		v.failed(p, err)
		return nil, false
	}
	return &b, true
}

func (v *visit) getSettings() {
	b, ok := v.state()
	if !ok {
		return
	}
	c := v.text
	reach := c.reach(b, scheme(v.r))
	zone := b.TimeZone
	if zone == "" {
		zone = "UTC"
	}
	if l, err := time.LoadLocation(zone); err == nil {
		zone = c.s("settings.zone", zone, time.Now().In(l).Format("15:04"))
	}
	view := settingsView{
		Address: reach.URL,
		Rows: []row{
			{"/box/name", c.s("box-name.title"), b.System.Name + ".local"},
			{"/box/time-zone", c.s("box-zone.title"), zone},
			{"/box/network", c.s("network.title"), c.networkWord(b.Network)},
			{"/box/config", c.s("config.title"), c.s("settings.config")},
			{"/trust", c.s("settings.trust"), c.s("settings.trust.text")},
			{"/updates", c.s("updates.title"), c.updatesWord(b.Updates)},
			{"/box/about", c.s("about.title"), c.s("settings.version", b.System.Version)},
		},
		Power: []row{
			{"/box/restart", c.s("box-restart.title"), c.s("settings.restart")},
			{"/box/off", c.s("box-off.title"), c.s("settings.off")},
			{"/box/start-over", c.s("box-over.title"), c.s("settings.over")},
		},
	}
	v.render(http.StatusOK, v.page("settings", view))
}

// networkWord says in a few words where the box has its addresses from.
func (c catalogue) networkWord(n *api.Network) string {
	switch {
	case n == nil:
		return c.s("settings.network.unknown")
	case n.Trial != nil:
		return c.s("settings.network.trial")
	case len(n.Config.Interfaces) > 0:
		return c.s("settings.network.static")
	}
	return c.s("settings.network.dhcp")
}

func (v *visit) getBoxName() {
	doc, _, ok := v.config()
	if ok {
		v.boxName(doc.Name, trouble{})
	}
}

func (v *visit) boxName(name string, t trouble) {
	v.ask("box-name", askView{trouble: t, Up: "/box", UpName: v.text.s("nav.box"), Inputs: []input{{
		Name: "name", Label: v.text.s("box-name.label"), Hint: v.text.s("box-name.hint"), Value: name, Problem: t.Fields["name"],
		Max: 63, Suffix: ".local", Exact: true,
	}}})
}

func (v *visit) postBoxName() {
	if !v.form() {
		return
	}
	name := strings.TrimSuffix(v.field("name"), ".local")
	doc, etag, ok := v.config()
	if !ok {
		return
	}
	doc.Name = name
	res, p, err := v.change(doc, etag)
	if p == nil && err == nil {
		v.applied(res, "/box", "box-renamed")
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"name": "name"}); ok {
		v.boxName(name, t)
	}
}

// renamedView says where the box is from now on.
type renamedView struct {
	Name, URL string
	Trial     bool // the network changed with it and has to be kept
}

// renamed is where a browser finds the box under its new name; ok is false if it came by an address that stays.
func (v *visit) renamed(res api.ConfigResult) (view renamedView, ok bool) {
	host, port, err := net.SplitHostPort(v.r.Host)
	if err != nil {
		host, port = v.r.Host, ""
	}
	at := strings.TrimSuffix(host, ".")
	name := res.Config.Name
	for _, d := range res.Differences {
		ok = ok || d.Path == "/name"
	}
	if !ok || len(at) < len(".local") || !strings.EqualFold(at[len(at)-len(".local"):], ".local") || strings.EqualFold(at, name+".local") {
		return view, false
	}
	to := name + ".local"
	if port != "" {
		to = net.JoinHostPort(to, port)
	}
	return renamedView{Name: name, URL: scheme(v.r) + "://" + to + "/", Trial: res.Trial != nil}, true
}

// zoneView is the choice of the time zone.
type zoneView struct {
	trouble
	Zone choice
}

func (v *visit) getZone() {
	if doc, _, ok := v.config(); ok {
		v.zonePage(doc.TimeZone, trouble{})
	}
}

func (v *visit) zonePage(zone string, t trouble) {
	v.render(t.status(), v.page("box-zone", zoneView{t, choice{
		Name: "time_zone", Label: v.text.s("box-zone.label"), Hint: v.text.s("box-zone.hint"), Problem: t.Fields["time_zone"], Groups: v.text.zones(zone),
	}}))
}

func (v *visit) postZone() {
	if !v.form() {
		return
	}
	zone := v.field("time_zone")
	doc, etag, ok := v.config()
	if !ok {
		return
	}
	doc.TimeZone = zone
	res, p, err := v.change(doc, etag)
	if p == nil && err == nil {
		v.applied(res, "/box", "zone-changed")
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"time_zone": "time_zone"}); ok {
		v.zonePage(zone, t)
	}
}

// aboutView is what there is to know about the box, for who wants to.
type aboutView struct {
	Facts []fact
	Boot  bootView
	Gaps  []gapView
	Owner bool
}

func (v *visit) getAbout() {
	if b, ok := v.state(); ok {
		all := v.text.view(b, scheme(v.r))
		v.render(http.StatusOK, v.page("box-about", aboutView{all.About, all.Boot, all.Gaps, v.owner()}))
	}
}

// licenceView is a piece of software in the image.
type licenceView struct {
	Href, Name, Version, Licence, Text string
}

func (v *visit) getLicences() {
	list, p, err := all[api.Component](v, "/api/v1/licences")
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	var view []licenceView
	for _, c := range list {
		view = append(view, licenceView{"/box/licences/" + escapePath(c.Name), c.Name, c.Version, c.Licence, ""})
	}
	v.render(http.StatusOK, v.page("licences", view))
}

func escapePath(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

func (v *visit) getLicence() {
	var c api.Component
	p, err := v.call(http.MethodGet, "/api/v1/licences/"+escapePath(v.r.PathValue("name")), nil, &c)
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	v.render(http.StatusOK, v.named("licence", c.Name, licenceView{"", c.Name, c.Version, c.Licence, c.Text}))
}

// firstName is that of a new box.
const firstName = "croft"

// awayView is what to do while the box is away.
type awayView struct {
	Title string
	Texts []string
	Back  bool   // it comes back by itself, at this address …
	URL   string // … or at another
	To    string // page to open then; empty for the start page
}

func (v *visit) getRestart() { v.ask("box-restart", askView{Up: "/box", UpName: v.text.s("nav.box")}) }

func (v *visit) postRestart() { v.power("box-restart", "reboot") }

func (v *visit) getOff() {
	v.ask("box-off", askView{Up: "/box", UpName: v.text.s("nav.box"), Texts: []string{v.text.s("box-off.again")}})
}

func (v *visit) postOff() { v.power("box-off", "poweroff") }

// power asks core to restart or to switch off the box. NAME.done.title and .text of the catalogue say what happens now.
func (v *visit) power(name, action string) {
	p, err := v.call(http.MethodPost, "/api/v1/power", api.PowerRequest{Action: action}, nil)
	if p != nil || err != nil {
		if t, ok := v.trouble(p, err, nil); ok {
			v.ask(name, askView{trouble: t, Up: "/box", UpName: v.text.s("nav.box")})
		}
		return
	}
	view := awayView{Title: v.text.s(name + ".done.title"), Texts: []string{v.text.s(name + ".done.text")}, Back: action == "reboot"}
	if !view.Back {
		view.Texts = append(view.Texts, v.text.s("box-off.safe"), v.text.s("box-off.again"))
	}
	v.away(view)
}

func (v *visit) away(view awayView) {
	p := v.named("away", view.Title, view)
	p.Session = nil // no navigation to a box that is not there
	v.render(http.StatusOK, p)
}

func (v *visit) getStartOver() { v.startOver("", trouble{}) }

func (v *visit) startOver(word string, t trouble) {
	c := v.text
	v.ask("box-over", askView{
		trouble: t, Up: "/box", UpName: c.s("nav.box"), Danger: true,
		Lost: []string{c.s("box-over.lost.people"), c.s("box-over.lost.settings"), c.s("box-over.lost.data")},
		Kept: []string{c.s("box-over.kept.croft"), c.s("box-over.kept.drives"), c.s("box-over.kept.config")},
		Inputs: []input{
			{
				Name: "confirm", Label: c.s("box-over.word", api.StartOverWord), Hint: c.s("box-over.word.hint"), Value: word, Max: 20,
				Problem: t.Fields["confirm"], Exact: true,
			},
			{Name: "password", Label: c.s("my-password.yours"), Type: "password", Autocomplete: "current-password", Problem: t.Fields["password"]},
		},
	})
}

func (v *visit) postStartOver() {
	if !v.form() {
		return
	}
	req := api.StartOverRequest{Confirm: v.field("confirm"), Password: v.r.PostForm.Get("password")}
	p, err := v.call(http.MethodPost, "/api/v1/start-over", req, nil)
	if p == nil && err == nil {
		view := awayView{Title: v.text.s("box-over.done.title"), Texts: []string{v.text.s("box-over.done.text"), v.text.s("box-over.done.next")}}
		// Under its own name it is not found any more, but under the one that each box has at first.
		fresh := api.ConfigResult{Config: api.Config{Name: firstName}, Differences: []api.Difference{{Path: "/name"}}}
		if to, ok := v.renamed(fresh); ok {
			view.URL = to.URL
		} else {
			view.Back = true
		}
		v.away(view)
		return
	}
	t, ok := v.trouble(p, err, map[string]string{
		"confirm": "confirm", "not-confirmed": "confirm", "password": "password", "wrong-password": "password",
	})
	if ok {
		v.startOver(req.Confirm, t)
	}
}
