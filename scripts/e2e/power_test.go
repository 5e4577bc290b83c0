package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
	_ "github.com/mattn/go-sqlite3" // judges the databases that a cut leaves
)

const (
	cuts   = 240  // crash images that are checked
	booted = 12   // of them, and booted to the page
	more   = 4000 // crash images that are searched for ones that the kernel alone could not mount
)

// job is one power cut.
type job struct {
	seed uint64
	at   int // events before it
}

// TestPowerCuts records a whole first start and a sign-in, makes the disks that power cuts at random moments could have
// left, lets foreign tools judge each, and boots some of them: every one must come up, as one and the same box from the
// moment on that it had told its code.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	img := image(t, qemu.PC)
	base, err := faults.LoadDisk(img, diskSize)
	if err != nil {
		t.Fatal(err)
	}
	rec := &faults.Recorder{Device: base.Fork()}
	b := start(t, memoryOptions(t, rec))
	b.waitPage()
	code := b.code()
	told := len(rec.Events()) // what was promised until here must last
	b.signIn(code)
	b.waitState("everything runs", time.Minute, healthy)
	ca := b.authority()
	b.off()
	events := rec.Events()
	flushes, bytes := 0, int64(0)
	for _, e := range events {
		if e.Kind == faults.KindFlush {
			flushes++
		}
		bytes += e.Len
	}
	t.Logf("recorded %d events, %d flushes, %d kB; the page and the code were there after %d", len(events), flushes, bytes>>10, told)
	if flushes < 5 {
		t.Error("hardly any flushes: the recording can't be right")
	}

	const seed = 20261120
	rng := rand.New(rand.NewPCG(seed, 0))
	jobs := make([]job, cuts)
	for i := range jobs {
		jobs[i] = job{uint64(i), rng.IntN(len(events) + 1)}
	}
	crash := func(j job) *faults.Disk {
		d, err := faults.Crash(rand.New(rand.NewPCG(seed, j.seed)), base, events, j.at)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	esp, err := partition(base, layout.UEFI().Boot[layout.SlotA])
	if err != nil {
		t.Fatal(err)
	}
	// The worst come first: random cuts rarely meet them.
	var bad []job
	for i := uint64(cuts); i < cuts+more && len(bad) < booted/2; i++ {
		j := job{i, rng.IntN(len(events) + 1)}
		if err := mountable(rand.New(rand.NewPCG(seed, j.seed)), base, events, j.at); err != nil {
			t.Logf("power cut %d, after event %d: %v", j.seed, j.at, err)
			bad = append(bad, j)
		}
	}
	jobs = append(bad, jobs...)
	check := func(j job) error {
		dir, err := os.MkdirTemp("", "croft-cut-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c := cut{disk: crash(j), dir: dir}
		return c.check(t.Context(), esp, j.at >= told, code)
	}
	judge(t, jobs, len(events), check)

	boots := bad
	for i := len(bad); i < booted; i++ {
		boots = append(boots, jobs[i*len(jobs)/booted])
	}
	for _, j := range boots {
		t.Run(fmt.Sprintf("boot %d", j.seed), func(t *testing.T) {
			t.Parallel()
			b := start(t, memoryOptions(t, crash(j)))
			s := b.up()
			if err := grown(s); err != nil {
				t.Error(err)
			}
			if j.at >= told && b.code() != code {
				t.Errorf("cut after event %d: the code is %s and was told as %s", j.at, b.code(), code)
			}
			if j.at == len(events) && string(b.authority()) != string(ca) {
				t.Error("the authority changed although the box was off in order")
			}
		})
	}
}

// judge checks the disks that power cuts left, as many at a time as there are processors.
func judge(t *testing.T, jobs []job, events int, check func(job) error) {
	t.Helper()
	began := time.Now()
	defer func() { t.Logf("judged %d power cuts in %.0f s", len(jobs), time.Since(began).Seconds()) }()
	work := make(chan job)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for j := range work {
				if err := check(j); err != nil {
					t.Errorf("power cut %d, after event %d of %d: %v", j.seed, j.at, events, err)
				}
			}
		})
	}
	for _, j := range jobs {
		work <- j
	}
	close(work)
	wg.Wait()
}

// mountable says why the kernel could not mount the data partition after a power cut, without the box's help: it reads the
// superblock and the group descriptors before it replays the journal.
func mountable(rng *rand.Rand, base *faults.Disk, events []faults.Event, at int) error {
	data := layout.UEFI().Partition(layout.UEFI().Data)
	const head = 128 << 10
	d, err := faults.CrashPart(rng, base, events, at, data.Start, head)
	if err != nil {
		return err
	}
	r := io.NewSectionReader(d, data.Start, head)
	sb, err := disk.ReadSuperblock(r)
	if err != nil {
		return err
	}
	for g := int64(0); uint64(g)*uint64(sb.PerGroup) < sb.Blocks; g++ {
		b := make([]byte, 64) // a descriptor, which begins with the place of the group's block bitmap
		if _, err := r.ReadAt(b, sb.BlockSize+g*64); err != nil {
			return err
		}
		if bytes.Equal(b[:4], make([]byte, 4)) {
			return fmt.Errorf("group %d counts and has no descriptor", g)
		}
	}
	return nil
}

// serve serves a disk over NBD until the test's end and returns the socket.
func serve(t *testing.T, d faults.Device) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "croft-nbd-") // shorter than t.TempDir, as a socket's path must be
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "nbd")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- faults.Serve(ctx, l, d) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return sock
}

// partition returns the content of a partition of the layout.
func partition(d *faults.Disk, number int) ([]byte, error) {
	p := layout.UEFI().Partition(number)
	b := make([]byte, p.Size)
	_, err := d.ReadAt(b, p.Start)
	return b, err
}

// check judges a disk that a power cut left. esp is what the image holds there; told, that the box had told its code
// before the cut.
func (c *cut) check(ctx context.Context, esp []byte, told bool, code string) error {
	if err := errors.Join(c.load(ctx), c.loadESP()); err != nil {
		return err
	}
	if _, err := run(ctx, "dosfsck", "-n", c.esp); err != nil {
		return err
	}
	if err := c.checkESP(esp); err != nil {
		return err
	}
	// As the box does: its own replay, and the kernel's at the mount, which clears orphans too. Then nothing may be left
	// to mend.
	if _, err := disk.Recover(c.data); err != nil {
		return err
	}
	f, err := os.Open(c.data)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := disk.ReadSuperblock(f); err != nil {
		return err
	}
	if out, err := run(ctx, "e2fsck", "-p", c.data); err != nil && !strings.Contains(err.Error(), "exit status 1\n") {
		return fmt.Errorf("%w%s", err, out)
	}
	if _, err := run(ctx, "e2fsck", "-fn", c.data); err != nil {
		return err
	}
	files := filepath.Join(c.dir, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		return err
	}
	if _, err := run(ctx, "debugfs", "-R", "rdump / "+files, c.data); err != nil {
		return err
	}
	return c.checkFiles(ctx, files, told, code)
}

// checkESP compares the EFI system partition with the image's: only one sector, that of croft.txt, may have changed.
func (c *cut) checkESP(esp []byte) error {
	changed, buf := 0, make([]byte, 1<<20)
	from := layout.UEFI().Partition(layout.UEFI().Boot[layout.SlotA]).Start
	for at := 0; at < len(esp); at += len(buf) {
		now, was := buf[:min(len(buf), len(esp)-at)], esp[at:]
		if _, err := c.disk.ReadAt(now, from+int64(at)); err != nil {
			return err
		}
		if bytes.Equal(now, was[:len(now)]) {
			continue
		}
		for i := 0; i < len(now); i += layout.SectorSize {
			if s := now[i : i+layout.SectorSize]; !bytes.Equal(s, was[i:i+layout.SectorSize]) {
				changed++
				if !bytes.Contains(s, []byte("Croft")) {
					return fmt.Errorf("sector %d of the EFI system partition changed to %.60q", (at+i)/layout.SectorSize, s)
				}
			}
		}
	}
	if changed > 1 {
		return fmt.Errorf("%d sectors of the EFI system partition changed", changed)
	}
	return nil
}

// checkFiles judges the files of a data partition: each is absent or complete.
func (c *cut) checkFiles(ctx context.Context, dir string, told bool, code string) error {
	uuid, err := run(ctx, "dumpe2fs", "-h", c.data)
	if err != nil {
		return err
	}
	seed := strings.Contains(uuid, disk.SeedUUID)
	b, err := os.ReadFile(filepath.Join(dir, "croft.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !seed || told {
			return fmt.Errorf("no mark on a started data partition (seed %v, code told %v)", seed, told)
		}
		return nil
	case err != nil:
		return err
	}
	var id struct{ ID, Claim string }
	if err := json.Unmarshal(b, &id); err != nil || id.ID == "" {
		return fmt.Errorf("croft.json is %q: %w", b, err)
	}
	if told && id.Claim != code {
		return fmt.Errorf("the claim code is %q and was told as %q", id.Claim, code)
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		switch {
		case e.Name() == "ca.pem":
			return checkCA(path)
		case strings.HasSuffix(e.Name(), ".db"):
			return checkSQLite(path)
		}
		return nil
	})
}

func checkCA(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	block, rest := pem.Decode(b)
	key, _ := pem.Decode(rest)
	if block == nil || key == nil {
		return fmt.Errorf("%s is torn: %q", path, b)
	}
	_, err = x509.ParseCertificate(block.Bytes)
	return err
}

func checkSQLite(path string) error {
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if verdict != "ok" {
		return fmt.Errorf("%s: %s", path, verdict)
	}
	return nil
}

// TestPowerCutAtWork cuts the power of a running box a few times without warning.
func TestPowerCutAtWork(t *testing.T) {
	t.Parallel()
	o := options(t)
	var id, code string
	for i := range 3 {
		b := start(t, o)
		s := b.up()
		if i == 0 {
			id, code = s.System.ID, b.code()
		}
		if s.System.ID != id || b.code() != code {
			t.Errorf("start %d: box %s with code %s, was %s with %s", i, s.System.ID, b.code(), id, code)
		}
		var wants []string
		for _, svc := range s.System.Services {
			if svc.State == api.StateRunning {
				wants = append(wants, svc.Name)
			}
		}
		if len(wants) == 0 {
			t.Error("nothing runs")
		}
		b.vm.Kill()
	}
}
