package webui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// visit is one request of a browser: who asks, in which language, and what answers.
type visit struct {
	*server
	*language
	w       http.ResponseWriter
	r       *http.Request
	session *api.Session // of who is signed in; nil on pages for anyone
	etag    string       // of core's last answer
}

// owner says whether an owner asks.
func (v *visit) owner() bool { return v.session != nil && v.session.Role == api.RoleOwner }

// enter finds out who asks and whether they may see the page; if not, it has answered.
func (v *visit) enter(who string) bool {
	var session api.Session
	p, err := v.call(http.MethodGet, "/api/v1/session", nil, &session)
	switch {
	case err != nil || p != nil && p.Status == http.StatusServiceUnavailable:
		v.starting(err)
		return false
	case p != nil: // signed out
		to := "/"
		if isRead(v.r) && v.r.URL.Path != "/" {
			to = "/signin?" + url.Values{"to": {v.r.URL.Path}}.Encode()
		}
		v.redirect(to)
		return false
	case session.Role == api.RoleRescue && who == whoMender:
	case session.Role != api.RoleOwner && session.Role != api.RoleMember: // setting up, or in rescue mode
		v.redirect("/")
		return false
	}
	v.session = &session
	if who == whoOwner && !v.owner() || who == whoMender && session.Role == api.RoleMember {
		v.message(http.StatusForbidden, "owners")
		return false
	}
	return true
}

// starting answers while core does not.
func (v *visit) starting(err error) {
	if err != nil {
		v.log.Warn("core does not answer", "err", err)
	}
	v.w.Header().Set("Retry-After", "2")
	v.render(http.StatusServiceUnavailable, v.page("starting", nil))
}

// failed answers what can't be said at a form: that core does not answer, or its no.
func (v *visit) failed(p *api.Problem, err error) {
	switch {
	case p != nil && p.Status == http.StatusUnauthorized:
		v.redirect("/")
	case p == nil || p.Status == http.StatusServiceUnavailable:
		v.starting(err)
	case p.Status == http.StatusNotFound:
		v.message(http.StatusNotFound, "notfound")
	default:
		v.render(p.Status, v.page("message", messageView{v.text.s("refused.title"), v.problem(p)}))
	}
}

// problem says core's no in the catalogue's words.
func (v *visit) problem(p *api.Problem) string {
	name := path.Base(p.Type)
	text := v.text.or("problem."+name, p.Title+" "+p.Detail)
	if p.RetryAfter > 0 && strings.Contains(text, "%s") {
		return fmt.Sprintf(text, v.text.duration(time.Duration(min(p.RetryAfter, longestMin))*time.Second))
	}
	return text
}

// fields says what is wrong with the fields of a form, by the last part of their path.
func (v *visit) fields(p *api.Problem) map[string]string {
	out := map[string]string{}
	for _, f := range p.Fields {
		out[path.Base(f.Path)] = v.text.or("field."+f.Code, f.Text)
	}
	return out
}

// done sends the browser to a page that says what was done: the catalogue's sentence "done.NAME".
func (v *visit) done(to, name string) {
	if name != "" {
		to += "?" + url.Values{"done": {name}}.Encode()
	}
	v.redirect(to)
}

// doneText is what the page has to say of what was done before, "" if nothing.
func (v *visit) doneText() string {
	return v.text.or("done."+v.r.URL.Query().Get("done"), "")
}

// redirect sends the browser on with a GET (RFC 9110, section 15.4.4).
func (v *visit) redirect(to string) {
	v.w.Header().Del("Retry-After")
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
}

// form reads a posted form, or answers and returns false.
func (v *visit) form() bool {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		v.message(http.StatusRequestEntityTooLarge, "toolarge")
		return false
	}
	return true
}

// field is a field of the posted form, without spaces around it.
func (v *visit) field(name string) string { return strings.TrimSpace(v.r.PostForm.Get(name)) }

// request prepares a call of core's API on behalf of who asks: with their cookies, and with what the gateway knows of
// them.
func (v *visit) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://core"+path, body)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"Cookie", "User-Agent", "X-Forwarded-For", "X-Forwarded-Proto"} {
		if h := v.r.Header.Values(name); len(h) > 0 {
			req.Header[name] = h
		}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// call asks core, passes its cookies and Retry-After on, and decodes a good answer into out. Core's own no is a
// problem; an error means that core did not answer as it should. header are pairs of a name and a value.
func (v *visit) call(method, path string, in, out any, header ...string) (*api.Problem, error) {
	ctx, cancel := context.WithTimeout(v.r.Context(), apiTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := v.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := v.api.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	for _, name := range []string{"Set-Cookie", "Retry-After"} {
		for _, h := range resp.Header.Values(name) {
			v.w.Header().Add(name, h)
		}
	}
	v.etag = resp.Header.Get("ETag")
	if resp.StatusCode >= 300 {
		p := &api.Problem{}
		if err := json.Unmarshal(b, p); err != nil {
			return nil, fmt.Errorf("%s %s: %s without a problem: %w", method, path, resp.Status, err)
		}
		p.Status = resp.StatusCode
		return p, nil
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	return nil, nil
}

// message answers with a page that only says something; name chooses it from the catalogue.
func (v *visit) message(status int, name string) {
	v.render(status, v.page("message", messageView{v.text.s(name + ".title"), v.text.s(name + ".text")}))
}

// render sends a page, compressed if the browser takes it. A page that holds a secret says so, and is not compressed:
// what a stranger made it repeat beside the secret could tell it by the length (BREACH).
func (v *visit) render(status int, p *page) {
	var b bytes.Buffer
	if err := v.tmpl.ExecuteTemplate(&b, "page", p); err != nil {
		v.log.Error("can't make a page", "page", p.Kind, "err", err)
		b.Reset()
		status = http.StatusInternalServerError
		p = v.page("message", messageView{v.text.s("error.title"), v.text.s("error.text")})
		if err := v.tmpl.ExecuteTemplate(&b, "page", p); err != nil {
			http.Error(v.w, v.text.s("error.title"), status)
			return
		}
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", v.text["lang"])
	h.Set("Vary", "Accept-Encoding, Accept-Language")
	out := b.Bytes()
	if takesGzip(v.r) && !p.Secret {
		h.Set("Content-Encoding", "gzip")
		out = zip(out)
	}
	h.Set("Content-Length", strconv.Itoa(len(out)))
	v.w.WriteHeader(status)
	if _, err := v.w.Write(out); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		v.log.Debug("a page was not taken", "err", err)
	}
}
