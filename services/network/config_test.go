package network

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	hwnet "github.com/croft-os/croft/hardware/network"
	"github.com/croft-os/croft/services/api"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

const goodConfig = `{"interfaces":{"eth0":{"addresses":["192.168.1.5/24","fd00::5/64"],"gateway":"192.168.1.1","dns":["9.9.9.9"]},"*":{}},"ntp":["ntp.example.org","192.168.1.1"]}`

func TestDecodeConfig(t *testing.T) {
	tests := []struct {
		name, in, path string // path of the mistake; "-" for none
	}{
		{"good", goodConfig, "-"},
		{"empty", `{}`, "-"},
		{"nulls", `{"interfaces":null,"ntp":null}`, "-"},
		{"not JSON", `{`, ""},
		{"a list", `[]`, ""},
		{"too large", `{"ntp":["` + strings.Repeat("a", maxConfig) + `"]}`, ""},
		{"unknown field", `{"ntps":[]}`, "ntps"},
		{"unknown field of an interface", `{"interfaces":{"eth0":{"gatewy":"192.168.1.1"}}}`, "interfaces.eth0.gatewy"},
		{"interfaces as a list", `{"interfaces":[]}`, "interfaces"},
		{"interface as text", `{"interfaces":{"eth0":"dhcp"}}`, "interfaces.eth0"},
		{"address without length", `{"interfaces":{"eth0":{"addresses":["192.168.1.5/24","192.168.1.6"]}}}`, "interfaces.eth0.addresses[1]"},
		{"address as a number", `{"interfaces":{"eth0":{"addresses":[5]}}}`, "interfaces.eth0.addresses[0]"},
		{"addresses as text", `{"interfaces":{"eth0":{"addresses":"192.168.1.5/24"}}}`, "interfaces.eth0.addresses"},
		{"gateway", `{"interfaces":{"eth0":{"gateway":"router"}}}`, "interfaces.eth0.gateway"},
		{"gateway elsewhere", `{"interfaces":{"eth0":{"addresses":["192.168.1.5/24"],"gateway":"10.0.0.1"}}}`, "interfaces.eth0.gateway"},
		{"name server", `{"interfaces":{"eth0":{"dns":["9.9.9.9","dns.example"]}}}`, "interfaces.eth0.dns[1]"},
		{"time server", `{"ntp":["ntp.example.org","http://x/"]}`, "ntp[1]"},
		{"time server as a number", `{"ntp":[1]}`, "ntp[0]"},
		{"too many time servers", `{"ntp":["a","b","c","d","e","f","g","h","i"]}`, "ntp"},
		{"long list", `{"interfaces":{"eth0":{"dns":[` + strings.Repeat(`"9.9.9.9",`, 99) + `"9.9.9.9"]}}}`, "interfaces.eth0.dns"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := decodeConfig(strings.NewReader(tt.in))
			if tt.path == "-" {
				if err != nil {
					t.Fatal(err)
				}
				var want api.NetConfig
				if err := json.Unmarshal([]byte(tt.in), &want); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(c, want) {
					t.Errorf("got %+v, want %+v", c, want)
				}
				return
			}
			var ce *hwnet.ConfigError
			if !errors.As(err, &ce) || ce.Path != tt.path || ce.Text == "" {
				t.Errorf("got %v, want a mistake at %q", err, tt.path)
			}
		})
	}
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add(goodConfig)
	f.Add(`{"interfaces":{"eth0":{"addresses":["192.168.1.5/24"],"gateway":"fe80::1%eth0"}}}`)
	f.Add(`{"interfaces":{"eth0":{"addresses":[null]}},"ntp":[""]}`)
	f.Fuzz(func(t *testing.T, in string) {
		c, err := decodeConfig(strings.NewReader(in))
		if err != nil {
			return
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeConfig(strings.NewReader(string(b)))
		if err != nil {
			t.Fatalf("%s is refused: %v", b, err)
		}
		b2, err := json.Marshal(again)
		if err != nil || string(b2) != string(b) {
			t.Errorf("%s became %s, %v", b, b2, err)
		}
	})
}

func TestSaveAndLoad(t *testing.T) {
	s := &service{log: quiet, dir: t.TempDir()}
	if c := s.load(); !reflect.DeepEqual(c, api.NetConfig{}) {
		t.Errorf("without a file: %+v", c)
	}
	want, err := decodeConfig(strings.NewReader(goodConfig))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.save(want); err != nil {
		t.Fatal(err)
	}
	if got := s.load(); !reflect.DeepEqual(got, want) {
		t.Errorf("saved %+v, loaded %+v", want, got)
	}
	path := filepath.Join(s.dir, configFile)
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"ntp":["a"],"later":{"than":"this version"}}`)
	if got := s.load(); len(got.NTP) != 1 {
		t.Errorf("with a field of a later version: %+v", got)
	}
	for _, bad := range []string{"", "{", `{"interfaces":{"eth0":{"addresses":["224.0.0.1/8"]}}}`} {
		write(bad)
		if got := s.load(); !reflect.DeepEqual(got, api.NetConfig{}) {
			t.Errorf("%q: %+v", bad, got)
		}
		if b, err := os.ReadFile(path + ".bad"); err != nil || string(b) != bad {
			t.Errorf("%q was not set aside: %q, %v", bad, b, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%q is still in use", bad)
		}
	}
}

func TestPutRefused(t *testing.T) {
	s := &service{log: quiet, dir: t.TempDir()}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("PUT", "/v1/network/config", strings.NewReader(`{"ntp":["a b"]}`))
	s.handler().ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("from nobody known: %d", w.Code)
	}
	w = httptest.NewRecorder()
	s.putConfig(w, r)
	var p api.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if w.Code != 422 || p.Status != 422 || !strings.HasPrefix(p.Detail, "ntp[0]: ") || p.Title == "" ||
		w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %+v", w.Code, p)
	}
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) != 0 {
		t.Errorf("wrote %v, %v", entries, err)
	}
}

func TestBuilt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "release.json")
	for in, want := range map[string]int64{
		`{"version":"1","built":1800000000}`: 1800000000, `{"built":5}`: notBefore.Unix(), `{`: notBefore.Unix(),
	} {
		if err := os.WriteFile(path, []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := built(path); got.Unix() != want {
			t.Errorf("%s: %v", in, got)
		}
	}
	if got := built(path + "x"); !got.Equal(notBefore) {
		t.Errorf("without a file: %v", got)
	}
}
