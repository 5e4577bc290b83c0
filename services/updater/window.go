package updater

import (
	"errors"
	"fmt"
	"time"

	"github.com/croft-os/croft/services/api"
)

// The window of who chose none.
const (
	defaultFrom = "02:00"
	defaultTo   = "05:00"
)

const (
	// unsureFor is how long after the start a clock that nobody vouches for holds a restart off.
	unsureFor = 24 * time.Hour
	// maxJitter spreads the restarts of many boxes over the beginning of their windows.
	maxJitter = 30 * time.Minute
)

// window is when the box may restart by itself, as minutes of the day.
type window struct{ from, to int }

func parseWindow(p api.UpdatePolicy) (window, error) {
	minutes := func(s, zero string) (int, error) {
		if s == "" {
			s = zero
		}
		t, err := time.Parse("15:04", s)
		if err != nil || len(s) != 5 {
			return 0, fmt.Errorf("%q is no time of the day, such as 02:00", s)
		}
		return t.Hour()*60 + t.Minute(), nil
	}
	from, err := minutes(p.From, defaultFrom)
	if err != nil {
		return window{}, err
	}
	to, err := minutes(p.To, defaultTo)
	if err != nil {
		return window{}, err
	}
	if from == to {
		return window{}, errors.New("the window has no length")
	}
	return window{from, to}, nil
}

// next returns when the window opens and closes that contains t, or else the first one after t, in t's time zone. A window that
// a change of summer time leaves no room for does not count; one whose end it skips ends where the clock goes on.
func (w window) next(t time.Time) (opens, closes time.Time) {
	y, m, d := t.Date()
	for day := -1; ; day++ {
		// time.Date takes a time that is skipped for one as far after it, so that both ends stay in order.
		opens = time.Date(y, m, d+day, 0, w.from, 0, 0, t.Location())
		end := day
		if w.to < w.from {
			end++
		}
		closes = time.Date(y, m, d+end, 0, w.to, 0, 0, t.Location())
		if t.Before(closes) && opens.Before(closes) {
			return opens, closes
		}
	}
}

// restartAt says when to restart by itself: now in the window, else some time after it opens.
func (w window) restartAt(now time.Time, jitter float64) time.Time {
	opens, closes := w.next(now)
	if !now.Before(opens) {
		return now
	}
	return opens.Add(time.Duration(jitter * float64(min(maxJitter, closes.Sub(opens)/4))))
}
