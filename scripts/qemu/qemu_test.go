package qemu

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestConsole(t *testing.T) {
	c := newConsole()
	var logged []string
	var raw strings.Builder
	long := strings.Repeat("x", maxLine+10)
	in := "\x1b[2J\x1b[01;01HBdsDxe: loading\r\n\r\nclaim code 7QHM-2ZKX\n" + long + "\nlast"
	c.read(strings.NewReader(in), &raw, func(l string) { logged = append(logged, l) })
	want := []string{"BdsDxe: loading", "claim code 7QHM-2ZKX", long[:maxLine], long[maxLine:], "last"}
	if strings.Join(logged, "|") != strings.Join(want, "|") {
		t.Errorf("logged %q", logged)
	}
	if raw.String() != in {
		t.Error("the raw output differs")
	}
	ctx := context.Background()
	if m, err := c.Wait(ctx, 0, ClaimRE); err != nil || m[1] != "7QHM-2ZKX" {
		t.Errorf("claim code %q, %v", m, err)
	}
	if _, err := c.Wait(ctx, c.Mark(), ClaimRE); !errors.Is(err, ErrConsoleClosed) {
		t.Errorf("found a line that came before the mark: %v", err)
	}
	c = newConsole()
	for i := range maxLines + 10 {
		c.add(strconv.Itoa(i))
	}
	if c.Mark() != maxLines+10 || len(c.lines) > maxLines {
		t.Errorf("%d lines counted, %d kept", c.Mark(), len(c.lines))
	}
	if m, err := c.Wait(ctx, maxLines+5, regexp.MustCompile(`^\d+$`)); err != nil || m[0] != strconv.Itoa(maxLines+5) {
		t.Errorf("after forgetting: %q, %v", m, err)
	}
}

func TestConsoleWaits(t *testing.T) {
	c := newConsole()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		c.add("one")
		c.add("two")
	}()
	if m, err := c.Wait(ctx, 0, regexp.MustCompile("tw(o)")); err != nil || m[1] != "o" {
		t.Errorf("got %q, %v", m, err)
	}
	cancel()
	if _, err := c.Wait(ctx, 0, regexp.MustCompile("three")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestArgs(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		want []string
		err  bool
	}{
		{
			"pc",
			Options{Board: PC, Kernel: &Kernel{Path: "k", Cmdline: "a b"}, Disks: []Disk{{Path: "a,b", Format: "qcow2"}}, NICs: []NIC{{}}},
			[]string{"-append a b", "filename=a,,b", "driver=qcow2", "restrict=on", "hostfwd=udp:127.0.0.1:0-:443"},
			false,
		},
		{
			"outside",
			Options{Board: PC, NICs: []NIC{{Outside: true, HostPort: map[int]int{80: 8080}}, {Tap: "t0"}}},
			[]string{"hostfwd=tcp:127.0.0.1:8080-:80", "tap,id=net1,ifname=t0", "OVMF_CODE"},
			false,
		},
		{"clock", Options{Board: VMArm64, RTC: time.Unix(0, 0)}, []string{"base=1970-01-01T00:00:00", "QEMU_EFI"}, false},
		{"pi without kernel", Options{Board: Pi}, nil, true},
		{"unknown", Options{Board: "toaster"}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vm := &VM{opts: tt.o, dir: t.TempDir()}
			args, err := vm.args()
			if (err != nil) != tt.err {
				t.Fatal(err)
			}
			for _, w := range tt.want {
				if !strings.Contains(strings.Join(args, " "), w) {
					t.Errorf("no %q in %q", w, args)
				}
			}
		})
	}
}

// TestGuest boots the smallest guest: console, disk statistics, reset, unplugging, and an end that leaves nothing.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(root, "init"), "./testdata/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image := filepath.Join(dir, "root.img")
	if err := tool(ctx, "mksquashfs", root, image, "-quiet", "-no-progress", "-comp", "gzip"); err != nil {
		t.Fatal(err)
	}
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/gokrazy/kernel.amd64").Output()
	if err != nil {
		t.Fatal(err)
	}
	blank := filepath.Join(dir, "blank.img")
	if err := os.WriteFile(blank, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := Overlay(ctx, blank, filepath.Join(dir, "data.qcow2"), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := Start(ctx, Options{
		Board: PC, Memory: 256, NICs: []NIC{{}}, Log: func(l string) { t.Log(l) },
		Disks: []Disk{{Path: image}, data},
		Kernel: &Kernel{
			Path:    filepath.Join(strings.TrimSpace(string(module)), "vmlinuz"),
			Cmdline: "console=ttyS0 loglevel=3 root=/dev/vda ro rootfstype=squashfs init=/init",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if m, err := vm.Console.Wait(ctx, 0, ClaimRE); err != nil || m[1] != "7QHM-2ZKX" {
		t.Fatalf("claim code %q, %v", m, err)
	}
	if _, err := vm.Console.Wait(ctx, 0, regexp.MustCompile("^wrote and synced")); err != nil {
		t.Fatal(err)
	}
	if n, flushes, err := vm.Written(ctx, 1); err != nil || n != 4096 || flushes == 0 {
		t.Errorf("%d bytes and %d flushes were written: %v", n, flushes, err)
	}
	port, err := vm.Port(ctx, "tcp", 80)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := vm.Port(ctx, "udp", 80); err == nil {
		t.Error("UDP 80 is forwarded")
	}
	for _, in := range []bool{false, true} {
		if err := vm.SetCable(ctx, 0, in); err != nil {
			t.Error(err)
		}
	}
	stick := filepath.Join(dir, "stick.img")
	if err := os.WriteFile(stick, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := vm.PlugUSB(ctx, Disk{Path: stick})
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Unplug(ctx, id); err != nil {
		t.Error(err)
	}
	mark := vm.Console.Mark()
	if err := vm.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Console.Wait(ctx, mark, regexp.MustCompile("^hello$")); err != nil {
		t.Fatal(err)
	}
	vm.Kill()
	if err := vm.Wait(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(vm.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there", vm.dir)
	}
	flat := filepath.Join(dir, "flat.img")
	if err := Flatten(ctx, data, flat); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(flat); err != nil || st.Size() != 8<<20 {
		t.Errorf("flattened to %v, %v", st, err)
	}
}

func TestStartSaysWhatQEMUSays(t *testing.T) {
	_, err := Start(t.Context(), Options{Board: PC, Kernel: &Kernel{Path: "/nonexistent"}})
	if err == nil || !strings.Contains(err.Error(), "nonexistent") {
		t.Errorf("got %v", err)
	}
}
