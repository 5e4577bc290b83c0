package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// Lifetimes of certificates. Apple refuses a server certificate of more than 825 days, also from an authority that
// the owner installed.
const (
	caLife     = 10 * 365 * 24 * time.Hour
	caRenew    = 120 * 24 * time.Hour // before the end of the authority's certificate, its successor takes over
	leafLife   = 60 * 24 * time.Hour
	unsureLife = 820 * 24 * time.Hour // while the clock may be behind
	backdate   = 24 * time.Hour
	maxSANs    = 48
)

// epoch is when every authority's certificate begins, whatever the box's clock says at first boot: no box is older.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// What a certificate of the box's own authority may name: nothing that could be anybody else's.
var (
	permittedDNS = []string{"local", "home.arpa", "localhost"}
	permittedIPs = []string{
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10",
		"fc00::/7", "fe80::/10", "::1/128",
	}
)

// permittedName reports whether the name constraints allow a DNS name.
func permittedName(name string) bool {
	return slices.ContainsFunc(permittedDNS, func(p string) bool { return name == p || strings.HasSuffix(name, "."+p) })
}

// permittedIP reports whether the name constraints allow an address.
func permittedIP(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(permittedIPs, func(p string) bool { return netip.MustParsePrefix(p).Contains(a) })
}

// authority is the box's own certificate authority, a certmagic.Issuer: RFC 5280, with critical name constraints
// (section 4.2.1.10), so that whoever installs it trusts it for names and addresses at home only.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	sans func() subjects // what a certificate names beside what the request asks for; all of it permitted
	now  func() time.Time
}

// subjects is what a certificate names.
type subjects struct {
	DNS  []string
	IPs  []netip.Addr
	Sure bool // the clock is known to be right
}

var _ certmagic.Issuer = (*authority)(nil)

// openAuthority reads the authority from the file, or makes a new one if there is none or if it is damaged. One that
// ends soon stays, since the clock may be wrong and phones trust it; its successor has a file of its own. If the file
// can't be read or written, the authority lives as long as the process, and the file stays as it is. file is "" for
// memory only.
func openAuthority(file string, now func() time.Time, log *slog.Logger) (*authority, error) {
	keep := file != ""
	if keep {
		cert, key, err := readAuthority(file)
		switch {
		case err == nil && now().Before(cert.NotAfter.Add(-caRenew)):
			return &authority{cert: cert, key: key, now: now}, nil
		case err == nil:
			log.Warn("the box's certificate authority ends soon, going on with its successor", "end", cert.NotAfter)
			return openAuthority(file+".next", now, log)
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errDamaged):
			log.Warn("the box's certificate authority is damaged, making a new one", "err", err)
			if err := os.Rename(file, file+".damaged"); err != nil {
				log.Warn("can't put the damaged one aside", "err", err)
			}
		default:
			log.Error("can't read the box's certificate authority, using another one for now", "err", err)
			keep = false
		}
	}
	a, pair, err := newAuthority(now)
	if err != nil {
		return nil, err
	}
	if keep {
		if err := writeFile(file, pair); err != nil {
			log.Warn("can't keep the new certificate authority beyond this run", "err", err)
		}
	}
	return a, nil
}

// errDamaged says that what was read is no authority of ours.
var errDamaged = errors.New("damaged")

func readAuthority(file string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	certBlock, rest := pem.Decode(data)
	keyBlock, _ := pem.Decode(rest)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("%w: %s: not a certificate and a key in PEM", errDamaged, file)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: certificate: %w", errDamaged, file, err)
	}
	anyKey, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: key: %w", errDamaged, file, err)
	}
	key, ok := anyKey.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%w: %s: certificate and key do not belong together", errDamaged, file)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w", errDamaged, file, err)
	}
	if !cert.PermittedDNSDomainsCritical || len(cert.SubjectKeyId) < 8 {
		return nil, nil, fmt.Errorf("%w: %s: no authority of ours", errDamaged, file)
	}
	return cert, key, nil
}

// newAuthority makes an authority, and its file: certificate and key together, so that no crash can part them.
func newAuthority(now func() time.Time) (*authority, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	id, err := keyID(key)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			Organization: []string{"Croft"},
			CommonName:   "Croft at home " + hex.EncodeToString(id[:4]),
		},
		NotBefore:                   epoch,
		NotAfter:                    later(now(), epoch).Add(caLife).Truncate(time.Second),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		SubjectKeyId:                id,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         permittedDNS,
	}
	for _, p := range permittedIPs {
		_, n, err := net.ParseCIDR(p)
		if err != nil {
			return nil, nil, err
		}
		t.PermittedIPRanges = append(t.PermittedIPRanges, n)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making the certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	pair := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	return &authority{cert: cert, key: key, now: now}, pair, nil
}

// IssuerKey implements certmagic.Issuer. It names the authority's key, so that what an earlier authority signed is
// never taken for this one's.
func (a *authority) IssuerKey() string {
	return issuerPrefix + hex.EncodeToString(a.cert.SubjectKeyId[:8])
}

const issuerPrefix = "croft-home-"

// Issue implements certmagic.Issuer. The certificate names what the request asks for, and what the box is called
// and addressed by besides. It refuses what the name constraints forbid.
func (a *authority) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	more := a.sans()
	now := later(a.now(), epoch)
	life := leafLife
	if !more.Sure {
		life = unsureLife
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Croft"}},
		NotBefore:             later(now.Add(-backdate), a.cert.NotBefore).Truncate(time.Second),
		NotAfter:              earlier(now.Add(life), a.cert.NotAfter).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range csr.DNSNames { // first, so that certmagic knows the certificate by it
		if !permittedName(name) {
			return nil, fmt.Errorf("the box's own authority can't vouch for %q", name)
		}
		t.DNSNames = append(t.DNSNames, name)
	}
	for _, ip := range csr.IPAddresses {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok || !permittedIP(addr) {
			return nil, fmt.Errorf("the box's own authority can't vouch for %v", ip)
		}
		t.IPAddresses = append(t.IPAddresses, addr.Unmap().AsSlice())
	}
	for _, name := range more.DNS {
		if !slices.Contains(t.DNSNames, name) {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	for _, addr := range more.IPs {
		if ip := net.IP(addr.AsSlice()); !slices.ContainsFunc(t.IPAddresses, ip.Equal) {
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return &certmagic.IssuedCertificate{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// caFile is where the authority lives in the state directory; "" without one.
func caFile(stateDir string) string {
	if stateDir == "" {
		return ""
	}
	return filepath.Join(stateDir, "ca.pem")
}

func keyID(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
