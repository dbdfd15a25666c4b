/* Ten training steps of a small whole model against PyTorch's (tests/golden/make_training.py): three
 * segments, two microbatches added up, global clipping, a wsd schedule. */
#include <math.h>
#include "model/golden_testing.h"
#include "optim/clip.h"
#include "optim/lr_schedule.h"
#include "optim/optim.h"

enum { STEPS = 10, MICROBATCHES = 2, MOST = 80 };

typedef struct trainer {
    world w;
    rb_optim *optim;
    rb_optim_tensor tensor[MOST]; /* one per row of the table */
    void *sums;                   /* (rows) f64, device */
} trainer;

/* PyTorch's own Muon rounds its Newton-Schulz iterates to bfloat16: its losses leave those of f32 by up
 * to 1.3e-4. */
static const struct golden_case {
    const char *name, *kind;
    double lr, above, below; /* allowed relative distance of the furthest loss */
} cases[] = {
    {"adamw", "adamw", 0.004, 0, 1e-5},      {"muon", "muon", 0.02, 0, 1e-5},
    {"torch", "muon", 0.02, 1e-5, 5e-4},     {"adamw_delayed", "adamw", 0.004, 0, 1e-5},
    {"muon_delayed", "muon", 0.02, 0, 1e-5},
};

static const rb_lr_schedule schedule = {
    .decay = RB_DECAY_WSD, .warmup = 3, .steps = STEPS, .share = 0.4, .floor = 0.1};

static void trainer_open(trainer *t, const char *device, const struct golden_case *c, const record *config) {
    rb_err err;
    rb_optim_config o = rb_optim_defaults();
    snprintf(o.kind, sizeof o.kind, "%s", c->kind);
    o.delay = strstr(c->name, "_delayed") != NULL;
    o.lr = c->lr, o.adamw_lr = 0.002, o.weight_decay = 0.1;
    configure(&t->w, config);
    t->w.codec = true;
    world_open(&t->w, device, 2, true);
    load_weights(&t->w);
    assert_true(t->w.table.count <= MOST);
    t->sums = device_memory(&t->w, MOST * sizeof(double));
    for (int r = 0; r < t->w.table.count; r++)
        t->tensor[r] = (rb_optim_tensor){.tensor = &t->w.table.rows[r],
                                         .weight = rb_stage_weight(t->w.stage, r),
                                         .grad = rb_stage_grad(t->w.stage, r)};
    assert_ok(rb_optim_check(&o, &t->w.table, &err), &err);
    assert_ok(rb_optim_open(t->w.dev, &o, t->tensor, t->w.table.count, NULL, &t->optim, &err), &err);
}

static void trainer_close(trainer *t) {
    rb_optim_close(t->optim);
    rb_free(t->w.dev, t->sums);
    world_close(&t->w);
}

static double grad_norm(trainer *t) {
    rb_err err;
    int rows = t->w.table.count;
    for (int r = 0; r < rows; r++)
        assert_ok(rb_sumsq(t->w.q, rb_view1((double *)t->sums + r, RB_F64, 1), t->tensor[r].grad, &err),
                  &err);
    double *sums = get(&t->w, rb_view1(t->sums, RB_F64, rows));
    double norm = rb_grad_norm(&t->w.table, sums, (int)t->w.model.segments, NULL);
    free(sums);
    return norm;
}

/* Returns the mean loss over the step's tokens; *norm is the gradient's before clipping. */
static double train_step(trainer *t, const record *tokens, int step, double *norm) {
    rb_err err;
    world *w = &t->w;
    double loss = 0, count = (double)(MICROBATCHES * w->B * w->T);
    float scale[MOST];
    w->step = (uint64_t)step;
    world_zero(w);
    for (int m = 0; m < MICROBATCHES; m++) {
        load_tokens(w, tokens, (step * MICROBATCHES + m) * w->B * (w->T + 1));
        loss += world_forward(w, 0, (float)(1 / count));
        world_backward(w, 0, FUSED);
    }
    *norm = grad_norm(t);
    for (int r = 0; r < w->table.count; r++) scale[r] = rb_clip_factor(*norm, 1.0);
    assert_ok(rb_optim_step(t->optim, w->q, rb_lr_factor(&schedule, step), scale, &err), &err);
    assert_ok(rb_queue_sync(w->q, &err), &err);
    return loss / count;
}

static const record *find(const record *records, int count, const char *what, const char *name) {
    char whole[96];
    snprintf(whole, sizeof whole, "%s.%s", what, name);
    for (int i = 0; i < count; i++)
        if (!strcmp(records[i].name, whole)) return &records[i];
    fail_msg("tests/golden/training.golden has no %s", whole);
    return NULL;
}

static double farther(double worst, double got, double want) {
    double d = fabs(got - want) / want;
    return d <= worst ? worst : d; /* a NaN stays */
}

static void check(const char *device, const struct golden_case *c, const record *records, int count) {
    const record *losses = find(records, count, "loss", c->name),
                 *norms = find(records, count, "norm", c->name);
    trainer t = {0};
    double worst = 0, worst_norm = 0;
    assert_int_equal(losses->count, STEPS);
    assert_int_equal(norms->count, STEPS);
    trainer_open(&t, device, c, &records[0]);
    for (int step = 0; step < STEPS; step++) {
        double norm, loss = train_step(&t, &records[1], step, &norm);
        assert_true(norm > 2); /* clipping is at work */
        worst = farther(worst, loss, number(losses, (uint32_t)step));
        worst_norm = farther(worst_norm, norm, number(norms, (uint32_t)step));
    }
    trainer_close(&t);
    if (!(worst >= c->above && worst <= c->below))
        fail_msg("%s on %s: furthest loss is %.3g away from PyTorch's, not %g to %g", c->name, device, worst,
                 c->above, c->below);
    if (c->above == 0 && !(worst_norm <= 5e-5))
        fail_msg("%s on %s: furthest gradient norm is %.3g away from PyTorch's", c->name, device, worst_norm);
}

static void ten_steps_on(const char *device) {
    rb_buf file = {0};
    rb_err err;
    record records[16];
    assert_ok(rb_read_file(RB_SOURCE_DIR "/tests/golden/training.golden", 1 << 20, &file, &err), &err);
    int count = read_records(&file, records, 16);
    assert_string_equal(records[1].name, "tokens");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(device, &cases[i], records, count);
    rb_buf_free(&file);
}

static void ten_steps_on_ref(void **state) {
    (void)state;
    ten_steps_on("ref");
}
static void ten_steps_on_cpu(void **state) {
    (void)state;
    ten_steps_on("cpu");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_steps_on_ref),
        cmocka_unit_test(ten_steps_on_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
