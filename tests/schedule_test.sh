#!/bin/sh
# ctest: timeout=120
# A schedule as a text of actions: what resbm schedule prints, and one of our own, run with the bits of one stage; what is
# wrong with one is said with its place before anything starts.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

of_four="train.batch=8 train.microbatches=4"
# shellcheck disable=SC2086
train one $of_four pipeline.stages=1 || { miss one; cat one.log; verdict; }
"$resbm" schedule zbv --stages 2 --microbatches 4 --list >printed || miss "schedule --list"
sed -E 's/[0-9]+[SR][FB][0-9]+ ?//g' printed >computing # sends and receives are put in again
cat >ours <<'TEXT'
# two microbatches at a time, three segments on the first stage
0F0 2F0 3F0 0F1 2F1 3F1 3B0 2B0 3B1 2B1 0B0 0B1   0F2 2F2 3F2 0F3 2F3 3F3 3B2 2B2 3B3 2B3 0B2 0B3
1F0 1F1 . 1B0 1B1 . 1F2 1F3 . 1B2 1B3
TEXT
for text in printed computing ours; do
    # shellcheck disable=SC2086
    train other $of_four pipeline.stages=2 pipeline.schedule=file:$text || { miss "$text"; cat other.log; }
    same one other
done
"$resbm" eval other >eval.log 2>&1 || { miss "eval of a run with a schedule of its own"; cat eval.log; }
mv ours away
"$resbm" generate other -p 'the slow' -n 5 >generate.log 2>&1 || { miss "generate without the schedule's file"; cat generate.log; }

refused() { # FILE SENTENCE [settings ...]
    file=$1 sentence=$2
    shift 2
    # shellcheck disable=SC2086
    train bad $of_four pipeline.stages=2 "pipeline.schedule=file:$file" "$@" && miss "$file was taken"
    grep -qF "$sentence" bad.log || { miss "$file: not refused with \"$sentence\""; cat bad.log; }
    [ ! -d bad ] || miss "$file: something started"
}
sed 's/3I1/3Q1/' printed >letter
refused letter 'letter:1:59: "3Q1" is no action'
sed 's/ 3I1//' printed >dropped
refused dropped 'dropped: stage 0, action 3I1: is missing'
sed 's/1I0 1SB0/1SB0 1I0/' printed >swapped
refused swapped 'swapped: stage 1, action 1SB0 (14 of 40): stands before 1I0, which it needs'
refused nowhere 'cannot open nowhere'
refused printed 'for pipeline.stages 2, but the run has 3; set pipeline.stages to 2' pipeline.stages=3

# Trunks as actions of one's own list, and what a list may not ask for.
printf '0F0 1F0 0F1 1F1 1B0 0B0 1B1 0B1 0F2 1F2 0F3 1F3 1B2 0B2 1B3 0B3\n' >trunks
for m in 0 1 2 3; do printf '2TF%s 2RF%s 2F%s 3F%s 3B%s 2B%s 2SB%s 2TB%s ' $m $m $m $m $m $m $m $m; done | sed '$a\' >>trunks
sed -i -E '1s/1F([0-9])/1F\1 1SF\1/g; 1s/1B([0-9])/1RB\1 1B\1/g' trunks
trunk="boundary.tokens=trunk boundary.trunk_width=32 boundary.trunk_heads=2"
# shellcheck disable=SC2086
train one $of_four pipeline.stages=1 $trunk || { miss "one with trunks"; cat one.log; }
# shellcheck disable=SC2086
train other $of_four pipeline.stages=2 $trunk data.distribute=shared pipeline.schedule=file:trunks || { miss trunks; cat other.log; }
same one other
[ "$(grep -c '"name":"2T[FB][0-3]"' other/trace.json)" = 16 ] || miss "trunks are not in the trace as actions of their own"
rm -rf bad
# shellcheck disable=SC2086
refused trunks 'token ids come with it: set data.distribute: shared' $trunk data.distribute=wire
refused trunks 'set boundary.tokens: trunk, or leave them out'

# What the printed picture promises is what its file says.
"$resbm" schedule file:printed --picture >picture && "$resbm" schedule zbv -s 2 -m 4 -p | cmp -s - picture || miss "pictures differ"
"$resbm" schedule zbv -s 3 -g 4 >refused.log 2>&1 && miss "zbv with 4 segments on 3 stages"
grep -q 'set model.segments to 6, or pipeline.stages to 2' refused.log || { miss "no remedy"; cat refused.log; }
"$resbm" schedule nosuch >refused.log 2>&1 && miss "a schedule that does not exist"
verdict
