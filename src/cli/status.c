#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli/cli.h"
#include "core/clock.h"
#include "run/host.h"

typedef struct arguments {
    const char *dir, *who;
    bool json, revoke;
    char found[280];
} arguments;

/* No access is read from either folder. */
static resbm_status not_read(const char *dir, const char *host, rb_err *err) {
    const char *folders[] = {dir, host};
    for (int i = 0; i < 2; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/access.json", folders[i]);
        if (!access(path, R_OK) || errno != EACCES) continue;
        return rb_fail(err, RESBM_E_ARG,
                       "cannot read %s: Permission denied; it belongs to whoever started resbm host or resbm "
                       "join: ask as that user",
                       path);
    }
    return rb_fail(err, RESBM_E_ARG,
                   "%s is neither the folder of a run that is hosted here nor that of a participant", dir);
}

/* One question to the run's coordinator, from the host's folder or a participant's. */
static resbm_status question(const char *dir, const char *what, const char *text, json_t **out, rb_err *err) {
    char host[4096], subject[128];
    rb_access a;
    rb_carrier *c;
    rb_buf answer = {0};
    snprintf(host, sizeof host, "%s/host", dir);
    if (rb_host_read_access(host, "access.json", &a, err) && rb_host_read_access(dir, "access.json", &a, err))
        return not_read(dir, host, err);
    snprintf(subject, sizeof subject, "%s.%s", what, a.name);
    resbm_status st = rb_access_connect(&a, rb_now_ns() + 5 * RB_SEC, NULL, NULL, &c, err);
    explicit_bzero(&a, sizeof a);
    if (st) return st;
    st = c->module->ask(c->state, subject, text, strlen(text), rb_now_ns() + 5 * RB_SEC, &answer, err);
    rb_carrier_close(c, rb_now_ns());
    *out = st ? NULL : json_loadb(answer.data, answer.len, 0, NULL);
    rb_buf_free(&answer);
    if (!st && !*out) st = rb_fail(err, RESBM_E_FORMAT, "the coordinator's answer is not well-formed");
    const char *refused = json_string_value(json_object_get(*out, "refused"));
    return refused ? rb_fail(err, RESBM_E_STATE, "%s", refused) : st;
}

/* Without a folder: the only participant's that lies here. */
static const char *only_participant(char out[280]) {
    int n = 0;
    DIR *d = opendir(".");
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[300];
        snprintf(path, sizeof path, "%s/access.json", e->d_name);
        if (!strncmp(e->d_name, "resbm-", 6) && !access(path, F_OK) && !n++)
            snprintf(out, 280, "%s", e->d_name);
    }
    if (d) closedir(d);
    return n == 1 ? out : NULL;
}

static const char *text_of(const json_t *j, const char *key) {
    const char *s = json_string_value(json_object_get(j, key));
    return s ? s : "";
}

static double number_of(const json_t *j, const char *key) {
    return json_number_value(json_object_get(j, key));
}

static void print(const json_t *j) {
    const json_t *list = json_object_get(j, "participants"), *p;
    size_t i;
    printf("step %.0f of %.0f, epoch %.0f, %s; steps done again and found the same: %.0f\n\n",
           number_of(j, "step"), number_of(j, "steps"), number_of(j, "epoch"), text_of(j, "doing"),
           number_of(j, "again"));
    printf("%-10s %-20s %-8s %5s %8s %7s %9s %9s %8s %8s %8s %7s %8s\n", "name", "machine", "state", "stage",
           "GFLOP/s", "memory", "up", "down", "ms", "sent", "received", "steps", "computed");
    json_array_foreach((json_t *)list, i, p) {
        char stage[12] = "-";
        if (number_of(p, "stage") >= 0) snprintf(stage, sizeof stage, "%.0f", number_of(p, "stage"));
        printf("%-10s %-20.20s %-8s %5s %8.0f %5.1f G %4.0f Mb/s %4.0f Mb/s %8.1f %5.1f MB %5.1f MB %7.0f "
               "%6.0f s%s%s\n",
               text_of(p, "name"), text_of(p, "label"), text_of(p, "state"), stage, number_of(p, "gflops"),
               number_of(p, "memory") * 1e-9, number_of(p, "up_bits") * 1e-6,
               number_of(p, "down_bits") * 1e-6, number_of(p, "latency_s") * 1e3, number_of(p, "sent") * 1e-6,
               number_of(p, "received") * 1e-6, number_of(p, "steps"), number_of(p, "busy_s"),
               *text_of(p, "reason") ? "  " : "", text_of(p, "reason"));
    }
    if (number_of(j, "unused") > 0)
        printf("\n%.0f more %s asked to join and not come yet\n", number_of(j, "unused"),
               number_of(j, "unused") > 1 ? "machines have" : "machine has");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    if (key == 'j')
        a->json = true;
    else if (key == ARGP_KEY_ARG && !a->dir)
        a->dir = arg;
    else if (key == ARGP_KEY_ARG && a->revoke && !a->who)
        a->who = arg;
    else if (key == ARGP_KEY_END && !a->revoke && !a->dir && !(a->dir = only_participant(a->found)))
        argp_error(
            state,
            "name the run's folder (resbm host --out DIR), or the one that join made here (resbm-RUN)");
    else if (key == ARGP_KEY_END && a->revoke && !a->who)
        argp_error(state, "name the run's folder and the participant");
    else if (key == ARGP_KEY_END)
        return 0;
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

int rb_cmd_status(int argc, char **argv) {
    static const struct argp_option options[] = {{"json", 'j', 0, 0, "as the coordinator says it", 0}, {0}};
    const struct argp argp = {
        options, parse, "[DIR]", "How a run across machines stands, and who takes part in it.",
        NULL,    NULL,  NULL};
    arguments a = {0};
    rb_err err = {0};
    json_t *j = NULL;
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = question(a.dir, "status", "{}", &j, &err);
    if (!st && a.json) json_dumpf(j, stdout, JSON_COMPACT);
    if (!st && a.json) puts("");
    if (!st && !a.json) print(j);
    json_decref(j);
    return st ? rb_cli_fail(st, &err) : 0;
}

int rb_cmd_revoke(int argc, char **argv) {
    const struct argp argp = {NULL,
                              parse,
                              "DIR PARTICIPANT",
                              "Cuts a participant off from a run that is hosted here, at once and for good.",
                              NULL,
                              NULL,
                              NULL};
    arguments a = {.revoke = true};
    rb_err err = {0};
    json_t *j = NULL;
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st = question(a.dir, "revoke", a.who, &j, &err);
    json_decref(j);
    if (!st) printf("%s is cut off\n", a.who);
    return st ? rb_cli_fail(st, &err) : 0;
}
