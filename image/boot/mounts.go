package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func (b *Box) mounts() (string, error) {
	const nodevsuid = unix.MS_NODEV | unix.MS_NOSUID
	var errs []error
	for _, m := range []struct {
		kind, target, opts string
		flags              uintptr
	}{
		{"devtmpfs", "/dev", "mode=0755,size=1m", unix.MS_NOSUID},
		{"proc", "/proc", "hidepid=2", nodevsuid | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", nodevsuid | unix.MS_NOEXEC},
		{"tmpfs", "/run", "mode=0755,size=20%", nodevsuid | unix.MS_NOEXEC},
		{"tmpfs", "/tmp", "mode=1777,size=20%", nodevsuid | unix.MS_NOEXEC},
		{"cgroup2", cgroupRoot, "", nodevsuid | unix.MS_NOEXEC},
	} {
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.opts); err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err))
		}
	}
	if err := mountEFI(); err != nil {
		errs = append(errs, err)
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		errs = append(errs, err)
	}
	for name, value := range sysctls {
		path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("sysctl %s: %w", name, err))
		}
	}
	return "", errors.Join(errs...)
}

// sysctls that every box gets; a name that the kernel lacks is passed over.
var sysctls = map[string]string{
	"kernel.panic":                                  "10", // a kernel that panics restarts
	"kernel.panic_on_oops":                          "1",
	"kernel.printk":                                 "4 4 1 4", // the console is for people
	"kernel.kptr_restrict":                          "2",
	"kernel.dmesg_restrict":                         "1",
	"kernel.yama.ptrace_scope":                      "2",
	"kernel.unprivileged_bpf_disabled":              "1",
	"net.core.rmem_max":                             "7500000", // what QUIC asks for
	"net.core.wmem_max":                             "7500000",
	"net.core.bpf_jit_harden":                       "2",
	"net.ipv4.conf.all.rp_filter":                   "2",
	"net.ipv4.conf.all.arp_announce":                "2", // several cables in one network: answer for what is on the port
	"net.ipv4.conf.all.arp_ignore":                  "1",
	"net.ipv4.conf.all.ignore_routes_with_linkdown": "1",
	"net.ipv4.conf.all.accept_redirects":            "0",
	"net.ipv6.conf.all.accept_redirects":            "0",
	"net.ipv4.icmp_ignore_bogus_error_responses":    "1",
	"fs.protected_hardlinks":                        "1",
	"fs.protected_symlinks":                         "1",
	"fs.protected_fifos":                            "2",
	"fs.protected_regular":                          "2",
	"vm.dirty_background_bytes":                     "4194304",
	"vm.dirty_bytes":                                "16777216",
}

// setName sets the host name and brings the loopback interface up.
func (b *Box) setName() (string, error) {
	name := b.name()
	var errs []error
	if err := b.setHostname([]byte(name)); err != nil {
		errs = append(errs, fmt.Errorf("host name: %w", err))
	}
	if err := loopbackUp(); err != nil {
		errs = append(errs, fmt.Errorf("loopback: %w", err))
	}
	return name, errors.Join(errs...)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// sinceBoot is the time since the kernel started.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// parseCmdline splits the kernel's command line; a word without "=" has the value "".
func parseCmdline(s string) map[string]string {
	m := map[string]string{}
	for _, w := range strings.Fields(s) {
		k, v, _ := strings.Cut(w, "=")
		m[k] = v
	}
	return m
}

func readFile(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// writeAtomic replaces the file at path so that a power cut leaves the old or the new content, never a mixture.
func writeAtomic(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, werr := f.Write(b)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
