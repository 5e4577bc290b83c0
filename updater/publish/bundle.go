package publish

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
)

// maxBundleFiles is the most entries of a bundle (docs/release-format.md).
const maxBundleFiles = 4096

// Bundle writes croft-BOARD.zip: what a box needs to get from any release before to the board's newest one in a channel, without a network.
// The same repository makes the same bytes.
func Bundle(w io.Writer, repo, board string, c release.Channel) error {
	r, path, files, err := bundleMetadata(repo, board, c)
	if err != nil {
		return err
	}
	files = append(files, path, release.BlobFile(r.Boot.Frames.Blob), release.BlobFile(r.Root.Frames.Blob))
	slices.Sort(files)
	files = slices.Compact(files)
	// What says what the rest is comes first.
	files = append([]string{markFile}, slices.DeleteFunc(files, func(f string) bool { return f == markFile })...)
	if len(files) > maxBundleFiles {
		return fmt.Errorf("a bundle of %d files", len(files))
	}
	z := zip.NewWriter(w)
	for _, name := range files {
		if err := addFile(z, repo, name); err != nil {
			return err
		}
	}
	return z.Close()
}

func addFile(z *zip.Writer, repo, name string) error {
	f, err := os.Open(filepath.Join(repo, name))
	if err != nil {
		return err
	}
	defer f.Close()
	to, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
	if err != nil {
		return err
	}
	_, err = io.Copy(to, f)
	return err
}

// bundleMetadata finds the newest release, and lists all files but its own.
func bundleMetadata(repo, board string, c release.Channel) (*release.Release, string, []string, error) {
	t, err := readTree(repo)
	if err != nil {
		return nil, "", nil, err
	}
	if t.files[roleTimestamp] == nil {
		return nil, "", nil, fmt.Errorf("%s is not a repository", repo)
	}
	_, list := t.of(c)
	var newest *release.Release
	var file string
	for _, path := range published(list) {
		ch, b, _, ok := release.ParseTarget(path)
		if !ok || ch != c || b != board {
			continue
		}
		r, err := readRelease(repo, path, list.Signed.Targets[path])
		if err != nil {
			return nil, "", nil, err
		}
		if newest == nil || r.Number > newest.Number {
			newest, file = r, release.TargetFile(path, list.Signed.Targets[path].Hashes["sha256"].String())
		}
	}
	if newest == nil {
		return nil, "", nil, fmt.Errorf("there is no %s release for %s in %s", c, board, repo)
	}
	files := []string{markFile}
	dirs := []string{""}
	if names, err := filesBelow(repo, "auditors"); err == nil {
		for _, n := range names {
			if d := strings.Join(strings.Split(n, "/")[:2], "/") + "/"; !slices.Contains(dirs, d) && strings.Count(n, "/") > 1 {
				dirs = append(dirs, d)
			}
		}
	}
	for _, d := range dirs {
		names, err := currentFiles(filepath.Join(repo, d))
		if err != nil {
			return nil, "", nil, err
		}
		for _, n := range names {
			files = append(files, d+n)
		}
	}
	return newest, file, files, nil
}

// currentFiles are the roots and the present metadata of a repository, their proofs, and the tiles that belong to those.
func currentFiles(repo string) ([]string, error) {
	t, err := readTree(repo)
	if err != nil {
		return nil, err
	}
	have := func(name string) bool {
		_, err := os.Stat(filepath.Join(repo, name))
		return err == nil
	}
	var files []string
	for v := range t.roots {
		files = append(files, metadataFile(roleRoot, int64(v+1)))
	}
	for r, b := range t.files {
		d, err := versionOf(b)
		if err != nil {
			return nil, err
		}
		if r != roleRoot {
			files = append(files, metadataFile(r, d))
		}
	}
	sizes := map[uint64]bool{}
	for _, f := range slices.Clone(files) {
		for _, suffix := range []string{proofSuffix, beforeSuffix} {
			if !have(f + suffix) {
				continue
			}
			files = append(files, f+suffix)
			b, err := readLimited(filepath.Join(repo, f+suffix), release.MaxProof)
			if err != nil {
				return nil, err
			}
			p, err := tlog.ParseProof(b)
			if err != nil {
				return nil, err
			}
			n, err := checkpointSize(p.Checkpoint)
			if err != nil {
				return nil, err
			}
			sizes[n] = true
		}
	}
	logs := []string{logDir}
	if dirs, err := os.ReadDir(filepath.Join(repo, oldLogs)); err == nil {
		for _, d := range dirs {
			logs = append(logs, oldLogs+"/"+d.Name())
		}
	}
	for _, dir := range logs {
		if !have(dir + "/checkpoint") {
			continue
		}
		files = append(files, dir+"/checkpoint")
		b, err := readLimited(filepath.Join(repo, dir, "checkpoint"), tlog.MaxCheckpoint)
		if err != nil {
			return nil, err
		}
		n, err := checkpointSize(b)
		if err != nil {
			return nil, err
		}
		all := append(tilesOf(n), func() (more []string) {
			for s := range sizes {
				more = append(more, tilesOf(s)...)
			}
			return more
		}()...)
		for _, tile := range all {
			if have(dir + "/" + tile) {
				files = append(files, dir+"/"+tile)
			}
		}
	}
	return files, nil
}
