/* Slots of devices that compute at once in the host's own memory: ref and cpu. */
#ifndef RB_DEVICE_HOST_H
#define RB_DEVICE_HOST_H

#include "device/device.h"

resbm_status rb_host_alloc(rb_device *dev, size_t bytes, void **out, rb_err *err);
void rb_host_free(rb_device *dev, void *p);
resbm_status rb_host_queue_open(rb_device *dev, rb_queue **out, rb_err *err);
void rb_host_queue_close(rb_queue *q);
resbm_status rb_host_upload(rb_queue *q, void *dst, const void *host, size_t bytes, rb_err *err);
resbm_status rb_host_download(rb_queue *q, void *host, const void *src, size_t bytes, rb_err *err);
resbm_status rb_host_event_record(rb_queue *q, rb_event *out, rb_err *err);
resbm_status rb_host_event_wait(rb_queue *q, rb_event e,
                                rb_err *err); /* faults were returned by the kernel itself */

resbm_status rb_host_queue_after(rb_queue *q, rb_queue *of, rb_event e,
                                 rb_err *err); /* everything is done already */

size_t rb_host_room(rb_device *dev); /* a process is seldom refused memory: not known */

#define RB_HOST_SLOTS                                                                                        \
    .host_memory = true, .alloc = rb_host_alloc, .free = rb_host_free, .queue_open = rb_host_queue_open,     \
    .queue_close = rb_host_queue_close, .upload = rb_host_upload, .download = rb_host_download,              \
    .event_record = rb_host_event_record, .event_wait = rb_host_event_wait,                                  \
    .queue_after = rb_host_queue_after, .room = rb_host_room

#endif
