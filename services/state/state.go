// Package state is core's database: one SQLite file that holds everything the box has to remember, and what keeps it
// whole.
//
// There is one connection, so one writer. A transaction that was committed survives a power cut: write-ahead log,
// synchronous=FULL. The log is emptied into the database only after a page for page copy of the database was made
// (state-good.db: written, synced, checked, renamed), so that at any time the good copy and the log together are the
// current state. When the database turns out to be damaged, it is set aside, never deleted, and put together again from
// those two; failing that, from the copy alone; failing that, a fresh one takes its place. Each is told in a notice.
//
// Limits: SQLite keeps no checksums of its pages. Damage that leaves a well-formed database of the right tables (a
// flipped bit in a name) is not noticed. Damage that shows while the process runs is answered with errors, and Check
// fails, so that the supervisor starts it again; the next Open repairs. Secrets in the database are as safe as the card
// that it is on.
//
// Sources: https://sqlite.org/wal.html, https://sqlite.org/walformat.html, https://sqlite.org/backup.html,
// https://sqlite.org/pragma.html.
package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	firstCopy   = 5 * time.Second  // after Open, so that it does not delay the start
	changedCopy = 30 * time.Second // after Changed: changes come in bursts
	copyTimeout = time.Minute
)

// DB is the database.
type DB struct {
	db      *sql.DB
	path    string // empty if it is in memory
	log     *slog.Logger
	notices []api.Notice

	damaged atomic.Bool   // SQLite said so while running
	changed chan struct{} // a fresh copy is wanted soon
	done    chan struct{}
	keeper  sync.WaitGroup

	copying sync.Mutex
	copied  int64 // total_changes() when the good copy was made; -1 before the first
}

// Open opens the database in dir, creating, migrating or repairing it. On a full disk what is there can still be read.
// If there can be no database on the disk at all (no directory, a failing disk), the state is kept in memory, from the
// good copy if that can be read, since a box that can be looked at beats one that can't. With dir "" it is in memory
// only. All of this is told in notices. The error is ErrNewer (a release wrote the database that this one can't follow), or nothing
// that this process can go on with.
//
// Before a step of the schema that releases of the version before can't follow, what is there is kept as state-before-N.db.
func Open(ctx context.Context, dir string, log *slog.Logger) (*DB, error) {
	return openFor(ctx, dir, false, log)
}

// OpenOnTrial is Open for a release that has to prove itself first: the schema is taken only so far that the release in the other
// slot can go on with the database (package schema). The rest follows at the first Open.
func OpenOnTrial(ctx context.Context, dir string, log *slog.Logger) (*DB, error) {
	return openFor(ctx, dir, true, log)
}

func openFor(ctx context.Context, dir string, trial bool, log *slog.Logger) (*DB, error) {
	d := &DB{log: log, changed: make(chan struct{}, 1), done: make(chan struct{}), copied: -1}
	if dir != "" {
		path := filepath.Join(dir, fileName)
		db, notices, err := openFile(ctx, path, trial, log)
		if err == nil {
			d.db, d.path, d.notices = db, path, notices
			d.keep()
			return d, nil
		}
		if errors.Is(err, ErrNewer) || ctx.Err() != nil {
			return nil, err
		}
		log.Error("the state can't be kept on the disk, keeping it in memory", "err", err)
	}
	db, err := openDB(ctx, "file::memory:", how{log: log})
	if err != nil {
		return nil, err
	}
	d.db = db
	if dir != "" {
		text := "Croft can't write its settings to the disk, so it keeps them in memory until it restarts."
		good := filepath.Join(dir, goodName)
		if err := loadCopy(ctx, db, good); err != nil {
			log.Warn("no good copy to start from", "err", err)
		} else {
			text += " It started from its last good copy."
		}
		d.notices = []api.Notice{{
			Name: "state-in-memory", Weight: "warn", Text: text,
			Next: "Look at the disk below: it is probably full or failing.",
		}}
	}
	return d, nil
}

// keep makes the good copy: at once if there is none, so that nothing is acknowledged before; then when it is asked for.
func (d *DB) keep() {
	if !exists(d.goodPath()) {
		if err := d.makeCopy(context.Background()); err != nil {
			d.log.Warn("no good copy of the state could be made", "err", err)
		}
	}
	d.keeper.Go(func() {
		t := time.NewTimer(firstCopy)
		defer t.Stop()
		armed := true
		for {
			select {
			case <-d.done:
				return
			case <-d.changed:
				if !armed {
					t.Reset(changedCopy)
					armed = true
				}
			case <-t.C:
				armed = false
				if err := d.makeCopy(context.Background()); err != nil {
					d.log.Warn("no good copy of the state could be made", "err", err)
				}
			}
		}
	})
}

// SQL is for reads outside of a transaction. There is one connection: whoever holds a transaction or rows must not ask
// for another.
func (d *DB) SQL() *sql.DB { return d.db }

// Tx runs fn in a transaction, which is committed if fn returns nil and leaves no trace otherwise. When Tx has returned
// nil, what fn wrote survives a power cut.
func (d *DB) Tx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return d.note(fmt.Errorf("begin a change: %w", err))
	}
	if err := fn(tx); err != nil {
		tx.Rollback()
		return d.note(err)
	}
	if err := tx.Commit(); err != nil {
		return d.note(fmt.Errorf("keep a change: %w", err))
	}
	if d.path != "" && fileSize(d.path+"-wal") > checkpointAt {
		d.Changed()
	}
	return nil
}

// note remembers that an error tells of damage.
func (d *DB) note(err error) error {
	if isDamaged(err) {
		d.damaged.Store(true)
	}
	return err
}

// Changed asks for a fresh good copy soon. It is for what would hurt to lose (people, settings), not for what is
// written as time goes by.
func (d *DB) Changed() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Notices say what happened to the database at its start.
func (d *DB) Notices() []api.Notice { return d.notices }

// Check reports whether the database answers and was whole whenever it did.
func (d *DB) Check(ctx context.Context) error {
	if d.damaged.Load() {
		return fmt.Errorf("%s is damaged: it is repaired at the next start", fileName)
	}
	var n int
	if err := d.db.QueryRowContext(ctx, "SELECT count(*) FROM settings").Scan(&n); err != nil {
		return d.note(fmt.Errorf("ask %s: %w", fileName, err))
	}
	return nil
}

// Close makes the good copy, empties the log into the database and closes it.
func (d *DB) Close() error {
	select {
	case <-d.done:
		return nil
	default:
	}
	close(d.done)
	d.keeper.Wait()
	var err error
	if d.path != "" {
		err = d.makeCopy(context.Background())
	}
	_, cerr := d.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	return errors.Join(err, cerr, d.db.Close())
}
