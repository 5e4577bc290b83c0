package updater

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// repo is a publisher with some releases.
func repo(t *testing.T, numbers ...int64) (*publishtest.Publisher, map[int64]*release.Release) {
	t.Helper()
	p := publishtest.New(t, publishtest.Options{})
	rs := map[int64]*release.Release{}
	for _, n := range numbers {
		rs[n] = add(p, n)[0]
	}
	return p, rs
}

var shared struct {
	sync.Once
	p  *publishtest.Publisher
	rs map[int64]*release.Release
}

// common is a publisher with releases 1 and 2, for tests that do not change what it has.
func common(t *testing.T) (*publishtest.Publisher, map[int64]*release.Release) {
	t.Helper()
	shared.Do(func() {
		shared.p = publishtest.New(lasting{t}, publishtest.Options{})
		shared.rs = map[int64]*release.Release{}
		for _, n := range []int64{1, 2} {
			shared.rs[n] = add(shared.p, n)[0]
		}
	})
	return shared.p, shared.rs
}

// copyOf is the repository as it is now.
func copyOf(t *testing.T, p *publishtest.Publisher) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(p.Dir())); err != nil {
		t.Fatal(err)
	}
	return dir
}

// play runs a box, and what is done to it, in a bubble.
func play(t *testing.T, s *sim, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		s.on()
		defer s.off()
		f(t)
	})
}

func TestByItself(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[1])
	s.slow = 10 * time.Second
	play(t, s, func(t *testing.T) {
		u := s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady && u.Next != nil })
		if at := u.Next.UTC(); at.Hour() < 2 || at.Hour() >= 5 {
			t.Errorf("it waits until %v", at)
		}
		if o := u.Offer; o == nil || o.Number != 2 || o.Channel != "stable" || o.Source != "mirror" || o.Stale || o.Notes["en"] == "" ||
			o.Evidence.Signers < 3 || !o.Evidence.Logged || o.Evidence.Witnesses < 2 || o.Evidence.Seen == nil {
			t.Errorf("offer %+v", o)
		} else if whole := rs[2].Boot.Frames.Size + rs[2].Root.Frames.Size; o.Download >= whole/10 {
			t.Errorf("%d bytes to download, of %d", o.Download, whole)
		}
		u = s.await("the new release", 30*time.Hour, runs(2))
		if now := time.Now().UTC(); now.Hour() < 2 || now.Hour() >= 5 {
			t.Errorf("it restarted about %v", now)
		}
		if u.Last.Outcome != api.UpdateKept || u.Last.From != "v0.1" || u.Last.DownMS < 9000 || u.Last.DownMS > 60_000 || u.Last.By != "" {
			t.Errorf("last %+v", u.Last)
		}
		if u.Evidence == nil || u.Evidence.Signers < 3 || u.Previous == nil || u.Previous.Number != 1 || u.Offer != nil || u.Trust.Project == nil || !u.Trust.Builtin {
			t.Errorf("%+v", u)
		}
		if s.committed() != "b" || s.boots != 2 {
			t.Errorf("slot %s is committed after %d starts", s.committed(), s.boots)
		}
	})
	if len(s.fetched) == 0 || slices.Contains(s.fetched, rs[2].Root.Frames.Blob) {
		t.Errorf("fetched %v", s.fetched)
	}
}

func TestEndings(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	dir := p.Dir()
	for _, tc := range []struct {
		name  string
		fault faulty
		cause string
		set   func(*sim)
	}{
		{"kernel panics", faulty{silent: true}, "not-started", nil},
		{"hangs", faulty{hangs: true}, "hang", nil},
		{"page", faulty{page: "connection refused"}, "page", nil},
		{"page, now and then", faulty{flaky: true}, "page", nil},
		{"database", faulty{health: true}, "database", nil},
		{"address", faulty{noAddr: true}, "address", nil},
		{"read-only", faulty{readOnly: true}, "data", nil},
		{"rescue", faulty{rescue: true}, "data", nil},
		{"service", faulty{sick: "notes"}, "service", nil},
		{"crash loop", faulty{loops: "notes"}, "service", nil},
		{"clock", faulty{built: 1e9}, "unknown", nil},
		{"no time to be well", faulty{}, "hang", func(s *sim) { s.limit = 40 * time.Second }},
		{"hardly any time", faulty{}, "hang", func(s *sim) { s.limit = 3 * time.Second }},
		{"not well, and little time", faulty{page: "connection refused"}, "page", func(s *sim) { s.limit = 40 * time.Second }},
		{"commit", faulty{}, "commit", func(s *sim) {
			s.cut = func(point string) error {
				if point == "before the commit" {
					s.first.fail = syscall.EIO
				}
				return nil
			}
		}},
		{"data", faulty{}, "data", func(s *sim) {
			s.cut = func(point string) error {
				if point == "before "+healthFile {
					return syscall.EROFS
				}
				return nil
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSim(t, p, rs[1])
			s.sources[0].dir = dir
			s.behave[version(2)] = tc.fault
			if tc.set != nil {
				tc.set(s)
			}
			play(t, s, func(t *testing.T) {
				s.await("start", time.Minute, idle)
				s.policy(api.UpdatePolicy{Mode: "ask"})
				s.await("an offer", time.Hour, offers(2))
				if code := s.action("install", 2); code != 202 {
					t.Fatal(code)
				}
				began := time.Now()
				u := s.endedWith(api.UpdateBack, tc.cause)
				if took := time.Since(began); took > 7*time.Minute {
					t.Errorf("it took %v", took)
				}
				s.first.fail = nil
				if u.Number != 1 || s.committed() != "a" || u.Last.By != "Ada" || u.Previous != nil || u.Offer == nil || u.Offer.Tried != 1 {
					t.Errorf("%+v", u)
				}
				if tc.cause == "service" && u.Last.Service != "notes" {
					t.Errorf("service %q", u.Last.Service)
				}
				if s.boots > 3 {
					t.Errorf("%d starts", s.boots)
				}
			})
		})
	}
}

func TestTriedTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	t.Parallel()
	p, rs := repo(t, 1, 2)
	before := copyOf(t, p)
	add(p, 3)
	s := newSim(t, p, rs[1])
	s.sources[0].dir = before
	s.behave[version(2)] = faulty{page: "500"}
	play(t, s, func(t *testing.T) {
		u := s.await("two attempts", 80*time.Hour, func(u api.Updates) bool { return u.Problem != nil && u.Problem.Cause == "tried-twice" && idle(u) })
		if u.Offer == nil || u.Offer.Tried != 2 {
			t.Errorf("offer %+v", u.Offer)
		}
		boots := s.boots
		s.rest(28 * time.Hour)
		if u, _ := s.view(); s.boots != boots || u.Number != 1 {
			t.Errorf("it went on: %d starts", s.boots-boots)
		}
		s.action("install", 2) // the owner may
		s.await("the owner's attempt", time.Hour, func(u api.Updates) bool { return u.Offer != nil && u.Offer.Tried == 3 && idle(u) })
		s.setSources(place{kind: "mirror", name: "https://example.org", dir: p.Dir()})
		s.await("a better release", 80*time.Hour, runs(3))
	})
}

func TestNotTaken(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	for _, tc := range []struct {
		name    string
		ignores int
		lacks   string
		outcome string
		cause   string
		starts  int
		number  int64
	}{
		{"once", 1, "", api.UpdateKept, "", 3, 2},
		{"twice", 2, "", api.UpdateKept, "", 4, 2},
		{"always", 99, "", api.UpdateBack, "not-taken", 4, 1},
		{"no way", 0, "no EFI variables", api.UpdateFailed, "not-taken", 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSim(t, p, rs[1])
			s.ignores, s.lacks = tc.ignores, tc.lacks
			play(t, s, func(t *testing.T) {
				s.await("an offer", time.Hour, func(u api.Updates) bool { return u.Offer != nil })
				s.policy(api.UpdatePolicy{From: "00:00", To: "23:59"})
				u := s.endedWith(tc.outcome, tc.cause)
				if u.Number != tc.number || s.boots != tc.starts {
					t.Errorf("release %d runs after %d starts", u.Number, s.boots)
				}
				s.rest(28 * time.Hour)
				if s.boots != tc.starts {
					t.Errorf("it went on, to %d starts", s.boots)
				}
				if tc.outcome == api.UpdateBack {
					if u, _ := s.view(); u.Offer == nil || u.Offer.Tried != 0 {
						t.Errorf("offer %+v", u.Offer)
					}
				}
			})
		})
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	for _, tc := range []struct {
		name, cause string
		set         func(*sim)
	}{
		{"download", "download", func(s *sim) { s.fetchErr = "download" }},
		{"fetcher's disk", "disk-full", func(s *sim) { s.fetchErr = "disk-full" }},
		{"card full of errors", "medium", func(s *sim) { s.rootB.fail = syscall.EIO }},
		{"card fails later", "medium", func(s *sim) { s.rootB.fail, s.rootB.after = syscall.EIO, 1 }},
		{"fake card", "read-back", func(s *sim) { s.rootB.rot = true }},
		{"loader entry", "medium", func(s *sim) { s.first.fail, s.first.after = syscall.EIO, 3 }},
		{"disk full", "disk-full", func(s *sim) {
			s.cut = func(point string) error {
				if point == "before "+slotsFile {
					return syscall.ENOSPC
				}
				return nil
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSim(t, p, rs[1])
			play(t, s, func(t *testing.T) {
				s.await("start", time.Minute, idle)
				s.policy(api.UpdatePolicy{Mode: "ask"})
				s.await("an offer", time.Hour, offers(2))
				s.mu.Lock()
				tc.set(s)
				s.mu.Unlock()
				s.action("install", 2)
				u := s.endedWith(api.UpdateFailed, tc.cause)
				if s.boots != 1 || s.oneShot != "" || s.committed() != "a" || u.Previous != nil {
					t.Errorf("%d starts, %+v", s.boots, u)
				}
				s.mu.Lock()
				s.fetchErr, s.cut = "", nil
				s.rootB.fail, s.rootB.rot, s.first.fail = nil, false, nil
				s.mu.Unlock()
				s.action("install", 2)
				s.await("another try", time.Hour, runs(2))
			})
		})
	}
	t.Run("too large", func(t *testing.T) {
		m := newSim(t, p, rs[1]).medium("a")
		boot, err := m.Room(slots.PartBoot)
		if err != nil || boot != 256<<10 { // as the file of the kernel on the medium has it, not as any board has it
			t.Fatalf("room for a kernel: %d, %v", boot, err)
		}
		root, err := m.Room(slots.PartRoot)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			boot, root int64
			ok         bool
		}{
			{boot, root, true}, {boot + 1, 1, false}, {1, root + 1, false},
		} {
			err := room(m, &release.Release{Boot: release.Part{Size: tc.boot}, Root: release.Part{Size: tc.root}})
			if tc.ok != (err == nil) || err != nil && causeOf(err) != "too-large" {
				t.Errorf("%+v: %v", tc, err)
			}
		}
	})
	t.Run("no root", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		delete(s.etc, "root.json")
		play(t, s, func(t *testing.T) {
			u := s.await("a check", time.Hour, func(u api.Updates) bool { return u.Problem != nil && idle(u) })
			if u.Offer != nil || u.Problem.Cause != "no-trust" || u.Trust.Project != nil {
				t.Errorf("%+v", u)
			}
		})
	})
}

func TestWrongBase(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		spoil func(s *sim, blobs string, r *release.Release)
		cause string
	}{
		{"damaged base", func(s *sim, _ string, _ *release.Release) { s.rootA.b[4711] ^= 1 }, ""},
		{"patch that lies", func(s *sim, blobs string, r *release.Release) {
			for _, p := range r.Root.Patches {
				spoil(s.t, filepath.Join(blobs, p.Blob))
			}
		}, ""},
		{"all of it lies", func(s *sim, blobs string, r *release.Release) {
			for _, p := range r.Root.Patches {
				spoil(s.t, filepath.Join(blobs, p.Blob))
			}
			spoil(s.t, filepath.Join(blobs, r.Root.Frames.Blob))
		}, "wrong-base"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, rs := common(t)
			s := newSim(t, p, rs[1])
			s.sources[0].dir = copyOf(t, p)
			tc.spoil(s, filepath.Join(s.sources[0].dir, "blobs"), rs[2])
			play(t, s, func(t *testing.T) {
				s.await("an offer", time.Hour, func(u api.Updates) bool { return u.Offer != nil })
				if tc.cause != "" {
					s.endedWith(api.UpdateFailed, tc.cause)
					return
				}
				s.policy(api.UpdatePolicy{From: "00:00", To: "23:59"})
				s.await("the new release", time.Hour, runs(2))
				if !slices.Contains(s.fetched, rs[2].Root.Frames.Blob) {
					t.Errorf("fetched %v", s.fetched)
				}
			})
		})
	}
}

// spoil changes a byte in the middle of a file.
func spoil(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		b[len(b)/2] ^= 0x55
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestBack(t *testing.T) {
	t.Parallel()
	p, rs := repo(t, 1, 2)
	before := copyOf(t, p)
	add(p, 3)
	s := newSim(t, p, rs[1])
	s.sources[0].dir = before
	play(t, s, func(t *testing.T) {
		s.await("release 2", 80*time.Hour, runs(2))
		if code := s.action("back", 0); code != 202 {
			t.Fatal(code)
		}
		u := s.await("release 1", time.Hour, runs(1))
		if u.Last.Outcome != api.UpdateKept || u.Last.Version != "v0.1" || u.Last.From != "v0.2" || u.Last.By != "Ada" {
			t.Errorf("last %+v", u.Last)
		}
		if u.Previous == nil || u.Previous.Number != 2 {
			t.Errorf("previous %+v", u.Previous)
		}
		boots := s.boots
		s.rest(28 * time.Hour)
		if u, _ := s.view(); u.Number != 1 || s.boots != boots || u.Offer == nil || u.Offer.Number != 2 {
			t.Errorf("it went to release 2 by itself, or does not offer it: %+v", u)
		}
		s.setSources(place{kind: "mirror", name: "https://example.org", dir: p.Dir()})
		s.await("release 3", 80*time.Hour, runs(3))
		s.action("back", 0)
		s.await("release 1 again", time.Hour, runs(1))
		s.await("an offer", 10*time.Hour, offers(3))
		s.action("install", 3)
		s.await("release 3, as the owner asks", time.Hour, runs(3))
	})
}

func TestBackFails(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[1])
	play(t, s, func(t *testing.T) {
		s.await("release 2", 80*time.Hour, runs(2))
		s.behave[version(1)] = faulty{page: "no"}
		s.action("back", 0)
		u := s.endedWith(api.UpdateBack, "page")
		if u.Number != 2 || s.committed() != "b" {
			t.Errorf("%+v", u)
		}
		s.behave[version(1)] = faulty{}
		s.rootA.b[100] ^= 1 // of the factory's slot nothing is known but that it is complete
		s.action("back", 0)
		s.await("release 1", time.Hour, runs(1))
		s.rootB.b[100] ^= 1 // of this one the hashes
		s.action("back", 0)
		s.endedWith(api.UpdateFailed, "read-back")
	})
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	for _, mode := range []string{"ask", "stay"} {
		t.Run(mode, func(t *testing.T) {
			s := newSim(t, p, rs[1])
			play(t, s, func(t *testing.T) {
				s.await("start", time.Minute, idle)
				s.policy(api.UpdatePolicy{Mode: mode})
				s.await("an offer", time.Hour, offers(2))
				s.rest(28 * time.Hour)
				if u, _ := s.view(); len(s.fetched) > 0 || u.Last != nil {
					t.Errorf("it began by itself: %+v", u.Last)
				}
				if s.action("install", 3) != 409 || s.action("restart", 0) != 409 || s.action("back", 0) != 409 || s.action("cancel", 0) != 409 ||
					s.action("dance", 0) != 422 {
					t.Error("what can't be was done")
				}
				s.action("tonight", 2)
				u := s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady })
				if u.Next == nil || u.Next.In(time.FixedZone("", 3600)).Hour() < 2 {
					t.Errorf("next %v", u.Next)
				}
				u = s.await("tonight", 30*time.Hour, runs(2))
				if u.Last.By != "Ada" {
					t.Errorf("%+v", u.Last)
				}
			})
		})
	}
	t.Run("metered", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			s.policy(api.UpdatePolicy{Metered: true, Alone: true, Mirrors: []string{"https://mirror.example"}})
			s.await("a fetch", time.Hour, func(u api.Updates) bool { return len(s.asked) > 0 })
			if s.asked[0] {
				t.Error("it would use the metered line by itself")
			}
			if s.settings == nil || s.settings.Share || len(s.settings.Mirrors) != 1 {
				t.Errorf("the fetcher was told %+v", s.settings)
			}
		})
	})
	t.Run("changed while ready", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		play(t, s, func(t *testing.T) {
			s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady })
			s.policy(api.UpdatePolicy{Mode: "stay"})
			s.rest(28 * time.Hour)
			if s.boots != 1 {
				t.Error("it restarted although it is to stay")
			}
			s.action("restart", 0)
			s.await("the new release", time.Hour, runs(2))
		})
	})
	t.Run("wrong", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			for _, b := range []api.UpdateSettings{
				{Policy: api.UpdatePolicy{Mode: "never"}},
				{Policy: api.UpdatePolicy{From: "25:00"}},
				{TimeZone: "Mars/Olympus"},
				{TimeZone: "Local"},
				{Policy: api.UpdatePolicy{Channel: "nightly"}},
				{Policy: api.UpdatePolicy{Mirrors: []string{"ftp://x"}}},
				{Policy: api.UpdatePolicy{Mirrors: make([]string, 9)}},
				{TimeZone: "../../etc/passwd"},
			} {
				if code := s.ask("PUT", "/v1/policy", b); code != 422 {
					t.Errorf("%+v: %d", b, code)
				}
			}
		})
	})
}

func TestBusyAndClock(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	t.Run("busy", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		play(t, s, func(t *testing.T) {
			s.await("an offer", time.Hour, func(u api.Updates) bool { return u.Offer != nil })
			if s.ask("POST", "/v1/busy", api.UpdateBusy{Who: "backup", ForMS: time.Hour.Milliseconds()}) != 204 || s.ask("POST", "/v1/busy", api.UpdateBusy{Who: "Back up", ForMS: 1}) != 422 {
				t.Error("the lease was not taken, or a wrong one was")
			}
			s.action("install", 2)
			began := time.Now()
			u := s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady && u.Last.Cause == "busy" })
			if u.Last.Outcome != "" {
				t.Errorf("%+v", u.Last)
			}
			s.await("the new release", 3*time.Hour, runs(2))
			if took := time.Since(began); took < time.Hour || took > 70*time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("busy no longer", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		play(t, s, func(t *testing.T) {
			s.await("an offer", time.Hour, func(u api.Updates) bool { return u.Offer != nil })
			s.ask("POST", "/v1/busy", api.UpdateBusy{Who: "export", ForMS: 1 << 50})
			s.action("install", 2)
			s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady && u.Last.Cause == "busy" })
			s.ask("POST", "/v1/busy", api.UpdateBusy{Who: "export", ForMS: 0})
			s.await("the new release", 10*time.Minute, runs(2))
		})
	})
	for _, sure := range []bool{true, false} {
		t.Run(map[bool]string{true: "clock sure later", false: "clock never sure"}[sure], func(t *testing.T) {
			s := newSim(t, p, rs[1])
			s.certainty = api.ClockUnsure
			play(t, s, func(t *testing.T) {
				s.await("start", time.Minute, idle)
				s.policy(api.UpdatePolicy{From: "00:00", To: "23:59"})
				began := time.Now()
				s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady })
				s.rest(3 * time.Hour)
				if s.boots != 1 {
					t.Error("it restarted without knowing the time")
				}
				if sure {
					s.mu.Lock()
					s.certainty = api.ClockKept
					s.mu.Unlock()
				}
				s.await("the new release", 30*time.Hour, runs(2))
				if took := time.Since(began); sure != (took < 4*time.Hour) || took > 25*time.Hour {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[1])
	s.slow = time.Hour
	play(t, s, func(t *testing.T) {
		u := s.await("download", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateDownloading && u.Progress != nil })
		if !u.Progress.Cancel {
			t.Error("a download can't be cancelled")
		}
		if s.action("install", 2) != 409 || s.action("back", 0) != 409 {
			t.Error("two things at once")
		}
		s.action("cancel", 0)
		u = s.endedWith(api.UpdateCancelled, "")
		if u.Offer == nil {
			t.Error("no offer any more")
		}
		s.mu.Lock()
		s.slow = 0
		s.mu.Unlock()
		s.action("tonight", 2)
		s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady })
		s.action("cancel", 0)
		s.endedWith(api.UpdateCancelled, "")
		s.rest(20 * time.Hour)
		if s.boots != 1 {
			t.Error("what was cancelled went on")
		}
	})
}

func TestDowngrade(t *testing.T) {
	t.Parallel()
	old, rs := common(t)
	t.Run("nothing newer", func(t *testing.T) {
		s := newSim(t, old, rs[2])
		play(t, s, func(t *testing.T) {
			u := s.await("a check", time.Hour, func(u api.Updates) bool { return u.Checked != nil && idle(u) })
			if u.Offer != nil || u.Problem != nil {
				t.Errorf("%+v", u)
			}
		})
	})
	t.Run("metadata of yesterday", func(t *testing.T) {
		p, rs := repo(t, 1, 2)
		before := copyOf(t, p)
		add(p, 3)
		s := newSim(t, p, rs[1])
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			s.policy(api.UpdatePolicy{Mode: "ask"})
			s.await("an offer", time.Hour, offers(3))
			s.setSources(place{kind: "mirror", name: "liar", dir: before})
			s.action("check", 0)
			u := s.await("a problem", time.Hour, func(u api.Updates) bool { return u.Problem != nil && idle(u) })
			if u.Problem.Cause != "rollback" {
				t.Errorf("%+v", u.Problem)
			}
			if u.Offer != nil && u.Offer.Number != 3 {
				t.Errorf("%+v", u.Offer)
			}
		})
	})
	t.Run("not newer on a stick", func(t *testing.T) {
		s := newSim(t, old, rs[2])
		s.sources = nil
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			s.setSources(place{kind: "usb", name: "stick", dir: old.Dir(), version: "v0.2"})
			u := s.await("a problem", time.Hour, func(u api.Updates) bool { return u.Problem != nil && u.Problem.Cause == "not-newer" && idle(u) })
			if u.Offer != nil {
				t.Errorf("%+v", u.Offer)
			}
		})
	})
}

func TestStickWithoutNetwork(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[1])
	s.sources = nil
	s.certainty = api.ClockUnsure
	play(t, s, func(t *testing.T) {
		s.await("start", time.Minute, idle)
		s.policy(api.UpdatePolicy{Mode: "ask"})
		u := s.await("no source", time.Hour, func(u api.Updates) bool { return u.Problem != nil && idle(u) })
		if u.Problem.Cause != "no-source" || u.Checked != nil {
			t.Errorf("%+v", u)
		}
		s.setSources(place{kind: "usb", name: "stick", dir: p.Dir(), version: "v0.2"})
		u = s.await("an offer", 5*time.Second, offers(2))
		if u.Offer.Source != "usb" || u.Offer.Stale || u.Problem != nil || len(u.Sources) != 1 {
			t.Errorf("%+v", u)
		}
		s.action("install", 2)
		u = s.await("the new release", time.Hour, runs(2))
		if u.Last.Source != "usb" {
			t.Errorf("%+v", u.Last)
		}
	})
}

func TestStale(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{Now: func() time.Time { return time.Now().Add(-12 * 24 * time.Hour) }})
	first := add(p, 1)[0]
	add(p, 2)
	s := newSim(t, p, first)
	play(t, s, func(t *testing.T) {
		s.await("start", time.Minute, idle)
		s.policy(api.UpdatePolicy{Mode: "ask"})
		u := s.await("an offer", time.Hour, offers(2))
		if u.Offer.Stale {
			t.Error("it is stale already")
		}
		s.rest(2 * 24 * time.Hour) // the timestamp expires
		s.policy(api.UpdatePolicy{})
		u = s.await("a check", 10*time.Hour, func(u api.Updates) bool {
			return u.Problem != nil && u.Problem.Cause == "stale" && u.Offer != nil && idle(u)
		})
		if !u.Offer.Stale {
			t.Errorf("%+v", u.Offer)
		}
		s.rest(28 * time.Hour)
		if u, _ := s.view(); u.Last != nil {
			t.Errorf("it installed by itself what is stale: %+v", u.Last)
		}
		s.action("install", 2)
		s.await("the owner's wish", time.Hour, runs(2))
	})
}

func fp(root []byte) string {
	sum := sha256.Sum256(root)
	return hex.EncodeToString(sum[:])
}

func TestForkRoot(t *testing.T) {
	t.Parallel()
	p, rs := repo(t, 1, 2)
	fork, _ := repo(t, 1) // numbers of its own
	before := copyOf(t, p)
	add(p, 3)
	s := newSim(t, p, rs[2])
	s.sources[0].dir = before
	mine := place{kind: "mirror", name: "https://fork.example", dir: fork.Dir()}
	play(t, s, func(t *testing.T) {
		s.await("a check", time.Hour, func(u api.Updates) bool { return u.Checked != nil && idle(u) })
		set := func(f, root string) int {
			return s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "set", Name: "Fork", Fingerprint: f, Root: root, By: "Ada"})
		}
		f := fp(fork.Root())
		wrong := "0" + f[1:]
		if f[0] == '0' {
			wrong = "1" + f[1:]
		}
		for name, code := range map[string]int{
			"wrong fingerprint": set(wrong, string(fork.Root())), "short": set(f[:63], string(fork.Root())), "unknown": set(f, ""),
			"not a root":      set(fp([]byte("{}")), "{}"),
			"changed":         set(fp(append(fork.Root(), ' ')), string(fork.Root())),
			"no such role":    s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "king", Action: "set"}),
			"remove projects": s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "remove"}),
		} {
			if code != 422 {
				t.Errorf("%s: %d", name, code)
			}
		}
		if u, _ := s.view(); !u.Trust.Builtin {
			t.Fatalf("trust %+v", u.Trust)
		}
		s.setSources(mine)
		grouped := strings.ToUpper(f[:8]) + ": " + f[8:32] + " " + f[32:]
		if code := set(grouped, string(fork.Root())); code != 204 {
			t.Fatal(code)
		}
		u := s.await("the fork's offer", time.Hour, offers(1))
		if u.Trust.Builtin || u.Trust.Project.Name != "Fork" || u.Trust.Project.Fingerprint != f || u.Trust.Project.Witnesses < 1 || u.Trust.Project.Keys < 3 {
			t.Errorf("trust %+v", u.Trust.Project)
		}
		s.rest(28 * time.Hour)
		if u, _ := s.view(); u.Last != nil {
			t.Errorf("another publisher's release was installed by itself: %+v", u.Last)
		}
		s.action("install", 1)
		s.await("the fork", time.Hour, runs(1))

		// One tap back. What was seen of the project counts still: it can't be shown the state of then.
		s.setSources(place{kind: "mirror", name: "https://example.org", dir: p.Dir()})
		if code := s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "builtin"}); code != 204 {
			t.Fatal(code)
		}
		u = s.await("the project's offer", time.Hour, offers(3))
		if !u.Trust.Builtin {
			t.Errorf("trust %+v", u.Trust)
		}
		if set(f, "") != 204 { // known by now
			t.Error("the fork is not known any more")
		}
		s.setSources(place{kind: "mirror", name: "https://example.org", dir: before})
		s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "builtin"})
		u = s.await("a check", time.Hour, func(u api.Updates) bool { return u.Problem != nil && idle(u) })
		if u.Problem.Cause != "rollback" {
			t.Errorf("problem %+v", u.Problem)
		}
	})
}

func TestAuditor(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	agrees := publishtest.New(t, publishtest.Options{Origin: "auditor.example/log"})
	agrees.Audit(p)
	s := newSim(t, p, rs[1])
	other, _ := repo(t, 1)
	s.sources = append(s.sources, place{kind: "mirror", name: "https://auditor.example", dir: other.Dir(), prefix: "auditors/example.org/"})
	play(t, s, func(t *testing.T) {
		s.await("start", time.Minute, idle)
		s.policy(api.UpdatePolicy{Mode: "ask"})
		set := func(q *publishtest.Publisher) int {
			return s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "auditor", Action: "set", Name: "Example.org", Fingerprint: fp(q.Root()), Root: string(q.Root())})
		}
		if code := set(other); code != 204 {
			t.Fatal(code)
		}
		u := s.await("no agreement", time.Hour, func(u api.Updates) bool { return u.Problem != nil && idle(u) && u.Checked != nil })
		if u.Problem.Cause != "disagree" || u.Offer != nil || u.Trust.Auditor == nil || u.Trust.Auditor.Name != "example.org" {
			t.Errorf("%+v %+v", u.Problem, u.Offer)
		}
		s.setSources(s.sources[0], place{kind: "mirror", name: "https://auditor.example", dir: agrees.Dir(), prefix: "auditors/example.org/"})
		if code := set(agrees); code != 204 {
			t.Fatal(code)
		}
		u = s.await("agreement", time.Hour, offers(2))
		if u.Offer.Evidence.Auditor != "example.org" {
			t.Errorf("%+v", u.Offer.Evidence)
		}
		s.action("install", 2)
		s.await("the new release", time.Hour, runs(2))
		if code := s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "auditor", Action: "remove"}); code != 204 {
			t.Fatal(code)
		}
		if u, _ := s.view(); u.Trust.Auditor != nil {
			t.Errorf("%+v", u.Trust.Auditor)
		}
	})
}

func TestTrustStopsWork(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	fork, _ := repo(t, 1)
	s := newSim(t, p, rs[1])
	s.slow = time.Hour
	play(t, s, func(t *testing.T) {
		s.await("download", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateDownloading })
		code := s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "set", Name: "F", Fingerprint: fp(fork.Root()), Root: string(fork.Root())})
		if code != 204 {
			t.Fatal(code)
		}
		u := s.endedWith(api.UpdateCancelled, "interrupted")
		if u.Offer != nil {
			t.Errorf("%+v", u.Offer)
		}
	})
}

// TestPowerCuts cuts the power before and after everything that the engine writes durably, and at every point where it has the
// box do something. The box has to come up, go on by itself, and end with the new release kept.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[1])
	var points []string
	s.cut = func(point string) error {
		points = append(points, point)
		return nil
	}
	update := func(t *testing.T, s *sim) {
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, func(u api.Updates) bool { return idle(u) })
			wish := api.UpdateSettings{Policy: api.UpdatePolicy{From: "00:00", To: "23:59"}, TimeZone: "Europe/Berlin"}
			for try := 0; s.ask("PUT", "/v1/policy", wish) != 204; try++ { // core says it again, too
				if try == 10 {
					t.Fatal("the policy is not taken")
				}
				s.rest(0)
			}
			u := s.await("the new release", 100*time.Hour, runs(2))
			if s.committed() != "b" || u.Last.Outcome != api.UpdateKept || len(s.engine.attempts()) > 4 {
				t.Errorf("%+v", u)
			}
			for _, a := range s.engine.attempts() {
				if a.Ended == nil {
					t.Errorf("an attempt is open: %+v", a)
				}
			}
		})
	}
	update(t, s)
	if len(points) < 30 {
		t.Fatalf("only %d points: %q", len(points), points)
	}
	step := 1
	if testing.Short() {
		step = 11
	}
	for i := 0; i < len(points); i += step {
		t.Run(points[i], func(t *testing.T) {
			s := newSim(t, p, rs[1])
			n := 0
			s.cut = func(string) error {
				if n++; n == i+1 {
					s.powerOut()
					return errPower
				}
				return nil
			}
			update(t, s)
			if n <= i {
				t.Skip("this time there were fewer")
			}
		})
	}
}

// TestPowerCutsWhileWriting cuts the power in the middle of writing to the medium.
func TestPowerCutsWhileWriting(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	for _, tc := range []struct{ first, root int }{{-1, 0}, {-1, 1}, {0, -1}, {1, -1}, {2, -1}, {3, -1}, {4, -1}, {5, -1}} {
		if testing.Short() && tc.first > 1 {
			continue
		}
		s := newSim(t, p, rs[1])
		cut := false
		hook := func(at int) func(int) {
			return func(write int) {
				if write >= at && at >= 0 && !cut {
					cut = true
					go func() {
						s.mu.Lock()
						defer s.mu.Unlock()
						s.powerOut()
					}()
				}
			}
		}
		s.first.n, s.rootB.n = 0, 0
		s.first.hook, s.rootB.hook = hook(tc.first), hook(tc.root)
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			s.policy(api.UpdatePolicy{From: "00:00", To: "23:59"})
			s.await("the new release", 100*time.Hour, runs(2))
		})
		if !cut {
			t.Errorf("%+v: there were fewer writes", tc)
		}
	}
}

func TestCutOffTooOften(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[1])
	s.rootB.hook = func(write int) {
		go func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.powerOut() // the power can't stand it
		}()
	}
	play(t, s, func(t *testing.T) {
		s.await("start", time.Minute, idle)
		s.policy(api.UpdatePolicy{From: "00:00", To: "23:59"})
		s.rest(28 * time.Hour)
		u := s.await("rest", time.Hour, func(u api.Updates) bool { return idle(u) && u.Offer != nil })
		if s.boots != 1+maxCutOff || u.Last.Cause != "power" || u.Last.Outcome != api.UpdateFailed {
			t.Errorf("%d starts, %+v", s.boots, u.Last)
		}
	})
}

func TestLostState(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	t.Run("pending is damaged", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		s.cut = func(point string) error {
			if point == "before the restart" {
				for _, f := range []string{pendingFile, historyFile, slotsFile, stateFile} {
					os.WriteFile(filepath.Join(s.dir, f), []byte("{]"), 0o600)
				}
			}
			return nil
		}
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			s.policy(api.UpdatePolicy{From: "00:00", To: "23:59"})
			u := s.await("the new release", 100*time.Hour, runs(2))
			if u.Last == nil || u.Last.Outcome != api.UpdateKept {
				t.Errorf("%+v", u.Last)
			}
		})
	})
	t.Run("the owner's will is damaged", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		if err := os.WriteFile(filepath.Join(s.dir, settingsFile), []byte("\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			s.policy(api.UpdatePolicy{})
			u := s.await("a check", time.Hour, func(u api.Updates) bool { return u.Problem != nil && idle(u) })
			if u.Offer != nil || u.Trust.Project != nil {
				t.Errorf("%+v", u)
			}
			s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "builtin"})
			s.await("an offer", time.Hour, func(u api.Updates) bool { return u.Offer != nil })
		})
	})
	t.Run("a store is damaged", func(t *testing.T) {
		s := newSim(t, p, rs[1])
		play(t, s, func(t *testing.T) {
			s.await("start", time.Minute, idle)
			s.policy(api.UpdatePolicy{Mode: "ask"})
			s.await("an offer", time.Hour, offers(2))
		})
		damage(t, filepath.Join(s.dir, trustDir))
		play(t, s, func(t *testing.T) {
			u := s.await("a check", time.Hour, func(u api.Updates) bool { return u.Problem != nil && idle(u) })
			if u.Problem.Cause != "bad-metadata" || u.Offer != nil {
				t.Errorf("%+v", u.Problem)
			}
			if code := s.ask("PUT", "/v1/trust", api.TrustRequest{Role: "project", Action: "builtin"}); code != 204 {
				t.Errorf("the owner can't mend it: %d", code)
			}
			s.await("an offer", time.Hour, offers(2))
		})
	})
}

// damage empties all files below a folder but the roots.
func damage(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".root.json") {
			return err
		}
		return os.WriteFile(path, []byte("x"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWithdrawn(t *testing.T) {
	t.Parallel()
	p, rs := repo(t, 1, 2)
	with2 := copyOf(t, p)
	p.Withdraw(release.Stable, "pc", version(2))
	s := newSim(t, p, rs[1])
	s.sources[0].dir = with2
	play(t, s, func(t *testing.T) {
		s.await("start", time.Minute, idle)
		s.policy(api.UpdatePolicy{Mode: "ask"})
		s.await("an offer", time.Hour, offers(2))
		s.action("tonight", 2)
		s.await("ready", time.Hour, func(u api.Updates) bool { return u.State == api.UpdateReady })
		s.setSources(place{kind: "mirror", name: "https://example.org", dir: p.Dir()})
		s.action("check", 0)
		u := s.endedWith(api.UpdateFailed, "bad-metadata")
		if u.Number != 1 || s.boots != 1 {
			t.Errorf("%+v", u)
		}
	})
}

func TestRescueSystem(t *testing.T) {
	t.Parallel()
	p, rs := common(t)
	s := newSim(t, p, rs[2])
	s.rescue = true
	play(t, s, func(t *testing.T) {
		s.await("the same release", time.Hour, offers(2))
		s.rest(28 * time.Hour)
		if u, _ := s.view(); u.Last != nil {
			t.Errorf("it installed by itself: %+v", u.Last)
		}
		s.action("install", 2)
		s.await("the other slot", time.Hour, func(u api.Updates) bool { return s.committed() == "b" })
	})
}

func TestHistoryIsBounded(t *testing.T) {
	var h history
	for range 3 * maxHistory {
		h.add(attempt{})
	}
	if len(h) != maxHistory {
		t.Errorf("%d attempts", len(h))
	}
}

func TestCauses(t *testing.T) {
	for _, err := range []error{errNobody, errTooLarge, because("page", errors.New("x")), syscall.ENOSPC, errors.New("?")} {
		if c := causeOf(err); !slices.Contains(api.UpdateCauses(), c) {
			t.Errorf("%v: %q is no cause", err, c)
		}
	}
	for _, c := range gravest {
		if !slices.Contains(api.UpdateCauses(), c) {
			t.Errorf("%q is no cause", c)
		}
	}
	if known("page") != "page" || known("<script>") != "unknown" {
		t.Error("causes pass as they come")
	}
}

func TestFilesAreWhole(t *testing.T) {
	f := files{dir: t.TempDir()}
	if err := f.save("a", map[string]int{"x": 1}); err != nil {
		t.Fatal(err)
	}
	f.cut = func(p string) error { return errPower }
	if err := f.save("a", map[string]int{"x": 2}); err == nil {
		t.Error("saved without power")
	}
	var v map[string]int
	if err := f.load("a", &v); err != nil || v["x"] != 1 {
		t.Errorf("%v %v", v, err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "b"), make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if f.load("b", &v) == nil {
		t.Error("a file of any size is read")
	}
}

var _ = daemon.ErrConfig
