package state

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rows are written by write and counted by rowsIn.
func write(t testing.TB, d *DB, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := writeRow(t.Context(), d, i); err != nil {
			t.Fatal(err)
		}
	}
}

// writeRow is one transaction in three tables.
func writeRow(ctx context.Context, d *DB, i int) error {
	return d.Tx(ctx, func(tx *sql.Tx) error {
		for _, q := range []string{
			"INSERT INTO people (id, name, key, role, password, created) VALUES ('p%[1]d', '%[2]s', 'k%[1]d', 'member', NULL, %[1]d)",
			"INSERT INTO audit (at, action, who, target, place) VALUES (%[1]d, 'joined', '%[2]s', '', '')",
			"INSERT OR REPLACE INTO settings VALUES ('last', '%[1]d')",
		} {
			if _, err := tx.ExecContext(ctx, fmt.Sprintf(q, i, strings.Repeat("n", 40))); err != nil {
				return err
			}
		}
		return nil
	})
}

// rowsIn returns how many rows there are, which must be the first so many, whole.
func rowsIn(t testing.TB, d *DB) int {
	t.Helper()
	var people, newest, audit int
	var last string
	err := d.SQL().QueryRow(`SELECT count(*), coalesce(max(created), -1), (SELECT count(*) FROM audit WHERE action = 'joined'),
		coalesce((SELECT value FROM settings WHERE key = 'last'), '-1') FROM people`).Scan(&people, &newest, &audit, &last)
	if err != nil {
		t.Fatal(err)
	}
	if newest != people-1 || audit != people || last != strconv.Itoa(people-1) {
		t.Errorf("half a change: %d people up to %d, %d entries, last %s", people, newest, audit, last)
	}
	return people
}

// snapshot copies the files of a database that is open, as a power cut would leave them.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{fileName, fileName + "-wal", goodName} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// damage changes the contents of a file.
func damage(t testing.TB, path string, f func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, f(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var damages = map[string]func(b []byte) []byte{
	"garbage":                 func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), len(b)/8) },
	"a few bytes":             func([]byte) []byte { return []byte("garbage") },
	"nothing":                 func([]byte) []byte { return nil },
	"cut off":                 func(b []byte) []byte { return b[:len(b)/2] },
	"cut off within a page":   func(b []byte) []byte { return b[:5000] },
	"first page overwritten":  func(b []byte) []byte { copy(b, bytes.Repeat([]byte{0xff}, 4096)); return b },
	"second page overwritten": func(b []byte) []byte { copy(b[4096:], bytes.Repeat([]byte{0xff}, 4096)); return b },
	"zeros":                   func(b []byte) []byte { clear(b); return b },
	"an older schema":         func(b []byte) []byte { b[63] = 1; return b },
	"a newer schema":          func(b []byte) []byte { b[63] = 9; return b },
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, 0, 200)
	if err := d.makeCopy(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, d, 200, 230)
	cut := snapshot(t, dir) // with a log that goes on after the copy
	d.Close()
	for name, f := range damages {
		t.Run(name, func(t *testing.T) {
			t.Run("after closing", func(t *testing.T) {
				dir := snapshot(t, dir)
				damage(t, filepath.Join(dir, fileName), f)
				d := open(t, dir)
				wantNotices(t, d, "state-restored")
				if n := rowsIn(t, d); n != 230 {
					t.Errorf("%d rows", n)
				}
				kept, err := filepath.Glob(filepath.Join(dir, "damaged-*-"+fileName))
				if err != nil || len(kept) != 1 {
					t.Errorf("kept %v %v", kept, err)
				}
				d.Close()
				d = open(t, dir)
				wantNotices(t, d)
				if n := rowsIn(t, d); n != 230 {
					t.Errorf("%d rows at the start after", n)
				}
			})
			t.Run("after a power cut", func(t *testing.T) {
				dir := snapshot(t, cut)
				damage(t, filepath.Join(dir, fileName), f)
				d := open(t, dir)
				if n := rowsIn(t, d); n != 230 {
					t.Errorf("%d rows", n)
				}
				for _, n := range d.Notices() {
					if n.Name != "state-restored" || n.Args != nil {
						t.Errorf("notice %+v", n)
					}
				}
			})
			t.Run("of the good copy", func(t *testing.T) {
				dir := snapshot(t, cut)
				damage(t, filepath.Join(dir, goodName), f)
				d := open(t, dir)
				wantNotices(t, d)
				if n := rowsIn(t, d); n != 230 {
					t.Errorf("%d rows", n)
				}
				d.Close()
				if _, err := checkCopy(t.Context(), filepath.Join(dir, goodName)); err != nil {
					t.Errorf("the good copy was not made anew: %v", err)
				}
			})
			t.Run("of both", func(t *testing.T) {
				dir := snapshot(t, dir)
				damage(t, filepath.Join(dir, fileName), f)
				damage(t, filepath.Join(dir, goodName), f)
				d := open(t, dir)
				wantNotices(t, d, "state-replaced")
				if n := rowsIn(t, d); n != 0 {
					t.Errorf("%d rows", n)
				}
				kept, err := filepath.Glob(filepath.Join(dir, "damaged-*"))
				if err != nil || len(kept) != 2 {
					t.Errorf("kept %v %v", kept, err)
				}
				d.Close()
				d = open(t, dir)
				wantNotices(t, d)
			})
		})
	}
}

// TestLogOfAnother sees that a log which does not go on where the copy ends is not put on top of it.
func TestLogOfAnother(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, 0, 100)
	d.Close()
	old, err := os.ReadFile(filepath.Join(dir, goodName))
	if err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	write(t, d, 100, 150)
	cut := snapshot(t, dir)
	damage(t, filepath.Join(cut, fileName), damages["garbage"])
	damage(t, filepath.Join(cut, goodName), func([]byte) []byte { return old })
	d = open(t, cut)
	wantNotices(t, d, "state-restored")
	if n := rowsIn(t, d); n != 100 {
		t.Errorf("%d rows", n)
	}
	if d.Notices()[0].Args["at"] == "" {
		t.Errorf("%+v does not say what time the copy is from", d.Notices()[0])
	}
}

// TestEmptiedLog sees that the copy and the log are the current state also after the log was emptied and began anew.
func TestEmptiedLog(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	n, emptied := 0, 0
	for emptied < 3 {
		write(t, d, n, n+50)
		n += 50
		before := fileSize(filepath.Join(dir, fileName+"-wal"))
		if n%200 == 0 {
			if err := d.makeCopy(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if after := fileSize(filepath.Join(dir, fileName+"-wal")); after < before {
			if before < checkpointAt {
				t.Errorf("emptied at %d bytes", before)
			}
			emptied++
		}
		if n > 20_000 {
			t.Fatal("the log is never emptied")
		}
		cut := snapshot(t, dir)
		os.Remove(filepath.Join(cut, fileName))
		r := open(t, cut)
		if got := rowsIn(t, r); got != n {
			t.Fatalf("after %d rows, with the log at %d bytes: %d", n, before, got)
		}
		r.Close()
		os.RemoveAll(cut)
	}
}

// TestFlippedBits flips bits anywhere in the database or its log. There must be a database with people after it, and it
// must say so when it went back. A bit that flips within a value is not found; one that cuts the log short leaves what was
// before it.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, 0, 300)
	if err := d.makeCopy(t.Context()); err != nil { // empties the log
		t.Fatal(err)
	}
	write(t, d, 300, 303)
	cut := snapshot(t, dir)
	restored := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		dir := snapshot(t, cut)
		name := fileName
		if seed%5 == 4 {
			name += "-wal"
		}
		damage(t, filepath.Join(dir, name), func(b []byte) []byte {
			page := r.IntN(len(b)/4096) * 4096
			for range 1 + r.IntN(64) {
				b[page+r.IntN(4096)] ^= 1 << r.IntN(8)
			}
			return b
		})
		d, err := Open(t.Context(), dir, quiet)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		var n int
		if err := d.SQL().QueryRow("SELECT count(*) FROM people").Scan(&n); err != nil || n < 300 {
			t.Errorf("seed %d: %d people, %v", seed, n, err)
		}
		for _, notice := range d.Notices() {
			restored++
			if notice.Name != "state-restored" || n != 303 {
				t.Errorf("seed %d: %+v, %d people", seed, notice, n)
			}
		}
		if err := integrity(t.Context(), d.SQL()); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		os.RemoveAll(dir)
	}
	t.Logf("%d of 200 were found and restored", restored)
	if restored < 30 {
		t.Errorf("only %d were found", restored)
	}
}

// TestDamageWhileRunning sees that damage which shows in use makes the process unhealthy, so that its next start repairs.
func TestDamageWhileRunning(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, 0, 400)
	d.Close()
	d = open(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, int(fi.Size())-8192), 8192); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := d.SQL().Exec("PRAGMA shrink_memory"); err != nil { // what is cached is still whole
		t.Fatal(err)
	}
	err = d.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE people SET seen = 1; UPDATE audit SET at = 1")
		return err
	})
	if err == nil || d.Check(t.Context()) == nil {
		t.Errorf("%v, but healthy", err)
	}
	d.Close()
	d = open(t, dir)
	wantNotices(t, d, "state-restored")
	if n := rowsIn(t, d); n != 400 {
		t.Errorf("%d rows", n)
	}
}

// TestPowerCut kills a process in the middle of its transactions, copies and emptying of the log.
func TestPowerCut(t *testing.T) {
	if dir := os.Getenv("CROFT_TEST_CUT"); dir != "" {
		d, err := Open(t.Context(), dir, quiet)
		if err != nil {
			t.Fatal(err)
		}
		from := rowsIn(t, d)
		for i := from; ; i++ {
			if err := writeRow(t.Context(), d, i); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("done %d\n", i)
			if i%40 == 39 {
				if err := d.makeCopy(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	done := -1
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPowerCut$")
		cmd.Env = append(os.Environ(), "CROFT_TEST_CUT="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		wait := 1 + r.IntN(80)
		for n := 0; n < wait && lines.Scan(); n++ {
			fmt.Sscanf(lines.Text(), "done %d", &done)
		}
		time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond) // anywhere within a transaction
		cmd.Process.Kill()
		for lines.Scan() {
			fmt.Sscanf(lines.Text(), "done %d", &done)
		}
		io.Copy(io.Discard, out)
		cmd.Wait()
		if done < 0 {
			t.Fatal("the process wrote nothing")
		}
		cut := snapshot(t, dir)
		if round%2 == 1 { // the card is hurt too
			damage(t, filepath.Join(cut, fileName), damages["garbage"])
		}
		d := open(t, cut)
		if n := rowsIn(t, d); n < done+1 || n > done+2 {
			t.Fatalf("round %d: %d rows, but %d were acknowledged", round, n, done+1)
		}
		d.Close()
	}
	t.Logf("%d transactions", done+1)
}

// TestRepairCutOff starts from what a repair leaves that was itself cut off.
func TestRepairCutOff(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, 0, 300)
	if err := d.makeCopy(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, d, 300, 303)
	cut := snapshot(t, dir)
	for name, f := range map[string]func(path string) error{
		"log deleted by SQLite": func(path string) error {
			damage(t, path, damages["garbage"])
			return os.Rename(path+"-wal", path+keptLog)
		},
		"log deleted and put back": func(path string) error {
			damage(t, path, damages["garbage"])
			return os.Link(path+"-wal", path+keptLog)
		},
		"set aside": func(path string) error {
			_, err := setAside(path, time.Now())
			return err
		},
		"set aside, log by its second name": func(path string) error {
			_, err := setAside(path, time.Now())
			return errors.Join(err, os.Rename(path+"-wal", path+keptLog))
		},
		"half of the copy written": func(path string) error {
			_, err := setAside(path, time.Now())
			return errors.Join(err, os.WriteFile(filepath.Join(filepath.Dir(path), ".state.db123"), []byte("half"), 0o600))
		},
		"copied back": func(path string) error {
			return copyFile(goodOf(path), path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := snapshot(t, cut)
			if err := f(filepath.Join(dir, fileName)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				d := open(t, dir)
				if n := rowsIn(t, d); n != 303 {
					t.Errorf("%d rows", n)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFailingCard sees that damage at every start does not fill the disk.
func TestFailingCard(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, d, 0, 3)
	d.Close()
	for range 2 * maxAside {
		damage(t, filepath.Join(dir, fileName), damages["garbage"])
		d := open(t, dir)
		if n := rowsIn(t, d); n != 3 {
			t.Errorf("%d rows", n)
		}
		d.Close()
	}
	kept, err := filepath.Glob(filepath.Join(dir, "damaged-*"))
	if err != nil || len(kept) != maxAside {
		t.Errorf("kept %d, %v", len(kept), err)
	}
}
