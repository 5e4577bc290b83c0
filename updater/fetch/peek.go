package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/croft-os/croft/updater/release"
)

// Peek returns the version of the newest release for a board that a source seems to offer in a channel; "" for none. Nothing of it
// is verified: it is for showing, and for choosing whom to ask. Beta takes in stable.
func Peek(ctx context.Context, src Source, board string, channel release.Channel) (string, error) {
	type meta struct {
		Signed struct {
			Meta    map[string]struct{ Version int64 } `json:"meta"`
			Targets map[string]json.RawMessage         `json:"targets"`
		} `json:"signed"`
	}
	read := func(path string) (meta, error) {
		var m meta
		_, limit := Path(path)
		b, err := src.Get(ctx, path, limit)
		if err == nil {
			if err = json.Unmarshal(b, &m); err != nil {
				err = fmt.Errorf("%w: %s: %w", ErrLied, path, err)
			}
		}
		return m, err
	}
	timestamp, err := read("metadata/timestamp.json")
	if err != nil {
		return "", err
	}
	snapshot, err := read(fmt.Sprintf("metadata/%d.snapshot.json", timestamp.Signed.Meta["snapshot.json"].Version))
	if err != nil {
		return "", err
	}
	newest := ""
	for _, role := range []string{"targets", "beta"} {
		n := snapshot.Signed.Meta[role+".json"].Version
		if role == "beta" && (n == 0 || channel != release.Beta) {
			continue
		}
		targets, err := read(fmt.Sprintf("metadata/%d.%s.json", n, role))
		if role == "beta" && errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		for name := range targets.Signed.Targets {
			if _, b, version, ok := release.ParseTarget(name); ok && b == board && (newest == "" || CompareVersions(version, newest) > 0) {
				newest = version
			}
		}
	}
	return newest, nil
}

// CompareVersions orders versions as people read them: numbers by their value, all else as text. Which release is newer in truth, its
// number says.
func CompareVersions(a, b string) int {
	return slices.CompareFunc(parts(a), parts(b), func(x, y string) int {
		n, errN := strconv.ParseUint(x, 10, 64)
		m, errM := strconv.ParseUint(y, 10, 64)
		switch {
		case errN == nil && errM == nil && n != m:
			if n < m {
				return -1
			}
			return 1
		case errN == nil && errM == nil:
			return 0
		}
		return strings.Compare(x, y)
	})
}

// parts cuts a version into runs of digits and of others.
func parts(s string) []string {
	var list []string
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	for i := 0; i < len(s); {
		j := i + 1
		for j < len(s) && digit(s[j]) == digit(s[i]) {
			j++
		}
		list = append(list, s[i:j])
		i = j
	}
	return list
}
