#!/usr/bin/env bash
# Format, lints, tests, examples and a bounded fuzz: all that must pass. Everything is built once, with --release.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

# Real files that some tests compare with; a machine without the network goes on without them and says so.
[ -x scripts/fetch-testdata.sh ] && { step scripts/fetch-testdata.sh || echo "test data could not be fetched: the tests that need it say that they were skipped"; }

step cargo fmt --check
step cargo clippy --release --workspace --all-targets --locked -- -D warnings
step cargo test --release --workspace --locked
RUSTDOCFLAGS="-D warnings" step cargo doc --release --workspace --no-deps --locked
step cargo run --release --locked --quiet -- demo
[ -x fuzz/run.sh ] && step fuzz/run.sh "${FUZZ_SECONDS:-20}"
printf '\nall passed\n'
