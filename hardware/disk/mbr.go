package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// mbrEntry is one 16-byte entry of an MBR or EBR.
type mbrEntry []byte

func (e mbrEntry) kind() byte       { return e[4] }
func (e mbrEntry) start() uint32    { return binary.LittleEndian.Uint32(e[8:]) }
func (e mbrEntry) size() uint32     { return binary.LittleEndian.Uint32(e[12:]) }
func (e mbrEntry) setSize(n uint32) { binary.LittleEndian.PutUint32(e[12:], n) }
func (e mbrEntry) extended() bool   { return e.kind() == 0x05 || e.kind() == 0x0f }

func readMBR(r io.ReaderAt, lba uint32) ([]byte, error) {
	b := make([]byte, sectorSize)
	if _, err := r.ReadAt(b, int64(lba)*sectorSize); err != nil {
		return nil, fmt.Errorf("MBR at sector %d: %w", lba, err)
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, fmt.Errorf("%w at sector %d", errBadMBR, lba)
	}
	return b, nil
}

var errBadMBR = errors.New("no valid MBR")

func entryOf(table []byte, i int) mbrEntry { return mbrEntry(table[446+16*i : 446+16*i+16]) }

// growMBR lets the last logical partition, which must have the given number, reach the end of a drive of size
// bytes (at most 2 TiB, the limit of an MBR): first the extended partition, then the link to the logical one, then
// the logical one itself, one sector each, so that each state in between is valid. It returns the partition's size
// in bytes, and whether it wrote.
func growMBR(m Medium, size int64, number int) (int64, bool, error) {
	mbr, err := readMBR(m, 0)
	if err != nil {
		return 0, false, err
	}
	const mib = (1 << 20) / sectorSize
	end := uint32(min(uint64(size/sectorSize), 1<<32-1) / mib * mib)
	ext := -1
	for i := range 4 {
		if entryOf(mbr, i).extended() {
			ext = i
		}
	}
	if ext < 0 {
		return 0, false, fmt.Errorf("%w: no extended partition", errBadMBR)
	}
	base := entryOf(mbr, ext).start()
	for i := range 4 {
		if e := entryOf(mbr, i); e.kind() != 0 && e.start() > base {
			return 0, false, fmt.Errorf("%w: partition %d is behind the extended one", errBadMBR, i+1)
		}
	}
	// Follow the links to the logical partition before anything is written.
	var prev, ebr []byte
	prevLBA, lba := uint32(0), base
	for n := 5; ; n++ {
		if ebr, err = readMBR(m, lba); err != nil {
			return 0, false, err
		}
		next := entryOf(ebr, 1)
		if n == number && next.extended() {
			return 0, false, fmt.Errorf("%w: partition %d is not the last", errBadMBR, number)
		}
		if n == number {
			break
		}
		if !next.extended() || n > number {
			return 0, false, fmt.Errorf("%w: no partition %d", errBadMBR, number)
		}
		prev, prevLBA = ebr, lba
		lba = base + next.start()
	}

	wrote := false
	// put sets the size of entry i of the table at lba so that it ends at the new end.
	put := func(table []byte, lba uint32, i int, start uint32) error {
		if start >= end {
			return fmt.Errorf("%w: partition starts at sector %d of %d", errBadMBR, start, end)
		}
		e := entryOf(table, i)
		if e.size() >= end-start {
			return nil
		}
		e.setSize(end - start)
		wrote = true
		if _, err := m.WriteAt(table, int64(lba)*sectorSize); err != nil {
			return fmt.Errorf("MBR: write sector %d: %w", lba, err)
		}
		if err := m.Sync(); err != nil {
			return fmt.Errorf("MBR: flush: %w", err)
		}
		return nil
	}
	if err := put(mbr, 0, ext, base); err != nil {
		return 0, wrote, err
	}
	if prev != nil {
		if err := put(prev, prevLBA, 1, lba); err != nil {
			return 0, wrote, err
		}
	}
	if err := put(ebr, lba, 0, lba+entryOf(ebr, 0).start()); err != nil {
		return 0, wrote, err
	}
	return int64(entryOf(ebr, 0).size()) * sectorSize, wrote, nil
}
