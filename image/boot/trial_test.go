package boot

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
)

// fakeFirmware is what outlives a start: the committed slot and the one-shot.
type fakeFirmware struct {
	mu        sync.Mutex
	committed layout.Slot
	once      layout.Slot
	err       error // of setting it
	lacks     string
	restarts  int
}

func (f *fakeFirmware) Set(s layout.Slot) error {
	if f.err == nil {
		f.once = s
	}
	return f.err
}
func (f *fakeFirmware) Pending() (layout.Slot, error) { return f.once, nil }
func (f *fakeFirmware) Settle() error                 { f.once = ""; return nil }
func (f *fakeFirmware) Lacks() string                 { return f.lacks }
func (f *fakeFirmware) Restart() error                { f.restarts++; return nil }

// next is the slot that a start takes; a firmware that takes no notice of the one-shot leaves it set.
func (f *fakeFirmware) next(deaf bool) layout.Slot {
	if s := f.once; s != "" && !deaf {
		f.once = ""
		return s
	}
	return f.committed
}

// startOf is a box that has just been started in a slot, as far as the phase of the data partition.
func startOf(t *testing.T, dir, card string, f *fakeFirmware, slot layout.Slot) *Box {
	t.Helper()
	b := boxOn(t, dir, card)
	began := time.Now()
	b.uptime = func() time.Duration { return time.Since(began) }
	b.release.Version = "v-" + string(slot)
	b.medium = &medium{table: layout.GPT, running: slot}
	b.committed = func() (layout.Slot, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.committed, nil
	}
	b.once = f
	b.forceAt = func(time.Duration) {}
	return b
}

var cardMade struct {
	sync.Mutex
	content []byte
}

// cardWith is a card with a claim file; tools make it only once.
func cardWith(t *testing.T) string {
	t.Helper()
	cardMade.Lock()
	defer cardMade.Unlock()
	if cardMade.content == nil {
		b, err := os.ReadFile(card(t, forTheOwner))
		if err != nil {
			t.Fatal(err)
		}
		cardMade.content = b
	}
	path := filepath.Join(t.TempDir(), "card")
	if err := os.WriteFile(path, cardMade.content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func ends(t *testing.T, b *Box) string {
	t.Helper()
	select {
	case a := <-b.end:
		return a
	case <-time.After(time.Hour):
		return "nothing"
	}
}

func TestTrials(t *testing.T) {
	type story struct {
		name  string
		deaf  bool             // the firmware takes no notice
		trial func(b *Box)     // after recordTrial, on trial; nil: the new system never came so far
		data  string           // error of the data partition, on trial
		slow  time.Duration    // that the data partition takes, on trial
		want  *api.TrialEnd    // in slot a afterwards; nil: it was kept
		limit string           // croft.trial=
		keeps bool             // slot b is committed in trial
		takes [2]time.Duration // from the start of the trial to its end
	}
	limit := [2]time.Duration{trialLimit, trialLimit + 2*time.Second}
	for _, tc := range []story{
		{name: "not taken", deaf: true, want: &api.TrialEnd{Slot: "b", Cause: "not-taken"}},
		{name: "kernel panics", want: &api.TrialEnd{Slot: "b", Cause: "not-started"}},
		{
			name: "hangs", trial: func(b *Box) { <-b.end }, takes: limit,
			want: &api.TrialEnd{Slot: "b", Version: "v-b", Came: "started", Cause: "hang", Detail: "the services were not started in time"},
		},
		{
			name: "a shorter limit", trial: func(b *Box) { <-b.end }, limit: "60", takes: [2]time.Duration{time.Minute, time.Minute + 2*time.Second},
			want: &api.TrialEnd{Slot: "b", Version: "v-b", Came: "started", Cause: "hang", Detail: "the services were not started in time"},
		},
		{
			name: "a longer limit", trial: func(b *Box) { <-b.end }, limit: "6000", takes: limit,
			want: &api.TrialEnd{Slot: "b", Version: "v-b", Came: "started", Cause: "hang", Detail: "the services were not started in time"},
		},
		{
			name:  "cut off",
			trial: func(b *Box) { b.trialCame(cameServices) },
			want:  &api.TrialEnd{Slot: "b", Version: "v-b", Came: "services"},
		},
		{
			name: "judged",
			trial: func(b *Box) {
				b.trialCame(cameReady)
				b.trialCame(cameServices) // late
				if err := b.endTrial(api.TrialEnd{Cause: "page", Detail: "503\n“no”", Service: "gateway"}); err != nil {
					t.Error(err)
				}
				if err := b.endTrial(api.TrialEnd{Cause: "hang"}); err != nil {
					t.Error(err)
				}
				<-b.end
			},
			want: &api.TrialEnd{Slot: "b", Version: "v-b", Came: "ready", Cause: "page", Detail: "503  no ", Service: "gateway"},
		},
		{
			name: "switched off by the owner",
			trial: func(b *Box) {
				b.finish("poweroff")
				<-b.end
				b.interruptTrial()
			},
			want: &api.TrialEnd{Slot: "b", Version: "v-b", Came: "started", Cause: "interrupted"},
		},
		{
			name: "services never healthy",
			trial: func(b *Box) {
				path := filepath.Join(b.dir, "count")
				if !b.mayRestart(path, errors.New("service core: crashing")) || unhealthyRestarts(path) != 0 {
					t.Error("it was counted, or not restarted")
				}
				<-b.end
			},
			want: &api.TrialEnd{Slot: "b", Version: "v-b", Came: "started", Cause: "service", Detail: "service core: crashing"},
		},
		{
			name: "over before the data partition is there", slow: 4 * time.Second, limit: "2", trial: func(b *Box) { <-b.end },
			takes: [2]time.Duration{4 * time.Second, 5 * time.Second},
			want:  &api.TrialEnd{Slot: "b", Version: "v-b", Came: "started", Cause: "hang", Detail: "the services were not started in time"},
		},
		{name: "no data partition", data: "EIO", want: &api.TrialEnd{Slot: "b", Cause: "data"}},
		{
			name: "kept", keeps: true,
			trial: func(b *Box) {
				if err := b.keptTrial(); err != nil || b.onTrial() {
					t.Errorf("%v, on trial %v", err, b.onTrial())
				}
				if err := b.endTrial(api.TrialEnd{Cause: "hang"}); !errors.Is(err, errNoTrial) {
					t.Error(err)
				}
				if _, err := os.Stat(b.trialPath()); err == nil {
					t.Error("the record stays")
				}
				time.Sleep(2 * trialLimit)
			},
		},
		{name: "kept, then cut off", keeps: true, trial: func(b *Box) {}},
		{
			name: "kept, and nobody said so", keeps: true,
			trial: func(b *Box) {
				time.Sleep(trialLimit + time.Minute)
				if b.onTrial() {
					t.Error("still on trial")
				}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			disk := cardWith(t)
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				f := &fakeFirmware{committed: layout.SlotA}
				old := startOf(t, dir, disk, f, layout.SlotA)
				if _, err := old.judge(old.medium); err != nil || old.onTrial() {
					t.Fatalf("%v, on trial %v", err, old.onTrial())
				}
				if err := old.startTrial("b"); err != nil {
					t.Fatal(err)
				}
				if err := old.startTrial("b"); !errors.Is(err, errBusy) {
					t.Errorf("a second one: %v", err)
				}
				if a := ends(t, old); a != actionTrial {
					t.Fatalf("it ends with %q", a)
				}
				if slot := f.next(tc.deaf); slot == layout.SlotB && (tc.trial != nil || tc.data != "") {
					b := startOf(t, dir, disk, f, slot)
					b.cmdline = map[string]string{trialArg: tc.limit}
					began := time.Now()
					if _, err := b.judge(b.medium); err != nil || !b.onTrial() {
						t.Fatalf("%v, on trial %v", err, b.onTrial())
					}
					if tc.data != "" {
						b.rescue = &api.Rescue{Detail: tc.data}
					}
					if tc.slow != 0 {
						if err := os.Rename(dir, dir+".later"); err != nil {
							t.Fatal(err)
						}
						time.Sleep(tc.slow)
						if err := os.Rename(dir+".later", dir); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := b.recordTrial(); err != nil {
						t.Fatal(err)
					}
					if b.over() != (tc.data != "" || tc.slow != 0) {
						t.Errorf("over %v", b.over())
					}
					if tc.keeps {
						if err := b.keptTrial(); !errors.Is(err, errNotKept) {
							t.Errorf("kept too early: %v", err)
						}
						f.mu.Lock()
						f.committed = layout.SlotB
						f.mu.Unlock()
					}
					if tc.trial != nil {
						tc.trial(b)
					}
					if took := time.Since(began); tc.takes[1] != 0 && (took < tc.takes[0] || took > tc.takes[1]) {
						t.Errorf("it took %v", took)
					}
					b.mu.Lock()
					b.trial.on = false // this start ends here
					b.mu.Unlock()
					time.Sleep(time.Minute)
				}
				for i := range 2 { // a second start tells the same
					b := startOf(t, dir, disk, f, f.committed)
					if _, err := b.judge(b.medium); err != nil || b.onTrial() {
						t.Fatalf("%v, on trial %v", err, b.onTrial())
					}
					if _, err := b.recordTrial(); err != nil {
						t.Fatal(err)
					}
					if f.once != "" {
						t.Error("the one-shot is still set")
					}
					got, want := b.trial.ended, tc.want
					if (got == nil) != (want == nil) || got != nil && *got != *want {
						t.Errorf("it tells %+v, want %+v", got, want)
					}
					if deaf := b.trial.pending == layout.SlotB; deaf != (tc.deaf && i == 0) {
						t.Errorf("pending %q", b.trial.pending)
					}
					if _, err := b.writeClaimFile(); err != nil {
						t.Error(err)
					}
				}
				synctest.Wait()
			})
		})
	}
}

// TestTrialRefused holds when no trial begins.
func TestTrialRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		slot string
		set  func(*Box, *fakeFirmware)
	}{
		{"the running slot", "a", nil},
		{"no slot", "c", nil},
		{"no name", "", nil},
		{"a machine that can't", "b", func(_ *Box, f *fakeFirmware) { f.lacks = "no UEFI" }},
		{"variables full", "b", func(_ *Box, f *fakeFirmware) { f.err = errors.New("no space left on device") }},
		{"on trial itself", "b", func(b *Box, _ *fakeFirmware) { b.trial.on = true }},
		{"another slot is committed", "b", func(_ *Box, f *fakeFirmware) { f.committed = layout.SlotB }},
		{"the commit can't be read", "b", func(b *Box, _ *fakeFirmware) {
			b.committed = func() (layout.Slot, error) { return "", errors.New("EIO") }
		}},
		{"the data partition takes nothing", "b", func(b *Box, _ *fakeFirmware) { b.dir = "/nonexistent" }},
		{"being switched off", "b", func(b *Box, _ *fakeFirmware) { b.ending = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeFirmware{committed: layout.SlotA}
			b := startOf(t, t.TempDir(), cardWith(t), f, layout.SlotA)
			if tc.set != nil {
				tc.set(b, f)
			}
			if err := b.startTrial(tc.slot); err == nil || f.once != "" {
				t.Errorf("%v, one-shot %q", err, f.once)
			}
			if _, err := os.Stat(b.trialPath()); err == nil {
				t.Error("a record is left")
			}
		})
	}
}

// TestTrialRecord overwrites the record in place, within its sector, and takes no nonsense from it.
func TestTrialRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), trialFile)
	long := api.TrialEnd{
		Slot: "b", Version: strings.Repeat("v", 64), Came: cameServices, Cause: "not-started", Detail: strings.Repeat("\"\x00ü", 500), Service: strings.Repeat("s", 31),
	}
	for _, e := range []api.TrialEnd{{Slot: "b"}, long, {Slot: "a", Came: cameReady}} {
		if err := writeTrial(path, e); err != nil {
			t.Fatal(err)
		}
		got, err := readTrial(path)
		if err != nil || got.Slot != e.Slot || got.Version != e.Version || got.Came != e.Came || got.Cause != e.Cause || got.Service != e.Service {
			t.Errorf("%+v, %v", got, err)
		}
		if st, _ := os.Stat(path); st.Size() != trialRecord {
			t.Errorf("%d bytes", st.Size())
		}
	}
	for _, text := range []string{"", "{", `{"slot":"c"}`, "[]", strings.Repeat("x", trialRecord)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if e, err := readTrial(path); err == nil {
			t.Errorf("%q is %+v", text, e)
		}
		b := startOf(t, filepath.Dir(path), cardWith(t), &fakeFirmware{committed: "a"}, "a")
		if _, err := b.lastTrial(); err == nil {
			t.Errorf("%q: nobody was told", text)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%q stays", text)
		}
	}
}

// TestSlotsControl lets core and the updater ask, and nobody else.
func TestSlotsControl(t *testing.T) {
	f := &fakeFirmware{committed: "a"}
	b := startOf(t, t.TempDir(), cardWith(t), f, "b")
	b.trial.on, b.trial.record = true, api.TrialEnd{Slot: "b"}
	h := b.control(context.Background())
	call := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		text, _ := io.ReadAll(w.Body)
		return w.Code, string(text)
	}
	for _, tc := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/v1/trial", `{"slot":"a"}`, http.StatusConflict},
		{"POST", "/v1/trial", `{`, http.StatusBadRequest},
		{"POST", "/v1/trial/kept", ``, http.StatusConflict},
		{"DELETE", "/v1/trial", `{"cause":"because"}`, http.StatusBadRequest},
		{"GET", "/v1/slots", ``, http.StatusServiceUnavailable}, // there is no such medium here
		{"DELETE", "/v1/trial", `{"cause":"page"}`, http.StatusNoContent},
		{"POST", "/v1/trial/kept", ``, http.StatusConflict},
	} {
		if code, body := call(tc.method, tc.path, tc.body); code != tc.want {
			t.Errorf("%s %s %s: %d %s", tc.method, tc.path, tc.body, code, body)
		}
	}
	code, body := call("GET", "/v1/system", "")
	var s api.System
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != http.StatusOK || !s.Trial {
		t.Errorf("%d, %v: %s", code, err, body)
	}
	if a := <-b.end; a != "reboot" {
		t.Errorf("it ends with %q", a)
	}
	if e, err := readTrial(b.trialPath()); err != nil || e.Cause != "page" {
		t.Errorf("%+v, %v", e, err)
	}
}

// FuzzTrialRecord reads whatever a failing card made of the record, and writes it again.
func FuzzTrialRecord(f *testing.F) {
	f.Add([]byte(`{"slot":"b","version":"v1","came":"ready","cause":"page","detail":"503"}`))
	f.Add([]byte(`{"slot":"a","detail":"` + strings.Repeat(`\u0000`, 300) + `"}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, trialFile)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := readTrial(path)
		if err != nil {
			return
		}
		if !isSlot(e.Slot) {
			t.Errorf("%+v", e)
		}
		if writeTrial(path, e) != nil {
			return // too long
		}
		again, err := readTrial(path)
		if err != nil || again.Slot != e.Slot || again.Came != e.Came || again.Cause != e.Cause || again.Version != e.Version {
			t.Errorf("%+v became %+v, %v", e, again, err)
		}
	})
}
