package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/croft-os/croft/updater/tlog"
)

// The store is one value in two files of the same content, each with its own hash, replaced as a whole one after the other. So a power
// cut leaves the old value or the new one, and damage of either file nothing worse than the other.
const (
	storeFormat = "croft-trust/1"
	maxStore    = 32 << 20 // bytes of a file
)

func storeFiles() []string { return []string{"trust.a", "trust.b"} }

// state is everything that was verified, as bytes that are verified again whenever they are read.
type state struct {
	Format    string                     `json:"format"`
	Seq       int64                      `json:"seq"`
	First     []byte                     `json:"first"` // root
	Root      []byte                     `json:"root"`  // newest
	RootProof []byte                     `json:"root_proof,omitempty"`
	Keys      []string                   `json:"keys,omitempty"` // root.rollbackKeys when the two below were taken
	Timestamp []byte                     `json:"timestamp,omitempty"`
	Snapshot  []byte                     `json:"snapshot,omitempty"`
	Set       *set                       `json:"set,omitempty"`
	Logs      map[string]tlog.Checkpoint `json:"logs,omitempty"` // largest tree seen, by the log's key
	RefTime   int64                      `json:"ref_time"`       // seconds since 1970
	Split     *tlog.SplitView            `json:"split,omitempty"`
}

// clone is a copy that may be changed; the bytes in it never are.
func (st *state) clone() *state {
	c := *st
	c.Logs = map[string]tlog.Checkpoint{}
	maps.Copy(c.Logs, st.Logs)
	return &c
}

// set is the last complete metadata. It is replaced, never changed.
type set struct {
	Timestamp    []byte `json:"timestamp"`
	Snapshot     []byte `json:"snapshot"`
	Targets      []byte `json:"targets"`
	TargetsProof []byte `json:"targets_proof,omitempty"`
	Beta         []byte `json:"beta,omitempty"`
	BetaProof    []byte `json:"beta_proof,omitempty"`
	NoBeta       string `json:"no_beta,omitempty"` // why there is none, though there should be
}

// disk is the folder that the store lies in; a test cuts its power.
type disk interface {
	Read(name string) ([]byte, error)
	Write(name string, b []byte) error // creates or truncates, writes, and flushes the file
	Rename(from, to string) error
	Sync() error // flushes the folder
}

// folder is a disk.
type folder string

func (d folder) Read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStore))
}

func (d folder) Write(name string, b []byte) error {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func (d folder) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(d), from), filepath.Join(string(d), to))
}

func (d folder) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// load reads the newer of the two files that is whole: fs.ErrNotExist if there is none at all, ErrDamaged if none is whole.
func load(d disk) (*state, error) {
	var best *state
	var errs []error
	missing := 0
	for _, name := range storeFiles() {
		b, err := d.Read(name)
		if errors.Is(err, fs.ErrNotExist) {
			missing++
			continue
		} else if err != nil {
			errs = append(errs, err)
			continue
		}
		st, err := decode(b)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if best == nil || st.Seq > best.Seq {
			best = st
		}
	}
	switch {
	case best != nil:
		return best, nil
	case missing == len(storeFiles()):
		return nil, fmt.Errorf("trust store: %w", fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%w: %w", ErrDamaged, errors.Join(errs...))
}

// save makes st durable.
func save(d disk, st *state) error {
	b, err := encode(st)
	if err != nil {
		return err
	}
	for _, name := range storeFiles() {
		if err := d.Write(name+".new", b); err != nil {
			return fmt.Errorf("trust store: %w", err)
		}
		if err := d.Rename(name+".new", name); err != nil {
			return fmt.Errorf("trust store: %w", err)
		}
		if err := d.Sync(); err != nil {
			return fmt.Errorf("trust store: %w", err)
		}
	}
	return nil
}

func encode(st *state) ([]byte, error) {
	b, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	return append([]byte(fingerprint(b)+"\n"), b...), nil
}

func decode(b []byte) (*state, error) {
	sum, b, ok := bytes.Cut(b, []byte("\n"))
	if got := sha256.Sum256(b); !ok || string(sum) != hex.EncodeToString(got[:]) {
		return nil, errors.New("its hash is another one")
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return nil, err
	}
	if st.Format != storeFormat {
		return nil, fmt.Errorf("format %.40q", st.Format)
	}
	return &st, nil
}
