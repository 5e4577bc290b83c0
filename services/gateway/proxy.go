package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/croft-os/croft/services/api"
)

type peerKey struct{}

// front is the handler of all listeners: it limits, checks and routes requests.
type front struct {
	limits  Limits
	clients *clients
	trust   func() *trust
	log     *slog.Logger

	transport *http.Transport
	proxy     *httputil.ReverseProxy
	writers   sync.Pool
}

// Backends: a request goes to the service whose socket is NAME.sock.
var (
	apiURL = &url.URL{Scheme: "http", Host: "core"}
	uiURL  = &url.URL{Scheme: "http", Host: "webui"}
)

func newFront(socketDir string, l Limits, cl *clients, t func() *trust, log *slog.Logger) *front {
	f := &front{limits: l, clients: cl, trust: t, log: log}
	f.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			name, _, _ := strings.Cut(addr, ":")
			d := net.Dialer{Timeout: 2 * time.Second}
			return d.DialContext(ctx, "unix", filepath.Join(socketDir, name+".sock"))
		},
		DisableCompression:     true,
		ReadBufferSize:         bufferSize, // a page in one read
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second,
		ResponseHeaderTimeout:  l.BackendTime,
		MaxResponseHeaderBytes: 64 << 10,
	}
	f.proxy = &httputil.ReverseProxy{
		Rewrite:        f.rewrite,
		Transport:      f.transport,
		BufferPool:     &buffers{},
		ModifyResponse: ownHeaders,
		ErrorHandler:   f.failed,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	f.writers.New = func() any { return new(writer) }
	return f
}

// climbs reports whether a decoded path has a segment "..". Browsers resolve these before they ask.
func climbs(path string) bool {
	return strings.Contains(path, "/../") || strings.HasSuffix(path, "/..")
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := r.Context().Value(peerKey{}).(*peer)
	if !ok {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h := w.Header()
	secure(h)
	if r.TLS != nil {
		h["Cross-Origin-Opener-Policy"] = sameOrigin // over plain HTTP browsers ignore it and complain
		if r.ProtoMajor < 3 {
			h["Alt-Svc"] = altSvc
		}
	}
	if status := f.clients.begin(p.client); status != 0 {
		// No body: nothing that a client could leave unread.
		h["Retry-After"] = retrySoon
		w.WriteHeader(status)
		return
	}
	defer f.clients.end(p.client)

	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		f.problem(w, r, http.StatusMethodNotAllowed, "Croft does not do that.", "The method "+r.Method+" is not offered here.")
		return
	case !localHost(r.Host):
		f.problem(w, r, http.StatusMisdirectedRequest, "Croft does not answer to that name.",
			"Open http://croft.local/ or the box's own address instead.")
		return
	case climbs(r.URL.Path):
		f.problem(w, r, http.StatusBadRequest, "That is no address of this box.", "The path leads above where it begins.")
		return
	case r.ContentLength > f.mostOf(r):
		h["Connection"] = []string{"close"}
		f.tooBig(w, r)
		return
	}
	if r.Body != nil && r.Body != http.NoBody {
		rc := http.NewResponseController(w)
		limited := http.MaxBytesReader(w, r.Body, f.mostOf(r))
		switch {
		case rc.SetReadDeadline(time.Now().Add(f.limits.BodyTime)) != nil:
			r.Body = limited
		case isUpload(r):
			r.Body = &upload{body{limited, rc}, f.limits}
		default:
			r.Body = &body{limited, rc}
		}
	}
	if f.trust().serve(f, w, r) {
		return
	}
	out := f.writers.Get().(*writer)
	out.start(w, f.limits.WriteTime, r.ProtoMajor == 3)
	f.proxy.ServeHTTP(out, r)
	out.start(nil, 0, false)
	f.writers.Put(out)
}

// isUpload reports whether a request brings an update as a file: to the API, or from the form of the page. Both ask who it is
// before they read it.
func isUpload(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Path == "/api/v1/updates/file" || r.Method == http.MethodPost && r.URL.Path == "/updates/file"
}

// mostOf is how many bytes a request's body may have.
func (f *front) mostOf(r *http.Request) int64 {
	if isUpload(r) {
		return f.limits.Upload
	}
	return f.limits.Body
}

func (f *front) tooBig(w http.ResponseWriter, r *http.Request) {
	f.problem(w, r, http.StatusRequestEntityTooLarge, "That is too big to send here.",
		"At most "+strconv.FormatInt(f.mostOf(r)>>10, 10)+" kB can be sent at once.")
}

// isAPI reports whether a path belongs to the API, which core serves; all else is the web UI's.
func isAPI(p string) bool { return strings.HasPrefix(p, "/api/") }

// rewrite makes the request to the service. ReverseProxy has taken out hop-by-hop fields (RFC 9110 section 7.6.1) and
// Forwarded, X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto already.
func (f *front) rewrite(pr *httputil.ProxyRequest) {
	to := uiURL
	if isAPI(pr.In.URL.Path) {
		to = apiURL
	}
	pr.Out.URL.Scheme, pr.Out.URL.Host = to.Scheme, to.Host
	for k := range pr.Out.Header {
		if strings.HasPrefix(k, "X-Forwarded-") || strings.HasPrefix(k, "X-Croft-") || k == "X-Real-Ip" {
			delete(pr.Out.Header, k)
		}
	}
	p := pr.In.Context().Value(peerKey{}).(*peer)
	pr.Out.Header["X-Forwarded-For"] = p.forwarded
	pr.Out.Header["X-Forwarded-Host"] = []string{pr.In.Host}
	if header := f.trust().header; header != nil {
		pr.Out.Header[caHeader] = header
	}
	if pr.In.TLS == nil {
		pr.Out.Header["X-Forwarded-Proto"] = protoHTTP
	} else {
		pr.Out.Header["X-Forwarded-Proto"] = protoHTTPS
	}
}

// Values of headers, shared by all answers; nobody changes them.
var (
	protoHTTP  = []string{"http"}
	protoHTTPS = []string{"https"}
	altSvc     = []string{`h3=":443"; ma=86400`}
	retrySoon  = []string{"3"}
	nosniff    = []string{"nosniff"}
	referrer   = []string{"same-origin"}
	deny       = []string{"DENY"}
	sameOrigin = []string{"same-origin"}
	noFeatures = []string{"camera=(), geolocation=(), microphone=(), payment=(), usb=()"}
)

// secure sets what every answer carries, over TLS or not. There is no Strict-Transport-Security: plain HTTP on the LAN
// is the way back in when certificates fail.
func secure(h http.Header) {
	h["X-Content-Type-Options"] = nosniff
	h["Referrer-Policy"] = referrer
	h["X-Frame-Options"] = deny
	h["Cross-Origin-Resource-Policy"] = sameOrigin
	h["Permissions-Policy"] = noFeatures
}

// ownHeaders takes out of a service's answer what the gateway sets.
func ownHeaders(res *http.Response) error {
	h := res.Header
	for _, k := range [...]string{
		"X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options", "Cross-Origin-Opener-Policy",
		"Cross-Origin-Resource-Policy", "Permissions-Policy", "Alt-Svc", "Strict-Transport-Security",
	} {
		delete(h, k)
	}
	return nil
}

// failed answers when a service can't.
func (f *front) failed(w http.ResponseWriter, r *http.Request, err error) {
	var tooBig *http.MaxBytesError
	var netErr net.Error
	switch {
	case errors.As(err, &tooBig):
		w.Header()["Connection"] = []string{"close"}
		f.tooBig(w, r)
	case r.Context().Err() != nil: // the client has gone
		w.WriteHeader(http.StatusBadGateway)
	case errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		f.log.Debug("a service does not answer", "path", r.URL.Path, "err", err)
		w.Header()["Retry-After"] = retrySoon
		f.problem(w, r, http.StatusServiceUnavailable, "This part of Croft is not answering yet.",
			"It is probably still starting. If nothing changes within two minutes, unplug the box, wait ten seconds and plug it in again.")
	default:
		f.log.Warn("a service gave a bad answer", "path", r.URL.Path, "err", err)
		f.problem(w, r, http.StatusBadGateway, "This part of Croft gave an answer that makes no sense.",
			"Try again. If it stays so, restart the box.")
	}
}

// problem answers with a page, or below /api with RFC 9457's application/problem+json.
func (f *front) problem(w http.ResponseWriter, r *http.Request, status int, title, detail string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if isAPI(r.URL.Path) {
		h.Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(api.Problem{Type: "about:blank", Title: title, Status: status, Detail: detail})
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy())
	w.WriteHeader(status)
	refresh, again := "", ""
	if status == http.StatusServiceUnavailable && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// A refresh goes nowhere if the address has a fragment, and the claim code comes in one.
		refresh = `<script>` + pageScript + `</script><noscript><meta http-equiv="refresh" content="3"></noscript>`
		again = `<p role="status">This page tries again by itself every few seconds.</p>`
	}
	io.WriteString(w, `<!doctype html><html lang="en"><head><meta charset="utf-8">`+
		`<meta name="viewport" content="width=device-width,initial-scale=1">`+refresh+
		`<title>Croft</title><style>`+pageStyle+`</style></head><body><main><h1>`+
		template.HTMLEscapeString(title)+`</h1><p>`+template.HTMLEscapeString(detail)+`</p>`+again+`</main></body></html>`)
}

const pageStyle = `:root{color-scheme:light dark}body{font:17px/1.5 system-ui,sans-serif;max-width:33em;margin:12vh auto;` +
	`padding:0 20px}h1{font-size:1.4em;line-height:1.25}`

const pageScript = `setTimeout(()=>location.reload(),3000)`

// pagePolicy is the Content-Security-Policy of the gateway's own pages.
var pagePolicy = sync.OnceValue(func() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(pageStyle) + "; script-src " + hash(pageScript) +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
})

// body lifts the read deadline at its end, so that a long answer outlives it.
type body struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// upload moves both deadlines on with each piece that arrives: the whole of it may take long.
type upload struct {
	body
	limits Limits
}

func (u *upload) Read(p []byte) (int, error) {
	now := time.Now()
	u.rc.SetReadDeadline(now.Add(u.limits.BodyTime))
	u.rc.SetWriteDeadline(now.Add(u.limits.BodyTime + 2*u.limits.WriteTime))
	return u.body.Read(p)
}

// writer moves the write deadline on while the client takes the answer, however long that is; an event stream may
// pause for as long as it likes.
type writer struct {
	http.ResponseWriter
	time   time.Duration
	always bool      // the server sets no deadline of its own
	set    time.Time // when the deadline was last moved
	events bool
}

func (w *writer) start(to http.ResponseWriter, d time.Duration, always bool) {
	*w = writer{ResponseWriter: to, time: d, always: always}
	if !always {
		w.set = time.Now() // by http.Server.WriteTimeout
	}
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) extend() {
	if now := time.Now(); w.events || now.Sub(w.set) > w.time/8 {
		w.set = now
		http.NewResponseController(w.ResponseWriter).SetWriteDeadline(now.Add(w.time))
	}
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if ct := w.Header()["Content-Type"]; len(ct) == 1 && strings.HasPrefix(ct[0], "text/event-stream") {
		w.events = true
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	w.extend()
	return w.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController looks for.
func (w *writer) FlushError() error {
	rc := http.NewResponseController(w.ResponseWriter)
	w.extend()
	err := rc.Flush()
	if w.events {
		rc.SetWriteDeadline(time.Time{})
	}
	return err
}

// buffers implements httputil.BufferPool.
type buffers struct{ pool sync.Pool }

const bufferSize = 16 << 10

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return new([bufferSize]byte)[:]
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) {
	if len(p) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(p))
	}
}
