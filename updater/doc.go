// Package updater is the room of signed updates. It holds no code; the packages in it do, from the outside in:
//
//   - release: the release format as data
//   - delta: compressed frames and patches
//   - tlog: the transparency log's proofs, and what a quorum of witnesses is
//   - trust: which releases may be believed, over a store that survives power cuts
//   - slots: what is written to the medium, in which order, and the commit
//   - fetch: where a repository's files come from
//   - publish: what makers of releases do: keys, building, signing, publishing, checking
//   - witness: cosigning logs of others
//
// docs/release-format.md is the format; package hardware/layout says where the slots are.
package updater
