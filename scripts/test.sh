#!/usr/bin/env bash
# Format, lints, tests, examples and a bounded fuzz: all that must pass. Everything is built once, with --release.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

# Real files that some tests compare with; a machine without the network goes on without them and says so.
step scripts/fetch-testdata.sh || echo "Not all could be fetched: the tests that need it say that they were skipped."

step cargo fmt --check
step cargo clippy --release --workspace --all-targets --locked -- -D warnings
step cargo test --release --workspace --locked
RUSTDOCFLAGS="-D warnings" step cargo doc --release --workspace --no-deps --locked
for example in quickstart image thinking conversation tokens; do
    step cargo run --release --locked --quiet -p medgemma-engine --example "$example" >/dev/null
done
step cargo run --release --locked --quiet -- demo
step fuzz/run.sh "${FUZZ_SECONDS:-20}"
printf '\nall passed\n'
