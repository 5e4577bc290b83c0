package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon/devices"
	"github.com/croft-os/croft/services/supervisor/journal"
	"github.com/croft-os/croft/services/supervisor/sandbox"
	"golang.org/x/sys/unix"
)

// program is testdata/service, built without cgo; "" without root.
var program string

func TestMain(m *testing.M) {
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func testMain(m *testing.M) (int, error) {
	if os.Getuid() != 0 {
		return m.Run(), nil
	}
	if program = os.Getenv("CROFT_TEST_SERVICE"); program == "" { // set where there is no Go, such as in a VM
		dir, err := os.MkdirTemp("", "supervisor-test-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "service")
		cmd := exec.Command("go", "build", "-o", program, "./testdata/service")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build the test's service: %w\n%s", err, out)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// real is a supervisor with real processes, in directories and a cgroup of its own.
type real struct {
	*Supervisor
	t              *testing.T
	stateRoot, run string
	cgroups        string // "" without
	stop           func()
}

// testUID is the first of the uids that the tests' services have. It differs from that of a test that runs beside
// this one.
var testUID = uint32(100_000 + os.Getpid()%10_000*200)

// do declares a service that does these things.
func do(name string, things ...string) Service {
	return Service{
		Name: name, Command: append([]string{program}, things...), UID: testUID + uint32(name[0]),
		StopTimeout: 2 * time.Second, Restart: RestartNever,
	}
}

func newReal(t *testing.T) *real {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, dir := range []string{"sandbox", "probe", "testdata/service"} {
		sources, err := os.ReadDir(dir) // go test's cache notes what a test looks at; in a VM there is nothing
		if err != nil {
			break
		}
		for _, s := range sources {
			if _, err := os.Stat(filepath.Join(dir, s.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir, err := os.MkdirTemp("", "croft-") // short, for the paths of sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &real{t: t, stateRoot: filepath.Join(dir, "state"), run: filepath.Join(dir, "run"), cgroups: testCgroup(t)}
}

// testCgroup makes a cgroup for the test in whatever cgroup v2 hierarchy there is, and returns "" if there is none.
func testCgroup(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if !strings.Contains(line, " - cgroup2 ") {
			continue
		}
		dir := filepath.Join(f[4], fmt.Sprintf("croft-test-%d", os.Getpid()))
		for _, c := range []string{"+memory", "+cpu", "+pids", "+io"} { // as far as there are any
			os.WriteFile(filepath.Join(f[4], "cgroup.subtree_control"), []byte(c), 0)
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			continue
		}
		t.Cleanup(func() { os.Remove(dir) })
		return dir
	}
	return ""
}

func (r *real) start(services ...Service) {
	r.t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{r.t}, nil))
	s, err := New(Options{
		Services: services, Log: log, StateRoot: r.stateRoot, RunDir: r.run, CgroupRoot: r.cgroups,
		Launcher: []string{program, "launch"}, Hostname: func() string { return "croft" },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Supervisor = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		for _, d := range services {
			if left := (&child{uid: d.UID}).pids(); len(left) > 0 {
				r.t.Errorf("%s: processes are left: %v", d.Name, left)
			}
		}
	}
	r.t.Cleanup(r.stop)
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// await waits until a service is in a state.
func (r *real) await(name, state string) api.Service {
	r.t.Helper()
	var last api.Service
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, s := range r.Services() {
			if s.Name == name {
				last = s
			}
		}
		if last.State == state {
			return last
		}
	}
	r.t.Fatalf("%s is %s (%q), not %s; it wrote:\n%s", name, last.State, last.LastExit, state, r.output(name))
	return last
}

// logs returns all that a service has written, oldest first.
func (r *real) logs(name string) []journal.Entry {
	var all []journal.Entry
	for after := ""; ; {
		p, err := r.journal.Query(context.Background(), journal.Filter{Service: name, Level: slog.LevelDebug}, after, 200)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, p.Entries...)
		if after = p.Next; after == "" {
			slices.Reverse(all)
			return all
		}
	}
}

func (r *real) output(name string) string {
	var b strings.Builder
	for _, e := range r.logs(name) {
		fmt.Fprintf(&b, "%s %s\n", e.Msg, e.Fields)
	}
	return strings.ReplaceAll(b.String(), " \n", "\n")
}

// wrote waits until the service's output matches.
func (r *real) wrote(name, pattern string) string {
	r.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	var out string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if out = r.output(name); re.MatchString(out) {
			return re.FindString(out)
		}
	}
	r.t.Errorf("%s did not write %q but:\n%s", name, pattern, out)
	return ""
}

func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		m[k] = strings.Join(strings.Fields(v), " ")
	}
	return m
}

func TestProcessIsConfined(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Service)
		caps   string
		groups []string // that it may only do by grant
	}{
		{"without a network", func(*Service) {}, "0000000000000000", nil},
		{"with the box's network", func(s *Service) { s.Network = NetHost }, "0000000000000000", []string{"network"}},
		{"with capabilities", func(s *Service) {
			s.Network = NetHost
			s.Capabilities = []string{"CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}
		}, "0000000000002400", []string{"raw-socket", "network"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newReal(t)
			giveAway(t)
			a := do("a", "confined="+r.run, "ready", "wait")
			a.State, a.Runtime = true, true
			tc.change(&a)
			b := do("b", "ready", "wait")
			b.State = true
			r.start(a, b)
			s := r.await("a", api.StateRunning)
			r.await("b", api.StateRunning)
			if s.Confined == nil || !s.Confined.OK || len(s.Confined.Probes) < 15 {
				t.Errorf("confined: %+v", s.Confined)
			}
			var granted []string
			for _, p := range s.Confined.Probes {
				if p.Granted {
					granted = append(granted, p.Name)
				}
			}
			if !slices.Equal(granted, tc.groups) {
				t.Errorf("granted: %v", granted)
			}
			st := status(t, s.PID)
			id := strconv.Itoa(int(a.UID))
			for key, want := range map[string]string{
				"Uid": strings.Repeat(id+" ", 3) + id, "Gid": strings.Repeat(id+" ", 3) + id, "Groups": "",
				"CapInh": tc.caps, "CapPrm": tc.caps, "CapEff": tc.caps, "CapBnd": tc.caps, "CapAmb": tc.caps,
				"NoNewPrivs": "1", "Seccomp": "2", "NSpid": strconv.Itoa(s.PID) + " 1",
			} {
				if st[key] != want {
					t.Errorf("%s is %q, want %q", key, st[key], want)
				}
			}
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.PID))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`Max core file size +0 +0 `, `Max processes +64 +64 `, `Max open files +1024 +1024 `} {
				if !regexp.MustCompile(want).Match(limits) {
					t.Errorf("no %q in\n%s", want, limits)
				}
			}
			for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net"} {
				own, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.PID, ns))
				ours, err2 := os.Readlink("/proc/self/ns/" + ns)
				if shared := ns == "net" && a.Network == NetHost; err1 != nil || err2 != nil || (own == ours) != shared {
					t.Errorf("namespace %s: %q, ours %q, %v %v", ns, own, ours, err1, err2)
				}
			}
			checkMounts(t, s.PID, r.stateRoot+"/a", r.run+"/a")
			checkFiles(t, s.PID)
			if r.cgroups != "" {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.PID))
				if err != nil || !bytes.Contains(b, []byte("0::/"+filepath.Base(r.cgroups)+"/a\n")) {
					t.Errorf("cgroup: %v\n%s", err, b)
				}
			}
		})
	}
}

// giveAway gives the test's process what its children would inherit.
func giveAway(t *testing.T) {
	t.Helper()
	groups, err := syscall.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	var fds [2]int
	if err := errors.Join(syscall.Setgroups([]int{int(testUID)}), syscall.Pipe(fds[:])); err != nil { // without O_CLOEXEC
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(syscall.Setgroups(groups), syscall.Close(fds[0]), syscall.Close(fds[1])); err != nil {
			t.Error(err)
		}
	})
}

// checkMounts looks at what the process can write, execute and use as a device.
func checkMounts(t *testing.T, pid int, writable ...string) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		path, flags := f[4], strings.Split(f[5], ",")
		has := func(flag string) bool { return slices.Contains(flags, flag) }
		if has("ro") == (path == "/tmp" || slices.Contains(writable, path)) || !has("nosuid") ||
			has("nodev") == (path == "/dev") || has("noexec") == (path == program) {
			t.Errorf("mount of %s: %s", path, f[5])
		}
		seen++
	}
	if seen < 8 {
		t.Errorf("%d mounts:\n%s", seen, b)
	}
}

// checkFiles looks that the process inherited no descriptor but its output.
func checkFiles(t *testing.T, pid int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	pipes := map[string]bool{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed by now
		}
		if strings.HasPrefix(to, "pipe:") {
			pipes[to] = true
		} else if to != "/dev/null" && !strings.HasPrefix(to, "anon_inode:") {
			t.Errorf("descriptor %s is %s", e.Name(), to)
		}
	}
	if len(pipes) != 1 {
		t.Errorf("pipes: %v", pipes)
	}
}

// Each attempt is made from within; what the test sets up around it makes sure that it would succeed outside.
func TestBreakOut(t *testing.T) {
	r := newReal(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	abstract, err := net.Listen("unix", fmt.Sprintf("@croft-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	own := filepath.Join(r.stateRoot, "a")
	others := filepath.Join(r.stateRoot, "b")
	sock := func(name string) string { return "dial=unix," + filepath.Join(r.run, name+".sock") }

	victim := do("b", "write="+others+"/secret", "ready", "wait")
	victim.State, victim.Listeners = true, []Listener{{Name: "b", Network: "unix", Address: "b.sock"}}
	friend := do("c", "ready", "wait")
	friend.Listeners = []Listener{{Name: "c", Network: "unix", Address: "c.sock"}}
	a := do("a",
		"list=/", "list="+r.stateRoot, "list="+r.run, "list=/proc", "list=/sys", "list=/dev",
		"read="+others+"/secret", "write="+others+"/x", "write=/x", "write=/dev/x", "write=/proc/self/oom_score_adj",
		"write="+own+"/mine", "write=/tmp/mine", "read="+own+"/mine", "copy="+own+"/prog",
		"dial=tcp,"+tcp.Addr().String(), sock("b"), sock("c"), "dial=unix,"+abstract.Addr().String(),
		"raw", "mount=/tmp", "unshare", "kill="+strconv.Itoa(os.Getpid()), "hostname", "ready", "wait")
	a.State, a.After, a.Connect = true, []string{"b", "c"}, []string{"c", "missing"}
	// With capabilities that would suffice, what still refuses is the filter of system calls.
	a.Capabilities = []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_KILL"}
	r.start(victim, friend, a)
	r.await("a", api.StateRunning)
	if _, err := os.Stat(others + "/secret"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`^list / \[dev proc sys tmp\] <nil>$|^list / \[dev proc .*sys tmp\] <nil>$`,
		`^list \S+/state \[a\] <nil>$`,
		`^list \S+/run \[\.notify c\.sock\] <nil>$`,
		`^list /proc \[1 self thread-self\] <nil>$`,
		`^list /sys \[\] <nil>$`,
		`^list /dev \[full null random urandom zero\] <nil>$`,
		`^read \S+/b/secret 0 .*no such file or directory$`,
		`^write \S+/b/x .*no such file or directory$`,
		`^write /x .*(read-only file system|permission denied)$`,
		`^write /dev/x .*(read-only file system|permission denied)$`,
		`^write /proc/self/oom_score_adj .*(read-only file system|permission denied)$`,
		`^write \S+/a/mine <nil>$`,
		`^write /tmp/mine <nil>$`,
		`^read \S+/a/mine 1 <nil>$`,
		`^copy <nil>$`,
		`^exec .*permission denied$`,
		`^dial tcp .*(permission denied|network is unreachable)$`,
		`^dial unix .*b\.sock: connect: (no such file or directory)$`,
		`^dial unix <nil>$`, // the granted one
		`^dial unix .*@croft-test-\d+: connect: (connection refused|operation not permitted)$`,
		`^raw false operation not permitted$`,
		`^mount operation not permitted$`,
		`^unshare operation not permitted$`,
		`^kill no such process$`,
		`^hostname croft <nil>$`,
	} {
		r.wrote("a", want)
	}
	r.stop()
	if b, err := os.ReadFile(own + "/mine"); err != nil || string(b) != "x" {
		t.Errorf("the state did not last: %q %v", b, err)
	}
}

// In the box's own network only Landlock stands between a service and abstract sockets.
func TestBreakOutHostNetwork(t *testing.T) {
	r := newReal(t)
	abstract, err := net.Listen("unix", fmt.Sprintf("@croft-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	etc := filepath.Join(t.TempDir(), "etc")
	shared := filepath.Join(r.run, "b")
	if err := errors.Join(os.MkdirAll(etc, 0o755), os.MkdirAll(shared, 0o755),
		os.Symlink(shared+"/resolv.conf", etc+"/resolv.conf"), os.Symlink(etc+"/later", etc+"/dangling")); err != nil {
		t.Fatal(err)
	}
	a := do("a", "dial=unix,"+abstract.Addr().String(), "dial=tcp,"+tcp.Addr().String(), "raw", "ready",
		"wait", "read="+etc+"/resolv.conf", "write="+shared+"/x")
	a.Network, a.ReadOnly = NetHost, []string{etc + "/resolv.conf", etc + "/dangling", "/nowhere"}
	b := do("b", "ready", "wait")
	b.Runtime = true
	c := do("c", "dial=udp,"+tcp.Addr().String(), "dial=tcp,"+tcp.Addr().String(), "ready", "wait")
	c.Network = NetUDP
	r.start(b, a, c)
	r.await("a", api.StateRunning)
	r.await("c", api.StateRunning)
	r.wrote("c", `^dial udp <nil>$`)
	if sandbox.LandlockABI() >= 4 {
		r.wrote("c", `^dial tcp .*permission denied$`)
	}
	if !slices.ContainsFunc(r.Gaps(), func(g api.Gap) bool { return strings.HasPrefix(g.Name, "landlock") }) {
		r.wrote("a", `^dial unix .*operation not permitted$`)
	}
	r.wrote("a", `^dial tcp <nil>$`)
	r.wrote("a", `^raw false operation not permitted$`)
	// A file that another service replaces while this one runs is seen, by way of its directory.
	if err := errors.Join(os.WriteFile(shared+"/new", []byte("nameserver"), 0o644), os.Rename(shared+"/new", shared+"/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.wrote("a", `^read \S+/resolv.conf 10 <nil>$`)
	r.wrote("a", `^write \S+/x .*(read-only file system|permission denied)$`)
}

func TestEnvironment(t *testing.T) {
	r := newReal(t)
	t.Setenv("SECRET_OF_THE_SUPERVISOR", "x")
	a := do("a", "env", "ready", "wait")
	a.State, a.Runtime, a.Watchdog, a.Env = true, true, time.Minute, []string{"OWN=1"}
	a.Listeners = []Listener{{Name: "x", Network: "unix", Address: "x.sock"}, {Name: "y", Network: "udp", Address: "127.0.0.1:0"}}
	b := do("b", "env", "ready", "wait")
	b.Env = []string{"GOMEMLIMIT=1000000000"}
	r.start(a, b)
	r.await("a", api.StateRunning)
	r.await("b", api.StateRunning)
	r.stop() // then all that they wrote has been read
	for name, want := range map[string][]string{
		"a": {
			"GOMEMLIMIT=53687088", "LISTEN_FDNAMES=x:y", "LISTEN_FDS=2", "LISTEN_PID=1", "NOTIFY_SOCKET=" + r.run + "/.notify/a",
			"OWN=1", "RUNTIME_DIRECTORY=" + r.run + "/a", "STATE_DIRECTORY=" + r.stateRoot + "/a", "WATCHDOG_USEC=60000000",
		},
		"b": {"GOMEMLIMIT=1000000000", "NOTIFY_SOCKET=" + r.run + "/.notify/b"},
	} {
		var got []string
		for _, e := range r.logs(name) {
			if v, ok := strings.CutPrefix(e.Msg, "env "); ok {
				got = append(got, v)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
}

// Nobody is refused while a service restarts, and a crash does not lose the listener either.
func TestListenersStayOpen(t *testing.T) {
	r := newReal(t)
	a := do("a", "ready", "serve=hello", "wait")
	a.Restart = RestartAlways
	a.Listeners = []Listener{{Name: "x", Network: "unix", Address: "x.sock"}}
	r.start(a)
	r.await("a", api.StateRunning)
	ask := func() string {
		c, err := net.Dial("unix", filepath.Join(r.run, "x.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		return line
	}
	if got := ask(); got != "hello 1\n" {
		t.Errorf("got %q", got)
	}
	for i := range 3 {
		before := r.await("a", api.StateRunning).PID
		if i == 2 {
			syscall.Kill(before, syscall.SIGKILL)
		} else if err := r.Restart("a"); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); ; {
			ask()
			if s := r.await("a", api.StateRunning); s.PID != before && s.PID != 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("no restart")
			}
		}
	}
}

func TestPortTaken(t *testing.T) {
	r := newReal(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	a := do("a", "ready", "serve=hello", "wait")
	a.Restart = RestartAlways
	a.Listeners = []Listener{{Name: "x", Network: "tcp", Address: taken.Addr().String()}}
	r.start(a, do("b", "ready", "wait"))
	r.await("b", api.StateRunning)
	if s := r.await("a", api.StateBackoff); !strings.Contains(s.LastExit, "can't listen on "+taken.Addr().String()) {
		t.Errorf("%+v", s)
	}
	taken.Close()
	r.await("a", api.StateRunning)
	c, err := net.Dial("tcp", taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A service that was taken over can shut its listener down, but not for the one that is started after it.
func TestDeafenedListener(t *testing.T) {
	r := newReal(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	a := do("a", "deafen", "ready", "wait")
	a.Listeners = []Listener{{Name: "x", Network: "tcp", Address: addr}}
	r.start(a)
	r.await("a", api.StateRunning)
	r.wrote("a", "^deafen <nil>$")
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Fatal("still heard")
	}
	u := r.byName["a"]
	if err := u.sup.backend.(*launcher).rigs[u].sockets[0].open(t.Context(), r.run); err != nil { // as the next start does
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestForkBomb(t *testing.T) {
	r := newReal(t)
	a := do("a", "ready", "fork", "wait")
	r.start(a)
	r.await("a", api.StateRunning)
	out := r.wrote("a", `^fork failed after \d+ .*resource temporarily unavailable$`)
	var n int
	if fmt.Sscanf(out, "fork failed after %d", &n); n > 64 {
		t.Errorf("%d processes", n)
	}
	r.stop() // looks that nothing is left
}

func TestEatMemory(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cgroups bool
		eat     string
	}{
		{"in a cgroup", true, "eat=300"},
		{"watched by uid", false, "eat=300"},
		{"shared, in a cgroup", true, "share=300"},
		{"shared, watched by uid", false, "share=300"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newReal(t)
			if !tc.cgroups {
				r.cgroups = ""
			}
			a := do("a", "ready", "eat=40", "say=survived", tc.eat, "wait")
			r.start(a, do("b", "ready", "wait"))
			if s := r.await("a", api.StateFailed); s.LastExit != "killed: memory limit 64 MB" {
				t.Errorf("ended by %q\n%s", s.LastExit, r.output("a"))
			}
			r.wrote("a", "^survived$")
			r.await("b", api.StateRunning)
			enforced := !slices.ContainsFunc(r.Gaps(), func(g api.Gap) bool { return g.Name == "memory-limit" })
			t.Log("enforced by the kernel:", enforced)
		})
	}
}

// Root itself can't speak for a service.
func TestForeignNotification(t *testing.T) {
	r := newReal(t)
	a := do("a", "wait")
	a.ReadyTimeout = time.Minute
	r.start(a)
	r.await("a", api.StateStarting)
	c, err := net.Dial("unixgram", filepath.Join(r.run, notifyDir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1\nSTATUS=forged")); err != nil {
		t.Fatal(err)
	}
	// Nor can anybody fill the supervisor's table of descriptors.
	f, err := os.CreateTemp(t.TempDir(), "sent")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	if err := raw.Control(func(fd uintptr) {
		serr = unix.Sendmsg(int(fd), []byte("STATUS=x"), unix.UnixRights(int(f.Fd())), nil, 0)
	}); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	time.Sleep(200 * time.Millisecond)
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	open := 0
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == f.Name() {
			open++
		}
	}
	if open != 1 {
		t.Errorf("the sent file is open %d times", open)
	}
	if s := r.await("a", api.StateStarting); s.Status != "" {
		t.Errorf("%+v", s)
	}
}

// oneDevice hands one file to one user, to write or only to read.
type oneDevice struct {
	path string
	uid  uint32
}

func (o oneDevice) List(uint32) []api.OpenDevice { return nil }

func (o oneDevice) Open(uid uint32, name string) (f, direct *os.File, err error) {
	if uid != o.uid {
		return nil, nil, errors.New("not for you")
	}
	flags := os.O_RDWR
	if name == api.DeviceRoot {
		flags = os.O_RDONLY
	}
	if f, err = os.OpenFile(o.path, flags, 0); err != nil {
		return nil, nil, err
	}
	if direct, err = os.OpenFile(o.path, os.O_RDONLY|unix.O_DIRECT, 0); err != nil { // a file system that can't
		return f, nil, nil
	}
	return f, direct, nil
}

// TestProcessDevices lets a service in its sandbox, without any right to files or devices, use what it is sent: descriptors come
// through seccomp and Landlock, and can do what they were opened for and no more.
func TestProcessDevices(t *testing.T) {
	r := newReal(t)
	path := filepath.Join(filepath.Dir(r.run), "medium")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(r.run, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(r.run, "devices.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	a := do("a", "device="+r.run+":"+api.DeviceRootIdle, "device="+r.run+":"+api.DeviceRoot, "ready", "wait")
	a.Connect = []string{"devices"}
	b := do("b", "device="+r.run+":"+api.DeviceRootIdle, "ready", "wait")
	c := b
	c.Name, c.UID, c.Connect = "c", a.UID+2, a.Connect
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go devices.Serve(ctx, l, oneDevice{path, a.UID}, slog.New(slog.DiscardHandler))
	r.start(a, b, c)
	r.wrote("a", "^device root-idle 1048576 <nil> written$")
	r.wrote("a", "^device root 1048576 .*bad file descriptor")
	r.wrote("b", "^device root-idle .*no such file or directory")
	r.wrote("c", "^device root-idle init opens no device: not for you$")
	content, err := os.ReadFile(path)
	if err != nil || string(content[4096:4103]) != "written" {
		t.Errorf("%q, %v", content[4096:4103], err)
	}
}

func TestWatchdogAndDeafService(t *testing.T) {
	r := newReal(t)
	a := do("a", "ready", "watchdog", "hang")
	a.Watchdog = 500 * time.Millisecond
	r.start(a)
	if s := r.await("a", api.StateFailed); s.LastExit != "killed: no sign of life for 500ms" {
		t.Errorf("%+v", s)
	}
}

func TestStacksOfASilentServiceAreKept(t *testing.T) {
	r := newReal(t)
	a := do("a", "ready", "wait")
	a.Watchdog = 200 * time.Millisecond
	r.start(a)
	r.await("a", api.StateFailed)
	r.wrote("a", `^SIGABRT: abort`)
	r.wrote("a", `^goroutine 1 `)
}

func TestEndings(t *testing.T) {
	for _, tc := range []struct {
		name, do, state, exit, log string
	}{
		{"panic", "panic=ouch", api.StateFailed, "exit status 2", "^panic: ouch"},
		{"configuration", "exit=78", api.StateFailed, "exit status 78", ""},
		{"well", "exit=0", api.StateDone, "exit status 0", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newReal(t)
			r.start(do("a", tc.do))
			if s := r.await("a", tc.state); s.LastExit != tc.exit {
				t.Errorf("%+v", s)
			}
			r.wrote("a", tc.log)
		})
	}
	t.Run("no program", func(t *testing.T) {
		r := newReal(t)
		a := do("a")
		a.Command[0] = "/no/such/program"
		r.start(a)
		if s := r.await("a", api.StateFailed); s.LastExit != "could not enter its sandbox" {
			t.Errorf("%+v", s)
		}
		r.wrote("a", `no such file or directory`)
	})
	t.Run("deaf", func(t *testing.T) {
		r := newReal(t)
		a := do("a", "ready", "hang")
		a.StopTimeout = 300 * time.Millisecond
		r.start(a)
		r.await("a", api.StateRunning)
		r.stop()
		r.await("a", api.StateStopped)
	})
}

// Orphans are collected, children that somebody waits for are not.
func TestReap(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); reap(ctx, slog.New(slog.DiscardHandler), time.Second) }()
	defer func() { cancel(); <-done }()
	var orphans []string
	for range 10 {
		var out bytes.Buffer
		cmd := exec.Command("/bin/sh", "-c", `(sh -c 'exit 0' & echo $!); exit 7`)
		cmd.Stdout = &out
		var ee *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &ee) || ee.ExitCode() != 7 {
			t.Fatalf("a child was stolen: %v", err)
		}
		orphans = append(orphans, strings.TrimSpace(out.String()))
	}
	for _, pid := range orphans {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("orphan %s is left", pid)
			}
		}
	}
}
