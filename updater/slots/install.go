package slots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/updater/release"
)

const (
	chunk  = 1 << 20 // bytes of memory for copying
	flush  = 8 << 20 // bytes after which what was written is flushed, so that little of it waits in memory
	sector = layout.SectorSize
)

// Install writes a release to the idle slot. It calls fill for "root" and then for "boot", which writes that part to dst. Where it
// fails, the idle slot is invalid, unless it fails with ErrCommitted, ErrForm or ErrTooLarge before it wrote anything; to go on is
// to begin anew. It refuses with ErrCommitted if the idle slot is the one that the firmware starts.
func (m *Medium) Install(ctx context.Context, r *release.Release, fill func(part string, dst io.Writer) error,
	progress func(step Step, done, total int64),
) error {
	in, err := m.plan(r)
	if err != nil {
		return err
	}
	in.ctx, in.progress, in.buf = ctx, progress, alignedBuffer(chunk)
	for _, step := range []func() error{
		in.erase,
		func() error { return in.write(StepRoot, fill) },
		func() error { return in.write(StepBoot, fill) },
		in.cmdline,
		in.verify,
		in.finish,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Verify reads the idle slot past all caches and fails with ErrIncomplete or ErrReadBack unless it holds r.
func (m *Medium) Verify(ctx context.Context, r *release.Release, progress func(done, total int64)) error {
	s, err := m.Installed()
	if err != nil {
		return err
	}
	if !s.Complete || s.Cmdline != r.CmdlineFor(string(s.Slot), m.RootID[s.Slot]) {
		return fmt.Errorf("slot %s: %w of %s", s.Slot, ErrIncomplete, r.Version)
	}
	in, err := m.locate(r)
	if err != nil {
		return err
	}
	in.ctx, in.buf = ctx, alignedBuffer(chunk)
	in.progress = func(_ Step, done, total int64) { progress(done, total) }
	if m.Table == layout.MBR {
		in.head = make([]byte, sector)
		if err := readFull(m.BootIdle.Reread(), in.head, 0); err != nil {
			return err
		}
		if in.text, in.textAt, err = in.findCmdline(m.BootIdle.Reread()); err != nil {
			return err
		}
		in.valid = true
	}
	return in.verify()
}

// installation is one run of Install.
type installation struct {
	m        *Medium
	r        *release.Release
	slot     layout.Slot
	ctx      context.Context
	progress func(Step, int64, int64)
	buf      []byte // chunk bytes, aligned as O_DIRECT wants

	// UEFI: places on the first FAT.
	kernel, entryAt fat.Extent
	entry           []byte
	// Raspberry Pi: the boot sector, and the command line with its place in the boot partition.
	head   []byte
	text   []byte
	textAt fat.Extent
	valid  bool // the boot sector is written already
}

// plan looks that all of it fits and that nothing of the running slot is in the way, before anything is written.
func (m *Medium) plan(r *release.Release) (*installation, error) {
	if !m.Rescue {
		committed, err := m.Committed()
		if err != nil {
			return nil, err
		}
		if committed != m.Running {
			return nil, fmt.Errorf("slot %s: %w", m.Idle(), ErrCommitted)
		}
	}
	return m.locate(r)
}

func (m *Medium) locate(r *release.Release) (*installation, error) {
	in := &installation{m: m, r: r, slot: m.Idle()}
	if r.Root.Size > m.RootIdle.Size() {
		return nil, fmt.Errorf("%w: the root has %d bytes, and the partition %d", ErrTooLarge, r.Root.Size, m.RootIdle.Size())
	}
	if m.RootID[in.slot] == "" || m.RootID[in.slot] == m.RootID[m.Running] {
		return nil, fmt.Errorf("%w: the table gives the root of slot %s no id of its own", ErrForm, in.slot)
	}
	if m.Table == layout.MBR {
		if r.Boot.Size > m.BootIdle.Size() {
			return nil, fmt.Errorf("%w: the boot file system has %d bytes, and the partition %d", ErrTooLarge, r.Boot.Size, m.BootIdle.Size())
		}
		if r.Boot.Size < 2*sector || r.Boot.Size%sector != 0 {
			return nil, fmt.Errorf("%w: a boot file system of %d bytes", ErrContent, r.Boot.Size)
		}
		return in, nil
	}
	var err error
	if in.kernel, err = inPlace(m.First, KernelFile(in.slot)); err != nil {
		return nil, err
	}
	if r.Boot.Size > in.kernel.Length {
		return nil, fmt.Errorf("%w: the kernel has %d bytes, and its file %d", ErrTooLarge, r.Boot.Size, in.kernel.Length)
	}
	if in.entryAt, err = inPlace(m.First, CmdlineFile(m.Table, in.slot)); err != nil {
		return nil, err
	}
	if in.entryAt.Length > maxEntry || in.entryAt.Length%sector != 0 || in.kernel.Length%sector != 0 {
		return nil, fmt.Errorf("%w: the files of slot %s have %d and %d bytes", ErrForm, in.slot, in.entryAt.Length, in.kernel.Length)
	}
	if err := in.apart(); err != nil {
		return nil, err
	}
	in.entry, err = entry(in.slot, r.Version, r.CmdlineFor(string(in.slot), m.RootID[in.slot]), in.entryAt.Length)
	return in, err
}

// apart makes sure that what will be overwritten is not part of a file that the running slot or the rescue system needs: on a volume that another
// computer damaged, files can share clusters.
func (in *installation) apart() error {
	running := in.m.Running
	needed := []fat.Extent{}
	for _, name := range []string{
		KernelFile(running), CmdlineFile(in.m.Table, running), loaderConf, "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTAA64.EFI",
		"rescue-vmlinuz", "rescue.cpio.zst", "loader/entries/croft-rescue.conf",
	} {
		f, err := fat.Find(in.m.First, name)
		if errors.Is(err, fat.ErrNotFound) {
			continue
		}
		if err != nil {
			return volumeError(err)
		}
		needed = append(needed, f.Extents...)
	}
	for _, mine := range []fat.Extent{in.kernel, in.entryAt} {
		for _, e := range needed {
			if mine.Offset < e.Offset+e.Length && e.Offset < mine.Offset+mine.Length {
				return fmt.Errorf("%w: files of both slots share room", ErrForm)
			}
		}
	}
	if k, e := in.kernel, in.entryAt; k.Offset < e.Offset+e.Length && e.Offset < k.Offset+k.Length {
		return fmt.Errorf("%w: files of slot %s share room", ErrForm, in.slot)
	}
	return nil
}

// erase makes the slot invalid: step 1.
func (in *installation) erase() error {
	in.progress(StepErase, 0, 1)
	defer in.progress(StepErase, 1, 1)
	if in.m.Table == layout.MBR {
		return put(in.m.BootIdle, make([]byte, sector), 0)
	}
	// Without its first sector it is no entry any more; with it and without the rest, it would be one with half a command line.
	blank := bytes.Repeat([]byte{'\n'}, int(in.entryAt.Length))
	if err := put(in.m.First, blank[:sector], in.entryAt.Offset); err != nil {
		return err
	}
	return put(in.m.First, blank, in.entryAt.Offset)
}

// put writes b, flushes it and reads it back.
func put(d Device, b []byte, off int64) error {
	if err := writeAt(d, b, off); err != nil {
		return err
	}
	if err := syncDevice(d); err != nil {
		return err
	}
	got := make([]byte, len(b))
	if err := readFull(d.Reread(), got, off); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("%w, at byte %d", ErrReadBack, off)
	}
	return nil
}

func writeAt(d Device, b []byte, off int64) error {
	if off < 0 || off+int64(len(b)) > d.Size() {
		return fmt.Errorf("%w: write %d bytes at %d of %d", ErrForm, len(b), off, d.Size())
	}
	if _, err := d.WriteAt(b, off); err != nil {
		return fmt.Errorf("%w: write %d bytes at %d: %w", ErrMedium, len(b), off, err)
	}
	return nil
}

func syncDevice(d Device) error {
	if err := d.Sync(); err != nil {
		return fmt.Errorf("%w: flush: %w", ErrMedium, err)
	}
	return nil
}

// place is where a part goes.
func (in *installation) place(step Step) (d Device, off, room int64, p release.Part) {
	switch {
	case step == StepRoot:
		return in.m.RootIdle, 0, roundUp(in.r.Root.Size), in.r.Root
	case in.m.Table == layout.MBR:
		return in.m.BootIdle, 0, in.r.Boot.Size, in.r.Boot
	}
	return in.m.First, in.kernel.Offset, in.kernel.Length, in.r.Boot
}

func roundUp(n int64) int64 { return (n + sector - 1) / sector * sector }

// write lets fill write a part to its place, and zeros behind it: steps 2 and 3.
func (in *installation) write(step Step, fill func(string, io.Writer) error) error {
	d, off, room, part := in.place(step)
	w := &partWriter{in: in, d: d, step: step, off: off, size: part.Size, hash: sha256.New()}
	if step == StepBoot && in.m.Table == layout.MBR {
		in.head = make([]byte, 0, sector)
		w.hold = true
	}
	name := map[Step]string{StepRoot: PartRoot, StepBoot: PartBoot}[step]
	if err := fill(name, w); err != nil {
		return err
	}
	if w.done+int64(w.n) != part.Size || hex.EncodeToString(w.hash.Sum(nil)) != part.SHA256 {
		return fmt.Errorf("%w: %s", ErrContent, name)
	}
	if err := w.flush(); err != nil {
		return err
	}
	clear(in.buf)
	for at := part.Size; at < room; {
		n := min(chunk, room-at)
		if err := writeAt(d, in.buf[:n], off+at); err != nil {
			return err
		}
		at += n
		if err := w.wrote(n); err != nil {
			return err
		}
	}
	return syncDevice(d)
}

// partWriter writes what it is given to a place, a chunk at a time.
type partWriter struct {
	in    *installation
	d     Device
	step  Step
	off   int64
	size  int64 // at most
	done  int64 // bytes written
	n     int   // bytes in in.buf, which come next
	dirty int64 // bytes since the last flush
	hash  hash.Hash
	hold  bool // keep the first sector in in.head
	err   error
}

func (w *partWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.size-w.done-int64(w.n) {
		w.err = fmt.Errorf("%w: more than %d bytes", ErrContent, w.size)
		return 0, w.err
	}
	w.hash.Write(p)
	for rest := p; len(rest) > 0; {
		n := copy(w.in.buf[w.n:], rest)
		w.n, rest = w.n+n, rest[n:]
		if w.n == len(w.in.buf) {
			if w.err = w.flush(); w.err != nil {
				return 0, w.err
			}
		}
	}
	return len(p), nil
}

func (w *partWriter) flush() error {
	b, at := w.in.buf[:w.n], w.off+w.done
	if w.hold && w.done == 0 {
		w.in.head = append(w.in.head, b[:min(len(b), sector)]...)
		b, at = b[len(w.in.head):], at+int64(len(w.in.head))
	}
	if len(b) > 0 {
		if err := writeAt(w.d, b, at); err != nil {
			return err
		}
	}
	w.done += int64(w.n)
	n := int64(w.n)
	w.n = 0
	w.in.progress(w.step, w.done, w.size)
	return w.wrote(n)
}

func (w *partWriter) wrote(n int64) error {
	if w.dirty += n; w.dirty >= flush {
		w.dirty = 0
		if err := syncDevice(w.d); err != nil {
			return err
		}
	}
	return w.in.ctx.Err()
}

// cmdline writes the command line into the boot file system, which has no boot sector yet.
func (in *installation) cmdline() error {
	if in.m.Table != layout.MBR {
		return nil
	}
	d := in.m.BootIdle
	var err error
	if in.text, in.textAt, err = in.findCmdline(&masked{r: d, at: fat.Extent{Offset: 0, Length: sector}, with: in.head}); err != nil {
		return err
	}
	was := make([]byte, in.textAt.Length)
	if err := readFull(d, was, in.textAt.Offset); err != nil {
		return err
	}
	if len(bytes.Trim(was, " ")) > 0 {
		return fmt.Errorf("%w: cmdline.txt is not blank", ErrContent)
	}
	if err := writeAt(d, in.text, in.textAt.Offset); err != nil {
		return err
	}
	return syncDevice(d)
}

func (in *installation) findCmdline(r io.ReaderAt) ([]byte, fat.Extent, error) {
	at, err := inPlace(r, CmdlineFile(in.m.Table, in.slot))
	if errors.Is(err, ErrForm) {
		err = fmt.Errorf("%w: %w", ErrContent, err)
	}
	if err != nil {
		return nil, at, err
	}
	if at.Offset < sector || at.Offset+at.Length > in.r.Boot.Size || at.Length > maxEntry {
		return nil, at, fmt.Errorf("%w: cmdline.txt is not within the part", ErrContent)
	}
	text, err := cmdlineText(in.r.CmdlineFor(string(in.slot), in.m.RootID[in.slot]), at.Length)
	return text, at, err
}

// verify reads both parts back past all caches: step 4.
func (in *installation) verify() error {
	total := int64(0)
	for _, step := range []Step{StepRoot, StepBoot} {
		_, _, room, _ := in.place(step)
		total += room
	}
	done := int64(0)
	for _, step := range []Step{StepRoot, StepBoot} {
		d, off, room, part := in.place(step)
		r := d.Reread()
		if step == StepBoot && in.m.Table == layout.MBR {
			got := make([]byte, in.textAt.Length)
			if err := readFull(r, got, in.textAt.Offset); err != nil {
				return err
			}
			head := make([]byte, sector)
			if err := readFull(r, head, 0); err != nil {
				return err
			}
			if !bytes.Equal(got, in.text) || !in.valid && len(bytes.Trim(head, "\x00")) > 0 {
				return fmt.Errorf("%w: boot file system", ErrReadBack)
			}
			r = &masked{r: r, at: in.textAt, with: spaces(in.textAt.Length)}
			r = &masked{r: r, at: fat.Extent{Offset: 0, Length: sector}, with: in.head}
		}
		h := sha256.New()
		for at := int64(0); at < room; {
			if err := in.ctx.Err(); err != nil {
				return err
			}
			b := in.buf[:min(chunk, room-at)]
			if err := readFull(r, b, off+at); err != nil {
				return err
			}
			content := b[:max(0, min(int64(len(b)), part.Size-at))]
			h.Write(content)
			if len(bytes.Trim(b[len(content):], "\x00")) > 0 {
				return fmt.Errorf("%w: not zero behind the %s part", ErrReadBack, step)
			}
			at += int64(len(b))
			in.progress(StepVerify, done+at, total)
		}
		done += room
		if hex.EncodeToString(h.Sum(nil)) != part.SHA256 {
			return fmt.Errorf("%w: %s part", ErrReadBack, step)
		}
	}
	return nil
}

// finish makes the slot valid: step 5. Where it can't, it tries to make it invalid again.
func (in *installation) finish() error {
	in.progress(StepFinish, 0, 1)
	d, b, off := in.m.BootIdle, in.head, int64(0)
	if in.m.Table != layout.MBR {
		d, b, off = in.m.First, in.entry, in.entryAt.Offset
	}
	err := func() error {
		if len(b) > sector {
			if err := put(d, b[sector:], off+sector); err != nil {
				return err
			}
		}
		return put(d, b[:sector], off)
	}()
	if err != nil {
		if again := in.erase(); again != nil {
			err = fmt.Errorf("%w; then, to make the slot invalid: %w", err, again)
		}
		return err
	}
	in.progress(StepFinish, 1, 1)
	return nil
}
