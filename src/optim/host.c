#include "optim/host.h"

#include <stdlib.h>

enum { WINDOWS = 3 };

typedef struct window {
    float *weight, *grad; /* (tile) */
    rb_event there;       /* both are down */
} window;

struct rb_host {
    rb_device *dev, *cpu;
    rb_queue *q; /* of cpu */
    int64_t tile;
    void *memory;
    window window[WINDOWS];
};

size_t rb_host_window_bytes(int64_t tile) {
    return (size_t)tile * sizeof(float) * 2 * WINDOWS;
}

static resbm_status open_all(rb_host *h, int threads, rb_err *err) {
    rb_device_options o = {.threads = threads};
    RB_TRY(rb_device_open("cpu", &o, &h->cpu, err));
    RB_TRY(rb_queue_open(h->cpu, &h->q, err));
    RB_TRY(rb_alloc(h->cpu, rb_host_window_bytes(h->tile), &h->memory, err));
    for (int i = 0; i < WINDOWS; i++) {
        h->window[i].weight = (float *)h->memory + 2 * i * h->tile;
        h->window[i].grad = h->window[i].weight + h->tile;
    }
    return RESBM_OK;
}

resbm_status rb_host_open(rb_device *dev, int threads, int64_t tile, rb_host **out, rb_err *err) {
    rb_host *h = calloc(1, sizeof *h);
    *out = NULL;
    if (!h) return rb_fail(err, RESBM_E_MEMORY, "no memory for updates on the host");
    h->dev = dev;
    h->tile = tile;
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
    if (h->memory) rb_free(h->cpu, h->memory);
    rb_queue_close(h->q);
    rb_device_close(h->cpu);
    free(h);
}

static int64_t count_at(const rb_host *h, const rb_rule_call *c, int64_t i) {
    int64_t left = rb_count(c->weight) - i * h->tile;
    return left < h->tile ? left : h->tile;
}

/* A window is filled again behind the upload out of it: the queue keeps that order. */
static resbm_status fetch(rb_host *h, rb_queue *q, const rb_rule_call *c, int64_t i, rb_err *err) {
    window *w = &h->window[i % WINDOWS];
    size_t bytes = (size_t)count_at(h, c, i) * sizeof(float);
    RB_TRY(rb_download(q, w->grad, (float *)c->grad.data + i * h->tile, bytes, err));
    RB_TRY(rb_download(q, w->weight, (float *)c->weight.data + i * h->tile, bytes, err));
    return h->dev->table->event_record(q, &w->there, err);
}

static resbm_status update_tile(rb_host *h, rb_queue *q, const rb_rule_table *rule, const rb_rule_call *whole,
                                int64_t i, float *const *state, rb_err *err) {
    window *w = &h->window[i % WINDOWS];
    rb_rule_call c = *whole;
    c.from = 0;
    c.count = count_at(h, whole, i);
    c.weight.data = w->weight; /* the whole tensor's shape, by which it decays; only the tile is touched */
    c.grad = rb_view1(w->grad, RB_F32, c.count);
    for (int k = 0; k < rule->states; k++) c.state[k] = rb_view1(state[k] + i * h->tile, RB_F32, c.count);
    RB_TRY(h->dev->table->event_wait(q, w->there, err));
    RB_TRY(rule->tile(h->q, &c, err));
    RB_TRY(rb_queue_sync(h->q, err));
    return rb_upload(q, (float *)whole->weight.data + i * h->tile, w->weight, (size_t)c.count * sizeof(float),
                     err);
}

resbm_status rb_host_update(rb_host *h, rb_queue *q, const rb_rule_table *rule, const rb_rule_call *c,
                            float *const *state, rb_err *err) {
    int64_t tiles = (rb_count(c->weight) + h->tile - 1) / h->tile, asked = 0;
    for (int64_t i = 0; i < tiles; i++) {
        for (; asked < tiles && asked < i + WINDOWS; asked++) RB_TRY(fetch(h, q, c, asked, err));
        RB_TRY(update_tile(h, q, rule, c, i, state, err));
    }
    return RESBM_OK;
}
