package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// PayloadFormat is the version of payload.json.
const PayloadFormat = "croft-payload/1"

// PayloadInfo is payload.json: what a release of one family of boards is made of, without its signatures and its ways of
// transport (docs/release-format.md).
type PayloadInfo struct {
	Format  string      `json:"format"`
	Board   string      `json:"board"`
	Version string      `json:"version"`
	Number  int64       `json:"number"`
	Channel string      `json:"channel"`
	Built   int64       `json:"built"`  // seconds since 1970
	Commit  string      `json:"commit"` // 40 hex digits
	Dirty   bool        `json:"dirty,omitempty"`
	Cmdline string      `json:"cmdline"`
	Boot    PayloadFile `json:"boot"`
	Root    PayloadFile `json:"root"`
	SBOM    PayloadFile `json:"sbom"`
}

// PayloadFile is a file beside payload.json.
type PayloadFile struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hex
}

// Payload writes to the folder o.Out what a release is made of: boot.part, root.part, sbom.spdx.json and, last, payload.json. The
// same source gives the same bytes. o.ImageOnly and o.URL mean nothing to it.
func Payload(ctx context.Context, o Options) (*PayloadInfo, error) {
	if o.Number < 1 {
		return nil, fmt.Errorf("number %d: the releases of a publisher count from 1", o.Number)
	}
	b, err := newBuilder(ctx, o)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.tmp)
	var info *PayloadInfo
	err = b.run(ctx, "payload", append(b.parts(), step{"write the payload", func(ctx context.Context) error {
		info, err = b.payload(ctx)
		return err
	}, false}))
	return info, err
}

func (b *builder) payload(ctx context.Context) (*PayloadInfo, error) {
	r, err := b.release()
	if err != nil {
		return nil, err
	}
	info := &PayloadInfo{
		Format: PayloadFormat, Board: r.Board, Version: r.Version, Number: r.Number, Channel: string(r.Channel), Built: r.Built, Cmdline: r.Cmdline,
	}
	if info.Commit, err = output(ctx, b.Source, "git", "rev-parse", "HEAD"); err != nil {
		return nil, err
	}
	changes, err := output(ctx, b.Source, "git", "status", "--porcelain")
	if err != nil {
		return nil, err
	}
	info.Dirty = changes != ""
	list := filepath.Join(b.Out, "payload.json")
	if err := os.Remove(list); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for name, file := range map[string]*PayloadFile{slots.PartBoot: &info.Boot, slots.PartRoot: &info.Root} {
		*file = PayloadFile{File: name + ".part"}
		if file.Size, file.SHA256, err = sum(b.volume(name)); err != nil {
			return nil, err
		}
		if err := copyFile(filepath.Join(b.Out, file.File), b.volume(name)); err != nil {
			return nil, err
		}
	}
	info.SBOM.File = "sbom.spdx.json"
	path := filepath.Join(b.Out, info.SBOM.File)
	if err := b.writeBill(path, info.Root.SHA256); err != nil {
		return nil, err
	}
	if info.SBOM.Size, info.SBOM.SHA256, err = sum(path); err != nil {
		return nil, err
	}
	js, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return nil, err
	}
	return info, os.WriteFile(list, append(js, '\n'), 0o644)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// publisher reads whom a box is to follow: the first root that it trusts, and where that publisher's releases are.
func (b *builder) publisher() (map[string][]byte, error) {
	if b.Publisher == "" {
		return nil, nil
	}
	files := map[string][]byte{}
	for _, name := range []string{"root.json", "publisher.json"} {
		content, err := os.ReadFile(filepath.Join(b.Publisher, name))
		if err != nil {
			return nil, err
		}
		if !json.Valid(content) || len(content) > release.MaxRoot {
			return nil, fmt.Errorf("%s of the publisher is no JSON document of at most %d bytes", name, release.MaxRoot)
		}
		files[name] = content
	}
	var p struct {
		Name    string   `json:"name"`
		Mirrors []string `json:"mirrors"`
	}
	dec := json.NewDecoder(bytes.NewReader(files["publisher.json"]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || p.Name == "" {
		return nil, errors.Join(errors.New("publisher.json does not have a name and mirrors, and nothing else"), err)
	}
	return files, nil
}
