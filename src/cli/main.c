#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli/cli.h"

const rb_command rb_commands[] = {
    {"data", "text files to token shards", rb_cmd_data, false},
    {"train", "train a model as a pipeline of stages", rb_cmd_train, false},
    {"eval", "loss of a checkpoint on validation data", rb_cmd_eval, false},
    {"generate", "continue a text with a checkpoint", rb_cmd_generate, false},
    {"import", "another program's checkpoint to a run", rb_cmd_import, false},
    {"export", "a checkpoint to another program's format", rb_cmd_export, false},
    {"plan", "time, bytes and memory of a run before it starts", rb_cmd_plan, false},
    {"report", "table and report.html of one run or several", rb_cmd_report, false},
    {"compare", "train variants side by side: loss, bytes, time to loss", rb_cmd_compare, false},
    {"verify", "one stage against several, bit for bit", rb_cmd_verify, false},
    {"schedule", "print a schedule: its picture and its list", rb_cmd_schedule, false},
    {"doctor", "what this build and this machine can do", rb_cmd_doctor, false},
    {"bench", "measure kernels, codec, links", rb_cmd_bench, false},
    {"host", "host a run that other machines take part in", rb_cmd_host, false},
    {"join", "take part in a run that another machine hosts", rb_cmd_join, false},
    {"status", "how a run across machines stands", rb_cmd_status, false},
    {"leave", "leave, pause or resume as a participant", rb_cmd_leave, false},
    {"revoke", "cut a participant off", rb_cmd_revoke, false},
    {"coordinate", "the coordinator of a hosted run", rb_cmd_coordinate, true},
    {"stage", "a stage process (started by the others)", rb_cmd_stage, true},
    {"guard", "a program that ends with whoever started it", rb_cmd_guard, true},
    {NULL, NULL, NULL, false},
};

int rb_cli_fail(resbm_status st, const rb_err *err) {
    fprintf(stderr, "resbm: %s\n", *err->text ? err->text : resbm_status_text(st));
    return st == RESBM_E_CANCELLED ? 130 : 1;
}

void rb_cli_say(void *file, const char *line) {
    fprintf(file, "%s\n", line);
    fflush(file);
}

const char *rb_cli_program(char out[4096]) {
    ssize_t n = readlink("/proc/self/exe", out, 4095);
    if (n <= 0) return "resbm";
    out[n] = 0;
    return out;
}

int rb_cli_print_version(void) {
    const char *build = rb_cli_build();
    return printf("resbm %s%s%s%s\n", resbm_version(), *build ? " (" : "", build, *build ? ")" : "") < 0;
}

static void usage(FILE *f) {
    fprintf(f,
            "resbm %s: trains transformer language models as a pipeline of stages over slow networks\n\n"
            "usage: resbm COMMAND [...]      (resbm COMMAND --help tells more)\n\n",
            resbm_version());
    for (const rb_command *c = rb_commands; c->name; c++)
        if (!c->hidden) fprintf(f, "  %-9s %s\n", c->name, c->summary);
}

int main(int argc, char **argv) {
    argp_err_exit_status = 2; /* wrong use, for every command */
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--version")) return rb_cli_print_version();
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        usage(stdout);
        return 0;
    }
    for (const rb_command *c = rb_commands; c->name; c++) {
        if (strcmp(c->name, argv[1])) continue;
        char name[64];
        snprintf(name, sizeof name, "resbm %s", c->name);
        argv[1] = name;
        return c->run(argc - 1, argv + 1);
    }
    fprintf(stderr, "resbm: there is no command \"%s\"; resbm --help lists them\n", argv[1]);
    return 2;
}
