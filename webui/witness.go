package webui

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// witnessRoutes are the pages by which the box watches logs for others.
func witnessRoutes() []route {
	return []route{
		{"GET /updates/witness", whoOwner, func(v *visit) { v.witnessPage(nil, trouble{}) }},
		{"POST /updates/witness", whoOwner, (*visit).postWitness},
		{"POST /updates/witness/off", whoOwner, func(v *visit) { v.setWitness(api.WitnessConfig{}) }},
		{"GET /updates/witness/key", whoOwner, func(v *visit) { v.witnessKeyPage(trouble{}) }},
		{"POST /updates/witness/key", whoOwner, (*visit).postWitnessKey},
	}
}

// witnessView is how it stands with that.
type witnessView struct {
	trouble
	Tone, Title, Text string
	On                bool
	Key               string // for publishers
	Facts             []fact
	Logs              []witnessLogView
	Name, Keys        input
}

// witnessLogView is one log that is watched.
type witnessLogView struct {
	Tone, Origin, Text string
	At                 time.Time
}

// witnessPage shows it; asked is what was sent, if that could not be taken.
func (v *visit) witnessPage(asked *api.WitnessConfig, t trouble) {
	doc, _, ok := v.config()
	if !ok {
		return
	}
	b, ok := v.box()
	if !ok {
		return
	}
	c, now := v.text, b.Witness
	view := witnessView{trouble: t, On: doc.Witness.On()}
	view.Tone, view.Title, view.Text = c.witnessState(view.On, now)
	if now != nil && now.Key != "" {
		view.Key = now.Key
		host := b.System.Name
		if d := b.Discovery; d != nil {
			host = cmp.Or(d.Name, host)
		}
		view.Facts = []fact{{c.s("witness.address"), "http://" + net.JoinHostPort(host+".local", strconv.Itoa(now.Port))}}
		if now.Made != nil {
			view.Facts = append(view.Facts, fact{c.s("witness.made"), now.Made.In(v.zone()).Format(c.s("day.layout"))})
		}
		for _, l := range now.Logs {
			view.Logs = append(view.Logs, c.witnessLog(l))
		}
	}
	if asked == nil {
		asked = &doc.Witness
	}
	view.Name = input{
		Name: "name", Label: c.s("witness.name"), Hint: c.s("witness.name.hint"), Value: asked.Name, Max: 100, Exact: true, Problem: t.Fields["name"],
	}
	view.Keys = input{
		Name: "logs", Label: c.s("witness.logs"), Hint: c.s("witness.logs.hint"), Value: strings.Join(asked.Logs, "\n"), Exact: true,
		Problem: t.Fields["logs"],
	}
	v.render(t.status(), v.page("witness", view))
}

// witnessState says what is so now; on is what the configuration says.
func (c catalogue) witnessState(on bool, w *api.Witness) (tone, title, text string) {
	switch {
	case w == nil:
		return toneLook, c.s("witness.away"), ""
	case !on:
		return toneOff, c.s("witness.off"), ""
	case w.Problem != "":
		return toneLook, c.s("witness.stopped"), c.or("witness-problem."+w.Problem, "")
	case !w.Running:
		return toneWait, c.s("witness.starting"), ""
	case slices.ContainsFunc(w.Logs, func(l api.WitnessLog) bool { return l.Split }):
		return toneLook, c.s("witness.split"), c.s("witness.split.text")
	}
	return toneOK, c.n("witness.on", len(w.Logs)), ""
}

func (c catalogue) witnessLog(l api.WitnessLog) witnessLogView {
	v := witnessLogView{Tone: toneOff, Origin: short(l.Origin, longestName), Text: c.s("witness-log.none")}
	if l.At != nil {
		v.Tone, v.Text, v.At = toneOK, c.n("witness-log.signed", int(l.Size)), *l.At
	}
	switch {
	case l.Split:
		v.Tone, v.Text = toneLook, c.s("witness-log.split")
	case l.Problem != "":
		v.Tone, v.Text = toneLook, c.or("witness-problem."+l.Problem, l.Problem)
	}
	return v
}

func (v *visit) postWitness() {
	if v.form() {
		v.setWitness(api.WitnessConfig{Name: v.field("name"), Logs: strings.Fields(v.r.PostForm.Get("logs"))})
	}
}

// setWitness changes that part of the configuration.
func (v *visit) setWitness(want api.WitnessConfig) {
	doc, etag, ok := v.config()
	if !ok {
		return
	}
	doc.Witness = want
	res, problem, err := v.change(doc, etag)
	if problem == nil && err == nil {
		v.applied(res, "/updates/witness", "witness")
		return
	}
	oneField(problem, "/witness/logs")
	if t, ok := v.trouble(problem, err, map[string]string{"name": "name", "logs": "logs"}); ok {
		if t.Fields["logs"] != "" && len(want.Logs) > 0 {
			t.Fields["logs"] = v.text.s("witness.logs.wrong")
		}
		v.witnessPage(&want, t)
	}
}

// witnessKeyPage asks whether there is to be a new key.
func (v *visit) witnessKeyPage(t trouble) {
	c := v.text
	v.ask("witness-key", askView{
		trouble: t, Up: "/updates/witness", UpName: c.s("witness.title"), Danger: true,
		Lost: []string{c.s("witness-key.lost")}, Kept: []string{c.s("witness-key.kept")},
	})
}

func (v *visit) postWitnessKey() {
	p, err := v.call(http.MethodPost, "/api/v1/witness/key", nil, nil)
	if p == nil && err == nil {
		v.done("/updates/witness", "witness-key")
		return
	}
	if t, ok := v.trouble(p, err, nil); ok {
		v.witnessKeyPage(t)
	}
}
