/* The control channel: JSON objects between the coordinator and its stages, each a frame of kind control.
 * "t" names the message. Doubles travel as text (17 digits, nan and inf included), so they arrive bit for bit. */
#ifndef RB_RUN_CONTROL_H
#define RB_RUN_CONTROL_H

#include <jansson.h>
#include "link/link.h"
#include "run/blame.h"

/* Sends and drops the caller's reference. */
resbm_status rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err);
/* Next message from peer (RB_PEER_ANY: *from tells). The caller drops the reference. A message {"t":"fault"} is
 * turned into the fault it carries, whose sentence begins with who sent it. After a fault *from is the stage whose it is, RB_PEER_ANY where it is this side's (a
 * deadline, a closed connection). */
resbm_status rb_control_recv(rb_link *l, int peer, int64_t deadline_ns, int *from, json_t **out, rb_err *err);
/* The same; after a fault *blame says whom it concerns, and who says so. */
resbm_status rb_control_hear(rb_link *l, int peer, int64_t deadline_ns, int *from, json_t **out,
                             rb_blame *blame, rb_err *err);
/* The same as rb_control_recv, and it must be a `type`. */
resbm_status rb_control_expect(rb_link *l, int peer, const char *type, int64_t deadline_ns, int *from,
                               json_t **out, rb_err *err);
/* The fault of a message of another type; drops it. */
resbm_status rb_control_unexpected(const rb_link *l, int from, const char *type, json_t **got, rb_err *err);

json_t *rb_json_doubles(const double *v, int n);
/* RESBM_E_FORMAT unless j is text of exactly n numbers. */
resbm_status rb_json_get_doubles(const json_t *j, double *out, int n, const char *what, rb_err *err);

#endif
