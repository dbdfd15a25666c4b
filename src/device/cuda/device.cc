/* The device: opening a card, its memory, its queues. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <map>
#include <mutex>
#include <new>
extern "C" {
#include "core/err.h"
#include "device/cuda/plugin.h"
}
#include "device/cuda/attention.h"
#include "device/cuda/lt.h"
#include "device/cuda/profile.h"
#include "device/cuda/sdpa.h"

struct rb_cuda_blocks {
    std::mutex lock;
    std::map<void *, size_t> at;
};

resbm_status rb_cuda_status(cudaError_t e, const char *what, rb_err *err) {
    if (e == cudaSuccess) return RESBM_OK;
    resbm_status code = e == cudaErrorMemoryAllocation ? RESBM_E_MEMORY : RESBM_E_INTERNAL;
    return rb_fail(err, code, "device cuda: %s: %s", what, cudaGetErrorString(e));
}

/* --- memory */

static double giga(size_t bytes) {
    return (double)bytes * 1e-9;
}

/* What a request for memory returned. Anything else than "out of memory" comes from a kernel queued before. */
static resbm_status memory_status(const rb_cuda_device *d, cudaError_t e, size_t bytes, rb_err *err) {
    size_t free = 0, total = 0;
    if (e == cudaSuccess) return RESBM_OK;
    cudaGetLastError();
    if (e != cudaErrorMemoryAllocation)
        return rb_cuda_status(e, "taking memory (or a kernel queued before)", err);
    cudaMemGetInfo(&free, &total);
    return rb_fail(err, RESBM_E_MEMORY,
                   "device cuda:%d (%s): no memory for %zu bytes (%.3g GB): %.3g of its %.3g GB are free",
                   d->index, d->name, bytes, giga(bytes), giga(free), giga(total));
}

static resbm_status cuda_alloc(rb_device *base, size_t bytes, void **out, rb_err *err) {
    rb_cuda_device *d = (rb_cuda_device *)base;
    *out = NULL;
    RB_CUDA_TRY(cudaSetDevice(d->index), "choosing the card", err);
    RB_TRY(memory_status(d, cudaMalloc(out, bytes ? bytes : 1), bytes, err));
    std::lock_guard<std::mutex> hold(d->blocks->lock);
    d->blocks->at[*out] = bytes;
    return RESBM_OK;
}

static size_t cuda_room(rb_device *base) {
    size_t free = 0, total = 0;
    cudaSetDevice(((rb_cuda_device *)base)->index);
    return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

static void cuda_free(rb_device *base, void *p) {
    rb_cuda_device *d = (rb_cuda_device *)base;
    {
        std::lock_guard<std::mutex> hold(d->blocks->lock);
        d->blocks->at.erase(p);
    }
    cudaSetDevice(d->index);
    cudaFree(p);
}

enum { PIECE = 1 << 16 /* working memory grows by */ };

resbm_status rb_cuda_scratch(rb_queue *base, int which, size_t bytes, void **out, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    if (bytes > q->scratch_bytes[which]) {
        RB_CUDA_TRY(cudaSetDevice(q->index), "choosing the card", err);
        RB_CUDA_TRY(cudaStreamSynchronize(q->stream), "waiting to enlarge working memory", err);
        if (q->scratch[which]) cudaFree(q->scratch[which]);
        q->scratch[which] = NULL;
        q->scratch_bytes[which] = 0;
        bytes = (bytes + bytes / 8 + PIECE) / PIECE * PIECE;
        resbm_status st = memory_status(rb_cuda_of(base), cudaMalloc(&q->scratch[which], bytes), bytes, err);
        if (st) return rb_err_context(err, st, "working memory of the kernels: ");
        q->scratch_bytes[which] = bytes;
    }
    *out = q->scratch[which];
    return RESBM_OK;
}

/* --- queues */

static void cuda_queue_close(rb_queue *base) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    cudaSetDevice(rb_cuda_of(base)->index);
    if (q->stream) cudaStreamSynchronize(q->stream);
    rb_cuda_profile_queue_closes(q);
    rb_cuda_transfers_close(q);
    for (int i = 0; i < RB_CUDA_SCRATCH; i++)
        if (q->scratch[i]) cudaFree(q->scratch[i]);
    if (q->state) cudaFree(q->state);
    if (q->stream) cudaStreamDestroy(q->stream);
    free(q);
}

static resbm_status fill_queue(rb_cuda_queue *q, rb_err *err) {
    rb_cuda_device *d = rb_cuda_of(&q->base);
    RB_CUDA_TRY(cudaSetDevice(d->index), "choosing the card", err);
    RB_CUDA_TRY(cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "making a stream", err);
    q->index = d->index;
    q->f16 = d->math == RB_MATH_F16;
    RB_TRY(memory_status(d, cudaMalloc((void **)&q->state, sizeof *q->state), sizeof *q->state, err));
    RB_CUDA_TRY(cudaMemsetAsync(q->state, 0, sizeof *q->state, q->stream), "clearing memory", err);
    q->fault = &q->state->fault;
    return rb_cuda_transfers_open(q, err);
}

static resbm_status cuda_queue_open(rb_device *dev, rb_queue **out, rb_err *err) {
    rb_cuda_queue *q = (rb_cuda_queue *)calloc(1, sizeof *q);
    if (!q) return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory for a queue");
    q->base.dev = dev;
    resbm_status st = fill_queue(q, err);
    if (st == RESBM_OK)
        *out = &q->base;
    else
        cuda_queue_close(&q->base);
    return st;
}

/* --- opening and closing */

static void cuda_close(rb_device *base) {
    rb_cuda_device *d = (rb_cuda_device *)base;
    cudaSetDevice(d->index);
    rb_cuda_profile_close(d);
    rb_sdpa_close(d->sdpa);
    rb_cuda_choices_free(d->choices);
    rb_lt_close(d->lt);
    if (d->blocks)
        for (auto &b : d->blocks->at) cudaFree(b.first);
    delete d->blocks;
    free(d);
}

static void cuda_choices(rb_device *base, char *text, size_t size) {
    rb_cuda_device *d = (rb_cuda_device *)base;
    if (d->choices)
        rb_cuda_choices_say(d->choices, text, size);
    else
        snprintf(text, size, "%s", d->attention);
}

static rb_device_table cuda_table(void) {
    rb_device_table t = rb_device_table();
    t.name = "cuda";
    t.summary = "an NVIDIA GPU";
    t.close = cuda_close;
    t.alloc = cuda_alloc;
    t.free = cuda_free;
    t.room = cuda_room;
    t.queue_open = cuda_queue_open;
    t.queue_close = cuda_queue_close;
    t.upload = rb_cuda_upload;
    t.download = rb_cuda_download;
    t.event_record = rb_cuda_event_record;
    t.event_wait = rb_cuda_event_wait;
    t.queue_after = rb_cuda_queue_after;
    t.choices = cuda_choices;
    rb_cuda_slots(&t);
    return t;
}

static resbm_status choose_math(rb_cuda_device *d, rb_math want, rb_err *err) {
    bool new_enough = d->major >= 8;
    d->math = want == RB_MATH_AUTO ? (new_enough ? RB_MATH_BF16 : RB_MATH_F16) : want;
    bool can = d->math == RB_MATH_F32 || (d->math == RB_MATH_F16) == !new_enough;
    if (can) return RESBM_OK;
    return rb_fail(err, RESBM_E_UNSUPPORTED,
                   "device cuda:%d (%s, compute capability %d.%d): products in %s; there are f32 and %s",
                   d->index, d->name, d->major, d->minor,
                   d->math == RB_MATH_F16    ? "f16"
                   : d->math == RB_MATH_BF16 ? "bf16"
                                             : "tf32",
                   new_enough ? "bf16 and tf32" : "f16");
}

/* The first driver that runs what was built with a toolkit of that major version, by NVIDIA's tables. */
static const char *least_driver(int major) {
    return major == 13 ? " (R580 or later)" : major == 12 ? " (R525 or later)" : "";
}

/* Why there is no card: no driver, one older than the plugin's runtime (which that calls the same), or nothing to drive. */
static resbm_status no_card(cudaError_t e, rb_err *err) {
    static const char start[] = "device cuda: no GPU can be used here:";
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver); /* 0: there is none */
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    int has = driver / 1000, wants = runtime / 1000;
    bool none = e == cudaSuccess || e == cudaErrorNoDevice;
    if (!driver)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "%s no NVIDIA driver is installed (libcuda.so.1)", start);
    if (e == cudaErrorInsufficientDriver)
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "%s the NVIDIA driver is for CUDA %d.%d, too old for this plugin, which was built with "
                       "CUDA %d.%d: update the driver to one for CUDA %d%s, or build the plugin with a toolkit "
                       "of CUDA %d (docs/cuda.md)",
                       start, has, driver % 1000 / 10, wants, runtime % 1000 / 10, wants, least_driver(wants),
                       has);
    return rb_fail(err, RESBM_E_UNSUPPORTED, "%s the NVIDIA driver, for CUDA %d.%d, %s%s", start, has,
                   driver % 1000 / 10, none ? "finds none" : "says: ", none ? "" : cudaGetErrorString(e));
}

static resbm_status find_card(rb_cuda_device *d, rb_err *err) {
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0) return no_card(e, err);
    if (d->index >= n)
        return rb_fail(err, RESBM_E_ARG, "device cuda:%d: this machine has %d GPU%s, numbered from 0",
                       d->index, n, n == 1 ? "" : "s");
    cudaDeviceProp p;
    RB_CUDA_TRY(cudaSetDevice(d->index), "choosing the card", err);
    RB_CUDA_TRY(cudaGetDeviceProperties(&p, d->index), "asking for the card's properties", err);
    snprintf(d->name, sizeof d->name, "%.*s", (int)sizeof d->name - 1, p.name);
    d->major = p.major;
    d->minor = p.minor;
    d->total = p.totalGlobalMem;
    if (d->major * 10 + d->minor >= 75) return RESBM_OK;
    return rb_fail(err, RESBM_E_UNSUPPORTED,
                   "device cuda:%d (%s): compute capability %d.%d; 7.5 is the least", d->index, d->name,
                   d->major, d->minor);
}

/* Kernels choose their 16-bit numbers by what they were compiled for, and the host by the card. A driver also compiles PTX for
 * older cards, with f16, for one that is to have bf16. */
static resbm_status check_code(const rb_cuda_device *d, rb_err *err) {
    int made_for = 0;
    cudaError_t e = rb_cuda_code(&made_for);
    bool halves = d->math == RB_MATH_BF16 || d->math == RB_MATH_F16;
    if (e == cudaSuccess && (!halves || (made_for >= 80) == (d->major >= 8))) return RESBM_OK;
    cudaGetLastError();
    char why[128];
    if (e != cudaSuccess)
        snprintf(why, sizeof why, "%s", cudaGetErrorString(e));
    else
        snprintf(why, sizeof why, "its kernels for %d.%d compute in %s", made_for / 10, made_for % 10,
                 made_for >= 80 ? "bf16" : "f16");
    return rb_fail(err, RESBM_E_UNSUPPORTED,
                   "device cuda:%d (%s): the plugin has no code for compute capability %d.%d (%s): "
                   "make cuda CUDA_ARCHITECTURES=%d%d",
                   d->index, d->name, d->major, d->minor, why, d->major, d->minor);
}

/* The library, where it is asked for. Without it `auto` is own kernels, and the device says why. */
static resbm_status find_library(rb_cuda_device *d, rb_err *err) {
    if (d->math != RB_MATH_BF16)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "cuDNN's attention is for products in bf16 (pipeline.math)");
    return rb_sdpa_open(d->index, d->major, d->minor, &d->sdpa, err);
}

static resbm_status open_attention(rb_cuda_device *d, rb_attention want, rb_err *err) {
    rb_err why;
    if (want == RB_ATTENTION_OWN) return RESBM_OK;
    resbm_status st = find_library(d, &why);
    if (st != RESBM_OK && want == RB_ATTENTION_CUDNN)
        return rb_fail(err, st, "device cuda:%d, pipeline.attention = cudnn: %s", d->index, why.text);
    if (st != RESBM_OK)
        snprintf(d->attention, sizeof d->attention, "own attention: %s", why.text);
    else if (want == RB_ATTENTION_AUTO && !(d->choices = rb_cuda_choices_new()))
        return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
    else
        rb_sdpa_describe(d->attention, sizeof d->attention);
    return RESBM_OK;
}

static resbm_status open_card(rb_cuda_device *d, rb_math math, rb_err *err) {
    d->blocks = new (std::nothrow) rb_cuda_blocks();
    if (!d->blocks) return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
    RB_TRY(find_card(d, err));
    RB_TRY(choose_math(d, math, err));
    RB_TRY(check_code(d, err));
    d->base.factor = d->math == RB_MATH_BF16 ? RB_BF16 : RB_F32;
    d->base.working = rb_lt_working() + (size_t)RB_CUDA_SCRATCH * PIECE;
    /* Before cuDNN, which takes the cuBLASLt that is loaded and ends the program without one. */
    RB_TRY(rb_lt_open(d, &d->lt, err));
    RB_TRY(rb_cuda_profile_open(d, err));
    return open_attention(d, d->base.opt.attention, err);
}

static resbm_status cuda_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    rb_cuda_device *d = (rb_cuda_device *)calloc(1, sizeof *d);
    if (!d) return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
    d->table = cuda_table();
    d->base.table = &d->table;
    d->base.opt = *opt;
    d->index = opt->index;
    resbm_status st = open_card(d, opt->math, err);
    if (st == RESBM_OK)
        *out = &d->base;
    else
        cuda_close(&d->base);
    return st;
}

static void describe(char *text, size_t size) {
    int n = 0;
    size_t at = 0;
    text[0] = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) n = 0;
    for (int i = 0; i < n && at < size; i++) {
        cudaDeviceProp p;
        if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
        at += (size_t)snprintf(text + at, size - at, "%scuda:%d %s, %.3g GB, compute capability %d.%d",
                               i ? "; " : "", i, p.name, giga(p.totalGlobalMem), p.major, p.minor);
    }
}

extern "C" __attribute__((visibility("default"))) const rb_cuda_plugin *resbm_cuda_plugin(void);
extern "C" const rb_cuda_plugin *resbm_cuda_plugin(void) {
    static const rb_cuda_plugin plugin = {
        RESBM_VERSION, sizeof(rb_op), sizeof(rb_device_options), sizeof(rb_device_table), RB_OP_COUNT,
        cuda_open,     describe,      rb_sdpa_describe};
    return &plugin;
}
