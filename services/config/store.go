// Package config keeps the box's configuration: the document that docs/config.md specifies, what changed it and when,
// and that the rest of the box follows it.
//
// The database is the truth. Each change is one transaction together with its entry in the audit log and in the list of
// changes, by which it can be undone. Only then is it told to those who act by it: init and discovery (name), the network
// service (name, addresses, time servers), the updater (its policy, time zone), the witness. Who could not be told, or has
// forgotten, is told again by Reconcile.
//
// A change of the network is tried first, and kept only if somebody asks for that in time: until then it is nowhere but in
// the memory of the network service and of this process. When either ends, or the power fails, the configuration before
// holds.
//
// What the database does not know yet, because it is new or was lost, is taken over from init and the network service
// instead of being pushed at them.
//
// Limits: people are added and change their roles by the document, but are never removed by it. There are no secrets in
// it, so it does not bring back passwords.
package config

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/identity"
	"github.com/croft-os/croft/services/state"
)

// What can be refused, beside what package identity refuses of people.
var (
	ErrStarting     = errors.New("the configuration is not known yet") // init or the network service has to answer first
	ErrChanged      = errors.New("the configuration was changed meanwhile")
	ErrNotFound     = errors.New("there is no such change")
	ErrCannotUndo   = errors.New("what the change changed was changed again, or can't be taken back")
	ErrNoTrial      = errors.New("no network configuration is being tried")
	ErrTrialRunning = errors.New("another network configuration is being tried")
	ErrNetwork      = errors.New("the network service does not take the configuration")
)

const (
	maxChanges  = 200             // that are remembered; the oldest go first
	tellTime    = 3 * time.Second // for another service to do what it is told
	trialGrace  = 5 * time.Second // in which the network service may not say yet, or still, that it tries something
	firstWait   = 10 * time.Second
	longestWait = 10 * time.Minute
)

// Options is what a Store needs.
type Options struct {
	DB       *state.DB
	Identity *identity.Identity
	Log      *slog.Logger
	Now      func() time.Time // with a monotonic reading

	Init, Network, Discovery, Updater, Witness *http.Client
}

// Store is the configuration. Its methods may be called in parallel.
type Store struct {
	Options
	telling teller

	changing sync.Mutex // one change at a time; before mu

	mu    sync.Mutex
	kept  settings
	trial *trial
}

// settings are what the database has of the document beside people.
type settings struct {
	name, zone      string
	network         api.NetConfig
	updates         api.UpdatePolicy
	witness         api.WitnessConfig
	hasName, hasNet bool
}

// trial is a network configuration that waits to be kept.
type trial struct {
	config  api.NetConfig
	undoes  int64
	started time.Time
}

// Open reads what the database holds.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{Options: o}
	s.telling = teller{now: o.Now, targets: map[string]*backoff{}}
	rows, err := o.DB.SQL().QueryContext(ctx, "SELECT key, value FROM settings WHERE key IN ('name', 'time_zone', 'network', 'updates', 'witness')")
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		switch key {
		case "name":
			s.kept.name, s.kept.hasName = Name(value)
		case "time_zone":
			s.kept.zone = value
		case "network":
			err := json.Unmarshal([]byte(value), &s.kept.network) // fields that a later release added are ignored
			if s.kept.hasNet = err == nil; err != nil {
				s.Log.Error("the network's configuration can't be read", "err", err)
			}
		case "updates":
			if err := json.Unmarshal([]byte(value), &s.kept.updates); err != nil {
				s.Log.Error("the policy of updates can't be read; asking before any", "err", err)
				s.kept.updates = api.UpdatePolicy{Mode: "ask"} // an owner who said no is not overridden
			}
		case "witness":
			if err := json.Unmarshal([]byte(value), &s.kept.witness); err != nil {
				s.Log.Error("which logs to watch for others can't be read; watching none", "err", err)
				s.kept.witness = api.WitnessConfig{}
			}
		}
	}
	return s, rows.Err()
}

// Name is the name that the box should have, empty while it is not known.
func (s *Store) Name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept.name
}

// TimeZone is the household's, empty for UTC.
func (s *Store) TimeZone() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept.zone
}

// Document returns the configuration as it is. The error is ErrStarting.
func (s *Store) Document() (api.Config, error) {
	s.mu.Lock()
	k := s.kept
	s.mu.Unlock()
	if !k.hasName || !k.hasNet {
		return api.Config{}, ErrStarting
	}
	c := api.Config{
		Format: api.ConfigFormat, Name: k.name, TimeZone: k.zone, Network: k.network, People: []api.ConfigPerson{}, Updates: k.updates,
		Witness: k.witness,
	}
	for _, p := range s.Identity.People() {
		c.People = append(c.People, api.ConfigPerson{Name: p.Name, Role: p.Role})
	}
	slices.SortFunc(c.People, func(a, b api.ConfigPerson) int { return strings.Compare(a.Name, b.Name) })
	return c, nil
}

// Check says what Change with the document would change, and what is wrong with it.
func (s *Store) Check(ctx context.Context, b []byte) (api.ConfigCheck, error) {
	out := api.ConfigCheck{Differences: []api.Difference{}, Problems: []api.FieldProblem{}}
	want, err := Parse(b)
	var wrong Problems
	if errors.As(err, &wrong) {
		out.Problems = wrong
		return out, nil
	}
	if err != nil {
		return out, err
	}
	now, err := s.Document()
	if err != nil {
		return out, err
	}
	out.Differences = Differences(now, want)
	// Only a transaction can tell what there would be to say about people.
	errEnough := errors.New("looked at")
	err = s.Identity.Change(ctx, identity.Caller{}, func(tx *sql.Tx) error {
		if err := s.Identity.SetPeople(ctx, tx, identity.Caller{}, peoplePath, want.People); err != nil {
			return err
		}
		return errEnough
	})
	var invalid *identity.InvalidError
	switch {
	case errors.Is(err, errEnough):
		err = nil
	case errors.As(err, &invalid):
		out.Problems, err = invalid.Fields, nil
	case errors.Is(err, identity.ErrLastOwner):
		out.Problems = []api.FieldProblem{{
			Path: peoplePath, Code: "last-owner", Text: "The box needs an owner who can sign in.",
		}}
		err = nil
	}
	return out, err
}

// Change makes the document the configuration, if the one before still has the tag. What it changes of the network is
// tried; the rest holds when Change returns. The error is one of the above, a Problems, or of package identity.
func (s *Store) Change(ctx context.Context, who identity.Caller, tag string, want api.Config) (api.ConfigResult, error) {
	want, wrong := Validate(want)
	if len(wrong) > 0 {
		return api.ConfigResult{}, Problems(wrong)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	now, err := s.Document()
	if err != nil {
		return api.ConfigResult{}, err
	}
	if ETag(now) != tag {
		return api.ConfigResult{}, ErrChanged
	}
	return s.change(ctx, who, now, want, 0, nil)
}

// Set changes single fields, as set-up does; also, unless it is nil, is done in the same transaction.
func (s *Store) Set(ctx context.Context, who identity.Caller, change func(*api.Config), also func(context.Context, *sql.Tx) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	now, err := s.Document()
	if err != nil {
		return err
	}
	want := now
	change(&want)
	want, wrong := Validate(want)
	if len(wrong) > 0 {
		return Problems(wrong)
	}
	_, err = s.change(ctx, who, now, want, 0, also)
	return err
}

// change takes the box from one document to another. The caller holds changing.
func (s *Store) change(
	ctx context.Context, who identity.Caller, now, want api.Config, undoes int64, also func(context.Context, *sql.Tx) error,
) (api.ConfigResult, error) {
	all := Differences(now, want)
	var tried, rest []api.Difference
	for _, d := range all {
		if isNetwork(d) {
			tried = append(tried, d)
		} else {
			rest = append(rest, d)
		}
	}
	// The trial comes first, for it can be refused and taken back.
	if len(tried) > 0 {
		if err := s.try(ctx, want.Network, undoes); err != nil {
			return api.ConfigResult{}, err
		}
	}
	if len(rest) > 0 || len(tried) > 0 || also != nil {
		if err := s.keep(ctx, who, now, want, rest, tried, undoes, also); err != nil {
			if len(tried) > 0 {
				s.endTrial(context.WithoutCancel(ctx))
			}
			return api.ConfigResult{}, err
		}
	}
	if now.Name != want.Name {
		s.tellName(context.WithoutCancel(ctx), want.Name)
	}
	if now.TimeZone != want.TimeZone || !samePolicy(now.Updates, want.Updates) {
		s.tellUpdates(context.WithoutCancel(ctx), want.Updates, want.TimeZone)
	}
	if !sameWitness(now.Witness, want.Witness) {
		s.tellWitness(context.WithoutCancel(ctx), want.Witness)
	}
	c, err := s.Document()
	r := api.ConfigResult{Config: c, Differences: all}
	if len(tried) > 0 {
		r.Trial = s.Trial()
	}
	return r, err
}

// keep writes a change into the database, with what is to be remembered of it.
func (s *Store) keep(
	ctx context.Context, who identity.Caller, now, want api.Config, rest, tried []api.Difference, undoes int64,
	also func(context.Context, *sql.Tx) error,
) error {
	err := s.Identity.Change(ctx, who, func(tx *sql.Tx) error {
		if meanwhile, err := s.Document(); err != nil {
			return err
		} else if ETag(meanwhile) != ETag(now) { // people change by other ways too
			return ErrChanged
		}
		if len(tried) > 0 {
			if err := s.record(ctx, tx, who, "network-tried", tried, undoes); err != nil {
				return err
			}
		}
		if also != nil {
			if err := also(ctx, tx); err != nil {
				return err
			}
		}
		if len(rest) == 0 {
			return nil
		}
		for key, v := range map[string][2]string{
			"name": {now.Name, want.Name}, "time_zone": {now.TimeZone, want.TimeZone},
			"updates": {string(encode(now.Updates)), string(encode(want.Updates))},
			"witness": {string(encode(now.Witness)), string(encode(want.Witness))},
		} {
			if v[0] != v[1] {
				if err := put(ctx, tx, key, v[1]); err != nil {
					return err
				}
			}
		}
		if slices.ContainsFunc(rest, func(d api.Difference) bool { return strings.HasPrefix(d.Path, peoplePath+"/") }) {
			if err := s.Identity.SetPeople(ctx, tx, who, peoplePath, want.People); err != nil {
				return err
			}
		}
		return s.remember(ctx, tx, who, "config-changed", rest, undoes)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.kept.name, s.kept.zone, s.kept.updates, s.kept.witness = want.Name, want.TimeZone, want.Updates, want.Witness
	s.mu.Unlock()
	return nil
}

func put(ctx context.Context, tx *sql.Tx, key, value string) error {
	if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO settings VALUES (?, ?)", key, value); err != nil {
		return fmt.Errorf("keep the setting %s: %w", key, err)
	}
	return nil
}

// remember writes a change into the list of changes and the audit log.
func (s *Store) remember(ctx context.Context, tx *sql.Tx, who identity.Caller, action string, diffs []api.Difference, undoes int64) error {
	r, err := tx.ExecContext(ctx, "INSERT INTO config_changes (at, by, differences, undoes) VALUES (?, ?, ?, ?)",
		s.Now().Unix(), who.Person.Name, string(encode(diffs)), undoes)
	if err != nil {
		return fmt.Errorf("remember a change: %w", err)
	}
	id, err := r.LastInsertId()
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM config_changes WHERE id <= ?", id-maxChanges)
	}
	if err != nil {
		return fmt.Errorf("remember a change: %w", err)
	}
	return s.record(ctx, tx, who, action, diffs, undoes)
}

// record writes an entry into the audit log that names what changed: some of name, time_zone, network, people, updates, witness.
func (s *Store) record(ctx context.Context, tx *sql.Tx, who identity.Caller, action string, diffs []api.Difference, undoes int64) error {
	var fields []string
	for _, d := range diffs {
		field, _, _ := strings.Cut(strings.TrimPrefix(d.Path, "/"), "/")
		if !slices.Contains(fields, field) {
			fields = append(fields, field)
		}
	}
	args := map[string]string{"fields": strings.Join(fields, ",")}
	if undoes != 0 {
		args["undoes"] = strconv.FormatInt(undoes, 10)
		if action == "config-changed" {
			action = "config-undone"
		}
	}
	return s.Identity.Record(ctx, tx, api.AuditEntry{Action: action, Who: who.Person.Name, Place: who.Place, Args: args})
}

// Changes returns what is remembered of changes, newest first.
func (s *Store) Changes(ctx context.Context) ([]api.ConfigChange, error) {
	now, err := s.Document()
	if err != nil {
		return nil, err
	}
	all, err := s.changes(ctx)
	if err != nil {
		return nil, err
	}
	later := map[string]bool{}
	for i := range all {
		c := &all[i]
		_, ok := back(now, c.Differences)
		c.CanUndo = ok && !slices.ContainsFunc(c.Differences, func(d api.Difference) bool { return later[d.Path] })
		for _, d := range c.Differences {
			later[d.Path] = true
		}
	}
	return all, nil
}

func (s *Store) changes(ctx context.Context) ([]api.ConfigChange, error) {
	rows, err := s.DB.SQL().QueryContext(ctx, "SELECT id, at, by, differences, undoes FROM config_changes ORDER BY id DESC")
	if err != nil {
		return nil, fmt.Errorf("read the changes: %w", err)
	}
	defer rows.Close()
	all := []api.ConfigChange{}
	for rows.Next() {
		var c api.ConfigChange
		var at int64
		var diffs string
		if err := rows.Scan(&c.ID, &at, &c.By, &diffs, &c.Undoes); err != nil {
			return nil, fmt.Errorf("read the changes: %w", err)
		}
		if err := json.Unmarshal([]byte(diffs), &c.Differences); err != nil {
			return nil, fmt.Errorf("read the changes: change %d: %w", c.ID, err)
		}
		c.At = time.Unix(at, 0).UTC()
		all = append(all, c)
	}
	return all, rows.Err()
}

// Undo takes one change back, if nothing has touched the same fields since. The error is one of Change, ErrNotFound or
// ErrCannotUndo.
func (s *Store) Undo(ctx context.Context, who identity.Caller, id int64) (api.ConfigResult, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	now, err := s.Document()
	if err != nil {
		return api.ConfigResult{}, err
	}
	all, err := s.Changes(ctx)
	if err != nil {
		return api.ConfigResult{}, err
	}
	i := slices.IndexFunc(all, func(c api.ConfigChange) bool { return c.ID == id })
	if i < 0 {
		return api.ConfigResult{}, ErrNotFound
	}
	want, ok := back(now, all[i].Differences)
	if !ok || !all[i].CanUndo {
		return api.ConfigResult{}, ErrCannotUndo
	}
	if want, wrong := Validate(want); len(wrong) == 0 {
		return s.change(ctx, who, now, want, id, nil)
	}
	return api.ConfigResult{}, ErrCannotUndo // by the rules of a release since
}
