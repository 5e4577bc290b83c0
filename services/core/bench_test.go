package core

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/state"
)

// direct asks a handler without a socket in between.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// benchmark has one user ask for one thing over and over, in parallel, at the handler itself.
func benchmark(b *testing.B, path string, as func(owner *user) *user) {
	bx, env, ctx, _ := surround(b, b.TempDir())
	db, err := state.Open(ctx, env.StateDir, env.Log)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	s, err := newServer(ctx, env, db, "")
	if err != nil {
		b.Fatal(err)
	}
	s.look()
	h := s.handler(operations())
	bx.client = &http.Client{Transport: direct{h}}
	u := as(bx.owned(b))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := httptest.NewRequest("GET", base+path, nil)
			r.Header.Set("X-Forwarded-For", u.place)
			r.Header.Set("Cookie", u.cookie)
			if u.bearer != "" {
				r.Header.Set("Authorization", "Bearer "+u.bearer)
			}
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, r); w.Code != http.StatusOK {
				b.Errorf("%d %s", w.Code, w.Body)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func BenchmarkGetBox(b *testing.B) {
	b.Run("session", func(b *testing.B) { benchmark(b, "/box", func(u *user) *user { return u }) })
	b.Run("token", func(b *testing.B) { benchmark(b, "/box", func(u *user) *user { return u.tokened(b, api.ScopeBox) }) })
}

func BenchmarkGetSetup(b *testing.B) {
	benchmark(b, "/setup", func(u *user) *user { return u.b.stranger() })
}
