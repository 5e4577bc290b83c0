package webui

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sources are the templates and the Go files of the pages, without catalogues and tests.
func sources(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"templates/*.html", "*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			if strings.HasPrefix(name, "text_") || strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(b)
		}
	}
	return out
}

// Every sentence that is asked for is in the catalogue, and every one in it is asked for.
func TestCatalogue(t *testing.T) {
	c := english()
	asked := regexp.MustCompile(`\b(?:t|n) "([^"]+)"|\.(?:s|n)\("([^"]+)"[,)]`)
	quoted := regexp.MustCompile(`"([a-z0-9][a-z0-9.-]*)"`)
	words, prefixes := map[string]bool{}, []string{}
	for name, text := range sources(t) {
		for _, m := range asked.FindAllStringSubmatch(text, -1) {
			key := m[1] + m[2]
			if c[key] == "" && (c[key+".one"] == "" || c[key+".other"] == "") {
				t.Errorf("%s: no sentence %q", name, key)
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			if words[m[1]] = true; strings.HasSuffix(m[1], ".") { // a key put together at run time
				prefixes = append(prefixes, m[1])
			}
		}
	}
	for key := range c {
		base := key
		for _, suffix := range []string{".one", ".other", ".title", ".text", ".next"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if !words[key] && !words[base] && !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			t.Errorf("sentence %q is never used", key)
		}
	}
}
