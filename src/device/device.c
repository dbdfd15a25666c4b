#include "device/device.h"

#include <stdlib.h>
#include <string.h>
#include "device/check.h"
#include "device/tables.h"
#include "device/widen.h"

const rb_device_table *const rb_devices[] = {&rb_ref_table, &rb_cpu_table, &rb_cuda_table, &rb_late_table,
                                             NULL};

/* The part of a name before its colon. */
static size_t base_length(const char *name) {
    return strcspn(name, ":");
}

const rb_device_table *rb_device_find(const char *name) {
    size_t n = base_length(name);
    for (int i = 0; rb_devices[i]; i++)
        if (strlen(rb_devices[i]->name) == n && !memcmp(rb_devices[i]->name, name, n)) return rb_devices[i];
    return !strcmp(name, rb_timed_table.name) ? &rb_timed_table : NULL;
}

static const char *missing_slot(const rb_device_table *t) {
    if (!t->close) return "close";
    if (!t->alloc) return "alloc";
    if (!t->free) return "free";
    if (!t->queue_open) return "queue_open";
    if (!t->queue_close) return "queue_close";
    if (!t->upload) return "upload";
    if (!t->download) return "download";
    if (!t->event_record) return "event_record";
    if (!t->event_wait) return "event_wait";
    if (!t->room) return "room";
    if (!t->queue_after) return "queue_after";
    for (int i = 0; i < RB_OP_COUNT; i++)
        if (!t->kernel[i]) return rb_op_info((rb_op_kind)i)->name;
    return NULL;
}

resbm_status rb_device_open_table(const rb_device_table *table, const rb_device_options *opt, rb_device **out,
                                  rb_err *err) {
    *out = NULL;
    if (opt->threads < 1)
        return rb_fail(err, RESBM_E_ARG, "device %s: %d threads, at least 1 is needed", table->name,
                       opt->threads);
    if (!table->open) return rb_fail(err, RESBM_E_INTERNAL, "device %s: slot open is empty", table->name);
    rb_device *dev = NULL;
    RB_TRY(table->open(opt, &dev, err));
    const char *hole = missing_slot(dev->table);
    if (hole) {
        if (dev->table->close) dev->table->close(dev);
        return rb_fail(err, RESBM_E_INTERNAL, "device %s: slot %s is empty", table->name, hole);
    }
    if (dev->table->host_memory && opt->math > RB_MATH_F32) {
        dev->table->close(dev);
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "device %s computes products in f32 only: set math to auto or f32", table->name);
    }
    dev->opt.variant = NULL; /* the caller's text need not outlive this call */
    *out = dev;
    return RESBM_OK;
}

resbm_status rb_device_open(const char *name, const rb_device_options *opt, rb_device **out, rb_err *err) {
    *out = NULL;
    const rb_device_table *table = rb_device_find(name);
    if (!table)
        return rb_fail(err, RESBM_E_ARG,
                       "there is no device \"%s\"; there are ref, cpu, cuda, late and timed", name);
    rb_device_options o = *opt;
    size_t n = base_length(name);
    if (name[n]) o.variant = name + n + 1;
    return rb_device_open_table(table, &o, out, err);
}

void rb_device_close(rb_device *dev) {
    if (dev) dev->table->close(dev);
}

resbm_status rb_alloc(rb_device *dev, size_t bytes, void **out, rb_err *err) {
    return dev->table->alloc(dev, bytes, out, err);
}

void rb_free(rb_device *dev, void *p) {
    if (p) dev->table->free(dev, p);
}

size_t rb_room(rb_device *dev) {
    return dev->table->room(dev);
}

void rb_choices(rb_device *dev, char *text, size_t size) {
    *text = 0;
    if (dev->table->choices) dev->table->choices(dev, text, size);
}

resbm_status rb_queue_open(rb_device *dev, rb_queue **out, rb_err *err) {
    return dev->table->queue_open(dev, out, err);
}

void rb_queue_close(rb_queue *q) {
    if (q) q->dev->table->queue_close(q);
}

resbm_status rb_queue_sync(rb_queue *q, rb_err *err) {
    rb_event e;
    RB_TRY(q->dev->table->event_record(q, &e, err));
    return q->dev->table->event_wait(q, e, err);
}

resbm_status rb_upload(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err) {
    return q->dev->table->upload(q, dst, host, bytes, err);
}

resbm_status rb_download(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err) {
    return q->dev->table->download(q, host, src, bytes, err);
}

resbm_status rb_run(rb_queue *q, const rb_op *op, rb_err *err) {
    RB_TRY(rb_check_op(op, err));
    if (q->dev->table->host_memory && rb_wants_widening(op)) return rb_run_widened(q, op, err);
    return q->dev->table->kernel[op->kind](q, op, err);
}
