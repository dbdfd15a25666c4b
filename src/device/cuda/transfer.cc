/* Copies and events. Host memory that the caller hands in is ordinary memory, from which a GPU can only copy while the
 * host waits for all that is queued before: everything passes through a ring of pinned memory instead, what is large in pieces.
 * An upload is in the ring when the call returns; a download is put where it belongs by the wait that finds it done. Who finds
 * the ring full waits for the oldest piece, so that a copy may be larger than the ring.
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

enum { RING = 32 << 20, PIECE = RING / 4, EVENTS = 64, ALIGN = 256 };

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

static size_t rounded(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Pieces up to an event that has passed are done. */
static void settle(rb_cuda_transfers *t, uint64_t passed) {
    while (!t->pieces.empty() && t->pieces.front().ticket && t->pieces.front().ticket <= passed) {
        const piece &p = t->pieces.front();
        if (p.host) memcpy(p.host, t->ring + p.at, p.bytes);
        t->used -= rounded(p.bytes);
        t->pieces.pop_front();
    }
}

/* The oldest piece is done. Where no event is behind it yet, everything queued so far is. */
static resbm_status wait_for_oldest(rb_cuda_queue *q, rb_err *err) {
    rb_event e = {q->transfers->pieces.front().ticket};
    if (!e.ticket) RB_TRY(rb_cuda_event_record(&q->base, &e, err));
    return rb_cuda_event_wait(&q->base, e, err);
}

/* Room in the ring for a piece, which must not go round its end. host: where a download goes. */
static resbm_status take(rb_cuda_queue *q, void *host, size_t bytes, char **out, rb_err *err) {
    rb_cuda_transfers *t = q->transfers;
    size_t n = rounded(bytes), rest;
    for (;;) {
        if (t->used == 0) t->next = 0;
        rest = RING - t->next;
        if (t->used + n + (n > rest ? rest : 0) <= RING) break;
        RB_TRY(wait_for_oldest(q, err));
    }
    if (n > rest) { /* the rest before the end counts as a piece that copies nothing */
        t->pieces.push_back(piece{NULL, t->next, rest, 0});
        t->used += rest;
        t->next = 0;
    }
    *out = t->ring + t->next;
    t->pieces.push_back(piece{host, t->next, bytes, 0});
    t->next = (t->next + n) % RING;
    t->used += n;
    return RESBM_OK;
}

static size_t piece_of(size_t left) {
    return left < PIECE ? left : (size_t)PIECE;
}

/* Behind a piece that others follow: they may have to wait for it alone. */
static resbm_status mark(rb_cuda_queue *q, bool more, rb_err *err) {
    rb_event e;
    return more ? rb_cuda_event_record(&q->base, &e, err) : RESBM_OK;
}

resbm_status rb_cuda_upload(rb_queue *base, void *dst, const void *host, size_t bytes, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    RB_CUDA_TRY(rb_cuda_choose(rb_cuda_of(base)->index), "choosing the card", err);
    for (size_t at = 0, n; at < bytes; at += n) {
        char *by;
        n = piece_of(bytes - at);
        RB_TRY(take(q, NULL, n, &by, err));
        memcpy(by, (const char *)host + at, n);
        RB_CUDA_TRY(cudaMemcpyAsync((char *)dst + at, by, n, cudaMemcpyHostToDevice, q->stream), "upload", err);
        RB_TRY(mark(q, at + n < bytes, err));
    }
    return RESBM_OK;
}

static resbm_status download_pieces(rb_cuda_queue *q, char *host, const char *src, size_t bytes, rb_err *err) {
    for (size_t at = 0, n; at < bytes; at += n) {
        char *by;
        n = piece_of(bytes - at);
        RB_TRY(take(q, host + at, n, &by, err));
        RB_CUDA_TRY(cudaMemcpyAsync(by, src + at, n, cudaMemcpyDeviceToHost, q->stream), "download", err);
        RB_TRY(mark(q, at + n < bytes, err));
    }
    return RESBM_OK;
}

resbm_status rb_cuda_download(rb_queue *base, void *host, const void *src, size_t bytes, rb_err *err) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    RB_CUDA_TRY(rb_cuda_choose(rb_cuda_of(base)->index), "choosing the card", err);
    resbm_status st = download_pieces(q, (char *)host, (const char *)src, bytes, err);
    /* Who was told that it failed may give the memory back: pieces under way go nowhere. */
    for (piece &p : q->transfers->pieces)
        if (st != RESBM_OK && p.host && (size_t)((char *)p.host - (char *)host) < bytes) p.host = NULL;
    return st;
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
