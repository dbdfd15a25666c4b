#include <argp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/stop.h"
#include "cli/words.h"
#include "core/buf.h"
#include "core/clock.h"
#include "run/record.h"
#include "run/rank.h"
#include "run/train.h"

typedef struct arguments {
    rb_cli_words words;
    const char *dir;
    bool resume, quiet, keys;
    int announce; /* this is the coordinator of ranks */
    bool everywhere;
} arguments;

static const struct argp_option options[] = {
    {"out", 'o', "DIR", 0, "folder of the run (default runs/NAME of the configuration)", 0},
    {"resume", 'r', 0, 0, "go on from the newest whole snapshot in DIR", 0},
    {"quiet", 'q', 0, 0, "no list of parameters and rules, and no memory planned", 0},
    {"keys", 'k', 0, 0, "print every configuration key, and end", 0},
    {"coordinate", 'C', "FD", OPTION_HIDDEN,
     "work as the coordinator that the first rank of an MPI job starts", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o':
        a->dir = arg;
        break;
    case 'r':
        a->resume = true;
        break;
    case 'q':
        a->quiet = true;
        break;
    case 'k':
        a->keys = true;
        break;
    case 'C':
        if (!rb_rank_announce(arg, &a->announce, &a->everywhere))
            argp_error(state, "--coordinate is for the first rank of an MPI job");
        break;
    default:
        return key == ARGP_KEY_END && a->keys ? 0 : rb_cli_words_parse(&a->words, key, arg, state);
    }
    return 0;
}

static resbm_status load(const arguments *a, rb_config *c, rb_err *err) {
    RB_TRY(rb_cli_words_read(&a->words, c, err));
    return rb_config_validate(c, err);
}

/* DIR/fault.txt: mpirun may have ended its output before the coordinator has found out who died. */
static void note_fault(const char *dir, resbm_status st, const rb_err *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/fault.txt", dir);
    if (!st) {
        remove(path);
        return;
    }
    FILE *f = fopen(path, "w");
    if (!f) return;
    fprintf(f, "%s\n", err->text);
    fclose(f);
}

static resbm_status train(const arguments *a, const rb_config *c, const char *dir, rb_err *err) {
    char program[4096];
    rb_record *rec;
    rb_train_summary sum;
    if (!a->resume) RB_TRY(rb_config_check_tokenizer(c, err));
    RB_TRY(rb_make_dirs(dir, err));
    RB_TRY(rb_record_open(c, dir, stderr, a->quiet, &rec, err));
    rb_train_options o = {.cfg = c,
                          .dir = dir,
                          .program = rb_cli_program(program),
                          .begun_ns = rb_process_start_ns(),
                          .resume = a->resume,
                          .announce = a->announce,
                          .everywhere = a->everywhere,
                          .stop = a->announce ? rb_cli_stop_quietly() : rb_cli_stop(),
                          .hooks = rb_record_hooks(rec)};
    resbm_status st = rb_train(&o, &sum, err);
    rb_err late = {0};
    if (a->announce) note_fault(dir, st, err);
    bool whole = (st == RESBM_OK && !sum.nothing_left) || (st == RESBM_E_CANCELLED && sum.stopped_early);
    resbm_status closed = rb_record_close(rec, &sum, whole, st ? &late : err);
    if (st || closed || sum.nothing_left) return st ? st : closed;
    printf("%lld steps, %lld tokens", (long long)sum.steps, (long long)sum.tokens);
    if (sum.has_val) printf(", validation loss %.4f", sum.val_loss);
    printf(", %.0f tokens/s, %s\n", sum.tokens_per_s, dir);
    return RESBM_OK;
}

/* A rank of engine: mpi; the first one starts the coordinator with this command's own words. */
static int be_rank(const rb_config *c, int argc, char **argv) {
    char program[4096];
    rb_err err = {0};
    bool told;
    int status, n = 0;
    char **words = calloc((size_t)argc + 4, sizeof *words);
    if (!words)
        return rb_cli_fail(rb_fail(&err, RESBM_E_MEMORY, "no memory for the coordinator's words"), &err);
    words[n++] = (char *)rb_cli_program(program);
    words[n++] = "train";
    words[n++] = "--coordinate";
    words[n++] = "{announce}";
    for (int i = 1; i < argc; i++) words[n++] = argv[i];
    rb_rank_options o = {.cfg = c, .program = words[0], .argv = words};
    resbm_status st = rb_rank_main(&o, &told, &status, &err);
    free(words);
    if (st && !told) rb_cli_fail(st, &err);
    return status;
}

static void default_dir(const char *file, char *out, size_t size) {
    const char *name = strrchr(file, '/');
    snprintf(out, size, "runs/%s", name ? name + 1 : file);
    char *dot = strrchr(out, '.');
    if (dot) *dot = 0;
}

static int print_keys(void) {
    rb_buf page = {0};
    rb_err err = {0};
    resbm_status st = rb_config_reference(&page, &err);
    if (!st) fputs(page.data, stdout);
    rb_buf_free(&page);
    return st ? rb_cli_fail(st, &err) : 0;
}

int rb_cmd_train(int argc, char **argv) {
    const struct argp argp = {
        options, parse, "RUN.yaml [section.key=value ...]", "Trains a model as a pipeline of stages.", NULL,
        NULL,    NULL};
    arguments a = {0};
    char dir[4096];
    rb_err err = {0};
    if (!rb_cli_words_init(&a.words, argc, "configurations", "name a configuration (RUN.yaml)") ||
        argp_parse(&argp, argc, argv, 0, NULL, &a))
        return 2;
    if (a.keys) return print_keys();
    rb_config *c = calloc(1, sizeof *c);
    if (!c) return rb_cli_fail(rb_fail(&err, RESBM_E_MEMORY, "no memory for a configuration"), &err);
    default_dir(a.words.name, dir, sizeof dir);
    signal(SIGPIPE, SIG_IGN);
    resbm_status st = load(&a, c, &err);
    bool silent = st == RESBM_E_CONFIG && rb_rank_of_process() > 0; /* the first rank says it */
    if (!st && !strcmp(c->engine, "mpi") && !a.announce) {
        int status = be_rank(c, argc, argv);
        free(c);
        rb_cli_words_free(&a.words);
        return status;
    }
    if (!st) st = train(&a, c, a.dir ? a.dir : dir, &err);
    free(c);
    rb_cli_words_free(&a.words);
    if (silent) {
        rb_rank_let_the_first_speak();
        return 1;
    }
    return st ? rb_cli_fail(st, &err) : 0;
}
