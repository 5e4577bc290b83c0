package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/croft-os/croft/hardware/layout"
)

var epoch = time.Unix(1790000000, 0)

// tool runs a foreign program that judges what we wrote.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func sample(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for name, content := range map[string][]byte{
		"croft.txt":              bytes.Repeat([]byte{'x'}, 512),
		"EFI/BOOT/BOOTX64.EFI":   bytes.Repeat([]byte("efi"), 40_000),
		"loader/loader.conf":     []byte("timeout 0\n"),
		"a name of some length":  []byte("a"),
		"a name of some length2": []byte("b"),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTables(t *testing.T) {
	for _, l := range []layout.Layout{layout.UEFI(), layout.Pi()} {
		t.Run(string(l.Table), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.img")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(l.Size); err != nil {
				t.Fatal(err)
			}
			if err := WriteTable(f, l); err != nil {
				t.Fatal(err)
			}
			if out := tool(t, "sfdisk", "--verify", path); !strings.Contains(out, "No errors detected") {
				t.Errorf("sfdisk: %s", out)
			}
			if l.Table == layout.GPT {
				if out := tool(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
					t.Errorf("sgdisk: %s", out)
				}
			}
			dump := tool(t, "sfdisk", "--dump", path)
			if !strings.Contains(strings.ToLower(dump), l.ID) {
				t.Errorf("no disk id %s in\n%s", l.ID, dump)
			}
			for _, p := range l.Partitions {
				var line string
				for l := range strings.Lines(dump) {
					if strings.HasPrefix(l, path+string(rune('0'+p.Number))) {
						line = strings.ToLower(strings.Join(strings.Fields(l), ""))
					}
				}
				want := []string{"start=" + sectors(p.Start) + ",", "size=" + sectors(p.Size) + ","}
				if l.Table == layout.GPT {
					want = append(want, "type="+p.Type, "uuid="+p.GUID, `name="`+p.Name+`"`)
				} else {
					want = append(want, "type="+strings.TrimPrefix(p.Type, "0"))
				}
				for _, w := range want {
					if !strings.Contains(line, w) {
						t.Errorf("partition %d: no %s in %q", p.Number, w, line)
					}
				}
			}
		})
	}
}

func sectors(n int64) string {
	var b []byte
	for n /= layout.SectorSize; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func TestMBRSectorsRefusesSignature(t *testing.T) {
	l := layout.Pi()
	l.ID = "c0f7"
	if _, err := mbrSectors(l); err == nil {
		t.Error("a short disk signature was accepted")
	}
}

func TestFAT(t *testing.T) {
	dir := sample(t)
	v := FAT{Label: "CROFT", ID: 0xc0f70001, Size: 64 << 20, Cluster: 512, Start: 4 << 20}
	var images [2][]byte
	for i := range images {
		path := filepath.Join(t.TempDir(), "fat.img")
		if err := WriteFAT(context.Background(), v, dir, path, epoch); err != nil {
			t.Fatal(err)
		}
		tool(t, "dosfsck", "-n", path)
		if out := tool(t, "mdir", "-/", "-b", "-i", path, "::"); !strings.Contains(out, "::/EFI/BOOT/BOOTX64.EFI") {
			t.Errorf("no loader in\n%s", out)
		}
		if out := tool(t, "mattrib", "-/", "-i", path, "::"); strings.Contains(out, " R ") {
			t.Errorf("read-only files:\n%s", out)
		}
		if out := tool(t, "mshowfat", "-i", path, "::/EFI/BOOT/BOOTX64.EFI"); strings.Count(out, "<") != 1 {
			t.Errorf("the loader is not in one piece: %s", out)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint32(b[28:]); got != uint32(v.Start/512) {
			t.Errorf("hidden sectors %d, want %d", got, v.Start/512)
		}
		// The sector of croft.txt holds nothing else: overwriting it whole can't hurt another file.
		at := bytes.Index(b, bytes.Repeat([]byte{'x'}, 512))
		if at < 0 || at%512 != 0 {
			t.Errorf("croft.txt is at byte %d, not in a sector of its own", at)
		}
		images[i] = b
		// The second pass starts from files with other times and modes.
		if err := os.Chmod(filepath.Join(dir, "croft.txt"), 0o444); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, "loader"), time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same files gave two different volumes")
	}
}

func TestFATWithoutFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fat.img")
	v := FAT{Label: "CROFT", ID: 1, Size: 64 << 20, Cluster: 512}
	if err := WriteFAT(context.Background(), v, t.TempDir(), path, epoch); err != nil {
		t.Fatal(err)
	}
	tool(t, "dosfsck", "-n", path)
}

func TestFATTooSmall(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 65<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	v := FAT{Label: "CROFT", ID: 1, Size: 64 << 20, Cluster: 512}
	if err := WriteFAT(context.Background(), v, dir, filepath.Join(t.TempDir(), "fat.img"), epoch); err == nil {
		t.Error("a file larger than the volume was accepted")
	}
}

func TestSquashfs(t *testing.T) {
	dir := sample(t)
	if err := os.Symlink("/run/nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "program"), []byte("\x7fELF"), 0o711); err != nil {
		t.Fatal(err)
	}
	var images [2][]byte
	for i := range images {
		path := filepath.Join(t.TempDir(), "root.squashfs")
		t.Setenv("SOURCE_DATE_EPOCH", "1") // must not count: mksquashfs refuses it beside its own options
		if err := Squashfs(context.Background(), dir, path, epoch); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = b
		if got := binary.LittleEndian.Uint16(b[20:]); got != 1 {
			t.Errorf("compression %d, want 1 (zlib), the one that the kernels know", got)
		}
		// Inodes, data and fragments uncompressed: flags 0x1, 0x2, 0x8 of the superblock.
		if flags := binary.LittleEndian.Uint16(b[24:]); flags&0xb != 0xb {
			t.Errorf("flags %#x: something is compressed", flags)
		}
		out := tool(t, "unsquashfs", "-lln", path)
		for _, want := range []string{"-rwxr-xr-x 0/0", "lrwxrwxrwx 0/0", "dangling -> /run/nowhere", "-rw-r--r-- 0/0"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		if err := os.Chtimes(filepath.Join(dir, "croft.txt"), time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same files gave two different file systems")
	}
}

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func TestCopySparse(t *testing.T) {
	src := bytes.Repeat(append(make([]byte, 100_000), []byte("data")...), 3)
	path := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(path, src, 0o644); err != nil {
		t.Fatal(err)
	}
	dst := make(memory, 4096+len(src))
	if err := CopySparse(dst, 4096, int64(len(src)), path); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dst[4096:], src) {
		t.Error("the copy differs")
	}
	if err := CopySparse(dst, 0, int64(len(src))-1, path); err == nil {
		t.Error("a file larger than its partition was accepted")
	}
}

func TestCompress(t *testing.T) {
	dir := t.TempDir()
	src := bytes.Repeat([]byte("croft"), 1<<18)
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, src, 0o644); err != nil {
		t.Fatal(err)
	}
	srcSum, dstSum, err := Compress(context.Background(), in, out)
	if err != nil {
		t.Fatal(err)
	}
	want := srcSum + "  " + in + "\n" + dstSum + "  " + out + "\n"
	if got := tool(t, "sha256sum", in, out); got != want {
		t.Errorf("sums %s, want %s", want, got)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(Window))
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	got, err := io.ReadAll(zr)
	if err != nil || !bytes.Equal(got, src) {
		t.Errorf("decompressed to %d bytes: %v", len(got), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Compress(ctx, in, out); err == nil {
		t.Error("a cancelled context was not honoured")
	}
}
