/* Packets doubled, overtaken and lost on purpose, for tests of what the streams promise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/rng.h"
#include "module.h"

void rb_nats_read_mischief(rb_nats *c) {
    const char *text = getenv("RESBM_MISCHIEF");
    unsigned long long seed;
    rb_nats_mischief_plan *m = &c->mischief;
    pthread_mutex_init(&m->lock, NULL);
    if (!text ||
        sscanf(text, "seed=%llu,twice=%lf,late=%lf,lost=%lf", &seed, &m->twice, &m->late, &m->lost) != 4)
        return;
    m->seed = seed ^ c->port;
    m->any = true;
}

static double draw(rb_nats_mischief_plan *m) {
    return (double)(rb_mix64(m->seed, m->drawn++) >> 11) * 0x1p-53;
}

bool rb_nats_mischief(rb_nats *c, const char *subject, const uint8_t *p, size_t n) {
    rb_nats_mischief_plan *m = &c->mischief;
    if (!m->any) return natsConnection_Publish(c->nc, subject, p, (int)n) == NATS_OK;
    pthread_mutex_lock(&m->lock);
    bool ok = true;
    if (draw(m) < m->lost) {
        pthread_mutex_unlock(&m->lock);
        return true;
    }
    if (!m->held && draw(m) < m->late && (m->held = malloc(n))) {
        memcpy(m->held, p, n);
        m->held_bytes = n;
        snprintf(m->held_subject, sizeof m->held_subject, "%s", subject);
    } else {
        ok = natsConnection_Publish(c->nc, subject, p, (int)n) == NATS_OK;
        if (draw(m) < m->twice) natsConnection_Publish(c->nc, subject, p, (int)n);
        if (m->held) natsConnection_Publish(c->nc, m->held_subject, m->held, (int)m->held_bytes);
        free(m->held);
        m->held = NULL;
    }
    pthread_mutex_unlock(&m->lock);
    return ok;
}
