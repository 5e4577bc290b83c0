// Package history remembers how the box was doing: processor, memory, temperature, disk and network over the last 24 hours
// in steps of 5 minutes, and over the last 30 days in steps of 2 hours, each step with its least, mean and greatest value.
//
// Both are files of a fixed size that are written in place, in blocks of 512 bytes with a checksum each: every half hour
// the one or two blocks that changed of each. That is 75 kB a day, in 150 writes that reach the card as at most 0.6 MB
// (file systems write whole pages) beside the file system's own notes; nothing is synced, for half an hour of a chart is nothing that anybody would miss. A block that a power cut
// tore is noticed and forgotten. Steps of the 30 days are made of those of the 24 hours.
//
// The clock: a sample belongs to the step that the wall clock says. When a clock that was unsure is set, what was sampled
// since the start moves along with it, by whole steps. A clock that is set back makes steps be measured twice; they
// become one. Steps that nobody measured, such as while the box was off, are gaps.
//
// Limits: the last half hour is lost if the power fails. A rate (processor, network) needs two samples that are less
// than two minutes apart.
package history

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
)

// Every is how often somebody should call Add.
const Every = 15 * time.Second

const (
	shortStep  = 5 * time.Minute
	longStep   = 2 * time.Hour
	shortCount = 288 // 24 hours
	longCount  = 360 // 30 days
	perLong    = int64(longStep / shortStep)

	flushEvery = 30 * time.Minute
	maxRate    = 2 * time.Minute // between two samples that make a rate
	jump       = time.Minute     // by which wall and monotonic clock have to part to call it one
)

// names are the series, in the order in which a record holds them.
var names = [...]string{
	api.SeriesCPU, api.SeriesMemory, api.SeriesTemperature, api.SeriesDisk, api.SeriesNetIn, api.SeriesNetOut,
}

const (
	iCPU = iota
	iMemory
	iTemperature
	iDisk
	iNetIn
	iNetOut
)

// Moment is when a sample was taken.
type Moment struct {
	Wall time.Time
	Mono time.Duration // by a clock that is never set
	Sure bool          // the wall clock was synchronised, in this boot or before by a battery
}

// History is the memory. Its methods may be called in parallel.
type History struct {
	log *slog.Logger

	mu          sync.Mutex
	short, long *ring
	unsure      map[int64]bool // steps of short that were measured since the start by a clock that was unsure
	last        *Moment
	before      api.Vitals // of last
	flushed     time.Duration
	failed      bool // the last flush
	max         [len(names)]float64
}

// Open reads the history in dir, which it makes; with dir "" it is kept in memory only. On an error, such as of a full
// disk, the history that it returns is kept in memory as well.
func Open(dir string, log *slog.Logger) (*History, error) {
	h := &History{log: log, unsure: map[int64]bool{}}
	var err, err2 error
	if dir != "" {
		err = os.MkdirAll(dir, 0o700)
	}
	open := func(name string, step time.Duration, count int) (*ring, error) {
		if dir == "" || err != nil {
			return newRing(step, count), err
		}
		return openRing(filepath.Join(dir, name), step, count)
	}
	h.short, err2 = open("24h", shortStep, shortCount)
	var err3 error
	h.long, err3 = open("30d", longStep, longCount)
	if err = errors.Join(err2, err3); err != nil {
		err = fmt.Errorf("history: %w", err)
	}
	return h, err
}

// Add takes a sample in.
func (h *History) Add(at Moment, v api.Vitals) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at.Wall = at.Wall.Round(0) // by a monotonic reading no difference of two would tell of a clock that was set
	if h.last == nil {
		h.flushed = at.Mono
	} else if drift := at.Wall.Sub(h.last.Wall) - (at.Mono - h.last.Mono); !h.last.Sure && (drift > jump || drift < -jump) {
		h.shift(drift)
	}
	if at.Sure {
		clear(h.unsure)
	}
	step := stepOf(at.Wall, shortStep)
	r := h.short.at(step)
	r.add(h.values(at, v))
	h.short.put(r)
	if !at.Sure {
		h.unsure[step] = true
	}
	h.fold(step)
	h.last, h.before = &at, v
	if at.Mono-h.flushed >= flushEvery {
		h.flush()
		h.flushed = at.Mono
	}
}

// values are what a sample says, NaN where it says nothing.
func (h *History) values(at Moment, v api.Vitals) (out [len(names)]float64) {
	for i := range out {
		out[i] = math.NaN()
	}
	if v.MemTotal > 0 {
		out[iMemory], h.max[iMemory] = float64(v.MemTotal-v.MemAvailable), float64(v.MemTotal)
	}
	if v.Temperature != nil {
		out[iTemperature] = *v.Temperature
	}
	if v.Data != nil && v.Data.Size > 0 {
		out[iDisk], h.max[iDisk] = float64(v.Data.Size-v.Data.Free), float64(v.Data.Size)
	}
	h.max[iCPU] = 100
	if h.last == nil {
		return out
	}
	took := at.Mono - h.last.Mono
	if took <= 0 || took > maxRate {
		return out
	}
	rate := func(i int, from, to int64, scale float64) {
		if to >= from && (from > 0 || to > 0) { // both zero: nobody counts
			out[i] = float64(to-from) * scale / took.Seconds()
		}
	}
	rate(iCPU, h.before.CPUBusyMS, v.CPUBusyMS, 0.1/float64(max(v.CPUs, 1)))
	if !math.IsNaN(out[iCPU]) {
		out[iCPU] = min(out[iCPU], 100)
	}
	rate(iNetIn, h.before.NetIn, v.NetIn, 1)
	rate(iNetOut, h.before.NetOut, v.NetOut, 1)
	return out
}

// shift moves what was measured by an unsure clock.
func (h *History) shift(drift time.Duration) {
	by := int64(math.Round(drift.Seconds() / shortStep.Seconds()))
	if by == 0 {
		return
	}
	moved := map[int64]record{}
	for step := range h.unsure {
		if r, ok := h.short.get(step); ok {
			moved[step] = r
			h.short.remove(step)
		}
	}
	for step := range moved {
		h.fold(step)
	}
	clear(h.unsure)
	for step, r := range moved {
		r.step = step + by
		if r.step < 0 {
			continue
		}
		h.short.put(r)
		h.unsure[r.step] = true
		h.fold(r.step)
	}
}

// fold makes the step of 2 hours anew to which one of 5 minutes belongs.
func (h *History) fold(step int64) {
	long := floor(step, perLong)
	sum := record{step: long}
	for s := long * perLong; s < (long+1)*perLong; s++ {
		if r, ok := h.short.get(s); ok {
			sum.merge(r)
		}
	}
	if sum.count > 0 {
		h.long.put(sum)
	} else {
		h.long.remove(long)
	}
}

// Range returns the history that ends now; ok is false for a range that there is not.
func (h *History) Range(name string, now time.Time) (out api.History, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := map[string]*ring{api.Range24h: h.short, api.Range30d: h.long}[name]
	if !ok {
		return out, false
	}
	end := stepOf(now, r.step)
	first := end - int64(len(r.records)) + 1
	out = api.History{
		Range: name, From: time.Unix(first*int64(r.step/time.Second), 0).UTC(), StepMS: r.step.Milliseconds(),
		Series: []api.Series{},
	}
	for i, series := range names {
		s := api.Series{Name: series, Max: h.max[i], Points: make([]*api.Point, len(r.records))}
		some := false
		for n := range s.Points {
			if rec, ok := r.get(first + int64(n)); ok && rec.values[i].known() {
				v := rec.values[i]
				s.Points[n] = &api.Point{Min: float64(v.min), Mean: float64(v.mean), Max: float64(v.max)}
				some = true
			}
		}
		if some || i == iCPU || i == iMemory || i == iNetIn || i == iNetOut {
			out.Series = append(out.Series, s)
		}
	}
	return out, true
}

func (h *History) flush() error {
	err := errors.Join(h.short.flush(), h.long.flush())
	if err != nil && !h.failed {
		h.log.Warn("the history can't be written; it is kept in memory", "err", err)
	}
	h.failed = err != nil
	return err
}

// Close writes what is not written yet.
func (h *History) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.flush(), h.short.close(), h.long.close())
}

func stepOf(t time.Time, step time.Duration) int64 { return floor(t.Unix(), int64(step/time.Second)) }

func floor(a, b int64) int64 {
	if a < 0 {
		return (a - b + 1) / b
	}
	return a / b
}
