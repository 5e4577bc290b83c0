// Package discovery makes the box found on the LAN: it answers to croft.local, and announces what the box serves.
//
// The host name is kept by a Multicast DNS responder of our own (RFC 6762): it probes with simultaneous tie-break
// (8.1, 8.2), announces (8.3, 8.4), defends, takes the next name on a conflict (9), says goodbye (10.1) when it
// stops, loses an address or a name, answers by multicast, unicast and to one-shot askers (5.4, 5.5, 6, 6.7),
// suppresses known answers (7.1), denies types that do not exist (6.1) and maps addresses back to the name. Each
// family on each interface is a path by itself, which comes and goes with its addresses. A name taken after a
// conflict is not remembered: the next start tries the wanted one again. Not implemented: waiting for the rest of a
// truncated question (7.2), duplicate suppression (7.3, 7.4), and probing for the reverse names, which are therefore
// not marked as unique. A name that the owner replaced is answered for half an hour longer, as said at formerName; a
// restart forgets it.
//
// Services are announced with DNS-SD (RFC 6763) by github.com/grandcat/zeroconf, which neither probes nor answers
// questions about hosts: _http._tcp, _https._tcp and _croft._tcp, named like the host, whose name has been probed. It
// starts only when the name is ours. A service of that very name on another host, announced by something that is no
// Croft, would go unnoticed. Its limits are worked around as said at services and link; it answers one-shot questions
// about services only when they ask for unicast. It limits no rates: each of the up to 230 questions that fit into a
// packet gets an answer of its own, in both families, some fifty times as many bytes as were asked with. What that
// costs the box is bounded by the service's share of the processor.
//
// Boxes that share releases with their LAN announce _croft-update._tcp, and others are looked for when somebody asks (GET
// /v1/peers), for a few seconds. What is found is unverified, and only addresses of the own network are passed on.
//
// The process needs no privilege: UDP sockets on port 5353, shared with other programs, and netlink for reading.
package discovery

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// Config is what the service cannot know by itself.
type Config struct {
	Peers   []uint32 // uids that may ask for the status
	Setters []uint32 // those of them that may change the name
	Sharers []uint32 // those of them that may say whether the box shares releases, and ask who else does
	ID      string   // of the box, announced; may be empty
	Version string   // running release, announced
}

// Run runs the service until ctx ends. On the listener "discovery" it answers GET /v1/discovery, and PUT
// /v1/discovery/name with an api.NameRequest: the box takes another name, and answers to the one it had a while longer; PUT
// /v1/share with an api.ShareRequest, and GET /v1/peers, which takes seconds: a list of api.Peer.
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	hostname, err := os.Hostname()
	if err != nil {
		env.Log.Warn("no host name", "err", err)
	}
	s := &service{
		env:      env,
		log:      env.Log,
		sockets:  newSockets(env.Log),
		services: newServices(env.Log, cfg.ID, cfg.Version),
		pings:    make(chan chan struct{}),
		again:    make(chan struct{}, 1),
		names:    make(chan string),
		shares:   make(chan bool),
		browser:  &browser{log: env.Log, machine: onMachine},
	}
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	s.responder = newResponder(hostLabel(hostname), env.Log, random, onMachine, s.sockets.send)
	s.publish()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	ifaces := make(chan []iface)
	go func() { ended <- watchLinks(ctx, env.Log, ifaces, s.again) }()
	if l := env.Listeners["discovery"]; l != nil {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/discovery", func(w http.ResponseWriter, _ *http.Request) {
			daemon.WriteJSON(w, http.StatusOK, s.status.Load())
		})
		mux.HandleFunc("PUT /v1/discovery/name", daemon.OnlyPeers(s.putName, cfg.Setters...))
		mux.HandleFunc("PUT /v1/share", daemon.OnlyPeers(s.putShare, cfg.Sharers...))
		mux.HandleFunc("GET /v1/peers", daemon.OnlyPeers(s.getPeers, cfg.Sharers...))
		go func() {
			if err := daemon.Serve(ctx, daemon.AllowPeers(l, env.Log, cfg.Peers...), mux); err != nil {
				ended <- fmt.Errorf("answer on the status socket: %w", err)
			}
		}()
	}
	goodbyes := make(chan struct{})
	go func() {
		defer close(goodbyes)
		s.services.run(ctx)
	}()
	go env.Watch(ctx, s.healthy)

	err = s.loop(ctx, ifaces, ended)
	cancel()
	select {
	case <-goodbyes:
	case <-time.After(2 * time.Second):
	}
	s.responder.stop()
	s.sockets.close()
	return err
}

type service struct {
	env       *daemon.Env
	log       *slog.Logger
	responder *responder
	sockets   *sockets
	services  *services
	pings     chan chan struct{}
	again     chan struct{} // asks for another look at the interfaces
	names     chan string   // asks for another name
	shares    chan bool     // says whether the box shares
	browser   *browser
	status    atomic.Pointer[api.Discovery]
	ready     bool
	share     bool   // the box shares
	last      target // what services was told
}

// loop feeds the responder.
func (s *service) loop(ctx context.Context, ifaces <-chan []iface, ended <-chan error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case now := <-ifaces:
			open, err := s.sockets.sync(now)
			if err != nil {
				s.log.Warn("can't use part of the network yet; trying again", "err", err)
				time.AfterFunc(5*time.Second, s.lookAgain)
			}
			s.responder.setLinks(time.Now(), now, open)
			if !s.ready {
				s.ready = true
				s.env.Ready(sentence(s.responder.status()))
			}
		case p := <-s.sockets.in:
			s.responder.receive(time.Now(), p)
		case <-timer.C:
		case reply := <-s.pings:
			close(reply)
		case s.share = <-s.shares:
		case name := <-s.names:
			s.responder.want(time.Now(), name)
		}
		s.responder.tick(time.Now())
		s.publish()
		if next := s.responder.next(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

func (s *service) putName(w http.ResponseWriter, r *http.Request) {
	var req api.NameRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&req)
	if name := strings.ToLower(req.Name); err != nil || hostLabel(name) != name {
		http.Error(w, "not one label of a host name", http.StatusUnprocessableEntity)
		return
	}
	select {
	case s.names <- strings.ToLower(req.Name):
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}

func (s *service) lookAgain() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// publish tells others what changed.
func (s *service) publish() {
	now := s.responder.status()
	if old := s.status.Load(); old != nil {
		now.Since = old.Since
		if reflect.DeepEqual(now, *old) {
			s.announce()
			return
		}
	}
	now.Since = time.Now().UTC()
	s.status.Store(&now)
	if s.ready {
		s.env.Status(sentence(now))
	}
	s.announce()
}

// announce keeps DNS-SD in step with the host name. While we merely ask again whose name it is, it stays as it is.
func (s *service) announce() {
	t := target{name: s.responder.name, links: s.responder.serving(), share: s.share}
	if len(t.links) > 0 {
		s.browser.use(t.links)
	}
	if t.name == s.last.name && t.share == s.last.share && (len(t.links) == 0 || s.last.covers(t)) {
		return
	}
	s.last = t
	s.services.set(t)
}

// healthy reports whether the loop still turns.
func (s *service) healthy(ctx context.Context) error {
	reply := make(chan struct{})
	select {
	case s.pings <- reply:
	case <-ctx.Done():
		return fmt.Errorf("no answer from the responder: %w", ctx.Err())
	}
	<-reply
	return nil
}

// onMachine reports whether an interface of this machine has that address.
func onMachine(addr netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap() == addr
	})
}

// sentence is a status in words for an owner.
func sentence(d api.Discovery) string {
	switch {
	case d.State == "no-network":
		return "Waiting for a network."
	case d.State == "probing":
		return fmt.Sprintf("Asking whether %s.local is free.", d.Name)
	case d.Conflict != "":
		return d.Conflict
	default:
		return fmt.Sprintf("Reached at %s.local.", d.Name)
	}
}

// hostLabel makes a host name (hostname(7)) the one label that Multicast DNS wants: lower-case letters, digits and
// hyphens, at most 63 bytes.
func hostLabel(hostname string) string {
	label, _, _ := strings.Cut(strings.ToLower(hostname), ".")
	label = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, label)
	label = strings.Trim(label[:min(len(label), 63)], "-")
	if label == "" || label == "localhost" || hostname == "(none)" { // which is Linux's own name for no name
		return "croft"
	}
	return label
}
