package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// common are the system calls that any service may make: what Go's runtime, its standard library, SQLite and an
// ordinary C library need. Not in it, and so refused with EPERM: mounting, namespaces, tracing, other processes'
// memory, modules, kexec, reboot, bpf, perf, keyrings, io_uring, userfaultfd, clocks, swap, accounting, file
// handles, raw ports, and memfd_create, whose files are neither noexec nor seen by who watches memory. Names that an
// architecture lacks are left out; what Linux calls newfstatat is fstatat in the library's table for arm64. The most
// frequent ones come first.
const common = `
read write futex epoll_pwait epoll_wait nanosleep clock_gettime sendmsg recvmsg sendto recvfrom close epoll_ctl
accept4 openat fstat newfstatat fstatat pread64 pwrite64 fdatasync fcntl mmap munmap madvise tgkill rt_sigreturn
readv writev preadv pwritev preadv2 pwritev2 sendmmsg recvmmsg sendfile splice tee copy_file_range
epoll_create epoll_create1 epoll_pwait2 poll ppoll select pselect6 pipe pipe2 eventfd eventfd2 signalfd4
timerfd_create timerfd_settime timerfd_gettime
accept bind connect listen getpeername getsockname getsockopt setsockopt shutdown
open creat stat lstat statx lseek access faccessat faccessat2 openat2 readlink readlinkat getdents getdents64
getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown umask truncate ftruncate fallocate fadvise64
readahead fsync sync_file_range syncfs sync flock statfs fstatfs utime utimes utimensat futimesat
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr
lremovexattr fremovexattr
dup dup2 dup3 close_range ioctl
brk mprotect mremap msync mincore mlock mlock2 munlock mlockall munlockall membarrier rseq
set_robust_list get_robust_list set_tid_address futex_waitv futex_wake futex_wait futex_requeue
rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo
sigaltstack kill tkill restart_syscall pause alarm getitimer setitimer timer_create timer_settime timer_gettime
timer_getoverrun timer_delete clock_getres clock_nanosleep gettimeofday time times
sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_setscheduler
sched_setparam sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min getcpu getpriority
setpriority ioprio_get ioprio_set
execve fork vfork exit exit_group wait4 waitid pidfd_open pidfd_send_signal
getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgid getpgrp setpgid getsid
setsid capget capset prctl arch_prctl getrlimit setrlimit prlimit64 getrusage sysinfo uname getrandom
landlock_create_ruleset landlock_add_rule landlock_restrict_self
`

func commonNames() []string { return strings.Fields(common) }

// newNamespaces are the CLONE_NEW* flags of clone(2).
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

func (s *Spec) policy(info *arch.Info) *seccomp.Policy {
	families := []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
	if slices.Contains(s.Capabilities, "CAP_NET_RAW") {
		families = append(families, unix.AF_PACKET)
	}
	conditional := []seccomp.NameWithConditions{
		when("clone", 0, seccomp.BitsNotSet, newNamespaces),
		when("socketpair", 0, seccomp.Equal, unix.AF_UNIX),
	}
	for _, f := range families {
		conditional = append(conditional, when("socket", 0, seccomp.Equal, f))
	}
	var names []string
	for _, n := range append(commonNames(), s.Syscalls...) {
		if _, ok := info.SyscallNames[n]; ok && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return &seccomp.Policy{
		DefaultAction: seccomp.ActionErrno, // EPERM
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionAllow, Names: names},
			{Action: seccomp.ActionAllow, NamesWithCondtions: conditional},
			// The flags of clone3 are out of a filter's sight: "not there" makes C libraries use clone instead.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
		},
	}
}

func when(name string, arg uint32, op seccomp.Operation, value uint64) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{
		Name:       name,
		Conditions: seccomp.ArgumentConditions{{Argument: arg, Operation: op, Value: value}},
	}
}

// seccomp allows the listed system calls to the calling thread from now on, exec included, and logs the refused
// ones.
func (s *Spec) seccomp() error {
	if !seccomp.Supported() {
		return nil
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	if err := seccomp.LoadFilter(seccomp.Filter{Flag: seccomp.FilterFlagLog, Policy: *s.policy(info)}); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// SeccompSupported tells whether the running kernel filters system calls.
func SeccompSupported() bool { return seccomp.Supported() }

// ValidSyscall tells whether the name is a system call on this architecture.
func ValidSyscall(name string) bool {
	info, err := arch.GetInfo("")
	if err != nil {
		return false
	}
	_, ok := info.SyscallNames[name]
	return ok
}
