package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/croft-os/croft/hardware/layout"
)

// Medium is a whole drive that partition tables are read from and written to.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

const (
	sectorSize   = layout.SectorSize
	gptEntries   = 128
	gptEntrySize = 128
	gptArray     = gptEntries * gptEntrySize // bytes
	gptReserved  = 1 + gptArray/sectorSize   // sectors at the end: array and header
)

// gptHeader is the header of UEFI 2.10 table 5.5.
type gptHeader struct {
	Signature   [8]byte
	Revision    uint32
	HeaderSize  uint32
	HeaderCRC   uint32
	Reserved    uint32
	MyLBA       uint64
	AltLBA      uint64
	FirstUsable uint64
	LastUsable  uint64
	DiskGUID    [16]byte
	ArrayLBA    uint64
	NumEntries  uint32
	EntrySize   uint32
	ArrayCRC    uint32
}

const gptHeaderSize = 92

type gpt struct {
	gptHeader
	array []byte
}

var errBadGPT = errors.New("no valid GPT")

func readGPT(r io.ReaderAt, lba uint64) (*gpt, error) {
	sector := make([]byte, sectorSize)
	if _, err := r.ReadAt(sector, int64(lba)*sectorSize); err != nil {
		return nil, fmt.Errorf("GPT header at sector %d: %w", lba, err)
	}
	g := &gpt{}
	if err := binary.Read(bytes.NewReader(sector), binary.LittleEndian, &g.gptHeader); err != nil {
		return nil, err
	}
	if string(g.Signature[:]) != "EFI PART" || g.HeaderSize != gptHeaderSize || g.MyLBA != lba ||
		g.NumEntries != gptEntries || g.EntrySize != gptEntrySize || g.ArrayLBA > 1<<40 {
		return nil, fmt.Errorf("%w at sector %d", errBadGPT, lba)
	}
	want := g.HeaderCRC
	clear(sector[16:20])
	if crc32.ChecksumIEEE(sector[:gptHeaderSize]) != want {
		return nil, fmt.Errorf("%w at sector %d: checksum", errBadGPT, lba)
	}
	g.array = make([]byte, gptArray)
	if _, err := r.ReadAt(g.array, int64(g.ArrayLBA)*sectorSize); err != nil {
		return nil, fmt.Errorf("GPT entries at sector %d: %w", g.ArrayLBA, err)
	}
	if crc32.ChecksumIEEE(g.array) != g.ArrayCRC {
		return nil, fmt.Errorf("%w at sector %d: checksum of the entries", errBadGPT, lba)
	}
	return g, nil
}

func (g *gpt) header() []byte {
	g.ArrayCRC = crc32.ChecksumIEEE(g.array)
	g.HeaderCRC = 0
	b, _ := binary.Append(nil, binary.LittleEndian, &g.gptHeader)
	g.HeaderCRC = crc32.ChecksumIEEE(b)
	binary.LittleEndian.PutUint32(b[16:], g.HeaderCRC)
	return append(b, make([]byte, sectorSize-len(b))...)
}

func (g *gpt) entry(number int) []byte {
	return g.array[(number-1)*gptEntrySize : number*gptEntrySize]
}

// growGPT moves the backup GPT to the end of a drive of size bytes, lets partition number reach as far as fits a
// whole MiB, and gives the drive and that partition the ids that newID returns; a nil newID keeps them. The other
// partitions' ids stay, for the kernel's command line names the root by its id.
//
// The backup is written and flushed before the primary, so that at every moment one of them is valid where firmware
// and kernel (with the parameter "gpt") look. It returns the partition's size in bytes, and whether it wrote.
func growGPT(m Medium, size int64, number int, newID func() [16]byte) (int64, bool, error) {
	last := uint64(size/sectorSize) - 1
	g, perr := readGPT(m, 1)
	if perr != nil {
		var err error
		if g, err = readGPT(m, last); err != nil {
			return 0, false, errors.Join(perr, err)
		}
	}
	e := g.entry(number)
	first, end := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
	if first == 0 || end < first || end > last {
		return 0, false, fmt.Errorf("GPT: partition %d reaches from sector %d to %d of %d", number, first, end, last)
	}
	const mib = (1 << 20) / sectorSize
	newEnd := (last-gptReserved+1)/mib*mib - 1
	for i := 1; i <= gptEntries; i++ {
		if s := binary.LittleEndian.Uint64(g.entry(i)[32:]); i != number && s > end {
			newEnd = end // not the last one: stays
		}
	}
	newEnd = max(newEnd, end)
	if newEnd > last-gptReserved {
		return 0, false, fmt.Errorf("GPT: partition %d leaves no room for the backup table", number)
	}
	sizeNow := int64(newEnd-first+1) * sectorSize
	backup, berr := readGPT(m, last)
	if perr == nil && berr == nil && newID == nil && newEnd == end && g.AltLBA == last && bytes.Equal(backup.array, g.array) {
		return sizeNow, false, nil
	}
	binary.LittleEndian.PutUint64(e[40:], newEnd)
	if newID != nil {
		g.DiskGUID = newID()
		id := newID()
		copy(e[16:32], id[:])
	}
	g.LastUsable = last - gptReserved
	step := func(what string, off int64, b []byte) error {
		if _, err := m.WriteAt(b, off); err != nil {
			return fmt.Errorf("GPT: write %s: %w", what, err)
		}
		return nil
	}
	g.MyLBA, g.AltLBA, g.ArrayLBA = last, 1, last-gptArray/sectorSize
	if err := step("backup entries", int64(g.ArrayLBA)*sectorSize, g.array); err != nil {
		return 0, false, err
	}
	if err := step("backup header", int64(last)*sectorSize, g.header()); err != nil {
		return 0, false, err
	}
	if err := m.Sync(); err != nil {
		return 0, false, fmt.Errorf("GPT: flush the backup: %w", err)
	}
	g.MyLBA, g.AltLBA, g.ArrayLBA = 1, last, 2
	if err := step("entries", 2*sectorSize, g.array); err != nil {
		return 0, false, err
	}
	if err := step("header", sectorSize, g.header()); err != nil {
		return 0, false, err
	}
	pmbr := make([]byte, sectorSize)
	if _, err := m.ReadAt(pmbr, 0); err != nil {
		return 0, false, fmt.Errorf("GPT: protective MBR: %w", err)
	}
	if pmbr[446+4] == 0xee {
		binary.LittleEndian.PutUint32(pmbr[446+12:], uint32(min(last, 1<<32-1)))
		if err := step("protective MBR", 0, pmbr); err != nil {
			return 0, false, err
		}
	}
	if err := m.Sync(); err != nil {
		return 0, false, fmt.Errorf("GPT: flush: %w", err)
	}
	return sizeNow, true, nil
}
