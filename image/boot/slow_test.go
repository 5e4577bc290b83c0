package boot

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlow asks for what is found at once, found again when it is old, and never found.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slow[int]{every: time.Minute}
		var looks atomic.Int32
		find := func() int { return int(looks.Add(1)) }
		for _, tc := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {59 * time.Second, 1}, {time.Second, 2}, {time.Hour, 3}} {
			time.Sleep(tc.after)
			if got := s.get(find); got != tc.want {
				t.Errorf("after %v: %d, want %d", tc.after, got, tc.want)
			}
		}
		time.Sleep(time.Hour)
		hung := make(chan struct{})
		hang := func() int { looks.Add(1); <-hung; return 10 }
		start := time.Now()
		for range 5 {
			if got := s.get(hang); got != 3 {
				t.Errorf("while a look hangs: %d", got)
			}
		}
		if took := time.Since(start); took > 5*slowWait {
			t.Errorf("waited %v", took)
		}
		if n := looks.Load(); n != 4 {
			t.Errorf("%d looks at the same time", n-3)
		}
		close(hung)
		synctest.Wait()
		if got := s.get(nil); got != 10 {
			t.Errorf("after it came through: %d", got)
		}
		time.Sleep(time.Hour)
		if got := s.get(func() int { panic("out of luck") }); got != 10 {
			t.Errorf("after a panic: %d", got)
		}
	})
}
