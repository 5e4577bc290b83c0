package supervisor

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// anonymous returns the bytes of memory of a process that no file stands behind, private, shared and swapped, from
// /proc/PID/status (proc(5)). It costs some 20 µs. A process that is gone has none.
func anonymous(pid string) int64 {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	var n int64
	for line := range strings.Lines(string(b)) {
		switch key, value, _ := strings.Cut(line, ":"); key {
		case "RssAnon", "RssShmem", "VmSwap":
			n += kilobytes(value)
		}
	}
	return n
}

// kilobytes returns the bytes that a value such as "  1234 kB" says.
func kilobytes(value string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}

// proportional returns the proportional set size of a process in bytes (proc(5), smaps_rollup), for which the kernel
// walks its page tables.
func proportional(pid string) int64 {
	f, err := os.Open("/proc/" + pid + "/smaps_rollup")
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), "Pss:"); ok {
			return kilobytes(rest)
		}
	}
	return 0
}
