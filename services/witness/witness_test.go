package witness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/updater/tlog/tlogtest"
)

const (
	serviceEnv = "CROFT_TEST_WITNESS" // JSON of process
	origin     = "example.org/log"
)

// process is a service in a process of its own.
type process struct {
	Dir   string // sockets, and the state directory
	Small bool   // the state directory is a disk of 64 KiB
	Clock string // what the network service says
}

func TestMain(m *testing.M) {
	spec := os.Getenv(serviceEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	run := func() error { return runProcess(spec) }
	if n, err := strconv.Atoi(os.Getenv(killEnv)); err == nil {
		run = func() error { return killer(n) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runProcess(spec string) error {
	var p process
	if err := json.Unmarshal([]byte(spec), &p); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	env := &daemon.Env{
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), StateDir: filepath.Join(p.Dir, "state"), SocketDir: p.Dir,
		Listeners: map[string]net.Listener{}, Notify: func(s string) { fmt.Fprintf(os.Stderr, "notify %q\n", s) },
	}
	if err := os.MkdirAll(env.StateDir, 0o700); err != nil {
		return err
	}
	if p.Small {
		err := errors.Join(syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""), syscall.Mount("tmpfs", env.StateDir, "tmpfs", 0, "size=64k"))
		if err != nil {
			return err
		}
	}
	listen := func(name string) (net.Listener, error) {
		path := filepath.Join(p.Dir, name+".sock")
		os.Remove(path)
		return net.Listen("unix", path)
	}
	network, err := listen("network")
	if err != nil {
		return err
	}
	go daemon.Serve(ctx, network, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, api.Network{Clock: api.Clock{Now: time.Now(), Certainty: p.Clock}})
	}))
	if env.Listeners["logs"], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if env.Listeners["witness"], err = listen("witness"); err != nil {
		return err
	}
	return Run(ctx, env, Config{})
}

// box is where the service runs, again and again.
type box struct {
	t testing.TB
	process
	killAt int // see killer; 0: nowhere
	cmd    *exec.Cmd
	ended  chan struct{}
	core   *http.Client
	log    bytes.Buffer
}

func newBox(t testing.TB) *box {
	dir, err := os.MkdirTemp("", "witness")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &box{t: t, process: process{Dir: dir, Clock: api.ClockSure}}
	b.core = (&daemon.Env{SocketDir: dir}).Client("witness")
	b.core.Timeout = 20 * time.Second
	t.Cleanup(func() {
		b.kill()
		if t.Failed() {
			t.Logf("the service said:\n%s", &b.log)
		}
	})
	return b
}

// start starts the service and waits until it answers.
func (b *box) start() {
	b.t.Helper()
	spec, err := json.Marshal(b.process)
	if err != nil {
		b.t.Fatal(err)
	}
	b.cmd = exec.Command(os.Args[0])
	b.cmd.Env = append(os.Environ(), serviceEnv+"="+string(spec))
	if b.killAt > 0 {
		b.cmd.Env = append(b.cmd.Env, killEnv+"="+strconv.Itoa(b.killAt))
	}
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if b.Small {
		b.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	}
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.ended = make(chan struct{})
	go func(c *exec.Cmd, ended chan struct{}) { c.Wait(); close(ended) }(b.cmd, b.ended)
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := b.status(); err == nil || b.dead() {
			return
		} else if time.Now().After(end) {
			b.t.Fatal(err)
		}
	}
}

func (b *box) dead() bool {
	select {
	case <-b.ended:
		return true
	default:
		return false
	}
}

// kill ends it as a power cut does for a process.
func (b *box) kill() {
	if b.cmd != nil {
		syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
		<-b.ended
		b.core.CloseIdleConnections()
	}
}

func (b *box) status() (api.Witness, error) {
	var w api.Witness
	return w, daemon.GetJSON(b.t.Context(), b.core, "http://witness/v1/witness", &w)
}

// now is the status, which has to come.
func (b *box) now() api.Witness {
	b.t.Helper()
	w, err := b.status()
	if err != nil {
		b.t.Fatal(err)
	}
	return w
}

// ask has the service do something as core does.
func (b *box) ask(method, path string, body any) (int, error) {
	js, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://witness"+path, bytes.NewReader(js))
	if err != nil {
		return 0, err
	}
	resp, err := b.core.Do(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func (b *box) tell(logs ...*tlogtest.Log) error {
	c := api.WitnessConfig{Name: "w.example"}
	for _, l := range logs {
		c.Logs = append(c.Logs, l.Key.String())
	}
	if status, err := b.ask("PUT", "/v1/config", c); err != nil || status != http.StatusNoContent {
		return fmt.Errorf("status %d, %w", status, err)
	}
	return nil
}

// on turns it on, and waits until it knows the time.
func (b *box) on(logs ...*tlogtest.Log) api.Witness {
	b.t.Helper()
	if err := b.tell(logs...); err != nil {
		b.t.Fatal(err)
	}
	return b.until(func(w api.Witness) bool { return w.Running })
}

func (b *box) until(ok func(api.Witness) bool) api.Witness {
	b.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if w := b.now(); ok(w) {
			return w
		} else if time.Now().After(end) {
			b.t.Fatalf("%+v", w)
		}
	}
}

// add asks it to cosign the first n entries of a log of which it has seen the first old ones. The body is the answer.
func (b *box) add(port int, l *tlogtest.Log, old, n int64) (status int, body string, err error) {
	var req strings.Builder
	fmt.Fprintf(&req, "old %d\n", old)
	if old > 0 && old < n {
		p, err := tlog.ProveTree(n, old, l)
		if err != nil {
			return 0, "", err
		}
		for _, h := range p {
			fmt.Fprintln(&req, h)
		}
	}
	fmt.Fprintf(&req, "\n%s", l.Checkpoint(n))
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/add-checkpoint", port), "text/plain", strings.NewReader(req.String()))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// mustAdd is add that has to end with a status. A cosignature is judged by somebody else's verifier.
func (b *box) mustAdd(w api.Witness, l *tlogtest.Log, old, n int64, want int) {
	b.t.Helper()
	status, body, err := b.add(w.Port, l, old, n)
	if err != nil || status != want {
		b.t.Fatalf("%d to %d: %d %s, %v, want %d", old, n, status, body, err, want)
	}
	if status == http.StatusOK {
		v, err := fnote.NewVerifierForCosignatureV1(w.Key)
		if err != nil {
			b.t.Fatal(err)
		}
		if _, err := note.Open([]byte(string(l.Checkpoint(n))+body), note.VerifierList(v)); err != nil {
			b.t.Errorf("%d to %d: %v", old, n, err)
		}
	}
}

func newLog(name string, entries ...string) *tlogtest.Log {
	l := &tlogtest.Log{Key: tlogtest.NewKey(tlogtest.AlgLog, name, name)}
	for _, e := range entries {
		l.Add([]byte(e))
	}
	return l
}

func (b *box) reachable(port int) bool {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// TestService turns the witness on, off and on again, restarts it, and gives it a new key.
func TestService(t *testing.T) {
	t.Parallel()
	l, other := newLog(origin, "a", "b", "c", "d"), newLog("example.org/other", "x")
	b := newBox(t)
	b.start()
	if w := b.now(); w.Running || w.Key != "" || w.Config.On() {
		t.Fatalf("not off: %+v", w)
	}
	if _, err := os.Stat(filepath.Join(b.Dir, "state", folder)); !os.IsNotExist(err) {
		t.Errorf("there is a key before anybody wants one: %v", err)
	}
	for name, c := range map[string]api.WitnessConfig{
		"no name": {Logs: []string{l.Key.String()}}, "a bad name": {Name: "a b", Logs: []string{l.Key.String()}},
		"no logs": {Name: "w"}, "a bad log": {Name: "w", Logs: []string{"x"}},
	} {
		if status, err := b.ask("PUT", "/v1/config", c); err != nil || status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d, %v", name, status, err)
		}
	}
	first := b.on(l)
	b.mustAdd(first, l, 0, 2, 200)
	b.mustAdd(first, other, 0, 1, 404)
	w := b.on(l, other)
	b.mustAdd(w, other, 0, 1, 200)
	b.mustAdd(w, l, 0, 2, 409)
	b.mustAdd(w, l, 2, 3, 200)
	if w = b.now(); w.Key != first.Key || len(w.Logs) != 2 || w.Logs[0].Origin != origin || w.Logs[0].Size != 3 ||
		w.Logs[0].At == nil || time.Since(*w.Logs[0].At) > time.Minute || w.Made == nil {
		t.Errorf("%+v", w)
	}

	if status, err := b.ask("PUT", "/v1/config", api.WitnessConfig{}); err != nil || status != http.StatusNoContent {
		t.Fatal(status, err)
	}
	if b.reachable(w.Port) {
		t.Error("answers publishers while it is off")
	}
	b.kill()
	b.start()
	if again := b.now(); again.Config.On() {
		t.Errorf("on before it was told: %+v", again)
	}
	w = b.on(l)
	if w.Key != first.Key || w.Logs[0].Size != 3 || w.Logs[0].At == nil {
		t.Errorf("forgotten: %+v", w)
	}
	liar := l.Fork(2)
	liar.Add([]byte("C"))
	b.mustAdd(w, liar, 3, 3, 409)
	if w = b.now(); !w.Logs[0].Split {
		t.Errorf("no proof: %+v", w)
	}

	if status, err := b.ask("POST", "/v1/key", nil); err != nil || status != http.StatusNoContent {
		t.Fatal(status, err)
	}
	fresh := b.until(func(w api.Witness) bool { return w.Running })
	if fresh.Key == first.Key || fresh.Logs[0].Size != 0 {
		t.Errorf("the same: %+v", fresh)
	}
	b.mustAdd(fresh, l, 0, 4, 200)
	kept, err := filepath.Glob(filepath.Join(b.Dir, "state", before, "*"))
	if err != nil || len(kept) < 3 {
		t.Errorf("what the old key signed, and the proof, are gone: %q, %v", kept, err)
	}
	if _, err := os.Stat(filepath.Join(b.Dir, "state", before, keyFile)); !os.IsNotExist(err) {
		t.Errorf("the old key is still there: %v", err)
	}
}

// TestUnsure has a box that does not know the time, and one that was never told to be a witness.
func TestUnsure(t *testing.T) {
	t.Parallel()
	l := newLog(origin, "a")
	for _, certainty := range []string{api.ClockUnsure, api.ClockKept} {
		b := newBox(t)
		b.Clock = certainty
		b.start()
		if err := b.tell(l); err != nil {
			t.Fatal(err)
		}
		w := b.until(func(w api.Witness) bool { return w.Problem == "clock" })
		b.mustAdd(w, l, 0, 1, 503)
	}
}

// TestDamaged changes what was signed behind the service's back: it says so, does not sign, and does not end. Only a new key helps.
func TestDamaged(t *testing.T) {
	t.Parallel()
	l := newLog(origin, "a", "b")
	b := newBox(t)
	b.start()
	w := b.on(l)
	b.mustAdd(w, l, 0, 2, 200)
	files, err := filepath.Glob(filepath.Join(b.Dir, "state", folder, strings.Repeat("?", 64)))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b.kill()
	if err := os.WriteFile(files[0], bytes.Replace(good, []byte("\n2\n"), []byte("\n1\n"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	if err := b.tell(l); err != nil {
		t.Fatal(err)
	}
	if w := b.now(); w.Running || w.Problem != "damaged" || w.Key != "" {
		t.Errorf("%+v", w)
	}
	if b.reachable(w.Port) {
		t.Error("answers publishers")
	}
	if status, err := b.ask("POST", "/v1/key", nil); err != nil || status != http.StatusNoContent {
		t.Fatal(status, err)
	}
	if fresh := b.until(func(w api.Witness) bool { return w.Running }); fresh.Key == w.Key {
		t.Error("the same key")
	}
}

// TestFullDisk fills the disk: nothing is signed then, the page is told why, and it goes on by itself.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := newLog(origin, "a", "b", "c")
	b := newBox(t)
	b.Small = true
	b.start()
	ballast := filepath.Join("/proc", strconv.Itoa(b.cmd.Process.Pid), "root", b.Dir, "state", "ballast")
	fill := func() {
		t.Helper()
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("the disk takes more than it has: %v", err)
		}
	}
	empty := func() {
		t.Helper()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	fill() // before there is a key
	if err := b.tell(l); err != nil {
		t.Fatal(err)
	}
	if w := b.now(); w.Problem != "disk-full" || w.Key != "" {
		t.Errorf("%+v", w)
	}
	empty()
	w := b.until(func(w api.Witness) bool { return w.Running })
	b.mustAdd(w, l, 0, 1, 200)
	fill()
	b.mustAdd(w, l, 1, 2, 500)
	if w := b.now(); w.Running || w.Problem != "disk-full" || w.Logs[0].Problem != "disk-full" || w.Logs[0].Size != 1 {
		t.Errorf("%+v", w)
	}
	empty()
	b.mustAdd(w, l, 1, 3, 200)
	if w := b.now(); !w.Running || w.Problem != "" || w.Logs[0].Size != 3 {
		t.Errorf("%+v", w)
	}
}

// TestStrangers asks for more than anybody needs.
func TestStrangers(t *testing.T) {
	t.Parallel()
	l := newLog(origin, "a")
	b := newBox(t)
	b.start()
	w := b.on(l)
	refused := 0
	for range 2 * limits.Burst {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", w.Port))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("requests without end")
	}
}
