// Package schema is the database of package state as data: the steps that lead from one version to the next, and which
// releases can use what each of them leaves. It is apart so that whoever makes releases can say it without a database.
//
// Two slots share one database. A release that is on trial must leave it so that the old slot can go on with it, and a person
// may go back to the previous release later. So a step either keeps releases of the version before working (it adds
// tables, or columns with a default), or it waits until the release that brings it is committed. A step that waits is one
// that its own release does not need: it takes away what nothing uses any more. What is to change its form takes two
// releases: one adds the new and fills it, and a later one takes away the old.
//
// The pair Version and Reads is the field "state" of a release's description (docs/release-format.md).
package schema

// Step takes the schema from one version to the next.
type Step struct {
	SQL string
	// Waits is for a step after which releases of the version before can't read and write the database any more. It is taken
	// only once the release is committed, after a copy was kept; the release has to work without it.
	Waits bool
}

// Steps are all of them: Steps[i] takes the schema from version i to i+1. They are only ever appended to. All times are Unix seconds;
// ids are random text; secrets are kept as SHA-256 unless something else is said.
func Steps() []Step {
	return []Step{
		{SQL: `CREATE TABLE sessions (
		token   BLOB PRIMARY KEY,
		created INTEGER NOT NULL,
		seen    INTEGER NOT NULL,
		expires INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`},

		// Whoever was signed in by the claim code alone has to make an account.
		{SQL: `DROP TABLE sessions;
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
	) STRICT`},
	}
}

// First is the version of the oldest releases that a box can go back to: those before it knew no updates. The steps up to it
// never wait.
const First = 2

// Version is the schema that this release makes.
func Version() int { return len(Steps()) }

// Reads is the oldest version whose releases can still read and write a database that steps have taken as far as version.
func Reads(steps []Step, version int) int {
	for version > First && !steps[version-1].Waits {
		version--
	}
	return version
}
