package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/grandcat/zeroconf"

	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/discovery"
)

func TestFromEntry(t *testing.T) {
	entry := func(instance, host string, text []string, addrs ...string) *zeroconf.ServiceEntry {
		e := zeroconf.NewServiceEntry(instance, "_croft._tcp", "local")
		e.HostName, e.Text = host, text
		for _, a := range addrs {
			if ip := net.ParseIP(a); ip.To4() != nil {
				e.AddrIPv4 = append(e.AddrIPv4, ip)
			} else {
				e.AddrIPv6 = append(e.AddrIPv6, ip)
			}
		}
		return e
	}
	for _, test := range []struct {
		name  string
		entry *zeroconf.ServiceEntry
		want  string // JSON, "" if it is of no use
	}{
		{
			"plain", entry("croft-2", "croft-2.local.", []string{"v=1.2", "path=/", "id=ab"}, "10.0.0.2", "fe80::1", "fd00::1", "10.0.0.1"),
			`{"name":"croft-2","url":"http://croft-2.local/","addresses":["10.0.0.1","10.0.0.2","fd00::1"],"version":"1.2","id":"ab"}`,
		},
		{
			"link-local only", entry("croft", "croft.local.", nil, "fe80::1"),
			`{"name":"croft","url":"http://croft.local/","addresses":["fe80::1"]}`,
		},
		{
			"escape sequences", entry("cr\x1b[31moft", "croft\n.local.", []string{"id=\x1b]0;x\a" + strings.Repeat("x", 100)}, "10.0.0.1"),
			`{"name":"cr[31moft","url":"http://croft.local/","addresses":["10.0.0.1"],"id":"]0;` + strings.Repeat("x", 61) + `"}`,
		},
		{"no host", entry("croft", "", nil, "10.0.0.1"), ""},
		{"no name", entry("\x01", "croft.local.", nil, "10.0.0.1"), ""},
	} {
		b, ok := fromEntry(test.entry)
		got, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if ok != (test.want != "") || ok && string(got) != test.want {
			t.Errorf("%s: %t, %s", test.name, ok, got)
		}
	}
}

func TestFindUsage(t *testing.T) {
	var out, errs bytes.Buffer
	if code := find(t.Context(), []string{"kitchen"}, stdio{nil, &out, &errs}); code != 2 || !strings.Contains(errs.String(), "kitchen") {
		t.Errorf("exit code %d, %s", code, &errs)
	}
}

// findRole makes this test's binary play one side of TestFind in a network namespace.
const findRole = "CROFT_TEST_FIND"

func TestFindChild(t *testing.T) {
	switch role := os.Getenv(findRole); role {
	case "":
	case "find":
		_, args, _ := strings.Cut(strings.Join(os.Args, " "), " -- ")
		os.Exit(find(t.Context(), strings.Fields(args), stdio{os.Stdin, os.Stdout, os.Stderr}))
	default:
		ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
		defer stop()
		if err := syscall.Sethostname([]byte(role)); err != nil {
			t.Fatal(err)
		}
		env := &daemon.Env{Log: slog.New(slog.DiscardHandler), Notify: func(string) {}}
		if err := discovery.Run(ctx, env, discovery.Config{ID: "id-" + role, Version: "1.2.3"}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFind looks for two boxes, and for none, in network namespaces.
func TestFind(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run without -short")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	prefix := fmt.Sprintf("crf%d-", os.Getpid())
	for i, name := range []string{"laptop", "attic", "cellar"} {
		ns := prefix + name
		run("netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		if name == "laptop" {
			run("-n", ns, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
			run("-n", ns, "addr", "add", "10.79.0.1/24", "dev", "br0")
			run("-n", ns, "link", "set", "br0", "up")
			continue
		}
		run("-n", prefix+"laptop", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", ns)
		run("-n", prefix+"laptop", "link", "set", name, "master", "br0", "up")
		run("-n", ns, "addr", "add", fmt.Sprintf("10.79.0.%d/24", i+1), "dev", "eth0")
		run("-n", ns, "addr", "add", fmt.Sprintf("fd79::%d/64", i+1), "dev", "eth0", "nodad")
		run("-n", ns, "link", "set", "eth0", "up")
	}
	child := func(ctx context.Context, ns, role string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "ip", append([]string{
			"netns", "exec", prefix + ns, os.Args[0], "-test.run=^TestFindChild$", "--",
		}, args...)...)
		cmd.Env = append(os.Environ(), findRole+"="+role)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		return cmd
	}
	look := func(args ...string) (code int, stdout, stderr string) {
		cmd := child(t.Context(), "laptop", "find", args...)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), out.String(), errs.String()
	}

	code, out, errs := look("-json", "-wait", "500ms")
	if code != 1 || strings.TrimSpace(out) != "[]" || !strings.Contains(errs, "No Croft answered") {
		t.Errorf("nobody there: exit code %d, %s%s", code, out, errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, name := range []string{"attic", "cellar"} {
		cmd := child(ctx, name, "croft-"+name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Wait() })
	}
	t.Cleanup(cancel)
	want := []map[string]any{
		{
			"name": "croft-attic", "url": "http://croft-attic.local/", "addresses": []any{"10.79.0.2", "fd79::2"},
			"version": "1.2.3", "id": "id-croft-attic",
		},
		{
			"name": "croft-cellar", "url": "http://croft-cellar.local/", "addresses": []any{"10.79.0.3", "fd79::3"},
			"version": "1.2.3", "id": "id-croft-cellar",
		},
	}
	var got []map[string]any
	for range 5 { // the boxes need a moment
		if code, out, errs = look("-json"); code == 0 {
			got = nil
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if reflect.DeepEqual(got, want) {
				break
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("exit code %d, %s%s", code, out, errs)
	}
	code, out, errs = look()
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(lines) != 3 || errs != "" ||
		strings.Join(strings.Fields(lines[1]), " ") !=
			"croft-attic http://croft-attic.local/ 10.79.0.2, fd79::2 1.2.3 id-croft-attic" {
		t.Errorf("exit code %d:\n%s%s", code, out, errs)
	}
}
