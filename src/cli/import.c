/* import: checkpoints of others to runs. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/number.h"
#include "run/hf.h"

typedef struct arguments {
    rb_hf_import o;
    const char **set;
    bool hf;
} arguments;

static const struct argp_option options[] = {
    {"hf", 'f', 0, 0, "CHECKPOINT is a folder of Hugging Face's: config.json, safetensors, tokenizer", 0},
    {"at", 'a', "L,L,...", 0, "boundaries before these layers, counted from 0 (default: 4 segments alike)",
     0},
    {"config", 'c', "RUN.yaml", 0, "the run's other sections: data, boundary, optim, train, link", 0},
    {"calibrate", 'k', "N", 0,
     "steps without learning in which the codec's steps find their sizes (default 16)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'f':
        a->hf = true;
        break;
    case 'a':
        a->o.at = arg;
        break;
    case 'c':
        a->o.config = arg;
        break;
    case 'k':
        a->o.calibrate = (int)rb_cli_int("calibrate", arg, 0, 10000, state);
        break;
    case ARGP_KEY_ARG:
        if (strchr(arg, '='))
            a->set[a->o.sets++] = arg;
        else if (!a->o.from)
            a->o.from = arg;
        else if (!a->o.out)
            a->o.out = arg;
        else
            argp_error(state, "three folders: %s, %s and %s (an override looks like section.key=value)",
                       a->o.from, a->o.out, arg);
        break;
    case ARGP_KEY_END:
        if (!a->hf) argp_error(state, "say what to import: --hf CHECKPOINT OUT");
        if (!a->o.out)
            argp_error(state, "name a checkpoint's folder and one for the run: --hf CHECKPOINT OUT");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int rb_cmd_import(int argc, char **argv) {
    const struct argp argp = {
        options,
        parse,
        "CHECKPOINT OUT [section.key=value ...]",
        "Turns a Llama, Mistral, Qwen2 or Qwen3 checkpoint into step 0 of a run, with boundaries put between "
        "its layers that do nothing at first: their ratio narrows from 1 in training.",
        NULL,
        NULL,
        NULL};
    char program[4096];
    arguments a = {.set = calloc((size_t)argc + 1, sizeof *a.set),
                   .o = {.calibrate = 16, .note = rb_cli_say, .ctx = stdout}};
    rb_err err = {0};
    if (!a.set || argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    a.o.program = rb_cli_program(program);
    a.o.set = a.set;
    resbm_status st = rb_hf_import_run(&a.o, &err);
    free(a.set);
    if (st) return rb_cli_fail(st, &err);
    printf("go on with: resbm train %s/config.yaml --out %s --resume\n", a.o.out, a.o.out);
    return 0;
}
