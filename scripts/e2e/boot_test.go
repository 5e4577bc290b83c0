package e2e

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
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
	if board == qemu.PC {
		browser(t, b, code)
	}
	strangers(t, b)

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
	status, body, err := b.do(t.Context(), http.MethodPost, "https://croft.local/api/v1/session", api.SessionRequest{Code: "0000-0000"})
	if err != nil || status != http.StatusForbidden {
		t.Errorf("a wrong code: status %d, %v: %.200s", status, err, body)
	}
}

// browser lets Chromium use the box's page on a phone's screen.
func browser(t *testing.T, b *box, code string) {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "browser"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		ci := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
		ci.Dir, ci.Env = dir, append(os.Environ(), "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1")
		if out, err := ci.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	http, err := b.vm.Port(ctx, "tcp", 80)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "npx", "playwright", "test", "--grep", "@box")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CROFT_URL=http://127.0.0.1:"+itoa(http), "CROFT_CODE="+code, "CI=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("playwright: %v", err)
	}
	if strings.Contains(string(out), "No tests found") {
		t.Error("there are no @box tests")
	}
}
