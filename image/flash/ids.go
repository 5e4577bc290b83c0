package flash

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/updater/slots"
)

// Images of one release carry the same ids, and the kernel finds its root by one of them: with two such drives in a machine,
// which one it takes is chance. So each flashed drive gets ids of its own, in the partition table and in the kernel's command
// line.

// The parts of a GPT: UEFI 2.10, section 5.3. Images have 128 entries of 128 bytes.
const (
	sector    = layout.SectorSize
	gptHeader = 92 // bytes
	gptArray  = 128 * 128
	gptBackup = gptArray + sector // bytes at the end of a drive
)

// personalise gives the drive, whose head is still in memory, ids of its own, and a GPT its copy at the end of the drive.
func (w *writer) personalise() error {
	l := w.img.Layout
	root := l.Root[layout.SlotA]
	was, now := l.PARTUUID(root), ""
	if l.Table == layout.MBR {
		// Zero would stand for none (Linux, block/partitions/msdos.c).
		var id [4]byte
		for id == [4]byte{} {
			rand.Read(id[:])
		}
		binary.LittleEndian.PutUint32(w.head[440:], binary.BigEndian.Uint32(id[:]))
		now = fmt.Sprintf("%x-%02x", id, root)
	} else {
		id, err := w.renewGPT(root)
		if err != nil {
			return err
		}
		now = id
	}
	boot := l.Partition(l.Boot[layout.SlotA])
	volume, name := window{w, boot.Start, boot.Size}, slots.CmdlineFile(l.Table, layout.SlotA)
	f, err := fat.Find(volume, name)
	if err != nil {
		return err
	}
	content, err := fat.ReadFile(volume, name, 16<<10)
	if err != nil {
		return err
	}
	if len(was) != len(now) || bytes.Count(content, []byte("root=PARTUUID="+was)) != 1 {
		return fmt.Errorf("%s is %w: %s does not name its root", w.img.Path, ErrImage, name)
	}
	return fat.Overwrite(volume, f, bytes.ReplaceAll(content, []byte(was), []byte(now)))
}

// renewGPT changes the ids of the drive and its partitions, and returns that of one partition.
func (w *writer) renewGPT(number int) (string, error) {
	le := binary.LittleEndian
	header, array := w.head[sector:][:sector], w.head[2*sector:][:gptArray]
	if le.Uint32(header[12:]) != gptHeader || le.Uint64(header[72:]) != 2 || le.Uint32(header[80:]) != 128 || le.Uint32(header[84:]) != 128 {
		return "", fmt.Errorf("%s is %w: its partition table has an unusual form", w.img.Path, ErrImage)
	}
	copy(header[56:72], newGUID())
	for e := range 128 {
		if entry := array[e*128:][:128]; len(bytes.Trim(entry[:16], "\x00")) > 0 {
			copy(entry[16:32], newGUID())
		}
	}
	last := uint64(w.m.Size()/sector) - 1
	seal := func(at, other, entries uint64) {
		le.PutUint64(header[24:], at)
		le.PutUint64(header[32:], other)
		le.PutUint64(header[48:], last-gptBackup/sector)
		le.PutUint64(header[72:], entries)
		le.PutUint32(header[88:], crc32.ChecksumIEEE(array))
		clear(header[16:20])
		le.PutUint32(header[16:], crc32.ChecksumIEEE(header[:gptHeader]))
	}
	// The image's own copy would be left in the middle of a larger drive.
	if _, err := w.WriteAt(make([]byte, gptBackup), w.img.Size-gptBackup); err != nil {
		return "", err
	}
	seal(last, 1, last-gptArray/sector)
	if _, err := w.WriteAt(append(bytes.Clone(array), header...), int64(last+1)*sector-gptBackup); err != nil {
		return "", err
	}
	seal(1, last, 2)
	// The protective MBR covers the drive, as far as it can count.
	le.PutUint32(w.head[446+12:], uint32(min(last, 1<<32-1)))
	return guid(array[(number-1)*128+16:]), nil
}

// newGUID is a random GUID (RFC 9562, version 4) in the byte order of a GPT, whose third field is little-endian.
func newGUID() []byte {
	b := make([]byte, 16)
	rand.Read(b)
	b[7] = b[7]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return b
}

// guid writes the 16 bytes of a GPT's GUID in the usual form (UEFI 2.10, appendix A).
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%s-%s", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), hex.EncodeToString(b[8:10]), hex.EncodeToString(b[10:16]))
}
