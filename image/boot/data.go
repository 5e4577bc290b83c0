package boot

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
	"golang.org/x/sys/unix"
)

// markerFile marks a data partition as this box's own. Without it the box never starts on the partition.
const markerFile = "croft.json"

// identity is the content of the marker file, readable by root only.
type identity struct {
	Format   int    `json:"format"`              // 1
	ID       string `json:"id"`                  // UUID of the box
	Claim    string `json:"claim"`               // claim code; empty once void
	Created  int64  `json:"created_build"`       // build time of the release that made it, seconds since 1970
	Name     string `json:"name,omitempty"`      // host name; empty for defaultName
	TimeZone string `json:"time_zone,omitempty"` // that the settings file asked for
	Settings string `json:"settings,omitempty"`  // what the settings file holds once it was taken over
	Wipe     bool   `json:"wipe,omitempty"`      // that has to be written still
	Recovery string `json:"recovery,omitempty"`  // SHA-256 of the last code in recover.txt, which is good once
	Erase    bool   `json:"erase,omitempty"`     // the owner wants to start over
}

// volume is the data partition.
type volume struct {
	disk  disk.Disk
	table layout.Table
	part  disk.Partition
}

// volume returns what is known of the data partition, nil before it was found.
func (b *Box) volume() *volume {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data == nil {
		return nil
	}
	v := *b.data
	return &v
}

// rescueError says why there is no data partition to use, in words for the owner and for the record.
type rescueError struct {
	code, text string
	err        error
}

func (e *rescueError) Error() string { return e.err.Error() }
func (e *rescueError) Unwrap() error { return e.err }

// openData finds, grows, checks and mounts the data partition; on failure the box is in rescue mode.
func (b *Box) openData() (string, error) {
	note, err := guard(func() (string, error) { return b.tryData(10 * time.Second) })
	if err == nil {
		if jerr := b.journal.Attach(b.dir + "/log"); jerr != nil {
			return note, fmt.Errorf("logs are kept in memory only: %w", jerr)
		}
		return note, nil
	}
	r := &api.Rescue{Code: "failed", Text: "The box can't use its data partition.", Detail: err.Error()}
	var re *rescueError
	if errors.As(err, &re) {
		r.Code, r.Text = re.code, re.text
	}
	b.mu.Lock()
	b.rescue = r
	b.ident = identity{} // showCode finds a code
	b.mu.Unlock()
	return joinNote("rescue mode", note), err
}

// tryData leaves the data partition mounted on dataDir, or unmounted with the reason.
func (b *Box) tryData(wait time.Duration) (note string, err error) {
	d, err := disk.RootDisk("/sys")
	if err != nil {
		return "", &rescueError{"no-drive", "The box can't tell which drive it started from.", err}
	}
	table, err := disk.TableOf(d)
	if err != nil {
		return "", &rescueError{"no-table", "The list of partitions on the box's drive can't be read.", err}
	}
	p, err := disk.Data("/sys", d, disk.Layout(table).Data, wait)
	if err != nil {
		return "", &rescueError{"no-partition", "The drive that the box started from has no data partition.", err}
	}
	b.mu.Lock()
	b.data = &volume{d, table, p}
	b.mu.Unlock()
	if err := disk.Finished(p.Path()); errors.Is(err, disk.ErrUnfinished) { // nothing of what was there can come back
		if err := b.erase(p); err != nil {
			return "", err
		}
		note = "went on erasing"
	}
	replayed, rerr := disk.Recover(p.Path())
	note = joinNote(note, replayed)
	if rerr != nil {
		note = joinNote(note, "not recovered: "+rerr.Error()) // then the kernel may still manage
	}
	sb, err := superblock(p)
	if err != nil {
		code, text := "damaged", "The data partition is damaged at its start."
		if errors.Is(err, disk.ErrNotExt4) {
			code, text = "not-ext4", "The data partition holds no file system that the box knows."
		}
		return note, &rescueError{code, text, err}
	}
	fresh := sb.UUID == disk.SeedUUID
	if err := disk.Mount(p.Path(), dataDir); err != nil {
		return note, &rescueError{"mount-failed", "The data partition can't be opened.", err}
	}
	keep := false
	defer func() {
		if !keep {
			unix.Unmount(dataDir, 0)
		}
	}()
	id, err := readIdentity(dataDir)
	switch {
	case errors.Is(err, os.ErrNotExist) && fresh:
		note = joinNote("first start", note)
		id = identity{Format: 1, ID: disk.FormatUUID(disk.NewUUID()), Claim: newClaimCode(), Created: b.release.Built}
		if err := writeIdentity(dataDir, id); err != nil {
			return note, &rescueError{"not-writable", "The data partition can't be written.", err}
		}
	case err != nil:
		return note, &rescueError{"no-marker", "The data partition does not carry this box's mark, so it may not be the right one.", err}
	case id.Erase:
		if err := unix.Unmount(dataDir, 0); err != nil {
			return note, fmt.Errorf("unmount: %w", err)
		}
		keep = true // what is mounted from now on is the new one
		if err := b.erase(p); err != nil {
			return note, err
		}
		note, err := b.tryData(wait)
		return joinNote("erased, as was asked for", note), err
	}
	// Only now is it known to be ours. The file system's id is set last of all ids: until then the first start is not over.
	var grown error
	if p, grown = disk.Grow(d, table, p, fresh); grown == nil {
		b.mu.Lock()
		b.data = &volume{d, table, p}
		b.mu.Unlock()
	}
	if fresh {
		if err := disk.SetUUID(dataDir, disk.NewUUID()); err != nil {
			return note, &rescueError{"not-writable", "The data partition can't be written.", err}
		}
	}
	if grown == nil && p.Size-int64(sb.Blocks)*sb.BlockSize >= 1<<20 {
		before, _, _, _ := disk.Usage(dataDir)
		grown = disk.GrowFS(dataDir, p.Size)
		if after, _, _, _ := disk.Usage(dataDir); after > before { // the kernel leaves out a last group that is too small
			note = joinNote(note, fmt.Sprintf("grown from %d to %d MB", before>>20, after>>20))
		}
	}
	if grown != nil {
		note = joinNote(note, "not grown: "+grown.Error())
	}
	for dir, mode := range map[string]os.FileMode{"state": 0o711, "log": 0o700} {
		path := filepath.Join(dataDir, dir)
		if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
			return note, &rescueError{"not-writable", "The data partition can't be written.", err}
		}
		if err := os.Chmod(path, mode); err != nil {
			return note, &rescueError{"not-writable", "The data partition can't be written.", err}
		}
	}
	b.mu.Lock()
	b.ident = id
	b.mu.Unlock()
	keep = true
	return note, nil
}

// erase puts a seed in the place of what the data partition holds. Cut off, it is gone on with at the next start.
func (b *Box) erase(p disk.Partition) error {
	if p.Size < disk.SeedSize {
		return fmt.Errorf("the data partition is too small: %d bytes", p.Size)
	}
	b.say("Starting over: erasing the data partition. This takes a minute; leave the power on.")
	err := disk.Format(p.Path(), b.progress)
	if errors.Is(err, disk.ErrUnfinished) {
		return &rescueError{api.RescueUnfinished, "Starting over failed, so the data partition is half erased.", err}
	} else if err != nil {
		return err
	}
	// A card that is worn out takes writes and keeps what it had: then the wish to start over would come back for ever.
	if sb, err := superblock(p); err != nil || sb.UUID != disk.SeedUUID {
		return &rescueError{"damaged", "Starting over failed: the drive does not keep what is written to it.", errors.Join(errors.New("no seed after formatting"), err)}
	}
	return nil
}

func joinNote(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

func superblock(p disk.Partition) (disk.Superblock, error) {
	f, err := os.Open(p.Path())
	if err != nil {
		return disk.Superblock{}, err
	}
	defer f.Close()
	return disk.ReadSuperblock(f)
}

func readIdentity(dir string) (identity, error) {
	var id identity
	b, err := os.ReadFile(filepath.Join(dir, markerFile))
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%s: %w", markerFile, err)
	}
	if id.Format != 1 || id.ID == "" {
		return id, fmt.Errorf("%s: format %d is not known to this release", markerFile, id.Format)
	}
	return id, nil
}

func writeIdentity(dir string, id identity) error {
	b, err := json.MarshalIndent(id, "", "\t")
	if err != nil {
		return err
	}
	return writeAtomic(filepath.Join(dir, markerFile), append(b, '\n'), 0o600)
}

// codeAlphabet is Crockford's base 32 (https://www.crockford.com/base32.html).
const codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// newClaimCode returns 40 random bits as "XXXX-XXXX" in Crockford's base 32.
func newClaimCode() string {
	var r [8]byte
	rand.Read(r[:])
	s := make([]byte, 0, 9)
	for i, x := range r {
		if i == 4 {
			s = append(s, '-')
		}
		s = append(s, codeAlphabet[x%32])
	}
	return string(s)
}

// identity returns what is known of the marker file.
func (b *Box) identity() identity {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ident
}

// change changes the marker file, on the medium first; in rescue mode, in memory only.
func (b *Box) change(f func(*identity)) error {
	b.marking.Lock()
	defer b.marking.Unlock()
	id := b.identity()
	f(&id)
	if !b.inRescue() {
		if err := writeIdentity(b.dir, id); err != nil {
			return err
		}
	}
	b.mu.Lock()
	b.ident = id
	b.mu.Unlock()
	return nil
}

// voidClaim ends the claim code for ever. The file for the owner's computer is only a copy: a box must be claimable
// without it.
func (b *Box) voidClaim() error {
	if err := b.change(func(id *identity) { id.Claim = "" }); err != nil || b.inRescue() {
		return err
	}
	if _, err := b.writeClaimFile(); err != nil {
		b.log.Warn("the claim code still stands in "+claimFile, "err", err)
	}
	return nil
}

// markErase makes the next start, which comes at once, a first one.
func (b *Box) markErase() error {
	if b.inRescue() {
		return errors.New("the box is in rescue mode, where starting over is an action of its own")
	}
	if err := b.change(func(id *identity) { id.Erase = true }); err != nil {
		return err
	}
	b.finishSoon("reboot")
	return nil
}

var errBusy = errors.New("another action is still under way")

// act runs one of the rescue page's actions in the background; what came of it shows in api.Rescue.
func (b *Box) act(ctx context.Context, action string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rescue == nil {
		return errors.New("the box is not in rescue mode")
	}
	if b.cfg.Rescue {
		return errors.New("the rescue system does not touch the data partition")
	}
	if action == "cancel" {
		if b.cancel == nil {
			return errors.New("there is nothing that can be cancelled")
		}
		b.cancel()
		return nil
	}
	if b.rescue.Busy != "" || b.ending {
		return errBusy
	}
	if b.data == nil && action != "retry" {
		return errors.New("there is no data partition to act on")
	}
	run := map[string]func(context.Context) error{"retry": b.retry, "check": b.runCheck, "start-over": b.startOver}[action]
	if run == nil {
		return fmt.Errorf("unknown action %q", action)
	}
	b.rescue.Busy, b.rescue.Progress = action, 0
	ctx, cancel := context.WithCancel(ctx)
	if action == "check" { // the others must not be left half done
		b.cancel = cancel
	}
	go func() {
		defer cancel()
		_, err := guard(func() (string, error) { return "", run(ctx) })
		b.log.Info("rescue action", "action", action, "err", err)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.rescue.Busy, b.cancel = "", nil
		if err != nil && !errors.Is(err, context.Canceled) {
			b.rescue.Detail = err.Error()
			var re *rescueError
			if errors.As(err, &re) {
				b.rescue.Code, b.rescue.Text = re.code, re.text
			}
		}
	}()
	return nil
}

func (b *Box) progress(p float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rescue != nil {
		b.rescue.Progress = p
	}
}

// retry opens the data partition again, and restarts the box if that works.
func (b *Box) retry(context.Context) error {
	keep := b.claimCode()
	_, err := b.tryData(time.Second)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.ident = identity{Claim: keep} // the rescue code counts until the restart
	b.mu.Unlock()
	if err := unix.Unmount(dataDir, 0); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	b.finish("reboot")
	return nil
}

func (b *Box) check(ctx context.Context) error {
	b.mu.Lock()
	p := b.data.part
	b.mu.Unlock()
	ok, findings, err := disk.Check(ctx, p.Path(), p.Size, b.progress)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.rescue.Check = &api.CheckDone{At: time.Now().UTC(), OK: ok, Findings: findings}
	b.mu.Unlock()
	return nil
}

// startOver formats the data partition of the boot medium, and restarts the box.
func (b *Box) startOver(context.Context) error {
	b.mu.Lock()
	p := b.data.part
	b.mu.Unlock()
	if err := b.erase(p); err != nil {
		return err
	}
	b.finish("reboot")
	return nil
}

func (b *Box) claimCode() string { return b.identity().Claim }
