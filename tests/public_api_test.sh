#!/bin/sh
# ctest: timeout=120
# examples/train.c, built against nothing but resbm.h and libresbm.so: makes shards, trains over two processes,
# evaluates, writes text. What it says of the loss is what the program says of the same snapshot.
. "$RB_SOURCE_DIR/tests/run_common.sh"
if grep -q '^RESBM_SANITIZE:STRING=.' "$RB_BINARY_DIR/CMakeCache.txt"; then
    echo "a sanitized library wants its run-time library first"
    exit 77
fi
make_corpus
cc -std=c11 -Wall -Wextra -Werror -I"$RB_SOURCE_DIR/include" -o example "$RB_SOURCE_DIR/examples/train.c" \
    -L"$RB_BINARY_DIR" -lresbm -Wl,-rpath,"$RB_BINARY_DIR" || { miss "examples/train.c does not build"; verdict; }
rm -rf made
./example text made "$resbm" >out 2>&1 || miss "the example ended with $?: $(cat out)"
[ "$(grep -c '^step [0-9]*  loss' out)" = 6 ] || miss "six steps were asked for: $(cat out)"
for file in metrics.jsonl summary.json trace.json report.html; do [ -s made/run/$file ] || miss "no $file"; done

said=$(sed -n 's/^step 6: loss \([0-9.]*\) .*/\1/p' out)
"$resbm" eval made/run --sequences 8 >eval.out 2>&1 || miss "eval: $(cat eval.out)"
grep -q "loss $said " eval.out || miss "the example says $said, the program: $(cat eval.out)"
[ "$(tail -n 1 out | cut -c 1-2)" != "st" ] || miss "no text was generated"

./example text made "$resbm" >again 2>&1 && miss "a second run over the first was not refused"
grep -q 'already holds a run' again || miss "no reason given: $(cat again)"
verdict
