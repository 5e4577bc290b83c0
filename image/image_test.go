package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/image/pack"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
	"github.com/klauspost/compress/zstd"
)

// budget is the most that a compressed image may have, in bytes.
var budget = map[string]int64{"pc": 60e6, "vm-arm64": 60e6, "pi": 80e6}

// built is the images under test: those in CROFT_OUT, or all of them, built once.
var built = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("CROFT_OUT"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "croft-images-")
	if err != nil {
		return "", err
	}
	scratch = dir
	for _, b := range board.All() {
		if err := Build(context.Background(), Options{Board: b, Out: dir, Log: slog.New(slog.DiscardHandler)}); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// scratch is the folder that built made, if it did.
var scratch string

func TestMain(m *testing.M) {
	code := m.Run()
	if scratch != "" {
		os.RemoveAll(scratch)
	}
	os.Exit(code)
}

// eachImage runs f for every board's image.
func eachImage(t *testing.T, f func(t *testing.T, b board.Board, img string)) {
	t.Helper()
	if testing.Short() {
		return // building takes minutes
	}
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range board.All() {
		t.Run(b.ID, func(t *testing.T) { f(t, b, filepath.Join(dir, "croft-"+b.ID+".img")) })
	}
}

// tool runs a foreign program that judges what we wrote.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// extract copies a partition of img into a sparse file of its own.
func extract(t *testing.T, img string, p layout.Partition) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), p.Name)
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < p.Size; at += int64(len(buf)) {
		if _, err := in.ReadAt(buf, p.Start+at); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf, zero) {
			if _, err := out.WriteAt(buf, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := out.Truncate(p.Size); err != nil {
		t.Fatal(err)
	}
	return path
}

// boots lists the FAT volumes that an image carries: the first, and slot A's.
func boots(l layout.Layout) []int {
	return slices.Compact([]int{l.First, l.Boot[layout.SlotA]})
}

// volume copies the files of the FAT at partition number to a folder.
func volume(t *testing.T, img string, l layout.Layout, number int) string {
	t.Helper()
	dir := t.TempDir()
	tool(t, "mcopy", "-s", "-i", fmt.Sprintf("%s@@%d", img, l.Partition(number).Start), "::", dir)
	return dir
}

// rootTree unpacks slot A's root.
func rootTree(t *testing.T, img string, l layout.Layout) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	tool(t, "unsquashfs", "-no-progress", "-offset", fmt.Sprint(l.Partition(l.Root[layout.SlotA]).Start), "-d", dir, img)
	return dir
}

// releaseOf is what slot A's root says of itself.
func releaseOf(t *testing.T, img string, l layout.Layout) api.Release {
	t.Helper()
	var rel api.Release
	if err := json.Unmarshal(read(t, rootTree(t, img, l), "etc/croft/release.json"), &rel); err != nil {
		t.Fatal(err)
	}
	return rel
}

// cmdlineOf is the command line that slot A of an image has.
func cmdlineOf(b board.Board, rel api.Release) string {
	r := release.Release{Cmdline: b.Cmdline(rel.Version, rel.Number)}
	return r.CmdlineFor(string(layout.SlotA), b.Layout.PARTUUID(b.Layout.Root[layout.SlotA]))
}

func read(t *testing.T, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPartitionTable(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		if out := tool(t, "sfdisk", "--verify", img); !strings.Contains(out, "No errors detected") {
			t.Errorf("sfdisk: %s", out)
		}
		if b.Layout.Table == layout.GPT {
			if out := tool(t, "sgdisk", "-v", img); !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk: %s", out)
			}
		}
		if fi, err := os.Stat(img); err != nil || fi.Size() != b.Layout.Size {
			t.Errorf("size %d, want %d: %v", fi.Size(), b.Layout.Size, err)
		}
	})
}

func TestFileSystems(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		l := b.Layout
		for _, n := range boots(l) {
			path := extract(t, img, l.Partition(n))
			out := tool(t, "dosfsck", "-n", "-v", path)
			if strings.Contains(out, "Free cluster summary wrong") || strings.Contains(out, "Dirty bit") {
				t.Errorf("dosfsck: %s", out)
			}
			if out := tool(t, "mattrib", "-/", "-i", path, "::"); regexp.MustCompile(`(?m)^ *A? *S? *H? *R `).MatchString(out) {
				t.Errorf("read-only files on %s:\n%s", l.Partition(n).Name, out)
			}
			if clusters := fatClusters(t, path); clusters < 65525 {
				t.Errorf("%s has %d clusters, too few for FAT32", l.Partition(n).Name, clusters)
			}
		}
		data := extract(t, img, l.Partition(l.Data))
		tool(t, "e2fsck", "-fn", data)
		if out := tool(t, "dumpe2fs", "-h", data); !strings.Contains(out, disk.SeedUUID) {
			t.Error("the data partition is not the seed")
		}
		if out := tool(t, "unsquashfs", "-s", "-offset", fmt.Sprint(l.Partition(l.Root[layout.SlotA]).Start), img); !strings.Contains(out, "Compression gzip") ||
			strings.Contains(out, "are compressed") || strings.Contains(out, "is compressed") {
			t.Errorf("unsquashfs: %s", out)
		}
		// Slot B is empty: its root and, on the Pi, its boot partition are zero.
		for _, n := range []int{l.Root[layout.SlotB], l.Boot[layout.SlotB]} {
			if slices.Contains(boots(l), n) {
				continue
			}
			f, err := os.Open(img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p := l.Partition(n)
			head := make([]byte, 1<<20)
			if _, err := f.ReadAt(head, p.Start); err != nil || len(bytes.Trim(head, "\x00")) != 0 {
				t.Errorf("%s is not empty: %v", p.Name, err)
			}
		}
	})
}

// fatClusters computes the number of data clusters from the boot sector, which alone decides what kind of FAT it is.
func fatClusters(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 512)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	total, reserved := int64(le.Uint32(b[32:])), int64(le.Uint16(b[14:]))
	fats, size := int64(b[16]), int64(le.Uint32(b[36:]))
	return (total - reserved - fats*size) / int64(b[13])
}

// TestSectorFiles: what a running box overwrites in place lies within one sector of the medium.
func TestSectorFiles(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		commit, want := slots.CommitFile(b.Layout.Table), slots.CommitContent(b.Layout.Table, layout.SlotA)
		dir := volume(t, img, b.Layout, b.Layout.First)
		if got := read(t, dir, commit); !bytes.Equal(got, want) {
			t.Errorf("%s is %q, want %q", commit, got, want)
		}
		txt := read(t, dir, "croft.txt")
		if len(txt) != board.SectorFile {
			t.Errorf("croft.txt has %d bytes", len(txt))
		}
		// The settings are one JSON document in one piece, and nothing else in the volume shares its sectors.
		first := b.Layout.Partition(b.Layout.First)
		f, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		volume := io.NewSectionReader(f, first.Start, first.Size)
		settings, err := fat.Find(volume, board.SettingsFile)
		if err != nil || settings.Size != board.SettingsSize || len(settings.Extents) != 1 || settings.Extents[0].Offset%layout.SectorSize != 0 {
			t.Errorf("%s: %+v, %v", board.SettingsFile, settings, err)
		}
		content, err := fat.ReadFile(volume, board.SettingsFile, board.SettingsSize)
		if err != nil || string(bytes.Join(bytes.Fields(content), nil)) != `{"format":"croft-settings/1"}` {
			t.Errorf("%s holds %q, %v", board.SettingsFile, content, err)
		}
		p := first
		p.Size = 16 << 20 // the small files come before the kernels
		whole := read(t, extract(t, img, p))
		for name, content := range map[string][]byte{commit: want, "croft.txt": txt} {
			if at := bytes.Index(whole, content); at < 0 || at%layout.SectorSize != 0 {
				t.Errorf("%s is at byte %d, not at the start of a sector", name, at)
			}
		}
	})
}

// TestUEFI: what the firmware and systemd-boot read.
func TestUEFI(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		if b.Layout.Table != layout.GPT {
			return
		}
		dir := volume(t, img, b.Layout, b.Layout.First)
		loader, machine := "EFI/BOOT/BOOTX64.EFI", uint16(0x8664)
		if b.GOARCH == "arm64" {
			loader, machine = "EFI/BOOT/BOOTAA64.EFI", 0xaa64
		}
		rel := releaseOf(t, img, b.Layout)
		options := cmdlineOf(b, rel)
		entry := string(read(t, dir, "loader/entries/croft-a.conf"))
		for _, want := range []string{"title Croft ", "sort-key croft\n", "version " + rel.Version + "\n", "linux /vmlinuz-a\n", "options " + options + "\n"} {
			if !strings.Contains(entry, want) {
				t.Errorf("no %q in the loader entry %q", want, entry)
			}
		}
		// Slot B has its room: an entry that is none, and as large a file for its kernel, each in one piece.
		if blank := read(t, dir, "loader/entries/croft-b.conf"); len(blank) != len(entry) || len(bytes.Trim(blank, "\n")) > 0 {
			t.Errorf("slot B's loader entry is %q", blank)
		}
		f, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		first := b.Layout.Partition(b.Layout.First)
		esp := io.NewSectionReader(f, first.Start, first.Size)
		var sizes []int64
		for _, slot := range []layout.Slot{layout.SlotA, layout.SlotB} {
			for _, name := range []string{slots.KernelFile(slot), slots.CmdlineFile(layout.GPT, slot)} {
				file, err := fat.Find(esp, name)
				if err != nil || len(file.Extents) != 1 || file.Extents[0].Offset%layout.SectorSize != 0 {
					t.Errorf("%s is not in one piece: %+v, %v", name, file, err)
				}
				sizes = append(sizes, file.Size)
			}
		}
		if sizes[0] != sizes[2] || sizes[1] != sizes[3] {
			t.Errorf("the slots' files have %d bytes", sizes)
		}
		// Both must be PE images for the machine: UEFI 2.10, section 2.1.
		for _, name := range []string{loader, "vmlinuz-a", "rescue-vmlinuz"} {
			f := read(t, dir, name)
			if string(f[:2]) != "MZ" {
				t.Errorf("%s is no PE image", name)
				continue
			}
			pe := binary.LittleEndian.Uint32(f[0x3c:])
			if got := binary.LittleEndian.Uint16(f[pe+4:]); string(f[pe:pe+4]) != "PE\x00\x00" || got != machine {
				t.Errorf("%s is for machine %#x, want %#x", name, got, machine)
			}
		}
		// The rescue system has a kernel of its own, which is slot A's so far.
		kernel := read(t, dir, "rescue-vmlinuz")
		if !bytes.HasPrefix(read(t, dir, "vmlinuz-a"), kernel) {
			t.Error("the rescue system has another kernel than slot A")
		}
		rescue := string(read(t, dir, "loader/entries/croft-rescue.conf"))
		if want := "linux /rescue-vmlinuz\ninitrd /rescue.cpio.zst\noptions " + b.RescueCmdline(rel.Version) + "\n"; !strings.HasSuffix(rescue, want) {
			t.Errorf("the rescue system's loader entry is %q", rescue)
		}
		initramfs(t, dir)
		if _, err := os.Stat(filepath.Join(dir, "loader/random-seed")); err == nil {
			t.Error("there is a random seed, which makes the firmware write to the volume")
		}
	})
}

// initramfs looks into the rescue system's: the content of a root, a program for the kernel to start, and what says what it is.
func initramfs(t *testing.T, dir string) {
	t.Helper()
	zr, err := zstd.NewReader(bytes.NewReader(read(t, dir, board.RescueFile)))
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	b, err := io.ReadAll(zr)
	if err != nil || !bytes.HasPrefix(b, []byte("070701")) {
		t.Fatalf("%s is no initramfs: %v", board.RescueFile, err)
	}
	for _, name := range []string{"init", "etc/croft/rescue", "user/croftd", "dev/console"} {
		if !bytes.Contains(b, []byte(name+"\x00")) {
			t.Errorf("%s has no %s", board.RescueFile, name)
		}
	}
}

// TestPi: everything that the firmware of each model reads, in the form that it demands.
func TestPi(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		if b.Layout.Table != layout.MBR {
			return
		}
		selector := volume(t, img, b.Layout, b.Layout.First)
		boot := volume(t, img, b.Layout, b.Layout.Boot[layout.SlotA])
		for model, files := range map[string][]string{
			"3B":       {"start_cd.elf", "fixup_cd.dat", "start.elf", "fixup.dat", "bcm2710-rpi-3-b.dtb"},
			"3B+":      {"start_cd.elf", "fixup_cd.dat", "bcm2710-rpi-3-b-plus.dtb"},
			"CM3":      {"start_cd.elf", "fixup_cd.dat", "bcm2710-rpi-cm3.dtb"},
			"Zero 2 W": {"start_cd.elf", "fixup_cd.dat", "bcm2710-rpi-zero-2-w.dtb"},
			"4B":       {"start4cd.elf", "fixup4cd.dat", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb"},
			"400":      {"start4cd.elf", "fixup4cd.dat", "bcm2711-rpi-400.dtb"},
			"CM4":      {"start4cd.elf", "fixup4cd.dat", "bcm2711-rpi-cm4.dtb"},
			"5":        {"bcm2712-rpi-5-b.dtb", "overlays/bcm2712d0.dtbo"},
			"5 (D0)":   {"bcm2712d0-rpi-5-b.dtb"},
			"CM5":      {"bcm2712-rpi-cm5-cm5io.dtb"},
			"all":      {"config.txt", "cmdline.txt", "vmlinuz", "overlays/overlay_map.dtb"},
		} {
			for _, f := range files {
				if fi, err := os.Stat(filepath.Join(boot, f)); err != nil || fi.Size() == 0 {
					t.Errorf("Pi %s: no %s: %v", model, f, err)
				}
			}
		}
		// The boot ROM of the 3 and the Zero 2 W reads bootcode.bin from the first volume only.
		if len(read(t, selector, "bootcode.bin")) < 50_000 {
			t.Error("bootcode.bin is cut short")
		}
		for _, name := range []string{"start.elf", "start_cd.elf", "start4.elf", "start4cd.elf"} {
			if b := read(t, boot, name); string(b[:4]) != "\x7fELF" {
				t.Errorf("%s is no ELF file", name)
			}
		}

		// The selector starts as a slot does, but into the rescue system.
		err := filepath.WalkDir(boot, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(boot, path)
			if err == nil && name != "config.txt" && name != "cmdline.txt" && !bytes.Equal(read(t, path), read(t, selector, name)) {
				t.Errorf("%s on the selector is another one", name)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if got, slot := string(read(t, selector, "config.txt")), string(read(t, boot, "config.txt")); got != slot+"initramfs rescue.cpio.zst followkernel\n" {
			t.Errorf("config.txt on the selector is %q, and %q in a slot", got, slot)
		}
		if got, want := string(read(t, selector, "cmdline.txt")), b.RescueCmdline(releaseOf(t, img, b.Layout).Version)+"\n"; got != want || strings.Contains(got, "root=") {
			t.Errorf("cmdline.txt on the selector is %q, want %q", got, want)
		}
		initramfs(t, selector)
		config := string(read(t, boot, "config.txt"))
		for _, want := range []string{"arm_64bit=1", "kernel=vmlinuz"} {
			if !slices.Contains(strings.Split(config, "\n"), want) {
				t.Errorf("no line %q in config.txt", want)
			}
		}
		for line := range strings.Lines(config) {
			if len(line) > 98 {
				t.Errorf("config.txt: the firmware ignores what is beyond 98 characters: %q", line)
			}
		}
		cmdline := string(read(t, boot, "cmdline.txt"))
		if want := cmdlineOf(b, releaseOf(t, img, b.Layout)); strings.TrimRight(cmdline, " ") != want+"\n" || len(cmdline) != 1024 {
			t.Errorf("cmdline.txt is %q, want the one line %q, and blanks up to a cluster", cmdline, want)
		}

		zr, err := gzip.NewReader(bytes.NewReader(read(t, boot, "vmlinuz")))
		if err != nil {
			t.Fatalf("vmlinuz is not gzip: %v", err)
		}
		head := make([]byte, 64)
		if _, err := io.ReadFull(zr, head); err != nil || string(head[56:60]) != "ARM\x64" {
			t.Errorf("vmlinuz holds no arm64 kernel: %q, %v", head[56:60], err)
		}

		trees := 0
		err = filepath.WalkDir(boot, func(path string, _ fs.DirEntry, err error) error {
			if ext := filepath.Ext(path); err == nil && (ext == ".dtb" || ext == ".dtbo") {
				trees++
				dt := read(t, path)
				// Devicetree Specification 0.4, section 5.2.
				if binary.BigEndian.Uint32(dt) != 0xd00dfeed || int(binary.BigEndian.Uint32(dt[4:])) != len(dt) {
					t.Errorf("%s is no device tree", filepath.Base(path))
				}
				if strings.HasPrefix(filepath.Base(path), "bcm271") && ext == ".dtb" {
					if out := tool(t, "dtc", "-q", "-I", "dtb", "-O", "dts", path); !strings.Contains(out, "raspberrypi,") {
						t.Errorf("%s names no Raspberry Pi", filepath.Base(path))
					}
				}
			}
			return err
		})
		if err != nil || trees < 50 {
			t.Errorf("%d device trees: %v", trees, err)
		}
	})
}

func TestRoot(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		root := rootTree(t, img, b.Layout)
		var rel api.Release
		if err := json.Unmarshal(read(t, root, "etc/croft/release.json"), &rel); err != nil {
			t.Fatal(err)
		}
		if rel.Board != b.ID || rel.Version == "" || rel.Built <= 0 {
			t.Errorf("release %+v", rel)
		}
		zr, err := gzip.NewReader(bytes.NewReader(read(t, root, "etc/croft/licences.json.gz")))
		if err != nil {
			t.Fatal(err)
		}
		var parts []api.Component
		if err := json.NewDecoder(zr).Decode(&parts); err != nil {
			t.Fatal(err)
		}
		words := map[string]string{
			"croft": "Apache License", "go": "The Go Authors", "linux": "GNU GENERAL PUBLIC LICENSE", "glibc": "LESSER GENERAL",
			"libgcc": "RUNTIME LIBRARY EXCEPTION", "sqlite": "blessing", "golang.org/x/sys": "The Go Authors",
		}
		for _, p := range parts {
			if p.Version == "" || p.Licence == "" || len(p.Text) < 100 || !strings.Contains(p.Text, words[p.Name]) {
				t.Errorf("licence of %s %s: %s, %.100q", p.Name, p.Version, p.Licence, p.Text)
			}
			delete(words, p.Name)
		}
		if len(words) > 0 || parts[0].Name != "croft" {
			t.Errorf("no licences of %v; the first is %s", words, parts[0].Name)
		}
		for _, d := range []string{"boot", "data", "dev", "mnt", "proc", "run", "sys", "tmp"} {
			if ents, err := os.ReadDir(filepath.Join(root, d)); err != nil || len(ents) != 0 {
				t.Errorf("/%s is not an empty folder: %v", d, err)
			}
		}
		if to, err := os.Readlink(filepath.Join(root, "etc/resolv.conf")); err != nil || to != "/run/croft/network/resolv.conf" {
			t.Errorf("/etc/resolv.conf points to %q: %v", to, err)
		}
		if n := strings.Count(string(read(t, root, "etc/ssl/ca-bundle.pem")), "BEGIN CERTIFICATE"); n < 80 {
			t.Errorf("only %d certificate authorities", n)
		}
		// What monogok would have added is not there, and nobody but root's owner may write anything.
		for _, name := range []string{"etc/gokr-pw.txt", "etc/ssl/gokrazy-web.key.pem", "perm", "lib"} {
			if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
				t.Errorf("/%s is there", name)
			}
		}
		machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[b.GOARCH]
		var programs []string
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(root, path)
			if fi.Mode()&(0o022|fs.ModeSetuid|fs.ModeSetgid) != 0 {
				t.Errorf("/%s has mode %v", rel, fi.Mode())
			}
			f, err := elf.Open(path)
			if err != nil {
				if fi.Mode()&0o111 != 0 {
					t.Errorf("/%s is executable, but no program", rel)
				}
				return nil
			}
			defer f.Close()
			programs = append(programs, rel)
			if f.Machine != machine {
				t.Errorf("/%s is for %v", rel, f.Machine)
			}
			for _, p := range f.Progs {
				if p.Type == elf.PT_INTERP {
					t.Errorf("/%s needs an interpreter", rel)
				}
			}
			if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 0 {
				t.Errorf("/%s needs %v: %v", rel, libs, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{pathInit, pathCroftd}; !slices.Equal(programs, want) {
			t.Errorf("programs %v, want %v", programs, want)
		}
	})
}

// TestCompressed: the compressed image is within its budget, and is the image; the checksums are right.
func TestCompressed(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		fi, err := os.Stat(img + ".zst")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MB compressed", b.ID, float64(fi.Size())/1e6)
		if fi.Size() > budget[b.ID] {
			t.Errorf("%d bytes compressed, more than %d", fi.Size(), budget[b.ID])
		}
		cmd := exec.Command("sha256sum", "--check", "--strict", "croft-"+b.ID+".sha256")
		cmd.Dir = filepath.Dir(img)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("sha256sum: %v\n%s", err, out)
		}
		// The plain command line tool, with its default limit of memory, gets the image back.
		cmp := exec.Command("sh", "-c", `zstd -dc "$1".zst | cmp - "$1"`, "sh", img)
		if out, err := cmp.CombinedOutput(); err != nil {
			t.Errorf("zstd -d: %v\n%s", err, out)
		}
	})
}

// TestBillOfMaterials checks the document against the rules of SPDX 2.3 that a reader relies on.
func TestBillOfMaterials(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		raw := read(t, strings.TrimSuffix(img, ".img")+".spdx.json")
		var d struct {
			SPDXVersion, DataLicense, SPDXID, Name, DocumentNamespace string

			CreationInfo      struct{ Created, Creators any }
			DocumentDescribes []string
			Packages          []struct {
				SPDXID, Name, VersionInfo, DownloadLocation, LicenseConcluded, LicenseDeclared, CopyrightText string
				Checksums                                                                                     []struct{ Algorithm, ChecksumValue string }
				FilesAnalyzed                                                                                 *bool
			}
			HasExtractedLicensingInfos []struct{ LicenseID, ExtractedText string }
			Relationships              []struct{ SpdxElementID, RelationshipType, RelatedSpdxElement string }
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		if d.SPDXVersion != "SPDX-2.3" || d.DataLicense != "CC0-1.0" || d.SPDXID != "SPDXRef-DOCUMENT" || d.Name == "" ||
			!strings.HasPrefix(d.DocumentNamespace, "https://") || d.CreationInfo.Created == nil || d.CreationInfo.Creators == nil {
			t.Errorf("header of the document: %.400s", raw)
		}
		texts := map[string]bool{}
		for _, x := range d.HasExtractedLicensingInfos {
			texts[x.LicenseID] = x.ExtractedText != ""
		}
		known := regexp.MustCompile(`^(0BSD|Apache-2\.0|BSD-[23]-Clause|CC0-1\.0|GPL-2\.0-only|GPL-3\.0-or-later WITH GCC-exception-3\.1|ISC|LGPL-2\.1-or-later|MIT|MPL-2\.0|Unlicense|blessing)$`)
		ids := map[string]bool{d.SPDXID: true}
		versions := map[string]string{}
		for _, p := range d.Packages {
			if ids[p.SPDXID] || !regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`).MatchString(p.SPDXID) {
				t.Errorf("identifier %q", p.SPDXID)
			}
			ids[p.SPDXID] = true
			versions[p.Name] = p.VersionInfo
			if p.Name == "" || p.VersionInfo == "" || p.DownloadLocation == "" || p.CopyrightText == "" || p.FilesAnalyzed == nil || *p.FilesAnalyzed {
				t.Errorf("package %+v", p)
			}
			for _, l := range append(strings.Split(p.LicenseConcluded, " AND "), strings.Split(p.LicenseDeclared, " AND ")...) {
				if !known.MatchString(l) && !texts[l] {
					t.Errorf("%s: licence %q", p.Name, l)
				}
			}
		}
		for _, r := range d.Relationships {
			if !ids[r.SpdxElementID] || !ids[r.RelatedSpdxElement] || r.RelationshipType == "" {
				t.Errorf("relationship %+v", r)
			}
		}
		if len(d.DocumentDescribes) != 1 || !ids[d.DocumentDescribes[0]] {
			t.Errorf("describes %v", d.DocumentDescribes)
		}
		want := []string{"go", "linux", "glibc", "libgcc", "mozilla-ca-certificates", "golang.org/x/sys"}
		if b.Layout.Table == layout.MBR {
			want = append(want, "raspberrypi-firmware")
		} else {
			want = append(want, "systemd-boot")
		}
		for _, name := range want {
			if versions[name] == "" {
				t.Errorf("no %s", name)
			}
		}
		if v := versions["linux"]; !regexp.MustCompile(`^\d+\.\d+\.\d+`).MatchString(v) {
			t.Errorf("kernel %q", v)
		}
		sums := string(read(t, strings.TrimSuffix(img, ".img")+".sha256"))
		if len(d.Packages) > 0 && (len(d.Packages[0].Checksums) != 1 || !strings.HasPrefix(sums, d.Packages[0].Checksums[0].ChecksumValue+" ")) {
			t.Error("the document does not name the image's hash")
		}
	})
}

// TestImagerList: what Raspberry Pi Imager checks before it writes.
func TestImagerList(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		name := strings.TrimSuffix(img, ".img") + ".os_list.json"
		if len(b.Imager) == 0 {
			if _, err := os.Stat(name); err == nil {
				t.Error("a list for boards that Imager does not know")
			}
			return
		}
		var list struct {
			OSList []struct {
				Name, Description, Icon, URL string

				ExtractSize  int64  `json:"extract_size"`
				ExtractSum   string `json:"extract_sha256"`
				DownloadSize int64  `json:"image_download_size"`
				DownloadSum  string `json:"image_download_sha256"`
				ReleaseDate  string `json:"release_date"`
				InitFormat   string `json:"init_format"`
				Devices      []string
			} `json:"os_list"`
		}
		if err := json.Unmarshal(read(t, name), &list); err != nil || len(list.OSList) != 1 {
			t.Fatal(list, err)
		}
		l := list.OSList[0]
		packed, err := os.Stat(img + ".zst")
		if err != nil {
			t.Fatal(err)
		}
		sums := string(read(t, strings.TrimSuffix(img, ".img")+".sha256"))
		if l.ExtractSize != b.Layout.Size || l.DownloadSize != packed.Size() || !strings.HasPrefix(sums, l.ExtractSum+"  croft-pi.img\n"+l.DownloadSum+"  croft-pi.img.zst\n") {
			t.Errorf("%+v against\n%s", l, sums)
		}
		if _, err := time.Parse(time.DateOnly, l.ReleaseDate); err != nil || l.InitFormat != "none" || !slices.Contains(l.Devices, "pi3-64bit") ||
			l.Name == "" || l.Description == "" || l.Icon == "" || !strings.HasSuffix(l.URL, "/croft-pi.img.zst") {
			t.Errorf("%+v", l)
		}
	})
}

func TestKernelVersion(t *testing.T) {
	dir := t.TempDir()
	bz := make([]byte, 0x400)
	copy(bz[0x202:], "HdrS")
	bz[0x20e], bz[0x20f] = 0x00, 0x01 // 0x200 + 0x100
	copy(bz[0x300:], "7.1.2 (gokrazy@docker) #1")
	short := bytes.Clone(bz)
	short[0x20f] = 0xff
	for name, tc := range map[string]struct {
		content []byte
		want    string
	}{
		"bzImage":    {bz, "7.1.2"},
		"cut short":  {short, ""},
		"Image":      {[]byte("MZ...Linux version 6.12.47-v8 (x) #1"), "6.12.47-v8"},
		"no kernel":  {[]byte("nothing"), ""},
		"no version": {[]byte("Linux version  "), ""},
	} {
		path := filepath.Join(dir, hex.EncodeToString([]byte(name)))
		if err := os.WriteFile(path, tc.content, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := kernelVersion(path)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, tc.want)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	b, err := board.Find("pc")
	if err != nil {
		t.Fatal(err)
	}
	for _, epoch := range []string{"yesterday", "-5", "0"} {
		t.Setenv("SOURCE_DATE_EPOCH", epoch)
		err := Build(context.Background(), Options{Board: b, Out: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), epoch) {
			t.Errorf("SOURCE_DATE_EPOCH=%s: got %v", epoch, err)
		}
	}
}

func TestBuildRefusesVersion(t *testing.T) {
	b, err := board.Find("pc")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"v1\noptions init=/bin/sh", "-v", strings.Repeat("1", 65)} {
		err := Build(context.Background(), Options{Board: b, Out: t.TempDir(), Version: v, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), "version") {
			t.Errorf("version %q: got %v", v, err)
		}
	}
}

// TestSameAgain builds each image a second time, with the version and time that the first one names, in another
// folder, time zone and umask. scripts/reproduce.sh does so from scratch.
func TestSameAgain(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		var rel api.Release
		if err := json.Unmarshal(read(t, rootTree(t, img, b.Layout), "etc/croft/release.json"), &rel); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TZ", "Pacific/Auckland")
		t.Setenv("GOFLAGS", "-race")
		t.Setenv("SOURCE_DATE_EPOCH", "1")
		defer syscall.Umask(syscall.Umask(0o077))
		out := t.TempDir()
		err := Build(context.Background(), Options{
			Board: b, Out: out, Version: rel.Version, Epoch: time.Unix(rel.Built, 0), ImageOnly: true, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cmp", img, filepath.Join(out, filepath.Base(img))).CombinedOutput(); err != nil {
			t.Errorf("the second image differs: %v\n%s", err, out)
		}
	})
}

// TestWindow: the command line tool refuses windows beyond 128 MiB unless told otherwise.
func TestWindow(t *testing.T) {
	if pack.Window > 128<<20 {
		t.Errorf("window of %d bytes", pack.Window)
	}
}

// TestParts: what slot A of an image has is the boot part of a release, bit for bit, however the image was made.
func TestParts(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		rel := releaseOf(t, img, b.Layout)
		builder, err := newBuilder(t.Context(), Options{
			Board: b, Out: t.TempDir(), Version: rel.Version, Epoch: time.Unix(rel.Built, 0), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(builder.tmp)
		if err := builder.boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := read(t, builder.volume(slots.PartBoot))
		f, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		whole, err := slots.NewFile(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		part := func(number int) slots.Device {
			p := b.Layout.Partition(number)
			return slots.Window{D: whole, Start: p.Start, Len: p.Size}
		}
		m := slots.Medium{Table: b.Layout.Table, Running: layout.SlotA, First: part(b.Layout.First)}
		if b.Layout.Boot[layout.SlotA] != b.Layout.First {
			m.Boot = part(b.Layout.Boot[layout.SlotA])
		}
		r, size, err := m.Base(slots.PartBoot)
		if err != nil || size < int64(len(want)) {
			t.Fatalf("%d bytes of %d: %v", size, len(want), err)
		}
		got := make([]byte, len(want))
		if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("slot A's boot part is another one: %v", err)
		}
		if slot, err := m.Committed(); slot != layout.SlotA || err != nil {
			t.Errorf("committed is slot %q, %v", slot, err)
		}
	})
}

// TestPublisher: whom a box follows is checked before hours are spent on an image of it.
func TestPublisher(t *testing.T) {
	const root, who = `{"signed":{}}`, `{"name":"Someone","mirrors":["https://example.org/croft"]}`
	for name, tc := range map[string]struct {
		files map[string]string
		ok    bool
	}{
		"both":             {map[string]string{"root.json": root, "publisher.json": who}, true},
		"no root":          {map[string]string{"publisher.json": who}, false},
		"nobody":           {map[string]string{"root.json": root}, false},
		"no name":          {map[string]string{"root.json": root, "publisher.json": `{"mirrors":[]}`}, false},
		"something else":   {map[string]string{"root.json": root, "publisher.json": `{"name":"x","key":"secret"}`}, false},
		"a root cut short": {map[string]string{"root.json": root[:5], "publisher.json": who}, false},
	} {
		dir := t.TempDir()
		for name, content := range tc.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b := builder{Options: Options{Publisher: dir}}
		files, err := b.publisher()
		if (err == nil) != tc.ok || tc.ok && (string(files["root.json"]) != root || string(files["publisher.json"]) != who) {
			t.Errorf("%s: %v, %v", name, files, err)
		}
	}
}

// TestNumbers: a release has a number and a channel, or neither.
func TestNumbers(t *testing.T) {
	for _, tc := range []struct {
		number  int64
		channel string
		ok      bool
	}{{0, "", true}, {1, "stable", true}, {7, "beta", true}, {0, "stable", false}, {1, "", false}, {-1, "beta", false}, {1, "gold", false}} {
		b, err := newBuilder(t.Context(), Options{Out: t.TempDir(), Version: "v1", Epoch: time.Unix(1790000000, 0), Number: tc.number, Channel: tc.channel})
		if (err == nil) != tc.ok {
			t.Errorf("number %d in channel %q: %v", tc.number, tc.channel, err)
		}
		if err == nil {
			os.RemoveAll(b.tmp)
		}
	}
}

// TestFirmwareStrings: the boot code that images carry for the Pi 3 and the Zero 2 W knows what the slots need of it.
func TestFirmwareStrings(t *testing.T) {
	eachImage(t, func(t *testing.T, b board.Board, img string) {
		if b.Layout.Table != layout.MBR {
			return
		}
		selector := volume(t, img, b.Layout, b.Layout.First)
		code := read(t, selector, "bootcode.bin")
		for _, word := range []string{"autoboot.txt\x00", "boot_partition\x00", "tryboot_a_b\x00", "tryboot\x00"} {
			if !bytes.Contains(code, []byte(word)) {
				t.Errorf("bootcode.bin does not know %q", word)
			}
		}
		read(t, selector, "config.txt")
	})
}
