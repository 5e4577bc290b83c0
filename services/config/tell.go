package config

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/identity"
)

const (
	networkURL   = "http://network/v1/network"
	discoveryURL = "http://discovery/v1/discovery"
	initURL      = "http://init/v1"
)

// try starts a trial. The caller holds changing.
func (s *Store) try(ctx context.Context, c api.NetConfig, undoes int64) error {
	var n api.Network
	if err := s.askNetwork(ctx, &n); err != nil {
		return err
	}
	if n.Trial != nil {
		if s.Trial() != nil {
			return ErrTrialRunning
		}
		s.endTrial(ctx) // of a core that has ended
	}
	if err := s.do(ctx, s.Network, http.MethodPut, networkURL+"/trial", c); err != nil {
		return fmt.Errorf("%w: %w", ErrNetwork, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trial = &trial{config: c, undoes: undoes, started: s.Now()}
	return nil
}

func (s *Store) askNetwork(ctx context.Context, n *api.Network) error {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	if err := daemon.GetJSON(ctx, s.Network, networkURL, n); err != nil {
		return fmt.Errorf("%w: %w", ErrStarting, err)
	}
	return nil
}

// Trial is the network configuration that waits to be kept, nil without one.
func (s *Store) Trial() *api.Trial {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trial == nil {
		return nil
	}
	left := api.TrialTime - s.Now().Sub(s.trial.started)
	if left <= 0 {
		return nil
	}
	return &api.Trial{LeftMS: left.Milliseconds(), Config: s.trial.config}
}

// endTrial makes the network service go back at once; if it can't be told, it does so by itself.
func (s *Store) endTrial(ctx context.Context) {
	if err := s.do(ctx, s.Network, http.MethodDelete, networkURL+"/trial", nil); err != nil {
		s.Log.Warn("the network service was not told to go back; it will in a minute", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trial = nil
}

// KeepNetwork makes the network configuration that is tried the box's. Once it returns nil, that is so whatever happens.
// The error is ErrNoTrial or ErrStarting, or of the database.
func (s *Store) KeepNetwork(ctx context.Context, who identity.Caller) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	var n api.Network
	if err := s.askNetwork(ctx, &n); err != nil {
		return err
	}
	s.mu.Lock()
	t := s.trial
	s.mu.Unlock()
	if t == nil || n.Trial == nil {
		return ErrNoTrial
	}
	now, err := s.Document()
	if err != nil {
		return err
	}
	want := now
	want.Network = t.config
	err = s.Identity.Change(ctx, who, func(tx *sql.Tx) error {
		if err := put(ctx, tx, "network", string(encode(t.config))); err != nil {
			return err
		}
		return s.remember(ctx, tx, who, "network-kept", Differences(now, want), t.undoes)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.kept.network, s.kept.hasNet, s.trial = t.config, true, nil
	s.mu.Unlock()
	if err := s.do(context.WithoutCancel(ctx), s.Network, http.MethodPost, networkURL+"/keep", nil); err != nil {
		// The trial may have ended this very moment. Whoever asked to keep it did reach the box.
		s.Log.Warn("the network service did not keep what it tried; telling it again", "err", err)
		s.tellNetwork(context.WithoutCancel(ctx), t.config)
	}
	return nil
}

// RevertNetwork ends the trial at once. The error is ErrNoTrial.
func (s *Store) RevertNetwork(ctx context.Context, who identity.Caller) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.Trial() == nil {
		return ErrNoTrial
	}
	ctx = context.WithoutCancel(ctx) // by an address that goes, who asked may not be there any more
	s.endTrial(ctx)
	err := s.Identity.Log(ctx, api.AuditEntry{Action: "network-reverted", Who: who.Person.Name, Place: who.Place})
	if err != nil { // it has happened all the same
		s.Log.Error("the end of a trial was not recorded", "err", err)
	}
	return nil
}

func (s *Store) tellName(ctx context.Context, name string) {
	req := api.NameRequest{Name: name}
	var wg sync.WaitGroup
	wg.Go(func() { s.tell(ctx, "init", s.Init, http.MethodPut, initURL+"/name", req) })
	wg.Go(func() { s.tell(ctx, "discovery", s.Discovery, http.MethodPut, discoveryURL+"/name", req) })
	wg.Go(func() { s.tell(ctx, "network-name", s.Network, http.MethodPut, networkURL+"/name", req) })
	wg.Wait()
}

func (s *Store) tellNetwork(ctx context.Context, c api.NetConfig) {
	s.tell(ctx, "network", s.Network, http.MethodPut, networkURL+"/config", c)
}

// tell tells a service something that the database already holds. What fails is left to Reconcile.
func (s *Store) tell(ctx context.Context, target string, c *http.Client, method, url string, body any) {
	err := s.do(ctx, c, method, url, body)
	if s.telling.done(target, err == nil) {
		s.Log.Warn("a service was not told of the configuration", "what", target, "err", err)
	}
}

// do sends a request that acts, and waits for it to be carried out.
func (s *Store) do(ctx context.Context, c *http.Client, method, url string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(encode(body))
	}
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

// Reconcile compares the box as it was just seen with the configuration, and tells whoever does not follow it; not more
// often than every firstWait, and ever more rarely while that is in vain. It is to be called whenever somebody looked.
func (s *Store) Reconcile(ctx context.Context, b *api.Box) {
	if !s.changing.TryLock() {
		return // what was seen is just being changed
	}
	defer s.changing.Unlock()
	if err := s.adopt(ctx, b); err != nil {
		s.Log.Error("what the box is set to could not be kept", "err", err)
	}
	s.mu.Lock()
	k, t := s.kept, s.trial
	s.mu.Unlock()
	if k.hasName {
		req := api.NameRequest{Name: k.name}
		if s.telling.may("init", b.System.Name == k.name) {
			s.tell(ctx, "init", s.Init, http.MethodPut, initURL+"/name", req)
			s.tell(ctx, "network-name", s.Network, http.MethodPut, networkURL+"/name", req)
		}
		if b.Discovery != nil && s.telling.may("discovery", b.Discovery.Wanted == k.name) {
			s.tell(ctx, "discovery", s.Discovery, http.MethodPut, discoveryURL+"/name", req)
		}
	}
	if b.Updates != nil && s.telling.may("updates", samePolicy(b.Updates.Policy, k.updates) && b.Updates.TimeZone == k.zone) {
		s.tellUpdates(ctx, k.updates, k.zone)
	}
	if b.Witness != nil && s.telling.may("witness", sameWitness(b.Witness.Config, k.witness)) {
		s.tellWitness(ctx, k.witness)
	}
	if b.Network == nil || !k.hasNet {
		return
	}
	switch {
	case b.Network.Trial != nil && t == nil: // of a core that has ended
		if s.telling.may("trial", false) {
			s.tell(ctx, "trial", s.Network, http.MethodDelete, networkURL+"/trial", nil)
		}
	case b.Network.Trial == nil && t != nil && s.Now().Sub(t.started) > trialGrace: // nobody kept it
		s.mu.Lock()
		s.trial = nil
		s.mu.Unlock()
		if err := s.Identity.Log(ctx, api.AuditEntry{Action: "network-reverted"}); err != nil {
			s.Log.Warn("the end of a trial was not recorded", "err", err)
		}
	case b.Network.Trial == nil && t == nil:
		if s.telling.may("network", sameNetwork(b.Network.Config, k.network)) {
			s.tellNetwork(ctx, k.network)
		}
	}
}

// adopt takes over what the database does not know. Nothing is adopted from a trial. Before anybody sets the box up, its
// name and time zone are those of the settings file on its card, which an owner may still mend.
func (s *Store) adopt(ctx context.Context, b *api.Box) error {
	s.mu.Lock()
	k := s.kept
	s.mu.Unlock()
	name, ok := Name(b.System.Name)
	untouched := s.Identity.Untouched()
	takeName := ok && (!k.hasName || untouched && name != k.name)
	zone := b.System.TimeZone
	takeZone := untouched && zone != "" && zone != k.zone && TimeZone(zone)
	takeNet := !k.hasNet && b.Network != nil && b.Network.Trial == nil
	if !takeName && !takeZone && !takeNet {
		return nil
	}
	err := s.DB.Tx(ctx, func(tx *sql.Tx) error {
		var err error
		if takeName {
			err = put(ctx, tx, "name", name)
		}
		if takeZone {
			err = errors.Join(err, put(ctx, tx, "time_zone", zone))
		}
		if takeNet {
			err = errors.Join(err, put(ctx, tx, "network", string(encode(b.Network.Config))))
		}
		return err
	})
	// On a disk that takes no writes the box still has a configuration.
	s.mu.Lock()
	defer s.mu.Unlock()
	if takeName {
		s.kept.name, s.kept.hasName = name, true
	}
	if takeZone {
		s.kept.zone = zone
	}
	if takeNet {
		s.kept.network, s.kept.hasNet = b.Network.Config, true
	}
	return err
}

func sameNetwork(a, b api.NetConfig) bool {
	return len(Differences(api.Config{Network: a}, api.Config{Network: b})) == 0
}

// teller remembers whom it was in vain to tell, so that it is done ever more rarely.
type teller struct {
	now func() time.Time

	mu      sync.Mutex
	targets map[string]*backoff
}

type backoff struct {
	next   time.Time
	wait   time.Duration
	failed bool
}

// may tells whether it is time to tell somebody something again, who does or does not follow it by now.
func (t *teller) may(target string, follows bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.targets[target]
	if follows {
		delete(t.targets, target)
		return false
	}
	return b == nil || !t.now().Before(b.next)
}

// done notes that somebody was told, and returns whether it is news that they could not be.
func (t *teller) done(target string, ok bool) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.targets[target]
	if b == nil {
		b = &backoff{}
		t.targets[target] = b
	}
	news = !ok && !b.failed
	b.failed = !ok
	b.wait = min(max(2*b.wait, firstWait), longestWait) // who was told may still not follow
	b.next = t.now().Add(b.wait)
	return news
}
