package image

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// imagerSystem is an entry of the list that Raspberry Pi Imager reads (rpi-imager, doc/json-schema/os-list-schema.json).
// InitFormat "none" keeps Imager from offering settings of its own, which Croft would not read.
type imagerSystem struct {
	Name         string   `json:"name"`
	Description  string   `json:"description"`
	Icon         string   `json:"icon"`
	Website      string   `json:"website"`
	URL          string   `json:"url"`
	ExtractSize  int64    `json:"extract_size"`
	ExtractSum   string   `json:"extract_sha256"`
	DownloadSize int64    `json:"image_download_size"`
	DownloadSum  string   `json:"image_download_sha256"`
	ReleaseDate  string   `json:"release_date"`
	InitFormat   string   `json:"init_format"`
	Devices      []string `json:"devices"`
}

// imagerIcon is a field with a house on it.
const imagerIcon = `data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 40 40'%3E` +
	`%3Crect width='40' height='40' rx='8' fill='%23276b3b'/%3E%3Cpath d='M8 20 20 9l12 11v12H8z' fill='%23fff'/%3E%3C/svg%3E`

// imagerList writes the list that "rpi-imager --repo" takes. Without o.URL it names the image where it is.
func (b *builder) imagerList(context.Context) error {
	raw, err := os.Stat(b.out(".img"))
	if err != nil {
		return err
	}
	packed, err := os.Stat(b.out(".img.zst"))
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(b.URL, "/")
	if base == "" {
		dir, err := filepath.Abs(b.Out)
		if err != nil {
			return err
		}
		base = (&url.URL{Scheme: "file", Path: dir}).String()
	}
	js, err := json.MarshalIndent(map[string]any{"os_list": []imagerSystem{{
		Name:        "Croft " + b.Version,
		Description: "Your own files, site, mail and apps on a box at home. For " + b.Board.Title,
		Icon:        imagerIcon,
		Website:     "https://" + repository,
		URL:         base + "/" + filepath.Base(b.out(".img.zst")),
		ExtractSize: raw.Size(), ExtractSum: b.sum,
		DownloadSize: packed.Size(), DownloadSum: b.packedSum,
		ReleaseDate: b.Epoch.Format(time.DateOnly),
		InitFormat:  "none",
		Devices:     b.Board.Imager,
	}}}, "", "  ")
	if err != nil {
		return fmt.Errorf("list for Raspberry Pi Imager: %w", err)
	}
	return os.WriteFile(b.out(".os_list.json"), append(js, '\n'), 0o644)
}
