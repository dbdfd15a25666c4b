/* Inside the CUDA plugin: its device and queue, and every slot. The sources compile for the GPU with nvcc and, for
 * tests, for the host with the emulation (rt.h). */
#ifndef RB_DEVICE_CUDA_CUDA_H
#define RB_DEVICE_CUDA_CUDA_H

extern "C" {
#include "core/bytes.h"
#include "device/device.h"
#include "device/view.h"
}
#include "device/cuda/rt.h"

struct rb_lt; /* what products are handed to (lt.h) */

struct rb_cuda_device {
    rb_device base;
    rb_device_table table; /* base.table points here */
    int index, major, minor;
    rb_math math;
    char name[96];
    size_t total;
    rb_lt *lt;
    struct rb_sdpa *sdpa;            /* attention by a library (sdpa.h); NULL: own kernels alone */
    struct rb_cuda_choices *choices; /* which of the two is faster (attention.h); NULL: always the library */
    char attention[256];             /* whose attention, for people; empty: own, as asked for */
    struct rb_cuda_blocks *blocks;   /* what alloc handed out */
    struct rb_cuda_profile *profile; /* where time goes (profile.h); NULL: nobody asked */
};

/* The first thing a kernel found wrong with what it was given. It lies in the device's memory; the host reads a copy
 * with each event. */
enum rb_cuda_fault_kind {
    RB_FAULT_NONE,
    RB_FAULT_ID,
    RB_FAULT_TARGET,
    RB_FAULT_STEP,
    RB_FAULT_VALUE,
    RB_FAULT_PICK
};
struct rb_cuda_fault {
    int kind, op;
    long long at, range;
    double value;
};

/* What lies in the device's memory for a queue. */
struct rb_cuda_state {
    rb_cuda_fault fault;
    unsigned done; /* blocks of the running kernel; 0 between kernels */
};

enum { RB_CUDA_SCRATCH = 3 };

struct rb_cuda_queue {
    rb_queue base;
    cudaStream_t stream;
    int index; /* the card */
    bool f16;  /* the 16-bit numbers of the tensor cores */
    struct rb_cuda_transfers *transfers;
    void *scratch[RB_CUDA_SCRATCH];
    size_t scratch_bytes[RB_CUDA_SCRATCH];
    rb_cuda_state *state;
    rb_cuda_fault *fault; /* its fault */
};

static inline rb_cuda_device *rb_cuda_of(rb_queue *q) {
    return (rb_cuda_device *)q->dev;
}
static inline rb_cuda_queue *rb_cuda_queue_of(rb_queue *q) {
    return (rb_cuda_queue *)q;
}

/* An error of the runtime as a status; `what` was being done. */
resbm_status rb_cuda_status(cudaError_t e, const char *what, rb_err *err);
#define RB_CUDA_TRY(call, what, err) RB_TRY(rb_cuda_status((call), (what), (err)))
/* After launches: the one that could not be made. */
static inline resbm_status rb_cuda_launched(const rb_op *op, rb_err *err) {
    return rb_cuda_status(cudaGetLastError(), rb_op_info(op->kind)->name, err);
}

/* Working memory of the queue's kernels, used in queue order; `which`: of RB_CUDA_SCRATCH that are apart: rounded
 * factors, cuBLASLt's own, widened ones. */
resbm_status rb_cuda_scratch(rb_queue *q, int which, size_t bytes, void **out, rb_err *err);

/* transfer.cu: copies through pinned memory, events */
resbm_status rb_cuda_transfers_open(rb_cuda_queue *q, rb_err *err);
void rb_cuda_transfers_close(rb_cuda_queue *q);
resbm_status rb_cuda_upload(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err);
resbm_status rb_cuda_download(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err);
resbm_status rb_cuda_event_record(rb_queue *q, rb_event *out, rb_err *err);
resbm_status rb_cuda_event_wait(rb_queue *q, rb_event e, rb_err *err);
resbm_status rb_cuda_queue_after(rb_queue *q, rb_queue *of, rb_event e, rb_err *err);

/* code.cu: the compute capability, as 86, that the kernels which the chosen card would run were compiled for (as PTX, where
 * that is what it has to take); an error where there are none for it. */
cudaError_t rb_cuda_code(int *made_for);

/* Fills in the kernels of a table (slots.cu). */
void rb_cuda_slots(rb_device_table *t);

#define RB_CUDA_SLOT(name) resbm_status rb_cuda_##name(rb_queue *q, const rb_op *op, rb_err *err)
RB_CUDA_SLOT(fill);
RB_CUDA_SLOT(axpby);
RB_CUDA_SLOT(gemm);
RB_CUDA_SLOT(syrk);
RB_CUDA_SLOT(embed_forward);
RB_CUDA_SLOT(embed_backward);
RB_CUDA_SLOT(rmsnorm_forward);
RB_CUDA_SLOT(rmsnorm_backward_x);
RB_CUDA_SLOT(rmsnorm_backward_w);
RB_CUDA_SLOT(rope);
RB_CUDA_SLOT(attention);
RB_CUDA_SLOT(swiglu_forward);
RB_CUDA_SLOT(swiglu_backward);
RB_CUDA_SLOT(silu_forward);
RB_CUDA_SLOT(silu_backward);
RB_CUDA_SLOT(xent);
RB_CUDA_SLOT(sum);
RB_CUDA_SLOT(sumsq);
RB_CUDA_SLOT(normalize);
RB_CUDA_SLOT(adamw);
RB_CUDA_SLOT(muon_momentum);
RB_CUDA_SLOT(pack);
RB_CUDA_SLOT(unpack);
RB_CUDA_SLOT(code_stats);
RB_CUDA_SLOT(topk);
RB_CUDA_SLOT(scatter);

#ifdef RB_FOR_KERNELS
/* Two numbers in bf16 on every card, the first in the low half. */
static __device__ __forceinline__ uint32_t rb_bf16_pair(float lo, float hi) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return rb_half2(lo, hi); /* which are bf16 there */
#else
    return rb_bf16_from_f32(lo) | (uint32_t)rb_bf16_from_f32(hi) << 16;
#endif
}

/* A row in memory, f32 or bf16. */
struct rb_cells {
    void *at;
    bool half;
    __device__ __forceinline__ float get(int64_t i) const {
        return half ? rb_bf16_to_f32(((const uint16_t *)at)[i]) : ((const float *)at)[i];
    }
    __device__ __forceinline__ void put(int64_t i, float v) const {
        if (half)
            ((uint16_t *)at)[i] = rb_bf16_from_f32(v);
        else
            ((float *)at)[i] = v;
    }
};
static __device__ __forceinline__ rb_cells rb_cells_at(const rb_view &v, int64_t offset) {
    bool half = v.dtype == RB_BF16;
    return rb_cells{(char *)v.data + offset * (half ? 2 : 4), half};
}
/* Row (b, t, h) of a (B,T,H,D) view. */
static __device__ __forceinline__ rb_cells rb_cells_of_head(const rb_view &v, int64_t b, int64_t t,
                                                            int64_t h) {
    return rb_cells_at(v, b * v.stride[0] + t * v.stride[1] + h * v.stride[2]);
}

/* The first fault stays. */
static __device__ __forceinline__ void rb_cuda_report(rb_cuda_fault *f, rb_cuda_fault what) {
    if (atomicCAS(&f->kind, RB_FAULT_NONE, what.kind) == RB_FAULT_NONE) {
        f->op = what.op;
        f->at = what.at;
        f->range = what.range;
        f->value = what.value;
    }
}
#endif

/* A view as few dimensions as describe it: one where it has no gaps, two where its rows are evenly apart. */
static inline rb_view rb_cuda_simplest(rb_view v) {
    if (rb_is_flat(&v)) {
        v.shape[0] = rb_count(v);
        v.rank = 1;
        v.stride[0] = 1;
        return v;
    }
    int64_t rows = rb_row_count(&v), width = rb_row_width(&v), gap = width, next = 0;
    for (int i = v.rank - 2; i >= 0; i--) {
        if (v.shape[i] == 1) continue;
        if (next && v.stride[i] != next) return v;
        if (!next) gap = v.stride[i];
        next = v.stride[i] * v.shape[i];
    }
    v.rank = 2;
    v.shape[0] = rows, v.shape[1] = width;
    v.stride[0] = gap, v.stride[1] = 1;
    return v;
}
/* The same for views walked together, which must keep the same shape. */
static inline void rb_cuda_simplify(rb_view *v, int n) {
    rb_view s[RB_MAX_VIEWS];
    bool alike = true;
    for (int i = 0; i < n; i++) {
        s[i] = rb_cuda_simplest(v[i]);
        alike = alike && s[i].rank == s[0].rank;
    }
    for (int i = 0; alike && i < n; i++) v[i] = s[i];
    if (alike || v[0].rank <= 2) return;
    bool two = true; /* some flat, some with gaps: rows of two dimensions if all can be that */
    for (int i = 0; i < n; i++) two = two && s[i].rank <= 2;
    for (int i = 0; two && i < n; i++) {
        int64_t rows = rb_row_count(&v[i]), width = rb_row_width(&v[i]);
        int64_t gap = s[i].rank == 1 ? width : s[i].stride[0];
        v[i].rank = 2;
        v[i].shape[0] = rows, v[i].shape[1] = width;
        v[i].stride[0] = gap, v[i].stride[1] = 1;
    }
}

#endif
