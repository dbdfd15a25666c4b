#!/bin/sh
# ctest: timeout=900
# What a machine with a GPU runs, tried out without one: a suite that was to use the GPU fails where it cannot, nvcc gets the compute
# capabilities it knows, `make test` compiles for the card that is here, scripts/gpu.sh's losses hold (on a device that completes late),
# its failures are its status, it takes libraries for the plugin's CUDA and its last parts fall away where the time is over, and
# bench/cuda.py lets what it compares take turns, measures, says why it cannot, and prints what it has when it is ended.
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
    env -u RESBM_CUBLASLT -u RESBM_CUDNN BUILD="$RB_BINARY_DIR" STEPS=3 SLOWER=$((4 * patience)) GPU_SECONDS=$((900 * patience)) "$@" sh "$RB_SOURCE_DIR/scripts/gpu.sh" "$here/results" >"$log" 2>&1
}
script good.log DEVICE=late:cpu PARTS="conformance losses" || { miss "scripts/gpu.sh"; cat good.log; }
says good.log 'conformance: status 0'
says good.log 'one stage and two: the same losses'
says good.log 'resumed: the same losses'
says good.log 'momentum and gradients in the host.s memory: the same losses'
says good.log 'adamw and host: 3 losses, '
says good.log 'flow-cpu and pipedream: 3 losses, '
says good.log 'late-cpu and delayed: 3 losses, '
script bad.log DEVICE=cuda RESBM_CUDA_PLUGIN="$here" PARTS="conformance" && miss "scripts/gpu.sh was content without a GPU"
says bad.log 'conformance: status [1-9]'

# A program that answers at once: the n-th training has steps of n seconds (behind three of 99), the one named in `ends` is cut short.
mkdir fake
cat >fake/resbm <<'SH'
#!/bin/sh
here=${0%/*} out=
[ "$1 $2" != "bench kernels" ] || printf 'attention forward 0.%s ms\nattention backward 2.%s ms\n' "$(($(wc -l <"$here/asked") + 1))" 5
[ "$1" = train ] || exit 0
asked=
for a in "$@"; do
    case $a in
    --resume) echo "resumed after step 1" ;;
    boundary.kind=*|optim.kind=*|optim.offload*|optim.delay=*|link.up=*|pipeline.attention=*) asked="$asked ${a#*.}" ;;
    esac
    [ "$last" != --out ] || out=$a
    last=$a
done
echo "$asked" >>"$here/asked"
n=$(wc -l <"$here/asked")
[ ! -f "$here/ends" ] || [ "$n" != "$(cat "$here/ends")" ] || { kill -TERM $PPID; sleep 20; }
mkdir -p "$out"
for s in 99 99 99 "$n" "$n"; do echo "{\"loss\": 5.5, \"step_s\": $s}"; done >"$out/metrics.jsonl"
echo '{"traceEvents": [{"cat": "optimizer", "dur": 250000}, {"cat": "optimizer", "dur": 125000}]}' >"$out/trace.json"
echo '{"steps": 5, "peak_rss_bytes": [3000000000], "memory": [{"taken": 2000000000, "host_wait_s": 0.5, "disk_wait_s": 1}]}' \
    >"$out/summary.json"
SH
printf '#!/bin/sh\n' >fake/conformance_test
cp fake/conformance_test bin/compute-sanitizer
chmod +x fake/* bin/*
faked() { # LOG OPTION...
    log=$1
    shift
    : >fake/asked
    python3 -B "$RB_SOURCE_DIR/bench/cuda.py" --program fake/resbm --no-torch --sizes tiny --contexts 64 "$@" >"$log" 2>&1
}
faked turns.log --rounds 3 --parts boundary || { miss "bench/cuda.py --parts boundary"; cat turns.log; }
says turns.log '^\| tiny \| 64 \| 1 \| 3.0000 \(1.5000 to 4.5000\) \| 4.0000 \(2.5000 to 5.5000\) \| 33.3% \(20.0% to 100.0%\) \|$'
[ "$(grep -o 'kind=[nr][a-z]*' fake/asked | tr '\n' ' ')" = "kind=none kind=residual kind=none kind=residual kind=none kind=residual " ] ||
    { miss "boundaries did not take turns"; cat fake/asked; }
echo 4 >fake/ends
faked cut.log --rounds 3 --parts boundary,offload && miss "bench/cuda.py was ended and content"
says cut.log '^\| tiny \| 64 \| 1 \| 2.0000 \(1.0000 to 3.0000\) \| 2.0000 \(2.0000 to 2.0000\) \| 100.0% \|$'
says cut.log 'ended before all was measured'
grep -q Offload cut.log && miss "a part began after the end"
rm fake/ends
faked offload.log --rounds 2 --parts offload || { miss "bench/cuda.py --parts offload"; cat offload.log; }
says offload.log '^\| tiny \| 64 \| host \| 186 \| 5.5000 \(3.0000 to 8.0000\) \| 2.17 \(1.33 to 3.00\) \| 0.1000 \| 0.2000 \| 2.00 \| 3.00 \|$'
[ "$(grep -c 'offload_update=host delay=1' fake/asked)" = 2 ] || { miss "the delayed update had no two rounds"; cat fake/asked; }
faked links.log --rounds 2 --parts pipeline || { miss "bench/cuda.py --parts pipeline"; cat links.log; }
says links.log '^\| tiny \| 64 \| 2 \| none, bf16 \| .* \| 1.60 \(1.20 to 2.00\) \|$'
says links.log '^\| tiny \| 64 \| 2 \| residual 128x int4 \| .* \| 1.24 \(1.14 to 1.33\) \|$'
faked train.log --rounds 2 --parts train --optim adamw,muon || { miss "bench/cuda.py --parts train"; cat train.log; }
says train.log '^\| tiny \(0 M\) \| 64 \| own \| muon \| 341 \| - \| - \| - \| 2.00 \| 0.00 \| - \| 3.0000 \(2.0000 to 4.0000\) \| 0.1250 \|$'
faked attention.log --rounds 2 --parts attention || { miss "bench/cuda.py --parts attention"; cat attention.log; }
says attention.log '^\| tiny \| 64 \| 0.100 \| 0.200 \| 2.500 \| 2.500 \| 2.0000 .* \| 0.62 \(0.50 to 0.75\) \|$'

# All of scripts/gpu.sh with it, and with no time: its parts in their order.
whole() { # LOG SETTINGS
    log=$1
    shift
    env PATH="$here/bin:$PATH" BUILD="$here/fake" DEVICE=cpu SIZES=tiny CONTEXTS=64 STEPS=5 "$@" \
        sh "$RB_SOURCE_DIR/scripts/gpu.sh" "$here/results" >"$log" 2>&1
}
parts() { sed -n 's/^== \([a-z]*\): .*/\1/p' "$1" | tr '\n' ' '; }
order="doctor conformance losses train large wide offload boundary pipeline attention memcheck racecheck synccheck kernels codec torch "
: >fake/asked
whole whole.log || { miss "scripts/gpu.sh, all of it"; cat whole.log; }
[ "$(parts whole.log)" = "$order" ] || miss "scripts/gpu.sh has the parts $(parts whole.log)"
[ "$(grep -c '^== [a-z]*: status 0' whole.log)" -ge 15 ] || { miss "parts of scripts/gpu.sh failed"; cat whole.log; }
says whole.log '^\| tiny .* \| muon \| '
whole none.log GPU_SECONDS=0 && miss "scripts/gpu.sh was content without time"
[ "$(parts none.log)" = "$order" ] || miss "without time scripts/gpu.sh has the parts $(parts none.log)"
[ "$(grep -v torch none.log | grep -c 'no time left')" = 15 ] || { miss "parts had time"; cat none.log; }

# cuBLASLt of the plugin's major version, wherever wheels have it; of wheels for another CUDA nothing.
mkdir -p build wheels/cu12/lib wheels/cudnn/lib
printf 'libcublasLt.so.\0libcublasLt.so.13\0' >build/resbm-cuda.so
touch wheels/cu12/lib/libcublasLt.so.12 wheels/cudnn/lib/libcudnn.so.9
# shellcheck disable=SC2016 # $2 is that script's
printf '#!/bin/sh\ncase $2 in *nvidia*) echo %s ;; *) exit 1 ;; esac\n' "$here/wheels" >bin/python
chmod +x bin/python
script other.log BUILD="$here/build" PYTHON="$here/bin/python" PARTS=none
says other.log 'libcublasLt.so.12 is not the libcublasLt.so.13 that the plugin was compiled for: left out'
grep -E '^RESBM_CU(BLASLT|DNN)=.*wheels' results/machine.log && miss "scripts/gpu.sh took libraries for another CUDA"
mkdir -p wheels/cu13/lib
touch wheels/cu13/lib/libcublasLt.so.13
script right.log BUILD="$here/build" PYTHON="$here/bin/python" PARTS=none
says results/machine.log '^RESBM_CUBLASLT=.*wheels/cu13/lib/libcublasLt.so.13$'
says results/machine.log '^RESBM_CUDNN=.*wheels/cudnn/lib/libcudnn.so.9$'
grep 'left out' right.log && miss "scripts/gpu.sh left out the right library"

figures() { python3 -B "$RB_SOURCE_DIR/bench/cuda.py" --program "$resbm" --rounds 1 --steps 2 --sizes tiny --contexts 64 "$@"; }
figures --device cpu --no-torch --parts train >train.log 2>&1 || { miss "bench/cuda.py"; cat train.log; }
says train.log '^\| tiny \(0 M\) \| 64 \| own \| adamw \| [0-9]+ \| - \| - \| - \| 0.0'
figures --device late:cpu --no-torch --parts offload >offload.log 2>&1 || { miss "bench/cuda.py --parts offload"; cat offload.log; }
for way in none device "host, delay 1" "device, states\+gradients"; do
    says offload.log "^\| tiny \| 64 \| $way \| [0-9]+ \| [0-9.]+ \([^|]*\) \| [0-9.]+ \| [0-9.]+ \| [0-9.]+ \| 0.0[0-9] |"
done
figures --device late:cpu --no-torch --parts pipeline --boundaries residual >links.log 2>&1 || { miss "bench/cuda.py --parts pipeline"; cat links.log; }
says links.log '^\| tiny \| 64 \| 2 \| residual 128x int4 \| [0-9]+ '
mkdir torch # one that finds no GPU
echo 'class cuda: is_available = staticmethod(lambda: False)
__version__ = "0"' >torch/__init__.py
PYTHONPATH=$here figures --parts train >torch.log 2>&1 && miss "bench/cuda.py measured a torch without a GPU"
says torch.log 'finds no GPU .*--no-torch'
figures --device gpu --no-torch --parts train >fault.log 2>&1
says fault.log 'there is no device "gpu"'
verdict
