package state

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/croft-os/croft/services/state/schema"
)

// TestFixtures opens what each version left. state-v1.db was made by the code of schema 1.
func TestFixtures(t *testing.T) {
	fresh := open(t, "")
	want, err := columns(t.Context(), fresh.SQL())
	if err != nil {
		t.Fatal(err)
	}
	for version := 1; version <= len(steps); version++ {
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

// withSteps lets the test be a release whose schema has further steps, or fewer.
func withSteps(t *testing.T, s ...schema.Step) {
	t.Helper()
	before := steps
	steps = s
	t.Cleanup(func() { steps = before })
}

// TestMigrationIsWhole sees that a migration that fails leaves the version before.
func TestMigrationIsWhole(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	withSteps(t, append(schema.Steps(), schema.Step{SQL: "CREATE TABLE more (x); CREATE TABLE people (x)"})...)
	if _, err := Open(t.Context(), dir, quiet); err == nil {
		t.Error("a migration failed, and nobody was told")
	}
	withSteps(t, schema.Steps()...)
	d := open(t, dir)
	wantNotices(t, d)
}

// releases are what later releases' schemas could be like: 3 and 4 add, 5 takes away, 6 adds again.
func releases() []schema.Step {
	return append(schema.Steps(),
		schema.Step{SQL: "CREATE TABLE apps (id TEXT PRIMARY KEY) STRICT"},
		schema.Step{SQL: "ALTER TABLE people ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'"},
		schema.Step{SQL: "ALTER TABLE tokens DROP COLUMN used", Waits: true},
		schema.Step{SQL: "CREATE TABLE shares (id TEXT PRIMARY KEY) STRICT"},
	)
}

func TestReads(t *testing.T) {
	if len(schema.Steps()) != 2 {
		t.Log("the real schema has grown: this test has versions of its own")
	}
	for version, want := range map[int]int{1: 1, 2: 2, 3: 2, 4: 2, 5: 5, 6: 5} {
		if got := schema.Reads(releases(), version); got != want {
			t.Errorf("schema %d is for releases of %d, want %d", version, got, want)
		}
	}
	if r := schema.Reads(schema.Steps(), schema.Version()); r < schema.First || r > schema.Version() {
		t.Errorf("this release's pair is %d, %d", schema.Version(), r)
	}
}

// use does what a release does with its database: it reads what was there, and changes something.
func use(t *testing.T, d *DB, key string) {
	t.Helper()
	put(t, d, key, key)
	_, err := d.SQL().Exec("INSERT INTO people (id, name, key, role, created) VALUES (?, ?, ?, 'member', 1)", key, key, key)
	if err != nil {
		t.Error(err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func found(t *testing.T, dir string) schemaFound {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+escape(filepath.Join(dir, fileName))+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f, err := schemaVersion(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestTrial lets a release try itself on the database of every older one: if it goes back, the old one finds everything, and
// what was changed meanwhile; if it stays, the schema goes all the way at the next start, and what was before is kept.
func TestTrial(t *testing.T) {
	all := releases()
	for from := schema.First; from < len(all); from++ {
		for to := from + 1; to <= len(all); to++ {
			for _, fresh := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d to %d, fresh %v", from, to, fresh), func(t *testing.T) {
					dir := t.TempDir()
					if !fresh {
						withSteps(t, all[:from]...)
						use(t, open(t, dir), "old")
					}
					withSteps(t, all[:to]...)
					d, err := OpenOnTrial(t.Context(), dir, quiet)
					if err != nil {
						t.Fatal(err)
					}
					wantNotices(t, d)
					use(t, d, "trial")
					at := found(t, dir)
					// Back.
					if !fresh || schema.Reads(all, at.version) <= from {
						withSteps(t, all[:from]...)
						d = open(t, dir)
						wantNotices(t, d)
						if !fresh && get(d, "old") != "old" || get(d, "trial") != "trial" {
							t.Error("something is gone")
						}
						use(t, d, "back")
						if f := found(t, dir); f.version < at.version || f.reads > from {
							t.Errorf("it became %+v, was %+v", f, at)
						}
					}
					// And again, to stay.
					withSteps(t, all[:to]...)
					d = open(t, dir)
					wantNotices(t, d)
					if get(d, "trial") != "trial" {
						t.Error("something is gone")
					}
					use(t, d, "stays")
					if f := found(t, dir); f.version != to || f.reads != schema.Reads(all, to) {
						t.Errorf("it ends as %+v", f)
					}
					kept, _ := filepath.Glob(filepath.Join(dir, beforeName+"*"))
					breaks := (fresh || from < 5) && to >= 5 // a trial that begins with nothing leaves schema 4
					if breaks != (len(kept) == 1) {
						t.Fatalf("kept %q", kept)
					}
					if !breaks {
						return
					}
					if from >= 5 {
						return
					}
					// Who goes back now is told, and the copy is good for the old release.
					withSteps(t, all[:from]...)
					if _, err := Open(t.Context(), dir, quiet); !errors.Is(err, ErrNewer) {
						t.Errorf("the old release opened it: %v", err)
					}
					other := t.TempDir()
					if err := copyFile(kept[0], filepath.Join(other, fileName)); err != nil {
						t.Fatal(err)
					}
					d = open(t, other)
					wantNotices(t, d)
					if get(d, "trial") != "trial" {
						t.Error("the copy lacks something")
					}
				})
			}
		}
	}
}

// TestNoRoomToKeep sees that a step that can't be taken back waits where no copy can be kept.
func TestNoRoomToKeep(t *testing.T) {
	dir := t.TempDir()
	use(t, open(t, dir), "old")
	if err := os.MkdirAll(filepath.Join(dir, beforeName+"5.db", "full"), 0o700); err != nil { // a folder that no file can replace
		t.Fatal(err)
	}
	withSteps(t, releases()[:5]...)
	d := open(t, dir)
	wantNotices(t, d)
	use(t, d, "new")
	if f := found(t, dir); f != (schemaFound{4, 2}) {
		t.Errorf("%+v", f)
	}
}

// TestNewerIsLeftAlone sees that a release writes nothing of its own schema into a database that a newer one has made, also when it
// has to put it together again.
func TestNewerIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	withSteps(t, releases()[:4]...)
	use(t, open(t, dir), "new")
	withSteps(t, releases()[:2]...)
	path := filepath.Join(dir, fileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[4096:8192])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	wantNotices(t, d, "state-restored")
	if get(d, "new") != "new" {
		t.Error("something is gone")
	}
	use(t, d, "old")
	if f := found(t, dir); f != (schemaFound{4, 2}) {
		t.Errorf("%+v", f)
	}
}
