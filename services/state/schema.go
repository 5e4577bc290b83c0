package state

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/state/schema"
)

// ErrNewer says that a newer release wrote the database. A restart can't mend it, and nothing is wrong with the
// database, so it stays where it is.
var ErrNewer = fmt.Errorf("%w: %s was written by a newer release", daemon.ErrConfig, fileName)

// newest is how far ahead a release can be. A version beyond it is damage.
const newest = 10_000

// steps are the migrations: PRAGMA user_version, and from 2 on also the setting "schema", say how many were taken. The setting
// "schema-reads" says what schema.Reads does; without it nobody but releases of that version can use the database.
var steps = schema.Steps()

// migrate brings the schema up to date and sees that it can be used. Before the first step that releases of the version before
// can't follow it asks whether it may, saying from where to where it came; if not, that step and those behind it wait for another
// start.
func migrate(ctx context.Context, db *sql.DB, may func(from, version int) bool) error {
	found, err := schemaVersion(ctx, db)
	if err != nil {
		return err
	}
	if err := found.usable(); err != nil {
		return err
	}
	asked := false
	for version := found.version; version < len(steps); version++ {
		step := steps[version]
		if step.Waits && version >= schema.First && !asked {
			if !may(found.version, version) {
				return nil
			}
			asked = true
		}
		sql := step.SQL + fmt.Sprintf(";\nPRAGMA user_version=%d", version+1)
		if version+1 >= 2 {
			sql += fmt.Sprintf(";\nINSERT OR REPLACE INTO settings VALUES ('schema', '%d'), ('schema-reads', '%d')",
				version+1, schema.Reads(steps, version+1))
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

// schemaFound is what a database says of its schema.
type schemaFound struct {
	version int
	reads   int // the oldest version whose releases can use it
}

// usable fails with ErrNewer if this release can't read and write such a database.
func (f schemaFound) usable() error {
	if f.reads > len(steps) {
		return fmt.Errorf("%w (schema %d, for releases that know %d; this one knows %d)", ErrNewer, f.version, f.reads, len(steps))
	}
	return nil
}

// schemaVersion returns the version, or damagedError where its notes contradict one another.
func schemaVersion(ctx context.Context, db *sql.DB) (schemaFound, error) {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return schemaFound{}, fmt.Errorf("read the schema's version: %w", err)
	}
	var sessions, settings bool
	err := db.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE name = 'sessions'), count(*) FILTER (WHERE name = 'settings')
		FROM sqlite_schema WHERE type = 'table'`).Scan(&sessions, &settings)
	if err != nil {
		return schemaFound{}, fmt.Errorf("read the schema: %w", err)
	}
	noted, reads := 0, 0
	switch {
	case settings:
		err := db.QueryRowContext(ctx, `SELECT coalesce(max(CAST(value AS INTEGER)) FILTER (WHERE key = 'schema'), 0),
			coalesce(max(CAST(value AS INTEGER)) FILTER (WHERE key = 'schema-reads'), 0) FROM settings`).Scan(&noted, &reads)
		if err != nil {
			return schemaFound{}, fmt.Errorf("read the schema's version: %w", err)
		}
	case sessions:
		noted = 1
	}
	if reads == 0 {
		reads = noted
	}
	if version != noted || version < 0 || version > newest || reads < 0 || reads > version {
		return schemaFound{}, &damagedError{fmt.Sprintf("schema %d, but %d by its tables, for %d", version, noted, reads)}
	}
	return schemaFound{version, reads}, nil
}

// checkSchema sees that every column is there that this release's migrations make, as far as they were taken: a bit that flips in
// the schema's text leaves a database that SQLite finds nothing wrong with.
func checkSchema(ctx context.Context, db *sql.DB) error {
	found, err := schemaVersion(ctx, db)
	if err != nil {
		return err
	}
	want, err := sql.Open("sqlite3", "file::memory:")
	if err != nil {
		return err
	}
	defer want.Close()
	want.SetMaxOpenConns(1)
	for _, step := range steps[:min(found.version, len(steps))] {
		if _, err := want.ExecContext(ctx, step.SQL); err != nil {
			return err
		}
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
