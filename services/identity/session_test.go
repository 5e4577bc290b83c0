package identity

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

func TestSessionLife(t *testing.T) {
	b := newBox(t, t.TempDir())
	token := b.owner(t, "Ada")
	if _, renewed, ok := b.Use(t.Context(), token, phone); !ok || renewed {
		t.Errorf("just made: renewed %v, ok %v", renewed, ok)
	}
	b.at = b.at.Add(renewEvery)
	elsewhere := phone
	elsewhere.Place = "192.0.2.99"
	v, renewed, ok := b.Use(t.Context(), token, elsewhere)
	if !ok || !renewed || !v.Expires.Equal(b.at.Add(SessionLife)) || v.Place != "192.0.2.99" || !v.Current {
		t.Errorf("an hour later: %+v, renewed %v, ok %v", v, renewed, ok)
	}
	if p, err := b.Person(v.Person.ID); err != nil || !p.Seen.Equal(b.at.Truncate(time.Hour)) {
		t.Errorf("%+v %v", p, err)
	}
	b.at = b.at.Add(SessionLife - time.Second)
	b.reopen(t)
	if v, ok := b.Look(token); !ok || v.Place != "192.0.2.99" || v.Device != "Safari, iPhone" {
		t.Errorf("after a restart: %+v %v", v, ok)
	}
	// A clock that is far behind gives it no longer life.
	right := b.at
	b.at = right.Add(-10 * SessionLife)
	b.reopen(t)
	if v, ok := b.Look(token); !ok || v.Expires.After(b.at.Add(SessionLife)) {
		t.Errorf("with the clock behind: %+v %v", v, ok)
	}
	if _, renewed, ok := b.Use(t.Context(), token, phone); !renewed || !ok {
		t.Error("a step back does not renew")
	}
	b.at = right
	if _, renewed, ok := b.Use(t.Context(), token, phone); renewed || ok {
		t.Error("it lasts for ever") // the test's times have no monotonic reading: the step counts as time
	}
	b.reopen(t)
	if _, ok := b.Look(token); ok {
		t.Error("what has expired is good after a restart")
	}
}

func TestSessionsBounded(t *testing.T) {
	b := newBox(t, t.TempDir())
	owner := b.owner(t, "Ada")
	grace := b.join(t, owner, "Grace", api.RoleMember)
	var tokens []string
	for range maxPerPerson {
		b.at = b.at.Add(time.Minute)
		token, err := b.signIn("Grace", right, "")
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	if _, ok := b.Look(grace); ok {
		t.Error("more than the most")
	}
	if n := len(b.Sessions(b.as(t, tokens[0]))); n != maxPerPerson {
		t.Errorf("%d sessions", n)
	}
	if _, ok := b.Look(owner); !ok {
		t.Error("somebody else's went")
	}
	b.reopen(t)
	if n := len(b.Sessions(b.as(t, tokens[0]))); n != maxPerPerson {
		t.Errorf("%d sessions after a restart", n)
	}
	for n := range 20 { // of 21 people, 20 each
		b.join(t, owner, fmt.Sprint("P", n), api.RoleMember)
		for range maxPerPerson {
			b.at = b.at.Add(time.Second)
			if _, err := b.signIn(fmt.Sprint("P", n), right, ""); err != nil {
				t.Fatal(err)
			}
		}
		b.Use(t.Context(), owner, phone)
	}
	if n := len(b.sessions); n != maxSessions {
		t.Errorf("%d sessions in all", n)
	}
	if _, ok := b.Look(owner); !ok {
		t.Error("the one that is in use went")
	}
	var stored int
	if err := b.db.SQL().QueryRow("SELECT count(*) FROM sessions").Scan(&stored); err != nil || stored != maxSessions {
		t.Errorf("%d stored, %v", stored, err)
	}
}

func TestEndSessions(t *testing.T) {
	b := newBox(t, t.TempDir())
	owner := b.owner(t, "Ada")
	c := b.as(t, owner)
	grace := b.join(t, owner, "Grace", api.RoleMember)
	gc := b.as(t, grace)
	other, err := b.signIn("Ada", right, "")
	if err != nil {
		t.Fatal(err)
	}
	list := b.Sessions(c)
	if len(list) != 2 || !slices.ContainsFunc(list, func(s api.Session) bool { return s.Current && s.ID == c.Session }) {
		t.Errorf("%+v", list)
	}
	want(t, b.EndSession(t.Context(), gc, b.as(t, other).Session), ErrNotFound) // not hers
	want(t, b.EndSession(t.Context(), c, b.as(t, other).Session), nil)
	if _, ok := b.Look(other); ok {
		t.Error("ended, but in")
	}
	if other, err = b.signIn("Ada", right, ""); err != nil {
		t.Fatal(err)
	}
	want(t, b.EndSessions(t.Context(), c, c.Person.ID), nil)
	want(t, b.EndSessions(t.Context(), c, gc.Person.ID), nil)
	want(t, b.EndSessions(t.Context(), c, "nobody"), ErrNotFound)
	b.reopen(t)
	for token, good := range map[string]bool{owner: true, other: false, grace: false} {
		if _, ok := b.Look(token); ok != good {
			t.Errorf("a session is there: %v, want %v", ok, good)
		}
	}
}

// What ends sessions ends those too that a clock that is ahead hides.
func TestEndHiddenSessions(t *testing.T) {
	b := newBox(t, t.TempDir())
	stolen := b.owner(t, "Ada")
	now := b.at
	b.at = now.Add(2 * SessionLife)
	b.reopen(t)
	if _, ok := b.Look(stolen); ok {
		t.Fatal("a session that looks expired is there")
	}
	own, err := b.signIn("Ada", right, "")
	if err != nil {
		t.Fatal(err)
	}
	want(t, b.EndSessions(t.Context(), b.as(t, own), b.as(t, own).Person.ID), nil)
	b.at = now
	b.reopen(t)
	if _, ok := b.Look(stolen); ok {
		t.Error("a session that was ended is there again once the clock is right")
	}
	if _, ok := b.Look(own); !ok {
		t.Error("the one that ended it is gone")
	}
}

func TestRescue(t *testing.T) {
	b := newBox(t, "")
	token, s, err := b.Rescue(t.Context(), phone, "")
	if err != nil || s.Role != api.RoleRescue || s.Person != nil {
		t.Fatalf("%+v %v", s, err)
	}
	next, _, err := b.Rescue(t.Context(), phone, token)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Look(token); ok {
		t.Error("the token before is still good")
	}
	if _, _, ok := b.Use(t.Context(), next, phone); !ok {
		t.Error("no session")
	}
}

func TestDevice(t *testing.T) {
	for agent, want := range map[string]string{
		phone.Agent: "Safari, iPhone",
		"Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Mobile Safari/537.36":                      "Chrome, Android",
		"Mozilla/5.0 (Linux; Android 14; SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0 Mobile Safari/537.36": "Samsung Internet, Android",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36 Edg/126.0":                  "Edge, Windows",
		"Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0":                                                                 "Firefox, Linux",
		"Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0 Mobile/15E148 Safari/604.1":          "Chrome, iPad",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15":                  "Safari, Mac",
		"curl/8.5.0":                  "curl",
		"":                            "",
		"<script>alert(1)</script>/1": "",
	} {
		if got := Device(agent); got != want {
			t.Errorf("%q: %q, want %q", agent, got, want)
		}
	}
}
