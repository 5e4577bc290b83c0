package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/probe"
	"github.com/croft-os/croft/services/supervisor/sandbox"
)

// launcher is the backend that starts real processes, by way of sandbox.Main.
type launcher struct {
	Options
	cgroups  *cgroups // nil without
	rigs     map[*unit]*rig
	canaries []net.Listener
	found    atomic.Pointer[[]api.Gap] // nil before prepare
	ctx      context.Context           // of Run: for listeners that are opened late
}

// rig is what a service keeps over restarts.
type rig struct {
	notify  *notifySocket
	sockets []*socket
	err     error // why the service can't be started at all
}

// Names in RunDir that no service has, since they begin with a dot.
const (
	rootDir   = ".root"   // where each sandbox builds its root file system, in its own mount namespace
	notifyDir = ".notify" // notification sockets
)

func newLauncher(o Options) (*launcher, error) {
	if len(o.Launcher) == 0 || !filepath.IsAbs(o.Launcher[0]) {
		return nil, fmt.Errorf("supervisor: the launcher %q has no absolute path", o.Launcher)
	}
	for _, dir := range []string{o.StateRoot, o.RunDir} {
		if !filepath.IsAbs(dir) || dir == "/" {
			return nil, fmt.Errorf("supervisor: directory %q has no absolute path", dir)
		}
	}
	return &launcher{Options: o, rigs: map[*unit]*rig{}}, nil
}

func (l *launcher) prepare(ctx context.Context, units []*unit) error {
	l.ctx = ctx
	for dir, mode := range map[string]os.FileMode{
		l.RunDir: 0o755, filepath.Join(l.RunDir, rootDir): 0o700, filepath.Join(l.RunDir, notifyDir): 0o755,
	} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
	}
	if l.CgroupRoot != "" {
		c, err := openCgroups(l.CgroupRoot)
		if err != nil {
			l.Log.Warn("no cgroups", "err", err)
		}
		l.cgroups = c
	}
	found := findGaps(l.cgroups)
	l.found.Store(&found)
	for _, g := range found {
		l.Log.Info("the kernel can't enforce something", "gap", g.Name, "detail", g.Detail)
	}
	for _, u := range units {
		r := &rig{}
		l.rigs[u] = r
		r.notify, r.err = listenNotify(filepath.Join(l.RunDir, notifyDir, u.decl.Name))
		if r.err != nil {
			continue
		}
		go r.notify.receive(ctx, u.inbox)
		for _, d := range u.decl.Listeners {
			s := &socket{decl: d}
			r.sockets = append(r.sockets, s)
			if err := s.open(ctx, l.RunDir); err != nil {
				l.Log.Warn("listener not open yet", "service", u.decl.Name, "err", err)
			}
		}
		if u.decl.Runtime { // before anyone is to see it
			r.err = makeDir(filepath.Join(l.RunDir, u.decl.Name), 0o755, u.decl.UID)
		}
	}
	return l.putCanaries(ctx)
}

// putCanaries opens sockets that no service may reach, for the probes to try.
func (l *launcher) putCanaries(ctx context.Context) error {
	path := filepath.Join(l.RunDir, probe.CanarySocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var lc net.ListenConfig
	for _, addr := range []string{path, "@" + probe.CanaryAbstract} {
		c, err := lc.Listen(ctx, "unix", addr)
		if err != nil {
			if addr[0] == '@' && errors.Is(err, syscall.EADDRINUSE) {
				continue // another supervisor's does as well
			}
			return fmt.Errorf("socket for the probes: %w", err)
		}
		l.canaries = append(l.canaries, c)
	}
	return os.Chmod(path, 0o666)
}

func (l *launcher) close() {
	for _, c := range l.canaries {
		c.Close()
	}
	for _, r := range l.rigs {
		if r.notify != nil {
			r.notify.conn.Close()
		}
		for _, s := range r.sockets {
			if s.file != nil {
				s.file.Close()
			}
		}
	}
}

func (l *launcher) gaps() []api.Gap {
	if found := l.found.Load(); found != nil {
		return slices.Clone(*found)
	}
	return nil
}

// makeDir makes a directory that belongs to a service, or gives it an existing one.
func makeDir(path string, mode os.FileMode, uid uint32) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if fi, err := os.Lstat(path); err != nil || !fi.IsDir() {
		return fmt.Errorf("%s is no directory", path)
	}
	return errors.Join(os.Chmod(path, mode), os.Chown(path, int(uid), int(uid)))
}

// forNetwork is what programs read to resolve names and to check certificates.
var forNetwork = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl"}

// spec says what the service's process is granted.
func (l *launcher) spec(u *unit, r *rig) (*sandbox.Spec, error) {
	d := &u.decl
	s := &sandbox.Spec{
		Name:         d.Name,
		Argv:         d.Command,
		Env:          append(listenEnv(r.sockets), "NOTIFY_SOCKET="+r.notify.path),
		UID:          d.UID,
		Hostname:     l.Hostname(),
		Root:         filepath.Join(l.RunDir, rootDir),
		ReadOnly:     append([]string(nil), d.ReadOnly...),
		Sockets:      []string{r.notify.path},
		TmpSize:      min(d.Limits.Memory/4, 16<<20),
		Listeners:    len(r.sockets),
		TCP:          d.Network == NetHost,
		Capabilities: d.Capabilities,
		Syscalls:     d.Syscalls,
		Files:        uint64(d.Limits.Files),
		Procs:        uint64(d.Limits.Pids),
		OOMScore:     600,
	}
	if d.Critical {
		s.OOMScore = 300
	}
	if l.cgroups == nil || !l.cgroups.has[memoryMax] {
		s.Data = uint64(2*d.Limits.Memory + 512<<20) // coarse: address space counts, stacks of threads included
	}
	if d.Network == NetHost {
		s.ReadOnly = append(s.ReadOnly, forNetwork...)
	}
	for _, name := range d.Connect {
		s.Sockets = append(s.Sockets, filepath.Join(l.RunDir, name+".sock"))
	}
	if d.State {
		dir := filepath.Join(l.StateRoot, d.Name)
		if err := makeDir(dir, 0o700, d.UID); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
		s.Writable = append(s.Writable, dir)
		s.Env = append(s.Env, "STATE_DIRECTORY="+dir)
	}
	if d.Runtime {
		dir := filepath.Join(l.RunDir, d.Name)
		s.Writable = append(s.Writable, dir)
		s.Env = append(s.Env, "RUNTIME_DIRECTORY="+dir)
	}
	if d.Watchdog > 0 {
		s.Env = append(s.Env, "WATCHDOG_USEC="+strconv.FormatInt(d.Watchdog.Microseconds(), 10))
	}
	if !slices.ContainsFunc(d.Env, func(e string) bool { return strings.HasPrefix(e, "GOMEMLIMIT=") }) {
		s.Env = append(s.Env, "GOMEMLIMIT="+strconv.FormatInt(d.Limits.Memory/5*4, 10))
	}
	s.Env = append(s.Env, d.Env...)
	return s, nil
}

func (l *launcher) start(u *unit) (process, error) {
	r := l.rigs[u]
	if r.err != nil {
		return nil, r.err
	}
	for _, s := range r.sockets {
		if err := s.open(l.ctx, l.RunDir); err != nil {
			return nil, err
		}
	}
	spec, err := l.spec(u, r)
	if err != nil {
		return nil, err
	}
	specFile, err := spec.Pass()
	if err != nil {
		return nil, err
	}
	defer specFile.Close()
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer pw.Close()

	p := &child{uid: u.decl.UID, ended: make(chan exit, 1), log: l.Log}
	cmd := exec.Command(l.Launcher[0], append(l.Launcher[1:len(l.Launcher):len(l.Launcher)],
		strconv.Itoa(3+len(r.sockets)))...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = pw, pw
	for _, s := range r.sockets {
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.file)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, specFile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces(u.decl.Network)}
	if l.cgroups != nil {
		g, err := l.cgroups.make(u.decl.Name, u.decl.Limits)
		if err != nil {
			pr.Close()
			return nil, err
		}
		defer g.dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.dir.Fd())
		p.cgroup = g
	}
	if err := cmd.Start(); err != nil {
		pr.Close()
		return nil, fmt.Errorf("start %s: %w", u.decl.Name, err)
	}
	p.cmd = cmd
	output := make(chan struct{})
	go func() {
		defer close(output)
		w := l.Journal.Writer(u.decl.Name)
		io.Copy(w, pr) // until all that could write have ended, or wait closes it
		w.Close()
	}()
	go p.wait(output, pr)
	return p, nil
}

// namespaces returns the clone flags for a service, as far as the kernel has such namespaces.
func namespaces(n Network) uintptr {
	flags := uintptr(syscall.CLONE_NEWNS)
	for file, flag := range optionalNamespaces {
		if file == "net" && n != NetNone {
			continue
		}
		if hasNamespace(file) {
			flags |= flag
		}
	}
	return flags
}

var optionalNamespaces = map[string]uintptr{
	"pid": syscall.CLONE_NEWPID, "ipc": syscall.CLONE_NEWIPC, "uts": syscall.CLONE_NEWUTS, "net": syscall.CLONE_NEWNET,
}

func hasNamespace(name string) bool {
	_, err := os.Lstat("/proc/self/ns/" + name)
	return err == nil
}

// child is a started process; with it ends its pid namespace.
type child struct {
	cmd    *exec.Cmd
	uid    uint32
	cgroup *cgroup // nil without
	ended  chan exit
	log    *slog.Logger
}

func (p *child) pid() int          { return p.cmd.Process.Pid }
func (p *child) done() <-chan exit { return p.ended }

func (p *child) signal(sig syscall.Signal) { p.cmd.Process.Signal(sig) }

func (p *child) kill() {
	if p.cgroup != nil {
		p.cgroup.kill()
	}
	p.cmd.Process.Kill()
}

// wait sees the process to its end. Whoever still holds the pipe after that, such as a peer with the descriptor in a
// queue, must not keep it open for ever.
func (p *child) wait(output <-chan struct{}, pipe io.Closer) {
	err := p.cmd.Wait()
	p.kill() // without a pid namespace others may be left
	select {
	case <-output:
	case <-time.After(time.Second):
	}
	pipe.Close()
	e := exit{code: p.cmd.ProcessState.ExitCode()}
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.code, e.signal = 0, ws.Signal()
	}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		p.log.Warn("wait for a process", "err", err)
	}
	if p.cgroup != nil {
		e.memory = p.cgroup.memoryKills() > 0
		if err := p.cgroup.remove(); err != nil {
			p.log.Warn("remove a cgroup", "err", err)
		}
	}
	p.ended <- e
}

// pids returns the processes of the service; without a cgroup, those of its uid.
func (p *child) pids() []string {
	if p.cgroup != nil {
		return p.cgroup.procs()
	}
	var pids []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		if fi, err := e.Info(); err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid == p.uid {
				pids = append(pids, e.Name())
			}
		}
	}
	return pids
}

func (p *child) anonymous() (int64, bool) {
	if p.cgroup != nil && p.cgroup.limitsMemory {
		return 0, false
	}
	var n int64
	for _, pid := range p.pids() {
		n += anonymous(pid)
	}
	return n, true
}

func (p *child) footprint() int64 {
	var n int64
	for _, pid := range p.pids() {
		n += proportional(pid)
	}
	return n
}
