// Package daemon is what every supervised service does the same way: it takes over the listeners, directories
// and notification socket that the supervisor passed, sets up structured logging, proves that it is confined,
// says when it is ready and healthy, and ends in order on SIGTERM.
//
// It speaks the protocols of systemd: LISTEN_FDS and LISTEN_FDNAMES (sd_listen_fds(3)), NOTIFY_SOCKET and
// WATCHDOG_USEC (sd_notify(3), sd_watchdog_enabled(3)), STATE_DIRECTORY and RUNTIME_DIRECTORY
// (systemd.exec(5)), so that a service also runs under systemd.
package daemon

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
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/croft-os/croft/services/supervisor/probe"
)

// SocketDir is where the unix sockets of services stand, one NAME.sock each. A service sees only the ones that it
// was granted.
const SocketDir = "/run/croft"

// TrialEnv is the environment variable that init sets for services while the release is on trial: what it changes on the data
// partition, the release in the other slot must be able to use.
const TrialEnv = "CROFT_TRIAL"

// Exit codes with a meaning for the supervisor: systemd's sysexits(3) for what a restart cannot mend.
const (
	ExitConfig = 78 // EX_CONFIG: wrong settings; not restarted
)

// ErrConfig marks an error that a restart cannot mend.
var ErrConfig = errors.New("configuration")

// Env is what a service was given.
type Env struct {
	Name       string
	Log        *slog.Logger
	StateDir   string // own and writable, survives reboots; "" if the service has none
	RuntimeDir string // own and writable, readable by others, gone at reboot; "" if the service has none
	SocketDir  string // where granted sockets stand
	Listeners  map[string]net.Listener
	Packets    map[string]net.PacketConn
	// Notify sends sd_notify fields; a no-op outside the supervisor.
	Notify func(fields string)
}

// Ready tells the supervisor that the service does its work from now on, and what it is doing.
func (e *Env) Ready(status string) { e.Notify("READY=1\nSTATUS=" + oneLine(status)) }

// Status tells what the service is doing, in words for an owner.
func (e *Env) Status(status string) { e.Notify("STATUS=" + oneLine(status)) }

// Watch pings the supervisor's watchdog while check returns nil, until ctx ends. Without a watchdog it returns at
// once.
func (e *Env) Watch(ctx context.Context, check func(context.Context) error) {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return
	}
	every := time.Duration(usec) * time.Microsecond / 3
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		cctx, cancel := context.WithTimeout(ctx, every)
		if err := check(cctx); err == nil {
			e.Notify("WATCHDOG=1")
		} else if ctx.Err() == nil {
			e.Log.Warn("not healthy", "err", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Client returns an HTTP client that reaches the service of that name over its unix socket, whatever the URL's
// host. Answers are limited by the caller's context only.
func (e *Env) Client(service string) *http.Client {
	path := filepath.Join(e.SocketDir, service+".sock")
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     30 * time.Second,
	}}
}

// Main runs a service until it ends or SIGTERM comes, and returns the process's exit code.
func Main(name string, run func(context.Context, *Env) error) int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	env, err := fromEnvironment(name, log)
	if err != nil {
		log.Error("can't start", "err", err)
		return ExitConfig
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		if b, err := json.Marshal(probe.Run(env.SocketDir, env.StateDir)); err == nil {
			env.Notify("X_CONFINED=" + string(b))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err = run(ctx, env)
	switch {
	case err == nil || (ctx.Err() != nil && errors.Is(err, context.Canceled)):
		return 0
	case errors.Is(err, ErrConfig):
		log.Error("ended, a restart can't mend it", "err", err)
		return ExitConfig
	default:
		log.Error("ended", "err", err)
		return 1
	}
}

func fromEnvironment(name string, log *slog.Logger) (*Env, error) {
	env := &Env{
		Name:       name,
		Log:        log,
		StateDir:   os.Getenv("STATE_DIRECTORY"),
		RuntimeDir: os.Getenv("RUNTIME_DIRECTORY"),
		SocketDir:  SocketDir,
		Listeners:  map[string]net.Listener{},
		Packets:    map[string]net.PacketConn{},
		Notify:     func(fields string) { sd.SdNotify(false, fields) },
	}
	for _, f := range activation.Files(true) {
		if l, err := net.FileListener(f); err == nil {
			env.Listeners[f.Name()] = l
		} else if p, err := net.FilePacketConn(f); err == nil {
			env.Packets[f.Name()] = p
		} else {
			return nil, fmt.Errorf("passed listener %q: %w", f.Name(), err)
		}
		f.Close()
	}
	return env, nil
}

func oneLine(s string) string { return strings.Map(noControl, s) }

func noControl(r rune) rune {
	if r < ' ' {
		return ' '
	}
	return r
}

// PeerUID returns the uid of the process at the other end of a unix socket (SO_PEERCRED, unix(7)), as it was when
// it connected.
func PeerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("peer credentials: %T is no unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return cred.Uid, nil
}

type peerListener struct {
	net.Listener
	allow map[uint32]bool
	log   *slog.Logger
}

// AllowPeers wraps a unix listener so that only processes of these uids, and root, are accepted.
func AllowPeers(l net.Listener, log *slog.Logger, uids ...uint32) net.Listener {
	allow := map[uint32]bool{0: true}
	for _, u := range uids {
		allow[u] = true
	}
	return &peerListener{Listener: l, allow: allow, log: log}
}

func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := PeerUID(c)
		if err == nil && l.allow[uid] {
			return c, nil
		}
		l.log.Warn("refused a peer", "uid", uid, "err", err)
		c.Close()
	}
}

type peerKey struct{}

// withPeer notes who is at the other end of a connection, for OnlyPeers.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if uid, err := PeerUID(c); err == nil {
		return context.WithValue(ctx, peerKey{}, uid)
	}
	return ctx
}

// OnlyPeers refuses a request to Serve that does not come from one of these uids or root: for what not everyone that
// AllowPeers lets in may do.
func OnlyPeers(h http.HandlerFunc, uids ...uint32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := r.Context().Value(peerKey{}).(uint32); !ok || uid != 0 && !slices.Contains(uids, uid) {
			http.Error(w, "not allowed to this service", http.StatusForbidden)
			return
		}
		h(w, r)
	}
}

// Serve answers HTTP on l until ctx ends, then lets requests under way finish for at most 3 seconds. It is meant
// for unix sockets between our own processes; limits still hold, since a peer may be taken over.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if srv.Shutdown(sctx) != nil {
			srv.Close()
		}
		return nil
	}
}

// WriteJSON answers with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "can't encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// maxAnswer bounds what GetJSON reads, in bytes.
const maxAnswer = 1 << 20

// GetJSON asks another service and decodes its answer into v. An answer of over 1 MiB or with another status than 200
// is an error: a peer may be taken over.
func GetJSON(ctx context.Context, c *http.Client, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s", url, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("ask %s: answer over %d bytes", url, maxAnswer)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	return nil
}
