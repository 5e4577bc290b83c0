// Package discovery is a placeholder that its issue's owner replaces at once.
package discovery

import (
	"context"

	"github.com/croft-os/croft/services/daemon"
)

// Run runs the service until ctx ends.
func Run(ctx context.Context, env *daemon.Env) error {
	env.Ready("running")
	<-ctx.Done()
	return nil
}
