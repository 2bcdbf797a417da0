#!/bin/sh
# Compiles the CUDA kernels (crates/kernels/cuda/*.cu) to the binaries that are part of the program. Run it when a source
# has changed; NVCC names the compiler (of CUDA 13.0), else it is looked for in PATH. No GPU is needed.
set -eu
cd "$(dirname "$0")/../crates/kernels/cuda"
nvcc=${NVCC:-nvcc}
mkdir -p bin
for source in *.cu; do
    name=${source%.cu}
    # What is written for Hopper alone.
    case $name in *90) archs=sm_90a ;; *) archs="sm_80 sm_90a sm_100" ;; esac
    for arch in $archs; do
        "$nvcc" -cubin -arch="$arch" -O3 -std=c++17 "$source" -o "bin/$name.$arch.cubin"
    done
    [ "$archs" = sm_90a ] || "$nvcc" -ptx -arch=compute_80 -O3 -std=c++17 "$source" -o "bin/$name.compute_80.ptx"
done
export LC_ALL=C
cat *.cu *.cuh */*.cuh | sha256sum | cut -d ' ' -f 1 > bin/sources.sha256
