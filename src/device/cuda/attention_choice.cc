/* Own attention or the library's: both are timed when a shape is first met. The library is taken only where it is clearly
 * faster, so that shapes near the border mostly fall to the same side in every run; which side can differ all the same, and
 * with it the last bits of results. */
#include <stdio.h>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <tuple>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/attention.h"
#include "device/cuda/sdpa.h"

enum { ROUNDS = 3, REPEATS = 3 };
static const float clearly = 0.95f; /* of the own kernels' time */

typedef std::tuple<int, int64_t, int64_t, int64_t, int64_t, int64_t> shape_key;

struct rb_cuda_choices {
    std::mutex lock;
    std::map<shape_key, bool> library;
    std::string said;
};

rb_cuda_choices *rb_cuda_choices_new(void) {
    return new (std::nothrow) rb_cuda_choices();
}
void rb_cuda_choices_free(rb_cuda_choices *c) {
    delete c;
}
void rb_cuda_choices_say(rb_cuda_choices *c, char *text, size_t size) {
    std::lock_guard<std::mutex> hold(c->lock);
    snprintf(text, size, "%s", c->said.c_str());
}

typedef resbm_status (*way)(rb_queue *q, const rb_op *op, rb_err *err);

/* Milliseconds of one run; `between`: two events. */
static resbm_status time_once(rb_queue *base, const rb_op *op, way run, cudaEvent_t *between, float *ms,
                              rb_err *err) {
    cudaStream_t stream = rb_cuda_queue_of(base)->stream;
    RB_CUDA_TRY(cudaEventRecord(between[0], stream), "timing attention", err);
    for (int i = 0; i < REPEATS; i++) RB_TRY(run(base, op, err));
    RB_CUDA_TRY(cudaEventRecord(between[1], stream), "timing attention", err);
    RB_CUDA_TRY(cudaEventSynchronize(between[1]), "timing attention", err);
    RB_CUDA_TRY(cudaEventElapsedTime(ms, between[0], between[1]), "timing attention", err);
    *ms /= REPEATS;
    return RESBM_OK;
}

/* The best of some rounds in which the two take turns; both have run before. */
static resbm_status time_both(rb_queue *q, const rb_op *op, cudaEvent_t *between, float best[2],
                              rb_err *err) {
    static const way ways[2] = {rb_cuda_attention_own, rb_cuda_attention_sdpa};
    RB_TRY(rb_cuda_attention_own(q, op, err));
    for (int i = 0; i < 2 * ROUNDS; i++) {
        float ms = 0;
        RB_TRY(time_once(q, op, ways[i % 2], between, &ms, err));
        if (i < 2 || ms < best[i % 2]) best[i % 2] = ms;
    }
    return RESBM_OK;
}

static resbm_status measure(rb_queue *q, const rb_op *op, float best[2], rb_err *err) {
    cudaEvent_t between[2] = {};
    resbm_status st = rb_cuda_status(cudaEventCreate(&between[0]), "making an event", err);
    if (st == RESBM_OK) st = rb_cuda_status(cudaEventCreate(&between[1]), "making an event", err);
    if (st == RESBM_OK) st = time_both(q, op, between, best, err);
    for (cudaEvent_t e : between)
        if (e) cudaEventDestroy(e);
    return st;
}

static std::string named(const rb_op *op) {
    bool back = op->kind == RB_OP_ATTN_BWD;
    rb_attention_shape s = back ? rb_attention_backward_shape(op) : rb_attention_forward_shape(op);
    char text[160];
    snprintf(text, sizeof text, "attention %s of %lld x %lld tokens, %lld heads of %d, %lld of keys: ",
             back ? "backward" : "forward", (long long)s.B, (long long)s.T, (long long)s.H, s.D,
             (long long)s.G);
    return text;
}

/* The library runs first: what it does not do, or has no memory for, is not timed. */
static resbm_status decide(rb_queue *q, const rb_op *op, bool *library, std::string *why, rb_err *err) {
    char text[128];
    float best[2];
    rb_err no;
    *library = false;
    resbm_status st = rb_cuda_attention_sdpa(q, op, &no);
    if (st == RESBM_E_UNSUPPORTED || st == RESBM_E_MEMORY) {
        *why = std::string("own (") + no.text + ")";
        return RESBM_OK;
    }
    if (st != RESBM_OK) return rb_fail(err, st, "%s", no.text);
    RB_TRY(measure(q, op, best, err));
    *library = best[1] < clearly * best[0];
    snprintf(text, sizeof text, "%s, own %.3g ms, cuDNN %.3g ms", *library ? "cuDNN" : "own", (double)best[0],
             (double)best[1]);
    *why = text;
    return RESBM_OK;
}

resbm_status rb_cuda_attention_faster(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_cuda_choices *c = rb_cuda_of(q)->choices;
    bool back = op->kind == RB_OP_ATTN_BWD, library;
    rb_attention_shape s = back ? rb_attention_backward_shape(op) : rb_attention_forward_shape(op);
    shape_key key(back, s.B, s.T, s.H, s.G, s.D);
    {
        std::lock_guard<std::mutex> hold(c->lock);
        auto at = c->library.find(key);
        if (at == c->library.end()) {
            std::string why;
            RB_TRY(decide(q, op, &library, &why, err));
            c->library[key] = library;
            c->said += (c->said.empty() ? "" : "; ") + named(op) + why;
        } else
            library = at->second;
    }
    return library ? rb_cuda_attention_sdpa(q, op, err) : rb_cuda_attention_own(q, op, err);
}
