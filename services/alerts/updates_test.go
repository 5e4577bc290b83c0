package alerts

import (
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// What an owner is told of updates, and what not.
func TestUpdates(t *testing.T) {
	offer := &api.UpdateOffer{Version: "v2", Number: 2}
	twice := &api.UpdateOffer{Version: "v2", Number: 2, Tried: 2}
	tonight := time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)
	ask := api.UpdatePolicy{Mode: "ask"}
	ended := func(outcome, cause string) *api.UpdateAttempt {
		return &api.UpdateAttempt{ID: "1", Version: "v2", From: "v1", Outcome: outcome, Cause: cause}
	}
	covered := map[string]bool{}
	for name, tt := range map[string]struct {
		u    api.Updates
		want []string
	}{
		"nothing":                      {api.Updates{State: api.UpdateIdle}, nil},
		"an offer, by itself":          {api.Updates{State: api.UpdateIdle, Offer: offer}, nil},
		"an offer, stay":               {api.Updates{State: api.UpdateIdle, Offer: offer, Policy: api.UpdatePolicy{Mode: "stay"}}, nil},
		"an offer, ask":                {api.Updates{State: api.UpdateIdle, Offer: offer, Policy: ask}, []string{"update-available v2 1!"}},
		"an offer, tonight":            {api.Updates{State: api.UpdateIdle, Offer: offer, Policy: ask, Next: &tonight}, nil},
		"an offer, being installed":    {api.Updates{State: api.UpdateDownloading, Offer: offer, Policy: ask}, nil},
		"written, ask":                 {api.Updates{State: api.UpdateReady, Offer: offer, Policy: ask}, []string{"update-available v2 1!"}},
		"kept":                         {api.Updates{Last: ended(api.UpdateKept, "")}, nil},
		"back":                         {api.Updates{Last: ended(api.UpdateBack, "page")}, []string{"update-back v2 1!"}},
		"failed by the card":           {api.Updates{Last: ended(api.UpdateFailed, "medium")}, []string{"update-failed v2 1!"}},
		"failed on the way":            {api.Updates{Last: ended(api.UpdateFailed, "download")}, nil},
		"cancelled":                    {api.Updates{Last: ended(api.UpdateCancelled, "")}, nil},
		"lasts":                        {api.Updates{State: api.UpdateTrial, Last: ended("", "")}, nil},
		"tried twice":                  {api.Updates{State: api.UpdateIdle, Offer: twice, Last: ended(api.UpdateBack, "page"), Policy: ask}, []string{"update-tried-twice v2 1!"}},
		"split view":                   {api.Updates{Problem: &api.UpdateProblem{Cause: "split-view"}}, []string{"update-split-view 1!"}},
		"stale":                        {api.Updates{Problem: &api.UpdateProblem{Cause: "stale"}}, []string{"update-stale 1!"}},
		"no source answers":            {api.Updates{Problem: &api.UpdateProblem{Cause: "no-source"}}, nil},
		"back, and split view as well": {api.Updates{Last: ended(api.UpdateBack, "hang"), Problem: &api.UpdateProblem{Cause: "split-view"}}, []string{"update-back v2 1!", "update-split-view 1!"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.box.Updates = &tt.u
			l.run(2 * time.Minute)
			l.want(tt.want...)
			for _, x := range l.a.List() {
				covered[x.Name] = true
				if x.Text == "" || x.Next == "" || x.Text == "Something needs you." || (x.Weight == act) != (x.Name == "update-split-view") {
					t.Errorf("%+v", x)
				}
			}
		})
	}
	for _, name := range api.AlertNames() {
		if strings.HasPrefix(name, "update-") && !covered[name] {
			t.Errorf("%s is not tested", name)
		}
	}
}

// A release that failed is told once, however long it stays the last that was tried; another one that fails is told again.
func TestUpdateBackIsSeenOnce(t *testing.T) {
	l := newLab(t)
	l.box.Updates = &api.Updates{Last: &api.UpdateAttempt{ID: "1", Version: "v2", From: "v1", Outcome: api.UpdateBack, Cause: "page"}}
	l.run(time.Hour)
	l.want("update-back v2 1!")
	l.seen("update-back")
	l.run(time.Hour)
	l.want()
	l.restart()
	l.run(time.Hour)
	l.want()
	l.box.Updates.Last = &api.UpdateAttempt{ID: "2", Version: "v3", From: "v1", Outcome: api.UpdateBack, Cause: "page"}
	l.run(time.Minute)
	l.want("update-back v3 1!")
}
