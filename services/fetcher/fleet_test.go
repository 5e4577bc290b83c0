package fetcher

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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/discovery"
	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
)

// The fleet is three boxes, each a discovery and a fetcher in a network namespace and under a host name of its own, and a mirror in a
// fourth, joined by a bridge.
const (
	boxEnv    = "CROFT_TEST_FLEET_BOX"    // JSON of fleetBox
	mirrorEnv = "CROFT_TEST_FLEET_MIRROR" // JSON of fleetMirror
)

type fleetBox struct {
	Name, Dir, Mirror string
	Root              []byte
}

type fleetMirror struct{ Dir, Listen, Lies, Asked string }

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(boxEnv) != "":
		err = runBox(os.Getenv(boxEnv))
	case os.Getenv(mirrorEnv) != "":
		err = runMirror(os.Getenv(mirrorEnv))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runBox is a box's two services in one process.
func runBox(spec string) error {
	var b fleetBox
	if err := json.Unmarshal([]byte(spec), &b); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(b.Name)); err != nil {
		return err
	}
	listeners := map[string]net.Listener{}
	for _, name := range []string{"discovery", "fetcher"} {
		l, err := net.Listen("unix", filepath.Join(b.Dir, name+".sock"))
		if err != nil {
			return err
		}
		listeners[name] = l
	}
	var err error
	if listeners["peers"], err = net.Listen("tcp", ":7465"); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	env := daemon.Env{
		Log: log, StateDir: filepath.Join(b.Dir, "state"), SocketDir: b.Dir, Listeners: listeners, Notify: func(string) {},
	}
	if err := os.Mkdir(env.StateDir, 0o700); err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- discovery.Run(ctx, &env, discovery.Config{}) }()
	go func() {
		ended <- Run(ctx, &env, Config{Board: "pc", Root: b.Root, Mirrors: []string{b.Mirror}, Built: time.Now().Add(-time.Hour)})
	}()
	return errors.Join(<-ended, <-ended)
}

// runMirror serves a folder. While the file Lies is there, every frame of a blob but the first is wrong. It notes who asked for blobs.
func runMirror(spec string) error {
	var m fleetMirror
	if err := json.Unmarshal([]byte(spec), &m); err != nil {
		return err
	}
	asked, err := os.OpenFile(m.Asked, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	files := http.FileServer(http.Dir(m.Dir))
	return http.ListenAndServe(m.Listen, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/blobs/") {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintln(asked, host)
			if _, err := os.Stat(m.Lies); err == nil && !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
				w = liar{w}
			}
		}
		files.ServeHTTP(w, r)
	}))
}

type liar struct{ http.ResponseWriter }

func (l liar) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	for i := range p {
		p[i] ^= 0x55
	}
	return l.ResponseWriter.Write(p)
}

type fleet struct {
	t    *testing.T
	dir  string
	name string // prefix of namespaces
}

func (f *fleet) run(args ...string) {
	f.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (f *fleet) netns(name string) string {
	f.t.Helper()
	ns := f.name + name
	f.run("ip", "netns", "add", ns)
	f.t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	f.run("ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
	f.run("ip", "-n", ns, "link", "set", "lo", "up")
	return ns
}

// lan is a bridge in a namespace.
func (f *fleet) lan() string {
	f.t.Helper()
	lan := f.netns("lan")
	f.run("ip", "-n", lan, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
	f.run("ip", "-n", lan, "link", "set", "br0", "up")
	return lan
}

// host is a namespace on the LAN.
func (f *fleet) host(lan string, n int) string {
	f.t.Helper()
	ns := f.netns(fmt.Sprint("h", n))
	port := fmt.Sprint("p", n)
	f.run("ip", "-n", lan, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
	f.run("ip", "-n", lan, "link", "set", port, "master", "br0", "up")
	f.run("ip", "-n", ns, "link", "set", "eth0", "up")
	f.run("ip", "-n", ns, "addr", "add", fmt.Sprintf("10.77.0.%d/24", n), "dev", "eth0")
	return ns
}

// start runs this test's binary in a namespace; stop ends it.
func (f *fleet) start(ns, env string, v any, flags uintptr) (stop func()) {
	f.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", ns, os.Args[0])
	cmd.Env = append(os.Environ(), env+"="+string(b))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	log := &lines{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Wait()
	})
	f.t.Cleanup(func() {
		stop()
		if f.t.Failed() {
			log.mu.Lock()
			defer log.mu.Unlock()
			f.t.Logf("%s said:\n%s", ns, &log.b)
		}
	})
	return stop
}

// box starts a box and has it share.
func (f *fleet) box(ns, name string, root []byte, mirror string) *box {
	f.t.Helper()
	dir := filepath.Join(f.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	f.start(ns, boxEnv, fleetBox{name, dir, mirror, root}, syscall.CLONE_NEWUTS)
	b := &box{t: f.t, env: &daemon.Env{SocketDir: dir}, cfg: Config{Board: "pc"}}
	b.Client = NewClient(b.env.Client("fetcher"))
	f.wait(name+" runs", func() bool { return b.Set(f.t.Context(), Settings{Share: true}) == nil })
	return b
}

func (f *fleet) wait(what string, ok func() bool) {
	f.t.Helper()
	began := time.Now()
	defer func() { f.t.Logf("%s: took %v", what, time.Since(began)) }()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			f.t.Fatalf("%s: not in a minute", what)
		}
	}
}

// neighbours waits until a box sees so many of them.
func (b *box) neighbours(f *fleet, n int) {
	b.t.Helper()
	f.wait(fmt.Sprint(n, " neighbours"), func() bool {
		res, err := b.Refresh(b.t.Context(), RefreshRequest{Now: time.Now(), Sure: true})
		if err != nil {
			b.t.Fatal(err)
		}
		good := 0
		for _, s := range res.Sources {
			if s.Kind == "neighbour" && s.Cause == "" {
				good++
			}
		}
		return good == n
	})
}

// newFleet is a fleet whose namespaces' names begin with prefix.
func newFleet(t *testing.T, prefix string) *fleet {
	t.Helper()
	if testing.Short() {
		t.Skip("takes half a minute and more: run without -short")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &fleet{t, dir, fmt.Sprintf("%s%d-", prefix, os.Getpid())}
}

// TestFleet has one box fetch from the mirror, and the others from it. The mirror lies, then dies: all end with the right bytes.
func TestFleet(t *testing.T) {
	f := newFleet(t, "crf")
	lan := f.lan()

	p := quick(t, publishtest.Options{})
	one := p.AddRelease("pc", 1, "v1", fetchtest.Bytes(1, 3<<20), fetchtest.Bytes(2, 14<<20))
	const url = "http://10.77.0.9:8080/"
	lies, askedFile := filepath.Join(f.dir, "lies"), filepath.Join(f.dir, "asked")
	kill := f.start(f.host(lan, 9), mirrorEnv, fleetMirror{p.Dir(), "10.77.0.9:8080", lies, askedFile}, 0)
	asked := func() string {
		b, _ := os.ReadFile(askedFile)
		seen := ""
		for _, host := range []string{"10.77.0.1", "10.77.0.2", "10.77.0.3"} {
			if bytes.Contains(b, []byte(host+"\n")) {
				seen += host[len(host)-1:]
			}
		}
		os.Truncate(askedFile, 0)
		return seen
	}
	var boxes []*box
	for i, name := range []string{"attic", "barn", "cellar"} {
		boxes = append(boxes, f.box(f.host(lan, i+1), name, p.Root(), url))
	}
	attic, barn, cellar := boxes[0], boxes[1], boxes[2]
	all := func(r *release.Release) FetchRequest {
		return FetchRequest{Blobs: wants(r)[:2], Internet: true, Sure: true}
	}
	sources := func(b *box, r *release.Release) (string, error) {
		seen := map[string]bool{}
		began := time.Now()
		err := b.Fetch(t.Context(), all(r), func(p Progress) { seen[p.Source] = true })
		t.Logf("fetched in %v: %v, %v", time.Since(began), seen, err)
		var list []string
		for _, k := range []string{"file", "neighbour", "mirror"} {
			if seen[k] {
				list = append(list, k)
			}
		}
		return strings.Join(list, " "), err
	}

	// The first from the mirror.
	f.wait("the mirror answers", func() bool {
		s := attic.refresh(RefreshRequest{Internet: true})
		return len(s) > 0 && s[len(s)-1].Kind == "mirror" && s[len(s)-1].Cause == ""
	})
	if from, err := sources(attic, one); err != nil || from != "mirror" {
		t.Fatalf("attic, v1: from %s, %v", from, err)
	}
	attic.holds(wants(one)[:2], p.Dir())
	asked()
	// The others from it: the metadata, too.
	for _, b := range []*box{barn, cellar} {
		b.neighbours(f, map[*box]int{barn: 1, cellar: 2}[b]) // who has nothing yet is none
		if got := b.believes(p.Root(), ""); got != "pc v1" {
			t.Errorf("v1: believes %q", got)
		}
		if from, err := sources(b, one); err != nil || from != "neighbour" {
			t.Errorf("v1: from %s, %v", from, err)
		}
		b.holds(wants(one)[:2], p.Dir())
	}
	if got := asked(); got != "" {
		t.Errorf("v1: the mirror was asked for blobs by %s", got)
	}

	// A release that the mirror lies about after the first frame: what was right is kept, and the liar is told of.
	before := filepath.Join(f.dir, "before")
	if err := os.CopyFS(before, os.DirFS(p.Dir())); err != nil {
		t.Fatal(err)
	}
	p.Withdraw(release.Stable, "pc", "v1") // or a patch would be made, which takes minutes for bytes like these
	two := p.AddRelease("pc", 2, "v2", fetchtest.Bytes(3, 3<<20), fetchtest.Bytes(4, 14<<20))
	if err := os.WriteFile(lies, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	attic.refresh(RefreshRequest{Internet: true})
	if got := attic.believes(p.Root(), ""); !strings.Contains(got, "pc v2") {
		t.Errorf("v2: believes %q", got)
	}
	var fe *Error
	if from, err := sources(attic, two); !errors.As(err, &fe) || fe.Cause != "download" {
		t.Errorf("v2: from a liar: %s, %v", from, err)
	}
	if list, err := attic.Sources(t.Context()); err != nil || find(list, "mirror") == nil || find(list, "mirror").Error == "" {
		t.Errorf("nobody is told of the liar: %+v, %v", list, err)
	}
	// Somebody brings it to another box as a file, and the mirror dies.
	if _, err := barn.Upload(t.Context(), "croft-pc.zip", bytes.NewReader(p.Bundle("pc", release.Stable))); err != nil {
		t.Fatal(err)
	}
	barn.refresh(RefreshRequest{})
	if from, err := sources(barn, two); err != nil || from != "file" {
		t.Errorf("v2: from %s, %v", from, err)
	}
	kill()
	asked()
	for _, b := range []*box{attic, cellar} {
		b.neighbours(f, 2)
		if got := b.believes(p.Root(), ""); !strings.Contains(got, "pc v2") {
			t.Errorf("v2, without the mirror: believes %q", got)
		}
		if from, err := sources(b, two); err != nil || from != "neighbour" {
			t.Errorf("v2, without the mirror: from %s, %v", from, err)
		}
	}
	for _, b := range boxes {
		b.holds(wants(one)[:2], before)
		b.holds(wants(two)[:2], p.Dir())
	}
	// Who does not share is not found, and serves nobody.
	if err := errors.Join(barn.Set(t.Context(), Settings{}), attic.Set(t.Context(), Settings{})); err != nil {
		t.Fatal(err)
	}
	cellar.neighbours(f, 0)
}

// TestFleetPatch has one box take a release as a patch, and make its frames anew. The mirror dies, and one with another base takes the
// release from it.
func TestFleetPatch(t *testing.T) {
	f := newFleet(t, "crp")
	lan := f.lan()
	boot, old := fetchtest.Bytes(1, 100_000), fetchtest.Bytes(2, 300_000)
	next := bytes.Clone(old)
	for i := range 50 {
		next[i*5000]++
	}
	p := quick(t, publishtest.Options{})
	one := p.AddRelease("pc", 1, "v1", boot, old)
	two := p.AddRelease("pc", 2, "v2", boot, next)
	if len(two.Root.Patches) != 1 || two.Root.Patches[0].From != one.Root.SHA256 {
		t.Fatalf("not the patch that is to be tested: %+v", two.Root)
	}
	const url = "http://10.77.0.9:8080/"
	kill := f.start(f.host(lan, 9), mirrorEnv, fleetMirror{p.Dir(), "10.77.0.9:8080", filepath.Join(f.dir, "lies"), filepath.Join(f.dir, "asked")}, 0)
	attic, cellar := f.box(f.host(lan, 1), "attic", p.Root(), url), f.box(f.host(lan, 3), "cellar", p.Root(), url)
	f.wait("the mirror answers", func() bool {
		s := attic.refresh(RefreshRequest{Internet: true})
		return len(s) > 0 && s[len(s)-1].Kind == "mirror" && s[len(s)-1].Cause == ""
	})
	patch := two.Root.Patches[0]
	if err := attic.Fetch(t.Context(), FetchRequest{Blobs: []Want{{Blob: patch.Blob, Size: patch.Size}}, Internet: true, Sure: true}, nil); err != nil {
		t.Fatal(err)
	}
	kill()
	var root bytes.Buffer // attic's new slot
	err := delta.Apply(t.Context(), two.Root, delta.Way{Patch: &patch}, bytes.NewReader(old), func(blob string) (io.ReaderAt, int64, error) {
		return attic.Blob(t.Context(), blob, patch.Size), patch.Size, nil
	}, &root)
	if err != nil {
		t.Fatal(err)
	}

	cellar.neighbours(f, 1)
	if got := cellar.believes(p.Root(), ""); !strings.Contains(got, "pc v2") {
		t.Errorf("cellar believes %q", got)
	}
	all := FetchRequest{Blobs: wants(two)[:2], Internet: true, Sure: true}
	var fe *Error
	if err := cellar.Fetch(t.Context(), all, nil); !errors.As(err, &fe) || fe.Cause != "download" {
		t.Errorf("attic has no frames yet, and cellar got them: %v", err)
	}
	for i, part := range [][]byte{boot, root.Bytes()} {
		if err := attic.Frames(t.Context(), wants(two)[i], bytes.NewReader(part)); err != nil {
			t.Fatal(err)
		}
		if has, err := attic.Has(t.Context(), wants(two)[i].Blob); err != nil || !has {
			t.Errorf("the frames are not there: %v", err)
		}
	}
	if err := attic.Frames(t.Context(), wants(one)[1], bytes.NewReader(root.Bytes())); !errors.As(err, &fe) || fe.Status != http.StatusUnprocessableEntity {
		t.Errorf("frames of another part: %v", err)
	}
	seen := map[string]bool{}
	if err := cellar.Fetch(t.Context(), all, func(p Progress) { seen[p.Source] = true }); err != nil || !seen["neighbour"] || seen["mirror"] {
		t.Errorf("from %v: %v", seen, err)
	}
	cellar.holds(wants(two)[:2], p.Dir())
}
