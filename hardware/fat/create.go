package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrExists is what Create fails with where there is a file or folder of that name.
var ErrExists = errors.New("there is one already")

// Volume is a volume to be changed.
type Volume interface {
	io.ReaderAt
	io.WriterAt
	Sync() error // returns when all that was written is on the medium
}

const (
	sector     = 512
	entrySize  = 32
	mediaMask  = 0x0fffffff // of an entry of a FAT32's table; the rest is not to be changed
	endOfChain = 0x0fffffff
	firstDate  = 1<<5 | 1 // 1 January 1980
)

// Create makes a file of at most one cluster in the root folder of a FAT32 volume that nobody has mounted. The name has at most eight
// lower-case letters and digits, and at most three behind a dot. Each step is on the medium before the next one: the content in a free
// cluster, the cluster's entry in the tables, the folder's entry, in one sector. So what a power cut leaves is the volume as it was, with
// a cluster lost at worst, or the file. It fails with ErrExists, ErrNotFAT, ErrDamaged or ErrTooLarge, or with what w fails with.
func Create(w Volume, name string, content []byte) error {
	if err := create(w, name, content); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

func create(w Volume, name string, content []byte) error {
	short, err := newShortName(name)
	if err != nil {
		return err
	}
	if _, err := Find(w, name); err == nil {
		return ErrExists
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	v, err := open(w)
	if err != nil {
		return err
	}
	boot := make([]byte, sector)
	if err := readFull(w, boot, 0); err != nil {
		return err
	}
	le := binary.LittleEndian
	perSector, reserved, tables := int64(le.Uint16(boot[11:])), int64(le.Uint16(boot[14:])), int64(boot[16])
	if v.bits != 32 || reserved == 0 || le.Uint16(boot[22:]) != 0 {
		return fmt.Errorf("%w of 32 bits", ErrNotFAT)
	}
	if len(content) == 0 || int64(len(content)) > v.cluster {
		return fmt.Errorf("%d bytes: %w, or nothing", len(content), ErrTooLarge)
	}
	at, err := v.freeEntry(short)
	if err != nil {
		return err
	}
	cluster, err := v.freeCluster()
	if err != nil {
		return err
	}

	whole := make([]byte, (len(content)+sector-1)/sector*sector)
	copy(whole, content)
	if _, err := w.WriteAt(whole, v.data+int64(cluster-2)*v.cluster); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}

	first, n := reserved*perSector, tables
	if le.Uint16(boot[40:])&0x80 != 0 { // only the active one counts
		first, n = v.table, 1
	}
	for i := range n {
		err := change(w, first+i*v.tableLen+int64(cluster)*4, func(b []byte) {
			le.PutUint32(b, le.Uint32(b)&^uint32(mediaMask)|endOfChain)
		})
		if err != nil {
			return err
		}
	}
	if err := countFree(w, int64(le.Uint16(boot[48:]))*perSector, reserved*perSector); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}

	// Entries behind the first that was never used don't count (fatgen103, "FAT Directory Structure"): they must not begin to.
	if at.next != 0 {
		if err := change(w, at.next, func(b []byte) { b[0] = 0 }); err != nil {
			return err
		}
		if err := w.Sync(); err != nil {
			return err
		}
	}
	err = change(w, at.offset, func(b []byte) {
		b = b[:entrySize]
		clear(b)
		copy(b, short)
		const archive, lowerCase = 0x20, 0x18
		b[11], b[12] = archive, lowerCase
		for _, date := range []int{16, 18, 24} {
			le.PutUint16(b[date:], firstDate)
		}
		le.PutUint16(b[20:], uint16(cluster>>16))
		le.PutUint16(b[26:], uint16(cluster))
		le.PutUint32(b[28:], uint32(len(content)))
	})
	if err != nil {
		return err
	}
	return w.Sync()
}

// newShortName is a name as a folder's entry has it: eight and three characters, filled up with blanks.
func newShortName(name string) (string, error) {
	base, ext, dot := strings.Cut(name, ".")
	plain := func(s string) bool {
		return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
	}
	if base == "" || dot && ext == "" || len(base) > 8 || len(ext) > 3 || !plain(base) || !plain(ext) {
		return "", fmt.Errorf("%q is no short name", name)
	}
	return strings.ToUpper(fmt.Sprintf("%-8s%-3s", base, ext)), nil
}

// place is where an entry of the root folder can go.
type place struct {
	offset int64
	next   int64 // where the entry behind it is, if it is the first that was never used, and not the last of the folder; or 0
}

// freeEntry finds room in the root folder for an entry of that short name, which no other one has. The folder is not made larger.
func (v *volume) freeEntry(short string) (place, error) {
	extents, err := v.chain(v.root, max(1, maxFolder/v.cluster), false)
	if err != nil {
		return place{}, err
	}
	var deleted, unused place
	b := make([]byte, entrySize)
	for _, e := range extents {
		for at := e.Offset; at < e.Offset+e.Length && unused.next == 0; at += entrySize {
			if unused.offset != 0 {
				unused.next = at
				break
			}
			if err := readFull(v.r, b, at); err != nil {
				return place{}, err
			}
			switch {
			case b[0] == 0:
				unused.offset = at
			case b[0] == 0xe5 && deleted.offset == 0:
				deleted.offset = at
			case string(b[:len(short)]) == short:
				return place{}, ErrExists
			}
		}
	}
	switch {
	case deleted.offset != 0:
		return deleted, nil
	case unused.offset != 0:
		return unused, nil
	}
	return place{}, fmt.Errorf("the root folder is full: %w", ErrTooLarge)
}

func (v *volume) freeCluster() (uint32, error) {
	for c := uint32(2); c <= v.last; c++ {
		next, _, err := v.next(c)
		if err != nil {
			return 0, err
		}
		if next == 0 {
			return c, nil
		}
	}
	return 0, fmt.Errorf("the volume is full: %w", ErrTooLarge)
}

// countFree takes one from the number of free clusters, which is only a hint, where the sector that has it is one.
func countFree(w Volume, at, reserved int64) error {
	if at <= 0 || at+sector > reserved {
		return nil
	}
	le := binary.LittleEndian
	return change(w, at, func(b []byte) {
		if n := le.Uint32(b[488:]); string(b[:4]) == "RRaA" && string(b[484:488]) == "rrAa" && n != 0 && n != 0xffffffff {
			le.PutUint32(b[488:], n-1)
		}
	})
}

// change rewrites one sector; f gets it from the byte at off on.
func change(w Volume, off int64, f func(b []byte)) error {
	b := make([]byte, sector)
	at := off / sector * sector
	if err := readFull(w, b, at); err != nil {
		return err
	}
	f(b[off-at:])
	_, err := w.WriteAt(b, at)
	return err
}
