#!/bin/sh
# Builds the image of one board ($1, default pc) twice from the last commit: in two folders, with a build cache of its own
# each and different umasks, users' settings and times; then compares every output file. Two cold builds take some minutes.
set -eu
board=${1:-pc}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT INT TERM
modcache=$(go env GOMODCACHE)
commit=$(git rev-parse HEAD)
build() { # folder, umask
	umask "$2"
	git clone --quiet --no-hardlinks --no-checkout . "$1/source"
	git -C "$1/source" -c advice.detachedHead=false checkout --quiet "$commit"
	(cd "$1/source" && GOCACHE="$1/cache" GOMODCACHE="$modcache" go run ./scripts/croft build --board "$board" --out "$1/out" --url https://croft.invalid)
}
(build "$work/a" 022)
(TZ=Pacific/Auckland LC_ALL=C.UTF-8 CGO_CFLAGS=-O0 build "$work/another-folder-with-a-longer-name" 077)
status=0
for f in "$work"/a/out/*; do
	cmp "$f" "$work/another-folder-with-a-longer-name/out/${f##*/}" || status=1
done
[ $status = 0 ] || { echo "the images differ" >&2; exit 1; }
echo "bit for bit the same:"
cat "$work/a/out/croft-$board.sha256"
