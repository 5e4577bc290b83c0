// Package world declares all services of a Croft and wires them together: which process runs as whom, listens
// where and may speak to which other. Only mains import it.
package world

import (
	"time"

	"github.com/croft-os/croft/services/supervisor/service"
)

// Users of the services; the gid is the same number. They are part of what is on disk: never reuse one.
const (
	UIDNetwork   = 201
	UIDDiscovery = 202
	UIDGateway   = 203
	UIDCore      = 204
	UIDWebUI     = 205
	UIDFetcher   = 206
	UIDUpdater   = 207
	UIDWitness   = 208
)

// Services returns the declarations. daemon is the path of croftd.
func Services(daemon string) []service.Service {
	const mib = 1 << 20
	return []service.Service{
		{
			Name: "network", Title: "Network and time", Command: []string{daemon, "network"}, UID: UIDNetwork,
			Listeners: []service.Listener{unix("network")},
			State:     true, Runtime: true, Network: service.NetHost,
			ReadOnly:     []string{"/etc/croft/release.json"},
			Capabilities: []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SYS_TIME"},
			Syscalls:     []string{"adjtimex", "clock_adjtime", "clock_settime", "settimeofday"},
			Limits:       service.Limits{Memory: 48 * mib},
			Watchdog:     time.Minute, Critical: true,
		},
		{
			Name: "discovery", Title: "Found on the LAN", Command: []string{daemon, "discovery"}, UID: UIDDiscovery,
			After:     []string{"network"},
			Listeners: []service.Listener{unix("discovery")},
			Network:   service.NetUDP,
			Limits:    service.Limits{Memory: 48 * mib, CPU: 100}, // questions are free: a flood of them gets one core
			Watchdog:  time.Minute,
		},
		{
			Name: "core", Title: "Accounts and settings", Command: []string{daemon, "core"}, UID: UIDCore,
			Listeners: []service.Listener{unix("core")},
			Connect:   []string{"init", "network", "discovery", "updater", "fetcher", "witness"},
			State:     true,
			ReadOnly:  []string{"/etc/croft/licences.json.gz"},
			Limits:    service.Limits{Memory: 96 * mib},
			Watchdog:  time.Minute, Critical: true,
		},
		{
			Name: "webui", Title: "Web page", Command: []string{daemon, "webui"}, UID: UIDWebUI,
			After:     []string{"core"},
			Listeners: []service.Listener{unix("webui")},
			Connect:   []string{"core"},
			Limits:    service.Limits{Memory: 64 * mib},
			Watchdog:  time.Minute, Critical: true,
		},
		{
			Name: "gateway", Title: "Front door", Command: []string{daemon, "gateway"}, UID: UIDGateway,
			Listeners: []service.Listener{
				{Name: "http", Network: "tcp", Address: ":80"},
				{Name: "https", Network: "tcp", Address: ":443"},
				{Name: "quic", Network: "udp", Address: ":443"},
			},
			Connect:  []string{"core", "webui", "discovery", "network"},
			State:    true,
			Env:      []string{"QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING=1"}, // a page needs no more than the kernel gives
			Limits:   service.Limits{Memory: 128 * mib, Files: 8192},
			Watchdog: time.Minute, Critical: true,
		},
		{
			Name: "fetcher", Title: "Fetching updates", Command: []string{daemon, "fetcher"}, UID: UIDFetcher,
			After: []string{"network"},
			Listeners: []service.Listener{
				unix("fetcher"),
				{Name: "peers", Network: "tcp", Address: ":7465"},
			},
			Connect:  []string{"devices", "discovery", "network"},
			State:    true,
			Network:  service.NetHost,
			ReadOnly: etcUpdates,
			Env:      []string{"GOMEMLIMIT=32MiB"},
			Limits:   service.Limits{Memory: 64 * mib, IOWeight: 50},
			Watchdog: time.Minute,
		},
		{
			Name: "updater", Title: "Updates", Command: []string{daemon, "updater"}, UID: UIDUpdater,
			Listeners: []service.Listener{unix("updater")},
			Connect:   []string{"init", "devices", "fetcher", "core", "network"},
			State:     true, Runtime: true,
			ReadOnly: etcUpdates,
			Env:      []string{"GOMEMLIMIT=12MiB", "GOGC=50"}, // patching is to take at most 16 MiB
			Limits:   service.Limits{Memory: 32 * mib, IOWeight: 50},
			Watchdog: time.Minute,
		},
		{
			Name: "witness", Title: "Witness for others", Command: []string{daemon, "witness"}, UID: UIDWitness,
			After: []string{"network"},
			Listeners: []service.Listener{
				unix("witness"),
				{Name: "logs", Network: "tcp", Address: ":7467"},
			},
			Connect:  []string{"network"},
			State:    true,
			Env:      []string{"GOMEMLIMIT=24MiB"},
			Limits:   service.Limits{Memory: 48 * mib, CPU: 50, IOWeight: 50}, // anybody may ask
			Watchdog: time.Minute, ForOthers: true,
		},
	}
}

// etcUpdates is what an image says of its release and of whom it follows.
var etcUpdates = []string{"/etc/croft/release.json", "/etc/croft/publisher.json", "/etc/croft/root.json"}

func unix(name string) service.Listener {
	return service.Listener{Name: name, Network: "unix", Address: name + ".sock"}
}
