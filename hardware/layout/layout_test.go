package layout_test

import (
	"testing"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
)

func TestLayouts(t *testing.T) {
	const align = 4 << 20
	for _, l := range []layout.Layout{layout.UEFI(), layout.Pi()} {
		t.Run(string(l.Table), func(t *testing.T) {
			end := int64(0)
			seen := map[string]bool{}
			for i, p := range l.Partitions {
				if p.Number != i+1 {
					t.Errorf("partition %d comes at place %d", p.Number, i+1)
				}
				if p.Start%align != 0 || p.Size%align != 0 {
					t.Errorf("%s is not aligned to 4 MiB", p.Name)
				}
				if p.Start < end+align && p.Number != 1 && l.Extended != 0 && p.Number > l.Extended {
					t.Errorf("%s leaves no room for its extended boot record", p.Name)
				}
				if p.Start < end {
					t.Errorf("%s starts at %d, before the end of its predecessor at %d", p.Name, p.Start, end)
				}
				end = p.Start + p.Size
				if p.Number == l.Extended {
					end = p.Start
				}
				if u := l.PARTUUID(p.Number); seen[u] || seen[p.Name] {
					t.Errorf("%s: name or PARTUUID %s used twice", p.Name, u)
				} else {
					seen[u], seen[p.Name] = true, true
				}
			}
			if l.Partitions[len(l.Partitions)-1].Number != l.Data {
				t.Error("DATA is not last")
			}
			if end > l.Size {
				t.Errorf("partitions end at %d, beyond the image's %d", end, l.Size)
			}
			if l.Extended != 0 {
				if x := l.Partition(l.Extended); x.Start+x.Size != end {
					t.Errorf("the extended partition ends at %d, its last logical one at %d", x.Start+x.Size, end)
				}
			}
			if got := l.Partition(l.Data).Size; got != disk.SeedSize {
				t.Errorf("DATA has %d bytes, its seed %d", got, disk.SeedSize)
			}
			if l.Root[layout.SlotA] == l.Root[layout.SlotB] {
				t.Error("both slots have the same root")
			}
		})
	}
}

func TestPARTUUID(t *testing.T) {
	if got, want := layout.Pi().PARTUUID(5), "c0f7c0f7-05"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := layout.UEFI().PARTUUID(2), "c0f7c0f7-d15c-4000-8000-000000000002"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
