package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	boxTimeout = 30 * time.Second
	maxAnswer  = 16 << 20 // bytes
	maxToken   = 4 << 10  // bytes of the token's file
)

// box is a Croft, as its HTTP API shows it to the holder of a token (docs/api.md).
type box struct {
	stdio
	ask    *asker
	base   *url.URL
	client *http.Client
	token  string
	asJSON bool
}

// refusedError is the box's own word.
type refusedError struct{ api.Problem }

func (e *refusedError) Error() string {
	s := e.Title
	if e.Detail != "" && len(e.Fields) == 0 {
		s += " " + e.Detail
	}
	for _, f := range e.Fields {
		s += fmt.Sprintf("\n  %s: %s", f.Path, f.Text)
	}
	return clean(s)
}

// errNo is that the person, or the box, said no; what is to be said was said.
var errNo = errors.New("no")

// boxFlags is what all of these commands understand.
const boxFlags = `

The box is --box or CROFT_BOX. The token is CROFT_TOKEN, or in croft/token in your configuration folder (~/.config); make one on
the box's page about you. Exit codes: 0 done, 1 the box can't be reached or has failed, 2 wrong arguments, 3 refused, 4 (status)
something needs you.`

// boxCommand makes a command that talks to a box. set adds its flags and returns what it does.
func boxCommand(name, intro string, least, most int, set func(*flag.FlagSet) func(context.Context, *box, []string) error) func(context.Context, []string, stdio) int {
	return func(ctx context.Context, args []string, io stdio) int {
		fl := flags(io, name, intro+boxFlags)
		at := fl.String("box", "", "`address` of the box, such as https://croft.local, or its name")
		ca := fl.String("ca", os.Getenv("CROFT_CA"), "`file` with the certificate of the box's authority, from https://NAME.local/croft-ca.pem (or CROFT_CA)")
		fingerprint := fl.String("fingerprint", os.Getenv("CROFT_FINGERPRINT"), "SHA-256 `fingerprint` of that certificate, as the box's screen shows it (or CROFT_FINGERPRINT)")
		insecure := fl.Bool("insecure", false, "send the token even where others on the network can read it")
		b := &box{stdio: io, ask: newAsker(io)}
		fl.BoolVar(&b.asJSON, "json", false, "print the box's own answers")
		do := set(fl)
		rest, code, ok := parse(fl, args, least, most)
		if !ok {
			return code
		}
		err := b.connect(ctx, cmp.Or(*at, os.Getenv("CROFT_BOX"), "croft"), *ca, *fingerprint, *insecure)
		if err == nil {
			err = do(ctx, b, rest)
		}
		return b.exit(ctx, err)
	}
}

// exit says what went wrong, and returns the exit code.
func (b *box) exit(ctx context.Context, err error) int {
	var refused *refusedError
	var usage usageError
	var unknown x509.UnknownAuthorityError
	var unproven *tls.CertificateVerificationError
	var unsent *url.Error
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNeedsYou):
		return exitNeedsYou
	case errors.Is(err, errNo):
		return exitNo
	case ctx.Err() != nil:
		return exitAbort
	case errors.As(err, &usage):
		fmt.Fprintln(b.err, err)
		return exitUsage
	case errors.As(err, &refused):
		fmt.Fprintln(b.err, err)
		if refused.Status < 500 {
			return exitNo
		}
	case errors.As(err, &unknown):
		fmt.Fprintf(b.err, "%s shows a certificate of an authority that this computer does not know. Each box has its own: fetch it from "+
			"%s/croft-ca.pem, compare its fingerprint with the one on the box's screen, and name it with --ca; or give that fingerprint "+
			"with --fingerprint.\n", b.base.Host, b.base)
	case errors.As(err, &unproven):
		fmt.Fprintf(b.err, "%s does not prove that it is your box, so it did not get your token. (%v)\n", b.base.Host, unproven.Err)
	case errors.As(err, &unsent):
		fmt.Fprintf(b.err, "Can't reach the box at %s. Check that it has power and that this computer is on the same network; \"croft find\" "+
			"lists the boxes there. (%v)\n", b.base, unsent.Err)
	default:
		fmt.Fprintln(b.err, err)
	}
	return exitFailed
}

// usageError is that arguments make no sense.
type usageError string

func (e usageError) Error() string { return string(e) }

// connect checks where the token may go, and gets it.
func (b *box) connect(ctx context.Context, at, ca, fingerprint string, insecure bool) error {
	if !strings.Contains(at, "://") {
		if !strings.ContainsAny(at, ".:") {
			at += ".local"
		}
		at = "https://" + at
	}
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return usageError(fmt.Sprintf("%q is not the address of a box, such as https://croft.local.", at))
	}
	b.base = &url.URL{Scheme: u.Scheme, Host: u.Host}
	host := u.Hostname()
	ip := net.ParseIP(host)
	if u.Scheme == "http" && host != "localhost" && (ip == nil || !ip.IsLoopback()) && !insecure {
		return usageError(fmt.Sprintf("Over http, everybody on the network could read your token. Use https://%s, or --insecure if you accept that.", u.Host))
	}
	if b.token, err = readToken(); err != nil {
		return err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	b.client = &http.Client{
		Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, ResponseHeaderTimeout: boxTimeout, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext},
		// Whoever sends us elsewhere must not get the token there.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	switch {
	case ca != "":
		text, err := os.ReadFile(ca)
		if err != nil {
			return usageError(err.Error())
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(text) {
			return usageError(ca + " holds no certificate in PEM.")
		}
	case fingerprint != "":
		cert, err := fetchCA(ctx, b.base, fingerprint)
		if err != nil {
			return err
		}
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AddCert(cert)
	}
	return nil
}

// fetchCA gets the certificate of the box's authority from the box. It need not be trusted for that: the fingerprint decides.
func fetchCA(ctx context.Context, base *url.URL, fingerprint string) (*x509.Certificate, error) {
	want := strings.ToLower(strings.NewReplacer(":", "", " ", "", "-", "").Replace(fingerprint))
	if len(want) != 2*sha256.Size {
		return nil, usageError("A SHA-256 fingerprint has 64 digits 0-9 and a-f.")
	}
	ctx, cancel := context.WithTimeout(ctx, boxTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("/croft-ca.pem").String(), nil)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s gave no certificate of its authority (%s)", base, resp.Status)
	}
	if sum := sha256.Sum256(block.Bytes); hex.EncodeToString(sum[:]) != want {
		return nil, fmt.Errorf("%s is not the box that you mean, or somebody is in between: the fingerprint of its authority is %x", base, sum)
	}
	return x509.ParseCertificate(block.Bytes)
}

// readToken finds the token. It is never an argument, which everybody on this computer could see.
func readToken() (string, error) {
	if t := strings.TrimSpace(os.Getenv("CROFT_TOKEN")); t != "" {
		return checkToken(t, "CROFT_TOKEN")
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usageError("There is no token: set CROFT_TOKEN.")
	}
	path := filepath.Join(dir, "croft", "token")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", usageError("There is no token. Make one on the box's page about you, and put it into " + path + " or CROFT_TOKEN.")
	} else if err != nil {
		return "", usageError(err.Error())
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm()&0o077 != 0 {
		return "", usageError(fmt.Sprintf("Others on this computer may read %s. Close it first: chmod 600 %s", path, path))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", err
	}
	return checkToken(strings.TrimSpace(string(text)), path)
}

func checkToken(t, from string) (string, error) {
	if !strings.HasPrefix(t, "croft_") || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", usageError("What is in " + from + " is no token: they begin with croft_.")
	}
	return t, nil
}

// do sends one request and returns the answer with its headers; a refusal is a *refusedError. The caller closes the body.
func (b *box) do(ctx context.Context, method, path string, query url.Values, body any, header http.Header) (*http.Response, error) {
	var r io.Reader
	if raw, ok := body.([]byte); ok {
		r = bytes.NewReader(raw)
	} else if body != nil {
		js, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(js)
	}
	u := b.base.JoinPath("/api/v1", path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+b.token)
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	var p api.Problem
	if json.Unmarshal(text, &p) != nil || p.Title == "" {
		return nil, fmt.Errorf("%s does not answer as a Croft does (%s)", b.base, resp.Status)
	}
	p.Status = resp.StatusCode
	if p.Status == http.StatusUnauthorized {
		p.Title, p.Detail = "The box does not know this token.", "It may have expired. Make a new one on the box's page about you."
	}
	return nil, &refusedError{p}
}

// call sends one request and takes the answer apart into to, if that is not nil. With --json the answer is printed instead, and
// printed is true.
func (b *box) call(ctx context.Context, method, path string, query url.Values, body, to any, header http.Header) (got http.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, boxTimeout)
	defer cancel()
	resp, err := b.do(ctx, method, path, query, body, header)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	switch raw, ok := to.(*[]byte); {
	case to == nil:
	case ok:
		*raw = text
	default:
		if err := json.Unmarshal(text, to); err != nil {
			return nil, fmt.Errorf("%s answers what this program does not understand: %w", b.base, err)
		}
	}
	return resp.Header, nil
}

// show gets something and prints it: raw with --json, else by human.
func show[T any](ctx context.Context, b *box, method, path string, query url.Values, body any, human func(T) error) error {
	var raw []byte
	if _, err := b.call(ctx, method, path, query, body, &raw, nil); err != nil {
		return err
	}
	if b.asJSON {
		return b.print(raw)
	}
	var v T
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("%s answers what this program does not understand: %w", b.base, err)
		}
	}
	return human(v)
}

// print writes an answer as it came, on lines of its own.
func (b *box) print(raw []byte) error {
	if raw = bytes.TrimSpace(raw); len(raw) > 0 {
		fmt.Fprintf(b.out, "%s\n", raw)
	}
	return nil
}

// clean drops what could disturb a terminal, but for line ends.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return -1
		}
		return r
	}, s)
}
