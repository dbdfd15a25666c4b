/* Engine nats on one machine (resbm train with engine: nats): a nats-server of the run's own on a port of the loopback
 * interface, and stage processes that reach the coordinator and each other through it alone. */
#ifndef RB_RUN_ENGINE_NATS_H
#define RB_RUN_ENGINE_NATS_H

#include "run/crew.h"

typedef struct rb_engine_nats rb_engine_nats;

/* dir: of the run; the server's files live in dir/server while the run lasts. *crew is valid until close. */
resbm_status rb_engine_nats_open(const rb_config *cfg, const char *program, const char *dir,
                                 rb_engine_nats **out, const rb_crew_outside **crew, rb_err *err);
void rb_engine_nats_close(rb_engine_nats *e); /* after the crew; NULL is fine */

#endif
