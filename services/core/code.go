package core

import (
	"crypto/subtle"
	"unicode"
)

const (
	codeLen   = 8  // symbols: 40 bits
	codeInput = 64 // longest input looked at, in bytes
)

// normaliseCode brings a claim code as a person typed it into one form: Crockford's base 32
// (https://www.crockford.com/base32.html), upper case, O read as 0, I and L as 1, blanks and dashes of any kind left
// out. ok is false if it can't be a code.
func normaliseCode(s string) (code string, ok bool) {
	if len(s) > codeInput {
		return "", false
	}
	b := make([]byte, 0, codeLen)
	for _, r := range s {
		switch {
		case unicode.IsSpace(r) || unicode.Is(unicode.Pd, r):
			continue
		case r >= 'a' && r <= 'z':
			r -= 'a' - 'A'
		}
		switch r {
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		case 'U':
			return "", false // not in the alphabet
		}
		if (r < '0' || r > '9') && (r < 'A' || r > 'Z') || len(b) == codeLen {
			return "", false
		}
		b = append(b, byte(r))
	}
	return string(b), len(b) == codeLen
}

// sameCode compares two normalised codes in constant time.
func sameCode(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
