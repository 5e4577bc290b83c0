package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestQuery compares the pages of many filters with all that was ever added, over several boots, with files of all
// sizes, some torn, and services of which memory has forgotten a part.
func TestQuery(t *testing.T) {
	for seed := range int64(2) {
		rnd := rand.New(rand.NewSource(seed))
		dir := t.TempDir()
		var all []Entry // oldest first
		var j *Journal
		for boot := range 4 {
			j = newJournal(fmt.Sprint("boot-", boot))
			early := rnd.Intn(20)
			for i := range 200 {
				if i == early {
					if err := j.Attach(dir); err != nil {
						t.Fatal(err)
					}
					j.store.maxFile = 1 + int64(rnd.Intn(5000))
				}
				level := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}[rnd.Intn(4)]
				service := []string{"noisy", "noisy", "noisy", "quiet"}[rnd.Intn(4)]
				msg, fields := fmt.Sprint("line ", i), json.RawMessage(`{"what":"Äpfel"}`)
				if service == "noisy" {
					msg, fields = msg+strings.Repeat(" noise", rnd.Intn(100)), nil
				}
				j.add(service, level, msg, fields)
				all = append(all, Entry{Boot: j.boot, Seq: j.seq, Service: service, Level: level, Msg: msg, Fields: fields})
				if rnd.Intn(10) == 0 && i > early {
					if err := j.Sync(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if boot == 3 {
				break
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if boot == 1 && seed%2 == 1 { // a torn member at the end
				last := lastFile(t, dir)
				f, err := os.OpenFile(last, os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				f.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0})
				f.Close()
			}
		}
		for _, f := range []Filter{
			{Level: slog.LevelDebug},
			{},
			{Level: slog.LevelError},
			{Service: "quiet"},
			{Service: "noisy", Level: slog.LevelWarn},
			{Text: "äPFEL"},
			{Text: "LINE 1"},
			{Text: "nowhere"},
			{Text: "line 77"},
		} {
			var want []string
			for _, e := range slices.Backward(all) {
				if e.Level >= f.Level && (f.Service == "" || f.Service == e.Service) &&
					strings.Contains(strings.ToLower(e.Msg+string(e.Fields)), strings.ToLower(f.Text)) {
					want = append(want, e.ID())
				}
			}
			for _, limit := range []int{1, 40, 1000} {
				if limit == 1 && len(want) > 20 {
					continue
				}
				var got []string
				pages := 0
				for after := ""; ; pages++ {
					p, err := j.Query(t.Context(), f, after, limit)
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range p.Entries {
						got = append(got, e.ID())
					}
					if len(p.Entries) > min(limit, maxPage) || pages > len(want)+100 {
						t.Fatalf("seed %d, %+v: page %d of limit %d has %d entries", seed, f, pages, limit, len(p.Entries))
					}
					if after = p.Next; after == "" {
						break
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("seed %d, %+v, limit %d: got %d entries, want %d", seed, f, limit, len(got), len(want))
				}
			}
		}
		j.Close()
	}
}

// lastFile returns the last file in dir.
func lastFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return slices.Max(files)
}

// A page is small enough to be read by whoever asked, whatever the lines are.
func TestPageIsBounded(t *testing.T) {
	j := newJournal("boot")
	if err := j.Attach(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	const lines = 40
	for range lines {
		j.add("s", 0, strings.Repeat("\x01", maxLine), nil)
	}
	seen := 0
	for after := ""; ; {
		p, err := j.Query(t.Context(), Filter{}, after, 200)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(p.Entries)
		if err != nil || len(b) > 1<<20 || len(p.Entries) == 0 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		seen += len(p.Entries)
		if after = p.Next; after == "" {
			break
		}
	}
	if seen != lines {
		t.Errorf("%d entries", seen)
	}
}

// A search that has gone through enough says where it stopped, and goes on from there to the end.
func TestSearchIsBounded(t *testing.T) {
	j := newJournal("boot")
	if err := j.Attach(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	j.store.maxFile, j.most = 1, 256<<10
	j.add("s", 0, "needle", nil)
	for range 1 << 10 {
		j.add("s", 0, strings.Repeat("x", 1<<10), nil)
	}
	pages := 0
	for after := ""; ; pages++ {
		p, err := j.Query(t.Context(), Filter{Text: "NEEDLE"}, after, 10)
		if err != nil {
			t.Fatal(err)
		}
		if after == p.Next {
			t.Fatalf("page %d goes on at %q again", pages, p.Next)
		}
		if len(p.Entries) == 1 {
			break
		}
		if after = p.Next; after == "" {
			t.Fatal("never found")
		}
	}
	if pages == 0 {
		t.Error("all was searched at once")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := j.Query(ctx, Filter{Text: "needle"}, "", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}

func TestPositions(t *testing.T) {
	j := newJournal("boot")
	j.add("s", 0, "a", nil)
	for _, after := range []string{"x", "-", "-1", "boot-", "boot-x", "boot-1-" + strings.Repeat("9", 99)} {
		if _, err := j.Query(t.Context(), Filter{}, after, 1); !errors.Is(err, ErrPosition) {
			t.Errorf("%q: %v", after, err)
		}
	}
	for after, want := range map[string]int{"": 1, "boot-1": 0, "boot-2": 1, "gone-7": 0} {
		if p, err := j.Query(t.Context(), Filter{}, after, 5); err != nil || len(p.Entries) != want || p.Next != "" {
			t.Errorf("%q: %+v, %v", after, p, err)
		}
	}
}

func TestFollow(t *testing.T) {
	j := newJournal("boot")
	lines, stop, err := j.Follow(Filter{Service: "s", Level: slog.LevelWarn})
	if err != nil {
		t.Fatal(err)
	}
	j.add("s", slog.LevelInfo, "too light", nil)
	j.add("other", slog.LevelError, "another's", nil)
	j.add("s", slog.LevelError, "heard", nil)
	if e := <-lines; e.Msg != "heard" || e.ID() != "boot-3" {
		t.Errorf("got %+v", e)
	}
	stop()
	j.add("s", slog.LevelError, "after the end", nil)
	if len(lines) > 0 {
		t.Error("heard after the end")
	}

	slow, stop, err := j.Follow(Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for range followBuffer + 1 {
		j.add("s", slog.LevelInfo, "m", nil)
	}
	n := 0
	for range slow { // ends, as the journal waits for nobody
		n++
	}
	if n != followBuffer {
		t.Errorf("%d entries", n)
	}
	stop()
	for range maxFollowers {
		if _, _, err := j.Follow(Filter{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := j.Follow(Filter{}); !errors.Is(err, ErrFull) {
		t.Errorf("one too many: %v", err)
	}
}
