// Package sandbox confines a process: it is the stage between the supervisor's clone and the service's exec.
//
// The supervisor starts its own program again, in new namespaces and in the service's cgroup, with a Spec in an
// inherited memfd. Main then builds a small root file system in which only what the service was granted exists,
// gives up every privilege, and execs the service in its place, so that nothing stays resident. The order matters
// and is that of enter.
//
// What the kernel lacks of Landlock (landlock(7)) and seccomp (seccomp(2)) is left out, not failed on; the
// supervisor reports it. Namespaces, mounts, user and capabilities are never left out: if one fails, the service
// does not start. The program that calls Main must be built without cgo.
package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ExitFailed is the exit code of a process that could not enter its sandbox; the reason is in its log.
const ExitFailed = 226

// Spec is what the supervisor grants to one process.
type Spec struct {
	Name     string
	Argv     []string // absolute path of a static binary, and its arguments
	Env      []string // LISTEN_PID is added
	UID      uint32   // and gid
	Hostname string

	Root     string   // an empty directory to build the root file system on
	ReadOnly []string // files and directories; missing ones are left out
	Writable []string // directories
	Sockets  []string // unix sockets; missing ones are left out
	TmpSize  int64    // bytes of /tmp

	Listeners    int      // number of sockets passed from descriptor 3 on
	TCP          bool     // may connect and listen by TCP, in a network that is not empty
	Capabilities []string // kept, as ambient capabilities
	Syscalls     []string // allowed beyond the common list

	Files    uint64 // RLIMIT_NOFILE
	Procs    uint64 // RLIMIT_NPROC; counts the uid's threads
	Data     uint64 // RLIMIT_DATA; 0 leaves it alone
	OOMScore int    // oom_score_adj
}

// Pass writes the spec to a new memfd, ready to be inherited.
func (s *Spec) Pass() (*os.File, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("sandbox", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "sandbox")
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the sandbox's spec: %w", err)
	}
	return f, nil
}

// Main enters the sandbox whose spec is in the descriptor with the number args[0], and execs the service. It
// returns an exit code only if that failed.
func Main(args []string) int {
	runtime.LockOSThread() // credentials and filters belong to a thread; exec keeps those of the calling one
	err := main(args)
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Error("can't enter the sandbox", "err", err)
	return ExitFailed
}

func main(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want the number of a descriptor, got %q", args)
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil || fd < 3 {
		return fmt.Errorf("want the number of a descriptor, got %q", args)
	}
	f := os.NewFile(uintptr(fd), "sandbox")
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	f.Close()
	if err != nil {
		return fmt.Errorf("read the sandbox's spec: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read the sandbox's spec: %w", err)
	}
	// Nothing goes beyond exec but standard output and the listeners, whatever the supervisor itself had inherited.
	if err := unix.CloseRange(uint(3+s.Listeners), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	return s.enter()
}

// enter gives up everything that was not granted and becomes the service.
func (s *Spec) enter() error {
	caps, err := parseCapabilities(s.Capabilities)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", strconv.AppendInt(nil, int64(s.OOMScore), 10), 0); err != nil {
		return fmt.Errorf("set the score for the kernel's out-of-memory killer: %w", err)
	}
	if err := s.buildRoot(); err != nil {
		return err
	}
	if err := s.limit(); err != nil {
		return err
	}
	if err := dropTo(s.UID, caps); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := s.landlock(); err != nil {
		return err
	}
	if err := s.seccomp(); err != nil {
		return err
	}
	env := s.Env
	if s.Listeners > 0 {
		env = append(env, "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	}
	return fmt.Errorf("exec %s: %w", s.Argv[0], syscall.Exec(s.Argv[0], s.Argv, env))
}

// limit sets the resource limits, which survive exec. syscall.Setrlimit, not unix.Setrlimit: Go's Exec would
// otherwise put back the number of files that the process started with.
func (s *Spec) limit() error {
	for _, l := range []struct {
		name  string
		which int
		value uint64
	}{
		{"open files", unix.RLIMIT_NOFILE, s.Files},
		{"processes", unix.RLIMIT_NPROC, s.Procs},
		{"data", unix.RLIMIT_DATA, s.Data},
		{"core", unix.RLIMIT_CORE, 0},
	} {
		if l.value == 0 && l.which != unix.RLIMIT_CORE {
			continue
		}
		if err := syscall.Setrlimit(l.which, &syscall.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("limit %s to %d: %w", l.name, l.value, err)
		}
	}
	return nil
}
