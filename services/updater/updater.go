// Package updater is the process that changes the release: it decides by itself which release may be believed (updater/trust over
// a store of its own), writes it to the slot that does not run, has PID 1 start that slot once, and keeps it only once it has
// proved itself.
//
// On its socket, which core alone may use:
//
//	GET  /v1/updates          the state, as api.Updates
//	GET  /v1/updates/history  []api.UpdateAttempt, newest first, at most 200
//	GET  /v1/updates/stream   server-sent events "updates", an api.Updates each: now and after each change
//	POST /v1/action           an api.UpdateAction; 202, and 409 where it does not fit the state
//	PUT  /v1/policy           an api.UpdateSettings; 204, and 422 where it is wrong
//	PUT  /v1/trust            an api.TrustRequest whose password core has checked; 204, and 422 where it is wrong
//	POST /v1/busy             an api.UpdateBusy: no restart for so long, at most two hours; 204
//
// An owner's "install" goes all the way: download, write, check, and the restart as soon as nothing holds it off; "tonight" the
// same with the restart in the owner's window. By itself the box does as much as "tonight" in mode "auto"; in "ask" and "stay" it
// only tells. "restart" goes into what is ready at once, "cancel" stops all but the restart and the trial, "back" starts the other
// slot's complete release with the same trial. A change of trust stops what "cancel" could stop; it is also the owner's word that
// a log which contradicted itself was looked at.
//
// What is remembered is advice: a start asks PID 1 what the slots are and goes on from there. Every file in the state directory is
// replaced as a whole and is on the medium before the step that it announces: settings.json (the owner's will), slots.json (what
// was written to each slot), pending.json (the change under way), history.json, state.json, and trust/, a store for each root that
// was ever trusted, so that nothing older can be played back when the owner returns to it.
//
// Limits: releases of one publisher are compared by number; a release of another publisher than the running one's is only
// installed by the owner's action, whatever its number. The fetcher, PID 1 and the network service are asked with limits on time and
// size, and nothing that the fetcher says is believed. One change at a time. A power cut between PID 1's note of a trial and the
// first sign of life of the new release can't be told from a release that does not start, and counts as that.
//
// In the rescue system (api.Slots.Rescue) only a person does anything: the newest release is offered whatever its number, and is
// written to the slot that is not to be left alone.
//
// Formats: docs/release-format.md. Order of writes: package updater/slots.
package updater

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "time/tzdata" // the box has no zones of its own

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/daemon/devices"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// Files of the image.
const (
	releaseFile   = "release.json"
	publisherFile = "publisher.json"
	rootFile      = "root.json"
)

// Config is what the process is told at start.
type Config struct {
	Peers []uint32 // uids that may use the socket, beside root
	Etc   string   // folder of the image's release.json, publisher.json and root.json; "" means /etc/croft
}

// Publisher is publisher.json: who makes the releases of an image.
type Publisher struct {
	Name    string   `json:"name"`
	Mirrors []string `json:"mirrors"`
}

// Run runs the service until ctx ends.
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	l := env.Listeners["updater"]
	if l == nil {
		return fmt.Errorf("%w: no listener \"updater\" was passed", daemon.ErrConfig)
	}
	if env.StateDir == "" {
		return fmt.Errorf("%w: no state directory", daemon.ErrConfig)
	}
	dial := devices.Socket(env.SocketDir)
	e, err := newEngine(env, cfg.Etc)
	if err != nil {
		return err
	}
	e.open = func(ctx context.Context, s api.Slots) (*medium, error) { return openMedium(ctx, dial, s) }
	if err := e.load(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { e.run(ctx) })
	wg.Go(func() { e.tellFetcher(ctx) })
	wg.Go(func() { e.watchFetcher(ctx) })
	wg.Go(func() { e.helpNeighbours(ctx) })
	wg.Go(func() { env.Watch(ctx, e.alive) })
	env.Ready("running")
	return daemon.Serve(ctx, daemon.AllowPeers(l, env.Log, cfg.Peers...), e.handler())
}

// alive checks that nobody keeps the state for good.
func (e *engine) alive(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return nil
}

func newEngine(env *daemon.Env, etc string) (*engine, error) {
	e := &engine{
		log: env.Log, files: files{dir: env.StateDir}, started: time.Now(), status: env.Status, jitter: rand.Float64,
		init: env.Client("init"), net: env.Client("network"), core: env.Client("core"), fetch: fetcher.NewClient(env.Client("fetcher")),
		recs: map[string]slotRecord{}, leases: map[string]time.Time{}, subs: map[chan struct{}]bool{}, state: api.UpdateIdle,
		wake: make(chan struct{}, 1), tell: make(chan struct{}, 1),
	}
	var err error
	if e.boot, err = bootID(env.RuntimeDir); err != nil {
		return nil, err
	}
	i, err := ReadEtc(etc)
	if err != nil {
		return nil, err
	}
	e.release = i.Release
	if i.Root != nil {
		e.builtin = &builtin{name: i.Publisher.Name, root: i.Root, fingerprint: fingerprint(i.Root)}
	}
	return e, nil
}

// Etc is what an image says of its release and of whom it follows.
type Etc struct {
	Release   api.Release
	Publisher Publisher
	Root      []byte // first root; nil: it follows nobody
}

// ReadEtc reads it from a folder, "" for /etc/croft.
func ReadEtc(dir string) (Etc, error) {
	dir = cmp.Or(dir, "/etc/croft")
	var e Etc
	if err := readJSON(filepath.Join(dir, releaseFile), &e.Release); err != nil {
		return e, err
	}
	root, err := os.ReadFile(filepath.Join(dir, rootFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e, nil
	case err != nil:
		return e, err
	case len(root) > release.MaxRoot:
		return e, fmt.Errorf("%w: %s has %d bytes", daemon.ErrConfig, rootFile, len(root))
	}
	e.Root = root
	if err := readJSON(filepath.Join(dir, publisherFile), &e.Publisher); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	return e, nil
}

// load reads the state directory. What can't be read is begun anew, for the slots say what matters; but without the owner's
// will nobody is followed.
func (e *engine) load() error {
	for name, v := range map[string]any{slotsFile: &e.recs, pendingFile: &e.pend, historyFile: &e.hist, stateFile: &e.rem} {
		err := e.files.load(name, v)
		if _, bad := errors.AsType[*json.SyntaxError](err); bad {
			e.log.Error("a file of the state is begun anew", "err", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	if e.recs == nil {
		e.recs = map[string]slotRecord{}
	}
	if err := e.files.load(settingsFile, &e.set); err != nil {
		e.log.Error("the owner's will can't be read", "err", err)
		e.set = settings{Lost: true}
	}
	f, err := e.openFollowed(e.set)
	if err != nil {
		e.log.Error("whom the box follows can't be found out", "err", err)
		e.unopened = err
		f = followed{}
	}
	e.useFollowed(f)
	return nil
}

// openMedium opens what the box started from, through PID 1.
func openMedium(ctx context.Context, dial devices.Dialer, s api.Slots) (*medium, error) {
	var opened []*devices.Device
	m := &medium{Close: func() {
		for _, d := range opened {
			d.Close()
		}
	}}
	m.Medium = &slots.Medium{Table: layout.Table(s.Table), Running: layout.Slot(s.Running), RootID: map[layout.Slot]string{}}
	m.Rescue = s.Rescue && s.Committed == "" // then no slot starts, so none can be spoilt
	for slot, id := range s.RootIDs {
		m.RootID[layout.Slot(slot)] = id
	}
	wanted := map[string]*slots.Device{api.DeviceFirst: &m.First, api.DeviceRoot: &m.Root}
	if m.Table == layout.MBR {
		wanted[api.DeviceBoot] = &m.Boot
	}
	if !s.Trial { // else the other slot is the one to go back to, and PID 1 opens it for nobody
		wanted[api.DeviceRootIdle] = &m.RootIdle
		if m.Table == layout.MBR {
			wanted[api.DeviceBootIdle] = &m.BootIdle
		}
	}
	for name, to := range wanted {
		d, err := devices.Open(ctx, dial, name)
		if err != nil {
			m.Close()
			return nil, err
		}
		opened = append(opened, d)
		*to = d
	}
	return m, nil
}
