package fetcher

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/fat/fattest"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/daemon/devices"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/trust"
)

// box is a fetcher with all that it speaks to.
type box struct {
	*Client
	t    *testing.T
	env  *daemon.Env
	cfg  Config
	stop func()
	log  *lines

	mu     sync.Mutex
	usb    map[string]api.OpenDevice // by name
	images map[string]string         // paths
	peers  []api.Peer
	shared []bool // what discovery was told
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// List and Open are init's devices.
func (b *box) List(uint32) []api.OpenDevice {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := []api.OpenDevice{{Name: api.DeviceFirst}}
	for _, d := range b.usb {
		list = append(list, d)
	}
	return list
}

func (b *box) Open(_ uint32, name string) (f, direct *os.File, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path, ok := b.images[name]
	if !ok {
		return nil, nil, errors.New("no such device")
	}
	f, err = os.Open(path)
	return f, nil, err
}

func (b *box) plug(name, label, image string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.usb[name], b.images[name] = api.OpenDevice{Name: name, Size: 1, Label: label}, image
}

func (b *box) unplug(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.usb, name)
	delete(b.images, name)
}

func newBox(t *testing.T, cfg Config) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "fetch") // short, for unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if cfg.Board == "" {
		cfg.Board = "pc"
	}
	cfg.Built = time.Now().Add(-time.Hour)
	b := &box{t: t, cfg: cfg, log: &lines{}, usb: map[string]api.OpenDevice{}, images: map[string]string{}}
	b.env = &daemon.Env{
		Name: "fetcher", Log: slog.New(slog.NewTextHandler(b.log, nil)), StateDir: filepath.Join(dir, "state"), SocketDir: dir,
		Notify: func(string) {},
	}
	if err := os.Mkdir(b.env.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the fetcher said:\n%s", &b.log.b)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	dl, err := net.Listen("unix", filepath.Join(dir, "devices.sock"))
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { devices.Serve(ctx, dl, b, b.env.Log) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/peers", func(w http.ResponseWriter, _ *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		daemon.WriteJSON(w, 200, b.peers)
	})
	mux.HandleFunc("PUT /v1/share", func(w http.ResponseWriter, r *http.Request) {
		var req api.ShareRequest
		json.NewDecoder(r.Body).Decode(&req)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.shared = append(b.shared, req.Share)
		w.WriteHeader(204)
	})
	pl, err := net.Listen("unix", filepath.Join(dir, "discovery.sock"))
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { daemon.Serve(ctx, pl, mux) })
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start starts the service, as after a restart.
func (b *box) start() {
	b.t.Helper()
	socket := filepath.Join(b.env.SocketDir, "fetcher.sock")
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.t.Fatal(err)
	}
	b.env.Listeners = map[string]net.Listener{"fetcher": l}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, b.env, b.cfg) }()
	client := b.env.Client("fetcher")
	b.Client = NewClient(client)
	b.stop = sync.OnceFunc(func() {
		cancel()
		client.CloseIdleConnections()
		if err := <-ended; err != nil {
			b.t.Errorf("the service ended: %v", err)
		}
	})
}

func (b *box) refresh(r RefreshRequest) []SourceResult {
	b.t.Helper()
	r.Now, r.Sure = time.Now(), true
	res, err := b.Refresh(b.t.Context(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	return res.Sources
}

// wants are all blobs of a release.
func wants(r *release.Release) []Want {
	return []Want{
		{Blob: r.Boot.Frames.Blob, Size: r.Boot.Frames.Size, Frames: r.Boot.Frames.List},
		{Blob: r.Root.Frames.Blob, Size: r.Root.Frames.Size, Frames: r.Root.Frames.List},
		{Blob: r.SBOM.Blob, Size: r.SBOM.Size},
	}
}

// believes reads everything as an updater does, and returns the versions of the board's releases.
func (b *box) believes(root []byte, prefix string) string {
	b.t.Helper()
	c, err := trust.Create(b.t.TempDir(), trust.Options{Root: root, Prefix: prefix})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := c.Refresh(b.t.Context(), b.Client, trust.Clock{Now: time.Now(), Sure: true}); err != nil {
		return err.Error()
	}
	var versions []string
	for _, target := range c.Targets() {
		_, board, version, _ := release.ParseTarget(target.Path)
		if prefix == "" && board == b.cfg.Board {
			d, err := b.Get(b.t.Context(), release.TargetFile(target.Path, target.SHA256), target.Length)
			if err != nil || c.Verify(target.Path, d) != nil {
				b.t.Errorf("the description of %s: %v", version, err)
			}
		}
		versions = append(versions, board+" "+version)
	}
	return strings.Join(versions, ", ")
}

// holds compares blobs with what is right.
func (b *box) holds(list []Want, dir string) {
	b.t.Helper()
	for _, w := range list {
		want, err := os.ReadFile(filepath.Join(dir, release.BlobFile(w.Blob)))
		if err != nil {
			b.t.Fatal(err)
		}
		got := make([]byte, w.Size)
		if _, err := b.Blob(b.t.Context(), w.Blob, w.Size).ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
			b.t.Errorf("blob %s: %v", w.Blob, err)
		}
	}
}

func quick(t *testing.T, o publishtest.Options) *publishtest.Publisher {
	o.Root, o.Targets = [2]int{2, 3}, [2]int{2, 3}
	return publishtest.New(t, o)
}

func mirror(t *testing.T, h http.Handler) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL + "/"
}

// state waits until the state is as wanted.
func (b *box) state(what string, ok func(State) bool) State {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	for after := int64(-1); ; {
		st, err := b.State(ctx, after)
		if err != nil {
			b.t.Fatalf("%s: %v", what, err)
		}
		if ok(st) {
			return st
		}
		after = st.Revision
	}
}

func find(list []api.UpdateSource, kind string) *api.UpdateSource {
	for _, s := range list {
		if s.Kind == kind {
			return &s
		}
	}
	return nil
}

// TestService goes through what the updater and core ask for.
func TestService(t *testing.T) {
	p := quick(t, publishtest.Options{})
	boot, root := fetchtest.Bytes(1, 1<<20), fetchtest.Bytes(2, 5<<20)
	one := p.AddRelease("pc", 1, "v1", boot, root)
	asked := map[string]int{}
	var mu sync.Mutex
	url := mirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		mu.Unlock()
		p.Handler().ServeHTTP(w, r)
	}))
	b := newBox(t, Config{Root: p.Root(), Mirrors: []string{url}})
	ctx := t.Context()

	if s := b.refresh(RefreshRequest{}); len(s) != 0 || len(asked) != 0 {
		t.Errorf("without internet: %v, %v", s, asked)
	}
	if got := b.believes(p.Root(), ""); !strings.Contains(got, "not found") {
		t.Errorf("before there is anything: %s", got)
	}
	if s := b.refresh(RefreshRequest{Internet: true}); len(s) != 1 || s[0] != (SourceResult{Kind: "mirror", Name: url}) {
		t.Errorf("the mirror: %+v", s)
	}
	if got := b.believes(p.Root(), ""); got != "pc v1" {
		t.Errorf("believes %q", got)
	}
	st, err := b.State(ctx, -1)
	if err != nil || len(st.Sources) != 1 || st.Sources[0].Version != "v1" || st.Sources[0].Seen == nil || st.Used == 0 {
		t.Errorf("%+v, %v", st, err)
	}

	// Blobs, with progress; then again, without asking anybody.
	var all []Progress
	if err := b.Fetch(ctx, FetchRequest{Blobs: wants(one), Internet: true}, func(p Progress) { all = append(all, p) }); err != nil {
		t.Fatal(err)
	}
	b.holds(wants(one), p.Dir())
	last := all[len(all)-1]
	if len(all) < 4 || !last.End || last.Done != last.Total || all[0].Total != last.Total || last.Source != "mirror" || last.Name != url {
		t.Errorf("%d times progress, at the end %+v", len(all), last)
	}
	mu.Lock()
	clear(asked)
	mu.Unlock()
	if err := b.Fetch(ctx, FetchRequest{Blobs: wants(one), Internet: true}, nil); err != nil || len(asked) != 0 {
		t.Errorf("again: %v, %v", err, asked)
	}
	// As a patch is read, at several places in turn.
	small := make([]byte, 100)
	r := b.Blob(ctx, one.Root.Frames.Blob, one.Root.Frames.Size)
	want, _ := os.ReadFile(filepath.Join(p.Dir(), release.BlobFile(one.Root.Frames.Blob)))
	for i := range 100 {
		off := int64(i*7919*1000) % (one.Root.Frames.Size - 100)
		if _, err := r.ReadAt(small, off); err != nil || !bytes.Equal(small, want[off:off+100]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if n, err := r.ReadAt(small, one.Root.Frames.Size-50); n != 50 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}

	// Nobody has it.
	missing := []Want{{Blob: fetchtest.Hash([]byte("nobody")), Size: 7}}
	var fe *Error
	if err := b.Fetch(ctx, FetchRequest{Blobs: missing, Internet: true}, nil); !errors.As(err, &fe) || fe.Cause != "download" {
		t.Errorf("missing: %v", err)
	}
	if err := b.Fetch(ctx, FetchRequest{}, nil); !errors.As(err, &fe) || fe.Status != 422 {
		t.Errorf("nothing wanted: %v", err)
	}
	if err := b.Fetch(ctx, FetchRequest{Blobs: []Want{{Blob: "../../etc/passwd", Size: 7}}}, nil); !errors.As(err, &fe) {
		t.Errorf("a path: %v", err)
	}
	for _, path := range fetchtest.Strangers() {
		if c, err := b.Get(ctx, path, 1<<20); err == nil {
			t.Errorf("%q: %q", path, c)
		}
	}

	// After a restart all of it is there.
	b.stop()
	b.start()
	if got := b.believes(p.Root(), ""); got != "pc v1" {
		t.Errorf("after a restart it believes %q", got)
	}
	b.holds(wants(one), p.Dir())

	// The mirror is away, then it is another's.
	if s := b.refresh(RefreshRequest{Internet: true, Mirrors: []string{"http://127.0.0.1:1/"}}); len(s) != 1 || s[0].Cause != "no-source" {
		t.Errorf("a mirror that is away: %+v", s)
	}
	other := quick(t, publishtest.Options{Origin: "other.example/log"})
	other.AddRelease("pc", 1, "v9", []byte("b"), []byte("r"))
	if s := b.refresh(RefreshRequest{Internet: true, Mirrors: []string{mirror(t, other.Handler())}}); len(s) != 1 || s[0].Cause == "" || s[0].Cause == "no-source" {
		t.Errorf("another publisher's mirror: %+v", s)
	}
	if got := b.believes(p.Root(), ""); got != "pc v1" {
		t.Errorf("believes %q", got)
	}

	// The owner follows the other, and comes back.
	req := RefreshRequest{Internet: true, Root: other.Root(), Mirrors: []string{mirror(t, other.Handler())}}
	if s := b.refresh(req); len(s) != 1 || s[0].Cause != "" {
		t.Errorf("a new root: %+v", s)
	}
	if got := b.believes(other.Root(), ""); got != "pc v9" {
		t.Errorf("believes %q", got)
	}
	b.refresh(RefreshRequest{Internet: true})
	if got := b.believes(p.Root(), ""); got != "pc v1" {
		t.Errorf("back again it believes %q", got)
	}

	// An auditor in a tree of its own.
	auditor := quick(t, publishtest.Options{Origin: "second.example/log"})
	auditor.Audit(p)
	tree := t.TempDir()
	if err := os.CopyFS(filepath.Join(tree, "auditors/second"), os.DirFS(auditor.Dir())); err != nil {
		t.Fatal(err)
	}
	prefix := "auditors/second/"
	req = RefreshRequest{Prefix: prefix, Internet: true, Root: auditor.Root(), Mirrors: []string{mirror(t, http.FileServer(http.Dir(tree)))}}
	if s := b.refresh(req); len(s) != 1 || s[0].Cause != "" {
		t.Errorf("the auditor: %+v", s)
	}
	if got := b.believes(auditor.Root(), prefix); got != "pc v1" {
		t.Errorf("by the auditor it believes %q", got)
	}
	if got := b.believes(p.Root(), ""); got != "pc v1" {
		t.Errorf("and by the project %q", got)
	}
	for name, req := range map[string]RefreshRequest{
		"prefix": {Prefix: "auditors/../x/"}, "stranger": {Prefix: "blobs/"}, "channel": {Channel: "nightly"}, "root": {Root: []byte("{}")},
	} {
		if res, err := b.Refresh(ctx, req); err == nil {
			t.Errorf("%s: %+v", name, res)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(b.env.StateDir, "fresh-*")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestCancelFetch hangs up in the middle.
func TestCancelFetch(t *testing.T) {
	p := quick(t, publishtest.Options{})
	r := p.AddRelease("pc", 1, "v1", []byte("boot"), fetchtest.Bytes(2, 9<<20))
	var mu sync.Mutex
	served := 0
	var cancel context.CancelFunc
	url := mirror(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/blobs/"+r.Root.Frames.Blob) {
			mu.Lock()
			served++
			n, stop := served, cancel
			mu.Unlock()
			if n == 3 && stop != nil {
				stop()
				<-req.Context().Done()
				return
			}
		}
		p.Handler().ServeHTTP(w, req)
	}))
	b := newBox(t, Config{Root: p.Root(), Mirrors: []string{url}})
	ctx, stop := context.WithCancel(t.Context())
	cancel = stop
	if err := b.Fetch(ctx, FetchRequest{Blobs: wants(r), Internet: true}, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	mu.Lock()
	cancel = nil
	mu.Unlock()
	if err := b.Fetch(t.Context(), FetchRequest{Blobs: wants(r), Internet: true}, nil); err != nil {
		t.Fatal(err)
	}
	b.holds(wants(r), p.Dir())
	if n := len(r.Root.Frames.List); served > n+1 {
		t.Errorf("%d requests for %d frames", served, n)
	}
	b.state("no progress", func(s State) bool { return s.Progress == nil })
}

// TestUpload takes bundles, and what only looks like one.
func TestUpload(t *testing.T) {
	p := quick(t, publishtest.Options{})
	r := p.AddRelease("pc", 3, "v3", fetchtest.Bytes(1, 1000), fetchtest.Bytes(2, 1<<20))
	p.AddRelease("rpi", 4, "v4", []byte("b"), []byte("r"))
	good := p.Bundle("pc", release.Stable)
	b := newBox(t, Config{Root: p.Root()})
	ctx := t.Context()
	for name, test := range map[string]struct {
		content io.Reader
		cause   string
	}{
		"empty":     {strings.NewReader(""), "bad-file"},
		"a picture": {bytes.NewReader(fetchtest.Bytes(3, 100_000)), "bad-file"},
		"cut off":   {bytes.NewReader(good[:1<<19]), "bad-file"},
		"another":   {bytes.NewReader(p.Bundle("rpi", release.Stable)), "wrong-board"},
		"a bomb":    {bytes.NewReader(bomb(t)), "bad-file"},
		"too large": {io.LimitReader(zeros{}, MaxUpload+1), "bad-file"},
		"cut short": {io.MultiReader(bytes.NewReader(good[:1<<19]), broken{}), ""},
	} {
		if testing.Short() && name == "too large" {
			continue
		}
		var fe *Error
		if u, err := b.Upload(ctx, name+".zip", test.content); err == nil || test.cause != "" && (!errors.As(err, &fe) || fe.Cause != test.cause) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
		if st, err := b.State(ctx, -1); err != nil || st.Upload != "" || find(st.Sources, "file") != nil {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		time.Sleep(10 * time.Millisecond)
		if left, _ := filepath.Glob(filepath.Join(b.env.StateDir, "upload*")); len(left) != 0 && test.cause != "" {
			t.Errorf("%s: left over: %v", name, left)
		}
	}
	u, err := b.Upload(ctx, `C:\Users\me\croft-pc "x".zip`, bytes.NewReader(good))
	if err != nil || u.Name != `croft-pc "x".zip` || u.Board != "pc" || u.Version != "v3" || u.Size != int64(len(good)) {
		t.Fatalf("%+v, %v", u, err)
	}
	b.stop()
	b.start() // it is still there
	list, err := b.Sources(ctx)
	if f := find(list, "file"); err != nil || f == nil || f.Name != u.Name || f.Version != "v3" || f.Seen == nil {
		t.Errorf("%+v, %v", list, err)
	}
	if s := b.refresh(RefreshRequest{}); len(s) != 1 || s[0] != (SourceResult{Kind: "file", Name: u.Name}) {
		t.Errorf("%+v", s)
	}
	if got := b.believes(p.Root(), ""); !strings.Contains(got, "pc v3") {
		t.Errorf("believes %q", got)
	}
	if err := b.Fetch(ctx, FetchRequest{Blobs: wants(r)[:2]}, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveUpload(ctx); err != nil {
		t.Fatal(err)
	}
	if list, err := b.Sources(ctx); err != nil || find(list, "file") != nil {
		t.Errorf("removed: %+v, %v", list, err)
	}
	if s := b.refresh(RefreshRequest{}); len(s) != 0 {
		t.Errorf("removed: %+v", s)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the phone went away") }

// bomb is a ZIP file that says it holds a lot more than it does.
func bomb(t *testing.T) []byte {
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	w, err := z.Create("croft-repository") // deflated
	if err == nil {
		_, err = io.CopyN(w, zeros{}, 50<<20)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// makeStick makes a FAT volume with the files of a folder below "croft", and others in its root.
func makeStick(t *testing.T, tree string, others map[string][]byte) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "stick")
	tool := func(name string, args ...string) {
		path, err := exec.LookPath(name)
		if err != nil {
			path = "/usr/sbin/" + name
		}
		cmd := exec.Command(path, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	tool("mkfs.fat", "-F", "32", "-s", "1", "-C", img, "65536")
	if tree != "" {
		tool("mmd", "-i", img, "::/croft")
		entries, err := os.ReadDir(tree)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			tool("mcopy", "-s", "-i", img, filepath.Join(tree, e.Name()), "::/croft/")
		}
	}
	for name, b := range others {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		tool("mcopy", "-i", img, file, "::/")
	}
	return img
}

// TestSticks plugs sticks in and pulls them.
func TestSticks(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as it takes to notice: run without -short")
	}
	p := quick(t, publishtest.Options{})
	r := p.AddRelease("pc", 3, "v3", fetchtest.Bytes(1, 1<<20), fetchtest.Bytes(2, 9<<20))
	bundle := p.Bundle("pc", release.Stable)
	// All of more than 32 GB are exFAT.
	big := newBox(t, Config{Root: p.Root()})
	big.plug("usb/sda1", "BIG", fattest.Files(t, "BIG", map[string][]byte{"croft-pc.zip": bundle}))
	odd := newBox(t, Config{})
	odd.plug("usb/sdd1", "TORN", makeStick(t, "", map[string][]byte{"croft-pc.zip": bundle[:1<<20]}))
	odd.mu.Lock()
	odd.usb["usb/sde"] = api.OpenDevice{Name: "usb/sde", Model: "Acme Stick", Other: "NTFS"}
	odd.usb["usb/sdf"] = api.OpenDevice{Name: "usb/sdf", Other: api.DeviceOtherUnknown}
	odd.mu.Unlock()
	b := newBox(t, Config{Root: p.Root()})
	b.plug("usb/sda1", "PICTURES", makeStick(t, "", map[string][]byte{"holiday.jpg": []byte("x")}))
	b.plug("usb/sdb", "", os.DevNull)
	b.plug("usb/sdc1", "UPDATES", makeStick(t, p.Dir(), nil))
	st := b.state("the stick", func(s State) bool { return len(s.Sources) == 2 })
	if st.Sources[0].Name != "UPDATES" || st.Sources[0].Version != "v3" || st.Sources[1].Name != "usb/sdb" || st.Sources[1].Cause != api.StickDamaged {
		t.Errorf("%+v", st.Sources)
	}
	b.unplug("usb/sdb")
	if s := b.refresh(RefreshRequest{}); len(s) != 1 || s[0] != (SourceResult{Kind: "usb", Name: "UPDATES"}) {
		t.Errorf("%+v", s)
	}
	if got := b.believes(p.Root(), ""); got != "pc v3" {
		t.Errorf("believes %q", got)
	}
	big.state("the exFAT stick", func(s State) bool { return find(s.Sources, "usb") != nil })
	if s := big.refresh(RefreshRequest{}); len(s) != 1 || s[0] != (SourceResult{Kind: "usb", Name: "BIG/croft-pc.zip"}) {
		t.Errorf("%+v", s)
	}
	if err := big.Fetch(t.Context(), FetchRequest{Blobs: wants(r)[:2]}, nil); err != nil {
		t.Fatal(err)
	}
	big.holds(wants(r)[:2], p.Dir())
	// Pulled in the middle, and plugged in again, now with a bundle.
	image := b.images["usb/sdc1"]
	pulled := false
	err := b.Fetch(t.Context(), FetchRequest{Blobs: wants(r)}, func(p Progress) {
		if p.Done > 0 && !pulled {
			pulled = true
			b.unplug("usb/sdc1")
			os.Truncate(image, 0) // what is read from then on fails
		}
	})
	var fe *Error
	if !errors.As(err, &fe) || fe.Cause != "download" {
		t.Errorf("pulled: %v", err)
	}
	b.state("no stick", func(s State) bool { return find(s.Sources, "usb") == nil })
	b.plug("usb/sdc1", "", makeStick(t, "", map[string][]byte{"croft-pc.zip": p.Bundle("pc", release.Stable)}))
	st = b.state("the stick", func(s State) bool { return find(s.Sources, "usb") != nil })
	if n := find(st.Sources, "usb").Name; n != "usb/sdc1/croft-pc.zip" {
		t.Errorf("called %q", n)
	}
	if err := b.Fetch(t.Context(), FetchRequest{Blobs: wants(r)[:2]}, nil); err != nil {
		t.Fatal(err)
	}
	// What can't be read is told of, until it is pulled.
	st = odd.state("what can't be read", func(s State) bool { return len(s.Sources) == 3 })
	want := []api.UpdateSource{
		{Kind: "usb", Name: "Acme Stick", Cause: api.StickFileSystem, System: "NTFS"},
		{Kind: "usb", Name: "TORN", Cause: api.StickDamaged, Error: st.Sources[1].Error},
		{Kind: "usb", Name: "usb/sdf", Cause: api.StickFileSystem},
	}
	if !slices.Equal(st.Sources, want) || st.Sources[1].Error == "" {
		t.Errorf("%+v", st.Sources)
	}
	for _, name := range []string{"usb/sdd1", "usb/sde", "usb/sdf"} {
		odd.unplug(name)
	}
	// Another family's stick.
	p.AddRelease("rpi", 4, "v4", []byte("b"), []byte("r"))
	wrong := newBox(t, Config{Root: p.Root(), Board: "rpi"})
	wrong.plug("usb/sda1", "OLD", makeStick(t, "", map[string][]byte{"croft-pc.zip": p.Bundle("pc", release.Stable)}))
	pc := quick(t, publishtest.Options{})
	pc.AddRelease("pc", 1, "v1", []byte("b"), []byte("r"))
	wrong.plug("usb/sdb1", "FOREIGN", makeStick(t, pc.Dir(), nil))
	wrong.state("the foreign stick", func(s State) bool { return find(s.Sources, "usb") != nil })
	odd.state("nothing", func(s State) bool { return len(s.Sources) == 0 })
	if s := wrong.refresh(RefreshRequest{Root: pc.Root()}); len(s) != 1 || s[0].Name != "FOREIGN" || s[0].Cause != "wrong-board" {
		t.Errorf("%+v", s)
	}
}

// TestSettings are kept, and told to discovery.
func TestSettings(t *testing.T) {
	b := newBox(t, Config{Mirrors: []string{"https://built.in/"}})
	ctx := t.Context()
	for _, bad := range []Settings{{Mirrors: []string{"http://example.org"}}, {Mirrors: make([]string, 9)}} {
		if err := b.Set(ctx, bad); err == nil {
			t.Errorf("%+v taken", bad)
		}
	}
	if err := b.Set(ctx, Settings{Mirrors: []string{"https://a.example/"}, Share: true}); err != nil {
		t.Fatal(err)
	}
	told := func(want bool) {
		t.Helper()
		for range 100 {
			b.mu.Lock()
			n := len(b.shared)
			ok := n > 0 && b.shared[n-1] == want
			b.mu.Unlock()
			if ok {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("discovery was not told %v", want)
	}
	told(true)
	b.stop()
	b.start()
	st, err := b.State(ctx, -1)
	if err != nil || !st.Sharing || len(st.Sources) != 1 || st.Sources[0].Name != "https://a.example/" {
		t.Errorf("%+v, %v", st, err)
	}
	if err := b.Set(ctx, Settings{}); err != nil {
		t.Fatal(err)
	}
	told(false)
	st, err = b.State(ctx, -1)
	if err != nil || st.Sharing || len(st.Sources) != 1 || st.Sources[0].Name != "https://built.in/" {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := b.Refresh(ctx, RefreshRequest{}); err == nil {
		t.Error("refreshed without a root")
	}
	b.stop()
	for _, content := range []string{"", "{", "[]", `{"mirrors":7}`} {
		if err := os.WriteFile(filepath.Join(b.env.StateDir, "settings.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		b.start()
		if _, err := b.State(ctx, -1); err != nil {
			t.Errorf("with settings %q: %v", content, err)
		}
		b.stop()
	}
}

func TestCleanName(t *testing.T) {
	for in, want := range map[string]string{
		"croft-pc.zip": "croft-pc.zip", `C:\x\croft.zip`: "croft.zip", "../../etc/passwd": "passwd", "a\x00b\nc": "abc", "": "",
		"größe.zip": "größe.zip", strings.Repeat("ü", 99): strings.Repeat("ü", 50), "x/": "", "\xff\xfe": "",
	} {
		if got := cleanName(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// TestPage asks pages that are, and that are not.
func TestPage(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			io.WriteString(w, "<html>")
		case "/moved":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusSeeOther)
		case "/cut":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "<html>")
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	defer plain.Close()
	defer secure.Close()
	for url, ok := range map[string]bool{
		plain.URL + "/": true, secure.URL + "/": true, plain.URL + "/moved": true, plain.URL + "/cut": false, plain.URL + "/bad": false,
		"http://127.0.0.1:1/": false, strings.Replace(plain.URL, "http:", "https:", 1) + "/": false,
	} {
		if err := page(t.Context(), url); (err == nil) != ok {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestOnlyWhoMay asks as somebody else: only root runs tests as others.
func TestOnlyWhoMay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	b := newBox(t, Config{Updater: 12345, Core: 12346})
	for path, dir := b.env.SocketDir, ""; dir != "/"; path = dir {
		os.Chmod(path, 0o755)
		dir = filepath.Dir(path)
		if dir == os.TempDir() {
			break
		}
	}
	os.Chmod(filepath.Join(b.env.SocketDir, "fetcher.sock"), 0o777)
	for _, test := range []struct {
		uid    int
		method string
		path   string
		want   string
	}{
		{12345, "GET", "/v1/state", "200"},
		{12345, "GET", "/v1/sources", "200"},
		{12346, "GET", "/v1/sources", "200"},
		{12346, "GET", "/v1/state", "403"},
		{12346, "POST", "/v1/fetch", "403"},
		{12346, "POST", "/v1/refresh", "403"},
		{12346, "PUT", "/v1/settings", "403"},
		{12346, "GET", "/v1/repo/metadata/timestamp.json", "403"},
		{12346, "DELETE", "/v1/upload", "204"},
		{12347, "GET", "/v1/sources", "000"},
	} {
		cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(test.uid), "--clear-groups", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", test.method,
			"--unix-socket", filepath.Join(b.env.SocketDir, "fetcher.sock"), "http://fetcher"+test.path)
		out, _ := cmd.Output()
		if string(out) != test.want {
			t.Errorf("uid %d: %s %s: %s", test.uid, test.method, test.path, out)
		}
	}
}
