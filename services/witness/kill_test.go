package witness

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/updater/tlog/tlogtest"
)

const killEnv = "CROFT_TEST_WITNESS_KILL" // at which fsync or rename

// killer runs this program once more, and ends it by SIGKILL where its n-th fsync or rename would begin: none of them is done then. It
// traces all threads (ptrace(2)), for which it has to be a process of its own.
func killer(n int) error {
	runtime.LockOSThread()
	os.Unsetenv(killEnv)
	pid, err := syscall.ForkExec(os.Args[0], os.Args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return err
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		return err
	}
	if err := syscall.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return err
	}
	for thread, deliver := pid, 0; ; {
		if err := syscall.PtraceSyscall(thread, deliver); err != nil && err != syscall.ESRCH {
			return err
		}
		if thread, err = syscall.Wait4(-1, &ws, unix.WALL, nil); err != nil {
			return err
		}
		if deliver = 0; !ws.Stopped() {
			if thread == pid {
				return nil
			}
			continue
		}
		switch sig := ws.StopSignal(); {
		case sig == syscall.SIGTRAP|0x80:
			var info struct { // struct ptrace_syscall_info
				op      uint8
				_       [23]byte
				nr      uint64
				_       [6]uint64
				_       [4]uint64
				_, _, _ uint64
			}
			_, _, e := syscall.RawSyscall6(syscall.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread), unsafe.Sizeof(info),
				uintptr(unsafe.Pointer(&info)), 0, 0)
			if e != 0 {
				return e
			}
			if info.op == unix.PTRACE_SYSCALL_INFO_ENTRY && (info.nr == unix.SYS_FSYNC || info.nr == unix.SYS_RENAMEAT || info.nr == unix.SYS_RENAMEAT2) {
				if n--; n == 0 {
					return syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		case sig == syscall.SIGTRAP || sig == syscall.SIGSTOP: // a new thread
		default:
			deliver = int(sig)
		}
	}
}

// TestKills ends the process before each fsync and each rename that it makes from its first start to its third cosignature. Then a log
// that lies has its turn. Whatever a key has cosigned, over all runs, has to be of one history.
func TestKills(t *testing.T) {
	t.Parallel()
	honest := newLog(origin, "one", "two", "three", "four")
	liar := honest.Fork(1)
	for _, e := range []string{"TWO", "THREE", "FOUR", "FIVE"} {
		liar.Add([]byte(e))
	}
	var mu sync.Mutex
	next, steps := 0, 0
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				mu.Lock()
				next++
				n, stop := next, steps > 0 || next > 40
				mu.Unlock()
				if stop {
					return
				}
				if !killAt(t, n, honest, liar) {
					mu.Lock()
					steps = n - 1
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if steps < 13 { // folder; key and three trees, each with file, rename, folder
		t.Errorf("only %d durable steps", steps)
	}
}

// killAt reports whether the process came to its n-th step.
func killAt(t *testing.T, n int, honest, liar *tlogtest.Log) (killed bool) {
	b := newBox(t)
	signed := map[string]map[*tlogtest.Log]int64{} // by key: the largest tree of each history; one of one entry is of both
	try := func(l *tlogtest.Log, sizes ...int64) error {
		for _, size := range sizes {
			w, err := b.status()
			for end := time.Now().Add(20 * time.Second); err == nil && !w.Running && time.Now().Before(end); w, err = b.status() {
				time.Sleep(10 * time.Millisecond)
			}
			if err != nil || !w.Running {
				return err
			}
			if w.Logs[0].Size > size {
				continue
			}
			status, _, err := b.add(w.Port, l, w.Logs[0].Size, size)
			if err != nil {
				return err
			}
			if status == 200 && size > 1 {
				if signed[w.Key] == nil {
					signed[w.Key] = map[*tlogtest.Log]int64{}
				}
				signed[w.Key][l] = size
			}
		}
		return nil
	}
	b.killAt = n
	b.start()
	err := b.tell(honest)
	if err == nil {
		err = try(honest, 1, 2, 3)
	}
	// What is answered was durable before, so a process that was ended owes an answer.
	if err != nil {
		select {
		case <-b.ended:
			killed = true
		case <-time.After(20 * time.Second):
			t.Errorf("step %d: %v, and it did not end", n, err)
		}
	}
	b.killAt = 0
	for _, l := range []*tlogtest.Log{liar, honest} {
		b.kill()
		b.start()
		b.on(honest)
		try(l, 2, 3, 4)
	}
	b.kill()
	for key, of := range signed {
		if len(of) != 1 {
			t.Errorf("step %d: %s cosigned %d entries of one history and %d of another", n, key, of[honest], of[liar])
		}
	}
	if len(signed) == 0 {
		t.Errorf("step %d: nothing was cosigned", n)
	}
	return killed
}
