/* eval and generate. */
#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/number.h"
#include "cli/words.h"
#include "data/prepare.h"
#include "data/tokenizer.h"
#include "run/train.h"

enum { MAX_TOKENS = 1 << 24 };

typedef struct arguments {
    rb_cli_words words;
    const char *data, *prompt;
    int64_t sequences, n;
    double temperature, top_p;
    uint64_t seed;
} arguments;

static const struct argp_option eval_options[] = {
    {"data", 'd', "PATTERN", 0, "validation shards (default: the run's data.val)", 0},
    {"sequences", 's', "N", 0, "how many sequences (default: the run's train.eval_sequences)", 0},
    {0},
};

static const struct argp_option generate_options[] = {
    {"prompt", 'p', "TEXT", 0, "text to continue (default \"The \")", 0},
    {"tokens", 'n', "N", 0, "how many tokens (default 200)", 0},
    {"temperature", 't', "X", 0, "0 takes the likeliest token (default 0.8)", 0},
    {"top-p", 'P', "X", 0, "draws from the likeliest tokens of this much probability (default 0.95)", 0},
    {"seed", 'S', "N", 0, "of the draws (default 1)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'd':
        a->data = arg;
        break;
    case 's':
        a->sequences = rb_cli_int("sequences", arg, 1, INT32_MAX, state);
        break;
    case 'p':
        a->prompt = arg;
        break;
    case 'n':
        a->n = rb_cli_int("tokens", arg, 1, MAX_TOKENS, state);
        break;
    case 't':
        a->temperature = rb_cli_real("temperature", arg, 0, 100, state);
        break;
    case 'P':
        a->top_p = rb_cli_real("top-p", arg, 0, 1, state);
        break;
    case 'S':
        a->seed = rb_cli_uint("seed", arg, state);
        break;
    default:
        return rb_cli_words_parse(&a->words, key, arg, state);
    }
    return 0;
}

/* The checkpoint's configuration with the given overrides; links are unshaped unless an override shapes them. */
static resbm_status load(const arguments *a, rb_config *c, char folder[4096], rb_err *err) {
    rb_buf notes = {0};
    resbm_status st = rb_checkpoint_config(a->words.name, c, folder, &notes, err);
    if (notes.len) fprintf(stderr, "%s", notes.data);
    rb_buf_free(&notes);
    RB_TRY(st);
    c->link = (rb_shape_options){0};
    if (a->data) snprintf(c->data.val, sizeof c->data.val, "%s", a->data);
    RB_TRY(rb_cli_words_override(&a->words, c, err));
    return rb_config_validate(c, err);
}

static resbm_status eval(const arguments *a, rb_config *c, rb_err *err) {
    char folder[4096], program[4096];
    rb_eval_result r;
    RB_TRY(load(a, c, folder, err));
    RB_TRY(rb_eval(c, rb_cli_program(program), folder, a->sequences ? a->sequences : c->train.eval_sequences,
                   &r, err));
    printf("step %lld  loss %.9g  perplexity %.6g per token", (long long)r.step, r.loss, exp(r.loss));
    double bytes = rb_data_bytes_per_token(c->data.tokenizer, c->data.val);
    if (bytes > 0) printf("  %.6g bits per byte", r.loss / log(2) / bytes);
    printf("  (%lld tokens)\n", (long long)r.tokens);
    return RESBM_OK;
}

typedef struct writer {
    rb_tokenizer tok;
    const char *prompt; /* not yet written: a fault before the first token leaves standard output empty */
} writer;

static resbm_status emit(void *ctx, int32_t id, rb_err *err) {
    writer *w = ctx;
    rb_buf b = {0};
    resbm_status st = rb_tokenizer_decode(&w->tok, id, &b, err);
    if (w->prompt) fputs(w->prompt, stdout);
    w->prompt = NULL;
    if (!st && b.len) fwrite(b.data, 1, b.len, stdout);
    fflush(stdout);
    rb_buf_free(&b);
    return st;
}

static resbm_status generate(const arguments *a, rb_config *c, rb_err *err) {
    char folder[4096], program[4096];
    writer w = {.prompt = a->prompt};
    rb_ids ids = {0};
    RB_TRY(load(a, c, folder, err));
    resbm_status st = rb_tokenizer_open(c->data.tokenizer, &w.tok, err);
    if (st) return rb_err_context(err, st, "data.tokenizer (another one: data.tokenizer=PATH): ");
    st = rb_tokenizer_encode(&w.tok, a->prompt, strlen(a->prompt), &ids, err);
    rb_generate_options o = {.prompt = ids.data,
                             .prompt_len = ids.len,
                             .n = a->n,
                             .temperature = a->temperature,
                             .top_p = a->top_p,
                             .seed = a->seed,
                             .eos = w.tok.eos,
                             .emit = emit,
                             .ctx = &w};
    if (!st) st = rb_generate(c, rb_cli_program(program), folder, &o, err);
    if (!w.prompt) putchar('\n');
    rb_ids_free(&ids);
    rb_tokenizer_close(&w.tok);
    return st;
}

static int use(int argc, char **argv, const struct argp *argp,
               resbm_status (*what)(const arguments *, rb_config *, rb_err *)) {
    arguments a = {.prompt = "The ", .n = 200, .temperature = 0.8, .top_p = 0.95, .seed = 1};
    rb_err err = {0};
    rb_config *c = calloc(1, sizeof *c);
    bool room = rb_cli_words_init(&a.words, argc, "folders", "name a run's folder, or a step-N in it");
    if (!room || !c || argp_parse(argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = what(&a, c, &err);
    free(c);
    rb_cli_words_free(&a.words);
    return st ? rb_cli_fail(st, &err) : 0;
}

int rb_cmd_eval(int argc, char **argv) {
    const struct argp argp = {
        eval_options, parse, "DIR [section.key=value ...]", "Loss of a checkpoint.", NULL, NULL, NULL};
    return use(argc, argv, &argp, eval);
}

int rb_cmd_generate(int argc, char **argv) {
    const struct argp argp = {
        generate_options, parse, "DIR [section.key=value ...]", "Continues a text.", NULL, NULL, NULL};
    return use(argc, argv, &argp, generate);
}
