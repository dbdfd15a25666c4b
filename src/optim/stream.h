/* Inside optim/: states (and gradients) that live in a spill pass through memory tile by tile while they are updated.
 *
 *     file      | tile 0: m, v | tile 1: m, v | tile 2: ... |                  read ahead, in order
 *     windows   [ tile 4 ] [ tile 1 ] [ tile 2 ] [ tile 3 ]                    tile i passes through window i % W
 *                being read  updated    read       read
 *
 * The spill keeps the order of the calls, so a window is read into again as soon as its write was queued. When an update
 * is done the first windows are filled for the next one: that, and the last writes, happen behind the next step's
 * computation. An update may be of a run of tiles alone (a segment's); which run is next is what came behind this one the
 * last time, and a wrong guess costs time only. */
#ifndef RB_OPTIM_STREAM_H
#define RB_OPTIM_STREAM_H

#include "core/spill.h"
#include "optim/rule.h"

enum { RB_STREAM_WINDOWS = 4, RB_STREAM_TILE = 1 << 20 /* elements */ };

/* Elements [from, from + count) of one tensor. Its states lie one behind the other from `at`, each on its own aligned
 * bytes. */
typedef struct rb_tile {
    int entry, states;
    int64_t from, count;
    uint64_t at;
    bool grad_away;   /* its gradient is in the spill as well, */
    uint64_t grad_at; /* from this byte on */
} rb_tile;

static inline uint64_t rb_tile_stride(const rb_tile *t) {
    return rb_spill_round((uint64_t)t->count * sizeof(float));
}

typedef struct rb_stream rb_stream;

/* tiles (n) become the stream's own (free) in any case. tile: elements of the largest. */
resbm_status rb_stream_open(rb_device *dev, rb_spill *spill, rb_tile *tiles, int n, int64_t tile,
                            rb_stream **out, rb_err *err);
void rb_stream_close(rb_stream *s); /* waits for what is under way; NULL is fine */
size_t rb_stream_window_bytes(const rb_device *dev, int64_t tile); /* of all windows, */
size_t rb_stream_device_bytes(const rb_device *dev, int64_t tile); /* and of those with the device */

/* An update of the tiles [from, to): begin; get and put of each in order; end. Gradients are read from begin on. */
resbm_status rb_stream_begin(rb_stream *s, int from, int to, rb_err *err);
/* state (of the tile), and grad where it is away: device views of (count). */
resbm_status rb_stream_get(rb_stream *s, rb_queue *q, int i, rb_view *state, rb_view *grad, rb_err *err);
resbm_status rb_stream_put(rb_stream *s, rb_queue *q, int i,
                           rb_err *err); /* blocks until the queue is done */
resbm_status rb_stream_end(rb_stream *s, rb_err *err);

/* Between updates: n bytes of a tile's state from byte `offset` on. */
resbm_status rb_stream_peek(rb_stream *s, int i, int state, int64_t offset, void *dst, size_t n, rb_err *err);
resbm_status rb_stream_poke(rb_stream *s, int i, int state, int64_t offset, const void *src, size_t n,
                            rb_err *err);

#endif
