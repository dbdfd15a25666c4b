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
#include "device/cpu/sgemm.h"

enum {
    TILE = 64,
    PANEL =
        256,    /* columns of op(A) that are laid out at once where A is transposed: they stay in the cache */
    BLOCK = 16, /* side of what is transposed at once: a cache line of floats */
    SPAWN_PRODUCTS = 1 << 18
};

typedef struct call {
    const float *a;
    float *c, *panels; /* one of TILE * PANEL for each thread */
    int64_t M, K, lda, ldc;
    bool ta;
    float alpha, beta;
} call;

static inline int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* dst (columns, rows) = src (rows, columns) transposed. */
static void transpose(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t columns) {
    for (int64_t i0 = 0; i0 < rows; i0 += BLOCK)
        for (int64_t j0 = 0; j0 < columns; j0 += BLOCK) {
            int64_t i1 = least(i0 + BLOCK, rows), j1 = least(j0 + BLOCK, columns);
            for (int64_t j = j0; j < j1; j++)
                for (int64_t i = i0; i < i1; i++) dst[j * ldd + i] = src[i * lds + j];
        }
}

/* Rows [from, from + m) of C up to the diagonal's square, included. A's columns are laid out as rows first: oneDNN takes
 * them at half its speed where the distance of A's rows is a power of two (measured with AVX2, 1024). */
static int multiply(const call *s, int64_t from, int64_t m, float *panel) {
    float *c = s->c + from * s->ldc;
    if (!s->ta)
        return dnnl_sgemm('N', 'T', m, from + m, s->K, s->alpha, s->a + from * s->lda, s->lda, s->a, s->lda,
                          s->beta, c, s->ldc);
    for (int64_t k = 0; k < s->K; k += PANEL) {
        int64_t n = least(PANEL, s->K - k);
        transpose(panel, n, s->a + k * s->lda + from, s->lda, n, m);
        int st = dnnl_sgemm('N', 'N', m, from + m, n, s->alpha, panel, n, s->a + k * s->lda, s->lda,
                            k ? 1 : s->beta, c, s->ldc);
        if (st != dnnl_success) return st;
    }
    return dnnl_success;
}

static void mirror(const call *s, int64_t from, int64_t m) {
    float *c = s->c;
    transpose(c + from, s->ldc, c + from * s->ldc, s->ldc, m, from);
    for (int64_t i = from; i < from + m; i++)
        for (int64_t j = from; j < i; j++) c[j * s->ldc + i] = c[i * s->ldc + j];
}

static int run(const call *s, int threads) {
    int64_t strips = (s->M + TILE - 1) / TILE;
    int worst = dnnl_success;
    (void)threads;
#pragma omp parallel num_threads(threads) if (strips > 1 && s->M * s->M * s->K > SPAWN_PRODUCTS)
    {
        rb_sgemm_one_thread();
        float *panel = s->panels + (int64_t)rb_thread_number() * TILE * PANEL;
#pragma omp for schedule(dynamic, 1) reduction(max : worst)
        for (int64_t i = strips - 1; i >= 0; i--) {
            int64_t from = i * TILE, m = least(TILE, s->M - from);
            int st = multiply(s, from, m, panel);
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
    size_t panels = (size_t)q->dev->opt.threads * TILE * PANEL * sizeof(float);
    RB_TRY(rb_cpu_scratch(q, panels, (void **)&s.panels, err));
    int st = run(&s, q->dev->opt.threads);
    if (st == dnnl_success) return RESBM_OK;
    return rb_fail(err, st == dnnl_out_of_memory ? RESBM_E_MEMORY : RESBM_E_INTERNAL,
                   "syrk: oneDNN returned status %d for a square of %lldx%lld", st, (long long)s.M,
                   (long long)s.K);
}
