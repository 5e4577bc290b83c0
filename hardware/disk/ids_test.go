package disk

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/croft-os/croft/hardware/layout"
)

func TestPARTUUID(t *testing.T) {
	l := layout.UEFI()
	size := l.Size
	f, err := os.Create(filepath.Join(t.TempDir(), "medium"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := PARTUUID(f, size, layout.GPT, 2); err == nil {
		t.Error("an empty drive has an id")
	}
	// What image/pack writes is tested there against sfdisk; here it is enough that each copy alone is read.
	const want = "c0f7c0f7-d15c-4000-8000-000000000002"
	g := gpt{array: make([]byte, gptArray)}
	copy(g.Signature[:], "EFI PART")
	g.Revision, g.HeaderSize, g.NumEntries, g.EntrySize = 1<<16, gptHeaderSize, gptEntries, gptEntrySize
	id := mixedEndian([16]byte{0xc0, 0xf7, 0xc0, 0xf7, 0xd1, 0x5c, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 2})
	copy(g.entry(2)[16:], id[:])
	last := uint64(size/sectorSize) - 1
	for _, at := range []struct{ lba, array uint64 }{{last, last - gptArray/sectorSize}, {1, 2}} {
		if _, err := f.WriteAt(make([]byte, sectorSize), sectorSize); err != nil {
			t.Fatal(err)
		}
		g.MyLBA, g.ArrayLBA = at.lba, at.array
		for off, b := range map[int64][]byte{int64(at.array) * sectorSize: g.array, int64(at.lba) * sectorSize: g.header()} {
			if _, err := f.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := PARTUUID(f, size, layout.GPT, l.Root[layout.SlotA]); err != nil || got != want {
			t.Errorf("header at sector %d: %q, %v", at.lba, got, err)
		}
	}
	if _, err := PARTUUID(f, size, layout.GPT, 129); err == nil {
		t.Error("partition 129")
	}

	mbr := make([]byte, sectorSize)
	binary.LittleEndian.PutUint32(mbr[440:], 0x0a0b0c0d)
	mbr[510], mbr[511] = 0x55, 0xaa
	if _, err := f.WriteAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := PARTUUID(f, size, layout.MBR, 5); err != nil || got != "0a0b0c0d-05" {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzPARTUUID reads ids from whatever is on a drive.
func FuzzPARTUUID(f *testing.F) {
	f.Add(make([]byte, 34*sectorSize), 2)
	mbr := make([]byte, sectorSize)
	mbr[510], mbr[511] = 0x55, 0xaa
	f.Add(mbr, 5)
	f.Fuzz(func(t *testing.T, b []byte, number int) {
		for _, table := range []layout.Table{layout.GPT, layout.MBR} {
			if id, err := PARTUUID(bytes.NewReader(b), int64(len(b)), table, number); err == nil && len(id) < 11 {
				t.Errorf("%q", id)
			}
		}
	})
}
