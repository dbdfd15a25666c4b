/* Generation: a prompt, then token by token, through the same boundaries as training. The last stage draws. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "core/rng.h"
#include "run/control.h"
#include "run/stage.h"

/* Draws from softmax(logits / temperature) cut to the smallest set of probability top_p (Holtzman et al. 2020);
 * temperature 0 takes the largest. u in [0,1). Ties go to the smaller id. */
typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

static int by_logit(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static int32_t draw(const candidate *c, int64_t n, double temperature, double top_p, double u) {
    if (temperature <= 0) return c[0].id;
    double total = 0, kept = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) total += exp((double)(c[i].logit - c[0].logit) / temperature);
    int64_t m = 0;
    while (m < n && (m == 0 || kept < top_p * total))
        kept += exp((double)(c[m++].logit - c[0].logit) / temperature);
    for (int64_t i = 0; i < m; i++) {
        sum += exp((double)(c[i].logit - c[0].logit) / temperature);
        if (sum > u * kept) return c[i].id;
    }
    return c[m - 1].id;
}

static resbm_status choose(rb_stage *s, const json_t *in, const float *logits, int64_t position, int32_t *id,
                           rb_err *err) {
    double arg[2];
    int64_t V = s->cfg.model.vocab;
    RB_TRY(rb_json_get_doubles(json_object_get(in, "sample"), arg, 2, "decode.sample", err));
    candidate *c = malloc((size_t)V * sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld logits", (long long)V);
    for (int64_t i = 0; i < V; i++) {
        if (!isfinite(logits[i])) {
            free(c);
            return rb_fail(err, RESBM_E_NUMERIC, "the logit of token %lld at position %lld is %g",
                           (long long)i, (long long)position, (double)logits[i]);
        }
        c[i] = (candidate){logits[i], (int32_t)i};
    }
    qsort(c, (size_t)V, sizeof *c, by_logit);
    rb_rng r = {.key =
                    rb_mix64((uint64_t)json_integer_value(json_object_get(in, "seed")), (uint64_t)position)};
    *id = draw(c, V, arg[0], arg[1], rb_rng_uniform(&r));
    free(c);
    return RESBM_OK;
}

/* Packs what segment host[i] gives, hands it over or sends it. T is that of the tokens fed. */
static resbm_status pass_on(rb_stage *s, int i, int64_t T, const rb_view *parts, rb_view *next, rb_err *err) {
    rb_port p = s->out_port[i];
    p.B = 1;
    p.T = T;
    RB_TRY(rb_port_resize(&p, err));
    rb_port_key key = {s->cfg.train.seed, 0, 0};
    RB_TRY(rb_port_pack(&p, s->q, parts, key, err));
    if (i + 1 < s->hosted) return rb_port_unpack(&p, s->q, next, key, err);
    rb_message *m = rb_message_new(p.packed_bytes);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for a message of %zu bytes", p.packed_bytes);
    m->head = (rb_frame_header){.kind = RB_FRAME_FORWARD,
                                .epoch = s->epoch,
                                .boundary = (uint16_t)p.boundary,
                                .code = (uint8_t)p.wire.part[0].pack.code,
                                .scale = (uint8_t)p.wire.part[0].pack.scale,
                                .step = s->step,
                                .B = 1,
                                .T = (uint32_t)T,
                                .k = (uint32_t)p.wire.part[0].width,
                                .payload_bytes = p.packed_bytes};
    m->traffic = RB_TRAFFIC_ACTIVATION;
    resbm_status st = rb_download(s->q, m->payload, p.bytes, p.packed_bytes, err);
    if (!st) st = rb_queue_sync(s->q, err);
    if (st) {
        rb_message_free(m);
        return st;
    }
    s->handed[RB_TRAFFIC_ACTIVATION] += RB_FRAME_HEADER_BYTES + p.packed_bytes;
    return rb_link_send(s->link, rb_stage_of(&s->cfg, p.boundary + 1), m,
                        rb_now_ns() + s->cfg.pipeline.deadline_ns, err);
}

static resbm_status take_in(rb_stage *s, int64_t T, rb_view *parts, rb_err *err) {
    rb_port p = s->in_port[0];
    p.B = 1;
    p.T = T;
    RB_TRY(rb_port_resize(&p, err));
    rb_frame_header want = {.kind = RB_FRAME_FORWARD,
                            .epoch = s->epoch,
                            .boundary = (uint16_t)p.boundary,
                            .code = (uint8_t)p.wire.part[0].pack.code,
                            .scale = (uint8_t)p.wire.part[0].pack.scale,
                            .step = s->step,
                            .B = 1,
                            .T = (uint32_t)T,
                            .k = (uint32_t)p.wire.part[0].width,
                            .payload_bytes = p.packed_bytes};
    rb_message *m;
    RB_TRY(rb_link_recv(s->link, rb_stage_of(&s->cfg, p.boundary), &want,
                        rb_now_ns() + s->cfg.pipeline.deadline_ns, &m, err));
    resbm_status st = rb_frame_expect(&m->head, &want, err);
    if (!st) st = rb_upload(s->q, p.bytes, m->payload, p.packed_bytes, err);
    if (!st) st = rb_port_unpack(&p, s->q, parts, (rb_port_key){s->cfg.train.seed, 0, 0}, err);
    if (!st) st = rb_queue_sync(s->q, err);
    rb_message_free(m);
    return st;
}

/* The first T positions of what a berth holds for a whole microbatch. */
static void shorten(const rb_view *from, int64_t T, rb_view *to) {
    for (int p = 0; p < RB_MAX_WIRE_PARTS; p++) {
        to[p] = from[p];
        if (!to[p].rank) continue;
        to[p].shape[0] = 1;
        to[p].shape[1] = T;
    }
}

static resbm_status run_segments(rb_stage *s, int64_t T, int64_t offset, rb_view tokens, rb_view logits,
                                 rb_err *err) {
    rb_view in[RB_MAX_WIRE_PARTS] = {{0}}, next[RB_MAX_WIRE_PARTS] = {{0}};
    if (s->host[0] > 0) {
        shorten(s->seat[0].berth[0].in, T, in);
        RB_TRY(take_in(s, T, in, err));
    }
    for (int i = 0; i < s->hosted; i++) {
        rb_segment_io io = {.tokens = tokens};
        memcpy(io.in, in, sizeof io.in);
        RB_TRY(rb_segment_decode(s->model, s->q, s->cache, s->host[i], offset, &io, logits, err));
        if (s->host[i] == s->segments - 1) break;
        if (i + 1 < s->hosted) shorten(s->seat[i + 1].berth[0].in, T, next);
        RB_TRY(pass_on(s, i, T, io.out, next, err));
        memcpy(in, next, sizeof in);
    }
    return RESBM_OK;
}

static resbm_status read_ids(rb_stage *s, const json_t *in, int64_t *T, rb_err *err) {
    const json_t *a = json_object_get(in, "ids");
    *T = (int64_t)json_array_size(a);
    if (*T < 1 || *T > s->T)
        return rb_fail(err, RESBM_E_ARG, "%lld tokens to feed, at most %lld (model.context)", (long long)*T,
                       (long long)s->T);
    for (int64_t i = 0; i < *T; i++) {
        s->host_tokens[i] = (int32_t)json_integer_value(json_array_get(a, (size_t)i));
        if (s->host_tokens[i] < 0 || s->host_tokens[i] >= s->cfg.model.vocab)
            return rb_fail(err, RESBM_E_ARG, "token id %d is not in the vocabulary of %lld",
                           s->host_tokens[i], (long long)s->cfg.model.vocab);
    }
    return rb_upload(s->q, s->tokens.data, s->host_tokens, (size_t)*T * sizeof(int32_t), err);
}

static resbm_status decode_step(rb_stage *s, const json_t *in, float *logits, int64_t *T, rb_err *err) {
    int64_t offset = json_integer_value(json_object_get(in, "offset")), V = s->cfg.model.vocab;
    if (offset == 0) { /* a new text */
        rb_kv_cache_close(s->cache);
        s->cache = NULL;
        RB_TRY(rb_kv_cache_open(s->model, 1, s->T, &s->cache, err));
    }
    s->step = (uint64_t)json_integer_value(json_object_get(in, "number"));
    RB_TRY(read_ids(s, in, T, err));
    void *mem;
    RB_TRY(rb_alloc(s->dev, (size_t)V * sizeof(float), &mem, err));
    resbm_status st = run_segments(s, *T, offset, rb_view2(s->tokens.data, RB_I32, 1, *T),
                                   rb_view2(mem, RB_F32, 1, V), err);
    if (!st) st = rb_download(s->q, logits, mem, (size_t)V * sizeof(float), err);
    if (!st) st = rb_queue_sync(s->q, err);
    rb_free(s->dev, mem);
    return st;
}

resbm_status rb_stage_decode(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    int64_t T = 0;
    int32_t id = 0;
    for (int i = 0; i + 1 < s->hosted; i++)
        if (!rb_stage_hands_on(s, i))
            return rb_fail(
                err, RESBM_E_CONFIG,
                "generation goes through the stages once, but stage %d hosts segments %d and %d: leave "
                "pipeline.schedule as it is",
                s->self, s->host[i], s->host[i + 1]);
    float *logits = malloc((size_t)s->cfg.model.vocab * sizeof *logits);
    if (!logits) return rb_fail(err, RESBM_E_MEMORY, "no memory for logits");
    resbm_status st = decode_step(s, in, logits, &T, err);
    if (!st && rb_stage_has_loss(s)) {
        st = choose(s, in, logits, json_integer_value(json_object_get(in, "offset")) + T, &id, err);
        if (!st) *reply = json_pack("{s:s, s:i}", "t", "token", "id", id);
    }
    free(logits);
    return st;
}
