package firmware

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

var tiny = Sizes{Root: 4 << 10, Kernel: 2500, Room: 5 << 10}

func lab(t testing.TB, table layout.Table, size Sizes) *Lab {
	t.Helper()
	l, err := NewLab(t.Context(), t.TempDir(), table, size)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func eachTable(t *testing.T, f func(t *testing.T, table layout.Table)) {
	for _, table := range []layout.Table{layout.GPT, layout.MBR} {
		t.Run(string(table), func(t *testing.T) { f(t, table) })
	}
}

func silent(slots.Step, int64, int64) {}

// rescue is what started returns of a rescue system, stopped of boot code that finds nothing.
const (
	rescue  = "rescue"
	stopped = "stopped"
)

// started is what a machine starts of some releases; "" and the reason if none.
func started(d *faults.Disk, s Start, trial layout.Slot, known ...*Made) (string, error) {
	b, err := s.Boot(d, d.Size(), trial)
	switch {
	case errors.Is(err, ErrStops):
		return stopped, err
	case err != nil:
		return "", err
	case b.Rescue:
		return rescue, nil
	}
	for _, k := range known {
		if r, err := b.Identify(d, k.Release); err == nil {
			return r.Version, nil
		}
	}
	_, err = b.Identify(d)
	return "", err
}

// TestLife takes a medium through two updates, forth and back, and asks the models at every stage.
func TestLife(t *testing.T) {
	eachTable(t, func(t *testing.T, table layout.Table) {
		l := lab(t, table, tiny)
		second, err := l.Release()
		if err != nil {
			t.Fatal(err)
		}
		third, err := l.Release()
		if err != nil {
			t.Fatal(err)
		}
		d := l.Disk.Fork()
		want := func(when, normal, trial string, slot layout.Slot) {
			t.Helper()
			for _, s := range l.Starts() {
				if got, err := started(d, s, "", l.First, second, third); got != normal {
					t.Errorf("%s: %s starts %q, want %s: %v", when, s.Name, got, normal, err)
				}
				if got, err := started(d, s, slot, l.First, second, third); trial != "" && got != trial {
					t.Errorf("%s: %s tries %q, want %s: %v", when, s.Name, got, trial, err)
				}
			}
		}
		want("as from the factory", "v1.1", "", layout.SlotB)
		m := l.Medium(d, layout.SlotA)
		if err := m.Install(t.Context(), second.Release, second.Fill, silent); err != nil {
			t.Fatal(err)
		}
		want("written", "v1.1", "v1.2", layout.SlotB)
		if err := l.Medium(d, layout.SlotB).Commit(layout.SlotB); err != nil {
			t.Fatal(err)
		}
		want("committed", "v1.2", "v1.1", layout.SlotA)
		m = l.Medium(d, layout.SlotB)
		if err := m.Install(t.Context(), third.Release, third.Fill, silent); err != nil {
			t.Fatal(err)
		}
		want("the second time", "v1.2", "v1.3", layout.SlotA)
		if err := m.Commit(layout.SlotA); err != nil {
			t.Fatal(err)
		}
		want("and committed", "v1.3", "v1.2", layout.SlotB)
	})
}

// TestReasons breaks what starts, and wants a start of the rest or a reason.
func TestReasons(t *testing.T) {
	eachTable(t, func(t *testing.T, table layout.Table) {
		l := lab(t, table, tiny)
		p := func(n int) layout.Partition { return l.Layout.Partition(n) }
		root, first := p(l.Layout.Root[layout.SlotA]), p(l.Layout.First)
		junk := make([]byte, 512)
		for i := range junk {
			junk[i] = byte(i * 7)
		}
		for _, tc := range []struct {
			name   string
			at     int64
			table  layout.Table // or both
			starts bool
			reason string // part of it
		}{
			{"first header of the GPT", 512, layout.GPT, true, ""},
			{"first entries of the GPT", 1024, layout.GPT, true, ""},
			{"copy of the GPT", l.Layout.Size - 512, layout.GPT, true, ""},
			{"MBR", 0, layout.MBR, false, "no MBR"},
			{"extended record", p(l.Layout.Root[layout.SlotA]).Start - layout.EBRGap, layout.MBR, false, "no root"},
			{"root", root.Start, "", false, "no squashfs"},
			{"first volume", first.Start, "", false, ""},
			{"boot partition", p(l.Layout.Boot[layout.SlotA]).Start, layout.MBR, false, ""},
			{"other root", p(l.Layout.Root[layout.SlotB]).Start, "", true, ""},
		} {
			if tc.table != "" && tc.table != table {
				continue
			}
			d := l.Disk.Fork()
			if err := d.Write(junk, tc.at, false); err != nil {
				t.Fatal(err)
			}
			for _, s := range l.Starts() {
				got, err := started(d, s, "", l.First)
				if got == rescue && tc.name == "boot partition" && s.model.walks() != stops {
					continue
				}
				if (got == "v1.1") != tc.starts || !tc.starts && (err == nil || !strings.Contains(err.Error(), tc.reason)) {
					t.Errorf("%s: %s starts %q: %v", tc.name, s.Name, got, err)
				}
			}
		}
		// A root of another release under the right kernel is no release.
		d := l.Disk.Fork()
		if err := d.Write(junk, root.Start+2048, false); err != nil {
			t.Fatal(err)
		}
		for _, s := range l.Starts() {
			if got, err := started(d, s, "", l.First); got != "" || err == nil {
				t.Errorf("%s takes a changed root for %q", s.Name, got)
			}
		}
	})
}

// invalid makes a slot one that is not started, as an update does first.
func (l *Lab) invalid(t *testing.T, d *faults.Disk, slot layout.Slot) {
	t.Helper()
	content, at := make([]byte, 512), l.Layout.Partition(l.Layout.Boot[slot]).Start
	if l.Layout.Table == layout.GPT {
		first := l.Layout.Partition(l.Layout.First)
		e, err := fat.Find(slots.Window{D: disk{d}, Start: first.Start, Len: first.Size}, slots.CmdlineFile(l.Layout.Table, slot))
		if err != nil {
			t.Fatal(err)
		}
		content, at = slots.BlankEntry(), first.Start+e.Extents[0].Offset
	}
	if err := d.Write(content, at, false); err != nil {
		t.Fatal(err)
	}
}

// unselected renames autoboot.txt, as an owner does who wants the rescue system.
func (l *Lab) unselected(t *testing.T, d *faults.Disk) {
	t.Helper()
	p := l.Layout.Partition(l.Layout.First)
	b := make([]byte, p.Size)
	if _, err := d.ReadAt(b, p.Start); err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("a\x00u\x00t\x00o\x00b\x00"))
	if err := d.Write([]byte("x"), p.Start+int64(at), false); err != nil {
		t.Fatal(err)
	}
	if _, err := fat.Find(slots.Window{D: disk{d}, Start: p.Start, Len: p.Size}, "xutoboot.txt"); err != nil {
		t.Fatal(err)
	}
}

// TestRescue: the rescue system starts where neither slot is valid and the boot code looks any further, and where a Raspberry Pi's owner
// took autoboot.txt away; never where the committed slot is valid.
func TestRescue(t *testing.T) {
	eachTable(t, func(t *testing.T, table layout.Table) {
		l := lab(t, table, tiny)
		second, err := l.Release()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Medium(l.Disk, layout.SlotA).Install(t.Context(), second.Release, second.Fill, silent); err != nil {
			t.Fatal(err)
		}
		const a, b = layout.SlotA, layout.SlotB
		for _, tc := range []struct {
			name      string
			committed layout.Slot
			invalid   []layout.Slot
			away      bool
			uefi      string
			walks     map[walk]string
		}{
			{"both are valid", a, nil, false, "v1.1", map[walk]string{stops: "v1.1", fromNext: "v1.1", fromFirst: "v1.1"}},
			{"both are valid, B committed", b, nil, false, "v1.2", map[walk]string{stops: "v1.2", fromNext: "v1.2", fromFirst: "v1.2"}},
			{"B is invalid", a, []layout.Slot{b}, false, "v1.1", map[walk]string{stops: "v1.1", fromNext: "v1.1", fromFirst: "v1.1"}},
			{"A is invalid, B committed", b, []layout.Slot{a}, false, "v1.2", map[walk]string{stops: "v1.2", fromNext: "v1.2", fromFirst: "v1.2"}},
			{"neither is", a, []layout.Slot{a, b}, false, rescue, map[walk]string{stops: stopped, fromNext: rescue, fromFirst: rescue}},
			{"neither is, B committed", b, []layout.Slot{a, b}, false, rescue, map[walk]string{stops: stopped, fromNext: rescue, fromFirst: rescue}},
			{"the committed one is lost", a, []layout.Slot{a}, false, "v1.2", map[walk]string{stops: stopped, fromNext: "v1.2", fromFirst: rescue}},
			{"the committed one is lost, B", b, []layout.Slot{b}, false, "v1.1", map[walk]string{stops: stopped, fromNext: rescue, fromFirst: rescue}},
			{"the owner asks", a, nil, true, "", map[walk]string{stops: rescue, fromNext: rescue, fromFirst: rescue}},
			{"the owner asks, and neither is", a, []layout.Slot{a, b}, true, "", map[walk]string{stops: rescue, fromNext: rescue, fromFirst: rescue}},
		} {
			if tc.away && table == layout.GPT {
				continue
			}
			d := l.Disk.Fork()
			if tc.committed == b {
				if err := l.Medium(d, a).Commit(b); err != nil {
					t.Fatal(err)
				}
			}
			for _, slot := range tc.invalid {
				l.invalid(t, d, slot)
			}
			if tc.away {
				l.unselected(t, d)
			}
			for _, s := range l.AllStarts() {
				want := tc.uefi
				if s.model != "" {
					want = tc.walks[s.model.walks()]
				}
				if got, err := started(d, s, "", l.First, second); got != want {
					t.Errorf("%s: %s starts %q, want %q: %v", tc.name, s.Name, got, want, err)
				}
			}
		}
	})
}

// TestImages asks the models about the images in CROFT_OUT: slot A starts, on every machine, and as soon as another release is in slot B,
// that is what a trial starts; without slot A, the rescue system.
func TestImages(t *testing.T) {
	dir := os.Getenv("CROFT_OUT")
	if dir == "" {
		t.Skip("CROFT_OUT names no images")
	}
	for _, b := range board.All() {
		t.Run(b.ID, func(t *testing.T) {
			path := filepath.Join(dir, "croft-"+b.ID+".img")
			if _, err := os.Stat(path); err != nil {
				t.Skip(err)
			}
			d, err := faults.LoadDisk(path, 0)
			if err != nil {
				t.Fatal(err)
			}
			l := &Lab{Layout: b.Layout}
			m := l.Medium(d.Fork(), layout.SlotA)
			next := baseOf(t, m)
			if err := m.Install(t.Context(), next.Release, next.Fill, silent); err != nil {
				t.Fatal(err)
			}
			for _, s := range l.Starts() {
				for trial, want := range map[layout.Slot]string{"": "a", layout.SlotB: "b"} {
					disk := m.First.(slots.Window).D
					boot, err := s.Boot(disk, disk.Size(), trial)
					if err != nil || !strings.Contains(boot.Cmdline, " croft.slot="+want+" ") {
						t.Errorf("%s, trial of %q: %+v, %v", s.Name, trial, boot, err)
						continue
					}
					if _, err := boot.Identify(disk, next.Release); want == "b" && err != nil {
						t.Errorf("%s: %v", s.Name, err)
					}
				}
			}
			lost := d.Fork()
			l.invalid(t, lost, layout.SlotA)
			for _, s := range l.AllStarts() {
				want := rescue
				if s.model != "" && s.model.walks() == stops {
					want = stopped
				}
				if got, err := started(lost, s, ""); got != want {
					t.Errorf("without a slot, %s starts %q, want %q: %v", s.Name, got, want, err)
				}
			}
		})
	}
}

// baseOf is the release in the running slot under another name.
func baseOf(t *testing.T, m *slots.Medium) *Made {
	t.Helper()
	cmdline := ""
	var boot int64
	if m.Table == layout.MBR {
		end, err := fat.End(m.Boot)
		if err != nil {
			t.Fatal(err)
		}
		b, err := fat.ReadFile(m.Boot, "cmdline.txt", 4096)
		if err != nil {
			t.Fatal(err)
		}
		boot, cmdline = end, strings.TrimSpace(string(b))
	} else {
		b, err := fat.ReadFile(m.First, slots.CmdlineFile(m.Table, m.Running), 4096)
		if err != nil {
			t.Fatal(err)
		}
		_, cmdline, _ = strings.Cut(strings.TrimSpace(string(b)), "\noptions ")
	}
	made := &Made{Release: &release.Release{Version: "v999", Number: 999}, Parts: map[string][]byte{}}
	for name, part := range map[string]*release.Part{slots.PartBoot: &made.Boot, slots.PartRoot: &made.Root} {
		r, size, err := m.Base(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == slots.PartBoot && boot != 0 {
			size = boot
		}
		b := make([]byte, size)
		if _, err := r.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		made.Parts[name] = b
		*part = release.Part{Size: size, SHA256: hex.EncodeToString(sum[:])}
	}
	var args []string
	for _, arg := range strings.Fields(cmdline) {
		key, _, _ := strings.Cut(arg, "=")
		switch key {
		case "root":
			arg = "root=PARTUUID={root}"
		case "croft.slot":
			arg = "croft.slot={slot}"
		case "croft.version":
			arg = "croft.version=v999"
		case "croft.number":
			arg = "croft.number=999"
		}
		args = append(args, arg)
	}
	made.Cmdline = strings.Join(args, " ")
	return made
}
