/* guard PROGRAM ...: becomes PROGRAM, which ends when the process that started this one does, however that ends. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "cli/cli.h"

int rb_cmd_guard(int argc, char **argv) {
    if (argc < 2) return 2;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    execv(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}
