/* How elementwise kernels cut equal-shaped views: rows where any of them has gaps, else fixed pieces of the
 * flat array. The cut depends on the views only, so it is the same for any number of threads. */
#ifndef RB_DEVICE_CPU_SPANS_H
#define RB_DEVICE_CPU_SPANS_H

#include "device/view.h"

enum { RB_SPAN = 4096, RB_SPAWN_ELEMENTS = 16384 /* below this a team costs more than it gives */ };

typedef struct rb_spans {
    bool flat;
    int64_t count, width, total;
} rb_spans;

static inline rb_spans rb_spans_of(const rb_view *v, int views) {
    rb_spans s = {true, 0, rb_row_width(v), rb_count(*v)};
    for (int i = 0; i < views; i++)
        if (v[i].data && !rb_is_flat(&v[i])) s.flat = false;
    if (s.flat) s.width = RB_SPAN;
    s.count = s.flat ? (s.total + RB_SPAN - 1) / RB_SPAN : rb_row_count(v);
    return s;
}

static inline int64_t rb_span_length(const rb_spans *s, int64_t i) {
    return s->flat && i == s->count - 1 ? s->total - i * RB_SPAN : s->width;
}

static inline int64_t rb_span_offset(const rb_spans *s, const rb_view *v, int64_t i) {
    return s->flat ? i * RB_SPAN : rb_row_offset(v, i);
}

static inline float *rb_span_f32(const rb_spans *s, const rb_view *v, int64_t i) {
    return v->data ? (float *)v->data + rb_span_offset(s, v, i) : NULL;
}

#endif
