#include "optim/stream.h"

#include <stdlib.h>
#include <string.h>

/* host and device are the same memory where the device can use the host's. */
typedef struct window {
    char *host, *device;
    uint64_t ticket; /* of the last read into it */
} window;

/* Tiles [from, to). */
typedef struct run {
    int from, to;
} run;

struct rb_stream {
    rb_device *dev;
    rb_spill *spill;
    rb_tile *tile;
    int tiles;
    run *next; /* (tiles) by an update's first tile: the update behind it, the last time; empty: not known */
    size_t state_bytes, window_bytes; /* room for one state; of a window */
    window window[RB_STREAM_WINDOWS];
    void *host_memory, *device_memory;
    char *page;    /* peek and poke: one state of a tile */
    run now;       /* the update under way; between two, the one that windows are filled for */
    int last;      /* the first tile of the update before; -1: there was none */
    int read, put; /* where its tiles end whose reads are queued, which are done */
    bool updating;
};

/* A gradient may begin anywhere: a page more on either side. */
static size_t window_bytes(int64_t tile) {
    size_t state = rb_spill_round((uint64_t)tile * sizeof(float));
    return RB_MAX_STATES * state + state + 2 * RB_SPILL_ALIGN;
}

size_t rb_stream_window_bytes(const rb_device *dev, int64_t tile) {
    size_t one = window_bytes(tile) * RB_STREAM_WINDOWS + rb_spill_round((uint64_t)tile * sizeof(float));
    return one + rb_stream_device_bytes(dev, tile);
}

size_t rb_stream_device_bytes(const rb_device *dev, int64_t tile) {
    return dev->table->host_memory ? 0 : window_bytes(tile) * RB_STREAM_WINDOWS;
}

static resbm_status open_windows(rb_stream *s, rb_err *err) {
    size_t all = s->window_bytes * RB_STREAM_WINDOWS;
    s->host_memory = rb_spill_memory(all);
    s->page = rb_spill_memory(s->state_bytes);
    if (!s->host_memory || !s->page)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for windows of %zu bytes", all);
    if (!s->dev->table->host_memory) RB_TRY(rb_alloc(s->dev, all, &s->device_memory, err));
    for (size_t i = 0; i < RB_STREAM_WINDOWS; i++) {
        s->window[i].host = (char *)s->host_memory + i * s->window_bytes;
        s->window[i].device =
            s->device_memory ? (char *)s->device_memory + i * s->window_bytes : s->window[i].host;
    }
    return RESBM_OK;
}

resbm_status rb_stream_open(rb_device *dev, rb_spill *spill, rb_tile *tiles, int n, int64_t tile,
                            rb_stream **out, rb_err *err) {
    *out = NULL;
    rb_stream *s = calloc(1, sizeof *s);
    if (!s) {
        free(tiles);
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a stream of optimizer states");
    }
    s->dev = dev;
    s->spill = spill;
    s->tile = tiles;
    s->tiles = n;
    s->last = -1;
    s->state_bytes = rb_spill_round((uint64_t)tile * sizeof(float));
    s->window_bytes = window_bytes(tile);
    s->next = calloc((size_t)n + 1, sizeof *s->next);
    resbm_status st =
        s->next ? open_windows(s, err) : rb_fail(err, RESBM_E_MEMORY, "no memory for %d tiles", n);
    if (st)
        rb_stream_close(s);
    else
        *out = s;
    return st;
}

void rb_stream_close(rb_stream *s) {
    if (!s) return;
    rb_err ignored;
    for (int i = 0; i < RB_STREAM_WINDOWS; i++) rb_spill_wait(s->spill, s->window[i].ticket, &ignored);
    if (s->device_memory) rb_free(s->dev, s->device_memory);
    free(s->host_memory);
    free(s->page);
    free(s->next);
    free(s->tile);
    free(s);
}

/* --- an update */

static resbm_status read_states(rb_stream *s, int i, rb_err *err) {
    const rb_tile *t = &s->tile[i];
    window *w = &s->window[i % RB_STREAM_WINDOWS];
    return rb_spill_read(s->spill, t->at, w->host, rb_tile_stride(t) * (size_t)t->states, &w->ticket, err);
}

static size_t grad_begin(const rb_stream *s) {
    return RB_MAX_STATES * s->state_bytes;
}

static resbm_status read_grad(rb_stream *s, int i, rb_err *err) {
    const rb_tile *t = &s->tile[i];
    window *w = &s->window[i % RB_STREAM_WINDOWS];
    if (!t->grad_away) return RESBM_OK;
    uint64_t from = t->grad_at / RB_SPILL_ALIGN * RB_SPILL_ALIGN;
    uint64_t to = rb_spill_round(t->grad_at + (uint64_t)t->count * sizeof(float));
    return rb_spill_read(s->spill, from, w->host + grad_begin(s), to - from, &w->ticket, err);
}

/* States of the run's first tiles: they are as they will be when its update begins. */
static resbm_status fill(rb_stream *s, rb_err *err) {
    for (; s->read < s->now.to && s->read - s->now.from < RB_STREAM_WINDOWS; s->read++)
        RB_TRY(read_states(s, s->read, err));
    return RESBM_OK;
}

/* What was read ahead for another run is of no use. */
static void turn_to(rb_stream *s, run r) {
    if (r.from == s->now.from && r.to == s->now.to) return;
    s->now = r;
    s->read = r.from;
}

resbm_status rb_stream_begin(rb_stream *s, int from, int to, rb_err *err) {
    if (from < 0 || from >= to || to > s->tiles)
        return rb_fail(err, RESBM_E_ARG, "optimizer states: an update of tiles %d to %d of %d", from, to,
                       s->tiles);
    s->updating = true;
    if (s->last >= 0) s->next[s->last] = (run){from, to};
    s->last = from;
    turn_to(s, (run){from, to});
    s->put = from;
    RB_TRY(fill(s, err));
    for (int i = from; i < s->read; i++) RB_TRY(read_grad(s, i, err));
    return RESBM_OK;
}

resbm_status rb_stream_get(rb_stream *s, rb_queue *q, int i, rb_view *state, rb_view *grad, rb_err *err) {
    const rb_tile *t = &s->tile[i];
    window *w = &s->window[i % RB_STREAM_WINDOWS];
    size_t stride = rb_tile_stride(t), at = grad_begin(s) + t->grad_at % RB_SPILL_ALIGN;
    if (!s->updating || i != s->put || i >= s->read)
        return rb_fail(err, RESBM_E_STATE, "optimizer states: tile %d asked for, %d is next", i, s->put);
    RB_TRY(rb_spill_wait(s->spill, w->ticket, err));
    if (w->device != w->host) {
        RB_TRY(rb_upload(q, w->device, w->host, stride * (size_t)t->states, err));
        if (t->grad_away)
            RB_TRY(rb_upload(q, w->device + at, w->host + at, (size_t)t->count * sizeof(float), err));
    }
    for (int k = 0; k < t->states; k++) state[k] = rb_view1(w->device + (size_t)k * stride, RB_F32, t->count);
    if (t->grad_away) *grad = rb_view1(w->device + at, RB_F32, t->count);
    return RESBM_OK;
}

resbm_status rb_stream_put(rb_stream *s, rb_queue *q, int i, rb_err *err) {
    const rb_tile *t = &s->tile[i];
    window *w = &s->window[i % RB_STREAM_WINDOWS];
    size_t bytes = rb_tile_stride(t) * (size_t)t->states;
    if (w->device != w->host) RB_TRY(rb_download(q, w->host, w->device, bytes, err));
    RB_TRY(rb_queue_sync(q, err));
    RB_TRY(rb_spill_write(s->spill, t->at, w->host, bytes, &w->ticket, err));
    s->put = i + 1;
    if (s->read >= s->now.to) return RESBM_OK;
    int more = s->read++;
    RB_TRY(read_states(s, more, err));
    return read_grad(s, more, err);
}

/* Behind an update of all there is only another. */
resbm_status rb_stream_end(rb_stream *s, rb_err *err) {
    bool whole = s->now.from == 0 && s->now.to == s->tiles;
    s->updating = false;
    s->now = whole ? s->now : s->next[s->now.from];
    s->read = s->now.from;
    return fill(s, err);
}

/* --- checkpoints */

static resbm_status at_rest(const rb_stream *s, int i, int64_t offset, size_t n, rb_err *err) {
    if (s->updating)
        return rb_fail(err, RESBM_E_STATE, "optimizer states are read in the middle of an update");
    if (offset < 0 || (uint64_t)offset + n > (uint64_t)s->tile[i].count * sizeof(float))
        return rb_fail(err, RESBM_E_ARG, "optimizer states: %zu bytes at %lld of a tile of %lld elements", n,
                       (long long)offset, (long long)s->tile[i].count);
    return RESBM_OK;
}

static resbm_status load_page(rb_stream *s, int i, int state, rb_err *err) {
    const rb_tile *t = &s->tile[i];
    uint64_t ticket = 0;
    RB_TRY(rb_spill_read(s->spill, t->at + (uint64_t)state * rb_tile_stride(t), s->page, rb_tile_stride(t),
                         &ticket, err));
    return rb_spill_wait(s->spill, ticket, err);
}

resbm_status rb_stream_peek(rb_stream *s, int i, int state, int64_t offset, void *dst, size_t n,
                            rb_err *err) {
    RB_TRY(at_rest(s, i, offset, n, err));
    RB_TRY(load_page(s, i, state, err));
    memcpy(dst, s->page + offset, n);
    return RESBM_OK;
}

resbm_status rb_stream_poke(rb_stream *s, int i, int state, int64_t offset, const void *src, size_t n,
                            rb_err *err) {
    const rb_tile *t = &s->tile[i];
    uint64_t ticket = 0;
    RB_TRY(at_rest(s, i, offset, n, err));
    if (n < (size_t)t->count * sizeof(float)) RB_TRY(load_page(s, i, state, err));
    memcpy(s->page + offset, src, n);
    s->read = s->now.from; /* windows filled ahead hold what was there before */
    RB_TRY(rb_spill_write(s->spill, t->at + (uint64_t)state * rb_tile_stride(t), s->page, rb_tile_stride(t),
                          &ticket, err));
    return rb_spill_wait(s->spill, ticket, err);
}
