package core

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/secure/precis"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/identity"
)

// claimLen is how many symbols the claim code has, and the one on the screen.
const claimLen = 8

// begin answers with a session that has just begun, and its cookie.
func begin(w http.ResponseWriter, r *http.Request, token string, v api.Session) {
	setCookie(w, r, token)
	daemon.WriteJSON(w, http.StatusCreated, v)
}

func (s *server) getSession(w http.ResponseWriter, _ *http.Request, c *caller) {
	daemon.WriteJSON(w, http.StatusOK, c.session)
}

func (s *server) deleteSession(w http.ResponseWriter, r *http.Request, c *caller) {
	s.id.SignOut(r.Context(), c.token, c.Caller)
	setCookie(w, r, "")
	w.WriteHeader(http.StatusNoContent)
}

// postSession signs a person in. The second factor is looked at only after the password was right, and its tries count
// against the person, so that nobody without the password can use them up; it costs another hash of the password.
func (s *server) postSession(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.SessionRequest
	if !decode(w, r, &req) {
		return
	}
	name := nameKey(req.Name)
	if d := s.limits.signIn.take(c.Place, name); d > 0 {
		tooManyTries(w, d)
		return
	}
	code := req.SecondFactor
	req.SecondFactor = ""
	token, v, err := s.id.SignIn(r.Context(), req, c.Caller, c.token)
	switch {
	case err == nil || errors.Is(err, identity.ErrSecondFactor):
		s.limits.signIn.won(c.Place, name)
	case errors.Is(err, identity.ErrWrongPassword):
		s.log.Info("a wrong name or password", "client", c.Place)
	default:
		s.limits.signIn.undo(c.Place, name)
	}
	if errors.Is(err, identity.ErrSecondFactor) && code != "" {
		if d := s.limits.factor.take(name, ""); d > 0 {
			tooManyTries(w, d)
			return
		}
		req.SecondFactor = code
		token, v, err = s.id.SignIn(r.Context(), req, c.Caller, c.token)
		switch {
		case err == nil:
			s.limits.factor.won(name, "")
		case !errors.Is(err, identity.ErrWrongSecondFactor):
			s.limits.factor.undo(name, "")
		}
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	begin(w, r, token, v)
}

// nameKey is what the tries at a name are counted by: as identity compares names, so that there is one of it for all ways
// to write a name.
func nameKey(name string) string {
	name = name[:min(len(name), 256)]
	if key, err := precis.Nickname.CompareKey(name); err == nil {
		name = key
	}
	return name[:min(len(name), 64)]
}

// postClaim exchanges the claim code, or the code of rescue mode, for a session.
func (s *server) postClaim(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.ClaimRequest
	if !decode(w, r, &req) {
		return
	}
	code, ok := identity.NormaliseCode(req.Code, claimLen)
	if !ok { // can't be right, so no try is counted
		codeFormat(w, "A claim code has eight letters and digits.")
		return
	}
	if s.id.HasOwner() { // whatever the code
		s.refuse(w, r, identity.ErrAlreadyClaimed)
		return
	}
	if d := s.limits.claim.take(c.Place, ""); d > 0 {
		tooManyTries(w, d)
		return
	}
	want, err := s.claimCode(r.Context())
	var b *api.Box
	if err == nil {
		b, err = s.box.get()
	}
	if err != nil {
		s.limits.claim.undo(c.Place, "")
		s.refuse(w, r, err)
		return
	}
	if want == "" {
		codeVoid(w)
		return
	}
	if !sameCode(code, want) {
		s.wrongCode(w, c, "claim", "That is not this box's claim code.")
		return
	}
	s.limits.claim.won(c.Place, "")
	begun := s.id.Claim
	if b.System.Mode == api.ModeRescue {
		begun = s.id.Rescue
	}
	token, v, err := begun(r.Context(), c.Caller, c.token)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.log.Info("claimed", "client", c.Place, "mode", b.System.Mode)
	begin(w, r, token, v)
}

// claimCode asks init for the code, in one form; empty if it is void.
func (s *server) claimCode(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var v api.Claim
	if err := daemon.GetJSON(ctx, s.init, "http://init/v1/claim", &v); err != nil {
		return "", errors.Join(errStarting, err)
	}
	code, _ := identity.NormaliseCode(v.Code, claimLen)
	return code, nil
}

// postRecover gives an owner a new password for the code that shows who stands at the box. The code is good once: one
// request at a time holds it against init's, and it counts as used from the database's word on, whether init hears or not.
func (s *server) postRecover(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.RecoverRequest
	if !decode(w, r, &req) {
		return
	}
	code := plain(req.Code)
	if len(code) < claimLen {
		codeFormat(w, "A recovery code has at least eight letters and digits.")
		return
	}
	if d := s.limits.recovery.take(c.Place, ""); d > 0 {
		tooManyTries(w, d)
		return
	}
	s.recoverMu.Lock()
	defer s.recoverMu.Unlock()
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	var want api.Recovery
	claim := ""
	err := daemon.GetJSON(ctx, s.init, "http://init/v1/recovery", &want)
	if err == nil && !s.id.HasOwner() {
		claim, err = s.claimCode(ctx)
	}
	switch {
	case err != nil:
		s.limits.recovery.undo(c.Place, "")
		s.refuse(w, r, errors.Join(errStarting, err))
		return
	case len(plain(want.Code)) < claimLen || plain(want.Code) == s.recovered:
		codeVoid(w)
		return
	case !sameCode(code, plain(want.Code)):
		s.wrongCode(w, c, "recovery", "That is not the box's recovery code.")
		return
	}
	s.limits.recovery.won(c.Place, "")
	token, v, err := s.id.Recover(r.Context(), req, claim == "", c.Caller, c.token)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.recovered = plain(want.Code)
	s.log.Info("recovered", "client", c.Place, "source", want.Source)
	// Whoever asked may have gone.
	if err := s.tell(context.WithoutCancel(r.Context()), http.MethodDelete, "/v1/recovery", nil); err != nil {
		s.log.Error("the recovery code that was used is not void", "err", err)
	}
	s.limits.signIn.trust(c.Place)
	begin(w, r, token, v)
}

// postJoinLook says what an invitation is for.
func (s *server) postJoinLook(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.JoinRequest
	if !decode(w, r, &req) || !s.takeInvite(w, c) {
		return
	}
	v, err := s.id.LookInvite(r.Context(), req.Code)
	s.judgeInvite(c, err)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}

// postJoin takes an invitation.
func (s *server) postJoin(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.JoinRequest
	if !decode(w, r, &req) || !s.takeInvite(w, c) {
		return
	}
	token, v, err := s.id.Join(r.Context(), req, c.Caller, c.token)
	s.judgeInvite(c, err)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.limits.signIn.trust(c.Place)
	begin(w, r, token, v)
}

func (s *server) takeInvite(w http.ResponseWriter, c *caller) bool {
	d := s.limits.join.take(c.Place, "")
	if d > 0 {
		tooManyTries(w, d)
	}
	return d <= 0
}

// judgeInvite books how a try of an invitation's code ended. What else is wrong with a request is found after its code was
// right.
func (s *server) judgeInvite(c *caller, err error) {
	switch {
	case errors.Is(err, identity.ErrInviteVoid):
	case err == nil || isRefused(err):
		s.limits.join.won(c.Place, "")
	default:
		s.limits.join.undo(c.Place, "")
	}
}

func codeFormat(w http.ResponseWriter, title string) {
	problem(w, http.StatusUnprocessableEntity, "code-format", title, "Look at it again and type it as it stands there.")
}

func codeVoid(w http.ResponseWriter) {
	problem(w, http.StatusGone, "code-void", "There is no such code any more, or none yet.", "")
}

func (s *server) wrongCode(w http.ResponseWriter, c *caller, kind, title string) {
	s.log.Info("a wrong code", "kind", kind, "client", c.Place)
	problem(w, http.StatusForbidden, "wrong-code", title, "Look at it again and type it as it stands there.")
}

// plain brings a code that an owner chose into one form: its letters and digits.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch r = unicode.ToUpper(r); {
		case r == 'O':
			return '0'
		case r == 'I' || r == 'L':
			return '1'
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			return r
		}
		return -1
	}, s)
}

// sameCode compares two codes in a time that tells nothing about them.
func sameCode(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// voidClaim makes init's claim code void once the box has an owner, as often as it takes: the power may have been cut, or
// init busy, between the two.
func (s *server) voidClaim() {
	for wait := time.Second; s.id.HasOwner(); wait = min(2*wait, time.Minute) {
		code, err := s.claimCode(s.ctx)
		if err == nil && code != "" {
			err = s.tell(s.ctx, http.MethodDelete, "/v1/claim", nil)
		}
		if err == nil {
			return
		}
		s.log.Warn("the claim code is not void yet", "err", err)
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// claimVoid reports whether init's code is void, as it was at most freshFor ago: everybody may ask how far the box is.
func (s *server) claimVoid() (bool, error) {
	s.voidMu.Lock()
	defer s.voidMu.Unlock()
	if !s.voidAsked.IsZero() && time.Since(s.voidAsked) < freshFor {
		return s.void, nil
	}
	code, err := s.claimCode(s.ctx)
	if err != nil {
		return false, err
	}
	s.void, s.voidAsked = code == "", time.Now()
	return s.void, nil
}
