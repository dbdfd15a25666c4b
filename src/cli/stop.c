#include "cli/stop.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static atomic_int asked;

static void on_signal(int sig) {
    static const char first[] =
        "\nresbm: stopping after this step, with a snapshot; once more ends at once\n";
    int before = atomic_fetch_add(&asked, 1);
    if (before > 1) {
        signal(sig, SIG_DFL);
        raise(sig);
    } else if (!before && write(STDERR_FILENO, first, sizeof first - 1) < 0) {
        return; /* nobody reads it: the run ends all the same */
    }
}

static void on_signal_quietly(int sig) {
    (void)sig;
    atomic_fetch_add(&asked, 1);
}

const atomic_int *rb_cli_stop_quietly(void) {
    signal(SIGINT, on_signal_quietly);
    signal(SIGTERM, on_signal_quietly);
    return &asked;
}

const atomic_int *rb_cli_stop(void) {
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    return &asked;
}

void rb_cli_stop_default(void) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}
