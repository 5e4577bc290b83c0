// Package witness is the service that makes the box a witness for others: it cosigns the checkpoints of the logs that an owner named
// (updater/witness, C2SP tlog-witness), with a key of its own. It is off until an owner turns it on.
//
// The key is made on the box, and never leaves it: it is in no answer, no configuration document and no export. It stands in one folder with
// what it signed, and both go together: a new key begins with an empty memory, and an older memory is never brought back. So a box that
// starts over, or another one that takes over the document, is a new witness with another key.
//
// What it is told (core's socket) is not kept here, for the database is the truth: after a start it is off until core has told it again, at most
// a minute later. It answers publishers only while it is on, and only while the network service is sure of the time.
//
// Limits: a copy of the whole card that is put back later has an older memory, and nothing on the box can tell; an owner has to ask for a
// new key then. No box is its own judge: whether a witness counts is what the publishers' roots say.
package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/daemon/guests"
	"github.com/croft-os/croft/updater/witness"
)

const (
	lookEvery  = 10 * time.Second // at the clock, and whether it can begin again
	askTimeout = 2 * time.Second  // for the network service
	maxBody    = 64 << 10         // bytes of a request of core's
)

// limits are what publishers may use. One asks once or twice for a release.
var limits = guests.Limits{Conns: 64, ConnsEach: 8, Requests: 5, Burst: 100}

// Files in the state directory.
const (
	folder  = "now"    // the key, and what it signed
	before  = "before" // what the last key signed, and the proofs against logs; without the key
	keyFile = "key"
)

// Config is what the service can't know by itself.
type Config struct {
	Core uint32 // uid that says what to do
}

// service is the witness.
type service struct {
	env     *daemon.Env
	log     *slog.Logger
	network *http.Client
	port    int
	guests  *guests.Guests
	sure    atomic.Bool   // of the time
	wake    chan struct{} // something was told

	current atomic.Pointer[witness.Witness] // nil: it does not cosign

	mu      sync.Mutex // held by what changes the following, or the folder
	told    api.WitnessConfig
	made    time.Time // the key
	problem string    // why there is no current one; empty while it is off
}

// Run runs the service until ctx ends. It answers core on the listener "witness", and publishers on the listener "logs".
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	l, logs := env.Listeners["witness"], env.Listeners["logs"]
	if l == nil || logs == nil || env.StateDir == "" {
		return fmt.Errorf("%w: the listeners \"witness\" and \"logs\" and a state directory are needed", daemon.ErrConfig)
	}
	s := &service{env: env, log: env.Log, network: env.Client("network"), wake: make(chan struct{}, 1)}
	if a, ok := logs.Addr().(*net.TCPAddr); ok {
		s.port = a.Port
	}
	s.guests = guests.New(limits, func(netip.Addr) bool { return s.current.Load() != nil })
	defer s.stop()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := witness.Serve(ctx, s.guests.Listen(logs), s, witness.AnswerTime); err != nil && ctx.Err() == nil {
			s.log.Error("publishers are not answered any more", "err", err)
			cancel() // to be started again
		}
	})
	wg.Go(func() { s.look(ctx) })
	wg.Go(func() { env.Watch(ctx, func(context.Context) error { return nil }) })
	env.Ready(s.status())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/witness", s.getWitness)
	mux.HandleFunc("PUT /v1/config", s.putConfig)
	mux.HandleFunc("POST /v1/key", s.postKey)
	return daemon.Serve(ctx, daemon.AllowPeers(l, env.Log, cfg.Core), mux)
}

// look keeps an eye on the clock while the witness is to be one, and opens it where that failed before, until ctx ends.
func (s *service) look(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		s.mu.Lock()
		on := s.told.On()
		if on && s.current.Load() == nil {
			s.start()
		}
		s.mu.Unlock()
		if on {
			var n api.Network
			actx, cancel := context.WithTimeout(ctx, askTimeout)
			err := daemon.GetJSON(actx, s.network, "http://network/v1/network", &n)
			cancel()
			if sure := err == nil && n.Clock.Certainty == api.ClockSure; s.sure.Swap(sure) != sure {
				s.log.Info("the clock", "sure", sure, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-t.C:
		}
	}
}

// start opens the witness that was told of. It needs mu.
func (s *service) start() {
	w, made, err := s.open()
	why := ""
	if err != nil {
		why = cause(err)
	}
	if why != s.problem {
		s.log.Warn("the witness", "problem", why, "err", err)
	}
	s.problem = why
	if err == nil {
		s.made = made
		s.current.Store(w)
		s.log.Info("cosigning", "name", s.told.Name, "logs", len(s.told.Logs), "key", w.VerifierKey())
	}
	s.env.Status(s.status())
}

func (s *service) open() (w *witness.Witness, made time.Time, err error) {
	dir := filepath.Join(s.env.StateDir, folder)
	if err := os.Mkdir(dir, 0o700); err == nil {
		err = syncDir(s.env.StateDir)
		if err != nil {
			return nil, made, err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return nil, made, err
	}
	key, err := witness.LoadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, made, err
	}
	fi, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, made, err
	}
	w, err = witness.New(witness.Config{
		Name: s.told.Name, Key: key, Dir: dir, Logs: s.told.Logs, Log: s.log,
		Clock: func() (time.Time, bool) { return time.Now(), s.sure.Load() },
	})
	return w, fi.ModTime(), err
}

// stop ends the current witness: nothing is signed once it has returned.
func (s *service) stop() {
	if w := s.current.Swap(nil); w != nil {
		w.Close()
		s.guests.CloseAll()
	}
}

// cause is the word of api.WitnessProblems for an error.
func cause(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "disk-full"
	case errors.Is(err, witness.ErrDamaged):
		return "damaged"
	}
	return "medium"
}

// status says in words for an owner what the service does. It needs mu, or to be alone.
func (s *service) status() string {
	switch {
	case !s.told.On():
		return "Off."
	case s.problem == "disk-full":
		return "The disk is full, so nothing is confirmed."
	case s.problem != "":
		return "Nothing is confirmed: what was confirmed before can't be read or written."
	}
	return fmt.Sprintf("Logs that it watches for others: %d.", len(s.told.Logs))
}

func (s *service) getWitness(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	out := api.Witness{Config: s.told, Problem: s.problem, Logs: []api.WitnessLog{}}
	current := s.current.Load()
	made := s.made
	s.mu.Unlock()
	if current != nil {
		out.Running, out.Key, out.Made, out.Port = true, current.VerifierKey(), &made, s.port
		for _, l := range current.Logs() {
			log := api.WitnessLog{Origin: l.Origin, Size: l.Size, Split: l.Evidence > 0}
			if !l.At.IsZero() {
				at := l.At.UTC().Round(time.Second)
				log.At = &at
			}
			if l.Err != nil {
				log.Problem = cause(l.Err)
				out.Problem = log.Problem
			}
			out.Logs = append(out.Logs, log)
		}
		if out.Problem == "" && !s.sure.Load() {
			out.Problem = "clock"
		}
		out.Running = out.Problem == ""
	}
	daemon.WriteJSON(w, http.StatusOK, out)
}

func (s *service) putConfig(w http.ResponseWriter, r *http.Request) {
	var c api.WitnessConfig
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&c); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := check(c); err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Name != s.told.Name || !slices.Equal(c.Logs, s.told.Logs) {
		s.stop()
		s.told, s.problem = c, ""
		if c.On() {
			s.start()
		} else {
			s.env.Status(s.status())
		}
		s.again()
	}
	w.WriteHeader(http.StatusNoContent)
}

func check(c api.WitnessConfig) error {
	if !c.On() && len(c.Logs) == 0 {
		return nil
	}
	if !witness.CheckName(c.Name) || len(c.Logs) == 0 {
		return errors.New("a witness needs a name, and a log to watch")
	}
	for _, l := range c.Logs {
		if _, err := witness.CheckLog(l); err != nil {
			return fmt.Errorf("log %.120q: %w", l, err)
		}
	}
	return nil
}

func (s *service) again() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// postKey throws the key away, and with it the duty to what it signed. What that was, and proofs against logs, are kept beside.
func (s *service) postKey(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if err := s.putAway(); err != nil {
		s.log.Error("the old key could not be thrown away", "err", err)
		s.problem = cause(err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.problem = ""
	if s.told.On() {
		s.start()
	}
	w.WriteHeader(http.StatusNoContent)
}

// putAway moves the folder aside as a whole, so that no key ever stands without what it signed.
func (s *service) putAway() error {
	now, old := filepath.Join(s.env.StateDir, folder), filepath.Join(s.env.StateDir, before)
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(now, old); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(old, keyFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(syncDir(old), syncDir(s.env.StateDir))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ServeHTTP answers publishers.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if a := guests.Addr(r.RemoteAddr); !a.IsValid() || !s.guests.May(a) {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	current := s.current.Load()
	if current == nil {
		http.Error(w, "off", http.StatusServiceUnavailable)
		return
	}
	current.ServeHTTP(w, r)
}
