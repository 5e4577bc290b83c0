package state

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestFixtures opens what each version left. state-v1.db was made by the code of schema 1.
func TestFixtures(t *testing.T) {
	fresh := open(t, "")
	want, err := columns(t.Context(), fresh.SQL())
	if err != nil {
		t.Fatal(err)
	}
	for version := 1; version <= len(migrations); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, fileName)
			if b, err := os.ReadFile(fmt.Sprintf("testdata/state-v%d.db", version)); err == nil {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				load(t, path, fmt.Sprintf("testdata/state-v%d.sql", version))
			}
			for range 2 {
				d := open(t, dir)
				wantNotices(t, d)
				got, err := columns(t.Context(), d.SQL())
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%v: columns\n%q, want\n%q", err, got, want)
				}
				var people int
				if err := d.SQL().QueryRow("SELECT count(*) FROM people").Scan(&people); err != nil || people != 2*min(version-1, 1) {
					t.Errorf("%d people, %v", people, err)
				}
				d.Close()
			}
		})
	}
}

// load makes a database of SQL text.
func load(t *testing.T, path, text string) {
	t.Helper()
	b, err := os.ReadFile(text)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(string(b)); err != nil {
		t.Fatal(err)
	}
}

// TestMigrationIsWhole sees that a migration that fails leaves the version before.
func TestMigrationIsWhole(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	before := migrations
	defer func() { migrations = before }()
	migrations = append(slices.Clone(before), "CREATE TABLE more (x); CREATE TABLE people (x)")
	if _, err := Open(t.Context(), dir, quiet); err == nil {
		t.Error("a migration failed, and nobody was told")
	}
	migrations = before
	d := open(t, dir)
	wantNotices(t, d)
}
