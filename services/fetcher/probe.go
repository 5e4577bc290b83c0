package fetcher

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/croft-os/croft/services/daemon"
)

// probeTime is how long the start page may take, with all of its redirects.
const probeTime = 10 * time.Second

// postProbe fetches the start page as a browser on this machine would, over loopback, through the gateway: the updater, which
// wants to know whether a new release serves it, has no network of its own.
func (s *service) postProbe(w http.ResponseWriter, r *http.Request) {
	p := Probe{}
	if err := page(r.Context(), "http://"+net.JoinHostPort("127.0.0.1", "80")+"/"); err != nil {
		p.HTTP = err.Error()
	}
	if err := page(r.Context(), "https://"+net.JoinHostPort("127.0.0.1", "443")+"/"); err != nil {
		p.HTTPS = err.Error()
	}
	daemon.WriteJSON(w, http.StatusOK, p)
}

// page fetches a page of this machine. Whatever certificate it has is taken: it is the box's own, which no public authority knows, and
// nobody can come between on loopback. Redirects are not followed, so that nothing else than loopback is spoken to; one counts as an
// answer, as do pages that ask to sign in.
func page(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("the page answers %s", resp.Status)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return fmt.Errorf("the page ends in the middle: %w", err)
	}
	return nil
}
