package main

import (
	"fmt"
	"io"
	"time"

	"github.com/croft-os/croft/image/flash"
)

// progress shows how far something is: on a terminal one line that changes, else a line for each tenth.
type progress struct {
	w     io.Writer
	tty   bool
	title string
	start time.Time
	shown time.Time
	tenth int64
}

func newProgress(w io.Writer, title string) *progress {
	return &progress{w: w, tty: terminal(w) != nil, title: title, start: time.Now()}
}

// show is told the bytes done so far, and of how many; 0 if that is not known.
func (p *progress) show(done, total int64) {
	now := time.Now()
	switch {
	case p.tty && (done == total || now.Sub(p.shown) > 200*time.Millisecond):
		p.shown = now
		fmt.Fprintf(p.w, "\r\x1b[K%s", p.line(done, total, now))
	case !p.tty && total > 0 && done*10/total != p.tenth:
		p.tenth = done * 10 / total
		fmt.Fprintln(p.w, p.line(done, total, now))
	}
}

// end leaves the line.
func (p *progress) end() {
	if p.tty && !p.shown.IsZero() {
		fmt.Fprintln(p.w)
		p.shown = time.Time{}
	}
}

func (p *progress) line(done, total int64, now time.Time) string {
	line := p.title + ": " + flash.Bytes(done)
	if total > 0 {
		line += fmt.Sprintf(" of %s, %d %%", flash.Bytes(total), done*100/total)
	}
	took := now.Sub(p.start)
	if took < time.Second {
		return line
	}
	rate := float64(done) / took.Seconds()
	line += fmt.Sprintf(", %.1f MB/s", rate/1e6)
	if total > done && rate > 0 {
		line += fmt.Sprintf(", %s left", time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
	}
	return line
}
