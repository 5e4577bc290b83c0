package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// clock is one that tests set.
type clock struct{ unix atomic.Int64 }

func newClock(t time.Time) *clock { c := &clock{}; c.set(t); return c }

func (c *clock) set(t time.Time) { c.unix.Store(t.Unix()) }
func (c *clock) now() time.Time  { return time.Unix(c.unix.Load(), 0) }

func nowhere(context.Context) subjects { return subjects{} }

func openCerts(t *testing.T, dir string, lookup func(context.Context) subjects, now func() time.Time) *certs {
	t.Helper()
	c, err := newCerts(dir, lookup, now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	return c
}

// shake makes a handshake over a pipe and returns the leaf that was served. crypto/tls proves on the way that the key
// belongs to it. A server name of "" sends no SNI; local is the address that the client reached.
func shake(t *testing.T, c *certs, serverName, local string) (*x509.Certificate, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	srv := tls.Server(fakeAddr{b, &net.TCPAddr{IP: net.ParseIP(local), Port: 443}}, c.tlsConfig("h2"))
	done := make(chan error, 1)
	go func() {
		err := srv.Handshake()
		b.Close()
		done <- err
	}()
	cli := tls.Client(a, &tls.Config{ServerName: serverName, InsecureSkipVerify: true})
	err := cli.Handshake()
	if serr := <-done; err != nil || serr != nil {
		return nil, errors.Join(err, serr)
	}
	return cli.ConnectionState().PeerCertificates[0], nil
}

type fakeAddr struct {
	net.Conn
	local net.Addr
}

func (c fakeAddr) LocalAddr() net.Addr { return c.local }

// valid checks a leaf as a client with that clock would.
func valid(c *certs, leaf *x509.Certificate, name string, now time.Time) error {
	roots := x509.NewCertPool()
	roots.AddCert(c.ca.cert)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now})
	return err
}

var spring = time.Date(2027, 4, 1, 12, 0, 0, 0, time.UTC)

func TestHandshakes(t *testing.T) {
	t.Parallel()
	var name atomic.Pointer[subjects]
	name.Store(&subjects{DNS: []string{"croft.local", "croft.home.arpa"}, IPs: []netip.Addr{netip.MustParseAddr("192.168.7.5")}, Sure: true})
	clk := newClock(spring)
	c := openCerts(t, t.TempDir(), func(context.Context) subjects { return *name.Load() }, clk.now)
	for _, test := range []struct {
		sni, local, want string // want is what the certificate must be good for; "" for a refusal
	}{
		{"croft.local", "192.168.7.5", "croft.local"},
		{"CROFT.local", "192.168.7.5", "croft.local"},
		{"croft.home.arpa", "192.168.7.5", "croft.home.arpa"},
		{"localhost", "127.0.0.1", "localhost"},
		{"", "127.0.0.1", "127.0.0.1"},
		{"", "192.168.7.5", "192.168.7.5"},
		{"", "10.1.2.3", "10.1.2.3"}, // an address that the network service has not told of
		{"", "fe80::1234", "fe80::1234"},
		{"", "fd00::7", "fd00::7"},
		{"", "203.0.113.9", "croft.local"}, // public: encrypted under the box's name
		{"example.com", "192.168.7.5", ""},
		{"attic.local", "192.168.7.5", ""},
		{"croft.local.example.com", "192.168.7.5", ""},
	} {
		clk.set(clk.now().Add(time.Minute)) // past the bound on issuing
		leaf, err := shake(t, c, test.sni, test.local)
		switch {
		case test.want == "" && err == nil:
			t.Errorf("%q at %s: served %v", test.sni, test.local, leaf.DNSNames)
		case test.want == "":
		case err != nil:
			t.Errorf("%q at %s: %v", test.sni, test.local, err)
		default:
			if err := valid(c, leaf, test.want, clk.now()); err != nil {
				t.Errorf("%q at %s: %v", test.sni, test.local, err)
			}
		}
	}
	// The box is renamed and moves: the next handshake gets the new name.
	name.Store(&subjects{DNS: []string{"croft-2.local"}, IPs: []netip.Addr{netip.MustParseAddr("172.20.0.2")}})
	clk.set(clk.now().Add(time.Minute))
	leaf, err := shake(t, c, "croft-2.local", "172.20.0.2")
	if err != nil || valid(c, leaf, "croft-2.local", clk.now()) != nil || valid(c, leaf, "172.20.0.2", clk.now()) != nil {
		t.Errorf("renamed: %v, %v", leaf, err)
	}
	if n := len(c.cache.AllMatchingCertificates(homeSubject)); n != 1 {
		t.Errorf("%d certificates are kept, want 1", n)
	}
}

func TestHandshakesCannotMakeTheBoxIssueForEver(t *testing.T) {
	t.Parallel()
	clk := newClock(spring)
	asked := 0
	c := openCerts(t, t.TempDir(), func(context.Context) subjects { asked++; return subjects{} }, clk.now)
	first := c.current().Leaf.SerialNumber
	for range 50 {
		if _, err := shake(t, c, "nobody.local", "192.168.7.5"); err == nil {
			t.Fatal("served a name that is not the box's")
		}
	}
	if asked > reissueBurst {
		t.Errorf("asked the other services %d times", asked)
	}
	if c.current().Leaf.SerialNumber.Cmp(first) != 0 {
		t.Error("issued anew")
	}
}

func TestCertificateSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clk := newClock(spring)
	c := openCerts(t, dir, nowhere, clk.now)
	ca, leaf := c.ca.cert.Raw, c.current().Leaf.Raw
	c.stop()
	c = openCerts(t, dir, nowhere, clk.now)
	if !bytes.Equal(ca, c.ca.cert.Raw) || !bytes.Equal(leaf, c.current().Leaf.Raw) {
		t.Error("made anew at the second start")
	}
	var loose []string
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if fi, err := d.Info(); err == nil && !d.IsDir() && fi.Mode().Perm() != 0o600 {
			loose = append(loose, p)
		}
		return nil
	})
	if len(loose) > 0 {
		t.Errorf("readable by others: %v", loose)
	}
}

// siteFile returns the stored file with that suffix.
func siteFile(t *testing.T, dir, suffix string) string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, "tls", "certificates", "*", homeSubject, homeSubject+suffix))
	if err != nil || len(m) != 1 {
		t.Fatalf("stored %s: %v %v", suffix, m, err)
	}
	return m[0]
}

func TestNeverServesAnInvalidPair(t *testing.T) {
	t.Parallel()
	otherKey := func() []byte {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	write := func(t *testing.T, file string, data []byte) {
		t.Helper()
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	foreign := func(t *testing.T, dir string) { // a pair that belongs together, of somebody else
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		tpl := &x509.Certificate{
			SerialNumber: big.NewInt(5), DNSNames: []string{homeSubject, "croft.local"},
			NotBefore: spring.Add(-time.Hour), NotAfter: spring.Add(1000 * time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, _ := x509.MarshalPKCS8PrivateKey(key)
		write(t, siteFile(t, dir, ".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		write(t, siteFile(t, dir, ".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	}
	for name, test := range map[string]struct {
		harm   func(t *testing.T, dir string)
		at     time.Time
		sameCA bool
	}{
		"nothing":          {harm: func(*testing.T, string) {}, sameCA: true},
		"empty key":        {harm: func(t *testing.T, d string) { write(t, siteFile(t, d, ".key"), nil) }, sameCA: true},
		"empty cert":       {harm: func(t *testing.T, d string) { write(t, siteFile(t, d, ".crt"), nil) }, sameCA: true},
		"garbled cert":     {harm: func(t *testing.T, d string) { write(t, siteFile(t, d, ".crt"), []byte("\x00\xff---")) }, sameCA: true},
		"key of another":   {harm: func(t *testing.T, d string) { write(t, siteFile(t, d, ".key"), otherKey()) }, sameCA: true},
		"pair of another":  {harm: foreign, sameCA: true},
		"no key":           {harm: func(t *testing.T, d string) { os.Remove(siteFile(t, d, ".key")) }, sameCA: true},
		"no metadata":      {harm: func(t *testing.T, d string) { os.Remove(siteFile(t, d, ".json")) }, sameCA: true},
		"garbled metadata": {harm: func(t *testing.T, d string) { write(t, siteFile(t, d, ".json"), []byte("{")) }, sameCA: true},
		"key is a directory": {harm: func(t *testing.T, d string) {
			f := siteFile(t, d, ".key")
			os.Remove(f)
			os.MkdirAll(filepath.Join(f, "x"), 0o700)
		}, sameCA: true},
		"folder is a file": {harm: func(t *testing.T, d string) {
			f := filepath.Dir(siteFile(t, d, ".key"))
			os.RemoveAll(f)
			write(t, f, []byte("x"))
		}, sameCA: true},
		"store is a file": {harm: func(t *testing.T, d string) {
			os.RemoveAll(filepath.Join(d, "tls"))
			write(t, filepath.Join(d, "tls"), []byte("x"))
		}, sameCA: true},
		"expired":             {harm: func(*testing.T, string) {}, at: spring.AddDate(3, 0, 0), sameCA: true},
		"issued in 2040":      {harm: func(*testing.T, string) {}, at: spring.AddDate(-1, 0, 0), sameCA: true},
		"authority garbled":   {harm: func(t *testing.T, d string) { write(t, caFile(d), []byte("-----BEGIN")) }},
		"authority empty":     {harm: func(t *testing.T, d string) { write(t, caFile(d), nil) }},
		"authority gone":      {harm: func(t *testing.T, d string) { os.Remove(caFile(d)) }},
		"authority directory": {harm: func(t *testing.T, d string) { os.Remove(caFile(d)); os.MkdirAll(caFile(d)+"/x", 0o700) }},
		"authority mixed": {harm: func(t *testing.T, d string) {
			b, _ := os.ReadFile(caFile(d))
			block, _ := pem.Decode(b)
			write(t, caFile(d), append(pem.EncodeToMemory(block), otherKey()...))
		}},
		"authority ends": {harm: func(*testing.T, string) {}, at: spring.AddDate(9, 9, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			clk := newClock(spring)
			c := openCerts(t, dir, nowhere, clk.now)
			before := c.ca.cert.Raw
			c.stop()
			test.harm(t, dir)
			if !test.at.IsZero() {
				clk.set(test.at)
			}
			c = openCerts(t, dir, nowhere, clk.now)
			leaf, err := shake(t, c, "croft.local", "192.168.7.5")
			if err != nil {
				t.Fatal(err)
			}
			if err := valid(c, leaf, "croft.local", clk.now()); err != nil {
				t.Error(err)
			}
			if bytes.Equal(before, c.ca.cert.Raw) != test.sameCA {
				t.Errorf("same authority: %v, want %v", !test.sameCA, test.sameCA)
			}
			if strings.HasPrefix(name, "authority g") && name != "authority gone" {
				if _, err := os.Stat(caFile(dir) + ".damaged"); err != nil {
					t.Errorf("the damaged authority was not put aside: %v", err)
				}
			}
			c.stop()
			if name == "store is a file" || name == "authority directory" {
				return // can't be mended, only lived with
			}
			if m, err := filepath.Glob(filepath.Join(dir, "tls", "certificates", "*")); err != nil || len(m) != 1 {
				t.Errorf("stored certificates of %v, want those of one authority", m)
			}
			again := openCerts(t, dir, nowhere, clk.now)
			if !bytes.Equal(again.current().Leaf.Raw, leaf.Raw) {
				t.Error("the mended certificate was not kept")
			}
		})
	}
}

func TestClockThatJumps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ first, then time.Time }{
		"from 1970":           {time.Unix(0, 0), spring},
		"from the floor":      {epoch, spring},
		"from 2040":           {spring.AddDate(13, 0, 0), spring},
		"years without clock": {spring, spring.AddDate(4, 0, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			clk := newClock(test.first)
			c := openCerts(t, t.TempDir(), nowhere, clk.now)
			if leaf, err := shake(t, c, "croft.local", "192.168.7.5"); err != nil || c.inTime(leaf) != nil {
				t.Fatalf("before: %v", err)
			}
			clk.set(test.then)
			leaf, err := shake(t, c, "croft.local", "192.168.7.5")
			if err != nil {
				t.Fatal(err)
			}
			if err := valid(c, leaf, "croft.local", test.then); err != nil {
				t.Errorf("after: %v", err)
			}
		})
	}
}

// Phones that trust the authority must not lose it because one start believed that it was 2040.
func TestAuthorityOutlivesAWrongClock(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ca.pem")
	at := func(now time.Time) string {
		t.Helper()
		a, err := openAuthority(file, func() time.Time { return now }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if !now.Before(a.cert.NotAfter) {
			t.Errorf("at %v it has ended on %v", now, a.cert.NotAfter)
		}
		return a.cert.Subject.CommonName
	}
	first, later := spring, spring.AddDate(13, 0, 0)
	own := at(first)
	other := at(later)
	if own == other {
		t.Fatal("an authority that has ended goes on")
	}
	if got := at(first.AddDate(0, 1, 0)); got != own {
		t.Errorf("%s after the clock was put right, was %s", got, own)
	}
	if got := at(later.AddDate(0, 1, 0)); got != other {
		t.Errorf("%s a month later, was %s", got, other)
	}
}

// While the box doesn't know the time, its certificate must satisfy clients that do; else it is short.
func TestLifeOfCertificatesFollowsTheClock(t *testing.T) {
	t.Parallel()
	var sure atomic.Bool
	c := openCerts(t, t.TempDir(), func(context.Context) subjects { return subjects{Sure: sure.Load()} }, newClock(spring).now)
	long := func() bool {
		t.Helper()
		leaf := c.current().Leaf
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 825*24*time.Hour {
			t.Errorf("%v is more than Apple takes", life)
		}
		return valid(c, leaf, "localhost", spring.AddDate(2, 0, 0)) == nil
	}
	if !long() {
		t.Error("short at first, when nothing is known")
	}
	sure.Store(true)
	c.update(context.Background())
	if long() {
		t.Error("long though the clock is right")
	}
	serial := c.current().Leaf.SerialNumber
	sure.Store(false)
	for range patience - 1 {
		c.update(context.Background())
	}
	if c.current().Leaf.SerialNumber.Cmp(serial) != 0 {
		t.Error("made anew as soon as the clock is unsure")
	}
	c.update(context.Background())
	if !long() {
		t.Error("short though the clock stays unsure")
	}
	serial = c.current().Leaf.SerialNumber
	c.update(context.Background())
	if c.current().Leaf.SerialNumber.Cmp(serial) != 0 {
		t.Error("made anew without need")
	}
}

func TestAuthorityKeepsToTheHome(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := openCerts(t, dir, nowhere, time.Now)
	caPEM := filepath.Join(dir, "root.pem")
	writePEM(t, caPEM, "CERTIFICATE", c.ca.cert.Raw)
	text, err := exec.Command("openssl", "x509", "-in", caPEM, "-noout", "-text").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v: %s", err, text)
	}
	for _, want := range []string{
		"X509v3 Name Constraints: critical", "DNS:local", "DNS:home.arpa", "IP:192.168.0.0/255.255.0.0",
		"X509v3 Basic Constraints: critical", "CA:TRUE, pathlen:0", "Certificate Sign",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("openssl does not see %q in\n%s", want, text)
		}
	}
	// The issuer refuses what is outside; so does whoever checks a certificate that a stolen key signed.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dns, ip, check string
		good           bool
	}{
		{dns: "croft.local", check: "-verify_hostname", good: true},
		{dns: "x.home.arpa", check: "-verify_hostname", good: true},
		{dns: "localhost", check: "-verify_hostname", good: true},
		{ip: "192.168.1.5", check: "-verify_ip", good: true},
		{ip: "fe80::1", check: "-verify_ip", good: true},
		{ip: "100.100.1.1", check: "-verify_ip", good: true},
		{dns: "example.com", check: "-verify_hostname"},
		{dns: "local.example.com", check: "-verify_hostname"},
		{dns: "xlocal", check: "-verify_hostname"},
		{ip: "8.8.8.8", check: "-verify_ip"},
		{ip: "172.32.0.1", check: "-verify_ip"},
		{ip: "2001:db8::1", check: "-verify_ip"},
	} {
		req := &x509.CertificateRequest{}
		tpl := &x509.Certificate{
			SerialNumber: big.NewInt(9), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		if test.dns != "" {
			req.DNSNames = []string{test.dns}
		} else {
			req.IPAddresses = []net.IP{net.ParseIP(test.ip)}
		}
		tpl.DNSNames, tpl.IPAddresses = req.DNSNames, req.IPAddresses
		der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		issued, err := c.ca.Issue(context.Background(), csr)
		if (err == nil) != test.good {
			t.Errorf("issuing for %s%s: %v", test.dns, test.ip, err)
		}
		leafPEM := filepath.Join(dir, "leaf.pem")
		if test.good {
			if err := os.WriteFile(leafPEM, issued.Certificate, 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			stolen, err := x509.CreateCertificate(rand.Reader, tpl, c.ca.cert, &key.PublicKey, c.ca.key)
			if err != nil {
				t.Fatal(err)
			}
			writePEM(t, leafPEM, "CERTIFICATE", stolen)
		}
		out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", caPEM, test.check,
			test.dns+test.ip, leafPEM).CombinedOutput()
		if (err == nil) != test.good {
			t.Errorf("openssl verify %s%s: %v: %s", test.dns, test.ip, err, out)
		}
		if !test.good && !strings.Contains(string(out), "permitted subtree violation") {
			t.Errorf("openssl refuses %s%s for another reason: %s", test.dns, test.ip, out)
		}
	}
}

// testStorage is the contract of certmagic.Storage, as its comments have it.
func testStorage(t *testing.T, s *storage) {
	ctx := context.Background()
	check := func(what string, ok bool, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf("%s %v", what, args)
		}
	}
	_, err := s.Load(ctx, "a/b")
	check("Load of nothing", errors.Is(err, fs.ErrNotExist), err)
	_, err = s.Stat(ctx, "a/b")
	check("Stat of nothing", errors.Is(err, fs.ErrNotExist), err)
	_, err = s.List(ctx, "a", true)
	check("List of nothing", errors.Is(err, fs.ErrNotExist), err)
	check("Delete of nothing", s.Delete(ctx, "a/b") == nil)
	check("Exists of nothing", !s.Exists(ctx, "a/b") && !s.Exists(ctx, "a"))
	for k, v := range map[string]string{"a/b/1.key": "one", "a/b/2.key": "two", "a/c/3": "three", "ab/4": ""} {
		check("Store", s.Store(ctx, k, []byte("old value")) == nil, k)
		check("Store again", s.Store(ctx, k, []byte(v)) == nil, k)
		got, err := s.Load(ctx, k)
		check("Load", err == nil && string(got) == v, k, string(got), err)
		info, err := s.Stat(ctx, k)
		check("Stat", err == nil && info.IsTerminal && info.Key == k && info.Size == int64(len(v)) && !info.Modified.IsZero(), info, err)
	}
	info, err := s.Stat(ctx, "a/b")
	check("Stat of a directory", err == nil && !info.IsTerminal, info, err)
	check("Exists", s.Exists(ctx, "a/b") && s.Exists(ctx, "a/b/1.key") && !s.Exists(ctx, "a/b/1"))
	got, err := s.List(ctx, "a", false)
	check("List", err == nil && slices.Equal(got, []string{"a/b", "a/c"}), got, err)
	got, err = s.List(ctx, "a", true)
	check("List recursively", err == nil && slices.Equal(got, []string{"a/b", "a/b/1.key", "a/b/2.key", "a/c", "a/c/3"}), got, err)
	check("Delete a directory", s.Delete(ctx, "a/b") == nil && !s.Exists(ctx, "a/b/1.key") && s.Exists(ctx, "a/c/3"))
	for _, bad := range []string{"", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a\\b", "a\x00b"} {
		check("a bad key was stored", s.Store(ctx, bad, nil) != nil, bad)
		_, err := s.Load(ctx, bad)
		check("a bad key was loaded", err != nil, bad)
	}
	check("Lock", s.Lock(ctx, "x") == nil)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	check("a second Lock waits for its context", errors.Is(s.Lock(short, "x"), context.DeadlineExceeded))
	taken := make(chan error)
	go func() { taken <- s.Lock(ctx, "x") }()
	check("Unlock", s.Unlock(ctx, "x") == nil)
	check("the waiting Lock", <-taken == nil)
	check("Unlock", s.Unlock(ctx, "x") == nil)
	check("Unlock without Lock", s.Unlock(ctx, "x") != nil)
}

func TestStorage(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	t.Run("disk", func(t *testing.T) { testStorage(t, newStorage(filepath.Join(t.TempDir(), "new", "tls"), log)) })
	t.Run("memory", func(t *testing.T) { testStorage(t, newStorage("", log)) })
	t.Run("refusing disk", func(t *testing.T) { testStorage(t, newStorage("/proc/self/nowhere", log)) })
	t.Run("comes back", func(t *testing.T) {
		ctx := context.Background()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newStorage(dir, log)
		if err := s.Store(ctx, "a/b", []byte("1")); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(dir, "a"))
		if err := s.Store(ctx, "a/b", []byte("2")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "a", "b")); err != nil || string(b) != "2" || len(s.memory) != 0 {
			t.Errorf("%q %v, %d in memory", b, err, len(s.memory))
		}
	})
}
