/* Replicas of a stage add up a long vector: the same bits on every one of them.
 *
 * Each replica owns a slice of every piece of the vector: it gets the others' parts of that slice, adds all parts up in the
 * order of the replicas, and hands the sum back to all. Between n replicas each sends 2 (n - 1) / n times the vector's
 * bytes, as a ring would, and nothing about the sum depends on when a message comes.
 *
 * Coded, parts and sums cross in eight bits (codec/group8.h); what each sender loses by that is kept at its place in the
 * vector and added to what it sends there next: its own parts outside its slices, the sums inside them. All, the owner
 * too, go on with what was sent. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "codec/group8.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "run/stage.h"

enum { PIECE = 1 << 21 /* values that are under way at once */ };
enum { PHASE_PART, PHASE_SUM, PHASE_NUMBERS };

typedef struct reduction {
    rb_stage *s;
    const rb_stage_vector *v;
    int n, self;             /* replicas, and which this is */
    int peer[RB_MAX_STAGES]; /* (n) their processes */
    int64_t from;            /* of the piece at hand, in the vector */
    int64_t count;           /* values of it */
    uint32_t piece;
    int attempt;
    double largest; /* root of the mean square of a part or sum that came */
} reduction;

static void list_peers(reduction *r) {
    for (int i = 0; i < rb_replicas(&r->s->cfg, r->s->stage); i++) {
        int worker = rb_worker_of(&r->s->cfg, r->s->stage, i);
        if (rb_cover_is_lost(r->s, worker)) continue;
        if (worker == r->s->self) r->self = r->n;
        r->peer[r->n++] = worker;
    }
}

static int64_t cut(const reduction *r, int replica) {
    return r->count * replica / r->n;
}

static size_t bytes_of(const reduction *r, int64_t values) {
    return r->v->lost ? rb_group8_bytes(values) : (size_t)values * sizeof(float);
}

static rb_frame_header address(const reduction *r, int phase, size_t bytes) {
    return (rb_frame_header){.kind = RB_FRAME_SYNC,
                             .epoch = r->s->epoch,
                             .step = r->s->step,
                             .boundary = (uint16_t)(4 * r->v->number + phase),
                             .microbatch = r->piece,
                             .attempt = (uint16_t)r->attempt,
                             .payload_bytes = bytes};
}

static resbm_status send(reduction *r, int replica, int phase, rb_message *m, rb_err *err) {
    rb_stage *s = r->s;
    m->head = address(r, phase, m->head.payload_bytes);
    m->traffic = RB_TRAFFIC_SYNC;
    s->handed[RB_TRAFFIC_SYNC] += RB_FRAME_HEADER_BYTES + m->head.payload_bytes;
    resbm_status st =
        rb_link_send(s->link, r->peer[replica], m, rb_now_ns() + s->cfg.pipeline.deadline_ns, err);
    return st == RESBM_E_PEER && s->cover ? RESBM_OK
                                          : st; /* its own part will not come either, and then it is seen */
}

static resbm_status receive(reduction *r, int replica, int phase, size_t bytes, rb_message **out,
                            rb_err *err) {
    rb_stage *s = r->s;
    rb_frame_header want = address(r, phase, bytes);
    int64_t begin = rb_now_ns();
    RB_TRY(s->cover ? rb_cover_recv_from(s, r->peer[replica], &want, out, err)
                    : rb_stage_recv(s, r->peer[replica], &want, out, err));
    s->wait_ns += rb_now_ns() - begin;
    resbm_status st = rb_frame_expect(&(*out)->head, &want, err);
    if (st) s->accused = r->peer[replica] + 1;
    if (st) rb_message_free(*out);
    return st;
}

static resbm_status new_message(size_t bytes, rb_message **out, rb_err *err) {
    *out = rb_message_new(bytes);
    return *out ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %zu bytes of a sum", bytes);
}

/* Values [from, to) of the piece into a message. What the codec loses of them is kept. */
static void encode(reduction *r, const float *values, int64_t from, int64_t to, rb_message *m) {
    if (r->v->lost)
        rb_group8_pack(m->payload, values + from, r->v->lost + r->from + from, to - from);
    else
        memcpy(m->payload, values + from, (size_t)(to - from) * sizeof *values);
}

static resbm_status decode(const reduction *r, const rb_message *m, float *out, int64_t n, rb_err *err) {
    if (r->v->lost) return rb_group8_unpack(out, m->payload, n, err);
    memcpy(out, m->payload, (size_t)n * sizeof *out);
    return RESBM_OK;
}

/* Root of the mean square; not finite where a value is not. */
static double size_of(const float *v, int64_t n) {
    double sum[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) sum[k] += (double)v[i + k] * (double)v[i + k];
    for (; i < n; i++) sum[0] += (double)v[i] * (double)v[i];
    return n ? sqrt((sum[0] + sum[1] + sum[2] + sum[3]) / (double)n) : 0;
}

static const char what_of[RB_SUM_KINDS][32] = {"gradients", "counts", "changes of weights",
                                               "steps of codecs"};

/* Of another participant: its values, or why they are not taken. A step's largest piece teaches what the next ones may be. */
static resbm_status take(reduction *r, const rb_message *m, float *out, int64_t n, rb_err *err) {
    char who[RB_WHO_TEXT];
    rb_stage *s = r->s;
    resbm_status st = decode(r, m, out, n, err);
    s->accused = m->from + 1; /* until nothing is found */
    rb_link_who(s->link, m->from, who);
    if (st)
        return rb_err_context(err, st, "%s sent %s, step %lld, that are not finite: ", who,
                              what_of[r->v->number], (long long)s->step);
    if (!s->apart) {
        s->accused = 0;
        return RESBM_OK;
    }
    double size = size_of(out, n), ratio = rb_guard_ratio(&s->sum_guard[r->v->number], size);
    if (!isfinite(size))
        return rb_fail(err, RESBM_E_FORMAT, "%s sent %s, step %lld, that are not finite", who,
                       what_of[r->v->number], (long long)s->step);
    if (ratio > RB_GUARD_RECEIVER)
        return rb_fail(err, RESBM_E_FORMAT,
                       "%s sent %s, step %lld, whose norm is %.3g, %.3g times what it was so far", who,
                       what_of[r->v->number], (long long)s->step, size * sqrt((double)n), ratio);
    r->largest = fmax(r->largest, size);
    s->accused = 0;
    return RESBM_OK;
}

/* Before others get it. */
static resbm_status check_own(const reduction *r, const float *mine, rb_err *err) {
    rb_stage *s = r->s;
    const char *what = what_of[r->v->number];
    if (!s->apart) return RESBM_OK;
    double size = size_of(mine, r->count), ratio = rb_guard_ratio(&s->sum_guard[r->v->number], size);
    if (!isfinite(size)) return rb_stage_fail_numeric(s, what, err);
    if (ratio <= RB_GUARD_SENDER) return RESBM_OK;
    return rb_fail(err, RESBM_E_NUMERIC,
                   "step %lld diverges: the %s of stage %d have the norm %.3g, %.3g times what it was so far",
                   (long long)s->step, what, s->stage, size * sqrt((double)r->count), ratio);
}

/* --- a piece --- */

static resbm_status send_parts(reduction *r, const float *mine, rb_err *err) {
    for (int i = 1; i < r->n; i++) { /* not all to the first one at once */
        int to = (r->self + i) % r->n;
        rb_message *m;
        RB_TRY(new_message(bytes_of(r, cut(r, to + 1) - cut(r, to)), &m, err));
        encode(r, mine, cut(r, to), cut(r, to + 1), m);
        RB_TRY(send(r, to, PHASE_PART, m, err));
    }
    return RESBM_OK;
}

/* The own slice: parts added in the order of the replicas. */
static resbm_status add_parts(reduction *r, float *mine, float *sum, float *part, rb_err *err) {
    int64_t from = cut(r, r->self), n = cut(r, r->self + 1) - from;
    for (int i = 0; i < r->n; i++) {
        const float *of = mine + from;
        if (i != r->self) {
            rb_message *m;
            RB_TRY(receive(r, i, PHASE_PART, bytes_of(r, n), &m, err));
            resbm_status st = take(r, m, part, n, err);
            rb_message_free(m);
            RB_TRY(st);
            of = part;
        }
        if (!i)
            memcpy(sum, of, (size_t)n * sizeof *sum);
        else
            for (int64_t k = 0; k < n; k++) sum[k] += of[k];
    }
    memcpy(mine + from, sum, (size_t)n * sizeof *sum);
    return RESBM_OK;
}

static resbm_status spread_sum(reduction *r, float *mine, rb_err *err) {
    int64_t from = cut(r, r->self), n = cut(r, r->self + 1) - from;
    rb_message *first, *m;
    RB_TRY(new_message(bytes_of(r, n), &first, err));
    encode(r, mine, from, from + n, first);
    resbm_status st = decode(r, first, mine + from, n, err);
    for (int i = 1; i < r->n && !st; i++) {
        st = new_message(bytes_of(r, n), &m, err);
        if (st) break;
        memcpy(m->payload, first->payload, bytes_of(r, n));
        st = send(r, (r->self + i) % r->n, PHASE_SUM, m, err);
    }
    rb_message_free(first);
    return st;
}

static resbm_status take_sums(reduction *r, float *mine, rb_err *err) {
    for (int i = 0; i < r->n; i++) {
        int64_t n = cut(r, i + 1) - cut(r, i);
        rb_message *m;
        if (i == r->self) continue;
        RB_TRY(receive(r, i, PHASE_SUM, bytes_of(r, n), &m, err));
        resbm_status st = take(r, m, mine + cut(r, i), n, err);
        rb_message_free(m);
        RB_TRY(st);
    }
    return RESBM_OK;
}

resbm_status rb_stage_sum(rb_stage *s, const rb_stage_vector *v, rb_err *err) {
    reduction r = {.s = s, .v = v, .attempt = rb_cover_attempt(s)};
    list_peers(&r);
    float *buffer = malloc(3 * (size_t)PIECE * sizeof *buffer);
    resbm_status st = buffer ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to add up replicas");
    for (r.from = 0; r.from < v->length && !st; r.from += r.count, r.piece++) {
        r.count = v->length - r.from < PIECE ? v->length - r.from : PIECE;
        st = v->load(v->ctx, buffer, r.from, r.count, err);
        if (!st && r.n > 1) st = check_own(&r, buffer, err);
        if (!st && r.n > 1) st = send_parts(&r, buffer, err);
        if (!st && r.n > 1) st = add_parts(&r, buffer, buffer + PIECE, buffer + 2 * PIECE, err);
        if (!st && r.n > 1) st = spread_sum(&r, buffer, err);
        if (!st && r.n > 1) st = take_sums(&r, buffer, err);
        if (!st) st = v->store(v->ctx, buffer, r.from, r.count, err);
    }
    free(buffer);
    if (!st) rb_guard_learn(&s->sum_guard[v->number], r.largest);
    return st ? rb_err_context(err, st, "adding up the replicas of stage %d: ", s->stage) : RESBM_OK;
}

/* Squares of codes, of no more tokens than a step has. */
static resbm_status add_count(const reduction *r, const rb_message *m, int64_t k, int64_t *sum, rb_err *err) {
    const rb_stage *s = r->s;
    int64_t most = s->M * s->B * s->T * 128 * 128, got = (int64_t)rb_get64(m->payload + 8 * k);
    char who[RB_WHO_TEXT];
    bool can_be = got >= 0 && got <= most;
    if (!can_be) r->s->accused = m->from + 1;
    if (!can_be)
        return rb_fail(err, RESBM_E_FORMAT, "%s sent a count of %lld, step %lld, that can be 0 to %lld",
                       rb_link_who(s->link, m->from, who), (long long)got, (long long)s->step,
                       (long long)most);
    *sum += got;
    return RESBM_OK;
}

/* Whole numbers, whose sum has no order. */
resbm_status rb_stage_sum_numbers(rb_stage *s, rb_stage_sum_of number, int64_t *mine, int64_t n,
                                  rb_err *err) {
    rb_stage_vector v = {.number = number};
    reduction r = {.s = s, .v = &v, .attempt = rb_cover_attempt(s)};
    size_t bytes = (size_t)n * 8;
    list_peers(&r);
    for (int i = 0; i < r.n; i++) {
        rb_message *m;
        if (i == r.self) continue;
        RB_TRY(new_message(bytes, &m, err));
        for (int64_t k = 0; k < n; k++) rb_put64(m->payload + 8 * k, (uint64_t)mine[k]);
        RB_TRY(send(&r, i, PHASE_NUMBERS, m, err));
    }
    for (int i = 0; i < r.n; i++) {
        rb_message *m;
        if (i == r.self) continue;
        resbm_status st = receive(&r, i, PHASE_NUMBERS, bytes, &m, err);
        if (st) return rb_err_context(err, st, "adding up the replicas of stage %d: ", s->stage);
        for (int64_t k = 0; k < n && !st; k++) st = add_count(&r, m, k, &mine[k], err);
        rb_message_free(m);
        RB_TRY(st);
    }
    return RESBM_OK;
}
