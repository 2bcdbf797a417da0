#!/usr/bin/env bash
# Compiles the CUDA kernels with nvcc as PyPI has it (target/kernels, no GPU needed), and holds the committed binaries to
# what comes out. What passed once isn't compiled again. Exit status 3: this machine can't have the compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
sources=crates/kernels/cuda
installed=$PWD/target/kernels
mkdir -p "$installed"

skip() { echo "SKIPPED: compiling CUDA kernels: $*" >&2; exit 3; }
digest() { cat scripts/kernels.sh scripts/test-kernels.sh "$sources"/requirements.txt "$sources"/*.cu "$sources"/*.cuh "$sources"/*/* | sha256sum; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || skip "the binaries are made on Linux on x86-64"
if digest | cmp --silent - "$installed/passed"; then
    echo "unchanged since they passed"
    exit 0
fi
command -v python3 >/dev/null || skip "python3 isn't installed"
if ! cmp --silent "$sources/requirements.txt" "$installed/requirements.txt"; then
    rm -rf "$installed/venv"
    python3 -m venv "$installed/venv" || skip "python3 can't make a virtual environment (apt-get install python3-venv)"
    pip=("$installed/venv/bin/pip" --quiet --disable-pip-version-check --retries 1)
    if ! "${pip[@]}" install --requirement "$sources/requirements.txt"; then
        "${pip[@]}" download --no-deps --dest "$installed" pip &&
            { echo "pip install failed, though the registry answers" >&2; exit 1; }
        skip "pip could not fetch nvcc; a machine without the network can't"
    fi
    cp "$sources/requirements.txt" "$installed/requirements.txt"
fi
nvcc=("$installed"/venv/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
NVCC=${nvcc[0]} scripts/kernels.sh "$made"
# PTX has numbers in the names of what isn't seen from outside, which are others each time.
named() { sed -E 's/[0-9a-f]{8}(_[0-9]+_[a-z0-9]+_cu_)[0-9a-f]{8}/\1/g' "$1"; }
diff <(ls "$made") <(ls "$sources/bin") || { echo "$sources/bin has other files than scripts/kernels.sh makes" >&2; exit 1; }
for file in "$made"/*; do
    cmp <(named "$file") <(named "$sources/bin/${file##*/}") ||
        { echo "$sources/bin/${file##*/} isn't what its source gives: scripts/kernels.sh, and commit what it writes" >&2; exit 1; }
done
digest >"$installed/passed"
