/* Causal attention forward. A task is one (sequence, key/value head, run of queries): it packs the head's
 * keys transposed and its values once, then takes strips of RB_MR queries: scores against all keys they may
 * see, softmax over whole rows, times the values. Only RB_MR x S scores exist at a time per thread.
 *
 *        keys ->
 *   q    ######............      a strip stops at its last visible key, padded to a vector
 *   |    ############......
 *   v    ##################
 */
#include <math.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/isa/math.h"
#include "device/cpu/isa/micro.h"
#include "device/cpu/spans.h"

enum { TASKS = 16 /* enough for any sensible team; a shape with fewer heads cuts its queries */ };

typedef struct task {
    const rb_op *op;
    int64_t b, g, first, last;    /* queries [first, last) */
    float *kt, *v, *scores, *out; /* panels of keys, (S,Dp), (RB_MR,Sp), (RB_MR,Dp) */
} task;

/* Row of n visible scores -> e^(scale x - max), zeros up to padded; gives 1/sum and log-sum-exp. */
static float softmax_row(float *x, int64_t n, int64_t padded, float scale, float *lse) {
    rb_vec *v = (rb_vec *)x, top = (rb_vec){0} - INFINITY, sum = {0};
    int64_t vectors = padded / RB_VL;
    rb_fill_tail(x, n, padded, scale < 0 ? INFINITY : -INFINITY);
    for (int64_t j = 0; j < vectors; j++) top = rb_max_vec(v[j] * scale, top);
    float most = top[0];
    for (int i = 1; i < RB_VL; i++) most = top[i] > most ? top[i] : most;
    for (int64_t j = 0; j < vectors; j++) {
        v[j] = rb_exp_vec(v[j] * scale - most);
        sum += v[j];
    }
    float total = rb_sum_vec(sum);
    *lse = most + logf(total);
    return 1 / total;
}

/* Queries [t, t + rows), rows <= RB_MR, of head h. */
static void forward_strip(const task *k, int64_t h, int64_t t, int64_t rows) {
    const rb_view *out = &k->op->t[0], *lse = &k->op->t[1], *q = &k->op->t[2];
    int64_t D = q->shape[3], Dp = rb_pad(D), Sp = rb_pad(k->op->t[3].shape[1]);
    int64_t seen = k->op->i[0] + t + rows, padded = rb_pad(seen);
    float rest[RB_MR], *l = (float *)lse->data + k->b * lse->stride[0] + h * lse->stride[1] + t;
    rb_strided a = {rb_head_row(q, k->b, t, h), q->stride[1], 1}, p = {k->scores, Sp, 1};
    rb_strip_panels(rows, padded, D, &a, k->kt, k->scores, Sp, false);
    for (int64_t r = 0; r < rows; r++)
        rest[r] = softmax_row(k->scores + r * Sp, seen - rows + r + 1, padded, k->op->f[0], l + r);
    rb_strip(rows, Dp, seen, &p, k->v, Dp, k->out, Dp, false);
    for (int64_t r = 0; r < rows; r++)
        rb_copy_rows(rb_head_row(out, k->b, t + r, h), 0, k->out + r * Dp, 0, 1, D, rest[r], false);
}

static void forward_task(const task *k) {
    const rb_view *q = &k->op->t[2], *key = &k->op->t[3], *value = &k->op->t[4];
    int64_t D = q->shape[3], group = q->shape[2] / key->shape[2], seen = k->op->i[0] + k->last;
    rb_pack_panels(k->kt, rb_head_row(key, k->b, 0, k->g), key->stride[1], seen, D);
    rb_copy_rows(k->v, rb_pad(D), rb_head_row(value, k->b, 0, k->g), value->stride[1], seen, D, 1, true);
    for (int64_t h = k->g * group; h < (k->g + 1) * group; h++)
        for (int64_t t = k->first; t < k->last; t += RB_MR)
            forward_strip(k, h, t, k->last - t < RB_MR ? k->last - t : RB_MR);
}

resbm_status RB_ISA_NAME(rb_cpu_attention_forward)(rb_queue *q, const rb_op *op, rb_err *err) {
    int64_t B = op->t[2].shape[0], T = op->t[2].shape[1], D = op->t[2].shape[3];
    int64_t S = op->t[3].shape[1], G = op->t[3].shape[2], Dp = rb_pad(D), Sp = rb_pad(S);
    int64_t runs = B * G >= TASKS ? 1 : (TASKS + B * G - 1) / (B * G);
    int64_t length = ((T + runs - 1) / runs + RB_MR - 1) / RB_MR * RB_MR;
    runs = (T + length - 1) / length;
    int64_t kt = rb_panel_floats(S, D), each = kt + S * Dp + RB_MR * (Sp + Dp);
    void *memory;
    RB_TRY(rb_cpu_scratch(q, (size_t)(each * q->dev->opt.threads) * sizeof(float), &memory, err));
#pragma omp parallel for num_threads(q->dev->opt.threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < B * G * runs; i++) {
        int64_t first = i % runs * length, head = i / runs;
        float *m = (float *)memory + rb_thread_number() * each;
        task k = {op,
                  head / G,
                  head % G,
                  first,
                  first + length < T ? first + length : T,
                  m,
                  m + kt,
                  m + kt + S * Dp,
                  m + kt + S * Dp + RB_MR * Sp};
        forward_task(&k);
    }
    return RESBM_OK;
}
