package identity

import (
	"context"
	"fmt"

	"github.com/croft-os/croft/services/api"
)

// SignIn checks a name, a password and, where the person has one, a second factor, and returns the token of a new session.
// old is the token that the client came with, which ends.
//
// A name that nobody has, or that has no password yet, costs as much as a wrong password and gives the same
// ErrWrongPassword. ErrSecondFactor comes only after the right password.
func (i *Identity) SignIn(ctx context.Context, req api.SessionRequest, c Caller, old string) (string, api.Session, error) {
	var p *person
	if key, err := nameKey(req.Name); err == nil {
		i.mu.Lock()
		p = i.byKey[key]
		i.mu.Unlock()
	}
	stored := ""
	if p != nil {
		stored = p.password
	}
	ok, stale, err := i.hasher.verify(ctx, req.Password, stored)
	if err != nil {
		return "", api.Session{}, err
	}
	if !ok {
		i.logFailed(ctx, p, c, "password")
		return "", api.Session{}, ErrWrongPassword
	}
	if p.secret != nil && req.SecondFactor == "" {
		return "", api.Session{}, ErrSecondFactor
	}
	fresh := ""
	if stale {
		if fresh, err = i.hasher.make(ctx, req.Password); err != nil {
			return "", api.Session{}, err
		}
	}
	c.Person = p.Person
	token, s := i.newSession(kindPerson, p.ID, p.Role, c)
	second := p.factor(req.SecondFactor, i.now())
	err = i.change(ctx, func(ch *change) error {
		q := i.find(p.ID)
		if q == nil || q.password != p.password || q.Role != p.Role { // changed meanwhile
			return ErrWrongPassword
		}
		if q.secret != nil {
			if err := i.spend(ctx, ch, q, q.factor(req.SecondFactor, i.now()), c); err != nil {
				return err
			}
		}
		if fresh != "" {
			if _, err := ch.ExecContext(ctx, "UPDATE people SET password = ? WHERE id = ?", fresh, p.ID); err != nil {
				return err
			}
		}
		if err := i.endToken(ctx, ch, old); err != nil {
			return err
		}
		if err := i.record(ctx, ch.Tx, c, "signed-in", "", map[string]string{"device": s.device}); err != nil {
			return err
		}
		return i.begin(ctx, ch, token, s)
	})
	switch {
	case err == nil:
	case refused(err):
		if p.secret != nil {
			i.logFailed(ctx, p, c, "second-factor")
		}
		return "", api.Session{}, err
	case ctx.Err() != nil || second.code != nil:
		return "", api.Session{}, fmt.Errorf("sign in: %w", err)
	default: // the disk takes nothing
		i.log.Warn("a session could not be written and lasts until the next restart", "err", err)
		if err := i.beginInMemory(token, s, p, second); err != nil {
			return "", api.Session{}, err
		}
	}
	v, _ := i.Look(token)
	return token, v, nil
}

// beginInMemory is what signing in does on a disk that takes no writes.
func (i *Identity) beginInMemory(token string, s *session, p *person, f factor) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	q := i.people[p.ID]
	if q == nil || q.password != p.password {
		return ErrWrongPassword
	}
	if q.secret != nil {
		if f.step <= q.step {
			return ErrWrongSecondFactor
		}
		q.step = f.step
	}
	for _, h := range i.surplus(s) {
		delete(i.sessions, h)
	}
	i.sessions[hashToken(token)] = s
	return nil
}

// endToken ends the session of a token, if there is one.
func (i *Identity) endToken(ctx context.Context, c *change, token string) error {
	if token == "" {
		return nil
	}
	return i.drop(ctx, c, hashToken(token))
}

// confirm checks the caller's password once more.
func (i *Identity) confirm(ctx context.Context, c Caller, password string) (*person, error) {
	p := i.find(c.Person.ID)
	if p == nil {
		return nil, ErrNotFound
	}
	ok, _, err := i.hasher.verify(ctx, password, p.password)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrWrongPassword
	}
	return p, nil
}

// ConfirmPassword checks the caller's password once more, before something that nothing can bring back. It is
// ErrWrongPassword if it is wrong.
func (i *Identity) ConfirmPassword(ctx context.Context, c Caller, password string) error {
	_, err := i.confirm(ctx, c, password)
	return err
}

// ChangePassword changes the caller's password. It ends their other sessions, and gives the one that asks a new token.
func (i *Identity) ChangePassword(ctx context.Context, c Caller, req api.PasswordChange) (string, api.Session, error) {
	p, err := i.confirm(ctx, c, req.Old)
	if err != nil {
		return "", api.Session{}, err
	}
	if err := checkPassword("/new", req.New, i.box(), p.Name); err != nil {
		return "", api.Session{}, err
	}
	hash, err := i.hasher.make(ctx, req.New)
	if err != nil {
		return "", api.Session{}, err
	}
	token, s := i.newSession(kindPerson, p.ID, p.Role, c)
	err = i.changeBy(ctx, c, func(ch *change) error {
		r, err := ch.ExecContext(ctx, "UPDATE people SET password = ? WHERE id = ? AND password = ?", hash, p.ID, p.password)
		if err := must(r, err); err != nil {
			return err
		}
		if err := i.dropPerson(ctx, ch, p.ID, ""); err != nil {
			return err
		}
		if err := i.record(ctx, ch.Tx, c, "password-changed", p.Name, nil); err != nil {
			return err
		}
		return i.begin(ctx, ch, token, s)
	})
	if err != nil {
		return "", api.Session{}, err
	}
	v, _ := i.Look(token)
	return token, v, nil
}
