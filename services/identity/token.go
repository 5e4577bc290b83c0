package identity

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// Tokens of people's own scripts.
const (
	tokenPrefix  = "croft_"
	maxTokens    = 20 // of one person
	maxTokenDays = 366
	usedEvery    = time.Hour // how often use is written to the card
)

// MakeToken makes a bearer token for the caller's own scripts.
func (i *Identity) MakeToken(ctx context.Context, c Caller, req api.TokenRequest) (api.Token, error) {
	name, err := cleanName("/name", req.Name)
	if err != nil {
		return api.Token{}, err
	}
	if req.Days < 1 || req.Days > maxTokenDays {
		return api.Token{}, invalid("/days", "range", "A token lasts 1 to 366 days.")
	}
	var scopes []string
	for _, s := range api.Scopes() { // in one order, each once
		for _, want := range req.Scopes {
			if want == s {
				scopes = append(scopes, s)
				break
			}
		}
	}
	if len(scopes) == 0 {
		return api.Token{}, invalid("/scopes", "missing", "A token is for something.")
	}
	if len(scopes) != len(req.Scopes) {
		return api.Token{}, invalid("/scopes", "format", "There is no such scope, or it is there twice.")
	}
	t := i.now()
	v := api.Token{
		ID: rand.Text()[:16], Name: name, Scopes: scopes, Secret: tokenPrefix + rand.Text(),
		Created: t.UTC().Truncate(time.Second), Expires: t.Add(time.Duration(req.Days) * 24 * time.Hour).UTC().Truncate(time.Second),
	}
	err = i.changeBy(ctx, c, func(ch *change) error {
		// What has expired goes once there is no room: the clock may be ahead.
		_, err := ch.ExecContext(ctx, `DELETE FROM tokens WHERE person = ?1 AND expires < ?2
			AND (SELECT count(*) FROM tokens WHERE person = ?1) >= ?3`, c.Person.ID, t.Unix(), maxTokens)
		if err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
		var n int
		if err := ch.QueryRowContext(ctx, "SELECT count(*) FROM tokens WHERE person = ?", c.Person.ID).Scan(&n); err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
		if n >= maxTokens {
			return ErrTooMany
		}
		h := hashToken(v.Secret)
		_, err = ch.ExecContext(ctx, "INSERT INTO tokens (id, secret, person, name, scopes, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
			v.ID, h[:], c.Person.ID, v.Name, strings.Join(scopes, " "), v.Created.Unix(), v.Expires.Unix())
		if err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
		return i.record(ctx, ch.Tx, c, "token-made", v.Name, map[string]string{"scopes": strings.Join(scopes, " ")})
	})
	if err != nil {
		return api.Token{}, err
	}
	return v, nil
}

const tokenColumns = "SELECT id, name, scopes, created, used, expires, person FROM tokens WHERE "

func scanToken(row interface{ Scan(...any) error }) (v api.Token, person string, err error) {
	var scopes string
	var created, used, expires int64
	if err := row.Scan(&v.ID, &v.Name, &scopes, &created, &used, &expires, &person); err != nil {
		return v, "", err
	}
	v.Scopes = strings.Fields(scopes)
	v.Created, v.Expires = time.Unix(created, 0).UTC(), time.Unix(expires, 0).UTC()
	if used > 0 {
		v.Used = time.Unix(used, 0).UTC().Truncate(time.Hour)
	}
	return v, person, nil
}

// Tokens returns the caller's tokens, newest first, without their secrets. Those that have expired are among them.
func (i *Identity) Tokens(ctx context.Context, c Caller) ([]api.Token, error) {
	rows, err := i.db.SQL().QueryContext(ctx, tokenColumns+"person = ? ORDER BY created DESC, id", c.Person.ID)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	defer rows.Close()
	all := []api.Token{}
	for rows.Next() {
		v, _, err := scanToken(rows)
		if err != nil {
			return nil, fmt.Errorf("read tokens: %w", err)
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// EndToken makes one of the caller's tokens worthless.
func (i *Identity) EndToken(ctx context.Context, c Caller, id string) error {
	return i.changeBy(ctx, c, func(ch *change) error {
		var name string
		err := ch.QueryRowContext(ctx, "DELETE FROM tokens WHERE id = ? AND person = ? RETURNING name", id, c.Person.ID).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("end a token: %w", err)
		}
		return i.record(ctx, ch.Tx, c, "token-ended", name, nil)
	})
}

// UseToken returns whose token this is and what it is for, and notes that it is used. It is ErrNotFound if the token is
// worthless.
func (i *Identity) UseToken(ctx context.Context, secret string) (api.Person, api.Token, error) {
	if !strings.HasPrefix(secret, tokenPrefix) || len(secret) > codeInput {
		return api.Person{}, api.Token{}, ErrNotFound
	}
	h := hashToken(secret)
	v, id, err := scanToken(i.db.SQL().QueryRowContext(ctx, tokenColumns+"secret = ?", h[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return api.Person{}, api.Token{}, ErrNotFound
	}
	if err != nil {
		return api.Person{}, api.Token{}, fmt.Errorf("look a token up: %w", err)
	}
	t := i.now()
	p := i.find(id)
	if p == nil || !t.Before(v.Expires) {
		return api.Person{}, api.Token{}, ErrNotFound
	}
	if d := t.Sub(v.Used); (d >= usedEvery || d < 0) && i.mayNote(v.ID, t) {
		_, err := i.db.SQL().ExecContext(context.WithoutCancel(ctx), "UPDATE tokens SET used = ? WHERE id = ?", t.Unix(), v.ID)
		if err != nil {
			i.log.Warn("the use of a token could not be written", "err", err)
		}
		v.Used = t.UTC().Truncate(time.Hour)
	}
	return p.Person, v, nil
}

// mayNote reports whether to write that a token is used: on a disk that takes nothing, it is not tried again at each use.
func (i *Identity) mayNote(id string, t time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if last, ok := i.used[id]; ok && t.Sub(last) >= 0 && t.Sub(last) < usedEvery {
		return false
	}
	if len(i.used) >= maxTokens*maxPeople { // of those that were ended
		clear(i.used)
	}
	i.used[id] = t
	return true
}
