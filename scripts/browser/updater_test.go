package browser

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/fetcher"
)

// updaters stand in for the updater and the fetcher: a test says what they say. The server's mutex guards them.
type updaters struct {
	u    *api.Updates // nil: they don't answer
	past []api.UpdateAttempt
	bad  string // cause for which the next file is refused
}

// updatesOf returns what it can be like with updates, by name; nil for a name that there is not.
func updatesOf(name string) *api.Updates {
	now := time.Now()
	at := func(d time.Duration) *time.Time { t := now.Add(d).UTC().Truncate(time.Second); return &t }
	evidence := api.UpdateEvidence{Signers: 3, Of: 5, Logged: true, Witnesses: 3, Seen: at(-49 * time.Hour)}
	u := &api.Updates{
		Version: "v1.3.0", Number: 16, State: api.UpdateIdle, Evidence: &evidence, Checked: at(-2 * time.Hour), Sharing: true,
		Previous: &api.UpdatePrevious{Version: "v1.2.4", Number: 15},
		Trust: api.UpdateTrust{Builtin: true, Project: &api.TrustRoot{
			Name: "Croft", Fingerprint: strings.Repeat("5e1f", 16), Version: 3, Threshold: 3, Keys: 5, Witnesses: 3, Expires: now.AddDate(1, 0, 0),
		}},
		Sources: []api.UpdateSource{
			{Kind: "mirror", Name: "https://updates.example.org/croft", Version: "v1.4.0", Seen: at(-2 * time.Hour)},
			{Kind: "mirror", Name: "https://mirror.example.net/", Error: "connection refused"},
			{Kind: "neighbour", Name: "croft-attic", Version: "v1.3.0", Seen: at(-3 * time.Hour)},
		},
	}
	offer := &api.UpdateOffer{
		Version: "v1.4.0", Number: 17, Channel: "stable", Built: now.Add(-72 * time.Hour), Download: 4_310_000, Source: "mirror", Evidence: evidence,
		Notes: map[string]string{
			"en": "Pages open faster on slow phones.\n\nThe box keeps its address when the router restarts.",
			"de": "Seiten öffnen sich schneller auf langsamen Handys.\n\nDie Box behält ihre Adresse, wenn der Router neu startet.",
		},
	}
	ended := func(outcome, cause string) *api.UpdateAttempt {
		return &api.UpdateAttempt{
			ID: "a-" + outcome + cause, Version: "v1.4.0", Number: 17, From: "v1.3.0", Began: *at(-30 * time.Minute), Ended: at(-20 * time.Minute),
			Outcome: outcome, Cause: cause, Source: "mirror",
		}
	}
	busy := func(state string, done, total, left int64) {
		u.Offer, u.State = offer, state
		u.Progress = &api.UpdateProgress{Done: done, Total: total, LeftMS: left, Cancel: state != api.UpdateRestarting && state != api.UpdateTrial}
	}
	switch name {
	case "idle":
	case "built": // by hand
		u.Number, u.Version, u.Evidence, u.Previous, u.Trust, u.Sources, u.Checked, u.Sharing = 0, "v0.0.0-dev", nil, nil, api.UpdateTrust{}, []api.UpdateSource{}, nil, false
		u.Problem = &api.UpdateProblem{Cause: "no-trust", Since: now}
	case "unlogged":
		u.Evidence = &api.UpdateEvidence{Signers: 1, Of: 1}
	case "audited":
		u.Evidence.Auditor = "Public Audit e.V."
		u.Trust.Auditor = &api.TrustRoot{Name: "Public Audit e.V.", Fingerprint: strings.Repeat("a0d1", 16), Threshold: 2, Keys: 3, Witnesses: 1, Expires: now.AddDate(0, 6, 0)}
	case "offer":
		u.Offer = offer
	case "offer-ask":
		u.Offer, u.Policy.Mode = offer, "ask"
	case "offer-stay":
		u.Offer, u.Policy.Mode = offer, "stay"
	case "checking":
		busy(api.UpdateChecking, 0, 0, 0)
		u.Offer = nil
	case "downloading":
		busy(api.UpdateDownloading, 1_900_000, 4_310_000, 14_000)
		u.Progress.Source = "neighbour"
	case "writing":
		busy(api.UpdateWriting, 31_000_000, 61_000_000, 40_000)
	case "verifying":
		busy(api.UpdateVerifying, 12_000_000, 61_000_000, 9_000)
	case "ready":
		u.Offer, u.State, u.Next = offer, api.UpdateReady, at(8*time.Hour)
	case "ready-ask":
		u.Offer, u.State, u.Policy.Mode = offer, api.UpdateReady, "ask"
	case "restarting":
		busy(api.UpdateRestarting, 0, 0, 0)
	case "trial":
		busy(api.UpdateTrial, 1, 3, 40_000)
		u.Offer, u.Version, u.Number = nil, "v1.4.0", 17
	case "kept":
		u.Version, u.Number, u.Last = "v1.4.0", 17, ended(api.UpdateKept, "")
		u.Last.DownMS, u.Last.By, u.Previous = 9400, "Anna", &api.UpdatePrevious{Version: "v1.3.0", Number: 16}
	case "back":
		u.Last, u.Offer = ended(api.UpdateBack, "page"), offer
		u.Offer.Tried = 1
	case "back-service":
		u.Last = ended(api.UpdateBack, "service")
		u.Last.Service = "discovery"
	case "failed":
		u.Last = ended(api.UpdateFailed, "read-back")
	case "tried-twice":
		u.Last, u.Offer = ended(api.UpdateBack, "hang"), offer
		u.Offer.Tried, u.Problem = 2, &api.UpdateProblem{Cause: "tried-twice", Since: now}
	case "stale":
		u.Problem, u.Checked = &api.UpdateProblem{Cause: "stale", Since: now}, at(-40*24*time.Hour)
	case "no-source":
		u.Problem = &api.UpdateProblem{Cause: "no-source", Since: now}
	case "split-view":
		u.Problem = &api.UpdateProblem{Cause: "split-view", Since: now}
	case "usb":
		u.Offer = offer
		u.Offer.Source, u.Offer.Download = "usb", 0
		u.Sources = append(u.Sources, api.UpdateSource{Kind: "usb", Name: "HOLIDAY 2024", Version: "v1.4.0", Seen: at(-time.Minute)})
	case "file":
		u.Offer = offer
		u.Offer.Source, u.Offer.Download, u.Offer.Stale = "file", 0, true
		u.Sources = append(u.Sources, api.UpdateSource{Kind: "file", Name: "croft-pi.zip", Version: "v1.4.0", Seen: at(-time.Minute)})
	case "hostile":
		const evil = `"><img src=x onerror=alert(1)>`
		u.Version, u.Offer, u.Last = evil, offer, ended(api.UpdateBack, evil)
		u.Offer.Version, u.Offer.Notes, u.Offer.Source = evil, map[string]string{"en": evil, "de": evil}, evil
		u.Last.Version, u.Last.From, u.Last.By, u.Last.Service, u.Trust.Project.Name = evil, evil, evil, evil, evil
		u.Sources[0].Name, u.Sources[1].Error, u.Previous.Version, u.Problem = evil, evil, evil, &api.UpdateProblem{Cause: evil, Detail: evil}
	default:
		return nil
	}
	return u
}

// setUpdates brings the updater into a state; "away" is that of one that does not answer. The owner's policy stays.
func (s *server) setUpdates(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "away" {
		s.u = nil
		return nil
	}
	if cause, ok := strings.CutPrefix(name, "refuse-"); ok {
		s.bad = cause
		return nil
	}
	u := updatesOf(name)
	if u == nil {
		return fmt.Errorf("no state %q of updates", name)
	}
	if s.u != nil {
		u.TimeZone = s.u.TimeZone
		if u.Policy.Mode == "" {
			u.Policy = s.u.Policy
		}
	}
	s.u = u
	s.past = nil
	if s.u.Last != nil {
		s.past = []api.UpdateAttempt{*s.u.Last}
	}
	if name == "kept" {
		for i, cause := range api.UpdateCauses() {
			outcome := []string{api.UpdateBack, api.UpdateFailed, api.UpdateCancelled, api.UpdateKept}[i%4]
			if outcome == api.UpdateCancelled || outcome == api.UpdateKept {
				cause = ""
			}
			t := time.Now().AddDate(0, 0, -i-2)
			s.past = append(s.past, api.UpdateAttempt{
				ID: fmt.Sprint("p", i), Version: fmt.Sprintf("v1.2.%d", 40-i), From: fmt.Sprintf("v1.2.%d", 39-i), Began: t, Ended: &t,
				Outcome: outcome, Cause: cause, Source: []string{"mirror", "neighbour", "usb", "file"}[i%4],
			})
		}
	}
	return nil
}

// fakeUpdates answers for both.
func (s *server) fakeUpdates(w http.ResponseWriter, r *http.Request) {
	var body []byte
	size := int64(0)
	if r.URL.Path == "/v1/upload" {
		size, _ = io.Copy(io.Discard, r.Body)
	} else {
		body, _ = io.ReadAll(io.LimitReader(r.Body, 1<<20))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	no := func(status int, name string) {
		daemon.WriteJSON(w, status, api.Problem{Type: "/problems/" + name, Title: "No.", Status: status})
	}
	if s.u == nil {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	request := r.Method + " " + r.URL.Path
	if r.Method != http.MethodGet {
		s.told = append(s.told, strings.TrimSpace(request+" "+string(body)))
	}
	u := *s.u
	switch request {
	case "GET /v1/updates":
		daemon.WriteJSON(w, http.StatusOK, u)
		return
	case "GET /v1/updates/history":
		daemon.WriteJSON(w, http.StatusOK, s.past)
		return
	case "PUT /v1/policy":
		var set api.UpdateSettings
		json.Unmarshal(body, &set) //nolint:errcheck // core sends nothing else
		u.Policy, u.TimeZone = set.Policy, set.TimeZone
	case "PUT /v1/trust":
		var req api.TrustRequest
		json.Unmarshal(body, &req) //nolint:errcheck // core sends nothing else
		if req.Action == "set" && req.Root == "" {
			no(http.StatusUnprocessableEntity, "wrong-phrase")
			return
		}
		root := &api.TrustRoot{Name: req.Name, Fingerprint: req.Fingerprint, Threshold: 1, Keys: 1, Expires: time.Now().AddDate(1, 0, 0)}
		switch {
		case req.Role == "auditor":
			u.Trust.Auditor = root
			if req.Action == "remove" {
				u.Trust.Auditor = nil
			}
		case req.Action == "builtin":
			u.Trust = updatesOf("idle").Trust
		default:
			u.Trust.Project, u.Trust.Builtin = root, false
		}
	case "POST /v1/action":
		var req api.UpdateAction
		json.Unmarshal(body, &req) //nolint:errcheck // core sends nothing else
		next := map[string]string{"install": "downloading", "tonight": "ready", "cancel": "idle", "restart": "restarting", "back": "restarting"}[req.Action]
		if next != "" {
			v := updatesOf(next)
			v.Policy, v.TimeZone, v.Trust = u.Policy, u.TimeZone, u.Trust
			u = *v
		}
	case "PUT /v1/upload":
		if cause := s.bad; cause != "" {
			s.bad = ""
			daemon.WriteJSON(w, http.StatusUnprocessableEntity, fetcher.Problem{Cause: cause, Error: "no"})
			return
		}
		s.told = append(s.told, fmt.Sprintf("%d bytes of %s", size, r.URL.Query().Get("name")))
		v := updatesOf("file")
		v.Policy, v.TimeZone, v.Trust = u.Policy, u.TimeZone, u.Trust
		u = *v
	case "DELETE /v1/upload":
		u.Sources = slices.DeleteFunc(slices.Clone(u.Sources), func(x api.UpdateSource) bool { return x.Kind == "file" })
	default:
		http.NotFound(w, r)
		return
	}
	s.u = &u
	w.WriteHeader(http.StatusAccepted)
}
