/* report, bench, doctor, verify. */
#include "cli/cli.h"
int rb_cmd_report(int argc, char **argv) { (void)argc, (void)argv; return 2; }
int rb_cmd_bench(int argc, char **argv) { (void)argc, (void)argv; return 2; }
int rb_cmd_doctor(int argc, char **argv) { (void)argc, (void)argv; return 2; }
int rb_cmd_verify(int argc, char **argv) { (void)argc, (void)argv; return 2; }
