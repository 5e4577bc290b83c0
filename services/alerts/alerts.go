// Package alerts remembers what happened to the box until an owner has seen it: that its disk fills up, that it is hot,
// that a service does not keep running, that an update waits or failed, and what else api.AlertNames lists.
//
// An alert begins when its rule finds it, and is over when that has not been so for Hold. If it begins again before an
// owner has seen it, it is the same alert, counted once more. One that was seen goes once it is over; if it begins
// again, it is a new one. So each kind of alert is written twice per Hold at most, however it flaps.
//
// Limits: at most 100 alerts are kept; the oldest go first. What happens between two looks is not seen, but for services
// that were ended, which are counted. Times are by the box's clock as it was then.
package alerts

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/state"
)

// Hold is how long something has to be over to count as over.
const Hold = 10 * time.Minute

const maxAlerts = 100

// ErrNotFound says that there is no such alert, or that it was seen.
var ErrNotFound = errors.New("there is no such alert")

// Alerts are all of them. Its methods may be called in parallel.
type Alerts struct {
	db  *state.DB
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	all     map[key]*alert
	memory  memory
	tried   time.Duration // when what is unsaved was last tried to save
	unsaved int64         // ids from firstUnsaved on that were given
}

// alert is one of them as the database has it.
type alert struct {
	api.Alert
	seen    bool
	last    time.Duration // when it was last so, by the monotonic clock
	unsaved bool          // the database does not have it as it is
}

// firstUnsaved is the first id of alerts that the database could not give one.
const firstUnsaved = 1 << 40

// Open reads what the database holds.
func Open(ctx context.Context, db *state.DB, log *slog.Logger, now func() time.Time) (*Alerts, error) {
	a := &Alerts{db: db, log: log, now: now, all: map[key]*alert{}}
	a.memory = memory{unsure: -1, active: func(k key) bool { x := a.all[k]; return x != nil && x.Active }}
	rows, err := db.SQL().QueryContext(ctx, "SELECT id, name, target, weight, args, first, last, count, active, seen FROM alerts")
	if err != nil {
		return nil, fmt.Errorf("read the alerts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		x := &alert{}
		var args string
		var first, last int64
		err := rows.Scan(&x.ID, &x.Name, &x.Target, &x.Weight, &args, &first, &last, &x.Count, &x.Active, &x.seen)
		if err == nil && args != "" {
			err = json.Unmarshal([]byte(args), &x.Args)
		}
		if err != nil {
			return nil, fmt.Errorf("read the alerts: %w", err)
		}
		x.First, x.Last = time.Unix(first, 0).UTC(), time.Unix(last, 0).UTC()
		x.Text, x.Next = sentences(x.Name, x.Args)
		a.all[key{x.Name, x.Target}] = x
	}
	return a, rows.Err()
}

// Observe takes the box as it is now in; mono is by a clock that is never set.
func (a *Alerts) Observe(ctx context.Context, b *api.Box, mono time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	found := look(&a.memory, b, mono)
	begun := false
	for k, f := range found {
		if x := a.all[k]; x != nil && x.Active {
			x.last = mono
			continue
		}
		a.begin(k, f, mono)
		begun = true
	}
	over := false
	for k, x := range a.all {
		if x.last == 0 { // of a process before this one
			x.last = max(mono, 1)
		}
		if _, yes := found[k]; !yes && x.Active && mono-x.last >= Hold {
			x.Active, x.unsaved, over = false, true, true
		}
	}
	again := mono-a.tried >= Hold && slices.ContainsFunc(slices.Collect(maps.Values(a.all)), func(x *alert) bool { return x.unsaved })
	if !begun && !over && !again {
		return
	}
	a.tried = mono
	if err := a.save(ctx); err != nil {
		a.log.Warn("alerts are kept in memory only", "err", err)
	}
	for k, x := range a.all {
		if x.seen && !x.Active {
			delete(a.all, k)
		}
	}
}

// begin notes that something began, for the first time or again. What was seen and over is not there any more.
func (a *Alerts) begin(k key, f finding, mono time.Duration) {
	x := a.all[k]
	now := a.now().UTC().Truncate(time.Second)
	if x == nil {
		x = &alert{Alert: api.Alert{ID: firstUnsaved + a.unsaved, Name: k.name, Target: k.target, First: now}}
		a.unsaved++
		a.all[k] = x
	}
	x.Weight, x.Args, x.Last, x.Active, x.last = f.weight, f.args, now, true, max(mono, 1)
	x.unsaved = true
	x.Count++
	x.Text, x.Next = sentences(k.name, f.args)
}

// save brings the database in line, in one transaction.
func (a *Alerts) save(ctx context.Context) error {
	ids := map[*alert]int64{}
	dropped := a.oldest(len(a.all) - maxAlerts)
	err := a.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, x := range a.all {
			if !x.unsaved {
				continue
			}
			if x.seen && !x.Active {
				if _, err := tx.ExecContext(ctx, "DELETE FROM alerts WHERE id = ?", x.ID); err != nil {
					return fmt.Errorf("forget an alert: %w", err)
				}
				continue
			}
			args := ""
			if len(x.Args) > 0 {
				b, err := json.Marshal(x.Args)
				if err != nil {
					return fmt.Errorf("keep an alert: %w", err)
				}
				args = string(b)
			}
			var id any // the database's choice
			if x.ID < firstUnsaved {
				id = x.ID
			}
			r, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO alerts (id, name, target, weight, args, first, last, count, active, seen)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
				id, x.Name, x.Target, x.Weight, args, x.First.Unix(), x.Last.Unix(), x.Count, x.Active, x.seen)
			if err == nil {
				ids[x], err = r.LastInsertId()
			}
			if err != nil {
				return fmt.Errorf("keep an alert: %w", err)
			}
		}
		for _, k := range dropped {
			if _, err := tx.ExecContext(ctx, "DELETE FROM alerts WHERE name = ? AND target = ?", k.name, k.target); err != nil {
				return fmt.Errorf("forget an alert: %w", err)
			}
		}
		return nil
	})
	for _, k := range dropped {
		delete(a.all, k)
	}
	if err != nil {
		return err
	}
	for x, id := range ids {
		x.ID, x.unsaved = id, false
	}
	return nil
}

// oldest are the n that began the longest ago.
func (a *Alerts) oldest(n int) (keys []key) {
	if n <= 0 {
		return nil
	}
	for k := range a.all {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(i, j key) int { return a.all[i].Last.Compare(a.all[j].Last) })
	return keys[:n]
}

// List returns those that no owner has seen, the latest first.
func (a *Alerts) List() []api.Alert {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []api.Alert{}
	for _, x := range a.all {
		if !x.seen {
			list = append(list, x.Alert)
		}
	}
	slices.SortFunc(list, func(i, j api.Alert) int {
		if c := j.Last.Compare(i.Last); c != 0 {
			return c
		}
		return int(j.ID - i.ID)
	})
	return list
}

// Seen notes that an owner has seen an alert; record writes the entry of the audit log in the same transaction.
func (a *Alerts) Seen(ctx context.Context, id int64, record func(context.Context, *sql.Tx, api.Alert) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, x := range a.all {
		if x.ID != id || x.seen {
			continue
		}
		err := a.db.Tx(ctx, func(tx *sql.Tx) error {
			sql := "DELETE FROM alerts WHERE id = ?"
			if x.Active {
				sql = "UPDATE alerts SET seen = 1 WHERE id = ?"
			}
			if _, err := tx.ExecContext(ctx, sql, id); err != nil {
				return fmt.Errorf("note that an alert was seen: %w", err)
			}
			return record(ctx, tx, x.Alert)
		})
		if err != nil {
			return err
		}
		if x.seen = true; !x.Active {
			delete(a.all, k)
		}
		return nil
	}
	return ErrNotFound
}
