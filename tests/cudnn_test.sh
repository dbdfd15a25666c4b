#!/bin/sh
# ctest: timeout=300
# cuDNN's own planner, asked without a GPU: it takes the graphs of our attention, forward and backward, for every kind of card
# that computes in bf16, within the working memory that plans count.
set -u
plans=$RB_BINARY_DIR/cudnn_plans
[ -x "$plans" ] || { echo "skipped: this build was made without cuDNN's headers (scripts/venv.sh cudnn, then make cuda)"; exit 77; }
exec "$plans" "$RB_BINARY_DIR/libcuda_stub.so"
