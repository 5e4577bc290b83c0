package sandbox

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// landlock says a second time what buildRoot said with mounts, so that a mistake in one does not open the box: read
// all that is visible, execute the command only, write in the service's own directories. It adds what namespaces
// don't cover: TCP where it was not granted, abstract unix sockets and signals beyond the sandbox.
func (s *Spec) landlock() error {
	const (
		read  = landlock.AccessFSSet(ll.AccessFSReadFile | ll.AccessFSReadDir)
		write = read | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile |
			ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo |
			ll.AccessFSMakeSym | ll.AccessFSRefer | ll.AccessFSResolveUnix
	)
	c := landlock.V9 // not V10: it would forbid sending on UDP sockets that were passed
	if s.TCP {
		c.HandledAccessNet = 0
	}
	rules := []landlock.Rule{
		landlock.PathAccess(read, "/"),
		landlock.PathAccess(ll.AccessFSExecute|ll.AccessFSReadFile, s.Argv[0]),
		landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSWriteFile, "/dev"),
		landlock.PathAccess(write, append([]string{"/tmp"}, s.Writable...)...),
	}
	for _, p := range s.Sockets {
		rules = append(rules, landlock.PathAccess(ll.AccessFSResolveUnix, p).IgnoreIfMissing())
	}
	if err := c.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}

// LandlockABI returns the version of Landlock that the running kernel has, 0 for none.
func LandlockABI() int {
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(v)
}
