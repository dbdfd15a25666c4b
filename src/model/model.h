/* The model as the pipeline sees it: segments, the boundaries between them, and one tensor table.
 *
 * Legend: B sequences of a microbatch, T positions, n = B*T, d width, k latent width, w identity width that
 * crosses beside the latents, V vocabulary.
 *
 * A segment's forward takes what crossed the boundary before it (unpacked) and gives what will cross the one
 * behind it (not yet packed): decode -> blocks -> encode. Segment 0 begins with the embedding, the last one ends
 * with final norm, head and loss. Packing and sending are the caller's.
 */
#ifndef RB_MODEL_MODEL_H
#define RB_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include "codec/codec.h"
#include "device/device.h"
#include "device/ops.h"

enum { RB_MAX_SEGMENTS = 1024, RB_MAX_WIRE_PARTS = 2 };

/* model.* of the configuration. */
typedef struct rb_model_config {
    int64_t d, layers, heads, kv_heads, ffn, vocab, context;
    int64_t segments;
    int64_t segment_layers[RB_MAX_SEGMENTS]; /* blocks of each; all 0: spread evenly, earlier ones get the rest */
    double rope_theta, norm_eps, init_std;
    bool qk_norm, tied, recompute;
    uint64_t seed;
} rb_model_config;

typedef enum rb_identity { RB_IDENTITY_TRUNCATE, RB_IDENTITY_SPLIT, RB_IDENTITY_FULL, RB_IDENTITY_NONE } rb_identity;
typedef enum rb_token_path { RB_TOKENS_NONE, RB_TOKENS_EMBEDDING, RB_TOKENS_TRUNK } rb_token_path;

/* boundary.* of the configuration; the same for every boundary of a model. */
typedef struct rb_boundary_config {
    char kind[16];         /* registry name: none, linear, residual */
    rb_identity identity;
    int64_t identity_width; /* split: coordinates that cross in bf16 */
    int64_t k;             /* latent width (d / ratio) */
    int64_t hidden;        /* m; 0 = one linear map; < 0 = max(4k, 64) */
    rb_token_path tokens;
    int64_t trunk_blocks, trunk_width, trunk_heads, trunk_ffn; /* widths 0 = chosen from d, see docs */
    char codec_fwd[16], codec_bwd[16]; /* registry names of codec/codec.h */
    char scale_fwd[16];    /* step or token */
} rb_boundary_config;

/* Which optimiser rule a tensor may get. */
typedef enum rb_role {
    RB_ROLE_EMBEDDING, RB_ROLE_HEAD, RB_ROLE_NORM,
    RB_ROLE_MATRIX,          /* a block's matrix */
    RB_ROLE_BOUNDARY_MATRIX, /* an encoder's or decoder's matrix */
    RB_ROLE_STEP             /* learned steps of a codec: state, not trained by gradient */
} rb_role;

/* A part is what is stored in one checkpoint file and lives whole on one stage: segment i, the encoder of
 * boundary i (with segment i) or its decoder and token path (with segment i+1). */
typedef enum rb_part_kind { RB_PART_SEGMENT, RB_PART_ENCODER, RB_PART_DECODER } rb_part_kind;

/* One row of the tensor table. Its order is the order of norms, optimizer groups, checkpoints and tests: segment
 * 0, encoder 0, decoder 0, segment 1, ... */
typedef struct rb_tensor {
    char name[96];     /* Hugging Face Llama names; boundary.<i>.encoder.fc1.weight, ... */
    int rank;          /* 1 or 2 */
    int64_t shape[2];
    rb_role role;
    rb_part_kind part;
    int part_index;    /* segment or boundary number */
    int segment;       /* the segment whose stage hosts it (a decoder of boundary i: i+1) */
    float init_mean, init_std; /* normal; std 0 = constant mean. Values are keyed by (seed, name). */
} rb_tensor;

typedef struct rb_tensor_table {
    rb_tensor *rows;
    int count;
} rb_tensor_table;

/* Builds the table; refuses impossible configurations with the key's name and the nearest value that works. */
resbm_status rb_model_check(rb_model_config *m, rb_boundary_config *b, rb_err *err); /* fills derived values in */
resbm_status rb_tensor_table_build(const rb_model_config *m, const rb_boundary_config *b, rb_tensor_table *out,
                                   rb_err *err);
void rb_tensor_table_free(rb_tensor_table *t);
int64_t rb_tensor_count(const rb_tensor *t); /* elements */

/* What crosses one boundary in one direction: up to two tensors (B,T,width), each packed by its own rule
 * (latents; identity coordinates in bf16). seed, step, sequence, boundary, direction of pack are filled per
 * message by the caller. */
typedef struct rb_wire_part {
    int64_t width;
    rb_pack_args pack;
    bool learned_steps; /* pack needs steps (k) and feeds rb_code_stats */
} rb_wire_part;
typedef struct rb_wire {
    int parts;
    rb_wire_part part[RB_MAX_WIRE_PARTS];
} rb_wire;
resbm_status rb_model_wire(const rb_model_config *m, const rb_boundary_config *b, int direction, rb_wire *out,
                           rb_err *err);

/* The piece of the model on one stage: weights, gradients and activation slots of the segments it hosts. */
typedef struct rb_stage_model rb_stage_model;

typedef struct rb_stage_options {
    const rb_model_config *model;
    const rb_boundary_config *boundary;
    const rb_tensor_table *table;
    int first_segment, segments; /* hosted: a contiguous run (more general sets come with interleaving) */
    int64_t B, T;                /* sequences and positions of a microbatch */
    int slots;                   /* microbatches whose activations may be alive at once per segment */
    bool training;               /* gradients and backward buffers are allocated */
    bool split_backward;         /* weight halves are called apart from input halves */
} rb_stage_options;

/* Allocates everything at once (nothing is allocated per step) and initialises weights by (seed, name). */
resbm_status rb_stage_model_open(rb_device *dev, const rb_stage_options *opt, rb_stage_model **out, rb_err *err);
void rb_stage_model_close(rb_stage_model *m);
size_t rb_stage_model_bytes(const rb_stage_model *m);
/* Views (device memory) of a tensor's weights and gradient by its row in the table; absent when the tensor is
 * not hosted here (or has no gradient). */
rb_view rb_stage_weight(const rb_stage_model *m, int row);
rb_view rb_stage_grad(const rb_stage_model *m, int row);
resbm_status rb_stage_zero_grads(rb_stage_model *m, rb_queue *q, rb_err *err);

/* One microbatch's way through one segment; slot in [0, slots). */
typedef struct rb_segment_io {
    rb_view in[RB_MAX_WIRE_PARTS];   /* forward: unpacked parts (B,T,width) from the boundary before; segment 0: absent.
                                        backward: unpacked gradient parts from the boundary behind; last: absent */
    rb_view out[RB_MAX_WIRE_PARTS];  /* filled in: views into the slot that stay valid until the slot is used again */
    rb_view tokens;                  /* (B,T) i32: segment 0's input, and every receiver's token path */
    rb_view targets;                 /* (B,T) i32: last segment */
    rb_view loss;                    /* last segment, out: (1) f64, sum over the microbatch's tokens */
    float grad_scale;                /* last segment: 1 / (tokens of the whole step); 0 = evaluation */
} rb_segment_io;

resbm_status rb_segment_forward(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_segment_io *io, rb_err *err);
/* Gradient of the inputs; weight gradients are added to by ..._weight, later and apart, or in one go. */
resbm_status rb_segment_backward_input(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_segment_io *io,
                                       rb_err *err);
resbm_status rb_segment_backward_weight(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_err *err);
/* Both halves, block by block: less memory traffic, the same bits. */
resbm_status rb_segment_backward(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_segment_io *io, rb_err *err);

/* Generation: logits (B,V) of the last position fed, with a KV cache per hosted block. `offset` positions were fed
 * before; tokens (B,T') as above with T' = 1 or a whole prompt; logits is filled on the last segment only. */
typedef struct rb_kv_cache rb_kv_cache;
resbm_status rb_kv_cache_open(rb_stage_model *m, int64_t B, int64_t capacity, rb_kv_cache **out, rb_err *err);
void rb_kv_cache_close(rb_kv_cache *c);
resbm_status rb_segment_decode(rb_stage_model *m, rb_queue *q, rb_kv_cache *c, int segment, int64_t offset,
                               rb_segment_io *io, rb_view logits, rb_err *err);

/* Name of the first tensor or saved activation of this stage that holds a NaN or infinity, in the order of the
 * computation ("model.layers.3.mlp.up_proj.weight", "output of model.layers.3, microbatch slot 2"); empty when
 * all are finite. Blocks until the device is done. */
resbm_status rb_stage_find_nonfinite(rb_stage_model *m, rb_queue *q, char *name, size_t size, rb_err *err);

#endif
