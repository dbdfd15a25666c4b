#include "device/cpu/panels.h"

#include <dnnl.h>
#include <string.h>
#include "device/cpu/cpu.h"

enum { BLOCK = 16 /* a cache line of floats */, PANEL_LD = RB_PANEL_COLUMNS + RB_PANEL_GAP };

resbm_status rb_cpu_take_panels(rb_queue *q, float **out, rb_err *err) {
    return rb_cpu_scratch(q, (size_t)q->dev->opt.threads * RB_PANELS * sizeof **out, (void **)out, err);
}

void rb_cpu_transpose(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t columns) {
    for (int64_t i0 = 0; i0 < rows; i0 += BLOCK)
        for (int64_t j0 = 0; j0 < columns; j0 += BLOCK) {
            int64_t i1 = rb_least(i0 + BLOCK, rows), j1 = rb_least(j0 + BLOCK, columns);
            for (int64_t j = j0; j < j1; j++)
                for (int64_t i = i0; i < i1; i++) dst[j * ldd + i] = src[i * lds + j];
        }
}

/* Product of a panel of op(A), `rows` by `depth`, and of B's rows beside it, through panels of B's columns. */
static int by_columns(float *panel, int64_t rows, int64_t n, int64_t depth, float alpha, const float *a,
                      int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    for (int64_t j = 0; j < n; j += RB_PANEL_COLUMNS) {
        int64_t width = rb_least(RB_PANEL_COLUMNS, n - j);
        for (int64_t l = 0; l < depth; l++)
            memcpy(panel + l * PANEL_LD, b + l * ldb + j, (size_t)width * sizeof *b);
        int st =
            (int)dnnl_sgemm('N', 'N', rows, width, depth, alpha, a, lda, panel, PANEL_LD, beta, c + j, ldc);
        if (st != dnnl_success) return st;
    }
    return dnnl_success;
}

static bool helps(bool columns, bool rows_apart, int64_t m, int64_t n, int64_t k) {
    bool copied = 1.0 / (double)m + 1.0 / (double)n < 0.0038,
         enough = m >= 32 && k >= 32; /* use of each copy */
    return (columns || rows_apart) && enough && !copied;
}

int rb_cpu_sgemm(float *panels, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                 int64_t ldc) {
    bool columns = ldb % 512 == 0, rows_apart = ta && (lda >= 1024 || lda % 512 == 0);
    if (tb || !helps(columns, rows_apart, m, n, k))
        return (int)dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    float *panel = panels + RB_PANEL_ROWS * RB_PANEL_DEPTH;
    for (int64_t i = 0; i < m; i += RB_PANEL_ROWS)
        for (int64_t l = 0; l < k; l += RB_PANEL_DEPTH) {
            int64_t rows = rb_least(RB_PANEL_ROWS, m - i), depth = rb_least(RB_PANEL_DEPTH, k - l);
            const float *pa = ta ? panels : a + i * lda + l, *pb = b + l * ldb;
            int64_t ld = ta ? depth : lda;
            float kept = l ? 1 : beta, *pc = c + i * ldc;
            if (ta) rb_cpu_transpose(panels, depth, a + l * lda + i, lda, depth, rows);
            int st = columns
                         ? by_columns(panel, rows, n, depth, alpha, pa, ld, pb, ldb, kept, pc, ldc)
                         : (int)dnnl_sgemm('N', 'N', rows, n, depth, alpha, pa, ld, pb, ldb, kept, pc, ldc);
            if (st != dnnl_success) return st;
        }
    return dnnl_success;
}
