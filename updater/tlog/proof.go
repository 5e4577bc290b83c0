package tlog

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// header is the first line of a proof (C2SP tlog-proof).
const header = "c2sp.org/tlog-proof@v1"

// Proof is a parsed proof; nothing of it is verified.
type Proof struct {
	Index      int64            // of the entry in the log, from 0
	Hashes     tlog.RecordProof // from the leaf's sibling up
	Checkpoint []byte           // signed note
}

// FormatProof writes a proof (C2SP tlog-proof v1): that the entry with that index stands in the tree of the checkpoint, a signed note.
func FormatProof(index int64, hashes tlog.RecordProof, checkpoint []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nindex %d\n", header, index)
	for _, h := range hashes {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n")
	b.Write(checkpoint)
	return b.Bytes()
}

// ParseProof reads a proof. Errors wrap ErrProof.
func ParseProof(b []byte) (*Proof, error) {
	bad := func(what string) (*Proof, error) { return nil, fmt.Errorf("%w: %s", ErrProof, what) }
	if len(b) > MaxProof {
		return bad("too long")
	}
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok || len(checkpoint) == 0 {
		return bad("no checkpoint")
	}
	line := strings.Split(string(head), "\n")
	if line[0] != header {
		return bad("first line")
	}
	line = line[1:]
	if len(line) > 0 && strings.HasPrefix(line[0], "extra ") { // opaque, and not authenticated by anything
		if _, err := base64.StdEncoding.Strict().DecodeString(line[0][len("extra "):]); err != nil {
			return bad("extra data")
		}
		line = line[1:]
	}
	if len(line) == 0 {
		return bad("no index")
	}
	number, ok := strings.CutPrefix(line[0], "index ")
	index, err := decimal(number)
	if !ok || err != nil || index >= MaxTree {
		return bad("index")
	}
	if len(line)-1 > 63 {
		return bad("too many hashes")
	}
	p := &Proof{Index: index, Checkpoint: checkpoint}
	for _, s := range line[1:] {
		h, err := parseHash(s)
		if err != nil {
			return bad("a hash")
		}
		p.Hashes = append(p.Hashes, h)
	}
	return p, nil
}

// Verify checks that entry stands in the policy's log, and that a quorum of witnesses has seen a tree with it. Errors wrap
// ErrProof or ErrWitnesses.
func (p *Policy) Verify(entry, proof []byte) (Checkpoint, Evidence, error) {
	pr, err := ParseProof(proof)
	if err != nil {
		return Checkpoint{}, Evidence{}, err
	}
	c, ev, err := p.Checkpoint(pr.Checkpoint)
	if err != nil {
		return Checkpoint{}, Evidence{}, err
	}
	if pr.Index >= c.Size {
		return Checkpoint{}, Evidence{}, fmt.Errorf("%w: entry %d of a tree of %d", ErrProof, pr.Index, c.Size)
	}
	if err := tlog.CheckRecord(pr.Hashes, c.Size, c.Hash, pr.Index, tlog.RecordHash(entry)); err != nil {
		return Checkpoint{}, Evidence{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return c, ev, nil
}
