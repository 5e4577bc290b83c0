package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/image"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/services/state/schema"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/witness"
)

func releaseBuild(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "build", "release build --board ID --number N --notes FOLDER --from REPO --out STAGE\n\n"+
		"Builds from the commit that is checked out, and stages the release with its frames and its patches from the six before. Once\n"+
		"for each board, into the same stage. Whoever builds the same commit with the same repository before gets the same bytes, in\n"+
		"blobs, targets and SHA256SUMS.")
	id := fl.String("board", "pc", "the board, as in \"croft build\"")
	number := fl.Int64("number", 0, "of the release: above all that were published")
	channel := fl.String("channel", string(release.Stable), "stable or beta")
	notes := fl.String("notes", "", "`folder` with what is new, in files such as en.txt and de.txt")
	from := list(fl, "from", "`folder` of the repository that it will be published to; more of them for patches from their releases")
	out := fl.String("out", "", "`folder` of the stage; made if missing")
	payload := fl.String("payload", "", "`folder` with a payload that was built before")
	version := fl.String("version", "", "of the release; default: git describe")
	if _, code, ok := parse(fl, args, 0, 0); !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		if *out == "" || len(*from) == 0 || *notes == "" || *number < 1 {
			return usageError("Name --number, --notes, --from and --out.")
		}
		text, err := readNotes(*notes)
		if err != nil {
			return err
		}
		dir := *payload
		if dir == "" {
			if dir, err = os.MkdirTemp("", "croft-payload-"); err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if err := buildPayload(ctx, io, dir, *id, *version, *number, *channel); err != nil {
				return err
			}
		}
		p, err := publish.ReadPayload(dir)
		if err != nil {
			return err
		}
		if p.Number != *number || p.Channel != release.Channel(*channel) || p.Board != *id {
			return usageError(fmt.Sprintf("The payload is for %s with number %d in the channel %s.", p.Board, p.Number, p.Channel))
		}
		if p.State == (release.State{}) { // it was built from this source
			p.State = release.State{Schema: schema.Version(), Reads: schema.Reads(schema.Steps(), schema.Version())}
		}
		open := func() (*publish.Stage, error) { return publish.OpenStage(*out, time.Now()) } // with the other boards
		if _, err := os.Stat(*out); errors.Is(err, os.ErrNotExist) {
			open = func() (*publish.Stage, error) { return follow(*out, (*from)[0]) }
		}
		st, err := open()
		if err != nil {
			return err
		}
		r, err := st.Add(ctx, publish.Input{Payload: p, Dir: dir, Notes: text, From: *from})
		if err != nil {
			return err
		}
		path := release.Target(r.Channel, r.Board, r.Version)
		sum, err := st.ReleaseHash(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(io.out, "%s, number %d\nSHA-256 %s\n%d bytes as frames, %s\n", path, r.Number, sum, r.Boot.Frames.Size+r.Root.Frames.Size, patchText(r))
		return showMissing(io, st)
	}())
}

func patchText(r *release.Release) string {
	n := max(len(r.Boot.Patches), len(r.Root.Patches))
	if n == 0 {
		return "no patches"
	}
	var least int64
	for _, p := range []release.Part{r.Boot, r.Root} {
		if len(p.Patches) > 0 {
			least += p.Patches[0].Size
		}
	}
	return fmt.Sprintf("%d bytes as a patch from the release before, patches from %d", least, n)
}

// buildPayload builds what a release is made of from this source.
func buildPayload(ctx context.Context, io stdio, dir, id, version string, number int64, channel string) error {
	b, err := board.Find(id)
	if err != nil {
		return usageError(err.Error())
	}
	changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain").Output()
	if err != nil {
		return fmt.Errorf("git status: %w", err)
	}
	if len(changes) > 0 {
		return errors.New("there are changes that nobody has committed; a release is built from a commit, so that others can build the same")
	}
	_, err = image.Payload(ctx, image.Options{
		Board: b, Out: dir, Version: version, Number: number, Channel: channel, Log: slog.New(slog.NewTextHandler(io.err, nil)),
	})
	return err
}

// readNotes reads what is new, by language.
func readNotes(dir string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	notes := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		notes[strings.TrimSuffix(filepath.Base(f), ".txt")] = strings.TrimSpace(string(b))
	}
	if notes["en"] == "" {
		return nil, usageError(fmt.Sprintf("There is no en.txt in %s.", dir))
	}
	return notes, nil
}

// machineFlags are what the machine that publishes has.
type machineFlags struct {
	online  *names
	log     logFlags
	verbose *bool
}

func newMachineFlags(fl *flag.FlagSet) machineFlags {
	return machineFlags{
		list(fl, "online-key", "`file` with the key for timestamp and snapshot; while it is exchanged, the old and the new one"),
		newLogFlags(fl), fl.Bool("v", false, "say more"),
	}
}

// run has do change a repository, and says what came of it.
func (f machineFlags) run(ctx context.Context, io stdio, repo string, do func(context.Context, publish.Options) (*publish.Result, error)) int {
	return releaseExit(ctx, io, func() error {
		level := slog.LevelWarn
		if *f.verbose {
			level = slog.LevelDebug
		}
		o := publish.Options{Repo: repo, Progress: slog.New(slog.NewTextHandler(io.err, &slog.HandlerOptions{Level: level}))}
		p, err := newPassphrases(newAsker(io))
		if err != nil {
			return err
		}
		if o.Online, err = p.openAll(ctx, *f.online); err != nil {
			return err
		}
		if o.Log, o.Witnesses, err = f.log.open(ctx, p); err != nil {
			return err
		}
		r, err := do(ctx, o)
		if err != nil {
			return err
		}
		showResult(io, r, *f.verbose)
		return nil
	}())
}

// logFlags are what a machine has that writes a log.
type logFlags struct{ keys, witnesses *names }

func newLogFlags(fl *flag.FlagSet) logFlags {
	return logFlags{
		list(fl, "log-key", "`file` with the key of the log; while it is exchanged, the new and then the old one"),
		list(fl, "witness-url", "`NAME=URL` of a witness that is not at https://NAME"),
	}
}

func (f logFlags) open(ctx context.Context, p *passphrases) (keys []*publish.Key, witnesses map[string]string, err error) {
	witnesses = map[string]string{}
	for _, w := range *f.witnesses {
		name, url, ok := strings.Cut(w, "=")
		if !ok {
			return nil, nil, usageError(fmt.Sprintf("%q is not NAME=URL.", w))
		}
		witnesses[name] = url
	}
	keys, err = p.openAll(ctx, *f.keys)
	return keys, witnesses, err
}

func showResult(io stdio, r *publish.Result, verbose bool) {
	fmt.Fprintf(io.out, "root %d, targets %d, beta %d, timestamp %d\n", r.Root, r.Targets, r.Beta, r.Timestamp)
	if r.Tree > 0 {
		fmt.Fprintf(io.out, "in the log, which has %d entries, seen by %d witnesses\n", r.Tree, r.Witnesses)
	}
	if verbose {
		for _, f := range slices.Sorted(maps.Keys(r.Metadata)) {
			fmt.Fprintf(io.out, "%7d %s\n", r.Metadata[f], f)
		}
	}
}

func releasePublish(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "publish", "release publish STAGE REPO --online-key FILE --log-key FILE\n\n"+
		"REPO becomes, or stays, a folder that any web server can serve. If this is cut off, boxes see the old state or the new one, and it\n"+
		"can be done again."+passphraseHelp)
	m := newMachineFlags(fl)
	copies := list(fl, "copy", "`folder`: another copy of the stage, whose signatures count too")
	rest, code, ok := parse(fl, args, 2, 2)
	if !ok {
		return code
	}
	return m.run(ctx, io, rest[1], func(ctx context.Context, o publish.Options) (*publish.Result, error) {
		return publish.Publish(ctx, o, rest[0], *copies)
	})
}

func releaseRefresh(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "refresh", "release refresh REPO --online-key FILE [--log-key FILE]\n\n"+
		"Do it daily: without it boxes can't know after two weeks that nothing newer exists. With the log's key the witnesses are asked\n"+
		"again, too."+passphraseHelp)
	m := newMachineFlags(fl)
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return m.run(ctx, io, rest[0], publish.Refresh)
}

// follow begins a stage that follows a repository.
func follow(dir, from string) (*publish.Stage, error) {
	if from == "" {
		return nil, usageError("Name the repository with --from.")
	}
	return publish.NewStage(dir, from, time.Now())
}

// stage stages a change of a repository, and says whose signatures it needs.
func stage(ctx context.Context, io stdio, dir, from string, do func(*publish.Stage) error) int {
	return releaseExit(ctx, io, func() error {
		st, err := follow(dir, from)
		if err != nil {
			return err
		}
		if err := do(st); err != nil {
			return err
		}
		return showMissing(io, st)
	}())
}

func releaseRotate(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "rotate", "release rotate STAGE --from REPO [what is to change]\n\n"+
		"What is not named stays. The new root needs signatures by the threshold of the old one and by its own.")
	from := fl.String("from", "", "`folder` of the repository")
	f := newSetupFlags(fl)
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		if *from == "" {
			return usageError("Name the repository with --from.")
		}
		s, err := publish.SetupOf(*from)
		if err != nil {
			return err
		}
		if s.Log == nil && *f.log == "" {
			*f.noLog = true
		}
		if err := f.apply(&s); err != nil {
			return err
		}
		st, err := follow(rest[0], *from)
		if err != nil {
			return err
		}
		if err := st.Rotate(s); err != nil {
			return err
		}
		return showMissing(io, st)
	}())
}

func releaseRenew(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "renew", "release renew STAGE --from REPO")
	from := fl.String("from", "", "`folder` of the repository")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return stage(ctx, io, rest[0], *from, (*publish.Stage).Renew)
}

func releaseWithdraw(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "withdraw", "release withdraw STAGE --from REPO --board ID --version V\n\nBoxes that have the release keep it; no other takes it.")
	from := fl.String("from", "", "`folder` of the repository")
	id := fl.String("board", "", "the board")
	version := fl.String("version", "", "of the release")
	channel := fl.String("channel", string(release.Stable), "stable or beta")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return stage(ctx, io, rest[0], *from, func(st *publish.Stage) error {
		return st.Withdraw(release.Channel(*channel), *id, *version)
	})
}

func releaseAuditor(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "auditor", "release auditor STAGE --from REPO --of PROJECT --rebuilt STAGE\n\n"+
		"A second organisation begins a repository of its own with \"init\", and stages with this the releases of a project that it has\n"+
		"built to the same bytes. It signs and publishes as everybody does.")
	from := fl.String("from", "", "`folder` of the auditor's repository")
	of := fl.String("of", "", "`folder` of the project's")
	rebuilt := list(fl, "rebuilt", "`folder`: a stage that the auditor has built")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		if *from == "" || *of == "" {
			return usageError("Name --from and --of.")
		}
		st, fresh, err := publish.Audit(rest[0], *from, *of, *rebuilt, time.Now())
		if err != nil {
			return err
		}
		for _, path := range fresh {
			fmt.Fprintf(io.out, "new: %s\n", path)
		}
		return showMissing(io, st)
	}())
}

func releaseBundle(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "bundle", "release bundle REPO --board ID [--out FILE]")
	id := fl.String("board", "", "the board")
	channel := fl.String("channel", string(release.Stable), "stable or beta")
	out := fl.String("out", "", "`file`; default: croft-BOARD.zip")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		if !release.IsBoard(*id) {
			return usageError("Name the board with --board.")
		}
		path := *out
		if path == "" {
			path = "croft-" + *id + ".zip"
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		if err = errors.Join(publish.Bundle(f, rest[0], *id, release.Channel(*channel)), f.Close()); err != nil {
			os.Remove(path)
			return err
		}
		return nil
	}())
}

func releaseVerify(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "verify", "release verify REPO --root FILE | --fingerprint SHA256\n\nREPO is a folder, a bundle (.zip) or the https address of a mirror.")
	root := fl.String("root", "", "`file` with the root that you trust")
	fingerprint := fl.String("fingerprint", "", "`SHA-256` of the root that you trust")
	id := fl.String("board", "", "look at the releases of this board only")
	deep := fl.Bool("deep", false, "check every frame and every patch, too")
	noLog := fl.Bool("no-log", false, "accept a publisher without a public log")
	auditor := fl.String("auditor", "", "`name` of the auditor in REPO whose lists to check")
	asJSON := fl.Bool("json", false, "print all that was found")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		o := publish.VerifyOptions{
			Fingerprint: strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(*fingerprint)), NoLog: *noLog, Board: *id, Deep: *deep, Now: time.Now(),
		}
		if *root != "" {
			b, err := os.ReadFile(*root)
			if err != nil {
				return usageError(err.Error())
			}
			o.Root = b
		} else if *fingerprint == "" {
			return usageError("Whom do you trust? Name a root's file with --root, or its SHA-256 with --fingerprint.")
		}
		if *auditor != "" {
			o.Prefix = "auditors/" + *auditor + "/"
		}
		src, done, err := openRepository(rest[0])
		if err != nil {
			return err
		}
		defer done()
		_, o.Partial = src.(bundled)
		v, err := publish.Verify(ctx, src, o)
		if err != nil {
			return err
		}
		if *asJSON {
			js, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				return err
			}
			fmt.Fprintf(io.out, "%s\n", js)
			return nil
		}
		showVerified(io, v, *deep)
		return nil
	}())
}

// bundled is a repository with one release only.
type bundled struct{ publish.Source }

// openRepository opens a folder, a bundle or a mirror.
func openRepository(at string) (publish.Source, func(), error) {
	if strings.Contains(at, "://") {
		s, err := fetch.OpenMirror(at, fetch.HTTPOptions{Sure: true})
		if err != nil {
			return nil, nil, usageError(err.Error())
		}
		return s, func() { s.Close() }, nil
	}
	fi, err := os.Stat(at)
	if err != nil {
		return nil, nil, usageError(err.Error())
	}
	if fi.IsDir() {
		return publish.Folder(at), func() {}, nil
	}
	f, err := os.Open(at)
	if err != nil {
		return nil, nil, err
	}
	s, err := fetch.OpenBundle(fetch.KindFile, at, f, fi.Size(), f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return bundled{s}, func() { s.Close() }, nil
}

func showVerified(io stdio, v *publish.Verified, deep bool) {
	fmt.Fprintf(io.out, "publisher %s\nroot %d, valid until %s\n", v.Root.Fingerprint, v.Root.Version, v.Root.Expires.Format(time.DateOnly))
	for _, role := range []string{"targets", "beta"} {
		e, ok := v.Evidence[role]
		if !ok {
			continue
		}
		fmt.Fprintf(io.out, "%s: signed by %d of %d", role, e.Signers, e.Of)
		if e.Logged {
			fmt.Fprintf(io.out, ", publicly logged, seen by %d independent witnesses, %s", e.Witnesses, e.Seen.Format(time.RFC3339))
		} else {
			fmt.Fprint(io.out, ", in no public log")
		}
		fmt.Fprintln(io.out)
	}
	for _, r := range v.Releases {
		fmt.Fprintf(io.out, "%s %s, number %d, for %s, commit %.12s\n", r.Release.Channel, r.Release.Version, r.Release.Number, r.Release.Board, r.Release.Commit)
	}
	if deep {
		fmt.Fprintf(io.out, "%d parts unpacked from frames, %d patches applied", v.Frames, v.Patches)
		if v.Unproven > 0 {
			fmt.Fprintf(io.out, ", %d patches from parts that are no longer here (their hashes are right)", v.Unproven)
		}
		fmt.Fprintln(io.out)
	}
	fmt.Fprintf(io.out, "all of this is right until %s\n", v.Expires.Format(time.DateOnly))
}

func releaseLog(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "log", "release log REPO [--log KEY --witness KEY… --quorum K]\n"+
		"       croft release log REPO --serve ADDRESS [--log-key FILE --root FILE…]\n\n"+
		"Lists the entries, after computing the tree from them: whoever looks at it from time to time sees everything that was ever signed\n"+
		"for boxes. Whose word counts is what the repository's newest root says, or the flags.\n\n"+
		"With --serve it serves the log (C2SP tlog-tiles). With the log's key, too, it adds what other publishers sign, whose first roots\n"+
		"are named with --root: POST /add takes a root, targets or beta as it is, and answers with its proof (C2SP tlog-proof)."+passphraseHelp)
	serve := fl.String("serve", "", "`address` to serve the log at; put a web server with TLS in front of it")
	roots := list(fl, "root", "`file` with the first root of another publisher")
	write := newLogFlags(fl)
	log := fl.String("log", "", "`verifier key` of the log")
	witnesses := list(fl, "witness", "`verifier key` of a witness")
	quorum := fl.Int("quorum", 1, "how many of them have to have seen it")
	rest, code, ok := parse(fl, args, 1, 1)
	if !ok {
		return code
	}
	return releaseExit(ctx, io, func() error {
		if *serve != "" {
			return serveLog(ctx, io, rest[0], *serve, *roots, write)
		}
		var policy *tlog.Policy
		if *log != "" {
			p, err := tlog.NewPolicy(*log, *witnesses, *quorum)
			if err != nil {
				return usageError(err.Error())
			}
			policy = p
		} else {
			s, err := publish.SetupOf(rest[0])
			if err != nil {
				return err
			}
			if policy = s.Log; policy == nil {
				return errors.New("this publisher has no public log")
			}
		}
		entries, cp, err := publish.ReadLog(filepath.Join(rest[0], "log"), policy)
		if err != nil {
			return err
		}
		for _, e := range entries {
			what := "something else"
			if e.Role != "" {
				what = fmt.Sprintf("%d.%s.json", e.Version, e.Role)
			}
			fmt.Fprintf(io.out, "%d %s %s (%d bytes)\n", e.Index, e.SHA256, what, e.Size)
		}
		fmt.Fprintf(io.out, "log %s, %d entries, root hash %v\n", cp.Origin, cp.Size, cp.Hash)
		return nil
	}())
}

// serveLog serves the log of a repository until ctx ends.
func serveLog(ctx context.Context, io stdio, repo, address string, roots []string, f logFlags) error {
	o := publish.LogOptions{Repo: repo, Log: slog.New(slog.NewTextHandler(io.err, nil))}
	for _, name := range roots {
		b, err := os.ReadFile(name)
		if err != nil {
			return usageError(err.Error())
		}
		o.Roots = append(o.Roots, b)
	}
	p, err := newPassphrases(newAsker(io))
	if err != nil {
		return err
	}
	if o.Keys, o.Witnesses, err = f.open(ctx, p); err != nil {
		return err
	}
	s, err := publish.NewLogServer(o)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(io.out, "listening on http://%s\n", l.Addr())
	return witness.Serve(ctx, l, s, 3*publish.WitnessTimeout)
}
