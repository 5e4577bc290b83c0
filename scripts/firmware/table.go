package firmware

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// partition is one of a disk, as the kernel numbers and names it.
type partition struct {
	number int
	kind   string // type GUID or byte
	id     string // PARTUUID
	Place
}

const espType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

// readGPT reads the table, or its copy at the end where the first is damaged (UEFI 2.10, section 5.3.2).
func readGPT(r io.ReaderAt, size int64) ([]partition, error) {
	ps, err := gptAt(r, size, 1)
	if err == nil {
		return ps, nil
	}
	ps, err2 := gptAt(r, size, size/512-1)
	if err2 == nil {
		return ps, nil
	}
	return nil, errors.Join(err, err2)
}

func gptAt(r io.ReaderAt, size, lba int64) ([]partition, error) {
	le := binary.LittleEndian
	h := make([]byte, 512)
	if _, err := r.ReadAt(h, lba*512); err != nil {
		return nil, err
	}
	n := le.Uint32(h[12:])
	if string(h[:8]) != "EFI PART" || n < 92 || n > 512 || int64(le.Uint64(h[24:])) != lba {
		return nil, fmt.Errorf("no GPT at sector %d", lba)
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:n]) != sum {
		return nil, fmt.Errorf("the GPT at sector %d is damaged", lba)
	}
	count, each, at := int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:])), int64(le.Uint64(h[72:]))
	if each < 128 || each > 4096 || count > 1024 || at < 2 || at > size/512 {
		return nil, fmt.Errorf("the GPT at sector %d has an impossible array", lba)
	}
	array := make([]byte, count*each)
	if _, err := r.ReadAt(array, at*512); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(array) != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("the entries of the GPT at sector %d are damaged", lba)
	}
	var ps []partition
	for i := range count {
		e := array[i*each:]
		first, last := int64(le.Uint64(e[32:])), int64(le.Uint64(e[40:]))
		if bytes.Equal(e[:16], make([]byte, 16)) || first < 1 || last < first || last >= size/512 {
			continue
		}
		ps = append(ps, partition{int(i) + 1, guid(e), guid(e[16:]), Place{first * 512, (last - first + 1) * 512}})
	}
	return ps, nil
}

func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// readMBR reads a table with its chain of extended records (block/partitions/msdos.c of Linux).
func readMBR(r io.ReaderAt, size int64) ([]partition, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, err
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, errors.New("no MBR")
	}
	signature := binary.LittleEndian.Uint32(b[440:])
	var ps []partition
	add := func(number int, e []byte, base int64) (Place, byte) {
		at := Place{(base + int64(binary.LittleEndian.Uint32(e[8:]))) * 512, int64(binary.LittleEndian.Uint32(e[12:])) * 512}
		if e[4] != 0 && at.Len > 0 && at.Off+at.Len <= size {
			ps = append(ps, partition{number, hex.EncodeToString(e[4:5]), fmt.Sprintf("%08x-%02x", signature, number), at})
		}
		return at, e[4]
	}
	extended := int64(0)
	for i := range 4 {
		if at, kind := add(i+1, b[446+16*i:], 0); kind == 0x0f || kind == 0x05 {
			extended = at.Off / 512
		}
	}
	for number, lba := 5, extended; lba != 0 && number < 32; number++ {
		if _, err := r.ReadAt(b, lba*512); err != nil || b[510] != 0x55 || b[511] != 0xaa {
			break
		}
		add(number, b[446:], lba)
		next := binary.LittleEndian.Uint32(b[446+16+8:])
		if next == 0 {
			break
		}
		lba = extended + int64(next)
	}
	return ps, nil
}
