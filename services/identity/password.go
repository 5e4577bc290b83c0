package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

const (
	minPassword = 8   // characters
	maxPassword = 256 // bytes
	maxPHC      = 256 // bytes
)

// params are what argon2id costs.
type params struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// current is the least that OWASP's cheat sheet on password storage recommends: a quarter of a second and 19 MiB on the
// smallest board that Croft runs on.
var current = params{memory: 19 << 10, time: 2, threads: 1}

// sane bounds what a damaged hash may make the box compute.
func (p params) sane() bool {
	return p.memory >= 8 && p.memory <= 64<<10 && p.time >= 1 && p.time <= 16 && p.threads >= 1 && p.threads <= 4
}

// phc is a hash in the PHC string format, https://github.com/P-H-C/phc-string-format.
type phc struct {
	params
	salt, hash []byte
}

func (h phc) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, h.memory, h.time, h.threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.hash))
}

var errPHC = errors.New("not a password hash of this kind")

func parsePHC(s string) (h phc, err error) {
	f := strings.Split(s, "$")
	if len(s) > maxPHC || len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return h, errPHC
	}
	p := strings.Split(f[3], ",")
	if len(p) != 3 {
		return h, errPHC
	}
	var n [3]uint32
	for i, prefix := range []string{"m=", "t=", "p="} {
		v, ok := strings.CutPrefix(p[i], prefix)
		u, err := strconv.ParseUint(v, 10, 32)
		if !ok || err != nil || strconv.FormatUint(u, 10) != v {
			return h, errPHC
		}
		n[i] = uint32(u)
	}
	if n[2] > 255 {
		return h, errPHC
	}
	h.params = params{n[0], n[1], uint8(n[2])}
	b64 := base64.RawStdEncoding.Strict()
	h.salt, err = b64.DecodeString(f[4])
	if err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return h, errPHC
	}
	h.hash, err = b64.DecodeString(f[5])
	if err != nil || len(h.hash) < 16 || len(h.hash) > 64 || !h.sane() {
		return h, errPHC
	}
	return h, nil
}

// hasher computes hashes, one at a time: each takes as much memory as the rest of the process.
type hasher struct {
	params params
	turn   chan struct{}
	nobody phc          // to compare with where there is no password
	count  atomic.Int64 // of hashes computed
}

func newHasher(p params) *hasher {
	return &hasher{params: p, turn: make(chan struct{}, 1), nobody: phc{p, make([]byte, 16), make([]byte, 32)}}
}

func (h *hasher) compute(ctx context.Context, password string, p params, salt []byte, size int) ([]byte, error) {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-h.turn }()
	h.count.Add(1)
	k := argon2.IDKey([]byte(norm.NFC.String(password)), salt, p.time, p.memory, p.threads, uint32(size))
	debug.FreeOSMemory() // the memory would stay with the process for minutes
	return k, nil
}

// make returns the PHC string of a new password.
func (h *hasher) make(ctx context.Context, password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	k, err := h.compute(ctx, password, h.params, salt, 32)
	if err != nil {
		return "", err
	}
	return phc{h.params, salt, k}.String(), nil
}

// verify compares a password with a PHC string. It costs the same if there is none. stale says that the password fits, but
// that its hash should be made anew.
func (h *hasher) verify(ctx context.Context, password, stored string) (ok, stale bool, err error) {
	want, err := parsePHC(stored)
	known := err == nil
	if !known {
		want = h.nobody
	}
	k, err := h.compute(ctx, password, want.params, want.salt, len(want.hash))
	if err != nil {
		return false, false, err
	}
	same := subtle.ConstantTimeCompare(k, want.hash) == 1
	return known && same, known && same && want.params != h.params, nil
}

//go:embed common.txt
var commonList string

// common are the passwords that are tried first.
var common = func() map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(commonList) {
		m[w] = true
	}
	return m
}()

// checkPassword refuses what is too short, too long, or what anybody would try first. names are the box's and the person's.
func checkPassword(path, password string, names ...string) error {
	password = norm.NFC.String(password)
	switch {
	case utf8.RuneCountInString(password) < minPassword:
		return invalid(path, "password-short", "A password has at least 8 characters.")
	case len(password) > maxPassword:
		return invalid(path, "password-long", "A password has at most 256 bytes.")
	case !utf8.ValidString(password):
		return invalid(path, "format", "This is not text.")
	case isCommon(password, names...):
		return invalid(path, "password-common", "This is one of the passwords that are tried first.")
	}
	return nil
}

// isCommon reports whether a password is on the list, a single character or a row of them, or a name with a few digits.
func isCommon(password string, names ...string) bool {
	p := strings.ToLower(strings.TrimSpace(password))
	if common[p] || steps(p) <= 2 {
		return true
	}
	core := strings.TrimFunc(p, func(r rune) bool { return !unicode.IsLetter(r) })
	for _, n := range append(names, "croft", "croft.local") {
		n = strings.ToLower(strings.TrimSpace(norm.NFC.String(n)))
		if n != "" && (p == n || core == n || core == n+n) {
			return true
		}
	}
	return false
}

// steps counts how often a text does something else than to repeat a character or to go on to the next or the previous.
func steps(s string) (n int) {
	var last, by rune = -10, 0
	for _, r := range s {
		d := r - last
		if d < -1 || d > 1 || d != by {
			n++
		}
		last, by = r, d
	}
	return n
}
