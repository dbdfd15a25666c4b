/* Replicas of a stage: after a step's list each holds the gradients of its own microbatches, accumulated in ascending
 * order, and what its ends of the boundaries have counted. Here they become those of the whole batch, the same bits on
 * every replica.
 *
 * The gradients are one long vector, in the order of the tensor table. Each replica owns a slice of every piece of it: it
 * gets the others' parts of that slice, adds all parts up in the order of the replicas, and hands the sum back to all.
 * Between n replicas each sends 2 (n - 1) / n times the gradients' bytes, as a ring would, and nothing about the sum
 * depends on when a message comes.
 *
 * With pipeline.replica_codec: int8 parts and sums cross in eight bits (codec/group8.h); what each sender loses by that is
 * kept at its place in the vector and added to what it sends there next: its own parts outside its slices, the sums inside
 * them. All, the owner too, go on with what was sent. */
#include <stdlib.h>
#include <string.h>
#include "codec/group8.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "run/stage.h"

enum { PIECE = 1 << 21 /* values that are under way at once */ };
enum { PHASE_COUNTS, PHASE_PART, PHASE_SUM };

typedef struct reduction {
    rb_stage *s;
    int n, self; /* replicas, and which this is */
    bool coded;
    int64_t from;  /* of the piece at hand, in the vector */
    int64_t count; /* values of it */
    uint32_t piece;
} reduction;

static int peer_of(const reduction *r, int replica) {
    return rb_worker_of(&r->s->cfg, r->s->stage, replica);
}

static int64_t cut(const reduction *r, int replica) {
    return r->count * replica / r->n;
}

static size_t bytes_of(const reduction *r, int64_t values) {
    return r->coded ? rb_group8_bytes(values) : (size_t)values * sizeof(float);
}

static rb_frame_header address(const reduction *r, int phase, size_t bytes) {
    return (rb_frame_header){.kind = RB_FRAME_SYNC,
                             .epoch = r->s->epoch,
                             .step = r->s->step,
                             .boundary = (uint16_t)phase,
                             .microbatch = r->piece,
                             .payload_bytes = bytes};
}

static resbm_status send(reduction *r, int replica, int phase, rb_message *m, rb_err *err) {
    rb_stage *s = r->s;
    m->head = address(r, phase, m->head.payload_bytes);
    m->traffic = RB_TRAFFIC_SYNC;
    s->handed[RB_TRAFFIC_SYNC] += RB_FRAME_HEADER_BYTES + m->head.payload_bytes;
    return rb_link_send(s->link, peer_of(r, replica), m, rb_now_ns() + s->cfg.pipeline.deadline_ns, err);
}

static resbm_status receive(reduction *r, int replica, int phase, size_t bytes, rb_message **out,
                            rb_err *err) {
    rb_stage *s = r->s;
    rb_frame_header want = address(r, phase, bytes);
    int64_t begin = rb_now_ns();
    RB_TRY(rb_link_recv(s->link, peer_of(r, replica), &want, begin + s->cfg.pipeline.deadline_ns, out, err));
    s->wait_ns += rb_now_ns() - begin;
    resbm_status st = rb_frame_expect(&(*out)->head, &want, err);
    if (st) rb_message_free(*out);
    return st;
}

static resbm_status new_message(size_t bytes, rb_message **out, rb_err *err) {
    *out = rb_message_new(bytes);
    return *out ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %zu bytes of gradients", bytes);
}

/* Values [from, to) of the piece into a message. What the codec loses of them is kept. */
static void encode(reduction *r, const float *values, int64_t from, int64_t to, rb_message *m) {
    if (r->coded)
        rb_group8_pack(m->payload, values + from, r->s->sync_lost + r->from + from, to - from);
    else
        memcpy(m->payload, values + from, (size_t)(to - from) * sizeof *values);
}

static resbm_status decode(const reduction *r, const rb_message *m, float *out, int64_t n, rb_err *err) {
    if (r->coded) return rb_group8_unpack(out, m->payload, n, err);
    memcpy(out, m->payload, (size_t)n * sizeof *out);
    return RESBM_OK;
}

/* --- the vector --- */

/* Copies values [from, from + n) of the vector between the gradients and host memory. */
static resbm_status copy(rb_stage *s, float *host, int64_t from, int64_t n, bool out, rb_err *err) {
    int64_t at = 0;
    for (int i = 0; i < s->row_count && n > 0; i++) {
        rb_view g = rb_stage_grad(s->model, s->rows[i]);
        int64_t size = g.data ? rb_count(g) : 0, skip = from - at, take;
        at += size;
        if (skip >= size || !size) continue;
        if (skip < 0) skip = 0;
        take = size - skip < n ? size - skip : n;
        float *there = (float *)g.data + skip;
        if (out)
            RB_TRY(rb_download(s->q, host, there, (size_t)take * sizeof *host, err));
        else
            RB_TRY(rb_upload(s->q, there, host, (size_t)take * sizeof *host, err));
        host += take;
        from += take;
        n -= take;
    }
    return rb_queue_sync(s->q, err);
}

static int64_t vector_length(rb_stage *s) {
    int64_t n = 0;
    for (int i = 0; i < s->row_count; i++) {
        rb_view g = rb_stage_grad(s->model, s->rows[i]);
        n += g.data ? rb_count(g) : 0;
    }
    return n;
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
            resbm_status st = decode(r, m, part, n, err);
            rb_message_free(m);
            if (st) return rb_err_context(err, st, "from replica %d: ", i);
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
        resbm_status st = decode(r, m, mine + cut(r, i), n, err);
        rb_message_free(m);
        if (st) return rb_err_context(err, st, "from replica %d: ", i);
    }
    return RESBM_OK;
}

static resbm_status reduce_gradients(reduction *r, rb_err *err) {
    int64_t length = vector_length(r->s);
    float *buffer = malloc(3 * (size_t)PIECE * sizeof *buffer);
    if (!buffer) return rb_fail(err, RESBM_E_MEMORY, "no memory to add up gradients");
    if (r->coded && !r->s->sync_lost) r->s->sync_lost = calloc((size_t)length + 1, sizeof *r->s->sync_lost);
    resbm_status st = r->coded && !r->s->sync_lost
                          ? rb_fail(err, RESBM_E_MEMORY, "no memory for %lld values", (long long)length)
                          : RESBM_OK;
    for (r->from = 0; r->from < length && !st; r->from += r->count, r->piece++) {
        r->count = length - r->from < PIECE ? length - r->from : PIECE;
        st = copy(r->s, buffer, r->from, r->count, true, err);
        if (!st) st = send_parts(r, buffer, err);
        if (!st) st = add_parts(r, buffer, buffer + PIECE, buffer + 2 * PIECE, err);
        if (!st) st = spread_sum(r, buffer, err);
        if (!st) st = take_sums(r, buffer, err);
        if (!st) st = copy(r->s, buffer, r->from, r->count, false, err);
    }
    free(buffer);
    return st;
}

/* --- what the ends of boundaries have counted: whole numbers, whose sum has no order --- */

static resbm_status copy_counts(rb_stage *s, int64_t *host, bool out, int64_t *total, rb_err *err) {
    *total = 0;
    for (int i = 0; i < s->hosted; i++) {
        rb_port *ports[] = {&s->out_port[i], &s->in_port[i]};
        for (int k = 0; k < 2; k++) {
            int64_t n = rb_count(ports[k]->stats);
            if (!ports[k]->stats.data) continue;
            if (host && out)
                RB_TRY(rb_download(s->q, host + *total, ports[k]->stats.data, (size_t)n * sizeof *host, err));
            if (host && !out)
                RB_TRY(rb_upload(s->q, ports[k]->stats.data, host + *total, (size_t)n * sizeof *host, err));
            *total += n;
        }
    }
    return rb_queue_sync(s->q, err);
}

static resbm_status exchange_counts(reduction *r, int64_t *mine, int64_t n, rb_err *err) {
    size_t bytes = (size_t)n * 8;
    for (int i = 0; i < r->n; i++) {
        rb_message *m;
        if (i == r->self) continue;
        RB_TRY(new_message(bytes, &m, err));
        for (int64_t k = 0; k < n; k++) rb_put64(m->payload + 8 * k, (uint64_t)mine[k]);
        RB_TRY(send(r, i, PHASE_COUNTS, m, err));
    }
    for (int i = 0; i < r->n; i++) {
        rb_message *m;
        if (i == r->self) continue;
        RB_TRY(receive(r, i, PHASE_COUNTS, bytes, &m, err));
        for (int64_t k = 0; k < n; k++) mine[k] += (int64_t)rb_get64(m->payload + 8 * k);
        rb_message_free(m);
    }
    return RESBM_OK;
}

static resbm_status reduce_counts(reduction *r, rb_err *err) {
    int64_t n;
    RB_TRY(copy_counts(r->s, NULL, true, &n, err));
    if (!n) return RESBM_OK;
    int64_t *host = malloc((size_t)n * sizeof *host);
    if (!host) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld counts", (long long)n);
    resbm_status st = copy_counts(r->s, host, true, &n, err);
    if (!st) st = exchange_counts(r, host, n, err);
    if (!st) st = copy_counts(r->s, host, false, &n, err);
    free(host);
    return st;
}

resbm_status rb_stage_reduce(rb_stage *s, rb_err *err) {
    reduction r = {.s = s,
                   .n = rb_replicas(&s->cfg, s->stage),
                   .self = s->replica,
                   .coded = !strcmp(s->cfg.pipeline.replica_codec, "int8")};
    if (r.n == 1) return RESBM_OK;
    resbm_status st = reduce_counts(&r, err);
    if (!st) st = reduce_gradients(&r, err);
    return st ? rb_err_context(err, st, "adding up the replicas of stage %d: ", s->stage) : RESBM_OK;
}
