#include "device/host.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

resbm_status rb_host_alloc(rb_device *dev, size_t bytes, void **out, rb_err *err) {
    bool huge = bytes >= HUGE_PAGE; /* fewer TLB misses in the products; only advice to the kernel */
    void *p = NULL;
    if (posix_memalign(&p, huge ? HUGE_PAGE : 64, bytes ? bytes : 1))
        return rb_fail(err, RESBM_E_MEMORY, "device %s: no memory for %zu bytes", dev->table->name, bytes);
    if (huge) madvise(p, bytes, MADV_HUGEPAGE);
    *out = p;
    return RESBM_OK;
}

void rb_host_free(rb_device *dev, void *p) {
    (void)dev;
    free(p);
}

resbm_status rb_host_queue_open(rb_device *dev, rb_queue **out, rb_err *err) {
    rb_queue *q = malloc(sizeof *q);
    if (!q) return rb_fail(err, RESBM_E_MEMORY, "device %s: no memory for a queue", dev->table->name);
    q->dev = dev;
    *out = q;
    return RESBM_OK;
}

void rb_host_queue_close(rb_queue *q) {
    free(q);
}

resbm_status rb_host_upload(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err) {
    (void)q, (void)err;
    memcpy(dst, host, bytes);
    return RESBM_OK;
}

resbm_status rb_host_download(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err) {
    (void)q, (void)err;
    memcpy(host, src, bytes);
    return RESBM_OK;
}

resbm_status rb_host_event_record(rb_queue *q, rb_event *out, rb_err *err) {
    (void)q, (void)err;
    out->ticket = 0;
    return RESBM_OK;
}

resbm_status rb_host_event_wait(rb_queue *q, rb_event e, rb_err *err) {
    (void)q, (void)e, (void)err;
    return RESBM_OK;
}

resbm_status rb_host_queue_after(rb_queue *q, rb_queue *of, rb_event e, rb_err *err) {
    (void)q, (void)of, (void)e, (void)err;
    return RESBM_OK;
}

size_t rb_host_room(rb_device *dev) {
    (void)dev;
    return 0;
}
