#include "pipeline/validate.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/schedules.h"
#include "pipeline/simulator.h"

typedef struct proof {
    const rb_schedule *s;
    const rb_validate_options *o;
    int *pos; /* (kinds, segments, microbatches) place in the hosting stage's list, -1 = not there */
    rb_buf *grid;
    rb_err *err;
} proof;

static int *pos_of(const proof *p, rb_action_kind k, int segment, int microbatch) {
    size_t row = (size_t)k * (size_t)p->s->segments + (size_t)segment;
    return &p->pos[row * (size_t)p->s->microbatches + (size_t)microbatch];
}

static bool has(const proof *p, rb_action_kind k, int segment, int microbatch) {
    return *pos_of(p, k, segment, microbatch) >= 0;
}

static int cell_width(const rb_schedule *s) {
    int width = 1;
    for (int i = 0; i < s->stages; i++) {
        for (int j = 0; j < s->stage[i].count; j++) {
            int n = rb_action_print(NULL, 0, s->stage[i].items[j]);
            if (n > width) width = n;
        }
    }
    return width + 2;
}

static void draw_row(const rb_schedule *s, int stage, int from, int to, int mark, int width, rb_buf *grid) {
    const rb_action_list *l = &s->stage[stage];
    rb_buf_printf(grid, "%d %s", stage, from ? " ... " : "");
    for (int j = from; j <= to && j <= l->count; j++) {
        char cell[RB_ACTION_TEXT] = "?", framed[RB_ACTION_TEXT + 2];
        if (j == l->count && j != mark) break;
        if (j < l->count) rb_action_print(cell, sizeof cell, l->items[j]);
        snprintf(framed, sizeof framed, j == mark ? "[%s]" : " %s ", cell);
        rb_buf_printf(grid, "%-*s", width, framed);
    }
    rb_buf_puts(grid, l->count > to + 1 ? " ...\n" : "\n");
}

/* All stages, a window of 8 cells each side of the failing one. index == count marks the list's end. */
static void draw(const proof *p, int stage, int index) {
    enum { SIDE = 8 };
    int from = index > SIDE ? index - SIDE : 0, width = cell_width(p->s);
    for (int i = 0; p->grid && i < p->s->stages; i++)
        draw_row(p->s, i, from, index + SIDE, i == stage ? index : -1, width, p->grid);
}

/* Names the cell (or, at the list's end, the action that is missing), draws, and fails. */
__attribute__((format(printf, 5, 6))) static resbm_status cell_fails(const proof *p, int stage, int index,
                                                                     rb_action a, const char *fmt, ...) {
    char cell[RB_ACTION_TEXT], why[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    rb_action_print(cell, sizeof cell, a);
    draw(p, stage, index);
    int count = p->s->stage[stage].count;
    if (index == count)
        return rb_fail(p->err, RESBM_E_STATE, "%s: stage %d, action %s: %s", p->s->name, stage, cell, why);
    return rb_fail(p->err, RESBM_E_STATE, "%s: stage %d, action %s (%d of %d): %s", p->s->name, stage, cell,
                   index + 1, count, why);
}

static bool is_backward(rb_action_kind k) {
    return k == RB_ACT_UPDATE || k == RB_ACT_TRUNK_BACKWARD || k == RB_ACT_BACKWARD ||
           k == RB_ACT_BACKWARD_INPUT || k == RB_ACT_BACKWARD_WEIGHT || k == RB_ACT_SEND_BACKWARD ||
           k == RB_ACT_RECV_BACKWARD;
}

/* Must segment g's neighbour in this direction be reached by a message, for microbatch m? */
static bool remote(const rb_schedule *s, int g, int m, int step) {
    int n = g + step;
    return n >= 0 && n < s->segments && rb_schedule_host(s, n, m) != rb_schedule_host(s, g, m);
}

static bool message_exists(const rb_schedule *s, rb_action a) {
    bool ahead = a.kind == RB_ACT_SEND_FORWARD || a.kind == RB_ACT_RECV_BACKWARD;
    return rb_action_computes(a.kind) || remote(s, a.segment, a.microbatch, ahead ? 1 : -1);
}

static resbm_status place_action(const proof *p, int stage, int index) {
    const rb_schedule *s = p->s;
    rb_action a = s->stage[stage].items[index];
    if ((unsigned)a.kind >= RB_ACT_COUNT || a.segment < 0 || a.segment >= s->segments || a.microbatch < 0 ||
        a.microbatch >= s->microbatches)
        return cell_fails(p, stage, index, a, "there are %d segments and %d microbatches", s->segments,
                          s->microbatches);
    if (!rb_schedule_hosts(s, stage, a.segment))
        return cell_fails(p, stage, index, a, "segment %d lives on stage %d", a.segment,
                          s->stage_of[a.segment]);
    int host = rb_schedule_host(s, a.segment, a.microbatch);
    if (host != stage)
        return cell_fails(p, stage, index, a,
                          "microbatch %d is dealt to list %d, another replica of stage %d%s", a.microbatch,
                          host, s->stage_of[a.segment],
                          is_backward(a.kind) ? ": a backward returns to where its forward ran" : "");
    if (p->o->forward_only && is_backward(a.kind))
        return cell_fails(p, stage, index, a, "an evaluation has no backward");
    if (!message_exists(s, a))
        return cell_fails(p, stage, index, a, "segment %d has no neighbour on another stage that way",
                          a.segment);
    if ((a.kind == RB_ACT_TRUNK_FORWARD || a.kind == RB_ACT_TRUNK_BACKWARD) && a.segment == 0)
        return cell_fails(p, stage, index, a,
                          "there is no boundary before segment 0 whose trunk it could be");
    int *pos = pos_of(p, a.kind, a.segment, a.microbatch);
    if (*pos >= 0) return cell_fails(p, stage, index, a, "stands there twice, first as action %d", *pos + 1);
    *pos = index;
    return RESBM_OK;
}

static resbm_status need(const proof *p, rb_action_kind k, int g, int m) {
    int stage = rb_schedule_host(p->s, g, m);
    if (has(p, k, g, m)) return RESBM_OK;
    return cell_fails(p, stage, p->s->stage[stage].count, rb_action_of(k, g, m), "is missing");
}

static bool has_any(const proof *p, rb_action_kind k, int g) {
    for (int m = 0; m < p->s->microbatches; m++)
        if (has(p, k, g, m)) return true;
    return false;
}

/* Where nothing but messages lies between: first and then stand one behind the other. */
static resbm_status adjacent(const proof *p, rb_action first, rb_action then, rb_action named) {
    int stage = rb_schedule_host(p->s, first.segment, first.microbatch);
    int a = *pos_of(p, first.kind, first.segment, first.microbatch),
        b = *pos_of(p, then.kind, then.segment, then.microbatch);
    bool near = a >= 0 && a < b;
    for (int i = a + 1; near && i < b; i++) near = !rb_action_computes(p->s->stage[stage].items[i].kind);
    if (near) return RESBM_OK;
    char text[RB_ACTION_TEXT];
    rb_action_print(text, sizeof text, named.kind == first.kind ? then : first);
    return cell_fails(p, stage, *pos_of(p, named.kind, named.segment, named.microbatch), named,
                      "must stand right %s %s, with messages alone between them",
                      named.kind == first.kind ? "before" : "behind", text);
}

static resbm_status check_trunk(const proof *p, int g, int m) {
    rb_action before = rb_action_of(RB_ACT_TRUNK_FORWARD, g, m),
              behind = rb_action_of(RB_ACT_TRUNK_BACKWARD, g, m);
    if (has_any(p, RB_ACT_TRUNK_FORWARD, g)) {
        RB_TRY(need(p, RB_ACT_TRUNK_FORWARD, g, m));
        RB_TRY(adjacent(p, before, rb_action_of(RB_ACT_FORWARD, g, m), before));
    }
    if (!has_any(p, RB_ACT_TRUNK_BACKWARD, g)) return RESBM_OK;
    RB_TRY(need(p, RB_ACT_TRUNK_BACKWARD, g, m));
    return adjacent(p, rb_action_of(RB_ACT_BACKWARD, g, m), behind, behind);
}

static resbm_status check_complete(const proof *p, int g, int m) {
    const rb_schedule *s = p->s;
    RB_TRY(need(p, RB_ACT_FORWARD, g, m));
    if (remote(s, g, m, -1)) RB_TRY(need(p, RB_ACT_RECV_FORWARD, g, m));
    if (remote(s, g, m, 1)) RB_TRY(need(p, RB_ACT_SEND_FORWARD, g, m));
    if (p->o->forward_only) return RESBM_OK;
    bool halves = has(p, RB_ACT_BACKWARD_INPUT, g, m) || has(p, RB_ACT_BACKWARD_WEIGHT, g, m);
    if (halves && has(p, RB_ACT_BACKWARD, g, m)) {
        rb_action_kind k =
            has(p, RB_ACT_BACKWARD_INPUT, g, m) ? RB_ACT_BACKWARD_INPUT : RB_ACT_BACKWARD_WEIGHT;
        return cell_fails(p, rb_schedule_host(s, g, m), *pos_of(p, k, g, m), rb_action_of(k, g, m),
                          "is a half of a backward that the list also does whole");
    }
    RB_TRY(need(p, halves ? RB_ACT_BACKWARD_INPUT : RB_ACT_BACKWARD, g, m));
    if (halves) RB_TRY(need(p, RB_ACT_BACKWARD_WEIGHT, g, m));
    if (remote(s, g, m, 1)) RB_TRY(need(p, RB_ACT_RECV_BACKWARD, g, m));
    return remote(s, g, m, -1) ? need(p, RB_ACT_SEND_BACKWARD, g, m) : RESBM_OK;
}

/* Both live on one stage. What is absent needs no order: check_complete ran before. */
static resbm_status order(const proof *p, rb_action first, rb_action then) {
    int a = *pos_of(p, first.kind, first.segment, first.microbatch);
    int b = *pos_of(p, then.kind, then.segment, then.microbatch);
    if (a < 0 || b < 0 || a < b) return RESBM_OK;
    char text[RB_ACTION_TEXT];
    rb_action_print(text, sizeof text, first);
    return cell_fails(p, rb_schedule_host(p->s, then.segment, then.microbatch), b, then,
                      "stands before %s, which it needs", text);
}

static resbm_status check_order(const proof *p, int g, int m) {
    const rb_schedule *s = p->s;
#define AT(kind, segment) (rb_action_of(RB_ACT_##kind, segment, m))
    rb_action forward = AT(FORWARD, g);
    rb_action input = has(p, RB_ACT_BACKWARD_INPUT, g, m) ? AT(BACKWARD_INPUT, g) : AT(BACKWARD, g);
    RB_TRY(order(p, AT(RECV_FORWARD, g), forward));
    RB_TRY(order(p, forward, AT(SEND_FORWARD, g)));
    RB_TRY(order(p, forward, input));
    RB_TRY(order(p, AT(RECV_BACKWARD, g), input));
    RB_TRY(order(p, input, AT(SEND_BACKWARD, g)));
    RB_TRY(order(p, input, AT(BACKWARD_WEIGHT, g)));
    if (g + 1 == s->segments || remote(s, g, m, 1)) return RESBM_OK;
    rb_action behind =
        has(p, RB_ACT_BACKWARD_INPUT, g + 1, m) ? AT(BACKWARD_INPUT, g + 1) : AT(BACKWARD, g + 1);
    RB_TRY(order(p, forward, AT(FORWARD, g + 1)));
    return order(p, behind, input);
#undef AT
}

/* The action of microbatch m that adds to segment g's weight gradients. */
static rb_action adds_gradient(const proof *p, int g, int m) {
    bool halves = has(p, RB_ACT_BACKWARD_WEIGHT, g, m);
    return rb_action_of(halves ? RB_ACT_BACKWARD_WEIGHT : RB_ACT_BACKWARD, g, m);
}

static resbm_status check_accumulation(const proof *p, int g, int m) {
    int last = m - 1; /* the one before on the same replica */
    while (last >= 0 && rb_schedule_host(p->s, g, last) != rb_schedule_host(p->s, g, m)) last--;
    if (p->o->forward_only || last < 0) return RESBM_OK;
    rb_action before = adds_gradient(p, g, last), now = adds_gradient(p, g, m);
    int a = *pos_of(p, before.kind, g, last), b = *pos_of(p, now.kind, g, m);
    if (a < b) return RESBM_OK;
    char text[RB_ACTION_TEXT];
    rb_action_print(text, sizeof text, before);
    return cell_fails(p, rb_schedule_host(p->s, g, m), b, now,
                      "adds to the gradient before %s; microbatches must accumulate in ascending order",
                      text);
}

static bool is_recv(rb_action_kind k) {
    return k == RB_ACT_RECV_FORWARD || k == RB_ACT_RECV_BACKWARD;
}

/* The send that a receive waits for. */
static rb_action matching_send(rb_action a) {
    if (a.kind == RB_ACT_RECV_FORWARD) return rb_action_of(RB_ACT_SEND_FORWARD, a.segment - 1, a.microbatch);
    return rb_action_of(RB_ACT_SEND_BACKWARD, a.segment + 1, a.microbatch);
}

/* A boundary's messages towards a stage come from one list, or from any replica's. */
static size_t senders(const rb_schedule *s) {
    return s->dealt ? (size_t)s->stages : 1;
}

/* Walks each receiver's list: per sender, boundary and direction, the places of the matching sends must rise. last:
 * (segments, 2, senders). */
static resbm_status check_channels(const proof *p, int stage, int *last) {
    const rb_action_list *l = &p->s->stage[stage];
    bool dealt = p->s->dealt != NULL;
    for (size_t i = 0; i < 2 * (size_t)p->s->segments * senders(p->s); i++) last[i] = -1;
    for (int j = 0; j < l->count; j++) {
        if (!is_recv(l->items[j].kind)) continue;
        rb_action sent = matching_send(l->items[j]);
        int from = rb_schedule_host(p->s, sent.segment, sent.microbatch),
            at = *pos_of(p, sent.kind, sent.segment, sent.microbatch);
        int *before = &last[(size_t)(2 * sent.segment + (sent.kind == RB_ACT_SEND_BACKWARD)) * senders(p->s) +
                            (dealt ? (size_t)from : 0)];
        if (at < *before) {
            char text[RB_ACTION_TEXT];
            rb_action_print(text, sizeof text, p->s->stage[from].items[*before]);
            return cell_fails(p, stage, j, l->items[j],
                              "stage %d sends it before %s, which is received first", from, text);
        }
        *before = at;
    }
    return RESBM_OK;
}

static resbm_status check_deadlock(const proof *p) {
    rb_sim_options o = {.queue_bound = p->o->queue_bound};
    rb_sim_result r;
    rb_err why;
    resbm_status st = rb_simulate(p->s, &o, &r, &why);
    if (r.stuck_stage >= 0) {
        rb_action a = p->s->stage[r.stuck_stage].items[r.stuck_index];
        st = cell_fails(p, r.stuck_stage, r.stuck_index, a, "%.300s (a channel holds %d)", why.text,
                        o.queue_bound);
    } else if (st != RESBM_OK) {
        st = rb_fail(p->err, st, "%s", why.text);
    }
    rb_sim_free(&r);
    return st;
}

/* Last action that needs the activations of (g, m): the send may still read them. */
static int release_of(const proof *p, int g, int m) {
    rb_action a = p->o->forward_only ? rb_action_of(RB_ACT_FORWARD, g, m) : adds_gradient(p, g, m);
    int use = *pos_of(p, a.kind, g, m), trunk = *pos_of(p, RB_ACT_TRUNK_BACKWARD, g, m);
    if (trunk > use) use = trunk;
    int send = *pos_of(p, p->o->forward_only ? RB_ACT_SEND_FORWARD : RB_ACT_SEND_BACKWARD, g, m);
    return use > send ? use : send;
}

/* First action that puts something of (g, m) into its slot: its message, its trunk, its forward; or the forward of the segment
 * before in the same list, which hands over what it made. */
static int taken_at(const proof *p, int g, int m) {
    static const rb_action_kind own[] = {RB_ACT_RECV_FORWARD, RB_ACT_TRUNK_FORWARD};
    int first = *pos_of(p, RB_ACT_FORWARD, g, m);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        int at = *pos_of(p, own[i], g, m);
        if (at >= 0 && at < first) first = at;
    }
    int before = g > 0 && !remote(p->s, g, m, -1) ? *pos_of(p, RB_ACT_FORWARD, g - 1, m) : first;
    return before < first ? before : first;
}

static resbm_status count_in_flight(const proof *p, int stage, int *in_flight) {
    const rb_action_list *l = &p->s->stage[stage];
    for (int g = 0; g < p->s->segments; g++) {
        if (!rb_schedule_hosts(p->s, stage, g)) continue;
        int alive = 0;
        for (int j = 0; j < l->count; j++) {
            rb_action a = l->items[j];
            if (a.segment != g && a.segment != g - 1) continue;
            alive += taken_at(p, g, a.microbatch) == j;
            if (alive > in_flight[g]) in_flight[g] = alive;
            if (p->o->promised && alive > p->o->promised[g])
                return cell_fails(p, stage, j, a,
                                  "is microbatch %d alive in segment %d; at most %d are promised", alive, g,
                                  p->o->promised[g]);
            if (a.segment == g) alive -= release_of(p, g, a.microbatch) == j;
        }
    }
    return RESBM_OK;
}

/* --- updates --- */

static resbm_status check_update(const proof *p, int g, int m) {
    const rb_schedule *s = p->s;
    bool here = has(p, RB_ACT_UPDATE, g, m), elsewhere = false;
    int stage = s->stage_of[g], last = s->microbatches - 1;
    for (int other = 0; other < s->segments && !here && !elsewhere; other++)
        elsewhere = has(p, RB_ACT_UPDATE, other, m);
    if (elsewhere)
        return cell_fails(p, stage, s->stage[stage].count, rb_action_of(RB_ACT_UPDATE, g, m),
                          "is missing: other segments are updated after microbatch %d", m);
    if (!here && m == last)
        return cell_fails(p, stage, s->stage[stage].count, rb_action_of(RB_ACT_UPDATE, g, m),
                          "is missing: the last gradients are in no update");
    if (!here) return RESBM_OK;
    RB_TRY(order(p, adds_gradient(p, g, m), rb_action_of(RB_ACT_UPDATE, g, m)));
    RB_TRY(order(p, rb_action_of(RB_ACT_TRUNK_BACKWARD, g, m), rb_action_of(RB_ACT_UPDATE, g, m)));
    if (m == last) return RESBM_OK;
    rb_action next = adds_gradient(p, g, m + 1);
    if (*pos_of(p, RB_ACT_UPDATE, g, m) < *pos_of(p, next.kind, g, m + 1)) return RESBM_OK;
    return cell_fails(p, stage, *pos_of(p, next.kind, g, m + 1), next,
                      "adds to the gradient before %d"
                      "U%d, the update by "
                      "those before it",
                      g, m);
}

static resbm_status check_age(const proof *p, int stage, int index, int g, int age, int *most) {
    if (age > *most) *most = age;
    if (!p->o->stash || age <= p->o->stash[g]) return RESBM_OK;
    return cell_fails(p, stage, index, p->s->stage[stage].items[index],
                      "uses weights %d updates old; at most %d are promised to be kept", age, p->o->stash[g]);
}

/* Walks a segment's actions: seen[m] is the version that microbatch m's forward saw. */
static resbm_status check_versions(const proof *p, int g, int *seen, int *most) {
    int stage = p->s->stage_of[g], newest = 0;
    const rb_action_list *l = &p->s->stage[stage];
    *most = 0;
    for (int j = 0; j < l->count; j++) {
        rb_action a = l->items[j];
        if (a.segment != g) continue;
        bool trunk_first = a.kind == RB_ACT_FORWARD && has(p, RB_ACT_TRUNK_FORWARD, g, a.microbatch);
        if (trunk_first && seen[a.microbatch] != newest - a.behind)
            return cell_fails(p, stage, j, a, "sees another version of the weights than the trunk before it");
        if ((a.kind == RB_ACT_FORWARD || a.kind == RB_ACT_TRUNK_FORWARD) && a.behind > newest)
            return cell_fails(p, stage, j, a, "wants weights %d updates old, but there have been %d",
                              a.behind, newest);
        if (a.kind == RB_ACT_FORWARD || a.kind == RB_ACT_TRUNK_FORWARD)
            seen[a.microbatch] = newest - a.behind;
        if (rb_action_computes(a.kind) && a.kind != RB_ACT_UPDATE)
            RB_TRY(check_age(p, stage, j, g, newest - seen[a.microbatch], most));
        newest += a.kind == RB_ACT_UPDATE;
    }
    return RESBM_OK;
}

static resbm_status check_updates(const proof *p) {
    const rb_schedule *s = p->s;
    int *seen = calloc((size_t)s->microbatches, sizeof *seen), most;
    resbm_status st =
        seen ? RESBM_OK : rb_fail(p->err, RESBM_E_MEMORY, "no memory for %d versions", s->microbatches);
    bool updates = rb_schedule_updates(s);
    for (int g = 0; g < s->segments && updates && !st; g++)
        for (int m = 0; m < s->microbatches && !st; m++) st = check_update(p, g, m);
    for (int g = 0; g < s->segments && !st; g++) {
        st = check_versions(p, g, seen, &most);
        if (p->o->stash_needed) p->o->stash_needed[g] = most;
    }
    free(seen);
    return st;
}

static resbm_status prove(const proof *p, int *in_flight, int *scratch) {
    const rb_schedule *s = p->s;
    for (int i = 0; i < s->stages; i++) {
        for (int j = 0; j < s->stage[i].count; j++) RB_TRY(place_action(p, i, j));
    }
    resbm_status (*const each[])(const proof *, int, int) = {check_complete, check_order, check_trunk,
                                                             check_accumulation};
    for (size_t c = 0; c < sizeof each / sizeof *each; c++) {
        for (int g = 0; g < s->segments; g++) {
            for (int m = 0; m < s->microbatches; m++) RB_TRY(each[c](p, g, m));
        }
    }
    RB_TRY(check_updates(p));
    for (int i = 0; i < s->stages; i++) RB_TRY(check_channels(p, i, scratch));
    RB_TRY(check_deadlock(p));
    for (int i = 0; i < s->stages; i++) RB_TRY(count_in_flight(p, i, in_flight));
    return RESBM_OK;
}

resbm_status rb_schedule_validate(const rb_schedule *s, const rb_validate_options *o, int *in_flight,
                                  rb_buf *grid, rb_err *err) {
    rb_err own;
    size_t cells = (size_t)RB_ACT_COUNT * (size_t)s->segments * (size_t)s->microbatches;
    int *pos = malloc(cells * sizeof *pos);
    int *most = calloc((size_t)s->segments, sizeof *most);
    int *scratch = calloc(2 * (size_t)s->segments * senders(s), sizeof *scratch);
    resbm_status st;
    if (pos && most && scratch) {
        memset(pos, -1, cells * sizeof *pos);
        proof p = {s, o, pos, grid, err ? err : &own};
        st = prove(&p, most, scratch);
        if (st == RESBM_OK && in_flight) memcpy(in_flight, most, (size_t)s->segments * sizeof *most);
    } else {
        st = rb_fail(err, RESBM_E_MEMORY, "no memory to check a schedule of %zu actions", cells);
    }
    free(pos);
    free(most);
    free(scratch);
    return st;
}
