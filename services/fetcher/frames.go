package fetcher

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/croft-os/croft/updater/fetch"
)

// framesPause is how many times as long as it works on a frame it rests: what is done for neighbours is never in a hurry.
const framesPause = 3

// postFrames makes the frames of a part of the running release, which the updater sends as it is, so that neighbours can have them
// from a box that took the release by a patch. The body is a Want in JSON, a line feed and the part.
func (s *service) postFrames(w http.ResponseWriter, r *http.Request) {
	in := bufio.NewReaderSize(r.Body, 64<<10)
	line, err := in.ReadSlice('\n') // with the hashes of 64 frames it has some 8 kB
	var want Want
	if err == nil {
		err = json.Unmarshal(line, &want)
	}
	if err != nil {
		problem(w, http.StatusBadRequest, "unknown", fmt.Errorf("the request: %w", err))
		return
	}
	ctx := r.Context()
	defer debug.FreeOSMemory() // the encoder is not needed for a long time
	err = s.store.MakeFrames(ctx, fetch.Want(want), in, func(work func() error) error {
		if err := s.lock(ctx); err != nil { // fetching goes first
			return err
		}
		began := time.Now()
		err := work()
		took := time.Since(began)
		s.unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(framesPause * took):
			return err
		}
	})
	switch {
	case errors.Is(err, fetch.ErrOther):
		problem(w, http.StatusUnprocessableEntity, "unknown", err)
	case err != nil:
		fail(w, err)
	default:
		s.log.Info("the frames of the running release are there for neighbours", "blob", want.Blob, "bytes", want.Size)
		w.WriteHeader(http.StatusNoContent)
	}
}
