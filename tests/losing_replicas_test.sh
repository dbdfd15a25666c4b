#!/bin/sh
# ctest: timeout=500 serial
# shellcheck disable=SC2086,SC2154 # settings are words; resbm is of run_common.sh
# Replicas that are killed or stopped at random moments: the run goes on within the step, every step is done once, losses are those of
# an undisturbed run to rounding, and the last one of a stage ends it. RB_ROUNDS and RB_SEED ask for more, or for the same again.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config
seed=${RB_SEED:-$(date +%s)}
echo "seed $seed"
random() { seed=$(((seed * 16807 + 12345) % 2147483647)); }

smooth="optim.kind=adamw optim.lr=0.001 optim.schedule=constant boundary.codec_fwd=f32 boundary.codec_bwd=f32 train.steps=40 train.microbatches=6
    train.batch=6 train.eval_every=40 train.checkpoint_every=20 train.keep=9 link.latency=2ms"
train one $smooth pipeline.stages=2 link.latency=0ms || { miss one; cat one.log; }

close_to() { # A B RELATIVE: every step once, losses no farther apart than that
    paste -d, "$1/metrics.jsonl" "$2/metrics.jsonl" | awk -F'"loss":' -v most="$3" '{ a = $2 + 0; b = $3 + 0; d = a > b ? a - b : b - a
        if (a <= 0 || b <= 0 || d > most * a) { print "  step " NR ": " a " against " b; bad = 1 } } END { exit bad || NR != 40 }' ||
        miss "$1 and $2 differ by more than $3, or in their steps"
}
step() { sed -n '$s/.*{"step":\([0-9]*\),.*/\1/p' "$1/metrics.jsonl" 2>/dev/null; }
pids='' pid=''
trap 'for p in $pids $pid; do kill -CONT $p; kill -KILL $p; done 2>/dev/null' EXIT

# lose DIR SIGNAL-OF-WORKER... -- settings: kills these workers one after the other, each some random steps after the one before. A run that
# was over before the last of them (40 steps are a second) is made again, with longer steps; so is one in which somebody was given up whom
# nobody stopped, because this machine stood still for pipeline.deadline, with a longer one.
lose() {
    dir=$1
    shift
    victims=''
    while [ "$1" != -- ]; do victims="$victims $1" && shift; done
    shift
    longer='' missing=''
    for latency in 2 6 18 54; do
        lose_once "$@" link.latency=${latency}ms $longer
        if [ "$(grep -c " waited [0-9.]* s for" "$dir.log")" -gt "$(echo "$victims" | grep -o STOP- | wc -l)" ] && [ ! "$longer" ]; then
            longer=pipeline.deadline=$((10 * patience))s
            continue
        fi
        [ "$missing" ] || break
        [ "$status" = 0 ] || break
    done
    if [ "$missing" ]; then miss "$dir: worker $missing is not there in time"; else
        [ "$status" = "$expected" ] && return
        miss "$dir: status $status (seed $seed)"
    fi
    cat "$dir.log"
}
lose_once() { # settings; `missing` is then the worker that was not there, `status` the run's
    rm -rf "$dir"
    setsid "$resbm" train -q run.yaml --out "$dir" $smooth "$@" >"$dir.log" 2>&1 &
    pid=$!
    at=3 missing=''
    for v in $victims; do
        random
        at=$((at + seed % 4)) pause=0.$(printf %03d $((seed / 7 % 120)))
        within 30 "[ \"\$(step $dir)\" -ge $at ] 2>/dev/null || ! kill -0 $pid 2>/dev/null"
        sleep "$pause"
        victim=$(pgrep -s $pid -f -- "^[^ ]*resbm stage .*--stage ${v#*-} ")
        pids="$pids $victim"
        kill -"${v%-*}" $victim 2>/dev/null && [ "$(step $dir)" -lt 36 ] || { missing=${v#*-}; break; }
        at=$((at + 5))
    done
    within 60 "! kill -0 $pid 2>/dev/null" || { miss "$dir hangs"; kill -KILL $pid; }
    wait $pid
    status=$?
    pid=''
}
lost() { # DIR N: so many are reported, and take nothing any more
    [ "$(grep -c "going on without it" "$1.log")" = "$2" ] || { miss "$1 does not tell of $2 losses"; cat "$1.log"; }
    [ "$(sed -n '$s/.*"deal":\[\([^]]*\)\].*/\1/p' "$1/metrics.jsonl" | tr , '\n' | grep -c '^0$')" = "$2" ] || miss "$1 deals to the lost"
}

expected=0
round=0
while [ $round -lt "${RB_ROUNDS:-1}" ]; do
    # Six processes: workers 0, 1 are the stages' first replicas, then 2, 3 and 4, 5.
    lose three KILL-5 KILL-0 KILL-3 -- pipeline.stages=2 pipeline.replicas=3
    lost three 3
    grep -Eq "stage 1 replica 2 \(process [0-9]+\) was killed by signal 9 .*step [0-9]+; going on without it" three.log || { miss "the lost one is not named"; cat three.log; }
    close_to one three 1e-5
    # Where most of a step is the sum of the gradients; a stopped one is given up, too. Token ids on the wire, halves apart.
    lose slow KILL-2 STOP-1 -- pipeline.stages=2 pipeline.replicas=2 link.up=300mbit pipeline.schedule=zb-h1 data.distribute=wire \
        pipeline.deadline=$((2 * patience))s pipeline.transport=tcp
    lost slow 2
    close_to one slow 1e-5
    round=$((round + 1))
done
# The replica of the last stage is lost when its stage has done the step, and then the one before it, for whose microbatches its gradients
# are wanted once more: what it had kept of them went with it.
if [ -x "$RB_BINARY_DIR/liar" ]; then
    cat >pair.sh <<'END'
#!/bin/sh
case $1 in 3) export RB_LIE="gone 3" ;; 2) export RB_LIE="falls 3" ;; esac
shift
exec "$@"
END
    chmod +x pair.sh
    rm -rf pair
    own=$resbm resbm=$RB_BINARY_DIR/liar
    began=$(date +%s)
    train pair $smooth pipeline.stages=2 pipeline.replicas=2 pipeline.transport=tcp "pipeline.launcher=$PWD/pair.sh {stage}" \
        pipeline.deadline=$((60 * patience))s || { miss "pair"; cat pair.log; }
    resbm=$own
    [ "$(grep -c "in step 3.*going on without it" pair.log)" = 2 ] || { miss "pair does not tell of 2 losses in step 3"; cat pair.log; }
    [ $(($(date +%s) - began)) -lt $((60 * patience)) ] || miss "pair stood still"
    close_to one pair 1e-5
fi
# Local steps: with one process its whole pipeline goes, the first one and another; the others meet without them, and write the snapshots.
# Theirs are other microbatches than an undisturbed run's, so that losses are close to its, not the same.
local="pipeline.stages=2 pipeline.replicas=3 optim.local_steps=2"
train calm $smooth $local || { miss calm; cat calm.log; }
as_good() { # A B: every step once, and in the end as good
    paste -d, "$1/metrics.jsonl" "$2/metrics.jsonl" | awk -F'"loss":' 'NR > 30 { a += $2 + 0; b += $3 + 0 }
        END { print "  mean losses of the last steps: " a / 10 ", " b / 10; exit !(NR == 40 && b > 0.8 * a && b < 1.25 * a) }' ||
        miss "$2 is not as good as $1, or has other steps"
}
lose rounds KILL-5 KILL-0 -- $local
grep -c "going on without it and the rest of its pipeline" rounds.log | grep -qx 2 || { miss "rounds does not tell of 2 losses"; cat rounds.log; }
[ "$(sed -n '$s/.*"deal":\[\([^]]*\)\].*/\1/p' rounds/metrics.jsonl)" = 0,0,6,6,0,0 ] || miss "rounds deals to the lost"
as_good calm rounds
[ -f rounds/step-40/segment-0.optim.safetensors ] && [ -f rounds/step-40/segment-0.outer.safetensors ] || { miss "rounds: no states"; ls rounds/step-40; }
rm -rf rounds/step-40
train rounds $smooth $local --resume || { miss "rounds, resumed"; cat rounds.log; }
as_good calm rounds

# While a snapshot is written, by disks that are slow: another replica writes the files. Slower ones where the kill came too late.
cat >slow_sync.c <<'END'
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
int fsync(int fd) { usleep((useconds_t)atoi(getenv("RB_SYNC_US"))); return (int)syscall(SYS_fsync, fd); }
END
cc -shared -fPIC -O1 -o slow_sync.so slow_sync.c || miss "no compiler for slow_sync.so"
in_snapshot() { # DIR WORKER settings: kills it when the first file of its stage lies in the snapshot
    dir=$1 victim=$2
    shift 2
    for us in 80000 240000 720000; do
        rm -rf "$dir"
        RB_SYNC_US=$us LD_PRELOAD=$PWD/slow_sync.so setsid "$resbm" train -q run.yaml --out "$dir" $smooth train.steps=14 \
            train.checkpoint_every=12 train.eval_every=0 "$@" >"$dir.log" 2>&1 &
        pid=$!
        within 60 "ls $dir/step-12.tmp/segment-$((victim % 2)).* >/dev/null 2>&1 || ! kill -0 $pid 2>/dev/null"
        of=$(pgrep -s $pid -f -- "^[^ ]*resbm stage .*--stage $victim ")
        pids="$pids $of"
        kill -KILL $of 2>/dev/null
        within 60 "! kill -0 $pid 2>/dev/null" || { miss "$dir hangs"; kill -KILL $pid; }
        wait $pid || { miss "$dir fails"; cat "$dir.log"; }
        pid=''
        ! grep -q "going on without it" "$dir.log" || break
    done
    seq 14 >steps
    sed 's/.*{"step":\([0-9]*\),.*/\1/' "$dir/metrics.jsonl" | cmp -s - steps || miss "$dir: not every step once"
    [ -f "$dir/step-12/manifest.json" ] && ! grep -q "not completed" "$dir.log" || { miss "$dir: no snapshot of step 12"; cat "$dir.log"; }
    "$resbm" eval "$dir/step-12" >eval.log 2>&1 || { miss "$dir: its snapshot of step 12 is not whole"; cat eval.log; }
    for s in 0 1 2 3; do [ -f "$dir/step-12/segment-$s.optim.safetensors" ] || miss "$dir: no states of segment $s"; done
}
in_snapshot writes 1 pipeline.stages=2 pipeline.replicas=2
grep -q "killed by signal 9 .*; going on without it" writes.log || { miss "writes does not tell of a loss"; cat writes.log; }
in_snapshot states 0 pipeline.stages=2 pipeline.replicas=2 optim.local_steps=2
grep -q "killed by signal 9 .*; going on without it and the rest" states.log || { miss "states does not tell of a loss"; cat states.log; }

# In the middle of an evaluation: the first replicas that are left do it again, and it comes to the same bits. Nothing tells from outside when
# it begins: a kill that came before it is tried again later, one that came behind it sooner.
judged=1500 pause=300
if sanitized; then judged=100 pause=3000; fi
long="train.steps=4 train.eval_every=2 train.eval_sequences=$judged pipeline.deal=even link.latency=5ms pipeline.stages=2 pipeline.replicas=3"
val() { sed -n 's/.*{"step":2,.*\("val_loss":[^,}]*\).*/\1/p' "$1/metrics.jsonl"; }
kill_some() { # WORKERS: one after the other, PAUSE ms after the step before was told of
    sleep "$((pause / 1000)).$(printf %03d $((pause % 1000)))"
    for v in $1; do
        victim=$(pgrep -s $pid -f -- "^[^ ]*resbm stage .*--stage ${v#*-} ")
        pids="$pids $victim"
        kill -"${v%-*}" $victim 2>/dev/null
        sleep 0.1
    done
}
in_evaluation() { # DIR WORKERS settings: kills these
    dir=$1 victims=$2
    shift 2
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do
        rm -rf "$dir"
        setsid "$resbm" train -q run.yaml --out "$dir" $smooth $long "$@" >"$dir.log" 2>&1 &
        pid=$!
        within 30 "[ \"\$(step $dir)\" -ge 1 ] 2>/dev/null || ! kill -0 $pid 2>/dev/null"
        kill_some "$victims"
        within 60 "! kill -0 $pid 2>/dev/null" || { miss "$dir hangs"; kill -KILL $pid; }
        wait $pid || { miss "$dir fails"; cat "$dir.log"; }
        pid=''
        [ "$(step $dir)" = 4 ] || miss "$dir: not every step"
        [ "$(grep -c "in the evaluation after step 2.*; going on without it" "$dir.log")" != "$(echo $victims | wc -w)" ] || return
        if grep -q " in step [01][ :;].*; going on" "$dir.log"; then pause=$((pause * 3 / 2)); else pause=$((pause * 2 / 3)); fi
    done
    miss "$dir: not lost in the evaluation in $try tries, the last $pause ms after the step before"
    cat "$dir.log"
}
train judged $smooth $long || { miss judged; cat judged.log; }
in_evaluation judges 'KILL-1 KILL-0'
in_evaluation stopped STOP-1 pipeline.deadline=$((2 * patience))s pipeline.transport=tcp data.distribute=wire
in_evaluation whole KILL-0 optim.local_steps=2
for d in judges stopped; do
    [ -n "$(val judged)" ] && [ "$(val judged)" = "$(val $d)" ] || miss "$d: $(val $d) instead of $(val judged)"
done

for d in three slow rounds writes states judges stopped whole; do
    "$resbm" eval $d >eval.log 2>&1 || { miss "eval $d"; cat eval.log; }
done
expected=1
lose all KILL-2 KILL-0 -- pipeline.stages=2 'pipeline.replicas=[2,1]'
grep -q "stage 0 .*was killed by signal 9" all.log || { miss "the last one of a stage is not named"; cat all.log; }
verdict
