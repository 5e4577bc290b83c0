package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

const (
	owner    = "Anna"
	password = "a meadow behind the barn"
)

// api asks the box's API as the browser b and decodes the answer into out, if there is one to decode into. It returns the
// ETag.
func (b *box) api(method, path string, in, out any, want int, header ...string) string {
	b.t.Helper()
	etag, err := b.ask(b.t.Context(), method, path, in, out, want, header...)
	if err != nil {
		b.t.Fatal(err)
	}
	return etag
}

func (b *box) ask(ctx context.Context, method, path string, in, out any, want int, header ...string) (etag string, err error) {
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return "", err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, boxURL+"/api/v1"+path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := b.client().Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(res.Body); err != nil {
		return "", err
	}
	if res.StatusCode != want {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text.String())
	}
	if out == nil {
		return res.Header.Get("ETag"), nil
	}
	return res.Header.Get("ETag"), json.Unmarshal(text.Bytes(), out)
}

// change changes the configuration.
func (b *box) change(edit func(*api.Config)) (result api.ConfigResult) {
	b.t.Helper()
	var c api.Config
	etag := b.api("GET", "/config", nil, &c, 200)
	edit(&c)
	b.api("PUT", "/config", c, &result, 200, "If-Match", etag)
	return result
}

// step is something that a household does, done once the box has said so.
type step struct {
	name string
	do   func()
}

// household are the steps from the claim on. other is a second browser.
func household(b, other *box, code string) []step {
	var invite api.Invite
	var people api.List[api.Person]
	var last api.List[api.ConfigChange]
	zone := func(name string) func() {
		return func() { b.change(func(c *api.Config) { c.TimeZone = name }) }
	}
	return []step{
		{"claim", func() { b.signIn(code) }},
		{"name", func() { b.api("PUT", "/setup/name", api.NameRequest{Name: "Hof"}, nil, 200) }},
		{"account", func() {
			b.api("POST", "/setup/account", api.AccountRequest{Name: owner, Password: password}, nil, 201)
		}},
		{"time zone", func() { b.api("PUT", "/setup/time-zone", api.ZoneRequest{TimeZone: "Europe/Berlin"}, nil, 200) }},
		{"set-up done", func() { b.api("POST", "/setup/done", nil, nil, 200) }},
		{"invite", func() { b.api("POST", "/invites", api.InviteRequest{Role: api.RoleMember, Hours: 24}, &invite, 201) }},
		{"join", func() {
			other.api("POST", "/join", api.JoinRequest{Code: invite.Code, Name: "Jörg", Password: password + "!"}, nil, 201)
		}},
		{"config 1", zone("Europe/Vienna")},
		{"config 2", zone("Asia/Tokyo")},
		{"rename by config", func() { b.change(func(c *api.Config) { c.Name = "garten" }) }},
		{"undo", func() {
			b.api("GET", "/config/changes", nil, &last, 200)
			b.api("POST", "/config/undo", api.UndoRequest{Change: last.Items[0].ID}, nil, 200)
		}},
		{"token", func() {
			b.api("POST", "/me/tokens", api.TokenRequest{Name: "script", Scopes: []string{api.ScopeBox}, Days: 30}, nil, 201)
		}},
		{"try a network", func() {
			if b.change(func(c *api.Config) { c.Network.NTP = []string{"time.example"} }).Trial == nil {
				b.t.Error("a change of the network is not tried first")
			}
		}},
		{"keep it", func() { b.api("POST", "/network/keep", nil, nil, 204) }},
		{"role", func() {
			b.api("GET", "/people", nil, &people, 200)
			i := slices.IndexFunc(people.Items, func(p api.Person) bool { return p.Name == "Jörg" })
			b.api("PUT", "/people/"+people.Items[i].ID, api.PersonChange{Name: "Jörg", Role: api.RoleOwner}, nil, 200)
		}},
		{"sign in again", func() { // with the new role
			other.api("POST", "/session", api.SessionRequest{Name: "Jörg", Password: password + "!"}, nil, 201)
		}},
		{"password", func() {
			other.api("PUT", "/me/password", api.PasswordChange{Old: password + "!", New: password + "?"}, nil, 204)
		}},
		{"remove", func() {
			i := slices.IndexFunc(people.Items, func(p api.Person) bool { return p.Name == "Jörg" })
			b.api("DELETE", "/people/"+people.Items[i].ID, nil, nil, 204)
		}},
		{"config 3", zone("Europe/Lisbon")},
	}
}

const (
	setupCuts   = 520 // crash images that are checked
	setupBooted = 20  // of them, and booted
)

// TestPowerCutsInSetUp records how a household claims a box, sets it up and changes its configuration, and makes the disks
// that power cuts at random moments could have left. In each, the database is exactly as it was after the last step that
// the box had acknowledged, or after the one under way. Some are booted: the box is the household's as far as it had come.
func TestPowerCutsInSetUp(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	base, err := faults.LoadDisk(image(t, qemu.PC), size)
	if err != nil {
		t.Fatal(err)
	}
	first := start(t, memoryOptions(t, base))
	first.waitPage()
	code := first.code()
	first.off()
	rec := &faults.Recorder{Device: base.Fork()}
	b := start(t, memoryOptions(t, rec))
	b.waitPage()
	other := b.another()
	b.until("everything runs", time.Minute, func(ctx context.Context) error {
		_, err := b.ask(ctx, "GET", "/setup", nil, &api.Setup{}, 200)
		return err
	})
	steps := household(b, other, code)
	acked := []int{len(rec.Events())} // events before each step
	for _, s := range steps {
		t.Logf("step: %s", s.name)
		s.do()
		acked = append(acked, len(rec.Events()))
	}
	b.off()
	events := rec.Events()
	t.Logf("recorded %d events; the steps were acknowledged after %v", len(events), acked)

	// What is right after each step is what is on the disk once it was acknowledged.
	states := make([]string, len(acked))
	for i, n := range acked {
		d, err := faults.Replay(base, events, n)
		if err != nil {
			t.Fatal(err)
		}
		c := cut{disk: d, dir: t.TempDir()}
		if states[i], err = c.database(t.Context()); err != nil {
			t.Fatalf("after %d steps: %v", i, err)
		}
		if i > 0 && states[i] == states[i-1] && steps[i-1].name != "try a network" {
			t.Errorf("step %q left nothing on the disk when it was acknowledged", steps[i-1].name)
		}
	}

	const seed = 20261121
	rng := rand.New(rand.NewPCG(seed, 0))
	jobs := make([]job, setupCuts)
	for i := range jobs {
		jobs[i] = job{uint64(i), acked[0] + rng.IntN(len(events)+1-acked[0])}
	}
	crash := func(j job) *faults.Disk {
		d, err := faults.Crash(rand.New(rand.NewPCG(seed, j.seed)), base, events, j.at)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	// come says how many steps had been acknowledged.
	come := func(j job) int {
		n, _ := slices.BinarySearch(acked, j.at+1)
		return n - 1
	}
	check := func(j job) error {
		dir, err := os.MkdirTemp("", "croft-cut-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c := cut{disk: crash(j), dir: dir}
		got, err := c.database(t.Context())
		if err != nil {
			return err
		}
		n := come(j)
		if got == states[n] || n+1 < len(states) && got == states[n+1] {
			return nil
		}
		return fmt.Errorf("%d steps were acknowledged, and the database is as after none of the next:\n%s\nwas\n%s", n, got, states[n])
	}
	judge(t, jobs, len(events), check)

	for i := range setupBooted {
		j := jobs[i*len(jobs)/setupBooted]
		n := come(j)
		t.Run(fmt.Sprintf("boot %d", j.seed), func(t *testing.T) {
			t.Parallel()
			b := start(t, memoryOptions(t, crash(j)))
			b.waitPage()
			var s api.Setup
			b.api("GET", "/setup", nil, &s, 200)
			if n < 3 && s.Step == api.StepDone || n >= 3 && (s.Step == api.StepClaim || s.Step == api.StepAccount) {
				t.Errorf("after %d steps the set-up stands at %q", n, s.Step)
			}
			if n >= 3 {
				b.api("POST", "/session", api.SessionRequest{Name: owner, Password: password}, nil, 201)
				var c api.Config
				b.api("GET", "/config", nil, &c, 200)
				if c.Name != "hof" && c.Name != "garten" {
					t.Errorf("the box is called %q", c.Name)
				}
				b.waitState("the box goes by its name", time.Minute, func(s api.Box) error {
					if s.System.Name != c.Name || s.Discovery == nil || s.Discovery.Wanted != c.Name {
						return fmt.Errorf("the name is %q, the box's %q, discovery says %+v", c.Name, s.System.Name, s.Discovery)
					}
					return running(s)
				})
			} else {
				// The code still counts: for the phone that used it, and for another once that one was quiet.
				status, body, err := b.do(b.t.Context(), http.MethodPost, boxURL+"/api/v1/claim", api.ClaimRequest{Code: code})
				if err != nil || n > 0 && status != http.StatusConflict || n == 0 && status != http.StatusConflict && status != http.StatusCreated {
					t.Errorf("after %d steps, another phone's claim: %d, %v: %s", n, status, err, body)
				}
			}
		})
	}
}

// another is a second browser at the same box.
func (b *box) another() *box {
	o := *b
	o.newClient()
	o.roots = b.roots
	return &o
}

// passing are columns and tables that change without anybody's doing.
var passing = map[string]bool{"seen": true, "used": true, "last": true, "expires": true, "alerts": true}

// database lets foreign tools and SQLite judge the data partition, and returns all rows of core's database but for what
// changes by itself.
func (c *cut) database(ctx context.Context) (string, error) {
	if err := c.load(ctx); err != nil {
		return "", err
	}
	if _, err := disk.Recover(c.data); err != nil {
		return "", err
	}
	if out, err := run(ctx, "e2fsck", "-p", c.data); err != nil && !strings.Contains(err.Error(), "exit status 1\n") {
		return "", fmt.Errorf("%w%s", err, out)
	}
	if _, err := run(ctx, "e2fsck", "-fn", c.data); err != nil {
		return "", err
	}
	files := filepath.Join(c.dir, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		return "", err
	}
	if _, err := run(ctx, "debugfs", "-R", "rdump /state/core "+files, c.data); err != nil {
		return "", err
	}
	dir := filepath.Join(files, "core")
	if good := filepath.Join(dir, "state-good.db"); exists(good) {
		if err := checkSQLite(good); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, "state.db")
	if !exists(path) {
		return "", errors.New("there is no database")
	}
	if err := checkSQLite(path); err != nil {
		return "", err
	}
	return dump(ctx, path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// dump lists the rows of a database, secrets as digests.
func dump(ctx context.Context, path string) (string, error) {
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		return "", err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var tables []string
	rows, err := db.QueryContext(ctx, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
	if err != nil {
		return "", err
	}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return "", err
		}
		tables = append(tables, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return "", err
	}
	var out strings.Builder
	for _, table := range tables {
		if passing[table] {
			continue
		}
		if err := dumpTable(ctx, db, table, &out); err != nil {
			return "", fmt.Errorf("table %s: %w", table, err)
		}
	}
	return out.String(), nil
}

func dumpTable(ctx context.Context, db *sql.DB, table string, out *strings.Builder) error {
	rows, err := db.QueryContext(ctx, `SELECT * FROM "`+table+`"`)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	var lines []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			return err
		}
		line := table
		for i, name := range columns {
			if passing[name] {
				continue
			}
			switch v := (*values[i].(*any)).(type) {
			case []byte:
				line += fmt.Sprintf(" %s=%x", name, sha256.Sum256(v))[:len(name)+10]
			default:
				line += fmt.Sprintf(" %s=%v", name, v)
			}
		}
		if !strings.HasPrefix(line, "settings key=copied ") { // when the last good copy was made
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(out, l)
	}
	return rows.Err()
}
