// Command croftd is the box's one multi-call daemon: "croftd NAME" is the service of that name. One file shares
// its text pages between the processes and is one thing to patch; the services stay separate processes.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/croft-os/croft/services/core"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/discovery"
	"github.com/croft-os/croft/services/gateway"
	"github.com/croft-os/croft/services/network"
	"github.com/croft-os/croft/services/world"
	"github.com/croft-os/croft/webui"
)

var services = map[string]func(context.Context, *daemon.Env) error{
	"core":      runCore,
	"discovery": runDiscovery,
	"gateway":   gateway.Run,
	"network":   runNetwork,
	"webui":     runWebUI,
}

func runCore(ctx context.Context, env *daemon.Env) error {
	return core.Run(ctx, env, core.Config{GatewayUID: world.UIDGateway, WebUIUID: world.UIDWebUI})
}

func runDiscovery(ctx context.Context, env *daemon.Env) error {
	return discovery.Run(ctx, env, discovery.Config{
		Peers:   []uint32{world.UIDCore, world.UIDGateway},
		Setters: []uint32{world.UIDCore},
		ID:      os.Getenv("CROFT_ID"),
		Version: os.Getenv("CROFT_VERSION"),
	})
}

func runNetwork(ctx context.Context, env *daemon.Env) error {
	return network.Run(ctx, env, network.Config{
		Peers:   []uint32{world.UIDCore, world.UIDGateway},
		Setters: []uint32{world.UIDCore},
	})
}

func runWebUI(ctx context.Context, env *daemon.Env) error {
	l := env.Listeners["webui"]
	if l == nil {
		return fmt.Errorf("%w: no listener \"webui\" was passed", daemon.ErrConfig)
	}
	return webui.Run(ctx, webui.Config{
		Log:      env.Log,
		Listener: daemon.AllowPeers(l, env.Log, world.UIDGateway),
		API:      env.Client("core"),
		Ready:    env.Ready,
		Watch:    env.Watch,
	})
}

func main() {
	if len(os.Args) == 2 {
		if run := services[os.Args[1]]; run != nil {
			os.Exit(daemon.Main(os.Args[1], run))
		}
	}
	fmt.Fprintln(os.Stderr, "usage: croftd core|discovery|gateway|network|webui")
	os.Exit(2)
}
