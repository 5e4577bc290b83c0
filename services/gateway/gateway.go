// Package gateway is the box's front door: it takes HTTP/1.1, HTTP/2 (RFC 9113) and HTTP/3 (RFC 9114) on ports 80 and
// 443, holds the certificates, and passes requests on to services over their unix sockets. It runs with an empty
// network of its own and reads nobody's data.
//
// Plain HTTP and HTTPS serve the same pages: HTTPS by the box's own certificate authority warns until the owner
// installs it (it is offered at /croft-ca.crt, and as a profile at /croft-ca.mobileconfig), and plain HTTP on the LAN is the way back in when certificates fail.
//
// Limits: every client is held to a number of connections, requests and bytes (Limits); names that the public DNS
// could answer for are refused (see localHost); an answer that takes longer than a client reads is given up. It does
// not cache, compress or log requests.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// softMemory is how much the process may use before it collects garbage ever harder; its hard limit is 128 MB.
const softMemory = 64 << 20

// Run is the service: it serves env's listeners "http" (TCP), "https" (TCP) and "quic" (UDP) until ctx ends. Without
// "http" it fails with daemon.ErrConfig; the other two may be absent.
func Run(ctx context.Context, env *daemon.Env) error { return RunLimited(ctx, env, DefaultLimits()) }

// RunLimited is Run with other limits.
func RunLimited(ctx context.Context, env *daemon.Env, limits Limits) error {
	if env.Listeners["http"] == nil {
		return fmt.Errorf("%w: no listener \"http\" was passed", daemon.ErrConfig)
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // GOMEMLIMIT is not set
		debug.SetMemoryLimit(softMemory)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300) // little lives long here; collections would be most of the work
	}
	cl := newClients(limits, time.Now)
	certs, err := newCerts(env.StateDir, (&world{env.Client("network"), env.Client("discovery")}).subjects, time.Now, env.Log)
	if err != nil {
		env.Log.Error("can't make certificates; only plain HTTP is served", "err", err)
	} else {
		defer certs.stop()
	}
	trusted := newTrust(certs.authorityDER())
	f := newFront(env.SocketDir, limits, cl, func() *trust { return trusted }, env.Log)
	defer f.transport.CloseIdleConnections()

	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan error, 3)
	plain := newServer(base, limits, f, env.Log)
	go func() { ended <- plain.Serve(&listener{env.Listeners["http"], cl}) }()
	stops := []func(context.Context) error{stopper(plain)}
	if l := env.Listeners["https"]; l != nil && certs != nil {
		secure := newServer(base, limits, f, env.Log)
		secure.TLSConfig = certs.tlsConfig("h2", "http/1.1")
		go func() { ended <- secure.ServeTLS(&listener{l, cl}, "", "") }()
		stops = append(stops, stopper(secure))
	}
	if p := env.Packets["quic"]; p != nil && certs != nil {
		stop, err := serveQUIC(p, certs, limits, cl, f, ended)
		if err != nil {
			env.Log.Warn("HTTP/3 is not served", "err", err)
		} else {
			stops = append(stops, stop)
		}
	}
	env.Ready(trusted.status())
	go env.Watch(ctx, f.check)
	if certs != nil {
		go certs.keepUpdated(ctx)
	}

	select {
	case err = <-ended:
		err = fmt.Errorf("a listener ended: %w", err)
	case <-ctx.Done():
		err = nil
	}
	end, cancelEnd := context.WithTimeout(base, 2*time.Second)
	defer cancelEnd()
	for _, stop := range stops {
		go func() { ended <- stop(end) }()
	}
	for range stops {
		<-ended
	}
	return err
}

// stopper lets requests under way finish until its context ends, then cuts what is left.
func stopper(s *http.Server) func(context.Context) error {
	return func(ctx context.Context) error { return errors.Join(s.Shutdown(ctx), s.Close()) }
}

func newServer(base context.Context, l Limits, h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: l.HeaderTime,
		WriteTimeout:      2 * l.WriteTime,
		IdleTimeout:       l.IdleTime,
		MaxHeaderBytes:    l.Header,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          16,
			MaxReceiveBufferPerConnection: 128 << 10,
			MaxReceiveBufferPerStream:     64 << 10,
			MaxReadFrameSize:              16 << 10,
			SendPingTimeout:               time.Minute,
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              l.WriteTime,
		},
		ConnState: connState,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if own := connOf(c); own != nil {
				return context.WithValue(ctx, peerKey{}, own.peer)
			}
			return ctx
		},
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    log.New(io.Discard, "", 0), // what clients do wrong is no news
	}
}

func (c *certs) tlsConfig(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  protocols,
		GetCertificate:              c.GetCertificate,
		DynamicRecordSizingDisabled: true,
	}
}

// authorityDER returns the certificate of the box's own authority, nil without one.
func (c *certs) authorityDER() []byte {
	if c == nil {
		return nil
	}
	return c.ca.cert.Raw
}

// keepUpdated looks after the names in the certificate: soon after the start, then rarely, since a handshake for a
// new name or address does it too.
func (c *certs) keepUpdated(ctx context.Context) {
	for wait := time.Second; ; wait = min(4*wait, 15*time.Minute) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			c.update(ctx)
		}
	}
}

// serveQUIC starts HTTP/3 on p.
func serveQUIC(p net.PacketConn, certs *certs, l Limits, cl *clients, h http.Handler, ended chan<- error) (func(context.Context) error, error) {
	srv := &http3.Server{
		Handler:        h,
		MaxHeaderBytes: l.Header,
		IdleTimeout:    l.IdleTime,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.Context().Value(peerKey{}))
		},
	}
	tr := &quic.Transport{
		Conn: p,
		ConnContext: func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
			peer, release, err := cl.connect(info.RemoteAddr, true)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, release)
			return context.WithValue(ctx, peerKey{}, peer), nil
		},
		// A sender must show that it owns its address (RFC 9000 section 8.1.2) once many are connecting.
		VerifySourceAddress: func(net.Addr) bool { return cl.crowded() },
	}
	ln, err := tr.Listen(http3.ConfigureTLSConfig(certs.tlsConfig()), &quic.Config{
		HandshakeIdleTimeout:           l.HeaderTime,
		MaxIdleTimeout:                 l.IdleTime,
		InitialStreamReceiveWindow:     32 << 10,
		MaxStreamReceiveWindow:         64 << 10,
		InitialConnectionReceiveWindow: 64 << 10,
		MaxConnectionReceiveWindow:     128 << 10,
		MaxIncomingStreams:             16,
		MaxIncomingUniStreams:          8,
	})
	if err != nil {
		return nil, fmt.Errorf("listening for QUIC: %w", err)
	}
	go func() { ended <- srv.ServeListener(ln) }()
	return func(ctx context.Context) error {
		return errors.Join(srv.Shutdown(ctx), srv.Close(), ln.Close(), tr.Close())
	}, nil
}

// check asks the front for something that needs no service; it fails when a lock is stuck.
func (f *front) check(ctx context.Context) error {
	p, release, err := f.clients.connect(&net.TCPAddr{IP: net.IPv6loopback}, false)
	if err != nil {
		return nil // full, and so at work
	}
	defer release()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := &http.Request{Method: http.MethodHead, Host: "localhost", URL: &url.URL{Path: caPath}, Header: http.Header{}}
		f.ServeHTTP(discard{}, r.WithContext(context.WithValue(ctx, peerKey{}, p)))
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the gateway's own check got no answer: %w", ctx.Err())
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// world asks the services that know what the box is called and addressed by.
type world struct{ network, discovery *http.Client }

func (w *world) subjects(ctx context.Context) subjects {
	var s subjects
	var d api.Discovery
	if err := daemon.GetJSON(ctx, w.discovery, "http://discovery/v1/discovery", &d); err == nil {
		for _, label := range append([]string{d.Name, d.Wanted}, d.Former...) {
			label = strings.ToLower(label)
			if hostName(label) && !strings.Contains(label, ".") {
				s.DNS = append(s.DNS, label+".local", label+".home.arpa")
			}
		}
	}
	var n api.Network
	if err := daemon.GetJSON(ctx, w.network, "http://network/v1/network", &n); err == nil {
		s.Sure = n.Clock.Certainty == api.ClockSure
		for _, i := range n.Interfaces {
			for _, p := range i.Addresses {
				if a := p.Addr(); a.IsValid() && !a.IsLoopback() {
					s.IPs = append(s.IPs, a)
				}
			}
		}
		slices.SortFunc(s.IPs, netip.Addr.Compare)
	}
	return s
}
