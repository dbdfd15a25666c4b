/* Inside of rb_stage_model: what model/'s own files share. Legend as in model.h; L blocks of a segment, a half one counted as one. */
#ifndef RB_MODEL_STAGE_H
#define RB_MODEL_STAGE_H

#include "boundary/aux.h"
#include "boundary/tokens.h"
#include "model/model.h"
#include "model/pager.h"
#include "nn/head.h"

/* What a forward pass through a segment leaves behind. */
typedef struct rb_segment_acts {
    rb_view *x;            /* (L+1) of (n,d): input of each block, output of the last */
    rb_block_saved *block; /* (L) */
    rb_end_buffers enc, dec;
    rb_tokens_saved tokens;
} rb_segment_acts;

/* What the input half leaves for the weight half. */
typedef struct rb_segment_kept {
    rb_view *dx; /* (L+1) of (n,d): gradient of acts.x; one and the same where halves are not apart */
    rb_block_kept *block; /* (L) */
    rb_end_buffers enc, dec;
    rb_aux_kept aux;
} rb_segment_kept;

typedef enum rb_slot_state {
    RB_SLOT_EMPTY,
    RB_SLOT_TRUNK, /* the stream begins with what its trunk gave, the rest of the forward is to come */
    RB_SLOT_FORWARD,
    RB_SLOT_INPUT,
    RB_SLOT_BEHIND /* all of the backward but the trunk's */
} rb_slot_state;

/* One microbatch in one segment. */
typedef struct rb_slot {
    rb_slot_state state;
    rb_segment_acts acts; /* the slot's own, or the stage's shared ones */
    rb_segment_kept kept; /* likewise */
    rb_head_saved head;
    rb_view in[RB_MAX_WIRE_PARTS];    /* copies of what came in, where the backward pass needs them */
    rb_view out[RB_MAX_WIRE_PARTS];   /* (n,width) */
    rb_view din[RB_MAX_WIRE_PARTS];   /* gradient of in */
    rb_view parts[RB_MAX_WIRE_PARTS]; /* what decode reads: in, or the caller's memory */
    rb_view tokens, targets;          /* (n) i32, the caller's memory */
    rb_view latents;                  /* (n,k) of aux latent, likewise */
} rb_slot;

typedef struct rb_segment {
    int index;
    bool first, last;            /* of the model */
    int64_t first_layer, layers; /* layers: blocks, a half counted as one */
    rb_block *block;             /* (L) */
    rb_view embed, dembed;       /* first */
    rb_head head;                /* last */
    rb_boundary_end enc;         /* not last */
    rb_boundary_end dec;         /* not first */
    rb_tokens tokens;
    rb_aux aux;    /* not last */
    rb_slot *slot; /* (slots) */
    int slots;
    int first_row, rows; /* of the table */
    rb_view *copy;       /* (copies, rows) older versions of the weights */
    int copies;
} rb_segment;

typedef struct rb_stage_scratch {
    rb_block_scratch block;
    rb_view dx;              /* (n,d), with fused backward: the gradient of the stream, */
    rb_block_kept kept;      /* one block's kept buffers */
    rb_end_buffers enc, dec; /* and those of the ends */
    rb_aux_kept aux_kept;    /* and of the auxiliary loss */
    rb_aux_scratch aux;
    rb_end_buffers end;
    rb_tokens_scratch tokens;
    rb_head_scratch head;
    rb_view constrain;
} rb_stage_scratch;

struct rb_stage_model {
    rb_device *dev;
    rb_stage_options opt;
    rb_model_config model;
    rb_boundary_config boundary;
    const rb_boundary_kind *kind;
    rb_boundary_parts parts;
    rb_tensor_table table;  /* a copy: the caller's may go */
    rb_view *weight, *grad; /* (table.count) */
    rb_view *updated;       /* (table.count) where updates are made, as far as that is not in `weight` */
    rb_segment *segment;    /* (opt.segments), ascending */
    int *local;             /* (model.segments) place in `segment`, -1 = hosted elsewhere */
    rb_pager *pager;        /* gradients that are away: their views have no data; NULL: none are */
    rb_lender lender;       /* the pager's; ctx NULL without one */
    rb_grads_final final;   /* rb_stage_tell_final */
    void *final_ctx;
    rb_rope_table rope, trunk_rope;
    rb_stage_scratch scratch;
    /* Shared activations hold the pass of this segment and slot (-1: nothing). */
    bool shared_acts;
    int live_segment, live_slot;
    rb_view *own;  /* (table.count) the weights themselves, whichever version or copy is in `weight` */
    rb_view *half; /* (table.count) their copies in bf16; without data where there is none */
    void *halves;
    void *versions;                  /* older ones */
    void *weights, *grads, *buffers; /* the three allocations */
    size_t weight_bytes, grad_bytes, buffer_bytes;
};

rb_block_dims rb_model_block_dims(const rb_model_config *m);
rb_boundary_dims rb_model_boundary_dims(const rb_model_config *m);
/* First row of a part in the table; -1 when it has none. */
int rb_table_find(const rb_tensor_table *t, rb_part_kind part, int index);
int64_t rb_first_layer(const rb_model_config *m, int segment);
/* Blocks of a segment, halves counted as one; the i-th is (part of) layer rb_first_layer + i. */
int64_t rb_segment_blocks(const rb_model_config *m, int segment);
rb_block_dims rb_segment_block(const rb_model_config *m, int segment, int64_t i);
bool rb_has_tokens(const rb_stage_model *m); /* do receivers read token ids? */
bool rb_has_start(
    const rb_stage_model *m); /* does a receiver's stream begin with a token path or an offset? */
/* Is there an auxiliary loss behind the segment, on this stage opened for training? */
bool rb_has_aux(const rb_stage_model *m, const rb_segment *s);

/* decode (and token path) or embedding: the segment's stream x (n,d) from parts and tokens. saved and scratch
 * are in the ends; cache for the trunk or NULL. begun: x holds what the token path gives. */
resbm_status rb_segment_enter(const rb_stage_model *m, const rb_segment *s, const rb_run_ctx *run, rb_view x,
                              const rb_view *parts, rb_view tokens, const rb_segment_acts *acts,
                              const rb_stage_scratch *tmp, const rb_block_cache *cache, bool begun,
                              rb_err *err);
/* An end with its buffers for one call. */
rb_boundary_end rb_end_of(const rb_boundary_end *e, rb_queue *q, const rb_end_buffers *saved,
                          const rb_end_buffers *kept, const rb_end_buffers *scratch);
/* Number of the i-th hosted segment; options as they are while opening. */
int rb_hosted_at(const rb_stage_options *o, int i);
/* away.c: m->pager over opt.spill. */
resbm_status rb_stage_open_pager(rb_stage_model *m, rb_err *err);
/* The hosted segment of that number, or RESBM_E_ARG. */
resbm_status rb_find_segment(const rb_stage_model *m, int segment, rb_segment **out, rb_err *err);

/* copies.c: will this hosted row have a copy in bf16? And before segments are bound to m->weight, all of them. */
bool rb_has_copy(const rb_stage_model *m, int row);
resbm_status rb_stage_open_copies(rb_stage_model *m, rb_err *err);

/* constrain.c. Scratch in f32; at the start, after the initial values; one gradient. */
int64_t rb_constrain_scratch(const rb_stage_model *m);
resbm_status rb_constrain_begin(rb_stage_model *m, rb_queue *q, rb_err *err);
resbm_status rb_constrain_grad(const rb_stage_model *m, rb_queue *q, int row, rb_view grad, rb_err *err);

resbm_status rb_bind_segment(rb_stage_model *m, rb_segment *s, rb_err *err);
void rb_stage_close_versions(rb_stage_model *m);

/* init.c: fills weights by (seed, name). */
resbm_status rb_stage_init_weights(rb_stage_model *m, rb_queue *q, rb_err *err);

#endif
