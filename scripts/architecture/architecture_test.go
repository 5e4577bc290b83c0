// Package architecture tests the rules that keep the folders the architecture: which folder may import which, one
// package comment each, and no files where none belong.
package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/croft-os/croft/"

// mayImport lists, per folder, the folders and packages of ours that it may import beside itself. The longest
// prefix counts. Mains wire the world together and are free.
var mayImport = map[string][]string{
	"hardware":     {},
	"image":        {"hardware", "updater", "services/supervisor", "services/daemon", "services/api"},
	"services":     {"hardware", "updater"},
	"services/api": {},
	"updater":      {"hardware"},
	"webui":        {"services/api"},
	"scripts":      {"hardware", "image", "services", "updater", "webui"},
}

// mainsOnly are packages that nothing but mains (and the scripts' tests) may import.
var mainsOnly = []string{"services/world"}

type pkg struct {
	ImportPath, Name, Dir string
	GoFiles               []string
	Imports               []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Dir,GoFiles,Imports", module+"...")
	cmd.Env = append(cmd.Environ(), "GOFLAGS=-tags=gokrazy")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var ps []pkg
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if len(ps) < 10 {
		t.Fatalf("only %d packages found", len(ps))
	}
	return ps
}

func under(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

// room is the folder of mayImport that a package belongs to.
func room(path string) string {
	best := ""
	for f := range mayImport {
		if under(path, f) && len(f) > len(best) {
			best = f
		}
	}
	return best
}

func allowed(from, to string) bool {
	r := room(from)
	for _, f := range append([]string{r}, mayImport[r]...) {
		if under(to, f) {
			return true
		}
	}
	return false
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if room(from) == "" {
			t.Errorf("%s is in no folder of the architecture", from)
			continue
		}
		if p.Name == "main" {
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if !allowed(from, to) {
				t.Errorf("%s must not import %s", from, to)
			}
			for _, m := range mainsOnly {
				if to == m && !under(from, "scripts") {
					t.Errorf("%s must not import %s: only mains do", from, to)
				}
			}
		}
	}
}

// TestRules makes sure that the test above can fail.
func TestRules(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		want     bool
	}{
		{"hardware/disk", "hardware/layout", true},
		{"hardware/disk", "services/api", false},
		{"image/boot", "services/supervisor", true},
		{"image/boot", "services/gateway", false},
		{"services/api", "hardware/disk", false},
		{"services/core", "services/api", true},
		{"services/core", "webui", false},
		{"webui", "services/api", true},
		{"webui", "services/core", false},
		{"updater", "services/api", false},
	} {
		if got := allowed(tc.from, tc.to); got != tc.want {
			t.Errorf("%s imports %s: allowed %v, want %v", tc.from, tc.to, got, tc.want)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		var docs []string
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				docs = append(docs, file.Doc.Text())
			}
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.Dir) + " "
		}
		switch {
		case len(p.GoFiles) == 0:
		case len(docs) != 1:
			t.Errorf("%s: %d package comments, want one", path, len(docs))
		case !strings.HasPrefix(docs[0], want):
			t.Errorf("%s: the package comment starts with %.30q, want %q", path, docs[0], want)
		}
	}
}
