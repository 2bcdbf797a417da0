#!/usr/bin/env bash
# Open WebUI, as PyPI publishes it, before `medgemma serve demo`: Chromium makes an account there, chooses the model and chats.
#
#   tests/clients/open-webui/run.sh [SCREENSHOT.png]
#
# Its packages (1 GB) are installed into target/clients/open-webui in the versions that requirements.txt names. Playwright and
# Chromium are those of the workbench's tests: scripts/test-web.sh installs them. Exit status 3: this machine can't have them.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
export MEDGEMMA=${MEDGEMMA:-$root/target/release/medgemma} CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
[ -x "$MEDGEMMA" ] || { echo "$MEDGEMMA isn't there: cargo build --release -p medgemma-cli" >&2; exit 1; }
installed=$root/target/clients/open-webui

skip() { echo "SKIPPED: Open WebUI: $*" >&2; exit 3; }

[ -d "$root/web/node_modules/@playwright/test" ] && [ -x "$CHROMIUM" ] || skip "no Playwright or Chromium: scripts/test-web.sh"
python3 -c 'import sys; exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || skip "it needs Python 3.11 or 3.12"
if ! { [ -f "$installed/stamp" ] && sha256sum requirements.txt | cmp --silent - "$installed/stamp"; }; then
    rm -rf "$installed"
    python3 -m venv "$installed" || skip "python3 can't make a virtual environment (apt-get install python3-venv)"
    pip=("$installed/bin/pip" --quiet --disable-pip-version-check --retries 1)
    if ! "${pip[@]}" install --no-deps --requirement requirements.txt; then
        "${pip[@]}" download --no-deps --dest "$installed" pytest==9.2.0 &&
            { echo "pip install failed, though the registry answers" >&2; exit 1; }
        skip "pip could not fetch it; a machine without the network can't"
    fi
    sha256sum requirements.txt >"$installed/stamp"
fi
OPEN_WEBUI=$installed/bin/open-webui exec node chat.mjs "$@"
