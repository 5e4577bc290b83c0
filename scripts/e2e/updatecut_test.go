package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
)

// updateBooted is how many power cuts of an update are booted, unless CROFT_SOAK says how many.
const updateBooted = 10

// TestPowerCutsInUpdate has a box take up a good release, from the offer to the commit, and records what it writes. Then it boots disks
// that power cuts in all stages of that could have left, through firmware and boot loader: every one comes up with the old or the
// new release, with its household, and goes on by itself.
func TestPowerCutsInUpdate(t *testing.T) {
	t.Parallel()
	boots, err := strconv.Atoi(os.Getenv("CROFT_SOAK"))
	if err != nil || boots < 1 {
		boots = updateBooted
	}
	p := publishtest.New(t, publishtest.Options{})
	r := add(t, p, good, 2)
	settle(t)
	base, err := faults.LoadDisk(settled.disk, 0)
	if err != nil {
		t.Fatal(err)
	}
	end := base.Fork()
	rec := &faults.Recorder{Device: end}
	vars := filepath.Join(t.TempDir(), "vars.fd")
	if _, err := run(t.Context(), "cp", settled.vars, vars); err != nil {
		t.Fatal(err)
	}
	nic := mirror(t, p.Handler())
	machine := func(t *testing.T, d faults.Device, vars string) *box {
		t.Helper()
		return signedIn(t, qemu.Options{
			Board: qemu.PC, Disks: []qemu.Disk{{NBD: serve(t, d)}}, NICs: []qemu.NIC{nic}, Vars: vars, Watchdog: true, CPUs: 1,
		})
	}
	b := machine(t, rec, vars)
	b.follow(p)
	stages := []stage{{"offered", len(rec.Events())}}
	snaps := watchVars(t, vars, func() int { return len(rec.Events()) })
	got := b.update(2, func(state string) { stages = append(stages, stage{state, len(rec.Events())}) })
	if got.Outcome != api.UpdateKept || got.Cause != "" {
		t.Fatalf("the update was not kept: %+v", got)
	}
	b.takenUp(r)
	b.off()
	checkContent(t, end)
	events := rec.Events()
	t.Logf("recorded %d events, the update's stages from %v; the firmware's variables changed %d times", len(events), stages, len(snaps())-1)

	const seed = 20261122
	for i := range boots {
		at := len(events)
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		if i > 0 { // as many in each stage: some write much, some little
			s := i % len(stages)
			until := len(events)
			if s+1 < len(stages) {
				until = stages[s+1].from
			}
			at = stages[s].from + rng.IntN(until-stages[s].from+1)
		}
		t.Run(fmt.Sprintf("boot %d, after %d", i, at), func(t *testing.T) {
			t.Parallel()
			d, err := faults.Crash(rng, base, events, at)
			if err != nil {
				t.Fatal(err)
			}
			vars := filepath.Join(t.TempDir(), "vars.fd")
			if err := os.WriteFile(vars, snaps.at(at), 0o600); err != nil {
				t.Fatal(err)
			}
			b := machine(t, d, vars)
			s := b.waitState("everything runs", 3*time.Minute, running)
			if s.System.Slot == "b" && s.System.Version != r.Version || s.System.Slot == "a" && s.System.Version == r.Version {
				t.Errorf("slot %s runs %s", s.System.Slot, s.System.Version)
			}
			if before(stages, at, api.UpdateWriting) && s.System.Slot != "a" || at == len(events) && s.System.Slot != "b" {
				t.Errorf("cut after event %d of %d, slot %s runs", at, len(events), s.System.Slot)
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
			t.Logf("slot %s runs %s, on trial: %v", s.System.Slot, s.System.Version, s.System.Trial)
		})
	}
}

// takenUp checks what a box says of the release that it has taken up as its second.
func (b *box) takenUp(r *release.Release) {
	b.t.Helper()
	s := b.waitState("everything runs", 2*time.Minute, running)
	if s.System.Slot != "b" || s.System.Version != r.Version {
		b.t.Errorf("slot %s runs %s, want b and %s", s.System.Slot, s.System.Version, r.Version)
	}
	u := b.updates("the box knows what it runs", time.Minute, func(u api.Updates) error {
		if u.Number != r.Number || u.Evidence == nil || u.Previous == nil {
			return fmt.Errorf("%+v", u)
		}
		return nil
	})
	if e := u.Evidence; e.Signers != 3 || e.Of != 5 || !e.Logged || e.Witnesses < 2 || e.Seen == nil {
		b.t.Errorf("evidence: %+v", e)
	}
}

// stage is what the box said of its update, and how many events there were by then.
type stage struct {
	state string
	from  int
}

// before tells whether the power went before a stage began.
func before(stages []stage, at int, state string) bool {
	i := slices.IndexFunc(stages, func(s stage) bool { return s.state == state })
	return i >= 0 && at < stages[i].from
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
