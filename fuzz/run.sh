#!/usr/bin/env bash
# fuzz/run.sh SECONDS [TARGET…]: runs each fuzz target (or those named) for so long; fails on a crash, a hang or an
# allocation beyond what a small file can ask for. Inputs that crash are left in fuzz/artifacts/. `request` needs the whole
# server with instrumentation, minutes of building: it is run where it is named, and a test of the server's changes its
# seeds in every run of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target}
shift

# Instrumentation needs flags that the stable compiler only takes so.
export RUSTC_BOOTSTRAP=1
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list | grep --invert-match --line-regexp request)
[ $# -gt 0 ] && targets=("$@")

for target in "${targets[@]}"; do
    printf '== fuzz %s, %s s\n' "$target" "$seconds"
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    log=fuzz/artifacts/$target/log
    features=()
    [ "$target" = request ] && features=(--features request)
    if ! cargo fuzz run "${features[@]}" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -malloc_limit_mb=64 -rss_limit_mb=2048 \
        -verbosity=0 -print_final_stats=1 >"$log" 2>&1; then
        tail -n 60 "$log"
        exit 1
    fi
    grep '^stat::' "$log"
done
echo "fuzzed: ${targets[*]}"
