#include "optim/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "core/thread.h"
#include "device/ops.h"

typedef enum kind { TAKE, UPDATE, PUBLISH } kind;

typedef struct job {
    struct job *next;
    kind kind;
    uint64_t ticket;
    rb_hosted *t;
    rb_queue *of; /* TAKE: the gradient is there behind this event */
    rb_event there;
    rb_rule_call call; /* UPDATE, */
    bool up;           /* whose tiles are published as they are made */
} job;

struct rb_host {
    rb_device *dev, *cpu;
    rb_queue *copies;   /* of dev: the worker's, and the caller's when nothing is asked for */
    rb_queue *computes; /* of cpu, likewise */
    int64_t tile;
    uint16_t *rounded[2]; /* (tile) on their way up, in turns */
    rb_event left[2];     /* behind which they may be written again */
    int turn;
    pthread_t worker;
    bool runs;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    job *first, *last;
    uint64_t asked, done;
    uint64_t tiles;      /* moved or updated so far: signs of life */
    kind at;             /* what the worker does, */
    const rb_hosted *of; /* for which tensor; NULL: nothing */
    int64_t deadline_ns;
    bool closing;
    rb_err fault; /* the first; code 0: none */
    rb_host_stats stats;
};

size_t rb_host_window_bytes(int64_t tile) {
    return 2 * (size_t)tile * sizeof(uint16_t);
}

static int64_t tile_at(const rb_host *h, const rb_hosted *t, int64_t from) {
    return t->count - from < h->tile ? t->count - from : h->tile;
}

static void tile_done(rb_host *h) {
    pthread_mutex_lock(&h->lock);
    h->tiles++;
    pthread_mutex_unlock(&h->lock);
}

static void count(rb_host *h, uint64_t *sum, size_t bytes) {
    pthread_mutex_lock(&h->lock);
    *sum += bytes;
    pthread_mutex_unlock(&h->lock);
}

/* --- the worker ------------------------------------------------------------------------------------------- */

static resbm_status take(rb_host *h, const job *j, rb_err *err) {
    rb_hosted *t = j->t;
    RB_TRY(h->dev->table->queue_after(h->copies, j->of, j->there, err));
    for (int64_t at = 0, n; at < t->count; at += n) {
        n = tile_at(h, t, at);
        RB_TRY(rb_download(h->copies, t->down + at, (const float *)t->grad.data + at,
                           (size_t)n * sizeof(float), err));
        tile_done(h);
    }
    count(h, &h->stats.down, (size_t)t->count * sizeof(float));
    return rb_queue_sync(h->copies, err);
}

/* Elements [from, from + n) of host memory up, rounded where the device's are. The memory must stay until the copies are
 * waited for. */
static resbm_status put(rb_host *h, const rb_hosted *t, int64_t from, int64_t n, const float *in,
                        rb_err *err) {
    if (t->weight.dtype == RB_F32)
        return rb_upload(h->copies, (float *)t->weight.data + from, in, (size_t)n * sizeof(float), err);
    int turn = h->turn;
    rb_view wide = rb_view1((void *)(uintptr_t)in, RB_F32, n), half = rb_view1(h->rounded[turn], RB_BF16, n);
    h->turn = !turn;
    RB_TRY(h->dev->table->event_wait(h->copies, h->left[turn], err));
    RB_TRY(rb_axpby(h->computes, 1, wide, 0, half, err));
    RB_TRY(rb_queue_sync(h->computes, err));
    RB_TRY(rb_upload(h->copies, (uint16_t *)t->weight.data + from, half.data, (size_t)n * sizeof(uint16_t),
                     err));
    return h->dev->table->event_record(h->copies, &h->left[turn], err);
}

static resbm_status update(rb_host *h, const job *j, rb_err *err) {
    rb_hosted *t = j->t;
    for (int64_t at = 0; at < t->count; at += h->tile) {
        rb_rule_call c = j->call;
        c.from = 0;
        c.count = tile_at(h, t, at);
        c.weight.data =
            t->master + at; /* the whole tensor's shape, by which it decays; only the tile is touched */
        c.grad = rb_view1(t->down + at, RB_F32, c.count);
        for (int k = 0; k < t->rule->states; k++) c.state[k] = rb_view1(t->state[k] + at, RB_F32, c.count);
        RB_TRY(t->rule->tile(h->computes, &c, err));
        RB_TRY(rb_queue_sync(h->computes, err));
        if (j->up) RB_TRY(put(h, t, at, c.count, t->master + at, err));
        tile_done(h);
    }
    if (!j->up) return RESBM_OK;
    count(h, &h->stats.up, (size_t)t->count * rb_dtype_size(t->weight.dtype));
    return rb_queue_sync(h->copies, err);
}

static resbm_status publish(rb_host *h, const rb_hosted *t, rb_err *err) {
    for (int64_t at = 0, n; at < t->count; at += n) {
        n = tile_at(h, t, at);
        RB_TRY(put(h, t, at, n, t->master + at, err));
        tile_done(h);
    }
    count(h, &h->stats.up, (size_t)t->count * rb_dtype_size(t->weight.dtype));
    return rb_queue_sync(h->copies, err);
}

static resbm_status run_job(rb_host *h, const job *j, rb_err *err) {
    switch (j->kind) {
    case TAKE:
        return take(h, j, err);
    case UPDATE:
        return update(h, j, err);
    default:
        return publish(h, j->t, err);
    }
}

static job *next_job(rb_host *h) {
    pthread_mutex_lock(&h->lock);
    while (!h->first && !h->closing) pthread_cond_wait(&h->changed, &h->lock);
    job *j = h->closing ? NULL : h->first;
    if (j) h->first = j->next;
    if (!h->first) h->last = NULL;
    if (j) h->at = j->kind;
    h->of = j ? j->t : NULL;
    pthread_mutex_unlock(&h->lock);
    return j;
}

static void *work(void *arg) {
    rb_host *h = arg;
    for (job *j; (j = next_job(h));) {
        rb_err err = {0};
        resbm_status st = h->fault.code ? RESBM_OK : run_job(h, j, &err);
        pthread_mutex_lock(&h->lock);
        if (st && !h->fault.code) h->fault = err;
        h->done = j->ticket;
        pthread_cond_broadcast(&h->changed);
        pthread_mutex_unlock(&h->lock);
        free(j);
    }
    return NULL;
}

/* --- asking and waiting ----------------------------------------------------------------------------------- */

static resbm_status ask(rb_host *h, const job *what, uint64_t *ticket, rb_err *err) {
    job *j = malloc(sizeof *j);
    if (!j) return rb_fail(err, RESBM_E_MEMORY, "no memory to queue an update on the host");
    *j = *what;
    j->next = NULL;
    pthread_mutex_lock(&h->lock);
    *ticket = j->ticket = ++h->asked;
    if (h->last)
        h->last->next = j;
    else
        h->first = j;
    h->last = j;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return RESBM_OK;
}

resbm_status rb_host_take(rb_host *h, rb_queue *q, rb_hosted *t, rb_err *err) {
    job j = {.kind = TAKE, .t = t, .of = q};
    RB_TRY(h->dev->table->event_record(q, &j.there, err));
    return ask(h, &j, &t->taken, err);
}

resbm_status rb_host_update(rb_host *h, rb_hosted *t, const rb_rule_call *c, bool up, rb_err *err) {
    uint64_t ticket;
    return ask(h, &(job){.kind = UPDATE, .t = t, .call = *c, .up = up}, up ? &t->ready : &ticket, err);
}

resbm_status rb_host_publish(rb_host *h, rb_hosted *t, rb_err *err) {
    return ask(h, &(job){.kind = PUBLISH, .t = t}, &t->ready, err);
}

/* The lock is held. */
static resbm_status slow(const rb_host *h, int64_t since_ns, rb_err *err) {
    static const char *const what[] = {[TAKE] = "taking the gradient of %s from the device",
                                       [UPDATE] = "updating %s on the host",
                                       [PUBLISH] = "bringing the weights of %s to the device"};
    char doing[200] = "beginning";
    if (h->of) snprintf(doing, sizeof doing, what[h->at], h->of->name);
    return rb_fail(err, RESBM_E_TIMEOUT,
                   "the optimizer's thread on the host has been at %s for %.3g s without moving a tile: the "
                   "device no longer answers, or this machine is overloaded; raise pipeline.deadline, or set "
                   "optim.offload_update: device",
                   doing, (double)(rb_now_ns() - since_ns) * 1e-9);
}

static void look(rb_host *h, int64_t ns) {
    rb_cond_wait_until(&h->changed, &h->lock, rb_now_ns() + ns);
}

/* Counts looks without a sign of life, not time: whoever was stopped for an hour has missed one look. */
resbm_status rb_host_wait(rb_host *h, uint64_t ticket, rb_err *err) {
    enum { LOOKS = 8 };
    pthread_mutex_lock(&h->lock);
    resbm_status st = RESBM_OK;
    int64_t begin = rb_now_ns(), moved = begin, next = begin + h->deadline_ns / LOOKS;
    uint64_t tiles = h->tiles, done = h->done;
    for (int quiet = 0; h->done < ticket && !st;) {
        look(h, h->deadline_ns / LOOKS);
        int64_t now = rb_now_ns();
        if (h->tiles != tiles || h->done != done) {
            moved = now;
            quiet = 0;
        } else if (now >= next && ++quiet == LOOKS) {
            st = slow(h, moved, err);
        }
        if (now >= next || !quiet) next = now + h->deadline_ns / LOOKS;
        tiles = h->tiles;
        done = h->done;
    }
    h->stats.waited_ns += rb_now_ns() - begin;
    if (h->fault.code) {
        st = h->fault.code;
        if (err) *err = h->fault;
    }
    pthread_mutex_unlock(&h->lock);
    return st;
}

resbm_status rb_host_settle(rb_host *h, rb_err *err) {
    return rb_host_wait(h, h->asked, err); /* only the caller asks */
}

void rb_host_get_stats(rb_host *h, rb_host_stats *out) {
    pthread_mutex_lock(&h->lock);
    *out = h->stats;
    pthread_mutex_unlock(&h->lock);
}

/* --- at rest ---------------------------------------------------------------------------------------------- */

resbm_status rb_host_exchange(rb_host *h, rb_hosted *t, bool back, rb_err *err) {
    size_t bytes = (size_t)t->count * rb_dtype_size(t->weight.dtype);
    if (back) {
        RB_TRY(rb_upload(h->copies, t->weight.data, t->down, bytes, err));
        return rb_queue_sync(h->copies, err);
    }
    RB_TRY(rb_download(h->copies, t->down, t->weight.data, bytes, err));
    RB_TRY(rb_queue_sync(h->copies, err));
    return publish(h, t, err);
}

resbm_status rb_host_read_used(rb_host *h, const rb_hosted *t, int64_t from, int64_t count, float *out,
                               rb_err *err) {
    size_t size = rb_dtype_size(t->weight.dtype);
    for (int64_t at = 0, n; at < count; at += n) {
        n = count - at < h->tile ? count - at : h->tile;
        void *to = size == sizeof(float) ? (void *)(out + at) : h->rounded[0];
        RB_TRY(rb_download(h->copies, to, (const char *)t->weight.data + (size_t)(from + at) * size,
                           (size_t)n * size, err));
        RB_TRY(rb_queue_sync(h->copies, err));
        for (int64_t i = 0; i < n && size != sizeof(float); i++)
            out[at + i] = rb_bf16_to_f32(h->rounded[0][i]);
    }
    return RESBM_OK;
}

resbm_status rb_host_write_used(rb_host *h, const rb_hosted *t, int64_t from, int64_t count, const float *in,
                                rb_err *err) {
    for (int64_t at = 0, n; at < count; at += n) {
        n = count - at < h->tile ? count - at : h->tile;
        RB_TRY(put(h, t, from + at, n, in + at, err));
    }
    return rb_queue_sync(h->copies, err);
}

/* --- opening ---------------------------------------------------------------------------------------------- */

static resbm_status open_all(rb_host *h, int threads, rb_err *err) {
    rb_device_options o = {.threads = threads};
    RB_TRY(rb_device_open("cpu", &o, &h->cpu, err));
    RB_TRY(rb_queue_open(h->cpu, &h->computes, err));
    RB_TRY(rb_queue_open(h->dev, &h->copies, err));
    h->rounded[0] = malloc(rb_host_window_bytes(h->tile));
    if (!h->rounded[0]) return rb_fail(err, RESBM_E_MEMORY, "no memory for two tiles");
    h->rounded[1] = h->rounded[0] + h->tile;
    int e = pthread_create(&h->worker, NULL, work, h);
    if (e) return rb_fail_errno(err, e, "no thread");
    h->runs = true;
    return RESBM_OK;
}

resbm_status rb_host_open(rb_device *dev, int threads, int64_t tile, int64_t deadline_ns, rb_host **out,
                          rb_err *err) {
    rb_host *h = calloc(1, sizeof *h);
    *out = NULL;
    if (!h) return rb_fail(err, RESBM_E_MEMORY, "no memory for updates on the host");
    h->dev = dev;
    h->tile = tile;
    h->deadline_ns = deadline_ns;
    pthread_mutex_init(&h->lock, NULL);
    rb_cond_init(&h->changed);
    resbm_status st = open_all(h, threads, err);
    if (st) {
        rb_host_close(h);
        return rb_err_context(err, st, "updates on the host: ");
    }
    *out = h;
    return RESBM_OK;
}

void rb_host_close(rb_host *h) {
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->closing = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    if (h->runs) pthread_join(h->worker, NULL);
    for (job *j = h->first, *next; j; j = next) {
        next = j->next;
        free(j);
    }
    rb_queue_close(h->copies);
    rb_queue_close(h->computes);
    rb_device_close(h->cpu);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->changed);
    free(h->rounded[0]);
    free(h);
}
