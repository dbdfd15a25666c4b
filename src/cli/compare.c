#include <argp.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli/cli.h"
#include "cli/number.h"
#include "cli/stop.h"
#include "run/compare.h"

enum {
    OPT_VARIANT = 'V',
    OPT_SEEDS = 's',
    OPT_TARGET = 't',
    OPT_LINK = 'l',
    OPT_BUDGET = 'b',
    OPT_JOBS = 'j',
    OPT_KEEP = 'k',
    OPT_REPLACE = 'R',
    UNFINISHED = 3,
    MOST_TEXTS = 256
};

typedef struct arguments {
    const char *file, *dir, *target;
    const char *variant[MOST_TEXTS], *link[RB_COMPARE_LINKS];
    int variants, links, seeds, jobs;
    double budget_s;
    bool keep, replace;
} arguments;

static const struct argp_option options[] = {
    {"variant", OPT_VARIANT, "NAME:KEY=VALUE,...", 0,
     "one more variant; also control=, like=, sweep.KEY=[...]", 0},
    {"out", 'o', "DIR", 0, "folder of the comparison (default runs/NAME of the specification)", 0},
    {"seeds", OPT_SEEDS, "N", 0, "seeds 1 to N instead of the specification's (default 3)", 0},
    {"target", OPT_TARGET, "LOSS", 0, "a loss, 'best uncompressed', or 'best uncompressed + 1%'", 0},
    {"link", OPT_LINK, "RATE/LATENCY", 0, "one more link to state times for: 80mbit/20ms", 0},
    {"budget", OPT_BUDGET, "TIME", 0, "stop cleanly after so long (30m, 2h, 90s); run again to go on", 0},
    {"jobs", OPT_JOBS, "N", 0, "runs beside each other (default: this machine's processors)", 0},
    {"keep", OPT_KEEP, 0, 0, "keep the last snapshot of finished runs", 0},
    {"replace", OPT_REPLACE, 0, 0, "train runs anew whose settings have changed", 0},
    {0},
};

static double duration(const char *text, struct argp_state *state) {
    char *end;
    double v = strtod(text, &end);
    double unit = !strcmp(end, "s") ? 1 : !strcmp(end, "m") ? 60 : !strcmp(end, "h") ? 3600 : 0;
    if (!(v > 0) || !isfinite(v) || unit == 0)
        argp_error(state, "--budget '%s': a time with its unit, e.g. 30m", text);
    return v * unit;
}

static const char **next(const char **list, int *n, int most, const char *what, struct argp_state *state) {
    if (*n == most) argp_error(state, "more than %d of --%s", most, what);
    return &list[(*n)++];
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_VARIANT:
        *next(a->variant, &a->variants, MOST_TEXTS, "variant", state) = arg;
        break;
    case OPT_LINK:
        *next(a->link, &a->links, RB_COMPARE_LINKS, "link", state) = arg;
        break;
    case 'o':
        a->dir = arg;
        break;
    case OPT_SEEDS:
        a->seeds = (int)rb_cli_int("seeds", arg, 1, RB_COMPARE_SEEDS, state);
        break;
    case OPT_TARGET:
        a->target = arg;
        break;
    case OPT_BUDGET:
        a->budget_s = duration(arg, state);
        break;
    case OPT_JOBS:
        a->jobs = (int)rb_cli_int("jobs", arg, 1, 1024, state);
        break;
    case OPT_KEEP:
        a->keep = true;
        break;
    case OPT_REPLACE:
        a->replace = true;
        break;
    case ARGP_KEY_ARG:
        if (a->file) argp_error(state, "two specifications: %s and %s", a->file, arg);
        a->file = arg;
        break;
    case ARGP_KEY_END:
        if (!a->file)
            argp_error(state, "name a specification (SPEC.yaml) or a run configuration with --variant");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static resbm_status load(const arguments *a, rb_compare_spec *s, rb_err *err) {
    RB_TRY(rb_compare_spec_load(s, a->file, err));
    for (int i = 0; i < a->variants; i++) RB_TRY(rb_compare_spec_add_variant(s, a->variant[i], err));
    for (int i = 0; i < a->links; i++) RB_TRY(rb_compare_spec_add_link(s, a->link[i], "--link", err));
    if (a->target) RB_TRY(rb_compare_spec_target(s, a->target, "--target", err));
    if (a->seeds) rb_compare_spec_seeds(s, a->seeds);
    return rb_compare_spec_finish(s, err);
}

static int processors(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static int report(const rb_compare_outcome *out, const char *dir) {
    printf("%s\n%s/report.html\n", out->table.data ? out->table.data : "", dir);
    if (out->failed) fprintf(stderr, "resbm: %d of %d runs failed; see above\n", out->failed, out->runs);
    if (!out->complete)
        fprintf(stderr, "resbm: %d of %d runs are done; the same command goes on\n", out->done, out->runs);
    return out->stopped ? 130 : out->failed ? 1 : out->complete ? 0 : UNFINISHED;
}

static void default_dir(const char *file, char *out, size_t size) {
    const char *name = strrchr(file, '/');
    snprintf(out, size, "runs/%s", name ? name + 1 : file);
    char *dot = strrchr(out, '.');
    if (dot) *dot = 0;
}

int rb_cmd_compare(int argc, char **argv) {
    const struct argp argp = {
        options,     parse,
        "SPEC.yaml", "Trains variants side by side: one table of loss, bytes and time to loss.",
        NULL,        NULL,
        NULL};
    arguments a = {0};
    char dir[4096], program[4096];
    rb_err err = {0};
    rb_compare_spec s = {0};
    rb_compare_outcome out = {0};
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    default_dir(a.file, dir, sizeof dir);
    signal(SIGPIPE, SIG_IGN);
    resbm_status st = load(&a, &s, &err);
    rb_compare_options o = {.spec = &s,
                            .dir = a.dir ? a.dir : dir,
                            .program = rb_cli_program(program),
                            .budget_s = a.budget_s,
                            .jobs = a.jobs ? a.jobs : processors(),
                            .keep = a.keep,
                            .replace = a.replace,
                            .stop = rb_cli_stop(),
                            .say = rb_cli_say,
                            .ctx = stderr};
    if (!st) st = rb_compare(&o, &out, &err);
    int status = st ? rb_cli_fail(st, &err) : report(&out, o.dir);
    rb_buf_free(&out.table);
    rb_compare_spec_free(&s);
    return status;
}
