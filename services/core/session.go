package core

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	sessionLife = 7 * 24 * time.Hour // since the last renewal
	renewEvery  = 6 * time.Hour      // how often use is written to the card
	maxSessions = 256
)

// tokenHash is the SHA-256 of a session's token: the token itself is only in the browser.
type tokenHash [sha256.Size]byte

type session struct {
	created, seen, expires time.Time
}

// sessions keeps the sign-ins in memory and writes them through to the database, so that they survive restarts, and
// so that signing in works even when the disk is full.
//
// Times that this process took carry Go's monotonic reading, so a step of the clock ends nobody's session; renewal
// soon after the step puts the stored times right.
type sessions struct {
	st  *state
	log *slog.Logger
	now func() time.Time

	mu  sync.Mutex
	all map[tokenHash]*session
}

func openSessions(ctx context.Context, st *state, log *slog.Logger, now func() time.Time) (*sessions, error) {
	s := &sessions{st: st, log: log, now: now, all: map[tokenHash]*session{}}
	rows, err := st.db.QueryContext(ctx, "SELECT token, created, seen, expires FROM sessions ORDER BY seen DESC LIMIT ?", maxSessions)
	if err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	defer rows.Close()
	t := now()
	for rows.Next() {
		var token []byte
		var created, seen, expires int64
		if err := rows.Scan(&token, &created, &seen, &expires); err != nil {
			return nil, fmt.Errorf("read sessions: %w", err)
		}
		v := &session{time.Unix(created, 0), time.Unix(seen, 0), time.Unix(expires, 0)}
		if latest := t.Add(sessionLife); v.expires.After(latest) {
			v.expires = latest // the clock was ahead when it was written
		}
		if len(token) == sha256.Size && v.expires.After(t) {
			s.all[tokenHash(token)] = v
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	rows.Close()
	// Of the expired some stay: the clock may be ahead.
	_, err = st.db.ExecContext(ctx,
		"DELETE FROM sessions WHERE token NOT IN (SELECT token FROM sessions ORDER BY seen DESC LIMIT ?)", maxSessions)
	if err != nil {
		log.Warn("old sessions could not be removed from the disk", "err", err)
	}
	return s, nil
}

// create starts a session and returns its token.
func (s *sessions) create(ctx context.Context) string {
	token := rand.Text() // at least 128 bits
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.now()
	for h, v := range s.all {
		if !v.expires.After(t) {
			s.remove(ctx, h)
		}
	}
	for len(s.all) >= maxSessions {
		var oldest tokenHash
		var seen time.Time
		for h, v := range s.all {
			if seen.IsZero() || v.seen.Before(seen) {
				oldest, seen = h, v.seen
			}
		}
		s.remove(ctx, oldest)
	}
	h := tokenHash(sha256.Sum256([]byte(token)))
	s.all[h] = &session{created: t, seen: t, expires: t.Add(sessionLife)}
	s.save(ctx, h)
	return token
}

// get returns the session of a token.
func (s *sessions) get(ctx context.Context, token string) (v api.Session, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, e := s.find(ctx, token)
	if e == nil {
		return v, false
	}
	return api.Session{Created: e.created.UTC(), Expires: e.expires.UTC()}, true
}

// use notes that a session is used. renewed says that its life was just extended, so that its cookie has to be too.
func (s *sessions) use(ctx context.Context, token string) (renewed, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, e := s.find(ctx, token)
	if e == nil {
		return false, false
	}
	t := s.now()
	// By the wall clock (Round strips the monotonic reading), so that a step of the clock renews at once.
	if d := t.Round(0).Sub(e.seen.Round(0)); d > renewEvery || d < -time.Minute {
		e.seen, e.expires = t, t.Add(sessionLife)
		s.save(ctx, h)
		renewed = true
	}
	return renewed, true
}

func (s *sessions) find(ctx context.Context, token string) (tokenHash, *session) {
	if token == "" {
		return tokenHash{}, nil
	}
	h := tokenHash(sha256.Sum256([]byte(token)))
	e := s.all[h]
	if e != nil && !e.expires.After(s.now()) {
		s.remove(ctx, h)
		e = nil
	}
	return h, e
}

// end makes a token worthless.
func (s *sessions) end(ctx context.Context, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, e := s.find(ctx, token); e != nil {
		s.remove(ctx, h)
	}
}

func (s *sessions) save(ctx context.Context, h tokenHash) {
	v := s.all[h]
	_, err := s.st.db.ExecContext(context.WithoutCancel(ctx),
		`INSERT INTO sessions (token, created, seen, expires) VALUES (?, ?, ?, ?)
		ON CONFLICT (token) DO UPDATE SET seen = excluded.seen, expires = excluded.expires`,
		h[:], v.created.Unix(), v.seen.Unix(), v.expires.Unix())
	if err != nil {
		s.log.Warn("a session could not be written and lasts until the next restart", "err", err)
	}
}

func (s *sessions) remove(ctx context.Context, h tokenHash) {
	delete(s.all, h)
	if _, err := s.st.db.ExecContext(context.WithoutCancel(ctx), "DELETE FROM sessions WHERE token = ?", h[:]); err != nil {
		s.log.Error("an ended session could not be removed from the disk", "err", err)
	}
}
