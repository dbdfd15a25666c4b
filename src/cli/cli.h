/* Commands of the program: each file one, thin over run/. A command gets its own argv (argv[0] "resbm NAME") and
 * returns the exit status: 0; 1 a fault (its sentence is on standard error); 2 wrong use; 130 Ctrl-C. */
#ifndef RB_CLI_CLI_H
#define RB_CLI_CLI_H

#include "core/err.h"
#include "run/config.h"

typedef struct rb_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
    bool hidden;
} rb_command;

extern const rb_command rb_commands[]; /* ends with a NULL name */

int rb_cmd_data(int argc, char **argv);
int rb_cmd_train(int argc, char **argv);
int rb_cmd_eval(int argc, char **argv);
int rb_cmd_generate(int argc, char **argv);
int rb_cmd_import(int argc, char **argv);
int rb_cmd_export(int argc, char **argv);
int rb_cmd_plan(int argc, char **argv);
int rb_cmd_report(int argc, char **argv);
int rb_cmd_compare(int argc, char **argv);
int rb_cmd_bench(int argc, char **argv);
int rb_cmd_doctor(int argc, char **argv);
int rb_cmd_verify(int argc, char **argv);
int rb_cmd_schedule(int argc, char **argv);
int rb_cmd_stage(int argc, char **argv);
int rb_cmd_guard(int argc, char **argv);
int rb_cmd_host(int argc, char **argv);
int rb_cmd_coordinate(int argc, char **argv);
int rb_cmd_join(int argc, char **argv);
int rb_cmd_leave(int argc, char **argv);
int rb_cmd_status(int argc, char **argv);
int rb_cmd_revoke(int argc, char **argv);

/* Prints "resbm: sentence" and gives the exit status of a fault. */
int rb_cli_fail(resbm_status st, const rb_err *err);
/* A line of what goes on, at once; file: a FILE. Fits the callbacks that take one. */
void rb_cli_say(void *file, const char *line);
/* Path of this program, to start stages from. */
const char *rb_cli_program(char out[4096]);
/* Which build it is: its commit, with -dirty where sources were changed since; "": not known. */
const char *rb_cli_build(void);
/* A line of version and build. 0: written. */
int rb_cli_print_version(void);

#endif
