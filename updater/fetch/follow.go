package fetch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/trust"
)

// Verifier decides what a store takes over: a *trust.Client.
type Verifier interface {
	Refresh(ctx context.Context, src trust.Source, clock trust.Clock) (trust.Status, error)
	Targets() []trust.Target
}

// Follower keeps the metadata of one repository, or of one auditor, in a store.
type Follower struct {
	Store  *Store
	Client Verifier // remembers, so that nobody can show it something older
	// Fresh makes one that has seen nothing but the first root, for one use; end removes it. It judges whether what the store
	// holds is all that somebody needs who starts from there.
	Fresh  func() (v Verifier, end func(), err error)
	Root   []byte // that first root
	Prefix string // "" or "auditors/NAME/"
	Board  string // whose descriptions are kept
}

// Limits of Follow.
const (
	maxRecorded     = 64 << 20 // bytes of metadata that one source may make us hold
	maxDescriptions = 512      // of one board
	maxTree         = 1 << 20  // entries: of a larger log only what verification read is kept
)

// Follow has the client look for news at src, and copies what it verified into the store: roots with their proofs, the current
// metadata, the log's checkpoint and tiles, and the descriptions of the board's releases, so that whoever reads the store finds
// all that is needed to verify it again. What src says that is not confirmed changes nothing. ErrStale (of trust) alone counts as
// confirmed: others need to see that, too.
func (f *Follower) Follow(ctx context.Context, src Source, clock trust.Clock) (trust.Status, error) {
	news := &reader{from: []trust.Source{src}, read: map[string][]byte{}}
	st, stale := f.Client.Refresh(ctx, news, clock)
	if stale != nil && !errors.Is(stale, trust.ErrStale) {
		return st, stale
	}
	c := &copying{Follower: f, ctx: ctx, src: src, st: st}
	// What is kept already counts first, but what was just read; if that does not fit together, only what src says.
	all, err := c.confirm(clock, news, f.Store, src)
	if err != nil && ctx.Err() == nil {
		all, err = c.confirm(clock, news, src)
	}
	if err != nil {
		return st, fmt.Errorf("what %s has is not all that is needed: %w", src.Name(), err)
	}
	if err := c.keep(all); err != nil {
		return st, fmt.Errorf("keep what %s has: %w", src.Name(), err)
	}
	return st, errors.Join(stale, c.missing)
}

// reader looks for files in several places, and remembers what was read.
type reader struct {
	from []trust.Source
	read map[string][]byte
	size int
}

func (r *reader) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	if b, ok := r.read[path]; ok && int64(len(b)) <= limit {
		return b, nil
	}
	for _, s := range r.from {
		b, err := s.Get(ctx, path, limit)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r.size += len(b); r.size > maxRecorded {
			return nil, fmt.Errorf("metadata in all: %w", ErrTooLarge)
		}
		r.read[path] = b
		return b, nil
	}
	return nil, notFound(path)
}

// copying is one source's news on their way into the store.
type copying struct {
	*Follower
	ctx context.Context
	src Source
	st  trust.Status

	tilesRead map[string][]byte
	missing   error // what could not be had of descriptions, without which all else is of use
}

// confirm has a client that knows only the first root read what there is. It returns all that it read.
func (c *copying) confirm(clock trust.Clock, news *reader, places ...trust.Source) (map[string][]byte, error) {
	v, end, err := c.Fresh()
	if err != nil {
		return nil, err
	}
	defer end()
	r := &reader{from: places, read: maps.Clone(news.read), size: news.size}
	st, err := v.Refresh(c.ctx, r, clock)
	if err != nil && !errors.Is(err, trust.ErrStale) {
		return nil, err
	}
	if st.Versions != c.st.Versions {
		return nil, fmt.Errorf("%w: versions %v, not %v", ErrLied, st.Versions, c.st.Versions)
	}
	return r.read, nil
}

// keep takes over what was confirmed. What everything else hangs on comes last, so that the store makes sense at any time.
func (c *copying) keep(all map[string][]byte) error {
	c.tilesRead = all
	for _, step := range []func() error{c.tiles, c.descriptions, c.oldRoots} {
		if err := step(); err != nil {
			return err
		}
	}
	if c.Prefix == "" {
		if err := c.Store.Put(nameMark, []byte(Mark+"\n")); err != nil {
			return err
		}
	}
	paths := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		ca, _ := Path(a)
		cb, _ := Path(b)
		return cmp.Or(cmp.Compare(order(ca), order(cb)), strings.Compare(a, b))
	})
	for _, p := range paths {
		rest := strings.TrimPrefix(p, c.Prefix)
		switch class, _ := Path(p); {
		case class == ClassNone, rest == checkFile, oldCheckRE.MatchString(rest): // the latter were not verified: see checkpoint
		case class == ClassTile && strings.HasPrefix(rest, "log/"): // see tiles
		case c.st.Beta != "" && strings.Contains(rest, ".beta.json"): // it was not confirmed
		case class == ClassProof && c.older(p, all[p]):
		case class == ClassCurrent:
			if err := c.checkpoint(); err != nil {
				return err
			}
			fallthrough
		default:
			if err := c.Store.Put(p, all[p]); err != nil {
				return err
			}
		}
	}
	return c.prune()
}

// order has what others refer to first.
func order(c Class) int {
	return slices.Index([]Class{ClassTile, ClassProof, ClassMetadata, ClassCurrent}, c)
}

// older tells whether a proof is of a smaller tree than the one that is kept.
func (c *copying) older(path string, b []byte) bool {
	kept, err := c.Store.Get(c.ctx, path, release.MaxProof)
	if err != nil {
		return false
	}
	size := func(b []byte) int64 {
		p, err := tlog.ParseProof(b)
		if err != nil {
			return -1
		}
		n, _ := treeSize(p.Checkpoint)
		return n
	}
	return size(b) < size(kept)
}

// treeSize reads the second line of a checkpoint (C2SP tlog-checkpoint).
func treeSize(checkpoint []byte) (int64, bool) {
	lines := bytes.SplitN(checkpoint, []byte("\n"), 3)
	if len(lines) < 3 {
		return -1, false
	}
	n, err := strconv.ParseInt(string(lines[1]), 10, 64)
	return n, err == nil
}

// optional copies a file that may be missing, and that nobody here has verified: others do.
func (c *copying) optional(path string) error {
	if c.Store.Has(path, -1) {
		return nil
	}
	_, limit := Path(path)
	b, err := c.src.Get(c.ctx, path, limit)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrTooLarge) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Store.Put(path, b)
}

// oldRoots keeps the first root that we trust, and copies the ones before it, for neighbours who come from further back.
func (c *copying) oldRoots() error {
	var root struct{ Signed struct{ Version int64 } }
	if err := json.Unmarshal(c.Root, &root); err != nil {
		return fmt.Errorf("the first root: %w", err)
	}
	name := func(n int64) string { return fmt.Sprintf("%smetadata/%d.root.json", c.Prefix, n) }
	for n := int64(1); n < root.Signed.Version; n++ {
		if err := errors.Join(c.optional(name(n)), c.optional(name(n)+".tlog-proof")); err != nil {
			return err
		}
	}
	return errors.Join(c.Store.Put(name(root.Signed.Version), c.Root), c.optional(name(root.Signed.Version)+".tlog-proof"))
}

// checkpoint copies the log's own, if it is of the tree that is trusted.
func (c *copying) checkpoint() error {
	if c.st.Log == nil {
		return nil
	}
	path := c.Prefix + checkFile
	b, err := c.src.Get(c.ctx, path, maxCheckpoint)
	if errors.Is(err, ErrNotFound) {
		b, err = c.st.Log.Note, nil
	}
	if err != nil {
		return err
	}
	lines := bytes.SplitN(b, []byte("\n"), 4)
	if n, ok := treeSize(b); !ok || n != c.st.Log.Size || string(lines[0]) != c.st.Log.Origin || string(lines[2]) != c.st.Log.Hash.String() {
		b = c.st.Log.Note
	}
	if len(b) == 0 {
		return nil
	}
	return c.Store.Put(path, b)
}

// descriptions copies those of the board, checked by length and hash. A bundle has only one; another source may have the others.
func (c *copying) descriptions() error {
	if c.Prefix != "" { // an auditor's targets name the project's
		return nil
	}
	n := 0
	for _, t := range c.Client.Targets() {
		if _, board, _, ok := release.ParseTarget(t.Path); !ok || board != c.Board || t.Length > release.MaxDescription {
			continue
		}
		if n++; n > maxDescriptions {
			break
		}
		path := release.TargetFile(t.Path, t.SHA256)
		right := func(b []byte) bool {
			sum := sha256.Sum256(b)
			return int64(len(b)) == t.Length && hex.EncodeToString(sum[:]) == t.SHA256
		}
		if b, err := c.Store.Get(c.ctx, path, t.Length); err == nil && right(b) {
			continue
		}
		b, err := c.src.Get(c.ctx, path, t.Length)
		if err == nil && !right(b) {
			err = fmt.Errorf("%w: %s has another hash", ErrLied, path)
		}
		if err != nil {
			if !errors.Is(err, ErrNotFound) {
				c.missing = err
			}
			continue
		}
		if err := c.Store.Put(path, b); err != nil {
			return err
		}
	}
	return nil
}

// tiles copies the tiles that hold the hashes of the log's tree, each checked against the tree's hash, so that a tree of any earlier
// size can be shown to be consistent with it. Where the source has not all of them, what it has is kept.
func (c *copying) tiles() error {
	if c.st.Log == nil || c.st.Log.Size < 1 || c.st.Log.Size > maxTree {
		return nil
	}
	err := c.tilesFrom(c.Store)
	if errors.Is(err, ErrLied) { // or the medium did
		err = c.tilesFrom(nil)
	}
	return err
}

// tilesFrom is tiles; what kept has needs not be fetched.
func (c *copying) tilesFrom(kept *Store) error {
	r := &tileReader{copying: c, kept: kept, have: map[string][]byte{}}
	tree := sumdb.TileHashReader(sumdb.Tree{N: c.st.Log.Size, Hash: c.st.Log.Hash}, r)
	for level := 0; c.st.Log.Size>>(8*level) > 0; level++ {
		for first := int64(0); first < c.st.Log.Size>>(8*level); first += 256 {
			_, err := tree.ReadHashes([]int64{sumdb.StoredHashIndex(8*level, first)})
			if r.err != nil || c.ctx.Err() != nil {
				return cmp.Or(r.err, c.ctx.Err())
			}
			if err != nil && !errors.Is(err, ErrNotFound) {
				return fmt.Errorf("%w: tiles of the log: %w", ErrLied, err)
			}
		}
	}
	return nil
}

// tileReader implements sumdb.TileReader over what was read, what is kept, and the source.
type tileReader struct {
	*copying
	kept *Store // may be nil
	have map[string][]byte
	err  error // of keeping
}

func (r *tileReader) Height() int { return 8 } // C2SP tlog-tiles: 256 hashes

func (r *tileReader) path(t sumdb.Tile) string {
	return r.Prefix + "log/" + strings.Replace(t.Path(), "tile/8/", "tile/", 1)
}

func (r *tileReader) ReadTiles(tiles []sumdb.Tile) ([][]byte, error) {
	list := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := r.tile(t)
		if err != nil {
			return nil, err
		}
		list[i] = b
	}
	return list, nil
}

func (r *tileReader) tile(t sumdb.Tile) ([]byte, error) {
	path, size := r.path(t), int64(t.W)*sumdb.HashSize
	if b, ok := r.have[path]; ok {
		return b, nil
	}
	if r.kept != nil {
		if b, err := r.kept.Get(r.ctx, path, size); err == nil && int64(len(b)) == size {
			return b, nil
		}
	}
	whole := t
	whole.W = 256
	var err error
	for _, p := range []string{path, r.path(whole)} {
		b, ok := r.tilesRead[p]
		if !ok {
			if b, err = r.src.Get(r.ctx, p, maxTile); err != nil {
				continue
			}
		}
		if int64(len(b)) >= size {
			return b[:size:size], nil
		}
		err = fmt.Errorf("%w: %s has %d bytes", ErrLied, p, len(b))
	}
	return nil, err
}

// SaveTiles is called with tiles that belong to the tree.
func (r *tileReader) SaveTiles(tiles []sumdb.Tile, data [][]byte) {
	for i, t := range tiles {
		path := r.path(t)
		if _, ok := r.have[path]; ok {
			continue
		}
		r.have[path] = data[i]
		if err := r.Store.Put(path, data[i]); err != nil && r.err == nil {
			r.err = err
		}
	}
}

// prune removes metadata of versions that are over, tiles that wider ones stand for, and descriptions of releases that are not
// published any more.
func (c *copying) prune() error {
	files, err := c.Store.Files(c.Prefix)
	if err != nil {
		return err
	}
	v := c.st.Versions
	current := map[string]int64{"snapshot": v.Snapshot, "targets": v.Targets, "beta": v.Beta}
	named := map[string]bool{}
	for _, t := range c.Client.Targets() {
		named[release.TargetFile(t.Path, t.SHA256)] = true
	}
	var gone []string
	for _, p := range files {
		rest := strings.TrimPrefix(p, c.Prefix)
		switch class, _ := Path(p); class {
		case ClassMetadata, ClassProof:
			part := strings.Split(strings.TrimPrefix(rest, "metadata/"), ".")
			n, err := strconv.ParseInt(part[0], 10, 64)
			if now, ok := current[part[1]]; ok && err == nil && n != now && strings.HasPrefix(rest, "metadata/") {
				gone = append(gone, p)
			}
		case ClassTile:
			if m := tilePartRE.FindStringSubmatch(p); m != nil && strings.HasPrefix(rest, "log/") {
				width, _ := strconv.Atoi(m[2])
				if c.wider(m[1], width, files) {
					gone = append(gone, p)
				}
			}
		case ClassDescription:
			if !named[p] {
				gone = append(gone, p)
			}
		}
	}
	if err := c.Store.Remove(gone...); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// wider tells whether a tile is kept that begins with this one: then the store answers for both.
func (c *copying) wider(full string, width int, files []string) bool {
	return slices.ContainsFunc(files, func(p string) bool {
		if p == full {
			return true
		}
		m := tilePartRE.FindStringSubmatch(p)
		if m == nil || m[1] != full {
			return false
		}
		w, _ := strconv.Atoi(m[2])
		return w > width
	})
}
