// Package identity knows who may do what on the box: people and their passwords, sessions, second factors, invitations,
// tokens, the claim of a new box, and the audit log of what they did. It keeps them in the state database.
//
// Each change is one transaction together with its entry in the audit log: once a function has returned without an
// error, it is done, and survives a power cut; otherwise nothing of it happened. The one exception is signing in, ending
// sessions and renewing them on a disk that takes no writes: they hold until the next restart, since a household that
// can't sign in can't clean up either.
//
// Secrets are kept as argon2id (passwords) or SHA-256 (tokens and codes, which are random). The secret of a second
// factor is kept as it is, since the box has to compute with it: whoever can read the card can compute codes, but still
// needs the password.
//
// Limits: guesses are counted by the caller of this package, which sees addresses; it can tell wrong secrets from other
// errors by ErrWrongPassword, ErrWrongSecondFactor and ErrInviteVoid. While the box's clock is wrong, codes of a second
// factor don't fit, and recovery codes do. An invitation lasts by the clock that was running when it was made, as long as
// the process runs; after a restart by the wall clock, so that one made while the clock was behind may be void early.
//
// Sources: RFC 9106 (argon2), RFC 8266 (comparison of nicknames), RFC 8265 (passwords, of which normalisation only), RFC
// 6238 and 4226 (one-time passwords), NIST SP 800-63B (what not to ask of passwords), the OWASP cheat sheets on password
// storage and session management.
package identity

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/state"
)

// What can be refused.
var (
	ErrSignedOut         error = refusal("who asks is not signed in any more")
	ErrWrongPassword     error = refusal("the name or the password is wrong") // the same for a name that nobody has
	ErrSecondFactor      error = refusal("a second factor is needed")         // the password was right
	ErrWrongSecondFactor error = refusal("the second factor is wrong, or was used before")
	ErrInviteVoid        error = refusal("the invitation is void")
	ErrNoSuchOwner       error = refusal("no owner has this name")
	ErrLastOwner         error = refusal("the box needs an owner who can sign in")
	ErrClaimedByAnother  error = refusal("another phone is setting the box up")
	ErrAlreadyClaimed    error = refusal("the box is somebody's")
	ErrNotClaimed        error = refusal("this phone did not claim the box")
	ErrNotFound          error = refusal("there is no such thing")
	ErrTooMany           error = refusal("there are too many")
)

type refusal string

func (r refusal) Error() string { return string(r) }

// InvalidError says what is wrong with the fields of a request.
type InvalidError struct{ Fields []api.FieldProblem }

func (e *InvalidError) Error() string {
	if len(e.Fields) == 0 {
		return "invalid"
	}
	return e.Fields[0].Path + ": " + e.Fields[0].Text
}

func invalid(path, code, text string) error {
	return &InvalidError{[]api.FieldProblem{{Path: path, Code: code, Text: text}}}
}

// refused reports whether an error is an answer, not a fault.
func refused(err error) bool {
	var r refusal
	var i *InvalidError
	return errors.As(err, &r) || errors.As(err, &i)
}

// Caller is who asks, and from where.
type Caller struct {
	Person  api.Person // empty if nobody is signed in
	Session string     // id of the session; empty for a bearer token or nobody
	Place   string     // address
	Agent   string     // User-Agent
}

// Config is what identity needs.
type Config struct {
	DB  *state.DB
	Log *slog.Logger
	Now func() time.Time // with a monotonic reading
	Box func() string    // current name of the box
}

// Identity is everything about who may do what. Its methods may be called in parallel.
type Identity struct {
	db     *state.DB
	log    *slog.Logger
	now    func() time.Time
	box    func() string
	hasher *hasher
	failed failures

	writing sync.Mutex // one change at a time; before mu

	mu       sync.Mutex
	people   map[string]*person // by id; replaced, never changed, but for step
	byKey    map[string]*person
	setup    string // how far set-up is: one of the stages
	sessions map[tokenHash]*session
	invites  map[string]time.Time // by id: when those made by this process end, with the monotonic reading
	used     map[string]time.Time // by id of a token: when its use was last written, or tried to be
}

// person is an account with its secrets.
type person struct {
	api.Person
	key      string
	password string // PHC string, or empty
	secret   []byte // of the second factor, or nil
	pending  []byte // the same, not yet confirmed
	step     int64  // last used
}

// Open reads what the database holds.
func Open(ctx context.Context, cfg Config) (*Identity, error) {
	i := &Identity{
		db: cfg.DB, log: cfg.Log, now: cfg.Now, box: cfg.Box, hasher: newHasher(current),
		sessions: map[tokenHash]*session{}, invites: map[string]time.Time{}, used: map[string]time.Time{},
	}
	if i.box == nil {
		i.box = func() string { return "" }
	}
	err := i.db.Tx(ctx, func(tx *sql.Tx) error {
		m, err := i.read(ctx, tx)
		if err != nil {
			return err
		}
		i.use(m)
		return i.readSessions(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("read who may do what: %w", err)
	}
	i.tidySessions(ctx)
	return i, nil
}

// change is a change under way.
type change struct {
	*sql.Tx
	after []func() // once it is committed, with mu held
}

// change runs fn in one transaction, and brings what is kept in memory in line if it was committed.
func (i *Identity) change(ctx context.Context, fn func(c *change) error) error {
	i.writing.Lock()
	defer i.writing.Unlock()
	c := &change{}
	var m memory
	err := i.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		c.Tx = tx
		if err := fn(c); err != nil {
			return err
		}
		m, err = i.read(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.use(m)
	for _, f := range c.after {
		f()
	}
	i.mu.Unlock()
	i.db.Changed()
	return nil
}

// changeBy is change for somebody who is signed in. Between the question who asks and the change, a body was received and
// a password hashed: whose role or session ended meanwhile gets ErrSignedOut.
func (i *Identity) changeBy(ctx context.Context, who Caller, fn func(c *change) error) error {
	return i.change(ctx, func(c *change) error {
		if !i.stillIn(who) {
			return ErrSignedOut
		}
		return fn(c)
	})
}

// stillIn reports whether a caller is who it was when it asked.
func (i *Identity) stillIn(who Caller) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if p := i.people[who.Person.ID]; who.Person.ID != "" && (p == nil || p.Role != who.Person.Role) {
		return false
	}
	if who.Session == "" {
		return true
	}
	for _, s := range i.sessions {
		if s.id == who.Session {
			return true
		}
	}
	return false
}

// Change runs fn in one transaction, for changes that span people, configuration and the audit log: see SetPeople, Named
// and Record. It is ErrSignedOut if who asks may not any more; nobody may always.
func (i *Identity) Change(ctx context.Context, who Caller, fn func(tx *sql.Tx) error) error {
	return i.changeBy(ctx, who, func(c *change) error { return fn(c.Tx) })
}

// memory is what is kept of the database in memory, beside the sessions.
type memory struct {
	people map[string]*person
	setup  string
}

// use takes over what was read. The caller holds mu, or has i alone.
func (i *Identity) use(m memory) {
	for id, p := range m.people {
		if old := i.people[id]; old != nil && string(old.secret) == string(p.secret) {
			p.step = max(p.step, old.step) // of a code that the disk did not take
		}
	}
	i.people, i.setup = m.people, m.setup
	i.byKey = make(map[string]*person, len(m.people))
	for _, p := range m.people {
		i.byKey[p.key] = p
	}
	for h, s := range i.sessions {
		if s.kind == kindPerson && (m.people[s.person] == nil || m.people[s.person].Role != s.role) {
			delete(i.sessions, h)
		}
	}
}

func (i *Identity) read(ctx context.Context, tx *sql.Tx) (m memory, err error) {
	m.people = map[string]*person{}
	rows, err := tx.QueryContext(ctx, `SELECT p.id, p.name, p.key, p.role, coalesce(p.password, ''), p.created, p.seen,
		f.secret, f.pending, coalesce(f.step, 0), (SELECT count(*) FROM recovery_codes r WHERE r.person = p.id)
		FROM people p LEFT JOIN second_factors f ON f.person = p.id`)
	if err != nil {
		return m, fmt.Errorf("read people: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var p person
		var created, seen int64
		err := rows.Scan(&p.ID, &p.Name, &p.key, &p.Role, &p.password, &created, &seen, &p.secret, &p.pending, &p.step, &p.RecoveryCodes)
		if err != nil {
			return m, fmt.Errorf("read people: %w", err)
		}
		p.HasPassword, p.SecondFactor = p.password != "", p.secret != nil
		p.Created = time.Unix(created, 0).UTC()
		if seen > 0 {
			p.Seen = time.Unix(seen, 0).UTC().Truncate(time.Hour)
		}
		m.people[p.ID] = &p
	}
	if err := rows.Err(); err != nil {
		return m, fmt.Errorf("read people: %w", err)
	}
	err = tx.QueryRowContext(ctx, "SELECT value FROM settings WHERE key = 'setup'").Scan(&m.setup)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return m, fmt.Errorf("read how far set-up is: %w", err)
	}
	return m, nil
}

// find returns a person by id, or nil.
func (i *Identity) find(id string) *person {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.people[id]
}

// must returns nil if an update met one row, ErrNotFound if none.
func must(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, ErrNotFound)
	}
	return nil
}
