//go:build ignore

// Mkseed writes seed.bin: the data partition's ext4 file system as a fresh image carries it. It needs mke2fs 1.47.
// The result is kept in the repository, so that an image does not depend on the builder's version of mke2fs.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"log"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	size  = 64 << 20
	block = 4096
)

func main() {
	dir, err := os.MkdirTemp("", "croft-seed")
	check(err)
	defer os.RemoveAll(dir)
	img := filepath.Join(dir, "img")
	check(os.WriteFile(img, nil, 0o644))
	check(os.Truncate(img, size))
	cmd := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "1",
		"-J", "size=16", "-L", "croft-data", "-U", "c0f7c0f7-5eed-4000-8000-000000000000",
		"-E", "hash_seed=c0f7c0f7-5eed-4000-8000-000000000001,lazy_itable_init=1,lazy_journal_init=0,root_owner=0:0,nodiscard",
		"-O", "64bit,metadata_csum,metadata_csum_seed,^orphan_file", img)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1750000000", "MKE2FS_CONFIG=/etc/mke2fs.conf")
	cmd.Stderr = os.Stderr
	check(cmd.Run())
	b, err := os.ReadFile(img)
	check(err)
	var out bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	zero := make([]byte, block)
	for i := 0; i < len(b); i += block {
		if bl := b[i : i+block]; !bytes.Equal(bl, zero) {
			check(binary.Write(zw, binary.LittleEndian, uint32(i/block)))
			_, err := zw.Write(bl)
			check(err)
		}
	}
	check(zw.Close())
	check(os.WriteFile("seed.bin", out.Bytes(), 0o644))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
