// Package updater is the room of signed updates: trust, fetching, slots, trial and rollback. Nothing of it is built yet.
// What it will write by is: package hardware/layout says where the two slots are, and an image fills only slot A, so
// that no layout has to change.
package updater
