package updater

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/croft-os/croft/services/api"
)

// Files of the state directory. Each is replaced as a whole, durably.
const (
	settingsFile = "settings.json"
	slotsFile    = "slots.json"
	pendingFile  = "pending.json"
	historyFile  = "history.json"
	stateFile    = "state.json"
	healthFile   = "health" // written in a trial, to see that it can be
	trustDir     = "trust"
)

const (
	maxHistory = 200     // attempts
	maxFile    = 4 << 20 // bytes of a file of the state directory
)

// Phases of a change of the release.
const (
	phaseWriting = "writing" // downloading, writing or reading back
	phaseReady   = "ready"   // the slot is complete; the restart is to come
	phaseArmed   = "armed"   // PID 1 was told, or is about to be told, to start the slot once
)

// settings are the owner's will.
type settings struct {
	Policy   api.UpdatePolicy `json:"policy"`
	TimeZone string           `json:"time_zone"`
	Told     bool             `json:"told,omitempty"`    // core has said what the owner wants
	Project  *root            `json:"project,omitempty"` // nil: the one that the image came with
	Lost     bool             `json:"lost,omitempty"`    // whom the owner chose: nobody is followed until they say so again
	Auditor  *root            `json:"auditor,omitempty"`
}

// root is a root of trust that the owner chose.
type root struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
}

// slotRecord is what was written to a slot, and why it was believed.
type slotRecord struct {
	Version     string             `json:"version"`
	Number      int64              `json:"number"`
	Publisher   string             `json:"publisher"` // fingerprint of its root
	Target      string             `json:"target"`    // path of the description
	Description []byte             `json:"description"`
	Evidence    api.UpdateEvidence `json:"evidence"`
}

// pending is the change of the release that is under way.
type pending struct {
	Phase   string     `json:"phase"`
	Attempt string     `json:"attempt"` // id in the history
	Slot    string     `json:"slot"`
	Version string     `json:"version"`
	Number  int64      `json:"number"`
	From    string     `json:"from"` // version
	FromNo  int64      `json:"from_number"`
	Back    bool       `json:"back,omitempty"`  // to the release before, which the slot still has
	Owner   bool       `json:"owner,omitempty"` // asked for it in person
	Now     bool       `json:"now,omitempty"`   // and for the restart as soon as it can be
	By      string     `json:"by,omitempty"`
	Source  string     `json:"source,omitempty"`
	Record  slotRecord `json:"record"`            // of the slot; Description is empty for a release of the factory
	Tries   int        `json:"tries,omitempty"`   // restarts that the firmware did not take
	Healthy []string   `json:"healthy,omitempty"` // services, before the restart
	Address bool       `json:"address,omitempty"` // there was one before the restart
	Boot    string     `json:"boot,omitempty"`    // id of the boot that armed it
	Armed   time.Time  `json:"armed,omitzero"`
	Ready   time.Time  `json:"ready,omitzero"`
	Cause   string     `json:"cause,omitempty"` // decided in the trial: back, for this
	Detail  string     `json:"detail,omitempty"`
	Service string     `json:"service,omitempty"`
}

// attempt is an entry of the history.
type attempt struct {
	api.UpdateAttempt
	Publisher string `json:"publisher,omitempty"` // fingerprint of its root
	Trial     bool   `json:"trial,omitempty"`     // the release was started, or was to be
	Back      bool   `json:"back,omitempty"`      // to the release before
	Boot      string `json:"boot,omitempty"`      // id of the boot that began it
}

// remembered is the rest.
type remembered struct {
	Checked *time.Time         `json:"checked,omitempty"`
	Problem *api.UpdateProblem `json:"problem,omitempty"`
	// Left is the newest release of a publisher that the owner went back from: by itself the box does not go there again.
	Left map[string]int64 `json:"left,omitempty"`
}

// files is the state directory.
type files struct {
	dir string
	cut func(point string) error // tests: power goes when it fails; nil for none
}

func (f *files) point(p string) error {
	if f.cut == nil {
		return nil
	}
	return f.cut(p)
}

// load reads a file into v; one that is missing leaves v as it is.
func (f *files) load(name string, v any) error {
	path := filepath.Join(f.dir, name)
	if fi, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	} else if fi.Size() > maxFile {
		return fmt.Errorf("%s has %d bytes", path, fi.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// save replaces a file so that it is on the medium when save returns, and a power cut leaves the old or the new one.
func (f *files) save(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(name, b)
}

func (f *files) write(name string, b []byte) error {
	if err := f.point("before " + name); err != nil {
		return err
	}
	path := filepath.Join(f.dir, name)
	w, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, werr := w.Write(b)
	if err := errors.Join(werr, w.Sync(), w.Close()); err != nil {
		os.Remove(path + ".tmp")
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return f.point("after " + name)
}

func (f *files) remove(name string) error {
	if err := f.point("before removing " + name); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syncDir(f.dir); err != nil {
		return err
	}
	return f.point("after removing " + name)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// history is the list of attempts, newest first.
type history []attempt

func (h *history) add(a attempt) {
	*h = slices.Insert(*h, 0, a)
	if len(*h) > maxHistory {
		*h = (*h)[:maxHistory]
	}
}

func (h history) find(id string) *attempt {
	for i := range h {
		if h[i].ID == id {
			return &h[i]
		}
	}
	return nil
}

// tried counts the times that a release was started and did not stay, since the last time that it did.
func (h history) tried(publisher string, number int64) int {
	n := 0
	for _, a := range h {
		if a.Publisher != publisher || a.Number != number || !a.Trial {
			continue
		}
		if a.Outcome == api.UpdateKept {
			break
		}
		if a.Outcome == api.UpdateBack && a.Cause != "not-taken" && a.Cause != "interrupted" {
			n++
		}
	}
	return n
}

// last is when the latest attempt at a release ended; nil if none did.
func (h history) last(publisher string, number int64) *time.Time {
	for _, a := range h {
		if a.Publisher == publisher && a.Number == number && a.Ended != nil {
			return a.Ended
		}
	}
	return nil
}

// unwilling tells whether the firmware would not start the release, the last time that it was to.
func (h history) unwilling(publisher string, number int64) bool {
	for _, a := range h {
		if a.Publisher == publisher && a.Number == number && a.Ended != nil {
			return a.Cause == "not-taken"
		}
	}
	return false
}

// cutOff counts the latest attempts in a row at a release that the power, or the end of this process, cut off while it was written.
func (h history) cutOff(publisher string, number int64) int {
	n := 0
	for _, a := range h {
		if a.Publisher != publisher || a.Number != number || a.Outcome != api.UpdateFailed || a.Cause != "power" {
			break
		}
		n++
	}
	return n
}
