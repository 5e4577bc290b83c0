// Package supervisor starts services in the order of their dependencies, each in its own sandbox and with its own
// limits, keeps them running, and says what state each is in.
//
// It speaks systemd's protocols: sd_notify(3) with the kernel's peer credentials, sd_listen_fds(3), the watchdog of
// sd_watchdog_enabled(3). A service that fails is started again with exponential back-off; one that keeps failing
// is in a crash loop, tried at long intervals, and leaves the rest running. Each service has its own goroutine and
// state machine (unit.go), which knows the operating system only as a backend (launcher.go).
//
// Limits: services are fixed when it is made; nothing is known of a process that an earlier supervisor started.
package supervisor

import "github.com/croft-os/croft/services/supervisor/service"

// The declaration's types, for those that import the supervisor anyway.
type (
	Service  = service.Service
	Listener = service.Listener
	Limits   = service.Limits
	Network  = service.Network
	Restart  = service.Restart
)

// Values of Network and Restart.
const (
	NetNone          = service.NetNone
	NetHost          = service.NetHost
	NetUDP           = service.NetUDP
	RestartAlways    = service.RestartAlways
	RestartOnFailure = service.RestartOnFailure
	RestartNever     = service.RestartNever
)
