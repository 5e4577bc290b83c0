package webui

import (
	"encoding/hex"
	"net"
	"net/http"
	"slices"
	"strings"
)

// trustRoutes are the page that helps a phone or computer to trust the box.
func trustRoutes() []route {
	return []route{{"GET /trust", whoPeople, (*visit).getTrust}}
}

// checkPath is a picture that the gateway serves over TLS only: whoever can load it trusts the box.
const checkPath = "/trust-check.svg"

// device is a kind of phone or computer, with the steps that make it trust the box.
type device struct {
	Name  string // as in the catalogue
	Title string
	File  string   // what to download
	Label string   // what the download is called
	Steps []string // after it
}

type trustView struct {
	Secure      bool   // the page came over HTTPS
	Owner       bool   // asks: where the way back leads
	Check       string // URL of the picture
	Page        string // URL of this page over HTTPS
	Fingerprint string // SHA-256 in groups; empty if the gateway did not say it
	Own         *device
	Others      []device
}

// deviceKinds are all kinds, and how many steps each takes after the download.
var deviceKinds = []struct {
	name, file string
	steps      int
}{
	{"ios", "/croft-ca.mobileconfig", 4},
	{"android", "/croft-ca.crt", 4},
	{"mac", "/croft-ca.crt", 4},
	{"windows", "/croft-ca.crt", 4},
	{"linux", "/croft-ca.pem", 2},
	{"firefox", "/croft-ca.pem", 3},
}

// deviceKind is the kind of who asks, by their User-Agent; empty if that does not say it.
func deviceKind(agent string) string {
	for _, k := range [][2]string{
		{"iPhone", "ios"},
		{"iPad", "ios"},
		{"Android", "android"},
		{"Firefox/", "firefox"},
		{"Macintosh", "mac"},
		{"Windows", "windows"},
		{"Linux", "linux"},
	} {
		if strings.Contains(agent, k[0]) {
			return k[1]
		}
	}
	return ""
}

// fingerprint writes a SHA-256 in hexadecimal as people compare it: in groups of four. Anything else is none.
func fingerprint(s string) string {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 {
		return ""
	}
	return strings.Join(slices.Collect(func(yield func(string) bool) {
		for i := 0; i < len(s) && yield(strings.ToUpper(s[i:i+4])); i += 4 {
		}
	}), " ")
}

func (v *visit) getTrust() {
	host, origin := v.r.Header.Get("X-Forwarded-Host"), ""
	if scheme(v.r) != "https" { // HTTPS is at its own port
		if h, _, err := net.SplitHostPort(host); err == nil {
			if host = h; strings.Contains(h, ":") {
				host = "[" + h + "]"
			}
		}
	}
	if host != "" && !strings.ContainsAny(host, " ;,'\"*/\\") { // it goes into the policy
		origin = "https://" + host
		v.w.Header().Set("Content-Security-Policy", strings.Replace(csp, "img-src 'self'", "img-src 'self' "+origin, 1))
	}
	view := trustView{Secure: scheme(v.r) == "https", Owner: v.owner(), Fingerprint: fingerprint(v.r.Header.Get("X-Croft-Ca-Sha256"))}
	if origin != "" {
		view.Check, view.Page = origin+checkPath, origin+"/trust"
	}
	own := deviceKind(v.r.UserAgent())
	for _, k := range deviceKinds {
		d := device{Name: k.name, Title: v.text.s("trust." + k.name), File: k.file, Label: v.text.s("trust.get")}
		if k.name == "ios" {
			d.Label = v.text.s("trust.get.profile")
		}
		for i := range k.steps {
			d.Steps = append(d.Steps, v.text.s("trust."+k.name+"."+string(rune('1'+i))))
		}
		if k.name == own {
			view.Own = &d
		} else {
			view.Others = append(view.Others, d)
		}
	}
	v.render(http.StatusOK, v.page("trust", view))
}
