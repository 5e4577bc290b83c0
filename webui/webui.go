// Package webui is what a person sees: the pages of the box, made on the server over core's public API, its only way
// in.
//
// Every page works without JavaScript: forms are plain POSTs answered by 303. A small script of our own takes the
// claim code from the URL's fragment and keeps the page current from one stream of server-sent events, whose events
// carry the regions of the page that changed, rendered by the same templates. Every sentence is in a catalogue.
//
// Limits: no state of its own; it believes the gateway about a client's address and scheme.
//
// Sources: the HTML standard's section on server-sent events, CSP level 3, WCAG 2.2.
package webui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/croft-os/croft/services/api"
)

// Config is what the web UI needs from its process.
type Config struct {
	Log      *slog.Logger
	Listener net.Listener // unix socket; only the gateway may connect
	API      *http.Client // reaches core's API, whatever the URL's host
	Ready    func(status string)
	Watch    func(ctx context.Context, check func(context.Context) error) // pings the supervisor while check is nil
}

// Run serves the pages until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	s, err := newServer(cfg.Log, cfg.API)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(cfg.Listener) }()
	go cfg.Watch(ctx, s.check)
	cfg.Ready("running")
	select {
	case err := <-done:
		return fmt.Errorf("serve pages: %w", err)
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := srv.Shutdown(sctx); err != nil {
		return errors.Join(err, srv.Close())
	}
	return nil
}

// check renders the box page, so that a process that can't make pages any more is restarted.
func (s *server) check(context.Context) error {
	v := s.visit(nil, &http.Request{URL: &url.URL{Path: "/"}})
	return v.tmpl.ExecuteTemplate(io.Discard, "page", v.page("box", v.text.view(&api.Box{}, "http")))
}
