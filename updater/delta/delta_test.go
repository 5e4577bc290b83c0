package delta_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/delta/bsdiff"
	"github.com/croft-os/croft/updater/release"
)

// program makes n bytes that resemble machine code: few words often, addresses that grow, now and then something unique.
func program(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	words := make([][8]byte, 64)
	for i := range words {
		for j := range words[i] {
			words[i][j] = byte(rnd.Uint32())
		}
	}
	b := make([]byte, 0, n+8)
	for len(b) < n {
		w := words[rnd.IntN(len(words))]
		switch rnd.IntN(8) {
		case 0:
			w[3], w[4] = byte(len(b)>>8), byte(len(b)>>16)
		case 1:
			w[5] = byte(rnd.Uint32())
		}
		b = append(b, w[:]...)
	}
	return b[:n]
}

// edited is b with some of it changed, moved, inserted and left out.
func edited(b []byte) []byte {
	n := len(b)
	out := append([]byte(nil), b[:n/3]...)
	out = append(out, program(99, n/50)...)
	out = append(out, b[n/3+n/100:n/2]...)
	out = append(out, b[n*3/4:]...)
	out = append(out, b[n/2:n*3/4]...)
	for i := 0; i < len(out); i += 997 {
		out[i]++
	}
	return out
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// made is a part with its frames, and one patch for each of the olds.
func made(t testing.TB, content []byte, olds ...[]byte) (release.Part, map[string][]byte) {
	t.Helper()
	var b bytes.Buffer
	f, size, sum, err := delta.WriteFrames(&b, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	p := release.Part{Size: size, SHA256: sum, Frames: f}
	blobs := map[string][]byte{f.Blob: b.Bytes()}
	for _, old := range olds {
		x := patchOf(t, old, content)
		p.Patches = append(p.Patches, release.Patch{From: hashOf(old), FromSize: int64(len(old)), Blob: hashOf(x), Size: int64(len(x))})
		blobs[hashOf(x)] = x
	}
	return p, blobs
}

func patchOf(t testing.TB, old, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bsdiff.Diff(old, content, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// opener opens blobs, and counts.
func opener(blobs map[string][]byte, opened *[]string) func(string) (io.ReaderAt, int64, error) {
	return func(blob string) (io.ReaderAt, int64, error) {
		*opened = append(*opened, blob)
		b, ok := blobs[blob]
		if !ok {
			return nil, 0, errors.New("no such blob")
		}
		return bytes.NewReader(b), int64(len(b)), nil
	}
}

func TestChooseAndApply(t *testing.T) {
	old := program(1, 60_000)
	older := append(program(2, 20_000), old...)
	content := edited(old)
	part, blobs := made(t, content, older, old)
	if err := (&release.Release{
		Format: release.Format, Board: "pc", Version: "v1", Number: 1, Channel: release.Stable, Built: 1, Commit: hashOf(nil)[:40],
		Notes: map[string]string{"en": "x"}, Cmdline: "{root} {slot}", Boot: part, Root: part, State: release.State{Schema: 1, Reads: 1},
		SBOM: release.Blob{Blob: hashOf(nil), Size: 1},
	}).Validate(); err != nil {
		t.Fatal(err)
	}
	pad := make([]byte, 70_000)
	for name, test := range map[string]struct {
		base []byte
		size int64 // 0: all of base
		copy bool
		from string
	}{
		"the same part":                {content, 0, true, ""},
		"the same part, and more":      {append(content[:len(content):len(content)], pad...), 0, true, ""},
		"a base that has a patch":      {old, 0, false, hashOf(old)},
		"one with more behind it":      {append(old[:len(old):len(old)], pad...), 0, false, hashOf(old)},
		"the other base":               {older, 0, false, hashOf(older)},
		"a base that is one bit off":   {append([]byte{old[0] ^ 1}, old[1:]...), 0, false, ""},
		"a base that is cut off":       {old[:len(old)-1], 0, false, ""},
		"one that can't be read whole": {old[:len(old)-1], int64(len(old)), false, ""},
		"an empty base":                {nil, 0, false, ""},
		"the same part, hidden":        {content, int64(len(content)) - 1, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			base, size := bytes.NewReader(test.base), test.size
			if size == 0 {
				size = int64(len(test.base))
			}
			way, err := delta.Choose(t.Context(), part, base, size)
			if err != nil {
				t.Fatal(err)
			}
			if way.Copy != test.copy || (way.Patch != nil) != (test.from != "") || way.Patch != nil && way.Patch.From != test.from {
				t.Fatalf("chose %+v", way)
			}
			var opened []string
			var out bytes.Buffer
			if err := delta.Apply(t.Context(), part, way, base, opener(blobs, &opened), &out); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), content) {
				t.Error("made something else")
			}
			want := []string{part.Frames.Blob}
			if test.copy {
				want = nil
			} else if way.Patch != nil {
				want = []string{way.Patch.Blob}
			}
			if fmt.Sprint(opened) != fmt.Sprint(want) {
				t.Errorf("opened %v", opened)
			}
		})
	}
}

func TestChooseTakesTheSmallestPatch(t *testing.T) {
	part := release.Part{Size: 5, SHA256: hashOf([]byte("other")), Patches: []release.Patch{
		{From: hashOf([]byte("base")), FromSize: 4, Size: 9},
		{From: hashOf([]byte("bas")), FromSize: 3, Size: 7},
		{From: hashOf([]byte("base")), FromSize: 4, Size: 8},
	}}
	way, err := delta.Choose(t.Context(), part, bytes.NewReader([]byte("base")), 4)
	if err != nil || way.Patch != &part.Patches[1] {
		t.Errorf("%+v %v", way, err)
	}
}

// failing is a reader or writer that fails from an offset on.
type failing struct {
	r   io.ReaderAt
	w   io.Writer
	at  int64
	err error
}

func (f *failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.at {
		return 0, f.err
	}
	return f.r.ReadAt(b, off)
}

func (f *failing) Write(b []byte) (int, error) {
	if f.at -= int64(len(b)); f.at < 0 {
		return 0, f.err
	}
	return f.w.Write(b)
}

func TestApplyFails(t *testing.T) {
	old := program(1, 60_000)
	content := edited(old)
	part, blobs := made(t, content, old)
	way := delta.Way{Patch: &part.Patches[0]}
	broken := errors.New("the medium is broken")
	wrong := append([]byte(nil), old...)
	wrong[1000] ^= 4
	other := maps(blobs)
	other[part.Patches[0].Blob] = patchOf(t, old, old)
	larger := maps(blobs)
	larger[part.Patches[0].Blob] = patchOf(t, old, append(content[:len(content):len(content)], 0))
	swapped := maps(blobs)
	swapped[part.Frames.Blob] = append([]byte(nil), blobs[part.Frames.Blob]...)
	swapped[part.Frames.Blob][100] ^= 1
	for name, test := range map[string]struct {
		way    delta.Way
		base   io.ReaderAt
		blobs  map[string][]byte
		room   int64
		frames bool // whether it asks for frames
		is     error
	}{
		"base changed since it was chosen": {way, bytes.NewReader(wrong), blobs, 1 << 20, true, delta.ErrContent},
		"copy of another base":             {delta.Way{Copy: true}, bytes.NewReader(wrong), blobs, 1 << 20, true, delta.ErrContent},
		"base ends early":                  {way, bytes.NewReader(old[:10]), blobs, 1 << 20, true, io.ErrUnexpectedEOF},
		"base can't be read":               {way, &failing{r: bytes.NewReader(old), at: 5000, err: broken}, blobs, 1 << 20, true, broken},
		"copy can't be read":               {delta.Way{Copy: true}, &failing{r: bytes.NewReader(old), at: 5000, err: broken}, blobs, 1 << 20, true, broken},
		"patch of something else":          {way, bytes.NewReader(old), other, 1 << 20, true, delta.ErrContent},
		"patch that makes too much":        {way, bytes.NewReader(old), larger, 1 << 20, true, delta.ErrPatch},
		"patch is gone":                    {way, bytes.NewReader(old), nil, 1 << 20, true, nil},
		"medium fails under a patch":       {way, bytes.NewReader(old), blobs, 1000, false, broken},
		"medium fails under a copy":        {delta.Way{Copy: true}, bytes.NewReader(content), blobs, 1000, false, broken},
		"medium fails under frames":        {delta.Way{}, nil, blobs, 1000, false, broken},
		"frames are gone":                  {delta.Way{}, nil, nil, 1 << 20, false, nil},
		"frame was swapped":                {delta.Way{}, nil, swapped, 1 << 20, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var opened []string
			dst := &failing{w: io.Discard, at: test.room, err: broken}
			err := delta.Apply(t.Context(), part, test.way, test.base, opener(test.blobs, &opened), dst)
			if err == nil || errors.Is(err, delta.ErrFrames) != test.frames || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v", err)
			}
		})
	}
}

func maps(m map[string][]byte) map[string][]byte {
	c := map[string][]byte{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

// cancelling ends the context with the first write.
type cancelling struct{ cancel func() }

func (c cancelling) Write(b []byte) (int, error) { c.cancel(); return len(b), nil }

func TestContexts(t *testing.T) {
	old := program(1, 700_000)
	content := append(edited(old[:100_000]), old[100_000:]...)
	part, blobs := made(t, content)
	x := patchOf(t, old[:1000], content[:1000]) // any that is not reached
	part.Patches = []release.Patch{{From: hashOf(old), FromSize: int64(len(old)), Blob: hashOf(x), Size: int64(len(x))}}
	blobs[hashOf(x)] = x
	for name, way := range map[string]delta.Way{"copy": {Copy: true}, "patch": {Patch: &part.Patches[0]}, "frames": {}} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var opened []string
		err := delta.Apply(ctx, part, way, bytes.NewReader(old), opener(blobs, &opened), io.Discard)
		if name == "frames" {
			var fe *delta.FrameError
			if !errors.As(err, &fe) {
				t.Errorf("frames: %v", err)
			}
		}
		if !errors.Is(err, context.Canceled) || errors.Is(err, delta.ErrFrames) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := delta.Apply(ctx, part, delta.Way{Copy: true}, bytes.NewReader(content), nil, cancelling{cancel})
	if !errors.Is(err, context.Canceled) || errors.Is(err, delta.ErrFrames) {
		t.Errorf("cancelled on its way: %v", err)
	}
	if _, err := delta.Choose(ctx, part, bytes.NewReader(old), int64(len(old))); !errors.Is(err, context.Canceled) {
		t.Errorf("choose: %v", err)
	}
}
