package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"unicode"
)

const (
	alphabet  = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford's base 32
	codeLen   = 12                                 // symbols of an invitation and of a recovery code: 60 bits
	codeInput = 64                                 // longest input looked at, in bytes
)

// newCode returns a random code as it is shown: "XXXX-XXXX-XXXX".
func newCode() string {
	var r [codeLen]byte
	rand.Read(r[:])
	b := make([]byte, 0, codeLen+2)
	for i, v := range r {
		if i > 0 && i%4 == 0 {
			b = append(b, '-')
		}
		b = append(b, alphabet[v%32])
	}
	return string(b)
}

// NormaliseCode brings a code of n symbols as a person typed it into one form: Crockford's base 32
// (https://www.crockford.com/base32.html), upper case, O read as 0, I and L as 1, blanks and dashes of any kind left
// out, and so is what else can't be seen. ok is false if it can't be a code.
func NormaliseCode(s string, n int) (code string, ok bool) {
	if len(s) > codeInput {
		return "", false
	}
	b := make([]byte, 0, n)
	for _, r := range s {
		if r = plain(r); r < 0 {
			continue
		}
		if r >= 'a' && r <= 'z' {
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
		if (r < '0' || r > '9') && (r < 'A' || r > 'Z') || len(b) == n {
			return "", false
		}
		b = append(b, byte(r))
	}
	return string(b), len(b) == n
}

// plain makes a letter or digit of full width, as keyboards for Chinese and Japanese type them, an ordinary one. It
// returns -1 for what people and clipboards put between them: blanks, dashes, marks of direction.
func plain(r rune) rune {
	if r >= '！' && r <= '～' {
		r -= '！' - '!'
	}
	if unicode.In(r, unicode.White_Space, unicode.Pd, unicode.Cf) {
		return -1
	}
	return r
}

// hashCode returns how a code is kept, or nil if it can't be one. What is looked up is the hash, so that how long it takes
// says nothing about the code.
func hashCode(s string) []byte {
	code, ok := NormaliseCode(s, codeLen)
	if !ok {
		return nil
	}
	h := sha256.Sum256([]byte(code))
	return h[:]
}
