#!/usr/bin/env bash
# Runs each fuzz target of proto/fuzz and core/fuzz for SECONDS_EACH seconds (15). Needs a nightly compiler; brings
# cargo-fuzz from the Rust registry into tests/.cache. Without nightly it says so: the corpus itself
# is also run by `cargo test -p trine-proto`.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${SECONDS_EACH:-15}
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "skipped: no nightly compiler here"
    exit 0
fi
tools=$PWD/.cache/cargo-fuzz
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
    cargo install -q --locked cargo-fuzz --version 0.13.2 --root "$tools"
fi
export PATH="$tools/bin:$PATH"
# New findings go to a folder of their own, so that the committed corpus stays as it is.
run() {
    cd "../$1"
    mkdir -p "fuzz/target/found/$2"
    cargo +nightly fuzz run "$2" "fuzz/target/found/$2" "fuzz/corpus/$2" -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 -print_final_stats=1
}
for target in ws http1 client kafka_response kafka_record; do
    run proto "$target"
done
run core journal
