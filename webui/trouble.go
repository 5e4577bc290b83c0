package webui

import (
	"net/http"
	"net/url"
	"path"

	"github.com/croft-os/croft/services/api"
)

// trouble is what was wrong with a form that was sent: the form is shown again with it.
type trouble struct {
	Status  int               // of the answer; 200 without trouble
	Problem string            // above the form; empty if a field says it all
	Fields  map[string]string // by name of the field
}

// trouble puts core's no where it belongs. at names the fields of the form: each by the last part of its path in core's
// request, or by the type of the problem that is about it. ok is false if there is no form to go back to, and it has
// answered.
func (v *visit) trouble(p *api.Problem, err error, at map[string]string) (t trouble, ok bool) {
	switch {
	case err != nil:
		v.log.Warn("core does not answer", "err", err)
		return trouble{http.StatusServiceUnavailable, v.text.s("problem.starting"), nil}, true
	case p.Status == http.StatusUnauthorized || p.Status == http.StatusNotFound:
		v.failed(p, nil)
		return trouble{}, false
	}
	t = trouble{Status: p.Status, Fields: map[string]string{}}
	for name, text := range v.fields(p) {
		if field := at[name]; field != "" {
			t.Fields[field] = text
		} else {
			t.Problem = text
		}
	}
	if name := path.Base(p.Type); at[name] == "" {
	} else if name == "wrong-password" { // of who is signed in; what else it says is about signing in
		t.Fields[at[name]] = v.text.s("my-password.wrong")
	} else {
		t.Fields[at[name]] = v.problem(p)
	}
	if len(t.Fields) == 0 && t.Problem == "" {
		t.Problem = v.problem(p)
	}
	return t, true
}

// wrong is trouble that the page itself found at a field.
func wrong(field, text string) trouble {
	return trouble{Status: http.StatusUnprocessableEntity, Fields: map[string]string{field: text}}
}

// status is that of the answer.
func (t trouble) status() int {
	if t.Status == 0 {
		return http.StatusOK
	}
	return t.Status
}

// all reads every page of one of core's lists, at most as much as a household can have.
func all[T any](v *visit, path string) ([]T, *api.Problem, error) {
	var out []T
	after := ""
	for range maxPages {
		var list api.List[T]
		if p, err := v.call(http.MethodGet, path+"?limit=200"+after, nil, &list); p != nil || err != nil {
			return nil, p, err
		}
		out = append(out, list.Items...)
		if list.Next == "" {
			break
		}
		after = "&after=" + url.QueryEscape(list.Next)
	}
	return out, nil, nil
}

const maxPages = 10
