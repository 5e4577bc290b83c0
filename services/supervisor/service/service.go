// Package service declares what the supervisor runs. It is data and its checks only, so that every process may
// know the declarations.
package service

import (
	"cmp"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"time"
)

// Service declares one service: what runs, as whom, with what, and what happens when it ends.
type Service struct {
	Name    string   // lower case, unique; names its socket, cgroup, state directory and log
	Title   string   // for people: "Web page"
	Command []string // absolute path of a static binary, and its arguments
	UID     uint32   // its own; the gid is the same number
	After   []string // names of services that must be ready first, or have turned out not to become ready

	Listeners []Listener // opened by the supervisor, passed as LISTEN_FDS
	Connect   []string   // names of services whose unix socket it may see
	State     bool       // has a state directory STATEROOT/NAME, mode 0700, in STATE_DIRECTORY
	Runtime   bool       // has a runtime directory /run/croft/NAME, mode 0755, in RUNTIME_DIRECTORY
	ReadOnly  []string   // further paths it may read, such as "/sys"; with NetHost also what DNS and TLS need
	Env       []string   // "KEY=value"

	Network      Network
	Capabilities []string // such as "CAP_NET_ADMIN"; nothing else is kept
	Syscalls     []string // names beyond the common allow list, such as "adjtimex"

	Limits       Limits
	ReadyTimeout time.Duration // from start to READY=1; 0 means 30 s
	Watchdog     time.Duration // longest silence between WATCHDOG=1; 0 means none
	StopTimeout  time.Duration // from SIGTERM to SIGKILL; 0 means 5 s
	Restart      Restart
	Critical     bool // the hardware watchdog is petted only while it is healthy
	ForOthers    bool // the household does not need it: how it is has no say in whether an update is kept
}

// Network says which part of the network a service can reach.
type Network int

const (
	// NetNone is an empty network namespace: only passed listeners and granted unix sockets work.
	NetNone Network = iota
	// NetHost is the box's own network.
	NetHost
	// NetUDP is the box's own network without TCP.
	NetUDP
)

// Restart says what happens when a service ends.
type Restart int

const (
	// RestartAlways starts it again, with exponential back-off, unless it ended with an exit code that a restart
	// can't mend.
	RestartAlways Restart = iota
	// RestartOnFailure does so only after a failure; ended well, it is done.
	RestartOnFailure
	// RestartNever leaves it ended.
	RestartNever
)

// Limits bound what a service may use; 0 means the default in brackets. What the kernel can't enforce the
// supervisor watches, and ends the service that exceeds it.
type Limits struct {
	Memory   int64 // bytes, without pages of files [64 MiB]
	CPU      int   // percent of one core; [no limit]
	Pids     int   // [64]
	Files    int   // open files [1024]
	IOWeight int   // 1 to 10000 [100]
}

// Listener is a socket that the supervisor opens in the box's network and passes to the service, so that the
// service needs no right to bind it.
type Listener struct {
	Name    string      // in LISTEN_FDNAMES
	Network string      // "tcp", "udp" or "unix"
	Address string      // ":80"; for unix the name of the file in /run/croft, such as "core.sock"
	Mode    fs.FileMode // of a unix socket; 0 means 0666: what is visible and peer credentials decide who connects
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Validate reports the first thing that is wrong with the declaration by itself.
func (s *Service) Validate() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("service %s: %w", s.Name, fmt.Errorf(format, a...))
	}
	switch {
	case !nameRE.MatchString(s.Name):
		return fmt.Errorf("service %q: bad name", s.Name)
	case len(s.Command) == 0 || !filepath.IsAbs(s.Command[0]) || filepath.Clean(s.Command[0]) != s.Command[0]:
		return bad("the command needs an absolute path")
	case s.UID == 0:
		return bad("needs a uid of its own")
	}
	for _, p := range s.ReadOnly {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
			return bad("read-only path %q is not absolute and clean, or is everything", p)
		}
	}
	for _, c := range s.Connect {
		if !nameRE.MatchString(c) {
			return bad("may connect to %q, which is no service's name", c)
		}
	}
	for _, l := range s.Listeners {
		switch l.Network {
		case "tcp", "udp":
		case "unix":
			if filepath.Base(l.Address) != l.Address || l.Address[0] == '.' {
				return bad("listener %s: %q is no file name", l.Name, l.Address)
			}
		default:
			return bad("listener %s: unknown network %q", l.Name, l.Network)
		}
		if !nameRE.MatchString(l.Name) {
			return bad("listener %q: bad name", l.Name)
		}
	}
	return nil
}

// WithDefaults returns the declaration with all defaults filled in.
func (s Service) WithDefaults() Service {
	s.Limits.Memory = cmp.Or(s.Limits.Memory, 64<<20)
	s.Limits.Pids = cmp.Or(s.Limits.Pids, 64)
	s.Limits.Files = cmp.Or(s.Limits.Files, 1024)
	s.Limits.IOWeight = cmp.Or(s.Limits.IOWeight, 100)
	s.ReadyTimeout = cmp.Or(s.ReadyTimeout, 30*time.Second)
	s.StopTimeout = cmp.Or(s.StopTimeout, 5*time.Second)
	s.Title = cmp.Or(s.Title, s.Name)
	return s
}
