package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

const (
	pageTime = 3 * time.Minute // from power to page, emulated on a busy machine
	offTime  = time.Minute     // from the power button to the end
	diskSize = 2 << 30         // so that the data partition has to grow
)

// boxURL is the box by the one name that its certificate always has, whatever its household calls it.
const boxURL = "https://croft.home.arpa"

// machines bounds how many run at a time.
var machines = make(chan struct{}, 2)

var images struct {
	sync.Mutex
	dir   string
	built map[string]error
}

// image returns the raw image of a board, built if need be. It must not be written to.
func image(t *testing.T, board string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines")
	}
	images.Lock()
	defer images.Unlock()
	given := os.Getenv("CROFT_OUT")
	images.dir = given
	if given == "" {
		images.dir = filepath.Join("..", "..", "out")
	}
	path, err := filepath.Abs(filepath.Join(images.dir, "croft-"+board+".img"))
	if err != nil {
		t.Fatal(err)
	}
	if given != "" {
		return path
	}
	err, done := images.built[board]
	if !done {
		cmd := exec.CommandContext(t.Context(), "go", "run", "./scripts/croft", "build", "--board", board, "--out", "out", "--image-only")
		cmd.Dir = filepath.Join("..", "..")
		if out, berr := cmd.CombinedOutput(); berr != nil {
			err = fmt.Errorf("%w\n%s", berr, out)
		}
		if images.built == nil {
			images.built = map[string]error{}
		}
		images.built[board] = err
	}
	if err != nil {
		t.Fatalf("build the image for %s: %v", board, err)
	}
	return path
}

// box is a Croft in a machine, and what is known of it.
type box struct {
	t    *testing.T
	vm   *qemu.VM
	mark int // line of the console at which this start began

	dial     func(ctx context.Context, port int) (net.Conn, error)
	clock    func() time.Time // of the client; nil is this machine's
	roots    *x509.CertPool   // after trust
	jar      http.CookieJar
	sessions tls.ClientSessionCache
}

// start starts a machine and leaves it running until the test's end. It waits for its turn.
func start(t *testing.T, o qemu.Options) *box {
	t.Helper()
	select {
	case machines <- struct{}{}:
	case <-t.Context().Done():
		t.Fatal("no time left for another machine")
	}
	b := &box{t: t}
	b.newClient()
	began := time.Now()
	o.Log = func(line string) {
		if !strings.ContainsAny(line, "█▀▄") { // QR codes fill the log
			t.Logf("%6.1fs  %s", time.Since(began).Seconds(), line)
		}
	}
	vm, err := qemu.Start(t.Context(), o)
	if err != nil {
		<-machines
		t.Fatal(err)
	}
	go func() {
		<-vm.Done()
		<-machines
	}()
	t.Cleanup(vm.Kill)
	b.vm = vm
	b.dial = b.forwarded(0)
	return b
}

// forwarded dials through the forwarded ports of interface nic.
func (b *box) forwarded(nic int) func(context.Context, int) (net.Conn, error) {
	return func(ctx context.Context, port int) (net.Conn, error) {
		host, err := b.vm.PortOf(ctx, nic, "tcp", port)
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(host)))
	}
}

// options are those of the PC, its kernel started without firmware, with a growing disk of its own and QEMU's network. It has one
// processor: two cost this machine a fifth more, and QEMU's threads now and then catch the kernel patching its own text, which it does not
// survive. TestPC, TestSlotB and TestMakeRun have two.
func options(t *testing.T, extra ...string) qemu.Options {
	t.Helper()
	img := image(t, qemu.PC)
	return qemu.Options{
		Board: qemu.PC, Kernel: direct(t, img, extra...), CPUs: 1,
		Disks: []qemu.Disk{overlay(t, img, diskSize)}, NICs: []qemu.NIC{{}},
	}
}

// steadied copies the PC's image for machines that start it through their firmware.
func steadied(t *testing.T, img string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "steady.img")
	if err := qemu.Steadied(t.Context(), img, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// direct starts img's kernel without firmware.
func direct(t *testing.T, img string, extra ...string) *qemu.Kernel {
	t.Helper()
	extra = append(extra, qemu.Steady)
	k, err := qemu.Direct(t.Context(), img, t.TempDir(), layout.SlotA, extra...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func overlay(t *testing.T, img string, size int64) qemu.Disk {
	t.Helper()
	d, err := qemu.Overlay(t.Context(), img, filepath.Join(t.TempDir(), "disk.qcow2"), size)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newClient forgets cookies and trust.
func (b *box) newClient() {
	b.roots, b.sessions = nil, tls.NewLRUClientSessionCache(0)
	b.jar, _ = cookiejar.New(nil) // without options it can't fail
}

// client speaks with the box as one browser; every request has its own connection.
func (b *box) client() *http.Client {
	return &http.Client{
		Timeout: 20 * time.Second,
		Jar:     b.jar,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: b.roots, Time: b.clock, ClientSessionCache: b.sessions},
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				_, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				n, err := strconv.Atoi(port)
				if err != nil {
					return nil, err
				}
				return b.dial(ctx, n)
			},
		},
	}
}

// do makes a request with a body in JSON, or none, and returns status and body.
func (b *box) do(ctx context.Context, method, url string, body any) (int, []byte, error) {
	var r io.Reader
	if body != nil {
		js, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		r = bytes.NewReader(js)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := b.client().Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	return res.StatusCode, out, err
}

// until repeats f until it succeeds, ever more slowly: answers cost an emulated machine much. The test ends if the machine does, or
// after limit.
func (b *box) until(what string, limit time.Duration, f func(ctx context.Context) error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	for pause := 100 * time.Millisecond; ; pause = min(pause*5/4, 700*time.Millisecond) {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-b.vm.Done():
			b.t.Fatalf("waiting until %s: the machine ended (%v); last: %v", what, b.vm.Wait(ctx), err)
		case <-ctx.Done():
			b.t.Fatalf("waiting until %s: %v; last: %v", what, ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// waitPage waits until the box serves its page over HTTP, trusts its authority, and checks the page over HTTPS.
func (b *box) waitPage() {
	b.t.Helper()
	var page []byte
	b.until("the page is served", pageTime, func(ctx context.Context) error {
		status, body, err := b.do(ctx, http.MethodGet, "http://croft.local/", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %.200s", status, body)
		}
		page = body
		return err
	})
	if !bytes.Contains(page, []byte("Croft")) || !bytes.Contains(page, []byte("<html")) {
		b.t.Fatalf("the page is not the box's: %.500s", page)
	}
	b.trust()
	b.until("the page is served over HTTPS", pageTime, func(ctx context.Context) error { // the door says 503 until the page's service runs
		status, secure, err := b.do(ctx, http.MethodGet, boxURL+"/", nil)
		if err == nil && (status != http.StatusOK || !bytes.Contains(secure, []byte("<html"))) {
			err = fmt.Errorf("status %d: %.200s", status, secure)
		}
		return err
	})
}

// trust installs the box's authority in the client, as its page offers it.
func (b *box) trust() {
	b.t.Helper()
	status, der, err := b.do(b.t.Context(), http.MethodGet, "http://croft.local/croft-ca.crt", nil)
	if err != nil || status != http.StatusOK {
		b.t.Fatalf("fetch the authority: status %d, %v", status, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		b.t.Fatalf("the authority's certificate: %v", err)
	}
	b.roots = x509.NewCertPool()
	b.roots.AddCert(cert)
}

// authority is the fingerprint of what trust installs.
func (b *box) authority() []byte {
	b.t.Helper()
	_, der, err := b.do(b.t.Context(), http.MethodGet, "http://croft.local/croft-ca.crt", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return der
}

// code waits for the code on the console.
func (b *box) code() string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), pageTime)
	defer cancel()
	m, err := b.vm.Console.Wait(ctx, b.mark, qemu.ClaimRE)
	if err != nil {
		b.t.Fatal(err)
	}
	return m[1]
}

// phones are the clients that claimed a box, by the code. A box that is started again is still theirs.
var phones struct {
	sync.Mutex
	byCode map[string][]http.CookieJar
}

// signIn claims the box over HTTPS, or goes on as the phone that did. In rescue mode, the code opens that.
func (b *box) signIn(code string) {
	b.t.Helper()
	var status int
	var body []byte
	var err error
	b.until("it can be signed in", pageTime, func(ctx context.Context) error { // a busy machine may still be starting
		status, body, err = b.do(ctx, http.MethodPost, boxURL+"/api/v1/claim", api.ClaimRequest{Code: code})
		if err == nil && status == http.StatusServiceUnavailable {
			return fmt.Errorf("status %d: %s", status, body)
		}
		return nil
	})
	phones.Lock()
	defer phones.Unlock()
	if err == nil && status == http.StatusConflict {
		for _, jar := range phones.byCode[code] {
			b.jar = jar
			if _, err := b.ask(b.t.Context(), http.MethodGet, "/session", nil, nil, http.StatusOK); err == nil {
				return
			}
		}
	}
	if err != nil || status != http.StatusCreated {
		b.t.Fatalf("sign in: status %d, %v: %s", status, err, body)
	}
	if phones.byCode == nil {
		phones.byCode = map[string][]http.CookieJar{}
	}
	phones.byCode[code] = append(phones.byCode[code], b.jar)
}

// state asks for the box's state once.
func (b *box) state(ctx context.Context) (api.Box, error) {
	var s api.Box
	status, body, err := b.do(ctx, http.MethodGet, boxURL+"/api/v1/box", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(body, &s)
}

// waitState waits until the box's state is as wanted: ok says what is not yet.
func (b *box) waitState(what string, limit time.Duration, ok func(api.Box) error) api.Box {
	b.t.Helper()
	var s api.Box
	b.until(what, limit, func(ctx context.Context) error {
		var err error
		if s, err = b.state(ctx); err == nil {
			err = ok(s)
		}
		return err
	})
	return s
}

// healthy says what is not in order on a box whose start is over.
func healthy(s api.Box) error {
	err := running(s)
	for _, n := range s.Notices {
		err = errors.Join(err, fmt.Errorf("notice %s: %s", n.Name, n.Text))
	}
	return err
}

// running is healthy of a box that may have something to complain about.
func running(s api.Box) error {
	var errs []error
	if s.System.Mode != api.ModeNormal {
		errs = append(errs, fmt.Errorf("mode %q: %+v", s.System.Mode, s.System.Rescue))
	}
	if len(s.System.Services) < 5 {
		errs = append(errs, fmt.Errorf("only %d services", len(s.System.Services)))
	}
	for _, svc := range s.System.Services {
		switch {
		case svc.State != api.StateRunning:
			errs = append(errs, fmt.Errorf("service %s is %s: %s %s", svc.Name, svc.State, svc.Status, svc.LastExit))
		case svc.Restarts > 0:
			errs = append(errs, fmt.Errorf("service %s was restarted: %s", svc.Name, svc.LastExit))
		case svc.Confined == nil:
			errs = append(errs, fmt.Errorf("service %s did not report its confinement", svc.Name))
		case !svc.Confined.OK || len(svc.Confined.Probes) == 0:
			errs = append(errs, fmt.Errorf("service %s is not confined: %+v", svc.Name, svc.Confined.Probes))
		}
	}
	for _, p := range s.System.Phases {
		if p.Error != "" || p.TookMS < 0 {
			errs = append(errs, fmt.Errorf("boot phase %s took %d ms: %s", p.Name, p.TookMS, p.Error))
		}
	}
	if s.Network == nil || s.Discovery == nil {
		errs = append(errs, errors.New("network or discovery does not answer"))
	}
	return errors.Join(errs...)
}

// grown says whether the data partition does not fill the disk.
func grown(s api.Box) error {
	data := layout.UEFI().Partition(layout.UEFI().Data)
	// ext4 keeps some of the partition for itself.
	if d := s.System.Vitals.Data; d == nil || d.Size < (diskSize-data.Start)*9/10 {
		return fmt.Errorf("data partition: %+v", d)
	}
	return nil
}

// off presses the power button and waits for the end.
func (b *box) off() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), offTime)
	defer cancel()
	if err := b.vm.Shutdown(ctx); err != nil {
		b.t.Fatalf("power off: %v", err)
	}
}

// up waits for the page, signs in and waits until the box is in order.
func (b *box) up() api.Box {
	b.t.Helper()
	return b.upTo(healthy)
}

func (b *box) upTo(ok func(api.Box) error) api.Box {
	b.t.Helper()
	b.waitPage()
	b.signIn(b.code())
	return b.waitState("everything runs", time.Minute, ok)
}

// address returns the box's first IPv4 address on interface i that prefix contains, or an error.
func address(s api.Box, prefix string) (netip.Addr, error) {
	want := netip.MustParsePrefix(prefix)
	if s.Network != nil {
		for _, i := range s.Network.Interfaces {
			for _, a := range i.Addresses {
				if want.Contains(a.Addr()) {
					return a.Addr(), nil
				}
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("no address in %s: %+v", prefix, s.Network)
}

// random returns n bytes that nobody has written before.
func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
