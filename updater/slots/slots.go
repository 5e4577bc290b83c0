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
// that the committed slot needs is ever written.
//
// Layout and formats: docs/release-format.md, section "On the medium"; docs/boards.md; systemd's loader.conf(5) and the Boot Loader
// Specification; the "autoboot.txt" chapter of Raspberry Pi's documentation. Limits: at most 1 MiB of memory for copying; the
// drive's own cache can't be read past, only the kernel's.
package slots

import (
	"context"
	"errors"
	"io"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/updater/release"
)

// Errors that callers tell apart. All others are of contexts or of the caller's own fill.
var (
	ErrMedium     = errors.New("reading or writing the medium failed")
	ErrReadBack   = errors.New("the medium does not hold what was written to it")
	ErrTooLarge   = errors.New("the release does not fit into the slot")
	ErrContent    = errors.New("what was to be written is not the release")
	ErrForm       = errors.New("the medium does not have the form that updates need")
	ErrIncomplete = errors.New("the slot holds no complete release")
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
}

// Stamp is what a slot holds as it says itself: nothing that may be trusted.
type Stamp struct {
	Slot     layout.Slot
	Complete bool   // the firmware can start it; the fields below are empty otherwise
	Version  string // "" if it does not say
	Number   int64  // 0 if it does not say
	Cmdline  string // the kernel's command line
}

var errNotYet = errors.New("not written yet")

// Committed is the slot that the firmware starts by itself.
func (m *Medium) Committed() (layout.Slot, error) { return "", errNotYet }

// Base is the part of the running slot as the release had it, and how many bytes can be read, which may be more than it had.
func (m *Medium) Base(part string) (io.ReaderAt, int64, error) { return nil, 0, errNotYet }

// Install writes a release to the idle slot. It calls fill for "root" and then for "boot", which writes the part to dst.
func (m *Medium) Install(ctx context.Context, r *release.Release, fill func(part string, dst io.Writer) error,
	progress func(step Step, done, total int64),
) error {
	return errNotYet
}

// Verify reads the idle slot past all caches and fails with ErrIncomplete or ErrReadBack unless it holds r.
func (m *Medium) Verify(ctx context.Context, r *release.Release, progress func(done, total int64)) error {
	return errNotYet
}

// Installed is what the idle slot holds.
func (m *Medium) Installed() (*Stamp, error) { return nil, errNotYet }

// Commit makes slot the one that the firmware starts by itself.
func (m *Medium) Commit(slot layout.Slot) error { return errNotYet }
