package slots_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/firmware"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

var sizes = firmware.Sizes{Root: 4<<10 + 96, Kernel: 2500, Room: 6 << 10}

func silent(slots.Step, int64, int64) {}

// each runs f with a medium of each table, from the factory, and the next release.
func each(t *testing.T, f func(t *testing.T, l *firmware.Lab, next *firmware.Made)) {
	t.Helper()
	for _, table := range []layout.Table{layout.GPT, layout.MBR} {
		t.Run(string(table), func(t *testing.T) {
			l, err := firmware.NewLab(t.Context(), t.TempDir(), table, sizes)
			if err != nil {
				t.Fatal(err)
			}
			next, err := l.Release()
			if err != nil {
				t.Fatal(err)
			}
			f(t, l, next)
		})
	}
}

// stopped is what running returns where a trial of a slot is asked for that a Raspberry Pi can't start.
const stopped = "nothing"

// running is the version that a medium starts by itself, and tried the one of a trial.
func running(t *testing.T, l *firmware.Lab, d *faults.Disk, trial layout.Slot, known ...*firmware.Made) string {
	t.Helper()
	b, err := l.Starts()[0].Boot(d, d.Size(), trial)
	if errors.Is(err, firmware.ErrStops) {
		return stopped
	}
	if err != nil {
		return err.Error()
	}
	for _, k := range known {
		if r, err := b.Identify(d, k.Release); err == nil {
			return r.Version
		}
	}
	return "none of the releases"
}

func TestInstall(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		d := l.Disk.Fork()
		m := l.Medium(d, layout.SlotA)
		if s, err := m.Installed(); err != nil || s.Complete || s.Slot != layout.SlotB || s.Version != "" {
			t.Errorf("from the factory, slot B holds %+v, %v", s, err)
		}
		if err := m.Verify(t.Context(), next.Release, func(int64, int64) {}); !errors.Is(err, slots.ErrIncomplete) {
			t.Errorf("an empty slot is what it should be: %v", err)
		}
		var steps []slots.Step
		last := map[slots.Step]int64{}
		err := m.Install(t.Context(), next.Release, next.Fill, func(step slots.Step, done, total int64) {
			if len(steps) == 0 || steps[len(steps)-1] != step {
				steps = append(steps, step)
			}
			if done < last[step] || done > total {
				t.Errorf("%s: %d of %d, after %d", step, done, total, last[step])
			}
			last[step] = done
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := []slots.Step{slots.StepErase, slots.StepRoot, slots.StepBoot, slots.StepVerify, slots.StepFinish}; !slices.Equal(steps, want) {
			t.Errorf("steps %v", steps)
		}
		s, err := m.Installed()
		if err != nil || !s.Complete || s.Version != "v1.2" || s.Number != 2 || s.Cmdline != next.CmdlineFor("b", m.RootID[layout.SlotB]) {
			t.Errorf("slot B holds %+v, %v", s, err)
		}
		if err := m.Verify(t.Context(), next.Release, func(int64, int64) {}); err != nil {
			t.Error(err)
		}
		if err := m.Verify(t.Context(), l.First.Release, func(int64, int64) {}); !errors.Is(err, slots.ErrIncomplete) {
			t.Errorf("it is taken for another release: %v", err)
		}
		if got := running(t, l, d, "", l.First, next); got != "v1.1" {
			t.Errorf("%s starts", got)
		}
		if got := running(t, l, d, layout.SlotB, l.First, next); got != "v1.2" {
			t.Errorf("%s is tried", got)
		}
		// Bit rot shows.
		root := l.Layout.Partition(l.Layout.Root[layout.SlotB])
		flip := make([]byte, 1)
		if _, err := d.ReadAt(flip, root.Start+1000); err != nil {
			t.Fatal(err)
		}
		flip[0] ^= 4
		if err := d.Write(flip, root.Start+1000, false); err != nil {
			t.Fatal(err)
		}
		if err := m.Verify(t.Context(), next.Release, func(int64, int64) {}); !errors.Is(err, slots.ErrReadBack) {
			t.Errorf("bit rot: %v", err)
		}
	})
}

// TestBase: what runs is what the release had, from the factory and after an update.
func TestBase(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		d := l.Disk.Fork()
		check := func(m *slots.Medium, want *firmware.Made) {
			t.Helper()
			for name, part := range map[string]release.Part{slots.PartBoot: want.Boot, slots.PartRoot: want.Root} {
				r, size, err := m.Base(name)
				if err != nil || size < part.Size {
					t.Fatalf("%s: %d bytes, %v", name, size, err)
				}
				b := make([]byte, part.Size)
				if _, err := r.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				if h := sha256.Sum256(b); hex.EncodeToString(h[:]) != part.SHA256 {
					t.Errorf("the %s of slot %s is not the release's", name, m.Running)
				}
				// In any pieces, too.
				for off := int64(0); off < part.Size; off += 333 {
					p := make([]byte, min(500, part.Size-off))
					if _, err := r.ReadAt(p, off); err != nil || !bytes.Equal(p, b[off:off+int64(len(p))]) {
						t.Fatalf("%s at %d differs: %v", name, off, err)
					}
				}
			}
			if _, _, err := m.Base("sbom"); err == nil {
				t.Error("there is another part")
			}
		}
		m := l.Medium(d, layout.SlotA)
		check(m, l.First)
		if err := m.Install(t.Context(), next.Release, next.Fill, silent); err != nil {
			t.Fatal(err)
		}
		check(m, l.First)
		check(l.Medium(d, layout.SlotB), next)
	})
}

// TestContent: nothing but the release makes a slot valid.
func TestContent(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		other, err := l.Release()
		if err != nil {
			t.Fatal(err)
		}
		mine := errors.New("the source failed")
		for _, tc := range []struct {
			name string
			fill func(part string, dst io.Writer) error
			want error
		}{
			{"nothing", func(string, io.Writer) error { return nil }, slots.ErrContent},
			{"its own error", func(string, io.Writer) error { return mine }, mine},
			{"half", func(part string, dst io.Writer) error {
				_, err := dst.Write(next.Parts[part][:100])
				return err
			}, slots.ErrContent},
			{"one byte more", func(part string, dst io.Writer) error {
				_, err := dst.Write(append(bytes.Clone(next.Parts[part]), 0))
				return err
			}, slots.ErrContent},
			{"without end", func(part string, dst io.Writer) error {
				for {
					if _, err := dst.Write(make([]byte, 1000)); err != nil {
						return err
					}
				}
			}, slots.ErrContent},
			{"another release", other.Fill, slots.ErrContent},
			{"another boot part", func(part string, dst io.Writer) error {
				if part == slots.PartBoot {
					return other.Fill(part, dst)
				}
				return next.Fill(part, dst)
			}, slots.ErrContent},
			{"byte by byte", func(part string, dst io.Writer) error {
				for _, b := range next.Parts[part] {
					if _, err := dst.Write([]byte{b}); err != nil {
						return err
					}
				}
				return nil
			}, nil},
		} {
			d := l.Disk.Fork()
			m := l.Medium(d, layout.SlotA)
			if err := m.Install(t.Context(), next.Release, tc.fill, silent); !errors.Is(err, tc.want) {
				t.Errorf("%s: %v", tc.name, err)
			}
			s, err := m.Installed()
			if err != nil || s.Complete != (tc.want == nil) {
				t.Errorf("%s: the slot holds %+v, %v", tc.name, s, err)
			}
			if err := m.Commit(layout.SlotB); (err == nil) != (tc.want == nil) || err != nil && !errors.Is(err, slots.ErrIncomplete) {
				t.Errorf("%s: commit: %v", tc.name, err)
			}
		}
	})
}

// TestRefuse: what can't go well is refused before anything is written.
func TestRefuse(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		first := l.Layout.Partition(l.Layout.First)
		volume := func(d *faults.Disk) io.ReaderAt { return io.NewSectionReader(d, first.Start, first.Size) }
		find := func(d *faults.Disk, name string) fat.File {
			f, err := fat.Find(volume(d), name)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		put := func(d *faults.Disk, b []byte, off int64) {
			if err := d.Write(b, off, false); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			name  string
			table layout.Table // or both
			spoil func(d *faults.Disk, m *slots.Medium, r *release.Release)
			want  error
		}{
			{"a large root", "", func(_ *faults.Disk, _ *slots.Medium, r *release.Release) { r.Root.Size = 6<<10 + 1 }, slots.ErrTooLarge},
			{"a large boot part", "", func(_ *faults.Disk, _ *slots.Medium, r *release.Release) { r.Boot.Size = 1 << 20 }, slots.ErrTooLarge},
			{"a small boot part", layout.MBR, func(_ *faults.Disk, _ *slots.Medium, r *release.Release) { r.Boot.Size = 512 }, slots.ErrContent},
			{"a long command line", layout.GPT, func(_ *faults.Disk, _ *slots.Medium, r *release.Release) {
				r.Cmdline += strings.Repeat("x", 2048)
			}, slots.ErrTooLarge},
			{"a long version", layout.GPT, func(_ *faults.Disk, _ *slots.Medium, r *release.Release) {
				r.Version = strings.Repeat("x", 300)
			}, slots.ErrTooLarge},
			{"no id for the root", "", func(_ *faults.Disk, m *slots.Medium, _ *release.Release) { delete(m.RootID, layout.SlotB) }, slots.ErrForm},
			{"the same id for both roots", "", func(_ *faults.Disk, m *slots.Medium, _ *release.Release) {
				m.RootID[layout.SlotB] = m.RootID[layout.SlotA]
			}, slots.ErrForm},
			{"a committed slot", "", func(d *faults.Disk, _ *slots.Medium, _ *release.Release) {
				at := find(d, slots.CommitFile(l.Layout.Table)).Extents[0].Offset
				put(d, slots.CommitContent(l.Layout.Table, layout.SlotB), first.Start+at)
			}, slots.ErrCommitted},
			{"nobody knows which slot is committed", "", func(d *faults.Disk, _ *slots.Medium, _ *release.Release) {
				put(d, make([]byte, 512), first.Start+find(d, slots.CommitFile(l.Layout.Table)).Extents[0].Offset)
			}, slots.ErrForm},
			{"no volume", "", func(d *faults.Disk, _ *slots.Medium, _ *release.Release) { put(d, make([]byte, 512), first.Start) }, slots.ErrForm},
			{"no file for the kernel", layout.GPT, func(d *faults.Disk, _ *slots.Medium, _ *release.Release) {
				b := make([]byte, first.Size)
				if _, err := d.ReadAt(b, first.Start); err != nil {
					t.Fatal(err)
				}
				put(d, []byte("x"), first.Start+int64(bytes.Index(b, []byte("v\x00m\x00l\x00i\x00n\x00u\x00-\x00b\x00")))+1)
				at := bytes.Index(b, []byte("b\x00\x00\x00\xff\xff"))
				put(d, []byte("c"), first.Start+int64(at))
			}, slots.ErrForm},
		} {
			if tc.table != "" && tc.table != l.Layout.Table {
				continue
			}
			d := l.Disk.Fork()
			r := *next.Release
			spoiled := l.Medium(d, layout.SlotA)
			tc.spoil(d, spoiled, &r)
			rec := &faults.Recorder{Device: d}
			m := l.Medium(rec, layout.SlotA)
			m.RootID = spoiled.RootID
			if err := m.Install(t.Context(), &r, next.Fill, silent); !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
			if n := len(rec.Events()); n > 0 {
				t.Errorf("%s: %d events before it was refused", tc.name, n)
			}
		}
		// A rescue environment writes the slot that the firmware starts.
		d := l.Disk.Fork()
		m := l.Medium(d, layout.SlotB)
		m.Rescue = true
		if err := m.Install(t.Context(), next.Release, next.Fill, silent); err != nil {
			t.Fatal(err)
		}
		if got := running(t, l, d, "", l.First, next); got != "v1.2" {
			t.Errorf("after the rescue, %s starts", got)
		}
	})
}

// TestShared: on a volume where the slots' files share clusters, nothing is written.
func TestShared(t *testing.T) {
	l, err := firmware.NewLab(t.Context(), t.TempDir(), layout.GPT, sizes)
	if err != nil {
		t.Fatal(err)
	}
	next, err := l.Release()
	if err != nil {
		t.Fatal(err)
	}
	d := l.Disk.Fork()
	first := l.Layout.Partition(l.Layout.First)
	vol := make([]byte, first.Size)
	if _, err := d.ReadAt(vol, first.Start); err != nil {
		t.Fatal(err)
	}
	// A long name of nine letters is one entry, with the short one right behind it (fatgen103, "Long Directory Entries").
	entry := func(slot byte) int {
		for at := 0; at+64 <= len(vol); at += 32 {
			if e := vol[at:]; e[11] == 0x0f && e[1] == 'v' && e[14] == 'u' && e[20] == slot {
				return at + 32
			}
		}
		t.Fatalf("no vmlinuz-%c", slot)
		return 0
	}
	a, b := entry('a'), entry('b')
	copy(vol[b+26:b+28], vol[a+26:a+28]) // first cluster
	if err := d.Write(vol, first.Start, false); err != nil {
		t.Fatal(err)
	}
	rec := &faults.Recorder{Device: d}
	if err := l.Medium(rec, layout.SlotA).Install(t.Context(), next.Release, next.Fill, silent); !errors.Is(err, slots.ErrForm) || len(rec.Events()) > 0 {
		t.Errorf("%d events, %v", len(rec.Events()), err)
	}
}

// TestCommit: one sector, once, and nothing else.
func TestCommit(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		d := l.Disk.Fork()
		m := l.Medium(d, layout.SlotA)
		if err := m.Commit(layout.SlotB); !errors.Is(err, slots.ErrIncomplete) {
			t.Errorf("commit to an empty slot: %v", err)
		}
		if err := m.Install(t.Context(), next.Release, next.Fill, silent); err != nil {
			t.Fatal(err)
		}
		rec := &faults.Recorder{Device: d}
		m = l.Medium(rec, layout.SlotB) // the trial
		for _, tc := range []struct {
			slot   layout.Slot
			events int
		}{{layout.SlotB, 2}, {layout.SlotB, 0}, {layout.SlotA, 2}, {layout.SlotB, 2}} {
			before := len(rec.Events())
			if err := m.Commit(tc.slot); err != nil {
				t.Fatal(err)
			}
			got := rec.Events()[before:]
			if len(got) != tc.events || len(got) > 0 && (got[0].Kind != faults.KindWrite || got[0].Len != 512 || got[0].Off%512 != 0 || got[1].Kind != faults.KindFlush) {
				t.Errorf("to slot %s: %d events", tc.slot, len(got))
			}
			if slot, err := m.Committed(); slot != tc.slot || err != nil {
				t.Errorf("committed is %q, %v", slot, err)
			}
		}
		// A file that can't be changed in one sector in place.
		first := l.Layout.Partition(l.Layout.First)
		vol := make([]byte, first.Size)
		if _, err := d.ReadAt(vol, first.Start); err != nil {
			t.Fatal(err)
		}
		size := len(slots.CommitContent(l.Layout.Table, layout.SlotA))
		for i := 0; i+32 <= len(vol); i += 32 {
			if vol[i+11] == 0x20 && int(vol[i+28]) == size && vol[i+29]+vol[i+30]+vol[i+31] == 0 {
				vol[i+28]++
			}
		}
		if err := d.Write(vol, first.Start, false); err != nil {
			t.Fatal(err)
		}
		if err := m.Commit(layout.SlotA); !errors.Is(err, slots.ErrForm) {
			t.Errorf("commit into a longer file: %v", err)
		}
	})
}

// bad is a device that fails in one way or another.
type bad struct {
	slots.Device
	op *int // counts down to the failure
	// what fails then
	err error
}

func (b bad) fails() bool {
	*b.op--
	return *b.op < 0
}

func (b bad) WriteAt(p []byte, off int64) (int, error) {
	if b.fails() {
		return 0, b.err
	}
	return b.Device.WriteAt(p, off)
}

func (b bad) ReadAt(p []byte, off int64) (int, error) {
	if b.fails() {
		return 0, b.err
	}
	return b.Device.ReadAt(p, off)
}

func (b bad) Sync() error {
	if b.fails() {
		return b.err
	}
	return b.Device.Sync()
}

func (b bad) Reread() io.ReaderAt { return bad{readOnly{b.Device.Reread(), b.Size()}, b.op, b.err} }

type readOnly struct {
	io.ReaderAt
	size int64
}

func (r readOnly) WriteAt([]byte, int64) (int, error) { return 0, errors.New("read only") }
func (r readOnly) Size() int64                        { return r.size }
func (r readOnly) Sync() error                        { return nil }
func (r readOnly) Reread() io.ReaderAt                { return r }

func through(m *slots.Medium, wrap func(slots.Device) slots.Device) *slots.Medium {
	c := *m
	for _, d := range []*slots.Device{&c.First, &c.Boot, &c.BootIdle, &c.Root, &c.RootIdle} {
		if *d != nil {
			*d = wrap(*d)
		}
	}
	return &c
}

// TestErrors lets the drive fail for good at every single access of an installation and a commit.
func TestErrors(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		for n := 0; ; n++ {
			d := l.Disk.Fork()
			op := n
			m := through(l.Medium(d, layout.SlotA), func(d slots.Device) slots.Device { return bad{d, &op, unix.EIO} })
			err := m.Install(t.Context(), next.Release, next.Fill, silent)
			installed := err == nil
			if err == nil {
				err = m.Commit(layout.SlotB)
			}
			if err == nil {
				if n < 30 {
					t.Errorf("only %d accesses", n)
				}
				return
			}
			if !errors.Is(err, slots.ErrMedium) || !errors.Is(err, unix.EIO) {
				t.Fatalf("failure at access %d: %v", n, err)
			}
			if got := running(t, l, d, "", l.First, next); got != "v1.1" && (!installed || got != "v1.2") {
				t.Fatalf("failure at access %d: %s starts", n, got)
			}
			if got := running(t, l, d, layout.SlotB, l.First, next); got != "v1.1" && got != "v1.2" && (installed || got != stopped) {
				t.Fatalf("failure at access %d: %s is tried", n, got)
			}
			if s, err := l.Medium(d, layout.SlotA).Installed(); err != nil || installed != s.Complete && n < 20 {
				t.Fatalf("failure at access %d: the slot holds %+v, %v", n, s, err)
			}
		}
	})
}

// wraps is a drive that is smaller than it says: what is written behind its end lands at its beginning.
type wraps struct {
	slots.Device
	real int64
}

func (w wraps) WriteAt(p []byte, off int64) (int, error) {
	for i := range p {
		if _, err := w.Device.WriteAt(p[i:i+1], (off+int64(i))%w.real); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func (w wraps) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		if _, err := w.Device.ReadAt(p[i:i+1], (off+int64(i))%w.real); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func (w wraps) Reread() io.ReaderAt { return w }

// cached is a device whose cache has all, and whose medium loses some of it.
type cached struct {
	slots.Device
	lost func(off int64) bool
	old  io.ReaderAt
}

func (c cached) Reread() io.ReaderAt { return reread(c) }

type reread cached

func (c reread) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		r := io.ReaderAt(c.Device)
		if c.lost(off + int64(i)) {
			r = c.old
		}
		if _, err := r.ReadAt(p[i:i+1], off+int64(i)); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestLiars: drives that don't keep what they took leave an invalid slot, and the old release starts.
func TestLiars(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		for name, lie := range map[string]func(m, old *slots.Medium){
			"a root partition that is smaller than it says": func(m, _ *slots.Medium) { m.RootIdle = wraps{m.RootIdle, 2 << 10} },
			"a root sector that is lost": func(m, old *slots.Medium) {
				m.RootIdle = cached{m.RootIdle, func(off int64) bool { return off/512 == 3 }, old.RootIdle}
			},
			"a bit of the boot part": func(m, old *slots.Medium) {
				if m.Table == layout.MBR {
					end := int64(len(bytes.TrimRight(next.Parts[slots.PartBoot], "\x00"))) - 1
					m.BootIdle = cached{m.BootIdle, func(off int64) bool { return off == end }, old.BootIdle}
					return
				}
				f, err := fat.Find(m.First, "vmlinuz-b")
				if err != nil {
					t.Fatal(err)
				}
				lost := func(off int64) bool { return off == f.Extents[0].Offset+2000 }
				m.First = cached{m.First, lost, old.First}
			},
			"nothing is kept": func(m, old *slots.Medium) {
				all := func(int64) bool { return true }
				m.RootIdle = cached{m.RootIdle, all, old.RootIdle}
			},
		} {
			d := l.Disk.Fork()
			m, old := l.Medium(d, layout.SlotA), l.Medium(l.Disk, layout.SlotA)
			lie(m, old)
			if err := m.Install(t.Context(), next.Release, next.Fill, silent); !errors.Is(err, slots.ErrReadBack) {
				t.Errorf("%s: %v", name, err)
			}
			if s, err := l.Medium(d, layout.SlotA).Installed(); err != nil || s.Complete {
				t.Errorf("%s: the slot holds %+v, %v", name, s, err)
			}
			if got := running(t, l, d, "", l.First, next); got != "v1.1" {
				t.Errorf("%s: %s starts", name, got)
			}
		}
	})
}

// TestCancel cancels at every report of progress.
func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, l *firmware.Lab, next *firmware.Made) {
		for n := 1; ; n++ {
			d := l.Disk.Fork()
			m := l.Medium(d, layout.SlotA)
			ctx, cancel := context.WithCancel(t.Context())
			left := n
			err := m.Install(ctx, next.Release, next.Fill, func(slots.Step, int64, int64) {
				if left--; left == 0 {
					cancel()
				}
			})
			cancel()
			s, serr := m.Installed()
			if serr != nil || s.Complete != (err == nil) {
				t.Fatalf("cancelled at report %d: %v; the slot holds %+v, %v", n, err, s, serr)
			}
			if err == nil {
				if n < 5 {
					t.Errorf("only %d reports", n)
				}
				return
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("cancelled at report %d: %v", n, err)
			}
		}
	})
}

// zeros reads as zeros, and takes what is written.
type zeros int64

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	return len(p), nil
}
func (z zeros) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }
func (z zeros) Size() int64                              { return int64(z) }
func (z zeros) Sync() error                              { return nil }
func (z zeros) Reread() io.ReaderAt                      { return z }

// TestMemory: a large root takes no more memory than a small one.
func TestMemory(t *testing.T) {
	l, err := firmware.NewLab(t.Context(), t.TempDir(), layout.GPT, sizes)
	if err != nil {
		t.Fatal(err)
	}
	next, err := l.Release()
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	h, block := sha256.New(), make([]byte, 64<<10)
	for range size / len(block) {
		h.Write(block)
	}
	r := *next.Release
	r.Root = release.Part{Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}
	m := l.Medium(l.Disk.Fork(), layout.SlotA)
	m.RootIdle = zeros(size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = m.Install(t.Context(), &r, func(part string, dst io.Writer) error {
		if part == slots.PartBoot {
			return next.Fill(part, dst)
		}
		for range size / len(block) {
			if _, err := dst.Write(block); err != nil {
				return err
			}
		}
		return nil
	}, silent)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 2<<20 {
		t.Errorf("%d bytes were allocated for a root of %d", got, size)
	}
}

// TestFile compares a device over a file with the file, by way of O_DIRECT too.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "part")
	want := make([]byte, 3<<20+512)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	direct, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Logf("no O_DIRECT here: %v", err)
		direct = nil
	} else {
		defer direct.Close()
	}
	for _, direct := range []*os.File{nil, direct} {
		d, err := slots.NewFile(f, direct)
		if err != nil || d.Size() != int64(len(want)) {
			t.Fatalf("%d bytes, %v", d.Size(), err)
		}
		for range 100 {
			off := rng.Int64N(int64(len(want)))
			n := min(rng.Int64N(5000)+rng.Int64N(2)*rng.Int64N(2<<20), int64(len(want))-off)
			if rng.IntN(4) == 0 {
				p := make([]byte, min(n, 2000))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				if _, err := d.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
				copy(want[off:], p)
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range []io.ReaderAt{d, d.Reread(), slots.Window{D: d, Start: off, Len: n}.Reread()} {
				at := off
				if _, ok := r.(*io.SectionReader); ok {
					at = 0
				}
				got := make([]byte, n)
				if m, err := r.ReadAt(got, at); m != int(n) || !bytes.Equal(got, want[off:off+n]) {
					t.Fatalf("%d bytes at %d: %d, %v", n, off, m, err)
				}
			}
		}
		got := make([]byte, 1000)
		if n, err := d.Reread().ReadAt(got, int64(len(want))-10); n != 10 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %d, %v", n, err)
		}
		if n, err := d.Reread().ReadAt(got, int64(len(want))+5000); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("behind the end: %d, %v", n, err)
		}
	}
	w := slots.Window{D: mustFile(t, f), Start: 512, Len: 1024}
	if _, err := w.WriteAt(make([]byte, 2), 1023); err == nil {
		t.Error("a write beyond the window")
	}
}

func mustFile(t *testing.T, f *os.File) *slots.File {
	d, err := slots.NewFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestCommitFiles: committing to a slot overwrites a file in place, so both contents must be as long and within a sector.
func TestCommitFiles(t *testing.T) {
	for table, want := range map[layout.Table]string{
		layout.GPT: "timeout 0\neditor no\ndefault croft-b.conf\n",
		layout.MBR: "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n",
	} {
		a, b := slots.CommitContent(table, layout.SlotA), slots.CommitContent(table, layout.SlotB)
		if len(a) != len(b) || len(a) > layout.SectorSize || bytes.Equal(a, b) || string(b) != want {
			t.Errorf("%s: %q and %q", table, a, b)
		}
	}
}

// FuzzCommand reads whatever an entry, a command line or the choice of a slot may be.
func FuzzCommand(f *testing.F) {
	f.Add([]byte("title x\nversion v1\nlinux /vmlinuz-b\noptions root=PARTUUID=1 croft.version=v1 croft.number=7\n"))
	f.Add([]byte("default croft-a.conf\n[all]\nboot_partition=2\n"))
	f.Add([]byte("croft.number=-99999999999999999999 root=PARTUUID="))
	labs := map[layout.Table]*firmware.Lab{}
	for _, table := range []layout.Table{layout.GPT, layout.MBR} {
		l, err := firmware.NewLab(context.Background(), f.TempDir(), table, sizes)
		if err != nil {
			f.Fatal(err)
		}
		labs[table] = l
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for table, l := range labs {
			d := l.Disk.Fork()
			for number, name := range map[int]string{
				l.Layout.First:                  slots.CommitFile(table),
				l.Layout.Boot[layout.SlotA]:     slots.CmdlineFile(table, layout.SlotA),
				l.Layout.Root[layout.SlotA] * 0: "",
			} {
				if name == "" {
					continue
				}
				p := l.Layout.Partition(number)
				file, err := fat.Find(io.NewSectionReader(d, p.Start, p.Size), name)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Write(b[:min(len(b), int(file.Extents[0].Length))], p.Start+file.Extents[0].Offset, false); err != nil {
					t.Fatal(err)
				}
			}
			m := l.Medium(d, layout.SlotB)
			s, err := m.Installed()
			if err != nil {
				t.Fatal(err)
			}
			if s.Number < 0 || !s.Complete && (s.Version != "" || s.Cmdline != "") || s.Complete && !strings.Contains(strings.ToLower(s.Cmdline), m.RootID[layout.SlotA]) {
				t.Errorf("%+v", s)
			}
			if slot, err := m.Committed(); err == nil && slot != layout.SlotA && slot != layout.SlotB {
				t.Errorf("committed is %q", slot)
			} else if err != nil && !errors.Is(err, slots.ErrForm) {
				t.Error(err)
			}
		}
	})
}

func ExampleCommitContent() {
	fmt.Print(string(slots.CommitContent(layout.GPT, layout.SlotB)))
	// Output:
	// timeout 0
	// editor no
	// default croft-b.conf
}
