//go:build !race

package updater

// raceEnabled tells whether the race detector takes memory, too.
const raceEnabled = false
