// Package flash puts an image onto a card, a stick or a plain file, so that one of three things is true at any time and the
// caller knows which: the drive is as it was, it plainly holds nothing that starts, or it holds what was asked for and was
// read back.
//
// The image is read to its end and checked before the drive is touched. Then the first and the last MiB of the drive are
// cleared, the rest is written, the owner's settings are put into the image's settings file in place, and the partition table,
// which is in the first MiB, comes last. Reading back goes past the page cache (O_DIRECT, open(2)), since a drive that lies
// about its size keeps what was written in memory's copy only.
//
// It runs on Linux: drives are found in sysfs (Documentation/ABI/stable/sysfs-block, testing/sysfs-block). Images are Croft's,
// plain or as one zstd stream (RFC 8878).
package flash

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/pack"
)

const (
	mib       = 1 << 20
	chunkSize = 4 * mib // of reading and writing
	maxImage  = 64 << 30
)

// ErrImage is wrapped by errors that are the image's fault.
var ErrImage = errors.New("not a whole Croft image")

// Image is a disk image that was read to its end.
type Image struct {
	Path   string
	Size   int64 // uncompressed
	Layout layout.Layout

	head []byte // the first MiB, which holds the partition table
	sum  [sha256.Size]byte
}

// OpenImage reads an image to its end, tells progress the bytes read so far, and compares it with the sums in the .sha256 file
// beside it, where there is one. Errors wrap ErrImage or are of reading.
func OpenImage(ctx context.Context, path string, progress func(done int64)) (*Image, error) {
	img := &Image{Path: path}
	r, err := img.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	hash := sha256.New()
	buf := make([]byte, chunkSize)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := fill(r, buf)
		if err != nil && err != io.EOF {
			return nil, readProblem(path, err)
		}
		if img.Size == 0 {
			var lerr error
			img.head = bytes.Clone(buf[:min(n, mib)])
			if img.Layout, lerr = layoutOf(img.head); lerr != nil {
				return nil, fmt.Errorf("%s is %w: %w", path, ErrImage, lerr)
			}
		}
		img.Size += int64(n)
		hash.Write(buf[:n])
		if img.Size > maxImage {
			return nil, fmt.Errorf("%s is %w: it has more than %d bytes", path, ErrImage, int64(maxImage))
		}
		if progress != nil {
			progress(img.Size)
		}
		if err == io.EOF {
			break
		}
	}
	if img.Size < img.Layout.Size {
		return nil, fmt.Errorf("%s is %w: it has %d bytes of %d", path, ErrImage, img.Size, img.Layout.Size)
	}
	if img.Size%layout.SectorSize != 0 {
		return nil, fmt.Errorf("%s is %w: it ends within a sector", path, ErrImage)
	}
	copy(img.sum[:], hash.Sum(nil))
	return img, img.compareSum()
}

// fill reads until b is full; unlike io.ReadFull it returns r's own error, io.EOF at the end and no other there.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

// layouts are what images can have. Tests put smaller ones in their place.
var layouts = []layout.Layout{layout.UEFI(), layout.Pi()}

// layoutOf recognises a layout by the id that its images carry.
func layoutOf(head []byte) (layout.Layout, error) {
	if len(head) < mib || head[510] != 0x55 || head[511] != 0xaa {
		return layout.Layout{}, errors.New("it has no partition table")
	}
	for _, l := range layouts {
		if l.Table == layout.GPT && string(head[512:520]) == "EFI PART" && guid(head[512+56:]) == l.ID ||
			l.Table == layout.MBR && fmt.Sprintf("%08x", binary.LittleEndian.Uint32(head[440:])) == l.ID {
			return l, nil
		}
	}
	return layout.Layout{}, errors.New("its partition table is not one of Croft's")
}

func readProblem(path string, err error) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s is %w: it is cut short", path, ErrImage)
	}
	return fmt.Errorf("%s is %w: %w", path, ErrImage, err)
}

// open starts reading the image from its beginning, uncompressed. It is compressed if it begins as a zstd frame does.
func (img *Image) open() (io.ReadCloser, error) {
	f, err := os.Open(img.Path)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is %w: it is no file: %w", img.Path, ErrImage, err)
	}
	br := bufio.NewReaderSize(f, mib)
	if magic, _ := br.Peek(4); !bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return struct {
			io.Reader
			io.Closer
		}{br, f}, nil
	}
	zr, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(pack.Window), zstd.WithDecoderMaxMemory(maxImage), zstd.WithDecoderConcurrency(2))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &zstdFile{zr, f}, nil
}

type zstdFile struct {
	*zstd.Decoder
	f *os.File
}

func (z *zstdFile) Close() error {
	z.Decoder.Close()
	return z.f.Close()
}

// maxSums bounds the file of sums, in bytes.
const maxSums = 64 << 10

// compareSum looks for the image's name in the .sha256 files beside it, as sha256sum writes them: in NAME.sha256 for NAME.img.
func (img *Image) compareSum() error {
	name := strings.TrimSuffix(filepath.Base(img.Path), ".zst")
	f, err := os.Open(filepath.Join(filepath.Dir(img.Path), strings.TrimSuffix(name, ".img")+".sha256"))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSums))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		sum, file, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if ok && file == name && !strings.EqualFold(sum, hex.EncodeToString(img.sum[:])) {
			return fmt.Errorf("%s is %w: it differs from what %s says. Download or build both again", img.Path, ErrImage, filepath.Base(f.Name()))
		}
	}
	return nil
}
