package webui

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/croft-os/croft/services/api"
)

// activityRoutes are the page of what was done.
func activityRoutes() []route {
	return []route{{"GET /activity", whoOwner, (*visit).getActivity}}
}

const (
	auditPage  = 50 // entries of one page without a filter, and at least as many of one with, …
	auditAsk   = 200
	auditTries = 5 // … if they are among so many times auditAsk

	longestName = 100 // bytes of a name in a sentence
)

// kinds of what is done, for the filter.
func activityKinds() []string { return []string{"signin", "people", "settings", "box"} }

// kindOf an action.
func kindOf(action string) string {
	switch action {
	case "signed-in", "sign-in-failed", "signed-out", "session-ended", "sessions-ended", "recovered", "recovery-code-used",
		"second-factor-on", "second-factor-off", "recovery-codes-made", "password-changed", "token-made", "token-ended":
		return "signin"
	case "account-made", "invited", "invite-ended", "joined", "person-changed", "person-removed":
		return "people"
	case "update-trust", "witness-key", "config-changed", "config-undone", "network-tried", "network-kept", "network-reverted", "setup-done":
		return "settings"
	}
	return "box"
}

// entryView is one thing that was done.
type entryView struct {
	Icon, Tone, Text, Place string
	Detail                  string // the device
	Clock                   string // time of the day
	At                      time.Time
}

// dayView is what was done on one day.
type dayView struct {
	Title   string
	Entries []entryView
}

// tabView is one choice of a filter.
type tabView struct {
	Href, Word string
	On         bool
}

type activityView struct {
	Tabs         []tabView
	Days         []dayView
	Kind         string
	Older, Newer string // URLs
	Cut          bool   // nothing more was found among what was looked at
}

func (v *visit) getActivity() {
	q := v.r.URL.Query()
	kind, after := q.Get("kind"), q.Get("after")
	if !slices.Contains(activityKinds(), kind) {
		kind = ""
	}
	view := activityView{Kind: kind}
	at := func(kind, after string) string {
		q := url.Values{}
		if kind != "" {
			q.Set("kind", kind)
		}
		if after != "" {
			q.Set("after", after)
		}
		if len(q) == 0 {
			return "/activity"
		}
		return "/activity?" + q.Encode()
	}
	view.Tabs = append(view.Tabs, tabView{at("", ""), v.text.s("activity.all"), kind == ""})
	for _, k := range activityKinds() {
		view.Tabs = append(view.Tabs, tabView{at(k, ""), v.text.s("activity." + k), kind == k})
	}
	if after != "" {
		view.Newer = at(kind, "")
	}
	limit, tries := auditPage, 1
	if kind != "" { // core does not filter, so more is asked for
		limit, tries = auditAsk, auditTries
	}
	var found []api.AuditEntry
	for range tries {
		ask := url.Values{"limit": {strconv.Itoa(limit)}}
		if after != "" {
			ask.Set("after", after)
		}
		var list api.List[api.AuditEntry]
		if p, err := v.call(http.MethodGet, "/api/v1/audit?"+ask.Encode(), nil, &list); p != nil || err != nil {
			v.failed(p, err)
			return
		}
		for _, e := range list.Items {
			if kind == "" || kindOf(e.Action) == kind {
				found = append(found, e)
			}
		}
		if after = list.Next; after == "" || len(found) >= auditPage {
			break
		}
	}
	if after != "" {
		view.Older = at(kind, after)
	}
	view.Cut = len(found) == 0 && after != ""
	view.Days = v.text.days(found, v.zone(), time.Now())
	v.render(http.StatusOK, v.page("activity", view))
}

// days says what was done, by the days of the household.
func (c catalogue) days(entries []api.AuditEntry, zone *time.Location, now time.Time) []dayView {
	var out []dayView
	last := ""
	for _, e := range entries {
		day := e.At.In(zone).Format(time.DateOnly)
		if day != last || len(out) == 0 {
			out, last = append(out, dayView{Title: c.day(e.At, zone, now)}), day
		}
		d, v := &out[len(out)-1], c.entry(e)
		v.Clock = e.At.In(zone).Format(c.s("chart.hour"))
		d.Entries = append(d.Entries, v)
	}
	return out
}

// day names a day.
func (c catalogue) day(t time.Time, zone *time.Location, now time.Time) string {
	t, now = t.In(zone), now.In(zone)
	y, m, d := now.Date()
	switch t.Format(time.DateOnly) {
	case now.Format(time.DateOnly):
		return c.s("day.today")
	case time.Date(y, m, d-1, 12, 0, 0, 0, zone).Format(time.DateOnly):
		return c.s("day.yesterday")
	}
	return c.s("day.other", c.s("weekday."+[]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}[t.Weekday()]), t.Format(c.s("day.layout")))
}

// entry says what was done in a sentence: "audit.ACTION" of the catalogue, or one for a special case of it.
func (c catalogue) entry(e api.AuditEntry) entryView {
	args := map[string]string{}
	for k, v := range e.Args {
		args[k] = short(v, longestName)
	}
	args["who"], args["target"] = short(e.Who, longestName), short(e.Target, longestName)
	key := "audit." + e.Action
	special := ""
	switch {
	case e.Who == "":
		args["who"], special = c.s("activity.somebody"), ".box"
	case e.Who == e.Target:
		special = ".self"
	}
	switch e.Action {
	case "service-restarted":
		args["target"] = c.or("service-name."+e.Target, args["target"])
	case "alert-seen":
		service := c.s("activity.service")
		if name := e.Args["target"]; name != "" {
			service = c.or("service-name."+name, short(name, longestName))
		}
		args["target"] = named(c.or("alert."+e.Target, args["target"]), map[string]string{"target": service, "version": release(e.Args["target"])})
	case "sign-in-failed":
		if e.Target == "" {
			special = ".nobody"
		}
	case "person-changed":
		if e.Args["name"] != "" {
			special = ".name"
		}
	case "invited":
		if e.Target != "" {
			special = ".again"
		}
	case "joined":
		if e.Args["again"] != "" {
			special = ".again"
		}
	case "update-install", "update-tonight", "update-undo", "update-kept", "update-back", "update-failed":
		args["target"], args["from"] = release(e.Target), release(e.Args["from"])
	case "update-trust":
		special = "." + e.Args["role"] + "." + e.Args["action"]
	}
	if cause := e.Args["cause"]; cause != "" {
		args["cause"] = c.updateCause(cause, e.Args["service"])
	}
	if role := e.Args["role"]; role != "" {
		args["role"] = c.or("audit-role."+role, args["role"])
	}
	if _, ok := c[key+special]; ok {
		key += special
	}
	v := entryView{Icon: "i-activity", At: e.At, Place: e.Place, Detail: args["device"], Text: named(c.or(key, e.Action), args)}
	switch kindOf(e.Action) {
	case "signin":
		v.Icon = "i-key"
	case "people":
		v.Icon = "i-people"
	case "settings":
		v.Icon = "i-settings"
	case "box":
		v.Icon = "i-box"
	}
	switch e.Action {
	case "update-back", "update-failed", "update-trust", "witness-key", "sign-in-failed", "recovered", "started-over", "state-restored", "person-removed", "second-factor-off":
		v.Tone = toneLook
	}
	return v
}
