package updater

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/firmware"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// newestOf is the file of a role's newest metadata in a repository.
func newestOf(t *testing.T, dir, role string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "metadata", "*."+role+".json"))
	if err != nil || len(list) == 0 {
		t.Fatalf("no %s in %s: %v", role, dir, err)
	}
	return slices.MaxFunc(list, func(a, b string) int { return compareVersions(filepath.Base(a), filepath.Base(b)) })
}

func change(t *testing.T, file string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, f(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unproven takes the proofs of the log away from metadata.
func unproven(t *testing.T, file string) {
	t.Helper()
	list, err := filepath.Glob(file + "*.tlog-proof")
	if err != nil || len(list) == 0 {
		t.Fatalf("%s has no proof: %v", file, err)
	}
	for _, f := range list {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// witnessed puts other signatures of witnesses into the proof of the newest targets: one of them so many times.
func witnessed(t *testing.T, dir string, times int) {
	t.Helper()
	change(t, newestOf(t, dir, "targets")+".tlog-proof", func(b []byte) []byte {
		var out []string
		seen := 0
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "— witness-") {
				if seen++; seen > 1 {
					continue
				}
				line = strings.Repeat(line, times)
			}
			out = append(out, line)
		}
		if seen < 2 {
			t.Fatalf("only %d witnesses", seen)
		}
		return []byte(strings.Join(out, ""))
	})
}

// TestLies has sources tell lies to a box that was offered release 2. It says so in a word, writes nothing, and believes the truth
// afterwards: release 4. Of a split view it keeps the evidence, until its owner has looked.
func TestLies(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	rs := map[int64]*release.Release{1: add(p, 1)[0]}
	first := copyOf(t, p)
	split := p.Fork()
	add(split, 2)
	add(split, 5)
	add(p, 2)
	second := copyOf(t, p)
	rotated := p.Fork()
	rotated.Rotate()
	unproven(t, newestOf(t, rotated.Dir(), "root"))
	d := describe(3)
	d.Board = "pi"
	p.Add(d)
	other := copyOf(t, p)
	if err := os.RemoveAll(filepath.Join(other, "targets/releases/pc")); err != nil {
		t.Fatal(err)
	}
	add(p, 4)
	third := func(spoil func(dir string)) string {
		dir := copyOf(t, p)
		spoil(dir)
		return dir
	}
	mirror := func(dir string) place { return place{kind: "mirror", name: "liar", dir: dir} }
	for _, tc := range []struct {
		name  string
		lie   place  // comes in the place of the mirror, or beside it if it is no mirror
		cause string // empty: it says nothing, and offers nothing new
	}{
		{"split view", mirror(split.Dir()), "split-view"},
		{"unlogged release", mirror(third(func(dir string) { unproven(t, newestOf(t, dir, "targets")) })), "not-logged"},
		{"unlogged root", mirror(rotated.Dir()), "not-logged"},
		{"too few witnesses", mirror(third(func(dir string) { witnessed(t, dir, 1) })), "not-logged"},
		{"one witness twice", mirror(third(func(dir string) { witnessed(t, dir, 3) })), "not-logged"},
		{"one signature too few", mirror(third(func(dir string) {
			change(t, newestOf(t, dir, "targets"), func(b []byte) []byte {
				var m map[string]json.RawMessage
				var sigs []json.RawMessage
				if err := cmp.Or(json.Unmarshal(b, &m), json.Unmarshal(m["signatures"], &sigs)); err != nil || len(sigs) != 3 {
					t.Fatalf("%d signatures: %v", len(sigs), err)
				}
				return bytes.Replace(b, append([]byte{','}, sigs[2]...), nil, 1)
			})
		})), "bad-metadata"},
		{"mix and match", mirror(third(func(dir string) {
			b, err := os.ReadFile(newestOf(t, second, "targets"))
			if err != nil {
				t.Fatal(err)
			}
			change(t, newestOf(t, dir, "targets"), func([]byte) []byte { return b })
		})), "bad-metadata"},
		{"endless data", mirror(third(func(dir string) {
			change(t, filepath.Join(dir, "metadata/timestamp.json"), func([]byte) []byte { return bytes.Repeat([]byte{' '}, 8<<20) })
		})), "bad-metadata"},
		{"rollback", mirror(first), "rollback"},
		{"a description withheld", mirror(third(func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "targets")); err != nil {
				t.Fatal(err)
			}
		})), "download"},
		{"a stick for another board, and nobody says so", place{kind: "usb", name: "stick", dir: other}, ""},
		{"a stick for another board", place{kind: "usb", name: "stick", dir: other, cause: "wrong-board"}, "wrong-board"},
		{"a file that is none", place{kind: "file", name: "croft-pc.zip", dir: t.TempDir(), cause: "bad-file"}, "bad-file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSim(t, p, rs[1])
			s.sources[0].dir = second
			play(t, s, func(t *testing.T) {
				s.await("start", time.Minute, idle)
				s.policy(api.UpdatePolicy{Mode: "ask"})
				s.await("an offer", time.Hour, offers(2))
				idleSlot, fat := slices.Clone(s.rootB.b), slices.Clone(s.first.b)
				checked := s.checks()
				if tc.lie.kind == "mirror" {
					s.setSources(tc.lie)
				} else {
					s.setSources(tc.lie, s.sources[0])
				}
				s.action("check", 0)
				u := s.await("a check", time.Hour, func(u api.Updates) bool {
					return idle(u) && s.checks() > checked && (tc.cause == "" || u.Problem != nil)
				})
				if got := cmp.Or(u.Problem, &api.UpdateProblem{}); got.Cause != tc.cause || tc.cause != "" && got.Detail == "" {
					t.Errorf("problem %+v", u.Problem)
				}
				if tc.cause != "" && !slices.Contains(api.UpdateCauses(), u.Problem.Cause) { // then the page has words for it
					t.Errorf("there are no words for %q", u.Problem.Cause)
				}
				if u.Offer != nil && u.Offer.Number != 2 {
					t.Errorf("it is offered %+v", u.Offer)
				}
				if tc.cause == "split-view" {
					s.keepsEvidence(p)
					s.policy(api.UpdatePolicy{})
					s.rest(28 * time.Hour)
					if u, _ := s.view(); u.Offer != nil || u.Last != nil {
						t.Errorf("it went on: %+v, %+v", u.Offer, u.Last)
					}
					s.policy(api.UpdatePolicy{Mode: "ask"})
				}
				if !bytes.Equal(s.rootB.b, idleSlot) || !bytes.Equal(s.first.b, fat) || len(s.fetched) > 0 {
					t.Errorf("something was written, or fetched: %q", s.fetched)
				}
				s.setSources(place{kind: "mirror", name: "https://example.org", dir: p.Dir()})
				if tc.cause == "split-view" {
					s.action("check", 0)
					s.rest(time.Hour)
					if u, _ := s.view(); u.Problem == nil || u.Problem.Cause != "split-view" || u.Offer != nil {
						t.Errorf("nobody has looked, and it goes on: %+v", u)
					}
					if code := s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "builtin"}); code != 204 {
						t.Errorf("the owner's word: %d", code)
					}
				}
				s.action("check", 0)
				s.await("the truth", time.Hour, offers(4))
			})
		})
	}
}

// checks counts how often sources were asked.
func (s *sim) checks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshed
}

// keepsEvidence wants two checkpoints that contradict each other, which anybody can check, before and after a restart.
func (s *sim) keepsEvidence(p *publishtest.Publisher) {
	s.t.Helper()
	policy := p.Policy(p.Options().Log[0], 2)
	var before string
	for _, when := range []string{"at once", "after a restart"} {
		if when == "after a restart" {
			s.mu.Lock()
			boots := s.boots
			s.reboot()
			s.mu.Unlock()
			s.await(when, time.Hour, func(u api.Updates) bool { return s.boots > boots && idle(u) })
		}
		s.engine.work.Lock()
		ev := s.engine.followed.project.Status().SplitView
		s.engine.work.Unlock()
		if ev == nil {
			s.t.Errorf("%s: no evidence", when)
			return
		}
		a, _, erra := policy.Checkpoint(ev.A.Note)
		b, _, errb := policy.Checkpoint(ev.B.Note)
		if erra != nil || errb != nil || a.Hash == b.Hash {
			s.t.Errorf("%s: %+v (%v), %+v (%v)", when, a, erra, b, errb)
		}
		if now := fmt.Sprint(ev); before != "" && now != before {
			s.t.Errorf("%s: another evidence", when)
		} else {
			before = now
		}
	}
}

// TestBeta lets a box take beta releases, and leave off doing so: it stays where it is until a stable release is newer.
func TestBeta(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{2, 3}})
	factory := add(p, 1)[0]
	beta := describe(3)
	beta.Channel = release.Beta
	p.Add(describe(2), beta)
	before := copyOf(t, p)
	add(p, 4)
	s := newSim(t, p, factory)
	s.sources[0].dir = before
	play(t, s, func(t *testing.T) {
		s.await("start", time.Minute, idle)
		always := api.UpdatePolicy{From: "00:00", To: "23:59"}
		s.policy(always)
		s.await("the stable release", 30*time.Hour, runs(2))
		s.rest(28 * time.Hour)
		if u, _ := s.view(); u.Number != 2 || u.Offer != nil || u.Problem != nil {
			t.Errorf("on stable: %+v, %+v", u.Offer, u.Problem)
		}
		always.Channel = "beta"
		s.policy(always)
		u := s.await("the beta release", 30*time.Hour, runs(3))
		if u.Last.Outcome != api.UpdateKept || u.Evidence == nil || u.Evidence.Signers < 2 || u.Evidence.Of != 3 || !u.Evidence.Logged {
			t.Errorf("%+v, %+v", u.Last, u.Evidence)
		}
		always.Channel = "stable"
		s.policy(always)
		boots := s.boots
		s.rest(28 * time.Hour)
		if u, _ := s.view(); u.Number != 3 || s.boots != boots || u.Offer != nil || u.Problem != nil {
			t.Errorf("back on stable: %d, %+v, %+v", u.Number, u.Offer, u.Problem)
		}
		s.setSources(place{kind: "mirror", name: "https://example.org", dir: p.Dir()})
		s.await("a newer stable release", 30*time.Hour, runs(4))
	})
}

// TestPis takes boxes through updates on the medium of Raspberry Pis, started as models of their firmware start it: one update that
// is kept, and one that fails.
func TestPis(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	lab, err := firmware.NewLab(t.Context(), t.TempDir(), layout.MBR, firmware.Sizes{Root: 4 << 10, Kernel: 2500, Room: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	p := publishtest.New(t, publishtest.Options{})
	made := []*firmware.Made{lab.First}
	var dirs []string
	for range 2 {
		m, err := lab.Release()
		if err != nil {
			t.Fatal(err)
		}
		p.Add(publishtest.Release{
			Board: "pi", Version: m.Version, Number: m.Number, Boot: m.Parts[slots.PartBoot], Root: m.Parts[slots.PartRoot], Cmdline: m.Cmdline,
		})
		made, dirs = append(made, m), append(dirs, copyOf(t, p))
	}
	for _, machine := range lab.Starts() {
		t.Run(machine.Name, func(t *testing.T) {
			own := *lab
			own.Disk = lab.Disk.Fork()
			s := &sim{
				t: t, pub: p, dir: t.TempDir(), lab: &own, machine: machine, behave: map[string]faulty{made[2].Version: {page: "no"}},
				certainty: api.ClockSure, address: true,
				etc: map[string][]byte{"root.json": p.Root(), "publisher.json": p.PublisherFile("Example", "https://example.org")},
			}
			s.sources = []place{{kind: "mirror", name: "https://example.org", dir: dirs[0]}}
			starts := func(trial layout.Slot, want *firmware.Made) {
				t.Helper()
				b, err := machine.Boot(own.Disk, own.Disk.Size(), trial)
				if err == nil {
					_, err = b.Identify(own.Disk, want.Release)
				}
				if err != nil {
					t.Errorf("%s is not what starts: %v", want.Version, err)
				}
			}
			play(t, s, func(t *testing.T) {
				s.await("start", time.Minute, idle)
				s.policy(api.UpdatePolicy{Mode: "ask"})
				s.await("an offer", time.Hour, offers(2))
				s.action("tonight", 2)
				s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady })
				starts("", made[0])
				starts(layout.SlotB, made[1]) // armed, this is what starts, once
				s.action("restart", 0)
				u := s.await("release 2", time.Hour, runs(2))
				if u.Last.Outcome != api.UpdateKept || s.committed() != "b" || s.boots != 2 {
					t.Errorf("%+v, slot %s, %d starts", u.Last, s.committed(), s.boots)
				}
				starts("", made[1])
				starts(layout.SlotA, made[0])
				s.setSources(place{kind: "mirror", name: "https://example.org", dir: dirs[1]})
				s.action("check", 0)
				s.await("an offer", time.Hour, offers(3))
				s.action("install", 3)
				u = s.endedWith(api.UpdateBack, "page")
				if u.Number != 2 || s.committed() != "b" {
					t.Errorf("%+v, slot %s", u, s.committed())
				}
				starts("", made[1])
				starts(layout.SlotA, made[2])
			})
		})
	}
}
