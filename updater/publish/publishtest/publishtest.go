// Package publishtest is a publisher for the tests of others: people's keys, a repository in a folder, its log and its witnesses, all
// in one process. It signs what it is told to and asks nobody. Nothing of it belongs into a product.
package publishtest

import (
	"net/http"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/release"
)

// Options are the ways in which publishers differ. Zero means: 5 root keys of which 3 sign, likewise for targets, no beta, 3
// witnesses of which 2 have to sign.
type Options struct {
	Root, Targets, Beta [2]int           // threshold, keys; Beta zero: no role beta
	Witnesses, Quorum   int              //
	NoLog               bool             // no log policy in root
	Origin              string           // of the log; default "example.org/croft"
	Now                 func() time.Time // default time.Now; also the witnesses' clock
	Keep                int              // releases of a board; default 6
}

// Publisher is one.
type Publisher struct{}

// Release is what is published: Board, Number, Version, Boot and Root have to be given.
type Release struct {
	Board, Version string
	Number         int64
	Channel        release.Channel // default stable
	Boot, Root     []byte
	Notes          map[string]string // default: a sentence in English
	Cmdline        string            // default: a short one
	Built          time.Time         // default: now
	Commit         string            // default: zeros
	SBOM           []byte            // default: a short text
	State          release.State     // default: 1, 1
}

// New makes keys, and an empty repository signed, logged and witnessed.
func New(t testing.TB, o Options) *Publisher { panic("todo") }

// Dir is the repository's folder.
func (p *Publisher) Dir() string { panic("todo") }

// Handler serves the repository, with ranges.
func (p *Publisher) Handler() http.Handler { return http.FileServer(http.Dir(p.Dir())) }

// Root is the first root.
func (p *Publisher) Root() []byte { panic("todo") }

// AddRelease publishes a stable release.
func (p *Publisher) AddRelease(board string, number int64, version string, boot, root []byte) *release.Release {
	return p.Add(Release{Board: board, Number: number, Version: version, Boot: boot, Root: root})[0]
}

// Add publishes releases at once, in one version of the metadata.
func (p *Publisher) Add(rs ...Release) []*release.Release { panic("todo") }

// Refresh renews timestamp.json, and the proofs with the witnesses' present time.
func (p *Publisher) Refresh() { panic("todo") }

// Rotate publishes a new root: one more of its keys is exchanged for a new one.
func (p *Publisher) Rotate() { panic("todo") }

// StopWitness has a witness, counted from 0, answer no more; StartWitness undoes that.
func (p *Publisher) StopWitness(i int) { panic("todo") }

// StartWitness undoes StopWitness.
func (p *Publisher) StartWitness(i int) { panic("todo") }

// Bundle is croft-BOARD.zip with the newest release of the board.
func (p *Publisher) Bundle(board string, c release.Channel) []byte { panic("todo") }
