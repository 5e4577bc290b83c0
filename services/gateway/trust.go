package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/template"
)

// Where anybody gets the certificate of the box's own authority, to install it on a phone or laptop: in DER and PEM (RFC
// 2585, RFC 7468), and as a profile for Apple's devices.
const (
	caPath      = "/croft-ca.crt"
	pemPath     = "/croft-ca.pem"
	profilePath = "/croft-ca.mobileconfig"
	checkPath   = "/trust-check.svg" // a picture over TLS only: who can load it trusts the box
)

// caHeader tells the web UI the fingerprint of the authority's certificate, over plain HTTP and HTTPS. A client's own is
// taken out.
const caHeader = "X-Croft-Ca-Sha256"

// trust is the box's own authority as others get it: made once, since an authority never changes while the gateway runs.
type trust struct {
	fingerprint string // SHA-256 of the certificate in DER, in lower-case hexadecimal; empty without an authority
	header      []string
	files       map[string]trustFile
}

type trustFile struct {
	contentType string
	data        []byte
}

func newTrust(der []byte) *trust {
	if der == nil {
		return &trust{}
	}
	sum := sha256.Sum256(der)
	t := &trust{fingerprint: hex.EncodeToString(sum[:])}
	t.header = []string{t.fingerprint}
	t.files = map[string]trustFile{
		caPath:      {"application/x-x509-ca-cert", der},
		pemPath:     {"application/x-pem-file", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})},
		profilePath: {"application/x-apple-aspen-config", profile(der)},
	}
	return t
}

// status is what the gateway says of itself: with the fingerprint, which the box's screen shows for comparison.
func (t *trust) status() string {
	if t.fingerprint == "" {
		return "answers on the LAN"
	}
	return "Certificate's SHA-256 fingerprint: " + groups(t.fingerprint)
}

// groups writes hexadecimal as people compare it.
func groups(s string) string {
	var out []string
	for i := 0; i+4 <= len(s); i += 4 {
		out = append(out, strings.ToUpper(s[i:i+4]))
	}
	return strings.Join(out, " ")
}

// serve answers for what belongs to trust; it reports false for any other path.
func (t *trust) serve(f *front, w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	h := w.Header()
	switch r.URL.Path {
	case checkPath:
		if r.TLS == nil {
			f.problem(w, r, http.StatusNotFound, "This is only there over HTTPS.", "It shows whether a device trusts this box.")
			return true
		}
		h["Cross-Origin-Resource-Policy"] = crossOrigin // the page that shows it came over plain HTTP
		h.Set("Content-Type", "image/svg+xml")
		h.Set("Content-Length", strconv.Itoa(len(checkPicture)))
		h.Set("Cache-Control", "no-store")
		w.Write(checkPicture)
		return true
	case caPath, pemPath, profilePath:
	default:
		return false
	}
	file, ok := t.files[r.URL.Path]
	if !ok {
		h["Retry-After"] = retrySoon
		f.problem(w, r, http.StatusServiceUnavailable, "Croft has no certificate yet.", "Try again in a moment.")
		return true
	}
	h.Set("Content-Type", file.contentType)
	h.Set("Content-Disposition", `attachment; filename="`+r.URL.Path[1:]+`"`)
	h.Set("Content-Length", strconv.Itoa(len(file.data)))
	h.Set("Cache-Control", "no-cache")
	w.Write(file.data)
	return true
}

var (
	checkPicture = []byte(`<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>`)
	crossOrigin  = []string{"cross-origin"}
)

// profileTemplate is a configuration profile with one root certificate (Apple's Device Management reference: TopLevel,
// CertificateRoot). It is not signed: the box's own authority is all that it could be signed by.
var profileTemplate = template.Must(template.New("").Funcs(template.FuncMap{"xml": xmlText}).Parse(
	`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>PayloadContent</key>
	<array>
		<dict>
			<key>PayloadCertificateFileName</key>
			<string>croft-ca.crt</string>
			<key>PayloadContent</key>
			<data>{{.DER}}</data>
			<key>PayloadDescription</key>
			<string>Adds the certificate of a Croft box at home.</string>
			<key>PayloadDisplayName</key>
			<string>{{xml .Name}}</string>
			<key>PayloadIdentifier</key>
			<string>{{.ID}}.root</string>
			<key>PayloadType</key>
			<string>com.apple.security.root</string>
			<key>PayloadUUID</key>
			<string>{{.RootUUID}}</string>
			<key>PayloadVersion</key>
			<integer>1</integer>
		</dict>
	</array>
	<key>PayloadDescription</key>
	<string>Lets this device trust a Croft box at home, and nothing else: the certificate can vouch for local names and addresses only.</string>
	<key>PayloadDisplayName</key>
	<string>{{xml .Name}}</string>
	<key>PayloadIdentifier</key>
	<string>{{.ID}}</string>
	<key>PayloadOrganization</key>
	<string>Croft</string>
	<key>PayloadRemovalDisallowed</key>
	<false/>
	<key>PayloadType</key>
	<string>Configuration</string>
	<key>PayloadUUID</key>
	<string>{{.UUID}}</string>
	<key>PayloadVersion</key>
	<integer>1</integer>
</dict>
</plist>
`))

// profile makes the profile for a certificate. The same certificate gives the same profile, so that installing it again
// replaces it.
func profile(der []byte) []byte {
	name := "Croft at home"
	if cert, err := x509.ParseCertificate(der); err == nil && cert.Subject.CommonName != "" {
		name = cert.Subject.CommonName
	}
	sum := sha256.Sum256(der)
	var b bytes.Buffer
	err := profileTemplate.Execute(&b, map[string]string{
		"DER": base64.StdEncoding.EncodeToString(der), "Name": name, "ID": "org.croft.home." + hex.EncodeToString(sum[:8]),
		"UUID": uuid(der, "profile"), "RootUUID": uuid(der, "root"),
	})
	if err != nil {
		panic(err) // only strings go into a buffer
	}
	return b.Bytes()
}

func xmlText(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a strings.Builder does not fail
	return b.String()
}

// uuid is a UUID that follows from data and a purpose (RFC 9562, version 8).
func uuid(data []byte, purpose string) string {
	b := sha256.Sum256(append([]byte(purpose+"\x00"), data...))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16]))
}
