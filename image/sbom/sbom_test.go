package sbom

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func document() Document {
	return Document{
		Subject: Package{Name: "croft-pc", Version: "v1", License: "Apache-2.0 AND MIT", Purpose: System, SHA256: strings.Repeat("ab", 32)},
		Packages: []Package{
			{Name: "github.com/b/b/v2", Version: "v2.0.0", License: "MIT", Purpose: Library, PURL: "pkg:golang/github.com/b/b/v2@v2.0.0"},
			{Name: "blob", Version: "1", License: "LicenseRef-blob", Text: "You may.", Purpose: Firmware, Supplier: "Organization: B"},
			{Name: "a", Version: "v1.0.0", License: "ISC", Purpose: Library},
		},
		Created: time.Unix(1790000000, 0), Namespace: "https://example.org/spdx/", Tool: "test-1",
	}
}

func TestMarshal(t *testing.T) {
	a, err := Marshal(document())
	if err != nil {
		t.Fatal(err)
	}
	d := document()
	d.Packages[0], d.Packages[2] = d.Packages[2], d.Packages[0]
	if b, err := Marshal(d); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the order of packages shows in the document: %v", err)
	}
	d.Packages[0].Version = "v9.9.9"
	b, err := Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	namespace := regexp.MustCompile(`"documentNamespace": "(.*)"`)
	if bytes.Equal(namespace.Find(a), namespace.Find(b)) {
		t.Error("two documents share a namespace")
	}
	var got doc
	if err := json.Unmarshal(a, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Packages) != 4 || len(got.Relationships) != 4 || len(got.Extracted) != 1 || got.CreationInfo.Created != "2026-09-21T14:13:20Z" {
		t.Errorf("got %+v", got)
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, change := range map[string]func(*Document){
		"no licence":      func(d *Document) { d.Packages[0].License = "" },
		"NOASSERTION":     func(d *Document) { d.Packages[0].License = "NOASSERTION" },
		"no licence text": func(d *Document) { d.Packages[1].Text = "" },
		"two of one name": func(d *Document) { d.Packages[0].Name = "a" },
	} {
		d := document()
		change(&d)
		if _, err := Marshal(d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLicense(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", ""},
		{"All rights reserved. Do what we say.", ""},
		{"                                 Apache License\n                           Version 2.0, January 2004\n", "Apache-2.0"},
		{"Mozilla Public License Version 2.0\n====", "MPL-2.0"},
		{"Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted, provided that the above", "ISC"},
		{"Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted.\n\nTHE SOFTWARE IS PROVIDED", "0BSD"},
		{
			"Redistribution and use in source and binary forms, with or without\n// modification…\n * Redistributions in binary form must reproduce the above",
			"BSD-2-Clause",
		},
		{
			"Redistribution and use in source and binary forms. Redistributions in binary form must reproduce … Neither the name of X nor the names of " +
				"its contributors may be used to endorse or promote products derived from this software",
			"BSD-3-Clause",
		},
	} {
		if got := License(tc.text); got != tc.want {
			t.Errorf("%.40q: got %q, want %q", tc.text, got, tc.want)
		}
	}
}

func TestModuleLicense(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := ModuleLicense(dir); err == nil {
		t.Error("a module without a licence was accepted")
	}
	for name, text := range map[string]string{
		"LICENSE-APACHE": "Apache License\nVersion 2.0",
		"COPYING":        "Mozilla Public License Version 2.0",
		"license.go":     "package x // This is free and unencumbered software released into the public domain.",
		"README":         "CC0 1.0 Universal",
		"NOTICE":         "Copyright Somebody, and mind the MIT licence.",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, text, err := ModuleLicense(dir)
	if err != nil || got != "Apache-2.0 AND MPL-2.0" {
		t.Errorf("got %q, %v", got, err)
	}
	if want := "Mozilla Public License Version 2.0\n\nApache License\nVersion 2.0\n\nCopyright Somebody, and mind the MIT licence."; text != want {
		t.Errorf("text %q, want %q", text, want)
	}
}

func TestText(t *testing.T) {
	for license, wants := range map[string][]string{
		"GPL-2.0-only":      {"GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991"},
		"LGPL-2.1-or-later": {"GNU LESSER GENERAL PUBLIC LICENSE\n                       Version 2.1, February 1999"},
		"MPL-2.0":           {"Mozilla Public License Version 2.0"},
		"blessing":          {"May you do good and not evil."},
		"GPL-3.0-or-later WITH GCC-exception-3.1": {
			"GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007", "GCC RUNTIME LIBRARY EXCEPTION",
		},
	} {
		got, err := Text(license)
		if err != nil {
			t.Error(err)
		}
		for _, w := range wants {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in %.300q", license, w, got)
			}
		}
	}
	if _, err := Text("LicenseRef-unknown"); err == nil {
		t.Error("an unknown licence has a text")
	}
}

// TestLinkedModules: every module that the two programs link has a licence that is recognised, on both architectures.
func TestLinkedModules(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Dir}}{{end}}",
			"github.com/croft-os/croft/image/init", "github.com/croft-os/croft/services/croftd")
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for line := range strings.Lines(string(out)) {
			path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
			if path == "" || seen[path] {
				continue
			}
			seen[path] = true
			if l, _, err := ModuleLicense(dir); err != nil {
				t.Errorf("%s: %v", path, err)
			} else {
				t.Logf("%s %s: %s", arch, path, l)
			}
		}
		if len(seen) < 3 {
			t.Errorf("%s: only %d modules found", arch, len(seen))
		}
	}
}
