package supervisor

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseMessage(t *testing.T) {
	for in, want := range map[string]message{
		"":                                   {},
		"READY=1":                            {ready: true},
		"READY=0\nWATCHDOG=1":                {watchdog: true},
		"READY=1\nSTATUS=a=b\nSTOPPING=1\n":  {ready: true, stopping: true, status: "a=b"},
		"STATUS=\x1b[2Jhi\u202e there\xff ":  {status: "[2Jhi  there\ufffd"},
		"MAINPID=1\nFDSTORE=1\nREADY":        {},
		"X_CONFINED={\"ok\":true}":           {confined: []byte(`{"ok":true}`)},
		"STATUS=" + strings.Repeat("ä", 500): {status: strings.Repeat("ä", maxStatus-1) + "…"},
	} {
		if got := parseMessage([]byte(in)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=fine"))
	f.Add([]byte("X_CONFINED={}\nWATCHDOG=1\n\n==\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parseMessage(b)
		if n := utf8.RuneCountInString(m.status); !utf8.ValidString(m.status) || n > maxStatus || strings.ContainsAny(m.status, "\n\r\x1b\x00") {
			t.Errorf("status %q", m.status)
		}
	})
}
