#!/bin/sh
# What a GPU is wanted for, what no card has shown yet first, within minutes and without a network: scripts/gpu.sh [FOLDER]
# Runs what scripts/gpu-pack.sh made (or what lies in BUILD) against the libraries that python3's torch (or PYTHON's) brings along. All
# output goes into FOLDER, the end of each part is shown. GPU_SECONDS (560) is what all of it may take; each part has a limit of its
# own (SLOWER times as much on a slow machine), and where the time is over the last ones fall away. PARTS ("conformance losses")
# leaves all others out. Status 1 where conformance, losses or a check of memory failed (docs/cuda.md).
set -u
cd "$(dirname "$0")/.." || exit

# --- losses: the same training on the processors and on the GPU, alike within what products round. In a process of its own, with a limit.

steps=${STEPS:-20} few=$((${STEPS:-20} < 8 ? ${STEPS:-20} : 8))

train() { # NAME SETTING ...: its losses in losses-NAME
    name=$1
    shift
    "$bin/resbm" train "$out/run.yaml" --quiet --out "$out/run-$name" model.d=64 model.layers=4 model.heads=4 model.ffn=176 \
        model.vocab=256 model.context=64 boundary.ratio=8 train.batch=8 train.microbatches=2 train.steps="$steps" \
        train.eval_every=0 train.save=false optim.warmup=1 data.val= "data.train=$out/corpus/train-*.bin" pipeline.stages=1 "$@" \
        >"$out/run-$name.log" 2>&1 || { echo "$name:" && tail -n 3 "$out/run-$name.log" && return 1; }
    sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' "$out/run-$name/metrics.jsonl" >"$out/losses-$name"
}
near() { # A B WITHIN, as a share
    paste "$out/losses-$1" "$out/losses-$2" | awk -v within="$3" -v names="$1 and $2" '
        { off = ($1 - $2) / $1; if (off < 0) off = -off; if (!(off <= worst)) worst = off }
        END { printf "%s: %d losses, last %s and %s, %.3g apart at most\n", names, NR, $1, $2, worst; exit !(NR >= 3 && worst <= within) }'
}
same() { # NAME WHAT SETTING ...: the losses of own, bit for bit
    what=$2 other=$1
    shift 2
    train "$other" "$@" && cmp "$out/losses-own" "$out/losses-$other" && echo "$what: the same losses"
}
# The last snapshot but one is what goes on.
resumed() { # SETTING ...
    set -- "$@" train.save=true train.checkpoint_every=$(((steps + 1) / 2)) train.keep=9
    train back "$@" || return
    rm -rf "$out/run-back/step-$steps"
    same back "resumed" --resume "$@" && grep -q "^resumed after step" "$out/run-back.log"
}
losses() {
    bad=0
    head -c 300000 /dev/urandom | base64 >"$out/text"
    "$bin/resbm" data --out "$out/corpus" "$out/text" >/dev/null && echo 'model: {segments: 2}' >"$out/run.yaml" || return
    gpu=pipeline.device=$device adamw="optim.kind=adamw optim.lr=0.001" hosted="optim.offload=host optim.offload_update=host"
    flow="pipeline.stages=2 pipeline.schedule=pipedream optim.clip_scope=segment train.steps=$few"
    late="$adamw optim.delay=1 train.steps=$few"
    train cpu pipeline.device=cpu || return
    { train f32 "$gpu" pipeline.math=f32 && near cpu f32 0.001; } || bad=1
    { train own "$gpu" && near cpu own 0.02; } || bad=1
    same two "one stage and two" "$gpu" pipeline.stages=2 || bad=1
    { train mixed pipeline.device="$device,cpu" pipeline.stages=2 && near cpu mixed 0.02; } || bad=1
    same halves "input and weight halves apart" "$gpu" pipeline.stages=2 pipeline.schedule=zb-h1 || bad=1
    resumed "$gpu" || bad=1
    same stream "momentum in the host's memory" "$gpu" optim.offload=host || bad=1
    same away "momentum and gradients in the host's memory" "$gpu" optim.offload=host optim.offload_parts=states+gradients || bad=1
    # shellcheck disable=SC2086
    {
        { train adamw pipeline.device=cpu $adamw && train host "$gpu" $adamw $hosted && near adamw host 0.02; } || bad=1
        { train flow-cpu pipeline.device=cpu $flow && train pipedream "$gpu" $flow && near flow-cpu pipedream 0.02; } || bad=1
        { train late-cpu pipeline.device=cpu $late && train delayed "$gpu" $late $hosted && near late-cpu delayed 0.02; } || bad=1
    }
    rm -rf "$out"/run-* "$out/run.yaml" "$out/corpus" "$out/text"
    return $bad
}
if [ "${1:-}" = --losses ]; then
    losses
    exit
fi

# --- where things are. The driver is the system's; cuBLASLt and cuDNN are those of python's torch, or the toolkit's.

out=${1:-${OUT:-gpu-results}}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit
bin=$(cd "${BUILD:-build-gpu-carry}" && pwd) || exit
python=${PYTHON:-python3} device=${DEVICE:-cuda}
export out bin device
export PATH="$PATH:/usr/local/cuda/bin" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive
export RESBM_TEST_DEVICES="ref,$device" RESBM_TEST_NEED="$device"

wheels=$("$python" -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)
first() { for f in "$@"; do [ -f "$f" ] && { echo "$f"; return; }; done; }
# Of the major version that the plugin was compiled for. Wheels for another CUDA have nothing for it, their cuDNN included.
need=$(grep -ao 'libcublasLt\.so\.[0-9][0-9]*' "$bin/resbm-cuda.so" 2>/dev/null | head -n 1)
need=${need:-libcublasLt.so.*}
# shellcheck disable=SC2086 # a pattern
lt=$(first "$wheels"/cu*/lib/$need "$wheels"/cublas/lib/$need)
other=$(first "$wheels"/cu*/lib/libcublasLt.so.* "$wheels"/cublas/lib/libcublasLt.so.*)
[ -n "$lt" ] || [ -z "$other" ] || { echo "== $other is not the $need that the plugin was compiled for: left out, with what is beside it"; wheels=; }
# shellcheck disable=SC2086
[ -n "$lt" ] || lt=$(first /usr/local/cuda/lib64/$need)
dnn=$(first "$wheels"/cudnn/lib/libcudnn.so.*)
nvrtc=$(first "$wheels"/cu*/lib/libnvrtc.so.* "$wheels"/cuda_nvrtc/lib/libnvrtc.so.*)
[ -z "$lt" ] || export RESBM_CUBLASLT="${RESBM_CUBLASLT:-$lt}"
[ -z "$dnn" ] || export RESBM_CUDNN="${RESBM_CUDNN:-$dnn}"
for f in "$lt" "$dnn" "$nvrtc"; do # cuDNN looks for NVRTC by its name
    [ ! -e "$f" ] || export LD_LIBRARY_PATH="${f%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done

# --- the parts

begin=$(date +%s) failed=0
passed() { echo $(($(date +%s) - begin)); }

wanted() { case " ${PARTS:-$1} " in *" $1 "*) ;; *) return 1 ;; esac; }
# part NAME SECONDS LINES COMMAND...: within what is left of the time; LINES of its output are shown.
part() {
    part=$1 limit=$(($2 * ${SLOWER:-1})) lines=$3 left=$((${GPU_SECONDS:-560} - $(passed))) since=$(passed)
    shift 3
    wanted "$part" || return 0
    rm -f "$out/$part.log"
    [ "$left" -ge "$limit" ] || limit=$left
    [ "$limit" -ge 5 ] || { echo "== $part: no time left"; return 124; }
    timeout -k 5 "$limit" "$@" >"$out/$part.log" 2>&1
    status=$?
    over=
    [ $status != 124 ] || over=" (its $limit s were over)"
    echo "== $part: status $status$over, $(($(passed) - since)) s"
    tail -n "$lines" "$out/$part.log" | cut -c1-200
    return $status
}
must() { part "$@" || failed=1; }
# The conformance suite under a tool of compute-sanitizer. As far as its time goes it has found nothing.
sanitize() { # TOOL SECONDS
    wanted "$1" || return
    command -v compute-sanitizer >/dev/null || { echo "== $1: no compute-sanitizer here"; return; }
    part "$1" "$2" 4 compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 "$bin/conformance_test"
    case $? in 0 | 124 | 137) ! grep -qsE '^=+ (Invalid|Error|Race|Uninit|Leaked|Barrier|Divergent)' "$out/$1.log" || failed=1 ;; *) failed=1 ;; esac
}
figures() { # NAME SECONDS LINES PART SIZES OPTION...
    name=$1 limit=$2 lines=$3 what=$4 sizes=${SIZES:-$5}
    shift 5
    part "$name" "$limit" "$lines" "$python" bench/cuda.py --program "$bin/resbm" --device "$device" --rounds "${ROUNDS:-1}" \
        --contexts "${CONTEXTS:-1024}" --parts "$what" --sizes "$sizes" "$@"
}

{ nvidia-smi; nproc; free -g; "$python" -c 'import torch; print(torch.__version__)'; env | grep '^RESBM_'; } >"$out/machine.log" 2>&1
part doctor 20 3 "$bin/resbm" doctor
grep -s cuda "$out/doctor.log" | cut -c1-200
must conformance 75 12 "$bin/conformance_test"
must losses 110 24 sh scripts/gpu.sh --losses
figures train 40 4 train 124M --no-torch --optim adamw,muon
figures large 50 4 train 1.1B --no-torch --optim adamw,muon --steps 5
figures wide 50 4 train llama8b --no-torch --optim adamw,muon --steps 5
figures offload 65 7 offload 350M --steps 4
figures boundary 40 4 boundary 1.1B,124M --steps 5
figures pipeline 45 3 pipeline 124M --boundaries residual --steps 5
figures attention 45 4 attention 124M,llama8b --steps 5
sanitize memcheck 60
sanitize racecheck 50
sanitize synccheck 35
part kernels 30 40 "$bin/resbm" bench kernels --device "$device" --d 1024 --T 1024 --ffn 2816 --heads 16
part codec 30 14 "$bin/resbm" bench codec --device "$device" --seconds 0.3
if wanted torch && ! "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    echo "== torch: $python has none for a GPU"
else
    figures torch 150 4 train 124M --attention "${ATTENTION:-own,cudnn}"
fi
echo "$(passed) s in all; output in $out"
exit $failed
