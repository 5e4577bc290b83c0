package identity

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"

	"github.com/croft-os/croft/services/api"
)

const (
	maxName   = 40 // characters
	maxPeople = 100
)

// cleanName returns a name as it is kept: as typed, without blanks around it.
func cleanName(path, name string) (string, error) {
	name = strings.TrimSpace(name)
	switch n := utf8.RuneCountInString(name); {
	case n == 0:
		return "", invalid(path, "missing", "A name is needed.")
	case n > maxName:
		return "", invalid(path, "too-long", "A name has at most 40 characters.")
	}
	if _, err := nameKey(name); err != nil {
		return "", invalid(path, "format", "A name can't have these characters.")
	}
	return name, nil
}

// nameKey returns what names are compared by: RFC 8266.
func nameKey(name string) (string, error) {
	if len(name) > 4*maxName+64 || !utf8.ValidString(name) {
		return "", invalid("/name", "format", "A name can't have these characters.")
	}
	key, err := precis.Nickname.CompareKey(name)
	if err != nil {
		return "", invalid("/name", "format", "A name can't have these characters.")
	}
	return key, nil
}

func cleanRole(path, role string) error {
	if role != api.RoleOwner && role != api.RoleMember {
		return invalid(path, "role", "A person is an owner or a member.")
	}
	return nil
}

// newPerson makes a person that is nowhere yet. Without a password they need an invitation.
func (i *Identity) newPerson(ctx context.Context, name, role, password string) (*person, error) {
	name, err := cleanName("/name", name)
	if err != nil {
		return nil, err
	}
	if err := checkPassword("/password", password, i.box(), name); err != nil {
		return nil, err
	}
	key, err := nameKey(name)
	if err != nil {
		return nil, err
	}
	if i.taken(key, "") {
		return nil, errTaken("/name")
	}
	p := blankPerson(name, key, role, i.now())
	if p.password, err = i.hasher.make(ctx, password); err != nil {
		return nil, err
	}
	p.HasPassword = true
	return p, nil
}

func blankPerson(name, key, role string, t time.Time) *person {
	return &person{Person: api.Person{ID: rand.Text()[:16], Name: name, Role: role, Created: t}, key: key}
}

func errTaken(path string) error {
	return invalid(path, "name-taken", "Somebody here has this name already.")
}

// taken reports whether somebody but the person of that id has the name.
func (i *Identity) taken(key, but string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.byKey[key]
	return p != nil && p.ID != but
}

// insert stores a new person.
func (i *Identity) insert(ctx context.Context, tx *sql.Tx, p *person) error {
	var n, same int
	err := tx.QueryRowContext(ctx, "SELECT count(*), count(*) FILTER (WHERE key = ?) FROM people", p.key).Scan(&n, &same)
	switch {
	case err != nil:
		return fmt.Errorf("make an account: %w", err)
	case same > 0:
		return errTaken("/name")
	case n >= maxPeople:
		return ErrTooMany
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO people (id, name, key, role, password, created) VALUES (?, ?, ?, ?, ?, ?)",
		p.ID, p.Name, p.key, p.Role, nullable(p.password), p.Created.Unix())
	if err != nil {
		return fmt.Errorf("make an account: %w", err)
	}
	return nil
}

// People returns all accounts, by name.
func (i *Identity) People() []api.Person {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := make([]*person, 0, len(i.people))
	for _, p := range i.people {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *person) int { return strings.Compare(a.key, b.key) })
	list := make([]api.Person, len(all))
	for n, p := range all {
		list[n] = p.Person
	}
	return list
}

// Person returns one account.
func (i *Identity) Person(id string) (api.Person, error) {
	p := i.find(id)
	if p == nil {
		return api.Person{}, ErrNotFound
	}
	return p.Person, nil
}

// ChangePerson gives a person another name, and another role unless it is empty. With another role all their sessions end,
// and the invitations that they made if they are no owner any more.
func (i *Identity) ChangePerson(ctx context.Context, c Caller, id string, req api.PersonChange) (api.Person, error) {
	name, err := cleanName("/name", req.Name)
	if err != nil {
		return api.Person{}, err
	}
	if req.Role != "" {
		if err := cleanRole("/role", req.Role); err != nil {
			return api.Person{}, err
		}
	}
	err = i.changeBy(ctx, c, func(ch *change) error {
		p := i.find(id)
		if p == nil {
			return ErrNotFound
		}
		return i.changePerson(ctx, ch.Tx, c, p, name, req.Role, "/name")
	})
	if err != nil {
		return api.Person{}, err
	}
	return i.Person(id)
}

func (i *Identity) changePerson(ctx context.Context, tx *sql.Tx, c Caller, p *person, name, role, path string) error {
	if role == "" {
		role = p.Role
	}
	args := map[string]string{}
	if name != p.Name {
		args["name"] = name
	}
	if role != p.Role {
		args["role"] = role
	}
	if len(args) == 0 {
		return nil
	}
	key, err := nameKey(name)
	if err != nil {
		return err
	}
	var same int
	err = tx.QueryRowContext(ctx, "SELECT count(*) FROM people WHERE key = ? AND id <> ?", key, p.ID).Scan(&same)
	if err != nil {
		return fmt.Errorf("change a person: %w", err)
	}
	if same > 0 {
		return errTaken(path)
	}
	r, err := tx.ExecContext(ctx, "UPDATE people SET name = ?, key = ?, role = ? WHERE id = ?", name, key, role, p.ID)
	if err := must(r, err); err != nil {
		return err
	}
	if role != p.Role {
		// In memory they go because their role is not the person's any more.
		if _, err := tx.ExecContext(ctx, "DELETE FROM sessions WHERE person = ?", p.ID); err != nil {
			return fmt.Errorf("change a person: %w", err)
		}
		if role != api.RoleOwner {
			if _, err := tx.ExecContext(ctx, "DELETE FROM invites WHERE maker = ?", p.ID); err != nil {
				return fmt.Errorf("change a person: %w", err)
			}
		}
	}
	if err := keepOwner(ctx, tx); err != nil {
		return err
	}
	return i.record(ctx, tx, c, "person-changed", p.Name, args)
}

// keepOwner refuses what would leave the box without an owner who can sign in.
func keepOwner(ctx context.Context, tx *sql.Tx) error {
	var n int
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM people WHERE role = 'owner' AND password IS NOT NULL").Scan(&n)
	if err != nil {
		return fmt.Errorf("count owners: %w", err)
	}
	if n == 0 {
		return ErrLastOwner
	}
	return nil
}

// RemovePerson removes a person with everything that is theirs.
func (i *Identity) RemovePerson(ctx context.Context, c Caller, id string) error {
	return i.changeBy(ctx, c, func(ch *change) error {
		p := i.find(id)
		if p == nil {
			return ErrNotFound
		}
		if err := i.dropPerson(ctx, ch, id, ""); err != nil {
			return err
		}
		r, err := ch.ExecContext(ctx, "DELETE FROM people WHERE id = ?", id)
		if err := must(r, err); err != nil {
			return err
		}
		if err := keepOwner(ctx, ch.Tx); err != nil {
			return err
		}
		return i.record(ctx, ch.Tx, c, "person-removed", p.Name, nil)
	})
}

// SetPeople brings names and roles in line with a configuration document, in a transaction of Change: who is in the
// document under another spelling or role is changed, who is new is added without a password (an invitation gives them
// one), who is missing stays. The paths of field problems are below path, such as "/people".
func (i *Identity) SetPeople(ctx context.Context, tx *sql.Tx, c Caller, path string, want []api.ConfigPerson) error {
	seen := map[string]bool{}
	// Owners first, so that a document that swaps roles finds an owner at any time.
	for _, role := range []string{api.RoleOwner, api.RoleMember} {
		for n, w := range want {
			at := fmt.Sprintf("%s/%d", path, n)
			if err := cleanRole(at+"/role", w.Role); err != nil {
				return err
			}
			if w.Role != role {
				continue
			}
			name, err := cleanName(at+"/name", w.Name)
			if err != nil {
				return err
			}
			key, err := nameKey(name)
			if err != nil {
				return err
			}
			if seen[key] {
				return invalid(at+"/name", "duplicate", "This name is there twice.")
			}
			seen[key] = true
			i.mu.Lock()
			p := i.byKey[key]
			i.mu.Unlock()
			if p != nil {
				if err := i.changePerson(ctx, tx, c, p, name, w.Role, at+"/name"); err != nil {
					return err
				}
				continue
			}
			p = blankPerson(name, key, w.Role, i.now())
			if err := i.insert(ctx, tx, p); err != nil {
				return err
			}
			if err := i.record(ctx, tx, c, "account-made", name, map[string]string{"role": w.Role}); err != nil {
				return err
			}
		}
	}
	return nil
}
