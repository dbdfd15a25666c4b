#include <argp.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/number.h"
#include "run/stage.h"

typedef struct arguments {
    const char *control;
    int stage, stages;
} arguments;

static const struct argp_option options[] = {
    {"control", 'c', "ADDRESS", 0, "of the coordinator", 0},
    {"stage", 's', "N", 0, "number of this stage", 0},
    {"stages", 'n', "N", 0, "how many there are", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    if (key == 'c')
        a->control = arg;
    else if (key == 's')
        a->stage = (int)rb_cli_int("stage", arg, 0, RB_MAX_STAGES - 1, state);
    else if (key == 'n')
        a->stages = (int)rb_cli_int("stages", arg, 1, RB_MAX_STAGES, state);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static void on_note(void *ctx, const char *text) {
    (void)ctx;
    fprintf(stderr, "resbm stage: %s\n", text);
}

int rb_cmd_stage(int argc, char **argv) {
    const struct argp argp = {options,
                              parse,
                              NULL,
                              "A stage process; its coordinator starts it and gives it the run's "
                              "secret on standard input.",
                              NULL,
                              NULL,
                              NULL};
    arguments a = {.stage = -1};
    unsigned long long token;
    char access[8192] = "";
    rb_err err = {0};
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    if (!a.control || a.stage < 0 || scanf("%16llx", &token) != 1) {
        fprintf(stderr,
                "resbm stage: needs --control, --stage, --stages and the run's secret on standard input\n");
        return 2;
    }
    if (!strncmp(a.control, "nats:", 5) && (getchar() != '\n' || !fgets(access, sizeof access, stdin))) {
        fprintf(stderr, "resbm stage: a control address of a server needs its access on standard input\n");
        return 2;
    }
    /* The coordinator prints the fault; a stage that cannot reach it is the only one to speak. */
    bool told;
    rb_stage_way way = {.control = a.control,
                        .self = a.stage,
                        .stages = a.stages,
                        .token = token,
                        .access = *access ? access : NULL,
                        .note = on_note};
    resbm_status st = rb_stage_main(&way, &told, &err);
    explicit_bzero(access, sizeof access);
    if (st && !told) fprintf(stderr, "resbm stage %d: %s\n", a.stage, err.text);
    return st == RESBM_OK ? 0 : 1;
}
