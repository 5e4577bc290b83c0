package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/release"
)

// MakeFrames makes the frames of a part that is read from r as it is, and keeps them as if they had been fetched: each has to have the
// signed hash. It calls turn for each frame, with what makes it, and goes on when that returns. Nothing is removed for their
// sake: without room it fails with ErrNoSpace. Frames that another encoder made can't be made again; that is ErrOther.
func (s *Store) MakeFrames(ctx context.Context, w Want, r io.Reader, turn func(work func() error) error) error {
	if len(w.Frames) == 0 {
		return fmt.Errorf("the blob %.64q has no frames", w.Blob)
	}
	p, err := s.Begin(ctx, w, func(string) bool { return true })
	if err != nil || p == nil {
		return err
	}
	defer p.close()
	framer, err := delta.NewFramer()
	if err != nil {
		return err
	}
	defer framer.Close()
	piece, frame := make([]byte, release.FrameSize), make([]byte, 0, release.FrameSize+release.FrameSize/64)
	for i := range p.pieces {
		n, err := io.ReadFull(r, piece)
		if err != nil && (!errors.Is(err, io.ErrUnexpectedEOF) || i != len(p.pieces)-1) {
			return fmt.Errorf("read piece %d of the blob %s: %w", i, w.Blob, err)
		}
		if p.have[i] {
			continue
		}
		err = turn(func() error {
			frame = framer.Frame(piece[:n], frame[:0])
			return p.write(i, frame)
		})
		if errors.Is(err, ErrLied) {
			err = fmt.Errorf("%w: frame %d", ErrOther, i)
			if !p.resume {
				err = errors.Join(err, s.Abandon(w.Blob))
			}
		}
		if err != nil {
			return err
		}
	}
	return p.finish(ctx)
}

// ErrOther: the frames that are made are not the ones that are wanted.
var ErrOther = errors.New("another encoder made these frames")
