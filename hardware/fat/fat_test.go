package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// tool runs a foreign program that makes or judges a volume.
func tool(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return out
}

// kinds are the arguments of mkfs.fat; the volume's size in KiB comes last.
var kinds = map[string][]string{
	"FAT12":                 {"-F", "12", "-s", "2", "-C", "VOLUME", "1440"},
	"FAT12, odd clusters":   {"-F", "12", "-s", "1", "-C", "VOLUME", "2001"},
	"FAT16":                 {"-F", "16", "-s", "1", "-C", "VOLUME", "16384"},
	"FAT16, large sectors":  {"-F", "16", "-S", "4096", "-s", "1", "-C", "VOLUME", "65536"},
	"FAT32":                 {"-F", "32", "-s", "1", "-C", "VOLUME", "36864"},
	"FAT32, large clusters": {"-F", "32", "-s", "8", "-C", "VOLUME", "300000"},
}

// samples are the volumes that sample made, by their arguments: making one takes hundreds of runs of mtools.
var samples sync.Map

type volumeFiles struct {
	volume []byte
	files  map[string][]byte
}

// sample is a volume with files in many pieces, and the files' contents by path. The volume is the caller's to change.
func sample(t testing.TB, args []string) (string, map[string][]byte) {
	t.Helper()
	key := strings.Join(args, " ")
	made, ok := samples.Load(key)
	if !ok {
		img, files := newSample(t, args)
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		made, _ = samples.LoadOrStore(key, volumeFiles{b, files})
	}
	img := filepath.Join(t.TempDir(), "VOLUME")
	if err := os.WriteFile(img, made.(volumeFiles).volume, 0o600); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, content := range made.(volumeFiles).files {
		files[name] = bytes.Clone(content)
	}
	return img, files
}

func newSample(t testing.TB, args []string) (string, map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	img := filepath.Join(dir, "VOLUME")
	tool(t, dir, "mkfs.fat", args...)
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[string][]byte{}
	put := func(name string, size int) {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, dir, "mcopy", "-o", "-i", img, "x", "::/"+name)
		want[name] = b
	}
	// The next large file goes into the gaps that deleted ones leave.
	for i := range 40 {
		put(fmt.Sprintf("gap with a long name %d.bin", i), 5000)
	}
	for i := 0; i < 40; i += 2 {
		name := fmt.Sprintf("gap with a long name %d.bin", i)
		tool(t, dir, "mdel", "-i", img, "::/"+name)
		delete(want, name)
	}
	if slices.Contains(args, "32") {
		// FAT32 remembers where the free clusters begin (fatgen103, "FAT32 FSInfo Sector"): let it look again.
		f, err := os.OpenFile(img, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 512+492); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	put("Pieces.data", 130_001)
	put("croft.json", 4096)
	put("CROFT.TXT", 512)
	put("NOEXT", 1)
	put("empty", 0)
	put("Grüße und ein Name, der länger ist als sechsundzwanzig.txt", 700)
	tool(t, dir, "mmd", "-i", img, "::/loader", "::/loader/entries with a long name")
	put("loader/loader.conf", 513)
	put("loader/entries with a long name/croft-a.conf", 4097)
	for i := range 60 {
		put(fmt.Sprintf("loader/entries with a long name/filler that makes the folder long %d", i), 1)
	}
	put("loader/entries with a long name/last", 30)
	tool(t, dir, "dosfsck", "-n", img)
	return img, want
}

func TestFind(t *testing.T) {
	for kind, args := range kinds {
		t.Run(kind, func(t *testing.T) {
			img, want := sample(t, args)
			f, err := os.Open(img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			v, err := open(f)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("FAT%d", v.bits) != kind[:5] {
				t.Errorf("taken for FAT%d", v.bits)
			}
			for name, content := range want {
				for _, n := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
					got, err := ReadFile(f, n, 1<<20)
					if err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s: %d bytes of %d: %v", n, len(got), len(content), err)
					}
				}
			}
			pieces, err := Find(f, "pieces.data")
			if err != nil || len(pieces.Extents) < 2 {
				t.Errorf("the file in pieces has %d: %v", len(pieces.Extents), err)
			}
			// Its short name leads to a file too.
			if got, err := ReadFile(f, "croft~1.jso", 4096); err != nil || !bytes.Equal(got, want["croft.json"]) {
				t.Errorf("by its short name: %v", err)
			}
			for _, name := range []string{
				"", "/", "croft", "croft.jso", "gap with a long name 0.bin", "loader", "loader/none", "croft.txt/x", "NO NAME", "a/b/c",
			} {
				if _, err := Find(f, name); !errors.Is(err, ErrNotFound) {
					t.Errorf("%q: %v", name, err)
				}
			}
			if _, err := ReadFile(f, "croft.json", 4095); !errors.Is(err, ErrTooLarge) {
				t.Errorf("a file beyond the limit: %v", err)
			}
		})
	}
}

func TestOverwrite(t *testing.T) {
	for kind, args := range kinds {
		t.Run(kind, func(t *testing.T) {
			img, want := sample(t, args)
			f, err := os.OpenFile(img, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, name := range []string{"Pieces.data", "croft.json"} {
				file, err := Find(f, name)
				if err != nil {
					t.Fatal(err)
				}
				if err := Overwrite(f, file, make([]byte, file.Size+1)); !errors.Is(err, ErrTooLarge) {
					t.Errorf("longer than the file: %v", err)
				}
				content := bytes.Repeat([]byte(name), int(file.Size)/len(name))
				if err := Overwrite(f, file, content); err != nil {
					t.Fatal(err)
				}
				copy(want[name], content)
			}
			tool(t, "", "dosfsck", "-n", img)
			for name, content := range want {
				if got := tool(t, "", "mcopy", "-i", img, "::/"+name, "-"); !bytes.Equal(got, content) {
					t.Errorf("mcopy reads another %s", name)
				}
			}
		})
	}
}

// TestEnd: a volume that is cut behind its last cluster in use, and filled up with anything, has all its files and is whole.
func TestEnd(t *testing.T) {
	for name, args := range kinds {
		if name == "FAT32, large clusters" {
			continue // 300 MB to copy, and nothing that is different
		}
		t.Run(name, func(t *testing.T) {
			img, want := sample(t, args)
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			end, err := End(bytes.NewReader(b))
			if err != nil || end <= 0 || end > int64(len(b)) {
				t.Fatalf("end at %d of %d, %v", end, len(b), err)
			}
			last := int64(0)
			for name := range want {
				f, err := Find(bytes.NewReader(b), name)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range f.Extents {
					last = max(last, e.Offset+e.Length)
				}
			}
			if last > end {
				t.Errorf("end at %d, and a file reaches to %d", end, last)
			}
			rest := b[end:]
			copy(rest, bytes.Repeat([]byte{0xa5}, min(len(rest), 1<<20)))
			if err := os.WriteFile(img, b, 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, "", "dosfsck", "-n", img)
			for name, content := range want {
				if got, err := ReadFile(bytes.NewReader(b), name, maxFile); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
		})
	}
	// With one file in a fresh volume, the end is known to the byte.
	dir := t.TempDir()
	tool(t, dir, "mkfs.fat", kinds["FAT32"]...)
	if err := os.WriteFile(filepath.Join(dir, "x"), make([]byte, 3*512+1), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, dir, "mcopy", "-i", "VOLUME", "x", "::/x")
	b, err := os.ReadFile(filepath.Join(dir, "VOLUME"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Find(bytes.NewReader(b), "x")
	if err != nil {
		t.Fatal(err)
	}
	if end, err := End(bytes.NewReader(b)); err != nil || end != f.Extents[0].Offset+4*512 {
		t.Errorf("end at %d, want %d: %v", end, f.Extents[0].Offset+4*512, err)
	}
	if _, err := End(bytes.NewReader(make([]byte, 4096))); !errors.Is(err, ErrNotFAT) {
		t.Errorf("zeros: %v", err)
	}
}

// TestFewClusters: Linux takes such a volume for FAT32 too; mtools don't, so that it stays without files here.
func TestFewClusters(t *testing.T) {
	dir := t.TempDir()
	tool(t, dir, "mkfs.fat", "-F", "32", "-s", "8", "-C", "VOLUME", "36864")
	f, err := os.Open(filepath.Join(dir, "VOLUME"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if v, err := open(f); err != nil || v.bits != 32 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := Find(f, "croft.json"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestActiveFAT: with mirroring off, only the table that the flags name counts.
func TestActiveFAT(t *testing.T) {
	img, want := sample(t, kinds["FAT32"])
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	first := int(le.Uint16(b[14:])) * 512
	clear(b[first : first+int(le.Uint32(b[36:]))*512])
	if _, err := Find(bytes.NewReader(b), "croft.json"); err == nil {
		t.Error("found by a table of zeros")
	}
	le.PutUint16(b[40:], 0x81)
	if got, err := ReadFile(bytes.NewReader(b), "croft.json", 4096); err != nil || !bytes.Equal(got, want["croft.json"]) {
		t.Errorf("by the second table: %v", err)
	}
	le.PutUint16(b[40:], 0x8f)
	if _, err := Find(bytes.NewReader(b), "croft.json"); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a table that isn't there: %v", err)
	}
}

// TestDamaged: chains that lead nowhere, in circles or to the wrong length are refused.
func TestDamaged(t *testing.T) {
	img, _ := sample(t, kinds["FAT16"])
	whole, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	table := int(le.Uint16(whole[14:])) * 512
	file, err := Find(bytes.NewReader(whole), "croft.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := open(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	cluster := int((file.Extents[0].Offset-v.data)/v.cluster) + 2
	for name, value := range map[string]uint16{
		"circle": uint16(cluster), "free": 0, "reserved": 1, "beyond the volume": 0xfff0, "bad": 0xfff7, "too short": 0xffff,
	} {
		b := bytes.Clone(whole)
		le.PutUint16(b[table+2*cluster:], value)
		if _, err := Find(bytes.NewReader(b), "croft.json"); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The folder's entry says that the file is shorter than its chain.
	b := bytes.Clone(whole)
	at := bytes.Index(b, []byte("CROFT~1 JSO"))
	le.PutUint32(b[at+28:], 1)
	if _, err := Find(bytes.NewReader(b), "croft.json"); !errors.Is(err, ErrDamaged) {
		t.Errorf("too long: %v", err)
	}
	// A long name whose checksum is of another short name does not count.
	b = bytes.Clone(whole)
	b[at-32+13]++
	if _, err := Find(bytes.NewReader(b), "croft.json"); !errors.Is(err, ErrNotFound) {
		t.Errorf("orphaned long name: %v", err)
	}
	if _, err := Find(bytes.NewReader(b), "croft~1.jso"); err != nil {
		t.Errorf("its short name: %v", err)
	}
}

func TestNotFAT(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty": nil, "short": make([]byte, 511), "zeros": make([]byte, 4096), "text": bytes.Repeat([]byte("croft"), 1000),
	} {
		if _, err := Find(bytes.NewReader(b), "croft.json"); !errors.Is(err, ErrNotFAT) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	img := filepath.Join(dir, "ext4")
	tool(t, dir, "mkfs.ext4", "-q", img, "4M")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(bytes.NewReader(b), "croft.json"); !errors.Is(err, ErrNotFAT) {
		t.Errorf("ext4: %v", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// TestReadError: that the medium can't be read is not that the file is not there.
func TestReadError(t *testing.T) {
	eio := errors.New("input/output error")
	if _, err := Find(failing{eio}, "croft.json"); !errors.Is(err, eio) {
		t.Error(err)
	}
	img, want := sample(t, kinds["FAT32"])
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	// The end of the medium comes where the file lies.
	f, err := Find(bytes.NewReader(b), "croft.json")
	if err != nil || int(f.Size) != len(want["croft.json"]) {
		t.Fatal(f, err)
	}
	if _, err := ReadFile(bytes.NewReader(b[:f.Extents[0].Offset+100]), "croft.json", 4096); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
}

// changed is a volume of which single bytes were replaced: FuzzFind mutates only what counts.
type changed struct {
	base  []byte
	bytes map[int64]byte
}

func (c changed) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(c.base).ReadAt(p, off)
	for i := range n {
		if b, ok := c.bytes[off+int64(i)]; ok {
			p[i] = b
		}
	}
	return n, err
}

// FuzzFind replaces bytes of a real volume, each three bytes of place and one of value.
func FuzzFind(f *testing.F) {
	var bases [][]byte
	for _, kind := range []string{"FAT12", "FAT16", "FAT32"} {
		img, _ := sample(f, kinds[kind])
		b, err := os.ReadFile(img)
		if err != nil {
			f.Fatal(err)
		}
		bases = append(bases, b)
		f.Add(uint8(len(bases)), []byte{0, 0, 13, 8, 0, 2, 0, 0}, "croft.json")
		f.Add(uint8(len(bases)), []byte{0, 0, 36, 1, 0, 0, 44, 9}, "loader/entries with a long name/last")
		f.Add(uint8(len(bases)), []byte{0, 0, 11, 0}, "Pieces.data")
	}
	f.Fuzz(func(t *testing.T, kind uint8, changes []byte, name string) {
		c := changed{bases[int(kind)%len(bases)], map[int64]byte{}}
		for e := range slices.Chunk(changes, 4) {
			if len(e) == 4 {
				c.bytes[int64(e[0])<<16|int64(e[1])<<8|int64(e[2])] = e[3]
			}
		}
		got, err := Find(c, name)
		if err != nil {
			return
		}
		var sum int64
		for i, e := range got.Extents {
			sum += e.Length
			if e.Offset < 512 || e.Length <= 0 {
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
