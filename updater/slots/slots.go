// Package slots writes a release to the slot that does not run, and says which slot the firmware starts. It is the only code
// that writes a slot, in images too, and the order of its writes and flushes is what no power cut can break:
//
//  1. make the idle slot invalid: its loader entry blank (UEFI), or the boot sector of its boot file system zero (Raspberry Pi)
//  2. the root file system, and zeros up to the next sector
//  3. the kernel and zeros up to the end of its file (UEFI), or the boot file system without its boot sector, and the command
//     line in it (Raspberry Pi)
//  4. everything read back past all caches, and compared with the release's hashes
//  5. make the slot valid: its loader entry, first sector last, or the boot sector
//
// and later, when the new release has proved itself, Commit: one sector in place. Every step is flushed before the next one.
// Nothing but contents changes: files of the FAT volumes have their room from the factory, and no structure of a file system
// that the committed slot needs is ever written. A rescue environment alone may make one file, autoboot.txt, where no slot is committed.
//
// Layout and formats: docs/release-format.md, section "On the medium"; docs/boards.md; systemd's loader.conf(5) and the Boot Loader
// Specification; the "autoboot.txt" chapter of Raspberry Pi's documentation. Limits: at most 1 MiB of memory for copying; the
// drive's own cache can't be read past, only the kernel's.
package slots

import (
	"errors"
	"fmt"
	"io"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
)

// Errors that callers tell apart. All others are of contexts or of the caller's own fill.
var (
	ErrMedium     = errors.New("reading or writing the medium failed")
	ErrReadBack   = errors.New("the medium does not hold what was written to it")
	ErrTooLarge   = errors.New("the release does not fit into the slot")
	ErrContent    = errors.New("what was to be written is not the release")
	ErrForm       = errors.New("the medium does not have the form that updates need")
	ErrIncomplete = errors.New("the slot holds no complete release")
	ErrCommitted  = errors.New("the slot is the one that the firmware starts")
)

// Step is what Install is doing.
type Step string

// The steps of Install, in their order. Done and total of StepRoot and StepBoot are bytes written, of StepVerify bytes read.
const (
	StepErase  Step = "erase"
	StepRoot   Step = "root"
	StepBoot   Step = "boot"
	StepVerify Step = "verify"
	StepFinish Step = "finish"
)

// Parts of a release.
const (
	PartBoot = "boot"
	PartRoot = "root"
)

// Device is a partition.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Size() int64         // bytes
	Sync() error         // returns when all that was written is on the medium
	Reread() io.ReaderAt // reads past every cache
}

// Medium is what the box started from.
type Medium struct {
	Table   layout.Table
	Running layout.Slot
	RootID  map[layout.Slot]string // PARTUUID of the root partitions, from the medium's table
	First   Device                 // the first FAT
	// Boot partitions; nil where the first FAT holds both slots' kernels.
	Boot, BootIdle Device
	Root, RootIdle Device
	// Rescue is for an environment that runs from neither slot: Running then only says which slot is to be left alone, and Install
	// writes the other one even if the firmware starts that, or nobody knows which; Commit makes an autoboot.txt where there is none.
	Rescue bool
}

// Stamp is what a slot holds as it says itself: nothing that may be trusted.
type Stamp struct {
	Slot     layout.Slot
	Complete bool   // the firmware can start it; the fields below are empty otherwise
	Version  string // "" if it does not say
	Number   int64  // 0 if it does not say
	Cmdline  string // the kernel's command line
}

// Idle is the slot that does not run.
func (m *Medium) Idle() layout.Slot {
	if m.Running == layout.SlotA {
		return layout.SlotB
	}
	return layout.SlotA
}

// bootOf is the boot partition of a slot, where slots have one.
func (m *Medium) bootOf(slot layout.Slot) Device {
	if slot == m.Running {
		return m.Boot
	}
	return m.BootIdle
}

// Base is the part of the running slot as the release had it, and how many bytes can be read, which may be more than it had.
func (m *Medium) Base(part string) (io.ReaderAt, int64, error) {
	switch {
	case part == PartRoot:
		return m.Root, m.Root.Size(), nil
	case part != PartBoot:
		return nil, 0, fmt.Errorf("there is no part %q", part)
	case m.Table == layout.MBR:
		e, err := inPlace(m.Boot, CmdlineFile(m.Table, m.Running))
		if err != nil {
			return nil, 0, err
		}
		return &masked{r: m.Boot, at: e, with: spaces(e.Length)}, m.Boot.Size(), nil
	}
	e, err := inPlace(m.First, KernelFile(m.Running))
	if err != nil {
		return nil, 0, err
	}
	return io.NewSectionReader(m.First, e.Offset, e.Length), e.Length, nil
}

// Room is how many bytes a part may have in the idle slot.
func (m *Medium) Room(part string) (int64, error) {
	switch {
	case part == PartRoot:
		return m.RootIdle.Size(), nil
	case part != PartBoot:
		return 0, fmt.Errorf("there is no part %q", part)
	case m.Table == layout.MBR:
		return m.BootIdle.Size(), nil
	}
	e, err := inPlace(m.First, KernelFile(m.Idle()))
	return e.Length, err
}

// Installed is what the idle slot holds.
func (m *Medium) Installed() (*Stamp, error) { return m.stamp(m.Idle()) }

func (m *Medium) stamp(slot layout.Slot) (*Stamp, error) {
	s := &Stamp{Slot: slot}
	if m.Table == layout.MBR {
		if m.bootOf(slot) == nil {
			return nil, fmt.Errorf("%w: slot %s has no boot partition", ErrForm, slot)
		}
		// A slot without boot sector, or with one that is no FAT's, the firmware passes over.
		b, err := fat.ReadFile(m.bootOf(slot), CmdlineFile(m.Table, slot), maxEntry)
		if err != nil {
			if err = volumeError(err); errors.Is(err, ErrForm) {
				return s, nil
			}
			return nil, err
		}
		s.read(firstLine(b), m.RootID[slot])
		return s, nil
	}
	e, err := inPlace(m.First, CmdlineFile(m.Table, slot))
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(e.Length, maxEntry))
	if err := readFull(m.First, b, e.Offset); err != nil {
		return nil, err
	}
	entry := parseEntry(b)
	if entry["linux"] == "/"+KernelFile(slot) {
		s.read(entry["options"], m.RootID[slot])
	}
	return s, nil
}

// volumeError says what an error of package fat means here.
func volumeError(err error) error {
	for _, form := range []error{fat.ErrNotFAT, fat.ErrNotFound, fat.ErrDamaged, fat.ErrTooLarge} {
		if errors.Is(err, form) {
			return fmt.Errorf("%w: %w", ErrForm, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrMedium, err)
}

// inPlace finds a file of a volume that is to be overwritten in place: it must be in one piece and begin with a sector.
func inPlace(r io.ReaderAt, name string) (fat.Extent, error) {
	f, err := fat.Find(r, name)
	switch {
	case err != nil:
		return fat.Extent{}, volumeError(err)
	case len(f.Extents) != 1:
		return fat.Extent{}, fmt.Errorf("%w: %s is in %d pieces", ErrForm, name, len(f.Extents))
	case f.Extents[0].Offset%layout.SectorSize != 0:
		return fat.Extent{}, fmt.Errorf("%w: %s begins within a sector", ErrForm, name)
	}
	return f.Extents[0], nil
}

// readFull reads all of b.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: read %d bytes at %d: %w", ErrMedium, len(b), off, err)
}

// masked reads r with other bytes in one place.
type masked struct {
	r    io.ReaderAt
	at   fat.Extent
	with []byte // at.Length bytes
}

func (m *masked) ReadAt(p []byte, off int64) (int, error) {
	n, err := m.r.ReadAt(p, off)
	if from, to := max(off, m.at.Offset), min(off+int64(n), m.at.Offset+m.at.Length); from < to {
		copy(p[from-off:to-off], m.with[from-m.at.Offset:])
	}
	return n, err
}
