#include "device/cuda/profile.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <vector>
extern "C" {
#include "core/err.h"
}

namespace {

struct total {
    int64_t calls = 0;
    double device_ms = 0, host_us = 0;
};
/* Events that are still to be read. */
struct span {
    rb_cuda_queue *queue;
    cudaEvent_t begin, end;
    total *of;
};

enum { SPANS = 8192 };

} // namespace

struct rb_cuda_profile {
    std::string file;
    rb_kernel plain[RB_OP_COUNT];
    std::mutex lock;
    std::map<std::string, total> rows;
    std::vector<span> waiting;
    std::vector<cudaEvent_t> unused;
};

/* Kind and shapes: "gemm 1024x768 1024x768 768x768", bf16 views with a b. */
static std::string row_name(const rb_op *op) {
    const rb_op_desc *info = rb_op_info(op->kind);
    std::string name = info->name;
    for (int j = 0; j < info->views; j++) {
        const rb_view &v = op->t[j];
        if (!v.data) continue;
        for (int i = 0; i < v.rank; i++) name += (i ? "x" : " ") + std::to_string(v.shape[i]);
        if (v.dtype == RB_BF16) name += "b";
    }
    return name;
}

/* p is locked. Spans that ended, or all of the queue's where one is given. */
static void read_spans(rb_cuda_profile *p, const rb_cuda_queue *all_of) {
    std::vector<span> left;
    for (const span &s : p->waiting) {
        float ms = 0;
        if (all_of && s.queue != all_of) {
            left.push_back(s);
            continue;
        }
        if (cudaEventSynchronize(s.end) == cudaSuccess && cudaEventElapsedTime(&ms, s.begin, s.end) == cudaSuccess)
            s.of->device_ms += (double)ms;
        p->unused.insert(p->unused.end(), {s.begin, s.end});
    }
    p->waiting.swap(left);
}

/* p is locked. */
static cudaEvent_t event_of(rb_cuda_profile *p) {
    cudaEvent_t e = NULL;
    if (p->unused.empty()) return cudaEventCreate(&e) == cudaSuccess ? e : NULL;
    e = p->unused.back();
    p->unused.pop_back();
    return e;
}

static resbm_status profiled(rb_queue *base, const rb_op *op, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    rb_cuda_profile *p = rb_cuda_of(base)->profile;
    std::lock_guard<std::mutex> hold(p->lock); /* queues take turns: for people who look for time, not for those who race */
    if (p->waiting.size() >= SPANS) read_spans(p, NULL);
    RB_CUDA_TRY(rb_cuda_choose(q->index), "choosing the card", err);
    span s = {q, event_of(p), event_of(p), &p->rows[row_name(op)]};
    if (!s.begin || !s.end) return rb_fail(err, RESBM_E_INTERNAL, "device cuda: no events for the profile");
    auto since = std::chrono::steady_clock::now();
    RB_CUDA_TRY(cudaEventRecord(s.begin, q->stream), "recording an event", err);
    resbm_status st = p->plain[op->kind](base, op, err);
    if (st == RESBM_OK) st = rb_cuda_status(cudaEventRecord(s.end, q->stream), "recording an event", err);
    if (st != RESBM_OK) {
        p->unused.insert(p->unused.end(), {s.begin, s.end});
        return st;
    }
    s.of->calls++;
    s.of->host_us += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - since).count();
    p->waiting.push_back(s);
    return RESBM_OK;
}

resbm_status rb_cuda_profile_open(rb_cuda_device *d, rb_err *err) {
    const char *file = getenv("RESBM_CUDA_PROFILE");
    if (!file || !*file) return RESBM_OK;
    rb_cuda_profile *p = new (std::nothrow) rb_cuda_profile();
    if (!p) return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
    p->file = file;
    d->profile = p;
    for (int i = 0; i < RB_OP_COUNT; i++) {
        p->plain[i] = d->table.kernel[i];
        if (p->plain[i]) d->table.kernel[i] = profiled;
    }
    return RESBM_OK;
}

void rb_cuda_profile_queue_closes(rb_cuda_queue *q) {
    rb_cuda_profile *p = rb_cuda_of(&q->base)->profile;
    if (!p) return;
    std::lock_guard<std::mutex> hold(p->lock);
    read_spans(p, q);
}

static void print(const rb_cuda_profile *p, const char *card, FILE *f) {
    std::vector<std::pair<std::string, total>> rows(p->rows.begin(), p->rows.end());
    double all = 0;
    for (const auto &r : rows) all += r.second.device_ms;
    std::sort(rows.begin(), rows.end(),
              [](const auto &a, const auto &b) { return a.second.device_ms > b.second.device_ms; });
    fprintf(f, "%s: %.3f ms in operations\n%10s %6s %8s %10s %10s  operation\n", card, all, "ms", "share", "calls", "us each",
            "host us");
    for (const auto &r : rows)
        fprintf(f, "%10.3f %5.1f%% %8lld %10.2f %10.2f  %s\n", r.second.device_ms,
                all > 0 ? 100 * r.second.device_ms / all : 0, (long long)r.second.calls,
                1e3 * r.second.device_ms / (double)r.second.calls, r.second.host_us / (double)r.second.calls, r.first.c_str());
}

void rb_cuda_profile_close(rb_cuda_device *d) {
    rb_cuda_profile *p = d->profile;
    if (!p) return;
    FILE *f = p->rows.empty() ? NULL : fopen(p->file.c_str(), "a");
    if (f) {
        print(p, d->name, f);
        fclose(f);
    } else if (!p->rows.empty()) {
        fprintf(stderr, "resbm: RESBM_CUDA_PROFILE: %s cannot be written\n", p->file.c_str());
    }
    for (cudaEvent_t e : p->unused) cudaEventDestroy(e);
    delete p;
    d->profile = NULL;
}
