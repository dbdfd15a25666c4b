#!/bin/sh
# ctest: timeout=120
# Runs to Hugging Face's folders and back: what goes out comes in bit for bit, boundaries begin as nothing, and what
# cannot be is refused by name. What transformers makes of it is python/tests/test_hf.py's.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
rm -rf out again broken fresh nowhere same cut kind cold # of an earlier run in this folder
make_corpus
make_config
one="model.segments=1 pipeline.stages=1"
# shellcheck disable=SC2086
train whole $one model.qk_norm=true model.kv_heads=2 model.head=24 || { cat whole.log; miss "the run"; verdict; }
"$resbm" export --hf whole out >export.log 2>&1 || { cat export.log; miss export; verdict; }
grep -q '"model_type": "qwen3"' out/config.json || miss "config.json is no Qwen3's"
[ -s out/tokenizer.json ] && [ -s out/model.safetensors ] || miss "files of the export"

# Into a run again, without boundaries and with some.
bring() { # RUN [option | section.key=value ...]
    run=$1
    shift
    rm -rf "$run"
    "$resbm" import --hf out "$run" --config run.yaml "$@" >"$run.log" 2>&1
}
# shellcheck disable=SC2086
bring same $one && weights whole | grep -v optim >a && weights same >b || { cat same.log; miss "import without boundaries"; }
{ [ -s a ] && cmp -s a b; } || { miss "the weights are others"; diff a b; }
eval_loss() { "$resbm" eval "$@" 2>&1 | sed -n 's/.*  loss \([0-9.]*\).*/\1/p'; }
first=$(eval_loss whole)
[ -n "$first" ] && [ "$first" = "$(eval_loss same)" ] || miss "loss $first became $(eval_loss same)"

bring cut --at 1,3 boundary.codec_fwd=f32 || { cat cut.log; miss "import with boundaries"; }
grep -q 'loss with 2 boundaries (residual, ratio 1, f32) [0-9.]* ([+-]0.00000' cut.log || { miss "boundaries that begin as nothing"; cat cut.log; }
for kind in "boundary.kind=linear" "boundary.identity=rotate boundary.tokens=embedding" "boundary.identity=full boundary.hidden=0"; do
    # shellcheck disable=SC2086
    bring kind --at 2 boundary.codec_fwd=f32 $kind || { cat kind.log; miss "import with $kind"; }
    grep -qE 'ratio (1|16), f32\) [0-9.]* \([+-]0\.000' kind.log || { miss "$kind does not begin as nothing"; cat kind.log; }
done
grep -q 'cannot begin as nothing' cut.log && miss "cut.log says so without need"
bring cold --at 2 boundary.kind=subspace || { cat cold.log; miss "import with subspace"; }
grep -q 'cannot begin as nothing' cold.log || miss "a boundary that cannot begin as nothing is not told of"

# It trains on, through the narrowing, and goes out again.
"$resbm" train -q cut/config.yaml --out cut --resume train.steps=4 train.anneal_until=1 optim.warmup=1 >train.log 2>&1 ||
    { cat train.log; miss "training on"; }
[ "$(wc -l <cut/metrics.jsonl)" = 4 ] || miss "steps of the run that goes on"
"$resbm" export --hf --bf16 cut again >export.log 2>&1 || { cat export.log; miss "export with boundaries"; }
grep -q '"model_type": "resbm"' again/config.json && [ -s again/modeling_resbm.py ] || miss "the export with boundaries"

refused() { # PATTERN arguments of resbm ...
    pattern=$1
    shift
    "$resbm" "$@" >refused.log 2>&1 && miss "$* was taken"
    grep -q "$pattern" refused.log || { miss "$* is not refused for $pattern"; cat refused.log; }
}
refused 'already holds a run' import --hf out cut
refused 'holds no checkpoint' export --hf corpus nowhere
refused 'go on with the run itself' import --hf again fresh
refused 'ascending layers from 1 to 3' import --hf out fresh --at 3,1
refused 'say what to import' import out fresh
mkdir broken && cp out/model.safetensors broken
refused 'config.json' import --hf broken fresh
echo '{"model_type": ' >broken/config.json
refused 'no JSON object' import --hf broken fresh
sed 's/"intermediate_size": 64/"intermediate_size": 48/' out/config.json >broken/config.json
refused 'gate_proj.weight has 2 dimensions \[64, 128\], its config.json makes that 2 \[48, 128\]' import --hf broken fresh
head -c 5000 out/model.safetensors >broken/model.safetensors
refused 'model.safetensors' import --hf broken fresh
verdict
