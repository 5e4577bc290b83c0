package publish_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	tessera "github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/publish/publishtest"
)

// sharedLog is the log of a project, served, which also takes what one other publisher signs.
func sharedLog(t *testing.T, p *publishtest.Publisher, others ...*publishtest.Publisher) (*httptest.Server, *publish.LogServer) {
	t.Helper()
	o := publish.LogOptions{Repo: p.Dir(), Keys: p.Options().Log, Witnesses: p.Options().Witnesses}
	for _, q := range others {
		o.Roots = append(o.Roots, q.Root())
	}
	s, err := publish.NewLogServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv, s
}

// judge has Tessera's own program check all of a log, as anybody finds it.
func judge(t *testing.T, srv *httptest.Server, key string) {
	t.Helper()
	at, err := url.Parse(srv.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := tessera.NewHTTPFetcher(at, srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	hashes := func(b []byte) (list [][]byte, err error) {
		var bundle api.EntryBundle
		err = bundle.UnmarshalText(b)
		for _, e := range bundle.Entries {
			list = append(list, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return list, err
	}
	if err := fsck.New(v.Name(), v, f, hashes, fsck.Opts{}).Check(t.Context()); err != nil {
		t.Errorf("tessera's fsck: %v", err)
	}
}

func post(t *testing.T, srv *httptest.Server, b []byte) (int, string) {
	t.Helper()
	resp, err := srv.Client().Post(srv.URL+"/add", "application/octet-stream", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestSharedLog has a second publisher add to a project's log, which goes on publishing.
func TestSharedLog(t *testing.T) {
	t.Parallel()
	p, q := publishtest.New(t, publishtest.Options{}), publishtest.New(t, publishtest.Options{Beta: [2]int{1, 1}})
	stranger := publishtest.New(t, publishtest.Options{})
	setup, err := publish.SetupOf(p.Dir())
	if err != nil {
		t.Fatal(err)
	}
	srv, _ := sharedLog(t, p, q)
	judge(t, srv, setup.Log.LogKey())
	file := func(p *publishtest.Publisher, name string) []byte {
		b, err := os.ReadFile(filepath.Join(p.Dir(), "metadata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	root, targets, beta := file(q, "1.root.json"), file(q, "1.targets.json"), file(q, "1.beta.json")
	step := func(what string, b []byte, want int) {
		t.Helper()
		if got, text := post(t, srv, b); got != want {
			t.Errorf("%s: %d %s, want %d", what, got, text, want)
		} else if _, _, err := setup.Log.Verify(b, []byte(text)); (err == nil) != (want == http.StatusOK) {
			t.Errorf("%s: %v", what, err)
		}
	}
	step("targets before the root", targets, 403)
	step("the root", root, 200)
	step("the root again", root, 200)
	step("beta before targets", beta, 403)
	step("targets", targets, 200)
	step("targets in another form", append(bytes.Clone(targets), '\n'), 409)
	step("beta", beta, 200)
	step("the project's own", file(p, "1.targets.json"), 200)
	step("a stranger's root", file(stranger, "1.root.json"), 403)
	step("a stranger's targets", file(stranger, "1.targets.json"), 403)
	step("a timestamp", file(q, "timestamp.json"), 403)
	step("a changed one", bytes.Replace(targets, []byte(`"version":1`), []byte(`"version":2`), 1), 403)
	step("nothing", nil, 403)
	step("no JSON", []byte("{"), 403)
	step("too long", bytes.Repeat([]byte(" "), 1<<16), 413)
	judge(t, srv, setup.Log.LogKey())

	// Each of the two goes on. A log that is opened anew knows what it has taken.
	p.AddRelease("pc", 1, "v1.0.0", part(1000, 1), part(9000, 1))
	step("what the project itself has added since, in another form", append(file(p, "2.targets.json"), ' '), 409)
	q.Rotate()
	srv, _ = sharedLog(t, p, q)
	step("beta of before the restart, in another form", append(bytes.Clone(beta), ' '), 409)
	if _, err := os.Stat(filepath.Join(q.Dir(), "metadata/3.root.json")); err == nil {
		t.Fatal("one root too many")
	}
	proof, err := publish.AddToLog(t.Context(), srv.Client(), srv.URL, setup.Log, file(q, "2.root.json"))
	if err != nil || len(proof) == 0 {
		t.Errorf("the next root: %v", err)
	}
	if _, err := publish.AddToLog(t.Context(), srv.Client(), srv.URL, setup.Log, []byte("x")); err == nil {
		t.Error("anything")
	}
	judge(t, srv, setup.Log.LogKey())
	if _, err := publish.Verify(t.Context(), publish.Folder(p.Dir()), publish.VerifyOptions{Fingerprint: p.Fingerprint(), Deep: true, Now: time.Now()}); err != nil {
		t.Errorf("the project's own repository: %v", err)
	}
	entries, _, err := publish.ReadLog(filepath.Join(p.Dir(), "log"), setup.Log)
	if err != nil || len(entries) != 7 {
		t.Errorf("%+v, %v", entries, err)
	}

	// While the project publishes, others wait. What is there is proved all the same: anybody can ask for that, at no cost to others.
	q.AddRelease("pc", 1, "v1.0.0", part(1000, 2), part(9000, 2))
	next := file(q, "2.targets.json")
	dir, err := os.Open(p.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	step("while the project publishes", next, 503)
	step("what is there, then", root, 200)
	dir.Close()
	for i := range 3 {
		p.StopWitness(i)
	}
	step("without witnesses", next, 503)
	step("what is there, without them", root, 200)
	for i := range 3 {
		p.StartWitness(i)
	}
	step("with them", next, 200)
}

// TestServedFiles asks for what a log serves, and for what it must not.
func TestServedFiles(t *testing.T) {
	t.Parallel()
	p := publishtest.New(t, publishtest.Options{})
	q := publishtest.New(t, publishtest.Options{})
	srv, _ := sharedLog(t, p, q)
	readOnly, err := publish.NewLogServer(publish.LogOptions{Repo: p.Dir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(p.Dir(), "metadata/timestamp.json"), filepath.Join(p.Dir(), "log/tile/0/001")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		method, path string
		status       int
		cache        string
	}{
		{"GET", "/checkpoint", 200, "no-cache"},
		{"HEAD", "/checkpoint", 200, "no-cache"},
		{"GET", "/tile/0/000.p/2", 200, "immutable"},
		{"GET", "/tile/entries/000.p/2", 200, "immutable"},
		{"GET", "/tile/0/000", 404, ""},
		{"GET", "/tile/0/001", 404, ""}, // leads out of the log
		{"POST", "/checkpoint", 405, ""},
		{"DELETE", "/tile/0/000.p/2", 405, ""},
		{"GET", "/add", 405, ""},
		{"GET", "/", 404, ""},
		{"GET", "/tile/", 404, ""},
		{"GET", "/.state/treeState", 404, ""},
		{"GET", "/tile/0/../../../croft-repository", 404, ""},
		{"GET", "/tile/0/%2e%2e/checkpoint", 404, ""},
	} {
		req := httptest.NewRequest(tc.method, "http://log/", nil)
		if req.URL, err = url.Parse(srv.URL + tc.path); err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		srv.Config.Handler.ServeHTTP(rec, req)
		if rec.Code != tc.status || !strings.Contains(rec.Header().Get("Cache-Control"), tc.cache) {
			t.Errorf("%s %s: %d, %v", tc.method, tc.path, rec.Code, rec.Header())
		}
		if strings.HasSuffix(tc.path, "add") {
			continue
		}
		again := httptest.NewRecorder()
		if readOnly.ServeHTTP(again, req); again.Code != rec.Code {
			t.Errorf("%s %s without a key: %d", tc.method, tc.path, again.Code)
		}
	}
	rec := httptest.NewRecorder()
	readOnly.ServeHTTP(rec, httptest.NewRequest("POST", "http://log/add", bytes.NewReader(p.Root())))
	if rec.Code != 404 {
		t.Errorf("adding without the log's key: %d", rec.Code)
	}
	// Entries are limited. What is there already is not, or whoever reads it there could keep others from adding.
	dir, err := os.Open(p.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil { // they are tried, and fail
		t.Fatal(err)
	}
	for range 40 {
		if status, text := post(t, srv, p.Root()); status != http.StatusOK {
			t.Fatalf("what is there: %d %s", status, text)
		}
	}
	answers := map[int]int{}
	for range 40 {
		status, _ := post(t, srv, q.Root())
		answers[status]++
	}
	if answers[http.StatusServiceUnavailable] == 0 || answers[http.StatusTooManyRequests] == 0 {
		t.Errorf("entries without end: %v", answers)
	}
}

// FuzzAdd sends anything to a log: nothing of it is taken but what is there already.
func FuzzAdd(f *testing.F) {
	p := publishtest.New(f, publishtest.Options{})
	s, err := publish.NewLogServer(publish.LogOptions{Repo: p.Dir(), Keys: p.Options().Log})
	if err != nil {
		f.Fatal(err)
	}
	known := map[string]bool{}
	for _, name := range []string{"1.root.json", "1.targets.json", "timestamp.json"} {
		b, err := os.ReadFile(filepath.Join(p.Dir(), "metadata", name))
		if err != nil {
			f.Fatal(err)
		}
		known[string(b)] = true
		f.Add(b)
		f.Add(bytes.ToUpper(b))
		f.Add(append(b, b...))
	}
	for _, x := range []string{"", "{}", `{"signatures":[],"signed":{"_type":"targets","version":1}}`, base64.StdEncoding.EncodeToString(p.Root())} {
		f.Add([]byte(x))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if file, err := publish.Whose(s, b); err == nil && !known[string(b)] {
			t.Errorf("%s: %q", file, b)
		} else if err != nil && !errors.Is(err, publish.ErrStranger) && !errors.Is(err, publish.ErrTwice) {
			t.Error(err)
		}
	})
}
