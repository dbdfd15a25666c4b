#!/bin/sh
# What a command line can get wrong: status 2 and a sentence that names the flag, before anything runs.
. "$RB_SOURCE_DIR/tests/run_common.sh"

# wrong PATTERN ARGUMENTS...
wrong() {
    pattern=$1
    shift
    timeout $((10 * patience)) "$resbm" "$@" >out 2>err
    status=$?
    [ $status = 2 ] || miss "status $status of: $*"
    [ ! -s out ] || miss "standard output is not empty: $*"
    grep -Eq -- "$pattern" err || { miss "nothing says '$pattern' of: $*"; head -n 2 err; }
}

wrong 'usage: resbm COMMAND'
wrong 'no command "trian"' trian
wrong 'RUN.yaml' train
wrong 'two configurations' train a.yaml b.yaml
wrong "unrecognized option '--bogus'" train a.yaml --bogus
wrong 'text file' data
wrong '--val' data --val 2 text
wrong '--val' data --val=-0.1 text
wrong '--shard-tokens' data --shard-tokens 10x text
wrong "--sequences is '-5'" eval dir --sequences -5
wrong "--sequences is 'x'" eval dir --sequences x
wrong 'two folders' eval a b
wrong "--tokens is '1e3'" generate dir -n 1e3
wrong "--tokens is '99999999999999999999'" generate dir -n 99999999999999999999
wrong "--temperature is 'nan'" generate dir -t nan
wrong "--temperature is '-1'" generate dir -t -1
wrong "--top-p is '1.5'" generate dir -P 1.5
wrong "--seed is '-1'" generate dir -S -1
wrong "--seed is ''" generate dir -S ''
wrong "--steps is '0'" verify run.yaml --steps 0
wrong "--B is '-4'" bench kernels --B=-4
wrong '--heads 7 does not divide' bench kernels --d 300 --heads 7
wrong 'what to measure' bench

for command in data train eval generate report verify doctor bench; do
    "$resbm" $command --help >help 2>&1 || miss "$command --help: status $?"
    grep -q "^Usage: resbm $command" help || miss "$command --help says: $(head -n 1 help)"
    "$resbm" --help | grep -q "^  $command " || miss "resbm --help does not list $command"
    grep -q "^.fB$command.fR" "$RB_SOURCE_DIR/docs/resbm.1" || miss "the man page lacks $command"
done
"$resbm" generate nowhere >out 2>err && miss "generate from nowhere succeeded"
[ ! -s out ] || miss "a failed generate wrote: $(cat out)"
verdict
