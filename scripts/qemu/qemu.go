package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Boards that a machine can be, by the names of image families.
const (
	PC      = "pc"
	VMArm64 = "vm-arm64"
	Pi      = "pi" // a Raspberry Pi 3B; needs Options.Kernel
)

// ClaimRE matches the console's line with the claim code, or with rescue mode's, which is its first group.
var ClaimRE = regexp.MustCompile(`(?i)(?:claim code|rescue code):?\s+([0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4})`)

// Kernel is started without firmware.
type Kernel struct {
	Path    string
	DTB     string // or ""
	Initrd  string // or ""
	Cmdline string
}

// Disk is a drive of a machine.
type Disk struct {
	Path   string // file
	Format string // "raw" (or "") or "qcow2"
	NBD    string // path of an NBD server's unix socket, instead of a file
	USB    bool   // on USB instead of virtio
	Serial string // serial number, or ""
}

func (d Disk) format() string {
	if d.Format == "" {
		return "raw"
	}
	return d.Format
}

// NIC is a wired network interface of a machine. The zero value is a network of QEMU's own, from which the guest
// reaches nothing, with the guest's TCP 80 and 443 and UDP 443 forwarded from free ports of 127.0.0.1.
type NIC struct {
	Tap     string // name of a tap device instead; then nothing is forwarded
	Cable   string // a cable to another machine instead: "listen=127.0.0.1:PORT" at one end, "connect=…" at the other
	MAC     string // or "" for QEMU's
	Outside bool   // the guest may reach what this machine reaches
	// Reach are commands by addresses in the guest's network, such as "10.0.2.100:80": each of the guest's connections to one
	// starts its command, which has the connection as standard input and output.
	Reach    map[string][]string
	HostPort map[int]int // fixed host ports by guest port, where a free one is not wanted
	Unplug   bool        // the cable is out at first
}

// Options describe a machine.
type Options struct {
	Board    string
	Kernel   *Kernel   // started without firmware; nil means UEFI
	Vars     string    // file with UEFI's variables, made if missing; "" forgets them
	Disks    []Disk    // the first one is booted from
	NICs     []NIC     // as they are found by the guest
	Memory   int       // MiB; 0 means 512
	CPUs     int       // 0 means 2; an emulated PC with more than one rarely panics as it starts, with "Oops: int3"
	RTC      time.Time // zero means now
	KVM      bool      // use it if it works
	Watchdog bool      // an i6300esb that resets the machine
	NoReboot bool      // end instead of rebooting
	Netns    string    // name of the network namespace to run in (ip-netns(8)), or ""
	Raw      io.Writer // gets the console byte by byte, or nil
	Log      func(line string)
}

// VM is a running machine.
type VM struct {
	Console *Console
	opts    Options
	dir     string
	qmp     *qmp
	done    chan struct{}
	err     error // after done
	kill    context.CancelFunc
	hot     int
}

// Start starts a machine. It ends with ctx at the latest.
func Start(ctx context.Context, o Options) (*VM, error) {
	if o.Memory == 0 {
		o.Memory = 512
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	dir, err := os.MkdirTemp("", "croft-vm-")
	if err != nil {
		return nil, err
	}
	vm := &VM{Console: newConsole(), opts: o, dir: dir, done: make(chan struct{})}
	args, err := vm.args()
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	ctx, vm.kill = context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var stderr tail
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	started := make(chan error)
	go func() {
		// The thread must live as long as QEMU: its end is what Pdeathsig waits for.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		vm.Console.read(stdout, o.Raw, o.Log)
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			vm.err = fmt.Errorf("qemu: %w: %s", err, stderr.String())
		}
		vm.kill()
		os.RemoveAll(dir)
		close(vm.done)
	}()
	if err := <-started; err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	if err := vm.connect(ctx); err != nil {
		select { // QEMU knows better than the monitor why it ended
		case <-vm.done:
		case <-time.After(time.Second):
		}
		vm.Kill()
		return nil, errors.Join(vm.err, err)
	}
	return vm, nil
}

// connect takes the monitor and lets the machine run, which has been stopped so far.
func (vm *VM) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("QEMU did not answer for 20 s"))
	defer cancel()
	go func() {
		select {
		case <-vm.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	q, err := dialQMP(ctx, vm.monitor())
	if err != nil {
		return err
	}
	vm.qmp = q
	for i, n := range vm.opts.NICs {
		if n.Unplug {
			if err := vm.SetCable(ctx, i, false); err != nil {
				return err
			}
		}
	}
	return vm.Do(ctx, "cont", nil, nil)
}

func (vm *VM) monitor() string { return filepath.Join(vm.dir, "qmp") }

func (vm *VM) args() ([]string, error) {
	o := vm.opts
	var args []string
	if o.Netns != "" {
		args = append(args, "ip", "netns", "exec", o.Netns)
	}
	accel := []string{"-accel", "tcg,thread=multi"}
	if o.KVM {
		accel = append([]string{"-accel", "kvm"}, accel...)
	}
	switch o.Board {
	case PC:
		args = append(append(args, "qemu-system-x86_64", "-machine", "q35", "-cpu", "max"), accel...)
	case VMArm64:
		args = append(append(args, "qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"), accel[len(accel)-2:]...)
	case Pi:
		if o.Kernel == nil {
			return nil, errors.New("QEMU has no firmware for the Raspberry Pi: needs a kernel")
		}
		args = append(args, "qemu-system-aarch64", "-machine", "raspi3b")
	default:
		return nil, fmt.Errorf("no machine for board %q", o.Board)
	}
	args = append(args, "-name", "croft", "-S", "-display", "none", "-monitor", "none",
		"-qmp", "unix:"+vm.monitor()+",server=on,wait=off")
	if o.Board == Pi {
		// Fixed by the machine: memory, cores; the mini UART is the console.
		args = append(args, "-serial", "null", "-serial", "stdio")
	} else {
		args = append(args, "-nodefaults", "-no-user-config", "-serial", "stdio",
			"-m", strconv.Itoa(o.Memory), "-smp", strconv.Itoa(o.CPUs), "-device", "virtio-rng-pci", "-device", "qemu-xhci,id=usb")
	}
	if k := o.Kernel; k != nil {
		args = append(args, "-kernel", k.Path, "-append", k.Cmdline)
		if k.DTB != "" {
			args = append(args, "-dtb", k.DTB)
		}
		if k.Initrd != "" {
			args = append(args, "-initrd", k.Initrd)
		}
	} else {
		fw, err := vm.firmware()
		if err != nil {
			return nil, err
		}
		args = append(args, fw...)
	}
	for i, d := range o.Disks {
		if o.Board == Pi && i == 0 { // the machine makes the card itself
			args = append(args, "-drive", fmt.Sprintf("if=sd,format=%s,file=%s", d.format(), escape(d.Path)))
			continue
		}
		args = append(args, "-blockdev", d.blockdev(fmt.Sprintf("disk%d", i)))
		model := "virtio-blk-pci"
		if d.USB {
			model = "usb-storage,removable=on"
		}
		args = append(args, "-device", d.device(model, i))
	}
	for i, n := range o.NICs {
		args = append(args, "-netdev", n.netdev(i))
		model := "virtio-net-pci"
		if o.Board == Pi {
			model = "usb-net"
		}
		dev := fmt.Sprintf("%s,netdev=net%d,id=nic%d", model, i, i)
		if n.MAC == "" && o.Board == Pi {
			n.MAC = fmt.Sprintf("b8:27:eb:00:00:%02x", i) // QEMU's, with the local bit, makes the kernel name it otherwise
		}
		if n.MAC != "" {
			dev += ",mac=" + n.MAC
		}
		args = append(args, "-device", dev)
	}
	if !o.RTC.IsZero() {
		args = append(args, "-rtc", "base="+o.RTC.UTC().Format("2006-01-02T15:04:05"))
	}
	if o.Watchdog {
		args = append(args, "-device", "i6300esb", "-action", "watchdog=reset")
	}
	if o.NoReboot {
		args = append(args, "-no-reboot")
	}
	return args, nil
}

// firmware is where Debian's packages ovmf and qemu-efi-aarch64 put it. The arm64 one is a ROM without variables.
func (vm *VM) firmware() ([]string, error) {
	if vm.opts.Board == VMArm64 {
		return []string{"-bios", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"}, nil
	}
	const code, fresh = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
	vars := vm.opts.Vars
	if vars == "" {
		vars = filepath.Join(vm.dir, "vars.fd")
	}
	if _, err := os.Stat(vars); errors.Is(err, os.ErrNotExist) {
		b, err := os.ReadFile(fresh)
		if err != nil {
			return nil, fmt.Errorf("UEFI firmware: %w", err)
		}
		if err := os.WriteFile(vars, b, 0o600); err != nil {
			return nil, err
		}
	}
	return []string{
		"-drive", "if=pflash,format=raw,readonly=on,file=" + code,
		"-drive", "if=pflash,format=raw,file=" + escape(vars),
	}, nil
}

// escape doubles the commas of a value, as QEMU's options want it.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func (d Disk) blockdev(node string) string {
	if d.NBD != "" {
		return fmt.Sprintf("driver=raw,node-name=%s,discard=unmap,file.driver=nbd,file.server.type=unix,file.server.path=%s",
			node, escape(d.NBD))
	}
	return fmt.Sprintf("driver=%s,node-name=%s,file.driver=file,file.filename=%s", d.format(), node, escape(d.Path))
}

func (d Disk) device(model string, i int) string {
	s := fmt.Sprintf("%s,drive=disk%d,id=drive%d", model, i, i)
	if d.Serial != "" {
		s += ",serial=" + d.Serial
	}
	if i == 0 {
		s += ",bootindex=1"
	}
	return s
}

// forwarded are the guest's ports that are reachable from outside: the gateway's.
var forwarded = []struct {
	proto string
	port  int
}{{"tcp", 80}, {"tcp", 443}, {"udp", 443}}

func (n NIC) netdev(i int) string {
	if n.Tap != "" {
		return fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, n.Tap)
	}
	if n.Cable != "" {
		return fmt.Sprintf("socket,id=net%d,%s", i, n.Cable)
	}
	s := fmt.Sprintf("user,id=net%d,net=10.0.%d.0/24", i, 2+i)
	if !n.Outside {
		s += ",restrict=on"
	}
	for addr, command := range n.Reach {
		s += ",guestfwd=tcp:" + addr + "-cmd:" + escape(strings.Join(command, " "))
	}
	for _, f := range forwarded {
		s += fmt.Sprintf(",hostfwd=%s:127.0.0.1:%d-:%d", f.proto, n.HostPort[f.port], f.port)
	}
	return s
}

// Do runs a command of QEMU's monitor (qemu-qmp-ref(7)).
func (vm *VM) Do(ctx context.Context, command string, args map[string]any, result any) error {
	return vm.qmp.do(ctx, command, args, result)
}

// Port is the port of 127.0.0.1 from which port of the guest's first interface is forwarded. proto is "tcp" or "udp".
func (vm *VM) Port(ctx context.Context, proto string, port int) (int, error) {
	return vm.PortOf(ctx, 0, proto, port)
}

// PortOf is Port for the guest's interface nic, counted from 0.
func (vm *VM) PortOf(ctx context.Context, nic int, proto string, port int) (int, error) {
	var out string
	if err := vm.Do(ctx, "human-monitor-command", map[string]any{"command-line": "info usernet"}, &out); err != nil {
		return 0, err
	}
	here := false
	for line := range strings.Lines(out) {
		// "Hub -1 (net0):", then one line for each connection:
		if strings.HasPrefix(line, "Hub") {
			here = strings.Contains(line, fmt.Sprintf("(net%d)", nic))
		}
		// "TCP[HOST_FORWARD]  8  127.0.0.1 37079  10.0.2.15  80  0  0"
		f := strings.Fields(line)
		if here && len(f) >= 6 && f[0] == strings.ToUpper(proto)+"[HOST_FORWARD]" && f[5] == strconv.Itoa(port) {
			return strconv.Atoi(f[3])
		}
	}
	return 0, fmt.Errorf("%s port %d of the guest is not forwarded", proto, port)
}

// SetCable plugs the cable of interface i in or out.
func (vm *VM) SetCable(ctx context.Context, i int, in bool) error {
	return vm.Do(ctx, "set_link", map[string]any{"name": fmt.Sprintf("nic%d", i), "up": in}, nil)
}

// PowerButton presses it.
func (vm *VM) PowerButton(ctx context.Context) error { return vm.Do(ctx, "system_powerdown", nil, nil) }

// Reset presses the reset button.
func (vm *VM) Reset(ctx context.Context) error { return vm.Do(ctx, "system_reset", nil, nil) }

// Written is how many bytes and flushes the guest has sent to disk i.
func (vm *VM) Written(ctx context.Context, i int) (bytes, flushes int64, err error) {
	var stats []struct {
		QDev  string `json:"qdev"`
		Stats struct {
			Written int64 `json:"wr_bytes"`
			Flushes int64 `json:"flush_operations"`
		} `json:"stats"`
	}
	if err := vm.Do(ctx, "query-blockstats", nil, &stats); err != nil {
		return 0, 0, err
	}
	for _, s := range stats {
		if strings.Contains(s.QDev, fmt.Sprintf("drive%d", i)) {
			return s.Stats.Written, s.Stats.Flushes, nil
		}
	}
	return 0, 0, fmt.Errorf("no statistics of disk %d", i)
}

// PlugUSB plugs a USB drive in and returns the name to unplug it by.
func (vm *VM) PlugUSB(ctx context.Context, d Disk) (string, error) {
	vm.hot++
	node, id := fmt.Sprintf("hot%d", vm.hot), fmt.Sprintf("usb%d", vm.hot)
	if err := vm.Do(ctx, "blockdev-add", map[string]any{
		"driver": d.format(), "node-name": node, "file": map[string]any{"driver": "file", "filename": d.Path},
	}, nil); err != nil {
		return "", err
	}
	return id, vm.Do(ctx, "device_add", map[string]any{"driver": "usb-storage", "drive": node, "id": id, "removable": true}, nil)
}

// Unplug pulls a drive out that PlugUSB plugged in.
func (vm *VM) Unplug(ctx context.Context, id string) error {
	return vm.Do(ctx, "device_del", map[string]any{"id": id}, nil)
}

// Wait waits until the machine has ended, and returns an error if QEMU failed.
func (vm *VM) Wait(ctx context.Context) error {
	select {
	case <-vm.done:
		return vm.err
	case <-ctx.Done():
		return fmt.Errorf("the machine still runs: %w", context.Cause(ctx))
	}
}

// Done is closed when the machine has ended.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// Kill cuts the power and waits for the end of QEMU.
func (vm *VM) Kill() {
	vm.kill()
	<-vm.done
}

// Shutdown presses the power button and waits; if ctx ends first, it cuts the power and says so.
func (vm *VM) Shutdown(ctx context.Context) error {
	err := vm.PowerButton(ctx)
	if err == nil {
		err = vm.Wait(ctx)
	}
	vm.Kill()
	return err
}

// tail keeps the last part of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 4096 {
		t.b = t.b[len(t.b)-4096:]
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }

// Carry connects in and out with an address, until either end hangs up: what a command of NIC.Reach does.
func Carry(addr string, in io.Reader, out io.Writer) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	ended := make(chan error, 2)
	for _, way := range []struct {
		to   io.Writer
		from io.Reader
	}{{c, in}, {out, c}} {
		go func() {
			_, err := io.Copy(way.to, way.from)
			ended <- err
		}()
	}
	return <-ended
}
