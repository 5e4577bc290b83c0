package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/gateway"
)

// The gateway runs as it does on the box, with its limits but for what one client may have, and with its own authority's
// certificate (ECDSA P-256). The peer is Debian's Caddy with one reverse_proxy line and an ECDSA P-256 certificate.
// Both forward to the same process over the same unix socket. Rounds alternate between the two.
const (
	h1Conns   = 32
	h2Conns   = 8
	h2Streams = 8
	warmUp    = time.Second // of HTTP/2 connections
	pageSize  = 8 << 10     // about what the first page weighs
)

func benchGateway(ctx context.Context, o options) ([]row, error) {
	for program, pkg := range map[string]string{"wrk": "wrk", "h2load": "nghttp2-client", "caddy": "caddy"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w; Debian's package %s has it", err, pkg)
		}
	}
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	if _, err := actor(ctx, "backend", dir, nil); err != nil {
		return nil, err
	}
	ours, pid, err := startOurs(ctx, dir)
	if err != nil {
		return nil, err
	}
	caddy, caddyPID, version, err := startCaddy(ctx, dir)
	if err != nil {
		return nil, err
	}
	idle, err := pss(pid)
	if err != nil {
		return nil, err
	}

	type sample struct{ rate, p99, cpu []float64 }
	var samples [2][2]sample // by protocol, by gateway
	for n := range o.rounds {
		for p, load := range []func(context.Context, string, time.Duration) (float64, float64, error){wrk, h2load} {
			for g, url := range []string{ours, caddy} {
				gatewayPID := []int{pid, caddyPID}[g]
				before, err := cpuTime(gatewayPID)
				if err != nil {
					return nil, err
				}
				rate, p99, err := load(ctx, url, o.round)
				if err != nil {
					return nil, err
				}
				after, err := cpuTime(gatewayPID)
				if err != nil {
					return nil, err
				}
				cpu := float64((after - before).Microseconds()) / (rate * o.round.Seconds())
				if p == 1 {
					cpu *= o.round.Seconds() / (o.round + warmUp).Seconds() // h2load's rate is without the warm-up
				}
				fmt.Fprintf(o.log, "round %d: %s %s: %.0f requests/s, p99 %.2f ms, %.0f µs of CPU each\n",
					n+1, []string{"HTTP/1.1", "HTTP/2"}[p], []string{"Croft", version}[g], rate, p99, cpu)
				s := &samples[p][g]
				s.rate, s.p99, s.cpu = append(s.rate, rate), append(s.p99, p99), append(s.cpu, cpu)
			}
		}
	}
	busy, err := pss(pid)
	if err != nil {
		return nil, err
	}
	var rows []row
	for p, name := range []string{"HTTP/1.1", "HTTP/2"} {
		a, b := samples[p][0], samples[p][1]
		rows = append(rows,
			row{
				Measure: "gateway, HTTPS " + name, Unit: "requests/s", Ours: median(a.rate), Peer: median(b.rate),
				Value: ratios(a.rate, b.rate), Budget: 1, AtLeast: true,
				Note: fmt.Sprintf("against %s; medians of %d rounds of %v, the ratio's of each round's", version, o.rounds, o.round),
			},
			row{
				Measure: "gateway, HTTPS " + name + ", p99", Unit: "ms", Ours: median(a.p99), Peer: median(b.p99),
				Value: ratios(a.p99, b.p99), Note: "lower is better",
			},
			row{
				Measure: "gateway, HTTPS " + name + ", CPU", Unit: "µs/request", Ours: median(a.cpu), Peer: median(b.cpu),
				Value: ratios(a.cpu, b.cpu), Note: "lower is better; hardly moved by what else the machine does",
			})
	}
	return append(rows,
		row{Measure: "gateway alone, idle", Unit: "MB PSS", Ours: idle, Note: "before the first request; this program's text included"},
		row{Measure: "gateway alone, after load", Unit: "MB PSS", Ours: busy}), nil
}

// startOurs starts the gateway on two free ports and returns the HTTPS one's URL.
func startOurs(ctx context.Context, dir string) (url string, pid int, err error) {
	_, url, pid, err = startGateway(ctx, dir)
	if err != nil {
		return "", 0, err
	}
	return url, pid, answers(ctx, url, pageSize)
}

func startGateway(ctx context.Context, dir string) (plain, secure string, pid int, err error) {
	var files []*os.File
	for _, url := range []*string{&plain, &secure} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", 0, err
		}
		*url = "localhost:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port) + "/"
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return "", "", 0, err
		}
		l.Close()
		files = append(files, f)
	}
	plain, secure = "http://"+plain, "https://"+secure
	pid, err = actor(ctx, "gateway", dir, files)
	if err != nil {
		return "", "", 0, err
	}
	return plain, secure, pid, answers(ctx, secure, 1)
}

func startCaddy(ctx context.Context, dir string) (url string, pid int, version string, err error) {
	out, err := exec.CommandContext(ctx, "caddy", "version").Output()
	if err != nil {
		return "", 0, "", fmt.Errorf("caddy version: %w", err)
	}
	version = "Caddy " + strings.Fields(string(out) + " ?")[0]
	certFile, keyFile := filepath.Join(dir, "caddy.crt"), filepath.Join(dir, "caddy.key")
	if err := selfSigned(certFile, keyFile); err != nil {
		return "", 0, "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", 0, "", err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	url = fmt.Sprintf("https://localhost:%d/", port)
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, fmt.Appendf(nil, `{
	admin off
	auto_https disable_redirects
	servers {
		protocols h1 h2
	}
}
https://localhost:%d {
	bind 127.0.0.1
	tls %s %s
	reverse_proxy unix/%s
}
`, port, certFile, keyFile, filepath.Join(dir, "webui.sock")), 0o600); err != nil {
		return "", 0, "", err
	}
	cmd := exec.CommandContext(ctx, "caddy", "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := begin(ctx, cmd); err != nil {
		return "", 0, "", err
	}
	return url, cmd.Process.Pid, version, answers(ctx, url, pageSize)
}

// begin starts a program that ends with ctx, and with this process.
func begin(ctx context.Context, cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	go func() {
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n%s", cmd.Path, err, stderr.Bytes())
		}
	}()
	return nil
}

// answers waits until a page comes.
func answers(ctx context.Context, url string, least int64) error {
	c := &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		Timeout:   2 * time.Second,
	}
	var last error
	for range 200 {
		res, err := c.Get(url)
		if err == nil {
			n, _ := io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK && n >= least {
				return nil
			}
			err = fmt.Errorf("%s, %d bytes", res.Status, n)
		}
		last = err
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not answer: %w", url, last)
}

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkP99    = regexp.MustCompile(`(?m)^\s+99%\s+([\d.]+)(us|ms|s)`)
	wrkErrors = regexp.MustCompile(`(Socket errors:.*|Non-2xx.*)`)
)

// wrk loads url over HTTP/1.1 with connections kept open, and returns requests/s and the 99th percentile in ms.
func wrk(ctx context.Context, url string, d time.Duration) (rate, p99 float64, err error) {
	return wrkWith(ctx, url, d)
}

func wrkWith(ctx context.Context, url string, d time.Duration, options ...string) (rate, p99 float64, err error) {
	args := append([]string{"-t1", "-c" + strconv.Itoa(h1Conns), "-d" + strconv.Itoa(max(1, int(d.Seconds()))) + "s", "--latency"}, options...)
	out, err := exec.CommandContext(ctx, "wrk", append(args, url)...).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if m := wrkErrors.Find(out); m != nil {
		return 0, 0, fmt.Errorf("wrk: %s: %s", url, m)
	}
	m, q := wrkRate.FindSubmatch(out), wrkP99.FindSubmatch(out)
	if m == nil || q == nil {
		return 0, 0, fmt.Errorf("wrk: can't read its report: %s", out)
	}
	rate, err = strconv.ParseFloat(string(m[1]), 64)
	p, err2 := strconv.ParseFloat(string(q[1]), 64)
	return rate, p * map[string]float64{"us": 1e-3, "ms": 1, "s": 1e3}[string(q[2])], errors.Join(err, err2)
}

var h2Done = regexp.MustCompile(`finished in [\d.]+\w*, ([\d.]+) req/s[\s\S]*requests:.* (\d+) succeeded, (\d+) failed`)

// h2load does what wrk does over HTTP/2.
func h2load(ctx context.Context, url string, d time.Duration) (rate, p99 float64, err error) {
	dir, err := os.MkdirTemp("", "croft-h2load-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	logFile := filepath.Join(dir, "log")
	out, err := exec.CommandContext(ctx, "h2load", "-t1", "-c"+strconv.Itoa(h2Conns), "-m"+strconv.Itoa(h2Streams),
		"-D"+strconv.Itoa(max(1, int(d.Seconds()))), "--warm-up-time="+strconv.Itoa(int(warmUp.Seconds())), "--log-file="+logFile, url).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("h2load: %w: %s", err, out)
	}
	m := h2Done.FindSubmatch(out)
	if m == nil || string(m[3]) != "0" || string(m[2]) == "0" || !bytes.Contains(out, []byte("Application protocol: h2")) {
		return 0, 0, fmt.Errorf("h2load: bad run: %s", out)
	}
	if rate, err = strconv.ParseFloat(string(m[1]), 64); err != nil {
		return 0, 0, err
	}
	f, err := os.Open(logFile)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var took []float64
	for s := bufio.NewScanner(f); s.Scan(); { // start in µs, status, duration in µs
		if fields := strings.Fields(s.Text()); len(fields) >= 3 && fields[1] == "200" {
			us, err := strconv.ParseFloat(fields[2], 64)
			if err != nil {
				return 0, 0, fmt.Errorf("h2load: log: %w", err)
			}
			took = append(took, us)
		}
	}
	if len(took) == 0 {
		return 0, 0, errors.New("h2load: empty log")
	}
	slices.Sort(took)
	return rate, took[len(took)*99/100] / 1e3, nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratios returns the median of a[i]/b[i]: neighbours in time saw the same machine.
func ratios(a, b []float64) float64 {
	var r []float64
	for i := range a {
		r = append(r, a[i]/b[i])
	}
	return median(r)
}

// pss returns a process's proportional set size in MB (proc_pid_smaps_rollup).
func pss(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			return kb / 1000, err
		}
	}
	return 0, fmt.Errorf("process %d: no Pss", pid)
}

// cpuTime returns the processor time that a process has used (proc_pid_stat(5), in ticks of 10 ms).
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("process %d: short stat", pid)
	}
	user, err := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err, err2)
}

// Roles that this program plays in processes of their own.
const (
	roleEnv = "CROFT_BENCH_ROLE"
	dirEnv  = "CROFT_BENCH_DIR"
)

// actor starts this program in a role, with files from descriptor 3 on, and returns its process id.
func actor(ctx context.Context, role, dir string, files []*os.File) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), roleEnv+"="+role, dirEnv+"="+dir)
	cmd.ExtraFiles = files
	if err := begin(ctx, cmd); err != nil {
		return 0, err
	}
	return cmd.Process.Pid, nil
}

// play is main in such a process.
func play(role string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir := os.Getenv(dirEnv)
	env := &daemon.Env{
		Name: role, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), StateDir: dir, SocketDir: dir,
		Listeners: map[string]net.Listener{}, Notify: func(string) {},
	}
	switch role {
	case "neighbours":
		return playNeighbours(ctx, dir)
	case "core":
		return playCore(ctx, env, dir)
	case "webui":
		return playWebUI(ctx, env, dir)
	case "backend":
		l, err := net.Listen("unix", filepath.Join(dir, "webui.sock"))
		if err != nil {
			return err
		}
		page := bytes.Repeat([]byte("<p>Croft is well.</p>\n"), pageSize/22+1)[:pageSize]
		return daemon.Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Type", "text/html; charset=utf-8")
			h.Set("Cache-Control", "no-store")
			h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:")
			w.Write(page)
		}))
	case "gateway":
		for i, name := range []string{"http", "https"} {
			l, err := net.FileListener(os.NewFile(uintptr(3+i), name))
			if err != nil {
				return err
			}
			env.Listeners[name] = l
		}
		limits := gateway.DefaultLimits()
		limits.Rate, limits.Burst = 1_000_000, 1_000_000
		limits.PerClient = limits.Requests // one client makes all the load
		return gateway.RunLimited(ctx, env, limits)
	}
	return fmt.Errorf("no such role")
}

// selfSigned makes a certificate like the one that the gateway gets.
func selfSigned(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}
