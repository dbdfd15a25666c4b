/* The keeper: makes keys and certificate once, then sees to it that server and coordinator run. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/clock.h"
#include "data/sampler.h"
#include "run/host.h"
#include "run/invitation.h"
#include "run/pid_lock.h"
#include "run/reach.h"

#define STOPPED_NS                                                                                           \
    (3 * RB_SEC / 2) /* a server or coordinator that a signal has stopped for so long is started anew */

enum { LEAST_ROOM = 1 << 20 /* bytes of disk without which neither server nor coordinator can start */ };

typedef struct keeper {
    const rb_host_options *o;
    const rb_carrier_module *module;
    char dir[4096], server_dir[4096];
    char host[256], announce[256];
    int port, announced_port;
    rb_buf reach; /* what is to be said of who reaches the server; empty: everybody does */
    rb_child server, coordinator;
    int64_t started_ns[2];
    bool again;              /* somebody has a key of the run: its server stays where it is */
    char listen[300];        /* where it listens, if no option says so */
    bool foreign;            /* the server is somebody else's */
    char id[40], before[40]; /* of the coordinator that runs, and of the one before, which has ended */
    int quick[2];            /* how often it ended soon after its start, in a row */
    int lock;                /* host/pid, open and locked: one keeper at a time */
    int64_t looked_ns;       /* when, at the disk; */
    bool was_full;           /* it was full then, and there has not been room since */
    int told;                /* how often the coordinator that runs was told that the user asked to stop */
} keeper;

static void say(const keeper *k, const char *text) {
    fprintf(k->o->out, "resbm host: %s\n", text);
    fflush(k->o->out);
}

/* Free bytes of the disk under the run's folder; INFINITY where its file system does not say. */
static double room(const keeper *k) {
    struct statvfs v;
    if (statvfs(k->dir, &v) || !v.f_blocks) return INFINITY;
    return (double)(geteuid() ? v.f_bavail : v.f_bfree) * (double)v.f_frsize;
}

/* "" or, with `before` in front, that the disk is full, which is remembered. */
static const char *full(keeper *k, const char *before, char out[300]) {
    double bytes = room(k);
    *out = 0;
    k->was_full |= bytes < LEAST_ROOM;
    if (bytes < LEAST_ROOM)
        snprintf(out, 300, "%sthe disk of %.200s is full (%.0f KB free): make room", before, k->dir,
                 bytes / 1024);
    return out;
}

static resbm_status read_address(keeper *k, rb_err *err) {
    RB_TRY(rb_reach_split(k->o->listen ? k->o->listen : k->listen, "--listen", 4222, k->host, &k->port, err));
    snprintf(k->announce, sizeof k->announce, "%s", k->host);
    if (k->o->announce)
        RB_TRY(rb_reach_split(k->o->announce, "--announce", 0, k->announce, &k->announced_port, err));
    if (!strcmp(k->announce, "0.0.0.0") || !strcmp(k->announce, "::"))
        return rb_fail(err, RESBM_E_ARG,
                       "with --listen %s, --announce has to say by which name or address participants "
                       "reach this machine",
                       k->host);
    if (!k->port) RB_TRY(rb_free_port(k->host, &k->port, err));
    if (!k->announced_port) k->announced_port = k->port;
    return RESBM_OK;
}

/* A server that is there already: by which certificate it is checked. */
static resbm_status read_foreign(keeper *k, rb_buf *certificate, rb_err *err) {
    const rb_host_options *o = k->o;
    if (strncmp(o->server, "tls://", 6) || !o->server[6] || strlen(o->server) > 270)
        return rb_fail(err, RESBM_E_ARG, "--server is to be tls://HOST:PORT, not \"%s\"", o->server);
    if (!o->authority || !o->load)
        return rb_fail(err, RESBM_E_ARG,
                       "a server that is there already is used with --ca FILE, the certificate it is checked "
                       "by, and --load "
                       "COMMAND, which has it read %s/server.conf again: participants come and go, and a "
                       "server whose users "
                       "stay as they are lets nobody in",
                       k->server_dir);
    if (strlen(o->load) > 1000)
        return rb_fail(err, RESBM_E_ARG, "--load is longer than 1000 bytes; put it into a script");
    RB_TRY(rb_read_file(o->authority, 4000, certificate, err));
    return RESBM_OK;
}

static resbm_status write_server(keeper *k, rb_err *err) {
    json_t *j = json_pack("{s:s, s:i, s:s*}", "host", k->host, "port", k->port, "load",
                          k->foreign ? k->o->load : NULL);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    resbm_status st = text ? rb_host_write(k->server_dir, "server.json", text, err)
                           : rb_fail(err, RESBM_E_MEMORY, "no memory to write server.json");
    free(text);
    json_decref(j);
    return st;
}

static resbm_status write_access(keeper *k, const char *file, const rb_access *a, rb_err *err) {
    char *text;
    RB_TRY(rb_access_print(a, &text, err));
    resbm_status st = rb_host_write(k->server_dir, file, text, err);
    explicit_bzero(text, strlen(text));
    free(text);
    return st;
}

static resbm_status write_invitation(keeper *k, const rb_access *invited, rb_err *err) {
    rb_buf line = {0};
    resbm_status st = rb_invitation_print(invited, &line, err);
    rb_buf_puts(&line, "\n");
    if (!st) st = rb_host_write(k->dir, "invitation", line.data, err);
    rb_buf_free(&line);
    return st;
}

static resbm_status write_config(keeper *k, rb_err *err) {
    rb_buf text = {0};
    rb_config_print(k->o->cfg, &text);
    resbm_status st = rb_buf_status(&text, err);
    if (!st) st = rb_host_write(k->server_dir, "run.yaml", text.data, err);
    rb_buf_free(&text);
    return st;
}

/* Before anything is made, and again at each start: what is wrong with the address is to be seen here, not by whoever tries to join. A
 * server that is just ending has a moment to let go of its port. */
static resbm_status check_reach(keeper *k, rb_err *err) {
    bool everywhere;
    rb_buf_free(&k->reach);
    resbm_status st = rb_reach_check(k->host, k->port, k->announce, k->announced_port, 5 * RB_SEC, !k->again,
                                     &k->reach, &everywhere, err);
    if (!st && everywhere) rb_buf_free(&k->reach);
    return st;
}

/* Keys, certificate, and a first configuration that lets the coordinator in. */
static resbm_status make_run(keeper *k, rb_err *err) {
    rb_access own = {.name = "coordinator"}, invited;
    rb_server_user users[2] = {{.name = "coordinator", .role = RB_ROLE_COORDINATOR},
                               {.name = RB_INVITED, .role = RB_ROLE_INVITATION}};
    rb_buf certificate = {0}, key = {0};
    uint32_t number;
    k->foreign = k->o->server != NULL;
    if (!k->foreign) RB_TRY(read_address(k, err));
    if (!k->foreign) RB_TRY(check_reach(k, err));
    if (getrandom(&number, sizeof number, 0) != sizeof number) return rb_fail_errno(err, errno, "getrandom");
    RB_TRY(k->foreign ? read_foreign(k, &certificate, err)
                      : k->module->make_certificate(k->announce, &certificate, &key, err));
    snprintf(own.run, sizeof own.run, "r%08x", number);
    char address[260];
    snprintf(own.url, sizeof own.url, "tls://%s:%d", rb_reach_bracket(k->announce, address),
             k->announced_port);
    if (k->foreign) snprintf(own.url, sizeof own.url, "%s", k->o->server);
    snprintf(own.certificate, sizeof own.certificate, "%s", certificate.data);
    invited = own;
    snprintf(invited.name, sizeof invited.name, "%s", RB_INVITED);
    resbm_status st = k->module->make_key(own.seed, users[0].public_key, err);
    if (!st) st = k->module->make_key(invited.seed, users[1].public_key, err);
    if (!st && !k->foreign) st = rb_host_write(k->server_dir, "server.pem", certificate.data, err);
    if (!st && !k->foreign) st = rb_host_write(k->server_dir, "server.key", key.data, err);
    if (!st) st = write_access(k, "invited.json", &invited, err);
    if (!st) st = write_invitation(k, &invited, err);
    rb_server_config c = {.dir = k->server_dir,
                          .host = k->host,
                          .port = k->port,
                          .run = own.run,
                          .tls = true,
                          .store = true,
                          .load = k->foreign ? k->o->load : NULL,
                          .users = users,
                          .user_count = 2};
    if (!st) st = rb_server_write(&c, err);
    if (!st && k->foreign) st = rb_server_reload(&c, err);
    if (!st) st = write_server(k, err);
    if (!st && !k->foreign)
        snprintf(own.url, sizeof own.url, "tls://%s:%d",
                 strcmp(k->host, "0.0.0.0") && strcmp(k->host, "::") ? rb_reach_bracket(k->host, address)
                                                                     : "127.0.0.1",
                 k->port);
    if (!st) st = write_access(k, "access.json", &own, err); /* last: it says that all is there */
    explicit_bzero(&own, sizeof own);
    explicit_bzero(&invited, sizeof invited);
    if (key.data) explicit_bzero(key.data, key.len);
    rb_buf_free(&key);
    rb_buf_free(&certificate);
    return st;
}

static void announce(const keeper *k, const rb_access *a) {
    char text[PATH_MAX + 200];
    rb_buf line = {0};
    rb_err err;
    snprintf(text, sizeof text, "%s/invitation", k->dir);
    fprintf(
        k->o->out,
        "resbm host: run %s, server at %s\n\nOn every machine that is to take part (%d are needed, more are "
        "spare):\n\n    resbm join INVITATION\n\n"
        "where INVITATION is this line (also in %s; whoever has it may ask to join):\n\n",
        a->run, a->url, rb_workers(k->o->cfg), text);
    if (!rb_read_file(text, RB_INVITATION_LIMIT, &line, &err)) fprintf(k->o->out, "%s\n", line.data);
    rb_buf_free(&line);
    fprintf(k->o->out,
            "Who takes part, and how it goes: resbm status %s. Ctrl-C here writes a snapshot and ends.\n\n",
            k->o->dir);
    if (k->reach.len) fprintf(k->o->out, "%s\n", k->reach.data);
    fflush(k->o->out);
}

/* "tls://NAME:4222" taken apart. */
static resbm_status read_url(const char *url, char host[256], int *port, rb_err *err) {
    return rb_reach_split(strncmp(url, "tls://", 6) ? url : url + 6, "the invitation's address", 4222, host,
                          port, err);
}

/* Has somebody a key of this run? Until then its address may be another one, for its invitation is all that goes by it. */
static bool nobody_came(const keeper *k) {
    char path[PATH_MAX];
    rb_buf text = {0};
    rb_err ignored;
    snprintf(path, sizeof path, "%s/server.conf", k->server_dir);
    bool nobody =
        !rb_read_file(path, 1 << 20, &text, &ignored) && text.data && !strstr(text.data, ".to.*.*.");
    rb_buf_free(&text);
    return nobody;
}

static resbm_status refuse_other(const keeper *k, const char *option, const char *has, rb_err *err) {
    return rb_fail(
        err, RESBM_E_STATE,
        "%s: the run in %s was begun with %s, which its participants' keys and invitations go by: leave %s "
        "out, or begin a new run in another --out",
        option, k->dir, has, option);
}

/* Options of the first start given again: they are what they were, or it is said that they cannot be changed. RESBM_E_STATE: they
 * are others. */
static resbm_status check_same_place(keeper *k, const rb_host_server *at, rb_err *err) {
    const rb_host_options *o = k->o;
    char has[600], host[256], address[260];
    int port;
    snprintf(has, sizeof has, "%s:%d", rb_reach_bracket(at->host, address), at->port);
    if (o->listen) {
        RB_TRY(rb_reach_split(o->listen, "--listen", 4222, host, &port, err));
        bool named = strcmp(host, o->listen) != 0;
        if (strcmp(host, at->host) || (named && port && port != at->port))
            return refuse_other(k, "--listen", has, err);
    }
    snprintf(has, sizeof has, "%s:%d", rb_reach_bracket(k->announce, address), k->announced_port);
    if (o->announce) {
        RB_TRY(rb_reach_split(o->announce, "--announce", k->announced_port, host, &port, err));
        if (strcmp(host, k->announce) || port != k->announced_port)
            return refuse_other(k, "--announce", has, err);
    }
    return RESBM_OK;
}

/* A foreign server's command may be another one from now on; where it is and how it is known may not. */
static resbm_status check_same_server(keeper *k, const rb_host_server *at, const rb_access *invited,
                                      rb_err *err) {
    const rb_host_options *o = k->o;
    rb_buf certificate = {0};
    bool other = false;
    if (strcmp(o->server, invited->url)) return refuse_other(k, "--server", invited->url, err);
    if (o->listen || o->announce)
        return rb_fail(err, RESBM_E_ARG,
                       "--listen and --announce are of a server that is started here, not of --server");
    if (o->authority) {
        RB_TRY(rb_read_file(o->authority, 4000, &certificate, err));
        other = strcmp(certificate.data ? certificate.data : "", invited->certificate) != 0;
        rb_buf_free(&certificate);
    }
    if (other) return refuse_other(k, "--ca", "another certificate", err);
    if (!o->load || !strcmp(o->load, at->load)) return RESBM_OK;
    if (strlen(o->load) > 1000)
        return rb_fail(err, RESBM_E_ARG, "--load is longer than 1000 bytes; put it into a script");
    return write_server(k, err);
}

/* A run that goes on keeps the server it began with. */
static resbm_status go_on(keeper *k, rb_err *err) {
    rb_host_server at;
    rb_access invited;
    k->again = !nobody_came(k);
    RB_TRY(rb_host_read_server(k->server_dir, &at, err));
    k->foreign = at.foreign;
    if (k->foreign != (k->o->server != NULL))
        return rb_fail(err, RESBM_E_STATE,
                       "the run in %s was begun %s: go on in that way, or take a new --out", k->dir,
                       k->foreign ? "on a server that is not its own (--server)" : "on a server of its own");
    RB_TRY(rb_host_read_access(k->server_dir, "invited.json", &invited, err));
    explicit_bzero(invited.seed, sizeof invited.seed);
    if (k->foreign) return check_same_server(k, &at, &invited, err);
    snprintf(k->host, sizeof k->host, "%s", at.host);
    k->port = at.port;
    RB_TRY(read_url(invited.url, k->announce, &k->announced_port, err));
    resbm_status st = check_same_place(k, &at, err);
    if (st == RESBM_E_STATE && !k->again) {
        say(k,
            "nobody has a key of this run yet: it gets another address and another invitation, and the one "
            "before is void");
        char address[260];
        snprintf(k->listen, sizeof k->listen, "%s:%d", rb_reach_bracket(at.host, address), at.port);
        k->announced_port = 0;
        return make_run(k, err);
    }
    return st ? st : check_reach(k, err);
}

/* A window of each, which is what a step takes: too few tokens, or ids beyond the vocabulary, are seen here. */
static resbm_status check_windows(const rb_config *c, const rb_shards *s, rb_err *err) {
    rb_sampler sampler;
    RB_TRY(rb_sampler_init(&sampler, s, c->model.context, (uint64_t)c->train.seed, err));
    int32_t *ids = calloc((size_t)c->model.context + 1, sizeof *ids);
    if (!ids) return rb_fail(err, RESBM_E_MEMORY, "no memory for a window of tokens");
    resbm_status st = rb_sampler_window(&sampler, 0, ids, err);
    free(ids);
    return st;
}

/* Participants get their token ids from here: what is missing is to be seen before they come. */
static resbm_status check_data(const rb_config *c, rb_err *err) {
    const char *const files[] = {c->data.train, c->data.val};
    for (int i = 0; i < 2; i++) {
        rb_shards *s = NULL;
        if (!*files[i]) continue;
        RB_TRY(rb_shards_open(files[i], c->model.vocab, &s, err));
        resbm_status st = check_windows(c, s, err);
        rb_shards_close(s);
        RB_TRY(st);
    }
    return RESBM_OK;
}

/* A second keeper would start a second server on the same port and folder. One that is just ending has a moment to do so. */
static resbm_status lock_folder(keeper *k, rb_err *err) {
    char path[PATH_MAX];
    long holder = 0;
    snprintf(path, sizeof path, "%s/pid", k->server_dir);
    resbm_status st = rb_pid_lock(path, RB_SEC, &k->lock, &holder, err);
    if (st != RESBM_E_STATE) return st;
    return rb_fail(err, RESBM_E_STATE,
                   "the run in %s is hosted already (process %ld): resbm status %s shows how it goes",
                   k->o->dir, holder, k->o->dir);
}

/* What cannot be meant leaves no folder behind. */
static resbm_status check_options(const rb_host_options *o, rb_err *err) {
    char host[256];
    int port;
    if (o->listen) RB_TRY(rb_reach_split(o->listen, "--listen", 4222, host, &port, err));
    return o->announce ? rb_reach_split(o->announce, "--announce", 0, host, &port, err) : RESBM_OK;
}

static resbm_status prepare(keeper *k, rb_err *err) {
    rb_access own;
    char path[PATH_MAX], disk[300];
    if (rb_config_flows(k->o->cfg))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "schedule %s, whose steps flow into one another, needs stages that read the data themselves: it "
            "cannot be hosted",
            k->o->cfg->pipeline.schedule);
    if (!k->o->cfg->train.save)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "train.save = false, but a hosted run goes on from its checkpoints when a participant is "
            "lost: leave it out");
    RB_TRY(check_options(k->o, err));
    RB_TRY(check_data(k->o->cfg, err));
    snprintf(path, sizeof path, "%.4000s/host/access.json", k->o->dir);
    if (access(path, F_OK)) RB_TRY(rb_config_check_tokenizer(k->o->cfg, err)); /* a run that begins */
    RB_TRY(rb_make_dirs(k->o->dir, err));
    char *whole = realpath(k->o->dir, NULL);
    snprintf(k->dir, sizeof k->dir, "%s", whole ? whole : k->o->dir);
    free(whole);
    snprintf(k->server_dir, sizeof k->server_dir, "%.4000s/host", k->dir);
    if (mkdir(k->server_dir, 0700) && errno != EEXIST)
        return rb_fail_errno(err, errno, "cannot make %s", k->server_dir);
    if (*full(k, "", disk)) return rb_fail(err, RESBM_E_IO, "%s", disk);
    RB_TRY(lock_folder(k, err));
    RB_TRY(rb_carrier_module_load("nats", &k->module, err));
    snprintf(path, sizeof path, "%s/access.json", k->server_dir);
    RB_TRY(access(path, F_OK) ? make_run(k, err) : go_on(k, err));
    RB_TRY(write_config(k, err));
    RB_TRY(rb_host_read_access(k->server_dir, "invited.json", &own, err));
    announce(k, &own);
    explicit_bzero(&own, sizeof own);
    return RESBM_OK;
}

static resbm_status start_coordinator(keeper *k, rb_err *err) {
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) != sizeof number) return rb_fail_errno(err, errno, "getrandom");
    snprintf(k->before, sizeof k->before, "%s", k->id);
    snprintf(k->id, sizeof k->id, "%016llx", (unsigned long long)number);
    char *const argv[] = {
        (char *)k->o->program,         "guard", (char *)k->o->program, "coordinate", k->dir, k->id,
        *k->before ? k->before : NULL, NULL};
    char log[PATH_MAX];
    snprintf(log, sizeof log, "%s/host.log", k->dir);
    return rb_spawn_logged(argv, log, STDIN_FILENO, &k->coordinator, err);
}

/* How it ended, and whether it may start again. Gives up on what ends at once ten times in a row. */
static resbm_status ended(keeper *k, rb_child *c, int which, const char *what, rb_err *err) {
    char how[96], text[500], disk[300];
    rb_child_describe(c, how, sizeof how);
    full(k, "; ", disk);
    k->quick[which] = rb_now_ns() - k->started_ns[which] < 3 * RB_SEC ? k->quick[which] + 1 : 0;
    snprintf(text, sizeof text, "the %s %s%s; starting it again", what, how, disk);
    if (k->quick[which] < 10) return say(k, text), RESBM_OK;
    char words[300] = "";
    if (which == 0) rb_server_last_words(k->server_dir, words, sizeof words);
    return rb_fail(err, RESBM_E_PEER, "the %s ends at once each time it is started (%s): %s%s", what, how,
                   which ? "see host.log in the run's folder" : words, disk);
}

static void kill_stopped(const keeper *k, const rb_child *c, const char *what) {
    char text[100];
    if (c->ended || !c->stopped_ns || rb_now_ns() - c->stopped_ns < STOPPED_NS) return;
    snprintf(text, sizeof text, "a signal has stopped the %s (process %d): starting it anew", what,
             (int)c->pid);
    say(k, text);
    kill(c->pid, SIGKILL);
}

/* A nats-server whose disk was full keeps nothing any more, not even where there is room again, until it is started anew. */
static void look_at_disk(keeper *k) {
    char disk[300];
    int64_t now = rb_now_ns();
    if (now < k->looked_ns + RB_SEC) return;
    k->looked_ns = now;
    bool known = k->was_full;
    if (*full(k, "", disk) && !known) say(k, disk);
    if (!k->was_full || room(k) < 4 * LEAST_ROOM) return;
    k->was_full = false;
    bool own = !k->foreign && k->server.pid;
    say(k, own ? "the disk has room again: starting the server anew" : "the disk has room again");
    if (!own) return;
    rb_children_end(&k->server, 1, now);
    k->server = (rb_child){0};
}

static resbm_status see_to(keeper *k, bool *done, int *status, rb_err *err) {
    rb_children_poll(&k->server, 1);
    rb_children_poll(&k->coordinator, 1);
    look_at_disk(k);
    kill_stopped(k, &k->server, "server");
    kill_stopped(k, &k->coordinator, "coordinator");
    if (!k->foreign && (!k->server.pid || k->server.ended)) {
        if (k->server.pid) RB_TRY(ended(k, &k->server, 0, "server", err));
        RB_TRY(rb_server_start(k->o->program, k->server_dir, true, &k->server, err));
        k->started_ns[0] = rb_now_ns();
    }
    if (k->coordinator.pid && k->coordinator.ended && WIFEXITED(k->coordinator.status) &&
        WEXITSTATUS(k->coordinator.status) != 75) {
        *done = true;
        *status = WEXITSTATUS(k->coordinator.status);
        return RESBM_OK;
    }
    if (k->told && k->coordinator.ended && WIFSIGNALED(k->coordinator.status) &&
        WTERMSIG(k->coordinator.status) == SIGTERM) { /* it had not come so far as to hear of it */
        *done = true;
        *status = 130;
        return RESBM_OK;
    }
    if (!k->coordinator.pid || k->coordinator.ended) {
        k->told = 0; /* the next one has not heard of it */
        if (k->coordinator.pid) RB_TRY(ended(k, &k->coordinator, 1, "coordinator", err));
        RB_TRY(start_coordinator(k, err));
        k->started_ns[1] = rb_now_ns();
    }
    return RESBM_OK;
}

/* Copies what the coordinator wrote since the last look to the terminal. */
static void follow(keeper *k, FILE **log) {
    char path[PATH_MAX], text[4096];
    snprintf(path, sizeof path, "%s/host.log", k->dir);
    if (!*log && (*log = fopen(path, "re"))) fseek(*log, 0, SEEK_END);
    if (!*log) return;
    clearerr(*log);
    for (size_t n; (n = fread(text, 1, sizeof text, *log)) > 0;) fwrite(text, 1, n, k->o->out);
    fflush(k->o->out);
}

/* Until it is over, or something ends at once each time. *status: the coordinator's. */
static resbm_status keep(keeper *k, int *status, rb_err *err) {
    bool done = false;
    FILE *log = NULL;
    resbm_status st = RESBM_OK;
    follow(k, &log);
    while (!done && !st) {
        st = see_to(k, &done, status, err);
        follow(k, &log);
        int asked = k->o->asked ? atomic_load(k->o->asked) : 0;
        if (asked > k->told && k->coordinator.pid && !k->coordinator.ended) {
            kill(k->coordinator.pid,
                 SIGTERM); /* the coordinator is in a group of its own, and hears of Ctrl-C from here */
            k->told = asked;
        }
        rb_sleep_ns(100 * RB_MS);
    }
    if (k->coordinator.pid) rb_children_end(&k->coordinator, 1, rb_now_ns());
    if (k->server.pid) rb_children_end(&k->server, 1, rb_now_ns());
    follow(k, &log);
    if (log) fclose(log);
    return st;
}

resbm_status rb_host_keep(const rb_host_options *o, rb_err *err) {
    keeper k = {.o = o, .lock = -1, .listen = "0.0.0.0"};
    int status = 0;
    resbm_status st = prepare(&k, err);
    rb_buf_free(&k.reach);
    if (!st) st = keep(&k, &status, err);
    if (k.lock >= 0) close(k.lock);
    if (st) return st;
    if (status == 0) return RESBM_OK;
    if (status == 130) return rb_fail(err, RESBM_E_CANCELLED, "stopped; the same command goes on");
    return rb_fail(err, RESBM_E_PEER, "the run ended with the fault above (also in %s/host.log)", k.dir);
}
