package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/firmware"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// TestSlotB writes slot B of an image as an update does, commits to it, and starts it by way of its firmware and boot loader: the
// models of package firmware and the real ones must agree.
func TestSlotB(t *testing.T) {
	t.Parallel()
	img := filepath.Join(t.TempDir(), "both.img")
	if _, err := run(t.Context(), "cp", "--sparse=always", image(t, qemu.PC), img); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := slots.NewFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := layout.UEFI()
	part := func(number int) slots.Device {
		p := l.Partition(number)
		return slots.Window{D: whole, Start: p.Start, Len: p.Size}
	}
	a, b := layout.SlotA, layout.SlotB
	m := &slots.Medium{
		Table: l.Table, Running: a, First: part(l.First), Root: part(l.Root[a]), RootIdle: part(l.Root[b]),
		RootID: map[layout.Slot]string{a: l.PARTUUID(l.Root[a]), b: l.PARTUUID(l.Root[b])},
	}
	entry, err := fat.ReadFile(m.First, slots.CmdlineFile(l.Table, a), slots.EntrySize)
	if err != nil {
		t.Fatal(err)
	}
	_, options, _ := strings.Cut(strings.TrimSpace(string(entry)), "\noptions ")
	r := &release.Release{
		Version: "v999.0", Number: 999,
		Cmdline: strings.NewReplacer(m.RootID[a], "{root}", "croft.slot=a", "croft.slot={slot}").Replace(options) + " croft.version=v999.0 " + qemu.Steady,
	}
	for name, p := range map[string]*release.Part{slots.PartBoot: &r.Boot, slots.PartRoot: &r.Root} {
		base, size, err := m.Base(name)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		if p.Size, err = io.Copy(h, io.NewSectionReader(base, 0, size)); err != nil {
			t.Fatal(err)
		}
		p.SHA256 = hex.EncodeToString(h.Sum(nil))
	}
	err = m.Install(t.Context(), r, func(name string, dst io.Writer) error {
		base, size, err := m.Base(name)
		if err == nil {
			_, err = io.Copy(dst, io.NewSectionReader(base, 0, size))
		}
		return err
	}, func(slots.Step, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	says := func(oneShot string) string {
		t.Helper()
		vars := firmware.Vars{}
		if oneShot != "" {
			vars["LoaderEntryOneShot"] = oneShot
		}
		boot, err := firmware.UEFI(f, whole.Size(), vars)
		if err != nil {
			t.Fatal(err)
		}
		return vars["LoaderEntrySelected"] + " " + boot.Cmdline
	}
	if got := says(""); !strings.HasPrefix(got, "croft-a.conf ") {
		t.Errorf("before the commit, %s starts", got)
	}
	if got := says(slots.EntryID(b)); !strings.HasPrefix(got, "croft-b.conf ") {
		t.Errorf("a trial starts %s", got)
	}
	if err := m.Commit(b); err != nil {
		t.Fatal(err)
	}
	if got := says(""); !strings.HasPrefix(got, "croft-b.conf ") {
		t.Errorf("after the commit, %s starts", got)
	}
	box := start(t, qemu.Options{Board: qemu.PC, Disks: []qemu.Disk{overlay(t, img, diskSize)}, NICs: []qemu.NIC{{}}, Watchdog: true})
	s := box.up()
	if s.System.Slot != string(b) {
		t.Errorf("slot %q runs", s.System.Slot)
	}
	box.off()
}
