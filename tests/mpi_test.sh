#!/bin/sh
# ctest: timeout=300 serial
# shellcheck disable=SC2154,SC2086 # settings are words; kinds is of mpi_common.sh
# engine: mpi: four ranks give the losses and weights of the local engine, bit for bit; a rank that dies is named, and
# --resume goes on; what cannot work says why. For each MPI that is here.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
. "$RB_SOURCE_DIR/tests/mpi_common.sh"
trap 'for p in ${pid:-} ${family:-}; do kill -KILL "$p"; done 2>/dev/null' EXIT
make_corpus
make_config
rm -rf openmpi mpich one wrong
long="train.checkpoint_every=2 train.eval_every=0 data.val= optim.schedule=constant pipeline.deadline=$((30 * patience))s"
says() { grep -Eq -- "$2" "$1" || { miss "$1 does not say '$2'"; tail -n 6 "$1"; }; }
quiet() { [ -s "$1" ] || miss "$1 is empty"; [ "$(grep -c '^resbm:' "$1")" = 1 ] || { miss "$1 does not say it once"; cat "$1"; }; }

train local || cat local.log
train straight $long train.steps=10 || cat straight.log


# find_rank RANK: waits for step 3 of $run, whose mpirun is $pid; sets family to its processes, victim to that rank's.
find_rank() {
    i=0
    while ! grep -q '"step":3,' "$run/metrics.jsonl" 2>/dev/null && [ $i -lt $((600 * patience)) ]; do
        sleep 0.05
        i=$((i + 1))
    done
    family=$(pgrep -f -- "--out $run ")
    victim=
    for p in $family; do
        tr '\0' ' ' <"/proc/$p/cmdline" | grep -q 'mpirun\|hydra\|coordinate' && continue
        tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -Eq "^(OMPI_COMM_WORLD_RANK|PMI_RANK)=$1\$" && victim=$p
    done
}

# dies KIND RANK: that rank of a long run is killed.
dies() {
    run=$1-dies-$2
    rm -rf "$run"
    setsid mpirun."$1" -n 4 "$resbm" train -q run.yaml --out "$run" engine=mpi $long train.steps=400 link.latency=10ms \
        >"$run.log" 2>&1 &
    pid=$!
    find_rank "$2"
    [ -n "$victim" ] || { miss "$run: no rank $2"; cat "$run.log"; return; }
    kill -KILL "$victim"
    wait $pid && miss "$run ends as if nothing had been"
    i=0
    left=$family
    while [ -n "$left" ] && [ $i -lt $((300 * patience)) ]; do
        left=$(for p in $family; do kill -0 "$p" 2>/dev/null && echo "$p"; done)
        [ -z "$left" ] || sleep 0.05
        i=$((i + 1))
    done
    [ -z "$left" ] || miss "$run leaves processes: $left"
    says "$run/fault.txt" "^stage $2 \(rank $2, process $victim on .*\) is gone without a word .*The last snapshot is $run/step-"
    says "$run/fault.txt" "go on with --resume"
}

# lets_go KIND: a stage that waits for one that is stopped lets go of it once the coordinator is gone, also where the wall clock was
# set back by an hour: whoever waits for a time of that clock waits for so much longer.
lets_go() {
    run=$1-lets-go
    cat >set_back.c <<'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict at) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec t = *at;
    if (t.tv_sec > 1000000000) t.tv_sec += 3600; /* not of the monotonic clock */
    return real(c, m, &t);
}
END
    cc -shared -fPIC -O1 -o set_back.so set_back.c -ldl || miss "no compiler for set_back.so"
    rm -rf "$run"
    setsid mpirun."$1" -n 2 env LD_PRELOAD="$PWD/set_back.so" "$resbm" train -q run.yaml --out "$run" engine=mpi $long \
        pipeline.stages=2 train.steps=100000 link.latency=10ms >"$run.log" 2>&1 &
    pid=$!
    find_rank 1
    coordinator=$(pgrep -f -- "train --coordinate .*--out $run ")
    case "$victim $coordinator" in " "* | *" ") miss "$run: no rank 1, or no coordinator"; cat "$run.log"; return ;; esac
    kill -STOP "$victim"
    sleep 0.5 # the other one waits for it
    kill -KILL "$coordinator"
    within 20 "grep -q 'the coordinator (process $coordinator) was killed by signal 9' '$run.log'" ||
        { miss "$run: the first rank waits on"; cat "$run.log"; }
    for p in $family; do kill -KILL "$p"; done 2>/dev/null
    wait $pid
}

# goes_on KIND RUN: with --resume, to the losses of an undisturbed local run.
goes_on() {
    at=$(sed -n '$s/.*"step":\([0-9]*\),.*/\1/p' "$2/metrics.jsonl")
    [ "$at" -le 10 ] && at=10
    ranks "$1" 4 "$resbm" train -q run.yaml --out "$2" engine=mpi $long train.steps="$at" --resume >"$2.log" 2>&1 ||
        { miss "$2 does not go on"; cat "$2.log"; return; }
    losses straight | sed 's/,"lr.*//' >a.losses
    losses "$2" | sed 's/,"lr.*//' | head -n 10 >b.losses
    cmp -s a.losses b.losses || { miss "$2 went on with other losses"; diff a.losses b.losses | head -n 4; }
    [ ! -e "$2/fault.txt" ] || miss "$2/fault.txt is left behind"
}

for kind in $kinds; do
    ranks "$kind" 4 "$resbm" train -q run.yaml --out "$kind" engine=mpi >"$kind.log" 2>&1 || { miss "$kind"; cat "$kind.log"; }
    same local "$kind"
    "$resbm" eval "$kind" >"$kind-eval.log" 2>&1 || { miss "eval of $kind"; cat "$kind-eval.log"; }
    dies "$kind" 2
    goes_on "$kind" "$kind-dies-2"
    ranks "$kind" 3 "$resbm" train -q run.yaml --out wrong engine=mpi >"$kind-3.log" 2>&1 && miss "$kind: 3 ranks for 4 stages"
    says "$kind-3.log" "mpirun started 3 ranks, but pipeline.stages: 4 needs 4"
    quiet "$kind-3.log"
    ranks "$kind" 3 "$resbm" train -q run.yaml --out wrong engine=mpi pipeline.stages=none >"$kind-key.log" 2>&1 && miss "$kind: no number"
    quiet "$kind-key.log"
done
# Replicas over MPI: those of the local engine, bit for bit.
kind=${kinds##* }
pairs="pipeline.stages=2 pipeline.replicas=2 pipeline.deal=even train.microbatches=2"
train pairs $pairs || { miss pairs; cat pairs.log; }
rm -rf mpi-pairs
ranks "$kind" 4 "$resbm" train -q run.yaml --out mpi-pairs engine=mpi $pairs >mpi-pairs.log 2>&1 || { miss mpi-pairs; cat mpi-pairs.log; }
same pairs mpi-pairs
lets_go "$kind"
dies "${kinds##* }" 0 # the rank that started the coordinator

# Data that is not there: the coordinator's stages say it, once.
kind=${kinds##* }
ranks "$kind" 4 "$resbm" train -q run.yaml --out wrong engine=mpi data.train=none >nodata.log 2>&1 && miss "no data"
says nodata.log "^resbm: .*none"
quiet nodata.log
ranks "$kind" 2 "$resbm" train -q run.yaml --out wrong engine=mpi pipeline.stages=2 model.d=127 >config.log 2>&1 && miss "a wrong key"
says config.log "^resbm: .*model.d"
quiet config.log

"$resbm" train -q run.yaml --out wrong engine=mpi >alone.log 2>&1 && miss "without mpirun"
says alone.log "engine: mpi runs under a launcher of MPI: mpirun -n 4 resbm train"
rm -rf installed
cmake --install "$RB_BINARY_DIR" --prefix "$PWD/installed" >install.log 2>&1 || cat install.log
ranks "$kind" 1 installed/bin/resbm train -q run.yaml --out one engine=mpi pipeline.stages=1 >installed.log 2>&1 || { miss installed; cat installed.log; }
mkdir -p elsewhere && cp "$resbm" elsewhere/resbm
ranks "$kind" 1 elsewhere/resbm train -q run.yaml --out wrong engine=mpi pipeline.stages=1 >absent.log 2>&1 && miss "without a module"
says absent.log "no module for .*resbm-mpi-$kind.so.*install lib$kind-dev"
verdict
