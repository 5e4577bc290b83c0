package publish

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/croft-os/croft/updater/release"
)

// Audit stages lists of a second organisation: those releases of a project's repository that it has built itself to the same bytes, or had
// stated before. repo is the auditor's own repository, begun as any other with Init; it carries metadata, a log and descriptions
// of releases, and none of what they are made of. What the project withdraws, the auditor's next lists leave out. It returns the
// paths that come new.
//
// This is the second role of TAP 4: boxes whose owner asks for it take only what both lists have.
func Audit(dir, repo, project string, rebuilt []string, now time.Time) (*Stage, []string, error) {
	built := map[string]bool{}
	for _, r := range rebuilt {
		hashes, err := releaseHashes(r)
		if err != nil {
			return nil, nil, err
		}
		for sum := range hashes {
			built[sum] = true
		}
	}
	theirs, err := readTree(project)
	if err != nil {
		return nil, nil, err
	}
	if theirs.targets == nil {
		return nil, nil, fmt.Errorf("%s is not a repository", project)
	}
	if err := theirs.verify(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", project, err)
	}
	st, err := NewStage(dir, repo, now)
	if err != nil {
		return nil, nil, err
	}
	if err := writeFile(filepath.Join(dir, auditorFile), []byte(theirs.fingerprint()+"\n")); err != nil {
		return nil, nil, err
	}
	var fresh []string
	for _, c := range []release.Channel{release.Stable, release.Beta} {
		_, from := theirs.of(c)
		name, _ := st.next.of(c)
		if from == nil || st.base.files[name] == nil {
			continue
		}
		list, err := st.edit(name)
		if err != nil {
			return nil, nil, err
		}
		before := list.Signed.Targets
		list.Signed.Targets = map[string]*metadata.TargetFiles{}
		for _, path := range published(from) {
			f := from.Signed.Targets[path]
			sum := f.Hashes["sha256"].String()
			was := before[path]
			if !built[sum] && (was == nil || was.Hashes["sha256"].String() != sum) {
				continue
			}
			if _, err := readRelease(project, path, f); err != nil {
				return nil, nil, err
			}
			raw, err := hex.DecodeString(sum)
			if err != nil {
				return nil, nil, err
			}
			list.Signed.Targets[path] = &metadata.TargetFiles{Length: f.Length, Hashes: metadata.Hashes{"sha256": raw}}
			if was == nil {
				fresh = append(fresh, path)
			}
			file := release.TargetFile(path, sum)
			if err := copyFile(filepath.Join(dir, file), filepath.Join(project, file)); err != nil {
				return nil, nil, err
			}
		}
		if err := st.putTargets(name, list); err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(fresh)
	return st, fresh, st.reload()
}
