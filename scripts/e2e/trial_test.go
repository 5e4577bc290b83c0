package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/slots"
)

// bothSlots copies the PC's image and puts a system into slot B too: slot A's, with further kernel arguments.
func bothSlots(t *testing.T, args string) string {
	t.Helper()
	img := steadied(t, image(t, qemu.PC))
	l, dir := layout.UEFI(), t.TempDir()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	from, to := l.Partition(l.Root[layout.SlotA]), l.Partition(l.Root[layout.SlotB])
	block := make([]byte, 1<<20)
	for off := int64(0); off < from.Size; off += int64(len(block)) {
		if _, err := f.ReadAt(block, from.Start+off); err != nil {
			t.Fatal(err)
		}
		if bytes.Count(block, []byte{0}) == len(block) {
			continue
		}
		if _, err := f.WriteAt(block, to.Start+off); err != nil {
			t.Fatal(err)
		}
	}
	at := fmt.Sprintf("%s@@%d", img, l.Partition(l.First).Start)
	copies := func(args ...string) {
		t.Helper()
		if _, err := run(t.Context(), "mcopy", append([]string{"-D", "o", "-i", at}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	a, b := layout.SlotA, layout.SlotB
	kernel, entry := filepath.Join(dir, "kernel"), filepath.Join(dir, "entry")
	copies("::/"+slots.KernelFile(a), kernel)
	copies(kernel, "::/"+slots.KernelFile(b))
	copies("::/"+slots.CmdlineFile(layout.GPT, a), entry)
	text, err := os.ReadFile(entry)
	if err != nil {
		t.Fatal(err)
	}
	conf := strings.NewReplacer("/"+slots.KernelFile(a), "/"+slots.KernelFile(b), l.PARTUUID(l.Root[a]), l.PARTUUID(l.Root[b]),
		"croft.slot=a", "croft.slot=b "+args, " (a)\n", " (b)\n").Replace(strings.TrimSpace(string(text))) + "\n"
	if err := os.WriteFile(entry, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	copies(entry, "::/"+slots.CmdlineFile(layout.GPT, b))
	return img
}

// once has the firmware be asked to start slot B once.
func once(t *testing.T) (vars string) {
	t.Helper()
	vars = filepath.Join(t.TempDir(), "vars.fd")
	if err := qemu.MakeVars(vars, qemu.LoaderGUID, "LoaderEntryOneShot", slots.EntryID(layout.SlotB)); err != nil {
		t.Fatal(err)
	}
	return vars
}

func phase(s api.Box, name string) api.Phase {
	for _, p := range s.System.Phases {
		if p.Name == name {
			return p
		}
	}
	return api.Phase{}
}

// TestTrialEnds starts slot B once, with less time than anybody needs to keep it: the box says that it is on trial, and goes back
// when its time is over. The next start is slot A's again, and tells.
func TestTrialEnds(t *testing.T) {
	t.Parallel()
	img := bothSlots(t, "croft.trial=40")
	o := qemu.Options{
		Board: qemu.PC, Disks: []qemu.Disk{overlay(t, img, diskSize)}, NICs: []qemu.NIC{{}}, Vars: once(t), Watchdog: true, CPUs: 1,
	}
	b := start(t, o)
	for _, line := range []string{`This release is on trial`, `This release is given up \(([a-z]+)\)`, `Restarting system`} {
		ctx, cancel := context.WithTimeout(t.Context(), pageTime)
		defer cancel()
		if _, err := b.vm.Console.Wait(ctx, 0, regexp.MustCompile(line)); err != nil {
			t.Fatal(err)
		}
	}
	b.mark = b.vm.Console.Mark()
	if _, err := b.vm.Console.Wait(t.Context(), b.mark, qemu.ClaimRE); err != nil {
		t.Fatal(err)
	}
	s := b.up()
	if s.System.Slot != "a" || s.System.Trial {
		t.Errorf("slot %s, on trial %v", s.System.Slot, s.System.Trial)
	}
	p := phase(s, "trial")
	t.Logf("slots: %+v, trial: %+v", phase(s, "slots"), p)
	if !regexp.MustCompile(`^slot b was tried and came "(started|services|ready)" [a-z-]+$`).MatchString(p.Note) {
		t.Errorf("it says of the trial: %+v", p)
	}
	// Nothing of that counts as a box that fails again and again.
	for _, g := range s.System.Gaps {
		if g.Name == "restarts" {
			t.Errorf("%+v", g)
		}
	}
	b.off()
	checkDisk(t, o.Disks[0])
}

// TestTrialWithoutData starts slot B once while the data partition can't be used: the box does not stay in rescue mode there.
func TestTrialWithoutData(t *testing.T) {
	t.Parallel()
	img := bothSlots(t, "")
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 4096), layout.UEFI().Partition(layout.UEFI().Data).Start); err != nil { // its superblock
		t.Fatal(err)
	}
	b := start(t, qemu.Options{
		Board: qemu.PC, Disks: []qemu.Disk{overlay(t, img, diskSize)}, NICs: []qemu.NIC{{}}, Vars: once(t), Watchdog: true, CPUs: 1,
	})
	ctx, cancel := context.WithTimeout(t.Context(), pageTime)
	defer cancel()
	if _, err := b.vm.Console.Wait(ctx, 0, regexp.MustCompile(`This release is given up \(data\)`)); err != nil {
		t.Fatal(err)
	}
	b.mark = b.vm.Console.Mark()
	b.waitPage()
	b.signIn(b.code())
	s := b.waitState("rescue mode", time.Minute, func(s api.Box) error {
		if s.System.Mode != api.ModeRescue {
			return fmt.Errorf("mode %s", s.System.Mode)
		}
		return nil
	})
	if s.System.Slot != "a" || s.System.Trial {
		t.Errorf("slot %s, on trial %v", s.System.Slot, s.System.Trial)
	}
}
