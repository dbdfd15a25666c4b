/* stuck PID SECONDS: a process's first thread stands still for so long, its others go on: it lives, and comes no further. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    pid_t pid = argc == 3 ? (pid_t)atoi(argv[1]) : 0;
    if (!pid || ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0)) {
        perror("stuck");
        return 1;
    }
    waitpid(pid, NULL, __WALL);
    int status, left = 100 * atoi(argv[2]);
    while (left-- > 0 && waitpid(pid, &status, WNOHANG | __WALL) != pid) usleep(10000);
    return 0; /* it goes on, or has ended: its parent hears of that behind us */
}
