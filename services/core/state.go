package core

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// stateFile is the database's name in the state directory.
const stateFile = "state.db"

// migrations take the schema from version i to i+1 (PRAGMA user_version). They are only ever appended to.
var migrations = []string{
	`CREATE TABLE sessions (
		token   BLOB PRIMARY KEY, -- SHA-256 of the cookie's value
		created INTEGER NOT NULL, -- this and the next two: Unix seconds
		seen    INTEGER NOT NULL,
		expires INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`,
}

// errNewer says that a newer release wrote the database. A restart can't mend it, and nothing is wrong with the
// database, so it stays where it is.
var errNewer = fmt.Errorf("%w: %s was written by a newer release", daemon.ErrConfig, stateFile)

// state is the database: one connection, so one writer.
type state struct {
	db      *sql.DB
	notices []api.Notice
}

// openState opens the database in dir, creating or migrating it. A damaged database is set aside under a dated
// name, never deleted, and a fresh one takes its place. On a full disk what is there can still be read. If there can be
// no database at all (no directory, a failing disk), the state is kept in memory, since a box that can be looked at
// beats one that can't. All of this is told in notices. The error is errNewer or nothing that this process can go on
// with.
func openState(ctx context.Context, dir string, log *slog.Logger) (*state, error) {
	var notices []api.Notice
	if dir != "" {
		path := filepath.Join(dir, stateFile)
		db, err := openDB(ctx, fileDSN(path)+walMode)
		if isDamaged(err) {
			aside, qerr := setAside(path, time.Now())
			log.Error("the state was damaged, starting with a fresh one", "err", err, "kept_as", aside, "set_aside_err", qerr)
			notices = append(notices, api.Notice{
				Name: "state-replaced", Weight: "warn",
				Text: "Croft's own settings were damaged, so it started with fresh ones. The damaged file was kept.",
				Next: "If this happens again, the card is probably failing: replace it.",
			})
			if err = qerr; err == nil {
				db, err = openDB(ctx, fileDSN(path)+walMode)
			}
		}
		if err == nil {
			// The name of a new file is durable only after its directory.
			if err := syncDir(dir); err != nil {
				log.Warn("syncing the state directory", "err", err)
			}
			return &state{db: db, notices: notices}, nil
		}
		if errors.Is(err, errNewer) || ctx.Err() != nil {
			return nil, err
		}
		// The journal's index is a file that a full disk has no room for; who has the database alone needs none
		// (https://sqlite.org/wal.html#noshm).
		if db, aloneErr := openDB(ctx, fileDSN(path)+"&_locking_mode=EXCLUSIVE"); aloneErr == nil {
			log.Error("the state can be read, but probably not be changed", "err", err)
			notices = append(notices, api.Notice{
				Name: "state-full", Weight: "warn",
				Text: "Croft can't write its settings to the disk. It can read them, but changes are lost when it restarts.",
				Next: "Look at the disk below: it is probably full.",
			})
			return &state{db: db, notices: notices}, nil
		}
		log.Error("the state can't be kept on the disk, keeping it in memory", "err", err)
		notices = append(notices, api.Notice{
			Name: "state-in-memory", Weight: "warn",
			Text: "Croft can't write its settings to the disk, so it keeps them in memory until it restarts.",
			Next: "Look at the disk below: it is probably full or failing.",
		})
	}
	db, err := openDB(ctx, "file::memory:?_foreign_keys=1")
	if err != nil {
		return nil, err
	}
	return &state{db: db, notices: notices}, nil
}

// walMode makes a new database keep a write-ahead log, once and for all. It touches the log, so it is not for a database
// that is to be locked first.
const walMode = "&_journal_mode=WAL"

// fileDSN, with walMode, asks for what was measured to lose nothing that was acknowledged when the power is cut.
func fileDSN(path string) string {
	u := url.URL{Path: path}
	return "file:" + u.EscapedPath() + "?_synchronous=FULL&_busy_timeout=5000&_foreign_keys=1"
}

func openDB(ctx context.Context, dsn string) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", stateFile, err)
	}
	db.SetMaxOpenConns(1) // pragmas below hold for this connection, which is kept
	db.SetMaxIdleConns(1)
	if err := prepare(ctx, db); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", stateFile, err)
	}
	return db, nil
}

func prepare(ctx context.Context, db *sql.DB) error {
	for _, p := range []string{
		"cache_size=-512", // KiB
		"journal_size_limit=16777216",
		"mmap_size=0",
		"trusted_schema=OFF",
	} {
		if _, err := db.ExecContext(ctx, "PRAGMA "+p); err != nil {
			return fmt.Errorf("set %s: %w", p, err)
		}
	}
	var found string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&found); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if found != "ok" {
		return &damagedError{found}
	}
	return migrate(ctx, db)
}

func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if version > len(migrations) {
		return fmt.Errorf("%w (schema %d, this release knows %d)", errNewer, version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
		_, err = tx.ExecContext(ctx, migrations[version]+fmt.Sprintf("; PRAGMA user_version=%d", version+1))
		if err == nil {
			err = tx.Commit()
		}
		if err != nil {
			tx.Rollback()
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
	}
	return nil
}

// damagedError is what SQLite's own check found.
type damagedError struct{ found string }

func (e *damagedError) Error() string { return "check: " + e.found }

func isDamaged(err error) bool {
	var d *damagedError
	var s sqlite3.Error
	return errors.As(err, &d) || errors.As(err, &s) && (s.Code == sqlite3.ErrCorrupt || s.Code == sqlite3.ErrNotADB)
}

// setAside renames the database and its journal so that they still are a pair, and returns the new path.
func setAside(path string, now time.Time) (string, error) {
	dir, name := filepath.Split(path)
	prefix := "damaged-" + now.UTC().Format("20060102T150405Z") + "-"
	for i := 2; ; i++ { // a clock without battery may give the same second again
		if _, err := os.Lstat(dir + prefix + name); errors.Is(err, fs.ErrNotExist) {
			break
		}
		prefix = fmt.Sprintf("damaged-%s-%d-", now.UTC().Format("20060102T150405Z"), i)
	}
	aside := dir + prefix + name
	// The index of the journal is made anew by whoever opens the pair.
	for _, suffix := range []string{"-shm", "-wal", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("set the damaged state aside: %w", err)
		}
	}
	return aside, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// check reports whether the database answers.
func (s *state) check(ctx context.Context) error {
	var n int
	if err := s.db.QueryRowContext(ctx, "SELECT count(*) FROM sessions").Scan(&n); err != nil {
		return fmt.Errorf("ask %s: %w", stateFile, err)
	}
	return nil
}

// close empties the journal into the database and closes it.
func (s *state) close() error {
	_, err := s.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	return errors.Join(err, s.db.Close())
}
