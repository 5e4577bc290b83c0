package sbom

import (
	"embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// maxLicense bounds a licence file, in bytes.
const maxLicense = 256 << 10

// licenses are the sentences that make a licence. A text has a licence if it contains every phrase of all and no
// phrase of none; texts are compared in lower case with everything but letters and digits taken as one space.
var licenses = []struct {
	id   string
	all  []string
	none []string
}{
	{id: "0BSD", all: []string{"permission to use copy modify and or distribute this software for any purpose with or without fee is hereby granted the software is provided"}},
	{id: "Apache-2.0", all: []string{"apache license version 2 0"}},
	{
		id:   "BSD-2-Clause",
		all:  []string{"redistribution and use in source and binary forms", "redistributions in binary form must reproduce"},
		none: []string{"neither the name", "may not be used to endorse"},
	},
	{
		id: "BSD-3-Clause",
		all: []string{
			"redistribution and use in source and binary forms", "redistributions in binary form must reproduce",
			"to endorse or promote products derived from",
		},
	},
	{id: "CC0-1.0", all: []string{"cc0 1 0 universal"}},
	{
		id:   "ISC",
		all:  []string{"permission to use copy modify and or distribute this software for any purpose with or without fee is hereby granted provided that"},
		none: nil,
	},
	{
		id:  "ISC",
		all: []string{"permission to use copy modify and distribute this software for any purpose with or without fee is hereby granted provided that"},
	},
	{
		id: "MIT",
		all: []string{
			"permission is hereby granted free of charge to any person obtaining a copy of this software and associated documentation files",
			"the above copyright notice and this permission notice",
		},
	},
	{id: "MPL-2.0", all: []string{"mozilla public license version 2 0"}},
	{id: "Unlicense", all: []string{"this is free and unencumbered software released into the public domain"}},
}

// License recognises the licences in a licence file and returns them as an SPDX expression, or "".
func License(text string) string {
	text = normal(text)
	var found []string
	for _, l := range licenses {
		has := func(p string) bool { return strings.Contains(text, p) }
		if !slices.ContainsFunc(l.all, func(p string) bool { return !has(p) }) && !slices.ContainsFunc(l.none, has) {
			found = append(found, l.id)
		}
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " AND ")
}

// normal reduces a text to lower case words parted by single spaces.
func normal(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}), " ")
}

// ModuleLicense recognises the licence of the module at dir from its LICENSE or COPYING files, and returns the text of these
// and of its NOTICE files.
func ModuleLicense(dir string) (license, text string, err error) {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return "", "", err
	}
	var found, texts []string
	for _, e := range ents {
		name := strings.ToLower(e.Name())
		grants := strings.HasPrefix(name, "license") || strings.HasPrefix(name, "licence") || strings.HasPrefix(name, "copying")
		if e.IsDir() || strings.HasSuffix(name, ".go") || !grants && !strings.HasPrefix(name, "notice") {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", "", err
		}
		b, err := io.ReadAll(io.LimitReader(f, maxLicense))
		f.Close()
		if err != nil {
			return "", "", err
		}
		if l := License(string(b)); grants && l != "" {
			found = append(found, strings.Split(l, " AND ")...)
		}
		texts = append(texts, strings.ToValidUTF8(string(b), "\uFFFD"))
	}
	if len(found) == 0 {
		return "", "", fmt.Errorf("no licence recognised in %s", dir)
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " AND "), strings.Join(texts, "\n\n"), nil
}

//go:embed texts/*.txt
var texts embed.FS

// Text returns the words of a licence whose text does not depend on what it is for, by its SPDX identifier; an expression
// "A WITH B" or "A AND B" has the words of both. The texts are in the folder of that name.
func Text(license string) (string, error) {
	var all []string
	for id := range strings.FieldsSeq(license) {
		if id == "WITH" || id == "AND" {
			continue
		}
		b, err := texts.ReadFile("texts/" + id + ".txt")
		if err != nil {
			return "", fmt.Errorf("no text of the licence %s", id)
		}
		all = append(all, string(b))
	}
	return strings.Join(all, "\n\n"), nil
}
