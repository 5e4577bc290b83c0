// Command run is what "make run" does: it builds the pc image if the source is newer, boots it in QEMU with UEFI, waits
// for the page over HTTP and HTTPS, says where it is, and shuts the box down when it is interrupted.
//
// Environment: HTTP_PORT and HTTPS_PORT (8080 and 8443), FRESH=1 for a new box, MEMORY in MiB (512), OUT for the folder of
// images (out). The box's disk and its console's log stay in out/run. It runs from the root of the source.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/croft-os/croft/image/qrtext"
	"github.com/croft-os/croft/scripts/qemu"
)

const (
	bootTime     = 4 * time.Minute // limit from power to page, without KVM on a busy machine
	shutdownTime = 20 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "make run:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, env func(string) string, out io.Writer) error {
	base := env("OUT")
	if base == "" {
		base = "out"
	}
	dir := filepath.Join(base, "run")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	image, disk := filepath.Join(base, "croft-pc.img"), filepath.Join(dir, "disk.img")
	old, err := outdated(image, ".")
	if err != nil {
		return err
	}
	if old {
		fmt.Fprintln(out, "Building the image (the first time this takes some minutes) …")
		cmd := exec.CommandContext(ctx, "go", "run", "./scripts/croft", "build", "--board", "pc", "--out", base, "--image-only")
		cmd.Stdout, cmd.Stderr = out, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that all of it ends together
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		if err := cmd.Run(); err != nil {
			return interrupted(ctx, fmt.Errorf("build the image: %w", err))
		}
	}
	did, err := prepareDisk(image, disk, env("FRESH") == "1")
	if err != nil {
		return fmt.Errorf("prepare the box's disk: %w", err)
	}
	ports := map[int]int{}
	for guest, p := range map[int]struct {
		name string
		port int
	}{80: {"HTTP_PORT", 8080}, 443: {"HTTPS_PORT", 8443}} {
		if ports[guest], err = choosePort(env(p.name), p.port); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if ports[guest] == 0 {
			fmt.Fprintf(out, "%s: port is taken, a free one is used instead.\n", p.name)
		}
	}
	memory := 0
	if s := env("MEMORY"); s != "" {
		if memory, err = strconv.Atoi(s); err != nil || memory < 128 {
			return fmt.Errorf("MEMORY %q: not a number of MiB from 128 up", s)
		}
	}
	log, err := os.Create(filepath.Join(dir, "console.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(out, "Starting the box (%s); its console goes to %s …\n", did, log.Name())
	o := qemu.Options{
		Board: qemu.PC, Disks: []qemu.Disk{{Path: disk}}, Vars: filepath.Join(dir, "uefi-variables.fd"), Memory: memory,
		NICs: []qemu.NIC{{Outside: true, HostPort: ports}}, Watchdog: true, Raw: log, KVM: kvm(),
	}
	// The machine outlives an interrupt, so that it can be shut down.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	vm, up, err := boot(ctx, life, o)
	if errors.Is(err, errKVM) && ctx.Err() == nil {
		fmt.Fprintln(out, "KVM is there but does not work; emulating instead, which is slower …")
		o.KVM = false
		vm, up, err = boot(ctx, life, o)
	}
	if vm == nil {
		return err
	}
	defer vm.Kill()
	if err != nil {
		if ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "The console's last lines:\n%s\n", vm.Console.Tail(30))
			return err
		}
		return shutdown(life, vm, out)
	}
	fmt.Fprint(out, up.text())
	select {
	case <-ctx.Done():
		return shutdown(life, vm, out)
	case <-vm.Done():
		fmt.Fprintln(out, "The box was switched off.")
		return vm.Wait(life)
	}
}

// interrupted is nil if the user ended the program, else err.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func shutdown(ctx context.Context, vm *qemu.VM, out io.Writer) error {
	fmt.Fprintln(out, "\nShutting the box down …")
	ctx, cancel := context.WithTimeout(ctx, shutdownTime)
	defer cancel()
	if err := vm.Shutdown(ctx); err != nil {
		fmt.Fprintf(out, "The box did not shut down within %v; its power was cut.\n", shutdownTime)
		return nil
	}
	fmt.Fprintln(out, "The box is off. Its state is in out/run; make run starts it again, make run FRESH=1 a new one.")
	return nil
}

// kvm reports whether this user may use KVM. Whether it works shows when the machine runs.
func kvm() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// choosePort returns the wanted port, or 0, for any, if the default is taken.
func choosePort(wanted string, def int) (int, error) {
	port := def
	if wanted != "" {
		var err error
		if port, err = strconv.Atoi(wanted); err != nil || port < 1 || port > 65535 {
			return 0, fmt.Errorf("%q is not a port", wanted)
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0, nil
	}
	return port, l.Close()
}

// address of a box that is up.
type address struct {
	http, https int
	code        string // "" if the box has an owner
}

var errKVM = errors.New("KVM does not work")

// boot starts a machine that ends with life, and waits until the box is up. If it is errKVM, no machine is left.
func boot(ctx, life context.Context, o qemu.Options) (*qemu.VM, address, error) {
	vm, err := qemu.Start(life, o)
	if err != nil {
		if o.KVM {
			err = fmt.Errorf("%w: %w", errKVM, err)
		}
		return nil, address{}, err
	}
	up, err := waitUp(ctx, vm)
	select {
	case <-vm.Done():
		if o.KVM && vm.Wait(life) != nil { // QEMU gave up
			return nil, up, fmt.Errorf("%w: %w", errKVM, err)
		}
	default:
		if errors.Is(err, errKVM) {
			vm.Kill()
			return nil, up, err
		}
	}
	return vm, up, err
}

// waitUp waits until the box serves its page over HTTP, and over HTTPS with a certificate of its own authority.
func waitUp(ctx context.Context, vm *qemu.VM) (address, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, fmt.Errorf("the page did not come up within %v", bootTime))
	defer cancel()
	var a address
	var err error
	if a.http, err = vm.Port(ctx, "tcp", 80); err != nil {
		return a, err
	}
	if a.https, err = vm.Port(ctx, "tcp", 443); err != nil {
		return a, err
	}
	for {
		var status struct{ Status string }
		if err := vm.Do(ctx, "query-status", nil, &status); err == nil && status.Status == "internal-error" {
			return a, errKVM
		}
		if err := a.check(ctx); err == nil {
			break
		} else if ctx.Err() != nil {
			return a, fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		}
		select {
		case <-vm.Done():
			return a, errors.Join(errors.New("the box switched itself off"), vm.Wait(ctx))
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
	cctx, cancel := context.WithTimeout(ctx, 6*time.Second) // a claimed box shows no code
	defer cancel()
	if m, err := vm.Console.Wait(cctx, 0, qemu.ClaimRE); err == nil {
		a.code = m[1]
	}
	return a, nil
}

// name is what the box's certificate is for, whatever its household calls it and whatever ports lead to it.
const name = "croft.home.arpa"

func (a address) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := func(port int, roots *x509.CertPool) *http.Client {
		return &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DisableKeepAlives: true,
				TLSClientConfig:   &tls.Config{RootCAs: roots},
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
				},
			},
		}
	}
	if _, err := get(ctx, client(a.http, nil), "http://"+name+"/"); err != nil {
		return err
	}
	ca, err := get(ctx, client(a.http, nil), "http://"+name+"/croft-ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if cert, err := x509.ParseCertificate(ca); err == nil {
		roots.AddCert(cert)
	} else if !roots.AppendCertsFromPEM(ca) {
		return errors.New("/croft-ca.crt holds no certificate")
	}
	_, err = get(ctx, client(a.https, roots), "https://"+name+"/")
	return err
}

func get(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return io.ReadAll(io.LimitReader(res.Body, 1<<20))
}

func (a address) text() string {
	url := fmt.Sprintf("http://127.0.0.1:%d/", a.http)
	var w strings.Builder
	if a.code == "" {
		fmt.Fprintf(&w, "\nCroft is up: %s · it has an owner\n", url)
	} else {
		fmt.Fprintf(&w, "\nCroft is up: %s · claim code %s\n", url, a.code)
		url += "#" + a.code
	}
	fmt.Fprintf(&w, "Over HTTPS: https://127.0.0.1:%d/ (certificate of the box's own authority)\n\n%s\nCtrl-C shuts it down.\n",
		a.https, qrtext.Draw(url))
	return w.String()
}
