package core

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/identity"
	"github.com/croft-os/croft/services/state"
)

const (
	updaterTimeout = 10 * time.Second // for the updater to take an order
	uploadPause    = 30 * time.Second // for the next piece of an uploaded file
	uploadTime     = 2 * time.Hour    // for all of it
	maxFileName    = 100              // bytes of its name that are passed on
	maxCaught      = 20               // attempts that are recorded at once after core was away
)

// errUpdaterAway says that the updater, or the fetcher, does not answer.
var errUpdaterAway = errors.New("the updater does not answer")

// updaterError is the updater's or the fetcher's no.
type updaterError struct {
	status int
	name   string // of api.UpdateCauses or api.ProblemTypes, if it gave one
	text   string
}

func (e *updaterError) Error() string {
	return fmt.Sprintf("the updater refuses: %s (%s)", e.text, e.name)
}

// askUpdater has the updater do something. The error is an *updaterError, or wraps errUpdaterAway.
func (s *server) askUpdater(ctx context.Context, method, path string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, updaterTimeout)
	defer cancel()
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://updater"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return said(s.updater.Do(req))
}

// said reads what the updater or the fetcher answered to what acts.
func said(resp *http.Response, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", errUpdaterAway, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, small))
	var p struct {
		Type, Title, Detail string // of an api.Problem
		Cause, Error        string // of the fetcher's
	}
	json.Unmarshal(text, &p) // what can't be read says nothing
	e := &updaterError{resp.StatusCode, cmp.Or(p.Cause, path.Base(p.Type)), cmp.Or(p.Detail, p.Title, p.Error, resp.Status)}
	if resp.StatusCode >= 500 && p == (struct{ Type, Title, Detail, Cause, Error string }{}) {
		return fmt.Errorf("%w: %w", errUpdaterAway, e)
	}
	return e
}

// refuseUpdate answers why something was not done to updates.
func (s *server) refuseUpdate(w http.ResponseWriter, r *http.Request, err error) {
	var no *updaterError
	switch {
	case errors.Is(err, errUpdaterAway):
		s.log.Warn("the updater does not answer", "path", r.URL.Path, "err", err)
		wait(w, http.StatusServiceUnavailable, "updater-away", "The part of the box that updates it does not answer.", 5*time.Second)
	case !errors.As(err, &no):
		s.refuse(w, r, err)
	default:
		s.log.Info("the updater refuses", "path", r.URL.Path, "cause", no.name, "text", no.text)
		for _, k := range updateRefusals {
			if k.cause == no.name {
				problem(w, k.status, k.name, k.title, k.detail)
				return
			}
		}
		problem(w, http.StatusConflict, "refused", "The box can't do that just now.", no.text)
	}
}

// updateRefusals are the answers to causes for which the updater or the fetcher refuses something.
var updateRefusals = []struct {
	cause         string
	status        int
	name          string
	title, detail string
}{
	{"busy", http.StatusConflict, "busy", "The box is busy with something that must not be cut off.", "Wait until it is done."},
	{"wrong-release", http.StatusConflict, "wrong-release", "That update is not offered any more.", "Look at what is offered now."},
	{"not-newer", http.StatusConflict, "wrong-release", "That update is not newer than what runs.", ""},
	{"bad-file", http.StatusUnprocessableEntity, "bad-file", "This file is no update.", "Take one whose name is croft-BOARD.zip."},
	{"wrong-board", http.StatusUnprocessableEntity, "wrong-board", "This update is for another kind of box.", "Take the one for this box."},
	{"too-large", http.StatusRequestEntityTooLarge, "too-large", "This file is too large to be an update.", ""},
	{"disk-full", http.StatusConflict, "no-room", "There is not enough room on the disk.", "Remove something, then try again."},
}

// forSome is what who is no owner gets to see of updates: what runs, and that it is being changed.
func forSome(u *api.Updates) *api.Updates {
	if u == nil {
		return nil
	}
	c := &api.Updates{Version: u.Version, Number: u.Number, State: u.State, Sources: []api.UpdateSource{}}
	if u.Progress != nil {
		c.Progress = &api.UpdateProgress{Done: u.Progress.Done, Total: u.Progress.Total, LeftMS: u.Progress.LeftMS}
	}
	return c
}

// updates asks the updater how things are. The error wraps errUpdaterAway.
func (s *server) updates(ctx context.Context) (*api.Updates, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	u := &api.Updates{}
	if err := daemon.GetJSON(ctx, s.updater, "http://updater/v1/updates", u); err != nil {
		return nil, fmt.Errorf("%w: %w", errUpdaterAway, err)
	}
	whole(u)
	return u, nil
}

// whole makes the lists of an answer lists.
func whole(u *api.Updates) {
	if u.Sources == nil {
		u.Sources = []api.UpdateSource{}
	}
	if u.Offer != nil && u.Offer.Notes == nil {
		u.Offer.Notes = map[string]string{}
	}
}

func (s *server) getUpdates(w http.ResponseWriter, r *http.Request, c *caller) {
	u, err := s.updates(r.Context())
	if err != nil {
		s.refuseUpdate(w, r, err)
		return
	}
	if c.role&(owner|rescue) == 0 {
		u = forSome(u)
	}
	daemon.WriteJSON(w, http.StatusOK, u)
}

// attempts asks the updater for what was tried, newest first.
func (s *server) attempts(ctx context.Context) ([]api.UpdateAttempt, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var all []api.UpdateAttempt
	if err := daemon.GetJSON(ctx, s.updater, "http://updater/v1/updates/history", &all); err != nil {
		return nil, fmt.Errorf("%w: %w", errUpdaterAway, err)
	}
	return all, nil
}

func (s *server) getUpdatesHistory(w http.ResponseWriter, r *http.Request, _ *caller) {
	all, err := s.attempts(r.Context())
	if err != nil {
		s.refuseUpdate(w, r, err)
		return
	}
	writePage(w, r, all, func(a api.UpdateAttempt) string { return newestFirst(a.Began) + a.ID })
}

// postUpdatesAction has the updater act for an owner.
func (s *server) postUpdatesAction(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.UpdateAction
	if !decode(w, r, &req) {
		return
	}
	actions := map[string]string{ // what the audit log says of it
		"check": "", "install": "update-install", "tonight": "update-tonight", "cancel": "update-cancel", "restart": "update-restart",
		"back": "update-undo",
	}
	action, ok := actions[req.Action]
	if !ok {
		noSuchAction(w)
		return
	}
	u, err := s.updates(r.Context())
	if err != nil {
		s.refuseUpdate(w, r, err)
		return
	}
	version := ""
	switch req.Action {
	case "install", "tonight":
		if u.Offer == nil || u.Offer.Number != req.Number {
			s.refuseUpdate(w, r, &updaterError{http.StatusConflict, "wrong-release", "another one is offered, or none"})
			return
		}
		version = u.Offer.Version
	case "back":
		if u.Previous == nil {
			problem(w, http.StatusConflict, "refused", "There is no version to go back to.", "")
			return
		}
		version = u.Previous.Version
	}
	req.By = c.Person.Name
	if err := s.askUpdater(r.Context(), http.MethodPost, "/v1/action", req); err != nil {
		s.refuseUpdate(w, r, err)
		return
	}
	s.box.forget()
	if action != "" {
		s.recordUpdate(r.Context(), c, api.AuditEntry{Action: action, Target: version})
	}
	w.WriteHeader(http.StatusAccepted)
}

// recordUpdate records what a person did; it has happened all the same.
func (s *server) recordUpdate(ctx context.Context, c *caller, e api.AuditEntry) {
	e.Who, e.Place = c.Person.Name, c.Place
	if err := s.id.Log(context.WithoutCancel(ctx), e); err != nil {
		s.log.Error("an action was not recorded", "action", e.Action, "err", err)
	}
}

// putUpdatesTrust changes whom the box follows: in person, with the password once more, and of a root by its fingerprint.
func (s *server) putUpdatesTrust(w http.ResponseWriter, r *http.Request, c *caller) {
	var req api.TrustRequest
	if !decode(w, r, &req) {
		return
	}
	if wrong := checkTrust(&req); len(wrong) > 0 {
		invalid(w, wrong...)
		return
	}
	err, ok := error(nil), true
	if c.role != rescue { // who has the code of rescue mode stands at the box; nobody's password is known there
		err, ok = s.checked(w, c, func() error { return s.id.ConfirmPassword(r.Context(), c.Caller, req.Password) })
	}
	switch {
	case !ok:
		return
	case err != nil:
		s.refuse(w, r, err)
		return
	}
	req.Password, req.By = "", c.Person.Name
	err = s.askUpdater(r.Context(), http.MethodPut, "/v1/trust", req)
	var no *updaterError
	switch {
	case errors.As(err, &no) && no.name == "wrong-phrase":
		invalid(w, wrongFingerprint())
	case errors.As(err, &no) && no.status == http.StatusUnprocessableEntity && req.Action == "set":
		invalid(w, api.FieldProblem{Path: "/root", Code: "format", Text: "The box can't use this root: " + no.text})
	case err != nil:
		s.refuseUpdate(w, r, err)
	default:
		s.box.forget()
		args := map[string]string{"role": req.Role, "action": req.Action}
		if req.Action == "set" {
			args["fingerprint"] = req.Fingerprint
		}
		s.recordUpdate(r.Context(), c, api.AuditEntry{Action: "update-trust", Target: req.Name, Args: args})
		w.WriteHeader(http.StatusNoContent)
	}
}

func wrongFingerprint() api.FieldProblem {
	return api.FieldProblem{Path: "/fingerprint", Code: "fingerprint", Text: "The root that came has another fingerprint."}
}

// checkTrust says what is wrong with a request, and brings its fingerprint into one form.
func checkTrust(req *api.TrustRequest) (wrong []api.FieldProblem) {
	is := func(path, code, text string) {
		wrong = append(wrong, api.FieldProblem{Path: path, Code: code, Text: text})
	}
	switch {
	case req.Role != "project" && req.Role != "auditor":
		is("/role", "choice", "The role is project or auditor.")
	case req.Action == "set":
	case req.Action == "builtin" && req.Role == "project" || req.Action == "remove" && req.Role == "auditor":
		req.Name, req.Fingerprint, req.Root = "", "", ""
		return wrong
	default:
		is("/action", "choice", "The action is set; builtin for the project; remove for the auditor.")
	}
	if len(wrong) > 0 {
		return wrong
	}
	req.Name = strings.TrimSpace(req.Name)
	switch n := utf8.RuneCountInString(req.Name); {
	case n == 0:
		is("/name", "missing", "A name is needed.")
	case n > 60:
		is("/name", "too-long", "A name has at most 60 characters.")
	case strings.ContainsFunc(req.Name, unicode.IsControl):
		is("/name", "format", "A name has no control characters.")
	}
	req.Fingerprint = strings.Map(func(r rune) rune {
		if r == ':' || unicode.IsSpace(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, req.Fingerprint)
	want, err := hex.DecodeString(req.Fingerprint)
	switch {
	case req.Fingerprint == "":
		is("/fingerprint", "missing", "The fingerprint is needed.")
	case err != nil || len(want) != sha256.Size:
		is("/fingerprint", "format", "A fingerprint has 64 digits 0-9 and a-f.")
	case req.Root != "":
		if sum := sha256.Sum256([]byte(req.Root)); !bytes.Equal(sum[:], want) {
			wrong = append(wrong, wrongFingerprint())
		}
	}
	return wrong
}

// upload is an uploaded file as it arrives: a pause may last for uploadPause, whatever the size.
type upload struct {
	io.Reader
	rc  *http.ResponseController
	err error // with which it ended, but for its end
}

func (u *upload) Read(b []byte) (int, error) {
	u.rc.SetReadDeadline(time.Now().Add(uploadPause))
	n, err := u.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		u.err = err
	}
	return n, err
}

// putUpdatesFile passes a bundle on to the fetcher as it arrives, one at a time, and has the updater look at it.
func (s *server) putUpdatesFile(w http.ResponseWriter, r *http.Request, c *caller) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/zip" {
		problem(w, http.StatusUnsupportedMediaType, "bad-file", "The request's body has to be application/zip.", "")
		return
	}
	if r.ContentLength > maxUpload {
		w.Header().Set("Connection", "close")
		s.refuseUpdate(w, r, &updaterError{http.StatusRequestEntityTooLarge, "too-large", "the file"})
		return
	}
	if !s.uploading.TryLock() {
		problem(w, http.StatusConflict, "busy", "Another file is just being uploaded.", "Wait until it is done.")
		return
	}
	defer s.uploading.Unlock()
	defer s.hold(holdUpload)()
	ctx, cancel := context.WithTimeout(r.Context(), uploadTime)
	defer cancel()
	name := fileName(r.URL.Query().Get("name"))
	body := &upload{Reader: r.Body, rc: http.NewResponseController(w)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://fetcher/v1/upload?name="+url.QueryEscape(name), body)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	req.ContentLength = r.ContentLength
	req.Header.Set("Content-Type", "application/zip")
	err = said(s.fetcher.Do(req))
	if body.err != nil {
		w.Header().Set("Connection", "close") // what is left of it is nobody's
	} else {
		body.rc.SetReadDeadline(time.Time{})
	}
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(body.err, &tooBig):
		s.refuseUpdate(w, r, &updaterError{http.StatusRequestEntityTooLarge, "too-large", "the file"})
	case errors.Is(body.err, os.ErrDeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
		problem(w, http.StatusRequestTimeout, "too-slow", "The file took too long to arrive.", "Try again.")
	case body.err != nil:
		problem(w, http.StatusBadRequest, "bad-file", "The file did not arrive in full.", "Try again.")
	case err != nil:
		s.refuseUpdate(w, r, err)
	default:
		s.recordUpdate(ctx, c, api.AuditEntry{Action: "update-file", Target: name})
		if err := s.askUpdater(context.WithoutCancel(ctx), http.MethodPost, "/v1/action", api.UpdateAction{Action: "check", By: c.Person.Name}); err != nil {
			s.log.Warn("the updater was not told of a file; it looks by itself later", "err", err)
		}
		s.box.forget()
		w.WriteHeader(http.StatusNoContent)
	}
}

// fileName is what a file is called, without what would disturb who reads it.
func fileName(name string) string {
	name = path.Base(strings.ReplaceAll(name, `\`, "/"))
	name = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, name)
	name = strings.ToValidUTF8(name[:min(len(name), maxFileName)], "")
	if name == "" || name == "." || name == "/" {
		return "update.zip"
	}
	return name
}

// deleteUpdatesFile forgets the uploaded bundle.
func (s *server) deleteUpdatesFile(w http.ResponseWriter, r *http.Request, c *caller) {
	ctx, cancel := context.WithTimeout(r.Context(), updaterTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, "http://fetcher/v1/upload", nil)
	if err == nil {
		err = said(s.fetcher.Do(req))
	}
	if err != nil {
		s.refuseUpdate(w, r, err)
		return
	}
	if err := s.askUpdater(ctx, http.MethodPost, "/v1/action", api.UpdateAction{Action: "check", By: c.Person.Name}); err != nil {
		s.log.Warn("the updater was not told that a file is gone; it looks by itself later", "err", err)
	}
	s.box.forget()
	w.WriteHeader(http.StatusNoContent)
}

// record writes into the audit log how attempts ended that ended since the last that it has, the oldest first.
func (a *attemptLog) record(ctx context.Context, u *api.Updates, history func(context.Context) ([]api.UpdateAttempt, error)) error {
	if u == nil || u.Last == nil || u.Last.Ended == nil || u.Last.ID == a.last {
		return nil
	}
	all, err := history(ctx)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(all, func(x api.UpdateAttempt) bool { return x.ID == a.last }); i >= 0 {
		all = all[:i]
	}
	all = slices.DeleteFunc(all[:min(len(all), maxCaught)], func(x api.UpdateAttempt) bool { return x.Ended == nil })
	if len(all) == 0 {
		return nil
	}
	actions := map[string]string{api.UpdateKept: "update-kept", api.UpdateBack: "update-back", api.UpdateFailed: "update-failed"}
	err = a.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, x := range slices.Backward(all) {
			action := actions[x.Outcome]
			if action == "" { // who cancelled it was recorded
				continue
			}
			args := map[string]string{}
			for name, v := range map[string]string{"from": x.From, "cause": x.Cause, "service": x.Service, "by": x.By, "source": x.Source} {
				if v != "" {
					args[name] = v
				}
			}
			if err := a.id.Record(ctx, tx, api.AuditEntry{At: *x.Ended, Action: action, Target: x.Version, Args: args}); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO settings VALUES (?, ?)", attemptKey, all[0].ID)
		return err
	})
	if err == nil {
		a.last = all[0].ID
	}
	return err
}

// attemptLog knows which attempts to change the release are in the audit log.
type attemptLog struct {
	db   *state.DB
	id   *identity.Identity
	last string // id of the latest
}

// attemptKey is where the database keeps attemptLog.last.
const attemptKey = "updates_recorded"

func openAttemptLog(ctx context.Context, db *state.DB, id *identity.Identity) (*attemptLog, error) {
	a := &attemptLog{db: db, id: id}
	err := db.SQL().QueryRowContext(ctx, "SELECT value FROM settings WHERE key = ?", attemptKey).Scan(&a.last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("read which updates were recorded: %w", err)
	}
	return a, nil
}
