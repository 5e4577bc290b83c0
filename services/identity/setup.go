package identity

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/croft-os/croft/services/api"
)

// How far set-up is: the setting "setup".
const (
	stageNamed   = "named"   // the box has its name
	stageAccount = "account" // it has an owner
	stageDone    = "done"
)

// Step returns how far the box is: StepClaim, StepName, StepAccount, StepZone or StepDone. Rescue mode, and that accounts
// are lost, the caller knows.
func (i *Identity) Step() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.setup == stageDone && i.owners() > 0:
		return api.StepDone
	case i.owners() > 0:
		return api.StepZone
	case i.claimant() == nil:
		return api.StepClaim
	case i.setup == stageNamed:
		return api.StepAccount
	}
	return api.StepName
}

// Untouched reports whether nobody has set anything up yet.
func (i *Identity) Untouched() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.setup == "" && i.owners() == 0
}

// Busy reports whether a phone is setting the box up just now.
func (i *Identity) Busy() bool { return i.QuietIn() > 0 }

// QuietIn returns for how long the phone that sets the box up has to stay quiet until another one may go on; 0 if it may.
func (i *Identity) QuietIn() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.claimant()
	if s == nil || i.owners() > 0 {
		return 0
	}
	return max(0, api.ClaimQuiet-i.now().Sub(s.seen))
}

// HasOwner reports whether the box is somebody's, so that its claim code has to be void.
func (i *Identity) HasOwner() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.owners() > 0
}

// owners counts those who can sign in. The caller holds mu.
func (i *Identity) owners() (n int) {
	for _, p := range i.people {
		if p.Role == api.RoleOwner && p.HasPassword {
			n++
		}
	}
	return n
}

// claimant returns the session of the phone that sets the box up, or nil. The caller holds mu.
func (i *Identity) claimant() *session {
	for _, s := range i.sessions {
		if s.kind == kindSetup && s.expires.After(i.now()) {
			return s
		}
	}
	return nil
}

// Claim makes the caller, who gave the right claim code, the phone that sets the box up. Another phone that does gets
// ErrClaimedByAnother, unless it was quiet for ClaimQuiet: then its session ends. old is the token that the caller came
// with.
func (i *Identity) Claim(ctx context.Context, c Caller, old string) (string, api.Session, error) {
	token, s := i.newSession(kindSetup, "", "", c)
	err := i.change(ctx, func(ch *change) error {
		i.mu.Lock()
		owners, other := i.owners(), i.claimant()
		_, mine := i.live(old)
		i.mu.Unlock()
		switch {
		case owners > 0:
			return ErrAlreadyClaimed
		case other != nil && other != mine && i.now().Sub(other.seen) < api.ClaimQuiet:
			return ErrClaimedByAnother
		}
		if err := i.dropSetup(ctx, ch); err != nil {
			return err
		}
		if err := i.endToken(ctx, ch, old); err != nil {
			return err
		}
		if err := i.record(ctx, ch.Tx, c, "claimed", "", map[string]string{"device": s.device}); err != nil {
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

// dropSetup ends the session of the phone that sets the box up, also one that the memory does not have.
func (i *Identity) dropSetup(ctx context.Context, c *change) error {
	if _, err := i.dropWhere(ctx, c, func(s *session) bool { return s.kind == kindSetup }); err != nil {
		return err
	}
	if _, err := c.ExecContext(ctx, "DELETE FROM sessions WHERE kind = 'setup'"); err != nil {
		return fmt.Errorf("end the claim: %w", err)
	}
	return nil
}

// Named notes, in the transaction of Change that keeps its name, that the box was given one.
func (i *Identity) Named(ctx context.Context, tx *sql.Tx) error {
	if i.stage() != "" {
		return nil
	}
	return setStage(ctx, tx, stageNamed)
}

func setStage(ctx context.Context, tx *sql.Tx, stage string) error {
	_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO settings VALUES ('setup', ?)", stage)
	if err != nil {
		return fmt.Errorf("note how far set-up is: %w", err)
	}
	return nil
}

// MakeFirstOwner makes the account of the box's first owner, and turns the session of the phone that sets the box up into
// theirs, with a new token. Of several that ask at once, one gets it; the others get ErrAlreadyClaimed or ErrNotClaimed.
func (i *Identity) MakeFirstOwner(ctx context.Context, req api.AccountRequest, c Caller, old string) (string, api.Session, error) {
	if _, err := i.mine(old); err != nil {
		return "", api.Session{}, err
	}
	p, err := i.newPerson(ctx, req.Name, api.RoleOwner, req.Password)
	if err != nil {
		return "", api.Session{}, err
	}
	c.Person = p.Person
	token, s := i.newSession(kindPerson, p.ID, p.Role, c)
	err = i.change(ctx, func(ch *change) error {
		if _, err := i.mine(old); err != nil {
			return err
		}
		if err := i.insert(ctx, ch.Tx, p); err != nil {
			return err
		}
		if err := setStage(ctx, ch.Tx, stageAccount); err != nil {
			return err
		}
		if err := i.dropSetup(ctx, ch); err != nil {
			return err
		}
		if err := i.record(ctx, ch.Tx, c, "account-made", p.Name, map[string]string{"role": p.Role}); err != nil {
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

// mine returns the session of the phone that sets the box up, if the token is its.
func (i *Identity) mine(token string) (*session, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.owners() > 0 {
		return nil, ErrAlreadyClaimed
	}
	_, s := i.live(token)
	if s == nil || s.kind != kindSetup {
		return nil, ErrNotClaimed
	}
	return s, nil
}

// FinishSetup notes that the box is set up. Doing it again changes nothing.
func (i *Identity) FinishSetup(ctx context.Context, c Caller) error {
	return i.changeBy(ctx, c, func(ch *change) error {
		i.mu.Lock()
		owners, stage := i.owners(), i.setup
		i.mu.Unlock()
		switch {
		case stage == stageDone:
			return nil
		case owners == 0:
			return ErrNotClaimed
		}
		if err := setStage(ctx, ch.Tx, stageDone); err != nil {
			return err
		}
		return i.record(ctx, ch.Tx, c, "setup-done", "", nil)
	})
}

// Recover gives the owner of that name a new password, for a caller who showed to stand at the box. It turns the owner's
// second factor off and ends their sessions and tokens. With locked (the box had owners, but they are lost) and no owner left it makes
// a new first owner.
func (i *Identity) Recover(ctx context.Context, req api.RecoverRequest, locked bool, c Caller, old string) (string, api.Session, error) {
	key, err := nameKey(req.Name)
	if err != nil {
		return "", api.Session{}, err
	}
	i.mu.Lock()
	p, anew := i.byKey[key], i.owners() == 0
	i.mu.Unlock()
	anew = anew && locked
	switch {
	case p != nil && p.Role == api.RoleOwner:
		anew = false
	case !anew || p != nil:
		return "", api.Session{}, ErrNoSuchOwner
	}
	q := &person{}
	if anew {
		if q, err = i.newPerson(ctx, req.Name, api.RoleOwner, req.Password); err != nil {
			return "", api.Session{}, err
		}
	} else {
		*q = *p
		if err := checkPassword("/password", req.Password, i.box(), p.Name); err != nil {
			return "", api.Session{}, err
		}
		if q.password, err = i.hasher.make(ctx, req.Password); err != nil {
			return "", api.Session{}, err
		}
	}
	c.Person = q.Person
	token, s := i.newSession(kindPerson, q.ID, q.Role, c)
	err = i.change(ctx, func(ch *change) error {
		i.mu.Lock()
		owners := i.owners()
		i.mu.Unlock()
		if anew {
			if owners > 0 {
				return ErrNoSuchOwner
			}
			if err := i.insert(ctx, ch.Tx, q); err != nil {
				return err
			}
		} else if err := i.newPassword(ctx, ch, q); err != nil {
			return err
		}
		if i.stage() != stageDone {
			if err := setStage(ctx, ch.Tx, stageAccount); err != nil {
				return err
			}
		}
		if err := i.dropSetup(ctx, ch); err != nil {
			return err
		}
		if err := i.endToken(ctx, ch, old); err != nil {
			return err
		}
		if err := i.record(ctx, ch.Tx, c, "recovered", q.Name, nil); err != nil {
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

func (i *Identity) stage() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.setup
}

// newPassword stores the password of a person who proved otherwise to be them: the second factor goes, all sessions
// and tokens end, since somebody else may have got in meanwhile.
func (i *Identity) newPassword(ctx context.Context, c *change, p *person) error {
	r, err := c.ExecContext(ctx, "UPDATE people SET password = ? WHERE id = ? AND role = ?", p.password, p.ID, p.Role)
	if err := must(r, err); err != nil {
		return err
	}
	if err := i.factorOff(ctx, c, p.ID); err != nil {
		return err
	}
	if _, err := c.ExecContext(ctx, "DELETE FROM tokens WHERE person = ?", p.ID); err != nil {
		return fmt.Errorf("end tokens: %w", err)
	}
	return i.dropPerson(ctx, c, p.ID, "")
}

// Rescue returns the session of a caller who gave the code of rescue mode.
func (i *Identity) Rescue(ctx context.Context, c Caller, old string) (string, api.Session, error) {
	token, s := i.newSession(kindRescue, "", "", c)
	err := i.change(ctx, func(ch *change) error {
		if err := i.endToken(ctx, ch, old); err != nil {
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
