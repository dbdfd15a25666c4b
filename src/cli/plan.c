#include <argp.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/number.h"
#include "cli/words.h"
#include "run/plan.h"
#include "run/workers.h"

typedef struct arguments {
    rb_cli_words words;
    const char *machines, *trace;
    const char **boundary, **schedule;
    int boundaries, schedules;
    bool json, stages, own, occupies, balance;
    double seconds;
} arguments;

enum { key_occupies = 300 };

static const struct argp_option options[] = {
    {"machines", 'm', "FILE", 0, "list of machines, one per stage, and the relay between them (YAML)", 0},
    {"boundary", 'b', "NAME", 0, "plan this boundary: own, or KIND[-RATIO][-CODEC] (again for more)", 0},
    {"schedule", 'S', "NAME", 0, "plan this schedule (again for more)", 0},
    {"own", 'o', 0, 0, "only the run's own boundary and schedule", 0},
    {"balance", 'B', 0, 0, "one segment per stage, blocks shared out by speed and memory", 0},
    {"stages", 's', 0, 0, "memory and time stage by stage", 0},
    {"latency-occupies", key_occupies, 0, 0, "the wire is busy for the latency too", 0},
    {"trace", 'T', "TRACE.JSON", 0,
     "put what is predicted of the run's own settings beside what a run measured", 0},
    {"seconds", 't', "S", 0,
     "how long a segment is measured here, where no FLOP/s are stated (default 0.2, with --own 0.5)", 0},
    {"json", 'j', 0, 0, "everything, for programs", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'm':
        a->machines = arg;
        break;
    case 'b':
        a->boundary[a->boundaries++] = arg;
        break;
    case 'S':
        a->schedule[a->schedules++] = arg;
        break;
    case 'o':
        a->own = true;
        break;
    case 'B':
        a->balance = true;
        break;
    case 'T':
        a->trace = arg;
        break;
    case 's':
        a->stages = true;
        break;
    case 'j':
        a->json = true;
        break;
    case 't':
        a->seconds = rb_cli_real("seconds", arg, 0, 60, state);
        break;
    case key_occupies:
        a->occupies = true;
        break;
    default:
        return rb_cli_words_parse(&a->words, key, arg, state);
    }
    return 0;
}

static resbm_status load(const arguments *a, rb_config *c, rb_machine **machine, rb_relay *relay,
                         bool *relayed, rb_err *err) {
    RB_TRY(rb_cli_words_read(&a->words, c, err));
    RB_TRY(rb_config_validate(c, err));
    if (!a->machines) return RESBM_OK;
    *machine = calloc((size_t)rb_workers(c), sizeof **machine);
    if (!*machine)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld machines", (long long)c->pipeline.stages);
    return rb_machines_load(a->machines, c, rb_workers(c), *machine, relay, relayed, err);
}

static void say(void *ctx, const char *line) {
    (void)ctx;
    fprintf(stderr, "resbm: %s\n", line);
}

static resbm_status plan(const arguments *a, rb_config *c, rb_err *err) {
    rb_machine *machine = NULL;
    rb_relay relay = {0};
    bool relayed = false;
    rb_run_plan p = {0};
    rb_plan_events events = {0};
    rb_plan_notice notice = {.say = say};
    rb_buf out = {0};
    resbm_status st = load(a, c, &machine, &relay, &relayed, err);
    if (st) {
        free(machine);
        return st;
    }
    const char *own[] = {"own"}, *schedule[] = {c->pipeline.schedule};
    rb_plan_options o = {.cfg = c,
                         .machine = machine,
                         .relay = relayed ? &relay : NULL,
                         .boundaries = a->own ? own : a->boundary,
                         .boundary_count = a->own ? 1 : a->boundaries,
                         .schedules = a->own ? schedule : a->schedule,
                         .schedule_count = a->own ? 1 : a->schedules,
                         .latency_occupies = a->occupies,
                         .notice = &notice,
                         .keep_cut = a->own || a->balance,
                         .events = a->trace ? &events : NULL,
                         .seconds = a->seconds >= 0 ? a->seconds
                                    : a->own        ? 0.5
                                                    : 0.2};
    rb_config *balanced = a->balance ? malloc(sizeof *balanced) : NULL;
    if (a->balance) {
        st = balanced ? rb_plan_balance(&o, balanced, err)
                      : rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
        o.cfg = balanced;
    }
    if (!st) st = rb_plan_make(&o, &p, err);
    if (!st && a->json)
        st = rb_plan_json(&o, &p, &out, err);
    else if (!st)
        rb_plan_print(&o, &p, a->stages, &out);
    if (!st) st = rb_buf_status(&out, err);
    if (!st && a->trace && !events.count)
        st = rb_fail(
            err, RESBM_E_CONFIG,
            "--trace: nothing was predicted of the run's own boundary and schedule; ask for them with "
            "--own");
    if (!st && a->trace) st = rb_plan_write_trace(a->trace, &events, err);
    if (!st) fputs(out.data, stdout);
    free(events.event);
    rb_buf_free(&out);
    rb_plan_free(&p);
    free(balanced);
    free(machine);
    return st;
}

int rb_cmd_plan(int argc, char **argv) {
    const struct argp argp = {
        options,
        parse,
        "RUN.yaml [section.key=value ...]",
        "Predicts step time, bytes, waiting and memory per schedule and boundary, before anything "
        "runs.",
        NULL,
        NULL,
        NULL};
    size_t n = (size_t)argc;
    arguments a = {
        .boundary = calloc(n, sizeof *a.boundary), .schedule = calloc(n, sizeof *a.schedule), .seconds = -1};
    rb_config *c = calloc(1, sizeof *c);
    rb_err err = {0};
    bool room = rb_cli_words_init(&a.words, argc, "configurations", "name a configuration (RUN.yaml)");
    if (!c || !room || !a.boundary || !a.schedule || argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = plan(&a, c, &err);
    free(c);
    rb_cli_words_free(&a.words);
    free(a.boundary);
    free(a.schedule);
    return st ? rb_cli_fail(st, &err) : 0;
}
