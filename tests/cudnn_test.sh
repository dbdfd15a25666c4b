#!/bin/sh
# ctest: timeout=300
# cuDNN's own planner, asked without a GPU: it takes the graphs of our attention, forward and backward, for every kind of card
# that computes in bf16, within the working memory that plans count.
set -u
plans=$RB_BINARY_DIR/cudnn_plans
[ -x "$plans" ] || { echo "skipped: this build was made without cuDNN's headers (scripts/venv.sh cudnn, then make cuda)"; exit 77; }
stub=$RB_BINARY_DIR/libcuda_stub.so
RESBM_CUDNN=$stub "$plans" "$stub" >wrong.log 2>&1
[ $? = 77 ] && grep -q 'libcuda_stub.so was loaded, but is not cuDNN' wrong.log ||
    { echo "another library under cuDNN's name:"; cat wrong.log; exit 1; }
exec "$plans" "$stub"
