package identity

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

func TestAudit(t *testing.T) {
	b := newBox(t, t.TempDir())
	token := b.owner(t, "Ada")
	err := b.Change(t.Context(), Caller{}, func(tx *sql.Tx) error {
		for n := range maxAudit + 50 {
			e := api.AuditEntry{Action: "signed-in", Who: "Ada", Target: fmt.Sprint(n), Args: map[string]string{"device": "<b>"}, Place: phone.Place}
			if err := b.Record(t.Context(), tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, b.FinishSetup(t.Context(), b.as(t, token)), nil)
	seen, after := 0, ""
	for last := int64(1) << 62; ; {
		page, err := b.Audit(t.Context(), after, 300)
		if err != nil || len(page.Items) > maxPage {
			t.Fatalf("%d entries, %v", len(page.Items), err)
		}
		for _, e := range page.Items {
			if e.ID >= last {
				t.Fatalf("entry %d after %d", e.ID, last)
			}
			last = e.ID
			if seen++; seen == 2 && (e.Target != fmt.Sprint(maxAudit+49) || e.Args["device"] != "<b>" || !e.At.Equal(b.at.Truncate(time.Second))) {
				t.Errorf("%+v", e)
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if seen != maxAudit {
		t.Errorf("%d entries", seen)
	}
	for _, bad := range []string{"x", "-1", "1e3", "99999999999999999999"} {
		_, err := b.Audit(t.Context(), bad, 10)
		wantField(t, err, "/after", "format")
	}
}

// TestNothingRecordedOfNothing sees that what was refused leaves no entry.
func TestNothingRecordedOfNothing(t *testing.T) {
	b := newBox(t, "")
	c := b.as(t, b.owner(t, "Ada"))
	before := len(b.actions(t))
	want(t, b.RemovePerson(t.Context(), c, c.Person.ID), ErrLastOwner)
	want(t, b.EndInvite(t.Context(), c, "nothing"), ErrNotFound)
	if got := b.actions(t); len(got) != before {
		t.Errorf("recorded %q", got[before:])
	}
}

// TestFailuresBounded sees that wrong sign-ins can't fill the audit log, nor the card, and that what was typed is not in it.
func TestFailuresBounded(t *testing.T) {
	b := newBox(t, "")
	b.owner(t, "Ada")
	before := len(b.actions(t))
	for n := range 100 {
		c := phone
		c.Place = fmt.Sprintf("192.0.2.%d", n%50)
		req := api.SessionRequest{Name: []string{"Ada", "hunter2-in-the-wrong-field"}[n%2], Password: "wrong"}
		_, _, err := b.SignIn(t.Context(), req, c, "")
		want(t, err, ErrWrongPassword)
	}
	list, err := b.Audit(t.Context(), "", maxPage)
	if err != nil || len(list.Items) != before+failedHour {
		t.Errorf("%d entries, %v", len(list.Items)-before, err)
	}
	for _, e := range list.Items[:failedHour] {
		if e.Action != "sign-in-failed" || e.Who != "" || e.Target != "" && e.Target != "Ada" {
			t.Errorf("%+v", e)
		}
	}
	b.at = b.at.Add(time.Hour)
	if _, err := b.signIn("Ada", "wrong", ""); err == nil {
		t.Error("signed in")
	}
	if n := len(b.actions(t)); n != before+failedHour+1 {
		t.Errorf("%d entries an hour later", n-before)
	}
}
