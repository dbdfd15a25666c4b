#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include "cli/cli.h"
#include "data/prepare.h"

typedef struct arguments {
    rb_prepare_options o;
    const char **input;
} arguments;

static const struct argp_option options[] = {
    {"out", 'o', "DIR", 0, "folder of the shards (default corpus)", 0},
    {"tokenizer", 't', "SPEC", 0, "bytes, a SentencePiece .model, or a tokenizer.json (default bytes)", 0},
    {"val", 'v', "SHARE", 0, "share of the text kept for validation (default 0.02)", 0},
    {"shard-tokens", 's', "N", 0, "tokens per shard at most (default 100000000)", 0},
    {"max-bytes", 'm', "N", 0, "text read in all (default: everything)", 0},
    {"raw", 'r', NULL, 0, "take dictionaries (*.dict, *.dict.dz) as they are, not cleaned into prose", 0},
    {0},
};

static double share(const char *arg, struct argp_state *state) {
    char *end;
    double v = strtod(arg, &end);
    if (end == arg || *end || !(v > 0 && v <= 0.5))
        argp_error(state, "--val %s: a share above 0, at most 0.5", arg);
    return v;
}

static int64_t count(const char *arg, const char *option, struct argp_state *state) {
    char *end;
    errno = 0;
    long long v = strtoll(arg, &end, 10);
    if (end == arg || *end || errno || v < 1)
        argp_error(state, "--%s %s: a whole number from 1 on", option, arg);
    return v;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o':
        a->o.out = arg;
        break;
    case 't':
        a->o.tokenizer = arg;
        break;
    case 'v':
        a->o.val_share = share(arg, state);
        break;
    case 's':
        a->o.shard_tokens = count(arg, "shard-tokens", state);
        break;
    case 'm':
        a->o.max_bytes = count(arg, "max-bytes", state);
        break;
    case 'r':
        a->o.raw = true;
        break;
    case ARGP_KEY_ARG:
        a->input[a->o.count++] = arg;
        break;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "name at least one text file");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int rb_cmd_data(int argc, char **argv) {
    const struct argp argp = {options, parse, "TEXT...", "Text files (plain or gzip) to token shards.",
                              NULL,    NULL,  NULL};
    arguments a = {.o = {.out = "corpus", .tokenizer = "bytes"},
                   .input = calloc((size_t)argc, sizeof *a.input)};
    rb_prepare_result r;
    rb_err err = {0};
    a.o.inputs = a.input;
    if (!a.input || argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = rb_data_prepare(&a.o, &r, &err);
    free(a.input);
    if (st) return rb_cli_fail(st, &err);
    printf("%s: %lld training and %lld validation tokens (vocabulary %lld) from %.1f MB of text\n", a.o.out,
           (long long)r.tokens[0], (long long)r.tokens[1], (long long)r.vocab,
           (double)(r.bytes[0] + r.bytes[1]) * 1e-6);
    return 0;
}
