/* The table. Order is the order of the printed configuration and of the reference page. */
#include <math.h>
#include "boundary/kinds.h"
#include "run/keys.h"

/* Largest whole number a double and JSON carry exactly. */
#define EXACT 9007199254740992.0

#define MONTHS 7776000e9 /* 90 days in nanoseconds */

#define FIXED      RB_CLASS_FIXED
#define TRAINING   RB_CLASS_TRAINING
#define DEPLOYMENT RB_CLASS_DEPLOYMENT

#define INT(sec, key, member, def, lo, hi, cls, text)                                                        \
    {                                                                                                        \
        .section = sec, .name = key, .type = RB_KEY_INT, FIELD_OF(member), .fallback = def, .min = lo,       \
        .max = hi, .class = cls, .doc = text                                                                 \
    }
#define FIELD_OF(member) .offset = offsetof(rb_config, member), .size = sizeof(((rb_config *)0)->member)
#define AUTO_INT(sec, key, member, def, lo, hi, w, wv, cls, text)                                            \
    {                                                                                                        \
        .section = sec, .name = key, .type = RB_KEY_INT, FIELD_OF(member), .fallback = def, .min = lo,       \
        .max = hi, .word = w, .word_value = wv, .class = cls, .doc = text                                    \
    }
#define REAL(sec, key, member, def, lo, hi, u, cls, text)                                                    \
    {                                                                                                        \
        .section = sec, .name = key, .type = RB_KEY_REAL, FIELD_OF(member), .fallback = def, .min = lo,      \
        .max = hi, .unit = u, .class = cls, .doc = text                                                      \
    }
#define WORDY(kind, sec, key, member, def, words, cls, text)                                                 \
    {                                                                                                        \
        .section = sec, .name = key, .type = kind, FIELD_OF(member), .fallback = def, .choices = words,      \
        .class = cls, .doc = text                                                                            \
    }
#define BAR_AND(name)  "|" #name
#define BOUNDARY_WORDS (&(RB_BOUNDARY_KINDS(BAR_AND))[1])
#define PLAIN(kind, sec, key, member, def, cls, text)                                                        \
    {                                                                                                        \
        .section = sec, .name = key, .type = kind, FIELD_OF(member), .fallback = def, .class = cls,          \
        .doc = text                                                                                          \
    }
#define RATE(sec, key, member, def, text)                                                                    \
    {                                                                                                        \
        .section = sec, .name = key, .type = RB_KEY_RATE, FIELD_OF(member), .fallback = def, .min = 1e3,     \
        .max = 1e12, .word = "none", .word_value = 0, .class = DEPLOYMENT, .doc = text                       \
    }
#define DURATION(sec, key, member, def, lo, text)                                                            \
    {                                                                                                        \
        .section = sec, .name = key, .type = RB_KEY_DURATION, FIELD_OF(member), .fallback = def, .min = lo,  \
        .max = MONTHS, .class = DEPLOYMENT, .doc = text                                                      \
    }

const rb_key rb_keys[] = {
    INT("model", "d", model.d, "256", 8, 65536, FIXED, "Width of the residual stream."),
    INT("model", "layers", model.layers, "8", 1, 1024, FIXED, "Transformer blocks."),
    INT("model", "heads", model.heads, "4", 1, 1024, FIXED,
        "Attention heads; must divide d unless model.head is given."),
    AUTO_INT("model", "kv_heads", model.kv_heads, "auto", 1, 1024, "auto", 0, FIXED,
             "Key/value heads; must divide heads. auto: as many as heads."),
    AUTO_INT("model", "head", model.head, "auto", 2, 4096, "auto", 0, FIXED,
             "Width of a head, even; auto: d / heads."),
    INT("model", "ffn", model.ffn, "704", 1, 1 << 20, FIXED, "Width of the SwiGLU feed-forward."),
    INT("model", "vocab", model.vocab, "256", 2, 1 << 24, FIXED, "Vocabulary; must match the shards."),
    INT("model", "context", model.context, "256", 1, 1 << 20, FIXED, "Tokens per sequence."),
    PLAIN(RB_KEY_SEGMENTS, "model", "segments", model, "4", FIXED,
          "Runs of blocks between two boundaries: a count, or a list of blocks per segment ([3, 2, 3])."),
    WORDY(RB_KEY_ENUM, "model", "cut", model.cut, "between", "between|inside", FIXED,
          "Where boundaries lie: between two blocks, or inside the first block behind them, so that its "
          "attention is computed before the boundary and its feed-forward behind it."),
    REAL("model", "rope_theta", model.rope_theta, "500000", 1, 1e12, NULL, FIXED,
         "Base of the rotary angles."),
    WORDY(RB_KEY_ENUM, "model", "rope_scaling", model.rope.kind, "none", "none|linear|llama3", FIXED,
          "How the angles are stretched beyond the context of pretraining: all of them (linear), or those of "
          "long waves "
          "(llama3)."),
    REAL("model", "rope_factor", model.rope.factor, "1", 1, 1e6, NULL, FIXED,
         "Of rope_scaling: how many times longer."),
    REAL("model", "rope_low", model.rope.low, "1", 1e-3, 1e6, NULL, FIXED,
         "llama3: waves of fewer turns than this in rope_original tokens are stretched whole."),
    REAL("model", "rope_high", model.rope.high, "4", 1e-3, 1e6, NULL, FIXED,
         "llama3: waves of more turns than this stay as they are."),
    INT("model", "rope_original", model.rope.original, "8192", 1, EXACT, FIXED,
        "llama3: tokens of a context of pretraining."),
    REAL("model", "norm_eps", model.norm_eps, "1e-5", 1e-12, 1, NULL, FIXED, "Epsilon of every RMSNorm."),
    PLAIN(RB_KEY_BOOL, "model", "qk_norm", model.qk_norm, "false", FIXED,
          "RMSNorm of queries and keys before the rotation."),
    PLAIN(RB_KEY_BOOL, "model", "qkv_bias", model.qkv_bias, "false", FIXED,
          "Biases of queries, keys and values, as Qwen2 has them."),
    PLAIN(RB_KEY_BOOL, "model", "tied", model.tied, "false", FIXED,
          "The head is the embedding's table; one segment only."),
    REAL("model", "init_std", model.init_std, "0.02", 0, 10, NULL, FIXED,
         "Standard deviation of the initial weights."),

    WORDY(RB_KEY_NAME, "boundary", "kind", boundary.kind, "residual", BOUNDARY_WORDS, FIXED,
          "What narrows the activation between segments."),
    WORDY(RB_KEY_ENUM, "boundary", "identity", boundary.identity, "auto",
          "truncate|split|full|none|rotate|auto", FIXED,
          "Identity path of residual: the first k coordinates added to the latents, the first identity_width "
          "beside "
          "them in bf16, the whole activation, none, or a learned rotation's first k coordinates; auto: none "
          "with "
          "tokens: trunk, else truncate."),
    INT("boundary", "identity_width", boundary.identity_width, "0", 0, 65536, FIXED,
        "Coordinates that cross in bf16 with identity: split."),
    INT("boundary", "ratio", boundary.ratio, "128", 1, 65536, FIXED,
        "d / k: how much narrower the latents are; must divide d."),
    AUTO_INT("boundary", "anneal_from", boundary.anneal_from, "none", 1, 65536, "none", 0, FIXED,
             "Ratio a run starts with; it narrows to boundary.ratio by train.anneal_until. The tensors keep "
             "the width of "
             "the start, fewer and fewer latents cross; none: the ratio never changes."),
    AUTO_INT("boundary", "hidden", boundary.hidden, "auto", 0, 1 << 20, "auto", -1, FIXED,
             "Hidden width of encoder and decoder; auto: max(4k, 64); 0: one linear map."),
    WORDY(RB_KEY_ENUM, "boundary", "decoder_init", boundary.decoder_init, "auto", "auto|zero|normal", FIXED,
          "How the decoder's last map starts; auto: at zero with tokens: trunk, else normal."),
    WORDY(RB_KEY_ENUM, "boundary", "offset", boundary.offset, "auto", "auto|none|learned", FIXED,
          "A learned vector each receiver adds to what it decodes, so that latents of zero make no stream of "
          "zeros; "
          "auto: where there is no token path and no identity coordinates cross beside the latents."),
    WORDY(RB_KEY_ENUM, "boundary", "tokens", boundary.tokens, "none", "none|embedding|trunk|fixed", FIXED,
          "Token side path of each receiver; fixed belongs to kind: subspace, which sets it."),
    AUTO_INT("boundary", "trunk_blocks", boundary.trunk_blocks, "auto", 1, 64, "auto", 0, FIXED,
             "Blocks of tokens: trunk."),
    AUTO_INT("boundary", "trunk_width", boundary.trunk_width, "auto", 1, 65536, "auto", 0, FIXED,
             "Width of tokens: trunk; auto: chosen from d; d itself: its blocks write the stream, without a "
             "map up."),
    AUTO_INT("boundary", "trunk_heads", boundary.trunk_heads, "auto", 1, 1024, "auto", 0, FIXED,
             "Heads of tokens: trunk; must divide trunk_width."),
    AUTO_INT("boundary", "trunk_ffn", boundary.trunk_ffn, "auto", 1, 1 << 20, "auto", 0, FIXED,
             "Feed-forward width of tokens: trunk."),
    WORDY(RB_KEY_ENUM, "boundary", "aux", boundary.aux, "none", "none|stream|latent", FIXED,
          "A next-token head of its own before each boundary, whose loss helps to train the segment while "
          "train.aux_weight lasts: on the segment's output stream, or on the latents that cross (and the "
          "token, "
          "with a token path)."),
    AUTO_INT(
        "boundary", "aux_rank", boundary.aux_rank, "auto", 0, 65536, "auto", -1, FIXED,
        "Width before that head; 0: the stream's own; auto: 64 on latents and from 2048 tokens of vocabulary "
        "on, else 0."),
    WORDY(RB_KEY_NAME, "boundary", "codec_fwd", boundary.codec_fwd, "auto",
          "auto|f32|bf16|int8|int4|int2|int1", FIXED,
          "How latents become bytes; auto: int4, and bf16 with kind: none."),
    WORDY(RB_KEY_NAME, "boundary", "codec_bwd", boundary.codec_bwd, "auto",
          "auto|f32|bf16|int8|int4|int2|int1", FIXED,
          "How gradients of latents become bytes; auto as above."),
    WORDY(RB_KEY_NAME, "boundary", "scale_fwd", boundary.scale_fwd, "auto", "auto|step|token", FIXED,
          "Scale of latents in integers: one learned step per coordinate (no bytes on the wire) or one per "
          "token."),
    INT("boundary", "group_bwd", boundary.group_bwd, "64", 2, 64, FIXED,
        "Values that share one scale of 16 bits in gradients in integers: 2, 4, 8, 16, 32 or 64."),
    WORDY(RB_KEY_ENUM, "boundary", "rounding_bwd", boundary.rounding_bwd, "stochastic", "stochastic|nearest",
          FIXED, "Rounding of gradients in integers."),
    WORDY(RB_KEY_ENUM, "boundary", "feedback", boundary.feedback, "none", "none|gradient", FIXED,
          "Error feedback of kind: topk: what of a gradient did not cross is added to the next step's at the "
          "same place."),

    PLAIN(RB_KEY_STRING, "data", "train", data.train, "", TRAINING,
          "Shards to train on: a path or a pattern."),
    PLAIN(RB_KEY_STRING, "data", "val", data.val, "", TRAINING,
          "Shards to evaluate on; empty: no evaluation."),
    PLAIN(RB_KEY_STRING, "data", "tokenizer", data.tokenizer, "bytes", FIXED,
          "bytes, or the path of a SentencePiece model or a tokenizer.json."),
    WORDY(RB_KEY_ENUM, "data", "distribute", data.distribute, "auto", "auto|shared|wire", DEPLOYMENT,
          "Every stage reads the shards (shared), or token ids cross with the activations (wire); auto: wire "
          "when "
          "boundary.tokens is not none."),

    WORDY(RB_KEY_NAME, "optim", "kind", optim.rule.kind, "muon", "muon|adamw", FIXED,
          "Rule of the matrices; everything else gets adamw."),
    REAL("optim", "lr", optim.rule.lr, "0.01", 0, 100, NULL, TRAINING, "Peak learning rate of optim.kind."),
    REAL("optim", "adamw_lr", optim.rule.adamw_lr, "0.002", 0, 100, NULL, TRAINING,
         "Peak learning rate of what Muon leaves to AdamW."),
    REAL("optim", "weight_decay", optim.rule.weight_decay, "0", 0, 10, NULL, TRAINING,
         "Decoupled weight decay."),
    REAL("optim", "beta1", optim.rule.beta1, "0.9", 0, 0.999999, NULL, TRAINING,
         "AdamW: decay of the first moment."),
    REAL("optim", "beta2", optim.rule.beta2, "0.95", 0, 0.9999999, NULL, TRAINING,
         "AdamW: decay of the second moment."),
    REAL("optim", "eps", optim.rule.eps, "1e-8", 1e-20, 1, NULL, TRAINING, "AdamW: epsilon."),
    REAL("optim", "momentum", optim.rule.momentum, "0.95", 0, 0.999999, NULL, TRAINING, "Muon: momentum."),
    PLAIN(RB_KEY_BOOL, "optim", "nesterov", optim.rule.nesterov, "true", TRAINING,
          "Muon: Nesterov's momentum."),
    INT("optim", "ns_steps", optim.rule.ns_steps, "5", 1, 99, TRAINING, "Muon: Newton-Schulz iterations."),
    WORDY(RB_KEY_ENUM, "optim", "scaling", optim.rule.scaling, "original", "original|match_rms", TRAINING,
          "Muon: scale by sqrt(max(1, rows/columns)), or to AdamW's usual update size (0.2 sqrt(max(rows, "
          "columns)))."),
    WORDY(RB_KEY_ENUM, "optim", "schedule", optim.rates.decay, "wsd", "wsd|cosine|constant", TRAINING,
          "Learning rate over the run: warm-up, stable, decay; warm-up and cosine; warm-up and constant."),
    INT("optim", "warmup", optim.rates.warmup, "30", 0, EXACT, TRAINING, "Steps of linear warm-up."),
    REAL("optim", "decay", optim.rates.share, "0.2", 0, 1, NULL, TRAINING,
         "wsd: share of train.steps, at the end, over which the rate falls."),
    REAL("optim", "min_lr", optim.rates.floor, "0", 0, 1, NULL, TRAINING,
         "Where wsd and cosine end, as a share of the peak."),
    REAL("optim", "segment_lr_scale", optim.segment_lr_scale, "1", 0.01, 100, NULL, TRAINING,
         "A segment's learning rates are those of the segment behind it times this (with its boundary's "
         "encoder and "
         "the decoder before it)."),
    REAL("optim", "boundary_lr_scale", optim.boundary_lr_scale, "0.3", 0.01, 100, NULL, TRAINING,
         "Learning rates of the matrices of encoders and decoders, over those of the blocks."),
    REAL("optim", "clip", optim.clip, "1", 0, 1e12, NULL, TRAINING,
         "Largest norm of the gradient; 0: no clipping."),
    WORDY(RB_KEY_ENUM, "optim", "clip_scope", optim.clip_scope, "global", "global|segment", TRAINING,
          "The norm is the whole model's, or each segment's own (no synchronisation between stages)."),
    AUTO_INT("optim", "local_steps", optim.local_steps, "none", 1, 1000000, "none", 0, TRAINING,
             "Steps that each replica makes alone, with its own gradients, between two outer updates of the "
             "weights (DiLoCo, "
             "docs/replicas.md); none: gradients of replicas are added up at every step."),
    REAL("optim", "outer_lr", optim.outer_lr, "0.7", 0, 100, NULL, TRAINING,
         "With local_steps: rate of the outer update, by what the replicas' weights moved on average."),
    REAL("optim", "outer_momentum", optim.outer_momentum, "0.9", 0, 0.999999, NULL, TRAINING,
         "With local_steps: Nesterov's momentum of the outer update."),
    INT("optim", "delay", optim.rule.delay, "0", 0, 1, TRAINING,
        "1: an update is used one step later (ZeRO-Offload's delayed parameter update): gradients are of "
        "weights that "
        "lack the newest update, other results than with 0. Takes 4 bytes a parameter more. Not with "
        "schedules that "
        "update inside their list."),
    WORDY(RB_KEY_NAME, "optim", "offload", optim.offload, "none", "none|disk|host", DEPLOYMENT,
          "Where optimizer states live: with the weights, in a file per stage that streams through every "
          "update (disk), "
          "or, for stages on a GPU, in the host's memory, from which they stream the same way."),
    WORDY(RB_KEY_ENUM, "optim", "offload_parts", optim.offload_parts, "states", "states|states+gradients",
          DEPLOYMENT,
          "What offload moves: optimizer states, or the gradients of the large matrices too, which are then "
          "read and "
          "written once per microbatch."),
    WORDY(RB_KEY_ENUM, "optim", "offload_update", optim.offload_update, "device", "device|host", DEPLOYMENT,
          "With offload: host, where AdamW computes. device: its moments stream through the GPU, with the "
          "bits of keeping them "
          "there. host: gradients come down and weights go up (matrices in bf16 where products are in it), "
          "masters "
          "and moments stay on the host; an update has the bits of the CPU's."),
    PLAIN(RB_KEY_STRING, "optim", "offload_dir", optim.offload_dir, "", DEPLOYMENT,
          "Folder of the files of offload: disk; empty: the run's own. They have no names in it and are gone "
          "with the "
          "stage."),

    INT("train", "steps", train.steps, "350", 1, 1000000000, TRAINING, "Optimizer steps of the whole run."),
    REAL("train", "max_seconds", train.max_seconds, "0", 0, 1e9, "seconds", DEPLOYMENT,
         "Stop cleanly after so much wall time; 0: no limit."),
    INT("train", "batch", train.batch, "16", 1, 1 << 20, TRAINING,
        "Sequences per step, over all microbatches."),
    INT("train", "microbatches", train.microbatches, "8", 1, 4096, TRAINING,
        "Pieces a step's batch is cut into; must divide batch."),
    REAL("train", "anneal_until", train.anneal_until, "0.5", 0, 1, NULL, TRAINING,
         "Share of train.steps over which boundary.anneal_from narrows to boundary.ratio, latent by latent."),
    REAL("train", "aux_weight", train.aux_weight, "0.5", 0, 100, NULL, TRAINING,
         "Weight of each boundary's auxiliary loss at the first step (boundary.aux)."),
    {.section = "train",
     .name = "aux_until",
     .type = RB_KEY_REAL,
     FIELD_OF(train.aux_until),
     .fallback = "never",
     .max = 1e6,
     .word = "never",
     .word_value = INFINITY,
     .class = TRAINING,
     .doc = "Share of train.steps over which that weight falls to 0, in a line; above 1 it is not yet gone "
            "at the end; "
            "never: it stays."},
    INT("train", "eval_every", train.eval_every, "50", 0, EXACT, DEPLOYMENT,
        "Steps between evaluations; 0: only at the end."),
    INT("train", "eval_sequences", train.eval_sequences, "64", 1, 1 << 24, DEPLOYMENT,
        "Sequences of one evaluation."),
    INT("train", "checkpoint_every", train.checkpoint_every, "100", 0, EXACT, DEPLOYMENT,
        "Steps between checkpoints; 0: only at the end."),
    INT("train", "keep", train.keep, "2", 1, 1000000, DEPLOYMENT, "Newest checkpoints that are kept."),
    PLAIN(RB_KEY_BOOL, "train", "save", train.save, "true", DEPLOYMENT,
          "false: no checkpoint at all, whatever train.checkpoint_every says; the weights are gone when the "
          "run ends. For "
          "measurements of speed."),
    PLAIN(
        RB_KEY_BOOL, "train", "recompute", train.recompute, "false", DEPLOYMENT,
        "Keep each segment's input only and run its forward again in backward: less memory, the same bits."),
    INT("train", "seed", train.seed, "1", 0, EXACT, FIXED,
        "Key of initial weights, data order and rounding."),

    INT("pipeline", "stages", pipeline.stages, "4", 1, RB_MAX_STAGES, DEPLOYMENT,
        "Processes the segments are spread over; at most model.segments."),
    PLAIN(RB_KEY_REPLICAS, "pipeline", "replicas", pipeline, "1", DEPLOYMENT,
          "Processes that hold the same stage and share out its microbatches: a count, or a list per stage "
          "([1, 2]). Their "
          "gradients are added up before each update, so that losses agree with one replica's to rounding "
          "(docs/replicas.md)."),
    WORDY(RB_KEY_ENUM, "pipeline", "deal", pipeline.deal, "measured", "measured|even", DEPLOYMENT,
          "Microbatches of each replica: in proportion to the speed measured in earlier steps, or as many "
          "for each (which gives the "
          "same bits every time)."),
    WORDY(RB_KEY_NAME, "pipeline", "replica_codec", pipeline.replica_codec, "f32", "f32|int8", TRAINING,
          "How gradients cross between replicas: f32, or int8 in groups of 64 with a scale each, what was "
          "lost added to the next "
          "step's (lossy)."),
    PLAIN(RB_KEY_STRING, "pipeline", "schedule", pipeline.schedule, "1f1b", DEPLOYMENT,
          "Order of the actions, and which stage hosts which segments: gpipe, 1f1b, interleaved-1f1b, zb-h1, "
          "zbv, or "
          "file:PATH, a text of actions (resbm schedule prints and checks any); no bit of the result depends "
          "on it. "
          "Asynchronous, with results of their own: pipedream and pipedream-2bw."),
    PLAIN(RB_KEY_BOOL, "pipeline", "vertical_sync", pipeline.vertical_sync, "false", DEPLOYMENT,
          "pipedream: a microbatch sees on every stage the version of the weights that it saw on the first."),
    AUTO_INT(
        "pipeline", "inflight", pipeline.inflight, "auto", 0, 4096, "auto", 0, DEPLOYMENT,
        "Microbatches a stage may be ahead; auto: the fewest that cover the links' latency within memory."),
    {.section = "pipeline",
     .name = "memory",
     .type = RB_KEY_SIZE,
     FIELD_OF(pipeline.memory),
     .fallback = "auto",
     .min = 1 << 20,
     .max = EXACT,
     .word = "auto",
     .word_value = 0,
     .class = DEPLOYMENT,
     .doc = "Memory of a stage that inflight: auto may plan with; auto: what this machine has."},
    AUTO_INT("pipeline", "threads", pipeline.threads, "auto", 0, 1024, "auto", 0, DEPLOYMENT,
             "Compute threads of a stage; auto or 0: this machine's processors divided between its stages."),
    WORDY(RB_KEY_ENUM, "pipeline", "transport", pipeline.transport, "unix", "unix|tcp", DEPLOYMENT,
          "Unix sockets (one machine) or TCP."),
    PLAIN(RB_KEY_ADDRESSES, "pipeline", "addresses", pipeline, "[]", DEPLOYMENT,
          "host:port of each stage with transport: tcp; empty: loopback, ports chosen by the system."),
    PLAIN(RB_KEY_ADDRESS, "pipeline", "control", pipeline.control, "", DEPLOYMENT,
          "host:port where stages reach the coordinator with transport: tcp (port 0: chosen by the system); "
          "empty: loopback."),
    PLAIN(RB_KEY_STRING, "pipeline", "launcher", pipeline.launcher, "", DEPLOYMENT,
          "Command put before a stage's own, {stage} replaced by its number: \"ip netns exec s{stage}\"."),
    WORDY(RB_KEY_NAME, "pipeline", "mpi", pipeline.mpi, "auto", "auto|openmpi|mpich", DEPLOYMENT,
          "engine: mpi: which MPI's module is loaded; auto: the one whose mpirun started the ranks."),
    PLAIN(RB_KEY_STRING, "pipeline", "device", pipeline.device, "cpu", DEPLOYMENT,
          "One for all stages, or one per stage with commas between (\"cuda:0, cuda:1, cpu\"). cpu: oneDNN "
          "and vector code; "
          "cuda: an NVIDIA GPU, cuda:1 the second one (docs/cuda.md); ref: plain C; timed: computes nothing "
          "and takes as long "
          "as pipeline.speed says, to try out schedules and links."),
    WORDY(RB_KEY_ENUM, "pipeline", "math", pipeline.math, "auto", "auto|f32|tf32|bf16|f16", DEPLOYMENT,
          "What products are computed in; weights and sums stay f32. auto: f32 on "
          "processors; on "
          "GPUs bf16, or f16 with scaled operands where there is no bf16 (compute capability 7.5)."),
    WORDY(RB_KEY_ENUM, "pipeline", "attention", pipeline.attention, "own", "own|cudnn|auto", DEPLOYMENT,
          "Whose attention a GPU that computes in bf16 takes. own: this project's; cudnn: cuDNN's, or an "
          "error that says what "
          "is missing; auto: the faster of the two, timed at each start where cuDNN is found, so that a "
          "second start "
          "may give other last bits (docs/cuda.md)."),
    {.section = "pipeline",
     .name = "logits",
     .type = RB_KEY_SIZE,
     FIELD_OF(pipeline.logits),
     .fallback = "auto",
     .min = 4,
     .max = EXACT,
     .word = "auto",
     .word_value = 0,
     .class = DEPLOYMENT,
     .doc = "Memory a head's logits may take at once. A microbatch's that fit are kept from the forward to "
            "the backward pass, "
            "others are made in pieces, and once more for the weight's gradient. auto: 16777216 on "
            "processors, 536870912 on GPUs, "
            "where products of few rows are slow. Other pieces, other last bits."},
    PLAIN(RB_KEY_BOOL, "pipeline", "weight_copies", pipeline.weight_copies, "true", DEPLOYMENT,
          "On a GPU that computes in bf16: matrices are kept in bf16 beside their f32 weights (2 bytes a "
          "parameter) and "
          "rounded once after each update; false: at each use. The same bits."),
    WORDY(
        RB_KEY_ENUM, "pipeline", "activations", pipeline.activations, "auto", "auto|f32|bf16", DEPLOYMENT,
        "Type in memory of what blocks keep between their operations; the residual stream and its gradient "
        "stay f32. bf16: half the memory, and nothing is left to round before a product; only where products "
        "are in bf16. auto: bf16 there, else f32."),
    REAL("pipeline", "speed", pipeline.speed, "0", 0, 1e18, "FLOP/s", DEPLOYMENT,
         "What a stage sustains: taken by device: timed and by plans; 0: no time at all, and plans measure "
         "this machine."),
    DURATION("pipeline", "deadline", pipeline.deadline_ns, "60s", 1e6,
             "Longest wait for another stage's message, and for a sign of life from a stage that computes or "
             "writes, before "
             "the run ends with a message. Hosted runs learn one for their steps, and take a longer one "
             "where a step "
             "of their machines is long."),
    DURATION(
        "pipeline", "startup_deadline", pipeline.startup_deadline_ns, "60s", 1e6,
        "Longest wait for all stages to be there; while weights are downloaded, for the next 64 KB of them."),

    RATE("link", "up", link.up_bits, "none", "Uplink of each stage, shared by all it sends; none: unshaped."),
    RATE("link", "down", link.down_bits, "none", "Downlink of each stage, shared by all it receives."),
    DURATION("link", "latency", link.latency_ns, "0ms", 0, "One-way delay added to what is sent."),
    DURATION("link", "jitter", link.jitter_ns, "0ms", 0, "Largest random addition to the latency."),
    REAL("link", "loss", link.loss, "0", 0, 0.5, NULL, DEPLOYMENT, "Share of segments lost and sent again."),
    WORDY(RB_KEY_ENUM, "link", "duplex", link.half_duplex, "full", "full|half", DEPLOYMENT,
          "half: sending and receiving share link.up."),
    WORDY(RB_KEY_ENUM, "link", "latency_mode", link.latency_occupies, "pipelines", "pipelines|occupies",
          DEPLOYMENT,
          "pipelines: messages follow each other whatever the latency; occupies: after each the uplink "
          "stands still until it "
          "has arrived."),
    REAL("link", "snapshot_share", snapshot_share, "0.25", 0.001, 1, NULL, DEPLOYMENT,
         "Under resbm host: share of a stage's uplink (link.up, join --up, or what join measured; the least "
         "of them) that "
         "its snapshots take on their way to the host while steps go on; 1: all of it, before the next step. "
         "Of the host's own line, too, where the server is somebody else's (resbm host --server)."),
    INT("link", "seed", link.seed, "1", 0, EXACT, DEPLOYMENT, "Key of jitter and loss."),

    WORDY(RB_KEY_NAME, "", "engine", engine, "local", "local|mpi|nats", DEPLOYMENT,
          "How stages are started and connected: processes of this machine with sockets between them; ranks "
          "that mpirun starts, one "
          "per stage (docs/cluster.md); or through a NATS server (on this machine with resbm train; across "
          "machines with resbm "
          "host and resbm join)."),
};
const int rb_key_count = sizeof rb_keys / sizeof *rb_keys;
_Static_assert(sizeof rb_keys / sizeof *rb_keys <= RB_MAX_KEYS, "RB_MAX_KEYS is too small");
