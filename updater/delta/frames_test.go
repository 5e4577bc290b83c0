package delta_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/release"
)

func readFrames(part release.Part, blob []byte) ([]byte, error) {
	out := &limited{t: part.Size}
	err := delta.ReadFrames(part, bytes.NewReader(blob), out)
	if out.over {
		return nil, errOver
	}
	return out.b.Bytes(), err
}

// sparse is quickly compressed.
func sparse(n int) []byte {
	b := make([]byte, n)
	for at := 0; at < n; at += 2 << 20 {
		copy(b[at:], program(uint64(at), 50_000))
	}
	return b
}

func TestFrames(t *testing.T) {
	noise := sha256.New()
	random := make([]byte, 0, release.FrameSize)
	for len(random) < release.FrameSize {
		noise.Write([]byte{1})
		random = noise.Sum(random)
	}
	for name, content := range map[string][]byte{
		"one byte":             {7},
		"small":                program(1, 1000),
		"one frame":            sparse(release.FrameSize),
		"one frame and a byte": sparse(release.FrameSize + 1),
		"three frames":         sparse(release.FrameSize * 5 / 2),
		"can't be compressed":  random,
	} {
		t.Run(name, func(t *testing.T) {
			part, blobs := made(t, content)
			blob := blobs[part.Frames.Blob]
			if n := (len(content) + release.FrameSize - 1) / release.FrameSize; len(part.Frames.List) != n || part.Size != int64(len(content)) ||
				part.SHA256 != hashOf(content) || part.Frames.Size != int64(len(blob)) || part.Frames.Blob != hashOf(blob) {
				t.Fatalf("description %+v", part)
			}
			got, err := readFrames(part, blob)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			// More of a file than the frames is of no interest.
			if got, err := readFrames(part, append(bytes.Clone(blob), 1)); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			cmd := exec.Command("zstd", "-dc", "--memory=4MB")
			if cmd.Err != nil {
				t.Skip(cmd.Err)
			}
			cmd.Stdin = bytes.NewReader(blob)
			if got, err := cmd.Output(); err != nil || !bytes.Equal(got, content) {
				t.Errorf("zstd: %v", err)
			}
		})
	}
	if _, _, _, err := delta.WriteFrames(io.Discard, bytes.NewReader(nil)); err == nil {
		t.Error("wrote an empty part")
	}
	if _, _, _, err := delta.WriteFrames(io.Discard, zeros{}); err == nil {
		t.Error("wrote an endless part")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// anew describes a blob of one frame as if a publisher had signed it.
func anew(frame []byte, size int64, sum string) release.Part {
	return release.Part{Size: size, SHA256: sum, Frames: release.Frames{
		Blob: hashOf(frame), Size: int64(len(frame)), List: []release.Frame{{Size: int64(len(frame)), SHA256: hashOf(frame)}},
	}}
}

func compress(t testing.TB, b []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out, append(o, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enc.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestHostileFrames(t *testing.T) {
	content := program(1, 100_000)
	sum := hashOf(content)
	good := compress(t, content)
	skip := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, 1, 2, 3, 4)
	full := sparse(release.FrameSize)
	raw := func(b ...byte) []byte { return append([]byte{0x28, 0xb5, 0x2f, 0xfd}, b...) }
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	for name, test := range map[string]struct {
		frame []byte
		size  int64
		sum   string
		good  bool
	}{
		"good":                        {good, 100_000, sum, true},
		"of another encoder":          {compress(t, full, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false)), release.FrameSize, hashOf(full), true},
		"makes less":                  {good, 100_001, sum, false},
		"makes more":                  {good, 99_999, sum, false},
		"makes far more":              {compress(t, make([]byte, 20<<20)), release.FrameSize, sum, false},
		"makes far more, and says so": {compressAll(t, make([]byte, 10<<20)), release.FrameSize, sum, false},
		"says that it makes 2^60":     {raw(0xe0, 0, 0, 0, 0, 0, 0, 0, 16, 1, 0, 0), 1, sum, false},
		"window of 8 MB":              {compress(t, full, zstd.WithWindowSize(8<<20)), release.FrameSize, hashOf(full), false},
		"window of terabytes":         {raw(0, 0xff, 1, 0, 0), 1, sum, false},
		"needs a dictionary":          {raw(0x21, 9, 1, 9, 0, 0, 'x'), 1, hashOf([]byte("x")), false},
		"skippable":                   {skip, 100_000, sum, false},
		"skippable first":             {join(skip, good), 100_000, sum, false},
		"skippable last":              {join(good, skip), 100_000, sum, false},
		"two frames":                  {join(compress(t, content[:50_000]), compress(t, content[50_000:])), 100_000, sum, false},
		"empty frame behind":          {join(good, compressAll(t, nil), raw(0x20, 0, 1, 0, 0)), 100_000, sum, false},
		"a byte behind":               {join(good, []byte{0}), 100_000, sum, false},
		"cut off":                     {good[:len(good)-1], 100_000, sum, false},
		"header only":                 {good[:6], 100_000, sum, false},
		"not a frame":                 {[]byte("<html>"), 100_000, sum, false},
		"one literal":                 {raw(0x20, 1, 9, 0, 0, 'x'), 1, hashOf([]byte("x")), true},
		"another part's hash":         {good, 100_000, hashOf(full), false},
	} {
		t.Run(name, func(t *testing.T) {
			part := anew(test.frame, test.size, test.sum)
			got, err := readFrames(part, test.frame)
			if test.good != (err == nil) || errors.Is(err, errOver) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			var fe *delta.FrameError
			if err != nil && !errors.As(err, &fe) && !errors.Is(err, delta.ErrContent) {
				t.Errorf("%v", err)
			}
		})
	}
}

func compressAll(t testing.TB, b []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithWindowSize(4<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(b, nil)
}

func TestDescriptionOfFrames(t *testing.T) {
	content := sparse(release.FrameSize + 1000)
	part, blobs := made(t, content)
	blob := blobs[part.Frames.Blob]
	for name, change := range map[string]func(*release.Part){
		"no frames":      func(p *release.Part) { p.Frames.List = nil },
		"one too few":    func(p *release.Part) { p.Frames.List = p.Frames.List[:1] },
		"one too many":   func(p *release.Part) { p.Frames.List = append(p.Frames.List, p.Frames.List[1]) },
		"size nothing":   func(p *release.Part) { p.Size = 0 },
		"size negative":  func(p *release.Part) { p.Size = -1 },
		"size too large": func(p *release.Part) { p.Size = 1 << 60 },
		"frame empty":    func(p *release.Part) { p.Frames.List[0].Size = 0 },
		"frame negative": func(p *release.Part) { p.Frames.List[0].Size = -1 },
		"frame huge":     func(p *release.Part) { p.Frames.List[0].Size = 1 << 60 },
		"second huge":    func(p *release.Part) { p.Frames.List[1].Size = 1 << 60 },
		"second off":     func(p *release.Part) { p.Frames.List[1].Size++ },
		"frame's hash":   func(p *release.Part) { p.Frames.List[1].SHA256 = hashOf(nil) },
		"part's hash":    func(p *release.Part) { p.SHA256 = hashOf(nil) },
	} {
		p := part
		p.Frames.List = append([]release.Frame(nil), part.Frames.List...)
		change(&p)
		if got, err := readFrames(p, blob); err == nil {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

// TestDamagedFrames changes each byte of a blob of frames, and cuts it off everywhere: the frame's hash notices. Then it does the
// same to a frame whose hash is right, so that the decoder sees it.
func TestDamagedFrames(t *testing.T) {
	content := append(program(1, 700), make([]byte, 300)...)
	part, blobs := made(t, content)
	good := blobs[part.Frames.Blob]
	var fe *delta.FrameError
	for i := range good {
		for _, x := range []byte{1, 0x10, 0x80, 0xff} {
			b := bytes.Clone(good)
			b[i] ^= x
			if _, err := readFrames(part, b); !errors.As(err, &fe) || fe.Frame != 0 {
				t.Fatalf("byte %d: %v", i, err)
			}
			got, err := readFrames(anew(b, part.Size, part.SHA256), b)
			if errors.Is(err, errOver) || err == nil && !bytes.Equal(got, content) {
				t.Fatalf("byte %d: %d bytes, %v", i, len(got), err)
			}
		}
		if _, err := readFrames(part, good[:i]); !errors.As(err, &fe) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut off at %d: %v", i, err)
		}
	}
}

func TestSecondFrameDamaged(t *testing.T) {
	part, blobs := made(t, sparse(release.FrameSize+1000))
	b := bytes.Clone(blobs[part.Frames.Blob])
	b[part.Frames.List[0].Size+10]++
	var fe *delta.FrameError
	got, err := readFrames(part, b)
	if !errors.As(err, &fe) || fe.Frame != 1 || len(got) != release.FrameSize {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func FuzzFrames(f *testing.F) {
	content := append(program(1, 700), make([]byte, 300)...)
	f.Add(compressAll(f, content), uint32(1000))
	f.Add(compress(f, content), uint32(1000))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 9, 0, 0, 'x'}, uint32(1))
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, uint32(4))
	f.Fuzz(func(t *testing.T, b []byte, size uint32) {
		part := anew(b, int64(size%release.FrameSize)+1, "")
		h := sha256.New()
		out := &limited{t: part.Size}
		err := delta.ReadFrames(part, bytes.NewReader(b), io.MultiWriter(out, h))
		if out.over {
			t.Fatal(errOver)
		}
		if !errors.Is(err, delta.ErrContent) {
			return
		}
		// All was right but the part's hash. So it has to be right with the right one.
		part.SHA256 = hex.EncodeToString(h.Sum(nil))
		if err := delta.ReadFrames(part, bytes.NewReader(b), io.Discard); err != nil || int64(out.b.Len()) != part.Size {
			t.Fatalf("%d bytes, %v", out.b.Len(), err)
		}
	})
}
