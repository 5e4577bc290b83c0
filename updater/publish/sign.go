package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
)

// ErrRefused is what Sign fails with, wrapped, where signing would be wrong. Somebody has to look.
var ErrRefused = errors.New("not signed")

// SignOptions are how one holder of a key signs.
type SignOptions struct {
	Key     *Key
	Rebuilt []string // folders with what the holder has built: stages
	Trust   []string // SHA-256 of descriptions of releases that the holder trusts without building them
	Ledger  string   // file in which it is kept what this key has signed; "" keeps nothing
	// Replace has the key sign something else of a version that it has signed before, which has to have been thrown away.
	Replace bool
	// Confirm is shown everything that the signature would say, and decides.
	Confirm func(text string) bool
}

// ledger is what a key has signed, by publisher (fingerprint of the first root) and role: so that nobody gets two different things
// of the same version, or something older, signed by the same key.
type ledger map[string]map[string]ledgerEntry

type ledgerEntry struct {
	Version int64  `json:"version"`
	SHA256  string `json:"sha256"` // of what was signed
}

// Sign adds a holder's signatures to the metadata of a stage, and says to which files. It needs no network and writes only those files
// and the ledger.
func (st *Stage) Sign(o SignOptions) ([]string, error) {
	refuse := func(format string, a ...any) ([]string, error) {
		return nil, fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, a...))
	}
	id := o.Key.ID()
	var text strings.Builder
	publisher := st.publisher()
	if st.base.root == nil {
		fmt.Fprintf(&text, "You sign as %s (key %.16s).\nThis begins a new publisher: there is nothing before it.\n", o.Key.Name, id)
	} else {
		fmt.Fprintf(&text, "You sign as %s (key %.16s), for the publisher whose first root is\n%s\n", o.Key.Name, id, publisher)
	}
	kept := ledger{}
	if o.Ledger != "" {
		b, err := readLimited(o.Ledger, 1<<20)
		if err == nil {
			err = json.Unmarshal(b, &kept)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("what this key has signed before: %w", err)
		}
	}
	if kept[publisher] == nil {
		kept[publisher] = map[string]ledgerEntry{}
		if st.base.root != nil && o.Ledger != "" {
			fmt.Fprintln(&text, "This key has not signed for this publisher before. Compare that number with what you know from elsewhere.")
		}
	}
	built := map[string]bool{}
	for _, dir := range o.Rebuilt {
		hashes, err := releaseHashes(dir)
		if err != nil {
			return nil, err
		}
		for sum := range hashes {
			built[sum] = true
		}
	}
	type job struct {
		name string
		d    *document
	}
	var jobs []job
	mine, signed := false, false
	for _, roleName := range []string{roleRoot, roleTargets, roleBeta} {
		b := st.next.files[roleName]
		if b == nil {
			continue
		}
		var may bool
		for _, r := range st.signers(roleName) {
			may = may || r.has(id)
		}
		if !may {
			continue
		}
		mine = true
		d, err := parseDocument(b)
		if err != nil {
			return nil, err
		}
		name := metadataFile(roleName, st.version(roleName)+1)
		if d.has(id) {
			signed = true
			continue
		}
		msg, err := d.message()
		if err != nil {
			return nil, err
		}
		entry := ledgerEntry{st.version(roleName) + 1, hashOf(msg)}
		switch before := kept[publisher][roleName]; {
		case st.base.root == nil: // a draft of a beginning may be thrown away
		case before.Version > entry.Version:
			return refuse("%s is version %d, but this key has signed version %d already", name, entry.Version, before.Version)
		case before.Version == entry.Version && before.SHA256 != entry.SHA256 && o.Replace:
			fmt.Fprintf(&text, "\nTHIS KEY HAS SIGNED ANOTHER %s WITH VERSION %d: all copies of that have to be gone.\n", roleName, entry.Version)
		case before.Version == entry.Version && before.SHA256 != entry.SHA256:
			return refuse("this key has signed another %s with version %d before", roleName, entry.Version)
		}
		fmt.Fprintf(&text, "\n%s\n", name)
		if roleName == roleRoot {
			if err := st.describeRoot(&text); err != nil {
				return refuse("%s: %w", name, err)
			}
		} else if err := st.describeTargets(&text, roleName, built, o.Trust); err != nil {
			return refuse("%s: %w", name, err)
		}
		fmt.Fprintf(&text, "  SHA-256 of what is signed: %s\n", entry.SHA256)
		kept[publisher][roleName] = entry
		if err := d.add(o.Key); err != nil {
			return nil, err
		}
		jobs = append(jobs, job{name, d})
	}
	switch {
	case !mine:
		return refuse("the key of %s may sign nothing of what is here", o.Key.Name)
	case len(jobs) == 0 && signed:
		return refuse("%s has signed all of this already", o.Key.Name)
	case o.Confirm == nil || !o.Confirm(text.String()):
		return refuse("as you said")
	}
	if o.Ledger != "" && st.base.root != nil {
		b, err := json.MarshalIndent(kept, "", "  ")
		if err != nil {
			return nil, err
		}
		if err := writeFile(o.Ledger, append(b, '\n')); err != nil {
			return nil, err
		}
	}
	var names []string
	for _, j := range jobs {
		b, err := j.d.bytes()
		if err != nil {
			return nil, err
		}
		if err := writeFile(filepath.Join(st.Dir, j.name), b); err != nil {
			return nil, err
		}
		names = append(names, j.name)
	}
	return names, st.reload()
}

// audits tells whether the stage is of an auditor, who may come to a release later than to the one after it.
func (st *Stage) audits() bool {
	_, err := os.Stat(filepath.Join(st.Dir, auditorFile))
	return err == nil
}

// publisher is the fingerprint of the first root; "" where there is none yet.
func (st *Stage) publisher() string {
	if len(st.base.roots) > 0 {
		return st.base.fingerprint()
	}
	return ""
}

// signers are the roles that have to sign staged metadata: of a root, that of the root before and its own.
func (st *Stage) signers(name string) []role {
	switch name {
	case roleRoot:
		list := []role{rootRole(st.next.root, roleRoot)}
		if st.base.root != nil {
			list = append(list, rootRole(st.base.root, roleRoot))
		}
		return list
	case roleTargets:
		return []role{rootRole(st.root(), roleTargets)}
	case roleBeta:
		if r, ok := betaOf(st.list(roleTargets)); ok {
			return []role{r}
		}
	}
	return nil
}

// Missing says how many signatures the stage still needs, by file; nothing if it is complete.
func (st *Stage) Missing() (map[string]int, error) {
	missing := map[string]int{}
	for name, b := range st.next.files {
		d, err := parseDocument(b)
		if err != nil {
			return nil, err
		}
		for _, r := range st.signers(name) {
			ids, err := r.valid(d)
			if err != nil {
				return nil, err
			}
			file := metadataFile(name, st.version(name)+1)
			if n := r.threshold - len(ids); n > missing[file] {
				missing[file] = n
			}
		}
	}
	return missing, nil
}

// Gather takes over the signatures that copies of the stage have got meanwhile. What they sign must be the same.
func (st *Stage) Gather(copies []string) error {
	for name, b := range st.next.files {
		file := metadataFile(name, st.version(name)+1)
		d, err := parseDocument(b)
		if err != nil {
			return err
		}
		msg, err := d.message()
		if err != nil {
			return err
		}
		for _, dir := range copies {
			b, err := readLimited(filepath.Join(dir, file), limitOf(name))
			if err != nil {
				return err
			}
			other, err := parseDocument(b)
			if err != nil {
				return fmt.Errorf("%s: %w", filepath.Join(dir, file), err)
			}
			if m, err := other.message(); err != nil || string(m) != string(msg) {
				return fmt.Errorf("%s is not the file that %s has", filepath.Join(dir, file), st.Dir)
			}
			for _, s := range other.Signatures {
				if !d.has(s.KeyID) {
					d.Signatures = append(d.Signatures, s)
				}
			}
		}
		if b, err = d.bytes(); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(st.Dir, file), b); err != nil {
			return err
		}
	}
	return st.reload()
}

const day = "2006-01-02"

// describeRoot says in words what a new root changes.
func (st *Stage) describeRoot(w *strings.Builder) error {
	r := st.next.root
	policy, err := policyOf(r)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  version %d, valid until %s\n", r.Signed.Version, r.Signed.Expires.Format(day))
	if !r.Signed.Expires.After(st.now) {
		return errors.New("it has expired")
	}
	var before *tlog.Policy
	if st.base.root != nil {
		if before, err = policyOf(st.base.root); err != nil {
			return err
		}
	}
	for _, name := range []string{roleRoot, roleTargets, roleSnapshot, roleTimestamp} {
		now := rootRole(r, name)
		if st.base.root == nil {
			describeRole(w, name, now, role{})
		} else if was := rootRole(st.base.root, name); !now.same(was) {
			describeRole(w, name, now, was)
		} else {
			fmt.Fprintf(w, "  %s: as before, %d of %d keys\n", name, now.threshold, len(now.ids))
		}
	}
	describePolicy(w, policy, before, st.base.root == nil)
	return nil
}

func describeRole(w *strings.Builder, name string, now, was role) {
	fmt.Fprintf(w, "  %s: %d of %d keys", name, now.threshold, len(now.ids))
	if was.threshold > 0 {
		fmt.Fprintf(w, ", before %d of %d", was.threshold, len(was.ids))
	}
	fmt.Fprintln(w)
	for _, id := range now.ids {
		sign := " "
		if !was.has(id) {
			sign = "+"
		}
		fmt.Fprintf(w, "  %s   %s (key %.16s)\n", sign, now.name(id), id)
	}
	for _, id := range was.ids {
		if !now.has(id) {
			fmt.Fprintf(w, "  -   %s (key %.16s)\n", was.name(id), id)
		}
	}
}

func describePolicy(w *strings.Builder, now, was *tlog.Policy, first bool) {
	js := func(p *tlog.Policy) string {
		b, err := json.Marshal(p)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	switch {
	case now == nil && was != nil:
		fmt.Fprintln(w, "  THE PUBLIC LOG IS GIVEN UP: nobody would see any more what this publisher shows to whom.")
	case now == nil:
		fmt.Fprintln(w, "  no public log")
	case !first && was != nil && js(now) == js(was):
		fmt.Fprintf(w, "  public log: as before, %s, %d of %d witnesses\n", now.Origin(), now.Quorum(), now.Witnesses())
	default:
		fmt.Fprintf(w, "  public log: %s\n  %d of these witnesses have to have seen it:\n", now.LogKey(), now.Quorum())
		for _, k := range now.WitnessKeys() {
			sign := " "
			if was == nil || !slices.Contains(was.WitnessKeys(), k) {
				sign = "+"
			}
			fmt.Fprintf(w, "  %s   %s\n", sign, k)
		}
		if was != nil {
			for _, k := range was.WitnessKeys() {
				if !slices.Contains(now.WitnessKeys(), k) {
					fmt.Fprintf(w, "  -   %s\n", k)
				}
			}
			if now.LogKey() != was.LogKey() {
				fmt.Fprintf(w, "  before: %s\n", was.LogKey())
			}
			if now.Quorum() != was.Quorum() {
				fmt.Fprintf(w, "  before: %d witnesses had to have seen it\n", was.Quorum())
			}
		}
	}
}

// describeTargets says in words which releases come and go. It fails if one comes that the holder neither built nor trusts.
func (st *Stage) describeTargets(w *strings.Builder, name string, built map[string]bool, trust []string) error {
	now, was := st.next.targets, st.base.targets
	if name == roleBeta {
		now, was = st.next.beta, st.base.beta
	}
	fmt.Fprintf(w, "  version %d, valid until %s\n", now.Signed.Version, now.Signed.Expires.Format(day))
	if !now.Signed.Expires.After(st.now) {
		return errors.New("it has expired")
	}
	var newest int64 // number among what was published before, in both channels
	for _, m := range []*targetsMeta{st.base.targets, st.base.beta} {
		for _, path := range published(m) {
			r, err := readRelease(st.base.dir, path, m.Signed.Targets[path])
			if err != nil {
				return fmt.Errorf("what this stage follows: %w", err)
			}
			newest = max(newest, r.Number)
		}
	}
	same := 0
	for _, path := range published(now) {
		f := now.Signed.Targets[path]
		sum := f.Hashes["sha256"].String()
		if was != nil && was.Signed.Targets[path] != nil {
			if before := was.Signed.Targets[path]; before.Hashes["sha256"].String() != sum || before.Length != f.Length {
				return fmt.Errorf("%s was published already, as something else", path)
			}
			same++
			continue
		}
		c, _, _, ok := release.ParseTarget(path)
		if !ok || (c == release.Beta) != (name == roleBeta) {
			return fmt.Errorf("%s is not a release that %s may name", path, name)
		}
		how := ""
		switch {
		case built[sum]:
			how = "you have built the same"
		case slices.Contains(trust, sum):
			how = "trusted because you named its hash"
		default:
			return fmt.Errorf("%s (SHA-256 %s): you have neither built the same nor said that you trust it", path, sum)
		}
		r, err := readRelease(st.Dir, path, f)
		if err != nil {
			return err
		}
		if r.Number <= newest && !st.audits() {
			return fmt.Errorf("%s has number %d, but %d is published already", path, r.Number, newest)
		}
		fmt.Fprintf(w, "  + %s %s, number %d, for %s, built %s from commit %.12s\n    SHA-256 %s (%s)\n",
			r.Channel, r.Version, r.Number, r.Board, time.Unix(r.Built, 0).UTC().Format(day), r.Commit, sum, how)
	}
	for _, path := range published(was) {
		if now.Signed.Targets[path] == nil {
			fmt.Fprintf(w, "  - %s\n", strings.TrimSuffix(path, "/release.json"))
		}
	}
	fmt.Fprintf(w, "  %d releases stay as they are\n", same)
	if name == roleBeta {
		return nil
	}
	r, has := betaOf(now)
	if was == nil {
		if has {
			describeRole(w, roleBeta, r, role{})
		}
		return nil
	}
	before, had := betaOf(was)
	switch {
	case has && (!had || !r.same(before)):
		describeRole(w, roleBeta, r, before)
	case had && !has:
		fmt.Fprintln(w, "  - the role beta")
	}
	return nil
}

func published(t *targetsMeta) []string {
	if t == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(t.Signed.Targets))
}
