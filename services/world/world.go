// Package world declares all services of a Croft and wires them together: which process runs as whom, listens
// where and may speak to which other. Only mains import it.
package world

import (
	"time"

	"github.com/croft-os/croft/services/supervisor"
)

// Users of the services; the gid is the same number. They are part of what is on disk: never reuse one.
const (
	UIDNetwork   = 201
	UIDDiscovery = 202
	UIDGateway   = 203
	UIDCore      = 204
	UIDWebUI     = 205
)

// Services returns the declarations. daemon is the path of croftd.
func Services(daemon string) []supervisor.Service {
	const mib = 1 << 20
	return []supervisor.Service{
		{
			Name: "network", Title: "Network and time", Command: []string{daemon, "network"}, UID: UIDNetwork,
			Listeners: []supervisor.Listener{unix("network")},
			State:     true, Runtime: true, Network: supervisor.NetHost,
			Capabilities: []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SYS_TIME"},
			Syscalls:     []string{"adjtimex", "clock_adjtime", "clock_settime", "settimeofday"},
			Limits:       supervisor.Limits{Memory: 48 * mib},
			Watchdog:     time.Minute, Critical: true,
		},
		{
			Name: "discovery", Title: "Found on the LAN", Command: []string{daemon, "discovery"}, UID: UIDDiscovery,
			After:     []string{"network"},
			Listeners: []supervisor.Listener{unix("discovery")},
			Network:   supervisor.NetHost,
			Limits:    supervisor.Limits{Memory: 48 * mib},
			Watchdog:  time.Minute,
		},
		{
			Name: "core", Title: "Accounts and settings", Command: []string{daemon, "core"}, UID: UIDCore,
			Listeners: []supervisor.Listener{unix("core")},
			Connect:   []string{"init", "network", "discovery"},
			State:     true,
			Limits:    supervisor.Limits{Memory: 96 * mib},
			Watchdog:  time.Minute, Critical: true,
		},
		{
			Name: "webui", Title: "Web page", Command: []string{daemon, "webui"}, UID: UIDWebUI,
			After:     []string{"core"},
			Listeners: []supervisor.Listener{unix("webui")},
			Connect:   []string{"core"},
			Limits:    supervisor.Limits{Memory: 64 * mib},
			Watchdog:  time.Minute, Critical: true,
		},
		{
			Name: "gateway", Title: "Front door", Command: []string{daemon, "gateway"}, UID: UIDGateway,
			Listeners: []supervisor.Listener{
				{Name: "http", Network: "tcp", Address: ":80"},
				{Name: "https", Network: "tcp", Address: ":443"},
				{Name: "quic", Network: "udp", Address: ":443"},
			},
			Connect:  []string{"core", "webui", "discovery", "network"},
			State:    true,
			Limits:   supervisor.Limits{Memory: 128 * mib, Files: 8192},
			Watchdog: time.Minute, Critical: true,
		},
	}
}

func unix(name string) supervisor.Listener {
	return supervisor.Listener{Name: name, Network: "unix", Address: name + ".sock"}
}
