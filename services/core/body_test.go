package core

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

type bodyType struct {
	Text string       `json:"text"`
	Num  int8         `json:"num,omitempty"`
	Yes  bool         `json:"yes,omitempty"`
	List []string     `json:"list,omitempty"`
	At   time.Time    `json:"at,omitzero"`
	Addr netip.Prefix `json:"addr,omitzero"`
	Deep *struct {
		A []string `json:"A"`
	} `json:"a/b~c,omitempty"`
}

func TestUnmarshal(t *testing.T) {
	for _, tt := range []struct {
		body string
		want string // path and code of each problem; "error" if it is not read at all
	}{
		{`{"text":"a","num":-128,"yes":true,"list":["x"],"at":"2026-11-21T10:00:00Z","addr":"10.0.0.1/8"}`, ""},
		{` {"text":""} `, ""},
		{`{}`, "/text missing"},
		{`{"Text":"a"}`, "/Text unknown, /text missing"},
		{`{"text":"a","text":"b"}`, "/text duplicate"},
		{`{"text":"a","x~/":{"y":[{"y":1,"y":2}]}}`, "/x~0~1 unknown, /x~0~1/y/0/y duplicate"},
		{`{"text":null}`, "/text type"},
		{`{"text":7}`, "/text type"},
		{`{"text":["a"]}`, "/text type"},
		{`{"text":{"a":1}}`, "/text type"},
		{`{"text":"\ud800"}`, "/text format"},
		{`{"text":"a","num":128}`, "/num range"},
		{`{"text":"a","num":1e99999}`, "/num type"},
		{`{"text":"a","num":1.5}`, "/num type"},
		{`{"text":"a","num":"1"}`, "/num type"},
		{`{"text":"a","yes":1}`, "/yes type"},
		{`{"text":"a","list":[1,"b",null]}`, "/list/0 type, /list/2 type"},
		{`{"text":"a","list":"b"}`, "/list type"},
		{`{"text":"a","at":"yesterday"}`, "/at format"},
		{`{"text":"a","addr":"10.0.0.1"}`, "/addr format"},
		{`{"text":"a","a/b~c":{"A":["x",2]}}`, "/a~1b~0c/A/1 type"},
		{`[]`, " type"},
		{`"text"`, " type"},
		{`null`, " type"},
		{``, "error"},
		{`{"text":"a"`, "error"},
		{`{"text":"a"}}`, "error"},
		{`{"text":"a"} {}`, "error"},
		{`{"text":"a"}x`, "error"},
		{`{"text":"` + "\xff" + `"}`, "error"},
		{`{"text":"a",}`, "error"},
		{`{"text":01}`, "error"},
		{`{'text':'a'}`, "error"},
		{strings.Repeat("[", 2000) + strings.Repeat("]", 2000), "error"},
		{strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300), "error"},
	} {
		var v bodyType
		wrong, err := unmarshal([]byte(tt.body), &v)
		var got []string
		for _, p := range wrong {
			got = append(got, p.Path+" "+p.Code)
			if p.Text == "" {
				t.Errorf("%.40s: no text for %s", tt.body, p.Path)
			}
		}
		if err != nil {
			got = []string{"error"}
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%.60s: %q, want %q (%v)", tt.body, s, tt.want, err)
		}
		if tt.want != "" && !reflect.ValueOf(v).IsZero() {
			t.Errorf("%.60s: refused, but %+v was set", tt.body, v)
		}
	}
	wrong, err := unmarshal([]byte(`{"text":"a","list":[`+strings.Repeat("1,", 500)+`1]}`), new(bodyType))
	if err != nil || len(wrong) != maxWrong {
		t.Errorf("%d problems, %v", len(wrong), err)
	}
}

// What is accepted, encoding/json reads as well, and writes out again as something that is accepted and the same.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{"text":"a","num":-128,"yes":true,"list":["x"],"at":"2026-11-21T10:00:00Z","addr":"10.0.0.1/8","a/b~c":{"A":[]}}`,
		`{"text":"\ud800"}`, `{"text":"a","text":"b"}`, `[[[[`, `{"text":1e999}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v, again bodyType
		wrong, err := unmarshal(b, &v)
		if err != nil || len(wrong) > 0 {
			return
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if wrong, err := unmarshal(out, &again); err != nil || len(wrong) > 0 {
			t.Fatalf("%q became %q: %v %v", b, out, wrong, err)
		}
		if back, _ := json.Marshal(again); string(back) != string(out) {
			t.Fatalf("%q became %q, then %q", b, out, back)
		}
	})
}

// Every body of the API can be checked against its type.
func TestBodyTypes(t *testing.T) {
	for _, v := range []any{
		api.ClaimRequest{},
		api.SessionRequest{},
		api.RecoverRequest{},
		api.JoinRequest{},
		api.NameRequest{},
		api.AccountRequest{},
		api.ZoneRequest{},
		api.PersonChange{},
		api.PasswordChange{},
		api.PasswordRequest{},
		api.SecondFactorCode{},
		api.TokenRequest{},
		api.InviteRequest{},
		api.PowerRequest{},
		api.RescueRequest{},
		api.StartOverRequest{},
		api.UndoRequest{},
	} {
		for f := range reflect.TypeOf(v).Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == "" || name == "-" || f.Anonymous {
				t.Errorf("%T.%s has no name of its own", v, f.Name)
			}
		}
	}
}
