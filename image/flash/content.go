package flash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// Content is what a drive holds, as far as the first bytes of its parts tell.
type Content struct {
	Croft      bool   // it was flashed with Croft
	Table      string // "GPT", "MBR", or "" for none
	FileSystem string // of the whole drive, where it has no partition table
	Label      string
	Partitions []Part // at most maxParts
}

// Part is a partition.
type Part struct {
	Number     int
	Size       int64
	FileSystem string // such as "FAT32", "ext4"; "" if it is not known
	Label      string
}

const maxParts = 32

// String says it in a few words, one line.
func (c Content) String() string {
	one := func(fs, label string) string {
		if fs == "" {
			fs = "unknown"
		}
		if label != "" {
			fs += fmt.Sprintf(" %q", label)
		}
		return fs
	}
	if len(c.Partitions) == 0 {
		switch {
		case c.FileSystem != "":
			return one(c.FileSystem, c.Label)
		case c.Table != "":
			return "no partitions"
		}
		return "nothing that is known"
	}
	var parts []string
	for _, p := range c.Partitions {
		parts = append(parts, one(p.FileSystem, p.Label)+" "+Bytes(p.Size))
	}
	s := strings.Join(parts, ", ")
	if c.Croft {
		return "a Croft (" + s + ")"
	}
	return s
}

// Look recognises the partition table and the file systems on a drive of size bytes. What it reads may be anything; work and
// memory are bounded.
func Look(r io.ReaderAt, size int64) (Content, error) {
	head, err := readUpTo(r, 0, 34*512)
	if err != nil {
		return Content{}, err
	}
	var c Content
	if c.FileSystem, c.Label = fileSystem(r, 0, size); c.FileSystem != "" {
		return c, nil
	}
	if len(head) < 1024 || head[510] != 0x55 || head[511] != 0xaa {
		return c, nil
	}
	if string(head[512:520]) == "EFI PART" {
		c.Table = "GPT"
		c.gpt(r, head, size)
		return c, nil
	}
	c.Table = "MBR"
	c.mbr(r, head, size)
	c.Croft = len(c.Partitions) > 0 && c.Partitions[0].Label == "CROFT"
	return c, nil
}

// add takes up a partition that lies on the drive.
func (c *Content) add(r io.ReaderAt, number int, start, length, size int64) {
	if start <= 0 || length <= 0 || start >= size || len(c.Partitions) == maxParts {
		return
	}
	p := Part{Number: number, Size: length}
	p.FileSystem, p.Label = fileSystem(r, start, min(length, size-start))
	c.Partitions = append(c.Partitions, p)
}

// gpt reads the entries as UEFI 2.10, section 5.3, of the usual size and place.
func (c *Content) gpt(r io.ReaderAt, head []byte, size int64) {
	le := binary.LittleEndian
	const maxSector = 1 << 50 / 512
	for i := 0; 1024+(i+1)*128 <= len(head); i++ {
		e := head[1024+i*128:][:128]
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if len(bytes.Trim(e[:16], "\x00")) == 0 || first > last || last > maxSector {
			continue
		}
		var name []uint16
		for j := 56; j < 128; j += 2 {
			if u := le.Uint16(e[j:]); u != 0 {
				name = append(name, u)
			}
		}
		c.Croft = c.Croft || string(utf16.Decode(name)) == "croft-root-a"
		c.add(r, i+1, int64(first)*512, int64(last-first+1)*512, size)
	}
}

// mbr reads the four entries and follows the chain of logical partitions.
func (c *Content) mbr(r io.ReaderAt, head []byte, size int64) {
	entry := func(b []byte, i int) (kind byte, start, length int64) {
		e := b[446+16*i:]
		return e[4], int64(binary.LittleEndian.Uint32(e[8:])) * 512, int64(binary.LittleEndian.Uint32(e[12:])) * 512
	}
	extended := func(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }
	for i := range 4 {
		kind, start, length := entry(head, i)
		if kind == 0 {
			continue
		}
		if !extended(kind) {
			c.add(r, i+1, start, length, size)
			continue
		}
		at := start
		for n := 5; n < 5+maxParts; n++ {
			b, err := readUpTo(r, at, 512)
			if err != nil || len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
				break
			}
			if kind, offset, length := entry(b, 0); kind != 0 {
				c.add(r, n, at+offset, length, size)
			}
			kind, offset, _ := entry(b, 1)
			if !extended(kind) || offset == 0 {
				break
			}
			at = start + offset
		}
	}
}

// magics are where file systems say what they are: blkid knows the same places.
var magics = []struct {
	name          string
	at            int
	magic         string
	label, labelN int
}{
	{"LUKS (encrypted)", 0, "LUKS\xba\xbe", 0, 0},
	{"NTFS", 3, "NTFS    ", 0, 0},
	{"exFAT", 3, "EXFAT   ", 0, 0},
	{"XFS", 0, "XFSB", 108, 12},
	{"squashfs", 0, "hsqs", 0, 0},
	{"APFS", 32, "NXSB", 0, 0},
	{"LVM", 512 + 24, "LVM2 001", 0, 0},
	{"F2FS", 1024, "\x10\x20\xf5\xf2", 0, 0},
	{"HFS+", 1024, "H+\x00\x04", 0, 0},
	{"HFS+", 1024, "HX\x00\x05", 0, 0},
	{"swap", 4086, "SWAPSPACE2", 1052, 16},
	{"ISO 9660", 32769, "CD001", 32808, 32},
	{"btrfs", 65536 + 64, "_BHRfS_M", 65536 + 299, 256},
}

// fileSystem recognises what begins at start.
func fileSystem(r io.ReaderAt, start, size int64) (name, label string) {
	b, err := readUpTo(r, start, min(size, 66*1024))
	if err != nil {
		return "", ""
	}
	text := func(at, n int) string {
		if at+n > len(b) {
			return ""
		}
		s, _, _ := bytes.Cut(b[at:at+n], []byte{0})
		return clean(strings.ToValidUTF8(string(s), ""))
	}
	for _, m := range magics {
		if m.at+len(m.magic) <= len(b) && string(b[m.at:m.at+len(m.magic)]) == m.magic {
			return m.name, text(m.label, m.labelN)
		}
	}
	le := binary.LittleEndian
	if len(b) >= 2048 && le.Uint16(b[1024+56:]) == 0xef53 {
		// The features tell them apart: extents or 64bit, then a journal (Documentation/filesystems/ext4/super.rst).
		name = "ext2"
		if le.Uint32(b[1024+92:])&0x4 != 0 {
			name = "ext3"
		}
		if le.Uint32(b[1024+96:])&(0x40|0x80) != 0 {
			name = "ext4"
		}
		return name, text(1024+120, 16)
	}
	if len(b) >= 512 && b[510] == 0x55 && b[511] == 0xaa {
		// fatgen103: the type at these places is only informative, but an MBR has nothing like it.
		for _, at := range []int{54, 82} {
			if t := string(b[at : at+8]); t == "FAT12   " || t == "FAT16   " || t == "FAT32   " {
				label = text(at-11, 11)
				if label == "NO NAME" {
					label = ""
				}
				return strings.TrimSpace(t), label
			}
		}
	}
	return "", ""
}

// readUpTo reads at most n bytes; fewer at the end.
func readUpTo(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, max(0, n))
	got, err := r.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:got], nil
}
