package webui

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// alertRoutes are the page of what happened to the box that no owner has seen yet.
func alertRoutes() []route {
	return []route{
		{"GET /alerts", whoOwner, (*visit).getAlerts},
		{"POST /alerts/{id}/seen", whoOwner, (*visit).postAlertSeen},
	}
}

// alertView is what keeps a card on the page until an owner has seen it.
type alertView struct {
	ID          int64
	First, Last time.Time
	Count       int
	Often       string // how often it happened, in words; empty for once
	Over        bool
}

// alertsView is the page.
type alertsView struct{ Cards []concern }

// alert says an alert in the catalogue's words.
func (c catalogue) alert(a *api.Alert) concern {
	args := map[string]string{"target": c.or("service-name."+a.Target, a.Target)}
	for k, v := range a.Args {
		args[k] = v
	}
	if version := args["version"]; version != "" {
		args["version"] = release(version)
	}
	if cause := args["cause"]; cause != "" {
		args["cause"] = c.updateCause(cause, args["service"])
	}
	key := "alert." + a.Name
	k := concern{
		Tone: toneLook, Name: a.Name, Target: a.Target, Past: !a.Active,
		Title: named(c.or(key, a.Text), args), Why: named(c.or(key+".why", ""), args), Next: named(c.or(key+".next", a.Next), args),
	}
	if a.Weight == "act" && a.Active {
		k.Tone = toneAct
	}
	switch {
	case strings.HasPrefix(a.Name, "update-"):
		k.Href = "/updates"
	case a.Target != "":
		k.Href = servicePath(a.Target)
	}
	k.Alert = &alertView{ID: a.ID, First: a.First, Last: a.Last, Count: a.Count, Over: !a.Active}
	if a.Count > 1 {
		k.Alert.Often = c.s("alerts.often", a.Count)
	}
	return k
}

// named fills the names in braces in a sentence. A name without a value is left out.
func named(text string, args map[string]string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		out.WriteString(before)
		name, after, closed := strings.Cut(rest, "}")
		if !found || !closed {
			break
		}
		out.WriteString(args[name])
		text = after
	}
	return out.String()
}

// withAlerts adds to what is wrong now what happened before and was not seen; where both say the same it is one card.
func (c catalogue) withAlerts(now []concern, alerts []api.Alert) []concern {
	out := append([]concern(nil), now...)
	var more []concern
next:
	for i := range alerts {
		k := c.alert(&alerts[i])
		for j := range out {
			if o := &out[j]; o.Alert == nil && o.Name == k.Name && o.Target == k.Target {
				o.Alert = k.Alert
				continue next
			}
		}
		more = append(more, k)
	}
	return sorted(append(out, more...))
}

func (v *visit) getAlerts() {
	b, ok := v.state()
	if !ok {
		return
	}
	v.render(http.StatusOK, v.page("alerts", v.alerts(b)))
}

func (v *visit) alerts(b *api.Box) any {
	var view alertsView
	for i := range b.Alerts {
		view.Cards = append(view.Cards, v.text.alert(&b.Alerts[i]))
	}
	view.Cards = sorted(view.Cards)
	return view
}

func (v *visit) postAlertSeen() {
	if !v.form() {
		return
	}
	p, err := v.call(http.MethodPost, "/api/v1/alerts/"+url.PathEscape(v.r.PathValue("id"))+"/seen", nil, nil)
	if err != nil || p != nil && path.Base(p.Type) != "not-found" { // another owner may have seen it meanwhile
		v.failed(p, err)
		return
	}
	to := "/"
	if v.field("to") == "/alerts" {
		to = "/alerts"
	}
	v.redirect(to)
}
