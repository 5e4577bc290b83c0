package state

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
)

// Names in the state directory.
const (
	fileName = "state.db"
	goodName = "state-good.db" // the last good copy
	keptLog  = "-wal-kept"     // a second name of the log while a start is under way
	// beforeName, and the schema and ".db": what was kept before a step that releases of the version before can't follow.
	beforeName = "state-before-"
)

const maxAside = 8 // damaged databases that are kept although they could be put together again

// openFile opens the database at path, in order: as it is; from the good copy and the log; from the good copy; fresh; and
// if the disk takes no writes, as it is, alone.
func openFile(ctx context.Context, path string, trial bool, log *slog.Logger) (*sql.DB, []api.Notice, error) {
	dir := filepath.Dir(path)
	keepLog(path, log)
	var db *sql.DB
	var notices []api.Notice
	err := lost(path)
	if err == nil {
		db, err = openDB(ctx, fileDSN(path), how{path, true, trial, log})
	}
	if isDamaged(err) {
		found := err
		var n api.Notice
		if db, n, err = repair(ctx, path, trial, log); err == nil {
			log.Error("the state was damaged", "err", found, "outcome", n.Name, "text", n.Text)
			notices = append(notices, n)
		}
	}
	if err == nil {
		os.Remove(path + keptLog)
		// The name of a new file is durable only after its directory.
		if err := syncDir(dir); err != nil {
			log.Warn("syncing the state directory", "err", err)
		}
		return db, notices, nil
	}
	if errors.Is(err, ErrNewer) || ctx.Err() != nil {
		os.Remove(path + keptLog)
		return nil, nil, err
	}
	// The log's index is a file that a full disk has no room for; who has the database alone needs none
	// (https://sqlite.org/wal.html#noshm). It must be there: a new one would be an empty box.
	if lost(path) != nil {
		return nil, nil, err
	}
	if db, aloneErr := openDB(ctx, fileDSN(path)+"&mode=rw&_locking_mode=EXCLUSIVE", how{path, false, trial, log}); aloneErr == nil {
		log.Error("the state can be read, but probably not be changed", "err", err)
		os.Remove(path + keptLog)
		return db, append(notices, api.Notice{
			Name: "state-full", Weight: "warn",
			Text: "Croft can't write its settings to the disk. It can read them, but changes are lost when it restarts.",
			Next: "Look at the disk below: it is probably full.",
		}), nil
	}
	return nil, nil, err
}

// lost tells of a database that is gone although something was once kept. SQLite would make a new one, and delete the log.
func lost(path string) error {
	if fileSize(path) > 0 || !exists(goodOf(path)) && fileSize(path+"-wal") <= 0 {
		return nil
	}
	return &damagedError{"the file is missing or empty"}
}

// keepLog gives the log a second name, since SQLite deletes it when it closes a database, even one that it found damaged.
// Where a start was cut off after that, it comes back.
func keepLog(path string, log *slog.Logger) {
	if exists(path+keptLog) && !exists(path+"-wal") {
		if err := os.Rename(path+keptLog, path+"-wal"); err != nil {
			log.Warn("the state's log could not be put back", "err", err)
		}
	}
	os.Remove(path + keptLog)
	if err := os.Link(path+"-wal", path+keptLog); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the state's log could not be kept apart", "err", err)
	}
}

// repair sets the damaged database at path aside and puts another one in its place. Each step can be cut off by the power:
// the next start goes on from what it finds.
func repair(ctx context.Context, path string, trial bool, log *slog.Logger) (*sql.DB, api.Notice, error) {
	if exists(path + keptLog) { // the log as it was before SQLite closed the database
		if err := copyFile(path+keptLog, path+"-wal"); err != nil {
			return nil, api.Notice{}, err
		}
	}
	aside, err := setAside(path, time.Now())
	if err != nil {
		return nil, api.Notice{}, err
	}
	log.Error("the damaged state was kept", "as", aside)
	if err := copyFile(path+"-wal", aside+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("its log was not", "err", err)
	}
	good := goodOf(path)
	if _, err := checkCopy(ctx, good); err == nil {
		restore := func() (*sql.DB, error) {
			os.Remove(path + "-shm")
			if err := copyFile(good, path); err != nil {
				return nil, err
			}
			return openDB(ctx, fileDSN(path), how{path, true, trial, log})
		}
		n := api.Notice{
			Name: "state-restored", Weight: "warn",
			Text: "Croft's own settings were damaged. It put them together again from its safety copy and its log, up to the last change.",
			Next: "If this happens again, the card is probably failing: replace it.",
		}
		if paired(good, path+"-wal") {
			db, err := restore()
			if err == nil {
				thin(path, aside)
				return db, n, recordRestored(ctx, db, n)
			}
			if !isDamaged(err) {
				return nil, n, err
			}
			log.Error("the good copy with the log is damaged too", "err", err)
		}
		if err := removeAll(path, path+"-wal"); err != nil {
			return nil, n, err
		}
		db, err := restore()
		if err == nil {
			at := copiedAt(ctx, db)
			n.Text = "Croft's own settings were damaged, so it went back to its safety copy"
			if !at.IsZero() {
				n.Text += " of " + at.Format("2 January 2006, 15:04 MST")
				n.Args = map[string]string{"at": at.Format(time.RFC3339)}
			}
			n.Text += ". What was changed after that is lost."
			n.Next = "Look whether people and settings are as you want them. " + n.Next
			thin(path, aside)
			return db, n, recordRestored(ctx, db, n)
		}
		if !isDamaged(err) {
			return nil, n, err
		}
		log.Error("the good copy is damaged too", "err", err)
		if err := os.Remove(path); err != nil {
			return nil, n, err
		}
	} else if errors.Is(err, ErrNewer) {
		return nil, api.Notice{}, err
	} else if !errors.Is(err, fs.ErrNotExist) {
		log.Error("the good copy can't be used", "err", err)
	}
	if exists(good) {
		if _, err := setAside(good, time.Now()); err != nil {
			return nil, api.Notice{}, err
		}
	}
	if err := removeAll(path+"-wal", path+"-shm"); err != nil {
		return nil, api.Notice{}, err
	}
	db, err := openDB(ctx, fileDSN(path), how{path, true, trial, log})
	return db, api.Notice{
		Name: "state-replaced", Weight: "warn",
		Text: "Croft's own settings were damaged, and so was its safety copy. It started with fresh ones. The damaged files were kept.",
		Next: "If this happens again, the card is probably failing: replace it.",
	}, err
}

// thin removes what was just set aside if there is plenty of that already: on a failing card it happens at every start. It
// is only for what could be put together again.
func thin(path, aside string) {
	kept, err := fs.Glob(os.DirFS(filepath.Dir(path)), "damaged-*-"+fileName)
	if err == nil && len(kept) > maxAside {
		os.Remove(aside)
		os.Remove(aside + "-wal")
	}
}

// recordRestored writes into the audit log that the state was restored.
func recordRestored(ctx context.Context, db *sql.DB, n api.Notice) error {
	args := ""
	if at := n.Args["at"]; at != "" {
		args = `{"at":"` + at + `"}`
	}
	_, err := db.ExecContext(ctx, "INSERT INTO audit (at, action, who, target, args, place) VALUES (?, 'state-restored', '', '', ?, '')",
		time.Now().Unix(), args)
	if err != nil {
		db.Close()
		return fmt.Errorf("record that the state was restored: %w", err)
	}
	return nil
}

func fileDSN(path string) string { return "file:" + escape(path) + "?_busy_timeout=5000" }

// escape makes a path part of a URI.
func escape(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// how a database is opened.
type how struct {
	path  string // "" in memory
	wal   bool   // keeps a write-ahead log, once and for all; touches the log, so not for a database that is to be locked first
	trial bool   // the release is on trial: the other one must be able to go on with the database
	log   *slog.Logger
}

// openDB opens, checks and migrates.
func openDB(ctx context.Context, dsn string, h how) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", fileName, err)
	}
	db.SetMaxOpenConns(1) // pragmas below hold for this connection, which is kept
	db.SetMaxIdleConns(1)
	if err := prepare(ctx, db, h); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", fileName, err)
	}
	return db, nil
}

func prepare(ctx context.Context, db *sql.DB, h how) error {
	pragmas := []string{
		"synchronous=FULL",     // with the log, measured to lose nothing that was acknowledged when the power is cut
		"wal_autocheckpoint=0", // makeCopy does it
		"foreign_keys=ON",
		"cache_size=-512", // KiB
		"journal_size_limit=16777216",
		"mmap_size=0",
		"trusted_schema=OFF",
	}
	if h.wal {
		pragmas = append([]string{"journal_mode=WAL"}, pragmas...)
	}
	for _, p := range pragmas {
		if _, err := db.ExecContext(ctx, "PRAGMA "+p); err != nil {
			return fmt.Errorf("set %s: %w", p, err)
		}
	}
	if err := integrity(ctx, db); err != nil {
		return err
	}
	may := func(from, version int) bool {
		if h.trial {
			return false
		}
		if h.path == "" || from == 0 { // nothing to keep
			return true
		}
		if err := keepBefore(ctx, db, h.path, version); err != nil {
			h.log.Error("the schema stays as it is: no copy of the state could be kept", "schema", version, "err", err)
			return false
		}
		return true
	}
	if err := migrate(ctx, db, may); err != nil {
		return err
	}
	return checkSchema(ctx, db)
}

// integrity lets SQLite look at every page, index, constraint and reference.
func integrity(ctx context.Context, db *sql.DB) error {
	var found string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&found); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if found != "ok" {
		return &damagedError{found}
	}
	rows, err := db.QueryContext(ctx, "PRAGMA foreign_key_check")
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	defer rows.Close()
	if rows.Next() {
		return &damagedError{"a reference to nothing"}
	}
	return rows.Err()
}

// damagedError is what a check found.
type damagedError struct{ found string }

func (e *damagedError) Error() string { return "check: " + e.found }

func isDamaged(err error) bool {
	var d *damagedError
	var s sqlite3.Error
	return errors.As(err, &d) || errors.As(err, &s) && (s.Code == sqlite3.ErrCorrupt || s.Code == sqlite3.ErrNotADB)
}

// setAside renames the file at path, if it is there, and returns its new path.
func setAside(path string, now time.Time) (string, error) {
	dir, name := filepath.Split(path)
	prefix := "damaged-" + now.UTC().Format("20060102T150405Z") + "-"
	for i := 2; exists(dir + prefix + name); i++ { // a clock without battery may give the same second again
		prefix = fmt.Sprintf("damaged-%s-%d-", now.UTC().Format("20060102T150405Z"), i)
	}
	aside := dir + prefix + name
	if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("set the damaged state aside: %w", err)
	}
	return aside, syncDir(dir)
}

func goodOf(path string) string { return filepath.Join(filepath.Dir(path), goodName) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// fileSize returns -1 if there is no such file.
func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return fi.Size()
}

func removeAll(paths ...string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what is damaged: %w", err)
		}
	}
	return syncDir(filepath.Dir(paths[0]))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
