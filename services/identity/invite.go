package identity

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	maxInvites     = 50
	maxInviteHours = 168
)

// invite is an invitation as it is kept.
type invite struct {
	id, role, person, by string
	created, expires     time.Time
}

// good reports whether an invitation has not ended. A step of the clock ends none that this process made.
func (i *Identity) good(v invite) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if end, ok := i.invites[v.id]; ok {
		return i.now().Before(end)
	}
	return i.now().Before(v.expires)
}

// Invite makes an invitation.
func (i *Identity) Invite(ctx context.Context, c Caller, req api.InviteRequest) (api.Invite, error) {
	if req.Hours < 1 || req.Hours > maxInviteHours {
		return api.Invite{}, invalid("/hours", "range", "An invitation lasts 1 to 168 hours.")
	}
	if req.Person != "" {
		p := i.find(req.Person)
		if p == nil {
			return api.Invite{}, invalid("/person", "format", "There is no such person.")
		}
		req.Role = p.Role
	}
	if err := cleanRole("/role", req.Role); err != nil {
		return api.Invite{}, err
	}
	t := i.now()
	code := newCode()
	v := invite{
		id: rand.Text()[:16], role: req.Role, person: req.Person, by: c.Person.Name,
		created: t, expires: t.Add(time.Duration(req.Hours) * time.Hour),
	}
	err := i.changeBy(ctx, c, func(ch *change) error {
		all, err := readInvites(ctx, ch.Tx, "1")
		if err != nil {
			return err
		}
		open := 0
		for _, old := range all {
			if i.good(old) {
				open++
			} else if err := i.dropInvite(ctx, ch, old.id); err != nil {
				return err
			}
		}
		if open >= maxInvites {
			return ErrTooMany
		}
		_, err = ch.ExecContext(ctx, "INSERT INTO invites (id, code, role, person, maker, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
			v.id, hashCode(code), v.role, nullable(v.person), c.Person.ID, v.created.Unix(), v.expires.Unix())
		if err != nil {
			return fmt.Errorf("invite: %w", err)
		}
		ch.after = append(ch.after, func() { i.invites[v.id] = v.expires })
		target := ""
		if p := i.find(v.person); p != nil {
			target = p.Name
		}
		return i.record(ctx, ch.Tx, c, "invited", target, map[string]string{"role": v.role})
	})
	if err != nil {
		return api.Invite{}, err
	}
	w := i.wireInvite(v)
	w.Code = code
	return w, nil
}

func (i *Identity) wireInvite(v invite) api.Invite {
	w := api.Invite{
		ID: v.id, Role: v.role, By: v.by,
		Created: v.created.UTC().Truncate(time.Second), Expires: v.expires.UTC().Truncate(time.Second),
	}
	if p := i.find(v.person); p != nil {
		q := p.Person
		w.Person, w.Role = &q, p.Role
	}
	return w
}

// querier is a transaction or the database.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// readInvites returns the invitations that a condition selects, newest first.
func readInvites(ctx context.Context, q querier, where string, args ...any) ([]invite, error) {
	rows, err := q.QueryContext(ctx, `SELECT i.id, i.role, coalesce(i.person, ''), p.name, i.created, i.expires
		FROM invites i JOIN people p ON p.id = i.maker WHERE `+where+` ORDER BY i.created DESC, i.id`, args...)
	if err != nil {
		return nil, fmt.Errorf("read invitations: %w", err)
	}
	defer rows.Close()
	var all []invite
	for rows.Next() {
		var v invite
		var created, expires int64
		if err := rows.Scan(&v.id, &v.role, &v.person, &v.by, &created, &expires); err != nil {
			return nil, fmt.Errorf("read invitations: %w", err)
		}
		v.created, v.expires = time.Unix(created, 0), time.Unix(expires, 0)
		all = append(all, v)
	}
	return all, rows.Err()
}

// Invites returns the invitations that are open, newest first, without their codes.
func (i *Identity) Invites(ctx context.Context) ([]api.Invite, error) {
	all, err := readInvites(ctx, i.db.SQL(), "1")
	if err != nil {
		return nil, err
	}
	list := []api.Invite{}
	for _, v := range all {
		if i.good(v) {
			list = append(list, i.wireInvite(v))
		}
	}
	return list, nil
}

// EndInvite makes an invitation void.
func (i *Identity) EndInvite(ctx context.Context, c Caller, id string) error {
	return i.changeBy(ctx, c, func(ch *change) error {
		if err := i.dropInvite(ctx, ch, id); err != nil {
			return err
		}
		return i.record(ctx, ch.Tx, c, "invite-ended", "", nil)
	})
}

func (i *Identity) dropInvite(ctx context.Context, c *change, id string) error {
	r, err := c.ExecContext(ctx, "DELETE FROM invites WHERE id = ?", id)
	c.after = append(c.after, func() { delete(i.invites, id) })
	return must(r, err)
}

// openInvite returns the invitation of a code, or ErrInviteVoid.
func (i *Identity) openInvite(ctx context.Context, q querier, code string) (invite, error) {
	h := hashCode(code)
	if h == nil {
		return invite{}, ErrInviteVoid
	}
	all, err := readInvites(ctx, q, "i.code = ?", h)
	if err != nil {
		return invite{}, err
	}
	if len(all) != 1 || !i.good(all[0]) {
		return invite{}, ErrInviteVoid
	}
	return all[0], nil
}

// LookInvite says what an invitation is for.
func (i *Identity) LookInvite(ctx context.Context, code string) (api.JoinLook, error) {
	v, err := i.openInvite(ctx, i.db.SQL(), code)
	if err != nil {
		return api.JoinLook{}, err
	}
	l := api.JoinLook{Box: i.box(), By: v.by, Role: v.role}
	if p := i.find(v.person); p != nil {
		l.Person, l.Role = p.Name, p.Role
	}
	return l, nil
}

// Join takes an invitation: it makes the account, or gives the person it is for a new password, turns their second factor
// off and ends their sessions and tokens. Of several that come with the same code, one gets it; the others get ErrInviteVoid. A request
// that is refused for another reason leaves the invitation open.
func (i *Identity) Join(ctx context.Context, req api.JoinRequest, c Caller, old string) (string, api.Session, error) {
	v, err := i.openInvite(ctx, i.db.SQL(), req.Code)
	if err != nil {
		return "", api.Session{}, err
	}
	p := &person{}
	if v.person == "" {
		if p, err = i.newPerson(ctx, req.Name, v.role, req.Password); err != nil {
			return "", api.Session{}, err
		}
	} else {
		q := i.find(v.person)
		if q == nil {
			return "", api.Session{}, ErrInviteVoid
		}
		*p = *q
		if err := checkPassword("/password", req.Password, i.box(), p.Name); err != nil {
			return "", api.Session{}, err
		}
		if p.password, err = i.hasher.make(ctx, req.Password); err != nil {
			return "", api.Session{}, err
		}
	}
	c.Person = p.Person
	token, s := i.newSession(kindPerson, p.ID, p.Role, c)
	err = i.change(ctx, func(ch *change) error {
		if _, err := i.openInvite(ctx, ch.Tx, req.Code); err != nil {
			return err
		}
		if err := i.dropInvite(ctx, ch, v.id); err != nil {
			return err
		}
		args := map[string]string{"role": p.Role}
		if v.person == "" {
			if err := i.insert(ctx, ch.Tx, p); err != nil {
				return err
			}
		} else {
			args["again"] = "yes"
			if err := i.newPassword(ctx, ch, p); errors.Is(err, ErrNotFound) {
				return ErrInviteVoid
			} else if err != nil {
				return err
			}
		}
		if err := i.endToken(ctx, ch, old); err != nil {
			return err
		}
		if err := i.record(ctx, ch.Tx, c, "joined", v.by, args); err != nil {
			return err
		}
		return i.begin(ctx, ch, token, s)
	})
	if err != nil {
		return "", api.Session{}, err
	}
	w, _ := i.Look(token)
	return token, w, nil
}
