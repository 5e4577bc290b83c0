package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/hardware/power"
	"github.com/croft-os/croft/services/api"
)

// A trial is a start of the slot that is not the committed one: a release that has to prove itself. Whatever becomes of it, the
// next start is the committed slot's, unless somebody commits this one meanwhile. PID 1 sees to it that there is a next start:
//
//   - the kernel restarts on a panic (panic=10), the hardware watchdog on a hang of PID 1
//   - after trialLimit PID 1 restarts the box, also if it can't stop the services in order
//   - where the data partition can't be used it does so at once: there is nothing that the release could prove without
//
// How far the trial came is on the data partition, for the other slot to tell; what made the data partition useless is in the
// claim file. The counts of restarts and of short starts stay as they are: they are the committed release's.
const (
	trialLimit = 5 * time.Minute // since the kernel started
	trialArg   = "croft.trial"   // kernel argument: seconds, to make trialLimit shorter
	trialFile  = "trial.json"
	trialTick  = 2 * time.Second
	// trialRecord is the size of the file: it is overwritten in place, which a full disk does not prevent, and in one sector,
	// which a power cut leaves as before or as after.
	trialRecord = layout.SectorSize
	maxDetail   = 200 // bytes
)

// How far a trial came.
const (
	cameStarted  = "started"  // PID 1 could write to the data partition
	cameServices = "services" // services were started
	cameReady    = "ready"    // all critical ones ran at one time
)

// Causes that PID 1 finds (api.UpdateCauses).
const (
	causeNotTaken   = "not-taken"
	causeNotStarted = "not-started"
	causeHang       = "hang"
	causeData       = "data"
	causeService    = "service"
	causeInterrupt  = "interrupted"
)

// trial is what PID 1 knows of trials: of this start, if it is one, or of the last one.
type trial struct {
	on      bool
	until   time.Duration // since boot; of this trial
	record  api.TrialEnd  // of this trial
	ended   *api.TrialEnd // of the last trial, of the other slot
	pending layout.Slot   // of a one-shot start that was not taken, or is asked for now
}

// oneShot is how the firmware is asked to start a slot once.
type oneShot interface {
	// Set asks for it, and returns once that is sure.
	Set(layout.Slot) error
	// Pending is the slot that is asked for, "" if none is or if this firmware can't tell.
	Pending() (layout.Slot, error)
	// Settle takes back that, and whatever else would keep the next start from being the committed slot's.
	Settle() error
	// Lacks says why this machine can't do it, "" if it can.
	Lacks() string
	// Restart restarts the machine into the slot that Set named.
	Restart() error
}

// findSlots is the boot phase that finds out whether this is a trial, and if so limits it.
func (b *Box) findSlots() (note string, err error) {
	m, err := findMedium()
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	b.medium = m
	b.mu.Unlock()
	b.once = b.newOneShot(m.table)
	return b.judge(m)
}

// judge compares the slot that runs with the committed one.
func (b *Box) judge(m *medium) (note string, err error) {
	pending, perr := b.once.Pending()
	// A one-shot that was not taken would be a surprise at some later start; the loader's menu can set a default of its own.
	perr = errors.Join(perr, b.once.Settle())
	committed, err := b.committed()
	if err != nil {
		return "slot " + string(m.running), errors.Join(perr, fmt.Errorf("which slot starts by itself can't be read: %w", err))
	}
	if m.running != committed {
		limit := trialLimit
		if n, err := strconv.Atoi(b.cmdline[trialArg]); err == nil && n > 0 {
			limit = min(limit, time.Duration(n)*time.Second)
		}
		b.mu.Lock()
		b.trial.on, b.trial.until = true, limit
		b.trial.record = api.TrialEnd{Slot: string(m.running), Version: b.release.Version}
		b.mu.Unlock()
		go b.watchTrial()
		return fmt.Sprintf("slot %s, on trial for %v", m.running, limit), perr
	}
	if pending != "" && pending != m.running {
		b.mu.Lock()
		b.trial.pending = pending
		b.mu.Unlock()
		return fmt.Sprintf("slot %s, although slot %s was asked for", m.running, pending), perr
	}
	return "slot " + string(m.running), perr
}

func (b *Box) onTrial() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trial.on
}

func (b *Box) trialPath() string { return filepath.Join(b.dir, trialFile) }

// recordTrial is the boot phase after the data partition's: on a trial it notes that it came so far, or ends it where there is no
// data partition; otherwise it looks how the last one ended.
func (b *Box) recordTrial() (note string, err error) {
	switch on, rescue := b.onTrial(), b.inRescue(); {
	case on && rescue:
		b.mu.Lock()
		detail := b.rescue.Detail
		b.mu.Unlock()
		b.failTrial(api.TrialEnd{Cause: causeData, Detail: detail})
		return "the data partition can't be used on trial: back to the other slot", nil
	case on:
		return "", b.trialCame(cameStarted)
	case rescue:
		return "", nil
	}
	return b.lastTrial()
}

// lastTrial finds out how the last trial ended.
func (b *Box) lastTrial() (note string, err error) {
	m, err := b.boot()
	if err != nil {
		return "", nil // told already
	}
	e, err := readTrial(b.trialPath())
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	} else if err != nil { // a torn file tells nothing, and is in nobody's way
		return "", errors.Join(err, os.Remove(b.trialPath()))
	}
	if e.Slot == string(m.running) { // it was kept
		return "", os.Remove(b.trialPath())
	}
	if e.Came == "" && e.Cause == "" {
		b.mu.Lock()
		pending := b.trial.pending
		b.mu.Unlock()
		e.Cause = causeNotStarted
		if pending == layout.Slot(e.Slot) {
			e.Cause = causeNotTaken
		} else if content, err := b.readOwnerFile(claimFile, maxOwnerFile); err == nil {
			if m := trialNoteRE.FindSubmatch(content); m != nil && string(m[1]) == e.Slot {
				e.Cause = causeData
			}
		}
		if err := writeTrial(b.trialPath(), e); err != nil {
			b.log.Warn("the end of the trial could not be written", "err", err)
		}
	}
	b.mu.Lock()
	b.trial.ended = &e
	b.mu.Unlock()
	b.log.Info("the last trial ended", "slot", e.Slot, "release", e.Version, "came", e.Came, "cause", e.Cause, "detail", e.Detail, "of", e.Service)
	return fmt.Sprintf("slot %s was tried and came %q %s", e.Slot, e.Came, e.Cause), nil
}

func readTrial(path string) (api.TrialEnd, error) {
	var e api.TrialEnd
	content, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(content, &e); err != nil {
		return e, fmt.Errorf("%s: %w", trialFile, err)
	}
	if !isSlot(e.Slot) {
		return e, fmt.Errorf("%s names no slot", trialFile)
	}
	return e, nil
}

func isSlot(s string) bool { return s == string(layout.SlotA) || s == string(layout.SlotB) }

// writeTrial writes the record, in place where there is one.
func writeTrial(path string, e api.TrialEnd) error {
	e.Detail = clip(e.Detail)
	content, err := json.Marshal(e)
	for err == nil && len(content) > trialRecord && e.Detail != "" { // quotes and the like take more room
		e.Detail = e.Detail[:len(e.Detail)/2]
		content, err = json.Marshal(e)
	}
	if err != nil {
		return err
	}
	if len(content) > trialRecord {
		return fmt.Errorf("%s has no room for %d bytes", trialFile, len(content))
	}
	content = append(content, bytes.Repeat([]byte{' '}, trialRecord-len(content))...)
	if st, err := os.Stat(path); err != nil || st.Size() != trialRecord {
		return writeAtomic(path, content, 0o600)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", trialFile, err)
	}
	return nil
}

// clip shortens a text and takes what is not printable ASCII out of it.
func clip(s string) string {
	out := make([]byte, 0, maxDetail)
	for _, r := range s {
		if len(out) == maxDetail {
			break
		}
		if r < ' ' || r > '~' {
			r = ' '
		}
		out = append(out, byte(r))
	}
	return string(out)
}

// trialCame notes how far the trial came. A trial that was over before there was a data partition to say so on says so with
// cameStarted.
func (b *Box) trialCame(how string) error {
	b.trialMu.Lock() // before the record is looked at: why the trial failed must not be written over
	defer b.trialMu.Unlock()
	b.mu.Lock()
	on, rescue := b.trial.on && (b.trial.record.Cause == "" || how == cameStarted), b.rescue != nil
	if stages := []string{"", cameStarted, cameServices, cameReady}; slices.Index(stages, how) <= slices.Index(stages, b.trial.record.Came) {
		on = false
	} else {
		b.trial.record.Came = how
	}
	record := b.trial.record
	b.mu.Unlock()
	if !on || rescue {
		return nil
	}
	return writeTrial(b.trialPath(), record)
}

// watchTrial ends the trial at its limit, and notes meanwhile how far it comes.
func (b *Box) watchTrial() {
	came := false
	for {
		b.mu.Lock()
		on, until := b.trial.on, b.trial.until
		b.mu.Unlock()
		left := until - b.uptime()
		switch {
		case !on:
			return
		case left <= 0:
			if b.keptTrial() == nil { // committed, and nobody said so
				return
			}
			b.trialOver()
			return
		case !came && b.sick() == "" && b.supervisor() != nil:
			came = true
			go func() { // a drive may hang
				if err := b.trialCame(cameReady); err != nil {
					b.log.Warn("how far the trial came could not be written", "err", err)
				}
			}()
		}
		time.Sleep(min(trialTick, max(left, 0)))
	}
}

// sick names a critical service that does not run, "" if all do.
func (b *Box) sick() string {
	sup := b.supervisor()
	if sup == nil {
		return ""
	}
	for _, s := range sup.Services() {
		if s.Critical && s.State != api.StateRunning {
			return s.Name
		}
	}
	return ""
}

// trialOver ends a trial whose time is over.
func (b *Box) trialOver() {
	e := api.TrialEnd{Cause: causeHang, Detail: "nobody kept the release in time"}
	if b.supervisor() == nil {
		e.Detail = "the services were not started in time"
	} else if s := b.sick(); s != "" {
		e = api.TrialEnd{Cause: causeService, Service: s, Detail: "it did not run when the time was over"}
	}
	b.failTrial(e)
}

// trialGrace is how long writing the record may take, on a drive that hangs.
const trialGrace = 5 * time.Second

// failTrial records why the trial ends, and restarts the box into the committed slot: in order if that can be done, and in any case.
func (b *Box) failTrial(why api.TrialEnd) {
	b.mu.Lock()
	if !b.trial.on || b.trial.record.Cause != "" {
		b.mu.Unlock()
		return
	}
	r := &b.trial.record
	r.Cause, r.Detail, r.Service = why.Cause, clip(why.Detail), clip(why.Service)
	record, rescue := *r, b.rescue != nil
	b.mu.Unlock()
	b.log.Error("the trial failed", "cause", record.Cause, "detail", record.Detail, "of", record.Service)
	b.say("This release is given up (" + record.Cause + "); restarting into the one before.")
	written := make(chan struct{})
	go func() {
		defer close(written)
		var err error
		if rescue {
			err = b.writeOwnerFile(claimFile, trialNote(record))
		} else {
			b.trialMu.Lock()
			defer b.trialMu.Unlock()
			err = writeTrial(b.trialPath(), record)
		}
		if err != nil {
			b.log.Warn("why the trial failed could not be written", "err", err)
		}
	}()
	select {
	case <-written:
	case <-time.After(trialGrace):
	}
	b.finishSoon("reboot")
	b.forceAt(hearing + stopTimeout + downTimeout + trialGrace)
}

// forceRestart restarts the machine after that time, whatever hangs.
func forceRestart(after time.Duration) {
	time.AfterFunc(after, func() { power.Restart() })
}

// interruptTrial notes that somebody ends the box in the middle of a trial.
func (b *Box) interruptTrial() {
	if !b.onTrial() || b.keptTrial() == nil {
		return
	}
	b.mu.Lock()
	ends := b.trial.record.Cause == "" && b.rescue == nil
	if ends {
		b.trial.record.Cause = causeInterrupt
	}
	record := b.trial.record
	b.mu.Unlock()
	if !ends {
		return
	}
	done := make(chan error, 1)
	go func() {
		b.trialMu.Lock()
		defer b.trialMu.Unlock()
		done <- writeTrial(b.trialPath(), record)
	}()
	select {
	case err := <-done:
		if err != nil {
			b.log.Warn("that the trial was interrupted could not be written", "err", err)
		}
	case <-time.After(trialGrace):
	}
}

// trialNoteRE finds trialNote in the claim file.
var trialNoteRE = regexp.MustCompile(`slot ([ab]) could not use the data partition`)

// trialNote is what stands in the claim file where a trial can't use the data partition, until the other slot starts.
func trialNote(e api.TrialEnd) []byte {
	note := bytes.Repeat([]byte{' '}, layout.SectorSize)
	copy(note, "The release "+e.Version+" in slot "+e.Slot+" could not use the data partition.\r\nThis Croft goes back to the one before.\r\n")
	return note
}

var (
	errNoTrial  = errors.New("the running slot is not on trial")
	errOnTrial  = errors.New("the running slot is on trial itself")
	errNotKept  = errors.New("the medium does not say that the running slot is the one to keep")
	errSameSlot = errors.New("that is not the other slot")
)

// keptTrial sees that the running slot is the committed one now, which ends the trial.
func (b *Box) keptTrial() error {
	m, err := b.boot()
	if err != nil {
		return err
	}
	committed, err := b.committed()
	if err != nil {
		return err
	}
	if committed != m.running {
		return errNotKept
	}
	b.mu.Lock()
	was := b.trial.on
	if was && b.trial.record.Cause != "" {
		b.mu.Unlock()
		return errors.New("too late: the box restarts already")
	}
	b.trial = trial{}
	b.mu.Unlock()
	if !was {
		return nil
	}
	b.log.Info("the trial ended: the release stays", "slot", m.running, "release", b.release.Version)
	b.trialMu.Lock()
	defer b.trialMu.Unlock()
	for _, path := range []string{b.trialPath(), unhealthyFile} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			b.log.Warn("remove what is over", "file", path, "err", err)
		}
	}
	return nil
}

// startTrial has the firmware start the other slot once, now.
func (b *Box) startTrial(slot string) error {
	m, err := b.boot()
	switch {
	case err != nil:
		return err
	case !isSlot(slot) || slot == string(m.running):
		return errSameSlot
	case b.onTrial():
		return errOnTrial
	}
	committed, err := b.committed()
	if err != nil && b.cfg.Rescue {
		if err := b.commitRescued(m, layout.Slot(slot)); err != nil {
			return err
		}
		b.finishSoon("reboot")
		return nil
	}
	if why := b.once.Lacks(); why != "" {
		return errors.New(why)
	}
	if err != nil {
		return err
	} else if committed != m.running { // then there would be no way back
		return errNotKept
	}
	b.mu.Lock()
	if b.ending {
		b.mu.Unlock()
		return errBusy
	}
	b.ending = true
	b.mu.Unlock()
	if err := b.askOnce(layout.Slot(slot)); err != nil {
		b.mu.Lock()
		b.ending = false
		b.mu.Unlock()
		return err
	}
	b.finishSoon(actionTrial)
	return nil
}

// askOnce records the trial before it can begin.
func (b *Box) askOnce(slot layout.Slot) error {
	if !b.inRescue() {
		if err := writeTrial(b.trialPath(), api.TrialEnd{Slot: string(slot)}); err != nil {
			return err
		}
	}
	if err := b.once.Set(slot); err != nil {
		return errors.Join(err, os.Remove(b.trialPath()))
	}
	b.mu.Lock()
	b.trial.pending, b.trial.ended = slot, nil
	b.mu.Unlock()
	b.log.Info("starting the other slot once", "slot", slot)
	return nil
}

// endTrial ends the trial on behalf of who judged it.
func (b *Box) endTrial(why api.TrialEnd) error {
	if !slices.Contains(api.UpdateCauses(), why.Cause) {
		return fmt.Errorf("unknown cause %q", clip(why.Cause))
	}
	if !b.onTrial() {
		return errNoTrial
	}
	b.failTrial(why)
	return nil
}

// restart is how the box ends for an action of finish.
func (b *Box) restart(action string) error {
	if action == actionTrial {
		return b.once.Restart()
	}
	return power.Restart()
}
