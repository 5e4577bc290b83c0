package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/release"
)

// TestMakeFrames: what is made of a part is what the publisher made, or nothing.
func TestMakeFrames(t *testing.T) {
	part := append(bytes.Repeat([]byte("frame "), release.FrameSize/3), fetchtest.Bytes(7, 1000)...)
	var blob bytes.Buffer
	f, _, _, err := delta.WriteFrames(&blob, bytes.NewReader(part))
	if err != nil {
		t.Fatal(err)
	}
	want := fetch.Want{Blob: f.Blob, Size: f.Size, Frames: f.List}
	other := want
	other.Frames = slices.Clone(f.List)
	other.Frames[1].SHA256 = f.List[0].SHA256
	wrongBlob := want
	wrongBlob.Blob = f.List[0].SHA256
	spoilt := bytes.Clone(part)
	spoilt[len(spoilt)-1]++
	straight := func(work func() error) error { return work() }
	stop := errors.New("stop")
	for _, tt := range []struct {
		name string
		want fetch.Want
		part []byte
		turn func(func() error) error
		err  error
		kept bool // something stays for the next time
	}{
		{"the part", want, part, straight, nil, false},
		{"another encoder's", other, part, straight, fetch.ErrOther, false},
		{"another part", want, spoilt, straight, fetch.ErrOther, false},
		{"cut short", want, part[:release.FrameSize], straight, io.EOF, true},
		{"cut short in the middle", want, part[:1000], straight, io.ErrUnexpectedEOF, false},
		{"no turn", want, part, func(func() error) error { return stop }, stop, false},
		{"the frames of another blob", wrongBlob, part, straight, fetch.ErrLied, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			err := s.MakeFrames(t.Context(), tt.want, bytes.NewReader(tt.part), tt.turn)
			if !errors.Is(err, tt.err) {
				t.Fatalf("%v, want %v", err, tt.err)
			}
			got, gerr := s.Get(t.Context(), release.BlobFile(f.Blob), release.MaxPart)
			if tt.err == nil && !bytes.Equal(got, blob.Bytes()) || tt.err != nil && !errors.Is(gerr, fetch.ErrNotFound) {
				t.Errorf("%d bytes, %v", len(got), gerr)
			}
			// It goes on where it ended, and does nothing that is done.
			turns := 0
			err = s.MakeFrames(t.Context(), want, bytes.NewReader(part), func(work func() error) error { turns++; return work() })
			if all := len(f.List); err != nil || turns != map[bool]int{true: all - 1, false: all}[tt.kept] && (tt.err != nil || turns != 0) {
				t.Errorf("again: %d frames made, %v", turns, err)
			}
			check(t, s, blob.Bytes())
		})
	}
	// Nobody's blob goes for it.
	s := newStore(t)
	old, ow := framed(1, 1)
	job := fetch.Job{Store: s, Sources: sources(newFake("mirror", "m", old))}
	if err := job.Fetch(context.Background(), []fetch.Want{ow}); err != nil {
		t.Fatal(err)
	}
	s.Budget(ow.Size + 100)
	if err := s.MakeFrames(t.Context(), want, bytes.NewReader(part), straight); !errors.Is(err, fetch.ErrNoSpace) {
		t.Errorf("without room: %v", err)
	}
	check(t, s, old)
	if err := s.MakeFrames(t.Context(), fetch.Want{Blob: f.Blob, Size: f.Size}, bytes.NewReader(part), straight); err == nil {
		t.Error("a blob without frames was made")
	}
}
