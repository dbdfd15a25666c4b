/* Operands of the tensor cores' attention: rows of 16-bit numbers that begin at 16 bytes. What lies so in bf16 is taken where
 * it is; the rest is rounded into working memory first, where a row has zeros up to a multiple of eight. */
#include "device/cuda/attention.h"

enum { HALVES_THREADS = 128 };

/* A block does the heads of one token. */
__global__ void __launch_bounds__(HALVES_THREADS)
    round_heads_of_token(rb_view x, rb_chunk *out, int rows, const float *factor) {
    int token = (int)blockIdx.x, b = token / rows, t = token % rows, D = (int)x.shape[3], per = (D + 7) / 8,
        chunks = (int)x.shape[2] * per;
    float by = factor ? *factor : 1.0f;
    out += (int64_t)token * chunks;
    for (int i = (int)threadIdx.x; i < chunks; i += HALVES_THREADS) {
        float v[8];
        rb_chunk c;
        rb_eight(v, rb_cells_of_head(x, b, t, i / per), i % per * 8, D);
        for (int j = 0; j < 4; j++) c.w[j] = rb_half2(by * v[2 * j], by * v[2 * j + 1]);
        out[i] = c;
    }
}

static bool is_half_rows(rb_queue *q, const rb_view *v) {
    if (rb_cuda_queue_of(q)->f16 || v->dtype != RB_BF16 || v->shape[3] % 8 || (uintptr_t)v->data % 16)
        return false;
    for (int i = 0; i < 3; i++)
        if (v->shape[i] > 1 && v->stride[i] % 8) return false;
    return true;
}

size_t rb_cuda_half_bytes(rb_queue *q, const rb_view *v, int64_t rows) {
    if (is_half_rows(q, v)) return 0;
    return (size_t)(v->shape[0] * rows * v->shape[2] * ((v->shape[3] + 7) / 8)) * sizeof(rb_chunk);
}

rb_half_heads rb_cuda_halves(rb_queue *q, const rb_view *v, int64_t rows, const float *factor, char **room) {
    int width = (int)(v->shape[3] + 7) / 8 * 8;
    if (is_half_rows(q, v))
        return {(const uint16_t *)v->data, v->stride[0], v->stride[1], v->stride[2], width};
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    rb_chunk *to = (rb_chunk *)*room;
    *room += rb_cuda_half_bytes(q, v, rows);
    RB_LAUNCH(c, round_heads_of_token, (unsigned)(v->shape[0] * rows), HALVES_THREADS, *v, to, (int)rows,
              factor);
    return {(const uint16_t *)to, rows * v->shape[2] * width, v->shape[2] * width, width, width};
}
