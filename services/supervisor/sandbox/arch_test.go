package sandbox

import (
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// TestEveryArchitecture checks by number that what nothing works without is allowed on both architectures, whatever the
// library's tables call it.
func TestEveryArchitecture(t *testing.T) {
	for _, tt := range []struct {
		info    *arch.Info
		numbers map[string]int // asm/unistd_64.h, asm-generic/unistd.h
	}{
		{arch.X86_64, map[string]int{"read": 0, "openat": 257, "newfstatat": 262, "pread64": 17, "fsync": 74, "unlinkat": 263, "statx": 332}},
		{arch.AARCH64, map[string]int{"read": 63, "openat": 56, "newfstatat": 79, "pread64": 67, "fsync": 82, "unlinkat": 35, "statx": 291}},
	} {
		var allowed []int
		for _, g := range (&Spec{}).policy(tt.info).Syscalls {
			for _, name := range g.Names {
				allowed = append(allowed, tt.info.SyscallNames[name])
			}
		}
		for name, n := range tt.numbers {
			if !slices.Contains(allowed, n) {
				t.Errorf("%s: %s, number %d, is refused", tt.info.Name, name, n)
			}
		}
	}
}
