package firmware

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// Place is a run of bytes of a disk.
type Place struct {
	Off, Len int64
}

var errNoFile = errors.New("no such file")

// volume is a FAT file system on a disk.
type volume struct {
	r       io.ReaderAt
	start   int64 // of the partition on the disk, bytes
	size    int64
	bits    int
	fat     int64 // from start
	fatLen  int64
	rootAt  Place // of FAT12 and FAT16, from start
	root    int64 // cluster on FAT32
	data    int64
	cluster int64
	count   int64 // of clusters
}

// dirent is an entry of a folder.
type dirent struct {
	name  string
	dir   bool
	first int64
	size  int64
}

const maxFolderEntries = 4096

func openFAT(r io.ReaderAt, start, size int64) (*volume, error) {
	b := make([]byte, 512)
	if size < 512 {
		return nil, errors.New("no room for a FAT")
	}
	if _, err := r.ReadAt(b, start); err != nil {
		return nil, err
	}
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	if b[510] != 0x55 || b[511] != 0xaa || b[0] != 0xeb && b[0] != 0xe9 {
		return nil, errors.New("no boot sector")
	}
	bps, spc, reserved, fats, rootEntries, total, perFAT := u16(11), int64(b[13]), u16(14), int64(b[16]), u16(17), u16(19), u16(22)
	if total == 0 {
		total = u32(32)
	}
	v := &volume{r: r, start: start, size: size}
	if perFAT == 0 {
		perFAT, v.bits, v.root = u32(36), 32, u32(44)
	}
	if bps != 512 && bps != 4096 || spc == 0 || spc&(spc-1) != 0 || reserved == 0 || fats == 0 || fats > 2 || perFAT == 0 || total*bps > size {
		return nil, errors.New("a boot sector that is no FAT's")
	}
	v.cluster, v.fat, v.fatLen = bps*spc, reserved*bps, perFAT*bps
	v.rootAt = Place{v.fat + fats*v.fatLen, rootEntries * 32}
	v.data = v.rootAt.Off + (v.rootAt.Len+bps-1)/bps*bps
	v.count = (total*bps - v.data) / v.cluster
	if v.bits == 0 {
		v.bits = 16
		if v.count < 4085 {
			v.bits = 12
		}
	}
	if v.count < 1 || (v.count+2)*int64(v.bits)/8 > v.fatLen {
		return nil, errors.New("a FAT that is too short")
	}
	return v, nil
}

func (v *volume) read(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off+n > v.size {
		return nil, errors.New("beyond the volume")
	}
	b := make([]byte, n)
	_, err := v.r.ReadAt(b, v.start+off)
	return b, err
}

func (v *volume) next(c int64) (int64, error) {
	at := c * int64(v.bits) / 8
	b, err := v.read(v.fat+at, min(4, v.fatLen-at))
	if err != nil {
		return 0, err
	}
	b = append(b, 0, 0, 0, 0)
	switch n := binary.LittleEndian.Uint32(b); v.bits {
	case 12:
		return int64(n >> (4 * (c & 1)) & 0xfff), nil
	case 16:
		return int64(n & 0xffff), nil
	default:
		return int64(n & 0x0fffffff), nil
	}
}

// chain returns where the clusters from first on are, merged where they adjoin; at most limit bytes of them.
func (v *volume) chain(first, limit int64) ([]Place, error) {
	var ps []Place
	end := int64(1)<<min(v.bits, 28) - 8
	for c, n := first, int64(0); c < end && n*v.cluster < limit; n++ {
		if c < 2 || c >= v.count+2 || n > v.count {
			return nil, fmt.Errorf("a chain leads to cluster %d", c)
		}
		at := v.data + (c-2)*v.cluster
		if l := len(ps) - 1; l >= 0 && ps[l].Off+ps[l].Len == at {
			ps[l].Len += v.cluster
		} else {
			ps = append(ps, Place{at, v.cluster})
		}
		var err error
		if c, err = v.next(c); err != nil {
			return nil, err
		}
	}
	return ps, nil
}

func (v *volume) list(first int64) ([]dirent, error) {
	places := []Place{v.rootAt}
	if first != 0 || v.bits == 32 {
		if first == 0 {
			first = v.root
		}
		var err error
		if places, err = v.chain(first, maxFolderEntries*32); err != nil {
			return nil, err
		}
	}
	var out []dirent
	long := map[int]string{}
	for _, p := range places {
		b, err := v.read(p.Off, p.Len)
		if err != nil {
			return nil, err
		}
		for ; len(b) >= 32; b = b[32:] {
			switch {
			case b[0] == 0:
				return out, nil
			case b[0] == 0xe5:
				clear(long)
			case b[11] == 0x0f:
				var units []uint16
				for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
					u := binary.LittleEndian.Uint16(b[at:])
					if u == 0 {
						break
					}
					units = append(units, u)
				}
				long[int(b[0]&0x1f)] = string(utf16.Decode(units))
			default:
				if b[11]&0x08 == 0 {
					d := dirent{dir: b[11]&0x10 != 0, size: int64(binary.LittleEndian.Uint32(b[28:]))}
					d.first = int64(binary.LittleEndian.Uint16(b[26:]))
					if v.bits == 32 {
						d.first |= int64(binary.LittleEndian.Uint16(b[20:])) << 16
					}
					for i := 1; long[i] != ""; i++ {
						d.name += long[i]
					}
					if d.name == "" {
						d.name = strings.TrimRight(string(b[:8]), " ")
						if ext := strings.TrimRight(string(b[8:11]), " "); ext != "" {
							d.name += "." + ext
						}
					}
					out = append(out, d)
				}
				clear(long)
			}
		}
	}
	return out, nil
}

// find finds a file or folder by its path, whatever the case.
func (v *volume) find(path string) (dirent, error) {
	at := dirent{dir: true}
	for part := range strings.SplitSeq(strings.Trim(strings.ReplaceAll(path, `\`, "/"), "/"), "/") {
		if !at.dir {
			return at, fmt.Errorf("%s: %w", path, errNoFile)
		}
		ents, err := v.list(at.first)
		if err != nil {
			return at, fmt.Errorf("%s: %w", path, err)
		}
		found := false
		for _, e := range ents {
			if strings.EqualFold(e.name, part) {
				at, found = e, true
				break
			}
		}
		if !found {
			return at, fmt.Errorf("%s: %w", path, errNoFile)
		}
	}
	return at, nil
}

func (v *volume) has(path string) bool {
	d, err := v.find(path)
	return err == nil && !d.dir && d.size > 0
}

// places returns where on the disk a file is.
func (v *volume) places(path string) ([]Place, error) {
	d, err := v.find(path)
	if err != nil {
		return nil, err
	}
	if d.dir {
		return nil, fmt.Errorf("%s: a folder", path)
	}
	if d.size == 0 {
		return nil, nil
	}
	ps, err := v.chain(d.first, d.size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	left := d.size
	for i := range ps {
		ps[i].Off += v.start
		ps[i].Len = min(ps[i].Len, left)
		left -= ps[i].Len
	}
	if left > 0 {
		return nil, fmt.Errorf("%s: %d bytes of %d are missing", path, left, d.size)
	}
	return ps, nil
}

// file reads at most limit bytes of a file.
func (v *volume) file(path string, limit int64) ([]byte, error) {
	ps, err := v.places(path)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, p := range ps {
		n := min(p.Len, limit-int64(len(out)))
		b, err := v.read(p.Off-v.start, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, b...)
	}
	return out, nil
}
