// Package network is the process that keeps the box's addresses, routes, name servers and clock: it runs
// hardware/network and hardware/clock and answers for both on its unix socket.
//
//	GET /v1/network         the state, as api.Network
//	PUT /v1/network/config  replaces the owner's configuration, an api.NetConfig, and ends a trial
//	PUT /v1/network/trial   uses a configuration for api.TrialTime, or until the process ends, and then the one before
//	POST /v1/network/keep   keeps the one that is tried; 409 without one
//	DELETE /v1/network/trial  ends a trial at once
//	PUT /v1/network/name    tells DHCP servers another host name, an api.NameRequest, from the next request on
//
// Changes are answered with 204, or 403 to who may only ask. A refused configuration is answered with an api.Problem whose detail begins with the path of the wrong field; the
// one before stays. State directory: config.json, leases.json, clock.json. Runtime directory: resolv.conf, to which
// /etc/resolv.conf is a link.
package network

import (
	"cmp"
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
	"time"

	"github.com/croft-os/croft/hardware/clock/discipline"
	hwnet "github.com/croft-os/croft/hardware/network"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

const (
	releaseFile  = "/etc/croft/release.json"
	dnsTimeout   = 3 * time.Second
	dnsPort      = "53"
	onlineSettle = time.Second // between an address and the first question to time servers
)

// defaultNTP are asked when the owner named no servers, beside the one that DHCP names. None of them smears leap
// seconds; they are run by different people.
var defaultNTP = []string{"2.pool.ntp.org", "0.pool.ntp.org", "1.pool.ntp.org", "3.pool.ntp.org", "time.cloudflare.com"}

// notBefore is the earliest build whose time is believed when the release does not say.
var notBefore = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// Config is what the process is told at start.
type Config struct {
	Peers   []uint32          // uids that may ask, beside root
	Setters []uint32          // those of them that may change the configuration
	Clock   discipline.Kernel // nil means the machine's
	Trial   time.Duration     // how long a configuration is tried; 0 means api.TrialTime
}

// service is one run.
type service struct {
	log    *slog.Logger
	dir    string // state directory; "" for none
	net    *hwnet.Manager
	clock  *discipline.Clock
	status func(string)
	tryFor time.Duration

	put    sync.Mutex // one change at a time
	mu     sync.Mutex // never held while the manager's loop is waited for
	host   string     // name that DHCP servers are told
	config api.NetConfig
	trial  *trial // nil while none is tried
	online bool
	dns    []netip.Addr
}

// Run runs the service until ctx ends.
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	l := env.Listeners["network"]
	if l == nil {
		return fmt.Errorf("%w: no listener \"network\" was passed", daemon.ErrConfig)
	}
	kernel, err := hwnet.NewKernel()
	if err != nil {
		return err
	}
	s := &service{log: env.Log, dir: env.StateDir, status: env.Status, host: hostname(), tryFor: cmp.Or(cfg.Trial, api.TrialTime)}
	s.config = s.load()
	in := func(dir, name string) string {
		if dir == "" {
			return ""
		}
		return filepath.Join(dir, name)
	}
	s.net = hwnet.New(kernel, hwnet.Options{
		Log: env.Log, Config: toHardware(s.config), Hostname: s.hostname,
		Resolv: in(env.RuntimeDir, "resolv.conf"), Leases: in(env.StateDir, "leases.json"), Changed: s.changed,
	})
	if cfg.Clock == nil {
		cfg.Clock = discipline.NewKernel()
	}
	s.clock = discipline.New(discipline.Options{
		Log: env.Log, Kernel: cfg.Clock, Build: built(releaseFile), File: in(env.StateDir, "clock.json"),
		Servers: s.ntpServers, Resolve: s.lookup,
	})

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	failed := make(chan error, 2)
	wg.Go(func() { failed <- s.net.Run(ctx) })
	select {
	case <-s.net.Ready():
	case err := <-failed:
		return err
	}
	wg.Go(func() {
		if err := s.clock.Run(ctx); ctx.Err() == nil {
			failed <- err
		}
	})
	wg.Go(func() { env.Watch(ctx, s.healthy) })
	served := make(chan error, 1)
	wg.Go(func() {
		served <- daemon.Serve(ctx, daemon.AllowPeers(l, env.Log, cfg.Peers...), s.handler(cfg.Setters...))
	})
	env.Ready(statusLine(s.net.Status()))
	select {
	case err := <-failed:
		return err
	case err := <-served:
		return err
	}
}

// healthy asks whether the manager's loop still turns, and applies what an earlier change could not.
func (s *service) healthy(ctx context.Context) error {
	s.put.Lock()
	defer s.put.Unlock()
	return s.apply(ctx)
}

// apply uses the configuration that counts now.
func (s *service) apply(ctx context.Context) error {
	return s.net.Configure(ctx, toHardware(s.current()))
}

// current is the configuration that counts now.
func (s *service) current() api.NetConfig {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trial != nil {
		return s.trial.config
	}
	return s.config
}

func (s *service) hostname() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host
}

// changed tells the supervisor, and the clock once the network came up. It runs in the manager's loop.
func (s *service) changed(st hwnet.Status) {
	s.mu.Lock()
	came := st.Online() && (!s.online || !slices.Equal(st.DNS, s.dns))
	s.online, s.dns = st.Online(), st.DNS
	s.mu.Unlock()
	if came && s.clock != nil {
		time.AfterFunc(onlineSettle, s.clock.Poke)
	}
	s.status(statusLine(st))
}

func statusLine(st hwnet.Status) string {
	for _, i := range st.Interfaces {
		for _, a := range i.Addresses {
			if i.Carrier && a.Addr().Is4() {
				return "connected as " + a.Addr().String()
			}
		}
	}
	return "waiting for an address"
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil || h == "localhost" || h == "(none)" {
		return "croft"
	}
	return h
}

// built is the time of the running release.
func built(path string) time.Time {
	var r struct {
		Built int64 `json:"built"`
	}
	b, err := os.ReadFile(path)
	if err == nil && json.Unmarshal(b, &r) == nil && time.Unix(r.Built, 0).After(notBefore) {
		return time.Unix(r.Built, 0)
	}
	return notBefore
}

func (s *service) ntpServers() ([]string, bool) {
	if chosen := s.current().NTP; len(chosen) > 0 {
		return chosen, true
	}
	names := append([]string(nil), defaultNTP...)
	if dhcp := s.net.Status().NTP; len(dhcp) > 0 {
		names = append([]string{dhcp[0].String()}, names...)
	}
	return names, false
}

// lookup resolves by the name servers of the moment, whatever this process sees of /etc.
func (s *service) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	servers := s.net.Status().DNS
	if len(servers) == 0 {
		return nil, errors.New("no name server is known")
	}
	next := 0
	var mu sync.Mutex
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		mu.Lock()
		a := servers[next%len(servers)]
		next++
		mu.Unlock()
		return (&net.Dialer{Timeout: dnsTimeout}).DialContext(ctx, network, net.JoinHostPort(a.String(), dnsPort))
	}}
	addrs, err := r.LookupNetIP(ctx, "ip", name+".")
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// handler answers on the socket. What faces the network may ask, but not change what the box is connected by.
func (s *service) handler(setters ...uint32) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/network", func(w http.ResponseWriter, _ *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, s.state())
	})
	for pattern, h := range map[string]http.HandlerFunc{
		"PUT /v1/network/config": s.putConfig, "PUT /v1/network/trial": s.putTrial, "POST /v1/network/keep": s.keepTrial,
		"DELETE /v1/network/trial": s.endTrial, "PUT /v1/network/name": s.putName,
	} {
		mux.HandleFunc(pattern, daemon.OnlyPeers(h, setters...))
	}
	return mux
}

func (s *service) state() api.Network {
	st := s.net.Status()
	s.mu.Lock()
	n := api.Network{Interfaces: []api.Interface{}, DNS: st.DNS, Config: s.config}
	if t := s.trial; t != nil {
		n.Trial = &api.Trial{LeftMS: max(0, time.Until(t.until).Milliseconds()), Config: t.config}
	}
	s.mu.Unlock()
	if n.DNS == nil {
		n.DNS = []netip.Addr{}
	}
	for _, i := range st.Interfaces {
		n.Interfaces = append(n.Interfaces, api.Interface{
			Name: i.Name, MAC: i.MAC, Up: i.Carrier, Method: i.Method, Addresses: i.Addresses, Gateway: i.Gateway,
			Server: i.Server, LeaseEnd: i.LeaseEnd.UTC(), Problem: i.Problem,
		})
	}
	n.Clock = toClock(s.clock.Status(), time.Now())
	return n
}

func toClock(c discipline.Status, now time.Time) api.Clock {
	certainty := map[discipline.Certainty]string{
		discipline.Unsure: api.ClockUnsure, discipline.Kept: api.ClockKept, discipline.Sure: api.ClockSure,
	}
	out := api.Clock{
		Now: now.UTC().Round(0), Certainty: certainty[c.Certainty], Text: c.Text, LastSync: c.LastSync.UTC(),
		OffsetMS: float64(c.Offset.Microseconds()) / 1000, ErrorMS: float64(c.Bound.Microseconds()) / 1000,
		Servers: c.Servers,
	}
	if out.Servers == nil {
		out.Servers = []string{}
	}
	return out
}

func toHardware(c api.NetConfig) hwnet.Config {
	var out hwnet.Config
	for name, i := range c.Interfaces {
		if out.Interfaces == nil {
			out.Interfaces = map[string]hwnet.Static{}
		}
		out.Interfaces[name] = hwnet.Static{Addresses: i.Addresses, Gateway: i.Gateway, DNS: i.DNS}
	}
	return out
}

func problem(w http.ResponseWriter, status int, title, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(api.Problem{Type: "about:blank", Title: title, Status: status, Detail: detail})
}
