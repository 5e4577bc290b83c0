package identity

import (
	"strings"
	"testing"
)

func TestCheckPassword(t *testing.T) {
	for password, code := range map[string]string{
		"":                              "password-short",
		"1234567":                       "password-short",
		"äöüäöüä":                       "password-short", // 7 characters in 14 bytes
		"        ":                      "password-common",
		"password":                      "password-common",
		"PassWord1":                     "password-common",
		"12345678":                      "password-common",
		"zzzzzzzzzzzz":                  "password-common",
		"abcdefghijkl":                  "password-common",
		"987654321":                     "password-common",
		"farmhouse":                     "password-common",
		"Farmhouse2026!":                "password-common",
		"ada lovelace":                  "password-common",
		"croft123":                      "password-common",
		strings.Repeat("xy", 129):       "password-long",
		"\xff\xfe\xfd\xfc\xfb\xfa\xf9z": "format",
		right:                           "",
		"äöüßäöü7":                      "",
		"correct lovelace":              "",
		"ffffarmhouse":                  "",
		strings.Repeat("xy", 128):       "",
		"🐑🐑🐐🐑🐄🐑🐖🐑":                      "",
	} {
		err := checkPassword("/password", password, "farmhouse", "Ada Lovelace")
		if code == "" && err != nil {
			t.Errorf("%q: %v", password, err)
		} else if code != "" {
			wantField(t, err, "/password", code)
		}
	}
}

// TestNormalised sees that a password typed on another keyboard is the same one: RFC 8265, section 4.2.
func TestNormalised(t *testing.T) {
	h := newHasher(cheap)
	stored, err := h.make(t.Context(), "Käsekuchen mit Äpfeln")
	if err != nil {
		t.Fatal(err)
	}
	if ok, _, err := h.verify(t.Context(), "Ka\u0308sekuchen mit A\u0308pfeln", stored); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

// TestKnownHash is a hash that the reference implementation makes (RFC 9106; phc-winner-argon2, test.c).
func TestKnownHash(t *testing.T) {
	const stored = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	h := newHasher(cheap)
	if ok, stale, err := h.verify(t.Context(), "password", stored); !ok || !stale || err != nil {
		t.Errorf("%v %v %v", ok, stale, err)
	}
	if ok, _, err := h.verify(t.Context(), "passwore", stored); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

// TestCurrentHash computes one hash as it is computed on the box.
func TestCurrentHash(t *testing.T) {
	h := newHasher(current)
	stored, err := h.make(t.Context(), right)
	if err != nil || !strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("%q %v", stored, err)
	}
	if ok, stale, err := h.verify(t.Context(), right, stored); !ok || stale || err != nil {
		t.Errorf("%v %v %v", ok, stale, err)
	}
}

func FuzzPHC(f *testing.F) {
	for _, s := range []string{
		"", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=4294967295,t=4294967295,p=255$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=0,t=0,p=0$$", "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$AAAA", "$$$$$$$",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if !h.sane() || h.String() != s {
			t.Errorf("%q became %q", s, h)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"Ada", " Zoë  🐑 ", "\xff", "a\u202eb", strings.Repeat("ﷺ", 40), "ſ", "İ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := cleanName("/name", s)
		if err != nil {
			return
		}
		key, err := nameKey(name)
		if err != nil || key == "" {
			t.Fatalf("%q is a name without a key: %v", name, err)
		}
		if again, err := cleanName("/name", name); err != nil || again != name {
			t.Errorf("%q became %q: %v", name, again, err)
		}
		if strings.ContainsAny(name, "\x00\r\n\x1b") {
			t.Errorf("%q", name)
		}
	})
}

func FuzzCode(f *testing.F) {
	for _, s := range []string{"", "0000-0000-0000", "oil1-oil1-oil1", "ABCD\u2013EFGH JKMN", "123 456", "\xff", "U000-0000-0000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code, ok := NormaliseCode(s, codeLen)
		if ok != (hashCode(s) != nil) {
			t.Error("a code without a hash")
		}
		if !ok {
			return
		}
		for _, r := range code {
			if !strings.ContainsRune(alphabet, r) {
				t.Errorf("%q became %q", s, code)
			}
		}
		if again, ok := NormaliseCode(code, codeLen); !ok || again != code {
			t.Errorf("%q became %q", code, again)
		}
	})
}

func FuzzDevice(f *testing.F) {
	f.Add(phone.Agent)
	f.Add("<script>")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Device(s) {
			if r != ' ' && r != ',' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
				t.Errorf("%q became %q", s, Device(s))
			}
		}
	})
}

func TestNewCode(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		c := newCode()
		if n, ok := NormaliseCode(c, codeLen); !ok || len(c) != 14 || seen[n] {
			t.Errorf("%q", c)
		}
		seen[c] = true
	}
}

func TestCodesAsPeopleTypeThem(t *testing.T) {
	for _, s := range []string{
		"7K3M-Q9XA", " 7k3m q9xa\n", "7k3m–q9xa", "7K3M\u00a0Q9XA", "７Ｋ３Ｍ－Ｑ９ＸＡ", "\u200e7k3mq9xa\u200f", "\ufeff7k3mq9xa",
	} {
		if code, ok := NormaliseCode(s, 8); !ok || code != "7K3MQ9XA" {
			t.Errorf("%q became %q", s, code)
		}
	}
	for _, s := range []string{"123 456", "123-456", "１２３ ４５６"} {
		if d := digits(s); d != "123456" {
			t.Errorf("%q became %q", s, d)
		}
	}
	for _, s := range []string{"", "７Ｋ３Ｍ", "7K3MQ9XAA", "7K3M_Q9XA", "７Ｋ３ＭＱ９ＸＵ", "7K3M😀Q9XA"} {
		if code, ok := NormaliseCode(s, 8); ok {
			t.Errorf("%q became %q", s, code)
		}
	}
}
