package delta_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/dsnet/compress/bzip2"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/release"
)

// pairs of files, of which one is turned into the other.
var pairs = map[string]struct{ old, content []byte }{
	"both empty":     {nil, nil},
	"empty":          {program(1, 1000), nil},
	"from nothing":   {nil, program(1, 1000)},
	"same":           {program(1, 10_000), program(1, 10_000)},
	"one byte":       {[]byte{1}, []byte{2}},
	"edited":         {program(1, 40_000), edited(program(1, 40_000))},
	"back":           {edited(program(1, 40_000)), program(1, 40_000)},
	"grown":          {program(1, 5_000), append(program(1, 5_000), program(2, 40_000)...)},
	"shrunk":         {program(1, 40_000), program(1, 40_000)[30_000:34_000]},
	"not alike":      {program(1, 10_000), program(2, 10_000)},
	"zeros":          {make([]byte, 20_000), make([]byte, 30_000)},
	"words repeated": {bytes.Repeat([]byte("abc"), 4_000), bytes.Repeat([]byte("abd"), 5_000)},
}

func apply(old, patch []byte, limit int64) ([]byte, error) {
	out := &limited{t: limit}
	err := delta.Patch(bytes.NewReader(old), int64(len(old)), bytes.NewReader(patch), int64(len(patch)), out, limit)
	if out.over {
		return nil, errOver
	}
	return out.b.Bytes(), err
}

var errOver = errors.New("wrote more than it may")

// limited notices who writes more than it may.
type limited struct {
	b    bytes.Buffer
	t    int64
	over bool
}

func (l *limited) Write(b []byte) (int, error) {
	if int64(l.b.Len()+len(b)) > l.t {
		l.over = true
	}
	return l.b.Write(b)
}

func TestPatch(t *testing.T) {
	for name, p := range pairs {
		t.Run(name, func(t *testing.T) {
			x := patchOf(t, p.old, p.content)
			got, err := apply(p.old, x, int64(len(p.content)))
			if err != nil || !bytes.Equal(got, p.content) {
				t.Fatalf("%d bytes instead of %d, %v", len(got), len(p.content), err)
			}
			if again := patchOf(t, p.old, p.content); !bytes.Equal(again, x) {
				t.Error("a second patch is another one")
			}
			if len(p.content) > 0 {
				if _, err := apply(p.old, x, int64(len(p.content))-1); !errors.Is(err, delta.ErrPatch) {
					t.Errorf("beyond its limit: %v", err)
				}
			}
		})
	}
}

// TestForeignPatch has the programs of Debian's package bsdiff apply ours, and ours apply theirs.
func TestForeignPatch(t *testing.T) {
	for _, name := range []string{"bsdiff", "bspatch"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	for name, p := range pairs {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			old, content, patch := filepath.Join(dir, "old"), filepath.Join(dir, "new"), filepath.Join(dir, "patch")
			for path, b := range map[string][]byte{old: p.old, content: p.content, patch: patchOf(t, p.old, p.content)} {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			made := filepath.Join(dir, "made")
			if out, err := exec.Command("bspatch", old, made, patch).CombinedOutput(); err != nil {
				t.Fatalf("bspatch: %v: %s", err, out)
			}
			if got, err := os.ReadFile(made); err != nil || !bytes.Equal(got, p.content) {
				t.Errorf("bspatch made something else: %v", err)
			}
			if len(p.old) == 0 || len(p.content) == 0 {
				return // Debian's bsdiff reads by mmap(2), which takes no empty file
			}
			if out, err := exec.Command("bsdiff", old, content, patch).CombinedOutput(); err != nil {
				t.Fatalf("bsdiff: %v: %s", err, out)
			}
			b, err := os.ReadFile(patch)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := apply(p.old, b, int64(len(p.content))); err != nil || !bytes.Equal(got, p.content) {
				t.Errorf("bsdiff's patch: %v", err)
			}
		})
	}
}

// pack is a bzip2 stream.
func pack(t testing.TB, level int, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := bzip2.NewWriter(&out, &bzip2.WriterConfig{Level: level})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func number(n int64) []byte {
	if n == math.MinInt64 {
		return binary.LittleEndian.AppendUint64(nil, 1<<63) // minus zero
	}
	v := uint64(n)
	if n < 0 {
		v = uint64(-n) | 1<<63
	}
	return binary.LittleEndian.AppendUint64(nil, v)
}

// entries are control entries, three numbers each.
func entries(ns ...int64) []byte {
	var b []byte
	for _, n := range ns {
		b = append(b, number(n)...)
	}
	return b
}

// patch puts a patch together.
func patch(newSize int64, control, diff, extra []byte) []byte {
	b := append([]byte("BSDIFF40"), entries(int64(len(control)), int64(len(diff)), newSize)...)
	return bytes.Join([][]byte{b, control, diff, extra}, nil)
}

func TestHostilePatch(t *testing.T) {
	p := func(b []byte) []byte { return pack(t, 1, b) }
	old := []byte("0123456789")
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	good := patch(6, p(entries(4, 2, 0)), p([]byte{1, 1, 1, 1}), p([]byte("ab")))
	moves := make([]byte, 24*50_000)
	for name, test := range map[string]struct {
		patch []byte
		want  string // what it makes, if it may
	}{
		"good":                          {good, "1234ab"},
		"minus zero":                    {patch(6, p(entries(4, 2, math.MinInt64)), p([]byte{1, 1, 1, 1}), p([]byte("ab"))), "1234ab"},
		"moves first":                   {patch(2, p(entries(0, 0, 8, 2, 0, 0)), p([]byte{0, 0}), p(nil)), "89"},
		"moves back":                    {patch(4, p(entries(2, 0, -2, 2, 0, 0)), p(make([]byte, 4)), p(nil)), "0101"},
		"reads before the old file":     {patch(4, p(entries(0, 0, -2, 4, 0, 0)), p([]byte("ab\x00\x00")), p(nil)), "ab01"},
		"reads behind the old file":     {patch(4, p(entries(0, 0, 8, 4, 0, 0)), p([]byte("\x00\x00ab")), p(nil)), "89ab"},
		"reads far before":              {patch(2, p(entries(0, 0, -1<<60, 2, 0, 0)), p([]byte("ab")), p(nil)), "ab"},
		"reads far behind":              {patch(2, p(entries(0, 0, 1<<60, 2, 0, 0)), p([]byte("ab")), p(nil)), "ab"},
		"reads across all of it":        {patch(14, p(entries(0, 0, -2, 14, 0, 0)), p(make([]byte, 14)), p(nil)), "\x00\x000123456789\x00\x00"},
		"block of two streams":          {patch(6, p(entries(4, 2, 0)), join(p([]byte{1, 1}), p([]byte{1, 1})), p([]byte("ab"))), "1234ab"},
		"nothing":                       {nil, ""},
		"header cut off":                {good[:31], ""},
		"header only":                   {good[:32], ""},
		"other magic":                   {append([]byte("BSDIFF41"), good[8:]...), ""},
		"negative control length":       {join(good[:8], number(-1), good[16:]), ""},
		"negative difference length":    {join(good[:16], number(-1), good[24:]), ""},
		"negative size":                 {join(good[:24], number(-6), good[32:]), ""},
		"smallest number":               {join(good[:24], bytes.Repeat([]byte{0xff}, 8), good[32:]), ""},
		"control longer than all":       {join(good[:8], number(1<<40), good[16:]), ""},
		"lengths overflow":              {join(good[:8], number(math.MaxInt64), number(math.MaxInt64), good[24:]), ""},
		"huge size":                     {join(good[:24], number(math.MaxInt64), good[32:]), ""},
		"size one more than it makes":   {join(good[:24], number(7), good[32:]), ""},
		"size one less than it makes":   {join(good[:24], number(5), good[32:]), ""},
		"negative addition":             {patch(6, p(entries(-4, 10, 0)), p(nil), p([]byte("abcdefghij"))), ""},
		"negative insertion":            {patch(6, p(entries(10, -4, 0)), p(make([]byte, 10)), p(nil)), ""},
		"addition overflows":            {patch(6, p(entries(4, 0, 0, math.MaxInt64, 0, 0)), p(make([]byte, 9)), p(nil)), ""},
		"insertion overflows":           {patch(6, p(entries(4, math.MaxInt64, 0)), p(make([]byte, 9)), p(nil)), ""},
		"sum overflows":                 {patch(6, p(entries(math.MaxInt64, math.MaxInt64, 0)), p(make([]byte, 9)), p(nil)), ""},
		"position overflows":            {patch(6, p(entries(3, 0, math.MaxInt64, 3, 0, 0)), p(make([]byte, 6)), p(nil)), ""},
		"position overflows below":      {patch(6, p(entries(3, 0, -math.MaxInt64, 3, 0, 0)), p(make([]byte, 6)), p(nil)), ""},
		"position creeps up":            {patch(6, p(bytes.Repeat(entries(1, 0, 1<<61), 6)), p(make([]byte, 6)), p(nil)), ""},
		"makes nothing, many times":     {patch(6, p(moves), p(make([]byte, 6)), p(nil)), ""},
		"control block too short":       {patch(6, p(entries(2, 2, 0)), p(make([]byte, 4)), p([]byte("ab"))), ""},
		"control block cut in a number": {patch(6, p(entries(4, 2, 0)[:20]), p(make([]byte, 4)), p([]byte("ab"))), ""},
		"difference block too short":    {patch(6, p(entries(4, 2, 0)), p(make([]byte, 3)), p([]byte("ab"))), ""},
		"extra block too short":         {patch(6, p(entries(4, 2, 0)), p(make([]byte, 4)), p([]byte("a"))), ""},
		"control block too long":        {patch(6, p(entries(4, 2, 0, 0, 0, 0)), p(make([]byte, 4)), p([]byte("ab"))), ""},
		"difference block too long":     {patch(6, p(entries(4, 2, 0)), p(make([]byte, 5)), p([]byte("ab"))), ""},
		"extra block too long":          {patch(6, p(entries(4, 2, 0)), p(make([]byte, 4)), p([]byte("abc"))), ""},
		"extra block is a bomb":         {patch(6, p(entries(4, 2, 0)), p(make([]byte, 4)), p(make([]byte, 2_000_000))), ""},
		"bytes behind":                  {join(good, []byte{0}), ""},
		"a patch behind":                {join(good, good), ""},
		"bytes behind the control":      {patch(6, join(p(entries(4, 2, 0)), []byte{0}), p(make([]byte, 4)), p([]byte("ab"))), ""},
		"not compressed":                {patch(6, entries(4, 2, 0), []byte{1, 1, 1, 1}, []byte("ab")), ""},
		"empty blocks":                  {patch(6, nil, nil, nil), ""},
		"size nothing, blocks missing":  {patch(0, nil, nil, nil), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := apply(old, test.patch, 1<<20)
			switch {
			case test.want != "" && (err != nil || string(got) != test.want):
				t.Errorf("%q %v", got, err)
			case test.want == "" && !errors.Is(err, delta.ErrPatch):
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

// TestDamagedPatch changes each byte of a patch, and cuts it off everywhere: what comes of it is an error, or the right file.
func TestDamagedPatch(t *testing.T) {
	old := program(1, 1000)
	content := edited(old)
	part, blobs := made(t, content, old)
	way := delta.Way{Patch: &part.Patches[0]}
	good := blobs[way.Patch.Blob]
	rights := 0
	try := func(b []byte) {
		out := &limited{t: part.Size}
		err := delta.Apply(t.Context(), part, way, bytes.NewReader(old), func(string) (io.ReaderAt, int64, error) {
			return bytes.NewReader(b), int64(len(b)), nil
		}, out)
		switch {
		case out.over:
			t.Fatalf("wrote more than %d bytes", part.Size)
		case err == nil && !bytes.Equal(out.b.Bytes(), content):
			t.Fatal("took the wrong content")
		case err == nil:
			rights++
		case !errors.Is(err, delta.ErrFrames):
			t.Fatal(err)
		}
	}
	for i := range good {
		for _, x := range []byte{1, 0x10, 0x80, 0xff} {
			b := bytes.Clone(good)
			b[i] ^= x
			try(b)
		}
		try(good[:i])
	}
	if len(good) < 150 || rights > len(good) {
		t.Errorf("%d of %d damaged patches were right", rights, len(good))
	}
}

// TestPatchMemory gives the program that makes parts patches with blocks that are as large and as full as can be, in all three
// streams: blocks of 300 kB, as package bsdiff makes them, and of 900 kB, the largest that the format allows.
func TestPatchMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "apply")
	build := exec.Command("go", "build", "-o", program, "github.com/croft-os/croft/scripts/bench/apply")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rnd := rand.NewChaCha8([32]byte{1})
	noise := func(n int) []byte {
		b := make([]byte, n)
		rnd.Read(b)
		return b
	}
	old := noise(40 << 20)
	for level, budget := range map[int]float64{3: 16e6, 9: 24e6} {
		const add, insert = 25, 25
		pieces := level * 100_000 / 24 * 11 / 10
		diff, extra := noise(pieces*add), noise(pieces*insert)
		var control, content []byte
		pos := 0
		for i := range pieces {
			next := int(rnd.Uint64() % uint64(len(old)-add))
			control = append(control, entries(add, insert, int64(next-pos-add))...)
			d := diff[i*add:][:add]
			for j, b := range old[pos:][:add] {
				content = append(content, b+d[j])
			}
			content = append(content, extra[i*insert:][:insert]...)
			pos = next
		}
		x := patch(int64(len(content)), pack(t, level, control), pack(t, level, diff), pack(t, level, extra))
		part := release.Part{
			Size: int64(len(content)), SHA256: hashOf(content),
			Patches: []release.Patch{{From: hashOf(old), FromSize: int64(len(old)), Blob: hashOf(x), Size: int64(len(x))}},
		}
		for name, b := range map[string][]byte{"old": old, "patch": x} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		js, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "patch", "old", "patch", "new")
		cmd.Dir, cmd.Stdin, cmd.Stderr = dir, bytes.NewReader(js), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var took struct{ Seconds, Peak float64 }
		if err := json.Unmarshal(out, &took); err != nil {
			t.Fatal(err)
		}
		t.Logf("blocks of %d00 kB: %d bytes from a patch of %d: %.2f s, %.1f MB", level, len(content), len(x), took.Seconds, took.Peak/1e6)
		if made, err := os.ReadFile(filepath.Join(dir, "new")); err != nil || !bytes.Equal(made, content) {
			t.Errorf("made something else: %v", err)
		}
		if took.Peak < 1e6 || took.Peak > budget {
			t.Errorf("blocks of %d00 kB: the process took %.1f MB; the budget is %.0f", level, took.Peak/1e6, budget/1e6)
		}
	}
}

// TestDeterministic compares with what was made before, on another machine: reproducing a release includes its blobs. If an upgrade
// of an encoder changes a hash, that upgrade changes how releases are made.
func TestDeterministic(t *testing.T) {
	old := program(1, 100_000)
	content := append(edited(program(1, 300_000)), make([]byte, release.FrameSize)...)
	x := hashOf(patchOf(t, old, content[:100_000]))
	part, _ := made(t, content)
	if want := "8d7d9911209bdbb1014403f17f97fa4a012315dee7b5ad9177ff2b7ebe8f70d2"; x != want {
		t.Errorf("patch %s", x)
	}
	if want := "1ad77463e1d0950b6efef5fe45584c861d2fe7724e0cade6b77d635af6e3133a"; part.Frames.Blob != want {
		t.Errorf("frames %s", part.Frames.Blob)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	one, _ := made(t, content)
	if y := hashOf(patchOf(t, old, content[:100_000])); y != x || one.Frames.Blob != part.Frames.Blob {
		t.Error("one processor makes something else")
	}
}

func FuzzPatch(f *testing.F) {
	old := program(1, 2000)
	for name, p := range pairs {
		if len(p.content) < 5000 {
			f.Add(patchOf(f, p.old, p.content))
		} else if name == "edited" {
			f.Add(patchOf(f, old, edited(old)))
		}
	}
	for _, b := range [][]byte{patch(6, pack(f, 1, entries(4, 2, 0)), pack(f, 1, make([]byte, 4)), pack(f, 1, []byte("ab"))), nil} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		got, err := apply(old, b, limit)
		if errors.Is(err, errOver) {
			t.Fatal(err)
		}
		if err == nil && int64(len(got)) != int64(binary.LittleEndian.Uint64(b[24:])&^(1<<63)) {
			t.Fatalf("%d bytes", len(got))
		}
	})
}

// FuzzControl fuzzes what is inside of the three blocks, where FuzzPatch hardly comes.
func FuzzControl(f *testing.F) {
	f.Add(entries(4, 2, 0), make([]byte, 4), []byte("ab"), int64(6))
	f.Add(entries(4, 2, -100, 3, 3, 3000), make([]byte, 7), []byte("abcde"), int64(12))
	f.Add(entries(0, 0, -2, 14, 0, 0), make([]byte, 14), []byte{}, int64(14))
	f.Add(entries(math.MaxInt64, -5, 1<<62), []byte{}, []byte{}, int64(1<<40))
	old := program(1, 2000)
	f.Fuzz(func(t *testing.T, control, diff, extra []byte, size int64) {
		const limit = 1 << 16
		got, err := apply(old, patch(size, pack(t, 1, control), pack(t, 1, diff), pack(t, 1, extra)), limit)
		want, ok := naive(old, control, diff, extra, size, limit)
		if ok != (err == nil) || ok && !bytes.Equal(got, want) {
			t.Fatalf("%v, expected %v: %v", err, ok, fmt.Sprintf("%q, expected %q", got, want))
		}
	})
}

// naive is what the format says, in the simplest way.
func naive(old, control, diff, extra []byte, size, limit int64) ([]byte, bool) {
	if size < 0 && size != math.MinInt64 || size > limit {
		return nil, false
	}
	size = max(size, 0)
	var out []byte
	pos, n := int64(0), int64(0)
	for ; int64(len(out)) < size; n++ {
		if n > size/8+16 || len(control) < 24 {
			return nil, false
		}
		var v [3]int64
		for i := range v {
			u := binary.LittleEndian.Uint64(control[8*i:])
			if v[i] = int64(u &^ (1 << 63)); u>>63 != 0 {
				v[i] = -v[i]
			}
		}
		control = control[24:]
		left := size - int64(len(out))
		if v[0] < 0 || v[1] < 0 || v[0] > left || v[1] > left-v[0] || v[0] > int64(len(diff)) || v[1] > int64(len(extra)) {
			return nil, false
		}
		for _, d := range diff[:v[0]] {
			if pos >= 0 && pos < int64(len(old)) {
				d += old[pos]
			}
			out = append(out, d)
			pos++
		}
		diff = diff[v[0]:]
		out = append(out, extra[:v[1]]...)
		extra = extra[v[1]:]
		if v[2] > 1<<61 || v[2] < -1<<61 {
			return nil, false
		}
		if pos += v[2]; pos > 1<<61 || pos < -1<<61 {
			return nil, false
		}
	}
	return out, len(control)+len(diff)+len(extra) == 0
}
