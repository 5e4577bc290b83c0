package discipline

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/clock/ntptest"
)

const labEnv = "CROFT_CLOCK_LAB"

// ntpServer serves the machine's time plus ahead, or a kiss, until the test ends.
func ntpServer(t *testing.T, addr string, ahead time.Duration, kiss string) {
	c, err := net.ListenPacket("udp", addr+":123")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go ntptest.Serve(c, ahead, kiss)
}

// labKernel notes what would be done to the clock.
type labKernel struct {
	Kernel
	done chan string
}

func (k *labKernel) Synced() (bool, time.Duration, error) { return false, 0, nil }

func (k *labKernel) Step(d time.Duration) error {
	k.done <- fmt.Sprintf("step %v", d.Round(time.Minute))
	return nil
}

func (k *labKernel) Slew(d, _, _ time.Duration) error {
	k.done <- fmt.Sprintf("slew %v", d.Round(10*time.Millisecond))
	return nil
}

// TestLabNTP asks real servers over real sockets, on the loopback interface of a network namespace of its own.
func TestLabNTP(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if os.Getenv(labEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), labEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tests := []struct {
		name  string
		ahead []time.Duration // of each server; kissOff for one that refuses
		want  []string
		agree int
	}{
		{"all right", []time.Duration{0, 0, 0, 0}, []string{"slew 0s"}, 4},
		{"an hour behind", []time.Duration{time.Hour, time.Hour, time.Hour, time.Hour}, []string{"step 1h0m0s", "slew 0s"}, 4},
		{"a liar", []time.Duration{0, 0, 48 * time.Hour, 0}, []string{"slew 0s"}, 3},
		{"one refuses", []time.Duration{0, 0, kissOff, 0}, []string{"slew 0s"}, 3},
		{"no two agree", []time.Duration{0, time.Hour, 2 * time.Hour, kissOff}, nil, 0},
	}
	for n, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var names []string
			for i, a := range tt.ahead {
				addr := fmt.Sprintf("127.0.%d.%d", n+1, i+1)
				names = append(names, addr)
				if a == kissOff {
					ntpServer(t, addr, 0, "DENY")
				} else {
					ntpServer(t, addr, a, "")
				}
			}
			k := &labKernel{NewKernel(), make(chan string, 10)}
			polled := make(chan Status, 10)
			var log strings.Builder
			c := New(Options{
				Log: slog.New(slog.NewTextHandler(&log, nil)), Kernel: k, Build: date(2026),
				File:    filepath.Join(t.TempDir(), "clock.json"),
				Servers: func() ([]string, bool) { return names, false },
				Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, nil },
				Changed: func(s Status) { polled <- s },
			})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); c.Run(ctx) }()
			defer func() { cancel(); <-ended }()
			select {
			case s := <-polled:
				if got := len(s.Servers); got != tt.agree || (s.Certainty == Sure) != (tt.agree > 0) {
					t.Errorf("status %+v\n%s", s, log.String())
				}
			case <-time.After(20 * time.Second):
				t.Fatal("no outcome")
			}
			for _, want := range tt.want {
				if got := <-k.done; got != want {
					t.Errorf("did %s, want %s", got, want)
				}
			}
			if len(k.done) > 0 {
				t.Errorf("also did %s", <-k.done)
			}
		})
	}
}

const kissOff = time.Duration(1)
