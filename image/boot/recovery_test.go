package boot

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/croft-os/croft/services/api"
)

func TestShortStarts(t *testing.T) {
	const short, long, orderly = "short", "long", "in order"
	for _, tc := range []struct {
		name   string
		starts []string // how each ended
		claim  string
		want   bool // a code at the start after them
	}{
		{"none", nil, "", false},
		{"two", []string{short, short}, "", false},
		{"three", []string{short, short, short}, "", true},
		{"after a long one", []string{long, short, short, short}, "", true},
		{"not in a row", []string{short, short, long, short}, "", false},
		{"switched off in order", []string{short, short, orderly, short}, "", false},
		{"four", []string{short, short, short, short}, "", true},
		{"used, then left alone", []string{short, short, short, long}, "", false},
		{"nobody's", []string{short, short, short}, "ABCD-EFGH", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			start := func() *Box {
				b := boxOn(t, dir, "/nonexistent")
				b.ident.Claim = tc.claim
				began := time.Now().Add(-20 * time.Second) // which the kernel took
				b.uptime = func() time.Duration { return time.Since(began) }
				b.findRecovery() // says that there is no card
				return b
			}
			for _, end := range tc.starts {
				b := start()
				switch end {
				case short:
					time.Sleep(39 * time.Second)
				case long:
					time.Sleep(40 * time.Second)
					synctest.Wait()
				case orderly:
					b.startLasted()
				}
				next := t.TempDir() // what the cut leaves; the box's timer goes on
				if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				dir = next
			}
			b := start()
			got := b.recoveryCode()
			if (got.Code != "") != tc.want || tc.want && got.Source != sourceConsole {
				t.Errorf("%s: %+v", tc.name, got)
			}
			if !tc.want {
				return
			}
			if s := render(b.System(), "", got, nil); !strings.Contains(s, got.Code) {
				t.Errorf("the screen does not show %s:\n%s", got.Code, s)
			}
			for _, e := range b.System().Phases {
				if strings.Contains(e.Note+e.Error, got.Code) {
					t.Errorf("the code is in the record: %+v", e)
				}
			}
			time.Sleep(recoveryTime - time.Second - 20*time.Second)
			if b.recoveryCode() != got {
				t.Error("the code went too early")
			}
			time.Sleep(21 * time.Second)
			if c := b.recoveryCode(); c.Code != "" {
				t.Errorf("the code is still good: %+v", c)
			}
		})
	}
}

func TestRecoverFile(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name, text string
		code       string
		wrong      bool
	}{
		{"given", "\xef\xbb\xbfmy new code 2026\r\n", "my new code 2026", false},
		{"the same again", "my new code 2026", "", false},
		{"another", "another-code", "another-code", false},
		{"too short", "abc-1234", "", true},
		{"two lines", "abcdefgh\r\nijklmnop", "", true},
		{"a long text", strings.Repeat("x", 65), "", true},
		{"too large", strings.Repeat(" ", 5000), "", true},
		{"blank", "   \r\n", "", false},
	} {
		path := card(t, map[string]string{recoveryFile: tc.text})
		b := boxOn(t, dir, path)
		b.ident.Claim = ""
		note, err := b.findRecovery()
		if got := b.recoveryCode(); got.Code != tc.code || (err != nil) != tc.wrong || tc.code != "" && got.Source != sourceFile ||
			tc.code != "" && strings.Contains(note, tc.code) {
			t.Errorf("%s: %+v, %q, %v", tc.name, got, note, err)
		}
		left := tool(t, "mtype", "-i", path, "::"+recoveryFile)
		if !tc.wrong && strings.TrimSpace(left) != "" || len(left) != len(tc.text) {
			t.Errorf("%s: left %q", tc.name, left)
		}
	}
	// A card that can't be written leaves the code, which is good once all the same.
	path := card(t, map[string]string{recoveryFile: "code number 3"})
	for _, want := range []string{"code number 3", ""} {
		b := boxOn(t, dir, path)
		b.ident.Claim = ""
		reads := 0
		b.firstFAT = func() (string, error) {
			if reads++; reads > 1 {
				return "", errors.New("write-protected")
			}
			return path, nil
		}
		if _, err := b.findRecovery(); err == nil || b.recoveryCode().Code != want {
			t.Errorf("want %q: %+v, %v", want, b.recoveryCode(), err)
		}
	}
}

func TestControlRecovery(t *testing.T) {
	b := testBox()
	b.recover = recovery{api.Recovery{Code: "ABCD-EFGH", Source: sourceConsole}, b.uptime() + time.Minute}
	h := b.control(context.Background())
	call := func(method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/v1/recovery", nil))
		return w
	}
	if w := call("GET"); !strings.Contains(w.Body.String(), `"code":"ABCD-EFGH","source":"console"`) {
		t.Errorf("got %s", w.Body)
	}
	if w := call("DELETE"); w.Code != http.StatusNoContent {
		t.Errorf("DELETE: %d", w.Code)
	}
	if w := call("GET"); !strings.Contains(w.Body.String(), `"code":""`) {
		t.Errorf("got %s", w.Body)
	}
}
