package config

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/identity"
	"github.com/croft-os/croft/services/state"
)

var quiet = slog.New(slog.DiscardHandler)

// others are init, discovery and the network service as far as the configuration goes. The real ones need a machine of
// their own; the network service's trial is the contract in its package comment.
type others struct {
	mu     sync.Mutex
	name   string
	wanted string
	net    api.NetConfig
	trial  *api.NetConfig
	ends   time.Time
	down   map[string]bool // by host
	refuse bool            // of a trial
	told   []string        // method and URL of what acts
	update api.UpdateSettings
	watch  api.WitnessConfig // what the witness was told
}

func newOthers() *others { return &others{name: "croft", wanted: "croft", down: map[string]bool{}} }

func (o *others) set(f func(*others)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
}

func (o *others) tell() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	told := o.told
	o.told = nil
	slices.Sort(told)
	return told
}

func (o *others) expire() {
	if o.trial != nil && !time.Now().Before(o.ends) {
		o.trial = nil
	}
}

func (o *others) network() api.Network {
	n := api.Network{Interfaces: []api.Interface{}, DNS: []netip.Addr{}, Config: o.net}
	if o.expire(); o.trial != nil {
		n.Trial = &api.Trial{LeftMS: time.Until(o.ends).Milliseconds(), Config: *o.trial}
	}
	return n
}

// box is what somebody who looks sees.
func (o *others) box() *api.Box {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := &api.Box{System: api.System{Name: o.name}}
	if !o.down["discovery"] {
		b.Discovery = &api.Discovery{Wanted: o.wanted}
	}
	if !o.down["network"] {
		n := o.network()
		b.Network = &n
	}
	if !o.down["updater"] {
		b.Updates = &api.Updates{Policy: o.update.Policy, TimeZone: o.update.TimeZone}
	}
	if !o.down["witness"] {
		b.Witness = &api.Witness{Config: o.watch}
	}
	return b
}

// RoundTrip makes others the transport, so that no sockets are in the way of made-up time.
func (o *others) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	return w.Result(), nil
}

func (o *others) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down[r.URL.Host] {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	what := r.Method + " " + r.URL.Host + r.URL.Path
	if r.Method != http.MethodGet {
		o.told = append(o.told, what)
	}
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	var name api.NameRequest
	var conf api.NetConfig
	json.Unmarshal(body, &name)
	json.Unmarshal(body, &conf)
	o.expire()
	switch what {
	case "GET network/v1/network":
		daemon.WriteJSON(w, http.StatusOK, o.network())
		return
	case "PUT init/v1/name":
		o.name = name.Name
	case "PUT discovery/v1/discovery/name":
		o.wanted = name.Name
	case "PUT network/v1/network/name":
	case "PUT witness/v1/config":
		o.watch = api.WitnessConfig{}
		json.Unmarshal(body, &o.watch)
	case "PUT updater/v1/policy":
		o.update = api.UpdateSettings{}
		json.Unmarshal(body, &o.update)
	case "PUT network/v1/network/config":
		o.net, o.trial = conf, nil
	case "PUT network/v1/network/trial":
		if o.refuse {
			http.Error(w, "no", http.StatusUnprocessableEntity)
			return
		}
		o.trial, o.ends = &conf, time.Now().Add(api.TrialTime)
	case "POST network/v1/network/keep":
		if o.trial == nil {
			http.Error(w, "no trial", http.StatusConflict)
			return
		}
		o.net, o.trial = *o.trial, nil
	case "DELETE network/v1/network/trial":
		o.trial = nil
	default:
		http.Error(w, what, http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// lab is a Store over a real database with Anna as its owner.
type lab struct {
	t    *testing.T
	dir  string
	o    *others
	s    *Store
	id   *identity.Identity
	stop func()
	anna identity.Caller
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, dir: t.TempDir(), o: newOthers()}
	l.start()
	token, _, err := l.id.Claim(t.Context(), identity.Caller{}, "")
	if err != nil {
		t.Fatal(err)
	}
	_, v, err := l.id.MakeFirstOwner(t.Context(), api.AccountRequest{Name: "Anna", Password: "correct horse battery"}, identity.Caller{}, token)
	if err != nil {
		t.Fatal(err)
	}
	l.anna = identity.Caller{Person: *v.Person, Place: "192.168.1.7"}
	l.s.Reconcile(t.Context(), l.o.box())
	return l
}

// start starts what core has, as it does at its start.
func (l *lab) start() {
	l.t.Helper()
	ctx := context.Background()
	db, err := state.Open(ctx, l.dir, quiet)
	if err != nil {
		l.t.Fatal(err)
	}
	l.id, err = identity.Open(ctx, identity.Config{DB: db, Log: quiet, Now: time.Now})
	if err != nil {
		l.t.Fatal(err)
	}
	c := &http.Client{Transport: l.o}
	l.s, err = Open(ctx, Options{DB: db, Identity: l.id, Log: quiet, Now: time.Now, Init: c, Network: c, Discovery: c, Updater: c, Witness: c})
	if err != nil {
		l.t.Fatal(err)
	}
	var once sync.Once
	l.stop = func() { once.Do(func() { db.Close() }) }
}

func (l *lab) restart() {
	l.stop()
	l.start()
}

func (l *lab) doc() api.Config {
	l.t.Helper()
	c, err := l.s.Document()
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (l *lab) change(f func(*api.Config)) api.ConfigResult {
	l.t.Helper()
	c := l.doc()
	tag := ETag(c)
	f(&c)
	r, err := l.s.Change(l.t.Context(), l.anna, tag, c)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *lab) changes() []api.ConfigChange {
	l.t.Helper()
	all, err := l.s.Changes(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}

// audit are the latest actions, newest first.
func (l *lab) audit(n int) (actions []string) {
	l.t.Helper()
	list, err := l.id.Audit(l.t.Context(), "", n)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range list.Items {
		s := e.Action
		if f := e.Args["fields"]; f != "" {
			s += " " + f
		}
		if e.Who == "" {
			s += " by itself"
		}
		actions = append(actions, s)
	}
	return actions
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// run runs a test with made-up time on a lab.
func run(t *testing.T, f func(t *testing.T, l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer func() { l.stop() }()
		f(t, l)
	})
}

var static = api.NetConfig{Interfaces: map[string]api.StaticConfig{
	"eth0": {Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}, Gateway: netip.MustParseAddr("10.0.0.1")},
}}

func tryStatic(c *api.Config) { c.Network = static }

func TestChange(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		before := l.doc()
		l.o.tell()
		r := l.change(func(c *api.Config) {
			c.Name, c.TimeZone = "Hut", "Europe/Berlin"
			c.People = append(c.People, api.ConfigPerson{Name: "Ben", Role: api.RoleMember})
		})
		equal(t, "document", r.Config, api.Config{
			Format: api.ConfigFormat, Name: "hut", TimeZone: "Europe/Berlin",
			People: []api.ConfigPerson{{Name: "Anna", Role: "owner"}, {Name: "Ben", Role: "member"}},
		})
		equal(t, "differences", len(r.Differences), 3)
		equal(t, "told", l.o.tell(), []string{
			"PUT discovery/v1/discovery/name", "PUT init/v1/name", "PUT network/v1/network/name", "PUT updater/v1/policy",
		})
		equal(t, "audit", l.audit(2), []string{"config-changed name,people,time_zone", "account-made"})
		for _, p := range l.id.People() {
			if p.HasPassword != (p.Name == "Anna") {
				t.Errorf("%+v", p)
			}
		}
		if _, err := l.s.Change(t.Context(), l.anna, ETag(before), before); !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
		l.restart()
		equal(t, "after a restart", l.doc(), r.Config)
		all := l.changes()
		if len(all) != 1 || all[0].By != "Anna" || all[0].CanUndo { // Ben would have to go
			t.Errorf("%+v", all)
		}
		r = l.change(func(*api.Config) {})
		if len(r.Differences) != 0 || len(l.changes()) != 1 {
			t.Errorf("a change of nothing: %+v, %+v", r, l.changes())
		}
	})
}

// Nobody who is missing is removed, and nothing of a refused document is taken over.
func TestPeople(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		l.change(func(c *api.Config) { c.People = nil })
		equal(t, "people", len(l.id.People()), 1)
		before := l.doc()
		c := before
		c.Name, c.Network = "other", static
		c.People = []api.ConfigPerson{{Name: "Anna", Role: api.RoleMember}, {Name: "Ben", Role: api.RoleOwner}}
		if _, err := l.s.Change(t.Context(), l.anna, ETag(before), c); !errors.Is(err, identity.ErrLastOwner) {
			t.Errorf("the last owner who can sign in: %v", err)
		}
		equal(t, "document", l.doc(), before)
		if l.s.Trial() != nil || l.o.box().Network.Trial != nil {
			t.Error("the network is tried all the same")
		}
		check, err := l.s.Check(t.Context(), encode(c))
		if err != nil || len(check.Problems) != 1 || check.Problems[0].Code != "last-owner" {
			t.Errorf("%+v, %v", check, err)
		}
		c = before
		c.People = append(slices.Clone(c.People), api.ConfigPerson{Name: "a\u0000b", Role: api.RoleMember})
		var invalid *identity.InvalidError
		if _, err := l.s.Change(t.Context(), l.anna, ETag(before), c); !errors.As(err, &invalid) || invalid.Fields[0].Path != "/people/1/name" {
			t.Error(err)
		}
		c.People = []api.ConfigPerson{{Name: "Ben", Role: api.RoleMember}}
		check, err = l.s.Check(t.Context(), encode(c))
		if err != nil || len(check.Problems) != 0 || len(check.Differences) != 1 || check.Differences[0].Path != "/people/Ben" {
			t.Errorf("%+v, %v", check, err)
		}
		equal(t, "people after checks", len(l.id.People()), 1)
	})
}

// What set-up notes beside a field is kept with it, or neither is.
func TestSet(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		before := l.doc()
		name := func(to string) func(*api.Config) { return func(c *api.Config) { c.Name = to } }
		broken := errors.New("broken")
		err := l.s.Set(t.Context(), l.anna, name("hut"), func(ctx context.Context, tx *sql.Tx) error {
			return errors.Join(put(ctx, tx, "beside", "1"), broken)
		})
		if !errors.Is(err, broken) {
			t.Error(err)
		}
		equal(t, "nothing changed", l.doc(), before)
		equal(t, "nobody was told", l.o.tell(), []string(nil))
		beside := func(ctx context.Context, tx *sql.Tx) error { return put(ctx, tx, "beside", "2") }
		for _, to := range []string{"hut", "hut"} { // the second time there is nothing else to change
			if err := l.s.Set(t.Context(), l.anna, name(to), beside); err != nil {
				t.Fatal(err)
			}
			var value string
			err := l.s.DB.SQL().QueryRow("DELETE FROM settings WHERE key = 'beside' RETURNING value").Scan(&value)
			if l.doc().Name != to || err != nil || value != "2" {
				t.Errorf("%s, %q, %v", l.doc().Name, value, err)
			}
		}
	})
}

func TestUndo(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		l.change(func(c *api.Config) { c.People = append(c.People, api.ConfigPerson{Name: "Ben", Role: api.RoleMember}) })
		l.change(func(c *api.Config) { c.Name = "hut" })
		l.change(func(c *api.Config) { c.TimeZone = "UTC"; c.People[1].Role = api.RoleOwner })
		l.change(func(c *api.Config) { c.Name = "barn" })
		can := func() (out []bool) {
			for _, c := range l.changes() {
				out = append(out, c.CanUndo)
			}
			return out
		}
		equal(t, "can undo", can(), []bool{true, true, false, false})
		if _, err := l.s.Undo(t.Context(), l.anna, 2); !errors.Is(err, ErrCannotUndo) {
			t.Error(err)
		}
		if _, err := l.s.Undo(t.Context(), l.anna, 99); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		r, err := l.s.Undo(t.Context(), l.anna, 3)
		if err != nil || r.Config.TimeZone != "" || r.Config.People[1].Role != api.RoleMember || r.Config.Name != "barn" {
			t.Errorf("%+v, %v", r, err)
		}
		equal(t, "audit", l.audit(1), []string{"config-undone people,time_zone"})
		equal(t, "undoes", l.changes()[0].Undoes, int64(3))
		equal(t, "can undo", can(), []bool{true, true, false, false, false})
		if _, err := l.s.Undo(t.Context(), l.anna, 5); err != nil { // what was undone can be done again
			t.Error(err)
		}
		equal(t, "zone", l.doc().TimeZone, "UTC")
		// A person's role changes by other ways too.
		ben := l.id.People()[1]
		if _, err := l.id.ChangePerson(t.Context(), l.anna, ben.ID, api.PersonChange{Name: "Ben", Role: api.RoleMember}); err != nil {
			t.Fatal(err)
		}
		equal(t, "can undo", can()[:2], []bool{false, false})
		// The name goes back and is told.
		if _, err := l.s.Undo(t.Context(), l.anna, 4); err != nil {
			t.Error(err)
		}
		equal(t, "name", []string{l.o.box().System.Name, l.o.box().Discovery.Wanted, l.doc().Name}, []string{"hut", "hut", "hut"})
	})
}

func TestKeepNetwork(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		r := l.change(func(c *api.Config) { tryStatic(c); c.TimeZone = "UTC" })
		if r.Trial == nil || r.Trial.LeftMS != api.TrialTime.Milliseconds() || !sameNetwork(r.Trial.Config, static) {
			t.Fatalf("%+v", r.Trial)
		}
		equal(t, "not kept yet", l.doc().Network, api.NetConfig{})
		equal(t, "the rest holds", l.doc().TimeZone, "UTC")
		c := l.doc()
		tag := ETag(c)
		c.Network.NTP = []string{"a"}
		if _, err := l.s.Change(t.Context(), l.anna, tag, c); !errors.Is(err, ErrTrialRunning) {
			t.Error(err)
		}
		l.s.Reconcile(t.Context(), l.o.box()) // must not mind
		if err := l.s.KeepNetwork(t.Context(), l.anna); err != nil {
			t.Fatal(err)
		}
		equal(t, "kept", l.doc().Network, static)
		equal(t, "used", l.o.box().Network.Config, static)
		equal(t, "audit", l.audit(3), []string{"network-kept network", "config-changed time_zone", "network-tried network"})
		if err := l.s.KeepNetwork(t.Context(), l.anna); !errors.Is(err, ErrNoTrial) {
			t.Error(err)
		}
		l.restart()
		equal(t, "after a restart", l.doc().Network, static)
		// Taking it back is a trial too.
		r, err := l.s.Undo(t.Context(), l.anna, l.changes()[0].ID)
		if err != nil || r.Trial == nil {
			t.Fatalf("%+v, %v", r, err)
		}
		if err := l.s.KeepNetwork(t.Context(), l.anna); err != nil {
			t.Fatal(err)
		}
		equal(t, "back", l.doc().Network, api.NetConfig{})
		equal(t, "undoes", l.changes()[0].Undoes, l.changes()[1].ID)
	})
}

func TestTrialEnds(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, l *lab){
		"by itself":    func(_ *testing.T, _ *lab) { time.Sleep(api.TrialTime) },
		"core ends":    func(_ *testing.T, l *lab) { l.restart() },
		"network does": func(_ *testing.T, l *lab) { time.Sleep(trialGrace + 1); l.o.set(func(o *others) { o.trial = nil }) },
		"by hand": func(t *testing.T, l *lab) {
			if err := l.s.RevertNetwork(t.Context(), l.anna); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, l *lab) {
				l.change(tryStatic)
				end(t, l)
				if err := l.s.KeepNetwork(t.Context(), l.anna); !errors.Is(err, ErrNoTrial) {
					t.Errorf("keep: %v", err)
				}
				l.s.Reconcile(t.Context(), l.o.box())
				if n := l.o.box().Network; n.Trial != nil || !sameNetwork(n.Config, api.NetConfig{}) {
					t.Errorf("%+v", n)
				}
				equal(t, "document", l.doc().Network, api.NetConfig{})
				equal(t, "changes", len(l.changes()), 0)
				want := map[string]string{
					"by itself": "network-reverted by itself", "network does": "network-reverted by itself",
					"by hand": "network-reverted", "core ends": "network-tried network",
				}
				equal(t, "audit", l.audit(1), []string{want[name]})
				l.change(tryStatic) // and it can be tried again
			})
		})
	}
}

// A trial can be taken back on a disk that takes no writes: what is told is what happened.
func TestRevertOnFullDisk(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		l.change(tryStatic)
		if _, err := l.s.DB.SQL().Exec("PRAGMA query_only=ON"); err != nil {
			t.Fatal(err)
		}
		if err := l.s.RevertNetwork(t.Context(), l.anna); err != nil {
			t.Error(err)
		}
		if n := l.o.box().Network; n.Trial != nil {
			t.Errorf("%+v", n)
		}
	})
}

// Between the question whether the trial still runs and the answer to keep it, the trial can end.
func TestKeepAtTheLastMoment(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		l.change(tryStatic)
		l.s.Network = &http.Client{Transport: endsOnKeep{l.o}}
		if err := l.s.KeepNetwork(t.Context(), l.anna); err != nil {
			t.Fatal(err)
		}
		equal(t, "used", l.o.box().Network.Config, static)
	})
}

type endsOnKeep struct{ *others }

func (e endsOnKeep) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		e.set(func(o *others) { o.trial = nil })
	}
	return e.others.RoundTrip(r)
}

func TestTrialRefused(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		before := l.doc()
		c := before
		c.Name, c.Network = "hut", static
		l.o.set(func(o *others) { o.refuse = true })
		if _, err := l.s.Change(t.Context(), l.anna, ETag(before), c); !errors.Is(err, ErrNetwork) {
			t.Error(err)
		}
		l.o.set(func(o *others) { o.down["network"] = true })
		if _, err := l.s.Change(t.Context(), l.anna, ETag(before), c); !errors.Is(err, ErrStarting) {
			t.Error(err)
		}
		equal(t, "document", l.doc(), before)
	})
}

// What the database does not know is taken over, once.
func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, dir: t.TempDir(), o: newOthers()}
		l.o.name, l.o.wanted, l.o.net = "hut", "hut", static
		l.o.down["network"] = true
		l.start()
		defer func() { l.stop() }()
		l.s.Reconcile(t.Context(), l.o.box())
		if _, err := l.s.Document(); !errors.Is(err, ErrStarting) {
			t.Error(err)
		}
		equal(t, "name", l.s.Name(), "hut")
		l.o.set(func(o *others) { o.down["network"] = false })
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "network", l.doc().Network, static)
		if told := l.o.tell(); len(told) > 0 {
			t.Errorf("told %q", told)
		}
		l.restart()
		equal(t, "network after a restart", l.doc().Network, static)
	})
}

// Whoever does not follow is told again, ever more rarely.
func TestReconcile(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		l.o.set(func(o *others) { o.down["init"], o.down["discovery"] = true, true })
		l.change(func(c *api.Config) { c.Name = "hut" }) // acknowledged all the same
		l.o.tell()
		l.o.set(func(o *others) { o.down["init"] = false; o.net = static })
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "told", l.o.tell(), []string{"PUT network/v1/network/config"}) // init was told just before
		time.Sleep(firstWait)
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "told", l.o.tell(), []string{"PUT init/v1/name", "PUT network/v1/network/name"})
		l.o.set(func(o *others) { o.down["discovery"] = false })
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "told", l.o.tell(), []string{"PUT discovery/v1/discovery/name"})
		equal(t, "box", []string{l.o.box().System.Name, l.o.box().Discovery.Wanted}, []string{"hut", "hut"})
		for range 4 * 60 {
			time.Sleep(15 * time.Second)
			l.s.Reconcile(t.Context(), l.o.box())
		}
		equal(t, "told while all follow", len(l.o.tell()), 0)
		tries := 0
		for range 24 * 60 * 4 {
			time.Sleep(15 * time.Second)
			l.o.set(func(o *others) { o.wanted = "stubborn" })
			l.s.Reconcile(t.Context(), l.o.box())
			tries += len(l.o.tell())
		}
		if tries < 24*6-1 || tries > 24*6+10 {
			t.Errorf("told %d times in a day", tries)
		}
	})
}

func TestChangesAreBounded(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		for i := range maxChanges + 10 {
			l.change(func(c *api.Config) { c.TimeZone = []string{"UTC", ""}[i%2] })
		}
		all := l.changes()
		if len(all) != maxChanges || all[0].ID != maxChanges+10 {
			t.Errorf("%d changes, the newest %d", len(all), all[0].ID)
		}
	})
}
