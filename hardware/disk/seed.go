package disk

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

//go:generate go run mkseed.go

//go:embed seed.bin
var seed []byte

// SeedSize is the size of the seed file system in bytes; a data partition is never smaller.
const SeedSize = 64 << 20

// SeedUUID is the UUID of a file system that no box has started yet; the first boot replaces it.
const SeedUUID = "c0f7c0f7-5eed-4000-8000-000000000000"

const blockSize = 4096

// SeedBlocks calls f with each 4096-byte block of the seed that is not all zero, in ascending order of its offset
// in bytes. All other bytes of the SeedSize bytes are zero.
func SeedBlocks(f func(offset int64, block []byte) error) error {
	zr, err := gzip.NewReader(bytes.NewReader(seed))
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	rec := make([]byte, 4+blockSize)
	for {
		if _, err := io.ReadFull(zr, rec); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
		if err := f(int64(binary.LittleEndian.Uint32(rec))*blockSize, rec[4:]); err != nil {
			return err
		}
	}
}

// ErrUnfinished means that a partition was being formatted when that was cut off.
var ErrUnfinished = errors.New("formatting was not finished")

// unfinished stands where the superblock was while Format is at work.
const unfinished = "Croft: formatting is under way\n"

// superblockAt is where the superblock begins. Its first sector decides what the partition holds.
const superblockAt = 1024

// Finished returns ErrUnfinished if Format was cut off on the partition at path.
func Finished(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, len(unfinished))
	if _, err := f.ReadAt(b, superblockAt); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if string(b) == unfinished {
		return fmt.Errorf("%s: %w", path, ErrUnfinished)
	}
	return nil
}

// Format writes the seed over the partition at path, so that all that it held is lost. The first sector of the superblock
// gives way to a note first and is written last, each behind a flush, and a medium writes a sector whole or not at all: a
// power cut leaves what was there, what Finished knows as unfinished, or the seed. progress is called with 0 to 1.
//
// An error that is ErrUnfinished means that what the partition held is gone, any other that it is untouched.
func Format(path string, progress func(float64)) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	defer f.Close()
	if err := format(f, progress); err != nil {
		return fmt.Errorf("format %s: %w", path, err)
	}
	return nil
}

func format(m Medium, progress func(float64)) (err error) {
	blocks := map[int64][]byte{}
	if err := SeedBlocks(func(off int64, b []byte) error {
		blocks[off] = bytes.Clone(b)
		return nil
	}); err != nil {
		return err
	}
	write := func(off int64, b []byte) error {
		if _, err := m.WriteAt(b, off); err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
		return nil
	}
	decide := func(sector []byte) error {
		if err := write(superblockAt, sector); err != nil {
			return err
		}
		return m.Sync()
	}
	const end = superblockAt + sectorSize
	seed, note := bytes.Clone(blocks[0][superblockAt:end]), make([]byte, sectorSize)
	copy(note, unfinished)
	copy(blocks[0][superblockAt:end], note)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrUnfinished, err)
		}
	}()
	if err := decide(note); err != nil {
		return err
	}
	zero := make([]byte, blockSize)
	for off := int64(0); off < SeedSize; off += blockSize {
		b := blocks[off]
		if b == nil {
			b = zero
		}
		if err := write(off, b); err != nil {
			return err
		}
		if off%(1<<20) == 0 {
			progress(float64(off) / SeedSize)
		}
	}
	if err := m.Sync(); err != nil {
		return err
	}
	if err := decide(seed); err != nil {
		return err
	}
	progress(1)
	return nil
}
