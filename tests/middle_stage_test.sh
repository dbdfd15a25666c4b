#!/bin/sh
# A middle stage between two scripted neighbours (bench/middle_stage.c) trains, with the same losses when its states and
# gradients are on disk.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
middle() {
    "$RB_BINARY_DIR/middle_stage" "$resbm" 4 model.d=128 model.heads=4 model.kv_heads=2 model.ffn=256 model.context=64 \
        boundary.ratio=16 optim.kind=adamw optim.lr=0.003 optim.warmup=0 train.batch=4 train.microbatches=4 "$@"
}
middle >plain.log 2>&1 || { miss plain; cat plain.log; }
middle optim.offload=disk optim.offload_parts=states+gradients train.recompute=true >away.log 2>&1 || { miss away; cat away.log; }
for log in plain away; do sed -n 's/^\(step [0-9]*  loss [0-9.]*\).*/\1/p' $log.log >$log.losses; done
[ "$(wc -l <plain.losses)" = 4 ] || { miss "no four steps"; cat plain.log; }
cmp plain.losses away.losses || miss "offloaded: other losses"
verdict
