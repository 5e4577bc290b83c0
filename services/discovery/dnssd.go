package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/grandcat/zeroconf"
)

// target is where DNS-SD is to be announced, and under which name.
type target struct {
	name  string      // label of the host
	links map[int]int // interface indexes, each with its epoch
	share bool        // releases are shared
}

// covers reports whether a registration made for t still does for u.
func (t target) covers(u target) bool {
	if t.name != u.name || t.share != u.share {
		return false
	}
	for index, epoch := range u.links {
		if e, ok := t.links[index]; !ok || e != epoch {
			return false
		}
	}
	return true
}

// services announces what the box serves through grandcat/zeroconf. That registers once, on the interfaces that exist
// then, so it is done anew when an interface comes or the name changes. It looks addresses up as it answers, so a new
// address needs nothing.
type services struct {
	log  *slog.Logger
	text []string // of _croft._tcp
	want chan target
}

func newServices(log *slog.Logger, id, version string) *services {
	text := []string{"v=" + version, "path=/"}
	if id != "" {
		text = append(text, "id="+id)
	}
	return &services{log: log, text: text, want: make(chan target, 1)}
}

// set says what is wanted from now on; it never blocks. It is called from one goroutine.
func (s *services) set(t target) {
	select {
	case <-s.want:
	default:
	}
	s.want <- t
}

// run follows what is wanted until ctx ends, and then says goodbye.
func (s *services) run(ctx context.Context) {
	var servers []*zeroconf.Server
	var have, want target
	end := func() {
		for _, server := range servers {
			server.Shutdown()
		}
		servers = nil
	}
	defer end()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case want = <-s.want:
		case <-retry.C:
		}
		retry.Reset(time.Hour)
		if len(servers) > 0 && have.covers(want) {
			continue
		}
		end()
		if len(want.links) == 0 {
			continue
		}
		var err error
		if servers, err = s.register(want); err != nil {
			s.log.Warn("can't announce services; trying again", "err", err)
			retry.Reset(5 * time.Second)
		}
		have = want
	}
}

// register announces the services. RegisterProxy without addresses of its own makes zeroconf answer with those of the
// interface on which it is asked.
func (s *services) register(t target) ([]*zeroconf.Server, error) {
	var ifaces []net.Interface
	for index := range t.links {
		ifaces = append(ifaces, net.Interface{Index: index})
	}
	var servers []*zeroconf.Server
	var errs []error
	type service struct {
		typ  string
		port int
		text []string
	}
	list := []service{
		{"_http._tcp", 80, []string{"path=/"}},
		{"_https._tcp", 443, []string{"path=/"}},
		{"_croft._tcp", 443, s.text},
	}
	if t.share {
		list = append(list, service{shareService, sharePort, []string{"format=croft-repository/1"}})
	}
	for _, service := range list {
		server, err := zeroconf.RegisterProxy(t.name, service.typ, "local", service.port, t.name+".local.", nil,
			service.text, ifaces)
		if err != nil {
			errs = append(errs, fmt.Errorf("announce %s: %w", service.typ, err))
			continue
		}
		servers = append(servers, server)
	}
	return servers, errors.Join(errs...)
}
