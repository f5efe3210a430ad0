#!/usr/bin/env bash
# Runs each fuzz target of proto/fuzz for SECONDS_EACH seconds (20). Needs a nightly compiler and
# cargo-fuzz; without them it says so. The corpus itself is also run by `cargo test -p trine-proto`.
set -euo pipefail
cd "$(dirname "$0")/../proto"
seconds=${SECONDS_EACH:-20}
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "skipped: no nightly compiler with cargo-fuzz here (cargo install cargo-fuzz)"
    exit 0
fi
for target in ws http1 client; do
    # New findings go to a folder of their own, so that the committed corpus stays as it is.
    mkdir -p "fuzz/target/found/$target"
    cargo +nightly fuzz run "$target" "fuzz/target/found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=10
done
