package updater

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/fetcher"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
)

// TestFramesForNeighbours: a box that has none of the frames of what it runs makes them of its slot, and they are the published ones.
func TestFramesForNeighbours(t *testing.T) {
	p := publishtest.New(t, publishtest.Options{Root: [2]int{1, 1}, Targets: [2]int{1, 1}})
	r := add(p, 1)[0]
	s := newSim(t, p, r)
	store, err := fetch.OpenStore(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	asked := 0
	mux := http.NewServeMux()
	mux.HandleFunc("HEAD /v1/repo/{path...}", func(w http.ResponseWriter, r *http.Request) {
		if !store.Has(r.PathValue("path"), -1) {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("POST /v1/frames", func(w http.ResponseWriter, r *http.Request) {
		asked++
		in := bufio.NewReader(r.Body)
		line, err := in.ReadSlice('\n')
		var want fetcher.Want
		if err == nil {
			err = json.Unmarshal(line, &want)
		}
		if err == nil {
			err = store.MakeFrames(r.Context(), fetch.Want(want), in, func(work func() error) error { return work() })
		}
		if err != nil {
			daemon.WriteJSON(w, http.StatusUnprocessableEntity, fetcher.Problem{Cause: "unknown", Error: err.Error()})
		}
	})
	now := api.Slots{Running: "a", Committed: "a"}
	ask := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { daemon.WriteJSON(w, http.StatusOK, now) })
	description := func(r *release.Release) []byte {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	e := &engine{
		log: slog.New(slog.DiscardHandler), release: api.Release{Version: r.Version, Number: r.Number}, running: "a", state: api.UpdateIdle,
		init: &http.Client{Transport: direct{s, ask}}, fetch: fetcher.NewClient(&http.Client{Transport: direct{s, mux}}),
		open: func(context.Context, api.Slots) (*medium, error) { return &medium{s.medium("a"), func() {}}, nil },
	}
	rec := func(r *release.Release) map[string]slotRecord {
		return map[string]slotRecord{"a": {Version: r.Version, Number: r.Number, Description: description(r)}}
	}
	other := *r
	other.Root.Frames.List = []release.Frame{{Size: r.Root.Frames.Size, SHA256: r.Boot.SHA256}}
	hopeless := map[string]bool{}
	for _, tt := range []struct {
		name string
		set  func()
		asks int
		err  bool
	}{
		{"nobody told what it is", func() { e.recs = map[string]slotRecord{"a": {Version: r.Version, Number: r.Number}} }, 0, false},
		{"something else runs", func() { e.recs = rec(r); e.release.Number++ }, 0, false},
		{"the owner shares nothing", func() { e.release.Number = r.Number; e.set.Policy.Alone = true }, 0, false},
		{"an update is under way", func() { e.set.Policy.Alone, e.state = false, api.UpdateDownloading }, 0, false},
		{"on trial", func() { e.state, now.Trial = api.UpdateIdle, true }, 0, false},
		{"not committed", func() { now.Trial, now.Committed = false, "b" }, 0, false},
		{"the rescue system", func() { now.Committed, now.Rescue = "a", true }, 0, false},
		{"another encoder's", func() { now.Rescue, e.recs = false, rec(&other) }, 1, true},
		{"another encoder's, again", func() {}, 1, false}, // the boot part
		{"the published ones", func() { e.recs, hopeless = rec(r), map[string]bool{} }, 1, false},
		{"they are there", func() {}, 0, false},
	} {
		asked = 0
		tt.set()
		if err := e.makeFrames(t.Context(), hopeless); (err != nil) != tt.err || asked != tt.asks {
			t.Errorf("%s: asked %d times, %v", tt.name, asked, err)
		}
	}
	for _, f := range []release.Frames{r.Root.Frames, r.Boot.Frames} {
		want, err := os.ReadFile(filepath.Join(p.Dir(), release.BlobFile(f.Blob)))
		got := make([]byte, f.Size)
		if err := errors.Join(err, store.ReadRange(t.Context(), release.BlobFile(f.Blob), 0, got)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the frames are not the published ones: %v", err)
		}
	}
	// A slot that went bad gives nothing.
	if err := store.Remove(release.BlobFile(r.Root.Frames.Blob)); err != nil {
		t.Fatal(err)
	}
	s.rootA.b[1000] ^= 1
	if err := e.makeFrames(t.Context(), map[string]bool{}); err == nil || store.Has(release.BlobFile(r.Root.Frames.Blob), -1) {
		t.Errorf("frames of a slot that went bad: %v", err)
	}
}
