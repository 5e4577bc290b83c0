// Command croftd is the box's one multi-call daemon: "croftd NAME" is the service of that name. One file shares
// its text pages between the processes and is one thing to patch; the services stay separate processes.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/croft-os/croft/services/core"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/discovery"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/services/gateway"
	"github.com/croft-os/croft/services/network"
	"github.com/croft-os/croft/services/updater"
	"github.com/croft-os/croft/services/witness"
	"github.com/croft-os/croft/services/world"
	"github.com/croft-os/croft/webui"
)

var services = map[string]func(context.Context, *daemon.Env) error{
	"core":      runCore,
	"discovery": runDiscovery,
	"fetcher":   runFetcher,
	"gateway":   gateway.Run,
	"network":   runNetwork,
	"updater":   runUpdater,
	"webui":     runWebUI,
	"witness":   runWitness,
}

func runCore(ctx context.Context, env *daemon.Env) error {
	return core.Run(ctx, env, core.Config{GatewayUID: world.UIDGateway, WebUIUID: world.UIDWebUI, UpdaterUID: world.UIDUpdater})
}

func runDiscovery(ctx context.Context, env *daemon.Env) error {
	return discovery.Run(ctx, env, discovery.Config{
		Peers:   []uint32{world.UIDCore, world.UIDGateway, world.UIDFetcher},
		Setters: []uint32{world.UIDCore},
		Sharers: []uint32{world.UIDFetcher},
		ID:      os.Getenv("CROFT_ID"),
		Version: os.Getenv("CROFT_VERSION"),
	})
}

func runNetwork(ctx context.Context, env *daemon.Env) error {
	return network.Run(ctx, env, network.Config{
		Peers:   []uint32{world.UIDCore, world.UIDGateway, world.UIDFetcher, world.UIDUpdater, world.UIDWitness},
		Setters: []uint32{world.UIDCore},
	})
}

func runFetcher(ctx context.Context, env *daemon.Env) error {
	etc, err := updater.ReadEtc("")
	if err != nil {
		return err
	}
	return fetcher.Run(ctx, env, fetcher.Config{
		Updater: world.UIDUpdater, Core: world.UIDCore,
		Board: etc.Release.Board, Publisher: etc.Publisher.Name, Mirrors: etc.Publisher.Mirrors, Root: etc.Root,
		Built: time.Unix(etc.Release.Built, 0),
	})
}

func runUpdater(ctx context.Context, env *daemon.Env) error {
	return updater.Run(ctx, env, updater.Config{Peers: []uint32{world.UIDCore}})
}

func runWitness(ctx context.Context, env *daemon.Env) error {
	return witness.Run(ctx, env, witness.Config{Core: world.UIDCore})
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
	fmt.Fprintln(os.Stderr, "usage: croftd core|discovery|fetcher|gateway|network|updater|webui|witness")
	os.Exit(2)
}
