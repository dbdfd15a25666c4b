#!/bin/sh
# For a machine that has a GPU, its driver and python3 with a CUDA build of torch, and nothing else: scripts/gpu-pack.sh [ARCH]
# Builds program, CUDA device and conformance suite where nvcc is, for compute capability ARCH (90: H100, H200; "80,90" for several) and
# for any processor, and puts them with the libraries they need into build-gpu-carry/. Copy the tree there and run scripts/gpu.sh
# (docs/cuda.md).
set -eu
cd "$(dirname "$0")/.."
arch=${1:-90}
build=${BUILD:-build-gpu}
carry=${CARRY:-build-gpu-carry}
scripts/install-deps.sh --check build conformance
[ -f "${CUDA_HOME:-/usr/local/cuda}/include/cublasLt.h" ] || scripts/venv.sh cuda
[ -z "${CUDNN:-}" ] || scripts/venv.sh cudnn
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DRESBM_PORTABLE=ON -DRESBM_TESTS=ON -DRESBM_CUDA=ON \
    -DRESBM_CUDA_ARCHITECTURES="$arch" -DCMAKE_BUILD_RPATH="\$ORIGIN/lib" -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags
cmake --build "$build" -j "${JOBS:-$(nproc)}" --target resbm resbm_cuda conformance_test
rm -rf "$carry"
mkdir -p "$carry/lib"
for f in resbm resbm-cuda.so conformance_test; do
    strip -o "$carry/$f" "$build/$f"
done
# All but what belongs to every system, and must be its own. Programs look for them in lib/, nobody else does.
ldd "$carry/resbm" "$carry/conformance_test" | awk '/=> \//{ print $3 }' | sort -u |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libz|ld-linux[^/]*)\.so' |
    while read -r f; do cp -L "$f" "$carry/lib/"; done
all=$(git ls-files -z | xargs -0 du -cb "$carry" | awk 'END { print $1 }')
echo "$carry: $((all >> 20)) MiB with the tracked files"
