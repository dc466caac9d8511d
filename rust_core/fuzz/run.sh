#!/bin/bash
# Runs every fuzz target for FUZZ_SECONDS (60), or one of them: run.sh [TARGET…]
# What is found beyond the committed corpus stays in target/corpus.
set -euo pipefail
cd "$(dirname "$0")"

if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "installing cargo-fuzz"
  cargo install --quiet --locked cargo-fuzz || {
    echo "make fuzz needs cargo-fuzz, which could not be installed: cargo install cargo-fuzz" >&2
    exit 1
  }
fi

sanitizer=address
toolchain=()
if cargo +nightly --version >/dev/null 2>&1; then
  toolchain=(+nightly)
else
  # Stable has no sanitizers to offer; our own code has no unsafe in it.
  echo "no nightly compiler: fuzzing with the stable one, without a sanitizer"
  export RUSTC_BOOTSTRAP=1
  sanitizer=none
fi

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  targets=(reader media encodings machine replies protobuf settings)
fi

cargo "${toolchain[@]}" fuzz build --fuzz-dir . --sanitizer "$sanitizer"
for target in "${targets[@]}"; do
  echo "==> $target, ${FUZZ_SECONDS:-60} s"
  mkdir -p "target/corpus/$target"
  cargo "${toolchain[@]}" fuzz run --fuzz-dir . --sanitizer "$sanitizer" "$target" \
    "target/corpus/$target" "corpus/$target" -- \
    -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
    -dict=dictionary.txt -verbosity=0 -print_funcs=0 -print_final_stats=1
done
