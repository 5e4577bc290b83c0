package firmware

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
)

// formatFAT makes a FAT32 volume of size bytes with clusters of one sector, however few: mtools takes so small ones for FAT12.
// Files lie in the order of their paths, each in one piece.
func formatFAT(size int64, files map[string][]byte) []byte {
	const sector, reserved = 512, 8
	le := binary.LittleEndian
	total := size / sector
	perFAT := (total*4 + sector - 1) / sector
	b := make([]byte, size)
	copy(b, "\xeb\x58\x90LAB     ")
	le.PutUint16(b[11:], sector)
	b[13] = 1
	le.PutUint16(b[14:], reserved)
	b[16], b[21] = 2, 0xf8
	le.PutUint32(b[32:], uint32(total))
	le.PutUint32(b[36:], uint32(perFAT))
	le.PutUint32(b[44:], 2) // root folder
	le.PutUint16(b[48:], 1)
	le.PutUint16(b[50:], 6)
	b[64], b[66] = 0x80, 0x29
	copy(b[71:], "LAB        FAT32   ")
	b[510], b[511] = 0x55, 0xaa
	fat := make([]byte, perFAT*sector)
	le.PutUint32(fat, 0x0ffffff8)
	le.PutUint32(fat[4:], 0x0fffffff)
	data := reserved + 2*perFAT
	next := int64(2)
	take := func(content []byte) int64 {
		first, n := next, max(1, (int64(len(content))+sector-1)/sector)
		if (data+first-2+n)*sector > size {
			panic(fmt.Sprintf("the lab's files do not fit into %d bytes", size))
		}
		for i := range n {
			le.PutUint32(fat[(first+i)*4:], uint32(first+i+1))
		}
		le.PutUint32(fat[(first+n-1)*4:], 0x0fffffff)
		copy(b[(data+first-2)*sector:], content)
		next += n
		return first
	}
	// Folders first, so that their clusters are known: each has room for 48 entries.
	const folder = 48 * 32
	tree := map[string][]string{"": nil}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for at := name; at != ""; {
			parent, base := path.Split(at)
			parent = strings.TrimSuffix(parent, "/")
			if !slices.Contains(tree[parent], base) {
				tree[parent] = append(tree[parent], base)
			}
			at = parent
		}
	}
	var dirs []string
	for dir := range tree {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	first := map[string]int64{}
	for _, dir := range dirs {
		first[dir] = take(make([]byte, folder))
	}
	for _, name := range names {
		first[name] = take(files[name])
	}
	for _, dir := range dirs {
		at := b[(data+first[dir]-2)*sector:][:folder]
		if dir != "" {
			parent := strings.TrimSuffix(path.Dir(dir), ".")
			up := first[parent]
			if parent == "" {
				up = 0
			}
			at = putEntry(putEntry(at, ".          ", 0x10, first[dir], 0), "..         ", 0x10, up, 0)
		}
		for i, base := range tree[dir] {
			full := path.Join(dir, base)
			content, isFile := files[full]
			attr := byte(0x10)
			if isFile {
				attr = 0x20
			}
			short := fmt.Sprintf("FILE~%-3dLAB", i)
			at = putEntry(putLong(at, base, short), short, attr, first[full], len(content))
		}
	}
	info := b[sector:]
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], uint32(total-data-(next-2)))
	le.PutUint32(info[492:], uint32(next-1))
	info[510], info[511] = 0x55, 0xaa
	copy(b[6*sector:], b[:2*sector])
	copy(b[reserved*sector:], fat)
	copy(b[(reserved+perFAT)*sector:], fat)
	return b
}

func putEntry(at []byte, short string, attr byte, first int64, size int) []byte {
	le := binary.LittleEndian
	copy(at, short)
	at[11] = attr
	le.PutUint16(at[20:], uint16(first>>16))
	le.PutUint16(at[26:], uint16(first))
	le.PutUint16(at[24:], 0x5c21)
	le.PutUint16(at[16:], 0x5c21)
	le.PutUint32(at[28:], uint32(size))
	return at[32:]
}

func putLong(at []byte, name, short string) []byte {
	sum := byte(0)
	for i := range 11 {
		sum = sum>>1 | sum<<7
		sum += short[i]
	}
	units := append(utf16.Encode([]rune(name)), 0)
	for len(units)%13 != 0 {
		units = append(units, 0xffff)
	}
	parts := len(units) / 13
	for i := parts; i >= 1; i-- {
		at[0] = byte(i)
		if i == parts {
			at[0] |= 0x40
		}
		at[11], at[13] = 0x0f, sum
		for j, place := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			binary.LittleEndian.PutUint16(at[place:], units[(i-1)*13+j])
		}
		at = at[32:]
	}
	return at
}
