package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/image/pack"
	"github.com/croft-os/croft/updater/slots"
)

// tool runs a foreign program that judges what we wrote.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// small is a layout with the same parts in the same order, less room in each, and images that are quicker.
func small(l layout.Layout) layout.Layout {
	l.Partitions = slices.Clone(l.Partitions)
	at := int64(4 * mib)
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if l.Extended != 0 && p.Number > l.Extended {
			at += layout.EBRGap
		}
		p.Start, p.Size = at, 8*mib
		if p.Number == l.First || p.Number == l.Boot[layout.SlotA] {
			p.Size = 36 * mib // FAT32 needs 33
		}
		if p.Number != l.Extended {
			at += p.Size
		}
	}
	if l.Extended != 0 {
		p := &l.Partitions[l.Extended-1]
		p.Size = at - p.Start
	}
	l.Size = at + 4*mib
	return l
}

// images makes a whole image of each small layout, plain and compressed, once: the partition table and the FAT volumes as
// package image writes them, and a pattern in the place of the root.
var images = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "croft-flash-")
	if err != nil {
		return "", err
	}
	for i, l := range layouts {
		l = small(l)
		layouts[i] = l
		path := filepath.Join(dir, string(l.Table)+".img")
		f, err := os.Create(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := errors.Join(f.Truncate(l.Size), pack.WriteTable(f, l)); err != nil {
			return "", err
		}
		blanks := strings.Repeat(" ", board.SettingsSize-29)
		for _, file := range []struct {
			number        int
			name, content string
		}{
			{l.First, board.SettingsFile, `{"format":"croft-settings/1"}` + blanks},
			{l.Boot[layout.SlotA], slots.CmdlineFile(l.Table, layout.SlotA), "options root=PARTUUID=" + l.PARTUUID(l.Root[layout.SlotA]) + " ro\n"},
		} {
			// On a GPT both are on one volume.
			name := filepath.Join(dir, fmt.Sprint("tree-", l.Table, file.number), file.name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(file.content), 0o644)); err != nil {
				return "", err
			}
		}
		for _, number := range slices.Compact([]int{l.First, l.Boot[layout.SlotA]}) {
			p, vol := l.Partition(number), filepath.Join(dir, "vol")
			v := pack.FAT{Label: "CROFT", ID: 1, Size: p.Size, Cluster: 512, Start: p.Start}
			tree := filepath.Join(dir, fmt.Sprint("tree-", l.Table, number))
			if err := pack.WriteFAT(context.Background(), v, tree, vol, time.Unix(1790000000, 0)); err != nil {
				return "", err
			}
			if err := pack.CopySparse(f, p.Start, p.Size, vol); err != nil {
				return "", err
			}
		}
		root := l.Partition(l.Root[layout.SlotA])
		for i := range int64(8) {
			if _, err := f.WriteAt(bytes.Repeat([]byte(fmt.Sprintf("block %8d.\n\x00", i)), 4096), root.Start+i*mib); err != nil {
				return "", err
			}
		}
		if _, _, err := pack.Compress(context.Background(), path, path+".zst"); err != nil {
			return "", err
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := images(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func image(t testing.TB, name string) string {
	t.Helper()
	dir, err := images()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func openImage(t testing.TB, path string) *Image {
	t.Helper()
	img, err := OpenImage(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func silent(string, int64) {}

var settings = Settings{Name: "Attic.local", WiFi: &WiFi{"Home <3", "correct horse"}, ClaimCode: "o1il-2345", TimeZone: "Europe/Berlin", MeshKey: "key-1"}

const settingsWant = `{
  "format": "croft-settings/1",
  "name": "attic",
  "time_zone": "Europe/Berlin",
  "wifi": {
    "ssid": "Home \u003c3",
    "password": "correct horse"
  },
  "claim_code": "0111-2345",
  "mesh_key": "key-1"
}
`

// same compares the target with the image, but for what is the drive's own, and looks at that.
func same(t *testing.T, img *Image, path string) {
	t.Helper()
	got, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	// own is what may differ: the settings, the command line, and a GPT.
	own := []fat.Extent{{Length: mib}, {Offset: img.Size - gptBackup, Length: gptBackup}}
	file := func(number int, name string) string {
		p := img.Layout.Partition(number)
		volume := io.NewSectionReader(got, p.Start, p.Size)
		f, err := fat.Find(volume, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range f.Extents {
			own = append(own, fat.Extent{Offset: p.Start + e.Offset, Length: e.Length})
		}
		content, err := fat.ReadFile(volume, name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	l := img.Layout
	if content := file(l.First, board.SettingsFile); strings.TrimRight(content, " ") != settingsWant {
		t.Errorf("%s: %q", board.SettingsFile, content)
	}
	cmdline := file(l.Boot[layout.SlotA], slots.CmdlineFile(l.Table, layout.SlotA))
	b := make([]byte, chunkSize)
	err = img.chunks(t.Context(), func(off int64, want []byte) error {
		if _, err := got.ReadAt(b[:len(want)], off); err != nil {
			return err
		}
		for _, o := range own {
			for i := max(o.Offset, off); i < min(o.Offset+o.Length, off+int64(len(want))); i++ {
				b[i-off] = want[i-off]
			}
		}
		if !bytes.Equal(b[:len(want)], want) {
			t.Errorf("the target differs between %d and %d", off, off+int64(len(want)))
		}
		return nil
	})
	if err != nil {
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
	for _, number := range slices.Compact([]int{l.First, l.Boot[layout.SlotA]}) {
		p, vol := l.Partition(number), filepath.Join(t.TempDir(), "vol")
		tool(t, "dd", "if="+path, "of="+vol, "bs=1M", fmt.Sprintf("skip=%d", p.Start/mib), fmt.Sprintf("count=%d", p.Size/mib), "conv=sparse", "status=none")
		tool(t, "dosfsck", "-n", vol)
	}
	// The ids are the drive's own, and the kernel is told the root's; the rest of the table is as it was.
	root := l.Root[layout.SlotA]
	before, after := tool(t, "sfdisk", "--dump", img.plain(t)), tool(t, "sfdisk", "--dump", path)
	id := ids.FindAllString(strings.ToLower(after), -1)
	for _, i := range id {
		if strings.Contains(strings.ToLower(before), i) {
			t.Errorf("the id %s is the image's", i)
		}
	}
	want := strings.TrimPrefix(id[0], "0x") + fmt.Sprintf("-%02x", root)
	if l.Table == layout.GPT {
		want = strings.TrimPrefix(id[root], "uuid=")
	}
	if want := "options root=PARTUUID=" + want + " ro\n"; cmdline != want {
		t.Errorf("command line %q, want %q", cmdline, want)
	}
	rest := func(dump string) string {
		_, dump, _ = strings.Cut(strings.ReplaceAll(ids.ReplaceAllString(strings.ToLower(dump), "ID"), " ", ""), "unit:")
		dump = lastLBA.ReplaceAllString(dump, "")
		return strings.NewReplacer(path, "", img.plain(t), "", strings.ToLower(path), "", strings.ToLower(img.plain(t)), "").Replace(dump)
	}
	if a, b := rest(before), rest(after); a != b {
		t.Errorf("the partitions differ:\n%s\n%s", a, b)
	}
}

var (
	ids     = regexp.MustCompile(`0x[0-9a-f]{8}\b|(uuid=|id: )[0-9a-f-]{36}`)
	lastLBA = regexp.MustCompile(`last-lba:\d+`)
)

// plain is the uncompressed image.
func (img *Image) plain(t *testing.T) string {
	return image(t, strings.TrimSuffix(filepath.Base(img.Path), ".zst"))
}

// TestWrite flashes each kind of image into a new file, and into one that stands for a larger drive with old things on it.
func TestWrite(t *testing.T) {
	for _, name := range []string{"gpt.img", "gpt.img.zst", "mbr.img.zst"} {
		t.Run(name, func(t *testing.T) {
			img := openImage(t, image(t, name))
			path := filepath.Join(t.TempDir(), "new")
			target, err := OpenFile(path, img.Size)
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			last := map[string]int64{}
			state, err := Write(t.Context(), img, target, settings, func(phase string, done int64) {
				if done <= last[phase] {
					t.Errorf("%s: %d after %d", phase, done, last[phase])
				}
				last[phase] = done
			})
			if state != Verified || err != nil {
				t.Fatalf("%s, %v", state, err)
			}
			if last[Writing] != img.Size || last[Reading] != img.Size {
				t.Errorf("progress ends with %v of %d", last, img.Size)
			}
			same(t, img, path)
		})
	}
	t.Run("used drive", func(t *testing.T) {
		img := openImage(t, image(t, "gpt.img.zst"))
		path := filepath.Join(t.TempDir(), "drive")
		size := img.Size + 100*mib
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		tool(t, "sgdisk", "-o", "-n1:0:0", "-c1:old", path)
		target, err := OpenFile(path, img.Size)
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		junk := bytes.Repeat([]byte("old "), mib/4)
		for _, at := range []int64{3, 5, 30, 42, 50} {
			if _, err := target.WriteAt(junk, at*mib); err != nil {
				t.Fatal(err)
			}
		}
		if state, err := Write(t.Context(), img, target, settings, silent); state != Verified || err != nil {
			t.Fatalf("%s, %v", state, err)
		}
		same(t, img, path)
		tail := make([]byte, mib-gptBackup)
		if _, err := target.ReadAt(tail, size-mib); err != nil || len(bytes.Trim(tail, "\x00")) != 0 {
			t.Errorf("the old drive's partition table is still at its end: %v", err)
		}
		if c, err := Look(target, size); err != nil || !c.Croft || c.Table != "GPT" {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

// loop makes a block device of a file, where the kernel lets this test do so.
func loop(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	return dev
}

func driveAt(t *testing.T, dev string) Drive {
	t.Helper()
	d, err := ThisHost.Drive(dev)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOtherDrive: nothing is written to but the very drive that was looked at.
func TestOtherDrive(t *testing.T) {
	const size = 2 * mib
	dir := t.TempDir()
	dev := loop(t, filepath.Join(dir, "a"), size)
	asked := driveAt(t, dev)
	target, err := ThisHost.Open(asked)
	if err != nil {
		t.Fatal(err)
	}
	target.Close()

	// Another medium of the same size takes its place, and its name.
	tool(t, "losetup", "-d", dev)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "b"), nil, 0o600), os.Truncate(filepath.Join(dir, "b"), size)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", dev, filepath.Join(dir, "b")).CombinedOutput(); err != nil {
		t.Skipf("%s was taken meanwhile: %v: %s", dev, err, out)
	}
	if _, err := ThisHost.Open(asked); !errors.Is(err, ErrOther) {
		t.Errorf("another medium: %v", err)
	}

	// What is used through a loop device is in use.
	out, err := exec.Command("losetup", "--find", "--show", dev).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	above := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", above).Run() })
	if d := driveAt(t, dev); d.Used != filepath.Base(above) {
		t.Errorf("below %s: %+v", above, d)
	}

	// A node that has the name of one drive and the number of another.
	node := filepath.Join(dir, filepath.Base(dev))
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 255))); err != nil {
		t.Skip(err)
	}
	if d, err := ThisHost.Drive(node); err == nil {
		t.Errorf("%s was taken for %s", node, d.Path)
	}
}

func TestBlockDevice(t *testing.T) {
	img := openImage(t, image(t, "gpt.img.zst"))
	dir, err := os.MkdirTemp("/dev/shm", "croft-flash-") // each flush would reach this computer's own disk
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk")
	dev := loop(t, path, img.Size+5*mib)
	target, err := ThisHost.Open(driveAt(t, dev))
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if _, err := ThisHost.Open(driveAt(t, dev)); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened twice: %v", err)
	}
	if state, err := Write(t.Context(), img, target, settings, silent); state != Verified || err != nil {
		t.Fatalf("%s, %v", state, err)
	}
	same(t, img, path)

	// What changes below the device once it is written is found, for it is not this computer's memory that is read back.
	below, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	at := img.Layout.Partition(img.Layout.Root[layout.SlotA]).Start + 3*mib + 77
	var once sync.Once
	state, err := Write(t.Context(), img, target, settings, func(phase string, _ int64) {
		if phase == Reading {
			once.Do(func() {
				if _, err := below.WriteAt([]byte{0xff}, at); err != nil {
					t.Error(err)
				}
			})
		}
	})
	var v *VerifyError
	if state != Cleared || !errors.As(err, &v) || v.Offset != at {
		t.Errorf("changed below: %s, %v, want a difference at %d", state, err, at)
	}
}

// TestFailingBlockDevice: a device that takes writes into memory, and fails when they are to reach what is below it.
func TestFailingBlockDevice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("croft-test", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	img := openImage(t, image(t, "gpt.img"))
	dev := loop(t, filepath.Join(dir, "disk"), img.Size)
	target, err := ThisHost.Open(driveAt(t, dev))
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	state, err := Write(t.Context(), img, target, settings, silent)
	var gone *GoneError
	if state != Cleared || !errors.As(err, &gone) {
		t.Errorf("%s, %v", state, err)
	}
}

// drive is a file that stands for a drive with a fault.
type drive struct {
	*Target
	real    int64 // writes from here on land at the beginning again, as on cards that claim to be larger
	failAt  int64 // writes and reads that reach this byte fail
	bitFlip int64 // this byte is read wrong, past the cache
	onWrite func(off int64)
}

func newDrive(t *testing.T, img *Image) *drive {
	t.Helper()
	target, err := OpenFile(filepath.Join(t.TempDir(), "drive"), img.Size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return &drive{Target: target, real: 1 << 60, failAt: 1 << 60, bitFlip: -1}
}

func (d *drive) WriteAt(p []byte, off int64) (int, error) {
	if d.onWrite != nil {
		d.onWrite(off)
	}
	if off+int64(len(p)) > d.failAt {
		return 0, &os.PathError{Op: "write", Path: "/dev/sdx", Err: syscall.EIO}
	}
	return d.Target.WriteAt(p, off%d.real)
}

func (d *drive) Uncached() (io.ReaderAt, error) { return faulty{d}, nil }

type faulty struct{ d *drive }

func (f faulty) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.d.File.ReadAt(p, off%f.d.real)
	if at := f.d.bitFlip - off; at >= 0 && at < int64(n) {
		p[at] ^= 4
	}
	return n, err
}

// startable says whether a computer would find anything on the drive.
func startable(t *testing.T, d *drive) bool {
	t.Helper()
	c, err := Look(d.File, d.Size())
	if err != nil {
		t.Fatal(err)
	}
	return c.Table != ""
}

func TestLyingDrive(t *testing.T) {
	img := openImage(t, image(t, "gpt.img.zst"))
	root := img.Layout.Partition(img.Layout.Root[layout.SlotA]).Start
	for name, tc := range map[string]struct {
		change func(*drive)
		offset int64
	}{
		// What belongs at 36 MiB + n was written over n: the root, at 40 MiB, over the first volume, at 4 MiB.
		"less than it claims": {func(d *drive) { d.real = 36 * mib }, 4 * mib},
		"bad cell":            {func(d *drive) { d.bitFlip = root + 12345 }, root + 12345},
		"bad first byte":      {func(d *drive) { d.bitFlip = 0 }, 0},
		"bad last byte":       {func(d *drive) { d.bitFlip = img.Size - 1 }, img.Size - 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDrive(t, img)
			tc.change(d)
			state, err := Write(t.Context(), img, d, Settings{}, silent)
			var v *VerifyError
			if state == Verified || !errors.As(err, &v) {
				t.Fatalf("%s, %v", state, err)
			}
			if v.Offset != tc.offset {
				t.Errorf("first difference at %d, want %d", v.Offset, tc.offset)
			}
			if state != Cleared || startable(t, d) {
				t.Errorf("it is left %s with a partition table", state)
			}
		})
	}
}

func TestGone(t *testing.T) {
	img := openImage(t, image(t, "gpt.img"))
	d := newDrive(t, img)
	d.failAt = 42 * mib
	state, err := Write(t.Context(), img, d, Settings{}, silent)
	var gone *GoneError
	if state != Cleared || !errors.As(err, &gone) || !errors.Is(err, syscall.EIO) || gone.Offset/chunkSize != 42*mib/chunkSize || startable(t, d) {
		t.Errorf("%s, %v", state, err)
	}
}

// TestCancel stops at each step and looks at what is left.
func TestCancel(t *testing.T) {
	img := openImage(t, image(t, "gpt.img"))
	for name, tc := range map[string]struct {
		when  func(phase string, done int64) bool
		state State
	}{
		"while writing":         {func(p string, done int64) bool { return p == Writing && done > 20*mib }, Cleared},
		"while reading back":    {func(p string, done int64) bool { return p == Reading && done > 20*mib }, Written},
		"at the last byte read": {func(p string, done int64) bool { return p == Reading && done == img.Size }, Verified},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := newDrive(t, img)
			state, err := Write(ctx, img, d, Settings{}, func(p string, done int64) {
				if tc.when(p, done) {
					cancel()
				}
			})
			if state != tc.state || (err == nil) != (state == Verified) || err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s, %v", state, err)
			}
			if startable(t, d) != (tc.state != Cleared) {
				t.Errorf("%s: the partition table does not fit that", state)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if state, err := Write(ctx, img, newDrive(t, img), Settings{}, silent); state != Untouched || err == nil {
		t.Errorf("before it starts: %s, %v", state, err)
	}
}

// TestUntouched: what is wrong beforehand costs nothing.
func TestUntouched(t *testing.T) {
	img := openImage(t, image(t, "gpt.img"))
	d := newDrive(t, img)
	d.onWrite = func(off int64) { t.Errorf("wrote at %d", off) }
	if state, err := Write(t.Context(), img, d, Settings{Name: "no name"}, silent); state != Untouched || err == nil {
		t.Errorf("wrong settings: %s, %v", state, err)
	}
	d.size = img.Size - 512
	if state, err := Write(t.Context(), img, d, Settings{}, silent); state != Untouched || !errors.Is(err, ErrTooSmall) {
		t.Errorf("small drive: %s, %v", state, err)
	}
}

func TestFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("croft-test", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	img := openImage(t, image(t, "gpt.img"))
	target, err := OpenFile(filepath.Join(dir, "disk"), img.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	state, err := Write(t.Context(), img, target, Settings{}, silent)
	if state != Cleared || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%s, %v", state, err)
	}
}

func TestOpenImageRefuses(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain, err := os.ReadFile(image(t, "gpt.img"))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(image(t, "gpt.img.zst"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 1
	other := bytes.Clone(plain[:8*mib])
	other[512+56]++
	put("sum.sha256", []byte(strings.Repeat("00", 32)+"  sum.img\n"))
	for _, tc := range []struct {
		name, path, want string
	}{
		{"empty", put("empty.img", nil), "no partition table"},
		{"text", put("text.img", bytes.Repeat([]byte("holiday "), mib)), "no partition table"},
		{"another system's", put("other.img", other), "not one of Croft's"},
		{"cut short", put("short.img", plain[:len(plain)/2]), "bytes of"},
		{"compressed, cut short", put("short.img.zst", packed[:len(packed)-100]), "cut short"},
		{"compressed, only its beginning", put("shorter.img.zst", packed[:3]), "no partition table"},
		{"compressed, a bit flipped", put("flipped.img.zst", flipped), "not a whole Croft image"},
		{"other sum", put("sum.img", plain), "sum.sha256"},
		{"folder", dir, "no file"},
	} {
		if _, err := OpenImage(t.Context(), tc.path, nil); !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if _, err := OpenImage(t.Context(), filepath.Join(dir, "none.img"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestNormalise(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    Settings
		want string // of the error, "" if it is fine
	}{
		{"nothing", Settings{}, ""},
		{"longest name", Settings{Name: strings.Repeat("a", 63)}, ""},
		{"name", Settings{Name: "a_b"}, "name of the box"},
		{"name with a dot", Settings{Name: "a.b"}, "name of the box"},
		{"dash", Settings{Name: "-a"}, "name of the box"},
		{"long name", Settings{Name: strings.Repeat("a", 64)}, "name of the box"},
		{"umlaut", Settings{Name: "küche"}, "name of the box"},
		{"time zone", Settings{TimeZone: "Europe/Nowhere"}, "time zone"},
		{"time zone out of its folder", Settings{TimeZone: "../../etc/passwd"}, "time zone"},
		{"local time", Settings{TimeZone: "Local"}, "time zone"},
		{"open Wi-Fi", Settings{WiFi: &WiFi{SSID: "x"}}, ""},
		{"key", Settings{WiFi: &WiFi{"x", strings.Repeat("0f", 32)}}, ""},
		{"no key", Settings{WiFi: &WiFi{"x", strings.Repeat("0g", 32)}}, "password"},
		{"short password", Settings{WiFi: &WiFi{"x", "1234567"}}, "password"},
		{"password with an umlaut", Settings{WiFi: &WiFi{"x", "geheimnisvöll"}}, "password"},
		{"no SSID", Settings{WiFi: &WiFi{"", "12345678"}}, "name of the Wi-Fi"},
		{"long SSID", Settings{WiFi: &WiFi{strings.Repeat("x", 33), ""}}, "name of the Wi-Fi"},
		{"code", Settings{ClaimCode: "7k3m 9qxt"}, ""},
		{"short code", Settings{ClaimCode: "7K3M-9QX"}, "claim code"},
		{"code with U", Settings{ClaimCode: "7K3U-9QXT"}, "claim code"},
		{"mesh key", Settings{MeshKey: "a b"}, "mesh key"},
	} {
		err := tc.s.Normalise()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err != nil && tc.s.WiFi != nil && tc.s.WiFi.Password != "" && strings.Contains(err.Error(), tc.s.WiFi.Password) {
			t.Errorf("%s: the password is in %q", tc.name, err)
		}
	}
	for range 100 {
		code := NewClaimCode()
		if got, ok := claimCode(code); !ok || got != code {
			t.Fatalf("made the code %q, read %q", code, got)
		}
	}
}
