// Package discipline sets the clock by NTP (RFC 5905, by github.com/beevik/ntp) and says how sure the box is of the
// time: several servers are asked, what a majority of them agrees on is believed, the clock is set once and from
// then on only steered (adjtimex(2)), and never to before its floor.
//
// Limits: the answers of NTP servers are not authenticated. A majority that lies can put the clock anywhere between
// the floor and 20 years after the build, and the floor with it. There is no leap second handling beyond the kernel's
// own; servers that smear leap seconds must not be mixed with others.
package discipline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/beevik/ntp"

	"github.com/croft-os/croft/hardware/clock"
)

// Certainty says how far the clock can be trusted.
type Certainty int

// Certainties.
const (
	Unsure Certainty = iota // only the floor is known
	Kept                    // right earlier in this boot, or by one server or a battery-backed clock only
	Sure                    // agreeing servers were heard lately
)

// Timing.
const (
	minPoll      = 64 * time.Second
	maxPoll      = 2048 * time.Second
	firstRetry   = 5 * time.Second // without an answer; doubled up to maxRetry
	maxRetry     = 1024 * time.Second
	pokeWait     = 2 * time.Second  // after a poll without an answer, until a change of the network brings the next
	confirmAfter = 15 * time.Second // between the polls that confirm a step
	confirmPolls = 3
	stepAbove    = 400 * time.Millisecond // less is slewed
	firstStep    = 128 * time.Millisecond // RFC 5905 STEPT, for the first time
	sureFor      = 3 * time.Hour
	queryTimeout = 3 * time.Second
	maxTargets   = 6
	maxDistance  = 1500 * time.Millisecond // RFC 5905 MAXDIST and some for slow links
	drift        = 15e-6                   // RFC 5905 PHI
	saveEvery    = time.Hour
	denied       = 24 * time.Hour // without asking a server that said DENY or RSTR
)

// ErrKiss is a server's request to stay away (RFC 5905 section 7.4).
type ErrKiss struct{ Code string }

func (e ErrKiss) Error() string { return "kiss of death: " + e.Code }

// Options of a [Clock].
type Options struct {
	Log    *slog.Logger
	Kernel Kernel
	Build  time.Time // time of the build
	File   string    // where the last known time is saved; "" for nowhere
	// Servers returns the names or addresses of the NTP servers to ask, best first, and whether the owner chose
	// them: then even a single one is believed.
	Servers func() (names []string, chosen bool)
	// Resolve looks a name up.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Query asks one server; nil means by NTP.
	Query func(ctx context.Context, addr string) (Sample, error)
	// Changed is called after every change of the status; it must not block. It may be nil.
	Changed func(Status)
}

// Status is what the box knows of the time.
type Status struct {
	Certainty Certainty
	Text      string        // for an owner
	Offset    time.Duration // found at the last synchronisation
	Bound     time.Duration // of the error now; 0 if unknown
	LastSync  time.Time     // zero before the first in this run
	Servers   []string      // that agreed
}

// Clock disciplines the machine's clock while its Run runs.
type Clock struct {
	opt   Options
	floor time.Time
	poke  chan struct{}

	// Of the goroutine that runs Run.
	targets  []target
	away     map[string]time.Time // servers not to ask before
	interval time.Duration
	failures int
	pending  []time.Duration // offsets too large to slew, found in a row
	saved    time.Time       // by the wall clock
	honest   bool            // the clock comes from the floor or agreeing servers, so that it may be saved

	mu       sync.Mutex
	start    Certainty     // from before this run
	rtc      bool          // start is a battery-backed clock's
	synced   time.Time     // last synchronisation, by the monotonic clock
	agreed   time.Time     // last one by several servers
	bound    time.Duration // then
	offset   time.Duration
	servers  []string
	trouble  string // why the last poll set nothing; a sentence
	reported Status
}

type target struct{ name, addr string }

// New returns a clock. It reads the last known time.
func New(opt Options) *Clock {
	c := &Clock{opt: opt, poke: make(chan struct{}, 1), away: map[string]time.Time{}, interval: minPoll}
	if opt.Query == nil {
		c.opt.Query = queryNTP
	}
	last := time.Time{}
	if opt.File != "" {
		var err error
		if last, err = clock.LoadLast(opt.File); err != nil {
			opt.Log.Warn("the last known time is lost", "err", err)
		}
	}
	c.floor, _ = clock.Floor(opt.Build, last, time.Time{})
	c.saved = last
	c.judge()
	return c
}

// judge finds out where the present time came from.
func (c *Clock) judge() {
	now := c.opt.Kernel.Now()
	_, why := clock.Floor(c.floor, time.Time{}, now)
	synced, bound, err := c.opt.Kernel.Synced()
	switch up, uerr := c.opt.Kernel.Uptime(); {
	case err == nil && synced && !now.Before(c.floor):
		c.start, c.bound, c.honest = Kept, bound, true
	case uerr == nil && why == clock.Running && now.Add(-up).After(c.floor.Add(10*time.Minute)):
		// At boot it was well after the floor, so something kept it running.
		c.start, c.rtc = Kept, true
	default:
		c.start, c.honest = Unsure, why != clock.Ahead
	}
}

// Poke has the servers asked soon, for the network has changed.
func (c *Clock) Poke() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Status returns the present state.
func (c *Clock) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status(time.Now())
}

func (c *Clock) status(now time.Time) Status {
	s := Status{Certainty: c.start, Bound: c.bound, Offset: c.offset, Servers: slices.Clone(c.servers)}
	ago := now.Sub(c.synced)
	if !c.synced.IsZero() {
		s.Certainty = Kept
		s.LastSync = c.opt.Kernel.Now().Add(-ago).Round(0)
		s.Bound += time.Duration(float64(ago) * drift)
		if !c.agreed.IsZero() && now.Sub(c.agreed) < sureFor {
			s.Certainty = Sure
		}
	}
	later := " Croft checks it again as soon as it reaches time servers."
	switch {
	case s.Certainty == Sure && len(s.Servers) > 1:
		s.Text = fmt.Sprintf("The clock is right: %d time servers agree.", len(s.Servers))
	case s.Certainty == Sure:
		s.Text = "The clock is right, by the time server that you chose."
	case !c.agreed.IsZero():
		s.Text = "The clock was right " + hours(now.Sub(c.agreed)) + " ago and is probably still right to within a second." + later
	case !c.synced.IsZero():
		s.Text = "The clock was set by a single time server, so it is probably right. Croft asks others as soon as it reaches them."
	case s.Certainty == Kept && c.rtc:
		s.Text = "The time comes from the battery-backed clock in this box; it is probably right." + later
	case s.Certainty == Kept:
		s.Text = "The clock was right earlier and is probably still right." + later
	default:
		s.Text = "This box doesn't know the time yet: it reached no time servers, so it goes on from the last time that it knew. " +
			"What works at home keeps working. Connect it to the internet to set the clock."
	}
	if c.trouble != "" && s.Certainty != Sure {
		s.Text += " " + c.trouble
	}
	return s
}

func hours(d time.Duration) string {
	switch h := int(d.Round(time.Hour) / time.Hour); {
	case h >= 48:
		return fmt.Sprintf("%d days", h/24)
	case h != 1:
		return fmt.Sprintf("%d hours", h)
	}
	return "an hour"
}

// Run disciplines the clock until ctx ends, then saves the time.
func (c *Clock) Run(ctx context.Context) error {
	defer c.save(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	var quiet time.Time // no poll before, however often the network changes
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.poke:
			c.failures, c.targets = 0, nil
			timer.Reset(max(0, time.Until(quiet)))
			continue
		case <-save.C:
			c.save(time.Minute)
			c.publish()
			continue
		case <-timer.C:
		}
		next := c.poll(ctx)
		quiet = time.Now().Add(min(next, minPoll))
		if c.failures > 0 {
			quiet = time.Now().Add(pokeWait)
		}
		c.publish()
		timer.Reset(time.Duration(float64(next) * (0.95 + 0.1*rand.Float64())))
	}
}

func (c *Clock) publish() {
	c.mu.Lock()
	s := c.status(time.Now())
	changed := s.Certainty != c.reported.Certainty || s.Text != c.reported.Text
	c.reported = s
	c.mu.Unlock()
	if changed && c.opt.Changed != nil {
		c.opt.Changed(s)
	}
}

// save writes the last known time if it is known and moved by at least least.
func (c *Clock) save(least time.Duration) {
	now := c.opt.Kernel.Now()
	if c.opt.File == "" || !c.honest || now.Before(c.floor) || now.Sub(c.saved) < max(least, time.Second) {
		return
	}
	if err := clock.SaveLast(c.opt.File, now); err != nil {
		c.opt.Log.Warn("can't save the time", "err", err)
		return
	}
	c.saved = now
}

// poll asks the servers once, sets the clock, and returns the time until the next poll.
func (c *Clock) poll(ctx context.Context) time.Duration {
	samples, chosen := c.ask(ctx)
	if ctx.Err() != nil {
		return minPoll
	}
	if len(samples) == 0 {
		return c.failed("")
	}
	sel, ok := choose(samples)
	if !ok {
		return c.failed("The time servers disagree with each other, so Croft didn't follow any of them.")
	}
	few := len(sel.servers) < 2 && !chosen
	now := c.opt.Kernel.Now()
	then := now.Add(sel.offset)
	if then.Before(c.floor) || !clock.Plausible(c.opt.Build, then) {
		c.opt.Log.Warn("the time servers' time can't be right", "time", then.UTC().Format(time.RFC3339), "servers", sel.servers)
		return c.failed("The time servers gave a time that can't be right, so Croft didn't use it.")
	}
	c.mu.Lock()
	better := !c.agreed.IsZero()
	first := c.synced.IsZero() || (!better && !few) // what one server said yields to what several agree on
	c.mu.Unlock()
	if few && better { // one server doesn't overrule several
		return c.failed("")
	}
	step, wait := c.mustStep(sel.offset, first && !(c.start == Kept && !c.rtc))
	if wait {
		return confirmAfter
	}
	c.interval = min(c.interval*2, maxPoll)
	if step || first || few {
		c.interval = minPoll
	}
	if err := c.set(sel, step); err != nil {
		c.opt.Log.Error("can't set the clock", "err", err)
		return c.failed("Croft is not allowed to set the clock.")
	}
	c.failures, c.pending = 0, nil
	c.honest = !few
	mono := time.Now()
	c.mu.Lock()
	c.synced, c.offset, c.bound, c.servers, c.trouble = mono, sel.offset, sel.bound, sel.servers, ""
	if !few {
		c.agreed = mono
	}
	c.mu.Unlock()
	if first || step {
		c.opt.Log.Info("clock synchronised", "offset", sel.offset.String(), "step", step, "servers", sel.servers)
		c.save(time.Minute)
	}
	return c.interval
}

// mustStep decides between stepping and slewing. The first time any larger offset is stepped; later only one that
// several polls in a row confirm, and until then the clock waits.
func (c *Clock) mustStep(offset time.Duration, first bool) (step, wait bool) {
	switch {
	case first:
		return offset.Abs() > firstStep, false
	case offset.Abs() <= stepAbove:
		return false, false
	}
	if n := len(c.pending); n > 0 && (offset-c.pending[n-1]).Abs() > stepAbove/2 {
		c.pending = nil
	}
	c.pending = append(c.pending, offset)
	return true, len(c.pending) < confirmPolls
}

func (c *Clock) set(sel selection, step bool) error {
	if step {
		if err := c.opt.Kernel.Step(sel.offset); err != nil {
			return err
		}
		return c.opt.Kernel.Slew(0, sel.bound, c.interval)
	}
	return c.opt.Kernel.Slew(sel.offset, sel.bound, c.interval)
}

func (c *Clock) failed(trouble string) time.Duration {
	c.mu.Lock()
	c.trouble = trouble
	c.mu.Unlock()
	c.targets, c.interval = nil, minPoll
	d := min(firstRetry<<min(c.failures, 10), maxRetry)
	c.failures++
	return d
}

// ask queries the present targets, all at once.
func (c *Clock) ask(ctx context.Context) (samples []Sample, chosen bool) {
	names, chosen := c.opt.Servers()
	ctx, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	if len(c.targets) == 0 {
		c.targets = c.resolve(ctx, names)
	}
	type answer struct {
		target
		Sample
		err error
	}
	answers := make(chan answer, len(c.targets))
	asked := 0
	now := time.Now()
	for _, t := range c.targets {
		if now.Before(c.away[t.addr]) {
			continue
		}
		asked++
		go func() {
			s, err := c.opt.Query(ctx, t.addr)
			s.Server = t.name
			answers <- answer{t, s, err}
		}()
	}
	fine := true
	for range asked {
		a := <-answers
		var kiss ErrKiss
		switch {
		case a.err == nil && a.Distance <= maxDistance && a.Distance >= 0:
			samples = append(samples, a.Sample)
			continue
		case errors.As(a.err, &kiss):
			c.opt.Log.Info("a time server asked to stay away", "server", a.name, "code", kiss.Code)
			if len(c.away) > 100 {
				clear(c.away)
			}
			c.away[a.addr] = now.Add(denied)
			if kiss.Code == "RATE" {
				c.away[a.addr] = now.Add(maxRetry)
			}
		default:
			c.opt.Log.Debug("no answer from a time server", "server", a.name, "err", a.err)
		}
		fine = false
	}
	if !fine {
		c.targets = nil // other addresses next time
	}
	slices.SortFunc(samples, func(a, b Sample) int { return int(a.Distance - b.Distance) })
	return samples, chosen
}

// resolve turns names into at most maxTargets addresses, one of each name in turn.
func (c *Clock) resolve(ctx context.Context, names []string) []target {
	lists := make([][]netip.Addr, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		if a, err := netip.ParseAddr(n); err == nil {
			lists[i] = []netip.Addr{a}
			continue
		}
		wg.Go(func() {
			rctx, cancel := context.WithTimeout(ctx, queryTimeout)
			defer cancel()
			addrs, err := c.opt.Resolve(rctx, n)
			if err != nil {
				c.opt.Log.Debug("can't look up a time server", "server", n, "err", err)
			}
			lists[i] = addrs[:min(len(addrs), maxTargets)]
		})
	}
	wg.Wait()
	var out []target
	seen := map[netip.Addr]bool{}
	for round := range maxTargets {
		for i, l := range lists {
			if round < len(l) && len(out) < maxTargets && !seen[l[round]] {
				seen[l[round]] = true
				out = append(out, target{names[i], l[round].String()})
			}
		}
	}
	return out
}

// queryNTP asks the server at an address once.
func queryNTP(ctx context.Context, addr string) (Sample, error) {
	timeout := queryTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	if timeout <= 0 {
		return Sample{}, context.DeadlineExceeded
	}
	r, err := ntp.QueryWithOptions(addr, ntp.QueryOptions{Timeout: timeout, Dialer: func(_, remote string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", remote)
	}})
	if err != nil {
		return Sample{}, fmt.Errorf("ask %s: %w", addr, err)
	}
	if r.IsKissOfDeath() {
		return Sample{}, ErrKiss{r.KissCode}
	}
	if err := r.Validate(); err != nil {
		return Sample{}, fmt.Errorf("answer of %s: %w", addr, err)
	}
	return Sample{Offset: r.ClockOffset, Distance: r.RootDistance, Stratum: int(r.Stratum)}, nil
}
