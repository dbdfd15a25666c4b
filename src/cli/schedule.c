/* Any schedule in full: its picture, what it promises, its list. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/number.h"
#include "pipeline/picture.h"
#include "pipeline/schedules.h"

typedef struct arguments {
    const char *name;
    int64_t stages, segments, microbatches, extra;
    double backward;
    bool list, picture, vertical;
} arguments;

static const struct argp_option options[] = {
    {"stages", 's', "N", 0, "stages (default 4)", 0},
    {"segments", 'g', "N", 0, "segments of the model (default: as many as the schedule needs for the stages)",
     0},
    {"microbatches", 'm', "N", 0, "microbatches of a step (default 8)", 0},
    {"extra", 'x', "N", 0, "further microbatches in flight on the first stage, against latency (default 0)",
     0},
    {"backward", 'b', "X", 0, "time of a whole backward; forward, input and weight halves take 1 (default 2)",
     0},
    {"list", 'l', 0, 0, "the list alone, as a file that pipeline.schedule: file:PATH takes", 0},
    {"vertical", 'v', 0, 0, "pipedream with vertical sync", 0},
    {"picture", 'p', 0, 0, "the picture alone", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 's':
        a->stages = rb_cli_int("stages", arg, 1, 256, state);
        break;
    case 'g':
        a->segments = rb_cli_int("segments", arg, 1, 1024, state);
        break;
    case 'm':
        a->microbatches = rb_cli_int("microbatches", arg, 1, 4096, state);
        break;
    case 'x':
        a->extra = rb_cli_int("extra", arg, 0, 4096, state);
        break;
    case 'b':
        a->backward = rb_cli_real("backward", arg, 0.01, 100, state);
        break;
    case 'l':
        a->list = true;
        break;
    case 'p':
        a->picture = true;
        break;
    case 'v':
        a->vertical = true;
        break;
    case ARGP_KEY_ARG:
        if (a->name) argp_error(state, "two schedules: %s and %s", a->name, arg);
        a->name = arg;
        break;
    case ARGP_KEY_END:
        if (!a->name) argp_error(state, "name a schedule, or file:PATH");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static resbm_status build_named(const arguments *a, rb_schedule *s, int *in_flight, rb_err *err) {
    const rb_schedule_kind *kind = rb_schedule_find(a->name);
    if (!kind)
        return rb_fail(err, RESBM_E_CONFIG,
                       "there is no schedule \"%s\"; resbm doctor lists them, or give file:PATH", a->name);
    rb_schedule_args args = {.stages = (int)a->stages,
                             .segments = (int)a->segments,
                             .microbatches = (int)a->microbatches,
                             .extra = (int)a->extra,
                             .vertical = a->vertical};
    if (!args.segments) args.segments = (int)a->stages;
    if (!a->segments && kind->check && kind->check(&args, err)) args.segments *= 2;
    return rb_schedule_build(kind, &args, s, in_flight, err);
}

/* A file says itself for how many of everything it is. */
static resbm_status build_file(const char *path, rb_schedule *s, int *in_flight, rb_err *err) {
    rb_buf text = {0};
    resbm_status st = rb_read_file(path, 16 << 20, &text, err);
    if (!st) st = rb_schedule_parse(text.data ? text.data : "", text.len, path, s, err);
    rb_schedule_args a = {.stages = s->stages, .segments = s->segments, .microbatches = s->microbatches};
    if (!st) {
        rb_schedule_free(s);
        st = rb_schedule_build_text(text.data, text.len, path, &a, s, in_flight, NULL, err);
    }
    rb_buf_free(&text);
    return st;
}

static resbm_status describe(const rb_schedule *s, const rb_sim_options *o, const int *in_flight,
                             rb_err *err) {
    rb_sim_result r;
    resbm_status st = rb_simulate(s, o, &r, err);
    if (!st) {
        printf(
            "\n%d stages, %d segments, %d microbatches; idle %.2f%%\nactivations in flight, of each segment:",
            s->stages, s->segments, s->microbatches, 100 * r.idle);
        for (int g = 0; g < s->segments; g++) printf(" %d", in_flight[g]);
        printf("\n\n");
    }
    rb_sim_free(&r);
    return st;
}

static resbm_status show(const arguments *a, const rb_schedule *s, const int *in_flight, rb_err *err) {
    rb_buf text = {0};
    rb_segment_cost *cost = calloc((size_t)s->segments, sizeof *cost);
    rb_sim_options o = {.cost = cost};
    resbm_status st =
        cost ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->segments);
    for (int g = 0; g < s->segments && cost; g++) cost[g] = (rb_segment_cost){1, a->backward, 1, 1};
    if (!st && !a->list) st = rb_schedule_picture(s, &o, 1, &text, err);
    if (!st && text.data) fputs(text.data, stdout);
    if (!st && !a->list && !a->picture) st = describe(s, &o, in_flight, err);
    rb_buf_free(&text);
    if (!st && !a->picture) {
        rb_schedule_print(s, &text);
        st = rb_buf_status(&text, err);
        if (!st) fputs(text.data, stdout);
        rb_buf_free(&text);
    }
    free(cost);
    return st;
}

int rb_cmd_schedule(int argc, char **argv) {
    const struct argp argp = {
        options,
        parse,
        "NAME|file:PATH",
        "Prints a schedule: a picture with free links, what it keeps in flight, and the list of "
        "actions of each stage (2F0: segment 2, forward, microbatch 0). A file is checked first.",
        NULL,
        NULL,
        NULL};
    arguments a = {.stages = 4, .microbatches = 8, .backward = 2};
    rb_err err = {0};
    rb_schedule s = {0};
    int in_flight[1024];
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    bool file = !strncmp(a.name, "file:", 5);
    resbm_status st =
        file ? build_file(a.name + 5, &s, in_flight, &err) : build_named(&a, &s, in_flight, &err);
    if (!st) st = show(&a, &s, in_flight, &err);
    rb_schedule_free(&s);
    return st ? rb_cli_fail(st, &err) : 0;
}
