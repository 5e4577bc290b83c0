// Package sbom writes the bill of materials of an image as an SPDX 2.3 JSON document, and recognises the licence of a
// Go module by the files in its root folder.
//
// The document is deterministic: packages are sorted, the date is the caller's, and the namespace carries the hash of the
// rest. Licences are recognised by the sentences that make them, which is enough for the licences that Go modules use; a
// module whose licence it does not recognise is an error, never a silent NOASSERTION.
package sbom

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Purposes of packages (SPDX 2.3, 7.24).
const (
	Application = "APPLICATION"
	Firmware    = "FIRMWARE"
	Library     = "LIBRARY"
	System      = "OPERATING-SYSTEM"
	Data        = "OTHER"
)

// Package is one part of what the document describes.
type Package struct {
	Name     string
	Version  string
	Supplier string // "Organization: NAME"; "" means NOASSERTION
	License  string // SPDX licence expression; "LicenseRef-" ones need Text
	Text     string // the licence's text
	Purpose  string
	PURL     string // package URL, or ""
	SHA256   string // of the package as one file, in hex, or ""
	Source   string // how the version was established, such as go.sum's hash
}

// Document describes Subject, which contains Packages.
type Document struct {
	Subject   Package
	Packages  []Package
	Created   time.Time
	Namespace string // URI prefix that the hash is appended to
	Tool      string // "NAME-VERSION" of what made the document
}

// The JSON names are SPDX 2.3's (spdx-schema.json).
type doc struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      creationInfo   `json:"creationInfo"`
	DocumentDescribes []string       `json:"documentDescribes"`
	Packages          []pkg          `json:"packages"`
	Extracted         []extracted    `json:"hasExtractedLicensingInfos,omitempty"`
	Relationships     []relationship `json:"relationships"`
}

type creationInfo struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type pkg struct {
	SPDXID           string        `json:"SPDXID"`
	Name             string        `json:"name"`
	VersionInfo      string        `json:"versionInfo"`
	Supplier         string        `json:"supplier"`
	DownloadLocation string        `json:"downloadLocation"`
	FilesAnalyzed    bool          `json:"filesAnalyzed"`
	Checksums        []checksum    `json:"checksums,omitempty"`
	SourceInfo       string        `json:"sourceInfo,omitempty"`
	LicenseConcluded string        `json:"licenseConcluded"`
	LicenseDeclared  string        `json:"licenseDeclared"`
	CopyrightText    string        `json:"copyrightText"`
	ExternalRefs     []externalRef `json:"externalRefs,omitempty"`
	Purpose          string        `json:"primaryPackagePurpose"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type externalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type extracted struct {
	ID   string `json:"licenseId"`
	Text string `json:"extractedText"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// Marshal returns the document as JSON.
func Marshal(d Document) ([]byte, error) {
	ps := slices.Clone(d.Packages)
	slices.SortFunc(ps, func(a, b Package) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Version, b.Version)
	})
	out := doc{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: d.Subject.Name,
		CreationInfo: creationInfo{d.Created.UTC().Format(time.RFC3339), []string{"Tool: " + d.Tool}},
	}
	seen := map[string]bool{}
	texts := map[string]string{}
	for i, p := range append([]Package{d.Subject}, ps...) {
		if p.License == "" || p.License == noAssertion {
			return nil, fmt.Errorf("%s %s has no licence", p.Name, p.Version)
		}
		if i > 0 && strings.HasPrefix(p.License, "LicenseRef-") {
			if p.Text == "" {
				return nil, fmt.Errorf("%s: no text for %s", p.Name, p.License)
			}
			texts[p.License] = p.Text
		}
		id := "SPDXRef-" + idString(p.Name)
		if seen[id] {
			return nil, fmt.Errorf("two packages have the identifier %s", id)
		}
		seen[id] = true
		out.Packages = append(out.Packages, convert(id, p))
		if i == 0 {
			out.DocumentDescribes = []string{id}
			out.Relationships = append(out.Relationships, relationship{out.SPDXID, "DESCRIBES", id})
		} else {
			out.Relationships = append(out.Relationships, relationship{out.DocumentDescribes[0], "CONTAINS", id})
		}
	}
	for id, text := range texts {
		out.Extracted = append(out.Extracted, extracted{id, text})
	}
	slices.SortFunc(out.Extracted, func(a, b extracted) int { return strings.Compare(a.ID, b.ID) })

	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("bill of materials: %w", err)
	}
	out.DocumentNamespace = fmt.Sprintf("%s%s-%x", d.Namespace, d.Subject.Name, sha256.Sum256(b))
	if b, err = json.MarshalIndent(out, "", "  "); err != nil {
		return nil, fmt.Errorf("bill of materials: %w", err)
	}
	return append(b, '\n'), nil
}

func convert(id string, p Package) pkg {
	out := pkg{
		SPDXID: id, Name: p.Name, VersionInfo: p.Version, Supplier: p.Supplier, DownloadLocation: noAssertion,
		SourceInfo: p.Source, LicenseConcluded: p.License, LicenseDeclared: p.License, CopyrightText: noAssertion,
		Purpose: p.Purpose,
	}
	if out.Supplier == "" {
		out.Supplier = noAssertion
	}
	if p.SHA256 != "" {
		out.Checksums = []checksum{{"SHA256", p.SHA256}}
	}
	if p.PURL != "" {
		out.ExternalRefs = []externalRef{{"PACKAGE-MANAGER", "purl", p.PURL}}
	}
	return out
}

// idString keeps what an SPDX identifier may hold: letters, digits, "." and "-".
func idString(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, s)
}
