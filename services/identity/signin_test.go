package identity

import (
	"context"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

func TestSignIn(t *testing.T) {
	b := newBox(t, t.TempDir())
	token := b.owner(t, "Ada Lovelace")
	for _, name := range []string{"Ada Lovelace", "ada lovelace", " ADA  Lovelace ", "Ａda Lovelace"} {
		if _, err := b.signIn(name, right, ""); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	// The token that a client comes with ends with its sign-in.
	next, s, err := b.SignIn(t.Context(), api.SessionRequest{Name: "Ada Lovelace", Password: right}, phone, token)
	if err != nil || next == token || s.Role != api.RoleOwner {
		t.Errorf("%+v %v", s, err)
	}
	if _, ok := b.Look(token); ok {
		t.Error("the token before is still good")
	}
	b.SignOut(t.Context(), next, b.as(t, next))
	b.SignOut(t.Context(), next, phone)
	if _, ok := b.Look(next); ok {
		t.Error("signed out, but in")
	}
	if got := b.actions(t); got[len(got)-1] != "signed-out" || got[len(got)-2] != "signed-in" {
		t.Errorf("recorded %q", got)
	}
}

// TestNoEnumeration sees that a name that nobody has can't be told from a wrong password, neither by the error nor by what it
// costs.
func TestNoEnumeration(t *testing.T) {
	b := newBox(t, "")
	token := b.owner(t, "Ada")
	err := b.Change(t.Context(), Caller{}, func(tx *sql.Tx) error { // somebody without a password
		return b.SetPeople(t.Context(), tx, b.as(t, token), "/people", []api.ConfigPerson{{Name: "Grace", Role: api.RoleMember}})
	})
	if err != nil {
		t.Fatal(err)
	}
	c := b.as(t, b.join(t, token, "Tim", api.RoleMember))
	second(t, b, c)
	for _, name := range []string{"Ada", "Grace", "Tim", "nobody", "", strings.Repeat("x", 1000), "\xff\x00"} {
		for _, factor := range []string{"", "123456"} {
			for _, password := range []string{"wrong", "", strings.Repeat("x", 10_000)} {
				before := b.hasher.count.Load()
				_, err := b.signIn(name, password, factor)
				want(t, err, ErrWrongPassword)
				if n := b.hasher.count.Load() - before; n != 1 {
					t.Errorf("%q, %q: %d hashes", name, password, n)
				}
			}
		}
	}
}

func TestRehash(t *testing.T) {
	b := newBox(t, t.TempDir())
	b.owner(t, "Ada")
	b.hasher = newHasher(params{memory: 16, time: 1, threads: 1})
	for n := range int64(2) {
		before := b.hasher.count.Load()
		if _, err := b.signIn("Ada", right, ""); err != nil {
			t.Fatal(err)
		}
		if got := b.hasher.count.Load() - before; got != 2-n {
			t.Errorf("sign-in %d: %d hashes", n, got)
		}
	}
	b.reopen(t)
	if _, err := b.signIn("Ada", right, ""); err != nil {
		t.Error(err)
	}
}

func TestHashingIsCancelled(t *testing.T) {
	b := newBox(t, "")
	b.owner(t, "Ada")
	b.hasher.turn <- struct{}{} // somebody else computes
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := b.SignIn(ctx, api.SessionRequest{Name: "Ada", Password: right}, phone, "")
	want(t, err, context.Canceled)
	<-b.hasher.turn
}

func TestChangePassword(t *testing.T) {
	b := newBox(t, t.TempDir())
	token := b.owner(t, "Ada")
	other, err := b.signIn("Ada", right, "")
	if err != nil {
		t.Fatal(err)
	}
	c := b.as(t, token)
	_, _, err = b.ChangePassword(t.Context(), c, api.PasswordChange{Old: "wrong", New: "another horse"})
	want(t, err, ErrWrongPassword)
	_, _, err = b.ChangePassword(t.Context(), c, api.PasswordChange{Old: right, New: "short"})
	wantField(t, err, "/new", "password-short")
	next, s, err := b.ChangePassword(t.Context(), c, api.PasswordChange{Old: right, New: "another horse"})
	if err != nil || s.Role != api.RoleOwner {
		t.Fatalf("%+v %v", s, err)
	}
	for _, old := range []string{token, other} {
		if _, ok := b.Look(old); ok {
			t.Error("a session from before goes on")
		}
	}
	b.reopen(t)
	if _, ok := b.Look(next); !ok {
		t.Error("the new session is gone")
	}
	_, err = b.signIn("Ada", right, "")
	want(t, err, ErrWrongPassword)
	if _, err = b.signIn("Ada", "another horse", ""); err != nil {
		t.Error(err)
	}
	want(t, b.ConfirmPassword(t.Context(), b.as(t, next), right), ErrWrongPassword)
	want(t, b.ConfirmPassword(t.Context(), b.as(t, next), "another horse"), nil)
}

// second turns a second factor on and returns its secret and its recovery codes.
func second(t *testing.T, b *box, c Caller) ([]byte, []string) {
	t.Helper()
	f, err := b.BeginSecondFactor(t.Context(), c, api.PasswordRequest{Password: right})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := base32.StdEncoding.DecodeString(f.Secret)
	if err != nil {
		t.Fatal(err)
	}
	codes, err := b.ConfirmSecondFactor(t.Context(), c, api.SecondFactorCode{Code: code(secret, b.at)})
	if err != nil {
		t.Fatal(err)
	}
	return secret, codes.Codes
}

func code(secret []byte, at time.Time) string {
	return hotp(secret, uint64(at.Unix()/totpStep), totpDigits)
}

func TestSecondFactor(t *testing.T) {
	b := newBox(t, t.TempDir())
	token := b.owner(t, "Ada: <i>")
	c := b.as(t, token)
	other, err := b.signIn("Ada: <i>", right, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.BeginSecondFactor(t.Context(), c, api.PasswordRequest{Password: "wrong"})
	want(t, err, ErrWrongPassword)
	_, err = b.ConfirmSecondFactor(t.Context(), c, api.SecondFactorCode{Code: "123456"})
	want(t, err, ErrNotFound)
	_, err = b.NewRecoveryCodes(t.Context(), c, api.PasswordRequest{Password: right})
	want(t, err, ErrNotFound)
	f, err := b.BeginSecondFactor(t.Context(), c, api.PasswordRequest{Password: right})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(f.URI)
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/farmhouse:Ada  <i>" || u.Query().Get("secret") != f.Secret ||
		u.Query().Get("issuer") != "farmhouse" {
		t.Errorf("%q %v", f.URI, err)
	}
	_, err = b.ConfirmSecondFactor(t.Context(), c, api.SecondFactorCode{Code: "000000"})
	want(t, err, ErrWrongSecondFactor)
	if _, err := b.signIn("Ada: <i>", right, ""); err != nil {
		t.Errorf("it counts before it is confirmed: %v", err)
	}
	secret, codes := second(t, b, c)
	if _, ok := b.Look(other); ok {
		t.Error("a session without it goes on")
	}
	if _, ok := b.Look(token); !ok {
		t.Error("the session that asked ended")
	}
	if p, err := b.Person(c.Person.ID); err != nil || !p.SecondFactor || p.RecoveryCodes != 10 || len(codes) != 10 {
		t.Errorf("%+v %v", p, err)
	}

	try := func(password, factor string, outcome error) {
		t.Helper()
		_, err := b.signIn("Ada: <i>", password, factor)
		want(t, err, outcome)
	}
	try("wrong", "", ErrWrongPassword)
	try("wrong", code(secret, b.at), ErrWrongPassword)
	try(right, "", ErrSecondFactor)
	try(right, code(secret, b.at), ErrWrongSecondFactor) // it confirmed
	for _, bad := range []string{"000000", "12345", "1234567", "abcdef", "AAAA-AAAA-AAAA", strings.Repeat("1", 1000), "١٢٣٤٥٦", "\xff"} {
		try(right, bad, ErrWrongSecondFactor)
	}
	b.at = b.at.Add(time.Minute)
	now := code(secret, b.at)
	try(right, now[:3]+" "+now[3:], nil)
	try(right, now, ErrWrongSecondFactor)
	try(right, code(secret, b.at.Add(-totpStep*time.Second)), ErrWrongSecondFactor) // older than the last
	try(right, code(secret, b.at.Add(totpStep*time.Second)), nil)                   // a phone that is ahead
	b.at = b.at.Add(10 * time.Minute)
	try(right, code(secret, b.at.Add(-totpStep*time.Second)), nil) // one that is behind
	try(right, code(secret, b.at.Add(2*totpStep*time.Second)), ErrWrongSecondFactor)
	b.reopen(t)
	try(right, code(secret, b.at.Add(-totpStep*time.Second)), ErrWrongSecondFactor)

	// A box whose clock is wrong takes a recovery code, once.
	b.at = b.at.Add(-1000 * time.Hour)
	try(right, code(secret, b.at.Add(1000*time.Hour)), ErrWrongSecondFactor)
	try(right, strings.ToLower(strings.ReplaceAll(codes[3], "-", " ")), nil)
	try(right, codes[3], ErrWrongSecondFactor)
	if p, err := b.Person(c.Person.ID); err != nil || p.RecoveryCodes != 9 {
		t.Errorf("%+v %v", p, err)
	}
	fresh, err := b.NewRecoveryCodes(t.Context(), c, api.PasswordRequest{Password: right})
	if err != nil || len(fresh.Codes) != 10 || slices.Contains(fresh.Codes, codes[0]) {
		t.Errorf("%v %v", fresh, err)
	}
	try(right, codes[0], ErrWrongSecondFactor)
	try(right, fresh.Codes[0], nil)

	// A new secret that nobody confirms changes nothing.
	if _, err := b.BeginSecondFactor(t.Context(), c, api.PasswordRequest{Password: right}); err != nil {
		t.Fatal(err)
	}
	b.at = b.at.Add(2000 * time.Hour)
	try(right, code(secret, b.at), nil)
	want(t, b.EndSecondFactor(t.Context(), c, api.PasswordRequest{Password: "wrong"}), ErrWrongPassword)
	want(t, b.EndSecondFactor(t.Context(), c, api.PasswordRequest{Password: right}), nil)
	try(right, "", nil)
	if p, err := b.Person(c.Person.ID); err != nil || p.SecondFactor || p.RecoveryCodes != 0 {
		t.Errorf("%+v %v", p, err)
	}
}

// TestVectors are those of RFC 4226, appendix D, and RFC 6238, appendix B.
func TestVectors(t *testing.T) {
	secret := []byte("12345678901234567890")
	for n, want := range strings.Fields("755224 287082 359152 969429 338314 254676 287922 162583 399871 520489") {
		if got := hotp(secret, uint64(n), 6); got != want {
			t.Errorf("counter %d: %s, want %s", n, got, want)
		}
	}
	for at, want := range map[int64]string{
		59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037",
		20000000000: "65353130",
	} {
		if got := hotp(secret, uint64(at/totpStep), 8); got != want {
			t.Errorf("%d: %s, want %s", at, got, want)
		}
	}
}

// parallel runs f n times at once and returns how often it had each outcome.
func parallel(n int, f func(n int) error) (won int, other []error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			err := f(i)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else {
				other = append(other, err)
			}
		})
	}
	close(start)
	wg.Wait()
	return won, other
}

func TestParallel(t *testing.T) {
	b := newBox(t, t.TempDir())
	one := func(what string, outcome error, f func(n int) error) {
		t.Helper()
		won, other := parallel(16, f)
		if won != 1 {
			t.Errorf("%s: %d won", what, won)
		}
		for _, err := range other {
			if !errors.Is(err, outcome) {
				t.Errorf("%s: %v, want %v", what, err, outcome)
			}
		}
	}
	var claim string
	one("claim", ErrClaimedByAnother, func(int) error {
		token, _, err := b.Claim(t.Context(), phone, "")
		if err == nil {
			claim = token
		}
		return err
	})
	var owner string
	one("account", ErrAlreadyClaimed, func(n int) error {
		token, _, err := b.MakeFirstOwner(t.Context(), api.AccountRequest{Name: fmt.Sprint("Ada ", n), Password: right}, phone, claim)
		if err == nil {
			owner = token
		}
		return err
	})
	if n := len(b.People()); n != 1 {
		t.Errorf("%d people", n)
	}
	c := b.as(t, owner)
	v, err := b.Invite(t.Context(), c, api.InviteRequest{Role: api.RoleMember, Hours: 1})
	if err != nil {
		t.Fatal(err)
	}
	one("join", ErrInviteVoid, func(n int) error {
		_, _, err := b.Join(t.Context(), api.JoinRequest{Code: v.Code, Name: fmt.Sprint("Grace ", n), Password: right}, phone, "")
		return err
	})
	secret, codes := second(t, b, c)
	b.at = b.at.Add(time.Minute)
	one("one-time password", ErrWrongSecondFactor, func(int) error {
		_, err := b.signIn(c.Person.Name, right, code(secret, b.at))
		return err
	})
	one("recovery code", ErrWrongSecondFactor, func(int) error {
		_, err := b.signIn(c.Person.Name, right, codes[0])
		return err
	})
	if n := len(b.People()); n != 2 {
		t.Errorf("%d people", n)
	}
}

// TestDiskFails sees that a household can sign in, and out, when the disk takes nothing.
func TestDiskFails(t *testing.T) {
	b := newBox(t, t.TempDir())
	token := b.owner(t, "Ada")
	secret, codes := second(t, b, b.as(t, token))
	b.at = b.at.Add(time.Minute)
	b.db.SQL().Close() // every write fails from now on
	first, err := b.signIn("Ada", right, code(secret, b.at))
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := b.Look(first); !ok || s.Role != api.RoleOwner {
		t.Errorf("%+v %v", s, ok)
	}
	_, err = b.signIn("Ada", right, code(secret, b.at))
	want(t, err, ErrWrongSecondFactor)
	if _, err = b.signIn("Ada", right, codes[0]); err == nil || refused(err) {
		t.Errorf("a recovery code that can't be used up: %v", err)
	}
	_, err = b.signIn("Ada", "wrong", "")
	want(t, err, ErrWrongPassword)
	b.SignOut(t.Context(), first, phone)
	if _, ok := b.Look(first); ok {
		t.Error("signed out, but in")
	}
	if _, _, ok := b.Use(t.Context(), token, phone); !ok {
		t.Error("a session from before ended")
	}
	if _, err := b.Invite(t.Context(), b.as(t, token), api.InviteRequest{Role: api.RoleMember, Hours: 1}); err == nil || refused(err) {
		t.Errorf("acknowledged what was not kept: %v", err)
	}
}

func TestNoSecretsOnDisk(t *testing.T) {
	b := newBox(t, t.TempDir())
	token := b.owner(t, "Ada")
	c := b.as(t, token)
	_, codes := second(t, b, c)
	v, err := b.Invite(t.Context(), c, api.InviteRequest{Role: api.RoleMember, Hours: 1})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := b.MakeToken(t.Context(), c, api.TokenRequest{Name: "script", Scopes: []string{api.ScopeBox}, Days: 1})
	if err != nil {
		t.Fatal(err)
	}
	b.reopen(t)
	files, err := filepath.Glob(filepath.Join(b.dir, "*"))
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for what, secret := range map[string]string{
			"session": token, "password": right, "recovery code": codes[0], "invitation": v.Code, "token": tok.Secret,
			"recovery code without dashes": strings.ReplaceAll(codes[0], "-", ""), "invitation without dashes": strings.ReplaceAll(v.Code, "-", ""),
		} {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s: the %s is on the disk", f, what)
			}
		}
	}
}
