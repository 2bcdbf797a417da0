#!/usr/bin/env bash
# The workbench's tests: web/dist is what web/src builds, and Playwright drives it in Debian's Chromium, before a mock
# server and before `medgemma serve demo`. Exit status 3: this machine can't have what they need; it says what.
#
#   scripts/test-web.sh [ARGUMENT OF PLAYWRIGHT]…
set -euo pipefail
cd "$(dirname "$0")/../web"
export MEDGEMMA=${MEDGEMMA:-$PWD/../target/release/medgemma}
[ -x "$MEDGEMMA" ] || { echo "$MEDGEMMA isn't there: cargo build --release -p medgemma-cli" >&2; exit 1; }

skip() { echo "SKIPPED: tests of the workbench: $*" >&2; exit 3; }

major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/') || true
[ "${major:-0}" -ge 20 ] && command -v npm >/dev/null || skip "Node 20 with npm isn't installed"
if ! npm ci --silent --no-audit --no-fund; then
    npm ping --silent >/dev/null 2>&1 && { echo "npm ci failed, though the registry answers" >&2; exit 1; }
    skip "npm could not fetch what package-lock.json names; a machine without the network can't"
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
npx tsc --noEmit
npx vite build --logLevel warn --outDir "$fresh" --emptyOutDir
diff --recursive --brief dist "$fresh" || { echo "web/dist isn't what web/src builds: npm run build, and commit both" >&2; exit 1; }

export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
if [ ! -x "$CHROMIUM" ]; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || skip "Chromium isn't installed (apt-get install chromium; or CHROMIUM=path)"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium; } >/dev/null 2>&1 ||
        skip "apt-get could not install chromium"
fi
npx playwright test "$@"
