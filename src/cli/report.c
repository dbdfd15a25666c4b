#include <argp.h>
#include <stdlib.h>
#include "cli/cli.h"
#include "core/buf.h"
#include "run/run_folder.h"

typedef struct arguments {
    const char **dir, *out;
    int dirs;
} arguments;

static const struct argp_option options[] = {
    {"out", 'o', "FILE", 0, "the page (default report.html in the first folder)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o':
        a->out = arg;
        break;
    case ARGP_KEY_ARG:
        a->dir[a->dirs++] = arg;
        break;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "name at least one run's folder");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int rb_cmd_report(int argc, char **argv) {
    const struct argp argp = {
        options, parse, "DIR...", "Table and page of one run, or of several side by side.", NULL, NULL, NULL};
    arguments a = {.dir = calloc((size_t)argc, sizeof *a.dir)};
    char path[4096];
    rb_err err = {0};
    rb_buf table = {0};
    if (!a.dir || argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    snprintf(path, sizeof path, "%s/report.html", a.dir[0]);
    resbm_status st = rb_run_folders_report(a.dir, a.dirs, a.out ? a.out : path, &table, &err);
    if (!st) printf("%s\n%s\n", table.data ? table.data : "", a.out ? a.out : path);
    rb_buf_free(&table);
    free(a.dir);
    return st ? rb_cli_fail(st, &err) : 0;
}
