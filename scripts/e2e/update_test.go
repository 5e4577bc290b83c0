package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
)

// variant is a release that differs from the tree: a replacement in one of its files, further kernel arguments.
type variant struct {
	name, file, old, new string
	args                 string
}

// hasty shortens the trial of releases that would fail until its end. How long it is without, package boot tests.
const hasty = "croft.trial=150"

// The releases of the tests. All but the first have to be left again.
var (
	good     = variant{name: "good"}
	panics   = variant{name: "panics", args: "init=/nowhere"} // the kernel finds no first program, and panics
	initEnds = variant{name: "init-ends", file: "image/init/main.go", old: "func main() {", new: "func main() {\n\tif len(os.Args) == 1 {\n\t\tos.Exit(3)\n\t}"}
	pageless = variant{
		name: "pageless", file: "webui/webui.go", old: "go func() { done <- srv.Serve(cfg.Listener) }()", new: "_ = srv.Serve", args: hasty,
	}
	crashLoop = variant{
		name: "crash-loop", file: "services/discovery/discovery.go", old: "\thostname, err := os.Hostname()\n",
		new: "\ttime.AfterFunc(7*time.Second, func() { os.Exit(1) })\n\thostname, err := os.Hostname()\n", args: hasty,
	}
	hangs = variant{ // nothing but PID 1 moves any more, and that does not pet the watchdog
		name: "hangs", file: "image/boot/health.go", old: "func (b *Box) pet() {\n",
		new: "func (b *Box) pet() {\n\tif sinceBoot() > 10*time.Second {\n\t\tunix.Kill(-1, unix.SIGSTOP)\n\t\tselect {}\n\t}\n",
	}
)

var payloads struct {
	sync.Mutex
	dirs map[string]string
}

// payload builds what a release is made of, once for all tests that have the same source: boot.part, root.part and payload.json, in
// the folder returned.
func payload(t *testing.T, v variant, number int64) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds releases and boots machines")
	}
	payloads.Lock()
	defer payloads.Unlock()
	key := fmt.Sprintf("%s %d %s", v.file, number, v.new)
	if dir, ok := payloads.dirs[key]; ok {
		return dir
	}
	tmp := kept(t, "release")
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if v.file != "" { // built from a copy of what is committed
		clone := filepath.Join(tmp, "source")
		if _, err := run(t.Context(), "git", "clone", "-q", "--shared", root, clone); err != nil {
			t.Fatal(err)
		}
		root = clone
		path := filepath.Join(root, v.file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), v.old) != 1 {
			t.Fatalf("%s does not contain %q once", v.file, v.old)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), v.old, v.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "CROFT_PAYLOAD="+tmp, fmt.Sprintf("CROFT_NUMBER=%d", number), "CROFT_SOURCE="+root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build release %q: %v\n%s", v.name, err, out)
	}
	if payloads.dirs == nil {
		payloads.dirs = map[string]string{}
	}
	payloads.dirs[key] = tmp
	return tmp
}

// add publishes a release made of a payload.
func add(t *testing.T, p *publishtest.Publisher, v variant, number int64) *release.Release {
	t.Helper()
	dir := payload(t, v, number)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var info struct{ Board, Version, Cmdline string }
	if err := json.Unmarshal(read("payload.json"), &info); err != nil {
		t.Fatal(err)
	}
	return p.Add(publishtest.Release{
		Board: info.Board, Version: info.Version, Number: number, Boot: read("boot.part"), Root: read("root.part"),
		Cmdline: strings.TrimSpace(info.Cmdline + " " + qemu.Steady + " " + v.args),
	})[0]
}

// mirrorURL is where a machine finds a repository that is served to its interface by mirror.
const mirrorURL = "http://10.0.2.100"

// mirror serves a repository to a machine that has the interface.
func mirror(t *testing.T, h http.Handler) qemu.NIC {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return qemu.NIC{Reach: map[string][]string{"10.0.2.100:80": {os.Args[0], "carry", l.Addr().String()}}}
}

// follow has the box take updates from a publisher, when asked to.
func (b *box) follow(p *publishtest.Publisher) {
	b.t.Helper()
	b.change(func(c *api.Config) { c.Updates = api.UpdatePolicy{Mode: "ask", Mirrors: []string{mirrorURL}} })
	sum := sha256.Sum256(p.Root())
	b.api("PUT", "/updates/trust", api.TrustRequest{
		Password: password, Role: "project", Action: "set", Name: "Test", Fingerprint: hex.EncodeToString(sum[:]), Root: string(p.Root()),
	}, nil, 204)
}

// updates waits until the box says of its updates what ok wants to hear.
func (b *box) updates(what string, limit time.Duration, ok func(api.Updates) error) (u api.Updates) {
	b.t.Helper()
	b.until(what, limit, func(ctx context.Context) error {
		u = api.Updates{}
		if _, err := b.ask(ctx, "GET", "/updates", nil, &u, 200); err != nil {
			return err
		}
		return ok(u)
	})
	return u
}

// update has the box take the release of that number, and returns how the attempt ended. On its way told hears of every state.
func (b *box) update(number int64, told func(state string)) api.UpdateAttempt {
	b.t.Helper()
	b.api("POST", "/updates/action", api.UpdateAction{Action: "check"}, nil, 202)
	offer := b.updates("the release is offered", 2*time.Minute, func(u api.Updates) error {
		if u.Offer == nil || u.Offer.Number != number {
			return fmt.Errorf("state %s, offer %+v, problem %+v, sources %+v", u.State, u.Offer, u.Problem, u.Sources)
		}
		return nil
	}).Offer
	b.t.Logf("offer: %+v", *offer)
	before := len(b.attempts())
	b.api("POST", "/updates/action", api.UpdateAction{Action: "install", Number: number}, nil, 202)
	var last string
	u := b.updates("the attempt is over", 12*time.Minute, func(u api.Updates) error {
		if u.State != last {
			b.t.Logf("update: %s", u.State)
			last = u.State
			told(last)
		}
		if u.State == api.UpdateReady {
			if _, err := b.ask(b.t.Context(), "POST", "/updates/action", api.UpdateAction{Action: "restart"}, nil, 202); err != nil {
				return err
			}
		}
		if u.State != api.UpdateIdle || u.Last == nil || u.Last.Ended == nil || u.Last.Number != number {
			return fmt.Errorf("state %s, progress %+v, last %+v", u.State, u.Progress, u.Last)
		}
		if len(b.attempts()) <= before {
			return errors.New("the attempt is not in the history")
		}
		return nil
	})
	b.t.Logf("attempt: %+v", *u.Last)
	return *u.Last
}

func (b *box) attempts() []api.UpdateAttempt {
	var l api.List[api.UpdateAttempt]
	if _, err := b.ask(b.t.Context(), "GET", "/updates/history", nil, &l, 200); err != nil {
		return nil
	}
	return l.Items
}

var settled struct {
	sync.Once
	disk, vars string
	err        error
}

// settle makes, once for all tests, the disk and the firmware's variables of a PC whose household has set it up.
func settle(t *testing.T) {
	t.Helper()
	img := image(t, qemu.PC)
	settled.Do(func() {
		settled.err = errors.New("setting up the first box failed")
		dir := kept(t, "settled")
		o := qemu.Options{
			Board: qemu.PC, Disks: []qemu.Disk{overlay(t, steadied(t, img), diskSize)}, NICs: []qemu.NIC{{}},
			Vars: filepath.Join(dir, "vars.fd"), Watchdog: true, CPUs: 1,
		}
		b := start(t, o)
		b.own()
		b.off()
		settled.disk, settled.vars = filepath.Join(dir, "disk.img"), o.Vars
		settled.err = qemu.Flatten(t.Context(), o.Disks[0], settled.disk)
	})
	if settled.err != nil {
		t.Fatal(settled.err)
	}
}

// ownedBox starts such a PC through its firmware.
func ownedBox(t *testing.T, nic qemu.NIC) (*box, qemu.Options) {
	t.Helper()
	settle(t)
	vars := filepath.Join(t.TempDir(), "vars.fd")
	if _, err := run(t.Context(), "cp", settled.vars, vars); err != nil {
		t.Fatal(err)
	}
	o := qemu.Options{
		Board: qemu.PC, Disks: []qemu.Disk{overlay(t, settled.disk, diskSize)}, NICs: []qemu.NIC{nic}, Vars: vars, Watchdog: true, CPUs: 1,
	}
	return signedIn(t, o), o
}

// signedIn starts a box that has an owner, as that owner's phone.
func signedIn(t *testing.T, o qemu.Options) *box {
	t.Helper()
	b := start(t, o)
	b.waitPage()
	b.until("the owner is signed in", time.Minute, func(ctx context.Context) error {
		_, err := b.ask(ctx, "POST", "/session", api.SessionRequest{Name: owner, Password: password}, nil, 201)
		return err
	})
	return b
}

// TestUpdateEndings takes up releases that are signed as they must be and do not work: each is left again by itself, with the cause shown.
// TestPowerCutsInUpdate has the good one.
func TestUpdateEndings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		variant
		causes []string // any of them
		soak   bool
	}{
		{panics, []string{"not-started"}, false},
		{initEnds, []string{"not-started"}, true},
		{pageless, []string{"page", "service"}, false},
		{crashLoop, []string{"service"}, true},
		{hangs, []string{"hang"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.soak && os.Getenv("CROFT_SOAK") == "" {
				t.Skip("takes minutes; \"make soak\" has it")
			}
			p := publishtest.New(t, publishtest.Options{})
			add(t, p, c.variant, 2)
			b, o := ownedBox(t, mirror(t, p.Handler()))
			b.follow(p)
			var was api.Updates
			b.api("GET", "/updates", nil, &was, 200)
			got := b.update(2, func(string) {})
			if got.Outcome != api.UpdateBack || !slices.Contains(c.causes, got.Cause) {
				t.Errorf("the attempt ended as %q, cause %q (%s); want %q, %q", got.Outcome, got.Cause, got.Detail, api.UpdateBack, c.causes)
			}
			now := b.waitState("everything runs", 2*time.Minute, running)
			if now.System.Slot != "a" || now.System.Version != was.Version {
				t.Errorf("slot %s runs %s, want a and %s", now.System.Slot, now.System.Version, was.Version)
			}
			b.off()
			checkDisk(t, o.Disks[0])
		})
	}
}
