package core

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"
)

func TestLimiterBackOff(t *testing.T) {
	now := time.Now()
	l := newLimiter(func() time.Time { return now })
	for i := range freeTries {
		if w := l.take("a", ""); w != 0 {
			t.Fatalf("try %d has to wait %v", i, w)
		}
	}
	want := firstWait
	for range 9 {
		if w := l.take("a", ""); w != want {
			t.Errorf("wait %v, want %v", w, want)
		}
		if w := l.take("b", ""); w != 0 {
			t.Errorf("another client has to wait %v", w)
		}
		l.won("b", "")
		now = now.Add(want)
		if w := l.take("a", ""); w != 0 {
			t.Errorf("after the wait still %v", w)
		}
		want = min(2*want, longestOff)
	}
	now = now.Add(forgetIn + time.Second)
	for i := range freeTries {
		if w := l.take("a", ""); w != 0 {
			t.Fatalf("forgotten, but try %d has to wait %v", i, w)
		}
	}
}

func TestLimiterWon(t *testing.T) {
	l := newLimiter(time.Now)
	for i := range 100 {
		if w := l.take("a", ""); w != 0 {
			t.Fatalf("right code %d has to wait %v", i, w)
		}
		l.won("a", "")
	}
	for range freeTries {
		l.take("a", "")
		l.undo("a", "")
	}
	if w := l.take("a", ""); w != 0 {
		t.Errorf("tries that could not be judged make wait %v", w)
	}
}

func TestLimiterOverall(t *testing.T) {
	now := time.Now()
	l := newLimiter(func() time.Time { return now })
	passed := 0
	for i := range 600 { // ten minutes, one try a second, each from another address
		if l.take(fmt.Sprint(i), "") == 0 {
			passed++
		}
		now = now.Add(time.Second)
	}
	if most := allBurst + 10*allPerMin; passed > most || passed < most-2 {
		t.Errorf("%d tries in ten minutes, want %d", passed, most)
	}
}

func TestLimiterBounded(t *testing.T) {
	now := time.Now()
	l := newLimiter(func() time.Time { return now })
	for i := range 3 * maxClients {
		l.take(fmt.Sprint(i), "")
		now = now.Add(time.Minute / allPerMin)
	}
	if len(l.tries) > maxClients {
		t.Errorf("%d clients kept", len(l.tries))
	}
}

func TestClientKey(t *testing.T) {
	for _, tt := range []struct {
		header []string
		want   string
	}{
		{[]string{"192.168.1.7"}, "192.168.1.7"},
		{[]string{"6.6.6.6, 192.168.1.7"}, "192.168.1.7"},
		{[]string{"6.6.6.6", "192.168.1.7"}, "192.168.1.7"},
		{[]string{"::ffff:192.168.1.7"}, "192.168.1.7"},
		{[]string{"2001:db8:2:3:4:5:6:7"}, "2001:db8:2:3:4:5:6:7"},
		{[]string{"fd00:1:2:3:4:5:6:7"}, "fd00:1:2:3:4:5:6:7"},
		{[]string{"fe80::1%eth0"}, "fe80::1"},
		{[]string{"x"}, "unknown"},
		{nil, "unknown"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Forwarded-For"] = tt.header
		if got := clientKey(r); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.header, got, tt.want)
		}
	}
}

// Who was right before has tries of its own, but not without an end.
func TestLimiterTrust(t *testing.T) {
	now := time.Now()
	l := newLimiter(func() time.Time { return now })
	l.take("phone", "anna")
	l.won("phone", "anna")
	for i := 0; l.take(fmt.Sprint("stranger", i), "anna") == 0; i++ {
	}
	if w := l.take("tablet", "anna"); w == 0 {
		t.Error("strangers have tries left")
	}
	passed := 0
	for i := range 600 { // ten minutes, always at another name
		if l.take("phone", fmt.Sprint(i)) == 0 {
			passed++
		}
		now = now.Add(time.Second)
	}
	if most := 11 * ownPerMin; passed > most || passed < most-2 {
		t.Errorf("%d tries in ten minutes, want %d", passed, most)
	}
	// Being right at one name wipes out nothing at another.
	for range freeTries {
		l.take("member", "owner")
	}
	l.take("member", "member")
	l.won("member", "member")
	if l.take("member", "owner") == 0 {
		t.Error("a right password of one's own made up for wrong ones of another's")
	}
	for i := range 3 * maxClients {
		l.trust(fmt.Sprint(i))
	}
	if len(l.trusted) > maxClients {
		t.Errorf("%d trusted", len(l.trusted))
	}
}
