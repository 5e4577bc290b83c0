package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

// own waits for the box, claims it and sets it up.
func (b *box) own() {
	b.t.Helper()
	b.upTo(answers)
	for _, s := range household(b, nil, "")[1:5] {
		s.do()
	}
}

// answers says what of a box, on a machine that may be busy, does not answer yet.
func answers(s api.Box) error {
	if s.Network == nil || s.Discovery == nil || s.Discovery.State != "announced" {
		return fmt.Errorf("network %v, discovery %+v", s.Network != nil, s.Discovery)
	}
	return nil
}

// card is the first FAT partition of a raw PC disk, as mtools take it.
func card(path string) string {
	return fmt.Sprintf("%s@@%d", path, layout.UEFI().Partition(layout.UEFI().First).Start)
}

// regain asks for a new password with a recovery code.
func (b *box) regain(code, fresh string, want int) {
	b.t.Helper()
	b.newPhone()
	b.api("POST", "/recover", api.RecoverRequest{Code: code, Name: owner, Password: fresh}, nil, want)
}

// newPhone forgets cookies, but not the box's authority.
func (b *box) newPhone() {
	roots := b.roots
	b.newClient()
	b.roots = roots
}

// TestRecoverFile gets an owner back in by a file on the card. It is good once, and what it said is not left there.
func TestRecoverFile(t *testing.T) {
	t.Parallel()
	settle(t)
	raw := filepath.Join(t.TempDir(), "disk.img")
	if _, err := run(t.Context(), "cp", "--sparse=always", settled.disk, raw); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(t.TempDir(), "recover.txt")
	if err := os.WriteFile(note, []byte("Grandmas Cow 1953\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), "mcopy", "-i", card(raw), note, "::/recover.txt"); err != nil {
		t.Fatal(err)
	}
	o := qemu.Options{Board: qemu.PC, Kernel: direct(t, raw), CPUs: 1, NICs: []qemu.NIC{{}}, Disks: []qemu.Disk{{Path: raw}}}
	b := start(t, o)
	b.waitPage()
	b.regain("0000-0000", "another password", 403)
	b.regain("grandmas cow 1953", "another password", 201)
	b.api("GET", "/config", nil, &api.Config{}, 200) // signed in
	b.regain("grandmas cow 1953", "a third password", 410)
	b.api("POST", "/session", api.SessionRequest{Name: owner, Password: password}, nil, 403)
	b.api("POST", "/session", api.SessionRequest{Name: owner, Password: "another password"}, nil, 201)
	b.off()
	left, err := run(t.Context(), "mtype", "-i", card(raw), "::/recover.txt")
	if err != nil || strings.TrimSpace(left) != "" {
		t.Errorf("the file still says %q (%v)", left, err)
	}
	checkDisk(t, o.Disks[0])
}

// TestFlashedSettings writes the image with an owner's settings as "croft flash" does, and boots it: the box is as was
// asked for, and no secret is left on the card.
func TestFlashedSettings(t *testing.T) {
	t.Parallel()
	img := image(t, qemu.PC)
	raw := filepath.Join(t.TempDir(), "stick.img")
	const key = "mesh-key-that-nobody-may-read"
	out, err := run(t.Context(), "go", "run", "../croft", "flash", "--yes", "--hostname", "scheune", "--claim-code", "7K3M-Q9XA",
		"--mesh-key", key, "--time-zone", "Europe/Vienna", img, raw)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "http://scheune.local/#7K3M-Q9XA") {
		t.Errorf("it did not tell where to go on:\n%s", out)
	}
	o := qemu.Options{Board: qemu.PC, Kernel: direct(t, raw), CPUs: 1, NICs: []qemu.NIC{{}}, Disks: []qemu.Disk{{Path: raw}}}
	b := start(t, o)
	b.waitPage()
	if code := b.code(); code != "7K3M-Q9XA" {
		t.Errorf("the claim code is %s", code)
	}
	var s api.Setup
	b.until("the box says how far it is", time.Minute, func(ctx context.Context) error {
		_, err := b.ask(ctx, "GET", "/setup", nil, &s, 200)
		return err
	})
	if s.Name != "scheune" {
		t.Errorf("the box is called %q", s.Name)
	}
	b.signIn("7K3M-Q9XA")
	b.waitState("the box goes by its name", time.Minute, func(s api.Box) error {
		if s.System.Name != "scheune" || s.System.TimeZone != "Europe/Vienna" || s.Discovery == nil || s.Discovery.Wanted != "scheune" {
			return fmt.Errorf("name %q, time zone %q, discovery %+v", s.System.Name, s.System.TimeZone, s.Discovery)
		}
		return healthy(s)
	})
	b.off()
	checkDisk(t, o.Disks[0])
	settings, err := run(t.Context(), "mtype", "-i", card(raw), "::/croft.json")
	if err != nil || !strings.Contains(settings, "croft-settings/1") {
		t.Errorf("the settings: %v: %.300q", err, settings)
	}
	esp := filepath.Join(t.TempDir(), "esp")
	part := layout.UEFI().Partition(layout.UEFI().First)
	if _, err := run(t.Context(), "dd", "if="+raw, "of="+esp, "bs=1M", "iflag=skip_bytes,count_bytes",
		fmt.Sprintf("skip=%d", part.Start), fmt.Sprintf("count=%d", part.Size)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(esp); err != nil || bytes.Contains(b, []byte(key)) {
		t.Errorf("the key still stands on the card (%v)", err)
	}
}

// TestNetworkTrial locks the owner out by a wrong address: after a minute the box is back at the one from before.
func TestNetworkTrial(t *testing.T) {
	t.Parallel()
	b := start(t, options(t))
	b.own()
	s := b.waitState("everything runs", time.Minute, answers)
	if len(s.Network.Interfaces) == 0 {
		t.Fatalf("no interface: %+v", s.Network)
	}
	name := s.Network.Interfaces[0].Name
	began := time.Now()
	var c api.Config
	etag := b.api("GET", "/config", nil, &c, 200)
	c.Network.Interfaces = map[string]api.StaticConfig{name: {Addresses: []netip.Prefix{netip.MustParsePrefix("10.99.99.9/24")}}}
	if _, err := b.ask(t.Context(), "PUT", "/config", c, nil, 200, "If-Match", etag); err != nil {
		t.Logf("the answer did not come: %v", err) // it may be on its way when the address goes
	}
	once := func(ctx context.Context) (n api.Network, err error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err = b.ask(ctx, "GET", "/network", nil, &n, 200)
		return n, err
	}
	b.until("the box can't be reached", 30*time.Second, func(ctx context.Context) error {
		if _, err := once(ctx); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	b.until("the box is back", 3*time.Minute, func(ctx context.Context) error {
		n, err := once(ctx)
		if err == nil && (n.Trial != nil || len(n.Config.Interfaces) > 0) {
			err = fmt.Errorf("the network is %+v", n)
		}
		return err
	})
	if took := time.Since(began); took < api.TrialTime-5*time.Second {
		t.Errorf("it went back after %v already", took)
	}
	var now api.Config
	b.api("GET", "/config", nil, &now, 200)
	if js, err := json.Marshal(now.Network); err != nil || string(js) != "{}" {
		t.Errorf("the configuration has kept %s (%v)", js, err)
	}
}
