#!/bin/sh
# Makes h2/ from a release and h2.patch: `rust_core/vendor/update.sh 0.4.20`, then `cargo build`.
set -eu
version=${1:?which release of h2}
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
: > "$work/src/lib.rs"
printf '[package]\nname = "released"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nh2 = "=%s"\n[workspace]\n' \
  "$version" > "$work/Cargo.toml"
(cd "$work" && cargo vendor --quiet crates > /dev/null)
rm -rf h2
mkdir h2
cp -r "$work/crates/h2/src" "$work/crates/h2/LICENSE" h2
# The library alone: examples and benchmarks stay behind, and what only they and the tests need.
awk '/^\[/ { skip = /^\[\[(example|bench)\]\]|^\[dev-dependencies/ } !skip' \
  "$work/crates/h2/Cargo.toml" > h2/Cargo.toml
patch --quiet --directory h2/src --strip 1 --no-backup-if-mismatch < h2.patch
