package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/croft-os/croft/image/flash"
	"github.com/croft-os/croft/services/api"
)

const updateIntro = `update status | check | install | back | cancel

status says which version runs, who stands for it and what is offered; check has the box look for updates; install installs what is
offered, with --tonight when the box's own window opens; back returns to the version before; cancel stops what can be stopped. The
box decides by itself what it believes.`

// updateCommand looks after the release that runs.
func updateCommand(fl *flag.FlagSet) func(context.Context, *box, []string) error {
	yes := fl.Bool("yes", false, "don't ask before the box is changed")
	tonight := fl.Bool("tonight", false, "install: restart in the box's own window")
	return func(ctx context.Context, b *box, args []string) error {
		u := &updates{b, *yes}
		switch args[0] {
		case "status":
			return u.status(ctx)
		case "check":
			return u.act(ctx, api.UpdateAction{Action: "check"}, "The box looks for updates now; \"croft update status\" says what it finds.")
		case "install":
			return u.install(ctx, *tonight)
		case "back":
			return u.back(ctx)
		case "cancel":
			return u.act(ctx, api.UpdateAction{Action: "cancel"}, "Stopped.")
		}
		return usageError("It is: croft update status, check, install, back or cancel.")
	}
}

type updates struct {
	*box
	yes bool
}

func (u *updates) get(ctx context.Context) (v api.Updates, raw []byte, err error) {
	if _, err := u.call(ctx, http.MethodGet, "/updates", nil, nil, &raw, nil); err != nil {
		return v, nil, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, nil, fmt.Errorf("%s answers what this program does not understand: %w", u.base, err)
	}
	return v, raw, nil
}

// act has the box act, and says done.
func (u *updates) act(ctx context.Context, a api.UpdateAction, done string) error {
	return show(ctx, u.box, http.MethodPost, "/updates/action", nil, a, func(struct{}) error {
		fmt.Fprintln(u.out, done)
		return nil
	})
}

func (u *updates) status(ctx context.Context) error {
	v, raw, err := u.get(ctx)
	switch {
	case err != nil:
		return err
	case u.asJSON:
		u.print(raw)
	default:
		fmt.Fprint(u.out, clean(updateText(v, time.Now())))
	}
	if v.Problem != nil && v.Problem.Cause == "split-view" || v.Offer != nil && v.Policy.Mode == "ask" && v.State == api.UpdateIdle {
		return errNeedsYou
	}
	return nil
}

func (u *updates) install(ctx context.Context, tonight bool) error {
	v, _, err := u.get(ctx)
	if err != nil {
		return err
	}
	if v.Offer == nil {
		fmt.Fprintln(u.err, "Nothing is offered. \"croft update check\" has the box look.")
		return errNo
	}
	o := v.Offer
	if !u.asJSON {
		fmt.Fprint(u.out, clean(offerText(*o, time.Now())))
	}
	a, question, done := api.UpdateAction{Action: "install", Number: o.Number},
		"Everything that runs on the box will stop for about a minute once it is written. Type yes to install it: ",
		"The box installs it now and restarts; \"croft update status\" says how far it is."
	if tonight {
		a.Action, question = "tonight", "The box will restart in its own window. Type yes to install it: "
		done = "The box prepares it now and restarts in its window."
	}
	if !u.yes && !u.ask.yes(ctx, question) {
		fmt.Fprintln(u.err, "Nothing was installed.")
		return errNo
	}
	return u.act(ctx, a, done)
}

func (u *updates) back(ctx context.Context) error {
	v, _, err := u.get(ctx)
	if err != nil {
		return err
	}
	if v.Previous == nil {
		fmt.Fprintln(u.err, "There is no version to go back to.")
		return errNo
	}
	if !u.yes && !u.ask.yes(ctx, clean(fmt.Sprintf("The box will restart into %s; data and settings stay. Type yes to go back: ", v.Previous.Version))) {
		fmt.Fprintln(u.err, "Nothing was changed.")
		return errNo
	}
	return u.act(ctx, api.UpdateAction{Action: "back"}, "The box restarts into the version before. It will be back in about a minute.")
}

// evidenceText is who stands for a release, in one line.
func evidenceText(e *api.UpdateEvidence, now time.Time) string {
	if e == nil || e.Signers == 0 {
		return "nobody"
	}
	s := fmt.Sprintf("signed by %d of %d", e.Signers, e.Of)
	if e.Logged {
		s += ", publicly logged"
	} else {
		s += ", not publicly logged"
	}
	if e.Witnesses > 0 {
		s += fmt.Sprintf(", seen by %d independent witness", e.Witnesses)
		if e.Witnesses > 1 {
			s += "es"
		}
		if e.Seen != nil {
			s += ", " + span(now.Sub(*e.Seen).Milliseconds()) + " ago"
		}
	}
	if e.Auditor != "" {
		s += ", confirmed by " + e.Auditor
	}
	return s
}

func offerText(o api.UpdateOffer, now time.Time) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s is offered (%s, from a %s): %s.\n", o.Version, flash.Bytes(o.Download), o.Source, evidenceText(&o.Evidence, now))
	if notes := strings.TrimSpace(o.Notes["en"]); notes != "" {
		fmt.Fprintf(&w, "  %s\n", strings.ReplaceAll(notes, "\n", "\n  "))
	}
	return w.String()
}

func updateText(v api.Updates, now time.Time) string {
	var w strings.Builder
	tw := tabwriter.NewWriter(&w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(tw, name+"\t"+format+"\n", args...) }
	line("Running", "%s", v.Version)
	line("Stands for it", "%s", evidenceText(v.Evidence, now))
	state := v.State
	if p := v.Progress; p != nil && p.Total > 0 {
		state += fmt.Sprintf(", %d %%", p.Done*100/p.Total)
	}
	line("State", "%s", state)
	policy := cmp.Or(v.Policy.Mode, "auto")
	if policy == "auto" {
		policy += fmt.Sprintf(", between %s and %s", cmp.Or(v.Policy.From, "02:00"), cmp.Or(v.Policy.To, "05:00"))
	}
	line("Policy", "%s, %s releases", policy, cmp.Or(v.Policy.Channel, "stable"))
	switch t := v.Trust; {
	case t.Project == nil:
		line("Trusts", "nobody, so there are no updates")
	case t.Auditor != nil:
		line("Trusts", "%s, confirmed by %s", t.Project.Name, t.Auditor.Name)
	default:
		line("Trusts", "%s", t.Project.Name)
	}
	if v.Checked != nil {
		line("Looked", "%s ago", span(now.Sub(*v.Checked).Milliseconds()))
	}
	if v.Problem != nil {
		line("Problem", "%s", strings.TrimSpace(v.Problem.Cause+" "+v.Problem.Detail))
	}
	if a := v.Last; a != nil {
		line("Last attempt", "%s", strings.TrimSpace(fmt.Sprintf("%s: %s %s", a.Version, cmp.Or(a.Outcome, "lasts"), a.Cause)))
	}
	if v.Previous != nil {
		line("Before", "%s", v.Previous.Version)
	}
	tw.Flush()
	if v.Offer != nil {
		w.WriteString(offerText(*v.Offer, now))
	}
	return w.String()
}
