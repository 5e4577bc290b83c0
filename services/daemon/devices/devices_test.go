package devices

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/slots"
	"golang.org/x/sys/unix"
)

var quiet = slog.New(slog.DiscardHandler)

var _ slots.Device = (*Device)(nil)

// files are devices made of files.
type files struct {
	dir    string
	direct bool
	panics bool
}

func (o files) List(uid uint32) []api.OpenDevice {
	return []api.OpenDevice{{Name: api.DeviceFirst, Size: int64(uid)}, {Name: "usb/sda1", Size: 7, Label: "UPDATES \"x\"", Model: "Acme"}}
}

func (o files) Open(uid uint32, name string) (f, direct *os.File, err error) {
	if o.panics {
		panic("out of luck")
	}
	if uid != uint32(os.Getuid()) {
		return nil, nil, fmt.Errorf("uid %d", uid)
	}
	if name == api.DeviceBoot {
		return nil, nil, errors.New("not for\nthis service")
	}
	path := filepath.Join(o.dir, filepath.Base(name))
	f, err = os.OpenFile(path, os.O_RDWR, 0)
	if err == nil && o.direct {
		if direct, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0); errors.Is(err, unix.EINVAL) {
			return f, nil, nil
		}
	}
	return f, direct, err
}

func served(t *testing.T, o Opener) Dialer {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "devices.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, l, o, quiet); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return Socket(dir)
}

func TestOpen(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprint("direct ", direct), func(t *testing.T) {
			o := files{dir: t.TempDir(), direct: direct}
			content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
			if err := os.WriteFile(filepath.Join(o.dir, "first"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			dial := served(t, o)
			d, err := Open(t.Context(), dial, api.DeviceFirst)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if d.Size() != int64(len(content)) {
				t.Errorf("%d bytes", d.Size())
			}
			copy(content[5000:], "changed")
			if _, err := d.WriteAt([]byte("changed"), 5000); err != nil {
				t.Fatal(err)
			}
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			for _, r := range []io.ReaderAt{d, d.Reread()} {
				got, err := io.ReadAll(io.NewSectionReader(r, 0, d.Size()))
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
			for _, f := range d.files {
				flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
				if err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("a program that is started would inherit it: flags %x, %v", flags, err)
				}
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	dial := served(t, files{dir: t.TempDir()})
	for name, want := range map[string]string{
		"boot":                  "not for this service",
		"first":                 "no such file",
		"../first":              "no device's name",
		"usb/../../etc/passwd":  "no device's name",
		"":                      "no device's name",
		"usb/":                  "no device's name",
		"usb/sda1/x":            "no device's name",
		"FIRST":                 "no device's name",
		strings.Repeat("x", 60): "no such file",
	} {
		d, err := Open(t.Context(), dial, name)
		var no *RefusedError
		if d != nil || !errors.As(err, &no) || !strings.Contains(no.Reason, want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	if _, err := Open(t.Context(), dial, strings.Repeat("x", 100)); err == nil {
		t.Error("a name without end")
	}
	if _, err := Open(t.Context(), served(t, files{panics: true}), "first"); err == nil {
		t.Error("a server that panics")
	}
}

func TestList(t *testing.T) {
	o := files{}
	got, err := List(t.Context(), served(t, o))
	if want := o.List(uint32(os.Getuid())); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

// TestBadServers holds the client against servers that say something else, and that no descriptor is left open.
func TestBadServers(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	two := []int{int(r.Fd()), int(w.Fd())}
	before := openFiles(t)
	for name, answer := range map[string]func(*net.UnixConn){
		"nothing":              func(*net.UnixConn) {},
		"no descriptor":        func(c *net.UnixConn) { c.Write([]byte("+")) },
		"a pipe":               func(c *net.UnixConn) { c.WriteMsgUnix([]byte("+"), unix.UnixRights(two...), nil) },
		"too many":             func(c *net.UnixConn) { c.WriteMsgUnix([]byte("+"), unix.UnixRights(append(two, two...)...), nil) },
		"a refusal with files": func(c *net.UnixConn) { c.WriteMsgUnix([]byte("-no\n"), unix.UnixRights(two...), nil) },
		"something else":       func(c *net.UnixConn) { c.Write([]byte("HTTP/1.1 200 OK\r\n")) },
	} {
		dial := func(context.Context) (net.Conn, error) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			var ends []*net.UnixConn
			for _, fd := range fds {
				f := os.NewFile(uintptr(fd), "pair")
				c, err := net.FileConn(f)
				f.Close()
				if err != nil {
					return nil, err
				}
				ends = append(ends, c.(*net.UnixConn))
			}
			go func() {
				defer ends[1].Close()
				ends[1].Read(make([]byte, 100))
				answer(ends[1])
			}()
			return ends[0], nil
		}
		if d, err := Open(t.Context(), dial, "first"); err == nil {
			d.Close()
			t.Errorf("%s: taken", name)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		now := openFiles(t)
		if now <= before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d descriptors are left open", now-before)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestSilence holds that a server that says nothing is not waited for beyond the context.
func TestSilence(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "devices.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	dial := func(ctx context.Context) (net.Conn, error) { return net.Dial("unix", l.Addr().String()) }
	began := time.Now()
	if _, err := List(ctx, dial); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
