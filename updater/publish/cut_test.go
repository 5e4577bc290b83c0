package publish_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/trust"
)

// TestCuts ends a publication before each of the files that it puts in place. A client that knows what was there before, and one
// that is new, have to accept what they find then, and publishing again has to bring it to its end.
func TestCuts(t *testing.T) {
	t.Parallel()
	if testing.Short() || raceEnabled {
		t.Skip("many publications: minutes with the race detector, which the other tests have")
	}
	one := func(k *publish.Key) publish.Threshold {
		return publish.Threshold{N: 1, Keys: []publish.PublicKey{k.PublicKey}}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rotate := func(p *publishtest.Publisher, o *publish.Options, change func(*publish.Setup)) *publish.Stage {
		s, err := publish.SetupOf(p.Dir())
		check(err)
		change(&s)
		st := p.Stage()
		check(st.Rotate(s))
		return st
	}
	withLog := func(p *publishtest.Publisher, o *publish.Options, origin string) *publish.Stage {
		k := p.AddLogKey(origin)
		o.Log = p.Options().Log
		return rotate(p, o, func(s *publish.Setup) { s.Log = p.Policy(k, s.Log.Quorum()) })
	}
	for name, tc := range map[string]struct {
		stage func(*publishtest.Publisher, *publish.Options) *publish.Stage // nil: refresh
		gap   bool                                                          // clients may have to ask again in one place
		least int                                                           // files that are put in place
	}{
		"release": {stage: func(p *publishtest.Publisher, o *publish.Options) *publish.Stage {
			st := p.Stage()
			dir := t.TempDir()
			_, err := st.Add(t.Context(), publish.Input{
				Dir: dir, Notes: map[string]string{"en": "New."}, From: []string{p.Dir()},
				Payload: p.Payload(dir, publishtest.Release{Board: "pc", Number: 2, Version: "v2", Boot: part(1000, 1), Root: part(9000, 2)}),
			})
			check(err)
			return st
		}, least: 6},
		"refresh": {least: 4},
		"a person's key": {stage: func(p *publishtest.Publisher, o *publish.Options) *publish.Stage {
			return rotate(p, o, func(s *publish.Setup) { s.Root.Keys[0] = p.Key("root-new").PublicKey })
		}, least: 7},
		"the machine's key": {stage: func(p *publishtest.Publisher, o *publish.Options) *publish.Stage {
			k := p.Key("online-new")
			o.Online = append(o.Online, k)
			return rotate(p, o, func(s *publish.Setup) { s.Snapshot, s.Timestamp = one(k), one(k) })
		}, least: 7},
		"one of the keys of targets": {stage: func(p *publishtest.Publisher, o *publish.Options) *publish.Stage {
			return rotate(p, o, func(s *publish.Setup) { s.Targets.Keys[4] = p.Key("targets-new").PublicKey })
		}, least: 7},
		"all keys of targets": {stage: func(p *publishtest.Publisher, o *publish.Options) *publish.Stage {
			return rotate(p, o, func(s *publish.Setup) {
				s.Targets = publish.Threshold{N: 2, Keys: []publish.PublicKey{p.Key("targets-new-1").PublicKey, p.Key("targets-new-2").PublicKey}}
			})
		}, least: 7, gap: true},
		"the log's key": {stage: func(p *publishtest.Publisher, o *publish.Options) *publish.Stage {
			return withLog(p, o, "")
		}, least: 8},
		"another log": {stage: func(p *publishtest.Publisher, o *publish.Options) *publish.Stage {
			return withLog(p, o, "example.org/another")
		}, least: 11, gap: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 1}})
			p.AddRelease("pc", 1, "v1", part(1000, 1), part(9000, 1))
			known := t.TempDir()
			c, err := trust.Create(known, trust.Options{Root: p.Root(), NeedLog: true})
			check(err)
			refresh(t, c, p)
			o := p.Options()
			run := func(o publish.Options) error { _, err := publish.Refresh(t.Context(), o); return err }
			if tc.stage != nil {
				st := tc.stage(p, &o)
				p.Sign(st)
				run = func(o publish.Options) error { _, err := publish.Publish(t.Context(), o, st.Dir, nil); return err }
			}
			errCut := errors.New("cut")
			gaps := 0
			for cut := 0; ; cut++ {
				repo := filepath.Join(t.TempDir(), "repo")
				check(os.CopyFS(repo, os.DirFS(p.Dir())))
				o := o
				o.Repo = repo
				n, last := 0, ""
				publish.Cut(&o, func(file string) error {
					if last = file; n == cut {
						return errCut
					}
					n++
					return nil
				})
				err := run(o)
				look := func(when string) bool {
					ok := true
					for _, fresh := range []bool{false, true} {
						dir := filepath.Join(t.TempDir(), "trust")
						var c *trust.Client
						if fresh {
							c, err = trust.Create(dir, trust.Options{Root: p.Root(), NeedLog: true})
						} else {
							check(os.CopyFS(dir, os.DirFS(known)))
							c, err = trust.Open(dir, trust.Options{NeedLog: true})
						}
						check(err)
						if s, err := c.Refresh(t.Context(), publish.Folder(repo), trust.Clock{Now: time.Now(), Sure: true}); err != nil || s.Beta != "" {
							ok = false
							if !tc.gap || when == "after" {
								t.Errorf("%s the cut before %s (new client: %v): %v, beta %q", when, last, fresh, err, s.Beta)
							}
						}
					}
					return ok
				}
				if err == nil { // it was done before that
					if cut < tc.least {
						t.Errorf("only %d files", cut)
					}
					if look("after"); gaps > 1 {
						t.Errorf("clients had to ask again in %d places", gaps)
					}
					return
				}
				if !errors.Is(err, errCut) {
					t.Fatalf("cut %d: %v", cut, err)
				}
				if !look("at") {
					gaps++
				}
				publish.Cut(&o, nil)
				if err := run(o); err != nil {
					t.Fatalf("again after the cut before %s: %v", last, err)
				}
				if cut%3 == 0 {
					look("after")
				}
			}
		})
	}
}
