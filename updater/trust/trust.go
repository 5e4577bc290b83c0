// Package trust decides which releases may be believed.
//
// It follows one publisher: from a first root on, it walks that publisher's chain of roots, and takes timestamp, snapshot, targets and
// the delegated role beta in the order of The Update Framework 1.0.34 section 5, with the transparency log of
// docs/release-format.md. Signatures are checked by go-tuf's verifier without input or output; what was verified lies in a store that
// survives power cuts at any moment and damage of either of its two files. It fetches through a Source, of which it believes nothing.
//
// Limits: Ed25519 keys only; one delegation (beta); consistent snapshots only. It does not fetch releases, and knows no policy of
// the owner: what it calls stale may still be installed by hand.
package trust

import (
	"context"
	"errors"
	"time"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
)

// Errors of this package, to be told apart with errors.Is.
var (
	ErrNotFound  = errors.New("not found")                                              // what a Source returns for a file it does not have
	ErrTooLarge  = errors.New("larger than allowed")                                    // what a Source returns for a file beyond the limit
	ErrMetadata  = errors.New("the metadata is not signed and formed as it has to be")  //
	ErrNotLogged = errors.New("not shown to be in the public log")                      // or seen by too few witnesses
	ErrSplitView = errors.New("the public log shows something else than it did before") // see Client.SplitView
	ErrRollback  = errors.New("older than what was seen before")                        //
	ErrStale     = errors.New("nothing says that this is the newest")                   // the Status that comes with it is valid
	ErrDisagree  = errors.New("project and auditor do not say the same")                //
	ErrDamaged   = errors.New("the store of what was verified can't be read")           //
)

// Source is where a repository's files come from. Nothing that it returns is believed.
type Source interface {
	// Get returns the file at a path of the repository, such as "metadata/timestamp.json", or ErrNotFound. It never returns, or
	// reads, much more than limit bytes, but ErrTooLarge.
	Get(ctx context.Context, path string, limit int64) ([]byte, error)
}

// Options say whom a client follows.
type Options struct {
	Root    []byte // the first trusted root, JSON
	Prefix  string // of all paths: "" or "auditors/NAME/"
	NeedLog bool   // refuse a root without a log policy
}

// Clock is what a client may know about the time.
type Clock struct {
	Built time.Time // when the running system was built
	Now   time.Time // the time of the system's clock
	Sure  bool      // whether anything stands for Now
}

// Target is the verified description of a file of the repository.
type Target struct {
	Path     string // such as "releases/pc/v1.4.0/release.json"
	Length   int64  // bytes
	SHA256   string // hex
	Channel  release.Channel
	Stale    bool // can't be shown to be the newest
	Evidence Evidence
}

// Evidence says who stands for metadata.
type Evidence struct {
	Signers, Of, Threshold int       // distinct keys that signed, that may sign, that have to
	Logged                 bool      // in the public log
	Witnesses              int       // distinct witnesses that the policy counts, and that saw it
	Seen                   time.Time // when the quorum of them last saw it; zero if not logged
}

// RootInfo is what an owner has to know of a root.
type RootInfo struct {
	Fingerprint string // SHA-256 of the first root that was trusted, hex
	Version     int64
	Threshold   int // signatures that a release needs
	Keys        int // that may sign releases
	Log         string
	Witnesses   int // quorum; 0: no public log
	Expires     time.Time
}

// Versions are those of the metadata that was verified last; 0 means none.
type Versions struct{ Root, Timestamp, Snapshot, Targets, Beta int64 }

// Status is what a client knows.
type Status struct {
	Root      RootInfo
	Versions  Versions
	RefTime   time.Time // what expiry was last checked against
	Expires   time.Time // when the first of root, timestamp, snapshot and targets expires
	Stale     bool
	Expired   []string            // roles that have expired, in the order of verification
	Evidence  map[string]Evidence // by role: root, targets, beta
	Beta      string              // why there are no beta releases, though there should be
	Log       *tlog.Checkpoint    // largest tree seen of the current log
	SplitView *tlog.SplitView     // what contradicts each other; nothing is taken until ForgetSplitView
}
