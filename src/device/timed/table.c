#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "core/clock.h"
#include "device/host.h"
#include "device/tables.h"
#include "device/timed/timed.h"

typedef struct block {
    struct block *next;
    char *at;
    size_t bytes, mapped;
} block;

typedef struct timed_device {
    rb_device base;
    pthread_mutex_t lock;
    block *blocks;
    size_t bytes;
} timed_device;

typedef struct timed_queue {
    rb_queue base;
    double flops;
    double rest;    /* [0, 1) ns beyond due_ns */
    int64_t due_ns; /* when everything queued so far is done */
} timed_queue;

/* A host that is at most this late did not pause: the operation begins when the one before it was done. */
static const int64_t SLACK_NS = RB_MS;

static timed_device *device_of(const rb_device *d) {
    return (timed_device *)(uintptr_t)d;
}
static bool is_timed(const rb_device *d) {
    return !strcmp(d->table->name, rb_timed_table.name);
}

double rb_timed_flops(const rb_queue *q) {
    return is_timed(q->dev) ? ((const timed_queue *)q)->flops : 0;
}
size_t rb_timed_bytes(const rb_device *d) {
    return is_timed(d) ? device_of(d)->bytes : 0;
}

static resbm_status timed_alloc(rb_device *base, size_t bytes, void **out, rb_err *err) {
    timed_device *d = device_of(base);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = (bytes / page + 1) * page;
    block *b = calloc(1, sizeof *b);
    if (!b) return rb_fail(err, RESBM_E_MEMORY, "device timed: no memory for %zu bytes", bytes);
    void *at = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        free(b);
        return rb_fail(err, RESBM_E_MEMORY, "device timed: no addresses for %zu bytes", bytes);
    }
    *b = (block){NULL, at, bytes, mapped};
    pthread_mutex_lock(&d->lock);
    b->next = d->blocks;
    d->blocks = b;
    d->bytes += bytes;
    pthread_mutex_unlock(&d->lock);
    *out = at;
    return RESBM_OK;
}

static void timed_free(rb_device *base, void *p) {
    timed_device *d = device_of(base);
    pthread_mutex_lock(&d->lock);
    block **at = &d->blocks;
    while (*at && (*at)->at != p) at = &(*at)->next;
    block *b = *at;
    if (b) {
        *at = b->next;
        d->bytes -= b->bytes;
    }
    pthread_mutex_unlock(&d->lock);
    if (!b) return;
    munmap(b->at, b->mapped);
    free(b);
}

static resbm_status timed_kernel(rb_queue *base, const rb_op *op, rb_err *err) {
    timed_queue *q = (timed_queue *)base;
    double flops = rb_op_flops(op), speed = base->dev->opt.flops_per_s;
    (void)err;
    q->flops += flops;
    if (!(speed > 0) || !(flops > 0)) return RESBM_OK;
    int64_t now = rb_now_ns();
    if (now - q->due_ns > SLACK_NS) {
        q->due_ns = now;
        q->rest = 0;
    }
    double ns = flops / speed * 1e9 + q->rest;
    int64_t whole = (int64_t)ns;
    q->due_ns += whole;
    q->rest = ns - (double)whole;
    return RESBM_OK;
}

static resbm_status timed_upload(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err) {
    (void)q, (void)dst, (void)host, (void)bytes, (void)err;
    return RESBM_OK;
}

static resbm_status timed_download(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err) {
    (void)q, (void)src, (void)err;
    memset(host, 0, bytes);
    return RESBM_OK;
}

static resbm_status timed_event_record(rb_queue *q, rb_event *out, rb_err *err) {
    (void)err;
    out->ticket = (uint64_t)((timed_queue *)q)->due_ns;
    return RESBM_OK;
}

static resbm_status timed_event_wait(rb_queue *q, rb_event e, rb_err *err) {
    (void)q, (void)err;
    if (e.ticket) rb_sleep_until((int64_t)e.ticket);
    return RESBM_OK;
}

static resbm_status timed_queue_open(rb_device *dev, rb_queue **out, rb_err *err) {
    timed_queue *q = calloc(1, sizeof *q);
    if (!q) return rb_fail(err, RESBM_E_MEMORY, "device timed: no memory for a queue");
    q->base.dev = dev;
    *out = &q->base;
    return RESBM_OK;
}

static void timed_queue_close(rb_queue *q) {
    free(q);
}

static void timed_close(rb_device *base) {
    timed_device *d = device_of(base);
    while (d->blocks) timed_free(base, d->blocks->at);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static resbm_status timed_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    timed_device *d = calloc(1, sizeof *d);
    if (!d) return rb_fail(err, RESBM_E_MEMORY, "device timed: no memory");
    pthread_mutex_init(&d->lock, NULL);
    d->base.table = &rb_timed_table;
    d->base.opt = *opt;
    d->base.factor = opt->math == RB_MATH_BF16 ? RB_BF16 : RB_F32; /* as the device it stands for */
    *out = &d->base;
    return RESBM_OK;
}

const rb_device_table rb_timed_table = {
    .name = "timed",
    .summary = "computes nothing and takes the time it would take: plans, and runs that try out links",
    .open = timed_open,
    .close = timed_close,
    .alloc = timed_alloc,
    .free = timed_free,
    .queue_open = timed_queue_open,
    .queue_close = timed_queue_close,
    .upload = timed_upload,
    .download = timed_download,
    .event_record = timed_event_record,
    .event_wait = timed_event_wait,
    .queue_after = rb_host_queue_after,
    .room = rb_host_room,
    .kernel = {[0 ... RB_OP_COUNT - 1] = timed_kernel},
};
