#!/bin/sh
# What a GPU is wanted for, the most important first, within minutes and without a network: scripts/gpu.sh [FOLDER]
# Runs what scripts/gpu-pack.sh made (or what lies in BUILD) against the libraries that python3's torch (or PYTHON's) brings along. All
# output goes into FOLDER, the end of each part is shown. GPU_SECONDS (560) is what all of it may take; each part has a limit of its
# own. PARTS ("conformance losses") leaves all others out. Status 1 where conformance, losses or a check of memory failed
# (docs/cuda.md).
set -u
cd "$(dirname "$0")/.." || exit

# --- losses: the same training on the processors and on the GPU, alike within what products round. In a process of its own, with a limit.

train() { # NAME SETTING ...: its losses in losses-NAME
    name=$1
    shift
    "$bin/resbm" train "$out/run.yaml" --quiet --out "$out/run-$name" model.d=64 model.layers=4 model.heads=4 model.ffn=176 \
        model.vocab=256 model.context=64 boundary.ratio=8 train.batch=8 train.microbatches=2 train.steps="${STEPS:-20}" \
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
losses() {
    bad=0
    head -c 300000 /dev/urandom | base64 >"$out/text"
    "$bin/resbm" data --out "$out/corpus" "$out/text" >/dev/null && echo 'model: {segments: 2}' >"$out/run.yaml" || return
    train cpu pipeline.device=cpu || return
    { train f32 pipeline.device="$device" pipeline.math=f32 && near cpu f32 0.001; } || bad=1
    { train own pipeline.device="$device" && near cpu own 0.02; } || bad=1
    same two "one stage and two" pipeline.device="$device" pipeline.stages=2 || bad=1
    { train mixed pipeline.device="$device,cpu" pipeline.stages=2 && near cpu mixed 0.02; } || bad=1
    same halves "input and weight halves apart" pipeline.device="$device" pipeline.stages=2 pipeline.schedule=zb-h1 || bad=1
    same stream "momentum in the host's memory" pipeline.device="$device" optim.offload=host || bad=1
    train adamw pipeline.device=cpu optim.kind=adamw optim.lr=0.001 || return
    { train host pipeline.device="$device" optim.kind=adamw optim.lr=0.001 optim.offload=host optim.offload_update=host &&
        near adamw host 0.02; } || bad=1
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
lt=$(first "$wheels"/cu*/lib/libcublasLt.so.* "$wheels"/cublas/lib/libcublasLt.so.* /usr/local/cuda/lib64/libcublasLt.so.*)
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

# part NAME SECONDS LINES COMMAND...: within what is left of the time; LINES of its output are shown.
part() {
    part=$1 limit=$2 lines=$3 left=$((${GPU_SECONDS:-560} - $(passed))) since=$(passed)
    shift 3
    case " ${PARTS:-$part} " in *" $part "*) ;; *) return 0 ;; esac
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
sanitize() {
    command -v compute-sanitizer >/dev/null || { echo "== $1: no compute-sanitizer here"; return; }
    part "$1" 90 4 compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 "$bin/conformance_test"
    case $? in 0 | 124 | 137) ! grep -qsE '^=+ (Invalid|Error|Race|Uninit|Leaked)' "$out/$1.log" || failed=1 ;; *) failed=1 ;; esac
}
figures() { # PART SECONDS STEPS
    # shellcheck disable=SC2086
    part "$1" "$2" 12 "$python" bench/cuda.py --program "$bin/resbm" --device "$device" --rounds 1 --sizes "${SIZES:-124M}" \
        --contexts "${CONTEXTS:-1024}" $alone --parts "$1" --steps "$3" --attention "${ATTENTION:-own,cudnn}"
}
alone=
"$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || { echo "== $python has no torch for a GPU"; alone=--no-torch; }

{ nvidia-smi; nproc; free -g; "$python" -c 'import torch; print(torch.__version__)'; env | grep '^RESBM_'; } >"$out/machine.log" 2>&1
part doctor 30 3 "$bin/resbm" doctor
grep -s cuda "$out/doctor.log" | cut -c1-200
must conformance 90 12 "$bin/conformance_test"
must losses 80 16 sh scripts/gpu.sh --losses
sanitize memcheck
figures train 150 10
part codec 40 14 "$bin/resbm" bench codec --device "$device" --seconds 2
figures pipeline 110 3
part kernels 45 40 "$bin/resbm" bench kernels --device "$device" --d 1024 --T 1024 --ffn 2816 --heads 16
sanitize racecheck
echo "$(passed) s in all; output in $out"
exit $failed
