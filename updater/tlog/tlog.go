// Package tlog checks that something stands in a public log which enough independent witnesses have seen.
//
// It reads the log policy of a root (docs/release-format.md, "x-croft-log"), verifies proofs of the format C2SP tlog-proof v1
// offline (leaf and tree hashes of RFC 6962, checkpoints of C2SP tlog-checkpoint, cosignatures of C2SP tlog-cosignature v1), and
// shows that two trees of a log are consistent, from tiles (C2SP tlog-tiles) that may come from anywhere. It keeps nothing and
// believes nothing but keys. Only Ed25519 counts.
package tlog

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Limits.
const (
	MaxWitnesses  = 32
	MaxCheckpoint = 32 << 10 // bytes, signatures included
	MaxProof      = 64 << 10 // bytes
	MaxTree       = 1 << 48  // entries
	maxName       = 255      // bytes of a key's name
	maxTime       = 1 << 37  // seconds since 1970 that a cosignature may carry: the year 6325, which every format can write
)

// Algorithms of C2SP signed-note.
const (
	algLog     = 1 // Ed25519
	algWitness = 4 // timestamped Ed25519 cosignature
)

// Errors of this package, to be told apart with errors.Is.
var (
	ErrPolicy    = errors.New("the log policy is not valid")
	ErrProof     = errors.New("the proof is not valid")                // malformed, of another log, or of something else
	ErrWitnesses = errors.New("too few witnesses have cosigned")       //
	ErrTiles     = errors.New("the log's tiles do not show the trees") // missing or wrong, which says nothing about the log
)

// Policy says which log counts and whose word about it.
type Policy struct {
	log       note.Verifier
	witnesses []note.Verifier
	quorum    int
	text      policyJSON
}

type policyJSON struct {
	Log       string   `json:"log"`
	Witnesses []string `json:"witnesses"`
	Quorum    int      `json:"quorum"`
}

// NewPolicy makes a policy of verifier keys (C2SP signed-note). Two witnesses with the same public key, or one with the log's, are
// refused, whatever they are called. Errors wrap ErrPolicy.
func NewPolicy(log string, witnesses []string, quorum int) (*Policy, error) {
	if len(witnesses) > MaxWitnesses || quorum < 1 || quorum > len(witnesses) {
		return nil, fmt.Errorf("%w: a quorum of %d of %d witnesses", ErrPolicy, quorum, len(witnesses))
	}
	p := &Policy{quorum: quorum, text: policyJSON{log, witnesses, quorum}}
	seen := map[string]bool{}
	key, err := vkey(log, algLog, seen)
	if err != nil {
		return nil, err
	}
	if p.log, err = note.NewVerifier(key); err != nil {
		return nil, fmt.Errorf("%w: log: %w", ErrPolicy, err)
	}
	for _, w := range witnesses {
		key, err := vkey(w, algWitness, seen)
		if err != nil {
			return nil, err
		}
		v, err := fnote.NewVerifierForCosignatureV1(key)
		if err != nil {
			return nil, fmt.Errorf("%w: witness: %w", ErrPolicy, err)
		}
		if fmt.Sprintf("%08x", v.KeyHash()) != strings.Split(key, "+")[1] {
			return nil, fmt.Errorf("%w: witness %q: its hash is another one", ErrPolicy, v.Name())
		}
		p.witnesses = append(p.witnesses, v)
	}
	return p, nil
}

// vkey checks the outer form of a verifier key, name+hash+key, and that its raw key is not in seen yet.
func vkey(s string, alg byte, seen map[string]bool) (string, error) {
	part := strings.Split(s, "+") // the base64 of a key may hold a plus
	if len(part) < 3 || len(part[0]) == 0 || len(part[0]) > maxName || len(part[1]) != 8 {
		return "", fmt.Errorf("%w: key %.80q", ErrPolicy, s)
	}
	if _, err := hex.DecodeString(part[1]); err != nil || strings.ToLower(part[1]) != part[1] {
		return "", fmt.Errorf("%w: key %.80q", ErrPolicy, s)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.Join(part[2:], "+"))
	if err != nil || len(raw) != 33 || raw[0] != alg {
		return "", fmt.Errorf("%w: key %.80q is not of algorithm %d", ErrPolicy, s, alg)
	}
	if seen[string(raw[1:])] {
		return "", fmt.Errorf("%w: key %.80q is there twice", ErrPolicy, s)
	}
	seen[string(raw[1:])] = true
	return s, nil
}

// ParsePolicy reads the field "x-croft-log" of a root. Errors wrap ErrPolicy.
func ParsePolicy(b []byte) (*Policy, error) {
	var t policyJSON
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", ErrPolicy)
	}
	return NewPolicy(t.Log, t.Witnesses, t.Quorum)
}

// MarshalJSON is the form that ParsePolicy reads.
func (p *Policy) MarshalJSON() ([]byte, error) { return json.Marshal(p.text) }

// Origin is the name of the log, the first line of its checkpoints.
func (p *Policy) Origin() string { return p.log.Name() }

// LogKey is the log's verifier key. Policies with the same key speak of the same log.
func (p *Policy) LogKey() string { return p.text.Log }

// Quorum is how many witnesses have to have cosigned.
func (p *Policy) Quorum() int { return p.quorum }

// Witnesses is how many may.
func (p *Policy) Witnesses() int { return len(p.witnesses) }

// WitnessKeys are their verifier keys.
func (p *Policy) WitnessKeys() []string { return slices.Clone(p.text.Witnesses) }

// Checkpoint is a log's signed statement about its tree.
type Checkpoint struct {
	Origin string    `json:"origin"`
	Size   int64     `json:"size"` // entries
	Hash   tlog.Hash `json:"hash"`
	Note   []byte    `json:"note"` // as signed, with all signatures
}

// Evidence is who has seen a tree.
type Evidence struct {
	Witnesses int       // distinct ones that the policy counts
	Seen      time.Time // the quorum-th latest time of their cosignatures
}

// Checkpoint verifies a checkpoint: the log's signature, and a quorum of cosignatures. Errors wrap ErrProof or ErrWitnesses.
func (p *Policy) Checkpoint(b []byte) (Checkpoint, Evidence, error) {
	if len(b) > MaxCheckpoint {
		return Checkpoint{}, Evidence{}, fmt.Errorf("%w: a checkpoint of %d bytes", ErrProof, len(b))
	}
	// One at a time: note.Open fails on the first known key with a wrong signature, and a single broken line among the witnesses'
	// must not make the others worthless.
	n, err := note.Open(b, note.VerifierList(p.log))
	if err != nil {
		return Checkpoint{}, Evidence{}, fmt.Errorf("%w: checkpoint: %w", ErrProof, err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, Evidence{}, err
	}
	if c.Origin != p.log.Name() {
		return Checkpoint{}, Evidence{}, fmt.Errorf("%w: a checkpoint of %.80q", ErrProof, c.Origin)
	}
	c.Note = bytes.Clone(b)
	var times []int64 // latest first
	for _, w := range p.witnesses {
		n, err := note.Open(b, note.VerifierList(w))
		if err != nil || len(n.Sigs) != 1 {
			continue
		}
		t, ok := cosignedAt(n.Sigs[0])
		if !ok {
			continue
		}
		i := 0
		for i < len(times) && times[i] >= t {
			i++
		}
		times = append(times[:i], append([]int64{t}, times[i:]...)...)
	}
	if len(times) < p.quorum {
		return Checkpoint{}, Evidence{}, fmt.Errorf("%w: %d, not %d", ErrWitnesses, len(times), p.quorum)
	}
	return c, Evidence{len(times), time.Unix(times[p.quorum-1], 0).UTC()}, nil
}

// cosignedAt is the time in a cosignature (C2SP tlog-cosignature): key hash, seconds since 1970, signature.
func cosignedAt(s note.Signature) (int64, bool) {
	raw, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(raw) != 4+8+64 {
		return 0, false
	}
	t := binary.BigEndian.Uint64(raw[4:])
	return int64(t), t >= 1 && t <= maxTime
}

// parseCheckpoint reads a checkpoint's text (C2SP tlog-checkpoint).
func parseCheckpoint(text string) (Checkpoint, error) {
	line := strings.SplitN(text, "\n", 4)
	if len(line) != 4 || line[0] == "" {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint", ErrProof)
	}
	size, err := decimal(line[1])
	if err != nil || size > MaxTree {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: size %.40q", ErrProof, line[1])
	}
	h, err := parseHash(line[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: hash", ErrProof)
	}
	return Checkpoint{Origin: line[0], Size: size, Hash: h}, nil
}

// decimal reads a number as these formats write it: no sign, no leading zero.
func decimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("number %.40q", s)
	}
	return n, nil
}

func parseHash(s string) (tlog.Hash, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize {
		return tlog.Hash{}, fmt.Errorf("hash %.80q", s)
	}
	return tlog.Hash(b), nil
}
