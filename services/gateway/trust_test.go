package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

func TestAuthorityIsGivenAway(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	seen := make(chan []string, 1)
	serve(t, env, "webui", func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Values(caHeader) })
	serveWorld(t, env, "croft")
	g := start(t, env, testLimits())
	c := g.client("http/1.1")
	_, der := get(t, c, "http://croft.local"+caPath)
	sum := sha256.Sum256([]byte(der))
	for _, scheme := range []string{"http", "https"} {
		for path, want := range map[string]string{
			caPath: "application/x-x509-ca-cert", pemPath: "application/x-pem-file", profilePath: "application/x-apple-aspen-config",
		} {
			res, body := get(t, c, scheme+"://croft.local"+path)
			if res.StatusCode != 200 || res.Header.Get("Content-Type") != want || !strings.Contains(res.Header.Get("Content-Disposition"), path[1:]) {
				t.Errorf("%s %s: %s %v", scheme, path, res.Status, res.Header)
			}
			if block, _ := pem.Decode([]byte(body)); path == pemPath && (block == nil || string(block.Bytes) != der) {
				t.Error("the PEM file holds another certificate")
			}
		}
		req, err := http.NewRequest("GET", scheme+"://croft.local/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(caHeader, strings.Repeat("a", 64))
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := <-seen; len(got) != 1 || got[0] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the web UI was told %q", scheme, got)
		}
	}
	res, body := get(t, c, "https://croft.local"+checkPath)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "image/svg+xml" || res.Header.Get("Cross-Origin-Resource-Policy") != "cross-origin" {
		t.Errorf("the picture over TLS: %s %v", res.Status, res.Header)
	}
	if !strings.HasPrefix(body, "<svg ") {
		t.Errorf("the picture is %q", body)
	}
	if res, _ := get(t, c, "http://croft.local"+checkPath); res.StatusCode != 404 || res.Header.Get("Cross-Origin-Resource-Policy") != "same-origin" {
		t.Errorf("the picture without TLS: %s %v", res.Status, res.Header)
	}
}

func TestWithoutAnAuthority(t *testing.T) {
	t.Parallel()
	none := newTrust(nil)
	if none.header != nil || strings.Contains(none.status(), "ingerprint") {
		t.Errorf("%q %q", none.header, none.status())
	}
	if got, want := newTrust([]byte("x")).status(), "fingerprint: 2D71 1642 B726 B044 0162 7CA9 FBAC 32F5 C853 0FB1 903C C4DB 0225 8717 921A 4881"; !strings.HasSuffix(got, want) {
		t.Errorf("%q", got)
	}
}

// dict reads a property list's dictionaries, arrays and plain values (plist(5)) into maps, slices and strings.
func dict(d *xml.Decoder, start xml.StartElement) (any, error) {
	m, list, text, key := map[string]any{}, []any{}, "", ""
	for {
		tok, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch e := tok.(type) {
		case xml.CharData:
			text += string(e)
		case xml.StartElement:
			v, err := dict(d, e)
			if err != nil {
				return nil, err
			}
			switch {
			case e.Name.Local == "key":
				key = v.(string)
			case start.Name.Local == "dict" && key == "":
				return nil, fmt.Errorf("<%s> without a key", e.Name.Local)
			case start.Name.Local == "dict":
				m[key], key = v, ""
			default:
				list = append(list, v)
			}
		case xml.EndElement:
			switch start.Name.Local {
			case "dict":
				return m, nil
			case "array", "plist":
				return list, nil
			case "true", "false":
				return start.Name.Local, nil
			case "string", "key", "integer", "data":
				return text, nil
			}
			return nil, fmt.Errorf("<%s> is no part of a property list", start.Name.Local)
		}
	}
}

func readProfile(t *testing.T, data []byte) map[string]any {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(data))
	for {
		tok, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok {
			v, err := dict(d, e)
			if err != nil {
				t.Fatal(err)
			}
			return v.([]any)[0].(map[string]any)
		}
	}
}

func TestProfile(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const odd = `Croft <&> "at" home ]]>`
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: odd}},
		&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: odd}}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	p := readProfile(t, profile(der))
	root := p["PayloadContent"].([]any)[0].(map[string]any)
	for k, want := range map[string]string{
		"PayloadType": "Configuration", "PayloadDisplayName": odd, "PayloadVersion": "1", "PayloadRemovalDisallowed": "false",
	} {
		if p[k] != want {
			t.Errorf("%s: %q", k, p[k])
		}
	}
	if root["PayloadType"] != "com.apple.security.root" || root["PayloadContent"] != base64.StdEncoding.EncodeToString(der) {
		t.Errorf("the certificate's payload: %v", root)
	}
	form := regexp.MustCompile(`^[0-9A-F]{8}-[0-9A-F]{4}-8[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}$`)
	if a, b := p["PayloadUUID"].(string), root["PayloadUUID"].(string); !form.MatchString(a) || !form.MatchString(b) || a == b {
		t.Errorf("UUIDs %s and %s", a, b)
	}
	if !bytes.Equal(profile(der), profile(der)) {
		t.Error("the same certificate gives two profiles")
	}
	if other := readProfile(t, profile([]byte("another"))); other["PayloadUUID"] == p["PayloadUUID"] || other["PayloadIdentifier"] == p["PayloadIdentifier"] {
		t.Error("two certificates share an identity")
	}
}

// A box that gets a new name is trusted by it at once, and by the ones before for as long as it answers to them.
func TestRename(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	serve(t, env, "webui", page)
	serve(t, env, "network", func(w http.ResponseWriter, _ *http.Request) {
		daemon.WriteJSON(w, 200, api.Network{Clock: api.Clock{Certainty: api.ClockSure}})
	})
	var now atomic.Pointer[api.Discovery]
	now.Store(&api.Discovery{Name: "croft"})
	serve(t, env, "discovery", func(w http.ResponseWriter, _ *http.Request) { daemon.WriteJSON(w, 200, now.Load()) })
	g := start(t, env, testLimits())
	long := "a-very-long-name-of-a-box-with-all-the-letters-that-fit-in-63-ok"[:63]
	for _, d := range []api.Discovery{
		{Name: "croft", Wanted: "croft"},
		{Name: "attic", Wanted: "attic", Former: []string{"croft"}},
		{Name: long, Wanted: long, Former: []string{"croft", "attic"}},
		{Name: "barn", Wanted: "barn", Former: []string{"attic", long}},
	} {
		now.Store(&d)
		for _, n := range append([]string{d.Name}, d.Former...) {
			for _, scheme := range []string{"http", "https"} {
				res, body := get(t, g.client("http/1.1"), scheme+"://"+n+".local/")
				if res.StatusCode != 200 || !strings.Contains(body, "the page") {
					t.Errorf("%s://%s.local: %s", scheme, n, res.Status)
				}
				if res.TLS == nil {
					continue
				}
				cert := res.TLS.PeerCertificates[0]
				if err := cert.VerifyHostname(n + ".local"); err != nil {
					t.Error(err)
				}
				if d.Name == "barn" && cert.VerifyHostname("croft.local") == nil {
					t.Error("the certificate names what the box is called no more")
				}
			}
		}
	}
}
