package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/croft-os/croft/hardware/fat/fattest"
)

// exKinds are the sizes of volumes, and the arguments of mkfs.exfat.
var exKinds = map[string]struct {
	size int64
	args []string
}{
	"small clusters": {4 << 20, []string{"-c", "512", "-L", "Größe"}},
	"as it comes":    {32 << 20, []string{"-L", "CROFT"}},
	"large clusters": {32 << 20, []string{"-c", "256K"}},
}

var exSamples sync.Map

// exSample is a volume, and the contents of its files by path.
func exSample(t testing.TB, kind string) ([]byte, map[string][]byte) {
	t.Helper()
	made, ok := exSamples.Load(kind)
	if !ok {
		made = newExSample(t, kind)
		exSamples.Store(kind, made)
	}
	v := made.(volumeFiles)
	return bytes.Clone(v.volume), v.files
}

func newExSample(t testing.TB, kind string) volumeFiles {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	files := map[string][]byte{}
	img := fattest.ExFAT(t, exKinds[kind].size, exKinds[kind].args, func(dir string) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		put := func(name string, size int) {
			b := make([]byte, size)
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
			must(os.WriteFile(filepath.Join(dir, name), b, 0o600))
			files[name] = b
		}
		// Two files that grow by turns are in many pieces.
		names := []string{"Pieces.data", "other pieces"}
		for range 12 {
			for _, name := range names {
				b := bytes.Repeat([]byte{byte(rng.Uint32())}, 3001)
				f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
				must(err)
				_, err = f.Write(b)
				must(errors.Join(err, f.Close()))
				files[name] = append(files[name], b...)
			}
		}
		put("croft.json", 4096)
		put("in one piece", 70_001)
		put("empty", 0)
		put("gone", 10)
		must(os.Remove(filepath.Join(dir, "gone")))
		delete(files, "gone")
		put(strings.Repeat("n", 255), 1)
		put("Grüße und ein Name, der länger ist als fünfzehn.txt", 700)
		put("loader/loader.conf", 513)
		for i := range 60 {
			put(fmt.Sprintf("loader/entries/filler that makes the folder long %d", i), 1)
			if i%20 == 0 {
				put(fmt.Sprintf("between %d", i), 1)
			}
		}
		put("loader/entries/last", 30)
	})
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return volumeFiles{b, files}
}

func TestExFAT(t *testing.T) {
	for kind, how := range exKinds {
		t.Run(kind, func(t *testing.T) {
			img, want := exSample(t, kind)
			r := bytes.NewReader(img)
			for name, content := range want {
				for _, n := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
					if strings.Contains(n, "SS") {
						continue // of ß: no simple folding
					}
					if got, err := ReadFile(r, n, 1<<20); err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s: %d bytes of %d: %v", n, len(got), len(content), err)
					}
				}
			}
			for _, name := range []string{
				"", "/", "croft", "gone", "loader", "loader/none", "croft.json/x", "a/b/c", strings.Repeat("n", 254), "CROFT",
			} {
				if _, err := Find(r, name); !errors.Is(err, ErrNotFound) {
					t.Errorf("%q: %v", name, err)
				}
			}
			if _, err := ReadFile(r, "croft.json", 4095); !errors.Is(err, ErrTooLarge) {
				t.Errorf("a file beyond the limit: %v", err)
			}
			if _, err := End(r); !errors.Is(err, ErrNotFAT) {
				t.Errorf("end: %v", err)
			}
			label := ""
			if i := slices.Index(how.args, "-L"); i >= 0 {
				label = how.args[i+1]
			}
			if got, err := Label(r); err != nil || got != label {
				t.Errorf("label %q, %v", got, err)
			}
			// Both ways to say where clusters are were read.
			v, err := open(r)
			if err != nil || !v.ex {
				t.Fatal(v, err)
			}
			for name, run := range map[string]bool{"in one piece": true, "Pieces.data": kind == "large clusters"} {
				f, err := Find(r, name)
				e, lerr := v.lookup(entry{folder: true, cluster: v.root}, name)
				if err := errors.Join(err, lerr); err != nil || e.run != run || (len(f.Extents) == 1) != run {
					t.Errorf("%s: %+v in %d pieces, %v", name, e, len(f.Extents), err)
				}
			}
		})
	}
}

// boot is a copy of a volume with a field of its boot sector changed, and the checksum to match.
func boot(img []byte, change func(b []byte)) []byte {
	b := bytes.Clone(img)
	change(b)
	var sum uint32
	for i, c := range b[:11*512] {
		if i != 106 && i != 107 && i != 112 {
			sum = sum<<31 | sum>>1
			sum += uint32(c)
		}
	}
	for at := 11 * 512; at < 12*512; at += 4 {
		binary.LittleEndian.PutUint32(b[at:], sum)
	}
	return b
}

// TestExFATDamaged: what does not fit together is refused, whatever says so.
func TestExFATDamaged(t *testing.T) {
	img, want := exSample(t, "small clusters")
	le := binary.LittleEndian
	v, err := open(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(b []byte)
		err    error
	}{
		"nothing":               {func([]byte) {}, nil},
		"dirty, and filled":     {func(b []byte) { b[106], b[112] = 2, 99 }, nil},
		"jump":                  {func(b []byte) { b[0] = 0xe9 }, ErrNotFAT},
		"name":                  {func(b []byte) { b[7] = ' ' }, ErrNotFAT},
		"must be zero":          {func(b []byte) { b[63] = 1 }, ErrNotFAT},
		"signature":             {func(b []byte) { b[511] = 0 }, ErrNotFAT},
		"revision":              {func(b []byte) { b[105] = 2 }, ErrNotFAT},
		"sectors of 256":        {func(b []byte) { b[108] = 8 }, ErrNotFAT},
		"sectors of 8192":       {func(b []byte) { b[108] = 13 }, ErrNotFAT},
		"clusters of 64 MiB":    {func(b []byte) { b[109] = 17 }, ErrNotFAT},
		"no FAT":                {func(b []byte) { b[110] = 0 }, ErrNotFAT},
		"three FATs":            {func(b []byte) { b[110] = 3 }, ErrNotFAT},
		"a second FAT":          {func(b []byte) { b[106] = 1 }, ErrDamaged},
		"FAT in boot sectors":   {func(b []byte) { le.PutUint32(b[80:], 23) }, ErrDamaged},
		"FAT far away":          {func(b []byte) { le.PutUint32(b[80:], 1<<31) }, ErrDamaged},
		"FAT too short":         {func(b []byte) { le.PutUint32(b[84:], 1) }, ErrDamaged},
		"clusters over the FAT": {func(b []byte) { le.PutUint32(b[88:], 24) }, ErrDamaged},
		"clusters past the end": {func(b []byte) { le.PutUint32(b[92:], le.Uint32(b[92:])+1) }, ErrDamaged},
		"no clusters":           {func(b []byte) { le.PutUint32(b[92:], 0) }, ErrDamaged},
		"shorter than that":     {func(b []byte) { le.PutUint64(b[72:], 100) }, ErrDamaged},
		"longer than can be":    {func(b []byte) { le.PutUint64(b[72:], 1<<64-1) }, nil},
		"root nowhere":          {func(b []byte) { le.PutUint32(b[96:], 1) }, ErrDamaged},
		"root past the end":     {func(b []byte) { le.PutUint32(b[96:], v.last+1) }, ErrDamaged},
	} {
		_, err := Find(bytes.NewReader(boot(img, test.change)), "croft.json")
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", name, err, test.err)
		}
	}
	wrong := bytes.Clone(img)
	wrong[200]++
	if _, err := Find(bytes.NewReader(wrong), "croft.json"); !errors.Is(err, ErrDamaged) {
		t.Errorf("checksum of the boot sectors: %v", err)
	}
	if _, err := Find(bytes.NewReader(img[:512]), "croft.json"); err == nil {
		t.Error("a boot sector alone")
	}

	// The FAT, under a file in pieces.
	e, err := v.lookup(entry{folder: true, cluster: v.root}, "Pieces.data")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]uint32{
		"circle": e.cluster, "free": 0, "reserved": 1, "beyond": v.last + 1, "bad": 0xfffffff7, "media": 0xfffffff8, "too short": exChainEnd,
	} {
		b := bytes.Clone(img)
		le.PutUint32(b[v.table+4*int64(e.cluster):], value)
		if _, err := Find(bytes.NewReader(b), "Pieces.data"); !errors.Is(err, ErrDamaged) {
			t.Errorf("in the FAT, %s: %v", name, err)
		}
	}

	// A file's entries.
	root, err := v.folderEx(entry{cluster: v.root})
	if err != nil {
		t.Fatal(err)
	}
	name := utf16le("in one piece")
	at := int64(-1)
	for _, x := range root {
		if i := bytes.Index(img[x.Offset:x.Offset+x.Length], name); i >= 0 {
			at = x.Offset + int64(i) - 2 - 64
		}
	}
	if at < 0 || img[at] != exFile {
		t.Fatal("the entry is not where it was looked for")
	}
	for name, test := range map[string]struct {
		change func(set []byte)
		err    error
	}{
		"nothing":              {func([]byte) {}, nil},
		"deleted":              {func(s []byte) { s[0] &= 0x7f }, ErrNotFound},
		"no stream":            {func(s []byte) { s[32] = exName }, ErrNotFound},
		"a file between":       {func(s []byte) { s[64] = exFile }, ErrNotFound},
		"the end between":      {func(s []byte) { s[64] = 0 }, ErrNotFound},
		"no name":              {func(s []byte) { s[64] = 0xe0 }, ErrNotFound},
		"name of no length":    {func(s []byte) { s[35] = 0 }, ErrNotFound},
		"name too long":        {func(s []byte) { s[35] = 16 }, ErrNotFound},
		"entries without end":  {func(s []byte) { s[1] = 255 }, ErrNotFound},
		"not written to end":   {func(s []byte) { le.PutUint64(s[40:], 5) }, ErrDamaged},
		"larger than written":  {func(s []byte) { le.PutUint64(s[56:], 1<<20) }, ErrDamaged},
		"over 4 GiB":           {func(s []byte) { le.PutUint64(s[40:], 1<<63); le.PutUint64(s[56:], 1<<63) }, ErrTooLarge},
		"larger than the rest": {func(s []byte) { le.PutUint64(s[40:], 4<<20); le.PutUint64(s[56:], 4<<20) }, ErrDamaged},
		"cluster 0":            {func(s []byte) { le.PutUint32(s[52:], 0) }, ErrDamaged},
		"cluster past the end": {func(s []byte) { le.PutUint32(s[52:], v.last+1) }, ErrDamaged},
	} {
		b := bytes.Clone(img)
		set := b[at : at+96]
		test.change(set)
		le.PutUint16(set[2:], setChecksum(set))
		if _, err := Find(bytes.NewReader(b), "in one piece"); !errors.Is(err, test.err) {
			t.Errorf("entries, %s: %v, want %v", name, err, test.err)
		}
		if got, err := ReadFile(bytes.NewReader(b), "croft.json", 4096); err != nil || !bytes.Equal(got, want["croft.json"]) {
			if !strings.Contains(name, "the end") {
				t.Errorf("entries, %s: another file: %v", name, err)
			}
		}
	}
	b := bytes.Clone(img)
	b[at+4] ^= 1
	if _, err := Find(bytes.NewReader(b), "in one piece"); !errors.Is(err, ErrNotFound) {
		t.Errorf("wrong checksum: %v", err)
	}
}

func utf16le(s string) []byte {
	var b []byte
	for _, c := range s {
		b = append(b, byte(c), byte(c>>8))
	}
	return b
}

// FuzzExFAT replaces bytes of a real volume, each three bytes of place and one of value; the checksums of the boot sectors and of
// a file's entries are mended, so that they keep nothing off.
func FuzzExFAT(f *testing.F) {
	img, want := exSample(f, "small clusters")
	v, err := open(bytes.NewReader(img))
	if err != nil {
		f.Fatal(err)
	}
	three := func(at int64) []byte { return []byte{byte(at >> 16), byte(at >> 8), byte(at)} }
	for _, name := range slices.Sorted(maps.Keys(want))[:8] {
		f.Add([]byte{0, 0, 109, 3, 0, 0, 96, 7}, name)
	}
	f.Add(append(three(v.table+40), 5), "Pieces.data")
	f.Add(append(three(v.data+int64(v.root-2)*v.cluster+97), 3), "croft.json")
	f.Add([]byte{0, 0, 92, 0xff, 0, 0, 93, 0xff, 0, 0, 72, 0xff, 0, 0, 75, 0xff}, "loader/entries/last")
	f.Fuzz(func(t *testing.T, changes []byte, name string) {
		head := bytes.Clone(img[:64<<10])
		c := changed{img, map[int64]byte{}}
		for e := range slices.Chunk(changes, 4) {
			if at := int64(e[0]) << 16; len(e) == 4 {
				at |= int64(e[1])<<8 | int64(e[2])
				if c.bytes[at] = e[3]; at < int64(len(head)) {
					head[at] = e[3]
				}
			}
		}
		mended := boot(head, func([]byte) {})
		for at := int64(11 * 512); at < 12*512; at++ {
			c.bytes[at] = mended[at]
		}
		Label(c)
		got, err := Find(c, name)
		if err != nil {
			return
		}
		var sum int64
		for i, e := range got.Extents {
			sum += e.Length
			if e.Offset < 24*512 || e.Length <= 0 {
				t.Errorf("extent %+v", e)
			}
			for _, o := range got.Extents[:min(i, 200)] {
				if e.Offset < o.Offset+o.Length && o.Offset < e.Offset+e.Length {
					t.Errorf("extents %+v and %+v overlap", o, e)
				}
			}
		}
		if sum != got.Size {
			t.Errorf("extents of %d bytes for a file of %d", sum, got.Size)
		}
		ReadFile(c, name, 1<<20)
	})
}

// FuzzExFATSet reads a file's entries that are anything, with the right checksum.
func FuzzExFATSet(f *testing.F) {
	set := make([]byte, 96)
	set[0], set[1], set[32], set[33], set[35], set[64] = exFile, 2, exStream, 3, 1, exName
	set[66] = 'x'
	f.Add(set)
	f.Fuzz(func(t *testing.T, set []byte) {
		set = set[:min(len(set)/32, 256)*32]
		if len(set) == 0 {
			return
		}
		binary.LittleEndian.PutUint16(set[2:], setChecksum(set))
		e, err := match(set, "x")
		if err != nil && !errors.Is(err, ErrDamaged) || e != nil && (e.size < 0 || err != nil) {
			t.Errorf("%+v, %v", e, err)
		}
	})
}
