package boot

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// listenControl answers on the control socket: core may do everything, the updater what is about slots.
func (b *Box) listenControl(ctx context.Context) error {
	path := runDir + "/init.sock"
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	go func() {
		if err := daemon.Serve(ctx, daemon.AllowPeers(l, b.log, b.cfg.CoreUID, b.cfg.UpdaterUID), b.restricted(ctx)); err != nil {
			b.log.Error("control socket", "err", err)
		}
	}()
	return nil
}

// forUpdater are the requests that the updater may make.
var forUpdater = []string{"GET /v1/system", "GET /v1/slots", "POST /v1/trial", "POST /v1/trial/kept", "DELETE /v1/trial"}

// restricted is control for those who may.
func (b *Box) restricted(ctx context.Context) http.Handler {
	all, mux := b.control(ctx), http.NewServeMux()
	for _, pattern := range forUpdater {
		mux.HandleFunc(pattern, daemon.OnlyPeers(all.ServeHTTP, b.cfg.CoreUID, b.cfg.UpdaterUID))
	}
	mux.HandleFunc("/", daemon.OnlyPeers(all.ServeHTTP, b.cfg.CoreUID))
	return mux
}

func (b *Box) control(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/system", func(w http.ResponseWriter, r *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, b.System())
	})
	mux.HandleFunc("GET /v1/vitals", func(w http.ResponseWriter, r *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, b.readVitals(false))
	})
	mux.HandleFunc("GET /v1/slots", func(w http.ResponseWriter, r *http.Request) {
		s, err := b.Slots()
		if err != nil {
			daemon.WriteJSON(w, http.StatusServiceUnavailable, api.Problem{Title: err.Error(), Status: http.StatusServiceUnavailable})
			return
		}
		daemon.WriteJSON(w, http.StatusOK, s)
	})
	mux.HandleFunc("POST /v1/trial", func(w http.ResponseWriter, r *http.Request) {
		var req api.TrialRequest
		if decode(w, r, &req) {
			answer(w, b.startTrial(req.Slot))
		}
	})
	mux.HandleFunc("POST /v1/trial/kept", func(w http.ResponseWriter, r *http.Request) {
		answer(w, b.keptTrial())
	})
	mux.HandleFunc("DELETE /v1/trial", func(w http.ResponseWriter, r *http.Request) {
		var why api.TrialEnd
		if decode(w, r, &why) {
			answer(w, b.endTrial(why))
		}
	})
	mux.HandleFunc("PUT /v1/name", func(w http.ResponseWriter, r *http.Request) {
		var req api.NameRequest
		if decode(w, r, &req) {
			answer(w, b.rename(req.Name))
		}
	})
	mux.HandleFunc("GET /v1/recovery", func(w http.ResponseWriter, r *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, b.recoveryCode())
	})
	mux.HandleFunc("DELETE /v1/recovery", func(w http.ResponseWriter, r *http.Request) {
		b.voidRecovery()
		answer(w, nil)
	})
	mux.HandleFunc("POST /v1/start-over", func(w http.ResponseWriter, r *http.Request) {
		answer(w, b.markErase())
	})
	mux.HandleFunc("GET /v1/claim", func(w http.ResponseWriter, r *http.Request) {
		daemon.WriteJSON(w, http.StatusOK, api.Claim{Code: b.claimCode()})
	})
	mux.HandleFunc("DELETE /v1/claim", func(w http.ResponseWriter, r *http.Request) {
		answer(w, b.voidClaim())
	})
	mux.HandleFunc("GET /v1/logs", b.getLogs)
	mux.HandleFunc("GET /v1/logs/stream", b.streamLogs)
	mux.HandleFunc("POST /v1/services/{name}/restart", func(w http.ResponseWriter, r *http.Request) {
		sup := b.supervisor()
		if sup == nil {
			answer(w, errNotStarted)
			return
		}
		answer(w, sup.Restart(r.PathValue("name")))
	})
	mux.HandleFunc("POST /v1/power", func(w http.ResponseWriter, r *http.Request) {
		var req api.PowerRequest
		if !decode(w, r, &req) {
			return
		}
		if req.Action != "reboot" && req.Action != "poweroff" {
			answer(w, errors.New("unknown action "+strconv.Quote(req.Action)))
			return
		}
		b.finishSoon(req.Action)
		answer(w, nil)
	})
	mux.HandleFunc("POST /v1/rescue", func(w http.ResponseWriter, r *http.Request) {
		var req api.RescueRequest
		if !decode(w, r, &req) {
			return
		}
		if req.Action == "start-over" && req.Confirm != api.StartOverWord {
			answer(w, errors.New("the confirmation is missing"))
			return
		}
		answer(w, b.act(ctx, req.Action))
	})
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(v); err != nil {
		answer(w, err)
		return false
	}
	return true
}

// answer says that a request was carried out, or why it was not (RFC 9457).
func answer(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, errBusy), errors.Is(err, errNoTrial), errors.Is(err, errOnTrial), errors.Is(err, errNotKept):
		daemon.WriteJSON(w, http.StatusConflict, api.Problem{Title: err.Error(), Status: http.StatusConflict})
	default:
		daemon.WriteJSON(w, http.StatusBadRequest, api.Problem{Title: err.Error(), Status: http.StatusBadRequest})
	}
}
