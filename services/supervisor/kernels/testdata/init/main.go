// Command init is PID 1 of the test's virtual machine: it mounts what the tests need, runs them and switches off.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

const newRoot = "/root"

func main() {
	if err := run(); err != nil {
		fmt.Println("init:", err)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if len(os.Args) == 1 {
		return leaveInitramfs()
	}
	for _, m := range []struct{ kind, path, data string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""}, {"tmpfs", "/tmp", "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := errors.Join(os.MkdirAll(m.path, 0o755), unix.Mount(m.kind, m.path, m.kind, 0, m.data)); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	args := []string{"-test.v"}
	for _, f := range strings.Fields(string(cmdline)) {
		if v, ok := strings.CutPrefix(f, "tests="); ok {
			args = append(args, "-test.run="+v)
		}
	}
	cmd := exec.Command("/tests", args...)
	cmd.Env = []string{"CROFT_TEST_SERVICE=/service"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	fmt.Println("result:", cmd.Run())
	return nil
}

// leaveInitramfs moves to a root file system that pivot_root(2) accepts as one, and starts again there.
func leaveInitramfs() error {
	if err := errors.Join(os.MkdirAll(newRoot, 0o755), unix.Mount("root", newRoot, "tmpfs", 0, "mode=0755")); err != nil {
		return err
	}
	for _, f := range []string{"/init", "/tests", "/service"} {
		if err := copyFile(f, newRoot+f); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chdir(newRoot), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."),
		os.Chdir("/")); err != nil {
		return err
	}
	return unix.Exec("/init", []string{"/init", "again"}, os.Environ())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
