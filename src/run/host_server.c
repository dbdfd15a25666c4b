/* The server's configuration after a change of who takes part, until the server is known to have it: a signal that was delivered, or
 * a command that ended well, says nothing of a configuration that was refused, or is still to be read. Each one has a key that no
 * other had, of a user who may do nothing; when that user can connect, the server has the configuration, its other users included. */
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "run/host.h"

#define PATIENCE (15 * RB_SEC)
#define AGAIN    (4 * RB_SEC) /* a server that was just starting may have missed the signal */

static int list_users(rb_host *h, const rb_server_user *probe, rb_server_user *users) {
    int n = 2;
    memcpy(users, h->fixed, sizeof h->fixed);
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members; i++) {
        if (*h->member[i].revoked) continue;
        users[n].role = RB_ROLE_PARTICIPANT;
        snprintf(users[n].name, sizeof users[n].name, "%s", h->member[i].name);
        snprintf(users[n].public_key, sizeof users[n].public_key, "%s", h->member[i].public_key);
        n++;
    }
    pthread_mutex_unlock(&h->lock);
    users[n++] = *probe;
    return n;
}

static resbm_status connect_once(const rb_access *probe, rb_err *err) {
    rb_carrier *c = NULL;
    resbm_status st = rb_access_connect(probe, rb_now_ns() + RB_SEC, NULL, NULL, &c, err);
    if (!st) rb_carrier_close(c, rb_now_ns());
    return st;
}

static resbm_status fail_untold(const rb_server_config *c, const char *why, rb_err *err) {
    return rb_fail(
        err, RESBM_E_TIMEOUT,
        "the server does not know its new configuration (%s/server.conf): %s. Until it does, who has joined "
        "since cannot connect, and who was revoked can",
        c->dir, why);
}

/* One that does not run is being started anew by the keeper, and reads what is written by then: waited for like any other. */
static resbm_status reload(const rb_server_config *c, rb_err *err) {
    resbm_status st = rb_server_reload(c, err);
    return st == RESBM_E_STATE ? RESBM_OK : st;
}

static resbm_status wait_until_known(rb_host *h, const rb_server_config *c, const rb_access *probe,
                                     int64_t log_bytes, rb_err *err) {
    int64_t begin = rb_now_ns(), told = begin;
    bool foreign = c->load && *c->load, clerk = atomic_load(&h->clerking);
    char words[400], why[160];
    rb_err ignored;
    snprintf(why, sizeof why, "it had %d s to read it%s", (int)(PATIENCE / RB_SEC),
             foreign ? "; see what the command of --load does, and the server's own log" : "");
    while (!clerk || atomic_load(&h->clerking)) { /* else this process ends */
        if (!(h->probe ? h->probe : connect_once)(probe, &ignored)) return RESBM_OK;
        if (!foreign && rb_server_refuses(c->dir, log_bytes, words, sizeof words))
            return fail_untold(c, words, err);
        if (rb_now_ns() > begin + PATIENCE) break;
        rb_sleep_ns(20 * RB_MS);
        if (foreign || rb_now_ns() < told + AGAIN) continue;
        told = rb_now_ns();
        RB_TRY(reload(c, err));
    }
    return fail_untold(c, why, err);
}

static resbm_status tell(rb_host *h, rb_server_user *users, const rb_access *probe,
                         const rb_server_user *user, rb_err *err) {
    rb_server_config c = h->server;
    c.users = users;
    c.user_count = list_users(h, user, users);
    RB_TRY(rb_server_write(&c, err));
    int64_t log_bytes = rb_server_log_bytes(c.dir);
    RB_TRY(reload(&c, err));
    rb_sleep_ns(10 * RB_MS); /* most have read it by then */
    return wait_until_known(h, &c, probe, log_bytes, err);
}

resbm_status rb_host_tell_server(rb_host *h, rb_err *err) {
    rb_access probe = h->access;
    rb_server_user user = {.role = RB_ROLE_PROBE},
                   *users = calloc(RB_MOST_MEMBERS + 3, sizeof *users); /* two of the host's own, and that */
    if (!users) return rb_fail(err, RESBM_E_MEMORY, "no memory for the server's users");
    snprintf(probe.name, sizeof probe.name, "%s", RB_PROBE);
    snprintf(user.name, sizeof user.name, "%s", RB_PROBE);
    probe.malformed = NULL;
    resbm_status st = h->carrier->module->make_key(probe.seed, user.public_key, err);
    pthread_mutex_lock(&h->telling);
    if (!st) st = tell(h, users, &probe, &user, err);
    pthread_mutex_unlock(&h->telling);
    explicit_bzero(&probe, sizeof probe);
    free(users);
    return st;
}
