/* export: runs to formats of others. */
#include <argp.h>
#include <stdio.h>
#include "cli/cli.h"
#include "run/hf.h"

typedef struct arguments {
    const char *run, *out;
    bool hf, bf16;
} arguments;

static const struct argp_option options[] = {
    {"hf", 'f', 0, 0, "a folder for Hugging Face's transformers", 0},
    {"bf16", 'b', 0, 0, "weights in bf16 (default: f32, as in the run)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'f':
        a->hf = true;
        break;
    case 'b':
        a->bf16 = true;
        break;
    case ARGP_KEY_ARG:
        if (!a->run)
            a->run = arg;
        else if (!a->out)
            a->out = arg;
        else
            argp_error(state, "three folders: %s, %s and %s", a->run, a->out, arg);
        break;
    case ARGP_KEY_END:
        if (!a->hf) argp_error(state, "say which format: --hf RUN OUT");
        if (!a->out)
            argp_error(state, "name a run's folder (or a step-N in it) and one for the export: --hf RUN OUT");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int rb_cmd_export(int argc, char **argv) {
    const struct argp argp = {
        options, parse, "RUN OUT", "Writes a checkpoint so that other programs load it.", NULL, NULL, NULL};
    arguments a = {0};
    rb_err err = {0};
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = rb_hf_export_run(a.run, a.out, a.bf16, rb_cli_say, stdout, &err);
    return st ? rb_cli_fail(st, &err) : 0;
}
