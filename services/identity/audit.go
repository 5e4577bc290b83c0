package identity

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	maxAudit    = 10_000 // entries; the oldest go first
	maxPage     = 200
	failedEvery = 10 * time.Minute // a wrong sign-in from one place is recorded at most so often,
	failedHour  = 30               // and all together so many times an hour: nobody writes the card full from outside
	maxFailed   = 256              // places remembered
)

// Record writes an entry into the audit log, in the transaction of the change that it tells of. Its ID is made up here,
// its time too unless it is given.
func (i *Identity) Record(ctx context.Context, tx *sql.Tx, e api.AuditEntry) error {
	args := ""
	if len(e.Args) > 0 {
		b, err := json.Marshal(e.Args)
		if err != nil {
			return fmt.Errorf("record %s: %w", e.Action, err)
		}
		args = string(b)
	}
	if e.At.IsZero() {
		e.At = i.now()
	}
	r, err := tx.ExecContext(ctx, "INSERT INTO audit (at, action, who, target, args, place) VALUES (?, ?, ?, ?, ?, ?)",
		e.At.Unix(), e.Action, e.Who, e.Target, args, place(e.Place))
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Action, err)
	}
	id, err := r.LastInsertId()
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM audit WHERE id <= ?", id-maxAudit)
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Action, err)
	}
	return nil
}

func (i *Identity) record(ctx context.Context, tx *sql.Tx, c Caller, action, target string, args map[string]string) error {
	return i.Record(ctx, tx, api.AuditEntry{Action: action, Who: c.Person.Name, Target: target, Args: args, Place: c.Place})
}

// Log writes an entry that stands for itself: for what happens outside of the database.
func (i *Identity) Log(ctx context.Context, e api.AuditEntry) error {
	return i.db.Tx(ctx, func(tx *sql.Tx) error { return i.Record(ctx, tx, e) })
}

// Audit returns one page of the audit log, newest first, from after the entry whose id is after ("" for the first page).
func (i *Identity) Audit(ctx context.Context, after string, limit int) (api.List[api.AuditEntry], error) {
	list := api.List[api.AuditEntry]{Items: []api.AuditEntry{}}
	before := int64(1) << 62
	if after != "" {
		n, err := strconv.ParseInt(after, 10, 64)
		if err != nil || n < 0 {
			return list, invalid("/after", "format", "This is not what the page before ended with.")
		}
		before = n
	}
	limit = min(max(limit, 1), maxPage)
	rows, err := i.db.SQL().QueryContext(ctx,
		"SELECT id, at, action, who, target, args, place FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?", before, limit+1)
	if err != nil {
		return list, fmt.Errorf("read the audit log: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e api.AuditEntry
		var at int64
		var args string
		if err := rows.Scan(&e.ID, &at, &e.Action, &e.Who, &e.Target, &args, &e.Place); err != nil {
			return list, fmt.Errorf("read the audit log: %w", err)
		}
		e.At = time.Unix(at, 0).UTC()
		if args != "" {
			if err := json.Unmarshal([]byte(args), &e.Args); err != nil {
				return list, fmt.Errorf("read the audit log: entry %d: %w", e.ID, err)
			}
		}
		if len(list.Items) == limit {
			list.Next = strconv.FormatInt(list.Items[limit-1].ID, 10)
			break
		}
		list.Items = append(list.Items, e)
	}
	return list, rows.Err()
}

// failures bounds how many wrong sign-ins are recorded.
type failures struct {
	mu    sync.Mutex
	last  map[string]time.Time // by place
	hour  time.Time            // when the hour began
	count int                  // in that hour
}

func (f *failures) allow(place string, t time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.Sub(f.hour) >= time.Hour {
		f.hour, f.count = t, 0
	}
	if last, ok := f.last[place]; ok && t.Sub(last) < failedEvery || f.count >= failedHour {
		return false
	}
	if f.last == nil || len(f.last) >= maxFailed {
		f.last = map[string]time.Time{}
	}
	f.last[place] = t
	f.count++
	return true
}

// logFailed records a wrong sign-in. What was typed as a name is not: it may have been a password.
func (i *Identity) logFailed(ctx context.Context, p *person, c Caller, reason string) {
	if !i.failed.allow(place(c.Place), i.now()) {
		return
	}
	e := api.AuditEntry{Action: "sign-in-failed", Args: map[string]string{"reason": reason}, Place: c.Place}
	if p != nil {
		e.Target = p.Name
	}
	if err := i.Log(context.WithoutCancel(ctx), e); err != nil {
		i.log.Warn("a wrong sign-in could not be recorded", "err", err)
	}
}
