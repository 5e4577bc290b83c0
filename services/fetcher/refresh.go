package fetcher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/trust"
)

// Times that one source gets for its metadata.
const (
	sourceTime = 3 * time.Minute
	helloTime  = 4 * time.Second // a neighbour's first answer
	maxPeers   = 8
	minRate    = 16 << 10 // bytes a second: no request limits mirrors further
	maxBlobs   = 16
)

// cause is the word of api.UpdateCauses for an error.
func cause(err error) string {
	for _, c := range []struct {
		is   error
		word string
	}{
		{fetch.ErrNoSpace, "disk-full"},
		{trust.ErrSplitView, "split-view"},
		{trust.ErrRollback, "rollback"},
		{trust.ErrNotLogged, "not-logged"},
		{trust.ErrMetadata, "bad-metadata"},
		{fetch.ErrLied, "bad-metadata"},
		{fetch.ErrTooLarge, "bad-metadata"},
		{trust.ErrStale, "stale"},
		{fetch.ErrExhausted, "download"},
		{context.Canceled, "interrupted"},
		{fs.ErrPermission, "medium"},
	} {
		if errors.Is(err, c.is) {
			return c.word
		}
	}
	return "no-source"
}

// lock waits until no other work is done.
func (s *service) lock(ctx context.Context) error {
	select {
	case s.work <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *service) unlock() { <-s.work }

func (s *service) postRefresh(w http.ResponseWriter, r *http.Request) {
	var req RefreshRequest
	if !decode(w, r, &req) {
		return
	}
	if req.Root == nil {
		req.Root = s.cfg.Root
	}
	if len(req.Root) == 0 {
		problem(w, http.StatusConflict, "no-trust", errors.New("no root to begin with"))
		return
	}
	if !validPrefix(req.Prefix) || !validChannel(req.Channel) {
		problem(w, http.StatusUnprocessableEntity, "unknown", errors.New("no such prefix or channel"))
		return
	}
	ctx := r.Context()
	if err := s.lock(ctx); err != nil {
		return
	}
	defer s.unlock()
	f, err := s.follower(req)
	if err != nil {
		fail(w, err)
		return
	}
	list := s.open(ctx, sourceRequest{req.Mirrors, req.Internet, req.Sure, 0})
	defer closeAll(list)
	clock := trust.Clock{Built: s.cfg.Built, Now: req.Now, Sure: req.Sure}
	var res RefreshResult
	for _, src := range list {
		if ctx.Err() != nil {
			return
		}
		res.Sources = append(res.Sources, s.look(ctx, f, src.Source, clock, req))
	}
	daemon.WriteJSON(w, http.StatusOK, res)
}

// look asks one source for news.
func (s *service) look(ctx context.Context, f *fetch.Follower, src fetch.Source, clock trust.Clock, req RefreshRequest) SourceResult {
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	res := SourceResult{Kind: src.Kind(), Name: src.Name()}
	_, err := f.Follow(ctx, src, clock)
	if err == nil || errors.Is(err, trust.ErrStale) || errors.Is(err, trust.ErrRollback) {
		version, perr := fetch.Peek(ctx, src, f.Board, release.Channel(req.Channel))
		own := src.Kind() == fetch.KindFile || src.Kind() == fetch.KindUSB
		if own && err == nil && perr == nil && version == "" && req.Prefix == "" {
			res.Cause, res.Error = "wrong-board", "there is no release for "+f.Board
		}
		s.saw(src, version, err)
	} else {
		s.saw(src, "", err)
	}
	if errors.Is(err, trust.ErrRollback) && src.Kind() != fetch.KindMirror {
		// A neighbour, a stick or a file that is behind is no attack: it has nothing new. A mirror should not be.
		err = nil
	}
	if err != nil {
		res.Cause, res.Error = cause(err), err.Error()
		s.log.Warn("nothing taken from a source", "kind", src.Kind(), "name", src.Name(), "cause", res.Cause, "err", err)
	}
	return res
}

// saw notes what came of asking a source.
func (s *service) saw(src fetch.Source, version string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[key(src.Kind(), src.Name())]
	k.Kind, k.Name, k.Error = src.Kind(), src.Name(), ""
	if err != nil && (src.Kind() == fetch.KindMirror || !errors.Is(err, trust.ErrRollback)) {
		k.Error = err.Error()
	}
	if err == nil || cause(err) != "no-source" {
		now := time.Now().UTC().Round(time.Second)
		k.Seen, k.Version = &now, cmp.Or(version, k.Version)
	}
	s.learn(k)
}

// follower makes ready what keeps the metadata that a request is about. What is kept of somebody else than before, it removes.
func (s *service) follower(req RefreshRequest) (*fetch.Follower, error) {
	sum := sha256.Sum256(req.Root)
	fingerprint := hex.EncodeToString(sum[:])
	followed := map[string]string{} // fingerprints of first roots, by prefix
	if b, err := os.ReadFile(s.path("followed.json")); err == nil {
		json.Unmarshal(b, &followed)
	}
	dir := func(prefix, fingerprint string) string {
		return s.path("trust-" + strings.ReplaceAll(strings.Trim(prefix, "/"), "/", "-") + "-" + fingerprint)
	}
	if old := followed[req.Prefix]; old != fingerprint {
		if err := s.store.Forget(req.Prefix); err != nil {
			return nil, err
		}
		if release.IsHash(old) {
			os.RemoveAll(dir(req.Prefix, old))
		}
		followed[req.Prefix] = fingerprint
		if err := s.keep("followed.json", followed); err != nil {
			return nil, err
		}
	}
	o := trust.Options{Root: req.Root, Prefix: req.Prefix}
	place := dir(req.Prefix, fingerprint)
	client, err := trust.Open(place, o)
	if err != nil {
		// Not there, or damaged: what the fetcher remembers spares work, and the updater remembers for itself.
		if err := errors.Join(os.RemoveAll(place), os.MkdirAll(place, 0o700)); err != nil {
			return nil, err
		}
		if client, err = trust.Create(place, o); err != nil {
			return nil, fmt.Errorf("the root: %w", err)
		}
	}
	if client.Status().SplitView != nil {
		// The updater keeps the evidence and asks the owner. Here each source is judged anew.
		if err := client.ForgetSplitView(); err != nil {
			return nil, err
		}
	}
	return &fetch.Follower{
		Store: s.store, Client: client, Root: req.Root, Prefix: req.Prefix, Board: cmp.Or(req.Board, s.cfg.Board),
		Fresh: func() (fetch.Verifier, func(), error) {
			dir, err := os.MkdirTemp(s.env.StateDir, "fresh-")
			if err != nil {
				return nil, nil, err
			}
			end := func() { os.RemoveAll(dir) }
			c, err := trust.Create(dir, o)
			if err != nil {
				end()
				return nil, nil, err
			}
			return c, end, nil
		},
	}, nil
}

func validPrefix(p string) bool {
	if p == "" {
		return true
	}
	c, _ := fetch.Path(p + "metadata/timestamp.json")
	return c != fetch.ClassNone && strings.HasPrefix(p, "auditors/")
}

func validChannel(c string) bool {
	return c == "" || release.Channel(c) == release.Stable || release.Channel(c) == release.Beta
}

// sourceRequest says which sources may be asked, and how.
type sourceRequest struct {
	mirrors  []string
	internet bool
	sure     bool
	rate     int64
}

// opened is a source, and whether it is ours to close.
type opened struct {
	fetch.Source
	borrowed bool
}

func closeAll(list []opened) {
	for _, o := range list {
		if !o.borrowed {
			o.Close()
		}
	}
}

// open opens all sources, in the order in which they are preferred.
func (s *service) open(ctx context.Context, req sourceRequest) []opened {
	s.mu.Lock()
	var list []opened
	if s.upload != nil {
		list = append(list, opened{s.upload, true})
	}
	for _, st := range s.sticks {
		for _, src := range st.sources {
			list = append(list, opened{src, true})
		}
	}
	mirrors := s.mirrors(req.mirrors)
	s.mu.Unlock()
	for _, src := range s.neighbours(ctx) {
		list = append(list, opened{src, false})
	}
	if !req.internet {
		return list
	}
	o := fetch.HTTPOptions{Sure: req.sure}
	if req.rate > 0 {
		o.Limit = rate.NewLimiter(rate.Limit(max(req.rate, minRate)), 64<<10)
	}
	for _, m := range mirrors {
		src, err := fetch.OpenMirror(m, o)
		if err != nil {
			s.log.Warn("a mirror's address can't be used", "err", err)
			continue
		}
		list = append(list, opened{src, false})
	}
	return list
}

// neighbours asks discovery who shares, and returns those that answer.
func (s *service) neighbours(ctx context.Context) []fetch.Source {
	ctx, cancel := context.WithTimeout(ctx, 3*helloTime)
	defer cancel()
	var peers []api.Peer
	client := s.env.Client("discovery")
	defer client.CloseIdleConnections()
	if err := daemon.GetJSON(ctx, client, "http://discovery/v1/peers", &peers); err != nil {
		s.log.Info("no word on neighbours", "err", err)
		return nil
	}
	found := make([]fetch.Source, min(len(peers), maxPeers))
	var wg sync.WaitGroup
	for i := range found {
		wg.Go(func() { found[i] = hello(ctx, peers[i]) })
	}
	wg.Wait()
	var list []fetch.Source
	for i, src := range found {
		if src != nil {
			list = append(list, src)
			continue
		}
		s.mu.Lock()
		if k, ok := s.known[key(fetch.KindNeighbour, peers[i].Name)]; ok {
			k.Error = "it does not answer"
			s.learn(k)
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	for _, k := range s.known {
		if k.Kind != fetch.KindNeighbour {
			continue
		}
		here := false
		for _, p := range peers {
			here = here || p.Name == k.Name
		}
		if !here {
			s.forget(k.Kind, k.Name)
		}
	}
	s.mu.Unlock()
	return list
}

// hello finds an address of a neighbour that answers.
func hello(ctx context.Context, p api.Peer) fetch.Source {
	for _, a := range p.Addresses[:min(len(p.Addresses), 3)] {
		addr, err := netip.ParseAddrPort(a)
		if err != nil {
			continue
		}
		src, err := fetch.OpenNeighbour(p.Name, addr, fetch.HTTPOptions{})
		if err != nil {
			continue
		}
		hctx, cancel := context.WithTimeout(ctx, helloTime)
		_, err = src.Get(hctx, "croft-repository", 64)
		cancel()
		// One that has nothing yet has nothing to give.
		if err == nil {
			return src
		}
		src.Close()
	}
	return nil
}

func (s *service) postFetch(w http.ResponseWriter, r *http.Request) {
	var req FetchRequest
	if !decode(w, r, &req) {
		return
	}
	if len(req.Blobs) == 0 || len(req.Blobs) > maxBlobs {
		problem(w, http.StatusUnprocessableEntity, "unknown", fmt.Errorf("%d blobs", len(req.Blobs)))
		return
	}
	var wants []fetch.Want
	for _, b := range req.Blobs {
		wants = append(wants, fetch.Want(b))
	}
	ctx := r.Context()
	if err := s.lock(ctx); err != nil {
		return
	}
	defer s.unlock()
	list := s.open(ctx, sourceRequest{req.Mirrors, req.Internet, req.Sure, req.Rate})
	defer closeAll(list)
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	rc := http.NewResponseController(w)
	say := func(p Progress) {
		out.Encode(p)
		rc.Flush()
	}
	var last Progress
	job := fetch.Job{
		Store:   s.store,
		Sources: s.trusted(list),
		Progress: func(p fetch.Progress) {
			last = Progress{Done: p.Done, Total: p.Total}
			if p.Source != nil {
				last.Source, last.Name = p.Source.Kind(), p.Source.Name()
			}
			s.mu.Lock()
			now := last
			s.progress = &now
			s.mu.Unlock()
			say(last)
		},
		Bad: func(src fetch.Source, err error) {
			s.log.Warn("a source lied", "kind", src.Kind(), "name", src.Name(), "err", err)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.bad[key(src.Kind(), src.Name())] = time.Now()
			k := s.known[key(src.Kind(), src.Name())]
			k.Kind, k.Name, k.Error = src.Kind(), src.Name(), err.Error()
			s.learn(k)
		},
	}
	err := job.Fetch(ctx, wants)
	s.mu.Lock()
	s.progress = nil
	s.mu.Unlock()
	last.End = true
	if err != nil {
		last.Cause, last.Error = cmp.Or(fetchCause(err), "download"), err.Error()
		s.log.Warn("not all could be fetched", "cause", last.Cause, "err", err)
	}
	say(last)
}

// fetchCause is cause, for blobs: whatever sources do, it is the download that failed.
func fetchCause(err error) string {
	switch c := cause(err); {
	case errors.Is(err, fetch.ErrExhausted):
		return "download"
	case c == "disk-full", c == "interrupted":
		return c
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, os.ErrPermission):
		return "medium"
	}
	return "download"
}

// trusted leaves out sources that lied lately, unless somebody has brought them by hand.
func (s *service) trusted(list []opened) []fetch.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, at := range s.bad {
		if time.Since(at) > badKept {
			delete(s.bad, k)
		}
	}
	var out []fetch.Source
	for _, o := range list {
		_, lied := s.bad[key(o.Kind(), o.Name())]
		if lied && (o.Kind() == fetch.KindNeighbour || o.Kind() == fetch.KindMirror) {
			continue
		}
		out = append(out, o.Source)
	}
	fetch.Sort(out)
	return out
}
