package core

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/config"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/identity"
)

// problem answers with an RFC 9457 problem. name, one of api.ProblemTypes, tells programs what happened; it is the last
// part of the type.
func problem(w http.ResponseWriter, status int, name, title, detail string) {
	writeProblem(w, api.Problem{Type: name, Title: title, Status: status, Detail: detail})
}

// invalid answers that fields of the request's body, or parameters, are wrong.
func invalid(w http.ResponseWriter, fields ...api.FieldProblem) {
	writeProblem(w, api.Problem{
		Type: "invalid", Title: "Something in there is not right.", Status: http.StatusUnprocessableEntity,
		Detail: fields[0].Text, Fields: fields,
	})
}

// wait answers that the client has to wait, with the problem of that name.
func wait(w http.ResponseWriter, status int, name, title string, d time.Duration) {
	secs := max(1, int(math.Ceil(d.Seconds())))
	w.Header().Set("Retry-After", strconv.Itoa(secs))
	writeProblem(w, api.Problem{
		Type: name, Title: title, Status: status, RetryAfter: secs,
		Detail: fmt.Sprintf("Try again in %d seconds.", secs),
	})
}

func tooManyTries(w http.ResponseWriter, d time.Duration) {
	wait(w, http.StatusTooManyRequests, "too-many-tries", "Too many tries.", d)
}

func (s *server) starting(w http.ResponseWriter) {
	wait(w, http.StatusServiceUnavailable, "starting", "The box is still starting.", 2*time.Second)
}

func notFound(w http.ResponseWriter) {
	problem(w, http.StatusNotFound, "not-found", "There is nothing at this address.", "")
}

func writeProblem(w http.ResponseWriter, p api.Problem) {
	p.Type = "/problems/" + p.Type
	b, err := json.Marshal(p)
	if err != nil {
		http.Error(w, p.Title, p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	w.Write(append(b, '\n'))
}

// entityTag is a strong validator (RFC 9110 section 8.8.3) of v as JSON.
func entityTag(v any) string {
	b, _ := json.Marshal(v) // what can't be encoded can't be answered either
	sum := sha256.Sum256(b)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// listsTag reports whether the fields If-Match or If-None-Match of a request name the tag (RFC 9110 section 13.1). Who
// marks tags as weak on the way changes nothing of ours for the second, and spoils the first.
func listsTag(fields []string, tag string, weak bool) bool {
	for t := range strings.SplitSeq(strings.Join(fields, ","), ",") {
		if t = strings.TrimSpace(t); t == "*" || t == tag || weak && t == "W/"+tag {
			return true
		}
	}
	return false
}

// matches checks that the client changes what it has seen, or answers with a problem and returns false.
func matches(w http.ResponseWriter, r *http.Request, tag string) bool {
	switch fields := r.Header.Values("If-Match"); {
	case len(fields) == 0:
		problem(w, http.StatusPreconditionRequired, "precondition", "It is not said what this is a change of.",
			"Read it first, and send its ETag in If-Match.")
	case !listsTag(fields, tag, false):
		problem(w, http.StatusPreconditionFailed, "changed-meanwhile", "Somebody else has changed this meanwhile.",
			"Look at it again, then change it.")
	default:
		return true
	}
	return false
}

const (
	defaultLimit = 50 // items of a page
	maxLimit     = 200
	maxCursor    = 200 // bytes of ?after=
)

// pageOf returns the parameters of a list, or answers with a problem and returns false.
func pageOf(w http.ResponseWriter, r *http.Request) (after string, limit int, ok bool) {
	q := r.URL.Query()
	limit = defaultLimit
	if v := q.Get("limit"); q.Has("limit") {
		var err error
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > maxLimit {
			invalid(w, api.FieldProblem{Path: "/limit", Code: "range", Text: fmt.Sprintf("limit is 1 to %d.", maxLimit)})
			return "", 0, false
		}
	}
	if after = q.Get("after"); len(after) > maxCursor {
		invalid(w, badCursor())
		return "", 0, false
	}
	return after, limit, true
}

func badCursor() api.FieldProblem {
	return api.FieldProblem{Path: "/after", Code: "format", Text: "after is what the page before gave as next."}
}

// writePage answers with one page of a list that is short enough to be in memory, in the order of key, which has to be
// different for each item. What comes and goes between two pages moves nothing else from one to the other.
func writePage[T any](w http.ResponseWriter, r *http.Request, items []T, key func(T) string) {
	after, limit, ok := pageOf(w, r)
	if !ok {
		return
	}
	from, err := base64.RawURLEncoding.DecodeString(after)
	if err != nil {
		invalid(w, badCursor())
		return
	}
	slices.SortFunc(items, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	for after != "" && len(items) > 0 && key(items[0]) <= string(from) {
		items = items[1:]
	}
	l := api.List[T]{Items: append([]T{}, items...)} // never null
	if len(items) > limit {
		l.Items = items[:limit]
		l.Next = base64.RawURLEncoding.EncodeToString([]byte(key(items[limit-1])))
	}
	daemon.WriteJSON(w, http.StatusOK, l)
}

// refusal is the answer to an error.
type refusal struct {
	err           error
	status        int
	name          string
	title, detail string
}

// refusals are the answers to what identity and config refuse.
var refusals = []refusal{
	{identity.ErrSignedOut, http.StatusUnauthorized, "signed-out", "You are not signed in.", "Sign in first."},
	{identity.ErrWrongPassword, http.StatusForbidden, "wrong-password", "The name or the password is not right.", "Look at both again."},
	{identity.ErrSecondFactor, http.StatusForbidden, "second-factor", "The password is right, but a code is needed too.", "Type the code that your app shows, or a recovery code."},
	{identity.ErrWrongSecondFactor, http.StatusForbidden, "wrong-second-factor", "That code is not right, or was used before.", "Wait for the next one."},
	{identity.ErrInviteVoid, http.StatusGone, "invite-void", "This invitation is used up, or too old.", "Ask for another one."},
	{identity.ErrNoSuchOwner, http.StatusNotFound, "no-such-owner", "No owner of this box has that name.", "Look at it again."},
	{identity.ErrLastOwner, http.StatusConflict, "last-owner", "The box needs an owner who can sign in.", "Make somebody else an owner first."},
	{identity.ErrClaimedByAnother, http.StatusConflict, "claimed-by-another", "Another phone is setting up this box.", ""},
	{identity.ErrAlreadyClaimed, http.StatusConflict, "already-claimed", "This box is somebody's already.", "Sign in, or ask its owner for an invitation."},
	{identity.ErrNotClaimed, http.StatusConflict, "not-claimed", "This phone did not claim the box.", "Type the claim code first."},
	{identity.ErrNotFound, http.StatusNotFound, "not-found", "There is no such thing.", "It may have been removed meanwhile."},
	{identity.ErrTooMany, http.StatusConflict, "too-many", "There are too many of these.", "Remove one first."},
	{config.ErrChanged, http.StatusPreconditionFailed, "changed-meanwhile", "Somebody else has changed this meanwhile.", "Look at it again, then change it."},
	{config.ErrNotFound, http.StatusNotFound, "not-found", "There is no such change any more.", ""},
	{config.ErrCannotUndo, http.StatusConflict, "cannot-undo", "This change can't be taken back any more.", "Something else has changed the same since. Change it by hand."},
	{config.ErrNoTrial, http.StatusConflict, "no-trial", "No network setting is being tried.", "It may have been taken back already."},
	{config.ErrTrialRunning, http.StatusConflict, "trial-running", "Another network setting is being tried.", "Keep it or take it back first."},
	{config.ErrNetwork, http.StatusConflict, "refused", "The box can't use these network settings.", "Look at them again."},
}

// isRefused reports whether an error is an answer, not a fault.
func isRefused(err error) bool {
	var inv *identity.InvalidError
	return errors.As(err, &inv) || slices.ContainsFunc(refusals, func(k refusal) bool { return errors.Is(err, k.err) })
}

// refuse answers that an error came instead of what was asked for.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var inv *identity.InvalidError
	var wrong config.Problems
	switch {
	case errors.As(err, &inv) && len(inv.Fields) > 0:
		invalid(w, inv.Fields...)
		return
	case errors.As(err, &wrong) && len(wrong) > 0:
		invalid(w, wrong...)
		return
	case errors.Is(err, errStarting), errors.Is(err, config.ErrStarting):
		// Not louder: strangers may ask as often as they like while init is away.
		s.log.Debug("a request has to wait for another service", "method", r.Method, "path", r.URL.Path, "err", err)
		s.starting(w)
		return
	case errors.Is(err, identity.ErrClaimedByAnother):
		wait(w, http.StatusConflict, "claimed-by-another", "Another phone is setting up this box.", s.id.QuietIn())
		return
	}
	for _, k := range refusals {
		if errors.Is(err, k.err) {
			problem(w, k.status, k.name, k.title, k.detail)
			return
		}
	}
	s.log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	var db sqlite3.Error
	switch {
	case errors.As(err, &db):
		problem(w, http.StatusInternalServerError, "state", "Croft could not write that to the disk, so nothing has changed.",
			"Look whether the disk is full.")
	default:
		problem(w, http.StatusInternalServerError, "internal", "Croft made a mistake, and nothing has changed.",
			"Try again. If it stays so, restart the box.")
	}
}
