package tlog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// tileHeight is that of C2SP tlog-tiles: 256 hashes a tile.
const tileHeight = 8

// MaxTile is the size of a full tile in bytes.
const MaxTile = tlog.HashSize << tileHeight

// Fetch gets a file of a log by its path, such as "tile/0/000.p/5"; its errors are for missing files too.
type Fetch func(ctx context.Context, path string, limit int64) ([]byte, error)

// SplitView is a pair of checkpoints of one log that can't both be true: the log showed different trees to different people.
type SplitView struct {
	A Checkpoint `json:"a"` // kept before
	B Checkpoint `json:"b"` // seen now
}

// Error tells the trees apart.
func (s *SplitView) Error() string {
	return fmt.Sprintf("log %q has signed trees that contradict each other: %d entries with hash %v, %d with hash %v",
		s.A.Origin, s.A.Size, s.A.Hash, s.B.Size, s.B.Hash)
}

// Log shows that trees of one log are consistent. It remembers tiles, and is meant for one refresh.
type Log struct {
	fetch Fetch
	tiles map[tlog.Tile][]byte
	size  int64 // of the tree whose tiles the source seems to have; a hint, -1 before it was looked for
}

// NewLog makes a Log over a place that has the log's files.
func NewLog(fetch Fetch) *Log { return &Log{fetch: fetch, tiles: map[tlog.Tile][]byte{}, size: -1} }

// Consistent checks that two checkpoints, both verified before, are of one append-only tree (RFC 6962 section 2.1.2). The error is a
// *SplitView if they contradict each other, and wraps ErrTiles if the tiles do not suffice to tell.
func (l *Log) Consistent(ctx context.Context, kept, seen Checkpoint) error {
	small, large := kept, seen
	if small.Size > large.Size {
		small, large = large, small
	}
	if small.Size == large.Size {
		if small.Hash != large.Hash {
			return &SplitView{kept, seen}
		}
		return nil
	}
	if small.Size == 0 {
		return nil // RFC 6962: every tree is consistent with the empty one
	}
	hr := tlog.TileHashReader(tlog.Tree{N: large.Size, Hash: large.Hash}, &tileReader{ctx, l})
	proof, err := tlog.ProveTree(large.Size, small.Size, hr)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTiles, err)
	}
	// The hashes are shown to be in the larger tree by now, so what follows is about what the log has signed.
	if err := tlog.CheckTree(proof, large.Size, large.Hash, small.Size, small.Hash); err != nil {
		return &SplitView{kept, seen}
	}
	return nil
}

type tileReader struct {
	ctx context.Context
	log *Log
}

func (*tileReader) Height() int { return tileHeight }

// SaveTiles remembers tiles that were shown to be in the signed tree.
func (r *tileReader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		r.log.tiles[t] = data[i]
	}
}

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		if b, ok := r.log.tiles[t]; ok {
			data[i] = b
			continue
		}
		b, err := r.log.tile(r.ctx, t)
		if err != nil {
			return nil, err
		}
		data[i] = b
	}
	return data, nil
}

// tile fetches a tile, or a wider one that starts with it: a source may have dropped partial tiles since.
func (l *Log) tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	want := t.W * tlog.HashSize
	widths := []int{t.W}
	if t.W < 1<<tileHeight {
		widths = append(widths, 1<<tileHeight)
		if w := l.widthNow(ctx, t); w > t.W && w < 1<<tileHeight {
			widths = append(widths, w)
		}
	}
	var errs []error
	for _, w := range widths {
		t.W = w
		b, err := l.fetch(ctx, tilePath(t), MaxTile)
		if err == nil && len(b) < want {
			err = fmt.Errorf("%s: %d bytes", tilePath(t), len(b))
		}
		if err == nil {
			return b[:want:want], nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// widthNow is the width that a tile has in the tree that the source's own checkpoint speaks of, which nobody verifies; 0 if unknown.
func (l *Log) widthNow(ctx context.Context, t tlog.Tile) int {
	if l.size < 0 {
		l.size = 0
		if b, err := l.fetch(ctx, "checkpoint", MaxCheckpoint); err == nil {
			if c, err := parseCheckpoint(string(b)); err == nil {
				l.size = c.Size
			}
		}
	}
	return int(min(max(l.size>>(tileHeight*t.L)-t.N<<tileHeight, 0), 1<<tileHeight))
}

// tilePath is C2SP tlog-tiles' path of a tile: Go's without the height.
func tilePath(t tlog.Tile) string {
	return strings.Replace(t.Path(), fmt.Sprintf("tile/%d/", tileHeight), "tile/", 1)
}
