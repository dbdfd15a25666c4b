/* What the tests of model/ share: a small model, all segments in one process, run forward and backward with
 * or without the transport codec between segments. */
#ifndef RB_MODEL_TESTING_H
#define RB_MODEL_TESTING_H

#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/rng.h"
#include "model/model.h"

typedef struct world {
    rb_device *dev;
    rb_queue *q;
    rb_model_config model;
    rb_boundary_config boundary;
    rb_tensor_table table;
    rb_stage_model *stage;
    int64_t B, T;
    void *tokens, *targets; /* (B,T) i32 */
    void *bytes;            /* one packed part */
    void *unpacked[RB_MAX_WIRE_PARTS];
    void *latents[8]; /* by boundary, of the last backward */
    bool codec, split;
    bool away; /* gradients in a spill in memory */
    rb_spill *spill;
    int slots;
    uint64_t step;
    float aux_scale;
    double aux_loss[8]; /* of the last backward, by boundary */
    rb_segment_io io[8];
} world;

static inline rb_model_config small_model(void) {
    return (rb_model_config){.d = 16,
                             .layers = 3,
                             .heads = 4,
                             .kv_heads = 2,
                             .ffn = 24,
                             .vocab = 13,
                             .context = 16,
                             .segments = 3,
                             .init_std = 0.2,
                             .seed = 7};
}

static inline rb_boundary_config small_boundary(void) {
    return (rb_boundary_config){
        .kind = "residual", .k = 4, .hidden = 12, .codec_fwd = "int4", .codec_bwd = "int4"};
}

static inline void *device_memory(world *w, size_t bytes) {
    rb_err err;
    void *p = NULL;
    assert_ok(rb_alloc(w->dev, bytes, &p, &err), &err);
    return p;
}

/* w: model, boundary, B, T, slots (0 = 1), split, codec are set. */
static inline void world_open(world *w, const char *device, int threads, bool training) {
    rb_err err;
    rb_device_options dopt = {.threads = threads, .late_ns = 0};
    assert_ok(rb_model_check(&w->model, &w->boundary, &err), &err);
    assert_ok(rb_tensor_table_build(&w->model, &w->boundary, &w->table, &err), &err);
    assert_ok(rb_device_open(device, &dopt, &w->dev, &err), &err);
    assert_ok(rb_queue_open(w->dev, &w->q, &err), &err);
    if (!w->slots) w->slots = 1;
    rb_stage_options o = {.model = &w->model,
                          .boundary = &w->boundary,
                          .table = &w->table,
                          .segments = (int)w->model.segments,
                          .B = w->B,
                          .T = w->T,
                          .slots = w->slots,
                          .training = training,
                          .split_backward = w->split};
    rb_grads_away grads;
    assert_ok(rb_stage_grads_away(w->dev, &o, &grads, &err), &err);
    rb_spill_options spill = {.bytes = grads.spill, .deadline_ns = 20000000000};
    if (w->away) assert_ok(rb_spill_open(&spill, &w->spill, &err), &err);
    o.spill = w->spill;
    assert_ok(rb_stage_model_open(w->dev, &o, &w->stage, &err), &err);
    size_t ids = (size_t)(w->B * w->T) * 4, wide = ids * (size_t)w->model.d;
    w->tokens = device_memory(w, ids);
    w->targets = device_memory(w, ids);
    w->bytes = device_memory(w, 2 * wide + 64);
    for (int i = 0; i < RB_MAX_WIRE_PARTS; i++) w->unpacked[i] = device_memory(w, wide);
    for (int i = 0; i < 8; i++)
        w->latents[i] = w->boundary.aux == RB_AUX_LATENT ? device_memory(w, wide) : NULL;
}

static inline void world_close(world *w) {
    rb_stage_model_close(w->stage);
    rb_spill_close(w->spill);
    rb_queue_close(w->q);
    rb_free(w->dev, w->tokens);
    rb_free(w->dev, w->targets);
    rb_free(w->dev, w->bytes);
    for (int i = 0; i < RB_MAX_WIRE_PARTS; i++) rb_free(w->dev, w->unpacked[i]);
    for (int i = 0; i < 8; i++) rb_free(w->dev, w->latents[i]);
    rb_device_close(w->dev);
    rb_tensor_table_free(&w->table);
}

static inline void put(world *w, void *dst, const void *src, size_t bytes) {
    rb_err err;
    assert_ok(rb_upload(w->q, dst, src, bytes, &err), &err);
    assert_ok(rb_queue_sync(w->q, &err), &err);
}

/* A contiguous view's numbers; the caller frees. */
static inline void *get(world *w, rb_view v) {
    rb_err err;
    size_t bytes = (size_t)rb_count(v) * rb_dtype_size(v.dtype);
    void *host = malloc(bytes + 1);
    assert_non_null(host);
    assert_ok(rb_download(w->q, host, v.data, bytes, &err), &err);
    assert_ok(rb_queue_sync(w->q, &err), &err);
    return host;
}

static inline void random_ids(int32_t *ids, int64_t n, int64_t vocab, uint64_t key) {
    rb_rng r = {.key = key};
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)rb_rng_below(&r, (uint64_t)vocab);
}

/* targets: the next token within each sequence, -1 (ignored) at its end. */
static inline void world_tokens(world *w, const int32_t *ids) {
    int64_t n = w->B * w->T;
    int32_t *next = malloc((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) next[i] = (i + 1) % w->T ? ids[i + 1] : -1;
    put(w, w->tokens, ids, (size_t)n * 4);
    put(w, w->targets, next, (size_t)n * 4);
    free(next);
}

static inline void world_random_tokens(world *w, uint64_t key) {
    int32_t ids[4096];
    assert_true(w->B * w->T <= 4096);
    random_ids(ids, w->B * w->T, w->model.vocab, key);
    world_tokens(w, ids);
}

/* Parts of one boundary in one direction, through bytes when the world has a codec. */
static inline void cross(world *w, const rb_segment_io *from, rb_segment_io *to, int boundary, int direction,
                         int64_t B, int64_t T) {
    rb_err err;
    rb_wire wire;
    assert_ok(rb_model_wire(&w->model, &w->boundary, direction, &wire, &err), &err);
    for (int i = 0; i < wire.parts; i++) {
        rb_wire_part *p = &wire.part[i];
        to->in[i] = from->out[i];
        if (!w->codec) continue;
        p->pack.seed = w->model.seed, p->pack.step = w->step, p->pack.boundary = (uint32_t)boundary;
        rb_view steps = rb_none(),
                bytes = rb_view1(w->bytes, RB_U8, rb_packed_bytes(&p->pack, B, T, p->width));
        for (int r = 0; p->learned_steps && r < w->table.count && !steps.data; r++) {
            const rb_tensor *t = &w->table.rows[r];
            if (t->role == RB_ROLE_STEP && t->part_index == boundary) steps = rb_stage_weight(w->stage, r);
        }
        assert_ok(rb_pack(w->q, bytes, from->out[i], steps, &p->pack, &err), &err);
        to->in[i] = rb_view3(w->unpacked[i], RB_F32, B, T, p->width);
        assert_ok(rb_unpack(w->q, to->in[i], bytes, steps, &p->pack, &err), &err);
    }
}

/* Loss summed over the tokens. */
static inline double world_forward(world *w, int slot, float grad_scale) {
    rb_err err;
    int S = (int)w->model.segments;
    for (int s = 0; s < S; s++) {
        rb_segment_io *io = &w->io[s];
        io->tokens = rb_view2(w->tokens, RB_I32, w->B, w->T);
        io->targets = rb_view2(w->targets, RB_I32, w->B, w->T);
        io->grad_scale = grad_scale;
        if (s) cross(w, &w->io[s - 1], io, s - 1, 0, w->B, w->T);
        assert_ok(rb_segment_forward(w->stage, w->q, s, slot, io, &err), &err);
    }
    double *p = get(w, w->io[S - 1].loss), loss = *p;
    free(p);
    return loss;
}

typedef enum how { FUSED, HALVES } how;

/* What boundary s carried, as its receiver saw it, for the auxiliary loss on latents. */
static inline void keep_latents(world *w, int s) {
    rb_err err;
    rb_segment_io seen = {0};
    cross(w, &w->io[s], &seen, s, 0, w->B, w->T);
    w->io[s].latents = rb_view3(w->latents[s], RB_F32, w->B, w->T, w->boundary.k);
    assert_ok(rb_axpby(w->q, 1, seen.in[0], 0, w->io[s].latents, &err), &err);
}

static inline void world_backward(world *w, int slot, how h) {
    rb_err err;
    for (int s = (int)w->model.segments - 1; s >= 0; s--) {
        rb_segment_io *io = &w->io[s];
        io->aux_scale = w->aux_scale;
        io->row = slot * w->B * w->T;
        if (w->latents[s] && s + 1 < w->model.segments) keep_latents(w, s);
        if (s + 1 < w->model.segments) cross(w, &w->io[s + 1], io, s, 1, w->B, w->T);
        if (h == FUSED) assert_ok(rb_segment_backward(w->stage, w->q, s, slot, io, &err), &err);
        if (h == HALVES) assert_ok(rb_segment_backward_input(w->stage, w->q, s, slot, io, &err), &err);
        if (!io->aux_loss.data) continue;
        double *loss = get(w, io->aux_loss);
        w->aux_loss[s] = *loss;
        free(loss);
    }
    for (int s = 0; h == HALVES && s < w->model.segments; s++)
        assert_ok(rb_segment_backward_weight(w->stage, w->q, s, slot, &err), &err);
    assert_ok(rb_queue_sync(w->q, &err), &err);
}

static inline void world_zero(world *w) {
    rb_err err;
    assert_ok(rb_stage_zero_grads(w->stage, w->q, &err), &err);
}

/* Every gradient of two worlds is the same, bit for bit. */
static inline void assert_same_gradients(world *a, world *b) {
    assert_int_equal(a->table.count, b->table.count);
    for (int r = 0; r < a->table.count; r++) {
        rb_view va = rb_stage_grad(a->stage, r), vb = rb_stage_grad(b->stage, r);
        if (!va.data) continue;
        float *x = get(a, va), *y = get(b, vb);
        double sum = 0;
        for (int64_t i = 0; i < rb_count(va); i++) {
            sum += x[i] * x[i];
            if (memcmp(&x[i], &y[i], 4))
                fail_msg("gradient of %s differs at %lld: %.9g and %.9g", a->table.rows[r].name, (long long)i,
                         (double)x[i], (double)y[i]);
        }
        if (sum == 0) fail_msg("gradient of %s is all zero", a->table.rows[r].name);
        free(x);
        free(y);
    }
}

#endif
