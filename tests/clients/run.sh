#!/usr/bin/env bash
# Unmodified clients, as their registries publish them, against `medgemma serve demo` on a free port of this machine.
#
#   tests/clients/run.sh [ARGUMENT OF PYTEST]…      with arguments, Python's tests alone: `-k lm_eval`
#
# Clients are installed into target/clients in the versions that requirements.txt and node/package-lock.json name. The
# program is target/release/medgemma, or what MEDGEMMA names. Exit status 3: the clients can't be had on this machine.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
export MEDGEMMA=${MEDGEMMA:-$root/target/release/medgemma}
[ -x "$MEDGEMMA" ] || { echo "$MEDGEMMA isn't there: cargo build --release -p medgemma-cli" >&2; exit 1; }
installed=$root/target/clients
mkdir -p "$installed"

skip() { echo "SKIPPED: tests of unmodified clients: $*" >&2; exit 3; }

# unchanged STAMP FILE…: whether these files are those that STAMP was written for.
unchanged() { [ -f "$1" ] && sha256sum "${@:2}" | cmp --silent - "$1"; }

# Python's
command -v python3 >/dev/null || skip "python3 isn't installed"
if ! unchanged "$installed/venv.stamp" requirements.txt; then
    rm -rf "$installed/venv"
    python3 -m venv "$installed/venv" || skip "python3 can't make a virtual environment (apt-get install python3-venv)"
    pip=("$installed/venv/bin/pip" --quiet --disable-pip-version-check --retries 1)
    if ! "${pip[@]}" install --requirement requirements.txt; then
        "${pip[@]}" download --no-deps --dest "$installed" pytest==9.2.0 &&
            { echo "pip install failed, though the registry answers" >&2; exit 1; }
        skip "pip could not fetch them; a machine without the network can't"
    fi
    sha256sum requirements.txt >"$installed/venv.stamp"
fi
# No client may look for anything beyond this machine.
offline=(NO_PROXY='*' HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$installed/huggingface" LITELLM_LOCAL_MODEL_COST_MAP=True LANGSMITH_TRACING=false)
env "${offline[@]}" "$installed/venv/bin/python" -m pytest --quiet -p no:cacheprovider "$@" .
[ $# -eq 0 ] || exit 0

# Node's
command -v npm >/dev/null || skip "npm isn't installed (Python's passed)"
mkdir -p "$installed/node"
cp node/* "$installed/node/"
cd "$installed/node"
if ! unchanged "$installed/node.stamp" package-lock.json; then
    if ! npm ci --silent --no-audit --no-fund; then
        npm ping --silent >/dev/null 2>&1 && { echo "npm ci failed, though the registry answers" >&2; exit 1; }
        skip "npm could not fetch them; a machine without the network can't"
    fi
    sha256sum package-lock.json >"$installed/node.stamp"
fi
env "${offline[@]}" HELDOUT="$root/demo-model/heldout" npm test --silent
