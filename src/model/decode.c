/* Generation: the same blocks and boundaries as in training, one or more positions at a time, with keys and
 * values of what came before in a cache. Legend as in model.h; P capacity in positions, up to B*P rows at
 * once. */
#include <stdlib.h>
#include "model/stage.h"
#include "nn/linear.h"

typedef struct segment_cache {
    rb_block_cache *layer; /* (L) */
    rb_block_cache trunk[RB_MAX_TRUNK_BLOCKS];
} segment_cache;

struct rb_kv_cache {
    rb_stage_model *m;
    int64_t B, capacity;
    segment_cache *segment; /* (hosted segments) */
    rb_view x[2];           /* (B*P,d) */
    rb_block_saved block;
    rb_end_buffers enc, dec;
    rb_tokens_saved tokens;
    rb_stage_scratch scratch;
    rb_view out[RB_MAX_WIRE_PARTS];
    rb_view norm, rstd; /* (B,d), (B): last positions before the head */
    void *memory;
};

static rb_block_cache plan_cache(const rb_kv_cache *c, const rb_block_dims *s, rb_plan *p) {
    int64_t w = s->kv_heads * s->head;
    size_t bytes = (size_t)(c->B * c->capacity * w) * 4;
    void *k = rb_plan_take(p, bytes), *v = rb_plan_take(p, bytes);
    return (rb_block_cache){rb_view3(k, RB_F32, c->B, c->capacity, w),
                            rb_view3(v, RB_F32, c->B, c->capacity, w)};
}

static void plan_segment(rb_kv_cache *c, int i, rb_plan *p) {
    const rb_stage_model *m = c->m;
    const rb_segment *s = &m->segment[i];
    rb_block_dims trunk = rb_tokens_block_dims(&m->boundary, &s->dec.dims);
    for (int64_t l = 0; l < s->layers; l++)
        if (s->block[l].dims.part != RB_BLOCK_MLP)
            c->segment[i].layer[l] = plan_cache(c, &s->block[l].dims, p);
    if (s->first || m->boundary.tokens != RB_TOKENS_TRUNK) return;
    for (int64_t l = 0; l < m->boundary.trunk_blocks; l++) c->segment[i].trunk[l] = plan_cache(c, &trunk, p);
}

static void plan_ends(rb_kv_cache *c, int64_t n, rb_plan *p) {
    const rb_stage_model *m = c->m;
    const rb_segment *a = &m->segment[0], *z = &m->segment[m->opt.segments - 1];
    if (m->model.segments == 1) return;
    const rb_boundary_end *some = a->last ? &a->dec : &a->enc;
    if (!a->last) m->kind->plan_saved(&a->enc, n, p, &c->enc);
    if (!z->first) m->kind->plan_saved(&z->dec, n, p, &c->dec);
    m->kind->plan_scratch(some, n, p, &c->scratch.end);
    for (int i = 0; i < m->parts.count; i++) c->out[i] = rb_plan2(p, n, m->parts.width[i]);
    if (z->first || !rb_has_start(m)) return;
    rb_tokens_plan_saved(&z->tokens, n, p, &c->tokens);
    rb_tokens_plan_scratch(&z->tokens, n, false, p, &c->scratch.tokens);
}

static void plan_all(rb_kv_cache *c, rb_plan *p) {
    const rb_stage_model *m = c->m;
    int64_t n = c->B * c->capacity;
    rb_block_dims dims = rb_model_block_dims(&m->model);
    for (int i = 0; i < 2; i++) c->x[i] = rb_plan2(p, n, m->model.d);
    rb_block_plan_saved(&dims, n, p, &c->block);
    rb_block_plan_scratch(&dims, n, p, &c->scratch.block);
    plan_ends(c, n, p);
    c->norm = rb_plan2(p, c->B, m->model.d);
    c->rstd = rb_plan1(p, c->B);
    for (int i = 0; i < m->opt.segments; i++) plan_segment(c, i, p);
}

static resbm_status open_host(rb_kv_cache *c, rb_err *err) {
    const rb_stage_model *m = c->m;
    bool ok = (c->segment = calloc((size_t)m->opt.segments, sizeof *c->segment)) != NULL;
    for (int i = 0; ok && i < m->opt.segments; i++)
        ok = (c->segment[i].layer = calloc((size_t)m->segment[i].layers, sizeof(rb_block_cache))) != NULL;
    return ok ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "key/value cache: out of memory");
}

resbm_status rb_kv_cache_open(rb_stage_model *m, int64_t B, int64_t capacity, rb_kv_cache **out,
                              rb_err *err) {
    int64_t most = m->rope.cos.shape[0];
    resbm_status st;
    *out = NULL;
    if (B < 1 || B > 1 << 20 || capacity < 1 || capacity > most)
        return rb_fail(err, RESBM_E_ARG,
                       "key/value cache of %lld sequences of %lld positions: model.context is %lld",
                       (long long)B, (long long)capacity, (long long)most);
    rb_kv_cache *c = calloc(1, sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "key/value cache: out of memory");
    c->m = m;
    c->B = B;
    c->capacity = capacity;
    RB_TRY_GOTO(st, open_host(c, err), fail);
    rb_plan p = {0};
    plan_all(c, &p);
    RB_TRY_GOTO(st, rb_alloc(m->dev, p.used, &c->memory, err), fail);
    p = (rb_plan){.base = c->memory};
    plan_all(c, &p);
    *out = c;
    return RESBM_OK;
fail:
    rb_kv_cache_close(c);
    return st;
}

void rb_kv_cache_close(rb_kv_cache *c) {
    if (!c) return;
    for (int i = 0; c->segment && i < c->m->opt.segments; i++) free(c->segment[i].layer);
    free(c->segment);
    if (c->memory) rb_free(c->m->dev, c->memory);
    free(c);
}

static rb_end_buffers first_rows(rb_end_buffers b, int64_t n) {
    for (size_t i = 0; i < sizeof b.v / sizeof *b.v; i++)
        if (b.v[i].data) b.v[i] = rb_rows(b.v[i], 0, n);
    return b;
}

/* Tokens and parts of io, checked: T' from whichever there is. */
static resbm_status take_inputs(const rb_kv_cache *c, const rb_segment *s, int64_t offset,
                                const rb_segment_io *io, rb_run_ctx *run, rb_view *parts, rb_view *tokens,
                                rb_err *err) {
    const rb_stage_model *m = c->m;
    bool ids = s->first || rb_has_tokens(m);
    rb_view lead = ids ? io->tokens : io->in[0];
    int64_t T = lead.rank >= 2 ? lead.shape[1] : 0, n = c->B * T;
    bool ok = lead.data && lead.shape[0] == c->B && T >= 1 && offset >= 0 && offset <= c->capacity - T;
    if (ok && ids) ok = lead.dtype == RB_I32;
    for (int i = 0; ok && !s->first && i < m->parts.count; i++) {
        ok = io->in[i].data && io->in[i].dtype == RB_F32 && rb_count(io->in[i]) == n * m->parts.width[i];
        parts[i] = rb_as2(io->in[i], n, m->parts.width[i]);
    }
    if (!ok)
        return rb_fail(
            err, RESBM_E_ARG,
            "segment %d: generation at position %lld got inputs of %lldx%lld; the cache is %lld sequences of "
            "%lld positions",
            s->index, (long long)offset, (long long)lead.shape[0], (long long)T, (long long)c->B,
            (long long)c->capacity);
    if (ids) *tokens = rb_as1(lead);
    run->T = T;
    return RESBM_OK;
}

static resbm_status decode_blocks(rb_kv_cache *c, const rb_segment *s, const rb_run_ctx *run, rb_view *x,
                                  rb_err *err) {
    rb_block_cache *layer = c->segment[s - c->m->segment].layer;
    int64_t n = run->B * run->T;
    for (int64_t i = 0; i < s->layers; i++) {
        rb_view y = rb_rows(c->x[(i + 1) & 1], 0, n);
        RB_TRY(rb_block_forward(&s->block[i], run, y, *x, &c->block, &c->scratch.block, &layer[i], err));
        *x = y;
    }
    return RESBM_OK;
}

/* logits (B,V) of the last position of each sequence. */
static resbm_status last_logits(rb_kv_cache *c, const rb_segment *s, const rb_run_ctx *run, rb_view x,
                                rb_view logits, rb_err *err) {
    int64_t d = c->m->model.d;
    rb_view last = {(float *)x.data + (run->T - 1) * d, RB_F32, 2, {run->B, d, 1, 1}, {run->T * d, 1, 1, 1}};
    return rb_head_logits(&s->head, run->q, logits, last, c->norm, c->rstd, err);
}

resbm_status rb_segment_decode(rb_stage_model *m, rb_queue *q, rb_kv_cache *c, int segment, int64_t offset,
                               rb_segment_io *io, rb_view logits, rb_err *err) {
    rb_segment *s = NULL;
    rb_run_ctx run = {q, c->B, 0, offset};
    rb_view parts[RB_MAX_WIRE_PARTS], tokens = rb_none();
    RB_TRY(rb_find_segment(m, segment, &s, err));
    RB_TRY(take_inputs(c, s, offset, io, &run, parts, &tokens, err));
    int64_t n = run.B * run.T;
    rb_view x = rb_rows(c->x[0], 0, n);
    rb_segment_acts acts = {.dec = first_rows(c->dec, n), .tokens = c->tokens};
    rb_end_buffers enc_saved = first_rows(c->enc, n);
    rb_stage_scratch tmp = c->scratch;
    tmp.end = first_rows(tmp.end, n);
    RB_TRY(rb_segment_enter(m, s, &run, x, parts, tokens, &acts, &tmp, c->segment[s - m->segment].trunk,
                            false, err));
    RB_TRY(decode_blocks(c, s, &run, &x, err));
    if (s->last) return last_logits(c, s, &run, x, logits, err);
    rb_view out[RB_MAX_WIRE_PARTS];
    for (int i = 0; i < m->parts.count; i++) {
        out[i] = rb_rows(c->out[i], 0, n);
        io->out[i] = rb_view3(out[i].data, RB_F32, run.B, run.T, m->parts.width[i]);
    }
    rb_boundary_end enc = rb_end_of(&s->enc, q, &enc_saved, NULL, &tmp.end);
    return m->kind->encode_forward(&enc, x, out, err);
}
