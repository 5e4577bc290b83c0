package kernels

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// tests of the supervisor that run in the machine.
const tests = "TestProcess|TestBreakOut|TestEnvironment|TestListeners|TestForkBomb|TestEatMemory|TestEndings"

func TestShippedKernels(t *testing.T) {
	if testing.Short() {
		t.Skip("boots virtual machines")
	}
	for _, k := range []struct {
		module, arch, cmdline string
		qemu                  []string
		gaps                  []string // what it can't enforce: docs/boards.md says so too
	}{
		{
			"github.com/gokrazy/kernel.amd64", "amd64", "console=ttyS0",
			[]string{"qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max"},
			[]string{"cpu-limit", "memory-limit", "user-namespaces"},
		},
		{
			"github.com/gokrazy/kernel.arm64", "arm64", "console=ttyAMA0",
			[]string{"qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"},
			[]string{"cpu-limit", "io-weight"},
		},
		{
			"github.com/gokrazy/kernel.rpi", "arm64", "console=ttyAMA0 lsm=landlock cgroup_enable=memory",
			[]string{"qemu-system-aarch64", "-machine", "virt,gic-version=2", "-cpu", "cortex-a72"},
			[]string{"io-weight"},
		},
	} {
		t.Run(filepath.Base(k.module), func(t *testing.T) {
			dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", k.module).Output()
			if err != nil {
				t.Fatalf("find %s: %v", k.module, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, k.qemu[0], append(k.qemu[1:], "-smp", "2", "-m", "768", "-nographic", "-no-reboot",
				"-nic", "none", "-kernel", filepath.Join(strings.TrimSpace(string(dir)), "vmlinuz"), "-initrd", initramfs(t, k.arch),
				"-append", k.cmdline+" quiet panic=1 tests="+tests)...)
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("result: <nil>")) {
				t.Fatalf("%v\n%s", err, out)
			}
			if n := bytes.Count(out, []byte("\n--- PASS: ")); n < 8 {
				t.Errorf("%d tests passed:\n%s", n, out)
			}
			var gaps []string
			for _, m := range regexp.MustCompile(` gap=(\S+)`).FindAllSubmatch(firstTest(out), -1) {
				gaps = append(gaps, string(m[1]))
			}
			slices.Sort(gaps)
			if gaps = slices.Compact(gaps); !slices.Equal(gaps, k.gaps) {
				t.Errorf("gaps are %v, want %v", gaps, k.gaps)
			}
		})
	}
}

// firstTest returns what the first test wrote, which uses all that the kernel has.
func firstTest(out []byte) []byte {
	first, _, _ := bytes.Cut(out, []byte("\n--- PASS: "))
	return first
}

// initramfs builds the programs for an architecture and packs them.
func initramfs(t *testing.T, arch string) string {
	t.Helper()
	for _, dir := range []string{"..", "../sandbox", "../probe", "../journal", "../service", "../testdata/service"} {
		sources, err := filepath.Glob(dir + "/*.go") // go test's cache notes what a test looks at
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sources {
			if _, err := os.Stat(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	for _, args := range [][]string{
		{"build", "-o", "init", "./testdata/init"},
		{"build", "-o", "service", "../testdata/service"},
		{"test", "-c", "-o", "tests", ".."},
	} {
		args[slices.Index(args, "-o")+1] = filepath.Join(dir, args[slices.Index(args, "-o")+1])
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	var b bytes.Buffer
	// The "newc" format of cpio: Documentation/driver-api/early-userspace/buffer-format.rst.
	entry := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			b.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	entry("dev", 0o40755, 0, 0, nil)
	entry("dev/console", 0o20600, 5, 1, nil)
	for _, name := range []string{"init", "service", "tests"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		entry(name, 0o100755, 0, 0, data)
	}
	entry("TRAILER!!!", 0, 0, 0, nil)
	path := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
