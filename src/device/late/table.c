/* Device "late" (tests): another device whose operations complete late, on a worker thread per queue, and
 * whose memory the host cannot read.
 *
 *     alloc hands out   [ PROT_NONE ...... ]      an address inside it means nothing to the host
 *     and keeps         [ inner memory ... ]      the worker adds the difference before it runs a record
 *
 * A view must lie wholly in one block of this device: an address that does not (a host pointer passed where
 * rb_upload was forgotten) is refused by name when the record is queued. Faults of queued operations
 * are kept and the first one is returned by every wait after it.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "core/clock.h"
#include "device/check.h"
#include "device/tables.h"

typedef struct block {
    struct block *next;
    char *shown, *real;
    size_t bytes, mapped;
} block;

typedef struct late_device {
    rb_device base;
    rb_device_table table;
    rb_device *inner;
    pthread_mutex_t lock;
    block *blocks;
} late_device;

typedef enum item_kind { ITEM_OP, ITEM_COPY, ITEM_AFTER } item_kind;
typedef struct item {
    struct item *next;
    item_kind kind;
    uint64_t ticket;
    rb_op op;
    void *to; /* ITEM_COPY: addresses as they really are */
    const void *from;
    size_t bytes;
    bool upload;
    struct late_queue *of; /* ITEM_AFTER: has to have done this */
    uint64_t behind;
} item;

typedef struct late_queue {
    rb_queue base;
    rb_queue *inner;
    pthread_t worker;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    item *first, *last;
    uint64_t queued, done;
    bool closing;
    rb_err fault; /* the first; code 0 = none */
} late_queue;

static late_device *device_of(rb_device *d) {
    return (late_device *)d;
}

/* Address of the memory behind [p, p + bytes), NULL where that is not one block's. */
static void *real_address(late_device *d, const void *p, size_t bytes) {
    void *found = NULL;
    pthread_mutex_lock(&d->lock);
    for (block *b = d->blocks; b && !found; b = b->next) {
        size_t at = (size_t)((const char *)p - b->shown);
        if ((const char *)p >= b->shown && at <= b->bytes && bytes <= b->bytes - at) found = b->real + at;
    }
    pthread_mutex_unlock(&d->lock);
    return found;
}

static size_t view_bytes(const rb_view *v) {
    int64_t last = 0;
    for (int i = 0; i < v->rank; i++) last += (v->shape[i] - 1) * v->stride[i];
    return (size_t)(last + 1) * rb_dtype_size(v->dtype);
}

static resbm_status late_alloc(rb_device *base, size_t bytes, void **out, rb_err *err) {
    late_device *d = device_of(base);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = (bytes + page) / page * page;
    block *b = calloc(1, sizeof *b);
    if (!b) return rb_fail(err, RESBM_E_MEMORY, "device late: no memory for %zu bytes", bytes);
    void *real = NULL;
    resbm_status st = rb_alloc(d->inner, bytes, &real, err);
    if (st != RESBM_OK) {
        free(b);
        return st;
    }
    void *shown = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shown == MAP_FAILED) {
        rb_free(d->inner, real);
        free(b);
        return rb_fail(err, RESBM_E_MEMORY, "device late: no addresses for %zu bytes", bytes);
    }
    *b = (block){NULL, shown, real, bytes, mapped};
    pthread_mutex_lock(&d->lock);
    b->next = d->blocks;
    d->blocks = b;
    pthread_mutex_unlock(&d->lock);
    *out = shown;
    return RESBM_OK;
}

static size_t late_room(rb_device *base) {
    return rb_room(device_of(base)->inner);
}

static void late_free(rb_device *base, void *p) {
    late_device *d = device_of(base);
    pthread_mutex_lock(&d->lock);
    block **at = &d->blocks;
    while (*at && (*at)->shown != p) at = &(*at)->next;
    block *b = *at;
    if (b) *at = b->next;
    pthread_mutex_unlock(&d->lock);
    if (!b) return;
    rb_free(d->inner, b->real);
    munmap(b->shown, b->mapped);
    free(b);
}

static void wait_done(late_queue *q, uint64_t ticket) {
    pthread_mutex_lock(&q->lock);
    while (q->done < ticket) pthread_cond_wait(&q->changed, &q->lock);
    pthread_mutex_unlock(&q->lock);
}

static resbm_status run_item(late_queue *q, const item *it, rb_err *err) {
    if (it->kind == ITEM_AFTER) wait_done(it->of, it->behind);
    if (it->kind == ITEM_AFTER) return RESBM_OK;
    if (it->kind == ITEM_OP) return rb_run(q->inner, &it->op, err);
    return it->upload ? rb_upload(q->inner, it->to, it->from, it->bytes, err)
                      : rb_download(q->inner, it->to, it->from, it->bytes, err);
}

static item *next_item(late_queue *q) {
    pthread_mutex_lock(&q->lock);
    while (!q->first && !q->closing) pthread_cond_wait(&q->changed, &q->lock);
    item *it = q->first;
    if (it) q->first = it->next;
    if (!q->first) q->last = NULL;
    pthread_mutex_unlock(&q->lock);
    return it;
}

static void *work(void *arg) {
    late_queue *q = arg;
    for (item *it; (it = next_item(q));) {
        rb_err err = {0};
        rb_sleep_ns(__atomic_load_n(&q->base.dev->opt.late_ns, __ATOMIC_RELAXED));
        resbm_status st = run_item(q, it, &err);
        if (st == RESBM_OK) st = rb_queue_sync(q->inner, &err);
        pthread_mutex_lock(&q->lock);
        if (st != RESBM_OK && !q->fault.code) q->fault = err;
        q->done = it->ticket;
        pthread_cond_broadcast(&q->changed);
        pthread_mutex_unlock(&q->lock);
        free(it);
    }
    return NULL;
}

static resbm_status push(late_queue *q, const item *what, rb_err *err) {
    item *it = malloc(sizeof *it);
    if (!it) return rb_fail(err, RESBM_E_MEMORY, "device late: no memory to queue an operation");
    *it = *what;
    it->next = NULL;
    pthread_mutex_lock(&q->lock);
    it->ticket = ++q->queued;
    if (q->last)
        q->last->next = it;
    else
        q->first = it;
    q->last = it;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    return RESBM_OK;
}

static resbm_status late_kernel(rb_queue *base, const rb_op *op, rb_err *err) {
    late_device *d = device_of(base->dev);
    item it = {.kind = ITEM_OP, .op = *op};
    for (int j = 0; j < rb_op_info(op->kind)->views; j++) {
        rb_view *v = &it.op.t[j];
        if (!v->rank) continue;
        v->data = real_address(d, v->data, view_bytes(v));
        if (!v->data)
            return rb_fail(err, RESBM_E_ARG,
                           "%s: %s does not lie in this device's memory (rb_upload missing?)",
                           rb_op_info(op->kind)->name, rb_op_view_name(op->kind, j));
    }
    return push((late_queue *)base, &it, err);
}

static resbm_status queue_copy(rb_queue *base, void *to, const void *from, size_t bytes, bool upload,
                               rb_err *err) {
    late_device *d = device_of(base->dev);
    item it = {.kind = ITEM_COPY, .to = to, .from = from, .bytes = bytes, .upload = upload};
    void *real = real_address(d, upload ? to : from, bytes);
    if (!real)
        return rb_fail(err, RESBM_E_ARG, "%s of %zu bytes: the device's side is not in this device's memory",
                       upload ? "upload" : "download", bytes);
    if (upload)
        it.to = real;
    else
        it.from = real;
    return push((late_queue *)base, &it, err);
}

static resbm_status late_upload(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err) {
    return queue_copy(q, dst, host, bytes, true, err);
}

static resbm_status late_download(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err) {
    return queue_copy(q, host, src, bytes, false, err);
}

static resbm_status late_event_record(rb_queue *base, rb_event *out, rb_err *err) {
    late_queue *q = (late_queue *)base;
    (void)err;
    pthread_mutex_lock(&q->lock);
    out->ticket = q->queued;
    pthread_mutex_unlock(&q->lock);
    return RESBM_OK;
}

static resbm_status late_event_wait(rb_queue *base, rb_event e, rb_err *err) {
    late_queue *q = (late_queue *)base;
    pthread_mutex_lock(&q->lock);
    while (q->done < e.ticket) pthread_cond_wait(&q->changed, &q->lock);
    resbm_status st = q->fault.code;
    if (st != RESBM_OK && err) *err = q->fault;
    pthread_mutex_unlock(&q->lock);
    return st;
}

static resbm_status late_queue_after(rb_queue *base, rb_queue *of, rb_event e, rb_err *err) {
    item it = {.kind = ITEM_AFTER, .of = (late_queue *)of, .behind = e.ticket};
    return push((late_queue *)base, &it, err);
}

static void late_queue_close(rb_queue *base) {
    late_queue *q = (late_queue *)base;
    pthread_mutex_lock(&q->lock);
    q->closing = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->worker, NULL);
    rb_queue_close(q->inner);
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static resbm_status late_queue_open(rb_device *base, rb_queue **out, rb_err *err) {
    late_queue *q = calloc(1, sizeof *q);
    if (!q) return rb_fail(err, RESBM_E_MEMORY, "device late: no memory for a queue");
    q->base.dev = base;
    resbm_status st = rb_queue_open(device_of(base)->inner, &q->inner, err);
    if (st != RESBM_OK) {
        free(q);
        return st;
    }
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    int e = pthread_create(&q->worker, NULL, work, q);
    if (!e) {
        *out = &q->base;
        return RESBM_OK;
    }
    rb_queue_close(q->inner);
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q);
    return rb_fail_errno(err, e, "device late: no thread for a queue");
}

static void late_choices(rb_device *base, char *text, size_t size) {
    rb_choices(device_of(base)->inner, text, size);
}

static void late_close(rb_device *base) {
    late_device *d = device_of(base);
    while (d->blocks) late_free(base, d->blocks->shown);
    rb_device_close(d->inner);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static resbm_status late_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    late_device *d = calloc(1, sizeof *d);
    if (!d) return rb_fail(err, RESBM_E_MEMORY, "device late: no memory");
    rb_device_options inner = *opt;
    inner.variant = NULL;
    resbm_status st =
        rb_device_open(opt->variant && *opt->variant ? opt->variant : "ref", &inner, &d->inner, err);
    if (st != RESBM_OK) {
        free(d);
        return st;
    }
    pthread_mutex_init(&d->lock, NULL);
    d->table = rb_late_table;
    for (int i = 0; i < RB_OP_COUNT; i++) d->table.kernel[i] = late_kernel;
    d->base.table = &d->table;
    d->base.opt = *opt;
    d->base.factor = d->inner->factor;
    d->base.working = d->inner->working;
    *out = &d->base;
    return RESBM_OK;
}

const rb_device_table rb_late_table = {
    .name = "late",
    .summary = "for tests: another device (late:cpu; ref by default) that completes late in hidden memory",
    .open = late_open,
    .close = late_close,
    .alloc = late_alloc,
    .free = late_free,
    .queue_open = late_queue_open,
    .queue_close = late_queue_close,
    .upload = late_upload,
    .download = late_download,
    .event_record = late_event_record,
    .event_wait = late_event_wait,
    .queue_after = late_queue_after,
    .room = late_room,
    .choices = late_choices,
};
