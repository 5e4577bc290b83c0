package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Interface files of cgroup v2 that bound a service (Documentation/admin-guide/cgroup-v2.rst).
const (
	memoryMax = "memory.max"
	cpuMax    = "cpu.max"
	cpuWeight = "cpu.weight" // the same for all, by default
	pidsMax   = "pids.max"
	ioWeight  = "io.weight"
)

// cgroups is a cgroup v2 directory in which each service gets one of its own.
type cgroups struct {
	root string
	has  map[string]bool  // which interface files a service's cgroup has
	why  map[string]error // why a controller could not be enabled
}

// openCgroups enables the controllers, as far as the kernel has them, and looks what that gives.
func openCgroups(root string) (*cgroups, error) {
	c := &cgroups{root: root, has: map[string]bool{}, why: map[string]error{}}
	for _, name := range []string{"memory", "cpu", "pids", "io"} { // one by one: a missing one would refuse them all
		c.why[name] = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+name), 0)
	}
	try := filepath.Join(root, "supervisor.try")
	if err := os.Mkdir(try, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	defer os.Remove(try)
	if _, err := os.Stat(filepath.Join(try, "cgroup.procs")); err != nil {
		return nil, fmt.Errorf("%s is not cgroup v2: %w", root, err)
	}
	for _, name := range []string{memoryMax, cpuMax, cpuWeight, pidsMax, ioWeight} {
		if _, err := os.Stat(filepath.Join(try, name)); err == nil {
			c.has[name] = true
		}
	}
	return c, nil
}

// cgroup is one service's.
type cgroup struct {
	path         string
	dir          *os.File // to clone into; closed after that
	limitsMemory bool
}

// make makes a service's cgroup with its limits.
func (c *cgroups) make(name string, l Limits) (*cgroup, error) {
	g := &cgroup{path: filepath.Join(c.root, name), limitsMemory: c.has[memoryMax]}
	err := os.Mkdir(g.path, 0o755)
	if errors.Is(err, fs.ErrExist) { // left by an earlier run: Linux 6.18 kills whatever starts in a cgroup once killed
		g.kill()
		if err = g.remove(); err == nil {
			err = os.Mkdir(g.path, 0o755)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	for _, set := range []struct{ need, file, value string }{
		{memoryMax, memoryMax, strconv.FormatInt(l.Memory, 10)},
		{memoryMax, "memory.swap.max", "0"},
		{memoryMax, "memory.oom.group", "1"},
		{cpuMax, cpuMax, quota(l.CPU)},
		{pidsMax, pidsMax, strconv.Itoa(l.Pids)},
		{ioWeight, ioWeight, strconv.Itoa(l.IOWeight)},
	} {
		if !c.has[set.need] {
			continue
		}
		err := os.WriteFile(filepath.Join(g.path, set.file), []byte(set.value), 0)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && set.file != set.need) { // swap.max needs swap in the kernel
			return nil, fmt.Errorf("set a limit: %w", err)
		}
	}
	dir, err := os.Open(g.path)
	if err != nil {
		return nil, err
	}
	g.dir = dir
	return g, nil
}

// quota returns the value of cpu.max for a percentage of one core; 0 is no limit.
func quota(percent int) string {
	if percent <= 0 {
		return "max 100000"
	}
	return fmt.Sprintf("%d 100000", percent*1000)
}

// kill ends all processes in the cgroup; since Linux 5.14.
func (g *cgroup) kill() { os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0) }

func (g *cgroup) procs() []string {
	b, err := os.ReadFile(filepath.Join(g.path, "cgroup.procs"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// memoryKills returns how many processes the kernel killed for exceeding the limit.
func (g *cgroup) memoryKills() int {
	b, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(n))
			return n
		}
	}
	return 0
}

// remove removes the cgroup; the kernel may take a moment to let go of the last process.
func (g *cgroup) remove() error {
	var err error
	for range 20 {
		if err = os.Remove(g.path); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
