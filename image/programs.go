package image

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	pkgInit   = "github.com/croft-os/croft/image/init"
	pkgCroftd = "github.com/croft-os/croft/services/croftd"
	// pkgMonogok is a tool in go.mod.
	pkgMonogok = "github.com/bradfitz/monogok/cmd/monogok"
)

// packageConfig and config are monogok's config.json, as far as we use it.
type packageConfig struct {
	GoBuildEnvironment []string
	GoBuildFlags       []string
	GoBuildTags        []string `json:",omitempty"`
}

type config struct {
	Hostname        string
	Packages        []string
	PackageConfig   map[string]packageConfig
	GokrazyPackages []string
	KernelPackage   string
	FirmwarePackage string
	EEPROMPackage   string
	Update          struct {
		NoPassword bool
		UseTLS     string
	}
	InternalCompatibilityFlags struct{ InitPkg string }
}

func (b *builder) config() config {
	c := config{
		Hostname:        "croft",
		Packages:        []string{pkgCroftd},
		GokrazyPackages: []string{},
		KernelPackage:   b.Board.Kernel,
		PackageConfig: map[string]packageConfig{
			// PID 1 also is the stage that enters a sandbox, so it must not have cgo's threads.
			pkgInit: {
				GoBuildEnvironment: []string{"CGO_ENABLED=0"},
				GoBuildFlags:       []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="},
			},
			pkgCroftd: {
				GoBuildEnvironment: []string{"CGO_ENABLED=1", "CC=" + b.Board.CC, "CGO_CFLAGS=-O2 -g0", "CGO_LDFLAGS="},
				GoBuildFlags: []string{
					"-trimpath", "-buildvcs=false",
					`-ldflags=-s -w -buildid= -linkmode external -extldflags "-static -Wl,--build-id=none"`,
				},
				GoBuildTags: []string{"sqlite_omit_load_extension"},
			},
		},
	}
	c.InternalCompatibilityFlags.InitPkg = pkgInit
	c.Update.NoPassword, c.Update.UseTLS = true, "off"
	return c
}

// programs lets monogok build PID 1 and croftd and takes them out of the root file system that it made.
func (b *builder) programs(ctx context.Context) error {
	// monogok looks for go.mod above its config.json, so that has to be inside the module for a moment.
	conf, err := os.MkdirTemp(b.Source, ".croft-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(conf)
	js, err := json.MarshalIndent(b.config(), "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(conf, "config.json"), js, 0o644); err != nil {
		return err
	}
	env, err := b.environment(ctx)
	if err != nil {
		return err
	}
	// "go tool" would build monogok itself for the board's processor.
	tool, gaf := filepath.Join(b.tmp, "monogok"), filepath.Join(b.tmp, "monogok.gaf")
	build := exec.CommandContext(ctx, "go", "build", "-o", tool, pkgMonogok)
	build.Dir, build.Env = b.Source, env
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build monogok: %w: %s", err, tail(string(out), 4000))
	}
	env = append(env, "GOOS=linux", "GOARCH="+b.Board.GOARCH, "GOAMD64=v1", "GOARM64=v8.0")
	cmd := exec.CommandContext(ctx, tool, "--config", filepath.Join(conf, "config.json"), "overwrite", "--gaf", gaf)
	cmd.Dir, cmd.Env = b.Source, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its compilers end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("monogok: %w: %s", err, tail(string(out), 4000))
	}
	root := filepath.Join(b.tmp, "monogok.squashfs")
	if err := unzip(gaf, "root.img", root); err != nil {
		return err
	}
	_, err = output(ctx, b.tmp, "unsquashfs", "-no-progress", "-d", "root", root, pathInit, pathCroftd)
	return err
}

// environment is the builder's, without what would change the programs, and with scratch and state in b.tmp.
func (b *builder) environment(ctx context.Context) ([]string, error) {
	s, err := output(ctx, b.Source, "go", "env", "-json", "GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOTOOLCHAIN")
	if err != nil {
		return nil, err
	}
	keep := map[string]string{}
	if err := json.Unmarshal([]byte(s), &keep); err != nil {
		return nil, err
	}
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "HOME" || name == "TMPDIR" || name == "CC" || name == "XDG_CONFIG_HOME" || strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_")
	})
	for k, v := range keep {
		env = append(env, k+"="+v)
	}
	return append(env, "HOME="+b.tmp, "TMPDIR="+b.tmp, "GOENV=off", "GOWORK=off", "GOFLAGS=-mod=readonly",
		"GOTELEMETRY=off"), nil
}

func unzip(archive, name, to string) error {
	zr, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("open %s: %w", archive, err)
	}
	defer zr.Close()
	in, err := zr.Open(name)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", name, archive, err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-n):]
}
