package config

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/croft-os/croft/services/api"
)

// logKey is the verifier key of a log.
func logKey(t testing.TB, origin string) string {
	t.Helper()
	key, err := note.NewEd25519VerifierKey(origin, ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestWitnessPart(t *testing.T) {
	key, other := logKey(t, "example.org/log"), logKey(t, "example.org/other")
	with := func(part string) string {
		part = strings.ReplaceAll(strings.ReplaceAll(part, "KEY", key), "OTHER", other)
		return `{"format":"croft-config/1","name":"croft","time_zone":"","network":{},"people":[],"witness":` + part + `}`
	}
	for _, tt := range []struct {
		part string
		want api.WitnessConfig
	}{
		{`{"name":"","logs":[]}`, api.WitnessConfig{}},
		{`{"name":"w.example","logs":["KEY"]}`, api.WitnessConfig{Name: "w.example", Logs: []string{key}}},
		{`{"name":"Küche/1","logs":[" KEY\n","OTHER"]}`, api.WitnessConfig{Name: "Küche/1", Logs: []string{key, other}}},
	} {
		c, err := Parse([]byte(with(strings.ReplaceAll(tt.part, "\n", `\n`))))
		if err != nil {
			t.Errorf("%s: %v", tt.part, err)
		}
		equal(t, tt.part, c.Witness, tt.want)
		again, err := Parse(encode(c))
		if err != nil || ETag(again) != ETag(c) {
			t.Errorf("%s: what is sent is not read back: %+v, %v", tt.part, again, err)
		}
		if said := strings.Contains(string(encode(c)), `"witness"`); said != c.Witness.On() {
			t.Errorf("%s becomes %s", tt.part, encode(c))
		}
	}
	for part, want := range map[string]string{
		`[]`:                                  "type /witness",
		`{}`:                                  "missing /witness/name",
		`{"name":"w"}`:                        "missing /witness/logs",
		`{"name":"w","logs":[]}`:              "missing /witness/logs",
		`{"name":"","logs":["KEY"]}`:          "missing /witness/name",
		`{"name":"a b","logs":["KEY"]}`:       "format /witness/name",
		`{"name":"a+b","logs":["KEY"]}`:       "format /witness/name",
		`{"name":"a\u0000","logs":["KEY"]}`:   "format /witness/name",
		`{"name":"w","logs":"KEY"}`:           "type /witness/logs",
		`{"name":"w","logs":[1]}`:             "type /witness/logs/0",
		`{"name":"w","logs":["example.org"]}`: "format /witness/logs/0",
		`{"name":"w","logs":["KEY","KEYx"]}`:  "format /witness/logs/1",
		`{"name":"w","logs":["KEY","KEY"]}`:   "duplicate /witness/logs/1",
		`{"name":"w","logs":["KEY"],"key":0}`: "unknown /witness/key",
		`{"name":"` + strings.Repeat("w", 101) + `","logs":["KEY"]}`:                    "too-long /witness/name",
		`{"name":"w","logs":["` + strings.Repeat("w", 1025) + `"]}`:                     "too-long /witness/logs/0",
		`{"name":"w","logs":[` + strings.Repeat(`"KEY",`, maxWitnessLogs) + `"OTHER"]}`: "too-long /witness/logs",
	} {
		_, err := Parse([]byte(with(part)))
		p, _ := err.(Problems)
		if len(p) == 0 || p[0].Code+" "+p[0].Path != want {
			t.Errorf("%s: %v, want %s", part, err, want)
		}
	}
}

// The witness is told at once, and again after it or core has forgotten.
func TestWitnessFollows(t *testing.T) {
	run(t, func(t *testing.T, l *lab) {
		l.o.tell()
		want := api.WitnessConfig{Name: "w", Logs: []string{logKey(t, "example.org/log")}}
		r := l.change(func(c *api.Config) { c.Witness = want })
		if len(r.Differences) != 1 || r.Differences[0].Path != "/witness" {
			t.Errorf("%+v", r.Differences)
		}
		equal(t, "told", l.o.tell(), []string{"PUT witness/v1/config"})
		equal(t, "audit", l.audit(1), []string{"config-changed witness"})
		equal(t, "the witness has", l.o.watch, want)

		l.o.set(func(o *others) { o.watch = api.WitnessConfig{} })
		l.restart()
		equal(t, "kept", l.doc().Witness, want)
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "the witness that forgot has", l.o.watch, want)
		l.o.tell()
		time.Sleep(time.Minute)
		l.s.Reconcile(t.Context(), l.o.box())
		equal(t, "told a witness that follows", len(l.o.tell()), 0)

		if _, err := l.s.Undo(t.Context(), l.anna, l.changes()[0].ID); err != nil {
			t.Fatal(err)
		}
		equal(t, "undone", l.doc().Witness, api.WitnessConfig{})
		equal(t, "the witness has", l.o.watch, api.WitnessConfig{})
	})
}
