// Package faults shows what a power cut leaves on a disk. It serves a disk in memory over NBD, so that any machine
// in QEMU can write to it, records every write and flush, and makes from the recording the disks that a power cut
// could have left: what was flushed is there, and of what was not, any part may be, down to single sectors.
//
// The model: a flush makes all writes that were answered before it durable; a write with FUA is durable once
// answered; a sector of 512 bytes is written whole or not at all; writes between two flushes reach the medium in
// any combination. A disk that ignores flushes is worse than this model, and no file system survives it.
//
// The protocol is the NetworkBlockDevice project's doc/proto.md: fixed newstyle handshake, simple replies, and the
// commands READ, WRITE, DISC, FLUSH, TRIM and WRITE_ZEROES. TLS, structured replies and several exports are not
// there: QEMU does without. It is a tool for tests; it listens on unix sockets only.
package faults
