package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/image/pack"
	"github.com/croft-os/croft/image/sbom"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// Options say what to build.
type Options struct {
	Board   board.Board
	Out     string    // folder that receives croft-BOARD.img and its companions; made if missing
	Source  string    // folder of the module; "" means the one that encloses the current folder
	Version string    // "" means git describe, or "dev"
	Epoch   time.Time // time stamp of everything; zero means SOURCE_DATE_EPOCH, or the commit's time
	// ImageOnly leaves out what else Build writes.
	ImageOnly bool
	// URL is where the files of Out will be found, for Raspberry Pi Imager's list; "" means in Out itself.
	URL string
	// Number and Channel are of the published release; 0 and "" for an image that nobody publishes.
	Number  int64
	Channel string
	// Publisher is a folder with root.json and publisher.json, which the root gets in /etc/croft: whom a box follows unless its
	// owner wants otherwise. "" means nobody.
	Publisher string
	Log       *slog.Logger
}

// Build writes croft-BOARD.img, .img.zst, .spdx.json and .sha256 to o.Out, and for Raspberry Pis .os_list.json. An image appears
// under its name only when it is complete.
func Build(ctx context.Context, o Options) error {
	b, err := newBuilder(ctx, o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.tmp)
	return b.run(ctx, "image", append(b.parts(), []step{
		{"pack the first volume", b.first, false},
		{"assemble the image", b.assemble, false},
		{"compress", b.compress, o.ImageOnly},
		{"write the bill of materials", b.billOfMaterials, o.ImageOnly},
		{"write the list for Raspberry Pi Imager", b.imagerList, o.ImageOnly || len(o.Board.Imager) == 0},
	}...))
}

// step is a part of the work that is told about.
type step struct {
	name string
	run  func(context.Context) error
	skip bool
}

// parts are the steps that make the two parts of a release.
func (b *builder) parts() []step {
	return []step{
		{"build the programs", b.programs, false},
		{"list the components", b.listParts, false},
		{"pack the root file system", b.root, false},
		{"pack the boot part", b.boot, false},
	}
}

func (b *builder) run(ctx context.Context, what string, steps []step) error {
	for _, s := range steps {
		if s.skip {
			continue
		}
		start := time.Now()
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s for %s: %s: %w", what, b.Board.ID, s.name, err)
		}
		b.Log.Info(s.name, "board", b.Board.ID, "seconds", time.Since(start).Round(100*time.Millisecond).Seconds())
	}
	return nil
}

// versionFormat keeps a version fit for one line of a loader entry and for SPDX.
var versionFormat = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$`)

type builder struct {
	Options
	tmp       string         // scratch, removed at the end
	listed    []sbom.Package // what the image holds
	bootFiles []board.File   // what the boot part is made of

	sum, packedSum string // SHA-256 of the image and of the compressed one, in hex, once that is made

	mu      sync.Mutex
	modules map[string]module
}

// module is what "go mod download -json" tells.
type module struct {
	Path, Version, Dir, Sum string
}

func newBuilder(ctx context.Context, o Options) (*builder, error) {
	b := &builder{Options: o, modules: map[string]module{}}
	if b.Source == "" {
		mod, err := output(ctx, "", "go", "env", "GOMOD")
		if err != nil {
			return nil, err
		}
		if mod == "" || mod == os.DevNull {
			return nil, fmt.Errorf("not inside the source of Croft")
		}
		b.Source = filepath.Dir(mod)
	}
	if b.Version == "" {
		b.Version = "dev"
		if v, err := output(ctx, b.Source, "git", "describe", "--always", "--dirty"); err == nil && v != "" {
			b.Version = v
		}
	}
	if !versionFormat.MatchString(b.Version) {
		return nil, fmt.Errorf("version %q is not made of 1 to 64 letters, digits, and . + _ -", b.Version)
	}
	if b.Epoch.IsZero() {
		s := os.Getenv("SOURCE_DATE_EPOCH")
		if s == "" {
			var err error
			if s, err = output(ctx, b.Source, "git", "log", "-1", "--format=%ct"); err != nil {
				return nil, fmt.Errorf("no SOURCE_DATE_EPOCH and no commit to take the time from: %w", err)
			}
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("time stamp %q is not in Unix seconds", s)
		}
		b.Epoch = time.Unix(n, 0)
	}
	b.Epoch = b.Epoch.UTC().Truncate(2 * time.Second) // FAT counts in two seconds
	switch release.Channel(b.Channel) {
	case release.Stable, release.Beta:
		if b.Number < 1 {
			return nil, fmt.Errorf("number %d: the releases of a publisher count from 1", b.Number)
		}
	case "":
		if b.Number != 0 {
			return nil, fmt.Errorf("a release with number %d needs a channel", b.Number)
		}
	default:
		return nil, fmt.Errorf("there is no channel %q, but %q and %q", b.Channel, release.Stable, release.Beta)
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return nil, err
	}
	var err error
	b.tmp, err = os.MkdirTemp("", "croft-build-")
	return b, err
}

// out is the path of an output file, such as out/croft-pc.img for ".img".
func (b *builder) out(ext string) string { return filepath.Join(b.Out, "croft-"+b.Board.ID+ext) }

// module finds a module that go.mod requires, downloading it if need be.
func (b *builder) module(path string) (module, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m, ok := b.modules[path]; ok {
		return m, nil
	}
	s, err := output(context.Background(), b.Source, "go", "mod", "download", "-json", path)
	if err != nil {
		return module{}, err
	}
	var m module
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return module{}, fmt.Errorf("module %s: %w", path, err)
	}
	b.modules[path] = m
	return m, nil
}

func (b *builder) moduleDir(path string) (string, error) {
	m, err := b.module(path)
	return m.Dir, err
}

func (b *builder) root(ctx context.Context) error {
	dir := filepath.Join(b.tmp, "root")
	licences, err := b.licences()
	if err != nil {
		return err
	}
	publisher, err := b.publisher()
	if err != nil {
		return err
	}
	r := api.Release{Version: b.Version, Built: b.Epoch.Unix(), Board: b.Board.ID, Number: b.Number, Channel: b.Channel}
	if err := writeRoot(dir, r, licences, publisher); err != nil {
		return err
	}
	return pack.Squashfs(ctx, dir, b.volume(slots.PartRoot), b.Epoch)
}

// first packs the first FAT volume, in which no slot is written yet.
func (b *builder) first(ctx context.Context) error {
	files, err := b.Board.First(b.moduleDir)
	if err != nil {
		return err
	}
	rescue, err := b.rescue()
	if err != nil {
		return err
	}
	files = append(files, rescue...)
	p := b.Board.Layout.Partition(b.Board.Layout.First)
	return b.fat(ctx, pack.FAT{Label: "CROFT", ID: 0xc0f70001, Start: p.Start}, p.Size, files, b.volume("first"))
}

// rescue packs the rescue system: the root file system's content, with a mark, in an initramfs. It has no number, so that every
// release is newer than it, that of its own image too.
func (b *builder) rescue() ([]board.File, error) {
	dir, packed := filepath.Join(b.tmp, "root"), b.volume("rescue")
	if err := os.WriteFile(filepath.Join(dir, "etc/croft/rescue"), []byte(b.Version+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := writeRelease(dir, api.Release{Version: b.Version, Built: b.Epoch.Unix(), Board: b.Board.ID}); err != nil {
		return nil, err
	}
	if err := pack.Initramfs(dir, packed, b.Epoch, map[string]string{pathInit: "init"}); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(packed)
	if err != nil {
		return nil, err
	}
	files := b.Board.Rescue(b.bootFiles, b.Version, b.Board.RescueCmdline(b.Version))
	return append(files, board.File{Path: board.RescueFile, Data: content}), nil
}

// boot packs the boot part: the kernel on UEFI machines. On Raspberry Pis it is the boot file system from its first sector to the
// last one in use. Nothing in that depends on the slot: it counts no sectors before itself, which nobody that reads it asks for.
func (b *builder) boot(ctx context.Context) error {
	files, err := b.Board.Boot(b.moduleDir)
	if err != nil {
		return err
	}
	b.bootFiles = files
	l, path := b.Board.Layout, b.volume(slots.PartBoot)
	if l.Table == layout.GPT {
		return os.WriteFile(path, files[0].Data, 0o644)
	}
	v := pack.FAT{Label: "CROFT-BOOT", ID: 0xc0f700b0}
	if err := b.fat(ctx, v, l.Partition(l.Boot[layout.SlotA]).Size, files, path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := fat.End(f)
	if err != nil {
		return err
	}
	return f.Truncate(end)
}

// fat packs files into a volume of that size.
func (b *builder) fat(ctx context.Context, v pack.FAT, size int64, files []board.File, path string) error {
	dir := path + ".tree"
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			return err
		}
		if f.Room > int64(len(f.Data)) {
			if err := os.Truncate(name, f.Room); err != nil {
				return err
			}
		}
	}
	v.Size, v.Cluster = size, size/(64<<20)*512
	return pack.WriteFAT(ctx, v, dir, path, b.Epoch)
}

// volume is the path of what is packed for an image or a payload: "first", "boot" or "root".
func (b *builder) volume(name string) string { return filepath.Join(b.tmp, name+".part") }

// release describes what was packed, as far as writing it to a slot needs.
func (b *builder) release() (*release.Release, error) {
	r := &release.Release{
		Format: release.Format, Board: b.Board.ID, Version: b.Version, Number: b.Number, Channel: release.Channel(b.Channel),
		Built: b.Epoch.Unix(), Cmdline: b.Board.Cmdline(b.Version, b.Number),
	}
	for name, part := range map[string]*release.Part{slots.PartBoot: &r.Boot, slots.PartRoot: &r.Root} {
		var err error
		if part.Size, part.SHA256, err = sum(b.volume(name)); err != nil {
			return nil, err
		}
		if part.Size > release.MaxPart {
			return nil, fmt.Errorf("the %s part has %d bytes, more than a release may have", name, part.Size)
		}
	}
	return r, nil
}

// sum returns the size of a file and its SHA-256 in hex.
func sum(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

func (b *builder) assemble(ctx context.Context) error {
	l, slot := b.Board.Layout, layout.SlotA
	part := b.out(".img.part")
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	defer os.Remove(part)
	defer f.Close()
	if err := f.Truncate(l.Size); err != nil {
		return err
	}
	first := l.Partition(l.First)
	if err := pack.CopySparse(f, first.Start, first.Size, b.volume("first")); err != nil {
		return fmt.Errorf("%s: %w", first.Name, err)
	}
	if err := b.install(ctx, f, slot); err != nil {
		return err
	}
	data := l.Partition(l.Data)
	err = disk.SeedBlocks(func(off int64, block []byte) error {
		_, err := f.WriteAt(block, data.Start+off)
		return err
	})
	if err != nil {
		return err
	}
	if err := pack.WriteTable(f, l); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(part, b.out(".img"))
}

// install writes the first release to a slot of the image, by the code that updates a box. To that the other slot runs, and is
// committed: the one sector that says so is put right afterwards.
func (b *builder) install(ctx context.Context, f *os.File, slot layout.Slot) error {
	r, err := b.release()
	if err != nil {
		return err
	}
	whole, err := slots.NewFile(f, nil)
	if err != nil {
		return err
	}
	l, running := b.Board.Layout, layout.SlotB
	part := func(number int) slots.Device {
		p := l.Partition(number)
		return slots.Window{D: whole, Start: p.Start, Len: p.Size}
	}
	m := slots.Medium{
		Table: l.Table, Running: running, First: part(l.First), Root: part(l.Root[running]), RootIdle: part(l.Root[slot]),
		RootID: map[layout.Slot]string{slot: l.PARTUUID(l.Root[slot]), running: l.PARTUUID(l.Root[running])},
	}
	if l.Boot[slot] != l.First {
		m.Boot, m.BootIdle = part(l.Boot[running]), part(l.Boot[slot])
	}
	fill := func(part string, dst io.Writer) error {
		in, err := os.Open(b.volume(part))
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(dst, in)
		return err
	}
	if err := m.Install(ctx, r, fill, func(slots.Step, int64, int64) {}); err != nil {
		return fmt.Errorf("write slot %s: %w", slot, err)
	}
	return m.Commit(slot)
}

func (b *builder) compress(ctx context.Context) error {
	part := b.out(".img.zst.part")
	defer os.Remove(part)
	raw, packed, err := pack.Compress(ctx, b.out(".img"), part)
	if err != nil {
		return err
	}
	if err := os.Rename(part, b.out(".img.zst")); err != nil {
		return err
	}
	b.sum, b.packedSum = raw, packed
	name := filepath.Base(b.out(".img"))
	return os.WriteFile(b.out(".sha256"), fmt.Appendf(nil, "%s  %s\n%s  %s.zst\n", raw, name, packed, name), 0o644)
}

// output runs a command and returns what it printed, trimmed.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
