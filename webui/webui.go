// Package webui is a placeholder that its issue's owner replaces at once.
package webui

import (
	"context"
	"net"
	"net/http"
)

// Config is what the web UI needs from its process.
type Config struct {
	Listener net.Listener // unix socket; only the gateway may connect
	API      *http.Client // reaches core's API
	Ready    func(status string)
}

// Run serves the pages until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	cfg.Ready("running")
	<-ctx.Done()
	return nil
}
