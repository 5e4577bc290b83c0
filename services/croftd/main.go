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
	"core":      core.Run,
	"discovery": discovery.Run,
	"gateway":   gateway.Run,
	"network":   network.Run,
	"webui":     runWebUI,
}

func runWebUI(ctx context.Context, env *daemon.Env) error {
	go env.Watch(ctx, func(context.Context) error { return nil })
	return webui.Run(ctx, webui.Config{
		Listener: daemon.AllowPeers(env.Listeners["webui"], env.Log, world.UIDGateway),
		API:      env.Client("core"),
		Ready:    env.Ready,
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
