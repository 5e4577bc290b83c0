package webui

import (
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// language is what the pages of one language are made with.
type language struct {
	text catalogue
	tmpl *template.Template
}

// catalogues are all languages; the first is for browsers that ask for none of them. A further one is one more file and
// one more name here.
func catalogues() []catalogue { return []catalogue{english(), german()} }

func (s *server) newLanguage(c catalogue) (*language, error) {
	l := &language{text: c}
	l.tmpl = template.New("").Funcs(template.FuncMap{
		"t":        c.s,
		"n":        c.n,
		"time":     func(t time.Time) string { return c.localTime(t, s.zone()) },
		"ago":      c.ago,
		"nav":      c.nav,
		"rfc3339":  rfc3339,
		"decimal":  decimal,
		"asset":    func(name string) string { return s.assets[name].url },
		"toneIcon": func(tone string) string { return "i-" + tone },
		"content": func(p *page) (template.HTML, error) {
			var b strings.Builder
			err := l.tmpl.ExecuteTemplate(&b, p.Kind, p.Data)
			return template.HTML(b.String()), err
		},
	})
	if _, err := l.tmpl.ParseFS(files, "templates/*.html"); err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return l, nil
}

// language chooses by Accept-Language (RFC 9110, section 12.5.4): of the languages that there are the one with the
// greatest weight, of equal ones the first named. Regions don't matter.
func (s *server) language(r *http.Request) *language {
	best, weight := s.languages[0], 0.0
	for _, part := range strings.Split(r.Header.Get("Accept-Language"), ",") {
		tag, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		q := 1.0
		if v, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			var err error
			if q, err = strconv.ParseFloat(v, 64); err != nil {
				continue
			}
		}
		primary, _, _ := strings.Cut(tag, "-")
		for _, l := range s.languages {
			if strings.EqualFold(primary, l.text["lang"]) && q > weight {
				best, weight = l, q
			}
		}
	}
	return best
}
