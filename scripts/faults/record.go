package faults

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
)

// Kind of an Event.
type Kind uint8

// The kinds of events.
const (
	KindWrite Kind = iota
	KindZero
	KindFlush
)

// Event is one change of a disk, or a flush.
type Event struct {
	Kind Kind
	Off  int64
	Len  int64
	Data []byte // of KindWrite; Len bytes
	FUA  bool   // durable once answered
}

// Recorder is a Device that logs what is written to the one below it, in the order in which it was done.
type Recorder struct {
	Device

	mu     sync.Mutex
	events []Event
}

var _ Device = (*Recorder)(nil)

// Write implements Device.
func (r *Recorder) Write(p []byte, off int64, fua bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Device.Write(p, off, fua); err != nil {
		return err
	}
	r.events = append(r.events, Event{Kind: KindWrite, Off: off, Len: int64(len(p)), Data: bytes.Clone(p), FUA: fua})
	return nil
}

// Zero implements Device.
func (r *Recorder) Zero(off, n int64, fua bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Device.Zero(off, n, fua); err != nil {
		return err
	}
	r.events = append(r.events, Event{Kind: KindZero, Off: off, Len: n, FUA: fua})
	return nil
}

// Flush implements Device.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Device.Flush(); err != nil {
		return err
	}
	r.events = append(r.events, Event{Kind: KindFlush})
	return nil
}

// Events returns what was recorded so far.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[:len(r.events):len(r.events)]
}

// Replay returns base after the first n of the events, each of them whole.
func Replay(base *Disk, events []Event, n int) (*Disk, error) {
	d := base.Fork()
	for i, e := range events[:n] {
		if err := apply(d, e, whole); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
	}
	return d, nil
}

// Crash returns the disk that a power cut just after the first n of the events could have left on base: all that was
// durable by then, and a random part of the rest, in which any write may be whole, missing or torn. The same rng
// state gives the same disk.
func Crash(rng *rand.Rand, base *Disk, events []Event, n int) (*Disk, error) {
	return CrashPart(rng, base, events, n, 0, base.Size())
}

// CrashPart is Crash of which only the size bytes at off are needed, which is faster: the rest of the disk is as on base.
func CrashPart(rng *rand.Rand, base *Disk, events []Event, n int, off, size int64) (*Disk, error) {
	if n < 0 || n > len(events) {
		return nil, fmt.Errorf("crash after event %d of %d", n, len(events))
	}
	durable := 0
	for i, e := range events[:n] {
		if e.Kind == KindFlush {
			durable = i
		}
	}
	// How much of what was not flushed reached the medium: now nothing, now all but the last, mostly some.
	dropped, torn := rng.Float64(), rng.Float64()*0.5
	switch rng.IntN(8) {
	case 0:
		dropped = 1
	case 1:
		dropped, torn = 0, 0
	}
	d := base.Fork()
	for i, e := range events[:n] {
		part := whole
		if i > durable && (!e.FUA || i == n-1) {
			switch {
			case rng.Float64() < dropped:
				continue
			case rng.Float64() < torn || i == n-1:
				part = tear(rng, e)
			}
		}
		if e.Off >= off+size || e.Off+e.Len <= off {
			continue
		}
		if err := apply(d, e, part); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
	}
	return d, nil
}

func whole(int64) bool { return true }

// tear chooses which of an event's sectors, counted from its start, reach the medium.
func tear(rng *rand.Rand, e Event) func(sector int64) bool {
	sectors := (e.Len + SectorSize - 1) / SectorSize
	if sectors < 2 {
		return whole
	}
	if rng.IntN(2) == 0 {
		cut := 1 + rng.Int64N(sectors-1)
		return func(s int64) bool { return s < cut }
	}
	keep := make([]bool, sectors)
	for i := range keep {
		keep[i] = rng.IntN(2) == 0
	}
	return func(s int64) bool { return keep[s] }
}

// apply repeats the sectors of an event for which part is true.
func apply(d *Disk, e Event, part func(sector int64) bool) error {
	for at := int64(0); at < e.Len; {
		n := min(e.Len-at, SectorSize-(e.Off+at)%SectorSize)
		keep := part(at / SectorSize)
		for at+n < e.Len && part((at+n)/SectorSize) == keep {
			n += min(e.Len-at-n, SectorSize)
		}
		var err error
		switch {
		case !keep:
		case e.Kind == KindWrite:
			err = d.Write(e.Data[at:at+n], e.Off+at, false)
		case e.Kind == KindZero:
			err = d.Zero(e.Off+at, n, false)
		}
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}
