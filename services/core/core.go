// Package core owns the box's state and answers the public HTTP API below /api/v1, which openapi.json describes: set-up,
// people and sessions, the state of the box put together from PID 1, the network service and discovery, its changes as a
// stream, and what owners do to the box. What the API can do, and who may ask for it, stands in one table (operations);
// one function (serve) decides by it.
//
// Limits: nothing but the gateway and the web UI may connect, so what they say about a client's address and scheme is
// believed. Everything that checks a secret makes who fails wait; strangers share one allowance, so a stranger on the LAN
// can delay the sign-in of a device that was never signed in before, but not of one that was (see limiter). What others
// have to do (init, network, discovery) is looked at once a minute, so that a service that comes back may be told its name
// and configuration a minute late.
//
// Memory, at worst, of the 96 MiB that the process may take: some 25 MiB at rest, 19 MiB for a password's hash (one at a
// time, given back at once), 64 KiB for each body that is being received, 192 KiB for an owner's root of trust (the gateway bounds how
// many), 1 MiB for what is remembered of clients, 2 MiB for 32 event streams, and one bundle for diagnosis. An uploaded update
// is passed on as it arrives.
//
// Sources: RFC 9457 (problem details), RFC 9110 (entity tags, conditions), RFC 6750 (bearer tokens), RFC 6265bis (cookies
// and their name prefixes), RFC 6901 (JSON pointers), OpenAPI 3.1, the HTML standard's section on server-sent events.
package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/croft-os/croft/services/alerts"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/config"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/history"
	"github.com/croft-os/croft/services/identity"
	"github.com/croft-os/croft/services/state"
)

// Config says who may connect.
type Config struct {
	GatewayUID uint32
	WebUIUID   uint32
	UpdaterUID uint32 // may ask for the health, nothing else
	Licences   string // path of the list in the root file system; empty for licencesFile
}

// server is the public API.
type server struct {
	ctx       context.Context // of the service
	log       *slog.Logger
	db        *state.DB
	id        *identity.Identity
	config    *config.Store
	history   *history.History
	alerts    *alerts.Alerts
	box       *boxWatcher
	init      *http.Client
	updater   *http.Client
	fetcher   *http.Client
	witness   *http.Client
	attempted *attemptLog
	uploading sync.Mutex // one file at a time
	limits    limits
	streams   streams
	cop       *http.CrossOriginProtection
	licences  string // path of the list in the root file system

	started   time.Time   // what the monotonic clock is counted from
	sure      atomic.Bool // the wall clock, when the box was last seen
	diagnosis sync.Mutex  // one bundle at a time
	rescuing  sync.Mutex  // held while work on the data partition is watched

	recoverMu sync.Mutex
	recovered string // the recovery code that was used last

	voidMu    sync.Mutex
	void      bool // init's claim code, when it was asked
	voidAsked time.Time
}

// Run serves the API until ctx ends.
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	err := run(ctx, env, cfg)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // it was stopped while it started
	}
	return err
}

func run(ctx context.Context, env *daemon.Env, cfg Config) error {
	l := env.Listeners["core"]
	if l == nil {
		return fmt.Errorf("%w: no listener \"core\" was passed", daemon.ErrConfig)
	}
	openState := state.Open
	if os.Getenv(daemon.TrialEnv) != "" {
		openState = state.OpenOnTrial
	}
	db, err := openState(ctx, env.StateDir, env.Log)
	if err != nil {
		return err
	}
	defer func() {
		if err := db.Close(); err != nil {
			env.Log.Warn("closing the state", "err", err)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	s, err := newServer(ctx, env, db, cmp.Or(cfg.Licences, licencesFile))
	if err != nil {
		return err
	}
	// Neither has to be done before the API answers: the box can be looked after without init, network and discovery.
	wg.Go(s.watch)
	wg.Go(s.voidClaim)
	go env.Watch(ctx, db.Check)
	env.Ready("running")
	all := s.handler(operations())
	most := daemon.OnlyPeers(all.ServeHTTP, cfg.GatewayUID, cfg.WebUIUID)
	h := func(w http.ResponseWriter, r *http.Request) { // no mux: it would redirect
		if r.Method == http.MethodGet && r.URL.Path == base+"/health" {
			all.ServeHTTP(w, r)
		} else {
			most(w, r)
		}
	}
	return daemon.Serve(ctx, daemon.AllowPeers(l, env.Log, cfg.GatewayUID, cfg.WebUIUID, cfg.UpdaterUID), http.HandlerFunc(h))
}

func newServer(ctx context.Context, env *daemon.Env, db *state.DB, licences string) (*server, error) {
	s := &server{
		ctx: ctx, log: env.Log, db: db, init: env.Client("init"), updater: env.Client("updater"), fetcher: env.Client("fetcher"),
		witness: env.Client("witness"), limits: newLimits(time.Now),
		cop: http.NewCrossOriginProtection(), licences: licences, started: time.Now(),
	}
	var err error
	s.id, err = identity.Open(ctx, identity.Config{DB: db, Log: env.Log, Now: time.Now, Box: s.name})
	if err != nil {
		return nil, err
	}
	for _, p := range s.id.People() {
		for _, v := range s.id.Sessions(identity.Caller{Person: p}) {
			s.limits.signIn.trust(v.Place)
		}
	}
	src := sources{init: s.init, network: env.Client("network"), discovery: env.Client("discovery"), updater: s.updater, witness: s.witness}
	s.config, err = config.Open(ctx, config.Options{
		DB: db, Identity: s.id, Log: env.Log, Now: time.Now, Init: src.init, Network: src.network, Discovery: src.discovery,
		Updater: s.updater, Witness: s.witness,
	})
	if err != nil {
		return nil, err
	}
	if s.alerts, err = alerts.Open(ctx, db, env.Log, time.Now); err != nil {
		return nil, err
	}
	if s.attempted, err = openAttemptLog(ctx, db, s.id); err != nil {
		return nil, err
	}
	dir := ""
	if env.StateDir != "" {
		dir = filepath.Join(env.StateDir, "history")
	}
	if s.history, err = history.Open(dir, env.Log); err != nil {
		env.Log.Warn("the history is kept in memory", "err", err)
	}
	s.box = newBoxWatcher(ctx, src, s.own)
	return s, nil
}

// own adds what core itself knows to the state of the box.
func (s *server) own(b *api.Box) {
	b.Notices = s.db.Notices()
	b.TimeZone = s.config.TimeZone()
	s.observed(b)
}

// name is the name of the box, empty while nobody knows it.
func (s *server) name() string {
	if s.config == nil {
		return ""
	}
	return s.config.Name()
}
