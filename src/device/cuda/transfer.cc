/* Copies and events. Host memory that the caller hands in is ordinary memory, from which a GPU can only copy while the
 * host waits: what fits passes through a ring of pinned memory instead. An upload is in the ring when the call returns;
 * a download is put where it belongs by the wait that finds it done.
 *
 *     ring   [ ...free... | in flight: taken in order, given back in order | ...free... ]
 */
#include <stdlib.h>
#include <string.h>
#include <deque>
#include <new>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/cuda.h"

enum { RING = 32 << 20, EVENTS = 64, ALIGN = 256 };

struct piece {
    void *host; /* where a download goes; NULL: an upload */
    size_t at, bytes;
    uint64_t ticket; /* of the event behind it; 0: none has been recorded yet */
};

struct rb_cuda_transfers {
    char *ring;
    size_t next, used; /* used: bytes from the oldest piece on */
    std::deque<piece> pieces;
    cudaEvent_t event[EVENTS];
    rb_cuda_fault *seen; /* (EVENTS) pinned: the fault as it was at each event */
    uint64_t tickets;    /* recorded so far */
    rb_err first;        /* the first fault; code 0: none */
};

resbm_status rb_cuda_transfers_open(rb_cuda_queue *q, rb_err *err) {
    rb_cuda_transfers *t = new (std::nothrow) rb_cuda_transfers();
    if (!t) return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory for a queue");
    q->transfers = t;
    RB_CUDA_TRY(cudaMallocHost((void **)&t->ring, RING), "taking 32 MB of pinned memory", err);
    RB_CUDA_TRY(cudaMallocHost((void **)&t->seen, EVENTS * sizeof *t->seen), "taking pinned memory", err);
    memset(t->seen, 0, EVENTS * sizeof *t->seen);
    /* Who waits for one sleeps: links, packing and other stages of this machine want the processors meanwhile. */
    for (cudaEvent_t &e : t->event)
        RB_CUDA_TRY(cudaEventCreateWithFlags(&e, cudaEventDisableTiming | cudaEventBlockingSync),
                    "making an event", err);
    return RESBM_OK;
}

void rb_cuda_transfers_close(rb_cuda_queue *q) {
    rb_cuda_transfers *t = q->transfers;
    if (!t) return;
    for (cudaEvent_t e : t->event)
        if (e) cudaEventDestroy(e);
    if (t->ring) cudaFreeHost(t->ring);
    if (t->seen) cudaFreeHost(t->seen);
    delete t;
}

/* Pieces up to an event that has passed are done. */
static void settle(rb_cuda_transfers *t, uint64_t passed) {
    while (!t->pieces.empty() && t->pieces.front().ticket && t->pieces.front().ticket <= passed) {
        const piece &p = t->pieces.front();
        if (p.host) memcpy(p.host, t->ring + p.at, p.bytes);
        t->used -= (p.bytes + ALIGN - 1) / ALIGN * ALIGN;
        t->pieces.pop_front();
    }
}

static size_t rounded(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Everything queued so far is done, and every piece with it. */
static resbm_status drain(rb_cuda_queue *q, rb_err *err) {
    rb_event e;
    RB_TRY(rb_cuda_event_record(&q->base, &e, err));
    return rb_cuda_event_wait(&q->base, e, err);
}

/* Room in the ring for a piece, which must not go round its end. */
static resbm_status take(rb_cuda_queue *q, size_t bytes, char **out, rb_err *err) {
    rb_cuda_transfers *t = q->transfers;
    size_t n = rounded(bytes), rest = RING - t->next;
    bool round = n > rest;
    if (t->used + n + (round ? rest : 0) > RING) RB_TRY(drain(q, err));
    if (t->used == 0) t->next = 0;
    if (n > RING - t->next) { /* the rest before the end counts as a piece that copies nothing */
        t->pieces.push_back(piece{NULL, t->next, RING - t->next, 0});
        t->used += RING - t->next;
        t->next = 0;
    }
    *out = t->ring + t->next;
    t->next = (t->next + n) % RING;
    t->used += n;
    return RESBM_OK;
}

resbm_status rb_cuda_upload(rb_queue *base, void *dst, const void *host, size_t bytes, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    RB_CUDA_TRY(rb_cuda_choose(rb_cuda_of(base)->index), "choosing the card", err);
    if (bytes > RING / 4)
        return rb_cuda_status(cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, q->stream), "upload",
                              err);
    char *by;
    RB_TRY(take(q, bytes, &by, err));
    memcpy(by, host, bytes);
    q->transfers->pieces.push_back(piece{NULL, (size_t)(by - q->transfers->ring), bytes, 0});
    return rb_cuda_status(cudaMemcpyAsync(dst, by, bytes, cudaMemcpyHostToDevice, q->stream), "upload", err);
}

resbm_status rb_cuda_download(rb_queue *base, void *host, const void *src, size_t bytes, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    RB_CUDA_TRY(rb_cuda_choose(rb_cuda_of(base)->index), "choosing the card", err);
    if (bytes > RING / 4)
        return rb_cuda_status(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, q->stream),
                              "download", err);
    char *by;
    RB_TRY(take(q, bytes, &by, err));
    q->transfers->pieces.push_back(piece{host, (size_t)(by - q->transfers->ring), bytes, 0});
    return rb_cuda_status(cudaMemcpyAsync(by, src, bytes, cudaMemcpyDeviceToHost, q->stream), "download",
                          err);
}

resbm_status rb_cuda_event_record(rb_queue *base, rb_event *out, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    rb_cuda_transfers *t = q->transfers;
    RB_CUDA_TRY(rb_cuda_choose(rb_cuda_of(base)->index), "choosing the card", err);
    uint64_t ticket = t->tickets + 1;
    rb_cuda_fault *seen = &t->seen[ticket % EVENTS];
    RB_CUDA_TRY(cudaMemcpyAsync(seen, q->fault, sizeof *seen, cudaMemcpyDeviceToHost, q->stream),
                "reading faults", err);
    RB_CUDA_TRY(cudaEventRecord(t->event[ticket % EVENTS], q->stream), "recording an event", err);
    for (auto p = t->pieces.rbegin(); p != t->pieces.rend() && !p->ticket; ++p) p->ticket = ticket;
    t->tickets = ticket;
    out->ticket = ticket;
    return RESBM_OK;
}

static resbm_status fault_text(const rb_cuda_fault *f, rb_err *err) {
    const char *op = rb_op_info((rb_op_kind)f->op)->name;
    switch (f->kind) {
    case RB_FAULT_ID:
        return rb_fail(err, RESBM_E_ARG, "%s: token %lld is %lld, the table has %lld rows", op, f->at,
                       (long long)f->value, f->range);
    case RB_FAULT_TARGET:
        return rb_fail(err, RESBM_E_ARG, "%s: target %lld is %lld, there are %lld logits", op, f->at,
                       (long long)f->value, f->range);
    case RB_FAULT_STEP:
        return rb_fail(err, RESBM_E_NUMERIC, "%s: learned step of coordinate %lld is %g", op, f->at,
                       f->value);
    case RB_FAULT_VALUE:
        return rb_fail(err, RESBM_E_NUMERIC,
                       "%s: coordinate %lld of position %lld of the microbatch is %g, for which codes of 1 "
                       "and 2 bits with "
                       "learned steps have no code",
                       op, f->at % f->range, f->at / f->range, f->value);
    default:
        return rb_fail(err, RESBM_E_ARG, "%s: a pick of row %lld is coordinate %g of %lld", op, f->at,
                       f->value, f->range);
    }
}

/* The ring of events may have gone round since: then a later one is waited for. */
resbm_status rb_cuda_event_wait(rb_queue *base, rb_event e, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    rb_cuda_transfers *t = q->transfers;
    uint64_t at = e.ticket;
    if (at + EVENTS <= t->tickets) at += (t->tickets - at) / EVENTS * EVENTS;
    if (at) {
        RB_CUDA_TRY(rb_cuda_choose(rb_cuda_of(base)->index), "choosing the card", err);
        RB_CUDA_TRY(cudaEventSynchronize(t->event[at % EVENTS]), "the kernels queued before", err);
        settle(t, at);
        if (t->seen[at % EVENTS].kind && !t->first.code) fault_text(&t->seen[at % EVENTS], &t->first);
    }
    if (t->first.code && err) *err = t->first;
    return t->first.code;
}

/* Where the ring of events has gone round since, the stream waits for a later one. */
resbm_status rb_cuda_queue_after(rb_queue *base, rb_queue *of, rb_event e, rb_err *err) {
    RB_CUDA_TRY(rb_cuda_choose(rb_cuda_of(base)->index), "choosing the card", err);
    cudaEvent_t event = rb_cuda_queue_of(of)->transfers->event[e.ticket % EVENTS];
    return rb_cuda_status(cudaStreamWaitEvent(rb_cuda_queue_of(base)->stream, event, 0),
                          "queueing behind another stream", err);
}
