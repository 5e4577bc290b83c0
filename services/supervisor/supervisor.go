package supervisor

import (
	"context"
	"log/slog"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/journal"
)

// Options say what a Supervisor runs and where.
type Options struct {
	Services   []Service
	Log        *slog.Logger
	Journal    *journal.Journal // takes the output of the services; nil means a new one in memory
	StateRoot  string           // holds the state directories: /data/state, or a tmpfs in rescue mode
	RunDir     string           // holds sockets and runtime directories: /run/croft
	CgroupRoot string           // cgroup v2: /sys/fs/cgroup; "" means no cgroups
	Launcher   []string         // argv of a program that calls sandbox.Main: {"/gokrazy/init", "launch"}
	Hostname   string           // as services see it
}

// Supervisor runs services.
type Supervisor struct{}

// New checks the declarations: unique names and uids, known dependencies, no cycles.
func New(o Options) (*Supervisor, error) { return &Supervisor{}, nil }

// Run starts all services and keeps them running until ctx ends, then stops them in the reverse order of their
// dependencies, and returns when all have ended.
func (s *Supervisor) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Services returns the state of all services in the order of their declaration.
func (s *Supervisor) Services() []api.Service { return nil }

// Restart stops a service and starts it again, also one that had been given up on.
func (s *Supervisor) Restart(name string) error { return nil }

// Logs returns the last n log entries of a service, oldest first.
func (s *Supervisor) Logs(name string, n int) []journal.Entry { return nil }

// Healthy returns nil while every critical service is running and answers its watchdog; a service that starts or
// restarts counts as healthy for as long as it may take to become ready.
func (s *Supervisor) Healthy() error { return nil }

// Gaps returns what the running kernel can't enforce, found by trying.
func (s *Supervisor) Gaps() []api.Gap { return nil }

// Reap collects orphans, for a program that is PID 1, until ctx ends. It leaves the children of os/exec alone.
func Reap(ctx context.Context, log *slog.Logger) { <-ctx.Done() }
