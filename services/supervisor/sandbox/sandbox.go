// Package sandbox confines a process: the stage between the supervisor's clone and the service's exec.
package sandbox

// Main runs stage 2 in a process that the supervisor started with Options.Launcher, and execs the service. It
// returns an exit code only if that failed. The program that calls it must be built without cgo.
func Main(args []string) int { return 70 }
