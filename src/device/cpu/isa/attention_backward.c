/* Causal attention backward, scores computed again from lse (Dao et al., "FlashAttention", 2022). A task is
 * one (sequence, key/value head); its query heads, then blocks of KB keys, then blocks of QB queries run in
 * ascending order, so every sum has one fixed order:
 *
 *     P = e^(scale Q K^T - lse)     dP = dO V^T     dS = P (dP - delta),  delta = rowsum(dO O)
 *     dV += P^T dO                  dK += dS^T Q scale                    dQ += dS K scale
 *
 * On the diagonal, strips of RB_MR queries stop at their last visible key, and strips of keys start at the
 * first strip of queries that sees them.
 */
#include <math.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/isa/math.h"
#include "device/cpu/isa/micro.h"
#include "device/cpu/spans.h"

enum { QB = 8 * RB_MR, KB = 64 };
_Static_assert(KB % RB_PANEL == 0, "a block of keys is whole panels");

typedef struct task {
    const rb_op *op;
    int64_t b, T, D, Dp;
    float *kt, *vt;       /* K^T, V^T in panels */
    float *k, *dk, *dv;   /* (T,Dp), of the key/value head */
    float *q, *dout, *dq; /* (T,Dp), of the query head; q is scaled */
    float *lse, *delta;   /* (T) */
    float *p, *ds;        /* (QB,KB) */
} task;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Floats of one task's memory, and its cut into the arrays above when m is given. */
static int64_t lay_out(task *k, float *m) {
    int64_t T = k->T, rows = T * k->Dp, panels = rb_panel_floats(T, k->D);
    float **array[] = {&k->kt,   &k->vt, &k->k,   &k->dk,    &k->dv, &k->q,
                       &k->dout, &k->dq, &k->lse, &k->delta, &k->p,  &k->ds};
    int64_t size[] = {panels, panels, rows,      rows,      rows,    rows,
                      rows,   rows,   rb_pad(T), rb_pad(T), QB * KB, QB * KB};
    int64_t at = 0;
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        if (m) *array[i] = m + at;
        at += size[i];
    }
    return at;
}

static void load_head(const task *k, int64_t h) {
    const rb_view *dout = &k->op->t[3], *out = &k->op->t[4], *lse = &k->op->t[5], *q = &k->op->t[6];
    rb_copy_rows(k->q, k->Dp, rb_head_row(q, k->b, 0, h), q->stride[1], k->T, k->D, k->op->f[0], true);
    rb_copy_rows(k->dout, k->Dp, rb_head_row(dout, k->b, 0, h), dout->stride[1], k->T, k->D, 1, true);
    for (int64_t i = 0; i < k->T * k->Dp; i++) k->dq[i] = 0;
    const float *l = (const float *)lse->data + k->b * lse->stride[0] + h * lse->stride[1];
    for (int64_t t = 0; t < k->T; t++) {
        const float *o = rb_head_row(out, k->b, t, h), *g = k->dout + t * k->Dp;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < k->D; i++) sum += o[i] * g[i];
        k->delta[t] = sum;
        k->lse[t] = l[t];
    }
}

/* P and dS of one query row: n visible keys of the block, zeros up to padded. */
static void score_row(float *p, float *ds, int64_t n, int64_t padded, float lse, float delta) {
    for (int64_t j = 0; j < padded; j += RB_VL) {
        rb_vec *vp = (rb_vec *)(p + j), *vd = (rb_vec *)(ds + j);
        *vp = rb_exp_vec(*vp - lse);
        *vd = *vp * (*vd - delta);
    }
    rb_fill_tail(p, n, padded, 0);
    rb_fill_tail(ds, n, padded, 0);
}

/* Queries [t, t + rows) against keys [s, s + keys): scores, their gradients, and dQ. r0: row in the block. */
static void query_strip(const task *k, int64_t t, int64_t rows, int64_t r0, int64_t s, int64_t keys) {
    float *p = k->p + r0 * KB, *ds = k->ds + r0 * KB;
    int64_t seen = least(keys, t + rows - s), Dp = k->Dp;
    for (int64_t r = 0; r < rows && seen < keys; r++)
        for (int64_t j = seen > 0 ? seen : 0; j < rb_pad(keys); j++) p[r * KB + j] = ds[r * KB + j] = 0;
    if (seen <= 0) return;
    rb_strided q = {k->q + t * Dp, Dp, 1}, g = {k->dout + t * Dp, Dp, 1}, a = {ds, KB, 1};
    rb_strip_panels(rows, rb_pad(seen), k->D, &q, k->kt + s * k->D, p, KB, false);
    rb_strip_panels(rows, rb_pad(seen), k->D, &g, k->vt + s * k->D, ds, KB, false);
    for (int64_t r = 0; r < rows; r++) {
        int64_t n = least(seen, t + r - s + 1);
        score_row(p + r * KB, ds + r * KB, n > 0 ? n : 0, rb_pad(seen), k->lse[t + r], k->delta[t + r]);
    }
    rb_strip(rows, Dp, seen, &a, k->k + s * Dp, Dp, k->dq + t * Dp, Dp, true);
}

/* dV += P^T dO and dK += dS^T Q for keys [s, s + keys) and queries [t, t + rows) of the block. */
static void key_strips(const task *k, int64_t t, int64_t rows, int64_t s, int64_t keys) {
    int64_t Dp = k->Dp;
    for (int64_t j = 0; j < keys; j += RB_MR) {
        int64_t n = least(RB_MR, keys - j), r = s + j > t ? least(s + j - t, rows) : 0;
        rb_strided p = {k->p + r * KB + j, 1, KB}, ds = {k->ds + r * KB + j, 1, KB};
        float *dv = k->dv + (s + j) * Dp, *dk = k->dk + (s + j) * Dp;
        rb_strip(n, Dp, rows - r, &p, k->dout + (t + r) * Dp, Dp, dv, Dp, true);
        rb_strip(n, Dp, rows - r, &ds, k->q + (t + r) * Dp, Dp, dk, Dp, true);
    }
}

static void backward_head(const task *k) {
    for (int64_t s = 0; s < k->T; s += KB) {
        int64_t keys = least(KB, k->T - s);
        for (int64_t t = s / QB * QB; t < k->T; t += QB) {
            int64_t rows = least(QB, k->T - t);
            for (int64_t r = 0; r < rows; r += RB_MR)
                query_strip(k, t + r, least(RB_MR, rows - r), r, s, keys);
            key_strips(k, t, rows, s, keys);
        }
    }
}

static void backward_task(const task *k, int64_t g) {
    const rb_view *key = &k->op->t[7], *value = &k->op->t[8];
    int64_t group = k->op->t[6].shape[2] / key->shape[2], T = k->T, D = k->D, Dp = k->Dp;
    const float *pk = rb_head_row(key, k->b, 0, g), *pv = rb_head_row(value, k->b, 0, g);
    rb_pack_panels(k->kt, pk, key->stride[1], T, D);
    rb_pack_panels(k->vt, pv, value->stride[1], T, D);
    rb_copy_rows(k->k, Dp, pk, key->stride[1], T, D, 1, true);
    for (int64_t i = 0; i < T * Dp; i++) k->dk[i] = k->dv[i] = 0;
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        load_head(k, h);
        backward_head(k);
        const rb_view *dq = &k->op->t[0];
        rb_copy_rows(rb_head_row(dq, k->b, 0, h), dq->stride[1], k->dq, Dp, T, D, k->op->f[0], false);
    }
    const rb_view *dk = &k->op->t[1], *dv = &k->op->t[2];
    rb_copy_rows(rb_head_row(dk, k->b, 0, g), dk->stride[1], k->dk, Dp, T, D, 1, false);
    rb_copy_rows(rb_head_row(dv, k->b, 0, g), dv->stride[1], k->dv, Dp, T, D, 1, false);
}

resbm_status RB_ISA_NAME(rb_cpu_attention_backward)(rb_queue *q, const rb_op *op, rb_err *err) {
    const rb_view *qv = &op->t[6];
    int64_t B = qv->shape[0], G = op->t[7].shape[2];
    task shape = {.op = op, .T = qv->shape[1], .D = qv->shape[3], .Dp = rb_pad(qv->shape[3])};
    int64_t each = lay_out(&shape, NULL);
    void *memory;
    RB_TRY(rb_cpu_scratch(q, (size_t)(each * q->dev->opt.threads) * sizeof(float), &memory, err));
#pragma omp parallel for num_threads(q->dev->opt.threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < B * G; i++) {
        task k = shape;
        k.b = i / G;
        lay_out(&k, (float *)memory + rb_thread_number() * each);
        backward_task(&k, i % G);
    }
    return RESBM_OK;
}
