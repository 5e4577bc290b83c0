package fetcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon/guests"
	"github.com/croft-os/croft/updater/fetch"
)

// Limits of what neighbours may use.
const (
	peerBytes = 32 << 20 // a second, for all of them
	peerPiece = 64 << 10
	peerStall = 30 * time.Second // a neighbour that takes nothing for so long is given up
	peerIdle  = 30 * time.Second
)

var peerLimits = guests.Limits{Conns: 48, ConnsEach: 6, Requests: 60, Burst: 600}

// neighbourhood serves the store to the LAN.
type neighbourhood struct {
	store *fetch.Store
	may   func(netip.Addr) bool // be served just now
	bytes *rate.Limiter
	*guests.Guests
}

func newNeighbourhood(store *fetch.Store, open func() bool, local func(netip.Addr) bool) *neighbourhood {
	may := func(a netip.Addr) bool { return local(a) && open() }
	return &neighbourhood{store: store, may: may, bytes: rate.NewLimiter(peerBytes, 1<<20), Guests: guests.New(peerLimits, may)}
}

// servePeers gives neighbours what is kept, while the owner shares: read-only, the paths of a repository and nothing else, to
// addresses of the own network only. It is plain HTTP: what is served is public, and whoever takes it verifies it.
func (s *service) servePeers(ctx context.Context, l net.Listener) {
	if err := s.around.serve(ctx, l); err != nil && ctx.Err() == nil {
		s.log.Error("neighbours are not served any more", "err", err)
	}
}

func (n *neighbourhood) serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           n,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       peerIdle,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	return srv.Serve(n.Listen(l))
}

func (n *neighbourhood) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	addr := guests.Addr(r.RemoteAddr)
	switch {
	case !addr.IsValid() || !n.may(addr):
		http.Error(w, "not shared", http.StatusForbidden)
		return
	case !n.May(addr):
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "read only", http.StatusMethodNotAllowed)
		return
	case r.Header.Get("Origin") != "" || strings.Count(r.Header.Get("Range"), ",") > 0:
		http.Error(w, "not for browsers; one range at a time", http.StatusForbidden)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	class, _ := fetch.Path(path)
	f, _, err := n.store.Open(path)
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, fetch.ErrNotFound) {
			status = http.StatusNotFound
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-cache")
	if class == fetch.ClassBlob || class == fetch.ClassDescription { // named by its hash
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Header().Set("ETag", `"`+path[strings.LastIndexByte(path, '/')+1:]+`"`)
	}
	http.ServeContent(&slowWriter{w, http.NewResponseController(w), r.Context(), n.bytes}, r, "", time.Time{}, f)
}

// slowWriter writes no faster than all neighbours together may read, and gives up on one that stops reading.
type slowWriter struct {
	http.ResponseWriter
	rc    *http.ResponseController
	ctx   context.Context
	limit *rate.Limiter
}

func (s *slowWriter) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		piece := p[n:min(n+peerPiece, len(p))]
		if err := s.limit.WaitN(s.ctx, len(piece)); err != nil {
			return n, err
		}
		s.rc.SetWriteDeadline(time.Now().Add(peerStall))
		m, err := s.ResponseWriter.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// tellDiscovery keeps discovery's word on whether this box shares in step with the settings, until ctx ends. Discovery may start
// later, or anew, and has forgotten it then.
func (s *service) tellDiscovery(ctx context.Context) {
	client := s.env.Client("discovery")
	told := false
	for {
		share := s.sharing()
		err := putShare(ctx, client, share)
		wait := 5 * time.Minute
		if err != nil {
			wait = 15 * time.Second
			if !told && ctx.Err() == nil {
				s.log.Info("discovery could not be told whether this box shares", "err", err)
			}
		}
		told = err != nil
		select {
		case <-ctx.Done():
			return
		case <-s.share:
		case <-time.After(wait):
		}
	}
}

func putShare(ctx context.Context, client *http.Client, share bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	b, err := json.Marshal(api.ShareRequest{Share: share})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://discovery/v1/share", bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("discovery says %s", resp.Status)
	}
	return nil
}
