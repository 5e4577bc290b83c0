package witness

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const origin = "example.org/log"

// testLog is a log in memory, which can be made to lie.
type testLog struct {
	t      testing.TB
	signer note.Signer
	vkey   string
	hashes []tlog.Hash
	n      int64
}

func newLog(t testing.TB, name string) *testLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return &testLog{t: t, signer: s, vkey: vkey}
}

func (l *testLog) reader() tlog.HashReaderFunc {
	return func(at []int64) ([]tlog.Hash, error) {
		var list []tlog.Hash
		for _, i := range at {
			list = append(list, l.hashes[i])
		}
		return list, nil
	}
}

func (l *testLog) grow(entries ...string) {
	l.t.Helper()
	for _, e := range entries {
		h, err := tlog.StoredHashes(l.n, []byte(e), l.reader())
		if err != nil {
			l.t.Fatal(err)
		}
		l.hashes = append(l.hashes, h...)
		l.n++
	}
}

func (l *testLog) clone() *testLog {
	c := *l
	c.hashes = append([]tlog.Hash(nil), l.hashes...)
	return &c
}

func (l *testLog) text(n int64) string {
	h := emptyHash
	if n > 0 {
		var err error
		if h, err = tlog.TreeHash(n, l.reader()); err != nil {
			l.t.Fatal(err)
		}
	}
	return fmt.Sprintf("%s\n%d\n%s\n", l.signer.Name(), n, base64.StdEncoding.EncodeToString(h[:]))
}

func (l *testLog) sign(text string) string {
	b, err := note.Sign(&note.Note{Text: text}, l.signer)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(b)
}

// request is the body for the tree of n entries, for a witness that has seen one of old.
func (l *testLog) request(old, n int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", old)
	if old > 0 && old < n {
		p, err := tlog.ProveTree(n, old, l.reader())
		if err != nil {
			l.t.Fatal(err)
		}
		for _, h := range p {
			fmt.Fprintln(&b, h)
		}
	}
	return b.String() + "\n" + l.sign(l.text(n))
}

type clock struct {
	now  time.Time
	sure bool
}

func (c *clock) Clock() (time.Time, bool) { return c.now, c.sure }

func newWitness(t testing.TB, dir string, c *clock, logs ...*testLog) *Witness {
	t.Helper()
	conf := Config{Name: "w.example", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), Dir: dir, Clock: c.Clock}
	for _, l := range logs {
		conf.Logs = append(conf.Logs, l.vkey)
	}
	w, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func post(w *Witness, body string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/add-checkpoint", strings.NewReader(body)))
	return rec
}

// cosigned checks an answer with somebody else's verifier, and returns the time in it.
func cosigned(t *testing.T, w *Witness, checkpoint string, rec *httptest.ResponseRecorder) time.Time {
	t.Helper()
	if rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	v, err := fnote.NewVerifierForCosignatureV1(w.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(checkpoint+rec.Body.String()), note.VerifierList(v))
	if err != nil {
		t.Fatalf("%s: %v", rec.Body, err)
	}
	at, err := fnote.CoSigV1Timestamp(n.Sigs[0])
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestAddCheckpoint goes through the answers of C2SP tlog-witness.
func TestAddCheckpoint(t *testing.T) {
	l, other, stranger := newLog(t, origin), newLog(t, "example.org/other"), newLog(t, origin)
	l.grow("a", "b", "c")
	stranger.hashes, stranger.n = l.hashes, l.n
	liar := l.clone()
	l.grow("d", "e", "f", "g")
	liar.grow("D", "E", "F", "G")
	forged := newLog(t, origin)
	forged.signer = wrongSig{l.signer}
	forged.hashes, forged.n = l.hashes, l.n
	zero := "old 0\n\n" + l.sign(fmt.Sprintf("%s\n0\n%s\n", origin, base64.StdEncoding.EncodeToString(make([]byte, 32))))
	swap := func(s, from, to string) string {
		if !strings.Contains(s, from) {
			t.Fatalf("%q is not in %q", from, s)
		}
		return strings.Replace(s, from, to, 1)
	}
	dir := t.TempDir()
	c := &clock{time.Unix(1790000000, 0), true}
	w := newWitness(t, dir, c, l)
	for _, tc := range []struct {
		name, body string
		status     int
		size       string // in a 409
	}{
		{"another log", other.request(0, 0), 404, ""},
		{"a key that nobody named", stranger.request(0, 3), 403, ""},
		{"a wrong signature", forged.request(0, 3), 403, ""},
		{"an empty tree with another hash", zero, 422, ""},
		{"the first tree with a proof", swap(l.request(0, 3), "old 0\n", "old 0\n"+base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n"), 422, ""},
		{"the first tree", l.request(0, 3), 200, ""},
		{"the same again", l.request(3, 3), 200, ""},
		{"the same with an old size of before", l.request(0, 3), 409, "3"},
		{"the next, of a wrong size", l.request(2, 5), 409, "3"},
		{"the next, without a proof", swap(l.request(3, 5), strings.Split(l.request(3, 5), "\n")[1]+"\n", ""), 422, ""},
		{"the next, with another's proof", swap(liar.request(3, 5), strings.SplitN(liar.request(3, 5), "\n\n", 2)[1], l.sign(l.text(5))), 422, ""},
		{"the next", l.request(3, 5), 200, ""},
		{"a smaller one", l.request(5, 4), 400, ""},
		{"a smaller one, as if nothing was", l.request(0, 4), 409, "5"},
		{"another tree of that size", liar.request(5, 5), 409, ""},
		{"another tree of that size, from before", liar.request(3, 5), 409, "5"},
		{"a larger tree that does not follow", liar.request(5, 7), 422, ""},
		{"a proof that is not needed", "old 5\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n\n" + l.sign(l.text(5)), 422, ""},
		{"an empty tree", l.request(0, 0), 409, "5"},
		{"an empty tree that is not one", zero, 409, "5"},
		{"a larger one", l.request(5, 7), 200, ""},
		{"nothing", "", 400, ""},
		{"no empty line", "old 7\n", 400, ""},
		{"no old size", swap(l.request(7, 7), "old 7\n", "\n"), 400, ""},
		{"a leading zero", swap(l.request(7, 7), "old 7", "old 07"), 400, ""},
		{"a sign", swap(l.request(7, 7), "old 7", "old +7"), 400, ""},
		{"a negative size", swap(l.request(7, 7), "old 7", "old -7"), 400, ""},
		{"too large a number", swap(l.request(7, 7), "old 7", "old 9223372036854775808"), 400, ""},
		{"a short hash", "old 7\nAAAA\n\n" + l.sign(l.text(7)), 400, ""},
		{"64 hashes", "old 7\n" + strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 64) + "\n" + l.sign(l.text(7)), 400, ""},
		{"no checkpoint", "old 7\n\n", 400, ""},
		{"a checkpoint of two lines", "old 7\n\n" + l.sign(origin+"\n7\n"), 400, ""},
		{"a size with a leading zero", "old 7\n\n" + l.sign(strings.Replace(l.text(7), "\n7\n", "\n07\n", 1)), 400, ""},
		{"no note", "old 7\n\n" + l.text(7), 400, ""},
		{"too long", "old 7\n\n" + l.sign(l.text(7)+strings.Repeat("x", MaxRequest)+"\n"), 400, ""},
		{"an extension line", "old 7\n\n" + l.sign(l.text(7)+"more\n"), 200, ""},
		{"with the witness's own line, too", l.request(7, 7) + "— w.example AAAAAAAA\n", 200, ""},
	} {
		rec := post(w, tc.body)
		if rec.Code != tc.status {
			t.Fatalf("%s: %d %s, want %d", tc.name, rec.Code, rec.Body, tc.status)
		}
		if tc.size != "" {
			if rec.Header().Get("Content-Type") != "text/x.tlog.size" || rec.Body.String() != tc.size+"\n" {
				t.Errorf("%s: %s %q", tc.name, rec.Header().Get("Content-Type"), rec.Body)
			}
		} else if rec.Header().Get("Content-Type") == "text/x.tlog.size" {
			t.Errorf("%s: tells a size", tc.name)
		}
		if rec.Code == 200 {
			_, checkpoint, _ := strings.Cut(tc.body, "\n\n")
			checkpoint = strings.ReplaceAll(checkpoint, "— w.example AAAAAAAA\n", "")
			if at := cosigned(t, w, checkpoint, rec); !at.Equal(c.now) {
				t.Errorf("%s: cosigned at %v", tc.name, at)
			}
		}
	}

	// What the log signed against itself was kept, and nothing of it was cosigned.
	kept, err := filepath.Glob(filepath.Join(dir, "*.evidence", "*"))
	if s := w.Logs(); err != nil || len(kept) != 1 || s[0].Evidence != 1 || s[0].Size != 7 {
		t.Fatalf("%q, %v, %+v", kept, err, s)
	}
	text, err := os.ReadFile(kept[0])
	if err != nil || !strings.Contains(string(text), l.sign(l.text(5))) || !strings.Contains(string(text), liar.sign(liar.text(5))) {
		t.Errorf("%s, %v", text, err)
	}
}

// wrongSig signs something else.
type wrongSig struct{ note.Signer }

func (s wrongSig) Sign(msg []byte) ([]byte, error) { return s.Signer.Sign(append(msg, 'x')) }

// TestMemory restarts the witness after each step: it has to know what it signed.
func TestMemory(t *testing.T) {
	l := newLog(t, origin)
	dir := t.TempDir()
	c := &clock{time.Unix(1790000000, 0), true}
	step := func(old, n int64, want int) {
		t.Helper()
		w := newWitness(t, dir, c, l)
		defer w.Close()
		if rec := post(w, l.request(old, n)); rec.Code != want {
			t.Errorf("%d to %d: %d %s, want %d", old, n, rec.Code, rec.Body, want)
		}
	}
	step(0, 0, 200)
	l.grow("a", "b")
	step(0, 2, 200)
	l.grow("c")
	step(0, 3, 409)
	step(2, 3, 200)
	step(2, 3, 409)
	step(3, 3, 200)

	// A write that was cut off leaves a file beside the memory, which means nothing.
	sum := sha256.Sum256([]byte(origin))
	file := filepath.Join(dir, fmt.Sprintf("%x", sum))
	if err := os.WriteFile(file+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	step(3, 3, 200)

	// A memory that was changed is no memory.
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"size":   strings.Replace(string(good), "\n3\n", "\n2\n", 1),
		"empty":  "",
		"origin": strings.Replace(string(good), origin, "example.org/lag", 1),
		"cut":    string(good[:len(good)-9]),
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := New(Config{Name: "w", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), Dir: dir, Logs: []string{l.vkey}}); err == nil {
			w.Close()
			t.Errorf("%s: it goes on", name)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}

	// A log's new key goes on with the same tree.
	renewed := newLog(t, origin)
	renewed.hashes, renewed.n = l.hashes, l.n
	renewed.grow("d")
	w := newWitness(t, dir, c, renewed)
	if rec := post(w, renewed.request(3, 4)); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}

	// What has ended signs nothing, even if it is still asked.
	w.Close()
	if rec := post(w, renewed.request(4, 4)); rec.Code != 503 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	newWitness(t, dir, c, renewed)

	// Two at once would each believe that they are alone.
	if w, err := New(Config{Name: "w", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), Dir: dir, Logs: []string{l.vkey}}); err == nil {
		w.Close()
		t.Error("two witnesses share a memory")
	}
}

// TestFullDisk makes sure that what can't be remembered is not signed.
func TestFullDisk(t *testing.T) {
	l := newLog(t, origin)
	l.grow("a")
	dir := t.TempDir()
	w := newWitness(t, dir, &clock{time.Unix(1790000000, 0), true}, l)
	sum := sha256.Sum256([]byte(origin))
	block := filepath.Join(dir, fmt.Sprintf("%x.new", sum))
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	if rec := post(w, l.request(0, 1)); rec.Code != 500 || strings.Contains(rec.Body.String(), dir) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if s := w.Logs(); len(s) != 1 || s[0].Err == nil || s[0].Size != 0 || !s[0].At.IsZero() {
		t.Errorf("%+v", s)
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	if rec := post(w, l.request(0, 1)); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if s := w.Logs(); s[0].Err != nil || s[0].Size != 1 || !s[0].At.Equal(time.Unix(1790000000, 0)) {
		t.Errorf("%+v", s)
	}
}

func TestClock(t *testing.T) {
	l := newLog(t, origin)
	l.grow("a")
	c := &clock{time.Unix(1790000000, 0), false}
	w := newWitness(t, t.TempDir(), c, l)
	if rec := post(w, l.request(0, 1)); rec.Code != 503 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	c.sure = true
	if rec := post(w, l.request(0, 1)); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// TestRace asks for many trees at once: of each pair that were cosigned one follows the other, because each was signed on its own state.
func TestRace(t *testing.T) {
	l := newLog(t, origin)
	for i := range 40 {
		l.grow(fmt.Sprint(i))
	}
	w := newWitness(t, t.TempDir(), &clock{time.Unix(1790000000, 0), true}, l)
	var mu sync.Mutex
	codes := map[int]int{}
	var wg sync.WaitGroup
	for i := range int64(40) {
		body := l.request(0, i+1)
		wg.Go(func() {
			rec := post(w, body)
			mu.Lock()
			codes[rec.Code]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if codes[200] != 1 || codes[200]+codes[409]+codes[429] != 40 {
		t.Errorf("%v: from the empty tree on only one can be the next", codes)
	}
}

// TestRate makes sure that a log can't wear the disk out, and that others don't suffer.
func TestRate(t *testing.T) {
	l, other := newLog(t, origin), newLog(t, "example.org/other")
	other.grow("a")
	c := &clock{time.Unix(1790000000, 0), true}
	w := newWitness(t, t.TempDir(), c, l, other)
	n := int64(0)
	for ; n <= burst; n++ {
		l.grow("x")
		if rec := post(w, l.request(n, n+1)); rec.Code == 429 {
			break
		} else if rec.Code != 200 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
	}
	if n != burst {
		t.Errorf("%d trees at once", n)
	}
	if rec := post(w, l.request(n, n)); rec.Code != 200 {
		t.Errorf("what needs no write: %d %s", rec.Code, rec.Body)
	}
	if rec := post(w, other.request(0, 1)); rec.Code != 200 {
		t.Errorf("another log: %d %s", rec.Code, rec.Body)
	}
	c.now = c.now.Add(time.Second)
	if rec := post(w, l.request(n, n+1)); rec.Code != 200 {
		t.Errorf("a second later: %d %s", rec.Code, rec.Body)
	}
}

// TestServe runs a witness behind a listener.
func TestServe(t *testing.T) {
	l := newLog(t, origin)
	l.grow("a")
	w := newWitness(t, t.TempDir(), &clock{time.Unix(1790000000, 0), true}, l)
	s := httptest.NewServer(w)
	defer s.Close()
	for _, tc := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/add-checkpoint", l.request(0, 1), 200, "— w.example "},
		{"GET", "/", "", 200, w.VerifierKey()},
		{"GET", "/add-checkpoint", "", 405, ""},
		{"PUT", "/", "", 404, ""},
		{"GET", "/etc/passwd", "", 404, ""},
	} {
		req, err := http.NewRequest(tc.method, s.URL+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tc.status || !strings.HasPrefix(string(text), tc.want) {
			t.Errorf("%s %s: %d %s, %v", tc.method, tc.path, resp.StatusCode, text, err)
		}
	}
}

func TestLoadKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	one, err := LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := LoadKey(path)
	if err != nil || !one.Equal(two) {
		t.Errorf("%v", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("AAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path); err == nil {
		t.Error("a damaged key was taken, or replaced")
	}
}

func TestNewRefuses(t *testing.T) {
	l := newLog(t, origin)
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	for name, c := range map[string]Config{
		"no name":     {Key: key, Logs: []string{l.vkey}},
		"a bad name":  {Name: "a b", Key: key, Logs: []string{l.vkey}},
		"no key":      {Name: "w", Logs: []string{l.vkey}},
		"no logs":     {Name: "w", Key: key},
		"a bad log":   {Name: "w", Key: key, Logs: []string{"x+00000000+AAAA"}},
		"a witness's": {Name: "w", Key: key, Logs: []string{(&Witness{name: "w", key: key}).VerifierKey()}},
	} {
		c.Dir = t.TempDir()
		if w, err := New(c); err == nil {
			w.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzRequest gives anything to a witness. It must not fail otherwise than with a refusal, nor sign what its log did not.
func FuzzRequest(f *testing.F) {
	l := newLog(f, origin)
	l.grow("a", "b", "c", "d", "e")
	dir := f.TempDir()
	w := newWitness(f, dir, &clock{time.Unix(1790000000, 0), true}, l)
	if rec := post(w, l.request(0, 3)); rec.Code != 200 {
		f.Fatal(rec.Body)
	}
	good := l.request(3, 5)
	for _, s := range []string{
		good, l.request(3, 3), l.request(0, 3), "", "old 3\n\n", strings.Replace(good, "old 3", "old 9", 1),
		strings.Replace(good, "— ", "—  ", 1), strings.Replace(good, "\n5\n", "\n281474976710657\n", 1), good + good,
	} {
		f.Add([]byte(s))
	}
	signed := map[string]bool{}
	for n := range int64(6) {
		signed[l.text(n)] = true
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		rec := post(w, string(body))
		switch rec.Code {
		case 400, 403, 404, 409, 422, 429:
		case 200:
			_, checkpoint, _ := strings.Cut(string(body), "\n\n")
			text, _, _ := strings.Cut(checkpoint, "\n\n")
			if !signed[text+"\n"] {
				t.Errorf("cosigned %q", text)
			}
		default:
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
}
