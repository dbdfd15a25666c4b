/* One stage against several: the same run on 1 stage and on the configured number, a few steps each, and the losses
 * and weights compared bit for bit. Then the gradients of a small copy by finite differences is what the test suite
 * does for every kind; here the run's own loss is checked along its gradient. */
#include <argp.h>
#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "checkpoint/checkpoint.h"
#include "cli/cli.h"
#include "cli/number.h"
#include "cli/stop.h"
#include "cli/words.h"
#include "core/buf.h"
#include "run/gradcheck.h"
#include "run/train.h"
#include "run/workers.h"

typedef struct arguments {
    rb_cli_words words;
    int steps;
} arguments;

static const struct argp_option options[] = {
    {"steps", 's', "N", 0, "training steps to compare (default 3)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 's':
        a->steps = (int)rb_cli_int("steps", arg, 1, 1000, state);
        break;
    default:
        return rb_cli_words_parse(&a->words, key, arg, state);
    }
    return 0;
}

typedef struct losses {
    double *value;
    int n;
} losses;

static resbm_status ready(void *ctx, const char *rules, int64_t params, int64_t from, rb_err *err) {
    (void)ctx, (void)rules, (void)params, (void)from, (void)err;
    return RESBM_OK;
}

static resbm_status keep_loss(void *ctx, const rb_step_record *r, rb_err *err) {
    losses *l = ctx;
    (void)err;
    l->value[l->n++] = r->loss;
    return RESBM_OK;
}

static resbm_status no_spans(void *ctx, int stage, const rb_stage_span *span, int n, rb_err *err) {
    (void)ctx, (void)stage, (void)span, (void)n, (void)err;
    return RESBM_OK;
}

/* One run of a few steps on so many stages; the folder keeps its snapshot. */
static resbm_status short_run(const rb_config *base, int stages, const char *dir, losses *l, rb_err *err) {
    char program[4096];
    rb_train_summary sum;
    rb_config *c = malloc(sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *c = *base;
    c->pipeline.stages = stages;
    rb_config_alone(c);
    c->pipeline.addresses = 0;
    if (stages == 1) snprintf(c->pipeline.schedule, sizeof c->pipeline.schedule, "%s", rb_schedule_1f1b.name);
    rb_train_options o = {.cfg = c,
                          .dir = dir,
                          .program = rb_cli_program(program),
                          .stop = rb_cli_stop(),
                          .throwaway = true,
                          .hooks = {.ctx = l, .ready = ready, .step = keep_loss, .spans = no_spans}};
    resbm_status st = rb_train(&o, &sum, err);
    free(c);
    return st;
}

/* Names the first file of step-N whose bytes differ between the two folders. */
static resbm_status same_weights(const char *a, const char *b, int64_t step, rb_err *err) {
    char path[2][4096];
    rb_checkpoint *c[2] = {NULL, NULL};
    const char *dir[2] = {a, b};
    resbm_status st = RESBM_OK;
    for (int i = 0; i < 2 && !st; i++) {
        st = rb_checkpoint_path(dir[i], step, path[i], err);
        if (!st) st = rb_checkpoint_open(path[i], &c[i], err);
    }
    const rb_manifest *m = st ? NULL : rb_checkpoint_manifest(c[0]),
                      *n = st ? NULL : rb_checkpoint_manifest(c[1]);
    for (int i = 0; m && i < m->file_count && !st; i++)
        for (int j = 0; j < n->file_count; j++)
            if (!strcmp(m->files[i].name, n->files[j].name) &&
                strcmp(m->files[i].sum.hash, n->files[j].sum.hash))
                st =
                    rb_fail(err, RESBM_E_NUMERIC, "%s differs between 1 stage and several", m->files[i].name);
    rb_checkpoint_close(c[0]);
    rb_checkpoint_close(c[1]);
    return st;
}

static int remove_entry(const char *path, const struct stat *sb, int type, struct FTW *where) {
    (void)sb, (void)type, (void)where;
    return remove(path);
}

static void remove_folder(const char *dir) {
    if (nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS)) fprintf(stderr, "resbm: cannot remove %s\n", dir);
}

static resbm_status compare_stages(rb_config *c, const char *folder, rb_err *err) {
    char one[4096], many[4096];
    losses a = {calloc((size_t)c->train.steps + 1, sizeof(double)), 0},
           b = {calloc((size_t)c->train.steps + 1, sizeof(double)), 0};
    snprintf(one, sizeof one, "%s/one", folder);
    snprintf(many, sizeof many, "%s/many", folder);
    resbm_status st = a.value && b.value ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for losses");
    if (!st) st = short_run(c, 1, one, &a, err);
    if (!st) st = short_run(c, (int)c->pipeline.stages, many, &b, err);
    for (int i = 0; i < a.n && !st; i++) {
        printf("step %d: loss %.9g on 1 stage, %.9g on %lld\n", i + 1, a.value[i], b.value[i],
               (long long)c->pipeline.stages);
        if (memcmp(&a.value[i], &b.value[i], sizeof(double)))
            st = rb_fail(err, RESBM_E_NUMERIC, "the losses of step %d differ", i + 1);
    }
    if (!st) st = same_weights(one, many, c->train.steps, err);
    if (!st) printf("equal bits: %d losses and every file of the snapshot\n", a.n);
    free(a.value);
    free(b.value);
    return st;
}

static resbm_status verify(const arguments *a, rb_config *c, rb_err *err) {
    const char *tmp = getenv("TMPDIR");
    char folder[4000];
    snprintf(folder, sizeof folder, "%s/resbm-verify-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    rb_gradcheck g;
    RB_TRY(rb_cli_words_read(&a->words, c, err));
    c->train.steps = a->steps;
    c->train.eval_every = c->train.checkpoint_every = 0;
    c->train.max_seconds = 0;
    c->optim.rates.warmup = 0;
    c->optim.rates.decay = RB_DECAY_CONSTANT;
    *c->data.val = 0;
    c->link = (rb_shape_options){0};
    RB_TRY(rb_config_validate(c, err));
    if (!mkdtemp(folder)) return rb_fail_errno(err, errno, "cannot make the folder %s", folder);
    resbm_status st = compare_stages(c, folder, err);
    remove_folder(folder);
    rb_cli_stop_default();
    RB_TRY(st);
    RB_TRY(rb_gradcheck_run(c, &g, err));
    printf("gradients: along the gradient of all %lld parameters the loss of one microbatch changes by %.6g, "
           "finite "
           "differences say %.6g (%.2g apart, f32 codec)\n",
           (long long)g.params, g.by_gradient, g.by_difference, g.apart);
    if (g.apart > 0.02)
        return rb_fail(err, RESBM_E_NUMERIC, "gradient and finite difference are %.3g apart", g.apart);
    return RESBM_OK;
}

int rb_cmd_verify(int argc, char **argv) {
    const struct argp argp = {
        options,
        parse,
        "RUN.yaml [section.key=value ...]",
        "Runs a few steps on one stage and on pipeline.stages and compares them bit for bit; then "
        "checks the gradient against a finite difference.",
        NULL,
        NULL,
        NULL};
    arguments a = {.steps = 3};
    rb_err err = {0};
    rb_config *c = calloc(1, sizeof *c);
    bool room = rb_cli_words_init(&a.words, argc, "configurations", "name a configuration (RUN.yaml)");
    if (!room || !c || argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = verify(&a, c, &err);
    free(c);
    rb_cli_words_free(&a.words);
    if (!st) puts("verified");
    return st ? rb_cli_fail(st, &err) : 0;
}
