// Command apply makes a part of a release from files, with the code that boxes have, and prints how long that took and how much
// memory. It is a program of its own because only a process's peak counts all of it.
//
//	apply copy|patch|frames BASE BLOB OUT <PART
//
// PART is the part's description (docs/release-format.md, section "A release"); a patch is the first one in it. The figures are
// JSON: "seconds" of wall time, "cpu" seconds, "peak" bytes of resident memory (VmHWM in proc_pid_status(5)), program and all.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/release"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "apply:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) != 4 {
		return errors.New("usage: apply copy|patch|frames BASE BLOB OUT <PART")
	}
	var part release.Part
	if err := json.NewDecoder(stdin).Decode(&part); err != nil {
		return fmt.Errorf("read the description: %w", err)
	}
	var way delta.Way
	switch {
	case args[0] == "copy":
		way.Copy = true
	case args[0] == "patch" && len(part.Patches) > 0:
		way.Patch = &part.Patches[0]
	case args[0] != "frames":
		return fmt.Errorf("no way %q", args[0])
	}
	base, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer base.Close()
	out, err := os.Create(args[3])
	if err != nil {
		return err
	}
	defer out.Close()
	open := func(string) (io.ReaderAt, int64, error) {
		f, err := os.Open(args[2])
		if err != nil {
			return nil, 0, err
		}
		fi, err := f.Stat()
		if err != nil {
			return nil, 0, err
		}
		return f, fi.Size(), nil
	}
	start := time.Now()
	if err := delta.Apply(context.Background(), part, way, base, open, out); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	took := time.Since(start)
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return fmt.Errorf("getrusage: %w", err)
	}
	peak, err := peak()
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(map[string]float64{
		"seconds": took.Seconds(), "cpu": float64(use.Utime.Nano()+use.Stime.Nano()) / 1e9, "peak": float64(peak),
	})
}

// peak is the most memory in bytes that this process has had.
func peak() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}
