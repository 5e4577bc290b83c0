package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/publish/publishtest"
)

// TestPowerCutsInUpdate records a whole update of a box, from the offer to the commit, and boots disks that power cuts at random
// moments could have left, through firmware and boot loader: every one comes up with the old or the new release, with its
// household, and goes on by itself. It runs with CROFT_SOAK set to how many of them to boot.
func TestPowerCutsInUpdate(t *testing.T) {
	t.Parallel()
	boots, err := strconv.Atoi(os.Getenv("CROFT_SOAK"))
	if err != nil || boots < 1 {
		t.Skip("takes long; \"make soak\" has it")
	}
	p := publishtest.New(t, publishtest.Options{})
	r := add(t, p, good, 2)
	settle(t)
	const size = 1 << 30
	base, err := faults.LoadDisk(settled.disk, size)
	if err != nil {
		t.Fatal(err)
	}
	rec := &faults.Recorder{Device: base.Fork()}
	dir := t.TempDir()
	vars := filepath.Join(dir, "vars.fd")
	if _, err := run(t.Context(), "cp", settled.vars, vars); err != nil {
		t.Fatal(err)
	}
	nic := mirror(t, p.Handler())
	b := signedIn(t, qemu.Options{Board: qemu.PC, Disks: []qemu.Disk{{NBD: serve(t, rec)}}, NICs: []qemu.NIC{nic}, Vars: vars, Watchdog: true})
	b.follow(p)
	from := len(rec.Events())
	snaps := watchVars(t, vars, func() int { return len(rec.Events()) })
	got := b.update(2)
	if got.Outcome != api.UpdateKept {
		t.Fatalf("the update was not kept: %+v", got)
	}
	b.off()
	events := rec.Events()
	t.Logf("recorded %d events, the update's from %d on; the firmware's variables changed %d times", len(events), from, len(snaps())-1)

	const seed = 20261122
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range boots {
		at := from + (len(events)-from)*i/boots + rng.IntN((len(events)-from)/boots+1)
		t.Run(fmt.Sprintf("boot after %d", at), func(t *testing.T) {
			t.Parallel()
			d, err := faults.Crash(rand.New(rand.NewPCG(seed, uint64(at))), base, events, at)
			if err != nil {
				t.Fatal(err)
			}
			vars := filepath.Join(t.TempDir(), "vars.fd")
			if err := os.WriteFile(vars, snaps.at(at), 0o600); err != nil {
				t.Fatal(err)
			}
			b := signedIn(t, qemu.Options{Board: qemu.PC, Disks: []qemu.Disk{{NBD: serve(t, d)}}, NICs: []qemu.NIC{nic}, Vars: vars, Watchdog: true})
			s := b.waitState("everything runs", 3*time.Minute, running)
			if s.System.Slot == "b" && s.System.Version != r.Version || s.System.Slot == "a" && s.System.Version == r.Version {
				t.Errorf("slot %s runs %s", s.System.Slot, s.System.Version)
			}
			var c api.Config
			b.api("GET", "/config", nil, &c, 200)
			if len(c.People) != 1 || len(c.Updates.Mirrors) != 1 {
				t.Errorf("the household is not what it was: %+v", c)
			}
			b.updates("the updates go on", 2*time.Minute, func(u api.Updates) error {
				if u.State == api.UpdateRestarting || u.State == "" {
					return fmt.Errorf("state %q", u.State)
				}
				return nil
			})
			t.Logf("slot %s runs %s", s.System.Slot, s.System.Version)
		})
	}
}

// snapshot is the content of the firmware's variables from an event on.
type snapshot struct {
	from int
	vars []byte
}

type snapshots func() []snapshot

// at is what the variables were after n events.
func (s snapshots) at(n int) []byte {
	all := s()
	vars := all[0].vars
	for _, x := range all {
		if x.from <= n {
			vars = x.vars
		}
	}
	return vars
}

// watchVars keeps what the file of variables holds whenever it changes.
func watchVars(t *testing.T, path string, events func() int) snapshots {
	t.Helper()
	var mu sync.Mutex
	var all []snapshot
	look := func() {
		n := events()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if len(all) == 0 || !bytes.Equal(all[len(all)-1].vars, b) {
			all = append(all, snapshot{n, b})
		}
	}
	look()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
			look()
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() []snapshot {
		mu.Lock()
		defer mu.Unlock()
		return append([]snapshot(nil), all...)
	}
}
