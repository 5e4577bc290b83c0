package core

import (
	"net/http"
	"sync"
	"testing"

	"github.com/croft-os/croft/services/api"
)

// A recovery code is good once, for however many use it at once, and also where init did not hear that it was used.
func TestRecoverOnce(t *testing.T) {
	for name, refuse := range map[string]*api.Problem{
		"told":     nil,
		"not told": {Title: "Not now.", Status: http.StatusConflict},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			b.owned(t)
			b.set(func(f *fakes) {
				f.recovery = api.Recovery{Code: "WXYZ-0123", Source: "console"}
				f.refuse = refuse
			})
			var kinds sync.Map
			var wg sync.WaitGroup
			for i, place := range []string{"192.168.1.21", "192.168.1.22", "192.168.1.23"} {
				wg.Go(func() {
					a := b.stranger().at(place).do(t, "POST", "/recover", api.RecoverRequest{
						Code: "wxyz-0123", Name: "Anna", Password: "another field of barley",
					})
					kinds.Store(i, a.kind())
				})
			}
			wg.Wait()
			won := 0
			for _, kind := range kinds.Range {
				switch kind {
				case "":
					won++
				case "code-void":
				default:
					t.Errorf("refused as %s", kind)
				}
			}
			if won != 1 {
				t.Errorf("%d got in with one code", won)
			}
			// The next code is another one.
			b.set(func(f *fakes) { f.recovery.Code, f.refuse = "WXYZ-0124", nil })
			if a := b.stranger().do(t, "POST", "/recover", api.RecoverRequest{
				Code: "wxyz-0124", Name: "Anna", Password: "a third field of barley",
			}); a.kind() != "" {
				t.Errorf("the next code: %d %s", a.StatusCode, a.kind())
			}
		})
	}
}
