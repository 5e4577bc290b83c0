package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	totpStep      = 30 // seconds
	totpDigits    = 6
	totpSkew      = 1 // steps before and after, for clocks that don't quite agree
	totpSecret    = 20
	recoveryCodes = 10
)

// hotp is RFC 4226, section 5.3, with SHA-1.
func hotp(secret []byte, counter uint64, digits int) string {
	m := hmac.New(sha1.New, secret)
	m.Write(binary.BigEndian.AppendUint64(nil, counter))
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 15
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	mod := uint32(1)
	for range digits {
		mod *= 10
	}
	return fmt.Sprintf("%0*d", digits, n%mod)
}

// totp returns the step (RFC 6238, section 4.2) near t whose code this is, or 0.
func totp(secret []byte, code string, t time.Time) (step int64) {
	now := t.Unix() / totpStep
	for s := now - totpSkew; s <= now+totpSkew; s++ {
		if s > 0 && subtle.ConstantTimeCompare([]byte(hotp(secret, uint64(s), totpDigits)), []byte(code)) == 1 {
			step = s
		}
	}
	return step
}

// factor is a second factor as it was typed: the step of a one-time password, or the hash of a recovery code. Empty, it
// is neither.
type factor struct {
	step int64
	code []byte
}

func (p *person) factor(typed string, t time.Time) factor {
	if p.secret == nil || len(typed) > codeInput {
		return factor{}
	}
	if code := digits(typed); len(code) == totpDigits {
		return factor{step: totp(p.secret, code, t)}
	}
	return factor{code: hashCode(typed)}
}

// digits returns a code of digits as an app shows it, without blanks.
func digits(s string) string { return strings.Map(plain, s) }

// spend uses a second factor up. A one-time password counts once (RFC 6238, section 5.2), and so does a recovery code.
func (i *Identity) spend(ctx context.Context, c *change, p *person, f factor, by Caller) error {
	switch {
	case f.step > 0:
		if f.step <= p.step {
			return ErrWrongSecondFactor
		}
		r, err := c.ExecContext(ctx, "UPDATE second_factors SET step = ? WHERE person = ? AND secret = ? AND step < ?",
			f.step, p.ID, p.secret, f.step)
		return wrongFactor(must(r, err))
	case f.code != nil:
		r, err := c.ExecContext(ctx, "DELETE FROM recovery_codes WHERE person = ? AND code = ?", p.ID, f.code)
		if err := wrongFactor(must(r, err)); err != nil {
			return err
		}
		return i.record(ctx, c.Tx, by, "recovery-code-used", p.Name, nil)
	}
	return ErrWrongSecondFactor
}

func wrongFactor(err error) error {
	if err != nil && refused(err) {
		return ErrWrongSecondFactor
	}
	return err
}

// BeginSecondFactor makes the caller a new secret. Until ConfirmSecondFactor, what was before holds.
func (i *Identity) BeginSecondFactor(ctx context.Context, c Caller, req api.PasswordRequest) (api.NewSecondFactor, error) {
	p, err := i.confirm(ctx, c, req.Password)
	if err != nil {
		return api.NewSecondFactor{}, err
	}
	secret := make([]byte, totpSecret)
	rand.Read(secret)
	err = i.changeBy(ctx, c, func(ch *change) error {
		_, err := ch.ExecContext(ctx, `INSERT INTO second_factors (person, pending) VALUES (?, ?)
			ON CONFLICT (person) DO UPDATE SET pending = excluded.pending`, p.ID, secret)
		if err != nil {
			return fmt.Errorf("make a second factor: %w", err)
		}
		return nil
	})
	if err != nil {
		return api.NewSecondFactor{}, err
	}
	text := base32.StdEncoding.EncodeToString(secret)
	issuer := i.box()
	if issuer == "" {
		issuer = "croft"
	}
	// https://github.com/google/google-authenticator/wiki/Key-Uri-Format
	u := url.URL{
		Scheme: "otpauth", Host: "totp", Path: "/" + issuer + ":" + strings.ReplaceAll(p.Name, ":", " "),
		RawQuery: "secret=" + text + "&issuer=" + url.PathEscape(issuer) + "&algorithm=SHA1&digits=6&period=30",
	}
	return api.NewSecondFactor{Secret: text, URI: u.String()}, nil
}

// ConfirmSecondFactor turns the second factor on that BeginSecondFactor made, with a code of it, and returns fresh recovery
// codes. It ends the caller's other sessions, which were begun without it.
func (i *Identity) ConfirmSecondFactor(ctx context.Context, c Caller, req api.SecondFactorCode) (api.RecoveryCodes, error) {
	var codes []string
	err := i.changeBy(ctx, c, func(ch *change) (err error) {
		p := i.find(c.Person.ID)
		if p == nil || p.pending == nil {
			return ErrNotFound
		}
		step := totp(p.pending, digits(req.Code), i.now())
		if step == 0 {
			return ErrWrongSecondFactor
		}
		r, err := ch.ExecContext(ctx, "UPDATE second_factors SET secret = pending, pending = NULL, step = ? WHERE person = ? AND pending = ?",
			step, p.ID, p.pending)
		if err := must(r, err); err != nil {
			return err
		}
		if codes, err = newRecoveryCodes(ctx, ch, p.ID); err != nil {
			return err
		}
		if err := i.dropPerson(ctx, ch, p.ID, c.Session); err != nil {
			return err
		}
		return i.record(ctx, ch.Tx, c, "second-factor-on", p.Name, nil)
	})
	return api.RecoveryCodes{Codes: codes}, err
}

// EndSecondFactor turns the caller's second factor off.
func (i *Identity) EndSecondFactor(ctx context.Context, c Caller, req api.PasswordRequest) error {
	p, err := i.confirm(ctx, c, req.Password)
	if err != nil {
		return err
	}
	return i.changeBy(ctx, c, func(ch *change) error {
		if err := i.factorOff(ctx, ch, p.ID); err != nil {
			return err
		}
		if !p.SecondFactor {
			return nil
		}
		return i.record(ctx, ch.Tx, c, "second-factor-off", p.Name, nil)
	})
}

func (i *Identity) factorOff(ctx context.Context, c *change, person string) error {
	_, err := c.ExecContext(ctx, "DELETE FROM second_factors WHERE person = ?", person)
	if err == nil {
		_, err = c.ExecContext(ctx, "DELETE FROM recovery_codes WHERE person = ?", person)
	}
	if err != nil {
		return fmt.Errorf("turn a second factor off: %w", err)
	}
	return nil
}

// NewRecoveryCodes makes the caller's recovery codes anew: the ones before are void. Without a second factor it is
// ErrNotFound.
func (i *Identity) NewRecoveryCodes(ctx context.Context, c Caller, req api.PasswordRequest) (api.RecoveryCodes, error) {
	if _, err := i.confirm(ctx, c, req.Password); err != nil {
		return api.RecoveryCodes{}, err
	}
	var codes []string
	err := i.changeBy(ctx, c, func(ch *change) (err error) {
		p := i.find(c.Person.ID)
		if p == nil || p.secret == nil {
			return ErrNotFound
		}
		if codes, err = newRecoveryCodes(ctx, ch, p.ID); err != nil {
			return err
		}
		return i.record(ctx, ch.Tx, c, "recovery-codes-made", p.Name, nil)
	})
	return api.RecoveryCodes{Codes: codes}, err
}

func newRecoveryCodes(ctx context.Context, c *change, person string) (codes []string, err error) {
	if _, err := c.ExecContext(ctx, "DELETE FROM recovery_codes WHERE person = ?", person); err != nil {
		return nil, fmt.Errorf("make recovery codes: %w", err)
	}
	for range recoveryCodes {
		code := newCode()
		_, err := c.ExecContext(ctx, "INSERT INTO recovery_codes (person, code) VALUES (?, ?)", person, hashCode(code))
		if err != nil {
			return nil, fmt.Errorf("make recovery codes: %w", err)
		}
		codes = append(codes, code)
	}
	return codes, nil
}
