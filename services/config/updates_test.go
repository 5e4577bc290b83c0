package config

import (
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// The policy of updates may be left out; what is as it is without being said is kept as not said.
func TestUpdatePolicy(t *testing.T) {
	with := func(updates string) string {
		return `{"format":"croft-config/1","name":"croft","time_zone":"","network":{},"people":[],"updates":` + updates + `}`
	}
	for _, tt := range []struct {
		updates string
		want    api.UpdatePolicy
	}{
		{`{}`, api.UpdatePolicy{}},
		{`{"mode":"auto","from":"02:00","to":"05:00","channel":"stable","metered":false,"alone":false,"mirrors":[]}`, api.UpdatePolicy{}},
		{`{"mode":"ask"}`, api.UpdatePolicy{Mode: "ask"}},
		{`{"from":"23:30","to":"01:00"}`, api.UpdatePolicy{Mode: "auto", From: "23:30", To: "01:00"}},
		{`{"channel":"beta","metered":true}`, api.UpdatePolicy{Mode: "auto", Channel: "beta", Metered: true}},
		{`{"mode":"ask","mirrors":["http://192.168.1.9:8000/croft"]}`, api.UpdatePolicy{Mode: "ask", Mirrors: []string{"http://192.168.1.9:8000/croft"}}},
		{`{"mode":"stay","alone":true,"mirrors":["https://a.example/croft/"]}`, api.UpdatePolicy{Mode: "stay", Alone: true, Mirrors: []string{"https://a.example/croft"}}},
	} {
		c, err := Parse([]byte(with(tt.updates)))
		if err != nil {
			t.Errorf("%s: %v", tt.updates, err)
		}
		equal(t, tt.updates, c.Updates, tt.want)
		again, err := Parse(encode(c))
		if err != nil || ETag(again) != ETag(c) {
			t.Errorf("%s: what is sent is not read back: %+v, %v", tt.updates, again, err)
		}
		if said := strings.Contains(string(encode(c)), `"updates"`); said != (c.Updates.Mode != "") {
			t.Errorf("%s becomes %s", tt.updates, encode(c))
		}
	}
	for updates, want := range map[string]string{
		`[]`:                                     "type /updates",
		`{"mode":"never"}`:                       "choice /updates/mode",
		`{"mode":true}`:                          "type /updates/mode",
		`{"metered":"yes"}`:                      "type /updates/metered",
		`{"alone":1}`:                            "type /updates/alone",
		`{"channel":"nightly"}`:                  "choice /updates/channel",
		`{"from":"2:00","to":"05:00"}`:           "time /updates/from",
		`{"from":"02:00","to":"24:00"}`:          "time /updates/to",
		`{"from":"02:00"}`:                       "missing /updates/to",
		`{"to":"02:00"}`:                         "missing /updates/from",
		`{"from":"03:00","to":"03:00"}`:          "time /updates/to",
		`{"mirrors":["http://a.example"]}`:       "url /updates/mirrors/0",
		`{"mirrors":["http://8.8.8.8/"]}`:        "url /updates/mirrors/0",
		`{"mirrors":["https://"]}`:               "url /updates/mirrors/0",
		`{"mirrors":["https://u:p@a.example"]}`:  "url /updates/mirrors/0",
		`{"mirrors":["https://a.example/?x"]}`:   "url /updates/mirrors/0",
		`{"mirrors":["https://a","https://a/"]}`: "duplicate /updates/mirrors/1",
		`{"mirrors":[` + strings.Repeat(`"https://a.example",`, 8) + `"https://b.example"]}`: "too-long /updates/mirrors",
		`{"when":"now"}`:                 "unknown /updates/when",
		`{"mode":"ask","mode":"stay"}`:   "duplicate /updates/mode",
		`{"mirrors":["javascript:x()"]}`: "url /updates/mirrors/0",
	} {
		_, err := Parse([]byte(with(updates)))
		p, _ := err.(Problems)
		if len(p) == 0 || p[0].Code+" "+p[0].Path != want {
			t.Errorf("%s: %v, want %s", updates, err, want)
		}
	}
}

// The updater is told at once, again after it has forgotten, and of the zone of its window.
func TestUpdaterFollows(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		l.o.tell()
		r := l.change(func(c *api.Config) { c.Updates = api.UpdatePolicy{Mode: "ask", From: "01:00", To: "04:00"} })
		var paths []string
		for _, d := range r.Differences {
			paths = append(paths, d.Path)
		}
		equal(t, "differences", paths, []string{"/updates/from", "/updates/mode", "/updates/to"})
		equal(t, "told", l.o.tell(), []string{"PUT updater/v1/policy"})
		equal(t, "audit", l.audit(1), []string{"config-changed updates"})
		want := api.UpdateSettings{Policy: api.UpdatePolicy{Mode: "ask", From: "01:00", To: "04:00"}}
		equal(t, "the updater has", l.o.update, want)
		l.change(func(c *api.Config) { c.TimeZone = "Europe/Berlin" })
		want.TimeZone = "Europe/Berlin"
		equal(t, "the updater has", l.o.update, want)

		l.o.set(func(o *others) { o.update = api.UpdateSettings{} })
		l.restart()
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "the updater that forgot has", l.o.update, want)
		l.o.tell()
		time.Sleep(time.Minute)
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "told an updater that follows", len(l.o.tell()), 0)

		all := l.changes()
		if _, err := l.s.Undo(t.Context(), l.anna, all[1].ID); err != nil {
			t.Fatal(err)
		}
		equal(t, "undone", l.doc().Updates, api.UpdatePolicy{})
		equal(t, "the updater has", l.o.update, api.UpdateSettings{TimeZone: "Europe/Berlin"})

		l.o.set(func(o *others) { o.down["updater"] = true })
		l.change(func(c *api.Config) { c.Updates.Mode = "stay" })
		l.o.set(func(o *others) { o.down["updater"] = false })
		time.Sleep(time.Minute)
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "the updater that was away has", l.o.update.Policy.Mode, "stay")
	})
}
