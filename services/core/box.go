package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

const (
	askTimeout  = time.Second     // of each process that is asked
	pollEvery   = 2 * time.Second // while somebody listens
	freshFor    = 500 * time.Millisecond
	refreshTime = time.Minute // an event is sent after this long even if nothing changed, for the times in it
)

// errStarting says that PID 1 does not answer (yet).
var errStarting = errors.New("init does not answer")

// sources are the processes that know the parts.
type sources struct{ init, network, discovery, updater, witness *http.Client }

// boxWatcher puts the state of the box together, when asked and, while somebody listens, regularly.
type boxWatcher struct {
	ctx context.Context // of the service
	src sources
	own func(*api.Box) // adds what core itself knows

	askMu sync.Mutex // one asks, the others share the answer
	last  *api.Box
	err   error
	asked time.Time

	mu     sync.Mutex
	subs   map[chan *api.Box]struct{}
	cancel context.CancelFunc // ends the polling
}

func newBoxWatcher(ctx context.Context, src sources, own func(*api.Box)) *boxWatcher {
	return &boxWatcher{ctx: ctx, src: src, own: own, subs: map[chan *api.Box]struct{}{}}
}

// get returns the state as it was at most freshFor ago, within askTimeout. What it returns must not be changed. The
// error is errStarting.
func (w *boxWatcher) get() (*api.Box, error) {
	w.askMu.Lock()
	defer w.askMu.Unlock()
	if !w.asked.IsZero() && time.Since(w.asked) < freshFor {
		return w.last, w.err
	}
	w.last, w.err = w.ask()
	w.asked = time.Now()
	return w.last, w.err
}

// forget makes the next get ask anew, because something was just done to the box.
func (w *boxWatcher) forget() {
	w.askMu.Lock()
	defer w.askMu.Unlock()
	w.asked = time.Time{}
}

func (w *boxWatcher) ask() (*api.Box, error) {
	ctx, cancel := context.WithTimeout(w.ctx, askTimeout)
	defer cancel()
	b := &api.Box{}
	var n api.Network
	var d api.Discovery
	var u api.Updates
	var wt api.Witness
	var wg sync.WaitGroup
	wg.Go(func() {
		if daemon.GetJSON(ctx, w.src.network, "http://network/v1/network", &n) == nil {
			b.Network = &n
		}
	})
	wg.Go(func() {
		if daemon.GetJSON(ctx, w.src.discovery, "http://discovery/v1/discovery", &d) == nil {
			b.Discovery = &d
		}
	})
	wg.Go(func() {
		if daemon.GetJSON(ctx, w.src.updater, "http://updater/v1/updates", &u) == nil {
			whole(&u)
			b.Updates = &u
		}
	})
	wg.Go(func() {
		if daemon.GetJSON(ctx, w.src.witness, "http://witness/v1/witness", &wt) == nil {
			wholeWitness(&wt)
			b.Witness = &wt
		}
	})
	err := daemon.GetJSON(ctx, w.src.init, "http://init/v1/system", &b.System)
	wg.Wait()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStarting, err)
	}
	w.own(b)
	return b, nil
}

// forRole is what somebody in a role gets to see of the box: what needs an owner's attention is for owners.
func forRole(b *api.Box, role who) *api.Box {
	if role == owner {
		return b
	}
	c := *b
	c.Notices, c.Alerts, c.Witness = nil, nil, nil
	if role != rescue { // who may install releases
		c.Updates = forSome(b.Updates)
	}
	return &c
}

func (s *server) getBox(w http.ResponseWriter, _ *http.Request, c *caller) {
	b, err := s.box.get()
	if err != nil {
		s.starting(w)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, forRole(b, c.role))
}

func (s *server) getHealth(w http.ResponseWriter, _ *http.Request, _ *caller) {
	daemon.WriteJSON(w, http.StatusOK, map[string]bool{"ok": true})
}

// subscribe returns a channel with the latest state after each change, and what ends it. A slow reader misses states
// in between, never the latest.
func (w *boxWatcher) subscribe() (<-chan *api.Box, func()) {
	c := make(chan *api.Box, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subs[c] = struct{}{}
	if w.cancel == nil {
		var ctx context.Context
		ctx, w.cancel = context.WithCancel(w.ctx)
		go w.poll(ctx)
	}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, c)
		if len(w.subs) == 0 && w.cancel != nil {
			w.cancel()
			w.cancel = nil
		}
	}
}

func (w *boxWatcher) poll(ctx context.Context) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	var before []byte
	var sent time.Time
	for {
		if b, err := w.get(); err == nil {
			if now := fingerprint(b); string(now) != string(before) || time.Since(sent) >= refreshTime {
				before, sent = now, time.Now()
				w.publish(b)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (w *boxWatcher) publish(b *api.Box) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.subs {
		select {
		case <-c: // what the reader has not taken yet is out of date
		default:
		}
		c <- b
	}
}

// fingerprint is the state without what changes all the time and with measurements rounded, so that a page is told of
// what its reader would notice.
func fingerprint(b *api.Box) []byte {
	c := *b
	v := &c.System.Vitals
	c.System.UptimeMS = 0
	v.MemAvailable = round(v.MemAvailable, 4<<20)
	v.PSS = round(v.PSS, 1<<20)
	v.CPUBusyMS, v.NetIn, v.NetOut = 0, 0, 0 // they only ever grow
	v.Load1 = math.Round(v.Load1*5) / 5
	if v.Temperature != nil {
		t := math.Round(*v.Temperature)
		v.Temperature = &t
	}
	if v.Data != nil {
		d := *v.Data
		d.Free = round(d.Free, 16<<20)
		v.Data = &d
	}
	c.System.Services = make([]api.Service, len(b.System.Services))
	for i, s := range b.System.Services {
		s.SinceMS, s.NextTryMS = 0, 0
		s.Memory = round(s.Memory, 1<<20)
		c.System.Services[i] = s
	}
	c.Alerts = slices.Clone(b.Alerts)
	for i := range c.Alerts {
		c.Alerts[i].Last = time.Time{}
	}
	if b.Network != nil {
		n := *b.Network
		if n.Trial != nil {
			n.Trial = &api.Trial{Config: n.Trial.Config}
		}
		n.Clock.Now, n.Clock.OffsetMS, n.Clock.ErrorMS, n.Clock.LastSync = time.Time{}, 0, 0, time.Time{}
		c.Network = &n
	}
	out, err := json.Marshal(c)
	if err != nil {
		return nil // then the minute's refresh has to do
	}
	return out
}

func round(n, to int64) int64 { return (n + to/2) / to * to }
