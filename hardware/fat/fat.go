// Package fat finds files on FAT12, FAT16, FAT32 and exFAT volumes and says where on the medium their bytes lie, so that a file
// can be read without a mount, and be overwritten in place where no power cut can hurt the file system around it.
//
// It follows Microsoft's "FAT: General Overview of On-Disk Format", version 1.03 (fatgen103), and "exFAT file system
// specification", revision 1.00 (exFAT). It knows long and short names and compares them without regard to case, by Unicode's
// simple folding: an exFAT volume's own up-case table, which differs outside of ASCII at most, is not read; short names outside of
// ASCII match nothing, as their code page is not recorded. Of a folder it reads 2 MiB, of a file 4 GiB at most. It is no
// checker: it refuses what it can't follow. Create alone writes to the file system's own structures. What it reads may be hostile:
// work and memory are bounded whatever the volume says.
package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// What Find fails with, beside errors of reading.
var (
	ErrNotFound = errors.New("no such file")
	ErrNotFAT   = errors.New("not a FAT volume")
	ErrDamaged  = errors.New("the FAT volume is damaged")
	ErrTooLarge = errors.New("too large")
)

// Bounds.
const (
	maxFolder  = 1 << 21 // bytes: 65,536 entries, as many as the specification allows
	maxExtents = 1 << 16
	maxFile    = 1<<32 - 1 // bytes, as many as an entry can say
)

// Extent is a run of bytes.
type Extent struct {
	Offset int64 // bytes from the start of the volume
	Length int64
}

// File is where a file's bytes are.
type File struct {
	Size    int64
	Extents []Extent // in the order of the file; their lengths add up to Size
}

// Find finds the file of that name in the root folder of the volume in r. The name may lead through folders, parted by
// "/". It fails with ErrNotFound, ErrNotFAT, ErrDamaged or ErrTooLarge, or with what r fails with.
func Find(r io.ReaderAt, name string) (File, error) { return find(r, name, maxFile) }

func find(r io.ReaderAt, name string, limit int64) (File, error) {
	v, err := open(r)
	if err != nil {
		return File{}, fmt.Errorf("find %s: %w", name, err)
	}
	at := entry{folder: true, cluster: v.root}
	for part := range strings.SplitSeq(name, "/") {
		if !at.folder {
			return File{}, fmt.Errorf("find %s: %w", name, ErrNotFound)
		}
		if at, err = v.lookup(at, part); err != nil {
			return File{}, fmt.Errorf("find %s: %w", name, err)
		}
	}
	if at.folder {
		return File{}, fmt.Errorf("find %s: it is a folder: %w", name, ErrNotFound)
	}
	f := File{Size: at.size}
	if f.Size > limit {
		return File{}, fmt.Errorf("find %s: %d bytes are %w, at most %d are allowed", name, f.Size, ErrTooLarge, limit)
	}
	if f.Size == 0 {
		return f, nil
	}
	if f.Extents, err = v.extents(at); err != nil {
		return File{}, fmt.Errorf("find %s: %w", name, err)
	}
	f.Extents[len(f.Extents)-1].Length -= (v.cluster - f.Size%v.cluster) % v.cluster
	return f, nil
}

// ReadFile returns the content of a file that Find finds, or ErrTooLarge where it has more than limit bytes.
func ReadFile(r io.ReaderAt, name string, limit int64) ([]byte, error) {
	f, err := find(r, name, limit)
	if err != nil {
		return nil, err
	}
	b := make([]byte, f.Size)
	at := b
	for _, e := range f.Extents {
		if err := readFull(r, at[:e.Length], e.Offset); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		at = at[e.Length:]
	}
	return b, nil
}

// Overwrite writes content over the first bytes of f, which Find found on the same volume. The file keeps its size, so
// content must not be longer, and what lies behind it stays. The caller flushes w.
func Overwrite(w io.WriterAt, f File, content []byte) error {
	if int64(len(content)) > f.Size {
		return fmt.Errorf("overwrite a file of %d bytes with %d: %w", f.Size, len(content), ErrTooLarge)
	}
	for _, e := range f.Extents {
		n := min(e.Length, int64(len(content)))
		if n == 0 {
			break
		}
		if _, err := w.WriteAt(content[:n], e.Offset); err != nil {
			return fmt.Errorf("overwrite: %w", err)
		}
		content = content[n:]
	}
	return nil
}

// rootFixed stands for the root folder of FAT12 and FAT16, which has no clusters.
const rootFixed = 0

// volume is what the boot sector says, in bytes.
type volume struct {
	r        io.ReaderAt
	ex       bool  // exFAT
	bits     int   // of a number in the FAT: 12, 16 or 32
	table    int64 // offset of the active FAT
	tableLen int64
	fixed    Extent // root folder of FAT12 and FAT16
	root     uint32 // its cluster on FAT32 and exFAT, else rootFixed
	data     int64  // offset of cluster 2
	cluster  int64  // size
	last     uint32 // number of the last cluster

	cache   [512]byte // of the FAT
	cacheAt int64     // offset; -1 if empty
	cached  int
}

// open reads the boot sector: fatgen103, "Boot Sector and BPB" and "FAT Type Determination".
func open(r io.ReaderAt) (*volume, error) {
	b := make([]byte, 512)
	if err := readFull(r, b, 0); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrNotFAT
		}
		return nil, err
	}
	if isExFAT(b) {
		return openExFAT(r, b)
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, fats := int64(le.Uint16(b[14:])), int64(b[16])
	total, size := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	wide := size == 0
	if wide {
		size = int64(le.Uint32(b[36:]))
	}
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	if b[0] != 0xeb && b[0] != 0xe9 || b[510] != 0x55 || b[511] != 0xaa || !power(sector) || sector < 512 || sector > 4096 ||
		!power(perCluster) || reserved == 0 || fats == 0 || size == 0 {
		return nil, ErrNotFAT
	}
	v := &volume{r: r, cacheAt: -1, cluster: perCluster * sector, table: reserved * sector, tableLen: size * sector}
	rootLen := int64(le.Uint16(b[17:])) * 32
	v.fixed = Extent{Offset: v.table + fats*v.tableLen, Length: rootLen}
	rootSectors := (rootLen + sector - 1) / sector
	v.data = v.fixed.Offset + rootSectors*sector
	clusters := (total*sector - v.data) / v.cluster
	if clusters < 1 {
		return nil, ErrNotFAT
	}
	// The specification tells FAT16 from FAT32 by the number of clusters alone, Linux by the field of the size. Both agree
	// on what is made as the specification says; small volumes that are FAT32 all the same, tools of Linux do make.
	switch {
	case wide:
		v.bits = 32
	case clusters < 4085:
		v.bits = 12
	case clusters < 65525:
		v.bits = 16
	default:
		return nil, ErrNotFAT
	}
	if v.bits == 32 {
		v.root = le.Uint32(b[44:])
		if v.root == rootFixed || rootLen != 0 {
			return nil, ErrNotFAT
		}
		// Unless bit 7 of the flags is clear, which says that all FATs are the same, bits 0 to 3 name the active one.
		if flags := le.Uint16(b[40:]); flags&0x80 != 0 {
			active := int64(flags & 0xf)
			if active >= fats {
				return nil, ErrDamaged
			}
			v.table += active * v.tableLen
		}
	}
	// The highest numbers are no clusters but marks.
	v.last = uint32(min(clusters+1, 0x0ffffff6))
	if (int64(v.last)+1)*int64(v.bits) > v.tableLen*8 {
		return nil, ErrDamaged
	}
	return v, nil
}

// next returns what the FAT says of a cluster, and whether that is the end of its chain: fatgen103, "FAT Data Structure".
func (v *volume) next(n uint32) (next uint32, end bool, err error) {
	at := int64(n) * int64(v.bits) / 8
	lo, err := v.tableByte(at)
	if err != nil {
		return 0, false, err
	}
	next = uint32(lo)
	for i := int64(1); i < int64(v.bits+7)/8; i++ {
		b, err := v.tableByte(at + i)
		if err != nil {
			return 0, false, err
		}
		next |= uint32(b) << (8 * i)
	}
	switch {
	case v.ex:
		return next, next == exChainEnd, nil
	case v.bits == 12:
		if n%2 == 1 {
			next >>= 4
		}
		next &= 0xfff
		return next, next >= 0xff8, nil
	case v.bits == 16:
		return next, next >= 0xfff8, nil
	}
	next &= 0x0fffffff
	return next, next >= 0x0ffffff8, nil
}

func (v *volume) tableByte(at int64) (byte, error) {
	if start := at &^ int64(len(v.cache)-1); start != v.cacheAt {
		n := min(int64(len(v.cache)), v.tableLen-start)
		if n <= 0 {
			return 0, ErrDamaged
		}
		v.cacheAt = -1
		if err := readFull(v.r, v.cache[:n], v.table+start); err != nil {
			return 0, err
		}
		v.cacheAt, v.cached = start, int(n)
	}
	if i := int(at - v.cacheAt); i < v.cached {
		return v.cache[i], nil
	}
	return 0, ErrDamaged
}

// chain follows a chain for at most n clusters. With exact set, it must have as many; that also means that it visits none
// twice.
func (v *volume) chain(first uint32, n int64, exact bool) ([]Extent, error) {
	if exact && n > int64(v.last)-1 {
		return nil, fmt.Errorf("%w: a file is larger than the volume", ErrDamaged)
	}
	var es []Extent
	for at, i := first, int64(0); ; {
		if at < 2 || at > v.last {
			return nil, fmt.Errorf("%w: cluster %d in a chain", ErrDamaged, at)
		}
		offset := v.data + int64(at-2)*v.cluster
		if l := len(es) - 1; l >= 0 && es[l].Offset+es[l].Length == offset {
			es[l].Length += v.cluster
		} else if len(es) == maxExtents {
			return nil, fmt.Errorf("more than %d pieces are %w", maxExtents, ErrTooLarge)
		} else {
			es = append(es, Extent{offset, v.cluster})
		}
		next, end, err := v.next(at)
		if err != nil {
			return nil, err
		}
		i++
		switch {
		case end && exact && i < n:
			return nil, fmt.Errorf("%w: a file is shorter than its entry says", ErrDamaged)
		case end:
			return es, nil
		case i == n && exact:
			return nil, fmt.Errorf("%w: a file is longer than its entry says", ErrDamaged)
		case i == n:
			return es, nil
		}
		at = next
	}
}

// entry is a folder's entry, as far as needed.
type entry struct {
	folder  bool
	cluster uint32
	size    int64 // of a folder on exFAT only
	run     bool  // its clusters follow one another, and the FAT says nothing of them: exFAT
}

// extents are the whole clusters of an entry with a size.
func (v *volume) extents(e entry) ([]Extent, error) {
	n := (e.size + v.cluster - 1) / v.cluster
	if !e.run {
		return v.chain(e.cluster, n, true)
	}
	if e.cluster < 2 || e.cluster > v.last || n > int64(v.last-e.cluster)+1 {
		return nil, fmt.Errorf("%w: %d clusters from %d on", ErrDamaged, n, e.cluster)
	}
	return []Extent{{v.data + int64(e.cluster-2)*v.cluster, n * v.cluster}}, nil
}

// lookup finds a name in a folder.
func (v *volume) lookup(in entry, name string) (entry, error) {
	if v.ex {
		return v.lookupEx(in, name)
	}
	extents := []Extent{v.fixed}
	if in.cluster != rootFixed {
		var err error
		if extents, err = v.chain(in.cluster, max(1, maxFolder/v.cluster), false); err != nil {
			return entry{}, err
		}
	}
	var long longName
	var found entry
	ok := false
	err := v.entries(extents, func(b []byte) bool {
		const volumeID, folder, longEntry = 0x08, 0x10, 0x0f
		attr := b[11]
		switch {
		case b[0] == 0xe5: // deleted
			long = longName{}
		case attr&0x3f == longEntry:
			long.add(b)
		case attr&volumeID != 0:
			long = longName{}
		default:
			if name != "" && (strings.EqualFold(long.of(b), name) || strings.EqualFold(shortName(b), name)) {
				le := binary.LittleEndian
				found = entry{folder: attr&folder != 0, cluster: uint32(le.Uint16(b[26:])), size: int64(le.Uint32(b[28:]))}
				if v.bits == 32 {
					found.cluster |= uint32(le.Uint16(b[20:])) << 16
				}
				if found.folder && found.cluster == 0 { // ".." of a folder in the root
					found.cluster = v.root
				}
				ok = true
			}
			long = longName{}
		}
		return !ok
	})
	if err == nil && !ok {
		err = ErrNotFound
	}
	return found, err
}

// entries calls each with the entries of a folder, 32 bytes each, until it returns false, the first that was never used or
// maxFolder.
func (v *volume) entries(extents []Extent, each func(b []byte) bool) error {
	buf, left := make([]byte, 4096), int64(maxFolder)
	for _, e := range extents {
		for at := int64(0); at < e.Length && left > 0; {
			buf := buf[:min(e.Length-at, int64(len(buf)))]
			if err := readFull(v.r, buf, e.Offset+at); err != nil {
				return err
			}
			at += int64(len(buf))
			left -= int64(len(buf))
			for b := range slices.Chunk(buf, 32) {
				if len(b) < 32 || b[0] == 0 || !each(b) {
					return nil
				}
			}
		}
	}
	return nil
}

// shortName is the name of 8 and 3 characters, "" if it is not in ASCII.
func shortName(b []byte) string {
	for _, c := range b[:11] {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	base, ext := strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:11]), " ")
	if ext != "" {
		return base + "." + ext
	}
	return base
}

// longName collects the entries that come before a short one, last part first: fatgen103, "Long Directory Entries".
type longName struct {
	parts [][]uint16 // last one first
	want  int        // number of the next entry
	sum   byte
}

func (l *longName) add(b []byte) {
	order, sum := int(b[0]), b[13]
	if order&0x40 != 0 {
		*l = longName{want: order &^ 0x40, sum: sum}
		if l.want < 1 || l.want > 20 {
			*l = longName{}
			return
		}
	} else if l.want == 0 || order != l.want || sum != l.sum {
		*l = longName{}
		return
	}
	var part []uint16
	for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		part = append(part, binary.LittleEndian.Uint16(b[at:]))
	}
	l.parts = append(l.parts, part)
	l.want--
}

// of returns the collected name if it is complete and belongs to the short entry b, else "".
func (l *longName) of(b []byte) string {
	if l.want != 0 || len(l.parts) == 0 {
		return ""
	}
	var sum byte
	for _, c := range b[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	if sum != l.sum {
		return ""
	}
	var name []uint16
	for _, p := range slices.Backward(l.parts) {
		name = append(name, p...)
	}
	if i := slices.Index(name, 0); i >= 0 {
		name = name[:i]
	}
	return string(utf16.Decode(name))
}

// readFull reads all of b, or fails; the end of r is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}

// End is the offset behind the last cluster of a FAT volume that is in use: what lies there and beyond belongs to no file. An
// exFAT volume, whose FAT doesn't tell, is ErrNotFAT.
func End(r io.ReaderAt) (int64, error) {
	v, err := open(r)
	if err == nil && v.ex {
		err = ErrNotFAT
	}
	if err != nil {
		return 0, fmt.Errorf("end of the volume: %w", err)
	}
	end := v.data
	for n := uint32(2); n <= v.last; n++ {
		next, _, err := v.next(n)
		if err != nil {
			return 0, fmt.Errorf("end of the volume: %w", err)
		}
		if next != 0 {
			end = v.data + int64(n-1)*v.cluster
		}
	}
	return end, nil
}
