// Package probe tries to get out of the sandbox that the calling process is in, by harmless attempts that a hole
// would let succeed. It is light, since every service carries it.
//
// It reports what it could and could not do; whether that was granted is for the supervisor to judge. A service that
// was taken over can lie: the report is made right after the start, and is a check of the sandbox, not of the
// service.
package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/croft-os/croft/services/api"
	"golang.org/x/sys/unix"
)

// Names of the sockets that the supervisor opens for the probes, and no service may reach.
const (
	CanarySocket   = ".canary.sock" // in the directory of sockets
	CanaryAbstract = "croft-canary" // abstract
)

// Names of probes whose success may have been granted.
const (
	RawSocket = "raw-socket"
	Network   = "network"
	Clock     = "set-clock"
)

// Run tries everything. socketDir is where the sockets of services stand; stateDir is the own state directory, or "".
func Run(socketDir, stateDir string) api.Confined {
	c := api.Confined{OK: true}
	for _, t := range []struct {
		name string
		try  func() error // nil means that it worked
	}{
		{"write-root", func() error { return create("/croft-probe") }},
		{"write-etc", func() error { return create("/etc/croft-probe") }},
		{"write-run", func() error { return create(filepath.Join(socketDir, "croft-probe")) }},
		{"read-other-state", func() error { return others(stateDir) }},
		{"other-socket", func() error { return connect(filepath.Join(socketDir, CanarySocket)) }},
		{"abstract-socket", func() error { return connect("\x00" + CanaryAbstract) }},
		{RawSocket, func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
		{Network, loopback},
		{"see-processes", processes},
		{"signal-others", func() error { return unix.Kill(-1, 0) }},
		{"ptrace", func() error { return call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1<<22, 0, 0) }},
		{"mount", func() error { return unix.Mount("probe", "/tmp", "tmpfs", 0, "") }},
		{"user-namespace", func() error { return call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0, 0) }},
		{"bpf", func() error { return call(unix.SYS_BPF, 0, 0, 0, 0) }},
		{"keyring", func() error { return call(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 0, 0) }},
		{Clock, setClock},
		{"no-new-privileges", privileges},
	} {
		err := t.try()
		p := api.Probe{Name: t.name, Held: err != nil}
		if err != nil {
			p.Note = err.Error()
		}
		c.OK = c.OK && p.Held
		c.Probes = append(c.Probes, p)
	}
	return c
}

// call makes a system call that a filter is to refuse, with arguments that can do nothing if it does not. Only the
// refusals of a filter or of missing privilege count as such.
func call(number, a, b, c, d uintptr) error {
	_, _, e := unix.Syscall6(number, a, b, c, d, 0, 0)
	if e == unix.EPERM || e == unix.EACCES || e == unix.ENOSYS {
		return e
	}
	return nil
}

func create(path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
		unix.Unlink(path)
	}
	return err
}

// others looks for state directories beside the own one.
func others(stateDir string) error {
	if stateDir == "" {
		return errors.New("none to be seen")
	}
	entries, err := os.ReadDir(filepath.Dir(stateDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(stateDir) {
			return nil
		}
	}
	return errors.New("none to be seen")
}

func socket(domain, kind, proto int) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func connect(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != unix.EAGAIN { // its queue is full: reached
		return err
	}
	return nil
}

// loopback tells whether there is a network at all: port 1 of loopback refuses, or there is no way to it.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: 1, Addr: [4]byte{127, 0, 0, 1}})
	if err == unix.ECONNREFUSED || err == unix.EINPROGRESS {
		return nil
	}
	return err
}

// processes looks for processes of others.
func processes() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && strings.Trim(e.Name(), "0123456789") == "" {
			var st unix.Stat_t
			if unix.Stat(filepath.Join("/proc", fi.Name()), &st) == nil && int(st.Uid) != os.Getuid() {
				return nil
			}
		}
	}
	return errors.New("none to be seen")
}

// setClock asks for a change of nothing: adjtimex(2) with modes that change need the right to set the clock.
func setClock() error {
	tx := unix.Timex{Modes: unix.ADJ_TICK, Tick: 0} // 0 is out of range: EINVAL for who may, EPERM for who may not
	_, _, e := unix.Syscall(unix.SYS_ADJTIMEX, uintptr(unsafe.Pointer(&tx)), 0, 0)
	if e == unix.EPERM || e == unix.ENOSYS {
		return e
	}
	return nil
}

// privileges looks whether a set-uid program could raise privileges.
func privileges() error {
	v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("can't tell: %w", err)
	}
	if v == 1 && os.Getuid() != 0 {
		return errors.New("can't be raised")
	}
	return nil
}
