/* C = alpha op(A) op(A)^T + beta C by strips of rows: each strip's product ends at the diagonal, and what is below the
 * diagonal is mirrored by whoever computed it. At 16 strips the products are 17/32 of the whole one.
 *
 *     +--+              strips of TILE rows, the longest first; cut by the shape alone
 *     |__|__
 *     |_____|__
 *     |________|
 */
#include <dnnl.h>
#include "device/cpu/cpu.h"
#include "device/cpu/panels.h"
#include "device/cpu/sgemm.h"

enum { TILE = 64 };

typedef struct call {
    const float *a;
    float *c, *panels; /* one for each thread */
    int64_t M, K, lda, ldc;
    bool ta;
    float alpha, beta;
} call;

/* Rows [from, from + m) of C up to the diagonal's square, included. */
static int multiply(const call *s, int64_t from, int64_t m, float *panels) {
    float *c = s->c + from * s->ldc;
    const float *a = s->a + (s->ta ? from : from * s->lda);
    return rb_cpu_sgemm(panels, s->ta, !s->ta, m, from + m, s->K, s->alpha, a, s->lda, s->a, s->lda, s->beta,
                        c, s->ldc);
}

static void mirror(const call *s, int64_t from, int64_t m) {
    float *c = s->c;
    rb_cpu_transpose(c + from, s->ldc, c + from * s->ldc, s->ldc, m, from);
    for (int64_t i = from; i < from + m; i++)
        for (int64_t j = from; j < i; j++) c[j * s->ldc + i] = c[i * s->ldc + j];
}

static int run(const call *s, int threads) {
    int64_t strips = (s->M + TILE - 1) / TILE;
    int worst = dnnl_success;
    (void)threads;
#pragma omp parallel num_threads(threads) if (strips > 1 && s->M * s->M * s->K > RB_SPAWN_PRODUCTS)
    {
        rb_sgemm_one_thread();
        float *panels = s->panels + (int64_t)rb_thread_number() * RB_PANELS;
#pragma omp for schedule(dynamic, 1) reduction(max : worst)
        for (int64_t i = strips - 1; i >= 0; i--) {
            int64_t from = i * TILE, m = rb_least(TILE, s->M - from);
            int st = multiply(s, from, m, panels);
            if (st > worst) worst = st;
            mirror(s, from, m);
        }
    }
    return worst;
}

resbm_status rb_cpu_syrk(rb_queue *q, const rb_op *op, rb_err *err) {
    const rb_view *c = &op->t[0], *a = &op->t[1];
    bool ta = op->i[0] != 0;
    call s = {.a = a->data,
              .c = c->data,
              .M = c->shape[0],
              .K = a->shape[!ta],
              .lda = a->stride[0],
              .ldc = c->stride[0],
              .ta = ta,
              .alpha = op->f[0],
              .beta = op->f[1]};
    RB_TRY(rb_cpu_take_panels(q, &s.panels, err));
    int st = run(&s, q->dev->opt.threads);
    if (st == dnnl_success) return RESBM_OK;
    return rb_fail(err, st == dnnl_out_of_memory ? RESBM_E_MEMORY : RESBM_E_INTERNAL,
                   "syrk: oneDNN returned status %d for a square of %lldx%lld", st, (long long)s.M,
                   (long long)s.K);
}
