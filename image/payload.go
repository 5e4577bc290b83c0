package image

import (
	"context"
	"errors"
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
	return nil, errors.New("not written yet")
}
