package image

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/croft-os/croft/image/sbom"
	"github.com/croft-os/croft/services/api"
)

const (
	repository = "github.com/croft-os/croft"
	goSQLite   = "github.com/mattn/go-sqlite3"
	x509roots  = "golang.org/x/crypto/x509roots/fallback"
)

// listParts lists what is linked into the two programs, and what else is on the disk.
func (b *builder) listParts(ctx context.Context) error {
	var ps []sbom.Package
	mods, goVersion, err := b.linked()
	if err != nil {
		return err
	}
	for _, path := range mods {
		m, err := b.module(path)
		if err != nil {
			return err
		}
		license, text, err := sbom.ModuleLicense(m.Dir)
		if err != nil {
			return fmt.Errorf("module %s %s: %w", m.Path, m.Version, err)
		}
		ps = append(ps, sbom.Package{
			Name: m.Path, Version: m.Version, License: license, Text: text, Purpose: sbom.Library,
			PURL: "pkg:golang/" + m.Path + "@" + m.Version, Source: "go.sum " + m.Sum,
		})
	}
	goroot, err := output(ctx, b.Source, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	_, text, err := sbom.ModuleLicense(goroot)
	if err != nil {
		return err
	}
	ps = append(ps, sbom.Package{
		Name: "go", Version: goVersion, License: "BSD-3-Clause", Text: text, Purpose: sbom.Library,
		Supplier: "Organization: The Go Authors", Source: "standard library and runtime",
	})
	if slices.Contains(mods, goSQLite) {
		p, err := b.sqlite()
		if err != nil {
			return err
		}
		ps = append(ps, p)
	}
	for _, f := range []func(context.Context) ([]sbom.Package, error){b.toolchain, b.boardComponents} {
		more, err := f(ctx)
		if err != nil {
			return err
		}
		ps = append(ps, more...)
	}
	for i, p := range ps {
		if p.Text != "" {
			continue
		}
		if ps[i].Text, err = sbom.Text(p.License); err != nil {
			return fmt.Errorf("licence of %s: %w", p.Name, err)
		}
	}
	b.listed = ps
	return nil
}

// billOfMaterials writes the SPDX document of the image.
func (b *builder) billOfMaterials(context.Context) error {
	return b.writeBill(b.out(".spdx.json"), b.sum)
}

// writeBill writes the SPDX document of something with that SHA-256.
func (b *builder) writeBill(path, sum string) error {
	licenses := []string{"Apache-2.0"}
	for _, p := range b.listed {
		licenses = append(licenses, strings.Split(p.License, " AND ")...)
	}
	slices.Sort(licenses)
	doc, err := sbom.Marshal(sbom.Document{
		Subject: sbom.Package{
			Name: "croft-" + b.Board.ID, Version: b.Version, License: strings.Join(slices.Compact(licenses), " AND "), Purpose: sbom.System,
			Supplier: "Organization: Croft", SHA256: sum,
		},
		Packages:  b.listed,
		Created:   b.Epoch,
		Namespace: "https://" + repository + "/spdx/",
		Tool:      "croft-build-" + b.Version,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, doc, 0o644)
}

// licences is /etc/croft/licences.json.gz: a JSON array of api.Component with texts, Croft's own first. Components of one text
// stand beside each other, within the 32 KiB that gzip looks back, so that a text takes its room once.
func (b *builder) licences() ([]byte, error) {
	_, own, err := sbom.ModuleLicense(b.Source)
	if err != nil {
		return nil, err
	}
	ps := slices.Clone(b.listed)
	slices.SortFunc(ps, func(x, y sbom.Package) int {
		return cmp.Or(cmp.Compare(x.License, y.License), cmp.Compare(x.Text, y.Text), cmp.Compare(x.Name, y.Name))
	})
	list := []api.Component{{Name: "croft", Version: b.Version, Licence: "Apache-2.0", Text: own}}
	for _, p := range ps {
		list = append(list, api.Component{Name: p.Name, Version: p.Version, Licence: p.License, Text: p.Text})
	}
	js, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	zw, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(js); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	b.Log.Info("licences", "board", b.Board.ID, "components", len(list), "bytes", len(js), "compressed", out.Len())
	return out.Bytes(), nil
}

// linked lists the modules that the two programs hold, but for our own, and the Go toolchain's version.
func (b *builder) linked() (mods []string, goVersion string, err error) {
	for _, p := range []string{pathInit, pathCroftd} {
		info, err := buildinfo.ReadFile(filepath.Join(b.tmp, "root", p))
		if err != nil {
			return nil, "", fmt.Errorf("/%s: %w", p, err)
		}
		goVersion = info.GoVersion
		for _, d := range info.Deps {
			if d.Replace != nil {
				return nil, "", fmt.Errorf("/%s: module %s is replaced by %s", p, d.Path, d.Replace.Path)
			}
			mods = append(mods, d.Path)
		}
	}
	slices.Sort(mods)
	return slices.Compact(mods), goVersion, nil
}

var sqliteVersion = regexp.MustCompile(`(?m)^#define SQLITE_VERSION\s+"([0-9.]+)"`)

// sqlite is the amalgamation that go-sqlite3 carries.
func (b *builder) sqlite() (sbom.Package, error) {
	dir, err := b.moduleDir(goSQLite)
	if err != nil {
		return sbom.Package{}, err
	}
	h, err := os.ReadFile(filepath.Join(dir, "sqlite3-binding.h"))
	if err != nil {
		return sbom.Package{}, fmt.Errorf("version of SQLite: %w", err)
	}
	v := sqliteVersion.FindSubmatch(h)
	if v == nil {
		return sbom.Package{}, fmt.Errorf("version of SQLite: not in %s", goSQLite)
	}
	return sbom.Package{
		Name: "sqlite", Version: string(v[1]), License: "blessing", Purpose: sbom.Library, Source: "amalgamation in " + goSQLite,
	}, nil
}

// toolchain lists what the C compiler linked into croftd of its own and of the C library.
func (b *builder) toolchain(ctx context.Context) ([]sbom.Package, error) {
	libc, err := output(ctx, "", b.Board.CC, "-E", "-P", "-include", "features.h", "-xc", "/dev/null", "-dM")
	if err != nil {
		return nil, fmt.Errorf("version of the C library: %w", err)
	}
	major, minor := define(libc, "__GLIBC__"), define(libc, "__GLIBC_MINOR__")
	if major == "" || minor == "" {
		return nil, fmt.Errorf("version of the C library: %s does not use glibc", b.Board.CC)
	}
	gcc, err := output(ctx, "", b.Board.CC, "-dumpfullversion")
	if err != nil {
		return nil, fmt.Errorf("version of the C compiler: %w", err)
	}
	return []sbom.Package{
		{Name: "glibc", Version: major + "." + minor, License: "LGPL-2.1-or-later", Purpose: sbom.Library, Source: "static parts, from " + b.Board.CC},
		{Name: "libgcc", Version: gcc, License: "GPL-3.0-or-later WITH GCC-exception-3.1", Purpose: sbom.Library, Source: "static parts, from " + b.Board.CC},
	}, nil
}

func define(macros, name string) string {
	m := regexp.MustCompile(`(?m)^#define ` + name + ` (\d+)$`).FindStringSubmatch(macros)
	if m == nil {
		return ""
	}
	return m[1]
}

// boardComponents lists the kernel, the firmware and the boot loader, and the certificate authorities.
func (b *builder) boardComponents(context.Context) ([]sbom.Package, error) {
	m, err := b.module(x509roots)
	if err != nil {
		return nil, err
	}
	ps := []sbom.Package{{
		Name: "mozilla-ca-certificates", Version: m.Version, License: "MPL-2.0", Purpose: sbom.Data, Supplier: "Organization: Mozilla",
		PURL: "pkg:golang/" + m.Path + "@" + m.Version, Source: "go.sum " + m.Sum,
	}}
	for _, c := range b.Board.Components {
		m, err := b.module(c.Module)
		if err != nil {
			return nil, err
		}
		p := sbom.Package{
			Name: c.Name, Version: c.Version, License: c.License, Supplier: c.Supplier, Purpose: sbom.Firmware,
			PURL: "pkg:golang/" + m.Path + "@" + m.Version, Source: "go.sum " + m.Sum,
		}
		if c.Module == b.Board.Kernel {
			p.Purpose = sbom.System
			if p.Version, err = kernelVersion(filepath.Join(m.Dir, "vmlinuz")); err != nil {
				return nil, err
			}
		}
		if p.Version == "" {
			p.Version = m.Version
		}
		if c.Text != "" {
			text, err := os.ReadFile(filepath.Join(m.Dir, c.Text))
			if err != nil {
				return nil, fmt.Errorf("licence of %s: %w", c.Name, err)
			}
			p.Text = string(text)
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// kernelVersion reads the version out of a kernel: out of the setup header of a bzImage (Documentation/arch/x86/boot.rst), or
// else out of the banner in an uncompressed Image.
func kernelVersion(path string) (string, error) {
	k, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("version of the kernel: %w", err)
	}
	var at int
	if len(k) > 0x210 && string(k[0x202:0x206]) == "HdrS" {
		at = 0x200 + int(k[0x20e]) + int(k[0x20f])<<8
	} else {
		const banner = "Linux version "
		if at = bytes.Index(k, []byte(banner)); at < 0 {
			return "", fmt.Errorf("version of the kernel: no banner in %s", path)
		}
		at += len(banner)
	}
	if at >= len(k) {
		return "", fmt.Errorf("version of the kernel: %s is cut short", path)
	}
	v, _, _ := bytes.Cut(k[at:min(len(k), at+64)], []byte(" "))
	if len(v) == 0 || len(v) > 40 {
		return "", fmt.Errorf("version of the kernel: %q in %s", v, path)
	}
	return string(v), nil
}
