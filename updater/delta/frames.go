package delta

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/croft-os/croft/updater/release"
)

// maxFrame is the most that a compressed frame may have, as package release has it.
const maxFrame = release.FrameSize + release.FrameSize/64

// Framer makes frames. The same piece of a part gives the same frame, whatever the machine, for as long as the encoder stays the
// same: a box makes the frames of the release that it runs again, for its neighbours. So the level is the best one whose memory
// (17 MB with a piece and its frame; the next one takes 48) a box has to spare.
type Framer struct{ enc *zstd.Encoder }

// NewFramer returns a Framer, for one goroutine, to be closed.
func NewFramer() (*Framer, error) {
	// A frame's window is never larger than the frame.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(release.FrameSize),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &Framer{enc}, nil
}

// Frame appends the frame of a piece of at most release.FrameSize bytes to b.
func (f *Framer) Frame(piece, b []byte) []byte { return f.enc.EncodeAll(piece, b) }

// Close gives the memory back.
func (f *Framer) Close() error { return f.enc.Close() }

// WriteFrames writes the frames of a part to w, and returns their description and the size and hash of the part.
func WriteFrames(w io.Writer, part io.Reader) (f release.Frames, size int64, sum string, err error) {
	framer, err := NewFramer()
	if err != nil {
		return f, 0, "", err
	}
	defer framer.Close()
	whole, blob := sha256.New(), sha256.New()
	piece, frame := make([]byte, release.FrameSize), make([]byte, 0, maxFrame)
	for {
		n, err := io.ReadFull(part, piece)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return f, 0, "", fmt.Errorf("read the part: %w", err)
		}
		if size += int64(n); size > release.MaxPart {
			return f, 0, "", fmt.Errorf("the part is larger than %d bytes", int64(release.MaxPart))
		}
		whole.Write(piece[:n])
		frame = framer.Frame(piece[:n], frame[:0])
		blob.Write(frame)
		if _, err := w.Write(frame); err != nil {
			return f, 0, "", fmt.Errorf("write a frame: %w", err)
		}
		fs := sha256.Sum256(frame)
		f.List = append(f.List, release.Frame{Size: int64(len(frame)), SHA256: hex.EncodeToString(fs[:])})
		f.Size += int64(len(frame))
	}
	if size == 0 {
		return f, 0, "", errors.New("the part is empty")
	}
	f.Blob = hex.EncodeToString(blob.Sum(nil))
	return f, size, hex.EncodeToString(whole.Sum(nil)), nil
}

// FrameError says which frame could not be used; another source may have a good one.
type FrameError struct {
	Frame int // from 0
	Err   error
}

func (e *FrameError) Error() string { return fmt.Sprintf("frame %d: %v", e.Frame, e.Err) }

// Unwrap returns what was wrong with the frame.
func (e *FrameError) Unwrap() error { return e.Err }

// ReadFrames writes the part that frames make to dst. It reads the blob front to back, a frame at a time, and unpacks a frame only if
// it has the hash that the description says. So the blob may be one that is still being fetched, in any order, if its ReadAt waits.
// It fails with a *FrameError for a frame that can't be read or used, and with ErrContent, wrapped, for a part with the wrong hash.
func ReadFrames(part release.Part, blob io.ReaderAt, dst io.Writer) error {
	if part.Size < 1 || part.Size > release.MaxPart || int64(len(part.Frames.List)) != (part.Size+release.FrameSize-1)/release.FrameSize {
		return errors.New("the description of the frames does not fit the part")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(release.FrameSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	defer dec.Close()
	var packed []byte
	piece := make([]byte, 0, min(part.Size, release.FrameSize))
	whole := sha256.New()
	for i, off := 0, int64(0); i < len(part.Frames.List); i++ {
		f := part.Frames.List[i]
		if f.Size < 1 || f.Size > maxFrame {
			return &FrameError{i, fmt.Errorf("%d bytes", f.Size)}
		}
		if int64(cap(packed)) < f.Size {
			packed = make([]byte, largest(part.Frames.List))
		}
		packed = packed[:f.Size]
		if err := readAt(blob, packed, off); err != nil {
			return &FrameError{i, err}
		}
		off += f.Size
		if sum := sha256.Sum256(packed); hex.EncodeToString(sum[:]) != f.SHA256 {
			return &FrameError{i, errors.New("wrong hash")}
		}
		want := min(part.Size-int64(i)*release.FrameSize, release.FrameSize)
		if piece, err = unpack(dec, packed, piece[:0:want]); err != nil {
			return &FrameError{i, err}
		}
		whole.Write(piece)
		if _, err := dst.Write(piece); err != nil {
			return err
		}
	}
	return check(part, whole.Sum(nil))
}

// largest is the size of the largest frame that may be read.
func largest(list []release.Frame) int64 {
	var n int64
	for _, f := range list {
		n = max(n, min(f.Size, maxFrame))
	}
	return n
}

// unpack decodes one frame, which has to fill piece to its capacity.
func unpack(dec *zstd.Decoder, frame, piece []byte) ([]byte, error) {
	if err := single(frame); err != nil {
		return nil, err
	}
	got, err := dec.DecodeAll(frame, piece)
	if err != nil {
		return nil, err
	}
	if len(got) != cap(piece) {
		return nil, fmt.Errorf("makes %d bytes, not %d", len(got), cap(piece))
	}
	return got, nil
}

// single checks that b is one frame that needs no dictionary, and nothing else: decoders take any number of frames one after the
// other, and pass over skippable ones (RFC 8878 section 3.1).
func single(b []byte) error {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return err
	}
	switch {
	case h.Skippable:
		return errors.New("is a skippable frame")
	case h.DictionaryID != 0:
		return errors.New("needs a dictionary")
	case !h.SingleSegment && h.WindowSize > release.FrameSize:
		return fmt.Errorf("has a window of %d bytes", h.WindowSize)
	case h.HasFCS && h.FrameContentSize > release.FrameSize:
		return fmt.Errorf("makes %d bytes", h.FrameContentSize)
	}
	// Blocks: a header of 3 bytes with last, type and size; a block of type 1 is one byte, repeated (section 3.1.1.2).
	at := h.HeaderSize
	for last := false; !last; {
		if len(b)-at < 3 {
			return io.ErrUnexpectedEOF
		}
		v := int(b[at]) | int(b[at+1])<<8 | int(b[at+2])<<16
		last = v&1 != 0
		at += 3
		if v>>1&3 == 1 {
			at++
		} else {
			at += v >> 3
		}
	}
	if h.HasCheckSum {
		at += 4
	}
	if at != len(b) {
		return fmt.Errorf("has %d bytes, of which the frame needs %d", len(b), at)
	}
	return nil
}
