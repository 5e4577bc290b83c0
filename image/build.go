package image

import (
	"context"
	"encoding/json"
	"fmt"
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
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/image/pack"
	"github.com/croft-os/croft/image/sbom"
	"github.com/croft-os/croft/services/api"
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
	for _, step := range []struct {
		name string
		run  func(context.Context) error
		skip bool
	}{
		{"build the programs", b.programs, false},
		{"list the components", b.listParts, false},
		{"pack the root file system", b.root, false},
		{"pack the boot volumes", b.volumes, false},
		{"assemble the image", b.assemble, false},
		{"compress", b.compress, o.ImageOnly},
		{"write the bill of materials", b.billOfMaterials, o.ImageOnly},
		{"write the list for Raspberry Pi Imager", b.imagerList, o.ImageOnly || len(o.Board.Imager) == 0},
	} {
		if step.skip {
			continue
		}
		start := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("image for %s: %s: %w", o.Board.ID, step.name, err)
		}
		o.Log.Info(step.name, "board", o.Board.ID, "seconds", time.Since(start).Round(100*time.Millisecond).Seconds())
	}
	return nil
}

// versionFormat keeps a version fit for one line of a loader entry and for SPDX.
var versionFormat = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$`)

type builder struct {
	Options
	tmp   string         // scratch, removed at the end
	parts []sbom.Package // what the image holds

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
	if err := writeRoot(dir, api.Release{Version: b.Version, Built: b.Epoch.Unix(), Board: b.Board.ID}, licences); err != nil {
		return err
	}
	return pack.Squashfs(ctx, dir, filepath.Join(b.tmp, "root.squashfs"), b.Epoch)
}

// volumes packs the FATs of slot A.
func (b *builder) volumes(ctx context.Context) error {
	l, slot := b.Board.Layout, layout.SlotA
	first, err := b.Board.First(b.moduleDir)
	if err != nil {
		return err
	}
	boot, err := b.Board.Boot(b.moduleDir, slot, b.Version, b.Board.Cmdline(slot))
	if err != nil {
		return err
	}
	files := map[int][]board.File{l.First: first}
	files[l.Boot[slot]] = append(files[l.Boot[slot]], boot...)
	for number, fs := range files {
		dir := filepath.Join(b.tmp, fmt.Sprintf("fat%d", number))
		for _, f := range fs {
			path := filepath.Join(dir, filepath.FromSlash(f.Path))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, f.Data, 0o644); err != nil {
				return err
			}
		}
		p := l.Partition(number)
		v := pack.FAT{Label: "CROFT", ID: 0xc0f70000 + uint32(number), Size: p.Size, Cluster: p.Size / (64 << 20) * 512, Start: p.Start}
		if number != l.First {
			v.Label = "CROFT-" + strings.ToUpper(string(slot))
		}
		if err := pack.WriteFAT(ctx, v, dir, b.volume(number), b.Epoch); err != nil {
			return err
		}
	}
	return nil
}

// volume is the path of a partition's file system before it is part of the image.
func (b *builder) volume(number int) string {
	return filepath.Join(b.tmp, fmt.Sprintf("fat%d.img", number))
}

func (b *builder) assemble(context.Context) error {
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
	contents := map[int]string{
		l.First:      b.volume(l.First),
		l.Boot[slot]: b.volume(l.Boot[slot]),
		l.Root[slot]: filepath.Join(b.tmp, "root.squashfs"),
	}
	for number, path := range contents {
		p := l.Partition(number)
		if err := pack.CopySparse(f, p.Start, p.Size, path); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
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
