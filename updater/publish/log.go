package publish

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	sumdb "golang.org/x/mod/sumdb/tlog"
	"k8s.io/klog/v2"

	"github.com/croft-os/croft/updater/tlog"
)

// Tessera tells of its work in a logger of the whole program. What matters of it comes back as errors, too.
func init() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) }

// WitnessTimeout is how long a witness may take.
const WitnessTimeout = 20 * time.Second

// never is an interval that does not come: checkpoints are written by publish itself, once the witnesses have cosigned them.
const never = 100 * 365 * 24 * time.Hour

// transparency is the log of a repository, in a folder as C2SP tlog-tiles has it.
type transparency struct {
	dir     string
	signers []note.Signer // the log's key, and while it is exchanged the one before
	http    *http.Client
}

func openLog(dir string, keys []*Key, c *http.Client) (*transparency, error) {
	l := &transparency{dir: dir, http: c}
	for _, k := range keys {
		if k.Name != keys[0].Name {
			return nil, fmt.Errorf("the log's keys %s and %s have different names, so they are of different logs", keys[0].Name, k.Name)
		}
		l.signers = append(l.signers, k.note())
	}
	if len(l.signers) == 0 {
		return nil, errors.New("the log's key is missing")
	}
	if l.http == nil {
		l.http = &http.Client{Timeout: WitnessTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return l, makeDir(dir)
}

// options are Tessera's. The lists that it makes of metrics go nowhere, because nobody sets an exporter.
func (l *transparency) options() *tessera.AppendOptions {
	return tessera.NewAppendOptions().WithCheckpointSigner(l.signers[0], l.signers[1:]...)
}

// tree is the log as it lies on disk: everything that was added, whether a checkpoint speaks of it or not.
type logTree struct {
	reader tessera.LogReader
	size   uint64
	root   []byte
}

// add appends entries that are not in the log yet, durably, and returns the index of each, and the tree that has them all.
func (l *transparency) add(ctx context.Context, entries [][]byte) ([]uint64, *logTree, error) {
	for _, e := range entries {
		if len(e) > maxEntry {
			return nil, nil, fmt.Errorf("metadata of %d bytes does not fit into the log, which takes %d", len(e), maxEntry)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: l.dir})
	if err != nil {
		return nil, nil, err
	}
	opts := l.options().WithBatching(uint(max(len(entries), 1)), 50*time.Millisecond).
		WithCheckpointInterval(never).WithCheckpointRepublishInterval(0).WithGarbageCollectionInterval(0)
	appender, _, reader, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("the log in %s: %w", l.dir, err)
	}
	known, err := l.leaves(ctx, reader)
	if err != nil {
		return nil, nil, err
	}
	futures := make([]tessera.IndexFuture, len(entries))
	for i, e := range entries {
		if at, ok := known[string(rfc6962.DefaultHasher.HashLeaf(e))]; ok {
			futures[i] = func() (tessera.Index, error) { return tessera.Index{Index: at}, nil }
			continue
		}
		futures[i] = appender.Add(ctx, tessera.NewEntry(e))
	}
	at := make([]uint64, len(entries))
	for i, f := range futures {
		x, err := f()
		if err != nil {
			return nil, nil, fmt.Errorf("adding to the log in %s: %w", l.dir, err)
		}
		at[i] = x.Index
	}
	t, err := readLogTree(ctx, reader)
	return at, t, err
}

// leaves finds entries by their leaf hash.
func (l *transparency) leaves(ctx context.Context, r tessera.LogReader) (map[string]uint64, error) {
	size, err := r.IntegratedSize(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]uint64{}
	if size == 0 {
		return known, nil
	}
	hashes, err := client.FetchLeafHashes(ctx, r.ReadTile, 0, size, size)
	if err != nil {
		return nil, fmt.Errorf("reading the log in %s: %w", l.dir, err)
	}
	for i, h := range hashes {
		if _, ok := known[string(h)]; !ok {
			known[string(h)] = uint64(i)
		}
	}
	return known, nil
}

func readLogTree(ctx context.Context, r tessera.LogReader) (*logTree, error) {
	size, err := r.IntegratedSize(ctx)
	if err != nil {
		return nil, err
	}
	t := &logTree{r, size, rfc6962.DefaultHasher.EmptyRoot()}
	if size > 0 {
		nodes, err := client.FetchRangeNodes(ctx, size, r.ReadTile)
		if err != nil {
			return nil, err
		}
		cr, err := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewRange(0, size, nodes)
		if err != nil {
			return nil, err
		}
		if t.root, err = cr.GetRootHash(nil); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// witness is where one can be asked.
type witness struct {
	key string // verifier key
	url string
}

// witnesses finds out where the witnesses of policies can be asked. A witness's name is its address, but for where urls says otherwise.
func witnesses(policies []*tlog.Policy, urls map[string]string) ([]witness, error) {
	var list []witness
	seen := map[string]bool{}
	for _, p := range policies {
		for _, key := range p.WitnessKeys() {
			if seen[key] {
				continue
			}
			seen[key] = true
			name, _, _ := strings.Cut(key, "+")
			at := urls[name]
			if at == "" {
				at = "https://" + name
			}
			if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return nil, fmt.Errorf("%q is not the address of witness %s", at, name)
			}
			list = append(list, witness{key, at})
		}
	}
	return list, nil
}

// checkpoint signs the tree and has all witnesses that answer cosign it. The quorum of each policy has to be among them. What went
// wrong with others is told in problems.
func (l *transparency) checkpoint(ctx context.Context, t *logTree, ws []witness, policies []*tlog.Policy) (signed []byte, problems error, err error) {
	lines := make([][]byte, len(ws))
	errs := make([]error, len(ws))
	var wg sync.WaitGroup
	for i, w := range ws {
		wg.Go(func() {
			lines[i], errs[i] = l.cosign(ctx, t, w)
			if name, _, _ := strings.Cut(w.key, "+"); errs[i] != nil {
				errs[i] = fmt.Errorf("witness %s: %w", name, errs[i])
			}
		})
	}
	wg.Wait()
	problems = errors.Join(errs...)
	signed, err = l.options().CheckpointPublisher(t.reader, l.http)(ctx, t.size, t.root) // without witnesses: the log's signature
	if err != nil {
		return nil, problems, err
	}
	for _, line := range lines {
		signed = append(signed, line...)
	}
	for _, p := range policies {
		if _, _, err := p.Checkpoint(signed); err != nil {
			return nil, problems, errors.Join(err, problems)
		}
	}
	return signed, problems, nil
}

// cosign asks one witness (C2SP tlog-witness) and returns its signature line, verified.
func (l *transparency) cosign(ctx context.Context, t *logTree, w witness) ([]byte, error) {
	u, err := url.Parse(w.url)
	if err != nil {
		return nil, err
	}
	tw, err := tessera.NewWitness(w.key, u)
	if err != nil {
		return nil, err
	}
	opts := l.options().WithWitnesses(tessera.NewWitnessGroup(1, tw), &tessera.WitnessOptions{Timeout: WitnessTimeout})
	signed, err := opts.CheckpointPublisher(t.reader, l.http)(ctx, t.size, t.root)
	if err != nil {
		return nil, err
	}
	n, err := note.Open(signed, note.VerifierList(tw.Key))
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64), nil
}

// proveEntry shows that the entry at an index stands in the tree of that size that a checkpoint speaks of (C2SP tlog-proof).
func proveEntry(ctx context.Context, tiles client.TileFetcherFunc, size, index uint64, checkpoint []byte) ([]byte, error) {
	b, err := client.NewProofBuilder(ctx, size, tiles)
	if err != nil {
		return nil, err
	}
	hashes, err := b.InclusionProof(ctx, index)
	if err != nil {
		return nil, err
	}
	var p sumdb.RecordProof
	for _, h := range hashes {
		p = append(p, sumdb.Hash(h))
	}
	return tlog.FormatProof(int64(index), p, checkpoint), nil
}

// tidy removes lists of entries that a longer one has replaced. Tiles of hashes stay: proofs of all ages are checked with them.
func (l *transparency) tidy(size uint64) error {
	if size == 0 {
		return nil
	}
	last := layout.EntriesPath((size-1)/layout.EntryBundleWidth, layout.PartialTileSize(0, (size-1)/layout.EntryBundleWidth, size))
	if !strings.Contains(last, ".p/") {
		last += ".p/none"
	}
	dir := filepath.Join(l.dir, filepath.Dir(last))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && strconv.Itoa(n) == e.Name() && e.Name() != filepath.Base(last) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return syncDir(dir)
}

// checkpointSize is the size of the tree that a checkpoint speaks of; nothing is verified.
func checkpointSize(checkpoint []byte) (uint64, error) {
	line := bytes.SplitN(checkpoint, []byte("\n"), 4)
	if len(line) < 4 {
		return 0, errors.New("not a checkpoint")
	}
	return strconv.ParseUint(string(line[1]), 10, 64)
}

// tilesOf lists the files that hold the hashes of a tree of that size, below the log's folder.
func tilesOf(size uint64) []string {
	var list []string
	for level := uint64(0); size>>(8*level) > 0; level++ {
		n := size >> (8 * level)
		for i := range (n + layout.TileWidth - 1) / layout.TileWidth {
			list = append(list, layout.TilePath(level, i, layout.PartialTileSize(level, i, size)))
		}
	}
	return list
}

// LogEntry is what a log's entry says of itself.
type LogEntry struct {
	Index   uint64
	SHA256  string // of the entry
	Role    string // "root", "targets" or "beta"; empty if it is something else
	Version int64
	Size    int // bytes
}

// ReadLog recomputes the tree of a repository's log from its entries and compares it with the checkpoint, which the policies have
// to accept, and lists the entries.
func ReadLog(dir string, policies ...*tlog.Policy) ([]LogEntry, tlog.Checkpoint, error) {
	raw, err := readLimited(filepath.Join(dir, layout.CheckpointPath), tlog.MaxCheckpoint)
	if err != nil {
		return nil, tlog.Checkpoint{}, err
	}
	var cp tlog.Checkpoint
	for _, p := range policies {
		if cp, _, err = p.Checkpoint(raw); err != nil {
			return nil, cp, err
		}
	}
	size, err := checkpointSize(raw)
	if err != nil {
		return nil, cp, err
	}
	var list []LogEntry
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	if err := eachEntry(dir, size, func(e []byte) error {
		list = append(list, describeEntry(uint64(len(list)), e))
		return tree.Append(rfc6962.DefaultHasher.HashLeaf(e), nil)
	}); err != nil {
		return nil, cp, err
	}
	root, err := tree.GetRootHash(nil)
	if size == 0 {
		root = rfc6962.DefaultHasher.EmptyRoot()
	} else if err != nil {
		return nil, cp, err
	}
	line := bytes.SplitN(raw, []byte("\n"), 4)
	if base64.StdEncoding.EncodeToString(root) != string(line[2]) {
		return nil, cp, errors.New("the entries are not those that the checkpoint speaks of")
	}
	return list, cp, nil
}

// eachEntry reads the first entries of the log in a folder; nothing is verified.
func eachEntry(dir string, size uint64, do func(entry []byte) error) error {
	for n := uint64(0); n < size; {
		i := n / layout.EntryBundleWidth
		path := filepath.Join(dir, layout.EntriesPath(i, layout.PartialTileSize(0, i, size)))
		b, err := readLimited(path, layout.EntryBundleWidth*(maxEntry+2))
		if err != nil {
			return err
		}
		for ; len(b) > 0 && n < size; n++ {
			if len(b) < 2 || len(b) < 2+int(b[0])<<8+int(b[1]) {
				return fmt.Errorf("%s is damaged", path)
			}
			end := 2 + int(b[0])<<8 + int(b[1])
			if err := do(b[2:end]); err != nil {
				return err
			}
			b = b[end:]
		}
		if n < min(size, (i+1)*layout.EntryBundleWidth) {
			return fmt.Errorf("%s has too few entries", path)
		}
	}
	return nil
}

func describeEntry(i uint64, e []byte) LogEntry {
	x := LogEntry{Index: i, SHA256: hashOf(e), Size: len(e)}
	if r, err := parseRoot(e); err == nil {
		x.Role, x.Version = roleRoot, r.Signed.Version
	} else if t, err := parseTargets(e); err == nil {
		x.Role, x.Version = roleTargets, t.Signed.Version
		for path := range t.Signed.Targets {
			if strings.HasPrefix(path, "beta/") {
				x.Role = roleBeta
			}
		}
	}
	return x
}
