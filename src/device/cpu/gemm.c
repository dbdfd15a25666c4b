#include <dnnl.h>
#include <string.h>
#include "device/cpu/cpu.h"
#include "device/cpu/panels.h"
#include "device/cpu/sgemm.h"

/* The cut of C (M,N) into tiles, from its shape alone: about PIECES row tiles, and column tiles where the
 * rows are too few to share out. Row tiles of 8 and column tiles of 48 rows fit oneDNN's AVX-512 kernel. */
typedef struct cut {
    int64_t rows, cols, row_tiles, col_tiles;
} cut;

enum { PIECES = 8, ROW_UNIT = 8, COL_UNIT = 48, MIN_ROWS = 64, MIN_COLS = 192 };

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static int64_t round_up(int64_t a, int64_t b) {
    return ceil_div(a, b) * b;
}

static cut cut_of(int64_t M, int64_t N) {
    cut c;
    c.rows = round_up(ceil_div(M, PIECES), ROW_UNIT);
    if (c.rows < MIN_ROWS) c.rows = MIN_ROWS;
    c.row_tiles = ceil_div(M, c.rows);
    c.cols = round_up(ceil_div(N, ceil_div(PIECES, c.row_tiles)), COL_UNIT);
    if (c.cols < MIN_COLS) c.cols = MIN_COLS;
    c.col_tiles = ceil_div(N, c.cols);
    return c;
}

/* oneDNN adds to what is there. */
static void put_addend(const rb_op *op, int64_t i, int64_t j, int64_t m, int64_t n) {
    const rb_view *c = &op->t[0], *e = &op->t[3];
    if (!e->data || op->f[1] == 0) return;
    for (int64_t r = i; r < i + m; r++)
        memcpy((float *)c->data + r * c->stride[0] + j, (const float *)e->data + r * e->stride[0] + j,
               (size_t)n * sizeof(float));
}

static int run_tile(const rb_op *op, const cut *t, int64_t tile, float *panels) {
    const rb_view *c = &op->t[0], *a = &op->t[1], *b = &op->t[2];
    bool ta = op->i[0], tb = op->i[1];
    int64_t K = a->shape[!ta], i = tile % t->row_tiles * t->rows, j = tile / t->row_tiles * t->cols;
    int64_t m = c->shape[0] - i < t->rows ? c->shape[0] - i : t->rows;
    int64_t n = c->shape[1] - j < t->cols ? c->shape[1] - j : t->cols;
    const float *pa = (const float *)a->data + (ta ? i : i * a->stride[0]);
    const float *pb = (const float *)b->data + (tb ? j * b->stride[0] : j);
    float *pc = (float *)c->data + i * c->stride[0] + j;
    put_addend(op, i, j, m, n);
    return rb_cpu_sgemm(panels, ta, tb, m, n, K, op->f[0], pa, a->stride[0], pb, b->stride[0], op->f[1], pc,
                        c->stride[0]);
}

resbm_status rb_cpu_gemm(rb_queue *q, const rb_op *op, rb_err *err) {
    const rb_view *c = &op->t[0];
    float *memory;
    RB_TRY(rb_cpu_take_panels(q, &memory, err));
    cut t = cut_of(c->shape[0], c->shape[1]);
    int64_t tiles = t.row_tiles * t.col_tiles, work = c->shape[0] * c->shape[1] * op->t[1].shape[!op->i[0]];
    (void)work;
    int worst = dnnl_success;
#pragma omp parallel num_threads(q->dev->opt.threads) if (tiles > 1 && work > RB_SPAWN_PRODUCTS)
    {
        rb_sgemm_one_thread();
        float *panels = memory + (int64_t)rb_thread_number() * RB_PANELS;
#pragma omp for schedule(dynamic, 1) reduction(max : worst)
        for (int64_t i = 0; i < tiles; i++) {
            int st = run_tile(op, &t, i, panels);
            if (st > worst) worst = st;
        }
    }
    if (worst == dnnl_success) return RESBM_OK;
    return rb_fail(err, worst == dnnl_out_of_memory ? RESBM_E_MEMORY : RESBM_E_INTERNAL,
                   "gemm: oneDNN returned status %d for a product of %lldx%lld", worst,
                   (long long)c->shape[0], (long long)c->shape[1]);
}
