#!/bin/sh
# ctest: timeout=120
# What a machine with a GPU runs, tried out without one: a suite that was to use the GPU fails where it cannot, nvcc gets the compute
# capabilities it knows, `make test` compiles for the card that is here, scripts/gpu.sh's losses hold (on a device that completes late)
# and its failures are its status, and bench/cuda.py measures and says why it cannot.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
here=$PWD
says() { # FILE PATTERN
    grep -Eq -- "$2" "$1" || { miss "$1 does not say '$2'"; tail -n 5 "$1"; }
}
conformance=$RB_BINARY_DIR/conformance_test

RESBM_CUDA_PLUGIN=$here RESBM_TEST_DEVICES=ref,cuda RESBM_TEST_NEED=cuda "$conformance" >none.log 2>&1 && miss "the suite passed without the GPU"
says none.log 'this build has no resbm-cuda.so'
RESBM_TEST_DEVICES=ref RESBM_TEST_NEED=gpu "$conformance" >none.log 2>&1 && miss "the suite passed without device gpu"

if [ -f "$RB_BINARY_DIR/resbm-cuda-emulated.so" ]; then # the f32 of a card whose code for bf16 is missing is not enough
    RB_CUDA_EMU_CODE=75 RESBM_TEST_DEVICES=ref,cuda:emulated RESBM_TEST_NEED=cuda:emulated "$conformance" >some.log 2>&1 &&
        miss "the suite passed with half of the device"
    says some.log 'no code for compute capability 8.0'
    small="--d 64 --T 16 --B 1 --heads 2 --seconds 0.001"
    # shellcheck disable=SC2086
    "$resbm" bench kernels --device cuda:emulated $small --only attention >kernels.log 2>&1 || { miss "bench kernels"; cat kernels.log; }
    says kernels.log "^peak of the device's bf16 products "
    says kernels.log '^attention backward .*% of peak$'
    grep -q rmsnorm kernels.log && miss "--only attention measured more"
fi
"$resbm" bench kernels --only nothing >wrong.log 2>&1 && miss "bench kernels has a part that is none"
says wrong.log 'no part "nothing": products, attention'

mkdir bin
cat >bin/nvcc <<'SH'
#!/bin/sh
for a in 75 80 86 89 90 100; do echo compute_$a; done
SH
printf '#!/bin/sh\necho 8.9\necho 12.0\n' >bin/nvidia-smi
chmod +x bin/*
cat >code.cmake <<CMAKE
include($RB_SOURCE_DIR/cmake/cuda_code.cmake)
rb_cuda_code($here/bin/nvcc "75;90;100;120" code made left)
message("made \${made} left \${left} code \${code}")
rb_cuda_code($here/bin/nvcc "120" code made left)
message("none <\${made}>")
CMAKE
cmake -P code.cmake >code.log 2>&1 || miss "cmake -P code.cmake"
says code.log 'made 75;90;100 left 120 '
says code.log 'code=sm_75;.*code=sm_90;.*code=sm_100;-gencode;arch=compute_90,code=compute_90;-gencode;arch=compute_100,code=compute_100$'
says code.log 'none <>'
PATH=$here/bin:$PATH make -n -C "$RB_SOURCE_DIR" test >make.log 2>&1
says make.log 'CUDA_ARCHITECTURES=75,80,89,120 '

# Parts that fail are the script's status; what is not a fault is not.
script() { # LOG SETTINGS
    log=$1
    shift
    env BUILD="$RB_BINARY_DIR" STEPS=3 "$@" sh "$RB_SOURCE_DIR/scripts/gpu.sh" "$here/results" >"$log" 2>&1
}
script good.log DEVICE=late:cpu PARTS="conformance losses" || { miss "scripts/gpu.sh"; cat good.log; }
says good.log 'conformance: status 0'
says good.log 'one stage and two: the same losses'
says good.log 'adamw and host: 3 losses, '
script bad.log DEVICE=cuda RESBM_CUDA_PLUGIN="$here" PARTS="conformance" && miss "scripts/gpu.sh was content without a GPU"
says bad.log 'conformance: status [1-9]'

figures() { python3 -B "$RB_SOURCE_DIR/bench/cuda.py" --program "$resbm" --rounds 1 --steps 2 --sizes tiny --contexts 64 "$@"; }
figures --device cpu --no-torch --parts train >train.log 2>&1 || { miss "bench/cuda.py"; cat train.log; }
says train.log '^\| tiny \(0 M\) \| 64 \| own \| [0-9]+ \| - \| - \| - \| 0.0'
mkdir torch # one that finds no GPU
echo 'class cuda: is_available = staticmethod(lambda: False)
__version__ = "0"' >torch/__init__.py
PYTHONPATH=$here figures --parts train >torch.log 2>&1 && miss "bench/cuda.py measured a torch without a GPU"
says torch.log 'finds no GPU .*--no-torch'
figures --device gpu --no-torch --parts train >fault.log 2>&1
says fault.log 'there is no device "gpu"'
verdict
