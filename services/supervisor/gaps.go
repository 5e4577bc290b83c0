package supervisor

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/sandbox"
)

// findGaps asks the running kernel for everything that a sandbox and its limits are made of.
func findGaps(c *cgroups) []api.Gap {
	var gaps []api.Gap
	gap := func(weight, name, text, detail string) {
		gaps = append(gaps, api.Gap{Name: name, Text: text, Detail: detail, Weight: weight})
	}
	lacks := func(file, controller string) (string, bool) {
		switch {
		case c == nil:
			return "no cgroup v2 hierarchy", true
		case c.has[file]:
			return "", false
		case c.why[controller] != nil:
			return fmt.Sprintf("no %s: enabling the controller: %v", file, c.why[controller]), true
		default:
			return "the controller is there, but without " + file, true
		}
	}
	if d, yes := lacks(memoryMax, "memory"); yes {
		gap("warn", "memory-limit",
			"Memory limits are watched twice a second instead of being enforced: a service that runs wild can slow "+
				"the box down for a moment before it is ended.", d)
	}
	if d, yes := lacks(cpuMax, "cpu"); yes {
		text := "A busy service can use all of the processor and slow down the others."
		if c != nil && c.has[cpuWeight] {
			text = "A busy service can use all that the others leave of the processor."
		}
		gap("info", "cpu-limit", text, d)
	}
	if d, yes := lacks(pidsMax, "pids"); yes {
		gap("info", "process-limit",
			"The number of processes is limited per user instead of per service, which does the same here.", d)
	}
	if d, yes := lacks(ioWeight, "io"); yes {
		gap("info", "io-weight", "A service that reads or writes a lot can slow down the others.", d)
	}
	abi := sandbox.LandlockABI()
	detail := fmt.Sprintf("Landlock ABI %d", abi)
	switch {
	case abi == 0:
		gap("warn", "landlock",
			"One of two walls around files is missing: services are kept apart by their own view of the disk only.",
			"landlock_create_ruleset: not supported or not enabled")
	case abi < 6:
		gap("warn", "landlock-scope",
			"Services that use the network can speak to one another by ways that are not checked.", detail)
	}
	if !sandbox.SeccompSupported() {
		gap("warn", "seccomp",
			"Services can ask the kernel for anything, not only for what they need.", "seccomp: not supported")
	}
	var missing []string
	for name := range optionalNamespaces {
		if !hasNamespace(name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		gap("warn", "namespaces", "Services can see parts of one another.",
			"missing namespaces: "+strings.Join(missing, ", "))
	}
	detail = ""
	if !hasNamespace("user") {
		detail = "no /proc/self/ns/user"
	} else if b, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(b)) == "0" {
		detail = "max_user_namespaces is 0"
	}
	if detail != "" {
		gap("info", "user-namespaces", "Apps that need users of their own inside can't run here.", detail)
	}
	return gaps
}
