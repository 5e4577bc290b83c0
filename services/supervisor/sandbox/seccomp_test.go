package sandbox

import (
	"encoding/binary"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	allow  = uint32(seccomp.ActionAllow)
	eperm  = uint32(seccomp.ActionErrno) | uint32(unix.EPERM)
	enosys = uint32(seccomp.ActionErrno) | uint32(unix.ENOSYS)
)

// filter runs the policy in a virtual machine. The machine reads big-endian words, so that the system call's data is
// laid out as on a little-endian one, but with the bytes of each word swapped.
func filter(t *testing.T, s *Spec) func(archID, number uint32, args ...uint64) uint32 {
	t.Helper()
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	program, err := s.policy(info).Assemble()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return func(archID, number uint32, args ...uint64) uint32 {
		b := make([]byte, 64)
		binary.BigEndian.PutUint32(b[0:], number)
		binary.BigEndian.PutUint32(b[4:], archID)
		for i, a := range args {
			binary.BigEndian.PutUint32(b[16+8*i:], uint32(a))
			binary.BigEndian.PutUint32(b[20+8*i:], uint32(a>>32))
		}
		v, err := vm.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(v)
	}
}

func TestFilter(t *testing.T) {
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	plain := &Spec{}
	raw := &Spec{Capabilities: []string{"CAP_NET_RAW"}, Syscalls: []string{"clock_settime", "read"}}
	for _, tc := range []struct {
		spec *Spec
		name string
		args []uint64
		want uint32
	}{
		{plain, "read", nil, allow},
		{plain, "epoll_pwait", nil, allow},
		{plain, "execve", nil, allow},
		{plain, "landlock_restrict_self", nil, allow},
		{plain, "clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_FS | uint64(unix.SIGCHLD)}, allow},
		{plain, "clone", []uint64{unix.CLONE_NEWUSER}, eperm},
		{plain, "clone", []uint64{unix.CLONE_VM | unix.CLONE_NEWNS}, eperm},
		{plain, "clone", []uint64{unix.CLONE_NEWNET}, eperm},
		{plain, "clone", []uint64{unix.CLONE_NEWPID}, eperm},
		{plain, "clone3", nil, enosys},
		{plain, "socket", []uint64{unix.AF_UNIX}, allow},
		{plain, "socket", []uint64{unix.AF_INET6}, allow},
		{plain, "socket", []uint64{unix.AF_NETLINK}, allow},
		{plain, "socket", []uint64{unix.AF_PACKET}, eperm},
		{raw, "socket", []uint64{unix.AF_PACKET}, allow},
		{plain, "socket", []uint64{unix.AF_ALG}, eperm},
		{plain, "socket", []uint64{unix.AF_VSOCK}, eperm},
		{plain, "socket", []uint64{1<<32 | unix.AF_INET}, eperm},
		{plain, "socketpair", []uint64{unix.AF_UNIX}, allow},
		{plain, "socketpair", []uint64{unix.AF_INET}, eperm},
		{plain, "clock_settime", nil, eperm},
		{raw, "clock_settime", nil, allow},
	} {
		if got := filter(t, tc.spec)(uint32(info.ID), uint32(info.SyscallNames[tc.name]), tc.args...); got != tc.want {
			t.Errorf("%s %v: %#x, want %#x", tc.name, tc.args, got, tc.want)
		}
	}
	run := filter(t, plain)
	for _, name := range []string{
		"mount", "umount2", "pivot_root", "chroot", "move_mount", "fsopen", "fsmount", "fspick", "open_tree",
		"mount_setattr", "unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd",
		"bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "init_module", "finit_module",
		"delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "syslog",
		"io_uring_setup", "io_uring_enter", "io_uring_register", "name_to_handle_at", "open_by_handle_at", "sethostname",
		"setdomainname", "settimeofday", "adjtimex", "clock_adjtime", "personality", "mknodat", "seccomp", "setuid",
		"setresuid", "setgroups", "vhangup", "move_pages", "mbind", "lookup_dcookie", "nfsservctl", "memfd_create", "memfd_secret", "execveat", "shmget", "fanotify_init",
	} {
		number, ok := info.SyscallNames[name]
		if !ok {
			t.Errorf("%s is unknown", name)
			continue
		}
		if got := run(uint32(info.ID), uint32(number)); got != eperm {
			t.Errorf("%s: %#x", name, got)
		}
	}
	// Whatever the arguments of a conditional call, they must not be taken for a system call's number.
	for family := range uint64(600) {
		known := family == unix.AF_UNIX || family == unix.AF_INET || family == unix.AF_INET6 || family == unix.AF_NETLINK
		if got := run(uint32(info.ID), uint32(info.SyscallNames["socket"]), family); got == allow != known {
			t.Errorf("socket(%d): %#x", family, got)
		}
		if got := run(uint32(info.ID), uint32(info.SyscallNames["socketpair"]), family); got == allow != (family == unix.AF_UNIX) {
			t.Errorf("socketpair(%d): %#x", family, got)
		}
	}
	// Other ABIs of the same processor have other numbers.
	for _, other := range []*arch.Info{arch.I386, arch.ARM} {
		if got := run(uint32(other.ID), uint32(other.SyscallNames["read"])); got == allow {
			t.Errorf("read of %s: %#x", other.Name, got)
		}
	}
	if info == arch.X86_64 {
		if got := run(uint32(info.ID), uint32(arch.X32.SeccompMask)|uint32(info.SyscallNames["read"])); got == allow {
			t.Errorf("read of x32: %#x", got)
		}
	}
}

func TestCommonListIsTidy(t *testing.T) {
	// Every name must exist on one of the two architectures that boxes have: one that does not is a typing error.
	for _, name := range commonNames() {
		_, amd := arch.X86_64.SyscallNames[name]
		_, arm := arch.AARCH64.SyscallNames[name]
		if !amd && !arm {
			t.Errorf("%s is unknown", name)
		}
	}
	// What Go's runtime and SQLite need must be there by the name that each architecture has for it.
	for _, need := range []string{
		"read", "write", "futex", "mmap", "munmap", "madvise", "rt_sigreturn", "rt_sigaction", "sigaltstack", "clone",
		"exit_group", "epoll_create1", "epoll_pwait", "epoll_ctl", "eventfd2", "pipe2", "fcntl", "flock", "fsync",
		"fdatasync", "ftruncate", "pread64", "pwrite64", "unlinkat", "getrandom", "sendmmsg", "recvmmsg", "accept4",
		"prlimit64", "sched_getaffinity", "sched_yield", "tgkill", "nanosleep", "membarrier", "rseq", "set_robust_list",
	} {
		for _, info := range []*arch.Info{arch.X86_64, arch.AARCH64} {
			p := (&Spec{}).policy(info)
			if _, ok := info.SyscallNames[need]; !ok {
				t.Errorf("%s is unknown on %s", need, info.Name)
			}
			found := need == "clone"
			for _, g := range p.Syscalls {
				for _, n := range g.Names {
					found = found || n == need
				}
			}
			if !found {
				t.Errorf("%s is not allowed on %s", need, info.Name)
			}
		}
	}
}

func TestParseCapabilities(t *testing.T) {
	got, err := parseCapabilities([]string{"CAP_CHOWN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_CHECKPOINT_RESTORE"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{
		unix.CAP_CHOWN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_SYS_TIME, unix.CAP_CHECKPOINT_RESTORE,
	} {
		if got[i] != want {
			t.Errorf("%d: got %d, want %d", i, got[i], want)
		}
	}
	if len(capabilityNames) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names", len(capabilityNames))
	}
	if _, err := parseCapabilities([]string{"CAP_NET_ADMIN", "cap_net_raw"}); err == nil {
		t.Error("no error")
	}
}
