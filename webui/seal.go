package webui

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"
)

// sealer hides what a form of several screens must remember between them in a cookie that only this process can read:
// what was typed is in no page, no URL and no memory of ours, and ends with the process.
type sealer struct{ aead cipher.AEAD }

// sealed is what a cookie holds.
type sealed struct {
	Until time.Time       `json:"until"`
	Value json.RawMessage `json:"value"`
}

const maxCookie = 3500 // bytes; browsers take 4096 with the name

func newSealer() *sealer {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // a key of 32 bytes is one
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &sealer{aead}
}

// seal hides v for a purpose; "" if it is too long for a cookie.
func (s *sealer) seal(purpose string, v any, until time.Time) string {
	value, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	b, err := json.Marshal(sealed{until, value})
	if err != nil {
		return ""
	}
	out := base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, b, []byte(purpose)))
	if len(out) > maxCookie {
		return ""
	}
	return out
}

// open is the reverse of seal. It reports false for what was sealed for another purpose, by another process, or too long
// ago.
func (s *sealer) open(purpose, text string, now time.Time, v any) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > maxCookie {
		return false
	}
	b, err = s.aead.Open(nil, nil, b, []byte(purpose))
	if err != nil {
		return false
	}
	var c sealed
	return json.Unmarshal(b, &c) == nil && now.Before(c.Until) && json.Unmarshal(c.Value, v) == nil
}

// cookieName keeps what came over HTTPS apart: a plain page could not replace it.
func (v *visit) cookieName(name string) string {
	if scheme(v.r) == "https" {
		return "__Secure-croft_" + name
	}
	return "croft_" + name
}

func (v *visit) setCookie(name, path, value string, age int) {
	http.SetCookie(v.w, &http.Cookie{
		Name: v.cookieName(name), Value: value, Path: path, MaxAge: age, HttpOnly: true,
		Secure: scheme(v.r) == "https", SameSite: http.SameSiteStrictMode,
	})
}

// keep remembers what was typed on one screen for the next ones below path.
func (v *visit) keep(name, path string, value any, life time.Duration) bool {
	text := v.sealer.seal(name, value, time.Now().Add(life))
	if text != "" {
		v.setCookie(name, path, text, int(life/time.Second))
	}
	return text != ""
}

// kept is what keep remembered; false if there is nothing, or no longer.
func (v *visit) kept(name string, value any) bool {
	c, err := v.r.Cookie(v.cookieName(name))
	return err == nil && v.sealer.open(name, c.Value, time.Now(), value)
}

func (v *visit) forget(name, path string) { v.setCookie(name, path, "", -1) }
