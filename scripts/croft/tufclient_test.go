package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// These are the cases of the public suite tuf-conformance, against a repository simulated over loopback HTTP. Its names are in the names
// of the tests where they have one.

type dict = map[string]any

// tufSigner has a key and signs with it.
type tufSigner struct {
	id, keyType, scheme, public string
	extra                       dict // further fields of the key
	sign                        func([]byte) []byte
}

func newTUFSigner(t *testing.T, kind string) *tufSigner {
	t.Helper()
	s := &tufSigner{keyType: kind}
	var public crypto.PublicKey
	switch kind {
	case "ed25519":
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, s.sign = pub, func(b []byte) []byte { return ed25519.Sign(priv, b) }
	case "ecdsa":
		priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public = priv.Public()
		s.sign = func(b []byte) []byte {
			h := sha256.Sum256(b)
			sig, err := ecdsa.SignASN1(rand.Reader, priv, h[:])
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}
	case "rsa":
		priv, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		public = priv.Public()
		s.sign = func(b []byte) []byte {
			h := sha256.Sum256(b)
			sig, err := rsa.SignPSS(rand.Reader, priv, crypto.SHA256, h[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}
	}
	k, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	s.keyType, s.scheme, s.public = k.Type, k.Scheme, k.Value.PublicKey
	if s.id, err = k.ID(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *tufSigner) key() dict {
	d := dict{"keytype": s.keyType, "scheme": s.scheme, "keyval": dict{"public": s.public}}
	for k, v := range s.extra {
		d[k] = v
	}
	return d
}

// tufSim is a repository.
type tufSim struct {
	t         *testing.T
	docs      map[string]dict // signed parts that are published next
	signed    map[string][][]byte
	signers   map[string][]*tufSigner
	artifacts map[string][]byte
	hashes    bool // of metadata, in snapshot and timestamp
	asked     []string
	agents    map[string]bool
	status    int // that everything is answered with, if not 0

	url, dir, out string
}

func newTUFSim(t *testing.T) *tufSim {
	s := &tufSim{
		t: t, docs: map[string]dict{}, signed: map[string][][]byte{}, signers: map[string][]*tufSigner{}, artifacts: map[string][]byte{},
		agents: map[string]bool{}, dir: filepath.Join(t.TempDir(), "metadata"), out: filepath.Join(t.TempDir(), "targets"),
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	s.docs["root"] = s.doc("root", dict{"consistent_snapshot": true, "keys": dict{}, "roles": dict{}})
	s.docs["timestamp"] = s.doc("timestamp", dict{"meta": dict{}})
	s.docs["snapshot"] = s.doc("snapshot", dict{"meta": dict{}})
	s.docs["targets"] = s.doc("targets", dict{"targets": dict{}})
	for _, r := range metadata.TOP_LEVEL_ROLE_NAMES {
		s.docs["root"]["roles"].(dict)[r] = dict{"keyids": []string{}, "threshold": 1}
		s.addKey(r, newTUFSigner(t, "ed25519"))
	}
	s.publish("targets", "snapshot", "timestamp", "root")
	return s
}

func (s *tufSim) doc(kind string, more dict) dict {
	d := dict{"_type": kind, "spec_version": "1.0.31", "version": 1, "expires": when(30)}
	for k, v := range more {
		d[k] = v
	}
	return d
}

func when(days int) string {
	return time.Now().UTC().AddDate(0, 0, days).Format("2006-01-02T15:04:05Z")
}

// delegation is the role of a delegation, or of root.
func (s *tufSim) delegation(name string) (keys, role dict) {
	if r, ok := s.docs["root"]["roles"].(dict)[name].(dict); ok {
		return s.docs["root"]["keys"].(dict), r
	}
	for _, d := range s.docs {
		dd, _ := d["delegations"].(dict)
		if dd == nil {
			continue
		}
		if r, ok := dd["succinct_roles"].(dict); ok {
			return dd["keys"].(dict), r
		}
		for _, r := range dd["roles"].([]dict) {
			if r["name"] == name {
				return dd["keys"].(dict), r
			}
		}
	}
	s.t.Fatalf("no role %q", name)
	return nil, nil
}

func (s *tufSim) addKey(name string, k *tufSigner) {
	keys, role := s.delegation(name)
	keys[k.id] = k.key()
	role["keyids"] = append(role["keyids"].([]string), k.id)
	s.signers[name] = append(s.signers[name], k)
}

func (s *tufSim) rotate(name string) {
	_, role := s.delegation(name)
	role["keyids"], s.signers[name] = []string{}, nil
	s.addKey(name, newTUFSigner(s.t, "ed25519"))
}

func (s *tufSim) threshold(name string, n int) {
	_, role := s.delegation(name)
	role["threshold"] = n
}

func (s *tufSim) version(name string) int { return s.docs[name]["version"].(int) }

// publish signs the next versions of roles.
func (s *tufSim) publish(names ...string) {
	for _, n := range names {
		if s.signed[n] != nil {
			s.docs[n]["version"] = s.version(n) + 1
		}
		s.put(n, s.sign(s.docs[n], s.signers[n]...))
	}
}

// put publishes bytes as the newest version of a role.
func (s *tufSim) put(n string, b []byte) {
	s.signed[n] = append(s.signed[n], b)
	meta := dict{"version": s.version(n)}
	if s.hashes {
		meta["length"], meta["hashes"] = len(b), dict{"sha256": hex256(b)}
	}
	switch n {
	case "root", "timestamp":
	case "snapshot":
		s.docs["timestamp"]["meta"].(dict)["snapshot.json"] = meta
	default:
		s.docs["snapshot"]["meta"].(dict)[n+".json"] = meta
	}
}

// swap replaces the newest version of a role after signing.
func (s *tufSim) swap(n string, f func([]byte) []byte) {
	s.signed[n][len(s.signed[n])-1] = f(s.signed[n][len(s.signed[n])-1])
}

func (s *tufSim) sign(signed dict, by ...*tufSigner) []byte {
	payload, err := cjson.EncodeCanonical(signed)
	if err != nil {
		s.t.Fatal(err)
	}
	sigs := []dict{}
	for _, k := range by {
		sigs = append(sigs, dict{"keyid": k.id, "sig": hex.EncodeToString(k.sign(payload))})
	}
	b, err := json.MarshalIndent(dict{"signed": signed, "signatures": sigs}, "", " ")
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func hex256(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }

// artifact adds a target to a role.
func (s *tufSim) artifact(role, name, content string) {
	s.docs[role]["targets"].(dict)[name] = dict{"length": len(content), "hashes": dict{"sha256": hex256([]byte(content))}}
	s.artifacts[name] = []byte(content)
}

// delegate adds a delegation; a role that is new gets empty metadata.
func (s *tufSim) delegate(from string, role dict) {
	d, ok := s.docs[from]["delegations"].(dict)
	if !ok {
		d = dict{"keys": dict{}, "roles": []dict{}}
		s.docs[from]["delegations"] = d
	}
	name := role["name"].(string)
	full := dict{"keyids": []string{}, "threshold": 1, "terminating": false}
	for k, v := range role {
		full[k] = v
	}
	if full["paths"] == nil && full["path_hash_prefixes"] == nil {
		full["paths"] = []string{"*"}
	}
	k := newTUFSigner(s.t, "ed25519")
	d["keys"].(dict)[k.id], full["keyids"] = k.key(), []string{k.id}
	s.signers[name] = append(s.signers[name], k)
	d["roles"] = append(d["roles"].([]dict), full)
	if s.docs[name] == nil {
		s.docs[name] = s.doc("targets", dict{"targets": dict{}})
	}
}

func (s *tufSim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.agents[r.UserAgent()] = true
	b, ok := s.file(r.URL.EscapedPath())
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
	case !ok:
		http.NotFound(w, r)
	default:
		_, _ = w.Write(b)
	}
}

func (s *tufSim) file(path string) ([]byte, bool) {
	consistent := s.docs["root"]["consistent_snapshot"].(bool)
	if name, ok := strings.CutPrefix(path, "/targets/"); ok {
		s.asked = append(s.asked, "target "+name)
		if consistent {
			i := strings.LastIndex(name, "/") + 1
			sum, file, _ := strings.Cut(name[i:], ".")
			name = name[:i] + file
			plain, _ := url.PathUnescape(name)
			h := sha512.Sum512(s.artifacts[plain])
			if sum != hex.EncodeToString(h[:]) && !bytes.Contains(bytes.Join(s.signedTargets(), nil), []byte(sum)) {
				return nil, false
			}
		}
		plain, _ := url.PathUnescape(name)
		b, ok := s.artifacts[plain]
		return b, ok
	}
	name, ok := strings.CutPrefix(path, "/metadata/")
	name, ok2 := strings.CutSuffix(name, ".json")
	if !ok || !ok2 {
		return nil, false
	}
	version := 0
	if v, rest, ok := strings.Cut(name, "."); ok && (rest == "root" || consistent && name != "timestamp") {
		version, _ = strconv.Atoi(v)
		name = rest
	}
	s.asked = append(s.asked, strings.TrimSuffix(fmt.Sprint(name, " ", version), " 0"))
	role, err := url.PathUnescape(name)
	if err != nil {
		return nil, false
	}
	all := s.signed[role]
	if version == 0 {
		version = len(all)
	}
	if version < 1 || version > len(all) {
		return nil, false
	}
	return all[version-1], true
}

func (s *tufSim) signedTargets() (out [][]byte) {
	for _, all := range s.signed {
		out = append(out, all...)
	}
	return out
}

// client runs the client.
func (s *tufSim) client(args ...string) int {
	s.t.Helper()
	var out, err bytes.Buffer
	code := run(context.Background(), append([]string{"tuf-client", "--metadata-dir", s.dir}, args...), stdio{strings.NewReader(""), &out, &err})
	if code != 0 {
		s.t.Logf("%s", strings.TrimSpace(err.String()))
	}
	return code
}

func (s *tufSim) init() {
	s.t.Helper()
	if code := s.initWith(s.signed["root"][0]); code != 0 {
		s.t.Fatalf("init exits with %d", code)
	}
}

func (s *tufSim) initWith(root []byte) int {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "initial_root.json")
	if err := os.WriteFile(file, root, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.client("init", file)
}

// refresh and download expect an exit code.
func (s *tufSim) refresh(want int) {
	s.t.Helper()
	if code := s.client("--metadata-url", s.url+"/metadata", "refresh"); code != want {
		s.t.Errorf("refresh exits with %d, not %d", code, want)
	}
}

func (s *tufSim) download(want int, names ...string) {
	s.t.Helper()
	args := []string{"--metadata-url", s.url + "/metadata/", "--target-base-url", s.url + "/targets/", "--target-dir", s.out}
	for _, n := range names {
		args = append(args, "--target-name", n)
	}
	if code := s.client(append(args, "download")...); code != want {
		s.t.Errorf("download exits with %d, not %d", code, want)
	}
}

// trusted expects versions of what the client trusts, such as "root 1".
func (s *tufSim) trusted(want ...string) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			s.t.Fatal(err)
		}
		var m struct{ Signed struct{ Version int } }
		if err := json.Unmarshal(b, &m); err != nil {
			s.t.Fatal(err)
		}
		got = append(got, fmt.Sprint(strings.TrimSuffix(filepath.Base(f), ".json"), " ", m.Signed.Version))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.t.Errorf("trusts %q, not %q", got, want)
	}
}

// requests expects what was asked for since the last time.
func (s *tufSim) requests(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.asked, want) {
		s.t.Errorf("asked for %q, not %q", s.asked, want)
	}
	s.asked = nil
}

// have expects the contents of all targets, in any order.
func (s *tufSim) have(want ...string) {
	s.t.Helper()
	files, err := os.ReadDir(s.out)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	got := []string{}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(s.out, f.Name()))
		if err != nil {
			s.t.Fatal(err)
		}
		got = append(got, string(b))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, append([]string{}, want...)) {
		s.t.Errorf("has %q, not %q", got, want)
	}
}

func (s *tufSim) stored(role string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, url.PathEscape(role)+".json"))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *tufSim) all() { s.publish("targets", "snapshot", "timestamp") }

// later is the environment that the program faketime makes.
func (s *tufSim) later(days int) { s.t.Setenv("FAKETIME", fmt.Sprintf("+%d", days*24*3600)) }

func TestTUFClient(t *testing.T) {
	first := []string{"root 1", "timestamp 1", "snapshot 1", "targets 1"}
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, s *tufSim)
	}{
		{"init makes no requests", func(t *testing.T, s *tufSim) { s.init(); s.requests(); s.trusted("root 1") }},
		{"basic_refresh", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.requests("root 2", "timestamp", "snapshot 1", "targets 1")
			s.trusted(first...)
			for _, r := range metadata.TOP_LEVEL_ROLE_NAMES {
				if !bytes.Equal(s.stored(r), s.signed[r][0]) {
					t.Errorf("%s is not what was served", r)
				}
			}
			s.refresh(0)
			s.requests("root 2", "timestamp")
			if len(s.agents) != 1 || !s.agents["croft-tuf-client"] {
				t.Errorf("calls itself %v", s.agents)
			}
		}},
		{"implicit_refresh", func(t *testing.T, s *tufSim) {
			s.init()
			s.download(1, "nonexistent artifact")
			s.requests("root 2", "timestamp", "snapshot 1", "targets 1")
			s.trusted(first...)
		}},
		{"invalid_initial_root", func(t *testing.T, s *tufSim) {
			delete(s.docs["root"], "version")
			s.initWith(s.sign(s.docs["root"], newTUFSigner(t, "ed25519")))
			s.refresh(1)
			s.requests()
		}},
		{"unsigned_initial_root", func(t *testing.T, s *tufSim) {
			s.initWith(s.sign(s.docs["root"], newTUFSigner(t, "ecdsa")))
			s.refresh(1)
			s.requests()
		}},
		{"init again does not go back", func(t *testing.T, s *tufSim) {
			s.init()
			s.publish("root")
			s.refresh(0)
			s.init()
			s.trusted("root 2", "timestamp 1", "snapshot 1", "targets 1")
		}},
		{"metadata_bytes_match", func(t *testing.T, s *tufSim) {
			s.swap("timestamp", func(b []byte) []byte { return append(b, ' ') })
			s.init()
			s.refresh(0)
			if !bytes.Equal(s.stored("timestamp"), s.signed["timestamp"][0]) {
				t.Error("not the same bytes")
			}
		}},
		{"custom_fields", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			k := newTUFSigner(t, "ed25519")
			k.extra, k.id = dict{"extra-field": dict{"a": 1, "b": 2}}, "an id that is no hash"
			s.docs["root"]["custom-field"] = "value"
			s.addKey("root", k)
			s.docs["root"]["roles"].(dict)["root"].(dict)["another-field"] = "value"
			s.threshold("root", 2)
			s.publish("root")
			s.refresh(0)
			s.trusted("root 2", "timestamp 1", "snapshot 1", "targets 1")
		}},
		{"deprecated_keyid_hash_algorithms", func(t *testing.T, s *tufSim) {
			s.init()
			s.rotate("snapshot")
			k := newTUFSigner(t, "ed25519")
			k.extra = dict{"keyid_hash_algorithms": "md5"}
			s.addKey("snapshot", k)
			s.publish("root", "snapshot", "timestamp")
			s.refresh(0)
			s.trusted("root 2", "timestamp 2", "snapshot 2", "targets 1")
		}},
		{"snapshot_404", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.docs["timestamp"]["meta"].(dict)["snapshot.json"].(dict)["version"] = 2
			s.publish("timestamp")
			s.asked = nil
			s.refresh(1)
			s.requests("root 2", "timestamp", "snapshot 2")
			s.trusted("root 1", "timestamp 2", "snapshot 1", "targets 1")
		}},
		{"targets_404", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.docs["snapshot"]["meta"].(dict)["targets.json"].(dict)["version"] = 2
			s.publish("snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 1", "timestamp 2", "snapshot 2", "targets 1")
		}},
		{"timestamp_404", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.signed["timestamp"] = nil
			s.refresh(1)
			s.trusted(first...)
		}},
		{"server error", func(t *testing.T, s *tufSim) {
			s.init()
			s.status = 500
			s.refresh(1)
			s.trusted("root 1")
			s.status = 0
			s.refresh(0)
		}},
		{"timestamp_content_changes", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			was := s.stored("timestamp")
			s.docs["timestamp"]["meta"].(dict)["snapshot.json"].(dict)["version"] = 100
			s.signed["timestamp"] = nil
			s.publish("timestamp")
			s.asked = nil
			s.refresh(0)
			s.requests("root 2", "timestamp")
			if !bytes.Equal(s.stored("timestamp"), was) {
				t.Error("another timestamp of the same version")
			}
		}},
		{"basic_metadata_hash_support", func(t *testing.T, s *tufSim) {
			s.hashes = true
			s.all()
			s.init()
			s.refresh(0)
			s.publish("targets")
			s.docs["snapshot"]["meta"].(dict)["targets.json"].(dict)["hashes"] = dict{"sha256": hex256([]byte("other"))}
			s.publish("snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 1", "timestamp 3", "snapshot 3", "targets 2")
		}},
		{"wrong length of snapshot", func(t *testing.T, s *tufSim) {
			s.hashes = true
			s.publish("targets", "snapshot")
			s.docs["timestamp"]["meta"].(dict)["snapshot.json"].(dict)["length"] = 10
			s.publish("timestamp")
			s.init()
			s.refresh(1)
			s.trusted("root 1", "timestamp 2")
		}},
		{"incorrect_metadata_type", func(t *testing.T, s *tufSim) {
			s.init()
			s.addKey("snapshot", s.signers["timestamp"][0])
			s.docs["snapshot"]["meta"] = dict{"snapshot.json": dict{"version": 1}}
			s.publish("root", "snapshot")
			s.signed["timestamp"] = append(s.signed["timestamp"], s.signed["snapshot"][1])
			s.refresh(1)
			s.trusted("root 2")
		}},
		{"no snapshot in the timestamp", func(t *testing.T, s *tufSim) {
			s.docs["timestamp"]["meta"] = dict{}
			s.publish("timestamp")
			s.init()
			s.refresh(1)
			s.trusted("root 1")
		}},
		{"nulls do not end the program", func(t *testing.T, s *tufSim) {
			s.docs["targets"]["targets"] = dict{"x": nil}
			s.all()
			s.init()
			s.refresh(1)
			s.trusted("root 1", "timestamp 2", "snapshot 2")
		}},
		{"keys of a wrong length do not end the program", func(t *testing.T, s *tufSim) {
			s.init()
			k := newTUFSigner(t, "ed25519")
			k.public = "00"
			s.addKey("timestamp", k)
			s.publish("root", "timestamp")
			s.refresh(1)
			s.trusted("root 1")
		}},
		{"faketime", func(t *testing.T, s *tufSim) {
			s.init()
			s.docs["root"]["expires"] = when(7)
			s.publish("root")
			s.refresh(0)
			s.later(8)
			s.refresh(1)
			t.Setenv("FAKETIME", time.Now().AddDate(0, 0, 8).UTC().Format("2006-01-02 15:04:05.999999-07:00"))
			s.refresh(1)
			t.Setenv("FAKETIME", "")
			s.refresh(0)
			t.Setenv("FAKETIME", "nonsense")
			s.refresh(1)
		}},

		// Expiry
		{"root_expired", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.docs["root"]["expires"] = when(-1)
			s.publish("root", "targets", "snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 2", "timestamp 1", "snapshot 1", "targets 1")
			s.docs["root"]["expires"] = when(30)
			s.publish("root")
			s.refresh(0)
			s.trusted("root 3", "timestamp 2", "snapshot 2", "targets 2")
		}},
		{"timestamp_expired", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.docs["timestamp"]["expires"] = when(-5)
			s.publish("timestamp")
			s.refresh(1)
			s.trusted(first...)
		}},
		{"snapshot_expired", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.docs["snapshot"]["expires"] = when(-5)
			s.publish("snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 1", "timestamp 2", "snapshot 1", "targets 1")
		}},
		{"targets_expired", func(t *testing.T, s *tufSim) {
			s.init()
			s.refresh(0)
			s.docs["targets"]["expires"] = when(-5)
			s.all()
			s.refresh(1)
			s.trusted("root 1", "timestamp 2", "snapshot 2", "targets 1")
		}},
		{"expired_local_root", func(t *testing.T, s *tufSim) {
			s.docs["root"]["expires"] = when(-1)
			s.publish("root")
			s.docs["root"]["expires"] = when(30)
			s.publish("root")
			s.initWith(s.signed["root"][1])
			s.refresh(0)
			s.trusted("root 3", "timestamp 1", "snapshot 1", "targets 1")
		}},
		{"expired_local_timestamp", func(t *testing.T, s *tufSim) {
			s.docs["timestamp"]["expires"] = when(7)
			s.publish("timestamp")
			s.init()
			s.refresh(0)
			s.docs["timestamp"]["expires"] = when(21)
			s.all()
			s.later(18)
			s.refresh(0)
			s.trusted("root 1", "timestamp 3", "snapshot 2", "targets 2")
		}},
		{"expired_local_timestamp guards against a rollback", func(t *testing.T, s *tufSim) {
			s.docs["timestamp"]["expires"] = when(7)
			s.publish("snapshot", "snapshot", "timestamp")
			s.init()
			s.refresh(0)
			s.docs["timestamp"]["expires"] = when(21)
			s.docs["timestamp"]["meta"].(dict)["snapshot.json"].(dict)["version"] = 1
			s.publish("timestamp")
			s.later(18)
			s.refresh(1)
			s.trusted("root 1", "timestamp 2", "snapshot 3", "targets 1")
		}},
		{"expired_local_snapshot guards against a rollback", func(t *testing.T, s *tufSim) {
			s.docs["snapshot"]["expires"] = when(7)
			s.publish("targets", "targets", "snapshot", "timestamp")
			s.init()
			s.refresh(0)
			s.docs["snapshot"]["expires"] = when(21)
			s.docs["snapshot"]["meta"].(dict)["targets.json"].(dict)["version"] = 1
			s.publish("snapshot", "timestamp")
			s.later(18)
			s.refresh(1)
			s.trusted("root 1", "timestamp 3", "snapshot 2", "targets 3")
		}},
		{"delegated_targets_expired", func(t *testing.T, s *tufSim) {
			s.init()
			s.delegate("targets", dict{"name": "delegated", "paths": []string{"delegatedpath/*"}})
			s.docs["delegated"]["expires"] = when(-1)
			s.artifact("delegated", "delegatedpath/target", "delegated content")
			s.publish("delegated", "targets", "snapshot", "timestamp")
			s.refresh(0)
			s.download(1, "delegatedpath/target")
			s.have()
			s.trusted("root 1", "timestamp 2", "snapshot 2", "targets 2")
		}},
		{"expired_local_delegated_targets", func(t *testing.T, s *tufSim) {
			s.init()
			s.delegate("targets", dict{"name": "delegated", "paths": []string{"delegatedpath/*"}})
			s.docs["delegated"]["expires"] = when(7)
			s.artifact("delegated", "delegatedpath/first", "first")
			s.artifact("delegated", "delegatedpath/second", "second")
			s.publish("delegated", "targets", "snapshot", "timestamp")
			s.download(0, "delegatedpath/first")
			s.later(18)
			s.download(1, "delegatedpath/second")
			s.have("first")
			s.docs["delegated"]["expires"] = when(21)
			s.publish("delegated", "snapshot", "timestamp")
			s.download(0, "delegatedpath/second")
			s.have("first", "second")
		}},

		// Rollback
		{"new_timestamp_version_rollback", func(t *testing.T, s *tufSim) {
			s.publish("timestamp")
			s.init()
			s.refresh(0)
			s.signed["timestamp"] = s.signed["timestamp"][:1]
			s.refresh(1)
			s.trusted("root 1", "timestamp 2", "snapshot 1", "targets 1")
		}},
		{"snapshot_rollback", func(t *testing.T, s *tufSim) { snapshotRollback(s, false) }},
		{"snapshot_rollback with hashes", func(t *testing.T, s *tufSim) { snapshotRollback(s, true) }},
		{"targets_rollback", func(t *testing.T, s *tufSim) { targetsRollback(s, false) }},
		{"targets_rollback with hashes", func(t *testing.T, s *tufSim) { targetsRollback(s, true) }},
		{"delegated targets rollback", func(t *testing.T, s *tufSim) {
			s.delegate("targets", dict{"name": "A"})
			s.publish("A", "A", "targets", "snapshot", "timestamp")
			s.init()
			s.refresh(0)
			s.docs["snapshot"]["meta"].(dict)["A.json"].(dict)["version"] = 1
			s.publish("snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 1", "timestamp 3", "snapshot 2", "targets 2")
		}},
		{"a role taken out of the snapshot", func(t *testing.T, s *tufSim) {
			s.delegate("targets", dict{"name": "A"})
			s.publish("A", "targets", "snapshot", "timestamp")
			s.init()
			s.refresh(0)
			delete(s.docs["snapshot"]["meta"].(dict), "A.json")
			s.publish("snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 1", "timestamp 3", "snapshot 2", "targets 2")
		}},
		{"snapshot version mismatch", func(t *testing.T, s *tufSim) {
			s.init()
			s.docs["snapshot"]["version"] = 2
			s.publish("snapshot", "timestamp") // 2.snapshot.json says 3
			s.docs["timestamp"]["meta"].(dict)["snapshot.json"].(dict)["version"] = 2
			s.publish("timestamp")
			s.refresh(1)
			s.trusted("root 1", "timestamp 3")
		}},
		{"targets version mismatch", func(t *testing.T, s *tufSim) {
			s.init()
			s.docs["targets"]["version"] = 2
			s.publish("targets")
			s.docs["snapshot"]["meta"].(dict)["targets.json"].(dict)["version"] = 2
			s.publish("snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 1", "timestamp 2", "snapshot 2")
		}},
		{"root version mismatch", func(t *testing.T, s *tufSim) {
			s.init()
			s.docs["root"]["version"] = 2
			s.publish("root")
			s.refresh(1)
			s.trusted("root 1")
		}},
		{"timestamp_fast_forward_recovery", func(t *testing.T, s *tufSim) {
			s.init()
			s.docs["timestamp"]["version"] = 99998
			s.publish("timestamp")
			s.refresh(0)
			s.trusted("root 1", "timestamp 99999", "snapshot 1", "targets 1")
			s.rotate("timestamp")
			s.publish("root")
			s.docs["timestamp"]["version"] = 0
			s.publish("timestamp")
			s.refresh(0)
			s.trusted("root 2", "timestamp 1", "snapshot 1", "targets 1")
		}},
		{"snapshot_fast_forward_recovery", func(t *testing.T, s *tufSim) {
			s.init()
			s.docs["snapshot"]["version"] = 99998
			s.docs["targets"]["version"] = 1
			s.signed["snapshot"] = append(s.signed["snapshot"], make([][]byte, 99997)...)
			s.publish("snapshot", "timestamp")
			s.refresh(0)
			s.rotate("snapshot")
			s.rotate("timestamp")
			s.publish("root")
			s.docs["snapshot"]["version"], s.docs["timestamp"]["version"] = 0, 0
			s.signed["snapshot"] = [][]byte{}
			s.publish("snapshot", "timestamp")
			s.refresh(0)
			s.trusted("root 2", "timestamp 1", "snapshot 1", "targets 1")
		}},
		{"targets_fast_forward_recovery", func(t *testing.T, s *tufSim) {
			s.init()
			s.docs["targets"]["version"] = 98
			s.signed["targets"] = append(s.signed["targets"], make([][]byte, 97)...)
			s.publish("targets", "snapshot", "timestamp")
			s.refresh(0)
			s.rotate("snapshot")
			s.publish("root")
			s.docs["targets"]["version"] = 0
			s.signed["targets"] = [][]byte{}
			s.publish("targets", "snapshot", "timestamp")
			s.refresh(0)
			s.trusted("root 2", "timestamp 3", "snapshot 3", "targets 1")
		}},
		{"targets_fast_forward_recovery with a role taken out", func(t *testing.T, s *tufSim) {
			s.delegate("targets", dict{"name": "delegated", "paths": []string{"delegatedpath/*"}})
			s.publish("delegated", "targets", "targets", "snapshot", "timestamp")
			s.init()
			s.refresh(0)
			s.rotate("snapshot")
			delete(s.docs["snapshot"]["meta"].(dict), "delegated.json")
			s.docs["targets"]["version"], s.signed["targets"] = 0, [][]byte{}
			s.publish("root", "targets", "snapshot", "timestamp")
			s.refresh(0)
			s.trusted("root 2", "timestamp 3", "snapshot 3", "targets 1")
		}},
		{"fast-forward by one of two keys", func(t *testing.T, s *tufSim) {
			stolen := newTUFSigner(t, "ed25519")
			s.addKey("timestamp", stolen)
			s.publish("root")
			s.docs["timestamp"]["version"] = 998
			s.publish("timestamp")
			s.init()
			s.refresh(0)
			_, role := s.delegation("timestamp")
			role["keyids"], s.signers["timestamp"] = role["keyids"].([]string)[:1], s.signers["timestamp"][:1]
			s.publish("root")
			s.docs["timestamp"]["version"] = 1
			s.publish("timestamp")
			s.refresh(0)
			s.trusted("root 3", "timestamp 2", "snapshot 1", "targets 1")
		}},

		// Keys
		{"snapshot_does_not_meet_threshold", func(t *testing.T, s *tufSim) {
			s.threshold("snapshot", 3)
			s.addKey("snapshot", newTUFSigner(t, "ed25519"))
			s.addKey("snapshot", newTUFSigner(t, "ecdsa"))
			s.publish("root", "targets", "snapshot", "timestamp")
			s.init()
			s.refresh(0)
			s.signers["snapshot"] = s.signers["snapshot"][:2]
			s.all()
			s.refresh(1)
			s.trusted("root 2", "timestamp 3", "snapshot 2", "targets 2")
		}},
		{"snapshot_has_too_few_keys", func(t *testing.T, s *tufSim) {
			s.init()
			for range 4 {
				s.addKey("snapshot", newTUFSigner(t, "ed25519"))
			}
			s.threshold("snapshot", 6)
			s.publish("root", "snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 2", "timestamp 2")
		}},
		{"duplicate_keys", func(t *testing.T, s *tufSim) {
			s.init()
			k := newTUFSigner(t, "ed25519")
			for range 9 {
				s.addKey("snapshot", k)
			}
			s.threshold("snapshot", 6)
			s.publish("root", "snapshot", "timestamp")
			s.refresh(1)
			if _, err := os.Stat(filepath.Join(s.dir, "snapshot.json")); err == nil {
				t.Error("took the snapshot")
			}
		}},
		{"one key under many ids", func(t *testing.T, s *tufSim) {
			s.init()
			k := newTUFSigner(t, "ed25519")
			for i := range 9 {
				c := *k
				c.id = fmt.Sprint("id ", i)
				s.addKey("snapshot", &c)
			}
			s.threshold("snapshot", 6)
			s.publish("root", "snapshot", "timestamp")
			s.refresh(1)
			s.trusted("root 2", "timestamp 2")
		}},
		{"duplicate_sig_keyids", func(t *testing.T, s *tufSim) {
			s.init()
			s.signed["snapshot"][0] = s.sign(s.docs["snapshot"], s.signers["snapshot"][0], s.signers["snapshot"][0])
			s.refresh(1)
			s.trusted("root 1", "timestamp 1")
		}},
		{"keytype_and_scheme ed25519", func(t *testing.T, s *tufSim) { keyType(t, s, "ed25519") }},
		{"keytype_and_scheme ecdsa", func(t *testing.T, s *tufSim) { keyType(t, s, "ecdsa") }},
		{"keytype_and_scheme rsa", func(t *testing.T, s *tufSim) { keyType(t, s, "rsa") }},
		{"invalid_sig_in_valid_metadata", func(t *testing.T, s *tufSim) {
			s.init()
			s.addKey("timestamp", newTUFSigner(t, "ed25519"))
			good := s.signers["timestamp"][1]
			for _, bad := range []string{hex.EncodeToString(make([]byte, 64)), ""} {
				s.publish("root", "timestamp")
				s.swap("timestamp", func([]byte) []byte {
					var m dict
					if err := json.Unmarshal(s.sign(s.docs["timestamp"], good), &m); err != nil {
						t.Fatal(err)
					}
					m["signatures"] = append(m["signatures"].([]any), dict{"keyid": s.signers["timestamp"][0].id, "sig": bad})
					b, err := json.Marshal(m)
					if err != nil {
						t.Fatal(err)
					}
					return b
				})
				s.refresh(0)
			}
			s.trusted("root 3", "timestamp 3", "snapshot 1", "targets 1")
		}},
		{"many root rotations", func(t *testing.T, s *tufSim) {
			s.init()
			for range 30 {
				old := s.signers["root"]
				s.rotate("root")
				s.signers["root"] = append(s.signers["root"], old[0])
				s.publish("root")
				s.signers["root"] = s.signers["root"][:1]
			}
			s.refresh(0)
			s.trusted("root 31", "timestamp 1", "snapshot 1", "targets 1")
		}},
		{"an intermediate root by a stranger", func(t *testing.T, s *tufSim) {
			s.init()
			s.publish("root")
			real := s.signers["root"]
			s.signers["root"] = []*tufSigner{newTUFSigner(t, "ed25519")}
			s.publish("root")
			s.signers["root"] = real
			s.publish("root")
			s.refresh(1)
			s.trusted("root 2")
		}},

		// Targets
		{"client_downloads_expected_file", func(t *testing.T, s *tufSim) {
			s.artifact("targets", "target_file.txt", "target file contents")
			s.all()
			s.init()
			s.refresh(0)
			s.have()
			s.download(0, "target_file.txt")
			s.have("target file contents")
			sum := hex256([]byte("target file contents"))
			s.requests("root 2", "timestamp", "snapshot 2", "targets 2", "root 2", "timestamp", "target "+sum+".target_file.txt")
			s.download(0, "target_file.txt")
			s.requests("root 2", "timestamp")
		}},
		{"in_sub_dir, quoted", func(t *testing.T, s *tufSim) {
			names := []string{"path/to/a/target_file.txt", "a b/c?d#e%f", "../../up", "ü/…", "dot/."}
			for _, n := range names {
				s.artifact("targets", n, "content of "+n)
			}
			s.all()
			s.init()
			var want []string
			for _, n := range names[:4] {
				s.download(0, n)
				want = append(want, "content of "+n)
			}
			s.have(want...)
		}},
		{"repository_substitutes_target_file", func(t *testing.T, s *tufSim) {
			s.artifact("targets", "one", "target file contents")
			s.artifact("targets", "two", "content")
			s.all()
			s.init()
			s.download(0, "one")
			s.artifacts["one"], s.artifacts["two"] = []byte("malicious data - should not download"), []byte("CONTENT")
			s.download(0, "one")
			s.download(1, "two")
			s.artifacts["two"] = []byte("conten")
			s.download(1, "two")
			s.artifacts["two"] = bytes.Repeat([]byte("content"), 1000)
			s.download(1, "two")
			s.have("target file contents")
		}},
		{"multiple_changes_to_target", func(t *testing.T, s *tufSim) {
			s.init()
			for i := range 3 {
				s.artifact("targets", "t", fmt.Sprint("content ", i))
				s.all()
				s.download(0, "t")
				s.have(fmt.Sprint("content ", i))
				s.artifacts["t"] = []byte("malicious")
				s.all()
				s.download(0, "t")
				s.have(fmt.Sprint("content ", i))
			}
		}},
		{"hash_algorithms", func(t *testing.T, s *tufSim) {
			b := []byte("target file contents")
			h256, h512 := hex256(b), sha512.Sum512(b)
			sums := map[string]dict{
				"256": {"sha256": h256}, "512": {"sha512": hex.EncodeToString(h512[:])},
				"both": {"sha256": h256, "sha512": hex.EncodeToString(h512[:])}, "one wrong": {"sha256": h256, "sha512": hex.EncodeToString(make([]byte, 64))},
				"unknown": {"md5": "00"},
			}
			for name, h := range sums {
				s.docs["targets"]["targets"].(dict)[name] = dict{"length": len(b), "hashes": h}
				s.artifacts[name] = b
			}
			s.all()
			s.init()
			s.download(0, "256", "512", "both")
			s.download(1, "one wrong")
			s.download(1, "unknown")
			s.have(string(b), string(b), string(b))
		}},
		{"static_repository, as tuf-on-ci makes them", func(t *testing.T, s *tufSim) { // by its form: the suite's bytes are not ours
			own := dict{"x-tuf-on-ci-expiry-period": 7300, "x-tuf-on-ci-signing-period": 60}
			for _, role := range []string{"root", "targets"} {
				for k, v := range own {
					s.docs[role][k] = v
				}
			}
			role := dict{"name": "delegatedrole", "terminating": true, "paths": []string{"delegatedrole/*", "delegatedrole/*/*"}}
			s.delegate("targets", role)
			absent := newTUFSigner(t, "ecdsa")
			absent.extra = dict{"x-tuf-on-ci-keyowner": "@test"}
			s.addKey("delegatedrole", absent)
			s.artifact("delegatedrole", "delegatedrole/artifact", "artifact")
			s.publish("root", "delegatedrole", "targets", "snapshot", "timestamp")
			s.swap("delegatedrole", func([]byte) []byte {
				var m dict
				if err := json.Unmarshal(s.sign(s.docs["delegatedrole"], s.signers["delegatedrole"][0]), &m); err != nil {
					t.Fatal(err)
				}
				m["signatures"] = append(m["signatures"].([]any), dict{"keyid": absent.id, "sig": ""}) // of who is still asked to sign
				b, err := json.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
			s.init()
			s.refresh(0)
			s.download(0, "delegatedrole/artifact")
			s.have("artifact")
		}},
		{"several targets, in order", func(t *testing.T, s *tufSim) {
			s.artifact("targets", "a", "A")
			s.artifact("targets", "b", "B")
			s.all()
			s.init()
			s.download(1, "b", "none", "a")
			s.have("B")
			s.asked = nil
			s.download(0, "a", "b")
			s.requests("root 2", "timestamp", "target "+hex256([]byte("A"))+".a")
			s.have("A", "B")
		}},
		{"snapshots that are not consistent", func(t *testing.T, s *tufSim) {
			s.docs["root"]["consistent_snapshot"] = false
			s.delegate("targets", dict{"name": "A"})
			s.artifact("A", "t", "T")
			s.publish("root", "A", "targets", "snapshot", "timestamp")
			s.initWith(s.signed["root"][1])
			s.download(0, "t")
			s.requests("root 3", "timestamp", "snapshot", "targets", "A", "target t")
			s.have("T")
			s.all()
			s.refresh(0)
			s.trusted("root 2", "timestamp 3", "snapshot 3", "targets 3", "A 1")
		}},
		{"arguments", func(t *testing.T, s *tufSim) {
			s.init()
			for _, args := range [][]string{{"refresh"}, {"--metadata-url", s.url, "download"}, {"fly"}, {"init"}, {}, {"--nonsense"}, {"init", "/nowhere"}} {
				if code := s.client(args...); code != 1 {
					t.Errorf("%q exits with %d", args, code)
				}
			}
			if code := s.client("-h"); code != 0 {
				t.Errorf("-h exits with %d", code)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.do(t, newTUFSim(t)) })
	}
}

func snapshotRollback(s *tufSim, hashes bool) {
	s.hashes = hashes
	s.publish("snapshot", "timestamp")
	s.init()
	s.refresh(0)
	s.docs["timestamp"]["meta"].(dict)["snapshot.json"] = dict{"version": 1}
	s.publish("timestamp")
	s.asked = nil
	s.refresh(1)
	s.requests("root 2", "timestamp")
	s.trusted("root 1", "timestamp 2", "snapshot 2", "targets 1")
}

func targetsRollback(s *tufSim, hashes bool) {
	s.hashes = hashes
	s.publish("targets", "snapshot", "timestamp")
	s.init()
	s.refresh(0)
	s.docs["snapshot"]["meta"].(dict)["targets.json"] = dict{"version": 1}
	s.publish("snapshot", "timestamp")
	s.refresh(1)
	s.trusted("root 1", "timestamp 3", "snapshot 2", "targets 2")
}

func keyType(t *testing.T, s *tufSim, kind string) {
	s.init()
	k := newTUFSigner(t, kind)
	s.addKey("root", k)
	s.threshold("root", 2)
	s.publish("root")
	s.refresh(0)
	good := k.sign
	k.sign = func(b []byte) []byte { return good(append(b, 'x')) }
	s.publish("root")
	s.refresh(1)
	s.trusted("root 2", "timestamp 1", "snapshot 1", "targets 1")
}

// TestTUFClientUnsigned: a role that is not signed well is refused, and what comes before it is kept.
func TestTUFClientUnsigned(t *testing.T) {
	for role, trusted := range map[string][]string{
		"root":      {"root 1"},
		"timestamp": {"root 2"},
		"snapshot":  {"root 2", "timestamp 2"},
		"targets":   {"root 2", "timestamp 2", "snapshot 2"},
	} {
		t.Run(role, func(t *testing.T) {
			s := newTUFSim(t)
			s.signers[role] = nil
			s.publish("root", "targets", "snapshot", "timestamp")
			s.init()
			s.refresh(1)
			s.trusted(trusted...)
		})
	}
}

// TestTUFClientRoots is root_rotation: keys, threshold, and who signs; the last one of a list may have to fail.
func TestTUFClientRoots(t *testing.T) {
	type version struct {
		keys      []int
		threshold int
		sigs      []int
	}
	for name, tc := range map[string]struct {
		versions []version
		ok       bool
	}{
		"1-of-1 rotation":                     {[]version{{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{2, 1}}, {[]int{2}, 1, []int{2}}}, true},
		"1-of-1 unused signatures":            {[]version{{[]int{1}, 1, []int{3, 1, 4}}, {[]int{2}, 1, []int{3, 2, 1, 4}}, {[]int{2}, 1, []int{3, 2, 4}}}, true},
		"3-of-5 combinations":                 {[]version{{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}}, {[]int{0, 1, 2, 3, 4}, 3, []int{0, 4, 1}}, {[]int{0, 1, 2, 3, 4}, 3, []int{0, 1, 3}}}, true},
		"3-of-5 one rotated":                  {[]version{{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 1}}}, true},
		"3-of-5 one rotated, intermediate":    {[]version{{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4, 5}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}}}, true},
		"3-of-5 all rotated, intermediate":    {[]version{{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}}, {[]int{5, 6, 7, 8, 9}, 3, []int{0, 2, 4, 5, 6, 7}}, {[]int{5, 6, 7, 8, 9}, 3, []int{5, 6, 7}}}, true},
		"threshold up":                        {[]version{{[]int{1, 2, 3}, 1, []int{1}}, {[]int{1, 2, 3}, 2, []int{1, 2}}}, true},
		"threshold down":                      {[]version{{[]int{1, 2, 3}, 2, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1}}}, true},
		"1-of-1 to 2-of-2":                    {[]version{{[]int{1}, 1, []int{1}}, {[]int{1, 2}, 2, []int{1, 2}}}, true},
		"not by the old key":                  {[]version{{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{2, 3, 4}}}, false},
		"not by the new key":                  {[]version{{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{1, 3, 4}}}, false},
		"3-of-5 not by 3 new keys":            {[]version{{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4}}}, false},
		"3-of-5 not by 3 old keys":            {[]version{{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}}}, false},
		"threshold up, not reached":           {[]version{{[]int{1, 2, 3}, 1, []int{1}}, {[]int{1, 2, 3}, 2, []int{2}}}, false},
		"threshold down, old one not reached": {[]version{{[]int{1, 2, 3}, 2, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1}}}, false},
	} {
		for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
			if testing.Short() && (role == "snapshot" || role == "targets") {
				continue
			}
			t.Run(name+"/"+role, func(t *testing.T) {
				s := newTUFSim(t)
				signers := make([]*tufSigner, 10)
				for i := range signers {
					signers[i] = newTUFSigner(t, "ed25519")
				}
				set := func(v version) {
					_, r := s.delegation(role)
					r["keyids"], r["threshold"], s.signers[role] = []string{}, v.threshold, nil
					for _, i := range v.keys {
						s.addKey(role, signers[i])
					}
					s.signers[role] = nil
					for _, i := range v.sigs {
						s.signers[role] = append(s.signers[role], signers[i])
					}
				}
				if role != "root" { // no chain there: each version has to hold under the root of its time
					s.init()
					for i, v := range tc.versions {
						set(v)
						s.publish("root", "targets", "snapshot", "timestamp")
						signed := 0
						for _, k := range v.sigs {
							if slices.Contains(v.keys, k) {
								signed++
							}
						}
						if ok := signed >= v.threshold; ok {
							s.refresh(0)
							if !bytes.Equal(s.stored(role), s.signed[role][i+1]) {
								t.Errorf("version %d is not stored", i+2)
							}
						} else {
							s.refresh(1)
						}
					}
					return
				}
				s.signed["root"], s.docs["root"]["version"] = nil, 1
				for _, v := range tc.versions {
					set(v)
					s.publish("root")
				}
				s.init()
				last := len(tc.versions) - 1
				if tc.ok {
					s.refresh(0)
				} else {
					s.refresh(1)
					last--
				}
				if !bytes.Equal(s.stored("root"), s.signed["root"][last]) {
					t.Errorf("the root is not version %d", last+1)
				}
			})
		}
	}
}

// tufEdge is a delegation; a path that starts with # is a hash prefix, and no path is all.
type tufEdge struct {
	from, to    string
	paths       []string
	terminating bool
}

// TestTUFClientDelegations is graph_traversal and targetfile_search: which roles are asked for, in which order.
func TestTUFClientDelegations(t *testing.T) {
	hash := hex256([]byte("missingpath"))
	for name, tc := range map[string]struct {
		edges   []tufEdge
		targets map[string]string // path to role
		find    string            // "" for missingpath
		visits  []string
		found   bool
	}{
		"basic":            {[]tufEdge{{"targets", "A", nil, false}}, nil, "", []string{"A"}, false},
		"single level":     {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}}, nil, "", []string{"A", "B"}, false},
		"two levels":       {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"B", "C", nil, false}}, nil, "", []string{"A", "B", "C"}, false},
		"depth first":      {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"A", "C", nil, false}, {"A", "D", nil, false}}, nil, "", []string{"A", "C", "D", "B"}, false},
		"three levels":     {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"A", "C", nil, false}, {"C", "D", nil, false}}, nil, "", []string{"A", "C", "D", "B"}, false},
		"terminating":      {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"A", "C", nil, true}, {"A", "D", nil, false}}, nil, "", []string{"A", "C"}, false},
		"terminating deep": {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"A", "C", nil, true}, {"C", "D", nil, false}}, nil, "", []string{"A", "C", "D"}, false},
		"paths":            {[]tufEdge{{"targets", "A", []string{"*.py"}, false}, {"targets", "B", nil, false}, {"A", "C", nil, false}}, nil, "", []string{"B"}, false},
		"paths deep":       {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"A", "C", []string{"*.py"}, false}, {"C", "D", nil, false}}, nil, "", []string{"A", "B"}, false},
		"cycle":            {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"B", "C", nil, false}, {"C", "D", nil, false}, {"D", "B", nil, false}}, nil, "", []string{"A", "B", "C", "D"}, false},
		"two to a third":   {[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"B", "C", nil, false}, {"A", "C", nil, false}}, nil, "", []string{"A", "C", "B"}, false},
		"two to a third, other paths": {
			[]tufEdge{{"targets", "A", nil, false}, {"targets", "B", nil, false}, {"B", "C", nil, false}, {"A", "C", []string{"*.py"}, false}},
			nil, "",
			[]string{"A", "B", "C"},
			false,
		},
		"hash prefixes": {[]tufEdge{{"targets", "A", []string{"#" + hash[:3]}, false}, {"targets", "B", []string{"#xyz", "#" + flip(hash[:1])}, false}}, nil, "", []string{"A"}, false},
		"names to quote": {
			[]tufEdge{{"targets", "?", nil, false}, {"targets", "#", nil, false}, {"targets", "/delegatedrole", nil, false}, {"targets", "../delegatedrole", nil, false}, {"targets", "ü %", nil, false}, {"targets", "..", nil, false}},
			nil, "",
			[]string{"%3F", "%23", "%2Fdelegatedrole", "..%2Fdelegatedrole", "%C3%BC%20%25", ".."},
			false,
		},
		"top level":          {tree, treeTargets, "targetfile", nil, true},
		"wildcard":           {tree, treeTargets, "README.md", []string{"A"}, true},
		"separators x":       {tree, treeTargets, "releases/x/x_v1", []string{"B", "C"}, true},
		"separators y":       {tree, treeTargets, "releases/y/y_v1.zip", []string{"B", "D"}, true},
		"not by all parents": {tree, treeTargets, "releases/z/z_v1.zip", []string{"B"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTUFSim(t)
			roles := []string{}
			for _, e := range tc.edges {
				d := dict{"name": e.to, "terminating": e.terminating}
				for _, p := range e.paths {
					field := "paths"
					if strings.HasPrefix(p, "#") {
						field, p = "path_hash_prefixes", p[1:]
					}
					all, _ := d[field].([]string)
					d[field] = append(all, p)
				}
				s.delegate(e.from, d)
				if !slices.Contains(roles, e.to) {
					roles = append(roles, e.to)
				}
			}
			for path, role := range tc.targets {
				s.artifact(role, path, "content of "+path)
			}
			s.publish(append(roles, "targets", "snapshot", "timestamp")...)
			s.init()
			find := tc.find
			if find == "" {
				find = "missingpath"
			}
			code := 1
			var have []string
			if tc.found {
				code, have = 0, []string{"content of " + find}
			}
			s.download(code, find)
			want := []string{"root 2", "timestamp", "snapshot 2", "targets 2"}
			for _, v := range tc.visits {
				want = append(want, v+" 1")
			}
			got := slices.DeleteFunc(slices.Clone(s.asked), func(a string) bool { return strings.HasPrefix(a, "target ") })
			if !slices.Equal(got, want) {
				t.Errorf("asked for %q, not %q", got, want)
			}
			s.have(have...)
			if files, err := filepath.Glob(filepath.Join(s.dir, "*.json")); err != nil || len(files) != 4+len(tc.visits) {
				t.Errorf("stored %q, %v", files, err)
			}
		})
	}
}

var (
	tree = []tufEdge{
		{"targets", "A", []string{"*.doc", "*.md"}, false},
		{"targets", "B", []string{"releases/*/*"}, false},
		{"B", "C", []string{"releases/x/*"}, false},
		{"B", "D", []string{"releases/y/*.zip"}, false},
	}
	treeTargets = map[string]string{
		"targetfile": "targets", "README.md": "A", "releases/x/x_v1": "C", "releases/y/y_v1.zip": "D", "releases/z/z_v1.zip": "D",
	}
)

func flip(hexDigit string) string {
	if hexDigit == "0" {
		return "1"
	}
	return "0"
}

// TestTUFClientParents: a role with two parents is good for the one whose keys have signed it, and for no other, also within one client.
func TestTUFClientParents(t *testing.T) {
	s := newTUFSim(t)
	s.delegate("targets", dict{"name": "A", "paths": []string{"a/*"}})
	s.delegate("targets", dict{"name": "B", "paths": []string{"b/*"}})
	s.delegate("A", dict{"name": "C", "paths": []string{"a/*"}})
	s.delegate("B", dict{"name": "C", "paths": []string{"b/*"}})
	s.signers["C"] = s.signers["C"][:1] // as A wants it, not as B does
	s.artifact("C", "a/t", "by A")
	s.artifact("C", "b/t", "by nobody")
	s.publish("A", "B", "C", "targets", "snapshot", "timestamp")
	s.init()
	s.download(1, "a/t", "b/t")
	s.have("by A")
	s.download(1, "b/t")
	s.have("by A")
	s.download(0, "a/t")
}

func TestTUFClientLimits(t *testing.T) {
	t.Run("many delegations", func(t *testing.T) {
		s := newTUFSim(t)
		from := "targets"
		var names []string
		for i := range 60 {
			name := fmt.Sprint("role", i)
			s.delegate(from, dict{"name": name})
			names, from = append(names, name), name
		}
		s.artifact("role5", "near", "near")
		s.artifact("role59", "far", "far")
		s.publish(append(names, "targets", "snapshot", "timestamp")...)
		s.init()
		s.download(0, "near")
		s.download(1, "far")
		s.have("near")
	})
	t.Run("a delegation to a top-level role", func(t *testing.T) {
		for _, name := range []string{"root", "timestamp", "snapshot", "targets", ""} {
			s := newTUFSim(t)
			s.docs["targets"]["delegations"] = dict{
				"keys":  dict{"k": s.signers["targets"][0].key()},
				"roles": []dict{{"name": name, "keyids": []string{"k"}, "threshold": 1, "terminating": false, "paths": []string{"*"}}},
			}
			s.all()
			s.init()
			s.download(1, "x")
			s.trusted("root 1", "timestamp 2", "snapshot 2", "targets 2")
		}
	})
	t.Run("a role twice", func(t *testing.T) {
		s := newTUFSim(t)
		s.delegate("targets", dict{"name": "A"})
		s.delegate("targets", dict{"name": "A"})
		s.artifact("A", "t", "T")
		s.publish("A", "targets", "snapshot", "timestamp")
		s.init()
		s.download(1, "t")
	})
	t.Run("succinct roles", func(t *testing.T) {
		s := newTUFSim(t)
		k := newTUFSigner(t, "ed25519")
		s.docs["targets"]["delegations"] = dict{
			"keys":           dict{k.id: k.key()},
			"succinct_roles": dict{"keyids": []string{k.id}, "threshold": 1, "bit_length": 3, "name_prefix": "bin"},
		}
		first := hex256([]byte("path/to/file"))[:1]
		n, err := strconv.ParseUint(first, 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("bin-%x", n>>1)
		var names []string
		for i := range 8 {
			name := fmt.Sprintf("bin-%x", i)
			s.docs[name], s.signers[name] = s.doc("targets", dict{"targets": dict{}}), []*tufSigner{k}
			names = append(names, name)
		}
		s.artifact(want, "path/to/file", "in a bin")
		s.publish(append(names, "targets", "snapshot", "timestamp")...)
		s.init()
		s.download(0, "path/to/file")
		s.have("in a bin")
		if s.asked[4] != want+" 1" {
			t.Errorf("asked for %q", s.asked)
		}
	})
	t.Run("endless metadata", func(t *testing.T) {
		s := newTUFSim(t)
		s.init()
		s.signed["timestamp"][0] = make([]byte, tufMaxTimestamp+1)
		s.refresh(1)
		s.trusted("root 1")
	})
}

// TestTUFClientCrash: what is left of a write that was cut off does no harm.
func TestTUFClientCrash(t *testing.T) {
	s := newTUFSim(t)
	s.artifact("targets", "t", "T")
	s.all()
	s.init()
	s.refresh(0)
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		for _, damage := range [][]byte{nil, []byte("{"), s.stored(role)[:40], s.signed["root"][0]} {
			if err := os.WriteFile(filepath.Join(s.dir, role+".json"), damage, 0o600); err != nil {
				t.Fatal(err)
			}
			s.refresh(0)
			s.trusted("root 1", "timestamp 2", "snapshot 2", "targets 2")
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "root.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.refresh(1)
}
