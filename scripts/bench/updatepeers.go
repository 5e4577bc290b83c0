package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"math/rand/v2"

	"github.com/klauspost/compress/zstd"
)

// What others send of a new file to who has an old one, beside patches: the pieces that the old file does not have anywhere. Both get
// the best of what such tools do: pieces are compressed, and those beside each other together where they are of fixed size.

const (
	minChunk, maxChunk = 16 << 10, 256 << 10
	chunkBits          = 16 // a boundary each 64 KiB on average
	chunkEntry         = 40 // bytes in the index: SHA-256 and an offset
	blockSize          = 4 << 10
	blockEntry         = 32 // SHA-256
)

// gear is a number for each byte value, for a hash of the last 64 bytes that rolls by a shift and a sum.
var gear = func() (g [256]uint64) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range g {
		g[i] = rnd.Uint64()
	}
	return g
}()

// chunks cuts b where its content says so, as casync and its likes do: a byte inserted moves boundaries near it only.
func chunks(b []byte) [][]byte {
	var out [][]byte
	for len(b) > 0 {
		n := min(len(b), maxChunk)
		var h uint64
		for i, c := range b[:n] {
			h = h<<1 + gear[c]
			if i+1 >= minChunk && bits.LeadingZeros64(h) >= chunkBits {
				n = i + 1
				break
			}
		}
		out, b = append(out, b[:n]), b[n:]
	}
	return out
}

// blocks cuts b into pieces of one size, as RAUC's adaptive updates do.
func blocks(b []byte) [][]byte {
	var out [][]byte
	for len(b) > 0 {
		n := min(len(b), blockSize)
		out, b = append(out, b[:n]), b[n:]
	}
	return out
}

// missing is how many bytes have to be fetched: an index entry for each piece of the new file, and, compressed, the pieces that are
// not among the old ones, each once.
func missing(old, content [][]byte, entry int) (int, error) {
	have := map[[sha256.Size]byte]bool{}
	for _, p := range old {
		have[sha256.Sum256(p)] = true
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, fmt.Errorf("zstd: %w", err)
	}
	defer enc.Close()
	n := entry * len(content)
	var run, packed []byte
	flush := func() {
		if len(run) > 0 {
			packed = enc.EncodeAll(run, packed[:0])
			n += len(packed)
			run = run[:0]
		}
	}
	for _, p := range content {
		sum := sha256.Sum256(p)
		if have[sum] {
			flush()
			continue
		}
		have[sum] = true
		run = append(run, p...)
		if len(p) != blockSize || len(run) >= maxChunk {
			flush()
		}
	}
	flush()
	return n, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
