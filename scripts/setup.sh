#!/bin/sh
# Makes sure that what Croft's scripts need is installed.
#
# Usage: scripts/setup.sh GROUP...    with the groups of scripts/packages.txt, such as "image run"
#
# Missing Debian packages are installed as root, or through sudo where it asks no password; else they are named with
# the command to type, and the exit code is 1. Go must be 1.21 or newer, which then fetches the version that go.mod names.
set -eu
here=$(dirname "$0")

missing=
for group in "$@"; do
	found=
	while read -r name packages; do
		[ "$name" = "$group:" ] || continue
		found=1
		for p in $packages; do
			# A program of that name counts too: Node.js comes with npm where Debian has two packages.
			dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed ||
				command -v "$p" >/dev/null || missing="$missing $p"
		done
	done <"$here/packages.txt"
	if [ -z "$found" ]; then
		echo "setup: no group \"$group\" in packages.txt" >&2
		exit 2
	fi
done

go_works() { (cd "$here/.." && GOTOOLCHAIN=${GOTOOLCHAIN:-auto} go version) >/dev/null 2>&1; }
command -v go >/dev/null || missing="$missing golang-go"

if [ -n "$missing" ]; then
	install="apt-get install -y --no-install-recommends$missing"
	if ! command -v apt-get >/dev/null; then
		echo "Croft's scripts need these Debian packages, or what they are called here:$missing" >&2
		exit 1
	elif [ "$(id -u)" = 0 ]; then
		run=
	elif sudo -n true 2>/dev/null; then
		run="sudo -n"
	else
		echo "These packages are missing:$missing" >&2
		echo "Install them with:  sudo $install" >&2
		exit 1
	fi
	echo "Installing:$missing"
	$run env DEBIAN_FRONTEND=noninteractive apt-get update -qq
	$run env DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
fi

if ! go_works; then
	echo "Go here is too old, or could not fetch the version that go.mod names: $(go version 2>&1 | head -n 1)" >&2
	echo "Install a current one as https://go.dev/doc/install says, and see that \"go version\" shows it." >&2
	exit 1
fi
