package supervisor

import (
	"fmt"
	"io/fs"
	"regexp"
	"time"
)

// Service declares one service: what runs, as whom, with what, and what happens when it ends.
type Service struct {
	Name    string   // lower case, unique; names its socket, cgroup, state directory and log
	Title   string   // for people: "Web page"
	Command []string // absolute path of a static binary, and its arguments
	UID     uint32   // its own; the gid is the same number
	After   []string // names of services that must be ready first

	Listeners []Listener // opened by the supervisor, passed as LISTEN_FDS
	Connect   []string   // names of services whose unix socket it may see
	State     bool       // has a state directory STATEROOT/NAME, mode 0700, in STATE_DIRECTORY
	Runtime   bool       // has a runtime directory /run/croft/NAME, mode 0755, in RUNTIME_DIRECTORY
	ReadOnly  []string   // further paths of the host it may read, such as "/etc/ssl"
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
}

// Network says which part of the network a service can reach.
type Network int

const (
	// NetNone is an empty network namespace: only passed listeners and granted unix sockets work.
	NetNone Network = iota
	// NetHost is the box's own network.
	NetHost
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
	Memory   int64 // bytes [64 MiB]
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
	Mode    fs.FileMode // of a unix socket; 0 means 0666: who may connect is decided by what is visible and by peer credentials
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Validate reports the first thing that is wrong with the declaration by itself.
func (s *Service) Validate() error {
	switch {
	case !nameRE.MatchString(s.Name):
		return fmt.Errorf("service %q: bad name", s.Name)
	case len(s.Command) == 0 || s.Command[0] == "" || s.Command[0][0] != '/':
		return fmt.Errorf("service %s: the command needs an absolute path", s.Name)
	case s.UID == 0:
		return fmt.Errorf("service %s: needs a uid of its own", s.Name)
	}
	return nil
}
