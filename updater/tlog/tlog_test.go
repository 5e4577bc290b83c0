package tlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	gotlog "golang.org/x/mod/sumdb/tlog"

	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/tlog/tlogtest"
)

func at(day int) time.Time { return time.Date(2026, 11, day, 12, 0, 0, 0, time.UTC) }

// world is a log with five witnesses, of which three have to agree.
func world(t testing.TB, entries int) (*tlogtest.Log, []*tlogtest.Key, *tlog.Policy) {
	t.Helper()
	l := &tlogtest.Log{Key: tlogtest.NewKey(tlogtest.AlgLog, "example.org/log", "log")}
	for i := range entries {
		l.Add(fmt.Appendf(nil, "entry %d", i))
	}
	var ws []*tlogtest.Key
	var vkeys []string
	for i := range 5 {
		w := tlogtest.NewKey(tlogtest.AlgWitness, fmt.Sprintf("witness%d.example", i), fmt.Sprint("w", i))
		w.At = at(1 + i)
		ws, vkeys = append(ws, w), append(vkeys, w.String())
	}
	p, err := tlog.NewPolicy(l.Key.String(), vkeys, 3)
	if err != nil {
		t.Fatal(err)
	}
	return l, ws, p
}

func TestPolicy(t *testing.T) {
	log := tlogtest.NewKey(tlogtest.AlgLog, "log", "log").String()
	w := func(name, seed string) string { return tlogtest.NewKey(tlogtest.AlgWitness, name, seed).String() }
	a, b := w("a", "a"), w("b", "b")
	many := make([]string, 33)
	for i := range many {
		many[i] = w(fmt.Sprint("w", i), fmt.Sprint("w", i))
	}
	for name, tc := range map[string]struct {
		log       string
		witnesses []string
		quorum    int
		ok        bool
	}{
		"good":                             {log, []string{a, b}, 2, true},
		"one of two":                       {log, []string{a, b}, 1, true},
		"most":                             {log, many[:32], 32, true},
		"too many":                         {log, many, 2, false},
		"quorum 0":                         {log, []string{a, b}, 0, false},
		"quorum below 0":                   {log, []string{a, b}, -1, false},
		"quorum beyond":                    {log, []string{a, b}, 3, false},
		"no witness":                       {log, nil, 1, false},
		"one witness under two names":      {log, []string{a, w("z", "a")}, 1, false},
		"one witness twice":                {log, []string{a, a}, 1, false},
		"the log's own key as a witness":   {log, []string{a, w("z", "log")}, 1, false},
		"a witness's key for the log":      {a, []string{b}, 1, false},
		"the log's kind for a witness":     {log, []string{tlogtest.NewKey(tlogtest.AlgLog, "a", "a").String()}, 1, false},
		"another hash (log)":               {strings.Replace(log, "+", "+0", 1)[:len(log)], []string{a}, 1, false},
		"another hash (witness)":           {log, []string{"a+00000000+" + strings.SplitN(a, "+", 3)[2]}, 1, false},
		"another name":                     {log, []string{strings.Replace(a, "a+", "c+", 1)}, 1, false},
		"cut":                              {log, []string{a[:len(a)-4]}, 1, false},
		"not base64":                       {log, []string{a[:len(a)-1] + "?"}, 1, false},
		"empty":                            {"", []string{a}, 1, false},
		"a name beyond the limit":          {log, []string{w(strings.Repeat("n", 256), "n")}, 1, false},
		"a name with a blank":              {log, []string{w("n n", "n")}, 1, false},
		"a later algorithm (post-quantum)": {log, []string{tlogtest.NewKey(6, "a", "a").String()}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := tlog.NewPolicy(tc.log, tc.witnesses, tc.quorum)
			if (err == nil) != tc.ok || err != nil && !errors.Is(err, tlog.ErrPolicy) {
				t.Fatalf("error %v, want ok %v", err, tc.ok)
			}
			if err != nil {
				return
			}
			text, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			q, err := tlog.ParsePolicy(text)
			if err != nil || q.LogKey() != tc.log || q.Quorum() != tc.quorum || q.Witnesses() != len(tc.witnesses) || q.Origin() != "log" {
				t.Errorf("%s: read back as %+v, %v", text, q, err)
			}
		})
	}
	for _, text := range []string{``, `null`, `[]`, `{}`, `{"log":1}`, `{"log":"x","quorum":1,"witnesses":["y"]}`} {
		if _, err := tlog.ParsePolicy([]byte(text)); !errors.Is(err, tlog.ErrPolicy) {
			t.Errorf("%s: %v", text, err)
		}
	}
	good := fmt.Sprintf(`{"log":%q,"witnesses":[%q],"quorum":1}`, log, a)
	for _, text := range []string{good + "{}", strings.Replace(good, "{", `{"second":2,`, 1)} {
		if _, err := tlog.ParsePolicy([]byte(text)); !errors.Is(err, tlog.ErrPolicy) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestVerify(t *testing.T) {
	l, ws, p := world(t, 700)
	entry := l.Entries[300]
	good := l.Proof(300, 0, ws[:3]...)
	cp, ev, err := p.Verify(entry, good)
	if err != nil || cp.Size != 700 || cp.Hash != l.Hash(700) || ev.Witnesses != 3 || !ev.Seen.Equal(at(1)) {
		t.Fatalf("%+v %+v %v", cp, ev, err)
	}
	if _, ev, err := p.Verify(entry, l.Proof(300, 500, ws...)); err != nil || ev.Witnesses != 5 || !ev.Seen.Equal(at(3)) {
		t.Errorf("five witnesses: %+v, %v; the third latest of the days 1 to 5 is the 3rd", ev, err)
	}
	other := &tlogtest.Log{Key: tlogtest.NewKey(tlogtest.AlgLog, "example.org/log", "another")}
	other.Add(entry)
	renamed := l.Fork(700)
	renamed.Key = tlogtest.NewKey(tlogtest.AlgLog, "example.org/log2", "log")
	alias := tlogtest.NewKey(tlogtest.AlgWitness, "alias.example", "w0")
	epoch, far := *ws[0], *ws[0]
	epoch.At, far.At = time.Unix(0, 0), time.Unix(1<<41, 0)
	h := l.Hash(700)
	origin := tlogtest.Sign(fmt.Sprintf("example.org/other\n700\n%s\n", h), l.Key, ws[0], ws[1], ws[2])
	rp, err := gotlog.ProveRecord(700, 300, l)
	if err != nil {
		t.Fatal(err)
	}
	text := string(good)
	for name, tc := range map[string]struct {
		entry []byte
		proof []byte
		want  error
	}{
		"another entry":               {l.Entries[301], good, tlog.ErrProof},
		"no entry":                    {nil, good, tlog.ErrProof},
		"two witnesses":               {entry, l.Proof(300, 0, ws[:2]...), tlog.ErrWitnesses},
		"no witness":                  {entry, l.Proof(300, 0), tlog.ErrWitnesses},
		"one witness three times":     {entry, l.Proof(300, 0, ws[0], ws[0], ws[0]), tlog.ErrWitnesses},
		"one witness under two names": {entry, l.Proof(300, 0, ws[0], ws[1], alias), tlog.ErrWitnesses},
		"a witness at time 0":         {entry, l.Proof(300, 0, &epoch, ws[1], ws[2]), tlog.ErrWitnesses},
		"a witness beyond all time":   {entry, l.Proof(300, 0, &far, ws[1], ws[2]), tlog.ErrWitnesses},
		"another log's key":           {entry, other.Proof(0, 0, ws...), tlog.ErrProof},
		"another log's name":          {entry, renamed.Proof(300, 0, ws...), tlog.ErrProof},
		"another origin":              {entry, tlog.FormatProof(300, rp, origin), tlog.ErrProof},
		"another index":               {entry, []byte(strings.Replace(text, "index 300", "index 301", 1)), tlog.ErrProof},
		"index beyond the tree":       {entry, []byte(strings.Replace(text, "index 300", "index 700", 1)), tlog.ErrProof},
		"a negative index":            {entry, []byte(strings.Replace(text, "index 300", "index -1", 1)), tlog.ErrProof},
		"leading zero":                {entry, []byte(strings.Replace(text, "index 300", "index 0300", 1)), tlog.ErrProof},
		"no index":                    {entry, []byte(strings.Replace(text, "index 300\n", "", 1)), tlog.ErrProof},
		"another first line":          {entry, []byte(strings.Replace(text, "@v1", "@v2", 1)), tlog.ErrProof},
		"carriage returns":            {entry, []byte(strings.ReplaceAll(text, "\n", "\r\n")), tlog.ErrProof},
		"one hash less":               {entry, []byte(cutLine(text, 2)), tlog.ErrProof},
		"a hash too many":             {entry, tlog.FormatProof(300, append(rp, rp[0]), l.Checkpoint(700, ws...)), tlog.ErrProof},
		"a thousand hashes":           {entry, tlog.FormatProof(300, make(gotlog.RecordProof, 1000), l.Checkpoint(700, ws...)), tlog.ErrProof},
		"no checkpoint":               {entry, []byte(text[:strings.Index(text, "\n\n")+2]), tlog.ErrProof},
		"cut":                         {entry, good[:len(good)/2], tlog.ErrProof},
		"empty":                       {entry, nil, tlog.ErrProof},
		"endless":                     {entry, append(bytes.Clone(good), make([]byte, tlog.MaxProof)...), tlog.ErrProof},
		"checkpoint of a larger tree": {entry, []byte(strings.Replace(text, "\n700\n", "\n701\n", 1)), tlog.ErrProof},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := p.Verify(tc.entry, tc.proof); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
	t.Run("what is not known does not disturb", func(t *testing.T) {
		stranger := tlogtest.NewKey(tlogtest.AlgWitness, "stranger.example", "s")
		b := l.Proof(300, 0, stranger, ws[0], ws[1], ws[2])
		bad := tlogtest.Sign("x\n", ws[4]) // a known name and hash, a signature of something else
		b = append(b, bad[bytes.Index(bad, []byte("\n\n"))+2:]...)
		if _, ev, err := p.Verify(entry, b); err != nil || ev.Witnesses != 3 {
			t.Errorf("%+v, %v", ev, err)
		}
		b = []byte(strings.Replace(string(l.Proof(300, 0, ws[:3]...)), "index", "extra YWJj\nindex", 1))
		if _, _, err := p.Verify(entry, b); err != nil {
			t.Errorf("extra data: %v", err)
		}
	})
}

func cutLine(s string, n int) string {
	line := strings.Split(s, "\n")
	return strings.Join(append(line[:n:n], line[n+1:]...), "\n")
}

func TestConsistent(t *testing.T) {
	l, ws, p := world(t, 1000)
	files := map[string][]byte{}
	l.Tiles(files, "", 1000)
	files["checkpoint"] = l.Checkpoint(1000)
	fork := l.Fork(400)
	for i := range 300 {
		fork.Add(fmt.Appendf(nil, "other %d", i))
	}
	forked := map[string][]byte{}
	fork.Tiles(forked, "", 700)
	cp := func(l *tlogtest.Log, n int64) tlog.Checkpoint {
		c, _, err := p.Checkpoint(l.Checkpoint(n, ws...))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, tc := range map[string]struct {
		kept, seen tlog.Checkpoint
		files      map[string][]byte
		split      bool
		want       error // besides
	}{
		"the same":                           {cp(l, 700), cp(l, 700), nil, false, nil},
		"grown":                              {cp(l, 300), cp(l, 1000), files, false, nil},
		"grown within a tile that is fuller": {cp(l, 300), cp(l, 900), files, false, nil},
		"an older one":                       {cp(l, 1000), cp(l, 300), files, false, nil},
		"from nothing":                       {cp(l, 0), cp(l, 1000), nil, false, nil},
		"same size, another tree":            {cp(l, 700), cp(fork, 700), nil, true, nil},
		"grown, another tree":                {cp(l, 500), cp(fork, 700), forked, true, nil},
		"older, another tree":                {cp(fork, 700), cp(l, 500), forked, true, nil},
		"common beginning":                   {cp(l, 400), cp(fork, 700), forked, false, nil},
		"no tiles":                           {cp(l, 300), cp(l, 1000), map[string][]byte{}, false, tlog.ErrTiles},
		"tiles of another tree":              {cp(l, 300), cp(l, 700), forked, false, tlog.ErrTiles},
	} {
		t.Run(name, func(t *testing.T) {
			var split *tlog.SplitView
			err := tlog.NewLog(fetch(tc.files)).Consistent(t.Context(), tc.kept, tc.seen)
			switch {
			case errors.As(err, &split) != tc.split:
				t.Errorf("%v, want a split view: %v", err, tc.split)
			case tc.split && (split.A.Hash != tc.kept.Hash || split.B.Hash != tc.seen.Hash || len(split.A.Note)*len(split.B.Note) == 0):
				t.Errorf("the evidence is %+v", split)
			case !tc.split && !errors.Is(err, tc.want):
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
	for _, damage := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)-1] },
		func(b []byte) []byte { return nil },
		func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b },
		func(b []byte) []byte { return append(bytes.Clone(b), 0) },
	} {
		bad := map[string][]byte{}
		for k, v := range files {
			bad[k] = damage(v)
		}
		err := tlog.NewLog(fetch(bad)).Consistent(t.Context(), cp(l, 300), cp(l, 1000))
		var split *tlog.SplitView
		if errors.As(err, &split) {
			t.Errorf("damaged tiles make a split view: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tlog.NewLog(func(ctx context.Context, _ string, _ int64) ([]byte, error) { return nil, ctx.Err() }).
		Consistent(ctx, cp(l, 300), cp(l, 1000)); !errors.Is(err, tlog.ErrTiles) {
		t.Errorf("cancelled: %v", err)
	}
}

func fetch(files map[string][]byte) tlog.Fetch {
	return func(_ context.Context, path string, limit int64) ([]byte, error) {
		b, ok := files[path]
		if !ok || int64(len(b)) > limit {
			return nil, fmt.Errorf("no %s", path)
		}
		return b, nil
	}
}

// TestProofSize holds the budget of 4 kB.
func TestProofSize(t *testing.T) {
	l, ws, _ := world(t, 5000)
	if n := len(l.Proof(4000, 0, ws[:3]...)); n > 4000 {
		t.Errorf("a proof in a log of 5,000 entries has %d bytes", n)
	} else {
		t.Logf("%d bytes", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	l, ws, p := world(b, 5000)
	entry, proof := l.Entries[4000], l.Proof(4000, 0, ws[:3]...)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := p.Verify(entry, proof); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	_, _, p := world(f, 1)
	text, _ := json.Marshal(p)
	f.Add(text)
	f.Add([]byte(`{"log":"a+00000000+AA==","witnesses":[],"quorum":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := tlog.ParsePolicy(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tlog.ParsePolicy(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	})
}

func FuzzProof(f *testing.F) {
	l, ws, p := world(f, 20)
	f.Add(l.Proof(7, 0, ws[:3]...))
	f.Add(l.Proof(0, 1, ws[:3]...))
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra AA==\nindex 1\n\nx\n1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = p.Verify(l.Entries[7], b)
		pr, err := tlog.ParseProof(b)
		if err != nil {
			return
		}
		again, err := tlog.ParseProof(tlog.FormatProof(pr.Index, pr.Hashes, pr.Checkpoint))
		if err != nil || again.Index != pr.Index || len(again.Hashes) != len(pr.Hashes) || !bytes.Equal(again.Checkpoint, pr.Checkpoint) {
			t.Errorf("%+v, read back as %+v, %v", pr, again, err)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	l, ws, p := world(f, 20)
	f.Add(l.Checkpoint(20, ws...))
	f.Add(l.Checkpoint(3))
	f.Add(tlogtest.Sign("example.org/log\n99999999999999999999\nAAAA\n", l.Key))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ev, err := p.Checkpoint(b)
		if err == nil && (c.Hash != l.Hash(c.Size) || ev.Witnesses < 3) {
			t.Errorf("%+v %+v", c, ev)
		}
		// The text of a note that the log signs is as free as the log is: sign what came and read it again.
		text, _, _ := strings.Cut(string(b), "\n\n")
		signed, err := note.Sign(&note.Note{Text: text + "\n"}, l.Key.Signer(), ws[0].Signer(), ws[1].Signer(), ws[2].Signer())
		if err != nil {
			return // no text
		}
		if c, _, err := p.Checkpoint(signed); err == nil && (c.Size < 0 || c.Size > tlog.MaxTree || c.Origin != p.Origin()) {
			t.Errorf("%+v", c)
		}
	})
}

// FuzzTiles: whatever a source serves as tiles, it never makes a split view of honest checkpoints.
func FuzzTiles(f *testing.F) {
	l, ws, p := world(f, 300)
	small, _, err := p.Checkpoint(l.Checkpoint(100, ws...))
	if err != nil {
		f.Fatal(err)
	}
	large, _, err := p.Checkpoint(l.Checkpoint(300, ws...))
	if err != nil {
		f.Fatal(err)
	}
	files := map[string][]byte{}
	l.Tiles(files, "", 300)
	names := slices.Sorted(maps.Keys(files))
	for i, name := range names {
		f.Add(uint8(i), files[name])
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		path := names[int(i)%len(names)]
		served := maps.Clone(files)
		served[path], served["checkpoint"] = b, b
		err := tlog.NewLog(fetch(served)).Consistent(t.Context(), small, large)
		if err != nil && !errors.Is(err, tlog.ErrTiles) {
			t.Errorf("%s: %v", path, err)
		}
	})
}
