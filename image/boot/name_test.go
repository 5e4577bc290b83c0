package boot

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestName(t *testing.T) {
	dir, path := t.TempDir(), card(t, map[string]string{claimFile: strings.Repeat(" ", 512)})
	b := boxOn(t, dir, path)
	var set []string
	b.setHostname = func(n []byte) error { set = append(set, string(n)); return nil }
	h := b.control(context.Background())
	put := func(name string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("PUT", "/v1/name", strings.NewReader(`{"name":"`+name+`"}`)))
		return w.Code
	}
	if b.name() != "croft" {
		t.Errorf("a new box is called %q", b.name())
	}
	for _, name := range []string{"", "-a", "a-", "a.b", "a b", "ä", "localhost", strings.Repeat("x", 64)} {
		if code := put(name); code != http.StatusBadRequest || b.name() != "croft" {
			t.Errorf("%q: %d, called %q", name, code, b.name())
		}
	}
	if code := put("Attic-2"); code != http.StatusNoContent || strings.Join(set, ",") != "attic-2" {
		t.Errorf("%d, set %q", code, set)
	}
	if text := tool(t, "mtype", "-i", path, "::"+claimFile); !strings.Contains(text, "http://attic-2.local ") || !strings.Contains(text, "0000-0000") {
		t.Errorf("the file for the owner's computer: %q", text)
	}
	again := boxOn(t, dir, "/nonexistent")
	if again.name() != "attic-2" || again.System().Name != "attic-2" || again.claimCode() != "0000-0000" {
		t.Errorf("after a restart: %+v", again.ident)
	}
	b.dir = "/nonexistent"
	if code := put("other"); code == http.StatusNoContent || b.name() != "attic-2" {
		t.Errorf("what can't be kept was taken: %d, %q", code, b.name())
	}
}

// TestClaimFileOrder: a rename that wrote the claim file while the code became void would leave the code in it.
func TestClaimFileOrder(t *testing.T) {
	path := card(t, map[string]string{claimFile: strings.Repeat(" ", 512)})
	b := boxOn(t, t.TempDir(), path)
	var opened atomic.Int32
	done := make(chan struct{})
	b.firstFAT = func() (string, error) {
		if opened.Add(1) == 2 { // the rename knows what it will write
			go func() {
				defer close(done)
				if err := b.voidClaim(); err != nil {
					t.Error(err)
				}
			}()
			select {
			case <-done:
			case <-time.After(50 * time.Millisecond): // it waits for its turn
			}
		}
		return path, nil
	}
	if err := b.rename("attic"); err != nil {
		t.Fatal(err)
	}
	<-done
	if text := tool(t, "mtype", "-i", path, "::"+claimFile); strings.Contains(text, "0000-0000") {
		t.Errorf("void, and yet it says %q", text)
	}
}

// TestMarkErase holds that starting over is on the medium before the box restarts.
func TestMarkErase(t *testing.T) {
	dir := t.TempDir()
	b := boxOn(t, dir, "/nonexistent")
	w := httptest.NewRecorder()
	b.control(context.Background()).ServeHTTP(w, httptest.NewRequest("POST", "/v1/start-over", nil))
	if w.Code != http.StatusNoContent || !boxOn(t, dir, "").ident.Erase || <-b.end != "reboot" {
		t.Errorf("%d, %+v", w.Code, boxOn(t, dir, "").ident)
	}
	b = boxOn(t, dir, "/nonexistent")
	b.dir = "/nonexistent"
	if err := b.markErase(); err == nil || len(b.end) > 0 {
		t.Error("the box restarts without the mark")
	}
}
