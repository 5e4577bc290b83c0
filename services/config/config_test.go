package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/croft-os/croft/services/api"
)

// example is the one in docs/config.md.
func example(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "```json\n")
	text, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("docs/config.md has no example")
	}
	return text
}

func TestExample(t *testing.T) {
	c, err := Parse([]byte(example(t)))
	if err != nil {
		t.Fatal(err)
	}
	want := api.Config{
		Format: "croft-config/1", Name: "croft", TimeZone: "Europe/Berlin",
		Network: api.NetConfig{
			Interfaces: map[string]api.StaticConfig{"eth0": {
				Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.5/24"), netip.MustParsePrefix("fd00::5/64")},
				Gateway:   netip.MustParseAddr("192.168.1.1"),
				DNS:       []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("fe80::1%eth0")},
			}},
			NTP: []string{"ptbtime1.ptb.de", "192.168.1.1"},
		},
		People:  []api.ConfigPerson{{Name: "Anna", Role: "owner"}, {Name: "Ben", Role: "member"}},
		Updates: api.UpdatePolicy{Mode: "auto", From: "01:30", To: "04:30"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v", c)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(b); err != nil || ETag(again) != ETag(c) {
		t.Errorf("what is sent is not read back: %+v, %v", again, err)
	}
}

// change makes a document of the example with one text replaced.
func changed(t testing.TB, old, new string) string {
	t.Helper()
	s := example(t)
	if !strings.Contains(s, old) {
		t.Fatalf("the example has no %s", old)
	}
	return strings.Replace(s, old, new, 1)
}

func TestParseRefuses(t *testing.T) {
	anna := `{ "name": "Anna", "role": "owner" }`
	for _, tc := range []struct{ doc, want string }{
		{`{}`, "missing /format, missing /name, missing /time_zone, missing /network, missing /people"},
		{`[]`, "type "},
		{`{"format":"croft-config/2","colour":1}`, "format /format"},
		{changed(t, `"name": "croft"`, `"name": 5`), "type /name"},
		{changed(t, `"name": "croft"`, `"name": null`), "type /name"},
		{changed(t, `"name": "croft"`, `"name": ""`), "host-name /name"},
		{changed(t, `"name": "croft"`, `"name": "-croft"`), "host-name /name"},
		{changed(t, `"name": "croft"`, `"name": "my.croft"`), "host-name /name"},
		{changed(t, `"name": "croft"`, `"name": "häuschen"`), "host-name /name"},
		{changed(t, `"name": "croft"`, `"name": "LocalHost"`), "host-name /name"},
		{changed(t, `"name": "croft"`, `"name": "`+strings.Repeat("a", 64)+`"`), "host-name /name"},
		{changed(t, `"name": "croft",`, `"name": "croft", "name": "hut",`), "duplicate /name"},
		{changed(t, `"name": "croft"`, `"name": "croft", "Name": "hut"`), "unknown /Name"},
		{changed(t, `"name": "croft"`, `"name": "croft", "a/b~c": 1`), "unknown /a~1b~0c"},
		{changed(t, "Europe/Berlin", "Europe/Nowhere"), "time-zone /time_zone"},
		{changed(t, "Europe/Berlin", "Local"), "time-zone /time_zone"},
		{changed(t, "Europe/Berlin", "Europe"), "time-zone /time_zone"},
		{changed(t, "Europe/Berlin", "../../etc/passwd"), "time-zone /time_zone"},
		{changed(t, "Europe/Berlin", "/etc/localtime"), "time-zone /time_zone"},
		{changed(t, "192.168.1.5/24", "192.168.1.5"), "address /network/interfaces/eth0/addresses/0"},
		{changed(t, "192.168.1.5/24", "192.168.1.0/24"), "address /network/interfaces/eth0/addresses/0"},
		{changed(t, "fd00::5/64", "192.168.1.5/25"), "duplicate /network/interfaces/eth0/addresses/1"},
		{changed(t, `"192.168.1.5/24", "fd00::5/64"`, strings.Repeat(`"10.0.0.1/8",`, 64)+`"10.0.0.1/8"`), "too-long /network/interfaces/eth0/addresses"},
		{changed(t, `"addresses": ["192.168.1.5/24", "fd00::5/64"],`, ``), "missing /network/interfaces/eth0/addresses"},
		{changed(t, `"gateway": "192.168.1.1"`, `"gateway": "192.168.2.1"`), "gateway /network/interfaces/eth0/gateway"},
		{changed(t, `"gateway": "192.168.1.1"`, `"gateway": "192.168.1.5"`), "gateway /network/interfaces/eth0/gateway"},
		{changed(t, `"gateway": "192.168.1.1"`, `"gateway": "router"`), "address /network/interfaces/eth0/gateway"},
		{changed(t, `"fe80::1%eth0"`, `"0.0.0.0"`), "address /network/interfaces/eth0/dns/1"},
		{changed(t, `"eth0"`, `"eth0/../x"`), "format /network/interfaces/eth0~1..~1x"},
		{changed(t, `"ntp": [`, `"wifi": "secret", "ntp": [`), "unknown /network/wifi"},
		{changed(t, `"ptbtime1.ptb.de"`, `"not a host"`), "host-name /network/ntp/0"},
		{changed(t, `"ptbtime1.ptb.de"`, strings.Repeat(`"a",`, 8)+`"a"`), "too-long /network/ntp"},
		{changed(t, anna, `{ "name": "Anna", "role": "king" }`), "role /people/0/role"},
		{changed(t, anna, `{ "name": "Anna" }`), "missing /people/0/role"},
		{changed(t, anna, `{ "name": " ", "role": "owner" }`), "missing /people/0/name"},
		{changed(t, anna, `{ "name": "bEN ", "role": "owner" }`), "duplicate /people/1/name"},
		{changed(t, anna, `{ "name": "Anna", "role": "owner", "password": "x" }`), "unknown /people/0/password"},
		{changed(t, anna, strings.Repeat(anna+",", 200)+anna), "too-long /people"},
	} {
		_, err := Parse([]byte(tc.doc))
		var p Problems
		if !errors.As(err, &p) {
			t.Errorf("%s: %v, want %s", tc.doc, err, tc.want)
			continue
		}
		var got []string
		for _, f := range p {
			got = append(got, f.Code+" "+f.Path)
			if !slices.Contains(api.FieldCodes(), f.Code) || f.Text == "" {
				t.Errorf("%+v", f)
			}
		}
		if s := strings.Join(got, ", "); s != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.doc, s, tc.want)
		}
	}
}

func TestParseRefusesNoJSON(t *testing.T) {
	for name, doc := range map[string]string{
		"empty": "", "text": "croft", "cut": example(t)[:50], "two": example(t) + "{}", "comma": `{"format":"croft-config/1",}`,
		"large": changed(t, "croft\"", "croft\""+strings.Repeat(" ", MaxSize)),
		"deep":  strings.Repeat("[", 100_000),
		"bomb":  "[" + strings.Repeat("1,", 20_000) + "1]",
		"utf-8": changed(t, "croft\"", "cr\xffoft\""),
	} {
		if _, err := Parse([]byte(doc)); !errors.Is(err, ErrNotJSON) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example(f)))
	f.Add([]byte(`{"format":"croft-config/1","name":"a","time_zone":"","network":{"interfaces":{"*":{"addresses":[]}}},"people":[]}`))
	f.Add([]byte(`{"format":"croft-config/1","people":[{"name":"~1/","role":"owner"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			var p Problems
			if errors.As(err, &p) == errors.Is(err, ErrNotJSON) || errors.As(err, &p) && (len(p) == 0 || len(p) > maxProblems) {
				t.Fatalf("%#v", err)
			}
			return
		}
		again, err := Parse(encode(c))
		if err != nil || ETag(again) != ETag(c) || len(Differences(c, again)) != 0 {
			t.Fatalf("%s\n%v", encode(c), err)
		}
	})
}

func TestDifferences(t *testing.T) {
	before, err := Parse([]byte(example(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		doc  string
		want []string
	}{
		{example(t), nil},
		{changed(t, `"croft",`, `"CROFT",`), nil},
		{changed(t, `"croft",`, `"hut",`), []string{`/name "croft" "hut"`}},
		{changed(t, "Europe/Berlin", ""), []string{`/time_zone "Europe/Berlin" ""`}},
		{changed(t, `"eth0": {`, `"eth1": {`), []string{
			`/network/interfaces/eth0 {"addresses":["192.168.1.5/24","fd00::5/64"],"gateway":"192.168.1.1","dns":["192.168.1.1","fe80::1%eth0"]} `,
			`/network/interfaces/eth1  {"addresses":["192.168.1.5/24","fd00::5/64"],"gateway":"192.168.1.1","dns":["192.168.1.1","fe80::1%eth0"]}`,
		}},
		{changed(t, `"ntp": ["ptbtime1.ptb.de", "192.168.1.1"]`, `"ntp": []`), []string{`/network/ntp ["ptbtime1.ptb.de","192.168.1.1"] `}},
		{changed(t, `"Ben", "role": "member"`, `"Ben", "role": "owner"`), []string{
			`/people/Ben {"name":"Ben","role":"member"} {"name":"Ben","role":"owner"}`,
		}},
		{changed(t, `"Ben"`, `"ben"`), []string{`/people/Ben {"name":"Ben","role":"member"} {"name":"ben","role":"member"}`}},
		{changed(t, `"Ben"`, `"a/b"`), []string{`/people/a~1b  {"name":"a/b","role":"member"}`}}, // Ben stays
	} {
		after, err := Parse([]byte(tc.doc))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range Differences(before, after) {
			got = append(got, fmt.Sprintf("%s %s %s", d.Path, d.Before, d.After))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("got %q\nwant %q", got, tc.want)
		}
	}
}

// Whatever a change was, taking it back gives the document before, unless a person came by it.
func TestBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 7))
	some := func() api.Config {
		c := api.Config{
			Format: api.ConfigFormat, Name: []string{"croft", "hut"}[r.IntN(2)], TimeZone: []string{"", "UTC"}[r.IntN(2)],
			People: []api.ConfigPerson{{Name: "Anna", Role: api.RoleOwner}, {Name: "Ben", Role: []string{"owner", "member"}[r.IntN(2)]}},
		}
		for i := range r.IntN(3) {
			if c.Network.Interfaces == nil {
				c.Network.Interfaces = map[string]api.StaticConfig{}
			}
			c.Network.Interfaces[[]string{"eth0", "eth0.5", "*"}[r.IntN(3)]] = api.StaticConfig{
				Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.%d.1/24", i))},
			}
		}
		if r.IntN(2) == 0 {
			c.Network.NTP = []string{"a", "b"}[:1+r.IntN(2)]
		}
		return c
	}
	for range 500 {
		before, after := some(), some()
		got, ok := back(after, Differences(before, after))
		if !ok || ETag(got) != ETag(before) {
			t.Fatalf("%s\nthere %s\nback %s (%v)", encode(before), encode(after), encode(got), ok)
		}
		third := some()
		if _, ok := back(third, Differences(before, after)); ok {
			for _, d := range Differences(before, after) {
				if string(parts(third)[d.Path]) != string(d.After) {
					t.Fatalf("%s was taken back, but is not as it was left", d.Path)
				}
			}
		}
	}
	before, after := some(), some()
	after.People = append(after.People, api.ConfigPerson{Name: "Cleo", Role: api.RoleMember})
	if _, ok := back(after, Differences(before, after)); ok {
		t.Error("a person was removed")
	}
}
