package state

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, dir string) *DB {
	t.Helper()
	d, err := Open(t.Context(), dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// put writes one setting, as a change that is acknowledged.
func put(t testing.TB, d *DB, key, value string) {
	t.Helper()
	err := d.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT OR REPLACE INTO settings VALUES (?, ?)", key, value)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func get(d *DB, key string) string {
	var v string
	if err := d.SQL().QueryRow("SELECT value FROM settings WHERE key = ?", key).Scan(&v); err != nil {
		return err.Error()
	}
	return v
}

func wantNotices(t testing.TB, d *DB, names ...string) {
	t.Helper()
	var got []string
	for _, n := range d.Notices() {
		got = append(got, n.Name)
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("notices %q, want %q", got, names)
	}
}

func TestKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space, # and %41?")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		d := open(t, dir)
		wantNotices(t, d)
		if i > 0 && get(d, "k") != fmt.Sprint(i-1) {
			t.Errorf("start %d: %q", i, get(d, "k"))
		}
		put(t, d, "k", fmt.Sprint(i))
		if err := d.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		files, err := filepath.Glob(strings.NewReplacer("?", "\\?").Replace(dir) + "/*")
		if err != nil || len(files) != 2 {
			t.Errorf("left %q, %v, want the database and its copy", files, err)
		}
	}
}

func TestPragmas(t *testing.T) {
	d := open(t, t.TempDir())
	for name, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000", "wal_autocheckpoint": "0",
		"cache_size": "-512", "journal_size_limit": "16777216", "user_version": fmt.Sprint(len(steps)),
	} {
		var got string
		if err := d.SQL().QueryRow("PRAGMA " + name).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
}

func TestTx(t *testing.T) {
	d := open(t, "")
	put(t, d, "k", "before")
	no := errors.New("no")
	err := d.Tx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec("UPDATE settings SET value = 'after' WHERE key = 'k'"); err != nil {
			t.Error(err)
		}
		return no
	})
	if !errors.Is(err, no) || get(d, "k") != "before" {
		t.Errorf("%v, %q", err, get(d, "k"))
	}
}

func TestNewer(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	_, err := d.SQL().Exec("PRAGMA user_version=1000; UPDATE settings SET value = '1000' WHERE key IN ('schema', 'schema-reads')")
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := Open(t.Context(), dir, quiet); !errors.Is(err, ErrNewer) {
		t.Errorf("%v", err)
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, "damaged-*")); len(kept) != 0 {
		t.Errorf("set aside %v", kept)
	}
}

func TestInMemory(t *testing.T) {
	for name, dir := range map[string]string{"none": "", "missing": filepath.Join(t.TempDir(), "missing")} {
		d := open(t, dir)
		put(t, d, "k", name)
		if get(d, "k") != name {
			t.Errorf("%s: %q", name, get(d, "k"))
		}
		if told := len(d.Notices()) == 1; told != (dir != "") {
			t.Errorf("%s: notices %v", name, d.Notices())
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoticesAreSentences(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	wantNotices(t, d, "state-restored")
	for _, n := range d.Notices() {
		if n.Weight != "warn" || !strings.HasSuffix(n.Text, ".") || !strings.HasSuffix(n.Next, ".") {
			t.Errorf("%+v", n)
		}
	}
	var args, action string
	if err := d.SQL().QueryRow("SELECT action, args FROM audit").Scan(&action, &args); err != nil || action != "state-restored" {
		t.Errorf("audit: %q %q %v", action, args, err)
	}
	if !strings.Contains(args, `"at"`) {
		t.Errorf("args %q", args)
	}
}
