package core

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
)

//go:embed openapi.json
var openAPI []byte

// document is openapi.json as it is sent: without the blanks that are for its readers, and compressed.
var document = sync.OnceValues(func() (packed []byte, tag string) {
	var b, z bytes.Buffer
	json.Compact(&b, openAPI)
	zw := gzip.NewWriter(&z)
	zw.Write(b.Bytes())
	zw.Close()
	return z.Bytes(), "W/" + entityTag(string(openAPI)) // weak: of two encodings
})

func (s *server) getOpenAPI(w http.ResponseWriter, r *http.Request, _ *caller) {
	packed, tag := document()
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache") // it may be kept, but has to be asked about
	h.Set("Vary", "Accept-Encoding")
	if listsTag(r.Header.Values("If-None-Match"), tag, true) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Write(openAPI)
		return
	}
	h.Set("Content-Encoding", "gzip")
	w.Write(packed)
}
