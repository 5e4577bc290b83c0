package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
)

// Recover brings the file system on the partition at path, which nobody has mounted, to a state in which the kernel
// mounts it after a power cut at any moment. The kernel replays the journal itself, but reads the superblock and
// the group descriptors before that, and gives up where a cut left these half written: a superblock of two sectors
// with one of them old, or one that counts groups whose descriptors are still only in the journal. So the journal is
// replayed here first, as e2fsck does; and a superblock of which only the checksum is old gets a new one.
//
// The journal itself is left as it is: the kernel writes the same again. Whatever is not as our seed makes it is left
// to the kernel. note says in words what was done, "" for nothing.
//
// Format: the kernel's Documentation/filesystems/ext4/journal.rst and super.rst.
func Recover(path string) (note string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL, 0) // on a mounted partition: EBUSY
	if err != nil {
		return "", fmt.Errorf("recover: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", fmt.Errorf("recover %s: %w", path, err)
	}
	n, err := replay(f, size)
	if err != nil {
		return "", fmt.Errorf("recover %s: %w", path, err)
	}
	if n > 0 {
		note = fmt.Sprintf("%d blocks from the journal", n)
	}
	mended, err := mendSuperblock(f)
	if err != nil {
		return note, fmt.Errorf("recover %s: %w", path, err)
	}
	if mended {
		note = joinWords(note, "a half written superblock")
	}
	if note == "" {
		return "", nil
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("recover %s: %w", path, err)
	}
	return "after a power cut: " + note, nil
}

func joinWords(a, b string) string {
	if a == "" {
		return b
	}
	return a + " and " + b
}

// readWriterAt is the partition.
type readWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c as the kernel computes it: without inversions.
func crc32c(crc uint32, b []byte) uint32 { return ^crc32.Update(^crc, castagnoli, b) }

// Constants of the journal; it is big-endian, the rest of ext4 little-endian.
const (
	jbdMagic = 0xc03b3998

	jbdDescriptor = 1
	jbdCommit     = 2
	jbdSuper      = 4
	jbdRevoke     = 5

	jbdIncompatRevoke = 0x1
	jbdIncompat64Bit  = 0x2
	jbdIncompatCSumV3 = 0x10

	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8

	maxJournal = 64 << 20 / blockSize // blocks; the seed's has 4096
)

// errLeave means that the journal is not one that the seed's would become, or has nothing for us.
var errLeave = errors.New("left to the kernel")

// transaction is a committed one.
type transaction struct {
	seq  uint32
	tags []tag
}

type tag struct {
	target  uint64 // block of the file system
	source  int    // block of the journal
	escaped bool
}

// replay writes the committed blocks of the journal to their places on a partition of size bytes, and returns how many.
func replay(f readWriterAt, size int64) (int, error) {
	j, err := openJournal(f, size)
	if errors.Is(err, errLeave) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	txs, revoked, err := j.scan()
	if err != nil {
		return 0, err
	}
	last := map[uint64]tag{}
	for _, tx := range txs {
		for _, t := range tx.tags {
			if seq, ok := revoked[t.target]; ok && int32(seq-tx.seq) >= 0 {
				delete(last, t.target)
				continue
			}
			last[t.target] = t
		}
	}
	for _, target := range slices.Sorted(maps.Keys(last)) {
		t := last[target]
		b, err := j.read(t.source)
		if err != nil {
			return 0, err
		}
		if t.escaped {
			binary.BigEndian.PutUint32(b, jbdMagic)
		}
		if _, err := f.WriteAt(b, int64(target)*blockSize); err != nil {
			return 0, fmt.Errorf("write block %d: %w", target, err)
		}
	}
	return len(last), nil
}

// journal is one that has something to replay.
type journal struct {
	f      io.ReaderAt
	blocks []uint64 // of the file system, by block of the journal
	limit  uint64   // blocks of the file system that may be written
	seed   uint32   // of checksums
	first  int      // block of the log
	start  int      // where the log starts
	seq    uint32   // of its first transaction
}

// openJournal finds the journal through inode 8. What it reads on the way never changes after mkfs, so no power cut can
// have torn it.
func openJournal(f io.ReaderAt, size int64) (*journal, error) {
	sb := make([]byte, 1024)
	if _, err := f.ReadAt(sb, 1024); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	const needsRecovery = 0x4
	if !ourGeometry(sb) || binary.LittleEndian.Uint32(sb[0x60:])&needsRecovery == 0 {
		return nil, errLeave
	}
	gd := make([]byte, 64)
	if _, err := f.ReadAt(gd, blockSize); err != nil {
		return nil, fmt.Errorf("group descriptor: %w", err)
	}
	le := binary.LittleEndian
	table := uint64(le.Uint32(gd[0x8:])) | uint64(le.Uint32(gd[0x28:]))<<32
	if table == 0 || table >= SeedSize/blockSize {
		return nil, errLeave
	}
	const journalInode, inodeSize = 8, 256
	inode := make([]byte, inodeSize)
	if _, err := f.ReadAt(inode, int64(table)*blockSize+(journalInode-1)*inodeSize); err != nil {
		return nil, fmt.Errorf("journal inode: %w", err)
	}
	// i_block holds an extent tree of depth 0.
	ext := inode[0x28 : 0x28+60]
	n := int(le.Uint16(ext[2:]))
	if le.Uint16(ext) != 0xf30a || le.Uint16(ext[6:]) != 0 || n > 4 {
		return nil, errLeave
	}
	j := &journal{f: f, limit: uint64(size / blockSize)}
	for i := range n {
		e := ext[12+12*i:]
		length := int(le.Uint16(e[4:]))
		from := uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:]))
		if int(le.Uint32(e)) != len(j.blocks) || length > 32768 || len(j.blocks)+length > maxJournal || from+uint64(length) > SeedSize/blockSize {
			return nil, errLeave
		}
		for k := range length {
			j.blocks = append(j.blocks, from+uint64(k))
		}
	}
	if len(j.blocks) == 0 {
		return nil, errLeave
	}
	b, err := j.read(0)
	if err != nil {
		return nil, err
	}
	be := binary.BigEndian
	j.first, j.seq, j.start = int(be.Uint32(b[0x14:])), be.Uint32(b[0x18:]), int(be.Uint32(b[0x1c:]))
	incompat := be.Uint32(b[0x28:])
	sum := be.Uint32(b[0xfc:])
	clear(b[0xfc:0x100])
	switch {
	case be.Uint32(b) != jbdMagic || be.Uint32(b[4:]) != jbdSuper || be.Uint32(b[0xc:]) != blockSize:
		return nil, errLeave
	case j.start == 0: // nothing to replay
		return nil, errLeave
	case incompat&^jbdIncompatRevoke != jbdIncompat64Bit|jbdIncompatCSumV3 || crc32c(^uint32(0), b[:1024]) != sum:
		return nil, errLeave
	case int(be.Uint32(b[0x10:])) != len(j.blocks) || j.first < 1 || j.start < j.first || j.start >= len(j.blocks):
		return nil, errLeave
	}
	j.seed = crc32c(^uint32(0), b[0x30:0x40])
	return j, nil
}

// read returns a copy of a block of the journal.
func (j *journal) read(i int) ([]byte, error) {
	b := make([]byte, blockSize)
	if _, err := j.f.ReadAt(b, int64(j.blocks[i])*blockSize); err != nil {
		return nil, fmt.Errorf("block %d of the journal: %w", i, err)
	}
	return b, nil
}

// scan returns the committed transactions in order, and the last transaction that revoked each revoked block.
func (j *journal) scan() ([]transaction, map[uint64]uint32, error) {
	be := binary.BigEndian
	var txs []transaction
	revoked := map[uint64]uint32{}
	tx := transaction{seq: j.seq}
	var revokes []uint64
	at := j.start
	next := func() int {
		i := at
		if at++; at == len(j.blocks) {
			at = j.first
		}
		return i
	}
	for used := 0; used < len(j.blocks); used++ {
		b, err := j.read(next())
		if err != nil {
			return nil, nil, err
		}
		if be.Uint32(b) != jbdMagic || be.Uint32(b[8:]) != tx.seq {
			break
		}
		switch kind := be.Uint32(b[4:]); kind {
		case jbdDescriptor:
			if !j.tailOK(b) {
				return txs, revoked, nil
			}
			for i := 12; i+16 <= blockSize-4; {
				t := tag{target: uint64(be.Uint32(b[i+8:]))<<32 | uint64(be.Uint32(b[i:])), source: next()}
				used++
				flags, sum := be.Uint32(b[i+4:]), be.Uint32(b[i+12:])
				t.escaped = flags&tagEscaped != 0
				if t.target >= j.limit || used >= len(j.blocks) {
					return txs, revoked, nil
				}
				data, err := j.read(t.source)
				if err != nil {
					return nil, nil, err
				}
				if crc32c(crc32c(j.seed, be.AppendUint32(nil, tx.seq)), data) != sum {
					return txs, revoked, nil // not committed, then, or damaged: the kernel knows what to do
				}
				tx.tags = append(tx.tags, t)
				i += 16
				if flags&tagSameUUID == 0 {
					i += 16
				}
				if flags&tagLast != 0 {
					break
				}
			}
		case jbdRevoke:
			n := int(be.Uint32(b[12:]))
			if !j.tailOK(b) || n < 16 || n > blockSize-4 {
				return txs, revoked, nil
			}
			for i := 16; i+8 <= n; i += 8 {
				revokes = append(revokes, be.Uint64(b[i:]))
			}
		case jbdCommit:
			sum := be.Uint32(b[16:])
			clear(b[16:20])
			if crc32c(j.seed, b) != sum {
				return txs, revoked, nil
			}
			txs = append(txs, tx)
			for _, r := range revokes {
				revoked[r] = tx.seq
			}
			tx, revokes = transaction{seq: tx.seq + 1}, nil
		default:
			return txs, revoked, nil
		}
	}
	return txs, revoked, nil
}

// tailOK checks the checksum in a descriptor's or revoke block's last four bytes.
func (j *journal) tailOK(b []byte) bool {
	sum := binary.BigEndian.Uint32(b[blockSize-4:])
	clear(b[blockSize-4:])
	return crc32c(j.seed, b) == sum
}

// ourGeometry reports whether a superblock has what never changes in a file system that began as our seed.
func ourGeometry(b []byte) bool {
	var seeded []byte
	if err := SeedBlocks(func(off int64, block []byte) error {
		if off == 0 {
			seeded = append(seeded, block[1024:2048]...)
		}
		return nil
	}); err != nil || seeded == nil {
		return false
	}
	const hasJournal, metadataCSum = 0x4, 0x400
	le := binary.LittleEndian
	if le.Uint32(b[0x5c:])&hasJournal == 0 || le.Uint32(b[0x64:])&metadataCSum == 0 {
		return false
	}
	for _, field := range [][2]int{
		{0x14, 0x2c},   // first data block, block and cluster size, blocks, clusters and inodes per group
		{0x38, 0x3a},   // magic
		{0x48, 0x5a},   // creator, revision, first inode, inode size
		{0xe0, 0x104},  // journal inode, hash seed and version, descriptor size, default options
		{0x270, 0x274}, // checksum seed
	} {
		if string(b[field[0]:field[1]]) != string(seeded[field[0]:field[1]]) {
			return false
		}
	}
	return true
}

// mendSuperblock gives a superblock whose second sector is from another time than its first one a valid checksum. The
// second sector holds nothing that changes and matters, beside the checksum.
func mendSuperblock(f readWriterAt) (bool, error) {
	b := make([]byte, 1024)
	if _, err := f.ReadAt(b, 1024); err != nil {
		return false, fmt.Errorf("superblock: %w", err)
	}
	sum := crc32c(^uint32(0), b[:0x3fc])
	if !ourGeometry(b) || binary.LittleEndian.Uint32(b[0x3fc:]) == sum {
		return false, nil
	}
	binary.LittleEndian.PutUint32(b[0x3fc:], sum)
	if _, err := f.WriteAt(b, 1024); err != nil {
		return false, fmt.Errorf("superblock: %w", err)
	}
	return true, nil
}
