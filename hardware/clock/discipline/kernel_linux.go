package discipline

import (
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is the machine's clock.
type Kernel interface {
	// Now returns the wall clock's time.
	Now() time.Time
	// Uptime returns the time since the machine started.
	Uptime() (time.Duration, error)
	// Step adds offset to the clock at once.
	Step(offset time.Duration) error
	// Slew has the kernel's phase-locked loop work off offset, at most half a second, and marks the clock as
	// synchronised to within bound. poll is the time until the next call.
	Slew(offset, bound, poll time.Duration) error
	// Synced reports whether the clock is marked as synchronised, and its bound.
	Synced() (bool, time.Duration, error)
}

// NewKernel returns the machine's own clock. To change it needs CAP_SYS_TIME.
func NewKernel() Kernel { return kernel{} }

type kernel struct{}

func (kernel) Now() time.Time { return time.Now() }

func (kernel) Uptime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the uptime: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// Bits of struct timex (adjtimex(2)), of which x/sys has no names.
const (
	adjOffset    = 0x0001
	adjMaxError  = 0x0004
	adjEstError  = 0x0008
	adjStatus    = 0x0010
	adjTimeConst = 0x0020
	adjSetOffset = 0x0100
	adjNano      = 0x2000
	staPLL       = 0x0001
	staUnsync    = 0x0040
	timeError    = 5
)

func (kernel) Step(offset time.Duration) error {
	if _, err := unix.Adjtimex(stepTimex(offset)); err != nil {
		return fmt.Errorf("step the clock by %v: %w", offset, err)
	}
	return nil
}

func stepTimex(offset time.Duration) *unix.Timex {
	tx := &unix.Timex{Modes: adjSetOffset | adjNano}
	tx.Time.Sec = int64(offset / time.Second)
	tx.Time.Usec = int64(offset % time.Second) // nanoseconds, by adjNano
	if tx.Time.Usec < 0 {
		tx.Time.Sec--
		tx.Time.Usec += int64(time.Second)
	}
	return tx
}

func (kernel) Slew(offset, bound, poll time.Duration) error {
	if _, err := unix.Adjtimex(slewTimex(offset, bound, poll)); err != nil {
		return fmt.Errorf("slew the clock by %v: %w", offset, err)
	}
	return nil
}

func slewTimex(offset, bound, poll time.Duration) *unix.Timex {
	tau := bits.Len64(uint64(max(poll, time.Second)/time.Second)) - 1 - 4 // log2 of the poll interval; SHIFT_PLL
	return &unix.Timex{
		Modes:    adjOffset | adjStatus | adjTimeConst | adjMaxError | adjEstError | adjNano,
		Offset:   int64(offset),
		Status:   staPLL,
		Constant: int64(min(max(tau, 0), 10)),
		Maxerror: bound.Microseconds(),
		Esterror: offset.Abs().Microseconds(),
	}
}

func (kernel) Synced() (bool, time.Duration, error) {
	var tx unix.Timex
	st, err := unix.Adjtimex(&tx)
	if err != nil {
		return false, 0, fmt.Errorf("read the clock's state: %w", err)
	}
	return st != timeError && tx.Status&staUnsync == 0, time.Duration(tx.Maxerror) * time.Microsecond, nil
}
