package updater

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/slots"
)

// memoryChild is the environment variable that makes the test binary the updater of TestMemory.
const memoryChild = "CROFT_TEST_UPDATER"

// maxMemory is what an installation may take, in bytes, beside pages of files.
const maxMemory = 16 << 20

// TestMemory measures a process of its own that checks, patches and writes a release: with the environment that services/world
// gives to the updater, its memory that no file stands behind stays within maxMemory, with patches and with full frames.
func TestMemory(t *testing.T) {
	if dir := os.Getenv(memoryChild); dir != "" {
		updateOnce(t, dir)
		return
	}
	if testing.Short() {
		t.Skip("makes a patch of 12 MiB")
	}
	const size = 12 << 20
	r := rand.New(rand.NewPCG(3, 4))
	root := make([]byte, size)
	for i := range root { // like programs, it packs to about a third
		root[i] = byte(r.IntN(6) * r.IntN(6))
	}
	next := slices.Clone(root)
	for range 4000 {
		next[r.IntN(size)]++
	}
	p := publishtest.New(t, publishtest.Options{})
	one, two := describe(1), describe(2)
	one.Root, two.Root = root, next
	first := p.Add(one)[0]
	p.Add(two)
	for _, way := range []string{"patch", "frames"} {
		t.Run(way, func(t *testing.T) {
			fat, err := esp()
			if err != nil {
				t.Fatal(err)
			}
			s := &sim{
				t: t, dir: t.TempDir(), first: &mem{b: slices.Clone(fat)}, rootA: &mem{b: make([]byte, size+rootSize)}, rootB: &mem{b: make([]byte, size+rootSize)},
				behave: map[string]faulty{}, certainty: api.ClockSure, address: true, running: "a", sources: []place{{kind: "mirror", name: "x", dir: p.Dir()}},
			}
			m := s.medium("b")
			err = m.Install(t.Context(), first, func(part string, w io.Writer) error {
				_, err := io.Copy(w, bytes.NewReader(map[string][]byte{slots.PartBoot: one.Boot, slots.PartRoot: one.Root}[part]))
				return err
			}, func(slots.Step, int64, int64) {})
			if err == nil {
				err = m.Commit("a")
			}
			if err != nil {
				t.Fatal(err)
			}
			if way == "frames" {
				s.rootA.b[1] ^= 1
			}
			dir := t.TempDir()
			write := func(name string, b []byte) {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			js, _ := json.Marshal(api.Release{Version: version(1), Number: 1, Board: "pc", Built: time.Now().Add(-time.Hour).Unix()})
			write("release.json", js)
			write("root.json", p.Root())
			write("first", s.first.b)
			write("root-a", s.rootA.b)
			write("root-b", s.rootB.b)
			for name, h := range map[string]http.Handler{"init": s.initd(), "network": s.networkd(), "core": s.cored(), "fetcher": s.fetcherd()} {
				l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
				if err != nil {
					t.Fatal(err)
				}
				srv := &http.Server{Handler: h}
				go srv.Serve(l)
				t.Cleanup(func() { srv.Close() })
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestMemory$", "-test.v")
			cmd.Env = append(os.Environ(), memoryChild+"="+dir, "GOMEMLIMIT=12MiB", "GOGC=50")
			out, err := cmd.CombinedOutput()
			found := regexp.MustCompile(`anonymous (\d+) peak (\d+)`).FindSubmatch(out)
			if err != nil || found == nil {
				t.Fatalf("%v: %s", err, out)
			}
			n, _ := strconv.ParseInt(string(found[1]), 10, 64)
			t.Logf("%s: %.1f MiB without files, %s kB with them", way, float64(n)/(1<<20), found[2])
			if n > maxMemory && !raceEnabled {
				t.Errorf("%d bytes of memory, at most %d", n, maxMemory)
			}
			whole := slices.ContainsFunc(s.fetched, func(b string) bool {
				fi, err := os.Stat(filepath.Join(p.Dir(), "blobs", b))
				return err == nil && fi.Size() > size/8
			})
			if whole != (way == "frames") {
				t.Errorf("fetched %v", s.fetched)
			}
		})
	}
}

// updateOnce is the updater, as far as a release that is ready.
func updateOnce(t *testing.T, dir string) {
	env := &daemon.Env{
		Name: "updater", Log: slog.New(slog.DiscardHandler), StateDir: t.TempDir(), RuntimeDir: t.TempDir(), SocketDir: dir, Notify: func(string) {},
	}
	e, err := newEngine(env, dir)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) *slots.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		d, err := slots.NewFile(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := &slots.Medium{
		Table: layout.GPT, Running: "a", First: file("first"), Root: file("root-a"), RootIdle: file("root-b"),
		RootID: map[layout.Slot]string{"a": testUUID + "2", "b": testUUID + "3"},
	}
	e.open = func(context.Context, api.Slots) (*medium, error) { return &medium{m, func() {}}, nil }
	peak := int64(0)
	done, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			peak = max(peak, inStatus("RssAnon")<<10)
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	if err := e.load(); err != nil {
		t.Fatal(err)
	}
	if err := e.resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.work.Lock()
	e.check(t.Context(), true)
	o := e.offered()
	if o == nil {
		t.Fatalf("no offer: %+v", e.view())
	}
	e.install(t.Context(), o, request{})
	e.work.Unlock()
	close(stop)
	<-done
	if u := e.view(); u.State != api.UpdateReady {
		t.Fatalf("not ready: %+v %+v", u, u.Last)
	}
	fmt.Printf("anonymous %d peak %d\n", peak, inStatus("VmHWM"))
}

// inStatus is a figure of this process's /proc/self/status in kB.
func inStatus(name string) int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return n
		}
	}
	return 0
}
