package discovery

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/grandcat/zeroconf"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// Boxes that share releases with their LAN announce it, and are looked for when somebody asks.
const (
	shareService = "_croft-update._tcp"
	sharePort    = 7465

	browseTime = 3 * time.Second
	browseAge  = 20 * time.Second // an answer that is younger is given again
	maxPeers   = 32
	maxEach    = 8 // addresses of a peer
)

// browser looks for boxes that share. What it finds is what somebody on the LAN says.
type browser struct {
	log     *slog.Logger
	machine func(netip.Addr) bool // address of this machine

	mu    sync.Mutex // held while it looks
	found []api.Peer
	at    time.Time

	linksMu sync.Mutex
	links   []int // indexes of interfaces in use
}

// use says which interfaces are in use from now on.
func (b *browser) use(links map[int]int) {
	var list []int
	for index := range links {
		list = append(list, index)
	}
	slices.Sort(list)
	b.linksMu.Lock()
	defer b.linksMu.Unlock()
	b.links = list
}

// peers looks for a few seconds, unless somebody has just done so.
func (b *browser) peers(ctx context.Context) ([]api.Peer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.at.IsZero() && time.Since(b.at) < browseAge {
		return b.found, nil
	}
	b.linksMu.Lock()
	links := b.links
	b.linksMu.Unlock()
	if len(links) == 0 {
		return nil, nil
	}
	var ifaces []net.Interface
	for _, index := range links {
		ifaces = append(ifaces, net.Interface{Index: index})
	}
	zone := ""
	if len(links) == 1 {
		if i, err := net.InterfaceByIndex(links[0]); err == nil {
			zone = i.Name
		}
	}
	found, err := b.browse(ctx, ifaces, zone)
	if err != nil {
		return nil, err
	}
	b.found, b.at = found, time.Now()
	return found, nil
}

func (b *browser) browse(ctx context.Context, ifaces []net.Interface, zone string) ([]api.Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, browseTime)
	defer cancel()
	var resolver *zeroconf.Resolver
	var err error
	// A machine may lack one of the families.
	for _, families := range []zeroconf.IPType{zeroconf.IPv4AndIPv6, zeroconf.IPv4, zeroconf.IPv6} {
		if resolver, err = zeroconf.NewResolver(zeroconf.SelectIfaces(ifaces), zeroconf.SelectIPTraffic(families)); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", shareService, err)
	}
	entries := make(chan *zeroconf.ServiceEntry, 16)
	if err := resolver.Browse(ctx, shareService, "local", entries); err != nil {
		cancel()
		for range entries { // closed when it has ended
		}
		return nil, fmt.Errorf("look for %s: %w", shareService, err)
	}
	found := map[string]api.Peer{}
	for e := range entries { // until the time is over; zeroconf would wait for ever for who stops reading
		if p, ok := b.peer(e, zone); ok && (len(found) < maxPeers || found[p.Name].Name != "") {
			found[p.Name] = p
		}
	}
	list := make([]api.Peer, 0, len(found))
	for _, p := range found {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b api.Peer) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// peer is what an announcement says, as far as it may be passed on: addresses of the own network, with the one port that is for
// this, so that nobody makes us knock at other doors. zone is that of addresses of the link.
func (b *browser) peer(e *zeroconf.ServiceEntry, zone string) (api.Peer, bool) {
	p := api.Peer{Name: hostLabel(e.Instance)}
	if e.Port != sharePort {
		return p, false
	}
	for _, ip := range slices.Concat(e.AddrIPv4, e.AddrIPv6) {
		a, ok := netip.AddrFromSlice(ip)
		if !ok {
			continue
		}
		a = a.Unmap()
		if b.machine(a) {
			return p, false // ourselves
		}
		if !a.IsPrivate() && !a.IsLinkLocalUnicast() {
			continue
		}
		if a.Is6() && a.IsLinkLocalUnicast() {
			if zone == "" {
				continue
			}
			a = a.WithZone(zone)
		}
		if s := net.JoinHostPort(a.String(), strconv.Itoa(sharePort)); len(p.Addresses) < maxEach && !slices.Contains(p.Addresses, s) {
			p.Addresses = append(p.Addresses, s)
		}
	}
	return p, len(p.Addresses) > 0
}

func (s *service) getPeers(w http.ResponseWriter, r *http.Request) {
	list, err := s.browser.peers(r.Context())
	if err != nil {
		s.log.Warn("can't look for neighbours", "err", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if list == nil {
		list = []api.Peer{}
	}
	daemon.WriteJSON(w, http.StatusOK, list)
}

// putShare says whether this box is to be announced as one that shares. It is not kept: who shares says so again.
func (s *service) putShare(w http.ResponseWriter, r *http.Request) {
	var req api.ShareRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&req); err != nil {
		http.Error(w, "no api.ShareRequest", http.StatusBadRequest)
		return
	}
	select {
	case s.shares <- req.Share:
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}
