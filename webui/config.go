package webui

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// configRoutes are the pages of the configuration document: taking it along, bringing it back, and its history.
func configRoutes() []route {
	return []route{
		{"GET /box/config", whoOwner, (*visit).getConfig},
		{"GET /box/config/export", whoOwner, (*visit).getExport},
		{"GET /box/config/import", whoOwner, (*visit).getImport},
		{"POST /box/config/import", whoOwner, (*visit).postImport},
		{"POST /box/config/apply", whoOwner, (*visit).postApply},
		{"POST /box/config/undo", whoOwner, (*visit).postUndo},
	}
}

const (
	maxDocument = 64 << 10            // bytes of a configuration document
	maxUpload   = maxDocument + 8<<10 // of a form that brings one
	changesPage = 20                  // changes on one page of the history
	exportName  = "croft-config" + ".json"
)

// config is the present document and its tag; ok is false if it has answered.
func (v *visit) config() (doc api.Config, etag string, ok bool) {
	p, err := v.call(http.MethodGet, "/api/v1/config", nil, &doc)
	if p != nil || err != nil {
		v.failed(p, err)
		return doc, "", false
	}
	return doc, v.etag, true
}

// change puts a document in the place of the one with the tag.
func (v *visit) change(doc any, etag string) (res api.ConfigResult, p *api.Problem, err error) {
	p, err = v.call(http.MethodPut, "/api/v1/config", doc, &res, "If-Match", etag)
	return res, p, err
}

// oneField makes problems of a list's entries those of the list, which the page shows as one field.
func oneField(p *api.Problem, list string) {
	if p == nil {
		return
	}
	for i, f := range p.Fields {
		if strings.HasPrefix(f.Path, list+"/") {
			p.Fields[i].Path = list
		}
	}
}

// applied answers after the document was changed: with the trial of the network or the box's new address if that is what
// it came to, else with the page to and its sentence.
func (v *visit) applied(res api.ConfigResult, to, done string) {
	if view, ok := v.renamed(res); ok {
		p := v.page("renamed", view)
		p.Session = nil // the links of the navigation may lead nowhere now
		v.render(http.StatusOK, p)
		return
	}
	switch {
	case res.Trial != nil:
		v.redirect("/box/network/trial")
	case len(res.Differences) == 0:
		v.done(to, "nothing-changed")
	default:
		v.done(to, done)
	}
}

// diffView is one difference in words.
type diffView struct {
	What, Before, After string
	Note                string
}

// diffs says differences in words.
func (c catalogue) diffs(all []api.Difference) []diffView {
	var out []diffView
	for _, d := range all {
		v := diffView{What: c.part(d.Path), Before: c.value(d.Path, d.Before), After: c.value(d.Path, d.After)}
		if strings.HasPrefix(d.Path, "/people/") && empty(d.Before) {
			v.Note = c.s("diff.person.new")
		}
		out = append(out, v)
	}
	return out
}

// part names a part of the document by its path (docs/config.md).
func (c catalogue) part(p string) string {
	name := unescape(path.Base(p))
	switch {
	case p == "/name":
		return c.s("box-name.label")
	case p == "/time_zone":
		return c.s("box-zone.title")
	case p == "/network/ntp":
		return c.s("network.ntp")
	case strings.HasPrefix(p, "/network/interfaces/"):
		return c.connection(name)
	case strings.HasPrefix(p, "/people/"):
		return c.s("diff.person", name)
	case strings.HasPrefix(p, "/updates/"):
		return c.or("diff.updates."+name, p)
	case p == "/witness":
		return c.s("diff.witness")
	}
	return p
}

func unescape(token string) string { return strings.NewReplacer("~1", "/", "~0", "~").Replace(token) }

func empty(b json.RawMessage) bool {
	s := strings.TrimSpace(string(b))
	return s == "" || s == "null" || s == `""` || s == "[]" || s == "{}"
}

// value says a part's value.
func (c catalogue) value(p string, raw json.RawMessage) string {
	if strings.HasPrefix(p, "/updates/") {
		return c.policyValue(strings.TrimPrefix(p, "/updates/"), raw)
	}
	if empty(raw) {
		switch {
		case p == "/time_zone":
			return c.s("diff.zone.none")
		case p == "/network/ntp":
			return c.s("diff.ntp.none")
		case strings.HasPrefix(p, "/network/interfaces/"):
			return c.s("network.dhcp")
		}
		return c.s("diff.none")
	}
	var text string
	var list []string
	var static api.StaticConfig
	var person api.ConfigPerson
	var witness api.WitnessConfig
	switch {
	case p == "/name" && json.Unmarshal(raw, &text) == nil:
		return text + ".local"
	case json.Unmarshal(raw, &text) == nil:
		return text
	case json.Unmarshal(raw, &list) == nil:
		return strings.Join(list, ", ")
	case strings.HasPrefix(p, "/people/") && json.Unmarshal(raw, &person) == nil:
		return c.or("role."+person.Role, person.Role)
	case strings.HasPrefix(p, "/network/interfaces/") && json.Unmarshal(raw, &static) == nil:
		return c.static(static)
	case p == "/witness" && json.Unmarshal(raw, &witness) == nil:
		return witness.Name + ": " + strings.Join(witness.Logs, ", ")
	}
	return string(raw)
}

// static says fixed addresses.
func (c catalogue) static(s api.StaticConfig) string {
	out := []string{joined(s.Addresses)}
	if s.Gateway.IsValid() {
		out = append(out, c.s("diff.gateway", s.Gateway))
	}
	if len(s.DNS) > 0 {
		out = append(out, c.s("diff.dns", joined(s.DNS)))
	}
	return strings.Join(out, "; ")
}

func joined[T netip.Addr | netip.Prefix](list []T) string {
	var out []string
	for _, a := range list {
		switch a := any(a).(type) {
		case netip.Addr:
			out = append(out, a.String())
		case netip.Prefix:
			out = append(out, a.String())
		}
	}
	return strings.Join(out, ", ")
}

// configView is the page of the document and its history.
type configView struct {
	trouble
	Changes []changeView
	Older   string // address of the next page
	Newer   bool   // this is not the first
}

// changeView is one change of the document.
type changeView struct {
	ID    int64
	At    time.Time
	By    string
	Took  bool // it took back another
	Undo  bool
	Diffs []diffView
}

func (v *visit) getConfig() { v.configPage(trouble{}) }

func (v *visit) configPage(t trouble) {
	q := url.Values{"limit": {strconv.Itoa(changesPage)}}
	after := v.r.URL.Query().Get("after")
	if after != "" {
		q.Set("after", after)
	}
	var list api.List[api.ConfigChange]
	p, err := v.call(http.MethodGet, "/api/v1/config/changes?"+q.Encode(), nil, &list)
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	view := configView{trouble: t, Newer: after != ""}
	for _, c := range list.Items {
		view.Changes = append(view.Changes, changeView{c.ID, c.At, c.By, c.Undoes != 0, c.CanUndo, v.text.diffs(c.Differences)})
	}
	if list.Next != "" {
		view.Older = "/box/config?" + url.Values{"after": {list.Next}}.Encode()
	}
	v.render(t.status(), v.page("config", view))
}

func (v *visit) getExport() {
	var doc json.RawMessage
	p, err := v.call(http.MethodGet, "/api/v1/config", nil, &doc)
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(doc), "", "  "); err != nil {
		v.failed(nil, err)
		return
	}
	b.WriteByte('\n')
	h := v.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Disposition", `attachment; filename="`+exportName+`"`)
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	v.w.Write(b.Bytes())
}

// importView is the form that takes a document.
type importView struct {
	trouble
	Document input
	Problems []fact // by path
}

func (v *visit) getImport() { v.importPage("", nil, trouble{}) }

func (v *visit) importPage(text string, problems []api.FieldProblem, t trouble) {
	view := importView{trouble: t, Document: input{
		Name: "document", Label: v.text.s("import.paste"), Value: text, Problem: t.Fields["document"], Exact: true, Loose: true,
	}}
	if len(problems) > 0 { // the sentence stands above its list
		view.Problem, view.Document.Problem = cmp.Or(view.Problem, view.Document.Problem), ""
	}
	for _, p := range problems {
		view.Problems = append(view.Problems, fact{p.Path, v.text.or("field."+p.Code, p.Text)})
	}
	v.render(t.status(), v.page("import", view))
}

// upload reads a form with a document in it: the pasted one, or else the file's. ok is false if it has answered.
func (v *visit) upload() (text string, ok bool) {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxUpload)
	var tooLarge *http.MaxBytesError
	switch err := v.r.ParseMultipartForm(maxUpload); {
	case errors.As(err, &tooLarge):
		v.message(http.StatusRequestEntityTooLarge, "toolarge")
		return "", false
	case err != nil:
		v.importPage("", nil, wrong("document", v.text.s("import.rubbish")))
		return "", false
	}
	if files := v.r.MultipartForm.File["file"]; len(files) > 0 && files[0].Size > 0 {
		f, err := files[0].Open()
		if err != nil {
			v.failed(nil, err)
			return "", false
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			v.failed(nil, err)
			return "", false
		}
		return strings.ToValidUTF8(string(b), "�"), true
	}
	return v.r.PostForm.Get("document"), true
}

// importCheckView shows what a document would change.
type importCheckView struct {
	Document, ETag string
	Diffs          []diffView
	Network        bool // will be tried first
	Rename         string
}

func (v *visit) postImport() {
	text, ok := v.upload()
	if !ok {
		return
	}
	if strings.TrimSpace(text) == "" {
		v.importPage("", nil, wrong("document", v.text.s("import.nothing")))
		return
	}
	if !json.Valid([]byte(text)) {
		v.importPage(text, nil, wrong("document", v.text.s("import.rubbish")))
		return
	}
	_, etag, ok := v.config() // before the check, so that what the page shows is what will be changed
	if !ok {
		return
	}
	var check api.ConfigCheck
	p, err := v.call(http.MethodPost, "/api/v1/config/check", json.RawMessage(text), &check)
	switch {
	case p != nil || err != nil:
		if t, ok := v.trouble(p, err, map[string]string{"not-json": "document", "too-large": "document"}); ok {
			var problems []api.FieldProblem
			if p != nil {
				problems = p.Fields
			}
			v.importPage(text, problems, t)
		}
	case len(check.Problems) > 0:
		v.importPage(text, check.Problems, wrong("document", v.text.s("import.problems")))
	case len(check.Differences) == 0:
		v.importPage(text, nil, wrong("document", v.text.s("import.same")))
	default:
		view := importCheckView{Document: text, ETag: etag, Diffs: v.text.diffs(check.Differences)}
		for _, d := range check.Differences {
			view.Network = view.Network || strings.HasPrefix(d.Path, "/network/")
			if d.Path == "/name" {
				view.Rename = v.text.value(d.Path, d.After)
			}
		}
		v.render(http.StatusOK, v.page("import-check", view))
	}
}

func (v *visit) postApply() {
	text, ok := v.upload()
	if !ok {
		return
	}
	if !json.Valid([]byte(text)) {
		v.importPage(text, nil, wrong("document", v.text.s("import.rubbish")))
		return
	}
	res, p, err := v.change(json.RawMessage(text), v.field("etag"))
	if p == nil && err == nil {
		v.applied(res, "/box/config", "config-imported")
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"not-json": "document"}); ok {
		var problems []api.FieldProblem
		if p != nil {
			problems = p.Fields
		}
		v.importPage(text, problems, t)
	}
}

func (v *visit) postUndo() {
	if !v.form() {
		return
	}
	id, err := strconv.ParseInt(v.field("change"), 10, 64)
	if err != nil {
		v.message(http.StatusNotFound, "notfound")
		return
	}
	var res api.ConfigResult
	p, err := v.call(http.MethodPost, "/api/v1/config/undo", api.UndoRequest{Change: id}, &res)
	if p == nil && err == nil {
		v.applied(res, "/box/config", "config-undone")
		return
	}
	if t, ok := v.trouble(p, err, nil); ok {
		v.configPage(t)
	}
}
