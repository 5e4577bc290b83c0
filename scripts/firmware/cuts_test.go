package firmware

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/updater/slots"
)

// image is a disk in memory.
type image []byte

func (m image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m)) {
		return 0, errors.New("beyond the disk")
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// window is what is written between two flushes: for each sector all that it can hold at a power cut, what was durable first. All
// of them in any combination is what the writes of the window can leave behind if any of them is kept, lost, torn, or comes before
// another one; every prefix of them is among that.
type window struct {
	sectors []int64 // numbers, sorted
	can     [][]image
}

func (w *window) states() float64 {
	n := 1.0
	for _, c := range w.can {
		n *= float64(len(c))
	}
	return n
}

// windows cuts a recording at its flushes. Sectors that a window only gives what they had are left out.
func windows(base image, events []faults.Event) []window {
	disk := bytes.Clone(base)
	var out []window
	can := map[int64][]image{}
	end := func() {
		var w window
		for _, s := range slices.Sorted(maps.Keys(can)) {
			if len(can[s]) > 1 {
				w.sectors, w.can = append(w.sectors, s), append(w.can, can[s])
			}
		}
		clear(can)
		if len(w.sectors) > 0 {
			out = append(out, w)
		}
	}
	for _, e := range events {
		if e.Kind == faults.KindFlush {
			end()
			continue
		}
		data := e.Data
		if e.Kind == faults.KindZero {
			data = make([]byte, e.Len)
		}
		for s := e.Off / 512; s*512 < e.Off+e.Len; s++ {
			if can[s] == nil {
				can[s] = []image{bytes.Clone(disk[s*512 : s*512+512])}
			}
			from, to := max(e.Off, s*512), min(e.Off+e.Len, s*512+512)
			copy(disk[from:to], data[from-e.Off:to-e.Off])
			now := bytes.Clone(disk[s*512 : s*512+512])
			if !slices.ContainsFunc(can[s], func(b image) bool { return bytes.Equal(b, now) }) {
				can[s] = append(can[s], now)
			}
		}
	}
	end()
	return out
}

// story is a recorded change of the slots, and what must be true at every moment of it.
type story struct {
	lab     *Lab
	base    image
	events  []faults.Event
	running layout.Slot
	old     *Made   // runs, and is committed at first
	neu     *Made   // is committed at last
	known   []*Made // whatever else a trial may start: what the idle slot had
	commit  int     // event with which the commit begins
	before  []Boot  // by Lab.Starts: what starts before it
	lost    bool    // nothing starts before it, and a rescue system does the work
	away    bool    // the owner took a Raspberry Pi's autoboot.txt away, so the rescue system starts
}

// tell records an installation and the commit to it. Without an old release, both slots were lost.
func tell(ctx context.Context, l *Lab, d *faults.Disk, running layout.Slot, old, neu *Made, known ...*Made) (*story, *faults.Disk, error) {
	rec := &faults.Recorder{Device: d.Fork()}
	m := l.Medium(rec, running)
	m.Rescue = old == nil
	if err := m.Install(ctx, neu.Release, neu.Fill, silent); err != nil {
		return nil, nil, err
	}
	s := &story{lab: l, running: running, old: old, neu: neu, known: known, commit: len(rec.Events()), lost: old == nil}
	c := l.Medium(rec, m.Idle())
	if m.Rescue {
		c = m
	}
	if err := c.Commit(m.Idle()); err != nil {
		return nil, nil, err
	}
	s.events = rec.Events()
	s.base = make(image, d.Size())
	if _, err := d.ReadAt(s.base, 0); err != nil {
		return nil, nil, err
	}
	for _, start := range l.Starts() {
		b, err := start.Boot(s.base, d.Size(), "")
		if s.lost && err != nil {
			s.before = append(s.before, Boot{})
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if _, err := b.Identify(s.base, old.Release); err != nil {
			return nil, nil, err
		}
		s.before = append(s.before, *b)
	}
	after, err := faults.Replay(d, s.events, len(s.events))
	return s, after, err
}

// reach checks where the events write: to the idle slot's places and, from the commit on, to one sector. So nothing else, DATA
// and the committed slot above all, is in danger whatever order the writes take.
func (s *story) reach() error {
	lay, idle := s.lab.Layout, layout.SlotA
	if s.running == layout.SlotA {
		idle = layout.SlotB
	}
	may := []Place{}
	part := func(n int) Place { p := lay.Partition(n); return Place{p.Start, p.Size} }
	first, err := openFAT(s.base, part(lay.First).Off, part(lay.First).Len)
	if err != nil {
		return err
	}
	may = append(may, part(lay.Root[idle]))
	if lay.Table == layout.MBR {
		may = append(may, part(lay.Boot[idle]))
	} else {
		for _, name := range []string{slots.KernelFile(idle), slots.CmdlineFile(lay.Table, idle)} {
			p, err := first.places(name)
			if err != nil {
				return err
			}
			may = append(may, p...)
		}
	}
	var files []Place
	for name := range s.lab.firstFiles() {
		p, err := first.places(name)
		if err != nil && !(s.away && name == slots.CommitFile(lay.Table)) {
			return err
		}
		files = append(files, p...)
	}
	at, err := first.places(slots.CommitFile(lay.Table))
	if err != nil && !s.away {
		return err
	}
	for i, e := range s.events {
		ok := e.Kind == faults.KindFlush
		for _, p := range may {
			ok = ok || e.Off >= p.Off && e.Off+e.Len <= p.Off+p.Len
		}
		switch in := part(lay.First); {
		case i < s.commit || e.Kind == faults.KindFlush:
		case len(at) > 0:
			ok = e.Off == at[0].Off && e.Len == 512
		default: // the file is made, and no other one is touched
			ok = e.Off > in.Off && e.Off+e.Len <= in.Off+in.Len && e.Len == 512
			for _, p := range files {
				ok = ok && (e.Off+e.Len <= p.Off || p.Off+p.Len <= e.Off)
			}
		}
		if !ok {
			return fmt.Errorf("event %d writes %d bytes at %d", i, e.Len, e.Off)
		}
	}
	return nil
}

// judge says what is wrong with a state of the disk. committing means that the commit may have been written.
func (s *story) judge(d image, committing bool) error {
	for i, start := range s.lab.Starts() {
		if s.lost {
			// Nothing starts, or the rescue system if it did before, or the new release; no mixture, whatever is asked for.
			for _, trial := range []layout.Slot{"", layout.SlotB} {
				b, err := start.Boot(d, int64(len(d)), trial)
				if err == nil && !b.Rescue {
					_, err = b.Identify(d, s.neu.Release)
				} else if !s.away || trial != "" {
					err = nil
				}
				if err != nil {
					return fmt.Errorf("%s: %w", start.Name, err)
				}
			}
			continue
		}
		may := []*Made{s.old}
		if committing {
			may = append(may, s.neu)
		}
		if err := boots(d, start, "", s.before[i], may); err != nil {
			return fmt.Errorf("%s: %w", start.Name, err)
		}
		// A trial may be asked for at any time, if only by mistake: it starts something whole or falls back.
		idle := layout.SlotA
		if s.running == layout.SlotA {
			idle = layout.SlotB
		}
		err := boots(d, start, idle, s.before[i], append([]*Made{s.old, s.neu}, s.known...))
		// A Raspberry Pi that is asked for an invalid slot comes to the rescue system or stops, until it is switched off and on
		// (docs/boards.md).
		if err != nil && start.model != "" && (errors.Is(err, ErrStops) || errors.Is(err, errRescue)) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("%s, trial: %w", start.Name, err)
		}
	}
	return nil
}

var errRescue = errors.New("the rescue system starts")

// boots fails unless a start takes one of some releases. What started before, from the same places, is the old one: reach has shown
// that they stay as they are.
func boots(d image, start Start, trial layout.Slot, before Boot, may []*Made) error {
	b, err := start.Boot(d, int64(len(d)), trial)
	switch {
	case err != nil || *b == before:
		return err
	case b.Rescue:
		return errRescue
	case b.Walked && trial == "":
		return errors.New("it starts only because the boot code looks further than it has to")
	}
	for _, m := range may {
		if _, err = b.Identify(d, m.Release); err == nil {
			return nil
		}
	}
	return err
}

// exhaustive is how many states a window may have for all of them to be looked at.
func exhaustive() float64 {
	if testing.Short() {
		return 1 << 9
	}
	return 1 << 16
}

// cutAll looks at states of every window: all of them where there are few, and samples of them elsewhere. It returns how many
// it saw, in how many windows it saw all, and the first thing that is wrong.
func (s *story) cutAll(events []faults.Event, commit, samples int, seed uint64) (seen int64, whole, all int, err error) {
	ws := windows(s.base, events)
	early := len(windows(s.base, events[:commit]))
	var total atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan int)
	for range runtime.NumCPU() {
		wg.Go(func() {
			d := bytes.Clone(s.base)
			at := 0 // windows that are in d
			for i := range work {
				for ; at < i; at++ {
					for j, sector := range ws[at].sectors {
						copy(d[sector*512:], ws[at].can[j][len(ws[at].can[j])-1])
					}
				}
				n, e := s.cut(d, &ws[i], i >= early, samples, rand.New(rand.NewPCG(seed, uint64(i))))
				total.Add(n)
				if e != nil {
					mu.Lock()
					err = errors.Join(err, fmt.Errorf("window %d of %d: %w", i, len(ws), e))
					mu.Unlock()
				}
				// d holds what was durable before window i again.
			}
		})
	}
	for i := range ws {
		if ws[i].states() <= exhaustive() {
			whole++
		}
		work <- i
	}
	close(work)
	wg.Wait()
	return total.Load(), whole, len(ws), err
}

// cut looks at states of one window, on a disk with all before it, which is the same afterwards.
func (s *story) cut(d image, w *window, committing bool, samples int, rng *rand.Rand) (int64, error) {
	put := func(i, version int) { copy(d[w.sectors[i]*512:], w.can[i][version]) }
	defer func() {
		for i := range w.sectors {
			put(i, 0)
		}
	}()
	seen := int64(0)
	look := func() error {
		seen++
		if err := s.judge(d, committing); err != nil {
			return fmt.Errorf("state %d: %w", seen, err)
		}
		return nil
	}
	if w.states() <= exhaustive() {
		digits := make([]int, len(w.sectors))
		for {
			if err := look(); err != nil {
				return seen, err
			}
			i := 0
			for ; i < len(digits); i++ {
				digits[i] = (digits[i] + 1) % len(w.can[i])
				put(i, digits[i])
				if digits[i] > 0 {
					break
				}
			}
			if i == len(digits) {
				return seen, nil
			}
		}
	}
	n := len(w.sectors)
	for k := range samples {
		kept := rng.Float64() // how much reached the medium
		cut := rng.IntN(n)
		for i := range n {
			v := 0
			switch k % 4 {
			case 0: // a prefix
				if i < cut {
					v = len(w.can[i]) - 1
				}
			case 1: // all but one, or one of all
				if (i == cut) != (k%8 == 1) {
					v = len(w.can[i]) - 1
				}
			default:
				if rng.Float64() < kept {
					v = rng.IntN(len(w.can[i]))
				}
			}
			put(i, v)
		}
		if err := look(); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// stories are an update of a box as from the factory, the next one back into slot A, and one more; then what a rescue system writes
// after the roots of both slots were lost and, last, on a Raspberry Pi, where the owner asked for it.
func stories(t *testing.T, table layout.Table, size Sizes) []*story {
	t.Helper()
	l := lab(t, table, size)
	var made []*Made
	for range 3 {
		m, err := l.Release()
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, m)
	}
	first, d, err := tell(t.Context(), l, l.Disk, layout.SlotA, l.First, made[0])
	if err != nil {
		t.Fatal(err)
	}
	second, d, err := tell(t.Context(), l, d, layout.SlotB, made[0], made[1], l.First)
	if err != nil {
		t.Fatal(err)
	}
	third, d, err := tell(t.Context(), l, d, layout.SlotA, made[1], made[2], made[0])
	if err != nil {
		t.Fatal(err)
	}
	lost := d.Fork()
	for _, number := range l.Layout.Root {
		if err := lost.Zero(l.Layout.Partition(number).Start, 512, false); err != nil {
			t.Fatal(err)
		}
	}
	saved, d, err := tell(t.Context(), l, lost, layout.SlotA, nil, made[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range l.Starts() {
		if got, err := started(d, s, "", made[0]); got != made[0].Version {
			t.Errorf("after the rescue, %s starts %q: %v", s.Name, got, err)
		}
	}
	all := []*story{first, second, third, saved}
	if table == layout.MBR {
		all = append(all, askedFor(t, l, d, made[1]))
	}
	return all
}

// askedFor is the commit of a rescue system that a Raspberry Pi's owner asked for: autoboot.txt is missing.
func askedFor(t *testing.T, l *Lab, d *faults.Disk, neu *Made) *story {
	t.Helper()
	d = d.Fork()
	for _, slot := range []layout.Slot{layout.SlotA, layout.SlotB} {
		l.invalid(t, d, slot)
	}
	l.unselected(t, d)
	m := l.Medium(d, layout.SlotB)
	m.Rescue = true
	if err := m.Install(t.Context(), neu.Release, neu.Fill, silent); err != nil {
		t.Fatal(err)
	}
	s := &story{lab: l, running: layout.SlotB, neu: neu, lost: true, away: true, base: make(image, d.Size())}
	if _, err := d.ReadAt(s.base, 0); err != nil {
		t.Fatal(err)
	}
	rec := &faults.Recorder{Device: d}
	m = l.Medium(rec, layout.SlotB)
	m.Rescue = true
	if err := m.Commit(layout.SlotA); err != nil {
		t.Fatal(err)
	}
	s.events = rec.Events()
	for _, s := range l.AllStarts() {
		if got, err := started(d, s, "", neu); got != neu.Version {
			t.Errorf("after the rescue that was asked for, %s starts %q: %v", s.Name, got, err)
		}
	}
	return s
}

// TestPowerCuts cuts the power at every moment of updates: on media with parts of a few sectors in every way that there is, on larger
// ones in 100,000 random ways.
func TestPowerCuts(t *testing.T) {
	small, large := 2000, 9000
	if testing.Short() {
		small, large = 100, 300
	}
	var sum int64
	eachTable(t, func(t *testing.T, table layout.Table) {
		for _, run := range []struct {
			size    Sizes
			samples int
		}{
			{tiny, small},
			{Sizes{Root: 40<<10 + 512, Kernel: 24<<10 + 100, Room: 48 << 10}, large},
		} {
			for i, s := range stories(t, table, run.size) {
				if err := s.reach(); err != nil {
					t.Errorf("update %d: %v", i, err)
				}
				seen, whole, all, err := s.cutAll(s.events, s.commit, run.samples, uint64(i))
				if err != nil {
					t.Errorf("update %d: %v", i, err)
				}
				t.Logf("update %d of roots of %d bytes: %d states, every one of %d of %d windows", i, run.size.Root, seen, whole, all)
				sum += seen
			}
		}
	})
	t.Logf("%d states", sum)
	if !testing.Short() && sum < 100_000 {
		t.Errorf("only %d states were looked at", sum)
	}
}

// TestBrokenOrders makes sure that the test above finds orders of writes that a power cut can break: those of Install and Commit with
// flushes taken out or writes put elsewhere.
func TestBrokenOrders(t *testing.T) {
	eachTable(t, func(t *testing.T, table layout.Table) {
		s := stories(t, table, tiny)[1] // slot A holds a release that ran
		install, commit := s.events[:s.commit], s.events[s.commit:]
		noFlushes := func(from, to int) []faults.Event {
			var out []faults.Event
			for i, e := range install {
				if e.Kind != faults.KindFlush || i < from || i >= to {
					out = append(out, e)
				}
			}
			return out
		}
		valid := len(install) - 1 // the first of the writes that make the slot valid, and what comes after it
		writes := 1
		if table == layout.GPT {
			writes = 2
		}
		for n := 0; n < writes; valid-- {
			if install[valid].Kind == faults.KindWrite {
				n++
			}
		}
		valid++
		erased := 0 // end of the first step
		for n := writes; n > 0; erased++ {
			if install[erased].Kind == faults.KindFlush {
				n--
			}
		}
		for name, order := range map[string][2][]faults.Event{
			"as it is":                        {install, commit},
			"valid before all of it is there": {noFlushes(valid-1, len(install)-1), commit},
			"no flush at all":                 {noFlushes(0, len(install)), commit},
			"not invalid first":               {install[erased:], commit},
			"not flushed after that":          {noFlushes(0, erased), commit},
			"valid first":                     {slices.Concat(install[:erased], install[valid:], install[erased:valid]), commit},
			"committed before it is checked":  {slices.Concat(install[:erased], install[valid:]), slices.Concat(commit, install[erased:valid])},
			"committed first":                 {nil, slices.Concat(commit, install)},
			"committed without flush":         {noFlushes(valid, len(install)), commit},
		} {
			events := slices.Concat(order[0], order[1])
			_, _, _, err := s.cutAll(events, len(order[0]), 2000, 1)
			if (err == nil) != (name == "as it is") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestGoOn: from wherever an installation was cut off, it can be begun anew, and ends well.
func TestGoOn(t *testing.T) {
	eachTable(t, func(t *testing.T, table layout.Table) {
		for _, s := range stories(t, table, tiny) {
			base, err := faults.NewDisk(int64(len(s.base)))
			if err != nil {
				t.Fatal(err)
			}
			if err := base.Write(s.base, 0, false); err != nil {
				t.Fatal(err)
			}
			for seed := range uint64(60) {
				rng := rand.New(rand.NewPCG(seed, 7))
				cuts := s.commit
				if s.away {
					cuts = len(s.events)
				}
				d, err := faults.Crash(rng, base, s.events, rng.IntN(cuts+1))
				if err != nil {
					t.Fatal(err)
				}
				m := s.lab.Medium(d, s.running)
				m.Rescue = s.lost
				if stamp, err := m.Installed(); err != nil || stamp.Complete && stamp.Version != s.neu.Version && stamp.Version != "v1.1" && stamp.Version != "v1.2" && stamp.Version != "v1.4" {
					t.Errorf("seed %d: the slot says %+v, %v", seed, stamp, err)
				}
				if err := m.Install(t.Context(), s.neu.Release, s.neu.Fill, silent); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err := m.Verify(t.Context(), s.neu.Release, func(int64, int64) {}); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err := m.Commit(m.Idle()); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				for _, start := range s.lab.Starts() {
					if got, err := started(d, start, "", s.neu); got != s.neu.Version {
						t.Errorf("seed %d: %s starts %q: %v", seed, start.Name, got, err)
					}
				}
			}
		}
	})
}

// TestGarbage: a medium whose choice of a slot is anything at all never starts what is no release, and never makes a model hang.
func TestGarbage(t *testing.T) {
	eachTable(t, func(t *testing.T, table layout.Table) {
		l := lab(t, table, tiny)
		at := l.Layout.Partition(l.Layout.First)
		v, err := openFAT(l.Disk, at.Start, at.Size)
		if err != nil {
			t.Fatal(err)
		}
		p, err := v.places(slots.CommitFile(table))
		if err != nil {
			t.Fatal(err)
		}
		for _, garbage := range [][]byte{
			make([]byte, 512), bytes.Repeat([]byte{0xff}, 512), bytes.Repeat([]byte("boot_partition=9\n"), 31)[:512],
			append([]byte("default nothing\n"), make([]byte, 496)...), append([]byte("[none]\nboot_partition=2\n"), make([]byte, 480)...),
		} {
			d := l.Disk.Fork()
			if err := d.Write(garbage, p[0].Off, false); err != nil {
				t.Fatal(err)
			}
			for _, s := range l.Starts() {
				got, err := started(d, s, "", l.First)
				want := []string{"v1.1"}
				if table == layout.MBR {
					want = []string{rescue, stopped} // the latter where it names a partition that there is not
				}
				if !slices.Contains(want, got) {
					t.Errorf("%.20q: %s starts %q: %v", garbage, s.Name, got, err)
				}
			}
			if slot, err := l.Medium(d, layout.SlotA).Committed(); !errors.Is(err, slots.ErrForm) {
				t.Errorf("%.20q: committed is %q, %v", garbage, slot, err)
			}
			// It is told plainly, and mended by a commit.
			if err := l.Medium(d, layout.SlotA).Commit(layout.SlotA); err != nil {
				t.Errorf("%.20q: %v", garbage, err)
			}
			if slot, err := l.Medium(d, layout.SlotA).Committed(); slot != layout.SlotA || err != nil {
				t.Errorf("%.20q: after a commit, committed is %q, %v", garbage, slot, err)
			}
		}
	})
}

// fuzzed starts a lab's medium with a file of the first volume, or its boot sector, changed.
func fuzzed(f *testing.F, table layout.Table, at func(l *Lab) Place, seeds ...[]byte) {
	l, err := NewLab(context.Background(), f.TempDir(), table, tiny)
	if err != nil {
		f.Fatal(err)
	}
	p, data := at(l), l.Layout.Partition(l.Layout.Data)
	was, before := make([]byte, p.Len), make([]byte, data.Size)
	_, err = l.Disk.ReadAt(was, p.Off)
	_, err2 := l.Disk.ReadAt(before, data.Start)
	if err := errors.Join(err, err2); err != nil {
		f.Fatal(err)
	}
	for _, s := range append(seeds, was) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := l.Disk.Fork()
		if err := disk.Write(append(bytes.Clone(b), make([]byte, p.Len)...)[:p.Len], p.Off, false); err != nil {
			t.Fatal(err)
		}
		for _, s := range l.Starts() {
			for _, trial := range []layout.Slot{"", layout.SlotB} {
				boot, err := s.Boot(disk, disk.Size(), trial)
				if err == nil && !boot.Rescue && (boot.Root.Off+boot.Root.Len > disk.Size() || boot.Root.Len <= 0) {
					t.Errorf("%s: %+v", s.Name, boot)
				}
			}
		}
		// What reads and writes the slots holds out as well: it fails, or does what it says, and touches nothing else.
		m := l.Medium(disk, layout.SlotA)
		committed, err := m.Committed()
		if err == nil && committed != layout.SlotA && committed != layout.SlotB {
			t.Errorf("committed is %q", committed)
		}
		if _, err := m.Installed(); err != nil && !errors.Is(err, slots.ErrForm) && !errors.Is(err, slots.ErrMedium) {
			t.Errorf("installed: %v", err)
		}
		if err := m.Commit(layout.SlotA); err == nil {
			if got, err := m.Committed(); got != layout.SlotA || err != nil {
				t.Errorf("after a commit: %q, %v", got, err)
			}
		}
		after := make([]byte, data.Size)
		if _, err := disk.ReadAt(after, data.Start); err != nil || !bytes.Equal(after, before) {
			t.Errorf("the data changed: %v", err)
		}
	})
}

func placeOf(f *testing.F, name func(l *Lab) string) func(*Lab) Place {
	return func(l *Lab) Place {
		at := l.Layout.Partition(l.Layout.First)
		v, err := openFAT(l.Disk, at.Start, at.Size)
		if err != nil {
			f.Fatal(err)
		}
		p, err := v.places(name(l))
		if err != nil {
			f.Fatal(err)
		}
		return Place{p[0].Off, (p[0].Len + 511) / 512 * 512}
	}
}

func FuzzAutoboot(f *testing.F) {
	fuzzed(f, layout.MBR, placeOf(f, func(l *Lab) string { return slots.CommitFile(layout.MBR) }),
		[]byte("[all]\nboot_partition=3\n[tryboot]\nboot_partition=2\ntryboot_a_b=1"), []byte("boot_partition=99999999999999999999"), []byte("[none]\n[all"))
}

func FuzzLoaderConf(f *testing.F) {
	fuzzed(f, layout.GPT, placeOf(f, func(l *Lab) string { return slots.CommitFile(layout.GPT) }),
		[]byte("default croft-b.conf\n"), []byte("default \"croft-*\"\r\n"), []byte("default [\n"), []byte("\tdefault\tcroft-a.conf\x00"))
}

func FuzzLoaderEntry(f *testing.F) {
	fuzzed(f, layout.GPT, placeOf(f, func(l *Lab) string { return slots.CmdlineFile(layout.GPT, layout.SlotA) }),
		[]byte("linux /vmlinuz-b\noptions root=PARTUUID=x"), []byte("linux /loader\n"), []byte("efi \\EFI\\BOOT\\BOOTX64.EFI\n"))
}

func FuzzFAT(f *testing.F) {
	// The boot sector and the first sectors of the first table.
	at := func(l *Lab) Place { return Place{l.Layout.Partition(l.Layout.First).Start, 12 * 512} }
	big := make([]byte, 512)
	binary.LittleEndian.PutUint32(big[36:], 0xffffffff)
	fuzzed(f, layout.GPT, at, big)
}

func FuzzTables(f *testing.F) {
	fuzzed(f, layout.MBR, func(*Lab) Place { return Place{0, 512} }, make([]byte, 512), bytes.Repeat([]byte{0x55, 0xaa}, 256))
}
