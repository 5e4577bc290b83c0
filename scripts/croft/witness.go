package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/witness"
)

// witnessCommand runs a witness for other people's logs.
func witnessCommand(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "witness", "witness --name NAME --log KEY [--dir FOLDER] [--listen ADDRESS]\n\n"+
		"Cosigns the checkpoints of logs, and never two that contradict each other (C2SP tlog-witness). NAME is by custom the\n"+
		"address at which it can be asked, without https://. Who publishes needs the verifier key that it prints.\n\n"+
		"FOLDER is the witness's memory. It must never be put back to an older state, and never be used by two. If it is lost, begin\n"+
		"again with another name.")
	name := fl.String("name", "", "`name` of the witness; with --key, that of the key")
	key := fl.String("key", "", "`file` with a key of \"croft release keygen\"; default: a key of its own in FOLDER")
	dir := fl.String("dir", "witness", "`folder`; made if missing")
	listen := fl.String("listen", "127.0.0.1:7467", "`address`; put a web server with TLS in front of it")
	logs := list(fl, "log", "`verifier key` of a log, or the file with its public key")
	if _, code, ok := parse(fl, args, 0, 0); !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		c := witness.Config{Name: *name, Dir: *dir, Log: slog.New(slog.NewTextHandler(io.err, nil))}
		if len(*logs) == 0 {
			return usageError("Name the logs with --log.")
		}
		for _, l := range *logs {
			k, err := verifierKey(l, publish.PublicKey.LogKey)
			if err != nil {
				return err
			}
			c.Logs = append(c.Logs, k)
		}
		if *key != "" {
			p, err := newPassphrases(newAsker(io))
			if err != nil {
				return err
			}
			k, err := p.open(ctx, *key)
			if err != nil {
				return err
			}
			c.Name, c.Key = cmp.Or(*name, k.Name), k.Private()
		} else {
			if *name == "" {
				return usageError("Give the witness a name with --name.")
			}
			if err := os.MkdirAll(*dir, 0o700); err != nil {
				return err
			}
			var err error
			if c.Key, err = witness.LoadKey(filepath.Join(*dir, "key")); err != nil {
				return err
			}
		}
		w, err := witness.New(c)
		if err != nil {
			return err
		}
		defer w.Close()
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			return err
		}
		fmt.Fprintf(io.out, "%s\nlistening on http://%s\n", w.VerifierKey(), l.Addr())
		return witness.Serve(ctx, l, w, witness.AnswerTime)
	}())
}
