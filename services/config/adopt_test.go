package config

import (
	"testing"
	"testing/synctest"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/identity"
)

// Until somebody begins to set the box up, the settings file on its card counts: name and time zone, and each time that
// they change. From then on the database does.
func TestAdoptSettingsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, dir: t.TempDir(), o: newOthers()}
		l.start()
		defer func() { l.stop() }()
		l.o.set(func(o *others) { o.down["updater"] = true }) // it has the zone from nobody else
		see := func(name, zone string) {
			t.Helper()
			l.o.set(func(o *others) { o.name, o.wanted = name, name }) // discovery starts with that name, too
			b := l.o.box()
			b.System.TimeZone = zone
			l.s.Reconcile(t.Context(), b)
		}
		see("croft", "")
		for _, zone := range []string{"Europe/Berlin", "America/Lima", "Mars/Olympus", ""} {
			see("hut", zone)
			l.restart()
		}
		equal(t, "name", l.doc().Name, "hut")
		equal(t, "time zone", l.doc().TimeZone, "America/Lima")
		if told := l.o.tell(); len(told) > 0 {
			t.Errorf("told %q", told)
		}
		token, _, err := l.id.Claim(t.Context(), identity.Caller{}, "")
		if err != nil {
			t.Fatal(err)
		}
		_, v, err := l.id.MakeFirstOwner(t.Context(), api.AccountRequest{Name: "Anna", Password: "correct horse battery"}, identity.Caller{}, token)
		if err != nil {
			t.Fatal(err)
		}
		l.anna = identity.Caller{Person: *v.Person}
		l.change(func(c *api.Config) { c.Name, c.TimeZone = "well", "" })
		see("hut", "Europe/Berlin")
		equal(t, "name", l.doc().Name, "well")
		equal(t, "time zone", l.doc().TimeZone, "")
	})
}
