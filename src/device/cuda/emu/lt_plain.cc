/* Products of the emulation: factors as rounded before, sums in f32. */
#include <stdlib.h>
#include <new>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/lt.h"

struct rb_lt {
    int unused;
};

resbm_status rb_lt_open(rb_cuda_device *, rb_lt **out, rb_err *err) {
    *out = new (std::nothrow) rb_lt();
    return *out ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
}
size_t rb_lt_working(void) {
    return 0;
}
void rb_lt_close(rb_lt *lt) {
    delete lt;
}

/* TF32 keeps 10 bits behind the leading one. */
static float tf32_of(float x) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7f800000u) == 0x7f800000u) return x;
    return __uint_as_float((u + 0xfffu + (u >> 13 & 1u)) & 0xffffe000u);
}

static float factor(const rb_lt_product *p, const void *m, int64_t at) {
    if (p->math == RB_MATH_F32) return ((const float *)m)[at];
    return p->math == RB_MATH_TF32 ? tf32_of(((const float *)m)[at])
                                   : emu_half_value(((const uint16_t *)m)[at]);
}

static float got(const rb_lt_product *p, int64_t at) {
    return p->c_half ? rb_bf16_to_f32(((const uint16_t *)p->e)[at]) : ((const float *)p->e)[at];
}
static void put(const rb_lt_product *p, int64_t at, float v) {
    if (p->c_half)
        ((uint16_t *)p->c)[at] = rb_bf16_from_f32(v);
    else
        ((float *)p->c)[at] = v;
}

static void multiply(const rb_lt_product *p) {
    float alpha = p->scalars ? p->scalars[0] : p->alpha, beta = p->scalars ? p->scalars[1] : p->beta;
    float *b = (float *)malloc((size_t)(p->n * p->k) * sizeof *b); /* (n,k) */
    for (int64_t j = 0; j < p->n; j++)
        for (int64_t k = 0; k < p->k; k++)
            b[j * p->k + k] = factor(p, p->b, p->tb ? j * p->ldb + k : k * p->ldb + j);
    float *a = (float *)malloc((size_t)p->k * sizeof *a);
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t k = 0; k < p->k; k++) a[k] = factor(p, p->a, p->ta ? k * p->lda + i : i * p->lda + k);
        for (int64_t j = 0; j < p->n; j++) {
            float sum[8] = {0};
            int64_t at = i * p->ldc + j;
            for (int64_t k = 0; k < p->k; k++) sum[k % 8] += a[k] * b[j * p->k + k];
            float all = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
            put(p, at, beta == 0 ? alpha * all : alpha * all + beta * got(p, i * p->lde + j));
        }
    }
    free(a);
    free(b);
}

resbm_status rb_lt_run(rb_lt *, rb_cuda_queue *q, const rb_lt_product *p, rb_err *) {
    rb_lt_product copy = *p;
    bool f16 = p->math == RB_MATH_F16;
    emu_enqueue(q->stream, [=] {
        emu_f16 = f16;
        multiply(&copy);
    });
    return RESBM_OK;
}
