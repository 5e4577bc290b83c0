// Package core owns the box's state and answers the public HTTP API below /api/v1: sessions, the state of the box
// put together from PID 1, the network service and discovery, its changes as a stream, and the actions of rescue
// mode.
//
// Limits: until there are accounts, whoever knows the claim code may see everything that the API shows. Nothing but
// the gateway and the web UI may connect, so what they say about a client's address and scheme is believed.
//
// Sources: RFC 9457 (problem details), RFC 6265bis (cookies and their name prefixes), the HTML standard's section
// on server-sent events.
package core

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/croft-os/croft/services/daemon"
)

// Config says who may connect.
type Config struct {
	GatewayUID uint32
	WebUIUID   uint32
}

// Run serves the API until ctx ends.
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	l := env.Listeners["core"]
	if l == nil {
		return fmt.Errorf("%w: no listener \"core\" was passed", daemon.ErrConfig)
	}
	st, err := openState(ctx, env.StateDir, env.Log)
	if err != nil {
		return err
	}
	defer func() {
		if err := st.close(); err != nil {
			env.Log.Warn("closing the state", "err", err)
		}
	}()
	sess, err := openSessions(ctx, st, env.Log, time.Now)
	if err != nil {
		return err
	}
	box := newBoxWatcher(ctx, sources{
		init:      env.Client("init"),
		network:   env.Client("network"),
		discovery: env.Client("discovery"),
	}, st.notices)
	s := &server{
		log: env.Log, sessions: sess, box: box, init: env.Client("init"),
		limit: newLimiter(time.Now), streams: make(chan struct{}, maxStreams),
		cop: http.NewCrossOriginProtection(),
	}
	go env.Watch(ctx, st.check)
	env.Ready("running")
	return daemon.Serve(ctx, daemon.AllowPeers(l, env.Log, cfg.GatewayUID, cfg.WebUIUID), s.handler(operations()))
}
