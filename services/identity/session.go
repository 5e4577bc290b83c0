package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/croft-os/croft/services/api"
)

// SessionLife is how long a session lasts since its last renewal.
const SessionLife = 90 * 24 * time.Hour

const (
	renewEvery      = time.Hour   // how often use is written to the card
	renewSetupEvery = time.Minute // the same, of the phone that sets the box up: whether it is quiet counts in minutes
	maxSessions     = 256
	maxPerPerson    = 20
	maxPlace        = 64 // bytes
)

// Kinds of sessions.
const (
	kindPerson = "person"
	kindSetup  = "setup"
	kindRescue = "rescue"
)

// tokenHash is the SHA-256 of a session's token: the token itself is only in the browser.
type tokenHash [sha256.Size]byte

func hashToken(token string) tokenHash { return sha256.Sum256([]byte(token)) }

// session is a sign-in. All are in memory and written through to the database.
//
// Times that this process took carry Go's monotonic reading, so a step of the clock ends nobody's session; renewal
// soon after the step puts the stored times right.
type session struct {
	id, kind               string
	person                 string // id
	role                   string // of the person when it began: with another role, another token is needed
	device, place          string
	created, seen, renewed time.Time // renewed is when seen was written last
	expires                time.Time
}

// newSession makes a session that is nowhere yet, and its token.
func (i *Identity) newSession(kind, person, role string, c Caller) (string, *session) {
	t := i.now()
	return rand.Text(), &session{ // the token has at least 128 bits
		id: rand.Text()[:16], kind: kind, person: person, role: role, device: Device(c.Agent), place: place(c.Place),
		created: t, seen: t, renewed: t, expires: t.Add(SessionLife),
	}
}

func place(s string) string { return s[:min(len(s), maxPlace)] }

// begin puts a session into the database, and into memory after that. Too many make the least used of the person, and
// of all, go.
func (i *Identity) begin(ctx context.Context, c *change, token string, s *session) error {
	h := hashToken(token)
	_, err := c.ExecContext(ctx, `INSERT INTO sessions (token, id, kind, person, device, place, created, seen, expires)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		h[:], s.id, s.kind, nullable(s.person), s.device, s.place, s.created.Unix(), s.seen.Unix(), s.expires.Unix())
	if err != nil {
		return fmt.Errorf("begin a session: %w", err)
	}
	i.mu.Lock()
	gone := i.surplus(s)
	i.mu.Unlock()
	if err := i.drop(ctx, c, gone...); err != nil {
		return err
	}
	if s.person != "" {
		if _, err := c.ExecContext(ctx, "UPDATE people SET seen = ? WHERE id = ?", s.seen.Unix(), s.person); err != nil {
			return fmt.Errorf("begin a session: %w", err)
		}
	}
	c.after = append(c.after, func() { i.sessions[h] = s })
	return nil
}

// surplus returns the sessions that have to go for one more.
func (i *Identity) surplus(next *session) (gone []tokenHash) {
	t := i.now()
	var mine, all []tokenHash
	for h, s := range i.sessions {
		switch {
		case !s.expires.After(t):
			gone = append(gone, h)
			continue
		case s.person != "" && s.person == next.person:
			mine = append(mine, h)
		}
		all = append(all, h)
	}
	byUse := func(a, b tokenHash) int { return i.sessions[a].seen.Compare(i.sessions[b].seen) }
	slices.SortFunc(mine, byUse)
	if n := len(mine) - maxPerPerson + 1; n > 0 {
		gone = append(gone, mine[:n]...)
		all = slices.DeleteFunc(all, func(h tokenHash) bool { return slices.Contains(mine[:n], h) })
	}
	slices.SortFunc(all, byUse)
	if n := len(all) - maxSessions + 1; n > 0 {
		gone = append(gone, all[:n]...)
	}
	return gone
}

// drop ends sessions.
func (i *Identity) drop(ctx context.Context, c *change, gone ...tokenHash) error {
	for _, h := range gone {
		if _, err := c.ExecContext(ctx, "DELETE FROM sessions WHERE token = ?", h[:]); err != nil {
			return fmt.Errorf("end a session: %w", err)
		}
	}
	c.after = append(c.after, func() {
		for _, h := range gone {
			delete(i.sessions, h)
		}
	})
	return nil
}

// dropWhere ends all sessions that match.
func (i *Identity) dropWhere(ctx context.Context, c *change, match func(*session) bool) (n int, err error) {
	i.mu.Lock()
	var gone []tokenHash
	for h, s := range i.sessions {
		if match(s) {
			gone = append(gone, h)
		}
	}
	i.mu.Unlock()
	return len(gone), i.drop(ctx, c, gone...)
}

// dropPerson ends all sessions of a person but the one with that id, also those that the memory does not have: while the
// clock is ahead they look expired, and would be there again at a start with the right time.
func (i *Identity) dropPerson(ctx context.Context, c *change, person, but string) error {
	if _, err := i.dropWhere(ctx, c, func(s *session) bool { return s.person == person && s.id != but }); err != nil {
		return err
	}
	if _, err := c.ExecContext(ctx, "DELETE FROM sessions WHERE person = ? AND id <> ?", person, but); err != nil {
		return fmt.Errorf("end a person's sessions: %w", err)
	}
	return nil
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// readSessions fills the memory at the start.
func (i *Identity) readSessions(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT token, id, kind, coalesce(person, ''), device, place, created, seen, expires
		FROM sessions ORDER BY seen DESC LIMIT ?`, maxSessions)
	if err != nil {
		return fmt.Errorf("read sessions: %w", err)
	}
	defer rows.Close()
	t := i.now()
	for rows.Next() {
		var token []byte
		var s session
		var created, seen, expires int64
		if err := rows.Scan(&token, &s.id, &s.kind, &s.person, &s.device, &s.place, &created, &seen, &expires); err != nil {
			return fmt.Errorf("read sessions: %w", err)
		}
		s.created, s.seen, s.renewed, s.expires = time.Unix(created, 0), time.Unix(seen, 0), time.Unix(seen, 0), time.Unix(expires, 0)
		if latest := t.Add(SessionLife); s.expires.After(latest) {
			s.expires = latest // the clock was ahead when it was written
		}
		if s.kind == kindSetup {
			s.seen = t // nobody knows how long it was quiet: the clock may have been set since
		}
		if p := i.people[s.person]; p != nil {
			s.role = p.Role
		}
		if len(token) == sha256.Size && s.expires.After(t) {
			i.sessions[tokenHash(token)] = &s
		}
	}
	return rows.Err()
}

// tidySessions bounds what is on the disk. Of the expired some stay: the clock may be ahead.
func (i *Identity) tidySessions(ctx context.Context) {
	_, err := i.db.SQL().ExecContext(ctx,
		"DELETE FROM sessions WHERE token NOT IN (SELECT token FROM sessions ORDER BY seen DESC LIMIT ?)", maxSessions)
	if err != nil {
		i.log.Warn("old sessions could not be removed from the disk", "err", err)
	}
}

// live returns the session of a token if it is good. The caller holds mu.
func (i *Identity) live(token string) (tokenHash, *session) {
	if token == "" {
		return tokenHash{}, nil
	}
	h := hashToken(token)
	s := i.sessions[h]
	if s == nil || !s.expires.After(i.now()) {
		return h, nil
	}
	return h, s
}

// Look returns the session of a token without counting as use.
func (i *Identity) Look(token string) (api.Session, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, s := i.live(token)
	if s == nil {
		return api.Session{}, false
	}
	return i.wire(s, s.id), true
}

// Use returns the session of a token and notes that it is used. renewed says that its life was just extended, so that
// its cookie's has to be too.
func (i *Identity) Use(ctx context.Context, token string, c Caller) (v api.Session, renewed, ok bool) {
	i.mu.Lock()
	h, s := i.live(token)
	if s == nil {
		i.mu.Unlock()
		return v, false, false
	}
	t := i.now()
	every := renewEvery
	if s.kind == kindSetup {
		every = renewSetupEvery
	}
	s.seen = t
	// By the wall clock (Round strips the monotonic reading), so that a step of the clock renews at once.
	d := t.Round(0).Sub(s.renewed.Round(0))
	renewed = d >= every || d < -time.Minute
	if renewed {
		s.renewed, s.expires, s.place = t, t.Add(SessionLife), place(c.Place)
		if p := i.people[s.person]; p != nil {
			q := *p
			q.Seen = t.UTC().Truncate(time.Hour)
			i.people[s.person], i.byKey[q.key] = &q, &q
		}
	}
	v = i.wire(s, s.id)
	stored := *s
	i.mu.Unlock()
	if renewed {
		i.renew(context.WithoutCancel(ctx), h, stored)
	}
	return v, renewed, true
}

// renew writes that a session was used.
func (i *Identity) renew(ctx context.Context, h tokenHash, s session) {
	err := i.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE sessions SET seen = ?, expires = ?, place = ? WHERE token = ?",
			s.seen.Unix(), s.expires.Unix(), s.place, h[:])
		if err == nil && s.person != "" {
			_, err = tx.ExecContext(ctx, "UPDATE people SET seen = ? WHERE id = ?", s.seen.Unix(), s.person)
		}
		return err
	})
	if err != nil {
		i.log.Warn("the use of a session could not be written", "err", err)
	}
}

// wire says what a session is. The caller holds mu.
func (i *Identity) wire(s *session, current string) api.Session {
	v := api.Session{
		ID: s.id, Role: s.kind, Current: s.id == current, Created: s.created.UTC(),
		Seen: s.renewed.UTC().Truncate(time.Hour), Expires: s.expires.UTC(), Device: s.device, Place: s.place,
	}
	if p := i.people[s.person]; s.kind == kindPerson && p != nil {
		q := p.Person
		v.Role, v.Person = p.Role, &q
	}
	return v
}

// SignOut makes a token worthless. It never fails: on a disk that takes no writes the token is worthless until the next
// restart.
func (i *Identity) SignOut(ctx context.Context, token string, c Caller) {
	i.mu.Lock()
	h, s := i.live(token)
	i.mu.Unlock()
	if s == nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	err := i.change(ctx, func(ch *change) error {
		if s.kind == kindPerson {
			if err := i.record(ctx, ch.Tx, c, "signed-out", "", nil); err != nil {
				return err
			}
		}
		return i.drop(ctx, ch, h)
	})
	if err != nil {
		i.log.Error("an ended session could not be removed from the disk", "err", err)
		i.mu.Lock()
		delete(i.sessions, h)
		i.mu.Unlock()
	}
}

// Sessions returns the caller's sessions, the last used first.
func (i *Identity) Sessions(c Caller) []api.Session {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := []api.Session{}
	t := i.now()
	for _, s := range i.sessions {
		if s.kind == kindPerson && s.person == c.Person.ID && s.expires.After(t) {
			all = append(all, i.wire(s, c.Session))
		}
	}
	slices.SortFunc(all, func(a, b api.Session) int {
		if n := b.Seen.Compare(a.Seen); n != 0 {
			return n
		}
		return b.Created.Compare(a.Created)
	})
	return all
}

// EndSession ends one session of the caller.
func (i *Identity) EndSession(ctx context.Context, c Caller, id string) error {
	return i.changeBy(ctx, c, func(ch *change) error {
		var device string
		n, err := i.dropWhere(ctx, ch, func(s *session) bool {
			if s.person != c.Person.ID || s.id != id || s.kind != kindPerson {
				return false
			}
			device = s.device
			return true
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		return i.record(ctx, ch.Tx, c, "session-ended", c.Person.Name, map[string]string{"device": device})
	})
}

// EndSessions ends all sessions of a person, but not the one that asks.
func (i *Identity) EndSessions(ctx context.Context, c Caller, person string) error {
	return i.changeBy(ctx, c, func(ch *change) error {
		p := i.find(person)
		if p == nil {
			return ErrNotFound
		}
		if err := i.dropPerson(ctx, ch, person, c.Session); err != nil {
			return err
		}
		return i.record(ctx, ch.Tx, c, "sessions-ended", p.Name, nil)
	})
}
