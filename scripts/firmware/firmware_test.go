package firmware

import (
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/faults"
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

// started is what a machine starts of some releases; "" and the reason if none.
func started(l *Lab, d *faults.Disk, s Start, trial layout.Slot, known ...*Made) (string, error) {
	b, err := s.Boot(d, d.Size(), trial)
	if err != nil {
		return "", err
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
				if got, err := started(l, d, s, "", l.First, second, third); got != normal {
					t.Errorf("%s: %s starts %q, want %s: %v", when, s.Name, got, normal, err)
				}
				if got, err := started(l, d, s, slot, l.First, second, third); trial != "" && got != trial {
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
				got, err := started(l, d, s, "", l.First)
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
			if got, err := started(l, d, s, "", l.First); got != "" || err == nil {
				t.Errorf("%s takes a changed root for %q", s.Name, got)
			}
		}
	})
}
