package fetch

import (
	"regexp"
	"strings"

	"github.com/croft-os/croft/updater/release"
)

// Class is what a file of a repository is.
type Class int

// The classes.
const (
	ClassNone        Class = iota // no file of a repository
	ClassMark                     // croft-repository
	ClassCurrent                  // timestamp.json and checkpoint, which change under one name
	ClassMetadata                 // metadata of one version
	ClassProof                    // likewise; its checkpoint may be renewed
	ClassDescription              // a release's description, named by its hash
	ClassBlob                     // named by its hash
	ClassTile                     // of the log
)

// Limits of files that release does not name, in bytes.
const (
	maxMark       = 64
	maxCheckpoint = 32 << 10
	maxTile       = 256 * 32 // C2SP tlog-tiles: 256 hashes
	maxPath       = 256
)

const (
	auditors  = "auditors/"
	nameMark  = "croft-repository"
	checkFile = "log/checkpoint"
)

var (
	auditorRE  = regexp.MustCompile(`^auditors/[a-z0-9][a-z0-9.-]{0,62}/`)
	metadataRE = regexp.MustCompile(`^metadata/[1-9][0-9]{0,9}\.(root|snapshot|targets|beta)\.json((?:\.before)?\.tlog-proof)?$`)
	oldCheckRE = regexp.MustCompile(`^logs/[0-9a-f]{8}/checkpoint$`)
	// C2SP tlog-tiles, "Merkle Tree": tile/<L>/<N>[.p/<W>]. Bundles of entries are no part of what boxes pass on. Logs that a root
	// has left lie in "logs", by the hashes of their keys.
	tileRE = regexp.MustCompile(`^(?:log|logs/[0-9a-f]{8})/tile/([0-9]|[1-5][0-9]|6[0-3])/(x[0-9]{3}/){0,3}[0-9]{3}` +
		`(\.p/([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))?$`)
)

// Path says what the file at a path of a repository is and how many bytes it may have; ClassNone if there is none of that name
// in docs/release-format.md.
func Path(p string) (c Class, limit int64) {
	if len(p) > maxPath {
		return ClassNone, 0
	}
	rest, audited := p, false
	if m := auditorRE.FindString(p); m != "" {
		rest, audited = p[len(m):], true
	}
	switch {
	case rest == nameMark && !audited:
		return ClassMark, maxMark
	case rest == "metadata/timestamp.json":
		return ClassCurrent, release.MaxTimestamp
	case rest == checkFile, oldCheckRE.MatchString(rest):
		return ClassCurrent, maxCheckpoint
	case tileRE.MatchString(rest):
		return ClassTile, maxTile
	}
	if m := metadataRE.FindStringSubmatch(rest); m != nil {
		switch {
		case m[2] == ".tlog-proof" && m[1] != "snapshot", m[2] != "" && m[1] == "root":
			return ClassProof, release.MaxProof
		case m[2] != "":
			return ClassNone, 0
		case m[1] == "root":
			return ClassMetadata, release.MaxRoot
		case m[1] == "snapshot":
			return ClassMetadata, release.MaxSnapshot
		}
		return ClassMetadata, release.MaxTargets
	}
	if audited {
		return ClassNone, 0
	}
	if hash, ok := strings.CutPrefix(rest, "blobs/"); ok && release.IsHash(hash) {
		return ClassBlob, release.MaxPart
	}
	if target, _, ok := description(rest); ok && target != "" {
		return ClassDescription, release.MaxDescription
	}
	return ClassNone, 0
}

// description parses the path of a release's description: the target and the hash.
func description(p string) (target, hash string, ok bool) {
	rest, ok := strings.CutPrefix(p, "targets/")
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 {
		return "", "", false
	}
	hash, name, ok := strings.Cut(rest[i+1:], ".")
	target = rest[:i+1] + name
	if !ok || !release.IsHash(hash) {
		return "", "", false
	}
	if _, _, _, ok := release.ParseTarget(target); !ok {
		return "", "", false
	}
	return target, hash, true
}
