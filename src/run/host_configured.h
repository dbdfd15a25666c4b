/* For tests of a host that has a configuration, and no server and no store. */
#ifndef RB_RUN_HOST_CONFIGURED_H
#define RB_RUN_HOST_CONFIGURED_H

#include <stdlib.h>
#include "run/host.h"
#include "run/workers.h"
#include "rb_cmocka.h"

static rb_host h; /* the one under test */

/* Fixtures: nobody is there and has a place. */
static inline int begin(void **state) {
    (void)state;
    h = (rb_host){.slow = -1, .swap_member = -1, .out = fopen("/dev/null", "w")};
    h.cfg = calloc(1, sizeof *h.cfg);
    h.member = calloc(RB_MOST_MEMBERS, sizeof *h.member);
    pthread_mutex_init(&h.lock, NULL);
    for (int w = 0; w < RB_MAX_STAGES; w++) h.seat[w] = -1;
    return h.out && h.cfg && h.member ? 0 : 1;
}

static inline int end(void **state) {
    (void)state;
    fclose(h.out);
    pthread_mutex_destroy(&h.lock);
    free(h.place);
    free(h.member);
    free(h.cfg);
    return 0;
}

/* settings: "key=value", NULL at their end. */
static inline void configured(const char *const *settings) {
    rb_err err;
    assert_ok(rb_config_defaults(h.cfg, &err), &err);
    for (int i = 0; settings[i]; i++) assert_ok(rb_config_override(h.cfg, settings[i], &err), &err);
    assert_ok(rb_config_validate(h.cfg, &err), &err);
    free(h.place);
    h.workers = rb_workers(h.cfg);
    h.place = rb_worker_places(h.cfg);
    assert_non_null(h.place);
    assert_ok(rb_host_measure_stages(&h, &err), &err);
}

#endif
