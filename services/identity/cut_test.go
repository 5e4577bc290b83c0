package identity

import (
	"bufio"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// TestPowerCut kills a process that sets a box up and invites people, and sees that whatever it acknowledged is there, and
// nothing is there by half.
func TestPowerCut(t *testing.T) {
	if dir := os.Getenv("CROFT_TEST_CUT"); dir != "" {
		b := newBox(t, dir)
		token, err := "", error(nil)
		if b.HasOwner() {
			token, err = b.signIn("Ada", right, "")
		} else {
			token = b.owner(t, "Ada")
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("done", "Ada", token)
		for n := len(b.People()); n < maxPeople; n++ {
			name := fmt.Sprint("P", n)
			fmt.Println("done", name, b.join(t, token, name, api.RoleMember))
		}
		return
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(3, 4))
	acknowledged := map[string]string{} // name by token
	for range 8 {
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
		next := func() bool {
			ok := lines.Scan()
			if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "done" {
				acknowledged[f[2]] = f[1]
			}
			return ok
		}
		wait := r.IntN(8)
		for n := 0; n < wait && next(); n++ {
		}
		time.Sleep(time.Duration(r.IntN(4000)) * time.Microsecond) // anywhere within a transaction
		cmd.Process.Kill()
		for next() {
		}
		cmd.Wait()

		b := newBox(t, dir)
		if n := len(b.db.Notices()); n != 0 {
			t.Errorf("%d notices", n)
		}
		joined := 0
		for _, a := range b.actions(t) {
			if a == "joined" || a == "account-made" {
				joined++
			}
		}
		if n := len(b.People()); n != joined {
			t.Errorf("%d people, but %d are recorded", n, joined)
		}
		for token, name := range acknowledged {
			if s, ok := b.Look(token); !ok || s.Person.Name != name {
				t.Errorf("the session of %s is gone", name)
			}
		}
		b.db.Close()
	}
	if len(acknowledged) < 8 {
		t.Errorf("only %d sessions were acknowledged", len(acknowledged))
	}
}

// TestFixture opens what a box of schema 2 left: whoever could sign in still can.
func TestFixture(t *testing.T) {
	b := newBox(t, fixture(t))
	if _, err := b.signIn("Grace", right, ""); err != nil {
		t.Error(err)
	}
	_, err := b.signIn("ADA <b>lovelace</b>", right, "")
	want(t, err, ErrSecondFactor)
	_, err = b.signIn("Ada <b>Lovelace</b>", "wrong", "")
	want(t, err, ErrWrongPassword)
	if people := b.People(); len(people) != 2 || people[0].RecoveryCodes != 10 || !people[0].SecondFactor || b.Step() != api.StepDone {
		t.Errorf("%+v, step %s", people, b.Step())
	}
}

// fixture returns a directory with the database of state's fixture.
func fixture(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../state/testdata/state-v2.sql")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	db, err := sql.Open("sqlite3", filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(string(text)); err != nil {
		t.Fatal(err)
	}
	return dir
}
