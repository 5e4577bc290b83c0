// Command demo is what "make demo-update" does: it plays the life of an update on one machine. Five people make keys, three of them sign
// a release, a log and three witnesses see it, a folder publishes it; one box in QEMU takes it from there, a second one from the
// first; and a release whose page never answers is left again by itself.
//
// It uses the commands that publishers use and the API that pages use. Everything stays below out/demo, on loopback, and on a
// cable between the two machines. It needs a tree without uncommitted changes, and ten to twenty minutes. The
// kernels get two more arguments, as emulated PCs need them (qemu.Steady).
package main

import (
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
	"syscall"
	"time"

	croft "github.com/croft-os/croft/image"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "carry" { // a machine's connection to the mirror
		if err := qemu.Carry(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\nmake demo-update:", err)
		stop()
		os.Exit(1)
	}
	fmt.Printf("\nThat was all, in %s.\n", time.Since(began).Round(time.Second))
}

// demo is one run.
type demo struct {
	ctx  context.Context
	dir  string // out/demo
	tool string // the croft command
	urls []string
}

func say(format string, a ...any) { fmt.Printf("\n== "+format+"\n", a...) }

func run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, err := filepath.Abs("out/demo")
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "notes"), 0o755); err != nil {
		return err
	}
	d := &demo{ctx: ctx, dir: dir, tool: filepath.Join(dir, "croft")}
	if err := d.command(".", nil, "go", "build", "-o", d.tool, "./scripts/croft"); err != nil {
		return err
	}
	say("Five people make keys of their own; so do the machine that publishes, the log, and three witnesses.")
	stopWitnesses, err := d.keys()
	if err != nil {
		return err
	}
	defer stopWitnesses()
	if err := d.firstRoot(); err != nil {
		return err
	}
	root, err := os.ReadFile(filepath.Join(dir, "repo/metadata/1.root.json"))
	if err != nil {
		return err
	}

	say("The image that both boxes start with (built if need be).")
	if err := d.command(".", nil, d.tool, "build", "--board", "pc", "--out", dir, "--image-only"); err != nil {
		return err
	}
	say("Release 1: this commit. Built, signed by three of five, logged, witnessed, published to a folder.")
	if err := d.release(1, "demo-1", ""); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mirror := &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(dir, "repo"))), ReadHeaderTimeout: time.Minute}
	go mirror.Serve(l)
	defer mirror.Close()

	cable, err := freePort()
	if err != nil {
		return err
	}
	say("Two boxes. The first one reaches the mirror; the second one only the first, by a cable.")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	one, err := d.box("one", 0, []qemu.NIC{
		{Reach: map[string][]string{"10.0.2.100:80": {self, "carry", l.Addr().String()}}}, {Cable: "listen=" + cable, MAC: "52:54:00:00:01:01"},
	})
	if err != nil {
		return err
	}
	two, err := d.box("two", 0, []qemu.NIC{{}, {Cable: "connect=" + cable, MAC: "52:54:00:00:01:02"}})
	if err != nil {
		return err
	}
	for _, b := range []*box{one, two} {
		if err := b.setUp(); err != nil {
			return err
		}
	}
	if err := one.follow(root, "http://10.0.2.100"); err != nil {
		return err
	}
	if err := two.follow(root); err != nil {
		return err
	}

	say("Box one takes release 1 from the mirror.")
	if err := one.take(1, api.UpdateKept, "mirror"); err != nil {
		return err
	}
	say("Box two takes it from box one, its neighbour.")
	if err := two.take(1, api.UpdateKept, "neighbour"); err != nil {
		return err
	}
	say("Release 2 is bad: its page never answers. Three of five signed it all the same.")
	if err := d.release(2, "demo-2", "webui/webui.go"); err != nil {
		return err
	}
	if err := one.take(2, api.UpdateBack, "mirror"); err != nil {
		return err
	}
	say("Box one runs release 1 again, went back by itself, and will try the bad one once more at most.")
	for _, b := range []*box{one, two} {
		if err := b.vm.Shutdown(ctx); err != nil {
			return fmt.Errorf("box %s: %w", b.name, err)
		}
	}
	return nil
}

// command runs a program in a folder below out/demo (or "." for the source) and shows what it says.
func (d *demo) command(dir string, in io.Reader, name string, args ...string) error {
	cmd := exec.CommandContext(d.ctx, name, args...)
	if dir != "." {
		cmd.Dir = filepath.Join(d.dir, dir)
	}
	cmd.Env = append(os.Environ(), "CROFT_PASSPHRASE_FILE="+filepath.Join(d.dir, "passphrase"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return nil
}

func (d *demo) croft(args ...string) error {
	fmt.Println("$ croft " + strings.Join(args, " "))
	return d.command("", strings.NewReader("yes\n"), d.tool, args...)
}

var people = []string{"ada", "bob", "cyd", "dee", "eve"}

// keys makes all keys and starts the witnesses; the function returned ends them.
func (d *demo) keys() (stop func(), err error) {
	if err := os.WriteFile(filepath.Join(d.dir, "passphrase"), []byte("nine herons over the marsh\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "notes/en.txt"), []byte("A release of the demonstration.\n"), 0o644); err != nil {
		return nil, err
	}
	witnesses := []string{"w1.example", "w2.example", "w3.example"}
	for _, name := range append(append([]string{"online", "example.org/log"}, people...), witnesses...) {
		if err := d.croft("release", "keygen", name, "--work-factor", "8"); err != nil { // a demonstration need not wait
			return nil, err
		}
	}
	var running []*exec.Cmd
	stop = func() {
		for _, c := range running {
			c.Process.Signal(os.Interrupt)
			c.Wait()
		}
	}
	for _, w := range witnesses {
		addr, err := freePort()
		if err != nil {
			stop()
			return nil, err
		}
		c := exec.CommandContext(d.ctx, d.tool, "witness", "--listen", addr, "--key", w+".key", "--log", "log.pub", "--dir", w)
		c.Dir, c.Env = d.dir, append(os.Environ(), "CROFT_PASSPHRASE_FILE="+filepath.Join(d.dir, "passphrase"))
		if err := c.Start(); err != nil {
			stop()
			return nil, err
		}
		running = append(running, c)
		d.urls = append(d.urls, w+"=http://"+addr)
		if err := listening(d.ctx, addr); err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

func (d *demo) firstRoot() error {
	pubs := strings.Join(people, ".pub,") + ".pub"
	err := d.croft("release", "init", "stage-0", "--root-keys", pubs, "--targets-keys", pubs, "--timestamp-key", "online.pub",
		"--log", "log.pub", "--witness", "w1.example.pub,w2.example.pub,w3.example.pub", "--quorum", "2")
	if err != nil {
		return err
	}
	return d.signAndPublish("stage-0", "")
}

// signAndPublish has three people sign a stage, and publishes it. rebuilt is what they built themselves.
func (d *demo) signAndPublish(stage, rebuilt string) error {
	for _, who := range people[:3] {
		args := []string{"release", "sign", stage, "--key", who + ".key"}
		if rebuilt != "" {
			args = append(args, "--rebuilt", rebuilt)
		}
		if err := d.croft(args...); err != nil {
			return err
		}
	}
	return d.croft("release", "publish", stage, "repo", "--online-key", "online.key", "--log-key", "log.key",
		"--witness-url", strings.Join(d.urls, ","))
}

// release builds and publishes one; with broken set, that file of the source is changed so that no page is served.
func (d *demo) release(number int64, version, broken string) error {
	pc, err := board.Find(qemu.PC)
	if err != nil {
		return err
	}
	payload := filepath.Join(d.dir, "payload-"+version)
	source := ""
	if broken != "" {
		if source, err = d.breakPage(broken); err != nil {
			return err
		}
	}
	_, err = croft.Payload(d.ctx, croft.Options{
		Board: pc, Out: payload, Source: source, Version: version, Number: number, Channel: "stable", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if err := steady(filepath.Join(payload, "payload.json")); err != nil {
		return err
	}
	stage := "stage-" + version
	err = d.croft("release", "build", "--payload", payload, "--board", "pc", "--number", fmt.Sprint(number), "--notes", "notes",
		"--from", "repo", "--out", stage)
	if err != nil {
		return err
	}
	if err := d.signAndPublish(stage, stage); err != nil {
		return err
	}
	return d.croft("release", "verify", "repo", "--root", "repo/metadata/1.root.json")
}

// steady adds what emulated PCs need to a release's kernel arguments.
func steady(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var info croft.PayloadInfo
	if err := json.Unmarshal(b, &info); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	info.Cmdline += " " + qemu.Steady
	if b, err = json.Marshal(info); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// breakPage copies the source, as it is committed, and lets the copy serve no page.
func (d *demo) breakPage(file string) (source string, err error) {
	here, err := filepath.Abs(".")
	if err != nil {
		return "", err
	}
	source = filepath.Join(d.dir, "broken")
	if err := d.command(".", nil, "git", "clone", "-q", "--shared", here, source); err != nil {
		return "", err
	}
	path := filepath.Join(source, file)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	const serve = "go func() { done <- srv.Serve(cfg.Listener) }()"
	if strings.Count(string(b), serve) != 1 {
		return "", fmt.Errorf("%s is not what it was", file)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), serve, "_ = srv.Serve", 1)), 0o644); err != nil {
		return "", err
	}
	return source, d.command(".", nil, "git", "-C", source, "-c", "user.name=demo", "-c", "user.email=demo@example.org", "commit", "-qam", "break the page")
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func listening(ctx context.Context, addr string) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
	}
	return errors.Join(fmt.Errorf("nothing listens at %s", addr), ctx.Err())
}
