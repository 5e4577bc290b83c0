package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/browser"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/slots"
)

// TestPC boots the PC image through its firmware and loader, uses it, and starts it again.
func TestPC(t *testing.T) {
	t.Parallel()
	testUEFI(t, qemu.PC)
}

// TestVMArm64 does the same with the arm64 image.
func TestVMArm64(t *testing.T) {
	t.Parallel()
	testUEFI(t, qemu.VMArm64)
}

func testUEFI(t *testing.T, board string) {
	img := image(t, board)
	if board == qemu.PC {
		img = steadied(t, img)
	}
	o := qemu.Options{
		Board: board, Disks: []qemu.Disk{overlay(t, img, diskSize)}, NICs: []qemu.NIC{{}},
		Vars: filepath.Join(t.TempDir(), "vars.fd"), Watchdog: true,
	}
	b := start(t, o)
	first := b.up()
	if err := grown(first); err != nil {
		t.Error(err)
	}
	if first.System.Board.ID != board || first.System.Slot != "a" || first.System.ID == "" || first.System.Version == "" {
		t.Errorf("the box says of itself: %+v", first.System)
	}
	if _, err := address(first, "10.0.2.0/24"); err != nil {
		t.Error(err)
	}
	for _, g := range first.System.Gaps {
		t.Logf("gap: %s: %s (%s)", g.Name, g.Text, g.Detail)
		if g.Text == "" || g.Weight == "" {
			t.Errorf("gap %q explains nothing", g.Name)
		}
	}
	for _, p := range first.System.Phases {
		t.Logf("phase %s: at %d ms, took %d ms %s", p.Name, p.StartMS, p.TookMS, p.Note)
	}
	code, ca := b.code(), b.authority()
	strangers(t, b)
	if board == qemu.VMArm64 {
		b.off()
		b = lost(t, img, o)
		b.up()
		if !bytes.Equal(b.authority(), ca) || b.code() != code {
			t.Error("the rescue system changed the box")
		}
		b.off()
		return
	}

	// The reset button: no farewell, and the box is the same afterwards.
	b.mark = b.vm.Console.Mark()
	if err := b.vm.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.vm.Console.Wait(t.Context(), b.mark, qemu.ClaimRE); err != nil {
		t.Fatal(err)
	}
	b.waitPage()
	same := func(s api.Box) error {
		if err := healthy(s); err != nil {
			return err
		}
		return grown(s)
	}
	again := b.waitState("everything runs after the reset, still signed in", time.Minute, same)
	if again.System.ID != first.System.ID || b.code() != code || !bytes.Equal(b.authority(), ca) {
		t.Errorf("the box changed: id %s, was %s; code %s, was %s", again.System.ID, first.System.ID, b.code(), code)
	}

	// The power button: everything stops in order, and the file system is left clean.
	b.mark = b.vm.Console.Mark()
	b.off()
	checkDisk(t, o.Disks[0])
	b = start(t, o)
	b.up()
	if !bytes.Equal(b.authority(), ca) || b.code() != code {
		t.Error("the box changed while it was off")
	}
}

// lost takes a box its only system away, which makes the rescue system start, and gives it back.
func lost(t *testing.T, img string, o qemu.Options) *box {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := layout.UEFI()
	p := l.Partition(l.First)
	esp := io.NewSectionReader(f, p.Start, p.Size)
	file, err := fat.Find(esp, slots.CmdlineFile(l.Table, layout.SlotA))
	if err != nil {
		t.Fatal(err)
	}
	at, was := file.Extents[0], filepath.Join(t.TempDir(), "entry")
	entry, err := fat.ReadFile(esp, slots.CmdlineFile(l.Table, layout.SlotA), slots.EntrySize)
	if err == nil {
		err = os.WriteFile(was, entry, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, o.Disks[0], p.Start+at.Offset, at.Length, "-P 10")
	data := dataOf(t, o.Disks[0], l)
	b := start(t, o)
	b.rescueSystem("b")
	b.off()
	if now := dataOf(t, o.Disks[0], l); now != data {
		t.Error("the rescue system wrote to the data partition")
	}
	overwrite(t, o.Disks[0], p.Start+at.Offset, at.Length, "-s "+was)
	return start(t, o)
}

// strangers checks that without the code there is nothing to see.
func strangers(t *testing.T, b *box) {
	t.Helper()
	jar := b.jar
	b.newClient()
	b.trust()
	defer func() { b.jar = jar }()
	for _, path := range []string{"/api/v1/box", "/api/v1/events", "/api/v1/session"} {
		if status, body, err := b.do(t.Context(), http.MethodGet, "https://croft.local"+path, nil); err != nil || status != http.StatusUnauthorized {
			t.Errorf("%s without a session: status %d, %v: %.200s", path, status, err, body)
		}
	}
	b.until("a wrong code is refused", time.Minute, func(ctx context.Context) error { // a busy machine may still be starting
		status, body, err := b.do(ctx, http.MethodPost, "https://croft.local/api/v1/claim", api.ClaimRequest{Code: "0000-0000"})
		if err == nil && status != http.StatusForbidden {
			err = fmt.Errorf("status %d: %.200s", status, body)
			if status != http.StatusServiceUnavailable {
				t.Errorf("a wrong code: %v", err)
				return nil
			}
		}
		return err
	})
	// A name that a stranger's DNS made lead here (DNS rebinding), and ways out of the folder.
	for raw, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n":                                     "421",
		"GET /api/v1/setup HTTP/1.1\r\nHost: croft.local.evil.example\r\n\r\n":             "421",
		"POST /api/v1/claim HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}": "421",
		"GET /../../etc/passwd HTTP/1.1\r\nHost: croft.local\r\n\r\n":                      "404",
		"GET /assets/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: croft.local\r\n\r\n":         "404",
		"GET /api/v1/../../etc/passwd HTTP/1.1\r\nHost: croft.local\r\n\r\n":               "404",
		"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: croft.local\r\n\r\n":              "404",
	} {
		c, err := b.dial(t.Context(), 80)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, len("HTTP/1.1 404"))
		_, err = io.ReadFull(c, line)
		c.Close()
		// A path that is not clean may be sent on to the clean one, which is not there.
		if got := strings.TrimPrefix(string(line), "HTTP/1.1 "); err != nil || got != want && !(want == "404" && (got[0] == '3' || got == "400")) {
			t.Errorf("%q: %q, %v, want %s", raw, line, err, want)
		}
	}
}

// TestPages lets Chromium tell the stories of two households on a booted box, one after the other: each begins with the
// code on the console and ends with starting over.
func TestPages(t *testing.T) {
	t.Parallel()
	o := options(t)
	b := start(t, o)
	b.waitPage()
	b.browse("phone", "any box|household en @box")
	b.anew()
	b.browse("desk", "household de no script @box")
	b.anew()
}

// browse runs the browser tests that match grep.
func (b *box) browse(project, grep string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 8*time.Minute)
	defer cancel()
	port, err := b.vm.Port(ctx, "tcp", 80)
	if err != nil {
		b.t.Fatal(err)
	}
	dir, err := filepath.Abs(filepath.Join("..", "browser"))
	if err != nil {
		b.t.Fatal(err)
	}
	var out strings.Builder
	err = browser.Run(ctx, browser.Options{
		Dir: dir, URL: fmt.Sprintf("http://127.0.0.1:%d", port), Code: b.code(), Grep: grep, Project: project, Output: &out,
		Out: filepath.Join(dir, "..", "..", "out", "screens"),
	})
	b.t.Logf("%s", out.String())
	if err != nil {
		b.t.Fatal(err)
	}
}

// anew waits until the box has started over: it is nobody's, and has another code.
func (b *box) anew() {
	b.t.Helper()
	old := b.code()
	b.until("another claim code is on the console", pageTime, func(ctx context.Context) error {
		mark := b.vm.Console.Mark()
		m, err := b.vm.Console.Wait(ctx, b.mark, regexp.MustCompile(`claim code\s+((?:[0-9A-Z]{4}-[0-9A-Z]{4}))`))
		if err == nil && m[1] == old {
			b.mark = mark
			err = errors.New("it is still " + old)
		}
		return err
	})
	b.newClient()
	b.waitPage()
	b.until("nobody has claimed the box", time.Minute, func(ctx context.Context) error {
		var s api.Setup
		_, err := b.ask(ctx, http.MethodGet, "/setup", nil, &s, http.StatusOK)
		if err == nil && s.Step != api.StepClaim {
			err = fmt.Errorf("the set-up is at %q", s.Step)
		}
		return err
	})
}

// TestPi starts the Pi image's kernel and root in QEMU's Raspberry Pi 3, which has no firmware to start them; then, with neither slot
// left, the rescue system.
func TestPi(t *testing.T) {
	t.Parallel()
	img, l := image(t, qemu.Pi), layout.Pi()
	disk := overlay(t, img, diskSize)
	boot := func(partition int) *box {
		t.Helper()
		kernel, err := qemu.DirectPi(t.Context(), img, t.TempDir(), partition)
		if err != nil {
			t.Fatal(err)
		}
		return start(t, qemu.Options{Board: qemu.Pi, Kernel: kernel, Disks: []qemu.Disk{disk}, NICs: []qemu.NIC{{}}})
	}
	b := boot(l.Boot[layout.SlotA])
	s := b.up()
	if s.System.Board.ID != qemu.Pi || !strings.Contains(s.System.Board.Model, "Raspberry Pi 3") {
		t.Errorf("the box takes itself for %+v", s.System.Board)
	}
	if err := grown(s); err != nil {
		t.Error(err)
	}
	for _, g := range s.System.Gaps {
		t.Logf("gap: %s: %s (%s)", g.Name, g.Text, g.Detail)
		if g.Name == "memory-limit" || g.Name == "cpu-limit" {
			t.Errorf("the Pi's kernel can do this: %s", g.Detail)
		}
	}
	b.vm.Kill() // it has no power button

	overwrite(t, disk, l.Partition(l.Boot[layout.SlotA]).Start, layout.SectorSize, "-P 0")
	data := dataOf(t, disk, l)
	b = boot(l.First)
	b.rescueSystem("b") // autoboot.txt still names A
	b.vm.Kill()
	if dataOf(t, disk, l) != data {
		t.Error("the rescue system wrote to the data partition")
	}
}
