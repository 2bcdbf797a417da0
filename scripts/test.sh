#!/usr/bin/env bash
# Format, lints, tests, examples and a bounded fuzz: all that must pass. Everything is built once, with --release.
set -euo pipefail
cd "$(dirname "$0")/.."

# optional SCRIPT: one that ends with 3 says what this machine can't have; the rest goes on without it.
optional() {
    local status=0
    step "$@" || status=$?
    [ $status -eq 3 ] && skipped+=("$1") || return $status
}
skipped=()
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
optional scripts/test-kernels.sh
optional tests/clients/run.sh
optional scripts/test-web.sh
optional tests/clients/open-webui/run.sh
step fuzz/run.sh "${FUZZ_SECONDS:-20}"
printf '\nall passed'
[ ${#skipped[@]} -eq 0 ] || printf ', but skipped here: %s' "${skipped[*]}"
echo
