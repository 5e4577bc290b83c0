package supervisor

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"time"
)

// reapEvery is how long an ended process may stay uncollected before it counts as an orphan.
const reapEvery = 30 * time.Second

// Reap collects orphans, for a program that is PID 1, until ctx ends. It leaves the children of os/exec alone: those
// are collected at once by whoever waits for them, so that only what is still there at the second look is an orphan.
func Reap(ctx context.Context, log *slog.Logger) { reap(ctx, log, reapEvery) }

func reap(ctx context.Context, log *slog.Logger, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	var before map[int]string
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := zombies()
		for pid, started := range now {
			if before[pid] != started {
				continue
			}
			var ws syscall.WaitStatus
			if got, err := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil); err == nil && got == pid {
				log.Debug("orphan collected", "pid", pid)
				delete(now, pid)
			}
		}
		before = now
	}
}

// zombies returns the ended and uncollected children of this process with the time of their start, from
// /proc/PID/stat (proc(5)).
func zombies() map[int]string {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	me := []byte(strconv.Itoa(os.Getpid()))
	found := map[int]string{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // state, ppid, …, starttime is field 22
		if len(f) > 19 && f[0][0] == 'Z' && bytes.Equal(f[1], me) {
			found[pid] = string(f[19])
		}
	}
	return found
}
