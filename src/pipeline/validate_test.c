/* The validator against an oracle of its own: a machine that runs the lists and watches every rule as it
 * goes. */
#include "core/rng.h"
#include "pipeline/testing.h"

enum { N = 8 };

/* --- oracle --- */

typedef struct machine {
    const rb_schedule *s;
    int bound, at[N], count[RB_ACT_COUNT][N][N], alive[N], graded[N];
    rb_action queue[N][N][4 * N * N]; /* from, to */
    int held[N][N];
    bool forward_only, illegal;
    const int *promised, *stash;
    int updates[N], version[N][N];
    rb_action last[N]; /* computation of each stage */
    bool begun[N][N];
    bool behind[N];    /* (segments) its trunk's backward is an action of its own */
} machine;

static bool lives_apart(const machine *k, int g, int n) {
    return n >= 0 && n < k->s->segments && k->s->stage_of[g] != k->s->stage_of[n];
}

/* Was the input of F (dir 0) or of the backward (dir 1) of (g, m) made, here or by a message? */
static bool input_is_there(const machine *k, int dir, int g, int m) {
    int n = dir ? g + 1 : g - 1;
    if (n < 0 || n >= k->s->segments) return true;
    if (lives_apart(k, g, n)) return k->count[dir ? RB_ACT_RECV_BACKWARD : RB_ACT_RECV_FORWARD][g][m];
    if (!dir) return k->count[RB_ACT_FORWARD][n][m];
    return k->count[RB_ACT_BACKWARD][n][m] || k->count[RB_ACT_BACKWARD_INPUT][n][m];
}

static bool output_is_there(const machine *k, int dir, int g, int m) {
    if (!dir) return k->count[RB_ACT_FORWARD][g][m];
    return k->count[RB_ACT_BACKWARD][g][m] || k->count[RB_ACT_BACKWARD_INPUT][g][m];
}

static bool follows(const machine *k, int stage, rb_action_kind kind, rb_action a) {
    rb_action last = k->last[stage];
    return last.kind == kind && last.segment == a.segment && last.microbatch == a.microbatch;
}

/* A trunk goes right before its forward and right behind its backward. */
static bool trunk_is_legal(machine *k, int stage, rb_action a) {
    int g = a.segment, m = a.microbatch;
    if (g == 0) return false;
    if (a.kind == RB_ACT_TRUNK_BACKWARD) return !k->forward_only && follows(k, stage, RB_ACT_BACKWARD, a);
    k->version[g][m] = k->updates[g] - a.behind;
    return k->version[g][m] >= 0 && a.behind <= k->stash[g] && !k->count[RB_ACT_FORWARD][g][m];
}

static bool compute_is_legal(machine *k, int stage, rb_action a) {
    int g = a.segment, m = a.microbatch;
    if (a.kind == RB_ACT_TRUNK_FORWARD || a.kind == RB_ACT_TRUNK_BACKWARD) return trunk_is_legal(k, stage, a);
    if (a.kind == RB_ACT_FORWARD && k->count[RB_ACT_TRUNK_FORWARD][g][m]) {
        if (!follows(k, stage, RB_ACT_TRUNK_FORWARD, a) || k->version[g][m] != k->updates[g] - a.behind)
            return false;
    }
    if (a.kind == RB_ACT_UPDATE) { /* all gradients so far, its own the newest */
        k->updates[g]++;
        return !k->forward_only && k->graded[g] == m + 1;
    }
    if (a.kind == RB_ACT_FORWARD) k->version[g][m] = k->updates[g] - a.behind;
    if (k->version[g][m] < 0 || k->updates[g] - k->version[g][m] > k->stash[g]) return false;
    bool weight = a.kind == RB_ACT_BACKWARD_WEIGHT, whole = a.kind == RB_ACT_BACKWARD;
    if (a.kind == RB_ACT_FORWARD) return input_is_there(k, 0, g, m);
    if (k->forward_only) return false;
    if (whole && (k->count[RB_ACT_BACKWARD_INPUT][g][m] || k->count[RB_ACT_BACKWARD_WEIGHT][g][m]))
        return false;
    if (!whole && k->count[RB_ACT_BACKWARD][g][m]) return false;
    if ((weight || whole) && k->graded[g]++ != m) return false;
    if (weight) return k->count[RB_ACT_BACKWARD_INPUT][g][m];
    return k->count[RB_ACT_FORWARD][g][m] && input_is_there(k, 1, g, m);
}

/* 1: ran; 0: must wait. */
static int communicate(machine *k, int stage, rb_action a) {
    int dir = a.kind == RB_ACT_SEND_BACKWARD || a.kind == RB_ACT_RECV_BACKWARD;
    bool send = a.kind == RB_ACT_SEND_FORWARD || a.kind == RB_ACT_SEND_BACKWARD;
    int n = a.segment + (send == !dir ? 1 : -1);
    if (!lives_apart(k, a.segment, n) || (dir && k->forward_only)) return k->illegal = true;
    int other = k->s->stage_of[n];
    if (send) {
        if (!output_is_there(k, dir, a.segment, a.microbatch)) return k->illegal = true;
        if (k->held[stage][other] >= k->bound) return 0;
        k->queue[stage][other][k->held[stage][other]++] = rb_action_of(a.kind, n, a.microbatch);
        return 1;
    }
    rb_action *q = k->queue[other][stage];
    for (int i = 0; i < k->held[other][stage]; i++) { /* the oldest of this boundary and direction */
        if (q[i].segment != a.segment || q[i].kind != (dir ? RB_ACT_SEND_BACKWARD : RB_ACT_SEND_FORWARD))
            continue;
        if (q[i].microbatch != a.microbatch) return k->illegal = true;
        memmove(&q[i], &q[i + 1], sizeof *q * (size_t)(--k->held[other][stage] - i));
        return 1;
    }
    return 0;
}

/* Something of (g, m) is in its slot. */
static void begin(machine *k, int g, int m) {
    if (k->begun[g][m]) return;
    k->begun[g][m] = true;
    if (++k->alive[g] > k->promised[g]) k->illegal = true;
}

static void count_alive(machine *k, rb_action a) {
    int g = a.segment, m = a.microbatch;
    bool sends = lives_apart(k, g, k->forward_only ? g + 1 : g - 1);
    int graded = k->count[RB_ACT_BACKWARD][g][m] + k->count[RB_ACT_BACKWARD_WEIGHT][g][m];
    int used = k->forward_only ? k->count[RB_ACT_FORWARD][g][m] : graded;
    int sent = k->count[k->forward_only ? RB_ACT_SEND_FORWARD : RB_ACT_SEND_BACKWARD][g][m];
    if (a.kind == RB_ACT_RECV_FORWARD || a.kind == RB_ACT_TRUNK_FORWARD || a.kind == RB_ACT_FORWARD)
        begin(k, g, m);
    if (a.kind == RB_ACT_FORWARD && g + 1 < k->s->segments && !lives_apart(k, g, g + 1)) begin(k, g + 1, m);
    if (k->behind[g] && !k->forward_only) { /* the last of it */
        if (a.kind == RB_ACT_TRUNK_BACKWARD
                ? sent
                : a.kind == RB_ACT_SEND_BACKWARD && k->count[RB_ACT_TRUNK_BACKWARD][g][m])
            k->alive[g]--;
        return;
    }
    rb_action_kind last_send = k->forward_only ? RB_ACT_SEND_FORWARD : RB_ACT_SEND_BACKWARD;
    bool uses = k->forward_only ? a.kind == RB_ACT_FORWARD
                                : a.kind == RB_ACT_BACKWARD || a.kind == RB_ACT_BACKWARD_WEIGHT;
    if ((uses || a.kind == last_send) && used && (sent || !sends)) k->alive[g]--;
}

static int run_one(machine *k, int stage) {
    if (k->at[stage] == k->s->stage[stage].count) return 0;
    rb_action a = k->s->stage[stage].items[k->at[stage]];
    if (k->s->stage_of[a.segment] != stage || k->count[a.kind][a.segment][a.microbatch]) {
        k->illegal = true;
        return 1;
    }
    if (rb_action_computes(a.kind)) {
        if (!compute_is_legal(k, stage, a)) k->illegal = true;
        k->last[stage] = a;
    } else if (!communicate(k, stage, a)) {
        return 0;
    }
    k->count[a.kind][a.segment][a.microbatch]++;
    count_alive(k, a);
    k->at[stage]++;
    return 1;
}

static bool everything_ran(const machine *k) {
    for (int i = 0; i < k->s->stages; i++) {
        if (k->at[i] != k->s->stage[i].count) return false;
        for (int j = 0; j < k->s->stages; j++) {
            if (k->held[i][j]) return false;
        }
    }
    for (int g = 0; g < k->s->segments; g++) {
        for (int m = 0; m < k->s->microbatches; m++) {
            if (k->count[RB_ACT_UPDATE][g][m] != k->count[RB_ACT_UPDATE][0][m]) return false;
            if (k->count[RB_ACT_TRUNK_FORWARD][g][m] != k->count[RB_ACT_TRUNK_FORWARD][g][0]) return false;
            if (k->count[RB_ACT_TRUNK_BACKWARD][g][m] != k->count[RB_ACT_TRUNK_BACKWARD][g][0]) return false;
        }
        if (k->updates[g] && !k->count[RB_ACT_UPDATE][g][k->s->microbatches - 1]) return false;
        if (!k->forward_only && k->graded[g] != k->s->microbatches) return false;
        for (int m = 0; m < k->s->microbatches; m++) {
            if (!k->count[RB_ACT_FORWARD][g][m]) return false;
            if (!k->forward_only && !output_is_there(k, 1, g, m)) return false;
        }
    }
    return true;
}

static bool oracle(const rb_schedule *s, const rb_validate_options *o) {
    static machine k;
    memset(&k, 0, sizeof k);
    k.s = s, k.bound = o->queue_bound, k.forward_only = o->forward_only, k.promised = o->promised,
    k.stash = o->stash;
    for (int i = 0; i < s->stages; i++) {
        k.last[i] = rb_action_of(RB_ACT_SEND_FORWARD, -1, -1);
        for (int j = 0; j < s->stage[i].count; j++)
            if (s->stage[i].items[j].kind == RB_ACT_TRUNK_BACKWARD)
                k.behind[s->stage[i].items[j].segment] = true;
    }
    for (bool moved = true; moved && !k.illegal;) {
        moved = false;
        for (int i = 0; i < s->stages && !k.illegal; i++) moved |= run_one(&k, i);
    }
    return !k.illegal && everything_ran(&k);
}

/* --- mutations --- */

typedef struct tally {
    int legal, rejected;
} tally;

static void insert(rb_action_list *l, int at, rb_action a) {
    rb_err err;
    assert_ok(rb_action_push(l, a, &err), &err);
    memmove(&l->items[at + 1], &l->items[at], sizeof *l->items * (size_t)(l->count - 1 - at));
    l->items[at] = a;
}

static rb_action take(rb_action_list *l, int at) {
    rb_action a = l->items[at];
    memmove(&l->items[at], &l->items[at + 1], sizeof *l->items * (size_t)(--l->count - at));
    return a;
}

/* Validator and oracle must agree; a refusal must name a cell and mark one in the grid. */
static rb_err judge(const rb_schedule *s, const rb_validate_options *o, tally *t) {
    rb_err err = {0};
    rb_buf grid = {0};
    bool legal = oracle(s, o);
    resbm_status st = rb_schedule_validate(s, o, NULL, &grid, &err);
    if (legal != (st == RESBM_OK))
        fail_msg("oracle says %d, validator %d: %s\n%s", legal, st, err.text, grid.data);
    if (!legal) {
        assert_int_equal(st, RESBM_E_STATE);
        assert_non_null(strstr(err.text, ", action "));
        const char *mark = strchr(grid.data, '[');
        assert_true(mark && strchr(mark + 1, ']') && !strchr(mark + 1, '['));
    }
    legal ? t->legal++ : t->rejected++;
    rb_buf_free(&grid);
    return err;
}

static void assert_names(const rb_err *err, int stage, rb_action a) {
    char cell[RB_ACTION_TEXT], want[80];
    rb_action_print(cell, sizeof cell, a);
    snprintf(want, sizeof want, "stage %d, action %s", stage, cell);
    if (!strstr(err->text, want)) fail_msg("\"%s\" does not name \"%s\"", err->text, want);
}

/* Does the text speak of an action of this one's microbatch, in its segment or one beside it? */
static bool concerns(const char *text, rb_action a) {
    for (const char *at = text; (at = strchr(at, ' '));) {
        char cell[RB_ACTION_TEXT] = "";
        rb_action said;
        size_t n = strcspn(++at, " :,;");
        if (n >= sizeof cell) continue;
        memcpy(cell, at, n);
        if (rb_action_parse(cell, &said, NULL)) continue;
        if (said.microbatch == a.microbatch && abs(said.segment - a.segment) <= 1) return true;
    }
    return false;
}

/* What is wrong with two that have changed places is said of one of them, or of what they make or need; or where too much
 * is kept, or nothing goes on. */
static void assert_concerns(const rb_err *err, rb_action a, rb_action b) {
    if (strstr(err->text, "promised") || strstr(err->text, "deadlock") || strstr(err->text, "updates old"))
        return;
    if (!concerns(err->text, a) && !concerns(err->text, b))
        fail_msg("not about what was swapped: %s", err->text);
}

/* Each mutation is undone by its opposite. */
static void mutate(rb_schedule *s, const rb_validate_options *o, int stage, int at, rb_rng *rng, tally t[4]) {
    rb_action_list *l = &s->stage[stage];
    rb_action a = take(l, at);
    int legal = t[0].legal;
    rb_err err = judge(s, o, &t[0]);
    /* One segment alone may update less often: another schedule, sound unless a forward asks for the version that is gone. And
     * a segment may have no trunk actions at all. */
    bool trunk = a.kind == RB_ACT_TRUNK_FORWARD || a.kind == RB_ACT_TRUNK_BACKWARD;
    bool free = (a.kind == RB_ACT_UPDATE && s->segments == 1) || (trunk && s->microbatches == 1);
    if (t[0].legal > legal)
        assert_true(free), t[0].legal--;
    else if (!free || !strstr(err.text, "updates old"))
        assert_names(&err, stage,
                     (rb_action){.kind = a.kind, .segment = a.segment, .microbatch = a.microbatch});
    insert(l, at, a);

    int where = (int)rb_rng_below(rng, (uint64_t)l->count + 1);
    insert(l, where, a);
    err = judge(s, o, &t[1]);
    assert_names(&err, stage, a);
    take(l, where);

    int other = (int)rb_rng_below(rng, (uint64_t)l->count);
    rb_action b = l->items[other];
    l->items[other] = a, l->items[at] = b;
    legal = t[2].legal;
    err = judge(s, o, &t[2]);
    if (t[2].legal == legal) assert_concerns(&err, a, b);
    l->items[other] = b, l->items[at] = a;

    if (s->stages == 1) return;
    int to = (stage + 1 + (int)rb_rng_below(rng, (uint64_t)s->stages - 1)) % s->stages;
    where = (int)rb_rng_below(rng, (uint64_t)s->stage[to].count + 1);
    insert(&s->stage[to], where, take(l, at));
    err = judge(s, o, &t[3]);
    assert_names(&err, to, a);
    insert(l, at, take(&s->stage[to], where));
}

/* Some cells of a list, or all of them. */
static void mutate_schedule(const rb_schedule_kind *k, const rb_schedule_args *a, bool all, rb_rng *rng,
                            tally t[4]) {
    rb_schedule s;
    rb_err err;
    int promised[N], stash[N];
    if (k->check && k->check(a, &err)) return;
    assert_ok(rb_schedule_build_stash(k, a, &s, promised, stash, &err), &err);
    rb_validate_options o = {.queue_bound = k->queue_bound(a),
                             .forward_only = k->forward_only,
                             .promised = promised,
                             .stash = stash};
    assert_true(oracle(&s, &o));
    for (int stage = 0; all && stage < s.stages; stage++)
        for (int at = 0; at < s.stage[stage].count; at++) mutate(&s, &o, stage, at, rng, t);
    for (int round = 0; !all && round < 6; round++) {
        int stage = (int)rb_rng_below(rng, (uint64_t)s.stages);
        mutate(&s, &o, stage, (int)rb_rng_below(rng, (uint64_t)s.stage[stage].count), rng, t);
    }
    assert_ok(rb_schedule_validate(&s, &o, NULL, NULL, &err), &err);
    rb_schedule_free(&s);
}

/* Every cell of the lists up to 3 stages, 6 segments and 4 microbatches, some of each list up to 8; of kinds that flow
 * also over two steps, where older weights are in use. */
static void every_mutation_is_judged_rightly(void **state) {
    (void)state;
    tally t[4] = {0};
    rb_rng rng = {.key = 11};
    for (const rb_schedule_kind *const *k = rb_schedules; *k; k++) {
        for (int stages = 1; stages <= N; stages++) {
            for (int segments = stages; segments <= N; segments++) {
                for (int m = 1; m <= N; m++) {
                    rb_schedule_args a = ARGS(stages, segments, m, (int)rb_rng_below(&rng, 6), NULL);
                    a.trunks = (rb_trunks)rb_rng_below(&rng, 3);
                    a.vertical = (*k)->flows && rb_rng_below(&rng, 2);
                    bool few = stages <= 3 && segments <= 6 && m <= 4;
                    mutate_schedule(*k, &a, few, &rng, t);
                    a.steps = 2;
                    if ((*k)->flows && 2 * m <= N) mutate_schedule(*k, &a, few, &rng, t);
                }
            }
        }
    }
    assert_int_equal(t[0].legal + t[1].legal + t[3].legal, 0); /* dropped, doubled, moved: never legal */
    assert_true(t[0].rejected > 15000);
    assert_true(t[2].legal > 300 && t[2].rejected > 10000); /* swapped: some do not matter */
}

/* --- single rules, with their sentences --- */

static const int two[] = {0, 1}, one[] = {0, 0};

static void refuse_with(const char *text, const int *stage_of, int microbatches, const rb_validate_options *o,
                        const char *part, const char *picture) {
    rb_schedule s = parse_schedule(text, 2, stage_of, microbatches);
    rb_buf grid = {0};
    rb_err err;
    assert_fails(rb_schedule_validate(&s, o, NULL, &grid, &err), RESBM_E_STATE, part, &err);
    if (picture) assert_string_equal(grid.data, picture);
    rb_buf_free(&grid);
    rb_schedule_free(&s);
}

static void sentences_name_the_cell(void **state) {
    (void)state;
    const rb_validate_options o = {.queue_bound = 1}, eval = {.queue_bound = 1, .forward_only = true};
    refuse_with("0F0 0SF0 0RB0 0B0\n1RF0 1F0 1SB0 1B0\n", two, 1, &o,
                "text: stage 1, action 1SB0 (3 of 4): stands before 1B0, which it needs",
                "0  0F0   0SF0  0RB0  0B0  \n"
                "1  1RF0  1F0  [1SB0] 1B0  \n");
    refuse_with("0F0 0SF0 0RB0 0B0\n1RF0 1F0 1SB0\n", two, 1, &o, "text: stage 1, action 1B0: is missing",
                "0  0F0   0SF0  0RB0  0B0  \n"
                "1  1RF0  1F0   1SB0 [?]   \n");
    refuse_with("0F0 1F0 1B0 0B0 0F1 1F1 1B1 0B1 0B1\n", one, 2, &o,
                "action 0B1 (9 of 9): stands there twice, first as action 8", NULL);
    refuse_with(
        "0F0 0F1 1F0 1F1 1B1 1B0 0B0 0B1\n", one, 2, &o,
        "action 1B1 (5 of 8): adds to the gradient before 1B0; microbatches must accumulate in ascending",
        NULL);
    refuse_with("0F0 1F0 1B0 1W0 0B0\n", one, 1, &o, "action 1W0 (4 of 5): is a half of a backward", NULL);
    refuse_with("0F0 1F0 1I0 0I0 0W0\n", one, 1, &o, "action 1W0: is missing", NULL);
    refuse_with("0F0 1F0 1W0 1I0 0I0 0W0\n", one, 1, &o, "action 1W0 (3 of 6): stands before 1I0", NULL);
    refuse_with("0F0 0SF0 1F0 1B0 0B0\n", one, 1, &o, "action 0SF0 (2 of 5): segment 0 has no neighbour",
                NULL);
    refuse_with("0F0 2F0\n", one, 1, &o, "action 2F0 (2 of 2): there are 2 segments and 1 microbatches",
                NULL);
    refuse_with("0F0 1F0 1B0\n", one, 1, &eval, "action 1B0 (3 of 3): an evaluation has no backward", NULL);
    refuse_with("0F0 0F1 0SF1 0SF0\n1RF0 1F0 1RF1 1F1\n", two, 2, &eval,
                "stage 1, action 1RF1 (3 of 4): stage 0 sends it before 0SF0, which is received first", NULL);
}

static void a_trunk_stands_beside_its_segment(void **state) {
    (void)state;
    const rb_validate_options o = {.queue_bound = 2};
    const char *good =
        "0F0 0SF0 0F1 0SF1 0RB0 0B0 0RB1 0B1\n1TF0 1RF0 1F0 1B0 1SB0 1TB0 1RF1 1TF1 1F1 1B1 1TB1 1SB1\n";
    rb_schedule s = parse_schedule(good, 2, two, 2);
    int alive[2];
    rb_err err;
    assert_ok(rb_schedule_validate(&s, &o, alive, NULL, &err), &err);
    assert_int_equal(alive[1], 1);
    rb_schedule_free(&s);
    const char *head = "0F0 0SF0 0F1 0SF1 0RB0 0B0 0RB1 0B1\n";
    const struct {
        const char *list, *part;
    } bad[] = {{"1TF0 1RF0 1F0 1B0 1SB0 1RF1 1F1 1B1 1SB1\n", "stage 1, action 1TF1: is missing"},
               {"1TF0 1TF1 1RF0 1F0 1RF1 1F1 1B0 1SB0 1B1 1SB1\n",
                "action 1TF0 (1 of 10): must stand right before 1F0, with messages"},
               {"1RF0 1F0 1RF1 1F1 1B0 1SB0 1B1 1SB1 1TB0 1TB1\n",
                "action 1TB0 (9 of 10): must stand right behind 1B0"},
               {"1RF0 1F0 1I0 1SB0 1TB0 1W0 1RF1 1F1 1B1 1SB1 1TB1\n",
                "action 1TB0 (5 of 11): must stand right behind 1B0"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[400];
        snprintf(text, sizeof text, "%s%s", head, bad[i].list);
        refuse_with(text, two, 2, &o, bad[i].part, NULL);
    }
    refuse_with("0TF0 0F0 1F0 1B0 0B0\n", one, 1, &o,
                "action 0TF0 (1 of 5): there is no boundary before segment 0", NULL);
}

static void crossed_waits_are_a_deadlock(void **state) {
    (void)state;
    const rb_validate_options tight = {.queue_bound = 1}, wide = {.queue_bound = 2};
    const char *text = "0F0 0SF0 0F1 0SF1 0F2 0SF2 0F3 0SF3 0RB0 0B0 0RB1 0B1 0RB2 0B2 0RB3 0B3\n"
                       "1RF0 1F0 1B0 1SB0 1RF1 1F1 1B1 1SB1 1RF2 1F2 1B2 1SB2 1RF3 1F3 1B3 1SB3\n";
    refuse_with(text, two, 4, &tight,
                "stage 0, action 0SF3 (8 of 16): deadlock: stage 0 waits at 0SF3, stage 1 waits at 1SB1",
                NULL);
    rb_schedule s = parse_schedule(text, 2, two, 4);
    rb_err err;
    assert_ok(rb_schedule_validate(&s, &wide, NULL, NULL, &err), &err);
    rb_schedule_free(&s);
}

static void activations_alive_are_counted(void **state) {
    (void)state;
    const int promised[] = {2, 1};
    rb_validate_options o = {.queue_bound = 1};
    int alive[2];
    rb_err err;
    rb_schedule s = build("gpipe", 2, 2, 3, 0);
    assert_ok(rb_schedule_validate(&s, &o, alive, NULL, &err), &err);
    assert_int_equal(alive[0], 3);
    assert_int_equal(alive[1], 3);
    o.promised = promised;
    assert_fails(
        rb_schedule_validate(&s, &o, alive, NULL, &err), RESBM_E_STATE,
        "gpipe: stage 0, action 0F2 (5 of 12): is microbatch 3 alive in segment 0; at most 2 are promised",
        &err);
    rb_schedule_free(&s);
    s = build("1f1b", 2, 2, 3, 0);
    assert_ok(rb_schedule_validate(&s, &o, alive, NULL, &err), &err);
    assert_int_equal(alive[0], 2);
    assert_int_equal(alive[1], 1);
    rb_schedule_free(&s);
    /* Inside a stage the segment before hands over to a slot, before the forward that reads it; so does a message. */
    s = parse_schedule("0F0 0F1 1F0 1B0 0B0 1F1 1B1 0B1\n", 2, one, 2);
    o.promised = NULL;
    assert_ok(rb_schedule_validate(&s, &o, alive, NULL, &err), &err);
    assert_int_equal(alive[0], 2);
    assert_int_equal(alive[1], 2);
    rb_schedule_free(&s);
    s = parse_schedule("0F0 0SF0 0F1 0SF1 0RB0 0B0 0RB1 0B1\n1RF0 1RF1 1F0 1B0 1SB0 1F1 1B1 1SB1\n", 2, two, 2);
    o.queue_bound = 2;
    assert_ok(rb_schedule_validate(&s, &o, alive, NULL, &err), &err);
    assert_int_equal(alive[1], 2);
    rb_schedule_free(&s);
    o.queue_bound = 1;
    /* A weight half that comes late keeps its microbatch alive. */
    s = parse_schedule("0F0 1F0 1I0 0I0 0F1 1F1 1W0 0W0 1I1 0I1 1W1 0W1\n", 2, one, 2);
    o.promised = NULL;
    assert_ok(rb_schedule_validate(&s, &o, alive, NULL, &err), &err);
    assert_int_equal(alive[0], 2);
    assert_int_equal(alive[1], 2);
    rb_schedule_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mutation_is_judged_rightly),  cmocka_unit_test(sentences_name_the_cell),
        cmocka_unit_test(a_trunk_stands_beside_its_segment), cmocka_unit_test(crossed_waits_are_a_deadlock),
        cmocka_unit_test(activations_alive_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
