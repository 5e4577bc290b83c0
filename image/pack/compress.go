package pack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// Window is the zstd window in bytes: the largest that the command line tool decompresses without options, in that much memory. The
// rescue system's kernel, which is that of slot A once more, takes no room that way.
const Window = 128 << 20

// Compress writes src to dst as one zstd frame (RFC 8878) and returns the SHA-256 of both, in hex. One goroutine encodes,
// because the result must not depend on the number of processors.
func Compress(ctx context.Context, src, dst string) (srcSum, dstSum string, err error) {
	in, err := os.Open(src)
	if err != nil {
		return "", "", err
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return "", "", err
	}
	defer out.Close()
	hi, ho := sha256.New(), sha256.New()
	zw, err := zstd.NewWriter(io.MultiWriter(out, ho), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(Window), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return "", "", fmt.Errorf("zstd: %w", err)
	}
	if _, err := io.CopyBuffer(io.MultiWriter(zw, hi), &cancelReader{ctx, in}, make([]byte, 1<<20)); err != nil {
		return "", "", fmt.Errorf("compress %s: %w", src, err)
	}
	if err := zw.Close(); err != nil {
		return "", "", fmt.Errorf("compress %s: %w", src, err)
	}
	if err := out.Close(); err != nil {
		return "", "", err
	}
	return hex.EncodeToString(hi.Sum(nil)), hex.EncodeToString(ho.Sum(nil)), nil
}

type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
