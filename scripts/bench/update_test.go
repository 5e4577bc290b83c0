package main

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func TestChunks(t *testing.T) {
	for name, b := range map[string][]byte{"none": nil, "small": noise(1, 100), "noise": noise(1, 4<<20), "zeros": make([]byte, 1<<20)} {
		cs := chunks(b)
		if !bytes.Equal(bytes.Join(cs, nil), b) {
			t.Errorf("%s: the chunks are not the whole", name)
		}
		for i, c := range cs {
			if len(c) > maxChunk || len(c) < minChunk && i < len(cs)-1 || len(c) == 0 {
				t.Errorf("%s: chunk %d of %d has %d bytes", name, i, len(cs), len(c))
			}
		}
	}
	b := noise(1, 8<<20)
	if avg := len(b) / len(chunks(b)); avg < 48<<10 || avg > 96<<10 {
		t.Errorf("chunks of noise have %d bytes on average", avg)
	}
	// A byte more at the start changes the chunks near it, not those behind.
	have := map[[32]byte]bool{}
	for _, c := range chunks(b) {
		have[sha256.Sum256(c)] = true
	}
	other := 0
	for _, c := range chunks(append([]byte{1}, b...)) {
		if !have[sha256.Sum256(c)] {
			other++
		}
	}
	if other < 1 || other > 3 {
		t.Errorf("%d chunks differ after one byte was inserted", other)
	}
}

func TestMissing(t *testing.T) {
	b := noise(1, 1<<20)
	for name, test := range map[string]struct {
		old, content []byte
		cut          func([]byte) [][]byte
		entry        int
		low, high    int
	}{
		"same chunks":           {b, b, chunks, 0, 0, 0},
		"same blocks":           {b, b, blocks, 32, 256 * 32, 256 * 32},
		"nothing there":         {nil, b, blocks, 0, 1 << 20, 1<<20 + 1000},
		"one block":             {b, append(noise(2, 4096), b[4096:]...), blocks, 0, 4096, 4200},
		"blocks moved by one":   {b, append([]byte{1}, b...), blocks, 0, 1 << 20, 1<<20 + 1000},
		"chunks moved by one":   {b, append([]byte{1}, b...), chunks, 0, 16 << 10, 3 * maxChunk},
		"the same block thrice": {nil, bytes.Repeat(b[:4096], 3), blocks, 0, 4096, 4200},
		"zeros":                 {b, make([]byte, 1<<20), blocks, 0, 1, 100},
	} {
		n, err := missing(test.cut(test.old), test.cut(test.content), test.entry)
		if err != nil || n < test.low || n > test.high {
			t.Errorf("%s: %d bytes, expected %d to %d; %v", name, n, test.low, test.high, err)
		}
	}
}

func TestVersionBefore(t *testing.T) {
	all := strings.Fields("v0.1.0 v0.2.0-rc.1 v0.2.0 v0.3.0-rc.1 v0.3.0")
	for now, want := range map[string]string{"v0.3.0": "v0.2.0", "v0.2.0": "v0.1.0", "v0.1.0": "", "v9.0.0": ""} {
		if got := versionBefore(all, now); got != want {
			t.Errorf("before %s: %q, expected %q", now, got, want)
		}
	}
}

// TestOneLine holds that the fix can still be made.
func TestOneLine(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(oneLine.file)))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), oneLine.old); n != 1 {
		t.Errorf("%s has the line %d times", oneLine.file, n)
	}
}

func TestProofRows(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	rows, err := proofRows(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r = r.judge(); r.Ours <= 0 || !r.Pass {
			t.Errorf("%+v", r)
		}
	}
}
