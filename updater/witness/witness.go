// Package witness cosigns the checkpoints of other people's transparency logs: a statement, with a time, that a log has only ever grown.
//
// It is a server of C2SP tlog-witness (add-checkpoint) that makes cosignatures of C2SP tlog-cosignature v1 with an Ed25519 key. For each
// log that its operator named it keeps the newest checkpoint that it cosigned, durably before it answers, so that not even
// a power cut makes it sign two trees that contradict each other. It never goes back to a smaller tree. A folder that was lost is
// a witness that was lost: begin again with a new key. What a log signed against itself is kept as evidence.
package witness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Limits.
const (
	MaxRequest  = 64 << 10 // bytes of a request's body
	maxProof    = 63       // hashes (C2SP tlog-witness)
	maxSize     = 1 << 48  // entries
	maxEvidence = 16       // files per log
	maxLogs     = 64
	maxName     = 255 // bytes of a key's name
)

// Config says who the witness is and what it watches.
type Config struct {
	Name string             // of the key, by custom the address without "https://"
	Key  ed25519.PrivateKey //
	Dir  string             // the witness's memory; made if missing, and never shared with another witness
	Logs []string           // verifier keys of logs (C2SP signed-note, Ed25519); several with one name are keys of one log
	// Clock says what time it is, and whether that is certain: a cosignature is a statement about time. nil: the system's clock.
	Clock func() (now time.Time, sure bool)
	Log   *slog.Logger // nil: nobody hears
}

// Witness is one. Its methods may be called at the same time.
type Witness struct {
	name  string
	key   ed25519.PrivateKey
	dir   string
	clock func() (time.Time, bool)
	log   *slog.Logger
	lock  *os.File
	logs  map[string]*watched // by origin
	slots chan struct{}       // requests at a time
}

// watched is a log.
type watched struct {
	verifiers []note.Verifier
	file      string

	mu     sync.Mutex
	last   checkpoint // newest that was cosigned; size 0 if none
	at     time.Time  // when it was cosigned for the last time; after a restart, when it was written; zero if none
	err    error      // why the newest tree could not be remembered, so that it was not cosigned
	bucket bucket
	closed bool
}

// LogStatus is how it stands with one log.
type LogStatus struct {
	Origin   string
	Size     int64     // entries of the newest tree that was cosigned
	At       time.Time // when; zero if none was
	Err      error     // why the last tree could not be remembered, and so was not cosigned
	Evidence int       // proofs that the log contradicts itself (folder HASH.evidence in the memory)
}

// Logs says how it stands with each log, by origin.
func (w *Witness) Logs() []LogStatus {
	var all []LogStatus
	for origin, l := range w.logs {
		l.mu.Lock()
		s := LogStatus{Origin: origin, Size: l.last.size, At: l.at, Err: l.err}
		l.mu.Unlock()
		kept, _ := os.ReadDir(l.file + ".evidence") // mostly there is none
		s.Evidence = len(kept)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b LogStatus) int { return strings.Compare(a.Origin, b.Origin) })
	return all
}

// checkpoint is what C2SP tlog-checkpoint says, with the signed note that says it.
type checkpoint struct {
	origin string
	size   int64
	hash   tlog.Hash
	note   []byte
}

// CheckName tells whether a key of a witness can have a name (C2SP signed-note: no spaces, no plus signs). It has to be printable, too.
func CheckName(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '+' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}

// CheckLog returns the origin of the log whose verifier key s is.
func CheckLog(s string) (origin string, err error) {
	v, err := note.NewVerifier(s)
	if err != nil {
		return "", err
	}
	return v.Name(), nil
}

// ErrDamaged is that the memory or the key of a witness can't be read as what it was: it must not sign any more.
var ErrDamaged = errors.New("the witness's memory is damaged")

// New opens a witness. It fails if its memory is damaged or in use: then it must not sign.
func New(c Config) (*Witness, error) {
	if !CheckName(c.Name) || len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("a witness needs a key and a name without spaces and plus signs")
	}
	if len(c.Logs) == 0 || len(c.Logs) > maxLogs {
		return nil, fmt.Errorf("a witness watches 1 to %d logs, not %d", maxLogs, len(c.Logs))
	}
	w := &Witness{
		name: c.Name, key: c.Key, dir: c.Dir, clock: c.Clock, log: c.Log, logs: map[string]*watched{}, slots: make(chan struct{}, maxAtOnce),
	}
	if w.clock == nil {
		w.clock = func() (time.Time, bool) { return time.Now(), true }
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if w.lock, err = os.OpenFile(filepath.Join(c.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(w.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		w.lock.Close()
		return nil, fmt.Errorf("another witness uses %s", c.Dir)
	}
	if err := w.open(c.Logs); err != nil {
		w.lock.Close()
		return nil, err
	}
	return w, nil
}

func (w *Witness) open(logs []string) error {
	for _, key := range logs {
		v, err := note.NewVerifier(key)
		if err != nil {
			return fmt.Errorf("log %.120q: %w", key, err)
		}
		l := w.logs[v.Name()]
		if l == nil {
			sum := sha256.Sum256([]byte(v.Name()))
			l = &watched{file: filepath.Join(w.dir, hex.EncodeToString(sum[:])), bucket: newBucket()}
			w.logs[v.Name()] = l
		}
		l.verifiers = append(l.verifiers, v)
	}
	for origin, l := range w.logs {
		b, err := os.ReadFile(l.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		// Verified again: memory that a failing disk has changed must not become a reason to sign something else. A key that
		// was taken away since is no such reason, so only the form is checked where no signature can be.
		c, err := parseCheckpoint(b)
		if err != nil || c.origin != origin {
			return fmt.Errorf("%w: of log %q in %s: %w", ErrDamaged, origin, l.file, errors.Join(err, errForm))
		}
		var unverified *note.UnverifiedNoteError
		if _, err := note.Open(b, note.VerifierList(l.verifiers...)); err != nil && !errors.As(err, &unverified) {
			return fmt.Errorf("%w: of log %q in %s: %w", ErrDamaged, origin, l.file, err)
		}
		l.last = c
		if fi, err := os.Stat(l.file); err == nil {
			l.at = fi.ModTime()
		}
	}
	return nil
}

// Close ends the witness's hold of its memory. Nothing is cosigned after it has returned.
func (w *Witness) Close() error {
	for _, l := range w.logs {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
	}
	return w.lock.Close()
}

const algCosignature = 4 // C2SP tlog-cosignature, Ed25519

// VerifierKey is the witness's key as log policies name it.
func (w *Witness) VerifierKey() string {
	public := w.key.Public().(ed25519.PublicKey)
	return fmt.Sprintf("%s+%08x+%s", w.name, w.keyHash(), base64.StdEncoding.EncodeToString(append([]byte{algCosignature}, public...)))
}

func (w *Witness) keyHash() uint32 {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%c", w.name, algCosignature)
	h.Write(w.key.Public().(ed25519.PublicKey))
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// cosign makes the signature line (C2SP tlog-cosignature, "Ed25519 signed message").
func (w *Witness) cosign(text string, now time.Time) string {
	t := uint64(now.Unix())
	sig := binary.BigEndian.AppendUint32(nil, w.keyHash())
	sig = binary.BigEndian.AppendUint64(sig, t)
	sig = append(sig, ed25519.Sign(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", t, text))...)
	return fmt.Sprintf("— %s %s\n", w.name, base64.StdEncoding.EncodeToString(sig))
}

// Why a checkpoint is not cosigned.
var (
	errForm     = errors.New("the request is not formed as it has to be") // 400
	errUnknown  = errors.New("this log is not watched here")              // 404
	errUnsigned = errors.New("no valid signature of the log")             // 403
	errProof    = errors.New("the consistency proof does not hold")       // 422
	errTwoRoots = errors.New("another tree of this size was signed")      // 409
	errBusy     = errors.New("too many requests")                         // 429
	errClock    = errors.New("this witness does not know the time")       // 503
	errClosed   = errors.New("this witness has ended")                    // 503
)

// sizeError is that the old size is not that of the newest checkpoint.
type sizeError int64

func (e sizeError) Error() string {
	return fmt.Sprintf("the newest tree here has %d entries", int64(e))
}

// request is the body of add-checkpoint.
type request struct {
	old   int64
	proof tlog.TreeProof
	note  []byte
}

// parseRequest reads the body of add-checkpoint. Errors wrap errForm.
func parseRequest(b []byte) (*request, error) {
	head, signed, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		return nil, fmt.Errorf("%w: no empty line", errForm)
	}
	line := strings.Split(string(head), "\n")
	old, ok := strings.CutPrefix(line[0], "old ")
	size, err := decimal(old)
	if !ok || err != nil {
		return nil, fmt.Errorf("%w: the line with the old size", errForm)
	}
	if len(line)-1 > maxProof {
		return nil, fmt.Errorf("%w: %d hashes", errForm, len(line)-1)
	}
	r := &request{old: size, note: signed}
	for _, s := range line[1:] {
		h, err := parseHash(s)
		if err != nil {
			return nil, fmt.Errorf("%w: a hash", errForm)
		}
		r.proof = append(r.proof, h)
	}
	return r, nil
}

// parseCheckpoint reads the text of a signed note as a checkpoint; signatures are not looked at. Errors wrap errForm.
func parseCheckpoint(signed []byte) (checkpoint, error) {
	line := strings.SplitN(string(signed), "\n", 4)
	if len(line) != 4 || line[0] == "" {
		return checkpoint{}, fmt.Errorf("%w: not a checkpoint", errForm)
	}
	size, err := decimal(line[1])
	if err != nil || size > maxSize {
		return checkpoint{}, fmt.Errorf("%w: the size", errForm)
	}
	h, err := parseHash(line[2])
	if err != nil {
		return checkpoint{}, fmt.Errorf("%w: the root hash", errForm)
	}
	return checkpoint{line[0], size, h, bytes.Clone(signed)}, nil
}

func decimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, errForm
	}
	return n, nil
}

func parseHash(s string) (tlog.Hash, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize {
		return tlog.Hash{}, errForm
	}
	return tlog.Hash(b), nil
}

// emptyHash is the root of a tree without entries (RFC 6962 section 2.1).
var emptyHash = tlog.Hash(sha256.Sum256(nil))

// add is add-checkpoint: it returns the signature line. Its errors are those above.
func (w *Witness) add(body []byte) (string, error) {
	r, err := parseRequest(body)
	if err != nil {
		return "", err
	}
	c, err := parseCheckpoint(r.note)
	if err != nil {
		return "", err
	}
	l := w.logs[c.origin]
	if l == nil {
		return "", errUnknown
	}
	n, err := note.Open(r.note, note.VerifierList(l.verifiers...))
	if err != nil {
		var unverified *note.UnverifiedNoteError
		var invalid *note.InvalidSignatureError
		if errors.As(err, &unverified) || errors.As(err, &invalid) {
			return "", errUnsigned
		}
		return "", fmt.Errorf("%w: %w", errForm, err)
	}
	if r.old > c.size {
		return "", fmt.Errorf("%w: the old size is above the new one", errForm)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return "", errClosed
	}
	now, sure := w.clock()
	if !sure {
		return "", errClock
	}
	if r.old != l.last.size {
		if c.size == l.last.size && c.hash != l.last.hash {
			w.evidence(l, c)
		}
		return "", sizeError(l.last.size)
	}
	switch {
	case c.size == 0:
		if c.hash != emptyHash || len(r.proof) > 0 {
			return "", errProof
		}
	case r.old == 0:
		if len(r.proof) > 0 {
			return "", errProof
		}
	case r.old == c.size:
		if c.hash != l.last.hash {
			w.evidence(l, c)
			return "", errTwoRoots
		}
		if len(r.proof) > 0 {
			return "", errProof
		}
	default:
		if err := tlog.CheckTree(r.proof, c.size, c.hash, r.old, l.last.hash); err != nil {
			return "", errProof
		}
	}
	if c.size > l.last.size || l.last.note == nil {
		if !l.bucket.take(now) {
			return "", errBusy
		}
		if l.err = writeFile(l.file, c.note); l.err != nil {
			return "", fmt.Errorf("can't remember the checkpoint: %w", l.err)
		}
		l.last = c
	}
	l.at = now
	return w.cosign(n.Text, now), nil
}

// evidence keeps what a log has signed against itself. It is the log's own signature that makes it worth something.
func (w *Witness) evidence(l *watched, c checkpoint) {
	sum := sha256.Sum256(c.note)
	w.log.Error("a log has signed two trees of the same size", "origin", c.origin, "size", c.size)
	dir := l.file + ".evidence"
	if have, err := os.ReadDir(dir); err == nil && len(have) >= maxEvidence {
		return
	}
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = writeFile(filepath.Join(dir, hex.EncodeToString(sum[:])), bytes.Join([][]byte{l.last.note, c.note}, []byte("\n")))
	}
	if err != nil {
		w.log.Error("the evidence can't be kept", "err", err)
	}
}

// writeFile puts b at path, whole or not at all, and durably.
func writeFile(path string, b []byte) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// LoadKey reads the key of a witness that runs by itself, or makes one where there is none: its seed in the clear, in a file that only
// its owner can read.
func LoadKey(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		return key, writeFile(path, []byte(base64.StdEncoding.EncodeToString(key.Seed())+"\n"))
	} else if err != nil {
		return nil, err
	}
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%w: %s does not hold a key", ErrDamaged, path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// readBody reads a request's body, which is too long if it has more than MaxRequest bytes.
func readBody(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxRequest+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errForm, err)
	}
	if len(b) > MaxRequest {
		return nil, fmt.Errorf("%w: more than %d bytes", errForm, MaxRequest)
	}
	return b, nil
}
