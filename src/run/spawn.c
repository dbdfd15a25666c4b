#include "run/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/clock.h"

extern char **environ;

enum { max_words = 64 };

/* Splits launcher at blanks into argv (words live in text), replacing {stage}. Returns the count or -1. */
static int split_launcher(const char *launcher, int stage, char *text, size_t size, char **argv) {
    size_t used = 0;
    int words = 0;
    for (const char *p = launcher; *p;) {
        while (*p == ' ') p++;
        if (!*p) break;
        if (words == max_words - 10) return -1;
        argv[words++] = text + used;
        while (*p && *p != ' ') {
            char number[16] = {*p, 0};
            bool stage_word = !strncmp(p, "{stage}", 7);
            if (stage_word) snprintf(number, sizeof number, "%d", stage);
            size_t len = strlen(number);
            if (used + len + 1 >= size) return -1;
            memcpy(text + used, number, len);
            used += len;
            p += stage_word ? 7 : 1;
        }
        text[used++] = 0;
    }
    return words;
}

int rb_spawn(char *const *argv, posix_spawn_file_actions_t *acts, int flags, pid_t *pid) {
    posix_spawnattr_t attr;
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr, (short)(POSIX_SPAWN_SETSIGMASK | flags));
    int bad = posix_spawnp(pid, argv[0], acts, &attr, argv, environ);
    posix_spawn_file_actions_destroy(acts);
    posix_spawnattr_destroy(&attr);
    return bad;
}

static int spawn_with_stdin(char **argv, int in, pid_t *pid) {
    posix_spawn_file_actions_t acts;
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_adddup2(&acts, in, 0);
    return rb_spawn(argv, &acts, 0, pid);
}

resbm_status rb_spawn_stage(const char *program, const char *launcher, const char *control, int stage,
                            int stages, uint64_t token, const char *access, rb_child *out, rb_err *err) {
    char text[4096], number[16], all[16], line[8192], *argv[max_words];
    int words = split_launcher(launcher, stage, text, sizeof text, argv);
    if (words < 0) return rb_fail(err, RESBM_E_CONFIG, "pipeline.launcher is too long: \"%s\"", launcher);
    snprintf(number, sizeof number, "%d", stage);
    snprintf(all, sizeof all, "%d", stages);
    char *own[] = {(char *)program, "stage", "--control", (char *)control, "--stage", number,
                   "--stages",      all,     NULL};
    memcpy(argv + words, own, sizeof own);
    /* OpenMP's threads spin at the end of a region; where processors are shared (more stages than cores, a computer in
     * use) a long spin takes the time away from the one that is waited for. */
    if (!getenv("OMP_WAIT_POLICY")) setenv("GOMP_SPINCOUNT", "20000", 0);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) return rb_fail_errno(err, errno, "cannot make a pipe for stage %d", stage);
    int n = snprintf(line, sizeof line, "%016llx\n%s%s", (unsigned long long)token, access ? access : "",
                     access ? "\n" : "");
    ssize_t wrote = n < (int)sizeof line ? write(ends[1], line, (size_t)n) : -1;
    explicit_bzero(line, sizeof line);
    int bad = wrote == n ? spawn_with_stdin(argv, ends[0], &out->pid) : EIO;
    close(ends[0]);
    close(ends[1]);
    out->ended = false;
    out->stopped_ns = 0;
    if (!bad) return RESBM_OK;
    out->pid = 0;
    return rb_fail_errno(err, bad, "cannot start stage %d (%s)", stage, argv[0]);
}

resbm_status rb_spawn_logged(char *const *argv, const char *log, int lock, rb_child *out, rb_err *err) {
    enum { held = 3 };
    posix_spawn_file_actions_t acts;
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_addopen(&acts, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&acts, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    posix_spawn_file_actions_adddup2(&acts, 1, 2);
    posix_spawn_file_actions_adddup2(&acts, lock, held);
    *out = (rb_child){0};
    int bad = rb_spawn(argv, &acts, POSIX_SPAWN_SETPGROUP, &out->pid);
    if (!bad) return RESBM_OK;
    out->pid = 0;
    return rb_fail_errno(err, bad, "cannot start %s %s", argv[0], argv[1]);
}

void rb_children_poll(rb_child *c, int n) {
    for (int i = 0; i < n; i++) {
        if (!c[i].pid) continue;
        while (!c[i].ended && waitpid(c[i].pid, &c[i].status, WNOHANG | WUNTRACED | WCONTINUED) == c[i].pid) {
            c[i].stopped_ns = WIFSTOPPED(c[i].status) ? rb_now_ns() : 0;
            c[i].ended = WIFEXITED(c[i].status) || WIFSIGNALED(c[i].status);
        }
    }
}

static bool all_ended(rb_child *c, int n, int64_t deadline_ns) {
    for (;;) {
        rb_children_poll(c, n);
        bool alive = false;
        for (int i = 0; i < n; i++) alive |= c[i].pid && !c[i].ended;
        if (!alive) return true;
        if (rb_now_ns() >= deadline_ns) return false;
        rb_sleep_ns(2 * RB_MS);
    }
}

static void signal_all(rb_child *c, int n, int sig) {
    for (int i = 0; i < n; i++)
        if (c[i].pid && !c[i].ended) kill(c[i].pid, sig);
}

void rb_children_end(rb_child *c, int n, int64_t deadline_ns) {
    if (all_ended(c, n, deadline_ns)) return;
    signal_all(c, n, SIGTERM);
    signal_all(c, n, SIGCONT); /* a stopped process takes its SIGTERM only when it goes on */
    if (all_ended(c, n, rb_now_ns() + RB_SEC / 2)) return;
    signal_all(c, n, SIGKILL);
    all_ended(c, n, rb_now_ns() + 5 * RB_SEC);
}

void rb_child_describe(const rb_child *c, char *out, size_t size) {
    if (WIFSIGNALED(c->status))
        snprintf(out, size, "was killed by signal %d (%s%s)", WTERMSIG(c->status),
                 strsignal(WTERMSIG(c->status)),
                 WTERMSIG(c->status) == SIGKILL ? "; the kernel does so when memory runs out" : "");
    else
        snprintf(out, size, "exited with status %d", WEXITSTATUS(c->status));
}
