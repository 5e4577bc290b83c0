package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

func openTest(t *testing.T, dir string) *state {
	t.Helper()
	st, err := openState(t.Context(), dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestStateIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space, # and %41?")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var token string
	for i := range 3 {
		st := openTest(t, dir)
		if len(st.notices) != 0 {
			t.Errorf("notices %v", st.notices)
		}
		s, err := openSessions(t.Context(), st, quiet, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			token = s.create(t.Context())
		} else if _, ok := s.get(t.Context(), token); !ok {
			t.Errorf("start %d: the session is gone", i)
		}
		if err := st.check(t.Context()); err != nil {
			t.Error(err)
		}
		if err := st.close(); err != nil {
			t.Error(err)
		}
		if fi, err := os.Stat(filepath.Join(dir, stateFile+"-wal")); err == nil && fi.Size() > 0 {
			t.Errorf("the journal has %d bytes after closing", fi.Size())
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), token) {
		t.Error("the token itself is on the disk")
	}
}

func TestPragmas(t *testing.T) {
	st := openTest(t, t.TempDir())
	defer st.close()
	for name, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000",
		"cache_size": "-512", "journal_size_limit": "16777216", "user_version": fmt.Sprint(len(migrations)),
	} {
		var got string
		if err := st.db.QueryRow("PRAGMA " + name).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
}

func TestDamagedState(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
	}{
		{"no database", func([]byte) []byte { return []byte(strings.Repeat("garbage ", 1000)) }},
		{"second page overwritten", func(b []byte) []byte { copy(b[4096:], strings.Repeat("\xff", 4096)); return b }},
		{"cut off", func(b []byte) []byte { return b[:5000] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for round := range 2 { // twice within a second: the names must not collide
				st := openTest(t, dir)
				s, err := openSessions(t.Context(), st, quiet, time.Now)
				if err != nil {
					t.Fatal(err)
				}
				s.create(t.Context())
				st.close()
				path := filepath.Join(dir, stateFile)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				b = tt.damage(b)
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				st = openTest(t, dir)
				if len(st.notices) != 1 || st.notices[0].Name != "state-replaced" {
					t.Errorf("notices %v", st.notices)
				}
				if err := st.check(t.Context()); err != nil {
					t.Errorf("the fresh one: %v", err)
				}
				st.close()
				kept, err := filepath.Glob(filepath.Join(dir, "damaged-*-"+stateFile))
				if err != nil || len(kept) != round+1 {
					t.Fatalf("kept %v %v", kept, err)
				}
				for _, k := range kept {
					if got, err := os.ReadFile(k); err != nil || len(got) != len(b) {
						t.Errorf("%s: %d bytes, %v", k, len(got), err)
					}
				}
			}
		})
	}
}

func TestNewerState(t *testing.T) {
	dir := t.TempDir()
	st := openTest(t, dir)
	if _, err := st.db.Exec("PRAGMA user_version=1000"); err != nil {
		t.Fatal(err)
	}
	st.close()
	if _, err := openState(t.Context(), dir, quiet); !errors.Is(err, errNewer) {
		t.Errorf("%v", err)
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, "damaged-*")); len(kept) != 0 {
		t.Errorf("set aside %v", kept)
	}
}

func TestStateInMemory(t *testing.T) {
	for name, dir := range map[string]string{"none": "", "missing": filepath.Join(t.TempDir(), "missing")} {
		st := openTest(t, dir)
		s, err := openSessions(t.Context(), st, quiet, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		token := s.create(t.Context())
		if _, ok := s.get(t.Context(), token); !ok {
			t.Errorf("%s: no session", name)
		}
		if told := len(st.notices) == 1; told != (dir != "") {
			t.Errorf("%s: notices %v", name, st.notices)
		}
		st.close()
	}
}

func TestSessionsWithoutDisk(t *testing.T) {
	st := openTest(t, t.TempDir())
	s, err := openSessions(t.Context(), st, quiet, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	st.db.Close() // every write fails from now on, as on a full disk
	token := s.create(t.Context())
	if _, ok := s.get(t.Context(), token); !ok {
		t.Error("no session while the disk fails")
	}
	if st.check(t.Context()) == nil {
		t.Error("a database that does not answer counts as healthy")
	}
}

func TestSessionLife(t *testing.T) {
	ctx := context.Background()
	st := openTest(t, t.TempDir())
	defer st.close()
	now := time.Now().Round(0)
	clock := func() time.Time { return now }
	s, err := openSessions(ctx, st, quiet, clock)
	if err != nil {
		t.Fatal(err)
	}
	token := s.create(ctx)
	if renewed, ok := s.use(ctx, token); !ok || renewed {
		t.Errorf("just created: renewed %v, ok %v", renewed, ok)
	}
	now = now.Add(renewEvery + time.Minute)
	if _, ok := s.get(ctx, token); !ok {
		t.Error("looking at it ended it")
	}
	renewed, ok := s.use(ctx, token)
	v, _ := s.get(ctx, token)
	if !ok || !renewed || !v.Expires.Equal(now.Add(sessionLife)) {
		t.Errorf("used later: renewed %v, ok %v, %v", renewed, ok, v)
	}
	// The stored times are the renewed ones.
	again, err := openSessions(ctx, st, quiet, func() time.Time { return now.Add(sessionLife - time.Minute) })
	if err != nil || len(again.all) != 1 {
		t.Errorf("after a restart: %v %v", again, err)
	}
	// A clock that was ahead when the session was written gives it no longer life.
	again, err = openSessions(ctx, st, quiet, func() time.Time { return now.Add(-1000 * time.Hour) })
	if err != nil || len(again.all) != 1 {
		t.Fatalf("after a restart: %v %v", again, err)
	}
	for _, e := range again.all {
		if e.expires.After(now.Add(-1000*time.Hour + sessionLife)) {
			t.Errorf("expires %v", e.expires)
		}
	}
	now = now.Add(sessionLife)
	if _, ok := s.get(ctx, token); ok {
		t.Error("outlives its life")
	}
	var n int
	if st.db.QueryRow("SELECT count(*) FROM sessions").Scan(&n); n != 0 {
		t.Errorf("%d sessions stored", n)
	}
}

func TestSessionsBounded(t *testing.T) {
	ctx := context.Background()
	st := openTest(t, "")
	defer st.close()
	now := time.Now()
	s, err := openSessions(ctx, st, quiet, func() time.Time { now = now.Add(time.Second); return now })
	if err != nil {
		t.Fatal(err)
	}
	first := s.create(ctx)
	second := s.create(ctx)
	for range maxSessions - 1 {
		s.create(ctx)
	}
	if _, ok := s.get(ctx, first); ok || len(s.all) != maxSessions {
		t.Errorf("%d sessions, the oldest is there: %v", len(s.all), ok)
	}
	if _, ok := s.get(ctx, second); !ok {
		t.Error("the second is gone too")
	}
}

// TestStoredSessionsBounded sees that what has expired while nobody looked does not stay on the disk for ever.
func TestStoredSessionsBounded(t *testing.T) {
	ctx := context.Background()
	st := openTest(t, t.TempDir())
	defer st.close()
	now := time.Now()
	for i := range 2 * maxSessions {
		seen := now.Add(-time.Duration(i) * time.Hour).Unix()
		_, err := st.db.Exec("INSERT INTO sessions (token, created, seen, expires) VALUES (?, ?, ?, ?)",
			fmt.Appendf(nil, "%032d", i), seen, seen, seen+int64(sessionLife/time.Second))
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := openSessions(ctx, st, quiet, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if want := int(sessionLife / time.Hour); len(s.all) != want {
		t.Errorf("%d sessions go on, want %d", len(s.all), want)
	}
	var n int
	if err := st.db.QueryRow("SELECT count(*) FROM sessions").Scan(&n); err != nil || n != maxSessions {
		t.Errorf("%d sessions stored, want %d: %v", n, maxSessions, err)
	}
}
