package webui

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
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
		for _, suffix := range []string{".one", ".other", ".title", ".text", ".next", ".submit", ".done"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if !words[key] && !words[base] && !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			t.Errorf("sentence %q is never used", key)
		}
	}
}

// Every language says everything that English says, with the same verbs.
func TestLanguages(t *testing.T) {
	all := catalogues()
	en := all[0]
	if en["lang"] != "en" {
		t.Fatal("the first catalogue is not English, for browsers that ask for none")
	}
	kinds := func(s string) string {
		v := verb.FindAllString(strings.ReplaceAll(s, "%%", ""), -1)
		for i := range v {
			v[i] = v[i][len(v[i])-1:]
		}
		slices.Sort(v)
		return strings.Join(v, "")
	}
	plain := regexp.MustCompile(`\{[a-z]+\}`)
	for _, c := range all {
		for key, text := range c {
			if strings.TrimSpace(text) == "" || text != strings.TrimSpace(text) {
				t.Errorf("%s: %q is empty, or has spaces around it: %q", c["lang"], key, text)
			}
			if base, ok := strings.CutSuffix(key, ".one"); ok && c[base+".other"] == "" {
				t.Errorf("%s: %q has no .other", c["lang"], key)
			}
		}
		if c["lang"] == "en" {
			continue
		}
		for key, text := range en {
			switch own, ok := c[key]; {
			case !ok:
				t.Errorf("%s: no sentence %q: %q", c["lang"], key, text)
			case kinds(own) != kinds(text):
				t.Errorf("%s: %q fills %q, English fills %q", c["lang"], key, kinds(own), kinds(text))
			case strings.Join(plain.FindAllString(own, -1), "") != strings.Join(plain.FindAllString(text, -1), ""):
				t.Errorf("%s: %q has other places for the script: %q", c["lang"], key, own)
			}
		}
		for key := range c {
			if _, ok := en[key]; !ok {
				t.Errorf("%s: %q is not in English", c["lang"], key)
			}
		}
	}
}

// What other processes name has a sentence. The names are read from where they are given.
func TestNamesOfOthers(t *testing.T) {
	c := english()
	names := map[string][]string{
		"problem.": api.ProblemTypes(), "field.": api.FieldCodes(), "audit.": api.AuditActions(), "alert.": api.AlertNames(),
	}
	for _, src := range []struct{ prefix, glob, pattern string }{
		{"service-name.", "../services/world/*.go", `Name: "([a-z-]+)", Title:`},
		{"phase.", "../image/boot/*.go", `\.phase\("([a-z-]+)"`},
		{"gap.", "../image/boot/*.go", `\badd\("(?:warn|info)", "([a-z-]+)"`},
		{"gap.", "../services/supervisor/*.go", `\bgap\("(?:warn|info)", "([a-z-]+)"`},
		{"notice.", "../services/*/*.go", `Notice\{\s*Name: "([a-z-]+)"`},
		{"rescue.code.", "../image/boot/*.go", `rescueError\{"([a-z0-9-]+)"`},
	} {
		files, err := filepath.Glob(src.glob)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(src.pattern).FindAllStringSubmatch(string(b), -1) {
				found++
				names[src.prefix] = append(names[src.prefix], m[1])
			}
		}
		if found == 0 {
			t.Errorf("no names in %s: did they move?", src.glob)
		}
	}
	for prefix, list := range names {
		for _, name := range list {
			if c[prefix+name] == "" {
				t.Errorf("no sentence %q", prefix+name)
			}
			if (prefix == "alert." || prefix == "notice.") && c[prefix+name+".next"] == "" {
				t.Errorf("no sentence %q", prefix+name+".next")
			}
		}
	}
}

// Sentences that other processes say in English are known by what those processes' sources say.
func TestSaid(t *testing.T) {
	de := german()
	for _, tt := range []struct{ prefix, text, want string }{
		{"gap.wifi", "anything", de["gap.wifi"]},
		{"gap.unheard-of", "A thing is odd.", "A thing is odd."},
		{"gap.driver", "A device is plugged in that this kernel has no driver for: Wi-Fi stick.", "Ein Gerät ist angesteckt, für das dieser Kern keinen Treiber hat: Wi-Fi stick."},
		{"said.network.", "Another device uses this box's address 10.0.0.2. Give one of them another address.", "Ein anderes Gerät benutzt die Adresse 10.0.0.2 dieser Box. Gib einem von beiden eine andere Adresse."},
		{"said.clock.", "The clock was right 5 hours ago and is probably still right to within a second. Croft checks it again as soon as it reaches time servers.", "Die Uhr ging vor 5 Stunden richtig und stimmt wahrscheinlich noch auf eine Sekunde. " + de["said.clock.later"]},
		{"said.clock.", de["said.clock.later"] + " and more", de["said.clock.later"] + " and more"},
		{"said.status.", "connected as 10.0.0.2", "verbunden als 10.0.0.2"},
		{"said.exit.", "killed: memory limit 64 MB", "beendet: Speichergrenze 64 MB"},
		{"said.status.", "Off.", "Aus."},
		{"said.status.", "Logs that it watches for others: 2.", "Protokolle, die er für andere im Auge behält: 2."},
		{"said.status.", "", ""},
	} {
		if got := de.said(tt.prefix, tt.text); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
		if got := english().said(tt.prefix, tt.text); tt.prefix != "gap.wifi" && got != tt.text {
			t.Errorf("%q in English: %q", tt.text, got)
		}
	}
	// A sentence of theirs that changed would stay English on a German page.
	joined := regexp.MustCompile(`"\s*\+\s*"`)
	args := regexp.MustCompile(`%[sdv](?:\.local)?|" \+ [a-z.()A-Z]+ \+ "`)
	for prefix, dirs := range map[string][]string{
		"said.network.": {"../hardware/network"}, "said.clock.": {"../hardware/clock/discipline"}, "said.finding.": {"../hardware/disk"},
		"said.status.": {"../services/network", "../services/discovery", "../services/gateway", "../services/core", "../services/fetcher", "../services/updater", "../services/witness"},
	} {
		all := ""
		for _, dir := range dirs {
			names, err := filepath.Glob(dir + "/*.go")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				all += joined.ReplaceAllString(string(b), "")
			}
		}
		all = args.ReplaceAllString(all, "*")
		for key, text := range english() {
			if !strings.HasPrefix(key, prefix) || slices.Contains([]string{"said.clock.hour", "said.clock.hours", "said.clock.days", "said.status.connected", "said.status.fingerprint"}, key) {
				continue // made of parts
			}
			if !strings.Contains(all, args.ReplaceAllString(text, "*")) {
				t.Errorf("nobody says %q any more: %q", key, text)
			}
		}
	}
}

func TestNumbers(t *testing.T) {
	for lang, want := range map[string]string{"en": "1.5 GB, 3 MB", "de": "1,5 GB, 3 MB"} {
		for _, c := range catalogues() {
			if got := c.size(1_500_000_000) + ", " + c.size(3_000_000); c["lang"] == lang && got != want {
				t.Errorf("%s: %s", lang, got)
			}
		}
	}
	if got := german().ago(time.Now().Add(-50 * time.Hour)); got != "vor 2 Tagen" {
		t.Errorf("%q", got)
	}
}

// Two templates of one name would silently be one.
func TestTemplateNames(t *testing.T) {
	define := regexp.MustCompile(`\{\{define "([^"]+)"|<symbol id="([^"]+)"`)
	seen := map[string]string{}
	for name, text := range sources(t) {
		for _, m := range define.FindAllStringSubmatch(text, -1) {
			if seen[m[1]+m[2]] != "" {
				t.Errorf("%s and %s: %s", seen[m[1]+m[2]], name, m[1]+m[2])
			}
			seen[m[1]+m[2]] = name
		}
	}
}
