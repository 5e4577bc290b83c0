//go:build pins

package board

// Kernels and firmware are files of modules that no code imports; named here, "go mod tidy" keeps their versions.
import (
	_ "github.com/gokrazy/firmware"
	_ "github.com/gokrazy/kernel.amd64"
	_ "github.com/gokrazy/kernel.arm64"
	_ "github.com/gokrazy/kernel.rpi"
)
