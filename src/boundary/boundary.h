/* Boundaries: where the activation between two segments is narrowed. The in-graph half only (encode on the
 * sender, decode on the receiver); packing to bytes is codec/'s.
 *
 * Legend: n = B*T rows, d model width, k latent width, m hidden width, w identity width, V vocabulary.
 *
 * What crosses ("parts", all f32 here): part 0 the latents (n,k), or x itself (n,d) for kind none; part 1,
 * where identity is split or full, the identity coordinates (n,w), packed in bf16; or, kind topk, the places of the
 * values in part 0. Their gradients cross back
 * in the same parts. The quantizer is straight-through: the backward functions take the unpacked gradient as
 * it came.
 *
 * The decoder's token path S (tokens.h) is apart from the kinds: it writes the receiver's stream first and
 * decode adds to it.
 */
#ifndef RB_BOUNDARY_BOUNDARY_H
#define RB_BOUNDARY_BOUNDARY_H

#include "nn/plan.h"
#include "nn/run.h"
#include "nn/tensor.h"

enum { RB_MAX_WIRE_PARTS = 2 };

typedef enum rb_identity {
    RB_IDENTITY_TRUNCATE,
    RB_IDENTITY_SPLIT,
    RB_IDENTITY_FULL,
    RB_IDENTITY_NONE,
    RB_IDENTITY_ROTATE,
    RB_IDENTITY_AUTO /* none beside a trunk, else truncate; gone after rb_model_check */
} rb_identity;
typedef enum rb_feedback { RB_FEEDBACK_NONE, RB_FEEDBACK_GRADIENT } rb_feedback;
typedef enum rb_rounding { RB_ROUNDING_STOCHASTIC, RB_ROUNDING_NEAREST } rb_rounding;
/* The vector of boundary/tokens.h; auto: where there is no token path and the kind's stream may vanish. */
typedef enum rb_offset { RB_OFFSET_AUTO, RB_OFFSET_NONE, RB_OFFSET_LEARNED } rb_offset;
/* How the decoder's last map starts; auto: at zero beside a trunk. */
typedef enum rb_decoder_init {
    RB_DECODER_INIT_AUTO,
    RB_DECODER_INIT_ZERO,
    RB_DECODER_INIT_NORMAL
} rb_decoder_init;
typedef enum rb_aux_kind { RB_AUX_NONE, RB_AUX_STREAM, RB_AUX_LATENT } rb_aux_kind;
typedef enum rb_token_path {
    RB_TOKENS_NONE,
    RB_TOKENS_EMBEDDING,
    RB_TOKENS_TRUNK,
    RB_TOKENS_FIXED
} rb_token_path;

/* boundary.* of the configuration; the same for every boundary of a model. */
typedef struct rb_boundary_config {
    char kind[16]; /* registry name */
    rb_identity identity;
    int64_t identity_width; /* split: coordinates that cross in bf16, inside the latents' byte budget */
    int64_t ratio;          /* d / k; 0 = from k */
    int64_t
        anneal_from; /* ratio at the start, from which a run narrows to `ratio`: the tensors are as wide as at the
                               start (k = d / anneal_from), of the latents fewer and fewer cross, the rest are zero; 0 = no */
    int64_t k;       /* latent width; 0 = from ratio. Identity split: always d / ratio less what the identity
                       coordinates cost */
    int64_t hidden; /* m; 0 = one linear map; < 0 = max(4k, 64) */
    rb_decoder_init decoder_init;
    rb_offset offset;
    rb_token_path tokens;
    int64_t trunk_blocks, trunk_width, trunk_heads, trunk_ffn; /* 0 = chosen from d, see boundary/tokens.c */
    rb_aux_kind aux;                                           /* the auxiliary loss of boundary/aux.h */
    int64_t aux_rank; /* 0 = a head of full width (stream); < 0 = chosen, see boundary/aux.c */
    char codec_fwd[16], codec_bwd[16]; /* registry names of codec/codec.h; "" or auto = the kind's default */
    char scale_fwd[16];                /* step or token; "" or auto = step where k is narrow */
    int64_t group_bwd; /* values of a gradient that share a scale: 2 to 64, a power of two; 0 = 64 */
    rb_rounding rounding_bwd;
    rb_feedback feedback;  /* kind topk */
    int64_t feedback_rows; /* tokens of a training step; 0: it is not training, feedback has no memory */
} rb_boundary_config;

/* What a boundary must know of the model around it. */
typedef struct rb_boundary_dims {
    int64_t d, vocab;
    double std, eps; /* init_std, norm_eps */
    int64_t chunk;   /* rb_head.chunk of auxiliary heads */
} rb_boundary_dims;

typedef struct rb_boundary_parts {
    int count;
    int64_t width[RB_MAX_WIRE_PARTS];
    rb_code code; /* of part 1 */
} rb_boundary_parts;

/* Buffers of one end, in an order only its kind knows. */
typedef struct rb_end_buffers {
    rb_view v[3];
} rb_end_buffers;

/* One end (encoder or decoder) of one boundary bound to its rows of the tensor table; dw NULL without
 * training. */
typedef struct rb_boundary_end {
    const rb_boundary_config *cfg;
    rb_boundary_dims dims;
    bool encoder;
    const rb_view *w, *dw;
    rb_queue *q;            /* of the present call */
    int64_t row;            /* decode_backward_input: number of its first token within the step */
    rb_end_buffers saved;   /* forward -> both backward halves; per microbatch */
    rb_end_buffers kept;    /* input half -> weight half; per microbatch where they are called apart */
    rb_end_buffers scratch; /* shared */
} rb_boundary_end;

/* One kind. Gradients of vectors are added by the input half, of matrices by the weight half. No function
 * blocks; faults are the device's. */
typedef struct rb_boundary_kind {
    const char *name, *summary;
    const char *codec;  /* default transport codec, both directions */
    bool keeps_latents; /* decode's backward needs parts[0] of the forward pass */
    bool masks;         /* latents may be left out: decode takes 0 for them (boundary.anneal_from) */
    bool narrows;       /* has a latent width; false: k, ratio, identity and tokens mean nothing */
    bool
        straight_through; /* below full width the gradient is not the loss's derivative, and its parts are not those of the
                              forward pass */
    bool constrains; /* the segments' weights are held to its subspace (model/constrain.c) */
    /* k and d are set and 1 <= k <= d. Fills derived values in; RESBM_E_CONFIG names the key. */
    resbm_status (*check)(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err);
    void (*parts)(const rb_boundary_config *c, const rb_boundary_dims *s, rb_boundary_parts *out);
    /* About how wide a latent's coordinate is at the start: what the codec's learned steps begin with. NULL: 1. */
    double (*latent_std)(const rb_boundary_config *c, const rb_boundary_dims *s);
    /* Can what decode writes be zero in every coordinate of a token (every code zero)? NULL: no. */
    bool (*may_vanish)(const rb_boundary_config *c);
    /* Rows of the table; prefix "boundary.0.encoder." and "boundary.0.decoder.". */
    void (*list_encoder)(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l);
    void (*list_decoder)(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l);
    /* Memory for n rows. */
    void (*plan_saved)(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out);
    void (*plan_kept)(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out);
    void (*plan_scratch)(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out);
    /* parts (written) from x (n,d). */
    resbm_status (*encode_forward)(const rb_boundary_end *e, rb_view x, const rb_view *parts, rb_err *err);
    /* dx (n,d) (written) from the gradient of the parts. */
    resbm_status (*encode_backward_input)(const rb_boundary_end *e, rb_view dx, const rb_view *dparts,
                                          rb_view x, rb_err *err);
    resbm_status (*encode_backward_weight)(const rb_boundary_end *e, rb_view x, rb_err *err);
    /* y (n,d) = decode(parts), or += when add. */
    resbm_status (*decode_forward)(const rb_boundary_end *e, rb_view y, bool add, const rb_view *parts,
                                   rb_err *err);
    /* dparts (written) from dy (n,d). */
    resbm_status (*decode_backward_input)(const rb_boundary_end *e, const rb_view *dparts, rb_view dy,
                                          rb_err *err);
    resbm_status (*decode_backward_weight)(const rb_boundary_end *e, rb_view dy, const rb_view *parts,
                                           rb_err *err);
} rb_boundary_kind;

/* Initial std of a decoder's last map, whose own would be `normal`. */
static inline double rb_decoder_std(const rb_boundary_config *c, double normal) {
    bool zero = c->decoder_init == RB_DECODER_INIT_AUTO ? c->tokens == RB_TOKENS_TRUNK
                                                        : c->decoder_init == RB_DECODER_INIT_ZERO;
    return zero ? 0 : normal;
}

/* The registry, NULL-terminated. */
extern const rb_boundary_kind *const rb_boundary_kinds[];
const rb_boundary_kind *rb_boundary_find(const char *name); /* NULL when there is none */

#endif
