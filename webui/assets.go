package webui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed assets templates
var files embed.FS

// asset is a file that a browser may keep for ever, since its URL changes with its content.
type asset struct {
	url, contentType string
	plain            []byte
	zipped           func() []byte
}

// loadAssets returns the assets by name.
func loadAssets() (map[string]*asset, error) {
	types := map[string]string{
		".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
		".png": "image/png",
	}
	out := map[string]*asset{}
	names, err := fs.Glob(files, "assets/*")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		base, ext := path.Base(name), path.Ext(name)
		if types[ext] == "" {
			return nil, fmt.Errorf("asset %s: no content type for %q", name, ext)
		}
		sum := sha256.Sum256(b)
		out[base] = &asset{
			url:         "/assets/" + strings.TrimSuffix(base, ext) + "." + hex.EncodeToString(sum[:6]) + ext,
			contentType: types[ext],
			plain:       b,
			zipped:      sync.OnceValue(func() []byte { return zip(b) }),
		}
	}
	return out, nil
}

func (a *asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	b := a.plain
	if takesGzip(r) && a.contentType != "image/png" {
		h.Set("Content-Encoding", "gzip")
		b = a.zipped()
	}
	w.Write(b)
}

func takesGzip(r *http.Request) bool {
	for _, e := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		if name, q, _ := strings.Cut(strings.TrimSpace(e), ";"); name == "gzip" && strings.TrimSpace(q) != "q=0" {
			return true
		}
	}
	return false
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b) // a bytes.Buffer does not fail
	z.Close()
	return out.Bytes()
}
