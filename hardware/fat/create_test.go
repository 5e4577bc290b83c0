package fat

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// synced is a volume in a file that notes in which order it was written.
type synced struct {
	*os.File
	writes []int // between two syncs
}

func (s *synced) WriteAt(p []byte, off int64) (int, error) {
	if len(s.writes) == 0 {
		s.writes = []int{0}
	}
	s.writes[len(s.writes)-1]++
	return s.File.WriteAt(p, off)
}

func (s *synced) Sync() error {
	s.writes = append(s.writes, 0)
	return nil
}

func opened(t *testing.T, img string) *synced {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &synced{File: f}
}

// TestCreate makes files and lets mtools and dosfsck judge them.
func TestCreate(t *testing.T) {
	for _, kind := range []string{"FAT32", "FAT32, large clusters"} {
		t.Run(kind, func(t *testing.T) {
			img, files := sample(t, kinds[kind])
			dir := filepath.Dir(img)
			v := opened(t, img)
			tool(t, dir, "mdel", "-i", img, "::croft.json") // leaves an entry to use again
			for i, name := range []string{"autoboot.txt", "b", "c3.x", "0123.567"} {
				v.writes = nil
				content := []byte(fmt.Sprintln("boot_partition", i))
				if err := Create(v, name, content); err != nil {
					t.Fatal(err)
				}
				if got := tool(t, dir, "mtype", "-i", img, "::"+name); !bytes.Equal(got, content) {
					t.Errorf("mtools reads %q", got)
				}
				if got, err := ReadFile(v, name, 512); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%q, %v", got, err)
				}
				// The content; both tables and the count; where need be, the end of the folder; its entry, in one write.
				if w := v.writes; w[0] != 1 || w[1] != 3 || w[len(w)-2] != 1 || w[len(w)-1] != 0 {
					t.Errorf("%s: %v writes", name, w)
				}
				if err := Create(v, strings.ToLower(name), content); !errors.Is(err, ErrExists) {
					t.Errorf("again: %v", err)
				}
			}
			if out := string(tool(t, dir, "dosfsck", "-n", "-v", img)); strings.Contains(out, "wrong") {
				t.Errorf("dosfsck: %s", out)
			}
			for name, want := range files {
				if got, err := ReadFile(v, name, maxFile); name != "croft.json" && (err != nil || !bytes.Equal(got, want)) {
					t.Errorf("%s is not as it was: %v", name, err)
				}
			}
		})
	}
}

// TestCreateFolderEnd puts what an old entry left behind the end of the folder, where it must stay without meaning, up to a folder
// that is full.
func TestCreateFolderEnd(t *testing.T) {
	img := filepath.Join(t.TempDir(), "volume")
	tool(t, "", "mkfs.fat", "-F", "32", "-s", "1", "-C", img, "36864")
	w := opened(t, img)
	v, err := open(w)
	if err != nil {
		t.Fatal(err)
	}
	old := bytes.Repeat([]byte("OLD     TXT\x20"), sector)[:v.cluster]
	if _, err := w.WriteAt(old[entrySize:], v.data+entrySize); err != nil { // one folder of one cluster, of one sector
		t.Fatal(err)
	}
	for i := range 16 {
		if err := Create(w, fmt.Sprint("f", i), []byte{1}); err != nil {
			t.Fatal(i, err)
		}
		if _, err := Find(w, "old.txt"); !errors.Is(err, ErrNotFound) {
			t.Fatalf("file %d brought an old entry back: %v", i, err)
		}
	}
	if err := Create(w, "f16", []byte{1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("in a full folder: %v", err)
	}
	tool(t, "", "dosfsck", "-n", img)
}

func TestCreateRefuses(t *testing.T) {
	img, _ := sample(t, kinds["FAT32"])
	old, _ := sample(t, kinds["FAT16"])
	content, _ := exSample(t, "small clusters")
	ex := filepath.Join(t.TempDir(), "exfat")
	if err := os.WriteFile(ex, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		img, name string
		size      int
		want      error // or any
	}{
		{img, "Autoboot.txt", 10, nil},
		{img, "autoboot9.txt", 10, nil},
		{img, "a.text", 10, nil},
		{img, "a.b.c", 10, nil},
		{img, ".txt", 10, nil},
		{img, "a/b", 10, nil},
		{img, "a.", 10, nil},
		{img, "", 10, nil},
		{img, "large", 513, ErrTooLarge},
		{img, "nothing", 0, ErrTooLarge},
		{img, "loader", 1, ErrExists},
		{old, "new.txt", 10, ErrNotFAT},
		{ex, "new.txt", 10, ErrNotFAT},
	} {
		v := opened(t, tc.img)
		if err := Create(v, tc.name, make([]byte, tc.size)); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%q of %d bytes: %v, want %v", tc.name, tc.size, err, tc.want)
		}
		if len(v.writes) > 0 {
			t.Errorf("%q: it wrote", tc.name)
		}
	}
}

// scratch is a volume in memory that is written elsewhere.
type scratch struct {
	changed
	t    *testing.T
	size int64
}

func (s scratch) WriteAt(p []byte, off int64) (int, error) {
	if off < sector || off+int64(len(p)) > s.size {
		s.t.Errorf("%d bytes written at %d", len(p), off)
	}
	for i, b := range p {
		s.bytes[off+int64(i)] = b
	}
	return len(p), nil
}

func (scratch) Sync() error { return nil }

func FuzzCreate(f *testing.F) {
	img := filepath.Join(f.TempDir(), "volume")
	tool(f, "", "mkfs.fat", "-F", "32", "-s", "1", "-C", img, "36864")
	base, err := os.ReadFile(img)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0, 0, 44, 9}, "autoboot.txt")
	f.Add([]byte{0, 0, 40, 0x80, 0, 0, 48, 0}, "a")
	f.Add([]byte{0, 0, 16, 0, 0, 0, 14, 1}, "b.c")
	f.Fuzz(func(t *testing.T, changes []byte, name string) {
		v := scratch{changed{base, map[int64]byte{}}, t, int64(len(base))}
		for e := range slices.Chunk(changes, 4) {
			if len(e) == 4 {
				v.bytes[int64(e[0])<<16|int64(e[1])<<8|int64(e[2])] = e[3]
			}
		}
		if err := Create(v, name, []byte("new")); err != nil {
			return
		}
		if got, err := ReadFile(v, name, 512); err != nil || string(got) != "new" {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	})
}
