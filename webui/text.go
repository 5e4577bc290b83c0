package webui

import (
	"fmt"
	"time"
)

// catalogue holds every sentence of one language by key. A key that ends in ".one" and ".other" is chosen by number.
type catalogue map[string]string

// s returns the sentence of a key, filled with args in the manner of fmt.
func (c catalogue) s(key string, args ...any) string {
	text, ok := c[key]
	if !ok {
		return key
	}
	if len(args) == 0 {
		return text
	}
	return fmt.Sprintf(text, args...)
}

// or returns the sentence of a key, or text if the catalogue has none: other services name what they report, and say
// it in English as well.
func (c catalogue) or(key, text string) string {
	if s, ok := c[key]; ok {
		return s
	}
	return text
}

// n returns the sentence of a key for a number, which is its argument.
func (c catalogue) n(key string, n int) string {
	if n == 1 {
		return c.s(key+".one", n)
	}
	return c.s(key+".other", n)
}

// duration says a length of time in its largest unit.
func (c catalogue) duration(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return c.s("time.moment")
	case d < 90*time.Second:
		return c.n("time.seconds", int(d/time.Second))
	case d < 90*time.Minute:
		return c.n("time.minutes", int((d+30*time.Second)/time.Minute))
	case d < 36*time.Hour:
		return c.n("time.hours", int((d+30*time.Minute)/time.Hour))
	default:
		return c.n("time.days", int((d+12*time.Hour)/(24*time.Hour)))
	}
}

// size says a number of bytes as people know it from cards and phones: GB with one decimal, below that MB.
func (c catalogue) size(n int64) string {
	if n >= 1e9 {
		return c.s("size.gb", float64(n)/1e9)
	}
	return c.s("size.mb", float64(n)/1e6)
}
