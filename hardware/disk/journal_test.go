package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// seedImage writes the seed to a file.
func seedImage(t *testing.T) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "data")
	truncate(t, img, SeedSize)
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := SeedBlocks(func(off int64, b []byte) error {
		_, err := f.WriteAt(b, off)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return img
}

// journalled lets debugfs put transactions into the journal of img, not yet at their places: block 9000 twice, 9001 with
// the journal's magic number at its start, 9002 revoked later, 9003 as is.
func journalled(t *testing.T, img string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rng := rand.New(rand.NewPCG(7, 8))
	block := func() []byte {
		b := make([]byte, blockSize)
		for i := range b {
			b[i] = byte(rng.IntN(256))
		}
		return b
	}
	escaped := block()
	binary.BigEndian.PutUint32(escaped, jbdMagic)
	one := file("one", bytes.Join([][]byte{block(), escaped, block()}, nil))
	two := file("two", bytes.Join([][]byte{block(), block()}, nil))
	tool(t, "jo -c\njw -b 9000,9001,9002 "+one+"\njw -r 9002\njw -b 9000,9003 "+two+"\njc\n", "debugfs", "-w", "-f", "-", img)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func save(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRecover compares the replay with that of e2fsck.
func TestRecover(t *testing.T) {
	for _, name := range []string{"E2FSCK_TIME", "E2FSPROGS_FAKE_TIME"} { // or two runs in different seconds differ
		t.Setenv(name, "1750000000")
	}
	img := seedImage(t)
	if note, err := Recover(img); note != "" || err != nil {
		t.Fatalf("with an empty journal: %q, %v", note, err)
	}
	fresh := read(t, img)
	journalled(t, img)
	before := read(t, img)
	if !bytes.Equal(before[9000*blockSize:9004*blockSize], fresh[9000*blockSize:9004*blockSize]) {
		t.Fatal("debugfs wrote the blocks to their places already")
	}
	theirs := filepath.Join(t.TempDir(), "theirs")
	save(t, theirs, before)
	tool(t, "", "e2fsck", "-y", "-E", "journal_only", theirs)

	note, err := Recover(img)
	if err != nil || note != "after a power cut: 3 blocks from the journal" {
		t.Errorf("%q, %v", note, err)
	}
	got, want := read(t, img), read(t, theirs)
	for b := int64(9000); b < 9004; b++ {
		if !bytes.Equal(got[b*blockSize:(b+1)*blockSize], want[b*blockSize:(b+1)*blockSize]) {
			t.Errorf("block %d differs from what e2fsck makes of it", b)
		}
	}
	for i := 0; i < len(got); i += blockSize {
		if b := i / blockSize; (b < 9000 || b > 9003) && !bytes.Equal(got[i:i+blockSize], before[i:i+blockSize]) {
			t.Errorf("block %d was changed", b)
		}
	}
	// Again is no different, and the kernel's own replay finds all as it was.
	if note, err := Recover(img); err != nil || note == "" || !bytes.Equal(read(t, img), got) {
		t.Errorf("the second time: %q, %v", note, err)
	}
	tool(t, "", "e2fsck", "-y", "-E", "journal_only", img)
	if !bytes.Equal(read(t, img), want) {
		t.Error("after e2fsck's own replay the file systems differ")
	}
}

// TestRecoverStopsAtDamage checks that nothing after a damaged block of the journal is replayed.
func TestRecoverStopsAtDamage(t *testing.T) {
	img := seedImage(t)
	fresh := read(t, img)
	journalled(t, img)
	b := read(t, img)
	// The first transaction's data follow its descriptor, the first block of the log.
	i := bytes.Index(b, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, jbdMagic), jbdDescriptor))
	if i < 0 {
		t.Fatal("no descriptor")
	}
	b[i+blockSize+5] ^= 1
	save(t, img, b)
	if note, err := Recover(img); err != nil || note != "" {
		t.Errorf("%q, %v", note, err)
	}
	if got := read(t, img); !bytes.Equal(got[9000*blockSize:9004*blockSize], fresh[9000*blockSize:9004*blockSize]) {
		t.Error("damaged blocks were replayed")
	}
}

// TestRecoverSuperblock tears the superblock between its sectors.
func TestRecoverSuperblock(t *testing.T) {
	img := seedImage(t)
	old := read(t, img)
	tool(t, "", "tune2fs", "-C", "7", img)
	now := read(t, img)
	for name, sector := range map[string]int{"first": 1024, "second": 1536} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(now)
			copy(b[sector:sector+512], old[sector:])
			save(t, img, b)
			f, err := os.Open(img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := ReadSuperblock(f); err == nil {
				t.Fatal("the superblock is not torn")
			}
			note, err := Recover(img)
			if err != nil || note != "after a power cut: a half written superblock" {
				t.Errorf("%q, %v", note, err)
			}
			if _, err := ReadSuperblock(f); err != nil {
				t.Error(err)
			}
			tool(t, "", "e2fsck", "-fn", img)
		})
	}
	// What is not ours is left alone.
	b := bytes.Clone(now)
	b[1024+0x20] ^= 1 // blocks per group
	save(t, img, b)
	if note, err := Recover(img); note != "" || err != nil || !bytes.Equal(read(t, img), b) {
		t.Errorf("a damaged superblock: %q, %v", note, err)
	}
}

// TestRecoverLeavesDropped checks that a journal which somebody decided to drop stays dropped: without the flag in the
// superblock the kernel does not replay it either, and what it holds may be older than what is on the medium.
func TestRecoverLeavesDropped(t *testing.T) {
	img := seedImage(t)
	journalled(t, img)
	tool(t, "", "debugfs", "-w", "-R", "feature -needs_recovery", img)
	before := read(t, img)
	if note, err := Recover(img); note != "" || err != nil {
		t.Errorf("%q, %v", note, err)
	}
	if !bytes.Equal(read(t, img), before) {
		t.Error("a dropped journal was replayed")
	}
}

// TestRecoverRefusesMounted checks that nothing is written below a mounted file system.
func TestRecoverRefusesMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	img := seedImage(t)
	loop := strings.TrimSpace(tool(t, "", "losetup", "--find", "--show", img))
	t.Cleanup(func() { tool(t, "", "losetup", "-d", loop) })
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread's mount namespace ends with it
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), Mount(loop, dir)); err != nil {
			t.Error(err)
			return
		}
		defer unix.Unmount(dir, 0)
		if _, err := Recover(loop); !errors.Is(err, unix.EBUSY) {
			t.Errorf("Recover of a mounted file system: %v", err)
		}
		if err := Format(loop, func(float64) {}); !errors.Is(err, unix.EBUSY) {
			t.Errorf("Format of a mounted file system: %v", err)
		}
	}()
	<-done
}

// FuzzReplay changes bytes of a journal: whatever stands there, only blocks of the partition may be written, and
// there is no panic and no endless loop.
func FuzzReplay(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1})
	f.Add([]byte{0, 0x14, 0xff, 0xff, 0, 0x1c, 1, 1})
	f.Add([]byte{1, 4, 5, 5})
	var image []byte
	f.Fuzz(func(t *testing.T, changes []byte) {
		if image == nil {
			img := seedImage(t)
			journalled(t, img)
			image = read(t, img)
		}
		m := &memory{data: image, changed: map[int64][]byte{}}
		j, err := openJournal(m, int64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		for ; len(changes) >= 4; changes = changes[4:] {
			at := int64(j.blocks[int(changes[0])%8])*blockSize + int64(changes[1])*16 + int64(changes[2])%16
			b := make([]byte, 1)
			b[0] = changes[3]
			if _, err := m.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := replay(m, int64(len(image))); err != nil {
			t.Fatal(err)
		}
	})
}

// memory is a partition whose changes are kept apart.
type memory struct {
	data    []byte
	changed map[int64][]byte // by block
}

func (m *memory) block(i int64) []byte {
	if b, ok := m.changed[i]; ok {
		return b
	}
	return m.data[i*blockSize : (i+1)*blockSize]
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := off + int64(n)
		n += copy(p[n:], m.block(at / blockSize)[at%blockSize:])
	}
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := off + int64(n)
		b := bytes.Clone(m.block(at / blockSize))
		n += copy(b[at%blockSize:], p[n:])
		m.changed[at/blockSize] = b
	}
	return len(p), nil
}
