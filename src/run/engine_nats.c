#include "run/engine_nats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/clock.h"
#include "run/access.h"
#include "run/server.h"

struct rb_engine_nats {
    rb_crew_outside crew;
    const rb_config *cfg;
    const char *program;
    char dir[4096];
    rb_access access;      /* of the coordinator */
    int workers;           /* processes: stages and their replicas */
    rb_access *stage;      /* (workers) */
    rb_server_user *users; /* (workers + 1), the coordinator last */
    rb_child server;
};

static const char *who(void *ctx, int stage) {
    rb_engine_nats *e = ctx;
    return e->stage[stage].name;
}

static resbm_status start_stage(void *ctx, int stage, const char *control, uint64_t token, rb_child *out,
                                rb_err *err) {
    rb_engine_nats *e = ctx;
    char *access;
    RB_TRY(rb_access_print(&e->stage[stage], &access, err));
    resbm_status st = rb_spawn_stage(e->program, e->cfg->pipeline.launcher, control, stage, e->workers, token,
                                     access, out, err);
    explicit_bzero(access, strlen(access));
    free(access);
    return st;
}

static resbm_status make_user(const rb_carrier_module *m, const char *name, rb_server_role role,
                              const char *url, rb_access *a, rb_server_user *u, rb_err *err) {
    *a = (rb_access){.run = "local"};
    *u = (rb_server_user){.role = role};
    snprintf(a->url, sizeof a->url, "%s", url);
    snprintf(a->name, sizeof a->name, "%s", name);
    snprintf(u->name, sizeof u->name, "%s", name);
    return m->make_key(a->seed, u->public_key, err);
}

static resbm_status make_users(rb_engine_nats *e, const rb_carrier_module *m, const char *url, rb_err *err) {
    int n = e->workers;
    char name[32];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "stage-%d", i);
        RB_TRY(make_user(m, name, RB_ROLE_PARTICIPANT, url, &e->stage[i], &e->users[i], err));
    }
    return make_user(m, "coordinator", RB_ROLE_COORDINATOR, url, &e->access, &e->users[n], err);
}

static resbm_status start_server(rb_engine_nats *e, rb_err *err) {
    const rb_carrier_module *m;
    int port;
    char url[64];
    RB_TRY(rb_carrier_module_load("nats", &m, err));
    RB_TRY(rb_make_dirs(e->dir, err));
    RB_TRY(rb_free_port("127.0.0.1", &port, err));
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", port);
    RB_TRY(make_users(e, m, url, err));
    rb_server_config c = {.dir = e->dir,
                          .host = "127.0.0.1",
                          .port = port,
                          .run = "local",
                          .users = e->users,
                          .user_count = e->workers + 1};
    RB_TRY(rb_server_write(&c, err));
    RB_TRY(rb_server_start(e->program, e->dir, true, &e->server, err));
    resbm_status st =
        rb_access_connect(&e->access, rb_now_ns() + 15 * RB_SEC, NULL, NULL, &e->crew.carrier, err);
    rb_children_poll(&e->server, 1);
    if (!st || !e->server.ended) return st;
    char words[400];
    rb_server_last_words(e->dir, words, sizeof words);
    return rb_fail(err, RESBM_E_PEER, "nats-server ended at once: %s", words);
}

resbm_status rb_engine_nats_open(const rb_config *cfg, const char *program, const char *dir,
                                 rb_engine_nats **out, const rb_crew_outside **crew, rb_err *err) {
    rb_engine_nats *e = calloc(1, sizeof *e);
    size_t n = (size_t)rb_workers(cfg);
    *out = e;
    if (e) e->workers = (int)n;
    if (e) e->stage = calloc(n, sizeof *e->stage);
    if (e) e->users = calloc(n + 1, sizeof *e->users);
    if (!e || !e->stage || !e->users) return rb_fail(err, RESBM_E_MEMORY, "no memory for engine nats");
    e->cfg = cfg;
    e->program = program;
    char *whole = realpath(dir, NULL);
    snprintf(e->dir, sizeof e->dir, "%s/server", whole ? whole : dir);
    free(whole);
    e->crew = (rb_crew_outside){.ctx = e, .self = "coordinator", .who = who, .start = start_stage};
    *crew = &e->crew;
    return start_server(e, err);
}

void rb_engine_nats_close(rb_engine_nats *e) {
    static const char *const files[] = {"server.conf", "server.log", "server.out", "server.pid"};
    char path[4200];
    if (!e) return;
    rb_carrier_close(e->crew.carrier, rb_now_ns() + RB_SEC / 5);
    if (e->server.pid) rb_children_end(&e->server, 1, rb_now_ns());
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", e->dir, files[i]);
        unlink(path);
    }
    rmdir(e->dir);
    if (e->stage) explicit_bzero(e->stage, (size_t)e->workers * sizeof *e->stage);
    free(e->stage);
    free(e->users);
    free(e);
}
