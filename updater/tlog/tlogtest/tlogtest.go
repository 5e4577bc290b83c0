// Package tlogtest is a transparency log and its witnesses in memory, for tests of what verifies them: it also lies on demand. Real ones
// are made by package publish and package witness.
package tlogtest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	croft "github.com/croft-os/croft/updater/tlog"
)

// Algorithms of C2SP signed-note.
const (
	AlgLog     = 1
	AlgWitness = 4
)

// Key is a named key of a log or witness. The same name and seed make the same key.
type Key struct {
	Name string
	Alg  byte
	Priv ed25519.PrivateKey
	At   time.Time // a witness's clock
}

// NewKey makes a key of a seed.
func NewKey(alg byte, name, seed string) *Key {
	h := sha256.Sum256([]byte(seed))
	return &Key{Name: name, Alg: alg, Priv: ed25519.NewKeyFromSeed(h[:])}
}

func (k *Key) public() []byte {
	return append([]byte{k.Alg}, k.Priv.Public().(ed25519.PublicKey)...)
}

// String is the verifier key.
func (k *Key) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.Name, k.hash(), base64.StdEncoding.EncodeToString(k.public()))
}

func (k *Key) hash() uint32 {
	h := sha256.Sum256(append([]byte(k.Name+"\n"), k.public()...))
	return binary.BigEndian.Uint32(h[:])
}

// Signer signs notes; a witness's cosigns at its time.
func (k *Key) Signer() note.Signer { return signer{k} }

type signer struct{ k *Key }

func (s signer) Name() string    { return s.k.Name }
func (s signer) KeyHash() uint32 { return s.k.hash() }
func (s signer) Sign(msg []byte) ([]byte, error) {
	if s.k.Alg != AlgWitness {
		return ed25519.Sign(s.k.Priv, msg), nil
	}
	t := s.k.At.Unix()
	m := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", t, msg)
	return append(binary.BigEndian.AppendUint64(nil, uint64(t)), ed25519.Sign(s.k.Priv, m)...), nil
}

// Log is a log that remembers every entry.
type Log struct {
	Key     *Key
	Entries [][]byte
	hashes  []tlog.Hash
}

// ReadHashes is tlog.HashReader.
func (l *Log) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, x := range at {
		out[i] = l.hashes[x]
	}
	return out, nil
}

// Add appends an entry and returns its index.
func (l *Log) Add(entry []byte) int64 {
	n := int64(len(l.Entries))
	hs, err := tlog.StoredHashes(n, entry, l)
	if err != nil {
		panic(err)
	}
	l.Entries, l.hashes = append(l.Entries, entry), append(l.hashes, hs...)
	return n
}

// Fork is a log with the same key and the first n entries.
func (l *Log) Fork(n int) *Log {
	f := &Log{Key: l.Key}
	for _, e := range l.Entries[:n] {
		f.Add(e)
	}
	return f
}

// Hash is the hash of the tree of the first n entries.
func (l *Log) Hash(n int64) tlog.Hash {
	h, err := tlog.TreeHash(n, l)
	if err != nil {
		panic(err)
	}
	return h
}

// Checkpoint signs the tree of the first n entries, and has witnesses cosign it.
func (l *Log) Checkpoint(n int64, witnesses ...*Key) []byte {
	h := l.Hash(n)
	return Sign(fmt.Sprintf("%s\n%d\n%s\n", l.Key.Name, n, base64.StdEncoding.EncodeToString(h[:])), append([]*Key{l.Key}, witnesses...)...)
}

// Sign makes a note.
func Sign(text string, keys ...*Key) []byte {
	var ss []note.Signer
	for _, k := range keys {
		ss = append(ss, k.Signer())
	}
	b, err := note.Sign(&note.Note{Text: text}, ss...)
	if err != nil {
		panic(err)
	}
	return b
}

// Proof proves the entry with that index in the tree of the first n entries, or of all if n is 0.
func (l *Log) Proof(index, n int64, witnesses ...*Key) []byte {
	if n == 0 {
		n = int64(len(l.Entries))
	}
	p, err := tlog.ProveRecord(n, index, l)
	if err != nil {
		panic(err)
	}
	return croft.FormatProof(index, p, l.Checkpoint(n, witnesses...))
}

// Tiles writes the tiles of the tree of the first n entries (C2SP tlog-tiles) into files, below prefix.
func (l *Log) Tiles(files map[string][]byte, prefix string, n int64) {
	for _, t := range tlog.NewTiles(8, 0, n) {
		b, err := tlog.ReadTileData(t, l)
		if err != nil {
			panic(err)
		}
		files[prefix+strings.Replace(t.Path(), "tile/8/", "tile/", 1)] = b
	}
}
