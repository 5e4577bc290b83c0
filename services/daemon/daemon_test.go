package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStatusIsOneLine(t *testing.T) {
	var sent []string
	e := &Env{Notify: func(s string) { sent = append(sent, s) }}
	e.Ready("a\nWATCHDOG=1\x00b")
	if want := "READY=1\nSTATUS=a WATCHDOG=1 b"; len(sent) != 1 || sent[0] != want {
		t.Errorf("sent %q, want %q", sent, want)
	}
}

func TestWatch(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "30000")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	healthy, pings := true, 0
	e := &Env{Log: slog.New(slog.DiscardHandler)}
	checks := 0
	e.Notify = func(s string) {
		if s == "WATCHDOG=1" {
			pings++
		}
	}
	e.Watch(ctx, func(context.Context) error {
		if checks++; checks > 3 {
			healthy = false
		}
		if checks > 6 {
			cancel()
		}
		if !healthy {
			return errors.New("ill")
		}
		return nil
	})
	if pings != 3 {
		t.Errorf("%d pings for 3 healthy checks", pings)
	}
}

func TestAllowPeers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, who is always allowed")
	}
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var log bytes.Buffer
	go func() {
		done <- Serve(ctx, AllowPeers(l, slog.New(slog.NewTextHandler(&log, nil)), 4242), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			WriteJSON(w, 200, map[string]string{"path": r.URL.Path})
		}))
	}()
	env := &Env{SocketDir: filepath.Dir(path)}
	resp, err := env.Client("s").Get("http://s/x")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if got := strings.TrimSpace(string(body)); got != `{"path":"/x"}` {
		t.Errorf("got %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if log.Len() > 0 {
		t.Errorf("root was refused: %s", log.String())
	}
}

// TestPeersByUser connects as several users, and sees what each may do.
func TestPeersByUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l, err := net.Listen("unix", "@"+t.Name())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	mux.HandleFunc("/see", ok)
	mux.HandleFunc("/change", OnlyPeers(ok, 4242))
	go func() { done <- Serve(ctx, AllowPeers(l, slog.New(slog.DiscardHandler), 4242, 4243), mux) }()
	for _, tc := range []struct {
		uid         int
		see, change int // 0: not let in
	}{{0, 204, 204}, {4242, 204, 204}, {4243, 204, 403}, {4244, 0, 0}} {
		client := &http.Client{Transport: &http.Transport{
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return dialAs(tc.uid, l.Addr().String()) },
			DisableKeepAlives: true,
		}}
		for path, want := range map[string]int{"see": tc.see, "change": tc.change} {
			got := 0
			if resp, err := client.Get("http://s/" + path); err == nil {
				got = resp.StatusCode
				resp.Body.Close()
			}
			if got != want {
				t.Errorf("user %d, /%s: %d, want %d", tc.uid, path, got, want)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// dialAs connects to a unix socket from a thread that is that user.
func dialAs(uid int, addr string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			err = e
			return
		}
		c, err = net.Dial("unix", addr)
	}()
	<-done
	return c, err
}

// TestRefusesPeer sees that a peer whose user is not listed gets nothing.
func TestRefusesPeer(t *testing.T) {
	ours, theirs := net.Pipe() // no unix socket, so no credentials at all
	l := AllowPeers(&oneConn{c: ours}, slog.New(slog.DiscardHandler), 4242)
	if _, err := l.Accept(); !errors.Is(err, io.EOF) {
		t.Errorf("accepted: %v", err)
	}
	if _, err := theirs.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

type oneConn struct {
	net.Listener
	c net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.c == nil {
		return nil, io.EOF
	}
	c := l.c
	l.c = nil
	return c, nil
}

func TestExitCodes(t *testing.T) {
	t.Setenv("LISTEN_PID", "")
	for _, tc := range []struct {
		err  error
		want int
	}{{nil, 0}, {errors.New("x"), 1}, {fmt.Errorf("bad name: %w", ErrConfig), ExitConfig}} {
		if got := Main("test", func(context.Context, *Env) error { return tc.err }); got != tc.want {
			t.Errorf("%v: exit code %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestGetJSON(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		body   string
		ok     bool
	}{
		{"good", 200, `{"path":"/x"}`, true},
		{"refused", 503, `{"path":"/x"}`, false},
		{"no JSON", 200, `hello`, false},
		{"endless", 200, `{"path":"` + strings.Repeat("x", maxAnswer) + `"}`, false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tc.status)
			io.WriteString(w, tc.body)
		}))
		var v struct{ Path string }
		err := GetJSON(t.Context(), srv.Client(), srv.URL, &v)
		srv.Close()
		if (err == nil) != tc.ok || tc.ok != (v.Path == "/x") {
			t.Errorf("%s: %+v, %v", tc.name, v, err)
		}
	}
}
