package webui

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// updateRoutes are the pages of the release that runs and the next one.
func updateRoutes() []route {
	return []route{
		{"GET /updates", whoMender, (*visit).getUpdates},
		{"POST /updates/check", whoMender, func(v *visit) { v.updateAction("check", "") }},
		{"POST /updates/install", whoMender, (*visit).postInstall},
		{"POST /updates/cancel", whoMender, func(v *visit) { v.updateAction("cancel", "update-cancelled") }},
		{"POST /updates/restart", whoMender, func(v *visit) { v.updateAway("restart") }},
		{"GET /updates/back", whoOwner, (*visit).getUpdateBack},
		{"POST /updates/back", whoOwner, func(v *visit) { v.updateAway("back") }},
		{"GET /updates/history", whoOwner, (*visit).getUpdateHistory},
		{"GET /updates/policy", whoOwner, (*visit).getUpdatePolicy},
		{"POST /updates/policy", whoOwner, (*visit).postUpdatePolicy},
		{"GET /updates/file", whoMender, (*visit).getUpdateFile},
		{"POST /updates/file", whoMender, (*visit).postUpdateFile},
		{"POST /updates/file/remove", whoMender, (*visit).postUpdateFileRemove},
		{"GET /updates/trust", whoMender, (*visit).getUpdateTrust},
		{"GET /updates/trust/project", whoMender, func(v *visit) { v.rootPage("project", api.TrustRequest{}, trouble{}) }},
		{"POST /updates/trust/project", whoMender, func(v *visit) { v.postRoot("project") }},
		{"GET /updates/trust/auditor", whoOwner, func(v *visit) { v.rootPage("auditor", api.TrustRequest{}, trouble{}) }},
		{"POST /updates/trust/auditor", whoOwner, func(v *visit) { v.postRoot("auditor") }},
		{"GET /updates/trust/builtin", whoOwner, func(v *visit) { v.trustAsk("builtin", trouble{}) }},
		{"POST /updates/trust/builtin", whoOwner, func(v *visit) { v.postTrustAsk("builtin") }},
		{"GET /updates/trust/alone", whoOwner, func(v *visit) { v.trustAsk("alone", trouble{}) }},
		{"POST /updates/trust/alone", whoOwner, func(v *visit) { v.postTrustAsk("alone") }},
	}
}

const (
	maxBundle   = 400 << 20 // bytes of an uploaded update
	maxRoot     = 128 << 10 // bytes of a root of trust
	uploadPause = 30 * time.Second
	recently    = 7 * 24 * time.Hour // an update that was kept is told for so long
	updateFrom  = "02:00"            // the window of a box that was told none
	updateTo    = "05:00"
)

// updatesView is the page.
type updatesView struct {
	trouble
	Away  bool // the updater does not answer
	State updateState
	Last  *attemptView
	Stick string // what to do about one that is plugged in and can't be read
	Facts []fact
	Rows  []row
	More  []fact // sources
}

// updateState is what is so now.
type updateState struct {
	Tone, Title string
	Texts       []string
	Next        string // the one next step
	Bar         *barView
	Offer       *offerView
	Number      int64 // of what may be installed; 0: nothing
	Tonight     bool  // that may be asked for
	Later       bool  // it may be put aside
	Restart     bool  // into what is ready
	Cancel      bool
	Check       bool
	Trust       bool   // the next step is to say whom to trust
	Away        string // what to say while the box is away, because it restarts
}

// barView is how far something is.
type barView struct {
	Label, Text string
	Percent     int // -1: nobody knows
}

// offerView is a release that may be installed.
type offerView struct {
	Notes string
	Lines []string // who stands for it; how large it is, and where it comes from
}

// attemptView is one attempt to change the release, in words.
type attemptView struct {
	Tone, Text, Why, Next string
	At                    time.Time
	Brief                 string
}

func (v *visit) getUpdates() { v.updatesPage(trouble{}) }

func (v *visit) updatesPage(t trouble) {
	b, ok := v.box()
	if !ok {
		return
	}
	view := v.updates(b).(updatesView)
	view.trouble = t
	p := v.page("updates", view)
	if view.State.Bar != nil {
		p.Refresh = 5
	}
	v.render(t.status(), p)
}

// updates is the page's data of a state of the box.
func (v *visit) updates(b *api.Box) any {
	u := b.Updates
	if u == nil {
		return updatesView{Away: true, State: updateState{
			Tone: toneLook, Title: v.text.s("updates.away"), Texts: []string{v.text.s("updates.away.text")},
		}}
	}
	c, now := v.text, time.Now()
	view := updatesView{State: c.updateState(u, now)}
	if a := u.Last; a != nil && a.Ended != nil && view.State.Bar == nil && (a.Outcome != api.UpdateKept || now.Sub(*a.Ended) < recently) {
		last := c.attempt(*a)
		view.Last = &last
	}
	view.Facts = c.updateFacts(u)
	history := c.s("updates.history.none")
	if u.Last != nil {
		history = c.attempt(*u.Last).Text
	}
	view.Rows = []row{
		{"/updates/policy", c.s("updates-policy.title"), c.policyWord(u.Policy)},
		{"/updates/trust", c.s("updates-trust.title"), c.trustWord(u.Trust)},
		{"/updates/file", c.s("updates-file.title"), c.s("updates-file.row")},
	}
	if u.Previous != nil {
		view.Rows = append(view.Rows, row{"/updates/back", c.s("updates-back.title"), c.s("updates.back.row", release(u.Previous.Version))})
	}
	view.Rows = append(view.Rows, row{"/updates/history", c.s("updates-history.title"), history})
	for _, s := range u.Sources {
		view.More = append(view.More, c.source(s))
		if view.Stick == "" {
			view.Stick = c.stick(s)
		}
	}
	return view
}

// updateState says what is so now, and what can be done.
func (c catalogue) updateState(u *api.Updates, now time.Time) updateState {
	version := ""
	if u.Offer != nil {
		version = release(u.Offer.Version)
	}
	switch u.State {
	case api.UpdateIdle:
		return c.updateIdle(u, version)
	case api.UpdateReady:
		s := updateState{Tone: toneOK, Title: c.named("update-state.ready", version), Texts: []string{c.s("update-state.ready.text")}, Restart: true, Cancel: true}
		if u.Next != nil && u.Next.After(now) {
			s.Texts = append(s.Texts, c.s("update-state.ready.when", c.duration(u.Next.Sub(now))))
		} else if u.Policy.Mode == "ask" {
			s.Tone = toneLook
		}
		s.Offer, s.Away = c.offer(u), c.s("update.away.page")
		return s
	}
	s := updateState{
		Tone: toneWait, Title: c.or("update-state."+u.State, u.State), Texts: []string{c.or("update-state."+u.State+".text", "")},
		Bar: &barView{Percent: -1},
	}
	if steps := []string{api.UpdateDownloading, api.UpdateWriting, api.UpdateVerifying, api.UpdateRestarting, api.UpdateTrial}; slices.Contains(steps, u.State) {
		s.Bar.Label = c.s("update.step", slices.Index(steps, u.State)+1, len(steps))
		if version != "" {
			s.Texts = append([]string{c.s("update.version", version)}, s.Texts...)
		}
	}
	s.Bar.Label = cmp.Or(s.Bar.Label, s.Title)
	if p := u.Progress; p != nil {
		s.Cancel = p.Cancel
		var parts []string
		if p.Total > 0 {
			s.Bar.Percent = percent(float64(p.Done) / float64(p.Total))
			if u.State == api.UpdateTrial {
				parts = append(parts, c.s("update.checks", p.Done, p.Total))
			} else {
				parts = append(parts, c.s("update.bytes", c.amount(p.Done), c.amount(p.Total)))
			}
		}
		if p.LeftMS > 0 {
			parts = append(parts, c.s("update.left", c.duration(ms(p.LeftMS))))
		}
		if p.Source != "" {
			parts = append(parts, c.or("update-source."+p.Source, p.Source))
		}
		s.Bar.Text = strings.Join(parts, " · ")
	}
	if u.State == api.UpdateVerifying || u.State == api.UpdateRestarting {
		s.Away = c.s("update.away.page") // by the time that this is read, the box may have gone
	}
	return s
}

// updateIdle says what is so while nothing is done.
func (c catalogue) updateIdle(u *api.Updates, version string) updateState {
	s := updateState{Check: u.Offer == nil}
	p := u.Problem
	switch {
	case u.Trust.Project == nil:
		return updateState{
			Tone: toneOff, Title: c.s("updates.nobody"), Texts: []string{c.s("updates.nobody.text"), c.s("updates.nobody.why")}, Trust: true,
		}
	case u.Offer != nil:
		o := u.Offer
		s.Tone, s.Title, s.Number, s.Offer, s.Later = toneLook, c.offerTitle(u, version), o.Number, c.offer(u), true
		s.Tonight = u.Policy.Mode == "ask"
		switch {
		case o.Tried > 0:
			s.Texts = []string{c.n("update.tried", o.Tried)}
		case u.Policy.Mode == "stay":
			s.Tone, s.Texts = toneOff, []string{c.s("update.stay")}
		case u.Policy.Mode == "" || u.Policy.Mode == "auto":
			from, to := window(u.Policy)
			s.Tone, s.Texts = toneOK, []string{c.s("update.auto", from, to)}
		}
		if o.Stale {
			s.Texts = append(s.Texts, c.s("update.stale"))
		}
	case u.Policy.Mode == "stay":
		s.Tone, s.Title, s.Texts = toneOff, c.s("updates.stay", release(u.Version)), []string{c.s("updates.stay.text")}
	default:
		s.Tone, s.Title = toneOK, c.s("updates.newest")
	}
	if p != nil {
		why := c.updateCause(p.Cause, "")
		switch {
		case p.Cause == "split-view":
			s.Tone, s.Title, s.Texts = toneAct, c.s("updates.stopped"), nil
		case u.Offer == nil:
			s.Tone, s.Title = toneLook, c.s("updates.unsure")
		}
		s.Texts, s.Next = append(s.Texts, why), c.updateCauseNext(p.Cause)
	}
	switch {
	case u.Checked == nil:
		s.Texts = append(s.Texts, c.s("updates.unchecked"))
	case u.Offer == nil && p == nil:
		s.Texts = append(s.Texts, c.s("updates.checked", c.ago(*u.Checked)))
	}
	return s
}

// release is what people call a version: its number.
func release(version string) string {
	if n, ok := strings.CutPrefix(version, "v"); ok && n != "" && n[0] >= '0' && n[0] <= '9' {
		version = n
	}
	return short(version, longestName)
}

// named fills {version} in a sentence.
func (c catalogue) named(key, version string) string {
	return named(c.s(key), map[string]string{"version": version})
}

// offerTitle says where a release was found.
func (c catalogue) offerTitle(u *api.Updates, version string) string {
	if u.Offer.Source == "usb" {
		for _, s := range u.Sources {
			if s.Kind == "usb" && s.Version == u.Offer.Version {
				return c.s("update.offer.usb", version, short(s.Name, longestName))
			}
		}
	}
	if u.Offer.Source == "file" {
		return c.s("update.offer.file", version)
	}
	return c.s("update.offer", version)
}

func (c catalogue) offer(u *api.Updates) *offerView {
	o := u.Offer
	if o == nil {
		return nil
	}
	v := &offerView{Notes: strings.TrimSpace(cmp.Or(o.Notes[c["lang"]], o.Notes["en"]))}
	from := c.or("update-source."+o.Source, o.Source)
	if o.Download > 0 {
		from = c.s("update.download", c.amount(o.Download), from)
	}
	if o.Channel == "beta" {
		from = c.s("update-channel.beta") + ", " + from
	}
	v.Lines = []string{c.evidence(&o.Evidence), from}
	return v
}

// evidence says in one line who stands for a release; nil: nobody looked.
func (c catalogue) evidence(e *api.UpdateEvidence) string {
	if e == nil || e.Signers == 0 {
		return c.s("evidence.none")
	}
	parts := []string{c.s("evidence.signed", e.Signers, e.Of)}
	if e.Logged {
		parts = append(parts, c.s("evidence.logged"))
	} else {
		parts = append(parts, c.s("evidence.unlogged"))
	}
	if e.Witnesses > 0 {
		parts = append(parts, c.n("evidence.witnesses", e.Witnesses))
		if e.Seen != nil {
			parts = append(parts, c.ago(*e.Seen))
		}
	}
	if e.Auditor != "" {
		parts = append(parts, c.s("evidence.auditor", short(e.Auditor, longestName)))
	}
	return strings.Join(parts, ", ")
}

// updateFacts are the release that runs, and why it is believed.
func (c catalogue) updateFacts(u *api.Updates) []fact {
	evidence := c.evidence(u.Evidence)
	if u.Evidence == nil {
		evidence = c.s("evidence.first")
		if u.Number == 0 {
			evidence = c.s("evidence.built")
		}
	}
	facts := []fact{{c.s("updates.version"), release(u.Version)}, {c.s("update.evidence"), evidence}}
	if u.Checked != nil && (u.Offer != nil || u.Problem != nil) {
		facts = append(facts, fact{c.s("updates.looked"), c.ago(*u.Checked)})
	}
	if u.Sharing {
		facts = append(facts, fact{c.s("updates.sharing"), c.s("updates.sharing.yes")})
	}
	return facts
}

// source says a place that releases come from.
func (c catalogue) source(s api.UpdateSource) fact {
	parts := []string{short(s.Name, 2*longestName)}
	if s.Version != "" {
		parts = append(parts, c.s("update.version", release(s.Version)))
	}
	switch {
	case s.Cause != "":
		parts = append(parts, c.s("update.source.unread"))
	case s.Error != "":
		parts = append(parts, c.s("update.source.silent", short(s.Error, 2*longestName)))
	case s.Seen != nil:
		parts = append(parts, c.s("update.source.seen", c.ago(*s.Seen)))
	}
	return fact{c.or("update-place."+s.Kind, s.Kind), strings.Join(parts, " · ")}
}

// stick says what to do about a stick that can't be read; empty: nothing.
func (c catalogue) stick(s api.UpdateSource) string {
	name := short(s.Name, longestName)
	switch {
	case s.Cause == "":
		return ""
	case s.Cause == api.StickFileSystem && s.System != "":
		return c.s("updates.stick.system", name, short(s.System, longestName))
	case s.Cause == api.StickFileSystem:
		return c.s("updates.stick.file-system", name)
	}
	return c.s("updates.stick.damaged", name)
}

func (c catalogue) updateCause(cause, service string) string {
	if service == "" {
		service = c.s("activity.service")
	} else {
		service = c.or("service-name."+service, short(service, longestName))
	}
	return named(c.or("update-cause."+cause, c.s("update-cause.unknown")), map[string]string{"service": service})
}

func (c catalogue) updateCauseNext(cause string) string {
	return c.or("update-cause."+cause+".next", c.s("update-cause.unknown.next"))
}

// attempt says one attempt in words.
func (c catalogue) attempt(a api.UpdateAttempt) attemptView {
	args := map[string]string{"version": release(a.Version), "from": release(a.From)}
	v := attemptView{Tone: toneLook, At: a.Began}
	if a.Ended != nil {
		v.At = *a.Ended
	}
	outcome := cmp.Or(a.Outcome, "lasts")
	v.Text = named(c.or("update-outcome."+outcome, c.s("update-outcome.lasts")), args)
	switch a.Outcome {
	case api.UpdateKept:
		v.Tone = toneOK
		if a.DownMS > 0 {
			v.Why = c.s("update.down", c.duration(ms(a.DownMS)))
		}
	case api.UpdateBack, api.UpdateFailed:
		v.Why, v.Next = c.updateCause(a.Cause, a.Service), c.updateCauseNext(a.Cause)
	default:
		v.Tone = toneOff
	}
	var brief []string
	if a.By != "" {
		brief = append(brief, c.s("update.by", short(a.By, longestName)))
	} else {
		brief = append(brief, c.s("update.itself"))
	}
	if a.Source != "" {
		brief = append(brief, c.or("update-source."+a.Source, a.Source))
	}
	v.Brief = strings.Join(brief, " · ")
	return v
}

// amount says a number of bytes; that of a small update with a decimal.
func (c catalogue) amount(n int64) string {
	if n < 10e6 {
		return c.s("size.small", float64(n)/1e6)
	}
	return c.size(n)
}

// window is when the box may restart by itself.
func window(p api.UpdatePolicy) (from, to string) {
	if p.From == "" {
		return updateFrom, updateTo
	}
	return p.From, p.To
}

func (c catalogue) policyWord(p api.UpdatePolicy) string {
	from, to := window(p)
	word := c.s("updates-policy.auto.word", from, to)
	switch p.Mode {
	case "ask":
		word = c.s("updates-policy.ask")
	case "stay":
		word = c.s("updates-policy.stay")
	}
	if p.Channel == "beta" {
		word += " · " + c.s("update-channel.beta")
	}
	return word
}

func (c catalogue) trustWord(t api.UpdateTrust) string {
	switch {
	case t.Project == nil:
		return c.s("updates-trust.nobody")
	case t.Auditor != nil:
		return c.s("updates-trust.both", short(t.Project.Name, longestName), short(t.Auditor.Name, longestName))
	}
	return short(t.Project.Name, longestName)
}

// updateAction has core act, and shows the page again.
func (v *visit) updateAction(action, done string) {
	if v.form() {
		v.actOn(api.UpdateAction{Action: action}, "/updates", done)
	}
}

func (v *visit) actOn(req api.UpdateAction, to, done string) bool {
	p, err := v.call(http.MethodPost, "/api/v1/updates/action", req, nil)
	if p == nil && err == nil {
		v.done(to, done)
		return true
	}
	if t, ok := v.trouble(p, err, nil); ok {
		v.updatesPage(t)
	}
	return false
}

// postInstall installs what is offered: now, tonight, or later, which only puts the news of it aside.
func (v *visit) postInstall() {
	if !v.form() {
		return
	}
	number, err := strconv.ParseInt(v.field("number"), 10, 64)
	if err != nil {
		v.message(http.StatusNotFound, "notfound")
		return
	}
	switch v.field("when") {
	case "now":
		v.actOn(api.UpdateAction{Action: "install", Number: number}, "/updates", "")
	case "tonight":
		v.actOn(api.UpdateAction{Action: "tonight", Number: number}, "/updates", "update-tonight")
	default:
		v.putAside()
		v.done("/", "update-later")
	}
}

// putAside notes that the owner has seen what is offered.
func (v *visit) putAside() {
	var b api.Box
	if p, err := v.call(http.MethodGet, "/api/v1/box", nil, &b); p != nil || err != nil {
		return // it is only a card on the start page
	}
	for _, a := range b.Alerts {
		if a.Name != "update-available" {
			continue
		}
		if p, err := v.call(http.MethodPost, "/api/v1/alerts/"+strconv.FormatInt(a.ID, 10)+"/seen", nil, nil); p != nil || err != nil {
			v.log.Warn("an alert was not seen off", "problem", p, "err", err)
		}
	}
}

// updateAway has the box restart into another version. The answer needs nothing more of the box, which is about to go.
func (v *visit) updateAway(action string) {
	if !v.form() {
		return
	}
	p, err := v.call(http.MethodPost, "/api/v1/updates/action", api.UpdateAction{Action: action}, nil)
	if p != nil || err != nil {
		if t, ok := v.trouble(p, err, nil); ok {
			v.updatesPage(t)
		}
		return
	}
	title := map[string]string{"restart": v.text.s("update.away"), "back": v.text.s("updates-back.done")}[action]
	v.away(awayView{Title: title, Texts: []string{v.text.s("update.away.text"), v.text.s("update.away.leave")}, Back: true, To: "/updates"})
}

func (v *visit) getUpdateBack() {
	u, ok := v.updatesNow()
	if !ok {
		return
	}
	c := v.text
	if u.Previous == nil {
		v.message(http.StatusNotFound, "updates.back.gone")
		return
	}
	v.ask("updates-back", askView{
		Up: "/updates", UpName: c.s("updates.title"),
		Title: c.s("updates-back.ask", release(u.Previous.Version)),
		Lost:  []string{c.s("updates-back.lost", release(u.Version)), c.s("updates-back.lost.away")},
		Kept:  []string{c.s("updates-back.kept.data"), c.s("updates-back.kept.settings"), c.s("updates-back.kept.again")},
	})
}

// updatesNow asks core for the state of updates, or answers.
func (v *visit) updatesNow() (*api.Updates, bool) {
	var u api.Updates
	p, err := v.call(http.MethodGet, "/api/v1/updates", nil, &u)
	switch {
	case p != nil && path.Base(p.Type) == "updater-away":
		v.message(http.StatusServiceUnavailable, "updates.gone")
	case p != nil || err != nil:
		v.failed(p, err)
	default:
		return &u, true
	}
	return nil, false
}

// updateHistoryView is what was tried.
type updateHistoryView struct {
	Attempts     []attemptView
	Older, Newer string
}

func (v *visit) getUpdateHistory() {
	q := url.Values{"limit": {"30"}}
	after := v.r.URL.Query().Get("after")
	if after != "" {
		q.Set("after", after)
	}
	var list api.List[api.UpdateAttempt]
	p, err := v.call(http.MethodGet, "/api/v1/updates/history?"+q.Encode(), nil, &list)
	if p != nil && path.Base(p.Type) == "updater-away" {
		v.message(http.StatusServiceUnavailable, "updates.gone")
		return
	}
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	var view updateHistoryView
	for _, a := range list.Items {
		view.Attempts = append(view.Attempts, v.text.attempt(a))
	}
	if after != "" {
		view.Newer = "/updates/history"
	}
	if list.Next != "" {
		view.Older = "/updates/history?" + url.Values{"after": {list.Next}}.Encode()
	}
	v.render(http.StatusOK, v.page("updates-history", view))
}

// updatePolicyView is the form of the owner's will.
type updatePolicyView struct {
	trouble
	Mode, Channel  choice
	From, To       input
	Metered, Share check
	Mirrors        input
	Open           bool // the details
}

func (v *visit) getUpdatePolicy() {
	if doc, _, ok := v.config(); ok {
		v.policyPage(doc.Updates, trouble{})
	}
}

func (v *visit) policyPage(p api.UpdatePolicy, t trouble) {
	c := v.text
	choose := func(name, label, now string, values ...string) choice {
		var g group
		for _, x := range values {
			g.Options = append(g.Options, option{x, c.s(label + "." + x), c.s(label + "." + x + ".text"), x == now})
		}
		return choice{Name: name, Label: c.s(label + ".label"), Problem: t.Fields[name], Groups: []group{g}}
	}
	from, to := p.From, p.To
	if from == "" && to == "" {
		from, to = updateFrom, updateTo
	}
	at := func(name, label, value string) input {
		return input{Name: name, Label: label, Value: value, Type: "time", Problem: t.Fields[name], Loose: true}
	}
	view := updatePolicyView{
		trouble: t, Mode: choose("mode", "updates-policy", cmp.Or(p.Mode, "auto"), "auto", "ask", "stay"),
		Channel: choose("channel", "update-channel", cmp.Or(p.Channel, "stable"), "stable", "beta"),
		From:    at("from", c.s("updates-policy.from"), from), To: at("to", c.s("updates-policy.to"), to),
		Metered: check{Name: "metered", Label: c.s("updates-policy.metered"), Hint: c.s("updates-policy.metered.hint"), On: p.Metered},
		Share:   check{Name: "share", Label: c.s("updates-policy.share"), Hint: c.s("updates-policy.share.hint"), On: !p.Alone},
		Mirrors: input{
			Name: "mirrors", Label: c.s("updates-policy.mirrors"), Hint: c.s("updates-policy.mirrors.hint"), Value: strings.Join(p.Mirrors, "\n"),
			Problem: t.Fields["mirrors"], Loose: true, Exact: true,
		},
	}
	view.Open = len(p.Mirrors) > 0 || t.Fields["mirrors"] != ""
	v.render(t.status(), v.page("updates-policy", view))
}

func (v *visit) postUpdatePolicy() {
	if !v.form() {
		return
	}
	doc, etag, ok := v.config()
	if !ok {
		return
	}
	p := api.UpdatePolicy{
		Mode: v.field("mode"), Channel: v.field("channel"), From: clock(v.field("from")), To: clock(v.field("to")),
		Metered: v.field("metered") != "", Alone: v.field("share") == "", Mirrors: strings.Fields(v.r.PostForm.Get("mirrors")),
	}
	doc.Updates = p
	res, problem, err := v.change(doc, etag)
	if problem == nil && err == nil {
		v.applied(res, "/updates", "update-policy")
		return
	}
	oneField(problem, "/updates/mirrors")
	at := map[string]string{"mode": "mode", "from": "from", "to": "to", "channel": "channel", "mirrors": "mirrors"}
	if t, ok := v.trouble(problem, err, at); ok {
		v.policyPage(p, t)
	}
}

// clock is a time of the day as browsers send it, which may have seconds.
func clock(s string) string {
	if len(s) == len("15:04:05") {
		return strings.TrimSuffix(s, s[len("15:04"):])
	}
	return s
}

// updateFileView is the form for an update in a file.
type updateFileView struct {
	trouble
	Field    input
	Problems string // by the type of core's problem, as JSON for the script
	Given    string // the file that is there
}

func (v *visit) getUpdateFile() { v.filePage(trouble{}) }

func (v *visit) filePage(t trouble) {
	words := map[string]string{"": v.text.s("updates-file.failed")}
	for _, name := range []string{"bad-file", "wrong-board", "no-room", "busy", "updater-away", "too-slow", "signed-out", "forbidden", "too-many-tries"} {
		words[name] = v.problem(&api.Problem{Type: "/problems/" + name})
	}
	words["too-large"] = v.text.s("updates-file.large")
	b, err := json.Marshal(words)
	if err != nil {
		v.failed(nil, err)
		return
	}
	view := updateFileView{trouble: t, Field: input{Name: "file", Problem: t.Fields["file"]}, Problems: string(b)}
	var u api.Updates
	if p, err := v.call(http.MethodGet, "/api/v1/updates", nil, &u); p == nil && err == nil {
		for _, s := range u.Sources {
			if s.Kind == "file" {
				view.Given = short(s.Name, longestName)
			}
		}
	}
	v.render(t.status(), v.page("updates-file", view))
}

// patient is a body that may take its time, but for long pauses.
type patient struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (p *patient) Read(b []byte) (int, error) {
	p.rc.SetReadDeadline(time.Now().Add(uploadPause))
	return p.ReadCloser.Read(b)
}

// postUpdateFile passes the file of the form on to core as it arrives.
func (v *visit) postUpdateFile() {
	rc := http.NewResponseController(v.w)
	v.r.Body = http.MaxBytesReader(v.w, &patient{v.r.Body, rc}, maxBundle+maxForm)
	form, err := v.r.MultipartReader()
	if err != nil {
		v.filePage(wrong("file", v.text.s("updates-file.choose")))
		return
	}
	var part *multipart.Part
	for part == nil || part.FormName() != "file" {
		if part, err = form.NextPart(); err != nil {
			break
		}
	}
	if err != nil || part.FileName() == "" {
		v.filePage(wrong("file", v.text.s("updates-file.choose")))
		return
	}
	req, err := v.request(v.r.Context(), http.MethodPut, "/api/v1/updates/file?name="+url.QueryEscape(path.Base(part.FileName())), part)
	if err != nil {
		v.failed(nil, err)
		return
	}
	req.Header.Set("Content-Type", "application/zip")
	resp, err := v.api.Do(req)
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		v.w.Header().Set("Connection", "close")
		v.filePage(wrong("file", v.text.s("updates-file.large")))
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		v.w.Header().Set("Connection", "close")
		v.filePage(wrong("file", v.text.s("problem.too-slow")))
		return
	case err != nil:
		t, _ := v.trouble(nil, err, nil)
		v.filePage(t)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		rc.SetReadDeadline(time.Time{})
		v.done("/updates", "update-uploaded")
		return
	}
	p := &api.Problem{}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err := json.Unmarshal(b, p); err != nil {
		v.failed(nil, err)
		return
	}
	p.Status = resp.StatusCode
	if path.Base(p.Type) == "too-large" {
		v.w.Header().Set("Connection", "close")
		v.filePage(wrong("file", v.text.s("updates-file.large")))
		return
	}
	if t, ok := v.trouble(p, nil, map[string]string{"bad-file": "file", "wrong-board": "file"}); ok {
		v.filePage(t)
	}
}

func (v *visit) postUpdateFileRemove() {
	p, err := v.call(http.MethodDelete, "/api/v1/updates/file", nil, nil)
	if p == nil && err == nil {
		v.done("/updates", "update-removed")
		return
	}
	if t, ok := v.trouble(p, err, nil); ok {
		v.filePage(t)
	}
}

// rootView is one whom the box follows.
type rootView struct {
	Title, Text string
	Facts       []fact
	Fingerprint string
}

// updateTrustView is whom the box follows, and what can be changed of it.
type updateTrustView struct {
	Roots []rootView
	Rows  []row
}

func (v *visit) getUpdateTrust() {
	u, ok := v.updatesNow()
	if !ok {
		return
	}
	c := v.text
	var view updateTrustView
	show := func(r *api.TrustRoot, kind string) {
		witnesses := c.s("updates-trust.unlogged")
		if r.Witnesses > 0 {
			witnesses = c.n("updates-trust.witnesses", r.Witnesses)
		}
		view.Roots = append(view.Roots, rootView{
			Title: short(r.Name, longestName), Text: c.s(kind), Fingerprint: spaced(r.Fingerprint), Facts: []fact{
				{c.s("updates-trust.signatures"), c.s("updates-trust.of", r.Threshold, r.Keys)},
				{c.s("updates-trust.log"), witnesses},
				{c.s("updates-trust.until"), r.Expires.In(v.zone()).Format(c.s("day.layout"))},
			},
		})
	}
	switch t := u.Trust; {
	case t.Project == nil:
	case t.Builtin:
		show(t.Project, "updates-trust.builtin")
	default:
		show(t.Project, "updates-trust.own")
	}
	if u.Trust.Auditor != nil {
		show(u.Trust.Auditor, "updates-trust.auditor")
	}
	add := func(href, name string) {
		view.Rows = append(view.Rows, row{href, c.s(name + ".title"), c.s("updates-row." + name)})
	}
	if u.Trust.Project != nil && u.Trust.Auditor == nil {
		add("/updates/trust/auditor", "updates-root.auditor")
	}
	if u.Trust.Auditor != nil {
		add("/updates/trust/alone", "updates-alone")
	}
	add("/updates/trust/project", "updates-root.project")
	if u.Trust.Project == nil || !u.Trust.Builtin {
		add("/updates/trust/builtin", "updates-builtin")
	}
	if v.owner() {
		add("/updates/witness", "witness")
	}
	v.render(http.StatusOK, v.page("updates-trust", view))
}

// rootFormView asks for a root of trust.
type rootFormView struct {
	trouble
	Title, Text, Warning        string
	Action                      string
	Name, Fingerprint, Password input
	NoPassword                  bool // who asks has none
	Root                        input
}

func (v *visit) rootPage(role string, req api.TrustRequest, t trouble) {
	c := v.text
	key := map[string]string{"project": "updates-root.project", "auditor": "updates-root.auditor"}[role]
	v.render(t.status(), v.named("updates-root", c.s(key+".title"), rootFormView{
		trouble: t, Title: c.s(key + ".title"), Text: c.s(key + ".text"), Warning: c.s("updates-warning." + role), Action: v.r.URL.Path,
		Name: input{Name: "name", Label: c.s("updates-root.name"), Hint: c.s("updates-root.name.hint"), Value: req.Name, Max: 60, Problem: t.Fields["name"]},
		Fingerprint: input{
			Name: "fingerprint", Label: c.s("updates-root.fingerprint"), Hint: c.s("updates-root.fingerprint.hint"), Value: req.Fingerprint,
			Max: 200, Exact: true, Problem: t.Fields["fingerprint"],
		},
		Root: input{Name: "root", Problem: t.Fields["root"]},
		Password: input{
			Name: "password", Label: c.s("my-password.yours"), Type: "password", Autocomplete: "current-password", Problem: t.Fields["password"],
		},
		NoPassword: !v.owner(), // who rescues the box has none
	}))
}

// postRoot takes the form of a root of trust, whose file is small.
func (v *visit) postRoot(role string) {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxRoot+maxForm)
	if err := v.r.ParseMultipartForm(maxRoot + maxForm); err != nil && !errors.Is(err, http.ErrNotMultipart) {
		v.message(http.StatusRequestEntityTooLarge, "toolarge")
		return
	}
	req := api.TrustRequest{
		Role: role, Action: "set", Name: v.field("name"), Fingerprint: v.field("fingerprint"), Password: v.r.PostForm.Get("password"),
	}
	if v.r.MultipartForm != nil {
		if files := v.r.MultipartForm.File["root"]; len(files) > 0 && files[0].Size > 0 {
			f, err := files[0].Open()
			if err != nil {
				v.failed(nil, err)
				return
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, maxRoot+1))
			if err != nil || len(b) > maxRoot {
				v.rootPage(role, req, wrong("root", v.text.s("field.too-long")))
				return
			}
			req.Root = string(b)
		}
	}
	p, err := v.call(http.MethodPut, "/api/v1/updates/trust", req, nil)
	if p == nil && err == nil {
		v.done("/updates/trust", "update-trust")
		return
	}
	at := map[string]string{
		"name": "name", "fingerprint": "fingerprint", "root": "root", "password": "password", "wrong-password": "password",
	}
	if t, ok := v.trouble(p, err, at); ok {
		v.rootPage(role, req, t)
	}
}

// trustAsk asks for the password to go back to what is built in, or to do without the auditor.
func (v *visit) trustAsk(kind string, t trouble) {
	a := askView{trouble: t, Up: "/updates/trust", UpName: v.text.s("updates-trust.title"), Inputs: []input{{
		Name: "password", Label: v.text.s("my-password.yours"), Type: "password", Autocomplete: "current-password", Problem: t.Fields["password"],
	}}}
	v.ask(map[string]string{"builtin": "updates-builtin", "alone": "updates-alone"}[kind], a)
}

func (v *visit) postTrustAsk(kind string) {
	if !v.form() {
		return
	}
	req := api.TrustRequest{Role: "project", Action: "builtin", Password: v.r.PostForm.Get("password")}
	if kind == "alone" {
		req.Role, req.Action = "auditor", "remove"
	}
	p, err := v.call(http.MethodPut, "/api/v1/updates/trust", req, nil)
	if p == nil && err == nil {
		v.done("/updates/trust", "update-trust")
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"password": "password", "wrong-password": "password"}); ok {
		v.trustAsk(kind, t)
	}
}

// updatesWord says in a few words how it stands with updates.
func (c catalogue) updatesWord(u *api.Updates) string {
	switch {
	case u == nil:
		return c.s("settings.network.unknown")
	case u.State != api.UpdateIdle:
		version := ""
		if u.Offer != nil {
			version = release(u.Offer.Version)
		}
		return named(c.or("update-state."+u.State, u.State), map[string]string{"version": version})
	}
	return c.updateState(u, time.Now()).Title
}

// policyValue says a field of the policy, which may not be said.
func (c catalogue) policyValue(name string, raw json.RawMessage) string {
	var text string
	var list []string
	json.Unmarshal(raw, &text) // what is no text has another kind
	switch name {
	case "mode":
		return c.or("updates-policy."+cmp.Or(text, "auto"), text)
	case "channel":
		return c.or("update-channel."+cmp.Or(text, "stable"), text)
	case "from":
		return cmp.Or(text, updateFrom)
	case "to":
		return cmp.Or(text, updateTo)
	case "metered", "alone":
		if strings.TrimSpace(string(raw)) == "true" {
			return c.s("diff.yes")
		}
		return c.s("diff.no")
	case "mirrors":
		if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
			return c.s("diff.mirrors.none")
		}
		return strings.Join(list, ", ")
	}
	return string(raw)
}
