#include <pthread.h>
#include "core/clock.h"
#include "pipeline/executor.h"
#include "pipeline/testing.h"

typedef struct recorder {
    rb_action_list ran;
    int fail_at;
    atomic_bool *cancel_after;
    int limit;
} recorder;

static resbm_status record(recorder *r, rb_action_kind k, int segment, int microbatch, rb_err *err) {
    if (r->ran.count == r->fail_at) return rb_fail(err, RESBM_E_PEER, "stage 0 closed the connection");
    RB_TRY(rb_action_push(&r->ran, rb_action_of(k, segment, microbatch), err));
    if (r->cancel_after && r->ran.count == r->limit) atomic_store(r->cancel_after, true);
    return RESBM_OK;
}

#define HOOK(name, kind)                                                                                     \
    static resbm_status name(void *ctx, rb_action a, rb_err *err) {                                          \
        return record(ctx, kind, a.segment, a.microbatch, err);                                              \
    }
HOOK(on_forward, RB_ACT_FORWARD)
HOOK(on_backward, RB_ACT_BACKWARD)
HOOK(on_input, RB_ACT_BACKWARD_INPUT)
HOOK(on_weight, RB_ACT_BACKWARD_WEIGHT)
HOOK(on_update, RB_ACT_UPDATE)
HOOK(on_trunk_forward, RB_ACT_TRUNK_FORWARD)
HOOK(on_trunk_backward, RB_ACT_TRUNK_BACKWARD)
HOOK(on_send_forward, RB_ACT_SEND_FORWARD)
HOOK(on_recv_forward, RB_ACT_RECV_FORWARD)
HOOK(on_send_backward, RB_ACT_SEND_BACKWARD)
HOOK(on_recv_backward, RB_ACT_RECV_BACKWARD)

static rb_executor_hooks recording(recorder *r) {
    return (rb_executor_hooks){r,
                               on_forward,
                               on_backward,
                               on_input,
                               on_weight,
                               on_update,
                               on_trunk_forward,
                               on_trunk_backward,
                               on_send_forward,
                               on_recv_forward,
                               on_send_backward,
                               on_recv_backward};
}

static void every_kind_reaches_its_hook_in_order(void **state) {
    (void)state;
    const int stage_of[] = {0, 1, 2};
    const char *list = "1RF0 1F0 1SF0 1RF1 1F1 1SF1 1RB0 1I0 1SB0 1W0 1RB1 1B1 1SB1";
    char text[200], got[200];
    snprintf(text, sizeof text, "\n%s\n\n", list);
    rb_schedule s = parse_schedule(text, 3, stage_of, 2);
    recorder r = {.fail_at = -1};
    rb_executor_hooks h = recording(&r);
    rb_action_trace trace[13];
    int done;
    rb_err err;
    int64_t before = rb_now_ns();
    assert_ok(rb_execute(&s, 1, &h, NULL, trace, &done, &err), &err);
    print_list(&r.ran, got, sizeof got);
    assert_string_equal(got, list);
    assert_int_equal(done, 13);
    for (int i = 0; i < 13; i++) {
        assert_memory_equal(&trace[i].action, &s.stage[1].items[i], sizeof(rb_action));
        assert_true(trace[i].begin_ns >= before && trace[i].end_ns >= trace[i].begin_ns);
        before = trace[i].end_ns;
    }
    assert_true(before <= rb_now_ns());
    free(r.ran.items);
    rb_schedule_free(&s);
}

static void the_first_fault_stops_and_is_located(void **state) {
    (void)state;
    rb_schedule s = build("1f1b", 2, 2, 4, 0);
    recorder r = {.fail_at = 6};
    rb_executor_hooks h = recording(&r);
    rb_err err;
    int done;
    assert_fails(rb_execute(&s, 1, &h, NULL, NULL, &done, &err), RESBM_E_PEER,
                 "stage 1, action 1B1: stage 0 closed the connection", &err);
    assert_int_equal(done, 6);
    assert_int_equal(r.ran.count, 6);
    free(r.ran.items);
    rb_schedule_free(&s);
}

static void cancelling_stops_between_actions(void **state) {
    (void)state;
    rb_schedule s = build("gpipe", 2, 2, 4, 0);
    atomic_bool cancel = false;
    recorder r = {.fail_at = -1, .cancel_after = &cancel, .limit = 3};
    rb_executor_hooks h = recording(&r);
    rb_err err;
    int done;
    assert_fails(rb_execute(&s, 0, &h, &cancel, NULL, &done, &err), RESBM_E_CANCELLED, "stage 0, action 0SF1",
                 &err);
    assert_int_equal(done, 3);
    free(r.ran.items);
    rb_schedule_free(&s);
}

static void a_missing_hook_is_found_before_anything_runs(void **state) {
    (void)state;
    rb_schedule s = build("gpipe", 2, 2, 2, 0);
    recorder r = {.fail_at = -1};
    rb_executor_hooks h = recording(&r);
    h.backward = NULL;
    rb_err err;
    assert_fails(rb_execute(&s, 0, &h, NULL, NULL, NULL, &err), RESBM_E_ARG, "stage 0, action 0B0: no hook",
                 &err);
    assert_int_equal(r.ran.count, 0);
    rb_schedule_free(&s);
}

/* --- whole pipelines: stages are threads, segments multiply, links are mailboxes --- */

enum { SEGMENTS = 5, MICRO = 7 };

typedef struct world {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const rb_schedule *s;
    double forward[SEGMENTS + 1][MICRO];  /* input of each segment as it crossed; 0 = not there */
    double backward[SEGMENTS + 1][MICRO]; /* gradient of each segment's output */
} world;

typedef struct worker {
    world *w;
    int stage;
    double in[SEGMENTS + 1][MICRO], dout[SEGMENTS + 1][MICRO], grad[SEGMENTS];
    double out[SEGMENTS][MICRO], din[SEGMENTS][MICRO];
    resbm_status status;
    rb_err err;
} worker;

static void post(world *w, double *box, double x) {
    pthread_mutex_lock(&w->lock);
    *box = x;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static double fetch(world *w, const double *box) {
    pthread_mutex_lock(&w->lock);
    while (*box == 0) pthread_cond_wait(&w->changed, &w->lock);
    double x = *box;
    pthread_mutex_unlock(&w->lock);
    return x;
}

/* Segment g: y = (g + 2) x, loss = y of the last; dL/dweight = x dy, accumulated in the list's order. */
static resbm_status do_forward(void *ctx, rb_action a, rb_err *err) {
    int g = a.segment, m = a.microbatch;
    (void)err;
    worker *k = ctx;
    if (g == 0) k->in[0][m] = 0.1 * (m + 1);
    k->out[g][m] = (g + 2) * k->in[g][m];
    k->in[g + 1][m] = k->out[g][m];
    return RESBM_OK;
}
static resbm_status do_backward(void *ctx, rb_action a, rb_err *err) {
    int g = a.segment, m = a.microbatch;
    (void)err;
    worker *k = ctx;
    if (g == SEGMENTS - 1) k->dout[g][m] = 1;
    k->grad[g] += k->in[g][m] * k->dout[g][m];
    k->din[g][m] = (g + 2) * k->dout[g][m];
    if (g) k->dout[g - 1][m] = k->din[g][m];
    return RESBM_OK;
}
static resbm_status do_send_forward(void *ctx, rb_action a, rb_err *err) {
    int g = a.segment, m = a.microbatch;
    (void)err;
    worker *k = ctx;
    post(k->w, &k->w->forward[g + 1][m], k->out[g][m]);
    return RESBM_OK;
}
static resbm_status do_recv_forward(void *ctx, rb_action a, rb_err *err) {
    int g = a.segment, m = a.microbatch;
    (void)err;
    worker *k = ctx;
    k->in[g][m] = fetch(k->w, &k->w->forward[g][m]);
    return RESBM_OK;
}
static resbm_status do_send_backward(void *ctx, rb_action a, rb_err *err) {
    int g = a.segment, m = a.microbatch;
    (void)err;
    worker *k = ctx;
    post(k->w, &k->w->backward[g - 1][m], k->din[g][m]);
    return RESBM_OK;
}
static resbm_status do_recv_backward(void *ctx, rb_action a, rb_err *err) {
    int g = a.segment, m = a.microbatch;
    (void)err;
    worker *k = ctx;
    k->dout[g][m] = fetch(k->w, &k->w->backward[g][m]);
    return RESBM_OK;
}

static void *work(void *arg) {
    worker *k = arg;
    rb_executor_hooks h = {.ctx = k,
                           .forward = do_forward,
                           .backward = do_backward,
                           .send_forward = do_send_forward,
                           .recv_forward = do_recv_forward,
                           .send_backward = do_send_backward,
                           .recv_backward = do_recv_backward};
    k->status = rb_execute(k->w->s, k->stage, &h, NULL, NULL, NULL, &k->err);
    return NULL;
}

static void train(const char *name, int stages, int extra, double grad[SEGMENTS]) {
    rb_schedule s = build(name, stages, SEGMENTS, MICRO, extra);
    world w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .s = &s};
    worker *k = calloc((size_t)stages, sizeof *k);
    pthread_t thread[SEGMENTS];
    for (int i = 0; i < stages; i++) {
        k[i].w = &w;
        k[i].stage = i;
        assert_int_equal(pthread_create(&thread[i], NULL, work, &k[i]), 0);
    }
    for (int i = 0; i < stages; i++) {
        pthread_join(thread[i], NULL);
        assert_ok(k[i].status, &k[i].err);
    }
    for (int g = 0; g < SEGMENTS; g++) grad[g] = k[s.stage_of[g]].grad[g];
    free(k);
    rb_schedule_free(&s);
}

static void gradients_do_not_depend_on_stages_or_schedule(void **state) {
    (void)state;
    double want[SEGMENTS], got[SEGMENTS];
    train("gpipe", 1, 0, want);
    assert_true(want[4] > 0.1 * 28 * 119 && want[4] < 0.1 * 28 * 121);
    for (int stages = 1; stages <= SEGMENTS; stages++) {
        train("gpipe", stages, 0, got);
        assert_memory_equal(got, want, sizeof want);
        for (int extra = 0; extra <= 4; extra += 4) {
            train("1f1b", stages, extra, got);
            assert_memory_equal(got, want, sizeof want);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_reaches_its_hook_in_order),
        cmocka_unit_test(the_first_fault_stops_and_is_located),
        cmocka_unit_test(cancelling_stops_between_actions),
        cmocka_unit_test(a_missing_hook_is_found_before_anything_runs),
        cmocka_unit_test(gradients_do_not_depend_on_stages_or_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
