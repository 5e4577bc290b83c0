package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

const (
	maxAtOnce = 16               // requests that are worked on
	maxConns  = 256              // connections
	rate      = 5                // new trees of a log, a second: each is a write to the disk
	burst     = 50               // of them at once
	patience  = 15 * time.Second // for a request
)

// bucket limits how often something may happen.
type bucket struct {
	left float64
	at   time.Time
}

func newBucket() bucket { return bucket{left: burst} }

func (b *bucket) take(now time.Time) bool {
	if d := now.Sub(b.at).Seconds(); d > 0 && !b.at.IsZero() {
		b.left = min(burst, b.left+d*rate)
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// ServeHTTP answers POST /add-checkpoint (C2SP tlog-witness), and GET / with the witness's verifier key for people.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(rw, w.VerifierKey())
		return
	case r.URL.Path != "/add-checkpoint":
		http.NotFound(rw, r)
		return
	case r.Method != http.MethodPost:
		rw.Header().Set("Allow", http.MethodPost)
		http.Error(rw, "POST only", http.StatusMethodNotAllowed)
		return
	}
	body, err := readBody(r.Body)
	var line string
	if err == nil {
		select {
		case w.slots <- struct{}{}:
			line, err = w.add(body)
			<-w.slots
		default:
			err = errBusy
		}
	}
	var size sizeError
	switch {
	case err == nil:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(rw, line)
	case errors.As(err, &size):
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", int64(size))
	default:
		status := statusOf(err)
		if status == http.StatusInternalServerError {
			w.log.Error("add-checkpoint", "err", err)
			err = errors.New("the witness has a problem")
		}
		http.Error(rw, err.Error(), status)
	}
}

func statusOf(err error) int {
	for _, x := range []struct {
		err    error
		status int
	}{
		{errForm, http.StatusBadRequest},
		{errUnknown, http.StatusNotFound},
		{errUnsigned, http.StatusForbidden},
		{errProof, http.StatusUnprocessableEntity},
		{errTwoRoots, http.StatusConflict},
		{errBusy, http.StatusTooManyRequests},
		{errClock, http.StatusServiceUnavailable},
		{errClosed, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, x.err) {
			return x.status
		}
	}
	return http.StatusInternalServerError
}

// AnswerTime is how long a witness may take for an answer, and for having it fetched.
const AnswerTime = 15 * time.Second

// Serve answers publishers on a listener until ctx ends; h is a Witness, what is in front of one, or a log, which takes longer to answer.
func Serve(ctx context.Context, l net.Listener, h http.Handler, answer time.Duration) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: patience, ReadTimeout: patience, WriteTimeout: answer, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
	})
	defer stop()
	if err := s.Serve(netutil.LimitListener(l, maxConns)); !errors.Is(err, http.ErrServerClosed) || ctx.Err() == nil {
		return err
	}
	return nil
}
