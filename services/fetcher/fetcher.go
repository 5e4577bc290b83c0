// Package fetcher is the service that gets what updates consist of: metadata, descriptions and blobs, from mirrors, from
// neighbours on the LAN, from USB sticks and from uploaded files, and gives what it has to neighbours.
//
// It is the only part of updating that speaks to strangers, and nothing that it says is believed: it can't write to slots, and
// the updater, which can, has no network, reads the files here through a unix socket and verifies each of them by itself. The
// worst that a taken-over fetcher can do is to bring nothing. It verifies for itself, too (updater/fetch, updater/trust), so that no
// liar fills the medium or hides what others have, and so that neighbours get nothing but what is signed.
//
// Limits: it looks for sticks every few seconds; it knows the file systems FAT and exFAT only; the newest version that a source shows in State
// is what that source says.
package fetcher

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/updater/fetch"
)

// Limits of what is kept and taken.
const (
	MaxUpload     = 400 << 20   // bytes of a bundle
	defaultBudget = 512 << 20   // bytes of the store; an upload comes on top
	roomEvery     = time.Minute // between looks whether there is room again
	maxMirrors    = 8
	maxBody       = 4 << 20 // bytes of a request other than an upload: it may carry a root, and the hashes of all frames
	uploadKept    = 7 * 24 * time.Hour
	badKept       = time.Hour // how long a source that lied is not asked for blobs
)

// Config is what the service cannot know by itself.
type Config struct {
	Updater uint32 // uid that may use all of the socket
	Core    uint32 // uid that may upload and see the sources

	Board     string    // family of boards of this box
	Publisher string    // name of who makes the image's releases; may be empty
	Mirrors   []string  // built-in mirrors
	Root      []byte    // built-in first root; nil: none
	Built     time.Time // when the running system was built
	Budget    int64     // bytes for all that is kept of repositories; 0: 512 MiB
}

// service is the fetcher.
type service struct {
	env   *daemon.Env
	cfg   Config
	log   *slog.Logger
	store *fetch.Store
	work  chan struct{} // held by a refresh or a fetch: one at a time
	share chan struct{} // wakes who tells discovery

	around *neighbourhood // nil without a listener

	mu       sync.Mutex
	revision int64
	changed  chan struct{} // closed and replaced when revision changes
	settings Settings
	known    map[string]api.UpdateSource // by kind and name: what was last seen
	bad      map[string]time.Time        // likewise: who lied, and when
	sticks   map[string]*stick           // by the device's name
	upload   fetch.Source                // nil without one
	progress *Progress
}

// Run runs the service until ctx ends. It answers on the listener "fetcher", and neighbours on the listener "peers".
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	l := env.Listeners["fetcher"]
	if l == nil || env.StateDir == "" {
		return fmt.Errorf("%w: the listener \"fetcher\" and a state directory are needed", daemon.ErrConfig)
	}
	store, err := openStore(ctx, env, cmp.Or(cfg.Budget, defaultBudget))
	if store == nil {
		return err
	}
	defer store.Close()
	s := &service{
		env: env, cfg: cfg, log: env.Log, store: store,
		work: make(chan struct{}, 1), share: make(chan struct{}, 1), changed: make(chan struct{}),
		known: map[string]api.UpdateSource{}, bad: map[string]time.Time{}, sticks: map[string]*stick{},
	}
	if err := s.load(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.watchSticks(ctx) })
	wg.Go(func() { s.tellDiscovery(ctx) })
	if p := env.Listeners["peers"]; p != nil {
		s.around = newNeighbourhood(store, s.sharing, fetch.IsLocal)
		wg.Go(func() { s.servePeers(ctx, p) })
	}
	wg.Go(func() { env.Watch(ctx, func(context.Context) error { return nil }) })
	env.Ready("Brings updates when they are asked for.")
	return daemon.Serve(ctx, daemon.AllowPeers(l, env.Log, cfg.Updater, cfg.Core), s.handler())
}

// openStore opens the store, once there is room for it: a full disk is nothing that a restart mends. Both results are nil where ctx
// ended.
func openStore(ctx context.Context, env *daemon.Env, budget int64) (*fetch.Store, error) {
	watched, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for try := 0; ; try++ {
		store, err := fetch.OpenStore(filepath.Join(env.StateDir, "store"), budget)
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && !errors.Is(err, fetch.ErrNoSpace) {
			return store, err
		}
		if try == 0 {
			env.Log.Warn("there is no room to keep updates in", "err", err)
			wg.Go(func() { env.Watch(watched, func(context.Context) error { return nil }) })
			env.Ready("The disk is full, so there is no room for updates.")
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(roomEvery):
		}
	}
}

// handler is the socket's API.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	updater := func(pattern string, h http.HandlerFunc) { mux.HandleFunc(pattern, daemon.OnlyPeers(h, s.cfg.Updater)) }
	both := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, daemon.OnlyPeers(h, s.cfg.Updater, s.cfg.Core))
	}
	updater("POST /v1/refresh", s.postRefresh)
	updater("POST /v1/fetch", s.postFetch)
	updater("POST /v1/frames", s.postFrames)
	updater("GET /v1/repo/{path...}", s.getRepo)
	updater("GET /v1/state", s.getState)
	updater("POST /v1/probe", s.postProbe)
	updater("PUT /v1/settings", s.putSettings)
	both("PUT /v1/upload", s.putUpload)
	both("DELETE /v1/upload", s.deleteUpload)
	both("GET /v1/sources", s.getSources)
	return mux
}

func (s *service) path(name string) string { return filepath.Join(s.env.StateDir, name) }

// load reads what was kept. A file that is damaged counts as missing: the updater tells the settings again.
func (s *service) load() error {
	if b, err := os.ReadFile(s.path("settings.json")); err == nil {
		if json.Unmarshal(b, &s.settings) != nil {
			s.settings = Settings{}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	os.Remove(s.path(uploadNew))
	s.openUpload()
	return nil
}

// keep writes a small file, durably.
func (s *service) keep(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return renameio.WriteFile(s.path(name), b, 0o600)
}

// touch says that the state has changed. It needs s.mu.
func (s *service) touch() {
	s.revision++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *service) getState(w http.ResponseWriter, r *http.Request) {
	var after int64 = -1
	if q := r.URL.Query().Get("after"); q != "" {
		if _, err := fmt.Sscan(q, &after); err != nil {
			http.Error(w, "after is no number", http.StatusBadRequest)
			return
		}
	}
	s.mu.Lock()
	for patience := time.After(30 * time.Second); s.revision == after; {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-patience:
			after = -1
		case <-r.Context().Done():
			return
		}
		s.mu.Lock()
	}
	st := State{Revision: s.revision, Sources: s.sources(), Sharing: s.settings.Share, Progress: s.progress}
	if s.upload != nil {
		st.Upload = s.upload.Name()
	}
	s.mu.Unlock()
	var err error
	if st.Used, st.Budget, err = s.store.Used(); err != nil {
		s.log.Warn("can't measure the store", "err", err)
	}
	daemon.WriteJSON(w, http.StatusOK, st)
}

func (s *service) getSources(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	list := s.sources()
	s.mu.Unlock()
	daemon.WriteJSON(w, http.StatusOK, list)
}

// sources lists what is known of sources, in the order in which they are preferred. It needs s.mu.
func (s *service) sources() []api.UpdateSource {
	list := []api.UpdateSource{}
	order := []string{fetch.KindFile, fetch.KindUSB, fetch.KindNeighbour, fetch.KindMirror}
	for _, m := range s.mirrors(nil) {
		if _, ok := s.known[key(fetch.KindMirror, m)]; !ok {
			list = append(list, api.UpdateSource{Kind: fetch.KindMirror, Name: m})
		}
	}
	for _, k := range s.known {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b api.UpdateSource) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return list
}

func key(kind, name string) string { return kind + " " + name }

// learn notes what was seen of a source; forget that it is gone. Both need s.mu.
func (s *service) learn(k api.UpdateSource) {
	old := s.known[key(k.Kind, k.Name)]
	s.known[key(k.Kind, k.Name)] = k
	if old.Version != k.Version || old.Error != k.Error || old.Cause != k.Cause || (old.Seen == nil) != (k.Seen == nil) || old.Kind == "" {
		s.touch()
	}
}

func (s *service) forget(kind, name string) {
	if _, ok := s.known[key(kind, name)]; ok {
		delete(s.known, key(kind, name))
		s.touch()
	}
}

// mirrors are the ones to ask: those of a request, else of the settings, else the built-in ones. It needs s.mu.
func (s *service) mirrors(asked []string) []string {
	for _, list := range [][]string{asked, s.settings.Mirrors} {
		if len(list) > 0 {
			return list[:min(len(list), maxMirrors)]
		}
	}
	return s.cfg.Mirrors[:min(len(s.cfg.Mirrors), maxMirrors)]
}

func (s *service) putSettings(w http.ResponseWriter, r *http.Request) {
	var set Settings
	if !decode(w, r, &set) {
		return
	}
	if len(set.Mirrors) > maxMirrors {
		problem(w, http.StatusUnprocessableEntity, "unknown", fmt.Errorf("%d mirrors, at most %d", len(set.Mirrors), maxMirrors))
		return
	}
	for _, m := range set.Mirrors {
		if _, err := fetch.CheckMirror(m); err != nil {
			problem(w, http.StatusUnprocessableEntity, "unknown", err)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.settings.Mirrors, set.Mirrors) && s.settings.Share == set.Share {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err := s.keep("settings.json", set); err != nil {
		fail(w, err)
		return
	}
	s.settings = set
	for k, v := range s.known {
		if v.Kind == fetch.KindMirror {
			delete(s.known, k)
		}
	}
	s.touch()
	if !set.Share && s.around != nil {
		s.around.CloseAll()
	}
	select {
	case s.share <- struct{}{}:
	default:
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *service) sharing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings.Share
}

// getRepo gives a file of what is kept, as it is, right or wrong.
func (s *service) getRepo(w http.ResponseWriter, r *http.Request) {
	f, _, err := s.store.Open(r.PathValue("path"))
	if err != nil {
		fail(w, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
}

// decode reads a request's JSON.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v)
	if err != nil {
		problem(w, http.StatusBadRequest, "unknown", fmt.Errorf("the request: %w", err))
	}
	return err == nil
}

func problem(w http.ResponseWriter, status int, cause string, err error) {
	daemon.WriteJSON(w, status, Problem{Cause: cause, Error: err.Error()})
}

// fail answers with an error and what it means.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, fetch.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, fetch.ErrNoSpace):
		status = http.StatusInsufficientStorage
	}
	problem(w, status, cause(err), err)
}
