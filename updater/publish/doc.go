// Package publish is what makers of releases do: making keys, staging releases and roots, signing them by people who each rebuilt
// them, logging them in public, writing a repository that any web server can serve, renewing it, and checking one.
//
// It writes what docs/release-format.md says. Work goes through two folders. A stage holds what is to come, with unsigned metadata and
// the metadata that it follows (base); holders of keys sign it offline, wherever it lies. A repository holds what clients fetch; only
// Publish and Refresh write it, on the one machine that has the online keys and the log (Tessera's POSIX storage). Secret keys never
// leave the memory of the process but encrypted (age). Metadata is signed and counted with Ed25519 only; what clients believe
// is decided by package trust, which has to accept a repository before Publish shows it to anybody.
package publish
