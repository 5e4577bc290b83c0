package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
)

// Types of a folder's entries: exFAT section 7, "Directory Entry Definitions".
const (
	exLabel  = 0x83
	exFile   = 0x85
	exStream = 0xc0
	exName   = 0xc1

	exSecondary = 0xc0 // set in those that belong to the file before them
)

const (
	exMaxClusters = 1<<32 - 11 // exFAT section 3.1.9
	exChainEnd    = 0xffffffff // exFAT section 4.1
	exMaxFolder   = 256 << 20  // bytes: exFAT section 7.6.6
)

// isExFAT tells whether a boot sector says that it is of exFAT: section 3.1.
func isExFAT(b []byte) bool {
	mustBeZero := true
	for _, c := range b[11:64] { // where FAT has its fields
		mustBeZero = mustBeZero && c == 0
	}
	return mustBeZero && string(b[:11]) == "\xeb\x76\x90EXFAT   " && b[510] == 0x55 && b[511] == 0xaa
}

// openExFAT goes on with the boot sector b: exFAT section 3, "Main and Backup Boot Regions".
func openExFAT(r io.ReaderAt, b []byte) (*volume, error) {
	le := binary.LittleEndian
	shift, perCluster, fats := b[108], b[109], int64(b[110])
	if shift < 9 || shift > 12 || perCluster > 25-shift || fats < 1 || fats > 2 || b[105] != 1 {
		return nil, ErrNotFAT
	}
	sector, total := int64(1)<<shift, int64(min(le.Uint64(b[72:]), 1<<48))
	table, size, heap, clusters := int64(le.Uint32(b[80:])), int64(le.Uint32(b[84:])), int64(le.Uint32(b[88:])), int64(le.Uint32(b[92:]))
	active := int64(b[106] & 1)
	if table < 24 || heap < table+fats*size || active >= fats || clusters < 1 || clusters > exMaxClusters ||
		clusters > (total-heap)>>perCluster || (clusters+2)*4 > size*sector {
		return nil, fmt.Errorf("%w: its areas do not fit", ErrDamaged)
	}
	if err := checkBoot(r, sector); err != nil {
		return nil, err
	}
	return &volume{
		r: r, ex: true, bits: 32, cacheAt: -1, table: (table + active*size) * sector, tableLen: size * sector,
		root: le.Uint32(b[96:]), data: heap * sector, cluster: sector << perCluster, last: uint32(clusters + 1),
	}, nil
}

// checkBoot compares the checksum of the first eleven sectors with what the twelfth says: exFAT section 3.4.
func checkBoot(r io.ReaderAt, sector int64) error {
	b := make([]byte, 12*sector)
	if err := readFull(r, b, 0); err != nil {
		return err
	}
	var sum uint32
	for i, c := range b[:11*sector] {
		if i != 106 && i != 107 && i != 112 { // flags, and how full it is
			sum = sum<<31 | sum>>1
			sum += uint32(c)
		}
	}
	if binary.LittleEndian.Uint32(b[11*sector:]) != sum {
		return fmt.Errorf("%w: wrong checksum of its boot sectors", ErrDamaged)
	}
	return nil
}

// folderEx returns where a folder's entries are.
func (v *volume) folderEx(in entry) ([]Extent, error) {
	switch {
	case in.cluster == v.root: // no entry tells its size
		return v.chain(in.cluster, max(1, maxFolder/v.cluster), false)
	case in.size == 0:
		return nil, nil
	case in.size > exMaxFolder:
		return nil, fmt.Errorf("%w: a folder of %d bytes", ErrDamaged, in.size)
	}
	return v.extents(in)
}

// lookupEx finds a name in a folder: exFAT section 6.3, "Generic Primary DirectoryEntry Template".
func (v *volume) lookupEx(in entry, name string) (entry, error) {
	extents, err := v.folderEx(in)
	if err != nil {
		return entry{}, err
	}
	var set []byte // the entries of a file
	var found *entry
	var bad error
	want := 0 // bytes of set
	err = v.entries(extents, func(b []byte) bool {
		switch {
		case b[0] == exFile:
			set, want = append(set[:0], b...), 32*(1+int(b[1]))
		case b[0]&exSecondary != exSecondary:
			want = 0
		case len(set) < want:
			set = append(set, b...)
		}
		if want > 0 && len(set) == want {
			found, bad = match(set, name)
			want = 0
		}
		return found == nil && bad == nil
	})
	switch {
	case err != nil:
		return entry{}, err
	case bad != nil:
		return entry{}, bad
	case found == nil:
		return entry{}, ErrNotFound
	}
	return *found, nil
}

// match reads the entries of a file, 32 bytes each, if they are whole and it has that name: exFAT sections 7.4, 7.6 and 7.7.
func match(set []byte, name string) (*entry, error) {
	le := binary.LittleEndian
	if len(set) < 64 || set[32] != exStream || name == "" || setChecksum(set) != le.Uint16(set[2:]) {
		return nil, nil
	}
	stream := set[32:64]
	var units []uint16
	for at := 64; at < len(set) && set[at] == exName; at += 32 {
		for i := 2; i < 32; i += 2 {
			units = append(units, le.Uint16(set[at+i:]))
		}
	}
	length := int(stream[3])
	if len(units) < length || !strings.EqualFold(string(utf16.Decode(units[:length])), name) {
		return nil, nil
	}
	const folder, noChain = 0x10, 2
	size, written := le.Uint64(stream[24:]), le.Uint64(stream[8:])
	if written != size {
		return nil, fmt.Errorf("%w: %d of %d bytes of %s were written", ErrDamaged, written, size, name)
	}
	return &entry{
		folder: le.Uint16(set[4:])&folder != 0, cluster: le.Uint32(stream[20:]),
		size: int64(min(size, 1<<62)), run: stream[1]&noChain != 0,
	}, nil
}

// setChecksum is the checksum of a file's entries: exFAT section 6.3.3.
func setChecksum(set []byte) uint16 {
	var sum uint16
	for i, c := range set {
		if i != 2 && i != 3 { // itself
			sum = sum<<15 | sum>>1
			sum += uint16(c)
		}
	}
	return sum
}

// labelEx is the label in the root folder: exFAT section 7.3.
func (v *volume) labelEx() (string, error) {
	extents, err := v.folderEx(entry{cluster: v.root})
	if err != nil {
		return "", err
	}
	var label []uint16
	err = v.entries(extents, func(b []byte) bool {
		if b[0] != exLabel {
			return true
		}
		for i := range min(int(b[1]), 11) {
			label = append(label, binary.LittleEndian.Uint16(b[2+2*i:]))
		}
		return false
	})
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
			return -1
		}
		return c
	}, string(utf16.Decode(label)))), err
}
