package state

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/croft-os/croft/services/daemon"
)

// ErrNewer says that a newer release wrote the database. A restart can't mend it, and nothing is wrong with the
// database, so it stays where it is.
var ErrNewer = fmt.Errorf("%w: %s was written by a newer release", daemon.ErrConfig, fileName)

// newest is how far ahead a release can be. A version beyond it is damage.
const newest = 10_000

// migrations take the schema from version i to i+1 (PRAGMA user_version, and from 2 on also the setting "schema").
// They are only ever appended to. All times are Unix seconds; ids are random text; secrets are kept as SHA-256 unless
// something else is said.
var migrations = []string{
	`CREATE TABLE sessions (
		token   BLOB PRIMARY KEY,
		created INTEGER NOT NULL,
		seen    INTEGER NOT NULL,
		expires INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`,

	// Whoever was signed in by the claim code alone has to make an account.
	`DROP TABLE sessions;
	CREATE TABLE settings (
		key   TEXT PRIMARY KEY,
		value TEXT NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE TABLE people (
		id       TEXT PRIMARY KEY,
		name     TEXT NOT NULL,        -- as it was typed
		key      TEXT NOT NULL UNIQUE, -- as it is compared
		role     TEXT NOT NULL CHECK (role IN ('owner', 'member')),
		password TEXT,                 -- PHC string; NULL until an invitation is taken
		created  INTEGER NOT NULL,
		seen     INTEGER NOT NULL DEFAULT 0
	) STRICT;
	CREATE TABLE sessions (
		token   BLOB PRIMARY KEY,
		id      TEXT NOT NULL UNIQUE,
		kind    TEXT NOT NULL CHECK (kind IN ('person', 'setup', 'rescue')),
		person  TEXT REFERENCES people (id) ON DELETE CASCADE,
		device  TEXT NOT NULL,
		place   TEXT NOT NULL,
		created INTEGER NOT NULL,
		seen    INTEGER NOT NULL,
		expires INTEGER NOT NULL,
		CHECK ((kind = 'person') = (person IS NOT NULL))
	) STRICT, WITHOUT ROWID;
	CREATE INDEX sessions_person ON sessions (person);
	CREATE UNIQUE INDEX sessions_setup ON sessions (kind) WHERE kind = 'setup'; -- one phone sets the box up
	CREATE TABLE second_factors (
		person  TEXT PRIMARY KEY REFERENCES people (id) ON DELETE CASCADE,
		secret  BLOB,                       -- as it is: it has to be; NULL until confirmed
		step    INTEGER NOT NULL DEFAULT 0, -- last 30 s step that was used
		pending BLOB                        -- a secret that waits to be confirmed
	) STRICT, WITHOUT ROWID;
	CREATE TABLE recovery_codes (
		person TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
		code   BLOB NOT NULL,
		PRIMARY KEY (person, code)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE invites (
		id      TEXT PRIMARY KEY,
		code    BLOB NOT NULL UNIQUE,
		role    TEXT NOT NULL CHECK (role IN ('owner', 'member')),
		person  TEXT REFERENCES people (id) ON DELETE CASCADE, -- who gets a new password by it
		maker   TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
		created INTEGER NOT NULL,
		expires INTEGER NOT NULL
	) STRICT;
	CREATE INDEX invites_person ON invites (person);
	CREATE INDEX invites_maker ON invites (maker);
	CREATE TABLE tokens (
		id      TEXT PRIMARY KEY,
		secret  BLOB NOT NULL UNIQUE,
		person  TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
		name    TEXT NOT NULL,
		scopes  TEXT NOT NULL, -- apart by blanks
		created INTEGER NOT NULL,
		used    INTEGER NOT NULL DEFAULT 0,
		expires INTEGER NOT NULL
	) STRICT;
	CREATE INDEX tokens_person ON tokens (person);
	CREATE TABLE audit (
		id     INTEGER PRIMARY KEY AUTOINCREMENT,
		at     INTEGER NOT NULL,
		action TEXT NOT NULL,
		who    TEXT NOT NULL,
		target TEXT NOT NULL,
		args   TEXT NOT NULL DEFAULT '', -- JSON object, or empty
		place  TEXT NOT NULL
	) STRICT;
	CREATE TABLE config_changes (
		id          INTEGER PRIMARY KEY AUTOINCREMENT,
		at          INTEGER NOT NULL,
		by          TEXT NOT NULL,              -- name
		differences TEXT NOT NULL,              -- JSON
		undoes      INTEGER NOT NULL DEFAULT 0  -- id of the change that this one took back
	) STRICT;
	CREATE TABLE alerts (
		id     INTEGER PRIMARY KEY AUTOINCREMENT,
		name   TEXT NOT NULL,
		target TEXT NOT NULL,
		weight TEXT NOT NULL,
		args   TEXT NOT NULL DEFAULT '', -- JSON object, or empty
		first  INTEGER NOT NULL,
		last   INTEGER NOT NULL,
		count  INTEGER NOT NULL,
		active INTEGER NOT NULL,
		seen   INTEGER NOT NULL
	) STRICT`,
}

// migrate brings the schema up to date and sees that it is what it should be.
func migrate(ctx context.Context, db *sql.DB) error {
	version, err := schemaVersion(ctx, db)
	if err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("%w (schema %d, this release knows %d)", ErrNewer, version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		sql := migrations[version] + fmt.Sprintf(";\nPRAGMA user_version=%d", version+1)
		if version+1 >= 2 {
			sql += fmt.Sprintf(";\nINSERT OR REPLACE INTO settings VALUES ('schema', '%d')", version+1)
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
		if _, err = tx.ExecContext(ctx, sql); err == nil {
			err = tx.Commit()
		}
		if err != nil {
			tx.Rollback()
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
	}
	return nil
}

// schemaVersion returns the version, or damagedError where its two notes contradict each other.
func schemaVersion(ctx context.Context, db *sql.DB) (int, error) {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	var sessions, settings bool
	err := db.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE name = 'sessions'), count(*) FILTER (WHERE name = 'settings')
		FROM sqlite_schema WHERE type = 'table'`).Scan(&sessions, &settings)
	if err != nil {
		return 0, fmt.Errorf("read the schema: %w", err)
	}
	noted := 0
	switch {
	case settings:
		err := db.QueryRowContext(ctx, "SELECT CAST(value AS INTEGER) FROM settings WHERE key = 'schema'").Scan(&noted)
		if err != nil && err != sql.ErrNoRows {
			return 0, fmt.Errorf("read the schema's version: %w", err)
		}
	case sessions:
		noted = 1
	}
	if version != noted || version < 0 || version > newest {
		return 0, &damagedError{fmt.Sprintf("schema %d, but %d by its tables", version, noted)}
	}
	return version, nil
}

// checkSchema sees that every column is there that this release's migrations make: a bit that flips in the schema's text
// leaves a database that SQLite finds nothing wrong with.
func checkSchema(ctx context.Context, db *sql.DB) error {
	want, err := sql.Open("sqlite3", "file::memory:")
	if err != nil {
		return err
	}
	defer want.Close()
	want.SetMaxOpenConns(1)
	if err := migrate(ctx, want); err != nil {
		return err
	}
	w, err := columns(ctx, want)
	if err != nil {
		return err
	}
	got, err := columns(ctx, db)
	if err != nil {
		return err
	}
	for _, c := range w {
		if _, ok := slices.BinarySearch(got, c); !ok {
			return &damagedError{"missing " + c}
		}
	}
	return nil
}

// columns returns all tables and indexes with their columns, sorted.
func columns(ctx context.Context, db *sql.DB) ([]string, error) {
	rows, err := db.QueryContext(ctx, `
		SELECT format('column %s.%s %s', s.name, c.name, c.type) FROM sqlite_schema s, pragma_table_xinfo(s.name) c WHERE s.type = 'table'
		UNION ALL
		SELECT format('index %s.%s', s.name, coalesce(c.name, '')) FROM sqlite_schema s, pragma_index_info(s.name) c WHERE s.type = 'index'`)
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var c string
		if err := rows.Scan(&c); err != nil {
			return nil, fmt.Errorf("read the schema: %w", err)
		}
		all = append(all, c)
	}
	slices.Sort(all)
	return all, rows.Err()
}
