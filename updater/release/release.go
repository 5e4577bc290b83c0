// Package release is the release format as data: descriptions of releases, their parts, the paths of a repository, and
// the limits of all of it. It reads and checks descriptions, and does no input or output.
//
// It implements docs/release-format.md, sections "A release" and the tree of a repository. What a description says is only
// as trustworthy as the bytes it was read from: packages trust and tlog decide about those.
package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Format is the version of the description of a release.
const Format = "croft-release/1"

// Limits of what a repository may hold, in bytes unless the name says otherwise.
const (
	MaxRoot        = 512 << 10
	MaxTimestamp   = 16 << 10
	MaxSnapshot    = 64 << 10
	MaxTargets     = 1 << 20
	MaxProof       = 64 << 10
	MaxDescription = 256 << 10
	MaxPart        = 256 << 20
	MaxNotes       = 4 << 10
	MaxPatches     = 8
	MaxCmdline     = 2048 // Linux's own limit on amd64
	MaxNewRoots    = 1024 // roots, in one refresh
	FrameSize      = 4 << 20
)

// Channel is a stream of releases.
type Channel string

// The channels.
const (
	Stable Channel = "stable"
	Beta   Channel = "beta"
)

// Release describes one release for one family of boards.
type Release struct {
	Format  string            `json:"format"` // Format
	Board   string            `json:"board"`
	Version string            `json:"version"`
	Number  int64             `json:"number"` // from 1; says alone which release is newer
	Channel Channel           `json:"channel"`
	Built   int64             `json:"built"`  // seconds since 1970
	Commit  string            `json:"commit"` // 40 hex digits
	Notes   map[string]string `json:"notes"`  // by language
	Cmdline string            `json:"cmdline"`
	Boot    Part              `json:"boot"`
	Root    Part              `json:"root"`
	SBOM    Blob              `json:"sbom"`
	State   State             `json:"state"`
}

// Part is a piece of a system: what boots, or its root file system.
type Part struct {
	Size    int64   `json:"size"`   // bytes
	SHA256  string  `json:"sha256"` // hex
	Frames  Frames  `json:"frames"`
	Patches []Patch `json:"patches,omitempty"`
}

// Frames is a part as Zstandard frames of FrameSize bytes each.
type Frames struct {
	Blob string  `json:"blob"` // hex SHA-256
	Size int64   `json:"size"` // bytes
	List []Frame `json:"list"`
}

// Frame is one compressed frame.
type Frame struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Patch turns the part with the hash From into the one it stands in.
type Patch struct {
	From     string `json:"from"`      // hex SHA-256
	FromSize int64  `json:"from_size"` // bytes
	Blob     string `json:"blob"`      // hex SHA-256
	Size     int64  `json:"size"`      // bytes
}

// Blob is a file of the repository's folder "blobs".
type Blob struct {
	Blob string `json:"blob"` // hex SHA-256
	Size int64  `json:"size"` // bytes
}

// State says which database a release makes, and the schema of the oldest release that can still read and write it.
type State struct {
	Schema int `json:"schema"`
	Reads  int `json:"reads"`
}

// ErrFormat is what Parse fails with, wrapped, where a description breaks a rule.
var ErrFormat = errors.New("the release's description is not valid")

var (
	hashRE    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	commitRE  = regexp.MustCompile(`^[0-9a-f]{40}$`)
	boardRE   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	versionRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$`)
	languages = regexp.MustCompile(`^[a-z]{2,3}(-[A-Za-z0-9]{2,8})?$`)
)

// IsHash tells whether s is a SHA-256 in lower-case hex.
func IsHash(s string) bool { return hashRE.MatchString(s) }

// IsBoard and IsVersion tell whether s can stand in a path of a repository.
func IsBoard(s string) bool { return boardRE.MatchString(s) }

// IsVersion tells whether s is a version: 1 to 64 letters, digits, and . + _ -
func IsVersion(s string) bool { return versionRE.MatchString(s) && !strings.Contains(s, "..") }

// Parse reads a description and checks every rule of the format. Errors wrap ErrFormat.
func Parse(b []byte) (*Release, error) {
	if len(b) > MaxDescription {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	var r Release
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if dec.More() {
		return nil, fmt.Errorf("%w: something follows it", ErrFormat)
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return &r, nil
}

// Validate checks every rule of the format. Errors wrap ErrFormat.
func (r *Release) Validate() error {
	bad := func(field string, v any) error { return fmt.Errorf("%w: %s %.80q", ErrFormat, field, fmt.Sprint(v)) }
	switch {
	case r.Format != Format:
		return bad("format", r.Format)
	case !IsBoard(r.Board):
		return bad("board", r.Board)
	case !IsVersion(r.Version):
		return bad("version", r.Version)
	case r.Number < 1:
		return bad("number", r.Number)
	case r.Channel != Stable && r.Channel != Beta:
		return bad("channel", r.Channel)
	case r.Built < 1 || r.Built > 1<<40:
		return bad("built", r.Built)
	case !commitRE.MatchString(r.Commit):
		return bad("commit", r.Commit)
	case r.Notes["en"] == "" || len(r.Notes) > 32:
		return bad("notes", len(r.Notes))
	case len(r.Cmdline) > MaxCmdline || strings.Count(r.Cmdline, "{root}") != 1 || strings.Count(r.Cmdline, "{slot}") != 1 ||
		strings.ContainsFunc(r.Cmdline, func(c rune) bool { return c < ' ' || c > '~' }):
		return bad("cmdline", r.Cmdline)
	case r.State.Schema < 1 || r.State.Reads < 1 || r.State.Reads > r.State.Schema:
		return bad("state", r.State)
	}
	for lang, text := range r.Notes {
		if !languages.MatchString(lang) || len(text) > MaxNotes || !utf8.ValidString(text) {
			return bad("notes", lang)
		}
	}
	if err := r.SBOM.validate("sbom"); err != nil {
		return err
	}
	if err := r.Boot.validate("boot"); err != nil {
		return err
	}
	return r.Root.validate("root")
}

func (b Blob) validate(field string) error {
	if !IsHash(b.Blob) || b.Size < 1 || b.Size > MaxPart {
		return fmt.Errorf("%w: %s", ErrFormat, field)
	}
	return nil
}

func (p *Part) validate(field string) error {
	bad := func(what string) error { return fmt.Errorf("%w: %s of %s", ErrFormat, what, field) }
	if p.Size < 1 || p.Size > MaxPart || !IsHash(p.SHA256) {
		return bad("size or hash")
	}
	if (Blob{p.Frames.Blob, p.Frames.Size}).validate("") != nil || int64(len(p.Frames.List)) != (p.Size+FrameSize-1)/FrameSize {
		return bad("frames")
	}
	var sum int64
	for _, f := range p.Frames.List {
		// A frame that can't be made smaller grows by its header and block headers only (RFC 8878 section 3.1.1).
		if f.Size < 1 || f.Size > FrameSize+FrameSize/64 || !IsHash(f.SHA256) {
			return bad("a frame")
		}
		sum += f.Size
	}
	if sum != p.Frames.Size {
		return bad("sum of the frames")
	}
	if len(p.Patches) > MaxPatches {
		return bad("number of patches")
	}
	for _, x := range p.Patches {
		if !IsHash(x.From) || x.FromSize < 1 || x.FromSize > MaxPart || (Blob{x.Blob, x.Size}).validate("") != nil {
			return bad("a patch")
		}
	}
	return nil
}

// CmdlineFor is the kernel's command line of a slot whose root partition has that PARTUUID.
func (r *Release) CmdlineFor(slot, partuuid string) string {
	return strings.NewReplacer("{root}", partuuid, "{slot}", slot).Replace(r.Cmdline)
}

// Target is the path of the description among the targets of the repository.
func Target(c Channel, board, version string) string {
	dir := "releases"
	if c == Beta {
		dir = "beta"
	}
	return path.Join(dir, board, version, "release.json")
}

// ParseTarget is the reverse of Target; ok is false for a target that describes no release.
func ParseTarget(name string) (c Channel, board, version string, ok bool) {
	s := strings.Split(name, "/")
	if len(s) != 4 || s[3] != "release.json" || !IsBoard(s[1]) || !IsVersion(s[2]) {
		return "", "", "", false
	}
	switch s[0] {
	case "releases":
		return Stable, s[1], s[2], true
	case "beta":
		return Beta, s[1], s[2], true
	}
	return "", "", "", false
}

// TargetFile is the path in the repository of the target with that path and hash (TUF section 6.2.3.1).
func TargetFile(target, sha256 string) string {
	dir, name := path.Split(target)
	return "targets/" + dir + sha256 + "." + name
}

// BlobFile is the path in the repository of the blob with that hash.
func BlobFile(sha256 string) string { return "blobs/" + sha256 }
