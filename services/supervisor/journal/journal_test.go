package journal

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func messages(entries []Entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Msg)
	}
	return strings.Join(out, "|")
}

// tail returns the last n entries of a service, oldest first.
func tail(t *testing.T, j *Journal, service string, n int) []Entry {
	t.Helper()
	var all []Entry
	for after := ""; ; {
		p, err := j.Query(t.Context(), Filter{Service: service, Level: slog.LevelDebug - 100}, after, maxPage)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Entries...)
		if after = p.Next; after == "" || len(all) >= n {
			all = all[:min(n, len(all))]
			slices.Reverse(all)
			return all
		}
	}
}

// onDisk returns what a store has of a service, oldest first.
func onDisk(st *store, service string) []Entry {
	var all []Entry
	for _, n := range slices.Backward(st.numbers()) {
		st.read(n, func(lines []byte) bool {
			for line := range bytes.Lines(lines) {
				var e Entry
				if json.Unmarshal(line, &e) == nil && e.Service == service {
					all = append(all, e)
				}
			}
			return true
		})
	}
	return all
}

func TestLines(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []Entry
	}{
		{"plain", "hello\n", []Entry{{Msg: "hello"}}},
		{"unfinished", "a\nb", []Entry{{Msg: "a"}, {Msg: "b"}}},
		{"empty lines", "\n\na\n\n", []Entry{{Msg: "a"}}},
		{"structured", `{"time":"2026-01-02T03:04:05Z","level":"WARN","msg":"m","b":1,"a":"x"}` + "\n", []Entry{
			{Level: slog.LevelWarn, Msg: "m", Fields: json.RawMessage(`{"a":"x","b":1}`)},
		}},
		{"structured without a level", `{"msg":"m"}` + "\n", []Entry{{Msg: "m"}}},
		{"JSON but no log line", `{"x":1}` + "\n", []Entry{{Msg: `{"x":1}`}}},
		{"broken JSON", `{"msg":` + "\n", []Entry{{Msg: `{"msg":`}}},
		{"not UTF-8", "a\xffb\n", []Entry{{Msg: "a\ufffdb"}}},
		{"crash", "panic: oh\n\ngoroutine 1:\n{\"level\":\"INFO\",\"msg\":\"back\"}\nx\n", []Entry{
			{Level: slog.LevelError, Msg: "panic: oh"}, {Level: slog.LevelError, Msg: "goroutine 1:"}, {Msg: "back"}, {Msg: "x"},
		}},
		{"too long", strings.Repeat("a", maxLine+10) + "\nb\n", []Entry{{Msg: strings.Repeat("a", maxLine) + "…"}, {Msg: "b"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, chunk := range []int{1, 7, len(tc.in)} { // however the bytes arrive
				j := newJournal("boot")
				w := j.Writer("s")
				for in := tc.in; len(in) > 0; in = in[min(chunk, len(in)):] {
					if n, err := w.Write([]byte(in[:min(chunk, len(in))])); err != nil || n != min(chunk, len(in)) {
						t.Fatal(n, err)
					}
				}
				w.Close()
				got := tail(t, j, "s", 100)
				if len(got) != len(tc.want) {
					t.Fatalf("got %d entries: %s", len(got), messages(got))
				}
				for i, e := range got {
					w := tc.want[i]
					if e.Msg != w.Msg || e.Level != w.Level || !bytes.Equal(e.Fields, w.Fields) || e.Service != "s" ||
						e.Seq != uint64(i+1) || e.Boot != "boot" || e.MS <= 0 {
						t.Errorf("got %+v, want %+v", e, w)
					}
				}
			}
		})
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal("boot")
		w := j.Writer("s")
		for i := range burst + 50 {
			fmt.Fprintln(w, "line", i)
		}
		time.Sleep(2*time.Second + time.Millisecond)
		for range 10 {
			fmt.Fprintln(w, "later")
		}
		w.Close()
		var later, dropped int
		for _, e := range tail(t, j, "s", 10_000) {
			if e.Msg == "later" {
				later++
			}
			var f struct{ Lines int }
			if json.Unmarshal(e.Fields, &f) == nil {
				dropped += f.Lines
			}
		}
		if later != 2*perSecond || dropped != 50+10-2*perSecond {
			t.Errorf("%d lines kept later, %d said to be dropped", later, dropped)
		}
	})
}

// Long lines count for more, and a service that is started again does not begin anew.
func TestRateCountsBytesOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal("boot")
		var size int
		for range 20 {
			w := j.Writer("noisy")
			for range burst {
				io.WriteString(w, strings.Repeat("x", maxLine)+"\n")
			}
			w.Close()
			for _, e := range tail(t, j, "noisy", 10_000) {
				size += len(e.Msg)
			}
			j.rings["noisy"] = &ring{} // so that each is counted once
		}
		if most := burst * (bytesPerLine + 100); size > most {
			t.Errorf("%d bytes kept at once, want at most %d", size, most)
		}
		w := j.Writer("other")
		fmt.Fprintln(w, "heard")
		w.Close()
		if got := messages(tail(t, j, "other", 10)); got != "heard" {
			t.Errorf("another service: %q", got)
		}
	})
}

func TestClosedStoreStaysClosed(t *testing.T) {
	dir := t.TempDir()
	st, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	if err := st.write([]byte("{}\n"), true); err == nil { // a flush that began before
		t.Error("written")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	j := newJournal("boot")
	for s := range maxServices + 5 {
		for range 100 {
			j.add(fmt.Sprint("s", s), 0, strings.Repeat("x", 2000), nil)
		}
	}
	if len(j.rings) != maxServices {
		t.Errorf("%d services in memory", len(j.rings))
	}
	for name, r := range j.rings {
		if r.size > maxMemory || len(r.entries) < 20 {
			t.Errorf("%s: %d entries of %d bytes", name, len(r.entries), r.size)
		}
	}
}

// fill writes n entries of two services, synced every few.
func fill(t *testing.T, j *Journal, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		j.add([]string{"even", "odd"}[i%2], 0, fmt.Sprint(i), nil)
		if i%7 == 0 {
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSurvivesReboots(t *testing.T) {
	dir := t.TempDir()
	for boot := range 3 {
		j := newJournal(fmt.Sprint("boot", boot))
		fill(t, j, 100*boot, 10) // before the disk is there
		if err := j.Attach(dir); err != nil {
			t.Fatal(err)
		}
		fill(t, j, 100*boot+10, 10)
		if boot < 2 {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got := messages(tail(t, j, "odd", 25))
		want := "11|13|15|17|19|101|103|105|107|109|111|113|115|117|119|201|203|205|207|209|211|213|215|217|219"
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got := messages(tail(t, j, "odd", 3)); got != "215|217|219" {
			t.Error(got)
		}
		if got := tail(t, j, "nobody", 3); len(got) != 0 {
			t.Error(got)
		}
		j.Close()
	}
}

// What memory has dropped comes from disk and from what waits to be written, each entry once.
func TestTailBeyondMemory(t *testing.T) {
	j := newJournal("boot")
	if err := j.Attach(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	const n = 500
	for i := range n {
		j.add("s", 0, fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)), nil)
	}
	got := tail(t, j, "s", n)
	if len(got) != n {
		t.Fatalf("%d entries", len(got))
	}
	for i, e := range got {
		if e.Seq != uint64(i+1) {
			t.Fatalf("entry %d has number %d", i, e.Seq)
		}
	}
}

// A cut at any byte loses only the member that it hits, and the next boot goes on.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	j := newJournal("a")
	if err := j.Attach(dir); err != nil {
		t.Fatal(err)
	}
	fill(t, j, 1, 42) // members end at 7, 14, …
	j.Close()
	path := filepath.Join(dir, "0000000001"+suffix)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends := memberEnds(t, whole)
	if len(ends) != 6 {
		t.Fatalf("%d members", len(ends))
	}
	rnd := rand.New(rand.NewSource(1))
	for cut := range whole {
		torn := whole[:cut:cut]
		if cut%3 == 1 { // the size was written, the data was not
			torn = append(torn, make([]byte, rnd.Intn(100))...)
		} else if cut%3 == 2 {
			for range rnd.Intn(100) {
				torn = append(torn, byte(rnd.Intn(256)))
			}
		}
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := openStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		got := onDisk(st, "odd")
		members := 0
		for _, end := range ends {
			if bytes.HasPrefix(torn, whole[:end]) {
				members++
			}
		}
		if want := (members*7 + 1) / 2; len(got) != want {
			t.Fatalf("cut at %d: %d entries, want %d", cut, len(got), want)
		}
	}
	if err := os.WriteFile(path, whole[:len(whole)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	j = newJournal("b")
	if err := j.Attach(dir); err != nil {
		t.Fatal(err)
	}
	fill(t, j, 1, 1)
	if got := messages(tail(t, j, "odd", 2)); got != "35|1" {
		t.Errorf("after a torn file: %s", got)
	}
	j.Close()
}

func memberEnds(t *testing.T, b []byte) (ends []int) {
	r := bytes.NewReader(b)
	for r.Len() > 0 {
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		z.Multistream(false)
		if _, err := io.Copy(io.Discard, z); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, len(b)-r.Len())
	}
	return ends
}

func TestDiskIsBounded(t *testing.T) {
	dir := t.TempDir()
	j := newJournal("boot")
	if err := j.Attach(dir); err != nil {
		t.Fatal(err)
	}
	j.store.maxFile, j.store.maxTotal = 10_000, 100_000
	rnd := rand.New(rand.NewSource(1))
	b := make([]byte, 1000)
	for i := range 200 {
		rnd.Read(b)
		j.add("s", 0, fmt.Sprintf("%x", b), nil)
		if i%5 == 0 {
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	j.Close()
	var total int64
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += fi.Size()
	}
	if total > 110_000 || total < 50_000 {
		t.Errorf("%d bytes in %d files", total, len(entries))
	}
}

// On a full disk old lines make room for new ones; without any, an error says so and memory still has them.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread's mount namespace ends with it
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
			syscall.Mount("test", dir, "tmpfs", 0, "size=256k")); err != nil {
			t.Error(err)
			return
		}
		st, err := openStore(dir)
		if err != nil {
			t.Error(err)
			return
		}
		st.maxFile = 50_000
		rnd := rand.New(rand.NewSource(1))
		line := func(i int) []byte {
			b := make([]byte, 2000)
			rnd.Read(b)
			return fmt.Appendf(nil, `{"service":"s","msg":"%d %x"}`+"\n", i, b)
		}
		for i := range 300 {
			if err := st.write(line(i), true); err != nil {
				t.Errorf("line %d: %v", i, err)
				return
			}
		}
		got := onDisk(st, "s")
		if n := len(got); n < 50 || n > 150 || !strings.HasPrefix(got[n-1].Msg, "299 ") ||
			!strings.HasPrefix(got[0].Msg, fmt.Sprint(300-n, " ")) {
			t.Errorf("%d entries are left", n)
		}

		for len(st.files) > 1 {
			if err := st.removeOldest(); err != nil {
				t.Error(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "theirs"), make([]byte, 256<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Error(err)
		}
		before := st.size
		var many []byte
		for i := range 100 {
			many = append(many, line(i)...)
		}
		if err := st.write(many, true); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v", err)
		}
		if fi, err := st.file.Stat(); err != nil || fi.Size() != before {
			t.Errorf("size %d, was %d", fi.Size(), before)
		}
	}()
	<-done
}

func FuzzMembers(f *testing.F) {
	var b bytes.Buffer
	for range 2 {
		z := gzip.NewWriter(&b)
		z.Write([]byte(`{"time":"2026-01-02T03:04:05Z","ms":1,"boot":"b","seq":1,"service":"s","level":"INFO","msg":"m"}` + "\n"))
		z.Close()
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()-5])
	f.Add(append(b.Bytes(), make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000001"+suffix), b, 0o600); err != nil {
			t.Fatal(err)
		}
		j := newJournal("boot")
		if err := j.Attach(dir); err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		for _, e := range tail(t, j, "s", 10) {
			if e.Service != "s" {
				t.Errorf("entry of %q", e.Service)
			}
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add([]byte(`{"level":"WARN","msg":"m","x":{"y":[1,2]}}` + "\npanic: x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		j := newJournal("boot")
		w := j.Writer("s")
		w.Write(b)
		w.Close()
		for _, e := range tail(t, j, "s", 100) {
			b, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			var again Entry
			if err := json.Unmarshal(b, &again); err != nil || again.Msg != e.Msg || again.Level != e.Level {
				t.Errorf("%s: %v", b, err)
			}
		}
	})
}
