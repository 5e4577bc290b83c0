package updater

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/firmware"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// TestMain puts the tests' files into memory, where syncing them takes no time.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("/dev/shm", "updater-test")
	if err == nil {
		os.Setenv("TMPDIR", dir)
	}
	code := m.Run()
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
	if err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

var cleanups []func()

// lasting is a testing.TB for what outlives the test that makes it.
type lasting struct{ testing.TB }

func (l lasting) Cleanup(f func()) { cleanups = append(cleanups, f) }

func (l lasting) TempDir() string {
	dir, err := os.MkdirTemp("", "lasting")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sim is a box of which only PID 1, the firmware, the network service, core and the fetcher's process are played: its medium is
// in memory, and the engine is the real one over real files, real trust, patches and slots. Time is testing/synctest's.
type sim struct {
	t   *testing.T
	pub *publishtest.Publisher
	dir string // of the data partition
	etc map[string][]byte

	first, rootA, rootB *mem
	lab                 *firmware.Lab // in the place of the three, with a model of a machine's firmware
	machine             firmware.Start
	boots               int

	mu        sync.Mutex
	up        bool // the box runs
	running   string
	trial     bool
	since     time.Time // start of this boot
	oneShot   string    // slot that the firmware is to start once
	pending   string    // slot that it did not start, though it should have
	trialFile *api.TrialEnd
	ended     *api.TrialEnd
	lacks     string
	rescue    bool
	limit     time.Duration      // of trials; 0: as PID 1 has it
	ignores   int                // one-shot starts that the firmware will not take
	dead      atomic.Bool        // the power is out: nothing has an effect any more
	behave    map[string]faulty  // how releases are, by version
	certainty string             // of the clock
	address   bool               //
	sources   []place            //
	revision  int64              //
	changed   chan struct{}      // closed at the next change of sources
	settings  *fetcher.Settings  // as the fetcher was told
	fetched   []string           // blobs
	asked     []bool             // internet, of each fetch
	refreshed int                // times that sources were asked for news
	probes    int                // times that the page was asked for
	fetchErr  string             // cause with which fetches fail
	slow      time.Duration      // that a fetch takes
	cut       func(string) error // of the engine's files
	nospace   bool

	engine  *engine
	restart chan struct{}
	stop    context.CancelFunc
	ended2  chan struct{}
}

// place is where releases come from.
type place struct {
	kind, name string
	dir        string // of a repository
	prefix     string // of an auditor's
	version    string // that it says it has
	cause      string // why nothing is taken from it
}

// faulty says what is wrong with a release.
type faulty struct {
	silent   bool   // the kernel does not come up
	hangs    bool   // PID 1 does, and nothing else happens
	page     string // why the page does not answer
	flaky    bool   // of three times, it answers twice
	health   bool   // core does not answer
	noAddr   bool
	readOnly bool
	rescue   bool
	sick     string // service that is not well
	loops    string // service that starts again and again
	built    int64
}

// mem is a partition.
type mem struct {
	mu    sync.Mutex
	b     []byte
	fail  error // of writes
	read  error
	rot   bool // what is read past the cache is not what was written
	after int  // writes until fail counts
	n     int
	hook  func(write int)
	dead  *atomic.Bool
}

func (m *mem) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.read != nil {
		return 0, m.read
	}
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *mem) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead != nil && m.dead.Load() {
		return 0, errPower
	}
	if m.hook != nil {
		m.hook(m.n)
	}
	m.n++
	if m.fail != nil {
		if m.after--; m.after < 0 {
			return 0, m.fail
		}
	}
	return copy(m.b[off:], p), nil
}

func (m *mem) Size() int64 { return int64(len(m.b)) }
func (m *mem) Sync() error { return nil }

func (m *mem) Reread() io.ReaderAt {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.rot {
		return m
	}
	c := slices.Clone(m.b)
	for i := 4096; i < len(c); i += 8192 {
		c[i] ^= 1
	}
	return bytes.NewReader(c)
}

var errPower = errors.New("the power is out")

const (
	rootSize = 4 << 20 // of a root partition
	testUUID = "c0f7c0f7-d15c-4000-8000-00000000000"
	cmdline  = "root=PARTUUID={root} ro croft.slot={slot} croft.version=%s croft.number=%d"
)

// esp is a first FAT as images have it, made once.
var esp = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "esp")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	img := filepath.Join(dir, "esp.img")
	run := func(name string, args ...string) {
		if err == nil {
			var out []byte
			if out, err = exec.Command(name, args...).CombinedOutput(); err != nil {
				err = fmt.Errorf("%s: %w: %s", name, err, out)
			}
		}
	}
	run("mkfs.vfat", "-F", "16", "-s", "1", "-C", img, "4096")
	run("mmd", "-i", img, "::loader", "::loader/entries")
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"loader/loader.conf", slots.LoaderConf("b")},
		{"loader/entries/croft-a.conf", slots.BlankEntry()},
		{"loader/entries/croft-b.conf", slots.BlankEntry()},
		{"vmlinuz-a", make([]byte, 256<<10)},
		{"vmlinuz-b", make([]byte, 256<<10)},
	} {
		path := filepath.Join(dir, "x")
		if err == nil {
			err = os.WriteFile(path, f.content, 0o600)
		}
		run("mcopy", "-i", img, path, "::"+f.name)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(img)
})

// parts makes the parts of a release that differ a little from each other.
func parts(n int) (boot, root []byte) {
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	boot, root = fill(20_000), fill(300_000)
	for i := range 50 * n {
		root[(i*7919+n*31)%len(root)] += byte(n)
	}
	copy(boot, fmt.Sprint("kernel ", n))
	return boot, root
}

// add publishes releases, each with its number as v0.NUMBER.
func add(p *publishtest.Publisher, numbers ...int64) []*release.Release {
	var rs []publishtest.Release
	for _, n := range numbers {
		rs = append(rs, describe(n))
	}
	return p.Add(rs...)
}

func version(n int64) string { return fmt.Sprint("v0.", n) }

func describe(n int64) publishtest.Release {
	boot, root := parts(int(n))
	return publishtest.Release{
		Board: "pc", Version: version(n), Number: n, Boot: boot, Root: root, Cmdline: fmt.Sprintf(cmdline, version(n), n),
	}
}

// newSim makes a box with a release in slot a, as the factory does. It must be called outside of a bubble.
func newSim(t *testing.T, pub *publishtest.Publisher, factory *release.Release) *sim {
	t.Helper()
	fat, err := esp()
	if err != nil {
		t.Fatal(err)
	}
	s := &sim{
		t: t, pub: pub, dir: t.TempDir(), first: &mem{b: slices.Clone(fat)}, rootA: &mem{b: make([]byte, rootSize)}, rootB: &mem{b: make([]byte, rootSize)},
		behave: map[string]faulty{}, certainty: api.ClockSure, address: true,
	}
	s.first.dead, s.rootA.dead, s.rootB.dead = &s.dead, &s.dead, &s.dead
	s.etc = map[string][]byte{"root.json": pub.Root(), "publisher.json": []byte(`{"name":"Example","mirrors":["https://example.org"]}`)}
	s.sources = []place{{kind: "mirror", name: "https://example.org", dir: pub.Dir()}}
	boot, root := parts(int(factory.Number))
	m := s.medium("b") // the factory writes from the other slot's place
	err = m.Install(t.Context(), factory, func(part string, w io.Writer) error {
		b := root
		if part == slots.PartBoot {
			b = boot
		}
		_, err := w.Write(b)
		return err
	}, func(slots.Step, int64, int64) {})
	if err == nil {
		err = m.Commit("a")
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sim) medium(running string) *slots.Medium {
	if s.lab != nil {
		return s.lab.Medium(s.lab.Disk, layout.Slot(running))
	}
	m := &slots.Medium{
		Table: layout.GPT, Running: layout.Slot(running), First: s.first, Root: s.rootA, RootIdle: s.rootB,
		RootID: map[layout.Slot]string{"a": testUUID + "2", "b": testUUID + "3"},
	}
	if running == "b" {
		m.Root, m.RootIdle = s.rootB, s.rootA
	}
	return m
}

func (s *sim) board() string {
	if s.lab != nil && s.lab.Layout.Table == layout.MBR {
		return "pi"
	}
	return "pc"
}

func (s *sim) committed() string {
	c, err := s.medium("a").Committed()
	if err != nil {
		s.t.Errorf("nothing is committed: %v", err)
	}
	return string(c)
}

// on begins to run the box; it must be called in a bubble, and off before the bubble ends.
func (s *sim) on() {
	if time.Now().Year() < 2026 { // bubbles begin in 2000
		time.Sleep(time.Until(begin))
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.ended2 = cancel, make(chan struct{})
	s.changed = make(chan struct{})
	go func() {
		defer close(s.ended2)
		for ctx.Err() == nil {
			s.bootOnce(ctx)
			sleep(ctx, 10*time.Second) // firmware and kernel
		}
	}()
}

func (s *sim) off() {
	s.stop()
	<-s.ended2
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = false
}

// begin is when a box starts: after all that is published outside of bubbles, and at the same time of day whenever the tests run.
var begin = time.Now().UTC().Truncate(24 * time.Hour).Add((24 + 10) * time.Hour)

// stamp is what a slot says of itself.
func (s *sim) stamp(slot string) *slots.Stamp {
	st, err := s.medium(other(slot)).Installed()
	if err != nil {
		s.t.Errorf("slot %s: %v", slot, err)
		return &slots.Stamp{}
	}
	return st
}

// bootOnce is one start of the box, from the firmware to the restart.
func (s *sim) bootOnce(ctx context.Context) {
	s.mu.Lock()
	s.boots++
	s.dead.Store(false)
	s.running, s.trial, s.pending, s.ended = s.committed(), false, "", nil
	if slot := s.oneShot; slot != "" {
		s.oneShot = ""
		if s.ignores > 0 {
			s.ignores--
			s.pending = slot
		} else {
			s.running, s.trial = slot, true
		}
	}
	if s.lab != nil {
		s.running = s.starts(s.running, s.trial)
	}
	st := s.stamp(s.running)
	if !st.Complete {
		s.t.Errorf("the firmware was to start slot %s, which holds nothing", s.running)
	}
	b := s.behave[st.Version]
	if s.trial && b.silent {
		s.mu.Unlock()
		sleep(ctx, 10*time.Second) // panic=10
		return
	}
	if s.trialFile != nil {
		switch {
		case s.trial:
			s.trialFile.Version, s.trialFile.Came, s.trialFile.Cause = st.Version, "started", ""
		case s.trialFile.Slot == s.running:
			s.trialFile = nil
		default:
			if s.trialFile.Came == "" && s.trialFile.Cause == "" {
				s.trialFile.Cause = "not-started"
				if s.pending == s.trialFile.Slot {
					s.trialFile.Cause = "not-taken"
				}
			}
			e := *s.trialFile
			s.ended = &e
		}
	}
	if s.trial && b.hangs {
		s.mu.Unlock()
		sleep(ctx, time.Minute) // the watchdog
		return
	}
	s.since, s.up = time.Now(), true
	restart := make(chan struct{})
	s.restart = restart
	etc := s.t.TempDir()
	rel := api.Release{Version: st.Version, Number: st.Number, Board: s.board(), Channel: "stable", Built: begin.Add(-time.Hour).Unix() + b.built}
	js, _ := json.Marshal(rel)
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(etc, name), b, 0o600); err != nil {
			s.t.Error(err)
		}
	}
	write("release.json", js)
	for name, b := range s.etc {
		write(name, b)
	}
	env := &daemon.Env{
		Name: "updater", Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)), StateDir: s.dir, RuntimeDir: s.t.TempDir(),
		Notify: func(string) {},
	}
	e, err := newEngine(env, etc)
	if err != nil {
		s.t.Errorf("new engine: %v", err)
		s.mu.Unlock()
		s.stop()
		return
	}
	e.files.cut = func(point string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.dead.Load() {
			return errPower
		}
		if s.nospace && strings.HasPrefix(point, "before") && !strings.Contains(point, "remov") {
			return syscall.ENOSPC
		}
		if s.cut != nil {
			return s.cut(point)
		}
		return nil
	}
	e.jitter = func() float64 { return 0.5 }
	client := func(h http.Handler) *http.Client { return &http.Client{Transport: direct{s, h}} }
	e.init, e.net, e.core = client(s.initd()), client(s.networkd()), client(s.cored())
	e.fetch = fetcher.NewClient(client(s.fetcherd()))
	e.open = func(context.Context, api.Slots) (*medium, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.dead.Load() {
			return nil, errPower
		}
		return &medium{s.medium(s.running), func() {}}, nil
	}
	s.engine = e
	trial := s.trial
	s.mu.Unlock()
	if err := e.load(); err != nil {
		s.t.Errorf("load: %v", err)
	}
	ectx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { e.run(ectx) })
	wg.Go(func() { e.tellFetcher(ectx) })
	wg.Go(func() { e.watchFetcher(ectx) })
	if trial {
		go func() { // PID 1's own limit
			sleep(ectx, s.trialLimit())
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.trial && s.restart == restart && s.trialFile != nil && s.trialFile.Cause == "" {
				s.trialFile.Cause = "hang"
				s.reboot()
			}
		}()
	}
	select {
	case <-ctx.Done():
	case <-restart:
	}
	s.mu.Lock()
	s.up = false
	s.mu.Unlock()
	cancel()
	wg.Wait()
}

// starts is the slot that the machine's firmware, boot loader and kernel start from the medium.
func (s *sim) starts(slot string, trial bool) string {
	var once layout.Slot
	if trial {
		once = layout.Slot(slot)
	}
	d := s.lab.Disk
	b, err := s.machine.Boot(d, d.Size(), once)
	if err != nil {
		s.t.Errorf("%s starts nothing: %v", s.machine.Name, err)
		return slot
	}
	_, after, _ := strings.Cut(b.Cmdline, "croft.slot=")
	got, _, _ := strings.Cut(after, " ")
	if got != slot {
		s.t.Errorf("%s starts slot %q, want %q", s.machine.Name, got, slot)
	}
	return got
}

// trialLimit is how long PID 1 lets a release be on trial.
func (s *sim) trialLimit() time.Duration { return cmp.Or(s.limit, trialTime) }

// powerOut cuts the power: from now on nothing has an effect until the next start.
func (s *sim) powerOut() {
	s.dead.Store(true)
	s.reboot()
}

// reboot ends this boot. Under mu.
func (s *sim) reboot() {
	if s.restart != nil {
		close(s.restart)
		s.restart = nil
	}
}

// direct calls a handler in the place of a socket.
type direct struct {
	s *sim
	h http.Handler
}

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	d.s.mu.Lock()
	dead := d.s.dead.Load()
	d.s.mu.Unlock()
	if dead {
		return nil, errPower
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.h.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// initd plays PID 1.
func (s *sim) initd() http.Handler {
	mux := http.NewServeMux()
	lock := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			f(w, r)
		}
	}
	mux.HandleFunc("GET /v1/slots", lock(func(w http.ResponseWriter, r *http.Request) {
		v := api.Slots{
			Board: s.board(), Table: string(s.medium("a").Table), Running: s.running, Committed: s.committed(), Trial: s.trial, RootIDs: map[string]string{},
			Ended: s.ended, Pending: s.pending, OneShot: s.lacks, Rescue: s.rescue,
		}
		if s.trial {
			v.LeftMS = max(0, (s.trialLimit() - time.Since(s.since)).Milliseconds())
		}
		daemon.WriteJSON(w, 200, v)
	}))
	mux.HandleFunc("GET /v1/system", lock(func(w http.ResponseWriter, r *http.Request) {
		b := s.fault()
		v := api.System{Mode: api.ModeNormal, UptimeMS: time.Since(s.since).Milliseconds(), Vitals: api.Vitals{Data: &api.Disk{ReadOnly: b.readOnly}}}
		if b.rescue {
			v.Mode = api.ModeRescue
		}
		for _, name := range []string{"network", "core", "webui", "gateway", "notes"} {
			x := api.Service{Name: name, State: api.StateRunning, Critical: name != "notes"}
			if b.sick == name {
				x.State = api.StateCrashing
			}
			if b.loops == name {
				x.Restarts = int(time.Since(s.since) / (15 * time.Second))
			}
			v.Services = append(v.Services, x)
		}
		daemon.WriteJSON(w, 200, v)
	}))
	mux.HandleFunc("POST /v1/trial", lock(func(w http.ResponseWriter, r *http.Request) {
		var req api.TrialRequest
		json.NewDecoder(r.Body).Decode(&req)
		if s.trial || req.Slot != other(s.running) || s.lacks != "" {
			daemon.WriteJSON(w, 400, api.Problem{Title: "no", Status: 400})
			return
		}
		s.trialFile = &api.TrialEnd{Slot: req.Slot}
		s.oneShot = req.Slot
		w.WriteHeader(204)
		s.reboot()
	}))
	mux.HandleFunc("POST /v1/trial/kept", lock(func(w http.ResponseWriter, r *http.Request) {
		if s.committed() != s.running {
			s.t.Error("PID 1 was told that a release stays that is not committed")
			w.WriteHeader(400)
			return
		}
		s.trial, s.trialFile = false, nil
		w.WriteHeader(204)
	}))
	mux.HandleFunc("DELETE /v1/trial", lock(func(w http.ResponseWriter, r *http.Request) {
		var e api.TrialEnd
		json.NewDecoder(r.Body).Decode(&e)
		if !s.trial || !slices.Contains(api.UpdateCauses(), e.Cause) {
			s.t.Errorf("a trial was ended wrongly: %+v", e)
		}
		s.trialFile = &e
		w.WriteHeader(204)
		s.reboot()
	}))
	return mux
}

func (s *sim) fault() faulty { return s.behave[s.stamp(s.running).Version] }

func (s *sim) networkd() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := api.Network{Clock: api.Clock{Now: time.Now(), Certainty: s.certainty}}
		i := api.Interface{Name: "eth0", Up: true}
		if s.address && !s.fault().noAddr {
			i.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}
		}
		n.Interfaces = []api.Interface{i}
		daemon.WriteJSON(w, 200, n)
	})
}

func (s *sim) cored() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fault().health || r.URL.Path != "/api/v1/health" {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		daemon.WriteJSON(w, 200, map[string]bool{"ok": true})
	})
}

// fetcherd plays the fetcher: it hands out what the first source has that is any good.
func (s *sim) fetcherd() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/refresh", func(w http.ResponseWriter, r *http.Request) {
		var req fetcher.RefreshRequest
		json.NewDecoder(r.Body).Decode(&req)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refreshed++
		var res fetcher.RefreshResult
		for _, x := range s.sources {
			if x.kind == "mirror" && !req.Internet {
				continue
			}
			res.Sources = append(res.Sources, fetcher.SourceResult{Kind: x.kind, Name: x.name, Cause: x.cause})
		}
		daemon.WriteJSON(w, 200, res)
	})
	mux.HandleFunc("POST /v1/fetch", func(w http.ResponseWriter, r *http.Request) {
		var req fetcher.FetchRequest
		json.NewDecoder(r.Body).Decode(&req)
		s.mu.Lock()
		fail, slow := s.fetchErr, s.slow
		s.asked = append(s.asked, req.Internet)
		for _, b := range req.Blobs {
			s.fetched = append(s.fetched, b.Blob)
		}
		s.mu.Unlock()
		sleep(r.Context(), slow)
		daemon.WriteJSON(w, 200, fetcher.Progress{Done: 1, Total: 2, Source: "mirror"})
		daemon.WriteJSON(w, 200, fetcher.Progress{Done: 2, Total: 2, End: true, Cause: fail})
	})
	mux.HandleFunc("GET /v1/repo/{path...}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		list := slices.Clone(s.sources)
		s.mu.Unlock()
		for _, x := range list {
			rel, ok := strings.CutPrefix(r.PathValue("path"), x.prefix)
			path := filepath.Join(x.dir, filepath.FromSlash(rel))
			if fi, err := os.Stat(path); ok && x.cause == "" && err == nil && !fi.IsDir() {
				http.ServeFile(w, r, path)
				return
			}
		}
		http.NotFound(w, r)
	})
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		changed, same := s.changed, r.URL.Query().Get("after") == fmt.Sprint(s.revision)
		s.mu.Unlock()
		if same {
			select {
			case <-changed:
			case <-r.Context().Done():
			case <-time.After(time.Hour): // less often than the real one
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		st := fetcher.State{Revision: s.revision, Sharing: true}
		for _, x := range s.sources {
			if x.prefix == "" {
				st.Sources = append(st.Sources, api.UpdateSource{Kind: x.kind, Name: x.name, Version: x.version})
			}
		}
		daemon.WriteJSON(w, 200, st)
	})
	mux.HandleFunc("PUT /v1/settings", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settings = &fetcher.Settings{}
		json.NewDecoder(r.Body).Decode(s.settings)
		daemon.WriteJSON(w, 200, struct{}{})
	})
	mux.HandleFunc("POST /v1/probe", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		page := s.fault().page
		if s.probes++; s.fault().flaky && s.probes%3 == 0 {
			page = "503"
		}
		daemon.WriteJSON(w, 200, fetcher.Probe{HTTP: page})
	})
	return mux
}

// setSources changes where releases come from.
func (s *sim) setSources(list ...place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sources = list
	s.revision++
	if s.changed != nil {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// ask sends a request to the engine's socket.
func (s *sim) ask(method, path string, body any) int {
	s.t.Helper()
	b, _ := json.Marshal(body)
	s.mu.Lock()
	e := s.engine
	s.mu.Unlock()
	w := httptest.NewRecorder()
	e.handler().ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(b)))
	if w.Code >= 300 {
		s.t.Logf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Code
}

func (s *sim) action(a string, number int64) int {
	s.t.Helper()
	return s.ask("POST", "/v1/action", api.UpdateAction{Action: a, Number: number, By: "Ada"})
}

func (s *sim) policy(p api.UpdatePolicy) {
	s.t.Helper()
	if code := s.ask("PUT", "/v1/policy", api.UpdateSettings{Policy: p, TimeZone: "Europe/Berlin"}); code != 204 {
		s.t.Fatalf("policy: %d", code)
	}
}

func (s *sim) view() (api.Updates, bool) {
	s.mu.Lock()
	e, up := s.engine, s.up
	s.mu.Unlock()
	if e == nil || !up {
		return api.Updates{}, false
	}
	return e.view(), true
}

// rest lets time pass.
func (s *sim) rest(d time.Duration) {
	time.Sleep(d + 17*time.Minute)
	synctest.Wait()
}

// await waits until the box is in a state, for at most that long.
func (s *sim) await(what string, most time.Duration, ok func(api.Updates) bool) api.Updates {
	s.t.Helper()
	end := time.Now().Add(most)
	for step := time.Second; ; step = min(step+step/16, 15*time.Second) {
		synctest.Wait()
		u, up := s.view()
		if up && ok(u) {
			return u
		}
		if time.Now().After(end) {
			b, _ := json.MarshalIndent(u, "", "  ")
			s.t.Fatalf("%s: not after %v (up: %v): %s", what, most, up, b)
		}
		time.Sleep(step)
	}
}

func idle(u api.Updates) bool { return u.State == api.UpdateIdle }

func runs(n int64) func(api.Updates) bool {
	return func(u api.Updates) bool { return u.Number == n && idle(u) && (u.Last == nil || u.Last.Ended != nil) }
}

func offers(n int64) func(api.Updates) bool {
	return func(u api.Updates) bool { return idle(u) && u.Offer != nil && u.Offer.Number == n }
}

// ended waits for the end of the latest attempt.
func (s *sim) endedWith(outcome, cause string) api.Updates {
	s.t.Helper()
	u := s.await("the end of the attempt", 3*time.Hour, func(u api.Updates) bool { return idle(u) && u.Last != nil && u.Last.Ended != nil })
	if u.Last.Outcome != outcome || u.Last.Cause != cause {
		s.t.Errorf("it ended as %q, %q (%s), want %q, %q", u.Last.Outcome, u.Last.Cause, u.Last.Detail, outcome, cause)
	}
	return u
}
