/* The model as the pipeline sees it: segments, the boundaries between them, and one tensor table.
 *
 * Legend: B sequences of a microbatch, T positions, n = B*T, d width, k latent width, w identity width that
 * crosses beside the latents, V vocabulary.
 *
 * A segment's forward takes what crossed the boundary before it (unpacked) and gives what will cross the one
 * behind it (not yet packed): decode -> blocks -> encode. Segment 0 begins with the embedding, the last one
 * ends with final norm, head and loss. Packing and sending are the caller's.
 */
#ifndef RB_MODEL_MODEL_H
#define RB_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include "boundary/boundary.h"
#include "core/spill.h"
#include "device/ops.h"
#include "nn/run.h"
#include "nn/tensor.h"

enum { RB_MAX_SEGMENTS = 1024 };

/* Where boundaries lie. Inside: the first block behind one lies on both sides, its attention half before it and its feed-forward
 * half behind it. */
typedef enum rb_cut { RB_CUT_BETWEEN, RB_CUT_INSIDE } rb_cut;

/* model.* of the configuration. */
typedef struct rb_model_config {
    int64_t d, layers, heads, kv_heads, ffn, vocab, context;
    int64_t head; /* width of one; 0: d / heads */
    int64_t segments;
    int64_t
        segment_layers[RB_MAX_SEGMENTS]; /* blocks of each; all 0: spread evenly, earlier ones get the rest */
    rb_cut cut;
    double rope_theta, norm_eps, init_std;
    rb_rope_scaling rope; /* of the blocks; a trunk has none */
    bool qk_norm, qkv_bias, tied, recompute;
    uint64_t seed;
} rb_model_config;

/* Refuses impossible configurations with the key's name and the nearest value that works; fills derived
 * values in: segment_layers, k or ratio, hidden, codecs, the trunk's sizes. Needed before everything below;
 * calling it again on what it filled in changes nothing. */
resbm_status rb_model_check(rb_model_config *m, rb_boundary_config *b, rb_err *err);
/* Rows in order; rb_tensor_table_free (nn/tensor.h) when done. */
resbm_status rb_tensor_table_build(const rb_model_config *m, const rb_boundary_config *b,
                                   rb_tensor_table *out, rb_err *err);
/* Halves of blocks that a segment computes; segment_layers of each where cuts lie between blocks. */
typedef struct rb_segment_halves {
    int64_t attention, mlp;
} rb_segment_halves;
rb_segment_halves rb_halves_of(const rb_model_config *m, int segment);

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
    int first_segment, segments; /* hosted: so many from there on, */
    const int *hosted;           /* or these (segments), ascending; NULL: the run. Read while opening only */
    int64_t B, T;                /* sequences and positions of a microbatch */
    int slots;                   /* microbatches whose activations may be alive at once per segment, */
    const int *slots_of; /* or so many (segments) of each; NULL: slots of all. Read while opening only */
    bool training;       /* gradients and backward buffers are allocated */
    bool split_backward; /* weight halves are called apart from input halves */
    rb_spill
        *spill; /* gradients of the large matrices are kept here, from byte spill_at on; NULL: in memory */
    uint64_t spill_at; /* a multiple of RB_SPILL_ALIGN */
    const bool *
        masters_away; /* (table.count) rows whose f32 weights are elsewhere: those with a copy in bf16 have that alone,
                                 and begin as they are allocated. NULL: none. Read while opening only */
    bool
        weight_copies; /* where the device's products round their factors to bf16: matrices are kept in it too */
    bool
        half_activations; /* what lies between the operations of a block is kept in bf16; the stream stays f32 */
    int64_t head_chunk; /* rb_head.chunk */
    bool bare; /* weights and gradients stay as they are allocated: nobody looks before they are set; and none that
                  are kept in a spill are looked at at all */
} rb_stage_options;

/* What keeping gradients in a spill comes to; opt->spill itself is not looked at. Pure: a plan needs no more. */
typedef struct rb_grads_away {
    uint64_t spill; /* bytes there, */
    size_t saved;   /* of memory that gradients no longer take, */
    size_t windows; /* and that windows take instead (host and device) */
} rb_grads_away;
resbm_status rb_stage_grads_away(const rb_device *dev, const rb_stage_options *opt, rb_grads_away *out,
                                 rb_err *err);

/* Allocates everything at once (nothing is allocated per step) and initialises weights by (seed, name). */
resbm_status rb_stage_model_open(rb_device *dev, const rb_stage_options *opt, rb_stage_model **out,
                                 rb_err *err);
void rb_stage_model_close(rb_stage_model *m);
size_t rb_stage_model_bytes(const rb_stage_model *m);
/* The same by what it is for. windows: gradients that are away pass through them. */
typedef struct rb_stage_memory {
    size_t weights, gradients, windows, activations; /* weights: their copies and older versions too */
} rb_stage_memory;
rb_stage_memory rb_stage_model_memory(const rb_stage_model *m);
/* Views (device memory) of a tensor's weights and gradient by its row in the table; absent when the tensor is
 * not hosted here (or has no gradient). */
rb_view rb_stage_weight(const rb_stage_model *m, int row);
rb_view rb_stage_grad(const rb_stage_model *m, int row); /* data NULL: away */
uint64_t rb_stage_grad_at(const rb_stage_model *m,
                          int row); /* of one that is away: its first byte in the spill */
/* A tensor's copy in bf16 (device memory); absent where there is none. */
rb_view rb_stage_half(const rb_stage_model *m, int row);
/* The initial values of a row (host memory, of all its elements). */
resbm_status rb_stage_initial(const rb_stage_model *m, int row, float *host, rb_err *err);
/* After weights were written: the copies of them that products use (copies.c) are made again. Of a segment alone: its own. */
resbm_status rb_stage_weights_changed(rb_stage_model *m, rb_queue *q, rb_err *err);
resbm_status rb_stage_segment_changed(rb_stage_model *m, rb_queue *q, int segment, rb_err *err);
/* Calls look with the gradient of each hosted row that has one, in table order, wherever it is; a view holds during the
 * call only: what is queued on q with it is waited for. Afterwards all of them are in the spill as they are. Gradients of
 * tensors held to a subspace are projected into it first: norms and updates are of what may change. */
typedef resbm_status (*rb_grad_look)(void *ctx, int row, rb_view grad, rb_err *err);
resbm_status rb_stage_look_at_grads(rb_stage_model *m, rb_queue *q, rb_grad_look look, void *ctx,
                                    rb_err *err);
resbm_status rb_stage_look_at_segment_grads(rb_stage_model *m, rb_queue *q, int segment, rb_grad_look look,
                                            void *ctx, rb_err *err); /* of one alone */
/* After each update: tensors that are held to something go back to it (nn/tensor.h). */
resbm_status rb_stage_constrain(rb_stage_model *m, rb_queue *q, rb_err *err);
resbm_status rb_stage_constrain_segment(rb_stage_model *m, rb_queue *q, int segment,
                                        rb_err *err); /* of one alone */
/* A tensor whose updates are made to other memory than its own is held there (v; absent: in its own). */
void rb_stage_constrain_there(rb_stage_model *m, int row, rb_view v);
resbm_status rb_stage_zero_grads(rb_stage_model *m, rb_queue *q, rb_err *err);

/* --- older versions of weights (versions.c), for schedules whose updates overtake microbatches ---
 *
 * Room for copies[i] older versions of the ith hosted segment's weights. Learned steps of a codec have no versions. */
resbm_status rb_stage_open_versions(rb_stage_model *m, const int *copies, rb_err *err);
size_t rb_stage_version_bytes(const rb_stage_model *m); /* of one of every segment */
/* The segment's weights as they are go into copy `copy`. */
resbm_status rb_stage_keep_version(rb_stage_model *m, rb_queue *q, int segment, int copy, rb_err *err);
/* Forward and backward of the segment use that copy from now on; -1: the weights themselves, to which gradients,
 * updates and rb_stage_weight belong in any case. */
resbm_status rb_stage_use_version(rb_stage_model *m, int segment, int copy, rb_err *err);
resbm_status rb_stage_zero_segment_grads(rb_stage_model *m, rb_queue *q, int segment, rb_err *err);

/* One microbatch's way through one segment; slot in [0, the segment's slots). */
typedef struct rb_segment_io {
    rb_view in[RB_MAX_WIRE_PARTS]; /* forward: unpacked parts (B,T,width) from the boundary before; segment 0:
                                      absent. backward: unpacked gradient parts from the boundary behind;
                                      last: absent */
    rb_view out[RB_MAX_WIRE_PARTS]; /* filled in: views into the slot that stay valid until the slot is used
                                       again */
    rb_view tokens;   /* (B,T) i32: segment 0's input, every receiver's token path, and in training
                                       boundary.aux latent beside one */
    rb_view targets;  /* (B,T) i32: last segment, and in training every segment with an auxiliary loss. The
                         memory of both must stay as it is until the slot's backward is done; backward does
                         not look at io for them */
    rb_view loss;     /* last segment's forward, filled in: (1) f64 in the slot, sum over the
                         microbatch's tokens */
    float grad_scale; /* last segment: 1 / (tokens of the whole step); 0 = evaluation */
    float aux_scale;  /* backward with boundary.aux, not the last segment: the loss's weight / (tokens of the
                         whole step); 0 = leave it out */
    rb_view latents;  /* backward with boundary.aux latent and an aux_scale: part 0 of out as the receiver
                         unpacks it, (B,T,k); stays until the slot's backward is done */
    bool
        trunk_apart; /* backward whole: rb_segment_trunk_backward will do the trunk's part, next on this stage */
    int64_t row;     /* backward: number of the microbatch's first token within the step */
    rb_view aux_loss; /* backward, filled in: (1) f64, sum over the microbatch's tokens, not weighted, valid
                         until the stage's next backward; absent when there is none */
} rb_segment_io;

/* RESBM_E_STATE when a call does not follow the one it needs: backward after a forward of the same slot with
 * training on (and grad_scale not 0 on the last segment), the weight half after the input half. */
resbm_status rb_segment_forward(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_segment_io *io,
                                rb_err *err);
/* Gradient of the inputs; weight gradients are added to by ..._weight, later and apart, or in one go. */
resbm_status rb_segment_backward_input(rb_stage_model *m, rb_queue *q, int segment, int slot,
                                       rb_segment_io *io, rb_err *err);
resbm_status rb_segment_backward_weight(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_err *err);
/* Both halves, block by block: less memory traffic, the same bits. */
resbm_status rb_segment_backward(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_segment_io *io,
                                 rb_err *err);

/* Who is told, within the next backward or weight half, that what is queued makes the gradients of `count` rows of the table from
 * `row` on what they are after it: block by block, as it goes back. NULL: nobody. */
typedef resbm_status (*rb_grads_final)(void *ctx, int row, int count, rb_err *err);
void rb_stage_tell_final(rb_stage_model *m, rb_grads_final tell, void *ctx);

/* The receiver's token path apart, which needs only io->tokens: its forward right before rb_segment_forward of the same slot,
 * which then leaves it out; its backward right behind a whole backward that was told so. Nothing else of the stage's
 * may run in between. The same bits. */
resbm_status rb_segment_trunk_forward(rb_stage_model *m, rb_queue *q, int segment, int slot,
                                      rb_segment_io *io, rb_err *err);
resbm_status rb_segment_trunk_backward(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_err *err);

/* Generation: logits (B,V) of the last position fed, with a KV cache per hosted block. `offset` positions
 * were fed before; tokens (B,T') as above with T' = 1 or a whole prompt; logits is filled on the last segment
 * only. */
typedef struct rb_kv_cache rb_kv_cache;
resbm_status rb_kv_cache_open(rb_stage_model *m, int64_t B, int64_t capacity, rb_kv_cache **out, rb_err *err);
void rb_kv_cache_close(rb_kv_cache *c);
resbm_status rb_segment_decode(rb_stage_model *m, rb_queue *q, rb_kv_cache *c, int segment, int64_t offset,
                               rb_segment_io *io, rb_view logits, rb_err *err);

/* Name of the first tensor or saved activation of this stage that holds a NaN or infinity, in the order of
 * the computation ("model.layers.3.mlp.up_proj.weight", "output of model.layers.3, microbatch slot 2"); empty
 * when all are finite. Blocks until the device is done. */
resbm_status rb_stage_find_nonfinite(rb_stage_model *m, rb_queue *q, char *name, size_t size, rb_err *err);

#endif
