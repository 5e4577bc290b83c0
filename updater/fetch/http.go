package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// HTTPOptions say how a server is spoken to. Zero is what a box uses.
type HTTPOptions struct {
	Limit   *rate.Limiter  // bytes a second of ReadRange; nil: no limit
	Sure    bool           // the clock is right
	Roots   *x509.CertPool // nil: the system's
	MinRate int64          // bytes a second, over every Window; 0: 4 KiB
	Window  time.Duration  // 0: 20 s; also the longest time until the first byte
}

const (
	maxRedirects  = 5
	maxHeader     = 64 << 10
	readPiece     = 32 << 10
	defaultRate   = 4 << 10
	defaultWindow = 20 * time.Second
)

// httpSource is a web server, or a neighbour's box.
type httpSource struct {
	kind, name string
	base       string // ends in "/"
	client     *http.Client
	o          HTTPOptions
	ctx        context.Context // ends with Close
	end        context.CancelCauseFunc
}

// OpenMirror returns the repository below an https URL as a source. Plain http is taken too where the host is a private address
// itself, such as that of a computer at home.
//
// A certificate has to be valid for the host. That keeps eavesdroppers from seeing, and others from choosing, what a box is
// told; what it may believe is in the signatures alone. So, while the clock is not sure, a certificate's dates are passed over: a
// box that is new, or whose clock stood still, can still hear of updates. Redirects lead to https only. No answer is
// decompressed.
func OpenMirror(raw string, o HTTPOptions) (Source, error) {
	u, err := CheckMirror(raw)
	if err != nil {
		return nil, err
	}
	return newHTTP(KindMirror, raw, u.String(), o), nil
}

// CheckMirror parses the URL of a mirror and checks what OpenMirror demands of it.
func CheckMirror(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	plain := false
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		plain = IsLocal(a) || a.IsLoopback()
	}
	if len(raw) > 500 || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !plain) {
		return nil, fmt.Errorf("%.100q is no https URL of a mirror", raw)
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	return u, nil
}

// NeighbourPort is where a box serves what it has to its LAN: TCP, plain HTTP, the tree of docs/release-format.md from "/".
const NeighbourPort = 7465

// OpenNeighbour returns the box of that name at addr as a source. Only addresses of the own network are taken (IsLocal).
func OpenNeighbour(name string, addr netip.AddrPort, o HTTPOptions) (Source, error) {
	if !IsLocal(addr.Addr()) {
		return nil, fmt.Errorf("%s is no neighbour's address", addr)
	}
	u := url.URL{Scheme: "http", Host: addr.String(), Path: "/"}
	return newHTTP(KindNeighbour, name, u.String(), o), nil
}

// IsLocal tells whether an address is private (RFC 1918, RFC 4193) or of the link only (RFC 3927, RFC 4291).
func IsLocal(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsPrivate() || a.IsLinkLocalUnicast()
}

func newHTTP(kind, name, base string, o HTTPOptions) *httpSource {
	o.MinRate, o.Window = cmp.Or(o.MinRate, defaultRate), cmp.Or(o.Window, defaultWindow)
	if o.Limit != nil {
		// Waiting for the limit is not the server's fault; several may share it.
		o.MinRate = min(o.MinRate, int64(o.Limit.Limit()/8))
	}
	secure := strings.HasPrefix(base, "https:")
	tr := &http.Transport{
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true, // verify does it
			VerifyConnection:   func(s tls.ConnectionState) error { return verify(s, o.Roots, o.Sure, time.Now()) },
		},
		TLSHandshakeTimeout:    10 * time.Second,
		DisableCompression:     true,
		MaxConnsPerHost:        4,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 is all that ranges need
	}
	s := &httpSource{kind: kind, name: name, base: base, o: o}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	s.client = &http.Client{
		Transport: tr,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if !secure || req.URL.Scheme != "https" || len(via) > maxRedirects {
				return fmt.Errorf("%w: redirected to %.100s", ErrLied, req.URL.Redacted())
			}
			return nil
		},
	}
	return s
}

// verify checks a server's certificate as crypto/tls would. With an unsure clock, one that was valid at some time is taken.
func verify(s tls.ConnectionState, roots *x509.CertPool, sure bool, now time.Time) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	leaf := s.PeerCertificates[0]
	o := x509.VerifyOptions{Roots: roots, DNSName: s.ServerName, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(o)
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired && !sure {
		o.CurrentTime = leaf.NotBefore.Add(time.Second)
		_, err = leaf.Verify(o)
	}
	return err
}

func (s *httpSource) Kind() string { return s.kind }
func (s *httpSource) Name() string { return s.name }

func (s *httpSource) Close() error {
	s.end(ErrClosed)
	s.client.CloseIdleConnections()
	return nil
}

// reportKey is the context key of a func(int64) that is told how many bytes have come.
type reportKey struct{}

// answer is an answer whose body is being read.
type answer struct {
	*http.Response
	s      *httpSource
	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   func() bool
	got    atomic.Int64 // bytes
	report func(int64)
}

// ask sends a request. The answer has to be closed. What comes slower than MinRate over a Window is cut off, from the first
// moment on, so the time of the whole is bounded by what is read of it.
func (s *httpSource) ask(ctx context.Context, path string, header ...string) (*answer, error) {
	a := &answer{s: s, report: func(int64) {}}
	if f, ok := ctx.Value(reportKey{}).(func(int64)); ok {
		a.report = f
	}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.stop = context.AfterFunc(s.ctx, func() { a.cancel(ErrClosed) })
	go a.watch()
	req, err := http.NewRequestWithContext(a.ctx, http.MethodGet, s.base+path, nil)
	if err != nil {
		return nil, a.fail(err)
	}
	req.Header.Set("User-Agent", "croft")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if a.Response, err = s.client.Do(req); err != nil {
		return nil, a.fail(err)
	}
	switch a.StatusCode {
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden: // the last is how stores of objects say it
		return nil, a.fail(notFound(path))
	}
	if e := a.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, a.fail(fmt.Errorf("%w: an answer encoded as %.20q", ErrLied, e))
	}
	return a, nil
}

// watch ends an answer that is too slow.
func (a *answer) watch() {
	t := time.NewTicker(a.s.o.Window)
	defer t.Stop()
	for last := int64(0); ; {
		select {
		case <-a.ctx.Done():
			return
		case <-t.C:
			got := a.got.Load()
			if float64(got-last) < float64(a.s.o.MinRate)*a.s.o.Window.Seconds() {
				a.cancel(ErrStalled)
				return
			}
			last = got
		}
	}
}

// fail closes the answer and says why it failed.
func (a *answer) fail(err error) error {
	if cause := context.Cause(a.ctx); cause != nil {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	a.close()
	return fmt.Errorf("%s: %w", a.s.name, err)
}

func (a *answer) close() {
	a.stop()
	a.cancel(nil)
	if a.Response != nil {
		a.Body.Close()
	}
}

// fill reads exactly p, at the speed that is allowed.
func (a *answer) fill(p []byte, limit *rate.Limiter) error {
	for n := 0; n < len(p); {
		piece := p[n:min(n+readPiece, len(p))]
		if limit != nil {
			piece = piece[:min(len(piece), max(1, limit.Burst()))]
			if err := limit.WaitN(a.ctx, len(piece)); err != nil {
				return err
			}
		}
		m, err := io.ReadFull(a.Body, piece)
		n += m
		a.got.Add(int64(m))
		a.report(int64(m))
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("after %d bytes of %d: %w", n, len(p), err)
		}
	}
	return nil
}

func (s *httpSource) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	limit, err := lookUp(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, path)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, a.fail(fmt.Errorf("%s: %s", path, a.Status))
	}
	if a.ContentLength > limit {
		return nil, a.fail(tooLarge(path, limit))
	}
	var b []byte
	for buf := make([]byte, readPiece); ; {
		n, err := a.Body.Read(buf)
		a.got.Add(int64(n))
		b = append(b, buf[:n]...)
		switch {
		case int64(len(b)) > limit:
			return nil, a.fail(tooLarge(path, limit))
		case errors.Is(err, io.EOF):
			a.close()
			return b, nil
		case err != nil:
			return nil, a.fail(fmt.Errorf("%s: %w", path, err))
		}
	}
}

func (s *httpSource) ReadRange(ctx context.Context, path string, off int64, p []byte) error {
	if err := checkRange(ctx, path, off, len(p)); err != nil {
		return err
	}
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	last := off + int64(len(p)) - 1
	a, err := s.ask(ctx, path, "Range", fmt.Sprintf("bytes=%d-%d", off, last))
	if err != nil {
		return err
	}
	switch a.StatusCode {
	case http.StatusPartialContent:
		// RFC 9110 section 14.4.
		got := a.Header.Get("Content-Range")
		if whole, _, _ := strings.Cut(got, "/"); whole != fmt.Sprintf("bytes %d-%d", off, last) {
			if strings.HasPrefix(got, fmt.Sprintf("bytes %d-", off)) { // it has fewer than were asked for
				return a.fail(fmt.Errorf("%s: only %.60q: %w", path, got, io.ErrUnexpectedEOF))
			}
			return a.fail(fmt.Errorf("%w: %s: %.60q instead of bytes %d-%d", ErrLied, path, got, off, last))
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return a.fail(fmt.Errorf("%s: no bytes %d-%d: %w", path, off, last, io.ErrUnexpectedEOF))
	case http.StatusOK:
		// A server may pass over Range (RFC 9110 section 14.2). What comes first is all that is of use then.
		if off != 0 {
			return a.fail(fmt.Errorf("%w: %s: the server sends no ranges", ErrLied, path))
		}
	default:
		return a.fail(fmt.Errorf("%s: %s", path, a.Status))
	}
	if err := a.fill(p, s.o.Limit); err != nil {
		return a.fail(fmt.Errorf("%s: %w", path, err))
	}
	a.close()
	return nil
}
