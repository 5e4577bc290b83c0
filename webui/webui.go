// Package webui is a placeholder that its issue's owner replaces at once.
package webui

import (
	"context"
	"log/slog"
	"net"
	"net/http"
)

// Config is what the web UI needs from its process.
type Config struct {
	Log      *slog.Logger
	Listener net.Listener // unix socket; only the gateway may connect
	API      *http.Client // reaches core's API
	Ready    func(status string)
	Watch    func(ctx context.Context, check func(context.Context) error) // pings the supervisor while check is nil
}

// Run serves the pages until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	cfg.Ready("running")
	<-ctx.Done()
	return nil
}
