/* Attention by a library (sdpa.h). What is f32 in memory is rounded to bf16 in working memory first, and its results are
 * widened from there; what is bf16 already, with rows where the library wants them, is handed over as it is. Heads whose width
 * is no multiple of 8 get zeros behind them, which change no product. */
#include "device/cuda/attention.h"
#include "device/cuda/each.h"
#include "device/cuda/sdpa.h"
#include "device/cuda/sdpa_room.h"

#ifdef RB_CUDA_EMULATED
enum { MOST_DP = 100000 };
#else
enum { MOST_DP = RB_SDPA_MOST_DP };
#endif
enum { ALIGNED = 16 /* bytes rows of the library begin at */, PART = 256 /* operands in working memory */ };

/* Rows of `width` columns out of a view's, which may be narrower. */
struct heads_to_half {
    rb_view x;
    uint16_t *out;
    int64_t width;
    __device__ void operator()(int64_t r, int64_t i) const {
        out[r * width + i] = i < x.shape[3] ? rb_half1(rb_get(x, r, i)) : 0;
    }
};
struct heads_from_half {
    rb_view x;
    const uint16_t *from;
    int64_t width;
    __device__ void operator()(int64_t r, int64_t i) const {
        rb_put(x, r, i, rb_bf16_to_f32(from[r * width + i]));
    }
};

/* Can the library work in the view's own memory? */
static bool fits(const rb_view *v) {
    if (v->dtype != RB_BF16 || (uintptr_t)v->data % ALIGNED) return false;
    for (int i = 0; i < 3; i++)
        if (v->stride[i] * (int64_t)sizeof(uint16_t) % ALIGNED) return false;
    return v->stride[3] == 1 && v->shape[3] * (int64_t)sizeof(uint16_t) % ALIGNED == 0;
}

static size_t part_bytes(const rb_view *v) {
    if (fits(v)) return 0;
    int64_t rows = rb_row_count(v), width = rb_sdpa_width(v->shape[3]);
    return ((size_t)(rows * width) * sizeof(uint16_t) + PART - 1) / PART * PART;
}

/* Where the view's rows are for the library: its own, or those at *room, which moves on. */
static rb_sdpa_rows place(const rb_view *v, char **room) {
    if (fits(v)) return {v->data, v->stride[0], v->stride[1], v->stride[2]};
    int64_t width = rb_sdpa_width(v->shape[3]), T = v->shape[1], H = v->shape[2];
    rb_sdpa_rows rows = {*room, T * H * width, H * width, width};
    *room += part_bytes(v);
    return rows;
}

static void round_heads(rb_queue *q, const rb_view *v, const rb_sdpa_rows *to) {
    if (fits(v)) return;
    rb_view rows = rb_view2(to->data, RB_BF16, rb_row_count(v), rb_sdpa_width(v->shape[3]));
    rb_each(q, &rows, heads_to_half{*v, (uint16_t *)to->data, rows.shape[1]});
}
static void widen_heads(rb_queue *q, const rb_view *v, const rb_sdpa_rows *from) {
    if (fits(v)) return;
    rb_view rows = rb_view2(from->data, RB_BF16, rb_row_count(v), v->shape[3]);
    rb_each(q, &rows, heads_from_half{*v, (const uint16_t *)from->data, rb_sdpa_width(v->shape[3])});
}

/* --- the call in pieces */

static rb_sdpa_rows moved(const rb_sdpa_rows &r, int64_t b, int64_t h) {
    return {(uint16_t *)r.data + b * r.per_b + h * r.per_h, r.per_b, r.per_t, r.per_h};
}

static rb_sdpa_call piece_of(const rb_sdpa_call *c, rb_sdpa_cut cut, int64_t b, int64_t g) {
    rb_sdpa_call p = *c;
    int64_t per = c->H / c->G, h = g * per;
    p.B = cut.sequences, p.G = cut.groups, p.H = cut.groups * per;
    p.q = moved(c->q, b, h), p.out = moved(c->out, b, h);
    p.k = moved(c->k, b, g), p.v = moved(c->v, b, g);
    p.lse = c->lse + (b * c->H + h) * c->T;
    if (!c->backward) return p;
    p.dout = moved(c->dout, b, h), p.dq = moved(c->dq, b, h);
    p.dk = moved(c->dk, b, g), p.dv = moved(c->dv, b, g);
    return p;
}

static resbm_status run_pieces(rb_queue *base, const rb_sdpa_call *c, rb_err *err) {
    rb_sdpa *s = rb_cuda_of(base)->sdpa;
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    rb_sdpa_cut cut = {c->B, c->G}; /* only backward keeps what grows with T squared */
    if (c->backward) cut = rb_sdpa_cut_for(c->B, c->T, c->H, c->G, MOST_DP);
    for (int64_t b = 0; b < c->B; b += cut.sequences)
        for (int64_t g = 0; g < c->G; g += cut.groups) {
            rb_sdpa_call p = piece_of(c, cut, b, g);
            size_t bytes;
            void *room = NULL;
            RB_TRY(rb_sdpa_prepare(s, &p, &bytes, err));
            if (bytes) RB_TRY(rb_cuda_scratch(base, 1, bytes, &room, err));
            RB_TRY(rb_sdpa_run(s, q->stream, &p, room, err));
        }
    return RESBM_OK;
}

/* Views of an operation that are rows of heads, in the order of `rows`. */
static resbm_status room_for(rb_queue *q, const rb_op *op, const int *view, int n, rb_sdpa_rows **rows,
                             rb_err *err) {
    size_t bytes = 0;
    char *room = NULL;
    for (int i = 0; i < n; i++) bytes += part_bytes(&op->t[view[i]]);
    if (bytes) RB_TRY(rb_cuda_scratch(q, 0, bytes, (void **)&room, err));
    for (int i = 0; i < n; i++) *rows[i] = place(&op->t[view[i]], &room);
    return RESBM_OK;
}

static rb_sdpa_call call_of(const rb_attention_shape &s, bool backward, const rb_view *lse) {
    rb_sdpa_call c = rb_sdpa_call();
    c.backward = backward;
    c.B = s.B, c.T = s.T, c.H = s.H, c.G = s.G, c.D = rb_sdpa_width(s.D);
    c.scale = s.scale;
    c.lse = (float *)lse->data;
    return c;
}

static resbm_status forward(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_sdpa_call c = call_of(rb_attention_forward_shape(op), false, &op->t[1]);
    static const int view[] = {2, 3, 4, 0};
    rb_sdpa_rows *rows[] = {&c.q, &c.k, &c.v, &c.out};
    RB_TRY(room_for(q, op, view, 4, rows, err));
    for (int i = 0; i < 3; i++) round_heads(q, &op->t[view[i]], rows[i]);
    RB_TRY(run_pieces(q, &c, err));
    widen_heads(q, &op->t[0], &c.out);
    return rb_cuda_launched(op, err);
}

static resbm_status backward(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_sdpa_call c = call_of(rb_attention_backward_shape(op), true, &op->t[5]);
    static const int view[] = {3, 4, 6, 7, 8, 0, 1, 2};
    rb_sdpa_rows *rows[] = {&c.dout, &c.out, &c.q, &c.k, &c.v, &c.dq, &c.dk, &c.dv};
    RB_TRY(room_for(q, op, view, 8, rows, err));
    for (int i = 0; i < 5; i++) round_heads(q, &op->t[view[i]], rows[i]);
    RB_TRY(run_pieces(q, &c, err));
    for (int i = 5; i < 8; i++) widen_heads(q, &op->t[view[i]], rows[i]);
    return rb_cuda_launched(op, err);
}

bool rb_cuda_attention_for_sdpa(const rb_op *op) {
    bool back = op->kind == RB_OP_ATTN_BWD;
    rb_attention_shape s = back ? rb_attention_backward_shape(op) : rb_attention_forward_shape(op);
    return s.T == s.S && s.T > 1 && s.offset == 0 && rb_is_flat(&op->t[back ? 5 : 1]);
}

resbm_status rb_cuda_attention_sdpa(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    RB_CUDA_TRY(rb_cuda_choose(c->index), "choosing the card", err);
    return op->kind == RB_OP_ATTN_BWD ? backward(q, op, err) : forward(q, op, err);
}
