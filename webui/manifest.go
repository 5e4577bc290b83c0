package webui

import (
	"encoding/json"
	"net/http"
)

// There is no service worker: it would keep pages of a box that may not be there or have another release, while pages that
// say since when they have not heard from the box are honest; over plain HTTP browsers run none anyway.

// manifestRoutes are what makes the pages installable on a home screen (W3C Web Application Manifest).
func manifestRoutes() []route {
	return []route{{"GET /manifest.webmanifest", whoAnyone, (*visit).getManifest}}
}

// icon is a picture in the manifest.
type icon struct {
	Src     string `json:"src"`
	Sizes   string `json:"sizes"`
	Type    string `json:"type"`
	Purpose string `json:"purpose,omitempty"`
}

func (v *visit) getManifest() {
	asset := func(name string) string { return v.assets[name].url }
	b, err := json.Marshal(map[string]any{
		"id": "/", "start_url": "/", "scope": "/", "display": "standalone", "lang": v.text["lang"],
		"name": v.text.s("name"), "short_name": v.text.s("name"), "description": v.text.s("manifest.text"),
		"theme_color": "#e9f3ea", "background_color": "#fbfcfa",
		"icons": []icon{
			{asset("icon.svg"), "any", "image/svg+xml", ""},
			{asset("icon-192.png"), "192x192", "image/png", ""},
			{asset("icon-512.png"), "512x512", "image/png", ""},
			{asset("maskable-512.png"), "512x512", "image/png", "maskable"},
		},
	})
	if err != nil {
		v.message(http.StatusInternalServerError, "error")
		return
	}
	h := v.w.Header()
	h.Set("Content-Type", "application/manifest+json")
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept-Language")
	v.w.Write(b)
}
