/* For tests of the host without a server or a store: members that are nobody, and a connection that is there while testing_online says so. */
#ifndef RB_RUN_HOST_TESTING_H
#define RB_RUN_HOST_TESTING_H

#include <stdlib.h>
#include "run/host.h"

static bool testing_online;

static bool testing_connected(void *state) {
    (void)state;
    return testing_online;
}

/* `out`: where it says what it says. False: there is none, or no memory. testing_end when done. */
static inline bool testing_begin(rb_host *h, int members, FILE *out) {
    static const rb_carrier_module module = {.connected = testing_connected};
    static rb_carrier carrier = {.module = &module};
    *h = (rb_host){.out = out, .carrier = &carrier, .connected = true, .members = members};
    h->member = calloc(RB_MOST_MEMBERS, sizeof *h->member);
    pthread_mutex_init(&h->lock, NULL);
    for (int i = 0; h->member && i < members; i++) h->member[i].seen = true;
    testing_online = true;
    return h->member && out;
}

static inline void testing_end(rb_host *h) {
    fclose(h->out);
    pthread_mutex_destroy(&h->lock);
    free(h->member);
}

#endif
