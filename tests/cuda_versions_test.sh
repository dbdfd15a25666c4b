#!/bin/sh
# What the real plugin says of a driver that is too old for it, and of a cuBLASLt of another major version, with stubs in their places.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
stub=$RB_BINARY_DIR/libcuda_stub.so lt=$RB_BINARY_DIR/libcublaslt_stub.so opens=$RB_BINARY_DIR/cublaslt_open
for f in "$RB_BINARY_DIR/resbm-cuda.so" "$stub" "$lt" "$opens"; do
    [ -f "$f" ] || { echo "skipped: this build has no ${f##*/} (make cuda)"; exit 77; }
done
says() { # FILE PATTERN
    grep -Eq -- "$2" "$1" || { miss "$1 does not say '$2'"; tail -n 5 "$1"; }
}

make_corpus
make_config
LD_PRELOAD=$stub RB_STUB_DRIVER=11040 train old pipeline.device=cuda pipeline.stages=1 && miss "a driver for CUDA 11.4 was enough"
says old.log 'no GPU can be used here: the NVIDIA driver is for CUDA 11\.4, too old for this plugin, which was built with CUDA [0-9.]+: '
says old.log 'update the driver to one for CUDA 1[0-9].*, or build the plugin with a toolkit of CUDA 11 '
LD_PRELOAD=$stub RB_STUB_DRIVER=99000 train other pipeline.device=cuda pipeline.stages=1 && miss "a stub in the driver's place was enough"
says other.log 'the NVIDIA driver, for CUDA 99\.0, '

export RESBM_CUBLASLT="$lt"
RB_STUB_CUBLASLT=0 "$opens" >none.log
major=$(sed 's/:.*//' none.log)
for version in ${major}0804 ${major}0000; do
    RB_STUB_CUBLASLT=$version "$opens" >right.log || { miss "$version was refused"; cat right.log; }
done
RB_STUB_CUBLASLT=$((major - 1))0804 "$opens" >older.log && miss "cuBLASLt $((major - 1)) was taken"
says older.log "libcublaslt_stub.so is cuBLASLt $((major - 1))\\.8 .*, and the plugin was compiled for cuBLASLt $major: name a libcublasLt.so.$major"
RB_STUB_CUBLASLT=$((major + 1))0000 "$opens" >newer.log && miss "cuBLASLt $((major + 1)) was taken"
RB_STUB_CUBLASLT=11600 "$opens" >old_number.log && miss "cuBLASLt 11 was taken"
says old_number.log 'is cuBLASLt 11\.6 \(11600\),'
RESBM_CUBLASLT=$stub "$opens" >wrong.log && miss "another library was taken"
says wrong.log 'libcuda_stub.so has no cublasLtGetVersion'
verdict
