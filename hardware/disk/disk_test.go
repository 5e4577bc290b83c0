package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/layout"
)

const mib = 1 << 20

func tool(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func gptImage(t *testing.T, size int64) string {
	img := filepath.Join(t.TempDir(), "disk")
	truncate(t, img, 16*mib)
	tool(t, "", "sgdisk", "-o", "-n1:0:+2M", "-t1:ef00", "-n2:0:+4M", "-n3:0:+4M", "-n4:0:0", img)
	truncate(t, img, size)
	return img
}

func mbrImage(t *testing.T, size int64) string {
	img := filepath.Join(t.TempDir(), "disk")
	truncate(t, img, 16*mib)
	tool(t, "label: dos\nsize=1M,type=c\nsize=1M,type=c\nsize=1M,type=c\ntype=f\nsize=2M\nsize=2M\nsize=2M\n", "sfdisk", img)
	truncate(t, img, size)
	return img
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestGrowGPT(t *testing.T) {
	for _, size := range []int64{16 * mib, 17*mib + 512, 1 << 30, 3<<40 + 512} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			img := gptImage(t, size)
			f := open(t, img)
			before, err := readGPT(f, 1)
			if err != nil {
				t.Fatal(err)
			}
			n := byte(0)
			newID := func() [16]byte { n++; return [16]byte{15: n} }
			got, wrote, err := growGPT(f, size, 4, newID)
			if err != nil || !wrote {
				t.Fatalf("wrote %v: %v", wrote, err)
			}
			if left := size - got - 11*mib; left > 3*mib || left < 0 {
				t.Errorf("%d bytes are left over", left)
			}
			after, err := readGPT(f, 1)
			if err != nil {
				t.Fatal(err)
			}
			if after.DiskGUID == before.DiskGUID || string(after.entry(4)[16:32]) == string(before.entry(4)[16:32]) {
				t.Error("ids were not renewed")
			}
			if string(after.entry(2)) != string(before.entry(2)) {
				t.Error("the root's entry changed")
			}
			if out := tool(t, "", "sgdisk", "-v", img); !strings.Contains(out, "No problems found") {
				t.Error(out)
			}
			if _, wrote, err := growGPT(f, size, 4, nil); wrote || err != nil {
				t.Errorf("a second time: wrote %v, %v", wrote, err)
			}
		})
	}
}

func TestGrowGPTFromBackup(t *testing.T) {
	img := gptImage(t, 16*mib)
	f := open(t, img)
	f.WriteAt(make([]byte, 34*sectorSize), sectorSize)
	if _, wrote, err := growGPT(f, 16*mib, 4, nil); err != nil || !wrote {
		t.Fatalf("wrote %v: %v", wrote, err)
	}
	if out := tool(t, "", "sgdisk", "-v", img); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
}

func TestGrowMBR(t *testing.T) {
	for _, size := range []int64{16 * mib, 1 << 30, 100 << 30, 3 << 40} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			img := mbrImage(t, size)
			f := open(t, img)
			got, _, err := growMBR(f, size, 7)
			if err != nil {
				t.Fatal(err)
			}
			if left := min(size, 2<<40) - got - 10*mib; left > 3*mib || left < 0 {
				t.Errorf("%d bytes are left over", left)
			}
			if out := tool(t, "", "sfdisk", "--verify", img); !strings.Contains(out, "No errors detected") {
				t.Error(out)
			}
			if _, wrote, err := growMBR(f, size, 7); wrote || err != nil {
				t.Errorf("a second time: wrote %v, %v", wrote, err)
			}
		})
	}
}

func TestGrowRefuses(t *testing.T) {
	blank := filepath.Join(t.TempDir(), "blank")
	truncate(t, blank, 8*mib)
	if _, _, err := growGPT(open(t, blank), 8*mib, 4, nil); err == nil {
		t.Error("a blank drive was taken for a GPT")
	}
	if _, _, err := growMBR(open(t, blank), 8*mib, 7); err == nil {
		t.Error("a blank drive was taken for an MBR")
	}
	for name, tc := range map[string]struct {
		number int
		behind bool // a primary partition stands behind the extended one
	}{"not the last": {6, false}, "none": {8, false}, "a primary one behind": {7, true}} {
		img := mbrImage(t, 256*mib)
		if tc.behind {
			tool(t, "100M,1M,83\n", "sfdisk", "--no-reread", "-N3", img)
		}
		before := tool(t, "", "sfdisk", "-d", img)
		if _, wrote, err := growMBR(open(t, img), 256*mib, tc.number); err == nil || wrote {
			t.Errorf("%s: wrote %v, %v", name, wrote, err)
		}
		if after := tool(t, "", "sfdisk", "-d", img); after != before {
			t.Errorf("%s: was\n%s\nnow\n%s", name, before, after)
		}
	}
	if _, _, err := growGPT(open(t, gptImage(t, 256*mib)), 256*mib, 9, nil); err == nil {
		t.Error("a partition that does not exist was grown")
	}
}

// recorder is a medium that remembers its writes and flushes.
type recorder struct {
	base []byte
	now  []byte
	log  []write // a write with no data is a flush
}

type write struct {
	off  int64
	data []byte
}

func (r *recorder) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, r.now[off:]), nil
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.log = append(r.log, write{off, append([]byte(nil), p...)})
	return copy(r.now[off:], p), nil
}

func (r *recorder) Sync() error { r.log = append(r.log, write{}); return nil }

// cut returns the medium after a power cut behind entry n: what was flushed, and of the rest a random choice of
// sectors.
func (r *recorder) cut(n int, rnd *rand.Rand) []byte {
	img := append([]byte(nil), r.base...)
	flushed := 0
	for i, w := range r.log[:n] {
		if w.data == nil {
			flushed = i
		}
	}
	for i, w := range r.log[:n] {
		for s := 0; s < len(w.data); s += sectorSize {
			if i < flushed || rnd.IntN(2) == 0 {
				copy(img[w.off+int64(s):], w.data[s:s+sectorSize])
			}
		}
	}
	return img
}

// TestGrowPowerCut cuts the power behind every write, with every kind of loss between two flushes: the tables that
// remain always name the root where it is, and a second attempt puts all right.
func TestGrowPowerCut(t *testing.T) {
	const size = 20 * mib
	for _, tc := range []struct {
		name string
		img  string
		grow func(Medium) error
		root func([]byte) error
	}{
		{"gpt", gptImage(t, size), func(m Medium) error {
			_, _, err := growGPT(m, size, 4, NewUUID)
			return err
		}, func(img []byte) error {
			m := &recorder{now: img}
			g, err := readGPT(m, 1)
			if err != nil {
				if g, err = readGPT(m, size/sectorSize-1); err != nil {
					return err
				}
			}
			if at := binary.LittleEndian.Uint64(g.entry(2)[32:]); at != 3*mib/sectorSize {
				return fmt.Errorf("root at sector %d", at)
			}
			return nil
		}},
		{"mbr", mbrImage(t, size), func(m Medium) error {
			_, _, err := growMBR(m, size, 7)
			return err
		}, func(img []byte) error {
			m := &recorder{now: img}
			mbr, err := readMBR(m, 0)
			if err != nil {
				return err
			}
			_, err = readMBR(m, entryOf(mbr, 3).start())
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base, err := os.ReadFile(tc.img)
			if err != nil {
				t.Fatal(err)
			}
			r := &recorder{base: base, now: append([]byte(nil), base...)}
			if err := tc.grow(r); err != nil {
				t.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			for n := range len(r.log) + 1 {
				for try := range 4 {
					img := r.cut(n, rnd)
					if err := tc.root(img); err != nil {
						t.Fatalf("cut behind entry %d, try %d: %v", n, try, err)
					}
					if err := tc.grow(&recorder{now: img}); err != nil {
						t.Fatalf("second attempt after a cut behind entry %d: %v", n, err)
					}
				}
			}
		})
	}
}

func TestFormatAndCheck(t *testing.T) {
	img := filepath.Join(t.TempDir(), "data")
	truncate(t, img, 256*mib)
	f := open(t, img)
	junk := make([]byte, mib)
	for i := range junk {
		junk[i] = byte(i)
	}
	for off := int64(0); off < 80*mib; off += mib {
		f.WriteAt(junk, off)
	}
	if err := Finished(img); err != nil {
		t.Errorf("junk: %v", err)
	}
	if err := Format(filepath.Join(img, "x"), nil); err == nil || errors.Is(err, ErrUnfinished) {
		t.Errorf("no partition: %v", err)
	}
	if err := Format(img, func(p float64) {
		if err := Finished(img); p < 1 && !errors.Is(err, ErrUnfinished) {
			t.Errorf("at %v: %v", p, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := Finished(img); err != nil {
		t.Error(err)
	}
	tool(t, "", "e2fsck", "-fn", img)
	sb, err := ReadSuperblock(f)
	if err != nil {
		t.Fatal(err)
	}
	if sb.UUID != SeedUUID || int64(sb.Blocks)*sb.BlockSize != SeedSize || sb.Errors || !sb.Clean {
		t.Errorf("superblock %+v", sb)
	}
	check := func(want bool, size int64) {
		t.Helper()
		ok, findings, err := Check(context.Background(), img, size, func(float64) {})
		if err != nil || ok != want {
			t.Errorf("check: %v %q %v, want %v", ok, findings, err, want)
		}
	}
	check(true, 256*mib)
	check(false, 32*mib) // smaller than the file system
	f.WriteAt([]byte{0xff}, 1024+0x70)
	if _, err := ReadSuperblock(f); err == nil {
		t.Error("a damaged superblock passed")
	}
	check(false, 256*mib)
}

// TestFormatPowerCut cuts the power at many points: what was there, an unfinished partition, or the seed.
func TestFormatPowerCut(t *testing.T) {
	old := bytes.Repeat([]byte{0xa5}, SeedSize)
	r := &recorder{base: old, now: bytes.Clone(old)}
	if err := format(r, func(float64) {}); err != nil {
		t.Fatal(err)
	}
	seed := r.now
	rnd := rand.New(rand.NewPCG(3, 4))
	at := []int{0, 1, 2, 3, 4, len(r.log) - 3, len(r.log) - 2, len(r.log) - 1, len(r.log)}
	for range 3 {
		at = append(at, rnd.IntN(len(r.log)))
	}
	path := filepath.Join(t.TempDir(), "data")
	for _, n := range at {
		img := r.cut(n, rnd)
		if err := os.WriteFile(path, img, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Finished(path); !errors.Is(err, ErrUnfinished) && !bytes.Equal(img, old) && !bytes.Equal(img, seed) {
			t.Errorf("cut behind entry %d of %d: neither old, nor new, nor known as unfinished: %v", n, len(r.log), err)
		}
	}
}

func TestDiskOf(t *testing.T) {
	sys := t.TempDir()
	part := filepath.Join(sys, "devices/mmc/block/mmcblk0/mmcblk0p7")
	for path, text := range map[string]string{
		part + "/partition": "7\n", part + "/start": "2048\n", part + "/size": "4096\n",
		filepath.Dir(part) + "/size": "65536\n", filepath.Dir(part) + "/device/name": "SD32G\n",
	} {
		os.MkdirAll(filepath.Dir(path), 0o755)
		os.WriteFile(path, []byte(text), 0o644)
	}
	for link, to := range map[string]string{"dev/block/179:7": part, "class/block/mmcblk0": filepath.Dir(part)} {
		os.MkdirAll(filepath.Dir(filepath.Join(sys, link)), 0o755)
		os.Symlink(to, filepath.Join(sys, link))
	}
	d, err := diskOf(sys, 179, 7)
	if err != nil || d != (Disk{Name: "mmcblk0", Model: "SD32G", Size: 32 * mib}) {
		t.Errorf("%+v, %v", d, err)
	}
	p, err := Data(sys, d, 7, 0)
	if err != nil || p != (Partition{Name: "mmcblk0p7", Number: 7, Start: mib, Size: 2 * mib}) {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := Data(sys, d, 4, 0); err == nil {
		t.Error("found a partition that is not there")
	}
}

func FuzzReadSuperblock(f *testing.F) {
	f.Add(make([]byte, 4096))
	SeedBlocks(func(off int64, b []byte) error {
		if off == 0 {
			f.Add(b)
		}
		return nil
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		sb, err := ReadSuperblock(strings.NewReader(string(b)))
		if err == nil && (sb.Blocks == 0 || sb.BlockSize < 1024) {
			t.Errorf("accepted %+v", sb)
		}
	})
}

// TestTwins plugs drives in and out: twins are found, and no drive is read twice.
func TestTwins(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	put := func(name, from string, seq int) {
		t.Helper()
		dir := filepath.Join(sys, "block", name)
		os.MkdirAll(dir, 0o755)
		os.WriteFile(filepath.Join(dir, "size"), []byte("32768\n"), 0o644)
		os.WriteFile(filepath.Join(dir, "diskseq"), fmt.Appendln(nil, seq), 0o644)
		tool(t, "", "cp", from, filepath.Join(dev, name))
	}
	a, b := gptImage(t, 16*mib), gptImage(t, 16*mib)
	put("sda", a, 1)
	put("sdb", b, 2)
	var twins Twins
	find := func(want ...string) {
		t.Helper()
		if got := twins.Find(sys, dev, Disk{Name: "sda"}, layout.GPT); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("found %q, want %q", got, want)
		}
	}
	find()
	put("sdc", a, 3)
	find("sdc")
	os.Remove(filepath.Join(dev, "sdc")) // what is known is not read again
	find("sdc")
	put("sdc", b, 4) // another one in its place
	find()
	put("sdc", a, 5)
	os.WriteFile(filepath.Join(sys, "block/sdc/size"), []byte("0\n"), 0o644) // a reader without a card
	find()
}

func TestErrorCount(t *testing.T) {
	sys := t.TempDir()
	os.MkdirAll(filepath.Join(sys, "fs/ext4/sda4"), 0o755)
	os.WriteFile(filepath.Join(sys, "fs/ext4/sda4/errors_count"), []byte("3\n"), 0o644)
	for name, want := range map[string]int64{"sda4": 3, "sdb4": 0} {
		if got := ErrorCount(sys, Partition{Name: name}); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

func TestRootID(t *testing.T) {
	a, b := gptImage(t, 16*mib), gptImage(t, 16*mib)
	clone := filepath.Join(t.TempDir(), "clone")
	tool(t, "", "cp", a, clone)
	idA, err := rootID(a, layout.GPT)
	if err != nil {
		t.Fatal(err)
	}
	for path, same := range map[string]bool{clone: true, b: false} {
		if id, err := rootID(path, layout.GPT); err != nil || bytes.Equal(id, idA) != same {
			t.Errorf("%s: same %v, want %v (%v)", path, !same, same, err)
		}
	}
	m1, m2 := mbrImage(t, 16*mib), mbrImage(t, 16*mib)
	id1, err1 := rootID(m1, layout.MBR)
	id2, err2 := rootID(m2, layout.MBR)
	if err1 != nil || err2 != nil || bytes.Equal(id1, id2) {
		t.Errorf("two tables with random signatures: %x %v, %x %v", id1, err1, id2, err2)
	}
	if _, err := rootID(m1, layout.GPT); err == nil {
		t.Error("an MBR was taken for a GPT")
	}
}
