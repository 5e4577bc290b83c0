package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/fat/fattest"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// slotless copies the PC's image and takes its only system away: the loader finds no entry of a slot any more.
func slotless(t *testing.T) string {
	t.Helper()
	img, dir := steadied(t, image(t, qemu.PC)), t.TempDir()
	at := fmt.Sprintf("%s@@%d", img, layout.UEFI().Partition(layout.UEFI().First).Start)
	const rescue = "::/loader/entries/croft-rescue.conf"
	entry, blank := filepath.Join(dir, "rescue"), filepath.Join(dir, "blank")
	if _, err := run(t.Context(), "mcopy", "-i", at, rescue, entry); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(entry)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{entry: strings.TrimSpace(string(text)) + " " + qemu.Steady + "\n", blank: string(slots.BlankEntry())} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{entry, rescue}, {blank, "::/" + slots.CmdlineFile(layout.GPT, layout.SlotA)}} {
		if _, err := run(t.Context(), "mcopy", append([]string{"-D", "o", "-i", at}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// stick is a USB stick with a file, formatted as large ones are.
func stick(t *testing.T, name string, content []byte) qemu.Disk {
	t.Helper()
	return qemu.Disk{Path: fattest.Files(t, "UPDATES", map[string][]byte{name: content}), USB: true}
}

// foreignStick is one that the box can't read.
func foreignStick(t *testing.T) qemu.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ntfs.img")
	if err := errors.Join(os.WriteFile(path, []byte("\xeb\x52\x90NTFS    "), 0o600), os.Truncate(path, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return qemu.Disk{Path: path, USB: true}
}

// rescueSystem waits until the rescue system runs, which has found its medium and installs releases into a slot.
func (b *box) rescueSystem(into string) {
	b.t.Helper()
	b.waitPage()
	b.signIn(b.code())
	s := b.waitState("the rescue system", time.Minute, func(s api.Box) error {
		if s.System.Rescue == nil || s.System.Rescue.Code != api.RescueSystem {
			return fmt.Errorf("mode %s: %+v", s.System.Mode, s.System.Rescue)
		}
		return nil
	})
	found := false
	for _, p := range s.System.Phases {
		b.t.Logf("phase %s: at %d ms, took %d ms %s %s", p.Name, p.StartMS, p.TookMS, p.Note, p.Error)
		found = found || p.Name == "slots" && p.Error == "" && strings.HasSuffix(p.Note, "releases go into slot "+into)
	}
	if !found {
		b.t.Errorf("the rescue system did not find its medium")
	}
}

// overwrite writes over a disk that no machine uses, with qemu-io's options for what.
func overwrite(t *testing.T, d qemu.Disk, at, size int64, what string) {
	t.Helper()
	if _, err := run(t.Context(), "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write %s %d %d", what, at, size), d.Path); err != nil {
		t.Fatal(err)
	}
}

// dataOf is the SHA-256 of a disk from the data partition on.
func dataOf(t *testing.T, d qemu.Disk, l layout.Layout) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if err := qemu.Flatten(t.Context(), d, raw); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(raw)
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, l.Partition(l.Data).Start, diskSize)); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestRescueSystem starts a box that has no system left in either slot: the rescue system comes up by itself, installs a release
// from a stick whose publisher somebody at the box vouches for, and the release proves itself. What was on the data partition
// is as it was.
func TestRescueSystem(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	r := add(t, p, good, 2)
	img := slotless(t)
	o := qemu.Options{
		Board: qemu.PC, Disks: []qemu.Disk{overlay(t, img, diskSize), stick(t, "croft-pc.zip", p.Bundle(qemu.PC, release.Stable)), foreignStick(t)},
		NICs: []qemu.NIC{{}}, Vars: filepath.Join(t.TempDir(), "vars.fd"), Watchdog: true, Memory: 768, CPUs: 1,
	}
	b := start(t, o)
	b.rescueSystem("b") // loader.conf still names A, which has no entry any more
	for _, action := range []string{"retry", "check", "start-over"} {
		if _, err := b.ask(t.Context(), "POST", "/rescue", api.RescueRequest{Action: action, Confirm: api.StartOverWord}, nil, 202); err == nil {
			t.Errorf("the rescue system took %q", action)
		}
	}
	sum := sha256.Sum256(p.Root())
	b.api("PUT", "/updates/trust", api.TrustRequest{
		Role: "project", Action: "set", Name: "Test", Fingerprint: hex.EncodeToString(sum[:]), Root: string(p.Root()),
	}, nil, 204)
	b.updates("the release on the stick is offered", 3*time.Minute, func(u api.Updates) error {
		if u.State == api.UpdateIdle && u.Offer == nil {
			b.ask(t.Context(), "POST", "/updates/action", api.UpdateAction{Action: "check"}, nil, 202)
		}
		if u.Offer == nil || u.Offer.Number != 2 {
			return fmt.Errorf("state %s, offer %+v, problem %+v, sources %+v", u.State, u.Offer, u.Problem, u.Sources)
		}
		if !slices.ContainsFunc(u.Sources, func(s api.UpdateSource) bool { return s.Cause == api.StickFileSystem && s.System == "NTFS" }) {
			return fmt.Errorf("nothing of the stick that can't be read: %+v", u.Sources)
		}
		return nil
	})
	b.until("it is installed", time.Minute, func(ctx context.Context) error { // a check may be under way still
		_, err := b.ask(ctx, "POST", "/updates/action", api.UpdateAction{Action: "install", Number: 2}, nil, 202)
		return err
	})
	var last string
	began := time.Now()
	b.until("the release is started", 8*time.Minute, func(ctx context.Context) error {
		var u api.Updates
		if _, err := b.ask(ctx, "GET", "/updates", nil, &u, 200); err != nil && last != "" {
			return nil // it restarts
		}
		if u.State != last {
			t.Logf("%6.1fs  %s %+v", time.Since(began).Seconds(), u.State, u.Last)
			last = u.State
		}
		if u.State == api.UpdateReady {
			b.ask(ctx, "POST", "/updates/action", api.UpdateAction{Action: "restart"}, nil, 202)
		}
		return fmt.Errorf("state %s, progress %+v, last %+v", u.State, u.Progress, u.Last)
	})
	if _, err := b.vm.Console.Wait(t.Context(), b.mark, regexp.MustCompile(`Restarting system`)); err != nil {
		t.Fatal(err)
	}
	b.mark = b.vm.Console.Mark()
	b.newClient()
	b.waitPage()
	b.signIn(b.code())
	now := b.waitState("the release has proved itself", 6*time.Minute, func(s api.Box) error {
		if s.System.Trial || s.System.Mode != api.ModeNormal {
			return fmt.Errorf("slot %s, on trial %v, mode %s", s.System.Slot, s.System.Trial, s.System.Mode)
		}
		return running(s)
	})
	if now.System.Slot != "b" || now.System.Version != r.Version {
		t.Errorf("slot %s runs %s", now.System.Slot, now.System.Version)
	}
	b.off()
	checkDisk(t, o.Disks[0])
}
