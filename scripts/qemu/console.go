package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

// Limits on what a guest may say: longer lines are cut into several, older ones forgotten.
const (
	maxLine  = 4096
	maxLines = 50000
)

// ErrConsoleClosed is returned when the machine ended before it said what was waited for.
var ErrConsoleClosed = errors.New("the machine ended")

// Console is what a guest writes to its serial line, kept line by line.
type Console struct {
	mu      sync.Mutex
	lines   []string
	dropped int // lines forgotten
	closed  bool
	changed chan struct{} // closed at every change
}

// escapes are terminal control sequences (ECMA-48) and carriage returns.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b[()][0-9A-B]|\x1b[=>78cM]|\r`)

func newConsole() *Console { return &Console{changed: make(chan struct{})} }

// read takes in r until it ends; each finished line goes to raw and, without control sequences, to log.
func (c *Console) read(r io.Reader, raw io.Writer, log func(string)) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		b, err := br.ReadSlice('\n')
		if len(b) > 0 {
			if raw != nil {
				raw.Write(b) // a full disk must not stop the guest
			}
			line := strings.TrimRight(escapes.ReplaceAllString(string(b), ""), "\n ")
			c.add(line)
			if log != nil && line != "" {
				log(line)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	close(c.changed)
}

func (c *Console) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, line)
	if len(c.lines) > maxLines {
		n := len(c.lines) - maxLines/2
		c.lines = append([]string(nil), c.lines[n:]...)
		c.dropped += n
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// Mark returns the number of lines so far, to wait for something that comes after.
func (c *Console) Mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped + len(c.lines)
}

// Wait waits until a line at or after mark matches re, and returns what the expression's groups matched, the whole match
// first.
func (c *Console) Wait(ctx context.Context, mark int, re *regexp.Regexp) ([]string, error) {
	for {
		c.mu.Lock()
		from := max(0, mark-c.dropped)
		lines := c.lines[min(from, len(c.lines)):]
		mark = c.dropped + len(c.lines)
		changed, closed := c.changed, c.closed
		c.mu.Unlock()
		for _, l := range lines {
			if m := re.FindStringSubmatch(l); m != nil {
				return m, nil
			}
		}
		if closed {
			return nil, fmt.Errorf("console, waiting for %q: %w", re, ErrConsoleClosed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("console, waiting for %q: %w", re, context.Cause(ctx))
		}
	}
}

// Tail returns the last n lines.
func (c *Console) Tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines[max(0, len(c.lines)-n):], "\n")
}
