/* The device table: memory, queues and the list of operations everything above is written in.
 *
 * Legend: n rows (tokens), B sequences, T positions, H heads, G key/value heads, D head width, d model width,
 * f feed-forward width, V vocabulary, k latent width.
 *
 * An operation is a record (rb_op): its kind, up to RB_MAX_VIEWS tensor views and a few scalars. Every device
 * runs the same records, so the reference, the vector code, a device that completes late and a GPU plugin are
 * one table each, the conformance suite walks all of them, and a wrapper needs no code per operation.
 * device/ops.h has one typed function per kind; use those, never a raw record.
 *
 * Contract of every kernel:
 *  - it may complete later: results are there after rb_queue_sync() on its queue, and a later operation of
 * the same queue sees them. Operations of one queue complete in order.
 *  - views live in the device's memory; the host must not touch them except through rb_upload/rb_download.
 *  - the record and its views are copied; the memory they point to must stay until the operation completes.
 *  - outputs may not overlap inputs unless ops.h says so.
 *  - results do not depend on the number of threads: reductions are cut into pieces fixed by the shape.
 */
#ifndef RB_DEVICE_DEVICE_H
#define RB_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/err.h"

typedef enum rb_dtype { RB_F32, RB_BF16, RB_I32, RB_U8, RB_F64, RB_I64, RB_DTYPE_COUNT } rb_dtype;

static inline size_t rb_dtype_size(rb_dtype t) {
    static const uint8_t size[RB_DTYPE_COUNT] = {4, 2, 4, 1, 8, 8};
    return size[t];
}

/* A tensor in a device's memory. stride counts elements; the last dimension of every matrix operand must have
 * stride 1. data == NULL with rank 0 is an absent operand. */
typedef struct rb_view {
    void *data;
    rb_dtype dtype;
    int32_t rank; /* 0..4 */
    int64_t shape[4], stride[4];
} rb_view;

#define RB_MAX_VIEWS 9

typedef enum rb_op_kind {
    RB_OP_FILL,
    RB_OP_AXPBY,
    RB_OP_GEMM,
    RB_OP_SYRK,
    RB_OP_EMBED_FWD,
    RB_OP_EMBED_BWD,
    RB_OP_RMSNORM_FWD,
    RB_OP_RMSNORM_BWD_X,
    RB_OP_RMSNORM_BWD_W,
    RB_OP_ROPE,
    RB_OP_ATTN_FWD,
    RB_OP_ATTN_BWD,
    RB_OP_SWIGLU_FWD,
    RB_OP_SWIGLU_BWD,
    RB_OP_SILU_FWD,
    RB_OP_SILU_BWD,
    RB_OP_XENT,
    RB_OP_SUM,
    RB_OP_SUMSQ,
    RB_OP_NORMALIZE,
    RB_OP_ADAMW,
    RB_OP_MUON_MOMENTUM,
    RB_OP_PACK,
    RB_OP_UNPACK,
    RB_OP_CODE_STATS,
    RB_OP_TOPK,
    RB_OP_SCATTER,
    RB_OP_COUNT
} rb_op_kind;

typedef struct rb_op {
    rb_op_kind kind;
    rb_view t[RB_MAX_VIEWS]; /* outputs first; which are outputs: rb_op_info() */
    float f[8];
    int64_t i[6];
    uint64_t key[4];
} rb_op;

/* What a wrapper or a test must know about a kind: name, number of views, and which views are written
 * (bit j of out), of which bit j of inout are read as well; bit j of optional: the view may be absent. */
typedef struct rb_op_desc {
    const char *name;
    int views;
    unsigned out, inout, optional;
} rb_op_desc;
const rb_op_desc *rb_op_info(rb_op_kind kind); /* NULL for a number that is no kind */
/* Name of view `index` of a kind as ops.h calls it ("gate"); "?" where there is none. */
const char *rb_op_view_name(rb_op_kind kind, int index);

typedef struct rb_device rb_device;
typedef struct rb_queue rb_queue;
typedef struct rb_event {
    uint64_t ticket;
} rb_event; /* a point in a queue's order */

typedef resbm_status (*rb_kernel)(rb_queue *q, const rb_op *op, rb_err *err);

/* What products are computed in, whatever operands and results are in memory. */
typedef enum rb_math {
    RB_MATH_AUTO, /* what the device does best: f32 on processors; bf16 on GPUs, f16 on those that have no bf16 */
    RB_MATH_F32,
    RB_MATH_TF32, /* f32 whose factors have 11 bits (how a card comes to them is its own: some round, some cut) */
    RB_MATH_BF16, /* factors rounded to bf16, sums f32 */
    RB_MATH_F16,  /* factors scaled by powers of two into f16's range and rounded to it, sums f32 */
    RB_MATH_COUNT
} rb_math;

/* Whose kernels a GPU takes for attention (docs/cuda.md). */
typedef enum rb_attention {
    RB_ATTENTION_OWN,
    RB_ATTENTION_CUDNN, /* opening fails where it cannot be had */
    RB_ATTENTION_AUTO   /* whichever is faster, per shape, where there are both */
} rb_attention;

typedef struct rb_device_options {
    int threads;        /* compute threads of this stage; >= 1 */
    int index;          /* which accelerator */
    int64_t late_ns;    /* device "late": how long each operation waits before it runs */
    double flops_per_s; /* device "timed": how fast it pretends to be; 0: no time passes */
    rb_math math;
    rb_attention attention; /* a host's devices have only their own */
    /* What follows the colon of a device's name, read during open only; NULL or "" = the best there is. cpu:
     * the instruction set ("cpu:v3"; v2, v3, v4, plain or native as built). late: the device inside
     * ("late:cpu"). cuda: the card's number, "emulated" (tests), or both ("cuda:emulated:1"). */
    const char *variant;
} rb_device_options;

/* One kind of device. cpu starts as a copy of ref's table and overrides slots. rb_device_open refuses a table
 * with a hole and names the slot. */
typedef struct rb_device_table {
    const char *name, *summary;
    bool host_memory; /* the host may use this device's memory as its own, and the device the host's */
    /* Fills in table with a complete one, which need not be the one open was called from. */
    resbm_status (*open)(const rb_device_options *opt, rb_device **out, rb_err *err);
    void (*close)(rb_device *dev);
    /* 64-byte aligned, uninitialised. RESBM_E_MEMORY says how many bytes were asked for. */
    resbm_status (*alloc)(rb_device *dev, size_t bytes, void **out, rb_err *err);
    void (*free)(rb_device *dev, void *p);
    resbm_status (*queue_open)(rb_device *dev, rb_queue **out, rb_err *err);
    void (*queue_close)(rb_queue *q); /* waits for what is under way */
    /* Host memory -> device and back, in queue order. The host memory must stay until the queue has passed
     * them; download's bytes are there after rb_queue_sync or rb_event_wait. */
    resbm_status (*upload)(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err);
    resbm_status (*download)(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err);
    resbm_status (*event_record)(rb_queue *q, rb_event *out, rb_err *err);
    /* Blocks the host until the event has passed; returns the first fault of the queue's operations. */
    resbm_status (*event_wait)(rb_queue *q, rb_event e, rb_err *err);
    /* Bytes that alloc can still hand out, about; 0: not known. */
    size_t (*room)(rb_device *dev);
    /* What is queued on q from now on waits for event e of queue `of` first, of the same device; the host does not. q is
     * the calling thread's; another may be using `of`, which must stay open until q has passed this. */
    resbm_status (*queue_after)(rb_queue *q, rb_queue *of, rb_event e, rb_err *err);
    /* What the device chose by itself and bits may depend on, a line for people; empty: nothing. The slot may be empty. */
    void (*choices)(rb_device *dev, char *text, size_t size);
    rb_kernel kernel[RB_OP_COUNT];
} rb_device_table;

/* Every device begins with this; kinds embed it as their first member. */
struct rb_device {
    const rb_device_table *table;
    rb_device_options opt;
    /* RB_BF16: products round their factors to it, so that one kept in bf16 gives the same bits, and activations that go
     * into products lose nothing by it; else RB_F32. */
    rb_dtype factor;
    size_t working; /* bytes kernels take for themselves, but what grows with the shapes (run/fit.c) */
};
struct rb_queue {
    rb_device *dev;
};

/* The registry of devices that compute: "ref", "cpu", "cuda", "late" (tests). NULL-terminated. rb_device_find knows
 * "timed" (timed/timed.h) besides, which computes nothing. */
extern const rb_device_table *const rb_devices[];
const rb_device_table *rb_device_find(const char *name); /* NULL when there is none */
/* name: "ref", "cpu", "cuda", "late", each with an optional ":variant" (see rb_device_options). */
resbm_status rb_device_open(const char *name, const rb_device_options *opt, rb_device **out, rb_err *err);
/* The same for a table of one's own (tests). */
resbm_status rb_device_open_table(const rb_device_table *table, const rb_device_options *opt, rb_device **out,
                                  rb_err *err);
void rb_device_close(rb_device *dev); /* NULL is fine */

resbm_status rb_alloc(rb_device *dev, size_t bytes, void **out, rb_err *err);
void rb_free(rb_device *dev, void *p);
size_t rb_room(rb_device *dev);
/* See the table's choices. */
void rb_choices(rb_device *dev, char *text, size_t size);
resbm_status rb_queue_open(rb_device *dev, rb_queue **out, rb_err *err);
void rb_queue_close(rb_queue *q);
resbm_status rb_queue_sync(rb_queue *q, rb_err *err);
resbm_status rb_upload(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err);
resbm_status rb_download(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err);
/* Checks the record's views (number, dtypes, ranks, shapes that must agree) and runs the kernel. */
resbm_status rb_run(rb_queue *q, const rb_op *op, rb_err *err);

/* Contiguous views. */
static inline rb_view rb_view1(void *p, rb_dtype t, int64_t a) {
    return (rb_view){p, t, 1, {a, 1, 1, 1}, {1, 1, 1, 1}};
}
static inline rb_view rb_view2(void *p, rb_dtype t, int64_t a, int64_t b) {
    return (rb_view){p, t, 2, {a, b, 1, 1}, {b, 1, 1, 1}};
}
static inline rb_view rb_view3(void *p, rb_dtype t, int64_t a, int64_t b, int64_t c) {
    return (rb_view){p, t, 3, {a, b, c, 1}, {b * c, c, 1, 1}};
}
static inline rb_view rb_view4(void *p, rb_dtype t, int64_t a, int64_t b, int64_t c, int64_t e) {
    return (rb_view){p, t, 4, {a, b, c, e}, {b * c * e, c * e, e, 1}};
}
static inline rb_view rb_none(void) {
    return (rb_view){0};
}
/* Columns [from, from+width) of a rank-2 view. */
static inline rb_view rb_columns(rb_view v, int64_t from, int64_t width) {
    v.data = (char *)v.data + from * (int64_t)rb_dtype_size(v.dtype);
    v.shape[1] = width;
    return v;
}
/* Rows [from, from+count) of a view of any rank. */
static inline rb_view rb_rows(rb_view v, int64_t from, int64_t count) {
    v.data = (char *)v.data + from * v.stride[0] * (int64_t)rb_dtype_size(v.dtype);
    v.shape[0] = count;
    return v;
}
static inline int64_t rb_count(rb_view v) {
    int64_t n = v.rank ? 1 : 0;
    for (int i = 0; i < v.rank; i++) n *= v.shape[i];
    return n;
}

#endif
