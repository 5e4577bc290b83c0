// Command init is PID 1 of a Croft. Called as "init launch" it is the supervisor's second stage, which enters a
// service's sandbox and becomes the service. It is built without cgo: the second stage runs in a new PID namespace,
// where a C runtime's start-up hangs.
package main

import (
	"fmt"
	"os"

	"github.com/croft-os/croft/image/boot"
	"github.com/croft-os/croft/services/supervisor/sandbox"
	"github.com/croft-os/croft/services/world"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "launch" {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: only the kernel starts this")
		os.Exit(2)
	}
	rescue := boot.IsRescueSystem()
	if rescue && (len(os.Args) < 2 || os.Args[1] != boot.AgainArg) {
		fmt.Println("init:", boot.LeaveInitramfs())
		select {}
	}
	err := boot.Main(boot.Config{
		Services:   world.Services("/user/croftd"),
		Launcher:   []string{"/gokrazy/init", "launch"},
		CoreUID:    world.UIDCore,
		UpdaterUID: world.UIDUpdater,
		FetcherUID: world.UIDFetcher,
		Rescue:     rescue,
	})
	fmt.Println("init:", err)
	select {} // the end of PID 1 would be a kernel panic
}
