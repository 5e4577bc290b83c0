package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/witness"
	"github.com/croft-os/croft/updater/publish"
)

// boxWitness is the program "box-witness ADDRESS FOLDER": a box's witness service with its sockets and its state in a folder, and with a
// network service that is sure of the time.
func boxWitness() {
	err := func() error {
		if len(os.Args) != 3 {
			return errors.New("usage: box-witness ADDRESS FOLDER")
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		dir := os.Args[2]
		env := &daemon.Env{
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), StateDir: filepath.Join(dir, "state"), SocketDir: dir,
			Listeners: map[string]net.Listener{}, Notify: func(string) {},
		}
		if err := os.MkdirAll(env.StateDir, 0o700); err != nil {
			return err
		}
		for _, name := range []string{"network", "witness"} {
			path := filepath.Join(dir, name+".sock")
			os.Remove(path)
			l, err := net.Listen("unix", path)
			if err != nil {
				return err
			}
			env.Listeners[name] = l
		}
		var err error
		if env.Listeners["logs"], err = net.Listen("tcp", os.Args[1]); err != nil {
			return err
		}
		go daemon.Serve(ctx, env.Listeners["network"], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			daemon.WriteJSON(w, http.StatusOK, api.Network{Clock: api.Clock{Now: time.Now(), Certainty: api.ClockSure}})
		}))
		return witness.Run(ctx, env, witness.Config{})
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// tellWitness is the command "tell FOLDER NAME LOG.pub": it turns a box's witness on, as core does, and writes its verifier key to
// FOLDER/key.
func tellWitness(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	log, err := verifierKey(ts.MkAbs(args[2]), publish.PublicKey.LogKey)
	ts.Check(err)
	body, err := json.Marshal(api.WitnessConfig{Name: args[1], Logs: []string{log}})
	ts.Check(err)
	client := (&daemon.Env{SocketDir: dir}).Client("witness")
	defer client.CloseIdleConnections()
	told := false
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var w api.Witness
		if !told {
			var req *http.Request
			req, err = http.NewRequest(http.MethodPut, "http://witness/v1/config", bytes.NewReader(body))
			ts.Check(err)
			var resp *http.Response
			if resp, err = client.Do(req); err == nil {
				resp.Body.Close()
				told = resp.StatusCode == http.StatusNoContent
			}
		} else if err = daemon.GetJSON(context.Background(), client, "http://witness/v1/witness", &w); err == nil && w.Running {
			ts.Check(os.WriteFile(filepath.Join(dir, "key"), []byte(w.Key+"\n"), 0o644))
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%+v, %v", w, err)
		}
	}
}
