package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/services/api"
)

// Who lost the password shows that they stand at the box: by a file on its card, or by switching it on and off three
// times, which shows a code on its screen. The code is in memory only.
const (
	recoveryFile   = "recover.txt"
	shortStart     = time.Minute // a start that is cut off earlier counts
	shortStarts    = 3           // so many in a row
	recoveryTime   = 30 * time.Minute
	startsFile     = "short-starts"
	minRecovery    = 8 // letters and digits
	maxRecovery    = 64
	sourceFile     = "file"
	sourceConsole  = "console"
	maxRecoverFile = 4096
)

// recovery is the code that is valid now.
type recovery struct {
	api.Recovery
	until time.Duration // since boot
}

// findRecovery is the boot phase that looks whether the owner lost the password.
func (b *Box) findRecovery() (note string, err error) {
	if b.inRescue() {
		return "", nil
	}
	short, err := 0, error(nil)
	if !b.onTrial() { // a release that fails is no owner who switches the box off and on
		short, err = b.countStart()
	}
	if err != nil {
		err = fmt.Errorf("starts can't be counted: %w", err)
	}
	if b.claimCode() != "" {
		return "", err // nobody's password can be lost
	}
	code, note, ferr := b.recoveryFromFile()
	source := sourceFile
	if code == "" && short >= shortStarts {
		code, source, note = newClaimCode(), sourceConsole, "a recovery code is shown on the screen"
	}
	if code != "" {
		b.mu.Lock()
		b.recover = recovery{api.Recovery{Code: code, Source: source}, b.uptime() + recoveryTime}
		b.mu.Unlock()
	}
	return note, errors.Join(err, ferr)
}

// recoveryFromFile takes the code from the owner's file, once: its hash is remembered first, then the file is wiped.
func (b *Box) recoveryFromFile() (code, note string, err error) {
	content, err := b.readOwnerFile(recoveryFile, maxRecoverFile)
	if errors.Is(err, fat.ErrNotFound) {
		return "", "", nil
	} else if err != nil {
		return "", "", err
	}
	code = strings.TrimSpace(strings.TrimPrefix(string(content), "\xef\xbb\xbf"))
	if code == "" {
		return "", "", nil
	}
	n := 0
	for _, r := range code {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			n++
		} else if r != '-' && r != ' ' {
			n = -maxRecoverFile
		}
	}
	if n < minRecovery || len(code) > maxRecovery {
		return "", "", fmt.Errorf("%s has to hold one code of at least %d letters and digits, and nothing else", recoveryFile, minRecovery)
	}
	sum := sha256.Sum256([]byte(code))
	hash := hex.EncodeToString(sum[:])
	if b.identity().Recovery == hash {
		code, note = "", "the code in "+recoveryFile+" was used already; write another one"
	} else {
		note = "the code in " + recoveryFile + " counts"
		if err := b.change(func(id *identity) { id.Recovery = hash }); err != nil {
			return "", "", err
		}
	}
	if err := b.writeOwnerFile(recoveryFile, bytes.Repeat([]byte{' '}, len(content))); err != nil {
		return code, note, fmt.Errorf("the code still stands there: %w", err)
	}
	return code, note, nil
}

// countStart counts this start, which does not count once it has lasted or ends in order, and returns how many before
// it, in a row, did. A kernel that gives up within the first minute counts like a power cut.
func (b *Box) countStart() (before int, err error) {
	path := filepath.Join(b.dir, startsFile)
	before, _ = strconv.Atoi(strings.TrimSpace(readFile(path)))
	before = min(max(before, 0), shortStarts)
	err = overwriteStarts(path, before+1)
	if errors.Is(err, os.ErrNotExist) {
		err = writeAtomic(path, fmt.Appendln(nil, before+1), 0o600)
	}
	if err != nil {
		return 0, err
	}
	time.AfterFunc(shortStart-b.uptime(), b.startLasted)
	return before, nil
}

// startLasted makes this start one that does not count. It does nothing after the data partition was unmounted.
func (b *Box) startLasted() {
	if err := overwriteStarts(filepath.Join(b.dir, startsFile), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Warn("starts can't be counted", "err", err)
	}
}

// overwriteStarts puts a digit into the file in place, which a full disk does not prevent. It is within one sector, which a
// power cut leaves as before or as after.
func overwriteStarts(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(fmt.Appendln(nil, n), 0)
	return errors.Join(err, f.Sync())
}

// recoveryCode returns the code that is valid now, none without one.
func (b *Box) recoveryCode() api.Recovery {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uptime() >= b.recover.until {
		b.recover = recovery{}
	}
	return b.recover.Recovery
}

// voidRecovery ends the code.
func (b *Box) voidRecovery() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recover = recovery{}
}
