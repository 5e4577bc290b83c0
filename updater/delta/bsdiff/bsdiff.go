// Package bsdiff makes patches in the bsdiff 4.0 format (docs/release-format.md, section "Patches"), for those who publish releases.
// Package delta applies them.
//
// Limits: both files are in memory, with sixteen times the old one's size beside them. It takes half a second to a second for each MB.
package bsdiff

import (
	"bytes"
	stdbzip2 "compress/bzip2"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/dsnet/compress/bzip2"
	"github.com/gabstv/go-bsdiff/pkg/bsdiff"
)

// level is bzip2's: blocks of 300 kB. A box needs 4 bytes of memory for each byte of a block, three times. Larger blocks don't
// make patches smaller: the differences of a file's parts don't resemble each other.
const level = 3

// headerSize is that of a patch: magic, and three numbers of 8 bytes, of which none is negative here.
const headerSize = 32

// Diff writes a patch that turns old into new. The same files give the same patch, whatever the machine, for as long as the encoder
// stays the same.
func Diff(old, new []byte, w io.Writer) error {
	p, err := bsdiff.Bytes(old, new)
	if err != nil {
		return fmt.Errorf("bsdiff: %w", err)
	}
	control := headerSize + binary.LittleEndian.Uint64(p[8:])
	diff := control + binary.LittleEndian.Uint64(p[16:])
	out := bytes.NewBuffer(p[:headerSize:headerSize])
	var sizes [3]int
	for i, block := range [][]byte{p[headerSize:control], p[control:diff], p[diff:]} {
		before := out.Len()
		zw, err := bzip2.NewWriter(out, &bzip2.WriterConfig{Level: level})
		if err != nil {
			return fmt.Errorf("bzip2: %w", err)
		}
		if _, err := io.Copy(zw, stdbzip2.NewReader(bytes.NewReader(block))); err != nil {
			return fmt.Errorf("bzip2: %w", err)
		}
		if err := zw.Close(); err != nil {
			return fmt.Errorf("bzip2: %w", err)
		}
		sizes[i] = out.Len() - before
	}
	b := out.Bytes()
	binary.LittleEndian.PutUint64(b[8:], uint64(sizes[0]))
	binary.LittleEndian.PutUint64(b[16:], uint64(sizes[1]))
	_, err = w.Write(b)
	return err
}
