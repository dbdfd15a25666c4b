/* Products. What of the factors is f32 in memory is rounded into working memory first where products are in bf16 or f16; what is
 * in bf16 already (copies of weights, activations) is taken as it is. f16's range is
 * small: each operand is scaled by a power of two that puts its largest size just below 2^8, and alpha takes the two
 * powers back, exactly. Nothing overflows and no step has to be thrown away, as with one scale for the whole loss. */
#include "device/cuda/each.h"
#include "device/cuda/lt.h"
#include "device/cuda/wide.h"

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
    for (int j = 0; j < 4; j++) count += is_half(&op->t[j]) ? rb_count(op->t[j]) : 0;
    RB_TRY(rb_cuda_scratch(q, 2, (size_t)count * sizeof *room, (void **)&room, err));
    for (int j = 0; j < 4; j++) {
        bool factor = j == 1 || j == 2, added = j == (op->t[3].data ? 3 : 0) && op->f[1] != 0;
        if (!is_half(&op->t[j])) continue;
        wide.t[j] = rb_view2(room, RB_F32, op->t[j].shape[0], op->t[j].shape[1]);
        room += rb_count(op->t[j]);
        if (factor || added) RB_TRY(copy(q, wide.t[j], op->t[j], err));
    }
    RB_TRY(rb_cuda_gemm(q, &wide, err));
    return is_half(&op->t[0]) ? copy(q, op->t[0], wide.t[0], err) : RESBM_OK;
}

/* The same of f32 whose rows are whole eights at 16 bytes: a thread reads two vectors and writes one. `gap`: what
 * lies between two rows. */
__global__ void __launch_bounds__(ROUND_THREADS) round_eights(const float *x, uint16_t *out, int64_t eights,
                                                              uint32_t per_row, int64_t gap,
                                                              const operand_scale *scale) {
    int64_t at = (int64_t)blockIdx.x * ROUND_THREADS + threadIdx.x;
    if (at >= eights) return;
    const float *from = x + at * ROUND_WIDTH + (gap ? (uint32_t)at / per_row * gap : 0);
    float4 a = ((const float4 *)from)[0], b = ((const float4 *)from)[1];
    float power = scale ? power_for(scale->most) : 1.0f; /* times 1 is what it was, NaN too */
    ((uint4 *)out)[at] =
        make_uint4(rb_half2(a.x * power, a.y * power), rb_half2(a.z * power, a.w * power),
                   rb_half2(b.x * power, b.y * power), rb_half2(b.z * power, b.w * power));
}

static bool in_eights(const rb_view *x) {
    return x->dtype == RB_F32 && x->shape[1] % ROUND_WIDTH == 0 && x->stride[0] % 4 == 0 &&
           (uintptr_t)x->data % 16 == 0 && rb_count(*x) / ROUND_WIDTH <= RB_MOST_IN_32_BITS;
}

/* x rounded at `out`, its rows padded(width) apart. */
static void round_to(rb_queue *q, const rb_view *x, uint16_t *out, operand_scale *scale) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    unsigned blocks = x->shape[0] < 1024 ? (unsigned)x->shape[0] : 1024u;
    if (scale) RB_LAUNCH(c, find_most, blocks, ROUND_THREADS, scale, *x);
    if (in_eights(x)) {
        int64_t eights = rb_count(*x) / ROUND_WIDTH;
        int64_t gap = x->shape[0] > 1 ? x->stride[0] - x->shape[1] : 0;
        RB_LAUNCH(c, round_eights, (unsigned)((eights + ROUND_THREADS - 1) / ROUND_THREADS), ROUND_THREADS,
                  (const float *)x->data, out, eights, (uint32_t)(x->shape[1] / ROUND_WIDTH), gap,
                  (const operand_scale *)scale);
    } else
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

/* A square's factors are one matrix. */
static bool is_same(const rb_view *a, const rb_view *b) {
    return a->data == b->data && a->dtype == b->dtype && a->shape[0] == b->shape[0] &&
           a->shape[1] == b->shape[1] && a->stride[0] == b->stride[0];
}

static resbm_status run_rounded(rb_queue *q, const rb_op *op, rb_lt_product *p, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    const rb_view *a = &op->t[1], *b = &op->t[2];
    bool same = is_same(a, b), scaled = p->math == RB_MATH_F16;
    size_t head = 256, bytes_a = rounded_bytes(a);
    char *room;
    RB_TRY(rb_cuda_scratch(q, 0, head + bytes_a + (same ? 0 : rounded_bytes(b)), (void **)&room, err));
    operand_scale *s = (operand_scale *)room;
    float *scalars = (float *)(room + 64);
    if (scaled) {
        RB_CUDA_TRY(rb_cuda_choose(c->index), "choosing the card", err);
        RB_CUDA_TRY(cudaMemsetAsync(s, 0, 2 * sizeof *s, c->stream), "gemm", err);
    }
    p->a = round_operand(q, a, (uint16_t *)(room + head), scaled ? &s[0] : NULL, &p->lda);
    if (same)
        p->b = p->a, p->ldb = p->lda;
    else
        p->b = round_operand(q, b, (uint16_t *)(room + head + bytes_a), scaled ? &s[1] : NULL, &p->ldb);
    if (scaled) {
        RB_LAUNCH(c, combine, 1u, RB_WARP, scalars, &s[0], &s[same ? 0 : 1], p->alpha, p->beta);
        p->scalars = scalars;
    }
    RB_TRY(rb_cuda_launched(op, err));
    return rb_lt_run(rb_cuda_of(q)->lt, c, p, err);
}

/* What is added, as the library takes it: of the result's type; else it goes where the result will be. */
static resbm_status find_addend(rb_queue *q, const rb_op *op, rb_lt_product *p, rb_err *err) {
    const rb_view *c = &op->t[0], *e = &op->t[3];
    bool elsewhere = e->data && op->f[1] != 0, as_it_is = elsewhere && e->dtype == c->dtype;
    p->e = as_it_is ? e->data : c->data;
    p->lde = as_it_is ? e->stride[0] : c->stride[0];
    return elsewhere && !as_it_is ? copy(q, *c, *e, err) : RESBM_OK;
}

RB_CUDA_SLOT(gemm) {
    const rb_view *c = &op->t[0], *a = &op->t[1], *b = &op->t[2];
    bool ta = op->i[0] != 0, tb = op->i[1] != 0, halves = is_half(c) || is_half(a) || is_half(b);
    halves = halves || is_half(&op->t[3]);
    rb_math math = rb_cuda_of(q)->math;
    if (halves && math != RB_MATH_BF16) return run_widened(q, op, err);
    rb_lt_product p = {math,     ta,       tb,      c->shape[0],  c->shape[1],  a->shape[ta ? 0 : 1],
                       a->data,  b->data,  c->data, a->stride[0], b->stride[0], c->stride[0],
                       op->f[0], op->f[1], NULL,    is_half(c),    NULL,         0};
    RB_TRY(find_addend(q, op, &p, err));
    bool whole = math == RB_MATH_F32 || math == RB_MATH_TF32;
    return whole ? rb_lt_run(rb_cuda_of(q)->lt, rb_cuda_queue_of(q), &p, err) : run_rounded(q, op, &p, err);
}

enum { TILE = 64, TILE_THREADS = 256, TILE_LANES = TILE / 4, TILE_ROWS = TILE_THREADS / TILE_LANES };

/* Four elements at a time. A store that the compiler leaves whole: beside single ones it cuts an assignment into
 * four. */
#ifdef RB_CUDA_EMULATED
template <class T> static inline void take_four(const T *from, T *v) {
    rb_move<4 * sizeof(T)>(v, from, from);
}
template <class T> static inline void put_four(T *to, const T *v) {
    rb_move<4 * sizeof(T)>(to, v, to);
}
#else
static __device__ __forceinline__ void take_four(const float *from, float *v) {
    float4 x = *(const float4 *)from;
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}
static __device__ __forceinline__ void take_four(const uint16_t *from, uint16_t *v) {
    ushort4 x = *(const ushort4 *)from;
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}
static __device__ __forceinline__ void put_four(float *to, const float *v) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(v[0]),
                 "f"(v[1]), "f"(v[2]), "f"(v[3])
                 : "memory");
}
static __device__ __forceinline__ void put_four(uint16_t *to, const uint16_t *v) {
    asm volatile("st.global.v4.u16 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "h"(v[0]),
                 "h"(v[1]), "h"(v[2]), "h"(v[3])
                 : "memory");
}
#endif

/* The tiles below the diagonal and on it, each to its mirror image, through shared memory: both sides in rows, in vectors where
 * `whole` says that rows begin at a multiple of four elements. T: float, or uint16_t for bf16. */
template <class T>
__global__ void __launch_bounds__(TILE_THREADS) mirror_tiles(T *c, int64_t n, int64_t stride, bool whole) {
    __shared__ T tile[TILE][TILE + 1];
    if (blockIdx.x > blockIdx.y) return;
    int row = (int)threadIdx.x / TILE_LANES, col = (int)threadIdx.x % TILE_LANES * 4;
    int64_t top = (int64_t)blockIdx.y * TILE, left = (int64_t)blockIdx.x * TILE;
    for (int i = row; i < TILE; i += TILE_ROWS) {
        int64_t r = top + i, at = left + col;
        const T *from = c + r * stride + at;
        T v[4] = {0, 0, 0, 0};
        if (r < n && whole && at + 4 <= n)
            take_four(from, v);
        else
            for (int j = 0; j < 4; j++)
                if (r < n && at + j < n) v[j] = from[j];
        for (int j = 0; j < 4; j++) tile[i][col + j] = v[j];
    }
    __syncthreads();
    for (int i = row; i < TILE; i += TILE_ROWS) {
        int64_t r = left + i, at = top + col;
        T *to = c + r * stride + at;
        const T v[4] = {tile[col][i], tile[col + 1][i], tile[col + 2][i], tile[col + 3][i]};
        if (r < n && whole && at > r && at + 4 <= n)
            put_four(to, v);
        else
            for (int j = 0; j < 4; j++)
                if (r < n && at + j < n && at + j > r) to[j] = v[j];
    }
}

template <class T> static void mirror(rb_queue *q, const rb_view *c) {
    unsigned tiles = (unsigned)((c->shape[0] + TILE - 1) / TILE);
    bool vectors = c->stride[0] % 4 == 0 && (uintptr_t)c->data % (4 * sizeof(T)) == 0;
    auto kernel = mirror_tiles<T>;
    RB_LAUNCH(rb_cuda_queue_of(q), kernel, dim3(tiles, tiles), TILE_THREADS, (T *)c->data, c->shape[0],
              c->stride[0], vectors);
}

/* The whole product: the library has none of half of it. Its two halves need not be equal to the bit. */
RB_CUDA_SLOT(syrk) {
    rb_op whole = *op;
    whole.kind = RB_OP_GEMM;
    whole.t[2] = op->t[1];
    whole.t[3] = rb_none();
    whole.i[1] = !op->i[0];
    RB_TRY(rb_cuda_gemm(q, &whole, err));
    if (is_half(&op->t[0]))
        mirror<uint16_t>(q, &op->t[0]);
    else
        mirror<float>(q, &op->t[0]);
    return rb_cuda_launched(op, err);
}
