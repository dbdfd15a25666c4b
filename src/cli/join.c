#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <unistd.h>
#include "cli/cli.h"
#include "core/buf.h"
#include "run/invitation.h"
#include "run/join.h"
#include "run/keys.h"

static atomic_int stop, paused;

static void on_signal(int sig) {
    if (sig == SIGUSR1)
        atomic_store(&paused, 1);
    else if (sig == SIGUSR2)
        atomic_store(&paused, 0);
    else if (atomic_fetch_add(&stop, 1) > 1) { /* it does not look */
        signal(sig, SIG_DFL);
        raise(sig);
    }
}

typedef struct arguments {
    rb_join_options o;
    const char *dir;
    bool pause, resume;
} arguments;

static const struct argp_option options[] = {
    {"dir", 'd', "DIR", 0, "folder of this participant: its key and its weights (default resbm-RUN)", 0},
    {"hours", 'h', "FROM-TO", 0, "work in these hours of the day only (local time): 22-07, 12:30-14", 0},
    {"up", 'u', "RATE", 0, "the stage sends at most so much: 20mbit", 0},
    {"max-memory", 'm', "SIZE", 0, "the stage takes at most so much: 8G", 0},
    {"name", 'n', "TEXT", 0, "what the host's list shows (default: this machine's name)", 0},
    {0},
};

static bool minute_of(const char *s, char end, int *out, const char **after) {
    char *p;
    long h = strtol(s, &p, 10), m = 0;
    if (p == s || h < 0 || h > 24) return false;
    if (*p == ':') {
        const char *from = p + 1;
        m = strtol(from, &p, 10);
        if (p == from || m < 0 || m > 59) return false;
    }
    *out = (int)(h * 60 + m) % 1440;
    *after = p + 1;
    return *p == end;
}

/* "20mbit", "8G": a number and what it is times, whatever the case; of a size also "8GB", "8GiB". */
static bool scaled(const char *s, const char *const *unit, const double *times, bool bytes, double *out) {
    char *p;
    *out = strtod(s, &p);
    if (p == s || !(*out > 0)) return false;
    for (int i = 0; unit[i]; i++) {
        size_t n = strlen(unit[i]);
        if (strncasecmp(p, unit[i], n)) continue;
        const char *rest = p + n;
        bool named = bytes && (!strcasecmp(rest, "B") || (n && !strcasecmp(rest, "iB")));
        if (!*rest || named) return *out *= times[i], true;
    }
    return false;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    static const char *const rates[] = {"bit", "kbit", "mbit", "gbit", NULL}, *const sizes[] = {"",  "K",
                                                                                                "M", "G",
                                                                                                "T", NULL};
    static const double rate[] = {1, 1e3, 1e6, 1e9}, size[] = {1, 1 << 10, 1 << 20, 1 << 30, 1099511627776.0};
    arguments *a = state->input;
    const char *after;
    switch (key) {
    case 'd':
        a->dir = arg;
        break;
    case 'n':
        a->o.label = arg;
        a->o.named = true;
        break;
    case 'h':
        if (!minute_of(arg, '-', &a->o.from_minute, &after) || !minute_of(after, 0, &a->o.to_minute, &after))
            argp_error(state, "--hours: \"%s\" is not of the form 22-07 or 12:30-14", arg);
        break;
    case 'u':
        if (!scaled(arg, rates, rate, false, &a->o.up_bits))
            argp_error(state, "--up: \"%s\" is no rate like 20mbit", arg);
        break;
    case 'm':
        if (!scaled(arg, sizes, size, true, &a->o.memory))
            argp_error(state, "--max-memory: \"%s\" is no size like 8G", arg);
        break;
    case ARGP_KEY_ARG:
        if (a->o.invitation) argp_error(state, "one invitation is enough");
        a->o.invitation = arg;
        break;
    case ARGP_KEY_END:
        if (!a->o.invitation && !a->dir)
            argp_error(state, "give the invitation that resbm host printed, or a file that holds it");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int rb_cmd_join(int argc, char **argv) {
    const struct argp argp = {options,
                              parse,
                              "INVITATION",
                              "Takes part in a run: measures the way to its host, gets a stage, downloads "
                              "its weights, trains. Needs no data "
                              "and no open port. Ctrl-C leaves; the same command joins again.",
                              NULL,
                              NULL,
                              NULL};
    char label[64] = "a machine", dir[128], program[4096];
    arguments a = {
        .o = {.label = label, .build = rb_cli_build(), .stop = &stop, .paused = &paused, .out = stderr}};
    rb_access invited;
    rb_err err = {0};
    gethostname(label, sizeof label - 1);
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = a.dir ? RESBM_OK : rb_invitation_read(a.o.invitation, &invited, &err);
    if (st) return rb_cli_fail(st, &err);
    if (!a.dir) snprintf(dir, sizeof dir, "resbm-%s", invited.run);
    a.o.dir = a.dir ? a.dir : dir;
    a.o.program = rb_cli_program(program);
    for (int i = 0; i < 4; i++) signal((int[]){SIGINT, SIGTERM, SIGUSR1, SIGUSR2}[i], on_signal);
    signal(SIGPIPE, SIG_IGN);
    st = rb_join(&a.o, &err);
    return st ? rb_cli_fail(st, &err) : 0;
}

static const struct argp_option leave_options[] = {
    {"pause", 'p', 0, 0, "give the stage up for now, and stay enrolled", 0},
    {"resume", 'r', 0, 0, "be there again after a pause", 0},
    {0},
};

static error_t parse_leave(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'p':
        a->pause = true;
        break;
    case 'r':
        a->resume = true;
        break;
    case ARGP_KEY_ARG:
        a->dir = arg;
        break;
    case ARGP_KEY_END:
        if (!a->dir) argp_error(state, "name the folder of the participant (resbm-RUN)");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* The process that holds the lock on its number; 0: nobody does, and what the file says is of one that has ended. */
static resbm_status participant(const char *path, long *pid, rb_err *err) {
    char text[32] = "";
    *pid = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        return rb_fail(
            err, RESBM_E_STATE,
            "cannot read %s: Permission denied; it belongs to whoever started resbm join: leave as "
            "that user",
            path);
    if (fd < 0) return RESBM_OK;
    bool held = flock(fd, LOCK_SH | LOCK_NB) != 0;
    ssize_t n = held ? read(fd, text, sizeof text - 1) : 0;
    close(fd);
    *pid = n > 0 ? strtol(text, NULL, 10) : 0;
    return RESBM_OK;
}

static resbm_status leave(const arguments *a, rb_err *err) {
    char path[4096];
    long pid;
    snprintf(path, sizeof path, "%s/pid", a->dir);
    RB_TRY(participant(path, &pid, err));
    if (pid >= 2 && !kill((pid_t)pid, a->pause ? SIGUSR1 : a->resume ? SIGUSR2 : SIGTERM)) return RESBM_OK;
    if (pid >= 2 && errno == EPERM)
        return rb_fail(err, RESBM_E_STATE,
                       "the participant in %s (process %ld) is another user's: leave as that user", a->dir,
                       pid);
    return rb_fail(err, RESBM_E_STATE, "no participant runs in %s", a->dir);
}

int rb_cmd_leave(int argc, char **argv) {
    const struct argp argp = {
        leave_options, parse_leave,
        "DIR",         "Has the participant of this machine in DIR leave its run, pause or go on.",
        NULL,          NULL,
        NULL};
    arguments a = {0};
    rb_err err = {0};
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = leave(&a, &err);
    return st ? rb_cli_fail(st, &err) : 0;
}
