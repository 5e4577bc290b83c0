package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// ErrExhausted is what Fetch fails with when no source is left that could have the rest.
var ErrExhausted = errors.New("no source has all of it")

// Job is blobs to fetch, and from where.
type Job struct {
	Store   *Store
	Sources []Source // in order of preference; sources of one kind are used together
	// Progress is told how far it is: after each piece, and each second. It must not block.
	Progress func(Progress)
	// Bad is told which source lied, and how. It must not block.
	Bad func(s Source, err error)
	// Patience is how long a piece may take before another source is asked for it as well; 0: 15 seconds.
	Patience time.Duration
}

// Progress is how far a job is.
type Progress struct {
	Done, Total int64 // bytes of all blobs; what is not verified yet counts, and is taken back if it proves wrong
	Source      Source
}

const (
	maxFlights      = 3 // pieces at once: each takes up its size in memory
	maxFailures     = 3 // of a source in one job, other than lies
	defaultPatience = 15 * time.Second
)

// Fetch fetches blobs into the store, one after the other. Sources are asked in their order; those of one kind at the same
// time, up to three. One that lies is asked no more, one that fails later again, one that is too slow only if no other is left. It
// returns nil when all blobs are complete, else why they are not: ErrExhausted with what each source said, ErrNoSpace, or ctx's error.
// What was fetched by then stays in the store.
func (j *Job) Fetch(ctx context.Context, wants []Want) error {
	r := &running{Job: j, said: map[Source]*record{}}
	keep := map[string]bool{}
	for _, w := range wants {
		keep[w.Blob] = true
		r.total += w.Size
	}
	r.buffers = make(chan []byte, maxFlights)
	for range maxFlights {
		r.buffers <- nil
	}
	for _, s := range j.Sources {
		r.said[s] = &record{}
	}
	for _, w := range wants {
		p, err := j.Store.Begin(ctx, w, func(hash string) bool { return keep[hash] })
		if err != nil {
			return err
		}
		if p == nil {
			r.done += w.Size
			r.tell(0, nil)
			continue
		}
		err = r.blob(ctx, p)
		p.close()
		if err != nil {
			return err
		}
		r.done += w.Size
	}
	return nil
}

// running is a job at work; everything but the flights is in one goroutine.
type running struct {
	*Job
	said        map[Source]*record
	done, total int64       // of complete blobs; of all
	buffers     chan []byte // as many as there may be flights
	latest      Source
}

// record is what is known of a source in this job.
type record struct {
	failures int
	lied     bool
	after    time.Time // when it may be asked again
	errs     []error
}

func (r *record) add(err error) {
	if len(r.errs) < 8 {
		r.errs = append(r.errs, err)
	}
}

// flight is a piece that is on its way.
type flight struct {
	source   Source
	piece    int
	began    time.Time
	cancel   context.CancelFunc
	received atomic.Int64
	beaten   bool // another source brought the piece
	slow     bool // another source is asked as well
	buf      []byte
	err      error
}

func (r *running) tell(now int64, s Source) {
	if s != nil {
		r.latest = s
	}
	if r.Progress != nil {
		r.Progress(Progress{Done: min(r.done+now, r.total), Total: r.total, Source: r.latest})
	}
}

// transfer is one blob at work.
type transfer struct {
	*running
	p        *Partial
	ordered  bool             // one piece after the other, since only the whole has a hash
	strict   bool             // and all of them from one source
	from     map[Source]bool  // who gave pieces since the start
	gone     map[Source]bool  // not for this blob any more
	slow     map[Source]bool  // only if no other is left
	active   map[Source]bool  // in use
	flights  map[*flight]bool //
	landed   chan *flight     //
	patience time.Duration
}

// blob fetches all pieces of one blob.
func (r *running) blob(ctx context.Context, p *Partial) error {
	ctx, cancel := context.WithCancel(ctx)
	t := &transfer{
		running: r, p: p, ordered: len(p.want.Frames) == 0, patience: cmp.Or(r.Patience, defaultPatience),
		from: map[Source]bool{}, gone: map[Source]bool{}, slow: map[Source]bool{}, active: map[Source]bool{},
		flights: map[*flight]bool{}, landed: make(chan *flight, maxFlights),
	}
	defer func() {
		cancel()
		for len(t.flights) > 0 { // their buffers are needed again
			t.land(<-t.landed)
		}
	}()
	tick := time.NewTicker(min(time.Second, max(t.patience/4, time.Millisecond)))
	defer tick.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(p.missing()) == 0 {
			resumed := p.resume
			err := p.finish(ctx)
			if err == nil {
				t.tell(p.want.Size, nil)
				return nil
			}
			if !errors.Is(err, ErrLied) || !t.ordered {
				return err
			}
			t.blame(err, resumed)
		}
		if err := t.assign(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
			t.tell(t.sofar(), nil)
		case f := <-t.landed:
			t.land(f)
			if err := t.take(f); err != nil {
				return err
			}
		}
	}
}

func (t *transfer) sofar() int64 {
	n := t.p.done
	seen := map[int]int64{}
	for f := range t.flights {
		if !f.beaten {
			seen[f.piece] = max(seen[f.piece], f.received.Load())
		}
	}
	for _, x := range seen {
		n += x
	}
	return n
}

// blame deals with a blob that was wrong as a whole: who gave all of it lied. If several did, it is done again with one.
func (t *transfer) blame(err error, resumed bool) {
	if len(t.from) == 1 && !resumed {
		for s := range t.from {
			t.lie(s, err)
		}
	}
	t.strict = true
	clear(t.from)
	clear(t.active)
}

func (t *transfer) lie(s Source, err error) {
	t.said[s].lied = true
	t.said[s].add(err)
	delete(t.active, s)
	if t.Bad != nil {
		t.Bad(s, err)
	}
}

// usable tells whether a source may be asked for something of this blob, now or later.
func (t *transfer) usable(s Source) bool {
	r := t.said[s]
	return !r.lied && !t.gone[s] && r.failures < maxFailures
}

// next is the source that comes into use next.
func (t *transfer) next(now time.Time) Source {
	for _, slow := range []bool{false, true} {
		for _, s := range t.Sources {
			if t.usable(s) && !t.active[s] && t.slow[s] == slow && !t.said[s].after.After(now) && !t.flying(s) {
				return s
			}
		}
	}
	return nil
}

func (t *transfer) flying(s Source) bool {
	for f := range t.flights {
		if f.source == s {
			return true
		}
	}
	return false
}

// assign gives sources something to do. It fails if there is no source left to wait for.
func (t *transfer) assign(ctx context.Context) error {
	now := time.Now()
	most := maxFlights
	if t.ordered {
		most = 1
	}
	for len(t.active) < most {
		s := t.next(now)
		if s == nil || len(t.active) > 0 && !t.helps(s, now) {
			break
		}
		t.active[s] = true
	}
	// In the order of preference, so that what is left for one is taken from the nearest.
	for _, s := range t.Sources {
		if !t.active[s] || t.flying(s) || len(t.flights) == maxFlights {
			continue
		}
		if i, again := t.choose(now); i >= 0 {
			t.launch(ctx, s, i, again)
		}
	}
	if len(t.flights) > 0 {
		return nil
	}
	for _, s := range t.Sources {
		if t.usable(s) {
			return nil // one that failed, and whose time will come
		}
	}
	var errs []error
	for _, s := range t.Sources {
		for _, err := range t.said[s].errs {
			errs = append(errs, fmt.Errorf("%s %s: %w", s.Kind(), s.Name(), err))
		}
	}
	return fmt.Errorf("%w: %d of %d bytes of the blob %s: %w", ErrExhausted, t.p.done, t.p.want.Size, t.p.want.Blob,
		cmp.Or(errors.Join(errs...), ErrNotFound))
}

// helps tells whether another source is of use beside those that are active: if it is of a kind with them, or one of them is slow.
func (t *transfer) helps(s Source, now time.Time) bool {
	for a := range t.active {
		if a.Kind() == s.Kind() {
			return true
		}
	}
	for f := range t.flights {
		if !f.beaten && !f.slow && now.Sub(f.began) > t.patience {
			return true
		}
	}
	return false
}

// choose picks a piece: the first that nobody brings, else one that takes too long; -1 for none.
func (t *transfer) choose(now time.Time) (i int, again *flight) {
	flying := map[int]*flight{}
	for f := range t.flights {
		if !f.beaten {
			flying[f.piece] = f
		}
	}
	for _, i := range t.p.missing() {
		if flying[i] == nil {
			return i, nil
		}
		if t.ordered {
			break
		}
	}
	for f := range t.flights {
		if !f.beaten && !f.slow && now.Sub(f.began) > t.patience && (again == nil || f.began.Before(again.began)) {
			again = f
		}
	}
	if again == nil || t.strict {
		return -1, nil
	}
	return again.piece, again
}

func (t *transfer) launch(ctx context.Context, s Source, i int, again *flight) {
	f := &flight{source: s, piece: i, began: time.Now(), slow: again != nil}
	if again != nil {
		again.slow = true
	}
	x := t.p.pieces[i]
	f.buf = <-t.buffers // never waits: there are no more flights than buffers
	if int64(cap(f.buf)) < x.size {
		f.buf = make([]byte, x.size)
	}
	f.buf = f.buf[:x.size]
	ctx, f.cancel = context.WithCancel(ctx)
	ctx = context.WithValue(ctx, reportKey{}, func(n int64) { f.received.Add(n) })
	t.flights[f] = true
	path := "blobs/" + t.p.want.Blob
	go func() {
		f.err = s.ReadRange(ctx, path, x.off, f.buf)
		t.landed <- f
	}()
}

// land ends a flight.
func (t *transfer) land(f *flight) {
	f.cancel()
	delete(t.flights, f)
	t.buffers <- f.buf
}

// take looks at what a flight brought. An error ends the job.
func (t *transfer) take(f *flight) error {
	s, r := f.source, t.said[f.source]
	if f.beaten || t.p.have[f.piece] {
		return nil
	}
	if f.err == nil {
		err := t.p.write(f.piece, f.buf)
		switch {
		case errors.Is(err, ErrLied):
			t.lie(s, err)
			return nil
		case err != nil:
			return err
		}
		t.from[s] = true
		r.failures = 0
		for other := range t.flights {
			if other.piece == f.piece {
				other.beaten = true
				other.cancel()
				t.slow[other.source] = true
				delete(t.active, other.source)
			}
		}
		t.tell(t.sofar(), s)
		return nil
	}
	r.add(f.err)
	delete(t.active, s)
	switch {
	case errors.Is(f.err, context.Canceled), errors.Is(f.err, context.DeadlineExceeded):
		r.failures++ // only ours: t.blob sees it
	case errors.Is(f.err, ErrNotFound), errors.Is(f.err, ErrClosed):
		t.gone[s] = true
	case errors.Is(f.err, ErrLied):
		t.lie(s, f.err)
	case errors.Is(f.err, ErrStalled):
		r.failures++
		t.slow[s] = true
	case errors.Is(f.err, io.ErrUnexpectedEOF) && s.Kind() != KindMirror && s.Kind() != KindNeighbour:
		t.gone[s] = true // a file that is too short stays so
	default:
		r.failures++
		r.after = time.Now().Add(time.Duration(r.failures) * t.patience / 10)
	}
	if t.strict {
		return t.anew()
	}
	return nil
}

// anew starts a blob again that has to be from one source.
func (t *transfer) anew() error {
	clear(t.from)
	return t.p.restart()
}

// Sort orders sources by their kinds, as they are preferred. Those of one kind stay in their order.
func Sort(list []Source) {
	order := []string{KindFile, KindUSB, KindNeighbour, KindMirror}
	slices.SortStableFunc(list, func(a, b Source) int {
		return slices.Index(order, a.Kind()) - slices.Index(order, b.Kind())
	})
}
