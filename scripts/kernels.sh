#!/usr/bin/env bash
# Compiles the CUDA kernels (crates/kernels/cuda/*.cu) to the binaries that are part of the program. Run it when a source
# has changed; NVCC names the compiler (of CUDA 13.0), else it is looked for in PATH. No GPU is needed.
#
#   scripts/kernels.sh [FOLDER]      else crates/kernels/cuda/bin
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../crates/kernels/cuda/bin}")
cd "$(dirname "$0")/../crates/kernels/cuda"
export NVCC=${NVCC:-nvcc} LC_ALL=C
mkdir -p "$out"
# As many at once as there are processors.
for source in *.cu; do
    source=${source%.cu}
    # What is written for Hopper alone.
    case $source in
    *90) echo "-cubin -arch=sm_90a $source.cu -o $out/$source.sm_90a.cubin" ;;
    *)
        for arch in sm_80 sm_90a sm_100; do
            echo "-cubin -arch=$arch $source.cu -o $out/$source.$arch.cubin"
        done
        echo "-ptx -arch=compute_80 $source.cu -o $out/$source.compute_80.ptx"
        ;;
    esac
done | xargs -P "$(nproc)" -I {} sh -c '"$NVCC" -O3 -std=c++17 {}'
cat *.cu *.cuh */*.cuh | sha256sum | cut -d ' ' -f 1 > "$out/sources.sha256"
