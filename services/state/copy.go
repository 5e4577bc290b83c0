package state

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"github.com/mattn/go-sqlite3"
)

const (
	checkpointAt = 1 << 20 // bytes of the log, from where on it is emptied
	appIDOffset  = 68      // of the "application id" in a database's header, https://sqlite.org/fileformat.html
	saltOffset   = 16      // of the first salt in a log's header
	walHeader    = 32      // bytes
)

func (d *DB) goodPath() string { return goodOf(d.path) }

// makeCopy makes the good copy, if anything changed since the last one. Once the log is long (and at the end: Close does
// that itself), it is emptied into the database, which is safe only now.
//
// The copy's application id is the first salt of the log that it was made with. A log that goes on after it has the same
// salt, or one that is higher by one if it was emptied right after it; a log that began otherwise has a random one.
func (d *DB) makeCopy(ctx context.Context) (err error) {
	d.copying.Lock()
	defer d.copying.Unlock()
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { conn.Close() }()
	var changes int64
	if err := conn.QueryRowContext(ctx, "SELECT total_changes()").Scan(&changes); err != nil {
		return err
	}
	if changes == d.copied {
		return nil
	}
	_, err = conn.ExecContext(ctx, "INSERT OR REPLACE INTO settings VALUES ('copied', ?)", strconv.FormatInt(time.Now().Unix(), 10))
	if err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, "SELECT total_changes()").Scan(&changes); err != nil {
		return err
	}
	salt, hasLog := walSalt(d.path + "-wal")
	tmp := d.goodPath() + ".tmp"
	os.Remove(tmp)
	defer os.Remove(tmp)
	err = conn.Raw(func(src any) error { return backup("file:"+escape(tmp), src.(*sqlite3.SQLiteConn)) })
	if err != nil {
		return d.note(err)
	}
	long := fileSize(d.path+"-wal") > checkpointAt
	if !long {
		conn.Close() // nobody has to wait for the rest
	}
	if err := seal(tmp, salt, hasLog); err != nil {
		return err
	}
	if _, err := checkCopy(ctx, tmp); err != nil {
		return d.note(fmt.Errorf("the copy is not good: %w", err))
	}
	if err := os.Rename(tmp, d.goodPath()); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(d.path)); err != nil {
		return err
	}
	d.copied = changes
	if long {
		_, err = conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	}
	return err
}

// backup copies the database of src page for page.
func backup(dest string, src *sqlite3.SQLiteConn) error {
	c, err := (&sqlite3.SQLiteDriver{}).Open(dest)
	if err != nil {
		return fmt.Errorf("copy the state: %w", err)
	}
	return errors.Join(copyPages(c.(*sqlite3.SQLiteConn), src), c.Close())
}

func copyPages(dest, src *sqlite3.SQLiteConn) error {
	b, err := dest.Backup("main", src, "main")
	if err != nil {
		return fmt.Errorf("copy the state: %w", err)
	}
	done, err := b.Step(-1)
	if err == nil && !done {
		err = errors.New("busy")
	}
	if err := errors.Join(err, b.Close()); err != nil {
		return fmt.Errorf("copy the state: %w", err)
	}
	return nil
}

// seal notes the log's salt in the copy and brings it to the disk.
func seal(path string, salt uint32, hasLog bool) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if !hasLog {
		salt = 0
	}
	if _, err := f.WriteAt(binary.BigEndian.AppendUint32(nil, salt), appIDOffset); err != nil {
		return err
	}
	return f.Sync()
}

// paired reports whether the log goes on where the copy ends.
func paired(copy, wal string) bool {
	salt, ok := walSalt(wal)
	if !ok {
		return false
	}
	f, err := os.Open(copy)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [4]byte
	if _, err := f.ReadAt(b[:], appIDOffset); err != nil {
		return false
	}
	at := binary.BigEndian.Uint32(b[:])
	return at != 0 && (salt == at || salt == at+1)
}

// walSalt returns the first salt of a log, if there is one.
func walSalt(path string) (uint32, bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	var h [walHeader]byte
	if _, err := io.ReadFull(f, h[:]); err != nil || binary.BigEndian.Uint32(h[:])&^1 != 0x377f0682 {
		return 0, false
	}
	return binary.BigEndian.Uint32(h[saltOffset:]), true
}

// keepBefore keeps what the database at path is now as state-before-VERSION.db, beside it: the next step of the schema is one that
// releases of the version before can't follow. An older one of its kind goes.
func keepBefore(ctx context.Context, db *sql.DB, path string, version int) error {
	dir := filepath.Dir(path)
	kept := filepath.Join(dir, fmt.Sprintf("%s%d.db", beforeName, version+1))
	tmp := filepath.Join(dir, beforeName+"tmp")
	os.Remove(tmp)
	defer os.Remove(tmp)
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	err = conn.Raw(func(src any) error { return backup("file:"+escape(tmp), src.(*sqlite3.SQLiteConn)) })
	if err := errors.Join(err, conn.Close()); err != nil {
		return err
	}
	if err := seal(tmp, 0, false); err != nil {
		return err
	}
	if _, err := checkCopy(ctx, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, kept); err != nil {
		return err
	}
	older, err := fs.Glob(os.DirFS(dir), beforeName+"*.db")
	if err != nil {
		return err
	}
	for _, name := range older {
		if name != filepath.Base(kept) {
			os.Remove(filepath.Join(dir, name))
		}
	}
	return syncDir(dir)
}

// checkCopy looks at a copy without changing it, and returns the version of its schema.
func checkCopy(ctx context.Context, path string) (int, error) {
	if _, err := os.Stat(path); err != nil {
		return 0, err
	}
	db, err := sql.Open("sqlite3", "file:"+escape(path)+"?immutable=1&mode=ro")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if err := integrity(ctx, db); err != nil {
		return 0, err
	}
	found, err := schemaVersion(ctx, db)
	switch {
	case err != nil:
		return 0, err
	case found.version == 0:
		return 0, &damagedError{"empty"}
	}
	return found.version, found.usable()
}

// loadCopy fills a database in memory from the good copy.
func loadCopy(ctx context.Context, db *sql.DB, good string) error {
	version, err := checkCopy(ctx, good)
	if err != nil {
		return err
	}
	if version < len(steps) {
		return fmt.Errorf("the good copy has schema %d", version)
	}
	c, err := (&sqlite3.SQLiteDriver{}).Open("file:" + escape(good) + "?immutable=1&mode=ro")
	if err != nil {
		return err
	}
	defer c.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(dest any) error { return copyPages(dest.(*sqlite3.SQLiteConn), c.(*sqlite3.SQLiteConn)) })
}

// copiedAt returns when a copy was made, by the box's clock as it was then.
func copiedAt(ctx context.Context, db *sql.DB) time.Time {
	var at int64
	err := db.QueryRowContext(ctx, "SELECT CAST(value AS INTEGER) FROM settings WHERE key = 'copied'").Scan(&at)
	if err != nil || at <= 0 {
		return time.Time{}
	}
	return time.Unix(at, 0).UTC()
}

// copyFile writes a copy of from as to, which is there as a whole or not at all.
func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dest, err := renameio.NewPendingFile(to, renameio.WithTempDir(filepath.Dir(to)), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer dest.Cleanup()
	if _, err := io.Copy(dest, src); err != nil {
		return err
	}
	if err := dest.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}
