package pack

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/croft-os/croft/hardware/layout"
)

// WriteTable writes l's partition table to the image f of l.Size bytes.
func WriteTable(f backend.WritableFile, l layout.Layout) error {
	if l.Table == layout.GPT {
		t := &gpt.Table{GUID: l.ID, ProtectiveMBR: true, LogicalSectorSize: layout.SectorSize, PhysicalSectorSize: layout.SectorSize}
		for _, p := range l.Partitions {
			t.Partitions = append(t.Partitions, &gpt.Partition{
				Index: p.Number, Name: p.Name, Type: gpt.Type(p.Type), GUID: p.GUID,
				Start: uint64(p.Start / layout.SectorSize),
				End:   uint64((p.Start+p.Size)/layout.SectorSize) - 1,
				Size:  uint64(p.Size),
			})
		}
		if err := t.Write(f, l.Size); err != nil {
			return fmt.Errorf("write GPT: %w", err)
		}
		return nil
	}
	sectors, err := mbrSectors(l)
	if err != nil {
		return err
	}
	for at, b := range sectors {
		if _, err := f.WriteAt(b, at); err != nil {
			return fmt.Errorf("write MBR: %w", err)
		}
	}
	return nil
}

// mbrSectors returns the sectors of an MBR with its chain of extended boot records, by their place in bytes. Each record
// sits layout.EBRGap before its logical partition; its first entry counts from itself, its second from the start of the
// extended partition.
func mbrSectors(l layout.Layout) (map[int64][]byte, error) {
	id, err := hex.DecodeString(l.ID)
	if err != nil || len(id) != 4 {
		return nil, fmt.Errorf("disk signature %q is not eight hex digits", l.ID)
	}
	mbr := record()
	binary.LittleEndian.PutUint32(mbr[440:], binary.BigEndian.Uint32(id))
	out := map[int64][]byte{0: mbr}

	var extended, last []byte // last is the record whose second entry names the next one
	var base int64
	for _, p := range l.Partitions {
		typ, err := strconv.ParseUint(p.Type, 16, 8)
		if err != nil {
			return nil, fmt.Errorf("type of %s: %w", p.Name, err)
		}
		if l.Extended == 0 || p.Number <= l.Extended {
			entry(mbr, p.Number-1, byte(typ), p.Start, p.Size)
			base = p.Start
			continue
		}
		at := p.Start - layout.EBRGap
		extended = record()
		entry(extended, 0, byte(typ), layout.EBRGap, p.Size)
		out[at] = extended
		if last != nil {
			entry(last, 1, 0x05, at-base, layout.EBRGap+p.Size)
		}
		last = extended
	}
	return out, nil
}

func record() []byte {
	b := make([]byte, layout.SectorSize)
	b[510], b[511] = 0x55, 0xaa
	return b
}

// entry fills one of a record's entries. The CHS fields say "beyond what CHS can name", as LBA-only media do.
func entry(rec []byte, i int, typ byte, start, size int64) {
	e := rec[446+16*i:]
	copy(e[1:], []byte{0xfe, 0xff, 0xff})
	e[4] = typ
	copy(e[5:], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], uint32(start/layout.SectorSize))
	binary.LittleEndian.PutUint32(e[12:], uint32(size/layout.SectorSize))
}
