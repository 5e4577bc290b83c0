// Package browser judges the web UI with a real browser: Playwright drives Debian's Chromium over the pages, on a
// phone's screen and on a desk's, and axe-core looks for what people with disabilities would stumble over.
//
// The tests are in *.spec.js. Those tagged @box need nothing but CROFT_URL and CROFT_CODE of a box that nobody has claimed
// and so run on the booted image too (the story of a household uses the code up, and starts over at its end); the others change the state of the box through CROFT_CONTROL, which only this package's
// own test server has (the real core and web UI, with fakes in place of PID 1, the network service and discovery).
//
// Limits: Chromium only. Needs node, npm and chromium; npm fetches the pinned packages when they are not there.
package browser

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Options say what to test.
type Options struct {
	Dir     string // of this package
	URL     string // base URL of the box, such as "http://127.0.0.1:8080"; a name in it needs Addr
	Addr    string // the same by address, if URL has a name that this machine can't resolve
	Code    string // its claim code
	Control string // base URL of the test server's control; empty for a real box, which runs the tests tagged @box
	Grep    string // which tests; empty means all, and of a real box those tagged @box
	Project string // which of playwright.config.js's screens; empty means all
	Out     string // directory for screenshots and what a failed test leaves
	Output  io.Writer
}

// Run runs the tests and returns an error if one failed.
func Run(ctx context.Context, o Options) error {
	if err := install(ctx, o); err != nil {
		return err
	}
	args := []string{"test", "--output", filepath.Join(o.Out, "failed", o.Project)}
	if o.Control == "" {
		o.Grep = cmp.Or(o.Grep, "@box")
	}
	if o.Grep != "" {
		args = append(args, "--grep", o.Grep)
	}
	if o.Project != "" {
		args = append(args, "--project", o.Project)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(o.Dir, "node_modules", ".bin", "playwright"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.Dir, o.Output, o.Output
	cmd.Env = append(os.Environ(), "CROFT_URL="+o.URL, "CROFT_ADDR="+o.Addr, "CROFT_CODE="+o.Code, "CROFT_CONTROL="+o.Control, "CROFT_SCREENS="+o.Out)
	// Playwright ends its browsers on SIGINT.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("playwright: %w", err)
	}
	return nil
}

// Weight is how heavy a page is, with all that belongs to it and an empty cache.
type Weight struct {
	Requests   int     `json:"requests"`
	Bytes      int64   `json:"bytes"` // over the wire
	FirstPaint float64 `json:"first_paint_ms"`
	Live       float64 `json:"live_ms"` // until the first live data came; 0 on pages without
	Slow       *Weight `json:"slow"`    // the same on a slow phone: a sixth of this machine's speed, 400 kbit/s, 400 ms
}

// Measure weighs the gate of a box that nobody has claimed, claims and sets it up, and weighs its start page.
func Measure(ctx context.Context, o Options) (gate, home Weight, err error) {
	if err := install(ctx, o); err != nil {
		return gate, home, err
	}
	cmd := exec.CommandContext(ctx, "node", "measure.js")
	cmd.Dir, cmd.Stderr = o.Dir, o.Output
	cmd.Env = append(os.Environ(), "CROFT_URL="+o.URL, "CROFT_ADDR="+o.Addr, "CROFT_CODE="+o.Code)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.Output()
	if err != nil {
		return gate, home, fmt.Errorf("measure.js: %w", err)
	}
	var v struct{ Gate, Home Weight }
	if err := json.Unmarshal(out, &v); err != nil || v.Gate.Slow == nil || v.Home.Slow == nil {
		return gate, home, fmt.Errorf("measure.js said %q: %w", out, err)
	}
	return v.Gate, v.Home, nil
}

// install makes node_modules what package-lock.json says, once for all who ask at the same time.
func install(ctx context.Context, o Options) error {
	lock, err := os.Open(filepath.Join(o.Dir, "package-lock.json"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock package-lock.json: %w", err)
	}
	b, err := io.ReadAll(lock)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	want := hex.EncodeToString(sum[:])
	stamp := filepath.Join(o.Dir, "node_modules", ".croft-lock")
	if have, err := os.ReadFile(stamp); err == nil && strings.TrimSpace(string(have)) == want {
		return nil
	}
	cmd := exec.CommandContext(ctx, "npm", "ci")
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.Dir, o.Output, o.Output
	cmd.Env = append(os.Environ(), "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm ci: %w", err)
	}
	return os.WriteFile(stamp, []byte(want+"\n"), 0o644)
}
