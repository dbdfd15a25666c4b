/* Where coordinator and stages reach each other while they start. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "run/crew.h"

static bool over_tcp(const rb_crew *c) {
    return c->o.announce > 0 || c->o.cfg->pipeline.transport == RB_TRANSPORT_TCP;
}

resbm_status rb_crew_listen(rb_crew *c, rb_listener **out, rb_err *err) {
    char address[192];
    if (c->o.outside) {
        snprintf(address, sizeof address, "nats:%s/control-%u", c->o.outside->self, c->o.epoch);
        return rb_listen_over(c->o.outside->carrier, address, out, err);
    }
    if (over_tcp(c)) {
        const char *host = c->o.cfg->pipeline.control;
        snprintf(address, sizeof address, "tcp:%s",
                 *host             ? host
                 : c->o.everywhere ? "0.0.0.0:0"
                                   : "127.0.0.1:0");
    } else {
        const char *where = getenv("TMPDIR");
        if (!where || !*where || strlen(where) > 64)
            where = "/tmp"; /* a socket's path has at most 107 bytes */
        snprintf(c->folder, sizeof c->folder, "%s/resbm-XXXXXX", where);
        if (!mkdtemp(c->folder)) {
            int why = errno;
            c->folder[0] = 0;
            return rb_fail_errno(err, why, "cannot make a folder for sockets in %s", where);
        }
        snprintf(address, sizeof address, "unix:%s/control", c->folder);
    }
    resbm_status st = rb_listen(address, out, err);
    if (st && *c->o.cfg->pipeline.control)
        return rb_err_context(err, st, "pipeline.control names no place of this machine: ");
    return st;
}

/* Once all have joined nothing is left in it; before, whoever is killed leaves its socket. */
void rb_crew_remove_sockets(rb_crew *c) {
    char path[192];
    if (!*c->folder) return;
    for (int i = -1; i < c->stages; i++) {
        if (i < 0)
            snprintf(path, sizeof path, "%s/control", c->folder);
        else
            snprintf(path, sizeof path, "%s/%d", c->folder, i);
        unlink(path);
    }
    rmdir(c->folder);
    c->folder[0] = 0;
}

void rb_crew_stage_address(const rb_crew *c, int stage, char *out, size_t size) {
    const rb_pipeline_config *p = &c->o.cfg->pipeline;
    if (c->o.outside)
        snprintf(out, size, "nats:%s/stage-%u-%d", c->o.outside->who(c->o.outside->ctx, stage), c->o.epoch,
                 stage);
    else if (!over_tcp(c))
        snprintf(out, size, "unix:%s/%d", c->folder, stage);
    else if (p->addresses)
        snprintf(out, size, "tcp:%s", p->address[stage]);
    else
        snprintf(out, size, "tcp:127.0.0.1:0");
}

/* Others dial it there: in another's place it would have them believe that the other is it. */
resbm_status rb_crew_check_address(rb_crew *c, int stage, const json_t *told, rb_err *err) {
    char own[192], name[RB_WHO_TEXT];
    const char *address = json_string_value(told);
    if (!c->o.outside) return RESBM_OK;
    rb_crew_stage_address(c, stage, own, sizeof own);
    if (address && !strcmp(address, own)) return RESBM_OK;
    rb_crew_accuse(c, stage, true, RESBM_E_FORMAT);
    return rb_fail(err, RESBM_E_FORMAT, "%s sent the address \"%.150s\", its own is \"%s\"",
                   rb_who_at(name, stage, c->places), address ? address : "", own);
}
