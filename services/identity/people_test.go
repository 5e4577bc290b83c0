package identity

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

func TestInvites(t *testing.T) {
	b := newBox(t, t.TempDir())
	owner := b.owner(t, "Ada")
	c := b.as(t, owner)
	invite := func(req api.InviteRequest) api.Invite {
		t.Helper()
		v, err := b.Invite(t.Context(), c, req)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	join := func(code, name string) (string, error) {
		token, _, err := b.Join(t.Context(), api.JoinRequest{Code: code, Name: name, Password: right}, phone, "")
		return token, err
	}
	for _, req := range []api.InviteRequest{
		{Role: api.RoleMember, Hours: 0},
		{Role: api.RoleMember, Hours: 169},
		{Role: api.RoleSetup, Hours: 1},
		{Role: "", Hours: 1},
		{Person: "nobody", Hours: 1},
	} {
		var e *InvalidError
		if _, err := b.Invite(t.Context(), c, req); !errors.As(err, &e) {
			t.Errorf("%+v: %v", req, err)
		}
	}

	v := invite(api.InviteRequest{Role: api.RoleMember, Hours: 2})
	if l, err := b.LookInvite(t.Context(), v.Code); err != nil || l != (api.JoinLook{Box: "farmhouse", By: "Ada", Role: api.RoleMember}) {
		t.Errorf("%+v %v", l, err)
	}
	for _, bad := range []string{"", "0000-0000-0000", v.Code + "0", v.ID, "'; DROP TABLE people; --"} {
		_, err := b.LookInvite(t.Context(), bad)
		want(t, err, ErrInviteVoid)
		_, err = join(bad, "Grace")
		want(t, err, ErrInviteVoid)
	}
	// What is wrong with the rest leaves the invitation open.
	_, err := join(v.Code, " aDA ")
	wantField(t, err, "/name", "name-taken")
	_, _, err = b.Join(t.Context(), api.JoinRequest{Code: v.Code, Name: "Grace", Password: "short"}, phone, "")
	wantField(t, err, "/password", "password-short")
	grace, err := join(strings.ToLower(strings.ReplaceAll(v.Code, "-", "")), "Grace")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := b.Look(grace); !ok || s.Role != api.RoleMember || s.Person.Name != "Grace" {
		t.Errorf("%+v %v", s, ok)
	}
	_, err = join(v.Code, "Tim")
	want(t, err, ErrInviteVoid)

	// Lists, ends, lasts.
	v = invite(api.InviteRequest{Role: api.RoleOwner, Hours: 1})
	list, err := b.Invites(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != v.ID || list[0].Code != "" || list[0].By != "Ada" {
		t.Errorf("%+v %v", list, err)
	}
	want(t, b.EndInvite(t.Context(), c, v.ID), nil)
	want(t, b.EndInvite(t.Context(), c, v.ID), ErrNotFound)
	_, err = join(v.Code, "Tim")
	want(t, err, ErrInviteVoid)
	v = invite(api.InviteRequest{Role: api.RoleOwner, Hours: 1})
	b.reopen(t)
	b.at = b.at.Add(time.Hour - time.Second)
	if _, err := b.LookInvite(t.Context(), v.Code); err != nil {
		t.Error(err)
	}
	b.at = b.at.Add(time.Second)
	_, err = join(v.Code, "Tim")
	want(t, err, ErrInviteVoid)
	if list, err := b.Invites(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}

	// For somebody who is there: a new password, no second factor, no sessions from before.
	gc := b.as(t, grace)
	second(t, b, gc)
	v = invite(api.InviteRequest{Person: gc.Person.ID, Hours: 1})
	if l, err := b.LookInvite(t.Context(), v.Code); err != nil || l.Person != "Grace" || l.Role != api.RoleMember {
		t.Errorf("%+v %v", l, err)
	}
	token, s, err := b.Join(t.Context(), api.JoinRequest{Code: v.Code, Password: "quite another horse"}, phone, "")
	if err != nil || s.Person.ID != gc.Person.ID || s.Person.SecondFactor {
		t.Fatalf("%+v %v", s, err)
	}
	if _, ok := b.Look(grace); ok {
		t.Error("a session from before goes on")
	}
	if _, err := b.signIn("Grace", "quite another horse", ""); err != nil {
		t.Error(err)
	}

	// Those of somebody who goes, go.
	v = invite(api.InviteRequest{Role: api.RoleMember, Hours: 1})
	if _, err := b.ChangePerson(t.Context(), c, gc.Person.ID, api.PersonChange{Name: "Grace", Role: api.RoleOwner}); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Look(token); ok {
		t.Error("a session goes on with more rights than it began with")
	}
	if grace, err = b.signIn("Grace", "quite another horse", ""); err != nil {
		t.Fatal(err)
	}
	if err := b.RemovePerson(t.Context(), b.as(t, grace), c.Person.ID); err != nil {
		t.Fatal(err)
	}
	_, err = join(v.Code, "Tim")
	want(t, err, ErrInviteVoid)
}

// TestInviteAndClock sees that a step of the clock ends no invitation of this process. A test can't step the wall clock, so
// it changes what was stored instead.
func TestInviteAndClock(t *testing.T) {
	b := newBox(t, "")
	c := b.as(t, b.owner(t, "Ada"))
	v, err := b.Invite(t.Context(), c, api.InviteRequest{Role: api.RoleMember, Hours: 1})
	if err != nil {
		t.Fatal(err)
	}
	// As if the clock had been a year behind when it was made.
	if _, err := b.db.SQL().Exec("UPDATE invites SET created = created - 31536000, expires = expires - 31536000"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.LookInvite(t.Context(), v.Code); err != nil {
		t.Error(err)
	}
	b.at = b.at.Add(time.Hour)
	_, err = b.LookInvite(t.Context(), v.Code)
	want(t, err, ErrInviteVoid)
}

func TestTooMany(t *testing.T) {
	b := newBox(t, "")
	c := b.as(t, b.owner(t, "Ada"))
	fill := func(most int, f func(n int) error) {
		t.Helper()
		for n := range most {
			if err := f(n); err != nil {
				t.Fatalf("%d: %v", n, err)
			}
		}
		want(t, f(most), ErrTooMany)
	}
	fill(maxInvites, func(int) error {
		_, err := b.Invite(t.Context(), c, api.InviteRequest{Role: api.RoleMember, Hours: 1})
		return err
	})
	fill(maxTokens, func(int) error {
		_, err := b.MakeToken(t.Context(), c, api.TokenRequest{Name: "script", Scopes: []string{api.ScopeBox}, Days: 1})
		return err
	})
	fill(maxPeople-1, func(n int) error {
		return b.Change(t.Context(), Caller{}, func(tx *sql.Tx) error {
			return b.SetPeople(t.Context(), tx, c, "/people", []api.ConfigPerson{{Name: fmt.Sprint("P", n), Role: api.RoleMember}})
		})
	})
	b.at = b.at.Add(48 * time.Hour) // what has expired makes room
	if _, err := b.Invite(t.Context(), c, api.InviteRequest{Role: api.RoleMember, Hours: 1}); err != nil {
		t.Error(err)
	}
	if _, err := b.MakeToken(t.Context(), c, api.TokenRequest{Name: "script", Scopes: []string{api.ScopeBox}, Days: 1}); err != nil {
		t.Error(err)
	}
}

func TestPeople(t *testing.T) {
	b := newBox(t, t.TempDir())
	owner := b.owner(t, "Ada")
	c := b.as(t, owner)
	grace := b.join(t, owner, "Grace", api.RoleMember)
	gid := b.as(t, grace).Person.ID
	_, err := b.ChangePerson(t.Context(), c, gid, api.PersonChange{Name: "ADA"})
	wantField(t, err, "/name", "name-taken")
	_, err = b.ChangePerson(t.Context(), c, gid, api.PersonChange{Name: "Grace", Role: api.RoleRescue})
	wantField(t, err, "/role", "role")
	_, err = b.ChangePerson(t.Context(), c, "nobody", api.PersonChange{Name: "Grace"})
	want(t, err, ErrNotFound)
	_, err = b.ChangePerson(t.Context(), c, c.Person.ID, api.PersonChange{Name: "Ada", Role: api.RoleMember})
	want(t, err, ErrLastOwner)
	want(t, b.RemovePerson(t.Context(), c, c.Person.ID), ErrLastOwner)
	if _, ok := b.Look(owner); !ok {
		t.Error("a removal that was refused ended a session")
	}
	if p, err := b.ChangePerson(t.Context(), c, gid, api.PersonChange{Name: "GRACE H."}); err != nil || p.Name != "GRACE H." || p.Role != api.RoleMember {
		t.Errorf("%+v %v", p, err)
	}
	if s, ok := b.Look(grace); !ok || s.Person.Name != "GRACE H." {
		t.Errorf("after another name: %+v %v", s, ok)
	}

	// Another role and back: no session from before comes to life again.
	for _, role := range []string{api.RoleOwner, api.RoleMember} {
		if _, err := b.ChangePerson(t.Context(), c, gid, api.PersonChange{Name: "Grace", Role: role}); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.Look(grace); ok {
			t.Errorf("a session goes on as %s", role)
		}
	}
	b.reopen(t)
	if _, ok := b.Look(grace); ok {
		t.Error("a session comes back at a restart")
	}
	if grace, err = b.signIn("Grace", right, ""); err != nil {
		t.Fatal(err)
	}
	want(t, b.RemovePerson(t.Context(), c, gid), nil)
	want(t, b.RemovePerson(t.Context(), c, gid), ErrNotFound)
	if _, ok := b.Look(grace); ok {
		t.Error("who was removed is still in")
	}
	_, err = b.signIn("Grace", right, "")
	want(t, err, ErrWrongPassword)
	if people := b.People(); len(people) != 1 || people[0].Name != "Ada" {
		t.Errorf("%+v", people)
	}
}

func TestSetPeople(t *testing.T) {
	b := newBox(t, t.TempDir())
	owner := b.owner(t, "Ada")
	b.join(t, owner, "Grace", api.RoleMember)
	c := b.as(t, owner)
	set := func(want ...api.ConfigPerson) error {
		return b.Change(t.Context(), Caller{}, func(tx *sql.Tx) error { return b.SetPeople(t.Context(), tx, c, "/people", want) })
	}
	wantField(t, set(api.ConfigPerson{Name: "Tim", Role: api.RoleMember}, api.ConfigPerson{Name: " TIM", Role: api.RoleMember}), "/people/1/name", "duplicate")
	wantField(t, set(api.ConfigPerson{Name: "Tim", Role: "king"}), "/people/0/role", "role")
	wantField(t, set(api.ConfigPerson{Name: "", Role: api.RoleMember}), "/people/0/name", "missing")
	want(t, set(api.ConfigPerson{Name: "Tim", Role: api.RoleOwner}, api.ConfigPerson{Name: "Ada", Role: api.RoleMember}), ErrLastOwner) // Tim can't sign in
	if n := len(b.People()); n != 2 {
		t.Errorf("%d people after changes that were refused", n)
	}
	err := set(api.ConfigPerson{Name: "ADA", Role: api.RoleMember}, api.ConfigPerson{Name: "Grace", Role: api.RoleOwner}, api.ConfigPerson{Name: "Tim", Role: api.RoleMember})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, p := range b.People() {
		got += fmt.Sprintf("%s %s %v, ", p.Name, p.Role, p.HasPassword)
	}
	if got != "ADA member true, Grace owner true, Tim member false, " {
		t.Error(got)
	}
	if _, ok := b.Look(owner); ok {
		t.Error("a session goes on with another role")
	}
}

// TestStoredVerbatim sees that what people type is kept as it is: it is the page's work to show it as text.
func TestStoredVerbatim(t *testing.T) {
	b := newBox(t, t.TempDir())
	owner := b.owner(t, "Ada")
	for _, name := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=1>`, `{{.Secret}}`, `'; DROP TABLE people; --`, `javascript:alert(1)//`,
		`%00%0d%0aX: y`, `Zoë 🐑 Ünal`, `عمر`, `\u003cb\u003e`,
	} {
		b.join(t, owner, name, api.RoleMember)
		b.reopen(t)
		if token, err := b.signIn(name, right, ""); err != nil || b.as(t, token).Person.Name != name {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", " ", strings.Repeat("x", 41), "a\nb", "a\x00b", "\xff", "a\u202eb", "a\u200bb"} {
		if _, err := cleanName("/name", name); err == nil {
			t.Errorf("%q is a name", name)
		}
	}
}

func TestRecover(t *testing.T) {
	b := newBox(t, t.TempDir())
	req := api.RecoverRequest{Name: "Ada", Password: "found the box again"}
	_, _, err := b.Recover(t.Context(), req, false, phone, "")
	want(t, err, ErrNoSuchOwner)
	owner := b.owner(t, "Ada")
	member := b.join(t, owner, "Grace", api.RoleMember)
	secret, _ := second(t, b, b.as(t, owner))
	script, err := b.MakeToken(t.Context(), b.as(t, owner), api.TokenRequest{Name: "x", Scopes: []string{api.ScopePeople}, Days: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, locked := range []bool{false, true} {
		for _, name := range []string{"Grace", "nobody"} {
			_, _, err = b.Recover(t.Context(), api.RecoverRequest{Name: name, Password: req.Password}, locked, phone, "")
			want(t, err, ErrNoSuchOwner)
		}
	}
	_, _, err = b.Recover(t.Context(), api.RecoverRequest{Name: "Ada", Password: "ada12345"}, false, phone, "")
	wantField(t, err, "/password", "password-common")
	token, s, err := b.Recover(t.Context(), req, false, phone, "")
	if err != nil || s.Role != api.RoleOwner || s.Person.SecondFactor {
		t.Fatalf("%+v %v", s, err)
	}
	if _, ok := b.Look(owner); ok {
		t.Error("a session from before goes on")
	}
	_, _, err = b.UseToken(t.Context(), script.Secret) // whoever made it
	want(t, err, ErrNotFound)
	if _, ok := b.Look(member); !ok {
		t.Error("somebody else's session ended")
	}
	b.reopen(t)
	if _, ok := b.Look(token); !ok {
		t.Error("the new session is gone")
	}
	_, err = b.signIn("Ada", right, code(secret, b.at))
	want(t, err, ErrWrongPassword)
	if _, err = b.signIn("Ada", req.Password, ""); err != nil {
		t.Error(err)
	}
}

func TestRecoverLocked(t *testing.T) {
	b := newBox(t, t.TempDir())
	won, other := parallel(8, func(n int) error {
		_, _, err := b.Recover(context.Background(), api.RecoverRequest{Name: fmt.Sprint("Ada ", n), Password: right}, true, phone, "")
		return err
	})
	if won != 1 {
		t.Errorf("%d won", won)
	}
	for _, err := range other {
		want(t, err, ErrNoSuchOwner)
	}
	if people := b.People(); len(people) != 1 || people[0].Role != api.RoleOwner || b.Step() != api.StepZone {
		t.Errorf("%+v, step %s", people, b.Step())
	}
}

func TestTokens(t *testing.T) {
	b := newBox(t, t.TempDir())
	owner := b.owner(t, "Ada")
	c := b.as(t, owner)
	for path, req := range map[string]api.TokenRequest{
		"/name":     {Scopes: []string{api.ScopeBox}, Days: 1},
		"/days":     {Name: "x", Scopes: []string{api.ScopeBox}, Days: 367},
		"/scopes":   {Name: "x", Days: 1},
		"/scopes ":  {Name: "x", Scopes: []string{api.ScopeBox, "everything"}, Days: 1},
		"/scopes\n": {Name: "x", Scopes: []string{api.ScopeBox, api.ScopeBox}, Days: 1},
	} {
		var e *InvalidError
		if _, err := b.MakeToken(t.Context(), c, req); !errors.As(err, &e) || e.Fields[0].Path != strings.TrimSpace(path) {
			t.Errorf("%+v: %v", req, err)
		}
	}
	v, err := b.MakeToken(t.Context(), c, api.TokenRequest{Name: "backup", Scopes: []string{api.ScopeLogs, api.ScopeBox}, Days: 2})
	if err != nil || fmt.Sprint(v.Scopes) != "[box logs]" || !strings.HasPrefix(v.Secret, "croft_") {
		t.Fatalf("%+v %v", v, err)
	}
	b.reopen(t)
	for range 2 {
		p, got, err := b.UseToken(t.Context(), v.Secret)
		if err != nil || p.Name != "Ada" || got.ID != v.ID || fmt.Sprint(got.Scopes) != "[box logs]" || got.Secret != "" {
			t.Errorf("%+v %+v %v", p, got, err)
		}
	}
	list, err := b.Tokens(t.Context(), c)
	if err != nil || len(list) != 1 || list[0].Secret != "" || !list[0].Used.Equal(b.at.Truncate(time.Hour)) {
		t.Errorf("%+v %v", list, err)
	}
	for _, bad := range []string{"", "croft_", v.Secret + "x", v.Secret[:len(v.Secret)-1], v.ID, owner, strings.Repeat("x", 1000)} {
		_, _, err := b.UseToken(t.Context(), bad)
		want(t, err, ErrNotFound)
	}
	other := b.as(t, b.join(t, owner, "Grace", api.RoleOwner))
	want(t, b.EndToken(t.Context(), other, v.ID), ErrNotFound) // not hers
	b.at = b.at.Add(48 * time.Hour)
	_, _, err = b.UseToken(t.Context(), v.Secret)
	want(t, err, ErrNotFound)
	want(t, b.EndToken(t.Context(), c, v.ID), nil)
	want(t, b.EndToken(t.Context(), c, v.ID), ErrNotFound)
	v, err = b.MakeToken(t.Context(), other, api.TokenRequest{Name: "x", Scopes: []string{api.ScopeBox}, Days: 2})
	if err != nil {
		t.Fatal(err)
	}
	want(t, b.RemovePerson(t.Context(), c, other.Person.ID), nil)
	_, _, err = b.UseToken(t.Context(), v.Secret)
	want(t, err, ErrNotFound)
}

// A request that was let in and then took its time changes nothing for somebody who lost the role or the session meanwhile.
func TestSignedOutMeanwhile(t *testing.T) {
	b := newBox(t, t.TempDir())
	ada := b.as(t, b.owner(t, "Ada"))
	for name, end := range map[string]func(who Caller) error{
		"demoted": func(who Caller) error {
			_, err := b.ChangePerson(t.Context(), ada, who.Person.ID, api.PersonChange{Name: who.Person.Name, Role: api.RoleMember})
			return err
		},
		"removed":       func(who Caller) error { return b.RemovePerson(t.Context(), ada, who.Person.ID) },
		"session ended": func(who Caller) error { return b.EndSessions(t.Context(), ada, who.Person.ID) },
	} {
		t.Run(name, func(t *testing.T) {
			v, err := b.Invite(t.Context(), ada, api.InviteRequest{Role: api.RoleOwner, Hours: 1})
			if err != nil {
				t.Fatal(err)
			}
			token, _, err := b.Join(t.Context(), api.JoinRequest{Code: v.Code, Name: name, Password: right}, phone, "")
			if err != nil {
				t.Fatal(err)
			}
			ben := b.as(t, token)
			want(t, end(ben), nil)
			_, err = b.Invite(t.Context(), ben, api.InviteRequest{Role: api.RoleOwner, Hours: 1})
			want(t, err, ErrSignedOut)
			_, err = b.MakeToken(t.Context(), ben, api.TokenRequest{Name: "x", Scopes: []string{api.ScopePeople}, Days: 1})
			want(t, err, ErrSignedOut)
			_, err = b.ChangePerson(t.Context(), ben, ada.Person.ID, api.PersonChange{Name: "Ada", Role: api.RoleMember})
			want(t, err, ErrSignedOut)
			want(t, b.RemovePerson(t.Context(), ben, ada.Person.ID), ErrSignedOut)
			want(t, b.Change(t.Context(), ben, func(*sql.Tx) error { t.Error("it changes something"); return nil }), ErrSignedOut)
		})
	}
}

// On a disk that takes no writes, a script that asks all the time does not fill the log.
func TestTokenOnFullDisk(t *testing.T) {
	b := newBox(t, t.TempDir())
	v, err := b.MakeToken(t.Context(), b.as(t, b.owner(t, "Ada")), api.TokenRequest{Name: "x", Scopes: []string{api.ScopeBox}, Days: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.db.SQL().Exec("PRAGMA query_only=ON"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&out, nil))
	for range 5 {
		if _, _, err := b.UseToken(t.Context(), v.Secret); err != nil {
			t.Fatal(err)
		}
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("%d lines: %s", n, out.Bytes())
	}
}

// A clock that is ahead ends nobody's token for good.
func TestTokenAndClock(t *testing.T) {
	b := newBox(t, t.TempDir())
	c := b.as(t, b.owner(t, "Ada"))
	made := func() api.Token {
		v, err := b.MakeToken(t.Context(), c, api.TokenRequest{Name: "x", Scopes: []string{api.ScopeBox}, Days: 7})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v, now := made(), b.at
	b.at = now.Add(30 * 24 * time.Hour)
	made()
	b.at = now
	if _, _, err := b.UseToken(t.Context(), v.Secret); err != nil {
		t.Error(err)
	}
	b.at = now.Add(60 * 24 * time.Hour)
	for range maxTokens { // what has expired makes room
		made()
	}
}
