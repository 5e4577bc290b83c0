package updater

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/release"
)

const (
	maxBody    = release.MaxRoot*2 + 4096 // a root, escaped
	maxStreams = 8
	beatEvery  = 20 * time.Second
	sendTime   = 10 * time.Second
	maxMirrors = 8
	maxLeases  = 16
	// neighbourEvery is how often news of neighbours make the box look: they may say anything.
	neighbourEvery = 10 * time.Minute
)

func (e *engine) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/updates", func(w http.ResponseWriter, r *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, e.view())
	})
	mux.HandleFunc("GET /v1/updates/history", func(w http.ResponseWriter, r *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, e.attempts())
	})
	mux.HandleFunc("GET /v1/updates/stream", e.stream)
	mux.HandleFunc("POST /v1/action", func(w http.ResponseWriter, r *http.Request) {
		var a api.UpdateAction
		if decode(w, r, &a) {
			answer(w, http.StatusAccepted, e.note(a))
		}
	})
	mux.HandleFunc("PUT /v1/policy", func(w http.ResponseWriter, r *http.Request) {
		var s api.UpdateSettings
		if decode(w, r, &s) {
			answer(w, http.StatusNoContent, e.setPolicy(s))
		}
	})
	mux.HandleFunc("PUT /v1/trust", func(w http.ResponseWriter, r *http.Request) {
		var t api.TrustRequest
		if decode(w, r, &t) {
			answer(w, http.StatusNoContent, e.changeTrust(r.Context(), t))
		}
	})
	mux.HandleFunc("POST /v1/busy", func(w http.ResponseWriter, r *http.Request) {
		var b api.UpdateBusy
		if decode(w, r, &b) {
			answer(w, http.StatusNoContent, e.lease(b))
		}
	})
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v); err != nil {
		answer(w, 0, fmt.Errorf("%w: %w", errInvalid, err))
		return false
	}
	return true
}

// Errors of requests.
var (
	errBusy  = errors.New("something else is under way")
	errGone  = errors.New("that release is not offered")
	errState = errors.New("there is nothing to do that to")
)

// answer says that something was done, or why not, as an RFC 9457 problem.
func answer(w http.ResponseWriter, status int, err error) {
	p := api.Problem{Status: http.StatusInternalServerError, Type: "unknown"}
	switch {
	case err == nil:
		w.WriteHeader(status)
		return
	case errors.Is(err, errBusy):
		p.Status, p.Type = http.StatusConflict, "busy"
	case errors.Is(err, errGone):
		p.Status, p.Type = http.StatusConflict, "wrong-release"
	case errors.Is(err, errState):
		p.Status, p.Type = http.StatusConflict, "refused"
	case errors.Is(err, errFingerprint):
		p.Status, p.Type = http.StatusUnprocessableEntity, "wrong-phrase"
	case errors.Is(err, errInvalid):
		p.Status, p.Type = http.StatusUnprocessableEntity, "invalid"
	default:
		if c := cause(err); c != "" {
			p.Status, p.Type = http.StatusUnprocessableEntity, c
		}
	}
	p.Type, p.Title = "/problems/"+p.Type, err.Error()
	daemon.WriteJSON(w, p.Status, p)
}

// note takes an owner's wish down for the loop, if it fits the state.
func (e *engine) note(a api.UpdateAction) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.poke()
	resting := e.state == api.UpdateIdle || e.state == api.UpdateReady || e.state == api.UpdateChecking
	ready := e.pend != nil && e.pend.Phase == phaseReady
	switch a.Action {
	case "check":
		if e.state == api.UpdateChecking {
			return nil
		}
	case "install", "tonight":
		if e.offer == nil || e.offer.Number != a.Number {
			return errGone
		}
	case "restart":
		if !ready {
			return errState
		}
	case "back":
		if e.previous() == nil {
			return errState
		}
	case "cancel":
		switch {
		case e.cancel != nil:
			e.cancel(errCancelled)
			return nil
		case !ready:
			return errState
		}
	default:
		return fmt.Errorf("%w: action %q", errInvalid, a.Action)
	}
	if !resting || e.want != nil {
		return errBusy
	}
	if e.state == api.UpdateChecking && e.cancel != nil {
		e.cancel(errInterrupted)
	}
	e.want = &a
	return nil
}

// setPolicy takes over what the owner wishes.
func (e *engine) setPolicy(s api.UpdateSettings) error {
	p := s.Policy
	if p.Mode != "" && !slices.Contains([]string{"auto", "ask", "stay"}, p.Mode) {
		return fmt.Errorf("%w: mode %q", errInvalid, p.Mode)
	}
	if p.Channel != "" && p.Channel != string(release.Stable) && p.Channel != string(release.Beta) {
		return fmt.Errorf("%w: channel %q", errInvalid, p.Channel)
	}
	if _, err := parseWindow(p); err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	if _, err := time.LoadLocation(s.TimeZone); err != nil || s.TimeZone == "Local" {
		return fmt.Errorf("%w: time zone %q", errInvalid, s.TimeZone)
	}
	if len(p.Mirrors) > maxMirrors {
		return fmt.Errorf("%w: %d mirrors", errInvalid, len(p.Mirrors))
	}
	for _, m := range p.Mirrors {
		if u, err := url.Parse(m); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return fmt.Errorf("%w: mirror %q", errInvalid, m)
		}
	}
	before, zone := e.policy()
	if zone.String() == s.TimeZone && samePolicy(before, p) && e.hasSettings() {
		return nil
	}
	if err := e.saveSettings(func(now *settings) { now.Policy, now.TimeZone, now.Told = p, s.TimeZone, true }); err != nil {
		return err
	}
	e.mu.Lock()
	if before.Channel != p.Channel || !slices.Equal(before.Mirrors, p.Mirrors) {
		e.soon = true
	}
	e.mu.Unlock()
	e.poke()
	select {
	case e.tell <- struct{}{}:
	default:
	}
	return nil
}

func (e *engine) hasSettings() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.set.Told
}

func samePolicy(a, b api.UpdatePolicy) bool {
	return a.Mode == b.Mode && a.From == b.From && a.To == b.To && a.Channel == b.Channel && a.Metered == b.Metered &&
		a.Alone == b.Alone && slices.Equal(a.Mirrors, b.Mirrors)
}

// changeTrust stops what can be stopped, and changes whom the box follows.
func (e *engine) changeTrust(ctx context.Context, t api.TrustRequest) error {
	for !e.work.TryLock() {
		e.mu.Lock()
		switch {
		case e.cancel != nil:
			e.cancel(errInterrupted)
		case e.state == api.UpdateTrial || e.state == api.UpdateRestarting:
			e.mu.Unlock()
			return errBusy
		}
		e.mu.Unlock()
		sleep(ctx, 20*time.Millisecond)
		if ctx.Err() != nil {
			return errBusy
		}
	}
	defer e.work.Unlock()
	if e.pend != nil && e.pend.Phase == phaseArmed {
		return errBusy
	}
	err := e.setTrust(t)
	e.log.Info("trust", "role", t.Role, "action", t.Action, "fingerprint", plainFingerprint(t.Fingerprint), "by", t.By, "err", err)
	e.poke()
	return err
}

var whoRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// lease holds restarts off, or no longer.
func (e *engine) lease(b api.UpdateBusy) error {
	if !whoRE.MatchString(b.Who) || b.ForMS < 0 {
		return fmt.Errorf("%w: %q for %d ms", errInvalid, b.Who, b.ForMS)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.poke()
	if b.ForMS == 0 {
		delete(e.leases, b.Who)
		return nil
	}
	if _, ok := e.leases[b.Who]; !ok && len(e.leases) >= maxLeases {
		return fmt.Errorf("%w: too many are busy", errInvalid)
	}
	e.leases[b.Who] = time.Now().Add(min(time.Duration(min(b.ForMS, maxLease.Milliseconds()))*time.Millisecond, maxLease))
	return nil
}

// stream sends the state as server-sent events, now and after each change, at most four a second.
func (e *engine) stream(w http.ResponseWriter, r *http.Request) {
	changed := make(chan struct{}, 1)
	e.mu.Lock()
	if len(e.subs) >= maxStreams {
		e.mu.Unlock()
		answer(w, 0, errBusy)
		return
	}
	e.subs[changed] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.subs, changed)
		e.mu.Unlock()
	}()
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	write := func(text string) bool {
		rc.SetWriteDeadline(time.Now().Add(sendTime)) // not every ResponseWriter has deadlines
		if _, err := w.Write([]byte(text)); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for send := true; ; {
		if send {
			b, err := json.Marshal(e.view())
			if err != nil || !write("event: updates\ndata: "+string(b)+"\n\n") {
				return
			}
			sleep(r.Context(), 250*time.Millisecond)
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
			send = true
		case <-beat.C:
			send = false
			if !write(":\n\n") {
				return
			}
		}
	}
}

// tellFetcher passes the owner's wishes on to the fetcher, at the start and after each change.
func (e *engine) tellFetcher(ctx context.Context) {
	for ctx.Err() == nil {
		p, _ := e.policy()
		sctx, cancel := context.WithTimeout(ctx, askTimeout)
		err := e.fetch.Set(sctx, fetcher.Settings{Mirrors: p.Mirrors, Share: !p.Alone})
		cancel()
		if err != nil {
			e.log.Warn("the fetcher could not be told", "err", err)
			sleep(ctx, lookAgain)
			continue
		}
		select {
		case <-ctx.Done():
		case <-e.tell:
		}
	}
}

// watchFetcher keeps track of where releases could come from, and has the loop look when there is something new.
func (e *engine) watchFetcher(ctx context.Context) {
	revision := int64(-1)
	seen := map[string]bool{}
	var asked time.Time
	for ctx.Err() == nil {
		sctx, cancel := context.WithTimeout(ctx, time.Minute)
		s, err := e.fetch.State(sctx, revision)
		cancel()
		if err != nil {
			revision = -1
			sleep(ctx, lookAgain)
			continue
		}
		revision = s.Revision
		now := map[string]bool{}
		look := false
		for _, src := range s.Sources {
			if src.Kind == fetch.KindMirror || src.Version == "" {
				continue
			}
			key := src.Kind + "\x00" + src.Name + "\x00" + src.Version
			now[key] = true
			if seen[key] {
				continue
			}
			if src.Kind != fetch.KindNeighbour {
				look = true
			} else if src.Version != e.release.Version && time.Since(asked) > neighbourEvery {
				look, asked = true, time.Now()
			}
		}
		seen = now
		e.change(func() {
			e.sources, e.sharing = s.Sources, s.Sharing
			e.local = e.local || look
			if e.offer != nil {
				o := *e.offer
				o.Source = e.sourceOf(o.Version)
				e.offer = &o
			}
		})
		if look {
			e.poke()
		}
		sleep(ctx, time.Second)
	}
}
