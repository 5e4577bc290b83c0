package identity

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/state"
)

const right = "right horse battery"

// cheap makes hashes cost next to nothing.
var cheap = params{memory: 8, time: 1, threads: 1}

// box is an identity with its database and a clock that the test sets.
type box struct {
	*Identity
	db  *state.DB
	dir string
	at  time.Time
}

func newBox(t testing.TB, dir string) *box {
	t.Helper()
	b := &box{dir: dir, at: time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)}
	b.open(t)
	t.Cleanup(func() {
		b.knownActions(t)
		b.db.Close()
	})
	return b
}

// knownActions sees that the web UI has a sentence for whatever the test made identity record.
func (b *box) knownActions(t testing.TB) {
	list, err := b.Audit(context.Background(), "", maxPage)
	if err != nil {
		return // the test closed the database
	}
	for _, e := range list.Items {
		if !slices.Contains(api.AuditActions(), e.Action) {
			t.Errorf("action %q is not in the list", e.Action)
		}
	}
}

// actions returns what was recorded, the oldest first.
func (b *box) actions(t testing.TB) (all []string) {
	t.Helper()
	list, err := b.Audit(t.Context(), "", maxPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(list.Items) {
		all = append(all, e.Action)
	}
	return all
}

func (b *box) open(t testing.TB) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(context.Background(), b.dir, log)
	if err != nil {
		t.Fatal(err)
	}
	b.db = db
	b.Identity, err = Open(context.Background(), Config{
		DB: db, Log: log, Now: func() time.Time { return b.at }, Box: func() string { return "farmhouse" },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.hasher = newHasher(cheap)
}

func (b *box) reopen(t testing.TB) {
	t.Helper()
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(t)
}

var phone = Caller{Place: "192.0.2.7", Agent: "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1"}

// as is who asks with the session of a token.
func (b *box) as(t testing.TB, token string) Caller {
	t.Helper()
	s, ok := b.Look(token)
	if !ok {
		t.Fatal("no session")
	}
	c := phone
	c.Session = s.ID
	if s.Person != nil {
		c.Person = *s.Person
	}
	return c
}

// owner sets the box up and returns the token of its owner's session.
func (b *box) owner(t testing.TB, name string) string {
	t.Helper()
	token, _, err := b.Claim(t.Context(), phone, "")
	if err != nil {
		t.Fatal(err)
	}
	token, _, err = b.MakeFirstOwner(t.Context(), api.AccountRequest{Name: name, Password: right}, phone, token)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// join makes another person and returns the token of their session.
func (b *box) join(t testing.TB, by, name, role string) string {
	t.Helper()
	v, err := b.Invite(t.Context(), b.as(t, by), api.InviteRequest{Role: role, Hours: 1})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := b.Join(t.Context(), api.JoinRequest{Code: v.Code, Name: name, Password: right}, phone, "")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (b *box) signIn(name, password, second string) (string, error) {
	token, _, err := b.SignIn(context.Background(), api.SessionRequest{Name: name, Password: password, SecondFactor: second}, phone, "")
	return token, err
}

func want(t testing.TB, got, err error) {
	t.Helper()
	if !errors.Is(got, err) {
		t.Errorf("%v, want %v", got, err)
	}
}

// wantField wants an InvalidError of one field.
func wantField(t testing.TB, err error, path, code string) {
	t.Helper()
	var e *InvalidError
	if !errors.As(err, &e) || len(e.Fields) != 1 || e.Fields[0].Path != path || e.Fields[0].Code != code {
		t.Errorf("%v, want %s at %s", err, code, path)
	}
}

func TestSetup(t *testing.T) {
	b := newBox(t, t.TempDir())
	step := func(want string, busy bool) {
		t.Helper()
		if got := b.Step(); got != want || b.Busy() != busy {
			t.Errorf("step %q, busy %v; want %q, %v", got, b.Busy(), want, busy)
		}
	}
	step(api.StepClaim, false)
	first, s, err := b.Claim(t.Context(), phone, "")
	if err != nil || s.Role != api.RoleSetup || s.Person != nil || s.Device != "Safari, iPhone" {
		t.Fatalf("%+v %v", s, err)
	}
	step(api.StepName, true)
	_, _, err = b.Claim(t.Context(), phone, "")
	want(t, err, ErrClaimedByAnother)
	again, _, err := b.Claim(t.Context(), phone, first) // the same phone
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Look(first); ok {
		t.Error("the token before is still good")
	}
	if err := b.Change(t.Context(), b.as(t, again), func(tx *sql.Tx) error { return b.Named(t.Context(), tx) }); err != nil {
		t.Fatal(err)
	}
	b.reopen(t)
	step(api.StepAccount, true)
	b.at = b.at.Add(api.ClaimQuiet - time.Second)
	_, _, err = b.Claim(t.Context(), phone, "")
	want(t, err, ErrClaimedByAnother)
	if _, _, ok := b.Use(t.Context(), again, phone); !ok {
		t.Error("the session is gone")
	}
	b.at = b.at.Add(api.ClaimQuiet - time.Second)
	step(api.StepAccount, true)
	b.at = b.at.Add(time.Second)
	step(api.StepAccount, false)
	second, _, err := b.Claim(t.Context(), phone, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Look(again); ok {
		t.Error("two phones set the box up")
	}
	req := api.AccountRequest{Name: "Ada", Password: right}
	_, _, err = b.MakeFirstOwner(t.Context(), req, phone, again)
	want(t, err, ErrNotClaimed)
	_, _, err = b.MakeFirstOwner(t.Context(), req, phone, "")
	want(t, err, ErrNotClaimed)
	owner, s, err := b.MakeFirstOwner(t.Context(), req, phone, second)
	if err != nil || s.Role != api.RoleOwner || s.Person.Name != "Ada" || !s.Person.HasPassword || owner == second {
		t.Fatalf("%+v %v", s, err)
	}
	if _, ok := b.Look(second); ok {
		t.Error("the token before is still good")
	}
	step(api.StepZone, false)
	_, _, err = b.Claim(t.Context(), phone, "")
	want(t, err, ErrAlreadyClaimed)
	_, _, err = b.MakeFirstOwner(t.Context(), req, phone, owner)
	want(t, err, ErrAlreadyClaimed)
	if err := b.FinishSetup(t.Context(), b.as(t, owner)); err != nil {
		t.Fatal(err)
	}
	b.reopen(t)
	step(api.StepDone, false)
	if s, ok := b.Look(owner); !ok || s.Role != api.RoleOwner {
		t.Errorf("after a restart: %+v %v", s, ok)
	}
}
