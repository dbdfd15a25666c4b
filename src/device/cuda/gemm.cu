/* Products. What of the factors is f32 in memory is rounded into working memory first where products are in bf16 or f16; what is
 * in bf16 already (copies of weights, activations) is taken as it is. f16's range is
 * small: each operand is scaled by a power of two that puts its largest size just below 2^8, and alpha takes the two
 * powers back, exactly. Nothing overflows and no step has to be thrown away, as with one scale for the whole loss. */
#include "device/cuda/each.h"
#include "device/cuda/lt.h"

enum { ROUND_THREADS = 256, ROUND_WIDTH = 8 /* rows of 16-bit operands begin at 16 bytes */ };

/* What the kernels know of an operand on the device. */
struct operand_scale {
    unsigned most; /* bits of its largest size */
};

__global__ void __launch_bounds__(ROUND_THREADS) find_most(operand_scale *s, rb_view x) {
    int64_t rows = rb_row_count(&x), width = rb_row_width(&x);
    unsigned most = 0;
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x)
        for (int64_t i = threadIdx.x; i < width; i += ROUND_THREADS) {
            unsigned size = __float_as_uint(*rb_f32(x, r, i)) & 0x7fffffffu;
            most = size > most ? size : most;
        }
    for (int o = RB_WARP / 2; o; o /= 2) {
        unsigned other = __shfl_xor_sync(RB_ALL_LANES, most, o);
        most = other > most ? other : most;
    }
    if (threadIdx.x % RB_WARP == 0) atomicMax(&s->most, most); /* whole numbers: any order gives the same */
}

/* The power of two that brings sizes up to `most` below 2^8; 1 where there is nothing to bring, or no number. */
static __device__ __forceinline__ float power_for(unsigned most) {
    int e = (int)(most >> 23);
    if (e == 0 || e == 255) return 1.0f;
    e = 127 + 7 - (e - 127);
    return __uint_as_float((unsigned)(e > 253 ? 253 : e) << 23);
}

struct round_to_half {
    rb_view x;
    uint16_t *out;
    int64_t stride;
    const operand_scale *scale; /* NULL: as it is */
    __device__ void operator()(int64_t r, int64_t i) const {
        float v = rb_get(x, r, i);
        if (scale) v *= power_for(scale->most);
        out[r * stride + i] = rb_half1(v);
    }
};

__global__ void combine(float *scalars, const operand_scale *a, const operand_scale *b, float alpha,
                        float beta) {
    if (threadIdx.x) return;
    scalars[0] = alpha / power_for(a->most) / power_for(b->most);
    scalars[1] = beta;
}

static int64_t padded(int64_t n) {
    return (n + ROUND_WIDTH - 1) / ROUND_WIDTH * ROUND_WIDTH;
}

static bool is_half(const rb_view *v) {
    return v->dtype == RB_BF16;
}

static resbm_status copy(rb_queue *q, const rb_view &to, const rb_view &from, rb_err *err) {
    rb_op op = rb_op();
    op.kind = RB_OP_AXPBY;
    op.t[0] = to, op.t[1] = from;
    op.f[0] = 1;
    return rb_cuda_axpby(q, &op, err);
}

/* For products that do not round to bf16: operands in bf16 as f32 in working memory, and the result rounded from there. */
static resbm_status run_widened(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_op wide = *op;
    int64_t count = 0;
    float *room;
    for (int j = 0; j < 3; j++) count += is_half(&op->t[j]) ? rb_count(op->t[j]) : 0;
    RB_TRY(rb_cuda_scratch(q, 2, (size_t)count * sizeof *room, (void **)&room, err));
    for (int j = 0; j < 3; j++) {
        if (!is_half(&op->t[j])) continue;
        wide.t[j] = rb_view2(room, RB_F32, op->t[j].shape[0], op->t[j].shape[1]);
        room += rb_count(op->t[j]);
        if (j > 0 || op->f[1] != 0) RB_TRY(copy(q, wide.t[j], op->t[j], err));
    }
    RB_TRY(rb_cuda_gemm(q, &wide, err));
    return is_half(&op->t[0]) ? copy(q, op->t[0], wide.t[0], err) : RESBM_OK;
}

/* x rounded at `out`, its rows padded(width) apart. */
static void round_to(rb_queue *q, const rb_view *x, uint16_t *out, operand_scale *scale) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    unsigned blocks = x->shape[0] < 1024 ? (unsigned)x->shape[0] : 1024u;
    if (scale) RB_LAUNCH(c, find_most, blocks, ROUND_THREADS, scale, *x);
    rb_each(q, x, round_to_half{*x, out, padded(x->shape[1]), scale});
}

/* In bf16, and its rows begin at 16 bytes, as products are fastest with. */
static bool is_ready(const rb_view *x) {
    return is_half(x) && x->stride[0] % ROUND_WIDTH == 0 && (uintptr_t)x->data % 16 == 0;
}
static size_t rounded_bytes(const rb_view *x) {
    return is_ready(x) ? 0 : ((size_t)(padded(x->shape[1]) * x->shape[0]) * 2 + 255) / 256 * 256;
}

/* Where x is in 16 bits: as it lies, or rounded at `out`; *ld: from row to row. */
static const void *round_operand(rb_queue *q, const rb_view *x, uint16_t *out, operand_scale *scale,
                                 int64_t *ld) {
    *ld = is_ready(x) ? x->stride[0] : padded(x->shape[1]);
    if (is_ready(x)) return x->data;
    round_to(q, x, out, scale);
    return out;
}

static resbm_status run_rounded(rb_queue *q, const rb_op *op, rb_lt_product *p, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    const rb_view *a = &op->t[1], *b = &op->t[2];
    size_t head = 256, bytes_a = rounded_bytes(a);
    char *room;
    RB_TRY(rb_cuda_scratch(q, 0, head + bytes_a + rounded_bytes(b), (void **)&room, err));
    bool scaled = p->math == RB_MATH_F16;
    operand_scale *s = (operand_scale *)room;
    float *scalars = (float *)(room + 64);
    if (scaled) RB_CUDA_TRY(cudaMemsetAsync(s, 0, 2 * sizeof *s, c->stream), "gemm", err);
    p->a = round_operand(q, a, (uint16_t *)(room + head), scaled ? &s[0] : NULL, &p->lda);
    p->b = round_operand(q, b, (uint16_t *)(room + head + bytes_a), scaled ? &s[1] : NULL, &p->ldb);
    if (scaled) {
        RB_LAUNCH(c, combine, 1u, RB_WARP, scalars, &s[0], &s[1], p->alpha, p->beta);
        p->scalars = scalars;
    }
    RB_TRY(rb_cuda_launched(op, err));
    return rb_lt_run(rb_cuda_of(q)->lt, c, p, err);
}

RB_CUDA_SLOT(gemm) {
    const rb_view *c = &op->t[0], *a = &op->t[1], *b = &op->t[2];
    bool ta = op->i[0] != 0, tb = op->i[1] != 0, halves = is_half(c) || is_half(a) || is_half(b);
    rb_math math = rb_cuda_of(q)->math;
    if (halves && math != RB_MATH_BF16) return run_widened(q, op, err);
    rb_lt_product p = {math,     ta,       tb,      c->shape[0],  c->shape[1],  a->shape[ta ? 0 : 1],
                       a->data,  b->data,  c->data, a->stride[0], b->stride[0], c->stride[0],
                       op->f[0], op->f[1], NULL,    is_half(c)};
    bool whole = math == RB_MATH_F32 || math == RB_MATH_TF32;
    return whole ? rb_lt_run(rb_cuda_of(q)->lt, rb_cuda_queue_of(q), &p, err) : run_rounded(q, op, &p, err);
}

struct mirror_down {
    rb_view c;
    __device__ void operator()(int64_t r, int64_t i) const {
        if (i > r) *rb_f32(c, r, i) = *rb_f32(c, i, r);
    }
};

/* The whole product: the library has none of half of it. Its two halves need not be equal to the bit. */
RB_CUDA_SLOT(syrk) {
    rb_op whole = *op;
    whole.kind = RB_OP_GEMM;
    whole.t[2] = op->t[1];
    whole.i[1] = !op->i[0];
    RB_TRY(rb_cuda_gemm(q, &whole, err));
    rb_each(q, &op->t[0], mirror_down{op->t[0]});
    return rb_cuda_launched(op, err);
}
