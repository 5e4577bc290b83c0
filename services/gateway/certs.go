package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// homeSubject is what certmagic knows the box's own certificate by; it is always among its names.
const homeSubject = "croft.home.arpa"

// Bounds on issuing by handshakes, which anybody on the LAN can start.
const (
	reissueEvery = 2 * time.Second
	reissueBurst = 5
)

// certs answers TLS handshakes. One certificate of the box's own authority names everything that the box is called
// and addressed by at home; certmagic keeps and renews it, and a handshake that asks for a new name or address of the
// box replaces it. Other issuers (ACME) join as further certmagic.Configs on the same cache, which is asked first.
type certs struct {
	ca     *authority
	cache  *certmagic.Cache
	magic  *certmagic.Config
	store  *storage
	lookup func(context.Context) subjects // asks what the box is called now
	now    func() time.Time
	log    *slog.Logger

	stopOnce sync.Once

	mu   sync.Mutex // held while issuing by a handshake
	gate gcra

	names sync.Mutex // guards what follows
	known subjects
	extra []netip.Addr // addresses that a client reached the box at
	doubt int          // how many updates in a row found the clock unsure
}

func newCerts(stateDir string, lookup func(context.Context) subjects, now func() time.Time, log *slog.Logger) (*certs, error) {
	ca, err := openAuthority(caFile(stateDir), now, log)
	if err != nil {
		return nil, err
	}
	dir := stateDir
	if dir != "" {
		dir = path.Join(dir, "tls")
	}
	c := &certs{
		ca: ca, store: newStorage(dir, log), lookup: lookup, now: now, log: log,
		known: subjects{DNS: []string{"croft.local"}},
		gate:  gcra{interval: reissueEvery, burst: reissueBurst},
	}
	ca.sans = c.subjects
	logger := zapLogger(log)
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return c.magic, nil },
		Capacity:         256,
		Logger:           logger,
	})
	c.magic = certmagic.New(c.cache, certmagic.Config{
		Issuers:             []certmagic.Issuer{ca},
		Storage:             c.store,
		KeySource:           certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		DisableARI:          true,
		DisableStorageCheck: true,
		Logger:              logger,
	})
	ctx := context.Background()
	c.forgetOthers(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.manage(ctx); err != nil {
		c.cache.Stop()
		return nil, err
	}
	return c, nil
}

func (c *certs) stop() { c.stopOnce.Do(c.cache.Stop) }

// subjects is what a new certificate names.
func (c *certs) subjects() subjects {
	c.names.Lock()
	defer c.names.Unlock()
	s := subjects{
		DNS:  []string{homeSubject, "localhost"},
		IPs:  []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()},
		Sure: c.known.Sure,
	}
	for _, name := range c.known.DNS {
		if len(s.DNS) < maxSANs && permittedName(name) && !slices.Contains(s.DNS, name) {
			s.DNS = append(s.DNS, name)
		}
	}
	for _, addr := range slices.Concat(c.extra, c.known.IPs) {
		addr = addr.Unmap().WithZone("")
		if len(s.IPs) < maxSANs && permittedIP(addr) && !slices.Contains(s.IPs, addr) {
			s.IPs = append(s.IPs, addr)
		}
	}
	return s
}

// manage brings the stored certificate into the cache; or a new one if there is none, or if a crash between writing
// key and certificate, a damaged disk or a clock that jumped left one that can't be served.
func (c *certs) manage(ctx context.Context) error {
	err := c.magic.ManageSync(ctx, []string{homeSubject})
	if err == nil && c.usable(c.current()) == nil {
		return nil
	}
	c.log.Warn("the stored certificate can't be used, making a new one", "err", errors.Join(err, c.usable(c.current())))
	return c.renew(ctx)
}

// current returns the box's own certificate in the cache, nil if there is none.
func (c *certs) current() *tls.Certificate {
	all := c.cache.AllMatchingCertificates(homeSubject)
	if len(all) == 0 {
		return nil
	}
	return &all[len(all)-1].Certificate
}

// renew replaces the box's own certificate by a new one with a new key, in storage and in the cache.
func (c *certs) renew(ctx context.Context) error {
	old := c.cache.AllMatchingCertificates(homeSubject)
	if err := c.store.Delete(ctx, certmagic.StorageKeys.CertsSitePrefix(c.ca.IssuerKey(), homeSubject)); err != nil {
		c.log.Warn("can't remove the old certificate", "err", err)
	}
	if err := c.magic.ObtainCertSync(ctx, homeSubject); err != nil {
		return fmt.Errorf("issuing the box's own certificate: %w", err)
	}
	fresh, err := c.magic.CacheManagedCertificate(ctx, homeSubject)
	if err != nil {
		return fmt.Errorf("loading the box's own certificate: %w", err)
	}
	var hashes []string
	for _, o := range old {
		if o.Hash() != fresh.Hash() {
			hashes = append(hashes, o.Hash())
		}
	}
	c.cache.Remove(hashes)
	return c.usable(&fresh.Certificate)
}

// usable says why a certificate can't be served: it is absent, not the box's own authority's, or out of its time.
func (c *certs) usable(cert *tls.Certificate) error {
	if cert == nil || cert.Leaf == nil {
		return errors.New("no certificate")
	}
	if err := cert.Leaf.CheckSignatureFrom(c.ca.cert); err != nil {
		return err
	}
	return c.inTime(cert.Leaf)
}

func (c *certs) inTime(leaf *x509.Certificate) error {
	if now := later(c.now(), epoch); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Errorf("valid from %v to %v, and it is %v", leaf.NotBefore, leaf.NotAfter, now)
	}
	return nil
}

// errName refuses a handshake for a name that is not the box's; crypto/tls sends an alert.
var errName = errors.New("not a name of this box")

// GetCertificate is a tls.Config's GetCertificate. It never returns a pair that does not belong together or a
// certificate that is out of its time.
func (c *certs) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	var local netip.Addr
	if name == "" {
		local = localAddr(hello.Conn)
		name = local.String()
	}
	cert, err := c.magic.GetCertificate(hello)
	if err == nil && cert != nil && cert.Leaf != nil && c.inTime(cert.Leaf) == nil {
		return cert, nil
	}
	if hello.ServerName != "" && !permittedName(name) {
		return nil, fmt.Errorf("%w: %.80q", errName, name)
	}
	ctx := hello.Context()
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert := c.match(name); cert != nil { // another handshake was faster
		return cert, nil
	}
	c.reachedAt(local)
	if c.gate.allow(c.now()) {
		c.refresh(ctx)
		c.complete(context.WithoutCancel(ctx))
	}
	if cert := c.match(name); cert != nil {
		return cert, nil
	}
	if cert := c.current(); hello.ServerName == "" && c.usable(cert) == nil {
		return cert, nil // an address outside the authority's reach: encrypted, but the browser will warn
	}
	return nil, fmt.Errorf("%w: %.80q", errName, name)
}

// match returns the box's own certificate if it is usable and names name.
func (c *certs) match(name string) *tls.Certificate {
	cert := c.current()
	if c.usable(cert) != nil || cert.Leaf.VerifyHostname(name) != nil {
		return nil
	}
	return cert
}

// reachedAt remembers an address that a client reached the box at.
func (c *certs) reachedAt(addr netip.Addr) {
	if !addr.IsValid() || !permittedIP(addr) || slices.Contains(c.subjects().IPs, addr) {
		return
	}
	c.names.Lock()
	defer c.names.Unlock()
	c.extra = append(slices.Clone(c.extra[max(0, len(c.extra)-7):]), addr)
}

// complete replaces the certificate if it can't be served, if it lacks a name or address of the box, or if its life does
// not suit what is known of the time.
func (c *certs) complete(ctx context.Context) {
	s := c.subjects()
	if c.suits(s.Sure) && !slices.ContainsFunc(s.DNS, func(n string) bool { return c.match(n) == nil }) &&
		!slices.ContainsFunc(s.IPs, func(a netip.Addr) bool { return c.match(a.String()) == nil }) {
		return
	}
	if err := c.renew(ctx); err != nil {
		c.log.Error("no certificate", "err", err)
	}
}

// suits reports whether the certificate's life does: short while the time is known; long once it has been unknown for
// so many updates that nobody may be about to tell it, as clients know the time better.
func (c *certs) suits(sure bool) bool {
	cert := c.current()
	if cert == nil {
		return false
	}
	long := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore) > leafLife+2*backdate
	c.names.Lock()
	defer c.names.Unlock()
	if long {
		return !sure
	}
	return sure || c.doubt < patience
}

const patience = 5

// refresh asks what the box is called now; what does not answer leaves things as they were.
func (c *certs) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	s := c.lookup(ctx)
	c.names.Lock()
	defer c.names.Unlock()
	if len(s.DNS) > 0 {
		c.known.DNS = s.DNS
	}
	if len(s.IPs) > 0 {
		c.known.IPs = s.IPs
	}
	c.known.Sure = s.Sure
}

// update asks what the box is called now and sees that the certificate names it.
func (c *certs) update(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh(ctx)
	c.names.Lock()
	if c.doubt++; c.known.Sure {
		c.doubt = 0
	}
	c.names.Unlock()
	c.complete(ctx)
}

// forgetOthers removes what earlier authorities of the box signed: nobody can be told to trust them again.
func (c *certs) forgetOthers(ctx context.Context) {
	issuers, err := c.store.List(ctx, "certificates", false)
	if err != nil {
		return // nothing is stored yet
	}
	for _, dir := range issuers {
		if strings.HasPrefix(path.Base(dir), issuerPrefix) && dir != certmagic.StorageKeys.CertsPrefix(c.ca.IssuerKey()) {
			if err := c.store.Delete(ctx, dir); err != nil {
				c.log.Warn("can't remove an earlier authority's certificate", "key", dir, "err", err)
			}
		}
	}
}

// localAddr returns the box's address of a connection, without zone; the zero Addr if it has none.
func localAddr(c net.Conn) netip.Addr {
	if c == nil || c.LocalAddr() == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
