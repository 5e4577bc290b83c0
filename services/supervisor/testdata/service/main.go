// Command service is the tests' supervised program: with "launch" it is the stage that enters the sandbox, else it
// does what its arguments say, one after the other, from within.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/croft-os/croft/services/daemon/devices"
	"github.com/croft-os/croft/services/supervisor/probe"
	"github.com/croft-os/croft/services/supervisor/sandbox"
)

func main() {
	if os.Args[1] == "launch" {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	signal.Notify(term, syscall.SIGTERM) // early: it may come before it is waited for
	for _, arg := range os.Args[1:] {
		do, value, _ := strings.Cut(arg, "=")
		run(do, value)
	}
}

var term = make(chan os.Signal, 1)

func run(do, value string) {
	switch do {
	case "ready":
		sd.SdNotify(false, "READY=1\nSTATUS=ready")
	case "confined":
		b, _ := json.Marshal(probe.Run(value, os.Getenv("STATE_DIRECTORY")))
		sd.SdNotify(false, "X_CONFINED="+string(b))
	case "say":
		fmt.Println(value)
	case "exit":
		n, _ := strconv.Atoi(value)
		os.Exit(n)
	case "wait": // for SIGTERM
		<-term
	case "hang": // whatever comes
		signal.Ignore(syscall.SIGTERM, syscall.SIGABRT)
		for {
			time.Sleep(time.Hour)
		}
	case "panic":
		panic(value)
	case "env":
		for _, e := range os.Environ() {
			fmt.Println("env", e)
		}
	case "serve": // the passed listener, with this answer
		ls, err := activation.Listeners()
		if err != nil || len(ls) == 0 || ls[0] == nil {
			fmt.Println("no listener", err)
			os.Exit(1)
		}
		go func() {
			for {
				c, err := ls[0].Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, value, os.Getpid())
				c.Close()
			}
		}()
	case "device": // FOLDER:NAME, of devices.sock: write to it, read past the cache, and open its path anew
		dir, name, _ := strings.Cut(value, ":")
		d, err := devices.Open(context.Background(), devices.Socket(dir), name)
		if err != nil {
			fmt.Println("device", name, err)
			return
		}
		defer d.Close()
		_, werr := d.WriteAt([]byte("written"), 4096)
		b := make([]byte, 7)
		_, rerr := d.Reread().ReadAt(b, 4096)
		fmt.Println("device", name, d.Size(), errors.Join(werr, d.Sync(), rerr), string(b))
	case "deafen": // the passed listener, for whoever else has it
		fmt.Println("deafen", syscall.Shutdown(3, syscall.SHUT_RDWR))
	case "eat": // this many MB of memory
		debug.SetMemoryLimit(1 << 40)
		n, _ := strconv.Atoi(value)
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("ate", len(b))
	case "share": // this many MB of memory, none of it private
		n, _ := strconv.Atoi(value)
		b, err := syscall.Mmap(-1, 0, n<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_ANON)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("shared", err)
	case "fork": // itself again and again
		n := 0
		for range 1000 {
			attr := &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}, Env: []string{}}
			if _, err := os.StartProcess("/proc/self/exe", []string{"service", "wait"}, attr); err != nil {
				fmt.Println("fork failed after", n, err)
				return
			}
			n++
		}
		fmt.Println("forked without end", n)
	case "dial": // network:address
		network, addr, _ := strings.Cut(value, ",")
		c, err := net.DialTimeout(network, addr, 2*time.Second)
		if err == nil {
			c.Close()
		}
		fmt.Println("dial", network, err)
	case "read":
		b, err := os.ReadFile(value)
		fmt.Println("read", value, len(b), err)
	case "list":
		entries, err := os.ReadDir(value)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		fmt.Println("list", value, names, err)
	case "write":
		fmt.Println("write", value, os.WriteFile(value, []byte("x"), 0o644))
	case "exec":
		p, err := os.StartProcess(value, []string{value, "exit=0"}, &os.ProcAttr{Env: []string{}})
		if err == nil {
			p.Wait()
		}
		fmt.Println("exec", err)
	case "copy": // itself, and run that
		b, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(value, b, 0o755)
		}
		fmt.Println("copy", err)
		run("exec", value)
	case "mount":
		fmt.Println("mount", syscall.Mount("x", value, "tmpfs", 0, ""))
	case "unshare":
		fmt.Println("unshare", syscall.Unshare(syscall.CLONE_NEWNS))
	case "kill":
		pid, _ := strconv.Atoi(value)
		fmt.Println("kill", syscall.Kill(pid, 0))
	case "raw":
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
		fmt.Println("raw", fd > 0, err)
	case "hostname":
		name, err := os.Hostname()
		fmt.Println("hostname", name, err)
	case "watchdog":
		for range 10 {
			sd.SdNotify(false, "WATCHDOG=1")
			time.Sleep(100 * time.Millisecond)
		}
	}
}
