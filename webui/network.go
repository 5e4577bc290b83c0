package webui

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/croft-os/croft/services/api"
)

// networkRoutes are the pages of the box's addresses.
func networkRoutes() []route {
	return []route{
		{"GET /box/network", whoOwner, (*visit).getNetwork},
		{"POST /box/network", whoOwner, (*visit).postNetwork},
		{"GET /box/network/trial", whoOwner, (*visit).getTrial},
		{"POST /box/network/keep", whoOwner, (*visit).postKeep},
		{"POST /box/network/revert", whoOwner, (*visit).postRevert},
	}
}

// everyOther stands for all connections without a configuration of their own.
const everyOther = "*"

// maxConnections are as many as a form can have.
const maxConnections = 32

// netForm is what was typed about one connection, as it was typed.
type netForm struct {
	Name                    string
	Static                  bool
	Addresses, Gateway, DNS string
}

// networkPage is the form.
type networkPage struct {
	trouble
	Connections []connectionView
	NTP         input
}

// connectionView is one connection: how it is now, and what can be set.
type connectionView struct {
	Name, Title, Now string
	Method           choice
	Inputs           []input
}

func (v *visit) getNetwork() {
	n, ok := v.network()
	if !ok {
		return
	}
	if n.Trial != nil {
		v.redirect("/box/network/trial")
		return
	}
	var forms []netForm
	for _, i := range n.Interfaces {
		forms = append(forms, formOf(n, i))
	}
	names := slices.Sorted(maps.Keys(n.Config.Interfaces))
	for _, name := range names {
		if name != everyOther && !slices.ContainsFunc(forms, func(f netForm) bool { return f.Name == name }) {
			forms = append(forms, staticForm(name, n.Config.Interfaces[name]))
		}
	}
	if s, ok := n.Config.Interfaces[everyOther]; ok {
		forms = append(forms, staticForm(everyOther, s))
	}
	v.networkPage(n, forms, strings.Join(n.Config.NTP, ", "), trouble{})
}

// network is core's answer, or it has answered.
func (v *visit) network() (*api.Network, bool) {
	var n api.Network
	p, err := v.call(http.MethodGet, "/api/v1/network", nil, &n)
	if p != nil || err != nil {
		v.failed(p, err)
		return nil, false
	}
	return &n, true
}

func staticForm(name string, s api.StaticConfig) netForm {
	f := netForm{Name: name, Static: true, Addresses: joined(s.Addresses), DNS: joined(s.DNS)}
	f.Gateway = addr(s.Gateway)
	return f
}

// formOf proposes what is in use now, so that a lent address can be fixed by one tap.
func formOf(n *api.Network, i api.Interface) netForm {
	if s, ok := n.Config.Interfaces[i.Name]; ok {
		return staticForm(i.Name, s)
	}
	var four []netip.Prefix
	for _, p := range i.Addresses {
		if p.Addr().Is4() && !p.Addr().IsLinkLocalUnicast() {
			four = append(four, p)
		}
	}
	f := netForm{Name: i.Name, Addresses: joined(four), Gateway: addr(i.Gateway)}
	if len(four) > 0 {
		f.DNS = joined(n.DNS)
	}
	return f
}

func (v *visit) networkPage(n *api.Network, forms []netForm, ntp string, t trouble) {
	c := v.text
	view := networkPage{trouble: t, NTP: input{
		Name: "ntp", Label: c.s("network.ntp"), Hint: c.s("network.ntp.hint"), Value: ntp, Problem: t.Fields["ntp"], Optional: true, Exact: true, Max: 2000,
	}}
	_, others := n.Config.Interfaces[everyOther]
	for _, f := range forms {
		cv := connectionView{Name: f.Name, Title: c.connection(f.Name), Now: c.connectionNow(n, f.Name)}
		auto := option{"dhcp", c.s("network.dhcp"), c.s("network.dhcp.text"), !f.Static}
		switch {
		case f.Name == everyOther:
			cv.Now = c.s("network.others.text")
		case others:
			auto.Label, auto.Hint = c.s("network.like-others"), ""
		}
		cv.Method = choice{Name: "method." + f.Name, Label: c.s("network.method"), Problem: t.Fields["method."+f.Name], Groups: []group{{Options: []option{
			auto, {"static", c.s("network.static"), c.s("network.static.text"), f.Static},
		}}}}
		add := func(name, value string, optional bool) {
			name += "." + f.Name
			key, _, _ := strings.Cut(name, ".")
			cv.Inputs = append(cv.Inputs, input{
				Name: name, Label: c.s("network." + key), Hint: c.s("network." + key + ".hint"), Value: value, Problem: t.Fields[name],
				Exact: true, Optional: optional, Loose: true, Max: 1000,
			})
		}
		add("addresses", f.Addresses, false)
		add("gateway", f.Gateway, true)
		add("dns", f.DNS, true)
		view.Connections = append(view.Connections, cv)
	}
	v.render(t.status(), v.page("network", view))
}

// connection names a connection by what an owner can point at, and as the kernel calls it.
func (c catalogue) connection(name string) string {
	switch {
	case name == everyOther:
		return c.s("network.others")
	case strings.HasPrefix(name, "wl"):
		return c.s("network.wifi", name)
	case strings.HasPrefix(name, "e"):
		return c.s("network.cable", name)
	}
	return c.s("network.connection", name)
}

// connectionNow says how a connection is now.
func (c catalogue) connectionNow(n *api.Network, name string) string {
	i := slices.IndexFunc(n.Interfaces, func(i api.Interface) bool { return i.Name == name })
	if i < 0 {
		return c.s("network.absent")
	}
	is := n.Interfaces[i]
	switch {
	case !is.Up && strings.HasPrefix(name, "wl"):
		return c.s("network.unconnected")
	case !is.Up:
		return c.s("network.unplugged")
	}
	var all []string
	for _, p := range is.Addresses {
		if !p.Addr().IsLinkLocalUnicast() || p.Addr().Is4() {
			all = append(all, p.Addr().String())
		}
	}
	if len(all) == 0 {
		return c.s("network.none")
	}
	return c.s("network.now", strings.Join(all, ", "))
}

// words splits what was typed at commas and spaces.
func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ';' || unicode.IsSpace(r) })
}

// withLength adds what most networks at home have to an address without the length of its network.
func withLength(s string) string {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return s
	case a.Is4():
		return s + "/24"
	}
	return s + "/64"
}

// What is typed goes to core as text, for core says what is wrong with it and where.
type netBody struct {
	Interfaces map[string]staticBody `json:"interfaces,omitempty"`
	NTP        []string              `json:"ntp,omitempty"`
}

type staticBody struct {
	Addresses []string `json:"addresses"`
	Gateway   string   `json:"gateway,omitempty"`
	DNS       []string `json:"dns,omitempty"`
}

func (v *visit) postNetwork() {
	if !v.form() {
		return
	}
	names := v.r.PostForm["connection"]
	var forms []netForm
	body := netBody{Interfaces: map[string]staticBody{}, NTP: words(v.field("ntp"))}
	problems := trouble{Status: http.StatusUnprocessableEntity, Fields: map[string]string{}}
	for _, name := range names[:min(len(names), maxConnections)] {
		f := netForm{
			Name: name, Static: v.field("method."+name) == "static",
			Addresses: v.field("addresses." + name), Gateway: v.field("gateway." + name), DNS: v.field("dns." + name),
		}
		forms = append(forms, f)
		if !f.Static {
			continue
		}
		s := staticBody{Gateway: f.Gateway, DNS: words(f.DNS)}
		for _, a := range words(f.Addresses) {
			s.Addresses = append(s.Addresses, withLength(a))
		}
		if len(s.Addresses) == 0 {
			problems.Fields["addresses."+name] = v.text.s("field.missing")
		}
		body.Interfaces[name] = s
	}
	doc, etag, ok := v.config()
	if !ok {
		return
	}
	if len(problems.Fields) == 0 {
		res, p, err := v.change(struct {
			api.Config
			Network netBody `json:"network"`
		}{doc, body}, etag)
		if p == nil && err == nil {
			v.applied(res, "/box/network", "network-changed")
			return
		}
		if problems, ok = v.networkTrouble(p, err); !ok {
			return
		}
	}
	if n, ok := v.network(); ok {
		v.networkPage(n, forms, v.field("ntp"), problems)
	}
}

// networkTrouble puts core's no at the fields of the network's form, such as "/network/interfaces/eth0/dns/1" at
// "dns.eth0".
func (v *visit) networkTrouble(p *api.Problem, err error) (trouble, bool) {
	if p == nil || path.Base(p.Type) != "invalid" {
		return v.trouble(p, err, nil)
	}
	t := trouble{Status: p.Status, Fields: map[string]string{}}
	for _, f := range p.Fields {
		field := ""
		text := v.text.or("field."+f.Code, f.Text)
		switch parts := strings.Split(f.Path, "/"); {
		case len(parts) > 4 && parts[2] == "interfaces":
			field = parts[4] + "." + unescape(parts[3])
		case len(parts) == 4 && parts[2] == "interfaces":
			field = "method." + unescape(parts[3])
		case len(parts) > 2 && parts[2] == "ntp":
			field = "ntp"
		default:
			t.Problem = text
			continue
		}
		if t.Fields[field] == "" {
			t.Fields[field] = text
		}
	}
	if len(t.Fields) == 0 && t.Problem == "" {
		t.Problem = v.problem(p)
	}
	return t, true
}

// trialView is a network configuration that is tried.
type trialView struct {
	Seconds int
	Text    string
	Name    link   // the box by its name
	New     []link // by its new addresses
	Auto    bool   // the router chooses one
}

type link struct{ URL, Label string }

func (v *visit) getTrial() {
	n, ok := v.network()
	if !ok {
		return
	}
	if n.Trial == nil { // nobody kept it in time
		v.done("/box/network", "network-reverted")
		return
	}
	left := int((ms(n.Trial.LeftMS) + time.Second - 1) / time.Second)
	view := trialView{Seconds: left, Text: strings.ReplaceAll(v.text.s("trial.left"), "{n}", strconv.Itoa(left)), Auto: len(n.Trial.Config.Interfaces) == 0}
	_, port, err := net.SplitHostPort(v.r.Host)
	at := func(host string) link {
		to := host
		switch {
		case err == nil && port != "":
			to = net.JoinHostPort(host, port)
		case strings.Contains(host, ":"):
			to = "[" + host + "]"
		}
		return link{scheme(v.r) + "://" + to + v.r.URL.Path, to}
	}
	for _, name := range slices.Sorted(maps.Keys(n.Trial.Config.Interfaces)) {
		for _, p := range n.Trial.Config.Interfaces[name].Addresses {
			view.New = append(view.New, at(p.Addr().String()))
		}
	}
	var b api.Box
	if p, err := v.call(http.MethodGet, "/api/v1/box", nil, &b); p == nil && err == nil && b.Discovery != nil {
		view.Name = at(b.Discovery.Name + ".local")
	}
	p := v.page("trial", view)
	p.Refresh = left + 3
	v.render(http.StatusOK, p)
}

func (v *visit) postKeep() { v.endTrial("keep", "network-kept") }

func (v *visit) postRevert() { v.endTrial("revert", "network-reverted") }

func (v *visit) endTrial(what, done string) {
	p, err := v.call(http.MethodPost, "/api/v1/network/"+what, nil, nil)
	switch {
	case p == nil && err == nil:
		v.done("/box/network", done)
	case p != nil && path.Base(p.Type) == "no-trial":
		v.done("/box/network", "network-reverted")
	default:
		v.failed(p, err)
	}
}
