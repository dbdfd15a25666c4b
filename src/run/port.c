#include "run/port.h"

#include <stdlib.h>
#include "codec/steps.h"

static rb_pack_args keyed(const rb_port *p, int part, rb_port_key key) {
    rb_pack_args a = p->wire.part[part].pack;
    a.seed = key.seed;
    a.step = key.step;
    a.sequence = key.sequence;
    a.boundary = (uint32_t)p->boundary;
    a.direction = (uint32_t)p->direction;
    return a;
}

static rb_view part_bytes(const rb_port *p, int part) {
    size_t at = 0;
    for (int i = 0; i < part; i++) at += p->part_bytes[i];
    return rb_view1((char *)p->bytes + at, RB_U8, (int64_t)p->part_bytes[part]);
}

static rb_view steps_of(const rb_port *p, int part) {
    return p->wire.part[part].learned_steps ? p->steps : rb_none();
}

resbm_status rb_port_resize(rb_port *p, rb_err *err) {
    p->packed_bytes = 0;
    for (int i = 0; i < p->wire.parts; i++) {
        const rb_wire_part *w = &p->wire.part[i];
        int64_t n = rb_packed_bytes(&w->pack, p->B, p->T, w->width);
        if (n < 0)
            return rb_fail(err, RESBM_E_CONFIG, "boundary %d cannot pack (%lld,%lld,%lld) this way",
                           p->boundary, (long long)p->B, (long long)p->T, (long long)w->width);
        p->part_bytes[i] = (size_t)n;
        p->packed_bytes += (size_t)n;
        if (w->learned_steps && rb_count(p->steps) != w->width)
            return rb_fail(err, RESBM_E_INTERNAL, "boundary %d has no learned steps for its %lld coordinates",
                           p->boundary, (long long)w->width);
    }
    return RESBM_OK;
}

resbm_status rb_port_narrow(rb_port *p, int64_t live, rb_err *err) {
    if (!p->dev || p->wire.part[0].width == live) return RESBM_OK;
    p->wire.part[0].width = live;
    if (p->steps.data) p->steps.shape[0] = live;
    if (p->stats.data) p->stats.shape[0] = live;
    return rb_port_resize(p, err);
}

static bool learns(const rb_port *p) {
    for (int i = 0; i < p->wire.parts; i++)
        if (p->wire.part[i].learned_steps) return true;
    return false;
}

resbm_status rb_port_open(rb_device *dev, const rb_model_config *m, const rb_boundary_config *b, int boundary,
                          int direction, int64_t B, int64_t T, rb_view steps, rb_port *out, rb_err *err) {
    *out =
        (rb_port){.boundary = boundary, .direction = direction, .B = B, .T = T, .steps = steps, .dev = dev};
    RB_TRY(rb_model_wire(m, b, direction, &out->wire, err));
    RB_TRY(rb_port_resize(out, err));
    RB_TRY(rb_alloc(dev, out->packed_bytes, &out->bytes, err));
    if (!learns(out)) return RESBM_OK;
    int64_t k = rb_count(steps);
    void *stats;
    RB_TRY(rb_alloc(dev, (size_t)k * 8, &stats, err));
    out->stats = rb_view1(stats, RB_I64, k);
    rb_queue *q;
    RB_TRY(rb_queue_open(dev, &q, err));
    resbm_status st = rb_fill(q, out->stats, 0, err);
    if (st == RESBM_OK) st = rb_queue_sync(q, err);
    rb_queue_close(q);
    return st;
}

int64_t rb_wire_bytes(const rb_wire *w, int64_t B, int64_t T) {
    int64_t sum = 0;
    for (int i = 0; i < w->parts; i++) {
        int64_t n = rb_packed_bytes(&w->part[i].pack, B, T, w->part[i].width);
        if (n < 0) return -1;
        sum += n;
    }
    return sum;
}

resbm_status rb_port_most_bytes(const rb_model_config *m, const rb_boundary_config *b, int64_t B, int64_t T,
                                size_t *out, rb_err *err) {
    size_t ids = (size_t)(B * (T + 1)) * (size_t)rb_id_bytes(m->vocab);
    *out = 0;
    for (int direction = 0; direction < 2; direction++) {
        rb_wire wire;
        RB_TRY(rb_model_wire(m, b, direction, &wire, err));
        int64_t n = rb_wire_bytes(&wire, B, T);
        if (n < 0)
            return rb_fail(err, RESBM_E_CONFIG, "boundaries cannot pack %lld sequences of %lld this way",
                           (long long)B, (long long)T);
        if (ids + (size_t)n > *out) *out = ids + (size_t)n;
    }
    return RESBM_OK;
}

void rb_port_close(rb_port *p) {
    if (!p->dev) return;
    if (!p->shared) rb_free(p->dev, p->bytes);
    rb_free(p->dev, p->stats.data);
    free(p->known);
    *p = (rb_port){0};
}

void rb_port_share(rb_port *p, const rb_port *with) {
    rb_free(p->dev, p->bytes);
    p->bytes = with->bytes;
    p->shared = true;
}

/* The coordinates of v (B,T,width) that cross, and those that do not. */
static rb_view crossing(const rb_port *p, int part, rb_view v) {
    if (p->wire.part[part].width < v.shape[2]) v.shape[2] = p->wire.part[part].width;
    return v;
}
static rb_view left_out(const rb_port *p, int part, rb_view v) {
    int64_t live = crossing(p, part, v).shape[2];
    v.data = (float *)v.data + live;
    v.shape[2] -= live;
    return v;
}

resbm_status rb_port_pack(rb_port *p, rb_queue *q, const rb_view *parts, rb_port_key key, rb_err *err) {
    for (int i = 0; i < p->wire.parts; i++) {
        rb_pack_args a = keyed(p, i, key);
        RB_TRY(rb_pack(q, part_bytes(p, i), crossing(p, i, parts[i]), steps_of(p, i), &a, err));
    }
    return RESBM_OK;
}

static resbm_status unpack_part(const rb_port *p, rb_queue *q, int part, rb_view out, rb_port_key key,
                                rb_err *err) {
    rb_pack_args a = keyed(p, part, key);
    rb_view rest = left_out(p, part, out);
    if (rest.shape[2] > 0) RB_TRY(rb_fill(q, rest, 0, err));
    return rb_unpack(q, crossing(p, part, out), part_bytes(p, part), steps_of(p, part), &a, err);
}

resbm_status rb_port_unpack(rb_port *p, rb_queue *q, const rb_view *parts, rb_port_key key, rb_err *err) {
    for (int i = 0; i < p->wire.parts; i++) RB_TRY(unpack_part(p, q, i, parts[i], key, err));
    return RESBM_OK;
}

resbm_status rb_port_unpack_latents(rb_port *p, rb_queue *q, rb_view latents, rb_port_key key, rb_err *err) {
    return unpack_part(p, q, 0, latents, key, err);
}

resbm_status rb_port_count(rb_port *p, rb_queue *q, rb_err *err) {
    for (int i = 0; i < p->wire.parts; i++) {
        if (!p->wire.part[i].learned_steps) continue;
        rb_pack_args a = keyed(p, i, (rb_port_key){0});
        RB_TRY(rb_code_stats(q, p->stats, part_bytes(p, i), p->B, p->T, &a, err));
    }
    p->counted++;
    return RESBM_OK;
}

resbm_status rb_port_advance(rb_port *p, rb_queue *q, uint64_t step, rb_err *err) {
    if (p->counted && p->step != step)
        RB_TRY(rb_port_update_steps(p, q, p->step, p->counted * p->B * p->T, err));
    p->step = step;
    return RESBM_OK;
}

resbm_status rb_port_settle(rb_port *p, rb_queue *q, uint64_t done, rb_err *err) {
    if (!p->counted) return RESBM_OK;
    if (p->step <= done) return rb_port_update_steps(p, q, p->step, p->counted * p->B * p->T, err);
    p->counted = 0;
    return p->stats.data ? rb_fill(q, p->stats, 0, err) : RESBM_OK;
}

resbm_status rb_port_update_steps(rb_port *p, rb_queue *q, uint64_t updates, int64_t tokens, rb_err *err) {
    int64_t k = rb_count(p->stats);
    p->counted = 0;
    if (!k) return RESBM_OK;
    float *steps = malloc((size_t)k * sizeof *steps);
    int64_t *sums = malloc((size_t)k * sizeof *sums);
    resbm_status st =
        steps && sums ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %lld steps", (long long)k);
    if (!st) st = rb_download(q, steps, p->steps.data, (size_t)k * sizeof *steps, err);
    if (!st) st = rb_download(q, sums, p->stats.data, (size_t)k * sizeof *sums, err);
    if (!st) st = rb_queue_sync(q, err);
    if (!st) {
        rb_steps_update(steps, sums, k, tokens, p->wire.part[0].pack.code, updates);
        st = rb_upload(q, p->steps.data, steps, (size_t)k * sizeof *steps, err);
    }
    if (!st) st = rb_fill(q, p->stats, 0, err);
    if (!st) st = rb_queue_sync(q, err);
    free(steps);
    free(sums);
    return st;
}

int rb_id_bytes(int64_t vocab) {
    int n = 1;
    while (n < 4 && vocab > (int64_t)1 << (8 * n)) n++;
    return n;
}

void rb_ids_put(uint8_t *out, const int32_t *ids, int64_t n, int id_bytes) {
    for (int64_t i = 0; i < n; i++)
        for (int b = 0; b < id_bytes; b++) *out++ = (uint8_t)((uint32_t)ids[i] >> (8 * b));
}

resbm_status rb_ids_get(int32_t *ids, const uint8_t *in, int64_t n, int id_bytes, int64_t vocab,
                        rb_err *err) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t v = 0;
        for (int b = 0; b < id_bytes; b++) v |= (uint32_t)*in++ << (8 * b);
        if (v >= (uint64_t)vocab)
            return rb_fail(err, RESBM_E_CORRUPT, "received token id %u at %lld, the vocabulary has %lld", v,
                           (long long)i, (long long)vocab);
        ids[i] = (int32_t)v;
    }
    return RESBM_OK;
}
