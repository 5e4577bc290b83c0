package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/tessera/client"
	"golang.org/x/time/rate"

	"github.com/croft-os/croft/updater/tlog"
)

// Limits of a log that others may add to. Each entry is a write to the disk and a question to every witness.
const (
	addRate     = rate.Limit(0.5) // entries a second, of all together
	addBurst    = 20
	maxLogProof = 64 << 10 // bytes of an answer, for AddToLog
)

// Why a log does not take an entry.
var (
	errRefused = errors.New("this is not metadata of a publisher whom this log knows")
	errTwice   = errors.New("the log has something else of this publisher, role and version")
	errTooMany = errors.New("too many entries; try again in a minute")
)

// LogServer serves the log of a repository (C2SP tlog-tiles: checkpoint, tiles, lists of entries), and lets other publishers add to it:
// POST /add with the bytes of a root, targets or beta is answered with its proof (C2SP tlog-proof), once the entry is on the medium and the
// witnesses have cosigned. It takes what publishers signed whose first roots it was given, one entry per role and version, and
// nothing else; so nobody needs a password, and nobody can fill it. What it has taken stands in the log, which is all that it remembers.
// An entry that is there already is proved as the log stands, which costs others nothing.
type LogServer struct {
	o    LogOptions
	rate *rate.Limiter
	log  *slog.Logger

	mu        sync.Mutex // one entry at a time
	followers []*follower
	size      uint64 // entries of the log that they are told of
}

// LogOptions are what a LogServer needs.
type LogOptions struct {
	Repo      string            // folder of the repository whose log it is, and whose root says which witnesses count
	Keys      []*Key            // the log's; none: nothing can be added
	Roots     [][]byte          // first roots of other publishers; those of the repository itself are known
	Witnesses map[string]string // addresses of witnesses by name, where they are not https://NAME
	HTTP      *http.Client      // asks witnesses; nil: one that follows nobody elsewhere
	Log       *slog.Logger      // nil: nobody hears
}

// follower is what the log knows of a publisher.
type follower struct {
	first   []byte
	root    *rootMeta       // the newest; nil before the first
	targets *targetsMeta    // the newest, for beta
	seen    map[string]seen // what the log has, by the name of the file
}

type seen struct {
	hash  [32]byte
	index uint64
}

// NewLogServer opens a log.
func NewLogServer(o LogOptions) (*LogServer, error) {
	s := &LogServer{o: o, rate: rate.NewLimiter(addRate, addBurst), log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	own, _, err := s.own()
	if err != nil {
		return nil, err
	}
	for _, first := range append([][]byte{own.roots[0]}, o.Roots...) {
		r, err := parseRoot(first)
		if err != nil {
			return nil, fmt.Errorf("a publisher's first root: %w", err)
		}
		if r.Signed.Version != 1 {
			return nil, fmt.Errorf("a publisher's first root has version %d", r.Signed.Version)
		}
		s.followers = append(s.followers, &follower{first: first, seen: map[string]seen{}})
	}
	_, err = s.catchUp()
	return s, err
}

// catchUp reads what the log has since it was read last, by whomever it was added, and returns its checkpoint.
func (s *LogServer) catchUp() (checkpoint []byte, err error) {
	checkpoint, err = readLimited(filepath.Join(s.dir(), "checkpoint"), tlog.MaxCheckpoint)
	if err != nil {
		return nil, err
	}
	size, err := checkpointSize(checkpoint)
	if err != nil || size <= s.size {
		return checkpoint, err
	}
	i := uint64(0)
	return checkpoint, eachEntry(s.dir(), size, func(e []byte) error {
		if i++; i <= s.size {
			return nil
		}
		if f, file, err := s.whose(e); err == nil {
			f.take(e, file, i-1)
		}
		s.size = i
		return nil // what was taken under other rules stays
	})
}

// own reads the repository, and which witnesses its newest root counts.
func (s *LogServer) own() (*tree, *tlog.Policy, error) {
	t, err := readTree(s.o.Repo)
	if err != nil {
		return nil, nil, err
	}
	if len(t.roots) == 0 {
		return nil, nil, fmt.Errorf("%s is not a repository", s.o.Repo)
	}
	p, err := policyOf(t.root)
	if err == nil && p == nil {
		err = errors.New("this publisher has no public log")
	}
	return t, p, err
}

func (s *LogServer) dir() string { return filepath.Join(s.o.Repo, logDir) }

// whose finds the publisher of an entry, and the file that it is. The error is errRefused or errTwice.
func (s *LogServer) whose(e []byte) (*follower, string, error) {
	for _, f := range s.followers {
		file, ok := f.signed(e)
		if !ok {
			continue
		}
		if old, ok := f.seen[file]; ok && old.hash != sha256.Sum256(e) {
			return nil, "", errTwice
		}
		return f, file, nil
	}
	return nil, "", errRefused
}

// signed tells whether an entry is what the publisher's newest keys signed, or is known already, and which file it is.
func (f *follower) signed(e []byte) (file string, ok bool) {
	hash := sha256.Sum256(e)
	for file, x := range f.seen {
		if x.hash == hash {
			return file, true
		}
	}
	d, err := parseDocument(e)
	if err != nil {
		return "", false
	}
	by := func(r role, name string) bool { return r.threshold > 0 && r.check(d, name) == nil }
	if r, err := parseRoot(e); err == nil {
		file = metadataFile(roleRoot, r.Signed.Version)
		if f.root == nil {
			return file, bytes.Equal(e, f.first) && by(rootRole(r, roleRoot), file)
		}
		_, again := f.seen[file]
		return file, (again || r.Signed.Version == f.root.Signed.Version+1) && by(rootRole(f.root, roleRoot), file) && by(rootRole(r, roleRoot), file)
	}
	t, err := parseTargets(e)
	if err != nil || f.root == nil || t.Signed.Version < 1 {
		return "", false
	}
	if file = metadataFile(roleTargets, t.Signed.Version); by(rootRole(f.root, roleTargets), file) {
		return file, true
	}
	if f.targets != nil {
		if r, has := betaOf(f.targets); has {
			file = metadataFile(roleBeta, t.Signed.Version)
			return file, by(r, file)
		}
	}
	return "", false
}

// take notes an entry that the log has, the first time that it has it.
func (f *follower) take(e []byte, file string, index uint64) {
	if _, ok := f.seen[file]; ok {
		return
	}
	f.seen[file] = seen{sha256.Sum256(e), index}
	if r, err := parseRoot(e); err == nil {
		if f.root == nil || r.Signed.Version > f.root.Signed.Version {
			f.root = r
		}
	} else if t, err := parseTargets(e); err == nil && file == metadataFile(roleTargets, t.Signed.Version) {
		if f.targets == nil || t.Signed.Version > f.targets.Signed.Version {
			f.targets = t
		}
	}
}

// prove shows that an entry that was seen stands in the tree of the checkpoint, as the present policy has to accept it.
func (s *LogServer) prove(ctx context.Context, e []byte, x seen, checkpoint []byte) ([]byte, error) {
	_, policy, err := s.own()
	if err != nil {
		return nil, err
	}
	size, err := checkpointSize(checkpoint)
	if err != nil {
		return nil, err
	}
	proof, err := proveEntry(ctx, client.FileFetcher{Root: s.dir()}.ReadTile, size, x.index, checkpoint)
	if err != nil {
		return nil, err
	}
	_, _, err = policy.Verify(e, proof)
	return proof, err
}

// add puts an entry into the log, durably and cosigned, and returns its proof.
func (s *LogServer) add(ctx context.Context, e []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	checkpoint, err := s.catchUp()
	if err != nil {
		return nil, err
	}
	f, file, err := s.whose(e)
	if err != nil {
		return nil, err
	}
	if x, ok := f.seen[file]; ok {
		proof, err := s.prove(ctx, e, x, checkpoint)
		if err == nil {
			return proof, nil
		}
		s.log.Warn("an entry is proved anew, by another checkpoint", "file", filepath.Base(file), "err", err)
	}
	if !s.rate.Allow() {
		return nil, errTooMany
	}
	unlock, err := lockDir(s.o.Repo) // against who publishes there
	if err != nil {
		return nil, err
	}
	defer unlock()
	l, err := openLog(s.dir(), s.o.Keys, s.o.HTTP)
	if err != nil {
		return nil, err
	}
	at, tree, err := l.add(ctx, [][]byte{e})
	if err != nil {
		return nil, err
	}
	_, policy, err := s.own() // it may be another one by now
	if err != nil {
		return nil, err
	}
	policies := []*tlog.Policy{policy}
	ws, err := witnesses(policies, s.o.Witnesses)
	if err != nil {
		return nil, err
	}
	checkpoint, problems, err := l.checkpoint(ctx, tree, ws, policies)
	if err != nil {
		return nil, err
	}
	if problems != nil {
		s.log.Warn("not all witnesses answered", "err", problems)
	}
	if err := writeFile(filepath.Join(s.dir(), "checkpoint"), checkpoint); err != nil {
		return nil, err
	}
	s.log.Info("added", "file", filepath.Base(file), "publisher", hashOf(f.first)[:16], "index", at[0], "size", tree.size)
	if err := l.tidy(tree.size); err != nil {
		s.log.Warn("old lists of entries stay", "err", err)
	}
	return proveEntry(ctx, tree.reader.ReadTile, tree.size, at[0], checkpoint)
}

// logFile are the paths of C2SP tlog-tiles.
var logFile = regexp.MustCompile(`^(checkpoint|tile/(entries|[0-5])/(x[0-9]{3}/){0,5}[0-9]{3}(\.p/[1-9][0-9]{0,2})?)$`)

// ServeHTTP implements http.Handler.
func (s *LogServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	path := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case path == "add" && len(s.o.Keys) > 0:
		s.postAdd(w, r)
	case !logFile.MatchString(path):
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "read only", http.StatusMethodNotAllowed)
	default:
		f, err := os.OpenInRoot(s.dir(), path)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		if path == "checkpoint" {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "no-cache")
		}
		http.ServeContent(w, r, "", time.Time{}, f)
	}
}

func (s *LogServer) postAdd(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	e, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEntry))
	if err != nil {
		http.Error(w, fmt.Sprintf("an entry has at most %d bytes", maxEntry), http.StatusRequestEntityTooLarge)
		return
	}
	proof, err := s.add(context.WithoutCancel(r.Context()), e) // what has begun is brought to its end
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write(proof)
	case errors.Is(err, errRefused):
		http.Error(w, err.Error(), http.StatusForbidden)
	case errors.Is(err, errTwice):
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.Is(err, errTooMany):
		w.Header().Set("Retry-After", "60")
		http.Error(w, err.Error(), http.StatusTooManyRequests)
	default: // witnesses that don't answer, mostly; the same entry may be sent again
		s.log.Error("an entry was not added", "err", err)
		w.Header().Set("Retry-After", "60")
		http.Error(w, "the entry could not be added now", http.StatusServiceUnavailable)
	}
}

// AddToLog adds metadata to the log at an address, and returns its proof, which the policy has to accept.
func AddToLog(ctx context.Context, c *http.Client, at string, policy *tlog.Policy, entry []byte) ([]byte, error) {
	u, err := url.JoinPath(at, "add")
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(entry))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	proof, err := io.ReadAll(io.LimitReader(resp.Body, maxLogProof))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the log at %s says %s: %.200q", at, resp.Status, proof)
	}
	if _, _, err := policy.Verify(entry, proof); err != nil {
		return nil, fmt.Errorf("the log at %s: %w", at, err)
	}
	return proof, nil
}
