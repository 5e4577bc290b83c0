package core

import (
	"strings"
	"testing"
)

func TestNormaliseCode(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		ok       bool
	}{
		{"7K3M-Q9XA", "7K3MQ9XA", true},
		{" 7k3m q9xa\n", "7K3MQ9XA", true},
		{"7k3m–q9xa", "7K3MQ9XA", true}, // a dash that a phone made longer
		{"oOiIlL00", "00111100", true},
		{"7K3MQ9X", "", false},
		{"7K3MQ9XAB", "", false},
		{"7K3MQ9XU", "", false},
		{"7K3MQ9X!", "", false},
		{"7K3MQ9XÄ", "", false},
		{"", "", false},
		{strings.Repeat("-", codeInput) + "7K3MQ9XA", "", false},
	} {
		got, ok := normaliseCode(tt.in)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q: %q %v, want %q %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzNormaliseCode(f *testing.F) {
	for _, s := range []string{"7K3M-Q9XA", "oil oil oi", "", "\xff\xfe", "７Ｋ３Ｍ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code, ok := normaliseCode(s)
		if !ok {
			return
		}
		if strings.Trim(code, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") != "" || len(code) != codeLen {
			t.Fatalf("%q became %q", s, code)
		}
		for _, same := range []string{code, strings.ToLower(code), code[:4] + "-" + code[4:], " " + code + " "} {
			if again, ok := normaliseCode(same); !ok || !sameCode(again, code) {
				t.Fatalf("%q: %q is no fixed point", s, same)
			}
		}
	})
}
