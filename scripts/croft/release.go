package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/tlog"
)

// releaseVerbs are the words behind "croft release", in the order of a publisher's life.
var releaseVerbs = []command{
	{"keygen", "NAME", "make a key of a person or a machine", releaseKeygen},
	{"init", "STAGE", "stage a new publisher: its first root and empty lists", releaseInit},
	{"build", "--out STAGE", "build a release from this source and stage it", releaseBuild},
	{"sign", "STAGE", "see what a stage says, and sign it with your key", releaseSign},
	{"status", "STAGE", "say whose signatures a stage still needs", releaseStatus},
	{"publish", "STAGE REPO", "log a signed stage, have it witnessed, and publish it", releasePublish},
	{"refresh", "REPO", "say again that what is published is the newest", releaseRefresh},
	{"rotate", "STAGE", "stage a new root: other keys, thresholds, log or witnesses", releaseRotate},
	{"renew", "STAGE", "stage the lists again as they are, before they expire", releaseRenew},
	{"withdraw", "STAGE", "stage the lists without a release", releaseWithdraw},
	{"bundle", "REPO", "write the file that updates a board without a network", releaseBundle},
	{"verify", "REPO", "check a repository as a box does, or all of it", releaseVerify},
	{"log", "REPO", "read a repository's public log, and check all of it; or serve it", releaseLog},
	{"auditor", "STAGE", "stage lists of a second organisation", releaseAuditor},
}

// releaseCommand is what makers of releases, and those who check on them, do (docs/release-howto.md).
func releaseCommand(ctx context.Context, args []string, io stdio) int {
	return dispatch(ctx, "croft release", "VERB", releaseVerbs,
		"How they go together is in docs/release-howto.md; \"croft release VERB -h\" says more about each.", args, io)
}

// names is a flag that may be given several times.
type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

// Set takes one more, or several with commas between them.
func (n *names) Set(s string) error {
	for v := range strings.SplitSeq(s, ",") {
		if v == "" {
			return errors.New("an empty name")
		}
		*n = append(*n, v)
	}
	return nil
}

func list(fl *flag.FlagSet, name, usage string) *names {
	n := &names{}
	fl.Var(n, name, usage)
	return n
}

// releaseExit says what went wrong with a release, and returns the exit code.
func releaseExit(ctx context.Context, io stdio, err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		return exitAbort
	case errors.As(err, &usage):
		fmt.Fprintln(io.err, err)
		return exitUsage
	case errors.Is(err, publish.ErrRefused), errors.Is(err, publish.ErrIncomplete):
		fmt.Fprintln(io.err, clean(err.Error()))
		return exitNo
	}
	fmt.Fprintln(io.err, clean(err.Error()))
	return exitFailed
}

const passphraseHelp = `

The passphrase of a key is asked for on the terminal, or read from the file that CROFT_PASSPHRASE_FILE names.`

// passphrases opens key files. A passphrase that opened one is tried on the next.
type passphrases struct {
	ask   *asker
	known []string
	file  bool
}

func newPassphrases(a *asker) (*passphrases, error) {
	p := &passphrases{ask: a}
	path := os.Getenv("CROFT_PASSPHRASE_FILE")
	if path == "" {
		return p, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError(err.Error())
	}
	p.known, p.file = []string{strings.TrimRight(string(b), "\r\n")}, true
	return p, nil
}

// open reads a key file, and asks for its passphrase at most three times.
func (p *passphrases) open(ctx context.Context, path string) (*publish.Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError(err.Error())
	}
	for _, pass := range p.known {
		if k, err := publish.Open(bytes.NewReader(b), pass); !errors.Is(err, publish.ErrPassphrase) {
			return k, wrap(path, err)
		}
	}
	for range 3 {
		if p.file {
			break
		}
		pass, err := p.ask.secret(ctx, fmt.Sprintf("Passphrase of %s: ", path))
		if err != nil {
			return nil, err
		}
		k, err := publish.Open(bytes.NewReader(b), pass)
		if errors.Is(err, publish.ErrPassphrase) {
			fmt.Fprintln(p.ask.io.err, "That is not the passphrase of this key.")
			continue
		}
		if err == nil {
			p.known = append(p.known, pass)
		}
		return k, wrap(path, err)
	}
	return nil, wrap(path, publish.ErrPassphrase)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (p *passphrases) openAll(ctx context.Context, paths []string) ([]*publish.Key, error) {
	var keys []*publish.Key
	for _, path := range paths {
		k, err := p.open(ctx, path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// fresh asks for a new passphrase, twice.
func (p *passphrases) fresh(ctx context.Context) (string, error) {
	if p.file {
		return p.known[0], nil
	}
	for {
		one, err := p.ask.secret(ctx, fmt.Sprintf("New passphrase, at least %d characters: ", publish.MinPassphrase))
		if err != nil {
			return "", err
		}
		if len(one) < publish.MinPassphrase {
			fmt.Fprintln(p.ask.io.err, "That is too short.")
			continue
		}
		two, err := p.ask.secret(ctx, "Once more: ")
		if err != nil {
			return "", err
		}
		if one == two {
			return one, nil
		}
		fmt.Fprintln(p.ask.io.err, "These were different.")
	}
}

func releaseKeygen(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "keygen", "release keygen NAME [--out FILE]\n\nNAME is what others see: of a person, a machine, or a witness; of a log, such as "+
		"example.org/log, it is\nthe log's name for good. FILE.key is secret and encrypted, FILE.pub is for everybody."+passphraseHelp)
	out := fl.String("out", "", "`file` without its ending; default: the last part of NAME")
	work := fl.Int("work-factor", publish.WorkFactor, "log2 of what one guess of the passphrase costs; less is not safe")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		k, err := publish.NewKey(rest[0])
		if err != nil {
			return usageError(err.Error())
		}
		path := *out
		if path == "" {
			path = filepath.Base(rest[0])
		}
		if _, err := os.Lstat(path + ".key"); err == nil {
			return fmt.Errorf("there is a %s.key already, and a key that is lost can't be made again", path)
		}
		p, err := newPassphrases(newAsker(io))
		if err != nil {
			return err
		}
		pass, err := p.fresh(ctx)
		if err != nil {
			return err
		}
		if err := k.Create(path, pass, *work); err != nil {
			return err
		}
		fmt.Fprintf(io.out, "%s.key is the secret key of %s: keep it, and a copy, where only you get at it.\n%s.pub is for everybody.\nkey id %s\n",
			path, k.Name, path, k.ID())
		return nil
	}())
}

// setupFlags are what a root says.
type setupFlags struct {
	root, targets, beta    *names
	rootN, targetsN, betaN *int
	snapshot, timestamp    *names
	log                    *string
	witnesses              *names
	quorum                 *int
	noLog                  *bool
	expires                *time.Duration
}

func newSetupFlags(fl *flag.FlagSet) *setupFlags {
	return &setupFlags{
		root:      list(fl, "root-keys", "`files`: public keys of who may change who may sign"),
		rootN:     fl.Int("root-threshold", 0, "how many of them have to agree (default 3)"),
		targets:   list(fl, "targets-keys", "`files`: public keys of who may publish stable releases"),
		targetsN:  fl.Int("targets-threshold", 0, "how many of them have to have built a release (default 3)"),
		beta:      list(fl, "beta-keys", "`files`: public keys of who may publish beta releases; none: there are none"),
		betaN:     fl.Int("beta-threshold", 0, "how many of them have to have built it (default 1)"),
		timestamp: list(fl, "timestamp-key", "`file`: public key of the machine that says what is the newest"),
		snapshot:  list(fl, "snapshot-key", "`file`: public key of the machine that says which lists belong together; default: the same"),
		log:       fl.String("log", "", "`verifier key` of the public log, or the file with its public key"),
		witnesses: list(fl, "witness", "`verifier key` of a witness, or the file with its public key"),
		quorum:    fl.Int("quorum", 0, "how many of the witnesses have to have seen what boxes take (default: more than half)"),
		noLog:     fl.Bool("no-log", false, "no public log: boxes follow such a publisher only if their owners say so twice"),
		expires:   fl.Duration("expires", publish.RootLife, "how long the root is valid"),
	}
}

// apply puts what was said into s.
func (f *setupFlags) apply(s *publish.Setup) error {
	for _, x := range []struct {
		name  string
		files *names
		n     int
		to    *publish.Threshold
		usual int
	}{
		{"root", f.root, *f.rootN, &s.Root, 3},
		{"targets", f.targets, *f.targetsN, &s.Targets, 3},
		{"beta", f.beta, *f.betaN, &s.Beta, 1},
		{"timestamp", f.timestamp, 0, &s.Timestamp, 1},
		{"snapshot", f.snapshot, 0, &s.Snapshot, 1},
	} {
		if len(*x.files) > 0 {
			x.to.Keys = nil
			for _, path := range *x.files {
				k, err := publish.ReadPublicKey(path)
				if err != nil {
					return usageError(err.Error())
				}
				x.to.Keys = append(x.to.Keys, k)
			}
		}
		if x.n > 0 {
			x.to.N = x.n
		}
		if x.to.N == 0 && len(x.to.Keys) > 0 {
			x.to.N = x.usual
		}
		if len(x.to.Keys) > 0 && x.to.N > len(x.to.Keys) {
			return usageError(fmt.Sprintf("%s: %d of %d keys can't be: name more with --%s-keys, or fewer with --%s-threshold", x.name, x.to.N, len(x.to.Keys), x.name, x.name))
		}
	}
	if len(s.Snapshot.Keys) == 0 || len(*f.timestamp) > 0 && len(*f.snapshot) == 0 {
		s.Snapshot = s.Timestamp
	}
	s.Life = *f.expires
	return f.policy(s)
}

func (f *setupFlags) policy(s *publish.Setup) error {
	if *f.noLog {
		if *f.log != "" || len(*f.witnesses) > 0 {
			return usageError("--no-log goes with neither --log nor --witness")
		}
		s.Log = nil
		return nil
	}
	log, witnesses, quorum := "", []string(nil), 0
	if s.Log != nil {
		log, witnesses, quorum = s.Log.LogKey(), s.Log.WitnessKeys(), s.Log.Quorum()
	}
	var err error
	if *f.log != "" {
		if log, err = verifierKey(*f.log, publish.PublicKey.LogKey); err != nil {
			return err
		}
	}
	if len(*f.witnesses) > 0 {
		witnesses, quorum = nil, 0
		for _, w := range *f.witnesses {
			k, err := verifierKey(w, publish.PublicKey.WitnessKey)
			if err != nil {
				return err
			}
			witnesses = append(witnesses, k)
		}
	}
	if *f.quorum > 0 {
		quorum = *f.quorum
	}
	if quorum == 0 {
		quorum = len(witnesses)/2 + 1
	}
	if log == "" {
		return usageError("Name the public log with --log, or say --no-log.")
	}
	if s.Log, err = tlog.NewPolicy(log, witnesses, quorum); err != nil {
		return usageError(err.Error())
	}
	return nil
}

// verifierKey takes a verifier key as it is, or from a public key's file.
func verifierKey(s string, of func(publish.PublicKey) string) (string, error) {
	if strings.Count(s, "+") >= 2 {
		return s, nil
	}
	k, err := publish.ReadPublicKey(s)
	if err != nil {
		return "", usageError(err.Error())
	}
	return of(k), nil
}

func releaseInit(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "init", "release init STAGE --root-keys FILES --targets-keys FILES --timestamp-key FILE --log KEY --witness KEY…\n\n"+
		"Nothing is signed by this: who holds a key signs the stage on a machine of their own, with \"croft release sign\".")
	f := newSetupFlags(fl)
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		var s publish.Setup
		if err := f.apply(&s); err != nil {
			return err
		}
		if len(s.Root.Keys) == 0 || len(s.Targets.Keys) == 0 || len(s.Timestamp.Keys) == 0 {
			return usageError("Name keys with --root-keys, --targets-keys and --timestamp-key.")
		}
		st, err := publish.Init(rest[0], s, time.Now())
		if err != nil {
			return err
		}
		return showMissing(io, st)
	}())
}

// showMissing says what a stage needs.
func showMissing(io stdio, st *publish.Stage) error {
	missing, err := st.Missing()
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		fmt.Fprintf(io.out, "%s has all signatures that it needs.\n", st.Dir)
		return nil
	}
	files := make([]string, 0, len(missing))
	for f := range missing {
		files = append(files, f)
	}
	slices.Sort(files)
	for _, f := range files {
		fmt.Fprintf(io.out, "%s: %d more signatures needed\n", filepath.Join(st.Dir, f), missing[f])
	}
	return nil
}

func releaseStatus(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "status", "release status STAGE [--copy STAGE]")
	copies := list(fl, "copy", "`folder`: another copy of the stage, whose signatures are taken over")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		st, err := publish.OpenStage(rest[0], time.Now())
		if err != nil {
			return err
		}
		if err := st.Gather(*copies); err != nil {
			return err
		}
		return showMissing(io, st)
	}())
}

func releaseSign(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "sign", "release sign STAGE --key FILE [--rebuilt STAGE | --trust-hash SHA256]\n\n"+
		"Shows what your signature would say, and asks. It refuses releases that you have neither built yourself (with\n"+
		"\"croft release build\", into a stage of your own) nor said that you trust. It needs no network: do it on a machine that\n"+
		"has none. What your key signed is kept beside it, in FILE.signed."+passphraseHelp)
	key := fl.String("key", "", "`file` with your key")
	rebuilt := list(fl, "rebuilt", "`folder`: a stage that you have built")
	hashes := list(fl, "trust-hash", "`SHA-256` of the description of a release that you trust without building it")
	replace := fl.Bool("replace", false, "sign something else of a version that you have signed before, because that was thrown away")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		if *key == "" {
			return usageError("Name the file of your key with --key.")
		}
		st, err := publish.OpenStage(rest[0], time.Now())
		if err != nil {
			return err
		}
		ask := newAsker(io)
		p, err := newPassphrases(ask)
		if err != nil {
			return err
		}
		k, err := p.open(ctx, *key)
		if err != nil {
			return err
		}
		names, err := st.Sign(publish.SignOptions{
			Key: k, Rebuilt: *rebuilt, Trust: *hashes, Ledger: strings.TrimSuffix(*key, ".key") + ".signed", Replace: *replace,
			Confirm: func(text string) bool {
				fmt.Fprintln(io.out, clean(text))
				return ask.yes(ctx, "Type yes to sign this: ")
			},
		})
		if err != nil {
			return err
		}
		for _, n := range names {
			fmt.Fprintf(io.out, "signed %s\n", filepath.Join(rest[0], n))
		}
		return showMissing(io, st)
	}())
}
